//! One version of a table as the scan wants it: its schema, its files, and what is known of each file's columns.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use object_store::path::Path;

/// Iceberg's snapshot id, or Delta's version. `-1`: an Iceberg table without a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(pub i64);

/// The key under which a Parquet column is found in the files of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathedName {
    /// The files use the names of the table's schema (Delta without column mapping).
    Logical,
    /// The files use the `lazaret:physical_name` of each field (Delta column mapping by name).
    Physical,
    /// The files are read by `PARQUET:field_id` (Iceberg; Delta column mapping by id).
    FieldId,
}

/// One version of a table. Immutable, shared by every query that reads this version.
#[derive(Debug)]
pub struct LakeSnapshot {
    pub id: SnapshotId,
    /// The table's current schema, logical names in table order. Each field, nested ones too, carries its
    /// `PARQUET:field_id` and `lazaret:physical_name` metadata where the format has them; the children of lists and
    /// maps are named `element`, `key` and `value`.
    pub schema: SchemaRef,
    pub naming: PathedName,
    /// Iceberg's `schema.name-mapping.default`, for files without field ids: a path of names to an id.
    pub name_mapping: Option<HashMap<Vec<String>, i32>>,
    /// Values of columns that no file of this table holds unless it was written after they were added
    /// (Iceberg's `initial-default`): column index to value. Other missing columns read as NULL.
    pub initial_defaults: HashMap<usize, ScalarValue>,
    pub files: Vec<LakeFile>,
    /// What is known of the files' columns, row `i` of each array for `files[i]`.
    pub bounds: FileBounds,
    /// Folders outside the table's location that hold files of it, found when they are first asked for.
    pub(crate) outside: OnceLock<Arc<[String]>>,
}

impl LakeSnapshot {
    /// Of files that have the schema's names, and no version to be told by.
    pub fn of_files(schema: SchemaRef, files: Vec<LakeFile>, bounds: FileBounds) -> Self {
        Self {
            id: SnapshotId(0),
            bounds: bounds.completed(&schema, &files),
            schema,
            naming: PathedName::Logical,
            name_mapping: None,
            initial_defaults: HashMap::new(),
            files,
            outside: OnceLock::new(),
        }
    }

    /// What it takes of memory, about.
    pub fn memory_bytes(&self) -> usize {
        let file = |file: &LakeFile| {
            size_of::<LakeFile>()
                + file.path.as_ref().len()
                + file.constants.iter().map(|(_, value)| size_of::<usize>() + value.size()).sum::<usize>()
                + file.deletes.len() * DELETE_FILE_BYTES
        };
        let column = |bounds: &ColumnBounds| {
            bounds.min.get_array_memory_size() + bounds.max.get_array_memory_size() + bounds.null_counts.get_array_memory_size()
        };
        self.files.iter().map(file).sum::<usize>() + self.bounds.columns.values().map(column).sum::<usize>()
    }
}

/// One entry with its path, about.
const DELETE_FILE_BYTES: usize = size_of::<DeleteFile>() + 128;

/// One data file.
#[derive(Clone, Debug)]
pub struct LakeFile {
    /// Of the store (`s3://bucket`, `file://`), as `ObjectStoreUrl` has it.
    pub store: Arc<str>,
    pub path: Path,
    pub size_bytes: u64,
    /// Tells apart what stood under the same path before: a plain file that was replaced, a table that was made anew in
    /// the same place. What is cached of a file is cached under it.
    pub version: u64,
    /// Of what a plain file said of its columns and rows when it was looked at: another may have its name by now, which fits
    /// neither this snapshot nor what was asked of its policies. None of files that are written once.
    pub shape: Option<u64>,
    /// Rows in the file, deleted ones included.
    pub rows: Option<u64>,
    /// Columns whose value is the same for the whole file and is not read from it: Delta's partition columns,
    /// Iceberg's identity partition columns. Index into the snapshot's schema, ascending.
    pub constants: Arc<[(usize, ScalarValue)]>,
    pub deletes: Vec<DeleteFile>,
}

impl LakeFile {
    fn constant(&self, column: usize) -> Option<&ScalarValue> {
        let at = self.constants.binary_search_by_key(&column, |(index, _)| *index).ok()?;
        self.constants.get(at).map(|(_, value)| value)
    }
}

/// Where to find which rows of a data file are gone. Read only for files that survive pruning; cached by content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeleteFile {
    /// A Delta deletion vector inside the log (base85 text as in the log).
    DeltaInline { encoded: Arc<str>, cardinality: u64 },
    /// A Delta deletion vector in a file: offset and size of the blob, as in the log.
    DeltaFile { store: Arc<str>, path: Path, offset: u64, size_bytes: u64, cardinality: u64 },
    /// An Iceberg position delete file in Parquet; rows of other data files in it are skipped.
    PositionParquet { store: Arc<str>, path: Path, size_bytes: u64, data_file: Arc<str> },
    /// An Iceberg V3 deletion vector: a blob in a Puffin file.
    Puffin { store: Arc<str>, path: Path, offset: u64, size_bytes: u64, cardinality: u64 },
    /// Iceberg equality delete files.
    Equality(Arc<EqualityDelete>),
}

/// Equality delete files with the same key columns that apply to one data file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EqualityDelete {
    /// Of the data file.
    pub store: Arc<str>,
    pub path: Path,
    pub size_bytes: u64,
    pub keys: Vec<EqualityKey>,
    /// Store, path and size of each delete file, in Parquet.
    pub files: Vec<(Arc<str>, Path, u64)>,
}

