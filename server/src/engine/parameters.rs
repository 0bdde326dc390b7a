//! The types of a query's parameters, from where they stand, as PostgreSQL tells them. DataFusion knows those beside an
//! operand with a type; here are the others.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result as DfResult};
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, TypeSignature};

use super::failure::from_datafusion;
use crate::error::Result;

/// By placeholder (`$1`), beside those that are known; what nothing tells is not there. Where a parameter is used twice, its
/// first use tells.
pub fn types(plan: &LogicalPlan, known: HashMap<String, DataType>) -> Result<HashMap<String, DataType>> {
    let mut types = known;
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(limit) = node {
            for count in [&limit.skip, &limit.fetch].into_iter().flatten() {
                tell(&mut types, count, Some(DataType::Int64));
            }
        }
        let schema = merge_schema(&node.inputs());
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                look(&mut types, expr, &schema);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    let told: DfResult<_> = visited.map(|_| types);
    told.map_err(from_datafusion)
}

/// As [`types`], of an expression that names no column.
pub fn types_in(expr: &Expr, types: &mut HashMap<String, DataType>) -> Result<()> {
    let schema = DFSchema::empty();
    let visited = expr.apply(|expr| {
        look(types, expr, &schema);
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map(|_| ()).map_err(from_datafusion)
}

/// Nullable fields of concrete types: JDBC binds by what is declared. Timestamps are declared in milliseconds, for it
/// writes those whatever the unit; a type that nothing tells is text.
pub fn declared(types: &HashMap<String, DataType>, count: usize) -> SchemaRef {
    let field = |index| {
        let data_type = match types.get(&placeholder(index)).cloned() {
            None | Some(DataType::Null) => DataType::Utf8,
            Some(DataType::Timestamp(_, zone)) => DataType::Timestamp(TimeUnit::Millisecond, zone),
            Some(other) => other,
        };
        Field::new(placeholder(index), data_type, true)
    };
    Arc::new(Schema::new((0..count).map(field).collect::<Vec<_>>()))
}

/// Of the parameter with this index, the first being 0.
pub fn placeholder(index: usize) -> String {
    format!("${}", index + 1)
}

fn look(types: &mut HashMap<String, DataType>, expr: &Expr, schema: &DFSchema) {
    let known = |expr: &Expr| match expr {
        Expr::Placeholder(_) => None,
        expr => expr.get_type(schema).ok().filter(|it| *it != DataType::Null),
    };
    match expr {
        Expr::Placeholder(Placeholder { field: Some(field), .. }) => tell(types, expr, Some(field.data_type().clone())),
        Expr::Cast(cast) => tell(types, &cast.expr, bindable(cast.field.data_type())),
        Expr::TryCast(cast) => tell(types, &cast.expr, bindable(cast.field.data_type())),
        Expr::Between(between) => tell(types, &between.expr, known(&between.low).or_else(|| known(&between.high))),
        Expr::InList(list) => tell(types, &list.expr, list.list.iter().find_map(known)),
        Expr::Like(like) | Expr::SimilarTo(like) => {
            tell(types, &like.expr, Some(DataType::Utf8));
            tell(types, &like.pattern, Some(DataType::Utf8));
        }
        Expr::Not(inner) | Expr::IsTrue(inner) | Expr::IsFalse(inner) | Expr::IsNotTrue(inner) | Expr::IsNotFalse(inner) => {
            tell(types, inner, Some(DataType::Boolean));
        }
        Expr::Case(case) => {
            if case.expr.is_none() {
                case.when_then_expr.iter().for_each(|(when, _)| tell(types, when, Some(DataType::Boolean)));
            }
            let values = || case.when_then_expr.iter().map(|(_, then)| then.as_ref()).chain(case.else_expr.as_deref());
            let wanted = values().find_map(known);
            values().for_each(|value| tell(types, value, wanted.clone()));
        }
        Expr::ScalarFunction(call) => {
            let signature = &call.func.signature().type_signature;
            call.args.iter().enumerate().for_each(|(index, arg)| tell(types, arg, argument(signature, call.args.len(), index)));
        }
        _ => {}
    }
}

/// The type of an argument, where a function's signature leaves no choice.
fn argument(signature: &TypeSignature, count: usize, index: usize) -> Option<DataType> {
    match signature {
        TypeSignature::Exact(types) if types.len() == count => types.get(index).cloned(),
        TypeSignature::Uniform(_, types) if types.len() == 1 => types.first().cloned(),
        TypeSignature::String(_) => Some(DataType::Utf8),
        TypeSignature::Coercible(coercions) if coercions.len() == count => {
            let wanted = coercions.get(index)?.desired_type();
            wanted.default_casted_type(&datafusion::common::types::NativeType::Null, &DataType::Null).ok()
        }
        TypeSignature::OneOf(signatures) => {
            let mut told = signatures.iter().filter_map(|it| argument(it, count, index));
            let first = told.next()?;
            told.all(|other| other == first).then_some(first)
        }
        _ => None,
    }
}

/// A text is bound for what no driver can bind as it is.
fn bindable(data_type: &DataType) -> Option<DataType> {
    let as_text = data_type.is_nested() || matches!(data_type, DataType::Interval(_) | DataType::Duration(_));
    (!as_text).then(|| data_type.clone())
}

pub fn tell(types: &mut HashMap<String, DataType>, expr: &Expr, told: Option<DataType>) {
    if let (Expr::Placeholder(Placeholder { id, .. }), Some(data_type)) = (expr, told) {
        types.entry(id.clone()).or_insert(data_type);
    }
}
