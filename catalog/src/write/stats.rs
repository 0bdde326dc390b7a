//! The statistics of a data file as the Delta log has them (Delta protocol, *Per-file Statistics*), from the footer that
//! the Parquet writer made. A bound that cannot be given exactly, or safely wider, is left out: files are skipped by them.
//!
//! delta-rs' own are not used: they pass decimals through floating point, and know nothing of NaN.

use std::collections::BTreeMap;
use std::fmt::Write;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, DecimalType, Field, Float32Type, Float64Type, Schema};
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta};
use datafusion::common::ScalarValue;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

/// Delta's own default, `delta.dataSkippingNumIndexedCols`: more makes every log entry longer.
const MAX_COLUMNS: usize = 32;
/// Parquet cuts long strings in its statistics and rounds the bound up; the few that it cannot cut are left out.
const MAX_TEXT_BYTES: usize = 128;
const MICROS_PER_MILLI: i64 = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Min,
    Max,
}

/// The bounds of a float column, kept while its file is written. Parquet's own ignore NaN, which sorts above every number
/// for us, and DataFusion would skip row groups by them: files have none for these columns.
#[derive(Clone, Debug, Default)]
pub(super) struct FloatBounds {
    bounds: Option<(f64, f64)>,
    has_nan: bool,
    null_count: u64,
}

impl FloatBounds {
    /// `column` is of one of the float types.
    pub fn add(&mut self, column: &dyn Array) {
        self.null_count += column.null_count() as u64;
        match column.data_type() {
            DataType::Float32 => column.as_primitive::<Float32Type>().iter().flatten().for_each(|value| self.add_value(value.into())),
            DataType::Float64 => column.as_primitive::<Float64Type>().iter().flatten().for_each(|value| self.add_value(value)),
            _ => self.has_nan = true,
        }
    }

    fn add_value(&mut self, value: f64) {
        self.has_nan |= value.is_nan();
        let (min, max) = self.bounds.unwrap_or((value, value));
        self.bounds = Some((min.min(value), max.max(value)));
    }

    fn finish(&self) -> ColumnStats {
        // Zero has two signs, which some compare and some do not.
        let signed = |value: f64, sign: f64| if value == 0.0 { 0.0_f64.copysign(sign) } else { value };
        let bounds = self.bounds.filter(|_| !self.has_nan);
        ColumnStats {
            min: bounds.map(|(min, _)| ScalarValue::from(signed(min, -1.0))),
            max: bounds.map(|(_, max)| ScalarValue::from(signed(max, 1.0))),
            null_count: self.null_count,
        }
    }
}

