//! A Delta table to which rows are added: the version that the statement was planned on, and what may not have changed when
//! the rows are named in the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use buoyant_kernel::snapshot::SnapshotRef;
use buoyant_kernel_engine::DefaultEngineBuilder;
use buoyant_kernel_engine::executor::tokio::TokioMultiThreadExecutor;
use datafusion::catalog::TableProvider;
use object_store::path::Path;
use tokio::runtime::Handle;

use super::{DeltaTable, writable};
use crate::caches::Held;
use crate::lake::scan::LakeTable;
use crate::lake::snapshot::{DeleteFile, LakeError, LakeFile, LakeSnapshot, SnapshotId};
use crate::lake::table::{Lake, TableSource};
use crate::stores::{Location, Stores};

/// Versions from one checkpoint to the next where the table does not say: Delta's own default.
const CHECKPOINT_INTERVAL: u64 = 10;

/// A table that may be added to, at the version last seen.
#[derive(Clone)]
pub struct DeltaTarget {
    source: TableSource,
    location: Location,
    planned: Arc<Held<DeltaTable>>,
}

/// A later version of a target's table.
pub(crate) struct Version(Arc<Held<DeltaTable>>);

impl DeltaTarget {
    pub async fn open(lake: &Lake, source: &TableSource) -> Result<Self, LakeError> {
        let location = lake.stores.resolve_kept(&source.location)?;
        let planned = super::seen(lake, source, lake.caches.limits.staleness).await?;
        let configuration = planned.value.log.table_configuration();
        writable::check(configuration.protocol(), configuration.metadata())?;
        Ok(Self { source: source.clone(), location, planned })
    }

    /// The table's columns, as its files have them.
    pub fn schema(&self) -> &SchemaRef {
        &self.planned.value.table.snapshot().schema
    }

    pub fn partition_columns(&self) -> Vec<String> {
        self.planned.value.log.table_configuration().metadata().partition_columns().to_vec()
    }

    pub fn version(&self) -> SnapshotId {
        self.planned.value.table.snapshot().id
    }

    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    /// The table without a row.
    pub fn empty(&self, lake: &Lake) -> Arc<dyn TableProvider> {
        Arc::new(self.with_files(Vec::new(), lake))
    }

    /// Only these files, as the table's own.
    pub(crate) fn with_files(&self, files: Vec<LakeFile>, lake: &Lake) -> LakeTable {
        let known = self.planned.value.table.snapshot();
        let snapshot = LakeSnapshot {
            id: known.id,
            schema: Arc::clone(&known.schema),
            naming: known.naming,
            name_mapping: None,
            initial_defaults: Default::default(),
            files,
            bounds: Default::default(),
            outside: Default::default(),
        };
        LakeTable::new(Arc::new(snapshot), Arc::clone(lake.stores()), Arc::clone(lake.caches()))
    }

    /// The newest version there is. Whoever opens the table from now on sees it, or a later one.
    pub(crate) async fn newest(&self, lake: &Lake) -> Result<Version, LakeError> {
        Ok(Version(super::seen(lake, &self.source, Duration::ZERO).await?))
    }

    /// Whether schema, properties and protocol are those that the rows were made for.
    pub(crate) fn still_fits(&self, version: &Version) -> bool {
        let (planned, now) = (self.planned.value.log.table_configuration(), version.0.value.log.table_configuration());
        planned.protocol() == now.protocol() && planned.metadata() == now.metadata()
    }

    /// Whether some file that was there when the statement was planned is there no more.
    pub(crate) fn lost_files(&self, version: &Version) -> bool {
        let files = |table: &DeltaTable| -> HashSet<(Path, Vec<DeleteFile>)> {
            table.table.snapshot().files.iter().map(|file| (file.path.clone(), file.deletes.clone())).collect()
        };
        version.number() != self.planned.value.log.version() && !files(&self.planned.value).is_subset(&files(&version.0.value))
    }
}

impl Version {
    pub(crate) fn number(&self) -> u64 {
        self.0.value.log.version()
    }

    /// Sums up the log where a checkpoint is due, so that readers need not replay all of it. Nothing depends on it.
    pub(crate) async fn checkpoint_if_due(&self, stores: &Stores, location: &Location) {
        let log = Arc::clone(&self.0.value.log);
        let configuration = log.table_configuration();
        let interval = configuration.metadata().configuration().get("delta.checkpointInterval").and_then(|text| text.parse().ok());
        let interval = interval.filter(|interval| *interval > 0).unwrap_or(CHECKPOINT_INTERVAL);
        let features = configuration.protocol().writer_features().unwrap_or_default();
        let has_rules = features.iter().any(|feature| ["v2Checkpoint", "checkpointProtection"].contains(&feature.to_string().as_str()));
        if !log.version().is_multiple_of(interval) || has_rules {
            return;
        }
        let Ok(store) = stores.store(location.store()) else { return };
        let handle = Handle::current();
        let made = tokio::task::spawn_blocking(move || {
            let engine = DefaultEngineBuilder::new(store).with_task_executor(Arc::new(TokioMultiThreadExecutor::new(handle))).build();
            make_checkpoint(&log, &engine)
        });
        match made.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, table = location.url(), "a checkpoint could not be made"),
            Err(error) => tracing::warn!(%error, table = location.url(), "a checkpoint could not be made"),
        }
    }
}

fn make_checkpoint(log: &SnapshotRef, engine: &dyn buoyant_kernel::Engine) -> Result<(), buoyant_kernel::Error> {
    log.checkpoint(engine, None).map(|_| ())
}
