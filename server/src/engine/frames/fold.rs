//! Where frames begin and end, and what comes to be of the values in them: pure functions over one run of sorted rows.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Float64Array, Int64Array, PrimitiveArray, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNano, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type, i256,
};
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};

use super::super::functions::out_of_range;

const NANOSECONDS_OF_A_DAY: i128 = 86_400_000_000_000;

/// A frame around each row: `first..=last` as offsets, of rows or of the key that rows are sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    first: i128,
    last: i128,
    /// How the key is sorted; `None` for ROWS.
    sorted: Option<SortOptions>,
}

impl Frame {
    /// `key` is the type and the sorting of the only ORDER BY expression. `None` where this is not the place for it.
    pub fn new(frame: &WindowFrame, key: Option<(&DataType, SortOptions)>) -> Option<Self> {
        let (unit, sorted): (Offsets, _) = match (frame.units, key) {
            (WindowFrameUnits::Rows, _) => (Box::new(whole), None),
            (WindowFrameUnits::Range, Some((data_type, options))) => (offsets(data_type)?, Some(options)),
            _ => return None,
        };
        let offset = |bound: &WindowFrameBound| match bound {
            WindowFrameBound::CurrentRow => Some(0),
            WindowFrameBound::Preceding(by) => unit(by).filter(|by| *by >= 0).map(|by| -by),
            WindowFrameBound::Following(by) => unit(by).filter(|by| *by >= 0),
        };
        Some(Self { first: offset(&frame.start_bound)?, last: offset(&frame.end_bound)?, sorted })
    }

    /// The keys of rows in ascending order; none for ROWS.
    pub fn keys(&self, column: Option<&ArrayRef>) -> Result<Vec<i128>> {
        let Some(options) = self.sorted else { return Ok(Vec::new()) };
        column.and_then(|column| keys(column, options)).ok_or_else(|| internal_datafusion_err!("a frame without a key"))
    }

    /// The frames of the rows `from..rows.end`, as far as they are known: all where no more rows follow in the partition `rows`.
    pub fn of_rows(&self, keys: &[i128], rows: Range<usize>, from: usize, is_whole: bool) -> Vec<Range<usize>> {
        let mut frames = Vec::with_capacity(rows.end - from);
        let (mut start, mut end) = (rows.start, rows.start);
        for row in from..rows.end {
            let is_known = if self.sorted.is_some() {
                let (least, most) = (moved(keys[row], self.first), moved(keys[row], self.last));
                while start < rows.end && keys[start] < least {
                    start += 1;
                }
                while end < rows.end && keys[end] <= most {
                    end += 1;
                }
                end < rows.end
            } else {
                let at = |offset: i128| {
                    let row = (row as i128).saturating_add(offset).clamp(rows.start as i128, rows.end as i128);
                    usize::try_from(row).unwrap_or(rows.end)
                };
                (start, end) = (at(self.first), at(self.last.saturating_add(1)));
                row as i128 + self.last < rows.end as i128
            };
            if !is_known && !is_whole {
                break;
            }
            frames.push(start..end.max(start));
        }
        frames
    }
}

const NULL_FIRST: i128 = i128::MIN;
const NULL_LAST: i128 = i128::MAX;

/// NULL is the peer of NULL alone.
fn moved(key: i128, by: i128) -> i128 {
    if key == NULL_FIRST || key == NULL_LAST { key } else { key + by }
}

fn keys(column: &ArrayRef, options: SortOptions) -> Option<Vec<i128>> {
    fn of<T: ArrowPrimitiveType<Native: Into<i128>>>(column: &ArrayRef, options: SortOptions) -> Option<Vec<i128>> {
        let sign = if options.descending { -1 } else { 1 };
        let null = if options.nulls_first { NULL_FIRST } else { NULL_LAST };
        let column = column.as_primitive_opt::<T>()?;
        Some(column.iter().map(|key| key.map_or(null, |key| sign * key.into())).collect())
    }
    match column.data_type() {
        DataType::Int8 => of::<Int8Type>(column, options),
        DataType::Int16 => of::<Int16Type>(column, options),
        DataType::Int32 => of::<Int32Type>(column, options),
        DataType::Int64 => of::<Int64Type>(column, options),
        DataType::UInt8 => of::<UInt8Type>(column, options),
        DataType::UInt16 => of::<UInt16Type>(column, options),
        DataType::UInt32 => of::<UInt32Type>(column, options),
        DataType::UInt64 => of::<UInt64Type>(column, options),
        DataType::Date32 => of::<Date32Type>(column, options),
        DataType::Timestamp(TimeUnit::Second, _) => of::<TimestampSecondType>(column, options),
        DataType::Timestamp(TimeUnit::Millisecond, _) => of::<TimestampMillisecondType>(column, options),
        DataType::Timestamp(TimeUnit::Microsecond, _) => of::<TimestampMicrosecondType>(column, options),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => of::<TimestampNanosecondType>(column, options),
        _ => None,
    }
}

