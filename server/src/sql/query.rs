//! Queries: parsed by sqlparser, then refused where DataFusion's planner would pass over a part of them in silence.
//!
//! What is refused comes from reading `datafusion-sql` 55.2 for fields that it does not look at (`query.rs`, `select.rs`,
//! `relation/mod.rs`, `cte.rs`, `expr/function.rs`). An error of the planner's own is good enough and is left to it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::Spanned;
use datafusion::sql::sqlparser::ast::{
    Cte, DataType, Expr, FunctionArg, FunctionArguments, GroupByExpr, Ident as SqlIdent, JoinConstraint, JoinOperator, LimitClause,
    NamedWindowExpr, ObjectName as SqlName, OrderByKind, Query as SqlQuery, Select, SelectFlavor, SelectItem, SetExpr, SetOperator,
    SetQuantifier, TableAlias, TableFactor, TableVersion, TableWithJoins, Value, ValueWithSpan, Values, Visit, Visitor,
    WildcardAdditionalOptions, WindowSpec, WindowType,
};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use lazaret_catalog::dialect::{LazaretDialect, MAX_PARSER_DEPTH, normalise_fetch};

use super::statement::{Query, RepeatedColumn};
use super::tokens::{Cursor, Tokens, describe, lower_first, shown};
use crate::error::{Error, ErrorKind, Position, Result};

/// Tables, subqueries and functions in the FROM clauses of one statement: each is a level of the plan, and the time to
/// plan grows with the cube of the joins.
pub const MAX_RELATIONS: usize = 128;

/// Subqueries inside one another: sqlparser looks for the place of a table by recursion, some 70 KiB a level in a debug
/// build.
pub const MAX_SUBQUERY_DEPTH: usize = 32;

/// Whether the next token begins a query.
pub fn begins_query(cursor: &Cursor<'_>) -> bool {
    ["SELECT", "WITH", "VALUES"].iter().any(|word| cursor.is(word)) || *cursor.peek() == Token::LParen
}

/// Reads everything up to the end of the statement as one query.
pub fn parse_query(cursor: &mut Cursor<'_>, parameters: usize) -> Result<Query> {
    if !begins_query(cursor) {
        return Err(cursor.expected("a query"));
    }
    let (from, to) = (cursor.at(), cursor.tokens().end());
    let mut ast = with_parser(cursor.tokens(), from, to, |parser| parser.parse_query())?;
    normalise_fetch(&mut ast);
    check(&*ast, cursor.tokens(), from)?;
    let text = cursor.tokens().text(from, to).to_owned();
    cursor.skip_to_end();
    let repeated = part_names(&mut ast, cursor.tokens(), from);
    Ok(Query { ast, text, parameters, repeated })
}

/// The query of a table or a view, whose columns have names of their own.
pub fn parse_relation(cursor: &mut Cursor<'_>, parameters: usize) -> Result<Query> {
    let query = parse_query(cursor, parameters)?;
    match query.repeated.first() {
        Some(RepeatedColumn { name, position, .. }) => {
            Err(Error::invalid(format!("column \"{name}\" is there twice")).at(position.line, position.column))
        }
        None => Ok(query),
    }
}

/// A result may have two columns of a name; a plan of DataFusion's may not. The later one gets another name here, and has
/// its own again where the result goes out.
fn part_names(query: &mut SqlQuery, tokens: &Tokens<'_>, from: usize) -> Vec<RepeatedColumn> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Vec::new() };
    let one_table = matches!(select.from.as_slice(), [from] if from.joins.is_empty());
    let mut names: Vec<(String, usize)> = Vec::new();
    let mut repeated: Vec<RepeatedColumn> = Vec::new();
    for (index, item) in select.projection.iter_mut().enumerate() {
        let (expr, name, shown, place) = match item {
            SelectItem::UnnamedExpr(expr) => (expr.clone(), output_name(expr, one_table), expr.to_string(), expr.span().start),
            SelectItem::ExprWithAlias { expr, alias } => {
                let name = if alias.quote_style.is_some() { alias.value.clone() } else { alias.value.to_lowercase() };
                (expr.clone(), name.clone(), name, alias.span.start)
            }
            // Where a wildcard stands, nobody knows yet which column is which.
            _ => return repeated,
        };
        let Some((_, first)) = names.iter().find(|(other, _)| *other == name) else {
            names.push((name, index));
            continue;
        };
        let place = Some(place).filter(|place| place.line > 0);
        let position = place.map_or_else(|| tokens.position(from), |place| Position { line: place.line, column: place.column });
        repeated.push(RepeatedColumn { index, first: *first, name: shown, position });
        *item = SelectItem::ExprWithAlias { expr, alias: SqlIdent::with_quote('"', format!("{name}:{index}")) };
    }
    repeated
}

