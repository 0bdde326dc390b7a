"""INSERT INTO Delta tables: what was acknowledged is there once, for us and for other readers; what was refused is not there."""

import datetime
import decimal
import json
import random
import threading

import adbc_driver_manager
import deltalake
import duckdb
import pyarrow as pa
import pyarrow.parquet
import pytest

import support
from support import assert_same_multiset, failure, literal, multiset, one, rows, run, table

STATUS = adbc_driver_manager.AdbcStatusCode
PASSWORD = "a long password"
TEST_S = 600


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def server(lake, s3, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), allowed_paths=[lake], config=s3.store) as server:
        yield server


def insert(connection, sql, parameters=None):
    """How many rows a driver is told."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        cursor.fetchall()
        return cursor.rowcount


def insert_many(connection, sql, parameters):
    with connection.cursor() as cursor:
        cursor.executemany(sql, parameters)
        return cursor.rowcount


def folder(server, name):
    """The folder of a managed table."""
    (path,) = [path for path in (server.data_dir / "warehouse").iterdir() if marked(path, name)]
    return path


def marked(path, name):
    """Tables of these tests have a column of their own name."""
    log = (path / "_delta_log" / "00000000000000000000.json").read_text()
    return f'\\"{name}\\"' in log


def commits(path):
    return sorted(file.name for file in (path / "_delta_log").glob("*.json"))


TYPES = """SELECT CAST(1 AS TINYINT) AS types, CAST(2 AS SMALLINT) AS i16, CAST(3 AS INT) AS i32, CAST(4 AS BIGINT) AS i64,
    CAST(0.5 AS REAL) AS f32, CAST(0.25 AS DOUBLE) AS f64, CAST(1.25 AS DECIMAL(12, 3)) AS dec, true AS b, 'x' AS s, X'00ff' AS x,
    DATE '2024-02-29' AS d, TIMESTAMP '2024-02-29 12:34:56.789' AS ntz, TIMESTAMPTZ '2024-02-29T12:34:56.789Z' AS tz,
    make_array(1, NULL) AS list, named_struct('a', 1, 'b', 'y') AS st"""


def test_every_type_as_parameters(server, admin):
    """A driver binds rows of every type; all rows of one call come in with one version, and other readers see them."""
    run(admin, f"CREATE TABLE types PARTITIONED BY (s) AS SELECT t.* FROM (SELECT 1 AS one) AS o LEFT JOIN ({TYPES}) AS t ON true")
    path = folder(server, "types")
    schema = pa.schema(
        [
            ("types", pa.int8()), ("i16", pa.int16()), ("i32", pa.int32()), ("i64", pa.int64()), ("f32", pa.float32()),
            ("f64", pa.float64()), ("dec", pa.decimal128(12, 3)), ("b", pa.bool_()), ("s", pa.string()), ("x", pa.binary()),
            ("d", pa.date32()), ("ntz", pa.timestamp("us")), ("tz", pa.timestamp("us", "UTC")), ("list", pa.list_(pa.int64())),
            ("st", pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ]
    )
    utc = datetime.timezone.utc
    values = [
        [-8, -16, -32, -64, -0.5, float("nan"), decimal.Decimal("-1.125"), False, "a/b=c%20 ü", b"\xff", datetime.date(1, 1, 1),
         datetime.datetime(1999, 12, 31, 23, 59, 59, 999999), datetime.datetime(2199, 1, 1, tzinfo=utc), [7], {"a": 3, "b": None}],
        [None] * len(schema),
        [127, 32767, 2**31 - 1, 2**63 - 1, 1e30, 1e300, decimal.Decimal("999999999.999"), True, "z", b"", datetime.date(9999, 12, 31),
         datetime.datetime(1970, 1, 1), datetime.datetime(1960, 1, 1, tzinfo=utc), [], None],
    ]
    batch = pa.RecordBatch.from_pydict({field.name: pa.array(column, field.type) for field, column in zip(schema, zip(*values))}, schema)
    before = commits(path)
    marks = ", ".join("?" for _ in schema)
    assert insert_many(admin, f"INSERT INTO types VALUES ({marks})", batch) == 3
    assert len(commits(path)) == len(before) + 1

    ours = table(admin, "SELECT * FROM types WHERE types <> 1 OR types IS NULL")
    assert_same_multiset(multiset(ours), multiset(pa.Table.from_batches([batch])))
    delta = deltalake.DeltaTable(str(path))
    theirs = delta.to_pyarrow_table().select(ours.column_names).filter(pa.compute.field("types").is_null() | (pa.compute.field("types") != 1))
    assert_same_multiset(multiset(theirs), multiset(ours))
    # The partition's column lies in the log, the others in the files.
    with duckdb.connect() as duck:
        duck.execute("SET TimeZone = 'UTC'")
        names = [name for name in ours.column_names if name != "s"]
        found = duck.sql(f"SELECT {', '.join(names)} FROM read_parquet(?) WHERE types IS DISTINCT FROM 1", params=[delta.file_uris()])
        assert_same_multiset(multiset(found.to_arrow_table()), multiset(ours.select(names)))


def test_statistics_are_in_the_log(server, admin):
    run(admin, "CREATE TABLE figures (figures BIGINT, t VARCHAR)")
    insert(admin, "INSERT INTO figures SELECT value, CASE WHEN value > 2 THEN concat('t', CAST(value AS VARCHAR)) END FROM generate_series(2, 9)")
    path = folder(server, "figures")
    added = [json.loads(line) for line in (path / "_delta_log" / "00000000000000000001.json").read_text().splitlines()]
    (stats,) = [json.loads(action["add"]["stats"]) for action in added if "add" in action]
    expected = {"numRecords": 8, "minValues": {"figures": 2, "t": "t3"}, "maxValues": {"figures": 9, "t": "t9"}, "nullCount": {"figures": 0, "t": 1}}
    assert stats == expected
    (info,) = [action["commitInfo"] for action in added if "commitInfo" in action]
    assert (info["operation"], info["isBlindAppend"], info["operationMetrics"]["numOutputRows"]) == ("WRITE", True, "8")


def test_counts_by_every_path(server, admin):
    """Whichever way a driver takes, the statement runs once, and it is told how many rows there were."""
    run(admin, "CREATE TABLE paths AS SELECT 0 AS paths")
    assert insert(admin, "INSERT INTO paths VALUES (1), (2)") == 2
    assert insert(admin, "INSERT INTO paths VALUES (?)", [3]) == 1
    assert insert_many(admin, "INSERT INTO paths VALUES (?)", [[4], [5], [6]]) == 3
    assert insert_many(admin, "INSERT INTO paths VALUES (?), (? + 100)", [[7, 8], [9, 10]]) == 4
    assert insert_many(admin, "INSERT INTO paths SELECT paths + ? FROM paths WHERE paths = ?", [[1000, 1], [2000, 2]]) == 2
    assert insert(admin, "INSERT INTO paths SELECT paths FROM paths WHERE paths > 100000") == 0
    # GetFlightInfo runs it; nobody fetches.
    with admin.cursor() as cursor:
        cursor.execute("INSERT INTO paths VALUES (11)")
    # A statement that was prepared runs as often as it is executed.
    with admin.cursor() as cursor:
        for value in (12, 13):
            cursor.execute("INSERT INTO paths VALUES ($1)", [value])
            cursor.fetchall()
    found = [value for (value,) in rows(admin, "SELECT paths FROM paths ORDER BY paths")]
    assert found == [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 108, 110, 1001, 2002]
    assert len(commits(folder(server, "paths"))) == 9


def test_one_bad_row_of_parameters_refuses_all(server, admin):
    run(admin, "CREATE TABLE whole AS SELECT 0 AS whole", "CREATE POLICY small ON TABLE whole TO ALL USING (whole < 100)")
    path = folder(server, "whole")
    for bad in (1000, None):
        error = pytest.raises(adbc_driver_manager.Error, insert_many, admin, "INSERT INTO whole VALUES (?)", [[1], [2], [bad]])
        assert "whole" in str(error.value) or "parameter" in str(error.value)
    assert rows(admin, "SELECT whole FROM whole") == [(0,)]
    assert commits(path) == ["00000000000000000000.json"]
    # What was written for nothing is gone.
    assert len(list(path.glob("*.parquet"))) == 1


def test_acknowledged_rows_are_seen_at_once_by_all(server, admin):
    """Many writers at once, each reads its own write at once; all rows are there, once, one version for each statement."""
    run(admin, "CREATE TABLE crowd AS SELECT CAST(-1 AS BIGINT) AS crowd")
    writers, each, problems = 8, 12, []

    def write(number):
        try:
            with server.connect() as mine, server.connect() as other:
                for turn in range(each):
                    value = number * each + turn
                    assert insert(mine, "INSERT INTO crowd VALUES (?)", [value]) == 1
                    assert one(other, "SELECT count(*) FROM crowd WHERE crowd = ?", [value]) == 1
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_S)
    assert not problems, problems[0]
    assert sorted(rows(admin, "SELECT crowd FROM crowd")) == [(value,) for value in range(-1, writers * each)]
    path = folder(server, "crowd")
    delta = deltalake.DeltaTable(str(path))
    assert delta.version() == writers * each
    assert sorted(delta.to_pyarrow_table()["crowd"].to_pylist()) == list(range(-1, writers * each))
    # Some versions are summed up, and a reader that begins there finds the same.
    assert list((path / "_delta_log").glob("*.checkpoint.parquet"))


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_an_external_table(where, server, admin, lake, s3):
    """A table of somebody else's, partitioned: we add, they add, both see all of it."""
    if where == "s3":
        location, options = "s3://lake/theirs", {
            "AWS_ENDPOINT_URL": s3.endpoint, "AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_REGION": s3.region, "AWS_ALLOW_HTTP": "true", "conditional_put": "etag",
        }
    else:
        location, options = str(lake / "theirs"), None
    first = pa.table({"place": ["x", None], "n": pa.array([1, 2], pa.int64()), "t": ["a", "b"]})
    deltalake.write_deltalake(location, first, partition_by=["place"], storage_options=options)
    run(admin, f"CREATE EXTERNAL TABLE theirs_{where} STORED AS DELTA LOCATION {literal(location)}")
    assert insert(admin, f"INSERT INTO theirs_{where} (n, place) VALUES (3, 'y z/ü%'), (4, NULL)") == 2
    deltalake.write_deltalake(location, pa.table({"place": ["x"], "n": pa.array([5], pa.int64()), "t": ["c"]}), mode="append", storage_options=options)
    assert insert(admin, f"INSERT INTO theirs_{where} SELECT place, n + 100, t FROM theirs_{where} WHERE n <= 2") == 2
    # By far more than one part of an upload.
    noise = "encode(sha512(concat(CAST(value AS VARCHAR), 'x')), 'hex')"
    assert insert(admin, f"INSERT INTO theirs_{where} (n, t) SELECT value, {noise} FROM generate_series(1000, 300999)") == 300_000
    ours = table(admin, f"SELECT place, n, t FROM theirs_{where}")
    theirs = deltalake.DeltaTable(location, storage_options=options).to_pyarrow_table().select(["place", "n", "t"])
    assert ours.num_rows == 300_007
    assert_same_multiset(multiset(ours), multiset(theirs))
    assert {row[0] for row in rows(admin, f"SELECT place FROM theirs_{where} WHERE n < 1000")} == {"x", None, "y z/ü%"}
    # Nothing stays behind where the files were made.
    known = [path for path in (server.data_dir / "warehouse").iterdir() if not (path / "_delta_log").is_dir()]
    assert known == []


