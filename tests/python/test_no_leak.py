"""A principal under policy learns what an unrestricted one learns from a filtered copy, and nothing else."""

import re

import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import support
from support import Raw, assert_same_multiset, failure, multiset, one, rows, run, table

STATUS = adbc_driver_manager.AdbcStatusCode
PASSWORD = "a long password"

# Regions 64 to 127 are rui's. What is hidden has everything that makes an expression fail, and the extremes of everything.
HIDDEN_ROWS, VISIBLE_ROWS = 1282, 640
SETUP = [
    "CREATE SCHEMA h",
    "CREATE SCHEMA other",
    """CREATE TABLE h.events AS
       SELECT id, region_id, visible, kind,
              CASE WHEN visible THEN 10 + id % 7 ELSE 5 END AS x,
              CASE WHEN visible THEN CAST(1000 + id AS VARCHAR) ELSE concat('HIDDEN-', CAST(id AS VARCHAR)) END AS secret,
              CASE WHEN visible THEN id ELSE 9223372036854775000 + id % 800 END AS big,
              CASE WHEN visible THEN id % 10 WHEN id % 2 = 0 THEN -1000000 ELSE 1000000 END AS score,
              CASE WHEN visible THEN [1, 2, 3] ELSE [] END AS list,
              CASE WHEN visible THEN {'a': id} END AS st
       FROM (SELECT value AS id, value % 192 AS region_id, value % 192 BETWEEN 64 AND 127 AS visible,
                    CASE value % 192 / 64 WHEN 0 THEN 'low' WHEN 1 THEN concat('mid', CAST(value % 3 AS VARCHAR)) ELSE 'high' END AS kind
             FROM generate_series(1, 1920) UNION ALL SELECT 5000, NULL, FALSE, 'none' UNION ALL SELECT 5001, -1, FALSE, 'none')""",
    "CREATE TABLE h.parted PARTITIONED BY (region_id) AS SELECT * FROM h.events WHERE region_id IN (1, 60, 64, 70, 127, 128, 190) OR region_id IS NULL",
    "CREATE TABLE h.copy AS SELECT * FROM h.events WHERE region_id BETWEEN 64 AND 127",
    "CREATE TABLE h.parted_copy AS SELECT * FROM h.parted WHERE region_id BETWEEN 64 AND 127",
    "CREATE TABLE h.region AS SELECT value AS region_id, concat('region ', CAST(value AS VARCHAR)) AS name FROM generate_series(0, 191)",
    "CREATE TABLE other.hers AS SELECT 1 AS hidden_column",
    "CREATE VIEW h.v AS SELECT * FROM h.events",
    "CREATE VIEW h.narrow AS SELECT id, x, secret, region_id FROM h.events WHERE x > 0",
    f"CREATE USER rui PASSWORD '{PASSWORD}'",
    f"CREATE USER eva PASSWORD '{PASSWORD}'",
    "GRANT SELECT ON TABLE h.events TO USER rui",
    "GRANT SELECT ON TABLE h.parted TO USER rui",
    "GRANT SELECT ON TABLE h.region TO USER rui",
    "GRANT SELECT ON VIEW h.v TO USER rui",
    "GRANT SELECT ON VIEW h.narrow TO USER rui",
    "CREATE POLICY states ON TABLE h.events TO USER rui USING (region_id BETWEEN 64 AND 127)",
    "CREATE POLICY states ON TABLE h.parted TO USER rui USING (region_id BETWEEN 64 AND 127)",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        with server.connect() as admin:
            run(admin, *SETUP)
        yield server


@pytest.fixture(scope="module")
def rui(server):
    with server.connect("rui", PASSWORD) as connection:
        yield connection


def test_the_setup(admin, rui):
    assert one(admin, "SELECT count(*) FROM h.copy") == VISIBLE_ROWS
    assert one(rui, "SELECT count(*) FROM h.events") == VISIBLE_ROWS
    assert rows(rui, "SELECT DISTINCT region_id FROM h.events ORDER BY 1") == [(region,) for region in range(64, 128)]


def test_nobody_is_exempt_by_rank(admin):
    for name in ("h.events", "h.parted", "h.v"):
        assert one(admin, f"SELECT count(*) FROM {name}") == 0
        assert table(admin, f"SELECT * FROM {name}").num_rows == 0


# --- the oracle: every query on the governed table and on the filtered copy ---

# Deterministic: a total order wherever rows are cut, no sums of floats.
QUERIES = [
    # what there is
    "SELECT * FROM {t}",
    "SELECT id, secret FROM {t} WHERE x > 11",
    "SELECT count(*) FROM {t}",
    "SELECT count(*), count(secret), count(st), count(DISTINCT region_id), count(DISTINCT kind) FROM {t}",
    "SELECT min(id), max(id), min(region_id), max(region_id), min(secret), max(secret), min(score), max(score) FROM {t}",
    "SELECT min(x), max(x), max(big), min(big) FROM {t}",
    "SELECT sum(score), sum(x), avg(CAST(x AS DECIMAL(9, 2))) FROM {t}",
    "SELECT region_id, count(*), max(secret) FROM {t} GROUP BY region_id",
    "SELECT kind, region_id, count(*) FROM {t} GROUP BY ROLLUP (kind, region_id)",
    "SELECT kind, count(*) FROM {t} GROUP BY kind HAVING max(score) < 100000",
    "SELECT DISTINCT kind FROM {t}",
    "SELECT kind, array_agg(secret ORDER BY id) FROM {t} GROUP BY kind",
    "SELECT string_agg(secret, ',' ORDER BY id) FROM {t} WHERE region_id < 66",
    "SELECT median(x), approx_distinct(kind) FROM {t}",
    "SELECT count(*) FILTER (WHERE secret LIKE 'HIDDEN%'), count(*) FILTER (WHERE x = 5) FROM {t}",
    # where it is cut
    "SELECT id FROM {t} ORDER BY id LIMIT 5",
    "SELECT id FROM {t} ORDER BY id DESC LIMIT 5 OFFSET 3",
    "SELECT id, score FROM {t} ORDER BY score, id LIMIT 3",
    "SELECT id, score FROM {t} ORDER BY score DESC, id LIMIT 3",
    "SELECT secret FROM {t} ORDER BY secret DESC LIMIT 1",
    "SELECT id FROM {t} ORDER BY st IS NULL DESC, region_id NULLS FIRST, id LIMIT 2",
    "SELECT count(*) FROM (SELECT * FROM {t} LIMIT 10) q",
    "SELECT count(*) FROM (SELECT * FROM {t} LIMIT 100000) q",
    "SELECT count(*) FROM (SELECT * FROM {t} OFFSET 600) q",
    "SELECT max(id) FROM (SELECT id FROM {t} ORDER BY id LIMIT 10) q",
    # what would fail on hidden rows
    "SELECT sum(1 / (x - 5)) FROM {t}",
    "SELECT id, 1 / (x - 5) FROM {t}",
    "SELECT id FROM {t} WHERE 1 / (x - 5) = 0",
    "SELECT id FROM {t} WHERE 1 / (x - 5) >= 0 AND region_id > 0",
    "SELECT id FROM {t} WHERE region_id < 64 AND 1 / (x - 5) > 0",
    "SELECT id FROM {t} WHERE region_id > 127 OR 1 / (x - 5) = 0",
    "SELECT id FROM {t} WHERE x % (x - 5) = 0",
    "SELECT id FROM {t} ORDER BY 1 / (x - 5), id LIMIT 3",
    "SELECT 1 / (x - 5) AS q, count(*) FROM {t} GROUP BY 1 / (x - 5)",
    "SELECT id FROM {t} GROUP BY id HAVING min(1 / (x - 5)) >= 0",
    "SELECT CAST(secret AS BIGINT) FROM {t}",
    "SELECT id FROM {t} WHERE CAST(secret AS BIGINT) > 1500",
    "SELECT id FROM {t} WHERE secret::BIGINT BETWEEN 0 AND 2000",
    "SELECT max(CAST(secret AS BIGINT)) FROM {t}",
    "SELECT id FROM {t} WHERE CAST(big AS INT) > 0",
    "SELECT sum(CAST(big AS INT)) FROM {t}",
    "SELECT id FROM {t} WHERE CAST(score AS TINYINT) = 3",
    "SELECT id, list[1], list[3], list[9] FROM {t}",
    "SELECT id FROM {t} WHERE list[2] = 2",
    "SELECT id FROM {t} WHERE 6 / array_length(list) = 2",
    "SELECT id, st['a'] FROM {t} WHERE st['a'] > 0",
    "SELECT id FROM {t} WHERE to_timestamp(CAST(secret AS BIGINT)) > TIMESTAMP '1970-01-01 00:00:00'",
    "SELECT CASE WHEN region_id < 64 THEN 1 / (x - x) ELSE 0 END AS v FROM {t}",
    "SELECT CASE WHEN secret LIKE 'HIDDEN%' THEN CAST(secret AS INT) ELSE x END AS v FROM {t}",
    "SELECT coalesce(NULLIF(1 / (x - 5), 0), x) AS v FROM {t}",
    # what would tell that they are there
    "SELECT id FROM {t} WHERE id = 3",
    "SELECT id FROM {t} WHERE id IN (3, 64, 65, 5000)",
    "SELECT id FROM {t} WHERE secret = 'HIDDEN-3'",
    "SELECT id FROM {t} WHERE secret LIKE 'HIDDEN%'",
    "SELECT id FROM {t} WHERE secret NOT LIKE '1%'",
    "SELECT id FROM {t} WHERE secret > 'A' OR secret < '1'",
    "SELECT id FROM {t} WHERE regexp_like(secret, '^HID')",
    "SELECT id FROM {t} WHERE starts_with(secret, 'H')",
    "SELECT id FROM {t} WHERE region_id IS NULL",
    "SELECT id FROM {t} WHERE region_id NOT BETWEEN 64 AND 127",
    "SELECT id FROM {t} WHERE region_id = 63 OR region_id = 64",
    "SELECT id FROM {t} WHERE NOT visible",
    "SELECT 1 AS e WHERE EXISTS (SELECT 1 FROM {t} s WHERE s.secret LIKE 'HIDDEN%')",
    "SELECT 1 AS e WHERE NOT EXISTS (SELECT 1 FROM {t} s WHERE s.region_id < 64)",
    "SELECT (SELECT count(*) FROM {t} s WHERE s.x = 5) AS n, (SELECT max(secret) FROM {t} s) AS m",
    "SELECT id FROM {t} WHERE x > (SELECT avg(x) FROM {t} s)",
    "SELECT id FROM {t} WHERE id IN (SELECT id FROM {t} s WHERE s.score > 5)",
    "SELECT id FROM {t} WHERE x = (SELECT min(x) FROM {t} s)",
    # joins
    "SELECT r.name, e.id FROM h.region r JOIN {t} e ON e.region_id = r.region_id",
    "SELECT r.name, e.id FROM h.region r LEFT JOIN {t} e ON e.region_id = r.region_id AND e.id < 300",
    "SELECT r.name, e.id FROM {t} e RIGHT JOIN h.region r ON e.region_id = r.region_id AND e.id < 300",
    "SELECT r.name, e.id FROM {t} e FULL JOIN h.region r ON e.region_id = r.region_id AND e.id < 300",
    "SELECT name FROM h.region r WHERE NOT EXISTS (SELECT 1 FROM {t} e WHERE e.region_id = r.region_id)",
    "SELECT name FROM h.region r WHERE r.region_id IN (SELECT e.region_id FROM {t} e)",
    "SELECT name FROM h.region r WHERE r.region_id NOT IN (SELECT e.region_id FROM {t} e)",
    "SELECT r.name, (SELECT count(*) FROM {t} e WHERE e.region_id = r.region_id) AS n FROM h.region r",
    "SELECT count(*) FROM h.region r JOIN {t} e ON r.region_id = 1 / (e.x - 5)",
    "SELECT count(*) FROM h.region r JOIN {t} e ON CAST(r.region_id + 1200 AS VARCHAR) = e.secret",
    "SELECT count(*) FROM h.region r CROSS JOIN {t} e WHERE r.region_id > e.region_id",
    "SELECT count(*) FROM {t} a JOIN {t} b ON a.x = b.x AND a.id < b.id AND a.id < 200",
    "SELECT count(*) FROM (VALUES (3), (64), (65), (5000)) AS w (id) JOIN {t} e ON e.id = w.id",
    "SELECT w.id, e.secret FROM (VALUES (3), (64), (65), (5000)) AS w (id) LEFT JOIN {t} e ON e.id = w.id",
    # set operations
    "SELECT id FROM {t} UNION SELECT region_id FROM h.region",
    "SELECT id FROM {t} WHERE id < 300 UNION ALL SELECT id FROM {t} WHERE x > 12",
    "SELECT region_id FROM h.region EXCEPT SELECT region_id FROM {t}",
    "SELECT region_id FROM h.region INTERSECT SELECT region_id FROM {t}",
    "SELECT id FROM {t} EXCEPT SELECT id FROM {t} WHERE 1 / (x - 5) > 0",
    # windows
    "SELECT id, row_number() OVER (ORDER BY id), count(*) OVER () FROM {t}",
    "SELECT id, rank() OVER (PARTITION BY kind ORDER BY score, id), lag(secret) OVER (ORDER BY id) FROM {t}",
    "SELECT id, sum(score) OVER (PARTITION BY region_id ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM {t}",
    "SELECT first_value(secret) OVER (ORDER BY score DESC, id) FROM {t} LIMIT 1",
    "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY score DESC, id) AS n FROM {t}) q WHERE n <= 3",
    # shapes
    "WITH a AS (SELECT * FROM {t}), b AS (SELECT id FROM a WHERE 1 / (x - 5) >= 0) SELECT count(*) FROM b",
    "WITH events AS (SELECT 1 AS id) SELECT id FROM events UNION ALL SELECT id FROM {t}",
    "SELECT q.* FROM (SELECT p.id FROM (SELECT id, x FROM {t} WHERE x > 10) p WHERE 1 / (p.x - 5) >= 0) q",
    "WITH RECURSIVE n AS (SELECT min(id) AS i FROM {t} UNION ALL SELECT i + 1 FROM n WHERE i < 70) SELECT count(*) FROM n JOIN {t} e ON e.id = n.i",
]

# What the restricted user reads, and where the same rows lie for the admin.
RELATIONS = {
    "table": ("h.events", "h.copy"),
    "partitioned table": ("h.parted", "h.parted_copy"),
    "view": ("h.v", "h.copy"),
    "subquery": ("(SELECT * FROM h.events)", "(SELECT * FROM h.copy)"),
}


def as_statement(connection, sql):
    """CommandStatementQuery, without a prepared statement."""
    statement = adbc_driver_manager.AdbcStatement(connection.adbc_connection)
    try:
        statement.set_sql_query(sql)
        handle, _ = statement.execute_query()
        return pa.RecordBatchReader._import_from_c(handle.address).read_all()
    finally:
        statement.close()


def with_parameters(connection, sql):
    """Prepared, with a parameter that must not make it another query."""
    return table(connection, f"SELECT * FROM ({sql}) AS bound_query WHERE CAST(? AS BIGINT) = 1", [1])


ENTRIES = {"statement": as_statement, "prepared": table, "parameters": with_parameters}


@pytest.mark.parametrize("query", QUERIES)
def test_query(query, admin, rui):
    for name, (governed, copy) in RELATIONS.items():
        wanted = multiset(table(admin, in_place(query, copy)))
        for entry in ENTRIES if name == "table" else ["prepared"]:
            if entry == "parameters" and not can_be_nested(query):
                continue
            got = ENTRIES[entry](rui, in_place(query, governed))
            assert "HIDDEN" not in str(support.renamed(got).to_pylist()), (name, entry)
            assert_same_multiset(multiset(got), wanted)


def in_place(query, relation):
    aliased = query.replace("{t} ", relation + " ").replace("{t})", relation + ")")
    return re.sub(r"\{t\}$", relation, aliased)


def can_be_nested(query):
    """Names of columns must differ in a derived table."""
    return not query.startswith("WITH RECURSIVE")


# --- plans and messages ---

# Of what lies below the barrier: the policy, the files, the columns that were not asked for, the number of hidden rows.
BELOW = [".parquet", "warehouse", "file_groups", "DataSourceExec", "predicate", "BETWEEN", ">= 64", "Int64(64)", "127", "region_id"]


@pytest.mark.parametrize("explain", ["EXPLAIN", "EXPLAIN ANALYZE"])
@pytest.mark.parametrize("query", ["SELECT id FROM h.events WHERE x = 5", "SELECT count(*) FROM h.v", "SELECT max(secret) FROM h.parted", "SELECT id FROM h.events WHERE 1 / (x - 5) > 0 ORDER BY id LIMIT 3"])
def test_explain_stops_at_the_barrier(explain, query, rui):
    text = "\n".join(line for _, line in rows(rui, f"{explain} {query}"))
    assert re.search(r"h\.events|h\.parted|h\.v", text)
    for word in BELOW:
        assert word not in text, text
    for number in (HIDDEN_ROWS, HIDDEN_ROWS + VISIBLE_ROWS):
        assert not re.search(rf"\b{number}\b", text), text
        assert f"{number / 1000:.1f} K" not in text and f"{number / 1000:.2f} K" not in text, text


def test_explain_verbose_is_refused_under_policy(rui):
    assert failure(rui, "EXPLAIN VERBOSE SELECT id FROM h.events").status_code in (STATUS.NOT_IMPLEMENTED, STATUS.UNAUTHORIZED)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 / (x - 10) FROM {t}",
        "SELECT id FROM {t} WHERE 1 / (x - 10) > 0",
        "SELECT CAST(kind AS INT) FROM {t}",
        "SELECT nope FROM {t}",
        "SELECT id FROM {t} WHERE list = 3",
        "SELECT sum(secret) FROM {t} GROUP BY nope",
    ],
)
def test_an_error_is_that_of_the_copy(query, admin, rui):
    governed, copy = failure(rui, in_place(query, "h.events")), failure(admin, in_place(query, "h.copy"))
    assert governed.status_code == copy.status_code
    assert str(governed).replace("events", "copy").replace("line 1, column", "") == str(copy).replace("line 1, column", "")
    assert "HIDDEN" not in str(governed) and "high" not in str(governed)


