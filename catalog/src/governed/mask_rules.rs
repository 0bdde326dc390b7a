//! What a principal sees of masked tables: what a copy would show whose columns were masked before anyone looked.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::{ExecutionPlan, collect};
use lazaret_auth::{MaskAction, Masking, ObjectId, PolicyKind, Privilege, TableId};

use super::explain::render_physical;
use super::lab::{self, FILES, Lab, SECRET, lines, user};
use super::masks::MaskExec;
use super::{PolicyBinder, SecurityBarrierExec, Ungoverned};
use crate::namespace::CatalogError;

fn expression(text: &str) -> Masking {
    Masking::Expression(text.to_owned())
}

/// `t`, of which rui sees `s` and `x` masked, and `m`, which holds what rui sees of it.
async fn masked(raw: Arc<dyn TableProvider>) -> (Lab, TableId) {
    let mut lab = Lab::new();
    let schema = raw.schema();
    let t = lab.table("t", Arc::clone(&raw), false);
    lab.mask(t, &["s"], user("rui"), Masking::Action(MaskAction::MaskAlphanum), &schema);
    lab.mask(t, &["x"], user("rui"), expression("CASE WHEN region = 2 THEN x ELSE CAST(length(s) AS INT) END"), &schema);
    lab.mask(t, &["tags"], user("rui"), Masking::Action(MaskAction::ShowFirst4), &schema);
    lab.mask(t, &["d"], user("rui"), Masking::Action(MaskAction::TruncateToMonth), &schema);
    lab.mask(t, &["region"], user("rui"), Masking::Action(MaskAction::ReplaceWithNull), &schema);
    lab.grant("rui", ObjectId::Table(t), Privilege::Select, None);
    let seen = lab.run("rui", "SELECT * FROM t").await.unwrap();
    let copy = MemTable::try_new(seen[0].schema(), vec![seen]).unwrap();
    let m = lab.table("m", Arc::new(copy), false);
    lab.grant("rui", ObjectId::Table(m), Privilege::Select, None);
    (lab, t)
}

