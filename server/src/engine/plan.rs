//! From a query's AST to a governed plan for one principal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, ParamValues, ScalarValue};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast;
use lazaret_auth::Authority;
use lazaret_catalog::governed::size::PlanSize;
use lazaret_catalog::namespace::Namespace;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::failure::from_datafusion;
use super::memory::Budget;
use super::parameters::placeholder;
use super::record::Seen;
use super::rows::in_time;
use super::{Engine, functions, parameters, passage};
use crate::error::{Error, Result};
use crate::flight::canonical::canonical_schema;
use crate::session::Session;
use crate::sql;
use crate::sql::statement::RepeatedColumn;
use crate::statements::session::Settings;
use crate::system::{self, SystemSources};

/// Rows of parameters that one call may bind to a query: each is planned by itself, all before the first runs, and a plan
/// takes some 100 kB.
pub(super) const MAX_PARAMETER_ROWS: usize = 1_000;

/// A planned query: everything resolved and governed, nothing run.
pub(super) struct Prepared {
    pub scope: Arc<Scope>,
    plan: LogicalPlan,
    schema: SchemaRef,
}

/// What one statement is planned and run in, for all its rows of parameters.
pub(super) struct Scope {
    pub namespace: Namespace,
    pub timeout: Option<Duration>,
    state: SessionState,
    reader: Authority,
    budget: Arc<Budget>,
    queries: Handle,
}

impl Engine {
    /// The names that the session's principal can use now.
    pub(super) fn namespace(&self, session: &Arc<Session>) -> Result<Namespace> {
        Ok(self.statement_namespace(session)?.0)
    }

    fn statement_namespace(&self, session: &Arc<Session>) -> Result<(Namespace, Authority, Settings, Arc<Budget>)> {
        let current = self.parts.metadata.current();
        let reader = session.authority(current.as_ref());
        let (catalog, schema, settings) = {
            let state = session.state.lock();
            (state.catalog.clone(), state.schema.clone(), Settings::from(&*state))
        };
        let mut template = self.template.clone();
        *template.config_mut() = settings.apply(template.config().clone());
        let server = Arc::clone(&template.runtime_env().memory_pool);
        let budget = Arc::new(Budget::new(server, self.parts.limits.query_memory_bytes));
        functions::bind(&mut template, &budget).map_err(from_datafusion)?;
        let opener: Arc<dyn lazaret_catalog::namespace::TableOpener> = Arc::clone(&self.parts.lake) as _;
        let namespace = Namespace::new(Arc::clone(&current), reader.clone(), Arc::clone(&opener), template, &catalog, &schema)
            .map_err(from_datafusion)?;
        let sources = SystemSources {
            caches: Arc::clone(self.parts.lake.caches()),
            audit: self.parts.audit.clone(),
            activity: Arc::clone(&self.parts.activity),
            sessions: Arc::clone(&self.parts.sessions),
        };
        let reserved = system::reserved_schemas(&namespace, &reader, session, &sources);
        let namespace = reserved.into_iter().fold(namespace, |namespace, (name, provider)| namespace.with_reserved_schema(name, provider));
        Ok((namespace, reader, settings, budget))
    }

    /// What a statement of this session is planned and run in. `seen` is told its names, also when planning fails.
    pub(super) fn scope(&self, session: &Arc<Session>, seen: &Seen) -> Result<Arc<Scope>> {
        let (namespace, reader, settings, budget) = self.statement_namespace(session)?;
        seen.note(&namespace);
        let mut state = namespace.session_state();
        // The one moment that now() and current_date mean in this statement.
        state.mark_start_execution();
        let (queries, timeout) = (self.queries(), self.shorter_limit(settings.statement_timeout));
        Ok(Arc::new(Scope { namespace, timeout, state, reader, budget, queries }))
    }

    pub(super) async fn prepare(&self, session: &Arc<Session>, query: &sql::Query, seen: &Seen) -> Result<Prepared> {
        let scope = self.scope(session, seen)?;
        let plan = scope.plan(query.ast.clone()).await?;
        let schema = outgoing(&plan, &query.repeated);
        Ok(Prepared { scope, plan, schema })
    }

