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

use arrow::array::RecordBatch;
use arrow::compute::{SortColumn, concat_batches};
use arrow::datatypes::{DataType, SchemaRef};
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
use datafusion::physical_expr::window::{SlidingAggregateWindowExpr, WindowExpr};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, apply_expression_roots};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::BoundedWindowAggExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputOrderMode, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use self::fold::{Fold, Frame};
use super::functions::CheckedSum;
use super::size::array_bytes;

/// After all rules that move nodes or ask them for their order.
#[derive(Debug)]
pub struct Frames;

impl PhysicalOptimizerRule for Frames {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let framed = plan.transform_up(|node| {
            let framed = node.downcast_ref::<BoundedWindowAggExec>().map(FramesExec::instead_of).transpose()?.flatten();
            Ok(match framed {
                Some(framed) => Transformed::yes(Arc::new(framed) as Arc<dyn ExecutionPlan>),
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
    let function = function.inner();
    let is_sum = function.downcast_ref::<CheckedSum>().is_some();
    let is_count = || function.downcast_ref::<Count>().is_some();
    let is_average = || function.downcast_ref::<Avg>().is_some();
    if is_sum {
        Some(Fold::Sum)
    } else if is_count() {
        Some(Fold::Count)
    } else {
        is_average().then_some(Fold::Average)
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
    fn instead_of(window: &BoundedWindowAggExec) -> Result<Option<Self>> {
        if !matches!(window.input_order_mode, InputOrderMode::Sorted) || window.state_observer().is_some() {
            return Ok(None);
        }
        let input = Arc::clone(window.input());
        let columns = window.window_expr().iter().map(|expr| Framed::new(expr.as_ref(), &input.schema()));
        let Some(columns) = columns.collect::<Result<Option<Vec<_>>>>()? else { return Ok(None) };
        let partition_by = window.partition_by_sort_keys()?.into();
        let (schema, properties) = (window.schema(), Arc::clone(window.properties()));
        Ok(Some(Self { input, columns: columns.into(), partition_by, schema, properties, metrics: ExecutionPlanMetricsSet::new() }))
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
        let rows = FramesStream {
            held: Held { rows: RecordBatch::new_empty(input.schema()), done: 0 },
            gathered: Vec::new(),
            input,
            is_over: false,
            columns: Arc::clone(&self.columns),
            partition_by: Arc::clone(&self.partition_by),
            schema: Arc::clone(&self.schema),
            memory: MemoryConsumer::new("rows around each row").register(context.memory_pool()),
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let most = context.session_config().batch_size().max(1);
        let rows = stream::try_unfold(rows, FramesStream::next).map_ok(move |batch: RecordBatch| {
            let starts = (0..batch.num_rows()).step_by(most);
            stream::iter(starts.map(move |start| Ok(batch.slice(start, most.min(batch.num_rows() - start)))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows.try_flatten())))
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
    is_over: bool,
    columns: Arc<[Framed]>,
    partition_by: Arc<[PhysicalSortExpr]>,
    schema: SchemaRef,
    memory: MemoryReservation,
    metrics: BaselineMetrics,
}

impl FramesStream {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        while !self.is_over {
            match self.input.next().await.transpose()? {
                Some(batch) => {
                    self.memory.try_grow(bytes(&batch))?;
                    self.gathered.push(batch);
                    // What is held is copied when as much has come again: long frames cost no more than short ones.
                    if self.gathered.iter().map(RecordBatch::num_rows).sum::<usize>() < self.held.rows.num_rows() {
                        continue;
                    }
                }
                None => self.is_over = true,
            }
            let timer = self.metrics.elapsed_compute().clone();
            let _timed = timer.timer();
            let answered = self.answer()?;
            if answered.num_rows() > 0 {
                self.metrics.record_output(answered.num_rows());
                return Ok(Some((answered, self)));
            }
        }
        Ok(None)
    }

    /// As many rows as have all of their frames.
    fn answer(&mut self) -> Result<RecordBatch> {
        let Held { rows, done } = &self.held;
        let (schema, done) = (rows.schema(), *done);
        let gathered = std::mem::take(&mut self.gathered);
        self.memory.try_grow(bytes(rows) + gathered.iter().map(bytes).sum::<usize>())?;
        let rows = concat_batches(&schema, std::iter::once(rows).chain(&gathered))?;
        drop(gathered);
        self.memory.try_resize(bytes(&rows))?;
        let partitions = evaluate_partition_ranges(rows.num_rows(), &sort_columns(&self.partition_by, &rows)?)?;
        let mut found = Vec::with_capacity(self.columns.len());
        for column in self.columns.iter() {
            found.push(self.frames(column, &rows, &partitions, done)?);
        }
        let ready = found.iter().map(Vec::len).min().unwrap_or_default();
        let mut columns = rows.slice(done, ready).columns().to_vec();
        for (column, frames) in self.columns.iter().zip(&found) {
            let values = column.argument.evaluate(&rows)?.into_array(rows.num_rows())?;
            columns.push(column.fold.over(&values, &frames[..ready], &column.result)?);
        }
        let next = done + ready;
        let reached = ready.checked_sub(1).and_then(|last| found.iter().map(|frames| frames[last].start).min());
        let kept = match partitions.iter().find(|partition| partition.contains(&next)).or(partitions.last().filter(|_| !self.is_over)) {
            Some(partition) => reached.unwrap_or_default().max(partition.start).min(next),
            None => next,
        };
        self.held = Held { rows: rows.slice(kept, rows.num_rows() - kept), done: next - kept };
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
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

fn sort_columns(keys: &[PhysicalSortExpr], rows: &RecordBatch) -> Result<Vec<SortColumn>> {
    keys.iter().map(|key| key.evaluate_to_sort_column(rows)).collect()
}
