//! Functions whose result can be much larger than their arguments. Each is asked for the size of its result before it
//! makes it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, LargeStringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    StructFieldMapping,
};

use crate::engine::memory::Budget;
use crate::engine::size::array_bytes;
use crate::error::{Error, ErrorKind};

/// By their own names; aliases come along.
pub const NAMES: [&str; 21] = [
    "repeat",
    "lpad",
    "rpad",
    "replace",
    "regexp_replace",
    "concat",
    "concat_ws",
    "overlay",
    "to_char",
    "array_repeat",
    "array_resize",
    "range",
    "generate_series",
    "array_to_string",
    "array_concat",
    "array_append",
    "array_prepend",
    "make_array",
    "named_struct",
    "struct",
    // Small, but for long texts it takes long, and cannot be stopped.
    "levenshtein",
];

/// What a character takes at most, and what a number, a date or a Boolean does as text.
const CHAR_BYTES: usize = 4;
const NUMBER_BYTES: usize = 40;

/// Of all pairs of texts in a batch, the products of their bytes together: `levenshtein` takes a nanosecond or so for each.
const MAX_COMPARED: usize = 2_000_000_000;

/// The longest text of one letter of a format: the name of a month.
const FORMAT_FACTOR: usize = 12;

/// The function within the statement's memory.
pub fn bounded(inner: &Arc<ScalarUDF>, budget: &Arc<Budget>) -> Arc<ScalarUDF> {
    if inner.inner().is::<Bounded>() {
        return Arc::clone(inner);
    }
    Arc::new(ScalarUDF::new_from_impl(Bounded { inner: Arc::clone(inner.inner()), budget: Arc::clone(budget) }))
}

/// The same for a call that a planner has made by itself.
pub fn bound_expr(expr: Expr, budget: &Arc<Budget>) -> Result<Transformed<Expr>> {
    match expr {
        Expr::ScalarFunction(call) if NAMES.contains(&call.func.name()) && !call.func.inner().is::<Bounded>() => {
            let func = bounded(&call.func, budget);
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, ..call })))
        }
        other => Ok(Transformed::no(other)),
    }
}

struct Bounded {
    inner: Arc<dyn ScalarUDFImpl>,
    budget: Arc<Budget>,
}

/// DataFusion writes it into messages.
impl fmt::Debug for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.inner.name())
    }
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner.dyn_eq(other.inner.as_ref())
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.dyn_hash(state);
    }
}

#[deny(clippy::missing_trait_methods)]
impl ScalarUDFImpl for Bounded {
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if self.name() == "levenshtein" {
            refuse_long_comparison(&args.args, args.number_rows)?;
        }
        let bytes = result_bytes(self.name(), &args.args, args.number_rows)?;
        // One value for all rows may become one for each.
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let bytes = if constant { bytes.saturating_mul(args.number_rows.max(1)) } else { bytes };
        let _held = self.budget.hold(self.name(), bytes)?;
        let result = self.inner.invoke_with_args(args)?;
        self.budget.keep(|| value_bytes(&result))?;
        Ok(result)
    }

    /// A call may become one of another function.
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(match self.inner.simplify(args, info)? {
            ExprSimplifyResult::Simplified(expr) => {
                ExprSimplifyResult::Simplified(expr.transform_up(|expr| bound_expr(expr, &self.budget))?.data)
            }
            original => original,
        })
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        self.inner.with_updated_config(config).map(|inner| Arc::unwrap_or_clone(bounded(&Arc::new(inner), &self.budget)))
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    #[allow(deprecated)]
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.display_name(args)
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    #[allow(deprecated)]
    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        self.inner.is_nullable(args, schema)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.inner.preimage(args, literal, info)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        self.inner.evaluate_bounds(inputs)
    }

    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.inner.propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn struct_field_mapping(&self, literals: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner.struct_field_mapping(literals)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.placement(args)
    }
}

/// What an argument takes when each of so many rows has its own value.
pub fn total_bytes(value: &ColumnarValue, rows: usize) -> usize {
    match value {
        ColumnarValue::Array(array) => array_bytes(array),
        ColumnarValue::Scalar(scalar) => scalar_bytes(scalar).saturating_mul(rows),
    }
}

/// What one value takes.
pub fn scalar_bytes(scalar: &ScalarValue) -> usize {
    match scalar {
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => text.len(),
        ScalarValue::Binary(Some(bytes)) | ScalarValue::LargeBinary(Some(bytes)) | ScalarValue::BinaryView(Some(bytes)) => bytes.len(),
        ScalarValue::List(array) => array_bytes(array.as_ref()),
        ScalarValue::LargeList(array) => array_bytes(array.as_ref()),
        ScalarValue::Struct(array) => array_bytes(array.as_ref()),
        ScalarValue::Map(array) => array_bytes(array.as_ref()),
        other => other.size(),
    }
}

