//! Iceberg tables, format versions 1 to 3: from the metadata file through manifest list and manifests to a
//! [`LakeSnapshot`].
//!
//! Manifests are immutable and cached by path, so a new snapshot reads only what its commit added. What a version of
//! the format has and this reader has not is refused by name; it never reads as other rows.

mod avro;
mod bounds;
mod cached;
mod deletes;
mod equality;
mod files;
mod locate;
mod manifest;
mod metadata;
mod partition;
mod schema;
mod values;

use std::fmt::Display;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::snapshot::{ColumnBounds, DeleteFile, FileBounds, LakeError, LakeFile, LakeSnapshot, PathedName, SnapshotId};
use crate::caches::Caches;
use crate::stores::Stores;
pub(crate) use cached::{IcebergTable, open};
pub(crate) use deletes::{DeleteFileKey, PositionDeletes, position_deletes};
use equality::KeyColumns;
pub(crate) use equality::{KeySet, KeySetKey, equality_deletes};
use locate::{MetadataFile, TableFiles, current};
pub(crate) use manifest::Manifest;
use manifest::ManifestFile;
use metadata::{Manifests, TableMetadata};
use schema::TableSchema;

/// Manifests read at a time: enough to hide a store's latency, few enough that a big table leaves room for queries.
const MANIFEST_CONCURRENCY: usize = 8;

/// The table as one metadata file has it.
async fn read(stores: &Arc<Stores>, caches: &Arc<Caches>, metadata: &MetadataFile) -> Result<Arc<LakeSnapshot>, LakeError> {
    let files = Arc::new(TableFiles::new(Arc::clone(stores), metadata));
    let file = metadata.url.clone();
    let bytes = files.get(&metadata.place, &file).await?;
    let (table, schema, name_mapping) = blocking(move || {
        let table = TableMetadata::parse(&file, &bytes)?;
        let schema = TableSchema::new(&file, &table.schema)?;
        let name_mapping = table.name_mapping.as_deref().map(|json| schema::name_mapping(&file, json)).transpose()?;
        Ok((table, schema, name_mapping))
    })
    .await?;

    let version = super::version(&table.id);
    let manifests = match &table.snapshot {
        None => Vec::new(),
        Some(snapshot) => manifests(&files, caches, metadata, version, &snapshot.manifests).await?,
    };
    blocking(move || {
        let resolve = |target: &str| files.resolve(target);
        let keys = files::equality_ids(&manifests);
        let keys = KeyColumns::new(&files.metadata, &schema, &table.schemas, name_mapping.as_ref(), &keys)?;
        let (mut data_files, bounds) = files::plan(&schema, &table.specs, &keys, &manifests, &resolve)?;
        let bounds = bounds.completed(&schema.arrow, &data_files);
        data_files.iter_mut().for_each(|file| file.version = version);
        Ok(Arc::new(LakeSnapshot {
            id: SnapshotId(table.snapshot.map_or(-1, |snapshot| snapshot.id)),
            schema: schema.arrow,
            naming: PathedName::FieldId,
            name_mapping,
            initial_defaults: schema.initial_defaults,
            files: data_files,
            bounds,
            outside: Default::default(),
        }))
    })
    .await
}

/// A snapshot's manifests, in the order of its list.
async fn manifests(
    files: &Arc<TableFiles>,
    caches: &Arc<Caches>,
    metadata: &MetadataFile,
    version: u64,
    named: &Manifests,
) -> Result<Vec<(ManifestFile, Arc<Manifest>)>, LakeError> {
    let list = match named {
        Manifests::Inline(paths) => {
            let file = |path: &String| ManifestFile { path: path.clone(), size_bytes: None, spec_id: None, sequence_number: 0 };
            paths.iter().map(file).collect()
        }
        Manifests::List(path) => {
            let place = files.resolve_in(&metadata.url, path)?;
            let bytes = files.get(&place, path).await?;
            let path = path.clone();
            blocking(move || manifest::parse_list(&path, &bytes)).await?
        }
    };
    stream::iter(list)
        .map(|file| async move {
            // Refused before the cache is asked: what it holds may have come from another table.
            let place = files.resolve_in(&metadata.url, &file.path)?;
            let key = ManifestKey { store: Arc::clone(&place.store), path: place.path.clone(), size_bytes: file.size_bytes, version };
            let load = async {
                let bytes = files.get(&place, &file.path).await?;
                let path = file.path.clone();
                blocking(move || Manifest::parse(&path, &bytes).map(Arc::new)).await
            };
            let manifest = caches.manifests.get_with(key, load).await.map_err(LakeError::shared)?;
            Ok((file, manifest))
        })
        .buffered(MANIFEST_CONCURRENCY)
        .try_collect()
        .await
}

/// Manifests never change under their name while the table is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ManifestKey {
    store: Arc<str>,
    path: object_store::path::Path,
    size_bytes: Option<u64>,
    /// Of the table, by its id.
    version: u64,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, LakeError> + Send + 'static) -> Result<T, LakeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(LakeError::Internal(error.to_string())),
    }
}

fn corrupt(file: &str, reason: impl Display) -> LakeError {
    LakeError::Corrupt { file: file.to_owned(), reason: reason.to_string() }
}

fn unsupported(feature: impl Into<String>) -> LakeError {
    LakeError::Unsupported { feature: feature.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
