//! Real tables of other writers, read through `Lake::open` and SQL, against the rows they must give.

mod delta;
mod evolution;
mod hot;
mod plain;
mod pruning;
mod recreated;
mod requests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{can_cast_types, cast};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use lazaret_auth::TableId;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;

use super::{Lake, LakeError, OpenTable, ScanReport, TableSource};
use crate::caches::{CacheLimits, Caches};
use crate::meta::TableFormat;
use crate::stores::{Stores, StoresConfig};

/// A lake over one temporary folder, with a table's files in it.
struct Fixture {
    dir: tempfile::TempDir,
    lake: Lake,
}

impl Fixture {
    fn new() -> Self {
        Self::with_staleness(Duration::from_secs(3600))
    }

    fn with_staleness(staleness: Duration) -> Self {
        Self::with_limits(CacheLimits { staleness, settled: Duration::ZERO, ..CacheLimits::default() })
    }

    fn with_limits(limits: CacheLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stores = StoresConfig {
            allowed_paths: vec![dir.path().to_owned()],
            warehouse: dir.path().join("no-warehouse"),
            ..StoresConfig::default()
        };
        Self { lake: Lake::new(Arc::new(Stores::new(stores)), Arc::new(Caches::new(limits))), dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn source(&self, format: TableFormat, folder: &str) -> TableSource {
        let location = self.lake.stores.locate(self.path().join(folder).to_str().unwrap()).unwrap();
        TableSource { id: TableId::generate(), format, location: location.url().to_owned(), options: BTreeMap::new() }
    }

    async fn open_delta(&self, folder: &str) -> Result<OpenTable, LakeError> {
        self.lake.open(&self.source(TableFormat::Delta, folder)).await
    }

    /// A session with the table as `t`.
    fn session(&self, table: &OpenTable) -> SessionContext {
        self.session_with(table, SessionConfig::new().with_target_partitions(2))
    }

    fn session_with(&self, table: &OpenTable, config: SessionConfig) -> SessionContext {
        let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::clone(self.lake.stores()) as _).build().unwrap();
        let session = SessionContext::new_with_config_rt(config, Arc::new(runtime));
        session.register_table("t", Arc::clone(&table.provider)).unwrap();
        session
    }

    async fn query(&self, table: &OpenTable, sql: &str) -> Result<Answer, String> {
        let frame = self.session(table).sql(sql).await.map_err(|error| error.to_string())?;
        let task = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await.map_err(|error| error.to_string())?;
        let batches = collect(Arc::clone(&plan), task).await.map_err(|error| error.to_string())?;
        Ok(Answer { plan, batches })
    }
}

struct Answer {
    plan: Arc<dyn ExecutionPlan>,
    batches: Vec<RecordBatch>,
}

impl Answer {
    fn report(&self) -> ScanReport {
        ScanReport::of(&self.plan)
    }

    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// The first column of the first row.
    fn value(&self) -> String {
        texts(self.batches[0].column(0))[0].clone()
    }
}

fn shared(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(folder);
    if !path.is_dir() {
        eprintln!("skipped: no ../shared");
        return None;
    }
    Some(path)
}

/// Every archive in a folder, by name.
fn archives(folder: &str) -> Vec<(String, PathBuf)> {
    let Some(folder) = shared(folder) else { return Vec::new() };
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".tar.zst")?.to_owned();
            Some((name, path))
        })
        .collect();
    found.sort();
    found
}

fn unpack(archive: &Path, into: &Path) {
    let mut tar = std::process::Command::new("tar").args(["-x", "-C"]).arg(into).stdin(std::process::Stdio::piped()).spawn().unwrap();
    zstd::stream::copy_decode(std::fs::File::open(archive).unwrap(), tar.stdin.take().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
}

fn write_parquet(path: &Path, batch: &RecordBatch, properties: Option<WriterProperties>) {
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), properties).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// The rows of all Parquet files at a path.
fn parquet_rows(path: &Path) -> Vec<RecordBatch> {
    let files: Vec<_> = if path.is_dir() {
        let all = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|it| it.extension().is_some_and(|it| it == "parquet") && !it.file_name().unwrap().to_str().unwrap().starts_with('.'))
            .collect()
    } else {
        vec![path.to_owned()]
    };
    let read = |path| ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    files.into_iter().flat_map(read).map(Result::unwrap).collect()
}

fn texts(array: &ArrayRef) -> Vec<String> {
    let options = FormatOptions::new()
        .with_null("NULL")
        .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.6f"))
        .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.6f"));
    let formatter = ArrayFormatter::try_new(array, &options).unwrap();
    (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
}

/// Rows as sorted texts, the columns in the order of `names`, and of `like`'s types where they can be cast.
fn row_texts(batches: &[RecordBatch], like: &RecordBatch) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = like
            .schema()
            .fields()
            .iter()
            .map(|field| {
                let column =
                    batch.column_by_name(field.name()).unwrap_or_else(|| panic!("no column {} in {:?}", field.name(), batch.schema()));
                if column.data_type() != field.data_type() && can_cast_types(column.data_type(), field.data_type()) {
                    texts(&cast(column, field.data_type()).unwrap())
                } else {
                    texts(column)
                }
            })
            .collect();
        rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|it| it[row].as_str()).collect::<Vec<_>>().join(" | ")));
    }
    rows.sort();
    rows
}

/// The first difference, or nothing.
fn difference(found: &[RecordBatch], expected: &[RecordBatch]) -> Option<String> {
    let like = found.first().cloned()?;
    let (found, expected) = (row_texts(found, &like), row_texts(expected, &like));
    if found.len() != expected.len() {
        return Some(format!("{} rows where {} are expected", found.len(), expected.len()));
    }
    found.iter().zip(&expected).find(|(a, b)| a != b).map(|(a, b)| format!("found    {a}\nexpected {b}"))
}
