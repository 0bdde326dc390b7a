//! The store that forgets: for tests and for `--ephemeral` uses of the crate.
pub struct MemoryStore;
