"""The ADBC driver of Python: connecting, metadata, every type, parameters, statements that run once, errors, cancel."""

import datetime
import decimal
import os
import threading

import adbc_driver_flightsql
import adbc_driver_manager
import pyarrow as pa
import pytest

import support
from support import failure, one, rows, run, table, update

UTC = datetime.timezone.utc
STATUS = adbc_driver_manager.AdbcStatusCode
# Runs for hours on any machine, and needs no memory.
ENDLESS = "SELECT count(*) FROM generate_series(1, 10000000) a CROSS JOIN generate_series(1, 10000000) b WHERE (a.value * b.value) % 7 = 3"


@pytest.fixture(scope="module")
def server(oidc, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), config=oidc.section) as server:
        yield server


@pytest.fixture(scope="module")
def people(admin):
    """A schema with a table, a view and nothing else."""
    run(
        admin,
        "CREATE SCHEMA people",
        "CREATE TABLE people.person AS SELECT * FROM (VALUES (1, 'Ana', 1.5), (2, 'Rui', NULL), (3, 'Zé', 2.5)) AS t (id, name, score)",
        "CREATE VIEW people.named AS SELECT id, name FROM people.person",
    )


# --- connecting ---


def test_password(server):
    with server.connect() as connection:
        assert one(connection, "SELECT current_user") == "admin"


@pytest.mark.parametrize(("user", "password"), [("admin", "wrong"), ("nobody", support.ADMIN_PASSWORD), ("admin", "")])
def test_wrong_password(server, user, password):
    with pytest.raises(adbc_driver_manager.Error) as caught:
        with server.connect(user, password) as connection:
            one(connection, "SELECT 1")
    assert caught.value.status_code == STATUS.UNAUTHENTICATED
    assert "UNAUTHENTICATED" in str(caught.value)


def test_unauthenticated_has_one_text(server, oidc):
    """Whatever the reason: a wrong password, an unknown user, an expired, foreign, malformed or missing token."""

    def refused(**kwargs):
        with pytest.raises(adbc_driver_manager.Error) as caught:
            with server.connect(**kwargs) as connection:
                one(connection, "SELECT 1")
        assert caught.value.status_code == STATUS.UNAUTHENTICATED
        return str(caught.value).split("] ")[1].split(" (")[0]

    texts = {
        refused(user="admin", password="wrong"),
        refused(user="nobody", password="wrong"),
        refused(token=oidc.token("ana", exp=1_700_000_000)),
        refused(token=oidc.token("ana", aud="another")),
        refused(token=oidc.token("ana", iss="https://elsewhere.example.org")),
        refused(token="not.a.token"),
    }
    assert len(texts) == 1, texts


def test_token_of_an_issuer(server, oidc, admin):
    with server.connect(token=oidc.token("ana", region="PT-11", groups=["analysts"], regions=["PT-11", "PT-17"])) as connection:
        assert rows(
            connection,
            "SELECT current_user, claim('sub'), claim('region'), claim('missing'), claims('regions'), is_member('analysts'), is_member('others')",
        ) == [("hospital:ana", "ana", "PT-11", None, ["PT-11", "PT-17"], True, False)]
        assert failure(connection, "CREATE SCHEMA hers").status_code in (STATUS.UNAUTHORIZED, STATUS.NOT_FOUND)


def test_admin_of_an_issuer_is_not_the_admin(server, oidc, people):
    with server.connect(token=oidc.token("admin")) as connection:
        assert one(connection, "SELECT current_user") == "hospital:admin"
        assert failure(connection, "SELECT * FROM people.person").status_code == STATUS.NOT_FOUND


def test_key_rotation(server, oidc):
    oidc.process.send_signal(support.signal.SIGUSR2)
    # The provider signs with the newest key from then on; the server has not seen it.
    with server.connect(token=oidc.token("ana")) as connection:
        assert one(connection, "SELECT 1") == 1


