//! The node that evaluates a row policy. It is not DataFusion's `FilterExec`: a source may take over that one's predicate
//! and, as Parquet's row filter does, drop it on an error. This one evaluates every row whatever its child promises.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{ScalarValue, internal_datafusion_err, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions, apply_expression_roots};
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties};
use futures::{Stream, StreamExt};

use super::leakproof::is_leakproof_physical;
use super::sieve::Sieve;

/// Lets through the rows for which the policy is true, and of them some columns.
pub(crate) struct RowFilterExec {
    predicate: Arc<dyn PhysicalExpr>,
    sieve: Sieve,
    /// The columns of the input that come out, in this order.
    projection: Arc<[usize]>,
    /// How many rows are enough for a first batch.
    enough_rows: Option<usize>,
    /// Whether every column comes out nullable, whatever the input declares.
    opens: bool,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl RowFilterExec {
    pub(crate) fn try_new(
        predicate: Arc<dyn PhysicalExpr>,
        projection: Arc<[usize]>,
        enough_rows: Option<usize>,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Self> {
        Self::make(predicate, projection, enough_rows, false, input)
    }

    /// All rows and columns, every column nullable.
    pub(crate) fn opening(input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let every = (0..input.schema().fields().len()).collect();
        Self::make(Arc::new(Literal::new(ScalarValue::Boolean(Some(true)))), every, None, true, input)
    }

    fn make(
        predicate: Arc<dyn PhysicalExpr>,
        projection: Arc<[usize]>,
        enough_rows: Option<usize>,
        opens: bool,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Self> {
        let schema = input.schema();
        if predicate.data_type(&schema)? != DataType::Boolean {
            return internal_err!("a row policy is not boolean");
        }
        let output = schema.project(&projection)?;
        let output = Arc::new(Schema::new(if opens { opened(output.fields()) } else { output.fields().clone() }));
        let partitions = Partitioning::UnknownPartitioning(input.output_partitioning().partition_count());
        let properties =
            PlanProperties::new(EquivalenceProperties::new(output), partitions, input.pipeline_behavior(), input.boundedness());
        let sieve = Sieve::new(&predicate, &schema)?;
        Ok(Self { predicate, sieve, projection, enough_rows, opens, input, properties: Arc::new(properties) })
    }

    /// The same predicate over the input's columns.
    fn below(&self, filter: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        Arc::clone(filter)
            .transform_down(|expr| match expr.downcast_ref::<Column>() {
                Some(column) => {
                    let index = self.projection.get(column.index());
                    let index = *index.ok_or_else(|| internal_datafusion_err!("a filter names a column that is not there"))?;
                    Ok(Transformed::yes(Arc::new(Column::new(column.name(), index)) as Arc<dyn PhysicalExpr>))
                }
                None => Ok(Transformed::no(expr)),
            })
            .map(|done| done.data)
    }
}

impl fmt::Debug for RowFilterExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowFilterExec").finish_non_exhaustive()
    }
}

impl DisplayAs for RowFilterExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowFilterExec")
    }
}

impl ExecutionPlan for RowFilterExec {
    fn name(&self) -> &str {
        "RowFilterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
            (Some(input), true) if input.schema().fields() == self.input.schema().fields() => {
                let (predicate, projection) = (Arc::clone(&self.predicate), Arc::clone(&self.projection));
                Ok(Arc::new(Self::make(predicate, projection, self.enough_rows, self.opens, input)?))
            }
            _ => internal_err!("a row filter has one child, of the columns that it was made for"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        apply_expression_roots([&self.predicate], f)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batch_rows = context.session_config().batch_size().max(1);
        let batch_rows = self.enough_rows.map_or(batch_rows, |enough| enough.clamp(1, batch_rows));
        let input = self.input.execute(partition, context)?;
        Ok(Box::pin(RowFilterStream::new(self.sieve.clone(), Arc::clone(&self.projection), self.schema(), batch_rows, input)))
    }

    /// Both the policy and what came through the barrier are offered for pruning. They are this node's own filters, so
    /// that no answer of the child can take the policy away from here.
    fn gather_filters_for_pushdown(
        &self,
        phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let (above, below) = (self.schema(), self.input.schema());
        let mut offered = Vec::new();
        for filter in parent_filters.iter().filter(|filter| is_leakproof_physical(filter, &above)) {
            offered.push(self.below(filter)?);
        }
        if phase == FilterPushdownPhase::Pre {
            let policy = split_conjunction(&self.predicate);
            offered.extend(policy.into_iter().filter(|part| is_leakproof_physical(part, &below)).cloned());
        }
        let child = ChildFilterDescription::all_unsupported(&parent_filters).with_self_filters(offered);
        Ok(FilterDescription::new().with_child(child))
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::all_unsupported(child_pushdown_result))
    }
}

