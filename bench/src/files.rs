//! Parquet files, and what the table formats record of them.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use arrow::array::{
    Array, ArrayRef, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::{max, max_string, min, min_string};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

/// Rows in a row group: small enough that a selective query skips most of a file.
const ROW_GROUP_ROWS: usize = 256 * 1024;

/// Rows of one person lie everywhere: the column that gets a bloom filter, where a table has it.
const LOOKED_UP: &str = "person_id";
/// At which a filter of a full row group takes 256 KiB.
const LOOKED_UP_FPP: f64 = 0.05;

/// The least or greatest value of a column.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub enum Bound {
    Int(i32),
    Long(i64),
    Date(i32),
    Micros(i64),
    /// Unscaled.
    Decimal(i128),
    Double(f64),
    Text(String),
}

#[derive(Clone, Debug, Default)]
pub struct ColumnStats {
    pub bounds: Option<(Bound, Bound)>,
    pub nulls: u64,
}

/// A written data file.
#[derive(Clone, Debug)]
pub struct DataFile {
    /// Relative to the folder of the table's data.
    pub path: PathBuf,
    pub size_bytes: u64,
    pub rows: u64,
    /// In the order of the schema.
    pub columns: Vec<ColumnStats>,
    /// Days since 1970 of the first day of the month that the file holds, for a table partitioned by month.
    pub month_start: Option<i32>,
}

pub struct DataFileWriter {
    writer: ArrowWriter<File>,
    file: DataFile,
    full_path: PathBuf,
}

impl DataFileWriter {
    pub fn create(root: &Path, path: PathBuf, schema: &SchemaRef, month_start: Option<i32>) -> Result<Self> {
        let full_path = root.join(&path);
        if let Some(folder) = full_path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_column_bloom_filter_enabled(ColumnPath::from(LOOKED_UP), true)
            .set_column_bloom_filter_fpp(ColumnPath::from(LOOKED_UP), LOOKED_UP_FPP)
            .set_column_bloom_filter_max_ndv(ColumnPath::from(LOOKED_UP), ROW_GROUP_ROWS as u64)
            .build();
        let sink = File::create(&full_path).with_context(|| format!("cannot create {}", full_path.display()))?;
        let writer = ArrowWriter::try_new(sink, schema.clone(), Some(properties))?;
        let columns = vec![ColumnStats::default(); schema.fields().len()];
        Ok(Self { writer, file: DataFile { path, size_bytes: 0, rows: 0, columns, month_start }, full_path })
    }

    pub fn rows(&self) -> u64 {
        self.file.rows
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch)?;
        self.file.rows += batch.num_rows() as u64;
        for (stats, column) in self.file.columns.iter_mut().zip(batch.columns()) {
            stats.nulls += column.null_count() as u64;
            stats.bounds = match (stats.bounds.take(), bounds(column)) {
                (Some((low, high)), Some((lower, higher))) => {
                    Some((if lower < low { lower } else { low }, if higher > high { higher } else { high }))
                }
                (known, found) => known.or(found),
            };
        }
        Ok(())
    }

    pub fn close(self) -> Result<DataFile> {
        self.writer.close()?;
        let mut file = self.file;
        file.size_bytes = std::fs::metadata(&self.full_path)?.len();
        Ok(file)
    }
}

fn bounds(column: &ArrayRef) -> Option<(Bound, Bound)> {
    let column = column.as_any();
    if let Some(values) = column.downcast_ref::<Int32Array>() {
        return Some((Bound::Int(min(values)?), Bound::Int(max(values)?)));
    }
    if let Some(values) = column.downcast_ref::<Int64Array>() {
        return Some((Bound::Long(min(values)?), Bound::Long(max(values)?)));
    }
    if let Some(values) = column.downcast_ref::<Date32Array>() {
        return Some((Bound::Date(min(values)?), Bound::Date(max(values)?)));
    }
    if let Some(values) = column.downcast_ref::<TimestampMicrosecondArray>() {
        return Some((Bound::Micros(min(values)?), Bound::Micros(max(values)?)));
    }
    if let Some(values) = column.downcast_ref::<Decimal128Array>() {
        return Some((Bound::Decimal(min(values)?), Bound::Decimal(max(values)?)));
    }
    if let Some(values) = column.downcast_ref::<Float64Array>() {
        return Some((Bound::Double(min(values)?), Bound::Double(max(values)?)));
    }
    let values = column.downcast_ref::<StringArray>()?;
    Some((Bound::Text(min_string(values)?.to_owned()), Bound::Text(max_string(values)?.to_owned())))
}
