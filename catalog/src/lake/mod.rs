//! One scan for Delta and Iceberg. A format's module turns its metadata into a [`LakeSnapshot`]; everything after that
//! (pruning, deletes, reading) knows no format.

pub mod delta;
pub mod iceberg;
pub mod snapshot;

pub use snapshot::{ColumnBounds, DeleteFile, FileBounds, LakeError, LakeFile, LakeSnapshot, PathedName, SnapshotId};
pub mod table;
pub use table::{Lake, OpenTable, TableSource};
