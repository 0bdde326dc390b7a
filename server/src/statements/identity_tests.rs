//! SET ROLE, tokens, certificates and owners: who may, and what it leaves.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use lazaret_auth::{ActiveRoles, CredentialKind, GroupName, ObjectId, Principal, PrincipalName, Privilege, SystemPrivilege, UserDirectory};
use lazaret_catalog::meta::Definition;

use super::testing::{Client, Server};
use super::{StatementContext, result_schema};
use crate::engine::Answer;
use crate::error::ErrorKind;
use crate::session::{Caller, Session, SessionState};
use crate::sql::{DEFAULT_STATEMENT_BYTES, parse};

const MANAGE_USERS: (ErrorKind, &str) = (ErrorKind::PermissionDenied, "MANAGE USERS on the system is required");

/// A session of this user that was opened with this credential.
fn opened_with<'a>(server: &'a Server, user: &str, credential: CredentialKind) -> Client<'a> {
    let client = server.client(user);
    let principal = Arc::new(Principal::local_user(user, credential, Some("t".to_owned()), None));
    let caller = Caller { principal, ..client.context.session.caller.clone() };
    let session = Session::new(caller, SessionState::new("lazaret", "public"));
    Client { server, context: StatementContext { session, ..client.context } }
}

async fn refused(client: &Client<'_>, text: &str, expected: (ErrorKind, &str)) {
    let (kind, message) = client.refused(text).await;
    assert_eq!((kind, message.as_str()), expected, "{text}");
}

