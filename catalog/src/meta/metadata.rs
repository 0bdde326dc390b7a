//! The current state and the one way to change it.
//!
//! Reading is a pointer load. A change is decided on the current state, made durable, and only then shown; whoever waits
//! for it may go away, the change itself runs to its end.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use lazaret_auth::{CatalogId, GrantId, Grantee, ObjectId, PrincipalName, Privilege, PrivilegeGrant, SchemaId, SystemPrivilege, UserId};
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
