//! Reads data files for DataFusion: footers from the cache, whole with their page index and renamed to the table's
//! schema; bytes of remote files from the cache too.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use arrow::datatypes::{Schema, TimeUnit};
use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::Int96Coercer;
use datafusion::datasource::physical_plan::{ParquetFileMetrics, ParquetFileReaderFactory};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, MetadataFetch};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::basic::Type as PhysicalType;
use parquet::errors::{ParquetError, Result};
use parquet::file::FOOTER_SIZE;
use parquet::file::metadata::{
    FileMetaData, FooterTail, PageIndexPolicy, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataOptions, ParquetMetaDataReader,
    ParquetStatisticsPolicy, RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::schema::types::SchemaDescriptor;

use super::beyond::Chunk;
use super::hot::{Effort, Footer};
use super::lookup::Lookups;
use super::plain::canonical;
use super::rename::Naming;
use super::snapshot::LakeFile;
use crate::caches::{Caches, FooterKey, RangeKey};
use crate::stores::{CountingStore, Identity, replaced};

/// Read from a file's end at first: holds the footer and page index of most files, so that one request is enough.
const FOOTER_GUESS_BYTES: u64 = 256 << 10;

/// One per table version and store.
pub(crate) struct LakeReaderFactory {
    pub store_name: Arc<str>,
    pub store: Arc<CountingStore>,
    pub caches: Arc<Caches>,
    pub naming: Arc<Naming>,
    pub lookups: Arc<Lookups>,
    pub effort: Arc<Effort>,
}

impl fmt::Debug for LakeReaderFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeReaderFactory").field("store", &self.store_name).finish_non_exhaustive()
    }
}

impl LakeReaderFactory {
    pub(crate) fn file(&self, path: Path, size_bytes: u64, scanned: ScannedFile) -> LakeFileReader {
        LakeFileReader {
            store_name: Arc::clone(&self.store_name),
            store: Arc::clone(&self.store),
            caches: Arc::clone(&self.caches),
            naming: Arc::clone(&self.naming),
            lookups: Arc::clone(&self.lookups),
            effort: Arc::clone(&self.effort),
            path,
            size_bytes,
            scanned,
            held: None,
            metrics: None,
        }
    }
}

impl ParquetFileReaderFactory for LakeReaderFactory {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::common::Result<Box<dyn AsyncFileReader + Send>> {
        let scanned = file.extension::<ScannedFile>().cloned().unwrap_or_default();
        let mut reader = self.file(file.object_meta.location, file.object_meta.size, scanned);
        reader.held = reader.scanned.held();
        reader.metrics = Some(ParquetFileMetrics::new(partition, reader.path.as_ref(), metrics));
        Ok(Box::new(reader))
    }
}

/// A file of a scan, on its way through a plan.
#[derive(Clone, Default)]
pub(crate) struct ScannedFile {
    /// [`LakeFile::version`].
    version: u64,
    /// [`LakeFile::shape`].
    shape: Option<u64>,
    /// By which all readers of the scan read it, whatever is under its name by now.
    footer: Arc<Mutex<Option<Pinned>>>,
}

/// Held by those who read: a scan of many files does not keep all of their footers in memory.
struct Pinned {
    footer: Weak<Footer>,
    identity: Option<Identity>,
}

impl ScannedFile {
    /// Of which nothing is known yet.
    pub(crate) fn first_seen(version: u64) -> Self {
        Self { version, ..Self::default() }
    }

    pub(crate) fn of(file: &LakeFile) -> Self {
        Self { version: file.version, shape: file.shape, footer: Arc::default() }
    }

    fn held(&self) -> Option<Arc<Footer>> {
        self.footer.lock().as_ref()?.footer.upgrade()
    }

    /// The footer that the scan has, or from now on this one, unless it is of another object than those before.
    fn hold(&self, footer: Arc<Footer>) -> Option<Arc<Footer>> {
        let mut pinned = self.footer.lock();
        if let Some(before) = pinned.as_ref() {
            if let Some(held) = before.footer.upgrade() {
                return Some(held);
            }
            match (&before.identity, &footer.identity) {
                (Some(before), Some(now)) if before.may_be_read_on(now) => {}
                (None, None) => {}
                _ => return None,
            }
        }
        *pinned = Some(Pinned { footer: Arc::downgrade(&footer), identity: footer.identity.clone() });
        Some(footer)
    }
}

