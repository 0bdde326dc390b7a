//! The memory of one query: a share of the server's pool, with a limit of its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// Counts what one query holds and passes every request on to the server's pool.
#[derive(Debug)]
pub struct QueryPool {
    parent: Arc<dyn MemoryPool>,
    limit_bytes: usize,
    used: AtomicUsize,
}

impl QueryPool {
    pub fn new(parent: Arc<dyn MemoryPool>, limit_bytes: usize) -> Self {
        Self { parent, limit_bytes, used: AtomicUsize::new(0) }
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query(limit: {} bytes)", self.limit_bytes)
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.parent.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.parent.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
        self.parent.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
        self.parent.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(additional).filter(|total| *total <= self.limit_bytes)
            })
            .map_err(|_| DataFusionError::ResourcesExhausted(format!("query_memory_bytes ({})", self.limit_bytes)))?;
        self.parent.try_grow(reservation, additional).inspect_err(|_| {
            self.used.fetch_sub(additional, Ordering::Relaxed);
        })
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit_bytes)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn a_query_is_stopped_at_its_own_limit_and_gives_everything_back() {
        let server: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1_000));
        let query: Arc<dyn MemoryPool> = Arc::new(QueryPool::new(Arc::clone(&server), 100));
        let reservation = MemoryConsumer::new("sort").register(&query);
        reservation.try_grow(80).unwrap();
        assert!(reservation.try_grow(21).unwrap_err().to_string().contains("query_memory_bytes (100)"));
        assert_eq!(server.reserved(), 80);
        drop(reservation);
        assert_eq!((server.reserved(), query.reserved()), (0, 0));
    }

    #[test]
    fn what_the_server_refuses_is_not_counted() {
        let server: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(50));
        let query: Arc<dyn MemoryPool> = Arc::new(QueryPool::new(Arc::clone(&server), 100));
        let reservation = MemoryConsumer::new("sort").register(&query);
        assert!(reservation.try_grow(60).is_err());
        assert_eq!(query.reserved(), 0);
    }
}
