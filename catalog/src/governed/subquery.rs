//! Policies whose text asks other tables. Such a policy is planned as a query: the raw table, filtered. Inside its
//! subqueries names are its creator's, read with the creator's stored rights and under the creator's own policies; the
//! identity functions of the text are about the one who reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Subquery,
    Volatility,
};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::ast::{Query, Visit, Visitor};

use super::bind::{BindError, check, keep_guards, plan_error};
use super::parse;
use super::table::GovernedTable;
use super::verify::Leaves;
use super::view::ViewQuery;
use crate::namespace::{Namespace, ViewBudget};

/// The governed table in the plan of a policy. No name that anybody can write without trying.
const GOVERNED: &str = "\u{1}governed";

/// The catalog in which the governed table's columns stand while a policy's text is planned.
const TARGET_CATALOG: &str = "\u{1}policy";

/// What a policy lies on.
pub(crate) struct Target<'a> {
    /// The relation's own name, by which a subquery can tell its columns from those of the tables inside.
    pub name: &'a str,
    /// Under the names that the text has: the columns as they are now.
    pub columns: BTreeMap<&'a str, &'a Field>,
}

/// Whether a plan is that of a policy, which runs on hidden rows: nothing in it may fail that would not by itself.
pub fn is_of_policy(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| Ok(matches!(node, LogicalPlan::TableScan(scan) if scan.table_name == TableReference::bare(GOVERNED))))
}

