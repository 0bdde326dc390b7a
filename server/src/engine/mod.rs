//! The one way of a statement: parse, authorize, plan, execute. Everything that runs SQL joins here.

mod assign;
mod catalog;
mod create;
pub(crate) mod failure;
mod frames;
mod functions;
mod insert;
mod memory;
pub mod objects;
mod parameters;
mod passage;
mod plan;
mod record;
mod rows;
pub(crate) mod size;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, GreedyMemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::optimizer::Analyzer;
use datafusion::prelude::SessionConfig;
use futures::stream::BoxStream;
use lazaret_auth::{EmergencyId, MaskKey};
use lazaret_catalog::governed::explain;
use lazaret_catalog::lake::Lake;
use lazaret_catalog::meta::Metadata;
use parking_lot::Mutex;
use tokio::runtime::{Builder as RuntimeBuilder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::activity::Activity;
use crate::audit::AuditLog;
use crate::emergency::Warden;
use crate::engine::plan::Prepared;
use crate::engine::record::{Attempt, Running, Seen};
use crate::engine::rows::{Computing, Draining};
use crate::error::{Error, Result};
use crate::session::{Session, Sessions};
use crate::sql::{self, Statement};
use crate::statements::{self, StatementContext};
use crate::telemetry::Metrics;

/// A plan older than this is made again before it runs: it would read an old version of its tables.
const PLAN_FRESH: Duration = Duration::from_secs(5);

/// In the place of the statement, of which nothing is known but that it was not this principal's.
const REFUSED_HANDLE: &str = "-- ticket or prepared statement refused";

/// What a driver wants to know when it prepares. For a statement that is not a query, `result_schema` has no fields.
#[derive(Clone, Debug)]
pub struct Description {
    /// DDL, DML, SET, USE, GRANT: has no rows of its own.
    pub is_update: bool,
    /// Such, or CREATE TOKEN, which has a row: it changes the server, and runs exactly once.
    pub runs_once: bool,
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
    statement: Statement,
    pub(crate) parameters: Option<RecordBatch>,
    pub(crate) epoch: u64,
    /// The plans, until they run, go stale, or somebody changes who may see what.
    ready: Mutex<Option<(Instant, Vec<Prepared>)>>,
}

impl PlannedQuery {
    /// A query that is planned again when it runs.
    pub(crate) fn new(schema: SchemaRef, sql: &str, statement: Statement, parameters: Option<RecordBatch>, epoch: u64) -> Self {
        Self { schema, sql: sql.to_owned(), statement, parameters, epoch, ready: Mutex::new(None) }
    }
}

/// What became of a statement that came without saying whether it has rows.
pub enum Started {
    /// It has rows, and waits for its DoGet.
    Planned(PlannedQuery),
    /// It has run, with or without rows.
    Done(UpdateOutcome),
}

/// What an executed update did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateOutcome {
    /// Rows affected; 0 for DDL.
    pub rows: u64,
    /// The rows that it answers with, for the one statement that changes the server and has some: CREATE TOKEN.
    pub answer: Option<Answer>,
    /// What SHOW WARNINGS shows after it.
    pub warnings: Vec<String>,
}

