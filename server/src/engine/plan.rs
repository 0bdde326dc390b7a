//! From a query's AST to a governed plan for one principal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast;
use lazaret_auth::{Authority, Principal};
use lazaret_catalog::namespace::Namespace;
use lazaret_catalog::write;

use super::failure::{from_datafusion, from_write};
use super::memory::QueryPool;
use super::{Engine, UpdateOutcome};
use crate::error::{Error, Result};
use crate::flight::canonical::canonical_schema;
use crate::session::Session;
use crate::sql;
use crate::sql::statement::CreateTableAs;
use crate::statements::session::Settings;
use crate::statements::{self, StatementContext};
use crate::system::{self, SystemSources};

/// Rows of parameters that one call may bind to a query: each is planned and run by itself.
const MAX_PARAMETER_ROWS: usize = 10_000;

/// A planned query: everything resolved and governed, nothing run.
pub(super) struct Prepared {
    pub namespace: Namespace,
    pub timeout: Option<Duration>,
    state: SessionState,
    plan: LogicalPlan,
    principal: Arc<Principal>,
}

impl Engine {
    /// The names that the session's principal can use now.
    pub(super) fn namespace(&self, session: &Arc<Session>) -> Result<Namespace> {
        Ok(self.statement_namespace(session)?.0)
    }

    fn statement_namespace(&self, session: &Arc<Session>) -> Result<(Namespace, Settings)> {
        let current = self.parts.metadata.current();
        let reader = Authority::of(current.as_ref(), Arc::clone(session.principal()));
        let (catalog, schema, settings) = {
            let state = session.state.lock();
            (state.catalog.clone(), state.schema.clone(), Settings::from(&*state))
        };
        let mut template = self.template.clone();
        *template.config_mut() = settings.apply(template.config().clone());
        let opener: Arc<dyn lazaret_catalog::namespace::TableOpener> = Arc::clone(&self.parts.lake) as _;
        let namespace = Namespace::new(Arc::clone(&current), reader.clone(), Arc::clone(&opener), template, &catalog, &schema)
            .map_err(from_datafusion)?;
        let sources = SystemSources { caches: Arc::clone(self.parts.lake.caches()), audit: self.parts.audit.clone() };
        let reserved = system::reserved_schemas(&namespace, &reader, session, &sources);
        let namespace = reserved.into_iter().fold(namespace, |namespace, (name, provider)| namespace.with_reserved_schema(name, provider));
        Ok((namespace, settings))
    }

    pub(super) async fn prepare(&self, session: &Arc<Session>, query: &sql::Query) -> Result<Prepared> {
        let (namespace, settings) = self.statement_namespace(session)?;
        let mut state = namespace.session_state();
        // The one moment that now() and current_date mean in this statement.
        state.mark_start_execution();
        let statement = DfStatement::Statement(Box::new(ast::Statement::Query(query.ast.clone())));
        let plan = state.statement_to_plan(statement).await.map_err(from_datafusion)?;
        namespace.verify_logical(&plan).map_err(Error::internal)?;
        let principal = Arc::clone(session.principal());
        Ok(Prepared { namespace, timeout: settings.statement_timeout, state, plan, principal })
    }

