//! DataFusion's rules for physical plans, without what is wrong in them.
//!
//! DataFusion 55.2 carries a filter down to a child by the names of its columns (apache/datafusion#21246, #25244, #25296):
//! where two columns of a schema have one name, as above a join, it lands on the wrong one, and rows are lost. So that is
//! not done where a filter can pass such a schema. The query's own filters have been pushed down on the logical plan then;
//! what is lost is pruning by the filters that joins and TopK make while they run. The same holds of a semi join of which one
//! side has the name of the other's key.
//!
//! It also takes what a filter estimates of distinct values for the answer to `count(DISTINCT …)`.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::aggregate_statistics::AggregateStatistics;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::join_selection::JoinSelection;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::HashJoinExec;

use super::careful_planner::CarefulFilters;
use super::early::EarlyFilters;
use super::late::LateMaterialization;
use super::selectivity::Selectivity;
use super::sides::KnownSide;
use super::sieve::QuickFirst;

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// For every session in which governed tables are read.
pub fn physical_rules() -> Vec<Rule> {
    let careful = [FilterPushdown::new(), FilterPushdown::new_post_optimization()];
    let of_statistics = AggregateStatistics::new();
    let is_pushdown = |rule: &Rule| careful.iter().any(|it| it.name() == rule.name());
    let rules = PhysicalOptimizer::new().rules.into_iter();
    let rules = rules.map(|rule| if is_pushdown(&rule) { Arc::new(CarefulPushdown(rule)) as Rule } else { rule });
    let rules = rules.map(|rule| if rule.name() == of_statistics.name() { Arc::new(CarefulStatistics(rule)) as Rule } else { rule });
    // Early filters first: a late scan keeps only what cannot fail of its predicate.
    let mut rules: Vec<Rule> = rules.chain([Arc::new(EarlyFilters) as Rule, Arc::new(LateMaterialization), Arc::new(QuickFirst)]).collect();
    let selection = rules.iter().position(|rule| rule.name() == JoinSelection::new().name());
    rules.insert(selection.map_or(rules.len(), |at| at + 1), Arc::new(KnownSide));
    rules.insert(selection.unwrap_or_default(), Arc::new(Selectivity));
    let pushdown = rules.iter().position(is_pushdown);
    rules.insert(pushdown.map_or(0, |at| at + 1), Arc::new(CarefulFilters));
    rules
}

#[derive(Debug)]
struct CarefulPushdown(Rule);

