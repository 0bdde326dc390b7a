//! The masks that need no expression: arrays in, arrays of the same type out, NULLs where they were. None can fail on a
//! value. They are those of Iceberg's read restrictions (REST specification, `ReadRestrictions`), with two of ours: a
//! short value is never shown whole, and hashes are keyed.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, FixedSizeListArray, GenericListArray, LargeBinaryArray, LargeStringArray,
    MapArray, OffsetSizeTrait, StringArray, StringViewArray, StructArray, make_array, new_null_array,
};
use arrow::datatypes::{
    ArrowTimestampType, DataType, Date32Type, Date64Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt64Type,
};
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::Result;
use lazaret_auth::{MaskAction, MaskKey};

/// Most characters that `show_first_4` and `show_last_4` show.
const SHOWN_CHARS: usize = 4;

const SECONDS_PER_DAY: i64 = 86_400;
const MILLISECONDS_PER_DAY: i64 = SECONDS_PER_DAY * 1_000;

/// Kinds of values whose hashes have nothing to do with each other.
const TEXT: u8 = 0;
const BINARY: u8 = 1;
const INTEGER: u8 = 2;

/// Whether the action can mask columns of this type: every leaf of a nested one must be of a type that it takes.
pub(crate) fn takes(action: MaskAction, data_type: &DataType) -> bool {
    use DataType::*;
    if action == MaskAction::ReplaceWithNull {
        return true;
    }
    match data_type {
        List(item) | LargeList(item) | FixedSizeList(item, _) | Map(item, _) => takes(action, item.data_type()),
        Struct(fields) => !fields.is_empty() && fields.iter().all(|field| takes(action, field.data_type())),
        Dictionary(_, values) => takes(action, values),
        leaf => match action {
            MaskAction::ReplaceWithNull => true,
            MaskAction::MaskAlphanum | MaskAction::ShowFirst4 | MaskAction::ShowLast4 => matches!(leaf, Utf8 | LargeUtf8 | Utf8View),
            MaskAction::TruncateToMonth | MaskAction::TruncateToYear => matches!(leaf, Date32 | Date64 | Timestamp(..)),
            MaskAction::Sha256QueryLocal | MaskAction::Sha256Global => {
                matches!(leaf, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | Int64 | UInt64)
            }
        },
    }
}

/// The types that the action takes, in words.
pub fn taken(action: MaskAction) -> &'static str {
    match action {
        MaskAction::ReplaceWithNull => "every type",
        MaskAction::MaskAlphanum | MaskAction::ShowFirst4 | MaskAction::ShowLast4 => "text",
        MaskAction::TruncateToMonth | MaskAction::TruncateToYear => "DATE and TIMESTAMP, with and without time zone",
        MaskAction::Sha256QueryLocal | MaskAction::Sha256Global => {
            "text, binary and BIGINT (63 bits of a hash do not fit a smaller integer)"
        }
    }
}

/// An action with the key that it hashes with.
#[derive(Clone, Debug)]
pub(crate) struct ValueMask {
    pub action: MaskAction,
    /// `None`: this statement is planned only, and never runs.
    pub key: Option<MaskKey>,
}

