//! Iceberg's schema as an Arrow schema with field ids, and what belongs to it: default values and the name mapping.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use serde::Deserialize;

use super::metadata::{FieldJson, NestedJson, SchemaJson, TypeJson};
use super::{LakeError, corrupt, unsupported};

/// A table's current schema.
#[derive(Debug)]
pub(super) struct TableSchema {
    pub arrow: SchemaRef,
    /// Field ids of the top-level columns, in table order.
    pub ids: Vec<i32>,
    pub initial_defaults: HashMap<usize, ScalarValue>,
}

impl TableSchema {
    pub(super) fn new(file: &str, json: &SchemaJson) -> Result<Self, LakeError> {
        let mut initial_defaults = HashMap::new();
        let mut fields = Vec::with_capacity(json.fields.len());
        for (index, column) in json.fields.iter().enumerate() {
            let field = column_field(file, column)?;
            if let Some(default) = &column.initial_default {
                // A default that is not understood must not read as NULL.
                let value = super::values::from_json(default, field.data_type());
                initial_defaults
                    .insert(index, value.ok_or_else(|| unsupported(format!("default value of a {} column", type_name(&column.kind))))?);
            }
            fields.push(field);
        }
        let ids = json.fields.iter().map(|field| field.id).collect();
        Ok(Self { arrow: Arc::new(Schema::new(fields)), ids, initial_defaults })
    }

    pub(super) fn index_of(&self, id: i32) -> Option<usize> {
        self.ids.iter().position(|other| *other == id)
    }
}

/// The type of a top-level column in one of the table's schemas; `None`: not there.
pub(super) fn top_level_type(file: &str, schema: &SchemaJson, id: i32) -> Option<Result<DataType, LakeError>> {
    schema.fields.iter().find(|field| field.id == id).map(|field| data_type(file, &field.kind))
}

fn column_field(file: &str, json: &FieldJson) -> Result<Field, LakeError> {
    Ok(with_id(Field::new(&json.name, data_type(file, &json.kind)?, !json.required), json.id))
}

fn with_id(field: Field, id: i32) -> Field {
    field.with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]))
}

fn data_type(file: &str, json: &TypeJson) -> Result<DataType, LakeError> {
    match json {
        TypeJson::Primitive(name) => primitive(file, name),
        TypeJson::Nested(NestedJson::Struct { fields }) => {
            if fields.iter().any(|field| field.initial_default.is_some()) {
                return Err(unsupported("default value of a nested column"));
            }
            Ok(DataType::Struct(fields.iter().map(|field| column_field(file, field)).collect::<Result<Fields, _>>()?))
        }
        TypeJson::Nested(NestedJson::List { element_id, element_required, element }) => {
            let element = Field::new("element", data_type(file, element)?, !element_required);
            Ok(DataType::List(Arc::new(with_id(element, *element_id))))
        }
        TypeJson::Nested(NestedJson::Map { key_id, key, value_id, value_required, value }) => {
            let key = with_id(Field::new("key", data_type(file, key)?, false), *key_id);
            let value = with_id(Field::new("value", data_type(file, value)?, !value_required), *value_id);
            let entries = Field::new("key_value", DataType::Struct(Fields::from(vec![key, value])), false);
            Ok(DataType::Map(Arc::new(entries), false))
        }
    }
}

fn primitive(file: &str, name: &str) -> Result<DataType, LakeError> {
    let utc = || Some("UTC".into());
    Ok(match name {
        "boolean" => DataType::Boolean,
        "int" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "time" => DataType::Time64(TimeUnit::Microsecond),
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, utc()),
        "timestamp_ns" => DataType::Timestamp(TimeUnit::Nanosecond, None),
        "timestamptz_ns" => DataType::Timestamp(TimeUnit::Nanosecond, utc()),
        "string" => DataType::Utf8,
        "binary" => DataType::Binary,
        "uuid" => DataType::FixedSizeBinary(16),
        // Only NULL, and in no file.
        "unknown" => DataType::Null,
        other => match other.split_once(['(', '[']) {
            Some(("decimal", arguments)) => {
                let parts = arguments.trim_end_matches(')').split_once(',');
                let parts = parts.map(|(precision, scale)| (precision.trim().parse::<u8>(), scale.trim().parse::<i8>()));
                match parts {
                    Some((Ok(precision @ 1..=38), Ok(scale))) if (0..=38).contains(&scale) && scale as u8 <= precision => {
                        DataType::Decimal128(precision, scale)
                    }
                    _ => return Err(corrupt(file, format_args!("type {other}"))),
                }
            }
            Some(("fixed", arguments)) => match arguments.trim_end_matches(']').trim().parse() {
                Ok(size @ 0..) => DataType::FixedSizeBinary(size),
                _ => return Err(corrupt(file, format_args!("type {other}"))),
            },
            // variant, geometry, geography, and what comes later.
            _ => return Err(unsupported(format!("type {}", type_word(other)))),
        },
    })
}