pub(crate) fn asks_other_tables(expr: &ast::Expr) -> bool {
    struct Subqueries;
    impl Visitor for Subqueries {
        type Break = ();
        fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    expr.visit(&mut Subqueries).is_break()
}

/// The relations that the subqueries of a text name.
pub fn tables_named(text: &str) -> Result<Vec<TableReference>, BindError> {
    let target = target_reference();
    let (tables, _) =
        datafusion::sql::resolve::resolve_table_references(&statement(text, "t")?, true).map_err(|error| plan_error(&error))?;
    Ok(tables.into_iter().filter(|table| *table != target).collect())
}

/// A policy's text as a BOOLEAN over the columns of [`governed_column`].
pub(crate) async fn plan(names: &Namespace, functions: Vec<ScalarUDF>, target: &Target<'_>, text: &str) -> Result<Expr, BindError> {
    let state = planning_state(names, functions, target).map_err(|error| plan_error(&error))?;
    let plan = state.statement_to_plan(statement(text, target.name)?).await.map_err(BindError::Inside)?;
    // An aggregate or a window function would stand between the two.
    let LogicalPlan::Projection(projection) = plan else { return Err(BindError::NotAllowed("an aggregate function")) };
    if !matches!(projection.input.as_ref(), LogicalPlan::SubqueryAlias(alias) if matches!(*alias.input, LogicalPlan::TableScan(_))) {
        return Err(BindError::NotAllowed("an aggregate or a window function"));
    }
    let [expr] = projection.expr.as_slice() else { return Err(BindError::NotAllowed("this kind of expression")) };
    let expr = expr.clone().unalias_nested().data;
    check(&expr, true)?;
    check_inside(&expr, target.name)?;
    match expr.get_type(projection.input.schema()).map_err(|error| plan_error(&error))? {
        DataType::Boolean => {}
        other => return Err(BindError::NotBoolean(other)),
    }
    let expr = keep_guards(expr, projection.input.schema())?;
    let expr = with_nullable_subqueries(expr).map_err(|error| plan_error(&error))?;
    requalify(expr, target).map_err(|error| plan_error(&error))
}

/// The governed table's columns that a planned text reads, its subqueries too.
pub(crate) fn columns_read(expr: &Expr) -> Result<BTreeSet<String>, BindError> {
    let governed = Some(TableReference::bare(GOVERNED));
    let mut names = BTreeSet::new();
    let read = expr.apply(|part| {
        match part {
            Expr::Column(column) if column.relation == governed => {
                names.insert(column.name.clone());
            }
            _ => {
                let Some(subquery) = subquery_of(part) else { return Ok(TreeNodeRecursion::Continue) };
                subquery.subquery.apply_with_subqueries(|node| {
                    node.apply_expressions(|expr| {
                        expr.apply(|part| {
                            if let Expr::OuterReferenceColumn(_, column) = part
                                && column.relation == governed
                            {
                                names.insert(column.name.clone());
                            }
                            Ok(TreeNodeRecursion::Continue)
                        })
                    })
                })?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    read.map_err(|error| plan_error(&error))?;
    Ok(names)
}

/// A column of the governed table, by its present name.
pub(crate) fn governed_column(name: &str) -> Expr {
    Expr::Column(Column::new(Some(TableReference::bare(GOVERNED)), name))
}

/// A predicate over bare present names, as one over [`governed_column`]s.
pub(crate) fn governed(expr: Expr) -> Result<Expr, BindError> {
    let governed = expr.transform(|expr| match expr {
        Expr::Column(column) => Ok(Transformed::yes(governed_column(&column.name))),
        other => Ok(Transformed::no(other)),
    });
    governed.map(|governed| governed.data).map_err(|error| plan_error(&error))
}

/// The rows of a raw table for which `visible` is true, over [`governed_column`]s.
pub(crate) fn visible_rows(
    raw: GovernedTable,
    visible: Expr,
    state: &SessionState,
    leaves: Arc<Leaves>,
    budget: Arc<ViewBudget>,
) -> Result<ViewQuery> {
    let source = provider_as_source(Arc::new(raw));
    let plan = LogicalPlanBuilder::scan(TableReference::bare(GOVERNED), source, None)?.filter(visible)?.build()?;
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    ViewQuery::try_new(plan, leaves, budget)
}

/// `SELECT (text) FROM target AS name`, put together as a tree: the text cannot end its expression.
fn statement(text: &str, name: &str) -> Result<DfStatement, BindError> {
    let quoted = |name: &str| ast::Ident::with_quote('"', name);
    let mut statement = parse::query("SELECT 1 FROM t AS t")?;
    let shape = || BindError::NotAllowed("this kind of expression");
    let ast::Statement::Query(query) = &mut statement else { return Err(shape()) };
    let ast::SetExpr::Select(select) = query.body.as_mut() else { return Err(shape()) };
    select.projection = vec![ast::SelectItem::UnnamedExpr(ast::Expr::Nested(Box::new(parse::expression(text)?)))];
    let Some(ast::TableWithJoins { relation: ast::TableFactor::Table { name: table, alias: Some(alias), .. }, .. }) =
        select.from.first_mut()
    else {
        return Err(shape());
    };
    *table = ast::ObjectName::from(vec![quoted(TARGET_CATALOG), quoted(TARGET_CATALOG), quoted("t")]);
    alias.name = quoted(name);
    Ok(DfStatement::Statement(Box::new(statement)))
}

fn target_reference() -> TableReference {
    TableReference::full(TARGET_CATALOG, TARGET_CATALOG, "t")
}

fn planning_state(names: &Namespace, functions: Vec<ScalarUDF>, target: &Target<'_>) -> Result<SessionState> {
    // Nullable, whatever the table declares: files may hold NULLs all the same.
    let fields: Vec<Field> = target.columns.iter().map(|(name, field)| Field::new(*name, field.data_type().clone(), true)).collect();
    let names = PolicyNames { names: names.clone(), target: Arc::new(EmptyTable::new(Arc::new(Schema::new(fields)))) };
    let mut state = names.names.session_state();
    state.register_catalog_list(Arc::new(names));
    for function in functions {
        state.register_udf(Arc::new(function))?;
    }
    Ok(state)
}

/// What stands inside the subqueries must answer the same each time, and must not hide the governed table's name.
fn check_inside(expr: &Expr, name: &str) -> Result<(), BindError> {
    let mut refused = None;
    let visited = expr.apply(|part| {
        if let Some(subquery) = subquery_of(part) {
            subquery.subquery.apply_with_subqueries(|node| {
                let hides = match node {
                    LogicalPlan::TableScan(scan) => scan.table_name == TableReference::bare(name),
                    LogicalPlan::SubqueryAlias(alias) => alias.alias == TableReference::bare(name),
                    _ => false,
                };
                if hides {
                    refused = Some(BindError::Hidden(name.to_owned()));
                }
                node.apply_expressions(|expr| {
                    expr.apply(|part| {
                        match part {
                            Expr::Placeholder(_) => refused = Some(BindError::NotAllowed("a placeholder")),
                            Expr::ScalarFunction(call) if call.func.signature().volatility == Volatility::Volatile => {
                                refused = Some(BindError::Volatile(call.func.name().to_owned()));
                            }
                            _ => {}
                        }
                        Ok(TreeNodeRecursion::Continue)
                    })
                })
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map_err(|error| plan_error(&error))?;
    refused.map_or(Ok(()), Err)
}

/// DataFusion takes a subquery for a value that is never NULL where its column is declared so; without a row it is NULL.
/// `(SELECT …) IS NOT NULL` would be TRUE for everybody.
fn with_nullable_subqueries(expr: Expr) -> Result<Expr> {
    let nullable = expr.transform_up(|mut part| {
        let Some(subquery) = subquery_of_mut(&mut part) else { return Ok(Transformed::no(part)) };
        let inside = subquery.subquery.as_ref().clone().transform_up_with_subqueries(|node| {
            let mended = node.map_expressions(|expr| expr.transform_up(nullable_subquery))?;
            if mended.transformed { mended.map_data(LogicalPlan::recompute_schema) } else { Ok(mended) }
        })?;
        subquery.subquery = Arc::new(inside.data);
        nullable_subquery(part).map(|part| Transformed::yes(part.data))
    })?;
    Ok(nullable.data)
}

fn nullable_subquery(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::ScalarSubquery(subquery) = expr else { return Ok(Transformed::no(expr)) };
    let [field] = subquery.subquery.schema().fields().as_ref() else { return Ok(Transformed::no(Expr::ScalarSubquery(subquery))) };
    if field.is_nullable() || has_one_row(&subquery.subquery) {
        return Ok(Transformed::no(Expr::ScalarSubquery(subquery)));
    }
    let name = field.name().clone();
    let column = Expr::Column(subquery.subquery.schema().columns().swap_remove(0));
    let value = ScalarUDF::new_from_impl(Nullable::default()).call(vec![column]).alias(name);
    let plan = LogicalPlanBuilder::from(Arc::unwrap_or_clone(subquery.subquery)).project([value])?.build()?;
    Ok(Transformed::yes(Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), ..subquery })))
}

/// Of an aggregate of everything there is one row always.
fn has_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(projection) => has_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_one_row(&alias.input),
        _ => false,
    }
}

/// Its argument, of which nobody knows that it is not NULL.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Nullable(Signature);

impl Default for Nullable {
    fn default() -> Self {
        Self(Signature::any(1, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Nullable {
    fn name(&self) -> &str {
        "nullable"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().ok_or_else(|| DataFusionError::Plan("nullable() of nothing".to_owned()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        args.args.into_iter().next().ok_or_else(|| DataFusionError::Plan("nullable() of nothing".to_owned()))
    }
}

fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. })
        | Expr::SetComparison(SetComparison { subquery, .. })
        | Expr::ScalarSubquery(subquery) => Some(subquery),
        _ => None,
    }
}

fn subquery_of_mut(expr: &mut Expr) -> Option<&mut Subquery> {
    match expr {
        Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. })
        | Expr::SetComparison(SetComparison { subquery, .. })
        | Expr::ScalarSubquery(subquery) => Some(subquery),
        _ => None,
    }
}

/// From the text's names to the present ones, in the expression and wherever its subqueries look out.
fn requalify(expr: Expr, target: &Target<'_>) -> Result<Expr> {
    let requalified = expr.transform(|mut expr| {
        if let Expr::Column(column) = &expr {
            return Ok(Transformed::yes(governed_column(present(column, target)?)));
        }
        let Some(subquery) = subquery_of_mut(&mut expr) else { return Ok(Transformed::no(expr)) };
        *subquery = outer_requalified(subquery.clone(), target)?;
        Ok(Transformed::yes(expr))
    })?;
    Ok(requalified.data)
}

fn outer_requalified(subquery: Subquery, target: &Target<'_>) -> Result<Subquery> {
    let outer = |expr: Expr| -> Result<Expr> {
        let requalified = expr.transform(|mut expr| match &mut expr {
            Expr::OuterReferenceColumn(field, column) if column.relation == Some(TableReference::bare(target.name)) => {
                let Expr::Column(column) = governed_column(present(column, target)?) else { return Ok(Transformed::no(expr)) };
                Ok(Transformed::yes(Expr::OuterReferenceColumn(Arc::clone(field), column)))
            }
            _ => match subquery_of_mut(&mut expr) {
                // Its plan is visited on its own; this is the list beside it.
                Some(nested) => {
                    let columns = std::mem::take(&mut nested.outer_ref_columns);
                    nested.outer_ref_columns = columns.into_iter().map(|column| outer_column(column, target)).collect::<Result<_>>()?;
                    Ok(Transformed::yes(expr))
                }
                None => Ok(Transformed::no(expr)),
            },
        })?;
        Ok(requalified.data)
    };
    let plan = Arc::unwrap_or_clone(subquery.subquery)
        .transform_down_with_subqueries(|node| node.map_expressions(|expr| Ok(Transformed::yes(outer(expr)?))))?;
    let outer_ref_columns = subquery.outer_ref_columns.into_iter().map(|column| outer_column(column, target)).collect::<Result<_>>()?;
    Ok(Subquery { subquery: Arc::new(plan.data), outer_ref_columns, spans: subquery.spans })
}

fn outer_column(expr: Expr, target: &Target<'_>) -> Result<Expr> {
    match expr {
        Expr::OuterReferenceColumn(field, column) if column.relation == Some(TableReference::bare(target.name)) => {
            Ok(Expr::OuterReferenceColumn(field, Column::new(Some(TableReference::bare(GOVERNED)), present(&column, target)?)))
        }
        other => Ok(other),
    }
}

fn present<'t>(column: &Column, target: &Target<'t>) -> Result<&'t str> {
    let field = target.columns.get(column.name.as_str());
    field.map(|field| field.name().as_str()).ok_or_else(|| DataFusionError::Plan(format!("no column \"{}\"", column.name)))
}

/// The names of a policy's creator, and one more: the columns of what the policy lies on.
#[derive(Debug)]
struct PolicyNames {
    names: Namespace,
    target: Arc<EmptyTable>,
}

impl CatalogProviderList for PolicyNames {
    fn register_catalog(&self, _name: String, _catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        self.names.catalog_names()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        if name == TARGET_CATALOG { Some(Arc::new(TargetCatalog(Arc::clone(&self.target)))) } else { self.names.catalog(name) }
    }
}

#[derive(Debug)]
struct TargetCatalog(Arc<EmptyTable>);

impl CatalogProvider for TargetCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![TARGET_CATALOG.to_owned()]
    }

    fn schema(&self, _name: &str) -> Option<Arc<dyn SchemaProvider>> {
        Some(Arc::new(TargetSchema(Arc::clone(&self.0))))
    }
}

#[derive(Debug)]
struct TargetSchema(Arc<EmptyTable>);

#[async_trait]
impl SchemaProvider for TargetSchema {
    fn table_names(&self) -> Vec<String> {
        vec!["t".to_owned()]
    }

    async fn table(&self, _name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(Some(Arc::clone(&self.0) as _))
    }

    fn table_exist(&self, _name: &str) -> bool {
        true
    }
}
