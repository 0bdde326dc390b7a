"""EXECUTE AS USER through the driver: everything is the other one's, the audit has both, and nothing of one serves the other."""

import json

import adbc_driver_manager
import pytest

import support
from support import failure, one, rows, run, table

STATUS = adbc_driver_manager.AdbcStatusCode
PASSWORD = "a long password"

CLAIMS = {"region": "north", "sites": ["a", "b"], "level": 3}
IDENTITY = """SELECT current_user, session_user, claim('sub'), claim('region'), claims('sites'), claim('level'), is_member('nurses'),
  is_member('others'), has_role('staff'), has_role('doctors')"""
QUERIES = [
    "SELECT * FROM h.events ORDER BY id",
    "SELECT region, count(*), sum(cost) FROM h.events GROUP BY region ORDER BY region",
    "SELECT * FROM h.by_region ORDER BY region",
    "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema NOT IN ('system', 'information_schema') ORDER BY 1, 2",
    "SELECT grantee FROM information_schema.columns, (SELECT 1 AS grantee) WHERE table_name = 'events' ORDER BY ordinal_position",
    IDENTITY,
]


def as_user(user, query, groups=(), claims=None):
    groups = f"GROUPS ({', '.join(support.literal(group) for group in groups)}) " if groups else ""
    claims = f"CLAIMS {support.literal(json.dumps(claims))} " if claims else ""
    return f"EXECUTE AS USER {support.quoted(user)} {groups}{claims}{query}"


@pytest.fixture(scope="module")
def server(oidc, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), config=oidc.section) as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE SCHEMA h",
                "CREATE TABLE h.events AS SELECT value AS id, CASE WHEN value % 2 = 0 THEN 'north' ELSE 'south' END AS region, "
                "concat('Ana ', CAST(value AS VARCHAR)) AS name, value * 1.5 AS cost FROM generate_series(1, 20)",
                "CREATE TABLE h.secret AS SELECT 'nobody' AS who",
                "CREATE VIEW h.by_region AS SELECT region, count(*) AS n FROM h.events GROUP BY region",
                "CREATE ROLE staff",
                "CREATE ROLE doctors",
                "GRANT ROLE staff TO GROUP 'hospital:nurses'",
                "GRANT SELECT ON TABLE h.events TO ROLE staff",
                "GRANT SELECT ON VIEW h.by_region TO ROLE staff",
                "CREATE POLICY own_region ON TABLE h.events FOR SELECT TO ROLE staff, USER admin USING (region = claim('region') OR current_user = 'admin')",
                "CREATE MASKING POLICY names ON TABLE h.events (name) TO ALL EXCEPT USER admin USING ACTION mask_alphanum",
                f"CREATE USER \"officer\" PASSWORD '{PASSWORD}'",
                f"CREATE USER rui PASSWORD '{PASSWORD}'",
                'GRANT IMPERSONATE ON SYSTEM TO USER "local:officer"',
            )
        yield server


@pytest.fixture(scope="module")
def officer(server):
    with server.connect("officer", PASSWORD) as connection:
        yield connection


@pytest.mark.parametrize("query", QUERIES)
def test_it_sees_what_that_one_sees(server, oidc, officer, query):
    """Somebody of an identity provider, before and after a first call of its own."""
    user = "ada" if query == QUERIES[0] else "bea"
    execute = as_user(f"hospital:{user}", query, ["nurses"], CLAIMS)
    before = table(officer, execute)
    with server.connect(token=oidc.token(user, groups=["nurses"], **CLAIMS)) as connection:
        own = table(connection, query)
    assert own.num_rows > 0
    for got in (before, table(officer, execute)):
        assert got.schema == own.schema
        assert got.to_pydict() == own.to_pydict()


def test_without_groups_and_claims_there_are_none(officer):
    """They come from tokens, and are not kept."""
    assert rows(officer, as_user("hospital:ada", IDENTITY)) == [("hospital:ada", "hospital:ada", "ada", None, [], None, False, False, False, False)]
    assert failure(officer, as_user("hospital:ada", "SELECT * FROM h.events")).status_code == STATUS.NOT_FOUND


def test_errors_are_those_of_that_one(server, oidc, officer):
    for query in ("SELECT * FROM h.secret", "SELECT * FROM h.nosuch", "SELECT nosuch FROM h.events", "SELECT 1 / 0 FROM h.events", "SELECT * FROM system.audit"):
        with server.connect(token=oidc.token("ada", groups=["nurses"], **CLAIMS)) as connection:
            own = failure(connection, query)
        other = failure(officer, as_user("hospital:ada", query, ["nurses"], CLAIMS))
        assert other.status_code == own.status_code, query
        message = str(own).split("; ")[0].split(" at line")[0].split(" (id ")[0]
        assert message in str(other), query
    assert failure(officer, as_user("clinic:ada", "SELECT 1")).status_code == STATUS.INVALID_ARGUMENT
    assert failure(officer, as_user("local:nosuch", "SELECT 1")).status_code == STATUS.NOT_FOUND
    assert "is of issuer" not in str(failure(officer, as_user("hospital:ada", "SELECT nosuch", ["other:nurses"])))


