//! Row and masking policies as they are stored: SQL text, and for whom it binds.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::{ObjectId, PolicyId, TableId};
use crate::principal::{Grantee, GroupName, PrincipalName};

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

/// What the names in a policy's subqueries meant when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySubqueries {
    /// Where names without catalog or schema lie.
    pub catalog: String,
    pub schema: String,
    /// The tables and views that are read, by either text: another one of the same name closes what the policy governs.
    pub reads: Vec<TableId>,
    /// On a table or view: the columns of it that USING reads, by the names of the text. Where the tables inside have
    /// changed so that a name now means another column, the policy no longer binds.
    #[serde(default)]
    pub using_columns: Vec<String>,
    /// The creator's groups when it made the policy. What lies on them binds inside the policy; they permit nothing.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub creator_groups: BTreeSet<GroupName>,
    /// Whether USING has a subquery, and which of `reads` it reads; `None`: all of them.
    #[serde(default = "yes")]
    pub in_using: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub using_reads: Option<Vec<TableId>>,
    /// Where WITH CHECK has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckSubqueries>,
}

/// As [`PolicySubqueries`] has it for USING.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSubqueries {
    pub reads: Vec<TableId>,
    #[serde(default)]
    pub columns: Vec<String>,
}

fn yes() -> bool {
    true
}

/// Which of a policy's two texts is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyText {
    /// Which rows there are for a reader.
    Using,
    /// Which rows may come in: WITH CHECK, or USING where there is none.
    Check,
}

/// What the names in the subqueries of one text meant.
#[derive(Clone, Copy, Debug)]
pub struct TextSubqueries<'a> {
    pub catalog: &'a str,
    pub schema: &'a str,
    pub reads: &'a [TableId],
    pub columns: &'a [String],
    pub creator_groups: &'a BTreeSet<GroupName>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subqueries: Option<PolicySubqueries>,
    /// With whose stored privileges subqueries in the text are read.
    pub creator: PrincipalName,
    /// Counts up with each OR REPLACE; the audit names it.
    pub version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl RowPolicy {
    pub fn text(&self, text: PolicyText) -> Option<&str> {
        match text {
            PolicyText::Using => self.using.as_deref(),
            PolicyText::Check => self.with_check.as_deref().or(self.using.as_deref()),
        }
    }

    /// `None` where that text asks no other table.
    pub fn subqueries_of(&self, text: PolicyText) -> Option<TextSubqueries<'_>> {
        let stored = self.subqueries.as_ref()?;
        let (reads, columns) = match text {
            PolicyText::Check if self.with_check.is_some() => {
                let check = stored.check.as_ref()?;
                (&check.reads, &check.columns)
            }
            PolicyText::Check | PolicyText::Using if stored.in_using => {
                (stored.using_reads.as_ref().unwrap_or(&stored.reads), &stored.using_columns)
            }
            PolicyText::Check | PolicyText::Using => return None,
        };
        let PolicySubqueries { catalog, schema, creator_groups, .. } = stored;
        Some(TextSubqueries { catalog, schema, reads, columns, creator_groups })
    }
}

/// What a masking policy shows instead of a column's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Masking {
    /// The text between the parentheses of USING: an expression over the raw columns.
    Expression(String),
    Action(MaskAction),
}

/// The masks that need no expression. What each does is in `catalog/src/governed/actions.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskAction {
    ReplaceWithNull,
    MaskAlphanum,
    #[serde(rename = "show_first_4")]
    ShowFirst4,
    #[serde(rename = "show_last_4")]
    ShowLast4,
    TruncateToMonth,
    TruncateToYear,
    #[serde(rename = "sha256_query_local")]
    Sha256QueryLocal,
    #[serde(rename = "sha256_global")]
    Sha256Global,
}

impl MaskAction {
    pub const EVERY: [Self; 8] = [
        Self::ReplaceWithNull,
        Self::MaskAlphanum,
        Self::ShowFirst4,
        Self::ShowLast4,
        Self::TruncateToMonth,
        Self::TruncateToYear,
        Self::Sha256QueryLocal,
        Self::Sha256Global,
    ];

    /// As it is written in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReplaceWithNull => "replace_with_null",
            Self::MaskAlphanum => "mask_alphanum",
            Self::ShowFirst4 => "show_first_4",
            Self::ShowLast4 => "show_last_4",
            Self::TruncateToMonth => "truncate_to_month",
            Self::TruncateToYear => "truncate_to_year",
            Self::Sha256QueryLocal => "sha256_query_local",
            Self::Sha256Global => "sha256_global",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskingPolicy {
    pub id: PolicyId,
    pub name: String,
    pub table: TableId,
    /// The columns that it masks.
    pub columns: Vec<BoundColumn>,
    pub to: Vec<Grantee>,
    #[serde(default)]
    pub except: Vec<Grantee>,
    pub masking: Masking,
    /// The columns that the expression reads.
    #[serde(default)]
    pub reads: Vec<BoundColumn>,
    /// Unique among the masks of a column; of those that bind, the highest wins.
    #[serde(default)]
    pub priority: i64,
    pub creator: PrincipalName,
    /// Counts up with each OR REPLACE; the audit names it.
    pub version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl BoundColumn {
    /// Whether both are the same column: by the format's id where both have one, else by name.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self.field_id, other.field_id) {
            (Some(one), Some(other)) => one == other,
            _ => self.name == other.name,
        }
    }
}
