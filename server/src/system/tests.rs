//! What the server's own schemas show, asked in SQL.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use lazaret_auth::{CredentialKind, Principal, PrincipalName, Privilege, SystemPrivilege, TableId};
use lazaret_catalog::lake::{Lake, LakeError, OpenTable, TableSource};
use lazaret_catalog::namespace::TableOpener;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::activity::Facts;
use crate::session::Caller;
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
    assert_eq!(query(&ana, system).await, ["grants", "policies", "queries", "sessions", "settings"]);
    assert_eq!(query(&admin, system).await, ["audit", "caches", "grants", "policies", "queries", "sessions", "settings"]);
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

#[tokio::test(flavor = "multi_thread")]
async fn access_is_shown_as_show_shows_it() {
    let server = server().await;
    let admin = server.client("admin");
    for statement in [
        "CREATE POLICY p ON TABLE s.t TO ALL USING (id = 1)",
        "CREATE POLICY q ON TABLE s.u TO USER ana USING (id = 2)",
        "CREATE MASKING POLICY m ON TABLE s.u (name) TO ALL USING ACTION mask_alphanum",
    ] {
        admin.ok(statement).await;
    }
    server.grant("ana", Privilege::Select, server.table("s.t")).await;
    server.grant("dpo", Privilege::ManagePolicies, server.table("s.u")).await;
    for user in ["admin", "ana", "dpo", "nobody"] {
        let client = server.client(user);
        let grants = "SELECT * FROM system.grants ORDER BY object_type, object, grantee_type, grantee, privilege";
        assert_eq!(query(&client, grants).await, client.shown("SHOW GRANTS").await, "{user}");
        let names = |lines: Vec<String>| lines.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
        let shown = [names(client.shown("SHOW POLICIES").await), names(client.shown("SHOW MASKING POLICIES").await)].concat();
        assert_eq!(query(&client, "SELECT policy FROM system.policies").await, shown, "{user}");
    }
    let dpo = server.client("dpo");
    assert_eq!(
        query(&dpo, "SELECT policy, type, object_type, object, columns, priority FROM system.policies ORDER BY policy").await,
        ["m MASKING TABLE lazaret.s.u name 0", "q ROW TABLE lazaret.s.u"]
    );
    assert!(query(&server.client("ana"), "SELECT * FROM system.policies").await.is_empty());
}

#[tokio::test]
async fn statements_and_sessions_are_ones_own_or_need_manage_queries() {
    let server = server().await;
    let facts = |who: &str| Facts {
        statement_id: format!("of_{who}"),
        session_id: "s".to_owned(),
        principal: PrincipalName::local(who),
        client_address: None,
        client_driver: None,
        statement: "SELECT 1".to_owned(),
        emergency: None,
    };
    let session = CancellationToken::new();
    let running = ["ana", "rui"].map(|who| server.activity.begin(facts(who), &session));
    let caller = |who: &str| Caller {
        principal: Arc::new(Principal::local_user(who, CredentialKind::Password, None, None)),
        session_key: Some("k".to_owned()),
        client_address: None,
        client_driver: None,
    };
    for who in ["ana", "rui"] {
        server.sessions.resolve(caller(who)).unwrap();
    }
    let statements = "SELECT statement_id, state FROM system.queries ORDER BY 1";
    let sessions = "SELECT principal, schema FROM system.sessions ORDER BY 1";
    assert_eq!(query(&server.client("ana"), statements).await, ["of_ana running"]);
    assert_eq!(query(&server.client("ana"), sessions).await, ["ana public"]);
    assert!(query(&server.client("eva"), statements).await.is_empty());
    assert!(query(&server.client("eva"), sessions).await.is_empty());
    server.grant_system("eva", SystemPrivilege::ManageQueries).await;
    assert_eq!(query(&server.client("eva"), statements).await, ["of_ana running", "of_rui running"]);
    assert_eq!(query(&server.client("eva"), sessions).await, ["ana", "rui"], "the schema is not there for eva");
    drop(running);
    assert_eq!(query(&server.client("rui"), statements).await, ["of_rui cancelled"]);
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