# --- what is not theirs does not exist ---

MISSING_AND_FORBIDDEN = [
    "SELECT * FROM {}",
    "SELECT nothing FROM {}",
    "EXPLAIN SELECT * FROM {}",
    "DESCRIBE {}",
    "SHOW COLUMNS FROM {}",
    "SHOW CREATE TABLE {}",
    "SELECT * FROM h.events JOIN {} ON TRUE",
    "SELECT id FROM h.events WHERE EXISTS (SELECT 1 FROM {})",
    "WITH a AS (SELECT * FROM {}) SELECT * FROM h.events",
    "DROP TABLE {}",
    "GRANT SELECT ON TABLE {} TO USER rui",
    "REVOKE SELECT ON TABLE {} FROM USER rui",
    "CREATE POLICY mine ON TABLE {} TO USER rui USING (TRUE)",
    "DROP POLICY states ON TABLE {}",
    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "SHOW POLICIES ON TABLE {}",
]


@pytest.mark.parametrize(("forbidden", "missing"), [("h.copy", "h.nope"), ("other.hers", "nope.hers"), ("other.hers", "other.nope")])
@pytest.mark.parametrize("statement", MISSING_AND_FORBIDDEN)
def test_missing_and_forbidden_are_the_same(statement, forbidden, missing, rui):
    errors = []
    for name in (forbidden, missing):
        error = failure(rui, statement.format(name))
        assert error.status_code == STATUS.NOT_FOUND
        text = re.sub(r"column \d+", "column n", str(error))
        errors.append(text.replace(f'"lazaret.{name}"', '"name"').replace(f'"{name}"', '"name"'))
    assert errors[0] == errors[1]


