//! SQL text that is stored, policies and views, to its syntax tree: in the dialect of queries, and with no doubt left about
//! what it means.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Statement, UnaryOperator, visit_expressions};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

/// Levels of nesting that the parser follows.
const MAX_NESTING: usize = 50;

/// Why a stored text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The parser's words, with line and column.
    #[error("{0}")]
    Syntax(String),
    #[error("put parentheses around what follows IS [NOT] DISTINCT FROM")]
    AmbiguousDistinct,
    #[error("a query is expected")]
    NotAQuery,
}

impl From<ParserError> for ParseError {
    fn from(error: ParserError) -> Self {
        match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => Self::Syntax(text),
            ParserError::RecursionLimitExceeded => Self::Syntax(format!("nested deeper than {MAX_NESTING} levels")),
        }
    }
}

/// One expression, and nothing behind it.
pub fn expression(text: &str) -> Result<Expr, ParseError> {
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect).with_recursion_limit(MAX_NESTING).with_tokens_with_locations(tokens(text)?);
    let expr = parser.parse_expr()?;
    let rest = parser.next_token();
    if rest.token != Token::EOF {
        return Err(ParseError::Syntax(format!("unexpected {} at {}", rest.token, rest.span.start)));
    }
    unambiguous(&expr)?;
    Ok(expr)
}

/// One query.
pub fn query(text: &str) -> Result<Statement, ParseError> {
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect).with_recursion_limit(MAX_NESTING).with_tokens_with_locations(tokens(text)?);
    let mut statements = parser.parse_statements()?;
    match (statements.pop(), statements.is_empty()) {
        (Some(statement @ Statement::Query(_)), true) => {
            unambiguous(&statement)?;
            Ok(statement)
        }
        _ => Err(ParseError::NotAQuery),
    }
}

/// `current_user` and `session_user` are keywords to the parser, which then takes no parentheses: drop empty ones.
fn tokens(text: &str) -> Result<Vec<TokenWithSpan>, ParseError> {
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, text).tokenize_with_location().map_err(|error| ParseError::Syntax(error.to_string()))?;
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))) {
        kept.push(token);
        if let [.., name, open, close] = kept.as_slice() {
            let is_identity = matches!(&name.token, Token::Word(word)
                if word.quote_style.is_none() && matches!(word.keyword, Keyword::CURRENT_USER | Keyword::SESSION_USER));
            if is_identity && open.token == Token::LParen && close.token == Token::RParen {
                kept.truncate(kept.len() - 2);
            }
        }
    }
    Ok(kept)
}

/// sqlparser 0.62 reads everything behind IS [NOT] DISTINCT FROM as its right side, so that `a IS NOT DISTINCT FROM b OR c`
/// becomes `a IS NOT DISTINCT FROM (b OR c)`. Where it may have taken too much, parentheses are demanded.
fn unambiguous(tree: &impl datafusion::sql::sqlparser::ast::Visit) -> Result<(), ParseError> {
    let seen = visit_expressions(tree, |expr| match expr {
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) if !binds_tighter(right) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    if seen.is_break() { Err(ParseError::AmbiguousDistinct) } else { Ok(()) }
}

/// Whether an expression is one operand to IS, however it goes on.
fn binds_tighter(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::CompoundFieldAccess { .. } | Expr::Value(_) => true,
        Expr::TypedString(_) | Expr::Nested(_) | Expr::Function(_) | Expr::Cast { .. } | Expr::Case { .. } | Expr::Interval(_) => true,
        Expr::UnaryOp { op: UnaryOperator::Plus | UnaryOperator::Minus, expr } => binds_tighter(expr),
        Expr::BinaryOp { left, op, right } => {
            use BinaryOperator::*;
            matches!(op, Plus | Minus | Multiply | Divide | Modulo | StringConcat) && binds_tighter(left) && binds_tighter(right)
        }
        _ => false,
    }
}
