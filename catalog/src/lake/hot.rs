//! Hot column chunks, decompressed. The pages of a chunk that is read again and again are kept in the data
//! cache as they are after decompression, and the footer that readers get says that the chunk is not compressed and lies
//! beyond the file's end, at an address of its own. So the Parquet reader decodes it as any other, and only the reader of
//! the file's bytes knows where they come from. Of whole numbers, the pages may be cut anew ([`super::repage`]).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use parquet::basic::{ColumnOrder, Compression, Encoding, PageType, Repetition, Type as PhysicalType};
use parquet::column::page::{CompressedPage, PageReader, PageWriter};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, OffsetIndexBuilder, ParquetMetaData, ParquetMetaDataBuilder, RowGroupMetaData, SortingColumn,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::{OffsetIndexMetaData, PageLocation};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, SchemaDescPtr, SchemaDescriptor, Type};

use super::repage::repaged;
use crate::caches::Room;
use crate::stores::Identity;

/// Where the first chunk's address is; no file is as long.
const BEYOND: u64 = 1 << 62;
/// Of the addresses, for each chunk; more than one may have bytes.
const STRIDE: u64 = 1 << 32;
const MAX_CHUNKS: usize = 1 << 29;

/// Decompressed. A larger chunk would hold up the query that decompresses it, and push many others out.
const MAX_CHUNK_BYTES: u64 = 16 << 20;

/// A chunk is decompressed when so much of it has been read as this many times the whole, where the cache has room; and where it
/// has not, so seldom that tables which are larger than the cache lose next to nothing by it. Whoever looks up one page here and
/// one there pays for no whole chunk.
const READS_WITH_ROOM: u64 = 2;
const READS_WHEN_FULL: u64 = 16;

/// Of stored chunks, a scan decompresses this much and as much again as it has read: whoever looks up one row pays for a chunk or
/// two at a time.
const ALWAYS_SPENT: u64 = 2 << 20;

/// A chunk that the cache let go so often is read from the file again.
const LOSSES: u32 = 2;

/// Showing what is hot copies the footer. One of more chunks than these is copied by so much fewer of those who open the file.
const CHUNKS_COPIED_AT_ONCE: usize = 1000;

/// What is known of a chunk takes about this much memory.
const CHUNK_STATE_BYTES: usize = 150;

/// A file's footer with its page index, and which of its chunks are hot.
#[derive(Debug)]
pub(crate) struct Footer {
    /// As the file has it.
    pub metadata: Arc<ParquetMetaData>,
    /// With hot chunks where they lie decompressed.
    pub current: Arc<ParquetMetaData>,
    /// Of the heat that `current` shows.
    generation: u64,
    size_bytes: u64,
    /// Of the object that it was read from, where it can be told.
    pub identity: Option<Identity>,
    /// Of what the file itself says of its columns and rows.
    pub shape: u64,
    /// Leaves of the schema by where their bloom filters lie; none where several say that it is theirs.
    filters: Arc<OnceLock<HashMap<Range<u64>, Option<usize>>>>,
    heat: Arc<Heat>,
}

#[derive(Debug, Default)]
struct Heat {
    chunks: Mutex<Chunks>,
    /// Those that can be decompressed, by where they begin.
    eligible: OnceLock<Vec<(Range<u64>, Chunk)>>,
}

#[derive(Debug, Default)]
struct Chunks {
    states: HashMap<Chunk, State>,
    generation: u64,
    /// How often the file was opened with a footer that does not show this generation.
    stale_opens: usize,
}

#[derive(Debug)]
enum State {
    /// From the file, so many bytes in all.
    Read(u64),
    /// Somebody is at it.
    Heating,
    Hot {
        layout: Arc<Layout>,
        losses: u32,
    },
    /// What the file says of it is not so.
    Unfit,
}

/// Of a decompressed chunk: the dictionary, if there is one, and then the pages, each with its header.
#[derive(Debug, PartialEq)]
pub(crate) struct Layout {
    dictionary_bytes: u64,
    pages: Vec<Page>,
    /// Of the pages, where they are not those of the file.
    bounds: Option<ColumnIndexMetaData>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    first_row: i64,
    bytes: u32,
}

impl Layout {
    fn bytes(&self) -> u64 {
        self.dictionary_bytes + self.pages.iter().map(|page| u64::from(page.bytes)).sum::<u64>()
    }

    fn memory_bytes(&self) -> usize {
        // Bounds of whole numbers: two values and a count.
        let page_bytes = size_of::<Page>() + if self.bounds.is_some() { 3 * size_of::<i64>() } else { 0 };
        size_of::<Self>() + self.pages.len() * page_bytes
    }
}

impl State {
    fn layout_bytes(&self) -> usize {
        if let Self::Hot { layout, .. } = self { layout.memory_bytes() } else { 0 }
    }
}

/// Of the row groups' columns, counted through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Chunk(u32);

