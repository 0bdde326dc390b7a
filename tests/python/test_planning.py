"""Planning takes none of the threads that answer calls: while statements are planned that take long, others are answered."""

import os
import threading

import pytest

import support
from support import Raw, one, run
from test_adbc import processor_seconds
from test_statements_end import until

# More than there are threads to answer calls.
CALLERS = 2 * (os.cpu_count() or 1)
TABLES = 100
TEST_S = 400


def chain(first="t"):
    """To plan it takes the longer the more there are, by more than their square."""
    joins = "".join(f" JOIN t t{n} ON t{n}.a = t{n - 1}.b" for n in range(1, TABLES))
    return f"SELECT count(*) AS n FROM {first} t0{joins}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with support.serving(tmp_path_factory.mktemp("server")) as server:
        with server.connect() as admin:
            run(admin, "CREATE TABLE t AS SELECT value AS a, value AS b FROM generate_series(1, 3)")
        yield server


class Slow:
    """A statement in a thread of its own, on a connection of its own."""

    def __init__(self, server, sql):
        self.client = Raw(server, "admin", support.ADMIN_PASSWORD)
        self.error, self.ended = None, threading.Event()
        self.thread = threading.Thread(target=self.run, args=(sql,), daemon=True)

    def run(self, sql):
        try:
            self.client.fetch(self.client.ticket(sql))
        except Exception as error:
            self.error = error
        self.ended.set()
