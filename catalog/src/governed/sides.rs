//! Which side of a join without keys is held in memory. DataFusion takes the smaller one where it knows both; behind a
//! barrier nothing is known, and the side that happens to be written first would be held, and the other one read for each
//! of its rows.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::barrier::SecurityBarrierExec;

/// Holds the side that is known to be small, where nothing is known of the other one. After `JoinSelection`, and above
/// barriers only: below them it would go by what is hidden.
#[derive(Debug)]
pub struct KnownSide;

impl PhysicalOptimizerRule for KnownSide {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if !config.optimizer.join_reordering {
            return Ok(plan);
        }
        let few = config.optimizer.hash_join_single_partition_threshold_rows;
        let swap = |node: Arc<dyn ExecutionPlan>| {
            if node.is::<SecurityBarrierExec>() {
                return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
            }
            if let Some(join) = node.downcast_ref::<CrossJoinExec>() {
                if is_known_side(join.left(), join.right(), few)? {
                    return Ok(Transformed::yes(join.swap_inputs()?));
                }
            } else if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
                && join.join_type().supports_swap()
                && is_known_side(join.left(), join.right(), few)?
            {
                return Ok(Transformed::yes(join.swap_inputs()?));
            }
            Ok(Transformed::no(node))
        };
        plan.transform_down(swap).map(|done| done.data)
    }

    fn name(&self) -> &str {
        "known_side"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether the right side has few rows, and the left one nobody knows how many.
fn is_known_side(left: &Arc<dyn ExecutionPlan>, right: &Arc<dyn ExecutionPlan>, few: usize) -> Result<bool> {
    let rows = |side: &Arc<dyn ExecutionPlan>| -> Result<Option<usize>> {
        let known = StatisticsContext::new().compute(side.as_ref(), &StatisticsArgs::new())?;
        Ok(known.num_rows.get_value().copied())
    };
    Ok(rows(left)?.is_none() && rows(right)?.is_some_and(|rows| rows <= few))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::config::ConfigOptions;
    use datafusion::physical_optimizer::PhysicalOptimizerRule;
    use datafusion::physical_plan::ExecutionPlan;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};

    use super::KnownSide;
    use crate::governed::barrier::SecurityBarrierExec;
    use crate::governed::lab::{self, Lab};
    use crate::governed::leakproof::PlainColumns;

    fn held(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
        let cross = plan.downcast_ref::<CrossJoinExec>().map(|join| Arc::clone(join.left()));
        let nested = plan.downcast_ref::<NestedLoopJoinExec>().map(|join| Arc::clone(join.left()));
        cross.or(nested).or_else(|| plan.children().into_iter().find_map(held))
    }

    fn is_governed(plan: &Arc<dyn ExecutionPlan>) -> bool {
        plan.name() == "SecurityBarrierExec" || plan.children().into_iter().any(is_governed)
    }

    #[tokio::test]
    async fn the_side_that_is_known_to_be_small_is_held() {
        let (lab, _) = Lab::with_governed_table(lab::memory_table());
        let of_three = "(VALUES (1), (2), (3)) AS v(k)";
        for (sql, counted) in [
            (format!("SELECT count(*) AS n FROM t CROSS JOIN {of_three}"), "3000"),
            (format!("SELECT count(*) AS n FROM {of_three} CROSS JOIN t"), "3000"),
            (format!("SELECT count(*) AS n FROM t LEFT JOIN {of_three} ON t.id % 3 < v.k"), "2000"),
        ] {
            let (_, plan) = lab.plan("rui", &sql).await.unwrap();
            let side = held(&plan).unwrap_or_else(|| panic!("no join in {sql}"));
            assert!(!is_governed(&side), "{sql}");
            assert_eq!(lab.lines("rui", &sql).await.unwrap(), [format!("|{counted}|"), "|n|".to_owned()], "{sql}");
        }
        // Nothing is known of either.
        let (_, plan) = lab.plan("rui", "SELECT count(*) FROM t a CROSS JOIN t b").await.unwrap();
        assert!(held(&plan).is_some_and(|side| is_governed(&side)));
    }

    /// What is counted there may be hidden.
    #[test]
    fn no_side_is_chosen_below_a_barrier() {
        let side = |name: &str| {
            let schema = Schema::new(vec![Field::new(name, DataType::Int64, true)]);
            Arc::new(EmptyExec::new(Arc::new(schema))) as Arc<dyn ExecutionPlan>
        };
        let barrier = |input| {
            let plain = PlainColumns::Every;
            Arc::new(SecurityBarrierExec::new("t".into(), plain, Arc::default(), input)) as Arc<dyn ExecutionPlan>
        };
        let join = Arc::new(CrossJoinExec::new(barrier(side("a")), side("b"))) as Arc<dyn ExecutionPlan>;
        let is_swapped = |plan| {
            let plan = KnownSide.optimize(plan, &ConfigOptions::new()).unwrap();
            !is_governed(&held(&plan).unwrap())
        };
        assert!(is_swapped(Arc::clone(&join)));
        assert!(!is_swapped(barrier(join)));
    }
}
