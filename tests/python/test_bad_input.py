"""What is wrong is refused with its exact text and gRPC status, and the server answers the next query each time."""

import base64
import json
import re
import struct
import subprocess
import time
import urllib.parse

import adbc_driver_manager
import deltalake
import jwt
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import support
from support import one, run

LIMITS = "[limits]\nquery_memory_bytes = 33554432\nmemory_bytes = 268435456\n"
LOCATION = "location {} lies below none of the allowed paths"
UNAUTHENTICATED = "authentication failed: a valid user name and password, or a valid token, is required"
MAX_STATEMENT = 1048576
DEEP = "an expression is at most 256 operators deep, where a bracket counts as 4 at line 1, column"
MEMORY = "limit limits.query_memory_bytes (33554432) reached"


def defect(case, reason):
    return pytest.param(*case, marks=pytest.mark.xfail(strict=True, reason=f"docs/known-defects.md: {reason}"))


def external(kind, location):
    return f"CREATE EXTERNAL TABLE e STORED AS {kind} LOCATION '{location}'"


def missing_table(name):
    return f'table "lazaret.public.{name}" not found'


# Statement, gRPC status, text. $LAKE is the allowed folder; the table dup has the column a with the value 1.
SQL = [
    # Syntax
    ("SELEC 1", "InvalidArgument", 'syntax error: expected a statement, found "SELEC" at line 1, column 1'),
    ("SELECT 1\n  FROM", "InvalidArgument", "syntax error: expected identifier, found the end of the statement at line 2, column 7"),
    ("SELECT (1", "InvalidArgument", "syntax error: expected ), found the end of the statement at line 1, column 10"),
    ("SELECT 'abc", "InvalidArgument", "syntax error: unterminated string literal at line 1, column 8"),
    ("SELECT 1 1 1", "InvalidArgument", 'syntax error: expected the end of the statement, found "1" at line 1, column 10'),
    ("SELECT 1; SELECT 2", "InvalidArgument", "one statement at a time at line 1, column 11"),
    ("SHOW NONSENSE", "InvalidArgument", "syntax error: expected CATALOGS, SCHEMAS, TABLES, COLUMNS, CREATE TABLE, USERS, TOKENS, ROLES, GRANTS, "
     'POLICIES, MASKING POLICIES, EFFECTIVE POLICIES, EMERGENCY ACCESS, SETTINGS or WARNINGS, found "NONSENSE" at line 1, column 6'),
    ("GRANT NONSENSE ON TABLE dup TO USER admin", "InvalidArgument", 'syntax error: expected a privilege, found "NONSENSE" at line 1, column 7'),
    (external("AVRO", "$LAKE/empty"), "InvalidArgument",
     'syntax error: expected DELTA, ICEBERG, PARQUET, CSV or JSON, found "AVRO" at line 1, column 35'),
    # Names that are not there
    ("SELECT *\nFROM missing", "NotFound", missing_table("missing") + " at line 2, column 6"),
    ("SELECT * FROM nowhere.missing", "NotFound", 'table "lazaret.nowhere.missing" not found at line 1, column 15'),
    ("SELECT * FROM nocat.nosch.missing", "NotFound", 'table "nocat.nosch.missing" not found at line 1, column 15'),
    ("SELECT * FROM system.nothing", "NotFound", 'table "lazaret.system.nothing" not found at line 1, column 15'),
    ("SELECT missing FROM dup", "NotFound", 'column "missing" not found at line 1, column 8'),
    ("SELECT missing(1)", "NotFound", 'function "missing" not found at line 1, column 8'),
    ("SELECT *\nFROM missing(1)", "NotFound", 'function "missing" not found'),
    ("CREATE TABLE nosuch.t AS SELECT 1 AS a", "NotFound", 'schema "lazaret.nosuch" not found'),
    ("CREATE VIEW v AS SELECT * FROM v", "NotFound", missing_table("v") + " at line 1, column 32"),
    ("DESCRIBE missing", "NotFound", missing_table("missing")),
    ("DROP TABLE missing", "NotFound", missing_table("missing")),
    ("DROP VIEW missing", "NotFound", 'view "lazaret.public.missing" not found'),
    ("DROP SCHEMA nowhere", "NotFound", 'schema "lazaret.nowhere" not found'),
    ("DROP USER nobody", "NotFound", 'user "nobody" not found at line 1, column 11'),
    ("DROP ROLE nothing", "NotFound", 'role "nothing" not found at line 1, column 11'),
    ("GRANT ROLE nothing TO USER admin", "NotFound", 'role "nothing" not found at line 1, column 12'),
    ("GRANT SELECT ON TABLE missing TO USER admin", "NotFound", missing_table("missing")),
    ("DROP POLICY p ON TABLE missing", "NotFound", missing_table("missing")),
    ("USE nowhere", "NotFound", 'catalog "nowhere" not found'),
    ("SET nonsense = 1", "InvalidArgument", 'there is no setting "nonsense"; the nearest is "timezone" (SHOW SETTINGS lists them)'),
    ("SET datafusion.execution.batch_size = 1", "InvalidArgument",
     'there is no setting "datafusion.execution.batch_size"; the nearest is "batch_size" (SHOW SETTINGS lists them)'),
    # Names that are taken
    ("CREATE SCHEMA system", "InvalidArgument", 'schema "system" is reserved at line 1, column 15'),
    ("CREATE SCHEMA information_schema", "InvalidArgument", 'schema "information_schema" is reserved at line 1, column 15'),
    ("CREATE TABLE system.t AS SELECT 1 AS a", "InvalidArgument", 'schema "system" is reserved at line 1, column 14'),
    ("CREATE SCHEMA public", "AlreadyExists", 'schema "lazaret.public" already exists'),
    ("CREATE USER admin PASSWORD 'long enough'", "AlreadyExists", 'user "admin" already exists'),
    ("CREATE TABLE dup AS SELECT 1 AS a", "AlreadyExists", 'table "lazaret.public.dup" already exists'),
    ("CREATE VIEW dup AS SELECT 1 AS a", "AlreadyExists", 'table "lazaret.public.dup" already exists'),
    # Not built
    *[
        (sql, "Unimplemented", f"not supported yet: {what} at line 1, column {column}")
        for sql, what, column in [
            ("INSERT OVERWRITE dup VALUES (2)", "INSERT OVERWRITE", 1),
            ("UPDATE dup SET a = 2", "UPDATE", 1),
            ("DELETE FROM dup", "DELETE FROM", 1),
            ("MERGE INTO dup USING dup AS s ON dup.a = s.a WHEN MATCHED THEN DELETE", "MERGE INTO", 1),
            ("TRUNCATE TABLE dup", "TRUNCATE", 1),
            ("COPY dup TO '/tmp/x'", "COPY", 1),
            ("COPY dup FROM '/etc/passwd'", "COPY", 1),
            ("SELECT * FROM dup VERSION AS OF 0", "VERSION AS OF", 19),
            ("SELECT * FROM dup TIMESTAMP AS OF '2026-03-01T00:00:00Z'", "TIMESTAMP AS OF", 19),
            ("CREATE CATALOG c", "CREATE CATALOG", 1),
            ("OPTIMIZE dup", "OPTIMIZE", 1),
            ("VACUUM dup", "VACUUM", 1),
            ("RESTORE TABLE dup TO VERSION AS OF 0", "RESTORE TABLE", 1),
            ("ALTER TABLE dup ADD COLUMN b INT", "ALTER TABLE … ADD COLUMN", 17),
            ("COMMENT ON TABLE dup IS 'x'", "COMMENT ON", 1),
            ("DESCRIBE HISTORY dup", "DESCRIBE HISTORY", 1),
            ("CREATE TABLE cols (a INT) AS SELECT 1", "CREATE TABLE with columns AS", 27),
            ("PREPARE p AS SELECT 1", "PREPARE", 1),
            ("BEGIN", "BEGIN", 1),
        ]
    ],
    defect(("CREATE OR REPLACE TABLE dup AS SELECT 1 AS a", "Unimplemented", "not supported yet: CREATE OR REPLACE TABLE at line 1, column 8"),
           "D5, no line and column"),
    # Types and values
    ("SELECT 1/0", "InvalidArgument", "division by zero"),
    ("SELECT a/(a-1) FROM dup", "InvalidArgument", "division by zero"),
    ("SELECT CAST('x' AS INT)", "InvalidArgument", "Cannot cast string 'x' to value of Int32 type"),
    ("SELECT CAST(300 AS TINYINT)", "InvalidArgument", "Can't cast value 300 to type Int8"),
    ("SELECT CAST('2026-13-01' AS DATE)", "InvalidArgument", "Cannot cast string '2026-13-01' to value of Date32 type"),
    ("SELECT 9223372036854775807 + 1", "InvalidArgument", "BIGINT out of range"),
    ("SELECT -9223372036854775808 - a FROM dup", "InvalidArgument", "BIGINT out of range"),
    ("SELECT 4611686018427387904 * (a + 1) FROM dup", "InvalidArgument", "BIGINT out of range"),
    ("SELECT -(a - 9223372036854775807 - 2) FROM dup", "InvalidArgument", "BIGINT out of range"),
    ("SELECT CAST(2147483647 AS INT) + CAST(a AS INT) FROM dup", "InvalidArgument", "INTEGER out of range"),
    ("SELECT CAST(-128 AS TINYINT) - CAST(a AS TINYINT) FROM dup", "InvalidArgument", "TINYINT out of range"),
    ("SELECT CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)) + CAST(a AS DECIMAL(38, 0)) FROM dup", "InvalidArgument",
     "DECIMAL(38, 0) out of range"),
    ("SELECT abs(a - 9223372036854775807 - 2) FROM dup", "InvalidArgument", "BIGINT out of range"),
    ("SELECT sum(9223372036854775807) FROM generate_series(1, 3)", "InvalidArgument", "BIGINT out of range"),
    ("SELECT value % 2, sum(9223372036854775807) FROM generate_series(1, 4) GROUP BY 1", "InvalidArgument", "BIGINT out of range"),
    ("SELECT sum(9223372036854775807) OVER (ORDER BY value) FROM generate_series(1, 3)", "InvalidArgument", "BIGINT out of range"),
    *[
        (f"SELECT {call}", "InvalidArgument", 'regular expression "(" is not valid: unclosed group')
        for call in ["regexp_like('a', '(')", "regexp_replace('a', '(', 'b')", "regexp_match('a', '(')",
                     "'a' ~ '('", "regexp_like(CAST(a AS VARCHAR), '(') FROM dup"]
    ],
    ("SELECT regexp_count('a', '(')", "InvalidArgument", 'regular expression "(" is not valid'),
    ("SELECT 1 + true", "InvalidArgument", "Cannot coerce arithmetic expression Int64 + Boolean to valid types"),
    ("SELECT * FROM dup WHERE a", "InvalidArgument", "Cannot create filter with non-boolean predicate 'dup.a' returning Int64"),
    ("SELECT 1 UNION SELECT 1, 2", "InvalidArgument", "UNION queries have different number of columns at line 1, column 1"),
    ("SELECT (SELECT value FROM generate_series(1, 2))", "InvalidArgument", "Scalar subquery returned more than one row"),
    ("CREATE TABLE t AS SELECT 1 AS a, 2 AS A", "InvalidArgument", 'column "a" is there twice at line 1, column 39'),
    ("CREATE VIEW v AS SELECT a, a FROM dup", "InvalidArgument", 'column "a" is there twice at line 1, column 28'),
    ("SELECT a FROM dup, dup AS d", "InvalidArgument", 'column "a" is ambiguous at line 1, column 8'),
    ("SELECT * FROM generate_series(1, 10, 0)", "InvalidArgument", "Step cannot be zero"),
    ("SELECT $1 + $3", "InvalidArgument", "parameter $2 is not used, but $3 is at line 1, column 13"),
    ("SELECT ?", "InvalidArgument", "the statement has 1 parameters, and none were given"),
    # Locations
    (external("PARQUET", "/etc/passwd"), "PermissionDenied", LOCATION.format('"/etc/passwd"')),
    (external("CSV", "file:///etc/passwd"), "PermissionDenied", LOCATION.format('"file:///etc/passwd"')),
    (external("CSV", "$LAKE/../../../../../../etc/passwd"), "PermissionDenied", LOCATION.format('"$LAKE/../../../../../../etc/passwd"')),
    (external("CSV", "$LAKE/link"), "PermissionDenied", LOCATION.format('"$LAKE/link"')),
    (external("CSV", "http://example.org/x.csv"), "Unimplemented",
     'not supported yet: locations that are neither file:// nor s3:// (scheme "http" is not supported: use file:// or s3://)'),
    (external("CSV", "s3://bucket/x.csv"), "PermissionDenied", LOCATION.format('"s3://bucket/x.csv"')),
    (external("CSV", "relative/x.csv"), "InvalidArgument", 'location "relative/x.csv" is not valid: a local path must be absolute'),
    (external("DELTA", "$LAKE/none"), "NotFound", "no Delta table at file://$LAKE/none"),
    (external("ICEBERG", "$LAKE/none"), "NotFound", "no Iceberg table at file://$LAKE/none"),
    (external("PARQUET", "$LAKE/none"), "NotFound", "no Parquet table at file://$LAKE/none"),
    (external("DELTA", "$LAKE/lost"), "PermissionDenied", "this location cannot be used: it lies at, above or below one that is in use"),
    (external("CSV", "$LAKE/csv") + " OPTIONS ('nonsense' = 'x')", "InvalidArgument", 'option "nonsense": CSV tables have no such option'),
    # Damaged files
    (external("PARQUET", "$LAKE/truncated"), "DataLoss",
     "file://$LAKE/truncated/p.parquet is damaged: Parquet error: Invalid Parquet file. Corrupt footer"),
    (external("DELTA", "$LAKE/corrupt"), "DataLoss",
     "file://$LAKE/corrupt/_delta_log is damaged: Json error: Truncated record whilst reading value"),
    (external("DELTA", "$LAKE/feature"), "Unimplemented", "not supported yet: teleport"),
    (external("ICEBERG", "$LAKE/ice"), "DataLoss",
     "file:$LAKE/ice/metadata/v1.metadata.json is damaged: EOF while parsing an object at line 1 column 1"),
    defect(("SELECT * FROM cut", "DataLoss", "file://$LAKE/cut/$CUT is damaged: Parquet error: Invalid Parquet file. Corrupt footer"),
           "B4, the owner is not told the file"),
    defect(("SELECT * FROM lost", "DataLoss", "file://$LAKE/lost/$LOST is not there"), "B4, the owner is not told the file"),
    # Size
    (f"SELECT '{'x' * MAX_STATEMENT}'", "ResourceExhausted",
     "the statement has 1048585 bytes, the limit is 1048576 (limits.statement_bytes)"),
    ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "ResourceExhausted", f"{DEEP} 72"),
    ("SELECT " + "-".join(["1"] * 20000), "ResourceExhausted", f"{DEEP} 521"),
    ("SELECT " + "NOT " * 20000 + "true", "ResourceExhausted", f"{DEEP} 1032"),
    ("SELECT count(DISTINCT repeat('x', 100) || CAST(value AS VARCHAR)) FROM generate_series(1, 10000000)", "ResourceExhausted", MEMORY),
    *[
        (f"SELECT {call}", "ResourceExhausted", MEMORY)
        for call in [
            "repeat('x', 2000000000)",
            "length(repeat('x', 2000000000))",
            "lpad('x', 2147483647, 'y')",
            "rpad('x', 2147483647, 'y')",
            "repeat('x', value * 1000) FROM generate_series(1, 100000)",
            "replace(repeat('x', 1000000), 'x', repeat('y', 1000000))",
            "regexp_replace(repeat('x', 1000000), 'x', repeat('y', 1000000), 'g')",
            "a || a FROM (SELECT repeat('x', 20000000) AS a)",
            "concat(a, a) FROM (SELECT repeat('x', 20000000 + CAST(a AS INT)) AS a FROM dup)",
            "range(1, 100000000000)",
            "generate_series(1, 100000000000)",
            "range(TIMESTAMP '2000-01-01', TIMESTAMP '2020-01-01', INTERVAL '1' SECOND)",
            "array_repeat('xxxxxxxx', 100000000)",
            "array_resize([1], 1000000000)",
            "array_agg(repeat('x', 1000) || CAST(value AS VARCHAR)) FROM generate_series(1, 200000)",
            "value % 2, array_agg(repeat('x', 1000) || CAST(value AS VARCHAR)) FROM generate_series(1, 200000) GROUP BY 1",
            "string_agg(repeat('x', 1000) || CAST(value AS VARCHAR), ',') FROM generate_series(1, 200000)",
            "sum(value) OVER () FROM generate_series(1, 10000000)",
        ]
    ],
]


