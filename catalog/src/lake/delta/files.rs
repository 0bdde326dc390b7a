//! The files of a Delta table's version, replayed from the log in columns.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StructArray, UInt64Array, make_array};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, Schema};
use buoyant_kernel::Engine;
use buoyant_kernel::actions::deletion_vector::{DeletionVectorDescriptor, DeletionVectorStorageType};
use buoyant_kernel::engine::arrow_data::ArrowEngineData;
use buoyant_kernel::scan::{PartitionValuesOptions, StatsOptions};
use buoyant_kernel::snapshot::SnapshotRef;
use datafusion::common::ScalarValue;
use object_store::path::Path;
use url::Url;

use super::{bounds, kernel_error};
use crate::lake::PHYSICAL_NAME_KEY;
use crate::lake::snapshot::{DeleteFile, FileBounds, LakeError, LakeFile};
use crate::stores::{Location, Stores};

/// The live files and what the log says of their columns.
pub(super) fn read(
    engine: &dyn Engine,
    log: &SnapshotRef,
    stores: &Stores,
    location: &Location,
    schema: &Schema,
    partition_columns: &[String],
) -> Result<(Vec<LakeFile>, FileBounds), LakeError> {
    let Some(batch) = replay(engine, log, location)? else { return Ok(Default::default()) };
    let log_name = format!("{location}/_delta_log");
    let corrupt = |reason: &str| LakeError::Corrupt { file: log_name.clone(), reason: reason.to_owned() };

    let stats = batch.column_by_name("stats_parsed").and_then(|column| column.as_struct_opt()).cloned();
    let rows = stats.as_ref().and_then(|stats| child(stats, "numRecords")).map(|rows| counts(&rows));
    let constants =
        constants(&batch, schema, partition_columns).ok_or_else(|| corrupt("partition values are not of their columns' types"))?;

    let paths = string_column(&batch, "path").ok_or_else(|| corrupt("an added file has no path"))?;
    let sizes =
        batch.column_by_name("size").and_then(|column| column.as_primitive_opt::<Int64Type>()).ok_or_else(|| corrupt("no sizes"))?;
    let vectors = batch.column_by_name("deletionVector").and_then(|column| column.as_struct_opt()).map(Vectors::new);
    let resolver = Resolver { stores, location, log: &log_name };

    let mut files = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let size_bytes = u64::try_from(sizes.value(row)).map_err(|_| corrupt("a file of negative size"))?;
        let (store, path) = resolver.data_file(paths.value(row))?;
        let deletes = match vectors.as_ref().filter(|vectors| vectors.all.is_valid(row)) {
            Some(vectors) => vec![resolver.deletion_vector(vectors, row)?],
            None => Vec::new(),
        };
        let constants = constants.iter().map(|(index, values)| Ok((*index, ScalarValue::try_from_array(values, row)?)));
        let constants = constants
            .collect::<Result<Arc<[_]>, _>>()
            .map_err(|error: datafusion::error::DataFusionError| LakeError::Internal(error.to_string()))?;
        let rows = rows.as_ref().filter(|rows| rows.is_valid(row)).map(|rows| rows.value(row));
        files.push(LakeFile { store, path, size_bytes, version: 0, shape: None, rows, constants, deletes });
    }
    let columns = stats.map(|stats| bounds::read(&stats, schema, partition_columns)).unwrap_or_default();
    Ok((files, FileBounds { columns, row_counts: rows }))
}

/// All live `add` actions in one batch; `None` if there are none.
fn replay(engine: &dyn Engine, log: &SnapshotRef, location: &Location) -> Result<Option<RecordBatch>, LakeError> {
    let failed = |error| kernel_error(location, error);
    let scan = Arc::clone(log)
        .scan_builder()
        .with_stats(StatsOptions::all_struct())
        .with_partition_values(PartitionValuesOptions::with_struct())
        .without_row_transforms()
        .build()
        .map_err(failed)?;
    let mut batches = Vec::new();
    for metadata in scan.scan_metadata(engine).map_err(failed)? {
        let (data, mut selected) = metadata.map_err(failed)?.scan_files.into_parts();
        let batch: RecordBatch = (*ArrowEngineData::try_from_engine_data(data).map_err(failed)?).into();
        // A selection that ends early selects the rest.
        selected.resize(batch.num_rows(), true);
        let batch = filter_record_batch(&batch, &BooleanArray::from(selected)).map_err(|error| LakeError::Internal(error.to_string()))?;
        if batch.num_rows() > 0 {
            batches.push(batch);
        }
    }
    let Some(first) = batches.first() else { return Ok(None) };
    concat_batches(&first.schema(), &batches).map(Some).map_err(|error| LakeError::Internal(error.to_string()))
}

/// A struct's child, NULL where the struct is.
pub(super) fn child(parent: &StructArray, name: &str) -> Option<ArrayRef> {
    let child = parent.column_by_name(name)?;
    let nulls = NullBuffer::union(parent.nulls(), child.nulls());
    child.to_data().into_builder().nulls(nulls).build().ok().map(make_array)
}

/// Counts, unknown where they are negative.
pub(super) fn counts(array: &ArrayRef) -> UInt64Array {
    match array.as_primitive_opt::<Int64Type>() {
        Some(counts) => counts.iter().map(|count| count.and_then(|count| u64::try_from(count).ok())).collect(),
        None => UInt64Array::new_null(array.len()),
    }
}

