"""Killed at any moment, the server starts again with everything that it acknowledged, and with nothing half-made."""

import contextlib
import json
import random
import subprocess
import threading

import adbc_driver_manager
import pytest

import support
from support import one, rows, run, table

ROUNDS = 50
WORKERS = 3
# From when all clients work to the kill: some statements, of which each has many moments to be killed in.
LIFE_S = (0.0, 0.6)
JOIN_S = 60
TEST_S = 600


class Worker:
    """A client in a schema of its own. It knows what was acknowledged, and what may or may not have been done."""

    def __init__(self, number):
        self.schema = f"w{number}"
        self.random = random.Random(number)
        self.made = 0
        self.tables = {}  # name -> rows
        self.unread = set()  # those that nobody has read since a kill
        self.views, self.roles = set(), set()
        self.acknowledged = []
        self.pending = None

    def next_statement(self):
        """A text that was never used before, and what it does to the model."""
        self.made += 1
        name, fresh = f"x{self.made}", self.made
        kind = self.random.choice(["ctas", "ctas", "ctas", "drop table", "view", "drop view", "role", "drop role", "query"])
        if kind == "drop table" and self.tables:
            old = self.random.choice(sorted(self.tables))
            return f"DROP TABLE {self.schema}.{old}", lambda: (self.tables.pop(old), self.unread.discard(old))
        if kind == "drop view" and self.views:
            old = self.random.choice(sorted(self.views))
            return f"DROP VIEW {self.schema}.{old}", lambda: self.views.remove(old)
        if kind == "drop role" and self.roles:
            old = self.random.choice(sorted(self.roles))
            return f"DROP ROLE {old}", lambda: self.roles.remove(old)
        if kind == "view":
            return f"CREATE VIEW {self.schema}.{name} AS SELECT {fresh} AS v", lambda: self.views.add(name)
        if kind == "role":
            return f"CREATE ROLE {self.schema}_{name}", lambda: self.roles.add(f"{self.schema}_{name}")
        if kind == "query":
            return f"SELECT '{self.schema}', {fresh}", lambda: None
        count = self.random.choice([0, 1, 1000, 50_000])
        sql = f"CREATE TABLE {self.schema}.{name} AS SELECT value AS v FROM generate_series(1, 50000) WHERE value <= {count}"
        return sql, lambda: (self.tables.update({name: count}), self.unread.add(name))

    def work(self, server, begin):
        """Until the server is gone."""
        try:
            with server.connect() as connection, connection.cursor() as cursor:
                begin.wait(JOIN_S)
                while True:
                    sql, done = self.next_statement()
                    sql += f" /* {self.made} */"
                    self.pending = (sql, done)
                    cursor.execute(sql)
                    cursor.fetchall()
                    done()
                    self.pending = None
                    self.acknowledged.append(sql)
        except (adbc_driver_manager.Error, threading.BrokenBarrierError):
            begin.abort()

    def check(self, connection, found):
        """Everything acknowledged is there, and of the rest only what may be; takes over what came of the pending one."""
        audited = dict.fromkeys(self.acknowledged, 0)
        for statement, status in found.audit:
            if statement in audited:
                # The end record may have been lost with the process; the start record may not.
                assert status in ("ok", "interrupted"), (statement, status)
                audited[statement] += 1
        assert [statement for statement, count in audited.items() if count != 1] == []

        if found.objects(self.schema) != self.expected():
            assert self.pending, f"{found.objects(self.schema)} instead of {self.expected()}"
            self.pending[1]()
            assert found.objects(self.schema) == self.expected(), self.pending[0]
        for name in self.unread | set(self.random.sample(sorted(self.tables), min(2, len(self.tables)))):
            count = self.tables[name]
            assert rows(connection, f"SELECT count(*), max(v) FROM {self.schema}.{name}") == [(count, count or None)], name
        self.pending = None
        self.unread.clear()
        self.acknowledged.clear()

    def expected(self):
        return set(self.tables), self.views, self.roles


class Found:
    """What the server says after a restart."""

    def __init__(self, connection, after):
        audit = rows(connection, "SELECT seq, statement, status FROM system.audit WHERE seq > ?", [after])
        self.last = max(seq for seq, _, _ in audit)
        self.audit = [(statement, status) for _, statement, status in audit]
        self.listed = rows(connection, "SELECT table_schema, table_name, table_type FROM information_schema.tables")
        self.roles = [row[0] for row in rows(connection, "SHOW ROLES")]

    def objects(self, schema):
        views = {name for place, name, kind in self.listed if place == schema and "VIEW" in kind}
        tables = {name for place, name, _ in self.listed if place == schema} - views
        return tables, views, {name for name in self.roles if name.startswith(f"{schema}_")}


