//! The node below which rows are hidden. Nothing that the reader wrote passes it downwards but predicates that cannot leak,
//! and nothing passes upwards but visible rows: no statistics, no metrics, no error text.
//!
//! A predicate that went down chooses what is read, by bounds of hidden rows too. So that nothing above can tell what was
//! left out, exactly the visible rows for which it is true come out: evaluated here, or beside the policy by the row filter
//! below. A filter that a join or TopK makes while it runs only becomes tighter, so that here, later, it takes all that it
//! took below.

use std::any::Any;
use std::collections::BTreeSet;
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
use datafusion::physical_expr::{
    Distribution, DynamicFilterTracking, EquivalenceProperties, OrderingRequirements, PhysicalExpr, PhysicalSortExpr, conjunction,
};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, InvariantLevel, ReplaceChildrenOptions, apply_expression_roots, check_default_invariants,
};
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sort_pushdown::SortOrderPushdownResult;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements, Partitioning, PlanProperties,
};
use futures::future::ready;
use futures::stream::{BoxStream, select_all};
use futures::{Stream, StreamExt, TryStreamExt};

use super::failure::ScanFailure;
use super::leakproof::{PlainColumns, is_leakproof_physical};
use super::row_filter::RowFilterStream;
use super::sieve::Sieve;

