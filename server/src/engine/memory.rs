//! The memory of one query: a share of the server's pool, with a limit of its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

use crate::error::{Error, ErrorKind};

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

/// What a value may need without being counted: less than the batches that are under way anyway.
const UNCOUNTED_BYTES: usize = 1 << 20;

/// Of all constants together that are worked out while a statement is planned. They stay in its plan, where no pool counts
/// them. What is larger is left to the run where it can be.
const PLANNED_BYTES: usize = 16 << 20;

/// What the functions of one statement may take of its memory.
#[derive(Debug)]
pub struct Budget {
    pool: Arc<dyn MemoryPool>,
    limit_bytes: usize,
    running: AtomicBool,
    planned_bytes: AtomicUsize,
    is_overdrawn: AtomicBool,
}

impl Budget {
    pub fn new(server: Arc<dyn MemoryPool>, limit_bytes: usize) -> Self {
        let pool = Arc::new(QueryPool::new(server, limit_bytes));
        Self {
            pool,
            limit_bytes,
            running: AtomicBool::new(false),
            planned_bytes: AtomicUsize::new(0),
            is_overdrawn: AtomicBool::new(false),
        }
    }

    /// The memory of the query that begins to run.
    pub fn run(&self) -> Arc<dyn MemoryPool> {
        self.running.store(true, Ordering::Relaxed);
        Arc::clone(&self.pool)
    }

    /// Sets aside what a function is about to allocate, until it has.
    pub fn hold(&self, consumer: &str, bytes: usize) -> Result<Option<MemoryReservation>> {
        if bytes <= self.limit_bytes && bytes > PLANNED_BYTES && self.is_planning() {
            return Err(too_large());
        }
        if bytes <= UNCOUNTED_BYTES.min(self.limit_bytes) {
            return Ok(None);
        }
        let reservation = MemoryConsumer::new(consumer).register(&self.pool);
        reservation.try_grow(bytes)?;
        Ok(Some(reservation))
    }

    /// Counts a result that planning keeps.
    pub fn keep(&self, bytes: impl FnOnce() -> usize) -> Result<()> {
        if !self.is_planning() {
            return Ok(());
        }
        let bytes = bytes();
        let grown = |planned: usize| planned.checked_add(bytes).filter(|planned| *planned <= PLANNED_BYTES);
        self.planned_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).map(drop).map_err(|_| {
            self.is_overdrawn.store(true, Ordering::Relaxed);
            too_large()
        })
    }

    /// Whether planning stayed within its bounds: an optimizer that meets an error leaves the constant as it is, for each
    /// batch to make anew.
    pub fn check_planned(&self) -> Result<()> {
        if self.is_overdrawn.load(Ordering::Relaxed) { Err(too_large()) } else { Ok(()) }
    }

    fn is_planning(&self) -> bool {
        !self.running.load(Ordering::Relaxed)
    }
}

fn too_large() -> DataFusionError {
    let text = format!("the constants of the statement come to more than {PLANNED_BYTES} bytes: give them as parameters");
    DataFusionError::External(Box::new(Error::new(ErrorKind::Exhausted, text)))
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

    #[test]
    fn a_function_is_held_to_the_limit_and_constants_all_together_to_another() {
        let server: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 30));
        let budget = Budget::new(Arc::clone(&server), 64 << 20);
        assert!(budget.hold("repeat", 1000).unwrap().is_none());
        assert!(budget.hold("repeat", 32 << 20).unwrap_err().to_string().contains("constants"));
        let budget = Budget::new(Arc::clone(&server), 64 << 20);
        for _ in 0..16 {
            budget.keep(|| 1 << 20).unwrap();
        }
        assert!(budget.keep(|| 1).unwrap_err().to_string().contains("constants"), "small ones count too");
        assert!(budget.keep(|| 0).is_ok(), "what was refused does not count");
        assert!(budget.check_planned().is_err());
        let text = budget.hold("repeat", usize::MAX).unwrap_err().to_string();
        assert!(text.contains("query_memory_bytes (67108864)"), "{text}");
        let pool = budget.run();
        budget.keep(|| 1 << 30).unwrap();
        let held = budget.hold("repeat", 40 << 20).unwrap();
        assert_eq!(pool.reserved(), 40 << 20);
        assert!(budget.hold("lpad", 40 << 20).is_err(), "both together are too much");
        drop(held);
        assert_eq!((pool.reserved(), server.reserved()), (0, 0));
    }
}
