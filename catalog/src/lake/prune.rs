//! Which files of a snapshot can hold rows that a predicate wants: one vectorised evaluation over the bounds of all.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;

use super::snapshot::{ColumnBounds, LakeSnapshot};

/// An `IN` list becomes that many comparisons over the bounds. DataFusion's own limit of 20 is made for row groups,
/// which have bloom filters to fall back on.
const MAX_IN_LIST: usize = 256;

/// The files that may match, by index. Whatever cannot be judged stays.
pub(crate) fn prune(snapshot: &LakeSnapshot, schema: &SchemaRef, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Vec<usize> {
    let all = 0..snapshot.files.len();
    let Some(predicate) = predicate else { return all.collect() };
    let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).with_max_in_list_size(MAX_IN_LIST);
    let Some(pruning) = builder.build(Arc::clone(predicate)) else { return all.collect() };
    match pruning.prune(&Statistics(snapshot)) {
        Ok(keep) => all.zip(keep).filter_map(|(index, keep)| keep.then_some(index)).collect(),
        Err(error) => {
            // Such as a comparison that overflows on a bound: the rows themselves will say whether it matters.
            tracing::debug!(%error, "files are not pruned");
            all.collect()
        }
    }
}

struct Statistics<'a>(&'a LakeSnapshot);

impl Statistics<'_> {
    fn of(&self, column: &Column, part: impl Fn(&ColumnBounds) -> ArrayRef) -> Option<ArrayRef> {
        self.0.bounds.columns.get(column.name()).map(part)
    }
}

impl PruningStatistics for Statistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, |bounds| Arc::clone(&bounds.min))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, |bounds| Arc::clone(&bounds.max))
    }

    fn num_containers(&self) -> usize {
        self.0.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, |bounds| Arc::new(bounds.null_counts.clone()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        self.0.bounds.row_counts.clone().map(|counts| Arc::new(counts) as ArrayRef)
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