impl ValueMask {
    pub fn apply(&self, values: &ArrayRef) -> Result<ArrayRef> {
        if self.action == MaskAction::ReplaceWithNull {
            return Ok(new_null_array(values.data_type(), values.len()));
        }
        Ok(match values.data_type() {
            DataType::List(_) => self.list::<i32>(values)?,
            DataType::LargeList(_) => self.list::<i64>(values)?,
            DataType::FixedSizeList(item, size) => {
                let list = values.as_fixed_size_list();
                let items = self.apply(list.values())?;
                Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *size, items, list.nulls().cloned())?)
            }
            DataType::Map(entries, ordered) => {
                let map = values.as_map();
                let masked = self.structure(map.entries())?;
                Arc::new(MapArray::try_new(Arc::clone(entries), map.offsets().clone(), masked, map.nulls().cloned(), *ordered)?)
            }
            DataType::Struct(_) => Arc::new(self.structure(values.as_struct())?),
            DataType::Dictionary(..) => {
                let dictionary = values.as_any_dictionary();
                dictionary.with_values(self.apply(dictionary.values())?)
            }
            _ => self.leaf(values)?,
        })
    }

    fn list<O: OffsetSizeTrait>(&self, values: &ArrayRef) -> Result<ArrayRef> {
        let list = values.as_list::<O>();
        let (DataType::List(item) | DataType::LargeList(item)) = list.data_type() else { return internal_err!("a list of no type") };
        let items = self.apply(list.values())?;
        Ok(Arc::new(GenericListArray::<O>::try_new(Arc::clone(item), list.offsets().clone(), items, list.nulls().cloned())?))
    }

    fn structure(&self, values: &StructArray) -> Result<StructArray> {
        let children = values.columns().iter().map(|child| self.apply(child)).collect::<Result<Vec<_>>>()?;
        Ok(StructArray::try_new(values.fields().clone(), children, values.nulls().cloned())?)
    }

    fn leaf(&self, values: &ArrayRef) -> Result<ArrayRef> {
        match self.action {
            MaskAction::ReplaceWithNull => Ok(new_null_array(values.data_type(), values.len())),
            MaskAction::MaskAlphanum => texts(values, |text| text.chars().map(redacted).collect()),
            MaskAction::ShowFirst4 => texts(values, |text| shown(text, |index, _, count| index < count)),
            MaskAction::ShowLast4 => texts(values, |text| shown(text, |index, length, count| index >= length - count)),
            MaskAction::TruncateToMonth => dates(values, first_of_month),
            MaskAction::TruncateToYear => dates(values, first_of_year),
            MaskAction::Sha256QueryLocal | MaskAction::Sha256Global => self.hashes(values),
        }
    }

    fn hashes(&self, values: &ArrayRef) -> Result<ArrayRef> {
        let key = self.key.as_ref().ok_or_else(|| internal_datafusion_err!("a mask has no key to hash with"))?;
        let binary = |value: &[u8]| key.hash(BINARY, value);
        let integer = |value: i128| {
            let [a, b, c, d, e, f, g, h, ..] = key.hash(INTEGER, &value.to_le_bytes());
            u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1
        };
        Ok(match values.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => texts(values, |text| hex(&key.hash(TEXT, text.as_bytes())))?,
            DataType::Binary => Arc::new(values.as_binary::<i32>().iter().map(|value| value.map(binary)).collect::<BinaryArray>()),
            DataType::LargeBinary => {
                Arc::new(values.as_binary::<i64>().iter().map(|value| value.map(binary)).collect::<LargeBinaryArray>())
            }
            DataType::BinaryView => Arc::new(values.as_binary_view().iter().map(|value| value.map(binary)).collect::<BinaryViewArray>()),
            DataType::Int64 => {
                let hash = |value: i64| i64::try_from(integer(i128::from(value))).unwrap_or(0);
                Arc::new(values.as_primitive::<Int64Type>().unary::<_, Int64Type>(hash))
            }
            DataType::UInt64 => Arc::new(values.as_primitive::<UInt64Type>().unary::<_, UInt64Type>(|value| integer(i128::from(value)))),
            other => return internal_err!("a hash of {other}"),
        })
    }
}

fn hex(hash: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn texts(values: &ArrayRef, mask: impl Fn(&str) -> String) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Utf8 => Arc::new(values.as_string::<i32>().iter().map(|text| text.map(&mask)).collect::<StringArray>()),
        DataType::LargeUtf8 => Arc::new(values.as_string::<i64>().iter().map(|text| text.map(&mask)).collect::<LargeStringArray>()),
        DataType::Utf8View => Arc::new(values.as_string_view().iter().map(|text| text.map(&mask)).collect::<StringViewArray>()),
        other => return internal_err!("a text mask of {other}"),
    })
}

/// A digit as `n`, and everything else as `x`, but for what gives telephone numbers and addresses their form.
fn redacted(char: char) -> char {
    match char {
        '0'..='9' => 'n',
        _ if keeps_form(char) => char,
        _ => 'x',
    }
}

fn keeps_form(char: char) -> bool {
    matches!(char, '(' | ')' | ',' | '.' | '-' | '@')
}

