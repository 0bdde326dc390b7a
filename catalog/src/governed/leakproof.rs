//! Which predicates may run on rows that the reader must not see: those that can neither fail nor show what they saw.
//!
//! Everything is refused that is not listed here (PostgreSQL's `LEAKPROOF`, as a list of shapes). Such predicates may go
//! below the barrier, where they choose what is read, and are evaluated beside the policy or by the barrier itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CastExpr, Column, DynamicFilterPhysicalExpr, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
use datafusion::physical_expr::utils::collect_columns;

use super::bind::Rows;
use super::masks::Masks;

/// Entries of an IN list. A longer one is evaluated above the barrier only: its cost must not fall on hidden rows.
const MAX_IN_LIST: usize = 4096;

/// Bytes of a LIKE pattern. A pattern becomes a regular expression, and compiling a long one can fail.
const MAX_PATTERN_BYTES: usize = 256;

/// Levels of nesting that are looked at; deeper predicates stay above the barrier.
const MAX_DEPTH: usize = 128;

/// Whether a logical predicate over the columns of `schema` may run on hidden rows.
pub(crate) fn is_leakproof(expr: &Expr, schema: &Schema) -> bool {
    logical_type(expr, schema, MAX_DEPTH) == Some(DataType::Boolean)
}

/// The columns of a governed relation that are read, not computed, and not masked. A predicate on any other would become one on the
/// expression behind it, on its way down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PlainColumns {
    Every,
    Only(Arc<BTreeSet<String>>),
}

impl PlainColumns {
    /// Of these, those that are not masked.
    pub(crate) fn unmasked(self, schema: &Schema, masks: &Masks) -> Self {
        if masks.is_empty() {
            return self;
        }
        let shown = |name: &&String| !masks.masks(name);
        let names: BTreeSet<String> = match &self {
            Self::Every => schema.fields().iter().map(|field| field.name()).filter(shown).cloned().collect(),
            Self::Only(names) => names.iter().filter(shown).cloned().collect(),
        };
        Self::Only(Arc::new(names))
    }

    /// None of them where the policy itself may fail: a reader's predicate that chose what is read would choose with it on
    /// which hidden rows the policy is evaluated.
    pub(crate) fn under(self, rows: &Rows, schema: &Schema) -> Self {
        match rows {
            Rows::Where(policy) if !is_leakproof(policy, schema) => Self::Only(Arc::default()),
            Rows::Where(_) | Rows::All | Rows::None | Rows::OfQuery => self,
        }
    }

    pub(crate) fn admit(&self, filter: &Expr) -> bool {
        match self {
            Self::Every => true,
            Self::Only(names) => filter.column_refs().into_iter().all(|column| names.contains(&column.name)),
        }
    }

    pub(crate) fn admit_physical(&self, filter: &Arc<dyn PhysicalExpr>) -> bool {
        match self {
            Self::Every => true,
            Self::Only(names) => collect_columns(filter).iter().all(|column| names.contains(column.name())),
        }
    }
}

/// Whether an expression of any type can be computed on hidden rows.
pub(crate) fn is_total(expr: &Expr, schema: &Schema) -> bool {
    logical_type(expr, schema, MAX_DEPTH).is_some()
}

/// The same for a physical predicate. Its columns are looked up by position, and must have the name that is there.
pub(crate) fn is_leakproof_physical(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    physical_type(expr, schema, MAX_DEPTH) == Some(DataType::Boolean)
}

