//! Plans as a reader may see them: of a restricted table its name and the columns that were asked for, and nothing below.

use std::fmt::Write as _;

use datafusion::common::tree_node::{TreeNodeRecursion, TreeNodeVisitor};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;

use super::barrier::SecurityBarrierExec;
use super::table::GovernedTable;

/// A physical plan, one node a line, indented. Never use DataFusion's own display for a client: it does not stop.
pub fn render_physical(plan: &dyn ExecutionPlan, with_metrics: bool) -> String {
    let mut text = String::new();
    let mut open = vec![(0, plan)];
    while let Some((depth, plan)) = open.pop() {
        let node = if with_metrics { DisplayableExecutionPlan::with_metrics(plan) } else { DisplayableExecutionPlan::new(plan) };
        line(&mut text, depth, &node.one_line().to_string());
        if !plan.is::<SecurityBarrierExec>() {
            open.extend(plan.children().into_iter().rev().map(|child| (depth + 1, child.as_ref())));
        }
    }
    text
}

/// A logical plan, one node a line, subqueries indented below their node.
pub fn render_logical(plan: &LogicalPlan) -> Result<String> {
    struct Lines {
        text: String,
        depth: usize,
    }
    impl<'n> TreeNodeVisitor<'n> for Lines {
        type Node = LogicalPlan;

        fn f_down(&mut self, node: &'n LogicalPlan) -> Result<TreeNodeRecursion> {
            line(&mut self.text, self.depth, &describe(node));
            self.depth += 1;
            Ok(TreeNodeRecursion::Continue)
        }

        fn f_up(&mut self, _node: &'n LogicalPlan) -> Result<TreeNodeRecursion> {
            self.depth -= 1;
            Ok(TreeNodeRecursion::Continue)
        }
    }
    let mut lines = Lines { text: String::new(), depth: 0 };
    plan.visit_with_subqueries(&mut lines)?;
    Ok(lines.text)
}

/// The rows of EXPLAIN: the kind of plan, and the plan.
pub fn render(logical: &LogicalPlan, physical: &dyn ExecutionPlan, with_metrics: bool) -> Result<Vec<(String, String)>> {
    let physical = render_physical(physical, with_metrics);
    if with_metrics {
        return Ok(vec![("Plan with Metrics".to_owned(), physical)]);
    }
    Ok(vec![("logical_plan".to_owned(), render_logical(logical)?), ("physical_plan".to_owned(), physical)])
}

fn describe(node: &LogicalPlan) -> String {
    let LogicalPlan::TableScan(scan) = node else { return node.display().to_string() };
    let unrestricted = source_as_provider(&scan.source)
        .is_ok_and(|provider| provider.downcast_ref::<GovernedTable>().is_none_or(|table| !table.is_restricted()));
    if unrestricted {
        return node.display().to_string();
    }
    let columns: Vec<&str> = scan.projected_schema.fields().iter().map(|field| field.name().as_str()).collect();
    format!("TableScan: {} projection=[{}]", scan.table_name, columns.join(", "))
}

fn line(text: &mut String, depth: usize, node: &str) {
    let node = node.trim_end().replace('\n', " ");
    let _ = writeln!(text, "{:indent$}{node}", "", indent = 2 * depth);
}
