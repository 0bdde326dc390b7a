//! For which rows of a batch predicates are all true. Those that cannot fail are evaluated one by one, numbers before
//! texts, and a slow one only for the rows that are left where those are few. What may fail is evaluated as it was written.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::conjunction;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::utils::{collect_columns, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::{ColumnarValue, ExecutionPlan};

use super::leakproof::is_leakproof_physical;

/// Where fewer than one row in so many is left, taking them out is cheaper than looking at all.
const FEW: usize = 8;

/// The parts of filters in the order in which a sieve evaluates them: DataFusion's short-circuit copies every column of the
/// rows that are left where those are few, for each part that follows.
#[derive(Debug)]
pub(super) struct QuickFirst;

impl PhysicalOptimizerRule for QuickFirst {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let reordered = plan.transform_up(|node| match node.downcast_ref::<FilterExec>().and_then(quick_first) {
            Some(filter) => Ok(Transformed::yes(Arc::new(filter?) as Arc<dyn ExecutionPlan>)),
            None => Ok(Transformed::no(node)),
        });
        reordered.map(|done| done.data)
    }

    fn name(&self) -> &str {
        "quick_first"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Where it is not so already, and no part can fail.
fn quick_first(filter: &FilterExec) -> Option<Result<FilterExec>> {
    let schema = filter.input().schema();
    let mut parts = split_conjunction(filter.predicate());
    let slow_first = parts.windows(2).any(|pair| !is_quick(pair[0], &schema) && is_quick(pair[1], &schema));
    if !slow_first || !parts.iter().all(|part| is_leakproof_physical(part, &schema)) {
        return None;
    }
    parts.sort_by_key(|part| !is_quick(part, &schema));
    let predicate = conjunction(parts.into_iter().map(Arc::clone));
    Some(FilterExecBuilder::from(filter).with_predicate(predicate).build())
}

#[derive(Clone, Debug)]
pub(super) struct Sieve(Arc<[Part]>);

#[derive(Debug)]
struct Part {
    /// Over `columns` of the batch, in this order.
    predicate: Arc<dyn PhysicalExpr>,
    columns: Vec<usize>,
    /// Quicker for all rows than to take some of them out.
    is_quick: bool,
}

impl Sieve {
    /// `predicate` is over these columns.
    pub(super) fn new(predicate: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Self> {
        let parts = split_conjunction(predicate);
        let parts = if parts.iter().all(|part| is_leakproof_physical(part, schema)) { parts } else { vec![predicate] };
        let mut parts = parts.into_iter().map(|part| Part::new(part, schema)).collect::<Result<Vec<_>>>()?;
        parts.sort_by_key(|part| !part.is_quick);
        Ok(Self(parts.into()))
    }

    /// True where a row goes through; where a predicate is NULL it does not.
    pub(super) fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let rows = batch.num_rows();
        let mut left = BooleanBuffer::new_set(rows);
        for part in self.0.iter() {
            let count = left.count_set_bits();
            if count == 0 {
                break;
            }
            let columns = batch.project(&part.columns)?;
            if part.is_quick || count > rows / FEW {
                left = &left & &part.truths(&columns)?;
            } else {
                let taken = filter_record_batch(&columns, &BooleanArray::new(left.clone(), None))?;
                left = those(&left, &part.truths(&taken)?);
            }
        }
        Ok(BooleanArray::new(left, None))
    }
}

impl Part {
    fn new(predicate: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Self> {
        let columns: Vec<usize> = collect_columns(predicate).iter().map(Column::index).collect::<BTreeSet<_>>().into_iter().collect();
        let is_quick = is_quick(predicate, schema);
        let over = Arc::clone(predicate).transform_down(|expr| match expr.downcast_ref::<Column>() {
            Some(column) => {
                let index = columns.binary_search(&column.index());
                let index = index.map_err(|_| internal_datafusion_err!("a predicate names a column that it does not read"))?;
                Ok(Transformed::yes(Arc::new(Column::new(column.name(), index)) as Arc<dyn PhysicalExpr>))
            }
            None => Ok(Transformed::no(expr)),
        });
        Ok(Self { predicate: over?.data, columns, is_quick })
    }

    /// For every row of its columns.
    fn truths(&self, columns: &RecordBatch) -> Result<BooleanBuffer> {
        let rows = columns.num_rows();
        let values = match self.predicate.evaluate(columns)? {
            ColumnarValue::Array(values) => values,
            ColumnarValue::Scalar(value) => value.to_array_of_size(rows)?,
        };
        let truths = values.as_boolean_opt().ok_or_else(|| internal_datafusion_err!("a row policy is not boolean"))?;
        if truths.len() != rows {
            return internal_err!("a row policy does not answer for every row");
        }
        Ok(match truths.nulls() {
            Some(nulls) => truths.values() & nulls.inner(),
            None => truths.values().clone(),
        })
    }
}

/// A column of numbers, dates or times, compared with a literal.
fn is_quick(predicate: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let Some(compared) = predicate.downcast_ref::<BinaryExpr>() else { return false };
    let is_number = |expr: &Arc<dyn PhysicalExpr>| {
        let field = expr.downcast_ref::<Column>().and_then(|column| schema.fields().get(column.index()));
        field.is_some_and(|field| field.data_type().is_primitive())
    };
    let is_literal = |expr: &Arc<dyn PhysicalExpr>| expr.is::<Literal>();
    let (left, right) = (compared.left(), compared.right());
    (is_number(left) && is_literal(right)) || (is_literal(left) && is_number(right))
}

/// Of the rows that are set, those for which this is true.
fn those(set: &BooleanBuffer, truths: &BooleanBuffer) -> BooleanBuffer {
    let mut kept = arrow::array::BooleanBufferBuilder::new(set.len());
    kept.append_n(set.len(), false);
    for (index, truth) in set.set_indices().zip(truths) {
        if truth {
            kept.set_bit(index, true);
        }
    }
    kept.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{Int32Array, StringViewArray};
    use arrow::compute::prep_null_mask_filter;
    use datafusion::common::DFSchema;
    use datafusion::logical_expr::{Expr, col, lit};
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::prelude::SessionContext;

    use super::*;

    fn batch() -> RecordBatch {
        let numbers = |modulo: i32| Int32Array::from_iter((0..200).map(|row| (row % 7 != 3).then_some(row % modulo)));
        let texts = StringViewArray::from_iter((0..200).map(|row| (row % 5 != 2).then(|| format!("text {}", row % 3))));
        RecordBatch::try_from_iter_with_nullable([
            ("text", Arc::new(texts) as _, true),
            ("a", Arc::new(numbers(50)) as _, true),
            ("b", Arc::new(numbers(3)) as _, true),
        ])
        .unwrap()
    }

    fn physical(expr: Expr, batch: &RecordBatch) -> Arc<dyn PhysicalExpr> {
        let schema = DFSchema::try_from(batch.schema()).unwrap();
        SessionContext::new().create_physical_expr(expr, &schema).unwrap()
    }

    #[test]
    fn rows_go_through_as_if_all_were_evaluated_at_once() {
        let batch = batch();
        let text = || col("text").eq(lit(datafusion::common::ScalarValue::Utf8View(Some("text 1".to_owned()))));
        let few = || col("a").lt_eq(lit(2)).and(col("a").gt(lit(0)));
        for (expr, expected) in [
            (text(), "slow alone"),
            (text().and(col("b").gt_eq(lit(1))), "many left"),
            (text().and(few()), "few left"),
            (text().and(col("a").gt(lit(1000))), "none left"),
            (text().or(col("b").is_null()).and(few()), "OR"),
            (few().and(col("b").eq(col("a"))).and(col("text").is_null()), "columns"),
            (few().and(lit(datafusion::common::ScalarValue::Boolean(None))), "NULL"),
            (few().and(text().is_not_true()).and(col("b").in_list(vec![lit(1), lit(2)], false)), "IN"),
        ] {
            let predicate = physical(expr, &batch);
            let sieve = Sieve::new(&predicate, &batch.schema()).unwrap();
            let all = predicate.evaluate(&batch).unwrap().into_array(200).unwrap();
            let all = prep_null_mask_filter(all.as_boolean());
            assert_eq!(sieve.mask(&batch).unwrap(), all, "{expected}");
            let empty = batch.slice(0, 0);
            assert_eq!(sieve.mask(&empty).unwrap().len(), 0);
        }
    }

    #[test]
    fn numbers_come_first_and_what_may_fail_is_left_as_it_is() {
        let batch = batch();
        let text = || col("text").eq(lit(datafusion::common::ScalarValue::Utf8View(Some("text 1".to_owned()))));
        let predicate = physical(text().and(col("a").gt(lit(1))), &batch);
        let sieve = Sieve::new(&predicate, &batch.schema()).unwrap();
        assert_eq!(sieve.0.iter().map(|part| part.is_quick).collect::<Vec<_>>(), [true, false]);
        assert_eq!(sieve.0[0].columns, [1]);

        let guarded = physical(col("b").not_eq(lit(0)).and((lit(6) / col("b")).gt(lit(2))), &batch);
        let sieve = Sieve::new(&guarded, &batch.schema()).unwrap();
        assert_eq!(sieve.0.len(), 1);
    }

    #[test]
    fn a_filter_compares_numbers_first_where_nothing_can_fail() {
        let batch = batch();
        let text = || col("text").eq(lit(datafusion::common::ScalarValue::Utf8View(Some("text 1".to_owned()))));
        let reordered = |expr: Expr| {
            let input = Arc::new(EmptyExec::new(batch.schema()));
            let filter = FilterExecBuilder::new(physical(expr, &batch), input).apply_projection(Some(vec![1])).unwrap().with_fetch(Some(3));
            let plan: Arc<dyn ExecutionPlan> = Arc::new(filter.build().unwrap());
            let plan = QuickFirst.optimize(plan, &ConfigOptions::new()).unwrap();
            assert_eq!((plan.schema().fields().len(), plan.fetch()), (1, Some(3)));
            plan.downcast_ref::<FilterExec>().unwrap().predicate().to_string()
        };
        assert_eq!(reordered(text().and(col("a").gt(lit(1))).and(col("b").eq(lit(2)))), "a@1 > 1 AND b@2 = 2 AND text@0 = text 1");
        assert_eq!(reordered(col("a").gt(lit(1)).and(text())), "a@1 > 1 AND text@0 = text 1");
        let guarded = reordered((lit(6) / col("b")).gt(lit(2)).and(col("a").gt(lit(1))));
        assert!(guarded.starts_with("6 / b@2"), "{guarded}");
    }
}
