//! Where the state is kept. Two implementations, one conformance suite (`conformance.rs`).

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::entity::{Entity, EntityId};

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "a handful of changes live for the time of one statement")]
pub enum Change {
    /// Insert, or replace the record with this id.
    Put(Entity),
    Delete(EntityId),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another writer was faster; nothing was written.
    #[error("metadata is at epoch {found}, the change was made for {expected}")]
    Stale { expected: u64, found: u64 },
    /// A name that is taken, or a reference to nothing; nothing was written.
    #[error("metadata store refuses the change")]
    Conflict(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("metadata record {id} cannot be read")]
    Corrupt {
        id: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("metadata store is damaged: {reason}")]
    Damaged { reason: String },
    #[error("metadata store was written by a newer version (its schema is {found}, this version knows {known})")]
    Newer { found: i64, known: i64 },
    #[error("metadata store cannot be opened")]
    Open(#[source] std::io::Error),
    /// Whether a commit that failed in this way was made is not known.
    #[error("metadata store failed")]
    Database(#[from] sqlx::Error),
    #[error("metadata store cannot be migrated")]
    Migration(#[source] sqlx::migrate::MigrateError),
}

#[async_trait]
pub trait MetadataStore: Send + Sync {
    /// Everything stored, with the epoch of the last commit (0 for a new store).
    async fn load(&self) -> Result<(u64, Vec<Entity>), StoreError>;

    /// Make all changes durable in one transaction and set the epoch to `base_epoch + 1`; with any other stored epoch
    /// nothing is written. When it returns `Ok`, the changes survive a crash.
    async fn commit(&self, base_epoch: u64, changes: &[Change]) -> Result<(), StoreError>;
}
