//! Kills a process that changes the metadata, at random moments, and looks at what it left.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lazaret_auth::{AccessReader, CatalogId, Grantee, ObjectId, PrincipalName, SchemaId, UserId};

use super::conformance::{select_on, table};
use super::*;

const STORE: &str = "LAZARET_TEST_CRASH_STORE";
const ROUNDS: u64 = 8;
/// So many tables live at a time: each commit makes the newest and drops the oldest.
const WINDOW: u64 = 5;
/// A commit of the child takes less; the kill falls anywhere within one or two.
const MAX_DELAY_US: u64 = 4_000;

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// The table, the grant and the user of one commit, all of which carry its epoch.
fn step(state: &State) -> Vec<Change> {
    let epoch = state.epoch() + 1;
    let schema = state.schema(state.catalog("lake").unwrap().id, "s").unwrap().id;
    let made = table(schema, &format!("t{epoch}"));
    let grant = select_on(ObjectId::Table(made.id), Grantee::User(PrincipalName::local("ana")));
    let user = User { tokens_valid_after_s: epoch, ..User::clone(state.user("ana").unwrap()) };
    let oldest = epoch.checked_sub(WINDOW).and_then(|epoch| state.relation(schema, &format!("t{epoch}")));
    let mut changes: Vec<_> = oldest.into_iter().flat_map(|old| state.cascade(EntityId::Relation(old.id))).collect();
    changes.extend([Entity::Relation(made), Entity::PrivilegeGrant(grant), Entity::User(user)].map(Change::Put));
    changes
}

/// Exactly what the commit of this epoch leaves.
fn check(state: &State) {
    let epoch = state.epoch();
    let schema = state.schema(state.catalog("lake").unwrap().id, "s").unwrap().id;
    let mut expected: Vec<_> = (2.max((epoch + 1).saturating_sub(WINDOW))..=epoch).map(|epoch| format!("t{epoch}")).collect();
    expected.sort();
    let names: Vec<_> = state.relations_in(schema).map(|it| it.name.clone()).collect();
    assert_eq!(names, expected, "epoch {epoch}");
    assert!(state.relations_in(schema).all(|it| state.grants_on(ObjectId::Table(it.id)).len() == 1));
    assert_eq!(state.privilege_grants().count(), names.len());
    assert_eq!(state.user("ana").unwrap().tokens_valid_after_s, if epoch == 1 { 0 } else { epoch });
}

async fn open(path: &Path) -> Metadata {
    Metadata::open(Arc::new(SqliteStore::open(path).await.unwrap())).await.unwrap()
}

/// The child: not a test unless the parent starts it.
#[tokio::test]
async fn crash_child() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let metadata = open(Path::new(&path)).await;
    loop {
        let state = metadata.change(|state| Ok::<_, StateError>(step(state))).await.unwrap();
        println!("acknowledged {}", state.epoch());
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lazaret.db");
    let owner = PrincipalName::local("ana");
    let catalog = Catalog { id: CatalogId::generate(), name: "lake".into(), owner: owner.clone() };
    let schema = Schema { id: SchemaId::generate(), catalog: catalog.id, name: "s".into(), owner };
    let user = User {
        id: UserId::generate(),
        name: "ana".into(),
        password_hash: None,
        enabled: true,
        tokens_valid_after_s: 0,
        certificate_subject: None,
    };
    let first = [Entity::Catalog(catalog), Entity::Schema(schema), Entity::User(user)].map(Change::Put);
    open(&path).await.change(|_| Ok::<_, StateError>(first.to_vec())).await.unwrap();

    let mut acknowledged = 1;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "meta::crash_tests::crash_child", "--nocapture"])
            .env(STORE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledgements = lines.by_ref().filter_map(|line| line.ok()?.rsplit_once("acknowledged ")?.1.parse::<u64>().ok());
        for _ in 0..=random(20) {
            acknowledged = acknowledgements.next().expect("the child ended by itself");
        }
        let (start, delay) = (Instant::now(), Duration::from_micros(random(MAX_DELAY_US)));
        while start.elapsed() < delay {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before the kill, but was not read yet.
        acknowledged = acknowledgements.last().unwrap_or(acknowledged);

        let state = open(&path).await.current();
        let epoch = state.epoch();
        assert!(epoch == acknowledged || epoch == acknowledged + 1, "round {round}: acknowledged {acknowledged}, stored {epoch}");
        check(&state);
        acknowledged = epoch;
    }
    assert!(acknowledged > ROUNDS);
}