/// Equal for two columns that DataFusion would give one name, and different for those of two tables.
fn output_name(expr: &Expr, one_table: bool) -> String {
    let name = |ident: &SqlIdent| if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() };
    match expr {
        Expr::Nested(inner) => output_name(inner, one_table),
        Expr::Identifier(ident) => name(ident),
        Expr::CompoundIdentifier(parts) if one_table => parts.last().map(name).unwrap_or_default(),
        Expr::UnaryOp { op, expr } => format!("{op} {}", output_name(expr, one_table)),
        other => {
            let text = other.to_string();
            if text.contains(['\'', '"']) { text } else { text.to_lowercase() }
        }
    }
}

/// Tokens `from..to` must be one expression; returns their text.
pub fn parse_expression(tokens: &Tokens<'_>, from: usize, to: usize) -> Result<String> {
    let expr = with_parser(tokens, from, to, |parser| parser.parse_expr())?;
    check(&expr, tokens, from)?;
    Ok(tokens.text(from, to).to_owned())
}

/// Tokens `from..to` must be one type.
pub fn parse_type(tokens: &Tokens<'_>, from: usize, to: usize) -> Result<DataType> {
    with_parser(tokens, from, to, |parser| parser.parse_data_type())
}

fn with_parser<T>(tokens: &Tokens<'_>, from: usize, to: usize, parse: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>) -> Result<T> {
    let mut parser = Parser::new(&LazaretDialect).with_recursion_limit(MAX_PARSER_DEPTH).with_tokens_with_locations(tokens.slice(from, to));
    let parsed = parse(&mut parser);
    let reached = parser.peek_token();
    let place = Position { line: reached.span.start.line.max(1), column: reached.span.start.column.max(1) };
    match parsed {
        Ok(parsed) if reached.token == Token::EOF => Ok(parsed),
        Ok(_) => {
            let found = describe(&reached.token);
            let expected = if to == tokens.end() { "the end of the statement" } else { "\")\"" };
            Err(Error::invalid(format!("syntax error: expected {expected}, found {found}")).at(place.line, place.column))
        }
        Err(error) => Err(translate(error, tokens, to, place)),
    }
}

/// sqlparser writes the place into the text; where it names the end of its tokens, that is token `to`.
fn translate(error: ParserError, tokens: &Tokens<'_>, to: usize, reached: Position) -> Error {
    let text = match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
        ParserError::RecursionLimitExceeded => {
            let message = format!("the statement is nested too deeply (limit {MAX_PARSER_DEPTH})");
            return Error::new(ErrorKind::Exhausted, message).at(reached.line, reached.column);
        }
    };
    let (text, mut place) = match split_location(&text) {
        Some((text, place)) => (text, place),
        None => (text.as_str(), reached),
    };
    let message = if let Some((expected, found)) = text.strip_prefix("Expected: ").and_then(|text| text.rsplit_once(", found: ")) {
        let found = if found == "EOF" {
            place = tokens.position(to);
            describe(tokens.token(to))
        } else {
            shown(found)
        };
        format!("expected {}, found {found}", lower_first(expected))
    } else if let Some(found) = text.strip_prefix("Expected an expression, found: ") {
        // The place is that of the token after it.
        place = tokens.before(place);
        format!("expected an expression, found {}", shown(found))
    } else if text.starts_with("No infix parser for token") {
        format!("unexpected {}", describe(tokens.token(tokens.at(place))))
    } else {
        lower_first(text)
    };
    Error::invalid(format!("syntax error: {message}")).at(place.line, place.column)
}

