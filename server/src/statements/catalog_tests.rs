//! Schemas, tables and views: who may make, drop and see them.

use lazaret_auth::{Grantee, ObjectId, PolicyCommand, PolicyId, PolicyKind, PrincipalName, Privilege, RowPolicy, SystemPrivilege};
use lazaret_catalog::meta::{Change, Definition, Entity};

use super::session::Settings;
use super::testing::Server;
use crate::error::ErrorKind::{self, AlreadyExists, FailedPrecondition, Invalid, NotFound, PermissionDenied, Unsupported};
use crate::session::{Caller, Session, SessionState};

fn grants_on(server: &Server, object: ObjectId) -> Vec<(String, Privilege)> {
    let state = server.state();
    let grants = state.privilege_grants().filter(|grant| grant.object == object);
    let grantee = |grantee: &Grantee| match grantee {
        Grantee::User(name) => name.to_string(),
        other => format!("{other:?}"),
    };
    grants.map(|grant| (grantee(&grant.grantee), grant.privilege)).collect()
}

async fn policy_on(server: &Server, object: ObjectId) {
    let policy = RowPolicy {
        id: PolicyId::generate(),
        name: "p".into(),
        object,
        kind: PolicyKind::Permissive,
        command: PolicyCommand::All,
        to: vec![Grantee::All],
        except: Vec::new(),
        using: Some("true".into()),
        with_check: None,
        columns: Vec::new(),
        subqueries: None,
        creator: PrincipalName::local("admin"),
        version: 1,
        comment: None,
    };
    let put = || Ok::<_, std::fmt::Error>(vec![Change::Put(Entity::Policy(policy.clone()))]);
    server.metadata.change(|_| put()).await.unwrap();
}

/// Of a statement on an object: what the holder of each privilege on it is answered. `None`: it runs.
async fn matrix(statement: &str, object: impl Fn(&Server) -> ObjectId, expected: &[(&str, Option<ErrorKind>)]) {
    for (privilege, answer) in expected {
        let server = Server::new().await;
        let admin = server.client("admin");
        admin.ok("CREATE SCHEMA s").await;
        admin.ok("CREATE TABLE s.t AS SELECT 1").await;
        admin.ok("CREATE VIEW s.v AS SELECT 1").await;
        let privilege = match *privilege {
            "nothing" => None,
            "SELECT" => Some(Privilege::Select),
            "CREATE" => Some(Privilege::Create),
            "MANAGE" => Some(Privilege::Manage),
            "ALL" => Some(Privilege::All),
            other => panic!("{other}"),
        };
        if let Some(privilege) = privilege {
            server.grant("ana", privilege, object(&server)).await;
        }
        let outcome = server.client("ana").run(statement).await.map_err(|error| error.kind);
        assert_eq!(outcome.err(), *answer, "{statement} with {privilege:?}");
    }
}

#[tokio::test]
async fn each_statement_needs_its_privilege() {
    let create = [
        ("nothing", Some(NotFound)),
        ("SELECT", Some(PermissionDenied)),
        ("MANAGE", Some(PermissionDenied)),
        ("CREATE", None),
        ("ALL", None),
    ];
    matrix("CREATE SCHEMA lazaret.new", Server::catalog, &create).await;
    matrix("CREATE TABLE s.new AS SELECT 1", |server| server.schema("s"), &create).await;
    matrix("CREATE VIEW s.new AS SELECT 1", |server| server.schema("s"), &create).await;
    let drop = [
        ("nothing", Some(NotFound)),
        ("SELECT", Some(PermissionDenied)),
        ("CREATE", Some(PermissionDenied)),
        ("MANAGE", None),
        ("ALL", None),
    ];
    matrix("DROP SCHEMA s CASCADE", |server| server.schema("s"), &drop).await;
    matrix("DROP TABLE s.t", |server| server.table("s.t"), &drop).await;
    matrix("DROP VIEW s.v", |server| server.table("s.v"), &drop).await;
    matrix("DROP VIEW s.v", |server| server.table("s.t"), &[("ALL", Some(NotFound))]).await;
    matrix("CREATE OR REPLACE VIEW s.v AS SELECT 2", |server| server.schema("s"), &[("CREATE", Some(PermissionDenied)), ("ALL", None)])
        .await;
    let seen = [("nothing", Some(NotFound)), ("SELECT", None)];
    matrix("USE lazaret.s", |server| server.table("s.t"), &seen).await;
    matrix("USE lazaret.s", |server| server.schema("public"), &[("SELECT", Some(NotFound))]).await;
    matrix("USE lazaret", |server| server.table("s.t"), &seen).await;
}