def test_schemas_that_are_not_theirs(rui):
    for statement in ("DROP SCHEMA {}", "SHOW TABLES FROM {}", "CREATE TABLE {}.t AS SELECT 1 AS a", "USE lazaret.{}"):
        errors = [re.sub(r"column \d+", "", str(failure(rui, statement.format(name)))).replace(name, "name") for name in ("other", "nope")]
        assert errors[0] == errors[1]


def test_no_way_to_the_files(rui, server):
    folder = server.data_dir / "warehouse"
    for location in (folder, next(folder.iterdir()), "/etc"):
        error = failure(rui, f"CREATE EXTERNAL TABLE h.mine STORED AS PARQUET LOCATION {support.literal(location)}")
        assert error.status_code in (STATUS.UNAUTHORIZED, STATUS.NOT_FOUND)
    error = failure(rui, "CREATE TABLE h.mine AS SELECT * FROM h.events")
    assert error.status_code == STATUS.UNAUTHORIZED


def test_information_schema_and_show_are_filtered(rui):
    theirs = {"events", "parted", "region", "v", "narrow"}
    listed = rows(rui, "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema NOT IN ('information_schema', 'system')")
    assert {name for schema, name in listed} == theirs and {schema for schema, name in listed} == {"h"}
    columns = rows(rui, "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema NOT IN ('information_schema', 'system')")
    assert {name for (name,) in columns} == theirs
    assert "hidden_column" not in {name for (name,) in rows(rui, "SELECT column_name FROM information_schema.columns")}
    schemas = {name for (name,) in rows(rui, "SELECT schema_name FROM information_schema.schemata")}
    assert "h" in schemas and "other" not in schemas
    assert {row[2] for row in rows(rui, "SHOW TABLES FROM h")} == theirs
    assert "other" not in {row[1] for row in rows(rui, "SHOW SCHEMAS")}


