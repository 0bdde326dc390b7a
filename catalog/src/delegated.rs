//! What an aggregate that wraps another one, as `inner`, leaves to it. The accumulators, `with_beneficial_ordering`,
//! `reverse_expr` and `set_monotonicity` are for the wrapper to say; `#[deny(clippy::missing_trait_methods)]` sees to it.

#[doc(hidden)]
pub use arrow::datatypes::{DataType, FieldRef};
#[doc(hidden)]
pub use datafusion::common::{Result, ScalarValue};
#[doc(hidden)]
pub use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, WindowFunctionParams};
#[doc(hidden)]
pub use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
#[doc(hidden)]
pub use datafusion::logical_expr::utils::AggregateOrderSensitivity;
#[doc(hidden)]
pub use datafusion::logical_expr::{Documentation, Expr, Operator, Signature, StatisticsArgs};

/// Within `impl AggregateUDFImpl`, of a type with an `inner: Arc<AggregateUDF>`.
#[macro_export]
macro_rules! delegated_aggregate {
    () => {
        fn name(&self) -> &str {
            self.inner.name()
        }

        fn aliases(&self) -> &[String] {
            self.inner.aliases()
        }

        fn schema_name(&self, params: &$crate::delegated::AggregateFunctionParams) -> $crate::delegated::Result<String> {
            self.inner.schema_name(params)
        }

        fn human_display(&self, params: &$crate::delegated::AggregateFunctionParams) -> $crate::delegated::Result<String> {
            self.inner.human_display(params)
        }

        fn window_function_schema_name(&self, params: &$crate::delegated::WindowFunctionParams) -> $crate::delegated::Result<String> {
            self.inner.window_function_schema_name(params)
        }

        fn display_name(&self, params: &$crate::delegated::AggregateFunctionParams) -> $crate::delegated::Result<String> {
            self.inner.display_name(params)
        }

        fn window_function_display_name(&self, params: &$crate::delegated::WindowFunctionParams) -> $crate::delegated::Result<String> {
            self.inner.window_function_display_name(params)
        }

        fn signature(&self) -> &$crate::delegated::Signature {
            self.inner.signature()
        }

        fn return_type(&self, types: &[$crate::delegated::DataType]) -> $crate::delegated::Result<$crate::delegated::DataType> {
            self.inner.return_type(types)
        }

        fn return_field(&self, fields: &[$crate::delegated::FieldRef]) -> $crate::delegated::Result<$crate::delegated::FieldRef> {
            self.inner.return_field(fields)
        }

        fn is_nullable(&self) -> bool {
            self.inner.is_nullable()
        }

        fn state_fields(
            &self,
            args: $crate::delegated::StateFieldsArgs<'_>,
        ) -> $crate::delegated::Result<Vec<$crate::delegated::FieldRef>> {
            self.inner.state_fields(args)
        }

        fn groups_accumulator_supported(&self, args: $crate::delegated::AccumulatorArgs<'_>) -> bool {
            self.inner.groups_accumulator_supported(args)
        }

        fn order_sensitivity(&self) -> $crate::delegated::AggregateOrderSensitivity {
            self.inner.order_sensitivity()
        }

        fn simplify(&self) -> Option<$crate::delegated::AggregateFunctionSimplification> {
            self.inner.simplify()
        }

        fn simplify_expr_op_literal(
            &self,
            function: &$crate::delegated::AggregateFunction,
            arg: &$crate::delegated::Expr,
            op: $crate::delegated::Operator,
            literal: &$crate::delegated::Expr,
            arg_is_left: bool,
        ) -> $crate::delegated::Result<Option<$crate::delegated::Expr>> {
            self.inner.simplify_expr_op_literal(function, arg, op, literal, arg_is_left)
        }

        fn coerce_types(&self, types: &[$crate::delegated::DataType]) -> $crate::delegated::Result<Vec<$crate::delegated::DataType>> {
            self.inner.coerce_types(types)
        }

        fn is_descending(&self) -> Option<bool> {
            self.inner.is_descending()
        }

        fn value_from_stats(&self, statistics: &$crate::delegated::StatisticsArgs<'_>) -> Option<$crate::delegated::ScalarValue> {
            self.inner.value_from_stats(statistics)
        }

        fn default_value(&self, data_type: &$crate::delegated::DataType) -> $crate::delegated::Result<$crate::delegated::ScalarValue> {
            self.inner.default_value(data_type)
        }

        fn supports_null_handling_clause(&self) -> bool {
            self.inner.supports_null_handling_clause()
        }

        fn supports_within_group_clause(&self) -> bool {
            self.inner.supports_within_group_clause()
        }

        fn documentation(&self) -> Option<&$crate::delegated::Documentation> {
            self.inner.documentation()
        }
    };
}
