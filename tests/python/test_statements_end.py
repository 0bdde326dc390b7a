"""How statements end: in time, or when their client goes or reads no further, whatever their kind; and what is left of
them."""

import threading

import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import support
from support import Raw, failure, one, rows, run

STATUS = adbc_driver_manager.AdbcStatusCode
# Minutes of work, in a debug binary and in a release binary.
LONG = "SELECT count(*) AS n FROM generate_series(1, 2000000) a, generate_series(1, 2000000) b WHERE (a.value * 7 + b.value) % 11 = 3"
MANY_ROWS = "SELECT a.value * 31 + b.value AS n FROM generate_series(1, 100000) a, generate_series(1, 100000) b"
# A batch is more than lies in the windows between a server and a client that does not read.
WIDE_ROWS = "SELECT repeat('x', 1000) AS x, a.value + b.value AS n FROM generate_series(1, 100000) a, generate_series(1, 100000) b"


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


@pytest.fixture(scope="module")
def hurried_server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("hurried"), config="[limits]\nquery_timeout_s = 2\n") as server:
        yield server


def read_one_batch(server, sql, *before):
    """A client that reads no further, as it is then."""
    client = Raw(server, "admin", support.ADMIN_PASSWORD)
    for statement in before:
        client.fetch(client.ticket(statement))
    reader = client.client.do_get(client.ticket(sql), client.options)
    assert reader.read_chunk().data.num_rows > 0
    return client, reader


def read_on(reader):
    """What a result that does not come to its end says."""
    with pytest.raises((flight.FlightError, pa.ArrowException)) as caught:
        while True:
            reader.read_chunk()
    return str(caught.value)


def test_what_the_limit_cuts_off_is_an_error_for_who_reads(server):
    """At whatever moment: a client that is told of an end takes what it has for all there is."""
    client = Raw(server, "admin", support.ADMIN_PASSWORD)
    whole = []
    for limit_ms in range(100, 400, 5):
        client.fetch(client.ticket(f"SET statement_timeout_ms = {limit_ms}"))
        try:
            whole.append((limit_ms, client.fetch(client.ticket(MANY_ROWS)).num_rows))
        except (flight.FlightError, pa.ArrowException) as error:
            assert f"the statement ran longer than {limit_ms / 1000} s" in str(error)
    client.client.close()
    assert whole == []


# Of the server, of the session, and the shorter of both.
@pytest.mark.parametrize(
    ("limited", "settings", "limit"),
    [
        ("server", [], "2 s"),
        ("session", ["SET statement_timeout_ms = 1500"], "1.5 s"),
        ("server", ["SET statement_timeout_ms = 1500"], "1.5 s"),
        ("server", ["SET statement_timeout_ms = 600000"], "2 s"),
    ],
)
def test_the_limit_ends_what_its_client_does_not_read(server, hurried_server, limited, settings, limit):
    statement = f"{WIDE_ROWS} /* {limited} {limit} {len(settings)} */"
    where = hurried_server if limited == "server" else server
    client, reader = read_one_batch(where, statement, *settings)
    with where.connect() as admin:
        states = "SELECT state, rows_returned > 0, memory_bytes FROM system.queries WHERE statement = ?"
        until(lambda: rows(admin, states, [statement])[0][0] != "running")
        assert rows(admin, states, [statement]) == [("deadline_exceeded", True, None)]
        ends = "SELECT decision, status, rows_returned > 0 FROM system.audit WHERE statement = ?"
        until(lambda: rows(admin, ends, [statement])[0][1] != "running")
        assert rows(admin, ends, [statement]) == [("allow", "deadline_exceeded", True)]
    # Who reads on then is told, after what lay on the way.
    assert f"the statement ran longer than {limit}" in read_on(reader)
    client.client.close()


def test_a_kill_ends_what_its_client_does_not_read(server, admin):
    statement = f"{WIDE_ROWS} /* killed */"
    client, reader = read_one_batch(server, statement)
    ((query, state),) = rows(admin, "SELECT statement_id, state FROM system.queries WHERE statement = ?", [statement])
    assert state == "running"
    run(admin, f"KILL QUERY '{query}'")
    until(lambda: rows(admin, "SELECT status FROM system.audit WHERE statement_id = ?", [query]) == [("cancelled",)])
    assert rows(admin, "SELECT state FROM system.queries WHERE statement_id = ?", [query]) == [("cancelled",)]
    assert "the statement was killed" in read_on(reader)
    client.client.close()
