//! What a DataFusion error is to a client. A kind, words without paths or internals, and a position where there is one;
//! whatever is not the statement's fault goes to the log under an id.

use datafusion::arrow::error::ArrowError;
use datafusion::common::{Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use lazaret_catalog::governed::{FailureKind, ScanFailure, classify, is_missing_file};
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
        DataFusionError::NotImplemented(text) => not_built(text),
        DataFusionError::Configuration(text) => Error::invalid(clean(text)),
        DataFusionError::Execution(text) => said(text),
        DataFusionError::ArrowError(arrow, _) => arrow_error(arrow, whole),
        DataFusionError::ResourcesExhausted(text) => exhausted(text),
        DataFusionError::ParquetError(_) | DataFusionError::ObjectStore(_) => unreadable(whole),
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
    bad_pattern(&source.to_string()).unwrap_or_else(|| unreadable(whole))
}

/// A table without policies could not be read: its class is the one that a barrier would have given.
fn unreadable(whole: &DataFusionError) -> Error {
    match classify(whole) {
        FailureKind::Exhausted => exhausted(&whole.to_string()),
        FailureKind::Unavailable => logged(ErrorKind::Unavailable, "the table's storage cannot be read", whole),
        FailureKind::DataLoss if is_missing_file(whole) => logged(ErrorKind::DataLoss, "a data file is missing", whole),
        FailureKind::DataLoss => logged(ErrorKind::DataLoss, "a data file is damaged", whole),
        FailureKind::Unsupported => logged(ErrorKind::Unsupported, "not supported yet: a feature of the table", whole),
        FailureKind::Internal => Error::internal(whole),
    }
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
        CatalogError::TooManyViews | CatalogError::TooLarge(_) => (ErrorKind::Exhausted, None),
        CatalogError::NotInsertable { .. } => (ErrorKind::Invalid, None),
        CatalogError::RowsRefused(_) => (ErrorKind::PermissionDenied, None),
        CatalogError::RulesChanged(_) => (ErrorKind::Aborted, None),
        CatalogError::Internal { id, .. } => (ErrorKind::Internal, Some(id)),
    };
    Error { kind, message: error.to_string(), position: None, id: id.cloned() }
}

/// Why CREATE TABLE AS or INSERT could not write.
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
        WriteError::Changed | WriteError::Crowded => Error::new(ErrorKind::Aborted, error.to_string()),
        WriteError::Unclear(_) | WriteError::Store(_) => unavailable(&error),
        other => Error::internal(chain(&other)),
    }
}

/// The words without the causes, which name files.
fn unavailable(error: &WriteError) -> Error {
    let id = Error::internal(chain(error)).id.unwrap_or_default();
    Error { kind: ErrorKind::Unavailable, message: format!("{error} (id {id})"), position: None, id: Some(id) }
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
    let between = |start: &str, end: &str| text.strip_prefix(start).and_then(|rest| rest.split_once(end)).map(|(name, _)| name);
    if let Some(name) = text.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found")) {
        return Error::not_found("table", name);
    }
    // Its suggestion can be far from what was meant.
    match between("Invalid function '", "'.").or_else(|| between("table function '", "' not found")) {
        Some(name) => Error::not_found("function", name),
        // What an argument of a table function is, it tells in Rust.
        None if text.contains("rgument") => said(text.split(", got ").next().unwrap_or(text)),
        None => said(text),
    }
}

fn not_built(text: &str) -> Error {
    let subquery = ["Exists(", "InSubquery(", "ScalarSubquery(", "OuterReferenceColumn("].iter().any(|kind| text.contains(kind));
    if subquery && text.starts_with("Physical plan does not support") {
        return Error::unsupported("a subquery with this condition on the rows outside");
    }
    Error::unsupported(clean(text.trim_start_matches("not supported yet: ")))
}

/// A fault of the statement, in DataFusion's words or in ours.
fn said(text: &str) -> Error {
    let told = bad_pattern(text).or_else(|| too_small(text));
    told.unwrap_or_else(|| Error::invalid(clean(text)))
}

/// `abs` of the smallest number of a type.
fn too_small(text: &str) -> Option<Error> {
    let (array, _) = text.split_once("Array overflow on abs(")?;
    let name = [("Int8", "TINYINT"), ("Int16", "SMALLINT"), ("Int32", "INTEGER"), ("Int64", "BIGINT")];
    let (_, name) = name.into_iter().find(|(arrow, _)| array.ends_with(arrow))?;
    Some(Error::invalid(format!("{name} out of range")))
}

