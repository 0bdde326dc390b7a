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
        line(&mut text, depth, &without_paths(&node.one_line().to_string()));
        if !plan.is::<SecurityBarrierExec>() {
            open.extend(plan.children().into_iter().rev().map(|child| (depth + 1, child.as_ref())));
        }
    }
    text
}

/// Where the files lie is for those who manage the table, and how long a node waited for what is below a barrier for nobody.
fn without_paths(node: &str) -> String {
    const FILES: &str = "file_groups={";
    let node = match node.find(FILES).map(|start| start + FILES.len()).and_then(|start| Some((start, start + node[start..].rfind("]}")?))) {
        Some((start, end)) => {
            let groups = &node[start..end];
            let count = groups.split_once(':').map_or("", |(count, _)| count);
            format!("{}{count}{}", &node[..start], &node[end + 1..])
        }
        None => node.to_owned(),
    };
    match node.find("fetch_time=") {
        Some(start) => {
            let end = node[start..].find(", ").map_or(node.len(), |end| start + end + 2);
            format!("{}{}", &node[..start], &node[end..])
        }
        None => node,
    }
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
    let mut text = format!("TableScan: {} projection=[{}]", scan.table_name, columns.join(", "));
    // The reader's own, which the barrier evaluates.
    let filters: Vec<String> = scan.filters.iter().map(ToString::to_string).collect();
    if !filters.is_empty() {
        let _ = write!(text, ", full_filters=[{}]", filters.join(", "));
    }
    text
}

fn line(text: &mut String, depth: usize, node: &str) {
    let node = node.trim_end().replace('\n', " ");
    let _ = writeln!(text, "{:indent$}{node}", "", indent = 2 * depth);
}

#[cfg(test)]
mod tests {
    use super::without_paths;

    #[test]
    fn files_are_counted_and_not_named() {
        let node = "DataSourceExec: file_groups={2 groups: [[srv/a]}b.parquet:0..10], [srv/c.parquet]]}, projection=[a], limit=1";
        assert_eq!(without_paths(node), "DataSourceExec: file_groups={2 groups}, projection=[a], limit=1");
        let node = "RepartitionExec: metrics=[output_rows=1, fetch_time=4.2ms, repartition_time=1ns]";
        assert_eq!(without_paths(node), "RepartitionExec: metrics=[output_rows=1, repartition_time=1ns]");
        assert_eq!(without_paths("FilterExec: a@0 > 1"), "FilterExec: a@0 > 1");
    }
}
