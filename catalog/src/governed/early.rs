//! Filters that come up while a query runs, evaluated on the rows of a scan: what a join's other side does not have, and what a
//! TopK has no place for, need not be sent, joined and aggregated. DataFusion asks such a filter for whole row groups and pages,
//! and for rows in a scan that is late.
//!
//! A filter that lets most rows through is not asked any more. What a barrier closes is left to it: it evaluates them itself.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{BatchCoalescer, filter_record_batch, prep_null_mask_filter};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{ScalarValue, internal_datafusion_err, internal_err};
use datafusion::datasource::physical_plan::{FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, DynamicFilterPhysicalExpr, Literal};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, apply_expression_roots};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, stream};

use super::barrier::SecurityBarrierExec;

/// After so many rows a filter has shown what it takes out.
const TRIAL_ROWS: usize = 32_768;
/// Where it lets more than two of three through, asking costs more than it saves.
const MOST_PASSED: (usize, usize) = (2, 3);
/// Rows that wait for more do so for as many batches: above there may be a LIMIT.
const MOST_WAITED: usize = 64;
/// A batch that keeps more than one in so many of a full one's rows does not wait for more.
const LARGE: usize = 2;

#[derive(Debug)]
pub(super) struct EarlyFilters;

impl PhysicalOptimizerRule for EarlyFilters {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let early = plan.transform_down(|node| {
            if node.is::<SecurityBarrierExec>() {
                return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
            }
            let filters = filters_of(&node);
            if filters.is_empty() {
                return Ok(Transformed::no(node));
            }
            let node = EarlyFilterExec { input: node, filters: filters.into(), metrics: ExecutionPlanMetricsSet::new() };
            Ok(Transformed::new(Arc::new(node) as Arc<dyn ExecutionPlan>, true, TreeNodeRecursion::Jump))
        });
        early.map(|done| done.data)
    }

    fn name(&self) -> &str {
        "early_filters"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The filters that a scan was given for pruning, over its output, or over that of the query's own filter, which is quicker and
/// comes first.
fn filters_of(node: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn PhysicalExpr>> {
    let filter = node.downcast_ref::<FilterExec>();
    let scan = filter.map_or(node, FilterExec::input);
    let scan = scan.downcast_ref::<DataSourceExec>().and_then(|scan| scan.downcast_to_file_source::<ParquetSource>());
    let Some((predicate, projection)) = scan.and_then(|(_, source)| source.filter().zip(source.projection())) else { return Vec::new() };
    let shown = filter.and_then(|filter| filter.projection().as_ref());
    let mut found: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
    for part in split_conjunction(&predicate) {
        let part = over_output(part, projection).and_then(|part| match shown {
            Some(shown) => over_columns(&part, |column| shown.iter().position(|index| *index == column.index())),
            None => Some(part),
        });
        // Joins take -0 and 0 for one key, these filters for two.
        let is_exact = |part: &Arc<dyn PhysicalExpr>| {
            part.children().into_iter().all(|child| child.data_type(&node.schema()).is_ok_and(|data_type| !data_type.is_floating()))
        };
        if let Some(part) = part.filter(|part| is_exact(part) && !found.contains(part)) {
            found.push(part);
        }
    }
    found
}

fn over_output(part: &Arc<dyn PhysicalExpr>, projection: &ProjectionExprs) -> Option<Arc<dyn PhysicalExpr>> {
    over_columns(part, |column| {
        let is_it = |expr: &Arc<dyn PhysicalExpr>| expr.downcast_ref::<Column>().is_some_and(|it| it.index() == column.index());
        projection.iter().position(|it| is_it(&it.expr))
    })
}

/// `None` unless every child is a column as it is: an expression could fail for rows that another filter takes out first.
fn over_columns(part: &Arc<dyn PhysicalExpr>, position: impl Fn(&Column) -> Option<usize>) -> Option<Arc<dyn PhysicalExpr>> {
    part.downcast_ref::<DynamicFilterPhysicalExpr>()?;
    let columns = part.children().into_iter().map(|child| {
        let column = child.downcast_ref::<Column>()?;
        Some(Arc::new(Column::new(column.name(), position(column)?)) as Arc<dyn PhysicalExpr>)
    });
    Arc::clone(part).with_new_children(columns.collect::<Option<Vec<_>>>()?).ok()
}

#[derive(Debug)]
struct EarlyFilterExec {
    input: Arc<dyn ExecutionPlan>,
    filters: Arc<[Arc<dyn PhysicalExpr>]>,
    metrics: ExecutionPlanMetricsSet,
}

impl DisplayAs for EarlyFilterExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filters: Vec<_> = self.filters.iter().map(ToString::to_string).collect();
        write!(f, "EarlyFilterExec: {}", filters.join(" AND "))
    }
}

