//! Folders of plain Parquet, CSV or JSON files, and single ones.
//!
//! Not DataFusion's listing table: its cache of listings never expires, and its cache of footers knows no store.
//! Parquet becomes a lake snapshot without a format's metadata; CSV and JSON get DataFusion's own scans.

use std::collections::{BTreeMap, HashMap};
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
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::reader::{LakeReaderFactory, ScannedFile};
use super::rename::Naming;
use super::scan::LakeTable;
use super::snapshot::{FileBounds, LakeError, LakeFile, LakeSnapshot};
use super::table::{Lake, TableKey, TableSource};
use super::union::{self, Clash};
use crate::caches::{Held, Seen};
use crate::governed::{FailureKind, classify};
use crate::meta::TableFormat;
use crate::stores::{CountingStore, Location};

/// Files looked into at once to learn a table's schema.
const CONCURRENT_FILES: usize = 16;

/// Of a listed file and its footer's share in a plan, about.
const FILE_BYTES: usize = 512;

/// A folder as last listed.
pub(crate) struct PlainTable {
    table: Arc<dyn TableProvider>,
    /// Of the files' names, sizes and versions.
    listing: u64,
    files: usize,
    /// What was learnt of each file whose schema counts, so that only new ones are looked into.
    seen: HashMap<Path, SeenFile>,
}

#[derive(Clone)]
struct SeenFile {
    version: u64,
    schema: Arc<Schema>,
    /// Known for Parquet.
    rows: Option<u64>,
    shape: Option<u64>,
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
    let location = lake.stores.resolve_kept(&source.location)?;
    let format = Format::new(source)?;
    let files = list(lake.stores.counting(location.store())?.as_ref(), &location, &format).await?;
    let store = lake.stores.store(location.store())?;
    let listing = super::version(files.iter().map(|file| (file.location.as_ref(), version(file))).collect::<Vec<_>>());
    let known = known.as_ref().map(|known| &known.value);
    if known.is_some_and(|known| known.listing == listing) {
        return Ok(Seen::Same);
    }
    let count = files.len();
    let (table, seen): (Arc<dyn TableProvider>, _) = match format {
        Format::Parquet => {
            let (table, seen) = parquet_table(lake, &location, &files, known).await?;
            (Arc::new(table), seen)
        }
        Format::Csv(format) => {
            let seen = look_into(&files, known, |file| csv_file(&location, &format, &store, file).boxed()).await?;
            let schema = union::by_position(seen.iter().map(|file| file.schema.as_ref()));
            let schema = Arc::new(schema.map_err(|clash| mismatch(&location, &files, clash))?);
            (Arc::new(TextTable { schema, format: Arc::new(format), location, files: files.clone() }), seen)
        }
        Format::Json(format) => {
            let state = SessionContext::new().state();
            let schema = format.infer_schema(&state, &store, &files).await.map_err(|error| unreadable(location.to_string(), error))?;
            (Arc::new(TextTable { schema, format: Arc::new(format), location, files: files.clone() }), Vec::new())
        }
    };
    let seen = files.into_iter().map(|file| file.location).zip(seen).collect();
    Ok(Seen::New(PlainTable { table, listing, files: count, seen }))
}

/// Each file's schema, from the last time where the file is still the same.
async fn look_into<'a>(
    files: &'a [ObjectMeta],
    known: Option<&PlainTable>,
    look: impl Fn(&'a ObjectMeta) -> BoxFuture<'a, Result<SeenFile, LakeError>>,
) -> Result<Vec<SeenFile>, LakeError> {
    let looks = files.iter().map(|file| {
        let seen = known.and_then(|known| known.seen.get(&file.location)).filter(|seen| seen.version == version(file));
        match seen.cloned() {
            Some(seen) => async { Ok(seen) }.boxed(),
            None => look(file),
        }
    });
    let looks: Vec<_> = looks.collect();
    let mut seen: Vec<SeenFile> = stream::iter(looks).buffered(CONCURRENT_FILES).try_collect().await?;
    // Most have the same schema: it is held once.
    let first = seen.first().map(|first| Arc::clone(&first.schema));
    if let Some(first) = first {
        seen.iter_mut().filter(|file| file.schema == first).for_each(|file| file.schema = Arc::clone(&first));
    }
    Ok(seen)
}

/// Plain files may be replaced under their name.
fn version(file: &ObjectMeta) -> u64 {
    super::version(super::identity(file))
}

async fn csv_file(location: &Location, format: &CsvFormat, store: &Arc<dyn ObjectStore>, file: &ObjectMeta) -> Result<SeenFile, LakeError> {
    let state = SessionContext::new().state();
    let schema = format.infer_schema(&state, store, std::slice::from_ref(file)).await;
    let schema = schema.map_err(|error| unreadable(url(location, file), error))?;
    Ok(SeenFile { version: version(file), schema, rows: None, shape: None })
}