def test_flight_metadata_is_filtered(rui):
    catalogs = rui.adbc_get_objects(depth="all").read_all().to_pylist()
    schemas = [schema for catalog in catalogs for schema in catalog["catalog_db_schemas"]]
    assert "other" not in [schema["db_schema_name"] for schema in schemas]
    (mine,) = [schema for schema in schemas if schema["db_schema_name"] == "h"]
    assert sorted(each["table_name"] for each in mine["db_schema_tables"]) == ["events", "narrow", "parted", "region", "v"]
    with pytest.raises(adbc_driver_manager.Error) as caught:
        rui.adbc_get_table_schema("copy", catalog_filter="lazaret", db_schema_filter="h")
    assert caught.value.status_code == STATUS.NOT_FOUND
    assert str(caught.value).replace("copy", "nope") == missing_schema_of(rui, "nope")


def missing_schema_of(connection, name):
    with pytest.raises(adbc_driver_manager.Error) as caught:
        connection.adbc_get_table_schema(name, catalog_filter="lazaret", db_schema_filter="h")
    return str(caught.value)


def test_system_tables_show_only_ones_own(rui):
    assert failure(rui, "SELECT * FROM system.audit").status_code == STATUS.NOT_FOUND
    for name in ("queries", "sessions"):
        assert rows(rui, f"SELECT DISTINCT principal FROM system.{name}") == [("rui",)]
    assert rows(rui, "SELECT * FROM system.policies") == []
    grants = table(rui, "SELECT * FROM system.grants")
    assert support.multiset(grants) == support.multiset(table(rui, "SHOW GRANTS"))
    text = str(support.renamed(grants).to_pylist())
    assert "other" not in text and "h.copy" not in text
    assert "region_id BETWEEN" not in str(rows(rui, "SHOW GRANTS"))


