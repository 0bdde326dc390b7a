//! Sums, counts and averages over the rows around each row: frames of ROWS, or of a RANGE of whole numbers, dates or times.
//!
//! DataFusion makes scalar values of every row to compare and to add them, and takes what leaves a frame out of a running sum:
//! after a NaN or an infinity none is right any more, and small values are lost to a large one that has gone. These are computed
//! by column, and from the values in the frame alone.

mod fold;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{BatchCoalescer, SortColumn, concat_batches};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::utils::evaluate_partition_ranges;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::functions_aggregate::average::Avg;
use datafusion::functions_aggregate::count::Count;
use datafusion::logical_expr::AggregateUDF;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_expr::window::{SlidingAggregateWindowExpr, WindowExpr};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, apply_expression_roots};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::BoundedWindowAggExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputOrderMode, PlanProperties};
use futures::{StreamExt, stream};
use lazaret_catalog::governed::aggregate_of_window;

use self::fold::{Fold, Frame};
use super::functions::CheckedSum;
use super::size::array_bytes;

/// A frame of a row, and what came of it.
const COLUMN_BYTES: usize = size_of::<Range<usize>>() + size_of::<i128>();
/// What one row takes while frames are found and folded: its key, its value, two sums and a count.
const FOLD_BYTES: usize = 4 * size_of::<i128>() + size_of::<usize>();

/// After all rules that move nodes or ask them for their order.
#[derive(Debug)]
pub struct Frames;

impl PhysicalOptimizerRule for Frames {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let framed = plan.transform_up(|node| {
            let framed = node.downcast_ref::<BoundedWindowAggExec>().map(FramesExec::instead_of).transpose()?.flatten();
            Ok(match framed {
                Some(framed) => Transformed::yes(framed),
                None => Transformed::no(node),
            })
        });
        framed.map(|done| done.data)
    }

    fn name(&self) -> &str {
        "frames"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// One column of the result.
#[derive(Clone, Debug)]
struct Framed {
    name: String,
    fold: Fold,
    argument: Arc<dyn PhysicalExpr>,
    result: DataType,
    frame: Frame,
    /// What rows are sorted by within a partition.
    key: Option<PhysicalSortExpr>,
}

impl Framed {
    fn new(expr: &dyn WindowExpr, schema: &SchemaRef) -> Result<Option<Self>> {
        let Some(sliding) = expr.as_any().downcast_ref::<SlidingAggregateWindowExpr>().filter(|_| !has_filter(expr)) else {
            return Ok(None);
        };
        let aggregate = sliding.get_aggregate_expr();
        let arguments = aggregate.expressions();
        let (Some(fold), [argument]) = (fold_of(aggregate.fun()), &arguments[..]) else { return Ok(None) };
        if aggregate.is_distinct() || !aggregate.order_bys().is_empty() {
            return Ok(None);
        }
        let key = match expr.order_by() {
            [key] => Some((key, key.expr.data_type(schema)?)),
            _ => None,
        };
        let Some(frame) = Frame::new(expr.get_window_frame(), key.as_ref().map(|(key, of)| (of, key.options))) else { return Ok(None) };
        let result = expr.field()?.data_type().clone();
        if !fold.takes(&argument.data_type(schema)?, &result) {
            return Ok(None);
        }
        let (name, argument, key) = (expr.name().to_owned(), Arc::clone(argument), key.map(|(key, _)| key.clone()));
        Ok(Some(Self { name, fold, argument, result, frame, key }))
    }
}

fn fold_of(function: &AggregateUDF) -> Option<Fold> {
    let function = aggregate_of_window(function).inner();
    if function.downcast_ref::<CheckedSum>().is_some() {
        Some(Fold::Sum)
    } else if function.downcast_ref::<Count>().is_some() {
        Some(Fold::Count)
    } else if function.downcast_ref::<Avg>().is_some() {
        Some(Fold::Average)
    } else {
        None
    }
}

/// DataFusion shows an aggregate's FILTER in this form alone. In a form that we do not know there may be one.
fn has_filter(expr: &dyn WindowExpr) -> bool {
    !format!("{expr:?}").ends_with(", filter: None }")
}

#[derive(Debug)]
struct FramesExec {
    input: Arc<dyn ExecutionPlan>,
    columns: Arc<[Framed]>,
    partition_by: Arc<[PhysicalSortExpr]>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl FramesExec {
    /// With the columns that are not of this kind left to a window below.
    fn instead_of(window: &BoundedWindowAggExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if !matches!(window.input_order_mode, InputOrderMode::Sorted) || window.state_observer().is_some() {
            return Ok(None);
        }
        let input = window.input();
        let framed = window.window_expr().iter().map(|expr| Framed::new(expr.as_ref(), &input.schema())).collect::<Result<Vec<_>>>()?;
        if framed.iter().all(Option::is_none) {
            return Ok(None);
        }
        if framed.iter().any(Option::is_none) {
            return Self::above_others(window, framed).map(Some);
        }
        let (columns, partition_by) = (framed.into_iter().flatten().collect(), window.partition_by_sort_keys()?);
        let frames = Self::new(Arc::clone(input), columns, partition_by, window.schema(), Arc::clone(window.properties()));
        Ok(Some(Arc::new(frames)))
    }

    /// The columns in the order in which the window had them; `None` are the others.
    fn above_others(window: &BoundedWindowAggExec, framed: Vec<Option<Framed>>) -> Result<Arc<dyn ExecutionPlan>> {
        let (input, is_partitioned) = (window.input(), !window.partition_keys().is_empty());
        let others = window.window_expr().iter().zip(&framed).filter(|(_, framed)| framed.is_none()).map(|(expr, _)| Arc::clone(expr));
        let below = BoundedWindowAggExec::try_new(others.collect(), Arc::clone(input), window.input_order_mode.clone(), is_partitioned)?;
        let below = Arc::new(below) as Arc<dyn ExecutionPlan>;

        let (schema, before) = (window.schema(), input.schema().fields().len());
        let ours = framed.iter().zip(&schema.fields()[before..]).filter(|(framed, _)| framed.is_some()).map(|(_, field)| Arc::clone(field));
        let both = Arc::new(Schema::new(below.schema().fields().iter().cloned().chain(ours).collect::<Vec<_>>()));
        let (mut other, mut our) = (before..below.schema().fields().len(), below.schema().fields().len()..both.fields().len());
        let places = framed.iter().filter_map(|framed| if framed.is_some() { our.next() } else { other.next() });
        let as_before = (0..before).chain(places.collect::<Vec<_>>()).map(|at| {
            let name = both.field(at).name();
            ProjectionExpr::new(Arc::new(Column::new(name, at)), name)
        });
        let as_before: Vec<_> = as_before.collect();

        let equivalences = EquivalenceProperties::new(Arc::clone(&both)).extend(below.equivalence_properties().clone())?;
        let (partitioning, emission) = (below.output_partitioning().clone(), below.pipeline_behavior());
        let properties = Arc::new(PlanProperties::new(equivalences, partitioning, emission, below.boundedness()));
        let columns = framed.into_iter().flatten().collect();
        let frames = Self::new(below, columns, window.partition_by_sort_keys()?, both, properties);
        Ok(Arc::new(ProjectionExec::try_new(as_before, Arc::new(frames))?))
    }

    fn new(
        input: Arc<dyn ExecutionPlan>,
        columns: Vec<Framed>,
        partition_by: Vec<PhysicalSortExpr>,
        schema: SchemaRef,
        properties: Arc<PlanProperties>,
    ) -> Self {
        let (columns, partition_by) = (columns.into(), partition_by.into());
        Self { input, columns, partition_by, schema, properties, metrics: ExecutionPlanMetricsSet::new() }
    }
}

impl DisplayAs for FramesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.columns.iter().map(|column| column.name.as_str()).collect();
        write!(f, "FramesExec: [{}]", names.join(", "))
    }
}