impl Chunk {
    /// The chunk with this address, and which of its bytes.
    pub(crate) fn at(range: &Range<u64>) -> Option<(Self, Range<usize>)> {
        let start = range.start.checked_sub(BEYOND)?;
        let (chunk, from) = (u32::try_from(start / STRIDE).ok()?, start % STRIDE);
        let to = from.checked_add(range.end.checked_sub(range.start)?)?;
        Some((Self(chunk), usize::try_from(from).ok()?..usize::try_from(to).ok()?))
    }

    fn address(self) -> u64 {
        BEYOND + u64::from(self.0) * STRIDE
    }
}

/// Bytes that a scan has read of files, and of chunks that it has decompressed for the scans after it: not many more.
#[derive(Debug, Default)]
pub(crate) struct Effort {
    read: AtomicU64,
    spent: AtomicU64,
}

impl Effort {
    fn read(&self, ranges: &[Range<u64>]) {
        let bytes = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)));
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    fn spend(&self, bytes: u64) -> bool {
        let read = self.read.load(Ordering::Relaxed);
        let with = |spent: u64| spent.checked_add(bytes).filter(|spent| *spent <= read.saturating_add(ALWAYS_SPENT));
        self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).is_ok()
    }
}

/// To decompress a chunk, while nobody else does. Whoever lets it go without a word leaves it to the next.
pub(crate) struct Turn<'a> {
    footer: &'a Footer,
    pub chunk: Chunk,
}

impl Turn<'_> {
    /// From now on read where it lies decompressed.
    pub(crate) fn heat(self, layout: Layout) {
        let mut chunks = self.footer.heat.chunks.lock();
        chunks.states.insert(self.chunk, State::Hot { layout: Arc::new(layout), losses: 0 });
        chunks.generation += 1;
    }

    /// It cannot be decompressed.
    pub(crate) fn give_up(self) {
        self.footer.heat.chunks.lock().states.insert(self.chunk, State::Unfit);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(state @ State::Heating) = self.footer.heat.chunks.lock().states.get_mut(&self.chunk) {
            *state = State::Read(0);
        }
    }
}

impl Footer {
    pub(crate) fn new(metadata: ParquetMetaData, size_bytes: u64, identity: Option<Identity>, shape: u64) -> Self {
        let metadata = Arc::new(metadata);
        Self {
            current: Arc::clone(&metadata),
            metadata,
            generation: 0,
            size_bytes,
            identity,
            shape,
            filters: Arc::default(),
            heat: Arc::default(),
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let current = if Arc::ptr_eq(&self.metadata, &self.current) { 0 } else { self.current.memory_size() };
        let layouts = self.heat.chunks.lock().states.values().map(State::layout_bytes).sum::<usize>();
        self.metadata.memory_size() + current + self.chunk_count() * CHUNK_STATE_BYTES + layouts
    }

    /// The one column that has its bloom filter of a row group there.
    pub(crate) fn filtered_column(&self, filter: &Range<u64>) -> Option<ColumnDescPtr> {
        let filters = self.filters.get_or_init(|| {
            let mut filters: HashMap<_, Option<usize>> = HashMap::new();
            for (leaf, column) in self.metadata.row_groups().iter().flat_map(|row_group| row_group.columns().iter().enumerate()) {
                let Some(range) = filter_of(column) else { continue };
                filters.entry(range).and_modify(|it| *it = it.filter(|it| *it == leaf)).or_insert(Some(leaf));
            }
            filters
        });
        let leaf = filters.get(filter).copied().flatten()?;
        Some(self.metadata.file_metadata().schema_descr().column(leaf))
    }

    /// The footer that shows what is hot now, if this one does not, and enough has come together.
    pub(crate) fn renewed(&self) -> Option<Self> {
        let (hot, generation) = {
            let mut chunks = self.heat.chunks.lock();
            if chunks.generation == self.generation {
                return None;
            }
            if chunks.stale_opens < self.chunk_count() / CHUNKS_COPIED_AT_ONCE {
                chunks.stale_opens += 1;
                return None;
            }
            chunks.stale_opens = 0;
            let hot = chunks.states.iter().filter_map(|(chunk, state)| match state {
                State::Hot { layout, .. } => Some((*chunk, Arc::clone(layout))),
                _ => None,
            });
            (hot.collect::<Vec<_>>(), chunks.generation)
        };
        let shown = if hot.is_empty() { None } else { self.with(&hot).ok() };
        Some(Self {
            metadata: Arc::clone(&self.metadata),
            // What cannot be shown is read from the file.
            current: shown.map_or_else(|| Arc::clone(&self.metadata), Arc::new),
            generation,
            size_bytes: self.size_bytes,
            identity: self.identity.clone(),
            shape: self.shape,
            filters: Arc::clone(&self.filters),
            heat: Arc::clone(&self.heat),
        })
    }

    /// Counts these ranges of the file as read, and tells which chunk should be decompressed now: one at most, and for no more
    /// than this scan has `effort` left, or a query would pay for all that come after it.
    pub(crate) fn read(&self, ranges: &[Range<u64>], room: Room, effort: &Effort) -> Option<Turn<'_>> {
        effort.read(ranges);
        let eligible = self.heat.eligible.get_or_init(|| self.all_eligible());
        let mut chunks = self.heat.chunks.lock();
        let mut due = None;
        for range in ranges {
            let after = eligible.partition_point(|(chunk, _)| chunk.start <= range.start);
            let Some((stored, chunk)) = after.checked_sub(1).map(|at| &eligible[at]).filter(|(chunk, _)| range.start < chunk.end) else {
                continue;
            };
            let state = chunks.states.entry(*chunk).or_insert(State::Read(0));
            let State::Read(read) = state else { continue };
            *read = read.saturating_add(range.end.saturating_sub(range.start));
            let is_due = |bytes| {
                let times = if bytes <= room.free_bytes { READS_WITH_ROOM } else { READS_WHEN_FULL };
                bytes <= room.limit_bytes && *read >= times * (stored.end - stored.start)
            };
            if due.is_none()
                && self.column(*chunk).and_then(decompressed_bytes).is_some_and(is_due)
                && effort.spend(stored.end - stored.start)
            {
                *state = State::Heating;
                due = Some(Turn { footer: self, chunk: *chunk });
            }
        }
        due
    }

