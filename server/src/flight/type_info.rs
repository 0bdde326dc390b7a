//! SQL's types in the words of drivers: GetXdbcTypeInfo, and the column metadata of table schemas.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, SchemaRef};
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};

use crate::error::{Error, Result};
use crate::flight::canonical::canonical_schema;

/// Decimal digits of a DECIMAL128 and characters of the widest text: what BI tools size their columns by.
const MAX_DECIMAL_DIGITS: i32 = 38;
const MAX_TEXT_BYTES: i32 = i32::MAX;
/// `2026-03-01 00:00:00.000000000`
const TIMESTAMP_CHARS: i32 = 29;

pub struct TypeInfo(XdbcTypeInfoData);

impl TypeInfo {
    pub fn new() -> Result<Self> {
        let mut types = XdbcTypeInfoDataBuilder::new();
        for info in types_of_sql() {
            types.append(info);
        }
        types.build().map(Self).map_err(Error::internal)
    }

    pub fn batch(&self, data_type: Option<i32>) -> Result<RecordBatch> {
        self.0.record_batch(data_type).map_err(Error::internal)
    }
}

fn types_of_sql() -> Vec<XdbcTypeInfo> {
    use XdbcDataType as X;
    let integer = |name: &str, data_type, digits, unsigned| XdbcTypeInfo {
        unsigned_attribute: Some(unsigned),
        auto_increment: Some(false),
        minimum_scale: Some(0),
        maximum_scale: Some(0),
        num_prec_radix: Some(10),
        ..a_type(name, data_type, digits)
    };
    // FlightSql.proto has no names for BIGINT (-5), TINYINT (-6), BIT (-7), VARBINARY (-3): the nearest named ones.
    let mut types = vec![
        XdbcTypeInfo { searchable: Searchable::Basic, ..a_type("BOOLEAN", X::XdbcUnknownType, 1) },
        integer("TINYINT", X::XdbcSmallint, 3, false),
        integer("SMALLINT", X::XdbcSmallint, 5, false),
        integer("INTEGER", X::XdbcInteger, 10, false),
        integer("BIGINT", X::XdbcNumeric, 19, false),
        integer("BIGINT UNSIGNED", X::XdbcNumeric, 20, true),
        XdbcTypeInfo { num_prec_radix: Some(2), unsigned_attribute: Some(false), ..a_type("REAL", X::XdbcReal, 24) },
        XdbcTypeInfo { num_prec_radix: Some(2), unsigned_attribute: Some(false), ..a_type("DOUBLE", X::XdbcDouble, 53) },
        XdbcTypeInfo {
            create_params: Some(vec!["precision".into(), "scale".into()]),
            unsigned_attribute: Some(false),
            minimum_scale: Some(0),
            maximum_scale: Some(MAX_DECIMAL_DIGITS),
            num_prec_radix: Some(10),
            ..a_type("DECIMAL", X::XdbcDecimal, MAX_DECIMAL_DIGITS)
        },
        XdbcTypeInfo { case_sensitive: true, searchable: Searchable::Full, ..quoted("VARCHAR", X::XdbcVarchar, MAX_TEXT_BYTES, "'") },
        quoted("VARBINARY", X::XdbcUnknownType, MAX_TEXT_BYTES, "X'"),
        quoted("DATE", X::XdbcDate, 10, "DATE '"),
        XdbcTypeInfo {
            datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeTime),
            maximum_scale: Some(9),
            ..quoted("TIME", X::XdbcTime, 18, "TIME '")
        },
        XdbcTypeInfo {
            datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
            maximum_scale: Some(9),
            ..quoted("TIMESTAMP", X::XdbcTimestamp, TIMESTAMP_CHARS, "TIMESTAMP '")
        },
        XdbcTypeInfo {
            datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeTimestampWithTimezone),
            maximum_scale: Some(9),
            ..quoted("TIMESTAMP WITH TIME ZONE", X::XdbcTimestamp, TIMESTAMP_CHARS + 6, "TIMESTAMPTZ '")
        },
        quoted("INTERVAL", X::XdbcInterval, 64, "INTERVAL '"),
    ];
    types.sort_by_key(|info| info.data_type as i32);
    types
}

fn a_type(name: &str, data_type: XdbcDataType, column_size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type,
        sql_data_type: data_type,
        column_size: Some(column_size),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Basic,
        local_type_name: Some(name.to_owned()),
        ..XdbcTypeInfo::default()
    }
}

fn quoted(name: &str, data_type: XdbcDataType, column_size: i32, prefix: &str) -> XdbcTypeInfo {
    let (prefix, suffix) = (Some(prefix.to_owned()), Some("'".to_owned()));
    XdbcTypeInfo { literal_prefix: prefix, literal_suffix: suffix, ..a_type(name, data_type, column_size) }
}

