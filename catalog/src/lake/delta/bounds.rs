//! A log's statistics as bounds that hold: widened where writers cut them, dropped where they say too little.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, StringArray, StructArray, UInt64Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Decimal128Type, Schema, TimeUnit, TimestampMicrosecondType};

use super::files::{child, counts};
use crate::lake::PHYSICAL_NAME_KEY;
use crate::lake::snapshot::ColumnBounds;

/// Writers cut timestamps to milliseconds (PROTOCOL.md, "Per-file Statistics").
const TIMESTAMP_SLACK_US: i64 = 999;

/// A double, which some writers turn decimals into, holds that many digits for certain.
const EXACT_DOUBLE_DIGITS: u8 = 15;

/// Bounds of the columns that are read from files, by their name in the table.
pub(super) fn read(stats: &StructArray, schema: &Schema, partition_columns: &[String]) -> HashMap<String, ColumnBounds> {
    let part = |name: &str| child(stats, name).and_then(|it| it.as_struct_opt().cloned());
    let (min, max, nulls) = (part("minValues"), part("maxValues"), part("nullCount"));
    let of = |part: &Option<StructArray>, name: &str| part.as_ref().and_then(|part| child(part, name));

    let mut columns = HashMap::new();
    for field in schema.fields() {
        if partition_columns.contains(field.name()) {
            continue;
        }
        let physical = field.metadata().get(PHYSICAL_NAME_KEY).unwrap_or(field.name());
        let null_counts = of(&nulls, physical).map(|it| counts(&it));
        let min = of(&min, physical).and_then(|it| widened(&it, field.data_type(), Side::Min));
        let max = of(&max, physical).and_then(|it| widened(&it, field.data_type(), Side::Max));
        if null_counts.is_none() && min.is_none() && max.is_none() {
            continue;
        }
        let unknown = || new_null_array(field.data_type(), stats.len());
        let bounds = ColumnBounds {
            min: min.unwrap_or_else(unknown),
            max: max.unwrap_or_else(unknown),
            null_counts: null_counts.unwrap_or_else(|| UInt64Array::new_null(stats.len())),
        };
        columns.insert(field.name().clone(), bounds);
    }
    columns
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Min,
    Max,
}

/// The bound in the column's type, or nothing where it cannot be trusted.
fn widened(bound: &ArrayRef, target: &DataType, side: Side) -> Option<ArrayRef> {
    let is_comparable = target.is_integer()
        || matches!(target, DataType::Utf8 | DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _) | DataType::Decimal128(..));
    // Floats: nothing is said of NaN, which SQL sorts above every number, nor of -0.0 against 0.0.
    if !is_comparable {
        return None;
    }
    // Whatever does not fit is unknown.
    let bound = cast_with_options(bound, target, &CastOptions { safe: true, ..CastOptions::default() }).ok()?;
    Some(match target {
        DataType::Utf8 if side == Side::Max => {
            let values = bound.as_string::<i32>();
            Arc::new(values.iter().map(|value| value.and_then(above_prefix)).collect::<StringArray>())
        }
        DataType::Timestamp(..) => {
            let slack = if side == Side::Max { TIMESTAMP_SLACK_US } else { -TIMESTAMP_SLACK_US };
            let values =
                bound.as_primitive::<TimestampMicrosecondType>().unary_opt::<_, TimestampMicrosecondType>(|it| it.checked_add(slack));
            Arc::new(values.with_data_type(target.clone()))
        }
        DataType::Decimal128(precision, _) if *precision > EXACT_DOUBLE_DIGITS => {
            let values = bound.as_primitive::<Decimal128Type>().unary_opt::<_, Decimal128Type>(|it| {
                // Half of the last bit of a double's 53, rounded up generously.
                let slack = (it.unsigned_abs() >> 51) as i128 + 1;
                if side == Side::Max { it.checked_add(slack) } else { it.checked_sub(slack) }
            });
            Arc::new(Decimal128Array::from(values.into_data()).with_data_type(target.clone()))
        }
        _ => bound,
    })
}

/// A string that no string with the prefix `max` lies above. Writers cut strings at a length of their choice, and the
/// characters with which they mark the cut are not always above what was cut off; so those are dropped, and the last
/// character that is left is raised.
fn above_prefix(max: &str) -> Option<String> {
    let mut prefix = max.trim_end_matches(|c| c >= '\u{ffff}').to_owned();
    let last = prefix.pop()?;
    // Surrogates are no characters.
    let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
    prefix.push(next?);
    Some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_strings_get_a_bound_above_all_they_may_stand_for() {
        assert_eq!(above_prefix("abc").as_deref(), Some("abd"));
        assert_eq!(above_prefix("ab\u{ffff}").as_deref(), Some("ac"));
        assert_eq!(above_prefix("ab😀").as_deref(), Some("ac"));
        assert_eq!(above_prefix("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(above_prefix("\u{10ffff}\u{10ffff}"), None);
        assert_eq!(above_prefix(""), None);
    }

    #[test]
    fn bounds_are_widened_or_dropped() {
        let timestamps: ArrayRef = Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![Some(5_000), Some(i64::MAX), None]));
        let max = widened(&timestamps, &DataType::Timestamp(TimeUnit::Microsecond, None), Side::Max).unwrap();
        let max = max.as_primitive::<TimestampMicrosecondType>();
        assert_eq!(max.iter().collect::<Vec<_>>(), [Some(5_999), None, None]);
        let floats: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.0]));
        assert!(widened(&floats, &DataType::Float64, Side::Max).is_none());
        let long: ArrayRef = Arc::new(Decimal128Array::from(vec![1 << 60]).with_precision_and_scale(38, 2).unwrap());
        let max = widened(&long, &DataType::Decimal128(38, 2), Side::Max).unwrap();
        assert_eq!(max.as_primitive::<Decimal128Type>().value(0), (1 << 60) + (1 << 9) + 1);
    }
}