def test_disabled_user_is_refused_on_the_next_call(server, admin):
    run(admin, "CREATE USER dora PASSWORD 'a long password'", "GRANT SELECT ON SCHEMA lazaret.public TO USER dora")
    with server.connect("dora", "a long password") as connection:
        assert one(connection, "SELECT 1") == 1
        run(admin, "ALTER USER dora DISABLE")
        assert failure(connection, "SELECT 1").status_code == STATUS.UNAUTHENTICATED
        run(admin, "ALTER USER dora ENABLE")
    with server.connect("dora", "a long password") as connection:
        assert one(connection, "SELECT 1") == 1
        run(admin, "DROP USER dora")
        assert failure(connection, "SELECT 1").status_code == STATUS.UNAUTHENTICATED


def test_catalog_and_schema_options(server, people):
    with server.connect(options={"adbc.connection.catalog": "lazaret", "adbc.connection.db_schema": "people"}) as connection:
        assert (connection.adbc_current_catalog, connection.adbc_current_db_schema) == ("lazaret", "people")
        assert one(connection, "SELECT count(*) FROM person") == 3
        connection.adbc_current_db_schema = "public"
        assert failure(connection, "SELECT count(*) FROM person").status_code == STATUS.NOT_FOUND
        run(connection, "USE lazaret.people")
        assert connection.adbc_current_db_schema == "people"
        assert one(connection, "SELECT count(*) FROM person") == 3
    with server.connect() as another:
        assert another.adbc_current_db_schema == "public"


def test_unknown_schema_option(server):
    with server.connect() as connection:
        with pytest.raises(adbc_driver_manager.Error):
            connection.adbc_current_db_schema = "missing"
        assert connection.adbc_current_db_schema == "public"


# --- metadata ---


def test_info(admin):
    info = admin.adbc_get_info()
    assert info["vendor_name"] == "Lazaret"
    assert info["vendor_version"]
    assert info["driver_name"] == "ADBC Flight SQL Driver - Go"
    assert info["vendor_arrow_version"]


def test_table_types(admin):
    assert sorted(admin.adbc_get_table_types()) == ["SYSTEM TABLE", "TABLE", "VIEW"]


def objects(connection, **kwargs):
    return connection.adbc_get_objects(**kwargs).read_all().to_pylist()


def test_objects_from_catalogs_to_columns(admin, people):
    assert "lazaret" in [catalog["catalog_name"] for catalog in objects(admin, depth="catalogs")]

    (catalog,) = objects(admin, depth="db_schemas", catalog_filter="lazaret", db_schema_filter="peop%")
    assert [schema["db_schema_name"] for schema in catalog["catalog_db_schemas"]] == ["people"]

    (catalog,) = objects(admin, depth="tables", catalog_filter="lazaret", db_schema_filter="people")
    (schema,) = catalog["catalog_db_schemas"]
    assert sorted((each["table_name"], each["table_type"]) for each in schema["db_schema_tables"]) == [("named", "VIEW"), ("person", "TABLE")]

    (catalog,) = objects(admin, depth="tables", catalog_filter="lazaret", db_schema_filter="people", table_types_filter=["VIEW"])
    (schema,) = catalog["catalog_db_schemas"]
    assert [each["table_name"] for each in schema["db_schema_tables"]] == ["named"]

    (catalog,) = objects(admin, depth="all", catalog_filter="lazaret", db_schema_filter="people", table_name_filter="pers_n")
    (schema,) = catalog["catalog_db_schemas"]
    (person,) = schema["db_schema_tables"]
    columns = [(column["column_name"], column["ordinal_position"], column["xdbc_type_name"]) for column in person["table_columns"]]
    assert columns == [("id", 1, "BIGINT"), ("name", 2, "VARCHAR"), ("score", 3, "DOUBLE")]

    (catalog,) = objects(admin, depth="all", catalog_filter="lazaret", db_schema_filter="people", column_name_filter="na%")
    (schema,) = catalog["catalog_db_schemas"]
    assert {column["column_name"] for each in schema["db_schema_tables"] for column in each["table_columns"]} == {"name"}


def test_table_schema(admin, people):
    schema = admin.adbc_get_table_schema("person", catalog_filter="lazaret", db_schema_filter="people")
    assert [(field.name, field.type) for field in schema] == [("id", pa.int64()), ("name", pa.string()), ("score", pa.float64())]
    with pytest.raises(adbc_driver_manager.Error) as caught:
        admin.adbc_get_table_schema("nothing", catalog_filter="lazaret", db_schema_filter="people")
    assert caught.value.status_code == STATUS.NOT_FOUND


# --- types ---

