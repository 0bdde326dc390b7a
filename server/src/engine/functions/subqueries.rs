//! `EXISTS (…)` and `x IN (…)` as values of a SELECT list. DataFusion knows them in conditions only; as values they are
//! said with scalar subqueries that count, which it turns into joins.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, not_impl_err};
use datafusion::functions_aggregate::count::count;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Subquery, lit, when};
use datafusion::optimizer::AnalyzerRule;

/// Runs before the types are settled: it compares what the query does.
#[derive(Debug)]
pub struct SubqueryValues;

impl AnalyzerRule for SubqueryValues {
    fn name(&self) -> &str {
        "subquery_values"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| {
            if !matches!(node, LogicalPlan::Projection(_)) {
                return Ok(Transformed::no(node));
            }
            let names = NamePreserver::new(&node);
            let schema = merge_schema(&node.inputs());
            let rewritten = node.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = expr.transform_up(|expr| value(expr, &schema))?;
                Ok(if rewritten.transformed { rewritten.update_data(|expr| name.restore(expr)) } else { rewritten })
            })?;
            if rewritten.transformed { Ok(Transformed::yes(rewritten.data.recompute_schema()?)) } else { Ok(rewritten) }
        })?;
        Ok(rewritten.data)
    }
}

fn value(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (found, negated) = match expr {
        Expr::Exists(Exists { subquery, negated }) => (any_row(subquery.clone(), None)?, negated),
        Expr::InSubquery(InSubquery { expr, subquery, negated }) => (is_in(*expr, &subquery, schema)?, negated),
        Expr::SetComparison(_) => return not_impl_err!("not supported yet: ANY and ALL of a subquery as a value"),
        other => return Ok(Transformed::no(other)),
    };
    Ok(Transformed::yes(if negated { !found } else { found }))
}

/// Whether the subquery has a row, of those for which the condition is true.
fn any_row(subquery: Subquery, condition: Option<Expr>) -> Result<Expr> {
    let mut rows = LogicalPlanBuilder::from(Arc::unwrap_or_clone(subquery.subquery));
    if let Some(condition) = condition {
        rows = rows.filter(condition)?;
    }
    let counted = rows.aggregate(Vec::<Expr>::new(), vec![count(lit(1_i64))])?;
    let number = Expr::Column(Column::from(counted.schema().qualified_field(0)));
    let plan = counted.project(vec![number])?.build()?;
    let outer = plan.all_out_ref_exprs();
    let number = Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), outer_ref_columns: outer, spans: subquery.spans });
    when(number.clone().is_null(), lit(false)).otherwise(number.gt(lit(0_i64)))
}

/// True where a row is equal; NULL where none is and one could be; else false.
fn is_in(expr: Expr, subquery: &Subquery, schema: &DFSchema) -> Result<Expr> {
    let column = Expr::Column(Column::from(subquery.subquery.schema().qualified_field(0)));
    let outside = expr.clone().transform_up(|expr| match expr {
        Expr::Column(column) => {
            let (_, field) = Expr::Column(column.clone()).to_field(schema)?;
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    let equal = any_row(subquery.clone(), Some(column.clone().eq(outside.data)))?;
    let unknown = any_row(subquery.clone(), Some(column.is_null()))?;
    let any = any_row(subquery.clone(), None)?;
    let null = Expr::Literal(ScalarValue::Boolean(None), None);
    when(equal, lit(true)).when(unknown.or(expr.is_null().and(any)), null).otherwise(lit(false))
}
