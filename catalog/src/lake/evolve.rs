//! From a file's schema to the table's: missing columns, promoted types, structs that gained, lost or reordered
//! children at any depth.
//!
//! Columns meet by name, for the footer has been renamed before (see `rename`). DataFusion's own adapter refuses structs
//! without a common child, maps, and casts a column for a difference in metadata alone; hence this one.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};

/// An overflow is an error and never a NULL: a value that does not fit means that the file is not what the table says.
const CHECKED: CastOptions<'static> = CastOptions { safe: false, format_options: datafusion::common::format::DEFAULT_FORMAT_OPTIONS };

/// Makes the adapters for one table.
#[derive(Debug, Default)]
pub(crate) struct EvolveFactory {
    /// What a column reads as in files that were written before it was added; others read as NULL.
    pub initial_defaults: HashMap<String, ScalarValue>,
}

impl PhysicalExprAdapterFactory for EvolveFactory {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        Ok(Arc::new(Evolve { table, file, initial_defaults: self.initial_defaults.clone() }))
    }
}

#[derive(Debug)]
struct Evolve {
    table: SchemaRef,
    file: SchemaRef,
    initial_defaults: HashMap<String, ScalarValue>,
}

impl PhysicalExprAdapter for Evolve {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        expr.transform(|node| match node.downcast_ref::<Column>() {
            Some(column) => self.column(column).map(Transformed::yes),
            None => Ok(Transformed::no(node)),
        })
        .data()
    }
}

impl Evolve {
    fn column(&self, column: &Column) -> Result<Arc<dyn PhysicalExpr>> {
        let name = column.name();
        let Ok(wanted) = self.table.field_with_name(name) else {
            return exec_err!("column \"{name}\" is not in the table");
        };
        let Some((index, found)) = self.file.column_with_name(name) else {
            let value = match self.initial_defaults.get(name) {
                Some(value) => value.clone(),
                None => ScalarValue::try_new_null(wanted.data_type())?,
            };
            return Ok(Arc::new(Literal::new(value)));
        };
        let (from, to) = (found.data_type(), wanted.data_type());
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, index));
        if from == to {
            return Ok(column);
        }
        check(name, from, to)?;
        if is_nested(to) {
            return Ok(Arc::new(EvolveExpr { input: column, target: to.clone() }));
        }
        // A plain cast is understood by pruning.
        Ok(Arc::new(CastExpr::new(column, to.clone(), Some(CHECKED))))
    }
}

fn is_nested(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Struct(_) | DataType::List(_) | DataType::Map(..))
}

/// Whether every value of a file's type has its like in the table's, or an error when it has not.
fn check(name: &str, from: &DataType, to: &DataType) -> Result<()> {
    use DataType::*;
    let fits = match (from, to) {
        (Struct(from), Struct(to)) => {
            for field in to {
                if let Some((_, found)) = from.find(field.name()) {
                    check(field.name(), found.data_type(), field.data_type())?;
                }
            }
            true
        }
        (List(from), List(to)) => return check(name, from.data_type(), to.data_type()),
        (Map(from, _), Map(to, _)) => {
            for (from, to) in entries(from).iter().zip(entries(to)) {
                check(name, from.data_type(), to.data_type())?;
            }
            entries(from).len() == 2 && entries(to).len() == 2
        }
        (from, to) if from == to => true,
        (Null, _) => true,
        (from, to) if from.is_integer() && to.is_integer() => true,
        (from, Float64 | Decimal128(..)) if from.is_integer() => true,
        (Float32, Float64) => true,
        (Decimal32(_, from) | Decimal64(_, from) | Decimal128(_, from), Decimal128(_, to)) => from <= to,
        (Date32, Timestamp(_, None)) | (Timestamp(..), Timestamp(..)) => true,
        (Time32(_) | Time64(_), Time32(_) | Time64(_)) => true,
        (Binary | LargeBinary | BinaryView | FixedSizeBinary(_), Binary | Utf8 | Utf8View) => true,
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | Utf8View | Binary) => true,
        _ => false,
    };
    if fits { Ok(()) } else { exec_err!("column \"{name}\" is {from} in a file and {to} in the table") }
}

/// The fields of a map's entries: its key and its value.
fn entries(field: &FieldRef) -> &[FieldRef] {
    match field.data_type() {
        DataType::Struct(fields) => fields,
        _ => &[],
    }
}

/// A nested column in the shape of the table.
#[derive(Debug, Clone)]
struct EvolveExpr {
    input: Arc<dyn PhysicalExpr>,
    target: DataType,
}

impl PartialEq for EvolveExpr {
    fn eq(&self, other: &Self) -> bool {
        self.input.eq(&other.input) && self.target == other.target
    }
}

impl Eq for EvolveExpr {}

impl Hash for EvolveExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.target.hash(state);
    }
}

impl fmt::Display for EvolveExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evolve({})", self.input)
    }
}

impl PhysicalExpr for EvolveExpr {
    fn data_type(&self, _input: &Schema) -> Result<DataType> {
        Ok(self.target.clone())
    }

    fn nullable(&self, _input: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let input = self.input.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(evolve(&input, &self.target)?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self { input, target: self.target.clone() })),
            _ => exec_err!("one child expected"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.input.fmt_sql(f)
    }
}

/// The array in the target's type. Struct children meet by name, keys and values of maps by position.
fn evolve(array: &ArrayRef, target: &DataType) -> Result<ArrayRef> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), target) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let source = array.as_struct();
            let children = fields.iter().map(|field| match source.column_by_name(field.name()) {
                Some(child) => evolve(child, field.data_type()),
                None => Ok(new_null_array(field.data_type(), source.len())),
            });
            let children = children.collect::<Result<Vec<_>>>()?;
            let nulls = source.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), children, nulls, source.len())?))
        }
        (DataType::List(_), DataType::List(element)) => {
            let source = array.as_list::<i32>();
            let values = evolve(source.values(), element.data_type())?;
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), source.offsets().clone(), values, source.nulls().cloned())?))
        }
        (DataType::Map(..), DataType::Map(field, sorted)) => {
            let source = array.as_map();
            let fields = entries(field);
            let children = fields.iter().zip(source.entries().columns()).map(|(to, child)| evolve(child, to.data_type()));
            let children = children.collect::<Result<Vec<_>>>()?;
            let entries = StructArray::try_new(Fields::from(fields), children, None)?;
            let (offsets, nulls) = (source.offsets().clone(), source.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *sorted)?))
        }
        _ => Ok(cast_with_options(array, target, &CHECKED)?),
    }
}
