"""The report: Markdown to read, JSON to compare, a picture to show."""

import datetime
import json
import math
import os
import pathlib
import platform
import subprocess

from .answers import TOLERANCE

NAMES = {"lazaret": "Lazaret", "duckdb": "DuckDB", "datafusion": "DataFusion", "pyspark": "PySpark", "chdb": "chDB", "roapi": "roapi"}
COLOURS = {"lazaret": "#1b6ca8", "duckdb": "#f2b134", "datafusion": "#7a8b99", "pyspark": "#d1495b", "chdb": "#66a182", "roapi": "#8d5a97"}
RESULTS = pathlib.Path(__file__).parents[1] / "results"


def machine(folder):
    """What the figures hang on."""
    information = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    memory = next(line for line in pathlib.Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    checkout = pathlib.Path(__file__).parents[2]
    git = lambda *arguments: subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True).stdout.strip()  # noqa: E731
    return {
        "cpu": next((line.split(":")[1].strip() for line in information if line.startswith("model name")), platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory.split()[1]) / 1024**2, 1),
        "system": f"Linux {platform.release()}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "lazaret": subprocess.run([str(folder / "lazaret"), "--version"], capture_output=True, text=True).stdout.strip(),
        "commit": git("rev-parse", "--short", "HEAD") + (" and changes" if git("status", "--porcelain", "-uno") else ""),
    }


