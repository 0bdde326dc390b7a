//! KILL, and emergency access.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Error, Position, Result};
use crate::sql::statement::{KillTarget, SetEmergencyAccess, Statement};
use crate::sql::tokens::Cursor;

/// Ids of statements, sessions and the like are shorter; an error repeats what is asked for.
const MAX_ID_CHARS: usize = 64;

/// The longest emergency access, in minutes: who needs more says again why.
const MAX_EMERGENCY_MINUTES: u64 = 60;

/// A reason is for people to read, and is kept in the list, the log and the audit.
const MAX_REASON_CHARS: usize = 1000;

/// `REASON '…' [FOR n MINUTES] [ON t, …]`
pub fn set_emergency_access(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect("REASON")?;
    let Position { line, column } = cursor.position();
    let reason = cursor.string("the reason, between single quotes")?.trim().to_owned();
    if reason.is_empty() || reason.chars().count() > MAX_REASON_CHARS || reason.chars().any(char::is_control) {
        let message = format!("a reason has 1 to {MAX_REASON_CHARS} characters, in one line");
        return Err(Error::invalid(message).at(line, column));
    }
    let minutes = if cursor.take("FOR") { Some(minutes(cursor)?) } else { None };
    let on = if cursor.take("ON") { Some(cursor.list(|cursor| cursor.object_name("a table or view"))?) } else { None };
    Ok(Statement::SetEmergencyAccess(SetEmergencyAccess { reason, minutes, on }))
}

fn minutes(cursor: &mut Cursor<'_>) -> Result<u64> {
    let Position { line, column } = cursor.position();
    let Token::Number(text, _) = cursor.peek() else { return Err(cursor.expected("a number of minutes")) };
    let minutes = text.parse::<u64>().ok().filter(|minutes| (1..=MAX_EMERGENCY_MINUTES).contains(minutes));
    let minutes =
        minutes.ok_or_else(|| Error::invalid(format!("emergency access is for 1 to {MAX_EMERGENCY_MINUTES} minutes")).at(line, column))?;
    cursor.advance();
    if !cursor.take("MINUTES") && !cursor.take("MINUTE") {
        return Err(cursor.expected("MINUTES"));
    }
    Ok(minutes)
}

pub fn kill(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let what = if cursor.take("QUERY") {
        KillTarget::Query
    } else if cursor.take("SESSION") {
        KillTarget::Session
    } else {
        return Err(cursor.expected("QUERY or SESSION"));
    };
    Ok(Statement::Kill { what, id: id(cursor)? })
}

/// As it is shown, between single quotes.
pub fn id(cursor: &mut Cursor<'_>) -> Result<String> {
    let Position { line, column } = cursor.position();
    let id = cursor.string("an id, between single quotes")?;
    if id.is_empty() || id.chars().count() > MAX_ID_CHARS || id.chars().any(char::is_control) {
        return Err(Error::invalid(format!("an id has 1 to {MAX_ID_CHARS} characters")).at(line, column));
    }
    Ok(id)
}
