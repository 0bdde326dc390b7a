//! CREATE and DROP MASKING POLICY.

use datafusion::sql::sqlparser::tokenizer::Token;
use lazaret_auth::MaskAction;

use super::access::{expression, policy_principal, principal};
use super::if_exists;
use crate::error::{Error, Position, Result};
use crate::sql::statement::{CreateMaskingPolicy, MaskUsing, Statement};
use crate::sql::tokens::Cursor;
use crate::sql::{Ident, ObjectName};

pub fn create(cursor: &mut Cursor<'_>, or_replace: bool) -> Result<Statement> {
    let name = cursor.ident("a masking policy")?;
    cursor.expect("ON")?;
    cursor.expect("TABLE")?;
    let on = cursor.object_name("a table")?;
    let columns = columns(cursor)?;
    cursor.expect("TO")?;
    let to = cursor.list(policy_principal)?;
    let except = if cursor.take("EXCEPT") { cursor.list(principal)? } else { Vec::new() };
    cursor.expect("USING")?;
    let using = if cursor.take("ACTION") {
        action(cursor)?
    } else if *cursor.peek() == Token::LParen {
        MaskUsing::Expression(expression(cursor)?)
    } else {
        return Err(cursor.expected("an expression in parentheses, or ACTION"));
    };
    let priority = if cursor.take("PRIORITY") { priority(cursor)? } else { 0 };
    let comment = if cursor.take("COMMENT") { Some(cursor.string("a comment, between single quotes")?) } else { None };
    let policy = CreateMaskingPolicy { name, or_replace, on, columns, to, except, using, priority, comment };
    Ok(Statement::CreateMaskingPolicy(Box::new(policy)))
}

pub fn drop(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_exists = if_exists(cursor)?;
    let name = cursor.ident("a masking policy")?;
    cursor.expect("ON")?;
    Ok(Statement::DropMaskingPolicy { name, on: table(cursor)?, if_exists })
}

/// `t` or `TABLE t`.
pub fn table(cursor: &mut Cursor<'_>) -> Result<ObjectName> {
    let _ = cursor.take("TABLE");
    cursor.object_name("a table")
}

fn columns(cursor: &mut Cursor<'_>) -> Result<Vec<Ident>> {
    if !cursor.take_token(&Token::LParen) {
        return Err(cursor.expected("the columns, in parentheses"));
    }
    let columns = cursor.list(|cursor| {
        let column = cursor.ident("a column")?;
        if *cursor.peek() == Token::Period {
            let Position { line, column: at } = column.position;
            return Err(Error::invalid(format!("a mask is for a whole column: name \"{column}\" alone")).at(line, at));
        }
        Ok(column)
    })?;
    if !cursor.take_token(&Token::RParen) {
        return Err(cursor.expected("\",\" or \")\""));
    }
    let twice = columns.iter().enumerate().find(|(number, column)| columns[..*number].contains(column));
    if let Some((_, column)) = twice {
        let Position { line, column: at } = column.position;
        return Err(Error::invalid(format!("column \"{column}\" is named twice")).at(line, at));
    }
    Ok(columns)
}

fn action(cursor: &mut Cursor<'_>) -> Result<MaskUsing> {
    let position = cursor.position();
    for action in MaskAction::EVERY {
        if cursor.take(action.name()) {
            return Ok(MaskUsing::Action(action, position));
        }
    }
    Err(cursor.expected(format!("one of {}", MaskAction::EVERY.map(MaskAction::name).join(", "))))
}

fn priority(cursor: &mut Cursor<'_>) -> Result<i64> {
    let place = cursor.clone();
    let sign = if cursor.take_token(&Token::Minus) { "-" } else { "" };
    let number = match cursor.peek() {
        Token::Number(digits, false) => format!("{sign}{digits}").parse(),
        _ => return Err(cursor.expected("a whole number")),
    };
    cursor.advance();
    number.map_err(|_| place.expected("a whole number of 64 bits"))
}
