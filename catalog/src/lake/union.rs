//! One schema for the plain files of a folder, which no metadata hold together.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};

/// Why files are not one table.
#[derive(Debug, PartialEq)]
pub(super) struct Clash {
    /// The first that does not fit those before it.
    pub file: usize,
    pub reason: String,
}

/// Columns by name, in the order in which files first have them. One that some file lacks, or may have NULL in, may be
/// NULL; its type is the least that holds every value of every file (see `evolve`, which reads them).
pub(super) fn by_name<'a>(schemas: impl Iterator<Item = &'a Schema>) -> Result<Schema, Clash> {
    let mut union: Option<Fields> = None;
    for (file, schema) in schemas.enumerate() {
        union = Some(match union {
            None => schema.fields().clone(),
            Some(union) => union_of(&union, schema.fields(), "").map_err(|reason| Clash { file, reason })?,
        });
    }
    Ok(Schema::new(union.unwrap_or_default()))
}

/// Columns by position, as CSV is read, so that all files must have the same ones in the same order. What is not of one type is
/// text, as within one file.
pub(super) fn by_position<'a>(schemas: impl Iterator<Item = &'a Schema>) -> Result<Schema, Clash> {
    let mut union: Option<Vec<FieldRef>> = None;
    for (file, schema) in schemas.enumerate() {
        let Some(union) = &mut union else {
            union = Some(schema.fields().to_vec());
            continue;
        };
        let names = |fields: &[FieldRef]| fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        let (here, before) = (names(schema.fields()), names(union));
        if schema.fields().len() != union.len() || here != before {
            let reason = format!("its columns are \"{here}\", where the first file has \"{before}\"");
            return Err(Clash { file, reason });
        }
        for (field, other) in union.iter_mut().zip(schema.fields()) {
            let data_type = match (field.data_type(), other.data_type()) {
                (a, b) if a == b => continue,
                (DataType::Null, known) | (known, DataType::Null) => known.clone(),
                (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => DataType::Float64,
                _ => DataType::Utf8,
            };
            *field = Arc::new(field.as_ref().clone().with_data_type(data_type));
        }
    }
    Ok(Schema::new(union.unwrap_or_default()))
}

/// `path` leads to these fields, for errors.
fn union_of(a: &Fields, b: &Fields, path: &str) -> Result<Fields, String> {
    if a == b {
        return Ok(a.clone());
    }
    let mut union = Vec::with_capacity(a.len());
    for field in a {
        union.push(match b.find(field.name()) {
            Some((_, other)) => union_field(field, other, path)?,
            None => nullable(field),
        });
    }
    union.extend(b.iter().filter(|field| a.find(field.name()).is_none()).map(nullable));
    Ok(union.into())
}

fn union_field(a: &FieldRef, b: &FieldRef, path: &str) -> Result<FieldRef, String> {
    let name = if path.is_empty() { a.name().clone() } else { format!("{path}.{}", a.name()) };
    let data_type = widest(a.data_type(), b.data_type(), &name)?;
    Ok(Arc::new(Field::new(a.name(), data_type, a.is_nullable() || b.is_nullable())))
}

fn nullable(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_nullable(true))
}

fn widest(a: &DataType, b: &DataType, name: &str) -> Result<DataType, String> {
    use DataType::*;
    let differ = || format!("column \"{name}\" is {b}, and {a} in files before it");
    Ok(match (a, b) {
        (a, b) if a == b => a.clone(),
        (Null, other) | (other, Null) => other.clone(),
        (Struct(a), Struct(b)) => Struct(union_of(a, b, name)?),
        (List(a), List(b)) => List(union_field(a, b, name)?),
        (Map(a, sorted), Map(b, _)) => Map(union_field(a, b, name)?, *sorted),
        (Float32, Float64) | (Float64, Float32) => Float64,
        (Float32 | Float64, int) | (int, Float32 | Float64) if matches!(digits(int), Some(1..=10)) => Float64,
        (Decimal128(..), int) | (int, Decimal128(..)) if int.is_integer() => {
            let of_int = Decimal128(digits(int).unwrap_or_default(), 0);
            decimal(if int == a { &of_int } else { a }, if int == b { &of_int } else { b }).ok_or_else(differ)?
        }
        (Decimal128(..), Decimal128(..)) => decimal(a, b).ok_or_else(differ)?,
        (a, b) if a.is_integer() && b.is_integer() => integer(a, b).ok_or_else(differ)?,
        (Date32, Timestamp(unit, None)) | (Timestamp(unit, None), Date32) => Timestamp(*unit, None),
        (Timestamp(a, zone), Timestamp(b, other)) if zone == other => Timestamp(finer(*a, *b), zone.clone()),
        (Time32(a) | Time64(a), Time32(b) | Time64(b)) => Time64(finer(*a, *b)),
        _ => return Err(differ()),
    })
}

/// The smallest type of which every value of both is one.
fn integer(a: &DataType, b: &DataType) -> Option<DataType> {
    let (a, b) = if a.is_signed_integer() { (a, b) } else { (b, a) };
    let (wide, other) = (a.primitive_width()?, b.primitive_width()?);
    let bytes = match a.is_signed_integer() == b.is_signed_integer() {
        true => wide.max(other),
        false => wide.max(other * 2),
    };
    Some(match (a.is_signed_integer(), bytes) {
        (true, 1) => DataType::Int8,
        (true, 2) => DataType::Int16,
        (true, 4) => DataType::Int32,
        (true, 8) => DataType::Int64,
        (false, 1) => DataType::UInt8,
        (false, 2) => DataType::UInt16,
        (false, 4) => DataType::UInt32,
        (false, 8) => DataType::UInt64,
        _ => return None,
    })
}

