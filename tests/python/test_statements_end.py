"""How statements end: in time, or when their client goes, whatever their kind; and what is left of them."""

import threading

import adbc_driver_manager
import pytest

import support
from support import failure, one, rows, run

STATUS = adbc_driver_manager.AdbcStatusCode
# Minutes of work, in a debug binary and in a release binary.
LONG = "SELECT count(*) AS n FROM generate_series(1, 2000000) a, generate_series(1, 2000000) b WHERE (a.value * 7 + b.value) % 11 = 3"
MANY_ROWS = "SELECT a.value * 31 + b.value AS n FROM generate_series(1, 100000) a, generate_series(1, 100000) b"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        yield server


def warehouse(server):
    folder = server.data_dir / "warehouse"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def until(condition):
    """Waits for something that must come; the watchdog ends a wait that does not."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.05)


@pytest.mark.parametrize("statement", [LONG, f"EXPLAIN ANALYZE {LONG}", f"CREATE TABLE late AS {MANY_ROWS}"])
def test_a_statement_ends_in_time(server, statement):
    with server.connect() as connection:
        run(connection, "SET statement_timeout_ms = 700")
        error = failure(connection, statement)
    assert "ran longer than 0.7 s" in str(error)
    assert error.status_code == STATUS.TIMEOUT
    until(lambda: warehouse(server) == [])


def test_a_table_whose_client_went_away_leaves_nothing(server, admin):
    connection = server.connect()
    cursor = connection.cursor()
    ended = threading.Event()

    def create():
        with pytest.raises(adbc_driver_manager.Error):
            cursor.execute(f"CREATE TABLE abandoned AS {MANY_ROWS}")
        ended.set()

    thread = threading.Thread(target=create)
    thread.start()
    until(lambda: warehouse(server) != [])
    cursor.adbc_cancel()
    until(ended.is_set)
    thread.join()
    until(lambda: warehouse(server) == [])
    assert "not found" in str(failure(admin, "SELECT * FROM abandoned"))
    ends = "SELECT status FROM system.audit WHERE statement LIKE 'CREATE TABLE abandoned%'"
    until(lambda: rows(admin, ends) == [("cancelled",)])
    run(admin, "CREATE TABLE abandoned AS SELECT 1 AS n")
    assert one(admin, "SELECT n FROM abandoned") == 1
    run(admin, "DROP TABLE abandoned")
    cursor.close()
    connection.close()