impl ExecutionPlan for FramesExec {
    fn name(&self) -> &str {
        "FramesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        let keys = self.columns.iter().filter_map(|column| column.key.as_ref()).chain(self.partition_by.iter()).map(|key| &key.expr);
        apply_expression_roots(self.columns.iter().map(|column| &column.argument).chain(keys), f)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = |plan: &Arc<dyn ExecutionPlan>| plan.output_partitioning().partition_count();
        match (children.pop(), children.is_empty()) {
            (Some(input), true) if partitions(&input) == partitions(&self.input) => Ok(Arc::new(Self {
                input,
                columns: Arc::clone(&self.columns),
                partition_by: Arc::clone(&self.partition_by),
                schema: Arc::clone(&self.schema),
                properties: Arc::clone(&self.properties),
                metrics: ExecutionPlanMetricsSet::new(),
            })),
            _ => internal_err!("frames have one input, in as many partitions"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let batch_rows = context.session_config().batch_size().max(1);
        let rows = FramesStream {
            held: Held { rows: RecordBatch::new_empty(input.schema()), done: 0 },
            gathered: Vec::new(),
            gathered_rows: 0,
            input,
            is_over: false,
            columns: Arc::clone(&self.columns),
            partition_by: Arc::clone(&self.partition_by),
            answered: RecordBatch::new_empty(Arc::clone(&self.schema)),
            batches: BatchCoalescer::new(Arc::clone(&self.schema), batch_rows),
            batch_rows,
            memory: MemoryConsumer::new("rows around each row").register(context.memory_pool()),
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let rows = stream::try_unfold(rows, FramesStream::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
}

/// Rows that are not answered yet, after those that are and that frames of others may reach.
struct Held {
    rows: RecordBatch,
    done: usize,
}

/// Of one partition of the plan.
struct FramesStream {
    input: SendableRecordBatchStream,
    held: Held,
    gathered: Vec<RecordBatch>,
    gathered_rows: usize,
    is_over: bool,
    columns: Arc<[Framed]>,
    partition_by: Arc<[PhysicalSortExpr]>,
    /// Rows that wait to be copied, that no batch keeps all of those that were answered with it.
    answered: RecordBatch,
    batches: BatchCoalescer,
    batch_rows: usize,
    memory: MemoryReservation,
    metrics: BaselineMetrics,
}

impl FramesStream {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.batches.next_completed_batch() {
                self.metrics.record_output(batch.num_rows());
                return Ok(Some((batch, self)));
            }
            let waiting = self.answered.num_rows();
            if waiting > 0 {
                let rows = waiting.min(self.batch_rows);
                self.batches.push_batch(self.answered.slice(0, rows))?;
                self.answered = self.answered.slice(rows, waiting - rows);
                continue;
            }
            if self.is_over {
                self.batches.finish_buffered_batch()?;
                if self.batches.has_completed_batch() {
                    continue;
                }
                return Ok(None);
            }
            match self.input.next().await.transpose()? {
                Some(batch) => {
                    self.memory.try_grow(bytes(&batch))?;
                    self.gathered_rows += batch.num_rows();
                    self.gathered.push(batch);
                    // What is held is copied when as much has come again: long frames cost no more than short ones.
                    if self.gathered_rows >= self.held.rows.num_rows() {
                        self.answer().await?;
                    }
                }
                None => {
                    self.is_over = true;
                    self.answer().await?;
                }
            }
        }
    }

    /// As many rows as have all of their frames.
    async fn answer(&mut self) -> Result<()> {
        let timer = self.metrics.elapsed_compute().clone();
        let timed = timer.timer();
        let (rows, done) = self.take_rows()?;
        let partitions = evaluate_partition_ranges(rows.num_rows(), &sort_columns(&self.partition_by, &rows)?)?;
        let mut found = Vec::with_capacity(self.columns.len());
        for column in self.columns.iter() {
            found.push(self.frames(column, &rows, &partitions, done)?);
        }
        let ready = found.iter().map(Vec::len).min().unwrap_or_default();
        drop(timed);
        let mut columns = rows.slice(done, ready).columns().to_vec();
        for (column, frames) in self.columns.iter().zip(&found) {
            // Where there are many rows, each of these takes a while.
            tokio::task::yield_now().await;
            let _timed = timer.timer();
            let values = column.argument.evaluate(&rows)?.into_array(rows.num_rows())?;
            columns.push(column.fold.over(&values, &frames[..ready], &column.result)?);
        }
        self.answered = RecordBatch::try_new(self.answered.schema(), columns)?;
        let next = done + ready;
        let reached = ready.checked_sub(1).and_then(|last| found.iter().map(|frames| frames[last].start).min());
        let kept = match partitions.iter().find(|partition| partition.contains(&next)).or(partitions.last().filter(|_| !self.is_over)) {
            Some(partition) => reached.unwrap_or_default().max(partition.start).min(next),
            None => next,
        };
        self.held = Held { rows: without_other_texts(&rows.slice(kept, rows.num_rows() - kept))?, done: next - kept };
        self.memory.try_resize(bytes(&rows) + bytes(&self.answered))
    }

    /// What is held with what has come since then, and how many of these rows are answered. Takes memory for the work on them.
    fn take_rows(&mut self) -> Result<(RecordBatch, usize)> {
        let Held { rows, done } = &self.held;
        let (schema, done) = (rows.schema(), *done);
        let gathered = std::mem::take(&mut self.gathered);
        let count = rows.num_rows() + std::mem::take(&mut self.gathered_rows);
        let both = bytes(rows) + gathered.iter().map(bytes).sum::<usize>();
        self.memory.try_resize(2 * both + count * (self.columns.len() * COLUMN_BYTES + FOLD_BYTES))?;
        // Not of an empty batch, which would keep the texts of the rows that it was cut from.
        let rows = concat_batches(&schema, Some(rows).filter(|rows| rows.num_rows() > 0).into_iter().chain(&gathered))?;
        Ok((rows, done))
    }

    fn frames(&self, column: &Framed, rows: &RecordBatch, partitions: &[Range<usize>], done: usize) -> Result<Vec<Range<usize>>> {
        let key = column.key.as_ref().map(|key| key.evaluate_to_sort_column(rows)).transpose()?;
        let keys = column.frame.keys(key.as_ref().map(|key| &key.values))?;
        let mut frames = Vec::with_capacity(rows.num_rows() - done);
        for partition in partitions.iter().filter(|partition| partition.end > done) {
            let is_whole = self.is_over || partition.end < rows.num_rows();
            frames.extend(column.frame.of_rows(&keys, partition.clone(), partition.start.max(done), is_whole));
        }
        Ok(frames)
    }
}

fn bytes(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(|column| array_bytes(column)).sum()
}

/// A copy of the texts that are in the rows, without those that they were among.
fn without_other_texts(rows: &RecordBatch) -> Result<RecordBatch> {
    let column = |column: &ArrayRef| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    };
    Ok(RecordBatch::try_new(rows.schema(), rows.columns().iter().map(column).collect())?)
}

fn sort_columns(keys: &[PhysicalSortExpr], rows: &RecordBatch) -> Result<Vec<SortColumn>> {
    keys.iter().map(|key| key.evaluate_to_sort_column(rows)).collect()
}
