//! `+`, `-` and `*` of integers and decimals that raise an error where the result does not fit, and `||` of texts within
//! the query's memory.

use std::cell::Cell;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array};
use arrow::compute::binary;
use arrow::compute::kernels::numeric::{add, mul, neg, sub};
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal128Type, Decimal256Type, Field, FieldRef, Schema,
};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr as PhysicalBinary, Column, Literal};
use datafusion::physical_expr_common::datum::apply;

use super::growth::{total_bytes, value_bytes};
use crate::engine::memory::Budget;
use crate::sql::types::sql_type;

/// The checked operator in place of DataFusion's, where its result may not fit.
pub fn checked(expr: Expr, schema: &DFSchema, budget: &Arc<Budget>) -> Result<Transformed<Expr>> {
    let op = match &expr {
        Expr::Negative(inner) if can_overflow(&expr, &inner.get_type(schema)?, schema) => Op::Negate,
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus | Operator::Multiply), right }) => {
            let (left, right) = (left.get_type(schema)?, right.get_type(schema)?);
            let same = (left.is_integer() && right.is_integer()) || (left.is_decimal() && right.is_decimal());
            let result = if same { BinaryTypeCoercer::new(&left, op, &right).get_result_type()? } else { DataType::Null };
            match (same && can_overflow(&expr, &result, schema), op) {
                (false, _) => return Ok(Transformed::no(expr)),
                (true, Operator::Plus) => Op::Add,
                (true, Operator::Minus) => Op::Subtract,
                (true, _) => Op::Multiply,
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
            let text = |expr: &Expr| expr.get_type(schema).map(|it| it.is_string() || it == DataType::Null);
            if text(left)? && text(right)? { Op::Concat } else { return Ok(Transformed::no(expr)) }
        }
        _ => return Ok(Transformed::no(expr)),
    };
    let args = match expr {
        Expr::Negative(inner) => vec![*inner],
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) => vec![*left, *right],
        other => return Ok(Transformed::no(other)),
    };
    let operator = Checked { op, signature: Signature::any(args.len(), Volatility::Immutable), budget: Shared(Arc::clone(budget)) };
    Ok(Transformed::yes(ScalarUDF::new_from_impl(operator).call(args)))
}

/// Whether the type of the result leaves room for doubt. `CAST(a AS BIGINT) + 1` of a SMALLINT does not, and stays what
/// optimizers know.
fn can_overflow(expr: &Expr, result: &DataType, schema: &DFSchema) -> bool {
    match result {
        // Below the largest precision the type of the result has a digit for the carry.
        DataType::Decimal128(precision, _) => *precision == DECIMAL128_MAX_PRECISION && !matches!(expr, Expr::Negative(_)),
        DataType::Decimal256(precision, _) => *precision == DECIMAL256_MAX_PRECISION && !matches!(expr, Expr::Negative(_)),
        _ => match (bits_of(result), magnitude(expr, schema)) {
            (Some(room), Some(needed)) => needed > room,
            (Some(_), None) => true,
            (None, _) => false,
        },
    }
}

/// Bits of the largest magnitude of an integer type.
fn bits_of(data_type: &DataType) -> Option<u32> {
    match data_type {
        DataType::Int8 => Some(7),
        DataType::UInt8 => Some(8),
        DataType::Int16 => Some(15),
        DataType::UInt16 => Some(16),
        DataType::Int32 => Some(31),
        DataType::UInt32 => Some(32),
        DataType::Int64 => Some(63),
        DataType::UInt64 => Some(64),
        _ => None,
    }
}

/// An upper bound of the bits that the magnitude of an integer expression takes. Any negative number of a type counts as
/// one bit more: its smallest has no counterpart.
fn magnitude(expr: &Expr, schema: &DFSchema) -> Option<u32> {
    let of_type = |expr: &Expr| bits_of(&expr.get_type(schema).ok()?).map(|bits| bits + 1);
    match expr {
        Expr::Literal(value, _) if value.data_type().is_integer() => match value.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(Some(number)) => Some(64 - number.unsigned_abs().leading_zeros()),
            ScalarValue::Int64(None) => Some(0),
            _ => None,
        },
        Expr::Alias(alias) => magnitude(&alias.expr, schema),
        Expr::Cast(cast) => match magnitude(&cast.expr, schema) {
            Some(inner) => Some(inner.min(bits_of(cast.field.data_type())? + 1)),
            None => of_type(expr),
        },
        Expr::Negative(inner) => magnitude(inner, schema),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (left, right) = (magnitude(left, schema)?, magnitude(right, schema)?);
            match op {
                Operator::Plus | Operator::Minus => Some(left.max(right) + 1),
                Operator::Multiply => Some(left + right),
                _ => of_type(expr),
            }
        }
        _ => of_type(expr),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Add,
    Subtract,
    Multiply,
    Negate,
    Concat,
}

