"""EpiBench's runner: Lazaret as its users reach it, against other engines on the same files, in turn.

Answers are compared before any time counts. Prints the report, and writes it under bench/results/.
Usage: run.py BINARY_FOLDER SCALE [--peers duckdb,datafusion,pyspark,chdb,roapi] …; docs/performance.md tells the rest.
"""

import argparse
import functools
import os
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile

import pyarrow as pa

from epibench import answers, by_hand, engines, report
from epibench.queries import QUERIES, Draws
from epibench.server import Server, Usage, made
from epibench.worker import Failed, Worker

PEERS = [name for name in engines.ENGINES if name != "lazaret"]
# Spark takes seconds where the others take milliseconds.
FEWER = {"pyspark": {"runs": 3, "literal_runs": 20}}
# Those that many clients can ask at a time.
SHARED = ["lazaret", "roapi", "duckdb"]
# Texts with other literals whose answers are compared, for a selective query.
COMPARED_LITERALS = 5


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="where the binaries are")
    parser.add_argument("scale", help="events: 100k, 10m, 1b")
    parser.add_argument("--runs", type=int, default=5, help="hot runs of one text")
    parser.add_argument("--literal-runs", type=int, default=200, help="runs of a selective query with new literals")
    parser.add_argument("--clients", default="1,8,64", help="clients at a time; empty: none")
    parser.add_argument("--seconds", type=int, default=60, help="how long the clients ask")
    parser.add_argument("--no-cold", action="store_true")
    parser.add_argument("--seed", type=int, default=6, help="of the literals; the first ones of 6 find rows at every scale")
    return race_options(parser, QUERIES)


