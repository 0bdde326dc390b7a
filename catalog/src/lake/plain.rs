//! Folders of plain Parquet, CSV or JSON files, and single ones.
//!
//! Not DataFusion's listing table: its cache of listings never expires, and its cache of footers knows no store.
//! Parquet becomes a lake snapshot without a format's metadata; CSV and JSON get DataFusion's own scans.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DataFusionResult;
use datafusion::datasource::TableType;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::reader::LakeReaderFactory;
use super::rename::Naming;
use super::scan::LakeTable;
use super::snapshot::{FileBounds, LakeError, LakeFile, LakeSnapshot, PathedName, SnapshotId};
use super::table::{Lake, TableKey, TableSource};
use crate::caches::{Held, Seen};
use crate::meta::TableFormat;
use crate::stores::Location;

/// Footers read at once to learn a table's schema.
const CONCURRENT_FOOTERS: usize = 16;

/// Of a listed file and its footer's share in a plan, about.
const FILE_BYTES: usize = 512;

/// A folder as last listed.
pub(crate) struct PlainTable {
    table: Arc<dyn TableProvider>,
    files: usize,
    /// Of the files' names, sizes and versions.
    listing: u64,
}

impl PlainTable {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.files * FILE_BYTES
    }
}

pub(super) async fn open(lake: &Lake, source: &TableSource) -> Result<Arc<dyn TableProvider>, LakeError> {
    let staleness = lake.caches.limits.staleness;
    let held = lake.caches.listings.current(TableKey::of(source), staleness, |known| load(lake, source, known)).await?;
    Ok(Arc::clone(&held.value.table))
}

async fn load(lake: &Lake, source: &TableSource, known: Option<Arc<Held<PlainTable>>>) -> Result<Seen<PlainTable>, LakeError> {
    let location = lake.stores.resolve(&source.location)?;
    let store = lake.stores.store(location.store())?;
    let format = Format::new(source)?;
    let files = list(store.as_ref(), &location, &format).await?;
    let listing = fingerprint(&files);
    if known.is_some_and(|known| known.value.listing == listing) {
        return Ok(Seen::Same);
    }
    let count = files.len();
    let table: Arc<dyn TableProvider> = match format {
        Format::Parquet => Arc::new(parquet_table(lake, &location, files, listing).await?),
        Format::Text(format) => {
            let state = SessionContext::new().state();
            let schema = format.infer_schema(&state, &store, &files).await.map_err(|error| damaged(&location, &error))?;
            Arc::new(TextTable { schema, format, location, files })
        }
    };
    Ok(Seen::New(PlainTable { table, files: count, listing }))
}

enum Format {
    Parquet,
    Text(Arc<dyn FileFormat>),
}

impl Format {
    fn new(source: &TableSource) -> Result<Self, LakeError> {
        let options = Options(source.options.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect());
        match source.format {
            TableFormat::Csv => Ok(Self::Text(Arc::new(csv(options)?))),
            TableFormat::Json => Ok(Self::Text(Arc::new(json(options)?))),
            _ => options.done("PARQUET").map(|()| Self::Parquet),
        }
    }

    fn extension(&self) -> String {
        match self {
            Self::Parquet => ".parquet".to_owned(),
            Self::Text(format) => {
                let compression = format.compression_type().unwrap_or(FileCompressionType::UNCOMPRESSED);
                format.get_ext_with_compression(&compression).unwrap_or_else(|_| format.get_ext())
            }
        }
    }
}

/// Options of CREATE EXTERNAL TABLE, taken one by one.
struct Options(BTreeMap<String, String>);

impl Options {
    fn take<T: FromStr>(&mut self, name: &str, wanted: &str) -> Result<Option<T>, LakeError> {
        let found = self.0.remove(name).or_else(|| self.0.remove(&format!("format.{name}")));
        let Some(text) = found else { return Ok(None) };
        let invalid = || LakeError::Option { name: name.to_owned(), reason: format!("\"{text}\" is not {wanted}") };
        text.trim_matches('\'').parse().map(Some).map_err(|_| invalid())
    }

