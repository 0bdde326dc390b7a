//! Which files of a snapshot can hold rows that a predicate wants: one vectorised evaluation over the bounds of all.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;

use super::snapshot::{ColumnBounds, LakeFile, LakeSnapshot};

/// An `IN` list becomes that many comparisons over the bounds. DataFusion's own limit of 20 is made for row groups,
/// which have bloom filters to fall back on.
const MAX_IN_LIST: usize = 256;

/// The files that may match, by index. Whatever cannot be judged stays.
pub(crate) fn prune(snapshot: &LakeSnapshot, schema: &SchemaRef, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Vec<usize> {
    let all = 0..snapshot.files.len();
    let Some(predicate) = predicate else { return all.collect() };
    let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).with_max_in_list_size(MAX_IN_LIST);
    let Some(pruning) = builder.build(Arc::clone(predicate)) else { return all.collect() };
    match pruning.prune(&Statistics { snapshot, schema }) {
        Ok(keep) => all.zip(keep).filter_map(|(index, keep)| keep.then_some(index)).collect(),
        Err(error) => {
            // Such as a comparison that overflows on a bound: the rows themselves will say whether it matters.
            tracing::debug!(%error, "files are not pruned");
            all.collect()
        }
    }
}

struct Statistics<'a> {
    snapshot: &'a LakeSnapshot,
    schema: &'a SchemaRef,
}

impl Statistics<'_> {
    fn bounds(&self, column: &Column) -> Option<&ColumnBounds> {
        self.snapshot.bounds.columns.get(column.name())
    }

    /// Minimum or maximum by file. A column may be constant in some files and read from others.
    fn values(&self, column: &Column, side: impl Fn(&ColumnBounds) -> &ArrayRef) -> Option<ArrayRef> {
        let bounds = self.bounds(column).map(side);
        let Some(constants) = self.constants(column) else { return bounds.cloned() };
        let data_type = self.schema.field_with_name(column.name()).ok()?.data_type();
        let null = ScalarValue::try_new_null(data_type).ok()?;
        let values = constants.iter().enumerate().map(|(file, constant)| match (constant, bounds) {
            (Some(value), _) => (*value).clone(),
            (None, Some(bounds)) => ScalarValue::try_from_array(bounds, file).unwrap_or_else(|_| null.clone()),
            (None, None) => null.clone(),
        });
        ScalarValue::iter_to_array(values).ok()
    }

    /// The column's constant by file, if it is constant in any.
    fn constants(&self, column: &Column) -> Option<Vec<Option<&ScalarValue>>> {
        let index = self.schema.index_of(column.name()).ok()?;
        let constants: Vec<_> = self.snapshot.files.iter().map(|file| constant(file, index)).collect();
        constants.iter().any(Option::is_some).then_some(constants)
    }

    fn rows(&self, file: usize) -> Option<u64> {
        self.snapshot.files.get(file)?.rows
    }
}

fn constant(file: &LakeFile, column: usize) -> Option<&ScalarValue> {
    let at = file.constants.binary_search_by_key(&column, |(index, _)| *index).ok()?;
    file.constants.get(at).map(|(_, value)| value)
}

impl PruningStatistics for Statistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |bounds| &bounds.min)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |bounds| &bounds.max)
    }

    fn num_containers(&self) -> usize {
        self.snapshot.files.len()
    }

    /// For a constant all rows or none; where the number of rows is unknown, so is this.
    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let bounds = self.bounds(column).map(|bounds| &bounds.null_counts);
        let Some(constants) = self.constants(column) else { return bounds.map(|counts| Arc::new(counts.clone()) as ArrayRef) };
        let counts = constants.iter().enumerate().map(|(file, constant)| match constant {
            Some(value) if value.is_null() => self.rows(file),
            Some(_) => Some(0),
            None => bounds.and_then(|counts| arrow::array::Array::is_valid(counts, file).then(|| counts.value(file))),
        });
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        if let Some(counts) = &self.snapshot.bounds.row_counts {
            return Some(Arc::new(counts.clone()));
        }
        Some(Arc::new(self.snapshot.files.iter().map(|file| file.rows).collect::<UInt64Array>()))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
