//! What a principal sees of tables and views, of plans and of errors.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::datasource::physical_plan::{FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_plan::{ExecutionPlan, collect};
use lazaret_auth::{ObjectId, PolicyKind, Privilege};

use super::explain::{render, render_logical, render_physical};
use super::lab::{self, FILES, Lab, SECRET, lines, user};
use super::{SecurityBarrierExec, Ungoverned};
use crate::namespace::CatalogError;

async fn parquet() -> (tempfile::TempDir, Arc<dyn TableProvider>) {
    let folder = tempfile::tempdir().unwrap();
    let table = lab::parquet_table(folder.path()).await;
    (folder, table)
}

/// `name=value` metrics of the leaves, added up.
fn leaf_metric(plan: &Arc<dyn ExecutionPlan>, name: &str) -> usize {
    if plan.children().is_empty() {
        let metrics = plan.metrics().unwrap_or_default();
        let found = metrics.iter().filter(|metric| metric.value().name() == name);
        return found.map(|metric| pruned_or_count(metric.value())).sum();
    }
    plan.children().into_iter().map(|child| leaf_metric(child, name)).sum()
}

fn pruned_or_count(value: &datafusion::physical_plan::metrics::MetricValue) -> usize {
    use datafusion::physical_plan::metrics::MetricValue;
    match value {
        MetricValue::PruningMetrics { pruning_metrics, .. } => pruning_metrics.pruned(),
        other => other.as_usize(),
    }
}

