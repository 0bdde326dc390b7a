//! Single values as Iceberg writes them (bounds in bytes, defaults in JSON) as values of a column's current type.

use std::sync::Arc;

use arrow::array::StringArray;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A bound from its binary form. The type may have been widened since (int to long, float to double, date to
/// timestamp), so a shorter form is read as the narrower type. `None`: not a value of this type, or a type for which
/// bounds are not used.
pub(super) fn from_bytes(bytes: &[u8], to: &DataType) -> Option<ScalarValue> {
    let int = || bytes.try_into().ok().map(i32::from_le_bytes);
    let long = || bytes.try_into().ok().map(i64::from_le_bytes);
    let float = || bytes.try_into().ok().map(f32::from_le_bytes);
    Some(match to {
        DataType::Boolean => match bytes {
            [0] => ScalarValue::Boolean(Some(false)),
            [_] => ScalarValue::Boolean(Some(true)),
            _ => return None,
        },
        DataType::Int32 => ScalarValue::Int32(Some(int()?)),
        DataType::Int64 => ScalarValue::Int64(Some(long().or_else(|| int().map(i64::from))?)),
        DataType::Float32 => ScalarValue::Float32(Some(float()?)),
        DataType::Float64 => {
            let double = bytes.try_into().ok().map(f64::from_le_bytes);
            ScalarValue::Float64(Some(double.or_else(|| float().map(f64::from))?))
        }
        DataType::Date32 => ScalarValue::Date32(Some(int()?)),
        DataType::Time64(TimeUnit::Microsecond) => ScalarValue::Time64Microsecond(Some(long()?)),
        DataType::Timestamp(unit, zone) => {
            let value = long().or_else(|| {
                let scale = if *unit == TimeUnit::Nanosecond { 1000 } else { 1 };
                i64::from(int()?).checked_mul(MICROS_PER_DAY * scale)
            });
            timestamp(*unit, value?, zone.clone())?
        }
        DataType::Decimal128(precision, scale) => ScalarValue::Decimal128(Some(decimal_from_bytes(bytes)?), *precision, *scale),
        DataType::Utf8 => ScalarValue::Utf8(Some(String::from_utf8(bytes.to_vec()).ok()?)),
        DataType::Binary => ScalarValue::Binary(Some(bytes.to_vec())),
        _ => return None,
    })
}

/// A default value from its JSON form. `None`: not a value of this type, or one that is not read yet.
pub(super) fn from_json(json: &serde_json::Value, to: &DataType) -> Option<ScalarValue> {
    use serde_json::Value as Json;
    match (to, json) {
        (DataType::Boolean, Json::Bool(value)) => Some(ScalarValue::Boolean(Some(*value))),
        (DataType::Int32, Json::Number(value)) => Some(ScalarValue::Int32(Some(i32::try_from(value.as_i64()?).ok()?))),
        (DataType::Int64, Json::Number(value)) => Some(ScalarValue::Int64(Some(value.as_i64()?))),
        (DataType::Float32, Json::Number(value)) => Some(ScalarValue::Float32(Some(value.as_f64()? as f32))),
        (DataType::Float64, Json::Number(value)) => Some(ScalarValue::Float64(Some(value.as_f64()?))),
        (DataType::Utf8, Json::String(value)) => Some(ScalarValue::Utf8(Some(value.clone()))),
        (DataType::Binary, Json::String(value)) => Some(ScalarValue::Binary(Some(from_hex(value)?))),
        (DataType::FixedSizeBinary(size), Json::String(value)) => {
            // A UUID has dashes, a fixed value is plain hexadecimal.
            let bytes = from_hex(&value.replace('-', ""))?;
            (usize::try_from(*size) == Ok(bytes.len())).then_some(ScalarValue::FixedSizeBinary(*size, Some(bytes)))
        }
        (
            DataType::Date32
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Decimal128(..)
            | DataType::Float32
            | DataType::Float64,
            Json::String(value),
        ) => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let text = StringArray::from(vec![value.as_str()]);
            ScalarValue::try_from_array(&cast_with_options(&text, to, &strict).ok()?, 0).ok()
        }
        _ => None,
    }
}

