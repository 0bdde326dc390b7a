//! How many bytes an array's values take. Arrow's own `get_slice_memory_size` counts the children of a list whole, however
//! small the slice is, and of a view array only the views.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

/// A view holds texts of up to so many bytes itself.
const INLINE_VIEW_BYTES: usize = 12;

/// The bytes of one view.
const VIEW_BYTES: usize = 16;

/// What the array would take if it held nothing but its own values.
pub fn array_bytes(array: &dyn Array) -> usize {
    let nulls = if array.nulls().is_some() { array.len() / 8 + 1 } else { 0 };
    nulls
        + match array.data_type() {
            DataType::Struct(_) => array.as_struct().columns().iter().map(|column| array_bytes(column)).sum(),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                child_bytes(list.offsets().iter().map(|offset| *offset as usize), list.values())
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                child_bytes(list.offsets().iter().map(|offset| *offset as usize), list.values())
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                let entries: ArrayRef = std::sync::Arc::new(map.entries().clone());
                child_bytes(map.offsets().iter().map(|offset| *offset as usize), &entries)
            }
            DataType::FixedSizeList(_, _) => array_bytes(array.as_fixed_size_list().values()),
            DataType::Utf8View => view_bytes(array.as_string_view().lengths()),
            DataType::BinaryView => view_bytes(array.as_binary_view().lengths()),
            _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
        }
}

/// What Arrow's `get_slice_memory_size` leaves out: the texts behind views.
pub fn bytes_behind_views(array: &dyn Array) -> usize {
    let long = |lengths: &mut dyn Iterator<Item = u32>| lengths.map(|it| it as usize).filter(|it| *it > INLINE_VIEW_BYTES).sum();
    match array.data_type() {
        DataType::Utf8View => long(&mut array.as_string_view().lengths()),
        DataType::BinaryView => long(&mut array.as_binary_view().lengths()),
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| bytes_behind_views(column)).sum(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (first, last) = (list.offsets()[0] as usize, list.offsets()[list.len()] as usize);
            bytes_behind_views(&list.values().slice(first, last - first))
        }
        _ => 0,
    }
}

fn view_bytes(lengths: impl Iterator<Item = u32>) -> usize {
    lengths.map(|length| length as usize).map(|length| VIEW_BYTES + if length > INLINE_VIEW_BYTES { length } else { 0 }).sum()
}

fn child_bytes(mut offsets: impl ExactSizeIterator<Item = usize>, values: &ArrayRef) -> usize {
    let bytes = offsets.len() * size_of::<i32>();
    let first = offsets.next().unwrap_or(0);
    let last = offsets.last().unwrap_or(first);
    bytes + array_bytes(&values.slice(first, last - first))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, ListArray, StringArray, StringViewArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn views_and_slices_count_what_they_hold() {
        let long = "x".repeat(1000);
        let texts = vec!["short", long.as_str(), long.as_str()];
        assert_eq!(array_bytes(&StringViewArray::from(texts.clone())), 3 * 16 + 2000);
        assert_eq!(array_bytes(&StringArray::from(texts).slice(0, 1)), 2 * 4 + 5);
        let numbers = Int64Array::from_iter_values(0..1000);
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        let list = ListArray::new(item, OffsetBuffer::from_lengths([10, 990]), Arc::new(numbers), None);
        assert_eq!(array_bytes(&list.slice(0, 1)), 2 * 4 + 80);
    }
}