/// `… at Line: 3, Column: 8` without its end.
fn split_location(text: &str) -> Option<(&str, Position)> {
    let (message, location) = text.rsplit_once(" at Line: ")?;
    let (line, column) = location.split_once(", Column: ")?;
    Some((message, Position { line: line.parse().ok()?, column: column.parse().ok()? }))
}

fn check(tree: &impl Visit, tokens: &Tokens<'_>, from: usize) -> Result<()> {
    let mut checker = Checker { tokens, from, relations: 0, open_queries: 0 };
    match tree.visit(&mut checker) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

fn has_subquery(values: &Values) -> bool {
    struct Subqueries;
    impl Visitor for Subqueries {
        type Break = ();
        fn pre_visit_query(&mut self, _query: &SqlQuery) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    values.visit(&mut Subqueries).is_break()
}

/// Finds what would be ignored.
struct Checker<'a> {
    tokens: &'a Tokens<'a>,
    /// Where the query begins.
    from: usize,
    relations: usize,
    open_queries: usize,
}

type Check = ControlFlow<Error>;

const FINE: Check = ControlFlow::Continue(());

impl Checker<'_> {
    /// Refuses a clause by name, at the place of the words that it begins with.
    fn refuse_if(&self, found: bool, clause: &str, words: &str) -> Check {
        if found {
            let Position { line, column } = self.tokens.find_words(self.from, words);
            return ControlFlow::Break(Error::unsupported(clause).at(line, column));
        }
        FINE
    }

    fn wrong_at(&self, ident: Option<&SqlIdent>, error: Error) -> Check {
        let start = ident.map(|ident| ident.span.start).filter(|start| start.line > 0);
        let Position { line, column } =
            start.map_or_else(|| self.tokens.position(self.from), |start| Position { line: start.line, column: start.column });
        ControlFlow::Break(error.at(line, column))
    }

    fn body(&self, body: &SetExpr) -> Check {
        let mut body = body;
        // The left arm is as deep as there are set operations; their number is bounded.
        while let SetExpr::SetOperation { op, set_quantifier, left, right } = body {
            let plain = matches!(set_quantifier, SetQuantifier::None | SetQuantifier::Distinct);
            match op {
                // DataFusion plans them as joins, which do not count duplicates.
                SetOperator::Intersect => self.refuse_if(!plain, &format!("INTERSECT {set_quantifier}"), "INTERSECT")?,
                SetOperator::Except | SetOperator::Minus => self.refuse_if(!plain, &format!("EXCEPT {set_quantifier}"), "EXCEPT")?,
                SetOperator::Union => {}
            }
            self.body(right)?;
            body = left;
        }
        match body {
            SetExpr::Insert(_) => self.refuse_if(true, "INSERT in a query", "INSERT"),
            SetExpr::Update(_) => self.refuse_if(true, "UPDATE in a query", "UPDATE"),
            SetExpr::Delete(_) => self.refuse_if(true, "DELETE in a query", "DELETE"),
            SetExpr::Merge(_) => self.refuse_if(true, "MERGE in a query", "MERGE"),
            SetExpr::Table(_) => self.refuse_if(true, "TABLE as a query", "TABLE"),
            // The planner takes it, and the plan cannot run.
            SetExpr::Values(values) => self.refuse_if(has_subquery(values), "a subquery in VALUES", "VALUES"),
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::SetOperation { .. } => FINE,
        }
    }

    fn cte(&self, cte: &Cte, recursive: bool) -> Check {
        self.refuse_if(cte.materialized.is_some(), "MATERIALIZED", "MATERIALIZED")?;
        self.refuse_if(cte.from.is_some(), "FROM after a WITH query", "FROM")?;
        self.alias(Some(&cte.alias))?;
        let union = matches!(*cte.query.body, SetExpr::SetOperation { op: SetOperator::Union, .. });
        if recursive && union {
            let query = &cte.query;
            self.refuse_if(query.order_by.is_some(), "ORDER BY in a recursive query", "ORDER BY")?;
            self.refuse_if(query.limit_clause.is_some() || query.fetch.is_some(), "LIMIT in a recursive query", "LIMIT")?;
            self.refuse_if(query.with.is_some(), "WITH in a recursive query", "WITH")?;
        }
        FINE
    }

    fn alias(&self, alias: Option<&TableAlias>) -> Check {
        let Some(alias) = alias else { return FINE };
        self.refuse_if(alias.at.is_some(), "AT after an alias", "AT")?;
        if let Some(column) = alias.columns.iter().find(|column| column.data_type.is_some()) {
            return self.wrong_at(Some(&column.name), Error::unsupported("a type in a column alias"));
        }
        FINE
    }

    fn wildcard(&self, options: &WildcardAdditionalOptions) -> Check {
        self.refuse_if(options.opt_ilike.is_some(), "* ILIKE", "ILIKE")?;
        self.refuse_if(options.opt_rename.is_some(), "* RENAME", "RENAME")?;
        self.refuse_if(options.opt_alias.is_some(), "an alias after *", "AS")
    }

    fn joins(&self, from: &TableWithJoins) -> Check {
        for join in &from.joins {
            self.refuse_if(join.global, "GLOBAL JOIN", "GLOBAL")?;
            let constraint = match &join.join_operator {
                JoinOperator::Join(constraint)
                | JoinOperator::Inner(constraint)
                | JoinOperator::Left(constraint)
                | JoinOperator::LeftOuter(constraint)
                | JoinOperator::Right(constraint)
                | JoinOperator::RightOuter(constraint)
                | JoinOperator::FullOuter(constraint)
                | JoinOperator::Semi(constraint)
                | JoinOperator::LeftSemi(constraint)
                | JoinOperator::RightSemi(constraint)
                | JoinOperator::Anti(constraint)
                | JoinOperator::LeftAnti(constraint)
                | JoinOperator::RightAnti(constraint) => constraint,
                _ => continue,
            };
            if matches!(constraint, JoinConstraint::None) {
                let Position { line, column } = self.tokens.find_words(self.from, "JOIN");
                return ControlFlow::Break(Error::invalid("syntax error: JOIN needs ON or USING").at(line, column));
            }
        }
        FINE
    }

    fn window(&self, spec: &WindowSpec) -> Check {
        if let Some(name) = &spec.window_name {
            return self.wrong_at(Some(name), Error::unsupported("a window that extends another"));
        }
        FINE
    }

    /// A function in FROM has one name and unnamed arguments: the planner looks at nothing else.
    fn table_function(&self, name: &SqlName, args: &[FunctionArg]) -> Check {
        let first = name.0.first().and_then(|part| part.as_ident());
        if name.0.len() > 1 {
            return self.wrong_at(first, Error::invalid(format!("table function {} not found", shown(&name.to_string()))));
        }
        if first.is_some_and(|ident| ident.value.eq_ignore_ascii_case("table_changes")) {
            return self.wrong_at(first, Error::unsupported("table_changes"));
        }
        if args.iter().any(|arg| !matches!(arg, FunctionArg::Unnamed(_))) {
            return self.wrong_at(first, Error::unsupported("named arguments of a table function"));
        }
        FINE
    }
}

