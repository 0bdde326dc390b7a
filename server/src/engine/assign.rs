//! A value for a column of a table, as PostgreSQL's assignment has it: numbers become other numbers where they fit, rounded
//! where the column has fewer digits; whatever is not nested becomes text; a text is another type only where it is written
//! out, or was bound. Anything else needs a CAST. Errors name the column, never the value.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, GenericListArray, Int64Array, ListArray, MapArray, OffsetSizeTrait,
    PrimitiveArray, StructArray, new_empty_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float32Type, Float64Type, TimeUnit, TimestampNanosecondType};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::error::{Error, Result};
use crate::sql::types::sql_type;

/// Of 64-bit floats, those that are whole numbers of 64 bits lie from -2⁶³ on and below 2⁶³.
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// From where a value comes, which decides what a text may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A text that is written out, or a parameter: of no type yet.
    Written,
    Computed,
}

/// An expression that gives the column's type.
pub fn assigned(value: Expr, from: &DataType, column: &Field, origin: Origin) -> Result<Expr> {
    let function = Assign { column: column.name().clone(), target: column.data_type().clone(), origin, signature: signature() };
    if from == column.data_type() {
        return Ok(value);
    }
    if let Expr::Literal(literal, metadata) = &value {
        let values = function.convert(&literal.to_array().map_err(Error::internal)?)?;
        return Ok(Expr::Literal(ScalarValue::try_from_array(&values, 0).map_err(Error::internal)?, metadata.clone()));
    }
    // What cannot be, cannot be for no rows either.
    function.convert(&new_empty_array(from))?;
    Ok(ScalarUDF::from(function).call(vec![value]))
}

/// A whole column at once, as [`assigned`] does.
pub fn assign(values: &ArrayRef, column: &str, target: &DataType, origin: Origin) -> Result<ArrayRef> {
    Assign { column: column.to_owned(), target: target.clone(), origin, signature: signature() }.convert(values)
}

fn signature() -> Signature {
    Signature::any(1, Volatility::Immutable)
}

/// Why a value does not become what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misfit {
    /// Of its type none does.
    Type,
    Range,
    /// A text that does not say one.
    Text,
    /// More digits than are kept, where rounding would change an instant.
    Digits,
    /// NULL inside a list, map or struct that allows none.
    Null,
}

type Converted = std::result::Result<ArrayRef, Misfit>;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Assign {
    column: String,
    target: DataType,
    origin: Origin,
    signature: Signature,
}

impl Assign {
    fn convert(&self, values: &ArrayRef) -> Result<ArrayRef> {
        convert(values, &self.target, self.origin).map_err(|misfit| {
            let (column, target) = (&self.column, sql_type(&self.target));
            Error::invalid(match misfit {
                Misfit::Type => format!("column \"{column}\" is {target}, and the value is {}: cast it", sql_type(values.data_type())),
                Misfit::Range => format!("{target} out of range, in column \"{column}\""),
                Misfit::Text => format!("column \"{column}\": a text cannot be read as {target}"),
                Misfit::Digits => format!("column \"{column}\": a value has more digits than {target} keeps; round it"),
                Misfit::Null => format!("column \"{column}\": NULL inside a value whose type allows none"),
            })
        })
    }
}

impl ScalarUDFImpl for Assign {
    fn name(&self) -> &str {
        "assign"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.target.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let external = |error: Error| DataFusionError::External(Box::new(error));
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(self.convert(values).map_err(external)?)),
            [ColumnarValue::Scalar(value)] => {
                let values = self.convert(&value.to_array()?).map_err(external)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?))
            }
            _ => datafusion::common::internal_err!("a value for a column is one"),
        }
    }
}

