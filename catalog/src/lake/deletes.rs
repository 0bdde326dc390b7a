//! Which rows of a data file are gone, as a row selection for the Parquet reader.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use roaring::RoaringTreemap;

use super::snapshot::{DeleteFile, LakeError};
use crate::caches::Caches;
use crate::stores::Stores;

/// Delete files that one scan reads at once: enough to hide a round trip, few enough to leave a store's connections
/// to others.
const CONCURRENT_READS: usize = 16;

/// `D1 D3 39 64`, as a little-endian number: the portable serialisation of 64-bit Roaring bitmaps (Delta's
/// PROTOCOL.md, "Deletion Vector Format", and Iceberg's Puffin blob `deletion-vector-v1`).
const MAGIC: u32 = 1_681_511_377;

/// The rows of a data file that are gone, by position. Empty without delete files.
pub(crate) async fn deleted_rows(stores: &Stores, caches: &Caches, deletes: &[DeleteFile]) -> Result<Arc<RoaringTreemap>, LakeError> {
    match deletes {
        [] => Ok(Arc::default()),
        [one] => load(stores, caches, one).await,
        many => {
            let loads: Vec<_> = many.iter().map(|delete| load(stores, caches, delete).boxed()).collect();
            let loaded = stream::iter(loads).buffer_unordered(CONCURRENT_READS);
            let all = loaded.try_fold(RoaringTreemap::new(), |all, rows| async move { Ok(all | &*rows) }).await?;
            Ok(Arc::new(all))
        }
    }
}

async fn load(stores: &Stores, caches: &Caches, delete: &DeleteFile) -> Result<Arc<RoaringTreemap>, LakeError> {
    let read = async {
        match delete {
            DeleteFile::DeltaInline { encoded, cardinality } => {
                let file = || "an inline deletion vector".to_owned();
                let bytes = z85::decode(encoded.as_bytes()).map_err(|error| corrupt(file(), &error.to_string()))?;
                checked(bitmap(&bytes).map_err(|reason| corrupt(file(), reason))?, *cardinality, file)
            }
            DeleteFile::DeltaFile { store, path, offset, size_bytes, cardinality } => {
                // The log's size is that of magic and bitmap; a length precedes them and a checksum follows.
                blob(stores, store, path, *offset, size_bytes.saturating_add(8), *cardinality).await
            }
            DeleteFile::Puffin { store, path, offset, size_bytes, cardinality } => {
                blob(stores, store, path, *offset, *size_bytes, *cardinality).await
            }
            DeleteFile::PositionParquet { store, path, size_bytes, data_file } => {
                return super::iceberg::position_deletes(stores, caches, store, path, *size_bytes, data_file).await;
            }
            DeleteFile::Equality(delete) => return super::iceberg::equality_deletes(stores, caches, delete).await,
        }
        .map(Arc::new)
    };
    caches.deletes.get_with(delete.clone(), read).await.map_err(LakeError::shared)
}

async fn blob(stores: &Stores, store: &str, path: &Path, offset: u64, size: u64, cardinality: u64) -> Result<RoaringTreemap, LakeError> {
    let file = || format!("{store}/{path}");
    let opened = stores.store(store)?;
    let range = offset..offset.saturating_add(size);
    let bytes = opened.get_range(path, range).await.map_err(|source| LakeError::Storage { file: file(), source })?;
    if bytes.len() as u64 != size {
        return Err(corrupt(file(), "the deletion vector is cut off"));
    }
    let rows = framed(&bytes).map_err(|reason| corrupt(file(), reason))?;
    checked(rows, cardinality, file)
}

/// Length (big-endian, of magic and bitmap), magic, bitmap, CRC-32 (big-endian, of magic and bitmap).
fn framed(bytes: &[u8]) -> Result<RoaringTreemap, &'static str> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or("the deletion vector is cut off")?;
    let (content, crc) = rest.split_last_chunk::<4>().ok_or("the deletion vector is cut off")?;
    if u32::from_be_bytes(*length) as usize != content.len() {
        return Err("the deletion vector has another length than the log says");
    }
    if u32::from_be_bytes(*crc) != crc32fast::hash(content) {
        return Err("the deletion vector's checksum is wrong");
    }
    bitmap(content)
}

fn bitmap(content: &[u8]) -> Result<RoaringTreemap, &'static str> {
    let (magic, bitmap) = content.split_first_chunk::<4>().ok_or("the deletion vector is cut off")?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return Err("the deletion vector is of an unknown format");
    }
    RoaringTreemap::deserialize_from(bitmap).map_err(|_| "the deletion vector is no Roaring bitmap")
}

fn checked(rows: RoaringTreemap, cardinality: u64, file: impl Fn() -> String) -> Result<RoaringTreemap, LakeError> {
    if rows.len() == cardinality {
        Ok(rows)
    } else {
        Err(corrupt(file(), "the deletion vector holds another number of rows than promised"))
    }
}

fn corrupt(file: String, reason: &str) -> LakeError {
    LakeError::Corrupt { file, reason: reason.to_owned() }
}

/// What is left of a file of `rows` rows. Positions past its end delete nothing.
pub(crate) fn selection(deleted: &RoaringTreemap, rows: u64) -> RowSelection {
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let mut selectors = Vec::new();
    let mut next = 0;
    let mut positions = deleted.iter().take_while(|position| *position < rows).peekable();
    while let Some(start) = positions.next() {
        let mut end = start + 1;
        while positions.next_if_eq(&end).is_some() {
            end += 1;
        }
        if start > next {
            selectors.push(RowSelector::select(count(start - next)));
        }
        selectors.push(RowSelector::skip(count(end - start)));
        next = end;
    }
    if next < rows {
        selectors.push(RowSelector::select(count(rows - next)));
    }
    RowSelection::from(selectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(rows: &RoaringTreemap) -> Vec<u8> {
        let mut content = MAGIC.to_le_bytes().to_vec();
        rows.serialize_into(&mut content).unwrap();
        let mut bytes = u32::try_from(content.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&content);
        bytes.extend_from_slice(&crc32fast::hash(&content).to_be_bytes());
        bytes
    }

    #[test]
    fn a_damaged_deletion_vector_is_refused() {
        let rows: RoaringTreemap = [0, 3, 4, 1 << 33].into_iter().collect();
        let good = encode(&rows);
        assert_eq!(framed(&good).unwrap(), rows);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(framed(&bad).is_err(), "byte {at}");
            assert!(framed(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn selections_cover_the_file() {
        let rows: RoaringTreemap = [0, 1, 4, 9, 50].into_iter().collect();
        let kept: Vec<_> = selection(&rows, 10).iter().map(|it| (it.skip, it.row_count)).collect();
        assert_eq!(kept, [(true, 2), (false, 2), (true, 1), (false, 4), (true, 1)]);
        assert_eq!(selection(&rows, 1).row_count(), 0);
        assert_eq!(selection(&RoaringTreemap::new(), 7).row_count(), 7);
    }
}
