//! Emergency access and kills, through the engine: what a plan made under an access is worth when the access is over.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use lazaret_auth::{CredentialKind, MaskKey, Principal};

use super::*;
use crate::audit::AuditRow;
use crate::emergency::Warden;
use crate::error::ErrorKind;
use crate::session::{Caller, SessionState};
use crate::statements::testing::Server;

/// The time of each test, in seconds: tests of one process share what is static.
static CLOCKS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
const START_S: u64 = 1_700_000_000;

fn clock_of<const TEST: usize>() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(START_S + CLOCKS[TEST].load(Ordering::SeqCst))
}

struct Lab {
    server: Server,
    engine: Engine,
}

impl Lab {
    /// `t` holds ids 1 and 2, of which `ana` sees 1, with its name masked; `ana` may use emergency access, `dpo` manages
    /// policies.
    async fn new(clock: fn() -> SystemTime) -> Self {
        let server = Server::new().await;
        let spill: PathBuf = server.folder.path().join("spill");
        std::fs::create_dir(&spill).unwrap();
        let limits = EngineLimits { statement_bytes: 1 << 20, memory_bytes: 1 << 30, query_memory_bytes: 1 << 28, query_timeout: None };
        let parts = EngineParts {
            metadata: Arc::clone(&server.metadata),
            lake: Arc::clone(&server.lake),
            audit: server.audit.clone(),
            metrics: Arc::default(),
            activity: Arc::clone(&server.activity),
            sessions: Arc::clone(&server.sessions),
            warden: Arc::new(Warden::new(Arc::clone(&server.metadata), server.audit.clone(), Arc::default(), clock)),
            limits,
            issuers: Arc::new([]),
            mask_key: MaskKey::of_one_query().unwrap(),
        };
        let lab = Self { server, engine: Engine::new(parts, &spill).unwrap() };
        let admin = lab.session("admin", "0");
        for statement in [
            "CREATE USER ana PASSWORD 'p'",
            "CREATE USER dpo PASSWORD 'p'",
            "CREATE TABLE t AS SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v (id, name)",
            "CREATE POLICY one ON TABLE t TO ALL USING (id = 1)",
            "CREATE MASKING POLICY hidden ON TABLE t (name) TO ALL USING ACTION replace_with_null",
            "GRANT SELECT ON TABLE t TO USER ana",
            "GRANT CREATE ON SCHEMA public TO USER ana",
            "GRANT EMERGENCY ACCESS ON SYSTEM TO USER ana",
            "GRANT MANAGE POLICIES ON SYSTEM TO USER dpo",
        ] {
            lab.ok(&admin, statement).await;
        }
        lab
    }

    /// The session of this key: the same one for the same key.
    fn session(&self, user: &str, key: &str) -> Arc<Session> {
        let principal = Arc::new(Principal::local_user(user, CredentialKind::Password, None, None));
        let caller = Caller { principal, session_key: Some(key.to_owned()), client_address: None, client_driver: None };
        self.server.sessions.resolve(caller).unwrap()
    }