def test_both_write_at_the_same_time(server, admin, lake):
    """Appends of ours and of another engine race for the same versions; none is lost, none is there twice."""
    location = lake / "race"
    deltalake.write_deltalake(location, pa.table({"n": pa.array([-1], pa.int64())}))
    run(admin, f"CREATE EXTERNAL TABLE race STORED AS DELTA LOCATION {literal(location)}")
    problems, each = [], 25

    def theirs():
        try:
            for value in range(each):
                deltalake.write_deltalake(location, pa.table({"n": pa.array([1000 + value], pa.int64())}), mode="append")
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=theirs)
    thread.start()
    for value in range(each):
        assert insert(admin, "INSERT INTO race VALUES (?)", [value]) == 1
    thread.join(TEST_S)
    assert not problems, problems[0]
    expected = sorted([-1, *range(each), *range(1000, 1000 + each)])
    assert sorted(deltalake.DeltaTable(location).to_pyarrow_table()["n"].to_pylist()) == expected
    run(admin, "CREATE TABLE race_seen AS SELECT n FROM race")
    assert [value for (value,) in rows(admin, "SELECT n FROM race_seen ORDER BY n")] == expected


def with_protocol(location, protocol, configuration=None, metadata=None):
    """Rewrites the first commit of a table of one column, as another writer would have made it."""
    deltalake.write_deltalake(location, pa.table({"n": pa.array([1], pa.int64())}))
    log = location / "_delta_log" / "00000000000000000000.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "protocol" in action:
            action["protocol"] = protocol
        if "metaData" in action:
            action["metaData"]["configuration"] = configuration or {}
            schema = json.loads(action["metaData"]["schemaString"])
            schema["fields"][0]["metadata"] = metadata or {}
            action["metaData"]["schemaString"] = json.dumps(schema)
    log.write_text("".join(json.dumps(action) + "\n" for action in actions))


