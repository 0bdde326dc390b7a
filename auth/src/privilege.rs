//! What may be granted, and the stored record of having granted it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{GrantId, ObjectId};
use crate::principal::{Grantee, PrincipalName};

/// A privilege on a catalog, schema, table or view, or on the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    Select,
    Insert,
    Update,
    Delete,
    Create,
    Manage,
    /// Every privilege above. Not `ManagePolicies`: owning a table does not give that.
    All,
    ManagePolicies,
    System(SystemPrivilege),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemPrivilege {
    ReadAudit,
    ReadFiles,
    WriteFiles,
    ManageUsers,
    ManageQueries,
    CreateCatalog,
    Impersonate,
    EmergencyAccess,
}

impl SystemPrivilege {
    pub const EVERY: [Self; 8] = [
        Self::ReadAudit,
        Self::ReadFiles,
        Self::WriteFiles,
        Self::ManageUsers,
        Self::ManageQueries,
        Self::CreateCatalog,
        Self::Impersonate,
        Self::EmergencyAccess,
    ];
}

impl Privilege {
    /// Each privilege that can be held on a catalog, schema, table or view.
    pub const ON_OBJECTS: [Self; 7] =
        [Self::Select, Self::Insert, Self::Update, Self::Delete, Self::Create, Self::Manage, Self::ManagePolicies];

    /// What ALL is made of.
    pub const PARTS_OF_ALL: [Self; 6] = [Self::Select, Self::Insert, Self::Update, Self::Delete, Self::Create, Self::Manage];

    /// Whether holding `self` is enough where `wanted` is asked for.
    pub fn covers(self, wanted: Self) -> bool {
        self == wanted || (self == Self::All && Self::PARTS_OF_ALL.contains(&wanted))
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Select => "SELECT",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Create => "CREATE",
            Self::Manage => "MANAGE",
            Self::All => "ALL",
            Self::ManagePolicies => "MANAGE POLICIES",
            Self::System(system) => match system {
                SystemPrivilege::ReadAudit => "READ AUDIT",
                SystemPrivilege::ReadFiles => "READ FILES",
                SystemPrivilege::WriteFiles => "WRITE FILES",
                SystemPrivilege::ManageUsers => "MANAGE USERS",
                SystemPrivilege::ManageQueries => "MANAGE QUERIES",
                SystemPrivilege::CreateCatalog => "CREATE CATALOG",
                SystemPrivilege::Impersonate => "IMPERSONATE",
                SystemPrivilege::EmergencyAccess => "EMERGENCY ACCESS",
            },
        })
    }
}

/// One stored GRANT or DENY.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivilegeGrant {
    pub id: GrantId,
    pub object: ObjectId,
    pub privilege: Privilege,
    pub grantee: Grantee,
    /// SELECT on some columns only; `None` is every column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    #[serde(default)]
    pub deny: bool,
    #[serde(default)]
    pub grant_option: bool,
    pub grantor: PrincipalName,
}
