//! The store that forgets: for tests and for uses of the crate that keep nothing.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::entity::Entity;
use super::state::State;
use super::store::{Change, MetadataStore, StoreError};

#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<Arc<State>>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl MetadataStore for MemoryStore {
    async fn load(&self) -> Result<(u64, Vec<Entity>), StoreError> {
        let state = Arc::clone(&self.state.lock());
        Ok((state.epoch(), state.entities()))
    }

    async fn commit(&self, base_epoch: u64, changes: &[Change]) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if state.epoch() != base_epoch {
            return Err(StoreError::Stale { expected: base_epoch, found: state.epoch() });
        }
        *state = Arc::new(state.apply(changes).map_err(|error| StoreError::Conflict(Box::new(error)))?);
        Ok(())
    }
}
