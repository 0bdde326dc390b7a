//! From a world and a query that show a difference to small ones that still do: rows, policies, masks and grants are taken
//! away, and the query is cut clause by clause, as long as the difference is there.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Query as SqlQuery, SetExpr, Statement, TableFactor,
    Value as SqlValue, VisitMut, VisitorMut,
};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;

use crate::World;
use crate::queries::Query;

/// Tries smaller worlds and queries.
pub struct Shrinker {
    pub world: World,
    pub query: Query,
    /// How many smaller ones are tried.
    attempts: usize,
}

impl Shrinker {
    pub fn new(world: World, query: Query, attempts: usize) -> Self {
        Self { world, query, attempts }
    }

    /// Keeps whatever is smaller and still `differs`, until nothing is.
    pub async fn run(mut self, mut differs: impl AsyncFnMut(&World, &Query) -> bool) -> (World, Query) {
        loop {
            let mut smaller = false;
            // Worlds first: a small one makes every later attempt quick.
            let mut place = 0;
            while let Some(world) = smaller_world(&self.world, &self.query, place) {
                if self.attempts == 0 {
                    return (self.world, self.query);
                }
                self.attempts -= 1;
                if differs(&world, &self.query).await {
                    (self.world, smaller) = (world, true);
                } else {
                    place += 1;
                }
            }
            let literal = Query { text: self.query.with_literals(), parameters: Vec::new() };
            if literal != self.query && differs(&self.world, &literal).await {
                (self.query, smaller) = (literal, true);
            }
            let (mut node, mut option) = (0, 0);
            loop {
                let query = match cut(&self.query, node, option) {
                    Cut::Made(query) => query,
                    Cut::NoOption => {
                        (node, option) = (node + 1, 0);
                        continue;
                    }
                    Cut::NoNode => break,
                };
                if self.attempts == 0 {
                    return (self.world, self.query);
                }
                self.attempts -= 1;
                if query.text.len() < self.query.text.len() && differs(&self.world, &query).await {
                    (self.query, smaller, option) = (query, true, 0);
                } else {
                    option += 1;
                }
            }
            if !smaller {
                return (self.world, self.query);
            }
        }
    }
}

/// The world with less in one place; `None` past the last place.
fn smaller_world(world: &World, query: &Query, place: usize) -> Option<World> {
    let mut places = Places { left: place };
    let mut smaller = world.clone();
    if world.tables.len() > 2 && places.here() {
        smaller.tables.truncate(2);
        return Some(smaller);
    }
    if world.shared.is_some() && places.here() {
        smaller.shared = None;
        return Some(smaller);
    }
    for (index, table) in world.tables.iter().enumerate() {
        let count = table.rows.rows.len();
        for size in [count.div_ceil(2), count.div_ceil(4), 1] {
            for start in (0..count).step_by(size.max(1)) {
                // One by one only where few are left.
                if (size > 1 || count <= 10) && count > 1 && places.here() {
                    smaller.tables[index].rows.rows.drain(start..(start + size).min(count));
                    return Some(smaller);
                }
            }
        }
        for part in 0..table.policies.len() {
            if places.here() {
                smaller.tables[index].policies.remove(part);
                return Some(smaller);
            }
        }
        for part in 0..table.masks.len() {
            if places.here() {
                smaller.tables[index].masks.remove(part);
                return Some(smaller);
            }
        }
        for part in 0..table.closed.len() {
            if places.here() {
                smaller.tables[index].closed.remove(part);
                return Some(smaller);
            }
        }
        for column in table.rows.columns.iter().skip(4).filter(|column| !is_used(world, query, &column.name)) {
            if places.here() {
                let closed = [column.name.clone()];
                let table = &mut smaller.tables[index];
                table.rows = table.rows.without(&closed);
                table.masks.retain(|mask| mask.column != column.name);
                table.closed.retain(|name| *name != column.name);
                let kept: Vec<&str> = smaller.view.columns.split(", ").filter(|name| index > 0 || *name != column.name).collect();
                smaller.view.columns = kept.join(", ");
                return Some(smaller);
            }
        }
    }
    for part in 0..world.view.policies.len() {
        if places.here() {
            smaller.view.policies.remove(part);
            return Some(smaller);
        }
    }
    if !world.view.condition.is_empty() && places.here() {
        smaller.view.condition.clear();
        return Some(smaller);
    }
    if world.mapping.hidden_from.is_some() && places.here() {
        smaller.mapping.hidden_from = None;
        return Some(smaller);
    }
    None
}

