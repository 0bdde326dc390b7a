//! Bounds and null counts of every file, column by column, from metrics and partition tuples.

use std::collections::HashMap;

use arrow::array::UInt64Array;
use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;

use super::files::LiveFile;
use super::manifest::by_id;
use super::partition::{Derived, Transform, derive};
use super::schema::TableSchema;
use super::values::from_bytes;
use super::{ColumnBounds, FileBounds, LakeError};

/// What is known of one column in one file.
#[derive(Debug, Default, PartialEq)]
struct Known {
    min: Option<ScalarValue>,
    max: Option<ScalarValue>,
    nulls: Option<u64>,
}

pub(super) fn build(schema: &TableSchema, files: &[LiveFile<'_>]) -> Result<FileBounds, LakeError> {
    let mut columns = HashMap::new();
    for (field, id) in schema.arrow.fields().iter().zip(&schema.ids) {
        if field.data_type().is_nested() || field.data_type() == &DataType::Null {
            continue;
        }
        if let Some(bounds) = column(field, *id, files)? {
            columns.insert(field.name().clone(), bounds);
        }
    }
    let row_counts = UInt64Array::from_iter_values(files.iter().map(|file| file.entry.rows));
    Ok(FileBounds { columns, row_counts: Some(row_counts) })
}

/// `None` where no file says anything.
fn column(field: &Field, id: i32, files: &[LiveFile<'_>]) -> Result<Option<ColumnBounds>, LakeError> {
    let internal = |e: datafusion::error::DataFusionError| LakeError::Internal(e.to_string());
    let null = ScalarValue::try_from(field.data_type()).map_err(internal)?;
    let (mut mins, mut maxs, mut nulls) = (Vec::new(), Vec::new(), Vec::new());
    let mut anything = false;
    for file in files {
        let known = known(field.data_type(), id, file);
        anything |= known != Known::default();
        mins.push(known.min.unwrap_or_else(|| null.clone()));
        maxs.push(known.max.unwrap_or_else(|| null.clone()));
        nulls.push(known.nulls);
    }
    if !anything {
        return Ok(None);
    }
    Ok(Some(ColumnBounds {
        min: ScalarValue::iter_to_array(mins).map_err(internal)?,
        max: ScalarValue::iter_to_array(maxs).map_err(internal)?,
        null_counts: UInt64Array::from(nulls),
    }))
}

fn known(to: &DataType, id: i32, file: &LiveFile<'_>) -> Known {
    let entry = file.entry;
    let mut known = Known {
        min: by_id(&entry.lower_bounds, id).and_then(|bytes| from_bytes(bytes, to)),
        max: by_id(&entry.upper_bounds, id).and_then(|bytes| from_bytes(bytes, to)),
        nulls: by_id(&entry.null_counts, id).copied(),
    };
    // Bounds leave NaN out, but in comparisons it is above every number (below, with the sign bit set): they hold only
    // where there is known to be none.
    if to.is_floating() && by_id(&entry.nan_counts, id) != Some(&0) {
        (known.min, known.max) = (None, None);
    }
    for (partition_field, value) in file.partition_values() {
        if partition_field.source_id != Some(id) {
            continue;
        }
        match derive(partition_field.transform, value, to) {
            Derived::AllNull => known.nulls = known.nulls.or(Some(entry.rows)),
            Derived::Range { min, max } => {
                let exact = partition_field.transform == Transform::Identity;
                if exact || known.min.is_none() {
                    known.min = min.or(known.min);
                }
                if exact || known.max.is_none() {
                    known.max = max.or(known.max);
                }
                known.nulls = known.nulls.or(Some(0));
            }
            Derived::Nothing => {}
        }
    }
    Known { min: known.min.and_then(lower), max: known.max.and_then(upper), nulls: known.nulls }
}

/// The two zeros are equal to a person, but ordered to Arrow; writers put either into bounds. The pattern matches both.
fn lower(bound: ScalarValue) -> Option<ScalarValue> {
    match bound {
        ScalarValue::Float32(Some(0.0)) => Some(ScalarValue::Float32(Some(-0.0))),
        ScalarValue::Float64(Some(0.0)) => Some(ScalarValue::Float64(Some(-0.0))),
        other => not_nan(other),
    }
}

fn upper(bound: ScalarValue) -> Option<ScalarValue> {
    match bound {
        ScalarValue::Float32(Some(0.0)) => Some(ScalarValue::Float32(Some(0.0))),
        ScalarValue::Float64(Some(0.0)) => Some(ScalarValue::Float64(Some(0.0))),
        other => not_nan(other),
    }
}

/// Some old writers took NaN into bounds, where it says nothing.
fn not_nan(bound: ScalarValue) -> Option<ScalarValue> {
    match bound {
        ScalarValue::Float32(Some(value)) if value.is_nan() => None,
        ScalarValue::Float64(Some(value)) if value.is_nan() => None,
        other => Some(other),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use super::super::files::tests::{file, planned};
    use super::super::manifest::{Content, Entry};
    use super::super::partition::PartitionValue;
    use super::*;

    /// Bounds and null count of a column in the only file.
    fn of(column: &str, spec: i32, entry: Entry) -> (Option<ScalarValue>, Option<ScalarValue>, Option<u64>) {
        let (_, bounds) = planned(vec![(1, spec, entry)]).unwrap();
        let Some(bounds) = bounds.columns.get(column) else { return (None, None, None) };
        let value = |array| Some(ScalarValue::try_from_array(array, 0).unwrap()).filter(|value| !value.is_null());
        (value(&bounds.min), value(&bounds.max), bounds.null_counts.iter().next().unwrap())
    }

    fn with(id: i32, low: &[u8], high: &[u8]) -> Entry {
        Entry {
            lower_bounds: Box::new([(id, low.into())]),
            upper_bounds: Box::new([(id, high.into())]),
            null_counts: Box::new([(id, 3)]),
            ..file(Content::Data, "a")
        }
    }

    #[test]
    fn bounds_have_the_type_that_the_column_has_now() {
        let long = |value| Some(ScalarValue::Int64(Some(value)));
        assert_eq!(of("i", 0, with(1, &1i32.to_le_bytes(), &9i64.to_le_bytes())), (long(1), long(9), Some(3)));
        // What does not convert is unknown.
        assert_eq!(of("i", 0, with(1, &[1], &9i64.to_le_bytes())), (None, long(9), Some(3)));
        assert_eq!(of("s", 0, with(1, &[1], &[2])), (None, None, None));
    }

    #[test]
    fn nan_takes_away_bounds_and_zeros_are_one() {
        let zeros = || with(3, &0.0f64.to_le_bytes(), &(-0.0f64).to_le_bytes());
        let counted = |count| Entry { nan_counts: Box::new([(3, count)]), ..zeros() };
        let (min, max, _) = of("f", 0, counted(0));
        let bits = |value| match value {
            Some(ScalarValue::Float64(Some(value))) => value.to_bits(),
            other => panic!("{other:?}"),
        };
        assert_eq!((bits(min), bits(max)), ((-0.0f64).to_bits(), 0.0f64.to_bits()));
        assert_eq!(of("f", 0, counted(1)), (None, None, Some(3)));
        // Not counted is not none.
        assert_eq!(of("f", 0, zeros()), (None, None, Some(3)));
    }

    #[test]
    fn partitions_say_what_metrics_do_not() {
        let month = |value| Entry { partition: Arc::new([value]), ..file(Content::Data, "a") };
        let date = |day| Some(ScalarValue::Date32(Some(day)));
        assert_eq!(of("d", 2, month(Some(PartitionValue::Long(1)))), (date(31), date(58), Some(0)));
        assert_eq!(of("d", 2, month(None)), (None, None, Some(10)));
        // Metrics are narrower than a month.
        let both = Entry { partition: Arc::new([Some(PartitionValue::Long(1))]), ..with(4, &40i32.to_le_bytes(), &41i32.to_le_bytes()) };
        assert_eq!(of("d", 2, both), (date(40), date(41), Some(3)));
    }
}
