//! Partition specs and tuples: which files share a partition, and what a tuple says of the columns behind it.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;

use super::avro::Value;
use super::values::timestamp;

#[derive(Clone, Debug, Default)]
pub(super) struct PartitionSpec {
    pub fields: Vec<PartitionField>,
}

#[derive(Clone, Debug)]
pub(super) struct PartitionField {
    /// The id of this field in the partition tuples of manifests.
    pub id: i32,
    /// The column it is computed from; `None` for transforms of several columns.
    pub source_id: Option<i32>,
    pub transform: Transform,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    Identity,
    Year,
    Month,
    Day,
    Hour,
    Truncate(u32),
    Bucket,
    /// Always NULL: what version 1 turns a removed field into.
    Void,
    /// Readers must ignore what they do not know: it only costs pruning.
    Unknown,
}

impl Transform {
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "identity" => Self::Identity,
            "year" => Self::Year,
            "month" => Self::Month,
            "day" => Self::Day,
            "hour" => Self::Hour,
            "void" => Self::Void,
            other if other.starts_with("bucket[") => Self::Bucket,
            other => match other.strip_prefix("truncate[").and_then(|rest| rest.strip_suffix(']')).map(str::parse) {
                Some(Ok(width)) => Self::Truncate(width),
                _ => Self::Unknown,
            },
        }
    }

    /// Whether NULL is what this makes of NULL, and of nothing else.
    fn keeps_null(self) -> bool {
        !matches!(self, Self::Void | Self::Unknown)
    }
}

impl PartitionSpec {
    /// Whether files under this spec are in no partition at all.
    pub(super) fn is_unpartitioned(&self) -> bool {
        self.fields.iter().all(|field| field.transform == Transform::Void)
    }
}

/// One value of a partition tuple, free of the width it was written in: the manifests of one partition may differ in
/// that after a column was widened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PartitionValue {
    Boolean(bool),
    /// Integers, dates, times and timestamps.
    Long(i64),
    /// The bits of a double.
    Double(u64),
    String(Arc<str>),
    /// Unscaled.
    Decimal(i128),
    /// Binary, fixed and UUID.
    Bytes(Arc<[u8]>),
}

/// The tuple of one file, in the order of its spec.
pub(super) type PartitionTuple = Arc<[Option<PartitionValue>]>;

impl PartitionValue {
    pub(super) fn from_avro(value: Value) -> Result<Option<Self>, String> {
        Ok(Some(match value {
            Value::Null => return Ok(None),
            Value::Boolean(value) => Self::Boolean(value),
            Value::Long(value) => Self::Long(value),
            Value::Float(value) => Self::Double(f64::from(value).to_bits()),
            Value::Double(value) => Self::Double(value.to_bits()),
            Value::String(value) => Self::String(value.into()),
            Value::Decimal(value) => Self::Decimal(value),
            Value::Bytes(value) => Self::Bytes(value.into()),
            Value::Array(_) | Value::Map(_) | Value::Record(_) => return Err("a partition value is nested".to_owned()),
        }))
    }

    /// As a value of the column's current type, where an identity transform made it.
    pub(super) fn to_scalar(&self, to: &DataType) -> Option<ScalarValue> {
        Some(match (self, to) {
            (Self::Boolean(value), DataType::Boolean) => ScalarValue::Boolean(Some(*value)),
            (Self::Long(value), DataType::Int32) => ScalarValue::Int32(Some(i32::try_from(*value).ok()?)),
            (Self::Long(value), DataType::Int64) => ScalarValue::Int64(Some(*value)),
            (Self::Long(value), DataType::Date32) => ScalarValue::Date32(Some(i32::try_from(*value).ok()?)),
            (Self::Long(value), DataType::Time64(TimeUnit::Microsecond)) => ScalarValue::Time64Microsecond(Some(*value)),
            (Self::Long(value), DataType::Timestamp(unit, zone)) => timestamp(*unit, *value, zone.clone())?,
            (Self::Double(bits), DataType::Float32) => ScalarValue::Float32(Some(f64::from_bits(*bits) as f32)),
            (Self::Double(bits), DataType::Float64) => ScalarValue::Float64(Some(f64::from_bits(*bits))),
            (Self::String(value), DataType::Utf8) => ScalarValue::Utf8(Some(value.to_string())),
            (Self::Bytes(value), DataType::Binary) => ScalarValue::Binary(Some(value.to_vec())),
            (Self::Bytes(value), DataType::FixedSizeBinary(size)) if usize::try_from(*size) == Ok(value.len()) => {
                ScalarValue::FixedSizeBinary(*size, Some(value.to_vec()))
            }
            (Self::Decimal(value), DataType::Decimal128(precision, scale)) => ScalarValue::Decimal128(Some(*value), *precision, *scale),
            _ => return None,
        })
    }
}