pub(super) fn value_bytes(value: &ColumnarValue) -> usize {
    match value {
        ColumnarValue::Array(array) => array_bytes(array.as_ref()),
        ColumnarValue::Scalar(value) => scalar_bytes(value),
    }
}

fn refuse_long_comparison(args: &[ColumnarValue], rows: usize) -> Result<()> {
    let [one, other] = args else { return Ok(()) };
    let rows = if args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) { 1 } else { rows };
    let (one, other) = (Lengths::of(one)?, Lengths::of(other)?);
    let compared = (0..rows).map(|row| one.at(row).saturating_mul(other.at(row))).fold(0, usize::saturating_add);
    if compared <= MAX_COMPARED {
        return Ok(());
    }
    let text =
        format!("levenshtein of texts that are too long: the product of their bytes is at most {MAX_COMPARED}, for all rows of a batch");
    Err(DataFusionError::External(Box::new(Error::new(ErrorKind::Exhausted, text))))
}

/// An upper bound of the bytes of a result, of one row where all arguments are constants. 0 where the arguments are none
/// that the function takes: it says so itself.
fn result_bytes(name: &str, args: &[ColumnarValue], rows: usize) -> Result<usize> {
    let constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    let rows = if constant { 1 } else { rows };
    let sum = || args.iter().map(|arg| total_bytes(arg, rows)).fold(0, usize::saturating_add);
    Ok(match (name, args) {
        ("repeat", [text, count]) => times(&Lengths::of(text)?, &Numbers::of(count)?, rows),
        ("array_repeat", [item, count]) => times(&Lengths::of(item)?, &Numbers::of(count)?, rows),
        ("lpad" | "rpad", [text, length, fill @ ..]) => {
            let single = fill.iter().all(is_ascii) && is_ascii(text);
            let width = Lengths::Same(if single { 1 } else { CHAR_BYTES });
            times(&width, &Numbers::of(length)?, rows)
        }
        ("array_resize", [list, length, fill @ ..]) => {
            let fill = fill.first().map_or(Ok(Lengths::Same(0)), Lengths::of)?.at_least(size_of::<i64>());
            times(&fill, &Numbers::of(length)?, rows).saturating_add(total_bytes(list, rows))
        }
        ("range" | "generate_series", [first, rest @ ..]) => series(first, rest, rows)?.saturating_mul(size_of::<i64>()),
        ("replace", [text, from, to]) => {
            let cheap = sum().saturating_add(insertions(&Lengths::of(text)?, &Lengths::of(from)?, &Lengths::of(to)?, rows));
            if cheap <= EXACT_FROM_BYTES { cheap } else { replaced(text, from, to, rows)? }
        }
        ("regexp_replace", [text, _, to, flags @ ..]) => {
            let global =
                flags.first().is_some_and(|flags| !matches!(flags, ColumnarValue::Scalar(flags) if !flags.to_string().contains('g')));
            let (text, to) = (Lengths::of(text)?, Lengths::of(to)?);
            // A reference to a group, of two characters, brings in the whole text at most.
            let inserted = |row: usize| to.at(row).saturating_add((to.at(row) / 2).saturating_mul(text.at(row)));
            let matches = |row: usize| if global { text.at(row) + 1 } else { 1 };
            (0..rows).map(|row| text.at(row).saturating_add(matches(row).saturating_mul(inserted(row)))).fold(0, usize::saturating_add)
        }
        ("concat_ws", [separator, ..]) => sum().saturating_add(total_bytes(separator, rows).saturating_mul(args.len())),
        ("array_to_string", [list, around @ ..]) => {
            let around = around.iter().map(Lengths::of).collect::<Result<Vec<_>>>()?;
            let each = |row| around.iter().map(|it| it.at(row)).fold(NUMBER_BYTES, usize::saturating_add);
            let items = items(list)?;
            (0..rows).map(|row| items.at(row).saturating_mul(each(row))).fold(sum(), usize::saturating_add)
        }
        ("to_char", [_, format]) => total_bytes(format, rows).saturating_mul(FORMAT_FACTOR),
        _ => sum(),
    })
}

/// Above it, what `replace` makes is counted and not guessed.
const EXACT_FROM_BYTES: usize = 1 << 20;

fn times(each: &Lengths, count: &Numbers, rows: usize) -> usize {
    (0..rows).map(|row| each.at(row).saturating_mul(count.at(row))).fold(0, usize::saturating_add)
}

