#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringViewArray};
use arrow::compute::{SortOptions, concat_batches};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::WindowFrameUnits::{Range as ByRange, Rows};
use datafusion::logical_expr::{WindowFrame, WindowFrameBound};
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::functions::register_aggregates;
use super::*;

fn context(with_frames: bool, batch_rows: usize) -> SessionContext {
    let mut rules = PhysicalOptimizer::new().rules;
    if with_frames {
        rules.push(Arc::new(Frames));
    }
    let config = SessionConfig::new().with_batch_size(batch_rows).with_target_partitions(2);
    let builder = SessionStateBuilder::new().with_config(config).with_default_features();
    let mut state = builder.with_physical_optimizer_rules(rules).build();
    register_aggregates(&mut state).unwrap();
    SessionContext::new_with_state(state)
}

/// Rows of `t`: `g`, `d` and `n` are whole numbers and `x` is not; some are NULL.
fn rows(dice: &mut StdRng, count: usize) -> RecordBatch {
    let mut whole = |most: i64| -> ArrayRef {
        Arc::new((0..count).map(|_| (dice.random_range(0..8) > 0).then(|| dice.random_range(0..most))).collect::<Int64Array>())
    };
    let (g, d, n) = (whole(4), whole(30), whole(1_000));
    let x: ArrayRef = Arc::new(n.as_primitive::<Int64Type>().iter().map(|n| n.map(|n| n as f64 / 4.0)).collect::<Float64Array>());
    let fields = [("g", DataType::Int64), ("d", DataType::Int64), ("n", DataType::Int64), ("x", DataType::Float64)];
    let schema = Schema::new(fields.map(|(name, of)| Field::new(name, of, true)).to_vec());
    RecordBatch::try_new(Arc::new(schema), vec![g, d, n, x]).unwrap()
}

async fn answer(context: &SessionContext, table: &RecordBatch, sql: &str) -> Result<(bool, RecordBatch)> {
    context.deregister_table("t")?;
    context.register_table("t", Arc::new(MemTable::try_new(table.schema(), vec![vec![table.clone()]])?))?;
    let frame = context.sql(sql).await?;
    let plan = frame.create_physical_plan().await?;
    let is_framed = plan.exists(|node| Ok(node.is::<FramesExec>()))?;
    let found = datafusion::physical_plan::collect(Arc::clone(&plan), context.task_ctx()).await?;
    Ok((is_framed, concat_batches(&plan.schema(), &found)?))
}

type Row = (Option<i64>, Option<i64>, Option<i64>);

/// Of each row: the rows, the values of `n` and their sum in its frame, as the SQL standard defines it.
fn by_definition(
    table: &[Row],
    is_partitioned: bool,
    sorted: SortOptions,
    units: &str,
    offsets: (i64, i64),
) -> Vec<(Row, i64, i64, Option<i64>)> {
    let position = |row: &Row| match (row.1, sorted.nulls_first) {
        (None, true) => i64::MIN,
        (None, false) => i64::MAX,
        (Some(d), _) => {
            if sorted.descending {
                -d
            } else {
                d
            }
        }
    };
    let mut table = table.to_vec();
    table.sort_by_key(|row| (position(row), row.2.unwrap_or(i64::MAX), row.0));
    let found = table.iter().map(|row| {
        let partition: Vec<&Row> = table.iter().filter(|other| !is_partitioned || other.0 == row.0).collect();
        let at = partition.iter().position(|other| std::ptr::eq(*other, row)).unwrap() as i64;
        let is_in = |(index, other): &(usize, &Row)| match (units, row.1, other.1) {
            ("ROWS", _, _) => (offsets.0..=offsets.1).contains(&(*index as i64 - at)),
            (_, None, None) => true,
            (_, Some(_), Some(_)) => (offsets.0..=offsets.1).contains(&(position(other) - position(row))),
            _ => false,
        };
        let values: Vec<Option<i64>> = partition.iter().copied().enumerate().filter(is_in).map(|(_, other)| other.2).collect();
        let known: Vec<i64> = values.iter().copied().flatten().collect();
        (*row, values.len() as i64, known.len() as i64, (!known.is_empty()).then(|| known.iter().sum()))
    });
    found.collect()
}

