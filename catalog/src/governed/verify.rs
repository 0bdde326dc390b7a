//! The last look at a plan before it runs. Everything here has been made true elsewhere already; a plan for which it does
//! not hold is a defect of ours and must not run.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::functions_table::generate_series::GenerateSeriesTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::work_table::WorkTableExec;
use parking_lot::Mutex;

use super::barrier::SecurityBarrierExec;
use super::masks::MaskExec;
use super::table::GovernedTable;

/// A plan that is not governed as it must be. Internal: it names no table to a client.
#[derive(Debug, thiserror::Error)]
pub enum Ungoverned {
    #[error("the plan holds {0}, which did not come from the statement's namespace")]
    ForeignNode(String),
    #[error("the plan reads {0} without a barrier")]
    OpenScan(String),
    #[error("the plan reads {0} without its masks")]
    Unmasked(String),
    #[error("the plan cannot be checked")]
    Unchecked(#[source] DataFusionError),
}

impl From<Ungoverned> for DataFusionError {
    fn from(error: Ungoverned) -> Self {
        Self::External(Box::new(error))
    }
}

/// Which leaves of one statement's plans may be read as they are, and which only below a barrier. A leaf is known by the
/// schema object of its source, which every rewriting of the leaf shares.
#[derive(Debug, Default)]
pub struct Leaves {
    open: Mutex<Vec<SchemaRef>>,
    closed: Mutex<Vec<SchemaRef>>,
    /// With the columns that no node but a mask may read.
    masked: Mutex<Vec<(SchemaRef, Arc<BTreeSet<String>>)>>,
}

impl Leaves {
    /// The scan of an unrestricted table.
    pub(crate) fn admit(&self, plan: &Arc<dyn ExecutionPlan>) {
        visit_leaves(plan.as_ref(), &mut |leaf| self.open.lock().push(identity(leaf)));
    }

    /// The scan of a restricted table, before its barrier closes it.
    pub(crate) fn close(&self, plan: &Arc<dyn ExecutionPlan>) {
        visit_leaves(plan.as_ref(), &mut |leaf| self.closed.lock().push(identity(leaf)));
    }

    /// Of the scan of a restricted table, the columns that are masked.
    pub(crate) fn mask(&self, plan: &Arc<dyn ExecutionPlan>, columns: &Arc<BTreeSet<String>>) {
        if !columns.is_empty() {
            visit_leaves(plan.as_ref(), &mut |leaf| self.masked.lock().push((identity(leaf), Arc::clone(columns))));
        }
    }

    /// Whether every column of the leaf that must be masked is, by the mask above it.
    fn is_covered(&self, leaf: &dyn ExecutionPlan, mask: Option<&MaskExec>) -> bool {
        let identity = identity(leaf);
        let masked = self.masked.lock();
        masked.iter().filter(|(it, _)| Arc::ptr_eq(it, &identity)).all(|(_, columns)| mask.is_some_and(|mask| mask.covers(columns)))
    }

