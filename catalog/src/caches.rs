//! The caches, all moka: single-flight, weighted by bytes, keyed by content identity.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::future::Cache;
use moka::notification::RemovalCause;
use object_store::path::Path;
use parking_lot::Mutex;
use roaring::RoaringTreemap;

use crate::lake::beyond::Chunk;
use crate::lake::delta::DeltaTable;
use crate::lake::hot::Footer;
use crate::lake::iceberg::{DeleteFileKey, IcebergTable, KeySet, KeySetKey, Manifest, ManifestKey, PositionDeletes};
use crate::lake::plain::PlainTable;
use crate::lake::table::TableKey;
use crate::lake::{DeleteFile, LakeError};
use crate::stores::Identity;

/// For how long a table's current version is taken on trust before the log is listed again. One second is below what
/// a dashboard notices and takes the listing out of the way of a burst of queries.
pub const DEFAULT_STALENESS: Duration = Duration::from_secs(1);

/// How long ago a plain file on this machine must have changed for a further change to show: file systems keep the time by a
/// clock that may stand still for hundredths of a second, and set it when a write begins, which may take seconds.
const SETTLED: Duration = Duration::from_secs(10);

/// `snapshot_bytes` is divided in sixteenths: these for Iceberg's snapshots, and for its manifests, which serve the next
/// version of a table.
const ICEBERG_SHARE: u64 = 4;
const MANIFESTS_SHARE: u64 = 2;

/// And this for each of four that stay small: listings of plain files, and three kinds of deleted rows. Delta's snapshots
/// have what is left, six.
const SMALL_SHARE: u64 = 1;

/// Sizes, in bytes.
#[derive(Clone, Debug)]
pub struct CacheLimits {
    pub footer_bytes: u64,
    pub snapshot_bytes: u64,
    pub data_bytes: u64,
    /// For how long a table's version may be served without asking its store again.
    pub staleness: Duration,
    /// For how long a plain local file must be as it is for anything of it to be kept.
    pub settled: Duration,
}

/// Of tests and benches in process; a server has those of its configuration.
impl Default for CacheLimits {
    fn default() -> Self {
        Self { footer_bytes: 256 << 20, snapshot_bytes: 512 << 20, data_bytes: 1 << 30, staleness: DEFAULT_STALENESS, settled: SETTLED }
    }
}

/// One line of `system.caches`.
#[derive(Clone, Debug)]
pub struct CacheStats {
    pub name: &'static str,
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
    pub entries: u64,
    pub bytes: u64,
    pub limit_bytes: u64,
}

pub struct Caches {
    pub(crate) limits: CacheLimits,
    /// Parquet footers with their page index, renamed to a table's schema.
    pub(crate) footers: Cached<FooterKey, Arc<Footer>>,
    /// Delta tables at their current version, with their file index.
    pub(crate) snapshots: Cached<TableKey, Arc<Held<DeltaTable>>>,
    /// Folders of plain files as last listed.
    pub(crate) listings: Cached<TableKey, Arc<Held<PlainTable>>>,
    /// Iceberg tables at their current version, with their file index.
    pub(crate) iceberg_snapshots: Cached<TableKey, Arc<Held<IcebergTable>>>,
    /// Iceberg's manifests, decoded.
    pub(crate) manifests: Cached<ManifestKey, Arc<Manifest>>,
    /// Iceberg's position delete files, decoded.
    pub(crate) position_deletes: Cached<DeleteFileKey, Arc<PositionDeletes>>,
    /// Iceberg's equality delete files, decoded.
    pub(crate) equality_keys: Cached<KeySetKey, Arc<KeySet>>,
    /// Which rows of a data file are gone.
    pub(crate) deletes: Cached<DeleteFile, Arc<RoaringTreemap>>,
    /// Bytes of data files on remote stores, hot column chunks as they are when decompressed, and bloom filters.
    pub(crate) ranges: Cached<RangeKey, Bytes>,
}