FEATURES = {
    "rowTracking": ({"writerFeatures": ["rowTracking", "domainMetadata"]}, {"delta.enableRowTracking": "true"}, {}),
    "clustering": ({"writerFeatures": ["clustering", "domainMetadata"]}, {}, {}),
    "inCommitTimestamp": ({"writerFeatures": ["inCommitTimestamp"]}, {"delta.enableInCommitTimestamps": "true"}, {}),
    "checkConstraints": ({"writerFeatures": ["checkConstraints"]}, {"delta.constraints.positive": "n > 0"}, {}),
    "generatedColumns": ({"writerFeatures": ["generatedColumns"]}, {}, {"delta.generationExpression": "1 + 1"}),
    "identityColumns": ({"writerFeatures": ["identityColumns"]}, {}, {"delta.identity.start": 1, "delta.identity.step": 1}),
    "invariants": ({"writerFeatures": ["invariants"]}, {}, {"delta.invariants": '{"expression": {"expression": "n > 3"}}'}),
    "allowColumnDefaults": ({"writerFeatures": ["allowColumnDefaults"]}, {}, {"CURRENT_DEFAULT": "7"}),
    "columnMapping": (
        {"readerFeatures": ["columnMapping"], "writerFeatures": ["columnMapping"]},
        {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "1"},
        {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "n"},
    ),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_that_is_not_kept_refuses_the_table(feature, admin, lake):
    features, configuration, metadata = FEATURES[feature]
    location = lake / f"feature_{feature}"
    protocol = {"minReaderVersion": 3 if "readerFeatures" in features else 1, "minWriterVersion": 7, **features}
    with_protocol(location, protocol, configuration, metadata)
    run(admin, f"CREATE EXTERNAL TABLE f_{feature} STORED AS DELTA LOCATION {literal(location)}")
    assert rows(admin, f"SELECT n FROM f_{feature}") == [(1,)]
    error = failure(admin, f"INSERT INTO f_{feature} VALUES (2)")
    assert error.status_code == STATUS.NOT_IMPLEMENTED
    assert feature in str(error)
    assert commits(location) == ["00000000000000000000.json"]


@pytest.mark.parametrize(
    "protocol, configuration",
    [
        ({"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["appendOnly", "changeDataFeed"]}, {"delta.appendOnly": "true", "delta.enableChangeDataFeed": "true"}),
        ({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}, {"delta.enableDeletionVectors": "true"}),
        ({"minReaderVersion": 1, "minWriterVersion": 4}, {}),
    ],
)
def test_a_feature_that_asks_nothing_of_an_append(protocol, configuration, admin, lake):
    name = f"plain_{abs(hash(json.dumps(protocol)))}"
    with_protocol(lake / name, protocol, configuration)
    run(admin, f"CREATE EXTERNAL TABLE {name} STORED AS DELTA LOCATION {literal(lake / name)}")
    assert insert(admin, f"INSERT INTO {name} VALUES (2)") == 1
    assert rows(admin, f"SELECT n FROM {name} ORDER BY n") == [(1,), (2,)]
    # deltalake's reader knows no deletion vectors; its log does.
    files = deltalake.DeltaTable(lake / name).file_uris()
    assert sorted(pa.parquet.read_table(file)["n"].to_pylist() for file in files) == [[1], [2]]


def test_what_was_revoked_or_laid_since_it_was_prepared_counts(server, admin):
    run(admin, "CREATE TABLE later AS SELECT 0 AS later", f"CREATE USER bia PASSWORD '{PASSWORD}'", "GRANT INSERT ON TABLE later TO USER bia")
    with server.connect("bia", PASSWORD) as bia, bia.cursor() as cursor:
        cursor.adbc_prepare("INSERT INTO later VALUES (?)")
        cursor.execute("INSERT INTO later VALUES (?)", [1])
        run(admin, "CREATE POLICY positive ON TABLE later FOR INSERT TO USER bia WITH CHECK (later > 10)")
        error = pytest.raises(adbc_driver_manager.Error, cursor.execute, "INSERT INTO later VALUES (?)", [2]).value
        assert error.status_code == STATUS.UNAUTHORIZED
        assert "> 10" not in str(error) and "2" not in str(error).split("later")[-1]
        cursor.execute("INSERT INTO later VALUES (?)", [11])
        run(admin, "REVOKE INSERT ON TABLE later FROM USER bia")
        error = pytest.raises(adbc_driver_manager.Error, cursor.execute, "INSERT INTO later VALUES (?)", [12]).value
        assert error.status_code == STATUS.NOT_FOUND
    run(admin, "ALTER TABLE later DISABLE ROW LEVEL SECURITY")
    assert sorted(rows(admin, "SELECT later FROM later")) == [(0,), (1,), (11,)]


def test_another_schema_meanwhile_is_another_table(server, admin, lake):
    """A column that is added by another engine is there at the next statement, and is NULL where nobody gives it."""
    location = lake / "grows"
    deltalake.write_deltalake(location, pa.table({"n": pa.array([1], pa.int64())}))
    run(admin, f"CREATE EXTERNAL TABLE grows STORED AS DELTA LOCATION {literal(location)}")
    assert insert(admin, "INSERT INTO grows VALUES (2)") == 1
    deltalake.write_deltalake(location, pa.table({"n": pa.array([3], pa.int64()), "m": ["x"]}), mode="append", schema_mode="merge")
    statement = "INSERT INTO grows (n) VALUES (4)"
    try:
        assert insert(admin, statement) == 1
    except adbc_driver_manager.Error as error:
        # Planned on what was there a second ago: nothing was written, and it can be said again.
        assert "changed by another writer" in str(error)
        assert insert(admin, statement) == 1
    found = deltalake.DeltaTable(location).to_pyarrow_table().select(["n", "m"]).to_pylist()
    assert sorted(found, key=lambda row: row["n"]) == [{"n": n, "m": "x" if n == 3 else None} for n in (1, 2, 3, 4)]


class Inserter:
    """A client that adds to one table of its own, and knows what was acknowledged."""

    def __init__(self, number):
        self.table, self.random, self.next = f"k{number}", random.Random(number), 0
        self.sure, self.unsure = set(), []

    def work(self, server, begin):
        try:
            with server.connect() as connection, connection.cursor() as cursor:
                begin.wait(60)
                while True:
                    count = self.random.choice([1, 3, 2000])
                    values = range(self.next, self.next + count)
                    self.next += count
                    self.unsure.append(values)
                    if self.random.random() < 0.5:
                        cursor.executemany(f"INSERT INTO {self.table} VALUES (?, ?)", [[value, value % 3] for value in values])
                    else:
                        cursor.execute(f"INSERT INTO {self.table} SELECT value, value % 3 FROM generate_series({values[0]}, {values[-1]})")
                        cursor.fetchall()
                    self.unsure.pop()
                    self.sure.update(values)
        except (adbc_driver_manager.Error, threading.BrokenBarrierError):
            begin.abort()

    def check(self, server, connection):
        """All that was acknowledged, and what was not as a whole or not at all; for us and for another reader."""
        found = [value for (value,) in rows(connection, f"SELECT {self.table} FROM {self.table} WHERE {self.table} >= 0")]
        assert len(found) == len(set(found)), "rows are there twice"
        found = set(found)
        for values in self.unsure:
            if found & set(values):
                assert set(values) <= found, "a half of a statement"
                self.sure.update(values)
        self.unsure.clear()
        assert found == self.sure
        theirs = deltalake.DeltaTable(folder(server, self.table)).to_pyarrow_table()[self.table].to_pylist()
        assert set(theirs) - {-1} == self.sure and len(theirs) == len(self.sure) + 1


def test_killed_at_any_moment(tmp_path):
    moments = random.Random(5)
    workers = [Inserter(number) for number in range(3)]
    with support.serving(tmp_path / "server") as server:
        with server.connect() as connection:
            for worker in workers:
                partitions = " PARTITIONED BY (p)" if worker.table == "k1" else ""
                run(connection, f"CREATE TABLE {worker.table}{partitions} AS SELECT CAST(-1 AS BIGINT) AS {worker.table}, CAST(0 AS BIGINT) AS p")
        acknowledged = 0
        for _ in range(25):
            begin = threading.Barrier(len(workers) + 1)
            threads = [threading.Thread(target=worker.work, args=(server, begin), daemon=True) for worker in workers]
            for thread in threads:
                thread.start()
            begin.wait(60)
            threads[0].join(moments.uniform(0.0, 0.5))
            server.kill()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
            server.start()
            with server.connect() as connection:
                for worker in workers:
                    worker.check(server, connection)
                    acknowledged += len(worker.sure)
        assert acknowledged > 1000