/// Closes the plan of a restricted table or view.
pub struct SecurityBarrierExec {
    /// The name under which the reader knows the table.
    table: Arc<str>,
    /// On which predicates may go down.
    plain: PlainColumns,
    /// The columns of the table that must be masked below.
    masked: Arc<BTreeSet<String>>,
    /// Predicates that went down, over the columns that come out.
    sifted: Arc<[Arc<dyn PhysicalExpr>]>,
    /// How many rows are enough for a first batch.
    enough_rows: Option<usize>,
    /// The reader's predicates that are evaluated here or below, as EXPLAIN shows them.
    told: Arc<[String]>,
    /// Of the output. How many there are below depends on how much is read there.
    partitions: usize,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl SecurityBarrierExec {
    pub(crate) fn new(table: Arc<str>, plain: PlainColumns, masked: Arc<BTreeSet<String>>, input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = Arc::new(visible_properties(&input, partitions));
        Self { table, plain, masked, sifted: Arc::new([]), enough_rows: None, told: Arc::new([]), partitions, input, properties }
    }

    /// Shows these in plans; who calls has seen to it that they are evaluated.
    pub(crate) fn telling(self, predicates: impl IntoIterator<Item = String>) -> Self {
        Self { told: self.told.iter().cloned().chain(predicates).collect(), ..self }
    }

    /// Where predicates are evaluated here, with smaller batches: so many rows are all that a LIMIT asks for.
    pub(crate) fn with_enough_rows(self, rows: Option<usize>) -> Self {
        Self { enough_rows: rows, ..self }
    }

    /// With so many partitions, whatever is below.
    pub(crate) fn spread_over(self, partitions: usize) -> Self {
        let partitions = partitions.max(1);
        Self { properties: Arc::new(visible_properties(&self.input, partitions)), partitions, ..self }
    }

    /// Lets out only rows for which these predicates are true too.
    pub(crate) fn sifting(self, predicates: impl IntoIterator<Item = Arc<dyn PhysicalExpr>>) -> Self {
        let mut sifted = self.sifted.to_vec();
        for predicate in predicates {
            if !sifted.contains(&predicate) {
                sifted.push(predicate);
            }
        }
        Self { sifted: sifted.into(), ..self }
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        let barrier = Self::new(Arc::clone(&self.table), self.plain.clone(), Arc::clone(&self.masked), input);
        Self { sifted: Arc::clone(&self.sifted), enough_rows: self.enough_rows, told: Arc::clone(&self.told), ..barrier }
            .spread_over(self.partitions)
    }

    fn goes_down(&self, filter: &Arc<dyn PhysicalExpr>) -> bool {
        is_leakproof_physical(filter, &self.schema()) && self.plain.admit_physical(filter)
    }

    pub(crate) fn masked(&self) -> &Arc<BTreeSet<String>> {
        &self.masked
    }

    /// The name of the table that is closed.
    pub fn table(&self) -> &str {
        &self.table
    }
}

/// What is known of the output: how many partitions, and nothing of orders or constants, which would speak of hidden rows
/// or of a predicate that a source only prunes with.
fn visible_properties(input: &Arc<dyn ExecutionPlan>, partitions: usize) -> PlanProperties {
    let schema = visible_schema(input.schema().fields());
    let partitions = Partitioning::UnknownPartitioning(partitions);
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
        if !matches!(t, DisplayFormatType::TreeRender) {
            f.write_str("SecurityBarrierExec: ")?;
        }
        write!(f, "table={}", self.table)?;
        if self.told.is_empty() { Ok(()) } else { write!(f, ", filter=[{}]", self.told.join(", ")) }
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
            (Some(input), true) if visible_schema(input.schema().fields()) == self.schema() => Ok(Arc::new(self.over(input))),
            _ => internal_err!("a barrier has one child, of its own columns"),
        }
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.sifted.iter(), f)
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
        let below = (partition..self.input.output_partitioning().partition_count()).step_by(self.partitions);
        let started = catch_unwind(AssertUnwindSafe(|| {
            below.map(|partition| self.input.execute(partition, Arc::clone(&context))).collect::<Result<Vec<_>>>()
        }));
        let mut inputs =
            started.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))).map_err(|error| ScanFailure::conceal(&self.table, &error))?;
        let rows = match (inputs.pop(), inputs.is_empty()) {
            (Some(only), true) => only.left_stream(),
            (last, _) => select_all(inputs.into_iter().chain(last)).right_stream(),
        };
        let rows = if self.sifted.is_empty() {
            // An empty batch would tell where something was left out.
            rows.try_filter(|batch| ready(batch.num_rows() > 0)).boxed()
        } else {
            let batch_rows = context.session_config().batch_size().max(1);
            let batch_rows = self.enough_rows.map_or(batch_rows, |enough| enough.clamp(1, batch_rows));
            let every = (0..self.schema().fields().len()).collect();
            let sieve = Sieve::new(&conjunction(self.sifted.iter().cloned()), &self.schema())?;
            RowFilterStream::new(sieve, every, self.schema(), batch_rows, rows).boxed()
        };
        Ok(Box::pin(BarrierStream { table: Arc::clone(&self.table), schema: self.schema(), rows: Some(rows) }))
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
        phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let mut leakproof: Vec<_> = parent_filters.iter().filter(|filter| self.goes_down(filter)).cloned().collect();
        if phase == FilterPushdownPhase::Pre {
            // Not every source reads by what the table was asked for.
            leakproof.extend(self.sifted.iter().cloned());
        }
        let child = ChildFilterDescription::all_unsupported(&parent_filters).with_self_filters(leakproof);
        Ok(FilterDescription::new().with_child(child))
    }

    /// What went down is evaluated here, so that the parent need not.
    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let offered: Vec<_> = child_pushdown_result.parent_filters.into_iter().map(|result| result.filter).collect();
        let answers = offered.iter().map(|filter| if self.goes_down(filter) { PushedDown::Yes } else { PushedDown::No });
        let mut told = FilterPushdownPropagation::with_parent_pushdown_result(answers.collect());
        let sifted: Vec<_> = offered.into_iter().filter(|filter| self.goes_down(filter)).collect();
        if !sifted.is_empty() {
            // A filter that is made while the query runs holds values.
            let is_static =
                |filter: &&Arc<dyn PhysicalExpr>| matches!(DynamicFilterTracking::classify(filter), DynamicFilterTracking::Static);
            let written: Vec<String> = sifted.iter().filter(is_static).map(ToString::to_string).collect();
            let barrier = self.over(Arc::clone(&self.input)).sifting(sifted).telling(written);
            told.updated_node = Some(Arc::new(barrier) as Arc<dyn ExecutionPlan>);
        }
        Ok(told)
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
    rows: Option<BoxStream<'static, Result<RecordBatch>>>,
}

impl BarrierStream {
    fn let_out(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), batch.columns().to_vec(), &rows)?)
    }
}

impl Stream for BarrierStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(rows) = &mut self.rows else { return Poll::Ready(None) };
        let polled = catch_unwind(AssertUnwindSafe(|| rows.poll_next_unpin(cx)));
        let next = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(next)) => next,
            Err(panic) => Some(Err(panicked(panic.as_ref()))),
        };
        let next = next.map(|batch| batch.and_then(|batch| self.let_out(&batch)));
        if !matches!(next, Some(Ok(_))) {
            self.rows = None;
        }
        Poll::Ready(next.map(|batch| batch.map_err(|error| ScanFailure::conceal(&self.table, &error))))
    }
}

impl RecordBatchStream for BarrierStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