/// Counts down to the place that is meant.
struct Places {
    left: usize,
}

impl Places {
    fn here(&mut self) -> bool {
        let here = self.left == 0;
        self.left = self.left.wrapping_sub(1);
        here
    }
}

fn is_used(world: &World, query: &Query, column: &str) -> bool {
    let policies =
        world.tables.iter().map(|table| format!("{:?} {:?}", table.policies, table.masks.iter().map(|it| &it.masking).collect::<Vec<_>>()));
    let texts = policies.chain([query.text.clone(), world.view.condition.clone()]);
    let is_word = |text: &str| text.split(|char: char| !char.is_alphanumeric()).any(|word| word == column);
    texts.into_iter().any(|text| is_word(&text))
}

enum Cut {
    Made(Query),
    NoOption,
    NoNode,
}

/// The query with a clause or an expression less: option by option at node by node.
fn cut(query: &Query, node: usize, option: usize) -> Cut {
    let Ok(mut statements) = Parser::parse_sql(&GenericDialect {}, &query.text) else { return Cut::NoNode };
    let [statement] = statements.as_mut_slice() else { return Cut::NoNode };
    let mut cutter = Cutter { left: node, option };
    match Statement::visit(statement, &mut cutter) {
        ControlFlow::Continue(()) => Cut::NoNode,
        ControlFlow::Break(false) => Cut::NoOption,
        ControlFlow::Break(true) => Cut::Made(Query { text: statement.to_string(), parameters: query.parameters.clone() }),
    }
}

struct Cutter {
    left: usize,
    option: usize,
}

impl Cutter {
    fn here(&mut self) -> bool {
        let here = self.left == 0;
        self.left = self.left.wrapping_sub(1);
        here
    }
}

/// Breaks with whether something was cut.
impl VisitorMut for Cutter {
    type Break = bool;