def check_warehouse(server, workers):
    """One folder for each table, and in it what its log names."""
    folders = list((server.data_dir / "warehouse").iterdir())
    assert len(folders) == sum(len(worker.tables) for worker in workers), "folders of no table"
    for folder in folders:
        log = [json.loads(line) for line in (folder / "_delta_log" / "00000000000000000000.json").read_text().splitlines()]
        files = {action["add"]["path"] for action in log if "add" in action}
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == files | {"_delta_log/00000000000000000000.json"}


def test_fifty_kills(tmp_path):
    moments = random.Random(3)
    workers = [Worker(number) for number in range(WORKERS)]
    acknowledged = last = 0
    with support.serving(tmp_path / "server") as server:
        with server.connect() as admin:
            run(admin, *(f"CREATE SCHEMA {worker.schema}" for worker in workers))
        for _ in range(ROUNDS):
            begin = threading.Barrier(WORKERS + 1)
            threads = [threading.Thread(target=worker.work, args=(server, begin), daemon=True) for worker in workers]
            for thread in threads:
                thread.start()
            begin.wait(JOIN_S)
            # The moment of the kill is what is random here; nothing is waited for.
            threads[0].join(moments.uniform(*LIFE_S))
            server.kill()
            for thread in threads:
                thread.join(JOIN_S)
                assert not thread.is_alive()
            acknowledged += sum(len(worker.acknowledged) for worker in workers)
            server.start()
            with server.connect() as admin:
                found = Found(admin, last)
                last = found.last
                for worker in workers:
                    worker.check(admin, found)
            check_warehouse(server, workers)
    assert acknowledged > 5 * ROUNDS


def test_killed_while_it_starts(tmp_path):
    """The first start makes the admin: whenever it ends, the next one finds the data folder as it was, or finished."""
    moments = random.Random(4)
    folder = tmp_path / "server"
    (folder / "data").mkdir(parents=True)
    for _ in range(10):
        command = [support.binary(), "serve", "--data-dir", folder / "data", "--listen", "127.0.0.1:0"]
        environment = {"LAZARET_ADMIN_PASSWORD": support.ADMIN_PASSWORD, "LAZARET_ADMIN_LISTEN": "127.0.0.1:0"}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
            try:
                process.wait(moments.uniform(0.0, 0.6))
                pytest.fail("it ended by itself")
            except subprocess.TimeoutExpired:
                process.kill()
    with support.serving(folder) as server, server.connect() as admin:
        assert one(admin, "SELECT current_user") == "admin"
        run(admin, "CREATE TABLE t AS SELECT 1 AS a")


def test_a_second_server_is_refused(tmp_path):
    with support.serving(tmp_path / "server") as server:
        command = [support.binary(), "serve", "--data-dir", server.data_dir, "--listen", "127.0.0.1:0"]
        second = subprocess.run(command, capture_output=True, timeout=60, env={"LAZARET_ADMIN_LISTEN": ""})
        assert second.returncode != 0
        with server.connect() as admin:
            assert one(admin, "SELECT 1") == 1


def test_a_stop_drains(tmp_path):
    """SIGTERM: what runs ends well, the process ends with 0, and the audit has its end."""
    sql = "SELECT count(*) FROM generate_series(1, 3000000) a WHERE value % 3 = 1"
    with support.serving(tmp_path / "server") as server:
        # What drivers say when they close is said to nobody.
        with contextlib.suppress(adbc_driver_manager.OperationalError), server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            server.process.send_signal(support.signal.SIGTERM)
            answer = cursor.fetchall()
        assert answer == [(1_000_000,)]
        assert server.process.wait(support.STOP_S) == 0
        server.process.stdout.close()
        server.start()
        with server.connect() as admin:
            assert rows(admin, "SELECT status, rows_returned FROM system.audit WHERE statement = ?", [sql]) == [("ok", 1)]


def test_tokens_and_grants_survive(tmp_path):
    with support.serving(tmp_path / "server") as server:
        with server.connect() as admin:
            run(
                admin,
                "CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 10)",
                "CREATE USER rui PASSWORD 'a long password'",
                "GRANT SELECT ON TABLE t TO USER rui",
                "CREATE POLICY p ON TABLE t TO USER rui USING (v < 4)",
            )
        server.kill()
        server.start()
        with server.connect("rui", "a long password") as rui:
            assert one(rui, "SELECT count(*) FROM t") == 3
        with server.connect() as admin:
            assert table(admin, "SELECT * FROM t").num_rows == 0


def test_metadata_that_is_lost_takes_no_table_with_it(tmp_path):
    """A backup of the metadata may be older than the tables; what it does not know stays."""
    data = tmp_path / "data"
    with support.serving(data) as server, server.connect() as admin:
        run(admin, "CREATE TABLE kept AS SELECT 1 AS id", "CREATE TABLE dropped AS SELECT 1 AS id", "DROP TABLE dropped")
    warehouse = next(path for path in data.rglob("warehouse") if path.is_dir())
    before = sorted(warehouse.iterdir())
    assert len(before) == 1
    for file in data.rglob("metadata.sqlite*"):
        file.unlink()
    with support.serving(data):
        pass
    assert sorted(warehouse.iterdir()) == before
