//! A column chunk's bytes, decompressed: the file's pages, or pages of our own where they are better ([`super::repage`]).

use std::sync::Arc;

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use parquet::basic::PageType;
use parquet::column::page::{CompressedPage, PageReader, PageWriter};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};

use super::beyond::{Chunk, Layout, Page, beyond, pages_beyond};
use super::repage::repaged;

/// Decompressed. A larger chunk would hold up the query that decompresses it, and push many others out.
pub(super) const MAX_CHUNK_BYTES: u64 = 16 << 20;

/// Pages of our own may take so many times what the file's take decompressed, and as much as their headers do.
const MAX_GROWTH: u64 = 4;
const MAX_HEADER_BYTES: u64 = 64 << 10;

/// What a footer says of a chunk. It need not be so.
pub(super) struct Stored<'a> {
    pub chunk: Chunk,
    pub column: &'a ColumnChunkMetaData,
    pub pages: &'a [PageLocation],
    pub rows: i64,
}

impl Stored<'_> {
    /// Given the chunk's bytes in the file.
    pub fn decompress(&self, file: Part) -> Result<(Bytes, Layout)> {
        let rows = usize::try_from(self.rows).map_err(|_| self.error())?;
        let mut reader = SerializedPageReader::new(Arc::new(file), self.column, rows, Some(self.pages.to_vec()))?;
        let room = usize::try_from(self.column.uncompressed_size()).map_err(|_| self.error())?;
        let mut sink = TrackedWrite::new(Vec::with_capacity(room));
        let mut writer = SerializedPageWriter::new(&mut sink);
        let mut layout = Layout { dictionary_bytes: 0, pages: Vec::with_capacity(self.pages.len()), bounds: None };
        let mut written_bytes = 0u64;
        let (mut first_rows, mut encodings) = (self.pages.iter().map(|page| page.first_row_index), Vec::with_capacity(self.pages.len()));
        while let Some(page) = reader.get_next_page()? {
            let (bytes, encoding) = (page.buffer().len(), page.encoding());
            if written_bytes + bytes as u64 > 2 * MAX_CHUNK_BYTES {
                return Err(self.error());
            }
            let written = writer.write_page(CompressedPage::new(page, bytes))?;
            written_bytes += written.bytes_written;
            if let PageType::DICTIONARY_PAGE = written.page_type {
                layout.dictionary_bytes += written.bytes_written;
                continue;
            }
            let first_row = first_rows.next().ok_or_else(|| self.error())?;
            layout.pages.push(Page { first_row, bytes: u32::try_from(written.bytes_written).map_err(|_| self.error())? });
            encodings.push(encoding);
        }
        let bytes = Bytes::from(sink.into_inner()?.into_boxed_slice());
        if layout.pages.len() != self.pages.len() || layout.bytes() != bytes.len() as u64 {
            return Err(self.error());
        }
        let decompressed = Part { start: self.chunk.address(), bytes: bytes.clone() };
        let (column, pages) = (beyond(self.column, &layout, self.chunk)?, pages_beyond(self.rows, &layout, self.chunk)?);
        let most_bytes = (MAX_GROWTH * layout.bytes() + MAX_HEADER_BYTES).min(2 * MAX_CHUNK_BYTES);
        let better = repaged(decompressed, column, pages, rows, &encodings)?;
        let better = better.filter(|(bytes, better)| better.bytes() == bytes.len() as u64 && better.bytes() <= most_bytes);
        Ok(better.unwrap_or((bytes, layout)))
    }

    fn error(&self) -> ParquetError {
        no_chunk(self.chunk)
    }
}

pub(super) fn no_chunk(chunk: Chunk) -> ParquetError {
    ParquetError::General(format!("column chunk {} of the file is not as its page index says", chunk.0))
}

/// Of a file.
pub(super) struct Part {
    pub start: u64,
    pub bytes: Bytes,
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
