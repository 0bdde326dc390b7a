//! Tables that Spark wrote (`../shared/data/iceberg`), from an in-memory bucket `lake`, where their metadata say they are.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use lazaret_auth::TableId;
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::caches::CacheLimits;
use crate::lake::{Lake, LakeTable, ScanReport, TableSource};
use crate::meta::TableFormat;
use crate::stores::{RequestCounts, StoresConfig};

/// One archive.
struct Archive {
    name: String,
    files: Vec<(String, Vec<u8>)>,
    about: serde_json::Value,
}

/// The folder of the archives; absent in a plain clone.
fn shared() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/iceberg");
    if !folder.is_dir() {
        println!("skipped: no ../shared");
        return None;
    }
    Some(folder)
}

impl Archive {
    fn open(folder: &std::path::Path, name: &str) -> Self {
        let compressed = std::fs::read(folder.join(format!("{name}.tar.zst"))).unwrap();
        let mut tar = Vec::new();
        zstd::stream::read::Decoder::new(&*compressed).unwrap().read_to_end(&mut tar).unwrap();
        let files = untar(&tar);
        let about = files.iter().find(|(path, _)| path == "about.json").map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).unwrap();
        Self { name: name.to_owned(), files, about }
    }

    fn all(folder: &std::path::Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".tar.zst").map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// Puts the table where its metadata say it is.
    async fn upload(&self, bucket: &InMemory) {
        for (path, bytes) in &self.files {
            if let Some(path) = path.strip_prefix("table/") {
                let key = object_store::path::Path::parse(format!("{}/{path}", self.name)).unwrap();
                bucket.put(&key, PutPayload::from(bytes.clone())).await.unwrap();
            }
        }
    }

    fn source(&self) -> TableSource {
        self.at(&format!("/{}", self.about["metadata_file"].as_str().unwrap()))
    }

    fn at(&self, tail: &str) -> TableSource {
        TableSource {
            id: TableId::generate(),
            format: TableFormat::Iceberg,
            location: format!("s3://lake/{}{tail}", self.name),
            options: BTreeMap::new(),
        }
    }
}

/// Regular files of a tar archive, with their paths (from a pax header where one is too long).
fn untar(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.split(|b| *b == 0).next().unwrap().to_vec()).unwrap();
    let (mut files, mut long_name, mut at) = (Vec::new(), None, 0);
    while tar.len() >= at + 512 && tar[at] != 0 {
        let header = &tar[at..at + 512];
        let size = usize::from_str_radix(text(&header[124..136]).trim(), 8).unwrap();
        let body = &tar[at + 512..at + 512 + size];
        match header[156] {
            b'x' => {
                let records = String::from_utf8_lossy(body).into_owned();
                long_name = records.lines().find_map(|line| line.split_once(" path=").map(|(_, path)| path.to_owned()));
            }
            b'L' => long_name = Some(text(body)),
            b'0' | 0 => {
                let prefix = text(&header[345..500]);
                let short = text(&header[..100]);
                let short = if prefix.is_empty() { short } else { format!("{prefix}/{short}") };
                let name = long_name.take().unwrap_or(short);
                files.push((name.trim_start_matches("./").to_owned(), body.to_vec()));
            }
            _ => {}
        }
        at += 512 + size.div_ceil(512) * 512;
    }
    files
}

struct Setup {
    stores: Arc<Stores>,
    caches: Arc<Caches>,
    bucket: Arc<InMemory>,
}

/// Every open asks the store for the newest version.
fn setup() -> Setup {
    setup_with(Duration::ZERO)
}

fn setup_with(staleness: Duration) -> Setup {
    let stores = Arc::new(Stores::new(StoresConfig::default()));
    let bucket = Arc::new(InMemory::new());
    stores.put("s3://lake", Arc::clone(&bucket) as _);
    Setup { stores, caches: Arc::new(Caches::new(CacheLimits { staleness, ..CacheLimits::default() })), bucket }
}

/// Why a table may be refused, by archive. All others must be read.
const REFUSED: [(&str, &str); 3] =
    [("avro-files", "Avro data files"), ("v3-defaults", "default value of a nested column"), ("v3-variant", "type variant")];

async fn load(stores: &Arc<Stores>, caches: &Arc<Caches>, source: &TableSource) -> Result<Arc<LakeSnapshot>, LakeError> {
    let lake = Lake::new(Arc::clone(stores), Arc::clone(caches));
    open(&lake, source).await.map(|table| Arc::clone(table.snapshot()))
}

