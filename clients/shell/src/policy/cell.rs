//! A value of a result beside one of a file. They are the same where a reader would say so: a number by its value, a date or a
//! time by the moment, NULL by the word that stands for it. A number is not the text of it.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::ShellError;

/// Floating point numbers are the same up to this part of them: sums depend on the order of the rows.
const FLOAT_TOLERANCE: f64 = 1e-9;

/// A value of a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    Boolean(bool),
    /// An integer or a decimal, as text.
    Exact(String),
    Float(f64),
    Text(String),
    /// A date, a time or a point in time.
    Time(String),
    List(Vec<Cell>),
    Struct(Vec<(String, Cell)>),
    /// As it is printed.
    Other(String),
}

/// The rows of a batch.
pub fn cells(batch: &RecordBatch) -> Result<Vec<Vec<Cell>>, ShellError> {
    (0..batch.num_rows()).map(|row| batch.columns().iter().map(|column| cell(column.as_ref(), row)).collect()).collect()
}

fn cell(array: &dyn Array, row: usize) -> Result<Cell, ShellError> {
    if array.logical_nulls().is_some_and(|nulls| nulls.is_null(row)) {
        return Ok(Cell::Null);
    }
    let printed =
        || -> Result<String, ShellError> { Ok(ArrayFormatter::try_new(array, &FormatOptions::default())?.value(row).to_string()) };
    Ok(match array.data_type() {
        DataType::Boolean => Cell::Boolean(array.as_boolean().value(row)),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            printed()?.parse().map(Cell::Float).map_err(|_| ShellError::Answer("a number that is none".to_owned()))?
        }
        kind if kind.is_numeric() => Cell::Exact(printed()?),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Cell::Text(printed()?),
        kind if kind.is_temporal() && !matches!(kind, DataType::Interval(_) | DataType::Duration(_)) => Cell::Time(printed()?),
        DataType::List(_) => list(array.as_list::<i32>().value(row).as_ref())?,
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row).as_ref())?,
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let children = fields.iter().zip(columns).map(|(field, column)| Ok((field.name().clone(), cell(column.as_ref(), row)?)));
            Cell::Struct(children.collect::<Result<_, ShellError>>()?)
        }
        _ => Cell::Other(printed()?),
    })
}

fn list(items: &dyn Array) -> Result<Cell, ShellError> {
    (0..items.len()).map(|row| cell(items, row)).collect::<Result<_, _>>().map(Cell::List)
}

/// Whether a value of a file, in which `null` stands for NULL, is this one.
pub fn is_same(expected: &toml::Value, got: &Cell, null: &str) -> bool {
    use toml::Value;
    match (expected, got) {
        (Value::String(text), Cell::Null) => text == null,
        // The word is NULL's alone, so that no text passes for it.
        (Value::String(text), _) if text == null => false,
        (Value::String(text), Cell::Text(got) | Cell::Other(got)) => text == got,
        (Value::String(text), Cell::Exact(got)) => decimal(text).is_some_and(|text| Some(text) == decimal(got)),
        (Value::String(text), Cell::Time(got)) => is_same_time(text, got),
        (Value::Integer(number), Cell::Exact(got)) => decimal(&number.to_string()) == decimal(got),
        (Value::Float(number), Cell::Exact(got)) => decimal(&number.to_string()).is_some_and(|number| Some(number) == decimal(got)),
        (Value::Integer(number), Cell::Float(got)) => is_close(*number as f64, *got),
        (Value::Float(number), Cell::Float(got)) => is_close(*number, *got),
        (Value::Boolean(flag), Cell::Boolean(got)) => flag == got,
        (Value::Datetime(time), Cell::Time(got)) => is_same_time(&time.to_string(), got),
        (Value::Array(items), Cell::List(got)) => {
            items.len() == got.len() && items.iter().zip(got).all(|(item, got)| is_same(item, got, null))
        }
        (Value::Table(table), Cell::Struct(got)) => {
            table.len() == got.len() && got.iter().all(|(name, got)| table.get(name).is_some_and(|value| is_same(value, got, null)))
        }
        _ => false,
    }
}

fn is_close(one: f64, other: f64) -> bool {
    one == other || (one.is_nan() && other.is_nan()) || (one - other).abs() <= FLOAT_TOLERANCE * one.abs().max(other.abs())
}

/// A decimal number in the one way to write it: `-1.5` of `-01.50`. `None` where it is none.
fn decimal(text: &str) -> Option<String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(match (whole, fraction) {
        ("0", "") => "0".to_owned(),
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    })
}

/// `2026-03-01 10:00` is `2026-03-01T10:00:00.000Z`, and a day is its midnight where a point in time is meant.
fn is_same_time(expected: &str, got: &str) -> bool {
    let (mut expected, got) = (moment(expected), moment(got));
    if got.contains('T') && !expected.contains('T') {
        expected.push_str("T00:00:00");
    }
    expected == got
}

/// In the one way to write it. The server's time zone is UTC, and so it is not said.
fn moment(text: &str) -> String {
    let text = text.trim().replacen(' ', "T", 1);
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).unwrap_or(&text);
    let (text, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let seconds = if text.matches(':').count() == 1 { ":00" } else { "" };
    if fraction.is_empty() { format!("{text}{seconds}") } else { format!("{text}{seconds}.{fraction}") }
}