/// What a file says of itself.
pub(crate) struct OwnSchema {
    /// By the file's own names, without `ARROW:schema`.
    pub schema: Schema,
    pub rows: u64,
    /// [`LakeFile::shape`].
    pub shape: u64,
}

/// One data file.
pub(crate) struct LakeFileReader {
    store_name: Arc<str>,
    store: Arc<CountingStore>,
    caches: Arc<Caches>,
    naming: Arc<Naming>,
    lookups: Arc<Lookups>,
    effort: Arc<Effort>,
    path: Path,
    size_bytes: u64,
    scanned: ScannedFile,
    held: Option<Arc<Footer>>,
    metrics: Option<ParquetFileMetrics>,
}

impl LakeFileReader {
    /// The footer with the table's names, from the cache or the store: of the object that has the name now.
    pub(crate) async fn footer(&self) -> Result<Arc<Footer>> {
        let (mut footer, is_new) = self.kept_footer().await?;
        if let Some(identity) = footer.identity.as_ref().filter(|_| !is_new)
            && !self.store.is_still(&self.path, identity).await
        {
            self.forget_footer().await;
            footer = self.kept_footer().await?.0;
        }
        if !self.may_be_kept(footer.identity.as_ref()) {
            self.forget_footer().await;
        }
        if self.scanned.shape.is_some_and(|shape| shape != footer.shape) {
            return Err(external(replaced(&self.path)));
        }
        Ok(footer)
    }

    /// And whether it was read now.
    async fn kept_footer(&self) -> Result<(Arc<Footer>, bool)> {
        let mut is_new = false;
        let load = async {
            is_new = true;
            let (tail, encoded) = self.fetch_footer().await?;
            let identity = tail.identity.clone();
            renamed(tail, &encoded, &self.naming)
                .await
                .map(|(footer, shape)| Arc::new(Footer::new(footer, self.size_bytes, identity, shape)))
        };
        match self.caches.footers.get_with(self.footer_key(&self.naming), load).await {
            Ok(footer) => Ok((footer, is_new)),
            Err(_) if self.has_other_size().await => Err(external(replaced(&self.path))),
            // Kept whole, so that whoever handles it can tell a damaged file from an unreachable store.
            Err(error) => {
                let file = format!("{}/{}", self.store_name, self.path);
                Err(ParquetError::External(Box::new(FooterError { file, source: error })))
            }
        }
    }

    /// Whether a plain file is another one by now, which has its footer elsewhere.
    async fn has_other_size(&self) -> bool {
        self.scanned.shape.is_some() && self.store.head(&self.path).await.is_ok_and(|found| found.size != self.size_bytes)
    }

    /// Whether what was read of an object with this identity may serve the next query. Files of table formats are written once;
    /// of a plain file on this machine, a change may be at work that its identity shows already.
    fn may_be_kept(&self, identity: Option<&Identity>) -> bool {
        self.scanned.shape.is_none() || identity.is_none_or(|identity| self.is_settled(identity))
    }

    fn is_settled(&self, identity: &Identity) -> bool {
        identity.is_settled(self.caches.limits.settled, SystemTime::now())
    }

    /// It is another object's, or may be soon.
    async fn forget_footer(&self) {
        self.caches.footers.remove(&self.footer_key(&self.naming)).await;
    }

    fn footer_key(&self, naming: &Naming) -> FooterKey {
        FooterKey {
            store: Arc::clone(&self.store_name),
            path: self.path.clone(),
            size_bytes: self.size_bytes,
            version: self.scanned.version,
            naming: naming.fingerprint(),
        }
    }

