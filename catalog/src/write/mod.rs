//! Writing tables: a stream of batches becomes a Delta table in the warehouse, or rows of a table that is there ([`insert`]),
//! whole and durable, or nothing.
//!
//! A managed table lies in a folder named by its id. Nobody sees it before the metadata names it, so that what counts is
//! the order: the metadata holds the id as a leftover; then the data files, the log, both made durable; and only then (by the
//! caller) the metadata names it. A leftover was never acknowledged, or is dropped: [`sweep`] removes it, at the latest when
//! the server starts. What the metadata knows nothing of stays.

mod commit;
mod files;
mod folder;
mod insert;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod insert_tests;
mod partition;
mod stats;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
mod types;

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::DataFusionError;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::CommitProperties;
use deltalake::kernel::{Action, StructType};
use deltalake::logstore::{StorageConfig, default_logstore};
use deltalake::operations::create::CreateBuilder;
use deltalake::{DeltaTableError, ObjectStore};
use futures::{Stream, StreamExt};
use lazaret_auth::TableId;
use object_store::local::LocalFileSystem;
use parquet::errors::ParquetError;
use tokio::sync::mpsc;
use url::Url;

pub use folder::{SweepError, clear_staging, strangers, sweep};
pub use insert::{NewRows, write_rows};

use crate::lake::{LakeError, SnapshotId};
use crate::stores::Stores;
use files::{DataFiles, Written};
use folder::{Folder, Place};
use partition::Partitioning;
use types::Conversion;

/// Batches between the query and the encoder: enough that neither waits for the other's every step.
const BATCHES_IN_FLIGHT: usize = 2;

/// A table to be made.
#[derive(Clone, Debug)]
pub struct NewTable {
    /// Never used before: `CREATE OR REPLACE` of a table is another operation.
    pub id: TableId,
    /// Of the batches. What is not nullable here is NOT NULL in the table.
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
    pub comment: Option<String>,
}

/// A table that is there, durable, and not yet in the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTable {
    /// A `file:///…/` URL.
    pub location: String,
    pub version: SnapshotId,
    pub rows: u64,
    /// Of the table, which is not always that of the query.
    pub schema: SchemaRef,
}

