//! A view's query as a table, to be closed by a [`GovernedTable`](super::GovernedTable).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, internal_datafusion_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::verify::{Leaves, verify_logical, verify_physical};
use crate::namespace::ViewBudget;

/// The planned query of a view. Its tables came from a namespace with the owner's rights, whose leaves these are.
pub(crate) struct ViewQuery {
    plan: LogicalPlan,
    schema: SchemaRef,
    leaves: Arc<Leaves>,
    budget: Arc<ViewBudget>,
}

impl ViewQuery {
    pub(crate) fn try_new(plan: LogicalPlan, leaves: Arc<Leaves>, budget: Arc<ViewBudget>) -> Result<Self> {
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
        let schema = Arc::new(plan.schema().as_arrow().clone());
        Ok(Self { plan, schema, leaves, budget })
    }
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

    /// The filters cannot leak (the governed table above sees to it), so that they may mix with the view's own.
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
        let plan = state.create_physical_plan(&plan.build()?).await?;
        verify_physical(plan.as_ref(), &self.leaves)?;
        Ok(plan)
    }
}
