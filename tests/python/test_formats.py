"""Tables of other writers: Delta from local folders, Iceberg from a real S3 server, and Parquet that is broken on purpose."""

import json
import uuid

import adbc_driver_manager
import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import support
from support import assert_same_rows, failure, one, quoted, literal, table


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def server(lake, s3, shared, tmp_path_factory):
    allowed = [lake, shared / "parquet-bad"]
    with support.serving(tmp_path_factory.mktemp("server"), allowed_paths=allowed, config=s3.store) as server:
        yield server


def cases(folder):
    """One parameter for each archive of a folder."""
    found = support.archives(folder)
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason=support.NO_SHARED))]
    return [pytest.param(path, id=path.name.removesuffix(".tar.zst")) for path in found]


def register(connection, name, stored_as, location):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE EXTERNAL TABLE {quoted(name)} STORED AS {stored_as} LOCATION {literal(location)}")
        cursor.fetch_arrow_table()


def read_parquet(files):
    """Spark's INT96 has no zone and nominal nanoseconds."""
    return pa.concat_tables([pq.ParquetFile(path, coerce_int96_timestamp_unit="us").read() for path in files])


# --- the set of delta-kernel-rs ---

# What cannot be read, and what the error says of it. The others have rows that are known.
REFUSED_DELTA = {
    "unshredded-variant": "variantType",
    "versions-not-contiguous/delta": "version",
    "deltalog-commit-info/delta": "metadata",
    "update-deleted-directory/delta": "schemaString",
    "delete-re-add-same-file-different-transactions/delta": "file",
}


@pytest.mark.parametrize("archive", cases("delta"))
def test_delta_of_other_writers(archive, admin, lake):
    folder = support.unpack(archive, lake / "delta" / archive.name)
    (top,) = folder.iterdir()
    locations = sorted(log.parent for log in folder.rglob("_delta_log"))
    assert locations
    for index, location in enumerate(locations):
        name = f"delta {top.name} {index}"
        wanted = REFUSED_DELTA.get(location.relative_to(folder).as_posix())
        if wanted is not None:
            assert_named_failure(admin, name, "DELTA", location, wanted)
        else:
            register(admin, name, "DELTA", location)
            expected = sorted((top / "expected").glob("*.parquet"))
            if expected:
                got, wanted = without_zones(table(admin, f"SELECT * FROM {quoted(name)}"), read_parquet(expected))
                if top.name == "data-reader-partition-values":
                    wanted = in_wall_clock(wanted, "as_timestamp", "America/Los_Angeles")
                assert_same_rows(got, wanted, types=False)
            else:
                assert one(admin, f"SELECT count(*) FROM {quoted(name)}") == rows_by_deltalake(location)
                assert table(admin, f"SELECT * FROM {quoted(name)}").num_rows == rows_by_deltalake(location)
    assert one(admin, "SELECT 1") == 1


def rows_by_deltalake(location):
    reader = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(location))
    return pa.table(reader.execute("SELECT count(*) AS n FROM t").read_all())["n"][0].as_py()


def without_zones(*tables):
    """Spark wrote these as INT96, which knows no zone: the instant is what counts."""

    def bare(kind):
        return pa.timestamp("us") if pa.types.is_timestamp(kind) else kind

    return [each.cast(pa.schema([field.with_type(bare(field.type)) for field in each.schema])) for each in tables]


def in_wall_clock(result, name, zone):
    """Partition values of a timestamp without zone mean UTC to us; whoever wrote these was elsewhere."""
    index = result.column_names.index(name)
    local = pc.local_timestamp(pc.assume_timezone(result[name], "UTC").cast(pa.timestamp("us", zone)))
    return result.set_column(index, name, local)


def assert_named_failure(connection, name, stored_as, location, wanted):
    """Refused when it is made, or when it is read: by name, and not as an error of ours."""
    try:
        register(connection, name, stored_as, location)
        error = failure(connection, f"SELECT * FROM {quoted(name)}")
    except adbc_driver_manager.Error as refused:
        error = refused
    assert "INTERNAL" not in str(error)
    assert wanted.lower() in str(error).lower()


# --- what Spark wrote, with the rows that a correct reader returns ---


def about(folder):
    return json.loads((folder / "about.json").read_text())


@pytest.mark.parametrize("archive", cases("delta-spark"))
def test_delta_of_spark(archive, admin, lake, s3):
    folder = support.unpack(archive, lake / "delta-spark" / archive.name)
    facts = about(folder)
    location = folder / "table"
    if facts["name"] == "shallow-clone":  # its log names files by their place on S3
        s3.upload(location, facts["name"])
        location = facts["location"]
    check_spark(admin, folder, facts, "DELTA", location)


# What is not read yet says so by name, and never gives wrong rows.
NOT_YET = {
    "variant": "variant",
    "v3-variant": "variant",
    "v3-defaults": "default value",
    "avro-files": "avro",
    "unknown-reader-feature": "quantumRows",
}


@pytest.mark.parametrize("archive", cases("iceberg"))
def test_iceberg_of_spark_on_s3(archive, admin, lake, s3):
    folder = support.unpack(archive, lake / "iceberg" / archive.name)
    facts = about(folder)
    s3.upload(folder / "table", facts["name"])
    check_spark(admin, folder, facts, "ICEBERG", f"{facts['location']}/{facts['metadata_file']}")


def check_spark(connection, folder, facts, stored_as, location):
    name = f"{stored_as} {facts['name']}"
    if facts["name"] in NOT_YET:
        assert_named_failure(connection, name, stored_as, location, NOT_YET[facts["name"]])
    else:
        register(connection, name, stored_as, location)
        expected = pq.ParquetFile(folder / "expected" / "expected.parquet").read()
        assert expected.num_rows == facts["rows"]
        assert_same_rows(with_uuids_as_text(table(connection, f"SELECT * FROM {quoted(name)}"), expected), expected)
        assert one(connection, f"SELECT count(*) FROM {quoted(name)}") == facts["rows"]
        for probe in facts["probes"]:
            where = probe["where"]
            assert one(connection, f"SELECT count(*) FROM {quoted(name)} WHERE {where}") == probe["count"], where
            assert table(connection, f"SELECT * FROM {quoted(name)} WHERE {where}").num_rows == probe["count"], where
    assert one(connection, "SELECT 1") == 1


def with_uuids_as_text(got, expected):
    """A UUID is 16 bytes to us, and text in `expected`."""
    for index, (field, wanted) in enumerate(zip(got.schema, expected.schema)):
        if field.type == pa.binary(16) and pa.types.is_string(wanted.type):
            texts = [value and str(uuid.UUID(bytes=value)) for value in got.column(index).to_pylist()]
            got = got.set_column(index, field.name, pa.array(texts, pa.string()))
    return got


# --- malformed on purpose ---


@pytest.mark.parametrize("file", ["ARROW-GH-43605", "ARROW-GH-45185", "PARQUET-1481", "ARROW-RS-GH-6229-LEVELS"])
def test_malformed_parquet(file, admin, server, shared):
    location = shared / "parquet-bad" / f"{file}.parquet"
    try:
        register(admin, file, "PARQUET", location)
        result = table(admin, f"SELECT * FROM {quoted(file)}")
    except adbc_driver_manager.Error as error:
        assert "INTERNAL" not in str(error)
        assert str(shared) not in str(error)
    else:
        assert (file, result.num_rows) == ("ARROW-GH-43605", 21_186)
    assert server.alive()
    assert one(admin, "SELECT 1") == 1
