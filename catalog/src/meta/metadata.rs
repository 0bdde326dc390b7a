//! The current state and the one way to change it.
//!
//! Reading is a pointer load. A change is decided on the current state, made durable, and only then shown; whoever waits
//! for it may go away, the change itself runs to its end.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use lazaret_auth::{
    CatalogId, CertificateSubject, GrantId, Grantee, ObjectId, PrincipalName, Privilege, PrivilegeGrant, SchemaId, StoredToken, StoredUser,
    SystemPrivilege, TokenId, UserDirectory, UserId,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::entity::{Catalog, Entity, Schema, User};
use super::state::{State, StateError};
use super::store::{Change, MetadataStore, StoreError};

/// The catalog and the schema of a new server, and of a new session.
pub const DEFAULT_CATALOG: &str = "lazaret";
pub const DEFAULT_SCHEMA: &str = "public";
/// The first user of a new server.
pub const ADMIN: &str = "admin";
/// How often a change is decided anew because another process has changed the store. One server owns a store, so that
/// even one such turn is rare.
const MAX_ATTEMPTS: usize = 5;

pub struct Metadata {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn MetadataStore>,
    current: ArcSwap<State>,
    writer: Arc<Mutex<Writer>>,
}

/// Held by whoever changes the state.
struct Writer {
    /// A commit ended in a way that left open whether it was made, and the store could not be asked.
    in_doubt: bool,
}

/// Why metadata cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("metadata is inconsistent")]
    Inconsistent(#[from] StateError),
}

/// Why a change was not made. `E` is what the caller's own decision fails with.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// The caller decided against it.
    #[error("{0}")]
    Refused(E),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("metadata in the store is inconsistent")]
    Inconsistent(#[source] StateError),
    #[error("metadata change was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl<E> From<OpenError> for ChangeError<E> {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Store(error) => Self::Store(error),
            OpenError::Inconsistent(error) => Self::Inconsistent(error),
        }
    }
}

impl Metadata {
    pub async fn open(store: Arc<dyn MetadataStore>) -> Result<Self, OpenError> {
        let state = load(store.as_ref()).await?;
        let writer = Arc::new(Mutex::new(Writer { in_doubt: false }));
        Ok(Self { shared: Arc::new(Shared { store, current: ArcSwap::from_pointee(state), writer }) })
    }

    /// The state as of the last change that is durable.
    pub fn current(&self) -> Arc<State> {
        self.shared.current.load_full()
    }