    /// What the file says of itself. The footer is cached as it is wanted in a table whose files all have this schema, which
    /// spares most of them a second request.
    pub(crate) async fn own_schema(&self) -> Result<OwnSchema> {
        let (tail, encoded) = self.fetch_footer().await?;
        let metadata = ParquetMetaDataReader::decode_metadata(&encoded)?;
        let file = metadata.file_metadata();
        let shape = shape(file.schema_descr(), file.num_rows());
        let schema = parquet_to_arrow_schema(file.schema_descr(), None)?;
        let coerced = Int96Coercer::new(file.schema_descr(), &schema, &TimeUnit::Microsecond).with_timezone(Some("UTC".into())).coerce();
        let rows = u64::try_from(file.num_rows()).map_err(|_| ParquetError::General("a negative number of rows".to_owned()))?;
        let schema = Schema::new(canonical(coerced.unwrap_or(schema).fields()));
        let naming = Naming::logical(schema.fields());
        let identity = tail.identity.clone();
        // What else may be wrong with the file, whoever reads it will be told.
        if identity.as_ref().is_none_or(|identity| self.is_settled(identity))
            && let Ok((footer, shape)) = renamed(tail, &encoded, &naming).await
        {
            let footer = Arc::new(Footer::new(footer, self.size_bytes, identity, shape));
            self.caches.footers.insert(self.footer_key(&naming), footer).await;
        }
        Ok(OwnSchema { schema, rows, shape })
    }

    /// The encoded footer, and the end of the file that was read with it.
    async fn fetch_footer(&self) -> Result<(Tail<'_>, Bytes)> {
        if self.size_bytes < FOOTER_SIZE as u64 {
            return Err(ParquetError::EOF(format!("{} bytes are no Parquet file", self.size_bytes)));
        }
        let mut tail = Tail::fetch(self, self.size_bytes.saturating_sub(FOOTER_GUESS_BYTES)).await?;
        let end = tail.bytes.slice(tail.bytes.len() - FOOTER_SIZE..);
        let footer = FooterTail::try_from(&end[..])?;
        if footer.is_encrypted_footer() {
            return Err(ParquetError::NYI("an encrypted footer".to_owned()));
        }
        let length = (footer.metadata_length() + FOOTER_SIZE) as u64;
        if length > self.size_bytes {
            return Err(ParquetError::EOF(format!("a footer of {length} bytes in a file of {}", self.size_bytes)));
        }
        let start = self.size_bytes - length;
        if start < tail.start {
            tail = Tail::fetch(self, start).await?;
        }
        let from = (start - tail.start) as usize;
        let encoded = tail.bytes.slice(from..tail.bytes.len() - FOOTER_SIZE);
        Ok((tail, encoded))
    }

