//! Where a table's files are: the current metadata file of a table, and the places that metadata name.
//!
//! Metadata name files by absolute location, and whoever writes the metadata chooses them. A table may name what lies
//! below its own folder, and beyond that only what its owner could have named in a LOCATION.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;

use super::{LakeError, corrupt, unsupported};
use crate::lake::identity;
use crate::stores::{LocationError, Stores};

/// The most a metadata file, manifest list or manifest may hold: writers begin a new manifest at 8 MB.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// An object: the store's URL, as `ObjectStoreUrl` has it, and the path in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub store: Arc<str>,
    pub path: Path,
}

/// One version of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetadataFile {
    pub(super) place: Place,
    /// The table's own folder.
    root: Place,
    /// For errors.
    pub(super) url: String,
    /// Changes when the file does, should a table be dropped and made again under the same names.
    identity: String,
}

impl MetadataFile {
    fn new(root: Place, meta: ObjectMeta) -> Self {
        let identity = identity(&meta);
        let place = Place { store: Arc::clone(&root.store), path: meta.location };
        Self { url: place.url(), place, root, identity }
    }
}

impl Place {
    fn url(&self) -> String {
        format!("{}/{}", self.store.trim_end_matches('/'), self.path)
    }

    fn child(&self, name: &str) -> Result<Self, LakeError> {
        // Not `Path::child`, which would encode the name.
        let path = Path::parse(format!("{}/{name}", self.path)).map_err(|e| corrupt(name, e))?;
        Ok(Self { store: Arc::clone(&self.store), path })
    }
}

/// The current metadata file of the table at `location`, which is that file or the table's folder. This is the check
/// that may be skipped for a bounded time: the file itself and all that it names never change.
pub(super) async fn current(stores: &Stores, location: &str) -> Result<MetadataFile, LakeError> {
    let named = stores.resolve_kept(location).map_err(|e| refused(location, location, e))?;
    let place = Place { store: Arc::clone(named.store()), path: named.path().clone() };
    let store = open(stores, &place)?;
    if version_of(place.path.filename().unwrap_or_default()).is_some() {
        let root = Place { store: Arc::clone(&place.store), path: table_folder(&place.path) };
        let meta = store.head(&place.path).await.map_err(|e| storage(location, e))?;
        return Ok(MetadataFile::new(root, meta));
    }
    let metadata = place.child("metadata")?;
    let found = match hinted(&*store, &metadata, location).await? {
        Some(meta) => Some(meta),
        None => newest(&*store, &metadata, location).await?,
    };
    match found {
        Some(meta) => Ok(MetadataFile::new(place, meta)),
        None => Err(LakeError::NotATable { format: "Iceberg", location: location.to_owned() }),
    }
}

/// The folder of the table that a metadata file belongs to.
fn table_folder(metadata_file: &Path) -> Path {
    let mut folders: Vec<_> = metadata_file.parts().collect();
    folders.pop();
    if folders.last().is_some_and(|last| last.as_ref() == "metadata") {
        folders.pop();
    }
    let raw: Vec<&str> = folders.iter().map(AsRef::as_ref).collect();
    Path::parse(raw.join("/")).unwrap_or_default()
}