/// The `stats` of an `add` action. `schema` is that of the file; `floats` holds the bounds of its float columns, by index.
pub(super) fn file_stats(schema: &Schema, footer: &ParquetMetaData, floats: &BTreeMap<usize, FloatBounds>) -> Result<String, ParquetError> {
    let (mut mins, mut maxes, mut nulls) = (Object::default(), Object::default(), Object::default());
    for (index, field) in schema.fields().iter().enumerate().take(MAX_COLUMNS) {
        if field.data_type().is_nested() {
            continue;
        }
        let column = match floats.get(&index) {
            Some(bounds) => bounds.finish(),
            None => ColumnStats::read(schema, field, footer)?,
        };
        nulls.put(field.name(), Some(column.null_count.to_string()));
        mins.put(field.name(), column.min.and_then(|min| bound_text(&min, Bound::Min)));
        maxes.put(field.name(), column.max.and_then(|max| bound_text(&max, Bound::Max)));
    }
    let rows = footer.file_metadata().num_rows();
    Ok(format!(r#"{{"numRecords":{rows},"minValues":{},"maxValues":{},"nullCount":{}}}"#, mins.end(), maxes.end(), nulls.end()))
}

/// Over all row groups; a bound is there only if every row group that has a value has it.
struct ColumnStats {
    min: Option<ScalarValue>,
    max: Option<ScalarValue>,
    null_count: u64,
}

impl ColumnStats {
    fn read(schema: &Schema, field: &Field, footer: &ParquetMetaData) -> Result<Self, ParquetError> {
        let converter = StatisticsConverter::try_new(field.name(), schema, footer.file_metadata().schema_descr())?;
        let groups = footer.row_groups();
        let (mins, maxes) = (converter.row_group_mins(groups)?, converter.row_group_maxes(groups)?);
        let null_counts = converter.row_group_null_counts(groups)?;
        let external = |error: datafusion::error::DataFusionError| ParquetError::External(error.into());
        let (mut min, mut max) = (Some(ScalarValue::Null), Some(ScalarValue::Null));
        for (index, group) in groups.iter().enumerate() {
            if u64::try_from(group.num_rows()).is_ok_and(|rows| rows == null_counts.value(index)) {
                continue;
            }
            min = wider(min, ScalarValue::try_from_array(&mins, index).map_err(external)?, Bound::Min);
            max = wider(max, ScalarValue::try_from_array(&maxes, index).map_err(external)?, Bound::Max);
        }
        let known = |bound: &ScalarValue| !bound.is_null();
        Ok(Self { min: min.filter(known), max: max.filter(known), null_count: null_counts.iter().flatten().sum() })
    }
}

/// The wider of two bounds; `None` once one is not known. `ScalarValue::Null`: nothing was seen yet.
fn wider(so_far: Option<ScalarValue>, next: ScalarValue, bound: Bound) -> Option<ScalarValue> {
    let so_far = so_far?;
    if next.is_null() {
        return None;
    }
    if matches!(so_far, ScalarValue::Null) {
        return Some(next);
    }
    let keeps = match bound {
        Bound::Min => so_far <= next,
        Bound::Max => so_far >= next,
    };
    Some(if keeps { so_far } else { next })
}

/// A bound as JSON, as wide as the value or wider.
fn bound_text(value: &ScalarValue, bound: Bound) -> Option<String> {
    match value {
        ScalarValue::Int8(Some(value)) => Some(value.to_string()),
        ScalarValue::Int16(Some(value)) => Some(value.to_string()),
        ScalarValue::Int32(Some(value)) => Some(value.to_string()),
        ScalarValue::Int64(Some(value)) => Some(value.to_string()),
        // JSON has no infinities.
        ScalarValue::Float64(Some(value)) if value.is_finite() => serde_json::to_string(value).ok(),
        ScalarValue::Decimal128(Some(value), precision, scale) => Some(Decimal128Type::format_decimal(*value, *precision, *scale)),
        ScalarValue::Utf8(Some(value)) if value.len() <= MAX_TEXT_BYTES => serde_json::to_string(value).ok(),
        ScalarValue::Date32(Some(days)) => {
            let date = NaiveDate::default().checked_add_signed(TimeDelta::try_days(i64::from(*days))?)?;
            has_four_digits(date.year()).then(|| format!("\"{}\"", date.format("%Y-%m-%d")))
        }
        ScalarValue::TimestampMicrosecond(Some(micros), zone) => {
            // Whole milliseconds, as Spark has them, rounded outwards.
            let round_up = i64::from(bound == Bound::Max && micros.rem_euclid(MICROS_PER_MILLI) != 0);
            let time = DateTime::from_timestamp_millis(micros.div_euclid(MICROS_PER_MILLI) + round_up)?;
            let zone = if zone.is_some() { "Z" } else { "" };
            has_four_digits(time.year()).then(|| format!("\"{}{zone}\"", time.format("%Y-%m-%dT%H:%M:%S%.3f")))
        }
        _ => None,
    }
}

/// Others are written with a sign, which few readers take.
pub(super) fn has_four_digits(year: i32) -> bool {
    (0..=9999).contains(&year)
}

pub(super) fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64)
}

/// A JSON object under construction. By hand, because a JSON number of `serde_json` cannot hold a long decimal.
#[derive(Default)]
struct Object(String);

impl Object {
    fn put(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            let separator = if self.0.is_empty() { '{' } else { ',' };
            // Writing to a string does not fail.
            let _ = write!(self.0, "{separator}{}:{value}", serde_json::Value::from(name));
        }
    }

    fn end(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}