def damaged(lake):
    """Tables that cannot be read."""
    numbers = pa.table({"a": list(range(5000))})
    for name in ("truncated", "empty", "csv"):
        (lake / name).mkdir()
    path = lake / "truncated" / "p.parquet"
    pq.write_table(numbers, path)
    path.write_bytes(path.read_bytes()[:-20])
    (lake / "csv" / "a.csv").write_text("a,b\n1,2\n")
    (lake / "link").symlink_to("/etc/passwd")
    for name in ("corrupt", "feature", "cut", "lost"):
        deltalake.write_deltalake(str(lake / name), numbers)
    log = "_delta_log/00000000000000000000.json"
    (lake / "corrupt" / log).write_text('{"protocol":')
    actions = [json.loads(line) for line in (lake / "feature" / log).read_text().splitlines()]
    for action in actions:
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["teleport"], "writerFeatures": ["teleport"]}
    (lake / "feature" / log).write_text("".join(json.dumps(action) + "\n" for action in actions))
    (lake / "ice" / "metadata").mkdir(parents=True)
    (lake / "ice" / "metadata" / "v1.metadata.json").write_text("{")
    (cut,) = (lake / "cut").glob("*.parquet")
    cut.write_bytes(cut.read_bytes()[:100] + bytes(cut.stat().st_size - 100))
    (lost,) = (lake / "lost").glob("*.parquet")
    lost.unlink()
    return {"$LAKE": str(lake), "$CUT": cut.name, "$LOST": lost.name}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    lake = tmp_path_factory.mktemp("lake").resolve()
    return damaged(lake)


