//! Row policies as they are stored: SQL text, and for whom it binds.

use serde::{Deserialize, Serialize};

use crate::ids::{ObjectId, PolicyId};
use crate::principal::{Grantee, PrincipalName};

/// How a policy combines: visible rows are the OR of the permissive ones AND all the restrictive ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    Permissive,
    Restrictive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyCommand {
    All,
    Select,
    Insert,
    Update,
    Delete,
}

impl PolicyCommand {
    pub fn covers(self, command: Self) -> bool {
        self == Self::All || self == command
    }
}

/// A column that a policy was bound to when it was made: by the format's id where there is one, else by name and type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundColumn {
    /// The name as the policy's text has it.
    pub name: String,
    /// The field id or column mapping id, where the format has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_id: Option<i32>,
    /// The type at binding, as Arrow prints it: another one closes the table.
    pub data_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowPolicy {
    pub id: PolicyId,
    pub name: String,
    pub object: ObjectId,
    pub kind: PolicyKind,
    pub command: PolicyCommand,
    pub to: Vec<Grantee>,
    #[serde(default)]
    pub except: Vec<Grantee>,
    /// The text between the parentheses of USING.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub using: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_check: Option<String>,
    #[serde(default)]
    pub columns: Vec<BoundColumn>,
    /// With whose stored privileges subqueries in the text are read.
    pub creator: PrincipalName,
    /// Counts up with each OR REPLACE; the audit names it.
    pub version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}
