//! Writing it all: one set of Parquet files under a Delta and an Iceberg table, in constant memory: months are written
//! beside each other, one to a core.
//!
//! `<out>/delta/<table>` and `<out>/iceberg/<table>` hold the same data files (hard links), since a location belongs to
//! one table.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::epidemic::{Epidemic, MONTHS, epoch_days, hash, month_start};
use crate::files::{DataFile, DataFileWriter};
use crate::{delta, iceberg, tables};

/// Rows handed to the Parquet writer at once.
const BATCH_ROWS: usize = 64 * 1024;
/// Rows in a data file, about 48 MB of events.
const FILE_ROWS: u64 = 4 * 1024 * 1024;
/// Events to a person, on average.
const EVENTS_PER_PERSON: u64 = 20;
/// A person table is never smaller than this.
const LEAST_PERSONS: u64 = 1_000;

pub struct Generated {
    pub events: u64,
    pub persons: u64,
}

/// Generates `events` events, more or less, into `out`, which must not hold data yet.
pub async fn generate(out: &Path, seed: u64, events: u64) -> Result<Generated> {
    let persons = (events / EVENTS_PER_PERSON).max(LEAST_PERSONS);
    let mut tables = vec![write_events(out, seed, events, persons)?, write_persons(out, seed, persons)?];
    for (name, batch) in
        [("region", tables::regions(seed)?), ("facility", tables::facilities(seed)?), ("serial_interval", tables::serial_intervals()?)]
    {
        tables.push(write_small(out, name, &batch)?);
    }
    let written = tables[0].files.iter().map(|file| file.rows).sum();
    for table in &tables {
        let folder = out.join("delta").join(table.name);
        delta::write_log(&folder, table)?;
        let twin = out.join("iceberg").join(table.name);
        link_files(&folder, &twin.join("data"), &table.files)?;
        iceberg::write_metadata(&twin, table).await.with_context(|| format!("iceberg metadata of {}", table.name))?;
    }
    Ok(Generated { events: written, persons })
}

/// A table whose data files are written.
pub struct Table {
    pub name: &'static str,
    pub schema: SchemaRef,
    pub files: Vec<DataFile>,
    /// Partitioned by month: Delta by a column `event_month` that the files do not hold, Iceberg by `month(event_date)`.
    pub by_month: bool,
}

impl Table {
    /// The same in every run, so that the metadata is too.
    pub fn id(&self, format: &str) -> uuid::Uuid {
        let of = |text: &str| text.bytes().fold(0, |sum, byte| hash(sum, u64::from(byte), 40));
        uuid::Builder::from_random_bytes(uuid::Uuid::from_u64_pair(of(self.name), of(format)).into_bytes()).into_uuid()
    }
}

fn write_events(out: &Path, seed: u64, events: u64, persons: u64) -> Result<Table> {
    let epidemic = Epidemic::new(seed, events);
    let schema = tables::events_schema();
    let root = out.join("delta").join("events");
    // What a row holds depends on its number, so months can be written beside each other.
    let first_rows: Vec<u64> = (0..MONTHS)
        .scan(0, |rows, month| {
            let first = *rows;
            *rows += epidemic.month(month).map(|cell| u64::from(cell.events)).sum::<u64>();
            Some(first)
        })
        .collect();
    let next = AtomicU32::new(0);
    let writer = || -> Result<Vec<(u32, Vec<DataFile>)>> {
        let mut written = Vec::new();
        loop {
            let month = next.fetch_add(1, Ordering::Relaxed);
            let Some(first_row) = first_rows.get(month as usize) else { return Ok(written) };
            written.push((month, write_month(&root, &epidemic, seed, persons, month, *first_row)?));
        }
    };
    let mut months = std::thread::scope(|threads| -> Result<Vec<(u32, Vec<DataFile>)>> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let writers: Vec<_> = (0..count).map(|_| threads.spawn(writer)).collect();
        let mut months = Vec::new();
        for writer in writers {
            months.extend(writer.join().map_err(|_| anyhow!("a writer of events panicked"))??);
        }
        Ok(months)
    })?;
    months.sort_by_key(|(month, _)| *month);
    Ok(Table { name: "events", schema, files: months.into_iter().flat_map(|(_, files)| files).collect(), by_month: true })
}

/// The files of a month, whose rows are numbered from `first_row`.
fn write_month(root: &Path, epidemic: &Epidemic, seed: u64, persons: u64, month: u32, first_row: u64) -> Result<Vec<DataFile>> {
    let start = month_start(month);
    let schema = tables::events_schema();
    let mut files = Vec::new();
    let mut row = first_row;
    let mut pending: Vec<tables::Event> = Vec::with_capacity(BATCH_ROWS);
    let mut writer: Option<DataFileWriter> = None;
    let mut flush = |pending: &mut Vec<tables::Event>, writer: &mut Option<DataFileWriter>| -> Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        if writer.as_ref().is_some_and(|open| open.rows() >= FILE_ROWS)
            && let Some(full) = writer.take()
        {
            files.push(full.close()?);
        }
        let open = match writer {
            Some(open) => open,
            None => {
                let path = PathBuf::from(format!("event_month={start}")).join(format!("part-{:05}.parquet", files.len()));
                writer.insert(DataFileWriter::create(root, path, &schema, Some(epoch_days(start)))?)
            }
        };
        open.write(&tables::events_batch(seed, persons, pending)?)?;
        pending.clear();
        Ok(())
    };
    for cell in epidemic.month(month) {
        for date in epidemic.days(month, &cell, row) {
            pending.push(tables::Event { row, date: epoch_days(date), disease: cell.disease, region: cell.region });
            row += 1;
        }
        if pending.len() >= BATCH_ROWS {
            flush(&mut pending, &mut writer)?;
        }
    }
    flush(&mut pending, &mut writer)?;
    if let Some(open) = writer {
        files.push(open.close()?);
    }
    Ok(files)
}

fn write_persons(out: &Path, seed: u64, persons: u64) -> Result<Table> {
    let schema = tables::persons_schema();
    let root = out.join("delta").join("person");
    let mut files = Vec::new();
    for file_start in (0..persons).step_by(FILE_ROWS as usize) {
        let file_end = (file_start + FILE_ROWS).min(persons);
        let mut writer = DataFileWriter::create(&root, PathBuf::from(format!("part-{:05}.parquet", files.len())), &schema, None)?;
        for start in (file_start..file_end).step_by(BATCH_ROWS) {
            writer.write(&tables::persons_batch(seed, start..(start + BATCH_ROWS as u64).min(file_end))?)?;
        }
        files.push(writer.close()?);
    }
    Ok(Table { name: "person", schema, files, by_month: false })
}

fn write_small(out: &Path, name: &'static str, batch: &RecordBatch) -> Result<Table> {
    let root = out.join("delta").join(name);
    let mut writer = DataFileWriter::create(&root, PathBuf::from("part-00000.parquet"), &batch.schema(), None)?;
    writer.write(batch)?;
    Ok(Table { name, schema: batch.schema(), files: vec![writer.close()?], by_month: false })
}

fn link_files(from: &Path, to: &Path, files: &[DataFile]) -> Result<()> {
    for file in files {
        let (source, target) = (from.join(&file.path), to.join(&file.path));
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder)?;
        }
        if std::fs::hard_link(&source, &target).is_err() {
            std::fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
        }
    }
    Ok(())
}