const PROBES: &[&str] = &[
    "SELECT count(*) AS n, count(s) AS s, count(region) AS r, count(DISTINCT s) AS d FROM t",
    "SELECT min(s) AS a, max(s) AS b, min(x) AS c, max(x) AS e, min(d) AS f, max(d) AS g, max(region) AS h FROM t",
    "SELECT count(*) AS n FROM t WHERE s = 'secret4001'",
    "SELECT count(*) AS n FROM t WHERE s LIKE 'secret%' OR s > 'y'",
    "SELECT count(*) AS n FROM t WHERE s = 'xxxxxxnnnn'",
    "SELECT count(*) AS n FROM t WHERE s IN ('xxxxxxnnnn', 'secret4001')",
    "SELECT count(*) AS n FROM t WHERE region = 2",
    "SELECT count(*) AS n FROM t WHERE region IS NULL AND x = 10",
    "SELECT count(*) AS n FROM t WHERE x = 5",
    "SELECT id FROM t WHERE 1 / (x - 5) >= 0 AND id < 40",
    "SELECT count(*) AS n FROM t WHERE d = DATE '1997-05-20'",
    "SELECT s, count(*) AS n FROM t GROUP BY s",
    "SELECT DISTINCT x, region FROM t",
    "SELECT s, id FROM t ORDER BY s, id LIMIT 3",
    "SELECT x, id FROM t ORDER BY x DESC, id LIMIT 3",
    "SELECT id, rank() OVER (PARTITION BY s ORDER BY x, id) AS r FROM t WHERE id < 300",
    "SELECT a.id FROM t a JOIN t b ON a.s = b.s AND a.id + 1 = b.id WHERE a.id < 900",
    "SELECT count(*) AS n FROM t a JOIN (VALUES ('secret4001'), ('xxxxxxn'), ('nnnn')) v(s) ON a.s = v.s",
    "SELECT count(*) AS n FROM (VALUES (5), (7)) v(x) JOIN t ON t.x = v.x",
    "SELECT tags[1] AS tag, d FROM t WHERE id BETWEEN 3999 AND 4003",
    "SELECT s FROM t WHERE id < 5 UNION SELECT note FROM t WHERE id < 20",
    "SELECT id FROM t WHERE id BETWEEN 4000 AND 4010 AND note IS NOT NULL",
    "SELECT CAST(s AS INT) AS i FROM t",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_masked_table_is_a_masked_copy() {
    let folder = tempfile::tempdir().unwrap();
    let lake = tempfile::tempdir().unwrap();
    for raw in [lab::memory_table(), lab::parquet_table(folder.path()).await, lab::delta_table(lake.path()).await] {
        let (mut lab, _) = masked(raw).await;
        for pushdown in [false, true] {
            lab.parquet_pushdown = pushdown;
            for probe in PROBES {
                let copy = probe.replace("FROM t", "FROM m").replace("JOIN t", "JOIN m").replace(" t.x", " m.x");
                let (governed, copied) = (lab.lines("rui", probe).await, lab.lines("rui", &copy).await);
                match (governed, copied) {
                    (Ok(governed), Ok(copied)) => {
                        assert_eq!(governed, copied, "{probe}");
                        assert!(!governed.iter().any(|line| line.contains(SECRET)), "{probe}");
                    }
                    (Err(governed), Err(_)) => assert!(!governed.to_string().contains(SECRET), "{probe}: {governed}"),
                    (governed, copied) => panic!("{probe}: {governed:?}, {copied:?}"),
                }
            }
        }
    }
}

/// Rows that leave the files.
async fn rows_read(lab: &Lab, sql: &str) -> usize {
    fn leaves(plan: &Arc<dyn ExecutionPlan>) -> usize {
        if plan.children().is_empty() {
            return plan.metrics().and_then(|metrics| metrics.output_rows()).unwrap_or(0);
        }
        plan.children().into_iter().map(leaves).sum()
    }
    let (namespace, plan) = lab.plan("rui", sql).await.unwrap();
    collect(Arc::clone(&plan), namespace.session_state().task_ctx()).await.unwrap();
    leaves(&plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pruned_by_a_masked_column() {
    let folder = tempfile::tempdir().unwrap();
    let (lab, _) = masked(lab::parquet_table(folder.path()).await).await;
    let all = (FILES * lab::FILE_ROWS) as usize;
    for condition in [
        "region = 3",
        "region IS NOT NULL",
        "x = 5",
        "s = 'secret1'",
        "s > 'zzz'",
        "d < DATE '1990-01-01'",
        "s = 'secret1' AND region = 4",
        "s IN (SELECT note FROM m WHERE id < 10)",
        "x IN (SELECT x FROM m WHERE id < 3)",
    ] {
        let read = rows_read(&lab, &format!("SELECT count(id) AS n FROM t WHERE {condition}")).await;
        let beside = if condition.contains("FROM m") { all } else { 0 };
        assert!(read >= all && read <= all + beside, "{condition}: {read} of {all}");
    }
    assert_eq!(
        rows_read(&lab, "SELECT max(s) AS m, min(region) AS r, count(*) AS n FROM t").await,
        all,
        "nothing is answered by statistics"
    );
    // TopK and joins make predicates while they run.
    for sql in ["SELECT s FROM t ORDER BY s DESC LIMIT 1", "SELECT count(*) AS n FROM (VALUES ('secret1')) v(s) JOIN t ON t.s = v.s"] {
        assert!(rows_read(&lab, sql).await >= all, "{sql}");
    }
    let read = rows_read(&lab, "SELECT s FROM t WHERE id < 10 AND region IS NULL AND s LIKE 'x%'").await;
    assert!(read <= lab::FILE_ROWS as usize / 4, "what is shown as it is prunes: {read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_policies_see_the_raw_values() {
    let raw = lab::memory_table();
    let schema = raw.schema();
    let mut lab = Lab::new();
    let t = lab.table("t", raw, true);
    lab.grant("rui", ObjectId::Table(t), Privilege::Select, Some(&["id", "s"]));
    lab.policy(ObjectId::Table(t), PolicyKind::Permissive, user("rui"), "s = 'secret4001' OR id = 4000", &schema);
    lab.mask(t, &["s"], user("rui"), expression("concat('x was ', CAST(x AS TEXT), ', ', note)"), &schema);
    lab.mask(t, &["region", "x"], user("rui"), Masking::Action(MaskAction::ReplaceWithNull), &schema);
    let rows = lab.lines("rui", "SELECT * FROM t").await.unwrap();
    assert_eq!(rows, ["|4000|x was 29, n7|", "|4001|x was 5, n8|", "|id|s|"], "what the mask reads need not be granted");
    assert_eq!(lab.lines("rui", "SELECT count(*) AS n FROM t WHERE s = 'secret4001'").await.unwrap(), ["|0|", "|n|"]);
    let (namespace, _) = lab.plan("rui", "SELECT * FROM t").await.unwrap();
    let touched = namespace.touched();
    let masks: Vec<_> = touched[0].policies.iter().map(|policy| policy.masks.iter().cloned().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(touched[0].policies.len(), 3);
    assert!(["", "s", "region x"].iter().all(|masked| masks.contains(&(*masked).to_owned())), "{masks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_masks_for_who_reads_it() {
    let raw = lab::memory_table();
    let schema = raw.schema();
    let mut lab = Lab::new();
    let t = lab.table("t", raw, false);
    let v = lab.view("v", "ana", "SELECT id, s, length(s) AS n FROM t WHERE s LIKE '%4001'", false);
    lab.grant("ana", ObjectId::Table(t), Privilege::Select, None);
    for reader in ["ana", "rui", "eva"] {
        lab.grant(reader, ObjectId::Table(v), Privilege::Select, None);
    }
    lab.mask(t, &["s"], user("ana"), expression("'of ana 4001'"), &schema);
    lab.mask(t, &["s"], user("rui"), Masking::Action(MaskAction::MaskAlphanum), &schema);
    assert_eq!(lab.lines("eva", "SELECT s FROM v").await.unwrap(), ["|secret4001|", "|s|"], "no mask is for eva");
    assert_eq!(lab.lines("rui", "SELECT s FROM v").await.unwrap(), [""; 0], "for rui nothing is like 4001");
    assert_eq!(lab.lines("ana", "SELECT count(*) AS c, max(n) AS n FROM v").await.unwrap(), ["|12000|11|", "|c|n|"]);
    let (_, plan) = lab.plan("rui", "SELECT s FROM v WHERE s = 'secret4001'").await.unwrap();
    let shown = render_physical(plan.as_ref(), false);
    assert!(shown.contains("SecurityBarrierExec: table=lake.public.v") && !shown.contains("Mask"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_its_masks_does_not_run() {
    let (lab, _) = masked(lab::memory_table()).await;
    for sql in ["SELECT s, id FROM t", "SELECT id FROM t", "SELECT a.s FROM t a JOIN t b ON a.id = b.id"] {
        let (namespace, plan) = lab.plan("rui", sql).await.unwrap();
        let unmasked = Arc::clone(&plan).transform_down(|node| match node.downcast_ref::<SecurityBarrierExec>() {
            // The barrier stays, and shows what its mask was made of.
            Some(barrier) if !node.children()[0].is::<MaskExec>() => panic!("{barrier:?} has no mask"),
            Some(barrier) => {
                let below = Arc::clone(node.children()[0].children()[0]);
                let name = barrier.table().into();
                let plain = super::leakproof::PlainColumns::Every;
                Ok(Transformed::yes(Arc::new(SecurityBarrierExec::new(name, plain, Arc::clone(barrier.masked()), below)) as _))
            }
            None => Ok(Transformed::no(node)),
        });
        if let Ok(unmasked) = unmasked {
            let error = namespace.verify_physical(unmasked.data.as_ref()).unwrap_err();
            assert!(matches!(error, Ungoverned::Unmasked(_)), "{sql}: {error}");
        }
        // Nor one whose barrier does not know that anything was masked: the leaf knows.
        let (_, leaf) = lab.plan("rui", sql).await.unwrap();
        assert!(namespace.verify_physical(plan.as_ref()).is_ok() && leaf.name() == plan.name());
        let forgotten = plan.transform_down(|node| match node.downcast_ref::<SecurityBarrierExec>() {
            Some(barrier) => {
                let below = Arc::clone(node.children()[0].children()[0]);
                let plain = super::leakproof::PlainColumns::Every;
                Ok(Transformed::yes(Arc::new(SecurityBarrierExec::new(barrier.table().into(), plain, Arc::default(), below)) as _))
            }
            None => Ok(Transformed::no(node)),
        });
        if let Ok(forgotten) = forgotten {
            let error = namespace.verify_physical(forgotten.data.as_ref()).unwrap_err();
            assert!(matches!(error, Ungoverned::Unmasked(_)), "{sql}: {error}");
        }
    }
}

/// One batch of `a TEXT` (id 1), `b INT` (id 2), under names and ids of a test.
fn with_ids(fields: &[(&str, &str, DataType)]) -> Arc<dyn TableProvider> {
    let field = |(name, id, data_type): &(&str, &str, DataType)| {
        Field::new(*name, data_type.clone(), true).with_metadata(HashMap::from([("PARQUET:field_id".to_owned(), (*id).to_owned())]))
    };
    let schema: SchemaRef = Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()));
    let columns = fields.iter().map(|(_, id, data_type)| {
        let values: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec![*id]));
        arrow::compute::cast(&values, data_type).unwrap()
    });
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap();
    Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_follows_its_columns_or_closes_the_table() {
    let before = with_ids(&[("a", "1", DataType::Utf8), ("b", "2", DataType::Int32)]);
    let seen = |after: Arc<dyn TableProvider>, masking: Masking| {
        let schema = before.schema();
        async move {
            let mut lab = Lab::new();
            let t = lab.table("t", after, false);
            for reader in ["rui", "eva"] {
                lab.grant(reader, ObjectId::Table(t), Privilege::Select, None);
            }
            lab.mask(t, &["a"], user("rui"), masking, &schema);
            assert!(lab.lines("eva", "SELECT * FROM t").await.is_ok(), "whom no mask is for reads on");
            lab.lines("rui", "SELECT * FROM t").await
        }
    };
    let reads_b = || expression("concat('b is ', CAST(b AS TEXT))");
    let renamed = with_ids(&[("now", "1", DataType::Utf8), ("a", "2", DataType::Int32)]);
    assert_eq!(seen(Arc::clone(&renamed), reads_b()).await.unwrap(), ["|b is 2|2|", "|now|a|"]);
    let gone = with_ids(&[("a", "3", DataType::Utf8), ("b", "2", DataType::Int32)]);
    let retyped = with_ids(&[("a", "1", DataType::Int64), ("b", "2", DataType::Int32)]);
    let unread = with_ids(&[("a", "1", DataType::Utf8), ("b", "4", DataType::Int32)]);
    for (after, masking) in [
        (Arc::clone(&gone), reads_b()),
        (gone, Masking::Action(MaskAction::ReplaceWithNull)),
        (Arc::clone(&retyped), Masking::Action(MaskAction::ReplaceWithNull)),
        (retyped, reads_b()),
        (unread, reads_b()),
    ] {
        let error = seen(after, masking.clone()).await.unwrap_err();
        let closed = CatalogError::of(&error);
        assert!(matches!(closed, Some(CatalogError::PolicyNotBinding { detail: None, .. })), "{masking:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_is_kept_to_the_letter() {
    use DataType::*;
    let list = List(Arc::new(Field::new_list_field(Utf8View, true)));
    let types = [
        ("i8", Int8),
        ("i32", Int32),
        ("i64", Int64),
        ("f", Float64),
        ("dec", Decimal128(12, 2)),
        ("t", Utf8View),
        ("ts", Timestamp(arrow::datatypes::TimeUnit::Microsecond, None)),
        ("tz", Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()))),
        ("d", Date32),
        ("l", list),
        ("b", Boolean),
    ];
    let schema = Schema::new(types.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect::<Vec<_>>());
    let state = Lab::new().namespace("ana").session_state();
    let binds = |column: &str, text: &str| PolicyBinder::new(&state).bind_new_mask(&expression(text), &[column], &schema);
    for (column, text) in [
        ("i8", "0"),
        ("i8", "-128"),
        ("i32", "CASE WHEN b THEN i32 ELSE 0 END"),
        ("i32", "CASE WHEN b THEN NULL WHEN i8 > 1 THEN 2 + 2 ELSE i8 END"),
        ("i64", "i32"),
        ("i64", "i64 / 1000 * 1000"),
        ("f", "0"),
        ("f", "round(f)"),
        ("dec", "0.25"),
        ("dec", "CAST(7 AS DECIMAL(5, 1))"),
        ("dec", "NULL"),
        ("t", "'x'"),
        ("t", "concat(left(t, 1), '…')"),
        ("t", "CASE WHEN has_role('r') THEN t ELSE current_user END"),
        ("ts", "date_trunc('year', ts)"),
        ("ts", "TIMESTAMP '2000-01-01 00:00:00'"),
        ("ts", "CAST(d AS TIMESTAMP)"),
        ("tz", "date_trunc('month', tz)"),
        ("tz", "now()"),
        ("d", "DATE '2000-01-01'"),
        ("l", "make_array('x')"),
        ("b", "i32 > 5"),
    ] {
        let bound = binds(column, text);
        assert!(bound.is_ok(), "{column} {text}: {bound:?}");
    }
    for (column, text) in [
        ("i8", "128"),
        ("i32", "i64"),
        ("i32", "CASE WHEN b THEN i32 ELSE i64 END"),
        ("i32", "0.5"),
        ("i32", "'1'"),
        ("i32", "CAST(length(claim('x')) AS BIGINT)"),
        ("i64", "f"),
        ("f", "i64"),
        ("dec", "0.255"),
        ("dec", "CAST(dec AS DECIMAL(12, 3))"),
        ("dec", "dec * 1.5"),
        ("t", "5"),
        ("t", "d"),
        ("ts", "tz"),
        ("tz", "TIMESTAMP '2000-01-01 00:00:00'"),
        ("ts", "d"),
        ("d", "'2000-01-01'"),
        ("l", "'x'"),
        ("l", "make_array(1)"),
        ("b", "1"),
    ] {
        let error = binds(column, text).expect_err(text).to_string();
        assert!(error.contains("a mask keeps the column's type"), "{column} {text}: {error}");
    }
}

/// A column that its table declares NOT NULL may be shown as NULL, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_nulled_is_nullable() {
    let raw = lab::memory_table();
    let schema = raw.schema();
    let mut lab = Lab::new();
    let t = lab.table("t", raw, false);
    lab.grant("rui", ObjectId::Table(t), Privilege::Select, None);
    lab.mask(t, &["id"], user("rui"), Masking::Action(MaskAction::ReplaceWithNull), &schema);
    lab.mask(t, &["x"], user("rui"), expression("1"), &schema);
    let namespace = lab.namespace("rui");
    let table = namespace.table("lake", "public", "t").await.unwrap().unwrap();
    assert!(table.schema().field(0).is_nullable() && !schema.field(0).is_nullable());
    let batches = lab.run("rui", "SELECT * FROM t").await.unwrap();
    assert_eq!(batches[0].schema().fields(), table.schema().fields());
    assert!(batches.iter().all(|batch| batch.column(0).null_count() == batch.num_rows()));
    assert!(batches.iter().all(|batch| batch.column(2).as_primitive::<Int32Type>().iter().all(|x| x == Some(1))));
    assert_eq!(lab.lines("rui", "SELECT count(*) AS n, count(id) AS m FROM t").await.unwrap(), ["|12000|0|", "|n|m|"]);
    assert_eq!(lines(&lab.run("rui", "SELECT count(*) AS n FROM t WHERE id IS NULL").await.unwrap()), ["|12000|", "|n|"]);
}
