//! Writes tables and reads them back with delta-rs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::concat_batches;
use arrow::datatypes::*;
use arrow::error::ArrowError;
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow;
use futures::stream;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use serde_json::{Value, json};

use super::*;
use crate::caches::{CacheLimits, Caches};
use crate::lake::{Lake, TableSource};
use crate::meta::{Change, Entity, MemoryStore, Metadata, TableFormat};
use crate::stores::StoresConfig;

struct Warehouse {
    stores: Arc<Stores>,
    folder: tempfile::TempDir,
}

impl Warehouse {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::new(StoresConfig { warehouse: folder.path().join("warehouse"), ..StoresConfig::default() });
        Self { stores: Arc::new(stores), folder }
    }

    fn tables(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("warehouse")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn write(&self, batches: Vec<RecordBatch>, partition_by: &[&str]) -> Result<CreatedTable, WriteError> {
        let table = new_table(batches[0].schema(), partition_by);
        create_table_as(&self.stores, table, stream::iter(batches.into_iter().map(Ok))).await
    }

    async fn write_column(&self, column: ArrayRef) -> Result<CreatedTable, WriteError> {
        self.write(vec![one_column(column)], &[]).await
    }
}

fn new_table(schema: SchemaRef, partition_by: &[&str]) -> NewTable {
    let partition_by = partition_by.iter().map(|name| (*name).to_owned()).collect();
    NewTable { id: TableId::generate(), schema, partition_by, comment: Some("a table".to_owned()) }
}

fn one_column(column: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("c", column, true)]).unwrap()
}

async fn open(table: &CreatedTable) -> deltalake::DeltaTable {
    deltalake::open_table(Url::parse(&table.location).unwrap()).await.unwrap()
}

/// Everything in the table, by SQL over delta-rs' own provider.
async fn query(table: &CreatedTable, sql: &str) -> Vec<RecordBatch> {
    let context = SessionContext::new();
    context.register_table("t", open(table).await.table_provider().await.unwrap()).unwrap();
    context.sql(sql).await.unwrap().collect().await.unwrap()
}

/// The one column of the table, as delta-rs reads it.
async fn read_column(table: &CreatedTable) -> ArrayRef {
    let batches = query(table, "SELECT c FROM t").await;
    Arc::clone(concat_batches(&batches[0].schema(), &batches).unwrap().column(0))
}

fn folder(table: &CreatedTable) -> PathBuf {
    Url::parse(&table.location).unwrap().to_file_path().unwrap()
}

