"""`lazaret policy test FILE` with the real binary: what passes, what fails and how it is told, and what is no file of cases."""

import subprocess

import pytest

import support
from support import one, rows, run

PASSWORD = "a long password"
GOOD = """
# The country's cases.

[[case]]
name = "Ada sees the north, names hidden"
user = "hospital:ada"
groups = ["nurses"]
claims = { region = "north" }
query = "SELECT id, region, name, seen, at, cost, done FROM h.events"
columns = ["id", "region", "name", "seen", "at", "cost", "done"]
rows = [
  [4, "north", "NULL", 2026-03-04, 2026-03-04T10:00:00, "4.50", false],
  [2, "north", "xxx", 2026-03-02, "2026-03-02 10:00", 4.5, true],
]

[[case]]
name = "in their order"
user = "hospital:ada"
groups = ["nurses"]
claims = { region = "south" }
query = '''
SELECT id  -- with a comment at its end
FROM h.events ORDER BY id DESC  -- and another'''
ordered = true
rows = [[3], [1]]

[[case]]
name = "nobody else"
user = "hospital:bea"
query = "SELECT * FROM h.events"
error = "NOT_FOUND"
message = "lazaret.h.events"

[[case]]
name = "without a region no rows"
user = "hospital:ada"
groups = ["nurses"]
query = "SELECT * FROM h.events"
rows = []
"""


@pytest.fixture(scope="module")
def server(oidc, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), config=oidc.section) as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE SCHEMA h",
                "CREATE TABLE h.events AS SELECT value AS id, CASE WHEN value % 2 = 0 THEN 'north' ELSE 'south' END AS region, "
                "CASE WHEN value < 4 THEN 'Ana' END AS name, CAST('2026-03-01' AS DATE) + CAST(concat(CAST(value - 1 AS VARCHAR), ' days') AS INTERVAL) AS seen, "
                "TIMESTAMP '2026-03-01 10:00:00' + CAST(concat(CAST(value - 1 AS VARCHAR), ' days') AS INTERVAL) AS at, "
                "CAST(4.5 AS DECIMAL(8, 2)) AS cost, value = 2 AS done FROM generate_series(1, 4)",
                "CREATE ROLE staff",
                "GRANT ROLE staff TO GROUP 'hospital:nurses'",
                "GRANT SELECT ON TABLE h.events TO ROLE staff",
                "CREATE POLICY own_region ON TABLE h.events FOR SELECT TO ROLE staff USING (region = claim('region'))",
                "CREATE MASKING POLICY names ON TABLE h.events (name) TO ALL USING ACTION mask_alphanum",
                f"CREATE USER officer PASSWORD '{PASSWORD}'",
                'GRANT IMPERSONATE ON SYSTEM TO USER "local:officer"',
                f"CREATE USER rui PASSWORD '{PASSWORD}'",
            )
        yield server


@pytest.fixture
def policy_test(server, tmp_path):
    """Runs a file; gives the exit code, standard output and standard error."""

    def test(text, user="officer", url=None):
        path = tmp_path / "cases.toml"
        path.write_text(text)
        command = [support.binary(), "policy", "test", "cases.toml", "--url", url or server.url, "--user", user]
        env = {key: value for key, value in support.os.environ.items() if not key.startswith("LAZARET_")} | {"LAZARET_PASSWORD": PASSWORD}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return test


def test_cases_that_pass(server, policy_test):
    with server.connect() as admin:
        epoch = "SELECT count(*) FROM system.audit WHERE statement NOT LIKE 'EXECUTE AS%' AND principal = 'officer'"
        before = one(admin, epoch)
        code, out, err = policy_test(GOOD)
        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "ok    Ada sees the north, names hidden",
            "ok    in their order",
            "ok    nobody else",
            "ok    without a region no rows",
            "4 cases: 4 passed, 0 failed",
        ]
        assert one(admin, epoch) == before, "it runs nothing but EXECUTE AS"


