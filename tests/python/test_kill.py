"""KILL: what runs ends for its client and in the audit, and leaves nothing; a killed session is over."""

import threading

import adbc_driver_manager
import pytest

import support
from support import failure, one, rows, run
from test_statements_end import LONG, MANY_ROWS, STATUS, until, warehouse


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE USER ana PASSWORD 'ana-password'",
                "CREATE USER rui PASSWORD 'rui-password'",
                "CREATE USER operator PASSWORD 'operator-password'",
                "GRANT MANAGE QUERIES ON SYSTEM TO USER operator",
                "GRANT CREATE, SELECT ON SCHEMA public TO USER ana",
            )
        yield server


def connect(server, user):
    return server.connect(user, f"{user}-password")


def running(connection, like):
    """The ids of statements that run and begin like this, as `connection` sees them."""
    text = f"SELECT statement_id FROM system.queries WHERE state = 'running' AND statement LIKE '{like}%'"
    return [row[0] for row in rows(connection, text)]


class Background:
    """A statement that must fail, in a thread of its own."""

    def __init__(self, connection, sql):
        self.error = None
        self.thread = threading.Thread(target=self.fail, args=(connection, sql))
        self.thread.start()

    def fail(self, connection, sql):
        self.error = failure(connection, sql)

    def join(self):
        self.thread.join()
        return self.error


@pytest.mark.parametrize("killer", ["ana", "operator"])
@pytest.mark.parametrize("statement", [LONG, f"EXPLAIN ANALYZE {LONG}", f"CREATE TABLE late AS {MANY_ROWS}"])
def test_a_killed_statement_says_so_and_leaves_nothing(server, admin, statement, killer):
    with connect(server, "ana") as client, connect(server, killer) as other:
        background = Background(client, statement)
        until(lambda: running(other, statement[:30]))
        if statement.startswith("CREATE"):
            until(lambda: warehouse(server) != [])
        (query,) = running(other, statement[:30])
        run(other, f"KILL QUERY '{query}'")
        error = background.join()
        assert error.status_code == STATUS.CANCELLED
        assert "the statement was killed" in str(error)
        assert one(client, "SELECT 1") == 1, "the session goes on"
    until(lambda: rows(admin, f"SELECT status FROM system.audit WHERE statement_id = '{query}'") == [("cancelled",)])
    shown = f"SELECT state, principal FROM system.queries WHERE statement_id = '{query}'"
    assert rows(admin, shown) == [("cancelled", "ana")]
    until(lambda: warehouse(server) == [])
    assert "not found" in str(failure(admin, "SELECT * FROM late"))


def test_what_is_not_yours_is_not_there(server, admin):
    with connect(server, "ana") as client, connect(server, "rui") as rui:
        background = Background(client, LONG)
        until(lambda: running(admin, LONG[:30]))
        (query,) = running(admin, LONG[:30])
        assert running(rui, LONG[:30]) == []
        assert rows(rui, "SELECT DISTINCT principal FROM system.queries") == [("rui",)]
        assert rows(rui, "SELECT DISTINCT principal FROM system.sessions") == [("rui",)]
        session = one(admin, f"SELECT session_id FROM system.queries WHERE statement_id = '{query}'")
        for kind, there in [("QUERY", query), ("SESSION", session)]:
            absent = "0" * len(there)
            texts = [str(failure(rui, f"KILL {kind} '{id}'")).replace(id, "") for id in (there, absent)]
            assert texts[0] == texts[1]
        assert running(admin, LONG[:30]) == [query]
        run(admin, f"KILL QUERY '{query}'")
        background.join()


def test_memory_and_rows_are_shown_while_it_runs(server, admin):
    sorted_rows = f"SELECT * FROM (SELECT a.value * 7 % 1000 AS n, a.value AS m FROM generate_series(1, 3000000) a ORDER BY n) ORDER BY m DESC"
    with connect(server, "ana") as client:
        with client.cursor() as cursor:
            cursor.execute(sorted_rows)
            reader = cursor.fetch_record_batch()
            reader.read_next_batch()
            sql = "SELECT rows_returned > 0, bytes_returned > 0, memory_bytes >= 0, duration_us > 0, started < now() FROM system.queries"
            assert rows(client, f"{sql} WHERE state = 'running' AND statement LIKE 'SELECT * FROM (SELECT a.value * 7%'") == [(True,) * 5]


def test_a_killed_session_is_over(server, admin):
    client = connect(server, "ana")
    run(client, "SET batch_size = 100", "CREATE TABLE kept AS SELECT 1 AS n")
    session = one(client, "SELECT session_id FROM system.sessions WHERE principal = 'ana' ORDER BY started DESC LIMIT 1")
    prepared = client.cursor()
    prepared.adbc_prepare("SELECT n FROM kept")
    background = Background(client, LONG)
    until(lambda: running(admin, LONG[:30]))
    run(admin, f"KILL SESSION '{session}'")
    # The driver closes its statement afterwards, and tells of that.
    assert "was killed" in str(background.join())
    ends = f"SELECT status FROM system.audit WHERE session_id = '{session}' AND statement LIKE '{LONG[:30]}%'"
    until(lambda: rows(admin, ends) == [("cancelled",)])
    with pytest.raises(adbc_driver_manager.Error) as refused:
        prepared.execute("SELECT n FROM kept")
    assert "the session was killed: sign in again" in str(refused.value)
    assert "sign in again" in str(failure(client, "SELECT 1"))
    sessions = f"SELECT count(*) FROM system.sessions WHERE session_id = '{session}'"
    assert one(admin, sessions) == 0
    assert f'session "{session}" not found' in str(failure(admin, f"KILL SESSION '{session}'"))
    with connect(server, "ana") as again:
        assert one(again, "SELECT value FROM system.settings WHERE name = 'batch_size'") != "100"
        assert one(again, "SELECT n FROM kept") == 1
    run(admin, "DROP TABLE kept")