/// Rows that are made once and given to nobody but who asked for them. They may hold a secret, so that nothing prints them.
#[derive(Clone, PartialEq)]
pub struct Answer(pub RecordBatch);

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({} rows)", self.0.num_rows())
    }
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
    pub activity: Arc<Activity>,
    pub sessions: Arc<Sessions>,
    pub warden: Arc<Warden>,
    pub limits: EngineLimits,
    /// The names of the configured issuers.
    pub issuers: Arc<[String]>,
    /// With which `sha256_global` hashes.
    pub mask_key: MaskKey,
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
        config.set_extension(Arc::new(parts.mask_key.clone()));
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![spill.to_owned()]));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(parts.limits.memory_bytes)))
            .with_disk_manager_builder(disk)
            .with_object_store_registry(Arc::clone(parts.lake.stores()) as _)
            .build_arc()
            .map_err(Error::internal)?;
        let mut rules = Analyzer::new().rules;
        rules.insert(0, Arc::new(functions::SubqueryValues));
        let template =
            SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().with_analyzer_rules(rules);
        let template = lazaret_catalog::governed::with_careful_planning(template);
        let mut template = template.with_physical_optimizer_rule(Arc::new(frames::Frames)).build();
        functions::register_aggregates(&mut template).map_err(Error::internal)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let queries = RuntimeBuilder::new_multi_thread()
            .thread_name("query")
            .worker_threads(QUERY_THREADS_PER_CORE * cores)
            .thread_stack_size(sql::WORKER_STACK_BYTES)
            .enable_all()
            .build()
            .map_err(Error::internal)?;
        Ok(Self { parts, template, queries: Some(queries) })
    }

    /// Parses, authorizes and plans without running anything.
    pub async fn describe(&self, session: &Arc<Session>, sql: &str) -> Result<Description> {
        let (attempt, session, statement) = self.enter(session, sql, None).await?;
        let described = self.try_describe(&session, statement.acted(), &attempt).await;
        attempt.refused_if_err(described).await
    }

    /// Reads a statement, and finds in whose place it runs.
    async fn enter(
        &self,
        session: &Arc<Session>,
        sql: &str,
        parameters: Option<&RecordBatch>,
    ) -> Result<(Attempt, Arc<Session>, Statement)> {
        let mut attempt = self.attempt(session, sql);
        attempt.bound(parameters);
        let statement = match self.parse(sql) {
            Ok(statement) => statement,
            Err(error) => return attempt.refused(error).await,
        };
        attempt.asks(&statement);
        match self.acting(session, &statement) {
            Ok(session) => Ok((attempt.acting_in(&session), session, statement)),
            Err(error) => attempt.refused(error).await,
        }
    }

    /// The session in which a statement runs. With EXECUTE AS that is one in somebody else's place, if the caller may do so
    /// now: asked again at each step of the statement.
    fn acting(&self, session: &Arc<Session>, statement: &Statement) -> Result<Arc<Session>> {
        match statement {
            Statement::ExecuteAs(execute) => statements::access::in_place_of(&self.context(session), &execute.subject),
            _ => Ok(Arc::clone(session)),
        }
    }

    async fn try_describe(&self, session: &Arc<Session>, statement: &Statement, attempt: &Attempt) -> Result<Description> {
        if let Statement::Insert(insert) = statement {
            let parameter_schema = self.describe_insert(session, insert, &attempt.seen).await?;
            return Ok(Description { is_update: true, runs_once: true, result_schema: Arc::new(Schema::empty()), parameter_schema });
        }
        let prepared = match statement.query() {
            Some(query) => Some(self.prepare(session, query, &attempt.seen).await?),
            None => None,
        };
        let parameter_schema = match &prepared {
            Some(prepared) => prepared.parameter_schema(statement.parameters())?,
            None => Arc::new(Schema::empty()),
        };
        let result_schema = match (statement, &prepared) {
            (Statement::Query(_), Some(prepared)) => prepared.schema(),
            (Statement::Explain(_), _) => explain_schema(),
            (Statement::ExplainPolicy(explain), _) => {
                self.check_own(session, explain, &attempt.seen).await?;
                statements::result_schema(statement).unwrap_or_else(|| Arc::new(Schema::empty()))
            }
            (other, _) => statements::result_schema(other).unwrap_or_else(|| Arc::new(Schema::empty())),
        };
        Ok(Description { is_update: is_update(statement), runs_once: runs_once(statement), result_schema, parameter_schema })
    }

    /// Plans a query for a later [`Engine::run`]; runs anything else now, once. Parameters: one row for each execution,
    /// columns in order.
    pub async fn start(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<Started> {
        let (attempt, session, statement) = self.enter(session, sql, parameters.as_ref()).await?;
        if runs_once(&statement) {
            return self.change(attempt, &session, statement, parameters).await.map(Started::Done);
        }
        let planned = self.plan(&session, sql, statement, parameters, &attempt.seen).await;
        attempt.refused_if_err(planned).await.map(Started::Planned)
    }

    async fn plan(
        &self,
        session: &Arc<Session>,
        sql: &str,
        statement: Statement,
        parameters: Option<RecordBatch>,
        seen: &Seen,
    ) -> Result<PlannedQuery> {
        let epoch = self.parts.metadata.current().epoch();
        let (schema, ready) = match statement.acted() {
            Statement::Query(query) => {
                let plans = self.prepare_bound(session, query, parameters.as_ref(), seen).await?;
                let schema = plans.first().map_or_else(|| Arc::new(Schema::empty()), Prepared::schema);
                (schema, Some((Instant::now(), plans)))
            }
            Statement::Explain(explain) => {
                self.prepare_bound(session, &explain.query, parameters.as_ref(), seen).await?;
                (explain_schema(), None)
            }
            policy @ Statement::ExplainPolicy(explain) => {
                self.check_own(session, explain, seen).await?;
                (statements::result_schema(policy).ok_or_else(|| Error::internal("EXPLAIN POLICY has no columns"))?, None)
            }
            other => (statements::result_schema(other).ok_or_else(|| Error::invalid("this statement returns no rows"))?, None),
        };
        let planned = PlannedQuery::new(schema, sql, statement, parameters, epoch);
        *planned.ready.lock() = ready;
        Ok(planned)
    }

    /// Runs a planned query: checks again who may see what, writes the audit's start record durably, streams.
    pub async fn run(&self, session: &Arc<Session>, planned: &PlannedQuery) -> Result<Rows> {
        let mut attempt = self.attempt(session, &planned.sql);
        attempt.bound(planned.parameters.as_ref());
        attempt.asks(&planned.statement);
        let session = &match self.acting(session, &planned.statement) {
            Ok(session) => session,
            Err(error) => return attempt.refused(error).await,
        };
        let attempt = attempt.acting_in(session);
        match planned.statement.acted() {
            Statement::Query(query) => match self.ready_plans(session, planned, query, &attempt.seen).await {
                Ok(plans) => self.run_query(attempt, plans, &planned.schema).await,
                Err(error) => attempt.refused(error).await,
            },
            Statement::Explain(explain) => {
                if explain.verbose || explain.format.is_some_and(|format| format != sql::statement::ExplainFormat::Indent) {
                    return attempt.refused(Error::unsupported("EXPLAIN VERBOSE and other formats than INDENT")).await;
                }
                let prepared = self.prepare_bound(session, &explain.query, planned.parameters.as_ref(), &attempt.seen).await;
                match prepared
                    .and_then(|plans| plans.into_iter().next().ok_or_else(|| Error::invalid("EXPLAIN takes one row of parameters")))
                {
                    Ok(prepared) => self.run_explain(attempt, explain, prepared).await,
                    Err(error) => attempt.refused(error).await,
                }
            }
            other => {
                if let Statement::ExplainPolicy(explain) = other
                    && let Err(error) = self.check_own(session, explain, &attempt.seen).await
                {
                    return attempt.refused(error).await;
                }
                let namespace = match self.namespace(session) {
                    Ok(namespace) => namespace,
                    Err(error) => return attempt.refused(error).await,
                };
                let running = attempt.start(&namespace.touched()).await?;
                let context = self.context(session);
                let answer = rows::unless_killed(&running.stop(), statements::rows(&context, &namespace, other)).await;
                running.rows_of(&planned.schema, answer)
            }
        }
    }

    /// Runs a statement that is not a query, exactly once, for each row of parameters (once without).
    pub async fn update(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<UpdateOutcome> {
        let (attempt, session, statement) = self.enter(session, sql, parameters.as_ref()).await?;
        if is_update(&statement) {
            return self.change(attempt, &session, statement, parameters).await;
        }
        attempt.refused(Error::invalid("this statement returns rows: run it as a query")).await
    }

    /// Records that a ticket or the handle of a prepared statement was not good, or not good in these hands. Gives the error
    /// back, or that of the audit.
    pub async fn refused_handle(&self, session: &Arc<Session>, error: Error) -> Error {
        let attempt = self.attempt(session, REFUSED_HANDLE);
        match attempt.refused::<()>(error.clone()).await {
            Err(told) => told,
            Ok(()) => error,
        }
    }

    async fn change(
        &self,
        mut attempt: Attempt,
        session: &Arc<Session>,
        statement: Statement,
        parameters: Option<RecordBatch>,
    ) -> Result<UpdateOutcome> {
        attempt.asks(&statement);
        session.state.lock().warnings.clear();
        let context = self.context(session);
        let outcome = match &statement {
            Statement::CreateTableAs(create) => {
                let plans = match self.prepare_bound(session, &create.query, parameters.as_ref(), &attempt.seen).await {
                    Ok(plans) => plans,
                    Err(error) => return attempt.refused(error).await,
                };
                let Some(prepared) = plans.into_iter().next() else {
                    return attempt.refused(Error::invalid("CREATE TABLE AS takes one row of parameters")).await;
                };
                if let Err(error) = prepared.scope.refuse_lifted() {
                    return attempt.refused(error).await;
                }
                let plan = match prepared.physical().await {
                    Ok(plan) => plan,
                    Err(error) => return attempt.refused(error).await,
                };
                let (task, limit) = (prepared.scope.task(), prepared.scope.timeout);
                let running = attempt.start(&prepared.scope.namespace.touched()).await?;
                running.uses(task.memory_pool());
                let (schema, queries, stop) = (prepared.schema(), self.queries(), running.stop());
                let source = create::Source { schema, plan, task, queries, limit, stop };
                let create = create.clone();
                // Dropped with this future, when the client goes.
                let (_client, gone) = oneshot::channel();
                to_its_end(running, async move { create::create_table_as(&context, &create, source, gone).await }).await
            }
            Statement::Insert(insert) => {
                let insertion = match self.prepare_insert(session, insert, parameters.as_ref(), &attempt.seen).await {
                    Ok(insertion) => insertion,
                    Err(error) => return attempt.refused(error).await,
                };
                if let Err(error) = insertion.scope().refuse_lifted() {
                    return attempt.refused(error).await;
                }
                let (queries, limit) = (self.queries(), insertion.scope().timeout);
                let running = attempt.start(&insertion.scope().namespace.touched()).await?;
                let stop = running.stop();
                // Dropped with this future, when the client goes.
                let (_client, gone) = oneshot::channel();
                to_its_end(running, async move { insertion.run(&context, queries, limit, stop, gone).await }).await
            }
            // A view whose query does not plan for its owner is no view.
            Statement::CreateView(create) => {
                let prepared = match self.prepare(session, &create.query, &attempt.seen).await {
                    Ok(prepared) => prepared,
                    Err(error) => return attempt.refused(error).await,
                };
                let running = attempt.start(&prepared.scope.namespace.touched()).await?;
                to_its_end(running, async move { statements::run(&context, &statement).await }).await
            }
            Statement::SetEmergencyAccess(set) => {
                let (id, set) = (EmergencyId::generate(), set.clone());
                let running = attempt.under(id).start(&[]).await?;
                to_its_end(running, async move { statements::set_emergency_access(&context, id, &set).await }).await
            }
            _ => {
                let running = attempt.start(&[]).await?;
                to_its_end(running, async move { statements::run(&context, &statement).await }).await
            }
        }?;
        Ok(UpdateOutcome { warnings: session.state.lock().warnings.clone(), ..outcome })
    }

    /// How long the statement may run: what the session says, or the server where that is less.
    fn shorter_limit(&self, of_session: Option<Duration>) -> Option<Duration> {
        [of_session, self.parts.limits.query_timeout].into_iter().flatten().min()
    }

    async fn run_query(&self, attempt: Attempt, plans: Vec<Prepared>, schema: &SchemaRef) -> Result<Rows> {
        let mut planned = Vec::with_capacity(plans.len());
        let mut touched = Vec::new();
        for prepared in &plans {
            attempt.seen.note(&prepared.scope.namespace);
            let physical = match prepared.physical().await {
                Ok(physical) => physical,
                Err(error) => return attempt.refused(error).await,
            };
            touched = prepared.scope.namespace.touched();
            planned.push(physical);
        }
        // Rows of parameters share a scope, whose constants are counted until its first task.
        let streams = planned.into_iter().zip(&plans).map(|(physical, prepared)| (physical, prepared.scope.task())).collect();
        let timeout = plans.first().and_then(|prepared| prepared.scope.timeout);
        let queries = self.queries();
        // The audit's disk is waited for while the query computes; nothing leaves before the record is there.
        let (running, computing) =
            attempt.start_beside(&touched, |stop| Computing::start(&queries, streams, schema, stop, timeout)).await?;
        Ok(Rows { schema: Arc::clone(schema), batches: Box::pin(Draining::new(&queries, running, computing)) })
    }

    async fn run_explain(&self, attempt: Attempt, explain: &sql::statement::Explain, prepared: Prepared) -> Result<Rows> {
        let physical = match prepared.physical().await {
            Ok(physical) => physical,
            Err(error) => return attempt.refused(error).await,
        };
        let touched = prepared.scope.namespace.touched();
        let running = attempt.start(&touched).await?;
        let answer = async {
            let logical = prepared.optimized().await?;
            if explain.analyze {
                let (queries, task) = (self.queries(), prepared.scope.task());
                running.uses(task.memory_pool());
                let all = rows::discard(&queries, Arc::clone(&physical), task);
                rows::unless_killed(&running.stop(), rows::in_time(prepared.scope.timeout, all)).await?;
            }
            let lines = explain::render(&logical, physical.as_ref(), explain.analyze).map_err(failure::from_datafusion)?;
            let (kinds, plans): (Vec<String>, Vec<String>) = lines.into_iter().unzip();
            let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(StringArray::from(kinds)), Arc::new(StringArray::from(plans))];
            RecordBatch::try_new(explain_schema(), columns).map_err(Error::internal)
        }
        .await;
        running.rows_of(&explain_schema(), answer)
    }

    /// The plans made at GetFlightInfo where they still stand, else new ones: time of check is time of execution.
    async fn ready_plans(&self, session: &Arc<Session>, planned: &PlannedQuery, query: &sql::Query, seen: &Seen) -> Result<Vec<Prepared>> {
        let ready = planned.ready.lock().take();
        let current = self.parts.metadata.current();
        if let Some((made, plans)) = ready
            && made.elapsed() < PLAN_FRESH
            && current.epoch() == planned.epoch
        {
            let reader = session.authority(current.as_ref());
            if plans.iter().all(|prepared| prepared.is_for(&reader)) {
                return Ok(plans);
            }
        }
        let plans = self.prepare_bound(session, query, planned.parameters.as_ref(), seen).await?;
        if plans.iter().any(|prepared| prepared.schema() != planned.schema) {
            return Err(Error::new(
                crate::error::ErrorKind::Aborted,
                "a table of this query has changed since it was planned: plan it again",
            ));
        }
        Ok(plans)
    }

    /// EXPLAIN POLICY for oneself fails where the query would. For somebody else nothing is planned: what went wrong with
    /// that one's eyes is not for the one who asks.
    async fn check_own(&self, session: &Arc<Session>, explain: &sql::statement::ExplainPolicy, seen: &Seen) -> Result<()> {
        match explain.subject {
            None => self.prepare(session, &explain.query, seen).await.map(drop),
            Some(_) => Ok(()),
        }
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
            activity: Arc::clone(&self.parts.activity),
            sessions: Arc::clone(&self.parts.sessions),
            warden: Arc::clone(&self.parts.warden),
        }
    }
}