    /// The cache has let it go. If it does so again, the chunk is read from the file.
    pub(crate) fn lost(&self, chunk: Chunk) {
        let mut chunks = self.heat.chunks.lock();
        let Some(state) = chunks.states.get_mut(&chunk) else { return };
        let State::Hot { losses, .. } = state else { return };
        *losses += 1;
        if *losses >= LOSSES {
            *state = State::Read(0);
            chunks.generation += 1;
        }
    }

    /// Where the chunk lies in the file.
    pub(crate) fn stored(&self, chunk: Chunk) -> Result<Range<u64>> {
        self.eligible(chunk).ok_or_else(|| no_chunk(chunk))
    }

    /// What the chunk is decompressed, given its bytes in the file. The same whenever it is done.
    pub(crate) fn decompress(&self, chunk: Chunk, stored: Bytes) -> Result<(Bytes, Layout)> {
        let (column, pages) = self.column(chunk).zip(self.pages(chunk)).ok_or_else(|| no_chunk(chunk))?;
        let pages = pages.page_locations();
        let (start, rows) = (self.stored(chunk)?.start, self.row_group(chunk).map_or(0, RowGroupMetaData::num_rows));
        let row_count = usize::try_from(rows).map_err(|_| no_chunk(chunk))?;
        let file = Arc::new(Part { start, bytes: stored });
        let mut reader = SerializedPageReader::new(file, column, row_count, Some(pages.to_vec()))?;
        let room = usize::try_from(column.uncompressed_size()).map_err(|_| no_chunk(chunk))?;
        let mut sink = TrackedWrite::new(Vec::with_capacity(room));
        let mut writer = SerializedPageWriter::new(&mut sink);
        let mut layout = Layout { dictionary_bytes: 0, pages: Vec::with_capacity(pages.len()), bounds: None };
        let (mut first_rows, mut encodings) = (pages.iter().map(|page| page.first_row_index), Vec::with_capacity(pages.len()));
        while let Some(page) = reader.get_next_page()? {
            let (bytes, encoding) = (page.buffer().len(), page.encoding());
            // What the footer says need not be so.
            if layout.bytes() + bytes as u64 > 2 * MAX_CHUNK_BYTES {
                return Err(no_chunk(chunk));
            }
            let written = writer.write_page(CompressedPage::new(page, bytes))?;
            if let PageType::DICTIONARY_PAGE = written.page_type {
                layout.dictionary_bytes += written.bytes_written;
                continue;
            }
            let first_row = first_rows.next().ok_or_else(|| no_chunk(chunk))?;
            layout.pages.push(Page { first_row, bytes: u32::try_from(written.bytes_written).map_err(|_| no_chunk(chunk))? });
            encodings.push(encoding);
        }
        let bytes = Bytes::from(sink.into_inner()?);
        if layout.pages.len() != pages.len() || layout.bytes() != bytes.len() as u64 {
            return Err(no_chunk(chunk));
        }
        let better = self.repaged(chunk, rows, &layout, &encodings, &bytes)?;
        let (bytes, layout) = better.unwrap_or((bytes, layout));
        Ok((Bytes::from(Vec::from(bytes).into_boxed_slice()), layout))
    }

