//! The log as a Parquet file with the columns of `system.audit`, for those who keep it elsewhere or ask it with other tools.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::properties::WriterProperties;

use super::read::AuditRows;
use super::segment::sync_dir;
use super::table::{BatchBuilder, audit_schema};
use super::{AuditError, micros};

/// Of the encoded rows that wait for their row group to be full.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Statements that began in it: from the first moment, up to but without the second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Period {
    pub from: Option<std::time::SystemTime>,
    pub until: Option<std::time::SystemTime>,
}

impl Period {
    fn holds(self, time_us: i64) -> bool {
        self.from.is_none_or(|from| time_us >= micros(from)) && self.until.is_none_or(|until| time_us < micros(until))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("cannot write {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Parquet { path: PathBuf, source: ParquetError },
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub rows: u64,
    /// Damaged lines, whose records are not in the file.
    pub damaged: u64,
}

/// Writes the statements of the period. The file appears under its name whole and durable, or not at all, and can be read
/// by its owner only. `is_served`: a server writes the log, so that a statement without an end runs.
pub fn export(dir: &Path, is_served: bool, to: &Path, period: Period) -> Result<Exported, ExportError> {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = folder.join(format!(".{}.draft", uuid::Uuid::new_v4().simple()));
    let io_error = |source| ExportError::Io { path: to.to_owned(), source };
    let written = write(dir, is_served, &draft, period).map_err(|error| match error {
        ExportError::Parquet { source, .. } => ExportError::Parquet { path: to.to_owned(), source },
        ExportError::Io { source, .. } => io_error(source),
        other => other,
    });
    let written = written.and_then(|exported| {
        fs::rename(&draft, to).map_err(io_error)?;
        sync_dir(folder).map_err(io_error)?;
        Ok(exported)
    });
    if written.is_err() {
        // Of what failed nothing stays.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn write(dir: &Path, is_served: bool, draft: &Path, period: Period) -> Result<Exported, ExportError> {
    let io_error = |source| ExportError::Io { path: draft.to_owned(), source };
    let parquet_error = |source| ExportError::Parquet { path: draft.to_owned(), source };
    let mut rows = AuditRows::of_folder(dir, is_served)?;
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(draft).map_err(io_error)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = ArrowWriter::try_new(file, audit_schema(), Some(properties)).map_err(parquet_error)?;
    let (mut exported, mut batch) = (Exported::default(), BatchBuilder::default());
    loop {
        let row = rows.next().transpose()?;
        let is_end = row.is_none();
        if let Some(row) = row.filter(|row| period.holds(row.time_us)) {
            batch.push(row);
            exported.rows += 1;
        }
        if batch.is_full() || (is_end && batch.rows > 0) {
            let batch = batch.finish().map_err(|error| parquet_error(error.into()))?;
            writer.write(&batch).map_err(parquet_error)?;
            if writer.in_progress_size() >= ROW_GROUP_BYTES {
                writer.flush().map_err(parquet_error)?;
            }
        }
        if is_end {
            break;
        }
    }
    exported.damaged = rows.damaged();
    let file: File = writer.into_inner().map_err(parquet_error)?;
    file.sync_all().map_err(io_error)?;
    Ok(exported)
}