def test_cases_that_fail_are_told_row_by_row(policy_test):
    code, out, _ = policy_test(
        GOOD.replace('"4.50", false]', '"4.51", false]').replace("rows = [[3], [1]]", "rows = [[1], [3]]").replace('error = "NOT_FOUND"', 'error = "PERMISSION_DENIED"')
    )
    assert code == 1
    assert out.splitlines() == [
        "FAIL  Ada sees the north, names hidden (cases.toml, line 4)",
        '      - [4, "north", "NULL", 2026-03-04, 2026-03-04T10:00:00, "4.51", false]',
        '      + [4, "north", "NULL", 2026-03-04, 2026-03-04T10:00:00, "4.50", false]',
        "FAIL  in their order (cases.toml, line 16)",
        "      - [1]",
        "      + [3]",
        "      - [3]",
        "      + [1]",
        "FAIL  nobody else (cases.toml, line 27)",
        "      - PERMISSION_DENIED: …lazaret.h.events…",
        '      + NOT_FOUND: table "lazaret.h.events" not found at line 2, column 15',
        "ok    without a region no rows",
        "4 cases: 1 passed, 3 failed",
    ]


def test_a_policy_that_changes_fails_its_case(server, policy_test):
    with server.connect() as admin:
        run(admin, "CREATE OR REPLACE POLICY own_region ON TABLE h.events FOR SELECT TO ROLE staff USING (true)")
        code, out, _ = policy_test(GOOD)
        run(admin, "CREATE OR REPLACE POLICY own_region ON TABLE h.events FOR SELECT TO ROLE staff USING (region = claim('region'))")
    assert code == 1
    assert "FAIL  without a region no rows" in out
    assert policy_test(GOOD)[0] == 0


def test_an_error_is_that_of_the_query(policy_test):
    """A tester without the privilege, or a misspelt user, must not make a case pass that expects an error."""
    case = "[[case]]\nname = 'c'\nuser = 'local:rui'\nquery = 'SELECT * FROM h.events'\n"
    code, out, _ = policy_test(case + "error = 'PERMISSION_DENIED'\n", user="rui")
    assert code == 1 and "cannot act as this user: PERMISSION_DENIED: IMPERSONATE on the system is required" in out
    code, out, _ = policy_test(case.replace("local:rui", "local:riu") + "error = 'NOT_FOUND'\n")
    assert code == 1 and 'cannot act as this user: NOT_FOUND: user "local:riu" not found' in out
    assert policy_test(case + "error = 'NOT_FOUND'\n")[0] == 0
    misspelt = case.replace("local:rui", "local:riu")
    code, out, _ = policy_test(misspelt + "rows = []\n" + misspelt.replace("'c'", "'d'") + "error = 'NOT_FOUND'\n")
    assert code == 1 and "2 cases: 0 passed, 2 failed" in out


def test_it_changes_nothing(server, policy_test):
    for query in ("DROP TABLE h.events", "SELECT 1; DROP TABLE h.events", "GRANT SELECT ON TABLE h.events TO USER rui"):
        code, out, _ = policy_test(f"[[case]]\nname = 'c'\nuser = 'admin'\nquery = '{query}'\nrows = []\n")
        assert code == 1 and "the query failed: INVALID_ARGUMENT" in out, query
    with server.connect() as admin:
        assert rows(admin, "SELECT count(*) FROM information_schema.tables WHERE table_name = 'events'") == [(1,)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("groups", "gruops", 1), "cases.toml:7:1: unknown field `gruops`"),
        (GOOD.replace('rows = []', 'rows = [[1], [1, 2]]'), "cases.toml:39:14: this row has 2 values, expected are 1"),
        (GOOD.replace("rows = [[3], [1]]", "rows = [[3], [1]"), "cases.toml:27:1: "),
        ("", "cases.toml:1:1: there is no [[case]]"),
    ],
    ids=["unknown key", "ragged rows", "open bracket", "empty"],
)
def test_a_bad_file_is_told_by_line(policy_test, text, said):
    code, out, err = policy_test(text)
    assert (code, out) == (2, "")
    assert said in err


def test_a_server_that_is_not_there(policy_test):
    code, _, err = policy_test(GOOD, url=f"grpc://127.0.0.1:{support.free_port()}")
    assert code == 2 and "cannot reach" in err