enum Format {
    Parquet,
    Csv(CsvFormat),
    Json(JsonFormat),
}

impl Format {
    fn new(source: &TableSource) -> Result<Self, LakeError> {
        let options = Options(source.options.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect());
        match source.format {
            TableFormat::Csv => csv(options).map(Self::Csv),
            TableFormat::Json => json(options).map(Self::Json),
            _ => options.done("PARQUET").map(|()| Self::Parquet),
        }
    }

    fn extension(&self) -> String {
        let text = |format: &dyn FileFormat| {
            let compression = format.compression_type().unwrap_or(FileCompressionType::UNCOMPRESSED);
            format.get_ext_with_compression(&compression).unwrap_or_else(|_| format.get_ext())
        };
        match self {
            Self::Parquet => ".parquet".to_owned(),
            Self::Csv(format) => text(format),
            Self::Json(format) => text(format),
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

/// The files of a table, with a tag that tells each from whatever had its name before.
async fn list(store: &CountingStore, location: &Location, format: &Format) -> Result<Vec<ObjectMeta>, LakeError> {
    let mut files = found(store, location, format).await?;
    for file in &mut files {
        // By more than the store's own tag says, which a file that was written over can have again.
        if let Some(identity) = store.identity(&file.location).await {
            file.e_tag = Some(format!("{identity:?}"));
        }
    }
    Ok(files)
}

/// The file itself, or those of the format below the folder; hidden ones, and markers such as `_SUCCESS`, are none.
async fn found(store: &CountingStore, location: &Location, format: &Format) -> Result<Vec<ObjectMeta>, LakeError> {
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
            Format::Csv(_) | Format::Json(_) => "text",
        };
        return Err(LakeError::NotATable { format, location: location.to_string() });
    }
    Ok(files)
}

async fn parquet_table(
    lake: &Lake,
    location: &Location,
    files: &[ObjectMeta],
    known: Option<&PlainTable>,
) -> Result<(LakeTable, Vec<SeenFile>), LakeError> {
    let reader = LakeReaderFactory {
        store_name: Arc::clone(location.store()),
        store: lake.stores.counting(location.store())?,
        caches: Arc::clone(&lake.caches),
        naming: Arc::new(Naming::logical(&Fields::empty())),
        lookups: Arc::default(),
        effort: Arc::default(),
    };
    let look = |file: &ObjectMeta| {
        let (version, url) = (version(file), url(location, file));
        let scanned = ScannedFile::first_seen(version);
        let reader = reader.file(file.location.clone(), file.size, scanned);
        async move {
            let own = reader.own_schema().await.map_err(|error| unreadable(url, error))?;
            Ok(SeenFile { version, schema: Arc::new(own.schema), rows: Some(own.rows), shape: Some(own.shape) })
        }
        .boxed()
    };
    let seen = look_into(files, known, look).await?;
    let schema = union::by_name(seen.iter().map(|file| file.schema.as_ref())).map_err(|clash| mismatch(location, files, clash))?;
    let lake_file = |(file, seen): (&ObjectMeta, &SeenFile)| LakeFile {
        store: Arc::clone(location.store()),
        path: file.location.clone(),
        size_bytes: file.size,
        version: seen.version,
        shape: seen.shape,
        rows: seen.rows,
        constants: Arc::from([]),
        deletes: Vec::new(),
    };
    let lake_files: Vec<_> = files.iter().zip(&seen).map(lake_file).collect();
    let snapshot = LakeSnapshot::of_files(Arc::new(schema), lake_files, FileBounds::default());
    Ok((LakeTable::new(Arc::new(snapshot), Arc::clone(&lake.stores), Arc::clone(&lake.caches)), seen))
}

/// With the names for the children of lists and maps that renamed footers have.
pub(super) fn canonical(fields: &Fields) -> Fields {
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

/// A file that cannot be read: what the store says of it comes first.
fn unreadable(file: String, error: impl std::error::Error + 'static) -> LakeError {
    match classify(&error) {
        FailureKind::Unavailable => {
            let source = object_store::Error::Generic { store: "plain files", source: error.to_string().into() };
            LakeError::Storage { file, source }
        }
        FailureKind::Unsupported => LakeError::Unsupported { feature: error.to_string() },
        _ => LakeError::Corrupt { file, reason: error.to_string() },
    }
}

fn mismatch(location: &Location, files: &[ObjectMeta], clash: Clash) -> LakeError {
    let file = files.get(clash.file).map_or_else(|| location.to_string(), |file| url(location, file));
    LakeError::Mismatch { file, reason: clash.reason }
}

fn url(location: &Location, file: &ObjectMeta) -> String {
    format!("{}/{}", location.store(), file.location)
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
