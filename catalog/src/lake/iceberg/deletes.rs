//! Position delete files in Parquet: which rows of which data files are gone.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::schema::types::SchemaDescriptor;
use roaring::RoaringTreemap;

use super::{LakeError, blocking, corrupt};
use crate::caches::Caches;
use crate::stores::Stores;

/// The reserved field ids of a position delete file's columns.
pub(super) const FILE_PATH_ID: i32 = 2_147_483_546;
pub(super) const POSITION_ID: i32 = 2_147_483_545;

/// The largest delete file that is read: they hold little more than paths and numbers, and are decoded whole.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// The rows of `data_file`, named as its manifest names it, that one delete file says are gone.
pub(crate) async fn position_deletes(
    stores: &Stores,
    caches: &Caches,
    store: &str,
    path: &Path,
    size_bytes: u64,
    data_file: &str,
) -> Result<Arc<RoaringTreemap>, LakeError> {
    let key = DeleteFileKey::new(store, path, size_bytes);
    let load = async {
        let (file, bytes) = read(stores, &key).await?;
        blocking(move || PositionDeletes::decode(&file, bytes).map(Arc::new)).await
    };
    let deletes = caches.position_deletes.get_with(key.clone(), load).await.map_err(LakeError::shared)?;
    Ok(deletes.of(data_file))
}

/// A whole delete file, after its name for errors.
pub(super) async fn read(stores: &Stores, key: &DeleteFileKey) -> Result<(String, Bytes), LakeError> {
    let file = format!("{}/{}", key.store, key.path);
    if key.size_bytes > MAX_FILE_BYTES {
        return Err(corrupt(&file, "larger than any delete file"));
    }
    let store = stores.store(&key.store).map_err(|e| LakeError::Internal(e.to_string()))?;
    let read = match store.get(&key.path).await {
        Ok(found) => found.bytes().await,
        Err(error) => Err(error),
    };
    match read {
        Ok(bytes) => Ok((file, bytes)),
        Err(source) => Err(LakeError::Storage { file, source }),
    }
}

/// Delete files never change under their name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DeleteFileKey {
    store: Arc<str>,
    path: Path,
    size_bytes: u64,
}

impl DeleteFileKey {
    pub(super) fn new(store: &str, path: &Path, size_bytes: u64) -> Self {
        Self { store: Arc::from(store), path: path.clone(), size_bytes }
    }
}

/// A position delete file, decoded once for all data files that it is about.
#[derive(Debug, Default)]
pub(crate) struct PositionDeletes {
    by_data_file: HashMap<Box<str>, Arc<RoaringTreemap>>,
}

impl PositionDeletes {
    /// Decodes a whole file. Blocking: for a thread that may.
    pub(crate) fn decode(file: &str, bytes: Bytes) -> Result<Self, LakeError> {
        let damaged = |e: &dyn std::fmt::Display| corrupt(file, e);
        // Without the embedded Arrow schema, types follow from Parquet alone, whoever wrote the file.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).map_err(|e| damaged(&e))?;
        let columns = builder.parquet_schema();
        let path_column = column(columns, FILE_PATH_ID, "file_path").ok_or_else(|| damaged(&"no column file_path"))?;
        let position_column = column(columns, POSITION_ID, "pos").ok_or_else(|| damaged(&"no column pos"))?;
        let mask = ProjectionMask::roots(columns, [path_column, position_column]);
        // Projected columns keep the order of the file.
        let (path_at, position_at) = if path_column < position_column { (0, 1) } else { (1, 0) };

        let mut by_data_file: HashMap<Box<str>, RoaringTreemap> = HashMap::new();
        for batch in builder.with_projection(mask).build().map_err(|e| damaged(&e))? {
            let batch = batch.map_err(|e| damaged(&e))?;
            let paths = arrow::compute::cast(batch.column(path_at), &DataType::Utf8).map_err(|e| damaged(&e))?;
            let positions = arrow::compute::cast(batch.column(position_at), &DataType::Int64).map_err(|e| damaged(&e))?;
            if paths.null_count() + positions.null_count() > 0 {
                return Err(damaged(&"a delete without a path or position"));
            }
            let (paths, positions) = (paths.as_string::<i32>(), positions.as_primitive::<Int64Type>().values());
            // Rows are sorted by path: one look-up for each run of rows of the same file.
            let mut start = 0;
            while start < batch.num_rows() {
                let path = paths.value(start);
                let end = (start..batch.num_rows()).find(|row| paths.value(*row) != path).unwrap_or(batch.num_rows());
                let rows = by_data_file.entry(path.into()).or_default();
                for position in positions.get(start..end).unwrap_or_default() {
                    rows.insert(u64::try_from(*position).map_err(|_| damaged(&"a negative position"))?);
                }
                start = end;
            }
        }
        Ok(Self { by_data_file: by_data_file.into_iter().map(|(path, rows)| (path, Arc::new(rows))).collect() })
    }

    /// The deleted rows of one data file, named as its manifest names it.
    pub(crate) fn of(&self, data_file: &str) -> Arc<RoaringTreemap> {
        self.by_data_file.get(data_file).cloned().unwrap_or_default()
    }

    /// Bytes held, for the cache.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.by_data_file.iter().map(|(path, rows)| path.len() + 64 + rows.serialized_size()).sum::<usize>()
    }
}

/// The root column with a field id, or, in files without ids, with a name.
fn column(schema: &SchemaDescriptor, id: i32, name: &str) -> Option<usize> {
    let fields = schema.root_schema().get_fields();
    let by_id = fields.iter().position(|field| field.get_basic_info().has_id() && field.get_basic_info().id() == id);
    by_id.or_else(|| fields.iter().position(|field| !field.get_basic_info().has_id() && field.name() == name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{Field, Schema};
    use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};

    use super::*;

    fn delete_file(ids: Option<[i32; 2]>, rows: &[(&str, i64)]) -> Bytes {
        let field = |name: &str, kind, at: usize| {
            let field = Field::new(name, kind, false);
            match ids {
                Some(ids) => field.with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), ids[at].to_string())])),
                None => field,
            }
        };
        // Position first: the order of columns is the writer's choice.
        let names = if ids.is_some() { ["p", "f"] } else { ["pos", "file_path"] };
        let schema = Arc::new(Schema::new(vec![field(names[0], DataType::Int64, 1), field(names[1], DataType::Utf8, 0)]));
        let positions: Int64Array = rows.iter().map(|(_, position)| *position).collect::<Vec<_>>().into();
        let paths = StringArray::from_iter_values(rows.iter().map(|(path, _)| *path));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(positions), Arc::new(paths)]).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    #[test]
    fn position_deletes_are_found_by_field_id_and_kept_by_data_file() {
        let rows = [("a", 1), ("a", 5), ("b", 0), ("a", 2)];
        for ids in [Some([FILE_PATH_ID, POSITION_ID]), None] {
            let deletes = PositionDeletes::decode("f", delete_file(ids, &rows)).unwrap();
            assert_eq!(deletes.of("a").iter().collect::<Vec<_>>(), [1, 2, 5]);
            assert_eq!(deletes.of("b").iter().collect::<Vec<_>>(), [0]);
            assert!(deletes.of("c").is_empty());
        }
        assert!(PositionDeletes::decode("f", delete_file(Some([1, 2]), &rows)).is_err());
        assert!(PositionDeletes::decode("f", delete_file(None, &[("a", -1)])).is_err());
        assert!(PositionDeletes::decode("f", Bytes::from_static(b"PAR1")).is_err());
    }
}
