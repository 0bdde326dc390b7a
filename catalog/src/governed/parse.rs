//! SQL text that is stored, policies and views, to its syntax tree, as a query would be read.

use datafusion::sql::sqlparser::ast::{Expr, Statement};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::dialect::{LazaretDialect, MAX_PARSER_DEPTH, normalise_fetch};

/// Why a stored text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The parser's words, with line and column.
    #[error("{0}")]
    Syntax(String),
    #[error("a query is expected")]
    NotAQuery,
}

impl From<ParserError> for ParseError {
    fn from(error: ParserError) -> Self {
        match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => Self::Syntax(text),
            ParserError::RecursionLimitExceeded => Self::Syntax("nested too deeply".to_owned()),
        }
    }
}

/// One expression, and nothing behind it.
pub fn expression(text: &str) -> Result<Expr, ParseError> {
    let mut parser = parser(text)?;
    let mut expr = parser.parse_expr()?;
    let rest = parser.next_token();
    if rest.token != Token::EOF {
        return Err(ParseError::Syntax(format!("unexpected {} at {}", rest.token, rest.span.start)));
    }
    normalise_fetch(&mut expr);
    Ok(expr)
}

/// One query.
pub fn query(text: &str) -> Result<Statement, ParseError> {
    let mut statements = parser(text)?.parse_statements()?;
    match (statements.pop(), statements.is_empty()) {
        (Some(Statement::Query(mut query)), true) => {
            normalise_fetch(query.as_mut());
            Ok(Statement::Query(query))
        }
        _ => Err(ParseError::NotAQuery),
    }
}

fn parser(text: &str) -> Result<Parser<'static>, ParserError> {
    Parser::new(&LazaretDialect).with_recursion_limit(MAX_PARSER_DEPTH).try_with_sql(text)
}