    /// One plan for each row of parameters; one where the query has none.
    pub(super) async fn prepare_bound(
        &self,
        session: &Arc<Session>,
        query: &sql::Query,
        parameters: Option<&RecordBatch>,
        seen: &Seen,
    ) -> Result<Vec<Prepared>> {
        if query.parameters == 0 {
            return Ok(vec![self.prepare(session, query, seen).await?]);
        }
        let batch = given(query, parameters, MAX_PARAMETER_ROWS)?;
        let mut prepared = self.prepare(session, query, seen).await?;
        let types = parameters::types(&prepared.plan, HashMap::new())?;
        let mut plans = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            // Other calls wait for this thread.
            tokio::task::yield_now().await;
            // Each row is an execution, and masks may hash under a key of the execution.
            if row > 0 && prepared.is_masked() {
                prepared = self.prepare(session, query, seen).await?;
            }
            let plan = bound(&prepared.plan, batch, row, &types)?;
            let schema = outgoing(&plan, &query.repeated);
            // What a parameter may be is nullable, whatever is bound now.
            let schema = either_nullable(&schema, &prepared.schema).unwrap_or(schema);
            plans.push(Prepared { scope: Arc::clone(&prepared.scope), plan, schema });
        }
        let mut schemas = plans.iter().map(|prepared| Arc::clone(&prepared.schema));
        let first = schemas.next().unwrap_or_else(|| Arc::new(Schema::empty()));
        let common = schemas.try_fold(first, |common, schema| either_nullable(&common, &schema));
        let common = common.ok_or_else(|| Error::invalid("the rows of parameters give results of different types"))?;
        plans.iter_mut().for_each(|prepared| prepared.schema = Arc::clone(&common));
        Ok(plans)
    }
}

impl Scope {
    /// For what writes: a copy of what emergency access shows would outlive it.
    pub fn refuse_lifted(&self) -> Result<()> {
        match self.namespace.touched().iter().any(|table| table.lifted.is_some()) {
            true => Err(Error::denied("emergency access is for reading: what it shows cannot be written into a table")),
            false => Ok(()),
        }
    }

    /// A query, its names resolved and governed.
    pub async fn plan(self: &Arc<Self>, query: Box<ast::Query>) -> Result<LogicalPlan> {
        let (scope, statement) = (Arc::clone(self), DfStatement::Statement(Box::new(ast::Statement::Query(query))));
        let planning = async move {
            let plan = scope.state.statement_to_plan(statement).await.map_err(from_datafusion)?;
            PlanSize::of(&plan).map_err(from_datafusion)?;
            scope.namespace.verify_logical(&plan).map_err(Error::internal)?;
            Ok(plan)
        };
        apart(&self.queries, self.timeout, planning).await
    }

    /// An expression that names no table.
    pub fn expression(&self, expr: ast::Expr) -> Result<Expr> {
        let expr = ast::ExprWithAlias { expr, alias: None };
        self.state.create_logical_expr_from_sql_expr(expr, &DFSchema::empty()).map_err(from_datafusion)
    }

    /// Optimised, planned and looked at once more.
    pub async fn physical(self: &Arc<Self>, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        let (scope, plan) = (Arc::clone(self), plan.clone());
        let planning = async move {
            let physical = scope.state.create_physical_plan(&plan).await.map_err(from_datafusion)?;
            scope.budget.check_planned().map_err(from_datafusion)?;
            scope.namespace.verify_physical(physical.as_ref()).map_err(Error::internal)?;
            passage::guard(physical).map_err(from_datafusion)
        };
        apart(&self.queries, self.timeout, planning).await
    }

    /// The context a plan runs in: the shared runtime with this query's own share of memory.
    pub fn task(&self) -> Arc<TaskContext> {
        let mut runtime = self.state.runtime_env().as_ref().clone();
        runtime.memory_pool = self.budget.run();
        Arc::new(TaskContext::from(&self.state).with_runtime(Arc::new(runtime)))
    }
}