/// A table's schema as GetTables sends it: canonical, each field with what JDBC, ADBC and Power BI read from metadata.
pub fn described_schema(catalog: &str, schema: &str, table: &str, columns: &Schema) -> SchemaRef {
    with_entries(columns, |field| {
        let place = [("CATALOG_NAME", catalog), ("SCHEMA_NAME", schema), ("TABLE_NAME", table), ("IS_AUTO_INCREMENT", "0")];
        let place = place.map(|(key, value)| (key, Some(value.to_owned())));
        let kind = [
            ("IS_CASE_SENSITIVE", Some(flag(field.data_type() == &DataType::Utf8))),
            ("IS_READ_ONLY", Some("0".to_owned())),
            ("IS_SEARCHABLE", Some(flag(!field.data_type().is_nested()))),
        ];
        place.into_iter().chain(kind).collect()
    })
}

/// The schema of a result, everywhere where a driver sees it: JDBC takes the digits of a decimal from the metadata.
pub fn result_schema(columns: &Schema) -> SchemaRef {
    with_entries(columns, |_| Vec::new())
}

type Entries = Vec<(&'static str, Option<String>)>;

/// Canonical, with the type in the metadata of each field, and what else is said.
fn with_entries(columns: &Schema, others: impl Fn(&Field) -> Entries) -> SchemaRef {
    let canonical = canonical_schema(columns);
    let fields = canonical.fields().iter().map(|field| {
        let (precision, scale) = precision_and_scale(field.data_type());
        let mut entries = others(field);
        entries.push(("TYPE_NAME", Some(type_name(field.data_type()))));
        entries.push(("PRECISION", precision.map(|digits| digits.to_string())));
        entries.push(("SCALE", scale.map(|digits| digits.to_string())));
        let mut metadata: HashMap<String, String> = field.metadata().clone();
        for (key, value) in entries {
            if let Some(value) = value {
                metadata.insert(format!("ARROW:FLIGHT:SQL:{key}"), value);
            }
        }
        Field::clone(field).with_metadata(metadata)
    });
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

fn flag(value: bool) -> String {
    if value { "1" } else { "0" }.to_owned()
}

/// The name that CREATE TABLE takes.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INTEGER UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float16 | DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "VARBINARY".to_owned(),
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".to_owned(),
        DataType::Duration(_) => "DURATION".to_owned(),
        DataType::Interval(IntervalUnit::YearMonth) => "INTERVAL YEAR TO MONTH".to_owned(),
        DataType::Interval(_) => "INTERVAL".to_owned(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => format!("{}[]", type_name(item.data_type())),
        DataType::Struct(_) => "STRUCT".to_owned(),
        DataType::Map(_, _) => "MAP".to_owned(),
        other => other.to_string().to_uppercase(),
    }
}

fn precision_and_scale(data_type: &DataType) -> (Option<i32>, Option<i32>) {
    match data_type {
        DataType::Boolean => (Some(1), None),
        DataType::Int8 | DataType::UInt8 => (Some(3), Some(0)),
        DataType::Int16 | DataType::UInt16 => (Some(5), Some(0)),
        DataType::Int32 | DataType::UInt32 => (Some(10), Some(0)),
        DataType::Int64 => (Some(19), Some(0)),
        DataType::UInt64 => (Some(20), Some(0)),
        DataType::Float32 => (Some(24), None),
        DataType::Float64 => (Some(53), None),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            (Some(i32::from(*precision)), Some(i32::from(*scale)))
        }
        DataType::Utf8 | DataType::Binary => (Some(MAX_TEXT_BYTES), None),
        DataType::Date32 | DataType::Date64 => (Some(10), None),
        DataType::Timestamp(_, _) => (Some(TIMESTAMP_CHARS), None),
        _ => (None, None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    #[test]
    fn the_filter_selects_by_number() {
        let types = TypeInfo::new().unwrap();
        let all = types.batch(None).unwrap();
        let names: Vec<_> = all.column(0).as_string::<i32>().iter().flatten().map(str::to_owned).collect();
        for name in ["BOOLEAN", "INTEGER", "BIGINT", "DOUBLE", "DECIMAL", "VARCHAR", "DATE", "TIMESTAMP"] {
            assert!(names.iter().any(|had| had == name), "{name}");
        }
        let dates = types.batch(Some(91)).unwrap();
        assert_eq!(dates.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["DATE"]);
        assert_eq!(types.batch(Some(12345)).unwrap().num_rows(), 0);
    }

    #[test]
    fn columns_say_what_drivers_ask() {
        let columns = Schema::new(vec![Field::new("cost", DataType::Decimal64(10, 2), false)]);
        let described = described_schema("lake", "omop", "cost", &columns);
        let field = described.field(0);
        let of = |key: &str| field.metadata().get(&format!("ARROW:FLIGHT:SQL:{key}")).map(String::as_str);
        assert_eq!((field.data_type(), field.is_nullable()), (&DataType::Decimal128(10, 2), false));
        assert_eq!((of("TYPE_NAME"), of("PRECISION"), of("SCALE")), (Some("DECIMAL(10, 2)"), Some("10"), Some("2")));
        assert_eq!((of("CATALOG_NAME"), of("SCHEMA_NAME"), of("TABLE_NAME")), (Some("lake"), Some("omop"), Some("cost")));
        assert_eq!((of("IS_AUTO_INCREMENT"), of("REMARKS")), (Some("0"), None));
    }
}
