//! One scan for Delta and Iceberg. A format's module turns its metadata into a [`LakeSnapshot`]; everything after that
//! (pruning, deletes, reading) knows no format.

mod deletes;
pub mod delta;
mod evolve;
pub mod iceberg;
pub(crate) mod plain;
mod prune;
mod reader;
mod rename;
pub mod scan;
pub mod snapshot;
pub mod table;

pub use reader::FooterError;
pub use rename::{FIELD_ID_KEY, PHYSICAL_NAME_KEY};
pub use scan::{LakeTable, ScanReport};
pub use snapshot::{ColumnBounds, DeleteFile, FileBounds, LakeError, LakeFile, LakeSnapshot, PathedName, SnapshotId};
pub use table::{Lake, OpenTable, TableSource};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
