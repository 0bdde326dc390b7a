//! Defects that a test puts in, each one that somebody has shipped: the oracle must find every one.

use std::fmt;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, Statistics, internal_err};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The row policy is not evaluated.
    NoRowFilter,
    /// What the reader wrote runs on hidden rows, whether it may fail or not.
    FalliblePredicate,
    /// The number of raw rows is known above the barrier.
    CountFromStatistics,
    /// Masked columns are shown as they are.
    NoMask,
    /// A LIMIT stops the raw scan.
    LimitBelow,
    /// Columns that are not granted, or denied, are there.
    ClosedColumns,
}

impl Sabotage {
    pub const EVERY: [Self; 6] =
        [Self::NoRowFilter, Self::FalliblePredicate, Self::CountFromStatistics, Self::NoMask, Self::LimitBelow, Self::ClosedColumns];
}

impl Sabotage {
    /// Whether a query of this text could show it: the others need not be tried.
    pub fn could_show_in(self, text: &str) -> bool {
        match self {
            Self::CountFromStatistics => text.starts_with("SELECT count(*) FROM "),
            Self::LimitBelow => text.starts_with("SELECT count(*) FROM (") && text.contains("LIMIT"),
            Self::ClosedColumns => text.starts_with("SELECT * FROM ") || text.starts_with("SELECT a."),
            Self::NoRowFilter | Self::FalliblePredicate | Self::NoMask => true,
        }
    }
}

/// The raw scan, with what must not be below the row filter.
pub(crate) fn below(
    sabotage: Option<Sabotage>,
    state: &dyn Session,
    scan: Arc<dyn ExecutionPlan>,
    filters: &[&Expr],
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    match (sabotage, limit) {
        (Some(Sabotage::FalliblePredicate), _) => {
            let filters = filters.iter().map(|filter| super::table::unqualified(filter)).collect::<Result<Vec<_>>>()?;
            let Some(filter) = conjunction(filters) else { return Ok(scan) };
            let predicate = state.create_physical_expr(filter, &DFSchema::try_from(scan.schema())?)?;
            Ok(Arc::new(FilterExec::try_new(predicate, scan)?))
        }
        (Some(Sabotage::LimitBelow), Some(limit)) => Ok(Arc::new(LocalLimitExec::new(scan, limit))),
        _ => Ok(scan),
    }
}

/// A barrier that tells how many rows the raw scan has.
pub(crate) fn telling(barrier: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let mut leaf = Arc::clone(&barrier);
    while let Some(child) = leaf.children().first().map(|child| Arc::clone(child)) {
        leaf = child;
    }
    let rows = leaf.statistics_from_inputs(&[], &StatisticsArgs::new()).map_or(Precision::Absent, |statistics| statistics.num_rows);
    Arc::new(Telling { barrier, rows })
}

struct Telling {
    barrier: Arc<dyn ExecutionPlan>,
    rows: Precision<usize>,
}

impl Telling {
    fn told(&self) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics { num_rows: self.rows, ..Statistics::new_unknown(&self.schema()) }))
    }
}

impl fmt::Debug for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Telling")
    }
}

impl DisplayAs for Telling {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Telling")
    }
}

impl ExecutionPlan for Telling {
    fn name(&self) -> &str {
        "Telling"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.barrier.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.barrier]
    }

    fn apply_expressions(&self, _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(barrier) => Ok(Arc::new(Self { barrier, rows: self.rows })),
            None => internal_err!("one child"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.barrier.execute(partition, context)
    }

    fn partition_statistics(&self, _: Option<usize>) -> Result<Arc<Statistics>> {
        self.told()
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        self.told()
    }
}