    fn pre_visit_query(&mut self, query: &mut SqlQuery) -> ControlFlow<bool> {
        if self.here() { ControlFlow::Break(cut_query(query, self.option)) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<bool> {
        if self.here() { ControlFlow::Break(cut_source(factor, self.option)) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<bool> {
        if self.here() { ControlFlow::Break(cut_expr(expr, self.option)) } else { ControlFlow::Continue(()) }
    }
}

fn cut_query(query: &mut SqlQuery, option: usize) -> bool {
    type Cut<'a> = Box<dyn FnOnce(&mut SqlQuery) + 'a>;
    let mut cuts: Vec<Cut<'_>> = Vec::new();
    cuts.push(Box::new(|query| {
        // The named query alone.
        let named = query.with.as_ref().and_then(|with| with.cte_tables.first()).map(|cte| cte.query.as_ref().clone());
        if let Some(named) = named {
            *query = named;
        }
    }));
    cuts.push(Box::new(|query| query.with = None));
    cuts.push(Box::new(|query| query.limit_clause = None));
    cuts.push(Box::new(|query| query.order_by = None));
    match query.body.as_ref() {
        SetExpr::SetOperation { .. } => {
            for first in [true, false] {
                cuts.push(Box::new(move |query| {
                    let side = match query.body.as_ref() {
                        SetExpr::SetOperation { left, right, .. } => {
                            if first {
                                left.clone()
                            } else {
                                right.clone()
                            }
                        }
                        _ => return,
                    };
                    query.body = side;
                }));
            }
        }
        SetExpr::Select(select) => {
            cuts.push(Box::new(|query| {
                // A whole query in the place of one that only passes it on.
                let SetExpr::Select(select) = query.body.as_ref() else { return };
                if let [from] = select.from.as_slice()
                    && let TableFactor::Derived { subquery, .. } = &from.relation
                {
                    *query = subquery.as_ref().clone();
                }
            }));
            let changes: [fn(&mut sqlparser::ast::Select); 5] = [
                |select| select.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new()),
                |select| select.selection = None,
                |select| select.having = None,
                |select| select.distinct = None,
                |select| {
                    if let Some(from) = select.from.first_mut() {
                        from.joins.pop().map_or((), drop)
                    }
                },
            ];
            for change in changes {
                cuts.push(Box::new(move |query| {
                    if let SetExpr::Select(select) = query.body.as_mut() {
                        change(select)
                    }
                }));
            }
            for item in 0..if select.projection.len() > 1 { select.projection.len() } else { 0 } {
                cuts.push(Box::new(move |query| {
                    if let SetExpr::Select(select) = query.body.as_mut() {
                        select.projection.remove(item);
                    }
                }));
            }
        }
        _ => {}
    }
    let cut = if option < cuts.len() { Some(cuts.swap_remove(option)) } else { None };
    match cut {
        Some(cut) => {
            cut(query);
            true
        }
        None => false,
    }
}

/// A table for a query of it.
fn cut_source(factor: &mut TableFactor, option: usize) -> bool {
    let TableFactor::Derived { subquery, alias, .. } = factor else { return false };
    let SetExpr::Select(select) = subquery.body.as_ref() else { return false };
    let [from] = select.from.as_slice() else { return false };
    let mut inner = from.relation.clone();
    if let (0, TableFactor::Table { alias: name, .. }) = (option, &mut inner) {
        *name = alias.clone();
        *factor = inner;
        return true;
    }
    false
}

/// One of its parts for an expression, or a literal.
fn cut_expr(expr: &mut Expr, option: usize) -> bool {
    let literal = |value| Expr::Value(sqlparser::ast::ValueWithSpan { value, span: sqlparser::tokenizer::Span::empty() });
    let mut parts: Vec<Expr> = match expr {
        Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_) => return false,
        Expr::BinaryOp { left, right, .. } => vec![left.as_ref().clone(), right.as_ref().clone()],
        Expr::UnaryOp { expr, .. } | Expr::Nested(expr) | Expr::Cast { expr, .. } | Expr::IsNull(expr) | Expr::IsNotNull(expr) => {
            vec![expr.as_ref().clone()]
        }
        Expr::Case { conditions, else_result, .. } => {
            let results = conditions.iter().map(|when| when.result.clone());
            results.chain(else_result.iter().map(|it| it.as_ref().clone())).collect()
        }
        Expr::Function(function) => match &function.args {
            FunctionArguments::List(list) => {
                let args = list.args.iter().filter_map(|arg| match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                    _ => None,
                });
                args.collect()
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    parts.extend([literal(SqlValue::Boolean(true)), literal(SqlValue::Number("1".to_owned(), false))]);
    if option >= parts.len() {
        return false;
    }
    *expr = parts.swap_remove(option);
    true
}

impl World {
    /// How many rows, policies and masks there are.
    pub fn size(&self) -> (usize, usize, usize) {
        let tables = self.tables.iter();
        let policies = tables.clone().map(|table| table.policies.len()).sum::<usize>() + self.shared_policies().len();
        (tables.clone().map(|table| table.rows.rows.len()).sum(), policies, tables.map(|table| table.masks.len()).sum())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Scene, Type};

    #[tokio::test]
    async fn what_does_not_matter_is_cut_away() {
        let mut world = World::new(3, Scene::default());
        let query = std::iter::repeat_with(|| world.query())
            .find(|query| query.text.contains("GROUP BY") && query.text.contains("t AS a"))
            .unwrap();
        let (small, query) = Shrinker::new(world, query, 2000).run(async |_, query| query.text.contains("t AS a")).await;
        assert!(query.text.len() < 60, "{}", query.text);
        let (rows, policies, masks) = small.size();
        assert!(rows <= 3 && policies == 0 && masks == 0, "{:?}", small.size());
    }

    #[test]
    fn a_column_is_dropped_with_its_masks() {
        let world = World::new(5, Scene::default());
        let query = Query { text: "SELECT 1".to_owned(), parameters: Vec::new() };
        let (mut world, mut left) = (world, 100);
        while let Some(smaller) = smaller_world(&world, &query, 0) {
            assert!(left > 0, "does not end");
            (world, left) = (smaller, left - 1);
        }
        assert!(world.tables.iter().all(|table| table.rows.kind("id") == Some(Type::BigInt)));
    }
}
