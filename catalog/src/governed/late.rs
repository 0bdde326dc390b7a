//! Late materialisation, where it pays: a predicate that few rows meet is evaluated while a Parquet file is decoded, and the
//! other columns are decoded for those rows only.
//!
//! Parquet's row filter drops a predicate that it cannot build, so it never stands in for a filter: this rule comes after
//! filters have been pushed down, and those above the scan stay. What may fail stays there alone, with its own error.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{ColumnStatistics, Result, ScalarValue};
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, InListExpr, Literal};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

use super::leakproof::is_leakproof_physical;

/// Of the rows. Where more are met, decoding everything at once and filtering after is quicker.
const FEW: f64 = 0.03;

/// What is taken for the share of one value where bounds do not tell how many there are.
const SHARE_OF_A_TEXT: f64 = 0.1;
/// The same for texts with digits in both bounds: identifiers and codes.
const SHARE_OF_A_CODE: f64 = 0.001;

#[derive(Debug)]
pub struct LateMaterialization;

impl PhysicalOptimizerRule for LateMaterialization {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| Ok(late(&node).map_or_else(|| Transformed::no(Arc::clone(&node)), Transformed::yes))).map(|done| done.data)
    }

    fn name(&self) -> &str {
        "late_materialization"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn late(node: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let (config, source) = node.downcast_ref::<DataSourceExec>()?.downcast_to_file_source::<ParquetSource>()?;
    let predicate = source.filter()?;
    let parts = split_conjunction(&predicate);
    // A scan gets the same predicate from the table's reader and from the filter above.
    let mut distinct: Vec<&Arc<dyn PhysicalExpr>> = Vec::with_capacity(parts.len());
    for part in &parts {
        if !distinct.contains(part) {
            distinct.push(part);
        }
    }
    let (repeated, schema) = (distinct.len() < parts.len(), source.table_schema().table_schema());
    let mut safe = with_shares(distinct.iter().filter(|part| is_leakproof_physical(part, schema)).copied(), config);
    let filtered: HashSet<_> = safe.iter().flat_map(|(_, part)| collect_columns(part)).collect();
    let reads_more = source.projection()?.iter().any(|it| !collect_columns(&it.expr).iter().all(|column| filtered.contains(column)));
    // By one column alone: those of one query seldom know nothing of each other, so that their shares do not multiply.
    let is_late = reads_more && safe.iter().any(|(share, _)| *share < FEW);
    if !is_late && !repeated {
        return None;
    }
    if is_late {
        safe.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        distinct = safe.into_iter().map(|(_, part)| part).collect();
    }
    let source = source.with_predicate(conjunction(distinct.into_iter().map(Arc::clone)));
    let source = if is_late { pushed_down(source) } else { source };
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build();
    Some(DataSourceExec::from_data_source(config))
}

/// The predicate is evaluated while decoding. What one part of it has read is decoded again for the next and for the answer, of
/// the few rows that are left: to keep it, Parquet would decode all rows of each batch with one that is asked for.
fn pushed_down(source: ParquetSource) -> ParquetSource {
    let mut options = source.table_parquet_options().clone();
    options.global.max_predicate_cache_size = Some(0);
    source.with_table_parquet_options(options).with_pushdown_filters(true)
}

/// Which rows a predicate leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeavesOut {
    Below,
    Above,
    AllBut,
}

/// Predicates with the share of the rows that meet all those over the same column: of `a >= 3` and `a < 5`, both have that of
/// the range.
fn with_shares<'a>(
    predicates: impl Iterator<Item = &'a Arc<dyn PhysicalExpr>>,
    config: &FileScanConfig,
) -> Vec<(f64, &'a Arc<dyn PhysicalExpr>)> {
    let columns = |it| collect_columns(it).iter().map(Column::index).collect::<BTreeSet<_>>();
    let alone: Vec<_> = predicates.map(|it| (it, columns(it), share(it, config))).collect();
    let together = |columns: &BTreeSet<usize>| {
        let least = |what| {
            let shares = alone.iter().filter(|(_, others, (leaves, _))| others == columns && *leaves == what);
            shares.map(|(_, _, (_, share))| *share).fold(1.0, f64::min)
        };
        // What bounds leave out lies at the two ends, and does not overlap.
        least(LeavesOut::AllBut).min((least(LeavesOut::Below) + least(LeavesOut::Above) - 1.0).max(0.0))
    };
    alone.iter().map(|(it, columns, _)| (together(columns), *it)).collect()
}

