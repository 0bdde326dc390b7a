//! What a client is told. Internal text goes to the log under an id, never to the client.

use std::fmt;

/// The kinds of `docs/sql.md`, *Errors*, each with one gRPC status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Syntax, type, unsupported combination, value out of range.
    Invalid,
    /// A name that is not there, or not yours.
    NotFound,
    AlreadyExists,
    /// No privilege for an act on something that one may see.
    PermissionDenied,
    Unauthenticated,
    /// Grammar or a table feature that is not built.
    Unsupported,
    /// A limit of memory, rows, sessions, size.
    Exhausted,
    /// The time limit.
    DeadlineExceeded,
    Cancelled,
    /// A write that lost against another; nothing was written.
    Aborted,
    /// A policy that no longer binds.
    FailedPrecondition,
    /// A damaged file or log.
    DataLoss,
    Unavailable,
    Internal,
}

/// A line and a column in a statement, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: u64,
    pub column: u64,
}

/// An error as a client sees it. `message` holds nothing hidden: no path, no value of a row, no policy text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
    pub position: Option<Position>,
    /// Under which the log has the rest.
    pub id: Option<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), position: None, id: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub fn not_found(what: &str, name: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("{what} \"{name}\" not found"))
    }

    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unsupported, format!("not supported yet: {what}"))
    }

    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::PermissionDenied, message)
    }

    /// Ours: the source is logged under a fresh id, the client gets the id and no more.
    pub fn internal(source: impl fmt::Display) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        tracing::error!(error_id = %id, error = %source, "internal error");
        Self { kind: ErrorKind::Internal, message: format!("internal error (id {id})"), position: None, id: Some(id) }
    }

    pub fn at(mut self, line: u64, column: u64) -> Self {
        self.position = Some(Position { line, column });
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.position {
            Some(Position { line, column }) => write!(f, " at line {line}, column {column}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let code = match error.kind {
            ErrorKind::Invalid => tonic::Code::InvalidArgument,
            ErrorKind::NotFound => tonic::Code::NotFound,
            ErrorKind::AlreadyExists => tonic::Code::AlreadyExists,
            ErrorKind::PermissionDenied => tonic::Code::PermissionDenied,
            ErrorKind::Unauthenticated => tonic::Code::Unauthenticated,
            ErrorKind::Unsupported => tonic::Code::Unimplemented,
            ErrorKind::Exhausted => tonic::Code::ResourceExhausted,
            ErrorKind::DeadlineExceeded => tonic::Code::DeadlineExceeded,
            ErrorKind::Cancelled => tonic::Code::Cancelled,
            ErrorKind::Aborted => tonic::Code::Aborted,
            ErrorKind::FailedPrecondition => tonic::Code::FailedPrecondition,
            ErrorKind::DataLoss => tonic::Code::DataLoss,
            ErrorKind::Unavailable => tonic::Code::Unavailable,
            ErrorKind::Internal => tonic::Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}