type Offsets = Box<dyn Fn(&ScalarValue) -> Option<i128>>;

/// How far a bound of RANGE is from keys of a type, in units of their numbers. Months have no fixed length, and days none in a
/// time zone with summer time.
fn offsets(key: &DataType) -> Option<Offsets> {
    match key {
        DataType::Date32 => Some(Box::new(|by| in_units(by, NANOSECONDS_OF_A_DAY))),
        DataType::Timestamp(unit, zone) if zone.as_deref().is_none_or(|zone| matches!(zone, "UTC" | "+00:00")) => {
            let nanoseconds = match unit {
                TimeUnit::Second => 1_000_000_000,
                TimeUnit::Millisecond => 1_000_000,
                TimeUnit::Microsecond => 1_000,
                TimeUnit::Nanosecond => 1,
            };
            Some(Box::new(move |by| in_units(by, nanoseconds)))
        }
        whole_type if whole_type.is_integer() => Some(Box::new(whole)),
        _ => None,
    }
}

fn in_units(by: &ScalarValue, nanoseconds: i128) -> Option<i128> {
    let ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months: 0, days, nanoseconds: rest })) = by else { return None };
    let whole = i128::from(*days) * NANOSECONDS_OF_A_DAY + i128::from(*rest);
    (whole % nanoseconds == 0).then(|| whole / nanoseconds)
}

fn whole(by: &ScalarValue) -> Option<i128> {
    match by {
        ScalarValue::Int8(by) => by.map(Into::into),
        ScalarValue::Int16(by) => by.map(Into::into),
        ScalarValue::Int32(by) => by.map(Into::into),
        ScalarValue::Int64(by) => by.map(Into::into),
        ScalarValue::UInt8(by) => by.map(Into::into),
        ScalarValue::UInt16(by) => by.map(Into::into),
        ScalarValue::UInt32(by) => by.map(Into::into),
        ScalarValue::UInt64(by) => by.map(Into::into),
        _ => None,
    }
}

/// What is made of the values in a frame that are not NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    Count,
    Sum,
    Average,
}

impl Fold {
    /// Whether it can be made of arguments of a type, with a result of that type.
    pub fn takes(self, argument: &DataType, result: &DataType) -> bool {
        match self {
            Self::Count => result == &DataType::Int64,
            Self::Average => argument == &DataType::Float64 && result == &DataType::Float64,
            Self::Sum => match (argument, result) {
                (DataType::Decimal128(_, scale), DataType::Decimal128(_, of_result)) => scale == of_result,
                (DataType::Int64 | DataType::UInt64 | DataType::Float64, _) => argument == result,
                _ => false,
            },
        }
    }

    /// One value for each frame. Frames are in order: none begins or ends before the one before it.
    pub fn over(self, values: &ArrayRef, frames: &[Range<usize>], result: &DataType) -> Result<ArrayRef> {
        let counts = counts(values.as_ref(), frames);
        let filled = || counts.iter().map(|count| *count > 0);
        let misfit = || out_of_range(result);
        match (self, values.data_type()) {
            (Self::Count, _) => Ok(Arc::new(counts.into_iter().map(|count| count as i64).collect::<Int64Array>())),
            (Self::Sum, DataType::Int64) => {
                let sums = whole_sums::<Int64Type>(values, frames)?.into_iter().zip(filled());
                let sums = sums.map(|(sum, is_filled)| is_filled.then(|| i64::try_from(sum).map_err(|_| misfit())).transpose());
                Ok(Arc::new(sums.collect::<Result<Int64Array>>()?))
            }
            (Self::Sum, DataType::UInt64) => {
                let sums = whole_sums::<UInt64Type>(values, frames)?.into_iter().zip(filled());
                let sums = sums.map(|(sum, is_filled)| is_filled.then(|| u64::try_from(sum).map_err(|_| misfit())).transpose());
                Ok(Arc::new(sums.collect::<Result<UInt64Array>>()?))
            }
            (Self::Sum, DataType::Decimal128(_, _)) => {
                let DataType::Decimal128(precision, _) = result else { return Err(misfit()) };
                // Parts of a sum that fits need not.
                let sums = match whole_sums::<Decimal128Type>(values, frames) {
                    Ok(sums) => sums,
                    Err(_) => large_sums(values, frames)?.into_iter().map(|sum| sum.to_i128().ok_or_else(misfit)).collect::<Result<_>>()?,
                };
                let sums: Decimal128Array = sums.into_iter().zip(filled()).map(|(sum, is_filled)| is_filled.then_some(sum)).collect();
                sums.validate_decimal_precision(*precision).map_err(|_| misfit())?;
                Ok(Arc::new(sums.with_data_type(result.clone())))
            }
            (Self::Sum, DataType::Float64) => {
                let sums = float_sums(values, frames)?.into_iter().zip(filled());
                Ok(Arc::new(sums.map(|(sum, is_filled)| is_filled.then_some(sum)).collect::<Float64Array>()))
            }
            (Self::Average, DataType::Float64) => {
                let sums = float_sums(values, frames)?.into_iter().zip(&counts);
                Ok(Arc::new(sums.map(|(sum, count)| (*count > 0).then_some(sum / *count as f64)).collect::<Float64Array>()))
            }
            _ => Err(internal_datafusion_err!("{self:?} of {}", values.data_type())),
        }
    }
}

