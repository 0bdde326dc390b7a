//! Hot column chunks, which are read decompressed from memory: the same rows.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use arrow::array::{Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray, StructArray, UInt64Array};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::SessionConfig;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterPropertiesBuilder, WriterVersion};

use super::*;

const ROWS: i64 = 20_000;
const RUNS: usize = 12;

fn rows() -> RecordBatch {
    let ids = Int64Array::from_iter_values(0..ROWS);
    let texts = StringArray::from_iter((0..ROWS).map(|row| (row % 7 != 3).then(|| format!("text {}", row % 50))));
    let long = StringArray::from_iter_values((0..ROWS).map(|row| format!("row {row} of no other row's text")));
    let floats = Float64Array::from_iter((0..ROWS).map(|row| (row % 11 != 0).then_some(row as f64 * 0.37)));
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let lengths = OffsetBuffer::new(ScalarBuffer::from_iter((0..=ROWS as i32).map(|row| row / 2)));
    let lists = ListArray::new(item, lengths, Arc::new(Int64Array::from_iter_values(0..ROWS / 2)), None);
    let inner: arrow::datatypes::Fields = vec![Field::new("x", DataType::Int64, true)].into();
    let structs = StructArray::new(inner, vec![Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| row % 1000)))], None);
    let columns: [(&str, ArrayRef); 6] = [
        ("id", Arc::new(ids)),
        ("text", Arc::new(texts)),
        ("long", Arc::new(long)),
        ("float", Arc::new(floats)),
        ("list", Arc::new(lists)),
        ("struct", Arc::new(structs)),
    ];
    let fields: Vec<_> = columns.iter().map(|(name, values)| Field::new(*name, values.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, values)| values).collect()).unwrap()
}

fn properties(compression: Compression) -> WriterPropertiesBuilder {
    let builder = WriterProperties::builder().set_compression(compression);
    builder.set_max_row_group_row_count(Some(6_000)).set_data_page_row_count_limit(700).set_write_batch_size(100)
}

const HOUR: Duration = Duration::from_secs(3600);
const LIMITS: CacheLimits =
    CacheLimits { footer_bytes: 1 << 20, snapshot_bytes: 1 << 20, data_bytes: 1 << 30, staleness: HOUR, settled: Duration::ZERO };

#[derive(Clone, Copy, Debug)]
enum Place {
    Folder,
    Bucket,
}

const PLACES: [Place; 2] = [Place::Folder, Place::Bucket];

async fn open(fixture: &Fixture, place: Place, properties: WriterProperties) -> OpenTable {
    if let Place::Folder = place {
        write_parquet(&fixture.path().join("t.parquet"), &rows(), Some(properties));
        return fixture.lake.open(&fixture.source(TableFormat::Parquet, "t.parquet")).await.unwrap();
    }
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    fixture.lake.stores().put("s3://lake", Arc::clone(&bucket));
    put(fixture, &bucket, &rows(), properties).await;
    open_remote(fixture).await
}

async fn put(fixture: &Fixture, bucket: &Arc<dyn ObjectStore>, batch: &RecordBatch, properties: WriterProperties) {
    let local = fixture.path().join("written.parquet");
    write_parquet(&local, batch, Some(properties));
    bucket.put(&"a/t.parquet".into(), std::fs::read(local).unwrap().into()).await.unwrap();
}

async fn open_remote(fixture: &Fixture) -> OpenTable {
    let location = "s3://lake/a/t.parquet".to_owned();
    let source = TableSource { id: TableId::generate(), format: TableFormat::Parquet, location, options: BTreeMap::new() };
    fixture.lake.open(&source).await.unwrap()
}

