"""Object stores by the usual AWS_… variables of the server's process, where the configuration names none."""

import json
import re

import adbc_driver_manager
import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import support
from support import failure, one, rows, run

PASSWORD = "a long password"
PEOPLE = pa.table({"id": pa.array(range(100), pa.int64()), "region": pa.array([n % 4 for n in range(100)], pa.int64())})


def variables(s3, **other):
    named = {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_REGION": s3.region,
        "AWS_ALLOW_HTTP": "true",
    } | other
    return {name: value for name, value in named.items() if value is not None}


@pytest.fixture(scope="module")
def lake(s3, tmp_path_factory):
    """A Delta table and Parquet files of others in the bucket, which nobody has told the server of."""
    folder = tmp_path_factory.mktemp("lake")
    deltalake.write_deltalake(str(folder / "people"), PEOPLE)
    s3.upload(folder / "people", "people")
    pq.write_table(PEOPLE, folder / "plain.parquet")
    s3.client.upload_file(str(folder / "plain.parquet"), "lake", "plain/a.parquet")
    return folder


@pytest.fixture(scope="module")
def server(s3, lake, tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server"), env=variables(s3)) as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE EXTERNAL TABLE people STORED AS DELTA LOCATION 's3://lake/people'",
                "CREATE EXTERNAL TABLE plain STORED AS PARQUET LOCATION 's3://lake/plain'",
                f"CREATE USER rui PASSWORD '{PASSWORD}'",
                "GRANT SELECT ON SCHEMA public TO USER rui",
                "CREATE POLICY two ON TABLE people TO ALL USING (region = 2)",
                "CREATE POLICY all_rows ON TABLE people TO USER admin USING (true)",
            )
        yield server


def test_tables_are_read_under_policy(server, admin):
    for name in ("people", "plain"):
        assert rows(admin, f"SELECT count(*), sum(id) FROM {name}") == [(100, 4950)]
    with server.connect("rui", PASSWORD) as rui:
        assert rows(rui, "SELECT count(*), min(region), max(region) FROM people") == [(25, 2, 2)]


