"""Tables that are removed, and made anew in the same place, while the server has them; and files that do not fit together."""

import shutil
import time

import adbc_driver_manager
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

import support
from support import failure, one, rows, run

PASSWORD = "a long password"

OLD = pa.table({"id": pa.array([1, 2, 3, 4], pa.int64()), "region": pa.array([1, 1, 2, 2], pa.int64())})
NEW = pa.table({"id": pa.array([11, 12, 13, 14], pa.int64()), "sector": pa.array([1, 1, 2, 2], pa.int64())})


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def server(lake, s3, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), allowed_paths=[lake], config=s3.store) as server:
        with server.connect() as admin:
            run(admin, f"CREATE USER rui PASSWORD '{PASSWORD}'")
        yield server


def write(folder, data, commits):
    """A table of this data, with the last row in further commits."""
    shutil.rmtree(folder, ignore_errors=True)
    last = data.num_rows - commits + 1
    write_deltalake(folder, data.slice(0, last))
    for row in range(last, data.num_rows):
        write_deltalake(folder, data.slice(row, 1), mode="append")


def answers(connection, sql, wanted):
    """What a query answers until it answers what is wanted; the server may trust what it has seen for a second."""
    seen, deadline = [], time.monotonic() + support.READY_S
    while not seen or wanted not in seen[-1]:
        assert time.monotonic() < deadline, f"{sql} answers {seen[-1]}"
        try:
            seen.append(str(rows(connection, sql)))
        except adbc_driver_manager.Error as error:
            seen.append(str(error))
    return seen


@pytest.mark.parametrize("commits", [1, 2, 4])
def test_a_table_made_anew_is_noticed_and_closed_by_its_policy(server, lake, commits):
    folder, name = lake / f"anew{commits}", f"anew{commits}"
    write(folder, OLD, 2)
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        run(
            admin,
            f"CREATE EXTERNAL TABLE {name} STORED AS DELTA LOCATION '{folder}'",
            f"GRANT SELECT ON TABLE {name} TO USER rui",
            f"CREATE POLICY p ON TABLE {name} TO USER rui USING (region = 1 OR region IS NULL)",
        )
        assert rows(rui, f"SELECT id FROM {name} ORDER BY id") == [(1,), (2,)]
        write(folder, NEW, commits)
        seen = answers(rui, f"SELECT id FROM {name}", "a policy no longer binds")
        # Rows are shown only as they were before.
        assert {text for text in seen if text.startswith("[")} <= {"[(1,), (2,)]", "[(2,), (1,)]"}
        assert "a policy no longer binds" in str(failure(rui, f"SELECT count(*) FROM {name}"))
        run(admin, f"ALTER TABLE {name} DISABLE ROW LEVEL SECURITY")
        assert rows(admin, f"SELECT * FROM {name} ORDER BY id") == [tuple(row.values()) for row in NEW.to_pylist()]
        assert one(admin, f"SELECT count(*) FROM {name}") == 4


def of_region(region):
    """Rows of one region, of which all files are equally large."""
    return pa.table({
        "secret": [f"of the {region} {row % 50}" for row in range(20_000)],
        "number": pa.array(range(20_000), pa.int64()),
        "region": [region] * 20_000,
    })  # fmt: skip


RUNS = 20