/// Of the rows, that meet a predicate: an estimate where a column is compared with literals, else all.
fn share(predicate: &Arc<dyn PhysicalExpr>, config: &FileScanConfig) -> (LeavesOut, f64) {
    let all = (LeavesOut::AllBut, 1.0);
    if let Some(compared) = predicate.downcast_ref::<BinaryExpr>() {
        let (left, right) = (compared.left(), compared.right());
        let (column, literal, op) = match (left.downcast_ref::<Column>(), right.downcast_ref::<Column>()) {
            (Some(column), None) => (column, right.downcast_ref::<Literal>(), Some(*compared.op())),
            (None, Some(column)) => (column, left.downcast_ref::<Literal>(), compared.op().swap()),
            _ => return all,
        };
        let (Some(literal), Some(op)) = (literal, op) else { return all };
        let leaves = match op {
            Operator::Eq => return (LeavesOut::AllBut, mean(column, config, share_of_a_value)),
            Operator::Gt | Operator::GtEq => LeavesOut::Below,
            Operator::Lt | Operator::LtEq => LeavesOut::Above,
            _ => return all,
        };
        return (leaves, mean(column, config, |statistics| share_of_a_range(statistics, op, literal.value())));
    }
    let list = predicate.downcast_ref::<InListExpr>().filter(|list| !list.negated());
    match list.and_then(|list| Some((list.expr().downcast_ref::<Column>()?, list.list().len()))) {
        Some((column, values)) => (LeavesOut::AllBut, (values as f64 * mean(column, config, share_of_a_value)).min(1.0)),
        None => all,
    }
}

/// Over the rows of all files.
fn mean(column: &Column, config: &FileScanConfig, share: impl Fn(&ColumnStatistics) -> f64) -> f64 {
    let (mut met, mut all) = (0.0, 0.0);
    for file in config.file_groups.iter().flat_map(|group| group.files()) {
        let Some(statistics) = &file.statistics else { return 1.0 };
        let rows = statistics.num_rows.get_value().copied().unwrap_or_default() as f64;
        met += rows * statistics.column_statistics.get(column.index()).map_or(1.0, &share);
        all += rows;
    }
    if all > 0.0 { met / all } else { 1.0 }
}

fn share_of_a_value(statistics: &ColumnStatistics) -> f64 {
    let (Some(min), Some(max)) = (statistics.min_value.get_value(), statistics.max_value.get_value()) else { return 1.0 };
    if min == max {
        return 1.0;
    }
    match (min.distance(max), min.try_as_str().flatten(), max.try_as_str().flatten()) {
        (Some(distance), ..) => 1.0 / (1.0 + distance as f64),
        (None, Some(min), Some(max)) if has_digit(min) && has_digit(max) => SHARE_OF_A_CODE,
        (None, Some(_), Some(_)) => SHARE_OF_A_TEXT,
        _ => 1.0,
    }
}

/// As if values lay evenly between the bounds.
fn share_of_a_range(statistics: &ColumnStatistics, op: Operator, literal: &ScalarValue) -> f64 {
    let (Some(min), Some(max)) = (statistics.min_value.get_value(), statistics.max_value.get_value()) else { return 1.0 };
    // The shares of what is less, and of what is no more.
    let (less, upto) = match (literal.partial_cmp(min), literal.partial_cmp(max)) {
        (Some(Ordering::Less), _) => (0.0, 0.0),
        (_, Some(Ordering::Greater)) => (1.0, 1.0),
        _ => match (min.distance(literal), min.distance(max)) {
            (Some(part), Some(whole)) => (part as f64 / (1.0 + whole as f64), (1.0 + part as f64) / (1.0 + whole as f64)),
            _ => return 1.0,
        },
    };
    match op {
        Operator::Lt => less,
        Operator::LtEq => upto,
        Operator::Gt => 1.0 - upto,
        Operator::GtEq => 1.0 - less,
        _ => 1.0,
    }
}