impl Prepared {
    /// What every batch will have, at the edge.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn is_masked(&self) -> bool {
        self.scope.namespace.touched().iter().any(|table| table.policies.iter().any(|policy| !policy.masks.is_empty()))
    }

    /// Whether the plan was made for exactly this identity with these roles: both are part of the plan.
    pub fn is_for(&self, reader: &Authority) -> bool {
        self.scope.reader.sees_as(reader)
    }

    pub async fn optimized(&self) -> Result<LogicalPlan> {
        let (scope, plan) = (Arc::clone(&self.scope), self.plan.clone());
        let optimizing = async move { scope.state.optimize(&plan).map_err(from_datafusion) };
        apart(&self.scope.queries, self.scope.timeout, optimizing).await
    }

    pub async fn physical(&self) -> Result<Arc<dyn ExecutionPlan>> {
        self.scope.physical(&self.plan).await
    }

    pub fn parameter_schema(&self, count: usize) -> Result<SchemaRef> {
        Ok(parameters::declared(&parameters::types(&self.plan, HashMap::new())?, count))
    }
}

/// The rows of parameters that came: at least one, and at most so many.
pub(super) fn given<'a>(query: &sql::Query, parameters: Option<&'a RecordBatch>, most: usize) -> Result<&'a RecordBatch> {
    let Some(batch) = parameters else {
        return Err(Error::invalid(format!("the statement has {} parameters, and none were given", query.parameters)));
    };
    if batch.num_columns() != query.parameters {
        return Err(Error::invalid(format!("the statement has {} parameters, and {} were given", query.parameters, batch.num_columns())));
    }
    match batch.num_rows() {
        0 => Err(Error::invalid("the statement takes at least one row of parameters")),
        rows if rows > most => Err(Error::invalid(format!("the statement takes at most {most} rows of parameters, and {rows} were given"))),
        _ => Ok(batch),
    }
}

/// A plan with the values of one row of parameters.
pub(super) fn bound(plan: &LogicalPlan, batch: &RecordBatch, row: usize, types: &HashMap<String, DataType>) -> Result<LogicalPlan> {
    let values = batch.columns().iter().enumerate().map(|(index, column)| {
        let value = ScalarValue::try_from_array(column.as_ref(), row).map_err(from_datafusion)?;
        match types.get(&placeholder(index)) {
            Some(wanted) if *wanted != value.data_type() => {
                value.cast_to(wanted).map_err(|_| Error::invalid(format!("parameter {} cannot be read as {wanted}", placeholder(index))))
            }
            _ => Ok(value),
        }
    });
    let values = values.map(|value| value.map(Into::into)).collect::<Result<Vec<_>>>()?;
    plan.clone().with_param_values(ParamValues::List(values)).map_err(from_datafusion)
}

/// Plans where queries compute, for that takes long where there is much to join, and no longer than the statement may run.
/// Dropped, it stops at its next await.
async fn apart<T: Send + 'static>(
    queries: &Handle,
    limit: Option<Duration>,
    planning: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut planners = JoinSet::new();
    planners.spawn_on(planning, queries);
    let planned = async { planners.join_next().await.ok_or_else(|| Error::internal("nobody plans"))?.map_err(Error::internal)? };
    in_time(limit, planned).await
}

/// The canonical schema, with the names that were written.
fn outgoing(plan: &LogicalPlan, repeated: &[RepeatedColumn]) -> SchemaRef {
    let schema = canonical_schema(plan.schema().as_arrow());
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    for column in repeated {
        if let Some(name) = fields.get(column.first).map(|field| field.name().clone())
            && let Some(field) = fields.get_mut(column.index)
        {
            field.set_name(name);
        }
    }
    Arc::new(Schema::new(fields))
}

/// The schema of two results whose columns differ in nothing but in being nullable.
fn either_nullable(one: &Schema, other: &Schema) -> Option<SchemaRef> {
    let same = one.fields().len() == other.fields().len()
        && one.fields().iter().zip(other.fields()).all(|(one, other)| one.data_type().equals_datatype(other.data_type()));
    let nullable = |(one, other): (&Arc<Field>, &Arc<Field>)| one.as_ref().clone().with_nullable(one.is_nullable() || other.is_nullable());
    same.then(|| Arc::new(Schema::new(one.fields().iter().zip(other.fields()).map(nullable).collect::<Vec<Field>>())))
}
