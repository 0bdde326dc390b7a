//! Delta tables that are removed, and made anew in the same place.

use std::ops::Range;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema};
use buoyant_kernel::snapshot::Snapshot;
use buoyant_kernel_engine::DefaultEngineBuilder;
use buoyant_kernel_engine::executor::tokio::TokioMultiThreadExecutor;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;

use super::*;

/// A place for one table: a local folder or a bucket. Every open asks the store.
struct Place {
    fixture: Fixture,
    store: Arc<dyn ObjectStore>,
    folder: ObjectPath,
    source: TableSource,
}

impl Place {
    fn local() -> Self {
        let fixture = Fixture::with_staleness(Duration::ZERO);
        std::fs::create_dir(fixture.path().join("t")).unwrap();
        let source = fixture.source(TableFormat::Delta, "t");
        let folder = ObjectPath::from_absolute_path(fixture.path().canonicalize().unwrap().join("t")).unwrap();
        Self { store: fixture.lake.stores().store("file://").unwrap(), folder, source, fixture }
    }

    fn bucket() -> Self {
        let fixture = Fixture::with_staleness(Duration::ZERO);
        let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        fixture.lake.stores().put("s3://lake", Arc::clone(&bucket));
        let (id, options) = (TableId::generate(), BTreeMap::new());
        let source = TableSource { id, format: TableFormat::Delta, location: "s3://lake/a/t".to_owned(), options };
        Self { store: bucket, folder: ObjectPath::from("a/t"), source, fixture }
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) {
        self.store.put(&ObjectPath::parse(format!("{}/{name}", self.folder)).unwrap(), bytes.into()).await.unwrap();
    }

    async fn clear(&self, only: impl Fn(&str) -> bool) {
        let all: Vec<_> = self.store.list(Some(&self.folder)).try_collect().await.unwrap();
        for file in all.iter().filter(|file| only(file.location.filename().unwrap())) {
            self.store.delete(&file.location).await.unwrap();
        }
    }

    /// Commits with one file each, which holds `base` and the commit's number in both columns. The first makes a table of
    /// its own. All that is written has the same size every time.
    async fn write(&self, columns: [&str; 2], base: i64, commits: Range<i64>) {
        let field = |name: &&str| Field::new(*name, DataType::Int64, true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        for commit in commits {
            let values: ArrayRef = Arc::new(Int64Array::from(vec![base + commit]));
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&values), values]).unwrap();
            let mut bytes = Vec::new();
            let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(&schema), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let add = serde_json::json!({"add": {
                "path": format!("part-{commit}.parquet"), "partitionValues": {}, "size": bytes.len(), "modificationTime": 0,
                "dataChange": true, "stats": "{\"numRecords\":1}",
            }});
            let mut actions = vec![add];
            if commit == 0 {
                let field = |name| serde_json::json!({"name": name, "type": "long", "nullable": true, "metadata": {}});
                let schema = serde_json::json!({"type": "struct", "fields": columns.map(field)}).to_string();
                actions.insert(0, serde_json::json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}));
                actions.insert(
                    1,
                    serde_json::json!({"metaData": {
                        "id": uuid::Uuid::new_v4().to_string(), "format": {"provider": "parquet", "options": {}},
                        "schemaString": schema, "partitionColumns": [], "configuration": {},
                    }}),
                );
            }
            self.put(&format!("part-{commit}.parquet"), bytes).await;
            let lines: String = actions.iter().map(|action| format!("{action}\n")).collect();
            self.put(&format!("_delta_log/{commit:020}.json"), lines.into_bytes()).await;
        }
    }

    async fn open(&self) -> OpenTable {
        self.fixture.lake.open(&self.source).await.unwrap()
    }

    /// The columns, and the numbers in the first of them.
    async fn read(&self) -> (Vec<String>, Vec<i64>) {
        let table = self.open().await;
        let names: Vec<_> = table.provider.schema().fields().iter().map(|field| field.name().clone()).collect();
        let rows = self.fixture.query(&table, &format!("SELECT \"{0}\" FROM t ORDER BY \"{0}\"", names[0])).await.unwrap();
        let counted = self.fixture.query(&table, "SELECT count(*) FROM t").await.unwrap().value();
        assert_eq!(counted, rows.rows().to_string());
        let values = rows.batches.iter().flat_map(|batch| texts(batch.column(0))).map(|text| text.parse().unwrap());
        (names, values.collect())
    }
}