/// Binds functions to so much memory, where expressions are planned outside of a query.
pub(crate) fn bind_functions(state: &mut SessionState, bytes: usize) -> datafusion::error::Result<()> {
    let pool = Arc::new(GreedyMemoryPool::new(bytes));
    functions::bind(state, &Arc::new(memory::Budget::new(pool, bytes)))
}

/// A change that has begun is made, or refused, whether its client waits or not; the audit says which.
async fn to_its_end(running: Running, change: impl Future<Output = Result<UpdateOutcome>> + Send + 'static) -> Result<UpdateOutcome> {
    let changing = tokio::spawn(async move {
        let mut running = running;
        let outcome = change.await;
        if let Ok(UpdateOutcome { answer: Some(Answer(rows)), .. }) = &outcome {
            running.returned(rows);
        }
        running.finish_update(outcome).await
    });
    changing.await.map_err(Error::internal)?
}

/// What has no rows: drivers run it as an update.
fn is_update(statement: &Statement) -> bool {
    !matches!(statement, Statement::Query(_) | Statement::Explain(_) | Statement::ExecuteAs(_))
        && statements::result_schema(statement).is_none()
}

fn runs_once(statement: &Statement) -> bool {
    is_update(statement) || statements::changes_and_answers(statement)
}

fn explain_schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![field("plan_type"), field("plan")]))
}