/// The version that a file name stands for: `v3.metadata.json` or `00003-<uuid>.metadata.json`, compressed or not.
fn version_of(name: &str) -> Option<u64> {
    let stem = [".gz.metadata.json", ".metadata.json.gz", ".metadata.json"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
    let number = match stem.strip_prefix('v') {
        Some(number) => number,
        None => stem.split_once('-').map_or(stem, |(number, _)| number),
    };
    // A name of the user's own is still a metadata file, though it does not take part in the search for the newest.
    Some(number.parse().unwrap_or(0))
}

/// By `version-hint.text`, which may lag behind: versions after the one it names are looked for.
async fn hinted(store: &dyn ObjectStore, metadata: &Place, location: &str) -> Result<Option<ObjectMeta>, LakeError> {
    let hint = match store.get(&metadata.child("version-hint.text")?.path).await {
        Ok(found) => found.bytes().await.map_err(|e| storage(location, e))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(storage(location, error)),
    };
    let hint = String::from_utf8_lossy(&hint).trim().to_owned();
    let Ok(version) = hint.parse::<u64>() else {
        // Some writers put the name of the file there.
        let name = if version_of(&hint).is_some() { hint } else { format!("{hint}.metadata.json") };
        return head(store, &metadata.child(&name)?, location).await;
    };
    let mut found = None;
    for version in version..=u64::MAX {
        match version_file(store, metadata, version, location).await? {
            Some(meta) => found = Some(meta),
            None => break,
        }
    }
    Ok(found)
}

async fn version_file(store: &dyn ObjectStore, metadata: &Place, version: u64, location: &str) -> Result<Option<ObjectMeta>, LakeError> {
    for suffix in ["metadata.json", "gz.metadata.json", "metadata.json.gz"] {
        if let Some(meta) = head(store, &metadata.child(&format!("v{version}.{suffix}"))?, location).await? {
            return Ok(Some(meta));
        }
    }
    Ok(None)
}

async fn head(store: &dyn ObjectStore, place: &Place, location: &str) -> Result<Option<ObjectMeta>, LakeError> {
    match store.head(&place.path).await {
        Ok(meta) => Ok(Some(meta)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(storage(location, error)),
    }
}

/// The metadata file of the highest version; among equals, which only a failed commit leaves, the youngest.
async fn newest(store: &dyn ObjectStore, metadata: &Place, location: &str) -> Result<Option<ObjectMeta>, LakeError> {
    let listed = match store.list_with_delimiter(Some(&metadata.path)).await {
        Ok(listed) => listed.objects,
        Err(object_store::Error::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(storage(location, error)),
    };
    let versioned = listed.into_iter().filter_map(|meta| Some((version_of(meta.location.filename()?)?, meta)));
    Ok(versioned.max_by_key(|(version, meta)| (*version, meta.last_modified)).map(|(_, meta)| meta))
}

/// The files of one table at one version.
pub(super) struct TableFiles {
    stores: Arc<Stores>,
    root: Place,
    /// Folders already found and allowed, by the way metadata write them: files share few folders.
    folders: Mutex<HashMap<String, Place>>,
    /// Names the metadata in errors.
    pub(super) metadata: String,
}

impl TableFiles {
    pub(super) fn new(stores: Arc<Stores>, metadata: &MetadataFile) -> Self {
        Self { stores, root: metadata.root.clone(), folders: Mutex::default(), metadata: metadata.url.clone() }
    }

    /// Reads a whole metadata file, list or manifest; `file` is its name, for errors.
    pub(super) async fn get(&self, place: &Place, file: &str) -> Result<Bytes, LakeError> {
        let found = open(&self.stores, place)?.get(&place.path).await.map_err(|e| storage(file, e))?;
        if found.meta.size > MAX_FILE_BYTES {
            return Err(corrupt(file, "larger than any table's metadata"));
        }
        found.bytes().await.map_err(|e| storage(file, e))
    }

    pub(super) fn resolve(&self, target: &str) -> Result<(Arc<str>, Path), LakeError> {
        self.resolve_in(&self.metadata, target).map(|place| (place.store, place.path))
    }

    /// The place of `target`, as `file` names it.
    pub(super) fn resolve_in(&self, file: &str, target: &str) -> Result<Place, LakeError> {
        let damaged = || corrupt(file, format_args!("{target} is not a location"));
        let (folder, name) = target.rsplit_once('/').ok_or_else(damaged)?;
        if name.is_empty() {
            return Err(damaged());
        }
        if let Some(known) = self.folders.lock().get(folder) {
            return known.child(name);
        }
        let text = store_text(folder).ok_or_else(damaged)?;
        let found = self.stores.resolve(&text).map_err(|e| refused(file, target, e))?;
        let place = Place { store: Arc::clone(found.store()), path: found.path().clone() };
        let inside = place.store == self.root.store && place.path.prefix_matches(&self.root.path);
        if !inside && !self.stores.may_name(&text) {
            return Err(LakeError::OutsideLocation { file: file.to_owned(), target: target.to_owned() });
        }
        let child = place.child(name);
        self.folders.lock().insert(folder.to_owned(), place);
        child
    }
}

/// A folder that metadata name, as [`Stores`] reads locations. Metadata hold plain text, not URLs: a `%` is a `%`.
/// `None`: not an absolute location, or one that climbs.
fn store_text(folder: &str) -> Option<String> {
    if let Some(rest) = ["s3://", "s3a://", "s3n://"].iter().find_map(|scheme| folder.strip_prefix(scheme)) {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        // `a//b` is another key than `a/b`, and no path.
        if key.starts_with('/') || key.ends_with('/') || Path::parse(key).is_err() {
            return None;
        }
        return Some(format!("s3://{bucket}/{}", percent_encode(key)));
    }
    let local = match folder.strip_prefix("file:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None if folder.contains("://") => return Some(folder.to_owned()),
        None => folder,
    };
    let parts: Vec<_> = local.split('/').filter(|part| !part.is_empty()).collect();
    let path = format!("/{}", parts.join("/"));
    (local.starts_with('/') && Path::parse(&path).is_ok()).then_some(path)
}

fn percent_encode(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~=".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn open(stores: &Stores, place: &Place) -> Result<Arc<dyn ObjectStore>, LakeError> {
    stores.store(&place.store).map_err(|e| LakeError::Internal(e.to_string()))
}

fn storage(file: &str, source: object_store::Error) -> LakeError {
    LakeError::Storage { file: file.to_owned(), source }
}

fn refused(file: &str, target: &str, error: LocationError) -> LakeError {
    match error {
        LocationError::NotAllowed { .. } => LakeError::OutsideLocation { file: file.to_owned(), target: target.to_owned() },
        LocationError::Scheme { scheme } => unsupported(format!("files at {scheme}://")),
        LocationError::Invalid { reason, .. } => corrupt(file, format_args!("{target}: {reason}")),
        error @ LocationError::Store { .. } => LakeError::Internal(error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::stores::{StoreConfig, StoresConfig};

    fn bucket() -> (Arc<Stores>, Arc<InMemory>) {
        let configured = StoreConfig { name: "shared".to_owned(), url: "s3://shared/data".to_owned(), ..StoreConfig::default() };
        let stores = Stores::new(StoresConfig { stores: vec![configured], ..StoresConfig::default() });
        let bucket = Arc::new(InMemory::new());
        stores.put("s3://lake", Arc::clone(&bucket) as _);
        (Arc::new(stores), bucket)
    }

    async fn found(bucket: &InMemory, stores: &Stores, files: &[(&str, &str)]) -> Result<String, LakeError> {
        for (name, text) in files {
            bucket.put(&Path::parse(format!("t/metadata/{name}")).unwrap(), text.to_string().into()).await.unwrap();
        }
        let found = current(stores, "s3://lake/t").await?;
        assert_eq!(found.root, Place { store: "s3://lake".into(), path: Path::from("t") });
        Ok(found.place.path.filename().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_folder_has_the_newest_metadata() {
        let (stores, bucket) = bucket();
        assert!(matches!(found(&bucket, &stores, &[]).await, Err(LakeError::NotATable { .. })));
        assert!(matches!(found(&bucket, &stores, &[("m0.avro", "")]).await, Err(LakeError::NotATable { .. })));
        let uuids = [("00009-a.metadata.json", ""), ("00010-b.gz.metadata.json", ""), ("00002-c.metadata.json", "")];
        assert_eq!(found(&bucket, &stores, &uuids).await.unwrap(), "00010-b.gz.metadata.json");
        // A hint wins, and versions after it win over the hint.
        let versions = [("v3.metadata.json", ""), ("v4.gz.metadata.json", ""), ("v6.metadata.json", ""), ("version-hint.text", "3\n")];
        assert_eq!(found(&bucket, &stores, &versions).await.unwrap(), "v4.gz.metadata.json");
        assert_eq!(found(&bucket, &stores, &[("version-hint.text", "00009-a")]).await.unwrap(), "00009-a.metadata.json");
        // A hint at nothing is passed over, the last number too.
        for hint in ["99", "18446744073709551615"] {
            assert_eq!(found(&bucket, &stores, &[("version-hint.text", hint)]).await.unwrap(), "00010-b.gz.metadata.json");
        }
        let last = [("v18446744073709551615.metadata.json", ""), ("version-hint.text", "18446744073709551615")];
        assert_eq!(found(&bucket, &stores, &last).await.unwrap(), "v18446744073709551615.metadata.json");
    }

    #[tokio::test]
    async fn a_table_names_its_own_files_and_those_of_configured_stores() {
        let (stores, bucket) = bucket();
        bucket.put(&Path::from("a/t/metadata/v1.metadata.json"), "".into()).await.unwrap();
        let metadata = current(&stores, "s3://lake/a/t/metadata/v1.metadata.json").await.unwrap();
        let files = TableFiles::new(stores, &metadata);
        let path = |target: &str| files.resolve(target).map(|(store, path)| format!("{store} {path}"));

        assert_eq!(path("s3://lake/a/t/data/f.parquet").unwrap(), "s3://lake a/t/data/f.parquet");
        assert_eq!(path("s3a://lake/a/t/x/y").unwrap(), "s3://lake a/t/x/y");
        // Plain text: nothing is decoded, in folders or names.
        assert_eq!(path("s3://lake/a/t/g=a%20b c/%2e%2e/f%2F.parquet").unwrap(), "s3://lake a/t/g=a%20b c/%2e%2e/f%2F.parquet");
        assert_eq!(path("s3://shared/data/f.parquet").unwrap(), "s3-0://shared data/f.parquet");
        for outside in [
            "s3://lake/a/t2/f",
            "s3://lake/a/f",
            "s3://other/f",
            "s3://shared/f",
            "s3://shared/database/f",
            "file:///etc/passwd",
            "/etc/passwd",
        ] {
            assert!(matches!(path(outside), Err(LakeError::OutsideLocation { .. })), "{outside}: {:?}", path(outside));
        }
        for damaged in ["f.parquet", "data/f.parquet", "s3://lake/a/t/../t2/f", "s3://lake/a/t//f", "s3://lake/a/t/", "s3://lake/a/t/.."] {
            assert!(matches!(path(damaged), Err(LakeError::Corrupt { .. })), "{damaged}: {:?}", path(damaged));
        }
        assert_eq!(path("hdfs://n/f").unwrap_err().to_string(), "table feature \"files at hdfs://\" is not supported yet");
    }

    #[tokio::test]
    async fn a_local_table_stays_below_the_allowed_paths() {
        let folder = tempfile::tempdir().unwrap();
        let at = |tail: &str| folder.path().canonicalize().unwrap().join(tail);
        for file in ["lake/t/metadata/v1.metadata.json", "warehouse/x/f", "lake/other/f", "private/f"] {
            std::fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            std::fs::write(at(file), "").unwrap();
        }
        std::os::unix::fs::symlink(at("private"), at("lake/t/link")).unwrap();
        let config = StoresConfig { allowed_paths: vec![at("lake")], warehouse: at("warehouse"), ..StoresConfig::default() };
        let stores = Arc::new(Stores::new(config));
        let metadata = current(&stores, at("lake/t").to_str().unwrap()).await.unwrap();
        let files = TableFiles::new(stores, &metadata);
        for (inside, prefix) in [("lake/t/data/f", "file:"), ("lake/t/f", "file://"), ("lake/other/f", "")] {
            assert!(files.resolve(&format!("{prefix}{}", at(inside).display())).is_ok(), "{inside}");
        }
        // Another's managed table is readable to the server, and so not for a table to name.
        for outside in ["warehouse/x/f", "private/f", "lake/t/link/f"] {
            assert!(matches!(files.resolve(at(outside).to_str().unwrap()), Err(LakeError::OutsideLocation { .. })), "{outside}");
        }
    }
}
