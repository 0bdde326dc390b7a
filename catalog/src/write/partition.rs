//! Splitting batches by their partition columns, and the values of these as the Delta log has them (Delta protocol,
//! *Partition Value Serialization*).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Decimal128Type, DecimalType, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta};
use datafusion::common::ScalarValue;

use super::WriteError;
use super::stats::has_four_digits;

/// Column to value; no value is NULL.
pub(super) type PartitionValues = HashMap<String, Option<String>>;
/// Equal for rows of one partition.
pub(super) type PartitionKey = Box<[u8]>;

pub(super) struct Part {
    pub key: PartitionKey,
    /// Without the partition columns.
    pub batch: RecordBatch,
    pub values: PartitionValues,
    /// The same by the columns' indices, ascending.
    pub constants: Arc<[(usize, ScalarValue)]>,
}

pub(super) struct Partitioning {
    /// Indices into the table's schema, in the order of the clause.
    columns: Vec<usize>,
    /// The other columns, in table order.
    rest: Vec<usize>,
    file_schema: SchemaRef,
    converter: RowConverter,
}

impl Partitioning {
    /// `by` names columns of the table's schema.
    pub fn new(schema: &Schema, by: &[String]) -> Result<Self, WriteError> {
        let mut columns = Vec::new();
        for name in by {
            let refuse = |reason| WriteError::Partition { column: name.clone(), reason };
            let index = schema.index_of(name).map_err(|_| refuse("there is no such column"))?;
            if columns.contains(&index) {
                return Err(refuse("it is named twice"));
            }
            if !can_partition(schema.field(index).data_type()) {
                return Err(refuse("its type cannot be that of a partition column"));
            }
            columns.push(index);
        }
        let rest: Vec<_> = (0..schema.fields().len()).filter(|index| !columns.contains(index)).collect();
        if rest.is_empty() {
            let column = by.last().cloned().unwrap_or_default();
            return Err(WriteError::Partition { column, reason: "no column would be left for the data files" });
        }
        let internal = |error: arrow::error::ArrowError| WriteError::Batch(error.to_string());
        let sort_fields = columns.iter().map(|index| SortField::new(schema.field(*index).data_type().clone())).collect();
        let file_schema = Arc::new(schema.project(&rest).map_err(internal)?);
        Ok(Self { columns, rest, file_schema, converter: RowConverter::new(sort_fields).map_err(internal)? })
    }

    /// What lies in the data files.
    pub fn file_schema(&self) -> &SchemaRef {
        &self.file_schema
    }

    pub fn split(&self, batch: &RecordBatch) -> Result<Vec<Part>, WriteError> {
        let internal = |error: arrow::error::ArrowError| WriteError::Batch(error.to_string());
        let rest = batch.project(&self.rest).map_err(internal)?;
        if self.columns.is_empty() {
            return Ok(vec![Part { key: Box::default(), batch: rest, values: PartitionValues::new(), constants: Arc::default() }]);
        }
        let keys: Vec<_> = self.columns.iter().map(|index| Arc::clone(batch.column(*index))).collect();
        let rows = self.converter.convert_columns(&keys).map_err(internal)?;
        let mut rows_by_key: HashMap<&[u8], Vec<u32>> = HashMap::new();
        for (index, row) in (0_u32..).zip(rows.iter()) {
            rows_by_key.entry(row.data()).or_default().push(index);
        }
        let mut parts = Vec::with_capacity(rows_by_key.len());
        for (key, indices) in rows_by_key {
            let first = indices.first().copied().unwrap_or(0) as usize;
            let (values, constants) = (self.values(batch, first)?, self.constants(batch, first)?);
            let batch = take_record_batch(&rest, &UInt32Array::from(indices)).map_err(internal)?;
            parts.push(Part { key: key.into(), batch, values, constants });
        }
        Ok(parts)
    }

    fn values(&self, batch: &RecordBatch, row: usize) -> Result<PartitionValues, WriteError> {
        let schema = batch.schema();
        self.columns
            .iter()
            .map(|index| {
                let column = schema.field(*index).name();
                let value =
                    value_text(batch.column(*index), row).map_err(|reason| WriteError::Partition { column: column.clone(), reason })?;
                Ok((column.clone(), value))
            })
            .collect()
    }

    fn constants(&self, batch: &RecordBatch, row: usize) -> Result<Arc<[(usize, ScalarValue)]>, WriteError> {
        let mut columns = self.columns.clone();
        columns.sort_unstable();
        columns.into_iter().map(|index| Ok((index, ScalarValue::try_from_array(batch.column(index), row)?))).collect()
    }
}

fn can_partition(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Utf8
            | DataType::Date32
            | DataType::Timestamp(_, _)
            | DataType::Decimal128(_, _)
    )
}

fn value_text(array: &dyn Array, row: usize) -> Result<Option<String>, &'static str> {
    let out_of_range = "a value lies outside the years 0 to 9999";
    let value = ScalarValue::try_from_array(array, row).map_err(|_| "a value cannot be read")?;
    if value.is_null() {
        return Ok(None);
    }
    let text = match value {
        ScalarValue::Boolean(Some(value)) => value.to_string(),
        ScalarValue::Int8(Some(value)) => value.to_string(),
        ScalarValue::Int16(Some(value)) => value.to_string(),
        ScalarValue::Int32(Some(value)) => value.to_string(),
        ScalarValue::Int64(Some(value)) => value.to_string(),
        ScalarValue::Decimal128(Some(value), precision, scale) => Decimal128Type::format_decimal(value, precision, scale),
        // The log's empty text is NULL.
        ScalarValue::Utf8(Some(value)) if value.is_empty() => return Err("Delta cannot tell an empty text from NULL there"),
        ScalarValue::Utf8(Some(value)) => value,
        ScalarValue::Date32(Some(days)) => TimeDelta::try_days(i64::from(days))
            .and_then(|days| NaiveDate::default().checked_add_signed(days))
            .filter(|date| has_four_digits(date.year()))
            .map(|date| date.format("%Y-%m-%d").to_string())
            .ok_or(out_of_range)?,
        ScalarValue::TimestampMicrosecond(Some(micros), zone) => DateTime::from_timestamp_micros(micros)
            .filter(|time| has_four_digits(time.year()))
            // With a zone it is an instant, which the shorter form leaves to the reader's own zone.
            .map(|time| time.format(if zone.is_some() { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%d %H:%M:%S%.6f" }).to_string())
            .ok_or(out_of_range)?,
        _ => return Err("its type cannot be that of a partition column"),
    };
    Ok(Some(text))
}
