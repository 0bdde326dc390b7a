"""The engines, each opened over the same files. `client()` gives a function from SQL to an Arrow table, for one thread."""

import collections
import contextlib
import ctypes
import glob
import importlib.metadata
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading

from .server import PASSWORD, POLICIES, connect, names


class Lazaret:
    """Through the ADBC driver, over loopback; a connection for each user, a cursor for each query."""

    dialect = "lazaret"

    def __init__(self, tables, listen):
        self.listen = listen

    def client(self):
        connections = {user: connect(self.listen, user) for user in POLICIES}
        return lambda sql, user: over_adbc(connections[user], sql)


class DuckDB:
    dialect = "duckdb"

    def __init__(self, tables, listen):
        import duckdb

        self.database = duckdb.connect()
        self.database.execute("SET TimeZone = 'UTC'")
        self.database.execute("SET parquet_metadata_cache = true")
        for table in names(tables):
            self.database.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{parquet(tables, table)}')")

    def client(self):
        cursor = self.database.cursor()
        return lambda sql, user: cursor.sql(sql).to_arrow_table()


class DataFusion:
    dialect = "datafusion"

    def __init__(self, tables, listen):
        import datafusion

        self.context = datafusion.SessionContext()
        for table in names(tables):
            self.context.register_parquet(table, f"{tables}/delta/{table}/")

    def client(self):
        return lambda sql, user: self.context.sql(sql).to_arrow_table()


class PySpark:
    dialect = "pyspark"

    def __init__(self, tables, listen):
        from pyspark.sql import SparkSession

        settings = {
            "spark.driver.memory": "8g",
            "spark.driver.maxResultSize": "0",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.shuffle.partitions": str(2 * os.cpu_count()),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.extraJavaOptions": f"-Djava.io.tmpdir={tempfile.gettempdir()}",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        }
        builder = SparkSession.builder.master("local[*]")
        for name, value in settings.items():
            builder = builder.config(name, value)
        self.session = builder.getOrCreate()
        self.session.sparkContext.setLogLevel("ERROR")
        for table in names(tables):
            self.session.read.parquet(f"{tables}/delta/{table}").createOrReplaceTempView(table)

    def client(self):
        return lambda sql, user: self.session.sql(sql).toArrow()


class ChDB:
    dialect = "chdb"

    def __init__(self, tables, listen):
        from chdb import session

        self.session = session.Session()
        for setting in ("join_use_nulls = 1", "session_timezone = 'UTC'", "allow_experimental_correlated_subqueries = 1"):
            self.session.query(f"SET {setting}")
        for table in names(tables):
            self.session.query(f"CREATE VIEW {table} AS SELECT * FROM file('{parquet(tables, table)}', Parquet)")

    def client(self):
        return lambda sql, user: self.session.query(sql, "ArrowTable")


class Roapi:
    """A server over Flight SQL too, without policies or an audit log; started here, and ended with this process."""

    dialect = "roapi"

    def __init__(self, tables, listen):
        with contextlib.ExitStack() as free:
            ports = [free.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)]
        self.listen = f"127.0.0.1:{ports[0]}"
        options = {"format": "parquet", "use_memory_table": False}
        config = {
            "addr": {"flight_sql": self.listen, "http": f"127.0.0.1:{ports[1]}", "postgres": f"127.0.0.1:{ports[2]}"},
            "tables": [{"name": table, "uri": f"{tables}/delta/{table}/", "option": options} for table in names(tables)],
            "flight_sql_config": {"auth_basic": {"username": "national", "password": PASSWORD}},
        }
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(json.dumps(config))
            file.flush()
            program = pathlib.Path(sys.executable).with_name("roapi")
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            self.process = subprocess.Popen([program, "-c", file.name], preexec_fn=end_with_parent, **pipes)
            if not any("FlightSQL" in line for line in self.process.stderr):
                raise RuntimeError("roapi did not start")
        threading.Thread(target=collections.deque, args=(self.process.stderr, 0), daemon=True).start()

    def client(self):
        connection = connect(self.listen, "national")
        return lambda sql, user: over_adbc(connection, sql)


def end_with_parent():
    """Asks Linux to end this process with the one that started it, however that ends: PR_SET_PDEATHSIG is 1."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def over_adbc(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


ENGINES = {"lazaret": Lazaret, "duckdb": DuckDB, "datafusion": DataFusion, "pyspark": PySpark, "chdb": ChDB, "roapi": Roapi}
PACKAGES = {"lazaret": "adbc-driver-flightsql"}


def version(name):
    return importlib.metadata.version(PACKAGES.get(name, name))


def parquet(tables, table):
    """A pattern for the table's files: those of `events` lie in a folder for each month."""
    folder = f"{tables}/delta/{table}"
    return f"{folder}/*/*.parquet" if glob.glob(f"{folder}/*/*.parquet") else f"{folder}/*.parquet"