def test_parameters_and_prepared_statements(officer):
    sql = as_user("hospital:ada", "SELECT id FROM h.events WHERE id > ? ORDER BY id LIMIT ?", ["nurses"], CLAIMS)
    assert rows(officer, sql, [10, 2]) == [(12,), (14,)]
    with officer.cursor() as cursor:
        assert [str(kind) for kind in cursor.adbc_prepare(sql).types] == ["int64", "int64"]
        for floor, expected in ((0, [(2,), (4,)]), (15, [(16,), (18,)])):
            cursor.execute(sql, [floor, 2])
            assert cursor.fetchall() == expected


def test_a_plan_of_one_never_serves_another(server, officer):
    """The same text, in turn, on one connection and on two."""
    for _ in range(2):
        for user, region, first in (("hospital:ada", "north", 2), ("hospital:bea", "south", 1), ("hospital:ada", "south", 1)):
            query = as_user(user, "SELECT min(id), min(current_user) FROM h.events", ["nurses"], {"region": region})
            assert rows(officer, query) == [(first, user)]
    with server.connect() as admin:
        assert one(admin, "SELECT count(*) FROM h.events") == 20
        assert one(admin, as_user("hospital:ada", "SELECT count(*) FROM h.events", ["nurses"], CLAIMS)) == 10
        assert rows(admin, "SELECT count(*), current_user FROM h.events") == [(20, "admin")]
        # Two tickets at once.
        with admin.cursor() as own, admin.cursor() as other:
            own_ticket, _ = own.adbc_execute_partitions("SELECT count(*) FROM h.events")
            other_ticket, _ = other.adbc_execute_partitions(as_user("hospital:ada", "SELECT count(*) FROM h.events", ["nurses"], CLAIMS))
            other.adbc_read_partition(other_ticket[0])
            assert other.fetchall() == [(10,)]
            own.adbc_read_partition(own_ticket[0])
            assert own.fetchall() == [(20,)]


def test_a_ticket_is_the_callers_and_stands_on_the_privilege_of_now(server):
    query = as_user("hospital:ada", "SELECT count(*) FROM h.events", ["nurses"], CLAIMS)
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        assert failure(rui, query).status_code == STATUS.UNAUTHORIZED
        run(admin, 'GRANT IMPERSONATE ON SYSTEM TO USER "local:rui"')
        with rui.cursor() as cursor, admin.cursor() as thief:
            ticket, _ = cursor.adbc_execute_partitions(query)
            with pytest.raises(adbc_driver_manager.Error):
                thief.adbc_read_partition(ticket[0])
            cursor.adbc_read_partition(ticket[0])
            assert cursor.fetchall() == [(10,)]
            ticket, _ = cursor.adbc_execute_partitions(query)
            run(admin, 'REVOKE IMPERSONATE ON SYSTEM FROM USER "local:rui"')
            with pytest.raises(adbc_driver_manager.Error, match="IMPERSONATE") as caught:
                cursor.adbc_read_partition(ticket[0])
            assert caught.value.status_code == STATUS.UNAUTHORIZED
        run(admin, 'GRANT IMPERSONATE ON SYSTEM TO USER "local:rui"')
        with rui.cursor() as cursor:
            cursor.adbc_prepare(query)
            cursor.execute(query)
            assert cursor.fetchall() == [(10,)]
            # The privilege of the other one counts at every step too.
            ticket, _ = cursor.adbc_execute_partitions(query)
            run(admin, "REVOKE SELECT ON TABLE h.events FROM ROLE staff")
            with pytest.raises(adbc_driver_manager.Error, match="not found"):
                cursor.adbc_read_partition(ticket[0])
            run(admin, "GRANT SELECT ON TABLE h.events TO ROLE staff", 'REVOKE IMPERSONATE ON SYSTEM FROM USER "local:rui"')
            with pytest.raises(adbc_driver_manager.Error, match="IMPERSONATE"):
                cursor.execute(query)


def test_the_audit_has_both(server, officer):
    with server.connect() as admin:
        marker = "SELECT count(*) AS both_of_them FROM h.events"
        rows(officer, as_user("hospital:ada", marker, ["nurses"], CLAIMS))
        failure(officer, as_user("hospital:ada", "SELECT both_of_them FROM h.secret", ["nurses"], CLAIMS))
        seen = rows(
            admin,
            "SELECT principal, issuer, subject, executed_as, decision, status, array_to_string(tables, ',') FROM system.audit "
            "WHERE statement LIKE 'EXECUTE AS%both_of_them%' ORDER BY seq",
        )
        assert seen == [
            ("officer", "local", "officer", "hospital:ada", "allow", "ok", "lazaret.h.events"),
            ("officer", "local", "officer", "hospital:ada", "deny", "not_found", "lazaret.h.secret"),
        ]
        assert one(admin, "SELECT count(*) FROM system.audit WHERE executed_as IS NOT NULL AND statement NOT LIKE 'EXECUTE AS%'") == 0


def test_masks_of_one_query_hash_under_one_key(server, officer):
    with server.connect() as admin:
        run(
            admin,
            "CREATE TABLE h.hashed AS SELECT name FROM h.events",
            "GRANT SELECT ON TABLE h.hashed TO ROLE staff",
            "CREATE MASKING POLICY m ON TABLE h.hashed (name) TO ALL USING ACTION sha256_query_local",
        )
    query = as_user("hospital:ada", "SELECT min(a.name), count(*) FROM h.hashed a JOIN h.hashed b ON a.name = b.name", ["nurses"])
    (first, count), (second, _) = rows(officer, query)[0], rows(officer, query)[0]
    assert count == 20 and first != second