/// A column that rows are compared by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EqualityKey {
    pub id: i32,
    /// Its names in files without field ids.
    pub names: Vec<String>,
    /// The type to compare in: the current one, or the last if the column was dropped.
    pub data_type: DataType,
    /// Its value in the whole data file, if the file's partition gives it.
    pub constant: Option<ScalarValue>,
    /// Its value if the data file does not hold it.
    pub absent: ScalarValue,
}

/// Bounds and null counts by column, for `PruningPredicate`. A bound may be wider than the values, never narrower.
#[derive(Debug, Default)]
pub struct FileBounds {
    /// By top-level column name of the snapshot's schema; a column may be absent.
    pub columns: HashMap<String, ColumnBounds>,
    /// Rows by file, null where unknown.
    pub row_counts: Option<UInt64Array>,
}

impl FileBounds {
    /// With what the files themselves say: their rows, and their constants, which are a minimum and a maximum. Once per
    /// version, so that a query need not look at each file.
    pub(crate) fn completed(mut self, schema: &Schema, files: &[LakeFile]) -> Self {
        let columns: BTreeSet<usize> = files.iter().flat_map(|file| file.constants.iter().map(|(index, _)| *index)).collect();
        for index in columns {
            let Some(field) = schema.fields().get(index) else { continue };
            let read = self.columns.remove(field.name());
            if let Some(bounds) = with_constants(field.data_type(), index, files, read.as_ref()) {
                self.columns.insert(field.name().clone(), bounds);
            }
        }
        self.row_counts.get_or_insert_with(|| files.iter().map(|file| file.rows).collect());
        self
    }
}

/// Bounds of a column that is constant in some files, and in others as they are known from `read`.
fn with_constants(data_type: &DataType, column: usize, files: &[LakeFile], read: Option<&ColumnBounds>) -> Option<ColumnBounds> {
    let constants = || files.iter().map(move |file| file.constant(column));
    let null = ScalarValue::try_new_null(data_type).ok()?;
    let side = |read: Option<&ArrayRef>| {
        let values = constants().enumerate().map(|(file, constant)| match (constant, read) {
            (Some(value), _) => value.clone(),
            (None, Some(read)) => ScalarValue::try_from_array(read, file).unwrap_or_else(|_| null.clone()),
            (None, None) => null.clone(),
        });
        ScalarValue::iter_to_array(values).ok()
    };
    // For a constant all rows or none; where the number of rows is unknown, so is this.
    let null_counts = files.iter().zip(constants()).enumerate().map(|(at, (file, constant))| match constant {
        Some(value) if value.is_null() => file.rows,
        Some(_) => Some(0),
        None => read.and_then(|read| read.null_counts.is_valid(at).then(|| read.null_counts.value(at))),
    });
    Some(ColumnBounds {
        min: side(read.map(|read| &read.min))?,
        max: side(read.map(|read| &read.max))?,
        null_counts: null_counts.collect(),
    })
}

#[derive(Debug, Clone)]
pub struct ColumnBounds {
    /// Of the column's type; null where unknown.
    pub min: ArrayRef,
    pub max: ArrayRef,
    pub null_counts: UInt64Array,
}

/// Why a table cannot be read. `Display` may name files and columns: it is for those who may manage the table.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    #[error("table feature \"{feature}\" is not supported yet")]
    Unsupported { feature: String },
    #[error("no {format} table at {location}")]
    NotATable { format: &'static str, location: String },
    #[error("{file} is damaged: {reason}")]
    Corrupt { file: String, reason: String },
    /// Plain files in one folder that are not one table.
    #[error("{file} does not fit the other files of the table: {reason}")]
    Mismatch { file: String, reason: String },
    #[error("{file} names {target}, which lies outside the table and below no configured store or allowed path")]
    OutsideLocation { file: String, target: String },
    #[error("the table's metadata name files that belong to another table")]
    FilesOfAnother,
    #[error("cannot read {file}")]
    Storage {
        file: String,
        #[source]
        source: object_store::Error,
    },
    #[error(transparent)]
    Location(#[from] crate::stores::LocationError),
    #[error("option \"{name}\": {reason}")]
    Option { name: String, reason: String },
    #[error("{0}")]
    Internal(String),
}

impl LakeError {
    /// The error of a load that several callers waited for.
    pub(crate) fn shared(error: Arc<Self>) -> Self {
        match Arc::try_unwrap(error) {
            Ok(own) => own,
            Err(shared) => match &*shared {
                Self::Unsupported { feature } => Self::Unsupported { feature: feature.clone() },
                Self::NotATable { format, location } => Self::NotATable { format, location: location.clone() },
                Self::Corrupt { file, reason } => Self::Corrupt { file: file.clone(), reason: reason.clone() },
                Self::Mismatch { file, reason } => Self::Mismatch { file: file.clone(), reason: reason.clone() },
                Self::FilesOfAnother => Self::FilesOfAnother,
                Self::OutsideLocation { file, target } => Self::OutsideLocation { file: file.clone(), target: target.clone() },
                Self::Storage { file, source } => {
                    let (path, text) = (file.clone(), source.to_string());
                    let source = match source {
                        object_store::Error::NotFound { .. } => object_store::Error::NotFound { path, source: text.into() },
                        object_store::Error::PermissionDenied { .. } => object_store::Error::PermissionDenied { path, source: text.into() },
                        _ => object_store::Error::Generic { store: "shared", source: text.into() },
                    };
                    Self::Storage { file: file.clone(), source }
                }
                Self::Option { name, reason } => Self::Option { name: name.clone(), reason: reason.clone() },
                Self::Location(error) => Self::Location(error.told_again()),
                Self::Internal(text) => Self::Internal(text.clone()),
            },
        }
    }
}
