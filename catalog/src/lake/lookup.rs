//! Asks bloom filters for the values that a scan looks up. DataFusion copies a filter whole to put one question to it; here one
//! block of it is looked at where it lies in the cache, and DataFusion gets a filter of a single block, which says no to
//! everything, or yes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{Guarantee, LiteralGuarantee};
use parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use parquet::bloom_filter::Sbbf;
use parquet::schema::types::ColumnDescriptor;
use twox_hash::XxHash64;

const BLOCK_BYTES: usize = 32;

/// Blocks of a filter for each value that is asked for: with fewer, to copy it whole and ask for all of them is cheaper.
const BLOCKS_PER_VALUE: usize = 8;

/// What a scan's predicate demands: that each of these columns has one of these values.
#[derive(Debug, Default)]
pub(crate) struct Lookups(HashMap<String, Vec<Value>>);

#[derive(Debug)]
enum Value {
    Int32(i32),
    Int64(i64),
    Text(String),
}

impl Lookups {
    pub(crate) fn of(predicate: &Arc<dyn PhysicalExpr>) -> Self {
        let mut columns = HashMap::new();
        for LiteralGuarantee { column, guarantee, literals } in LiteralGuarantee::analyze(predicate) {
            let values: Option<Vec<_>> = literals.iter().map(Value::of).collect();
            if let (Guarantee::In, Some(values)) = (guarantee, values.filter(|values| !values.is_empty())) {
                columns.insert(column.name().to_owned(), values);
            }
        }
        Self(columns)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In place of a column's filter one that answers the same to the scan. A row group without any of the values has no row
    /// for it, whatever else the filter is asked for. None where that is for DataFusion to find out.
    pub(crate) fn short_filter(&self, column: &ColumnDescriptor, filter: &[u8]) -> Option<Bytes> {
        let [name] = column.path().parts() else { return None };
        let values = self.0.get(name).filter(|values| values.iter().all(|value| value.is_of(column)))?;
        let blocks = blocks(filter).filter(|blocks| blocks.len() / BLOCK_BYTES >= (values.len() - 1) * BLOCKS_PER_VALUE)?;
        let may_hold = values.iter().any(|value| value.may_be_in(blocks));
        let mut short = Vec::new();
        Sbbf::new(&[if may_hold { u8::MAX } else { 0 }; BLOCK_BYTES]).write(&mut short).ok()?;
        Some(short.into())
    }
}

impl Value {
    fn of(literal: &ScalarValue) -> Option<Self> {
        match literal {
            ScalarValue::Int32(Some(number)) => Some(Self::Int32(*number)),
            ScalarValue::Int64(Some(number)) => Some(Self::Int64(*number)),
            ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
                Some(Self::Text(text.clone()))
            }
            _ => None,
        }
    }

    /// Whether the column holds such values as they are.
    fn is_of(&self, column: &ColumnDescriptor) -> bool {
        let is_signed = |bits, converted| match column.logical_type_ref() {
            None => [ConvertedType::NONE, converted].contains(&column.converted_type()),
            Some(LogicalType::Integer(integer)) => integer.bit_width == bits && integer.is_signed,
            Some(_) => false,
        };
        let is_text = || match column.logical_type_ref() {
            None => column.converted_type() == ConvertedType::UTF8,
            Some(logical) => *logical == LogicalType::String,
        };
        match self {
            Self::Int32(_) => column.physical_type() == PhysicalType::INT32 && is_signed(32, ConvertedType::INT_32),
            Self::Int64(_) => column.physical_type() == PhysicalType::INT64 && is_signed(64, ConvertedType::INT_64),
            Self::Text(_) => column.physical_type() == PhysicalType::BYTE_ARRAY && is_text(),
        }
    }

    fn may_be_in(&self, blocks: &[u8]) -> bool {
        match self {
            Self::Int32(number) => block_of(blocks, &number.to_le_bytes()).check(number),
            Self::Int64(number) => block_of(blocks, &number.to_le_bytes()).check(number),
            Self::Text(text) => block_of(blocks, text.as_bytes()).check(text.as_str()),
        }
    }
}

/// The one block that can hold a value, as a filter of its own.
fn block_of(blocks: &[u8], value: &[u8]) -> Sbbf {
    let count = (blocks.len() / BLOCK_BYTES) as u64;
    let at = (((XxHash64::oneshot(0, value) >> 32) * count) >> 32) as usize * BLOCK_BYTES;
    Sbbf::new(blocks.get(at..at + BLOCK_BYTES).unwrap_or_default())
}

/// After the number of bytes: three unions, of algorithm, hash and compression, of which each has one member so far.
const REST_OF_HEADER: [u8; 13] = [0x1c, 0x1c, 0, 0, 0x1c, 0x1c, 0, 0, 0x1c, 0x1c, 0, 0, 0];