/// All that are asked, and how many chunks are hot then.
async fn ask(fixture: &Fixture, table: &OpenTable) -> usize {
    for sql in [
        "SELECT text, long, float, list, \"struct\" FROM t",
        "SELECT text, long, float FROM t WHERE float BETWEEN 1000 AND 1100",
        "SELECT count(text), count(DISTINCT text), sum(float), count(list) FROM t",
        "SELECT long, list FROM t WHERE text = 'text 7' AND float < 500",
        "SELECT \"struct\".x FROM t WHERE long = 'row 4711 of no other row''s text'",
    ] {
        let first = fixture.query(table, sql).await.unwrap();
        assert!(first.rows() > 0, "{sql}");
        for run in 0..RUNS {
            let answer = fixture.query(table, sql).await.unwrap();
            assert_eq!(difference(&answer.batches, &first.batches), None, "{sql}, run {run}");
        }
    }
    fixture.lake.caches().hot_chunks().await
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_chunks_hold_what_the_file_does() {
    let codecs = [
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
    ];
    for codec in codecs {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for dictionary in [true, false] {
                let fixture = Fixture::new();
                let place = PLACES[usize::from(dictionary == (version == WriterVersion::PARQUET_1_0))];
                let properties = properties(codec).set_writer_version(version).set_dictionary_enabled(dictionary).build();
                let table = open(&fixture, place, properties).await;
                // Of four row groups, all columns that are asked for.
                assert_eq!(ask(&fixture, &table).await, 4 * 5, "{codec:?} {version:?} {dictionary} {place:?}");
            }
        }
    }
}

