//! Whether a table's log is still the one that was read.
//!
//! The kernel goes on from a version that it has by listing what is later, so a table that was removed and made anew in
//! its place would seem to be the old one. Hence a version is held by the file that it rests on, its last commit or
//! checkpoint: while that is the same file, so is the table.

use std::sync::Arc;

use buoyant_kernel::FileMeta;
use buoyant_kernel::snapshot::Snapshot;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::lake::identity;
use crate::lake::snapshot::LakeError;
use crate::stores::Location;

/// Of a version in the name of a file of the log.
const VERSION_DIGITS: usize = 20;

/// A table's log in its store.
pub(super) struct Log {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    /// Local files come in no order.
    is_ordered: bool,
}

/// The file that a version rests on.
#[derive(Debug, PartialEq)]
pub(super) struct Anchor {
    version: u64,
    path: Path,
    identity: String,
}

/// What has become of a version.
#[derive(Debug, PartialEq)]
pub(super) enum Standing {
    Newest,
    /// There are later commits or checkpoints.
    Overtaken,
    /// Its file is another now or is not there: the table was made anew or removed, or its log was cleaned up.
    Gone,
}

impl Log {
    pub(super) fn new(store: Arc<dyn ObjectStore>, location: &Location) -> Self {
        let folder = location.path().clone().join("_delta_log");
        Self { store, folder, is_ordered: !location.store().starts_with("file:") }
    }

    /// One listing, from the anchor's version on.
    pub(super) async fn standing(&self, anchor: &Anchor) -> Result<Standing, LakeError> {
        Ok(standing(anchor, &self.list(anchor.version).await?))
    }

    /// What the version rests on, unless that is no longer what the kernel has read; for a version that was built on
    /// an earlier one, that must stand as well.
    pub(super) async fn anchor(&self, snapshot: &Snapshot, earlier: Option<&Anchor>) -> Result<Option<Anchor>, LakeError> {
        let Some(file) = last_file(snapshot) else { return Ok(None) };
        let version = snapshot.version();
        let files = self.list(earlier.map_or(version, |earlier| earlier.version)).await?;
        if earlier.is_some_and(|earlier| standing(earlier, &files) == Standing::Gone) {
            return Ok(None);
        }
        let name = file.location.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
        let as_read = |it: &&ObjectMeta| {
            it.location.filename() == Some(name) && it.size == file.size && it.last_modified.timestamp_millis() == file.last_modified
        };
        Ok(files.iter().find(as_read).map(|it| Anchor { version, path: it.location.clone(), identity: identity(it) }))
    }

    /// The log's own files from a version on; those in folders below it have names without a version.
    async fn list(&self, version: u64) -> Result<Vec<ObjectMeta>, LakeError> {
        let from = self.folder.clone().join(format!("{version:0VERSION_DIGITS$}"));
        let mut listed = self.store.list_with_offset(Some(&self.folder), &from);
        let mut files = Vec::new();
        loop {
            match listed.try_next().await {
                Ok(Some(file)) if version_of(&self.folder, &file).is_some() => files.push(file),
                // Beyond the versions lie sidecars, of which there may be thousands.
                Ok(Some(_)) if self.is_ordered => break,
                Ok(Some(_)) => {}
                Ok(None) | Err(object_store::Error::NotFound { .. }) => break,
                Err(source) => return Err(LakeError::Storage { file: self.folder.to_string(), source }),
            }
        }
        Ok(files)
    }
}

fn standing(anchor: &Anchor, files: &[ObjectMeta]) -> Standing {
    let stands = files.iter().any(|file| file.location == anchor.path && identity(file) == anchor.identity);
    let is_later = |file: &ObjectMeta| {
        let name = file.location.filename().unwrap_or_default();
        let (version, kind) = name.split_at_checked(VERSION_DIGITS).unwrap_or_default();
        version.parse().is_ok_and(|version: u64| version > anchor.version) && (kind == ".json" || kind.starts_with(".checkpoint."))
    };
    match stands {
        true if files.iter().any(is_later) => Standing::Overtaken,
        true => Standing::Newest,
        false => Standing::Gone,
    }
}

fn version_of(folder: &Path, file: &ObjectMeta) -> Option<u64> {
    let mut below = file.location.prefix_match(folder)?;
    let (name, None) = (below.next()?, below.next()) else { return None };
    name.as_ref().get(..VERSION_DIGITS)?.parse().ok()
}

/// The commit of a version, or else a part of its checkpoint.
fn last_file(snapshot: &Snapshot) -> Option<&FileMeta> {
    let listed = &snapshot.log_segment().listed;
    let commit = listed.latest_commit_file.as_ref().filter(|commit| commit.version == snapshot.version());
    commit.or(listed.checkpoint_parts.last()).map(|file| &file.location)
}
