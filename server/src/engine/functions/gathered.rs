//! Aggregates that keep every value they are given. DataFusion counts the views of a text and not the text behind them.

use std::hash::{Hash, Hasher};
use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity};

use crate::engine::size::bytes_behind_views;

pub const NAMES: [&str; 2] = ["array_agg", "string_agg"];

/// An aggregate with the bytes of what it was given added to its size.
#[derive(Debug)]
pub struct Gathered {
    inner: Arc<AggregateUDF>,
}

impl Gathered {
    pub fn new(inner: Arc<AggregateUDF>) -> Self {
        Self { inner }
    }

    fn wrap(inner: AggregateUDF) -> AggregateUDF {
        AggregateUDF::new_from_impl(Self::new(Arc::new(inner)))
    }
}

impl PartialEq for Gathered {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Gathered {}

impl Hash for Gathered {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

#[deny(clippy::missing_trait_methods)]
impl AggregateUDFImpl for Gathered {
    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Gathering { inner: self.inner.accumulator(args)?, behind_views: 0 }))
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(GatheringGroups { inner: self.inner.create_groups_accumulator(args)?, behind_views: 0 }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn with_beneficial_ordering(self: Arc<Self>, beneficial: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let ordered = self.inner.as_ref().clone().with_beneficial_ordering(beneficial)?;
        Ok(ordered.map(|inner| Arc::new(Self::new(Arc::new(inner))) as _))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_udf() {
            ReversedUDAF::Reversed(inner) => ReversedUDAF::Reversed(Arc::new(Self::wrap(Arc::unwrap_or_clone(inner)))),
            other => other,
        }
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }

    lazaret_catalog::delegated_aggregate!();
}

fn behind_views(arrays: &[ArrayRef]) -> usize {
    arrays.iter().map(|array| bytes_behind_views(array)).sum()
}

#[derive(Debug)]
struct Gathering {
    inner: Box<dyn Accumulator>,
    behind_views: usize,
}

#[deny(clippy::missing_trait_methods)]
impl Accumulator for Gathering {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.behind_views += behind_views(values);
        self.inner.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.behind_views += behind_views(states);
        self.inner.merge_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size() + self.behind_views
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.inner.evaluate()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.behind_views = self.behind_views.saturating_sub(behind_views(values));
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

struct GatheringGroups {
    inner: Box<dyn GroupsAccumulator>,
    behind_views: usize,
}

impl GatheringGroups {
    fn gave(&mut self, emitted: EmitTo, arrays: &[ArrayRef]) {
        self.behind_views = match emitted {
            EmitTo::All => 0,
            EmitTo::First(_) => self.behind_views.saturating_sub(behind_views(arrays)),
        };
    }
}

#[deny(clippy::missing_trait_methods)]
impl GroupsAccumulator for GatheringGroups {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total_groups: usize) -> Result<()> {
        self.behind_views += behind_views(values);
        self.inner.update_batch(values, groups, filter, total_groups)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total_groups: usize) -> Result<()> {
        self.behind_views += behind_views(values);
        self.inner.merge_batch(values, groups, total_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let array = self.inner.evaluate(emit_to)?;
        self.gave(emit_to, std::slice::from_ref(&array));
        Ok(array)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let arrays = self.inner.state(emit_to)?;
        self.gave(emit_to, &arrays);
        Ok(arrays)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.inner.size() + self.behind_views
    }
}
