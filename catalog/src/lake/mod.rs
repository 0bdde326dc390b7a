//! One scan for Delta and Iceberg. A format's module turns its metadata into a [`LakeSnapshot`]; everything after that
//! (pruning, deletes, reading) knows no format.

pub(crate) mod beyond;
mod decompress;
mod deletes;
pub mod delta;
mod evolve;
pub(crate) mod hot;
pub mod iceberg;
mod lookup;
pub(crate) mod plain;
mod prune;
mod reader;
mod rename;
mod repage;
pub mod scan;
pub mod snapshot;
pub mod table;
pub mod territory;
mod union;

use std::hash::{DefaultHasher, Hash, Hasher};

pub use delta::DeltaTarget;
pub use reader::FooterError;
pub use rename::{FIELD_ID_KEY, PHYSICAL_NAME_KEY};
pub use scan::{LakeTable, ScanReport};
pub use snapshot::{ColumnBounds, DeleteFile, FileBounds, LakeError, LakeFile, LakeSnapshot, PathedName, SnapshotId};
pub use table::{Lake, OpenTable, TableSource};

/// What an object's name stands for now; another once it is written anew. A content's tag alone does not tell one writing
/// from the next with the same bytes.
fn identity(meta: &object_store::ObjectMeta) -> String {
    format!("{}-{}-{}", meta.last_modified.timestamp_micros(), meta.size, meta.e_tag.as_deref().unwrap_or_default())
}

/// For [`LakeFile::version`]: of what makes a file's name stand for something else.
fn version(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