/// What a partition value says of the column behind it.
#[derive(Debug, PartialEq)]
pub(super) enum Derived {
    /// Every row is NULL.
    AllNull,
    /// No row is NULL; bounds where the transform keeps order.
    Range {
        min: Option<ScalarValue>,
        max: Option<ScalarValue>,
    },
    Nothing,
}

/// Bounds of a column of type `to` in a file whose partition value under `transform` is `value`.
pub(super) fn derive(transform: Transform, value: Option<&PartitionValue>, to: &DataType) -> Derived {
    let Some(value) = value else { return if transform.keeps_null() { Derived::AllNull } else { Derived::Nothing } };
    let range = match transform {
        Transform::Void | Transform::Unknown => return Derived::Nothing,
        Transform::Bucket => None,
        Transform::Identity => value.to_scalar(to).map(|scalar| (Some(scalar.clone()), Some(scalar))),
        Transform::Truncate(width) => Some(truncated(value, width, to)),
        Transform::Year | Transform::Month | Transform::Day | Transform::Hour => match value {
            PartitionValue::Long(ordinal) => time_range(transform, *ordinal, to),
            _ => None,
        },
    };
    let (min, max) = range.unwrap_or_default();
    Derived::Range { min, max }
}

fn truncated(value: &PartitionValue, width: u32, to: &DataType) -> (Option<ScalarValue>, Option<ScalarValue>) {
    let last = i64::from(width.saturating_sub(1));
    match (value, to) {
        (PartitionValue::Long(low), DataType::Int32 | DataType::Int64) => {
            let high = low.saturating_add(last);
            let high = if *to == DataType::Int32 { high.min(i64::from(i32::MAX)) } else { high };
            (value.to_scalar(to), PartitionValue::Long(high).to_scalar(to))
        }
        (PartitionValue::Decimal(low), DataType::Decimal128(precision, scale)) => {
            let scalar = |value: i128| Some(ScalarValue::Decimal128(Some(value), *precision, *scale));
            (scalar(*low), scalar(low.saturating_add(i128::from(last))))
        }
        // A prefix shorter than the width is the whole value.
        (PartitionValue::String(low), DataType::Utf8) => {
            let whole = low.chars().count() < width as usize;
            (value.to_scalar(to), whole.then(|| value.to_scalar(to)).flatten())
        }
        (PartitionValue::Bytes(low), DataType::Binary) => {
            let whole = low.len() < width as usize;
            (value.to_scalar(to), whole.then(|| value.to_scalar(to)).flatten())
        }
        _ => (None, None),
    }
}

/// The values of a date or timestamp column within one year, month, day or hour since 1970.
fn time_range(transform: Transform, ordinal: i64, to: &DataType) -> Option<(Option<ScalarValue>, Option<ScalarValue>)> {
    // Some old writers rounded times before 1970 towards zero: such a file may hold values of the unit before.
    let first = if ordinal <= 0 { ordinal.checked_sub(1)? } else { ordinal };
    let hours = |ordinal: i64| match transform {
        Transform::Hour => Some(ordinal),
        Transform::Day => ordinal.checked_mul(24),
        Transform::Month => first_day_of_month(ordinal)?.checked_mul(24),
        _ => first_day_of_month(ordinal.checked_mul(12)?)?.checked_mul(24),
    };
    let (start, end) = (hours(first)?, hours(ordinal.checked_add(1)?)?);
    Some(match to {
        DataType::Date32 => {
            let day = |hour: i64| i32::try_from(hour.div_euclid(24)).ok().map(|day| ScalarValue::Date32(Some(day)));
            (day(start), day(end.checked_sub(1)?))
        }
        DataType::Timestamp(unit, zone) => {
            let per_hour: i64 = match unit {
                TimeUnit::Microsecond => 3_600_000_000,
                TimeUnit::Nanosecond => 3_600_000_000_000,
                _ => return None,
            };
            let min = start.checked_mul(per_hour).and_then(|value| timestamp(*unit, value, zone.clone()));
            let max = end.checked_mul(per_hour).and_then(|value| timestamp(*unit, value - 1, zone.clone()));
            (min, max)
        }
        _ => return None,
    })
}

