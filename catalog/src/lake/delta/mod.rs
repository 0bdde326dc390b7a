//! Delta Lake: the log through the Delta kernel, into a [`LakeSnapshot`].
//!
//! The kernel blocks, so it runs on the blocking pool. A cached table is asked again after the staleness limit, by one
//! caller while the others wait, and then with one listing that starts at the version it has.

mod anchor;
mod bounds;
mod files;
mod schema;
mod target;
mod writable;

use std::sync::Arc;
use std::time::Duration;

use buoyant_kernel::snapshot::{Snapshot, SnapshotRef};
use buoyant_kernel::table_features::{ColumnMappingMode, TableFeature};
use buoyant_kernel::{Engine, Error as KernelError};
use buoyant_kernel_engine::DefaultEngineBuilder;
use buoyant_kernel_engine::executor::tokio::TokioMultiThreadExecutor;
use tokio::runtime::Handle;

use self::anchor::{Anchor, Log, Standing};
use super::scan::LakeTable;
use super::snapshot::{LakeError, LakeSnapshot, PathedName, SnapshotId};
use super::table::{Lake, TableKey, TableSource};
use crate::caches::{Held, Seen};
use crate::stores::Location;

pub use target::DeltaTarget;
pub(crate) use target::Version;

/// How often a log is read again that changed under its files' names meanwhile: a table that is made anew just now.
const ATTEMPTS: usize = 3;

/// The newest reader version that this code was written against.
const MAX_READER_VERSION: i32 = 3;

/// Reader features whose tables are read right. A variant column is refused by itself, so that a table that merely
/// may hold one can be read.
const READER_FEATURES: [&str; 9] = [
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "variantType",
    "variantType-preview",
];

/// A Delta table at the version last seen.
pub(crate) struct DeltaTable {
    table: Arc<LakeTable>,
    log: SnapshotRef,
    anchor: Anchor,
}

impl DeltaTable {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.log.estimated_owned_heap_size_bytes() + self.table.snapshot().memory_bytes()
    }
}

/// The table at its current version, from the cache if that is young enough.
pub(super) async fn open(lake: &Lake, source: &TableSource) -> Result<Arc<LakeTable>, LakeError> {
    Ok(Arc::clone(&seen(lake, source, lake.caches.limits.staleness).await?.value.table))
}

/// As it was no longer ago than `staleness`. With none, whoever opens the table from now on sees this version or a later.
async fn seen(lake: &Lake, source: &TableSource, staleness: Duration) -> Result<Arc<Held<DeltaTable>>, LakeError> {
    lake.caches.snapshots.current(TableKey::of(source), staleness, |known| load(lake, source, known)).await
}

/// `known`: a version seen before, which saves reading the log up to it.
async fn load(lake: &Lake, source: &TableSource, known: Option<Arc<Held<DeltaTable>>>) -> Result<Seen<DeltaTable>, LakeError> {
    let location = lake.stores.resolve_kept(&source.location)?;
    let log = Log::new(lake.stores.store(location.store())?, &location);
    let mut earlier = match known {
        Some(known) => match log.standing(&known.value.anchor).await? {
            Standing::Newest => return Ok(Seen::Same),
            Standing::Overtaken => Some(known),
            Standing::Gone => None,
        },
        None => None,
    };
    for _ in 0..ATTEMPTS {
        let (read, snapshot) = read(lake, &location, earlier.as_ref().map(|earlier| Arc::clone(&earlier.value.log))).await?;
        // Asked once all is read, so that nothing was read of a table that has taken this one's place.
        let earlier = earlier.take();
        let Some(anchor) = log.anchor(&read, earlier.as_ref().map(|earlier| &earlier.value.anchor)).await? else { continue };
        let Some(snapshot) = snapshot else { return Ok(Seen::Same) };
        let table = LakeTable::new(Arc::new(snapshot), Arc::clone(&lake.stores), Arc::clone(&lake.caches));
        return Ok(Seen::New(DeltaTable { table: Arc::new(table), log: read, anchor }));
    }
    Err(LakeError::Corrupt { file: format!("{location}/_delta_log"), reason: "it changes while it is read".to_owned() })
}