/// `is_shown` of index, length and how many are shown: four, or as many as leave no fewer hidden.
fn shown(text: &str, is_shown: impl Fn(usize, usize, usize) -> bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    let hidden = |count: usize| {
        let hidden = chars.iter().enumerate().filter(|(index, char)| !is_shown(*index, chars.len(), count) && !keeps_form(**char));
        hidden.count()
    };
    let count = (1..=SHOWN_CHARS.min(chars.len())).rev().find(|count| hidden(*count) >= *count).unwrap_or(0);
    chars.iter().enumerate().map(|(index, char)| if is_shown(index, chars.len(), count) { *char } else { redacted(*char) }).collect()
}

fn dates(values: &ArrayRef, first: fn(i64) -> i64) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Date32 => {
            let truncate = |day: i32| i32::try_from(first(i64::from(day))).unwrap_or(i32::MIN);
            Arc::new(values.as_primitive::<Date32Type>().unary::<_, Date32Type>(truncate))
        }
        DataType::Date64 => {
            Arc::new(values.as_primitive::<Date64Type>().unary::<_, Date64Type>(|time| truncated(time, MILLISECONDS_PER_DAY, first)))
        }
        DataType::Timestamp(TimeUnit::Second, _) => timestamps::<TimestampSecondType>(values, SECONDS_PER_DAY, first),
        DataType::Timestamp(TimeUnit::Millisecond, _) => timestamps::<TimestampMillisecondType>(values, MILLISECONDS_PER_DAY, first),
        DataType::Timestamp(TimeUnit::Microsecond, _) => timestamps::<TimestampMicrosecondType>(values, SECONDS_PER_DAY * 1_000_000, first),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            timestamps::<TimestampNanosecondType>(values, SECONDS_PER_DAY * 1_000_000_000, first)
        }
        other => return internal_err!("a date mask of {other}"),
    })
}

/// With a time zone too, months and years begin in UTC, which is the time zone of every session.
fn timestamps<T: ArrowTimestampType>(values: &ArrayRef, per_day: i64, first: fn(i64) -> i64) -> ArrayRef {
    let masked = values.as_primitive::<T>().unary::<_, T>(|time| truncated(time, per_day, first));
    let typed = masked.into_data().into_builder().data_type(values.data_type().clone());
    // The same layout under the column's own zone.
    typed.build().map_or_else(|_| new_null_array(values.data_type(), values.len()), make_array)
}

/// Where the first day is before the type's first moment, that moment.
fn truncated(time: i64, per_day: i64, first: fn(i64) -> i64) -> i64 {
    first(time.div_euclid(per_day)).saturating_mul(per_day)
}

fn first_of_month(day: i64) -> i64 {
    let (_, _, day_of_month) = civil(day);
    day - (day_of_month - 1)
}

fn first_of_year(day: i64) -> i64 {
    let (year, _, _) = civil(day);
    // Days before 1 January: of whole 400 years, and of the leap years since.
    let past = year - 1;
    past * 365 + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400) - 719_162
}

