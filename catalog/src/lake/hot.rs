//! Hot column chunks, decompressed. The pages of a chunk that is read again and again are kept in the data
//! cache as they are after decompression, and the footer that readers get says that the chunk is not compressed and lies
//! beyond the file's end, at an address of its own. So the Parquet reader decodes it as any other, and only the reader of
//! the file's bytes knows where they come from. Of whole numbers, the pages may be cut anew ([`super::repage`]).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use parquet::basic::Compression;
use parquet::errors::Result;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::schema::types::ColumnDescPtr;

use super::beyond::{Chunk, Layout, MAX_CHUNKS, shown, shows, stored};
use super::decompress::{MAX_CHUNK_BYTES, Part, Stored, no_chunk};
use crate::caches::Room;
use crate::stores::Identity;

/// A chunk is decompressed when so much of it has been read as this many times the whole, where the cache has room; and where it
/// has not, so seldom that tables which are larger than the cache lose next to nothing by it. Whoever looks up one page here and
/// one there pays for no whole chunk.
const READS_WITH_ROOM: u64 = 2;
const READS_WHEN_FULL: u64 = 16;

/// Of stored chunks, a scan decompresses this much and as much again as it has read: whoever looks up one row pays for a chunk or
/// two at a time.
const ALWAYS_SPENT: u64 = 2 << 20;
/// Of what it has read beyond this, one part in so many: whoever reads a whole table would pay twice for what others may want.
const MUCH_READ: u64 = 64 << 20;
const PART_OF_MUCH: u64 = 8;
/// A small chunk may be of much when it is decompressed.
const LEAST_SPENT: u64 = 16 << 10;

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

impl State {
    fn layout_bytes(&self) -> usize {
        if let Self::Hot { layout, .. } = self { layout.memory_bytes() } else { 0 }
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
        let allowed = ALWAYS_SPENT + read.min(MUCH_READ) + read.saturating_sub(MUCH_READ) / PART_OF_MUCH;
        let with = |spent: u64| spent.checked_add(bytes).filter(|spent| *spent <= allowed);
        self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).is_ok()
    }
}

/// To decompress a chunk, while nobody else does. Whoever lets it go without a word leaves it to the next, and has spent nothing.
pub(crate) struct Turn<'a> {
    footer: &'a Footer,
    effort: &'a Effort,
    spent: u64,
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
            // What a decoder cannot take, it takes no better the next time.
            *state = if std::thread::panicking() { State::Unfit } else { State::Read(0) };
            self.effort.spent.fetch_sub(self.spent, Ordering::Relaxed);
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
            (hot.collect::<HashMap<_, _>>(), chunks.generation)
        };
        let shown = if hot.is_empty() { None } else { shown(&self.metadata, &hot).ok() };
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
    pub(crate) fn read<'a>(&'a self, ranges: &[Range<u64>], room: Room, effort: &'a Effort) -> Option<Turn<'a>> {
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
            let spent = (stored.end - stored.start).max(LEAST_SPENT);
            if due.is_none() && self.column(*chunk).and_then(decompressed_bytes).is_some_and(is_due) && effort.spend(spent) {
                *state = State::Heating;
                due = Some(Turn { footer: self, effort, spent, chunk: *chunk });
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

    /// The chunk decompressed, given its bytes in the file. The same whenever it is done.
    pub(crate) fn decompress(&self, chunk: Chunk, stored: Bytes) -> Result<(Bytes, Layout)> {
        let start = self.stored(chunk)?.start;
        let (row_group, column) = self.row_group(chunk).zip(self.column(chunk)).ok_or_else(|| no_chunk(chunk))?;
        let pages = self.pages(chunk).ok_or_else(|| no_chunk(chunk))?.page_locations();
        Stored { chunk, column, pages, rows: row_group.num_rows() }.decompress(Part { start, bytes: stored })
    }

    /// Whether readers with this footer look for the chunk's pages where the layout has them.
    pub(crate) fn shows(&self, chunk: Chunk, layout: &Layout) -> Result<bool> {
        shows(&self.current, chunk, layout)
    }

    fn row_group(&self, chunk: Chunk) -> Option<&RowGroupMetaData> {
        self.metadata.row_groups().get(chunk.place(self.columns()?)?.0)
    }

    fn column(&self, chunk: Chunk) -> Option<&ColumnChunkMetaData> {
        self.row_group(chunk)?.columns().get(chunk.place(self.columns()?)?.1)
    }

    fn pages(&self, chunk: Chunk) -> Option<&OffsetIndexMetaData> {
        let (row_group, column) = chunk.place(self.columns()?)?;
        self.metadata.offset_index()?.get(row_group)?.get(column)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub(super) mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    use parquet::file::page_index::offset_index::PageLocation;
    use parquet::file::properties::WriterProperties;

    use super::super::beyond::BEYOND;
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
        written(&batch, properties.build())
    }

    pub(in super::super) fn written(batch: &RecordBatch, properties: WriterProperties) -> (Bytes, ParquetMetaData) {
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
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
        let (_, layout) = footer.decompress(Chunk(4), bytes.slice(range.start as usize..range.end as usize)).unwrap();
        let other = Layout { dictionary_bytes: layout.dictionary_bytes + 1, pages: layout.pages.clone(), bounds: None };
        assert!(renewed.shows(Chunk(4), &layout).unwrap() && !renewed.shows(Chunk(4), &other).unwrap());
        assert!(!footer.shows(Chunk(4), &layout).unwrap() && !renewed.shows(Chunk(99), &layout).unwrap());
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
        let (range, other) = (footer.stored(Chunk(1)).unwrap(), footer.stored(Chunk(5)).unwrap());
        let effort = Effort::default();
        assert!(effort.spend(ALWAYS_SPENT - LEAST_SPENT));
        let read = |range: &Range<u64>| footer.read(std::slice::from_ref(range), EMPTY, &effort);
        assert!(read(&range).is_none());
        let turn = read(&range).unwrap();
        // Small as they are, for a second there is nothing left, until the first is given back.
        assert!(read(&other).is_none() && read(&other).is_none());
        drop(turn);
        assert!(read(&other).is_some());
        // What another scan reads is its own.
        assert!(effort.spend(LEAST_SPENT) && !effort.spend(LEAST_SPENT));
        // Of a whole table's bytes it is a part.
        let whole = Effort::default();
        whole.read(&[0..MUCH_READ, MUCH_READ..MUCH_READ * (1 + PART_OF_MUCH)]);
        assert!(whole.spend(ALWAYS_SPENT + 2 * MUCH_READ) && !whole.spend(1));
        footer.read(std::slice::from_ref(&range), EMPTY, &Effort::default());
        assert!(footer.read(std::slice::from_ref(&range), EMPTY, &Effort::default()).is_some());
    }

    #[test]
    fn a_chunk_that_the_decoder_cannot_take_is_tried_once() {
        let (_, footer) = footer();
        let (range, effort) = (footer.stored(Chunk(1)).unwrap(), Effort::default());
        let read = || footer.read(std::slice::from_ref(&range), EMPTY, &effort);
        assert!(read().is_none());
        let turn = read().unwrap();
        let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _turn = turn;
            panic!("as a decoder may");
        }));
        assert!(decoded.is_err() && (0..40).all(|_| read().is_none()));
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
