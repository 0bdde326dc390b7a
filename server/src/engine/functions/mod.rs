//! Functions and operators that are not quite DataFusion's: numbers that do not fit are errors, and what would need more
//! memory than the query has is refused before it is made.
//!
//! They are put in where a statement is analysed, so that views have them too. The expressions of policies are not
//! touched: they run on hidden rows, where nothing more may fail than does.

mod arithmetic;
mod gathered;
mod growth;
mod subqueries;
mod sum;

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{AggregateUDF, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use lazaret_catalog::governed::is_of_policy;

use super::memory::Budget;
pub use arithmetic::out_of_range;
pub use growth::scalar_bytes;
pub use subqueries::SubqueryValues;
pub use sum::CheckedSum;

/// What does not depend on a statement; for the template of all.
pub fn register_aggregates(state: &mut SessionState) -> Result<()> {
    state.register_udaf(Arc::new(AggregateUDF::new_from_impl(sum::CheckedSum::default())))?;
    // They tell how and where a table is stored.
    for name in ["input_file_name", "file_row_index"] {
        state.deregister_udf(name)?;
    }
    for name in gathered::NAMES {
        let inner = state.udaf(name)?;
        state.register_udaf(Arc::new(AggregateUDF::new_from_impl(gathered::Gathered::new(inner))))?;
    }
    Ok(())
}

/// Binds the functions of one statement to its memory.
pub fn bind(state: &mut SessionState, budget: &Arc<Budget>) -> Result<()> {
    // By name as well: the arguments of a table function are evaluated before anything is analysed.
    for name in growth::NAMES {
        let inner = state.udf(name)?;
        state.register_udf(growth::bounded(&inner, budget))?;
    }
    state.add_analyzer_rule(Arc::new(OurFunctions { budget: Arc::clone(budget) }));
    Ok(())
}

/// Runs after the types are settled.
#[derive(Debug)]
struct OurFunctions {
    budget: Arc<Budget>,
}

impl AnalyzerRule for OurFunctions {
    fn name(&self) -> &str {
        "our_functions"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let of_policy = is_of_policy(&plan)?;
        let analysed = plan.transform_up_with_subqueries(|node| {
            let schema = match &node {
                LogicalPlan::TableScan(scan) => DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?,
                other => merge_schema(&other.inputs()),
            };
            let names = NamePreserver::new(&node);
            let rewritten = node.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = expr.transform_up(|expr| {
                    let checked = if of_policy { Transformed::no(expr) } else { arithmetic::checked(expr, &schema, &self.budget)? };
                    checked.transform_data(|expr| growth::bound_expr(expr, &self.budget))
                })?;
                Ok(if rewritten.transformed { rewritten.update_data(|expr| name.restore(expr)) } else { rewritten })
            })?;
            if rewritten.transformed { Ok(Transformed::yes(rewritten.data.recompute_schema()?)) } else { Ok(rewritten) }
        })?;
        Ok(analysed.data)
    }
}
