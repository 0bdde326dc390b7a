//! A Delta log of one commit over files that are already there (protocol.md of delta-io/delta).

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use arrow::datatypes::{DataType, Schema};
use chrono::{DateTime, Days, NaiveDate};
use serde_json::{Map, Value, json};

use crate::files::{Bound, DataFile};
use crate::generate::Table;

const PARTITION_COLUMN: &str = "event_month";

pub fn write_log(folder: &Path, table: &Table) -> Result<()> {
    let mut fields = Vec::new();
    for field in table.schema.fields() {
        fields
            .push(json!({ "name": field.name(), "type": delta_type(field.data_type())?, "nullable": field.is_nullable(), "metadata": {} }));
    }
    if table.by_month {
        fields.push(json!({ "name": PARTITION_COLUMN, "type": "date", "nullable": true, "metadata": {} }));
    }
    let partition_columns: Vec<&str> = if table.by_month { vec![PARTITION_COLUMN] } else { Vec::new() };
    let schema = json!({ "type": "struct", "fields": fields }).to_string();
    let id = table.id("delta");
    let mut lines = vec![
        json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }),
        json!({ "metaData": {
            "id": id, "name": table.name, "format": { "provider": "parquet", "options": {} }, "schemaString": schema,
            "partitionColumns": partition_columns, "configuration": {}, "createdTime": 0
        } }),
    ];
    for file in &table.files {
        let mut partition = Map::new();
        if let Some(month) = file.month_start {
            partition.insert(PARTITION_COLUMN.to_owned(), Value::String(date_text(month)));
        }
        lines.push(json!({ "add": {
            "path": file.path.to_string_lossy(), "partitionValues": partition, "size": file.size_bytes, "modificationTime": 0,
            "dataChange": true, "stats": stats(&table.schema, file).to_string()
        } }));
    }
    let log = folder.join("_delta_log");
    std::fs::create_dir_all(&log)?;
    let mut out = std::io::BufWriter::new(std::fs::File::create(log.join(format!("{:020}.json", 0)))?);
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    Ok(())
}

fn delta_type(data_type: &DataType) -> Result<String> {
    Ok(match data_type {
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "long".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Utf8 => "string".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamp".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        other => bail!("no Delta type for {other}"),
    })
}

fn stats(schema: &Schema, file: &DataFile) -> Value {
    let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
    for (field, column) in schema.fields().iter().zip(&file.columns) {
        if let Some((low, high)) = &column.bounds {
            least.insert(field.name().clone(), bound(field.data_type(), low));
            greatest.insert(field.name().clone(), bound(field.data_type(), high));
        }
        nulls.insert(field.name().clone(), json!(column.nulls));
    }
    json!({ "numRecords": file.rows, "minValues": least, "maxValues": greatest, "nullCount": nulls })
}

fn bound(data_type: &DataType, bound: &Bound) -> Value {
    match bound {
        Bound::Int(value) => json!(value),
        Bound::Long(value) => json!(value),
        Bound::Double(value) => json!(value),
        Bound::Text(value) => json!(value),
        Bound::Date(days) => json!(date_text(*days)),
        // Whole seconds, so that milliseconds lose nothing.
        Bound::Micros(micros) => {
            json!(DateTime::from_timestamp_micros(*micros).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        }
        Bound::Decimal(unscaled) => match data_type {
            DataType::Decimal128(_, scale) => json!(*unscaled as f64 / 10f64.powi(i32::from(*scale))),
            _ => Value::Null,
        },
    }
}

fn date_text(days: i32) -> String {
    (NaiveDate::default() + Days::new(days.max(0) as u64)).to_string()
}
