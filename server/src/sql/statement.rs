//! What a statement says, before anyone has asked whether it may be said: names are not resolved, rights not checked.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast;
use lazaret_auth::{CertificateSubject, MaskAction, PolicyCommand, PolicyKind, Privilege};
use lazaret_catalog::meta::TableFormat;

use super::names::{Ident, ObjectName, UserName};
use crate::error::Position;

/// One statement of the dialect.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// SELECT, WITH, VALUES and set operations: DataFusion plans it.
    Query(Box<Query>),
    Explain(Box<Explain>),
    /// A query, or EXPLAIN of one, as somebody else would see it.
    ExecuteAs(Box<ExecuteAs>),
    ExplainPolicy(Box<ExplainPolicy>),
    CreateSchema {
        name: ObjectName,
        if_not_exists: bool,
    },
    DropSchema {
        name: ObjectName,
        if_exists: bool,
        cascade: bool,
    },
    CreateExternalTable(Box<CreateExternalTable>),
    CreateTableAs(Box<CreateTableAs>),
    CreateView(Box<CreateView>),
    Insert(Box<Insert>),
    Drop {
        kind: RelationKind,
        name: ObjectName,
        if_exists: bool,
        cascade: bool,
    },
    Describe {
        name: ObjectName,
    },
    Show(Show),
    Use {
        catalog: Ident,
        schema: Option<Ident>,
    },
    Set {
        name: String,
        value: String,
    },
    /// `None` is RESET ALL.
    Reset {
        name: Option<String>,
    },
    SetEmergencyAccess(SetEmergencyAccess),
    /// `None`: the one of this session.
    EndEmergencyAccess {
        id: Option<String>,
    },
    Kill {
        what: KillTarget,
        id: String,
    },
    /// And RESET ROLE, which is SET ROLE ALL.
    SetRole(RoleChoice),
    CreateUser {
        name: Ident,
        if_not_exists: bool,
        password: Option<Secret>,
    },
    AlterUser {
        name: Ident,
        change: UserChange,
    },
    DropUser {
        name: Ident,
        if_exists: bool,
    },
    CreateToken {
        name: Ident,
        user: Ident,
        expiry: Expiry,
    },
    DropToken {
        name: Ident,
        user: Ident,
    },
    CreateRole {
        name: Ident,
        if_not_exists: bool,
    },
    DropRole {
        name: Ident,
        if_exists: bool,
    },
    GrantRole {
        role: Ident,
        to: Vec<PrincipalRef>,
    },
    RevokeRole {
        role: Ident,
        from: Vec<PrincipalRef>,
    },
    Grant(Box<Grant>),
    Revoke(Box<Revoke>),
    CreatePolicy(Box<CreatePolicy>),
    DropPolicy {
        name: Ident,
        on: ObjectRef,
        if_exists: bool,
    },
    CreateMaskingPolicy(Box<CreateMaskingPolicy>),
    DropMaskingPolicy {
        name: Ident,
        on: ObjectName,
        if_exists: bool,
    },
    RowLevelSecurity {
        kind: RelationKind,
        name: ObjectName,
        enable: bool,
    },
    SetOwner {
        kind: RelationKind,
        name: ObjectName,
        owner: UserName,
    },
}

impl Statement {
    /// How many placeholders it has: `$1` to `$n`, without gaps.
    pub fn parameters(&self) -> usize {
        self.query().map_or(0, |query| query.parameters)
    }

    /// The query that a driver's parameters go into, where there is one.
    pub fn query(&self) -> Option<&Query> {
        match self {
            Self::Query(query) => Some(query),
            Self::Explain(explain) => Some(&explain.query),
            Self::ExecuteAs(execute) => execute.statement.query(),
            Self::CreateTableAs(create) => Some(&create.query),
            Self::Insert(insert) => Some(&insert.query),
            _ => None,
        }
    }

    /// What is to be done, in whoever's name.
    pub fn acted(&self) -> &Self {
        match self {
            Self::ExecuteAs(execute) => &execute.statement,
            own => own,
        }
    }
}

