//! The node below which rows are hidden. Nothing that the reader wrote passes it downwards but predicates that cannot leak,
//! and nothing passes upwards but visible rows: no statistics, no metrics, no error text.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Statistics, internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, OrderingRequirements, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, InvariantLevel, ReplaceChildrenOptions, check_default_invariants,
};
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sort_pushdown::SortOrderPushdownResult;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements, Partitioning, PlanProperties,
};
use futures::{Stream, StreamExt};

use super::failure::ScanFailure;
use super::leakproof::{PlainColumns, is_leakproof_physical};

/// Closes the plan of a restricted table or view.
pub struct SecurityBarrierExec {
    /// The name under which the reader knows the table.
    table: Arc<str>,
    /// On which predicates may go down.
    plain: PlainColumns,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl SecurityBarrierExec {
    pub(crate) fn new(table: Arc<str>, plain: PlainColumns, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = Arc::new(visible_properties(&input));
        Self { table, plain, input, properties }
    }

    /// The name of the table that is closed.
    pub fn table(&self) -> &str {
        &self.table
    }
}

/// What is known of the output: how many partitions, and nothing of orders or constants, which would speak of hidden rows
/// or of a predicate that a source only prunes with.
fn visible_properties(input: &Arc<dyn ExecutionPlan>) -> PlanProperties {
    let schema = visible_schema(input.schema().fields());
    let partitions = Partitioning::UnknownPartitioning(input.output_partitioning().partition_count());
    PlanProperties::new(EquivalenceProperties::new(schema), partitions, input.pipeline_behavior(), input.boundedness())
}

/// Columns as a reader sees them. Writers keep things in metadata that name other columns, such as constraints: what stays
/// is what an Arrow type needs, and the field id.
pub(crate) fn visible_schema(fields: &Fields) -> SchemaRef {
    let visible = |field: &FieldRef| {
        let stays = |key: &str| key.starts_with("ARROW:extension:") || key == "PARQUET:field_id";
        let kept = field.metadata().iter().filter(|(key, _)| stays(key));
        let kept = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        field.as_ref().clone().with_metadata(kept)
    };
    Arc::new(Schema::new(fields.iter().map(visible).collect::<Vec<_>>()))
}

impl fmt::Debug for SecurityBarrierExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecurityBarrierExec").field("table", &self.table).finish_non_exhaustive()
    }
}

impl DisplayAs for SecurityBarrierExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => write!(f, "SecurityBarrierExec: table={}", self.table),
            DisplayFormatType::TreeRender => write!(f, "table={}", self.table),
        }
    }
}

// A method that a new DataFusion adds must be decided here before this compiles under clippy.
#[deny(clippy::missing_trait_methods)]
#[allow(deprecated)]
impl ExecutionPlan for SecurityBarrierExec {
    fn name(&self) -> &str {
        Self::static_name()
    }

    fn static_name() -> &'static str {
        "SecurityBarrierExec"
    }

    /// With a delegate, a codec would write the plan as if the barrier were not there.
    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        None
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(self.properties.equivalence_properties().schema())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn check_invariants(&self, check: InvariantLevel) -> Result<()> {
        check_default_invariants(self, check)
    }

    fn dynamic_expressions_produced(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::UnspecifiedDistribution]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::UnspecifiedDistribution])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![None]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    /// Reading is split by bytes below, as without a barrier.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) if visible_schema(input.schema().fields()) == self.schema() => {
                Ok(Arc::new(Self::new(Arc::clone(&self.table), self.plain.clone(), input)))
            }
            _ => internal_err!("a barrier has one child, of its own columns"),
        }
    }

    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn with_new_children_and_same_properties(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.with_new_children(children)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        let children = vec![Arc::clone(&self.input)];
        self.with_new_children(children)
    }

    fn repartitioned(&self, _target_partitions: usize, _config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        Ok(None)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let started = catch_unwind(AssertUnwindSafe(|| self.input.execute(partition, context)));
        let input =
            started.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))).map_err(|error| ScanFailure::conceal(&self.table, &error))?;
        Ok(Box::pin(BarrierStream { table: Arc::clone(&self.table), schema: self.schema(), input: Some(input) }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        None
    }

    fn partition_statistics(&self, _partition: Option<usize>) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.schema())))
    }

    fn statistics_from_inputs(&self, _input_stats: &[Arc<Statistics>], _args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.schema())))
    }

    fn child_stats_requests(&self, _partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::Skip]
    }

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn with_fetch(&self, _limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        None
    }

    fn fetch(&self) -> Option<usize> {
        None
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Unknown
    }

    fn try_swapping_with_projection(&self, _projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        Ok(None)
    }

    /// What cannot leak goes down as the barrier's own wish, so that its fate below stays here.
    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let schema = self.schema();
        let goes_down = |filter: &&Arc<dyn PhysicalExpr>| is_leakproof_physical(filter, &schema) && self.plain.admit_physical(filter);
        let leakproof = parent_filters.iter().filter(goes_down).cloned().collect();
        let child = ChildFilterDescription::all_unsupported(&parent_filters).with_self_filters(leakproof);
        Ok(FilterDescription::new().with_child(child))
    }

    /// The parent keeps evaluating every filter on what it gets.
    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::all_unsupported(child_pushdown_result))
    }

    fn with_new_state(&self, _state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn ExecutionPlan>> {
        None
    }

    fn try_pushdown_sort(&self, _order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        Ok(SortOrderPushdownResult::Unsupported)
    }

    fn with_preserve_order(&self, _preserve_order: bool) -> Option<Arc<dyn ExecutionPlan>> {
        None
    }

    /// Has no wire form yet: a plan that leaves the process must fail rather than lose its barrier.
    fn try_to_proto(
        &self,
        _ctx: &datafusion::physical_plan::proto::ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<datafusion_proto_models::protobuf::PhysicalPlanNode>> {
        internal_err!("a governed plan cannot be serialized")
    }
}

fn panicked(panic: &(dyn Any + Send)) -> datafusion::error::DataFusionError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    internal_datafusion_err!("panic below a barrier: {}", text.unwrap_or("without a text"))
}

struct BarrierStream {
    table: Arc<str>,
    schema: SchemaRef,
    /// `None` after the end or the first failure.
    input: Option<SendableRecordBatchStream>,
}

impl BarrierStream {
    fn let_out(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), batch.columns().to_vec(), &rows)?)
    }
}

impl Stream for BarrierStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(input) = &mut self.input else { return Poll::Ready(None) };
        let polled = catch_unwind(AssertUnwindSafe(|| input.poll_next_unpin(cx)));
        let next = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(next)) => next,
            Err(panic) => Some(Err(panicked(panic.as_ref()))),
        };
        let next = next.map(|batch| batch.and_then(|batch| self.let_out(batch)));
        if !matches!(next, Some(Ok(_))) {
            self.input = None;
        }
        Poll::Ready(next.map(|batch| batch.map_err(|error| ScanFailure::conceal(&self.table, &error))))
    }
}

impl RecordBatchStream for BarrierStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