    fn count_bytes(&self, ranges: &[Range<u64>]) {
        if let Some(metrics) = &self.metrics {
            let bytes: u64 = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
            metrics.bytes_scanned.add(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
    }

    fn is_remote(&self) -> bool {
        !self.store_name.starts_with("file:")
    }

    /// The footer by which this scan reads the file.
    async fn pinned(&mut self) -> Result<Arc<Footer>> {
        if let Some(footer) = self.held.clone().or_else(|| self.scanned.held()) {
            return Ok(Arc::clone(self.held.insert(footer)));
        }
        let mut footer = self.footer().await?;
        if let Some(renewed) = footer.renewed() {
            footer = Arc::new(renewed);
            self.caches.footers.insert(self.footer_key(&self.naming), Arc::clone(&footer)).await;
        }
        let footer = self.scanned.hold(footer).ok_or_else(|| external(replaced(&self.path)))?;
        Ok(Arc::clone(self.held.insert(footer)))
    }

    fn range_key(&self, footer: &Footer, range: &Range<u64>, decompressed: Option<Chunk>) -> RangeKey {
        RangeKey {
            store: Arc::clone(&self.store_name),
            path: self.path.clone(),
            size_bytes: self.size_bytes,
            version: self.scanned.version,
            identity: footer.identity.clone(),
            start: range.start,
            end: range.end,
            decompressed,
        }
    }

    /// From the store: of the object whose footer was read, and of no other that has its name by now.
    async fn load(&self, footer: &Footer, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.count_bytes(ranges);
        let loaded = self.store.get_ranges_of(&self.path, ranges, footer.identity.as_ref()).await;
        if let Err(object_store::Error::Precondition { .. }) = &loaded {
            self.forget_footer().await;
        }
        loaded.map_err(external)
    }

    /// As they stand in the file: local ones from there, for the operating system has them in memory.
    async fn stored_ranges(&self, footer: &Footer, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if self.is_remote() { self.cached_ranges(footer, ranges).await } else { self.load(footer, ranges).await }
    }

    async fn cached_ranges(&self, footer: &Footer, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let key = |range: &Range<u64>| self.range_key(footer, range, None);
        let mut found = Vec::with_capacity(ranges.len());
        for range in ranges {
            found.push(self.caches.ranges.get(&key(range)).await);
        }
        let missing: Vec<_> = ranges.iter().zip(&found).filter(|(_, bytes)| bytes.is_none()).map(|(range, _)| range.clone()).collect();
        if missing.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        let mut loaded = self.load(footer, &missing).await?.into_iter();
        let mut all = Vec::with_capacity(ranges.len());
        for (range, bytes) in ranges.iter().zip(found) {
            all.push(match bytes {
                Some(bytes) => bytes,
                None => {
                    let bytes = loaded.next().ok_or_else(|| ParquetError::EOF("fewer ranges than asked for".to_owned()))?;
                    // A copy: what came may be a slice of a larger buffer, which would stay in memory with it.
                    self.caches.ranges.insert(key(range), Bytes::copy_from_slice(&bytes)).await;
                    bytes
                }
            });
        }
        Ok(all)
    }

    /// What lies beyond the file's end, of chunks that are decompressed once each if the cache has let them go.
    async fn hot_ranges(&self, footer: &Footer, ranges: &[(Chunk, Range<usize>)]) -> Result<Vec<Bytes>> {
        let mut chunks: Vec<Chunk> = ranges.iter().map(|(chunk, _)| *chunk).collect();
        chunks.dedup();
        let whole = futures::future::try_join_all(chunks.iter().map(|chunk| self.hot_chunk(footer, *chunk))).await?;
        let whole: HashMap<Chunk, Bytes> = chunks.into_iter().zip(whole).collect();
        let slice = |(chunk, part): &(Chunk, Range<usize>)| {
            let bytes = whole.get(chunk).filter(|bytes| part.end <= bytes.len());
            bytes.map(|bytes| bytes.slice(part.clone())).ok_or_else(|| ParquetError::EOF("a range outside its column chunk".to_owned()))
        };
        ranges.iter().map(slice).collect()
    }

    async fn hot_chunk(&self, footer: &Footer, chunk: Chunk) -> Result<Bytes> {
        let range = footer.stored(chunk)?;
        let load = async {
            footer.lost(chunk);
            let stored = self.stored_ranges(footer, std::slice::from_ref(&range)).await?.pop();
            let stored = stored.ok_or_else(|| ParquetError::EOF("no bytes".to_owned()))?;
            let (bytes, layout) = footer.decompress(chunk, stored)?;
            // Another's, where the store tells no object from the next.
            if footer.shows(chunk, &layout)? { Ok(bytes) } else { Err(external(replaced(&self.path))) }
        };
        let loaded = self.caches.ranges.get_with(self.range_key(footer, &range, Some(chunk)), load).await;
        loaded.map_err(|error| ParquetError::External(Box::new(SharedError(error))))
    }

    /// Counts what was read, and decompresses what is read often: of remote files what is at hand, of local ones what is in
    /// memory, for nothing is asked of a store or a disk for the sake of the next query. Of local files it must be known whose
    /// it is, whatever comes under the name, or columns of two files would meet in one row.
    async fn note(&self, footer: &Footer, ranges: &[Range<u64>], read: &[Bytes]) {
        let is_known = self.is_remote() || footer.identity.is_some();
        if !is_known || !self.may_be_kept(footer.identity.as_ref()) {
            return;
        }
        let Some(turn) = footer.read(ranges, self.caches.ranges.room(), &self.effort) else { return };
        let chunk = turn.chunk;
        let Ok(range) = footer.stored(chunk) else { return turn.give_up() };
        let whole = match ranges.iter().zip(read).find(|(it, _)| **it == range) {
            Some((_, bytes)) => Some(bytes.clone()),
            None if self.is_remote() => None,
            None => footer.identity.as_ref().and_then(|identity| self.store.get_resident(&self.path, &range, identity)),
        };
        let Some(whole) = whole else { return };
        match footer.decompress(chunk, whole) {
            Ok((bytes, layout)) => {
                self.caches.ranges.insert(self.range_key(footer, &range, Some(chunk)), bytes).await;
                turn.heat(layout);
            }
            // Whoever reads it will be told what is wrong.
            Err(_) => turn.give_up(),
        }
    }
}

impl AsyncFileReader for LakeFileReader {
    /// DataFusion reads bloom filters this way, one after the other, and next to nothing else: they are cached wherever they may be.
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            let footer = self.pinned().await?;
            let ranges = std::slice::from_ref(&range);
            let mut bytes = match self.may_be_kept(footer.identity.as_ref()) {
                true => self.cached_ranges(&footer, ranges).await?,
                false => self.load(&footer, ranges).await?,
            };
            let bytes = bytes.pop().ok_or_else(|| ParquetError::EOF("no bytes".to_owned()))?;
            let column = if self.lookups.is_empty() { None } else { footer.filtered_column(&range) };
            Ok(column.and_then(|column| self.lookups.short_filter(&column, &bytes)).unwrap_or(bytes))
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            let footer = self.pinned().await?;
            let footer = footer.as_ref();
            let (mut stored, mut hot) = (Vec::with_capacity(ranges.len()), Vec::new());
            for range in &ranges {
                match Chunk::at(range) {
                    Some(part) => hot.push(part),
                    None => stored.push(range.clone()),
                }
            }
            let mut read = Vec::new();
            if !stored.is_empty() {
                read = self.stored_ranges(footer, &stored).await?;
                self.note(footer, &stored, &read).await;
            }
            if hot.is_empty() {
                return Ok(read);
            }
            let (mut read, mut hot) = (read.into_iter(), self.hot_ranges(footer, &hot).await?.into_iter());
            let of = |range: &Range<u64>| if Chunk::at(range).is_some() { hot.next() } else { read.next() };
            let all: Option<Vec<_>> = ranges.iter().map(of).collect();
            all.ok_or_else(|| ParquetError::EOF("fewer ranges than asked for".to_owned()))
        }
        .boxed()
    }