@pytest.fixture(scope="module")
def server(oidc, words, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), config=oidc.section + LIMITS, allowed_paths=[words["$LAKE"]]) as server:
        pid = server.process.pid
        yield server
        assert server.process.pid == pid and server.alive()


@pytest.fixture(scope="module")
def admin(server, words):
    with server.connect() as connection:
        run(connection, "CREATE TABLE dup AS SELECT 1 AS a")
        for name in ("cut", "lost"):
            run(connection, f"CREATE EXTERNAL TABLE {name} STORED AS DELTA LOCATION '{words['$LAKE']}/{name}'")
        yield connection


@pytest.fixture(autouse=True)
def answers_afterwards(admin):
    yield
    assert one(admin, "SELECT 1") == 1


def without_ids(text):
    return re.sub(r"\b[0-9a-f]{32}\b", "<id>", text)


def adbc_failure(act):
    """The gRPC status and the text of what must fail."""
    try:
        act()
    except adbc_driver_manager.Error as error:
        found = re.fullmatch(r"[A-Z_]+: (?:\[FlightSQL\] )?(.*) \((\w+); .*\)", str(error).split("\nDetail")[0].strip(), re.DOTALL)
        assert found, str(error)
        return found[2], without_ids(found[1])
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(("sql", "status", "text"), SQL, ids=lambda value: value[:60] if isinstance(value, str) else None)
def test_statement(admin, words, sql, status, text):
    for word, value in words.items():
        sql, text = sql.replace(word, value), text.replace(word, value)
    assert adbc_failure(lambda: run(admin, sql)) == (status, text)