/// The actions of the only commit.
fn log(table: &CreatedTable) -> Vec<Value> {
    let text = std::fs::read_to_string(folder(table).join("_delta_log/00000000000000000000.json")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn adds(table: &CreatedTable) -> Vec<Value> {
    log(table).into_iter().filter_map(|mut action| action.get_mut("add").map(Value::take)).collect()
}

/// Raw: `serde_json` would round long decimals.
fn stats(table: &CreatedTable) -> Vec<String> {
    adds(table).iter().map(|add| add["stats"].as_str().unwrap().to_owned()).collect()
}

fn people(from: i32, to: i32) -> RecordBatch {
    let ids: Int32Array = (from..to).collect();
    let names: StringArray = (from..to).map(|id| (id % 3 != 0).then(|| format!("person {id}"))).collect();
    let schema = Schema::new(vec![Field::new("id", DataType::Int32, false), Field::new("name", DataType::Utf8, true)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(names)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_becomes_a_table() {
    let warehouse = Warehouse::new();
    let table = warehouse.write(vec![people(0, 4), people(4, 4), people(4, 7)], &[]).await.unwrap();
    assert_eq!((table.rows, table.version), (7, SnapshotId(0)));
    let rows = query(&table, "SELECT count(*), count(name), min(id), max(id), min(name) FROM t WHERE id >= 1").await;
    let expected = "\
+----------+---------------+-----------+-----------+-------------+
| count(*) | count(t.name) | min(t.id) | max(t.id) | min(t.name) |
+----------+---------------+-----------+-----------+-------------+
| 6        | 4             | 1         | 6         | person 1    |
+----------+---------------+-----------+-----------+-------------+";
    assert_eq!(pretty_format_batches(&rows).unwrap().to_string(), expected);

    let delta = open(&table).await;
    let metadata = delta.snapshot().unwrap().metadata().clone();
    assert_eq!(metadata.description(), Some("a table"));
    let schema: Schema = (&metadata.parse_schema().unwrap()).try_into_arrow().unwrap();
    assert_eq!(schema.fields(), people(0, 1).schema().fields());
    assert_eq!(table.schema, people(0, 1).schema());
    assert!(log(&table).iter().any(|action| action["commitInfo"]["clientVersion"].as_str().unwrap_or("").starts_with("lazaret.")));
    let expected = json!({"numRecords": 7, "minValues": {"id": 0, "name": "person 1"}, "maxValues": {"id": 6, "name": "person 5"},
        "nullCount": {"id": 0, "name": 3}});
    assert_eq!(serde_json::from_str::<Value>(&stats(&table)[0]).unwrap(), expected);
}

/// The same through the scan that serves queries: partitions, nested values, and rows that careless bounds would hide.
#[tokio::test(flavor = "multi_thread")]
async fn the_lake_reads_what_was_written() {
    let warehouse = Warehouse::new();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("region", Arc::new(StringArray::from(vec![Some("north"), None, Some("south")]))),
        ("value", Arc::new(Float64Array::from(vec![Some(1.0), Some(f64::NAN), None]))),
        ("big", Arc::new(UInt64Array::from(vec![u64::MAX, 1, u64::MAX - 1]))),
        ("seen", utc(TimestampMicrosecondArray::from(vec![1_001, -1, 0]))),
        ("tags", {
            let mut tags = ListBuilder::new(StringBuilder::new());
            tags.append_value([Some("a"), None]);
            tags.append_null();
            tags.append_value::<_, &str>([]);
            Arc::new(tags.finish())
        }),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap();
    let limits = CacheLimits::default();
    let lake = Lake::new(Arc::clone(&warehouse.stores), Arc::new(Caches::new(limits)));
    for partition_by in [&[][..], &["region"]] {
        let id = TableId::generate();
        let table = NewTable { id, ..new_table(batch.schema(), partition_by) };
        let created = create_table_as(&warehouse.stores, table, stream::iter([Ok(batch.clone())])).await.unwrap();
        let source = TableSource { id, format: TableFormat::Delta, location: created.location, options: BTreeMap::new() };
        let open = lake.open(&source).await.unwrap();
        assert_eq!(open.snapshot, Some(created.version));
        let context = SessionContext::new();
        context.register_table("t", open.provider).unwrap();
        for (filter, expected) in [
            ("true", 3),
            ("region = 'north'", 1),
            ("region IS NULL", 1),
            ("value > 5", 1),
            ("big = 18446744073709551615", 1),
            ("big >= 18446744073709551614", 2),
            ("seen > TIMESTAMP '1970-01-01T00:00:00.001Z'", 1),
            ("seen < TIMESTAMP '1970-01-01T00:00:00Z'", 1),
            ("tags IS NULL", 1),
            ("cardinality(tags) = 0 OR tags[1] = 'a'", 2),
        ] {
            let sql = format!("SELECT * FROM t WHERE {filter}");
            let rows = context.sql(&sql).await.unwrap().collect().await.unwrap();
            assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), expected, "{filter} by {partition_by:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_row_groups_that_can_be_skipped() {
    let warehouse = Warehouse::new();
    let batches = (0..60).map(|part| people(part * 10_000, (part + 1) * 10_000)).collect();
    let table = warehouse.write(batches, &[]).await.unwrap();
    let add = &adds(&table)[0];
    let path = folder(&table).join(add["path"].as_str().unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), add["size"].as_u64().unwrap());
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap();
    let groups: Vec<_> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [262_144, 262_144, 75_712]);
    let column = reader.metadata().row_group(0).column(0);
    assert!(matches!(column.compression(), Compression::ZSTD(_)));
    assert!(column.statistics().is_some() && column.column_index_offset().is_some());
    let stats: Value = serde_json::from_str(&stats(&table)[0]).unwrap();
    assert_eq!((&stats["minValues"]["id"], &stats["maxValues"]["id"]), (&json!(0), &json!(599_999)));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rows_are_a_table_all_the_same() {
    let warehouse = Warehouse::new();
    let table = new_table(people(0, 0).schema(), &[]);
    let table = create_table_as(&warehouse.stores, table, stream::iter([])).await.unwrap();
    assert_eq!((table.rows, adds(&table).len()), (0, 0));
    let rows = query(&table, "SELECT * FROM t").await;
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    let schema: Schema = (&open(&table).await.snapshot().unwrap().metadata().parse_schema().unwrap()).try_into_arrow().unwrap();
    assert_eq!(schema.fields(), people(0, 0).schema().fields());
}

fn utc(array: TimestampMicrosecondArray) -> ArrayRef {
    Arc::new(array.with_timezone("UTC"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_kept_or_widened_exactly() {
    let decimal = |values: Vec<Option<i128>>, precision, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
    };
    let micros = || TimestampMicrosecondArray::from(vec![Some(-1_000_001), None, Some(1_700_000_000_123_456)]);
    let dictionary: DictionaryArray<Int8Type> = [Some("a"), None, Some("a")].into_iter().collect();
    let runs = RunArray::try_new(&Int32Array::from(vec![1, 3]), &StringArray::from(vec![Some("a"), Some("b")])).unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("")]));
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"ab"[..]), None, Some(&[0, 255][..])]));
    let fixed: [Option<&[u8]>; 3] = [Some(b"ab"), None, Some(&[0, 255])];
    let same: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)])),
        Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
        Arc::new(Float32Array::from(vec![Some(f32::MIN), None, Some(0.1)])),
        Arc::new(Float64Array::from(vec![Some(f64::NEG_INFINITY), None, Some(0.1)])),
        Arc::new(Date32Array::from(vec![Some(-719_162), None, Some(19_000)])),
        Arc::new(micros()),
        utc(micros()),
        decimal(vec![Some(-12_345), None, Some(99_999)], 5, 2),
        decimal(vec![Some(-10_i128.pow(38) + 1), None, Some(10_i128.pow(38) - 1)], 38, 10),
        Arc::clone(&text),
        Arc::clone(&bytes),
    ];
    let changed: Vec<(ArrayRef, ArrayRef)> = vec![
        (Arc::new(UInt8Array::from(vec![Some(255), None])), Arc::new(Int16Array::from(vec![Some(255), None]))),
        (Arc::new(UInt16Array::from(vec![Some(65_535), None])), Arc::new(Int32Array::from(vec![Some(65_535), None]))),
        (Arc::new(UInt32Array::from(vec![Some(u32::MAX), None])), Arc::new(Int64Array::from(vec![Some(i64::from(u32::MAX)), None]))),
        (Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])), decimal(vec![Some(i128::from(u64::MAX)), None], 20, 0)),
        (
            arrow::compute::cast(&Float32Array::from(vec![Some(1.5), None]), &DataType::Float16).unwrap(),
            Arc::new(Float32Array::from(vec![Some(1.5), None])),
        ),
        (Arc::new(LargeStringArray::from(vec![Some("a"), None, Some("")])), Arc::clone(&text)),
        (Arc::new(StringViewArray::from(vec![Some("a"), None, Some("")])), text),
        (Arc::new(LargeBinaryArray::from(vec![Some(&b"ab"[..]), None, Some(&[0, 255][..])])), Arc::clone(&bytes)),
        (Arc::new(BinaryViewArray::from(vec![Some(&b"ab"[..]), None, Some(&[0, 255][..])])), Arc::clone(&bytes)),
        (Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed.into_iter(), 2).unwrap()), bytes),
        (Arc::new(dictionary), Arc::new(StringArray::from(vec![Some("a"), None, Some("a")]))),
        (Arc::new(runs), Arc::new(StringArray::from(vec!["a", "b", "b"]))),
        (
            Arc::new(Date64Array::from(vec![Some(86_400_000), None, Some(-86_400_000)])),
            Arc::new(Date32Array::from(vec![Some(1), None, Some(-1)])),
        ),
        (
            Arc::new(TimestampSecondArray::from(vec![Some(-1), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(-1_000_000), None])),
        ),
        (
            Arc::new(TimestampNanosecondArray::from(vec![Some(-1_000), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None])),
        ),
        (Arc::new(micros().with_timezone("America/Sao_Paulo")), utc(micros())),
        (
            Arc::new(Decimal256Array::from(vec![Some(i256::from(-7)), None]).with_precision_and_scale(38, 2).unwrap()),
            decimal(vec![Some(-7), None], 38, 2),
        ),
        (
            Arc::new(Decimal32Array::from(vec![Some(7), None]).with_precision_and_scale(9, -2).unwrap()),
            decimal(vec![Some(700), None], 11, 0),
        ),
    ];
    let warehouse = Warehouse::new();
    for (source, expected) in same.into_iter().map(|array| (Arc::clone(&array), array)).chain(changed) {
        let source_type = source.data_type().clone();
        let table = warehouse.write_column(source).await.unwrap_or_else(|error| panic!("{source_type}: {error}"));
        assert_eq!(table.schema.field(0).data_type(), expected.data_type(), "{source_type}");
        let read = read_column(&table).await;
        // delta-rs may read text as views.
        let read = arrow::compute::cast(&read, expected.data_type()).unwrap();
        assert_eq!(&read, &expected, "{source_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_delta_cannot_hold_is_refused_by_name() {
    let warehouse = Warehouse::new();
    let wide = DataType::Decimal256(40, 2);
    let inner = DataType::List(Arc::new(Field::new_list_field(DataType::Time64(TimeUnit::Nanosecond), true)));
    for data_type in [
        DataType::Null,
        DataType::Time32(TimeUnit::Second),
        DataType::Duration(TimeUnit::Second),
        DataType::Interval(IntervalUnit::DayTime),
        DataType::Struct(Fields::empty()),
        DataType::Decimal128(38, -1),
        wide,
        inner,
    ] {
        let error = warehouse.write_column(new_null_array(&data_type, 1)).await.unwrap_err();
        assert!(matches!(&error, WriteError::UnsupportedType { column, .. } if column == "c"), "{data_type}: {error}");
    }
    let nothing = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &RecordBatchOptions::new().with_row_count(Some(1)));
    assert!(matches!(warehouse.write(vec![nothing.unwrap()], &[]).await, Err(WriteError::NoColumns)));
    assert_eq!(warehouse.tables(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_digits_are_an_error_without_the_value() {
    let warehouse = Warehouse::new();
    let nanos = || TimestampNanosecondArray::from(vec![1_000, 1_234_567]);
    let list = ListArray::new(
        Arc::new(Field::new_list_field(DataType::Timestamp(TimeUnit::Nanosecond, None), true)),
        OffsetBuffer::new(ScalarBuffer::from(vec![0, 2])),
        Arc::new(nanos()),
        None,
    );
    let columns: [ArrayRef; 4] = [
        Arc::new(nanos()),
        Arc::new(list),
        Arc::new(Date64Array::from(vec![1_234_567])),
        Arc::new(TimestampSecondArray::from(vec![i64::MAX / 1000])),
    ];
    for column in columns {
        let data_type = column.data_type().clone();
        let error = warehouse.write_column(column).await.unwrap_err();
        assert!(matches!(error, WriteError::Inexact { .. }), "{data_type}: {error}");
        assert!(!error.to_string().contains("1234567"), "{error}");
    }
    assert_eq!(warehouse.tables(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_checked() {
    let warehouse = Warehouse::new();
    let number: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let nested = StructArray::from(vec![(Arc::new(Field::new("a b", DataType::Int32, true)), Arc::clone(&number))]);
    let cases: Vec<(Vec<(&str, ArrayRef)>, &str)> = vec![
        (
            vec![("count(*)", number.clone())],
            "column name \"count(*)\" cannot be stored in a Delta table: it holds '('; give the column an alias",
        ),
        (vec![("", number.clone())], "column name \"\" cannot be stored in a Delta table: it is empty; give the column an alias"),
        (
            vec![("id", number.clone()), ("ID", number.clone())],
            "column name \"ID\" cannot be stored in a Delta table: another column has the same name but for its case; give the column an alias",
        ),
        (vec![("s", Arc::new(nested))], "column name \"s.a b\" cannot be stored in a Delta table: it holds ' '; give the column an alias"),
    ];
    for (columns, message) in cases {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        assert_eq!(warehouse.write(vec![batch], &[]).await.unwrap_err().to_string(), message);
    }
    // Letters of any language, dots and quotes are names like others.
    let names = ["início", "a.b", "quote\"d", "日付"];
    let batch = RecordBatch::try_from_iter(names.map(|name| (name, number.clone()))).unwrap();
    let table = warehouse.write(vec![batch], &[]).await.unwrap();
    let rows = query(&table, r#"SELECT "início" + "a.b" + "quote""d" + "日付" FROM t"#).await;
    assert_eq!(rows[0].column(0).as_primitive::<Int32Type>().values(), &[4]);
}

/// NULL, empty and one with a NULL in it, for each kind of container and of list.
#[tokio::test(flavor = "multi_thread")]
async fn null_containers_are_not_empty_ones() {
    let values = || -> ArrayRef { Arc::new(Int32Array::from(vec![Some(1), None])) };
    let item = || Arc::new(Field::new("some_item", DataType::Int32, true));
    let nulls = || Some(NullBuffer::from(vec![false, true, true]));
    let list = ListArray::new(item(), OffsetBuffer::new(vec![0, 0, 0, 2].into()), values(), nulls());
    let large = LargeListArray::new(item(), OffsetBuffer::new(vec![0, 0, 0, 2].into()), values(), nulls());
    let view = ListViewArray::new(item(), vec![0, 0, 0].into(), vec![0, 0, 2].into(), values(), nulls());
    let fixed_values: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), Some(7), Some(3), Some(4), Some(1), None]));
    let fixed = FixedSizeListArray::new(item(), 2, fixed_values, nulls());

    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.append(false).unwrap();
    map.append(true).unwrap();
    map.keys().append_value("k");
    map.values().append_null();
    map.append(true).unwrap();

    let inner: ArrayRef = Arc::new(StringViewArray::from(vec![None, None, Some("x")]));
    let fields = vec![Field::new("v", DataType::Utf8View, true), Field::new("l", list.data_type().clone(), true)];
    let structs = StructArray::new(fields.into(), vec![inner, Arc::new(list.clone())], nulls());

    let warehouse = Warehouse::new();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("list", Arc::new(list)),
        ("large", Arc::new(large)),
        ("view", Arc::new(view)),
        ("fixed", Arc::new(fixed)),
        ("map", Arc::new(map.finish())),
        ("struct", Arc::new(structs)),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap();
    let table = warehouse.write(vec![batch], &[]).await.unwrap();
    let rows = query(&table, "SELECT * FROM t").await;
    let expected = "\
+--------+--------+--------+--------+---------+-------------------+
| list   | large  | view   | fixed  | map     | struct            |
+--------+--------+--------+--------+---------+-------------------+
|        |        |        |        |         |                   |
| []     | []     | []     | [3, 4] | {}      | {v: , l: []}      |
| [1, ]  | [1, ]  | [1, ]  | [1, ]  | {k: }   | {v: x, l: [1, ]}  |
+--------+--------+--------+--------+---------+-------------------+";
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('-', "");
    assert_eq!(squeeze(&pretty_format_batches(&rows).unwrap().to_string()), squeeze(expected));
    assert!(rows.iter().all(|batch| batch.columns().iter().all(|column| column.is_null(0) && column.is_valid(1))));
    let DataType::List(item) = table.schema.field(0).data_type() else { panic!("not a list") };
    assert_eq!(item.name(), "element");
}

#[tokio::test(flavor = "multi_thread")]
async fn not_null_is_kept_and_checked() {
    let warehouse = Warehouse::new();
    let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Utf8View, false)]));
    let nullable: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None]));
    let batches = stream::iter([Ok(one_column(nullable))]);
    let error = create_table_as(&warehouse.stores, new_table(Arc::clone(&schema), &[]), batches).await.unwrap_err();
    assert_eq!(error.to_string(), "column \"c\" is NOT NULL but holds NULL");
    let full: ArrayRef = Arc::new(StringViewArray::from(vec!["a"]));
    let table = create_table_as(&warehouse.stores, new_table(schema, &[]), stream::iter([Ok(one_column(full))])).await.unwrap();
    let schema: Schema = (&open(&table).await.snapshot().unwrap().metadata().parse_schema().unwrap()).try_into_arrow().unwrap();
    assert!(!schema.field(0).is_nullable());
}

