//! From a masking policy to what it does to a table's columns: checked when it is made, and bound again, to the same
//! columns, whenever it is used.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility, cast, when};
use lazaret_auth::policy::BoundColumn;
use lazaret_auth::{Grant, MaskAction, Masking, MaskingPolicy};

use super::actions::{taken, takes};
use super::bind::{
    BindError, PolicyBinder, bound_column, columns_now, find_column, keep_guards, open_schema, plan_error, renamed, type_name,
};
use super::masks::{Mask, MaskKeys, Masks};

/// What a new masking policy is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMask {
    pub columns: Vec<BoundColumn>,
    /// What its expression reads.
    pub reads: Vec<BoundColumn>,
}

impl PolicyBinder<'_> {
    /// Checks a new masking policy against a table.
    pub fn bind_new_mask(&self, masking: &Masking, columns: &[&str], schema: &Schema) -> Result<NewMask, BindError> {
        let mut masked = Vec::with_capacity(columns.len());
        let mut reads = Vec::new();
        for name in columns {
            let field = schema.field_with_name(name).map_err(|_| BindError::NoColumn((*name).to_owned()))?;
            masked.push(bound_column(field));
            match masking {
                Masking::Action(action) => check_action(*action, field)?,
                Masking::Expression(text) => {
                    let every = schema.fields().iter().map(|field| (field.name().as_str(), field.as_ref()));
                    let expr = self.plan_mask(text, every, field)?;
                    // What is wrong with a constant would close the table later.
                    self.simplify(expr.clone(), schema)?;
                    let read = |field: &&std::sync::Arc<Field>| expr.column_refs().iter().any(|column| column.name == *field.name());
                    reads = schema.fields().iter().filter(read).map(|field| bound_column(field)).collect();
                }
            }
        }
        Ok(NewMask { columns: masked, reads })
    }

    /// The masks of a grant over the table as it is now. One that does not bind closes the table for whom it masks.
    pub fn bind_masks(&self, grant: &Grant, schema: &Schema, keys: &MaskKeys) -> Result<Masks, BindError> {
        let mut masks = BTreeMap::new();
        for mask in grant.masks() {
            let closed = |reason: String| BindError::MaskClosed { policy: mask.policy.name.clone(), reason };
            let field = find_column(&mask.column, schema).map_err(closed)?;
            // By priority: two that were bound to one column in different ways are still one mask.
            if masks.contains_key(field.name()) {
                continue;
            }
            let bound = self.bind_mask(&mask.policy, field, schema, keys).map_err(|error| match error {
                BindError::MaskClosed { .. } => error,
                other => closed(other.to_string()),
            })?;
            masks.insert(field.name().clone(), bound);
        }
        Ok(Masks::new(masks))
    }

    fn bind_mask(&self, policy: &MaskingPolicy, field: &Field, schema: &Schema, keys: &MaskKeys) -> Result<Mask, BindError> {
        match &policy.masking {
            Masking::Action(action) => {
                check_action(*action, field)?;
                Ok(Mask::action(*action, keys))
            }
            Masking::Expression(text) => {
                let closed = |reason: String| BindError::MaskClosed { policy: policy.name.clone(), reason };
                let columns = columns_now(&policy.reads, schema).map_err(closed)?;
                let expr = self.plan_mask(text, columns.iter().map(|(name, field)| (*name, *field)), field)?;
                let expr = renamed(expr, &columns).map_err(|error| plan_error(&error))?;
                let column = Expr::Column(Column::new_unqualified(field.name()));
                let null = ScalarValue::try_from(field.data_type()).map_err(|error| plan_error(&error))?;
                let kept = when(column.is_null(), Expr::Literal(null, None)).otherwise(expr).map_err(|error| plan_error(&error))?;
                let every = schema.fields().iter().map(|field| (field.name().as_str(), field.as_ref()));
                let kept = keep_guards(kept, &open_schema(every)?)?;
                Ok(Mask::Expression(self.simplify(kept, schema)?))
            }
        }
    }

    /// An expression over these columns with exactly the type of `masked`.
    fn plan_mask<'c>(&self, text: &str, columns: impl Iterator<Item = (&'c str, &'c Field)>, masked: &Field) -> Result<Expr, BindError> {
        let schema = open_schema(columns)?;
        let expr = self.plan_expression(text, &schema)?;
        let wanted = masked.data_type();
        let other = |found| BindError::MaskType { column: masked.name().clone(), wanted: wanted.clone(), found };
        self.fit(expr, &schema, wanted)?.map_err(other)
    }

    /// The expression as this type, where it has it but for how it is laid out, or can be given it without a loss; else
    /// the type that it has.
    fn fit(&self, expr: Expr, schema: &DFSchema, wanted: &DataType) -> Result<Result<Expr, DataType>, BindError> {
        let planned = |error| plan_error(&error);
        if let Expr::Case(mut case) = expr {
            for (_, then) in &mut case.when_then_expr {
                match self.fit(then.as_ref().clone(), schema, wanted)? {
                    Ok(fitted) => **then = fitted,
                    Err(found) => return Ok(Err(found)),
                }
            }
            if let Some(otherwise) = &mut case.else_expr {
                match self.fit(otherwise.as_ref().clone(), schema, wanted)? {
                    Ok(fitted) => **otherwise = fitted,
                    Err(found) => return Ok(Err(found)),
                }
            }
            let case = self.coerce(Expr::Case(case), schema)?;
            let found = case.get_type(schema).map_err(planned)?;
            return Ok(if found == *wanted { Ok(case) } else { Ok(cast(case, wanted.clone())) });
        }
        let expr = self.coerce(expr, schema)?;
        let found = expr.get_type(schema).map_err(planned)?;
        if found == *wanted {
            return Ok(Ok(expr));
        }
        if found == DataType::Null {
            return Ok(Ok(Expr::Literal(ScalarValue::try_from(wanted).map_err(planned)?, None)));
        }
        if is_same_type(&found, wanted) || widens(&found, wanted) {
            return Ok(Ok(cast(expr, wanted.clone())));
        }
        if is_constant(&expr)
            && let Expr::Literal(value, _) = self.simplify_in(expr, schema)?
            && let Some(value) = without_loss(&value, wanted)
        {
            return Ok(Ok(Expr::Literal(value, None)));
        }
        Ok(Err(found))
    }
}

