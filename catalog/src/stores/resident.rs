//! Reads of local files whose path and bytes the operating system holds in memory: at once, on the thread that asks, which
//! spares two changes of threads for each read. Whatever else there is to a read (a disk or another machine to wait for, a
//! symbolic link, an error to tell) is left to a thread that may block.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use object_store::path::Path;

use super::identity::Identity;

/// Of one read. More is copied by a thread that may block, so that others can be served meanwhile.
const MOST_BYTES: u64 = 8 << 20;

/// A folder below which files are read.
#[derive(Clone)]
pub(super) struct Root {
    path: Path,
    /// Whether it lies on a file system of this machine, where opening a known file waits for nobody.
    is_near: Arc<OnceLock<bool>>,
}

impl Root {
    pub(super) fn new(path: Path) -> Self {
        Self { path, is_near: Arc::default() }
    }

    pub(super) fn holds(&self, path: &Path) -> bool {
        path.prefix_matches(&self.path)
    }

    /// Looks where the folder lies, which may block.
    pub(super) fn look(&self) {
        let _ = self.is_near.get_or_init(|| lies_near(&on_disk(&self.path)));
    }

    pub(super) fn is_near(&self) -> bool {
        self.is_near.get() == Some(&true)
    }

    /// The bytes of a file below the folder, or `None` where they are not there without waiting, or not without following a
    /// symbolic link, or where it is not this file.
    pub(super) fn read(&self, path: &Path, ranges: &[Range<u64>], of: Option<&Identity>) -> Option<Vec<Bytes>> {
        let bytes = ranges.iter().map(|range| range.end.saturating_sub(range.start)).fold(0, u64::saturating_add);
        if bytes > MOST_BYTES {
            return None;
        }
        let file = self.open(path)?;
        // A footer may name any range, and memory is taken for it before it is read.
        let size_bytes = file.metadata().ok().filter(Metadata::is_file)?.len();
        let read = |range: &Range<u64>| if range.end <= size_bytes { read_range(&file, range) } else { None };
        let bytes = ranges.iter().map(read).collect::<Option<_>>()?;
        is_of(&file, of).then_some(bytes)
    }

    /// Which file it is that has this name, where that can be told without waiting.
    pub(super) fn identity(&self, path: &Path) -> Option<Identity> {
        Identity::of_file(&self.open(path)?)
    }

    fn open(&self, path: &Path) -> Option<File> {
        // The store takes names with a `#` for uploads that have not ended.
        let is_upload = path.filename().is_none_or(|name| name.contains('#'));
        if is_upload || !self.is_near() {
            return None;
        }
        open(&on_disk(&self.path), path.as_ref().strip_prefix(self.path.as_ref())?.trim_start_matches('/').as_ref())
    }
}

/// Whether the file that was read is this one still: to be asked after the last read, for a write sets the times before it
/// sets the bytes.
pub(super) fn is_of(file: &File, identity: Option<&Identity>) -> bool {
    identity.is_none_or(|identity| Identity::of_file(file).is_some_and(|now| identity.may_be_read_on(&now)))
}

pub(super) fn on_disk(path: &Path) -> std::path::PathBuf {
    FsPath::new("/").join(path.as_ref())
}

#[cfg(target_os = "linux")]
fn lies_near(folder: &FsPath) -> bool {
    is_near(rustix::fs::statfs(folder))
}

#[cfg(target_os = "linux")]
pub(super) fn is_near(found: rustix::io::Result<rustix::fs::StatFs>) -> bool {
    // ext2 to ext4, XFS, Btrfs, tmpfs and overlayfs, by the numbers of statfs(2).
    const NEAR: [rustix::fs::FsWord; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630];
    found.is_ok_and(|found| NEAR.contains(&found.f_type))
}

#[cfg(target_os = "linux")]
fn open(root: &FsPath, below: &FsPath) -> Option<File> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

    let known = ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
    let root = openat2(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), known).ok()?;
    // Without NONBLOCK, a pipe in a file's place would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat2(root, below, flags, Mode::empty(), known | ResolveFlags::BENEATH | ResolveFlags::NO_XDEV).ok().map(File::from)
}