#[tokio::test]
async fn frames_are_what_they_are_by_definition() {
    let mut dice = StdRng::seed_from_u64(7);
    let bounds = [(-5, "5 PRECEDING"), (-1, "1 PRECEDING"), (0, "CURRENT ROW"), (1, "1 FOLLOWING"), (4, "4 FOLLOWING")];
    let functions = "count(*) OVER w AS c, count(n) OVER w AS cn, sum(n) OVER w AS s, sum(x) OVER w AS sx, avg(x) OVER w AS ax";
    for turn in 0..100 {
        let count = dice.random_range(0..200);
        let table = rows(&mut dice, count);
        let units = if turn % 2 == 0 { "ROWS" } else { "RANGE" };
        let (first, last) = (dice.random_range(0..bounds.len()), dice.random_range(0..bounds.len()));
        let (first, last) = (bounds[first.min(last)], bounds[first.max(last)]);
        let is_partitioned = dice.random_range(0..3) > 0;
        let sorted = SortOptions { descending: dice.random(), nulls_first: dice.random() };
        let order =
            format!("d {} NULLS {}", if sorted.descending { "DESC" } else { "ASC" }, if sorted.nulls_first { "FIRST" } else { "LAST" });
        // Rows of one key are in no order of themselves.
        let order = if units == "ROWS" { format!("{order}, n NULLS LAST, g NULLS FIRST") } else { order };
        let by = if is_partitioned { "PARTITION BY g " } else { "" };
        let sql =
            format!("SELECT g, d, n, {functions} FROM t WINDOW w AS ({by}ORDER BY {order} {units} BETWEEN {} AND {})", first.1, last.1);
        let (is_framed, found) = answer(&context(true, dice.random_range(1..40)), &table, &sql).await.unwrap();
        assert!(is_framed, "{sql}");
        let whole = |batch: &RecordBatch, at: usize| batch.column(at).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
        let float = |at: usize| found.column(at).as_primitive::<Float64Type>().iter().collect::<Vec<_>>();
        let of = |batch: &RecordBatch| -> Vec<Row> { together(whole(batch, 0), whole(batch, 1), whole(batch, 2)) };
        let (sums, averages) = (float(6), float(7));
        let mut ours: Vec<_> = of(&found)
            .into_iter()
            .enumerate()
            .map(|(at, row)| {
                let (all, known, sum) = (whole(&found, 3)[at].unwrap(), whole(&found, 4)[at].unwrap(), whole(&found, 5)[at]);
                assert_eq!(sums[at], sum.map(|sum| sum as f64 / 4.0), "{sql}");
                assert_eq!(averages[at], sum.map(|sum| sum as f64 / 4.0 / known as f64), "{sql}");
                (row, all, known, sum)
            })
            .collect();
        let mut wanted = by_definition(&of(&table), is_partitioned, sorted, units, (first.0, last.0));
        ours.sort();
        wanted.sort();
        assert_eq!(ours, wanted, "{sql}");
    }
}

fn together(g: Vec<Option<i64>>, d: Vec<Option<i64>>, n: Vec<Option<i64>>) -> Vec<Row> {
    g.into_iter().zip(d).zip(n).map(|((g, d), n)| (g, d, n)).collect()
}

#[tokio::test]
async fn what_has_left_a_frame_is_in_no_sum() {
    let x: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0, 3.0, f64::INFINITY, 4.0, 5.0, 1e300, 6.0, 7.0]));
    let d: ArrayRef = Arc::new((0..10).collect::<Int64Array>());
    let schema = Schema::new(vec![Field::new("d", DataType::Int64, true), Field::new("x", DataType::Float64, true)]);
    let table = RecordBatch::try_new(Arc::new(schema), vec![d, x]).unwrap();
    for units in ["ROWS", "RANGE"] {
        let sql = format!("SELECT sum(x) OVER (ORDER BY d {units} BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t ORDER BY d");
        let (_, found) = answer(&context(true, 3), &table, &sql).await.unwrap();
        let found = found.column(0).as_primitive::<Float64Type>().values().to_vec();
        assert_eq!((found[0], found[3], found[6], found[9]), (1.0, 5.0, 9.0, 13.0), "{units}");
        assert!(found[1].is_nan() && found[2].is_nan() && found[4].is_infinite() && found[5].is_infinite());
    }
}