# --- the time of check is the time of execution ---

POLICY = "CREATE OR REPLACE POLICY states ON TABLE h.events TO USER rui USING ({})"


@pytest.fixture
def restored(admin):
    yield
    run(admin, POLICY.format("region_id BETWEEN 64 AND 127"), "ALTER TABLE h.events ENABLE ROW LEVEL SECURITY")
    run(admin, "GRANT SELECT ON TABLE h.events TO USER rui")


def test_changes_between_prepare_and_execute(admin, rui, restored):
    sql = "SELECT count(*), min(region_id), max(region_id) FROM h.events"
    with rui.cursor() as cursor:
        cursor.adbc_prepare(sql)

        def executed():
            cursor.execute(sql)
            return cursor.fetchall()

        assert executed() == [(VISIBLE_ROWS, 64, 127)]
        run(admin, POLICY.format("region_id = 3"))
        assert executed() == [(10, 3, 3)]
        run(admin, "DROP POLICY states ON TABLE h.events")
        assert executed() == [(0, None, None)]
        run(admin, POLICY.format("region_id IS NULL"))
        assert executed() == [(1, None, None)]
        run(admin, "REVOKE SELECT ON TABLE h.events FROM USER rui")
        with pytest.raises(adbc_driver_manager.Error) as caught:
            executed()
        assert caught.value.status_code == STATUS.NOT_FOUND
        run(admin, "GRANT SELECT ON TABLE h.events TO USER rui", POLICY.format("region_id = 64"))
        assert executed() == [(10, 64, 64)]


