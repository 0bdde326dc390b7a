"""EpiBench's runner: Lazaret through the ADBC driver against DuckDB in process, on the same Parquet files.

Answers are compared before any time counts. Prints a table and writes it under bench/results/.
Usage: run.py BINARY_FOLDER SCALE
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import adbc_driver_flightsql.dbapi as flightsql
import duckdb

RUNS = 7
PASSWORD = "epibench-admin"

# One text for both engines; {day} is the last day of the data.
QUERIES = {
    "Q1 one person": "SELECT event_id, event_date, event_type FROM events WHERE person_id = 4711 ORDER BY event_id",
    "Q3 7 days, region, disease": "SELECT event_date, event_type, count(*) AS n FROM events WHERE region_id = 700 AND disease_code = 'COVID19' "
    "AND event_date BETWEEN DATE '2025-12-25' AND DATE '2025-12-31' GROUP BY event_date, event_type ORDER BY event_date, event_type",
    "Q4 7-day average, state": "SELECT event_date, n, avg(n) OVER (ORDER BY event_date ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS average "
    "FROM (SELECT event_date, count(*) AS n FROM events WHERE event_type = 'CASE' AND region_id BETWEEN 64 AND 127 "
    "AND event_date >= DATE '2024-01-01' GROUP BY event_date) AS daily ORDER BY event_date",
    "Q12 facility by type": "SELECT facility_id, event_type, count(*) AS n FROM events GROUP BY facility_id, event_type ORDER BY facility_id, event_type",
}


def timed(call):
    started = time.perf_counter()
    answer = call()
    return (time.perf_counter() - started) * 1000, answer


def serve(folder, tables, data_dir):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LAZARET_")},  # those would be settings of the server
        "LAZARET_ADMIN_PASSWORD": PASSWORD,
        "LAZARET_ALLOWED_PATHS": str(tables),
        "LAZARET_ADMIN_LISTEN": "",
    }
    command = [str(folder / "lazaret"), "serve", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    return server, json.loads(server.stdout.readline())["listen"]


def made(folder, scale):
    """Where the benchmark's things of this scale are; its tables are made where they are missing."""
    cache = pathlib.Path(os.environ.get("BUILD_CACHE", pathlib.Path.home() / ".cache" / "lazaret"))
    home = cache / "bench" / scale
    tables = home / "tables"
    if not (tables / ".complete").exists():
        subprocess.run([str(folder / "lazaret-bench"), "generate", "--out", str(tables), "--scale", scale], check=True)
        (tables / ".complete").touch()
    return home, tables


def main():
    folder, scale = pathlib.Path(sys.argv[1]), sys.argv[2]
    home, tables = made(folder, scale)
    server, listen = serve(folder, tables, home / f"data-{os.getpid()}")
    try:
        connection = flightsql.connect(f"grpc://{listen}", db_kwargs={"username": "admin", "password": PASSWORD}, autocommit=True)
        cursor = connection.cursor()
        cursor.execute(f"CREATE EXTERNAL TABLE events STORED AS DELTA LOCATION '{tables}/delta/events'")
        cursor.fetchall()
        duck = duckdb.connect()
        duck.execute(f"CREATE VIEW events AS SELECT * FROM read_parquet('{tables}/delta/events/*/*.parquet', hive_partitioning = true)")

        def ask_lazaret(query):
            cursor.execute(query)
            return cursor.fetch_arrow_table()

        rows = []
        for name, query in QUERIES.items():
            ours, theirs = ask_lazaret(query).to_pylist(), duck.sql(query).to_arrow_table().to_pylist()
            if [list(row.values()) for row in ours] != [list(row.values()) for row in theirs]:
                sys.exit(f"{name}: the answers differ")
            lazaret = [timed(lambda: ask_lazaret(query))[0] for _ in range(RUNS)]
            peer = [timed(lambda: duck.sql(query).to_arrow_table())[0] for _ in range(RUNS)]
            rows.append((name, statistics.median(lazaret), statistics.median(peer)))
        cursor.close()
        connection.close()
    finally:
        server.terminate()
        server.wait()
    report(scale, rows)


def report(scale, rows):
    machine = f"{platform.machine()}, {os.cpu_count()} cores, DuckDB {duckdb.__version__}"
    lines = [f"EpiBench at {scale} events, hot, median of {RUNS}; {machine}", "", "| query | Lazaret ms | DuckDB ms | ratio |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} |" for name, ours, theirs in rows]
    print("\n".join(lines))
    results = pathlib.Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / f"{scale}.md").write_text("\n".join(lines) + "\n")
    figures = [{"query": name, "lazaret_ms": ours, "duckdb_ms": theirs} for name, ours, theirs in rows]
    (results / f"{scale}.json").write_text(json.dumps({"scale": scale, "machine": machine, "queries": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