#[cfg(target_os = "linux")]
fn read_range(file: &File, range: &Range<u64>) -> Option<Bytes> {
    use std::io::IoSliceMut;

    use rustix::io::{ReadWriteFlags, preadv2};

    let mut bytes = vec![0; usize::try_from(range.end.checked_sub(range.start)?).ok()?];
    let mut rest = bytes.as_mut_slice();
    let mut offset = range.start;
    while !rest.is_empty() {
        let read = preadv2(file, &mut [IoSliceMut::new(rest)], offset, ReadWriteFlags::NOWAIT).ok().filter(|read| *read > 0)?;
        offset += read as u64;
        rest = rest.get_mut(read..)?;
    }
    Some(bytes.into())
}

#[cfg(not(target_os = "linux"))]
fn lies_near(_folder: &FsPath) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn open(_root: &FsPath, _below: &FsPath) -> Option<File> {
    None
}

#[cfg(not(target_os = "linux"))]
fn read_range(_file: &File, _range: &Range<u64>) -> Option<Bytes> {
    None
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn root(folder: &tempfile::TempDir) -> (std::path::PathBuf, Root) {
        let folder = folder.path().canonicalize().unwrap();
        let root = Root::new(Path::from_absolute_path(&folder).unwrap());
        root.look();
        (folder, root)
    }

    fn read(root: &Root, path: &FsPath, ranges: &[Range<u64>]) -> Option<Vec<Bytes>> {
        root.read(&Path::from_absolute_path(path).unwrap(), ranges, None)
    }

    #[test]
    fn a_file_that_was_just_written_is_read_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, root) = root(&folder);
        let file = folder.join("a");
        std::fs::write(&file, b"0123456789").unwrap();
        if let Some(bytes) = read(&root, &file, &[2..5, 0..0, 9..10]) {
            assert_eq!(bytes, [&b"234"[..], b"", b"9"]);
        } else {
            println!("skipped: this system has no reads without waiting here");
        }
        let unknown = Root::new(root.path.clone());
        assert!(read(&unknown, &file, &[0..1]).is_none(), "nobody has looked where it lies");
    }

    #[test]
    fn a_file_is_known_by_what_nobody_can_set() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, root) = root(&folder);
        let (file, path) = (folder.join("a"), Path::from_absolute_path(folder.join("a")).unwrap());
        std::fs::write(&file, b"0123456789").unwrap();
        let Some(first) = root.identity(&path) else { return println!("skipped: this system has no reads without waiting here") };
        let written = std::fs::metadata(&file).unwrap().modified().unwrap();
        assert_eq!(root.identity(&path).as_ref(), Some(&first));
        assert!(root.read(&path, &[2..5], Some(&first)).is_some());

        // Until the file system's clock has gone on.
        while root.identity(&path).as_ref() == Some(&first) {
            std::fs::write(&file, b"abcdefghij").unwrap();
        }
        assert!(root.read(&path, &[2..5], Some(&first)).is_none());
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(written).unwrap();
        let second = root.identity(&path).unwrap();
        assert_ne!(second, first);
        assert_eq!(root.read(&path, &[2..5], Some(&second)).unwrap(), [&b"cde"[..]]);

        // Beside it, and then in its place.
        std::fs::write(folder.join("b"), b"klmnopqrst").unwrap();
        std::fs::rename(folder.join("b"), &file).unwrap();
        assert!(root.read(&path, &[2..5], Some(&second)).is_none());
        std::fs::remove_file(&file).unwrap();
        assert!(root.identity(&path).is_none());
    }

    #[test]
    fn what_is_no_plain_file_within_its_size_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, root) = root(&folder);
        std::fs::create_dir(folder.join("real")).unwrap();
        for name in ["real/a", "real/a#1"] {
            std::fs::write(folder.join(name), b"0123456789").unwrap();
        }
        std::os::unix::fs::symlink(folder.join("real"), folder.join("link")).unwrap();
        std::os::unix::fs::symlink(folder.join("real/a"), folder.join("real/b")).unwrap();
        for (name, range) in [
            ("link/a", 0..1),
            ("real/b", 0..1),
            ("real/c", 0..1),
            ("real/a#1", 0..1),
            ("real", 0..1),
            ("real/a", 8..11),
            ("real/a", 0..1 << 50),
            ("real/a", Range { start: 5, end: 2 }),
        ] {
            assert!(read(&root, &folder.join(name), &[range]).is_none(), "{name}");
        }
    }
}