impl ExecutionPlan for EarlyFilterExec {
    fn name(&self) -> &str {
        "EarlyFilterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.filters.iter(), f)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => {
                Ok(Arc::new(Self { input, filters: Arc::clone(&self.filters), metrics: ExecutionPlanMetricsSet::new() }))
            }
            _ => internal_err!("an early filter has one child"),
        }
    }

    /// Joins and sorts let go of their filters then; what these say is of another run.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { input: Arc::clone(&self.input), filters: Arc::default(), metrics: ExecutionPlanMetricsSet::new() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batch_rows = context.session_config().batch_size().max(1);
        let input = self.input.execute(partition, context)?;
        let schema = input.schema();
        let rows = EarlyFilterStream {
            input,
            filters: self.filters.iter().map(|filter| Trial { filter: Arc::clone(filter), seen: 0, passed: 0 }).collect(),
            few: BatchCoalescer::new(Arc::clone(&schema), batch_rows).with_biggest_coalesce_batch_size(Some(batch_rows / LARGE)),
            waited: 0,
            is_over: false,
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let rows = stream::try_unfold(rows, EarlyFilterStream::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::LowerEqual
    }
}

/// Of one partition.
struct EarlyFilterStream {
    input: SendableRecordBatchStream,
    /// Those that take rows out, or may.
    filters: Vec<Trial>,
    few: BatchCoalescer,
    /// Batches that rows in `few` have waited for.
    waited: usize,
    is_over: bool,
    metrics: BaselineMetrics,
}

impl EarlyFilterStream {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.few.next_completed_batch() {
                self.metrics.record_output(batch.num_rows());
                return Ok(Some((batch, self)));
            }
            if self.is_over {
                return Ok(None);
            }
            match self.input.next().await.transpose()? {
                Some(batch) => self.take(batch)?,
                None => {
                    self.is_over = true;
                    self.few.finish_buffered_batch()?;
                }
            }
        }
    }

    fn take(&mut self, mut batch: RecordBatch) -> Result<()> {
        let timer = self.metrics.elapsed_compute().clone();
        let _timed = timer.timer();
        for filter in &mut self.filters {
            batch = filter.apply(batch)?;
        }
        self.filters.retain(Trial::is_worth_it);
        self.waited = if self.few.get_buffered_rows() > 0 { self.waited + 1 } else { 0 };
        if batch.num_rows() > 0 {
            self.few.push_batch(batch)?;
        }
        if self.waited >= MOST_WAITED {
            self.few.finish_buffered_batch()?;
        }
        Ok(())
    }
}

struct Trial {
    filter: Arc<dyn PhysicalExpr>,
    /// Rows, since the filter knows something.
    seen: usize,
    passed: usize,
}

impl Trial {
    fn is_worth_it(&self) -> bool {
        self.seen < TRIAL_ROWS || self.passed * MOST_PASSED.1 <= self.seen * MOST_PASSED.0
    }

