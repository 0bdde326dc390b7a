//! Tables at the version last seen. A cached table is asked again after the staleness limit, by one caller while the
//! others wait, and then with as little as finds its newest metadata file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::locate::MetadataFile;
use super::{current, read};
use crate::caches::Caches;
use crate::lake::snapshot::{LakeError, LakeSnapshot};
use crate::lake::table::{TableKey, TableSource};
use crate::stores::Stores;

/// An Iceberg table at the version last seen.
pub(crate) struct CachedVersion {
    snapshot: Arc<LakeSnapshot>,
    metadata: MetadataFile,
    checked: Mutex<Instant>,
    /// Held by the one caller that asks the store, while the others wait.
    asking: tokio::sync::Mutex<()>,
}

impl CachedVersion {
    fn new(snapshot: Arc<LakeSnapshot>, metadata: MetadataFile, checked: Instant) -> Self {
        Self { snapshot, metadata, checked: Mutex::new(checked), asking: tokio::sync::Mutex::default() }
    }

    /// Bytes held, for the cache.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.snapshot.memory_bytes()
    }

    fn is_fresh(&self, staleness: Duration) -> bool {
        self.checked.lock().elapsed() < staleness
    }
}

pub(super) async fn load(stores: &Arc<Stores>, caches: &Arc<Caches>, source: &TableSource) -> Result<Arc<LakeSnapshot>, LakeError> {
    let key = TableKey { id: source.id, location: source.location.as_str().into() };
    let (cache, staleness) = (&caches.iceberg_snapshots, caches.limits.staleness);
    let first = async {
        let asked = Instant::now();
        let metadata = current(stores, &source.location).await?;
        let snapshot = read(stores, caches, &metadata).await?;
        Ok(Arc::new(CachedVersion::new(snapshot, metadata, asked)))
    };
    let known = cache.get_with(key.clone(), first).await.map_err(LakeError::shared)?;
    if known.is_fresh(staleness) {
        return Ok(Arc::clone(&known.snapshot));
    }

    let _one = known.asking.lock().await;
    let cached = cache.get(&key).await.unwrap_or_else(|| Arc::clone(&known));
    if cached.is_fresh(staleness) {
        return Ok(Arc::clone(&cached.snapshot));
    }
    let asked = Instant::now();
    let metadata = current(stores, &source.location).await?;
    if metadata == cached.metadata {
        *cached.checked.lock() = asked;
        return Ok(Arc::clone(&cached.snapshot));
    }
    let snapshot = read(stores, caches, &metadata).await?;
    cache.insert(key, Arc::new(CachedVersion::new(Arc::clone(&snapshot), metadata, asked))).await;
    Ok(snapshot)
}