def test_a_huge_constant_of_a_table_function(admin):
    """It is evaluated while the statement is planned."""
    series = "SELECT count(*) FROM generate_series(1, CAST(length(repeat('x', {})) AS BIGINT))"
    failed = adbc_failure(lambda: run(admin, series.format(2_000_000_000)))
    assert failed == ("InvalidArgument", "Argument #2 must be an INTEGER or NULL")
    assert one(admin, series.format(1000)) == 1000


def test_a_constant_is_repeated_a_few_rows_at_a_time(admin):
    """A megabyte in each of some thousand rows is more than an array can hold."""
    with admin.cursor() as cursor:
        cursor.execute("SELECT repeat('x', 1000000) AS x, value FROM generate_series(1, 8000)")
        batch = cursor.fetch_record_batch().read_next_batch()
        assert len(batch["x"][0].as_py()) == 1000000


def test_a_row_too_large_for_a_message(oidc, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("large")) as server, server.connect() as connection:
        failed = adbc_failure(lambda: run(connection, "SELECT repeat('x', 300000000) AS x"))
        assert failed == ("ResourceExhausted", "a row of the result has 300000008 bytes, the limit is 268435456")


@pytest.mark.parametrize(
    ("sql", "parameters", "status", "text"),
    [
        ("SELECT ?", (1, 2), "InvalidArgument", "the statement has 1 parameters, and 2 were given"),
        ("SELECT ? + ?", (1,), "InvalidArgument", "the statement has 2 parameters, and 1 were given"),
        ("SELECT 1", (1,), "InvalidArgument", "the statement has 0 parameters, and 1 were given"),
        ("SELECT a FROM dup WHERE a = ?", ("x",), "InvalidArgument", "parameter $1 cannot be read as Int64"),
    ],
)
def test_parameters(admin, sql, parameters, status, text):
    assert adbc_failure(lambda: support.table(admin, sql, parameters)) == (status, text)


