//! Where data files are made: the folder of a new managed table, named by the table's id, or that of a table that is there.
//! What is not kept is removed.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use lazaret_auth::TableId;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::WriteError;
use crate::meta::{Change, ChangeError, EntityId, Metadata, State};
use crate::stores::Stores;

/// The data is sensitive: nobody but the server's own user looks into it.
const FOLDER_MODE: u32 = 0o700;

/// A folder in which data files are made.
pub(super) trait Place: Send + Sync {
    fn path(&self) -> &Path;

    /// Called before a file of this name is made.
    fn will_hold(&self, name: &str);
}

/// Files that are added to the folder of a table; they go with the last who holds this, unless they were kept.
pub(super) struct Additions {
    folder: PathBuf,
    names: Mutex<Vec<String>>,
    kept: AtomicBool,
}

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

impl Place for Folder {
    fn path(&self) -> &Path {
        &self.path
    }

    /// The folder goes as a whole.
    fn will_hold(&self, _name: &str) {}
}

impl Additions {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, names: Mutex::default(), kept: AtomicBool::new(false) }
    }

    pub fn keep(&self) {
        self.kept.store(true, Ordering::Release);
    }

    /// The names of the files; each file is durable already.
    pub async fn make_durable(&self) -> Result<(), WriteError> {
        let folder = self.folder.clone();
        blocking("make the rows durable", move || File::open(folder)?.sync_all()).await
    }
}

impl Place for Additions {
    fn path(&self) -> &Path {
        &self.folder
    }

    fn will_hold(&self, name: &str) {
        self.names.lock().push(name.to_owned());
    }
}

impl Drop for Additions {
    fn drop(&mut self) {
        if self.kept.load(Ordering::Acquire) {
            return;
        }
        let (folder, names) = (std::mem::take(&mut self.folder), std::mem::take(self.names.get_mut()));
        let remove = move || {
            for name in names {
                match fs::remove_file(folder.join(&name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(%error, name, "an unused data file stays"),
                    _ => {}
                }
            }
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
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

/// Removes folders that the metadata holds as leftovers, and then what it holds of them: what a kill in between leaves is
/// there at the next start.
pub async fn sweep(stores: &Stores, metadata: &Metadata, leftovers: &[TableId]) -> Result<(), SweepError> {
    for table in leftovers {
        remove_folder(stores, *table).await?;
    }
    let forget = |state: &State| {
        let known = state.leftovers().filter(|table| leftovers.contains(table));
        Ok(known.map(|table| Change::Delete(EntityId::Leftover(table))).collect())
    };
    metadata.change(forget).await?;
    Ok(())
}

/// For the start of the server: what a kill left of files that were on their way to another store.
pub async fn clear_staging(stores: &Stores) -> Result<(), WriteError> {
    let staging = stores.staging();
    blocking("clear the staging folder", move || match fs::remove_dir_all(&staging) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    })
    .await
}

/// Why leftovers are still there.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("leftovers of the warehouse cannot be removed")]
    Folder(#[from] WriteError),
    #[error("what was removed cannot be forgotten")]
    Metadata(#[from] ChangeError<Infallible>),
}

async fn remove_folder(stores: &Stores, id: TableId) -> Result<(), WriteError> {
    let path = stores.warehouse().join(id.to_string());
    blocking("remove the table's files", move || match fs::remove_dir_all(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    })
    .await
}

/// What lies in the warehouse and is neither a table nor a leftover. It stays: metadata that was lost, or restored from an
/// older copy, must not take tables with it.
pub async fn strangers(stores: &Stores, state: &State) -> Result<Vec<OsString>, WriteError> {
    let known: HashSet<String> = state.relations().map(|relation| relation.id).chain(state.leftovers()).map(|id| id.to_string()).collect();
    let warehouse = stores.warehouse().to_owned();
    blocking("look into the warehouse", move || {
        let entries = match fs::read_dir(&warehouse) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name()));
        let is_known = |name: &OsString| name.to_str().is_some_and(|name| known.contains(name));
        names.filter(|name: &io::Result<OsString>| !name.as_ref().is_ok_and(is_known)).collect()
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