    /// One plan for each row of parameters; one where the query has none.
    pub(super) async fn prepare_bound(
        &self,
        session: &Arc<Session>,
        query: &sql::Query,
        parameters: Option<&RecordBatch>,
    ) -> Result<Vec<Prepared>> {
        if query.parameters == 0 {
            return Ok(vec![self.prepare(session, query).await?]);
        }
        let Some(batch) = parameters else {
            return Err(Error::invalid(format!("the statement has {} parameters, and none were given", query.parameters)));
        };
        if batch.num_columns() != query.parameters {
            return Err(Error::invalid(format!(
                "the statement has {} parameters, and {} were given",
                query.parameters,
                batch.num_columns()
            )));
        }
        if batch.num_rows() == 0 || batch.num_rows() > MAX_PARAMETER_ROWS {
            return Err(Error::invalid(format!(
                "a query takes 1 to {MAX_PARAMETER_ROWS} rows of parameters, and {} were given",
                batch.num_rows()
            )));
        }
        let mut plans = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let prepared = self.prepare(session, query).await?;
            let types = prepared.parameter_types()?;
            let values = batch.columns().iter().enumerate().map(|(index, column)| {
                let value = ScalarValue::try_from_array(column.as_ref(), row).map_err(from_datafusion)?;
                match types.get(&placeholder(index)) {
                    Some(Some(wanted)) if *wanted != value.data_type() => value
                        .cast_to(wanted)
                        .map_err(|_| Error::invalid(format!("parameter {} cannot be read as {wanted}", placeholder(index)))),
                    _ => Ok(value),
                }
            });
            let values = values.map(|value| value.map(Into::into)).collect::<Result<Vec<_>>>()?;
            let plan = prepared.plan.with_param_values(ParamValues::List(values)).map_err(from_datafusion)?;
            plans.push(Prepared { plan, ..prepared });
        }
        let first = plans.first().map(Prepared::schema);
        if plans.iter().any(|prepared| Some(prepared.schema()) != first) {
            return Err(Error::invalid("the rows of parameters give results of different types"));
        }
        Ok(plans)
    }

    /// The context a plan runs in: the shared runtime with this query's own share of memory.
    pub(super) fn task(&self, prepared: &Prepared) -> Arc<TaskContext> {
        let shared = prepared.state.runtime_env().as_ref().clone();
        let pool = QueryPool::new(Arc::clone(&shared.memory_pool), self.parts.limits.query_memory_bytes);
        let mut runtime = shared;
        runtime.memory_pool = Arc::new(pool);
        Arc::new(TaskContext::from(&prepared.state).with_runtime(Arc::new(runtime)))
    }

    pub(super) async fn create_table_as(
        &self,
        context: &StatementContext,
        create: &CreateTableAs,
        prepared: &Prepared,
        physical: Arc<dyn ExecutionPlan>,
        task: Arc<TaskContext>,
    ) -> Result<UpdateOutcome> {
        let Some(id) = statements::begin_create(context, create).await? else {
            return Ok(UpdateOutcome::default());
        };
        let batches = execute_stream(physical, task).map_err(from_datafusion)?;
        let table = write::NewTable {
            id,
            schema: prepared.schema(),
            partition_by: create.partitioned_by.iter().map(|column| column.as_str().to_owned()).collect(),
            comment: None,
        };
        let stores = Arc::clone(self.parts.lake.stores());
        let writing = self.queries().spawn(async move { write::create_table_as(&stores, table, batches).await });
        let created = writing.await.map_err(Error::internal)?.map_err(from_write)?;
        statements::register_created(context, create, id, &created).await
    }
}

impl Prepared {
    /// What every batch will have, at the edge.
    pub fn schema(&self) -> SchemaRef {
        canonical_schema(self.plan.schema().as_arrow())
    }

    /// Whether the plan was made for exactly this identity: its groups and claims are part of the plan.
    pub fn is_for(&self, principal: &Arc<Principal>) -> bool {
        let made_for = &self.principal;
        Arc::ptr_eq(made_for, principal)
            || (made_for.name == principal.name && made_for.groups == principal.groups && made_for.claims == principal.claims)
    }

    pub fn optimized(&self) -> Result<LogicalPlan> {
        self.state.optimize(&self.plan).map_err(from_datafusion)
    }

    /// Optimised, planned and looked at once more.
    pub async fn physical(&self) -> Result<Arc<dyn ExecutionPlan>> {
        let physical = self.state.create_physical_plan(&self.plan).await.map_err(from_datafusion)?;
        self.namespace.verify_physical(physical.as_ref()).map_err(Error::internal)?;
        // These make many batches out of one, and DataFusion lets only leaves yield.
        let yielding = physical.transform_up(|node| {
            let multiplies = node.is::<CrossJoinExec>() || node.is::<NestedLoopJoinExec>();
            Ok(if multiplies { Transformed::yes(Arc::new(CooperativeExec::new(node)) as _) } else { Transformed::no(node) })
        });
        Ok(yielding.map_err(from_datafusion)?.data)
    }

    fn parameter_types(&self) -> Result<HashMap<String, Option<DataType>>> {
        self.plan.get_parameter_types().map_err(from_datafusion)
    }

    /// Nullable fields of concrete types: JDBC binds by what is declared. Timestamps are declared in milliseconds, for
    /// it writes those whatever the unit; a type that nothing tells is text.
    pub fn parameter_schema(&self, count: usize) -> Result<SchemaRef> {
        let types = self.parameter_types()?;
        let fields: Vec<Field> = (0..count)
            .map(|index| {
                let data_type = match types.get(&placeholder(index)).cloned().flatten() {
                    None | Some(DataType::Null) => DataType::Utf8,
                    Some(DataType::Timestamp(_, zone)) => DataType::Timestamp(TimeUnit::Millisecond, zone),
                    Some(other) => other,
                };
                Field::new(placeholder(index), data_type, true)
            })
            .collect();
        Ok(Arc::new(Schema::new(fields)))
    }
}

fn placeholder(index: usize) -> String {
    format!("${}", index + 1)
}
