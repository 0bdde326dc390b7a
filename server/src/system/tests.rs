//! What the server's own schemas show, asked in SQL.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use lazaret_auth::{Privilege, SystemPrivilege, TableId};
use lazaret_catalog::lake::{Lake, LakeError, OpenTable, TableSource};
use lazaret_catalog::namespace::TableOpener;
use parking_lot::Mutex;

use crate::statements::testing::{Client, Server, lines};

/// The lake, which writes down what it opens.
struct Watched {
    lake: Arc<Lake>,
    opened: Mutex<Vec<TableId>>,
}

#[async_trait]
impl TableOpener for Watched {
    async fn open(&self, source: &TableSource) -> Result<OpenTable, LakeError> {
        self.opened.lock().push(source.id);
        self.lake.open(source).await
    }
}

async fn try_query(client: &Client<'_>, sql: &str, opener: Arc<dyn TableOpener>) -> Result<Vec<RecordBatch>, DataFusionError> {
    let namespace = client.namespace_with(opener);
    let context = SessionContext::new_with_state(namespace.session_state());
    let plan = context.state().create_logical_plan(sql).await?;
    namespace.verify_logical(&plan)?;
    let plan = context.state().create_physical_plan(&plan).await?;
    namespace.verify_physical(plan.as_ref())?;
    datafusion::physical_plan::collect(plan, context.task_ctx()).await
}

async fn query(client: &Client<'_>, sql: &str) -> Vec<String> {
    let lake = Arc::clone(&client.server.lake);
    let batches = try_query(client, sql, lake).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    if batches.is_empty() { Vec::new() } else { lines(&batches) }
}

async fn server() -> Server {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE SCHEMA s").await;
    for name in ["t", "u"] {
        admin.ok(&format!("CREATE TABLE s.{name} AS SELECT 1")).await;
    }
    admin.ok("CREATE VIEW s.v AS SELECT id FROM s.t").await;
    server
}

#[tokio::test]
async fn tables_and_schemata_are_those_that_are_seen() {
    let server = server().await;
    let admin = server.client("admin");
    let tables =
        "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_type <> 'SYSTEM TABLE' ORDER BY 1, 2";
    assert_eq!(query(&admin, tables).await, ["s t BASE TABLE", "s u BASE TABLE", "s v VIEW"]);
    let schemata = "SELECT catalog_name, schema_name, schema_owner FROM lazaret.information_schema.schemata ORDER BY 2";
    assert_eq!(query(&admin, schemata).await, ["lazaret information_schema", "lazaret public admin", "lazaret s admin", "lazaret system"]);
    let ana = server.client("ana");
    assert!(query(&ana, tables).await.is_empty());
    assert!(query(&ana, schemata).await.is_empty());
    server.grant_columns("ana", Privilege::Select, server.table("s.t"), Some(vec!["id".into()])).await;
    assert_eq!(query(&ana, tables).await, ["s t BASE TABLE"]);
    assert_eq!(query(&ana, schemata).await, ["lazaret information_schema", "lazaret s admin", "lazaret system"]);
    let system = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'system' ORDER BY 1";
    assert_eq!(query(&ana, system).await, ["settings"]);
    assert_eq!(query(&admin, system).await, ["audit", "caches", "settings"]);
    for empty in ["table_constraints", "key_column_usage", "referential_constraints"] {
        assert_eq!(query(&ana, &format!("SELECT count(*) FROM information_schema.{empty}")).await, ["0"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_the_granted_ones_and_a_damaged_table_hides_no_other() {
    let server = server().await;
    let admin = server.client("admin");
    let columns = "SELECT table_name, column_name, ordinal_position, data_type, is_nullable, numeric_precision \
                   FROM information_schema.columns WHERE table_schema = 's' ORDER BY 1, 3";
    let t = ["t id 1 INTEGER NO 32", "t name 2 VARCHAR YES"];
    let v = "v id 1 INTEGER NO 32";
    // Damaged before anything has read it: the caches would answer for it.
    let folder = server.folder.path().join("data/warehouse").join(server.relation("s.u").unwrap().id.to_string());
    std::fs::remove_dir_all(folder).unwrap();
    server.grant_columns("ana", Privilege::Select, server.table("s.t"), Some(vec!["name".into()])).await;
    assert_eq!(query(&server.client("ana"), columns).await, ["t name 1 VARCHAR YES"]);
    assert_eq!(query(&admin, columns).await, [t[0], t[1], v]);
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_one_table_opens_one() {
    let server = server().await;
    let admin = server.client("admin");
    let watched = Arc::new(Watched { lake: Arc::clone(&server.lake), opened: Mutex::default() });
    let sql = "SELECT column_name FROM information_schema.columns WHERE table_schema = 's' AND table_name = 'u'";
    let batches = try_query(&admin, sql, watched.clone()).await.unwrap();
    assert_eq!(lines(&batches), ["id", "name"]);
    assert_eq!(*watched.opened.lock(), [server.relation("s.u").unwrap().id]);
    watched.opened.lock().clear();
    try_query(&admin, "SELECT * FROM information_schema.tables", watched.clone()).await.unwrap();
    assert!(watched.opened.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_views_query_is_for_who_manages_it() {
    let server = server().await;
    let views = "SELECT table_name, view_definition FROM information_schema.views";
    assert_eq!(query(&server.client("admin"), views).await, ["v SELECT id FROM s.t"]);
    server.grant("ana", Privilege::Select, server.table("s.v")).await;
    assert_eq!(query(&server.client("ana"), views).await, ["v"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_on_information_schema_has_columns_and_shows_the_readers_tables() {
    let server = server().await;
    let admin = server.client("admin");
    admin.ok("CREATE VIEW s.w AS SELECT table_name FROM information_schema.tables WHERE table_schema = 's'").await;
    let columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'w'";
    assert_eq!(query(&admin, columns).await, ["table_name"]);
    server.grant("ana", Privilege::Select, server.table("s.w")).await;
    assert_eq!(query(&server.client("ana"), "SELECT * FROM s.w").await, ["w"]);
}

#[tokio::test]
async fn what_the_server_says_of_itself_needs_its_privilege() {
    let server = server().await;
    let (admin, ana) = (server.client("admin"), server.client("ana"));
    server.grant("ana", Privilege::Select, server.table("s.t")).await;
    assert_eq!(query(&admin, "SELECT name FROM system.caches WHERE name = 'footers'").await, ["footers"]);
    assert_eq!(query(&admin, "SELECT count(*) FROM lazaret.system.audit").await, ["0"]);
    for name in ["audit", "caches"] {
        let lake = || Arc::clone(&server.lake) as Arc<dyn TableOpener>;
        let hidden = try_query(&ana, &format!("SELECT * FROM system.{name}"), lake()).await.unwrap_err().strip_backtrace();
        let absent = try_query(&ana, "SELECT * FROM system.nothing", lake()).await.unwrap_err().strip_backtrace();
        assert_eq!(hidden.replace(name, "nothing"), absent);
    }
    server.grant_system("ana", SystemPrivilege::ReadAudit).await;
    assert_eq!(query(&ana, "SELECT count(*) FROM system.audit").await, ["0"]);
    ana.ok("SET batch_size = 100").await;
    assert_eq!(query(&ana, "SELECT value FROM system.settings WHERE name = 'batch_size'").await, ["100"]);
}