fn convert(values: &ArrayRef, to: &DataType, origin: Origin) -> Converted {
    use DataType::*;
    let from = values.data_type();
    if from == to {
        return Ok(Arc::clone(values));
    }
    match (from, to) {
        (Null, _) => Ok(new_null_array(to, values.len())),
        (Dictionary(_, inner), _) => convert(&plain_cast(values, inner)?, to, origin),
        (RunEndEncoded(_, inner), _) => convert(&plain_cast(values, inner.data_type())?, to, origin),
        (Utf8 | LargeUtf8 | Utf8View, Utf8) => plain_cast(values, to),
        (Binary | LargeBinary | BinaryView | FixedSizeBinary(_), Binary) => plain_cast(values, to),
        (Utf8 | LargeUtf8 | Utf8View, _) if origin == Origin::Written && !to.is_nested() && *to != Binary => {
            kept(values, plain_cast(values, to)?, Misfit::Text)
        }
        (_, _) if from.is_integer() && (to.is_integer() || is_decimal(to)) => kept(values, plain_cast(values, to)?, Misfit::Range),
        (_, _) if from.is_floating() && to.is_integer() => {
            let whole = whole_numbers(plain_cast(values, &Float64)?.as_primitive::<Float64Type>())?;
            kept(&whole, plain_cast(&whole, to)?, Misfit::Range)
        }
        (_, _) if is_decimal(from) && to.is_integer() => {
            let whole = kept(values, plain_cast(values, &Decimal256(76, 0))?, Misfit::Range)?;
            kept(&whole, plain_cast(&whole, to)?, Misfit::Range)
        }
        (_, _) if (from.is_floating() || is_decimal(from)) && is_decimal(to) => kept(values, plain_cast(values, to)?, Misfit::Range),
        (_, _) if (from.is_integer() || is_decimal(from)) && to.is_floating() => plain_cast(values, to),
        (_, Float32 | Float64) if from.is_floating() => finite_kept(values, plain_cast(values, to)?),
        (Date32 | Date64, Date32) | (Timestamp(..), Date32) => kept(values, plain_cast(values, to)?, Misfit::Range),
        (Date32 | Date64, Timestamp(..)) => kept(values, plain_cast(values, to)?, Misfit::Range),
        (Timestamp(unit, zone), Timestamp(..)) => {
            if *unit == TimeUnit::Nanosecond && has_digits_below_micros(values) {
                return Err(Misfit::Digits);
            }
            // An instant without a zone is its time in UTC.
            let utc = zone.as_ref().map(|_| Arc::<str>::from("UTC"));
            let values = plain_cast(values, &Timestamp(*unit, utc))?;
            kept(&values, plain_cast(&values, to)?, Misfit::Range)
        }
        (Boolean, Utf8) => plain_cast(values, to),
        (_, Utf8) if from.is_numeric() || matches!(from, Date32 | Date64 | Timestamp(..) | Time32(_) | Time64(_) | Interval(_)) => {
            plain_cast(values, to)
        }
        (List(_), List(element)) => list(values.as_list::<i32>(), element, origin),
        (LargeList(_), List(element)) => list(values.as_list::<i64>(), element, origin),
        (FixedSizeList(inner, _) | ListView(inner) | LargeListView(inner), List(_)) => {
            convert(&plain_cast(values, &List(Arc::clone(inner)))?, to, origin)
        }
        (Map(..), Map(entries, _)) => map(values.as_map(), entries, origin),
        (Struct(_), Struct(fields)) => structs(values.as_struct(), fields, origin).map(|it| Arc::new(it) as ArrayRef),
        _ => Err(Misfit::Type),
    }
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..))
}

/// Values that cannot be are NULL, for [`kept`] to find.
fn plain_cast(values: &ArrayRef, to: &DataType) -> Converted {
    cast_with_options(values, to, &CastOptions { safe: true, ..CastOptions::default() }).map_err(|_| Misfit::Type)
}

fn kept(before: &ArrayRef, after: ArrayRef, lost: Misfit) -> Converted {
    if after.logical_null_count() == before.logical_null_count() { Ok(after) } else { Err(lost) }
}

/// Half goes to the even neighbour.
fn whole_numbers(values: &Float64Array) -> Converted {
    let whole = |value: f64| {
        let rounded = value.round_ties_even();
        // Within these bounds nothing is cut off.
        ((-TWO_TO_63..TWO_TO_63).contains(&rounded)).then_some(rounded as i64)
    };
    let whole: Int64Array = values.iter().map(|value| value.and_then(whole)).collect();
    if whole.null_count() == values.null_count() { Ok(Arc::new(whole)) } else { Err(Misfit::Range) }
}

/// A number that becomes infinite was out of range.
fn finite_kept(before: &ArrayRef, after: ArrayRef) -> Converted {
    if after.data_type() != &DataType::Float32 || before.data_type() != &DataType::Float64 {
        return Ok(after);
    }
    let (wide, narrow) = (before.as_primitive::<Float64Type>(), after.as_primitive::<Float32Type>());
    let lost =
        wide.iter().zip(narrow.iter()).any(|pair| matches!(pair, (Some(wide), Some(narrow)) if wide.is_finite() && narrow.is_infinite()));
    if lost { Err(Misfit::Range) } else { Ok(after) }
}

fn has_digits_below_micros(values: &ArrayRef) -> bool {
    values.as_primitive_opt::<TimestampNanosecondType>().is_some_and(|values| has_remainder(values, 1000))
}

