//! A footer that shows column chunks beyond the file's end, where they lie decompressed: each at an address of its own, in the
//! pages of its layout.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parquet::basic::{ColumnOrder, Compression, Repetition, Type as PhysicalType};
use parquet::errors::Result;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, OffsetIndexBuilder, ParquetMetaData, ParquetMetaDataBuilder, RowGroupMetaData, SortingColumn,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::schema::types::{ColumnDescPtr, SchemaDescPtr, SchemaDescriptor, Type};

/// Where the first chunk's address is; no file is as long.
pub(super) const BEYOND: u64 = 1 << 62;
/// Of the addresses, for each chunk; more than one may have bytes.
const STRIDE: u64 = 1 << 32;
pub(super) const MAX_CHUNKS: usize = 1 << 29;

/// Of the bounds of a page of whole numbers: two values, a count, whether there are any, and how many rows have each level.
const BOUNDS_BYTES: usize = 48;

/// Of a decompressed chunk: the dictionary, if there is one, and then the pages, each with its header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(super) dictionary_bytes: u64,
    pub(super) pages: Vec<Page>,
    /// Of the pages, where they are not those of the file.
    pub(super) bounds: Option<ColumnIndexMetaData>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Page {
    pub first_row: i64,
    pub bytes: u32,
}

impl Layout {
    pub(super) fn bytes(&self) -> u64 {
        self.dictionary_bytes + self.pages.iter().map(|page| u64::from(page.bytes)).sum::<u64>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let page_bytes = size_of::<Page>() + if self.bounds.is_some() { BOUNDS_BYTES } else { 0 };
        size_of::<Self>() + self.pages.len() * page_bytes
    }
}

/// Of the row groups' columns, counted through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Chunk(pub(super) u32);

impl Chunk {
    /// The chunk with this address, and which of its bytes.
    pub(crate) fn at(range: &Range<u64>) -> Option<(Self, Range<usize>)> {
        let start = range.start.checked_sub(BEYOND)?;
        let (chunk, from) = (u32::try_from(start / STRIDE).ok()?, start % STRIDE);
        let to = from.checked_add(range.end.checked_sub(range.start)?)?;
        Some((Self(chunk), usize::try_from(from).ok()?..usize::try_from(to).ok()?))
    }

    /// Of a file with so many columns.
    pub(super) fn of(row_group: usize, column: usize, columns: usize) -> Option<Self> {
        let number = row_group.checked_mul(columns)?.checked_add(column)?;
        u32::try_from(number).ok().filter(|_| number < MAX_CHUNKS).map(Self)
    }

    /// Its row group and column.
    pub(super) fn place(self, columns: usize) -> Option<(usize, usize)> {
        let number = self.0 as usize;
        Some((number.checked_div(columns)?, number.checked_rem(columns)?))
    }

    pub(super) fn address(self) -> u64 {
        BEYOND + u64::from(self.0) * STRIDE
    }
}