fn session(setup: &Setup, snapshot: Arc<LakeSnapshot>) -> SessionContext {
    let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::clone(&setup.stores) as _).build().unwrap();
    let config = SessionConfig::new().with_target_partitions(2).set_str("datafusion.execution.time_zone", "UTC");
    let session = SessionContext::new_with_config_rt(config, Arc::new(runtime));
    let table = LakeTable::new(snapshot, Arc::clone(&setup.stores), Arc::clone(&setup.caches));
    session.register_table("t", Arc::new(table)).unwrap();
    session
}

async fn query(session: &SessionContext, sql: &str) -> (Vec<RecordBatch>, ScanReport) {
    let frame = session.sql(sql).await.unwrap();
    let task = Arc::new(frame.task_ctx());
    let plan = frame.create_physical_plan().await.unwrap();
    let batches = collect(Arc::clone(&plan), task).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    (batches, ScanReport::of(&plan))
}

/// Rows as sorted texts, columns by position, as the types of `like` where they are not those already.
fn texts(batches: &[RecordBatch], like: &Schema) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        assert_eq!(batch.num_columns(), like.fields().len());
        let columns: Vec<Vec<String>> = batch
            .columns()
            .iter()
            .zip(like.fields())
            .map(|(column, field)| {
                let column = match (column.data_type(), field.data_type()) {
                    (from, to) if from == to => Arc::clone(column),
                    (DataType::FixedSizeBinary(16), DataType::Utf8) => uuids(column),
                    (_, to) => cast(column, to).unwrap(),
                };
                let formatter = ArrayFormatter::try_new(&column, &options).unwrap();
                (0..column.len()).map(|row| formatter.value(row).to_string()).collect()
            })
            .collect();
        rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].as_str()).collect::<Vec<_>>().join(" | ")));
    }
    rows.sort();
    rows
}

fn uuids(column: &ArrayRef) -> ArrayRef {
    let column = column.as_fixed_size_binary();
    Arc::new(column.iter().map(|value| value.map(|value| uuid::Uuid::from_slice(value).unwrap().to_string())).collect::<StringArray>())
}

#[tokio::test]
async fn every_archive_reads_right_or_is_refused_by_name() {
    let Some(folder) = shared() else { return };
    for name in Archive::all(&folder) {
        let archive = Archive::open(&folder, &name);
        let setup = setup();
        archive.upload(&setup.bucket).await;
        let refused = REFUSED.iter().find(|(refused, _)| *refused == name).map(|(_, feature)| *feature);
        let snapshot = match load(&setup.stores, &setup.caches, &archive.source()).await {
            Ok(snapshot) => snapshot,
            Err(LakeError::Unsupported { feature }) => {
                assert_eq!(refused, Some(&*feature), "{name}");
                println!("{name}: refused, {feature}");
                continue;
            }
            Err(error) => panic!("{name}: {error}: {error:?}"),
        };
        assert_eq!(refused, None, "{name}");

        let session = session(&setup, Arc::clone(&snapshot));
        let (rows, _) = query(&session, "SELECT * FROM t").await;
        let (_, expected) = archive.files.iter().find(|(path, _)| path == "expected/expected.parquet").unwrap();
        let expected = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(expected.clone())).unwrap();
        let like = Arc::clone(expected.schema());
        let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        assert_eq!(names(&snapshot.schema), names(&like), "{name}");
        let expected: Vec<_> = expected.build().unwrap().map(Result::unwrap).collect();
        let (rows, expected) = (texts(&rows, &like), texts(&expected, &like));
        assert_eq!(rows.len(), expected.len(), "{name}");
        for (row, expected) in rows.iter().zip(&expected) {
            assert_eq!(row, expected, "{name}");
        }

        for probe in archive.about["probes"].as_array().unwrap() {
            let condition = probe["where"].as_str().unwrap();
            let (counted, report) = query(&session, &format!("SELECT count(*) FROM t WHERE {condition}")).await;
            let count = counted[0].column(0).as_primitive::<Int64Type>().value(0);
            println!("{name}: {condition}: {count} rows of {} of {} files", report.files_scanned, report.files_total);
            assert_eq!(Some(count), probe["count"].as_i64(), "{name}: {condition}");
        }
        println!("{name}: {} rows of {} files", rows.len(), snapshot.files.len());
    }
}

