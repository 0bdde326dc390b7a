//! Attacks on a table under policy. Each must end as it does on a copy that holds only the visible rows.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use lazaret_auth::{ObjectId, PolicyKind, Privilege};

use super::lab::{self, Lab, SECRET, filtered_copy, user};
use super::{FailureKind, ScanFailure};
use datafusion::physical_plan::collect;

/// Queries whose answer or error would tell of hidden rows if anything of them ran on those. `u` is a small open table.
const PROBES: &[&str] = &[
    // arithmetic that fails on hidden rows only, wherever an optimizer might move it
    "SELECT id FROM t WHERE 1 / (x - 5) >= 0",
    "SELECT id FROM t WHERE x <> 5 AND 1 / (x - 5) >= 0",
    "SELECT id FROM t WHERE region = 2 AND 1 / (x - 5) >= 0",
    "SELECT id FROM t WHERE region = 12 AND 1 / (x - 5) >= 0",
    "SELECT id FROM t WHERE id < 100000 AND (x = 5 OR 1 / (x - 5) >= 0)",
    "SELECT 1 / (x - 5) AS y FROM t",
    "SELECT sum(1 / (x - 5)) AS y FROM t",
    "SELECT CASE WHEN 1 / (x - 5) > 0 THEN 'a' ELSE 'b' END AS c, count(*) AS n FROM t GROUP BY 1",
    "SELECT CASE WHEN x = 5 THEN s END AS c FROM t WHERE x = 5",
    "SELECT max(CASE WHEN 1 / (x - 5) = 0 THEN id END) AS m FROM t",
    "SELECT id FROM t ORDER BY 1 / (x - 5), id LIMIT 3",
    "SELECT 1 / (x - 5) AS k, count(*) AS n FROM t GROUP BY 1 / (x - 5) HAVING sum(1 / (x - 5)) >= 0",
    "SELECT coalesce(nullif(x, 5), 1 / (x - 5)) AS y FROM t",
    "SELECT id FROM t WHERE (SELECT max(1 / (t.x - 5)) FROM u) IS NOT NULL",
    "SELECT id FROM t WHERE x % (x - 5) >= 0",
    "SELECT id FROM t WHERE id BETWEEN 0 AND 100000 / (x - 5)",
    "SELECT id FROM t WHERE id IN (1 / (x - 5), 4002, 4004)",
    "SELECT id FROM t WHERE (x = 5) = (1 / (x - 5) = 0)",
    // casts that put a value into the error
    "SELECT id FROM t WHERE CAST(s AS INT) > 4100",
    "SELECT s FROM t WHERE s::bigint = id AND id < 4010",
    "SELECT max(CAST(s AS BIGINT)) AS m FROM t",
    "SELECT CAST(note AS INT) AS n FROM t WHERE note IS NULL",
    "SELECT CAST(s AS DATE) AS d FROM t WHERE id > 5000000",
    "SELECT id FROM t WHERE CAST(tags[1] AS BIGINT) = id AND id < 4010",
    "SELECT id FROM t WHERE tags[1] LIKE 'secret%'",
    "SELECT id FROM t WHERE array_length(tags) = 2 AND CAST(tags[1] AS INT) > 0",
    "SELECT id FROM t WHERE to_timestamp(s) IS NULL",
    "SELECT id FROM t WHERE CAST(x AS DECIMAL(2, 0)) = 3",
    "SELECT id FROM t WHERE CAST(id * 100000 AS INT) = 3",
    "SELECT arrow_cast(s, 'Int32') AS v FROM t WHERE id = 4002",
    // joins: fallible keys, residual conditions, every kind, unlike widths
    "SELECT t.id FROM t JOIN u ON 1 / (t.x - 5) = u.k",
    "SELECT t.id FROM u JOIN t ON u.k = 1 / (t.x - 5)",
    "SELECT t.id FROM t JOIN u ON CAST(t.s AS BIGINT) = u.id",
    "SELECT t.id, u.k FROM t JOIN u ON t.id = u.id",
    "SELECT t.id, u.k FROM u LEFT JOIN t ON t.id = u.id",
    "SELECT u.id FROM u LEFT JOIN t ON t.id = u.id AND 1 / (t.x - 5) >= 0",
    "SELECT t.id, u.k FROM t RIGHT JOIN u ON t.x = u.k",
    "SELECT count(*) AS n, count(t.id) AS m FROM t FULL JOIN u ON t.id = u.id",
    "SELECT count(*) AS n FROM t JOIN u ON t.x = u.k64",
    "SELECT t.id FROM t JOIN u ON t.id = u.id AND 1 / (t.x - 5) >= u.k - 100",
    "SELECT count(*) AS n FROM t a JOIN t b ON a.id = b.id + 2 AND 1 / (a.x - b.x + 1000) = 0",
    "SELECT u.id FROM u WHERE EXISTS (SELECT 1 FROM t WHERE t.id = u.id AND 1 / (t.x - 5) >= 0)",
    "SELECT u.id FROM u WHERE EXISTS (SELECT 1 FROM t WHERE t.x = 5)",
    "SELECT u.id FROM u WHERE NOT EXISTS (SELECT 1 FROM t WHERE t.id = u.id)",
    "SELECT u.id FROM u WHERE u.id IN (SELECT id FROM t WHERE 1 / (x - 5) >= 0)",
    "SELECT u.id FROM u WHERE u.id NOT IN (SELECT id FROM t)",
    "SELECT u.id FROM u WHERE u.s IN (SELECT s FROM t)",
    "SELECT t.id FROM t WHERE s IN (SELECT s FROM u)",
    "SELECT u.id, (SELECT max(1 / (t.x - 5)) FROM t WHERE t.id = u.id) AS m FROM u",
    "SELECT (SELECT count(*) FROM t) AS n, (SELECT min(x) FROM t) AS m",
    "SELECT count(*) AS n FROM t CROSS JOIN u WHERE 1 / (t.x - 5) >= u.k - 1000",
    "SELECT u.id FROM u, LATERAL (SELECT max(x) AS m FROM t WHERE t.id = u.id) l WHERE l.m > 0",
    // counts, bounds and statistics
    "SELECT count(*) AS n FROM t",
    "SELECT count(*) AS n, count(note) AS m, count(DISTINCT region) AS r FROM t",
    "SELECT min(x) AS a, max(x) AS b, min(s) AS c, max(s) AS e, min(id) AS f, max(id) AS g FROM t",
    "SELECT min(upper(s)) AS a, max(d) AS b FROM t",
    "SELECT min(id) AS a FROM t WHERE x = 5",
    "SELECT max(s) AS a FROM t WHERE s > 'r'",
    "SELECT count(*) AS n FROM t WHERE x = 5",
    "SELECT count(*) AS n FROM t WHERE s LIKE 'secret%'",
    "SELECT count(*) AS n FROM t WHERE region = 12",
    "SELECT count(*) AS n FROM t WHERE region IN (2, 3, 12)",
    "SELECT count(*) AS n FROM t WHERE region IS DISTINCT FROM 2",
    "SELECT region, count(*) AS n FROM t GROUP BY region",
    "SELECT approx_distinct(region) AS n FROM t",
    "SELECT DISTINCT region FROM t",
    "SELECT DISTINCT x FROM t LIMIT 1000",
    "SELECT region, x, count(*) AS n FROM t GROUP BY GROUPING SETS ((region), (x), ())",
    "SELECT bool_or(x = 5) AS b FROM t",
    "SELECT string_agg(s, ',' ORDER BY s) AS a FROM t WHERE id > 5990",
    "SELECT array_agg(DISTINCT region) AS a FROM t",
    // limits, orders, windows, sets
    "SELECT count(*) AS n FROM (SELECT * FROM t LIMIT 10) q",
    "SELECT count(*) AS n FROM (SELECT * FROM t LIMIT 10 OFFSET 995) q",
    "SELECT id FROM t ORDER BY id LIMIT 5",
    "SELECT id FROM t ORDER BY id DESC LIMIT 5 OFFSET 3",
    "SELECT s, id FROM t ORDER BY s DESC LIMIT 3",
    "SELECT x, id FROM t ORDER BY x, id LIMIT 3",
    "SELECT note, id FROM t ORDER BY note NULLS FIRST, id LIMIT 3",
    "SELECT id FROM (SELECT id, 1 / (x - 5) AS y FROM t) q WHERE y >= 0 ORDER BY y, id LIMIT 4",
    "SELECT max(id) AS m, region FROM t GROUP BY region ORDER BY m DESC LIMIT 2",
    "SELECT id, row_number() OVER (ORDER BY id) AS n FROM t WHERE id < 4020",
    "SELECT id, lag(s) OVER (ORDER BY id) AS p, sum(x) OVER (ORDER BY id ROWS 1 PRECEDING) AS y FROM t WHERE id < 4020",
    "SELECT id, count(*) OVER (PARTITION BY region) AS n FROM t WHERE id < 4020",
    "SELECT * FROM (SELECT id, rank() OVER (PARTITION BY region ORDER BY id) AS r FROM t) q WHERE r <= 2",
    "SELECT first_value(s) OVER (ORDER BY x, id) AS f FROM t LIMIT 1",
    "SELECT id FROM t WHERE id < 4010 UNION ALL SELECT id FROM u",
    "SELECT id FROM u INTERSECT SELECT id FROM t",
    "SELECT id FROM u EXCEPT SELECT id FROM t",
    "SELECT region FROM t UNION SELECT region FROM t",
    // names and scopes
    "WITH t AS (SELECT id, x FROM t WHERE 1 / (x - 5) >= 0) SELECT count(*) AS n FROM t",
    "WITH q AS (SELECT * FROM lake.public.t) SELECT count(*) AS n FROM q a JOIN q b ON a.id = b.id WHERE 1 / (a.x - 5) >= 0",
    "WITH RECURSIVE r AS (SELECT 4000 AS id UNION ALL SELECT r.id + 2 FROM r JOIN t ON t.id = r.id + 2 WHERE r.id < 4010) SELECT count(*) AS n FROM r",
    "SELECT q.y FROM (SELECT 1 / (x - 5) AS y, id FROM t) q WHERE q.id = 4002",
    "SELECT count(*) AS n FROM (VALUES (4001), (4002)) v(id) JOIN t ON t.id = v.id",
    "SELECT unnest(tags) AS tag FROM t WHERE id < 4006",
    "SELECT count(*) AS n FROM generate_series(4000, 4010) g JOIN t ON t.id = g.value",
    // literals that contradict the policy or each other
    "SELECT count(*) AS n FROM t WHERE region = 2 AND region = 3",
    "SELECT count(*) AS n FROM t WHERE false",
    "SELECT count(*) AS n FROM t WHERE NULL",
    "SELECT count(*) AS n FROM t WHERE true OR 1 / (x - 5) > 0",
    "SELECT id FROM t WHERE region = 13 OR id = 4001 OR x = 5",
    "SELECT id FROM t WHERE NOT (region = 2)",
    // errors on visible rows stay errors, with visible values only
    "SELECT 1 / (id - 4002) AS y FROM t",
    "SELECT CAST(note AS INT) AS n FROM t",
    // functions that are not pure
    "SELECT count(*) AS n FROM t WHERE random() < 2",
    "SELECT count(*) AS n FROM t WHERE random() < 2 AND 1 / (x - 5) >= 0",
];

