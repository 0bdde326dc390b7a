//! From the types of a query to those that Delta has. What can be kept exactly is kept; the rest is refused by the name
//! of the column.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

use super::WriteError;

/// Decimals of Delta, and of Parquet readers everywhere, end here.
const MAX_PRECISION: u8 = 38;
/// What Spark refuses in the name of a column that has no mapping.
const FORBIDDEN_IN_NAMES: &[char] = &[' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];
/// The one key of a field's metadata that is the table's business; ids and physical names belong to the table that was read.
const COMMENT: &str = "comment";

/// How the batches of one query become batches of the table.
#[derive(Debug)]
pub(super) struct Conversion {
    target: SchemaRef,
}

impl Conversion {
    pub fn new(source: &Schema) -> Result<Self, WriteError> {
        if source.fields().is_empty() {
            return Err(WriteError::NoColumns);
        }
        check_names(source.fields(), "")?;
        let fields = source.fields().iter().map(|field| target_field(field, field.name())).collect::<Result<Fields, _>>()?;
        Ok(Self { target: Arc::new(Schema::new(fields)) })
    }

    /// For batches that have the types of a table that is there; NULL is looked for all the same.
    pub fn into(table: &SchemaRef) -> Self {
        Self { target: Arc::clone(table) }
    }

    /// The schema of the table.
    pub fn target(&self) -> &SchemaRef {
        &self.target
    }

    pub fn convert(&self, batch: &RecordBatch) -> Result<RecordBatch, WriteError> {
        if batch.num_columns() != self.target.fields().len() {
            return Err(WriteError::Batch(format!("{} columns instead of {}", batch.num_columns(), self.target.fields().len())));
        }
        let columns = batch.columns().iter().zip(self.target.fields()).map(|(column, field)| convert_column(column, field));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.target), columns).map_err(|error| WriteError::Batch(error.to_string()))
    }
}

fn convert_column(column: &ArrayRef, field: &FieldRef) -> Result<ArrayRef, WriteError> {
    if !field.is_nullable() && column.logical_null_count() > 0 {
        return Err(WriteError::NullValue { column: field.name().clone() });
    }
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    // The text of a cast error can hold the value.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let inexact = || WriteError::Inexact { column: field.name().clone(), from: column.data_type().clone(), to: field.data_type().clone() };
    let converted = cast_with_options(column, field.data_type(), &options).map_err(|_| inexact())?;
    if may_lose_digits(column.data_type()) {
        let back = cast_with_options(&converted, column.data_type(), &options).map_err(|_| inexact())?;
        if &back != column {
            return Err(inexact());
        }
    }
    Ok(converted)
}

/// Types whose values are cut, not refused, by a cast to the type below.
fn may_lose_digits(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) | DataType::Date64 => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _)
        | DataType::RunEndEncoded(_, item) => may_lose_digits(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| may_lose_digits(field.data_type())),
        DataType::Dictionary(_, value) => may_lose_digits(value),
        _ => false,
    }
}

fn target_field(field: &Field, column: &str) -> Result<FieldRef, WriteError> {
    let comment: HashMap<_, _> = field.metadata().get(COMMENT).map(|comment| (COMMENT.to_owned(), comment.clone())).into_iter().collect();
    let data_type = target_type(field.data_type(), column)?;
    Ok(Arc::new(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(comment)))
}

fn target_type(source: &DataType, column: &str) -> Result<DataType, WriteError> {
    let unsupported = || WriteError::UnsupportedType { column: column.to_owned(), data_type: source.clone() };
    let child = |name: &str, item: &Field, nullable: bool| -> Result<FieldRef, WriteError> {
        Ok(Arc::new(Field::new(name, target_type(item.data_type(), column)?, nullable)))
    };
    Ok(match source {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32 => source.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        // The instant is kept; Delta does not say in which zone it was written.
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => target_decimal(*precision, *scale).ok_or_else(unsupported)?,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => DataType::List(child("element", item, item.is_nullable())?),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let entries = Fields::from(vec![child("key", &fields[0], false)?, child("value", &fields[1], fields[1].is_nullable())?]);
                DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
            }
            _ => return Err(unsupported()),
        },
        DataType::Struct(fields) if !fields.is_empty() => {
            DataType::Struct(fields.iter().map(|field| target_field(field, column)).collect::<Result<_, _>>()?)
        }
        DataType::Dictionary(_, value) => target_type(value, column)?,
        DataType::RunEndEncoded(_, value) => target_type(value.data_type(), column)?,
        DataType::Null
        | DataType::Struct(_)
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::Union(_, _) => return Err(unsupported()),
    })
}

/// A negative scale becomes digits: Delta has none.
fn target_decimal(precision: u8, scale: i8) -> Option<DataType> {
    let (precision, scale) = match u8::try_from(scale) {
        Ok(_) => (precision, scale),
        Err(_) => (precision.checked_add(scale.unsigned_abs())?, 0),
    };
    (precision <= MAX_PRECISION).then_some(DataType::Decimal128(precision, scale))
}

/// `path` is that of the struct that holds the fields, with a dot at its end.
fn check_names(fields: &Fields, path: &str) -> Result<(), WriteError> {
    let mut seen = HashSet::new();
    for field in fields {
        let refuse = |reason: String| Err(WriteError::ColumnName { column: format!("{path}{}", field.name()), reason });
        if field.name().is_empty() {
            return refuse("it is empty".to_owned());
        }
        if let Some(bad) = field.name().chars().find(|char| FORBIDDEN_IN_NAMES.contains(char)) {
            return refuse(format!("it holds {bad:?}"));
        }
        if !seen.insert(field.name().to_lowercase()) {
            return refuse("another column has the same name but for its case".to_owned());
        }
        check_nested_names(field.data_type(), &format!("{path}{}.", field.name()))?;
    }
    Ok(())
}

fn check_nested_names(data_type: &DataType, path: &str) -> Result<(), WriteError> {
    match data_type {
        DataType::Struct(fields) => check_names(fields, path),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::RunEndEncoded(_, item) => check_nested_names(item.data_type(), path),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => fields.iter().try_for_each(|field| check_nested_names(field.data_type(), path)),
            _ => Ok(()),
        },
        DataType::Dictionary(_, value) => check_nested_names(value, path),
        _ => Ok(()),
    }
}
