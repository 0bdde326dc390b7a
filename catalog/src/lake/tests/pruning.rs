//! Which files a predicate leaves, on snapshots made by hand.

use arrow::array::{Int64Array, StringArray, UInt64Array};
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

/// How many values a scan says each column may have.
async fn values(snapshot: LakeSnapshot, filter: Expr) -> Vec<Option<usize>> {
    let lake = Fixture::new().lake;
    let table = LakeTable::new(Arc::new(snapshot), Arc::clone(&lake.stores), Arc::clone(&lake.caches));
    let scan = table.scan(&SessionContext::new().state(), None, &[filter], None).await.unwrap();
    let statistics = scan.statistics_from_inputs(&[], &StatisticsArgs::new()).unwrap();
    let told = |column: &ColumnStatistics| {
        assert_eq!((column.min_value.get_value(), column.max_value.get_value()), (None, None), "which DataFusion would narrow");
        assert_ne!(column.distinct_count.is_exact(), Some(true));
        column.distinct_count.get_value().copied()
    };
    statistics.column_statistics.iter().map(told).collect()
}

#[tokio::test]
async fn a_scan_tells_how_many_values_the_files_that_are_left_may_have() {
    let first = col("p").eq(lit("a"));
    let table = [
        (first.clone().and(col("n").eq(lit(3))), [Some(10), None, None]),
        (first.or(col("p").is_null()).and(col("n").gt(lit(0))), [Some(20), None, None]),
        (col("p").eq(lit("b")).and(col("n").gt(lit(0))), [None; 3]),
        (col("n").is_not_null(), [None; 3]),
    ];
    for (filter, expected) in table {
        assert_eq!(values(snapshot(), filter.clone()).await, expected, "{filter}");
    }
}
