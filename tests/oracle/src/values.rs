//! Values, and rows of them: as Arrow arrays, and as SQL that makes the same rows.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int16Array, Int32Array, Int64Array, ListBuilder, RecordBatch,
    StringArray, StringBuilder, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    BigInt,
    Int,
    SmallInt,
    Text,
    Bool,
    Date,
    Timestamp,
    Decimal,
    Double,
    List,
    Struct,
}

impl Type {
    pub const EVERY: [Self; 11] = [
        Self::BigInt,
        Self::Int,
        Self::SmallInt,
        Self::Text,
        Self::Bool,
        Self::Date,
        Self::Timestamp,
        Self::Decimal,
        Self::Double,
        Self::List,
        Self::Struct,
    ];

    pub fn is_integer(self) -> bool {
        matches!(self, Self::BigInt | Self::Int | Self::SmallInt)
    }

    /// Whether ORDER BY, GROUP BY and set operations take it.
    pub fn is_ordered(self) -> bool {
        !matches!(self, Self::List | Self::Struct)
    }

    pub fn data_type(self) -> DataType {
        match self {
            Self::BigInt => DataType::Int64,
            Self::Int => DataType::Int32,
            Self::SmallInt => DataType::Int16,
            Self::Text => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Decimal => DataType::Decimal128(10, 2),
            Self::Double => DataType::Float64,
            Self::List => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
            Self::Struct => DataType::Struct(struct_fields()),
        }
    }

    /// A column of texts, as [`Value::sql`] writes them, in this type.
    fn of_text(self, column: &str) -> String {
        match self {
            Self::List | Self::Struct => column.to_owned(),
            Self::Date => format!("arrow_cast(CAST({column} AS INT), 'Date32')"),
            Self::Timestamp => format!("arrow_cast(CAST({column} AS BIGINT), 'Timestamp(Microsecond, None)')"),
            kind => format!("CAST({column} AS {})", kind.sql().unwrap_or("VARCHAR")),
        }
    }

    /// The name that CAST has for it; `None` for what has none.
    pub fn sql(self) -> Option<&'static str> {
        Some(match self {
            Self::BigInt => "BIGINT",
            Self::Int => "INT",
            Self::SmallInt => "SMALLINT",
            Self::Text => "VARCHAR",
            Self::Bool => "BOOLEAN",
            Self::Date => "DATE",
            Self::Decimal => "DECIMAL(10, 2)",
            Self::Double => "DOUBLE",
            Self::Timestamp | Self::List | Self::Struct => return None,
        })
    }
}

/// Integers, days, microseconds and hundredths are numbers; which, the column says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Number(i64),
    Text(String),
    Bool(bool),
    Double(f64),
    List(Vec<Value>),
    /// `a` and `b`.
    Struct(Box<[Value; 2]>),
}

