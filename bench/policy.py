"""What policy costs: a query under a row policy against the same query with the filter written by hand.

Two servers on the same files, one with policies and a reader under them, one without; they are asked in turn, answers are
compared before any time counts, and the figure is the median of the ratios of the pairs.
Usage: policy.py BINARY_FOLDER SCALE
"""

import contextlib
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import time

from epibench.server import PASSWORD, Server, connect, made

PAIRS = 41

# As a policy, and as a filter.
RULES = {"three states": "region_id BETWEEN 64 AND 255", "one sex": "sex = 1"}

QUERIES = {
    "Q4 7-day average": "SELECT event_date, n, avg(n) OVER (ORDER BY event_date ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS average "
    "FROM (SELECT event_date, count(*) AS n FROM events WHERE {rule} AND event_type = 'CASE' GROUP BY event_date) AS daily ORDER BY event_date",
    "Q5 weekly cases": "SELECT region_id, age_group, date_trunc('week', event_date) AS week, count(*) AS n FROM events "
    "WHERE {rule} AND event_type = 'CASE' AND disease_code = 'COVID19' AND event_date >= DATE '2025-01-01' "
    "GROUP BY region_id, age_group, week ORDER BY region_id, age_group, week",
    "Q6 positivity": "SELECT region_id / 64 AS state, date_trunc('week', event_date) AS week, "
    "sum(CASE WHEN result = 'POS' THEN 1 ELSE 0 END) AS positive, count(*) AS tests FROM events "
    "WHERE {rule} AND event_type = 'TEST' GROUP BY state, week ORDER BY state, week",
    "Q12 facility by type": "SELECT facility_id, event_type, count(*) AS n FROM events WHERE {rule} GROUP BY facility_id, event_type "
    "ORDER BY facility_id, event_type",
}


def timed_ms(call):
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def setup(listen, tables, rule):
    """`rule`: with this policy, or without any."""
    with connect(listen, "admin") as admin, admin.cursor() as cursor:
        statements = [
            f"CREATE EXTERNAL TABLE IF NOT EXISTS events STORED AS DELTA LOCATION '{tables}/delta/events'",
            f"CREATE USER IF NOT EXISTS reader PASSWORD '{PASSWORD}'",
            "GRANT SELECT ON TABLE events TO USER reader",
        ]
        if rule:
            statements.append(f"CREATE OR REPLACE POLICY rule ON TABLE events FOR SELECT TO USER reader USING ({rule})")
        for statement in statements:
            cursor.execute(statement)
            cursor.fetchall()


def main():
    folder, scale = pathlib.Path(sys.argv[1]), sys.argv[2]
    home, tables = made(folder, scale)
    rows = []
    with contextlib.ExitStack() as ends:
        listens = []
        for name in ("governed", "plain"):
            server = Server(folder, tables, home / f"{name}-{os.getpid()}")
            ends.callback(shutil.rmtree, server.data_dir)
            ends.callback(server.stop)
            listens.append(server.listen)
        for rule_name, rule in RULES.items():
            setup(listens[0], tables, rule)
            setup(listens[1], tables, None)
            with contextlib.ExitStack() as connections:
                cursors = [connections.enter_context(connections.enter_context(connect(listen, "reader")).cursor()) for listen in listens]

                def ask(side, query, rule=rule, cursors=cursors):
                    cursors[side].execute(query.format(rule="true" if side == 0 else rule))
                    return cursors[side].fetch_arrow_table()

                for name, query in QUERIES.items():
                    if ask(0, query) != ask(1, query):
                        sys.exit(f"{name}, {rule_name}: the answers differ")
                    pairs = []
                    for turn in range(PAIRS):
                        times = {side: timed_ms(lambda side=side: ask(side, query)) for side in ((0, 1) if turn % 2 else (1, 0))}
                        pairs.append((times[0], times[1]))
                    ratio = statistics.median(governed / plain for governed, plain in pairs)
                    middle = [statistics.median(side) for side in zip(*pairs)]
                    rows.append({"query": name, "rule": rule_name, "governed_ms": middle[0], "by_hand_ms": middle[1], "ratio": ratio})
    report(scale, rows)


def report(scale, rows):
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    lines = [f"Policy against a filter by hand, {scale} events, hot, median of {PAIRS} pairs; {machine}", ""]
    lines += ["| query | rule | governed ms | by hand ms | ratio |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {r['query']} | {r['rule']} | {r['governed_ms']:.1f} | {r['by_hand_ms']:.1f} | {r['ratio']:.3f} |" for r in rows]
    print("\n".join(lines))
    results = pathlib.Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / f"policy-{scale}.md").write_text("\n".join(lines) + "\n")
    (results / f"policy-{scale}.json").write_text(json.dumps({"scale": scale, "machine": machine, "queries": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