fn small_table() -> Arc<dyn TableProvider> {
    use arrow::array::{Int32Array, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("k", DataType::Int32, true),
        Field::new("k64", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
    ]));
    let ids = [4000, 4001, 4002, 4003, 4010, 1, 11_999];
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(Int64Array::from(ids.to_vec())),
            Arc::new(Int32Array::from(vec![0, 1, 5, 6, 7, 8, 9])),
            Arc::new(Int64Array::from(vec![0, 1, 5, 6, 7, 8, 9])),
            Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("{SECRET}{id}")))),
        ],
    );
    Arc::new(datafusion::datasource::MemTable::try_new(schema, vec![vec![batch.unwrap()]]).unwrap())
}

/// What a client can tell errors apart by.
fn class(error: &DataFusionError) -> String {
    let root = error.find_root();
    let text = root.strip_backtrace();
    // Values and positions differ from run to run; the words do not.
    text.chars().filter(|c| c.is_alphabetic() || *c == ' ').collect()
}

fn lab_with(provider: Arc<dyn TableProvider>) -> Lab {
    let (mut lab, _) = Lab::with_governed_table(provider);
    let open = lab.table("u", small_table(), false);
    lab.grant("rui", ObjectId::Table(open), Privilege::Select, None);
    lab
}

async fn compare_all(lab: &Lab, raw: Arc<dyn TableProvider>) {
    let copy = filtered_copy(&[("t", raw, "region = 2"), ("u", small_table(), "true")], lab.template()).await;
    let mut wrong = Vec::new();
    let mut errors = 0;
    for sql in PROBES {
        let governed = lab.lines("rui", sql).await;
        let plan = copy.state().create_logical_plan(sql).await;
        let expected = match plan {
            Ok(plan) => match copy.state().create_physical_plan(&plan).await {
                Ok(plan) => collect(plan, copy.task_ctx()).await.map(|batches| lab::lines(&batches)),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match (&governed, &expected) {
            (Ok(governed), Ok(expected)) if governed == expected => {}
            (Err(governed), Err(expected)) if class(governed) == class(expected) => errors += 1,
            _ => wrong.push(format!("{sql}\n  governed: {governed:?}\n  copy:     {expected:?}")),
        }
        let shown = match governed {
            Ok(lines) => lines.join("\n"),
            Err(error) => error.to_string(),
        };
        // Only `u` holds such texts where the reader may see them.
        if shown.contains(SECRET) && !sql.contains("FROM u") {
            wrong.push(format!("{sql}\n  shows {shown}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} probes:\n{}", wrong.len(), PROBES.len(), wrong.join("\n"));
    assert!(errors >= 2, "the probes that must fail on visible rows did not");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_over_memory_end_as_on_a_filtered_copy() {
    let raw = lab::memory_table();
    compare_all(&lab_with(Arc::clone(&raw)), raw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_over_parquet_end_as_on_a_filtered_copy() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::parquet_table(folder.path()).await;
    compare_all(&lab_with(Arc::clone(&raw)), raw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_over_the_lake_end_as_on_a_filtered_copy() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::delta_table(folder.path()).await;
    for parquet_pushdown in [false, true] {
        let mut lab = lab_with(Arc::clone(&raw));
        lab.parquet_pushdown = parquet_pushdown;
        compare_all(&lab, Arc::clone(&raw)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_end_so_with_the_row_filter_of_parquet_turned_on() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::parquet_table(folder.path()).await;
    let mut lab = lab_with(Arc::clone(&raw));
    lab.parquet_pushdown = true;
    compare_all(&lab, raw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_end_so_in_one_partition_and_in_large_batches() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::parquet_table(folder.path()).await;
    let mut lab = lab_with(Arc::clone(&raw));
    (lab.target_partitions, lab.batch_size) = (1, 8192);
    compare_all(&lab, raw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probes_would_catch_a_policy_that_is_only_a_filter() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::parquet_table(folder.path()).await;
    let naive = datafusion::prelude::SessionContext::new();
    naive.register_table("raw", raw).unwrap();
    naive.sql("CREATE VIEW t AS SELECT * FROM raw WHERE region = 2").await.unwrap();
    let mut leaks = 0;
    for sql in PROBES.iter().filter(|sql| !sql.contains("FROM u")) {
        let Ok(frame) = naive.sql(sql).await else { continue };
        if let Err(error) = frame.collect().await {
            leaks += usize::from(error.to_string().contains(SECRET) || error.to_string().contains("Divide by zero"));
        }
    }
    assert!(leaks > 3, "only {leaks} probes leak without a barrier: they are too weak");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_prepared_statements_are_no_way_around() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::parquet_table(folder.path()).await;
    let lab = lab_with(raw);
    for (sql, value, expected) in [
        ("SELECT count(*) AS n FROM t WHERE 1 / (x - $1) >= 0 OR true", 5_i32, "|1000|"),
        ("SELECT count(*) AS n FROM t WHERE x = $1", 5, "|0|"),
        ("SELECT count(*) AS n FROM t WHERE region = $1", 12, "|0|"),
        ("SELECT count(*) AS n FROM t WHERE 1 / (x - $1) >= 0", 5, "|1000|"),
    ] {
        let namespace = lab.namespace("rui");
        let state = namespace.session_state();
        let plan = state.create_logical_plan(sql).await.unwrap();
        let plan = state.optimize(&plan).unwrap();
        let plan = plan.with_param_values(vec![datafusion::common::ScalarValue::Int32(Some(value))]).unwrap();
        namespace.verify_logical(&plan).unwrap();
        let plan = state.create_physical_plan(&plan).await.unwrap();
        namespace.verify_physical(plan.as_ref()).unwrap();
        let lines = lab::lines(&collect(plan, state.task_ctx()).await.unwrap());
        assert!(lines.contains(&expected.to_owned()), "{sql}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_tells_nothing() {
    let raw = lab::memory_table();
    for policy in ["CAST(s AS BIGINT) = id", "1 / (x - 5) >= 0", "CAST(tags[1] AS BIGINT) > 0"] {
        let (mut lab, schema) = (Lab::new(), raw.schema());
        let id = lab.table("t", Arc::clone(&raw), true);
        lab.grant("rui", ObjectId::Table(id), Privilege::Select, None);
        lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("rui"), policy, &schema);
        let error = lab.run("rui", "SELECT count(*) FROM t").await.unwrap_err();
        let failure = ScanFailure::of(&error).expect("concealed");
        assert_eq!(failure.kind, FailureKind::Internal);
        let text = error.to_string();
        assert!(text.contains("reading \"lake.public.t\" failed (id ") && !text.contains(SECRET) && !text.contains("zero"), "{text}");
    }
}