LEAP = datetime.datetime(2024, 2, 29, 12, 34, 56, 789012)

# An expression, the type that a driver sees, and the value.
TYPES = [
    ("CAST(-128 AS TINYINT)", pa.int8(), -128),
    ("CAST(32767 AS SMALLINT)", pa.int16(), 32767),
    ("CAST(-2147483648 AS INT)", pa.int32(), -(2**31)),
    ("9223372036854775807", pa.int64(), 2**63 - 1),
    ("CAST(255 AS TINYINT UNSIGNED)", pa.uint8(), 255),
    ("CAST(65535 AS SMALLINT UNSIGNED)", pa.uint16(), 65535),
    ("CAST(4294967295 AS INT UNSIGNED)", pa.uint32(), 2**32 - 1),
    ("CAST('18446744073709551615' AS BIGINT UNSIGNED)", pa.uint64(), 2**64 - 1),
    ("CAST(0.5 AS REAL)", pa.float32(), 0.5),
    ("CAST('1e308' AS DOUBLE)", pa.float64(), 1e308),
    ("CAST('-inf' AS DOUBLE)", pa.float64(), float("-inf")),
    ("CAST('-1.25' AS DECIMAL(9, 2))", pa.decimal128(9, 2), decimal.Decimal("-1.25")),
    ("CAST('1234567890123456789012345678.0123456789' AS DECIMAL(38, 10))", pa.decimal128(38, 10), decimal.Decimal("1234567890123456789012345678.0123456789")),
    ("TRUE", pa.bool_(), True),
    ("'Ünïcödé 日本 😀'", pa.string(), "Ünïcödé 日本 😀"),
    ("''", pa.string(), ""),
    ("X'00ff10'", pa.binary(), b"\x00\xff\x10"),
    ("DATE '1600-02-29'", pa.date32(), datetime.date(1600, 2, 29)),
    ("DATE '9999-12-31'", pa.date32(), datetime.date(9999, 12, 31)),
    ("TIME '12:34:56.789012'", pa.time64("ns"), LEAP.time()),
    ("TIMESTAMP '2024-02-29 12:34:56.789012'", pa.timestamp("ns"), LEAP),
    ("arrow_cast('1600-01-01T00:00:00.000001', 'Timestamp(Microsecond, None)')", pa.timestamp("us"), datetime.datetime(1600, 1, 1, 0, 0, 0, 1)),
    ("arrow_cast('2024-02-29T12:34:56.789012Z', 'Timestamp(Microsecond, Some(\"UTC\"))')", pa.timestamp("us", "UTC"), LEAP.replace(tzinfo=UTC)),
    ("TIMESTAMPTZ '2024-02-29T13:34:56.789012+01:00'", pa.timestamp("ns", "UTC"), LEAP.replace(tzinfo=UTC)),
    ("[1, NULL, 3]", pa.list_(pa.int64()), [1, None, 3]),
    ("[['a'], NULL, []]", pa.list_(pa.list_(pa.string())), [["a"], None, []]),
    ("{'a': 1, 'b': {'c': 'x'}}", pa.struct({"a": pa.int64(), "b": pa.struct({"c": pa.string()})}), {"a": 1, "b": {"c": "x"}}),
    ("MAP(['k', 'l'], [1, NULL])", pa.map_(pa.string(), pa.int64()), [("k", 1), ("l", None)]),
    ("NULL", pa.null(), None),
    ("arrow_cast('view', 'Utf8View')", pa.string(), "view"),
    ("arrow_cast('large', 'LargeUtf8')", pa.string(), "large"),
    ("arrow_cast('dictionary', 'Dictionary(Int32, Utf8)')", pa.string(), "dictionary"),
    ("arrow_cast(X'01', 'BinaryView')", pa.binary(), b"\x01"),
]


def one_of_type(result, kind):
    (field,) = result.schema
    assert support.shape(field.type) == support.shape(kind)
    (value,) = result.column(0).to_pylist()
    return value


@pytest.mark.parametrize(("expression", "kind", "value"), TYPES, ids=[expression for expression, _, _ in TYPES])
def test_type(admin, expression, kind, value):
    assert one_of_type(table(admin, f"SELECT {expression} AS v"), kind) == value


