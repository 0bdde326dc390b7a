//! The head: which records the log must hold, in a file beside the segments. A chain of hashes shows every change inside
//! it, but not that its newest or its oldest records are gone; the head does. It is under a MAC whose key is derived from
//! the server's, so that it cannot be made to fit without that key.
//!
//! It is overwritten after each sync of the log and not synced itself: after a power cut it may be behind the log, and
//! never ahead of it. There are two copies, written in turns, so that a torn write leaves one of them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use lazaret_auth::TokenKey;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::link::Link;
use super::segment::sync_dir;

const NAME: &str = "head";

/// Each copy has a page of its own, and is shorter than a disk's sector.
const COPY_BYTES: usize = 4096;

/// What seals and the head are authenticated with.
#[derive(Clone)]
pub struct AuditKey([u8; 32]);

impl AuditKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Derived from the server's.
    pub fn of(key: &TokenKey) -> Self {
        Self(key.derive("audit log"))
    }

    pub(super) fn mac(&self, purpose: &str, parts: &[&[u8]]) -> io::Result<Link> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).map_err(io::Error::other)?;
        for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Ok(Link::from_bytes(mac.finalize().into_bytes().into()))
    }
}

/// What the log must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Goes up with each write: of the two copies the later one counts.
    pub turn: u64,
    /// The newest durable record, and its hash; zeros where the log has no chain yet.
    pub seq: u64,
    pub hash: Link,
    /// The oldest record that retention has left, and the hash of the one before it.
    pub first_seq: u64,
    pub first_prev: Link,
}

/// What was found in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Missing,
    /// Damaged, or made with another key.
    Invalid,
    Is(Head),
}

#[derive(Serialize, Deserialize)]
struct Signed {
    #[serde(flatten)]
    head: Head,
    mac: Link,
}

/// The later of the two copies. Without a key their MACs are not looked at.
pub fn read(dir: &Path, key: Option<&AuditKey>) -> io::Result<Found> {
    let mut file = match File::open(path_of(dir)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(2 * COPY_BYTES as u64).read_to_end(&mut bytes)?;
    let mut latest: Option<Head> = None;
    for copy in bytes.chunks(COPY_BYTES) {
        let Some(end) = copy.iter().position(|byte| *byte == b'\n') else { continue };
        let Ok(Signed { head, mac }) = serde_json::from_slice(&copy[..end]) else { continue };
        let is_ours = match key {
            Some(key) => mac_of(key, &head)? == mac,
            None => true,
        };
        if is_ours && latest.as_ref().is_none_or(|latest| latest.turn < head.turn) {
            latest = Some(head);
        }
    }
    Ok(latest.map_or(Found::Invalid, Found::Is))
}

fn mac_of(key: &AuditKey, head: &Head) -> io::Result<Link> {
    let numbers = [head.turn, head.seq, head.first_seq].map(u64::to_be_bytes);
    key.mac("head", &[&numbers[0], &numbers[1], head.hash.as_bytes(), &numbers[2], head.first_prev.as_bytes()])
}

fn path_of(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// The file, held open by the one who writes the log.
pub struct HeadFile {
    dir: PathBuf,
    file: File,
    key: AuditKey,
    head: Head,
}

impl HeadFile {
    /// Makes the file where it is missing, and writes the head durably.
    pub fn open(dir: &Path, key: AuditKey, head: Head) -> io::Result<Self> {
        let mut this = Self { dir: dir.to_owned(), file: open_file(dir)?, key, head };
        if this.head.turn == 0 {
            // Of what is left there nothing may be taken for this head.
            this.file.write_all_at(&[0; 2 * COPY_BYTES], 0)?;
        }
        this.write()?;
        this.file.sync_all()?;
        sync_dir(dir)?;
        Ok(this)
    }

    /// Notes the newest durable record.
    pub fn advance(&mut self, seq: u64, hash: Link) -> io::Result<()> {
        self.head.seq = seq;
        self.head.hash = hash;
        self.write()
    }

    /// Notes, durably, where the log begins from now on.
    pub fn begin_at(&mut self, first_seq: u64, first_prev: Link) -> io::Result<()> {
        // Opened anew, which heals a file that somebody has taken away.
        self.file = open_file(&self.dir)?;
        self.head.first_seq = first_seq;
        self.head.first_prev = first_prev;
        self.write()?;
        self.file.sync_all()
    }

    fn write(&mut self) -> io::Result<()> {
        self.head.turn += 1;
        let mut copy = serde_json::to_vec(&Signed { mac: mac_of(&self.key, &self.head)?, head: self.head.clone() })?;
        copy.push(b'\n');
        let at = if self.head.turn.is_multiple_of(2) { 0 } else { COPY_BYTES as u64 };
        self.file.write_all_at(&copy, at)
    }
}

fn open_file(dir: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path_of(dir))?;
    if file.metadata()?.len() < 2 * COPY_BYTES as u64 {
        // Room on the disk for both, so that no later write of it can fail for want of space.
        file.write_all_at(&[0; 2 * COPY_BYTES], 0)?;
    }
    Ok(file)
}