/// Why nothing was written; nothing of it is left. Texts name columns and types, never values or paths.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("a table needs at least one column")]
    NoColumns,
    #[error("column name \"{column}\" cannot be stored in a Delta table: {reason}; give the column an alias")]
    ColumnName { column: String, reason: String },
    #[error("column \"{column}\" has the type {data_type}, which a Delta table cannot hold; cast it to another")]
    UnsupportedType { column: String, data_type: DataType },
    #[error("column \"{column}\" holds a value of the type {from} that {to} cannot hold exactly; cast or round it")]
    Inexact { column: String, from: DataType, to: DataType },
    #[error("column \"{column}\" is NOT NULL but holds NULL")]
    NullValue { column: String },
    #[error("the table cannot be partitioned by \"{column}\": {reason}")]
    Partition { column: String, reason: &'static str },
    #[error("the rows would lie in more than {limit} partitions")]
    TooManyPartitions { limit: usize },
    /// The query failed.
    #[error(transparent)]
    Query(#[from] DataFusionError),
    #[error("the query's batches do not fit its schema: {0}")]
    Batch(String),
    #[error("table {0} is already there")]
    Exists(TableId),
    #[error("cannot {doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot encode a data file")]
    Parquet(#[from] ParquetError),
    #[error("cannot write the table's log")]
    Log(#[from] Box<DeltaTableError>),
    #[error("the table was changed by another writer while the statement ran; nothing was written")]
    Changed,
    #[error("too many others wrote into the table at the same time; nothing was written")]
    Crowded,
    /// The log may name the rows, or may yet.
    #[error("the table's storage did not answer: whether the rows were written is not known")]
    Unclear(#[source] object_store::Error),
    #[error("the table's storage cannot be written")]
    Store(#[from] object_store::Error),
    #[error("the table cannot be read again")]
    Lake(#[from] LakeError),
    #[error("writing was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// Makes a Delta table of everything that the stream yields. When it returns, the table is durable; when it fails, or is
/// dropped, its folder goes.
pub async fn create_table_as<S>(stores: &Stores, table: NewTable, batches: S) -> Result<CreatedTable, WriteError>
where
    S: Stream<Item = Result<RecordBatch, DataFusionError>> + Send + Unpin,
{
    let conversion = Conversion::new(&table.schema)?;
    let partitioning = Partitioning::new(conversion.target(), &table.partition_by)?;
    let schema: StructType =
        conversion.target().as_ref().try_into_kernel().map_err(|error: arrow::error::ArrowError| WriteError::Batch(error.to_string()))?;

    let folder = Arc::new(Folder::create(stores.warehouse(), table.id).await?);
    match write_table(&folder, &table, &conversion, partitioning, schema, batches).await {
        Ok(created) => {
            folder.keep();
            Ok(created)
        }
        Err(error) => {
            folder.remove().await;
            Err(error)
        }
    }
}

async fn write_table<S>(
    folder: &Arc<Folder>,
    table: &NewTable,
    conversion: &Conversion,
    partitioning: Partitioning,
    schema: StructType,
    batches: S,
) -> Result<CreatedTable, WriteError>
where
    S: Stream<Item = Result<RecordBatch, DataFusionError>> + Send + Unpin,
{
    let place: Arc<dyn Place> = Arc::clone(folder) as _;
    let written = write_files(&place, conversion, partitioning, batches).await?;
    let location = Url::from_directory_path(folder.path())
        .map_err(|()| WriteError::Io { doing: "name the table's folder", source: std::io::ErrorKind::InvalidInput.into() })?;
    let adds = written.files.into_iter().map(|file| file.add).collect();
    write_log(folder.path(), &location, table, schema, adds).await.map_err(Box::new)?;
    folder.make_durable().await?;
    let version = SnapshotId(0);
    Ok(CreatedTable { location: location.into(), version, rows: written.rows, schema: Arc::clone(conversion.target()) })
}

/// What goes to the encoder's thread. A channel that ends without `End` was abandoned.
enum Message {
    Batch(RecordBatch),
    End,
}

async fn write_files<S>(
    place: &Arc<dyn Place>,
    conversion: &Conversion,
    partitioning: Partitioning,
    batches: S,
) -> Result<Written, WriteError>
where
    S: Stream<Item = Result<RecordBatch, DataFusionError>> + Send + Unpin,
{
    let (sender, receiver) = mpsc::channel(BATCHES_IN_FLIGHT);
    // The encoder holds the place too: nothing must be removed while files are still being made in it.
    let encoder_place = Arc::clone(place);
    let encoder = tokio::task::spawn_blocking(move || encode(encoder_place, partitioning, receiver));
    let fed = feed(sender, conversion, batches).await;
    let written = encoder.await.map_err(WriteError::Interrupted)?;
    fed?;
    written?.ok_or_else(|| WriteError::Batch("the stream was abandoned".to_owned()))
}

async fn feed<S>(encoder: mpsc::Sender<Message>, conversion: &Conversion, mut batches: S) -> Result<(), WriteError>
where
    S: Stream<Item = Result<RecordBatch, DataFusionError>> + Send + Unpin,
{
    while let Some(batch) = batches.next().await {
        let batch = conversion.convert(&batch?)?;
        // The encoder is gone only if it failed: its own error says more.
        if encoder.send(Message::Batch(batch)).await.is_err() {
            return Ok(());
        }
    }
    let _ = encoder.send(Message::End).await;
    Ok(())
}

/// `None`: abandoned.
fn encode(place: Arc<dyn Place>, partitioning: Partitioning, mut receiver: mpsc::Receiver<Message>) -> Result<Option<Written>, WriteError> {
    let mut files = DataFiles::new(place, partitioning);
    while let Some(message) = receiver.blocking_recv() {
        match message {
            Message::Batch(batch) => files.write(&batch)?,
            Message::End => return files.finish().map(Some),
        }
    }
    Ok(None)
}

/// The first and only commit: protocol, schema and all files at once.
async fn write_log(
    folder: &Path,
    location: &Url,
    table: &NewTable,
    schema: StructType,
    adds: Vec<deltalake::kernel::Add>,
) -> Result<(), DeltaTableError> {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder)?);
    let log_store = default_logstore(store, Arc::new(LocalFileSystem::new()), location, &StorageConfig::default());
    let client = format!("lazaret.{}", env!("CARGO_PKG_VERSION"));
    let mut create = CreateBuilder::new()
        .with_log_store(log_store)
        .with_columns(schema.fields().cloned())
        .with_partition_columns(table.partition_by.clone())
        .with_actions(adds.into_iter().map(Action::Add))
        .with_commit_properties(CommitProperties::default().with_metadata([("clientVersion".to_owned(), client.into())]));
    if let Some(comment) = &table.comment {
        create = create.with_comment(comment);
    }
    create.await.map(|_| ())
}