KEPT = "SELECT entries FROM system.caches WHERE name = 'data'"


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_no_row_is_put_together_from_two_files_of_one_name(where, server, lake, s3):
    folder, name = lake / f"replaced_{where}", f"replaced_{where}"
    folder.mkdir()

    def put(region):
        written = lake / f"{region}.parquet"
        pq.write_table(of_region(region), written, row_group_size=5_000, compression={"secret": "NONE", "number": "ZSTD", "region": "ZSTD"},
                       write_page_index=True)  # fmt: skip
        if where == "s3":
            s3.client.upload_file(str(written), "lake", f"{name}/a.parquet")
        else:
            written.rename(folder / "a.parquet")

    put("north")
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        run(
            admin,
            f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{folder if where == 'folder' else f's3://lake/{name}'}'",
            f"GRANT SELECT ON TABLE {name} TO USER rui",
            f"CREATE POLICY p ON TABLE {name} TO USER rui USING (region = 'north')",
            f"CREATE POLICY q ON TABLE {name} TO USER admin USING (true)",
        )
        for region, count in [("south", 20_000), ("north", 0)]:
            # Until its columns are kept, of which none is read where the policy hides them all.
            kept, deadline = one(admin, KEPT), time.monotonic() + support.READY_S
            while True:
                for _ in range(RUNS):
                    assert one(rui, f"SELECT count(number) FROM {name}") == count
                if count == 0 or one(admin, KEPT) > kept + 2:
                    break
                assert time.monotonic() < deadline
            put(region)
            hidden = set()
            for _ in range(RUNS):
                try:
                    hidden.add(one(rui, f"SELECT count(*) FROM {name} WHERE secret NOT LIKE '%north%'"))
                except adbc_driver_manager.Error as error:
                    # Half read when it went; the next reads the new one.
                    assert "(Unavailable;" in str(error)
            assert hidden == {0}
            answers(admin, f"SELECT min(secret), count(*) FROM {name}", f"of the {region} 0', 20000")


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_file_without_the_policys_column_is_not_read_under_the_old_schema(where, server, lake, s3):
    folder, name = lake / f"other_{where}", f"other_{where}"
    folder.mkdir()

    def put(region, column):
        written = lake / f"{region}.parquet"
        pq.write_table(of_region(region).rename_columns(["secret", "number", column]), written)
        if where == "s3":
            s3.client.upload_file(str(written), "lake", f"{name}/a.parquet")
        else:
            written.rename(folder / "a.parquet")

    put("south", "region")
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        run(
            admin,
            f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{folder if where == 'folder' else f's3://lake/{name}'}'",
            f"GRANT SELECT ON TABLE {name} TO USER rui",
            f"CREATE POLICY p ON TABLE {name} TO USER rui USING (region = 'north' OR region IS NULL)",
        )
        assert one(rui, f"SELECT count(*) FROM {name}") == 0
        put("south", "sector")
        deadline = time.monotonic() + support.READY_S
        while True:
            try:
                assert one(rui, f"SELECT count(secret) FROM {name}") == 0
            except adbc_driver_manager.Error as error:
                if "(Unavailable;" not in str(error):
                    break
            assert time.monotonic() < deadline
        assert "policy" in str(failure(rui, f"SELECT count(secret) FROM {name}"))


def test_a_table_whose_folder_is_gone_answers_nothing(server, lake):
    folder = lake / "gone"
    write(folder, OLD, 2)
    with server.connect() as admin:
        run(admin, f"CREATE EXTERNAL TABLE gone STORED AS DELTA LOCATION '{folder}'")
        assert one(admin, "SELECT count(*) FROM gone") == 4
        shutil.rmtree(folder)
        answers(admin, "SELECT count(*) FROM gone", "no Delta table at")


def test_a_missing_data_file_is_not_a_damaged_one(server, lake):
    folder = lake / "missing"
    write(folder, OLD, 1)
    with server.connect() as admin:
        run(admin, f"CREATE EXTERNAL TABLE missing STORED AS DELTA LOCATION '{folder}'")
        for path in folder.glob("*.parquet"):
            path.unlink()
        error = str(failure(admin, "SELECT * FROM missing"))
        assert "a data file is missing" in error and str(folder) not in error


def test_csv_files_in_another_order_are_refused(server, lake):
    folder = lake / "csv"
    folder.mkdir()
    (folder / "1.csv").write_text("region,value\n1,2\n")
    with server.connect() as admin, server.connect("rui", PASSWORD) as rui:
        run(admin, f"CREATE EXTERNAL TABLE csv STORED AS CSV LOCATION '{folder}'", "GRANT SELECT ON TABLE csv TO USER rui")
        assert rows(rui, "SELECT * FROM csv") == [(1, 2)]
        (folder / "2.csv").write_text("value,region\n3,4\n")
        told = answers(admin, "SELECT * FROM csv", "files that do not fit together")[-1]
        assert "2.csv" in told and '"value, region"' in told
        told = str(failure(rui, "SELECT * FROM csv"))
        assert "files that do not fit together" in told and "2.csv" not in told and "value, region" not in told


def test_parquet_files_with_fewer_columns_and_other_types(server, lake):
    folder = lake / "parquet"
    folder.mkdir()
    fields = [pa.field("a", pa.int32(), nullable=False), pa.field("b", pa.int32(), nullable=False)]
    pq.write_table(pa.table([[1, 2], [10, 20]], schema=pa.schema(fields)), folder / "1.parquet")
    pq.write_table(pa.table({"a": pa.array([3, 4], pa.int64())}), folder / "2.parquet")
    with server.connect() as admin:
        run(admin, f"CREATE EXTERNAL TABLE plain STORED AS PARQUET LOCATION '{folder}'")
        assert rows(admin, "SELECT * FROM plain ORDER BY a") == [(1, 10), (2, 20), (3, None), (4, None)]
        assert one(admin, "SELECT count(*) FROM plain WHERE b IS NULL") == 2
