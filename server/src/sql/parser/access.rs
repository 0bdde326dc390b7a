//! Roles, privileges and row policies.

use datafusion::sql::sqlparser::tokenizer::Token;
use lazaret_auth::{PolicyCommand, PolicyKind, Privilege, SystemPrivilege};

use crate::error::{Error, Position, Result};
use crate::sql::names::UserName;
use crate::sql::query::parse_expression;
use crate::sql::statement::{CreatePolicy, Expression, Grant, GrantedPrivilege, ObjectRef, PrincipalRef, RelationKind, Revoke, Statement};
use crate::sql::tokens::Cursor;

pub fn grant(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.take("ROLE") {
        let role = cursor.ident("a role")?;
        cursor.expect("TO")?;
        let to = cursor.list(principal)?;
        return Ok(Statement::GrantRole { role, to });
    }
    let granted = privileges_to(cursor)?;
    let grant_option = cursor.take("WITH GRANT OPTION");
    Ok(Statement::Grant(Box::new(Grant { grant_option, ..granted })))
}

pub fn deny(cursor: &mut Cursor<'_>) -> Result<Statement> {
    Ok(Statement::Grant(Box::new(Grant { deny: true, ..privileges_to(cursor)? })))
}

/// `SELECT, … ON … TO …`
fn privileges_to(cursor: &mut Cursor<'_>) -> Result<Grant> {
    let place = cursor.position();
    let privileges = privileges(cursor)?;
    cursor.expect("ON")?;
    let on = grant_object(cursor)?;
    check_privileges(&privileges, &on, place)?;
    cursor.expect("TO")?;
    let to = cursor.list(principal)?;
    Ok(Grant { privileges, on, to, grant_option: false, deny: false })
}

pub fn revoke(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.take("ROLE") {
        let role = cursor.ident("a role")?;
        cursor.expect("FROM")?;
        let from = cursor.list(principal)?;
        return Ok(Statement::RevokeRole { role, from });
    }
    let grant_option_only = cursor.take("GRANT OPTION FOR");
    let place = cursor.position();
    let privileges = privileges(cursor)?;
    cursor.expect("ON")?;
    let on = grant_object(cursor)?;
    check_privileges(&privileges, &on, place)?;
    cursor.expect("FROM")?;
    let from = cursor.list(principal)?;
    Ok(Statement::Revoke(Box::new(Revoke { privileges, on, from, grant_option_only })))
}

/// By their words, longer ones first.
const PRIVILEGES: [(&str, Privilege); 17] = [
    ("MANAGE POLICIES", Privilege::ManagePolicies),
    ("MANAGE USERS", Privilege::System(SystemPrivilege::ManageUsers)),
    ("MANAGE QUERIES", Privilege::System(SystemPrivilege::ManageQueries)),
    ("MANAGE", Privilege::Manage),
    ("CREATE CATALOG", Privilege::System(SystemPrivilege::CreateCatalog)),
    ("CREATE", Privilege::Create),
    ("SELECT", Privilege::Select),
    ("INSERT", Privilege::Insert),
    ("UPDATE", Privilege::Update),
    ("DELETE", Privilege::Delete),
    ("ALL PRIVILEGES", Privilege::All),
    ("ALL", Privilege::All),
    ("READ AUDIT", Privilege::System(SystemPrivilege::ReadAudit)),
    ("READ FILES", Privilege::System(SystemPrivilege::ReadFiles)),
    ("WRITE FILES", Privilege::System(SystemPrivilege::WriteFiles)),
    ("IMPERSONATE", Privilege::System(SystemPrivilege::Impersonate)),
    ("EMERGENCY ACCESS", Privilege::System(SystemPrivilege::EmergencyAccess)),
];

fn privileges(cursor: &mut Cursor<'_>) -> Result<Vec<GrantedPrivilege>> {
    cursor.list(|cursor| {
        let Some((_, privilege)) = PRIVILEGES.iter().find(|(words, _)| cursor.take(words)) else {
            return Err(cursor.expected("a privilege"));
        };
        let mut columns = None;
        if *privilege == Privilege::Select && cursor.take_token(&Token::LParen) {
            columns = Some(cursor.list(|cursor| cursor.ident("a column"))?);
            cursor.expect_token(&Token::RParen)?;
        }
        Ok(GrantedPrivilege { privilege: *privilege, columns })
    })
}

/// Which privileges there are on which kind of thing.
fn check_privileges(privileges: &[GrantedPrivilege], on: &ObjectRef, place: Position) -> Result<()> {
    for granted in privileges {
        let privilege = granted.privilege;
        let problem = match (on, privilege) {
            (ObjectRef::System, Privilege::System(_) | Privilege::ManagePolicies) => None,
            (ObjectRef::System, _) => Some(format!("there is no privilege {privilege} ON SYSTEM")),
            (_, Privilege::System(_)) => Some(format!("privilege {privilege} is ON SYSTEM only")),
            (ObjectRef::Catalog(_) | ObjectRef::Schema(_), _) if granted.columns.is_some() => {
                Some("SELECT on columns is ON TABLE or ON VIEW only".to_owned())
            }
            (ObjectRef::Relation(..), Privilege::Create) => Some("privilege CREATE is ON CATALOG or ON SCHEMA only".to_owned()),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(Error::invalid(problem).at(place.line, place.column));
        }
    }
    Ok(())
}

