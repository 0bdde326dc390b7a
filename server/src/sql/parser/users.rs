//! Users, their tokens, and SET ROLE.

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use datafusion::sql::sqlparser::tokenizer::Token;
use lazaret_auth::CertificateSubject;

use super::if_not_exists;
use crate::error::{Error, Position, Result};
use crate::sql::statement::{Expiry, RoleChoice, Secret, Statement, UserChange};
use crate::sql::tokens::Cursor;

/// A century: what is longer is a slip of the keyboard.
const MAX_TOKEN_DAYS: u64 = 36_500;
const NANOS_PER_S: i64 = 1_000_000_000;

pub fn create(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = if_not_exists(cursor)?;
    let name = cursor.ident("a user")?;
    let password = if cursor.take("PASSWORD") { Some(password(cursor)?) } else { None };
    Ok(Statement::CreateUser { name, if_not_exists, password })
}

pub fn alter(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let name = cursor.ident("a user")?;
    let change = if cursor.take("PASSWORD") {
        UserChange::Password(password(cursor)?)
    } else if cursor.take("ENABLE") {
        UserChange::Enable
    } else if cursor.take("DISABLE") {
        UserChange::Disable
    } else if cursor.take("SET CERTIFICATE SUBJECT") {
        UserChange::CertificateSubject(certificate_subject(cursor)?)
    } else {
        return Err(cursor.expected("PASSWORD, ENABLE, DISABLE or SET CERTIFICATE SUBJECT"));
    };
    Ok(Statement::AlterUser { name, change })
}

/// What stands in the place of a password is not repeated in an error: it may be one, in the wrong quotes.
fn password(cursor: &mut Cursor<'_>) -> Result<Secret> {
    let Position { line, column } = cursor.position();
    cursor
        .string("a password")
        .map(Secret::new)
        .map_err(|_| Error::invalid("syntax error: expected the password, between single quotes").at(line, column))
}

/// NULL: none any more.
fn certificate_subject(cursor: &mut Cursor<'_>) -> Result<Option<CertificateSubject>> {
    if cursor.take("NULL") {
        return Ok(None);
    }
    let Position { line, column } = cursor.position();
    let text = cursor.string("a subject, between single quotes, or NULL")?;
    CertificateSubject::parse(&text).map(Some).map_err(|error| Error::invalid(error.to_string()).at(line, column))
}

pub fn create_token(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let name = cursor.ident("a token")?;
    cursor.expect("FOR")?;
    cursor.expect("USER")?;
    let user = cursor.ident("a user")?;
    cursor.expect("EXPIRES")?;
    let expiry = if cursor.take("IN") { in_days(cursor)? } else { at(cursor)? };
    Ok(Statement::CreateToken { name, user, expiry })
}

pub fn drop_token(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let name = cursor.ident("a token")?;
    cursor.expect("FOR")?;
    cursor.expect("USER")?;
    Ok(Statement::DropToken { name, user: cursor.ident("a user")? })
}

fn in_days(cursor: &mut Cursor<'_>) -> Result<Expiry> {
    let Position { line, column } = cursor.position();
    let days = match cursor.peek() {
        Token::Number(number, _) => number.parse::<u64>().ok(),
        _ => return Err(cursor.expected("a number of days")),
    };
    let days = days.filter(|days| (1..=MAX_TOKEN_DAYS).contains(days));
    let days = days.ok_or_else(|| Error::invalid(format!("a token lasts from 1 to {MAX_TOKEN_DAYS} days")).at(line, column))?;
    cursor.advance();
    cursor.expect("DAYS")?;
    Ok(Expiry::InDays(days))
}

/// Without a zone it is UTC, as everywhere.
fn at(cursor: &mut Cursor<'_>) -> Result<Expiry> {
    let position = cursor.position();
    let text = cursor.string("IN, or a timestamp between single quotes")?;
    let seconds = string_to_timestamp_nanos(&text).ok().and_then(|nanos| u64::try_from(nanos / NANOS_PER_S).ok());
    let seconds = seconds.ok_or_else(|| {
        Error::invalid("a token expires at a timestamp, such as '2027-01-31T00:00:00Z'").at(position.line, position.column)
    })?;
    Ok(Expiry::At(seconds, position))
}

/// After SET ROLE.
pub fn set_role(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let choice = if cursor.take("ALL") {
        RoleChoice::All
    } else if cursor.take("NONE") {
        RoleChoice::None
    } else {
        RoleChoice::Only(cursor.ident("a role, NONE or ALL")?)
    };
    Ok(Statement::SetRole(choice))
}