/// The row that CREATE TOKEN answers with.
async fn made(client: &Client<'_>, text: &str) -> RecordBatch {
    let outcome = client.run(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let Some(Answer(row)) = outcome.answer else { panic!("{text}: no row") };
    assert_eq!(Some(row.schema()), result_schema(&parse(text, DEFAULT_STATEMENT_BYTES).unwrap()));
    assert_eq!(row.num_rows(), 1);
    row
}

fn text(row: &RecordBatch, column: &str) -> String {
    row.column_by_name(column).unwrap().as_string::<i32>().value(0).to_owned()
}

#[tokio::test]
async fn a_role_is_set_while_it_is_held() {
    let server = Server::new().await;
    let admin = server.client("admin");
    for statement in [
        "CREATE USER ana",
        "CREATE ROLE nurse",
        "CREATE ROLE staff",
        "CREATE ROLE other",
        "GRANT ROLE staff TO ROLE nurse",
        "GRANT ROLE nurse TO USER ana",
    ] {
        admin.ok(statement).await;
    }
    let ana = server.client("ana");
    let active = || {
        let state = server.state();
        let rights = ana.context.authority(state.as_ref());
        rights.active_roles().iter().map(|role| state.role_by_id(*role).unwrap().name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(active(), ["nurse", "staff"]);
    ana.ok("SET ROLE staff").await;
    assert_eq!(active(), ["staff"]);
    ana.ok("SET ROLE nurse").await;
    assert_eq!(active(), ["nurse", "staff"], "and what lies within it");
    ana.ok("SET ROLE NONE").await;
    assert!(active().is_empty());
    assert_eq!(ana.context.authority(server.state().as_ref()).held_roles().len(), 2, "what is held binds all the same");
    ana.ok("RESET ALL").await;
    assert!(active().is_empty(), "a role is no setting");
    for role in ["other", "nobody"] {
        let message = format!("role \"{role}\" not found among those that you hold");
        refused(&ana, &format!("SET ROLE {role}"), (ErrorKind::NotFound, &message)).await;
        refused(&admin, &format!("SET ROLE {role}"), (ErrorKind::NotFound, &message)).await;
    }
    assert!(active().is_empty(), "what is refused changes nothing");
    assert_eq!(ana.shown("SHOW ROLES").await, ["nurse USER ana false", "staff ROLE nurse false"]);
    ana.ok("RESET ROLE").await;
    assert_eq!(active(), ["nurse", "staff"]);

    // A role that is taken away is active no longer, and neither is another one that gets its name.
    ana.ok("SET ROLE nurse").await;
    admin.ok("REVOKE ROLE nurse FROM USER ana").await;
    assert!(active().is_empty());
    admin.ok("DROP ROLE nurse").await;
    admin.ok("CREATE ROLE nurse").await;
    admin.ok("GRANT ROLE nurse TO USER ana").await;
    let state = server.state();
    assert!(ana.context.authority(state.as_ref()).active_roles().is_empty());
    ana.ok("SET ROLE ALL").await;
    assert_eq!(ana.context.authority(state.as_ref()).active_roles().len(), 1);

    let passing = server.client("ana");
    let caller = Caller { session_key: None, ..passing.context.session.caller.clone() };
    let session = Session::new(caller, SessionState::new("lazaret", "public"));
    let passing = Client { server: &server, context: StatementContext { session, ..passing.context } };
    for statement in ["SET ROLE nurse", "SET ROLE NONE"] {
        assert_eq!(passing.refused(statement).await.0, ErrorKind::FailedPrecondition, "{statement}");
    }
    assert_eq!(passing.context.session.state.lock().active_roles, ActiveRoles::All);
}

#[tokio::test]
async fn tokens_are_made_shown_and_dropped_by_oneself_or_by_who_manages_users() {
    let server = Server::new().await;
    let admin = server.client("admin");
    for statement in ["CREATE USER etl", "CREATE USER rui PASSWORD 'a password'"] {
        admin.ok(statement).await;
    }
    let (etl, rui) = (server.client("etl"), server.client("rui"));
    let nightly = made(&admin, "CREATE TOKEN nightly FOR USER etl EXPIRES IN 90 DAYS").await;
    let own = made(&rui, "CREATE TOKEN bi FOR USER rui EXPIRES '2099-01-01T00:00:00Z'").await;
    assert_eq!((text(&nightly, "name"), text(&nightly, "user")), ("nightly".to_owned(), "etl".to_owned()));
    let token = text(&own, "token");
    let id = lazaret_auth::TokenId::parse(token.split('_').nth(1).unwrap()).unwrap();
    assert!(token.starts_with("lzt_"), "{token}");

    refused(&admin, "CREATE TOKEN nightly FOR USER etl EXPIRES IN 1 DAYS", (ErrorKind::AlreadyExists, "token \"nightly\" already exists"))
        .await;
    made(&admin, "CREATE TOKEN nightly FOR USER rui EXPIRES IN 1 DAYS").await;
    refused(&admin, "CREATE TOKEN n FOR USER nobody EXPIRES IN 1 DAYS", (ErrorKind::NotFound, "user \"nobody\" not found")).await;
    refused(&admin, "CREATE TOKEN n FOR USER etl EXPIRES '2020-01-01'", (ErrorKind::Invalid, "the token would have expired already")).await;
    for statement in [
        "CREATE TOKEN n FOR USER etl EXPIRES IN 1 DAYS",
        "CREATE TOKEN n FOR USER nobody EXPIRES IN 1 DAYS",
        "DROP TOKEN nightly FOR USER etl",
        "DROP TOKEN nightly FOR USER nobody",
        "ALTER USER rui SET CERTIFICATE SUBJECT 'CN=rui'",
    ] {
        refused(&rui, statement, MANAGE_USERS).await;
    }
    assert_eq!(rui.rows("SHOW TOKENS FOR USER etl").await.unwrap_err().kind, ErrorKind::PermissionDenied);
    assert_eq!(rui.rows("SHOW TOKENS FOR USER nobody").await.unwrap_err().kind, ErrorKind::PermissionDenied);
    assert_eq!(admin.rows("SHOW TOKENS FOR USER nobody").await.unwrap_err().kind, ErrorKind::NotFound);

    let names = |lines: Vec<String>| lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    assert_eq!(names(admin.shown("SHOW TOKENS").await), ["etl nightly", "rui bi", "rui nightly"]);
    assert_eq!(names(rui.shown("SHOW TOKENS").await), ["rui bi", "rui nightly"]);
    assert_eq!(names(etl.shown("SHOW TOKENS FOR USER etl").await), ["etl nightly"]);
    let shown = rui.shown("SHOW TOKENS").await.join("\n");
    let secret = token.splitn(3, '_').nth(2).unwrap();
    assert!(shown.contains(&text(&own, "token_id")) && shown.contains("2099-01-01T00:00:00Z") && !shown.contains(secret), "{shown}");

    assert_eq!(server.metadata.token(id).map(|token| (token.user, token.enabled)), Some(("rui".to_owned(), true)));
    admin.ok("ALTER USER rui DISABLE").await;
    assert_eq!(server.metadata.token(id).map(|token| token.enabled), Some(false));
    admin.ok("ALTER USER rui ENABLE").await;
    rui.ok("DROP TOKEN bi FOR USER rui").await;
    assert!(server.metadata.token(id).is_none());
    refused(&rui, "DROP TOKEN bi FOR USER rui", (ErrorKind::NotFound, "token \"bi\" not found")).await;
    admin.ok("DROP USER rui").await;
    admin.ok("CREATE USER rui").await;
    assert!(server.client("rui").shown("SHOW TOKENS").await.is_empty(), "the next of that name inherits none");
}

#[tokio::test]
async fn what_ends_by_itself_makes_nothing_that_lasts() {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE USER etl").await;
    let no_tokens = (ErrorKind::PermissionDenied, "a session that was opened with a token cannot create tokens");
    let token = opened_with(&server, "etl", CredentialKind::ServiceToken);
    refused(&token, "CREATE TOKEN n FOR USER etl EXPIRES IN 1 DAYS", no_tokens).await;
    refused(&token, "ALTER USER etl PASSWORD 'mine'", MANAGE_USERS).await;
    let certificate = opened_with(&server, "etl", CredentialKind::Certificate);
    refused(&certificate, "CREATE TOKEN n FOR USER etl EXPIRES IN 1 DAYS", MANAGE_USERS).await;
    refused(&certificate, "ALTER USER etl PASSWORD 'mine'", MANAGE_USERS).await;
    let admins_token = opened_with(&server, "admin", CredentialKind::ServiceToken);
    refused(&admins_token, "CREATE TOKEN n FOR USER etl EXPIRES IN 1 DAYS", no_tokens).await;
    let signed_in = opened_with(&server, "etl", CredentialKind::OwnToken);
    made(&signed_in, "CREATE TOKEN n FOR USER etl EXPIRES IN 1 DAYS").await;
    signed_in.ok("ALTER USER etl PASSWORD 'mine'").await;
    token.ok("DROP TOKEN n FOR USER etl").await;
}

#[tokio::test]
async fn a_user_has_so_many_tokens_and_no_more() {
    let server = Server::new().await;
    let admin = server.client("admin");
    admin.ok("CREATE USER etl").await;
    for n in 0..100 {
        made(&admin, &format!("CREATE TOKEN t{n} FOR USER etl EXPIRES IN 1 DAYS")).await;
    }
    let full = (ErrorKind::Exhausted, "a user has at most 100 tokens: drop one first");
    refused(&admin, "CREATE TOKEN more FOR USER etl EXPIRES IN 1 DAYS", full).await;
    admin.ok("DROP TOKEN t7 FOR USER etl").await;
    made(&admin, "CREATE TOKEN more FOR USER etl EXPIRES IN 1 DAYS").await;
}

#[tokio::test]
async fn a_certificate_subject_is_of_one_user() {
    let server = Server::new().await;
    let admin = server.client("admin");
    for statement in ["CREATE USER etl", "CREATE USER rui", "ALTER USER etl SET CERTIFICATE SUBJECT 'CN=etl, O=Hospital'"] {
        admin.ok(statement).await;
    }
    let taken = (ErrorKind::AlreadyExists, "certificate subject \"CN=etl,O=Hospital\" already exists");
    refused(&admin, "ALTER USER rui SET CERTIFICATE SUBJECT 'cn=etl,o=Hospital'", taken).await;
    assert_eq!(admin.shown("SHOW USERS").await, ["admin true true", "etl true false CN=etl,O=Hospital", "rui true false"]);
    admin.ok("ALTER USER etl SET CERTIFICATE SUBJECT NULL").await;
    admin.ok("ALTER USER rui SET CERTIFICATE SUBJECT 'cn=etl,o=Hospital'").await;
    assert_eq!(admin.shown("SHOW USERS").await, ["admin true true", "etl true false", "rui true false CN=etl,O=Hospital"]);
}

#[tokio::test]
async fn an_owner_is_oneself_or_whom_one_may_act_for() {
    let server = Server::new().await;
    let admin = server.client("admin");
    for statement in ["CREATE USER ana", "CREATE USER rui", "CREATE TABLE t AS SELECT 1", "CREATE VIEW v AS SELECT 1 AS one"] {
        admin.ok(statement).await;
    }
    let (ana, table) = (server.client("ana"), server.table("public.t"));
    let owner = |name: &str| server.relation(name).unwrap().owner.clone();
    refused(&ana, "ALTER TABLE t OWNER TO ana", (ErrorKind::NotFound, "table \"lazaret.public.t\" not found")).await;
    server.grant("ana", Privilege::Select, table).await;
    refused(&ana, "ALTER TABLE t OWNER TO ana", (ErrorKind::PermissionDenied, "MANAGE on table \"lazaret.public.t\" is required")).await;
    for object in [table, server.table("public.v")] {
        server.grant("ana", Privilege::Manage, object).await;
    }
    let no_impersonation = (ErrorKind::PermissionDenied, "IMPERSONATE on the system is required");
    for statement in ["ALTER TABLE t OWNER TO rui", "ALTER VIEW v OWNER TO admin", "ALTER VIEW v OWNER TO nobody"] {
        refused(&ana, statement, no_impersonation).await;
    }
    assert_eq!((owner("public.t"), owner("public.v")), (PrincipalName::local("admin"), PrincipalName::local("admin")));
    let (kind, _) = ana.refused("ALTER TABLE v OWNER TO ana").await;
    assert_eq!(kind, ErrorKind::Invalid, "a view is no table");
    ana.ok("ALTER TABLE t OWNER TO ana").await;
    ana.ok("ALTER VIEW v OWNER TO ana").await;
    assert_eq!((owner("public.t"), owner("public.v")), (PrincipalName::local("ana"), PrincipalName::local("ana")));
    refused(&admin, "DROP USER ana", (ErrorKind::FailedPrecondition, "user \"ana\" cannot be dropped: it owns schemas, tables or views"))
        .await;
    server.grant("ana", Privilege::System(SystemPrivilege::Impersonate), ObjectId::System).await;
    refused(&ana, "ALTER TABLE t OWNER TO \"local:nobody\"", (ErrorKind::NotFound, "user \"local:nobody\" not found")).await;
    ana.ok("ALTER TABLE t OWNER TO rui").await;
    admin.ok("ALTER VIEW v OWNER TO admin").await;
    admin.ok("DROP USER ana").await;
}

#[tokio::test]
async fn a_view_that_changes_hands_has_its_new_owners_groups() {
    let server = Server::new().await;
    let mut admin = server.client("admin");
    admin.context.issuers = Arc::new(["hospital".to_owned()]);
    for statement in [
        "CREATE USER ana",
        "CREATE VIEW v AS SELECT 1 AS one",
        "GRANT MANAGE ON VIEW v TO USER \"hospital:eva\"",
        "CREATE TABLE t AS SELECT 1",
    ] {
        admin.ok(statement).await;
    }
    let readers = GroupName { issuer: "hospital".to_owned(), group: "readers".to_owned() };
    let eva = server.client("eva");
    let name = PrincipalName::new("hospital", "eva");
    let principal = Principal { name, groups: [readers.clone()].into(), ..Principal::clone(eva.context.session.principal()) };
    let caller = Caller { principal: Arc::new(principal), ..eva.context.session.caller.clone() };
    let session = Session::new(caller, SessionState::new("lazaret", "public"));
    let context = StatementContext { session, issuers: Arc::clone(&admin.context.issuers), ..eva.context };
    let eva = Client { server: &server, context };
    let groups = || match &server.relation("public.v").unwrap().definition {
        Definition::View { owner_groups, .. } => owner_groups.clone(),
        Definition::Table { .. } => panic!("a view is no table"),
    };
    eva.ok("ALTER VIEW v OWNER TO \"hospital:eva\"").await;
    assert_eq!(groups(), std::collections::BTreeSet::from([readers]));
    let unknown = "the groups of \"hospital:bo\" are not known here: that user must take the view itself";
    refused(&admin, "ALTER VIEW v OWNER TO \"hospital:bo\"", (ErrorKind::Invalid, unknown)).await;
    admin.ok("ALTER TABLE t OWNER TO \"hospital:bo\"").await;
    admin.ok("ALTER VIEW v OWNER TO ana").await;
    assert!(groups().is_empty());
}
