use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use arrow::util::pretty::pretty_format_batches;
use lazaret_auth::grant::{authorize, is_visible};
use lazaret_auth::{
    AccessReader, Authority, CatalogId, CredentialKind, GroupName, LOCAL_ISSUER, ObjectId, ObjectPath, Principal, PrincipalName, Privilege,
    SchemaId, TableId, password,
};
use lazaret_catalog::caches::{CacheLimits, Caches};
use lazaret_catalog::lake::Lake;
use lazaret_catalog::meta::{Change, Definition, Entity, MemoryStore, Metadata, Relation, State, StateError};
use lazaret_catalog::stores::{Stores, StoresConfig};

use super::*;
use crate::audit::{AuditConfig, AuditKey, AuditLog};
use crate::emergency::Warden;
use crate::session::{Caller, Session, SessionState, Sessions};

/// A server with catalog `lazaret`, schema `public`, and what a test puts into it.
struct Lab {
    metadata: Arc<Metadata>,
    lake: Arc<Lake>,
    issuers: Arc<[String]>,
    warden: Arc<Warden>,
    _audit: tempfile::TempDir,
}

impl Lab {
    async fn new(issuers: &[&str]) -> Self {
        let metadata = Metadata::open(Arc::new(MemoryStore::new())).await.unwrap();
        metadata.bootstrap("no password").await.unwrap();
        let caches =
            Caches::new(CacheLimits { footer_bytes: 1 << 20, snapshot_bytes: 1 << 20, data_bytes: 1 << 20, ..CacheLimits::default() });
        let lake = Lake::new(Arc::new(Stores::new(StoresConfig::default())), Arc::new(caches));
        let issuers = issuers.iter().map(|name| (*name).to_owned()).collect();
        let metadata = Arc::new(metadata);
        let folder = tempfile::tempdir().unwrap();
        let audit = AuditLog::open(folder.path(), AuditConfig::new(1, AuditKey::new([1; 32]))).unwrap();
        let warden = Arc::new(Warden::new(Arc::clone(&metadata), audit, Arc::default(), SystemTime::now));
        Self { metadata, lake: Arc::new(lake), issuers, warden, _audit: folder }
    }

    /// With a schema and views `public.a`, `public.b` and `other.c` over (id BIGINT, region TEXT), all of the admin.
    async fn with_views() -> Self {
        let lab = Self::new(&[]).await;
        let admin = PrincipalName::local("admin");
        lab.metadata
            .change(|state| {
                let catalog = state.catalog("lazaret").unwrap().id;
                let public = state.schema(catalog, "public").unwrap().id;
                let other = SchemaId::generate();
                let schema = lazaret_catalog::meta::Schema { id: other, catalog, name: "other".to_owned(), owner: admin.clone() };
                let mut changes = vec![Change::Put(Entity::Schema(schema))];
                for (schema, name) in [(public, "a"), (public, "b"), (other, "c")] {
                    let query = "SELECT 1::BIGINT AS id, 'x' AS region".to_owned();
                    let (home, names) = ("lazaret".to_owned(), "public".to_owned());
                    let definition = Definition::View { query, catalog: home, schema: names, owner_groups: Default::default() };
                    let (id, name, owner) = (TableId::generate(), name.to_owned(), admin.clone());
                    let view = Relation { id, schema, name, owner, definition, row_security: false, comment: None };
                    changes.push(Change::Put(Entity::Relation(view)));
                }
                Ok::<_, StateError>(changes)
            })
            .await
            .unwrap();
        lab
    }

    fn principal(&self, name: PrincipalName, groups: &[&str]) -> StatementContext {
        let local = Principal::local_user(&name.subject, CredentialKind::Password, None, None);
        let issuer = name.issuer.clone();
        let groups: BTreeSet<_> = groups.iter().map(|group| GroupName { issuer: issuer.clone(), group: (*group).to_owned() }).collect();
        let principal = Arc::new(Principal { name, groups, ..local });
        let caller = Caller { principal, session_key: Some("k".to_owned()), client_address: None, client_driver: None };
        let session = Session::new(caller, SessionState::new("lazaret", "public"));
        let (metadata, lake, issuers) = (Arc::clone(&self.metadata), Arc::clone(&self.lake), Arc::clone(&self.issuers));
        let sessions = Arc::new(Sessions::new(1, SessionState::new("lazaret", "public")));
        let warden = Arc::clone(&self.warden);
        StatementContext { metadata, lake, session, issuers, activity: Arc::default(), sessions, warden }
    }

