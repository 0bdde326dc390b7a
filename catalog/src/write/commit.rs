//! Naming new files in the log of a Delta table. A version is a file that is made if it is not there (PROTOCOL.md, "Delta Log
//! Entries"); who comes second tries the next one. Added files conflict with nothing but a change of what they were made for.
//!
//! A store can make the file and still answer with an error, or be asked twice for one call of ours: what counts is what
//! lies there then, and each commit knows its own by an id.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path as FsPath;

use chrono::Utc;
use deltalake::kernel::{Action, Add};
use object_store::path::{Path, PathPart};
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde_json::json;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::WriteError;
use crate::lake::delta::Version;
use crate::lake::{DeltaTarget, Lake};

/// Others that may come first: each of them has written something meanwhile.
const MAX_LOST_VERSIONS: usize = 1000;

/// Times that one version is asked for while the store's answers say nothing.
const MAX_UNCLEAR: usize = 3;

const LOG: &str = "_delta_log";

/// What a commit says.
pub(super) struct Commit {
    id: String,
    body: String,
}

/// What a store made of a request for a version.
enum Put {
    Made,
    /// The version is there; it can be ours.
    Taken,
    Unclear(object_store::Error),
}

impl Commit {
    pub fn of(adds: Vec<Add>, rows: u64, partition_by: &[String], reads_target: bool) -> Result<Self, WriteError> {
        let id = Uuid::new_v4().to_string();
        let bytes: i64 = adds.iter().map(|add| add.size).sum();
        let partition_by = serde_json::Value::from(partition_by).to_string();
        let info = json!({ "commitInfo": {
            "timestamp": Utc::now().timestamp_millis(),
            "operation": "WRITE",
            "operationParameters": { "mode": "Append", "partitionBy": partition_by },
            "operationMetrics": {
                "numFiles": adds.len().to_string(), "numOutputRows": rows.to_string(), "numOutputBytes": bytes.to_string(),
            },
            "isBlindAppend": !reads_target,
            "engineInfo": concat!("lazaret/", env!("CARGO_PKG_VERSION")),
            "txnId": id,
        }});
        let mut body = info.to_string();
        for add in adds {
            body.push('\n');
            body.push_str(&serde_json::to_string(&Action::Add(add)).map_err(|error| WriteError::Batch(error.to_string()))?);
        }
        body.push('\n');
        Ok(Self { id, body })
    }

    /// Durable when it returns, and seen by whoever opens the table from then on. `reads_target`: the rows were made from
    /// rows of the table itself, none of which may have gone meanwhile.
    pub async fn make(&self, lake: &Lake, target: &DeltaTarget, reads_target: bool) -> Result<Version, WriteError> {
        let mut unclear = 0;
        for _ in 0..MAX_LOST_VERSIONS {
            let newest = target.newest(lake).await?;
            if !target.still_fits(&newest) || (reads_target && target.lost_files(&newest)) {
                return Err(WriteError::Changed);
            }
            let version = newest.number() + 1;
            let answer = match self.put(lake, target, version).await? {
                Put::Made => return Ok(self.shown(lake, target, newest).await),
                Put::Taken => None,
                Put::Unclear(error) => Some(error),
            };
            match (self.is_at(lake, target, version).await, answer) {
                (Ok(Some(true)), _) => return Ok(self.shown(lake, target, newest).await),
                (Ok(_), None) | (Ok(Some(false)), Some(_)) => {}
                (Ok(None), Some(error)) => {
                    unclear += 1;
                    if unclear >= MAX_UNCLEAR {
                        return Err(WriteError::Unclear(error));
                    }
                }
                (Err(error), answer) => return Err(WriteError::Unclear(answer.unwrap_or(error))),
            }
        }
        Err(WriteError::Crowded)
    }

    /// The rows are there; that they are seen at once fails only where the store can no longer be read.
    async fn shown(&self, lake: &Lake, target: &DeltaTarget, before: Version) -> Version {
        target.newest(lake).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a table cannot be read after rows were added");
            before
        })
    }

    async fn put(&self, lake: &Lake, target: &DeltaTarget, version: u64) -> Result<Put, WriteError> {
        let Some(folder) = target.location().local_path() else {
            let store = lake.stores().store(target.location().store()).map_err(crate::lake::LakeError::from)?;
            let path = log_path(target.location().path(), version);
            return Ok(match store.put_opts(&path, self.body.clone().into(), PutMode::Create.into()).await {
                Ok(_) => Put::Made,
                Err(object_store::Error::AlreadyExists { .. }) => Put::Taken,
                Err(error) => Put::Unclear(error),
            });
        };
        let body = self.body.clone();
        let made = spawn_blocking(move || put_local(&folder.join(LOG), version, body.as_bytes()));
        made.await.map_err(WriteError::Interrupted)?.map_err(|source| WriteError::Io { doing: "write the table's log", source })
    }

    /// Whether a version is this commit; `None`: it is not there.
    async fn is_at(&self, lake: &Lake, target: &DeltaTarget, version: u64) -> Result<Option<bool>, object_store::Error> {
        let store = lake.stores().store(target.location().store());
        let store = store.map_err(|error| object_store::Error::Generic { store: "table", source: Box::new(error) })?;
        match store.get(&log_path(target.location().path(), version)).await {
            Ok(found) => {
                let body = found.bytes().await?;
                Ok(Some(body.windows(self.id.len()).any(|part| part == self.id.as_bytes())))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn log_path(table: &Path, version: u64) -> Path {
    table.parts().chain([PathPart::from(LOG), PathPart::from(format!("{version:020}.json"))]).collect()
}

/// A file that is whole and durable before it has its name. What is left of one that never had it begins with a dot, which
/// readers of the log pass over.
fn put_local(log: &FsPath, version: u64, body: &[u8]) -> io::Result<Put> {
    // Behind a symbolic link lies another place than the one that was registered.
    if fs::canonicalize(log)? != log {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the log lies behind a symbolic link"));
    }
    let draft = log.join(format!(".{}.tmp", Uuid::new_v4().simple()));
    let written = write_durably(&draft, body);
    let linked = written.map(|()| fs::hard_link(&draft, log.join(format!("{version:020}.json"))));
    let _ = fs::remove_file(&draft);
    let named = linked?.and_then(|()| File::open(log)?.sync_all());
    Ok(match named {
        Ok(()) => Put::Made,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Put::Taken,
        Err(error) => Put::Unclear(object_store::Error::Generic { store: "local", source: Box::new(error) }),
    })
}

fn write_durably(path: &FsPath, body: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(body)?;
    file.sync_all()
}
