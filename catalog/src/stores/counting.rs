//! Around every store: requests counted by kind, for local files no path outside the allowed folders, and reads of one object
//! alone, whatever has its name by now.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, coalesce_ranges,
};

use super::identity::Identity;
use super::resident::{Root, is_of, on_disk};

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// Commits, checkpoints and hints in a `_delta_log`.
    Log,
    /// Iceberg's metadata files, manifest lists and manifests.
    Manifest,
    /// Parquet footers and page indexes.
    Footer,
    /// Anything else that is read.
    Data,
    List,
    /// Whatever changes the store.
    Write,
}

/// Requests since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    pub log: u64,
    pub manifest: u64,
    pub footer: u64,
    pub data: u64,
    pub list: u64,
    pub write: u64,
}

impl RequestCounts {
    pub fn since(self, earlier: Self) -> Self {
        Self {
            log: self.log - earlier.log,
            manifest: self.manifest - earlier.manifest,
            footer: self.footer - earlier.footer,
            data: self.data - earlier.data,
            list: self.list - earlier.list,
            write: self.write - earlier.write,
        }
    }
}

#[derive(Default)]
pub(crate) struct RequestCounters([AtomicU64; 6]);

impl RequestCounters {
    fn add(&self, kind: RequestKind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> RequestCounts {
        let get = |kind: RequestKind| self.0[kind as usize].load(Ordering::Relaxed);
        RequestCounts {
            log: get(RequestKind::Log),
            manifest: get(RequestKind::Manifest),
            footer: get(RequestKind::Footer),
            data: get(RequestKind::Data),
            list: get(RequestKind::List),
            write: get(RequestKind::Write),
        }
    }
}

pub(crate) struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    counters: Arc<RequestCounters>,
    /// Only what lies below one of these exists. `None`: the store has no outside.
    roots: Option<Vec<Root>>,
}

