//! Identities of stored things. A name may be dropped and made again; an id is never reused.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new identity; later ones sort after earlier ones.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The identity written as text by `Display`.
            pub fn parse(text: &str) -> Option<Self> {
                Uuid::parse_str(text).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.simple().fmt(f)
            }
        }
    };
}

id!(CatalogId);
id!(SchemaId);
id!(
    /// A table or a view: they share names, grants and policies.
    TableId
);
id!(UserId);
id!(RoleId);
id!(GrantId);
id!(PolicyId);
id!(EmergencyId);
id!(
    /// A token of a service account: it is part of the token, and tells in the audit which one was used.
    TokenId
);

/// What a privilege or a policy is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectId {
    System,
    Catalog(CatalogId),
    Schema(SchemaId),
    Table(TableId),
}

/// A table with what it lies in: a privilege on any of the three reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectPath {
    pub catalog: CatalogId,
    pub schema: Option<SchemaId>,
    pub table: Option<TableId>,
}

impl ObjectPath {
    pub fn catalog(catalog: CatalogId) -> Self {
        Self { catalog, schema: None, table: None }
    }

    pub fn schema(catalog: CatalogId, schema: SchemaId) -> Self {
        Self { catalog, schema: Some(schema), table: None }
    }

    pub fn table(catalog: CatalogId, schema: SchemaId, table: TableId) -> Self {
        Self { catalog, schema: Some(schema), table: Some(table) }
    }

    /// The object itself and everything that holds it, innermost first.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> + use<> {
        let Self { catalog, schema, table } = *self;
        [table.map(ObjectId::Table), schema.map(ObjectId::Schema), Some(ObjectId::Catalog(catalog))].into_iter().flatten()
    }
}