fn counts(values: &dyn Array, frames: &[Range<usize>]) -> Vec<usize> {
    let Some(nulls) = values.logical_nulls().filter(|nulls| nulls.null_count() > 0) else {
        return frames.iter().map(ExactSizeIterator::len).collect();
    };
    let mut before = Vec::with_capacity(nulls.len() + 1);
    before.push(0);
    before.extend(nulls.iter().scan(0, |count, is_valid| {
        *count += usize::from(is_valid);
        Some(*count)
    }));
    frames.iter().map(|frame| before[frame.end] - before[frame.start]).collect()
}

fn whole_sums<T: ArrowPrimitiveType<Native: Into<i128>>>(values: &ArrayRef, frames: &[Range<usize>]) -> Result<Vec<i128>> {
    let values: Vec<i128> = or_zero(values.as_primitive::<T>()).map(Into::into).collect();
    sums(&values, frames, |one, other| one.checked_add(other).ok_or_else(|| internal_datafusion_err!("a sum beyond all numbers")))
}

fn large_sums(values: &ArrayRef, frames: &[Range<usize>]) -> Result<Vec<i256>> {
    let values: Vec<i256> = or_zero(values.as_primitive::<Decimal128Type>()).map(i256::from_i128).collect();
    sums(&values, frames, |one, other| one.checked_add(other).ok_or_else(|| internal_datafusion_err!("a sum beyond all numbers")))
}

fn float_sums(values: &ArrayRef, frames: &[Range<usize>]) -> Result<Vec<f64>> {
    let values: Vec<f64> = or_zero(values.as_primitive::<Float64Type>()).collect();
    sums(&values, frames, |one, other| Ok(one + other))
}

fn or_zero<T: ArrowPrimitiveType>(values: &PrimitiveArray<T>) -> impl Iterator<Item = T::Native> {
    values.iter().map(Option::unwrap_or_default)
}

/// Sums of sliding frames in time that does not grow with their length, by additions alone: what has left a frame is in no sum
/// any more. A frame is a front, of which the sums of all ends are kept, and a back, of which one sum is.
fn sums<V: Copy + Default>(values: &[V], frames: &[Range<usize>], add: impl Fn(V, V) -> Result<V>) -> Result<Vec<V>> {
    let mut found = Vec::with_capacity(frames.len());
    // The front is `front_start..back_start`, and `fronts[i]` the sum from `front_start + i` to its end.
    let (mut front_start, mut back_start, mut end) = (0, 0, 0);
    let mut fronts: Vec<V> = Vec::new();
    let mut back = V::default();
    for frame in frames {
        if frame.start >= end {
            (back_start, end, back) = (frame.start, frame.start, V::default());
        }
        for value in &values[end..frame.end.max(end)] {
            back = add(back, *value)?;
        }
        end = frame.end.max(end);
        if frame.start >= back_start {
            fronts.clear();
            let mut sum = V::default();
            for value in values[frame.start..end].iter().rev() {
                sum = add(*value, sum)?;
                fronts.push(sum);
            }
            fronts.reverse();
            (front_start, back_start, back) = (frame.start, end, V::default());
        }
        let front = fronts.get(frame.start - front_start).copied().unwrap_or_default();
        found.push(add(front, back)?);
    }
    Ok(found)
}