@pytest.mark.parametrize("kind", ["BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "REAL", "DOUBLE", "DECIMAL(12, 3)", "VARCHAR", "BYTEA", "DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ"])
def test_null_of_type(admin, kind):
    assert one(admin, f"SELECT CAST(NULL AS {kind}) AS v") is None
    result = table(admin, f"SELECT CAST(NULL AS {kind}) AS v WHERE FALSE")
    assert result.num_rows == 0
    assert result.schema.field(0).type != pa.null()


def test_functions_of_time(admin):
    before, now, today = datetime.datetime.now(UTC), *rows(admin, "SELECT date_trunc('second', now()), current_date")[0]
    assert abs(now - before) < datetime.timedelta(minutes=1)
    assert abs(today - before.date()) <= datetime.timedelta(days=1)


STORED = [
    ("t1", "CAST(1 AS TINYINT)", pa.int8(), 1),
    ("t2", "CAST(2 AS SMALLINT)", pa.int16(), 2),
    ("i", "CAST(3 AS INT)", pa.int32(), 3),
    ("l", "4", pa.int64(), 4),
    ("f", "CAST(0.5 AS REAL)", pa.float32(), 0.5),
    ("d", "CAST(0.25 AS DOUBLE)", pa.float64(), 0.25),
    ("n", "CAST('-1.25' AS DECIMAL(38, 10))", pa.decimal128(38, 10), decimal.Decimal("-1.25")),
    ("b", "FALSE", pa.bool_(), False),
    ("s", "'é'", pa.string(), "é"),
    ("x", "X'00ff'", pa.binary(), b"\x00\xff"),
    ("day", "DATE '1969-12-31'", pa.date32(), datetime.date(1969, 12, 31)),
    ("ntz", "TIMESTAMP '2024-02-29 12:34:56.789012'", pa.timestamp("us"), LEAP),
    ("tz", "TIMESTAMPTZ '2024-02-29T12:34:56.789012Z'", pa.timestamp("us", "UTC"), LEAP.replace(tzinfo=UTC)),
    ("list", "[1, NULL]", pa.list_(pa.int64()), [1, None]),
    ("st", "{'a': 1, 'b': ['x']}", pa.struct({"a": pa.int64(), "b": pa.list_(pa.string())}), {"a": 1, "b": ["x"]}),
    ("m", "MAP(['k'], [1])", pa.map_(pa.string(), pa.int64()), [("k", 1)]),
]


def test_types_of_a_table(admin):
    values = ", ".join(f"{expression} AS {name}" for name, expression, _, _ in STORED)
    nulls = ", ".join(f"CASE WHEN {name} IS NULL THEN {name} END" for name, _, _, _ in STORED)
    run(admin, f"CREATE TABLE kinds AS WITH t AS (SELECT {values}) SELECT * FROM t UNION ALL SELECT {nulls} FROM t")
    result = table(admin, "SELECT * FROM kinds ORDER BY l NULLS LAST")
    assert [(field.name, support.shape(field.type)) for field in result.schema] == [(name, support.shape(kind)) for name, _, kind, _ in STORED]
    assert result.to_pylist() == [
        {name: value for name, _, _, value in STORED},
        {name: None for name, _, _, _ in STORED},
    ]
    empty = table(admin, "SELECT * FROM kinds WHERE l > 100")
    assert (empty.num_rows, empty.schema) == (0, result.schema)
    described = admin.adbc_get_table_schema("kinds", catalog_filter="lazaret", db_schema_filter="public")
    assert [(field.name, support.shape(field.type)) for field in described] == [(field.name, support.shape(field.type)) for field in result.schema]


def test_many_rows(admin):
    result = table(admin, "SELECT value, CAST(value AS VARCHAR) AS text FROM generate_series(1, 200000)")
    assert result.num_rows == 200_000
    assert sum(result["value"].to_pylist()) == 200_000 * 200_001 // 2


def test_a_large_value(admin):
    assert len(one(admin, "SELECT repeat('x', 5000000)")) == 5_000_000


def test_same_names(admin):
    assert table(admin, "SELECT a.x, b.x FROM (SELECT 1 AS x) a CROSS JOIN (SELECT 2 AS x) b").column_names == ["x", "x"]


# --- parameters ---

# The type that SQL gives the parameter, what is bound, and what comes back.
PARAMETERS = [
    ("BOOLEAN", True, True),
    ("TINYINT", 7, 7),
    ("SMALLINT", -7, -7),
    ("INT", 2**31 - 1, 2**31 - 1),
    ("BIGINT", -(2**63), -(2**63)),
    ("REAL", 0.5, 0.5),
    ("DOUBLE", 1e-300, 1e-300),
    ("DECIMAL(12, 3)", decimal.Decimal("123.456"), decimal.Decimal("123.456")),
    ("VARCHAR", "O'Reilly; -- 😀", "O'Reilly; -- 😀"),
    ("BYTEA", b"\x00\xff", b"\x00\xff"),
    ("DATE", datetime.date(2024, 2, 29), datetime.date(2024, 2, 29)),
    ("TIMESTAMP", LEAP, LEAP),
    ("TIMESTAMPTZ", LEAP.replace(tzinfo=UTC), LEAP.replace(tzinfo=UTC)),
]


@pytest.mark.parametrize("placeholder", ["?", "$1"])
@pytest.mark.parametrize(("kind", "value", "back"), PARAMETERS, ids=[kind for kind, _, _ in PARAMETERS])
def test_parameter(admin, kind, value, back, placeholder):
    assert one(admin, f"SELECT CAST({placeholder} AS {kind}) AS v", [value]) == back
    assert one(admin, f"SELECT CAST({placeholder} AS {kind}) AS v", [None]) is None


def test_parameters_in_a_condition(admin, people):
    with admin.cursor() as cursor:
        for wanted in ([2, "Rui"], [3, "Zé"], [2, "Ana"]):
            cursor.execute("SELECT id, name FROM people.person WHERE id = ? AND name = ?", wanted)
            found = cursor.fetchall()
            assert found == ([tuple(wanted)] if wanted != [2, "Ana"] else [])
        cursor.execute("SELECT id FROM people.person WHERE id = ? OR ? IS NULL", [None, None])
        assert len(cursor.fetchall()) == 3
    assert rows(admin, "SELECT name FROM people.person WHERE id BETWEEN $2 AND $1 ORDER BY id LIMIT $3", [3, 2, 5]) == [("Rui",), ("Zé",)]


def test_several_rows_of_parameters(admin):
    """One execution for each row, and all their results."""
    bound = pa.record_batch({"0": pa.array([1, 2, None, 4]), "1": pa.array([10, 20, 30, 40])})
    with admin.cursor() as cursor:
        cursor.execute("SELECT CAST(? AS BIGINT) + CAST(? AS BIGINT) AS v", bound)
        assert cursor.fetch_arrow_table()["v"].to_pylist() == [11, 22, None, 44]


def test_parameter_types_come_from_where_they_stand(admin, people):
    """What a driver is told to bind."""
    for sql, types in [
        ("SELECT ?::date AS a", [pa.date32()]),
        ("SELECT CAST(? AS TIMESTAMP) AS a", [pa.timestamp("ms")]),
        ("SELECT CAST(? AS DECIMAL(12, 3)) AS a", [pa.decimal128(12, 3)]),
        ("SELECT value FROM generate_series(1, 9) LIMIT ? OFFSET ?", [pa.int64(), pa.int64()]),
        ("SELECT value + ? AS a FROM generate_series(1, 9)", [pa.int64()]),
        ("SELECT value FROM generate_series(1, 9) WHERE ? BETWEEN value AND 5 OR ? IN (value, 3) OR value IN (?, 4)", [pa.int64()] * 3),
        ("SELECT id FROM people.person WHERE name LIKE ? AND ? LIKE 'a%' AND name = ?", [pa.string()] * 3),
        ("SELECT repeat('x', ?) AS a", [pa.int64()]),
        ("SELECT CASE WHEN ? THEN 1 ELSE ? END AS a", [pa.bool_(), pa.int64()]),
    ]:
        with admin.cursor() as cursor:
            assert cursor.adbc_prepare(sql).types == types, sql


def test_parameter_schema(admin):
    with admin.cursor() as cursor:
        schema = cursor.adbc_prepare("SELECT CAST(? AS INT) AS a, CAST(? AS VARCHAR) AS b")
        assert schema.types == [pa.int32(), pa.string()]
        assert cursor.adbc_prepare("SELECT 1") == pa.schema([])
        schema = cursor.adbc_execute_schema("SELECT 1 AS a, 'x' AS b")
        assert [(field.name, field.type) for field in schema] == [("a", pa.int64()), ("b", pa.string())]


@pytest.mark.parametrize("values", [[], [1], [1, 2, 3]])
def test_wrong_number_of_parameters(admin, values):
    with pytest.raises(adbc_driver_manager.Error) as caught:
        table(admin, "SELECT CAST(? AS INT), CAST(? AS INT)", values)
    assert caught.value.status_code in (STATUS.INVALID_ARGUMENT, STATUS.INVALID_STATE)
    assert one(admin, "SELECT 1") == 1


def test_parameter_of_the_wrong_type(admin):
    assert failure(admin, "SELECT CAST(? AS INT) + 1", ["x"]).status_code == STATUS.INVALID_ARGUMENT


# --- names and values of a SELECT list ---


def test_two_columns_of_a_name(admin, people):
    with admin.cursor() as cursor:
        cursor.execute("SELECT id AS a, name AS a, id AS A, id, id, count(*) OVER (), count(*) OVER () FROM people.person WHERE id = 2")
        found = cursor.fetch_arrow_table()
    assert found.column_names[:5] == ["a", "a", "a", "id", "id"] and found.column_names[5] == found.column_names[6]
    assert [column[0].as_py() for column in found.columns] == [2, "Rui", 2, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("EXISTS (SELECT 1 FROM generate_series(1, 2) g WHERE g.value = v)", [True, True, False, False]),
        ("NOT EXISTS (SELECT 1 FROM generate_series(1, 2) g WHERE g.value = v)", [False, False, True, True]),
        ("EXISTS (SELECT 1)", [True] * 4),
        ("EXISTS (SELECT 1 WHERE false)", [False] * 4),
        ("CASE WHEN NOT EXISTS (SELECT 1 WHERE false) THEN v ELSE 0 END", [1, 2, 3, None]),
        ("v IN (SELECT value FROM generate_series(2, 3))", [False, True, True, None]),
        ("v NOT IN (SELECT value FROM generate_series(2, 3))", [True, False, False, None]),
        ("v IN (SELECT CASE WHEN value = 2 THEN 2 END FROM generate_series(1, 3))", [None, True, None, None]),
        ("v IN (SELECT value FROM generate_series(2, 3) WHERE false)", [False] * 4),
        ("(SELECT max(value) FROM generate_series(1, 9) g WHERE g.value = v)", [1, 2, 3, None]),
    ],
)
def test_subqueries_as_values(admin, value, expected):
    found = rows(admin, f"SELECT v, {value} AS e FROM (VALUES (1), (2), (3), (NULL)) AS t(v) ORDER BY v")
    assert [e for _, e in found] == expected


def test_a_subquery_that_cannot_be_a_join_is_refused_by_name(admin):
    error = failure(admin, "SELECT EXISTS (SELECT 1 FROM generate_series(1, 9) g WHERE g.value < v) FROM (VALUES (1)) AS t(v)")
    assert "not supported yet: a subquery with this condition on the rows outside (Unimplemented;" in str(error)


# --- what runs exactly once ---


def audited(connection, statement):
    return one(connection, "SELECT count(*) FROM system.audit WHERE statement = ?", [statement])


def test_ddl_runs_once(admin):
    statement = "CREATE SCHEMA once"
    with admin.cursor() as cursor:
        cursor.execute(statement)  # never fetched
    assert audited(admin, statement) == 1
    assert failure(admin, statement).status_code == STATUS.ALREADY_EXISTS
    with admin.cursor() as cursor:
        cursor.execute("DROP SCHEMA once")
        assert cursor.fetchall() == []
    assert failure(admin, "DROP SCHEMA once").status_code == STATUS.NOT_FOUND


def test_ctas_runs_once_and_counts(admin):
    statement = "CREATE TABLE counted AS SELECT value AS v FROM generate_series(1, 1000)"
    with admin.cursor() as cursor:
        cursor.execute(statement)
        assert cursor.rowcount in (1000, -1)
    assert audited(admin, statement) == 1
    assert one(admin, "SELECT count(*) FROM counted") == 1000


def test_execute_update(admin):
    statement = "CREATE TABLE updated AS SELECT value AS v FROM generate_series(1, 77)"
    assert update(admin, statement) == 77
    assert audited(admin, statement) == 1
    assert one(admin, "SELECT count(*) FROM updated") == 77
    assert update(admin, "DROP TABLE updated") in (0, -1)
    assert failure(admin, "SELECT * FROM updated").status_code == STATUS.NOT_FOUND
    with pytest.raises(adbc_driver_manager.Error) as caught:
        update(admin, "DROP TABLE updated")
    assert caught.value.status_code == STATUS.NOT_FOUND


def test_query_without_prepare(admin):
    statement = adbc_driver_manager.AdbcStatement(admin.adbc_connection)
    try:
        statement.set_sql_query("SELECT 42 AS v")
        handle, _ = statement.execute_query()
        assert pa.RecordBatchReader._import_from_c(handle.address).read_all().to_pylist() == [{"v": 42}]
    finally:
        statement.close()


def test_executemany_of_ctas(admin):
    """Bound through DoPut: one execution for a row of parameters."""
    statement = "CREATE TABLE many AS SELECT CAST(? AS BIGINT) AS v"
    with admin.cursor() as cursor:
        cursor.executemany(statement, [(5,)])
    assert rows(admin, "SELECT v FROM many") == [(5,)]
    assert audited(admin, statement) == 1


def test_set_and_use_keep_the_session(server):
    with server.connect() as connection:
        run(connection, "CREATE SCHEMA IF NOT EXISTS kept", "USE lazaret.kept", "CREATE TABLE here AS SELECT 1 AS v")
        assert one(connection, "SELECT v FROM here") == 1
        assert one(connection, "SELECT v FROM lazaret.kept.here") == 1


# --- errors ---


@pytest.mark.parametrize(
    ("sql", "status", "text"),
    [
        ("SELEC 1", "INVALID_ARGUMENT", 'syntax error: expected a statement, found "SELEC" at line 1, column 1'),
        ("SELECT 1 +\n  )", "INVALID_ARGUMENT", "at line 2, column 3"),
        ("SELECT 1 + FROM t", "INVALID_ARGUMENT", 'syntax error: expected an expression, found "FROM" at line 1, column 12'),
        ("SELECT * FROM missing", "NOT_FOUND", 'table "lazaret.public.missing" not found at line 1, column 15'),
        ("SELECT missing FROM (SELECT 1 AS a) t", "NOT_FOUND", "missing"),
        ("SELECT missing(1)", "NOT_FOUND", 'function "missing" not found at line 1, column 8'),
        ("SELECT 1 / 0", "INVALID_ARGUMENT", "divi"),
        ("SELECT CAST('x' AS INT)", "INVALID_ARGUMENT", ""),
        ("CREATE TABLE lazaret.nowhere.t AS SELECT 1 AS a", "NOT_FOUND", "nowhere"),
        ("CREATE TABLE t (a INT) AS SELECT 1", "UNIMPLEMENTED", "not supported yet"),
        ("DELETE FROM t", "UNIMPLEMENTED", "not supported yet"),
        ("SELECT 1; SELECT 2", "INVALID_ARGUMENT", ""),
        ("-- nothing", "INVALID_ARGUMENT", ""),
        ("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc'", "PERMISSION_DENIED", "below none of the allowed paths"),
        ("SELECT * FROM '/etc/passwd'", "INVALID_ARGUMENT", "syntax error"),
    ],
)
def test_error(admin, sql, status, text):
    error = failure(admin, sql)
    assert f"({status.title().replace('_', '')};" in str(error)
    assert text in str(error)
    assert one(admin, "SELECT 1") == 1


def test_error_in_the_middle_of_a_stream(admin):
    error = failure(admin, "SELECT 10 / (value - 150000) AS v FROM generate_series(1, 200000)")
    assert error.status_code == STATUS.INVALID_ARGUMENT
    assert one(admin, "SELECT 1") == 1


# --- cancel ---


def running(admin, statement):
    return one(admin, "SELECT count(*) FROM system.audit WHERE statement = ? AND status = 'running'", [statement])


def wait_until(condition, seconds=30):
    """Until something that another process does is seen to be done."""
    deadline = support.time.monotonic() + seconds
    while not condition():
        assert support.time.monotonic() < deadline, "in vain"


def test_cancel(server, admin):
    statement = f"{ENDLESS} AND 1 = 1"
    caught = []

    def fetch(cursor):
        try:
            cursor.execute(statement)
            cursor.fetchall()
        except adbc_driver_manager.Error as error:
            caught.append(error)

    with server.connect() as connection, connection.cursor() as cursor:
        thread = threading.Thread(target=fetch, args=(cursor,), daemon=True)
        thread.start()
        wait_until(lambda: running(admin, statement) == 1)
        cursor.adbc_cancel()
        thread.join(30)
        assert not thread.is_alive()
        assert [error.status_code for error in caught] == [STATUS.CANCELLED]
    wait_until(lambda: running(admin, statement) == 0)
    assert rows(admin, "SELECT status FROM system.audit WHERE statement = ?", [statement]) == [("cancelled",)]
    assert one(admin, "SELECT 1") == 1


def test_closing_an_unread_result_ends_the_query(server, admin):
    statement = "SELECT a.value FROM generate_series(1, 10000000) a CROSS JOIN generate_series(1, 10000000) b"
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        assert cursor.fetchone() is not None
    wait_until(lambda: running(admin, statement) == 0)
    assert one(admin, "SELECT 1") == 1


def test_timeout(server, admin):
    options = {adbc_driver_flightsql.ConnectionOptions.TIMEOUT_FETCH.value: "1.0", adbc_driver_flightsql.ConnectionOptions.TIMEOUT_QUERY.value: "1.0"}
    with server.connect(options=options) as connection:
        assert failure(connection, ENDLESS).status_code == STATUS.TIMEOUT
    wait_until(lambda: running(admin, ENDLESS) == 0)


def test_connections_at_the_same_time(server):
    answers = []

    def work(number):
        with server.connect() as connection:
            answers.extend(one(connection, "SELECT CAST(? AS BIGINT)", [number * 100 + i]) for i in range(5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == sorted(number * 100 + i for number in range(8) for i in range(5))


def processor_seconds(process):
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_join_that_finds_nothing_ends_when_it_is_cancelled(server):
    """It has no row to give on which it could be stopped."""
    query = "SELECT count(*) FROM generate_series(1, 3000000) a JOIN generate_series(1, 3000000) b ON a.value + b.value < 0"
    caught = []

    def work(cursor):
        try:
            cursor.execute(query)
            cursor.fetchall()
        except adbc_driver_manager.Error as error:
            caught.append(error.status_code)

    def idle():
        before, since = processor_seconds(server.process), support.time.monotonic()
        while support.time.monotonic() < since + 1:
            one(admin, "SELECT 1")
            support.time.sleep(0.1)
        return processor_seconds(server.process) - before < 0.7

    with server.connect() as connection, connection.cursor() as cursor, server.connect() as admin:
        thread = threading.Thread(target=work, args=(cursor,), daemon=True)
        thread.start()
        wait_until(lambda: running(admin, query) == 1)
        wait_until(lambda: not idle())
        cursor.adbc_cancel()
        thread.join(30)
        assert caught == [STATUS.CANCELLED]
        wait_until(idle)


def test_heavy_queries_do_not_starve_the_server(server):
    """More of them than the machine has cores: whoever comes then is still heard, and so is a cancel."""

    def work(cursor):
        try:
            cursor.execute(ENDLESS)
            cursor.fetchall()
        except adbc_driver_manager.Error as error:
            caught.append(error.status_code)

    caught, heavy = [], [server.connect() for _ in range(4)]
    cursors = [connection.cursor() for connection in heavy]
    threads = [threading.Thread(target=work, args=(cursor,), daemon=True) for cursor in cursors]
    for thread in threads:
        thread.start()
    with server.connect() as admin:
        wait_until(lambda: running(admin, ENDLESS) == 4)
        for _ in range(3):
            assert one(admin, "SELECT 1") == 1
        for cursor in cursors:
            cursor.adbc_cancel()
        for thread in threads:
            thread.join(30)
        assert caught == [STATUS.CANCELLED] * 4
        wait_until(lambda: running(admin, ENDLESS) == 0)
    for cursor, connection in zip(cursors, heavy):
        cursor.close()
        connection.close()