/// Of the longest value of an integer type.
fn digits(int: &DataType) -> Option<u8> {
    Some(match int {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        DataType::Int64 => 19,
        DataType::UInt64 => 20,
        _ => return None,
    })
}

fn decimal(a: &DataType, b: &DataType) -> Option<DataType> {
    let (DataType::Decimal128(a, a_scale), DataType::Decimal128(b, b_scale)) = (a, b) else { return None };
    let whole = |precision: &u8, scale: &i8| i16::from(*precision) - i16::from(*scale);
    let scale = *a_scale.max(b_scale);
    let precision = u8::try_from(whole(a, a_scale).max(whole(b, b_scale)) + i16::from(scale)).ok()?;
    (precision <= arrow::datatypes::DECIMAL128_MAX_PRECISION).then_some(DataType::Decimal128(precision, scale))
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    use TimeUnit::*;
    let units = [Nanosecond, Microsecond, Millisecond];
    units.into_iter().find(|unit| *unit == a || *unit == b).unwrap_or(Second)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn schema(fields: &[(&str, DataType, bool)]) -> Schema {
        Schema::new(fields.iter().map(|(name, kind, nullable)| Field::new(*name, kind.clone(), *nullable)).collect::<Vec<_>>())
    }

    #[test]
    fn types_are_widened_to_what_holds_both() {
        use DataType::*;
        let of = |a: &DataType, b: &DataType| widest(a, b, "c").ok();
        for (a, b, both) in [
            (Int32, Int64, Some(Int64)),
            (UInt8, UInt32, Some(UInt32)),
            (Int8, UInt8, Some(Int16)),
            (Int64, UInt32, Some(Int64)),
            (Int8, UInt64, None),
            (Float32, Float64, Some(Float64)),
            (Int32, Float32, Some(Float64)),
            // A double does not hold every BIGINT.
            (Int64, Float64, None),
            (Decimal128(5, 2), Decimal128(7, 4), Some(Decimal128(7, 4))),
            (Decimal128(5, 2), Decimal128(4, 4), Some(Decimal128(7, 4))),
            (Decimal128(38, 0), Decimal128(4, 4), None),
            (Int32, Decimal128(5, 2), Some(Decimal128(12, 2))),
            (Date32, Timestamp(TimeUnit::Microsecond, None), Some(Timestamp(TimeUnit::Microsecond, None))),
            (Timestamp(TimeUnit::Millisecond, None), Timestamp(TimeUnit::Nanosecond, None), Some(Timestamp(TimeUnit::Nanosecond, None))),
            (Timestamp(TimeUnit::Microsecond, None), Timestamp(TimeUnit::Microsecond, Some("UTC".into())), None),
            (Null, Utf8, Some(Utf8)),
            (Utf8, Int32, None),
            (Boolean, Int32, None),
        ] {
            assert_eq!((of(&a, &b), of(&b, &a)), (both.clone(), both), "{a} and {b}");
        }
    }

    #[test]
    fn a_column_that_a_file_lacks_may_be_null_at_any_depth() {
        let inner = |fields: &[(&str, DataType, bool)]| DataType::Struct(schema(fields).fields);
        let first = schema(&[("a", DataType::Int32, false), ("s", inner(&[("x", DataType::Int32, false)]), false)]);
        let second = schema(&[("s", inner(&[("y", DataType::Utf8, false)]), false), ("b", DataType::Int32, false)]);
        let both = schema(&[
            ("a", DataType::Int32, true),
            ("s", inner(&[("x", DataType::Int32, true), ("y", DataType::Utf8, true)]), false),
            ("b", DataType::Int32, true),
        ]);
        assert_eq!(by_name([&first, &second, &first].into_iter()).unwrap(), both);
        assert_eq!(by_name([&first, &first].into_iter()).unwrap(), first);
        let other = schema(&[("s", inner(&[("x", DataType::Utf8, false)]), false)]);
        let clash = by_name([&first, &other].into_iter()).unwrap_err();
        assert_eq!(clash, Clash { file: 1, reason: "column \"s.x\" is Utf8, and Int32 in files before it".to_owned() });
    }

    #[test]
    fn columns_by_position_must_be_the_same() {
        let a = schema(&[("region", DataType::Int64, true), ("value", DataType::Null, true)]);
        let b = schema(&[("region", DataType::Float64, true), ("value", DataType::Int64, true)]);
        let c = schema(&[("region", DataType::Date32, true), ("value", DataType::Int64, true)]);
        let union = by_position([&a, &b].into_iter()).unwrap();
        assert_eq!(union, schema(&[("region", DataType::Float64, true), ("value", DataType::Int64, true)]));
        let union = by_position([&a, &c].into_iter()).unwrap();
        assert_eq!(union, schema(&[("region", DataType::Utf8, true), ("value", DataType::Int64, true)]));
        let turned = schema(&[("value", DataType::Int64, true), ("region", DataType::Int64, true)]);
        let reason = "its columns are \"value, region\", where the first file has \"region, value\"".to_owned();
        assert_eq!(by_position([&a, &b, &turned].into_iter()).unwrap_err(), Clash { file: 2, reason });
        for other in [&schema(&[("region", DataType::Int64, true)]), &schema(&[("region, value", DataType::Int64, true)])] {
            assert!(by_position([&a, other].into_iter()).is_err());
        }
    }
}