fn has_remainder<T: ArrowPrimitiveType<Native = i64>>(values: &PrimitiveArray<T>, divisor: i64) -> bool {
    values.iter().flatten().any(|value| value % divisor != 0)
}

fn list<O: OffsetSizeTrait>(list: &GenericListArray<O>, element: &FieldRef, origin: Origin) -> Converted {
    // What lies beneath a NULL, or outside a slice, is nobody's value.
    let (mut offsets, mut indices) = (vec![0_i32], Vec::new());
    for row in 0..list.len() {
        if list.is_valid(row) {
            let (start, end) = (list.value_offsets()[row].as_usize(), list.value_offsets()[row + 1].as_usize());
            indices.extend((start..end).map(|index| index as u64));
        }
        offsets.push(i32::try_from(indices.len()).map_err(|_| Misfit::Range)?);
    }
    let values = arrow::compute::take(list.values(), &arrow::array::UInt64Array::from(indices), None).map_err(|_| Misfit::Type)?;
    let values = convert(&values, element.data_type(), origin)?;
    let offsets = OffsetBuffer::new(offsets.into());
    let list = ListArray::try_new(Arc::clone(element), offsets, values, list.nulls().cloned()).map_err(|_| Misfit::Null)?;
    Ok(Arc::new(list))
}

fn map(map: &MapArray, entries: &FieldRef, origin: Origin) -> Converted {
    let DataType::Struct(fields) = entries.data_type() else { return Err(Misfit::Type) };
    let [key, value] = fields.as_ref() else { return Err(Misfit::Type) };
    let (keys, values) = (convert(map.keys(), key.data_type(), origin)?, convert(map.values(), value.data_type(), origin)?);
    let pairs = StructArray::try_new(fields.clone(), vec![keys, values], None).map_err(|_| Misfit::Null)?;
    let map = MapArray::try_new(Arc::clone(entries), map.offsets().clone(), pairs, map.nulls().cloned(), false);
    Ok(Arc::new(map.map_err(|_| Misfit::Null)?))
}

