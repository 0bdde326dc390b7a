//! Tables whose schema has moved on since their files were written, found by field id at every depth.

use std::collections::HashMap;

use arrow::array::{AsArray, Int32Array, Int64Array, ListArray, MapArray, StringArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type, Schema};
use datafusion::common::ScalarValue;
use object_store::path::Path as ObjectPath;

use super::*;
use crate::lake::{FIELD_ID_KEY, FileBounds, LakeFile, LakeSnapshot, LakeTable, PathedName, SnapshotId};

fn field(id: i32, name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true).with_metadata(HashMap::from([(FIELD_ID_KEY.to_owned(), id.to_string())]))
}

fn list(child: Field) -> DataType {
    DataType::List(Arc::new(child))
}

fn map(key: Field, value: Field) -> DataType {
    let entries = DataType::Struct(Fields::from(vec![key.with_nullable(false), value]));
    DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
}

fn structs(fields: Vec<Field>) -> DataType {
    DataType::Struct(fields.into())
}

/// `a: int` 1..=100, `b: text` its digits, `s`, `l` and `m` with structs, in row groups of ten.
fn file_batch() -> RecordBatch {
    let rows = 100;
    let inner = structs(vec![field(4, "x", DataType::Int32), field(5, "y", DataType::Utf8)]);
    let item = structs(vec![field(8, "p", DataType::Int32)]);
    let schema = Schema::new(vec![
        field(1, "a", DataType::Int32),
        field(2, "b", DataType::Utf8),
        field(3, "s", inner.clone()),
        field(6, "l", list(field(7, "item", item.clone()))),
        field(11, "m", map(field(12, "k", DataType::Utf8), field(13, "v", item.clone()))),
        field(14, "gone", DataType::Int32),
    ]);
    let numbers = Int32Array::from_iter_values(1..=rows);
    let digits = StringArray::from_iter_values((1..=rows).map(|n| n.to_string()));
    let children = |data_type: &DataType| match data_type {
        DataType::Struct(fields) => fields.clone(),
        _ => panic!("no struct"),
    };
    let s = StructArray::new(
        children(&inner),
        vec![Arc::new(numbers.clone()), Arc::new(digits.clone())],
        Some(NullBuffer::from_iter((1..=rows).map(|n| n != 7))),
    );
    let items = StructArray::new(children(&item), vec![Arc::new(numbers.clone())], None);
    let one_each = OffsetBuffer::from_lengths(vec![1; rows as usize]);
    let child = |index: usize| -> FieldRef {
        match schema.field(index).data_type() {
            DataType::List(child) | DataType::Map(child, _) => Arc::clone(child),
            _ => panic!("no list"),
        }
    };
    let l = ListArray::new(child(3), one_each.clone(), Arc::new(items.clone()), None);
    let entries = StructArray::new(children(child(4).data_type()), vec![Arc::new(digits.clone()), Arc::new(items)], None);
    let m = MapArray::new(child(4), one_each, entries, None, false);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(numbers.clone()), Arc::new(digits), Arc::new(s), Arc::new(l), Arc::new(m), Arc::new(numbers)];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn table_over(fixture: &Fixture, schema: Schema, naming: PathedName, defaults: HashMap<usize, ScalarValue>) -> OpenTable {
    let path = fixture.path().canonicalize().unwrap().join("f.parquet");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
    write_parquet(&path, &file_batch(), Some(properties));
    let file = LakeFile {
        store: "file://".into(),
        path: ObjectPath::parse(path.to_str().unwrap()).unwrap(),
        size_bytes: std::fs::metadata(&path).unwrap().len(),
        version: 0,
        shape: None,
        rows: Some(100),
        constants: Arc::from([]),
        deletes: Vec::new(),
    };
    let snapshot = LakeSnapshot {
        id: SnapshotId(1),
        schema: Arc::new(schema),
        naming,
        name_mapping: None,
        initial_defaults: defaults,
        files: vec![file],
        bounds: FileBounds::default(),
        outside: Default::default(),
    };
    let table = LakeTable::new(Arc::new(snapshot), Arc::clone(fixture.lake.stores()), Arc::clone(fixture.lake.caches()));
    OpenTable { provider: Arc::new(table), snapshot: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_swapped_dropped_and_added_columns_meet_by_id() {
    let fixture = Fixture::new();
    let schema = Schema::new(vec![
        // Swapped names, a promoted type, an order of their own.
        field(2, "a", DataType::Utf8),
        field(1, "b", DataType::Int64),
        // Dropped and added again: another id under the old name.
        field(20, "gone", DataType::Int32),
        // Children renamed, reordered, dropped, added.
        field(3, "s", structs(vec![field(21, "x", DataType::Utf8), field(5, "why", DataType::Utf8)])),
        // A struct of which no child is in the file.
        field(6, "l", list(field(7, "element", structs(vec![field(22, "new", DataType::Int64)])))),
        field(11, "m", map(field(12, "key", DataType::Utf8), field(13, "value", structs(vec![field(8, "q", DataType::Int64)])))),
        field(23, "filled", DataType::Int32),
    ]);
    let defaults = HashMap::from([(6, ScalarValue::Int32(Some(42)))]);
    let table = table_over(&fixture, schema, PathedName::FieldId, defaults);

    let answer = fixture.query(&table, "SELECT * FROM t WHERE b = 15").await.unwrap();
    assert_eq!(answer.rows(), 1);
    let row: Vec<_> = answer.batches[0].columns().iter().map(|column| texts(column)[0].clone()).collect();
    assert_eq!(row, ["15", "15", "NULL", "{x: NULL, why: 15}", "[{new: NULL}]", "{15: {q: 15}}", "42"]);
    let report = answer.report();
    assert_eq!((report.row_groups_read, report.row_groups_pruned), (1, 9));
    assert!(answer.batches[0].schema().fields().iter().all(|field| field.metadata().is_empty()));

    for (sql, expected) in [
        ("SELECT count(*) FROM t WHERE s IS NULL", "1"),
        ("SELECT count(*) FROM t WHERE gone IS NULL", "100"),
        ("SELECT count(*) FROM t WHERE gone = 5", "0"),
        ("SELECT count(*) FROM t WHERE filled = 42", "100"),
        ("SELECT count(*) FROM t WHERE filled <> 42", "0"),
        ("SELECT sum(b) FROM t WHERE a LIKE '1%'", "246"),
        ("SELECT max(s['why']) FROM t", "99"),
        ("SELECT count(s['x']) FROM t", "0"),
        ("SELECT sum(m['3']['q']) FROM t", "3"),
        ("SELECT count(*) FROM t", "100"),
    ] {
        assert_eq!(fixture.query(&table, sql).await.unwrap().value(), expected, "{sql}");
    }
    let sums = fixture.query(&table, "SELECT sum(b) AS total FROM t").await.unwrap();
    assert_eq!(sums.batches[0].column(0).as_primitive::<Int64Type>(), &Int64Array::from(vec![5050]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_does_not_fit_is_an_error() {
    let fixture = Fixture::new();
    let schema = Schema::new(vec![field(2, "b", DataType::Int64)]);
    let table = table_over(&fixture, schema, PathedName::FieldId, HashMap::new());
    let error = fixture.query(&table, "SELECT b FROM t").await.err().unwrap();
    assert!(error.contains("column \"b\" is Utf8 in a file and Int64 in the table"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_footer_serves_two_schemas() {
    let fixture = Fixture::new();
    let by_name = table_over(&fixture, Schema::new(vec![Field::new("a", DataType::Int32, true)]), PathedName::Logical, HashMap::new());
    let by_id = table_over(&fixture, Schema::new(vec![field(2, "a", DataType::Utf8)]), PathedName::FieldId, HashMap::new());
    assert_eq!(fixture.query(&by_name, "SELECT max(a) FROM t").await.unwrap().value(), "100");
    assert_eq!(fixture.query(&by_id, "SELECT max(a) FROM t").await.unwrap().value(), "99");
}
