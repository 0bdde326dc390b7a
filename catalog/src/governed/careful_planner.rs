//! DataFusion's planner, kept from taking an estimate for the truth.
//!
//! DataFusion 55.2 narrows the bounds of a filter's columns through casts and arithmetic that lose something: of
//! `CAST(ts AS DATE) = DATE '2024-01-03'` it takes `ts` for that day's midnight, in all rows, and then sorts and groups by `ts`
//! no more (apache/datafusion#25523); a cast that keeps no order, or that cannot be undone, fails the query when it is planned.
//! It does so where it knows all of a predicate's expressions, so there is one that it does not know among them.
//!
//! Nor do windows tell of an order that their results do not have ([`super::unordered`]).

use std::sync::Arc;

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Filter, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, Window,
};
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, NegativeExpr};
use datafusion::physical_expr::intervals::utils::check_support;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use super::unordered::unordered;

/// For every session in which governed tables are read.
#[derive(Debug)]
pub struct CarefulPlanner;

#[async_trait]
impl QueryPlanner for CarefulPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.clone().transform_up_with_subqueries(|node| match node {
            LogicalPlan::Filter(filter) if computes(&filter.predicate)? => {
                // First, since AND copies rows for what comes after a part that few rows meet.
                let predicate = ScalarUDF::from(NotAnalysed::new()).call(Vec::new()).and(filter.predicate);
                Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
            }
            LogicalPlan::Window(Window { input, window_expr, schema, .. }) => {
                let window_expr = window_expr.into_iter().map(unordered).collect();
                Ok(Transformed::yes(LogicalPlan::Window(Window::try_new_with_schema(window_expr, input, schema)?)))
            }
            other => Ok(Transformed::no(other)),
        });
        DefaultPhysicalPlanner::default().create_physical_plan(&plan?.data, session).await
    }
}

/// The same for filters that were pushed into others, which have no such part. Before the rules that go by what filters tell.
#[derive(Debug)]
pub(super) struct CarefulFilters;

impl PhysicalOptimizerRule for CarefulFilters {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let careful = plan.transform_up(|node| {
            let Some(filter) = node.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(node)) };
            let schema = filter.input().schema();
            if !check_support(filter.predicate(), &schema) || !computes_physically(filter.predicate())? {
                return Ok(Transformed::no(node));
            }
            let function = Arc::new(ScalarUDF::from(NotAnalysed::new()));
            let guard = ScalarFunctionExpr::try_new(function, Vec::new(), &schema, Arc::new(config.clone()))?;
            let predicate = Arc::new(BinaryExpr::new(Arc::new(guard), Operator::And, Arc::clone(filter.predicate())));
            let careful = FilterExecBuilder::from(filter).with_predicate(predicate).build()?;
            Ok(Transformed::yes(Arc::new(careful) as Arc<dyn ExecutionPlan>))
        });
        careful.map(|done| done.data)
    }

    fn name(&self) -> &str {
        "careful_filters"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `true`, which nobody knows before it runs. Volatile, or it would be pushed down without the rest.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NotAnalysed {
    signature: Signature,
}

impl NotAnalysed {
    fn new() -> Self {
        Self { signature: Signature::nullary(Volatility::Volatile) }
    }
}

impl ScalarUDFImpl for NotAnalysed {
    fn name(&self) -> &str {
        "not_analysed"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))))
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

fn computes_physically(predicate: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    predicate.exists(|expr| {
        let computes =
            |binary: &BinaryExpr| matches!(binary.op(), Operator::Divide | Operator::Minus | Operator::Multiply | Operator::Plus);
        Ok(expr.is::<CastExpr>() || expr.is::<NegativeExpr>() || expr.downcast_ref::<BinaryExpr>().is_some_and(computes))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::physical_expr::expressions::{Column, lit};
    use datafusion::physical_plan::ExecutionPlanProperties;
    use datafusion::physical_plan::empty::EmptyExec;

    use super::*;

    fn column() -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new("a", 0))
    }

    /// Whether the one column is taken for the same in all rows, before and after.
    fn constants(predicate: Arc<dyn PhysicalExpr>) -> (bool, bool) {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let filter = FilterExec::try_new(predicate, Arc::new(EmptyExec::new(schema))).unwrap();
        let is_constant = |plan: &Arc<dyn ExecutionPlan>| plan.equivalence_properties().is_expr_constant(&column()).is_some();
        let plan: Arc<dyn ExecutionPlan> = Arc::new(filter);
        let careful = CarefulFilters.optimize(Arc::clone(&plan), &ConfigOptions::new()).unwrap();
        // Once is enough.
        let again = CarefulFilters.optimize(Arc::clone(&careful), &ConfigOptions::new()).unwrap();
        assert!(Arc::ptr_eq(&careful, &again));
        (is_constant(&plan), is_constant(&careful))
    }

    #[test]
    fn a_filter_that_computes_tells_nothing_of_its_column() {
        let binary = |left, op, right| Arc::new(BinaryExpr::new(left, op, right)) as Arc<dyn PhysicalExpr>;
        assert_eq!(constants(binary(binary(column(), Operator::Divide, lit(10_i64)), Operator::Eq, lit(3_i64))), (true, false));
        assert_eq!(constants(binary(column(), Operator::Eq, lit(3_i64))), (true, true));
    }
}