#[tokio::test]
async fn other_windows_are_datafusions() {
    let table = rows(&mut StdRng::seed_from_u64(1), 50);
    let frame = "ORDER BY d, n, x ROWS BETWEEN 2 PRECEDING AND CURRENT ROW";
    for other in [
        format!("sum(n) FILTER (WHERE n > 300) OVER ({frame})"),
        format!("count(DISTINCT n) OVER ({frame})"),
        format!("min(n) OVER ({frame})"),
        "sum(n) OVER (ORDER BY d, n, x ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)".to_owned(),
        "sum(n) OVER (ORDER BY d, n, x ROWS BETWEEN 1 PRECEDING AND UNBOUNDED FOLLOWING)".to_owned(),
        "sum(n) OVER (ORDER BY x RANGE BETWEEN 1 PRECEDING AND CURRENT ROW)".to_owned(),
        "sum(n) OVER (ORDER BY DATE '2020-01-01' + CAST(d AS INT) RANGE BETWEEN INTERVAL '1' MONTH PRECEDING AND CURRENT ROW)".to_owned(),
        "sum(n) OVER (ORDER BY d GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW)".to_owned(),
    ] {
        let sql = format!("SELECT {other} FROM t ORDER BY d, n, x");
        let (is_framed, ours) = answer(&context(true, 16), &table, &sql).await.unwrap();
        assert!(!is_framed, "{sql}");
        assert_eq!(ours, answer(&context(false, 16), &table, &sql).await.unwrap().1, "{sql}");
    }
    // Some of both, in the order in which they are asked for.
    let other =
        format!("min(n) OVER ({frame}), sum(n) OVER ({frame}), sum(n) FILTER (WHERE n > 300) OVER ({frame}), count(*) OVER ({frame})");
    let sql = format!("SELECT {other}, max(n) OVER ({frame}), g FROM t ORDER BY d, n, x");
    let (is_framed, ours) = answer(&context(true, 16), &table, &sql).await.unwrap();
    assert!(is_framed);
    assert_eq!(ours, answer(&context(false, 16), &table, &sql).await.unwrap().1);
}

#[tokio::test]
async fn sums_that_do_not_fit_are_errors() {
    let n: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, -1, 1, 1]));
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("d", DataType::Int64, true)]);
    let table = RecordBatch::try_new(Arc::new(schema), vec![n, Arc::new((0..4).collect::<Int64Array>())]).unwrap();
    let sums =
        |from: usize| format!("SELECT sum(n) OVER (ORDER BY d ROWS BETWEEN {from} PRECEDING AND CURRENT ROW) AS s FROM t ORDER BY d");
    let (_, found) = answer(&context(true, 8), &table, &sums(2)).await.unwrap();
    assert_eq!(found.column(0).as_primitive::<Int64Type>().values(), &[i64::MAX, i64::MAX - 1, i64::MAX, 1]);
    let error = answer(&context(true, 8), &table, &sums(3)).await.unwrap_err();
    assert!(error.to_string().contains("BIGINT out of range"), "{error}");
    // Parts of a frame do not fit, and all of it does.
    let decimals = "SELECT sum(m) OVER (ORDER BY d ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM \
                    (SELECT d, CAST(CASE WHEN d < 2 THEN '-9' ELSE '9' END || repeat('0', 37) AS DECIMAL(38, 0)) AS m FROM t) ORDER BY d";
    assert!(answer(&context(true, 8), &table, decimals).await.is_err_and(|error| error.to_string().contains("out of range")));
    let decimals = decimals.replace("d < 2", "d IN (0, 3)");
    assert_eq!(answer(&context(true, 8), &table, &decimals).await.unwrap().1.num_rows(), 4);
    let decimals = "SELECT sum(m) OVER (ORDER BY d ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM \
                    (SELECT d, CAST('3' || repeat('0', 37) AS DECIMAL(38, 0)) * (CAST(d AS DECIMAL(1, 0)) + 2) AS m FROM t)";
    let error = answer(&context(true, 8), &table, decimals).await.unwrap_err();
    assert!(error.to_string().contains("out of range"), "{error}");
}

