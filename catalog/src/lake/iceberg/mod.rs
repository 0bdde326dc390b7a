//! To be written.

use std::sync::Arc;

use object_store::path::Path;
use roaring::RoaringTreemap;

use super::snapshot::{LakeError, LakeSnapshot};
use super::table::TableSource;
use crate::caches::Caches;
use crate::stores::Stores;

/// The rows of `data_file` that a position delete file removes.
pub(crate) async fn position_deletes(
    _stores: &Stores,
    _caches: &Caches,
    _store: &str,
    _path: &Path,
    _size_bytes: u64,
    _data_file: &str,
) -> Result<Arc<RoaringTreemap>, LakeError> {
    Err(LakeError::Unsupported { feature: "position deletes".to_owned() })
}

/// The table's current snapshot.
pub(crate) async fn load(_stores: &Stores, _caches: &Caches, _source: &TableSource) -> Result<Arc<LakeSnapshot>, LakeError> {
    Err(LakeError::Unsupported { feature: "Iceberg".to_owned() })
}