    /// The decompressed chunk with pages of our own, where they are better.
    fn repaged(&self, chunk: Chunk, rows: i64, layout: &Layout, encodings: &[Encoding], bytes: &Bytes) -> Result<Option<(Bytes, Layout)>> {
        let column = self.column(chunk).ok_or_else(|| no_chunk(chunk))?;
        let (start, row_count) = (chunk.address(), usize::try_from(rows).map_err(|_| no_chunk(chunk))?);
        let file = Arc::new(Part { start, bytes: bytes.clone() });
        let pages = pages_beyond(rows, layout, start)?.page_locations().clone();
        let reader = SerializedPageReader::new(file, &beyond(column, layout, start)?, row_count, Some(pages))?;
        let first_rows = layout.pages.iter().map(|page| usize::try_from(page.first_row)).collect::<Result<Vec<_>, _>>();
        let first_rows = first_rows.map_err(|_| no_chunk(chunk))?;
        let ends = first_rows.iter().skip(1).copied().chain([row_count]);
        let page_rows: Vec<_> = first_rows.iter().zip(ends).map(|(start, end)| *start..end).collect();
        let (descriptor, dictionary_bytes) = (column.column_descr_ptr(), layout.dictionary_bytes as usize);
        let Some(better) = repaged(&descriptor, &page_rows, dictionary_bytes, encodings, Box::new(reader))? else { return Ok(None) };
        let page = |it: &PageLocation| u32::try_from(it.compressed_page_size).map(|bytes| Page { first_row: it.first_row_index, bytes });
        let pages = better.pages.iter().map(page).collect::<Result<Vec<_>, _>>().map_err(|_| no_chunk(chunk))?;
        let dictionary_bytes = better.pages.first().map_or(0, |first| first.offset);
        let dictionary_bytes = u64::try_from(dictionary_bytes).map_err(|_| no_chunk(chunk))?;
        let layout = Layout { dictionary_bytes, pages, bounds: Some(better.bounds) };
        let is_whole = layout.bytes() == better.bytes.len() as u64 && layout.bytes() <= 2 * MAX_CHUNK_BYTES;
        Ok(is_whole.then_some((Bytes::from(better.bytes), layout)))
    }

    fn row_group(&self, chunk: Chunk) -> Option<&RowGroupMetaData> {
        self.metadata.row_groups().get(chunk.0 as usize / self.columns()?)
    }

    fn column(&self, chunk: Chunk) -> Option<&ColumnChunkMetaData> {
        self.row_group(chunk)?.columns().get(chunk.0 as usize % self.columns()?)
    }

    fn pages(&self, chunk: Chunk) -> Option<&OffsetIndexMetaData> {
        let columns = self.columns()?;
        self.metadata.offset_index()?.get(chunk.0 as usize / columns)?.get(chunk.0 as usize % columns)
    }

    /// For each row group.
    fn columns(&self) -> Option<usize> {
        Some(self.metadata.file_metadata().schema_descr().num_columns()).filter(|columns| *columns > 0)
    }

    fn chunk_count(&self) -> usize {
        self.metadata.num_row_groups().saturating_mul(self.columns().unwrap_or(0)).min(MAX_CHUNKS)
    }

    fn all_eligible(&self) -> Vec<(Range<u64>, Chunk)> {
        let chunks = (0..self.chunk_count() as u32).map(Chunk);
        let mut eligible: Vec<_> = chunks.filter_map(|chunk| Some((self.eligible(chunk)?, chunk))).collect();
        eligible.sort_unstable_by_key(|(range, _)| range.start);
        eligible
    }

    /// Where the chunk lies in the file, if it is one that can be decompressed.
    fn eligible(&self, chunk: Chunk) -> Option<Range<u64>> {
        let (row_group, column) = self.row_group(chunk).zip(self.column(chunk))?;
        decompressed_bytes(column)?;
        let pages = self.pages(chunk)?.page_locations();
        let rows = pages.iter().map(|page| page.first_row_index).chain([row_group.num_rows()]);
        if pages.first()?.first_row_index != 0 || !rows.is_sorted() {
            return None;
        }
        stored(column).filter(|range| range.end <= self.size_bytes && range.end - range.start <= 2 * MAX_CHUNK_BYTES)
    }

