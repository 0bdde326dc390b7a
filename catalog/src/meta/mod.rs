//! What is stored: catalogs, schemas, tables, views, users and their tokens, roles, grants, policies, each by id.
//!
//! The whole state is small and is held in memory as one immutable [`State`]; a statement changes it by a list of
//! [`Change`]s that a [`MetadataStore`] makes durable in one transaction. Reads cost no I/O.

mod entity;
mod memory;
mod metadata;
mod records;
mod sqlite;
mod state;
mod store;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod conformance;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod crash_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod state_tests;

pub use entity::{Catalog, Definition, Entity, EntityId, Relation, Role, RoleGrant, Schema, ServiceToken, TableFormat, User};
pub use memory::MemoryStore;
pub use metadata::{ADMIN, ChangeError, DEFAULT_CATALOG, DEFAULT_SCHEMA, Metadata, OpenError};
pub use sqlite::SqliteStore;
pub use state::{State, StateError};
pub use store::{Change, MetadataStore, StoreError};