/// The partition columns by index, ascending, with their value for each file.
fn constants(batch: &RecordBatch, schema: &Schema, partition_columns: &[String]) -> Option<Vec<(usize, ArrayRef)>> {
    if partition_columns.is_empty() {
        return Some(Vec::new());
    }
    let parsed = batch.column_by_name("partitionValues_parsed")?.as_struct_opt()?;
    let mut constants = Vec::with_capacity(partition_columns.len());
    for name in partition_columns {
        let (index, field) = schema.column_with_name(name)?;
        let physical = field.metadata().get(PHYSICAL_NAME_KEY).unwrap_or(name);
        let values = child(parsed, physical)?;
        let values = if values.data_type() == field.data_type() { values } else { cast(&values, field.data_type()).ok()? };
        constants.push((index, values));
    }
    constants.sort_by_key(|(index, _)| *index);
    Some(constants)
}

fn string_column<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a arrow::array::StringArray> {
    let column = batch.column_by_name(name)?;
    (column.null_count() == 0 && *column.data_type() == DataType::Utf8).then(|| column.as_string::<i32>())
}

/// The deletion vectors of all files. Each child is taken once: that copies its nulls.
struct Vectors {
    all: StructArray,
    kind: Option<ArrayRef>,
    target: Option<ArrayRef>,
    offset: Option<ArrayRef>,
    size: Option<ArrayRef>,
    cardinality: Option<ArrayRef>,
}

impl Vectors {
    fn new(all: &StructArray) -> Self {
        Self {
            kind: child(all, "storageType"),
            target: child(all, "pathOrInlineDv"),
            offset: child(all, "offset"),
            size: child(all, "sizeInBytes"),
            cardinality: child(all, "cardinality"),
            all: all.clone(),
        }
    }
}

/// From what the log calls a file to its place in a store.
struct Resolver<'a> {
    stores: &'a Stores,
    location: &'a Location,
    log: &'a str,
}

impl Resolver<'_> {
    /// `path` is relative to the table or a URL, percent-encoded either way (PROTOCOL.md, "Add File").
    fn data_file(&self, path: &str) -> Result<(Arc<str>, Path), LakeError> {
        if has_scheme(path) {
            return self.absolute(path);
        }
        let outside = || LakeError::OutsideLocation { file: self.log.to_owned(), target: path.to_owned() };
        if path.starts_with('/') {
            return Err(outside());
        }
        let relative = Path::from_url_path(path).map_err(|_| outside())?;
        let joined = self.location.path().parts().chain(relative.parts()).collect();
        Ok((Arc::clone(self.location.store()), joined))
    }

    fn absolute(&self, url: &str) -> Result<(Arc<str>, Path), LakeError> {
        let outside = || LakeError::OutsideLocation { file: self.log.to_owned(), target: url.to_owned() };
        let target = self.stores.resolve(url).map_err(|_| outside())?;
        let in_table = target.store() == self.location.store() && target.path().prefix_matches(self.location.path());
        if in_table || self.stores.may_name(url) {
            return Ok((Arc::clone(target.store()), target.path().clone()));
        }
        Err(outside())
    }

    fn deletion_vector(&self, vectors: &Vectors, row: usize) -> Result<DeleteFile, LakeError> {
        let corrupt = |reason: &str| LakeError::Corrupt { file: self.log.to_owned(), reason: reason.to_owned() };
        let text = |column: &Option<ArrayRef>| Some(column.as_ref()?.as_string_opt::<i32>()?.value(row).to_owned());
        let int = |column: &Option<ArrayRef>| {
            column.as_ref()?.as_primitive_opt::<Int32Type>().filter(|it| it.is_valid(row)).map(|it| it.value(row))
        };
        let cardinality = vectors.cardinality.as_ref().and_then(|it| Some(it.as_primitive_opt::<Int64Type>()?.value(row)));
        let (Some(kind), Some(target), Some(size), Some(cardinality)) =
            (text(&vectors.kind), text(&vectors.target), int(&vectors.size), cardinality)
        else {
            return Err(corrupt("a deletion vector lacks a field"));
        };
        let kind: DeletionVectorStorageType =
            kind.parse().map_err(|_| LakeError::Unsupported { feature: format!("deletion vector storage \"{kind}\"") })?;
        let offset = int(&vectors.offset);
        let descriptor = DeletionVectorDescriptor::try_new(kind, target.as_str(), offset, size, cardinality)
            .map_err(|error| corrupt(&error.to_string()))?;
        let unsigned = |n: i64| u64::try_from(n).map_err(|_| corrupt("a deletion vector of negative size"));
        let cardinality = unsigned(cardinality)?;
        let (store, path) = match descriptor.storage_type {
            DeletionVectorStorageType::Inline => return Ok(DeleteFile::DeltaInline { encoded: target.into(), cardinality }),
            DeletionVectorStorageType::PersistedAbsolute => self.absolute(&target)?,
            DeletionVectorStorageType::PersistedRelative => {
                // The kernel decodes the name only as a part of a URL.
                let base = Url::parse("file:///").map_err(|error| LakeError::Internal(error.to_string()))?;
                let url = descriptor.absolute_path(&base).map_err(|error| corrupt(&error.to_string()))?;
                let url = url.ok_or_else(|| corrupt("a deletion vector without a file"))?;
                self.data_file(url.path().trim_start_matches('/'))?
            }
        };
        // Without an offset the vector is the first in its file, after the version byte.
        let offset = unsigned(i64::from(offset.unwrap_or(1)))?;
        Ok(DeleteFile::DeltaFile { store, path, offset, size_bytes: unsigned(i64::from(size))?, cardinality })
    }
}

/// `s3://…`, and `file:/…` as Hadoop writes it. A colon in a relative path comes percent-encoded.
fn has_scheme(path: &str) -> bool {
    path.split_once(":/").is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    })
}