    fn with(&self, hot: &[(Chunk, Arc<Layout>)]) -> Result<ParquetMetaData> {
        let hot: HashMap<Chunk, &Layout> = hot.iter().map(|(chunk, layout)| (*chunk, layout.as_ref())).collect();
        let file = self.metadata.file_metadata();
        let schema = anchored(file.schema_descr())?;
        let (mut row_groups, mut index) = (Vec::with_capacity(self.metadata.num_row_groups()), Vec::new());
        let (mut chunks, no_pages) = ((0..MAX_CHUNKS as u32).map(Chunk), Vec::new());
        for (at, row_group) in self.metadata.row_groups().iter().enumerate() {
            let mut columns = vec![anchor(row_group, schema.column(0))?];
            let pages = self.metadata.offset_index().and_then(|index| index.get(at)).unwrap_or(&no_pages);
            let mut all_pages: Vec<_> = pages.first().cloned().into_iter().collect();
            for ((column, pages), chunk) in row_group.columns().iter().zip(pages).zip(&mut chunks) {
                match hot.get(&chunk) {
                    Some(layout) => {
                        columns.push(beyond(column, layout, chunk.address())?);
                        all_pages.push(pages_beyond(row_group.num_rows(), layout, chunk.address())?);
                    }
                    None => {
                        columns.push(column.clone());
                        all_pages.push(pages.clone());
                    }
                }
            }
            row_groups.push(with_columns(row_group, &schema, columns)?);
            index.push(all_pages);
        }
        let orders = file.column_orders().map(|orders| [ColumnOrder::UNDEFINED].into_iter().chain(orders.iter().copied()).collect());
        let created_by = file.created_by().map(str::to_owned);
        let file = FileMetaData::new(file.version(), file.num_rows(), created_by, None, schema, orders);
        let mut chunks = (0..MAX_CHUNKS as u32).map(Chunk);
        let bounds = self.metadata.column_index().map(|index| {
            let bounds_now = |(stored, chunk): (&ColumnIndexMetaData, Chunk)| {
                hot.get(&chunk).and_then(|layout| layout.bounds.as_ref()).unwrap_or(stored).clone()
            };
            let with_anchor = |columns: &Vec<ColumnIndexMetaData>| {
                [ColumnIndexMetaData::NONE].into_iter().chain(columns.iter().zip(&mut chunks).map(bounds_now)).collect()
            };
            index.iter().map(with_anchor).collect()
        });
        let built = ParquetMetaDataBuilder::new(file).set_row_groups(row_groups).set_column_index(bounds).set_offset_index(Some(index));
        Ok(built.build())
    }
}

/// With a first column that nobody reads: DataFusion tells by where the first column's pages lie which row groups are in a part
/// of a file.
fn anchored(schema: &SchemaDescriptor) -> Result<SchemaDescPtr> {
    let root = schema.root_schema();
    let mut name = "\0".to_owned();
    while root.get_fields().iter().any(|field| field.name() == name) {
        name.push('\0');
    }
    let anchor = Type::primitive_type_builder(&name, PhysicalType::BOOLEAN).with_repetition(Repetition::OPTIONAL).build()?;
    let fields = [Arc::new(anchor)].into_iter().chain(root.get_fields().iter().cloned()).collect();
    let root = Type::group_type_builder(root.name()).with_fields(fields).build()?;
    Ok(Arc::new(SchemaDescriptor::new(Arc::new(root))))
}

/// Of no pages, where the row group's own first column is in the file.
fn anchor(row_group: &RowGroupMetaData, column: ColumnDescPtr) -> Result<ColumnChunkMetaData> {
    let first = row_group.columns().first().and_then(stored).map_or(0, |range| range.start);
    ColumnChunkMetaData::builder(column).set_num_values(row_group.num_rows()).set_data_page_offset(signed(first)?).build()
}

fn with_columns(row_group: &RowGroupMetaData, schema: &SchemaDescPtr, columns: Vec<ColumnChunkMetaData>) -> Result<RowGroupMetaData> {
    let after_anchor = |sorted: &SortingColumn| SortingColumn { column_idx: sorted.column_idx.saturating_add(1), ..sorted.clone() };
    let mut built = RowGroupMetaData::builder(Arc::clone(schema))
        .set_num_rows(row_group.num_rows())
        .set_total_byte_size(row_group.total_byte_size())
        .set_sorting_columns(row_group.sorting_columns().map(|columns| columns.iter().map(after_anchor).collect()))
        .set_column_metadata(columns);
    if let Some(ordinal) = row_group.ordinal() {
        built = built.set_ordinal(ordinal);
    }
    built.build()
}

fn beyond(column: &ColumnChunkMetaData, layout: &Layout, address: u64) -> Result<ColumnChunkMetaData> {
    let has_dictionary = layout.dictionary_bytes > 0;
    column
        .clone()
        .into_builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_page_offset(if has_dictionary { Some(signed(address)?) } else { None })
        .set_data_page_offset(signed(address + layout.dictionary_bytes)?)
        .set_total_compressed_size(signed(layout.bytes())?)
        .build()
}

fn pages_beyond(rows: i64, layout: &Layout, address: u64) -> Result<OffsetIndexMetaData> {
    let mut index = OffsetIndexBuilder::new();
    let mut at = address + layout.dictionary_bytes;
    let ends = layout.pages.iter().skip(1).map(|page| page.first_row).chain([rows]);
    for (page, end) in layout.pages.iter().zip(ends) {
        index.append_row_count(end - page.first_row);
        index.append_offset_and_size(signed(at)?, i32::try_from(page.bytes)?);
        at += u64::from(page.bytes);
    }
    Ok(index.build())
}

fn signed(bytes: u64) -> Result<i64> {
    Ok(i64::try_from(bytes)?)
}