    fn may_be_open(&self, leaf: &dyn ExecutionPlan) -> bool {
        let identity = identity(leaf);
        let holds = |leaves: &Mutex<Vec<SchemaRef>>| leaves.lock().iter().any(|it| Arc::ptr_eq(it, &identity));
        !holds(&self.closed) && (has_no_table(leaf) || holds(&self.open))
    }
}

/// Every table of a logical plan, those in subqueries too, was handed out by the namespace that owns `leaves`.
pub fn verify_logical(plan: &LogicalPlan, leaves: &Arc<Leaves>) -> Result<(), Ungoverned> {
    let mut foreign = None;
    plan.apply_with_subqueries(|node| {
        let fine = match node {
            LogicalPlan::TableScan(scan) => source_as_provider(&scan.source).is_ok_and(|provider| {
                let provider = provider.as_ref();
                match provider.downcast_ref::<GovernedTable>() {
                    Some(table) => table.belongs_to(leaves),
                    None => provider.is::<GenerateSeriesTable>() || provider.is::<CteWorkTable>(),
                }
            }),
            LogicalPlan::Extension(extension) => !extension.node.inputs().is_empty(),
            // Not queries: they show plans or change things, each in a way of ours.
            LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_) => false,
            LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_) => false,
            _ => true,
        };
        if !fine {
            foreign = Some(node.display().to_string());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(Ungoverned::Unchecked)?;
    foreign.map_or(Ok(()), |node| Err(Ungoverned::ForeignNode(node)))
}

/// No leaf of a restricted table, and none that nobody vouched for, can be reached without passing a barrier.
pub fn verify_physical(plan: &dyn ExecutionPlan, leaves: &Leaves) -> Result<(), Ungoverned> {
    let mut open = None;
    visit_leaves(plan, &mut |leaf| {
        if !leaves.may_be_open(leaf) {
            open.get_or_insert_with(|| leaf.name().to_owned());
        }
    });
    open.map_or(Ok(()), |leaf| Err(Ungoverned::OpenScan(leaf)))?;
    verify_masks(plan, leaves)
}

/// Below every barrier of a masked table, those inside views too, a mask stands over every leaf.
fn verify_masks(plan: &dyn ExecutionPlan, leaves: &Leaves) -> Result<(), Ungoverned> {
    let nothing = Arc::new(BTreeSet::new());
    let mut open = vec![(plan, &nothing, None)];
    while let Some((plan, required, mask)) = open.pop() {
        let (required, mask) = match plan.downcast_ref::<SecurityBarrierExec>() {
            Some(barrier) => (barrier.masked(), None),
            None => (required, plan.downcast_ref::<MaskExec>().or(mask)),
        };
        let children = plan.children();
        let by_barrier = required.is_empty() || plan.is::<EmptyExec>() || mask.is_some_and(|mask: &MaskExec| mask.covers(required));
        if children.is_empty() && !(by_barrier && leaves.is_covered(plan, mask)) {
            return Err(Ungoverned::Unmasked(plan.name().to_owned()));
        }
        open.extend(children.into_iter().map(|child| (child.as_ref(), required, mask)));
    }
    Ok(())
}

fn visit_leaves(plan: &dyn ExecutionPlan, visit: &mut dyn FnMut(&dyn ExecutionPlan)) {
    let mut open = vec![plan];
    while let Some(plan) = open.pop() {
        if plan.is::<SecurityBarrierExec>() {
            continue;
        }
        let children = plan.children();
        // These two write down the plan below them, barriers or not.
        if children.is_empty() || plan.is::<AnalyzeExec>() || plan.is::<ExplainExec>() {
            visit(plan);
        }
        open.extend(children.into_iter().map(Arc::as_ref));
    }
}

fn identity(leaf: &dyn ExecutionPlan) -> SchemaRef {
    let source = leaf.downcast_ref::<DataSourceExec>().map(|leaf| leaf.data_source());
    match source {
        Some(source) => match (source.downcast_ref::<FileScanConfig>(), source.downcast_ref::<MemorySourceConfig>()) {
            (Some(files), _) => Arc::clone(files.file_source().table_schema().table_schema()),
            (_, Some(memory)) => memory.original_schema(),
            _ => leaf.schema(),
        },
        None => leaf.schema(),
    }
}

/// Leaves that DataFusion makes itself: no rows, one row, VALUES, `generate_series`, the work table of a recursive query.
fn has_no_table(leaf: &dyn ExecutionPlan) -> bool {
    let values = leaf.downcast_ref::<DataSourceExec>().is_some_and(|leaf| leaf.data_source().is::<MemorySourceConfig>());
    values || leaf.is::<EmptyExec>() || leaf.is::<PlaceholderRowExec>() || leaf.is::<WorkTableExec>() || leaf.is::<LazyMemoryExec>()
}