    /// One ASCII character.
    fn character(&mut self, name: &str) -> Result<Option<u8>, LakeError> {
        let Some(text) = self.take::<String>(name, "text")? else { return Ok(None) };
        match (text.as_str(), text.as_bytes()) {
            ("\\t", _) => Ok(Some(b'\t')),
            (_, [one]) => Ok(Some(*one)),
            _ => Err(LakeError::Option { name: name.to_owned(), reason: "one ASCII character is wanted".to_owned() }),
        }
    }

    fn done(self, format: &str) -> Result<(), LakeError> {
        match self.0.into_keys().next() {
            Some(name) => Err(LakeError::Option { name, reason: format!("{format} tables have no such option") }),
            None => Ok(()),
        }
    }
}

fn csv(mut options: Options) -> Result<CsvFormat, LakeError> {
    let mut format = CsvFormat::default();
    // As PostgreSQL and Spark call it, and as DataFusion does.
    let header = match options.take("header", "true or false")? {
        Some(header) => Some(header),
        None => options.take("has_header", "true or false")?,
    };
    format = format.with_has_header(header.unwrap_or(true));
    if let Some(delimiter) = options.character("delimiter")? {
        format = format.with_delimiter(delimiter);
    }
    if let Some(quote) = options.character("quote")? {
        format = format.with_quote(quote);
    }
    if let Some(escape) = options.character("escape")? {
        format = format.with_escape(Some(escape));
    }
    if let Some(comment) = options.character("comment")? {
        format = format.with_comment(Some(comment));
    }
    if let Some(newlines) = options.take("newlines_in_values", "true or false")? {
        format = format.with_newlines_in_values(newlines);
    }
    if let Some(records) = options.take("schema_infer_max_rec", "a number of records")? {
        format = format.with_schema_infer_max_rec(records);
    }
    if let Some(compression) = options.take("compression", "gzip, bzip2, xz, zstd or uncompressed")? {
        format = format.with_file_compression_type(compression);
    }
    options.done("CSV")?;
    Ok(format)
}

fn json(mut options: Options) -> Result<JsonFormat, LakeError> {
    let mut format = JsonFormat::default();
    if let Some(lines) = options.take("newline_delimited", "true or false")? {
        format = format.with_newline_delimited(lines);
    }
    if let Some(records) = options.take("schema_infer_max_rec", "a number of records")? {
        format = format.with_schema_infer_max_rec(records);
    }
    if let Some(compression) = options.take("compression", "gzip, bzip2, xz, zstd or uncompressed")? {
        format = format.with_file_compression_type(compression);
    }
    options.done("JSON")?;
    Ok(format)
}

/// The file itself, or those of the format below the folder; hidden ones, and markers such as `_SUCCESS`, are none.
async fn list(store: &dyn ObjectStore, location: &Location, format: &Format) -> Result<Vec<ObjectMeta>, LakeError> {
    let failed = |source| LakeError::Storage { file: location.to_string(), source };
    match store.head(location.path()).await {
        Ok(file) => return Ok(vec![file]),
        // A folder is no object, and some stores say so in other words.
        Err(object_store::Error::PermissionDenied { path, source }) => {
            return Err(failed(object_store::Error::PermissionDenied { path, source }));
        }
        Err(_) => {}
    }
    let extension = format.extension();
    let listed: Vec<ObjectMeta> = store.list(Some(location.path())).try_collect().await.map_err(failed)?;
    let is_data = |file: &ObjectMeta| {
        let mut below = file.location.prefix_match(location.path()).into_iter().flatten();
        below.all(|part| !part.as_ref().starts_with(['_', '.'])) && file.location.as_ref().ends_with(&extension) && file.size > 0
    };
    let mut files: Vec<_> = listed.into_iter().filter(is_data).collect();
    files.sort_by(|a, b| a.location.cmp(&b.location));
    if files.is_empty() {
        let format = match format {
            Format::Parquet => "Parquet",
            Format::Text(_) => "text",
        };
        return Err(LakeError::NotATable { format, location: location.to_string() });
    }
    Ok(files)
}