#[tokio::test]
async fn decimals_and_dates_are_framed() {
    let table = rows(&mut StdRng::seed_from_u64(3), 80);
    for key in ["DATE '2020-02-27' + CAST(d AS INT)", "CAST(DATE '2020-02-27' + CAST(d AS INT) AS TIMESTAMP)"] {
        let sql = format!(
            "SELECT g, d, n, sum(CAST(n AS DECIMAL(10, 2))) OVER w AS s FROM t \
             WINDOW w AS (PARTITION BY g ORDER BY {key} RANGE BETWEEN INTERVAL '6' DAY PRECEDING AND CURRENT ROW) ORDER BY 1, 2, 3"
        );
        let (is_framed, ours) = answer(&context(true, 5), &table, &sql).await.unwrap();
        assert!(is_framed, "{sql}");
        assert_eq!(ours, answer(&context(false, 5), &table, &sql).await.unwrap().1, "{sql}");
    }
}

#[tokio::test]
async fn rows_that_wait_count_as_memory() {
    let table = rows(&mut StdRng::seed_from_u64(5), 50_000);
    let context = context(true, 1_000);
    let sql = "SELECT sum(n) OVER (ORDER BY d ROWS BETWEEN 20000 PRECEDING AND 20000 FOLLOWING) FROM t";
    context.register_table("t", Arc::new(MemTable::try_new(table.schema(), vec![vec![table]]).unwrap())).unwrap();
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let mut framed = None;
    plan.apply(|node| {
        framed = framed.take().or_else(|| node.downcast_ref::<FramesExec>().map(|framed| Arc::clone(&framed.input)));
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    assert!(framed.is_some());
    let pool: Arc<dyn datafusion::execution::memory_pool::MemoryPool> =
        Arc::new(datafusion::execution::memory_pool::GreedyMemoryPool::new(100_000));
    let runtime = datafusion::execution::runtime_env::RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().unwrap();
    let task = Arc::new(TaskContext::default().with_runtime(runtime));
    let sorted = datafusion::physical_plan::collect(framed.unwrap(), context.task_ctx()).await.unwrap();
    let input =
        datafusion::datasource::memory::MemorySourceConfig::try_new_exec(std::slice::from_ref(&sorted), sorted[0].schema(), None).unwrap();
    let plan = plan
        .transform_down(|node| match node.is::<FramesExec>() {
            true => Ok(Transformed::new(
                node.replace_children(vec![input.clone()], ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))?,
                true,
                TreeNodeRecursion::Jump,
            )),
            false => Ok(Transformed::no(node)),
        })
        .unwrap()
        .data;
    let error = datafusion::physical_plan::collect(plan, task).await.unwrap_err();
    assert!(error.to_string().contains("rows around each row"), "{error}");
}

#[test]
fn texts_of_other_rows_are_not_kept() {
    let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..1_000).map(|n| format!("a text that no view holds itself, {n}"))));
    let rows = RecordBatch::try_from_iter([("text", texts)]).unwrap().slice(7, 2);
    let kept = without_other_texts(&rows).unwrap();
    assert_eq!(kept, rows);
    assert!(kept.get_array_memory_size() * 10 < rows.get_array_memory_size());
}

#[test]
fn a_null_is_the_peer_of_nulls_alone() {
    let frame = WindowFrame::new_bounds(
        ByRange,
        WindowFrameBound::Preceding(ScalarValue::Int64(Some(2))),
        WindowFrameBound::Following(ScalarValue::Int64(Some(0))),
    );
    let column: ArrayRef = Arc::new(Int64Array::from(vec![None, None, Some(i64::MIN), Some(1), Some(3), Some(i64::MAX)]));
    let frame = Frame::new(&frame, Some((&DataType::Int64, SortOptions { descending: false, nulls_first: true }))).unwrap();
    let keys = frame.keys(Some(&column)).unwrap();
    assert_eq!(frame.of_rows(&keys, 0..6, 0, true), [0..2, 0..2, 2..3, 3..4, 3..5, 5..6]);
    // Of the last key more rows may follow.
    assert_eq!(frame.of_rows(&keys, 0..6, 1, false), [0..2, 2..3, 3..4, 3..5]);
    assert_eq!(
        Frame::new(
            &WindowFrame::new_bounds(Rows, WindowFrameBound::CurrentRow, WindowFrameBound::Following(ScalarValue::UInt64(None))),
            None
        ),
        None
    );
}
