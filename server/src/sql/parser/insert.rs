//! INSERT INTO.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Error, Result};
use crate::sql::names::Ident;
use crate::sql::query::{begins_query, parse_query};
use crate::sql::statement::{Insert, Statement};
use crate::sql::tokens::Cursor;

pub fn insert(cursor: &mut Cursor<'_>, parameters: usize) -> Result<Statement> {
    cursor.expect("INTO")?;
    let table = cursor.object_name("a table")?;
    let columns = if *cursor.peek() == Token::LParen && !holds_query(cursor) { Some(columns(cursor)?) } else { None };
    for clause in ["DEFAULT VALUES", "OVERRIDING", "AS"] {
        if cursor.is_at(clause) {
            return Err(cursor.unsupported(format_args!("INSERT INTO … {clause}")));
        }
    }
    if !begins_query(cursor) {
        return Err(cursor.expected("VALUES or a query"));
    }
    let position = cursor.position();
    let query = parse_query(cursor, parameters)?;
    Ok(Statement::Insert(Box::new(Insert { table, columns, query, position })))
}

/// `(SELECT …)` rather than `(column, …)`.
fn holds_query(cursor: &Cursor<'_>) -> bool {
    let mut inside = cursor.clone();
    inside.advance();
    begins_query(&inside)
}

fn columns(cursor: &mut Cursor<'_>) -> Result<Vec<Ident>> {
    cursor.expect_token(&Token::LParen)?;
    let columns = cursor.list(|cursor| cursor.ident("a column"))?;
    cursor.expect_token(&Token::RParen)?;
    for (number, column) in columns.iter().enumerate() {
        if columns[..number].contains(column) {
            return Err(Error::invalid(format!("column \"{column}\" is there twice")).at(column.position.line, column.position.column));
        }
    }
    Ok(columns)
}