#[tokio::test]
async fn a_second_query_asks_the_store_for_nothing() {
    let Some(folder) = shared() else { return };
    for name in ["v1-to-v2-upgrade", "v3-deletion-vectors", "rewritten-manifests"] {
        let archive = Archive::open(&folder, name);
        let setup = setup_with(Duration::from_secs(3600));
        archive.upload(&setup.bucket).await;
        let source = archive.source();
        let sum = async || {
            let snapshot = load(&setup.stores, &setup.caches, &source).await.unwrap();
            query(&session(&setup, snapshot), "SELECT count(*), sum(id) FROM t").await.0
        };
        let first = sum().await;
        let before = setup.stores.requests();
        assert_eq!(sum().await, first, "{name}");
        assert_eq!(setup.stores.requests().since(before), RequestCounts::default(), "{name}");
    }
}

#[tokio::test]
async fn a_new_version_reads_only_its_own_manifests() {
    let Some(folder) = shared() else { return };
    let archive = Archive::open(&folder, "v2-position-deletes");
    let setup = setup();
    let (newest, older): (Vec<_>, Vec<_>) =
        archive.files.iter().cloned().partition(|(path, _)| path.contains("/00016-") && path.ends_with(".metadata.json"));
    Archive { name: archive.name.clone(), files: older, about: archive.about.clone() }.upload(&setup.bucket).await;
    let source = archive.at("");
    let first = load(&setup.stores, &setup.caches, &source).await.unwrap();

    // Nothing new: one look at the folder.
    let before = setup.stores.requests();
    assert!(Arc::ptr_eq(&first, &load(&setup.stores, &setup.caches, &source).await.unwrap()));
    let unchanged = setup.stores.requests().since(before);
    assert_eq!((unchanged.manifest, unchanged.list), (1, 1), "version-hint.text and the listing");

    Archive { name: archive.name.clone(), files: newest, about: archive.about.clone() }.upload(&setup.bucket).await;
    let before = setup.stores.requests();
    let second = load(&setup.stores, &setup.caches, &source).await.unwrap();
    assert_ne!(first.id, second.id);
    let changed = setup.stores.requests().since(before);
    let all = setup.caches.manifests.stats().misses;
    println!("{changed:?}, {all} manifests in all");
    assert!(changed.manifest < all, "{changed:?}, {all} manifests");
    assert_eq!(counted(&setup, second).await, 260);
}

async fn counted(setup: &Setup, snapshot: Arc<LakeSnapshot>) -> i64 {
    query(&session(setup, snapshot), "SELECT count(*) FROM t").await.0[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// The metadata of the new table have the name and the size of the old one's.
#[tokio::test]
async fn a_table_that_was_made_anew_is_another() {
    let setup = setup();
    let path = |name: &str| object_store::path::Path::from(format!("t/metadata/{name}"));
    let (id, options) = (TableId::generate(), BTreeMap::new());
    let source = TableSource { id, format: TableFormat::Iceberg, location: "s3://lake/t".to_owned(), options };
    for hint in [true, false] {
        for (column, id) in [("a", 1), ("b", 2)] {
            let metadata = serde_json::json!({
                "format-version": 2, "table-uuid": format!("00000000-0000-0000-0000-00000000000{id}"), "location": "s3://lake/t",
                "current-schema-id": 0, "default-spec-id": 0, "partition-specs": [{"spec-id": 0, "fields": []}],
                "schemas": [{"schema-id": 0, "type": "struct", "fields": [{"id": 1, "name": column, "required": false, "type": "long"}]}],
            });
            setup.bucket.put(&path("v1.metadata.json"), metadata.to_string().into()).await.unwrap();
            if hint {
                setup.bucket.put(&path("version-hint.text"), "1".into()).await.unwrap();
            }
            let snapshot = load(&setup.stores, &setup.caches, &source).await.unwrap();
            assert_eq!(snapshot.schema.field(0).name(), column);
        }
        setup.bucket.delete(&path("v1.metadata.json")).await.unwrap();
        setup.bucket.delete(&path("version-hint.text")).await.unwrap();
        assert!(matches!(load(&setup.stores, &setup.caches, &source).await, Err(LakeError::NotATable { .. })));
    }
}
