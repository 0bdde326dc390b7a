//! Around every store: requests counted by kind, and for local files no path outside the allowed folders.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};

use super::resident::{Root, on_disk};

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

/// Marks a read of a Parquet footer: put into `GetOptions::extensions`.
#[derive(Clone, Copy)]
pub(crate) struct FooterRead;

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
            Ok::<_, std::io::Error>(std::fs::canonicalize(&asked)? == asked)
        });
        match real.await? {
            Ok(false) => Err(object_store::Error::PermissionDenied {
                path: path.to_string(),
                source: "the path leads through a symbolic link".into(),
            }),
            // What is not there, or cannot be looked at, is for the store to say.
            Ok(true) | Err(_) => Ok(()),
        }
    }

    fn count_read(&self, path: &Path, footer: bool) {
        let part = |name: &str| path.parts().any(|part| part.as_ref() == name);
        self.counters.add(if footer {
            RequestKind::Footer
        } else if part("_delta_log") {
            RequestKind::Log
        } else if part("metadata") {
            RequestKind::Manifest
        } else {
            RequestKind::Data
        });
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
        self.count_read(location, options.extensions.get::<FooterRead>().is_some());
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if let Some(bytes) = self.root_of(location).and_then(|root| root.read(location, ranges)) {
            self.count_read(location, false);
            return Ok(bytes);
        }
        self.check_real(location).await?;
        self.count_read(location, false);
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
