//! From a name to a governed table: the metadata store, the lake formats and their one scan, the caches, and the
//! policy below the optimizer. Nothing here hands out a table to anyone without a `Grant`.

pub mod caches;
pub mod delegated;
pub mod dialect;
pub mod governed;
pub mod lake;
pub mod meta;
pub mod namespace;
pub mod stores;
pub mod write;
