//! A plan node that changes nothing but when and in what portions batches pass: DataFusion's joins without keys do not
//! yield before they have rows to give, and some of its nodes make much of little, or keep what nobody counts.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::{Stream, StreamExt};

use super::functions::scalar_bytes;

/// How long a join may work on one portion before others get their turn: well below what a user calls at once.
const LONGEST_WORK: Duration = Duration::from_millis(20);

/// Constants in the columns of one batch: a text of a megabyte is repeated in few rows at a time.
const CONSTANT_BYTES: usize = 32 << 20;

/// A constant below this size is not looked at.
const SMALL_CONSTANT_BYTES: usize = 1024;

/// Puts the nodes in where they are needed. After the plan has been verified, for they stand for nothing by themselves.
pub fn guard(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        // These make many batches out of one, and DataFusion lets only leaves yield.
        if node.is::<CrossJoinExec>() {
            return Ok(Transformed::yes(Arc::new(CooperativeExec::new(node)) as _));
        }
        if node.is::<NestedLoopJoinExec>() {
            let [build, probe] = node.children()[..] else { return internal_err!("a join without two sides") };
            let probe: Arc<dyn ExecutionPlan> = Arc::new(PassageExec::new(Arc::clone(probe), Duty::Pace));
            let children = vec![Arc::clone(build), probe];
            let join = with_children(node, children)?;
            return Ok(Transformed::yes(Arc::new(CooperativeExec::new(join)) as _));
        }
        let duty = if node.is::<WindowAggExec>() { Some(Duty::Hold) } else { portion(node.as_ref()).map(Duty::Portion) };
        match (duty, &node.children()[..]) {
            (Some(duty), [input]) => {
                let passage = Arc::new(PassageExec::new(Arc::clone(input), duty));
                Ok(Transformed::yes(with_children(node, vec![passage])?))
            }
            _ => Ok(Transformed::no(node)),
        }
    })
    .data()
}

fn with_children(node: Arc<dyn ExecutionPlan>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    node.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Rows at a time for a node that writes large constants into every row.
fn portion(node: &dyn ExecutionPlan) -> Option<usize> {
    let constant = |expr: &Arc<dyn PhysicalExpr>| expr.downcast_ref::<Literal>().map_or(0, |literal| scalar_bytes(literal.value()));
    let bytes: usize = if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        projection.expr().iter().map(|column| constant(&column.expr)).sum()
    } else {
        let aggregate = node.downcast_ref::<AggregateExec>()?;
        aggregate.aggr_expr().iter().flat_map(|it| it.expressions()).map(|expr| constant(&expr)).sum()
    };
    (bytes > SMALL_CONSTANT_BYTES).then(|| (CONSTANT_BYTES / bytes).max(1))
}

#[derive(Clone, Copy, Debug)]
enum Duty {
    /// Portions that are worked on in a moment, with a pause after each.
    Pace,
    /// At most so many rows at a time.
    Portion(usize),
    /// Everything that has passed counts as memory until the end: the node above keeps it.
    Hold,
}

#[derive(Clone, Debug)]
struct PassageExec {
    input: Arc<dyn ExecutionPlan>,
    duty: Duty,
    properties: Arc<PlanProperties>,
}

impl PassageExec {
    fn new(input: Arc<dyn ExecutionPlan>, duty: Duty) -> Self {
        let properties = Arc::clone(input.properties());
        Self { input, duty, properties }
    }
}

impl DisplayAs for PassageExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PassageExec: {:?}", self.duty)
    }
}

impl ExecutionPlan for PassageExec {
    fn name(&self) -> &str {
        "PassageExec"
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

    fn apply_expressions(&self, _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, self.duty))),
            _ => internal_err!("a passage has one input"),
        }
    }

    fn execute(&self, partition: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let held = MemoryConsumer::new("rows of a window").register(task.memory_pool());
        let input = self.input.execute(partition, task)?;
        Ok(match self.duty {
            Duty::Pace => Box::pin(Portions { input, waiting: None, rows: 1, pace: true, given: None }),
            Duty::Portion(rows) => Box::pin(Portions { input, waiting: None, rows, pace: false, given: None }),
            Duty::Hold => Box::pin(Holding { input, held }),
        })
    }
}

struct Portions {
    input: SendableRecordBatchStream,
    waiting: Option<RecordBatch>,
    rows: usize,
    pace: bool,
    /// When the last portion was given: what has passed since then is the time that it took.
    given: Option<Instant>,
}

impl Portions {
    /// Whether it is time for a pause; the next portion is made to last.
    fn learn(&mut self) -> bool {
        let Some(took) = self.given.take().map(|given| given.elapsed()) else { return false };
        if took > LONGEST_WORK {
            self.rows = (self.rows / 2).max(1);
        } else if took < LONGEST_WORK / 4 {
            self.rows = self.rows.saturating_mul(2);
        }
        took > LONGEST_WORK / 4
    }
}

impl Stream for Portions {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.pace && self.learn() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let batch = match self.waiting.take() {
            Some(batch) => batch,
            None => match ready!(self.input.poll_next_unpin(context)) {
                Some(Ok(batch)) => batch,
                other => return Poll::Ready(other),
            },
        };
        let rows = self.rows.min(batch.num_rows());
        if rows < batch.num_rows() {
            self.waiting = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        self.given = self.pace.then(Instant::now);
        Poll::Ready(Some(Ok(batch.slice(0, rows))))
    }
}

impl RecordBatchStream for Portions {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}

struct Holding {
    input: SendableRecordBatchStream,
    held: MemoryReservation,
}

impl Stream for Holding {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let batch = ready!(self.input.poll_next_unpin(context));
        Poll::Ready(batch.map(|batch| {
            let batch = batch?;
            let bytes = batch.columns().iter().map(|column| super::size::array_bytes(column)).sum();
            self.held.try_grow(bytes)?;
            Ok(batch)
        }))
    }
}

impl RecordBatchStream for Holding {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}
