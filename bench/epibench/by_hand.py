"""Q6 and Q7 once more, with numpy and from their definitions: what checks the oracle itself."""

import datetime

import numpy
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as dataset

# Beyond so many events the columns would not fit into memory in passing.
MOST_EVENTS = 20_000_000
EPOCH = datetime.date(1970, 1, 1)


def read(tables, table, columns, rows=None):
    return dataset.dataset(f"{tables}/delta/{table}", format="parquet").to_table(columns=columns, filter=rows)


def days(column):
    return column.cast(pa.int32()).to_numpy()


def positivity(tables):
    """Wilson 1927: the p at which (x/n - p)² = z² p (1 - p) / n, as the roots of that quadratic."""
    tests = read(
        tables, "events", ["region_id", "event_date", "result"], (pc.field("event_type") == "TEST") & pc.field("result").isin(["POS", "NEG"])
    )
    day = days(tests["event_date"])
    monday = day - (day + 3) % 7  # 1970-01-01 was a Thursday
    keys, where = numpy.unique((tests["region_id"].to_numpy() // 64).astype("i8") * 100_000 + monday, return_inverse=True)
    n = numpy.bincount(where)
    x = numpy.bincount(where, weights=pc.equal(tests["result"], "POS").to_numpy())
    z2, share = 1.959964**2, x / n
    a, b, c = 1 + z2 / n, -(2 * share + z2 / n), share**2
    root = numpy.sqrt(b * b - 4 * a * c)
    week = pa.array((keys % 100_000).astype("i4")).cast(pa.date32())
    columns = [keys // 100_000, week, n, x.astype("i8"), share, (-b - root) / (2 * a), (-b + root) / (2 * a)]
    return pa.table(columns, ["state", "week", "tests", "positive", "positivity", "low", "high"])


def reproduction(tables):
    """Cori et al. 2013, equation for the posterior mean: by state on a calendar, with the serial interval as a convolution."""
    cases = read(
        tables, "events", ["region_id", "onset_date"], (pc.field("event_type") == "CASE") & (pc.field("disease_code") == "COVID19")
    )
    region = read(tables, "region", ["region_id", "state_id"])
    state_of = numpy.zeros(region.num_rows, "i8")
    state_of[region["region_id"].to_numpy()] = region["state_id"].to_numpy()
    serial = read(tables, "serial_interval", ["k", "w_k"]).sort_by("k")
    weights = numpy.concatenate([[0.0], serial["w_k"].to_numpy()])
    day = days(cases["onset_date"])
    first, last = day.min(), (datetime.date(2025, 12, 31) - EPOCH).days
    from_day = (datetime.date(2021, 1, 29) - EPOCH).days
    incidence = numpy.zeros((50, last - first + 1))
    numpy.add.at(incidence, (state_of[cases["region_id"].to_numpy()], day - first), 1)
    seven = lambda values: numpy.convolve(values, numpy.ones(7))[: len(values)]  # noqa: E731
    rows = []
    for state, infected in enumerate(incidence):
        infectious = numpy.convolve(infected, weights)[: len(infected)]
        shape, rate = 1 + seven(infected), 1 / 5 + seven(infectious)
        told = (infected > 0) | (infectious > 0)
        told &= numpy.arange(first, last + 1) >= from_day
        at = numpy.flatnonzero(told)
        rows.append((numpy.full(len(at), state), at + first, (shape / rate)[at], (numpy.sqrt(shape) / rate)[at]))
    return pa.table([numpy.concatenate(column) for column in zip(*rows)], ["state_id", "day", "r", "deviation"])


CHECKS = {"Q6": positivity, "Q7": reproduction}
