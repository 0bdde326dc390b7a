//! Tables at the version last seen.

use std::sync::Arc;

use super::locate::MetadataFile;
use super::{current, read};
use crate::caches::{Held, Seen};
use crate::lake::scan::LakeTable;
use crate::lake::snapshot::LakeError;
use crate::lake::table::{Lake, TableKey, TableSource};

/// An Iceberg table at the version last seen.
pub(crate) struct IcebergTable {
    table: Arc<LakeTable>,
    metadata: MetadataFile,
}

impl IcebergTable {
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.table.snapshot().memory_bytes()
    }
}

/// The table at its current version, from the cache if that is young enough.
pub(crate) async fn open(lake: &Lake, source: &TableSource) -> Result<Arc<LakeTable>, LakeError> {
    let staleness = lake.caches.limits.staleness;
    let held = lake.caches.iceberg_snapshots.current(TableKey::of(source), staleness, |known| load(lake, source, known)).await?;
    Ok(Arc::clone(&held.value.table))
}

/// With as little as finds the newest metadata file, where that is the one `known`.
async fn load(lake: &Lake, source: &TableSource, known: Option<Arc<Held<IcebergTable>>>) -> Result<Seen<IcebergTable>, LakeError> {
    let metadata = current(&lake.stores, &source.location).await?;
    if known.is_some_and(|known| known.value.metadata == metadata) {
        return Ok(Seen::Same);
    }
    let snapshot = read(&lake.stores, &lake.caches, &metadata).await?;
    let table = LakeTable::new(snapshot, Arc::clone(&lake.stores), Arc::clone(&lake.caches));
    Ok(Seen::New(IcebergTable { table: Arc::new(table), metadata }))
}
