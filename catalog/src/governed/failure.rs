//! What comes up from below a barrier when reading fails: a class and an id. The text goes to the log only, for it may hold
//! values of hidden rows, file paths, or the policy.

use std::error::Error;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;

use crate::lake::LakeError;
use crate::stores::LocationError;

/// The status class of a failed read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// A limit of memory or disk.
    Exhausted,
    /// The object store does not answer.
    Unavailable,
    /// A file is damaged or gone.
    DataLoss,
    /// A table feature that is not built.
    Unsupported,
    /// Everything else, a policy that raised an error among it.
    Internal,
}

/// A read that failed below a barrier.
#[derive(Clone, Debug, thiserror::Error)]
#[error("reading \"{table}\" failed (id {id})")]
pub struct ScanFailure {
    pub kind: FailureKind,
    /// The relation that the reader named.
    pub table: String,
    /// Under which the log has the rest.
    pub id: String,
}

impl ScanFailure {
    /// Logs the error in full and gives what may be shown of it.
    pub(crate) fn conceal(table: &str, error: &DataFusionError) -> DataFusionError {
        let failure = match find(error, |it| it.downcast_ref::<Self>()) {
            // From a barrier further down, inside a view: its table is not the reader's to know.
            Some(inner) => Self { table: table.to_owned(), ..inner.clone() },
            None => {
                let id = uuid::Uuid::new_v4().simple().to_string();
                tracing::error!(error_id = %id, table, error = %error, "reading a governed table failed");
                Self { kind: classify(error), table: table.to_owned(), id }
            }
        };
        DataFusionError::External(Box::new(failure))
    }

    /// The failure inside an error, where there is one.
    pub fn of(error: &DataFusionError) -> Option<&Self> {
        find(error, |it| it.downcast_ref::<Self>())
    }
}

/// The class of any error of opening or reading a table.
pub fn classify(error: &(dyn Error + 'static)) -> FailureKind {
    find(error, |it| {
        if let Some(failure) = it.downcast_ref::<ScanFailure>() {
            return Some(failure.kind);
        }
        if let Some(DataFusionError::ResourcesExhausted(_)) = it.downcast_ref() {
            return Some(FailureKind::Exhausted);
        }
        if let Some(error) = it.downcast_ref::<LakeError>() {
            return Some(match error {
                LakeError::Unsupported { .. } | LakeError::Mismatch { .. } => FailureKind::Unsupported,
                LakeError::Storage { source: object_store::Error::NotFound { .. }, .. } => FailureKind::DataLoss,
                LakeError::Storage { .. } | LakeError::Location(_) => FailureKind::Unavailable,
                LakeError::NotATable { .. } | LakeError::Corrupt { .. } | LakeError::OutsideLocation { .. } | LakeError::FilesOfAnother => {
                    FailureKind::DataLoss
                }
                LakeError::Option { .. } | LakeError::Internal(_) => FailureKind::Internal,
            });
        }
        if it.is::<LocationError>() {
            return Some(FailureKind::Unavailable);
        }
        if let Some(error) = it.downcast_ref::<object_store::Error>() {
            let gone = matches!(error, object_store::Error::NotFound { .. });
            return Some(if gone { FailureKind::DataLoss } else { FailureKind::Unavailable });
        }
        if let Some(ParquetError::NYI(_)) = it.downcast_ref() {
            return Some(FailureKind::Unsupported);
        }
        let damaged = match it.downcast_ref::<ParquetError>() {
            // The reader wraps what the store says: look further.
            Some(ParquetError::External(_)) | None => false,
            Some(_) => true,
        };
        let unreadable = matches!(
            it.downcast_ref::<ArrowError>(),
            Some(ArrowError::ParquetError(_) | ArrowError::IpcError(_) | ArrowError::CsvError(_) | ArrowError::JsonError(_))
        );
        (damaged || unreadable).then_some(FailureKind::DataLoss)
    })
    .unwrap_or(FailureKind::Internal)
}

/// Whether what failed is that a file is not there.
pub fn is_missing_file(error: &(dyn Error + 'static)) -> bool {
    find(error, |it| it.downcast_ref::<object_store::Error>()).is_some_and(|error| matches!(error, object_store::Error::NotFound { .. }))
}

/// The first hit going from an error to its causes.
pub(crate) fn find<'a, T>(error: &'a (dyn Error + 'static), hit: impl Fn(&'a (dyn Error + 'static)) -> Option<T>) -> Option<T> {
    let mut open: Vec<&'a (dyn Error + 'static)> = vec![error];
    while let Some(error) = open.pop() {
        if let Some(found) = hit(error) {
            return Some(found);
        }
        match error.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::Collection(errors)) => open.extend(errors.iter().map(|it| it as &(dyn Error + 'static))),
            Some(DataFusionError::Shared(error)) => open.push(error.as_ref()),
            Some(DataFusionError::External(error)) => open.push(error.as_ref()),
            Some(DataFusionError::Context(_, error)) | Some(DataFusionError::Diagnostic(_, error)) => open.push(error.as_ref()),
            Some(DataFusionError::ArrowError(error, _)) => open.push(error.as_ref()),
            Some(DataFusionError::ParquetError(error)) => open.push(error.as_ref()),
            Some(DataFusionError::ObjectStore(error)) => open.push(error.as_ref()),
            _ => match (error.downcast_ref::<ArrowError>(), error.downcast_ref::<ParquetError>()) {
                (Some(ArrowError::ExternalError(error)), _) => open.push(error.as_ref()),
                (_, Some(ParquetError::External(error))) => open.push(error.as_ref()),
                _ => open.extend(error.source()),
            },
        }
    }
    None
}