/// Field by field, in order: a struct whose fields have other names is another type.
fn structs(from: &StructArray, to: &Fields, origin: Origin) -> std::result::Result<StructArray, Misfit> {
    let same = from.num_columns() == to.len() && from.fields().iter().zip(to).all(|(one, other)| one.name() == other.name());
    if !same {
        return Err(Misfit::Type);
    }
    let columns = from.columns().iter().zip(to).map(|(column, field)| convert(column, field.data_type(), origin));
    StructArray::try_new(to.clone(), columns.collect::<std::result::Result<_, _>>()?, from.nulls().cloned()).map_err(|_| Misfit::Null)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::*;
    use arrow::datatypes::*;

    use super::*;

    fn to(values: impl Array + 'static, target: DataType, origin: Origin) -> std::result::Result<ArrayRef, String> {
        let values: ArrayRef = Arc::new(values);
        assign(&values, "c", &target, origin).map_err(|error| error.to_string())
    }

    fn computed(values: impl Array + 'static, target: DataType) -> std::result::Result<ArrayRef, String> {
        to(values, target, Origin::Computed)
    }

    #[test]
    fn numbers_fit_or_are_refused() {
        let small = computed(Int64Array::from(vec![Some(127), None, Some(-128)]), DataType::Int8).unwrap();
        assert_eq!(small.as_primitive::<Int8Type>(), &Int8Array::from(vec![Some(127), None, Some(-128)]));
        for values in [128, -129, i64::MAX] {
            assert_eq!(computed(Int64Array::from(vec![values]), DataType::Int8).unwrap_err(), "TINYINT out of range, in column \"c\"");
        }
        let rounded = computed(Float64Array::from(vec![2.5, 3.5, -2.5, 0.49]), DataType::Int32).unwrap();
        assert_eq!(rounded.as_primitive::<Int32Type>(), &Int32Array::from(vec![2, 4, -2, 0]));
        for value in [f64::NAN, f64::INFINITY, 9.3e18, -9.3e18, 2_147_483_647.6] {
            assert!(computed(Float64Array::from(vec![value]), DataType::Int32).unwrap_err().contains("INTEGER out of range"), "{value}");
        }
        assert!(computed(Float64Array::from(vec![9_223_372_036_854_775_808.0]), DataType::Int64).is_err());
        let decimal =
            |values: Vec<i128>, precision, scale| Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap();
        let rounded = computed(decimal(vec![250, 349, -250], 5, 2), DataType::Int64).unwrap();
        assert_eq!(rounded.as_primitive::<Int64Type>(), &Int64Array::from(vec![3, 3, -3]));
        let narrower = computed(decimal(vec![12_345, -12_355], 7, 3), DataType::Decimal128(4, 2)).unwrap();
        assert_eq!(narrower.as_primitive::<Decimal128Type>(), &decimal(vec![1235, -1236], 4, 2));
        assert!(computed(decimal(vec![123_456], 7, 3), DataType::Decimal128(4, 2)).unwrap_err().contains("DECIMAL(4, 2) out of range"));
        assert!(computed(Int64Array::from(vec![100]), DataType::Decimal128(4, 2)).is_err());
        assert!(computed(Float64Array::from(vec![1e300]), DataType::Float32).unwrap_err().contains("out of range"));
        assert!(computed(Float64Array::from(vec![f64::INFINITY]), DataType::Float32).is_ok());
    }

    #[test]
    fn a_text_is_another_type_only_where_it_is_written() {
        let text = || StringArray::from(vec![Some("2024-02-29"), None]);
        let date = to(text(), DataType::Date32, Origin::Written).unwrap();
        assert_eq!(date.as_primitive::<Date32Type>(), &Date32Array::from(vec![Some(19_782), None]));
        assert_eq!(computed(text(), DataType::Date32).unwrap_err(), "column \"c\" is DATE, and the value is VARCHAR: cast it");
        let error = to(StringArray::from(vec!["2024-02-30"]), DataType::Date32, Origin::Written).unwrap_err();
        assert_eq!(error, "column \"c\": a text cannot be read as DATE");
        assert!(!error.contains("30"));
        assert!(to(text(), DataType::Binary, Origin::Written).is_err());
        assert_eq!(computed(Int32Array::from(vec![7]), DataType::Utf8).unwrap().as_string::<i32>().value(0), "7");
        for (values, target) in [
            (Arc::new(BooleanArray::from(vec![true])) as ArrayRef, DataType::Int32),
            (Arc::new(Int32Array::from(vec![1])), DataType::Boolean),
            (Arc::new(Int32Array::from(vec![1])), DataType::Date32),
            (Arc::new(BinaryArray::from(vec![&b"a"[..]])), DataType::Utf8),
        ] {
            assert!(assign(&values, "c", &target, Origin::Written).unwrap_err().to_string().contains("cast it"), "{target}");
        }
    }

    #[test]
    fn instants_are_kept() {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let nanos = |value| TimestampNanosecondArray::from(vec![Some(value), None]);
        assert_eq!(computed(nanos(1_234_000), micros.clone()).unwrap().as_primitive::<TimestampMicrosecondType>().value(0), 1234);
        assert!(computed(nanos(1_234_567), micros.clone()).unwrap_err().contains("more digits than TIMESTAMP keeps"));
        // Noon in São Paulo is three in the afternoon, UTC.
        let noon = TimestampMicrosecondArray::from(vec![54_000_000_000]).with_timezone("America/Sao_Paulo");
        assert_eq!(computed(noon.clone(), micros).unwrap().as_primitive::<TimestampMicrosecondType>().value(0), 54_000_000_000);
        assert_eq!(computed(noon, zoned).unwrap().as_primitive::<TimestampMicrosecondType>().value(0), 54_000_000_000);
        assert!(computed(TimestampSecondArray::from(vec![i64::MAX]), DataType::Timestamp(TimeUnit::Microsecond, None)).is_err());
    }

    #[test]
    fn nested_values_are_assigned_part_by_part() {
        let element = Arc::new(Field::new("element", DataType::Int16, false));
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([Some(1), Some(2)]);
        lists.append_null();
        let lists = lists.finish();
        let list = computed(lists.slice(0, 2), DataType::List(Arc::clone(&element))).unwrap();
        assert_eq!(list.as_list::<i32>().value(0).as_primitive::<Int16Type>(), &Int16Array::from(vec![1, 2]));
        assert!(list.is_null(1));
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([Some(1), None]);
        assert!(computed(lists.finish(), DataType::List(Arc::clone(&element))).unwrap_err().contains("NULL inside"));
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([Some(70_000)]);
        assert!(computed(lists.finish(), DataType::List(element)).unwrap_err().contains("out of range"));

        let point = |name: &str| {
            StructArray::from(vec![(Arc::new(Field::new(name, DataType::Int64, true)), Arc::new(Int64Array::from(vec![3])) as ArrayRef)])
        };
        let target = DataType::Struct(vec![Field::new("x", DataType::Int32, true)].into());
        assert_eq!(computed(point("x"), target.clone()).unwrap().as_struct().column(0).as_primitive::<Int32Type>().value(0), 3);
        assert!(computed(point("y"), target).unwrap_err().contains("cast it"));
    }
}