# --- credentials ---


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def claims(oidc):
    return {"iss": oidc.issuer, "sub": "ana", "aud": "lazaret", "iat": int(time.time()), "exp": int(time.time()) + 600}


def foreign_key_token(oidc, kid=None):
    """Signed with another key, under the name of the provider's key."""
    header = jwt.get_unverified_header(oidc.token("ana"))
    return jwt.encode(claims(oidc), rsa.generate_private_key(65537, 2048), "RS256", {"kid": kid or header["kid"]})


def other_body(oidc):
    header, _, signature = oidc.token("ana").split(".")
    return ".".join([header, encoded(claims(oidc) | {"sub": "rui"}), signature])


CREDENTIALS = {
    "wrong password": lambda oidc: {"password": "wrong"},
    "empty password": lambda oidc: {"password": ""},
    "unknown user": lambda oidc: {"user": "nobody"},
    "malformed token": lambda oidc: {"token": "not.a.token"},
    "no token at all": lambda oidc: {"token": "x"},
    "expired token": lambda oidc: {"token": oidc.token("ana", exp=1_700_000_000)},
    "token of the future": lambda oidc: {"token": oidc.token("ana", nbf=int(time.time()) + 3600)},
    "token of another issuer": lambda oidc: {"token": oidc.token("ana", iss="https://elsewhere.example.org")},
    "token for another audience": lambda oidc: {"token": oidc.token("ana", aud="another")},
    "token of another key": lambda oidc: {"token": foreign_key_token(oidc)},
    "token of an unknown key": lambda oidc: {"token": foreign_key_token(oidc, "unknown")},
    "unsigned token": lambda oidc: {"token": f'{encoded({"alg": "none", "typ": "JWT"})}.{encoded(claims(oidc))}.'},
    "other claims under a signature": lambda oidc: {"token": other_body(oidc)},
    "oversized token": lambda oidc: {"token": oidc.token("ana", padding="x" * 12_000)},
}