impl Visitor for Checker<'_> {
    type Break = Error;

    fn post_visit_query(&mut self, _query: &SqlQuery) -> Check {
        self.open_queries -= 1;
        FINE
    }

    fn pre_visit_query(&mut self, query: &SqlQuery) -> Check {
        self.open_queries += 1;
        if self.open_queries > MAX_SUBQUERY_DEPTH {
            let message = format!("subqueries are nested at most {MAX_SUBQUERY_DEPTH} deep");
            return self.wrong_at(None, Error::new(ErrorKind::Exhausted, message));
        }
        self.refuse_if(!query.locks.is_empty(), "FOR UPDATE and FOR SHARE", "FOR")?;
        self.refuse_if(query.for_clause.is_some(), "FOR XML and FOR JSON", "FOR")?;
        self.refuse_if(query.settings.is_some(), "SETTINGS", "SETTINGS")?;
        self.refuse_if(query.format_clause.is_some(), "FORMAT", "FORMAT")?;
        self.refuse_if(!query.pipe_operators.is_empty(), "|>", "SELECT")?;
        self.refuse_if(query.fetch.is_some(), "FETCH with LIMIT, PERCENT or WITH TIES", "FETCH")?;
        match &query.limit_clause {
            None => {}
            Some(LimitClause::LimitOffset { limit_by, .. }) => self.refuse_if(!limit_by.is_empty(), "LIMIT BY", "LIMIT")?,
            Some(LimitClause::OffsetCommaLimit { .. }) => self.refuse_if(true, "LIMIT with a comma", "LIMIT")?,
        }
        if let Some(order_by) = &query.order_by {
            self.refuse_if(order_by.interpolate.is_some(), "INTERPOLATE", "INTERPOLATE")?;
            let select = matches!(*query.body, SetExpr::Select(_));
            self.refuse_if(matches!(order_by.kind, OrderByKind::All(_)) && !select, "ORDER BY ALL of a set operation", "ORDER BY ALL")?;
        }
        if let Some(with) = &query.with {
            for cte in &with.cte_tables {
                self.cte(cte, with.recursive)?;
            }
        }
        self.body(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> Check {
        self.refuse_if(select.into.is_some(), "SELECT INTO", "INTO")?;
        self.refuse_if(select.top.is_some(), "TOP", "TOP")?;
        self.refuse_if(select.exclude.is_some(), "EXCLUDE after a SELECT list", "EXCLUDE")?;
        self.refuse_if(!select.lateral_views.is_empty(), "LATERAL VIEW", "LATERAL VIEW")?;
        self.refuse_if(select.prewhere.is_some(), "PREWHERE", "PREWHERE")?;
        self.refuse_if(!select.connect_by.is_empty(), "CONNECT BY", "CONNECT")?;
        self.refuse_if(!select.cluster_by.is_empty(), "CLUSTER BY", "CLUSTER")?;
        self.refuse_if(!select.distribute_by.is_empty(), "DISTRIBUTE BY", "DISTRIBUTE")?;
        self.refuse_if(!select.sort_by.is_empty(), "SORT BY", "SORT")?;
        self.refuse_if(select.value_table_mode.is_some(), "SELECT AS VALUE and SELECT AS STRUCT", "AS")?;
        self.refuse_if(select.select_modifiers.is_some(), "modifiers of SELECT", "SELECT")?;
        self.refuse_if(!select.optimizer_hints.is_empty(), "hints", "SELECT")?;
        self.refuse_if(select.flavor != SelectFlavor::Standard, "a query that begins with FROM", "FROM")?;
        self.refuse_if(select.projection.is_empty(), "a SELECT without columns", "SELECT")?;
        let modifiers = match &select.group_by {
            GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers) => modifiers,
        };
        self.refuse_if(!modifiers.is_empty(), "GROUP BY … WITH", "GROUP BY")?;
        for item in &select.projection {
            match item {
                SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => self.wildcard(options)?,
                SelectItem::ExprWithAliases { .. } => self.refuse_if(true, "several aliases of one column", "AS")?,
                SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. } => {}
            }
        }
        for window in &select.named_window {
            if let NamedWindowExpr::WindowSpec(spec) = &window.1 {
                self.window(spec)?;
            }
        }
        select.from.iter().try_for_each(|from| self.joins(from))
    }

    fn pre_visit_relation(&mut self, name: &SqlName) -> Check {
        let Some(ident) = name.0.last().and_then(|part| part.as_ident()) else { return FINE };
        if ident.quote_style == Some('\'') {
            let Position { line, column } = self.tokens.find(self.from, |token| *token == Token::SingleQuotedString(ident.value.clone()));
            let message = format!("syntax error: expected a table, found {}", shown(&ident.to_string()));
            return ControlFlow::Break(Error::invalid(message).at(line, column));
        }
        let inside = ident.value.rsplit_once('$').map(|(_, what)| what.to_ascii_lowercase());
        if let (Some("snapshots" | "files" | "partitions" | "manifests"), None) = (inside.as_deref(), ident.quote_style) {
            return self.wrong_at(Some(ident), Error::unsupported(shown(&ident.value)));
        }
        FINE
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Check {
        self.relations += 1;
        if self.relations > MAX_RELATIONS {
            let message = format!("a statement has at most {MAX_RELATIONS} tables in its FROM clauses");
            return self.wrong_at(None, Error::new(ErrorKind::Exhausted, message));
        }
        match factor {
            TableFactor::Table { name, alias, args, with_hints, version, with_ordinality, partitions, json_path, sample, index_hints } => {
                if let Some(version) = version {
                    let (clause, words) = match version {
                        TableVersion::ForSystemTimeAsOf(_) => ("FOR SYSTEM_TIME AS OF", "FOR SYSTEM_TIME"),
                        TableVersion::TimestampAsOf(_) => ("TIMESTAMP AS OF", "TIMESTAMP AS"),
                        TableVersion::VersionAsOf(_) => ("VERSION AS OF", "VERSION AS"),
                        _ => ("time travel", "AT"),
                    };
                    self.refuse_if(true, clause, words)?;
                }
                self.refuse_if(sample.is_some(), "TABLESAMPLE", "TABLESAMPLE")?;
                self.refuse_if(!with_hints.is_empty() || !index_hints.is_empty(), "table hints", "WITH")?;
                self.refuse_if(*with_ordinality, "WITH ORDINALITY", "WITH ORDINALITY")?;
                self.refuse_if(!partitions.is_empty(), "PARTITION", "PARTITION")?;
                self.refuse_if(json_path.is_some(), "a path after a table", "FROM")?;
                if let Some(args) = args {
                    self.refuse_if(args.settings.is_some(), "SETTINGS", "SETTINGS")?;
                    self.table_function(name, &args.args)?;
                }
                self.alias(alias.as_ref())
            }
            TableFactor::Derived { alias, sample, .. } => {
                self.refuse_if(sample.is_some(), "TABLESAMPLE", "TABLESAMPLE")?;
                self.alias(alias.as_ref())
            }
            TableFactor::Function { name, args, with_ordinality, alias, .. } => {
                self.refuse_if(*with_ordinality, "WITH ORDINALITY", "WITH ORDINALITY")?;
                self.table_function(name, args)?;
                self.alias(alias.as_ref())
            }
            TableFactor::UNNEST { alias, with_offset, with_ordinality, .. } => {
                self.refuse_if(*with_ordinality, "WITH ORDINALITY", "WITH ORDINALITY")?;
                self.refuse_if(*with_offset, "WITH OFFSET", "WITH OFFSET")?;
                self.alias(alias.as_ref())
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                self.joins(table_with_joins)?;
                self.alias(alias.as_ref())
            }
            TableFactor::TableFunction { .. } => self.refuse_if(true, "TABLE(…)", "TABLE"),
            TableFactor::JsonTable { .. } => self.refuse_if(true, "JSON_TABLE", "JSON_TABLE"),
            TableFactor::OpenJsonTable { .. } => self.refuse_if(true, "OPENJSON", "OPENJSON"),
            TableFactor::Pivot { .. } => self.refuse_if(true, "PIVOT", "PIVOT"),
            TableFactor::Unpivot { .. } => self.refuse_if(true, "UNPIVOT", "UNPIVOT"),
            TableFactor::MatchRecognize { .. } => self.refuse_if(true, "MATCH_RECOGNIZE", "MATCH_RECOGNIZE"),
            TableFactor::XmlTable { .. } => self.refuse_if(true, "XMLTABLE", "XMLTABLE"),
            TableFactor::SemanticView { .. } => self.refuse_if(true, "SEMANTIC_VIEW", "SEMANTIC_VIEW"),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Check {
        let Expr::Function(function) = expr else { return FINE };
        let name = function.name.0.first().and_then(|part| part.as_ident());
        if matches!(function.args, FunctionArguments::Subquery(_)) {
            return self.wrong_at(name, Error::unsupported(format!("{}(subquery)", function.name)));
        }
        if function.parameters != FunctionArguments::None {
            return self.wrong_at(name, Error::unsupported("two argument lists of one function"));
        }
        match &function.over {
            Some(WindowType::WindowSpec(spec)) => self.window(spec),
            Some(WindowType::NamedWindow(_)) | None => FINE,
        }
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> Check {
        // `?` and `$1` were checked among the tokens; sqlparser makes more out of `:name` and `@name`.
        if let Value::Placeholder(name) = &value.value
            && !name.starts_with('$')
        {
            let start = value.span.start;
            let error = Error::invalid(format!("named parameter {name}: write ? or $1"));
            return ControlFlow::Break(error.at(start.line.max(1), start.column.max(1)));
        }
        FINE
    }
}