/// The type of an expression on the list; `None` for any other.
fn logical_type(expr: &Expr, schema: &Schema, depth: usize) -> Option<DataType> {
    let depth = depth.checked_sub(1)?;
    let of = |expr: &Expr| logical_type(expr, schema, depth);
    match expr {
        Expr::Column(column) => Some(schema.field_with_name(&column.name).ok()?.data_type().clone()),
        Expr::Literal(value, _) => literal_type(value),
        Expr::Cast(cast) => widened(of(&cast.expr)?, cast.field.data_type()),
        Expr::BinaryExpr(binary) => combined(binary.op, of(&binary.left)?, of(&binary.right)?),
        Expr::Not(inner) => boolean(of(inner)?),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => of(inner).map(|_| DataType::Boolean),
        Expr::IsTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsUnknown(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsNotUnknown(inner) => boolean(of(inner)?),
        Expr::Between(between) => {
            let value = of(&between.expr)?;
            let low = combined(Operator::GtEq, value.clone(), of(&between.low)?)?;
            combined(Operator::And, low, combined(Operator::LtEq, value, of(&between.high)?)?)
        }
        Expr::InList(list) if list.list.len() <= MAX_IN_LIST => {
            let value = of(&list.expr)?;
            let literals = list.list.iter().all(|item| match item {
                Expr::Literal(item, _) => literal_type(item).is_some_and(|item| comparable(&value, &item)),
                _ => false,
            });
            literals.then_some(DataType::Boolean)
        }
        Expr::Like(like) if !like.case_insensitive && like.escape_char.is_none() => match like.pattern.as_ref() {
            Expr::Literal(pattern, _) => matched(of(&like.expr)?, pattern),
            _ => None,
        },
        _ => None,
    }
}

fn physical_type(expr: &Arc<dyn PhysicalExpr>, schema: &Schema, depth: usize) -> Option<DataType> {
    let depth = depth.checked_sub(1)?;
    let of = |expr: &Arc<dyn PhysicalExpr>| physical_type(expr, schema, depth);
    if let Some(column) = expr.downcast_ref::<Column>() {
        let field = schema.fields().get(column.index()).filter(|field| field.name() == column.name())?;
        Some(field.data_type().clone())
    } else if let Some(literal) = expr.downcast_ref::<Literal>() {
        literal_type(literal.value())
    } else if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        widened(of(cast.expr())?, cast.cast_type())
    } else if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        combined(*binary.op(), of(binary.left())?, of(binary.right())?)
    } else if let Some(not) = expr.downcast_ref::<NotExpr>() {
        boolean(of(not.arg())?)
    } else if let Some(null) = expr.downcast_ref::<IsNullExpr>() {
        of(null.arg()).map(|_| DataType::Boolean)
    } else if let Some(null) = expr.downcast_ref::<IsNotNullExpr>() {
        of(null.arg()).map(|_| DataType::Boolean)
    } else if let Some(list) = expr.downcast_ref::<InListExpr>().filter(|list| list.len() <= MAX_IN_LIST) {
        let value = of(list.expr())?;
        let literals = list.list().iter().all(|item| {
            item.downcast_ref::<Literal>().and_then(|item| literal_type(item.value())).is_some_and(|item| comparable(&value, &item))
        });
        literals.then_some(DataType::Boolean)
    } else if let Some(like) = expr.downcast_ref::<LikeExpr>().filter(|like| !like.case_insensitive()) {
        matched(of(like.expr())?, like.pattern().downcast_ref::<Literal>()?.value())
    } else if let Some(dynamic) = expr.downcast_ref::<DynamicFilterPhysicalExpr>() {
        // What it becomes later is made by DataFusion of comparisons and look-ups over exactly these children. Joins take -0 and 0
        // for one key, the look-ups for two.
        let children = dynamic.children().into_iter().all(|child| of(child).is_some_and(|data_type| !data_type.is_floating()));
        (children && of(&dynamic.current().ok()?)? == DataType::Boolean).then_some(DataType::Boolean)
    } else {
        None
    }
}

fn boolean(inner: DataType) -> Option<DataType> {
    (inner == DataType::Boolean).then_some(DataType::Boolean)
}

fn literal_type(value: &ScalarValue) -> Option<DataType> {
    let data_type = value.data_type();
    is_plain(without_dictionary(&data_type)).then_some(data_type)
}

fn combined(op: Operator, left: DataType, right: DataType) -> Option<DataType> {
    let allowed = match op {
        Operator::And | Operator::Or => left == DataType::Boolean && right == DataType::Boolean,
        Operator::Eq
        | Operator::NotEq
        | Operator::Lt
        | Operator::LtEq
        | Operator::Gt
        | Operator::GtEq
        | Operator::IsDistinctFrom
        | Operator::IsNotDistinctFrom => comparable(&left, &right),
        _ => false,
    };
    allowed.then_some(DataType::Boolean)
}

fn matched(value: DataType, pattern: &ScalarValue) -> Option<DataType> {
    let text = match pattern {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => text.as_deref()?,
        _ => return None,
    };
    (comparable(&value, &pattern.data_type()) && text.len() <= MAX_PATTERN_BYTES).then_some(DataType::Boolean)
}

fn comparable(left: &DataType, right: &DataType) -> bool {
    let (left, right) = (without_dictionary(left), without_dictionary(right));
    left == right && is_plain(left)
}

fn without_dictionary(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

/// Types whose comparison is a total function.
fn is_plain(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float16 | Float32 | Float64 => true,
        Timestamp(..) | Date32 | Date64 | Time32(_) | Time64(_) | Duration(_) => true,
        Binary | FixedSizeBinary(_) | LargeBinary | BinaryView | Utf8 | LargeUtf8 | Utf8View => true,
        Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) => true,
        Null | Interval(_) | List(_) | ListView(_) | FixedSizeList(..) | LargeList(_) | LargeListView(_) => false,
        Struct(_) | Union(..) | Dictionary(..) | Map(..) | RunEndEncoded(..) => false,
    }
}

/// The casts that hold for every value, whatever a file may contain. Not on it: decimals (a file may hold more digits than
/// declared), dates and timestamps (they overflow), views to offsets (a batch may hold more than 2 GiB).
fn widened(from: DataType, to: &DataType) -> Option<DataType> {
    use DataType::*;
    let lossless = match &from {
        Int8 => matches!(to, Int16 | Int32 | Int64 | Float32 | Float64),
        Int16 => matches!(to, Int32 | Int64 | Float32 | Float64),
        Int32 => matches!(to, Int64 | Float64),
        UInt8 => matches!(to, UInt16 | UInt32 | UInt64 | Int16 | Int32 | Int64 | Float32 | Float64),
        UInt16 => matches!(to, UInt32 | UInt64 | Int32 | Int64 | Float32 | Float64),
        UInt32 => matches!(to, UInt64 | Int64 | Float64),
        Float32 => matches!(to, Float64),
        Utf8 => matches!(to, LargeUtf8 | Utf8View),
        Binary => matches!(to, LargeBinary | BinaryView),
        _ => false,
    };
    lossless.then(|| to.clone())
}