/// Of a filter with its header, which is shorter than a block, and begins with the number of bytes that follow it: field 1, a
/// number, of Thrift's compact protocol.
fn blocks(filter: &[u8]) -> Option<&[u8]> {
    let (header, blocks) = filter.split_at(filter.len() % BLOCK_BYTES);
    let (mut expected, mut rest) = (vec![0x15], 2 * blocks.len());
    while rest > 0x7f {
        expected.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    expected.push(rest as u8);
    expected.extend(REST_OF_HEADER);
    (header == expected && !blocks.is_empty()).then_some(blocks)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::physical_expr::planner::logical2physical;
    use datafusion::prelude::{col, lit};
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;

    use super::*;

    const FILE: &str = "message file {
        optional int64 n; optional int32 i; optional binary s (STRING); optional int64 t (TIMESTAMP(MICROS, true));
        optional int64 u (INTEGER(64, false)); optional binary b; optional group g { optional int64 n; } }";
    /// As writers that know no logical types have it.
    const OLD_FILE: &str = "message file { optional int64 n (INT_64); optional int32 i (INT_32); optional binary s (UTF8);
        optional int64 t (TIMESTAMP_MICROS); optional int64 u (UINT_64); optional binary b (ENUM); optional group g { optional int64 n; } }";

    fn filter(bytes: usize, fill: impl FnOnce(&mut Sbbf)) -> Bytes {
        let mut filter = Sbbf::new_with_num_of_bytes(bytes);
        fill(&mut filter);
        let mut written = Vec::new();
        filter.write(&mut written).unwrap();
        written.into()
    }

    /// What the short filter answers, by column of the file.
    fn answers(predicate: datafusion::logical_expr::Expr, column: usize, filter: &Bytes) -> Option<bool> {
        let fields =
            [("n", DataType::Int64), ("i", DataType::Int32), ("s", DataType::Utf8View), ("t", DataType::Int64), ("u", DataType::Int64)];
        let schema = Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec());
        let lookups = Lookups::of(&logical2physical(&predicate, &schema));
        let [short, of_old] = [FILE, OLD_FILE].map(|file| {
            let file = SchemaDescriptor::new(Arc::new(parse_message_type(file).unwrap()));
            lookups.short_filter(&file.column(column), filter)
        });
        assert_eq!(short, of_old);
        let short = short?;
        let answer = Sbbf::new(blocks(&short).unwrap());
        let all: Vec<bool> = (0..1000_i64).map(|number| answer.check(&number)).collect();
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "it says one thing to all");
        Some(all[0])
    }

    #[test]
    fn the_short_filter_says_what_the_whole_one_does() {
        for bytes in [32, 64, 1 << 10, 1 << 18] {
            let numbers = filter(bytes, |filter| (0..200_i64).for_each(|number| filter.insert(&(number * 7))));
            let small = filter(bytes, |filter| (0..200_i32).for_each(|number| filter.insert(&(number * 7))));
            let texts = filter(bytes, |filter| (0..200).for_each(|number| filter.insert(format!("text {number}").as_str())));
            let whole = |filter: &Bytes| Sbbf::new(blocks(filter).unwrap());
            for number in 0..2000_i32 {
                let (long, text) = (i64::from(number), format!("text {number}"));
                assert_eq!(answers(col("n").eq(lit(long)), 0, &numbers), Some(whole(&numbers).check(&long)));
                if number < 300 {
                    assert_eq!(answers(col("i").eq(lit(number)), 1, &small), Some(whole(&small).check(&number)));
                    assert_eq!(answers(col("s").eq(lit(text.as_str())), 2, &texts), Some(whole(&texts).check(text.as_str())));
                }
            }
        }
    }

    #[test]
    fn any_of_the_values_is_enough() {
        let numbers = filter(1 << 14, |filter| (0..20_i64).for_each(|number| filter.insert(&number)));
        let among = |list: &[i64]| col("n").in_list(list.iter().map(|number| lit(*number)).collect(), false);
        assert_eq!(answers(among(&[1000, 7]), 0, &numbers), Some(true));
        assert_eq!(answers(among(&[1000, 1001]), 0, &numbers), Some(false));
        assert_eq!(answers(col("n").eq(lit(1000_i64)).and(col("i").gt(lit(3))), 0, &numbers), Some(false));
    }

    #[test]
    fn what_is_not_sure_is_left_to_datafusion() {
        let numbers = filter(1 << 10, |_| {});
        let is = |name: &str| col(name).eq(lit(5_i64));
        assert_eq!(answers(is("n"), 0, &numbers), Some(false));
        for predicate in
            [is("n").or(is("u")), col("n").not_eq(lit(5_i64)), col("n").gt(lit(5_i64)), col("n").eq(lit(ScalarValue::Int64(None))), is("i")]
        {
            assert_eq!(answers(predicate.clone(), 0, &numbers), None, "{predicate}");
        }
        // Values that are something else in the file, and columns of structs.
        for (name, column) in [("t", 3), ("u", 4), ("n", 1), ("n", 6)] {
            assert_eq!(answers(is(name), column, &numbers), None, "{name} {column}");
        }
        assert_eq!(answers(col("s").eq(lit("a")), 5, &numbers), None);
        // More values than it is worth to ask for one by one.
        let among = |count: i64| col("n").in_list((0..count).map(lit).collect(), false);
        assert_eq!((answers(among(5), 0, &numbers), answers(among(6), 0, &numbers)), (Some(false), None));
        // No filters, or cut ones.
        for bytes in
            [&b""[..], &[0x15], &numbers[..numbers.len() % BLOCK_BYTES], &numbers[..numbers.len() - 1], &numbers[1..], &numbers[..40]]
        {
            assert_eq!(answers(is("n"), 0, &Bytes::copy_from_slice(bytes)), None);
        }
    }
}