/// Whole numbers in pages of our own, with and without NULL: `day` and `signed` are sorted, `key` has no value twice, and the rest is neither.
fn numbers() -> RecordBatch {
    let each = |value: fn(i64) -> Option<i64>| Int64Array::from_iter((0..ROWS).map(value));
    let day = Date32Array::from_iter((0..ROWS as i32).map(|row| (row % 13 != 4 && !(5_000..9_000).contains(&row)).then_some(row / 300)));
    let columns: [(&str, ArrayRef); 7] = [
        ("day", Arc::new(day)),
        ("signed", Arc::new(each(|row| Some((row - ROWS / 2) * 100_000_000_000_000)))),
        ("unsigned", Arc::new(UInt64Array::from_iter_values((0..ROWS as u64).map(|row| row * 900_000_000_000_000)))),
        ("key", Arc::new(each(|row| Some(row * 7_919 % ROWS)))),
        ("few", Arc::new(each(|row| (row % 3 != 0).then_some(row % 5)))),
        ("none", Arc::new(each(|_| None))),
        ("cents", Arc::new(Decimal128Array::from_iter_values((0..ROWS).map(i128::from)).with_precision_and_scale(12, 2).unwrap())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_our_own_hold_what_the_file_s_do() {
    for (version, dictionary) in
        [(WriterVersion::PARQUET_1_0, true), (WriterVersion::PARQUET_2_0, true), (WriterVersion::PARQUET_2_0, false)]
    {
        let fixture = Fixture::new();
        let properties = properties(Compression::ZSTD(ZstdLevel::default())).set_writer_version(version).set_dictionary_enabled(dictionary);
        let properties = properties.set_data_page_row_count_limit(5_000).set_dictionary_page_size_limit(20_000);
        write_parquet(&fixture.path().join("t.parquet"), &numbers(), Some(properties.build()));
        let table = fixture.lake.open(&fixture.source(TableFormat::Parquet, "t.parquet")).await.unwrap();
        for sql in [
            "SELECT * FROM t",
            "SELECT key FROM t WHERE day BETWEEN '1970-01-11' AND '1970-01-12'",
            "SELECT day, key, few, \"unsigned\", cents FROM t WHERE signed = -300000000000000",
            "SELECT day, signed FROM t WHERE key IN (0, 17, 4711, 19999)",
            "SELECT count(*) FROM t WHERE \"unsigned\" > 9300000000000000000 AND none IS NULL",
            "SELECT max(key), min(signed), count(day) FROM t WHERE cents >= 123.45 AND cents < 130 AND day IS NOT NULL",
            "SELECT day, count(*), sum(key) FROM t WHERE few = 1 GROUP BY day ORDER BY day",
            "SELECT key FROM t WHERE day IS NULL",
        ] {
            let first = fixture.query(&table, sql).await.unwrap();
            assert!(first.rows() > 0, "{sql}");
            for run in 0..RUNS {
                let answer = fixture.query(&table, sql).await.unwrap();
                assert_eq!(difference(&answer.batches, &first.batches), None, "{sql}, run {run}, {version:?} {dictionary}");
            }
        }
        assert_eq!(fixture.lake.caches().hot_chunks().await, 4 * 7, "{version:?} {dictionary}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_compressed_or_has_no_page_index_is_read_from_the_file() {
    for properties in [
        properties(Compression::UNCOMPRESSED),
        properties(Compression::SNAPPY).set_offset_index_disabled(true).set_statistics_enabled(EnabledStatistics::Chunk),
    ] {
        for place in PLACES {
            let fixture = Fixture::new();
            let table = open(&fixture, place, properties.clone().build()).await;
            assert_eq!(ask(&fixture, &table).await, 0, "{place:?}");
        }
    }
}

/// Where the cache keeps nothing, chunks are decompressed for one query and read from the file by the next.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_the_cache_gave_up_are_read_all_the_same() {
    for (data_bytes, place) in [0, 40_000, 400_000].into_iter().flat_map(|data_bytes| PLACES.map(|place| (data_bytes, place))) {
        let fixture = Fixture::with_limits(CacheLimits { data_bytes, ..LIMITS });
        let table = open(&fixture, place, properties(Compression::ZSTD(ZstdLevel::default())).build()).await;
        ask(&fixture, &table).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_footer_cache_nothing_is_hot() {
    let fixture = Fixture::with_limits(CacheLimits { footer_bytes: 0, ..LIMITS });
    let table = open(&fixture, Place::Folder, properties(Compression::SNAPPY).build()).await;
    assert_eq!(ask(&fixture, &table).await, 0);
}

/// Of a plain file on this machine that may be changing still, nothing is kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_just_changed_is_read_from_the_file() {
    for (place, hot) in [(Place::Folder, 0), (Place::Bucket, 4 * 5)] {
        let fixture = Fixture::with_limits(CacheLimits { settled: HOUR, ..LIMITS });
        let table = open(&fixture, place, properties(Compression::SNAPPY).build()).await;
        let footers = fixture.lake.stores.requests().footer;
        assert_eq!(ask(&fixture, &table).await, hot, "{place:?}");
        assert_eq!(fixture.lake.stores.requests().footer > footers, hot == 0, "{place:?}");
    }
}

/// Whole chunks that were read are at hand; nothing else is asked of the store.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_become_hot_without_a_request_for_it() {
    let fixture = Fixture::new();
    let table = open(&fixture, Place::Bucket, properties(Compression::ZSTD(ZstdLevel::default())).build()).await;
    let sql = "SELECT text, long, float, list FROM t";
    let first = fixture.query(&table, sql).await.unwrap();
    let read = fixture.lake.stores.requests();
    for run in 0..RUNS {
        let answer = fixture.query(&table, sql).await.unwrap();
        assert_eq!(difference(&answer.batches, &first.batches), None, "run {run}");
    }
    assert_eq!(fixture.lake.stores.requests().since(read).data, 0);
    assert_eq!(fixture.lake.caches().hot_chunks().await, 4 * 4);
}

/// Of one region, and as large as that of another.
fn of_region(region: &str) -> RecordBatch {
    let columns: [(&str, ArrayRef); 3] = [
        ("secret", Arc::new(StringArray::from_iter_values((0..5_000).map(|row| format!("of the {region} {}", row % 50))))),
        ("number", Arc::new(Int64Array::from_iter_values(0..5_000))),
        ("region", Arc::new(StringArray::from_iter_values((0..5_000).map(|_| region)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn secrets_as_they_are() -> WriterProperties {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    properties(zstd).set_column_compression("secret".into(), Compression::UNCOMPRESSED).build()
}

const IN_THE_NORTH: &str = "SELECT count(*) FROM t WHERE region = 'north'";
// No bound of a text tells what it does not hold: the column is read.
const MIXED: &str = "SELECT count(*) FROM t WHERE region = 'north' AND secret NOT LIKE '%north%'";

/// A file is another one under its name before its listing is looked at again: what came from the first must not meet what
/// comes from the second.
#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_put_together_from_two_local_files_of_one_name() {
    let fixture = Fixture::new();
    let put = |region: &str| {
        let written = fixture.path().join(format!("{region}.parquet"));
        write_parquet(&written, &of_region(region), Some(secrets_as_they_are()));
        std::fs::rename(written, fixture.path().join("t.parquet")).unwrap();
    };
    put("north");
    let table = fixture.lake.open(&fixture.source(TableFormat::Parquet, "t.parquet")).await.unwrap();
    for region in ["south", "north", "south"] {
        let in_the_north = if region == "south" { "5000" } else { "0" };
        for _ in 0..RUNS {
            assert_eq!(fixture.query(&table, IN_THE_NORTH).await.unwrap().value(), in_the_north);
        }
        assert!(fixture.lake.caches().hot_chunks().await > 0);
        put(region);
        assert_eq!(fixture.query(&table, MIXED).await.unwrap().value(), "0");
    }
}

/// A query that has begun to read a file when it is replaced is refused the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_is_not_read_on() {
    let fixture = Fixture::new();
    let path = fixture.path().canonicalize().unwrap().join("t.parquet");
    write_parquet(&path, &of_region("north"), Some(secrets_as_they_are()));
    let store = fixture.lake.stores().counting("file://").unwrap();
    let name = ObjectPath::from_absolute_path(&path).unwrap();
    let (whole, identity) = store.get_footer(&name, 0..std::fs::metadata(&path).unwrap().len()).await.unwrap();
    let Some(identity) = identity else { return println!("skipped: files have no identity here") };
    // As much as is read at once, and more.
    let parts = [4..90, 100..200];
    let more = vec![0..whole.len() as u64; 12_000_000 / whole.len()];
    for ranges in [&parts[..], &more] {
        let read = store.get_ranges_of(&name, ranges, Some(&identity)).await.unwrap();
        assert!(ranges.iter().zip(&read).all(|(range, bytes)| *bytes == whole[range.start as usize..range.end as usize]));
    }
    let beyond = store.get_ranges_of(&name, &[4..90, 0..whole.len() as u64 + 1], Some(&identity)).await.err().unwrap();
    assert!(!matches!(beyond, object_store::Error::Precondition { .. }), "{beyond}");
    assert!(store.is_still(&name, &identity).await);

    // New rights and one more link are nothing to who reads, and a reason to look again to who comes.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::hard_link(&path, fixture.path().join("link.parquet")).unwrap();
    for ranges in [&parts[..], &more] {
        store.get_ranges_of(&name, ranges, Some(&identity)).await.unwrap();
    }

    let written = fixture.path().join("written.parquet");
    std::fs::write(&written, &whole).unwrap();
    std::fs::rename(written, &path).unwrap();
    for ranges in [&parts[..], &more] {
        let error = store.get_ranges_of(&name, ranges, Some(&identity)).await.err().unwrap();
        assert!(matches!(error, object_store::Error::Precondition { .. }), "{error}");
    }
    assert!(!store.is_still(&name, &identity).await);
    std::fs::remove_file(&path).unwrap();
    assert!(!store.is_still(&name, &identity).await);
    assert!(store.get_ranges_of(&name, &parts, Some(&identity)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_put_together_from_two_objects_of_one_name() {
    let fixture = Fixture::new();
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    fixture.lake.stores().put("s3://lake", Arc::clone(&bucket));
    put(&fixture, &bucket, &of_region("north"), secrets_as_they_are()).await;
    let table = open_remote(&fixture).await;
    for _ in 0..RUNS {
        assert_eq!(fixture.query(&table, IN_THE_NORTH).await.unwrap().value(), "5000");
    }
    assert!(fixture.lake.caches().hot_chunks().await > 0);
    put(&fixture, &bucket, &of_region("south"), secrets_as_they_are()).await;
    let error = fixture.query(&table, MIXED).await.err().unwrap();
    assert!(error.contains("does not match"), "{error}");
    // Read anew as a whole.
    for sql in [MIXED, IN_THE_NORTH] {
        assert_eq!(fixture.query(&table, sql).await.unwrap().value(), "0");
    }
}

fn local_file(fixture: &Fixture, batch: &RecordBatch) {
    let written = fixture.path().join("written.parquet");
    write_parquet(&written, batch, Some(secrets_as_they_are()));
    std::fs::rename(written, fixture.path().join("t.parquet")).unwrap();
}

/// What was planned, and asked of the policies, was for other columns.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_other_columns_or_size_is_not_read_as_the_one_that_was_seen() {
    let fixture = Fixture::new();
    let north = of_region("north");
    local_file(&fixture, &north);
    let size_bytes = std::fs::metadata(fixture.path().join("t.parquet")).unwrap().len();
    let table = fixture.lake.open(&fixture.source(TableFormat::Parquet, "t.parquet")).await.unwrap();
    assert_eq!(fixture.query(&table, IN_THE_NORTH).await.unwrap().value(), "5000");

    let schema = north.schema();
    let renamed = schema.fields().iter().map(|field| match field.name().as_str() {
        "region" => Arc::new(field.as_ref().clone().with_name("sector")),
        _ => Arc::clone(field),
    });
    let other_column = RecordBatch::try_new(Arc::new(Schema::new(renamed.collect::<Vec<_>>())), north.columns().to_vec()).unwrap();
    for (batch, is_as_large) in [(other_column, true), (north.slice(0, 4_000), false)] {
        local_file(&fixture, &batch);
        assert_eq!(std::fs::metadata(fixture.path().join("t.parquet")).unwrap().len() == size_bytes, is_as_large);
        for sql in ["SELECT max(secret) FROM t", MIXED] {
            let Err(error) = fixture.query(&table, sql).await else { panic!("{sql} is answered, {is_as_large}") };
            assert!(error.contains("another object has this name now"), "{error}");
        }
    }
    local_file(&fixture, &north);
    assert_eq!(fixture.query(&table, IN_THE_NORTH).await.unwrap().value(), "5000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_written_over_is_noticed_whatever_its_time() {
    let fixture = Fixture::with_staleness(Duration::ZERO);
    local_file(&fixture, &of_region("north"));
    let path = fixture.path().join("t.parquet");
    let source = fixture.source(TableFormat::Parquet, "t.parquet");
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    let table = fixture.lake.open(&source).await.unwrap();
    assert_eq!(fixture.query(&table, IN_THE_NORTH).await.unwrap().value(), "5000");
    let south = fixture.path().join("south.parquet");
    write_parquet(&south, &of_region("south"), Some(secrets_as_they_are()));
    let south = std::fs::read(south).unwrap();
    let changed = || std::fs::metadata(&path).unwrap().ctime_nsec();
    // Until the file system's clock has gone on.
    let before = changed();
    while changed() == before {
        std::fs::write(&path, &south).unwrap();
    }
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    let again = fixture.lake.open(&source).await.unwrap();
    for table in [&again, &table] {
        assert_eq!(fixture.query(table, IN_THE_NORTH).await.unwrap().value(), "0");
    }
}

/// Whoever opened it would wait for somebody to write.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_a_files_place_is_refused() {
    let fixture = Fixture::new();
    local_file(&fixture, &of_region("north"));
    let table = fixture.lake.open(&fixture.source(TableFormat::Parquet, "t.parquet")).await.unwrap();
    assert_eq!(fixture.query(&table, IN_THE_NORTH).await.unwrap().value(), "5000");
    let path = fixture.path().join("t.parquet");
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let error = fixture.query(&table, IN_THE_NORTH).await.err().unwrap();
    assert!(error.contains("cannot read the footer"), "{error}");
}

/// Filters say of most row groups that they have not the value, and of none that has it.
#[tokio::test(flavor = "multi_thread")]
async fn values_are_found_by_their_bloom_filters() {
    for place in PLACES {
        let fixture = Fixture::new();
        let properties = properties(Compression::SNAPPY).set_statistics_enabled(EnabledStatistics::None).set_bloom_filter_enabled(true);
        let table = open(&fixture, place, properties.build()).await;
        for run in 0..3 {
            for row in (0..ROWS).step_by(1_117).chain([ROWS, -1]) {
                let is_there = i64::from((0..ROWS).contains(&row));
                for (sql, wanted) in [
                    (format!("SELECT count(*) FROM t WHERE id = {row}"), is_there),
                    (format!("SELECT count(*) FROM t WHERE id IN ({row}, {}, 7)", row - 6_000), 1 + is_there + i64::from(row >= 6_000)),
                    (
                        format!("SELECT count(*) FROM t WHERE long = 'row {row} of no other row''s text' AND id < 10000"),
                        is_there * i64::from(row < 10_000),
                    ),
                ] {
                    let wanted = if row == 7 { 1 } else { wanted };
                    assert_eq!(fixture.query(&table, &sql).await.unwrap().value(), wanted.to_string(), "{sql}, {place:?}, run {run}");
                }
            }
        }
        let plan = fixture.query(&table, "EXPLAIN ANALYZE SELECT count(*) FROM t WHERE id = 4711").await.unwrap();
        let plan = texts(plan.batches[0].column(1)).join("\n");
        assert!(plan.contains("row_groups_pruned_bloom_filter=4 total → 1 matched"), "{plan}");
    }
}

/// DataFusion tells by the offset of a row group's first column which part of a file it is in.
#[tokio::test(flavor = "multi_thread")]
async fn every_row_group_stays_in_its_part_of_the_file() {
    let fixture = Fixture::new();
    let table = open(&fixture, Place::Folder, properties(Compression::SNAPPY).build()).await;
    for partitions in [1, 3, 8] {
        let config = SessionConfig::new().with_target_partitions(partitions).with_repartition_file_min_size(1);
        let session = fixture.session_with(&table, config);
        for run in 0..RUNS {
            let sql = "SELECT count(id), sum(id), count(text), count(long), max(float) FROM t WHERE id >= 0";
            let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
            let found: Vec<_> = (0..4).map(|column| texts(batches[0].column(column))[0].clone()).collect();
            assert_eq!(found, ["20000", "199990000", "17143", "20000"], "{partitions} partitions, run {run}");
        }
    }
    // Of four row groups, with the first column.
    assert_eq!(fixture.lake.caches().hot_chunks().await, 4 * 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_queries_at_once_heat_a_file() {
    for place in PLACES {
        let fixture = Fixture::new();
        let table = open(&fixture, place, properties(Compression::ZSTD(ZstdLevel::default())).build()).await;
        let sql = "SELECT text, long, float FROM t WHERE float > 3000";
        let first = fixture.query(&table, sql).await.unwrap();
        for _ in 0..RUNS {
            for answer in futures::future::join_all((0..8).map(|_| fixture.query(&table, sql))).await {
                assert_eq!(difference(&answer.unwrap().batches, &first.batches), None, "{place:?}");
            }
        }
        assert!(fixture.lake.caches().hot_chunks().await > 0, "{place:?}");
    }
}
