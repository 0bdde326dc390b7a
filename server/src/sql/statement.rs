//! What a statement says, before anyone has asked whether it may be said: names are not resolved, rights not checked.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast;
use lazaret_auth::{PolicyCommand, PolicyKind, Privilege};
use lazaret_catalog::meta::TableFormat;

use super::names::{Ident, ObjectName, UserName};
use crate::error::Position;

/// One statement of the dialect.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// SELECT, WITH, VALUES and set operations: DataFusion plans it.
    Query(Box<Query>),
    Explain(Box<Explain>),
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
    Drop {
        kind: RelationKind,
        name: ObjectName,
        if_exists: bool,
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
    RowLevelSecurity {
        kind: RelationKind,
        name: ObjectName,
        enable: bool,
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
            Self::CreateTableAs(create) => Some(&create.query),
            _ => None,
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
}

#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    pub analyze: bool,
    pub verbose: bool,
    pub format: Option<ExplainFormat>,
    pub query: Query,
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
    pub partitioned_by: Vec<Ident>,
    pub query: Query,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    pub name: ObjectName,
    pub or_replace: bool,
    pub query: Query,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    Table,
    View,
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
    Roles,
    Grants(Option<ShowGrants>),
    Policies(Option<ObjectRef>),
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