impl CountingStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, counters: Arc<RequestCounters>, roots: Option<Vec<Path>>) -> Self {
        Self { inner, counters, roots: roots.map(|roots| roots.into_iter().map(Root::new).collect()) }
    }

    /// The allowed folder in which a path lies.
    fn root_of(&self, path: &Path) -> Option<&Root> {
        self.roots.iter().flatten().find(|root| root.holds(path))
    }

    fn check(&self, path: &Path) -> Result<()> {
        match &self.roots {
            Some(_) if self.root_of(path).is_none() => Err(object_store::Error::PermissionDenied {
                path: path.to_string(),
                source: "the path lies outside the allowed folders".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Behind a symbolic link lies another place than the one that was asked for, and maybe another table's.
    async fn check_real(&self, path: &Path) -> Result<()> {
        self.check(path)?;
        let Some(root) = self.root_of(path) else { return Ok(()) };
        let (asked, root) = (on_disk(path), root.clone());
        let real = tokio::task::spawn_blocking(move || {
            root.look();
            let real = std::fs::canonicalize(&asked)?;
            let is_readable = std::fs::metadata(&real).is_ok_and(|found| found.is_file() || found.is_dir());
            Ok::<_, std::io::Error>((real == asked, is_readable))
        });
        match real.await? {
            // Whoever opened a pipe would wait for its writer.
            Ok((true, false)) => {
                Err(object_store::Error::PermissionDenied { path: path.to_string(), source: "neither a file nor a folder".into() })
            }
            Ok((false, _)) => Err(object_store::Error::PermissionDenied {
                path: path.to_string(),
                source: "the path leads through a symbolic link".into(),
            }),
            // What is not there, or cannot be looked at, is for the store to say.
            Ok((true, true)) | Err(_) => Ok(()),
        }
    }

    fn count_read(&self, path: &Path) {
        let part = |name: &str| path.parts().any(|part| part.as_ref() == name);
        self.counters.add(if part("_delta_log") {
            RequestKind::Log
        } else if part("metadata") {
            RequestKind::Manifest
        } else {
            RequestKind::Data
        });
    }

    /// A part of a Parquet file's end, and which object it is.
    pub(crate) async fn get_footer(&self, path: &Path, range: Range<u64>) -> Result<(Bytes, Option<Identity>)> {
        self.check_real(path).await?;
        self.counters.add(RequestKind::Footer);
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.inner.get_opts(path, options).await?;
        // Before the bytes: what is written meanwhile is another file to whoever reads on.
        let identity = match &found.payload {
            GetResultPayload::File(file, _) => Identity::of_file(file),
            GetResultPayload::Stream(_) => Identity::of_object(found.meta.e_tag.as_deref()),
        };
        Ok((found.bytes().await?, identity))
    }

    /// Whether an object still has its name, where that can be told without a request to a remote store.
    pub(crate) async fn is_still(&self, path: &Path, identity: &Identity) -> bool {
        matches!(identity, Identity::ETag(_)) || self.identity(path).await.as_ref() == Some(identity)
    }

    /// Of the file on this machine that has this name.
    pub(crate) async fn identity(&self, path: &Path) -> Option<Identity> {
        let root = self.root_of(path).filter(|root| root.is_near())?;
        match root.identity(path) {
            Some(identity) => Some(identity),
            None => Identity::of_file(&self.open_file(path).await.ok()?),
        }
    }

    /// A range of the file with this identity, where its bytes are in memory.
    pub(crate) fn get_resident(&self, path: &Path, range: &Range<u64>, identity: &Identity) -> Option<Bytes> {
        self.root_of(path)?.read(path, std::slice::from_ref(range), Some(identity))?.pop()
    }

    /// Ranges of the object with this identity, and of no other that has its name by now.
    pub(crate) async fn get_ranges_of(&self, path: &Path, ranges: &[Range<u64>], identity: Option<&Identity>) -> Result<Vec<Bytes>> {
        match identity {
            None => self.get_ranges(path, ranges).await,
            Some(Identity::ETag(e_tag)) => {
                let fetch = |range| self.get_if_match(path, range, e_tag);
                coalesce_ranges(ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await
            }
            Some(Identity::File { .. }) => {
                if let Some(bytes) = self.root_of(path).and_then(|root| root.read(path, ranges, identity)) {
                    self.count_read(path);
                    return Ok(bytes);
                }
                let (file, ranges, identity) = (self.open_file(path).await?, ranges.to_vec(), identity.cloned());
                self.count_read(path);
                let read = move || (read_ranges(&file, &ranges), is_of(&file, identity.as_ref()));
                let failed = |source: std::io::Error| object_store::Error::Generic { store: "local file", source: source.into() };
                match tokio::task::spawn_blocking(read).await? {
                    (bytes, true) => bytes.map_err(failed),
                    (_, false) => Err(replaced(path)),
                }
            }
        }
    }

    async fn get_if_match(&self, path: &Path, range: Range<u64>, e_tag: &str) -> Result<Bytes> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), if_match: Some(e_tag.to_owned()), ..GetOptions::default() };
        let found = self.get_opts(path, options).await?;
        // Not every store heeds the condition.
        if found.meta.e_tag.as_deref() != Some(e_tag) {
            return Err(replaced(path));
        }
        found.bytes().await
    }

    async fn open_file(&self, path: &Path) -> Result<File> {
        self.check_real(path).await?;
        match self.inner.get_opts(path, GetOptions::default()).await?.payload {
            GetResultPayload::File(file, _) => Ok(file),
            GetResultPayload::Stream(_) => {
                Err(object_store::Error::NotImplemented { operation: "an open file".to_owned(), implementer: self.inner.to_string() })
            }
        }
    }

    fn list_checked(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce() -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.add(RequestKind::List);
        match self.check(prefix.unwrap_or(&Path::ROOT)) {
            Ok(()) => list(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }
}

/// Of the object that was asked for, by another one.
pub(crate) fn replaced(path: &Path) -> object_store::Error {
    object_store::Error::Precondition { path: path.to_string(), source: "another object has this name now".into() }
}

fn read_ranges(mut file: &File, ranges: &[Range<u64>]) -> std::io::Result<Vec<Bytes>> {
    let size_bytes = file.metadata()?.len();
    let read = |range: &Range<u64>| {
        let wanted = range.end.checked_sub(range.start).filter(|_| range.end <= size_bytes).and_then(|bytes| usize::try_from(bytes).ok());
        let mut bytes = vec![0; wanted.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof))?];
        file.seek(SeekFrom::Start(range.start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes.into())
    };
    ranges.iter().map(read).collect()
}

impl fmt::Debug for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.check(location)?;
        self.counters.add(RequestKind::Write);
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.check(location)?;
        self.counters.add(RequestKind::Write);
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check_real(location).await?;
        self.count_read(location);
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if let Some(bytes) = self.root_of(location).and_then(|root| root.read(location, ranges, None)) {
            self.count_read(location);
            return Ok(bytes);
        }
        self.check_real(location).await?;
        self.count_read(location);
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.counters.add(RequestKind::Write);
        let checked = Self { inner: Arc::clone(&self.inner), counters: Arc::clone(&self.counters), roots: self.roots.clone() };
        self.inner.delete_stream(locations.map(move |path| path.and_then(|path| checked.check(&path).map(|()| path))).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_checked(prefix, || self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_checked(prefix, || self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check(prefix.unwrap_or(&Path::ROOT))?;
        self.counters.add(RequestKind::List);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.counters.add(RequestKind::Write);
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.counters.add(RequestKind::Write);
        self.inner.rename_opts(from, to, options).await
    }
}
