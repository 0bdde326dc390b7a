//! Pages of our own for a hot chunk of whole numbers: smaller than the file's where rows with like values lie together, so that
//! their bounds tell closer which rows a query wants; and without the dictionary where that is nearly as large as the values.

use std::ops::Range;

use parquet::basic::{Compression, Encoding, Type as PhysicalType};
use parquet::column::page::PageReader;
use parquet::column::reader::ColumnReaderImpl;
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

/// Rows of a page whose bounds are of use. Smaller ones take longer to choose among than to read.
const CLUSTERED_ROWS: usize = 1024;
/// Of other pages: to be skipped by who wants few rows, and no burden to who wants all.
const PLAIN_ROWS: usize = 4096;

/// A dictionary of this part of its values' size is read for next to nothing.
const WEAK_DICTIONARY: usize = 4;

/// More rows than these, of a chunk that may be a few bytes of one value, are not taken apart.
const MAX_ROWS: usize = 2 << 20;

/// A chunk anew: the dictionary, if there is one, and then the pages, each with its header.
pub(super) struct Repaged {
    pub bytes: Vec<u8>,
    pub pages: Vec<PageLocation>,
    pub bounds: ColumnIndexMetaData,
}

/// The same values, if pages of our own are better. `dictionary_bytes` and `encodings`: of the file's pages.
pub(super) fn repaged(
    column: &ColumnDescPtr,
    rows: &[Range<usize>],
    dictionary_bytes: usize,
    encodings: &[Encoding],
    pages: Box<dyn PageReader>,
) -> Result<Option<Repaged>> {
    let of = match column.physical_type() {
        PhysicalType::INT32 => of::<Int32Type>,
        PhysicalType::INT64 => of::<Int64Type>,
        _ => return Ok(None),
    };
    let all_rows = rows.last().map_or(0, |last| last.end);
    // Crafted levels are read otherwise by Arrow's decoder than by this one: where there may be NULL, the file's pages stay.
    if column.max_def_level() > 0 || column.max_rep_level() > 0 || all_rows > MAX_ROWS {
        return Ok(None);
    }
    of(column, rows, dictionary_bytes, encodings, pages)
}

fn of<T>(
    column: &ColumnDescPtr,
    rows: &[Range<usize>],
    dictionary_bytes: usize,
    encodings: &[Encoding],
    pages: Box<dyn PageReader>,
) -> Result<Option<Repaged>>
where
    T: DataType,
    T::T: Copy + Into<i64>,
{
    let values = Values::<T::T>::read::<T>(column, rows.last().map_or(0, |last| last.end), pages)?;
    let value_bytes = size_of_val(values.present.as_slice());
    let is_weak = dictionary_bytes > 0 && value_bytes > 0 && dictionary_bytes >= value_bytes / WEAK_DICTIONARY;
    let is_clustered = values.mean_span(rows.iter().cloned()) > 2.0 * values.mean_span(pages_of(CLUSTERED_ROWS, values.rows));
    if !is_weak && !is_clustered {
        return Ok(None);
    }
    let has_dictionary =
        !is_weak && encodings.iter().all(|encoding| matches!(encoding, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY));
    let page_rows = if is_clustered { CLUSTERED_ROWS } else { PLAIN_ROWS };
    values.write::<T>(column, has_dictionary, page_rows).map(Some)
}

fn pages_of(page_rows: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(page_rows).map(move |start| start..rows.min(start + page_rows))
}

/// Of a column that does not repeat: a level for each row, where there may be none.
struct Values<V> {
    present: Vec<V>,
    levels: Option<Vec<i16>>,
    present_level: i16,
    rows: usize,
}

impl<V: Copy + Into<i64>> Values<V> {
    fn read<T: DataType<T = V>>(column: &ColumnDescPtr, rows: usize, pages: Box<dyn PageReader>) -> Result<Self> {
        let mut reader = ColumnReaderImpl::<T>::new(column.clone(), pages);
        let (mut present, mut levels) = (Vec::with_capacity(rows), Vec::new());
        let has_levels = column.max_def_level() > 0;
        let mut read = 0;
        while read < rows {
            let (records, ..) = reader.read_records(rows - read, has_levels.then_some(&mut levels), None, &mut present)?;
            if records == 0 {
                return Err(ParquetError::EOF(format!("{read} rows where the footer promises {rows}")));
            }
            read += records;
        }
        Ok(Self { present, levels: has_levels.then_some(levels), present_level: column.max_def_level(), rows })
    }

    /// How far apart the least and the greatest value of a page lie.
    fn mean_span(&self, pages: impl Iterator<Item = Range<usize>>) -> f64 {
        let (mut at, mut count, mut sum) = (0, 0u32, 0.0);
        for page in pages {
            let present = match &self.levels {
                Some(levels) => levels[page].iter().filter(|level| **level == self.present_level).count(),
                None => page.len(),
            };
            let values = self.present[at..at + present].iter().map(|value| (*value).into());
            at += present;
            if let Some((least, greatest)) = values.map(|it: i64| (it, it)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) {
                sum += greatest as f64 - least as f64;
                count += 1;
            }
        }
        sum / f64::from(count.max(1))
    }

    fn write<T: DataType<T = V>>(&self, column: &ColumnDescPtr, has_dictionary: bool, page_rows: usize) -> Result<Repaged> {
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
        let mut sink = TrackedWrite::new(Vec::with_capacity(size_of_val(self.present.as_slice())));
        let pages = Box::new(SerializedPageWriter::new(&mut sink));
        let mut writer = ColumnWriterImpl::<T>::new(column.clone(), properties.build().into(), pages);
        writer.write_batch(&self.present, self.levels.as_deref(), None)?;
        let written = writer.close()?;
        let (Some(bounds), Some(index)) = (written.column_index, written.offset_index) else {
            return Err(ParquetError::General("a column was written without its page index".to_owned()));
        };
        Ok(Repaged { bytes: sink.into_inner()?, pages: index.page_locations, bounds })
    }
}