def percentile(values, share):
    """Of the sorted values, the first that so large a share does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def headline_ms(query, engine):
    """The figure of a query: with new literals each time where it is selective, else hot; medians both."""
    figures = query["engines"].get(engine, {})
    return figures.get("p50_ms", figures.get("median_ms"))


def ratio(query, peer):
    ours, theirs = headline_ms(query, "lazaret"), headline_ms(query, peer)
    return ours / theirs if ours and theirs else None


def geometric_means(result):
    """Of the ratios to each peer: over the selective set, over the whole-table set (all others but the export), over all."""
    sets = {
        "selective": [query for query in result["queries"] if query["selective"]],
        "whole table": [query for query in result["queries"] if not query["selective"] and query["query"] != "Q13"],
        "all": result["queries"],
    }
    return {
        peer: {name: geometric_mean([r for query in queries if (r := ratio(query, peer))]) for name, queries in sets.items()}
        for peer in result["engines"]
        if peer != "lazaret"
    }


def write(result, name):
    result["geometric_means"] = geometric_means(result)
    RESULTS.mkdir(exist_ok=True)
    text = markdown(result, name)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    (RESULTS / f"{name}.svg").write_text(picture(result))
    return text


def number(value, digits=1):
    return "–" if value is None else f"{value:,.{digits}f}"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"] + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def markdown(result, name):
    host, engines = result["machine"], list(result["engines"])
    peers = [engine for engine in engines if engine != "lazaret"]
    versions = ", ".join(f"{NAMES[peer]} {result['engines'][peer]}" for peer in peers)
    lines = [
        f"# EpiBench, {result['scale']}",
        "",
        f"{result['events']:,} events of {result['persons']:,} persons, as {result['format'].capitalize()}; the peers read the same Parquet files. "
        f"{result['date']}.",
        "",
        f"- Machine: {host['cpu']}, {host['cores']} cores, {host['memory_gib']} GiB, {host['system']}; load before the run {host['load_before']:.2f}.",
        f"- {host['lazaret']}, commit {host['commit']}, {result['build']} build, through ADBC (adbc-driver-flightsql {result['engines']['lazaret']}) "
        "over loopback, with a password, row policies and the audit log; each query is prepared anew.",
        f"- Peers in processes of their own, asked in turn with Lazaret: {versions or 'none'}. Python {host['python']}.",
        f"- Answers were compared with DuckDB's before any time counted, floating point within {TOLERANCE:g} (relative or absolute); "
        + ("Q6 and Q7 of DuckDB also with numpy's." if result["checked_by_hand"] else "DuckDB's own were not checked at this scale."),
    ]
    lines += [f"- Skipped: {NAMES[peer]}: {reason}." for peer, reason in result["skipped"].items()]
    lines += ["", f"![Times of each query]({name}.svg)", ""]
    troubles = [
        f"- {query['query']}, {NAMES[engine]}: {figures['trouble']}"
        for query in result["queries"]
        for engine, figures in query["engines"].items()
        if "trouble" in figures
    ]
    if troubles:
        lines += ["## No time, since the answer was another or there was none", "", *troubles, ""]

    lines += ["## Ratios", "", "Lazaret's time by the peer's, so below 1 Lazaret is faster: of the p50 with new literals where a query is selective, "]
    lines[-1] += "else of the hot median. The whole-table set is Q6–Q9, Q11 and Q12."
    lines += [""]
    rows = [[f"{query['query']} {query['title']}"] + [number(ratio(query, peer), 2) for peer in peers] for query in result["queries"]]
    for which in ("selective", "whole table", "all"):
        rows.append([f"**geometric mean, {which}**"] + [f"**{number(result['geometric_means'][peer][which], 2)}**" for peer in peers])
    lines += table(["query"] + [NAMES[peer] for peer in peers], rows)

    lines += ["## Selective queries, new literals each time, ms", ""]
    lines += [f"p50 / p95 / p99 of {result['literal_runs']} runs" + fewer(result, "literal_runs") + ".", ""]
    rows = [
        [query["query"]]
        + [" / ".join(number(figures(query, engine).get(f"p{share}_ms")) for share in (50, 95, 99)) for engine in engines]
        for query in result["queries"]
        if query["selective"]
    ]
    lines += table(["query"] + [NAMES[engine] for engine in engines], rows)

    lines += ["## One text again and again, ms", "", f"Best / median of {result['runs']} hot runs" + fewer(result, "runs")]
    lines[-1] += "; cold: the first query of a fresh process, of our server's too, with the files in the page cache."
    lines += [""]
    head, rows = ["query", "rows"], []
    for engine in engines:
        head += [NAMES[engine], "cold"]
    for query in result["queries"]:
        row = [query["query"], f"{query['rows']:,}"]
        for engine in engines:
            of = figures(query, engine)
            row += [f"{number(of.get('best_ms'))} / {number(of.get('median_ms'))}", number(of.get("cold_ms"))]
        rows.append(row)
    lines += table(head, rows)

    lines += ["## What a hot run costs", ""]
    lines += ["CPU ms / peak MiB / MiB read by system calls, from the page cache too. Lazaret's are the server's; its client's CPU is told apart. "]
    lines[-1] += "The peers' are of the process that has the answer too."
    lines += [""]
    rows = []
    for query in result["queries"]:
        row = [query["query"], number(figures(query, "lazaret").get("client_cpu_ms"))]
        for engine in engines:
            of = figures(query, engine)
            mib = [of[key] / 1024**2 if key in of else None for key in ("peak_bytes", "read_bytes")]
            row.append(f"{number(of.get('cpu_ms'))} / {number(mib[0], 0)} / {number(mib[1])}")
        rows.append(row)
    lines += table(["query", "client's CPU ms"] + [NAMES[engine] for engine in engines], rows)

    if result["clients"]:
        lines += ["## Clients at a time, on the selective set with new literals", ""]
        lines += [f"{result['seconds']} s each, in turn over the set; a server's clients have connections of their own, DuckDB's queue for a pool of "]
        lines[-1] += f"{host['cores']} threads in their process."
        lines += [""]
        rows = [
            [str(load["clients"]), NAMES[load["engine"]], number(load["queries_per_s"])]
            + [number(load.get(f"p{share}_ms")) for share in (50, 95, 99)]
            + [number(load.get("cpu_s")), str(load["errors"])]
            for load in result["clients"]
        ]
        lines += table(["clients", "engine", "queries/s", "p50 ms", "p95 ms", "p99 ms", "CPU s", "errors"], rows)
    return "\n".join(lines)


def figures(query, engine):
    return query["engines"].get(engine, {})


def fewer(result, kind):
    told = [f"{NAMES[engine]}: {few[kind]}" for engine, few in result["fewer"].items() if engine in result["engines"] and few[kind] < result[kind]]
    return f" ({', '.join(told)})" if told else ""


def picture(result):
    """Bars by query on a logarithmic axis of milliseconds."""
    engines = list(result["engines"])
    times = [ms for query in result["queries"] for engine in engines if (ms := headline_ms(query, engine))]
    least, most = math.floor(math.log10(min(times, default=1))), math.ceil(math.log10(max(times, default=10)))
    left, width, bar, gap, top = 400, 520, 11, 10, 72
    x = lambda ms: left + (math.log10(ms) - least) / max(1, most - least) * width  # noqa: E731
    height = top + len(result["queries"]) * (len(engines) * bar + gap) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><text x="8" y="20" font-size="15">EpiBench, {result["scale"]}: milliseconds, less is better</text>',
    ]
    for index, engine in enumerate(engines):
        at = 8 + index * 110
        parts.append(f'<rect x="{at}" y="32" width="11" height="11" fill="{COLOURS[engine]}"/><text x="{at + 16}" y="42">{NAMES[engine]}</text>')
    for power in range(least, most + 1):
        at = x(10**power)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{height - 10}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{top - 8}" text-anchor="middle" fill="#666">{10**power:g}</text>')
    y = top
    for query in result["queries"]:
        middle = y + len(engines) * bar / 2 + 4
        parts.append(f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">{query["query"]} {query["title"]}</text>')
        for engine in engines:
            if ms := headline_ms(query, engine):
                parts.append(f'<rect x="{left}" y="{y}" width="{max(1, x(ms) - left):.1f}" height="{bar - 1}" fill="{COLOURS[engine]}"/>')
                parts.append(f'<text x="{x(ms) + 4:.1f}" y="{y + bar - 2}" font-size="10" fill="#444">{number(ms)}</text>')
            y += bar
        y += gap
    return "\n".join(parts) + "\n</svg>\n"


def today():
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
