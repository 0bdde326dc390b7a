//! What a DataFusion error is to a client. A kind, words without paths or internals, and a position where there is one;
//! whatever is not the statement's fault goes to the log under an id.

use datafusion::arrow::error::ArrowError;
use datafusion::common::{Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use lazaret_catalog::governed::{FailureKind, ScanFailure};
use lazaret_catalog::namespace::CatalogError;
use lazaret_catalog::write::WriteError;

use crate::error::{Error, ErrorKind};

/// The longest text of ours or of DataFusion's that a client is sent, in characters: a plan can be part of it.
const MESSAGE_CHARS: usize = 600;

/// Why a statement could not be planned or run.
pub fn from_datafusion(error: DataFusionError) -> Error {
    let mut position = None;
    translate(&error, &mut position, &error)
}

fn translate(error: &DataFusionError, position: &mut Option<(u64, u64)>, whole: &DataFusionError) -> Error {
    let told = match error {
        DataFusionError::Diagnostic(diagnostic, inner) => {
            *position = position.or(start_of(diagnostic));
            return translate(inner, position, whole);
        }
        DataFusionError::Context(_, inner) => return translate(inner, position, whole),
        DataFusionError::Shared(inner) => return translate(inner, position, whole),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => return translate(first, position, whole),
            None => Error::internal("an empty collection of errors"),
        },
        DataFusionError::SQL(parser, _) => Error::invalid(parser.to_string()),
        DataFusionError::SchemaError(schema, _) => schema_error(schema),
        DataFusionError::Plan(text) => planning(text),
        DataFusionError::NotImplemented(text) => Error::unsupported(clean(text)),
        DataFusionError::Configuration(text) => Error::invalid(clean(text)),
        DataFusionError::Execution(text) => Error::invalid(clean(text)),
        DataFusionError::ArrowError(arrow, _) => arrow_error(arrow, whole),
        DataFusionError::ResourcesExhausted(text) => exhausted(text),
        DataFusionError::ParquetError(_) => logged(ErrorKind::DataLoss, "a data file is damaged", whole),
        DataFusionError::ObjectStore(store) => match store.as_ref() {
            object_store::Error::NotFound { .. } => logged(ErrorKind::DataLoss, "a data file is missing", whole),
            _ => logged(ErrorKind::Unavailable, "the table's storage cannot be read", whole),
        },
        DataFusionError::External(source) => external(source.as_ref(), whole),
        DataFusionError::IoError(_) | DataFusionError::ExecutionJoin(_) | DataFusionError::Internal(_) => Error::internal(whole),
        DataFusionError::Substrait(_) | DataFusionError::Ffi(_) => Error::internal(whole),
    };
    match (*position, told.position) {
        (Some((line, column)), None) => told.at(line, column),
        _ => told,
    }
}

/// Errors of our own travel through DataFusion unharmed.
fn external(source: &(dyn std::error::Error + Send + Sync + 'static), whole: &DataFusionError) -> Error {
    if let Some(ours) = source.downcast_ref::<Error>() {
        return ours.clone();
    }
    if let Some(error) = source.downcast_ref::<CatalogError>() {
        return catalog_error(error);
    }
    if let Some(failure) = source.downcast_ref::<ScanFailure>() {
        return Error { kind: scan_kind(failure.kind), message: failure.to_string(), position: None, id: Some(failure.id.clone()) };
    }
    if let Some(inner) = source.downcast_ref::<DataFusionError>() {
        return from_datafusion_ref(inner);
    }
    if let Some(arrow) = source.downcast_ref::<ArrowError>() {
        return arrow_error(arrow, whole);
    }
    Error::internal(whole)
}

/// A relation that cannot be read. Its text says no more than the one who asks may know.
pub fn catalog_error(error: &CatalogError) -> Error {
    let (kind, id) = match error {
        CatalogError::NotFound(_) => (ErrorKind::NotFound, None),
        CatalogError::Denied { .. } => (ErrorKind::PermissionDenied, None),
        CatalogError::Unsupported { .. } => (ErrorKind::Unsupported, None),
        CatalogError::Corrupt { id, .. } => (ErrorKind::DataLoss, Some(id)),
        CatalogError::Storage { id, .. } => (ErrorKind::Unavailable, Some(id)),
        CatalogError::PolicyNotBinding { .. } => (ErrorKind::FailedPrecondition, None),
        CatalogError::BrokenView { id, .. } => (ErrorKind::FailedPrecondition, Some(id)),
        CatalogError::TooManyViews => (ErrorKind::Exhausted, None),
        CatalogError::Internal { id, .. } => (ErrorKind::Internal, Some(id)),
    };
    Error { kind, message: error.to_string(), position: None, id: id.cloned() }
}

/// Why CREATE TABLE AS could not write its table.
pub fn from_write(error: WriteError) -> Error {
    match error {
        WriteError::Query(error) => from_datafusion(error),
        WriteError::NoColumns
        | WriteError::ColumnName { .. }
        | WriteError::UnsupportedType { .. }
        | WriteError::Inexact { .. }
        | WriteError::NullValue { .. }
        | WriteError::Partition { .. } => Error::invalid(error.to_string()),
        WriteError::TooManyPartitions { .. } => Error::new(ErrorKind::Exhausted, error.to_string()),
        other => Error::internal(chain(&other)),
    }
}

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn scan_kind(kind: FailureKind) -> ErrorKind {
    match kind {
        FailureKind::Exhausted => ErrorKind::Exhausted,
        FailureKind::Unavailable => ErrorKind::Unavailable,
        FailureKind::DataLoss => ErrorKind::DataLoss,
        FailureKind::Unsupported => ErrorKind::Unsupported,
        FailureKind::Internal => ErrorKind::Internal,
    }
}

fn from_datafusion_ref(error: &DataFusionError) -> Error {
    translate(error, &mut None, error)
}

fn schema_error(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, .. } => Error::not_found("column", field.flat_name()),
        SchemaError::AmbiguousReference { field } => Error::invalid(format!("column \"{}\" is ambiguous", field.flat_name())),
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Error::invalid(format!("column \"{name}\" appears twice"))
        }
    }
}

