//! The stored records.

use std::collections::{BTreeMap, BTreeSet};

use lazaret_auth::{
    CatalogId, CertificateSubject, EmergencyAccess, EmergencyId, GrantId, Grantee, GroupName, MaskingPolicy, PolicyId, PrincipalName,
    PrivilegeGrant, RoleId, RowPolicy, SchemaId, TableId, TokenHash, TokenId, UserId,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    pub id: CatalogId,
    pub name: String,
    pub owner: PrincipalName,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub id: SchemaId,
    pub catalog: CatalogId,
    pub name: String,
    pub owner: PrincipalName,
}

/// A table or a view: they share one namespace, grants and policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    pub id: TableId,
    pub schema: SchemaId,
    pub name: String,
    pub owner: PrincipalName,
    pub definition: Definition,
    /// Row-level security: with it on and no permissive policy for a principal, the table shows no rows.
    #[serde(default)]
    pub row_security: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableFormat {
    Delta,
    Iceberg,
    Parquet,
    Csv,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Definition {
    Table {
        format: TableFormat,
        /// A canonical URL (`file:///…/`, `s3://bucket/…`); for Iceberg the table folder or one metadata file.
        location: String,
        /// Managed tables lie in the warehouse, in a folder named by the table's id, and DROP TABLE removes their files.
        managed: bool,
        #[serde(default)]
        options: BTreeMap<String, String>,
        /// Folders elsewhere in which it had files when it was registered: they belong to it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        outside: Vec<String>,
    },
    View {
        /// The text of the query.
        query: String,
        /// What unqualified names in the text meant when the view was made.
        catalog: String,
        schema: String,
        /// The owner's groups when it made the view. What lies on them binds inside the view; they permit nothing.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        owner_groups: BTreeSet<GroupName>,
    },
}

/// A local user. The password is an Argon2id PHC string; without one the user cannot log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    pub enabled: bool,
    /// Our own tokens issued before this moment (seconds since the epoch) are refused: set when the password changes.
    #[serde(default)]
    pub tokens_valid_after_s: u64,
    /// Whoever shows a verified certificate with this subject, and nothing else, is this user. No two users have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_subject: Option<CertificateSubject>,
}

/// A token of a local user, of which only a hash is kept. Its name is one among the user's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceToken {
    pub id: TokenId,
    pub user: UserId,
    pub name: String,
    pub hash: TokenHash,
    pub creator: PrincipalName,
    /// Seconds since the epoch.
    pub created_at_s: u64,
    /// From then on it is refused.
    pub expires_at_s: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub id: RoleId,
    pub name: String,
}

/// Membership of a user, a group or another role in a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleGrant {
    pub id: GrantId,
    pub role: RoleId,
    pub grantee: Grantee,
    pub grantor: PrincipalName,
}

/// Any stored record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entity {
    Catalog(Catalog),
    Schema(Schema),
    Relation(Relation),
    User(User),
    ServiceToken(ServiceToken),
    Role(Role),
    RoleGrant(RoleGrant),
    PrivilegeGrant(PrivilegeGrant),
    Policy(RowPolicy),
    MaskingPolicy(MaskingPolicy),
    EmergencyAccess(EmergencyAccess),
    /// A folder of the warehouse that belongs to no table: of one that is being written, or that was dropped. The folder
    /// goes first, then this record.
    Leftover(TableId),
}

/// The identity of any stored record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityId {
    Catalog(CatalogId),
    Schema(SchemaId),
    Relation(TableId),
    User(UserId),
    ServiceToken(TokenId),
    Role(RoleId),
    RoleGrant(GrantId),
    PrivilegeGrant(GrantId),
    Policy(PolicyId),
    MaskingPolicy(PolicyId),
    EmergencyAccess(EmergencyId),
    Leftover(TableId),
}

impl Entity {
    pub fn id(&self) -> EntityId {
        match self {
            Self::Catalog(it) => EntityId::Catalog(it.id),
            Self::Schema(it) => EntityId::Schema(it.id),
            Self::Relation(it) => EntityId::Relation(it.id),
            Self::User(it) => EntityId::User(it.id),
            Self::ServiceToken(it) => EntityId::ServiceToken(it.id),
            Self::Role(it) => EntityId::Role(it.id),
            Self::RoleGrant(it) => EntityId::RoleGrant(it.id),
            Self::PrivilegeGrant(it) => EntityId::PrivilegeGrant(it.id),
            Self::Policy(it) => EntityId::Policy(it.id),
            Self::MaskingPolicy(it) => EntityId::MaskingPolicy(it.id),
            Self::EmergencyAccess(it) => EntityId::EmergencyAccess(it.id),
            Self::Leftover(table) => EntityId::Leftover(*table),
        }
    }
}

impl EntityId {
    /// What people call such a record.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Catalog(_) => "catalog",
            Self::Schema(_) => "schema",
            Self::Relation(_) => "table or view",
            Self::User(_) => "user",
            Self::ServiceToken(_) => "token",
            Self::Role(_) => "role",
            Self::RoleGrant(_) => "role grant",
            Self::PrivilegeGrant(_) => "grant",
            Self::Policy(_) => "policy",
            Self::MaskingPolicy(_) => "masking policy",
            Self::EmergencyAccess(_) => "emergency access",
            Self::Leftover(_) => "folder",
        }
    }

    /// The id without its kind, as it is stored.
    pub fn text(&self) -> String {
        match self {
            Self::Catalog(id) => id.to_string(),
            Self::Schema(id) => id.to_string(),
            Self::Relation(id) | Self::Leftover(id) => id.to_string(),
            Self::User(id) => id.to_string(),
            Self::ServiceToken(id) => id.to_string(),
            Self::Role(id) => id.to_string(),
            Self::RoleGrant(id) | Self::PrivilegeGrant(id) => id.to_string(),
            Self::Policy(id) | Self::MaskingPolicy(id) => id.to_string(),
            Self::EmergencyAccess(id) => id.to_string(),
        }
    }
}
