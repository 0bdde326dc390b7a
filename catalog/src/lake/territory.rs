//! Which folder a table answers for. Two tables on the same files would answer for each other's rows, past each other's
//! policies; so would one whose metadata name the files of another.

use std::collections::BTreeSet;
use std::sync::Arc;

use object_store::path::Path;

use super::snapshot::{DeleteFile, LakeFile, LakeSnapshot};
use crate::meta::{Definition, Relation, TableFormat};
use crate::stores::{Location, LocationError, Stores};

/// The folder of a table, as a canonical URL without a slash at its end. An Iceberg table may be named by one of its
/// metadata files.
pub fn territory(format: TableFormat, location: &str) -> &str {
    let location = location.trim_end_matches('/');
    match location.rsplit_once('/') {
        Some((folder, file)) if format == TableFormat::Iceberg && file.ends_with(".metadata.json") => {
            folder.strip_suffix("/metadata").unwrap_or(folder)
        }
        _ => location,
    }
}

/// Whether one canonical location lies at, above or below the other.
pub fn overlap(a: &str, b: &str) -> bool {
    holds(a, b) || holds(b, a)
}

/// Whether a relation is a table that answers for files in, above or below one of these folders.
pub fn owns_some_of<'a>(relation: &Relation, mut folders: impl Iterator<Item = &'a str>) -> bool {
    match &relation.definition {
        Definition::Table { format, location, outside, .. } => {
            let own = territory(*format, location);
            folders.any(|folder| overlap(own, folder) || outside.iter().any(|other| overlap(other, folder)))
        }
        Definition::View { .. } => false,
    }
}

fn holds(outer: &str, inner: &str) -> bool {
    let (outer, inner) = (outer.trim_end_matches('/'), inner.trim_end_matches('/'));
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Folders outside `location` in which a version has data or delete files, as canonical URLs. They were found to lie below
/// a configured place; whether another table owns them is to be asked each time, for that can change.
pub(super) fn folders_outside(snapshot: &LakeSnapshot, stores: &Stores, location: &Location) -> Result<Arc<[String]>, LocationError> {
    let mut folders = BTreeSet::new();
    for file in &snapshot.files {
        for (store, path) in places(file) {
            if **store != **location.store() || !path.prefix_matches(location.path()) {
                folders.insert((store, folder(path)));
            }
        }
    }
    folders.into_iter().map(|(store, path)| Ok(stores.at(store, path)?.url().to_owned())).collect()
}

/// Where a data file and what deletes rows of it lie.
fn places(file: &LakeFile) -> impl Iterator<Item = (&Arc<str>, &Path)> {
    let deletes = file.deletes.iter().flat_map(|delete| match delete {
        DeleteFile::DeltaInline { .. } => Vec::new(),
        DeleteFile::DeltaFile { store, path, .. }
        | DeleteFile::PositionParquet { store, path, .. }
        | DeleteFile::Puffin { store, path, .. } => vec![(store, path)],
        DeleteFile::Equality(delete) => delete.files.iter().map(|(store, path, _)| (store, path)).collect(),
    });
    [(&file.store, &file.path)].into_iter().chain(deletes)
}

fn folder(file: &Path) -> Path {
    let parts: Vec<_> = file.parts().collect();
    parts.iter().take(parts.len().saturating_sub(1)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_not_another_that_begins_like_it() {
        assert!(overlap("file:///a/b/", "file:///a/b"));
        assert!(overlap("file:///a/b", "file:///a/b/c"));
        assert!(overlap("file:///a/b/c/", "file:///a/b/"));
        assert!(!overlap("file:///a/b", "file:///a/bc"));
        assert!(!overlap("s3://lake/a", "s3://lakes/a"));
        assert_eq!(territory(TableFormat::Iceberg, "s3://lake/t/metadata/v3.metadata.json"), "s3://lake/t");
        assert_eq!(territory(TableFormat::Delta, "s3://lake/t/metadata/v3.metadata.json"), "s3://lake/t/metadata/v3.metadata.json");
    }
}