/// A query that DataFusion will understand whole: what its planner would pass over in silence has been refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub ast: Box<ast::Query>,
    /// As it was written, without the end of the statement.
    pub text: String,
    pub parameters: usize,
    /// Columns of the result that have the name of one before them; inside, they have another.
    pub repeated: Vec<RepeatedColumn>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RepeatedColumn {
    /// Which column of the result, and which before it has its name.
    pub index: usize,
    pub first: usize,
    pub name: String,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    pub analyze: bool,
    pub verbose: bool,
    pub format: Option<ExplainFormat>,
    pub query: Query,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExecuteAs {
    pub subject: Subject,
    /// A query or EXPLAIN.
    pub statement: Statement,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExplainPolicy {
    /// `None`: for oneself.
    pub subject: Option<Subject>,
    pub query: Query,
}

/// A user as a token would describe it; without GROUPS and CLAIMS, by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub user: UserName,
    /// The texts between the quotes, and where they stand.
    pub groups: Vec<(String, Position)>,
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectRef {
    User(Subject),
    Role(Ident),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainFormat {
    Indent,
    Tree,
    PgJson,
    Graphviz,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateExternalTable {
    pub name: ObjectName,
    pub if_not_exists: bool,
    pub format: TableFormat,
    pub location: String,
    /// Keys in lower case.
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateTableAs {
    pub name: ObjectName,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub format: TableFormat,
    /// Where they are written out, the query has no rows and gives their types.
    pub columns: Vec<NewColumn>,
    pub partitioned_by: Vec<Ident>,
    pub query: Query,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NewColumn {
    pub name: Ident,
    pub data_type: ast::DataType,
    pub not_null: bool,
    /// Of the type.
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    pub name: ObjectName,
    pub or_replace: bool,
    pub query: Query,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    pub table: ObjectName,
    /// None: the first ones of the table, as many as there are values.
    pub columns: Option<Vec<Ident>>,
    /// VALUES among them.
    pub query: Query,
    /// Where the query begins.
    pub position: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    Table,
    View,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillTarget {
    Query,
    Session,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    Catalogs,
    Settings,
    Warnings,
    /// Of this catalog, else of the session's.
    Schemas(Option<Ident>),
    /// Of this schema, else of the session's.
    Tables(Option<ObjectName>),
    Columns(ObjectName),
    CreateTable(ObjectName),
    Users,
    /// Of this user, else one's own, or all for those who manage users.
    Tokens(Option<Ident>),
    Roles,
    Grants(Option<ShowGrants>),
    Policies(Option<ObjectRef>),
    /// Of this table, else of all.
    MaskingPolicies(Option<ObjectName>),
    EffectivePolicies {
        /// A table or view.
        on: ObjectRef,
        /// `None`: for oneself.
        of: Option<SubjectRef>,
    },
    EmergencyAccess,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetEmergencyAccess {
    pub reason: String,
    pub minutes: Option<u64>,
    /// Tables and views; `None`: all of them.
    pub on: Option<Vec<ObjectName>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShowGrants {
    On(ObjectRef),
    To(PrincipalRef),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserChange {
    Password(Secret),
    Enable,
    Disable,
    /// `None` takes it away.
    CertificateSubject(Option<CertificateSubject>),
}

/// What SET ROLE says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleChoice {
    All,
    None,
    Only(Ident),
}

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// In seconds since 1970, and where that is written.
    At(u64, Position),
    InDays(u64),
}

/// A password as it was typed. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// To whom something is given, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrincipalRef {
    User(UserName),
    Role(Ident),
    /// The text between the quotes: `g` or `issuer:g`.
    Group(String),
    All,
}

/// On what a privilege or a policy lies, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectRef {
    System,
    Catalog(Ident),
    Schema(ObjectName),
    Relation(RelationKind, ObjectName),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedPrivilege {
    pub privilege: Privilege,
    /// Of SELECT only.
    pub columns: Option<Vec<Ident>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub privileges: Vec<GrantedPrivilege>,
    pub on: ObjectRef,
    pub to: Vec<PrincipalRef>,
    pub grant_option: bool,
    /// DENY: whatever else is granted, this is not.
    pub deny: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoke {
    pub privileges: Vec<GrantedPrivilege>,
    pub on: ObjectRef,
    pub from: Vec<PrincipalRef>,
    /// Take back only the right to pass it on.
    pub grant_option_only: bool,
}

/// The text between the parentheses of USING or WITH CHECK, as it was written; it parses as one expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    pub text: String,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreatePolicy {
    pub name: Ident,
    pub or_replace: bool,
    pub on: ObjectRef,
    pub kind: PolicyKind,
    pub command: PolicyCommand,
    pub to: Vec<PrincipalRef>,
    pub except: Vec<PrincipalRef>,
    pub using: Option<Expression>,
    pub with_check: Option<Expression>,
    pub comment: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateMaskingPolicy {
    pub name: Ident,
    pub or_replace: bool,
    /// A table.
    pub on: ObjectName,
    pub columns: Vec<Ident>,
    pub to: Vec<PrincipalRef>,
    pub except: Vec<PrincipalRef>,
    pub using: MaskUsing,
    pub priority: i64,
    pub comment: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskUsing {
    Expression(Expression),
    /// And where it is named.
    Action(MaskAction, Position),
}
