//! One schema for everything that a driver sees: prepare, FlightInfo, GetSchema, DoGet and table schemas.
//!
//! Drivers compare them field by field, and refuse types that only newer Arrow libraries know. So views, large and
//! dictionary-coded types become the plain ones at this edge, nested ones too, and the nullability is that of the logical
//! schema: a batch is widened to it, because an optimizer may turn a nullable column into a literal that is not.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, ListArray, MapArray, RecordBatch, RecordBatchOptions, StructArray, UnionArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, FieldRef, Fields, Schema, SchemaRef, UnionFields};
use arrow::error::ArrowError;

use crate::error::{Error, Result};

/// Field metadata with this prefix is Flight SQL's own; all other metadata stays inside.
const FLIGHT_SQL_PREFIX: &str = "ARROW:FLIGHT:SQL:";

pub fn canonical_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(canonical_fields(schema.fields())))
}

/// The batch with exactly this canonical schema. Values never change, only how they are laid out.
pub fn canonical_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    if batch.num_columns() != schema.fields().len() {
        let found = batch.num_columns();
        return Err(Error::internal(format!("a batch of {found} columns where {} were declared", schema.fields().len())));
    }
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| convert(column, field.data_type()))
        .collect::<Result<_, ArrowError>>()
        .map_err(Error::internal)?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(Error::internal)
}

fn canonical_fields(fields: &Fields) -> Fields {
    fields.iter().map(canonical_field).collect()
}

fn canonical_field(field: &FieldRef) -> FieldRef {
    let metadata = field.metadata().iter().filter(|(key, _)| key.starts_with(FLIGHT_SQL_PREFIX));
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
    Arc::new(Field::new(field.name(), canonical_type(field.data_type()), field.is_nullable()).with_metadata(metadata))
}

pub fn canonical_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128((*precision).min(DECIMAL128_MAX_PRECISION), *scale)
        }
        DataType::Dictionary(_, values) => canonical_type(values),
        DataType::RunEndEncoded(_, values) => canonical_type(values.data_type()),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            DataType::List(canonical_field(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(canonical_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(canonical_fields(fields)),
        DataType::Map(entries, sorted) => DataType::Map(canonical_field(entries), *sorted),
        DataType::Union(fields, mode) => {
            DataType::Union(fields.iter().map(|(id, field)| (id, canonical_field(field))).collect::<UnionFields>(), *mode)
        }
        plain => plain.clone(),
    }
}

/// Arrow's own cast refuses or renames some nested types, so nested arrays are taken apart and put together again.
fn convert(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), target) {
        (DataType::Struct(_), DataType::Struct(fields)) => Ok(Arc::new(convert_struct(array.as_struct(), fields)?)),
        (DataType::List(_), DataType::List(item)) => {
            let list: &ListArray = array.as_list();
            let (offsets, values) = referenced(list.offsets(), list.values());
            let values = convert(&values, item.data_type())?;
            Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, values, list.nulls().cloned())?))
        }
        (DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item), DataType::List(_)) => {
            convert(&cast(array, &DataType::List(Arc::clone(item)))?, target)
        }
        (DataType::FixedSizeList(_, _), DataType::FixedSizeList(item, size)) => {
            let list = array.as_fixed_size_list();
            let values = convert(list.values(), item.data_type())?;
            let converted = FixedSizeListArray::try_new_with_length(Arc::clone(item), *size, values, list.nulls().cloned(), list.len())?;
            Ok(Arc::new(converted))
        }
        (DataType::Map(_, _), DataType::Map(entries_field, sorted)) => {
            let map: &MapArray = array.as_map();
            let DataType::Struct(fields) = entries_field.data_type() else {
                return Err(ArrowError::CastError("a map without entries".to_owned()));
            };
            let (offsets, entries) = referenced(map.offsets(), &(Arc::new(map.entries().clone()) as ArrayRef));
            let entries = convert_struct(entries.as_struct(), fields)?;
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries_field), offsets, entries, map.nulls().cloned(), *sorted)?))
        }
        (DataType::Union(_, _), DataType::Union(fields, _)) => {
            let union: &UnionArray = array.as_union();
            let children = fields.iter().map(|(id, field)| convert(union.child(id), field.data_type()));
            let children = children.collect::<Result<_, _>>()?;
            Ok(Arc::new(UnionArray::try_new(fields.clone(), union.type_ids().clone(), union.offsets().cloned(), children)?))
        }
        (DataType::Dictionary(_, values), _) if **values != *target => convert(&cast(array, values)?, target),
        (DataType::RunEndEncoded(_, values), _) if values.data_type() != target => convert(&cast(array, values.data_type())?, target),
        _ => cast(array, target),
    }
}