/// `replace` with an empty pattern puts the text around every character.
fn insertions(text: &Lengths, from: &Lengths, to: &Lengths, rows: usize) -> usize {
    let of_row = |row: usize| (text.at(row) / from.at(row).max(1) + 1).saturating_mul(to.at(row));
    (0..rows).map(of_row).fold(0, usize::saturating_add)
}

fn replaced(text: &ColumnarValue, from: &ColumnarValue, to: &ColumnarValue, rows: usize) -> Result<usize> {
    let texts = |value: &ColumnarValue| -> Result<LargeStringArray> {
        Ok(cast(&value.to_array(rows)?, &DataType::LargeUtf8)?.as_string::<i64>().clone())
    };
    // The pattern and the replacement of a constant are not copied for each row.
    let one = |value: &ColumnarValue| matches!(value, ColumnarValue::Scalar(_));
    let at = |constant: bool, row: usize| if constant { 0 } else { row };
    let single = |value: &ColumnarValue| -> Result<LargeStringArray> {
        if one(value) { Ok(cast(&value.to_array(1)?, &DataType::LargeUtf8)?.as_string::<i64>().clone()) } else { texts(value) }
    };
    let (texts, froms, tos) = (single(text)?, single(from)?, single(to)?);
    let of_row = |row: usize| {
        let (t, f, to_row) = (at(one(text), row), at(one(from), row), at(one(to), row));
        if texts.is_null(t) || froms.is_null(f) || tos.is_null(to_row) {
            return 0;
        }
        let matches = texts.value(t).matches(froms.value(f)).count();
        texts.value(t).len().saturating_add(matches.saturating_mul(tos.value(to_row).len()))
    };
    Ok((0..rows).map(of_row).fold(0, usize::saturating_add))
}

/// Elements that `range` makes: of numbers exactly, of times by the shortest that its step can be.
fn series(first: &ColumnarValue, rest: &[ColumnarValue], rows: usize) -> Result<usize> {
    const DAY_US: i128 = 86_400_000_000;
    /// A month has 28 days at least.
    const MONTH_DAYS: i128 = 28;
    if first.data_type().is_temporal() {
        let [last, step] = rest else { return Ok(0) };
        let micros = |value: &ColumnarValue| -> Result<Numbers> {
            let timestamps = cast(&value.to_array(1.max(rows))?, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            Ok(Numbers::Each(cast(&timestamps, &DataType::Int64)?.as_primitive::<Int64Type>().clone()))
        };
        let (first, last) = (micros(first)?, micros(last)?);
        let steps = cast(&step.to_array(1.max(rows))?, &DataType::Interval(IntervalUnit::MonthDayNano))?;
        let steps = steps.as_primitive::<IntervalMonthDayNanoType>();
        let of_row = |row: usize| {
            let (Some(first), Some(last)) = (first.get(row), last.get(row)) else { return 0 };
            if steps.is_null(row) {
                return 0;
            }
            let step = steps.value(row);
            let days = i128::from(step.months) * MONTH_DAYS + i128::from(step.days);
            let width = (days * DAY_US * 1000 + i128::from(step.nanoseconds)).unsigned_abs().max(1);
            let span = (i128::from(last) - i128::from(first)).unsigned_abs() * 1000;
            usize::try_from(span / width + 1).unwrap_or(usize::MAX)
        };
        return Ok((0..rows).map(of_row).fold(0, usize::saturating_add));
    }
    let first = Numbers::of(first)?;
    let rest = rest.iter().map(Numbers::of).collect::<Result<Vec<_>>>()?;
    let of_row = |row: usize| {
        let (start, stop) = match rest.first() {
            Some(last) => (first.get(row).unwrap_or(0), last.get(row).unwrap_or(0)),
            None => (0, first.get(row).unwrap_or(0)),
        };
        let step = rest.get(1).map_or(1, |step| step.get(row).unwrap_or(0));
        let away = (stop > start) != (step > 0);
        if step == 0 || away {
            1
        } else {
            usize::try_from((stop.abs_diff(start) / step.unsigned_abs()).saturating_add(1)).unwrap_or(usize::MAX)
        }
    };
    Ok((0..rows).map(of_row).fold(0, usize::saturating_add))
}

/// Elements of a list in each row.
fn items(value: &ColumnarValue) -> Result<Lengths> {
    let lengths = |array: &ArrayRef| -> Vec<usize> {
        match array.data_type() {
            DataType::List(_) => array.as_list::<i32>().offsets().windows(2).map(|it| (it[1] - it[0]) as usize).collect(),
            DataType::LargeList(_) => array.as_list::<i64>().offsets().windows(2).map(|it| (it[1] - it[0]) as usize).collect(),
            DataType::FixedSizeList(_, size) => vec![*size as usize; array.len()],
            _ => vec![0; array.len()],
        }
    };
    Ok(match value {
        ColumnarValue::Array(array) => Lengths::Each(lengths(array)),
        ColumnarValue::Scalar(scalar) => Lengths::Same(lengths(&scalar.to_array()?).first().copied().unwrap_or(0)),
    })
}

fn is_ascii(value: &ColumnarValue) -> bool {
    match value {
        ColumnarValue::Scalar(scalar) => scalar.try_as_str().flatten().is_none_or(str::is_ascii),
        ColumnarValue::Array(array) => match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().is_ascii(),
            DataType::LargeUtf8 => array.as_string::<i64>().is_ascii(),
            DataType::Utf8View => array.as_string_view().is_ascii(),
            _ => false,
        },
    }
}

