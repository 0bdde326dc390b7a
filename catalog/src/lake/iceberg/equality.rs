//! Equality delete files: rows are gone whose key is in one of the files.
//!
//! The keys become positions: the key columns of a data file are read once, and from then on (cached like the other
//! kinds of deletes) its deleted rows are a bitmap, so that pruning, counting and row selection need to know no third
//! kind of delete. As the format has it, NULL equals NULL here.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::schema::types::SchemaDescriptor;
use roaring::RoaringTreemap;

use super::deletes::{DeleteFileKey, read};
use super::manifest::{Entry, by_id};
use super::metadata::SchemaJson;
use super::schema::{TableSchema, top_level_type};
use super::values::from_bytes;
use super::{LakeError, blocking, corrupt, unsupported};
use crate::caches::Caches;
use crate::lake::snapshot::{EqualityDelete, EqualityKey};
use crate::stores::Stores;

/// The columns that equality deletes of one table go by, by field id.
#[derive(Debug, Default)]
pub(super) struct KeyColumns(HashMap<i32, EqualityKey>);

impl KeyColumns {
    /// `schemas` are all of the table's: a key may have been dropped since.
    pub(super) fn new(
        file: &str,
        schema: &TableSchema,
        schemas: &[SchemaJson],
        name_mapping: Option<&HashMap<Vec<String>, i32>>,
        ids: &HashSet<i32>,
    ) -> Result<Self, LakeError> {
        let mut keys = HashMap::new();
        for id in ids {
            let (data_type, absent) = match schema.index_of(*id) {
                Some(index) => {
                    let data_type = schema.arrow.field(index).data_type().clone();
                    (data_type, schema.initial_defaults.get(&index).cloned())
                }
                None => {
                    let dropped = schemas.iter().filter_map(|schema| Some((schema.schema_id, top_level_type(file, schema, *id)?)));
                    let newest = dropped.max_by_key(|(schema_id, _)| *schema_id).map(|(_, data_type)| data_type);
                    (newest.ok_or_else(|| unsupported("equality deletes by nested columns"))??, None)
                }
            };
            if data_type.is_nested() {
                return Err(unsupported("equality deletes by nested columns"));
            }
            let null = ScalarValue::try_from(&data_type).map_err(|e| LakeError::Internal(e.to_string()))?;
            let mapped = name_mapping.into_iter().flatten().filter(|(path, mapped)| *mapped == id && path.len() == 1);
            let names = mapped.flat_map(|(path, _)| path.clone()).collect();
            keys.insert(*id, EqualityKey { id: *id, names, data_type, constant: None, absent: absent.unwrap_or(null) });
        }
        Ok(Self(keys))
    }

    /// The keys of a delete file, for a data file with these partition constants (by field id).
    pub(super) fn of(&self, delete: &Entry, constants: &HashMap<i32, ScalarValue>) -> Result<Vec<EqualityKey>, LakeError> {
        if delete.equality_ids.is_empty() {
            return Err(corrupt(&delete.path, "equality deletes without key columns"));
        }
        let key = |id: &i32| {
            let key = self.0.get(id).cloned();
            let key = key.ok_or_else(|| LakeError::Internal(format!("no key column {id}")))?;
            Ok(EqualityKey { constant: constants.get(id).cloned(), ..key })
        };
        delete.equality_ids.iter().map(key).collect()
    }

    /// Whether the bounds of the two leave room for a common key.
    pub(super) fn may_meet(&self, data: &Entry, delete: &Entry) -> bool {
        delete.equality_ids.iter().all(|id| {
            let Some(key) = self.0.get(id) else { return true };
            let both_may_be_null = by_id(&data.null_counts, *id) != Some(&0) && by_id(&delete.null_counts, *id) != Some(&0);
            if both_may_be_null || key.data_type.is_floating() {
                return true;
            }
            let lower = |entry: &Entry| by_id(&entry.lower_bounds, *id).and_then(|bytes| from_bytes(bytes, &key.data_type));
            let upper = |entry: &Entry| by_id(&entry.upper_bounds, *id).and_then(|bytes| from_bytes(bytes, &key.data_type));
            let apart = |low: Option<ScalarValue>, high: Option<ScalarValue>| low.zip(high).is_some_and(|(low, high)| low > high);
            !apart(lower(data), upper(delete)) && !apart(lower(delete), upper(data))
        })
    }
}

