//! Pages of our own for a hot chunk of whole numbers: smaller than the file's where rows with like values lie together, so that
//! their bounds tell closer which rows a query wants; and without the dictionary where that is nearly as large as the values.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::compute::{max, min};
use arrow::datatypes::{Int32Type as Int32, Int64Type as Int64};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, Encoding, Type as PhysicalType};
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, ParquetMetaDataBuilder, RowGroupMetaData};
use parquet::file::page_index::offset_index::{OffsetIndexMetaData, PageLocation};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, Type};

use super::beyond::{Layout, Page};
use super::decompress::Part;

/// Rows of a page whose bounds are of use. Smaller ones take longer to choose among than to read.
const CLUSTERED_ROWS: usize = 1024;
/// Of other pages: to be skipped by who wants few rows, and no burden to who wants all.
const PLAIN_ROWS: usize = 4096;

/// A dictionary of at least this part of its values' size saves little, and is read whole for a single row.
const WEAK_DICTIONARY: u64 = 4;

/// More rows than these, of a chunk that may be a few bytes of one value, are not taken apart.
const MAX_ROWS: usize = 2 << 20;

/// The same values in pages of our own, if those are better. The chunk is not compressed; `encodings` are those of its pages.
pub(super) fn repaged(
    file: Part,
    chunk: ColumnChunkMetaData,
    pages: OffsetIndexMetaData,
    rows: usize,
    encodings: &[Encoding],
) -> Result<Option<(Bytes, Layout)>> {
    let column = chunk.column_descr_ptr();
    // Of a member of a struct, the levels tell more than whether there is a value.
    if column.max_rep_level() > 0 || column.path().parts().len() > 1 || rows > MAX_ROWS {
        return Ok(None);
    }
    match column.physical_type() {
        PhysicalType::INT32 => of::<Int32Type, Int32>(file, chunk, pages, rows, encodings),
        PhysicalType::INT64 => of::<Int64Type, Int64>(file, chunk, pages, rows, encodings),
        _ => Ok(None),
    }
}

fn of<T, A>(
    file: Part,
    chunk: ColumnChunkMetaData,
    pages: OffsetIndexMetaData,
    rows: usize,
    encodings: &[Encoding],
) -> Result<Option<(Bytes, Layout)>>
where
    T: DataType<T = A::Native>,
    A: ArrowPrimitiveType<Native: Into<i64>>,
{
    let dictionary_bytes = pages.page_locations().first().map_or(0, |page| page.offset.abs_diff(chunk.byte_range().0 as i64));
    let first_rows = pages.page_locations().iter().map(|page| usize::try_from(page.first_row_index).unwrap_or(rows));
    let ends = first_rows.clone().skip(1).chain([rows]);
    let stored: Vec<_> = first_rows.zip(ends).map(|(start, end)| start..end).collect();
    let column = chunk.column_descr_ptr();

    let values: PrimitiveArray<A> = values(file, chunk, pages, rows)?;
    let value_bytes = ((values.len() - values.null_count()) * size_of::<A::Native>()) as u64;
    let is_weak = dictionary_bytes > 0 && value_bytes > 0 && dictionary_bytes >= value_bytes / WEAK_DICTIONARY;
    let is_clustered = mean_span(&values, stored) > 2.0 * mean_span(&values, pages_of(CLUSTERED_ROWS, rows));
    if !is_weak && !is_clustered {
        return Ok(None);
    }
    let is_dictionary = |encoding: &Encoding| matches!(encoding, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY);
    let has_dictionary = !is_weak && encodings.iter().all(is_dictionary);
    written::<T, A>(&values, &column, has_dictionary, if is_clustered { CLUSTERED_ROWS } else { PLAIN_ROWS }).map(Some)
}

/// As Arrow's decoder has them, which queries use: it may read a crafted page otherwise than another decoder does.
fn values<A: ArrowPrimitiveType>(
    file: Part,
    chunk: ColumnChunkMetaData,
    pages: OffsetIndexMetaData,
    rows: usize,
) -> Result<PrimitiveArray<A>> {
    // The numbers as they are stored, whatever they stand for.
    let leaf = Type::primitive_type_builder("values", chunk.column_type())
        .with_repetition(chunk.column_descr().self_type().get_basic_info().repetition());
    let root = Type::group_type_builder("chunk").with_fields(vec![Arc::new(leaf.build()?)]).build()?;
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(root)));
    let count = i64::try_from(rows)?;
    let row_group = RowGroupMetaData::builder(Arc::clone(&schema)).set_num_rows(count).set_column_metadata(vec![chunk]).build()?;
    let metadata = ParquetMetaDataBuilder::new(FileMetaData::new(2, count, None, None, schema, None))
        .add_row_group(row_group)
        .set_offset_index(Some(vec![vec![pages]]))
        .build();
    let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new())?;
    let read = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata).with_batch_size(rows).build()?.next().transpose()?;
    let values = read.as_ref().and_then(|batch| batch.columns().first()?.as_primitive_opt()).filter(|values| values.len() == rows);
    values.cloned().ok_or_else(|| ParquetError::EOF(format!("no {rows} rows, as the footer promises")))
}

