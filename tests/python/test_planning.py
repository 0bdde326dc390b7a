"""Planning takes none of the threads that answer calls, and no more memory than the statement may use: while statements are
planned that take long to plan, others are answered."""

import os
import re
import threading

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import support
from support import Raw, failure, one, run
from test_adbc import processor_seconds
from test_statements_end import until

# More than there are threads to answer calls, which are as many as there are cores.
CALLERS = 2 * (os.cpu_count() or 1)
# Of what may be joined in one statement; the time to plan grows with the cube of it.
TABLES = 120
# Seconds of a processor that the server spends on nothing but these statements: by then it plans them.
BEGUN_S = 1.0
TEST_S = 300

JOINS = "FROM t t0" + "".join(f" JOIN t t{n} ON t{n}.a = t{n - 1}.b" for n in range(1, TABLES))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        with server.connect() as admin:
            run(admin, "CREATE TABLE t AS SELECT value AS a, value AS b FROM generate_series(1, 3)", "CREATE TABLE counted (n BIGINT, caller BIGINT)")
        yield server


class Planned:
    """A statement that its caller waits for, in a thread of its own, on a connection of its own."""

    def __init__(self, server, sql):
        self.client, self.ended, self.outcome = Raw(server, "admin", support.ADMIN_PASSWORD, timeout_s=TEST_S), threading.Event(), None
        self.thread = threading.Thread(target=self.ask, args=(sql,), daemon=True)

    def ask(self, sql):
        try:
            self.outcome = self.client.fetch(self.client.ticket(sql))
        except (flight.FlightError, pa.ArrowException) as error:
            self.outcome = error
        self.ended.set()


def asked(server, admin, sql):
    """The statement's callers, and a function that says how much the server has done since they began."""
    callers = [Planned(server, sql.format(number)) for number in range(CALLERS)]
    assert one(admin, "SELECT 1") == 1
    before = processor_seconds(server.process)
    for caller in callers:
        caller.thread.start()
    return callers, lambda: processor_seconds(server.process) - before


def assert_answered(callers):
    for caller in callers:
        caller.thread.join(TEST_S)
    assert [caller.outcome for caller in callers if not isinstance(caller.outcome, pa.Table)] == []


# `{}` is a number of the caller's.
STATEMENTS = {
    "a query": f"SELECT count(*) AS n, {{}} AS caller {JOINS}",
    "CREATE TABLE": f"CREATE TABLE c{{}} AS SELECT count(*) AS n {JOINS}",
    "INSERT": f"INSERT INTO counted SELECT count(*), {{}} {JOINS}",
    "EXECUTE AS": f"EXECUTE AS USER admin SELECT count(*) AS n, {{}} AS caller {JOINS}",
}


@pytest.mark.parametrize("kind", STATEMENTS)
def test_others_are_answered_meanwhile(server, admin, kind):
    callers, work = asked(server, admin, STATEMENTS[kind])
    until(lambda: work() > BEGUN_S or all(caller.ended.is_set() for caller in callers))
    # In order, not in time: the answer has come, and none of those that were asked for before it has.
    assert one(admin, "SELECT 1") == 1
    ended = [caller.outcome for caller in callers if caller.ended.is_set()]
    assert_answered(callers)
    assert ended == []


def test_explain_keeps_nobody_waiting(server, admin):
    """What it shows beside the plan that would run is planned as well. Measured is not time but what the server does before it
    answers: whoever waits for a thread waits for whole plans."""
    callers, work = asked(server, admin, f"EXPLAIN SELECT count(*) AS n, {{}} AS caller {JOINS}")
    longest = 0.0
    while not all(caller.ended.is_set() for caller in callers):
        before = work()
        assert one(admin, "SELECT 1") == 1
        longest = max(longest, work() - before)
    assert work() > CALLERS * BEGUN_S
    assert_answered(callers)
    assert longest < BEGUN_S


def highest_mib(server):
    """The most memory that the process has ever held."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) >> 10


# Each may be worked out while a statement is planned; all of them are six times what a query may have.
CONSTANTS = [f"repeat('a', {15_000_000 + n})" for n in range(20)]


def test_constants_count_together(tmp_path):
    limits = "[limits]\nmemory_bytes = 400000000\nquery_memory_bytes = 50000000\n"
    with support.serving(tmp_path / "server", config=limits) as server, server.connect() as admin:
        run(admin, "CREATE TABLE t AS SELECT CAST(value AS VARCHAR) AS x FROM generate_series(1, 10)")
        before = highest_mib(server)
        for explain in ["", "EXPLAIN ", "EXPLAIN ANALYZE "]:
            error = failure(admin, f"{explain}SELECT count(*) FROM t WHERE x IN ('a', {', '.join(CONSTANTS)})")
            assert "(ResourceExhausted;" in str(error)
        assert highest_mib(server) - before < 400
        assert one(admin, "SELECT 1") == 1