pub(super) fn timestamp(unit: TimeUnit, value: i64, zone: Option<Arc<str>>) -> Option<ScalarValue> {
    match unit {
        TimeUnit::Microsecond => Some(ScalarValue::TimestampMicrosecond(Some(value), zone)),
        TimeUnit::Nanosecond => Some(ScalarValue::TimestampNanosecond(Some(value), zone)),
        _ => None,
    }
}

/// An unscaled decimal from its big-endian two's complement of any length.
pub(super) fn decimal_from_bytes(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    let fill = if first & 0x80 == 0 { 0 } else { 0xff };
    let (excess, low) = bytes.split_at(bytes.len().saturating_sub(16));
    if excess.iter().any(|byte| *byte != fill) || (!excess.is_empty() && (low.first()? ^ first) & 0x80 != 0) {
        return None;
    }
    let mut wide = [fill; 16];
    wide.get_mut(16 - low.len()..)?.copy_from_slice(low);
    Some(i128::from_be_bytes(wide))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_of_narrower_types_are_widened() {
        assert_eq!(from_bytes(&7i32.to_le_bytes(), &DataType::Int64), Some(ScalarValue::Int64(Some(7))));
        assert_eq!(from_bytes(&1.5f32.to_le_bytes(), &DataType::Float64), Some(ScalarValue::Float64(Some(1.5))));
        assert_eq!(from_bytes(&[0xff, 0x38], &DataType::Decimal128(20, 2)), Some(ScalarValue::Decimal128(Some(-200), 20, 2)));
        let day = from_bytes(&1i32.to_le_bytes(), &DataType::Timestamp(TimeUnit::Microsecond, None));
        assert_eq!(day, Some(ScalarValue::TimestampMicrosecond(Some(MICROS_PER_DAY), None)));
        // Nothing is narrowed or guessed.
        assert_eq!(from_bytes(&7i64.to_le_bytes(), &DataType::Int32), None);
        assert_eq!(from_bytes(&[0; 16], &DataType::FixedSizeBinary(16)), None);
        assert_eq!(from_bytes(&[0xff], &DataType::Utf8), None);
        assert_eq!(from_bytes(&[], &DataType::Decimal128(9, 2)), None);
    }

    #[test]
    fn long_decimals_keep_their_sign_or_are_refused() {
        let mut bytes = [0xff; 20];
        bytes[19] = 0xfe;
        assert_eq!(decimal_from_bytes(&bytes), Some(-2));
        bytes[0] = 0;
        assert_eq!(decimal_from_bytes(&bytes), None);
    }

    #[test]
    fn defaults_are_read_from_json() {
        let read = |json, to: DataType| from_json(&json, &to).map(|value| value.to_string());
        assert_eq!(read(json!(42), DataType::Int32).unwrap(), "42");
        assert_eq!(read(json!("14.20"), DataType::Decimal128(9, 2)).unwrap(), "14.20");
        assert_eq!(from_json(&json!("2017-11-16"), &DataType::Date32), Some(ScalarValue::Date32(Some(17486))));
        let zone: Option<Arc<str>> = Some("UTC".into());
        assert_eq!(
            from_json(&json!("1970-01-01T00:00:01.000002+00:00"), &DataType::Timestamp(TimeUnit::Microsecond, zone.clone())),
            Some(ScalarValue::TimestampMicrosecond(Some(1_000_002), zone))
        );
        assert_eq!(
            from_json(&json!("22:31:08.000001"), &DataType::Time64(TimeUnit::Microsecond)),
            Some(ScalarValue::Time64Microsecond(Some(81_068_000_001)))
        );
        assert_eq!(from_json(&json!("00ff"), &DataType::Binary), Some(ScalarValue::Binary(Some(vec![0, 255]))));
        assert!(from_json(&json!("f79c3e09-677c-4bbd-a479-3f349cb785e7"), &DataType::FixedSizeBinary(16)).is_some());
        assert_eq!(read(json!(3_000_000_000i64), DataType::Int32), None);
        assert_eq!(read(json!("x"), DataType::Date32), None);
    }
}
