"""What is constant in a policy is worked out within bounds when it is made: where it would be too large, the policy is refused,
nothing is changed, and the server goes on."""

import re

import pytest

import support
from support import failure, one, rows, run

PASSWORD = "a long password"
# Of the process, beyond what it has when the test begins: far more than the bound, far less than what is asked for.
MAX_GROWTH_KIB = 600 << 10


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE SCHEMA s",
                "CREATE TABLE s.t AS SELECT value AS n, CAST(value AS VARCHAR) AS x FROM generate_series(1, 10)",
                "CREATE TABLE s.other AS SELECT 1 AS n, 'a' AS x",
                "CREATE VIEW s.v AS SELECT n, x FROM s.t",
                f"CREATE USER rui PASSWORD '{PASSWORD}'",
                "GRANT SELECT ON SCHEMA s TO USER rui",
            )
        yield server


def highest_kib(server):
    """The most memory that the process has ever held."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1])


def assert_refused(server, admin, statement):
    """And nothing is changed; the error, for what it says."""
    stored = ["SHOW POLICIES", "SHOW MASKING POLICIES"]
    before, memory = [rows(admin, sql) for sql in stored], highest_kib(server)
    error = failure(admin, statement)
    # Neither an accident, nor a time-out.
    assert any(status in str(error) for status in ("(InvalidArgument;", "(ResourceExhausted;")), error
    assert [rows(admin, sql) for sql in stored] == before
    assert rows(admin, "SELECT status FROM system.audit WHERE statement = ? ORDER BY seq DESC LIMIT 1", [statement])[0][0] in (
        "invalid_argument",
        "resource_exhausted",
    )
    with server.connect("rui", PASSWORD) as rui:
        assert one(rui, "SELECT count(*) FROM s.t") == 10, "the first policy of a table switches its row-level security on"
    assert highest_kib(server) - memory < MAX_GROWTH_KIB
    return error


# Arguments of table functions are worked out when the policy is bound. By far too much, and more than 64 MiB.
SERIES = "n IN (SELECT value FROM generate_series(1, CAST(length({}) AS BIGINT)))"
FUNCTIONS = [
    "repeat('a', 2000000000)",
    "repeat('a', 68000000)",
    "lpad('a', 2000000000, 'b')",
    "rpad('a', 2000000000, 'b')",
    "replace(repeat('a', 100000), 'a', repeat('b', 100000))",
    "array_to_string(array_repeat('aaaaaaaa', 100000000), ',')",
    "concat(" + ", ".join(["repeat('a', 10000000)"] * 7) + ")",
]


@pytest.mark.parametrize("clause", ["TO ALL USING", "FOR INSERT TO ALL WITH CHECK"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda text: text[:24])
def test_of_a_table_function(server, admin, function, clause):
    assert_refused(server, admin, f"CREATE POLICY p ON TABLE s.t {clause} ({SERIES.format(function)})")


def test_of_a_table_function_within_bounds(admin):
    """What is refused above is refused for its size."""
    series = SERIES.format("repeat('a', 1000)")
    run(admin, f"CREATE POLICY p ON TABLE s.other TO ALL USING ({series})")
    assert one(admin, "SELECT count(*) FROM s.other") == 1
    run(admin, "DROP POLICY p ON TABLE s.other")


# Constants anywhere else.
ELSEWHERE = {
    "a comparison": "x = repeat('a', 100000000)",
    "a comparison, by far": "x = repeat('a', 2000000000)",
    "inside": "substr(repeat('a', 2000000000), 1, 1) = x",
    "a branch": "CASE WHEN n > 0 THEN x = lpad('a', 2000000000, 'b') ELSE false END",
    "a list": "x IN ('a', repeat('a', 100000000))",
    "a subquery": "EXISTS (SELECT 1 FROM s.other o WHERE o.x = repeat('a', 100000000))",
    "beside a subquery": "n IN (SELECT n FROM s.other) AND x = repeat('a', 100000000)",
    "an array": "n IN (SELECT length(array_to_string(array_repeat('aaaaaaaa', 100000000), ',')) FROM s.other)",
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_elsewhere(server, admin, case):
    try:
        assert_refused(server, admin, f"CREATE POLICY p ON TABLE s.t TO ALL USING ({ELSEWHERE[case]})")
    finally:
        run(admin, "DROP POLICY IF EXISTS p ON TABLE s.t", "ALTER TABLE s.t DISABLE ROW LEVEL SECURITY")


ON_OTHERS = {
    "a view": "CREATE POLICY p ON VIEW s.v TO ALL USING (x = repeat('a', 100000000))",
    "a mask": "CREATE MASKING POLICY m ON TABLE s.t (x) TO ALL USING (repeat('a', 100000000))",
}


@pytest.mark.parametrize("case", ON_OTHERS)
def test_on_a_view_and_of_a_mask(server, admin, case):
    try:
        assert_refused(server, admin, ON_OTHERS[case])
    finally:
        run(admin, "DROP MASKING POLICY IF EXISTS m ON TABLE s.t")
        run(admin, "DROP POLICY IF EXISTS p ON VIEW s.v", "ALTER VIEW s.v DISABLE ROW LEVEL SECURITY")
