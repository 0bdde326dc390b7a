//! The audit: per statement, allowed or denied, a start record that is durable before anything comes of it, and an end
//! record with what came of it. Append-only segment files under `<data dir>/audit/`; read as `system.audit`.
//!
//! The order of things is the promise: [`AuditLog::start`] returns when the record is on the disk, so a statement that
//! ran has one whatever happens next. If the record cannot be written the statement does not run.
//!
//! Records are chained by hashes ([`segment`]), segments are sealed ([`writer`]), and the head ([`head`]) says where the
//! log begins and ends, so that [`verify`] finds what was changed or taken away.

pub mod command;
mod export;
mod head;
mod link;
mod read;
mod segment;
pub mod sign_in;
mod table;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::error::{Error, ErrorKind};

pub use export::{ExportError, Exported, Period, export};
pub use head::AuditKey;
pub use link::Link;
pub use read::{AuditRow, AuditRows};
pub use table::{audit_schema, audit_table};
pub use verify::{Verified, VerifyError, verify_files, verify_folder};

use segment::{End, Entry, Start};
use writer::{Append, Writer};

/// A segment is closed when it has this size: small enough to be copied and removed as one, large enough that few are
/// open.
const SEGMENT_BYTES: u64 = 64 << 20;

/// How often an idle log looks for segments to close and to remove.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub struct AuditConfig {
    /// Segments whose records are all older are removed.
    pub retention_days: u64,
    pub segment_bytes: u64,
    /// Seals and the head are authenticated with it.
    pub key: AuditKey,
    /// Whether what is bound to a statement's parameters is recorded.
    pub records_parameters: bool,
    pub housekeeping: Duration,
    /// What the records say the time is.
    pub clock: fn() -> SystemTime,
}

impl AuditConfig {
    pub fn new(retention_days: u64, key: AuditKey) -> Self {
        let (segment_bytes, housekeeping) = (SEGMENT_BYTES, HOUSEKEEPING);
        Self { retention_days, segment_bytes, key, records_parameters: false, housekeeping, clock: SystemTime::now }
    }
}

/// What is known of a statement when it is let in or refused. It is a record's text as well: a field that is added later
/// is optional, and left out where there is nothing to say (`skip_serializing_if`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StartRecord {
    pub statement_id: String,
    pub session_id: String,
    /// As it is written in SQL: `ada`, `hospital:ada`.
    pub principal: String,
    /// The active roles.
    pub roles: Vec<String>,
    pub issuer: String,
    pub subject: String,
    /// In whose place it ran, with EXECUTE AS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executed_as: Option<String>,
    /// The token's `jti`; in a record, the hash of it: enough to compare, nothing to reuse.
    pub token_id: Option<String>,
    pub client_address: Option<String>,
    pub client_driver: Option<String>,
    /// Passwords and secrets already taken out.
    pub statement: String,
    /// `None` unless the configuration asks for them.
    pub parameters: Option<String>,
    /// Full names.
    pub tables: Vec<String>,
    /// Full names of all that are read, those in filters too.
    pub columns: Vec<String>,
    /// Snapshot ids and policy versions.
    pub policies: serde_json::Value,
    /// The emergency access that it ran under, or that it set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emergency: Option<String>,
}

/// Whether the statement was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Allow,
    Deny,
}

