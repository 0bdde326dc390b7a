//! What the audit is told of a statement: durably, before anything comes of it, and when it ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::memory_pool::MemoryPool;
use lazaret_auth::{AccessReader, EmergencyId, Principal};
use lazaret_catalog::governed::{AppliedPolicy, Touched};
use lazaret_catalog::namespace::Namespace;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::size::array_bytes;
use super::{EngineParts, UpdateOutcome};
use crate::activity::{Activity, Facts, Listed, killed};
use crate::audit::{AuditLog, AuditedStatement, Decision, StartRecord, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::session::{Life, Session};
use crate::sql::{self, Statement};
use crate::telemetry::{Metrics, StatementKind};

/// Parameters are recorded up to this; one call may bind half a gigabyte.
const PARAMETER_BYTES: usize = 64 << 10;

/// A statement that somebody wants to run. It ends as refused or as [`Running`].
pub(super) struct Attempt {
    audit: AuditLog,
    metrics: Arc<Metrics>,
    kind: StatementKind,
    record: StartRecord,
    activity: Arc<Activity>,
    principal: Arc<Principal>,
    session: Life,
    /// The session's catalog and schema, in which names are meant.
    place: (String, String),
    /// Full names of the tables and views that the statement names, there or not.
    asked: BTreeSet<String>,
    pub seen: Seen,
}

/// The names in which a statement was planned, as far as it came: what they have touched is recorded of one that is
/// refused, too.
#[derive(Default)]
pub(super) struct Seen(Mutex<Option<Namespace>>);

impl Seen {
    pub fn note(&self, namespace: &Namespace) {
        *self.0.lock() = Some(namespace.clone());
    }
}

/// A statement that was let in; its start record is durable.
pub(super) struct Running {
    audited: Option<AuditedStatement>,
    listed: Option<Listed>,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
    kind: StatementKind,
    started: Instant,
}

impl Attempt {
    /// Of the caller's own session: what it is and holds is recorded.
    pub fn new(parts: &EngineParts, session: &Session, text: &str) -> Self {
        let principal = &session.caller.principal;
        let state = parts.metadata.current();
        let authority = session.authority(state.as_ref());
        let roles = authority.active_roles().iter().filter_map(|role| state.role_name(*role)).collect();
        let record = StartRecord {
            statement_id: uuid::Uuid::now_v7().simple().to_string(),
            session_id: session.id.clone(),
            principal: principal.name.to_string(),
            roles,
            issuer: principal.name.issuer.clone(),
            subject: principal.name.subject.clone(),
            token_id: principal.token_id.clone(),
            client_address: session.caller.client_address.clone(),
            client_driver: session.caller.client_driver.clone(),
            statement: recorded(text, parts.limits.statement_bytes),
            policies: Value::Array(Vec::new()),
            emergency: authority.emergency().map(|access| access.id.to_string()),
            ..StartRecord::default()
        };
        let place = {
            let state = session.state.lock();
            (state.catalog.clone(), state.schema.clone())
        };
        Self {
            audit: parts.audit.clone(),
            metrics: Arc::clone(&parts.metrics),
            kind: kind_of(text),
            record,
            activity: Arc::clone(&parts.activity),
            principal: Arc::clone(principal),
            session: session.life.clone(),
            place,
            asked: BTreeSet::new(),
            seen: Seen::default(),
        }
    }

    /// The statement sets this emergency access, if it runs under none.
    pub fn under(mut self, id: EmergencyId) -> Self {
        self.record.emergency.get_or_insert_with(|| id.to_string());
        self
    }

    /// Notes what the statement asks for.
    pub fn asks(&mut self, statement: &Statement) {
        self.asked = statement.relations(&self.place.0, &self.place.1);
    }

    /// Notes the parameters, where the configuration says so.
    pub fn bound(&mut self, parameters: Option<&RecordBatch>) {
        if self.audit.records_parameters() {
            self.record.parameters = parameters.map(parameters_text);
        }
    }

    /// Says in whose place the statement runs, where that is somebody else's.
    pub fn acting_in(mut self, session: &Session) -> Self {
        self.record.executed_as = session.acting_as().map(|principal| principal.name.to_string());
        self
    }

    /// Writes the start record, and returns when it is on disk.
    pub async fn start(self, touched: &[Touched]) -> Result<Running> {
        Ok(self.start_beside(touched, |_| ()).await?.0)
    }

    /// As [`Self::start`], with work that begins once the statement is listed, so that it finds itself running and can be
    /// stopped, and goes on while the audit's disk is waited for. It is dropped where the record cannot be written.
    pub async fn start_beside<T>(mut self, touched: &[Touched], work: impl FnOnce(CancellationToken) -> T) -> Result<(Running, T)> {
        self.note(touched);
        if self.session.killed().is_cancelled() {
            return self.refused(killed()).await;
        }
        if self.record.emergency.is_some() {
            self.metrics.emergency_statement();
        }
        let listed = self.activity.begin(self.facts(), self.session.killed());
        let stop = listed.stop().clone();
        let begun = work(stop.clone());
        let audited = self.audit.start(self.record).await.map_err(unaudited)?;
        self.metrics.statement_started();
        let (audited, listed) = (Some(audited), Some(listed));
        Ok((Running { audited, listed, stop, metrics: self.metrics, kind: self.kind, started: Instant::now() }, begun))
    }

    /// What `system.queries` shows of it.
    fn facts(&self) -> Facts {
        let record = &self.record;
        Facts {
            statement_id: record.statement_id.clone(),
            session_id: record.session_id.clone(),
            principal: self.principal.name.clone(),
            client_address: record.client_address.clone(),
            client_driver: record.client_driver.clone(),
            statement: record.statement.clone(),
            emergency: record.emergency.clone(),
        }
    }

    /// Records that the statement was not let in, and gives the error back.
    pub async fn refused<T>(mut self, error: Error) -> Result<T> {
        let touched = self.seen.0.lock().take().map(|namespace| namespace.touched());
        self.note(&touched.unwrap_or_default());
        let (decision, status) = (Decision::of(error.kind), Status::Failed(error.kind));
        self.metrics.statement_refused(self.kind, status);
        self.audit.refused(self.record, decision, status, error.id.clone()).await.map_err(unaudited)?;
        Err(error)
    }

    /// For a step before the statement runs: only its failure is recorded.
    pub async fn refused_if_err<T>(self, step: Result<T>) -> Result<T> {
        match step {
            Ok(done) => Ok(done),
            Err(error) => self.refused(error).await,
        }
    }

    fn note(&mut self, touched: &[Touched]) {
        // It may have been set by another call since this statement began.
        if let Some(id) = touched.iter().find_map(|table| table.lifted) {
            self.record.emergency = Some(id.to_string());
        }
        let full = |name: &[String; 3]| name.join(".");
        let mut tables = std::mem::take(&mut self.asked);
        tables.extend(touched.iter().map(|table| full(&table.name)));
        self.record.tables = tables.into_iter().collect();
        let columns = |table: &Touched| -> Vec<String> {
            table.columns.union(&table.written).map(|column| format!("{}.{column}", full(&table.name))).collect()
        };
        self.record.columns = touched.iter().flat_map(columns).collect();
        let policies = touched.iter().map(|table| {
            let mut told = json!({
                "table": full(&table.name),
                "snapshot": table.snapshot.map(|snapshot| snapshot.0),
                "policies": table.policies.iter().map(applied).collect::<Vec<_>>(),
            });
            if !table.written.is_empty() {
                told["written"] = json!(table.written);
            }
            if let Some(access) = table.lifted {
                told["lifted_by"] = json!(access.to_string());
            }
            told
        });
        self.record.policies = policies.collect();
    }
}

impl Running {
    /// Cancelled when the statement is killed, by itself or with its session.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Whose memory is this statement's.
    pub fn uses(&self, pool: &Arc<dyn MemoryPool>) {
        if let Some(listed) = &self.listed {
            listed.uses(pool);
        }
    }

    pub fn returned(&mut self, batch: &RecordBatch) {
        let bytes: usize = batch.columns().iter().map(|column| array_bytes(column)).sum();
        let (rows, bytes) = (batch.num_rows() as u64, bytes as u64);
        if let Some(listed) = &self.listed {
            listed.returned(rows, bytes);
        }
        if let Some(audited) = &mut self.audited {
            audited.returned(rows, bytes);
        }
        self.metrics.returned(rows, bytes);
    }

    /// Records the end with the next group of records.
    pub fn finish(mut self, outcome: Result<(), &Error>) {
        let (status, id) = ended(outcome);
        self.count(status);
        if let Some(audited) = self.audited.take() {
            audited.finish(status, id);
        }
    }

    /// Records the end of something that changed the server, durably.
    pub async fn finish_update(mut self, outcome: Result<UpdateOutcome>) -> Result<UpdateOutcome> {
        let (status, id) = ended(outcome.as_ref().map(|_| ()));
        self.count(status);
        if let Some(audited) = self.audited.take()
            && let Err(error) = audited.finish_durably(status, id).await
        {
            // The change stands and its start is recorded; health shows that the audit has stopped.
            tracing::error!(%error, "the end of a statement could not be recorded");
        }
        outcome
    }

    fn count(&mut self, status: Status) {
        self.metrics.statement_ended(self.kind, status, self.started.elapsed());
        if let Some(listed) = self.listed.take() {
            listed.end(status);
        }
    }
}

/// Dropped before its end: the client went away.
impl Drop for Running {
    fn drop(&mut self) {
        if self.audited.is_some() {
            self.count(Status::Cancelled);
        }
    }
}

/// A text that is refused for its length is neither read nor kept.
fn recorded(text: &str, limit: usize) -> String {
    if text.len() > limit { format!("-- {} bytes", text.len()) } else { sql::redact(text) }
}

/// A masking policy is told by the columns that it masked.
fn applied(policy: &AppliedPolicy) -> serde_json::Value {
    let mut told = json!({ "name": policy.name, "id": policy.id, "version": policy.version });
    if !policy.masks.is_empty() {
        told["masks"] = json!(policy.masks);
    }
    told
}

/// The rows as JSON: a list of lists of texts and nulls. What is too much is counted.
fn parameters_text(rows: &RecordBatch) -> String {
    let options = FormatOptions::default();
    let columns: Vec<_> = rows.columns().iter().map(|column| (column, ArrayFormatter::try_new(column.as_ref(), &options).ok())).collect();
    let (mut told, mut bytes) = (Vec::new(), 0);
    for row in 0..rows.num_rows() {
        let values: Vec<Option<String>> = columns
            .iter()
            .map(|(column, format)| format.as_ref().filter(|_| column.is_valid(row)).map(|format| format.value(row).to_string()))
            .collect();
        bytes += values.iter().flatten().map(String::len).sum::<usize>();
        if bytes > PARAMETER_BYTES {
            told.push(json!(format!("and {} more rows", rows.num_rows() - row)));
            break;
        }
        told.push(json!(values));
    }
    Value::Array(told).to_string()
}

fn ended(outcome: Result<(), &Error>) -> (Status, Option<String>) {
    match outcome {
        Ok(()) => (Status::Ok, None),
        Err(error) => (Status::Failed(error.kind), error.id.clone()),
    }
}

fn unaudited(error: crate::audit::AuditError) -> Error {
    tracing::error!(%error, "the audit cannot be written");
    Error::new(ErrorKind::Unavailable, "the audit cannot be written: nothing was changed or sent")
}

/// By the first word, for a text that may not even parse.
fn kind_of(text: &str) -> StatementKind {
    let word = text.trim_start().split(|it: char| !it.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_lowercase();
    match word.as_str() {
        "select" | "with" | "values" | "table" | "execute" => StatementKind::Query,
        "insert" | "update" | "delete" | "merge" | "truncate" | "copy" => StatementKind::Write,
        "set" | "reset" | "use" | "show" | "describe" | "desc" | "explain" => StatementKind::Session,
        _ => StatementKind::Definition,
    }
}
