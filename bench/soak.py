"""Hours of all that users do to a server, and whether its memory, open files and threads stay as they are.

Analysts ask EpiBench's queries, mostly with new literals, and fail, cancel and leave as people do; an engineer adds to tables
and compacts them; an administrator changes policies, users and tokens. Answers that can be known are compared.
Usage: soak.py BINARY_FOLDER SCALE [--minutes 60] [--clients 8]; docs/performance.md tells the rest.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import sys
import threading
import time

import adbc_driver_manager as adbc
import deltalake
import numpy
import pyarrow as pa
import pyarrow.flight as flight

from epibench import answers, engines, report
from epibench.engines import over_adbc
from epibench.queries import EXPORT_ROWS, QUERIES, SELECTIVE, THREE_STATES, Draws
from epibench.server import PASSWORD, Server, Usage, connect, made

STATUS = adbc.AdbcStatusCode
EXPORT = next(query for query in QUERIES if query.name == "Q13")
WHOLE_TABLE = [query for query in QUERIES if not query.selective and query is not EXPORT]
# Sets of literals for each selective query whose answers DuckDB gave before.
KNOWN_LITERALS = 5
# After so many statements an analyst signs in anew.
STATEMENTS_A_SESSION = 40
# An engineer's batch holds 1 to so many; a reader can tell whether a batch is whole.
BATCH_ROWS = 1_000
# Batches between two compactions, and how many of them a compaction keeps.
COMPACT_AFTER, KEPT = 60, 10
# By then everybody sees what another writer has committed.
SEEN_S = 1

# The time before is for caches, pools and sessions to fill.
WARM_UP = 1 / 4
# The rest is cut into so many parts; a line is laid through their medians, so that single large queries do not bend it.
PARTS = 30
# What the line may rise from the end of the warm-up to the end: memory by a share, the others by a count.
MOST_RISE, MOST_MORE = 0.03, 3
MEASURES = {"rss_bytes": "memory, MiB", "files": "open files", "threads": "threads"}
STOP_S = 120

# What must fail, and as what.
FAILING = [
    ("SELEC count(*) FROM events", STATUS.INVALID_ARGUMENT),
    ("SELECT no_such_column FROM events", STATUS.NOT_FOUND),
    ("SELECT sum(1 / (sex - sex)) FROM events", STATUS.INVALID_ARGUMENT),
    ("SELECT count(*) FROM no_such_table", STATUS.NOT_FOUND),
    ("SELECT count(*) FROM system.audit", STATUS.NOT_FOUND),
    ("INSERT INTO region SELECT * FROM region", STATUS.UNAUTHORIZED),
    ("UPDATE region SET name = 'x'", STATUS.NOT_IMPLEMENTED),
]
# The same rows by another text.
RULES = {"national": ["true", "event_id >= 0"], "regional": [THREE_STATES, "region_id >= 64 AND region_id <= 255"]}


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="where the binaries are")
    parser.add_argument("scale", help="events: 1m, 10m")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8, help="analysts at a time")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--name", default="soak", help="of the files under results/")
    return parser.parse_args()


def say(text):
    print(f"soak: {text}", file=sys.stderr, flush=True)


class Wrong(Exception):
    """An answer that is another than it must be."""


def expect(what, answer, known):
    if answer != known:
        raise Wrong(f"{what}: {answer} instead of {known}")


@contextlib.contextmanager
def fails(status, always=True):
    """What is done here must fail so, or may where it can come to its end before."""
    try:
        yield
    except adbc.Error as error:
        if error.status_code != status:
            raise
    except OSError as error:  # pyarrow's, amid the batches: it has a text only
        if status != STATUS.CANCELLED or "cancel" not in str(error).lower():
            raise
    else:
        if always:
            raise Wrong(f"no {status.name}")


def rows(connection, sql):
    return [tuple(row.values()) for row in over_adbc(connection, sql).to_pylist()]


class Load:
    """What all of them share: whom they ask, what is known, what was done."""

    def __init__(self, chosen, listen, tables, lake):
        self.seed, self.listen, self.lake = chosen.seed, listen, lake
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.done, self.troubles = collections.Counter(), collections.Counter()
        oracle = engines.DuckDB(tables, None).client()
        count = lambda table: oracle(f"SELECT count(*) FROM {table}", None)[0][0].as_py()  # noqa: E731
        self.events, self.persons = count("events"), count("person")
        draws = Draws(self.seed, self.events, self.persons)
        literals = [draws.next() for _ in range(KNOWN_LITERALS)]
        known = lambda query, drawn: (query, query.sql("lazaret", drawn), oracle(query.sql("duckdb", drawn), None))  # noqa: E731
        self.known = [known(query, drawn) for query in SELECTIVE for drawn in literals]
        self.known_whole = [known(query, literals[0]) for query in WHOLE_TABLE]

    def count(self, act):
        with self.lock:
            self.done[act] += 1

    def trouble(self, act, error):
        with self.lock:
            self.troubles[f"{act}, {'another answer' if isinstance(error, Wrong) else 'an error'}"] += 1
        say(f"{act}: {type(error).__name__}: {error}")


class Actor(threading.Thread):
    """Somebody who does one thing after another, by chance, until it is over."""

    # How often, each against the others.
    acts = {}
    pause_s = 0

    def __init__(self, load, number=0):
        super().__init__(name=f"{type(self).__name__} {number}", daemon=True)
        self.load = load
        self.random = random.Random(f"{load.seed} {self.name}")
        self.connections = {}

    def run(self):
        while not self.load.over.wait(self.pause_s):
            (act,) = self.random.choices(list(self.acts), list(self.acts.values()))
            try:
                getattr(self, act)()
                self.load.count(act)
            except Exception as error:
                self.load.trouble(act, error)
                self.leave()
        self.leave()

    def connection(self, user):
        if user not in self.connections:
            self.connections[user] = connect(self.load.listen, user)
        return self.connections[user]

    def leave(self):
        for connection in self.connections.values():
            with contextlib.suppress(adbc.Error):
                connection.close()
        self.connections.clear()


class Analyst(Actor):
    acts = {
        "fresh": 900, "known": 60, "bound": 40, "batches": 30, "failing": 20, "whole": 6, "cancelled": 6, "late": 4, "killed": 3,
        "abandoned": 3, "export": 1,
    }  # fmt: skip

    def __init__(self, load, number):
        super().__init__(load, number)
        self.draws = Draws(load.seed + 1 + number, load.events, load.persons)
        self.asked = 0

    def connection(self, user):
        if self.asked >= STATEMENTS_A_SESSION:
            self.asked = 0
            self.leave()
        self.asked += 1
        return super().connection(user)

    def ask(self, sql, user="national"):
        return over_adbc(self.connection(user), sql)

    def fresh(self):
        query = self.random.choice(SELECTIVE)
        self.ask(query.sql("lazaret", self.draws.next()), query.user)

    def known(self):
        self.compare(*self.random.choice(self.load.known))

    def whole(self):
        self.compare(*self.random.choice(self.load.known_whole))

    def compare(self, query, sql, known):
        if unlike := answers.difference(self.ask(sql, query.user), known, query.sorted_by):
            raise Wrong(f"{query.name}: {unlike}")

    def bound(self):
        """One text, prepared, with several parameters."""
        with self.connection("national").cursor() as cursor:
            for _ in range(5):
                event = self.random.randrange(self.load.events)
                cursor.execute("SELECT event_id FROM events WHERE event_id = ?", [event])
                expect("parameter", cursor.fetchall(), [(event,)])

    def batches(self):
        """What the engineer is at: a reader sees whole batches."""
        for table in ("ledger", "feed"):
            ((found, total),) = rows(self.connection("national"), f"SELECT count(*), sum(n) FROM {table}")
            expect(table, (found % BATCH_ROWS, total), (0, found * (BATCH_ROWS + 1) // 2))

    def failing(self):
        sql, status = self.random.choice(FAILING)
        with fails(status):
            self.ask(sql)

    def late(self):
        self.ask("SET statement_timeout_ms = 20")
        with fails(STATUS.TIMEOUT, always=False):
            self.ask(self.random.choice(WHOLE_TABLE).sql("lazaret", {}))
        self.ask("RESET statement_timeout_ms")

    def cancelled(self):
        query = self.random.choice([*WHOLE_TABLE, EXPORT])
        with self.connection("national").cursor() as cursor:
            timer = threading.Timer(self.random.uniform(0, 0.3), cursor.adbc_cancel)
            timer.start()
            try:
                with fails(STATUS.CANCELLED, always=False):
                    cursor.execute(query.sql("lazaret", {}))
                    collections.deque(cursor.fetch_record_batch(), 0)
            finally:
                timer.cancel()
                timer.join()

    def killed(self):
        """By its id, from another connection of the same user."""
        sql = f"{EXPORT.sql('lazaret', {})} AND event_id <> -{self.random.randrange(10**12)}"
        with self.connection("national").cursor() as cursor, connect(self.load.listen, "national") as other:
            cursor.execute(sql)
            batches = cursor.fetch_record_batch()
            batches.read_next_batch()
            running = rows(other, f"SELECT statement_id FROM system.queries WHERE state = 'running' AND statement = '{sql}'")
            for (statement,) in running:
                with fails(STATUS.NOT_FOUND, always=False):
                    over_adbc(other, f"KILL QUERY '{statement}'")
            with fails(STATUS.CANCELLED, always=False):
                collections.deque(batches, 0)

    def abandoned(self):
        """Read to the first batch, and no further."""
        with self.connection("national").cursor() as cursor:
            cursor.execute(EXPORT.sql("lazaret", {}))
            cursor.fetch_record_batch().read_next_batch()

    def export(self):
        with self.connection("national").cursor() as cursor:
            cursor.execute(EXPORT.sql("lazaret", {}))
            found = sum(batch.num_rows for batch in cursor.fetch_record_batch())
        expect("export", found, min(EXPORT_ROWS, self.load.events))


class Engineer(Actor):
    """Adds to a managed table by SQL and to a table of files by SQL and by another writer, and compacts them. What readers may
    still have open goes with the next compaction."""

    acts = {"insert": 1, "append": 1}
    pause_s = 1

    def __init__(self, load):
        super().__init__(load)
        self.batch = 0
        self.kept = {"ledger": [], "feed": []}
        self.ledgers, self.stale = ["ledger_0"], []
        settings = {"delta.logRetentionDuration": "interval 5 minutes"}
        deltalake.write_deltalake(load.lake / "feed", self.rows().slice(0, 0), configuration=settings)
        self.sql("CREATE TABLE ledger_0 (batch BIGINT, n BIGINT)")
        self.sql("CREATE VIEW ledger AS SELECT * FROM ledger_0")
        self.sql(f"CREATE EXTERNAL TABLE feed STORED AS DELTA LOCATION '{load.lake / 'feed'}'")
        self.insert()
        self.append()

    def sql(self, sql):
        return rows(self.connection("admin"), sql)

    def rows(self):
        return pa.table({"batch": pa.array([self.batch] * BATCH_ROWS, pa.int64()), "n": pa.array(range(1, BATCH_ROWS + 1), pa.int64())})

    def added(self, table):
        """Looks whether the table has these batches, and says whether it is time for a compaction."""
        self.kept[table].append(self.batch)
        found = self.sql(f"SELECT batch, count(*) FROM {table} GROUP BY batch ORDER BY batch")
        expect(table, found, [(batch, BATCH_ROWS) for batch in self.kept[table]])
        return len(self.kept[table]) >= COMPACT_AFTER

    def insert(self):
        self.batch += 1
        if self.batch % 2:
            with self.connection("admin").cursor() as cursor:
                cursor.executemany(f"INSERT INTO {self.ledgers[-1]} VALUES (?, ?)", self.rows())
        else:
            self.sql(f"INSERT INTO {self.ledgers[-1]} SELECT {self.batch}, value FROM generate_series(1, {BATCH_ROWS})")
        if self.added("ledger"):
            self.kept["ledger"] = self.kept["ledger"][-KEPT:]
            self.ledgers.append(f"ledger_{self.batch}")
            self.sql(f"CREATE TABLE {self.ledgers[-1]} AS SELECT * FROM {self.ledgers[-2]} WHERE batch >= {self.kept['ledger'][0]}")
            self.sql(f"CREATE OR REPLACE VIEW ledger AS SELECT * FROM {self.ledgers[-1]}")
            for old in self.ledgers[:-2]:
                self.sql(f"DROP TABLE {old}")
            self.ledgers = self.ledgers[-2:]
            self.load.count("compaction by SQL")

    def append(self):
        self.batch += 1
        if self.batch % 2:
            self.sql(f"INSERT INTO feed SELECT {self.batch}, value FROM generate_series(1, {BATCH_ROWS})")
        else:
            deltalake.write_deltalake(self.load.lake / "feed", self.rows(), mode="append")
            time.sleep(SEEN_S)
        if self.added("feed"):
            self.kept["feed"] = self.kept["feed"][-KEPT:]
            table = deltalake.DeltaTable(self.load.lake / "feed")
            table.delete(f"batch < {self.kept['feed'][0]}")
            table.optimize.compact()
            for file in self.stale:
                (self.load.lake / "feed" / file).unlink(missing_ok=True)
            self.stale = table.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False)
            table.create_checkpoint()
            table.cleanup_metadata()
            self.load.count("compaction of files")


class Administrator(Actor):
    acts = {"rules": 2, "newcomer": 4, "token": 2, "stranger": 1, "looks": 4, "audit": 1}
    pause_s = 3

    def __init__(self, load):
        super().__init__(load)
        self.number = 0

    def sql(self, sql):
        return rows(self.connection("admin"), sql)

    def rules(self):
        for user, texts in RULES.items():
            self.sql(f"CREATE OR REPLACE POLICY {user} ON TABLE events FOR SELECT TO USER {user} USING ({self.random.choice(texts)})")

    @contextlib.contextmanager
    def user(self):
        self.number += 1
        name = f"newcomer_{self.number}"
        self.sql(f"CREATE USER {name} PASSWORD '{PASSWORD}'")
        self.sql(f"GRANT SELECT ON TABLE events TO USER {name}")
        try:
            yield name
        finally:
            self.sql(f"REVOKE SELECT ON TABLE events FROM USER {name}")
            self.sql(f"DROP USER {name}")

    def newcomer(self):
        """Sees nothing, then a region without the persons, then is gone."""
        region, question = self.random.randrange(3_200), "SELECT count(*), count(person_id) FROM events"
        with self.user() as name, connect(self.load.listen, name) as connection:
            expect("no policy", rows(connection, question), [(0, 0)])
            self.sql(f"CREATE POLICY {name} ON TABLE events FOR SELECT TO USER {name} USING (region_id = {region})")
            self.sql(f"CREATE MASKING POLICY {name} ON TABLE events (person_id) TO USER {name} USING ACTION replace_with_null")
            try:
                ((seen, persons),) = rows(connection, question)
            finally:
                self.sql(f"DROP MASKING POLICY {name} ON TABLE events")
                self.sql(f"DROP POLICY {name} ON TABLE events")
            known = rows(self.connection("national"), f"SELECT count(*) FROM events WHERE region_id = {region}")
            expect("policy and mask", [(seen,), (persons,)], [*known, (0,)])
        self.refused(name)

    def token(self):
        with self.user() as name:
            ((token, *_),) = self.sql(f"CREATE TOKEN soak FOR USER {name} EXPIRES IN 1 DAYS")
            try:
                with connect(self.load.listen, name, token) as connection:
                    expect("token", rows(connection, "SELECT current_user"), [(name,)])
            finally:
                self.sql(f"DROP TOKEN soak FOR USER {name}")

    def stranger(self):
        self.refused("stranger")

    def refused(self, name):
        """Not by ADBC, which keeps the connection of a sign-in that was refused, for ever and out of reach."""
        with flight.FlightClient(f"grpc://{self.load.listen}") as client, contextlib.suppress(flight.FlightUnauthenticatedError):
            client.authenticate_basic_token(name, PASSWORD)
            raise Wrong(f"{name} is let in")

    def looks(self):
        self.sql("SELECT state, count(*) FROM system.queries GROUP BY state")
        self.sql("SELECT principal, count(*) FROM system.sessions GROUP BY principal")
        self.sql("SHOW EFFECTIVE POLICIES ON events FOR USER regional")
        self.sql("EXPLAIN ANALYZE SELECT count(*) FROM events WHERE region_id = 7")

    def audit(self):
        self.sql("SELECT status, count(*) FROM system.audit WHERE time > now() - INTERVAL '10 minutes' GROUP BY status")


class Watch:
    """What the server's process has, second by second."""

    def __init__(self, server, load):
        self.server, self.load = server, load
        self.usage = Usage(server.process.pid)
        self.admin = connect(server.listen, "admin")
        self.samples, self.minutes = [], []

    def run(self, duration_s):
        began = time.monotonic()
        while (passed_s := time.monotonic() - began) < duration_s:
            if self.server.process.poll() is not None:
                sys.exit(f"the server ended with code {self.server.process.returncode}: see {self.server.data_dir / 'server.log'}")
            files, threads = len(os.listdir(f"/proc/{self.usage.pid}/fd")), self.usage.total("status", "Threads")
            self.samples.append({"rss_bytes": self.usage.total("status", "VmRSS") * 1024, "files": files, "threads": threads})
            if passed_s // 60 > len(self.minutes):
                self.minute()
            time.sleep(max(0, began + len(self.samples) - time.monotonic()))
        self.minute()

    def minute(self):
        """For the report and whoever waits: medians of the last minute, and what is asked once a minute."""
        ((cached,),) = rows(self.admin, "SELECT CAST(sum(bytes) AS BIGINT) FROM system.caches")
        ((sessions,),) = rows(self.admin, "SELECT count(*) FROM system.sessions")
        last = {name: statistics.median(sample[name] for sample in self.samples[-60:]) for name in MEASURES}
        last |= {"cached_bytes": cached, "sessions": sessions, "data_dir_bytes": size(self.server.data_dir)}
        last |= {"done": sum(self.load.done.values()), "troubles": sum(self.load.troubles.values())}
        self.minutes.append(last)
        say(f"minute {len(self.minutes)}: " + ", ".join(f"{name} {value:,.0f}" for name, value in last.items()))

    def trend(self, name):
        """Of the time after the warm-up: a straight line through the medians of its parts, and what it rises."""
        later = self.samples[int(len(self.samples) * WARM_UP) :]
        medians = [statistics.median(sample[name] for sample in part) for part in numpy.array_split(later, PARTS)]
        a_part, begin = numpy.polyfit(range(PARTS), medians, 1)
        rise, most = a_part * (PARTS - 1), begin * MOST_RISE if name == "rss_bytes" else MOST_MORE
        return {"begin": begin, "rise": rise, "most": most, "an_hour": rise * 3600 / len(later), "flat": bool(rise <= most)}

    def quarters(self):
        """Least, median and most of each measure."""
        for quarter in numpy.array_split(self.samples, 4):
            values = {name: sorted(sample[name] for sample in quarter) for name in MEASURES}
            yield {name: (of[0], of[len(of) // 2], of[-1]) for name, of in values.items()}


def size(folder):
    """In bytes; what goes meanwhile does not count."""
    found = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += file.stat().st_size
    return found


def soak(chosen, server, tables, lake):
    load = Load(chosen, server.listen, tables, lake)
    actors = [Engineer(load), Administrator(load), *(Analyst(load, number) for number in range(chosen.clients))]
    watch = Watch(server, load)
    for actor in actors:
        actor.start()
    try:
        watch.run(chosen.minutes * 60)
    finally:
        load.over.set()
    end = time.monotonic() + STOP_S
    for actor in actors:
        actor.join(max(0, end - time.monotonic()))
        if actor.is_alive():
            load.trouble(actor.name, TimeoutError(f"waits for an answer, {STOP_S} s after the end"))
    return {
        "events": load.events,
        "statements": dict(rows(watch.admin, "SELECT status, count(*) FROM system.audit GROUP BY status ORDER BY status")),
        "done": dict(sorted(load.done.items())),
        "troubles": dict(load.troubles),
        "trends": {name: watch.trend(name) for name in MEASURES},
        "quarters": list(watch.quarters()),
        "minutes": watch.minutes,
    }


def markdown(result):
    host, last = result["machine"], result["minutes"][-1]
    mib = lambda count: report.number(count / 1024**2, 0)  # noqa: E731
    shown = {"rss_bytes": mib, "files": report.number, "threads": report.number}
    told = "Memory, open files and threads are flat, and every answer that is known was right." if result["passed"] else "**Not passed.**"
    counts = lambda of: ", ".join(f"{count:,} {what}" for what, count in of.items())  # noqa: E731
    lines = [
        f"# Soak, {result['scale']}, {result['minutes_long']:g} minutes",
        "",
        f"{result['events']:,} events; {result['clients']} analysts, an engineer and an administrator. {result['date']}. {told}",
        "",
        f"- Machine: {host['cpu']}, {host['cores']} cores, {host['memory_gib']} GiB, {host['system']}; load before {host['load_before']:.2f}.",
        f"- {host['lazaret']}, commit {host['commit']}, {result['build']} build, with its defaults.",
        f"- Statements in the audit: {counts(result['statements'])}.",
        f"- Done: {counts(result['done'])}.",
        f"- At the end: {mib(last['cached_bytes'])} MiB in caches, {last['sessions']:,} sessions, {mib(last['data_dir_bytes'])} MiB of data folder.",
    ]
    lines += [f"- Trouble: {what}, {count} times." for what, count in result["troubles"].items()]
    lines += ["", f"After the first quarter, a straight line through the medians of {PARTS} parts of the time:", ""]
    lines += report.table(
        ["", "begins at", "rises by", "at most", "in an hour"],
        [
            [MEASURES[name], *(shown[name](trend[of]) for of in ("begin", "rise", "most", "an_hour"))]
            for name, trend in result["trends"].items()
        ],
    )
    lines += ["Least / median / most of each quarter:", ""]
    lines += report.table(
        ["quarter", *MEASURES.values()],
        [
            [str(number), *(" / ".join(shown[name](value) for value in quarter[name]) for name in MEASURES)]
            for number, quarter in enumerate(result["quarters"], 1)
        ],
    )
    return "\n".join(lines)


def main():
    chosen = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # by way of `finally`
    home, tables = made(chosen.folder, chosen.scale)
    host = report.machine(chosen.folder)
    place = home / f"soak-{os.getpid()}"
    (place / "lake").mkdir(parents=True)
    server = Server(chosen.folder, tables, place / "data", [place / "lake"])
    try:
        server.setup("delta")
        found = soak(chosen, server, tables, place / "lake")
    finally:
        server.stop()
    passed = not found["troubles"] and all(trend["flat"] for trend in found["trends"].values())
    result = {
        "scale": chosen.scale,
        "minutes_long": chosen.minutes,
        "clients": chosen.clients,
        "seed": chosen.seed,
        "date": report.today(),
        "machine": host,
        "build": chosen.folder.name,
        "passed": passed,
        **found,
    }
    text = markdown(result)
    print(text)
    report.RESULTS.mkdir(exist_ok=True)
    (report.RESULTS / f"{chosen.name}.md").write_text(text)
    (report.RESULTS / f"{chosen.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if not passed:
        sys.exit(f"not flat, or there was trouble; the server's log is in {place}")
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
