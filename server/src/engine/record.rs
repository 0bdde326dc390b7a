//! What the audit is told of a statement: before it runs, durably, and when it ends.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use lazaret_auth::{AccessReader, Authority};
use lazaret_catalog::governed::Touched;
use serde_json::json;

use super::{EngineParts, UpdateOutcome};
use crate::audit::{AuditLog, AuditedStatement, Decision, StartRecord, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::session::Session;
use crate::sql;
use crate::telemetry::{Metrics, StatementKind};

/// A statement that somebody wants to run. It ends as refused or as [`Running`].
pub(super) struct Attempt {
    audit: AuditLog,
    metrics: Arc<Metrics>,
    kind: StatementKind,
    record: StartRecord,
}

/// A statement that was let in; its start record is durable.
pub(super) struct Running {
    audited: Option<AuditedStatement>,
    metrics: Arc<Metrics>,
    kind: StatementKind,
    started: Instant,
}

impl Attempt {
    pub fn new(parts: &EngineParts, session: &Session, text: &str) -> Self {
        let principal = session.principal();
        let state = parts.metadata.current();
        let authority = Authority::of(state.as_ref(), Arc::clone(principal));
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
            statement: sql::redact(text),
            ..StartRecord::default()
        };
        Self { audit: parts.audit.clone(), metrics: Arc::clone(&parts.metrics), kind: kind_of(text), record }
    }

    /// Writes the start record, and returns when it is on disk.
    pub async fn start(mut self, touched: &[Touched]) -> Result<Running> {
        self.note(touched);
        let audited = self.audit.start(self.record).await.map_err(unaudited)?;
        self.metrics.statement_started();
        Ok(Running { audited: Some(audited), metrics: self.metrics, kind: self.kind, started: Instant::now() })
    }

    /// Records that the statement was not let in, and gives the error back.
    pub async fn refused<T>(self, error: Error) -> Result<T> {
        let decision = match error.kind {
            ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::FailedPrecondition | ErrorKind::Unauthenticated => {
                Decision::Deny
            }
            _ => Decision::Allow,
        };
        let status = Status::Failed(error.kind);
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
        let full = |name: &[String; 3]| name.join(".");
        self.record.tables = touched.iter().map(|table| full(&table.name)).collect();
        self.record.columns =
            touched.iter().flat_map(|table| table.columns.iter().map(move |column| format!("{}.{column}", full(&table.name)))).collect();
        let policies = touched.iter().map(|table| {
            json!({
                "table": full(&table.name),
                "snapshot": table.snapshot.map(|snapshot| snapshot.0),
                "policies": table.policies.iter().map(|policy| json!({ "name": policy.name, "id": policy.id, "version": policy.version })).collect::<Vec<_>>(),
            })
        });
        self.record.policies = policies.collect();
    }
}

impl Running {
    pub fn returned(&mut self, batch: &RecordBatch) {
        let (rows, bytes) = (batch.num_rows() as u64, batch.get_array_memory_size() as u64);
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

    fn count(&self, status: Status) {
        self.metrics.statement_ended(self.kind, status, self.started.elapsed());
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

fn ended(outcome: Result<(), &Error>) -> (Status, Option<String>) {
    match outcome {
        Ok(()) => (Status::Ok, None),
        Err(error) => (Status::Failed(error.kind), error.id.clone()),
    }
}

fn unaudited(error: crate::audit::AuditError) -> Error {
    tracing::error!(%error, "the audit cannot be written");
    Error::new(ErrorKind::Unavailable, "the audit cannot be written: the statement was not run")
}

/// By the first word, for a text that may not even parse.
fn kind_of(text: &str) -> StatementKind {
    let word = text.trim_start().split(|it: char| !it.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_lowercase();
    match word.as_str() {
        "select" | "with" | "values" | "table" => StatementKind::Query,
        "insert" | "update" | "delete" | "merge" | "truncate" | "copy" => StatementKind::Write,
        "set" | "reset" | "use" | "show" | "describe" | "desc" | "explain" => StatementKind::Session,
        _ => StatementKind::Definition,
    }
}