def test_bound_parameters_before_a_change(admin, rui, restored):
    sql = "SELECT count(*) FROM h.events WHERE region_id BETWEEN ? AND ?"
    with rui.cursor() as cursor:
        cursor.execute(sql, [0, 1000])
        assert cursor.fetchall() == [(VISIBLE_ROWS,)]
        run(admin, POLICY.format("region_id = 3"))
        cursor.execute(sql, [0, 1000])
        assert cursor.fetchall() == [(10,)]


def test_changes_between_plan_and_fetch(server, admin, restored):
    raw = Raw(server, "rui", PASSWORD)
    sql = "SELECT count(*) AS n FROM h.events"

    def planned():
        return raw.info(sql).endpoints[0].ticket

    ticket = planned()
    run(admin, POLICY.format("region_id = 3"))
    assert raw.fetch(ticket).to_pydict() == {"n": [10]}
    ticket = planned()
    run(admin, "DROP POLICY states ON TABLE h.events")
    assert raw.fetch(ticket).to_pydict() == {"n": [0]}
    run(admin, POLICY.format("TRUE"))
    ticket = planned()
    run(admin, "REVOKE SELECT ON TABLE h.events FROM USER rui")
    with pytest.raises((flight.FlightError, pa.ArrowException)) as caught:
        raw.fetch(ticket)
    assert "not found" in str(caught.value)