/// DataFusion says "table 'a.b.c' not found" as a planning error: the one text for "not there" and "not yours".
fn planning(text: &str) -> Error {
    let not_found = text.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found"));
    match not_found {
        Some(name) => Error::not_found("table", name),
        None => Error::invalid(clean(text)),
    }
}

fn arrow_error(error: &ArrowError, whole: &DataFusionError) -> Error {
    match error {
        ArrowError::DivideByZero => Error::invalid("division by zero"),
        ArrowError::ArithmeticOverflow(text)
        | ArrowError::CastError(text)
        | ArrowError::ParseError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::InvalidArgumentError(text) => Error::invalid(clean(text)),
        ArrowError::NotYetImplemented(text) => Error::unsupported(clean(text)),
        ArrowError::ParquetError(_) => logged(ErrorKind::DataLoss, "a data file is damaged", whole),
        ArrowError::ExternalError(source) => external(source.as_ref(), whole),
        ArrowError::MemoryError(text) => exhausted(text),
        _ => Error::internal(whole),
    }
}

/// Only the limit and its value: the pool's own text names other consumers.
fn exhausted(text: &str) -> Error {
    let limit = match (text.find("query_memory_bytes ("), text.find("max temp directory")) {
        (Some(start), _) => {
            let rest = &text[start..];
            format!("limit limits.{} reached", &rest[..rest.find(')').map_or(rest.len(), |end| end + 1)])
        }
        (None, Some(_)) => "limit of spill space reached".to_owned(),
        (None, None) => "limit limits.memory_bytes reached".to_owned(),
    };
    tracing::warn!(error = text, "a query ran out of memory");
    Error::new(ErrorKind::Exhausted, limit)
}

fn logged(kind: ErrorKind, words: &str, source: &DataFusionError) -> Error {
    let inner = Error::internal(source);
    let id = inner.id.unwrap_or_default();
    Error { kind, message: format!("{words} (id {id})"), position: None, id: Some(id) }
}

fn start_of(diagnostic: &Diagnostic) -> Option<(u64, u64)> {
    diagnostic.span.map(|span| (span.start.line, span.start.column)).filter(|(line, _)| *line > 0)
}

/// One line, without DataFusion's back traces and hints to its own developers.
fn clean(text: &str) -> String {
    let text = text.split("\n\nbacktrace:").next().unwrap_or(text);
    let text = text.split("This issue was likely caused by a bug").next().unwrap_or(text);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: DataFusionError) -> (ErrorKind, String) {
        let error = from_datafusion(error);
        (error.kind, error.message)
    }

    #[test]
    fn each_class_has_its_kind_and_words() {
        let table = DataFusionError::Plan("table 'a.b.c' not found".to_owned());
        assert_eq!(told(table), (ErrorKind::NotFound, "table \"a.b.c\" not found".to_owned()));
        let division = DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None);
        assert_eq!(told(division), (ErrorKind::Invalid, "division by zero".to_owned()));
        let memory = DataFusionError::ResourcesExhausted("sort#1 of another tenant: query_memory_bytes (100) and more".to_owned());
        assert_eq!(told(memory), (ErrorKind::Exhausted, "limit limits.query_memory_bytes (100) reached".to_owned()));
    }

    #[test]
    fn internals_and_paths_stay_in_the_log() {
        let io = DataFusionError::IoError(std::io::Error::other("/srv/lake/part-0.parquet"));
        let (kind, message) = told(io.context("reading /srv/lake"));
        assert_eq!(kind, ErrorKind::Internal);
        assert!(!message.contains("/srv"), "{message}");
    }

    #[test]
    fn our_own_errors_come_through_whole() {
        let ours = Error::unsupported("ORC").at(3, 4);
        let wrapped = DataFusionError::External(Box::new(ours.clone())).context("planning");
        assert_eq!(from_datafusion(wrapped), ours);
    }
}
