//! The data files of a table: Parquet, encoded on a thread that may block, bounded in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use deltalake::kernel::Add;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use uuid::Uuid;

use super::WriteError;
use super::folder::Place;
use super::partition::{Part, PartitionKey, PartitionValues, Partitioning};
use super::stats::{FloatBounds, file_stats, is_float};

/// A row group is what a scan reads by one thread and skips as a whole: small enough to spread and to skip, large enough
/// to compress.
const ROW_GROUP_ROWS: usize = 256 * 1024;
/// A file that has reached it is closed and followed by another, so that files too can be read side by side and skipped.
const FILE_BYTES: usize = 512 * 1024 * 1024;
/// Of encoded pages that wait for their row group, over all open files; beyond it the largest is written out.
const MAX_BUFFERED_BYTES: usize = 256 * 1024 * 1024;
/// Far from the 1024 descriptors that a process usually has; rows of more partitions than this, unsorted, make small files.
const MAX_OPEN_FILES: usize = 256;
/// A table with more has chosen a key for its partition column; its files would be too small and its log too long.
const MAX_PARTITIONS: usize = 10_000;

pub(super) struct DataFiles {
    place: Arc<dyn Place>,
    partitioning: Partitioning,
    open: HashMap<PartitionKey, OpenFile>,
    partitions: HashSet<PartitionKey>,
    files: Vec<DataFile>,
    rows: u64,
}

/// What was written.
#[derive(Debug)]
pub(super) struct Written {
    pub files: Vec<DataFile>,
    pub rows: u64,
}

#[derive(Debug)]
pub(super) struct DataFile {
    /// The log's entry for it.
    pub add: Add,
    pub rows: u64,
    /// Its partition's values, by the columns' indices.
    pub constants: Arc<[(usize, ScalarValue)]>,
}

struct OpenFile {
    name: String,
    writer: ArrowWriter<File>,
    values: PartitionValues,
    constants: Arc<[(usize, ScalarValue)]>,
    floats: BTreeMap<usize, FloatBounds>,
}

impl DataFiles {
    pub fn new(place: Arc<dyn Place>, partitioning: Partitioning) -> Self {
        Self { place, partitioning, open: HashMap::new(), partitions: HashSet::new(), files: Vec::new(), rows: 0 }
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        let parts = self.partitioning.split(batch)?;
        self.partitions.extend(parts.iter().map(|part| part.key.clone()));
        if self.partitions.len() > MAX_PARTITIONS {
            return Err(WriteError::TooManyPartitions { limit: MAX_PARTITIONS });
        }
        for part in parts {
            self.write_part(part)?;
        }
        self.bound_memory()
    }

    /// The files are durable, their names are not: that is for whoever makes the folder so.
    pub fn finish(mut self) -> Result<Written, WriteError> {
        let keys: Vec<_> = self.open.keys().cloned().collect();
        for key in keys {
            self.close(&key)?;
        }
        Ok(Written { files: self.files, rows: self.rows })
    }

    fn write_part(&mut self, part: Part) -> Result<(), WriteError> {
        if !self.open.contains_key(&part.key) {
            self.make_room()?;
            let file = OpenFile::create(self.place.as_ref(), self.partitioning.file_schema(), part.values, part.constants)?;
            self.open.insert(part.key.clone(), file);
        }
        let Some(file) = self.open.get_mut(&part.key) else { return Ok(()) };
        file.write(&part.batch)?;
        if file.writer.bytes_written() + file.writer.in_progress_size() >= FILE_BYTES {
            self.close(&part.key)?;
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), WriteError> {
        if self.open.len() < MAX_OPEN_FILES {
            return Ok(());
        }
        let fullest = self.open.iter().max_by_key(|(_, file)| file.writer.memory_size()).map(|(key, _)| key.clone());
        fullest.map_or(Ok(()), |key| self.close(&key))
    }

    fn bound_memory(&mut self) -> Result<(), WriteError> {
        let mut buffered: usize = self.open.values().map(|file| file.writer.memory_size()).sum();
        while buffered > MAX_BUFFERED_BYTES {
            let Some(fullest) = self.open.values_mut().max_by_key(|file| file.writer.memory_size()) else { return Ok(()) };
            let before = fullest.writer.memory_size();
            fullest.writer.flush()?;
            let freed = before.saturating_sub(fullest.writer.memory_size());
            if freed == 0 {
                return Ok(());
            }
            buffered = buffered.saturating_sub(freed);
        }
        Ok(())
    }

    fn close(&mut self, key: &PartitionKey) -> Result<(), WriteError> {
        if let Some(file) = self.open.remove(key) {
            self.files.push(file.close(self.partitioning.file_schema())?);
        }
        Ok(())
    }
}

impl OpenFile {
    /// The name says nothing of the values: Delta keeps these in the log, and paths end up in error texts.
    fn create(
        place: &dyn Place,
        schema: &SchemaRef,
        values: PartitionValues,
        constants: Arc<[(usize, ScalarValue)]>,
    ) -> Result<Self, WriteError> {
        let name = format!("part-{}.zstd.parquet", Uuid::now_v7().simple());
        place.will_hold(&name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(place.path().join(&name))
            .map_err(|source| WriteError::Io { doing: "create a data file", source })?;
        let floats: BTreeMap<_, _> = (0..).zip(schema.fields()).filter(|(_, field)| is_float(field.data_type())).collect();
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS));
        for field in floats.values() {
            let column = ColumnPath::new(vec![field.name().clone()]);
            properties = properties.set_column_statistics_enabled(column, EnabledStatistics::None);
        }
        // The table's schema is in the log: an Arrow schema in each file could only contradict it.
        let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, SchemaRef::clone(schema), options)?;
        let floats = floats.into_keys().map(|index| (index, FloatBounds::default())).collect();
        Ok(Self { name, writer, values, constants, floats })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        for (index, bounds) in &mut self.floats {
            bounds.add(batch.column(*index));
        }
        Ok(self.writer.write(batch)?)
    }

    fn close(mut self, schema: &SchemaRef) -> Result<DataFile, WriteError> {
        let footer = self.writer.finish()?;
        let io = |source| WriteError::Io { doing: "make a data file durable", source };
        self.writer.inner().sync_all().map_err(io)?;
        let size = self.writer.inner().metadata().map_err(io)?.len();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        let rows = u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0);
        let add = Add {
            path: self.name,
            partition_values: self.values,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            modification_time: i64::try_from(now_ms).unwrap_or(i64::MAX),
            data_change: true,
            stats: Some(file_stats(schema, &footer, &self.floats)?),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        };
        Ok(DataFile { add, rows, constants: self.constants })
    }
}