@pytest.mark.parametrize("credential", CREDENTIALS.values(), ids=CREDENTIALS.keys())
def test_credential(server, oidc, credential):
    def connect():
        with server.connect(**credential(oidc)) as connection:
            one(connection, "SELECT 1")

    assert adbc_failure(connect) == ("Unauthenticated", UNAUTHENTICATED)


# --- the protocol, byte by byte ---


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def command(name, *fields):
    return field(1, f"type.googleapis.com/arrow.flight.protocol.sql.{name}") + field(2, b"".join(fields))


def descriptor(of):
    return field(1, 2) + field(2, of)


def first_bytes(message, number):
    """The first field of that number, of a message of short fields before it."""
    at = 0
    while at < len(message):
        tag, at = message[at], at + 1
        size = shift = 0
        while True:
            byte, at = message[at], at + 1
            size, shift = size | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        if tag == number << 3 | 2:
            return message[at : at + size]
        at += size
    raise AssertionError("no such field")


class Raw:
    """Calls that no driver would make."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        with flight.connect(server.url) as client:
            self.header = client.authenticate_basic_token("admin", support.ADMIN_PASSWORD)
            options = flight.FlightCallOptions(headers=[self.header])
            action = flight.Action("CreatePreparedStatement", command("ActionCreatePreparedStatementRequest", field(1, "SELECT ?")))
            (result,) = client.do_action(action, options)
            self.handle = first_bytes(first_bytes(result.body.to_pybytes(), 2), 1)
            query = flight.FlightDescriptor.for_command(command("CommandStatementQuery", field(1, "SELECT 1")))
            self.ticket = client.get_flight_info(query, options).endpoints[0].ticket.ticket

    def call(self, method, message, framed=True):
        """The gRPC status and the text."""
        body = self.folder / "body"
        body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message if framed else message)
        name, value = (part.decode() for part in self.header)
        arguments = ["-H", f"{name}: {value}", "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "expect:"]
        url = f"http://{self.server.address}/arrow.flight.protocol.FlightService/{method}"
        arguments += ["-s", "-D", "-", "-o", "/dev/null", "--max-time", "30", "--data-binary", f"@{body}", url]
        done = subprocess.run(["curl", "--http2-prior-knowledge", *arguments], capture_output=True, text=True)
        headers = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
        assert "grpc-status" in headers, (done.stdout, done.stderr, done.returncode)
        return int(headers["grpc-status"]), without_ids(urllib.parse.unquote(headers.get("grpc-message", "")))


@pytest.fixture(scope="module")
def raw(server, tmp_path_factory):
    return Raw(server, tmp_path_factory.mktemp("raw"))


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def bind(handle, header, body=b""):
    return field(1, descriptor(command("CommandPreparedStatementQuery", field(1, handle)))) + field(2, header) + field(1000, body)


def ipc(position):
    """The header of a good Arrow message: of the schema, or of the batch with its body."""
    batch = pa.record_batch({"a": [1, 2, 3]})
    if position == 0:
        return batch.schema.serialize().to_pybytes()[8:]
    return batch.serialize().to_pybytes()[8:]


UNKNOWN_TICKET = "ticket not found: its handle is unknown, closed or expired"
UNKNOWN_HANDLE = "prepared statement not found: its handle is unknown, closed or expired"
NOT_A_COMMAND = "a Flight SQL command is expected, packed in a protobuf Any"

# RPC, message, gRPC status, text.
PROTOCOL = {
    "tampered ticket": ("DoGet", lambda raw: field(1, flipped(raw.ticket, len(raw.ticket) - 1)), 5, UNKNOWN_TICKET),
    "cut ticket": ("DoGet", lambda raw: field(1, raw.ticket[:-5]), 3, NOT_A_COMMAND),
    "made-up ticket": ("DoGet", lambda raw: field(1, command("TicketStatementQuery", field(1, b"x" * 32))), 5, UNKNOWN_TICKET),
    "ticket of garbage": ("DoGet", lambda raw: field(1, b"\xff" * 40), 3, NOT_A_COMMAND),
    "empty ticket": ("DoGet", lambda raw: b"", 3, NOT_A_COMMAND),
    "unknown prepared handle": ("GetFlightInfo", lambda raw: descriptor(command("CommandPreparedStatementQuery", field(1, b"x" * 48))), 5, UNKNOWN_HANDLE),
    "tampered prepared handle": ("GetFlightInfo", lambda raw: descriptor(command("CommandPreparedStatementQuery", field(1, flipped(raw.handle, 0)))), 5, UNKNOWN_HANDLE),
    "unknown command": ("GetFlightInfo", lambda raw: descriptor(command("CommandNonsense")), 12, "not supported yet: this command, which is not one of Flight SQL's"),
    "command of garbage": ("GetFlightInfo", lambda raw: descriptor(b"\xff" * 40), 3, NOT_A_COMMAND),
    "statement that is not UTF-8": ("GetFlightInfo", lambda raw: descriptor(command("CommandStatementQuery", field(1, b"SELECT '\xff'"))), 3, "a Flight SQL command that cannot be decoded"),
    "substrait plan": ("GetFlightInfo", lambda raw: descriptor(command("CommandStatementSubstraitPlan", field(1, field(1, b"x")))), 12, "not supported yet: CommandStatementSubstraitPlan"),
    "unknown action": ("DoAction", lambda raw: field(1, "NoSuchAction"), 3, "unknown action: ListActions names those there are"),
    "message that is not protobuf": ("GetFlightInfo", lambda raw: b"\xff" * 40, 13, "failed to decode Protobuf message: invalid varint"),
    "unknown method": ("NoSuchMethod", lambda raw: b"", 12, ""),
    "upload without a descriptor": ("DoPut", lambda raw: field(2, b"x"), 3, "the first message of an upload has no descriptor"),
    "IPC of garbage": ("DoPut", lambda raw: bind(raw.handle, b"\xab" * 64, b"\xcd" * 64), 3, "malformed Arrow data: a message header is not Arrow's"),
    "IPC without a batch's schema": ("DoPut", lambda raw: bind(raw.handle, ipc(1), b"\0" * 64), 3, "malformed Arrow data: it cannot be decoded"),
    "cut IPC schema": ("DoPut", lambda raw: bind(raw.handle, ipc(0)[:40]), 3, "malformed Arrow data: a message header is not Arrow's"),
    "upload for an unknown handle": ("DoPut", lambda raw: bind(b"x" * 48, ipc(0)), 5, UNKNOWN_HANDLE),
    "empty upload": ("DoPut", lambda raw: b"", 3, "the first message of an upload has no descriptor"),
}


@pytest.mark.parametrize(("method", "message", "status", "text"), PROTOCOL.values(), ids=PROTOCOL.keys())
def test_protocol(raw, method, message, status, text):
    assert raw.call(method, message(raw)) == (status, text)


def test_oversized_message(raw):
    """Refused by the length that it declares."""
    assert raw.call("GetFlightInfo", b"\0" + struct.pack(">I", 33 << 20) + bytes(100), framed=False) == (
        11,
        "Error, decoded message length too large: found 34603008 bytes, the limit is: 33554432 bytes",
    )


def test_message_that_ends_early(raw):
    assert raw.call("GetFlightInfo", b"\0" + struct.pack(">I", 1000) + bytes(100), framed=False) == (13, "Unexpected EOF decoding stream.")