impl Op {
    fn binary(self) -> Option<Operator> {
        match self {
            Self::Add => Some(Operator::Plus),
            Self::Subtract => Some(Operator::Minus),
            Self::Multiply => Some(Operator::Multiply),
            Self::Concat => Some(Operator::StringConcat),
            Self::Negate => None,
        }
    }
}

/// The same for two operators of one statement; it is no part of what an operator means.
#[derive(Clone, Debug)]
struct Shared(Arc<Budget>);

impl PartialEq for Shared {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Shared {}

impl std::hash::Hash for Shared {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    op: Op,
    signature: Signature,
    budget: Shared,
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match self.op {
            Op::Add => "+",
            Op::Subtract | Op::Negate => "-",
            Op::Multiply => "*",
            Op::Concat => "||",
        }
    }

    /// What the column was called before.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(match args {
            [left, right] => format!("{} {} {}", left.schema_name(), self.name(), right.schema_name()),
            args => format!("(- {})", args.first().map(|arg| arg.schema_name().to_string()).unwrap_or_default()),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (self.op.binary(), types) {
            (Some(op), [left, right]) => BinaryTypeCoercer::new(left, &op, right).get_result_type(),
            (None, [inner]) => Ok(inner.clone()),
            _ => internal_err!("an operator with {} operands", types.len()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let wanted = args.return_field.data_type();
        let result = match (self.op, args.args.as_slice()) {
            (Op::Multiply, [ColumnarValue::Array(left), ColumnarValue::Array(right)])
                if let Some(product) = small_product(left, right, wanted) =>
            {
                return Ok(ColumnarValue::Array(Arc::new(product)));
            }
            (Op::Concat, [left, right]) => return self.concat(left, right, args.number_rows),
            (Op::Add, [left, right]) => apply(left, right, add),
            (Op::Subtract, [left, right]) => apply(left, right, sub),
            (Op::Multiply, [left, right]) => apply(left, right, mul),
            (Op::Negate, [ColumnarValue::Array(array)]) => neg(array).map(ColumnarValue::Array).map_err(DataFusionError::from),
            (Op::Negate, [ColumnarValue::Scalar(value)]) => value.arithmetic_negate().map(ColumnarValue::Scalar),
            (_, other) => return internal_err!("an operator with {} operands", other.len()),
        };
        let result = result.map_err(|error| if is_overflow(&error) { out_of_range(wanted) } else { error })?;
        check_digits(&result, wanted)?;
        Ok(result)
    }
}

impl Checked {
    fn concat(&self, left: &ColumnarValue, right: &ColumnarValue, rows: usize) -> Result<ColumnarValue> {
        let bytes = total_bytes(left, rows).saturating_add(total_bytes(right, rows));
        let _held = self.budget.0.hold("||", bytes)?;
        let mut columns: Vec<ArrayRef> = Vec::new();
        let mut fields = Vec::new();
        let mut operand = |value: &ColumnarValue| -> Arc<dyn PhysicalExpr> {
            match value {
                ColumnarValue::Scalar(value) => Arc::new(Literal::new(value.clone())),
                ColumnarValue::Array(array) => {
                    let name = columns.len().to_string();
                    fields.push(Field::new(&name, array.data_type().clone(), true));
                    columns.push(Arc::clone(array));
                    Arc::new(Column::new(&name, columns.len() - 1))
                }
            }
        };
        let expr = PhysicalBinary::new(operand(left), Operator::StringConcat, operand(right));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let joined = expr.evaluate(&RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)?;
        self.budget.0.keep(|| value_bytes(&joined))?;
        Ok(joined)
    }
}

/// The product of decimals that are no more than 64 bits: it has fewer than 39 digits. Arrow multiplies 128 bits by 128, and
/// looks for an overflow each time. `None` where a value is larger, be it behind a NULL, or where the types are others.
fn small_product(left: &ArrayRef, right: &ArrayRef, wanted: &DataType) -> Option<Decimal128Array> {
    let (left, right) = (left.as_primitive_opt::<Decimal128Type>()?, right.as_primitive_opt::<Decimal128Type>()?);
    let &DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale) = wanted else { return None };
    if left.scale().checked_add(right.scale()) != Some(scale) {
        return None;
    }
    let is_small = Cell::new(true);
    let product = binary::<_, _, _, Decimal128Type>(left, right, |left, right| {
        let (low, other_low) = (left as i64, right as i64);
        is_small.set(is_small.get() & (i128::from(low) == left) & (i128::from(other_low) == right));
        i128::from(low) * i128::from(other_low)
    });
    product.ok().filter(|_| is_small.get()).map(|product| product.with_data_type(wanted.clone()))
}