/// What a cache can take, as of a moment ago.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Without another value's going.
    pub free_bytes: u64,
    pub limit_bytes: u64,
}

/// Where a footer is looked for, which has the identity of the object that it was read from; and the schema that it was renamed
/// to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FooterKey {
    pub store: Arc<str>,
    pub path: Path,
    pub size_bytes: u64,
    pub version: u64,
    pub naming: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RangeKey {
    pub store: Arc<str>,
    pub path: Path,
    pub size_bytes: u64,
    pub version: u64,
    /// Of the object that they were read from, where it can be told: another may have come under the name.
    pub identity: Option<Identity>,
    pub start: u64,
    pub end: u64,
    /// What these bytes are after decompression, as this column chunk.
    pub decompressed: Option<Chunk>,
}

impl Caches {
    pub fn new(limits: CacheLimits) -> Self {
        let share = |sixteenths| limits.snapshot_bytes / 16 * sixteenths;
        let (iceberg, manifests, small) = (share(ICEBERG_SHARE), share(MANIFESTS_SHARE), share(SMALL_SHARE));
        let delta = limits.snapshot_bytes - iceberg - manifests - 4 * small;
        Self {
            footers: Cached::new("footers", limits.footer_bytes, |key: &FooterKey, footer: &Arc<Footer>| {
                footer.memory_bytes() + key.path.as_ref().len()
            }),
            snapshots: Cached::new("snapshots", delta, |_, held: &Arc<Held<DeltaTable>>| held.value.memory_bytes()),
            listings: Cached::new("listings", small, |_, held: &Arc<Held<PlainTable>>| held.value.memory_bytes()),
            iceberg_snapshots: Cached::new("iceberg_snapshots", iceberg, |_, held: &Arc<Held<IcebergTable>>| held.value.memory_bytes()),
            manifests: Cached::new("manifests", manifests, |_, manifest: &Arc<Manifest>| manifest.weight()),
            position_deletes: Cached::new("position_deletes", small, |_, deletes: &Arc<PositionDeletes>| deletes.weight()),
            equality_keys: Cached::new("equality_deletes", small, |_, keys: &Arc<KeySet>| keys.weight()),
            deletes: Cached::new("deletes", small, |_, rows: &Arc<RoaringTreemap>| rows.serialized_size()),
            ranges: Cached::new("data", limits.data_bytes, |key: &RangeKey, bytes: &Bytes| bytes.len() + key.path.as_ref().len()),
            limits,
        }
    }

    /// How many hot column chunks are held.
    #[cfg(test)]
    pub(crate) async fn hot_chunks(&self) -> usize {
        self.ranges.cache.run_pending_tasks().await;
        self.ranges.cache.iter().filter(|(key, _)| key.decompressed.is_some()).count()
    }

    pub fn stats(&self) -> Vec<CacheStats> {
        vec![
            self.footers.stats(),
            self.snapshots.stats(),
            self.listings.stats(),
            self.iceberg_snapshots.stats(),
            self.manifests.stats(),
            self.position_deletes.stats(),
            self.equality_keys.stats(),
            self.deletes.stats(),
            self.ranges.stats(),
        ]
    }
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caches").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A moka cache that counts.
pub(crate) struct Cached<K, V> {
    name: &'static str,
    limit_bytes: u64,
    cache: Cache<K, V>,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: Arc<AtomicU64>,
}

impl<K, V> Cached<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// `weight` is in bytes.
    pub(crate) fn new(name: &'static str, limit_bytes: u64, weight: impl Fn(&K, &V) -> usize + Send + Sync + 'static) -> Self {
        let evictions = Arc::new(AtomicU64::new(0));
        let evicted = Arc::clone(&evictions);
        let cache = Cache::builder()
            .max_capacity(limit_bytes)
            .weigher(move |key, value| u32::try_from(weight(key, value)).unwrap_or(u32::MAX))
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    evicted.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self { name, limit_bytes, cache, hits: AtomicU64::new(0), misses: AtomicU64::new(0), evictions }
    }

