//! Metrics that the components keep themselves.

use std::sync::Arc;

use lazaret_catalog::caches::{CacheStats, Caches};
use lazaret_catalog::meta::Metadata;
use lazaret_catalog::stores::Stores;

use crate::audit::AuditLog;
use crate::emergency::open_ones;
use crate::session::Sessions;
use crate::telemetry::{Metrics, Sample};

pub fn of_audit(metrics: &Metrics, audit: &AuditLog) {
    let audit = audit.clone();
    metrics.add_source(move |out| {
        let healthy = float(u64::from(audit.healthy()));
        out.gauge("lazaret_audit_healthy", "Whether the audit can be written; 0: no statement runs.", &[Sample::plain(healthy)]);
    });
}

pub fn of_sessions(metrics: &Metrics, sessions: Arc<Sessions>) {
    metrics.add_source(move |out| {
        let open = u64::try_from(sessions.list().len()).unwrap_or(u64::MAX);
        out.gauge("lazaret_sessions", "Sessions that are open.", &[Sample::plain(float(open))]);
    });
}

pub fn of_emergencies(metrics: &Metrics, metadata: &Arc<Metadata>) {
    let metadata = Arc::clone(metadata);
    metrics.add_source(move |out| {
        let open = u64::try_from(open_ones(&metadata.current()).count()).unwrap_or(u64::MAX);
        out.gauge("lazaret_emergency_accesses", "Emergency accesses that are in force.", &[Sample::plain(float(open))]);
    });
}

pub fn of_caches(metrics: &Metrics, caches: &Arc<Caches>) {
    let caches = Arc::clone(caches);
    metrics.add_source(move |out| {
        let stats = caches.stats();
        let each = |value: fn(&CacheStats) -> u64| -> Vec<Sample> {
            stats.iter().map(|cache| Sample::labelled(&[("cache", cache.name)], float(value(cache)))).collect()
        };
        out.counter("lazaret_cache_hits_total", "Answers from a cache.", &each(|cache| cache.hits));
        out.counter("lazaret_cache_misses_total", "Answers that a cache did not have.", &each(|cache| cache.misses));
        out.counter("lazaret_cache_evictions_total", "Entries that a cache gave up for others.", &each(|cache| cache.evictions));
        out.gauge("lazaret_cache_entries", "Entries in a cache.", &each(|cache| cache.entries));
        out.gauge("lazaret_cache_bytes", "Bytes in a cache.", &each(|cache| cache.bytes));
        out.gauge("lazaret_cache_limit_bytes", "Bytes that a cache may hold.", &each(|cache| cache.limit_bytes));
    });
}

pub fn of_stores(metrics: &Metrics, stores: &Arc<Stores>) {
    let stores = Arc::clone(stores);
    metrics.add_source(move |out| {
        let requests = stores.requests();
        let kinds = [
            ("log", requests.log),
            ("manifest", requests.manifest),
            ("footer", requests.footer),
            ("data", requests.data),
            ("list", requests.list),
            ("write", requests.write),
        ];
        let samples = kinds.map(|(kind, count)| Sample::labelled(&[("kind", kind)], float(count)));
        out.counter("lazaret_store_requests_total", "Requests to object stores and local folders.", &samples);
    });
}

/// Exact up to 2^53, as Prometheus' own numbers are.
#[allow(clippy::cast_precision_loss, clippy::as_conversions)]
fn float(count: u64) -> f64 {
    count as f64
}
