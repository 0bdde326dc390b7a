"""Lazaret as a process: the tables it serves, who may ask, and what it used of the machine."""

import json
import os
import pathlib
import subprocess
import time

import adbc_driver_flightsql.dbapi as flightsql

from .queries import THREE_STATES

PASSWORD = "epibench-admin"
# Everybody is under a policy: `national` under one that shows all of the country, `regional` under that of Q14.
POLICIES = {"national": "true", "regional": THREE_STATES}
READY_S = 60


def made(folder, scale):
    """EpiBench's `kept` of this scale."""
    generate = [str(folder / "lazaret-bench"), "generate", "--scale", scale, "--out"]
    return kept(scale, lambda tables: subprocess.run([*generate, str(tables)], check=True))


def kept(name, make):
    """Where a benchmark's things are, and its tables, which are made where they are missing."""
    cache = pathlib.Path(os.environ.get("BUILD_CACHE", pathlib.Path.home() / ".cache" / "lazaret"))
    home = cache / "bench" / name
    tables = home / "tables"
    if not (tables / ".complete").exists():
        make(tables)
        (tables / ".complete").touch()
    return home, tables


def names(tables):
    """Of the tables that lie there."""
    return sorted(folder.name for folder in pathlib.Path(tables, "delta").iterdir())


def connect(listen, user, password=PASSWORD):
    return flightsql.connect(f"grpc://{listen}", db_kwargs={"username": user, "password": password}, autocommit=True)


class Server:
    def __init__(self, folder, tables, data_dir, other_paths=()):
        self.command = [str(folder / "lazaret"), "serve", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0"]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LAZARET_")},  # those would be settings
            "LAZARET_ADMIN_PASSWORD": PASSWORD,
            "LAZARET_ALLOWED_PATHS": ",".join(map(str, [tables, *other_paths])),
            "LAZARET_ADMIN_LISTEN": "",
        }
        self.tables, self.data_dir = tables, pathlib.Path(data_dir)
        self.start()

    def start(self):
        self.data_dir.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        with open(self.data_dir / "server.log", "ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: see {self.data_dir / 'server.log'}")
        self.ready_ms = (time.perf_counter() - started) * 1000
        self.listen = json.loads(line)["listen"]

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()

    def restart(self):
        self.stop()
        self.start()

    def setup(self, table_format, governed="events", policies=POLICIES):
        """The tables, and users who may read them, with the policy of each on the governed one."""
        statements = [
            f"CREATE EXTERNAL TABLE {table} STORED AS {table_format.upper()} LOCATION '{self.tables}/{table_format}/{table}'"
            for table in names(self.tables)
        ]
        for user, rule in policies.items():
            statements.append(f"CREATE USER {user} PASSWORD '{PASSWORD}'")
            statements.append(f"GRANT SELECT ON SCHEMA public TO USER {user}")
            statements.append(f"CREATE POLICY {user} ON TABLE {governed} FOR SELECT TO USER {user} USING ({rule})")
        with connect(self.listen, "admin") as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                cursor.fetchall()


class Usage:
    """What a process and its children have used, from /proc. Peak memory counts from the last `reset_peak`."""

    def __init__(self, pid):
        self.pid = pid

    def processes(self):
        found, left = [], [self.pid]
        while left:
            found.append(pathlib.Path(f"/proc/{left.pop()}"))
            for task in (found[-1] / "task").glob("*/children"):
                left += task.read_text().split()
        return found

    def cpu_s(self):
        # The name in parentheses may hold anything.
        fields = [(process / "stat").read_text().rpartition(")")[2].split() for process in self.processes()]
        return sum(int(user) + int(system) for user, system in (field[11:13] for field in fields)) / os.sysconf("SC_CLK_TCK")

    def read_bytes(self):
        """By system calls, from the page cache too; memory maps are not in it."""
        return self.total("io", "rchar")

    def peak_bytes(self):
        return self.total("status", "VmHWM") * 1024

    def reset_peak(self):
        for process in self.processes():
            (process / "clear_refs").write_text("5")

    def total(self, file, name):
        lines = [line.split() for process in self.processes() for line in (process / file).read_text().splitlines()]
        return sum(int(line[1]) for line in lines if line[0] == f"{name}:")