    /// The value, loaded by one caller while the others wait. An error is not kept: the next caller tries again.
    pub(crate) async fn get_with<E>(&self, key: K, load: impl Future<Output = Result<V, E>>) -> Result<V, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        let entry = self.cache.entry(key).or_try_insert_with(load).await?;
        self.count(!entry.is_fresh());
        Ok(entry.into_value())
    }

    pub(crate) async fn get(&self, key: &K) -> Option<V> {
        let value = self.cache.get(key).await;
        self.count(value.is_some());
        value
    }

    pub(crate) async fn insert(&self, key: K, value: V) {
        self.cache.insert(key, value).await;
    }

    pub(crate) async fn remove(&self, key: &K) {
        self.cache.invalidate(key).await;
    }

    pub(crate) fn room(&self) -> Room {
        Room { free_bytes: self.limit_bytes.saturating_sub(self.cache.weighted_size()), limit_bytes: self.limit_bytes }
    }

    fn count(&self, hit: bool) {
        if hit { &self.hits } else { &self.misses }.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats {
            name: self.name,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            entries: self.cache.entry_count(),
            bytes: self.cache.weighted_size(),
            limit_bytes: self.limit_bytes,
        }
    }
}

/// Something that stands in a store and may change there, as last seen.
pub(crate) struct Held<T> {
    pub value: T,
    checked: Mutex<Instant>,
    /// Held by the one caller that asks the store, while the others wait. It goes on to what is seen next, so that what
    /// was seen earlier never takes the place of what was seen later.
    asking: Arc<tokio::sync::Mutex<()>>,
}

/// What asking the store again found.
pub(crate) enum Seen<T> {
    Same,
    New(T),
}

impl<T> Held<T> {
    fn new(value: T, asked: Instant) -> Arc<Self> {
        Arc::new(Self { value, checked: Mutex::new(asked), asking: Arc::default() })
    }

    fn is_fresh(&self, staleness: Duration) -> bool {
        self.checked.lock().elapsed() < staleness
    }
}

impl<K, T> Cached<K, Arc<Held<T>>>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// What was seen no longer ago than `staleness`, or else what `look` sees now, given what was seen before.
    pub(crate) async fn current<F>(
        &self,
        key: K,
        staleness: Duration,
        look: impl Fn(Option<Arc<Held<T>>>) -> F,
    ) -> Result<Arc<Held<T>>, LakeError>
    where
        F: Future<Output = Result<Seen<T>, LakeError>>,
    {
        let first = async {
            let asked = Instant::now();
            match look(None).await? {
                Seen::New(value) => Ok(Held::new(value, asked)),
                Seen::Same => Err(LakeError::Internal("nothing was seen before".to_owned())),
            }
        };
        let first = self.get_with(key.clone(), first).await.map_err(LakeError::shared)?;
        if first.is_fresh(staleness) {
            return Ok(first);
        }
        let _one = first.asking.lock().await;
        // Another caller may have looked meanwhile.
        let held = self.cache.get(&key).await.unwrap_or_else(|| Arc::clone(&first));
        if held.is_fresh(staleness) {
            return Ok(held);
        }
        let asked = Instant::now();
        match look(Some(Arc::clone(&held))).await? {
            Seen::Same => {
                *held.checked.lock() = asked;
                Ok(held)
            }
            Seen::New(value) => {
                let new = Arc::new(Held { value, checked: Mutex::new(asked), asking: Arc::clone(&held.asking) });
                self.cache.insert(key, Arc::clone(&new)).await;
                Ok(new)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caches_hold_no_more_than_is_configured() {
        for snapshot_bytes in [0, 7, 100, (512 << 20) + 3] {
            let limits = CacheLimits { footer_bytes: 11, snapshot_bytes, data_bytes: 13, ..CacheLimits::default() };
            let stats = Caches::new(limits).stats();
            assert_eq!(stats.iter().map(|cache| cache.limit_bytes).sum::<u64>(), 11 + snapshot_bytes + 13);
        }
    }
}