fn convert_struct(array: &StructArray, fields: &Fields) -> Result<StructArray, ArrowError> {
    if array.num_columns() != fields.len() {
        return Err(ArrowError::CastError(format!("a struct of {} fields where {} were declared", array.num_columns(), fields.len())));
    }
    let children = array.columns().iter().zip(fields).map(|(child, field)| convert(child, field.data_type()));
    StructArray::try_new_with_length(fields.clone(), children.collect::<Result<_, _>>()?, array.nulls().cloned(), array.len())
}

/// The part of a list's values that its offsets reach: a slice of a batch drags the whole of them along.
fn referenced(offsets: &OffsetBuffer<i32>, values: &ArrayRef) -> (OffsetBuffer<i32>, ArrayRef) {
    let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
        return (offsets.clone(), Arc::clone(values));
    };
    if first == 0 && last as usize == values.len() {
        return (offsets.clone(), Arc::clone(values));
    }
    let moved: ScalarBuffer<i32> = offsets.iter().map(|offset| offset - first).collect();
    (OffsetBuffer::new(moved), values.slice(first as usize, (last - first) as usize))
}

fn cast(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, ArrowError> {
    // Not "safe": a value that does not fit is an error, never a NULL.
    cast_with_options(array, target, &CastOptions { safe: false, ..CastOptions::default() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{
        BinaryViewArray, Decimal64Array, DictionaryArray, Float32Array, Int32Array, Int32RunArray, LargeListArray, LargeStringArray,
        ListViewArray, StringArray, StringViewArray,
    };
    use arrow::datatypes::{Int32Type, UnionMode};
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    fn views() -> ArrayRef {
        Arc::new(StringViewArray::from(vec![Some("a"), None, Some("a string longer than twelve bytes")]))
    }

    fn check(array: ArrayRef, expected: DataType) {
        let schema = Schema::new(vec![Field::new("x", array.data_type().clone(), true)]);
        let canonical = canonical_schema(&schema);
        assert_eq!(canonical.field(0).data_type(), &expected);
        assert_eq!(canonical_schema(&canonical), canonical, "canonical stays canonical");
        let batch = RecordBatch::try_new(Arc::new(schema), vec![array]).unwrap();
        for batch in [batch.clone(), batch.slice(1, batch.num_rows() - 1), batch.slice(0, 0)] {
            let converted = canonical_batch(&batch, &canonical).unwrap();
            assert_eq!(converted.schema(), canonical);
            let shown = |batch: &RecordBatch| pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string();
            assert_eq!(shown(&converted), shown(&batch));
        }
    }

    #[test]
    fn every_type_that_drivers_do_not_know_becomes_a_plain_one() {
        let utf8_list = || DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let item = || Arc::new(Field::new("item", DataType::Utf8View, true));
        check(views(), DataType::Utf8);
        check(Arc::new(LargeStringArray::from(vec!["a", "b"])), DataType::Utf8);
        check(Arc::new(BinaryViewArray::from(vec![b"a".as_slice(), b"b"])), DataType::Binary);
        check(Arc::new(vec![Some("x"), None, Some("x")].into_iter().collect::<DictionaryArray<Int32Type>>()), DataType::Utf8);
        let runs = Int32RunArray::try_new(&Int32Array::from(vec![1, 3]), &StringViewArray::from(vec!["a", "b"])).unwrap();
        check(Arc::new(runs), DataType::Utf8);
        check(Arc::new(Decimal64Array::from(vec![123, -5]).with_precision_and_scale(10, 2).unwrap()), DataType::Decimal128(10, 2));
        check(cast(&(Arc::new(Float32Array::from(vec![1.5, -2.25])) as ArrayRef), &DataType::Float16).unwrap(), DataType::Float32);
        let lists = LargeListArray::new(item(), OffsetBuffer::new(vec![0i64, 1, 1, 3].into()), views(), None);
        check(Arc::new(lists), utf8_list());
        let sizes = ScalarBuffer::from(vec![2, 0, 1]);
        check(Arc::new(ListViewArray::new(item(), vec![1, 0, 0].into(), sizes, views(), None)), utf8_list());
        let inner = Fields::from(vec![Field::new("v", DataType::Utf8View, true)]);
        let wrapped = StructArray::new(inner, vec![views()], None);
        let expected = DataType::Struct(vec![Field::new("v", DataType::Utf8, true)].into());
        check(Arc::new(wrapped.clone()), expected.clone());
        let item = Arc::new(Field::new("item", wrapped.data_type().clone(), true));
        let nested = ListArray::new(item, OffsetBuffer::new(vec![0, 2, 3].into()), Arc::new(wrapped), None);
        check(Arc::new(nested), DataType::List(Arc::new(Field::new("item", expected, true))));
        let item = Arc::new(Field::new("item", DataType::Utf8View, true));
        let fixed = FixedSizeListArray::new(item, 1, views(), None);
        check(Arc::new(fixed), DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Utf8, true)), 1));
    }

    #[test]
    fn maps_and_unions_keep_their_shape() {
        let entries =
            |value: DataType| DataType::Struct(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)].into());
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let DataType::Struct(fields) = entries(DataType::Utf8View) else { unreachable!() };
        let pairs = StructArray::new(fields, vec![keys, views()], None);
        let field = Arc::new(Field::new("entries", pairs.data_type().clone(), false));
        let map = MapArray::new(field, OffsetBuffer::new(vec![0, 1, 3].into()), pairs, None, false);
        check(Arc::new(map), DataType::Map(Arc::new(Field::new("entries", entries(DataType::Utf8), false)), false));

        let fields: UnionFields = [(0, Arc::new(Field::new("s", DataType::Utf8View, true)))].into_iter().collect();
        let union = UnionArray::try_new(fields, vec![0, 0].into(), Some(vec![2, 0].into()), vec![views()]).unwrap();
        let expected: UnionFields = [(0, Arc::new(Field::new("s", DataType::Utf8, true)))].into_iter().collect();
        check(Arc::new(union), DataType::Union(expected, UnionMode::Dense));
    }

    #[test]
    fn nullability_and_metadata_are_those_of_the_logical_schema() {
        let metadata = [("ARROW:FLIGHT:SQL:TYPE_NAME", "INT"), ("PARQUET:field_id", "7")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let logical = Schema::new(vec![Field::new("n", DataType::Int32, true).with_metadata(metadata.into())]);
        let canonical = canonical_schema(&logical.clone().with_metadata([("a".to_owned(), "b".to_owned())].into()));
        assert!(canonical.metadata().is_empty());
        assert_eq!(canonical.field(0).metadata().keys().collect::<Vec<_>>(), ["ARROW:FLIGHT:SQL:TYPE_NAME"]);

        let physical = Schema::new(vec![Field::new("n", DataType::Int32, false)]);
        let batch = RecordBatch::try_new(Arc::new(physical.clone()), vec![Arc::new(Int32Array::from(vec![1]))]).unwrap();
        assert!(canonical_batch(&batch, &canonical).unwrap().schema().field(0).is_nullable());

        let nullable = RecordBatch::try_new(Arc::new(logical), vec![Arc::new(Int32Array::from(vec![None]))]).unwrap();
        let error = canonical_batch(&nullable, &canonical_schema(&physical)).unwrap_err();
        assert_eq!(error.kind, crate::error::ErrorKind::Internal);
    }

    #[test]
    fn rows_without_columns_are_kept() {
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let schema = Arc::new(Schema::empty().with_metadata([("a".to_owned(), "b".to_owned())].into()));
        let batch = RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
        assert_eq!(canonical_batch(&batch, &Arc::new(Schema::empty())).unwrap().num_rows(), 3);
    }
}