/// The keys in one delete file, in Arrow's row format.
#[derive(Debug)]
pub(crate) struct KeySet(HashSet<Box<[u8]>>);

/// A delete file and the columns, as they are read, that make the keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeySetKey {
    file: DeleteFileKey,
    columns: Vec<(i32, DataType)>,
}

impl KeySet {
    /// Bytes held, for the cache.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.0.iter().map(|key| key.len() + 2 * size_of::<Box<[u8]>>()).sum::<usize>()
    }

    fn decode(file: &str, bytes: Bytes, keys: &[EqualityKey]) -> Result<Self, LakeError> {
        let damaged = |e: &dyn std::fmt::Display| corrupt(file, e);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options()).map_err(|e| damaged(&e))?;
        let columns = Columns::find(file, builder.parquet_schema(), keys)?;
        if columns.0.contains(&None) {
            return Err(damaged(&"a key column is missing"));
        }
        let mask = columns.mask(builder.parquet_schema());
        let converter = converter(keys)?;
        let mut set = HashSet::new();
        for batch in builder.with_projection(mask).build().map_err(|e| damaged(&e))? {
            let batch = batch.map_err(|e| damaged(&e))?;
            let rows = converter.convert_columns(&columns.values(file, &batch, keys, false)?).map_err(|e| damaged(&e))?;
            set.extend(rows.iter().map(|row| Box::from(row.as_ref())));
        }
        Ok(Self(set))
    }
}

/// The deleted rows of a data file.
pub(crate) async fn equality_deletes(stores: &Stores, caches: &Caches, delete: &EqualityDelete) -> Result<Arc<RoaringTreemap>, LakeError> {
    let mut sets = Vec::with_capacity(delete.files.len());
    for (store, path, size_bytes) in &delete.files {
        let file = DeleteFileKey::new(store, path, *size_bytes);
        let key = KeySetKey { file: file.clone(), columns: delete.keys.iter().map(|key| (key.id, key.data_type.clone())).collect() };
        let load = async {
            let (name, bytes) = read(stores, &file).await?;
            let keys = delete.keys.clone();
            blocking(move || KeySet::decode(&name, bytes, &keys).map(Arc::new)).await
        };
        sets.push(caches.equality_keys.get_with(key, load).await.map_err(LakeError::shared)?);
    }

    let file = format!("{}/{}", delete.store, delete.path);
    let store = stores.store(&delete.store).map_err(|e| LakeError::Internal(e.to_string()))?;
    let reader = DataFile { store, path: delete.path.clone(), size_bytes: delete.size_bytes };
    let unreadable = |e| parquet_error(&file, e);
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options()).await.map_err(unreadable)?;
    let columns = Columns::find(&file, builder.parquet_schema(), &delete.keys)?;
    let mask = columns.mask(builder.parquet_schema());
    let mut batches = builder.with_projection(mask).build().map_err(unreadable)?;
    let converter = converter(&delete.keys)?;
    let (mut gone, mut position) = (RoaringTreemap::new(), 0_u64);
    while let Some(batch) = batches.try_next().await.map_err(unreadable)? {
        let values = columns.values(&file, &batch, &delete.keys, true)?;
        let rows = converter.convert_columns(&values).map_err(|e| corrupt(&file, e))?;
        for row in rows.iter() {
            if sets.iter().any(|set| set.0.contains(row.as_ref())) {
                gone.insert(position);
            }
            position += 1;
        }
    }
    Ok(Arc::new(gone))
}

/// A data file as it is: the scan's reader gives columns the table's names, which takes their ids away.
struct DataFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size_bytes: u64,
}

impl AsyncFileReader for DataFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async { self.store.get_range(&self.path, range).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let size_bytes = self.size_bytes;
        async move { ParquetMetaDataReader::new().load_and_finish(self, size_bytes).await.map(Arc::new) }.boxed()
    }
}

