//! The one way of a statement: parse, authorize, plan, admit, execute. Everything that runs SQL joins here.

mod catalog;
pub(crate) mod failure;
mod memory;
pub mod objects;
mod plan;
mod record;
mod rows;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use futures::stream::BoxStream;
use lazaret_catalog::governed::explain;
use lazaret_catalog::lake::Lake;
use lazaret_catalog::meta::Metadata;
use parking_lot::Mutex;
use tokio::runtime::{Builder as RuntimeBuilder, Handle, Runtime};

use crate::audit::AuditLog;
use crate::engine::plan::Prepared;
use crate::engine::record::Attempt;
use crate::engine::rows::Draining;
use crate::error::{Error, Result};
use crate::session::Session;
use crate::sql::{self, Statement};
use crate::statements::{self, StatementContext};
use crate::telemetry::Metrics;

/// A plan older than this is made again before it runs: it would read an old version of its tables.
const PLAN_FRESH: Duration = Duration::from_secs(5);

/// What a driver wants to know when it prepares. For a statement that is not a query, `result_schema` has no fields.
#[derive(Clone, Debug)]
pub struct Description {
    /// DDL, DML, SET, USE, GRANT: runs exactly once, has no rows of its own.
    pub is_update: bool,
    /// What every batch will have.
    pub result_schema: SchemaRef,
    /// One nullable field of a concrete type for each placeholder, in order; named `$1`, `$2`, …
    pub parameter_schema: SchemaRef,
}

/// The rows of a query that has been let in. Dropping it cancels the query and writes the audit's end record.
pub struct Rows {
    pub schema: SchemaRef,
    pub batches: BoxStream<'static, Result<RecordBatch>>,
}

/// A query that was planned at GetFlightInfo and waits for its DoGet. It is checked again (privileges, policies,
/// versions) when it runs.
pub struct PlannedQuery {
    pub schema: SchemaRef,
    pub(crate) sql: String,
    pub(crate) parameters: Option<RecordBatch>,
    pub(crate) epoch: u64,
    /// The plans, until they run, go stale, or somebody changes who may see what.
    ready: Mutex<Option<(Instant, Vec<Prepared>)>>,
}

impl PlannedQuery {
    /// A query that is planned again when it runs.
    pub(crate) fn new(schema: SchemaRef, sql: &str, parameters: Option<RecordBatch>, epoch: u64) -> Self {
        Self { schema, sql: sql.to_owned(), parameters, epoch, ready: Mutex::new(None) }
    }
}

/// What an executed update did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateOutcome {
    /// Rows affected; 0 for DDL.
    pub rows: u64,
}

/// What one statement and all of them may use.
#[derive(Clone, Debug)]
pub struct EngineLimits {
    pub statement_bytes: usize,
    pub memory_bytes: usize,
    pub query_memory_bytes: usize,
    /// `None`: a statement may run for ever.
    pub query_timeout: Option<Duration>,
}

/// What the engine is made of.
pub struct EngineParts {
    pub metadata: Arc<Metadata>,
    pub lake: Arc<Lake>,
    pub audit: AuditLog,
    pub metrics: Arc<Metrics>,
    pub limits: EngineLimits,
    /// The names of the configured issuers.
    pub issuers: Arc<[String]>,
}

pub struct Engine {
    parts: EngineParts,
    /// Configuration, rules, functions and the shared runtime; the start of every statement's own state.
    template: SessionState,
    /// Where queries compute. Not where calls are answered: an operator that does not yield must stop neither the next
    /// call nor its own cancellation.
    queries: Option<Runtime>,
}

/// Threads of the query runtime for each core: more than one query keeps busy, so that the machine shares itself out
/// between a query that never yields and the others.
const QUERY_THREADS_PER_CORE: usize = 4;

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(queries) = self.queries.take() {
            queries.shutdown_background();
        }
    }
}

