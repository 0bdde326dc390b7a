//! Statements about what somebody else sees, and how that one is written: `USER u [GROUPS ('g', …)] [CLAIMS '{…}']`.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Error, Position, Result};
use crate::sql::names::UserName;
use crate::sql::query::{begins_query, parse_query};
use crate::sql::statement::{ExecuteAs, ExplainPolicy, Statement, Subject, SubjectRef};
use crate::sql::tokens::Cursor;

/// After `EXECUTE AS USER`. What changes something, or acts for yet another, cannot follow.
pub fn execute_as(cursor: &mut Cursor<'_>, parameters: usize) -> Result<Statement> {
    let subject = subject(cursor)?;
    let Position { line, column } = cursor.position();
    let statement = if begins_query(cursor) {
        Statement::Query(Box::new(parse_query(cursor, parameters)?))
    } else if cursor.is_at("EXECUTE AS") {
        return Err(Error::invalid("EXECUTE AS cannot stand inside another").at(line, column));
    } else if cursor.is_at("EXPLAIN POLICY") {
        return Err(Error::invalid("EXPLAIN POLICY has a FOR USER of its own").at(line, column));
    } else if cursor.take("EXPLAIN") {
        super::explain(cursor, parameters)?
    } else {
        return Err(cursor.expected("a query or EXPLAIN"));
    };
    Ok(Statement::ExecuteAs(Box::new(ExecuteAs { subject, statement })))
}

/// After `EXPLAIN POLICY`.
pub fn explain_policy(cursor: &mut Cursor<'_>, parameters: usize) -> Result<Statement> {
    let subject = if cursor.take("FOR") {
        cursor.expect("USER")?;
        Some(subject(cursor)?)
    } else {
        None
    };
    let query = parse_query(cursor, parameters)?;
    Ok(Statement::ExplainPolicy(Box::new(ExplainPolicy { subject, query })))
}

/// `USER u …` or `ROLE r`.
pub fn subject_ref(cursor: &mut Cursor<'_>) -> Result<SubjectRef> {
    if cursor.take("USER") {
        Ok(SubjectRef::User(subject(cursor)?))
    } else if cursor.take("ROLE") {
        Ok(SubjectRef::Role(cursor.ident("a role")?))
    } else {
        Err(cursor.expected("USER or ROLE"))
    }
}

/// After `USER`.
fn subject(cursor: &mut Cursor<'_>) -> Result<Subject> {
    let user = UserName(cursor.ident("a user")?);
    let mut groups = Vec::new();
    if cursor.take("GROUPS") {
        cursor.expect_token(&Token::LParen)?;
        groups = cursor.list(|cursor| {
            let place = cursor.position();
            Ok((super::access::group(cursor)?, place))
        })?;
        cursor.expect_token(&Token::RParen)?;
    }
    let mut claims = None;
    if cursor.take("CLAIMS") {
        let Position { line, column } = cursor.position();
        let text = cursor.string("claims: a JSON object, between single quotes")?;
        let object = serde_json::from_str(&text).map_err(|_| Error::invalid("the claims are not a JSON object").at(line, column))?;
        claims = Some(object);
    }
    Ok(Subject { user, groups, claims })
}
