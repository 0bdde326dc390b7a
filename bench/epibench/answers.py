"""Whether two answers are the same: by position, as values; types may differ between engines (see `plain`)."""

import numpy
import pyarrow as pa
import pyarrow.compute as pc

# Floating point sums depend on the order of the rows; everything else is compared exactly.
TOLERANCE = 1e-9


def difference(ours, oracle, sorted_by=None):
    """What differs, in words; None where nothing does."""
    if ours.num_rows != oracle.num_rows:
        return f"{ours.num_rows} rows instead of {oracle.num_rows}"
    if not ours.num_columns and not oracle.num_rows:
        return None  # roapi tells no columns where there are no rows
    if ours.num_columns != oracle.num_columns:
        return f"{ours.num_columns} columns instead of {oracle.num_columns}"
    left, right = (pa.table([plain(column) for column in answer.columns], oracle.column_names) for answer in (ours, oracle))
    if sorted_by:
        left, right = left.sort_by(sorted_by), right.sort_by(sorted_by)
    for name in oracle.column_names:
        unlike = column_differs(left[name], right[name])
        if isinstance(unlike, str):
            return f"{name} {unlike}"
        if len(unlike):
            row = int(unlike[0])
            return f"{name}, row {row}: {left[name][row].as_py()} instead of {right[name][row].as_py()} ({len(unlike)} rows differ)"
    return None


def column_differs(left, right):
    """The rows that differ, or in words why the columns cannot be compared."""
    nulls = pc.not_equal(pc.is_null(left), pc.is_null(right)).to_numpy()
    if nulls.any():
        return numpy.flatnonzero(nulls)
    scales = [column.type.scale for column in (left, right) if pa.types.is_decimal(column.type)]
    if pa.types.is_floating(left.type) or pa.types.is_floating(right.type) or len(set(scales)) == 2:
        # A quotient that is a decimal ends at its last digit, where it was rounded or cut off.
        least = max([TOLERANCE, *(10.0**-scale for scale in scales)])
        left, right = (pc.fill_null(column.cast(pa.float64()), 0).to_numpy() for column in (left, right))
        return numpy.flatnonzero(~numpy.isclose(left, right, rtol=TOLERANCE, atol=least, equal_nan=True))
    if left.type != right.type and len(scales) < 2:
        return f"is {left.type} instead of {right.type}"
    return numpy.flatnonzero(pc.fill_null(pc.not_equal(left, right), False).to_numpy())


def plain(column):
    """Whole numbers as int64, dates and timestamps as microseconds in UTC, text as strings, fractions of decimals kept."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain(column.cast(kind.value_type))
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return column.cast(pa.int64())
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", getattr(kind, "tz", None))).cast(pa.timestamp("us"))
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return column.cast(pa.string())
    return column
