//! `sum` of integers and decimals that raises an error where the result does not fit. All other types are DataFusion's.

use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowNumericType, AsArray, BooleanArray, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::compute::sum_checked;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, DecimalType, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator, ReversedUDAF, SetMonotonicity, Signature,
    StatisticsArgs,
};
use datafusion::physical_expr::NullState;

use super::arithmetic::out_of_range;

#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct CheckedSum {
    inner: Sum,
}

/// Calls the macro with the Arrow type of a sum that is checked, or gives the other expression.
macro_rules! checked {
    ($data_type:expr, $make:ident, $other:expr) => {
        match $data_type {
            DataType::Int64 => $make!(Int64Type),
            DataType::UInt64 => $make!(UInt64Type),
            DataType::Decimal128(_, _) => $make!(Decimal128Type),
            DataType::Decimal256(_, _) => $make!(Decimal256Type),
            _ => $other,
        }
    };
}

impl AggregateUDFImpl for CheckedSum {
    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return self.inner.accumulator(args);
        }
        macro_rules! make {
            ($t:ty) => {
                Ok(Box::new(Adding::<$t>::new(args.return_field.data_type())))
            };
        }
        checked!(args.return_field.data_type(), make, self.inner.accumulator(args))
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        macro_rules! make {
            ($t:ty) => {
                Ok(Box::new(AddingGroups::<$t>::new(args.return_field.data_type())))
            };
        }
        checked!(args.return_field.data_type(), make, self.inner.create_groups_accumulator(args))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return self.inner.create_sliding_accumulator(args);
        }
        macro_rules! make {
            ($t:ty) => {
                Ok(Box::new(Adding::<$t>::new(args.return_field.data_type())))
            };
        }
        checked!(args.return_field.data_type(), make, self.inner.create_sliding_accumulator(args))
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        arg: &Expr,
        op: Operator,
        literal: &Expr,
        arg_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.inner.simplify_expr_op_literal(function, arg, op, literal, arg_is_left)
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.inner.value_from_stats(statistics)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// Digits count for a decimal, not only bits.
fn check_digits<T: ArrowNumericType>(values: &PrimitiveArray<T>, data_type: &DataType) -> Result<()> {
    let fits = match data_type {
        DataType::Decimal128(precision, _) => all_fit::<Decimal128Type>(values, *precision),
        DataType::Decimal256(precision, _) => all_fit::<Decimal256Type>(values, *precision),
        _ => true,
    };
    if fits { Ok(()) } else { Err(out_of_range(data_type)) }
}

fn all_fit<T: DecimalType>(values: &dyn Array, precision: u8) -> bool {
    values.as_primitive_opt::<T>().is_none_or(|values| values.validate_decimal_precision(precision).is_ok())
}

/// The sum without groups, and of a window.
#[derive(Debug)]
struct Adding<T: ArrowNumericType> {
    sum: T::Native,
    /// Values that are in the sum: without any, it is NULL.
    count: u64,
    data_type: DataType,
}

impl<T: ArrowNumericType> Adding<T> {
    fn new(data_type: &DataType) -> Self {
        Self { sum: T::Native::ZERO, count: 0, data_type: data_type.clone() }
    }

    fn of(&self, values: &[ArrayRef]) -> Result<Option<(T::Native, u64)>> {
        let Some(values) = values.first().map(|values| values.as_primitive::<T>()) else { return Ok(None) };
        let sum = sum_checked(values).map_err(|_| out_of_range(&self.data_type))?;
        Ok(sum.map(|sum| (sum, (values.len() - values.null_count()) as u64)))
    }
}

impl<T: ArrowNumericType + std::fmt::Debug> Accumulator for Adding<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if let Some((sum, count)) = self.of(values)? {
            self.sum = self.sum.add_checked(sum).map_err(|_| out_of_range(&self.data_type))?;
            self.count += count;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if let Some((sum, count)) = self.of(values)? {
            self.sum = self.sum.sub_checked(sum).map_err(|_| out_of_range(&self.data_type))?;
            self.count -= count;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = (self.count > 0).then_some(self.sum);
        let array = PrimitiveArray::<T>::from_iter([sum]).with_data_type(self.data_type.clone());
        check_digits(&array, &self.data_type)?;
        ScalarValue::try_from_array(&array, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sums of groups.
struct AddingGroups<T: ArrowNumericType> {
    sums: Vec<T::Native>,
    /// Groups with a value that is not NULL.
    seen: NullState,
    data_type: DataType,
}

impl<T: ArrowNumericType> AddingGroups<T> {
    fn new(data_type: &DataType) -> Self {
        Self { sums: Vec::new(), seen: NullState::new(), data_type: data_type.clone() }
    }
}

impl<T: ArrowNumericType + Send> GroupsAccumulator for AddingGroups<T> {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total_groups: usize) -> Result<()> {
        self.sums.resize(total_groups, T::Native::ZERO);
        let Some(values) = values.first().map(|values| values.as_primitive::<T>()) else { return Ok(()) };
        let (sums, mut fits) = (&mut self.sums, true);
        self.seen.accumulate(groups, values, filter, total_groups, |group, value| {
            let added = sums.get_mut(group).map(|sum| sum.add_checked(value).map(|total| *sum = total));
            fits &= matches!(added, Some(Ok(())));
        });
        if fits { Ok(()) } else { Err(out_of_range(&self.data_type)) }
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total_groups: usize) -> Result<()> {
        self.update_batch(values, groups, None, total_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let nulls = self.seen.build(emit_to);
        let array = PrimitiveArray::<T>::new(sums.into(), nulls).with_data_type(self.data_type.clone());
        check_digits(&array, &self.data_type)?;
        Ok(Arc::new(array))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let Some(values) = values.first().map(|values| values.as_primitive::<T>()) else { return Ok(Vec::new()) };
        let kept = filter.map(|filter| (0..filter.len()).map(|row| filter.is_valid(row) && filter.value(row)).collect::<NullBuffer>());
        let nulls = NullBuffer::union(values.nulls(), kept.as_ref());
        let state = PrimitiveArray::<T>::new(values.values().clone(), nulls).with_data_type(self.data_type.clone());
        Ok(vec![Arc::new(state)])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<T::Native>() + self.seen.size()
    }
}