fn stored(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let start = u64::try_from(column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset())).ok()?;
    let end = start.checked_add(u64::try_from(column.compressed_size()).ok()?)?;
    (end < BEYOND).then_some(start..end)
}

/// Where a file says how long the filter is.
fn filter_of(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let start = u64::try_from(column.bloom_filter_offset()?).ok()?;
    Some(start..start.checked_add(u64::try_from(column.bloom_filter_length()?).ok()?)?)
}

/// Of a chunk that is compressed and not too large.
fn decompressed_bytes(column: &ColumnChunkMetaData) -> Option<u64> {
    if column.compression() == Compression::UNCOMPRESSED {
        return None;
    }
    u64::try_from(column.uncompressed_size()).ok().filter(|bytes| *bytes <= MAX_CHUNK_BYTES)
}

fn no_chunk(chunk: Chunk) -> ParquetError {
    ParquetError::General(format!("column chunk {} of the file is not as its page index says", chunk.0))
}

/// Of a file.
struct Part {
    start: u64,
    bytes: Bytes,
}

impl Part {
    fn from(&self, start: u64) -> Result<Bytes> {
        let from = start.checked_sub(self.start).and_then(|from| usize::try_from(from).ok()).filter(|from| *from <= self.bytes.len());
        from.map(|from| self.bytes.slice(from..)).ok_or_else(|| ParquetError::EOF("a page lies outside its column chunk".to_owned()))
    }
}

