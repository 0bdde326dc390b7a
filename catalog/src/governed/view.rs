//! A view's query as a table, to be closed by a [`GovernedTable`](super::GovernedTable).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue, internal_datafusion_err, plan_err};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::expr::InSubquery;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Distinct, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, lit,
};
use datafusion::physical_plan::ExecutionPlan;

use super::functions::is_identity_function;
use super::leakproof::{is_leakproof, is_total};
use super::size::PlanSize;
use super::verify::{Leaves, verify_logical, verify_physical};
use crate::namespace::ViewBudget;

/// The planned query of a view. Its tables came from a namespace with the owner's rights, whose leaves these are.
pub(crate) struct ViewQuery {
    plan: LogicalPlan,
    plain: Arc<BTreeSet<String>>,
    schema: SchemaRef,
    leaves: Arc<Leaves>,
    budget: Arc<ViewBudget>,
    size: PlanSize,
}

impl ViewQuery {
    pub(crate) fn try_new(plan: LogicalPlan, leaves: Arc<Leaves>, budget: Arc<ViewBudget>) -> Result<Self> {
        let size = PlanSize::of(&plan)?;
        verify_logical(&plan, &leaves)?;
        let mut names = BTreeSet::new();
        let mut columns = Vec::with_capacity(plan.schema().fields().len());
        for (relation, field) in plan.schema().iter() {
            if !names.insert(field.name().as_str()) {
                return plan_err!("column \"{}\" is there twice", field.name());
            }
            // Inside, a column belongs to a table of the query; outside it has its bare name.
            columns.push(Expr::Column(Column::from((relation, field))).alias(field.name()));
        }
        let plan = LogicalPlanBuilder::from(plan.clone()).project(columns)?.build()?;
        let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
        let plain = plain_columns(&plan).unwrap_or_default();
        let plain = schema.fields().iter().zip(plain).filter(|(_, plain)| *plain).map(|(field, _)| field.name().clone()).collect();
        Ok(Self { plan, plain: Arc::new(plain), schema, leaves, budget, size })
    }

    pub(crate) fn size(&self) -> PlanSize {
        self.size
    }

    /// The columns on which a predicate from outside may mix with what the view does itself.
    pub(crate) fn plain_columns(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(&self.plain)
    }
}

/// For each column of a query whether it is a column of a table, where the query consists of nothing that could fail on a
/// row that it hides: predicates from outside are merged with its own, in an order that the optimizer chooses.
fn plain_columns(plan: &LogicalPlan) -> Option<Vec<bool>> {
    match plan {
        LogicalPlan::TableScan(scan) if scan.filters.is_empty() => Some(vec![true; scan.projected_schema.fields().len()]),
        LogicalPlan::SubqueryAlias(alias) => plain_columns(&alias.input),
        LogicalPlan::Filter(filter) => {
            let below = plain_columns(&filter.input)?;
            let schema = filter.input.schema();
            let is_plain = |column: &Column| schema.index_of_column(column).is_ok_and(|index| below.get(index) == Some(&true));
            let harmless = is_harmless(&filter.predicate, schema) && filter.predicate.column_refs().into_iter().all(is_plain);
            harmless.then_some(below)
        }
        LogicalPlan::Projection(projection) => {
            let below = plain_columns(&projection.input)?;
            let schema = projection.input.schema();
            let is_plain = |expr: &Expr| match expr.clone().unalias() {
                Expr::Column(column) => schema.index_of_column(&column).is_ok_and(|index| below.get(index) == Some(&true)),
                _ => false,
            };
            Some(projection.expr.iter().map(is_plain).collect())
        }
        _ => None,
    }
}

/// Whether a predicate, with the subqueries in it, can fail on no row.
fn is_harmless(predicate: &Expr, schema: &DFSchema) -> bool {
    without_subqueries(predicate).is_some_and(|predicate| is_leakproof(&predicate, schema.as_arrow()))
}

/// Stands in for a predicate or value of a query: subqueries that cannot fail become what their operands decide about,
/// and what the subquery is told from outside, such as who is asking, a NULL of its type.
fn without_subqueries(expr: &Expr) -> Option<Expr> {
    let stand_in = expr.clone().unalias().transform_down(|expr| match expr {
        Expr::InSubquery(InSubquery { expr, subquery, .. }) if cannot_fail(&subquery.subquery) => Ok(Transformed::yes(Expr::IsNull(expr))),
        Expr::Exists(exists) if cannot_fail(&exists.subquery.subquery) => Ok(Transformed::yes(lit(true))),
        Expr::OuterReferenceColumn(field, _) => Ok(Transformed::yes(null_of(field.data_type())?)),
        Expr::ScalarFunction(call) if is_identity_function(&call) => {
            let types = call.args.iter().map(|arg| arg.get_type(&DFSchema::empty())).collect::<Result<Vec<_>>>()?;
            Ok(Transformed::yes(null_of(&call.func.return_type(&types)?)?))
        }
        other => Ok(Transformed::no(other)),
    });
    stand_in.ok().map(|done| done.data)
}

fn null_of(data_type: &DataType) -> Result<Expr> {
    Ok(Expr::Literal(ScalarValue::try_new_null(data_type)?, None))
}

/// A subquery of scans, filters and projections that are harmless themselves.
fn cannot_fail(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => scan.filters.is_empty(),
        LogicalPlan::SubqueryAlias(alias) => cannot_fail(&alias.input),
        LogicalPlan::Distinct(Distinct::All(input)) => cannot_fail(input),
        LogicalPlan::Filter(filter) => is_harmless(&filter.predicate, filter.input.schema()) && cannot_fail(&filter.input),
        LogicalPlan::Projection(projection) => {
            let schema = projection.input.schema().as_arrow();
            let total = |expr: &Expr| without_subqueries(expr).is_some_and(|expr| is_total(&expr, schema));
            projection.expr.iter().all(total) && cannot_fail(&projection.input)
        }
        _ => false,
    }
}

/// Plans that are left as they come: the rules for physical plans run once, over the whole statement, and do not bear to
/// run twice (joins that have dynamic filters can no longer be turned round).
fn unfinished(state: &dyn Session) -> Result<SessionState> {
    let state = state.as_any().downcast_ref::<SessionState>().ok_or_else(|| internal_datafusion_err!("not a session of the engine"))?;
    Ok(SessionStateBuilder::new_from_existing(state.clone()).with_physical_optimizer_rules(Vec::new()).build())
}

impl fmt::Debug for ViewQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewQuery").finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for ViewQuery {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
    }

    /// The filters are on plain columns and cannot leak (the governed table above sees to it).
    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.budget.spend()?;
        let mut plan = LogicalPlanBuilder::from(self.plan.clone());
        if let Some(filter) = conjunction(filters.iter().cloned()) {
            plan = plan.filter(filter)?;
        }
        if let Some(projection) = projection {
            let schema = self.schema();
            let name = |index: &usize| schema.fields().get(*index).map(|field| Expr::Column(Column::new_unqualified(field.name())));
            let columns: Option<Vec<Expr>> = projection.iter().map(name).collect();
            plan = plan.project(columns.ok_or_else(|| internal_datafusion_err!("a projection names a column that is not there"))?)?;
        }
        let plan = unfinished(state)?.create_physical_plan(&plan.build()?).await?;
        verify_physical(plan.as_ref(), &self.leaves)?;
        Ok(plan)
    }
}