impl Engine {
    /// `spill` is a folder of the engine's own.
    pub fn new(parts: EngineParts, spill: &Path) -> Result<Self> {
        let config = SessionConfig::new().with_default_catalog_and_schema("lazaret", "public");
        let mut config = lazaret_catalog::governed::session_config(config);
        config.options_mut().sql_parser.collect_spans = true;
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![spill.to_owned()]));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(parts.limits.memory_bytes)))
            .with_disk_manager_builder(disk)
            .with_object_store_registry(Arc::clone(parts.lake.stores()) as _)
            .build_arc()
            .map_err(Error::internal)?;
        let template = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let queries = RuntimeBuilder::new_multi_thread()
            .thread_name("query")
            .worker_threads(QUERY_THREADS_PER_CORE * cores)
            .enable_all()
            .build()
            .map_err(Error::internal)?;
        Ok(Self { parts, template, queries: Some(queries) })
    }

    /// Parses, authorizes and plans without running anything.
    pub async fn describe(&self, session: &Arc<Session>, sql: &str) -> Result<Description> {
        let attempt = self.attempt(session, sql);
        let described = self.try_describe(session, sql).await;
        attempt.refused_if_err(described).await
    }

    async fn try_describe(&self, session: &Arc<Session>, sql: &str) -> Result<Description> {
        let statement = self.parse(sql)?;
        let parameter_schema = match statement.query() {
            Some(query) if query.parameters > 0 => self.prepare(session, query).await?.parameter_schema(query.parameters)?,
            _ => Arc::new(Schema::empty()),
        };
        let result_schema = match &statement {
            Statement::Query(query) => self.prepare(session, query).await?.schema(),
            Statement::Explain(explain) => {
                self.prepare(session, &explain.query).await?;
                explain_schema()
            }
            other => statements::result_schema(other).unwrap_or_else(|| Arc::new(Schema::empty())),
        };
        Ok(Description { is_update: is_update(&statement), result_schema, parameter_schema })
    }

    /// Plans a query for a later [`Engine::run`]. Parameters: one row for each execution, columns in order.
    pub async fn plan(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<PlannedQuery> {
        let attempt = self.attempt(session, sql);
        let planned = self.try_plan(session, sql, parameters).await;
        attempt.refused_if_err(planned).await
    }

    async fn try_plan(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<PlannedQuery> {
        let epoch = self.parts.metadata.current().epoch();
        let (schema, ready) = match self.parse(sql)? {
            Statement::Query(query) => {
                let plans = self.prepare_bound(session, &query, parameters.as_ref()).await?;
                let schema = plans.first().map_or_else(|| Arc::new(Schema::empty()), Prepared::schema);
                (schema, Some((Instant::now(), plans)))
            }
            Statement::Explain(explain) => {
                self.prepare_bound(session, &explain.query, parameters.as_ref()).await?;
                (explain_schema(), None)
            }
            other => (statements::result_schema(&other).ok_or_else(|| Error::invalid("this statement returns no rows"))?, None),
        };
        let planned = PlannedQuery::new(schema, sql, parameters, epoch);
        *planned.ready.lock() = ready;
        Ok(planned)
    }

    /// Runs a planned query: checks again who may see what, writes the audit's start record durably, streams.
    pub async fn run(&self, session: &Arc<Session>, planned: &PlannedQuery) -> Result<Rows> {
        let attempt = self.attempt(session, &planned.sql);
        match self.parse(&planned.sql) {
            Ok(Statement::Query(query)) => match self.ready_plans(session, planned, &query).await {
                Ok(plans) => self.run_query(attempt, plans, &planned.schema).await,
                Err(error) => attempt.refused(error).await,
            },
            Ok(Statement::Explain(explain)) => {
                if explain.verbose || explain.format.is_some_and(|format| format != sql::statement::ExplainFormat::Indent) {
                    return attempt.refused(Error::unsupported("EXPLAIN VERBOSE and other formats than INDENT")).await;
                }
                let prepared = self.prepare_bound(session, &explain.query, planned.parameters.as_ref()).await;
                match prepared
                    .and_then(|plans| plans.into_iter().next().ok_or_else(|| Error::invalid("EXPLAIN takes one row of parameters")))
                {
                    Ok(prepared) => self.run_explain(attempt, &explain, prepared).await,
                    Err(error) => attempt.refused(error).await,
                }
            }
            Ok(other) => {
                let namespace = match self.namespace(session) {
                    Ok(namespace) => namespace,
                    Err(error) => return attempt.refused(error).await,
                };
                let running = attempt.start(&namespace.touched()).await?;
                let answer = statements::rows(&self.context(session), &namespace, &other).await;
                running.rows_of(&planned.schema, answer)
            }
            Err(error) => attempt.refused(error).await,
        }
    }

    /// Runs a statement that is not a query, exactly once, for each row of parameters (once without).
    pub async fn update(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<UpdateOutcome> {
        let attempt = self.attempt(session, sql);
        let statement = match self.parse(sql) {
            Ok(statement) if is_update(&statement) => statement,
            Ok(_) => return attempt.refused(Error::invalid("this statement returns rows: run it as a query")).await,
            Err(error) => return attempt.refused(error).await,
        };
        session.state.lock().warnings.clear();
        let context = self.context(session);
        match &statement {
            Statement::CreateTableAs(create) => {
                let plans = match self.prepare_bound(session, &create.query, parameters.as_ref()).await {
                    Ok(plans) => plans,
                    Err(error) => return attempt.refused(error).await,
                };
                let Some(prepared) = plans.into_iter().next() else {
                    return attempt.refused(Error::invalid("CREATE TABLE AS takes one row of parameters")).await;
                };
                let task = self.task(&prepared);
                let physical = match prepared.physical().await {
                    Ok(physical) => physical,
                    Err(error) => return attempt.refused(error).await,
                };
                let running = attempt.start(&prepared.namespace.touched()).await?;
                let outcome = self.create_table_as(&context, create, &prepared, physical, task).await;
                running.finish_update(outcome).await
            }
            // A view whose query does not plan for its owner is no view.
            Statement::CreateView(create) => {
                let prepared = match self.prepare(session, &create.query).await {
                    Ok(prepared) => prepared,
                    Err(error) => return attempt.refused(error).await,
                };
                let running = attempt.start(&prepared.namespace.touched()).await?;
                let outcome = statements::run(&context, &statement).await;
                running.finish_update(outcome).await
            }
            other => {
                let running = attempt.start(&[]).await?;
                let outcome = statements::run(&context, other).await;
                running.finish_update(outcome).await
            }
        }
    }

    async fn run_query(&self, attempt: Attempt, plans: Vec<Prepared>, schema: &SchemaRef) -> Result<Rows> {
        let mut streams = Vec::with_capacity(plans.len());
        let mut touched = Vec::new();
        for prepared in &plans {
            let physical = match prepared.physical().await {
                Ok(physical) => physical,
                Err(error) => return attempt.refused(error).await,
            };
            touched = prepared.namespace.touched();
            streams.push((physical, self.task(prepared)));
        }
        let of_session = plans.first().and_then(|prepared| prepared.timeout);
        let timeout = [of_session, self.parts.limits.query_timeout].into_iter().flatten().min();
        let running = attempt.start(&touched).await?;
        Ok(Rows {
            schema: Arc::clone(schema),
            batches: Box::pin(Draining::new(&self.queries(), running, streams, Arc::clone(schema), timeout)),
        })
    }

    async fn run_explain(&self, attempt: Attempt, explain: &sql::statement::Explain, prepared: Prepared) -> Result<Rows> {
        let physical = match prepared.physical().await {
            Ok(physical) => physical,
            Err(error) => return attempt.refused(error).await,
        };
        let touched = prepared.namespace.touched();
        let running = attempt.start(&touched).await?;
        let answer = async {
            if explain.analyze {
                rows::discard(&self.queries(), Arc::clone(&physical), self.task(&prepared)).await?;
            }
            let logical = prepared.optimized()?;
            let lines = explain::render(&logical, physical.as_ref(), explain.analyze).map_err(failure::from_datafusion)?;
            let (kinds, plans): (Vec<String>, Vec<String>) = lines.into_iter().unzip();
            let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(StringArray::from(kinds)), Arc::new(StringArray::from(plans))];
            RecordBatch::try_new(explain_schema(), columns).map_err(Error::internal)
        }
        .await;
        running.rows_of(&explain_schema(), answer)
    }

    /// The plans made at GetFlightInfo where they still stand, else new ones: time of check is time of execution.
    async fn ready_plans(&self, session: &Arc<Session>, planned: &PlannedQuery, query: &sql::Query) -> Result<Vec<Prepared>> {
        let ready = planned.ready.lock().take();
        if let Some((made, plans)) = ready
            && made.elapsed() < PLAN_FRESH
            && self.parts.metadata.current().epoch() == planned.epoch
            && plans.iter().all(|prepared| prepared.is_for(session.principal()))
        {
            return Ok(plans);
        }
        let plans = self.prepare_bound(session, query, planned.parameters.as_ref()).await?;
        if plans.iter().any(|prepared| prepared.schema() != planned.schema) {
            return Err(Error::new(
                crate::error::ErrorKind::Aborted,
                "a table of this query has changed since it was planned: plan it again",
            ));
        }
        Ok(plans)
    }

    /// Where a query's own work is spawned.
    fn queries(&self) -> Handle {
        self.queries.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }

    fn parse(&self, sql: &str) -> Result<Statement> {
        sql::parse(sql, self.parts.limits.statement_bytes)
    }

    fn attempt(&self, session: &Arc<Session>, sql: &str) -> Attempt {
        Attempt::new(&self.parts, session, sql)
    }

    fn context(&self, session: &Arc<Session>) -> StatementContext {
        StatementContext {
            metadata: Arc::clone(&self.parts.metadata),
            lake: Arc::clone(&self.parts.lake),
            session: Arc::clone(session),
            issuers: Arc::clone(&self.parts.issuers),
        }
    }
}

fn is_update(statement: &Statement) -> bool {
    !matches!(statement, Statement::Query(_) | Statement::Explain(_)) && statements::result_schema(statement).is_none()
}

fn explain_schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![field("plan_type"), field("plan")]))
}
