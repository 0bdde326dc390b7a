//! Which object or file it is that has a name, so that nothing is put together from two that had it one after the other.

use std::fs::Metadata;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long ago a file must have changed for a further change to show: file systems keep the time by a clock that may stand
/// still for hundredths of a second.
/// Tests of what is kept do not wait for it.
const SETTLED: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(2) };

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// As a remote store gives it.
    ETag(Arc<str>),
    /// Of a file on this machine.
    File {
        device: u64,
        inode: u64,
        /// When its bytes or attributes changed last, which nobody can set: since 1970.
        changed: Duration,
    },
}

impl Identity {
    #[cfg(target_os = "linux")]
    pub(super) fn of_file(metadata: &Metadata) -> Option<Self> {
        use std::os::linux::fs::MetadataExt;

        let changed = Duration::new(u64::try_from(metadata.st_ctime()).ok()?, u32::try_from(metadata.st_ctime_nsec()).ok()?);
        Some(Self::File { device: metadata.st_dev(), inode: metadata.st_ino(), changed })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of_file(_metadata: &Metadata) -> Option<Self> {
        None
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
        let file = Identity::File { device: 1, inode: 2, changed };
        let at = |seconds: f64| file.is_unchanged_for(Duration::from_secs(2), UNIX_EPOCH + Duration::from_secs_f64(seconds));
        assert!(at(1_000_002.0) && !at(1_000_001.9) && !at(1_000_000.0) && !at(999_000.0));
        assert!(Identity::ETag("a".into()).is_settled());
    }
}
