//! Which files a predicate leaves, on snapshots made by hand.

use arrow::array::{Float64Array, Int64Array, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::common::{ColumnStatistics, DFSchema, ScalarValue};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::prelude::{Expr, col, lit};
use object_store::path::Path as ObjectPath;

use super::*;
use crate::lake::prune::prune;
use crate::lake::scan::LakeTable;
use crate::lake::{ColumnBounds, FileBounds, LakeFile, LakeSnapshot};

/// Files 0 to 3: `n` is 1..=10, 5..=20, unknown, all NULL; `s` has bounds in the first two; `p` is constant: a, NULL, b
/// and, in the last, read from the file without bounds.
fn snapshot() -> LakeSnapshot {
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("p", DataType::Utf8, true),
    ]);
    let constants = [Some(ScalarValue::from("a")), Some(ScalarValue::Utf8(None)), Some(ScalarValue::from("b")), None];
    let file = |(number, constant): (usize, Option<ScalarValue>)| LakeFile {
        store: "file://".into(),
        path: ObjectPath::from(format!("f{number}")),
        size_bytes: 1,
        version: 0,
        shape: None,
        rows: Some(10),
        constants: constant.into_iter().map(|value| (2, value)).collect(),
        deletes: Vec::new(),
    };
    let n = ColumnBounds {
        min: Arc::new(Int64Array::from(vec![Some(1), Some(5), None, None])),
        max: Arc::new(Int64Array::from(vec![Some(10), Some(20), None, None])),
        null_counts: UInt64Array::from(vec![Some(0), Some(3), None, Some(10)]),
    };
    let s = ColumnBounds {
        min: Arc::new(StringArray::from(vec![Some("a"), Some("m"), None, None])),
        max: Arc::new(StringArray::from(vec![Some("l"), Some("z"), None, None])),
        null_counts: UInt64Array::from(vec![None, None, None, None]),
    };
    let files: Vec<_> = constants.into_iter().enumerate().map(file).collect();
    let bounds = FileBounds {
        columns: [("n".to_owned(), n), ("s".to_owned(), s)].into_iter().collect(),
        row_counts: Some(UInt64Array::from(vec![10, 10, 10, 10])),
    };
    LakeSnapshot::of_files(Arc::new(schema), files, bounds)
}

#[test]
fn a_predicate_leaves_what_may_match() {
    let snapshot = snapshot();
    let session = SessionContext::new();
    let schema = DFSchema::try_from(Arc::clone(&snapshot.schema)).unwrap();
    let table = [
        ("n = 3", &[0, 2][..]),
        ("n > 10", &[1, 2]),
        ("n IN (30, 40)", &[2]),
        ("n IS NULL", &[1, 2, 3]),
        ("n IS NOT NULL", &[0, 1, 2]),
        ("n + 0 = 3", &[0, 1, 2, 3]),
        ("n = 3 OR s = 'x'", &[0, 1, 2, 3]),
        ("s = 'b'", &[0, 2, 3]),
        ("s LIKE 'x%'", &[1, 2, 3]),
        ("p = 'a'", &[0, 3]),
        ("p <> 'a'", &[2, 3]),
        // Spark drops the file of the NULL partition from a DELETE with such a condition; a scan must keep it apart.
        ("p < 'b'", &[0, 3]),
        ("p IS NULL", &[1, 3]),
        ("p IS NOT NULL", &[0, 2, 3]),
        ("p IN ('x', 'b')", &[2, 3]),
        ("p = 'a' AND n > 10 AND n IS NOT NULL", &[]),
    ];
    for (condition, left) in table {
        let expr = session.parse_sql_expr(condition, &schema).unwrap();
        let expr = session.create_physical_expr(expr, &schema).unwrap();
        let kept = prune(&snapshot, &snapshot.schema, Some(&expr));
        assert_eq!(kept, left, "{condition}");
    }
    assert_eq!(prune(&snapshot, &snapshot.schema, None), [0, 1, 2, 3]);
}

/// The least and the greatest values that a scan gives as estimates for each column, in words.
async fn estimates(snapshot: LakeSnapshot, filter: Expr) -> Vec<String> {
    let lake = Fixture::new().lake;
    let table = LakeTable::new(Arc::new(snapshot), Arc::clone(&lake.stores), Arc::clone(&lake.caches));
    let scan = table.scan(&SessionContext::new().state(), None, &[filter], None).await.unwrap();
    let statistics = scan.statistics_from_inputs(&[], &StatisticsArgs::new()).unwrap();
    let words = |column: &ColumnStatistics| match (column.min_value.get_value(), column.max_value.get_value()) {
        (Some(min), Some(max)) => {
            assert_eq!((column.min_value.is_exact(), column.max_value.is_exact()), (Some(false), Some(false)));
            format!("{min} to {max}")
        }
        _ => "unknown".to_owned(),
    };
    statistics.column_statistics.iter().map(words).collect()
}

#[tokio::test]
async fn a_scan_tells_the_bounds_of_the_files_that_are_left() {
    let first = col("p").eq(lit("a"));
    let table = [
        (first.clone().and(col("n").eq(lit(3))), ["1 to 10", "a to l", "unknown"]),
        (first.or(col("p").is_null()).and(col("n").gt(lit(0))), ["1 to 20", "a to z", "unknown"]),
        (col("p").eq(lit("b")).and(col("n").gt(lit(0))), ["unknown"; 3]),
        (col("n").is_not_null(), ["unknown"; 3]),
    ];
    for (filter, expected) in table {
        assert_eq!(estimates(snapshot(), filter.clone()).await, expected, "{filter}");
    }
}

#[tokio::test]
async fn what_datafusion_could_take_for_a_constant_is_not_told() {
    let schema = Schema::new(vec![Field::new("one", DataType::Int64, true), Field::new("x", DataType::Float64, true)]);
    let one: ArrayRef = Arc::new(Int64Array::from(vec![5]));
    let one = ColumnBounds { min: Arc::clone(&one), max: one, null_counts: UInt64Array::from(vec![3]) };
    let x = ColumnBounds {
        min: Arc::new(Float64Array::from(vec![1.0])),
        max: Arc::new(Float64Array::from(vec![2.0])),
        null_counts: UInt64Array::from(vec![0]),
    };
    let mut files = snapshot().files;
    files.truncate(1);
    files[0].constants = Arc::default();
    let bounds = FileBounds { columns: [("one".to_owned(), one), ("x".to_owned(), x)].into_iter().collect(), row_counts: None };
    let snapshot = LakeSnapshot::of_files(Arc::new(schema), files, bounds);
    assert_eq!(estimates(snapshot, col("one").gt(lit(0))).await, ["unknown", "unknown"]);
}