def race_options(parser, queries):
    """What is chosen, with that which every race lets one choose."""
    parser.add_argument("--peers", default="duckdb,datafusion", help="any of " + ",".join(PEERS))
    parser.add_argument("--queries", default=",".join(query.name for query in queries))
    parser.add_argument("--format", choices=["delta", "iceberg"], default="delta")
    parser.add_argument("--timeout-s", type=int, default=600, help="of one query")
    parser.add_argument("--name", help="of the files under results/; else the scale")
    chosen = parser.parse_args()
    chosen.peers = [name for name in chosen.peers.split(",") if name]
    if unknown := set(chosen.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    chosen.queries = [query for query in queries if query.name in chosen.queries.split(",")]
    return chosen


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Race:
    def __init__(self, chosen, home, tables, server):
        self.chosen, self.tables, self.server = chosen, tables, server
        self.answers = pathlib.Path(tempfile.mkdtemp(dir=home, prefix="answers-"))
        self.skipped = {}
        self.workers = {}
        self.oracle = None

    def start(self):
        for name in ["lazaret", *self.chosen.peers]:
            try:
                self.workers[name] = self.worker(name)
            except Failed as error:
                if name == "lazaret":
                    raise
                self.skipped[name] = str(error)
                say(f"{name} is skipped: {error}")
        self.oracle = self.worker("duckdb")

    def worker(self, name):
        return Worker(name, self.tables, self.server.listen, self.chosen.timeout_s)

    def close(self):
        for worker in filter(None, [*self.workers.values(), self.oracle]):
            worker.stop()
        shutil.rmtree(self.answers)

    @functools.cached_property
    def events(self):
        return self.count("events")

    @functools.cached_property
    def persons(self):
        return self.count("person")

    def draws(self):
        """Literals, from the first ones on."""
        return Draws(self.chosen.seed, self.events, self.persons)

    def count(self, table):
        return self.answer(self.oracle, f"SELECT count(*) FROM {table}")[0][0].as_py()

    def answer(self, worker, sql, user="national"):
        file = self.answers / ("oracle" if worker is self.oracle else worker.name)
        worker.ask(sql, user, str(file))
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_file(source).read_all()

    def check_oracle(self):
        """DuckDB's answers against those that numpy makes of the definitions."""
        literals = self.draws().next()
        for query in self.chosen.queries:
            if (check := by_hand.CHECKS.get(query.name)) and (
                unlike := answers.difference(self.answer(self.oracle, query.sql("duckdb", literals)), check(self.tables))
            ):
                sys.exit(f"{query.name}: DuckDB's answer is not numpy's: {unlike}")

    def compare(self, query):
        """Which engines give the oracle's answers; what is wrong with the others, and how many rows there are."""
        draws = self.draws()
        troubles, rows = {}, 0
        for turn in range(COMPARED_LITERALS if query.selective else 1):
            literals = draws.next()
            oracle = self.answer(self.oracle, query.sql("duckdb", literals))
            rows = rows if turn else oracle.num_rows
            for name in self.running(troubles):
                sql = query.sql(self.workers[name].dialect, literals)
                try:
                    unlike = answers.difference(self.answer(self.workers[name], sql, query.user), oracle, query.sorted_by)
                except Failed as error:
                    unlike = str(error)
                if unlike:
                    troubles[name] = unlike
                    say(f"{query.name}, {name}: {unlike}\n  {sql}")
        return troubles, rows

    def running(self, troubles):
        return [name for name in self.workers if name not in troubles]

    def runs(self, name, kind):
        return min(getattr(self.chosen, kind), FEWER.get(name, {}).get(kind, getattr(self.chosen, kind)))

    def in_turn(self, query, troubles, kind, literals):
        """Times in ms by engine; who begins changes from run to run. An engine that fails is among the troubles then."""
        times = {name: [] for name in self.running(troubles)}
        for run in range(getattr(self.chosen, kind)):
            drawn = literals()
            names = self.running(troubles)
            at = run % max(1, len(names))
            for name in names[at:] + names[:at]:
                if run < self.runs(name, kind):
                    try:
                        times[name].append(self.workers[name].ask(query.sql(self.workers[name].dialect, drawn), query.user)[0])
                    except Failed as error:
                        troubles[name] = str(error)
                        say(f"{query.name}, {name}: {error}")
        return {name: times[name] for name in self.running(troubles)}

    def query(self, query):
        """The figures of one query; an engine with trouble has no others."""
        say(f"{query.name} {query.title}")
        for name, worker in self.workers.items():
            if not worker.process.is_alive():
                self.workers[name] = self.worker(name)
        troubles, rows = self.compare(query)
        draws = self.draws()
        fixed = draws.next()
        figures = {}
        meters = {name: self.usage(name) for name in self.running(troubles)}
        client = self.workers["lazaret"].usage
        before, client_before = {name: (meter.cpu_s(), meter.read_bytes()) for name, meter in meters.items()}, client.cpu_s()
        for meter in meters.values():
            meter.reset_peak()
        for name, times in self.in_turn(query, troubles, "runs", lambda: fixed).items():
            cpu_s, read_bytes = (after - was for after, was in zip((meters[name].cpu_s(), meters[name].read_bytes()), before[name]))
            figures[name] = {
                "best_ms": min(times),
                "median_ms": statistics.median(times),
                "hot_ms": times,
                "cpu_ms": cpu_s * 1000 / len(times),
                "read_bytes": read_bytes / len(times),
                "peak_bytes": meters[name].peak_bytes(),
            }
            if name == "lazaret":
                figures[name]["client_cpu_ms"] = (client.cpu_s() - client_before) * 1000 / len(times)
        if query.selective and self.chosen.literal_runs:
            for name, times in self.in_turn(query, troubles, "literal_runs", draws.next).items():
                figures[name] |= {f"p{share}_ms": report.percentile(times, share / 100) for share in (50, 95, 99)}
                figures[name]["literals_ms"] = times
        figures |= {name: {"trouble": trouble} for name, trouble in troubles.items()}
        return {"query": query.name, "title": query.title, "selective": query.selective, "rows": rows, "engines": figures}

    def usage(self, name):
        return Usage(self.server.process.pid) if name == "lazaret" else self.workers[name].usage

    def cold(self, rows):
        """The first query of a process that has just been started, and has its connection."""
        literals = self.draws().next()
        ready_ms = []
        for row, query in zip(rows, self.chosen.queries):
            say(f"{query.name}, cold")
            for name, figures in row["engines"].items():
                if "trouble" in figures:
                    continue
                if name == "lazaret":
                    self.server.restart()
                    ready_ms.append(self.server.ready_ms)
                worker = self.worker(name)
                try:
                    figures["cold_ms"] = worker.ask(query.sql(worker.dialect, literals), query.user)[0]
                except Failed as error:
                    say(f"{query.name}, {name}, cold: {error}")
                worker.stop()
        return statistics.median(ready_ms) if ready_ms else None

    def clients(self):
        found = []
        for count in [int(count) for count in self.chosen.clients.split(",") if count]:
            for name in SHARED:
                if name not in self.workers:
                    continue
                say(f"{count} clients, {name}")
                worker = self.worker(name)
                worker.timeout_s += self.chosen.seconds
                usage = self.usage(name) if name == "lazaret" else worker.usage
                cpu_s = usage.cpu_s()
                pool = os.cpu_count() if name == "duckdb" else None
                latencies, seconds, errors = worker.load(count, self.chosen.seconds, self.chosen.seed, self.events, self.persons, pool)
                found.append({"engine": name, "clients": count, "queries_per_s": len(latencies) / seconds, "errors": len(errors)})
                found[-1]["cpu_s"] = usage.cpu_s() - cpu_s
                found[-1] |= {f"p{share}_ms": report.percentile(latencies, share / 100) for share in (50, 95, 99)} if latencies else {}
                if errors:
                    say(f"{count} clients, {name}: {len(errors)} errors, the first: {errors[0]}")
                worker.stop()
        return found


def terminated(*_):
    """Ends by way of `finally`, so that no process stays; once, for `timeout` and a shell may both say so."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("terminated")


def main():
    chosen = options()
    signal.signal(signal.SIGTERM, terminated)
    home, tables = made(chosen.folder, chosen.scale)
    host = report.machine(chosen.folder)
    if host["load_before"] > 0.5:
        say(f"the machine is not calm: load {host['load_before']:.2f}")
    data_dir = home / f"data-{os.getpid()}"
    server = Server(chosen.folder, tables, data_dir)
    try:
        server.setup(chosen.format)
        race = Race(chosen, home, tables, server)
        try:
            race.start()
            checked_by_hand = race.events <= by_hand.MOST_EVENTS
            if checked_by_hand:
                race.check_oracle()
            result = {
                "scale": chosen.scale,
                "format": chosen.format,
                "events": race.events,
                "persons": race.persons,
                "date": report.today(),
                "machine": host,
                "build": chosen.folder.name,
                "engines": {name: worker.version for name, worker in race.workers.items()},
                "skipped": race.skipped,
                "checked_by_hand": checked_by_hand,
                "seed": chosen.seed,
                "runs": chosen.runs,
                "literal_runs": chosen.literal_runs,
                "fewer": FEWER,
                "seconds": chosen.seconds,
                "queries": [race.query(query) for query in chosen.queries],
            }
            result["clients"] = race.clients()
            result["ready_ms"] = None if chosen.no_cold else race.cold(result["queries"])
        finally:
            race.close()
    finally:
        server.stop()
    shutil.rmtree(data_dir)
    name = chosen.name or chosen.scale + ("" if chosen.format == "delta" else f"-{chosen.format}")
    print(report.write(result, name))
    if wrong := [query["query"] for query in result["queries"] if "trouble" in query["engines"].get("lazaret", {})]:
        sys.exit(f"no time or another answer from Lazaret: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