/// The newest version, and what it holds unless it is the `earlier` one.
async fn read(lake: &Lake, location: &Location, earlier: Option<SnapshotRef>) -> Result<(SnapshotRef, Option<LakeSnapshot>), LakeError> {
    let store = lake.stores.store(location.store())?;
    let (stores, location, handle) = (Arc::clone(&lake.stores), location.clone(), Handle::current());
    let loaded = tokio::task::spawn_blocking(move || {
        let engine = DefaultEngineBuilder::new(store).with_task_executor(Arc::new(TokioMultiThreadExecutor::new(handle))).build();
        let log = open_log(&engine, &location, earlier.as_ref())?;
        let snapshot = match earlier.is_some_and(|earlier| is_same(&earlier, &log)) {
            true => None,
            false => Some(snapshot(&engine, &log, &stores, &location)?),
        };
        Ok((log, snapshot))
    });
    // A panic in the kernel must not be one here.
    loaded.await.map_err(|error| LakeError::Internal(error.to_string()))?
}

/// A table that was made anew in the same place has another id.
fn is_same(known: &SnapshotRef, log: &SnapshotRef) -> bool {
    known.version() == log.version() && known.table_configuration().metadata().id() == log.table_configuration().metadata().id()
}

fn open_log(engine: &dyn Engine, location: &Location, known: Option<&SnapshotRef>) -> Result<SnapshotRef, LakeError> {
    if let Some(known) = known
        && let Ok(log) = Snapshot::builder_from(Arc::clone(known)).build(engine)
    {
        return Ok(log);
    }
    // Not known, or the log is not what it was: it may have been cleaned up, or the table made anew.
    Snapshot::builder_for(format!("{}/", location.url())).build(engine).map_err(|error| kernel_error(location, error))
}

fn snapshot(
    engine: &dyn Engine,
    log: &SnapshotRef,
    stores: &crate::stores::Stores,
    location: &Location,
) -> Result<LakeSnapshot, LakeError> {
    let configuration = log.table_configuration();
    check_protocol(configuration.protocol().min_reader_version(), configuration.protocol().reader_features())?;
    let naming = match configuration.column_mapping_mode() {
        ColumnMappingMode::None => PathedName::Logical,
        ColumnMappingMode::Name => PathedName::Physical,
        ColumnMappingMode::Id => PathedName::FieldId,
    };
    let schema = Arc::new(schema::arrow_schema(&log.schema(), naming != PathedName::Logical)?);
    let partition_columns = configuration.metadata().partition_columns();
    let (mut files, bounds) = files::read(engine, log, stores, location, &schema, partition_columns)?;
    let of_table = super::version(configuration.metadata().id());
    files.iter_mut().for_each(|file| file.version = of_table);
    let bounds = bounds.completed(&schema, &files);
    let version = i64::try_from(log.version()).map_err(|_| LakeError::Internal("a version beyond 63 bits".to_owned()))?;
    Ok(LakeSnapshot {
        id: SnapshotId(version),
        schema,
        naming,
        name_mapping: None,
        initial_defaults: Default::default(),
        files,
        bounds,
        outside: Default::default(),
    })
}

fn check_protocol(reader_version: i32, features: Option<&[TableFeature]>) -> Result<(), LakeError> {
    if reader_version > MAX_READER_VERSION {
        return Err(LakeError::Unsupported { feature: format!("reader version {reader_version}") });
    }
    for feature in features.unwrap_or_default() {
        let name = feature.to_string();
        if !READER_FEATURES.contains(&name.as_str()) {
            return Err(LakeError::Unsupported { feature: name });
        }
    }
    Ok(())
}

fn kernel_error(location: &Location, error: KernelError) -> LakeError {
    let log = || format!("{location}/_delta_log");
    match error {
        KernelError::Backtraced { source, .. } => kernel_error(location, *source),
        KernelError::MissingVersion | KernelError::FileNotFound(_) | KernelError::InvalidTableLocation(_) => not_a_table(location),
        // The kernel has no kind for an empty or absent log.
        KernelError::Generic(text) if text.starts_with("No files in log segment") => not_a_table(location),
        KernelError::ObjectStore(source) => LakeError::Storage { file: log(), source },
        KernelError::Unsupported(text) => {
            // `Feature 'x' is not supported`
            let feature = text.split('\'').nth(1).map_or(text.clone(), str::to_owned);
            LakeError::Unsupported { feature }
        }
        KernelError::InternalError(text) | KernelError::JoinFailure(text) => LakeError::Internal(text),
        other => LakeError::Corrupt { file: log(), reason: without_dump(&other.to_string()) },
    }
}

fn not_a_table(location: &Location) -> LakeError {
    LakeError::NotATable { format: "Delta", location: location.to_string() }
}

/// Some of the kernel's texts end in its own structures.
fn without_dump(text: &str) -> String {
    text.split_once(": ParsedLogPath").map_or(text, |(text, _)| text).to_owned()
}
