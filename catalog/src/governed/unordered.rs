//! An aggregate of a window of which no order is told. DataFusion 55.2 takes `count(*) OVER (PARTITION BY g … ROWS BETWEEN 2
//! PRECEDING AND CURRENT ROW)` for sorted over all partitions, and the like of counts with NULLs, of the least and the greatest
//! value: `ORDER BY` that column sorts nothing then.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, GroupsAccumulator, ReversedUDAF, SetMonotonicity, WindowFunctionDefinition,
};

/// The aggregate that a function of a window is, if it is one.
pub fn aggregate_of_window(function: &AggregateUDF) -> &AggregateUDF {
    function.inner().downcast_ref::<Unordered>().map_or(function, |unordered| &unordered.inner)
}

/// The expression of a window that has no order of its own.
pub(super) fn unordered(mut expr: Expr) -> Expr {
    let inner = match &mut expr {
        Expr::Alias(alias) => {
            let inner = std::mem::replace(alias.expr.as_mut(), Expr::Literal(ScalarValue::Null, None));
            *alias.expr = unordered(inner);
            return expr;
        }
        Expr::WindowFunction(window) if !window.params.window_frame.is_ever_expanding() => window,
        _ => return expr,
    };
    if let WindowFunctionDefinition::AggregateUDF(function) = &inner.fun
        && function.inner().downcast_ref::<Unordered>().is_none()
    {
        let function = Unordered { inner: Arc::clone(function) };
        inner.fun = WindowFunctionDefinition::AggregateUDF(Arc::new(AggregateUDF::new_from_impl(function)));
    }
    expr
}

#[derive(Debug)]
struct Unordered {
    inner: Arc<AggregateUDF>,
}

impl PartialEq for Unordered {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Unordered {}

impl Hash for Unordered {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

#[deny(clippy::missing_trait_methods)]
impl AggregateUDFImpl for Unordered {
    fn set_monotonicity(&self, _: &DataType) -> SetMonotonicity {
        SetMonotonicity::NotMonotonic
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn with_beneficial_ordering(self: Arc<Self>, beneficial: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let ordered = self.inner.as_ref().clone().with_beneficial_ordering(beneficial)?;
        Ok(ordered.map(|inner| Arc::new(Self { inner: Arc::new(inner) }) as _))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_udf() {
            ReversedUDAF::Reversed(inner) => ReversedUDAF::Reversed(Arc::new(AggregateUDF::new_from_impl(Self { inner }))),
            other => other,
        }
    }

    crate::delegated_aggregate!();
}