/// Days since 1970 of the first day of a month since 1970.
fn first_day_of_month(month: i64) -> Option<i64> {
    let year = i32::try_from(1970 + month.div_euclid(12)).ok()?;
    let month = u32::try_from(month.rem_euclid(12)).ok()? + 1;
    let epoch = chrono::NaiveDate::default();
    Some(chrono::NaiveDate::from_ymd_opt(year, month, 1)?.signed_duration_since(epoch).num_days())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn date(day: i32) -> Option<ScalarValue> {
        Some(ScalarValue::Date32(Some(day)))
    }

    #[test]
    fn transforms_are_read_as_the_spec_writes_them() {
        assert_eq!(Transform::parse("truncate[12]"), Transform::Truncate(12));
        assert_eq!(Transform::parse("bucket[16]"), Transform::Bucket);
        assert_eq!(Transform::parse("zorder[2]"), Transform::Unknown);
    }

    #[test]
    fn time_partitions_bound_their_column() {
        let month = derive(Transform::Month, Some(&PartitionValue::Long(13)), &DataType::Date32);
        assert_eq!(month, Derived::Range { min: date(396), max: date(423) });
        let leap_day = derive(Transform::Day, Some(&PartitionValue::Long(789)), &DataType::Date32);
        assert_eq!(leap_day, Derived::Range { min: date(789), max: date(789) });
        // Before 1970 one unit more: old writers rounded the wrong way.
        let year = derive(Transform::Year, Some(&PartitionValue::Long(-1)), &DataType::Date32);
        assert_eq!(year, Derived::Range { min: date(-731), max: date(-1) });
        let zone: Option<Arc<str>> = Some("UTC".into());
        let hour = derive(Transform::Hour, Some(&PartitionValue::Long(5)), &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()));
        assert_eq!(
            hour,
            Derived::Range {
                min: Some(ScalarValue::TimestampMicrosecond(Some(18_000_000_000), zone.clone())),
                max: Some(ScalarValue::TimestampMicrosecond(Some(21_599_999_999), zone)),
            }
        );
    }

    #[test]
    fn null_partitions_are_all_null_but_void_says_nothing() {
        assert_eq!(derive(Transform::Bucket, None, &DataType::Int32), Derived::AllNull);
        assert_eq!(derive(Transform::Void, None, &DataType::Int32), Derived::Nothing);
    }

    #[test]
    fn a_truncated_string_has_an_upper_bound_only_when_it_is_whole() {
        let short = PartitionValue::String("ab".into());
        let text = Some(ScalarValue::Utf8(Some("ab".to_owned())));
        assert_eq!(derive(Transform::Truncate(3), Some(&short), &DataType::Utf8), Derived::Range { min: text.clone(), max: text.clone() });
        assert_eq!(derive(Transform::Truncate(2), Some(&short), &DataType::Utf8), Derived::Range { min: text, max: None });
        let long = derive(Transform::Truncate(10), Some(&PartitionValue::Long(-10)), &DataType::Int64);
        assert_eq!(long, Derived::Range { min: Some(ScalarValue::Int64(Some(-10))), max: Some(ScalarValue::Int64(Some(-1))) });
    }

    #[test]
    fn tuples_compare_across_widths() {
        let narrow = PartitionValue::from_avro(Value::Float(1.5)).unwrap();
        assert_eq!(narrow, PartitionValue::from_avro(Value::Double(1.5)).unwrap());
        assert_eq!(PartitionValue::Long(7).to_scalar(&DataType::Int64), Some(ScalarValue::Int64(Some(7))));
    }
}