/// The footer with these chunks where they lie decompressed.
pub(super) fn shown(metadata: &ParquetMetaData, hot: &HashMap<Chunk, Arc<Layout>>) -> Result<ParquetMetaData> {
    let file = metadata.file_metadata();
    let schema = anchored(file.schema_descr())?;
    let (mut row_groups, mut index, mut bounds) = (Vec::with_capacity(metadata.num_row_groups()), Vec::new(), Vec::new());
    let no_pages = Vec::new();
    for (at, row_group) in metadata.row_groups().iter().enumerate() {
        let mut columns = vec![anchor(row_group, schema.column(0))?];
        let pages = metadata.offset_index().and_then(|index| index.get(at)).unwrap_or(&no_pages);
        let mut all_pages: Vec<_> = pages.first().cloned().into_iter().collect();
        let mut all_bounds = vec![ColumnIndexMetaData::NONE];
        for (leaf, (column, pages)) in row_group.columns().iter().zip(pages).enumerate() {
            let stored = metadata.column_index().and_then(|index| index.get(at)?.get(leaf));
            let chunk = Chunk::of(at, leaf, file.schema_descr().num_columns());
            let hot = chunk.and_then(|chunk| Some((chunk, hot.get(&chunk)?)));
            match hot {
                Some((chunk, layout)) => {
                    columns.push(beyond(column, layout, chunk)?);
                    all_pages.push(pages_beyond(row_group.num_rows(), layout, chunk)?);
                }
                None => {
                    columns.push(column.clone());
                    all_pages.push(pages.clone());
                }
            }
            let now = hot.and_then(|(_, layout)| layout.bounds.as_ref()).or(stored);
            all_bounds.push(now.cloned().unwrap_or(ColumnIndexMetaData::NONE));
        }
        row_groups.push(with_columns(row_group, &schema, columns)?);
        index.push(all_pages);
        bounds.push(all_bounds);
    }
    let orders = file.column_orders().map(|orders| [ColumnOrder::UNDEFINED].into_iter().chain(orders.iter().copied()).collect());
    let created_by = file.created_by().map(str::to_owned);
    let file = FileMetaData::new(file.version(), file.num_rows(), created_by, None, schema, orders);
    let bounds = metadata.column_index().map(|_| bounds);
    let built = ParquetMetaDataBuilder::new(file).set_row_groups(row_groups).set_column_index(bounds).set_offset_index(Some(index));
    Ok(built.build())
}

/// Whether a footer shows the chunk in this layout.
pub(super) fn shows(shown: &ParquetMetaData, chunk: Chunk, layout: &Layout) -> Result<bool> {
    let columns = shown.file_metadata().schema_descr().num_columns().saturating_sub(1);
    let Some((at, leaf)) = chunk.place(columns) else { return Ok(false) };
    let Some(row_group) = shown.row_groups().get(at) else { return Ok(false) };
    // After the anchor.
    let pages = shown.offset_index().and_then(|index| index.get(at)?.get(leaf + 1));
    Ok(pages == Some(&pages_beyond(row_group.num_rows(), layout, chunk)?))
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

/// The chunk at its address.
pub(super) fn beyond(column: &ColumnChunkMetaData, layout: &Layout, chunk: Chunk) -> Result<ColumnChunkMetaData> {
    let address = chunk.address();
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

/// Its pages, where the row group has so many rows.
pub(super) fn pages_beyond(rows: i64, layout: &Layout, chunk: Chunk) -> Result<OffsetIndexMetaData> {
    let mut index = OffsetIndexBuilder::new();
    let mut at = chunk.address() + layout.dictionary_bytes;
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

/// Where the chunk lies in the file.
pub(super) fn stored(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let start = u64::try_from(column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset())).ok()?;
    let end = start.checked_add(u64::try_from(column.compressed_size()).ok()?)?;
    (end < BEYOND).then_some(start..end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_found_by_any_of_its_addresses() {
        let range = |from, to| Chunk(7).address() + from..Chunk(7).address() + to;
        assert_eq!(Chunk::at(&range(0, 10)), Some((Chunk(7), 0..10)));
        assert_eq!(Chunk::at(&range(STRIDE - 1, STRIDE)), Some((Chunk(7), STRIDE as usize - 1..STRIDE as usize)));
        assert_eq!(Chunk::at(&(5..10)), None);
        assert!(signed(Chunk(MAX_CHUNKS as u32).address() + STRIDE).is_ok());
    }

    #[test]
    fn chunks_are_counted_through() {
        assert_eq!(Chunk::of(2, 3, 5), Some(Chunk(13)));
        assert_eq!((Chunk(13).place(5), Chunk(13).place(0)), (Some((2, 3)), None));
        assert_eq!((Chunk::of(MAX_CHUNKS, 0, 1), Chunk::of(usize::MAX, 1, 2)), (None, None));
    }
}