    fn apply(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let filter = self.filter.snapshot()?.unwrap_or_else(|| Arc::clone(&self.filter));
        // `true` until the other side is known.
        let knows_nothing = filter.downcast_ref::<Literal>().is_some_and(|it| it.value() == &ScalarValue::Boolean(Some(true)));
        if knows_nothing || batch.num_rows() == 0 {
            return Ok(batch);
        }
        let mask = filter.evaluate(&batch)?.into_array(batch.num_rows())?;
        let mask = mask.as_boolean_opt().ok_or_else(|| internal_datafusion_err!("a filter is not boolean"))?;
        let mask = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
        let passed = mask.true_count();
        self.seen += batch.num_rows();
        self.passed += passed;
        if passed == batch.num_rows() { Ok(batch) } else { Ok(filter_record_batch(&batch, &mask)?) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::datasource::listing::PartitionedFile;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::datasource::object_store::ObjectStoreUrl;
    use datafusion::datasource::physical_plan::FileScanConfigBuilder;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, lit};
    use datafusion::physical_expr::projection::ProjectionExpr;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;

    use super::super::leakproof::PlainColumns;
    use super::*;

    fn column() -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new("n", 0))
    }

    fn above(column: Arc<dyn PhysicalExpr>, least: i64) -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(column, Operator::Gt, lit(least)))
    }

    fn dynamic(current: Arc<dyn PhysicalExpr>) -> Arc<DynamicFilterPhysicalExpr> {
        Arc::new(DynamicFilterPhysicalExpr::new(vec![column()], current))
    }

    fn batch(values: impl IntoIterator<Item = Option<i64>>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter(values))]).unwrap()
    }

    /// What is left of these batches, batch by batch.
    async fn left(batches: Vec<RecordBatch>, filter: Arc<DynamicFilterPhysicalExpr>) -> Vec<Vec<i64>> {
        let input = MemorySourceConfig::try_new_exec(std::slice::from_ref(&batches), batches[0].schema(), None).unwrap();
        let filters: Arc<[Arc<dyn PhysicalExpr>]> = Arc::from([filter as Arc<dyn PhysicalExpr>]);
        let plan = EarlyFilterExec { input, filters, metrics: ExecutionPlanMetricsSet::new() };
        let rows = collect(Arc::new(plan), SessionContext::new().task_ctx()).await.unwrap();
        rows.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    #[tokio::test]
    async fn the_rows_that_are_left_stay_in_order_and_few_come_together() {
        let wide = 0..8_000;
        let batches =
            vec![batch([Some(1), None, Some(7)]), batch([Some(2)]), batch([Some(9)]), batch(wide.clone().map(Some)), batch([Some(8)])];
        let found = left(batches, dynamic(above(column(), 3))).await;
        assert_eq!(found, [[7, 9].into_iter().chain(4..8_000).chain([8]).collect::<Vec<_>>()]);
        // What is nearly whole goes on as it is.
        let large = (0..3).map(|_| batch(wide.clone().map(Some))).collect();
        assert_eq!(left(large, dynamic(above(column(), 3))).await, vec![(4..8_000).collect::<Vec<_>>(); 3]);
    }

    #[tokio::test]
    async fn a_filter_that_knows_nothing_lets_all_through_and_one_of_nothing_none() {
        let batches = || vec![batch([Some(1), Some(2)])];
        assert_eq!(left(batches(), dynamic(lit(true))).await, [[1, 2]]);
        assert!(left(batches(), dynamic(lit(false))).await.is_empty());
    }

    #[tokio::test]
    async fn a_plan_that_runs_again_knows_nothing_of_the_last_time() {
        let batches = vec![batch([Some(1), Some(2)])];
        let input = MemorySourceConfig::try_new_exec(std::slice::from_ref(&batches), batches[0].schema(), None).unwrap();
        let filters: Arc<[Arc<dyn PhysicalExpr>]> = Arc::from([dynamic(lit(false)) as Arc<dyn PhysicalExpr>]);
        let plan = Arc::new(EarlyFilterExec { input, filters, metrics: ExecutionPlanMetricsSet::new() });
        let rows = collect(plan.reset_state().unwrap(), SessionContext::new().task_ctx()).await.unwrap();
        assert_eq!(rows, batches);
    }

    #[test]
    fn a_filter_is_asked_while_it_takes_something_out() {
        let filter = dynamic(lit(true));
        let mut trial = Trial { filter: Arc::clone(&filter) as _, seen: 0, passed: 0 };
        let rows = batch((0..8_192).map(Some));
        for _ in 0..10 {
            assert_eq!(trial.apply(rows.clone()).unwrap().num_rows(), 8_192);
        }
        assert!(trial.is_worth_it(), "it knew nothing yet");
        filter.update(above(column(), 8_000)).unwrap();
        for _ in 0..10 {
            assert_eq!(trial.apply(rows.clone()).unwrap().num_rows(), 191);
        }
        assert!(trial.is_worth_it());
        let mut idle = Trial { filter: dynamic(above(column(), 1_000)) as _, seen: 0, passed: 0 };
        for _ in 0..3 {
            idle.apply(rows.clone()).unwrap();
        }
        assert!(idle.is_worth_it(), "too early to tell");
        idle.apply(rows).unwrap();
        assert!(!idle.is_worth_it());
    }

    #[tokio::test]
    async fn what_waits_for_more_rows_does_not_wait_for_ever() {
        let none = (0..2 * MOST_WAITED).map(|_| batch([Some(1)]));
        let batches = [batch([Some(7)])].into_iter().chain(none).chain([batch([Some(8)])]).collect();
        assert_eq!(left(batches, dynamic(above(column(), 3))).await, [[7], [8]]);
    }

    #[tokio::test]
    async fn a_filter_of_no_use_is_not_asked_again() {
        let filter = dynamic(above(column(), -1));
        let useless = (0..5).map(|_| batch((0..8_192).map(Some)));
        let found = left(useless.chain([batch([Some(-7), Some(7)])]).collect(), filter).await;
        assert_eq!(found.last().unwrap(), &[-7, 7]);
    }

    /// A scan with a filter of a join, for pruning.
    fn scan() -> Arc<dyn ExecutionPlan> {
        let source = ParquetSource::new(batch([]).schema()).with_predicate(dynamic(lit(true)));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source));
        DataSourceExec::from_data_source(config.with_file(PartitionedFile::new("1.parquet", 1000)).build())
    }

    fn names(plan: &Arc<dyn ExecutionPlan>) -> Vec<String> {
        let below = plan.children().first().map_or_else(Vec::new, |child| names(child));
        [plan.name().to_owned()].into_iter().chain(below).collect()
    }

    #[test]
    fn it_stands_over_the_scan_and_the_querys_own_filter() {
        let optimized = |plan| names(&EarlyFilters.optimize(plan, &ConfigOptions::new()).unwrap());
        assert_eq!(optimized(scan()), ["EarlyFilterExec", "DataSourceExec"]);
        let filtered = Arc::new(FilterExec::try_new(above(column(), 3), scan()).unwrap());
        assert_eq!(optimized(filtered), ["EarlyFilterExec", "FilterExec", "DataSourceExec"]);
    }

    /// What is scanned there may be hidden.
    #[test]
    fn nothing_is_filtered_early_below_a_barrier() {
        let barrier = SecurityBarrierExec::new("t".into(), PlainColumns::Every, Arc::default(), scan());
        let plan = EarlyFilters.optimize(Arc::new(barrier), &ConfigOptions::new()).unwrap();
        assert_eq!(names(&plan), ["SecurityBarrierExec", "DataSourceExec"]);
    }

    #[test]
    fn only_filters_on_columns_as_they_are_come_early() {
        let of = |index| ProjectionExpr { expr: Arc::new(Column::new("n", index)) as Arc<dyn PhysicalExpr>, alias: "m".to_owned() };
        let there = ProjectionExprs::new(vec![of(4), of(0)]);
        let filter: Arc<dyn PhysicalExpr> = dynamic(above(column(), 3));
        let moved = over_output(&filter, &there).unwrap();
        assert_eq!(moved.children(), [&(Arc::new(Column::new("n", 1)) as Arc<dyn PhysicalExpr>)]);
        assert!(over_output(&filter, &ProjectionExprs::new(vec![of(4)])).is_none(), "its column does not come out");
        assert!(over_output(&above(column(), 3), &there).is_none(), "the query's own filters have their place");
        let computed: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(lit(1_i64), Operator::Divide, column()));
        let computed: Arc<dyn PhysicalExpr> = Arc::new(DynamicFilterPhysicalExpr::new(vec![computed], lit(true)));
        assert!(over_output(&computed, &there).is_none());
    }
}
