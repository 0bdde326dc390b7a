//! Adding rows to a Delta table that is there: the data files first, in their place and durable, and then one version of the
//! log that names them all. Files that no version names are seen by nobody.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use deltalake::kernel::Add;
use futures::{Stream, StreamExt, stream};
use lazaret_auth::TableId;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::{Path, PathPart};
use parking_lot::Mutex;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, copy};
use tokio::runtime::Handle;

use super::commit::Commit;
use super::files::DataFile;
use super::folder::{Additions, Folder, Place};
use super::partition::Partitioning;
use super::types::Conversion;
use super::{WriteError, write_files};
use crate::lake::{DeltaTarget, Lake, LakeError, LakeFile};

/// Of one part of an upload: S3 takes none below 5 MiB but the last, and 10,000 of them.
const PART_BYTES: usize = 16 << 20;

/// Files without rows in the log yet. Dropped, they go.
pub struct NewRows {
    files: Vec<DataFile>,
    rows: u64,
    partition_by: Vec<String>,
    kept: Keeper,
}

/// Who removes the files unless they are named.
enum Keeper {
    Local(Arc<Additions>),
    Remote(Uploads),
}

/// Everything that the stream yields, in files of the table. The batches have the table's columns, in order and type.
pub async fn write_rows<S>(lake: &Lake, target: &DeltaTarget, batches: S) -> Result<NewRows, WriteError>
where
    S: Stream<Item = Result<RecordBatch, DataFusionError>> + Send + Unpin,
{
    let partition_by = target.partition_columns();
    let conversion = Conversion::into(target.schema());
    let partitioning = Partitioning::new(target.schema(), &partition_by)?;
    let Some(folder) = target.location().local_path() else {
        // Parquet is encoded to a file of the server's own first: a folder that goes in any case.
        let staging = Arc::new(Folder::create(&lake.stores().staging(), TableId::generate()).await?);
        let place: Arc<dyn Place> = Arc::clone(&staging) as _;
        let written = write_files(&place, &conversion, partitioning, batches).await?;
        let uploads = Uploads::new(lake, target)?;
        uploads.send(staging.as_ref(), &written.files).await?;
        return Ok(NewRows { files: written.files, rows: written.rows, partition_by, kept: Keeper::Remote(uploads) });
    };
    let additions = Arc::new(Additions::new(folder));
    let place: Arc<dyn Place> = Arc::clone(&additions) as _;
    let written = write_files(&place, &conversion, partitioning, batches).await?;
    additions.make_durable().await?;
    Ok(NewRows { files: written.files, rows: written.rows, partition_by, kept: Keeper::Local(additions) })
}

impl NewRows {
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// These rows alone, as a table of the target's columns: what its readers will read.
    pub fn as_table(&self, lake: &Lake, target: &DeltaTarget) -> Arc<dyn TableProvider> {
        let location = target.location();
        let file = |file: &DataFile| LakeFile {
            store: Arc::clone(location.store()),
            path: in_table(location.path(), &file.add),
            size_bytes: u64::try_from(file.add.size).unwrap_or(0),
            version: 0,
            shape: None,
            rows: Some(file.rows),
            constants: Arc::clone(&file.constants),
            deletes: Vec::new(),
        };
        Arc::new(target.with_files(self.files.iter().map(file).collect(), lake))
    }

    /// Names the rows in the log, once. `reads_target`: they were made from rows of the table itself.
    pub async fn commit(self, lake: &Arc<Lake>, target: &DeltaTarget, reads_target: bool) -> Result<u64, WriteError> {
        if self.files.is_empty() {
            return Ok(0);
        }
        let adds = self.files.iter().map(|file| file.add.clone()).collect();
        let commit = Commit::of(adds, self.rows, &self.partition_by, reads_target)?;
        match commit.make(lake, target, reads_target).await {
            Ok(version) => {
                self.kept.keep();
                let (lake, location) = (Arc::clone(lake), target.location().clone());
                tokio::spawn(async move { version.checkpoint_if_due(lake.stores(), &location).await });
                Ok(self.rows)
            }
            Err(error) => {
                // The log may name them yet.
                if matches!(error, WriteError::Unclear(_) | WriteError::Interrupted(_)) {
                    self.kept.keep();
                }
                Err(error)
            }
        }
    }
}

impl Keeper {
    fn keep(&self) {
        match self {
            Self::Local(additions) => additions.keep(),
            Self::Remote(uploads) => uploads.sent.lock().clear(),
        }
    }
}

fn in_table(table: &Path, add: &Add) -> Path {
    // Names of ours hold nothing that would be encoded.
    table.parts().chain([PathPart::from(add.path.as_str())]).collect()
}

/// Objects that were made, and go with this.
struct Uploads {
    store: Arc<dyn ObjectStore>,
    table: Path,
    sent: Mutex<Vec<Path>>,
}

impl Uploads {
    fn new(lake: &Lake, target: &DeltaTarget) -> Result<Self, WriteError> {
        let store = lake.stores().store(target.location().store()).map_err(LakeError::from)?;
        Ok(Self { store, table: target.location().path().clone(), sent: Mutex::default() })
    }

    async fn send(&self, staging: &Folder, files: &[DataFile]) -> Result<(), WriteError> {
        let io = |source| WriteError::Io { doing: "upload a data file", source };
        for file in files {
            let path = in_table(&self.table, &file.add);
            self.sent.lock().push(path.clone());
            let mut local = File::open(staging.path().join(&file.add.path)).await.map_err(io)?;
            let mut remote = BufWriter::with_capacity(Arc::clone(&self.store), path, PART_BYTES);
            let sent = match copy(&mut local, &mut remote).await {
                Ok(_) => remote.shutdown().await,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                let _ = remote.abort().await;
                return Err(io(error));
            }
        }
        Ok(())
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        let sent = std::mem::take(self.sent.get_mut());
        if let (false, Ok(runtime)) = (sent.is_empty(), Handle::try_current()) {
            let store = Arc::clone(&self.store);
            runtime.spawn(async move {
                let mut removed = store.delete_stream(stream::iter(sent.into_iter().map(Ok)).boxed());
                while let Some(outcome) = removed.next().await {
                    if let Err(error) = outcome {
                        tracing::warn!(%error, "an unused data file stays");
                    }
                }
            });
        }
    }
}