#[tokio::test]
async fn what_is_hidden_is_answered_like_what_is_not_there() {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE SCHEMA s").await;
    admin.ok("CREATE TABLE s.t AS SELECT 1").await;
    let ana = server.client("ana");
    for statement in [
        "DROP TABLE s.t",
        "DROP VIEW s.t",
        "DROP SCHEMA s",
        "DROP SCHEMA s CASCADE",
        "CREATE TABLE s.t AS SELECT 1",
        "CREATE VIEW s.t AS SELECT 1",
        "USE lazaret.s",
    ] {
        let hidden = ana.refused(statement).await;
        let absent = ana.refused(&statement.replace("s.t", "x.t").replace("A s", "A x").replace("t.s", "t.x")).await;
        assert_eq!(hidden.0, NotFound, "{statement}");
        assert_eq!(hidden.1.replace(".s", ".x"), absent.1, "{statement}");
    }
    for statement in ["DROP TABLE IF EXISTS s.t", "DROP SCHEMA IF EXISTS s CASCADE", "DROP TABLE IF EXISTS nowhere.t"] {
        ana.ok(statement).await;
    }
    assert!(server.relation("s.t").is_some());
    for statement in ["SHOW TABLES FROM s", "SHOW SCHEMAS FROM lazaret", "DESCRIBE s.t", "SHOW COLUMNS FROM s.t", "SHOW CREATE TABLE s.t"] {
        assert_eq!(ana.rows(statement).await.unwrap_err().kind, NotFound, "{statement}");
    }
    assert!(ana.shown("SHOW CATALOGS").await.is_empty());
    assert!(ana.shown("SHOW TABLES").await.is_empty());
}

#[tokio::test]
async fn a_schema_is_made_once_and_belongs_to_its_creator() {
    let server = Server::new().await;
    server.grant("ana", Privilege::Create, server.catalog()).await;
    let ana = server.client("ana");
    ana.ok("CREATE SCHEMA s").await;
    assert_eq!(grants_on(&server, server.schema("s")), [("ana".to_owned(), Privilege::All)]);
    assert_eq!(ana.refused("CREATE SCHEMA s").await, (AlreadyExists, "schema \"lazaret.s\" already exists".to_owned()));
    let before = server.state().epoch();
    ana.ok("CREATE SCHEMA IF NOT EXISTS s").await;
    assert_eq!(server.state().epoch(), before);
    assert_eq!(ana.refused("CREATE SCHEMA nowhere.s").await, (NotFound, "catalog \"nowhere\" not found".to_owned()));
    for statement in [
        "CREATE SCHEMA system",
        "CREATE SCHEMA IF NOT EXISTS lazaret.information_schema",
        "DROP SCHEMA system CASCADE",
        "DROP TABLE information_schema.tables",
        "CREATE VIEW system.v AS SELECT 1",
    ] {
        assert_eq!(ana.refused(statement).await.0, Invalid, "{statement}");
    }
    ana.ok("DROP SCHEMA s").await;
    assert_eq!(ana.refused("DROP SCHEMA s").await.0, NotFound);
}