/// Year, month and day of the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`): total over every day that a type can hold, where chrono's dates end earlier.
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{
        Date32Array, Int64Array, MapBuilder, StringBuilder, StringDictionaryBuilder, TimestampMicrosecondArray, UInt64Array,
    };
    use arrow::datatypes::{Field, Int32Type};
    use arrow::util::display::array_value_to_string;
    use chrono::{Datelike, NaiveDate};

    use super::*;

    fn mask(action: MaskAction) -> ValueMask {
        ValueMask { action, key: Some(MaskKey::of_one_query().unwrap()) }
    }

    fn text(action: MaskAction, text: &str) -> String {
        let masked = mask(action).apply(&(Arc::new(StringArray::from(vec![text])) as ArrayRef)).unwrap();
        masked.as_string::<i32>().value(0).to_owned()
    }

    #[test]
    fn text_keeps_its_form_and_shows_at_most_half() {
        for (raw, alphanum, first, last) in [
            ("", "", "", ""),
            ("a", "x", "x", "x"),
            ("ab", "xx", "ax", "xb"),
            ("1234", "nnnn", "12nn", "nn34"),
            ("1234567", "nnnnnnn", "123nnnn", "nnnn567"),
            ("12345678", "nnnnnnnn", "1234nnnn", "nnnn5678"),
            ("(351) 912-345.678", "(nnn)xnnn-nnn.nnn", "(351)xnnn-nnn.nnn", "(nnn)xnnn-nnn.678"),
            ("ana@sns.pt", "xxx@xxx.xx", "ana@xxx.xx", "xxx@xxs.pt"),
            ("123-45-6789", "nnn-nn-nnnn", "123-nn-nnnn", "nnn-nn-6789"),
            ("abcd@.-(,)", "xxxx@.-(,)", "abxx@.-(,)", "xxxx@.-(,)"),
            ("São João 7", "xxxxxxxxxn", "São xxxxxn", "xxxxxxão 7"),
            ("東京都千代田区一", "xxxxxxxx", "東京都千xxxx", "xxxx代田区一"),
            ("٣٤٥٦", "xxxx", "٣٤xx", "xx٥٦"),
        ] {
            assert_eq!(text(MaskAction::MaskAlphanum, raw), alphanum, "{raw}");
            assert_eq!((text(MaskAction::ShowFirst4, raw), text(MaskAction::ShowLast4, raw)), (first.to_owned(), last.to_owned()), "{raw}");
        }
    }

    #[test]
    fn dates_are_cut_at_every_edge() {
        for day in (-1_000_000..1_000_000).step_by(997).chain([-719_162, -1, 0, 1, 11_016, 11_017]) {
            let date = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap() + chrono::TimeDelta::days(day);
            let days = |date: NaiveDate| i64::from(date.num_days_from_ce()) - 719_163;
            assert_eq!(first_of_month(day), days(date.with_day(1).unwrap()), "{date}");
            assert_eq!(first_of_year(day), days(NaiveDate::from_ymd_opt(date.year(), 1, 1).unwrap()), "{date}");
        }
        let days: ArrayRef = Arc::new(Date32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX), Some(19_789)]));
        let cut = mask(MaskAction::TruncateToMonth).apply(&days).unwrap();
        assert_eq!(cut.as_primitive::<Date32Type>().value(3), 19_783);
        assert!(cut.is_null(1) && cut.null_count() == 1);

        let times = TimestampMicrosecondArray::from(vec![Some(1_709_856_123_456_789), None, Some(-1), Some(i64::MIN)]);
        for zone in [None, Some("UTC"), Some("America/Sao_Paulo")] {
            let times: ArrayRef = Arc::new(times.clone().with_timezone_opt(zone));
            let cut = mask(MaskAction::TruncateToYear).apply(&times).unwrap();
            assert_eq!(cut.data_type(), times.data_type());
            let cut = cut.as_primitive::<TimestampMicrosecondType>();
            let expected = [Some(1_704_067_200_000_000), None, Some(-31_536_000_000_000), Some(i64::MIN)];
            assert_eq!(cut.iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn hashes_are_of_the_value_and_the_key() {
        for action in [MaskAction::Sha256Global, MaskAction::Sha256QueryLocal] {
            let (one, other) = (mask(action), mask(action));
            let texts: [ArrayRef; 3] = [
                Arc::new(StringArray::from(vec![Some("v"), None, Some("v"), Some("w")])),
                Arc::new(LargeStringArray::from(vec![Some("v"), None, Some("v"), Some("w")])),
                Arc::new(StringViewArray::from(vec![Some("v"), None, Some("v"), Some("w")])),
            ];
            let shown = texts.each_ref().map(|texts| {
                let masked = one.apply(texts).unwrap();
                assert_eq!(masked.data_type(), texts.data_type());
                assert!(masked.is_null(1));
                [0, 2, 3].map(|row| array_value_to_string(&masked, row).unwrap())
            });
            assert_eq!((&shown[0], &shown[0]), (&shown[1], &shown[2]), "whatever the layout");
            let [v, again, w] = &shown[0];
            assert!(v == again && v != w && v.len() == 64 && v.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
            assert_ne!(array_value_to_string(&other.apply(&texts[0]).unwrap(), 0).unwrap(), *v);

            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(-500..500));
            let hashed = one.apply(&numbers).unwrap();
            let hashed: Vec<i64> = hashed.as_primitive::<Int64Type>().values().to_vec();
            assert!(hashed.iter().all(|hash| *hash >= 0) && hashed.iter().any(|hash| *hash > i64::MAX / 2));
            assert_eq!(hashed.iter().collect::<std::collections::BTreeSet<_>>().len(), 1000);
            let unsigned = one.apply(&(Arc::new(UInt64Array::from(vec![7])) as ArrayRef)).unwrap();
            assert_eq!(i64::try_from(unsigned.as_primitive::<UInt64Type>().value(0)).unwrap(), hashed[507]);
            let bytes = one.apply(&(Arc::new(BinaryArray::from(vec![b"v".as_slice()])) as ArrayRef)).unwrap();
            assert_eq!(bytes.as_binary::<i32>().value(0).len(), 32);
            assert!(ValueMask { action, key: None }.apply(&numbers).is_err(), "without a key nothing is shown");
        }
    }

    #[test]
    fn nested_values_are_masked_in_every_leaf() {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value("ab");
        map.values().append_value("cd1");
        map.append(true).unwrap();
        map.append(false).unwrap();
        map.append(true).unwrap();
        let map: ArrayRef = Arc::new(map.finish());
        let mut dictionary = StringDictionaryBuilder::<Int32Type>::new();
        dictionary.extend([Some("ab"), None, Some("ab")]);
        let dictionary: ArrayRef = Arc::new(dictionary.finish());
        let children = vec![
            (Arc::new(Field::new("m", map.data_type().clone(), true)), Arc::clone(&map)),
            (Arc::new(Field::new("d", dictionary.data_type().clone(), true)), dictionary),
        ];
        let nested: ArrayRef = Arc::new(StructArray::from(children));
        // Cut out of a longer array, as a reader may give it.
        for (nested, rows) in [(Arc::clone(&nested), [0, 1, 2].as_slice()), (nested.slice(1, 2), &[1, 2])] {
            let masked = mask(MaskAction::MaskAlphanum).apply(&nested).unwrap();
            assert_eq!((masked.data_type(), masked.len()), (nested.data_type(), nested.len()));
            let all = ["{m: {xx: xxn}, d: xx}", "{m: , d: }", "{m: {}, d: xx}"];
            for (at, row) in rows.iter().enumerate() {
                assert_eq!(array_value_to_string(&masked, at).unwrap(), all[*row]);
            }
        }
        let gone = mask(MaskAction::ReplaceWithNull).apply(&nested).unwrap();
        assert_eq!((gone.null_count(), gone.data_type()), (3, nested.data_type()));
    }

    #[test]
    fn each_action_takes_its_types() {
        let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, true)));
        let of = |fields: Vec<Field>| DataType::Struct(fields.into());
        let mixed = of(vec![Field::new("t", DataType::Utf8, true), Field::new("n", DataType::Int64, true)]);
        let types = [
            ("text", DataType::Utf8View),
            ("texts", list(DataType::Utf8)),
            ("date", DataType::Date32),
            ("time", DataType::Timestamp(TimeUnit::Nanosecond, None)),
            ("bigint", DataType::Int64),
            ("int", DataType::Int32),
            ("binary", DataType::Binary),
            ("mixed", mixed),
            ("empty", of(vec![])),
            ("decimal", DataType::Decimal128(10, 2)),
        ];
        let taken = |action| types.iter().filter(|(_, it)| takes(action, it)).map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
        assert_eq!(taken(MaskAction::ReplaceWithNull).split(' ').count(), types.len());
        for action in [MaskAction::MaskAlphanum, MaskAction::ShowFirst4, MaskAction::ShowLast4] {
            assert_eq!(taken(action), "text texts");
        }
        for action in [MaskAction::TruncateToMonth, MaskAction::TruncateToYear] {
            assert_eq!(taken(action), "date time");
        }
        for action in [MaskAction::Sha256Global, MaskAction::Sha256QueryLocal] {
            assert_eq!(taken(action), "text texts bigint binary mixed");
        }
    }
}
