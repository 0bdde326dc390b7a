//! Adds rows to tables in a store that does not always tell the truth.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use lazaret_auth::TableId;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{WriteError, write_rows};
use crate::caches::{CacheLimits, Caches};
use crate::lake::{DeltaTarget, Lake, TableSource};
use crate::meta::TableFormat;
use crate::stores::{Stores, StoresConfig};

/// What becomes of the next request for a version of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// It is done, and the answer is lost.
    DoneAndLost,
    /// It is done, tried again by the client, and found to be there.
    DoneTwice,
    /// Another writer comes first, with this.
    Overtaken(Other),
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    Append,
    Metadata,
}

#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    faults: Mutex<VecDeque<Fault>>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

fn lost() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "the connection was closed".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let is_version = opts.mode == PutMode::Create && location.as_ref().contains("_delta_log");
        let fault = if is_version { self.faults.lock().pop_front() } else { None };
        match fault {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(Fault::DoneAndLost) => self.inner.put_opts(location, payload, opts).await.and(Err(lost())),
            Some(Fault::DoneTwice) => {
                self.inner.put_opts(location, payload.clone(), opts.clone()).await?;
                self.inner.put_opts(location, payload, opts).await
            }
            Some(Fault::Overtaken(other)) => {
                let text = match other {
                    Other::Append => log(&[add("theirs.parquet")]),
                    Other::Metadata => log(&[metadata(&["n", "more"])]),
                };
                self.inner.put_opts(location, text.into(), opts.clone()).await?;
                self.inner.put_opts(location, payload, opts).await
            }
            Some(Fault::Refused) => Err(lost()),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn log(actions: &[Value]) -> String {
    actions.iter().map(|action| format!("{action}\n")).collect()
}

fn metadata(columns: &[&str]) -> Value {
    let fields: Vec<Value> = columns.iter().map(|name| json!({"name": name, "type": "long", "nullable": true, "metadata": {}})).collect();
    let schema = json!({"type": "struct", "fields": fields}).to_string();
    json!({"metaData": {
        "id": "4d1c7a52-0000-4000-8000-000000000000", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
        "partitionColumns": [], "configuration": {}, "createdTime": 0,
    }})
}

fn add(path: &str) -> Value {
    let stats = json!({"numRecords": 0}).to_string();
    json!({"add": {"path": path, "partitionValues": {}, "size": 1, "modificationTime": 0, "dataChange": true, "stats": stats}})
}

struct Stage {
    store: Arc<Faulty>,
    lake: Arc<Lake>,
    source: TableSource,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// A table of one column, without rows.
    async fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoresConfig { warehouse: folder.path().join("warehouse"), ..StoresConfig::default() });
        let store = Arc::new(Faulty { inner: InMemory::new(), faults: Mutex::default() });
        let first = log(&[json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}), metadata(&["n"])]);
        store.inner.put(&version(0), first.into()).await.unwrap();
        stores.put("s3://lake", Arc::clone(&store) as _);
        let lake = Arc::new(Lake::new(Arc::new(stores), Arc::new(Caches::new(CacheLimits::default()))));
        let source = TableSource {
            id: TableId::generate(),
            format: TableFormat::Delta,
            location: "s3://lake/t".to_owned(),
            options: BTreeMap::new(),
        };
        Self { store, lake, source, _folder: folder }
    }

    async fn insert(&self, values: &[i64], faults: &[Fault]) -> Result<u64, WriteError> {
        let target = DeltaTarget::open(&self.lake, &self.source).await.unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values.to_vec()))]).unwrap();
        let batches = stream::iter([Ok::<_, DataFusionError>(batch)]);
        let rows = write_rows(&self.lake, &target, batches.boxed()).await?;
        *self.store.faults.lock() = faults.iter().copied().collect();
        let outcome = rows.commit(&self.lake, &target, false).await;
        assert!(self.store.faults.lock().is_empty(), "{faults:?} were not all met");
        outcome
    }

    async fn versions(&self) -> usize {
        self.objects("_delta_log").await
    }

    /// The data files that are there, named or not.
    async fn files(&self) -> usize {
        self.objects("part-").await
    }

    async fn objects(&self, part: &str) -> usize {
        let all: Vec<ObjectMeta> = self.store.inner.list(None).try_collect().await.unwrap();
        all.iter().filter(|object| object.location.as_ref().contains(part)).count()
    }

    /// Through the caches: what a statement sees that comes at once.
    async fn sum(&self) -> i64 {
        let open = self.lake.open(&self.source).await.unwrap();
        let context = SessionContext::new();
        context.runtime_env().register_object_store(&url::Url::parse("s3://lake").unwrap(), Arc::clone(&self.store) as _);
        context.register_table("t", open.provider).unwrap();
        let batches = context.sql("SELECT coalesce(sum(n), 0) FROM t").await.unwrap().collect().await.unwrap();
        batches[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0)
    }
}

fn version(number: u64) -> Path {
    Path::from(format!("t/_delta_log/{number:020}.json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_seen_at_once_and_once() {
    let stage = Stage::set().await;
    assert_eq!(stage.sum().await, 0);
    assert_eq!(stage.insert(&[1, 2], &[]).await.unwrap(), 2);
    assert_eq!(stage.sum().await, 3);
    for fault in [Fault::DoneAndLost, Fault::DoneTwice] {
        let before = (stage.versions().await, stage.sum().await);
        assert_eq!(stage.insert(&[10], &[fault]).await.unwrap(), 1, "{fault:?}");
        assert_eq!((stage.versions().await, stage.sum().await), (before.0 + 1, before.1 + 10), "{fault:?}");
    }
    // Asked again where nothing was done.
    assert_eq!(stage.insert(&[100], &[Fault::Refused, Fault::Refused]).await.unwrap(), 1);
    assert_eq!((stage.versions().await, stage.sum().await), (5, 123));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rows_are_no_version() {
    let stage = Stage::set().await;
    assert_eq!(stage.insert(&[], &[]).await.unwrap(), 0);
    assert_eq!((stage.versions().await, stage.files().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_second_takes_the_next_version() {
    let stage = Stage::set().await;
    let overtaken = [Fault::Overtaken(Other::Append); 3];
    assert_eq!(stage.insert(&[7], &overtaken).await.unwrap(), 1);
    assert_eq!(stage.versions().await, 5);
    let ours = stage.store.inner.get(&version(4)).await.unwrap().bytes().await.unwrap();
    assert!(String::from_utf8_lossy(&ours).contains("\"numOutputRows\":\"1\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_schema_is_another_table() {
    let stage = Stage::set().await;
    let error = stage.insert(&[7], &[Fault::Overtaken(Other::Metadata)]).await.unwrap_err();
    assert!(matches!(error, WriteError::Changed), "{error}");
    assert_eq!(stage.versions().await, 2);
    // The files that nobody names go, in a task of their own.
    let emptied = async {
        while stage.files().await > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), emptied).await.expect("unused files go");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_said_and_loses_nothing() {
    let stage = Stage::set().await;
    let error = stage.insert(&[7], &[Fault::Refused; 3]).await.unwrap_err();
    assert!(matches!(error, WriteError::Unclear(_)), "{error}");
    // The store may yet do what it was asked, and would name this file.
    assert_eq!(stage.files().await, 1);
}