fn is_overflow(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::ArrowError(error, _) => matches!(error.as_ref(), ArrowError::ArithmeticOverflow(_)),
        DataFusionError::Context(_, inner) => is_overflow(inner),
        _ => false,
    }
}

/// Arrow looks at the bits of a decimal, not at its digits.
fn check_digits(value: &ColumnarValue, wanted: &DataType) -> Result<()> {
    let fits = match (value, wanted) {
        (ColumnarValue::Array(array), DataType::Decimal128(precision, _)) => {
            array.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision).is_ok()
        }
        (ColumnarValue::Array(array), DataType::Decimal256(precision, _)) => {
            array.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision).is_ok()
        }
        (ColumnarValue::Scalar(scalar), DataType::Decimal128(..) | DataType::Decimal256(..)) => {
            return check_digits(&ColumnarValue::Array(scalar.to_array()?), wanted);
        }
        _ => true,
    };
    if fits { Ok(()) } else { Err(out_of_range(wanted)) }
}

/// In PostgreSQL's words, without the value.
pub fn out_of_range(data_type: &DataType) -> DataFusionError {
    exec_datafusion_err!("{} out of range", sql_type(data_type))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::Array;
    use datafusion::logical_expr::{cast, col, lit};

    use super::*;

    #[test]
    fn what_cannot_overflow_stays_as_it_is() {
        let fields = vec![Field::new("small", DataType::Int16, true), Field::new("large", DataType::Int64, true)];
        let schema = DFSchema::try_from(Schema::new(fields)).unwrap();
        let small = || cast(col("small"), DataType::Int64);
        for (expr, overflows) in [
            (small() + lit(1_i64), false),
            (small() * small() * small(), false),
            (small() * small() * small() * small(), true),
            (col("large") + lit(1_i64), true),
            (col("small") + col("small"), true),
            (lit(1_i64) - lit(2_i64), false),
            (lit(i64::MAX) + lit(0_i64), true),
            (-small(), false),
            (-col("large"), true),
        ] {
            let result = expr.get_type(&schema).unwrap();
            assert_eq!(can_overflow(&expr, &result, &schema), overflows, "{expr}");
        }
        assert!(!can_overflow(&lit(1), &DataType::Float64, &schema));
        assert!(!can_overflow(&lit(1), &DataType::Decimal128(37, 2), &schema));
        assert!(can_overflow(&(lit(1) + lit(1)), &DataType::Decimal128(38, 2), &schema));
    }

    #[test]
    fn a_product_of_small_decimals_is_arrows() {
        let column = |values: &[Option<i128>], scale| -> ArrayRef {
            Arc::new(values.iter().copied().collect::<Decimal128Array>().with_data_type(DataType::Decimal128(20, scale)))
        };
        let most = i128::from(i64::MAX);
        let left = column(&[Some(0), Some(7), None, Some(-most - 1), Some(most), Some(-12)], 2);
        let right = column(&[Some(most), None, Some(5), Some(-most - 1), Some(-most - 1), Some(9)], 1);
        let wanted = DataType::Decimal128(38, 3);
        let product = small_product(&left, &right, &wanted).unwrap();
        assert_eq!(product.data_type(), &wanted);
        assert_eq!(&product, mul(&left, &right).unwrap().as_primitive::<Decimal128Type>());
        assert!(product.validate_decimal_precision(38).is_ok());
        assert_eq!(small_product(&left, &column(&[Some(most + 1); 6], 1), &wanted), None);
        assert_eq!(small_product(&left, &right, &DataType::Decimal128(38, 2)), None);
        assert_eq!(small_product(&left, &right, &DataType::Decimal128(37, 3)), None);
        assert_eq!(small_product(&left, &right.slice(0, 3), &wanted), None);
    }
}