def test_rows_are_added(server, admin, s3):
    run(admin, "INSERT INTO people SELECT 1000 + value, 3 FROM generate_series(1, 5)")
    assert one(admin, "SELECT count(*) FROM people WHERE id > 1000") == 5
    options = {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    options |= {"AWS_REGION": s3.region, "AWS_ALLOW_HTTP": "true"}
    theirs = deltalake.DeltaTable("s3://lake/people", storage_options=options).to_pyarrow_table()
    assert sum(id > 1000 for id in theirs["id"].to_pylist()) == 5


def test_the_keys_are_in_nothing_that_the_server_says(server, admin, s3):
    error = failure(admin, "CREATE EXTERNAL TABLE nothing STORED AS PARQUET LOCATION 's3://lake/nothing'")
    shown = str(error) + str(rows(admin, "SELECT * FROM system.audit")) + str(rows(admin, "SHOW CREATE TABLE people"))
    shown += server.log.read_text() + str(rows(admin, "SELECT * FROM system.settings"))
    assert s3.secret_key not in shown and s3.endpoint not in shown


WRONG = {
    "no key": ({"AWS_ACCESS_KEY_ID": None}, "PermissionDenied"),
    "an empty key": ({"AWS_ACCESS_KEY_ID": ""}, "PermissionDenied"),
    "a wrong secret": ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, ""),
    "http that is not allowed": ({"AWS_ALLOW_HTTP": None}, ""),
    "the cloud's metadata service": ({"AWS_ENDPOINT_URL": "http://169.254.169.254/"}, ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_or_wrong_is_an_error(case, s3, lake, tmp_path):
    given, status = WRONG[case]
    with support.serving(tmp_path / "server", env=variables(s3, **given)) as server, server.connect() as admin:
        error = failure(admin, "CREATE EXTERNAL TABLE plain STORED AS PARQUET LOCATION 's3://lake/plain'")
        assert status in str(error) and "Internal" not in str(error), error
        assert "wrong-secret" not in str(error) + server.log.read_text()
        assert rows(admin, "SHOW TABLES") == []
        assert one(admin, "SELECT 1") == 1


WHY = {"a wrong secret": "SignatureDoesNotMatch|403 Forbidden", "http that is not allowed": "builder error"}


@pytest.mark.parametrize("case", WHY)
def test_who_runs_the_server_is_told_why(case, s3, lake, tmp_path):
    """The one who asks is not."""
    given, _ = WRONG[case]
    with support.serving(tmp_path / "server", env=variables(s3, **given)) as server, server.connect() as admin:
        error = failure(admin, "CREATE EXTERNAL TABLE plain STORED AS PARQUET LOCATION 's3://lake/plain'")
        assert not re.search(WHY[case], str(error))
        assert re.search(WHY[case], server.log.read_text())


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_no_variable_leads_to_the_metadata_service_of_a_cloud(name, s3, lake, tmp_path):
    for endpoint, works in [(s3.endpoint, True), ("http://169.254.169.254/", False)]:
        env = variables(s3, **({"AWS_ENDPOINT_URL": None} | {name: endpoint}))
        with support.serving(tmp_path / str(works), env=env) as server, server.connect() as admin:
            create = "CREATE EXTERNAL TABLE plain STORED AS PARQUET LOCATION 's3://lake/plain'"
            if works:
                run(admin, create)
                assert one(admin, "SELECT count(*) FROM plain") == 100
            else:
                failure(admin, create)
                assert "the endpoint is a metadata service" in server.log.read_text()


def test_the_configuration_comes_first_for_what_it_names(s3, lake, tmp_path):
    """Keys of the environment that are good for nothing, and a store of the configuration that is."""
    env = variables(s3, AWS_ACCESS_KEY_ID="nobody", AWS_SECRET_ACCESS_KEY="wrong-secret")
    with support.serving(tmp_path / "server", config=s3.store, env=env) as server, server.connect() as admin:
        run(admin, "CREATE EXTERNAL TABLE plain STORED AS PARQUET LOCATION 's3://lake/plain'")
        assert one(admin, "SELECT count(*) FROM plain") == 100


def test_a_log_names_no_files_elsewhere_in_the_bucket(server, admin, s3, lake):
    """That a statement may name a place by the environment's keys does not let what others wrote there name another."""
    log = "_delta_log/00000000000000000000.json"
    actions = [json.loads(line) for line in (lake / "people" / log).read_text().splitlines()]
    for action in actions:
        if "add" in action:
            action["add"] |= {"path": "s3://lake/plain/a.parquet", "size": (lake / "plain.parquet").stat().st_size}
    s3.client.put_object(Bucket="lake", Key=f"pointing/{log}", Body="".join(json.dumps(action) + "\n" for action in actions).encode())
    # Nobody else's table is there, which would be a reason of its own.
    run(admin, "DROP TABLE plain")
    with pytest.raises(adbc_driver_manager.Error) as caught:
        run(admin, "CREATE EXTERNAL TABLE pointing STORED AS DELTA LOCATION 's3://lake/pointing'")
        run(admin, "SELECT * FROM pointing")
    assert "Internal" not in str(caught.value)
    assert "s3://lake/plain" not in str(rows(admin, "SHOW TABLES"))
    run(admin, "DROP TABLE IF EXISTS pointing")


def test_a_log_may_where_the_store_is_configured(s3, lake, tmp_path):
    """What is refused above is refused for who named the store."""
    with support.serving(tmp_path / "server", config=s3.store) as server, server.connect() as admin:
        run(admin, "CREATE EXTERNAL TABLE pointing STORED AS DELTA LOCATION 's3://lake/pointing'")
        assert one(admin, "SELECT count(*) FROM pointing") == 100


def test_a_restart_without_them_closes_the_tables_and_one_with_them_opens_them(server, s3):
    for keys, served in [({"AWS_ACCESS_KEY_ID": None}, False), ({}, True)]:
        server.stop()
        server.env = {name: value for name, value in server.env.items() if not name.startswith("AWS_")} | variables(s3, **keys)
        server.start()
        with server.connect() as admin:
            if served:
                assert one(admin, "SELECT count(*) FROM people WHERE id < 1000") == 100
            else:
                assert failure(admin, "SELECT count(*) FROM people")
                assert failure(admin, "CREATE EXTERNAL TABLE more STORED AS PARQUET LOCATION 's3://lake/plain'")
            assert one(admin, "SELECT 1") == 1