fn type_name(json: &TypeJson) -> &str {
    match json {
        TypeJson::Primitive(name) => type_word(name),
        TypeJson::Nested(NestedJson::Struct { .. }) => "struct",
        TypeJson::Nested(NestedJson::List { .. }) => "list",
        TypeJson::Nested(NestedJson::Map { .. }) => "map",
    }
}

fn type_word(name: &str) -> &str {
    name.split(['(', '[']).next().unwrap_or(name)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MappedFieldJson {
    field_id: Option<i32>,
    names: Vec<String>,
    fields: Option<Vec<MappedFieldJson>>,
}

/// The paths of names under which files without field ids hold the fields (`schema.name-mapping.default`).
pub(super) fn name_mapping(file: &str, json: &str) -> Result<HashMap<Vec<String>, i32>, LakeError> {
    fn add(fields: &[MappedFieldJson], path: &mut Vec<String>, into: &mut HashMap<Vec<String>, i32>) {
        for field in fields {
            for name in &field.names {
                path.push(name.clone());
                if let Some(id) = field.field_id {
                    into.insert(path.clone(), id);
                }
                add(field.fields.as_deref().unwrap_or_default(), path, into);
                path.pop();
            }
        }
    }
    let fields: Vec<MappedFieldJson> =
        serde_json::from_str(json).map_err(|e| corrupt(file, format_args!("schema.name-mapping.default: {e}")))?;
    let mut mapping = HashMap::new();
    add(&fields, &mut Vec::new(), &mut mapping);
    Ok(mapping)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn schema(json: &str) -> Result<TableSchema, LakeError> {
        TableSchema::new("m", &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn ids_are_carried_at_every_level() {
        let schema = schema(
            r#"{"fields":[{"id":1,"name":"m","required":false,"type":{"type":"map","key-id":2,"key":"string","value-id":3,
                "value-required":false,"value":{"type":"list","element-id":4,"element-required":true,
                "element":{"type":"struct","fields":[{"id":5,"name":"d","required":true,"type":"decimal(9, 2)"}]}}}}]}"#,
        )
        .unwrap();
        let id = |field: &Field| field.metadata()[PARQUET_FIELD_ID_META_KEY].clone();
        let DataType::Map(entries, _) = schema.arrow.field(0).data_type() else { panic!() };
        let DataType::Struct(children) = entries.data_type() else { panic!() };
        let DataType::List(element) = children[1].data_type() else { panic!() };
        let DataType::Struct(fields) = element.data_type() else { panic!() };
        assert_eq!([id(schema.arrow.field(0)), id(&children[0]), id(&children[1]), id(element), id(&fields[0])], ["1", "2", "3", "4", "5"]);
        assert_eq!(
            (element.name().as_str(), element.is_nullable(), fields[0].data_type()),
            ("element", false, &DataType::Decimal128(9, 2))
        );
    }

    #[test]
    fn what_is_not_read_is_named() {
        let refused = |kind: &str| {
            schema(&format!(r#"{{"fields":[{{"id":1,"name":"x","required":false,"type":{kind}}}]}}"#)).unwrap_err().to_string()
        };
        assert_eq!(refused(r#""variant""#), "table feature \"type variant\" is not supported yet");
        assert_eq!(refused(r#""geometry(srid:3857)""#), "table feature \"type geometry\" is not supported yet");
        assert_eq!(
            refused(r#"{"type":"struct","fields":[{"id":2,"name":"a","required":false,"type":"int","initial-default":1}]}"#),
            "table feature \"default value of a nested column\" is not supported yet"
        );
        assert_eq!(refused(r#""decimal(3,9)""#), "m is damaged: type decimal(3,9)");
        assert_eq!(refused(r#""int","initial-default":"x""#), "table feature \"default value of a int column\" is not supported yet");
    }

    #[test]
    fn name_mappings_are_paths() {
        let mapping = name_mapping(
            "m",
            r#"[{"field-id":1,"names":["id","record_id"]},{"field-id":2,"names":["l"],"fields":[{"field-id":3,"names":["element"]}]},{"names":["x"],"fields":null}]"#,
        )
        .unwrap();
        let path = |names: &[&str]| mapping.get(&names.iter().map(ToString::to_string).collect::<Vec<_>>()).copied();
        assert_eq!((path(&["record_id"]), path(&["l", "element"]), path(&["x"])), (Some(1), Some(3), None));
    }
}