pub fn grant_object(cursor: &mut Cursor<'_>) -> Result<ObjectRef> {
    if cursor.take("SYSTEM") {
        return Ok(ObjectRef::System);
    }
    object(cursor, "CATALOG, SCHEMA, TABLE, VIEW or SYSTEM")
}

pub fn policy_object(cursor: &mut Cursor<'_>) -> Result<ObjectRef> {
    object(cursor, "TABLE, VIEW, SCHEMA or CATALOG")
}

fn object(cursor: &mut Cursor<'_>, kinds: &str) -> Result<ObjectRef> {
    if cursor.take("CATALOG") {
        Ok(ObjectRef::Catalog(cursor.ident("a catalog")?))
    } else if cursor.take("SCHEMA") {
        Ok(ObjectRef::Schema(cursor.object_name("a schema")?))
    } else if cursor.take("TABLE") {
        Ok(ObjectRef::Relation(RelationKind::Table, cursor.object_name("a table")?))
    } else if cursor.take("VIEW") {
        Ok(ObjectRef::Relation(RelationKind::View, cursor.object_name("a view")?))
    } else {
        Err(cursor.expected(kinds))
    }
}

/// `USER u`, `ROLE r` or `GROUP 'g'`.
pub fn principal(cursor: &mut Cursor<'_>) -> Result<PrincipalRef> {
    if cursor.take("USER") {
        Ok(PrincipalRef::User(UserName(cursor.ident("a user")?)))
    } else if cursor.take("ROLE") {
        Ok(PrincipalRef::Role(cursor.ident("a role")?))
    } else if cursor.take("GROUP") {
        Ok(PrincipalRef::Group(group(cursor)?))
    } else {
        Err(cursor.expected("USER, ROLE or GROUP"))
    }
}

/// The name of a group, between single quotes.
pub(super) fn group(cursor: &mut Cursor<'_>) -> Result<String> {
    let Position { line, column } = cursor.position();
    let group = cursor.string("a group, between single quotes")?;
    if group.is_empty() || group.chars().any(char::is_control) {
        return Err(Error::invalid("a group's name is not empty and holds no control characters").at(line, column));
    }
    Ok(group)
}

pub(super) fn policy_principal(cursor: &mut Cursor<'_>) -> Result<PrincipalRef> {
    if cursor.take("ALL") { Ok(PrincipalRef::All) } else { principal(cursor) }
}

pub fn create_policy(cursor: &mut Cursor<'_>, or_replace: bool) -> Result<Statement> {
    let name = cursor.ident("a policy")?;
    cursor.expect("ON")?;
    let on = policy_object(cursor)?;
    let mut kind = PolicyKind::Permissive;
    if cursor.take("AS") {
        if cursor.take("RESTRICTIVE") {
            kind = PolicyKind::Restrictive;
        } else if !cursor.take("PERMISSIVE") {
            return Err(cursor.expected("PERMISSIVE or RESTRICTIVE"));
        }
    }
    let command = if cursor.take("FOR") { command(cursor)? } else { PolicyCommand::All };
    cursor.expect("TO")?;
    let to = cursor.list(policy_principal)?;
    let except = if cursor.take("EXCEPT") { cursor.list(principal)? } else { Vec::new() };
    let clauses = cursor.clone();
    let using = if cursor.take("USING") { Some(expression(cursor)?) } else { None };
    let check_place = cursor.clone();
    let with_check = if cursor.take("WITH CHECK") { Some(expression(cursor)?) } else { None };
    if using.is_none() && with_check.is_none() {
        return Err(clauses.expected("USING or WITH CHECK"));
    }
    let problem = match command {
        PolicyCommand::Select | PolicyCommand::Delete if with_check.is_some() => {
            Some((&check_place, "a policy FOR SELECT or DELETE has USING only"))
        }
        PolicyCommand::Insert if using.is_some() => Some((&clauses, "a policy FOR INSERT has WITH CHECK only")),
        _ => None,
    };
    if let Some((place, problem)) = problem {
        let Position { line, column } = place.position();
        return Err(Error::invalid(problem).at(line, column));
    }
    let comment = if cursor.take("COMMENT") { Some(cursor.string("a comment, between single quotes")?) } else { None };
    let policy = CreatePolicy { name, or_replace, on, kind, command, to, except, using, with_check, comment };
    Ok(Statement::CreatePolicy(Box::new(policy)))
}

fn command(cursor: &mut Cursor<'_>) -> Result<PolicyCommand> {
    for (word, command) in [
        ("ALL", PolicyCommand::All),
        ("SELECT", PolicyCommand::Select),
        ("INSERT", PolicyCommand::Insert),
        ("UPDATE", PolicyCommand::Update),
        ("DELETE", PolicyCommand::Delete),
    ] {
        if cursor.take(word) {
            return Ok(command);
        }
    }
    Err(cursor.expected("ALL, SELECT, INSERT, UPDATE or DELETE"))
}

pub(super) fn expression(cursor: &mut Cursor<'_>) -> Result<Expression> {
    let (first, close) = cursor.brackets()?;
    let position = cursor.tokens().position(first);
    Ok(Expression { text: parse_expression(cursor.tokens(), first, close)?, position })
}