def test_a_ticket_of_somebody_else_is_worthless(server, rui):
    ticket = Raw(server, "rui", PASSWORD).info("SELECT * FROM h.events").endpoints[0].ticket
    with pytest.raises((flight.FlightError, pa.ArrowException)) as caught:
        Raw(server, "eva", PASSWORD).fetch(ticket)
    assert "HIDDEN" not in str(caught.value)
    for damaged in (b"", b"x", ticket.ticket[:-1], ticket.ticket[:-1] + bytes([ticket.ticket[-1] ^ 1])):
        with pytest.raises((flight.FlightError, pa.ArrowException)):
            Raw(server, "rui", PASSWORD).fetch(flight.Ticket(damaged))


# --- how policies add up ---


def test_permissive_restrictive_and_null(server, admin):
    run(
        admin,
        "CREATE TABLE h.small AS SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (3, 'c'), (NULL, 'd')) AS t (n, s)",
        "CREATE ROLE readers",
        "GRANT ROLE readers TO USER eva",
        "GRANT SELECT ON TABLE h.small TO ROLE readers",
    )
    with server.connect("eva", PASSWORD) as eva:

        def seen():
            return "".join(s for (s,) in rows(eva, "SELECT s FROM h.small ORDER BY s"))

        assert seen() == "abcd"
        run(admin, "ALTER TABLE h.small ENABLE ROW LEVEL SECURITY")
        assert seen() == ""
        run(admin, "CREATE POLICY one ON TABLE h.small TO ROLE readers USING (n = 1)")
        assert seen() == "a"
        run(admin, "CREATE POLICY more ON TABLE h.small TO USER eva USING (n > 1)")
        assert seen() == "abc"
        run(admin, "CREATE POLICY never ON TABLE h.small AS RESTRICTIVE TO ALL USING (n <> 2)")
        assert seen() == "ac"
        run(admin, "CREATE OR REPLACE POLICY never ON TABLE h.small AS RESTRICTIVE TO ALL EXCEPT USER eva USING (n <> 2)")
        assert seen() == "abc"
        run(admin, "CREATE OR REPLACE POLICY more ON TABLE h.small TO ROLE readers USING (has_role('readers') AND s = current_user)")
        assert seen() == "a"
        run(admin, "REVOKE ROLE readers FROM USER eva")
        assert failure(eva, "SELECT s FROM h.small").status_code == STATUS.NOT_FOUND


def test_a_policy_must_be_boolean_and_bind(admin):
    for expression in ("region_id", "nope = 1", "1", "region_id = "):
        error = failure(admin, f"CREATE POLICY bad ON TABLE h.events TO USER rui USING ({expression})")
        assert error.status_code in (STATUS.INVALID_ARGUMENT, STATUS.NOT_FOUND)