#[tokio::test(flavor = "multi_thread")]
async fn field_ids_of_the_source_do_not_travel_and_comments_do() {
    let metadata = [("PARQUET:field_id", "7"), ("lazaret:physical_name", "col-1"), ("delta.columnMapping.id", "7"), ("comment", "who")];
    let field = Field::new("id", DataType::Int32, true).with_metadata(metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::new(Int32Array::from(vec![1]))]).unwrap();
    let table = Warehouse::new();
    let table = table.write(vec![batch], &[]).await.unwrap();
    let schema = log(&table).iter().find_map(|action| action["metaData"]["schemaString"].as_str().map(str::to_owned)).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["fields"][0]["metadata"], json!({"comment": "who"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_hold_their_rows_and_values() {
    let warehouse = Warehouse::new();
    let region = || Arc::new(Int32Array::from(vec![Some(1), None, Some(2), Some(1)])) as ArrayRef;
    let day = || Arc::new(Date32Array::from(vec![Some(0), Some(0), None, Some(1)])) as ArrayRef;
    let seen = || utc(TimestampMicrosecondArray::from(vec![Some(1), None, Some(0), Some(1)]));
    let local = || Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None, Some(0), Some(1)])) as ArrayRef;
    let text = || Arc::new(StringViewArray::from(vec![Some("a/b=c%20 é"), None, Some("null"), Some("a")])) as ArrayRef;
    let amount =
        || Arc::new(Decimal128Array::from(vec![Some(-105), None, Some(5), Some(0)]).with_precision_and_scale(9, 2).unwrap()) as ArrayRef;
    let flag = || Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)])) as ArrayRef;
    let id = || Arc::new(Int64Array::from(vec![0, 1, 2, 3])) as ArrayRef;
    let columns = [
        ("region", region()),
        ("id", id()),
        ("day", day()),
        ("seen", seen()),
        ("local", local()),
        ("text", text()),
        ("amount", amount()),
        ("flag", flag()),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
    let by = ["flag", "amount", "text", "local", "seen", "day", "region"];
    let table = warehouse.write(vec![batch.clone(), batch], &by).await.unwrap();
    assert_eq!((table.rows, adds(&table).len()), (8, 4));

    let values: Vec<_> = adds(&table).into_iter().map(|add| add["partitionValues"].clone()).collect();
    let first = json!({"region": "1", "day": "1970-01-01", "seen": "1970-01-01T00:00:00.000001Z", "local": "1970-01-01 00:00:00.000001",
        "text": "a/b=c%20 é", "amount": "-1.05", "flag": "true"});
    assert!(values.contains(&first), "{values:?}");
    let nulls = json!({"region": null, "day": "1970-01-01", "seen": null, "local": null, "text": null, "amount": null, "flag": null});
    assert!(values.contains(&nulls), "{values:?}");
    assert!(adds(&table).iter().all(|add| !add["path"].as_str().unwrap().contains("a/b")));

    let rows = query(&table, "SELECT * FROM t WHERE region IS NOT NULL OR flag IS NULL ORDER BY id").await;
    let expected = "\
+--------+----+------------+-----------------------------+----------------------------+------------+--------+-------+
| region | id | day        | seen                        | local                      | text       | amount | flag  |
+--------+----+------------+-----------------------------+----------------------------+------------+--------+-------+
| 1      | 0  | 1970-01-01 | 1970-01-01T00:00:00.000001Z | 1970-01-01T00:00:00.000001 | a/b=c%20 é | -1.05  | true  |
| 1      | 0  | 1970-01-01 | 1970-01-01T00:00:00.000001Z | 1970-01-01T00:00:00.000001 | a/b=c%20 é | -1.05  | true  |
|        | 1  | 1970-01-01 |                             |                            |            |        |       |
|        | 1  | 1970-01-01 |                             |                            |            |        |       |
| 2      | 2  |            | 1970-01-01T00:00:00Z        | 1970-01-01T00:00:00        | null       | 0.05   | false |
| 2      | 2  |            | 1970-01-01T00:00:00Z        | 1970-01-01T00:00:00        | null       | 0.05   | false |
| 1      | 3  | 1970-01-02 | 1970-01-01T00:00:00.000001Z | 1970-01-01T00:00:00.000001 | a          | 0.00   | true  |
| 1      | 3  | 1970-01-02 | 1970-01-01T00:00:00.000001Z | 1970-01-01T00:00:00.000001 | a          | 0.00   | true  |
+--------+----+------------+-----------------------------+----------------------------+------------+--------+-------+";
    assert_eq!(pretty_format_batches(&rows).unwrap().to_string(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_take_turns_and_too_many_are_refused() {
    let warehouse = Warehouse::new();
    let batch = |rows: i32, partitions: i32| {
        let ids: Int32Array = (0..rows).collect();
        let parts: Int32Array = (0..rows).map(|id| id % partitions).collect();
        RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("part", Arc::new(parts) as ArrayRef)]).unwrap()
    };
    let table = warehouse.write(vec![batch(1000, 300), batch(1000, 300)], &["part"]).await.unwrap();
    let rows = query(&table, "SELECT count(*), count(DISTINCT part), sum(id), count(DISTINCT id) FROM t WHERE id % 300 = part").await;
    let row: Vec<_> = rows[0].columns().iter().map(|column| column.as_primitive::<Int64Type>().value(0)).collect();
    assert_eq!(row, [2000, 300, 999_000, 1000]);

    let error = warehouse.write(vec![batch(10_001, 10_001)], &["part"]).await.unwrap_err();
    assert_eq!(error.to_string(), "the rows would lie in more than 10000 partitions");
    assert_eq!(warehouse.tables().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_partitions_are_refused() {
    let warehouse = Warehouse::new();
    let float: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let empty: ArrayRef = Arc::new(StringArray::from(vec![""]));
    let late: ArrayRef = Arc::new(Date32Array::from(vec![i32::MAX]));
    let batch = RecordBatch::try_from_iter([("f", float), ("s", empty), ("d", late)]).unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["x"], "the table cannot be partitioned by \"x\": there is no such column"),
        (&["s", "s"], "the table cannot be partitioned by \"s\": it is named twice"),
        (&["f"], "the table cannot be partitioned by \"f\": its type cannot be that of a partition column"),
        (&["s"], "the table cannot be partitioned by \"s\": Delta cannot tell an empty text from NULL there"),
        (&["d"], "the table cannot be partitioned by \"d\": a value lies outside the years 0 to 9999"),
        (&["d", "s"], "the table cannot be partitioned by \"d\": a value lies outside the years 0 to 9999"),
    ];
    for (by, message) in cases {
        assert_eq!(warehouse.write(vec![batch.clone()], by).await.unwrap_err().to_string(), message);
    }
    let only = batch.project(&[2]).unwrap();
    let message = "the table cannot be partitioned by \"d\": no column would be left for the data files";
    assert_eq!(warehouse.write(vec![only], &["d"]).await.unwrap_err().to_string(), message);
    assert_eq!(warehouse.tables(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_are_exact_or_wider_or_left_out() {
    let warehouse = Warehouse::new();
    let long = "é".repeat(500);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("big", Arc::new(UInt64Array::from(vec![Some(u64::MAX - 1), None, Some(u64::MAX)]))),
        ("cents", Arc::new(Decimal128Array::from(vec![Some(-1), None, Some(12_345)]).with_precision_and_scale(30, 2).unwrap())),
        ("nan", Arc::new(Float64Array::from(vec![Some(1.0), None, Some(f64::NAN)]))),
        ("infinite", Arc::new(Float64Array::from(vec![Some(1.0), None, Some(f64::INFINITY)]))),
        ("float", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(0.2)]))),
        ("time", Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None, Some(1001)]))),
        ("instant", utc(TimestampMicrosecondArray::from(vec![Some(-1), None, Some(2000)]))),
        ("none", Arc::new(Int32Array::from(vec![None, None, None]))),
        ("text", Arc::new(StringArray::from(vec![Some("a\"b"), None, Some(long.as_str())]))),
        ("late", Arc::new(Date32Array::from(vec![Some(0), None, Some(i32::MAX)]))),
        ("bytes", Arc::new(BinaryArray::from(vec![Some(&b"a"[..]), None, None]))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap();
    let table = warehouse.write(vec![batch], &[]).await.unwrap();
    let text = stats(&table).remove(0);
    assert!(text.contains(r#""minValues":{"big":18446744073709551614,"cents":-0.01,"#), "{text}");
    assert!(text.contains(r#""maxValues":{"big":18446744073709551615,"cents":123.45,"#), "{text}");
    let stats: Value = serde_json::from_str(&text).unwrap();
    let (min, max) = (&stats["minValues"], &stats["maxValues"]);
    assert_eq!((min.get("nan"), max.get("nan"), &stats["nullCount"]["nan"]), (None, None, &json!(1)));
    assert_eq!((&min["infinite"], max.get("infinite")), (&json!(1.0), None));
    assert_eq!((&min["float"], &max["float"]), (&json!(f64::from(0.1_f32)), &json!(f64::from(0.2_f32))));
    assert_eq!((&min["time"], &max["time"]), (&json!("1969-12-31T23:59:59.999"), &json!("1970-01-01T00:00:00.002")));
    assert_eq!((&min["instant"], &max["instant"]), (&json!("1969-12-31T23:59:59.999Z"), &json!("1970-01-01T00:00:00.002Z")));
    assert_eq!((min.get("none"), max.get("none"), &stats["nullCount"]["none"]), (None, None, &json!(3)));
    assert_eq!(min["text"], json!("a\"b"));
    assert!(max["text"].as_str().is_some_and(|bound| bound.len() <= 128 && *bound > *long), "{max}");
    assert_eq!((&min["late"], max.get("late")), (&json!("1970-01-01"), None));
    assert_eq!((min.get("bytes"), &stats["nullCount"]["bytes"]), (None, &json!(2)));

    for (filter, expected) in [
        ("big = 18446744073709551615", 1),
        ("big > 18446744073709551614", 1),
        ("nan > 5", 1),
        ("time = TIMESTAMP '1970-01-01T00:00:00.001001'", 1),
        ("cents < 0", 1),
        ("float = CAST(0.2 AS FLOAT)", 1),
        ("late > DATE '2020-01-01'", 1),
        ("text > 'zzz'", 1),
    ] {
        let rows = query(&table, &format!("SELECT 1 FROM t WHERE {filter}")).await;
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), expected, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_leaves_nothing() {
    let warehouse = Warehouse::new();
    let broken = || Err(DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None));
    for batches in [vec![broken()], vec![Ok(people(0, 300_000)), Ok(people(0, 10)), broken(), Ok(people(0, 1))]] {
        let table = new_table(people(0, 0).schema(), &[]);
        let error = create_table_as(&warehouse.stores, table, stream::iter(batches)).await.unwrap_err();
        assert!(matches!(error, WriteError::Query(DataFusionError::ArrowError(..))), "{error}");
        assert_eq!(warehouse.tables(), Vec::<String>::new());
    }
    let narrow = people(0, 1).project(&[0]).unwrap();
    let batches = stream::iter([Ok(people(0, 1)), Ok(narrow)]);
    let error = create_table_as(&warehouse.stores, new_table(people(0, 0).schema(), &[]), batches).await.unwrap_err();
    assert!(matches!(error, WriteError::Batch(_)), "{error}");
    assert_eq!(warehouse.tables(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_leaves_nothing() {
    let warehouse = Arc::new(Warehouse::new());
    let (started, wait) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    let batches = stream::poll_fn(move |_| {
        let first = started.take();
        match first {
            Some(_) => std::task::Poll::Ready(Some(Ok(people(0, 10)))),
            None => std::task::Poll::Pending,
        }
    });
    let writer = Arc::clone(&warehouse);
    let writing =
        tokio::spawn(async move { create_table_as(&writer.stores, new_table(people(0, 0).schema(), &[]), batches).await.map(|_| ()) });
    // The sender goes with the first batch.
    assert!(wait.await.map(|(): ()| ()).is_err());
    assert_eq!(warehouse.tables().len(), 1);
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    let emptied = async {
        while !warehouse.tables().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), emptied).await.expect("the folder must go");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_used_once() {
    let warehouse = Warehouse::new();
    let table = new_table(people(0, 0).schema(), &[]);
    let first = create_table_as(&warehouse.stores, table.clone(), stream::iter([Ok(people(0, 3))])).await.unwrap();
    let again = create_table_as(&warehouse.stores, table.clone(), stream::iter([Ok(people(0, 1))])).await.unwrap_err();
    assert!(matches!(again, WriteError::Exists(id) if id == table.id), "{again}");
    assert_eq!(query(&first, "SELECT * FROM t").await.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_swept_and_what_the_metadata_does_not_know_stays() {
    let warehouse = Warehouse::new();
    let metadata = Metadata::open(Arc::new(MemoryStore::default())).await.unwrap();
    assert!(strangers(&warehouse.stores, &metadata.current()).await.unwrap().is_empty());
    let schema = people(0, 0).schema();
    let (dropped, unwritten, unknown) = (new_table(Arc::clone(&schema), &[]), new_table(Arc::clone(&schema), &[]), new_table(schema, &[]));
    let leftovers = [dropped.id, unwritten.id];
    metadata.change(|_| Ok::<_, Infallible>(leftovers.map(Entity::Leftover).map(Change::Put).to_vec())).await.unwrap();
    for table in [&dropped, &unknown] {
        create_table_as(&warehouse.stores, table.clone(), stream::iter([Ok(people(0, 1))])).await.unwrap();
    }
    for _ in 0..2 {
        sweep(&warehouse.stores, &metadata, &leftovers).await.unwrap();
        assert_eq!(metadata.current().leftovers().count(), 0);
        assert_eq!(warehouse.tables(), [unknown.id.to_string()]);
    }
    assert_eq!(strangers(&warehouse.stores, &metadata.current()).await.unwrap(), [unknown.id.to_string().as_str()]);
}