impl Decision {
    /// What a statement that failed in this way was told: that it may not, or something else.
    pub fn of(failure: ErrorKind) -> Self {
        match failure {
            ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::FailedPrecondition | ErrorKind::Unauthenticated => Self::Deny,
            _ => Self::Allow,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// By the client, or because it went away.
    Cancelled,
    Failed(ErrorKind),
}

impl Status {
    /// As `system.audit` shows it: `ok`, or the gRPC status in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled | Self::Failed(ErrorKind::Cancelled) => "cancelled",
            Self::Failed(ErrorKind::Invalid) => "invalid_argument",
            Self::Failed(ErrorKind::NotFound) => "not_found",
            Self::Failed(ErrorKind::AlreadyExists) => "already_exists",
            Self::Failed(ErrorKind::PermissionDenied) => "permission_denied",
            Self::Failed(ErrorKind::Unauthenticated) => "unauthenticated",
            Self::Failed(ErrorKind::Unsupported) => "unimplemented",
            Self::Failed(ErrorKind::Exhausted) => "resource_exhausted",
            Self::Failed(ErrorKind::DeadlineExceeded) => "deadline_exceeded",
            Self::Failed(ErrorKind::Aborted) => "aborted",
            Self::Failed(ErrorKind::FailedPrecondition) => "failed_precondition",
            Self::Failed(ErrorKind::DataLoss) => "data_loss",
            Self::Failed(ErrorKind::Unavailable) => "unavailable",
            Self::Failed(ErrorKind::Internal) => "internal",
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("cannot write the audit record")]
    Write(#[source] Arc<io::Error>),
    #[error("the audit log is closed")]
    Closed,
}

impl AuditError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source: Arc::new(source) }
    }
}

impl From<AuditError> for Error {
    fn from(error: AuditError) -> Self {
        tracing::error!(error = %error, source = ?std::error::Error::source(&error), "audit log failed");
        Self::new(ErrorKind::Unavailable, "the audit log cannot be written, so the statement was refused")
    }
}

/// The open log. One process writes it; a clone is another handle on it.
#[derive(Clone)]
pub struct AuditLog {
    inner: Arc<Inner>,
}

struct Inner {
    commands: std::sync::mpsc::Sender<Append>,
    shared: Arc<Shared>,
}

/// What the writer's thread tells the rest.
struct Shared {
    dir: PathBuf,
    clock: fn() -> SystemTime,
    records_parameters: bool,
    healthy: watch::Sender<bool>,
    /// The segment being written, and how much of it is there.
    written: Mutex<Written>,
    /// The first record of this process; an older start without an end was interrupted.
    first_seq: u64,
}

#[derive(Clone, Copy)]
struct Written {
    segment: u64,
    bytes: u64,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("dir", &self.inner.shared.dir).finish_non_exhaustive()
    }
}

impl AuditLog {
    /// Opens the log in `dir`, making it where it is missing, and takes away a torn last record. The caller holds the
    /// data folder's lock: no other process writes here. Blocks on the disk.
    pub fn open(dir: &Path, config: AuditConfig) -> Result<Self, AuditError> {
        let (commands, receiver) = std::sync::mpsc::channel();
        let shared = Writer::spawn(dir, config, receiver)?;
        Ok(Self { inner: Arc::new(Inner { commands, shared }) })
    }

    /// Records that a statement is let in. The record is durable when this returns; only then may a batch leave or a
    /// commit be made.
    pub async fn start(&self, record: StartRecord) -> Result<AuditedStatement, AuditError> {
        let started = Instant::now();
        let seq = self.append(Entry::Start(start_entry(record))).await?;
        Ok(AuditedStatement { log: self.clone(), seq, started, rows: 0, bytes: 0, finished: false })
    }

    /// Records a statement that was not let in, or failed before it could be. Durable when this returns.
    pub async fn refused(
        &self,
        record: StartRecord,
        decision: Decision,
        status: Status,
        error_id: Option<String>,
    ) -> Result<(), AuditError> {
        self.append(refused_entry(record, decision, status, error_id)).await.map(|_| ())
    }

    /// As [`refused`](Self::refused), with the next group of records, without waiting for it.
    pub(crate) fn note_refused(&self, record: StartRecord, decision: Decision, status: Status) {
        if self.send(refused_entry(record, decision, status, None), None).is_err() {
            tracing::error!("audit log closed before a refusal was recorded");
        }
    }

    /// Whether the last write succeeded. While it did not, every statement fails.
    pub fn healthy(&self) -> bool {
        *self.inner.shared.healthy.borrow()
    }

