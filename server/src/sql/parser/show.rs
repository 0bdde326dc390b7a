//! SHOW, USE, SET and RESET.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::{access, masks, subject, users};
use crate::error::Result;
use crate::sql::names::UserName;
use crate::sql::statement::{ObjectRef, PrincipalRef, RelationKind, RoleChoice, Show, ShowGrants, Statement};
use crate::sql::tokens::Cursor;

pub fn show(cursor: &mut Cursor<'_>) -> Result<Show> {
    if cursor.take("CATALOGS") {
        Ok(Show::Catalogs)
    } else if cursor.take("SETTINGS") {
        Ok(Show::Settings)
    } else if cursor.take("WARNINGS") {
        Ok(Show::Warnings)
    } else if cursor.take("SCHEMAS") {
        Ok(Show::Schemas(if from(cursor) { Some(cursor.ident("a catalog")?) } else { None }))
    } else if cursor.take("TABLES") {
        Ok(Show::Tables(if from(cursor) { Some(cursor.object_name("a schema")?) } else { None }))
    } else if cursor.take("COLUMNS") {
        if !from(cursor) {
            return Err(cursor.expected("FROM"));
        }
        Ok(Show::Columns(cursor.object_name("a table or view")?))
    } else if cursor.take("CREATE TABLE") || cursor.take("CREATE VIEW") {
        Ok(Show::CreateTable(cursor.object_name("a table or view")?))
    } else if cursor.take("USERS") {
        Ok(Show::Users)
    } else if cursor.take("TOKENS") {
        Ok(Show::Tokens(if cursor.take("FOR USER") { Some(cursor.ident("a user")?) } else { None }))
    } else if cursor.take("ROLES") {
        Ok(Show::Roles)
    } else if cursor.take("GRANTS") {
        show_grants(cursor)
    } else if cursor.take("POLICIES") {
        Ok(Show::Policies(if cursor.take("ON") { Some(object_or_table(cursor)?) } else { None }))
    } else if cursor.take("MASKING POLICIES") {
        Ok(Show::MaskingPolicies(if cursor.take("ON") { Some(masks::table(cursor)?) } else { None }))
    } else if cursor.take("EMERGENCY ACCESS") {
        Ok(Show::EmergencyAccess)
    } else if cursor.take("EFFECTIVE POLICIES") {
        cursor.expect("ON")?;
        let place = cursor.clone();
        let on = object_or_table(cursor)?;
        if !matches!(on, ObjectRef::Relation(..)) {
            return Err(place.expected("a table or view"));
        }
        let of = if cursor.take("FOR") { Some(subject::subject_ref(cursor)?) } else { None };
        Ok(Show::EffectivePolicies { on, of })
    } else {
        const EVERY: &str = "CATALOGS, SCHEMAS, TABLES, COLUMNS, CREATE TABLE, USERS, TOKENS, ROLES, GRANTS, POLICIES, MASKING POLICIES, EFFECTIVE POLICIES, EMERGENCY ACCESS, SETTINGS or WARNINGS";
        Err(cursor.expected(EVERY))
    }
}

fn from(cursor: &mut Cursor<'_>) -> bool {
    cursor.take("FROM") || cursor.take("IN")
}

fn show_grants(cursor: &mut Cursor<'_>) -> Result<Show> {
    if cursor.take("ON") {
        let object = if cursor.take("SYSTEM") { ObjectRef::System } else { object_or_table(cursor)? };
        return Ok(Show::Grants(Some(ShowGrants::On(object))));
    }
    if cursor.take("TO") {
        let explicit = ["USER", "ROLE", "GROUP"].iter().any(|word| cursor.is(word));
        let principal = if explicit { access::principal(cursor)? } else { PrincipalRef::User(UserName(cursor.ident("a principal")?)) };
        return Ok(Show::Grants(Some(ShowGrants::To(principal))));
    }
    Ok(Show::Grants(None))
}

/// `t` is `TABLE t` here, and finds a view as well.
fn object_or_table(cursor: &mut Cursor<'_>) -> Result<ObjectRef> {
    if ["CATALOG", "SCHEMA", "TABLE", "VIEW"].iter().any(|word| cursor.is(word)) {
        return access::policy_object(cursor);
    }
    Ok(ObjectRef::Relation(RelationKind::Table, cursor.object_name("a table or view")?))
}

pub fn use_catalog(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let catalog = cursor.ident("a catalog")?;
    let schema = if cursor.take_token(&Token::Period) { Some(cursor.ident("a schema")?) } else { None };
    Ok(Statement::Use { catalog, schema })
}

pub fn set(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.take("ROLE") {
        return users::set_role(cursor);
    }
    let name = if cursor.take("TIME ZONE") {
        "time_zone".to_owned()
    } else {
        let name = cursor.object_name("a setting")?.to_string();
        if !cursor.take_token(&Token::Eq) && !cursor.take("TO") {
            return Err(cursor.expected("\"=\""));
        }
        name
    };
    Ok(Statement::Set { name, value: value(cursor)? })
}

/// A string, a number or a word such as `on`.
fn value(cursor: &mut Cursor<'_>) -> Result<String> {
    let sign = if cursor.take_token(&Token::Minus) { "-" } else { "" };
    let text = match cursor.peek() {
        Token::Number(number, _) => number.clone(),
        Token::Word(word) if sign.is_empty() && word.quote_style.is_none() => word.value.to_ascii_lowercase(),
        _ if sign.is_empty() => return cursor.string("a value"),
        _ => return Err(cursor.expected("a number")),
    };
    cursor.advance();
    Ok(format!("{sign}{text}"))
}

pub fn reset(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.take("ALL") {
        return Ok(Statement::Reset { name: None });
    }
    if cursor.take("ROLE") {
        return Ok(Statement::SetRole(RoleChoice::All));
    }
    Ok(Statement::Reset { name: Some(cursor.object_name("a setting")?.to_string()) })
}