impl PhysicalOptimizerRule for CarefulPushdown {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if has_ambiguous_input(plan.as_ref()) { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Answers from metadata, but none about distinct values: no scan knows how many it has.
#[derive(Debug)]
struct CarefulStatistics(Rule);

impl PhysicalOptimizerRule for CarefulStatistics {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let is_distinct = |node: &Arc<dyn ExecutionPlan>| {
            let aggregate = node.downcast_ref::<AggregateExec>();
            Ok(aggregate.is_some_and(|aggregate| aggregate.aggr_expr().iter().any(|expr| expr.is_distinct())))
        };
        if plan.exists(is_distinct)? { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Whether a filter can pass a schema that has a name twice, or a node that gives it to a column of its name which is another
/// one. The output of the whole plan may have a name twice: nothing comes from above it.
fn has_ambiguous_input(plan: &dyn ExecutionPlan) -> bool {
    mixes_names(plan)
        || plan.children().into_iter().any(|child| {
            let schema = child.schema();
            let mut names = HashSet::with_capacity(schema.fields().len());
            !schema.fields().iter().all(|field| names.insert(field.name().as_str())) || has_ambiguous_input(child.as_ref())
        })
}

fn mixes_names(plan: &dyn ExecutionPlan) -> bool {
    let is_semi = |join: &&HashJoinExec| matches!(join.join_type(), JoinType::LeftSemi | JoinType::RightSemi);
    let Some(join) = plan.downcast_ref::<HashJoinExec>().filter(is_semi) else { return false };
    let has = |side: &Arc<dyn ExecutionPlan>, key: &Column| side.schema().column_with_name(key.name()).is_some();
    join.on().iter().any(|(left, right)| {
        let (left, right) = (left.downcast_ref::<Column>(), right.downcast_ref::<Column>());
        let is_same = left.zip(right).is_some_and(|(left, right)| left.name() == right.name());
        !is_same && (left.is_some_and(|key| has(join.right(), key)) || right.is_some_and(|key| has(join.left(), key)))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::NullEquality;
    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::joins::PartitionMode;
    use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::governed::lab::lines;

    #[test]
    fn both_rules_are_careful() {
        let careful = physical_rules().iter().filter(|rule| format!("{rule:?}").starts_with("CarefulPushdown")).count();
        assert_eq!(careful, 2);
    }

    #[test]
    fn a_name_is_mixed_where_a_semi_join_has_it_twice() {
        let side = |names: [&str; 2]| {
            let fields = names.map(|name| Field::new(name, DataType::Int64, true)).to_vec();
            Arc::new(EmptyExec::new(Arc::new(Schema::new(fields)))) as Arc<dyn ExecutionPlan>
        };
        let semi = |right, key| {
            let on = vec![(Arc::new(Column::new("a", 0)) as _, Arc::new(Column::new(key, 0)) as _)];
            let (left, mode, nulls) = (side(["a", "b"]), PartitionMode::CollectLeft, NullEquality::NullEqualsNothing);
            let join = HashJoinExec::try_new(left, side(right), on, None, &JoinType::LeftSemi, None, mode, nulls, false);
            mixes_names(&join.unwrap())
        };
        assert!(!semi(["c", "d"], "c") && !semi(["a", "b"], "a"));
        assert!(semi(["c", "a"], "c"), "the other side has the key's name");
        assert!(semi(["b", "d"], "b"), "the key's own side has the other key's name");
    }

    #[test]
    fn sides_are_chosen_once_joins_are() {
        let rules = physical_rules();
        let at = |name: &str| rules.iter().position(|rule| rule.name() == name).unwrap();
        assert_eq!(at("known_side"), at("join_selection") + 1);
    }

    fn write(folder: &std::path::Path, name: &str, columns: [(&str, Vec<i64>); 2]) {
        let fields = columns.iter().map(|(name, _)| Field::new(*name, DataType::Int64, true)).collect::<Vec<_>>();
        let schema = Arc::new(Schema::new(fields));
        let arrays = columns.into_iter().map(|(_, values)| Arc::new(Int64Array::from(values)) as _).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(folder.join(name)).unwrap(), schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    /// The smallest payment of all belongs to order 3.
    #[tokio::test]
    async fn a_filter_does_not_land_on_a_column_of_the_same_name() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "orders.parquet", [("id", (1..=200).collect()), ("amount", (1..=200).map(|id| id * 100).collect())]);
        write(
            folder.path(),
            "payments.parquet",
            [("id", (1..=200).collect()), ("amount", (1..=200).map(|id| 40 + (id - 3) * (id - 3)).collect())],
        );
        write(folder.path(), "customers.parquet", [("id", (1..=200).collect()), ("age", (1..=200).collect())]);
        let config = SessionConfig::new().with_target_partitions(1).with_batch_size(1);
        let builder = SessionStateBuilder::new().with_config(config).with_default_features();
        let context = SessionContext::new_with_state(builder.with_physical_optimizer_rules(physical_rules()).build());
        for name in ["orders", "payments", "customers"] {
            let path = folder.path().join(format!("{name}.parquet"));
            context.register_parquet(name, path.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
        }
        let sql = "SELECT o.amount, p.amount AS paid FROM orders o JOIN payments p ON o.id = p.id JOIN customers c ON p.id = c.id \
                   ORDER BY p.amount LIMIT 1";
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        assert_eq!(lines(&batches), ["|300|40|", "|amount|paid|"]);
    }
}