impl Value {
    pub fn number(&self) -> Option<i64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// As it stands in VALUES; [`Type::of_text`] makes the type of it.
    fn sql(&self, kind: Type) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        match (self, kind) {
            (Self::Null, Type::List) => "arrow_cast(NULL, 'List(Utf8)')".to_owned(),
            (Self::Null, Type::Struct) => "CASE WHEN false THEN named_struct('a', CAST(1 AS INT), 'b', CAST('' AS VARCHAR)) END".to_owned(),
            (Self::Null, _) => "NULL".to_owned(),
            (Self::Number(cents), Type::Decimal) => {
                let sign = if *cents < 0 { "-" } else { "" };
                quoted(&format!("{sign}{}.{:02}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100))
            }
            (Self::Number(number), _) => quoted(&number.to_string()),
            (Self::Text(text), _) => quoted(text),
            (Self::Bool(value), _) => quoted(&value.to_string()),
            (Self::Double(value), _) => quoted(&format!("{value:e}")),
            (Self::List(items), _) => {
                let items: Vec<String> = items.iter().map(|item| item.sql(Type::Text)).collect();
                format!("arrow_cast(make_array({}), 'List(Utf8)')", items.join(", "))
            }
            (Self::Struct(children), _) => {
                let [a, b] = children.as_ref();
                format!("named_struct('a', CAST({} AS INT), 'b', CAST({} AS VARCHAR))", a.sql(Type::Int), b.sql(Type::Text))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub kind: Type,
}

impl Column {
    pub(crate) fn new(name: &str, kind: Type) -> Self {
        Self { name: name.to_owned(), kind }
    }
}

/// Rows of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
}

impl Rows {
    pub fn schema(&self) -> SchemaRef {
        let fields = self.columns.iter().map(|column| Field::new(&column.name, column.kind.data_type(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    pub fn batch(&self, range: Range<usize>) -> RecordBatch {
        let rows = &self.rows[range];
        let column = |(index, column): (usize, &Column)| array(column.kind, rows.iter().map(|row| &row[index]).collect());
        let arrays = self.columns.iter().enumerate().map(column).collect();
        RecordBatch::try_new(self.schema(), arrays).unwrap_or_else(|error| unreachable!("columns of the schema: {error}"))
    }

    pub fn value<'a>(&self, row: &'a [Value], column: &str) -> &'a Value {
        let index = self.columns.iter().position(|it| it.name == column);
        index.map_or(&Value::Null, |index| &row[index])
    }

    pub fn kind(&self, column: &str) -> Option<Type> {
        self.columns.iter().find(|it| it.name == column).map(|it| it.kind)
    }

    /// Without these columns.
    pub fn without(&self, columns: &[String]) -> Self {
        let kept: Vec<usize> = (0..self.columns.len()).filter(|index| !columns.contains(&self.columns[*index].name)).collect();
        Self {
            columns: kept.iter().map(|index| self.columns[*index].clone()).collect(),
            rows: self.rows.iter().map(|row| kept.iter().map(|index| row[*index].clone()).collect()).collect(),
        }
    }

    /// A query that gives these rows, in their types.
    pub fn sql(&self) -> String {
        let row = |row: &Vec<Value>| {
            let values: Vec<String> = row.iter().zip(&self.columns).map(|(value, column)| value.sql(column.kind)).collect();
            format!("({})", values.join(", "))
        };
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let columns: Vec<String> = self.columns.iter().map(|Column { name, kind }| format!("{} AS {name}", kind.of_text(name))).collect();
        // Of no rows, one that is not there tells the types.
        let nulls = vec![vec![Value::Null; self.columns.len()]];
        let (rows, condition) = if self.rows.is_empty() { (&nulls, " WHERE false") } else { (&self.rows, "") };
        let rows: Vec<String> = rows.iter().map(row).collect();
        format!("SELECT {} FROM (VALUES {}) AS made ({}){condition}", columns.join(", "), rows.join(",\n  "), names.join(", "))
    }
}

fn struct_fields() -> Fields {
    Fields::from(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)])
}

fn array(kind: Type, values: Vec<&Value>) -> ArrayRef {
    let numbers = || values.iter().map(|value| value.number());
    match kind {
        Type::BigInt => Arc::new(Int64Array::from_iter(numbers())),
        Type::Int => Arc::new(Int32Array::from_iter(numbers().map(|it| it.map(|it| it as i32)))),
        Type::SmallInt => Arc::new(Int16Array::from_iter(numbers().map(|it| it.map(|it| it as i16)))),
        Type::Text => Arc::new(StringArray::from_iter(values.iter().map(|value| value.text()))),
        Type::Bool => Arc::new(BooleanArray::from_iter(values.iter().map(|value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }))),
        Type::Date => Arc::new(Date32Array::from_iter(numbers().map(|it| it.map(|it| it as i32)))),
        Type::Timestamp => Arc::new(TimestampMicrosecondArray::from_iter(numbers())),
        Type::Decimal => {
            let array = Decimal128Array::from_iter(numbers().map(|it| it.map(i128::from))).with_precision_and_scale(10, 2);
            Arc::new(array.unwrap_or_else(|error| unreachable!("10 and 2 fit: {error}")))
        }
        Type::Double => Arc::new(Float64Array::from_iter(values.iter().map(|value| match value {
            Value::Double(value) => Some(*value),
            _ => None,
        }))),
        Type::List => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for value in values {
                match value {
                    Value::List(items) => {
                        items.iter().for_each(|item| lists.values().append_option(item.text()));
                        lists.append(true);
                    }
                    _ => lists.append(false),
                }
            }
            Arc::new(lists.finish())
        }
        Type::Struct => {
            let child = |index: usize| -> Vec<&Value> {
                values.iter().map(|value| if let Value::Struct(children) = value { &children[index] } else { &Value::Null }).collect()
            };
            let nulls = NullBuffer::from_iter(values.iter().map(|value| matches!(value, Value::Struct(_))));
            let children = vec![array(Type::Int, child(0)), array(Type::Text, child(1))];
            Arc::new(StructArray::new(struct_fields(), children, Some(nulls)))
        }
    }
}