/// Plain files may be replaced under their name, so their versions are a part of what a footer is cached under.
fn fingerprint(files: &[ObjectMeta]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        (file.location.as_ref(), file.size, file.last_modified, &file.e_tag, &file.version).hash(&mut hasher);
    }
    hasher.finish()
}

async fn parquet_table(lake: &Lake, location: &Location, files: Vec<ObjectMeta>, listing: u64) -> Result<LakeTable, LakeError> {
    let snapshot = |schema, files| LakeSnapshot {
        id: SnapshotId(0),
        schema,
        naming: PathedName::Logical,
        name_mapping: None,
        initial_defaults: Default::default(),
        files,
        bounds: FileBounds::default(),
    };
    let reader = LakeReaderFactory {
        store_name: Arc::clone(location.store()),
        store: lake.stores.store(location.store())?,
        caches: Arc::clone(&lake.caches),
        naming: Arc::new(Naming::new(&snapshot(Arc::new(Schema::empty()), Vec::new())).of_version(listing)),
    };
    let footers: Vec<_> = files
        .iter()
        .map(|file| {
            let reader = reader.file(file.location.clone(), file.size);
            async move { reader.own_schema().await.map_err(|error| damaged_file(location, file, &error)) }.boxed()
        })
        .collect();
    let found: Vec<(Schema, u64)> = stream::iter(footers).buffered(CONCURRENT_FOOTERS).try_collect().await?;
    let merged = Schema::try_merge(found.iter().map(|(schema, _)| Schema::new(canonical(schema.fields()))));
    let schema = merged.map_err(|error| damaged(location, &error))?;
    let lake_file = |(file, (_, rows)): (&ObjectMeta, &(Schema, u64))| LakeFile {
        store: Arc::clone(location.store()),
        path: file.location.clone(),
        size_bytes: file.size,
        rows: Some(*rows),
        constants: Arc::from([]),
        deletes: Vec::new(),
    };
    let files = files.iter().zip(&found).map(lake_file).collect();
    let snapshot = Arc::new(snapshot(Arc::new(schema), files));
    Ok(LakeTable::of_version(snapshot, Arc::clone(&lake.stores), Arc::clone(&lake.caches), listing))
}

/// With the names for the children of lists and maps that renamed footers have.
fn canonical(fields: &Fields) -> Fields {
    fields.iter().map(|field| canonical_field(field.name(), field)).collect()
}

fn canonical_field(name: &str, field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(children) => DataType::Struct(canonical(children)),
        DataType::List(child) => DataType::List(canonical_field("element", child)),
        DataType::Map(entries, sorted) => {
            let children = match entries.data_type() {
                DataType::Struct(children) => {
                    ["key", "value"].iter().zip(children).map(|(name, child)| canonical_field(name, child)).collect::<Fields>()
                }
                _ => Fields::empty(),
            };
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(children), false)), *sorted)
        }
        other => other.clone(),
    };
    Arc::new(Field::new(name, data_type, field.is_nullable()))
}

fn damaged(location: &Location, error: &dyn std::error::Error) -> LakeError {
    LakeError::Corrupt { file: location.to_string(), reason: error.to_string() }
}

fn damaged_file(location: &Location, file: &ObjectMeta, error: &dyn std::error::Error) -> LakeError {
    LakeError::Corrupt { file: format!("{}/{}", location.store(), file.location), reason: error.to_string() }
}

/// CSV or JSON files.
#[derive(Debug)]
struct TextTable {
    schema: SchemaRef,
    format: Arc<dyn FileFormat>,
    location: Location,
    files: Vec<ObjectMeta>,
}

#[async_trait]
impl TableProvider for TextTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let source = self.format.file_source(TableSchema::from(Arc::clone(&self.schema)));
        let files = self.files.iter().cloned().map(PartitionedFile::new_from_meta).collect();
        let url = ObjectStoreUrl::parse(self.location.store())?;
        let config = FileScanConfigBuilder::new(url, source)
            .with_file_groups(FileGroup::new(files).split_files(state.config().target_partitions().max(1)))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        self.format.create_physical_plan(state, config).await
    }
}
