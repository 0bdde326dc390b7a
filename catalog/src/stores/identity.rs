//! Which object or file it is that has a name, so that nothing is put together from two that had it one after the other.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// As a remote store gives it.
    ETag(Arc<str>),
    /// Of a file on this machine.
    File {
        device: u64,
        inode: u64,
        size_bytes: u64,
        /// When its bytes changed last, which can be set to anything: seconds and nanoseconds.
        modified: (i64, i64),
        /// When its bytes or anything else of it changed last, which nobody can set: since 1970.
        changed: Duration,
    },
}

impl Identity {
    /// Where it can be relied on: on a file system of this machine. Elsewhere, numbers and times may be another machine's, or
    /// made up.
    #[cfg(target_os = "linux")]
    pub(super) fn of_file(file: &File) -> Option<Self> {
        use std::os::linux::fs::MetadataExt;

        if !super::resident::is_near(rustix::fs::fstatfs(file)) {
            return None;
        }
        let found = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(Self::File {
            device: found.st_dev(),
            inode: found.st_ino(),
            size_bytes: found.len(),
            modified: (found.st_mtime(), found.st_mtime_nsec()),
            changed: Duration::new(u64::try_from(found.st_ctime()).ok()?, u32::try_from(found.st_ctime_nsec()).ok()?),
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of_file(_file: &File) -> Option<Self> {
        None
    }

    /// Where the tag is a strong one: no store gives an object by a weak one.
    pub(super) fn of_object(e_tag: Option<&str>) -> Option<Self> {
        e_tag.filter(|e_tag| !e_tag.starts_with("W/")).map(|e_tag| Self::ETag(e_tag.into()))
    }

    /// Whether a query that has begun to read the one may read on in the other: a file with new rights, or one more link to it,
    /// is the same to it.
    pub(crate) fn may_be_read_on(&self, now: &Self) -> bool {
        match (self, now) {
            (
                Self::File { device, inode, size_bytes, modified, .. },
                Self::File { device: now_device, inode: now_inode, size_bytes: now_bytes, modified: now_modified, .. },
            ) => (device, inode, size_bytes, modified) == (now_device, now_inode, now_bytes, now_modified),
            _ => self == now,
        }
    }

    /// Whether a file has not changed for so long that everything that changes from now on is told by another identity.
    pub(crate) fn is_settled(&self, settled: Duration, now: SystemTime) -> bool {
        match self {
            Self::ETag(_) => true,
            Self::File { changed, .. } => now.duration_since(UNIX_EPOCH + *changed).is_ok_and(|age| age >= settled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_just_changed_is_not_settled() {
        let changed = Duration::from_secs(1_000_000);
        let file = Identity::File { device: 1, inode: 2, size_bytes: 3, modified: (0, 0), changed };
        let at = |seconds: f64| file.is_settled(Duration::from_secs(2), UNIX_EPOCH + Duration::from_secs_f64(seconds));
        assert!(at(1_000_002.0) && !at(1_000_001.9) && !at(1_000_000.0) && !at(999_000.0));
        assert!(Identity::ETag("a".into()).is_settled(Duration::MAX, UNIX_EPOCH));
    }

    #[test]
    fn a_weak_tag_tells_no_object() {
        assert_eq!(Identity::of_object(Some("W/\"a\"")), None);
        assert_eq!(Identity::of_object(None), None);
        assert_eq!(Identity::of_object(Some("\"a\"")), Some(Identity::ETag("\"a\"".into())));
    }

    #[test]
    fn new_rights_make_no_new_file_to_a_query() {
        let file = |inode, modified, changed| Identity::File {
            device: 1,
            inode,
            size_bytes: 3,
            modified: (modified, 0),
            changed: Duration::from_secs(changed),
        };
        let first = file(2, 7, 7);
        assert!(first.may_be_read_on(&file(2, 7, 8)) && first != file(2, 7, 8));
        assert!(!first.may_be_read_on(&file(2, 8, 8)) && !first.may_be_read_on(&file(3, 7, 7)));
        assert!(!first.may_be_read_on(&Identity::ETag("a".into())));
        assert!(!Identity::ETag("a".into()).may_be_read_on(&Identity::ETag("b".into())));
    }
}
