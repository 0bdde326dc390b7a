//! DataFusion's planner, kept from taking an estimate for the truth.
//!
//! DataFusion 55.2 narrows the bounds of a filter's columns through casts and arithmetic that lose something: of
//! `CAST(ts AS DATE) = DATE '2024-01-03'` it takes `ts` for that day's midnight, in all rows, and then sorts and groups by `ts`
//! no more (apache/datafusion#25523); a cast that keeps no order, or that cannot be undone, fails the query when it is planned.
//! It does so where it knows all of a predicate's expressions.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Operator, lit, when};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

/// For every session in which governed tables are read.
#[derive(Debug)]
pub struct CarefulPlanner;

#[async_trait]
impl QueryPlanner for CarefulPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.clone().transform_up_with_subqueries(|node| match node {
            LogicalPlan::Filter(filter) if computes(&filter.predicate)? => {
                // First, since AND copies rows for what comes after a part that few rows meet. Nothing here that a barrier lets down.
                let unknown = when(lit(true), lit(true)).end()?;
                Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(unknown.and(filter.predicate), filter.input)?)))
            }
            other => Ok(Transformed::no(other)),
        });
        DefaultPhysicalPlanner::default().create_physical_plan(&plan?.data, session).await
    }
}

/// Whether DataFusion knows all of its expressions, and there is more in it than columns and literals that are compared.
fn computes(predicate: &Expr) -> Result<bool> {
    use Operator::{And, Divide, Eq, Gt, GtEq, Lt, LtEq, Minus, Multiply, Plus};
    let is_known = |expr: &Expr| match expr {
        Expr::Column(_) | Expr::Literal(..) | Expr::Alias(_) | Expr::Cast(_) | Expr::Negative(_) => true,
        Expr::BinaryExpr(binary) => matches!(binary.op, And | Divide | Eq | Gt | GtEq | Lt | LtEq | Minus | Multiply | Plus),
        // Two comparisons.
        Expr::Between(between) => !between.negated,
        _ => false,
    };
    let is_computed = |expr: &Expr| match expr {
        Expr::Cast(_) | Expr::Negative(_) => true,
        Expr::BinaryExpr(binary) => matches!(binary.op, Divide | Minus | Multiply | Plus),
        _ => false,
    };
    Ok(!predicate.exists(|expr| Ok(!is_known(expr)))? && predicate.exists(|expr| Ok(is_computed(expr)))?)
}