    fn user(&self, name: &str) -> StatementContext {
        self.principal(PrincipalName::local(name), &[])
    }

    async fn admin(&self, statements: &[&str]) {
        for text in statements {
            self.user("admin").run(text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    /// What each principal hears of each statement: `ok`, or the kind and the text of the error.
    async fn hears(&self, cases: &[(&str, &str, &str)]) {
        let mut wrong = Vec::new();
        for (user, text, expected) in cases {
            let heard = match self.user(user).run(text).await {
                Ok(_) => "ok".to_owned(),
                Err(error) => format!("{:?}: {error}", error.kind),
            };
            if heard != *expected {
                wrong.push(format!("{user}> {text}\n  expected {expected}\n  heard    {heard}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    async fn shows(&self, user: &str, text: &str) -> String {
        let context = self.user(user);
        let Statement::Show(show) = crate::sql::parse(text, 1 << 20).unwrap() else { panic!("{text}") };
        let batch = rows(&context, &self.metadata.current(), &show).unwrap();
        assert_eq!(Some(batch.schema()), result_schema(&show));
        let table = pretty_format_batches(&[batch]).unwrap().to_string();
        table.lines().filter(|line| line.starts_with('|')).skip(1).map(clean).collect::<Vec<_>>().join("\n")
    }

    fn state(&self) -> Arc<State> {
        self.metadata.current()
    }

    fn path(&self, schema: &str, name: &str) -> ObjectPath {
        let state = self.state();
        let catalog: CatalogId = state.catalog("lazaret").unwrap().id;
        let schema = state.schema(catalog, schema).unwrap().id;
        ObjectPath::table(catalog, schema, state.relation(schema, name).unwrap().id)
    }

    fn rights(&self, user: &str) -> Authority {
        self.user(user).authority(self.state().as_ref())
    }
}

fn clean(line: &str) -> String {
    line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join("|")
}

impl StatementContext {
    async fn run(&self, text: &str) -> Result<UpdateOutcome> {
        super::run(self, &crate::sql::parse(text, 1 << 20)?).await
    }

    fn warnings(&self) -> Vec<String> {
        self.session.state.lock().warnings.clone()
    }
}

#[tokio::test]
async fn users_are_made_by_those_who_manage_users() {
    let lab = Lab::new(&[]).await;
    lab.hears(&[
        ("admin", "CREATE USER ada PASSWORD 'one'", "ok"),
        ("admin", "CREATE USER ada", "AlreadyExists: user \"ada\" already exists"),
        ("admin", "CREATE USER IF NOT EXISTS ada PASSWORD 'two'", "ok"),
        ("admin", "CREATE USER \"hospital:ada\"", "Invalid: a user's name has at most 256 bytes and no colon at line 1, column 13"),
        ("admin", "CREATE USER bob PASSWORD ''", "Invalid: a password cannot be empty"),
        ("ada", "CREATE USER eve", "PermissionDenied: MANAGE USERS on the system is required"),
        ("ada", "CREATE USER ada", "PermissionDenied: MANAGE USERS on the system is required"),
        ("ada", "ALTER USER ada PASSWORD 'three'", "ok"),
        ("ada", "ALTER USER ada DISABLE", "PermissionDenied: MANAGE USERS on the system is required"),
        ("ada", "ALTER USER admin PASSWORD 'x'", "PermissionDenied: MANAGE USERS on the system is required"),
        ("ada", "ALTER USER nobody PASSWORD 'x'", "PermissionDenied: MANAGE USERS on the system is required"),
        ("admin", "ALTER USER nobody ENABLE", "NotFound: user \"nobody\" not found at line 1, column 12"),
        ("ada", "DROP USER IF EXISTS nobody", "PermissionDenied: MANAGE USERS on the system is required"),
        ("admin", "DROP USER nobody", "NotFound: user \"nobody\" not found at line 1, column 11"),
    ])
    .await;
    let state = lab.state();
    let ada = state.user("ada").unwrap();
    assert!(password::verify("three", ada.password_hash.as_deref().unwrap()).await.unwrap());
    assert!(ada.tokens_valid_after_s > 0 && state.user("bob").is_none());
    let hospital = lab.principal(PrincipalName::new("hospital", "ada"), &[]);
    let error = hospital.run("ALTER USER ada PASSWORD 'x'").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied, "another issuer's ada is not ours");

    lab.admin(&["ALTER USER ada DISABLE"]).await;
    assert!(!lab.state().is_enabled(&PrincipalName::local("ada")));
    lab.admin(&["ALTER USER ada ENABLE", "DROP USER ada"]).await;
    let admin = lab.user("admin");
    admin.run("DROP USER IF EXISTS ada").await.unwrap();
    assert_eq!(admin.warnings(), ["user \"ada\" not found, nothing was dropped"]);
    assert_eq!(lab.shows("admin", "SHOW USERS").await, "admin|true|true|");
}

#[tokio::test]
async fn a_dropped_user_leaves_nothing_to_the_next_of_that_name() {
    let lab = Lab::with_views().await;
    lab.admin(&["CREATE USER ada", "CREATE ROLE r", "GRANT ROLE r TO USER ada", "GRANT ALL ON VIEW a TO USER ada"]).await;
    lab.admin(&["GRANT MANAGE POLICIES ON VIEW a TO USER ada", "CREATE USER rui"]).await;
    lab.user("ada").run("CREATE POLICY p ON VIEW a TO USER rui USING (true)").await.unwrap();
    lab.hears(&[
        ("admin", "DROP USER admin", "FailedPrecondition: user \"admin\" cannot be dropped: it owns schemas, tables or views"),
        ("admin", "DROP USER ada", "FailedPrecondition: user \"ada\" cannot be dropped: it has made policies"),
        ("admin", "DROP USER rui", "FailedPrecondition: user \"rui\" cannot be dropped: policies name it"),
        ("admin", "DROP POLICY p ON VIEW a", "ok"),
        ("admin", "DROP USER ada", "ok"),
        ("admin", "CREATE USER ada", "ok"),
    ])
    .await;
    let state = lab.state();
    assert!(lab.rights("ada").held_roles().is_empty());
    assert!(!is_visible(state.as_ref(), &lab.rights("ada"), lab.path("public", "a")));
}

#[tokio::test]
async fn roles_are_held_through_roles_and_never_in_a_circle() {
    let lab = Lab::new(&["hospital"]).await;
    lab.admin(&["CREATE USER ada", "CREATE ROLE nurse", "CREATE ROLE staff", "GRANT ROLE staff TO ROLE nurse"]).await;
    lab.admin(&["GRANT ROLE nurse TO USER ada, GROUP 'icu', USER \"hospital:bo\"", "GRANT ROLE nurse TO USER ada"]).await;
    lab.hears(&[
        ("admin", "CREATE ROLE nurse", "AlreadyExists: role \"nurse\" already exists"),
        ("admin", "CREATE ROLE IF NOT EXISTS nurse", "ok"),
        ("admin", "GRANT ROLE nurse TO ROLE staff", "Invalid: role \"nurse\" cannot be given to \"staff\", which it holds itself"),
        ("admin", "GRANT ROLE nurse TO ROLE nurse", "Invalid: role \"nurse\" cannot be given to \"nurse\", which it holds itself"),
        ("admin", "GRANT ROLE none TO USER ada", "NotFound: role \"none\" not found at line 1, column 12"),
        ("admin", "GRANT ROLE nurse TO USER \"local:eve\"", "NotFound: user \"local:eve\" not found at line 1, column 26"),
        ("admin", "GRANT ROLE nurse TO USER \"clinic:eve\"", "Invalid: there is no issuer \"clinic\" at line 1, column 26"),
        ("ada", "GRANT ROLE staff TO USER ada", "PermissionDenied: MANAGE USERS on the system is required"),
        ("ada", "DROP ROLE none", "PermissionDenied: MANAGE USERS on the system is required"),
    ])
    .await;
    assert_eq!(lab.rights("ada").held_roles().len(), 2);
    let bo = lab.principal(PrincipalName::new("hospital", "bo"), &[]);
    assert_eq!(bo.authority(lab.state().as_ref()).held_roles().len(), 2);
    let eva = lab.principal(PrincipalName::new("hospital", "eva"), &["icu"]);
    assert_eq!(eva.authority(lab.state().as_ref()).held_roles().len(), 2);
    assert_eq!(
        lab.shows("admin", "SHOW ROLES").await,
        "nurse|USER ada, GROUP 'hospital:icu', USER \"hospital:bo\"|false\nstaff|ROLE nurse|false"
    );
    assert_eq!(lab.shows("ada", "SHOW ROLES").await, "nurse|USER ada|true\nstaff|ROLE nurse|true");
    assert_eq!(lab.shows("eve", "SHOW ROLES").await, "");
    assert_eq!(lab.shows("ada", "SHOW USERS").await, "ada|true|false|");

    let admin = lab.user("admin");
    admin.run("REVOKE ROLE nurse FROM USER ada, ROLE staff").await.unwrap();
    assert_eq!(admin.warnings(), ["role \"nurse\" was not given to \"staff\""]);
    assert!(lab.rights("ada").held_roles().is_empty());
    let gone = admin.run("REVOKE ROLE nurse FROM USER \"local:eve\"").await.unwrap_err();
    assert_eq!(gone.to_string(), "user \"local:eve\" not found at line 1, column 29", "there is nobody to take it from");
    lab.admin(&["DROP ROLE nurse", "DROP ROLE IF EXISTS nurse", "DROP ROLE staff"]).await;
    assert_eq!(lab.state().role_grants().count(), 0);
}

#[tokio::test]
async fn the_short_form_of_a_name_is_refused_while_it_can_mean_several() {
    let lab = Lab::new(&["hospital"]).await;
    lab.admin(&["CREATE ROLE r", "CREATE USER ada", "GRANT ROLE r TO USER \"hospital:bo\"", "GRANT ROLE r TO USER ada"]).await;
    lab.admin(&["CREATE ROLE s", "GRANT ROLE s TO USER bo"]).await;
    lab.hears(&[
        ("admin", "GRANT ROLE r TO USER \"hospital:ada\"", "ok"),
        (
            "admin",
            "GRANT ROLE s TO USER ada",
            "Invalid: \"ada\" can mean \"hospital:ada\" or \"local:ada\": write it in full at line 1, column 22",
        ),
        ("admin", "GRANT ROLE s TO USER \"local:ada\"", "ok"),
        (
            "admin",
            "GRANT ROLE s TO USER eve",
            "Invalid: no principal \"eve\" is known: write it in full, such as \"hospital:eve\" or \"local:eve\" at line 1, column 22",
        ),
    ])
    .await;
    let bo = lab.principal(PrincipalName::new("hospital", "bo"), &[]);
    assert_eq!(bo.authority(lab.state().as_ref()).held_roles().len(), 2, "stored in full");
    assert!(lab.state().role_grants().any(|grant| grant.grantee == lazaret_auth::Grantee::User(PrincipalName::new(LOCAL_ISSUER, "ada"))));
}

#[tokio::test]
async fn what_one_may_not_see_is_not_there() {
    let lab = Lab::with_views().await;
    lab.admin(&["CREATE USER ada", "CREATE USER bo", "GRANT SELECT ON VIEW a TO USER ada"]).await;
    let hidden = "NotFound: view \"lazaret.public.b\" not found";
    let missing = "NotFound: view \"lazaret.public.nothing\" not found";
    lab.hears(&[
        ("ada", "GRANT SELECT ON VIEW b TO USER bo", hidden),
        ("ada", "GRANT SELECT ON VIEW nothing TO USER bo", missing),
        ("ada", "REVOKE SELECT ON VIEW b FROM USER bo", hidden),
        ("ada", "CREATE POLICY p ON VIEW b TO ALL USING (true)", hidden),
        ("ada", "DROP POLICY p ON VIEW b", hidden),
        ("ada", "DROP POLICY IF EXISTS p ON VIEW b", "ok"),
        ("ada", "ALTER VIEW b ENABLE ROW LEVEL SECURITY", hidden),
        ("ada", "GRANT SELECT ON SCHEMA other TO USER bo", "NotFound: schema \"lazaret.other\" not found"),
        ("ada", "GRANT SELECT ON SCHEMA missing TO USER bo", "NotFound: schema \"lazaret.missing\" not found"),
        ("bo", "GRANT SELECT ON CATALOG lazaret TO USER bo", "NotFound: catalog \"lazaret\" not found"),
        ("bo", "GRANT SELECT ON CATALOG missing TO USER bo", "NotFound: catalog \"missing\" not found"),
        (
            "ada",
            "GRANT SELECT ON VIEW a TO USER bo",
            "PermissionDenied: SELECT on view \"lazaret.public.a\" with grant option, or MANAGE, is required",
        ),
        (
            "ada",
            "GRANT SELECT ON SCHEMA public TO USER bo",
            "PermissionDenied: SELECT on schema \"lazaret.public\" with grant option, or MANAGE, is required",
        ),
        (
            "ada",
            "CREATE POLICY p ON VIEW a TO ALL USING (true)",
            "PermissionDenied: MANAGE POLICIES on view \"lazaret.public.a\" is required",
        ),
        ("ada", "ALTER VIEW a ENABLE ROW LEVEL SECURITY", "PermissionDenied: MANAGE POLICIES on view \"lazaret.public.a\" is required"),
        ("admin", "GRANT SELECT ON TABLE a TO USER bo", "Invalid: \"lazaret.public.a\" is a view, not a table"),
        ("ada", "GRANT READ AUDIT ON SYSTEM TO USER ada", "PermissionDenied: READ AUDIT on the system with grant option is required"),
    ])
    .await;
}

#[tokio::test]
async fn privileges_are_passed_on_by_manage_or_grant_option() {
    let lab = Lab::with_views().await;
    lab.admin(&["CREATE USER ada", "CREATE USER bo", "CREATE ROLE r", "GRANT SELECT ON VIEW a TO USER ada WITH GRANT OPTION"]).await;
    lab.hears(&[
        ("ada", "GRANT SELECT ON VIEW a TO USER bo, ROLE r", "ok"),
        (
            "ada",
            "GRANT INSERT ON VIEW a TO USER bo",
            "PermissionDenied: INSERT on view \"lazaret.public.a\" with grant option, or MANAGE, is required",
        ),
        (
            "bo",
            "GRANT SELECT ON VIEW a TO ROLE r",
            "PermissionDenied: SELECT on view \"lazaret.public.a\" with grant option, or MANAGE, is required",
        ),
        ("admin", "GRANT MANAGE ON SCHEMA public TO USER bo", "ok"),
        ("bo", "GRANT ALL ON VIEW b TO ROLE r", "ok"),
        (
            "bo",
            "GRANT MANAGE POLICIES ON VIEW b TO USER bo",
            "PermissionDenied: MANAGE POLICIES on view \"lazaret.public.b\" with grant option is required",
        ),
        ("admin", "GRANT MANAGE POLICIES ON VIEW b TO USER bo", "ok"),
        ("admin", "GRANT READ AUDIT, READ FILES ON SYSTEM TO ROLE r", "ok"),
        ("admin", "GRANT SELECT ON VIEW a TO USER nobody", "NotFound: user \"nobody\" not found at line 1, column 32"),
        (
            "admin",
            "GRANT SELECT ON VIEW a TO GROUP 'g'",
            "Invalid: group \"g\": no issuer is configured, and users with passwords have no groups",
        ),
    ])
    .await;
    let path = lab.path("public", "a");
    let may = |user: &str, privilege| authorize(lab.state().as_ref(), &lab.rights(user), path, privilege).is_ok();
    assert!(may("bo", Privilege::Select) && may("bo", Privilege::Manage) && !may("ada", Privilege::Manage));

    // Twice is once; the option is added.
    let before = lab.state().epoch();
    lab.user("ada").run("GRANT SELECT ON VIEW a TO USER bo").await.unwrap();
    assert_eq!(lab.state().epoch(), before);
    lab.user("ada").run("GRANT SELECT ON VIEW a TO USER bo WITH GRANT OPTION").await.unwrap();
    assert_eq!(lab.state().grants_on(ObjectId::Table(path.table.unwrap())).len(), 3);

    // Whoever has only the option takes back only what he gave.
    lab.hears(&[
        (
            "ada",
            "REVOKE SELECT ON VIEW a FROM USER ada",
            "PermissionDenied: SELECT on view \"lazaret.public.a\" with grant option, or MANAGE, is required",
        ),
        ("ada", "REVOKE GRANT OPTION FOR SELECT ON VIEW a FROM USER bo", "ok"),
        ("ada", "REVOKE SELECT ON VIEW a FROM USER bo, ROLE r", "ok"),
        ("admin", "REVOKE SELECT ON VIEW a FROM USER ada", "ok"),
    ])
    .await;
    assert!(lab.state().grants_on(ObjectId::Table(path.table.unwrap())).is_empty());
    let admin = lab.user("admin");
    admin.run("REVOKE SELECT ON VIEW a FROM USER ada").await.unwrap();
    assert_eq!(admin.warnings(), ["SELECT on view \"lazaret.public.a\" was not given to \"ada\""]);
}

#[tokio::test]
async fn a_part_of_all_can_be_taken_back() {
    let lab = Lab::with_views().await;
    lab.admin(&["CREATE USER ada", "GRANT ALL ON VIEW a TO USER ada", "REVOKE SELECT ON VIEW a FROM USER ada"]).await;
    let path = lab.path("public", "a");
    let may = |privilege| authorize(lab.state().as_ref(), &lab.rights("ada"), path, privilege).is_ok();
    assert!(!may(Privilege::Select) && may(Privilege::Insert) && may(Privilege::Manage));
    lab.admin(&["REVOKE ALL ON VIEW a FROM USER ada"]).await;
    assert!(lab.state().grants_on(ObjectId::Table(path.table.unwrap())).is_empty());

    // The admin's own grants are ordinary ones.
    lab.admin(&["GRANT ALL ON CATALOG lazaret TO USER ada", "REVOKE ALL ON CATALOG lazaret FROM USER admin"]).await;
    lab.hears(&[(
        "admin",
        "GRANT SELECT ON VIEW b TO USER admin",
        "PermissionDenied: SELECT on view \"lazaret.public.b\" with grant option, or MANAGE, is required",
    )])
    .await;
    assert!(authorize(lab.state().as_ref(), &lab.rights("admin"), path, Privilege::Select).is_err());
}

#[tokio::test]
async fn columns_are_granted_by_name() {
    let lab = Lab::with_views().await;
    lab.admin(&["CREATE USER ada", "CREATE USER bo", "GRANT SELECT (region, id) ON VIEW a TO USER ada WITH GRANT OPTION"]).await;
    lab.hears(&[
        ("admin", "GRANT SELECT (regoin) ON VIEW a TO USER ada", "NotFound: column \"regoin\" not found at line 1, column 15"),
        ("ada", "GRANT SELECT (id) ON VIEW a TO USER bo", "ok"),
        (
            "ada",
            "GRANT SELECT ON VIEW a TO USER bo",
            "PermissionDenied: SELECT on view \"lazaret.public.a\" with grant option, or MANAGE, is required",
        ),
        ("admin", "REVOKE SELECT (region) ON VIEW a FROM USER ada", "ok"),
    ])
    .await;
    assert_eq!(
        lab.shows("admin", "SHOW GRANTS ON a").await,
        "CATALOG|lazaret|ALL||USER|admin|true|false|admin\n\
         VIEW|lazaret.public.a|SELECT|id|USER|ada|true|false|admin\n\
         VIEW|lazaret.public.a|SELECT|id|USER|bo|false|false|ada"
    );
    assert_eq!(lab.shows("bo", "SHOW GRANTS").await, "VIEW|lazaret.public.a|SELECT|id|USER|bo|false|false|ada");
    lab.admin(&["GRANT SELECT ON VIEW b TO USER ada"]).await;
    lab.hears(&[(
        "admin",
        "REVOKE SELECT (id) ON VIEW b FROM USER ada",
        "Invalid: SELECT is given on every column: revoke that, and grant the others",
    )])
    .await;
    // A column that is denied beside ALL is given back by name.
    lab.admin(&["GRANT ALL ON VIEW b TO USER bo", "DENY SELECT (id) ON VIEW b TO USER bo", "REVOKE SELECT (id) ON VIEW b FROM USER bo"])
        .await;
    assert_eq!(lab.shows("admin", "SHOW GRANTS TO USER bo").await.matches("lazaret.public.b|").count(), 1);
    assert!(!lab.shows("admin", "SHOW GRANTS TO USER bo").await.contains("|true|"));
}

#[tokio::test]
async fn grants_show_what_one_has_and_what_one_manages() {
    let lab = Lab::with_views().await;
    lab.admin(&["CREATE USER ada", "CREATE USER bo", "CREATE ROLE r", "GRANT ROLE r TO USER ada", "GRANT SELECT ON VIEW a TO ROLE r"])
        .await;
    lab.admin(&["GRANT INSERT ON VIEW a TO USER bo", "GRANT SELECT ON VIEW b TO USER bo", "GRANT READ AUDIT ON SYSTEM TO USER bo"]).await;
    assert_eq!(
        lab.shows("ada", "SHOW GRANTS").await,
        "ROLE|r|ROLE||USER|ada|false|false|admin\nVIEW|lazaret.public.a|SELECT||ROLE|r|false|false|admin"
    );
    assert_eq!(lab.shows("ada", "SHOW GRANTS ON a").await, "VIEW|lazaret.public.a|SELECT||ROLE|r|false|false|admin");
    assert_eq!(lab.shows("ada", "SHOW GRANTS TO USER bo").await, "");
    assert_eq!(
        lab.shows("admin", "SHOW GRANTS TO bo").await,
        "SYSTEM|system|READ AUDIT||USER|bo|false|false|admin\n\
         VIEW|lazaret.public.a|INSERT||USER|bo|false|false|admin\n\
         VIEW|lazaret.public.b|SELECT||USER|bo|false|false|admin"
    );
    let statement = crate::sql::parse("SHOW GRANTS ON b", 1 << 20).unwrap();
    let Statement::Show(show) = statement else { panic!("not a SHOW") };
    let error = rows(&lab.user("ada"), &lab.state(), &show).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NotFound, "table \"lazaret.public.b\" not found"));
}

#[tokio::test]
async fn policies_are_bound_when_they_are_made() {
    let lab = Lab::with_views().await;
    lab.admin(&["CREATE USER ada", "CREATE ROLE r"]).await;
    lab.hears(&[
        (
            "admin",
            "CREATE POLICY p ON VIEW a TO ALL USING (region)",
            "Invalid: a policy must be BOOLEAN, this one is Utf8 at line 1, column 41",
        ),
        ("admin", "CREATE POLICY p ON VIEW a TO ROLE none USING (true)", "NotFound: role \"none\" not found at line 1, column 35"),
        (
            "admin",
            "CREATE POLICY p ON VIEW a TO ALL USING (random() < 0.5)",
            "Invalid: function \"random\" is not allowed in a policy: it gives another value with every call at line 1, column 41",
        ),
        (
            "admin",
            "CREATE POLICY p ON VIEW a TO ALL USING (sum(id) > 1)",
            "Invalid: an aggregate function is not allowed in a policy at line 1, column 41",
        ),
        ("admin", "CREATE POLICY p ON VIEW a TO ROLE r USING (region = claim('region'))", "ok"),
        ("admin", "CREATE POLICY p ON VIEW a TO ALL USING (true)", "AlreadyExists: policy \"p\" already exists"),
        ("admin", "CREATE POLICY p ON SCHEMA other AS RESTRICTIVE TO ALL EXCEPT USER admin USING (id > 1)", "ok"),
    ])
    .await;
    let error = lab.user("admin").run("CREATE POLICY q ON VIEW a TO ALL USING (reigon = 'x')").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("reigon"), "{error}");

    let view = ObjectId::Table(lab.path("public", "a").table.unwrap());
    let first = Arc::clone(lab.state().policy(view, "p").unwrap());
    assert_eq!((first.version, first.columns.len(), first.columns[0].name.as_str()), (1, 1, "region"));
    assert!(lab.state().row_security(lab.path("public", "a").table.unwrap()));
    assert!(lab.state().row_security(lab.path("other", "c").table.unwrap()));
    assert!(!lab.state().row_security(lab.path("public", "b").table.unwrap()));

    lab.admin(&["CREATE OR REPLACE POLICY p ON VIEW a TO USER ada USING (id = 1 AND region = 'x') COMMENT 'why'"]).await;
    let second = Arc::clone(lab.state().policy(view, "p").unwrap());
    assert_eq!((second.id, second.version, second.columns.len()), (first.id, 2, 2));
    assert_eq!(
        lab.shows("admin", "SHOW POLICIES").await,
        "p|SCHEMA|lazaret.other|RESTRICTIVE|ALL|ALL|USER admin|id > 1||admin|1||\n\
         p|VIEW|lazaret.public.a|PERMISSIVE|ALL|USER ada||id = 1 AND region = 'x'||admin|2|why|"
    );
    lab.admin(&["GRANT ALL ON VIEW a TO USER ada"]).await;
    assert_eq!(lab.shows("ada", "SHOW POLICIES ON a").await, "", "owning a view does not show who sees which rows of it");
}

#[tokio::test]
async fn the_first_policy_enables_and_the_last_one_does_not_disable() {
    let lab = Lab::with_views().await;
    let table = lab.path("public", "a").table.unwrap();
    let enabled = || lab.state().row_security(table);
    lab.admin(&["CREATE POLICY p ON VIEW a TO ALL USING (true)"]).await;
    assert!(enabled());
    let admin = lab.user("admin");
    admin.run("DROP POLICY p ON VIEW a").await.unwrap();
    assert!(enabled());
    assert_eq!(admin.warnings(), ["view \"lazaret.public.a\" has no policy left and row-level security on: it shows no rows"]);
    lab.admin(&["ALTER VIEW a DISABLE ROW LEVEL SECURITY"]).await;
    assert!(!enabled());
    lab.admin(&["CREATE POLICY p ON VIEW a TO ALL USING (true)", "ALTER VIEW a DISABLE ROW LEVEL SECURITY"]).await;
    lab.admin(&["CREATE POLICY q ON VIEW a TO ALL USING (true)"]).await;
    assert!(!enabled(), "only the first one enables");
    lab.admin(&["ALTER VIEW a ENABLE ROW LEVEL SECURITY"]).await;
    assert!(enabled());
    lab.hears(&[
        ("admin", "DROP POLICY none ON VIEW a", "NotFound: policy \"none\" not found at line 1, column 13"),
        ("admin", "DROP POLICY IF EXISTS none ON VIEW a", "ok"),
    ])
    .await;
}

#[tokio::test]
async fn a_policy_for_somebody_unknown_is_kept_with_a_warning() {
    let lab = Lab::with_views().await;
    let admin = lab.user("admin");
    admin.run("CREATE POLICY p ON VIEW a TO USER adaa USING (true)").await.unwrap();
    assert_eq!(admin.warnings(), ["policy \"p\" names \"adaa\", who is not known: a misspelt name?"]);
    assert_eq!(
        lab.shows("admin", "SHOW POLICIES ON VIEW a").await,
        "p|VIEW|lazaret.public.a|PERMISSIVE|ALL|USER adaa||true||admin|1||not known: USER adaa"
    );
    lab.admin(&["CREATE USER adaa"]).await;
    assert!(lab.shows("admin", "SHOW POLICIES ON VIEW a").await.ends_with("|1||"));
    lab.hears(&[("admin", "DROP USER adaa", "FailedPrecondition: user \"adaa\" cannot be dropped: policies name it")]).await;
}

#[tokio::test]
async fn a_role_that_a_policy_names_stays() {
    let lab = Lab::with_views().await;
    lab.admin(&["CREATE ROLE r", "CREATE POLICY p ON VIEW a TO ROLE r USING (true)"]).await;
    lab.hears(&[
        ("admin", "DROP ROLE r", "FailedPrecondition: role \"r\" cannot be dropped: policies depend on it"),
        ("admin", "DROP POLICY p ON VIEW a", "ok"),
        ("admin", "DROP ROLE r", "ok"),
    ])
    .await;
}