    /// Tells whenever [`healthy`](Self::healthy) changes.
    pub fn watch_health(&self) -> watch::Receiver<bool> {
        self.inner.shared.healthy.subscribe()
    }

    /// Whether a record should have the statement's parameters.
    pub fn records_parameters(&self) -> bool {
        self.inner.shared.records_parameters
    }

    /// Every statement, in the order in which they ended; those that run come last. Blocks on the disk: call it where
    /// that is allowed. Memory is bounded by the statements that run at a time.
    pub fn read(&self) -> Result<AuditRows, AuditError> {
        let shared = &self.inner.shared;
        AuditRows::open(&shared.dir, *shared.written.lock(), shared.first_seq)
    }

    /// Waits until all that was recorded so far is durable, end records too.
    pub async fn flush(&self) -> Result<(), AuditError> {
        self.append(Entry::Flush).await.map(|_| ())
    }

    async fn append(&self, entry: Entry) -> Result<u64, AuditError> {
        let (done, result) = oneshot::channel();
        self.send(entry, Some(done))?;
        result.await.map_err(|_| AuditError::Closed)?
    }

    fn send(&self, entry: Entry, done: Option<oneshot::Sender<Result<u64, AuditError>>>) -> Result<(), AuditError> {
        let time_us = micros((self.inner.shared.clock)());
        self.inner.commands.send(Append { time_us, entry, done }).map_err(|_| AuditError::Closed)
    }
}

/// A statement that was let in and runs. Dropped without [`finish`](Self::finish) it was cancelled.
#[must_use = "a statement that is dropped at once is recorded as cancelled"]
#[derive(Debug)]
pub struct AuditedStatement {
    log: AuditLog,
    seq: u64,
    started: Instant,
    rows: u64,
    bytes: u64,
    finished: bool,
}

impl AuditedStatement {
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Counts what has been handed to the client, so that the end record has it even when the client goes away.
    pub fn returned(&mut self, rows: u64, bytes: u64) {
        self.rows += rows;
        self.bytes += bytes;
    }

    /// Records the end. Written with the next group of records, without waiting for it.
    pub fn finish(mut self, status: Status, error_id: Option<String>) {
        self.end(status, error_id, None);
    }

    /// Records the end, durable when this returns.
    pub async fn finish_durably(mut self, status: Status, error_id: Option<String>) -> Result<(), AuditError> {
        let (done, result) = oneshot::channel();
        self.end(status, error_id, Some(done));
        result.await.map_err(|_| AuditError::Closed)?.map(|_| ())
    }

    fn end(&mut self, status: Status, error_id: Option<String>, done: Option<oneshot::Sender<Result<u64, AuditError>>>) {
        self.finished = true;
        let end = End {
            start: self.seq,
            decision: match status {
                Status::Failed(failure) => Some(Decision::of(failure)).filter(|decision| *decision == Decision::Deny),
                Status::Ok | Status::Cancelled => None,
            },
            status: status.as_str().to_owned(),
            error_id,
            rows_returned: self.rows,
            bytes_returned: self.bytes,
            duration_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        if self.log.send(Entry::End(end), done).is_err() {
            tracing::error!(seq = self.seq, "audit log closed before the statement ended");
        }
    }
}

impl Drop for AuditedStatement {
    fn drop(&mut self) {
        if !self.finished {
            self.end(Status::Cancelled, None, None);
        }
    }
}

fn start_entry(mut record: StartRecord) -> Start {
    record.token_id = record.token_id.map(|id| hash(&id));
    let statement_hash = hash(&record.statement);
    Start { record, statement_hash }
}

fn refused_entry(record: StartRecord, decision: Decision, status: Status, error_id: Option<String>) -> Entry {
    Entry::Refused { start: start_entry(record), decision, status: status.as_str().to_owned(), error_id }
}

pub(crate) fn hash(text: &str) -> String {
    Link::of(text.as_bytes()).to_string()
}

/// Microseconds since 1970.
fn micros(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or_default()
}
