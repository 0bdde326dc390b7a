//! Which object or file it is that has a name, so that nothing is put together from two that had it one after the other.

use std::fs::Metadata;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long ago a file must have changed for a further change to show: file systems keep the time by a clock that may stand
/// still for hundredths of a second, and set it when a write begins, which may take seconds. Tests of what is kept do not wait
/// for it.
const SETTLED: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(10) };

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
    #[cfg(target_os = "linux")]
    pub(super) fn of_file(metadata: &Metadata) -> Option<Self> {
        use std::os::linux::fs::MetadataExt;

        Some(Self::File {
            device: metadata.st_dev(),
            inode: metadata.st_ino(),
            size_bytes: metadata.len(),
            modified: (metadata.st_mtime(), metadata.st_mtime_nsec()),
            changed: Duration::new(u64::try_from(metadata.st_ctime()).ok()?, u32::try_from(metadata.st_ctime_nsec()).ok()?),
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of_file(_metadata: &Metadata) -> Option<Self> {
        None
    }

    /// Whether a query that has begun to read the one may read on in the other: a file with new rights, or one more link to it,
    /// is the same to it.
    pub(super) fn may_be_read_on(&self, now: &Self) -> bool {
        match (self, now) {
            (
                Self::File { device, inode, size_bytes, modified, .. },
                Self::File { device: now_device, inode: now_inode, size_bytes: now_bytes, modified: now_modified, .. },
            ) => (device, inode, size_bytes, modified) == (now_device, now_inode, now_bytes, now_modified),
            _ => self == now,
        }
    }

    /// Whether everything that changes from now on is told by another identity.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_unchanged_for(SETTLED, SystemTime::now())
    }

    fn is_unchanged_for(&self, time: Duration, now: SystemTime) -> bool {
        match self {
            Self::ETag(_) => true,
            Self::File { changed, .. } => now.duration_since(UNIX_EPOCH + *changed).is_ok_and(|age| age >= time),
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
        let at = |seconds: f64| file.is_unchanged_for(Duration::from_secs(2), UNIX_EPOCH + Duration::from_secs_f64(seconds));
        assert!(at(1_000_002.0) && !at(1_000_001.9) && !at(1_000_000.0) && !at(999_000.0));
        assert!(Identity::ETag("a".into()).is_settled());
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
