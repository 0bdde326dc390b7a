//! Types and names as they are written in SQL.

use arrow::datatypes::{DataType, Field};
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;

use crate::flight::type_info::type_name;

/// Such as `DECIMAL(10, 2)` or `ARRAY<STRUCT<icd10 VARCHAR, value DOUBLE>>`.
pub fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("ARRAY<{}>", sql_type(item.data_type())),
        DataType::Struct(fields) => {
            let field = |field: &Field| format!("{} {}", quoted(field.name()), sql_type(field.data_type()));
            format!("STRUCT<{}>", fields.iter().map(|it| field(it)).collect::<Vec<_>>().join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let types: Vec<_> = fields.iter().map(|field| sql_type(field.data_type())).collect();
                format!("MAP<{}>", types.join(", "))
            }
            _ => "MAP".to_owned(),
        },
        DataType::Dictionary(_, values) => sql_type(values),
        DataType::RunEndEncoded(_, values) => sql_type(values.data_type()),
        plain => type_name(plain),
    }
}

/// A name as it can be read again: quoted unless it is plain, in lower case, and no word of SQL.
pub fn quoted(name: &str) -> String {
    let mut chars = name.chars();
    let plain = chars.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && ALL_KEYWORDS.binary_search(&name.to_ascii_uppercase().as_str()).is_err();
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn types_have_the_names_of_sql() {
        let list = |item: DataType| DataType::List(Arc::new(Field::new("element", item, true)));
        let fields = vec![Field::new("icd10", DataType::Utf8View, true), Field::new("Value", DataType::Float64, true)];
        let entries = DataType::Struct(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)].into());
        let map = DataType::Map(Arc::new(Field::new("entries", entries, false)), false);
        for (data_type, name) in [
            (DataType::Int32, "INTEGER"),
            (DataType::Int64, "BIGINT"),
            (DataType::Utf8View, "VARCHAR"),
            (DataType::Decimal128(10, 2), "DECIMAL(10, 2)"),
            (DataType::Timestamp(TimeUnit::Microsecond, None), "TIMESTAMP"),
            (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), "TIMESTAMP WITH TIME ZONE"),
            (list(DataType::Int32), "ARRAY<INTEGER>"),
            (list(DataType::Struct(fields.into())), "ARRAY<STRUCT<icd10 VARCHAR, \"Value\" DOUBLE>>"),
            (map, "MAP<VARCHAR, BIGINT>"),
        ] {
            assert_eq!(sql_type(&data_type), name);
        }
    }

    #[test]
    fn names_can_be_read_again() {
        for (name, written) in
            [("person", "person"), ("Person", "\"Person\""), ("select", "\"select\""), ("a\"b", "\"a\"\"b\""), ("1a", "\"1a\"")]
        {
            assert_eq!(quoted(name), written);
        }
    }
}
