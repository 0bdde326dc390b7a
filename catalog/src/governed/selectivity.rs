//! What part of the rows filters let through, for the planning of joins. DataFusion takes one row in five wherever it cannot
//! compute with the values, as with texts, whatever is asked; one value is the less, the more there are.

use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, InListExpr, Literal};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::barrier::SecurityBarrierExec;

/// DataFusion's own guess, for the parts of a filter that are no comparison with values.
const UNKNOWN: f64 = 0.2;
/// How many values a column has of which nobody knows: few, since people ask for one of a kind rather than for one of many.
const UNKNOWN_VALUES: f64 = 10.0;

/// Before `JoinSelection`, and above barriers only: what scans know below them is hidden.
#[derive(Debug)]
pub(super) struct Selectivity;

impl PhysicalOptimizerRule for Selectivity {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if !plan.exists(|node| Ok(node.children().len() > 1))? {
            return Ok(plan);
        }
        let estimated = plan.transform_down(|node| {
            if node.is::<SecurityBarrierExec>() {
                return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
            }
            let Some(filter) = node.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(node)) };
            let known = StatisticsContext::new().compute(filter.input().as_ref(), &StatisticsArgs::new())?;
            match percent(filter.predicate(), &known) {
                Some(percent) => Ok(Transformed::yes(Arc::new(filter.clone().with_default_selectivity(percent)?) as _)),
                None => Ok(Transformed::no(node)),
            }
        });
        estimated.map(|done| done.data)
    }

    fn name(&self) -> &str {
        "selectivity"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Of a hundred rows, rounded up. `None` where no part compares with values.
fn percent(predicate: &Arc<dyn PhysicalExpr>, known: &Statistics) -> Option<u8> {
    let shares: Vec<Option<f64>> = split_conjunction(predicate).into_iter().map(|part| share(part, known)).collect();
    let is_whole = shares.iter().all(Option::is_some);
    let product: f64 = shares.iter().flatten().product();
    let percent = (100.0 * if is_whole { product } else { product * UNKNOWN } - 1e-9).ceil();
    shares.iter().any(Option::is_some).then_some(percent.clamp(1.0, 100.0) as u8)
}

fn share(part: &Arc<dyn PhysicalExpr>, known: &Statistics) -> Option<f64> {
    let values = |column: &Arc<dyn PhysicalExpr>| {
        let column = column.downcast_ref::<Column>()?;
        let known = known.column_statistics.get(column.index())?.distinct_count.get_value();
        Some(known.map_or(UNKNOWN_VALUES, |count| (*count).max(1) as f64))
    };
    let is_value = |expr: &Arc<dyn PhysicalExpr>| expr.downcast_ref::<Literal>().is_some_and(|literal| !literal.value().is_null());
    if let Some(list) = part.downcast_ref::<InListExpr>() {
        let share = (list.list().len() as f64 / values(list.expr())?).min(1.0);
        return list.list().iter().all(is_value).then_some(if list.negated() { 1.0 - share } else { share });
    }
    let binary = part.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (binary.left(), binary.right());
    if binary.op() == &Operator::Or {
        let (left, right) = (share(left, known)?, share(right, known)?);
        return Some(left + right - left * right);
    }
    let column = if is_value(right) { left } else { Some(right).filter(|_| is_value(left))? };
    match binary.op() {
        Operator::Eq => values(column).map(|count| 1.0 / count),
        Operator::NotEq => values(column).map(|count| 1.0 - 1.0 / count),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::ColumnStatistics;
    use datafusion::common::stats::Precision;
    use datafusion::physical_expr::expressions::{in_list, lit};
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::joins::CrossJoinExec;

    use super::super::leakproof::PlainColumns;
    use super::*;

    fn column(index: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(["brand", "day"][index], index))
    }

    fn binary(left: Arc<dyn PhysicalExpr>, op: Operator, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(left, op, right))
    }

    fn is(index: usize, value: &str) -> Arc<dyn PhysicalExpr> {
        binary(column(index), Operator::Eq, lit(value))
    }

    #[test]
    fn a_value_is_the_less_the_more_there_are() {
        let brands = ColumnStatistics { distinct_count: Precision::Inexact(25), ..ColumnStatistics::new_unknown() };
        let known = Statistics { column_statistics: vec![brands, ColumnStatistics::new_unknown()], ..Statistics::default() };
        let schema = Schema::new(vec![Field::new("brand", DataType::Utf8, true), Field::new("day", DataType::Utf8, true)]);
        let among =
            |values: &[&str], negated: &bool| in_list(column(0), values.iter().map(|it| lit(*it)).collect(), negated, &schema).unwrap();
        let and = |left, right| binary(left, Operator::And, right);
        for (predicate, wanted) in [
            (is(0, "a"), Some(4)),
            (binary(lit("a"), Operator::Eq, column(0)), Some(4)),
            (binary(column(0), Operator::NotEq, lit("a")), Some(96)),
            (binary(is(0, "a"), Operator::Or, is(0, "b")), Some(8)),
            (among(&["a", "b", "c"], &false), Some(12)),
            (among(&["a", "b", "c"], &true), Some(88)),
            (and(is(0, "a"), is(1, "x")), Some(1)),
            (and(among(&["a", "b", "c", "d", "e"], &false), binary(column(1), Operator::Lt, lit("x"))), Some(4)),
            // Nobody knows how many days there are.
            (is(1, "x"), Some(10)),
            (binary(is(0, "a"), Operator::Or, is(1, "x")), Some(14)),
            (binary(column(0), Operator::Lt, lit("a")), None),
            (binary(column(0), Operator::Eq, column(1)), None),
            (lit(true), None),
        ] {
            assert_eq!(percent(&predicate, &known), wanted, "{predicate}");
        }
    }

    /// What a scan knows there counts rows that are hidden.
    #[test]
    fn nothing_is_asked_below_a_barrier() {
        let schema = Arc::new(Schema::new(vec![Field::new("brand", DataType::Utf8, true)]));
        // No row, so no value: one at least is reckoned with.
        let filter = || Arc::new(FilterExec::try_new(is(0, "a"), Arc::new(EmptyExec::new(Arc::clone(&schema)))).unwrap());
        let barrier = SecurityBarrierExec::new("t".into(), PlainColumns::Every, Arc::default(), filter());
        let plan = Arc::new(CrossJoinExec::new(filter(), Arc::new(barrier)));
        let plan = Selectivity.optimize(plan, &ConfigOptions::new()).unwrap();
        let of = |plan: &Arc<dyn ExecutionPlan>| plan.downcast_ref::<FilterExec>().unwrap().default_selectivity();
        let sides = plan.children();
        assert_eq!((of(sides[0]), of(sides[1].children()[0])), (100, 20));
    }
}
