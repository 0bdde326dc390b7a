//! PostgreSQL's lexical rules and precedence for sqlparser, with what DataFusion adds to a SELECT list, and without
//! the places where sqlparser reads PostgreSQL wrongly.
//!
//! It is here, below the server, so that a view or a policy means the same when it is used as when it was written.

use std::any::TypeId;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArgumentList, FunctionArguments, LimitClause, ObjectName, Offset, Query, UnaryOperator, Value, VisitMut,
    VisitorMut,
};
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_COLUMN_ALIAS};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// Calls that the parser may stack on one another. An opening bracket costs one to three; the stack grows as needed.
pub const MAX_PARSER_DEPTH: usize = 256;

/// Not derived from [`PostgreSqlDialect`]: that one reads `?` as an operator, `>-` as one token, and switches on
/// grammar (factorial, geometry, XML) that nothing here evaluates.
#[derive(Clone, Copy, Debug)]
pub struct LazaretDialect;

/// PostgreSQL's unary minus binds closer than `^`.
const UNARY_MINUS_PRECEDENCE: u8 = 100;

/// Words that begin the next clause or go on with this one, reserved in PostgreSQL too.
const NEVER_A_COLUMN: [Keyword; 18] = [
    Keyword::FROM,
    Keyword::WHERE,
    Keyword::GROUP,
    Keyword::HAVING,
    Keyword::ORDER,
    Keyword::LIMIT,
    Keyword::OFFSET,
    Keyword::FETCH,
    Keyword::UNION,
    Keyword::EXCEPT,
    Keyword::INTERSECT,
    Keyword::ON,
    Keyword::WHEN,
    Keyword::THEN,
    Keyword::ELSE,
    Keyword::AS,
    Keyword::AND,
    Keyword::OR,
];

impl Dialect for LazaretDialect {
    /// sqlparser asks for the type where it has no method: there we are PostgreSQL.
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn identifier_quote_style(&self, _identifier: &str) -> Option<char> {
        Some('"')
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"'
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_' || (!ch.is_ascii() && !ch.is_whitespace())
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.is_identifier_start(ch) || ch.is_ascii_digit() || ch == '$'
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        PostgreSqlDialect {}.is_reserved_for_identifier(keyword)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        PostgreSqlDialect {}.prec_value(precedence)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        PostgreSqlDialect {}.get_next_precedence(parser)
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        match &parser.peek_token_ref().token {
            // `current_user` and `current_user()` are one; an unquoted word is never a column here.
            Token::Word(word)
                if matches!(word.keyword, Keyword::CURRENT_USER | Keyword::SESSION_USER | Keyword::CURRENT_CATALOG)
                    || (word.quote_style.is_none() && word.value.eq_ignore_ascii_case("current_schema")) =>
            {
                Some(identity_function(parser))
            }
            // `1 + FROM t`: to sqlparser these are names of columns wherever an expression is due.
            Token::Word(word) if word.quote_style.is_none() && NEVER_A_COLUMN.contains(&word.keyword) => {
                Some(parser.expected_ref("an expression", parser.peek_token_ref()))
            }
            Token::Minus => {
                parser.advance_token();
                let operand = parser.parse_subexpr(UNARY_MINUS_PRECEDENCE);
                Some(operand.map(|expr| Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(expr) }))
            }
            _ => None,
        }
    }

    /// sqlparser 0.62 reads `a IS NOT DISTINCT FROM b OR c` as `a IS NOT DISTINCT FROM (b OR c)`. In a policy that
    /// changes who sees what.
    fn parse_infix(&self, parser: &mut Parser, left: &Expr, _precedence: u8) -> Option<Result<Expr, ParserError>> {
        let wrap = if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
            Expr::IsDistinctFrom
        } else if parser.parse_keywords(&[Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM]) {
            Expr::IsNotDistinctFrom
        } else {
            return None;
        };
        let right = parser.parse_subexpr(self.prec_value(Precedence::Is));
        Some(right.map(|right| wrap(Box::new(left.clone()), Box::new(right))))
    }

    /// `SELECT 1 FOR UPDATE`: FOR is no alias.
    fn is_column_alias(&self, keyword: &Keyword, _parser: &mut Parser) -> bool {
        *keyword != Keyword::FOR && !RESERVED_FOR_COLUMN_ALIAS.contains(keyword)
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_order_by_all(&self) -> bool {
        true
    }

    fn allow_extract_custom(&self) -> bool {
        true
    }

    fn allow_extract_single_quotes(&self) -> bool {
        true
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn supports_string_escape_constant(&self) -> bool {
        true
    }

    fn supports_unicode_string_literal(&self) -> bool {
        true
    }

    fn supports_numeric_literal_underscores(&self) -> bool {
        true
    }

    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }

    fn supports_notnull_operator(&self) -> bool {
        true
    }

    fn supports_interval_options(&self) -> bool {
        true
    }

    fn supports_comma_separated_trim(&self) -> bool {
        true
    }

    fn supports_dictionary_syntax(&self) -> bool {
        true
    }

    fn support_map_literal_syntax(&self) -> bool {
        true
    }

    fn supports_select_wildcard_except(&self) -> bool {
        true
    }

    fn supports_select_wildcard_exclude(&self) -> bool {
        true
    }

    fn supports_select_wildcard_replace(&self) -> bool {
        true
    }

    /// Parsed so that it can be refused by name: without it, `VERSION` would be an alias.
    fn supports_table_versioning(&self) -> bool {
        true
    }
}

fn identity_function(parser: &mut Parser) -> Result<Expr, ParserError> {
    let name = parser.parse_identifier()?;
    if parser.consume_token(&Token::LParen) {
        parser.expect_token(&Token::RParen)?;
    }
    Ok(Expr::Function(Function {
        name: ObjectName::from(vec![name]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args: Vec::new(), clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    }))
}

/// FETCH FIRST n ROWS ONLY is LIMIT n, which the planner knows.
pub fn normalise_fetch<T: VisitMut>(syntax: &mut T) {
    struct Rewrite;
    impl VisitorMut for Rewrite {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            let offset: Option<Offset> = match &query.limit_clause {
                None => None,
                Some(LimitClause::LimitOffset { limit: None, offset, limit_by }) if limit_by.is_empty() => offset.clone(),
                Some(_) => return ControlFlow::Continue(()),
            };
            if let Some(fetch) = query.fetch.take_if(|fetch| !fetch.with_ties && !fetch.percent) {
                let one = || Expr::Value(Value::Number("1".to_owned(), false).into());
                let limit = Some(fetch.quantity.unwrap_or_else(one));
                query.limit_clause = Some(LimitClause::LimitOffset { limit, offset, limit_by: Vec::new() });
            }
            ControlFlow::Continue(())
        }
    }
    let _ = syntax.visit(&mut Rewrite);
}
