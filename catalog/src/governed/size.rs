//! How large a logical plan is, with the views inside it. DataFusion rewrites, runs and drops plans and expressions by
//! recursion, and merges the expressions of queries that lie inside each other: what a short text comes to must be
//! bounded before anything walks it.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::table::GovernedTable;

/// Nodes of a plan, each use of a view or a common table expression counted. Statements that people write have hundreds;
/// a plan of this size is optimised in seconds.
const MAX_NODES: usize = 5_000;

/// Nodes below each other. Running one takes a stack of some ten thousand bytes a node in a debug build.
const MAX_HEIGHT: usize = 400;

/// Of the expression that all of those which lie above each other may be merged to.
const MAX_EXPRESSION_DEPTH: usize = 1_500;

/// A plan that is too large, by what and by which limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the statement is too large: with its views it may come to at most {limit} {what}")]
pub struct TooLarge {
    what: &'static str,
    limit: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanSize {
    nodes: usize,
    height: usize,
    expression_depth: usize,
}

impl PlanSize {
    /// Stops counting at the first limit that is passed.
    pub fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut counter = Counter { nodes: 0 };
        let found = counter.visit(plan)?;
        Ok(Self { nodes: counter.nodes, ..found })
    }
}

struct Counter {
    nodes: usize,
}

impl Counter {
    fn visit(&mut self, plan: &LogicalPlan) -> Result<PlanSize> {
        self.count(1)?;
        let mut below = PlanSize::default();
        for input in plan.inputs() {
            below = below.beside(self.visit(input)?);
        }
        if let LogicalPlan::TableScan(scan) = plan
            && let Some(inside) = source_as_provider(&scan.source)?.downcast_ref::<GovernedTable>().and_then(GovernedTable::size)
        {
            self.count(inside.nodes)?;
            below = below.beside(inside);
        }
        let mut own_depth = 0;
        plan.apply_expressions(|expr| {
            own_depth = own_depth.max(depth(expr)?);
            expr.apply(|part| {
                if let Some(subquery) = subquery_of(part) {
                    below = below.beside(self.visit(subquery)?);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        let size = PlanSize { height: below.height + 1, expression_depth: below.expression_depth + own_depth, ..below };
        within(size.height, MAX_HEIGHT, "steps below each other")?;
        within(size.expression_depth, MAX_EXPRESSION_DEPTH, "operators inside each other")?;
        Ok(size)
    }

    fn count(&mut self, nodes: usize) -> Result<()> {
        self.nodes = self.nodes.saturating_add(nodes);
        within(self.nodes, MAX_NODES, "steps")
    }
}

impl PlanSize {
    fn beside(self, other: Self) -> Self {
        let (height, expression_depth) = (self.height.max(other.height), self.expression_depth.max(other.expression_depth));
        Self { nodes: 0, height, expression_depth }
    }
}

fn within(found: usize, limit: usize, what: &'static str) -> Result<()> {
    if found > limit { Err(crate::namespace::CatalogError::TooLarge(TooLarge { what, limit }).into()) } else { Ok(()) }
}

/// Operators inside each other; the text has bounded them.
fn depth(expr: &Expr) -> Result<usize> {
    let mut below = 0;
    expr.apply_children(|child| {
        below = below.max(depth(child)?);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(below + 1)
}

fn subquery_of(expr: &Expr) -> Option<&LogicalPlan> {
    match expr {
        Expr::ScalarSubquery(subquery) | Expr::Exists(Exists { subquery, .. }) | Expr::InSubquery(InSubquery { subquery, .. }) => {
            Some(&subquery.subquery)
        }
        _ => None,
    }
}