fn table(columns: [&str; 2], base: i64, commits: Range<i64>) -> (Vec<String>, Vec<i64>) {
    (columns.map(str::to_owned).to_vec(), commits.map(|commit| base + commit).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_made_anew_is_another() {
    for place in [Place::local, Place::bucket] {
        for commits in [1, 3, 5] {
            let place = place();
            place.write(["id", "region"], 100, 0..3).await;
            assert_eq!(place.read().await, table(["id", "region"], 100, 0..3));
            place.clear(|_| true).await;
            place.write(["it", "sector"], 200, 0..commits).await;
            assert_eq!(place.read().await, table(["it", "sector"], 200, 0..commits), "{commits} commits");
            // And once more, to what has the same columns but other files.
            place.clear(|_| true).await;
            place.write(["it", "sector"], 300, 0..2).await;
            assert_eq!(place.read().await, table(["it", "sector"], 300, 0..2), "{commits} commits before");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_removed_is_none() {
    for place in [Place::local(), Place::bucket()] {
        place.write(["id", "region"], 100, 0..3).await;
        place.read().await;
        place.clear(|_| true).await;
        for _ in 0..2 {
            let error = place.fixture.lake.open(&place.source).await.err().unwrap();
            assert!(matches!(error, LakeError::NotATable { .. }), "{error}");
        }
        place.write(["it", "sector"], 200, 0..1).await;
        assert_eq!(place.read().await, table(["it", "sector"], 200, 0..1));
    }
}

/// A checkpoint, and the commits before it cleaned away: the version rests on a file that is gone, and is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cleaned_up_is_read_on() {
    let place = Place::local();
    place.write(["id", "region"], 100, 0..4).await;
    assert_eq!(place.read().await, table(["id", "region"], 100, 0..4));
    let (url, handle) = (format!("{}/", place.source.location), tokio::runtime::Handle::current());
    let store = Arc::clone(&place.store);
    let checkpoint = tokio::task::spawn_blocking(move || {
        let engine = DefaultEngineBuilder::new(store).with_task_executor(Arc::new(TokioMultiThreadExecutor::new(handle))).build();
        Snapshot::builder_for(url).build(&engine).unwrap().checkpoint(&engine, None).unwrap();
    });
    checkpoint.await.unwrap();
    // A checkpoint of the version that is held is nothing new.
    let before = place.open().await;
    place.clear(|name| name.ends_with(".json")).await;
    assert_eq!(place.read().await, table(["id", "region"], 100, 0..4));
    assert!(!Arc::ptr_eq(&before.provider, &place.open().await.provider));
    // From now on it rests on the checkpoint.
    assert!(Arc::ptr_eq(&place.open().await.provider, &place.open().await.provider));
    place.write(["id", "region"], 100, 4..6).await;
    assert_eq!(place.read().await, table(["id", "region"], 100, 0..6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_an_unchanged_table_is_one_listing() {
    for place in [Place::local(), Place::bucket()] {
        place.write(["id", "region"], 100, 0..3).await;
        let first = place.open().await;
        let before = place.fixture.lake.stores().requests();
        let again = place.open().await;
        let asked = place.fixture.lake.stores().requests().since(before);
        assert!(Arc::ptr_eq(&first.provider, &again.provider));
        assert_eq!((asked.list, asked.log, asked.footer, asked.data), (1, 0, 0, 0), "{asked:?}");
    }
}