    /// Makes the changes that `decide` asks for, all or none, and answers with the state that has them. `decide` sees the
    /// state that it changes; it is asked again where another process was faster. Without changes nothing is written.
    pub async fn change<E, F>(&self, mut decide: F) -> Result<Arc<State>, ChangeError<E>>
    where
        F: FnMut(&State) -> Result<Vec<Change>, E>,
    {
        let mut writer = Arc::clone(&self.shared.writer).lock_owned().await;
        let mut attempts = 0;
        loop {
            if writer.in_doubt {
                self.shared.reload().await?;
                writer.in_doubt = false;
            }
            let current = self.current();
            let changes = decide(&current).map_err(ChangeError::Refused)?;
            if changes.is_empty() {
                return Ok(current);
            }
            let next = Arc::new(current.apply(&changes)?);
            // A task of its own: a caller that stops waiting must not leave a durable change unshown.
            let commit = tokio::spawn(Arc::clone(&self.shared).commit(writer, current.epoch(), changes, Arc::clone(&next)));
            let (returned, outcome) = match commit.await {
                Ok(done) => done,
                Err(error) => return Err(ChangeError::Interrupted(error)),
            };
            writer = returned;
            attempts += 1;
            match outcome {
                Ok(()) => return Ok(next),
                Err(StoreError::Stale { .. }) if attempts < MAX_ATTEMPTS => writer.in_doubt = true,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// On an empty store: the catalog, the schema and the admin of a new server, with ordinary, revocable grants. Later
    /// starts do nothing. Answers whether it was the first.
    pub async fn bootstrap(&self, admin_password_hash: &str) -> Result<bool, ChangeError<Infallible>> {
        let mut first = false;
        self.change(|state| {
            first = state.epoch() == 0;
            Ok(if first { first_records(admin_password_hash) } else { Vec::new() })
        })
        .await?;
        Ok(first)
    }
}

/// Looked up on every call, so that a user who is disabled or dropped, or has a new password, is out at once.
impl UserDirectory for Metadata {
    fn user(&self, name: &str) -> Option<StoredUser> {
        let state = self.shared.current.load();
        let user = state.user(name)?;
        Some(StoredUser {
            password_hash: user.password_hash.clone(),
            enabled: user.enabled,
            tokens_valid_after_s: user.tokens_valid_after_s,
        })
    }

    fn token(&self, id: TokenId) -> Option<StoredToken> {
        let state = self.shared.current.load();
        let token = state.token_by_id(id)?;
        let user = state.user_by_id(token.user)?;
        Some(StoredToken { user: user.name.clone(), enabled: user.enabled, hash: token.hash, expires_at_s: token.expires_at_s })
    }

    fn certificate_user(&self, subject: &CertificateSubject) -> Option<(String, bool)> {
        let state = self.shared.current.load();
        state.certificate_user(subject).map(|user| (user.name.clone(), user.enabled))
    }
}

impl Shared {
    async fn commit(
        self: Arc<Self>,
        mut writer: OwnedMutexGuard<Writer>,
        base_epoch: u64,
        changes: Vec<Change>,
        next: Arc<State>,
    ) -> (OwnedMutexGuard<Writer>, Result<(), StoreError>) {
        // Until the outcome is known: a panic in the store leaves the next writer to find out.
        writer.in_doubt = true;
        let outcome = match self.store.commit(base_epoch, &changes).await {
            Err(error) if leaves_doubt(&error) => match load(self.store.as_ref()).await {
                Ok(stored) if stored.has_same_records(&next) => Ok(()),
                Ok(stored) if stored.epoch() == base_epoch => Err(error),
                _ => return (writer, Err(error)),
            },
            outcome => outcome,
        };
        writer.in_doubt = false;
        if outcome.is_ok() {
            self.current.store(next);
        }
        (writer, outcome)
    }

    async fn reload(&self) -> Result<(), OpenError> {
        self.current.store(Arc::new(load(self.store.as_ref()).await?));
        Ok(())
    }
}

async fn load(store: &dyn MetadataStore) -> Result<State, OpenError> {
    let (epoch, entities) = store.load().await?;
    Ok(State::build(epoch, entities)?)
}

/// Whether the commit may have been made although it failed.
fn leaves_doubt(error: &StoreError) -> bool {
    !matches!(error, StoreError::Stale { .. } | StoreError::Conflict(_))
}

fn first_records(admin_password_hash: &str) -> Vec<Change> {
    let owner = PrincipalName::local(ADMIN);
    let catalog = Catalog { id: CatalogId::generate(), name: DEFAULT_CATALOG.to_owned(), owner: owner.clone() };
    let schema = Schema { id: SchemaId::generate(), catalog: catalog.id, name: DEFAULT_SCHEMA.to_owned(), owner: owner.clone() };
    let admin = User {
        id: UserId::generate(),
        name: ADMIN.to_owned(),
        password_hash: Some(admin_password_hash.to_owned()),
        enabled: true,
        tokens_valid_after_s: 0,
        certificate_subject: None,
    };
    let grant = |object, privilege| PrivilegeGrant {
        id: GrantId::generate(),
        object,
        privilege,
        grantee: Grantee::User(owner.clone()),
        columns: None,
        deny: false,
        grant_option: true,
        grantor: owner.clone(),
    };
    let mut records = vec![Entity::PrivilegeGrant(grant(ObjectId::Catalog(catalog.id), Privilege::All))];
    records.push(Entity::PrivilegeGrant(grant(ObjectId::System, Privilege::ManagePolicies)));
    let system = SystemPrivilege::EVERY.map(|privilege| Entity::PrivilegeGrant(grant(ObjectId::System, Privilege::System(privilege))));
    records.extend(system);
    records.extend([Entity::Catalog(catalog), Entity::Schema(schema), Entity::User(admin)]);
    records.into_iter().map(Change::Put).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use lazaret_auth::{Authority, ObjectPath, Principal, RoleId};
    use lazaret_auth::{CredentialKind, grant};
    use tokio::sync::Notify;

    use super::*;
    use crate::meta::{MemoryStore, Role};

    fn role(name: &str) -> Change {
        Change::Put(Entity::Role(Role { id: RoleId::generate(), name: name.to_owned() }))
    }

    fn roles(state: &State) -> Vec<&str> {
        state.roles().map(|role| role.name.as_str()).collect()
    }

    /// A real store behind a wire that can fail: before a commit arrives, or after it was made.
    #[derive(Default)]
    struct Wire {
        store: MemoryStore,
        lose_requests: AtomicUsize,
        lose_answers: AtomicUsize,
        lose_loads: AtomicUsize,
        hold: Option<Arc<(Notify, Notify)>>,
    }

    fn spend(budget: &AtomicUsize) -> bool {
        budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    #[async_trait]
    impl MetadataStore for Wire {
        async fn load(&self) -> Result<(u64, Vec<Entity>), StoreError> {
            if spend(&self.lose_loads) { Err(sqlx::Error::WorkerCrashed.into()) } else { self.store.load().await }
        }

        async fn commit(&self, base_epoch: u64, changes: &[Change]) -> Result<(), StoreError> {
            if spend(&self.lose_requests) {
                return Err(sqlx::Error::WorkerCrashed.into());
            }
            self.store.commit(base_epoch, changes).await?;
            if let Some(hold) = &self.hold {
                hold.0.notify_one();
                hold.1.notified().await;
            }
            if spend(&self.lose_answers) { Err(sqlx::Error::WorkerCrashed.into()) } else { Ok(()) }
        }
    }

    async fn change(metadata: &Metadata, name: &str) -> Result<Arc<State>, ChangeError<StateError>> {
        metadata.change(|_| Ok(vec![role(name)])).await
    }

    #[tokio::test]
    async fn a_change_is_shown_when_it_is_durable() {
        let store = Arc::new(MemoryStore::new());
        let metadata = Metadata::open(store.clone()).await.unwrap();
        let before = metadata.current();
        let after = change(&metadata, "a").await.unwrap();
        assert_eq!((before.epoch(), after.epoch()), (0, 1));
        assert!(Arc::ptr_eq(&after, &metadata.current()));
        assert!(Metadata::open(store).await.unwrap().current().has_same_records(&after));
    }

    #[tokio::test]
    async fn nothing_decided_is_nothing_written() {
        let metadata = Metadata::open(Arc::new(MemoryStore::new())).await.unwrap();
        assert_eq!(metadata.change(|_| Ok::<_, StateError>(vec![])).await.unwrap().epoch(), 0);
        let refused = metadata.change(|_| Err("not today")).await.unwrap_err();
        assert!(matches!(refused, ChangeError::Refused("not today")));
        change(&metadata, "a").await.unwrap();
        assert!(matches!(change(&metadata, "a").await, Err(ChangeError::State(StateError::NameTaken { .. }))));
        assert_eq!(metadata.current().epoch(), 1);
    }

    #[tokio::test]
    async fn writers_take_turns_and_each_sees_the_last() {
        let metadata = Arc::new(Metadata::open(Arc::new(MemoryStore::new())).await.unwrap());
        let writers: Vec<_> = (0..20)
            .map(|_| {
                let metadata = Arc::clone(&metadata);
                let decide = |state: &State| Ok::<_, StateError>(vec![role(&format!("r{:02}", state.epoch()))]);
                tokio::spawn(async move { metadata.change(decide).await.unwrap().epoch() })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let expected: Vec<_> = (0..20).map(|epoch| format!("r{epoch:02}")).collect();
        assert_eq!(roles(&metadata.current()), expected);
    }

    #[tokio::test]
    async fn another_process_is_noticed_and_the_change_decided_again() {
        let store = Arc::new(MemoryStore::new());
        let (one, other) = (Metadata::open(store.clone()).await.unwrap(), Metadata::open(store).await.unwrap());
        change(&one, "a").await.unwrap();
        let state = change(&other, "b").await.unwrap();
        assert_eq!((state.epoch(), roles(&state)), (2, vec!["a", "b"]));
        assert!(matches!(change(&one, "b").await, Err(ChangeError::State(StateError::NameTaken { .. }))));
    }

    #[tokio::test]
    async fn a_lost_answer_is_looked_up() {
        let metadata = Metadata::open(Arc::new(Wire { lose_answers: 1.into(), ..Wire::default() })).await.unwrap();
        assert_eq!(roles(&change(&metadata, "a").await.unwrap()), ["a"]);
        assert_eq!(metadata.current().epoch(), 1);
    }

    #[tokio::test]
    async fn a_lost_request_is_an_error_and_nothing_else() {
        let metadata = Metadata::open(Arc::new(Wire { lose_requests: 1.into(), ..Wire::default() })).await.unwrap();
        assert!(matches!(change(&metadata, "a").await, Err(ChangeError::Store(StoreError::Database(_)))));
        assert_eq!(metadata.current().epoch(), 0);
        assert_eq!(roles(&change(&metadata, "b").await.unwrap()), ["b"]);
    }

    #[tokio::test]
    async fn while_the_store_cannot_be_asked_nothing_is_decided() {
        let wire = Arc::new(Wire { lose_answers: 1.into(), ..Wire::default() });
        let metadata = Metadata::open(wire.clone()).await.unwrap();
        wire.lose_loads.store(2, Ordering::SeqCst);
        for name in ["a", "b"] {
            assert!(matches!(change(&metadata, name).await, Err(ChangeError::Store(_))));
        }
        // The first one was made all the same: it shows once the store answers.
        assert_eq!(roles(&change(&metadata, "c").await.unwrap()), ["a", "c"]);
    }

    #[tokio::test]
    async fn a_caller_who_leaves_does_not_hide_a_durable_change() {
        let hold = Arc::new((Notify::new(), Notify::new()));
        let metadata = Arc::new(Metadata::open(Arc::new(Wire { hold: Some(Arc::clone(&hold)), ..Wire::default() })).await.unwrap());
        let caller = Arc::clone(&metadata);
        let waiting = tokio::spawn(async move { change(&caller, "a").await.map(|_| ()) });
        hold.0.notified().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        hold.1.notify_one();
        // The writer's turn ends with the commit.
        drop(metadata.shared.writer.lock().await);
        assert_eq!(roles(&metadata.current()), ["a"]);
    }

    #[tokio::test]
    async fn sign_in_sees_users_as_they_are_now() {
        let metadata = Metadata::open(Arc::new(MemoryStore::new())).await.unwrap();
        assert!(UserDirectory::user(&metadata, ADMIN).is_none());
        metadata.bootstrap("$argon2id$hash").await.unwrap();
        let stored = UserDirectory::user(&metadata, ADMIN).unwrap();
        assert_eq!((stored.password_hash.as_deref(), stored.enabled, stored.tokens_valid_after_s), (Some("$argon2id$hash"), true, 0));
        let disable = |state: &State| {
            let user = User { enabled: false, tokens_valid_after_s: 7, ..User::clone(state.user(ADMIN).unwrap()) };
            Ok::<_, StateError>(vec![Change::Put(Entity::User(user))])
        };
        metadata.change(disable).await.unwrap();
        let stored = UserDirectory::user(&metadata, ADMIN).unwrap();
        assert_eq!((stored.enabled, stored.tokens_valid_after_s), (false, 7));
        assert!(UserDirectory::user(&metadata, "Admin").is_none());
    }

    #[tokio::test]
    async fn the_first_start_makes_an_admin_with_revocable_grants() {
        let metadata = Metadata::open(Arc::new(MemoryStore::new())).await.unwrap();
        assert!(metadata.bootstrap("$argon2id$hash").await.unwrap());
        assert!(!metadata.bootstrap("$argon2id$other").await.unwrap());
        let state = metadata.current();
        assert_eq!((state.epoch(), state.user(ADMIN).unwrap().password_hash.as_deref()), (1, Some("$argon2id$hash")));
        let catalog = state.catalog(DEFAULT_CATALOG).unwrap().id;
        let schema = state.schema(catalog, DEFAULT_SCHEMA).unwrap().id;
        let admin = |state: &State| Authority::of(state, Arc::new(Principal::local_user(ADMIN, CredentialKind::Password, None, None)));
        let path = ObjectPath::schema(catalog, schema);
        assert!(grant::authorize(&*state, &admin(&state), path, Privilege::Create).is_ok());
        for privilege in SystemPrivilege::EVERY {
            assert!(grant::authorize_system(&*state, &admin(&state), Privilege::System(privilege)).is_ok());
        }
        assert!(grant::authorize_system(&*state, &admin(&state), Privilege::ManagePolicies).is_ok());

        let every = |state: &State| {
            Ok::<_, StateError>(state.privilege_grants().map(|it| Change::Delete(crate::meta::EntityId::PrivilegeGrant(it.id))).collect())
        };
        let state = metadata.change(every).await.unwrap();
        assert!(grant::authorize(&*state, &admin(&state), path, Privilege::Create).is_err());
        assert!(!metadata.bootstrap("$argon2id$other").await.unwrap(), "revoked is revoked, after a restart too");
    }
}