async fn measured(lab: &Lab, sql: &str) -> (Vec<String>, Arc<dyn ExecutionPlan>) {
    let (namespace, plan) = lab.plan("rui", sql).await.unwrap();
    let batches = collect(Arc::clone(&plan), namespace.session_state().task_ctx()).await.unwrap();
    (lines(&batches), plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_goes_through_the_barrier() {
    let (_folder, raw) = parquet().await;
    let (lab, _) = Lab::with_governed_table(raw);

    let (rows, plan) = measured(&lab, "SELECT count(*) AS n FROM t").await;
    assert_eq!(rows, ["|1000|", "|n|"]);
    // The policy alone leaves the one file of region 2; files are told apart by their bounds, [i, i + 10].
    let all = leaf_metric(&plan, "output_rows");
    assert!(all <= 3 * lab::FILE_ROWS as usize, "{all} rows read of {}", FILES * lab::FILE_ROWS);

    let (rows, plan) = measured(&lab, "SELECT count(*) AS n FROM t WHERE id BETWEEN 4000 AND 4499 AND 1 / (x - 5) >= 0").await;
    assert_eq!(rows, ["|250|", "|n|"]);
    assert!(leaf_metric(&plan, "output_rows") <= lab::FILE_ROWS as usize / 4, "row groups are pruned by id");

    let (rows, plan) = measured(&lab, "SELECT count(*) AS n FROM t WHERE 1 / (x - 5) >= 0 AND id + 0 < 4500").await;
    assert_eq!(rows, ["|250|", "|n|"]);
    assert_eq!(leaf_metric(&plan, "output_rows"), all, "what may leak chooses nothing below");

    let (rows, plan) = measured(&lab, "SELECT id FROM t ORDER BY id LIMIT 1").await;
    assert_eq!(rows, ["|4000|", "|id|"]);
    assert!(render_physical(plan.as_ref(), false).contains("TopK"));
}

/// A batch that ended where the source's does would tell how many hidden rows lie between two visible ones.
#[tokio::test(flavor = "multi_thread")]
async fn the_borders_of_batches_tell_nothing() {
    let (mut lab, _) = Lab::with_governed_table(lab::memory_table());
    (lab.batch_size, lab.target_partitions) = (100, 1);
    for sql in ["SELECT 1 FROM t", "SELECT id FROM t"] {
        let sizes: Vec<usize> = lab.run("rui", sql).await.unwrap().iter().map(RecordBatch::num_rows).collect();
        assert_eq!(sizes, [100; 10], "{sql}");
    }
    lab.batch_size = 300;
    let sizes: Vec<usize> = lab.run("rui", "SELECT 1 FROM t").await.unwrap().iter().map(RecordBatch::num_rows).collect();
    assert_eq!(sizes, [300, 300, 300, 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lake_prunes_files_by_policy_and_by_query() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::delta_table(folder.path()).await;
    let mut lab = Lab::new();
    let id = lab.table("t", Arc::clone(&raw), true);
    lab.grant("rui", ObjectId::Table(id), Privilege::Select, None);
    lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("rui"), "region IN (2, 3)", &raw.schema());
    let files = |plan: &Arc<dyn ExecutionPlan>| crate::lake::scan::ScanReport::of(plan);
    let (rows, plan) = measured(&lab, "SELECT count(*) AS n FROM t").await;
    assert_eq!(rows, ["|2000|", "|n|"]);
    assert!(files(&plan).files_total >= 12 && files(&plan).files_scanned == 2, "{:?}", files(&plan));
    let (rows, plan) = measured(&lab, "SELECT count(*) AS n FROM t WHERE id < 5000").await;
    assert_eq!(rows, ["|500|", "|n|"]);
    assert_eq!(files(&plan).files_scanned, 1, "{:?}", files(&plan));
}

/// Of the one scan: whether Parquet's row filter is on, and how many predicates it has.
fn row_filter(plan: &Arc<dyn ExecutionPlan>) -> (bool, usize) {
    match plan.downcast_ref::<DataSourceExec>() {
        Some(scan) => {
            let (_, source) = scan.downcast_to_file_source::<ParquetSource>().unwrap();
            let on = source.table_parquet_options().global.pushdown_filters;
            (on, source.filter().map_or(0, |filter| split_conjunction(&filter).len()))
        }
        None => row_filter(plan.children()[0]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn few_rows_are_materialized_late() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::delta_table(folder.path()).await;
    let mut lab = Lab::new();
    let id = lab.table("t", Arc::clone(&raw), true);
    lab.grant("rui", ObjectId::Table(id), Privilege::Select, None);
    lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("rui"), "region IN (2, 3)", &raw.schema());
    let (rows, plan) = measured(&lab, "SELECT s FROM t WHERE id = 4004").await;
    assert_eq!((rows, row_filter(&plan)), (vec!["|4004|".to_owned(), "|s|".to_owned()], (true, 2)));
    let (rows, plan) = measured(&lab, "SELECT count(s) AS n FROM t WHERE id BETWEEN 4004 AND 4013").await;
    assert_eq!((rows, row_filter(&plan)), (vec!["|5|".to_owned(), "|n|".to_owned()], (true, 3)));
    for (sql, predicates) in [
        ("SELECT s FROM t", 1),
        ("SELECT s FROM t WHERE id > 4004", 2),
        ("SELECT s FROM t WHERE id <> 4004", 2),
        // Nothing is left to be read late.
        ("SELECT id FROM t WHERE id = 4004", 2),
    ] {
        assert_eq!(row_filter(&measured(&lab, sql).await.1), (false, predicates), "{sql}");
    }
}

/// Where the filter of a query has gone down, nothing above evaluates it again; what may leak stays above.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_evaluated_once_above_the_policy() {
    let (_folder, raw) = parquet().await;
    let (lab, _) = Lab::with_governed_table(raw);
    let shown = async |sql: &str| {
        let (rows, plan) = measured(&lab, sql).await;
        (rows, render_physical(plan.as_ref(), false))
    };
    let (rows, plan) = shown("SELECT id FROM t WHERE id < 4004 AND note IS NOT NULL LIMIT 5").await;
    assert_eq!(rows, ["|4000|", "|id|"]);
    assert!(!plan.contains("FilterExec") && plan.contains("filter=[id < Int64(4004), note IS NOT NULL]"), "{plan}");
    let (rows, plan) = shown("SELECT id FROM t WHERE id < 4004 AND 1 / (x - 5) >= 0").await;
    assert_eq!(rows, ["|4000|", "|4002|", "|id|"]);
    assert!(plan.contains("FilterExec") && plan.contains("filter=[id < Int64(4004)]"), "{plan}");
    // Behind a projection the physical rules find the barrier.
    let (rows, plan) = shown("SELECT n FROM (SELECT id + 0 AS n, id FROM t OFFSET 0) q WHERE id < 4002").await;
    assert_eq!(rows, ["|4000|", "|n|"]);
    assert!(plan.contains("SecurityBarrierExec"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dynamic_filters_of_joins_go_through_on_plain_columns() {
    let (_folder, raw) = parquet().await;
    let (lab, _) = Lab::with_governed_table(raw);
    let (rows, plan) = measured(&lab, "SELECT t.id FROM (VALUES (4002)) v(id) JOIN t ON t.id = v.id").await;
    assert_eq!(rows, ["|4002|", "|id|"]);
    assert!(leaf_metric(&plan, "output_rows") <= lab::FILE_ROWS as usize / 4 + 1, "row groups are pruned by the other side");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_exempt_and_no_permissive_policy_shows_nothing() {
    let (_folder, raw) = parquet().await;
    let mut lab = Lab::new();
    let id = lab.table("t", Arc::clone(&raw), true);
    lab.grant("admin", ObjectId::Table(id), Privilege::All, None);
    lab.grant("rui", ObjectId::Catalog(lab.catalog), Privilege::Select, None);
    for name in ["admin", "rui"] {
        assert_eq!(lab.lines(name, "SELECT id FROM t").await.unwrap(), Vec::<String>::new());
        assert_eq!(lab.lines(name, "SELECT count(*) AS n, min(id) AS m FROM t").await.unwrap(), ["|0||", "|n|m|"]);
    }
    // A restrictive policy permits nothing.
    lab.policy(ObjectId::Table(id), PolicyKind::Restrictive, lazaret_auth::Grantee::All, "true", &raw.schema());
    assert_eq!(lab.lines("admin", "SELECT count(*) AS n FROM t").await.unwrap(), ["|0|", "|n|"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn permissive_policies_add_and_restrictive_ones_cut() {
    let raw = lab::memory_table();
    let (mut lab, id) = Lab::with_governed_table(Arc::clone(&raw));
    let count = "SELECT count(*) AS n FROM t";
    assert_eq!(lab.lines("rui", count).await.unwrap(), ["|1000|", "|n|"]);
    lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("rui"), "region = 3", &raw.schema());
    assert_eq!(lab.lines("rui", count).await.unwrap(), ["|2000|", "|n|"]);
    lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("ana"), "true", &raw.schema());
    assert_eq!(lab.lines("rui", count).await.unwrap(), ["|2000|", "|n|"]);
    lab.policy(ObjectId::Schema(lab.schema), PolicyKind::Restrictive, lazaret_auth::Grantee::All, "id < 4100", &raw.schema());
    assert_eq!(lab.lines("rui", count).await.unwrap(), ["|50|", "|n|"]);
    // NULL is not visible, whichever way it is asked.
    lab.policy(ObjectId::Table(id), PolicyKind::Restrictive, user("rui"), "note <> 'n1'", &raw.schema());
    let visible = "SELECT count(*) AS n FROM t WHERE note IS NULL OR note = 'n1'";
    assert_eq!(lab.lines("rui", visible).await.unwrap(), ["|0|", "|n|"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_asks_who_is_asking() {
    let raw = lab::memory_table();
    let mut lab = Lab::new();
    let id = lab.table("t", Arc::clone(&raw), true);
    for name in ["rui", "ana"] {
        lab.grant(name, ObjectId::Table(id), Privilege::Select, None);
    }
    let policy = "(current_user = 'rui' AND region = 2) OR (claim('sub') = 'ana' AND region IN (3, 4) AND NOT has_role('none'))";
    lab.policy(ObjectId::Table(id), PolicyKind::Permissive, lazaret_auth::Grantee::All, policy, &raw.schema());
    assert_eq!(lab.lines("rui", "SELECT DISTINCT region, current_user AS u FROM t").await.unwrap(), ["|2|rui|", "|region|u|"]);
    assert_eq!(lab.lines("ana", "SELECT DISTINCT region FROM t").await.unwrap(), ["|3|", "|4|", "|region|"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_are_not_granted_do_not_exist() {
    let (_folder, raw) = parquet().await;
    let mut lab = Lab::new();
    let id = lab.table("t", Arc::clone(&raw), false);
    lab.grant("rui", ObjectId::Table(id), Privilege::Select, Some(&["id", "x"]));
    let rows = lab.lines("rui", "SELECT * FROM t ORDER BY id LIMIT 1").await.unwrap();
    assert_eq!(rows, ["|0|5|", "|id|x|"]);
    assert_eq!(lab.lines("rui", "SELECT count(*) AS n FROM t").await.unwrap(), ["|12000|", "|n|"]);
    for sql in
        ["SELECT s FROM t", "SELECT id FROM t WHERE s = 'a'", "SELECT id FROM t ORDER BY s", "SELECT t.s FROM t", "SELECT max(s) FROM t"]
    {
        let hidden = lab.run("rui", sql).await.unwrap_err().strip_backtrace();
        let missing = lab.run("rui", &sql.replace(" s ", " z ").replace("t.s", "t.z").replace("(s)", "(z)").replace("BY s", "BY z")).await;
        let missing = missing.unwrap_err().strip_backtrace();
        assert_eq!(hidden.replace("t.s", "t.z").replace("named s", "named z"), missing, "{sql}");
    }
    // Bounded by a policy over a column that the reader does not have.
    lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("rui"), "region = 2", &raw.schema());
    let mut closed = Lab::new();
    let id = closed.table("t", Arc::clone(&raw), true);
    closed.grant("rui", ObjectId::Table(id), Privilege::Select, Some(&["x", "id"]));
    closed.policy(ObjectId::Table(id), PolicyKind::Permissive, user("rui"), "region = 2 AND s IS NOT NULL", &raw.schema());
    assert_eq!(closed.lines("rui", "SELECT * FROM t ORDER BY id LIMIT 1").await.unwrap(), ["|4000|29|", "|id|x|"]);
    assert_eq!(
        closed.lines("rui", "SELECT count(*) AS n, min(x) AS m FROM t WHERE 1 / (x - 5) >= 0").await.unwrap(),
        ["|1000|6|", "|n|m|"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_show_nothing_below_the_barrier() {
    let (_folder, raw) = parquet().await;
    let (lab, _) = Lab::with_governed_table(raw);
    let sql = "SELECT id FROM t WHERE id < 4100 AND x > 3 AND 1 / (x - 5) >= 0 ORDER BY id LIMIT 2";
    let (namespace, plan) = lab.plan("rui", sql).await.unwrap();
    let state = namespace.session_state();
    let logical = state.optimize(&state.create_logical_plan(sql).await.unwrap()).unwrap();
    collect(Arc::clone(&plan), state.task_ctx()).await.unwrap();
    for with_metrics in [false, true] {
        for (_, text) in render(&logical, plan.as_ref(), with_metrics).unwrap() {
            for hidden in ["region", "parquet", "part-", "RowFilter", "DataSource", "pruning", "statistics", "file", "partial_filters"] {
                assert!(!text.contains(hidden), "{hidden} in\n{text}");
            }
        }
    }
    let physical = render_physical(plan.as_ref(), true);
    assert!(
        physical.trim_end().ends_with("SecurityBarrierExec: table=lake.public.t, filter=[id < Int64(4100), x > Int32(3)], metrics=[]"),
        "{physical}"
    );
    let logical = render_logical(&logical).unwrap();
    assert!(
        logical.trim_end().ends_with("TableScan: t projection=[id, x], full_filters=[t.id < Int64(4100), t.x > Int32(3)]"),
        "{logical}"
    );
    assert!(!format!("{plan:?}").contains("region") && !format!("{logical:?}").contains("region"));
    let barrier = find_barrier(&plan).unwrap();
    assert!(barrier.metrics().is_none());
}

fn find_barrier(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    if plan.is::<SecurityBarrierExec>() {
        return Some(Arc::clone(plan));
    }
    plan.children().into_iter().find_map(find_barrier)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_policy_the_raw_plan_runs() {
    let (_folder, raw) = parquet().await;
    let mut lab = Lab::new();
    let id = lab.table("t", raw, false);
    lab.grant("rui", ObjectId::Table(id), Privilege::Select, None);
    let (namespace, plan) = lab.plan("rui", "SELECT count(*) AS n FROM t").await.unwrap();
    let text = render_physical(plan.as_ref(), false);
    assert!(text.contains("PlaceholderRowExec") && !text.contains("Barrier"), "answered from statistics: {text}");
    assert!(!namespace.touched()[0].restricted);
    let (_, plan) = lab.plan("rui", "SELECT id FROM t WHERE 1 / (x - 4) = 3").await.unwrap();
    assert!(find_barrier(&plan).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_come_to_true_for_a_reader_cost_nothing() {
    let (_folder, raw) = parquet().await;
    let mut lab = Lab::new();
    let id = lab.table("t", Arc::clone(&raw), true);
    for reader in ["rui", "ana"] {
        lab.grant(reader, ObjectId::Table(id), Privilege::Select, None);
    }
    let all = lazaret_auth::Grantee::All;
    lab.policy(ObjectId::Table(id), PolicyKind::Permissive, all.clone(), "current_user = 'rui' OR region = 2", &raw.schema());
    lab.policy(ObjectId::Table(id), PolicyKind::Restrictive, all, "1 = 1", &raw.schema());
    let (namespace, plan) = lab.plan("rui", "SELECT count(*) AS n FROM t").await.unwrap();
    assert!(find_barrier(&plan).is_none() && !namespace.touched()[0].restricted);
    assert_eq!(namespace.touched()[0].policies.len(), 2, "they are told to the audit");
    assert_eq!(lab.lines("rui", "SELECT count(*) AS n FROM t").await.unwrap(), ["|12000|", "|n|"]);

    let (namespace, plan) = lab.plan("ana", "SELECT count(*) AS n FROM t").await.unwrap();
    assert!(find_barrier(&plan).is_some() && namespace.touched()[0].restricted);
    // As many rows as there are, and not all columns.
    let id = lab.table("narrow", raw, false);
    lab.grant("rui", ObjectId::Table(id), Privilege::Select, Some(&["id", "x"]));
    let (_, plan) = lab.plan("rui", "SELECT count(*) AS n FROM narrow").await.unwrap();
    assert!(find_barrier(&plan).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_visible_is_not_there() {
    let raw = lab::memory_table();
    let (mut lab, _) = Lab::with_governed_table(Arc::clone(&raw));
    lab.table("other", Arc::clone(&raw), false);
    lab.view("vault", "admin", "SELECT * FROM other", false);
    let broken = lab.relation(
        "broken",
        "admin",
        crate::meta::Definition::Table {
            format: crate::meta::TableFormat::Delta,
            location: "file:///lake/hidden/".to_owned(),
            managed: false,
            options: Default::default(),
            outside: Vec::new(),
        },
        false,
    );
    let said = |name: &str, error: datafusion::error::DataFusionError| error.strip_backtrace().replace(name, "NAME");
    let missing = said("nothing", lab.run("rui", "SELECT * FROM nothing").await.unwrap_err());
    for name in ["other", "vault", "broken"] {
        assert_eq!(said(name, lab.run("rui", &format!("SELECT * FROM {name}")).await.unwrap_err()), missing);
        let elsewhere = said(name, lab.run("rui", &format!("SELECT * FROM lake.nowhere.{name}")).await.unwrap_err());
        assert_eq!(elsewhere.replace("nowhere", "public"), missing);
        let elsewhere = said(name, lab.run("rui", &format!("SELECT * FROM nolake.public.{name}")).await.unwrap_err());
        assert_eq!(elsewhere.replace("nolake", "lake"), missing);
    }
    let namespace = lab.namespace("rui");
    let catalog = Arc::clone(namespace.visible_catalogs()[0]);
    let schema = Arc::clone(namespace.visible_schemas(&catalog)[0]);
    let names: Vec<&str> = namespace.visible_relations(&schema).iter().map(|relation| relation.name.as_str()).collect();
    assert_eq!(names, ["t"]);
    assert!(lab.namespace("nobody").visible_catalogs().is_empty());

    // Visible, but not readable; and readable, but damaged.
    lab.grant("rui", ObjectId::Table(broken), Privilege::Insert, None);
    let error = lab.run("rui", "SELECT * FROM broken").await.unwrap_err();
    assert!(matches!(CatalogError::of(&error), Some(CatalogError::Denied { privilege: Privilege::Select, .. })), "{error}");
    lab.grant("rui", ObjectId::Table(broken), Privilege::Select, None);
    let error = lab.run("rui", "SELECT * FROM broken").await.unwrap_err();
    assert!(matches!(CatalogError::of(&error), Some(CatalogError::Corrupt { detail: None, .. })) && !error.to_string().contains("path"));
    lab.grant("rui", ObjectId::Table(broken), Privilege::Manage, None);
    let error = lab.run("rui", "SELECT * FROM broken").await.unwrap_err();
    assert!(error.to_string().contains("/lake/hidden/path.json"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_no_longer_binds_closes_the_table() {
    let raw = lab::memory_table();
    let (mut lab, id) = Lab::with_governed_table(Arc::clone(&raw));
    let gone = vec![lazaret_auth::policy::BoundColumn { name: "area".to_owned(), field_id: None, data_type: "Int32".to_owned() }];
    lab.policy_bound(ObjectId::Table(id), PolicyKind::Permissive, user("rui"), "area = 2", gone);
    let error = lab.run("rui", "SELECT count(*) FROM t").await.unwrap_err();
    assert!(matches!(CatalogError::of(&error), Some(CatalogError::PolicyNotBinding { detail: None, .. })), "{error}");
    assert!(!error.to_string().contains("area"));
    lab.grant("rui", ObjectId::Table(id), Privilege::ManagePolicies, None);
    let error = lab.run("rui", "SELECT count(*) FROM t").await.unwrap_err();
    assert!(error.to_string().contains("column \"area\" is gone"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_reads_with_its_owners_rights_under_the_readers_policies() {
    let (_folder, raw) = parquet().await;
    let mut lab = Lab::new();
    let id = lab.table("t", Arc::clone(&raw), true);
    lab.grant("owner", ObjectId::Table(id), Privilege::Select, None);
    lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("owner"), "true", &raw.schema());
    lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("rui"), "region = 2", &raw.schema());
    let view = lab.view("v", "owner", "SELECT id, x AS ex, region, current_user() AS u FROM t WHERE id <> 4002", false);
    lab.grant("rui", ObjectId::Table(view), Privilege::Select, None);
    lab.grant("ana", ObjectId::Table(view), Privilege::Select, Some(&["ex"]));

    assert_eq!(lab.lines("rui", "SELECT region, u, count(*) AS n FROM v GROUP BY 1, 2").await.unwrap(), ["|2|rui|999|", "|region|u|n|"]);
    assert!(lab.run("rui", "SELECT * FROM t").await.is_err());
    // No policy permits ana anything in t; of the view she has one column.
    assert_eq!(lab.lines("ana", "SELECT count(*) AS n FROM v").await.unwrap(), ["|0|", "|n|"]);
    assert!(lab.run("ana", "SELECT id FROM v").await.is_err());

    let namespace = lab.namespace("rui");
    let state = namespace.session_state();
    let plan = state.create_logical_plan("SELECT id FROM v WHERE ex > 7").await.unwrap();
    let plan = state.create_physical_plan(&plan).await.unwrap();
    namespace.verify_physical(plan.as_ref()).unwrap();
    assert!(render_physical(plan.as_ref(), false).trim_end().ends_with("SecurityBarrierExec: table=lake.public.v, filter=[ex > Int32(7)]"));
    let touched = namespace.touched();
    let names: Vec<(String, bool, usize)> = touched.iter().map(|it| (it.name.join("."), it.restricted, it.policies.len())).collect();
    assert_eq!(names, [("lake.public.t".to_owned(), true, 1), ("lake.public.v".to_owned(), true, 0)]);
    assert_eq!(touched[1].columns.iter().collect::<Vec<_>>(), ["ex", "id"]);

    // The owner loses the table: the view is closed, and names nothing to others.
    let mut lost = Lab::new();
    lost.table("t", raw, false);
    let view = lost.view("v", "owner", "SELECT id FROM t", false);
    lost.grant("rui", ObjectId::Table(view), Privilege::Select, None);
    lost.grant("owner", ObjectId::Table(view), Privilege::Select, None);
    let error = lost.run("rui", "SELECT * FROM v").await.unwrap_err();
    assert!(
        matches!(CatalogError::of(&error), Some(CatalogError::BrokenView { detail: None, .. })) && !error.to_string().contains("public.t")
    );
    assert!(lost.run("owner", "SELECT * FROM v").await.unwrap_err().to_string().contains("public.t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_view_hides_stays_hidden() {
    let (_folder, raw) = parquet().await;
    for pushdown in [false, true] {
        let mut lab = Lab::new();
        lab.parquet_pushdown = pushdown;
        let id = lab.table("t", Arc::clone(&raw), false);
        lab.grant("owner", ObjectId::Table(id), Privilege::Select, None);
        let filtered = lab.view("filtered", "owner", "SELECT id, x, s, note FROM t WHERE x <> 5", false);
        let computed =
            lab.view("computed", "owner", "SELECT id, 1 / (x - 5) AS y, CAST(s AS BIGINT) AS z, note FROM t WHERE x <> 5", false);
        let guarded = lab.view(
            "guarded",
            "owner",
            "SELECT id, x, note FROM t WHERE x <> 5 AND CASE WHEN x <> 5 THEN CAST(s AS BIGINT) END > 0",
            false,
        );
        for view in [filtered, computed, guarded] {
            lab.grant("rui", ObjectId::Table(view), Privilege::Select, None);
        }
        for (sql, expected) in [
            ("SELECT count(*) AS n FROM filtered WHERE 1 / (x - 5) >= 0", "|1000|"),
            ("SELECT count(*) AS n FROM filtered WHERE CAST(s AS BIGINT) > 0", "|1000|"),
            ("SELECT count(*) AS n FROM filtered WHERE x = 5", "|0|"),
            ("SELECT count(*) AS n FROM filtered WHERE s LIKE 'secret%'", "|0|"),
            ("SELECT count(*) AS n FROM computed WHERE y >= 0", "|1000|"),
            ("SELECT count(*) AS n FROM computed WHERE z > 0 AND y >= 0", "|1000|"),
            ("SELECT count(*) AS n FROM (SELECT y, id FROM computed ORDER BY y, id LIMIT 5) q", "|5|"),
            ("SELECT count(*) AS n FROM (SELECT z FROM computed ORDER BY z DESC LIMIT 5) q", "|5|"),
            ("SELECT count(*) AS n FROM computed JOIN (VALUES (0), (1)) w(k) ON y = w.k", "|1000|"),
            ("SELECT count(*) AS n FROM computed JOIN (VALUES (4002), (1)) w(k) ON z = w.k", "|1|"),
            ("SELECT count(*) AS n FROM guarded WHERE id > 0 AND (note IS NULL OR note <> 'n1') AND x > 0", "|937|"),
            ("SELECT count(*) AS n FROM guarded WHERE note > 'n' AND 1 / (x - 5) >= 0", "|667|"),
            ("SELECT max(x) - max(x) AS n FROM guarded WHERE note > 'a'", "|0|"),
        ] {
            let rows = lab.lines("rui", sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            if expected == "|937|" || expected == "|667|" {
                assert!(rows.iter().any(|row| row.trim_matches('|').parse::<usize>().is_ok_and(|n| n > 500)), "{sql}: {rows:?}");
            } else {
                assert!(rows.contains(&expected.to_owned()), "{sql}: {rows:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_views_prune_and_others_do_not_mix() {
    let (_folder, raw) = parquet().await;
    let mut lab = Lab::new();
    let id = lab.table("t", Arc::clone(&raw), false);
    lab.grant("owner", ObjectId::Table(id), Privilege::Select, None);
    let plain = lab.view("plain", "owner", "SELECT q.id AS number, upper(q.s) AS big FROM (SELECT * FROM t) q WHERE region = 2", false);
    lab.grant("rui", ObjectId::Table(plain), Privilege::Select, None);
    let (rows, plan) = measured(&lab, "SELECT number FROM plain WHERE number = 4004").await;
    assert_eq!(rows, ["|4004|", "|number|"]);
    assert!(leaf_metric(&plan, "output_rows") <= lab::FILE_ROWS as usize / 4);
    let (_, plan) = measured(&lab, "SELECT number FROM plain WHERE big = '4004'").await;
    assert!(leaf_metric(&plan, "output_rows") >= lab::FILE_ROWS as usize, "a computed column prunes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_lie_on_views_too_and_views_in_views_end() {
    let raw = lab::memory_table();
    let mut lab = Lab::new();
    lab.table("t", Arc::clone(&raw), false);
    lab.grant("owner", ObjectId::Schema(lab.schema), Privilege::Select, None);
    let view = lab.view("v", "owner", "SELECT region + 0 AS r, id FROM t", true);
    let column = lazaret_auth::policy::BoundColumn { name: "r".to_owned(), field_id: None, data_type: "Int64".to_owned() };
    lab.policy_bound(ObjectId::Table(view), PolicyKind::Permissive, user("rui"), "r = 2", vec![column]);
    let outer = lab.view("w", "owner", "SELECT r FROM v", false);
    let endless = lab.view("endless", "owner", "SELECT a.id FROM endless a JOIN endless b ON a.id = b.id", false);
    for object in [view, outer, endless] {
        lab.grant("rui", ObjectId::Table(object), Privilege::Select, None);
    }
    assert_eq!(lab.lines("rui", "SELECT r, count(*) AS n FROM v GROUP BY r").await.unwrap(), ["|2|1000|", "|r|n|"]);
    assert_eq!(lab.lines("rui", "SELECT r, count(*) AS n FROM w GROUP BY r").await.unwrap(), ["|2|1000|", "|r|n|"]);
    assert_eq!(lab.lines("owner", "SELECT count(*) AS n FROM w").await.unwrap(), ["|0|", "|n|"]);
    let error = lab.run("rui", "SELECT * FROM endless").await.unwrap_err();
    assert!(matches!(CatalogError::of(&error), Some(CatalogError::TooManyViews)), "{error}");

    // A view means what the same query means.
    for (name, tail, rows) in
        [("fetched", "ORDER BY id FETCH FIRST 3 ROWS ONLY", 3), ("distinct", "WHERE region IS NOT DISTINCT FROM 2 AND id < 4010", 5)]
    {
        lab.view(name, "owner", &format!("SELECT id FROM t {tail}"), false);
        assert_eq!(lab.lines("owner", &format!("SELECT id FROM {name}")).await.unwrap().len(), rows + 1, "{name}");
    }

    // Each level doubles: stopped by the count, not by the depth.
    lab.view("a0", "owner", "SELECT id FROM t", false);
    lab.view("b0", "owner", "SELECT id FROM t", false);
    for level in 1..14 {
        let below = level - 1;
        for name in ["a", "b"] {
            lab.view(&format!("{name}{level}"), "owner", &format!("SELECT a.id FROM a{below} a JOIN b{below} b ON a.id = b.id"), false);
        }
    }
    let error = lab.run("owner", "SELECT * FROM a13").await.unwrap_err();
    assert!(matches!(CatalogError::of(&error), Some(CatalogError::TooManyViews)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_with_anything_ungoverned_does_not_run() {
    let (_folder, raw) = parquet().await;
    let (lab, _) = Lab::with_governed_table(Arc::clone(&raw));
    let namespace = lab.namespace("rui");
    let state = namespace.session_state();
    let governed = state.create_logical_plan("SELECT id FROM t").await.unwrap();
    namespace.verify_logical(&governed).unwrap();
    // A table of another statement.
    assert!(matches!(lab.namespace("rui").verify_logical(&governed), Err(Ungoverned::ForeignNode(_))));
    // A raw provider.
    let source = datafusion::datasource::provider_as_source(Arc::clone(&raw));
    let foreign = datafusion::logical_expr::LogicalPlanBuilder::scan("raw", source, None).unwrap().build().unwrap();
    assert!(matches!(namespace.verify_logical(&foreign), Err(Ungoverned::ForeignNode(_))));
    for sql in ["EXPLAIN SELECT id FROM t", "EXPLAIN ANALYZE SELECT id FROM t", "SET a = 1"] {
        let plan = state.create_logical_plan(sql).await.unwrap();
        assert!(matches!(namespace.verify_logical(&plan), Err(Ungoverned::ForeignNode(_))), "{sql}");
    }
    let plan = state.create_logical_plan("EXPLAIN ANALYZE SELECT id FROM t").await.unwrap();
    let plan = state.create_physical_plan(&plan).await.unwrap();
    assert!(matches!(namespace.verify_physical(plan.as_ref()), Err(Ungoverned::OpenScan(_))));

    // Leaves: nobody vouched for this one; this one belongs to a restricted table and lost its barrier.
    let stray = raw.scan(&state, None, &[], None).await.unwrap();
    assert!(matches!(namespace.verify_physical(stray.as_ref()), Err(Ungoverned::OpenScan(_))));
    let plan = state.create_physical_plan(&governed).await.unwrap();
    namespace.verify_physical(plan.as_ref()).unwrap();
    let bare = Arc::clone(find_barrier(&plan).unwrap().children()[0]);
    assert!(matches!(namespace.verify_physical(bare.as_ref()), Err(Ungoverned::OpenScan(_))));

    let memory = lab::memory_table();
    let (lab, _) = Lab::with_governed_table(memory);
    let (namespace, plan) = lab.plan("rui", "SELECT id FROM t").await.unwrap();
    let bare = Arc::clone(find_barrier(&plan).unwrap().children()[0]);
    assert!(matches!(namespace.verify_physical(bare.as_ref()), Err(Ungoverned::OpenScan(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_arrive_unasked_are_applied_above() {
    use datafusion::prelude::{col, lit};
    let raw = lab::memory_table();
    let (lab, _) = Lab::with_governed_table(raw);
    let namespace = lab.namespace("rui");
    let state = namespace.session_state();
    let table = namespace.table("lake", "public", "t").await.unwrap().unwrap();
    let leaky = (lit(1) / (col("x") - lit(5))).gt_eq(lit(0)).and(col("id").lt(lit(4010_i64)));
    for projection in [Some(vec![3_usize]), Some(vec![]), Some(vec![6, 0]), None] {
        let plan = table.scan(&state, projection.as_ref(), std::slice::from_ref(&leaky), Some(2)).await.unwrap();
        let batches: Vec<RecordBatch> = collect(plan, Arc::new(TaskContext::default())).await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
        assert_eq!(batches[0].num_columns(), projection.map_or(7, |it| it.len()));
        assert!(!format!("{batches:?}").contains(SECRET));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_schemas_are_found_in_every_catalog() {
    use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
    let (lab, _) = Lab::with_governed_table(lab::memory_table());
    let system = MemorySchemaProvider::new();
    let batch = lab::rows(0).project(&[0]).unwrap();
    let settings = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
    system.register_table("settings".to_owned(), Arc::new(settings)).unwrap();
    let namespace = lab.namespace("rui").with_reserved_schema("system", Arc::new(system));
    let state = namespace.session_state();
    for sql in ["SELECT count(*) FROM system.settings WHERE id < 4", "SELECT max(id) FROM lake.system.settings"] {
        let plan = state.create_logical_plan(sql).await.unwrap();
        namespace.verify_logical(&plan).unwrap();
        let plan = state.create_physical_plan(&plan).await.unwrap();
        namespace.verify_physical(plan.as_ref()).unwrap();
        assert_eq!(collect(plan, state.task_ctx()).await.unwrap()[0].num_rows(), 1);
    }
    assert!(state.create_logical_plan("SELECT * FROM elsewhere.system.settings").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn panics_below_the_barrier_become_failures() {
    let (lab, _) = Lab::with_governed_table(Arc::new(Panics(lab::schema())));
    for sql in ["SELECT id FROM t", "SELECT count(*) FROM t"] {
        let error = lab.run("rui", sql).await.unwrap_err();
        assert!(super::ScanFailure::of(&error).is_some() && !error.to_string().contains(SECRET), "{error}");
    }
}

/// A source that has a bug.
#[derive(Debug)]
struct Panics(arrow::datatypes::SchemaRef);

#[async_trait::async_trait]
impl TableProvider for Panics {
    fn schema(&self) -> arrow::datatypes::SchemaRef {
        Arc::clone(&self.0)
    }

    fn table_type(&self) -> datafusion::logical_expr::TableType {
        datafusion::logical_expr::TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn datafusion::catalog::Session,
        projection: Option<&Vec<usize>>,
        _filters: &[datafusion::logical_expr::Expr],
        _limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        use datafusion::physical_plan::streaming::StreamingTableExec;
        let part = Arc::new(PanicStream(Arc::clone(&self.0)));
        Ok(Arc::new(StreamingTableExec::try_new(Arc::clone(&self.0), vec![part], projection, None, false, None)?))
    }
}

#[derive(Debug)]
struct PanicStream(arrow::datatypes::SchemaRef);

impl datafusion::physical_plan::streaming::PartitionStream for PanicStream {
    fn schema(&self) -> &arrow::datatypes::SchemaRef {
        &self.0
    }

    fn execute(&self, _ctx: Arc<TaskContext>) -> datafusion::execution::SendableRecordBatchStream {
        let stream = futures::stream::once(async { panic!("{SECRET} row") });
        Box::pin(datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(Arc::clone(&self.0), stream))
    }
}