impl Length for Part {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Part {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF("a page lies outside its column chunk".to_owned()));
        }
        Ok(bytes.split_to(length))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    use parquet::file::properties::WriterProperties;

    use super::*;

    const FULL: Room = Room { free_bytes: 0, limit_bytes: u64::MAX };
    const EMPTY: Room = Room { free_bytes: u64::MAX, limit_bytes: u64::MAX };

    /// Two row groups of three columns.
    fn file() -> (Bytes, ParquetMetaData) {
        let column = |times: i64| Arc::new(Int64Array::from_iter_values((0..1000).map(|row| row % 50 * times))) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("a", column(1)), ("b", column(2)), ("c", column(3))]).unwrap();
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(500))
            .set_data_page_row_count_limit(100)
            .set_write_batch_size(50);
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let bytes = Bytes::from(bytes);
        let metadata = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required).parse_and_finish(&bytes).unwrap();
        (bytes, metadata)
    }

    fn footer() -> (Bytes, Footer) {
        let (bytes, metadata) = file();
        let size_bytes = bytes.len() as u64;
        (bytes, Footer::new(metadata, size_bytes, None, 0))
    }

    fn with_column(metadata: &ParquetMetaData, chunk: usize, change: impl FnOnce(&mut Vec<ColumnChunkMetaData>)) -> ParquetMetaData {
        let mut parts = metadata.clone().into_builder();
        let mut row_groups = parts.take_row_groups();
        let mut columns = row_groups[chunk / 3].columns().to_vec();
        change(&mut columns);
        row_groups[chunk / 3] = row_groups[chunk / 3].clone().into_builder().set_column_metadata(columns).build().unwrap();
        parts.set_row_groups(row_groups).build()
    }

    #[test]
    fn a_chunk_is_found_by_any_of_its_addresses() {
        let range = |from, to| Chunk(7).address() + from..Chunk(7).address() + to;
        assert_eq!(Chunk::at(&range(0, 10)), Some((Chunk(7), 0..10)));
        assert_eq!(Chunk::at(&range(STRIDE - 1, STRIDE)), Some((Chunk(7), STRIDE as usize - 1..STRIDE as usize)));
        assert_eq!(Chunk::at(&(5..10)), None);
        assert!(signed(Chunk(MAX_CHUNKS as u32).address() + STRIDE).is_ok());
    }

    #[test]
    fn what_is_read_twice_is_hot_where_there_is_room() {
        let (bytes, footer) = footer();
        let effort = Effort::default();
        let range = footer.stored(Chunk(4)).unwrap();
        let (part, rest) = (range.start..range.start + 30, range.start + 30..range.end);
        let read = || footer.read(&[part.clone(), rest.clone()], EMPTY, &effort);
        assert!(read().is_none() && footer.read(std::slice::from_ref(&part), EMPTY, &effort).is_none());
        let turn = read().unwrap();
        assert_eq!(turn.chunk, Chunk(4));
        assert!(read().is_none());
        // Given up by a query that ended, and taken by another.
        drop(turn);
        assert!(read().is_none());
        let turn = read().unwrap();
        assert!(footer.renewed().is_none());
        let (inflated, layout) = footer.decompress(Chunk(4), bytes.slice(range.start as usize..range.end as usize)).unwrap();
        assert_eq!(layout.bytes(), inflated.len() as u64);
        turn.heat(layout);
        let renewed = footer.renewed().unwrap();
        // After the anchor.
        let column = renewed.current.row_group(1).column(2);
        assert_eq!((column.compression(), column.byte_range().0), (Compression::UNCOMPRESSED, Chunk(4).address()));
        let (pages, stored) = (renewed.current.offset_index().unwrap()[1][2].page_locations(), footer.pages(Chunk(4)).unwrap());
        let rows = |pages: &[PageLocation]| pages.iter().map(|page| page.first_row_index).collect::<Vec<_>>();
        assert_eq!(rows(pages), rows(stored.page_locations()));
        let last = pages.last().unwrap();
        assert_eq!(last.offset as u64 + last.compressed_page_size as u64, Chunk(4).address() + inflated.len() as u64);
        let anchors = renewed.current.row_groups().iter().map(|row_group| row_group.column(0).byte_range().0);
        let firsts = renewed.metadata.row_groups().iter().map(|row_group| row_group.column(0).byte_range().0);
        assert!(anchors.eq(firsts));
        assert!(renewed.renewed().is_none() && renewed.memory_bytes() > footer.memory_bytes());

        // Let go once, and again.
        renewed.lost(Chunk(4));
        assert!(renewed.renewed().is_none());
        renewed.lost(Chunk(4));
        assert!(Arc::ptr_eq(&renewed.renewed().unwrap().current, &renewed.metadata));
    }

    #[test]
    fn where_there_is_no_room_it_takes_longer() {
        let (_, footer) = footer();
        let effort = Effort::default();
        let range = footer.stored(Chunk(1)).unwrap();
        for _ in 1..READS_WHEN_FULL {
            assert!(footer.read(std::slice::from_ref(&range), FULL, &effort).is_none());
        }
        footer.read(std::slice::from_ref(&range), FULL, &effort).unwrap().give_up();
        assert!((0..40).all(|_| footer.read(std::slice::from_ref(&range), EMPTY, &effort).is_none()));
        let nothing = Room { free_bytes: 0, limit_bytes: 0 };
        let range = footer.stored(Chunk(2)).unwrap();
        assert!((0..40).all(|_| footer.read(std::slice::from_ref(&range), nothing, &effort).is_none()));
    }

    #[test]
    fn a_scan_decompresses_little_more_than_it_reads() {
        let (_, footer) = footer();
        let range = footer.stored(Chunk(1)).unwrap();
        let effort = Effort::default();
        assert!(effort.spend(ALWAYS_SPENT) && !effort.spend(1));
        let read = || footer.read(std::slice::from_ref(&range), EMPTY, &effort);
        assert!(read().is_none());
        // So much has been read by now; for what was spent before nothing is left.
        assert!(read().is_some() && effort.spend(range.end - range.start) && !effort.spend(1));
        let other = footer.stored(Chunk(5)).unwrap();
        effort.spent.fetch_add(1 << 30, Ordering::Relaxed);
        assert!((0..5).all(|_| footer.read(std::slice::from_ref(&other), EMPTY, &effort).is_none()));
        assert!(footer.read(std::slice::from_ref(&other), EMPTY, &Effort::default()).is_some());
    }

    /// One column of a row group, in pages of 5,000 rows.
    fn chunk_of(values: ArrayRef, dictionary: bool) -> Layout {
        let batch = RecordBatch::try_from_iter([("a", values)]).unwrap();
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(dictionary)
            .set_data_page_row_count_limit(5_000)
            .set_write_batch_size(100);
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let bytes = Bytes::from(bytes);
        let metadata = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required).parse_and_finish(&bytes).unwrap();
        let footer = Footer::new(metadata, bytes.len() as u64, None, 0);
        let range = footer.stored(Chunk(0)).unwrap();
        let stored = bytes.slice(range.start as usize..range.end as usize);
        let (inflated, layout) = footer.decompress(Chunk(0), stored.clone()).unwrap();
        assert_eq!(layout.bytes(), inflated.len() as u64);
        // The same each time: a query may hold the footer of the time before.
        let (again, same) = footer.decompress(Chunk(0), stored).unwrap();
        assert!(again == inflated && same == layout);
        layout
    }

    #[test]
    fn numbers_that_lie_together_are_in_small_pages_and_weak_dictionaries_are_left_out() {
        let ints = |value: fn(i64) -> Option<i64>| Arc::new(Int64Array::from_iter((0..10_000).map(value))) as ArrayRef;
        let pages = |values, dictionary| {
            let layout = chunk_of(values, dictionary);
            (layout.pages.len(), layout.dictionary_bytes > 0, layout.bounds.is_some())
        };
        // Few values in order, and all unlike.
        assert_eq!(pages(ints(|row| Some(row / 50)), true), (10, true, true));
        // Where there may be NULL, as the file has them.
        assert_eq!(pages(ints(|row| (row % 4 != 1).then_some(row / 50)), true), (2, true, false));
        assert_eq!(pages(ints(Some), true), (10, false, true));
        assert_eq!(pages(ints(Some), false), (10, false, true));
        // Unlike, and in no order.
        assert_eq!(pages(ints(|row| Some(row * 7_919 % 10_000)), true), (3, false, true));
        // As the file has them: in no order; one value; none; texts.
        assert_eq!(pages(ints(|row| Some(row * 7_919 % 100)), true), (2, true, false));
        assert_eq!(pages(ints(|_| Some(7)), true), (2, true, false));
        assert!(!pages(ints(|_| None), true).2);
        let texts = Arc::new(arrow::array::StringArray::from_iter_values((0..10_000).map(|row| format!("{row:06}"))));
        assert!(!pages(texts, true).2);
        let Some(ColumnIndexMetaData::INT64(bounds)) = chunk_of(ints(|row| Some(row / 50)), true).bounds else { panic!("no bounds") };
        assert_eq!((bounds.min_values()[1], bounds.max_values()[1]), (20, 40));
    }

    #[test]
    fn a_filter_is_of_one_column() {
        let (bytes, metadata) = file();
        let filtered = |metadata: &ParquetMetaData, chunk: usize, start: i64| {
            with_column(metadata, chunk, |columns| {
                let builder = columns[chunk % 3].clone().into_builder();
                columns[chunk % 3] = builder.set_bloom_filter_offset(Some(start)).set_bloom_filter_length(Some(47)).build().unwrap();
            })
        };
        let metadata =
            [(1, 5), (4, 100), (2, 200), (3, 200), (5, -1)].iter().fold(metadata, |it, (chunk, start)| filtered(&it, *chunk, *start));
        let footer = Footer::new(metadata, bytes.len() as u64, None, 0);
        let column = |start: u64| footer.filtered_column(&(start..start + 47)).map(|column| column.name().to_owned());
        assert_eq!((column(5), column(100)), (Some("b".to_owned()), Some("b".to_owned())));
        // Of one column in one row group, and of another in the other.
        assert_eq!((column(200), column(6)), (None, None));
        assert!(footer.filtered_column(&(5..50)).is_none());
    }

    #[test]
    fn what_a_file_says_of_its_chunks_need_not_be_so() {
        let (bytes, metadata) = file();
        let size = bytes.len() as u64;
        let whole = Footer::new(metadata.clone(), size, None, 0);
        assert_eq!((0..8).filter(|chunk| whole.stored(Chunk(*chunk)).is_ok()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        let is_refused = |metadata: ParquetMetaData, size| Footer::new(metadata, size, None, 0).stored(Chunk(4)).is_err();
        let changed =
            |change: fn(parquet::file::metadata::ColumnChunkMetaDataBuilder) -> parquet::file::metadata::ColumnChunkMetaDataBuilder| {
                with_column(&metadata, 4, |columns| columns[1] = change(columns[1].clone().into_builder()).build().unwrap())
            };
        assert!(!is_refused(changed(|column| column), size));
        assert!(is_refused(metadata.clone(), 100));
        assert!(is_refused(changed(|column| column.set_compression(Compression::UNCOMPRESSED)), size));
        assert!(is_refused(changed(|column| column.set_total_compressed_size(-1)), size));
        assert!(is_refused(changed(|column| column.set_total_compressed_size(i64::MAX)), i64::MAX as u64));
        assert!(is_refused(changed(|column| column.set_total_uncompressed_size(i64::MAX)), size));
        assert!(is_refused(changed(|column| column.set_dictionary_page_offset(Some(-5))), size));
        assert!(is_refused(changed(|column| column.set_dictionary_page_offset(Some(BEYOND as i64 + 5))), u64::MAX));

        // Pages that go back, or lie elsewhere.
        let paged = |change: fn(usize, i64) -> i64, move_by: i64| {
            let mut parts = metadata.clone().into_builder();
            let mut index = parts.take_offset_index().unwrap();
            for (at, page) in index[1][1].page_locations.iter_mut().enumerate() {
                page.first_row_index = change(at, page.first_row_index);
                page.offset += move_by;
            }
            Footer::new(parts.set_offset_index(Some(index)).build(), size, None, 0)
        };
        assert!(paged(|at, row| if at == 2 { -row } else { row }, 0).stored(Chunk(4)).is_err());
        assert!(paged(|_, row| row + 1, 0).stored(Chunk(4)).is_err());
        let range = whole.stored(Chunk(4)).unwrap();
        let stored = bytes.slice(range.start as usize..range.end as usize);
        for move_by in [1, 1 << 40, -40, i64::from(i32::MAX)] {
            assert!(paged(|_, row| row, move_by).decompress(Chunk(4), stored.clone()).is_err(), "{move_by}");
        }
        assert!(whole.decompress(Chunk(4), stored.slice(..stored.len() / 2)).is_err());
        assert!(whole.decompress(Chunk(4), Bytes::from(vec![0xff; stored.len()])).is_err());
        assert!(whole.decompress(Chunk(99), stored).is_err());
    }
}
