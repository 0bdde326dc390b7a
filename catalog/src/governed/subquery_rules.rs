//! What policies that ask other tables show, and what they give away.

use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use lazaret_auth::{Grantee, ObjectId, PolicyKind, Privilege, TableId};

use super::explain::render_physical;
use super::lab::{self, Lab, SECRET, lines, user};
use crate::meta::Entity;
use crate::namespace::CatalogError;

/// Who may see which regions.
fn assignments() -> Arc<dyn TableProvider> {
    let schema = Arc::new(Schema::new(vec![Field::new("who", DataType::Utf8, true), Field::new("area", DataType::Int32, true)]));
    let who = StringArray::from(vec![Some("rui"), Some("ana"), Some("ana"), None]);
    let area = Int32Array::from(vec![Some(2), Some(3), None, Some(4)]);
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(who), Arc::new(area)]).unwrap();
    Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap())
}

/// `t`, readable by rui and ana, and `m`, readable by admin alone.
fn lab_with_assignments(raw: Arc<dyn TableProvider>) -> (Lab, TableId, TableId) {
    let mut lab = Lab::new();
    let t = lab.table("t", raw, true);
    let m = lab.table("m", assignments(), false);
    for name in ["rui", "ana"] {
        lab.grant(name, ObjectId::Table(t), Privilege::Select, None);
    }
    lab.grant("admin", ObjectId::Table(m), Privilege::Select, None);
    (lab, t, m)
}

async fn regions(lab: &Lab, name: &str) -> Vec<String> {
    lab.lines(name, "SELECT DISTINCT region FROM t").await.unwrap().into_iter().filter(|line| line != "|region|").collect()
}