    /// With the page index, although DataFusion asks without it: it would read it anew for each query (#23978).
    fn get_metadata<'a>(&'a mut self, _options: Option<&'a ArrowReaderOptions>) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move { Ok(Arc::clone(&self.pinned().await?.current)) }.boxed()
    }
}

/// Why a data file could not be opened.
#[derive(Debug)]
pub struct FooterError {
    pub file: String,
    pub source: Arc<ParquetError>,
}

impl fmt::Display for FooterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read the footer of {}", self.file)
    }
}

/// By hand: a derived source would be the `Arc`, which nobody looks for.
impl std::error::Error for FooterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// What several readers waited for. By hand, as [`FooterError`].
#[derive(Debug)]
struct SharedError(Arc<ParquetError>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot read a column chunk")
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.as_ref())
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// A footer with its page index, and a table's names; and its [`LakeFile::shape`].
async fn renamed(mut tail: Tail<'_>, encoded: &Bytes, naming: &Naming) -> Result<(ParquetMetaData, u64)> {
    let own = ParquetMetaDataReader::decode_schema(encoded)?;
    let schema = naming.apply(own.as_ref())?;
    let trusted = trusted_leaves(&schema);
    let options = ParquetMetaDataOptions::new()
        .with_schema(Arc::clone(&schema))
        .with_column_stats_policy(ParquetStatisticsPolicy::skip_except(&trusted));
    let metadata = ParquetMetaDataReader::decode_metadata_with_options(encoded, Some(&options))?;

    let mut indexed = ParquetMetaDataReader::new_with_metadata(metadata).with_page_index_policy(PageIndexPolicy::Optional);
    indexed.load_page_index(&mut tail).await?;
    let metadata = without_surprises(indexed.finish()?, &trusted)?;
    let shape = shape(&own, metadata.file_metadata().num_rows());
    Ok((metadata, shape))
}