fn pages_of(page_rows: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(page_rows).map(move |start| start..rows.min(start + page_rows))
}

/// How far apart the least and the greatest value of a page lie.
fn mean_span<A: ArrowPrimitiveType<Native: Into<i64>>>(values: &PrimitiveArray<A>, pages: impl IntoIterator<Item = Range<usize>>) -> f64 {
    let (mut count, mut sum) = (0u32, 0.0);
    for page in pages {
        let page = values.slice(page.start, page.len());
        if let (Some(least), Some(greatest)) = (min(&page), max(&page)) {
            sum += greatest.into() as f64 - least.into() as f64;
            count += 1;
        }
    }
    sum / f64::from(count.max(1))
}

fn written<T, A>(values: &PrimitiveArray<A>, column: &ColumnDescPtr, has_dictionary: bool, page_rows: usize) -> Result<(Bytes, Layout)>
where
    T: DataType<T = A::Native>,
    A: ArrowPrimitiveType,
{
    let properties = WriterProperties::builder()
        // Whose plain values are copied, not computed.
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(has_dictionary)
        .set_dictionary_page_size_limit(usize::MAX)
        .set_data_page_size_limit(usize::MAX)
        .set_data_page_row_count_limit(page_rows)
        .set_write_batch_size(page_rows)
        .set_statistics_enabled(EnabledStatistics::Page);
    let mut sink = TrackedWrite::new(Vec::with_capacity(size_of_val(values.values().as_ref())));
    let mut writer = ColumnWriterImpl::<T>::new(column.clone(), properties.build().into(), Box::new(SerializedPageWriter::new(&mut sink)));
    let present: Vec<A::Native> = values.iter().flatten().collect();
    let levels: Vec<i16> = (0..values.len()).map(|row| i16::from(values.is_valid(row))).collect();
    writer.write_batch(&present, (column.max_def_level() > 0).then_some(&levels), None)?;
    let written = writer.close()?;
    let (Some(bounds), Some(index)) = (written.column_index, written.offset_index) else {
        return Err(ParquetError::General("a column was written without its page index".to_owned()));
    };
    let dictionary_bytes = index.page_locations.first().map_or(0, |first| first.offset);
    let page = |it: &PageLocation| u32::try_from(it.compressed_page_size).map(|bytes| Page { first_row: it.first_row_index, bytes });
    let pages = index.page_locations.iter().map(page).collect::<Result<_, _>>()?;
    let layout = Layout { dictionary_bytes: u64::try_from(dictionary_bytes)?, pages, bounds: Some(bounds) };
    Ok((Bytes::from(sink.into_inner()?.into_boxed_slice()), layout))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, StructArray};
    use parquet::column::page::{CompressedPage, Page as DataPage, PageWriter};
    use parquet::file::page_index::column_index::ColumnIndexMetaData;

    use super::super::beyond::Chunk;
    use super::super::hot::Footer;
    use super::super::hot::tests::written as file_of;
    use super::*;

    /// Of the one column of a row group, which the file has in pages of 5,000 rows.
    fn layout(values: ArrayRef, version: WriterVersion, dictionary: bool) -> Layout {
        let batch = RecordBatch::try_from_iter([("a", values)]).unwrap();
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_writer_version(version)
            .set_dictionary_enabled(dictionary)
            .set_data_page_row_count_limit(5_000)
            .set_write_batch_size(100);
        let (bytes, metadata) = file_of(&batch, properties.build());
        let footer = Footer::new(metadata, bytes.len() as u64, None, 0);
        let range = footer.stored(Chunk(0)).unwrap();
        let stored = bytes.slice(range.start as usize..range.end as usize);
        let (inflated, layout) = footer.decompress(Chunk(0), stored.clone()).unwrap();
        assert_eq!(layout.bytes(), inflated.len() as u64);
        // The same each time: a query may hold the footer of the time before.
        assert_eq!(footer.decompress(Chunk(0), stored).unwrap(), (inflated, layout.clone()));
        layout
    }

    fn ints(value: fn(i64) -> Option<i64>) -> ArrayRef {
        Arc::new(Int64Array::from_iter((0..10_000).map(value)))
    }

    #[test]
    fn numbers_that_lie_together_are_in_small_pages_and_weak_dictionaries_are_left_out() {
        let of = |values, version, dictionary| {
            let layout = layout(values, version, dictionary);
            (layout.pages.len(), layout.dictionary_bytes > 0, layout.bounds.is_some())
        };
        let pages = |values, dictionary| of(values, WriterVersion::PARQUET_1_0, dictionary);
        // Few values in order, and all unlike.
        assert_eq!(pages(ints(|row| Some(row / 50)), true), (10, true, true));
        assert_eq!(pages(ints(|row| (row % 4 != 1).then_some(row / 50)), true), (10, true, true));
        assert_eq!(pages(ints(Some), true), (10, false, true));
        assert_eq!(pages(ints(Some), false), (10, false, true));
        // Unlike, and in no order.
        assert_eq!(pages(ints(|row| Some(row * 7_919 % 10_000)), true), (3, false, true));
        // As the file has them: in no order; one value; none; texts; members; what would take a hundred times the room.
        assert_eq!(pages(ints(|row| Some(row * 7_919 % 100)), true), (2, true, false));
        assert_eq!(pages(ints(|_| Some(7)), true), (2, true, false));
        assert!(!pages(ints(|_| None), true).2);
        assert!(!pages(Arc::new(StringArray::from_iter_values((0..10_000).map(|row| format!("{row:06}")))), true).2);
        let member = arrow::datatypes::Field::new("x", arrow::datatypes::DataType::Int64, true);
        assert!(!pages(Arc::new(StructArray::new(vec![member].into(), vec![ints(|row| Some(row / 50))], None)), true).2);
        let longer = Arc::new(Int64Array::from_iter_values(0..200_000)) as ArrayRef;
        assert!(!of(longer, WriterVersion::PARQUET_2_0, false).2);
    }

    #[test]
    fn bounds_and_counts_are_those_of_the_pages() {
        let layout = layout(ints(|row| (row % 4 != 1).then_some(row / 50)), WriterVersion::PARQUET_1_0, true);
        let Some(ColumnIndexMetaData::INT64(bounds)) = layout.bounds else { panic!("no bounds") };
        assert_eq!((bounds.min_values()[1], bounds.max_values()[1], bounds.null_count(1)), (20, 40, Some(256)));
        assert_eq!((layout.pages[1].first_row, layout.pages[9].first_row), (1024, 9216));
    }

    /// Ten thousand ascending numbers behind these levels, as they are after the re-writing: how many of them are NULL.
    fn nulls_behind(levels: &[u8]) -> i64 {
        let mut data = (levels.len() as u32).to_le_bytes().to_vec();
        data.extend_from_slice(levels);
        data.extend((0..10_000i32).flat_map(i32::to_le_bytes));
        let bytes = data.len();
        let page = DataPage::DataPage {
            buf: data.into(),
            num_values: 10_000,
            encoding: Encoding::PLAIN,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let mut sink = TrackedWrite::new(Vec::new());
        SerializedPageWriter::new(&mut sink).write_page(CompressedPage::new(page, bytes)).unwrap();
        let bytes = Bytes::from(sink.into_inner().unwrap());

        let leaf = Type::primitive_type_builder("a", PhysicalType::INT32).build().unwrap();
        let root = Type::group_type_builder("root").with_fields(vec![Arc::new(leaf)]).build().unwrap();
        let column = SchemaDescriptor::new(Arc::new(root)).column(0);
        let size = bytes.len() as i64;
        let chunk = ColumnChunkMetaData::builder(column).set_num_values(10_000).set_total_compressed_size(size).build().unwrap();
        let location = PageLocation { offset: 0, compressed_page_size: size as i32, first_row_index: 0 };
        let pages = OffsetIndexMetaData { page_locations: vec![location], unencoded_byte_array_data_bytes: None };
        let (_, layout) = repaged(Part { start: 0, bytes }, chunk, pages, 10_000, &[Encoding::PLAIN]).unwrap().unwrap();
        let Some(ColumnIndexMetaData::INT32(bounds)) = layout.bounds else { panic!("no bounds") };
        (0..layout.pages.len()).map(|page| bounds.null_count(page).unwrap()).sum()
    }

    /// Runs of levels that no writer makes, and that decoders take for different things: queries have Arrow's.
    #[test]
    fn crafted_levels_are_what_queries_take_them_for() {
        let run = |length: u64, level: u8| {
            let (mut bytes, mut rest) = (Vec::new(), length << 1);
            while rest >= 0x80 {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.extend([rest as u8, level]);
            bytes
        };
        assert_eq!(nulls_behind(&run(10_000, 1)), 0);
        assert_eq!(nulls_behind(&[run(9_000, 1), run(1_000, 0)].concat()), 1_000);
        // Longer than 32 bits tell, and a level that the column does not have.
        assert_eq!(nulls_behind(&[run((1 << 32) + 5, 1), run(9_995, 0)].concat()), 0);
        assert_eq!(nulls_behind(&run(10_000, 7)), 0);
    }
}