fn has_digit(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::Statistics;
    use datafusion::common::stats::Precision;
    use datafusion::datasource::listing::PartitionedFile;
    use datafusion::datasource::object_store::ObjectStoreUrl;
    use datafusion::physical_expr::expressions::binary;
    use datafusion::physical_optimizer::PhysicalOptimizerRule;

    use super::*;

    fn between(min: ScalarValue, max: ScalarValue) -> ColumnStatistics {
        ColumnStatistics { min_value: Precision::Inexact(min), max_value: Precision::Inexact(max), ..ColumnStatistics::new_unknown() }
    }

    fn number(value: i32) -> ScalarValue {
        ScalarValue::Int32(Some(value))
    }

    #[test]
    fn bounds_tell_how_many_rows_have_a_value() {
        assert_eq!(share_of_a_value(&between(number(0), number(99))), 0.01);
        assert_eq!(share_of_a_value(&between(number(7), number(7))), 1.0);
        assert_eq!(share_of_a_value(&ColumnStatistics::new_unknown()), 1.0);
        assert_eq!(share_of_a_value(&between("P0001".into(), "P9999".into())), SHARE_OF_A_CODE);
        assert_eq!(share_of_a_value(&between("CASE".into(), "VACC".into())), SHARE_OF_A_TEXT);
    }

    #[test]
    fn bounds_tell_how_many_rows_are_in_a_range() {
        let share = |op, literal| share_of_a_range(&between(number(0), number(99)), op, &number(literal));
        assert_eq!((share(Operator::Lt, 25), share(Operator::LtEq, 24)), (0.25, 0.25));
        assert_eq!((share(Operator::GtEq, 75), share(Operator::Gt, 74)), (0.25, 0.25));
        assert_eq!((share(Operator::Lt, -1), share(Operator::GtEq, -1)), (0.0, 1.0));
        assert_eq!((share(Operator::LtEq, 100), share(Operator::Gt, 100)), (1.0, 0.0));
        assert_eq!(share(Operator::NotEq, 5), 1.0);
        assert_eq!(share_of_a_range(&between(number(7), number(7)), Operator::GtEq, &number(7)), 1.0);
        assert_eq!(share_of_a_range(&between(number(7), number(7)), Operator::Gt, &number(7)), 0.0);
    }

    /// A scan of two files of 100 rows each: `a` from 0 to 99 in the first and from 100 to 199 in the other, `b` and `c`.
    fn scan(conditions: &[(&str, Operator, i32)]) -> Arc<dyn ExecutionPlan> {
        let fields = ["a", "b", "c"].map(|name| Field::new(name, DataType::Int32, true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let compared = conditions.iter().map(|(name, op, value)| {
            let column = Arc::new(Column::new_with_schema(name, &schema).unwrap()) as _;
            binary(column, *op, Arc::new(Literal::new(number(*value))), &schema).unwrap()
        });
        let source = ParquetSource::new(Arc::clone(&schema)).with_predicate(conjunction(compared));
        let mut config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source));
        for (name, least) in [("1.parquet", 0), ("2.parquet", 100)] {
            let mut statistics = Statistics::new_unknown(&schema);
            statistics.num_rows = Precision::Exact(100);
            statistics.column_statistics[0] = between(number(least), number(least + 99));
            statistics.column_statistics[1] = between(number(0), number(9));
            config = config.with_file(PartitionedFile::new(name, 1000).with_statistics(Arc::new(statistics)));
        }
        DataSourceExec::from_data_source(config.build())
    }

    fn optimized(conditions: &[(&str, Operator, i32)]) -> (bool, String) {
        let plan = LateMaterialization.optimize(scan(conditions), &ConfigOptions::new()).unwrap();
        let source = plan.downcast_ref::<DataSourceExec>().unwrap().downcast_to_file_source::<ParquetSource>().unwrap().1;
        (source.table_parquet_options().global.pushdown_filters, source.filter().unwrap().to_string())
    }

    #[test]
    fn both_bounds_of_a_range_count() {
        let few = [("b", Operator::Eq, 3), ("a", Operator::GtEq, 150), ("a", Operator::Lt, 153)];
        assert_eq!(optimized(&few), (true, "a@0 >= 150 AND a@0 < 153 AND b@1 = 3".to_owned()));
        let many = [("b", Operator::Eq, 3), ("a", Operator::GtEq, 150), ("a", Operator::Lt, 163)];
        assert!(!optimized(&many).0);
        assert!(!optimized(&[("b", Operator::Eq, 3), ("a", Operator::GtEq, 150)]).0);
        // Of two bounds on one side, the one that leaves out more.
        assert!(!optimized(&[("b", Operator::Eq, 3), ("a", Operator::GtEq, 150), ("a", Operator::Gt, 100)]).0);
    }

    #[test]
    fn a_predicate_over_all_that_is_read_is_not_late() {
        let (a, b) = (("a", Operator::Eq, 3), ("b", Operator::Eq, 3));
        assert!(optimized(&[a, b]).0);
        assert!(!optimized(&[a, b, ("c", Operator::Eq, 3)]).0);
    }
}