#[tokio::test]
async fn cascade_takes_everything_and_the_files() {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE SCHEMA s").await;
    admin.ok("CREATE TABLE s.t AS SELECT 1").await;
    admin.ok("CREATE TABLE s.u AS SELECT 1").await;
    admin.ok("CREATE VIEW s.v AS SELECT 1").await;
    policy_on(&server, server.table("s.t")).await;
    policy_on(&server, server.schema("s")).await;
    assert_eq!(server.warehouse(), 2);
    let refused = admin.refused("DROP SCHEMA s").await;
    assert_eq!(refused, (FailedPrecondition, "schema \"lazaret.s\" is not empty: use CASCADE".to_owned()));
    let grants = server.state().privilege_grants().count();
    admin.ok("DROP SCHEMA s CASCADE").await;
    let state = server.state();
    assert_eq!((state.relations().count(), state.policies().count(), server.warehouse()), (0, 0, 0));
    assert_eq!(state.privilege_grants().count(), grants - 4);
}

#[tokio::test]
async fn a_dropped_table_leaves_nothing_to_the_next_of_its_name() {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE TABLE t AS SELECT 1").await;
    let first = server.table("public.t");
    assert_eq!(grants_on(&server, first), [("admin".to_owned(), Privilege::All)]);
    server.grant("ana", Privilege::Select, first).await;
    policy_on(&server, first).await;
    assert_eq!(admin.refused("DROP VIEW t").await, (Invalid, "\"lazaret.public.t\" is a table, not a view".to_owned()));
    admin.ok("DROP TABLE t").await;
    assert_eq!((grants_on(&server, first), server.state().policies().count(), server.warehouse()), (vec![], 0, 0));
    admin.ok("CREATE TABLE t AS SELECT 1").await;
    assert_ne!(server.table("public.t"), first);
    assert_eq!(server.client("ana").refused("DROP TABLE t").await.0, NotFound);
}

#[tokio::test]
async fn a_written_table_that_cannot_be_named_is_removed() {
    let server = Server::new().await;
    let admin = server.client("admin");
    let rows = admin.run("CREATE TABLE t AS SELECT 1").await.unwrap().rows;
    assert_eq!((rows, server.warehouse()), (2, 1));
    assert_eq!(admin.refused("CREATE TABLE t AS SELECT 1").await.0, AlreadyExists);
    assert_eq!(admin.run("CREATE TABLE IF NOT EXISTS t AS SELECT 1").await.unwrap().rows, 0);
    assert_eq!(admin.refused("CREATE OR REPLACE TABLE t AS SELECT 1").await.0, Unsupported);
    assert_eq!(admin.refused("CREATE TABLE i USING ICEBERG AS SELECT 1").await.0, Unsupported);

    // Two at a time: the second to finish finds the name taken.
    for (text, taken) in [("CREATE TABLE u AS SELECT 1", Some(AlreadyExists)), ("CREATE TABLE IF NOT EXISTS w AS SELECT 1", None)] {
        let statement = crate::sql::parse(text, crate::sql::DEFAULT_STATEMENT_BYTES).unwrap();
        let crate::sql::Statement::CreateTableAs(create) = &statement else { panic!("{text}") };
        let id = super::begin_create(&admin.context, create).await.unwrap().unwrap();
        let created = super::testing::write(server.lake.stores(), id).await;
        admin.ok(text).await;
        let folders = server.warehouse();
        let outcome = super::register_created(&admin.context, create, id, &created).await;
        assert_eq!(outcome.map_err(|error| error.kind).err(), taken, "{text}");
        assert_eq!(server.warehouse(), folders - 1);
    }
}