impl Cell {
    /// As one would write it into the file.
    pub fn written(&self, null: &str) -> String {
        let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
        match self {
            Self::Null => text(null),
            Self::Boolean(flag) => flag.to_string(),
            Self::Exact(number) if number.parse::<i64>().is_ok() => number.clone(),
            Self::Float(number) => toml::Value::Float(*number).to_string(),
            Self::Time(time) => time.clone(),
            Self::Exact(other) | Self::Text(other) | Self::Other(other) => text(other),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(|item| item.written(null)).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Struct(children) => {
                let key = |name: &str| {
                    let is_bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
                    if is_bare { name.to_owned() } else { text(name) }
                };
                let children: Vec<String> = children.iter().map(|(name, cell)| format!("{} = {}", key(name), cell.written(null))).collect();
                format!("{{ {} }}", children.join(", "))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray, StructArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    fn value(text: &str) -> toml::Value {
        let table: toml::Table = toml::from_str(&format!("v = {text}")).unwrap();
        table["v"].clone()
    }

    fn of(array: ArrayRef) -> Cell {
        cell(array.as_ref(), 0).unwrap()
    }

    fn decimal_of(unscaled: i128) -> Cell {
        of(Arc::new(Decimal128Array::from(vec![unscaled]).with_precision_and_scale(20, 2).unwrap()))
    }

    fn point(micros: i64, zone: Option<&str>) -> Cell {
        let array = TimestampMicrosecondArray::from(vec![micros]);
        of(match zone {
            Some(zone) => Arc::new(array.with_timezone(zone)),
            None => Arc::new(array),
        })
    }

    #[test]
    fn values_are_the_same_where_a_reader_says_so() {
        let struct_of = || {
            let region: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
            of(Arc::new(StructArray::from(vec![(Arc::new(Field::new("region", DataType::Utf8, true)), region)])))
        };
        let list = || of(Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None])])));
        let march = 1_772_359_200_500_000;
        for (expected, got, same) in [
            ("1", of(Arc::new(Int64Array::from(vec![1]))), true),
            ("2", of(Arc::new(Int64Array::from(vec![1]))), false),
            ("'1'", of(Arc::new(StringArray::from(vec!["1"]))), true),
            ("1", of(Arc::new(StringArray::from(vec!["1"]))), false),
            ("true", of(Arc::new(BooleanArray::from(vec![true]))), true),
            ("'true'", of(Arc::new(BooleanArray::from(vec![true]))), false),
            ("12.5", decimal_of(1250), true),
            ("12", decimal_of(1200), true),
            ("12.5", decimal_of(1251), false),
            ("'-123456789012345678.91'", decimal_of(-12_345_678_901_234_567_891), true),
            ("0.3", of(Arc::new(Float64Array::from(vec![0.1 + 0.2]))), true),
            ("0.3000001", of(Arc::new(Float64Array::from(vec![0.1 + 0.2]))), false),
            ("3", of(Arc::new(Float64Array::from(vec![3.0]))), true),
            ("nan", of(Arc::new(Float64Array::from(vec![f64::NAN]))), true),
            ("2026-03-01", of(Arc::new(Date32Array::from(vec![20_513]))), true),
            ("'2026-03-01'", of(Arc::new(Date32Array::from(vec![20_513]))), true),
            ("2026-03-02", of(Arc::new(Date32Array::from(vec![20_513]))), false),
            ("2026-03-01T10:00:00.5Z", point(march, Some("UTC")), true),
            ("'2026-03-01 10:00:00.500'", point(march, None), true),
            ("2026-03-01T10:00:00", point(march, None), false),
            ("2026-03-01T10:00:00", point(march - 500_000, None), true),
            ("2026-03-01", point(march - 36_000_500_000, None), true),
            ("[1, 'NULL']", list(), true),
            ("[1, 2]", list(), false),
            ("{ region = 'a' }", struct_of(), true),
            ("{ region = 'b' }", struct_of(), false),
        ] {
            assert_eq!(is_same(&value(expected), &got, "NULL"), same, "{expected} and {got:?}");
            if same {
                assert!(is_same(&value(&got.written("NULL")), &got, "NULL"), "{} can be copied into the file", got.written("NULL"));
            }
        }
    }

    #[test]
    fn null_is_a_word_and_no_text_is_null() {
        let (null, text) = (of(Arc::new(StringArray::from(vec![None::<&str>]))), of(Arc::new(StringArray::from(vec!["NULL"]))));
        assert_eq!(null, Cell::Null);
        for (expected, word, is_null, is_text) in
            [("'NULL'", "NULL", true, false), ("'NULL'", "-", false, true), ("'-'", "-", true, false), ("''", "NULL", false, false)]
        {
            assert_eq!(is_same(&value(expected), &null, word), is_null, "{expected} {word}");
            assert_eq!(is_same(&value(expected), &text, word), is_text, "{expected} {word}");
        }
    }

    #[test]
    fn a_number_has_one_way_to_be_written() {
        for (text, expected) in
            [("007", "7"), ("-0.0", "0"), ("+1.50", "1.5"), (".5", "0.5"), ("-01.10", "-1.1"), ("10", "10"), ("0.010", "0.01")]
        {
            assert_eq!(decimal(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "-", ".", "1e5", "a", "1.2.3"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }
}