/// Bytes of the value in each row.
enum Lengths {
    Same(usize),
    Each(Vec<usize>),
}

impl Lengths {
    fn of(value: &ColumnarValue) -> Result<Self> {
        let array = match value {
            ColumnarValue::Scalar(scalar) => return Ok(Self::Same(scalar_bytes(scalar))),
            ColumnarValue::Array(array) => array,
        };
        Ok(Self::Each(match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().offsets().lengths().collect(),
            DataType::LargeUtf8 => array.as_string::<i64>().offsets().lengths().collect(),
            DataType::Utf8View => array.as_string_view().lengths().map(|length| length as usize).collect(),
            _ => (0..array.len()).map(|row| array_bytes(&array.slice(row, 1))).collect(),
        }))
    }

    fn at(&self, row: usize) -> usize {
        match self {
            Self::Same(length) => *length,
            Self::Each(lengths) => lengths.get(row).copied().unwrap_or(0),
        }
    }

    fn at_least(self, least: usize) -> Self {
        match self {
            Self::Same(length) => Self::Same(length.max(least)),
            Self::Each(lengths) => Self::Each(lengths.into_iter().map(|length| length.max(least)).collect()),
        }
    }
}

/// An integer argument in each row.
enum Numbers {
    Same(Option<i64>),
    Each(Int64Array),
}

impl Numbers {
    fn of(value: &ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Scalar(scalar) => match scalar.cast_to(&DataType::Int64)? {
                ScalarValue::Int64(number) => Self::Same(number),
                _ => Self::Same(None),
            },
            ColumnarValue::Array(array) => Self::Each(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
        })
    }

    fn get(&self, row: usize) -> Option<i64> {
        match self {
            Self::Same(number) => *number,
            Self::Each(numbers) => numbers.is_valid(row).then(|| numbers.value(row)),
        }
    }

    /// As a count.
    fn at(&self, row: usize) -> usize {
        self.get(row).map_or(0, |number| usize::try_from(number).unwrap_or(0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::StringViewArray;

    use super::*;

    fn text(text: &str) -> ColumnarValue {
        ColumnarValue::Scalar(ScalarValue::Utf8View(Some(text.to_owned())))
    }

    fn number(number: i64) -> ColumnarValue {
        ColumnarValue::Scalar(ScalarValue::Int64(Some(number)))
    }

    fn bytes(name: &str, args: &[ColumnarValue]) -> usize {
        result_bytes(name, args, 2).unwrap()
    }

    #[test]
    fn the_size_of_a_result_is_known_before_it_is_made() {
        assert_eq!(bytes("repeat", &[text("ab"), number(2_000_000_000)]), 4_000_000_000);
        assert_eq!(bytes("repeat", &[text("ab"), number(-1)]), 0);
        assert_eq!(bytes("lpad", &[text("x"), number(2_147_483_647), text("y")]), 2_147_483_647);
        assert_eq!(bytes("rpad", &[text("ü"), number(10), text("y")]), 40);
        assert_eq!(bytes("range", &[number(1), number(100_000_000_000)]), 800_000_000_000);
        assert_eq!(bytes("range", &[number(10), number(1)]), 8);
        assert_eq!(bytes("generate_series", &[number(i64::MIN), number(i64::MAX), number(1)]), usize::MAX);
        assert_eq!(bytes("concat", &[text("ab"), text("cde")]), 5);
        let long = "x".repeat(2 << 20);
        assert_eq!(bytes("replace", &[text(&long), text("y"), text(&long)]), 2 << 20, "counted: there is no y");
        assert!(bytes("replace", &[text(&long), text("x"), text(&long)]) > 1 << 41);
        let texts = ColumnarValue::Array(Arc::new(StringViewArray::from(vec!["a", "bcd"])));
        assert_eq!(bytes("repeat", &[texts, number(5)]), 20);
    }
}
