//! An Iceberg v2 table of one snapshot over files that are already there, written with `iceberg`'s own writers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::datatypes::DataType;
use iceberg::TableCreation;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, Datum, Literal, ManifestListWriter, ManifestWriterBuilder, NestedField, Operation,
    PrimitiveType, Schema, Snapshot, Struct, Summary, TableMetadataBuilder, Transform, Type, UnboundPartitionSpec,
};

use crate::files::{Bound, DataFile};
use crate::generate::Table;

const SNAPSHOT_ID: i64 = 1;
/// One manifest holds so many files: a selective query reads few of them.
const FILES_PER_MANIFEST: usize = 500;

pub async fn write_metadata(folder: &Path, table: &Table) -> Result<()> {
    let folder = folder.canonicalize()?;
    let location = format!("file://{}", folder.display());
    let io = FileIO::new_with_fs();
    let schema = Arc::new(schema(table)?);
    let spec = if table.by_month {
        let source = schema.field_id_by_name("event_date").context("event_date")?;
        UnboundPartitionSpec::builder().with_spec_id(0).add_partition_field(source, "event_date_month", Transform::Month)?.build()
    } else {
        UnboundPartitionSpec::builder().with_spec_id(0).build()
    };
    let creation = TableCreation::builder()
        .name(table.name.to_owned())
        .location(location.clone())
        .schema(schema.as_ref().clone())
        .partition_spec(spec)
        .build();
    let builder = TableMetadataBuilder::from_table_creation(creation)?.assign_uuid(table.id("iceberg"));
    let draft = builder.build()?.metadata;
    let spec = draft.default_partition_spec().as_ref().clone();

    let mut manifests = Vec::new();
    for (number, files) in table.files.chunks(FILES_PER_MANIFEST).enumerate() {
        let output = io.new_output(format!("{location}/metadata/manifest-{number:05}.avro"))?;
        let mut writer =
            ManifestWriterBuilder::new(output, Some(SNAPSHOT_ID), draft.current_schema().clone(), spec.clone()).build_v2_data();
        for file in files {
            writer.add_file(data_file(&location, table, file, spec.spec_id())?, 1)?;
        }
        manifests.push(writer.write_manifest_file().await?);
    }
    let list = format!("{location}/metadata/snap-{SNAPSHOT_ID}.avro");
    let mut list_writer = ManifestListWriter::v2(io.new_output(&list)?.writer().await?, SNAPSHOT_ID, None, 1);
    list_writer.add_manifests(manifests.into_iter())?;
    list_writer.close().await?;

    let rows: u64 = table.files.iter().map(|file| file.rows).sum();
    let snapshot = Snapshot::builder()
        .with_snapshot_id(SNAPSHOT_ID)
        .with_sequence_number(1)
        .with_timestamp_ms(draft.last_updated_ms())
        .with_manifest_list(list)
        .with_summary(Summary {
            operation: Operation::Append,
            additional_properties: HashMap::from([
                ("total-records".to_owned(), rows.to_string()),
                ("total-data-files".to_owned(), table.files.len().to_string()),
            ]),
        })
        .with_schema_id(draft.current_schema_id())
        .build();
    let metadata = draft.into_builder(None).set_branch_snapshot(snapshot, "main")?.build()?.metadata;
    let text = serde_json::to_vec(&metadata)?;
    std::fs::write(folder.join("metadata").join("v1.metadata.json"), text)?;
    std::fs::write(folder.join("metadata").join("version-hint.text"), "1")?;
    Ok(())
}

fn schema(table: &Table) -> Result<Schema> {
    let mut fields = Vec::new();
    for (index, field) in table.schema.fields().iter().enumerate() {
        let primitive = match field.data_type() {
            DataType::Int32 => PrimitiveType::Int,
            DataType::Int64 => PrimitiveType::Long,
            DataType::Float64 => PrimitiveType::Double,
            DataType::Utf8 => PrimitiveType::String,
            DataType::Date32 => PrimitiveType::Date,
            DataType::Timestamp(_, Some(_)) => PrimitiveType::Timestamptz,
            DataType::Decimal128(precision, scale) => {
                PrimitiveType::Decimal { precision: u32::from(*precision), scale: u32::try_from(*scale)? }
            }
            other => bail!("no Iceberg type for {other}"),
        };
        fields.push(Arc::new(NestedField::new(index as i32 + 1, field.name(), Type::Primitive(primitive), !field.is_nullable())));
    }
    Ok(Schema::builder().with_fields(fields).build()?)
}

fn data_file(location: &str, table: &Table, file: &DataFile, spec_id: i32) -> Result<iceberg::spec::DataFile> {
    let (mut lower, mut upper, mut nulls, mut values) = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
    for (index, (field, column)) in table.schema.fields().iter().zip(&file.columns).enumerate() {
        let id = index as i32 + 1;
        if let Some((low, high)) = &column.bounds {
            lower.insert(id, datum(field.data_type(), low)?);
            upper.insert(id, datum(field.data_type(), high)?);
        }
        nulls.insert(id, column.nulls);
        values.insert(id, file.rows);
    }
    let partition = match file.month_start {
        Some(days) => Struct::from_iter([Some(Literal::int(months_since_1970(days)))]),
        None => Struct::empty(),
    };
    Ok(DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(format!("{location}/data/{}", file.path.to_string_lossy()))
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .partition_spec_id(spec_id)
        .record_count(file.rows)
        .file_size_in_bytes(file.size_bytes)
        .lower_bounds(lower)
        .upper_bounds(upper)
        .null_value_counts(nulls)
        .value_counts(values)
        .build()?)
}

fn months_since_1970(days: i32) -> i32 {
    use chrono::{Datelike, Days, NaiveDate};
    let date = NaiveDate::default() + Days::new(days.max(0) as u64);
    (date.year() - 1970) * 12 + date.month0() as i32
}

fn datum(data_type: &DataType, bound: &Bound) -> Result<Datum> {
    Ok(match bound {
        Bound::Int(value) => Datum::int(*value),
        Bound::Long(value) => Datum::long(*value),
        Bound::Date(days) => Datum::date(*days),
        Bound::Micros(micros) => Datum::timestamptz_micros(*micros),
        Bound::Double(value) => Datum::double(*value),
        Bound::Text(value) => Datum::string(value),
        Bound::Decimal(unscaled) => match data_type {
            DataType::Decimal128(_, scale) => {
                let text = format!(
                    "{}{}.{:0width$}",
                    if *unscaled < 0 { "-" } else { "" },
                    unscaled.unsigned_abs() / 10u128.pow(u32::try_from(*scale)?),
                    unscaled.unsigned_abs() % 10u128.pow(u32::try_from(*scale)?),
                    width = usize::try_from(*scale)?
                );
                Datum::decimal_from_str(text)?
            }
            other => bail!("a decimal bound for {other}"),
        },
    })
}