/// What the regex library says over many lines: the pattern below a headline, a mark below its wrong place, the reason.
fn bad_pattern(text: &str) -> Option<Error> {
    // Inside the debug text of another error its line breaks are escaped.
    let text = text.replace("\\n", "\n");
    if let Some(pattern) = text.strip_prefix("Regular expression did not compile: ").filter(|it| !it.contains('\n')) {
        return Some(Error::invalid(clean(&format!("regular expression \"{pattern}\" is not valid"))));
    }
    let (_, told) = text.split_once("regex parse error:\n")?;
    let (shown, reason) = told.split_once("\nerror: ")?;
    let reason = reason.lines().next().unwrap_or_default().trim_end_matches(|it: char| !it.is_alphanumeric() && it != ')');
    let pattern = shown.lines().next().unwrap_or_default().trim();
    // A pattern of several lines is shown with their numbers.
    let one_line = shown.lines().count() == 2 && pattern.len() <= MESSAGE_CHARS / 4;
    let named = if one_line { format!(" \"{pattern}\"") } else { String::new() };
    Some(Error::invalid(format!("regular expression{named} is not valid: {}", clean(reason))))
}

fn arrow_error(error: &ArrowError, whole: &DataFusionError) -> Error {
    match error {
        ArrowError::DivideByZero => Error::invalid("division by zero"),
        ArrowError::ArithmeticOverflow(text)
        | ArrowError::CastError(text)
        | ArrowError::ParseError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::InvalidArgumentError(text) => said(text),
        ArrowError::NotYetImplemented(text) => Error::unsupported(clean(text)),
        ArrowError::ParquetError(_) | ArrowError::IpcError(_) | ArrowError::CsvError(_) | ArrowError::JsonError(_) => unreadable(whole),
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
    let inner = Error::internal(chain(source));
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
    use std::sync::Arc;

    use datafusion::parquet::errors::ParquetError;
    use lazaret_catalog::lake::{FooterError, LakeError};

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
    fn a_function_that_is_not_there_and_a_broken_pattern_are_named() {
        let function = DataFusionError::Plan("Invalid function 'missing'.\nDid you mean 'asin'?".to_owned());
        assert_eq!(told(function), (ErrorKind::NotFound, "function \"missing\" not found".to_owned()));
        let text = "regex parse error:\n    (\n    ^\nerror: unclosed group";
        let expected = (ErrorKind::Invalid, "regular expression \"(\" is not valid: unclosed group".to_owned());
        for text in [text.to_owned(), format!("Regular expression did not compile: Syntax(\n~~~\n{text}\n~~~\n)")] {
            assert_eq!(told(DataFusionError::Execution(text.clone())), expected);
            assert_eq!(told(DataFusionError::ArrowError(Box::new(ArrowError::ComputeError(text)), None)), expected);
        }
    }

    #[test]
    fn internals_and_paths_stay_in_the_log() {
        let io = DataFusionError::IoError(std::io::Error::other("/srv/lake/part-0.parquet"));
        let (kind, message) = told(io.context("reading /srv/lake"));
        assert_eq!(kind, ErrorKind::Internal);
        assert!(!message.contains("/srv"), "{message}");
    }

    #[test]
    fn a_store_that_fails_is_not_a_damaged_file() {
        let outage = || object_store::Error::Generic { store: "S3", source: "connection refused".into() };
        let missing = || object_store::Error::NotFound { path: "a/b.parquet".to_owned(), source: "404".into() };
        // As the reader of footers wraps it, inside what the scan wraps.
        let footer = |error: object_store::Error| {
            let source = Arc::new(ParquetError::External(Box::new(error)));
            ParquetError::External(Box::new(FooterError { file: "s3://b/a/b.parquet".to_owned(), source }))
        };
        let damaged = || ParquetError::General("bad magic".to_owned());
        let lake = |source| LakeError::Storage { file: "s3://b/a/dv.bin".to_owned(), source };
        for (error, kind, words) in [
            (DataFusionError::ParquetError(Box::new(footer(outage()))), ErrorKind::Unavailable, "the table's storage cannot be read"),
            (DataFusionError::ParquetError(Box::new(footer(missing()))), ErrorKind::DataLoss, "a data file is missing"),
            (DataFusionError::ParquetError(Box::new(damaged())), ErrorKind::DataLoss, "a data file is damaged"),
            (DataFusionError::ObjectStore(Box::new(outage())), ErrorKind::Unavailable, "the table's storage cannot be read"),
            (DataFusionError::External(Box::new(footer(outage()))), ErrorKind::Unavailable, "the table's storage cannot be read"),
            (DataFusionError::External(Box::new(lake(outage()))), ErrorKind::Unavailable, "the table's storage cannot be read"),
            (DataFusionError::External(Box::new(lake(missing()))), ErrorKind::DataLoss, "a data file is missing"),
            (
                DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(footer(outage())))), None),
                ErrorKind::Unavailable,
                "the table's storage cannot be read",
            ),
            (
                DataFusionError::ArrowError(Box::new(ArrowError::CsvError("2 fields, not 3".to_owned())), None),
                ErrorKind::DataLoss,
                "a data file is damaged",
            ),
        ] {
            let (found, message) = told(error);
            assert_eq!((found, message.split(" (id ").next()), (kind, Some(words)));
        }
    }

    #[test]
    fn our_own_errors_come_through_whole() {
        let ours = Error::unsupported("ORC").at(3, 4);
        let wrapped = DataFusionError::External(Box::new(ours.clone())).context("planning");
        assert_eq!(from_datafusion(wrapped), ours);
    }
}