fn check_action(action: MaskAction, field: &Field) -> Result<(), BindError> {
    if takes(action, field.data_type()) {
        return Ok(());
    }
    let (column, found) = (field.name().clone(), field.data_type().clone());
    Err(BindError::MaskAction { action: action.name(), takes: taken(action), column, found })
}

/// The same to whoever writes SQL: layouts, units of time and spellings of UTC apart.
fn is_same_type(found: &DataType, wanted: &DataType) -> bool {
    match (found, wanted) {
        (DataType::Timestamp(_, one), DataType::Timestamp(_, other)) => one.is_some() == other.is_some(),
        _ => type_name(found) == type_name(wanted),
    }
}

/// Casts that keep every value.
fn widens(found: &DataType, wanted: &DataType) -> bool {
    use DataType::*;
    match found {
        Int8 => matches!(wanted, Int16 | Int32 | Int64),
        Int16 => matches!(wanted, Int32 | Int64),
        Int32 => matches!(wanted, Int64),
        UInt8 => matches!(wanted, UInt16 | UInt32 | UInt64 | Int16 | Int32 | Int64),
        UInt16 => matches!(wanted, UInt32 | UInt64 | Int32 | Int64),
        UInt32 => matches!(wanted, UInt64 | Int64),
        Float32 => matches!(wanted, Float64),
        Decimal128(digits, scale) => {
            let whole = |digits: u8, scale: i8| i16::from(digits) - i16::from(scale);
            matches!(wanted, Decimal128(p, s) | Decimal256(p, s) if s >= scale && whole(*p, *s) >= whole(*digits, *scale))
        }
        _ => false,
    }
}

/// Whether it is the same for everybody and always, so that what it fits now it fits later.
fn is_constant(expr: &Expr) -> bool {
    let changes = |part: &Expr| match part {
        Expr::Column(_) => true,
        Expr::ScalarFunction(call) => call.func.signature().volatility != Volatility::Immutable,
        _ => false,
    };
    use datafusion::common::tree_node::TreeNode;
    !expr.exists(|part| Ok(changes(part))).unwrap_or(true)
}

/// A number as another type of number, where it is the same number.
fn without_loss(value: &ScalarValue, wanted: &DataType) -> Option<ScalarValue> {
    if !value.data_type().is_numeric() || !wanted.is_numeric() {
        return None;
    }
    let fitted = value.cast_to(wanted).ok().filter(|fitted| !fitted.is_null() && fitted.data_type() == *wanted)?;
    (fitted.cast_to(&value.data_type()).ok()? == *value).then_some(fitted)
}
