//! A Delta table's schema in Arrow, with the names and ids that its files use.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use buoyant_kernel::schema::{ColumnMetadataKey, DataType as KernelType, MetadataValue, PrimitiveType, StructField, StructType};

use crate::lake::snapshot::LakeError;
use crate::lake::{FIELD_ID_KEY, PHYSICAL_NAME_KEY};

/// `mapped`: the table has column mapping, so its fields say how files name them.
pub(super) fn arrow_schema(schema: &StructType, mapped: bool) -> Result<Schema, LakeError> {
    Ok(Schema::new(fields(schema, mapped)?))
}

fn fields(schema: &StructType, mapped: bool) -> Result<Fields, LakeError> {
    schema.fields().map(|it| field(it, mapped).map(Arc::new)).collect()
}

fn field(field: &StructField, mapped: bool) -> Result<Field, LakeError> {
    let arrow = Field::new(field.name(), data_type(field.data_type(), mapped)?, field.is_nullable());
    if !mapped {
        return Ok(arrow);
    }
    let mut metadata = HashMap::new();
    if let Some(MetadataValue::String(name)) = field.get_config_value(&ColumnMetadataKey::ColumnMappingPhysicalName) {
        metadata.insert(PHYSICAL_NAME_KEY.to_owned(), name.clone());
    }
    if let Some(MetadataValue::Number(id)) = field.get_config_value(&ColumnMetadataKey::ColumnMappingId) {
        metadata.insert(FIELD_ID_KEY.to_owned(), id.to_string());
    }
    Ok(arrow.with_metadata(metadata))
}

fn data_type(kernel: &KernelType, mapped: bool) -> Result<DataType, LakeError> {
    Ok(match kernel {
        KernelType::Primitive(primitive) => primitive_type(primitive)?,
        KernelType::Struct(schema) => DataType::Struct(fields(schema, mapped)?),
        KernelType::Array(array) => {
            DataType::List(Arc::new(Field::new("element", data_type(&array.element_type, mapped)?, array.contains_null)))
        }
        KernelType::Map(map) => {
            let key = Field::new("key", data_type(&map.key_type, mapped)?, false);
            let value = Field::new("value", data_type(&map.value_type, mapped)?, map.value_contains_null);
            let entries = Field::new("key_value", DataType::Struct(Fields::from(vec![key, value])), false);
            DataType::Map(Arc::new(entries), false)
        }
        KernelType::Variant(_) => return Err(unsupported("variantType")),
    })
}

fn primitive_type(primitive: &PrimitiveType) -> Result<DataType, LakeError> {
    Ok(match primitive {
        PrimitiveType::String => DataType::Utf8,
        PrimitiveType::Long => DataType::Int64,
        PrimitiveType::Integer => DataType::Int32,
        PrimitiveType::Short => DataType::Int16,
        PrimitiveType::Byte => DataType::Int8,
        PrimitiveType::Float => DataType::Float32,
        PrimitiveType::Double => DataType::Float64,
        PrimitiveType::Boolean => DataType::Boolean,
        PrimitiveType::Binary => DataType::Binary,
        PrimitiveType::Date => DataType::Date32,
        PrimitiveType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        PrimitiveType::TimestampNtz => DataType::Timestamp(TimeUnit::Microsecond, None),
        PrimitiveType::Decimal(decimal) => {
            let scale = i8::try_from(decimal.scale()).map_err(|_| unsupported("decimal scale"))?;
            DataType::Decimal128(decimal.precision(), scale)
        }
        // Parquet has no such column, so every file lacks it, and it reads as NULL.
        PrimitiveType::Void => DataType::Null,
        other => return Err(unsupported(&other.to_string())),
    })
}

fn unsupported(feature: &str) -> LakeError {
    LakeError::Unsupported { feature: feature.to_owned() }
}
