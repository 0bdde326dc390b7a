//! The data folder: who may look into it, and that one server at a time writes there.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";

/// A data folder that this process holds. The lock ends with the value, or with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder, for nobody but its owner, where it is missing, and locks it.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server uses it")),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub fn audit(&self) -> PathBuf {
        audit_of(&self.path)
    }

    pub fn metadata(&self) -> PathBuf {
        self.path.join("metadata.sqlite")
    }

    pub fn spill(&self) -> PathBuf {
        self.path.join("spill")
    }

    pub fn key(&self) -> PathBuf {
        key_of(&self.path)
    }
}

/// Of a data folder that another process may hold.
pub fn audit_of(data_dir: &Path) -> PathBuf {
    data_dir.join("audit")
}

pub fn key_of(data_dir: &Path) -> PathBuf {
    data_dir.join("server.key")
}

/// Whether a server holds the folder now.
pub fn is_served(data_dir: &Path) -> bool {
    let lock = File::open(data_dir.join(LOCK));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_server_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let held = DataDir::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(DataDir::open(&path).unwrap_err().to_string(), "another server uses it");
        assert!(is_served(&path));
        drop(held);
        assert!(!is_served(&path));
        DataDir::open(&path).unwrap();
    }
}