#[tokio::test]
async fn a_view_is_stored_as_written_and_replaced_in_place() {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE VIEW v AS SELECT  1 AS a").await;
    let first = server.relation("public.v").unwrap();
    let text = |query: &str| Definition::View {
        query: query.into(),
        catalog: "lazaret".into(),
        schema: "public".into(),
        owner_groups: Default::default(),
    };
    assert_eq!(first.definition, text("SELECT  1 AS a"));
    assert_eq!(admin.refused("CREATE VIEW v AS SELECT 2").await.0, AlreadyExists);
    server.grant("ana", Privilege::Select, ObjectId::Table(first.id)).await;
    server.grant("rui", Privilege::Manage, ObjectId::Table(first.id)).await;
    server.grant("rui", Privilege::Create, server.schema("public")).await;
    policy_on(&server, ObjectId::Table(first.id)).await;
    server.client("rui").ok("CREATE OR REPLACE VIEW v AS SELECT 2").await;
    let second = server.relation("public.v").unwrap();
    assert_eq!((second.id, &second.definition), (first.id, &text("SELECT 2")));
    assert_eq!(second.owner, PrincipalName::local("rui"), "it is read with the rights of whoever wrote it");
    assert_eq!((grants_on(&server, ObjectId::Table(first.id)).len(), server.state().policies().count()), (3, 1));
    admin.ok("CREATE TABLE t AS SELECT 1").await;
    let taken = admin.refused("CREATE OR REPLACE VIEW t AS SELECT 1").await;
    assert_eq!(taken, (AlreadyExists, "table \"lazaret.public.t\" already exists".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_is_for_one_table_and_for_who_may_read_files() {
    let server = Server::new().await;
    let admin = server.client("admin");
    let root = server.folder.path().display().to_string();
    let external = |name: &str, location: &str| format!("CREATE EXTERNAL TABLE {name} STORED AS DELTA LOCATION '{location}'");
    let path = server.files("t").await;

    let ana = server.client("ana");
    assert_eq!(ana.refused(&external("t", &path)).await.0, NotFound);
    server.grant("ana", Privilege::Create, server.schema("public")).await;
    let wanted = (PermissionDenied, "READ FILES on the system is required".to_owned());
    for location in [path.as_str(), "/etc", "nonsense"] {
        assert_eq!(ana.refused(&external("t", location)).await, wanted, "{location}");
    }
    server.grant_system("ana", SystemPrivilege::ReadFiles).await;
    ana.ok(&external("t", &path)).await;
    assert_eq!(grants_on(&server, server.table("public.t")), [("ana".to_owned(), Privilege::All)]);

    admin.ok("CREATE TABLE m AS SELECT 1").await;
    let taken = (PermissionDenied, "this location cannot be used: it lies at, above or below one that is in use".to_owned());
    for location in [path.clone(), format!("file://{path}/"), format!("{path}/below"), format!("{root}/allowed"), format!("{root}/data")] {
        assert_eq!(admin.refused(&external("u", &location)).await, taken, "{location}");
    }
    for location in [format!("{root}/data/warehouse"), format!("{root}/data/warehouse/x"), "/etc".to_owned()] {
        assert_eq!(admin.refused(&external("u", &location)).await.0, PermissionDenied, "{location}");
    }
    for (location, kind) in [("relative/path", Invalid), ("file://host/x", Invalid), ("ftp://host/x", Unsupported)] {
        assert_eq!(admin.refused(&external("u", location)).await.0, kind, "{location}");
    }
    admin.ok(&external("IF NOT EXISTS t", &path)).await;
    assert_eq!(admin.refused(&external("t", &path)).await.0, AlreadyExists);

    ana.ok("DROP TABLE t").await;
    assert!(std::path::Path::new(&path).exists(), "files that are not ours stay");
    ana.ok(&external("again", &path)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_is_not_registered() {
    let server = Server::new().await;
    let admin = server.client("admin");
    let external = |location: &str| format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{location}'");
    let root = server.folder.path().join("allowed");
    std::fs::create_dir(root.join("empty")).unwrap();
    for missing in ["empty", "nowhere"] {
        assert_eq!(admin.refused(&external(root.join(missing).to_str().unwrap())).await.0, NotFound, "{missing}");
    }
    let path = server.files("damaged").await;
    let log = std::fs::read_dir(format!("{path}/_delta_log")).unwrap().map(|entry| entry.unwrap().path());
    let commit = log.filter(|file| file.extension().is_some_and(|it| it == "json")).min().unwrap();
    std::fs::write(&commit, "{\"protocol\":").unwrap();
    assert_eq!(admin.refused(&external(&path)).await.0, ErrorKind::DataLoss);
    let path = server.files("newer").await;
    let commit = format!("{path}/_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&commit).unwrap();
    let (protocol, rest) = text.split_once('\n').unwrap();
    assert!(protocol.contains("protocol"), "{protocol}");
    let newer =
        r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["fromTheFuture"],"writerFeatures":["fromTheFuture"]}}"#;
    std::fs::write(&commit, format!("{newer}\n{rest}")).unwrap();
    let (kind, message) = admin.refused(&external(&path)).await;
    assert_eq!(kind, Unsupported);
    assert!(message.contains("fromTheFuture"), "{message}");
    assert!(server.relation("public.t").is_none());
}

#[tokio::test]
async fn use_moves_the_session() {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE SCHEMA s").await;
    admin.ok("USE lazaret.s").await;
    admin.ok("CREATE TABLE t AS SELECT 1").await;
    assert!(server.relation("s.t").is_some());
    admin.ok("USE lazaret.information_schema").await;
    admin.ok("USE lazaret").await;
    assert_eq!(admin.context.session.state.lock().schema, "public");
    assert_eq!(admin.refused("USE nowhere").await, (NotFound, "catalog \"nowhere\" not found".to_owned()));
    assert_eq!(admin.refused("USE lazaret.nowhere").await, (NotFound, "schema \"lazaret.nowhere\" not found".to_owned()));
}

#[tokio::test]
async fn only_known_settings_are_set_and_only_to_what_they_take() {
    let server = Server::new().await;
    let admin = server.client("admin");
    for statement in [
        "SET target_partitions = 3",
        "SET batch_size TO '1024'",
        "SET statement_timeout_ms = 1500",
        "SET TIME ZONE 'UTC'",
        "SET timezone = 'utc'",
    ] {
        admin.ok(statement).await;
    }
    let settings = || Settings::from(&*admin.context.session.state.lock());
    let expected =
        Settings { target_partitions: Some(3), batch_size: Some(1024), statement_timeout: Some(std::time::Duration::from_millis(1500)) };
    assert_eq!(settings(), expected);
    for (statement, part) in [
        ("SET target_partitions = 0", "takes a whole number from 1 to 512, not '0'"),
        ("SET batch_size = -1", "takes a whole number"),
        ("SET batch_size = 'many'", "not 'many'"),
        ("SET timezone = 'Europe/Lisbon'", "takes only UTC"),
        ("SET datafusion.execution.batch_size = 1", "the nearest is \"batch_size\""),
        ("SET datafusion.optimizer.skip_failed_rules = true", "there is no setting"),
        ("SET targetpartitions = 2", "the nearest is \"target_partitions\""),
        ("RESET statement_timeout", "the nearest is \"statement_timeout_ms\""),
    ] {
        let (kind, message) = admin.refused(statement).await;
        assert_eq!(kind, Invalid, "{statement}");
        assert!(message.contains(part), "{statement}: {message}");
    }
    assert_eq!(settings(), expected);
    assert!(admin.shown("SHOW SETTINGS").await[1].starts_with("statement_timeout_ms 1500 "));
    admin.ok("RESET batch_size").await;
    assert_eq!(settings().batch_size, None);
    admin.ok("RESET ALL").await;
    assert_eq!(settings(), Settings::default());

    let caller = Caller { session_key: None, ..admin.context.session.caller.clone() };
    let context =
        super::StatementContext { session: Session::new(caller, SessionState::new("lazaret", "public")), ..admin.context.clone() };
    assert_eq!(super::session::set(&context, "batch_size", "1024").unwrap_err().kind, FailedPrecondition);
}

#[tokio::test]
async fn show_lists_what_is_seen() {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE SCHEMA s").await;
    admin.ok("CREATE TABLE s.t AS SELECT 1").await;
    admin.ok("CREATE TABLE s.hidden AS SELECT 1").await;
    admin.ok("CREATE VIEW s.v AS SELECT 1 AS a").await;
    assert_eq!(admin.shown("SHOW CATALOGS").await, ["lazaret"]);
    assert_eq!(admin.shown("SHOW SCHEMAS").await, ["lazaret information_schema", "lazaret public", "lazaret s", "lazaret system"]);
    assert_eq!(admin.shown("SHOW TABLES FROM s").await, ["lazaret s hidden TABLE", "lazaret s t TABLE", "lazaret s v VIEW"]);
    assert_eq!(
        admin.shown("SHOW TABLES IN system").await,
        ["audit", "caches", "grants", "policies", "queries", "sessions", "settings"]
            .map(|name| format!("lazaret system {name} SYSTEM TABLE"))
    );
    server.grant_columns("ana", Privilege::Select, server.table("s.t"), Some(vec!["id".into()])).await;
    server.grant("ana", Privilege::Select, server.table("s.v")).await;
    let ana = server.client("ana");
    assert_eq!(ana.shown("SHOW TABLES FROM lazaret.s").await, ["lazaret s t TABLE", "lazaret s v VIEW"]);
    assert_eq!(ana.shown("SHOW SCHEMAS").await, ["lazaret information_schema", "lazaret s", "lazaret system"]);
    assert_eq!(
        ana.shown("SHOW TABLES IN system").await,
        ["grants", "policies", "queries", "sessions", "settings"].map(|name| format!("lazaret system {name} SYSTEM TABLE"))
    );
    admin.context.warn("a name that nobody knows");
    assert_eq!(admin.shown("SHOW WARNINGS").await, ["a name that nobody knows"]);
    admin.ok("RESET ALL").await;
    assert!(admin.shown("SHOW WARNINGS").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_has_the_granted_columns_in_the_words_of_sql() {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE TABLE t AS SELECT 1").await;
    admin.ok("CREATE VIEW v AS SELECT id FROM t").await;
    let path = server.files("x").await;
    admin.ok(&format!("CREATE EXTERNAL TABLE x STORED AS DELTA LOCATION '{path}'")).await;
    assert_eq!(admin.shown("DESCRIBE t").await, ["id INTEGER NO", "name VARCHAR YES"]);
    assert_eq!(admin.shown("SHOW COLUMNS FROM v").await, ["lazaret public v id INTEGER NO"]);
    assert_eq!(admin.shown("DESCRIBE system.settings").await.len(), 3);
    for relation in ["t", "v", "x"] {
        let only = Some(vec!["id".to_owned()]);
        server.grant_columns("ana", Privilege::Select, server.table(&format!("public.{relation}")), only).await;
    }
    let ana = server.client("ana");
    assert_eq!(ana.shown("DESCRIBE t").await, ["id INTEGER NO"]);
    server.grant("rui", Privilege::Insert, server.table("public.t")).await;
    assert_eq!(server.client("rui").rows("DESCRIBE t").await.unwrap_err().kind, PermissionDenied);

    let definition =
        async |client: &super::testing::Client<'_>, name: &str| client.shown(&format!("SHOW CREATE TABLE {name}")).await.join(" ");
    assert!(
        definition(&admin, "x")
            .await
            .ends_with(&format!("CREATE EXTERNAL TABLE lazaret.\"public\".x STORED AS DELTA LOCATION 'file://{path}'"))
    );
    let shown = definition(&ana, "x").await;
    assert!(shown.contains("\"id\" INTEGER NOT NULL") && !shown.contains("name") && !shown.contains("file:"), "{shown}");
    assert!(definition(&admin, "t").await.contains("USING DELTA"));
    assert!(definition(&admin, "v").await.ends_with("CREATE VIEW lazaret.\"public\".v AS SELECT id FROM t"));
    assert_eq!(ana.rows("SHOW CREATE TABLE v").await.unwrap_err().kind, PermissionDenied);
    assert_eq!(admin.rows("SHOW CREATE TABLE system.settings").await.unwrap_err().kind, Invalid);
}