fn shape(own: &SchemaDescriptor, rows: i64) -> u64 {
    super::version((format!("{:?}", own.root_schema()), rows))
}

/// The end of a file, and more of it on demand.
struct Tail<'a> {
    file: &'a LakeFileReader,
    start: u64,
    bytes: Bytes,
    /// Of the object that they were read from.
    identity: Option<Identity>,
}

impl<'a> Tail<'a> {
    async fn fetch(file: &'a LakeFileReader, start: u64) -> Result<Self> {
        let (bytes, identity) = read(file, start..file.size_bytes).await?;
        Ok(Self { file, start, bytes, identity })
    }
}

async fn read(file: &LakeFileReader, range: Range<u64>) -> Result<(Bytes, Option<Identity>)> {
    let wanted = range.end - range.start;
    let (bytes, identity) = file.store.get_footer(&file.path, range).await.map_err(external)?;
    if bytes.len() as u64 != wanted {
        return Err(ParquetError::EOF(format!("{} bytes where the table's metadata promises {wanted}", bytes.len())));
    }
    Ok((bytes, identity))
}

impl MetadataFetch for &mut Tail<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            if range.end > self.file.size_bytes || range.start > range.end {
                return Err(ParquetError::EOF("the page index lies outside the file".to_owned()));
            }
            if range.start >= self.start {
                let from = (range.start - self.start) as usize;
                return Ok(self.bytes.slice(from..from + (range.end - range.start) as usize));
            }
            let (bytes, identity) = read(self.file, range).await?;
            if identity == self.identity { Ok(bytes) } else { Err(external(replaced(&self.file.path))) }
        }
        .boxed()
    }
}

/// The leaves whose minimum and maximum can be believed. Those of floats say nothing of NaN, which SQL sorts above
/// every number; those of INT96 have no defined order.
fn trusted_leaves(schema: &SchemaDescriptor) -> Vec<usize> {
    let untrusted = [PhysicalType::FLOAT, PhysicalType::DOUBLE, PhysicalType::INT96];
    let columns = schema.columns().iter().enumerate();
    columns.filter(|(_, leaf)| !untrusted.contains(&leaf.physical_type())).map(|(index, _)| index).collect()
}

/// Without `ARROW:schema`, which would bring back the file's own names and types, and without untrusted statistics.
fn without_surprises(metadata: ParquetMetaData, trusted: &[usize]) -> Result<ParquetMetaData> {
    let file = metadata.file_metadata();
    let stripped = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        None,
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    let mut parts = metadata.into_builder();
    let mut column_index = parts.take_column_index();
    for column in column_index.iter_mut().flatten().flat_map(|row_group| row_group.iter_mut().enumerate()) {
        if trusted.binary_search(&column.0).is_err() {
            *column.1 = ColumnIndexMetaData::NONE;
        }
    }
    let row_groups = parts.take_row_groups().into_iter().map(without_legacy_bounds).collect::<Result<_>>()?;
    let offset_index = parts.take_offset_index();
    Ok(ParquetMetaDataBuilder::new(stripped)
        .set_row_groups(row_groups)
        .set_column_index(column_index)
        .set_offset_index(offset_index)
        .build())
}

/// Writers before 2018 compared strings and decimals byte by byte as signed numbers.
fn without_legacy_bounds(row_group: RowGroupMetaData) -> Result<RowGroupMetaData> {
    let is_legacy = |column: &parquet::file::metadata::ColumnChunkMetaData| {
        matches!(column.column_type(), PhysicalType::BYTE_ARRAY | PhysicalType::FIXED_LEN_BYTE_ARRAY)
            && column.statistics().is_some_and(parquet::file::statistics::Statistics::is_min_max_deprecated)
    };
    if !row_group.columns().iter().any(is_legacy) {
        return Ok(row_group);
    }
    let columns = row_group
        .columns()
        .iter()
        .map(|column| if is_legacy(column) { column.clone().into_builder().clear_statistics().build() } else { Ok(column.clone()) });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    row_group.into_builder().set_column_metadata(columns).build()
}