/// Nullable, whatever is declared: files may hold NULLs all the same.
pub(super) fn opened(fields: &Fields) -> Fields {
    fields.iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true))).collect()
}

/// The rows that go through a sieve, and of them some columns.
pub(super) struct RowFilterStream<S> {
    sieve: Sieve,
    projection: Arc<[usize]>,
    schema: SchemaRef,
    visible: BatchCoalescer,
    /// In one outgoing batch. The borders of batches tell nothing of the rows between the visible ones.
    batch_rows: usize,
    /// Visible rows that have not gone out, where there are no columns.
    counted: usize,
    /// `None` after the end or an error.
    input: Option<S>,
}

impl<S: Stream<Item = Result<RecordBatch>> + Unpin> RowFilterStream<S> {
    /// `schema` is what comes out, `batch_rows` how many rows at once.
    pub(super) fn new(sieve: Sieve, projection: Arc<[usize]>, schema: SchemaRef, batch_rows: usize, input: S) -> Self {
        let visible = BatchCoalescer::new(Arc::clone(&schema), batch_rows);
        Self { sieve, projection, schema, visible, batch_rows, counted: 0, input: Some(input) }
    }

    /// Without columns, a batch is only its number of rows, which the coalescer does not carry.
    fn take_in(&mut self, batch: &RecordBatch) -> Result<()> {
        let mask = self.sieve.mask(batch)?;
        if self.projection.is_empty() {
            self.counted += mask.true_count();
        } else if mask.has_true() {
            self.visible.push_batch_with_filter(batch.project(&self.projection)?, &mask)?;
        }
        Ok(())
    }

    /// A full batch, or what is left at the end.
    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        if !self.projection.is_empty() {
            return Ok(self.visible.next_completed_batch());
        }
        let rows = self.counted.min(self.batch_rows);
        if rows == 0 || (rows < self.batch_rows && self.input.is_some()) {
            return Ok(None);
        }
        self.counted -= rows;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&self.schema), Vec::new(), &options)?))
    }

    /// After an error nothing follows.
    fn end(&mut self, error: DataFusionError) -> DataFusionError {
        self.input = None;
        self.counted = 0;
        self.visible = BatchCoalescer::new(Arc::clone(&self.schema), self.batch_rows);
        error
    }
}

impl<S: Stream<Item = Result<RecordBatch>> + Unpin> Stream for RowFilterStream<S> {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.next_batch() {
                Ok(Some(batch)) => return Poll::Ready(Some(Ok(batch))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(self.end(error)))),
            }
            let Some(input) = &mut self.input else { return Poll::Ready(None) };
            let taken = match ready!(input.poll_next_unpin(cx)) {
                Some(batch) => batch.and_then(|batch| self.take_in(&batch)),
                None => {
                    self.input = None;
                    self.visible.finish_buffered_batch().map_err(Into::into)
                }
            };
            if let Err(error) = taken {
                return Poll::Ready(Some(Err(self.end(error))));
            }
        }
    }
}

impl<S: Stream<Item = Result<RecordBatch>> + Unpin> RecordBatchStream for RowFilterStream<S> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
