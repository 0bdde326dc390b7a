"""A policy that no longer binds closes its table, for reading and for writing, and says so to those who may mend it; the
server starts with it, and serves the rest."""

import adbc_driver_manager
import deltalake
import pyarrow as pa
import pytest

import support
from support import failure, literal, one, rows, run

STATUS = adbc_driver_manager.AdbcStatusCode
PASSWORD = "a long password"

CHANGED = {
    "gone": pa.table({"n": pa.array([1, 2], pa.int64())}),
    "retyped": pa.table({"n": pa.array([1, 2], pa.int64()), "region": ["1", "2"]}),
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.mark.parametrize("change", CHANGED)
def test_another_writer_changes_the_columns(change, lake, tmp_path):
    location = lake / change
    deltalake.write_deltalake(location, pa.table({"n": pa.array([1, 2], pa.int64()), "region": pa.array([1, 2], pa.int64())}))
    with support.serving(tmp_path / "server", allowed_paths=[lake]) as server:
        with server.connect() as admin:
            run(
                admin,
                f"CREATE EXTERNAL TABLE visits STORED AS DELTA LOCATION {literal(location)}",
                "CREATE TABLE rest AS SELECT 7 AS n",
                *(f"CREATE USER {user} PASSWORD '{PASSWORD}'" for user in ("rui", "officer")),
                "GRANT SELECT, INSERT ON SCHEMA public TO USER rui, USER officer",
                "GRANT MANAGE POLICIES ON TABLE visits TO USER officer",
                "CREATE POLICY own ON TABLE visits TO ALL USING (region = 1)",
            )
        with server.connect("rui", PASSWORD) as rui:
            assert rows(rui, "SELECT n FROM visits") == [(1,)]
        deltalake.write_deltalake(location, CHANGED[change], mode="overwrite", schema_mode="overwrite")
        # What was seen is trusted for a moment; a new start sees what is there.
        for restart in (server.stop, server.kill):
            restart()
            server.start()
            with server.connect("rui", PASSWORD) as rui:
                for sql in ("SELECT n FROM visits", "SELECT count(*) FROM visits", "INSERT INTO visits (n) VALUES (3)"):
                    error = failure(rui, sql)
                    assert error.status_code == STATUS.INVALID_STATE or "FailedPrecondition" in str(error), error
                    assert "no longer binds" in str(error)
                    assert "region" not in str(error) and "own" not in str(error)
                assert rows(rui, "SELECT n FROM rest") == [(7,)]
            with server.connect("officer", PASSWORD) as officer:
                error = failure(officer, "SELECT n FROM visits")
                assert 'policy "own" no longer binds: column "region"' in str(error)
        with server.connect("officer", PASSWORD) as officer:
            run(officer, "CREATE OR REPLACE POLICY own ON TABLE visits TO ALL USING (n = 2)")
        with server.connect("rui", PASSWORD) as rui:
            assert rows(rui, "SELECT n FROM visits") == [(2,)]
            assert one(rui, "SELECT count(*) FROM rest") == 1