/// A store that does not answer is not a damaged file.
fn parquet_error(file: &str, error: ParquetError) -> LakeError {
    match error {
        ParquetError::External(source) => match source.downcast::<object_store::Error>() {
            Ok(source) => LakeError::Storage { file: file.to_owned(), source: *source },
            Err(other) => corrupt(file, other),
        },
        other => corrupt(file, other),
    }
}

/// Without the embedded Arrow schema, types follow from Parquet alone, whoever wrote the file.
fn options() -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_skip_arrow_metadata(true)
}

fn converter(keys: &[EqualityKey]) -> Result<RowConverter, LakeError> {
    let fields = keys.iter().map(|key| SortField::new(key.data_type.clone())).collect();
    RowConverter::new(fields).map_err(|e| LakeError::Internal(e.to_string()))
}

/// Where a file's root columns hold the keys.
struct Columns(Vec<Option<usize>>);

impl Columns {
    fn find(file: &str, schema: &SchemaDescriptor, keys: &[EqualityKey]) -> Result<Self, LakeError> {
        let roots = schema.root_schema().get_fields();
        let has_ids = roots.iter().any(|root| root.get_basic_info().has_id());
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let root = roots.iter().position(|root| match has_ids {
                true => root.get_basic_info().has_id() && root.get_basic_info().id() == key.id,
                false => key.names.iter().any(|name| name == root.name()),
            });
            if let Some(column) = root.and_then(|root| roots.get(root)) {
                if !column.is_primitive() {
                    return Err(corrupt(file, format_args!("key column {} is nested", column.name())));
                }
                // Arrow reads it as nanoseconds, which overflow.
                if column.get_physical_type() == PhysicalType::INT96 {
                    return Err(unsupported("equality deletes by INT96 columns"));
                }
            }
            found.push(root);
        }
        Ok(Self(found))
    }

    fn mask(&self, schema: &SchemaDescriptor) -> ProjectionMask {
        ProjectionMask::roots(schema, self.0.iter().flatten().copied())
    }

    /// The keys of a batch that was read with the mask. In data files, what the partition says wins over the file, and
    /// a column that is not there has its default.
    fn values(&self, file: &str, batch: &RecordBatch, keys: &[EqualityKey], data: bool) -> Result<Vec<ArrayRef>, LakeError> {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let internal = |e: datafusion::common::DataFusionError| LakeError::Internal(e.to_string());
        let mut values = Vec::with_capacity(keys.len());
        for (key, root) in keys.iter().zip(&self.0) {
            let whole = if data { key.constant.as_ref() } else { None };
            values.push(match (whole, root) {
                (Some(constant), _) => constant.to_array_of_size(batch.num_rows()).map_err(internal)?,
                (None, None) => key.absent.to_array_of_size(batch.num_rows()).map_err(internal)?,
                (None, Some(root)) => {
                    // Projected columns keep the order of the file.
                    let at = self.0.iter().flatten().filter(|other| *other < root).collect::<HashSet<_>>().len();
                    cast_with_options(batch.column(at), &key.data_type, &strict).map_err(|e| corrupt(file, e))?
                }
            });
        }
        Ok(values)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};
    use object_store::memory::InMemory;
    use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};

    use super::*;
    use crate::caches::CacheLimits;
    use crate::stores::StoresConfig;

    fn parquet(columns: Vec<(&str, Option<i32>, ArrayRef)>) -> Bytes {
        let fields: Vec<_> = columns
            .iter()
            .map(|(name, id, values)| {
                let field = Field::new(*name, values.data_type().clone(), true);
                match id {
                    Some(id) => field.with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())])),
                    None => field,
                }
            })
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns.into_iter().map(|(_, _, values)| values).collect()).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    fn ints(values: &[Option<i32>]) -> ArrayRef {
        Arc::new(Int32Array::from(values.to_vec()))
    }

    fn longs(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    fn texts(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn long_key(id: i32) -> EqualityKey {
        let absent = ScalarValue::Int64(None);
        EqualityKey { id, names: Vec::new(), data_type: DataType::Int64, constant: None, absent }
    }

    async fn gone(data: Bytes, deletes: Vec<Bytes>, keys: Vec<EqualityKey>) -> Result<Vec<u64>, LakeError> {
        let bucket = Arc::new(InMemory::new());
        let stores = Stores::new(StoresConfig::default());
        stores.put("s3://lake", Arc::clone(&bucket) as _);
        let store: Arc<str> = "s3://lake".into();
        let (path, size_bytes) = (Path::from("data"), data.len() as u64);
        bucket.put(&path, data.into()).await.unwrap();
        let mut files = Vec::new();
        for (number, delete) in deletes.into_iter().enumerate() {
            let at = Path::from(format!("delete-{number}"));
            files.push((Arc::clone(&store), at.clone(), delete.len() as u64));
            bucket.put(&at, delete.into()).await.unwrap();
        }
        let delete = EqualityDelete { store, path, size_bytes, keys, files };
        let caches = Caches::new(CacheLimits::default());
        equality_deletes(&stores, &caches, &delete).await.map(|rows| rows.iter().collect())
    }

    #[tokio::test]
    async fn keys_meet_by_field_id_across_names_types_and_nulls() {
        // Written before the column was widened and renamed.
        let data = parquet(vec![("x", Some(2), texts(&["p", "q", "r", "s"])), ("old", Some(1), ints(&[Some(1), None, Some(3), Some(4)]))]);
        let first = parquet(vec![("new", Some(1), longs(&[Some(4), None]))]);
        let second = parquet(vec![("new", Some(1), longs(&[Some(1), Some(5_000_000_000)]))]);
        assert_eq!(gone(data.clone(), vec![first.clone()], vec![long_key(1)]).await.unwrap(), [1, 3]);
        assert_eq!(gone(data, vec![first, second], vec![long_key(1)]).await.unwrap(), [0, 1, 3]);
    }

    #[tokio::test]
    async fn all_keys_must_meet_and_may_be_constant_or_missing() {
        let data = || parquet(vec![("a", Some(1), longs(&[Some(1), Some(2)]))]);
        let delete = |b| parquet(vec![("b", Some(2), longs(&[b, b])), ("a", Some(1), longs(&[Some(2), Some(9)]))]);
        let missing = || vec![long_key(1), long_key(2)];
        assert_eq!(gone(data(), vec![delete(None)], missing()).await.unwrap(), [1]);
        assert!(gone(data(), vec![delete(Some(7))], missing()).await.unwrap().is_empty());
        let defaulted = vec![long_key(1), EqualityKey { absent: ScalarValue::Int64(Some(7)), ..long_key(2) }];
        assert_eq!(gone(data(), vec![delete(Some(7))], defaulted).await.unwrap(), [1]);
        let constant = vec![long_key(1), EqualityKey { constant: Some(ScalarValue::Int64(Some(8))), ..long_key(2) }];
        assert_eq!(gone(data(), vec![delete(Some(8))], constant).await.unwrap(), [1]);
    }

    #[tokio::test]
    async fn files_without_ids_go_by_their_mapped_names() {
        let data = parquet(vec![("b", None, longs(&[Some(3)])), ("a", None, longs(&[Some(5)]))]);
        let delete = parquet(vec![("now", Some(1), longs(&[Some(5)]))]);
        let mapped = EqualityKey { names: vec!["a".to_owned()], ..long_key(1) };
        assert_eq!(gone(data, vec![delete], vec![mapped]).await.unwrap(), [0]);
    }

    #[tokio::test]
    async fn a_delete_file_without_its_key_is_damaged_and_a_missing_one_is_not() {
        let data = || parquet(vec![("a", Some(1), longs(&[Some(5)]))]);
        let other = parquet(vec![("b", Some(2), longs(&[Some(5)]))]);
        assert!(matches!(gone(data(), vec![other], vec![long_key(1)]).await, Err(LakeError::Corrupt { .. })));
        let stores = Stores::new(StoresConfig::default());
        stores.put("s3://lake", Arc::new(InMemory::new()));
        let store: Arc<str> = "s3://lake".into();
        let delete = EqualityDelete { store, path: Path::from("gone"), size_bytes: 1000, keys: vec![long_key(1)], files: Vec::new() };
        let caches = Caches::new(CacheLimits::default());
        let read = equality_deletes(&stores, &caches, &delete).await;
        assert!(matches!(read, Err(LakeError::Storage { source: object_store::Error::NotFound { .. }, .. })), "{read:?}");
    }
}
