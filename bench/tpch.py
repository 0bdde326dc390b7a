"""TPC-H: Lazaret as its users reach it, against other engines on the same Parquet files, in turn.

Answers are compared with DuckDB's before any time counts. Prints the report, and writes it under bench/results/.
Usage: tpch.py BINARY_FOLDER SCALE_FACTOR [--peers duckdb,datafusion] [--format iceberg] …; docs/performance.md tells the rest.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import sys

from epibench.answers import TOLERANCE
from epibench.report import NAMES, RESULTS, fewer, figures, machine, number, ratio, table, today
from epibench.server import POLICIES, Server, kept
from epibench.tpch import QUERIES, Parameters
from run import FEWER, Race, race_options, say, terminated

# The largest ratio of our total time to a peer's that is good enough.
MARKS = {"duckdb": 1.1, "datafusion": 1.0}


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="where the binaries are")
    parser.add_argument("scale_factor", type=float, help="GB of text that the tables would be")
    parser.add_argument("--runs", type=int, default=3, help="hot runs of a query")
    return race_options(parser, QUERIES)


class TpcH(Race):
    def draws(self):
        return Parameters(self.chosen.scale_factor)


def make(tables, scale_factor):
    from epibench import tpch_tables  # here, so that the engines' processes do without its packages

    say(f"makes the tables of scale factor {scale_factor:g}")
    tpch_tables.generate(tables, scale_factor)


def totals(queries, peer):
    """Sums of the hot medians, in seconds, of what both have answered."""
    both = [query for query in queries if all("median_ms" in figures(query, engine) for engine in ("lazaret", peer))]
    ours, theirs = (sum(figures(query, engine)["median_ms"] for query in both) / 1000 for engine in ("lazaret", peer))
    return {"queries": len(both), "lazaret_s": ours, "peer_s": theirs, "ratio": ours / theirs if both else None}


def markdown(result):
    host, engines, queries = result["machine"], list(result["engines"]), result["queries"]
    peers = [engine for engine in engines if engine != "lazaret"]
    versions = ", ".join(f"{NAMES[peer]} {result['engines'][peer]}" for peer in peers)
    lines = [
        f"# TPC-H, scale factor {result['scale_factor']:g}, {result['format'].capitalize()}",
        "",
        f"{result['bytes'] / 1024**3:,.2f} GiB of Parquet, as {result['format'].capitalize()}; the peers read the same files. "
        f"{result['date']}.",
        "",
        f"- Machine: {host['cpu']}, {host['cores']} cores, {host['memory_gib']} GiB, {host['system']}; "
        f"load before the run {host['load_before']:.2f}.",
        f"- {host['lazaret']}, commit {host['commit']}, {result['build']} build, through ADBC (adbc-driver-flightsql "
        f"{result['engines']['lazaret']}) over loopback, with a password, a row policy on `lineitem` and the audit log; each query is "
        "prepared anew.",
        f"- Peers in processes of their own, asked in turn with Lazaret: {versions or 'none'}. Python {host['python']}.",
        *(f"- {NAMES[peer]} is skipped: {why}." for peer, why in result["skipped"].items()),
        f"- Answers were compared with DuckDB's before any time counted, floating point within {TOLERANCE:g} (relative or absolute), "
        "quotients that are decimals to their last digit.",
        "- Not a TPC result: no refresh functions, no throughput test, no audit; parameters are those that answers are validated with.",
        "",
    ]
    troubled = [(query, engine) for query in queries for engine in engines if "trouble" in figures(query, engine)]
    if troubled:
        lines += ["## No time, since the answer was another or there was none", ""]
        lines += [f"- {query['query']}, {NAMES[engine]}: {query['engines'][engine]['trouble']}" for query, engine in troubled]
        lines += [""]

    lines += ["## Total", "", "Sums of the hot medians over the queries that both have answered."]
    lines += ["Lazaret's by the peer's is the ratio: below 1, Lazaret is faster.", ""]
    rows = []
    for peer, total in result["totals"].items():
        mark = f"at most {MARKS[peer]:.1f}" if peer in MARKS else "–"
        rows.append([NAMES[peer], str(total["queries"]), number(total["lazaret_s"], 2), number(total["peer_s"], 2)])
        rows[-1] += [f"**{number(total['ratio'], 2)}**", mark]
    lines += table(["peer", "queries", "Lazaret s", "peer s", "ratio", "mark"], rows)

    lines += ["## Queries, ms", "", f"Best / median of {result['runs']} hot runs{fewer(result, 'runs')}, and the ratio of the medians.", ""]
    rows = []
    for query in queries:
        row = [f"{query['query']} {query['title']}", f"{query['rows']:,}"]
        for engine in engines:
            of = figures(query, engine)
            row.append(f"{number(of.get('best_ms'))} / {number(of.get('median_ms'))}")
        rows.append(row + [number(ratio(query, peer), 2) for peer in peers])
    lines += table(["query", "rows", *(NAMES[engine] for engine in engines), *(f"by {NAMES[peer]}" for peer in peers)], rows)

    lines += ["## What a hot run costs", ""]
    lines += ["CPU ms / peak MiB / MiB read by system calls, from the page cache too. Lazaret's are the server's.", ""]
    rows = []
    for query in queries:
        rows.append([query["query"]])
        for engine in engines:
            of = figures(query, engine)
            mib = [of[key] / 1024**2 if key in of else None for key in ("peak_bytes", "read_bytes")]
            rows[-1].append(f"{number(of.get('cpu_ms'))} / {number(mib[0], 0)} / {number(mib[1])}")
    return "\n".join(lines + table(["query", *(NAMES[engine] for engine in engines)], rows))


def main():
    chosen = options()
    signal.signal(signal.SIGTERM, terminated)
    home, tables = kept(f"tpch-sf{chosen.scale_factor:g}", lambda tables: make(tables, chosen.scale_factor))
    host = machine(chosen.folder)
    if host["load_before"] > 0.5:
        say(f"the machine is not calm: load {host['load_before']:.2f}")
    data_dir = home / f"data-{os.getpid()}"
    server = Server(chosen.folder, tables, data_dir)
    try:
        # A policy that shows everything: both users' plans are those of a table without policies.
        server.setup(chosen.format, "lineitem", dict.fromkeys(POLICIES, "true"))
        race = TpcH(chosen, home, tables, server)
        try:
            race.start()
            result = {
                "scale_factor": chosen.scale_factor,
                "format": chosen.format,
                "bytes": sum(file.stat().st_size for file in tables.glob("delta/*/*.parquet")),
                "date": today(),
                "machine": host,
                "build": chosen.folder.name,
                "engines": {name: worker.version for name, worker in race.workers.items()},
                "skipped": race.skipped,
                "runs": chosen.runs,
                "fewer": FEWER,
                "queries": [race.query(query) for query in chosen.queries],
            }
        finally:
            race.close()
    finally:
        server.stop()
    shutil.rmtree(data_dir)
    result["totals"] = {peer: totals(result["queries"], peer) for peer in result["engines"] if peer != "lazaret"}
    name = chosen.name or f"tpch-{chosen.format}-sf{chosen.scale_factor:g}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(markdown(result))
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    print(markdown(result))
    if wrong := [query["query"] for query in result["queries"] if "trouble" in query["engines"].get("lazaret", {})]:
        sys.exit(f"no time or another answer from Lazaret: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