const BY_LIST: &str = "region IN (SELECT area FROM m WHERE who = current_user)";

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_table_chooses_the_rows_and_stays_unseen() {
    for policy in [
        BY_LIST,
        "region IN (SELECT m.area FROM m WHERE m.who = current_user())",
        "EXISTS (SELECT 1 FROM m WHERE who = current_user AND area = t.region)",
        "EXISTS (SELECT 1 FROM lake.public.m AS a WHERE a.who = current_user AND a.area = region)",
        "region = (SELECT max(area) FROM m WHERE who = current_user)",
        "region IN (WITH mine AS (SELECT area FROM m WHERE who = current_user) SELECT area FROM mine)",
        "false OR region IN (SELECT area FROM m WHERE who = current_user)",
    ] {
        let raw = lab::memory_table();
        let (mut lab, t, _) = lab_with_assignments(Arc::clone(&raw));
        lab.policy_asking(ObjectId::Table(t), PolicyKind::Permissive, Grantee::All, policy, "t", &raw.schema()).await;
        assert_eq!(regions(&lab, "rui").await, ["|2|"], "{policy}");
        assert_eq!(regions(&lab, "ana").await, ["|3|"], "{policy}");
        assert_eq!(lab.lines("rui", "SELECT count(*) AS n, min(id) AS low FROM t").await.unwrap(), ["|1000|4000|", "|n|low|"]);
        assert!(lab.run("rui", "SELECT * FROM m").await.unwrap_err().strip_backtrace().contains("not found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_combines_as_any_policy_does() {
    let raw = lab::memory_table();
    let (mut lab, t, _) = lab_with_assignments(Arc::clone(&raw));
    let schema = raw.schema();
    let on = ObjectId::Table(t);
    lab.policy_asking(on, PolicyKind::Permissive, Grantee::All, BY_LIST, "t", &schema).await;
    lab.policy(on, PolicyKind::Permissive, user("rui"), "region = 5", &schema);
    assert_eq!(regions(&lab, "rui").await, ["|2|", "|5|"]);
    assert_eq!(regions(&lab, "ana").await, ["|3|"]);
    // NOT IN with a NULL among the values is never true.
    lab.policy_asking(on, PolicyKind::Restrictive, user("ana"), "region NOT IN (SELECT area FROM m)", "t", &schema).await;
    assert_eq!(regions(&lab, "ana").await, Vec::<String>::new());
    let restrictive = "NOT EXISTS (SELECT 1 FROM m WHERE area + 3 = t.region)";
    lab.policy_asking(ObjectId::Table(t), PolicyKind::Restrictive, user("rui"), restrictive, "t", &schema).await;
    assert_eq!(regions(&lab, "rui").await, ["|2|"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_schema_it_is_bound_table_by_table() {
    let raw = lab::memory_table();
    let (mut lab, _, m) = lab_with_assignments(Arc::clone(&raw));
    let schema = ObjectId::Schema(lab.schema);
    // The schema's policy switches row-level security on for the mapping table too, for its creator as well.
    lab.policy(ObjectId::Table(m), PolicyKind::Permissive, user("admin"), "true", &assignments().schema());
    lab.policy_asking(schema, PolicyKind::Permissive, user("rui"), BY_LIST, "t", &raw.schema()).await;
    assert_eq!(regions(&lab, "rui").await, ["|2|"]);
    // There the policy names a column that is not there: closed, not open. And it asks the table that it closes.
    lab.grant("rui", ObjectId::Table(m), Privilege::Select, None);
    assert!(closed(&lab, "SELECT * FROM m").await);
}

async fn closed(lab: &Lab, sql: &str) -> bool {
    match lab.run("rui", sql).await {
        Err(error) => matches!(CatalogError::of(&error), Some(CatalogError::PolicyNotBinding { detail: None, .. })),
        Ok(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_rows_raise_nothing_and_plans_show_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::parquet_table(folder.path()).await;
    let (mut lab, t, _) = lab_with_assignments(Arc::clone(&raw));
    lab.policy_asking(ObjectId::Table(t), PolicyKind::Permissive, Grantee::All, BY_LIST, "t", &raw.schema()).await;
    for sql in [
        "SELECT count(*) AS n FROM t WHERE 1 / (x - 5) >= 0",
        "SELECT sum(CAST(s AS BIGINT)) AS n FROM t",
        "SELECT count(*) AS n FROM t WHERE CAST(s AS BIGINT) > 0 AND region > 0",
        "SELECT s AS n FROM t WHERE CAST(tags[1] AS BIGINT) > 0 ORDER BY CAST(s AS BIGINT) LIMIT 1",
        "SELECT count(*) AS n FROM t a JOIN t b ON a.id = b.id AND 1 / (a.x - 5) >= 0",
    ] {
        let answer = lab.lines("rui", sql).await.unwrap();
        assert!(!answer.iter().any(|line| line.contains(SECRET)), "{sql}: {answer:?}");
    }
    let (namespace, plan) = lab.plan("rui", "SELECT id FROM t WHERE id < 4100 ORDER BY id LIMIT 2").await.unwrap();
    let batches = datafusion::physical_plan::collect(Arc::clone(&plan), namespace.session_state().task_ctx()).await.unwrap();
    assert_eq!(lines(&batches), ["|4000|", "|4002|", "|id|"]);
    let text = render_physical(plan.as_ref(), true);
    for hidden in ["who", "area", "region", "Join", "governed", "lake.public.m", "parquet"] {
        assert!(!text.contains(hidden), "{hidden} in\n{text}");
    }
    assert!(text.contains("SecurityBarrierExec") && namespace.touched().iter().any(|it| it.table == t && it.restricted), "{text}");
    // The audit knows what was read for the policy.
    let touched: Vec<String> = namespace.touched().into_iter().map(|it| it.name.join(".")).collect();
    assert!(touched.contains(&"lake.public.m".to_owned()), "{touched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_with_the_rights_and_under_the_policies_of_its_creator() {
    let raw = lab::memory_table();
    let (mut lab, t, m) = lab_with_row_security();
    lab.policy_asking(ObjectId::Table(t), PolicyKind::Permissive, Grantee::All, BY_LIST, "t", &raw.schema()).await;
    // A policy that hides rui's line from admin hides the rows from rui; current_user is admin there.
    let hides = "who <> 'rui' AND current_user = 'admin'";
    lab.policy(ObjectId::Table(m), PolicyKind::Permissive, Grantee::All, hides, &assignments().schema());
    assert_eq!(regions(&lab, "rui").await, Vec::<String>::new());
    assert_eq!(regions(&lab, "ana").await, ["|3|"]);
}

fn lab_with_row_security() -> (Lab, TableId, TableId) {
    let mut lab = Lab::new();
    let t = lab.table("t", lab::memory_table(), true);
    let m = lab.table("m", assignments(), true);
    for name in ["rui", "ana"] {
        lab.grant(name, ObjectId::Table(t), Privilege::Select, None);
    }
    lab.grant("admin", ObjectId::Table(m), Privilege::Select, None);
    (lab, t, m)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_creators_right_or_its_table_it_closes() {
    let raw = lab::memory_table();
    let mut lab = Lab::new();
    let t = lab.table("t", Arc::clone(&raw), true);
    let m = lab.table("m", assignments(), false);
    lab.grant("rui", ObjectId::Table(t), Privilege::Select, None);
    lab.grant("admin", ObjectId::Table(m), Privilege::Select, None);
    lab.policy_asking(ObjectId::Table(t), PolicyKind::Permissive, Grantee::All, BY_LIST, "t", &raw.schema()).await;
    assert_eq!(regions(&lab, "rui").await, ["|2|"]);
    // The grant is taken back: the policy reads nothing, and shows nothing.
    let policy = lab.take_last();
    lab.take_last();
    lab.put(policy.clone());
    assert!(closed(&lab, "SELECT count(*) FROM t").await);

    // The same name, another table.
    let mut lab = Lab::new();
    let t2 = lab.table_with_id(t, "t", Arc::clone(&raw), true);
    let other = lab.table("m", assignments(), false);
    lab.grant("rui", ObjectId::Table(t2), Privilege::Select, None);
    lab.grant("admin", ObjectId::Table(other), Privilege::Select, None);
    lab.put(policy);
    assert!(closed(&lab, "SELECT count(*) FROM t").await);
}

/// Nobody but ana is in the mapping, and each of its columns says that it holds no NULL.
#[tokio::test(flavor = "multi_thread")]
async fn a_subquery_without_a_row_is_null_whatever_its_column_declares() {
    let raw = lab::memory_table();
    let schema = Arc::new(Schema::new(vec![Field::new("who", DataType::Utf8, false), Field::new("area", DataType::Int32, false)]));
    let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(StringArray::from(vec!["ana"])), Arc::new(Int32Array::from(vec![2]))];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let mapping: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap());
    let area = "(SELECT m.area FROM m WHERE m.who = current_user)";
    for (policy, to_ana) in [
        (format!("{area} IS NOT NULL"), "|12000|"),
        (format!("{area} IS NOT NULL OR id < 0"), "|12000|"),
        (format!("NOT ({area} IS NULL)"), "|12000|"),
        (format!("CASE WHEN {area} IS NULL THEN false ELSE true END"), "|12000|"),
        (format!("{area} = {area}"), "|12000|"),
        (format!("(region = {area}) IS NOT NULL"), "|12000|"),
        (format!("region <> {area} OR region = {area}"), "|12000|"),
        (format!("EXISTS (SELECT 1 FROM m WHERE {area} IS NOT NULL)"), "|12000|"),
        (format!("region IN (SELECT m.area FROM m WHERE {area} IS NOT NULL)"), "|1000|"),
        ("(SELECT count(*) FROM m WHERE m.who = current_user AND m.area = t.region) > 0".to_owned(), "|1000|"),
    ] {
        let mut lab = Lab::new();
        let t = lab.table("t", Arc::clone(&raw), true);
        let m = lab.table("m", Arc::clone(&mapping), false);
        for name in ["rui", "ana"] {
            lab.grant(name, ObjectId::Table(t), Privilege::Select, None);
        }
        lab.grant("admin", ObjectId::Table(m), Privilege::Select, None);
        lab.policy_asking(ObjectId::Table(t), PolicyKind::Permissive, Grantee::All, &policy, "t", &raw.schema()).await;
        for (name, count) in [("ana", to_ana), ("rui", "|0|")] {
            let answer = lab.lines(name, "SELECT count(*) AS n FROM t").await;
            assert_eq!(answer.unwrap_or_else(|error| panic!("{name}, {policy}: {error}")), [count, "|n|"], "{name}: {policy}");
        }
    }
}

/// A predicate that went down would choose the rows on which the policy is evaluated, and its failure tell of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_asks_for_does_not_choose_where_a_policy_fails() {
    let folder = tempfile::tempdir().unwrap();
    let raw = lab::parquet_table(folder.path()).await;
    // Of the visible rows, those with x = 6 have an id that 97 divides.
    for policy in ["1 / (x - 6) >= 0", "1 / (x - 6) >= 0 AND region IN (SELECT area FROM m WHERE who = current_user)"] {
        let (mut lab, t, _) = lab_with_assignments(Arc::clone(&raw));
        (lab.target_partitions, lab.batch_size) = (1, 10);
        match policy.contains("SELECT") {
            true => lab.policy_asking(ObjectId::Table(t), PolicyKind::Permissive, Grantee::All, policy, "t", &raw.schema()).await,
            false => lab.policy(ObjectId::Table(t), PolicyKind::Permissive, Grantee::All, policy, &raw.schema()),
        }
        for query in ["SELECT count(*) FROM t", "SELECT id FROM t WHERE id = 4002", "SELECT id FROM t WHERE id = -1"] {
            assert!(lab.run("rui", query).await.is_err(), "{policy}: {query}");
        }
    }
    // Where neither the policy nor its subquery can fail, files are still left out.
    let (mut lab, t, _) = lab_with_assignments(Arc::clone(&raw));
    lab.policy_asking(ObjectId::Table(t), PolicyKind::Permissive, Grantee::All, BY_LIST, "t", &raw.schema()).await;
    let (_, plan) = lab.plan("rui", "SELECT s FROM t WHERE id = 4002").await.unwrap();
    assert!(
        format!("{:?}", datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string()).contains("id_min"),
        "pruned by id"
    );
}

/// Whoever owns a view chooses its text. Read with the eyes of the policy's creator, it would tell of rows that its owner
/// may not see, by what the policy then shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_a_policy_belongs_to_the_policys_creator() {
    const BY_VIEW: &str = "region IN (SELECT area FROM w WHERE who = current_user)";
    for (owner, inner, open) in [("admin", "admin", true), ("mal", "admin", false), ("admin", "mal", false)] {
        let raw = lab::memory_table();
        let (mut lab, t, m) = lab_with_assignments(Arc::clone(&raw));
        let v = lab.view("v", inner, "SELECT who, area FROM m", false);
        let w = lab.view("w", owner, "SELECT who, area FROM v", false);
        lab.grant("mal", ObjectId::Table(m), Privilege::Select, None);
        for view in [v, w] {
            lab.grant("admin", ObjectId::Table(view), Privilege::Select, None);
            lab.grant("mal", ObjectId::Table(view), Privilege::Select, None);
        }
        lab.policy_unchecked(ObjectId::Table(t), BY_VIEW, &[w], &raw.schema());
        let Entity::Policy(mut policy) = lab.take_last() else { unreachable!() };
        policy.subqueries.as_mut().unwrap().using_columns = vec!["region".to_owned()];
        lab.put(Entity::Policy(policy));
        if open {
            assert_eq!(regions(&lab, "rui").await, ["|2|"]);
        } else {
            assert!(closed(&lab, "SELECT count(*) FROM t").await, "{owner} {inner}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_ask_each_other_end_in_an_error() {
    let raw = lab::memory_table();
    let (mut lab, t, m) = lab_with_row_security();
    lab.grant("admin", ObjectId::Table(t), Privilege::Select, None);
    lab.policy_asking(ObjectId::Table(t), PolicyKind::Permissive, Grantee::All, BY_LIST, "t", &raw.schema()).await;
    let back = "area IN (SELECT region FROM t)";
    lab.policy_unchecked(ObjectId::Table(m), back, &[t], &assignments().schema());
    let error = lab.run("rui", "SELECT count(*) FROM t").await.unwrap_err();
    assert!(matches!(CatalogError::of(&error), Some(CatalogError::TooManyViews)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_subquery_may_not_hold() {
    let raw = lab::memory_table();
    let (lab, _, _) = lab_with_assignments(Arc::clone(&raw));
    for (text, said) in [
        ("region IN (SELECT area FROM m WHERE random() < 0.5)", "random"),
        ("region IN (SELECT area FROM m WHERE who = $1)", "placeholder"),
        ("region IN (SELECT area FROM nothing)", "not found"),
        ("region IN (SELECT nothing FROM m)", "nothing"),
        ("max(region) IN (SELECT area FROM m)", "not allowed"),
        ("row_number() OVER () IN (SELECT area FROM m)", "not allowed"),
        ("(SELECT max(area) FROM m)", "BOOLEAN"),
        ("EXISTS (SELECT 1 FROM m AS t WHERE t.area = t.region)", "alias"),
        ("EXISTS (SELECT 1 FROM m AS t WHERE t.area = 2)", "alias"),
        ("region IN (SELECT area FROM m)) OR (true", "unexpected"),
    ] {
        let names = lab.namespace("admin");
        let error = names.bind_new_policy("t", text, &raw.schema()).await.unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}