    async fn ok(&self, session: &Arc<Session>, sql: &str) {
        self.engine.update(session, sql, None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn refused(&self, session: &Arc<Session>, sql: &str) -> (ErrorKind, String) {
        let error = self.engine.update(session, sql, None).await.expect_err(sql);
        (error.kind, error.message)
    }

    async fn planned(&self, session: &Arc<Session>, sql: &str) -> PlannedQuery {
        match self.engine.start(session, sql, None).await.unwrap() {
            Started::Planned(planned) => planned,
            Started::Done(_) => panic!("{sql} has run"),
        }
    }

    async fn batches(&self, session: &Arc<Session>, planned: &PlannedQuery) -> Vec<RecordBatch> {
        let rows = self.engine.run(session, planned).await.unwrap();
        rows.batches.map(|batch| batch.unwrap()).collect().await
    }

    /// How many rows of `t` the plan shows, and how many names.
    async fn seen(&self, session: &Arc<Session>, planned: &PlannedQuery) -> (i64, i64) {
        let batches = self.batches(session, planned).await;
        let number = |column: usize| batches[0].column(column).as_primitive::<Int64Type>().value(0);
        (number(0), number(1))
    }

    async fn sees(&self, session: &Arc<Session>) -> (i64, i64) {
        self.seen(session, &self.planned(session, COUNT).await).await
    }

    async fn audited(&self) -> Vec<AuditRow> {
        self.server.audit.flush().await.unwrap();
        self.server.audit.read().unwrap().map(Result::unwrap).collect()
    }
}

const COUNT: &str = "SELECT count(*), count(name) FROM t";
const GOVERNED: (i64, i64) = (1, 0);
const LIFTED: (i64, i64) = (2, 2);

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_made_under_emergency_access_is_worth_nothing_when_it_is_over() {
    let clock = clock_of::<0>;
    let lab = Lab::new(clock).await;
    let (ana, other, dpo) = (lab.session("ana", "1"), lab.session("ana", "2"), lab.session("dpo", "3"));
    assert_eq!(lab.sees(&ana).await, GOVERNED);
    let before = lab.planned(&ana, COUNT).await;
    lab.ok(&ana, "SET EMERGENCY ACCESS REASON 'an outbreak' FOR 1 MINUTE").await;
    assert_eq!(lab.seen(&ana, &before).await, LIFTED, "from the next call on");
    assert_eq!(lab.sees(&other).await, GOVERNED, "another session of the same principal");

    // In other hands of the same principal, and back in the governed session.
    let planned = lab.planned(&ana, COUNT).await;
    assert_eq!(lab.seen(&other, &planned).await, GOVERNED);
    let planned = lab.planned(&other, COUNT).await;
    assert_eq!(lab.seen(&ana, &planned).await, LIFTED);
    // A call that only borrows the state of the session is not that session.
    assert_eq!(lab.sees(&other.with_state(&ana.state)).await, GOVERNED);

    // It expires, and nothing else changes.
    let planned = lab.planned(&ana, COUNT).await;
    let epoch = lab.server.state().epoch();
    CLOCKS[0].store(59, Ordering::SeqCst);
    assert_eq!(lab.sees(&ana).await, LIFTED);
    CLOCKS[0].store(60, Ordering::SeqCst);
    assert_eq!(lab.server.state().epoch(), epoch);
    assert_eq!(lab.seen(&ana, &planned).await, GOVERNED);
    assert_eq!(lab.sees(&ana).await, GOVERNED);

    // Somebody else ends it.
    lab.ok(&ana, "SET EMERGENCY ACCESS REASON 'again'").await;
    let planned = lab.planned(&ana, COUNT).await;
    let id = lab.server.state().emergencies().next_back().unwrap().id;
    assert_eq!(lab.refused(&lab.session("admin2", "9"), &format!("END EMERGENCY ACCESS '{id}'")).await.0, ErrorKind::NotFound);
    lab.ok(&dpo, &format!("END EMERGENCY ACCESS '{id}'")).await;
    assert_eq!(lab.seen(&ana, &planned).await, GOVERNED);

    // The privilege goes, and comes back: the access does not come back with it.
    let admin = lab.session("admin", "0");
    lab.ok(&ana, "SET EMERGENCY ACCESS REASON 'again'").await;
    let planned = lab.planned(&ana, COUNT).await;
    lab.ok(&admin, "REVOKE EMERGENCY ACCESS ON SYSTEM FROM USER ana").await;
    assert_eq!(lab.seen(&ana, &planned).await, GOVERNED);
    lab.ok(&admin, "GRANT EMERGENCY ACCESS ON SYSTEM TO USER ana").await;
    assert_eq!(lab.sees(&ana).await, GOVERNED);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_under_emergency_access_is_marked_and_leaves_no_copy() {
    let clock = clock_of::<1>;
    let lab = Lab::new(clock).await;
    let ana = lab.session("ana", "1");
    lab.ok(&ana, "CREATE TABLE mine AS SELECT id FROM t").await;
    lab.ok(&ana, "SET EMERGENCY ACCESS REASON 'an outbreak' ON t").await;
    let id = lab.server.state().emergencies().next_back().unwrap().id.to_string();
    assert_eq!(lab.sees(&ana).await, LIFTED);
    let copy = lab.refused(&ana, "CREATE TABLE copied AS SELECT * FROM t").await;
    assert_eq!(copy.0, ErrorKind::PermissionDenied);
    assert!(lab.server.relation("public.copied").is_none());
    lab.ok(&ana, "CREATE TABLE copied AS SELECT * FROM mine").await;
    let (kind, message) = lab.refused(&ana, "SET EMERGENCY ACCESS REASON 'twice'").await;
    assert_eq!(kind, ErrorKind::FailedPrecondition);
    assert!(message.contains(&id), "{message}");
    lab.ok(&ana, "END EMERGENCY ACCESS").await;
    assert_eq!(lab.sees(&ana).await, GOVERNED);

    let rows = lab.audited().await;
    let of_ana = rows.iter().filter(|row| row.record.principal == "ana");
    let marked: Vec<(&str, &str)> = of_ana
        .clone()
        .filter(|row| row.record.emergency.as_deref() == Some(&id))
        .map(|row| (row.record.statement.as_str(), row.status.as_str()))
        .collect();
    assert_eq!(
        marked,
        [
            ("SET EMERGENCY ACCESS REASON 'an outbreak' ON t", "ok"),
            (COUNT, "ok"),
            ("CREATE TABLE copied AS SELECT * FROM t", "permission_denied"),
            ("CREATE TABLE copied AS SELECT * FROM mine", "ok"),
            ("SET EMERGENCY ACCESS REASON 'twice'", "failed_precondition"),
            ("END EMERGENCY ACCESS", "ok"),
        ]
    );
    let lifted = of_ana.filter(|row| row.record.policies.to_string().contains("lifted_by"));
    let lifted: Vec<&str> = lifted.map(|row| row.record.statement.as_str()).collect();
    assert_eq!(lifted, [COUNT, "CREATE TABLE copied AS SELECT * FROM t"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_takes_its_emergency_access_with_it() {
    let lab = Lab::new(SystemTime::now).await;
    let ana = lab.session("ana", "1");
    lab.ok(&ana, "SET EMERGENCY ACCESS REASON 'an outbreak'").await;
    let planned = lab.planned(&ana, COUNT).await;
    assert!(lab.server.sessions.close(&ana));
    // A call that was let in before goes on in the old session.
    assert_eq!(lab.seen(&ana, &planned).await, GOVERNED);
    let over = |row: &AuditRow| row.record.statement.ends_with("is over: session over") && row.record.emergency.is_some();
    // The warden is another task; what it has to write comes.
    while !lab.audited().await.iter().any(over) {
        tokio::task::yield_now().await;
    }
    assert!(lab.server.state().emergencies().all(|access| access.end.is_some()));
    let keyless = Session::new(Caller { session_key: None, ..ana.caller.clone() }, SessionState::new("lazaret", "public"));
    assert_eq!(lab.refused(&keyless, "SET EMERGENCY ACCESS REASON 'x'").await.0, ErrorKind::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_of_the_server_ends_what_was_left_open() {
    let lab = Lab::new(SystemTime::now).await;
    lab.ok(&lab.session("ana", "1"), "SET EMERGENCY ACCESS REASON 'an outbreak'").await;
    let warden = Warden::new(Arc::clone(&lab.server.metadata), lab.server.audit.clone(), Arc::default(), SystemTime::now);
    warden.close_all().await.unwrap();
    assert!(lab.audited().await.iter().any(|row| row.record.statement.ends_with("is over: server restarted")));
    assert_eq!(lab.sees(&lab.session("ana", "1")).await, GOVERNED);
}

const LONG: &str = "SELECT a.value * 31 + b.value AS n FROM generate_series(1, 100000) a, generate_series(1, 100000) b";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_query_ends_for_its_client_and_in_the_audit() {
    let lab = Lab::new(SystemTime::now).await;
    let (ana, dpo, admin) = (lab.session("ana", "1"), lab.session("dpo", "3"), lab.session("admin", "0"));
    let planned = lab.planned(&ana, LONG).await;
    let mut rows = lab.engine.run(&ana, &planned).await.unwrap();
    assert!(rows.batches.next().await.unwrap().is_ok());
    let running = |statement: &str| {
        let mut list = lab.server.activity.list(|name| name.subject == "ana").into_iter();
        list.find(|it| it.facts.statement == statement && it.state == "running").map(|it| it.facts.statement_id)
    };
    let id = running(LONG).unwrap();
    let (not_mine, not_there) = (format!("KILL QUERY '{id}'"), format!("KILL QUERY '{}'", "0".repeat(id.len())));
    let (mine, there) = (lab.refused(&dpo, &not_mine).await, lab.refused(&dpo, &not_there).await);
    assert_eq!((mine.0, mine.1.replace(&id, "")), (there.0, there.1.replace(&"0".repeat(id.len()), "")));
    lab.ok(&admin, &not_mine).await;
    // A batch or two may be on their way.
    let error = loop {
        if let Err(error) = rows.batches.next().await.unwrap() {
            break error;
        }
    };
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Cancelled, "the statement was killed"));
    assert!(rows.batches.next().await.is_none());
    assert!(running(LONG).is_none());
    let ends: Vec<String> = lab.audited().await.into_iter().filter(|row| row.record.statement_id == id).map(|row| row.status).collect();
    assert_eq!(ends, ["cancelled"]);

    // A client that does not read on: the end comes all the same.
    let mut rows = lab.engine.run(&ana, &planned).await.unwrap();
    let id = running(LONG).unwrap();
    lab.ok(&ana, &format!("KILL QUERY '{id}'")).await;
    while running(LONG).is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(rows.batches.next().await.unwrap().unwrap_err().kind, ErrorKind::Cancelled);

    // With its session, and nothing more in it.
    let mut rows = lab.engine.run(&ana, &planned).await.unwrap();
    lab.ok(&admin, &format!("KILL SESSION '{}'", ana.id)).await;
    assert_eq!(rows.batches.next().await.unwrap().unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(lab.engine.run(&ana, &planned).await.err().unwrap().kind, ErrorKind::Cancelled);
    let gone = lab.refused(&admin, &format!("KILL SESSION '{}'", ana.id)).await;
    assert_eq!(gone, (ErrorKind::NotFound, format!("session \"{}\" not found", ana.id)));
}
