//! The folder of a managed table: named by the table's id, made durable, or removed.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use lazaret_auth::TableId;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::WriteError;
use crate::stores::Stores;

/// The data is sensitive: nobody but the server's own user looks into it.
const FOLDER_MODE: u32 = 0o700;

/// A folder that goes with the last who holds it, unless it was kept.
pub(super) struct Folder {
    /// Absolute, without symbolic links.
    path: PathBuf,
    kept: AtomicBool,
}

impl Folder {
    pub async fn create(warehouse: &Path, id: TableId) -> Result<Self, WriteError> {
        let warehouse = warehouse.to_owned();
        blocking("create the table's folder", move || {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&warehouse)?;
            let path = warehouse.canonicalize()?.join(id.to_string());
            DirBuilder::new().mode(FOLDER_MODE).create(&path)?;
            Ok(Self { path, kept: AtomicBool::new(false) })
        })
        .await
        .map_err(|error| match error {
            WriteError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => WriteError::Exists(id),
            other => other,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn keep(&self) {
        self.kept.store(true, Ordering::Release);
    }

    /// Best effort: what stays is swept at the next start.
    pub async fn remove(&self) {
        self.keep();
        let path = self.path.clone();
        let _ = spawn_blocking(move || remove_or_log(&path)).await;
    }

    /// Every file and every name in it, and its own name.
    pub async fn make_durable(&self) -> Result<(), WriteError> {
        let path = self.path.clone();
        blocking("make the table durable", move || {
            sync_tree(&path)?;
            path.parent().map_or(Ok(()), |warehouse| File::open(warehouse)?.sync_all())
        })
        .await
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.kept.load(Ordering::Acquire) {
            return;
        }
        let path = std::mem::take(&mut self.path);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove_or_log(&path))),
            Err(_) => remove_or_log(&path),
        }
    }
}

/// Removes the files of a dropped table. The metadata must have forgotten it before: a crash in the middle then leaves
/// work for [`sweep`], never a table with half its files.
pub async fn remove_table(stores: &Stores, id: TableId) -> Result<(), WriteError> {
    let path = stores.warehouse().join(id.to_string());
    blocking("remove the table's files", move || match fs::remove_dir_all(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    })
    .await
}

/// For the start of the server, before any statement runs: removes the folders of the warehouse whose table the metadata
/// does not know. Answers how many there were. What is not named by an id is not ours, and stays.
pub async fn sweep(stores: &Stores, known: HashSet<TableId>) -> Result<usize, WriteError> {
    let warehouse = stores.warehouse().to_owned();
    blocking("sweep the warehouse", move || {
        let entries = match fs::read_dir(&warehouse) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| TableId::parse(name).filter(|id| id.to_string() == name));
            match id {
                Some(id) if !known.contains(&id) && entry.file_type()?.is_dir() => {
                    fs::remove_dir_all(entry.path())?;
                    removed += 1;
                }
                Some(_) => {}
                None => tracing::warn!(name = ?name, "the warehouse holds something that is no table"),
            }
        }
        Ok(removed)
    })
    .await
}

fn remove_or_log(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(%error, path = %path.display(), "an unfinished table stays until the next start");
    }
}

fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

async fn blocking<T: Send + 'static>(doing: &'static str, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, WriteError> {
    let outcome = spawn_blocking(work).await.map_err(WriteError::Interrupted)?;
    outcome.map_err(|source| WriteError::Io { doing, source })
}
