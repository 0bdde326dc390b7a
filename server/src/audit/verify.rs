//! Whether the log is whole: follows the chain of hashes from its first record to its last, and asks the head where both
//! must be. It reads and locks nothing, so that it runs beside a server.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::head::{self, AuditKey, Found, Head};
use super::link::Link;
use super::segment::{self, Before, Entry, Record, Seal};
use super::writer::seal_mac;

/// A server that writes beside us may remove old segments, and move the head, while we read.
const TRIES: usize = 5;

/// What holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub segments: u64,
    pub sealed: u64,
    /// Records in the chain.
    pub records: u64,
    /// Records from before there was a chain.
    pub before_chain: u64,
    pub first: Option<End>,
    pub last: Option<End>,
    /// Starts of the server, and how many records before them the head did not know of.
    pub newer: Vec<(u64, u64)>,
    /// A last line that is no record: of a write that was cut off, or is under way.
    pub is_torn: bool,
    /// Whether seals and the head were compared with the server's key.
    pub with_key: bool,
    /// Whether the head was there to say that nothing is missing at both ends.
    pub with_head: bool,
}

/// One end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub seq: u64,
    pub time_us: i64,
    pub hash: Link,
}

/// The first link that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The name of the segment's file.
    pub segment: String,
    /// Where a record is missing or damaged, its number as it should be.
    pub seq: u64,
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}, record {}: {}", self.segment, self.seq, self.what)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{0}")]
    Broken(Broken),
    #[error("cannot read {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("there is no audit log in {}", .0.display())]
    Nothing(PathBuf),
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> VerifyError {
    let path = path.to_owned();
    move |source| VerifyError::Io { path, source }
}

/// Verifies the log in a folder. Each of `known` (a record's number and hash, noted earlier) must be in it.
pub fn verify_folder(dir: &Path, key: Option<&AuditKey>, known: &[(u64, Link)]) -> Result<Verified, VerifyError> {
    let mut head = head::read(dir, key).map_err(io_at(dir))?;
    for _ in 1..TRIES {
        let verified = try_folder(dir, &head, key, known);
        if verified.is_ok() {
            return verified;
        }
        let now = head::read(dir, key).map_err(io_at(dir))?;
        if now == head {
            return verified;
        }
        head = now;
    }
    try_folder(dir, &head, key, known)
}

fn try_folder(dir: &Path, head: &Found, key: Option<&AuditKey>, known: &[(u64, Link)]) -> Result<Verified, VerifyError> {
    let segments = segment::list(dir).map_err(io_at(dir))?;
    if segments.is_empty() && *head == Found::Missing {
        return Err(VerifyError::Nothing(dir.to_owned()));
    }
    let paths: Vec<_> = segments.iter().map(|first_seq| segment::path_of(dir, *first_seq)).collect();
    let mut chain = Chain::new(key, known);
    if let Found::Is(head) = head {
        chain.head = Some(head.clone());
        let is_removed = head.seq < head.first_seq;
        if head.hash != Link::NONE && !is_removed {
            chain.wanted.push(Wanted { seq: head.seq, hash: head.hash, who: "the head of the log" });
        }
    }
    chain.follow(&paths)?;
    let Chain { verified, .. } = &chain;
    if chain.head.is_none() && (verified.records > 0 || segments.is_empty()) {
        let how = if *head == Found::Missing { "is missing" } else { "is damaged, or was not written by this server" };
        let seq = verified.last.map_or(0, |last| last.seq);
        let what = format!("the file \"head\" {how}: whether records are missing at the ends cannot be told");
        return Err(VerifyError::Broken(Broken { segment: chain.segment, seq, what }));
    }
    chain.finish()
}

/// Verifies segments by themselves, such as copies of them: that they follow on each other, not that they are all.
pub fn verify_files(paths: &[PathBuf], known: &[(u64, Link)]) -> Result<Verified, VerifyError> {
    let mut paths = paths.to_vec();
    paths.sort_by_key(|path| segment::first_seq_of(path));
    let mut chain = Chain::new(None, known);
    chain.follow(&paths)?;
    chain.finish()
}

/// The chain as far as it has been followed.
struct Chain<'a> {
    key: Option<&'a AuditKey>,
    /// What the log must hold, where that is known.
    head: Option<Head>,
    /// Records that must still come.
    wanted: Vec<Wanted>,
    /// The number of the next record, and the hash it follows on; `None` before the first.
    expected: Option<(u64, Link)>,
    /// Segments from before the chain that have been read.
    old: Vec<Before>,
    /// The name of the segment that is read.
    segment: String,
    /// A line that is no record has been seen, and none after it.
    bad: Option<Bad>,
    verified: Verified,
}

struct Wanted {
    seq: u64,
    hash: Link,
    who: &'static str,
}

struct Bad {
    seq: u64,
    /// It ends in a line break: it was written to its end.
    is_whole: bool,
}

impl<'a> Chain<'a> {
    fn new(key: Option<&'a AuditKey>, known: &[(u64, Link)]) -> Self {
        Self {
            key,
            head: None,
            wanted: known.iter().map(|(seq, hash)| Wanted { seq: *seq, hash: *hash, who: "what was noted earlier" }).collect(),
            expected: None,
            old: Vec::new(),
            segment: String::new(),
            bad: None,
            verified: Verified { with_key: key.is_some(), ..Verified::default() },
        }
    }

    fn broken(&self, seq: u64, what: impl Into<String>) -> VerifyError {
        VerifyError::Broken(Broken { segment: self.segment.clone(), seq, what: what.into() })
    }

    fn follow(&mut self, paths: &[PathBuf]) -> Result<(), VerifyError> {
        for path in paths {
            self.segment(path)?;
        }
        Ok(())
    }

    fn segment(&mut self, path: &Path) -> Result<(), VerifyError> {
        self.no_damage()?;
        self.segment = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut reader = BufReader::new(File::open(path).map_err(io_at(path))?);
        let (mut line, mut is_first, mut is_sealed, mut is_old) = (Vec::new(), true, false, false);
        while segment::read_line(&mut reader, &mut line).map_err(io_at(path))? {
            let Some(record) = segment::decode(&line) else {
                let seq = self.expected.map(|(seq, _)| seq).or_else(|| segment::first_seq_of(path)).unwrap_or_default();
                let is_whole = line.ends_with(b"\n");
                self.bad.get_or_insert(Bad { seq, is_whole }).is_whole |= is_whole;
                if is_whole {
                    continue;
                }
                // The end of the file, when it was read: what a server has written since would look like another line.
                break;
            };
            if record.hash.is_none() && self.expected.is_none() {
                // What these say of themselves is a checksum; the chain holds the hash of the file.
                (self.bad, is_old) = (None, true);
                self.verified.before_chain += 1;
                continue;
            }
            self.no_damage()?;
            if is_sealed {
                return Err(self.broken(record.seq, "a record after the seal of its segment"));
            }
            let name = segment::first_seq_of(path).filter(|name| is_first && *name != record.seq);
            match name {
                Some(name) if self.expected.is_none() && name < record.seq => {
                    return Err(self.broken(name, missing(name, record.seq - 1)));
                }
                _ => {}
            }
            is_first = false;
            is_sealed = matches!(record.entry, Entry::Seal(_));
            let seq = record.seq;
            self.record(record)?;
            if name.is_some() {
                return Err(self.broken(seq, "the segment is not the one that its name says"));
            }
        }
        if is_old {
            let (sha256, bytes) = Link::of_file(path).map_err(io_at(path))?;
            self.old.push(Before { segment: segment::first_seq_of(path).unwrap_or_default(), bytes, sha256 });
            self.bad = None;
        }
        self.verified.segments += 1;
        self.verified.sealed += u64::from(is_sealed);
        Ok(())
    }

    /// There is something after a line that is no record: it was not the end of the log that was torn.
    fn no_damage(&mut self) -> Result<(), VerifyError> {
        match &self.bad {
            Some(bad) => Err(self.broken(bad.seq, "the record is damaged: it does not have the hash that it says")),
            None => Ok(()),
        }
    }

    fn record(&mut self, record: Record) -> Result<(), VerifyError> {
        let Record { seq, time_us, prev: Some(prev), hash: Some(hash), entry } = record else {
            return Err(self.broken(record.seq, "a record without a hash inside the chain"));
        };
        match self.expected {
            None => self.first(seq, prev, &entry)?,
            Some((expected, _)) if seq > expected => return Err(self.broken(expected, missing(expected, seq - 1))),
            Some((expected, _)) if seq < expected => {
                return Err(self.broken(expected, format!("record {seq} stands where record {expected} should be")));
            }
            Some((_, link)) if prev != link => {
                let what = format!("it does not follow on record {} as that is now: one of them was changed", seq.saturating_sub(1));
                return Err(self.broken(seq, what));
            }
            Some(_) => {}
        }
        match &entry {
            Entry::Seal(seal) => self.seal(seq, prev, seal)?,
            Entry::Begin { before } => self.begin(seq, before)?,
            Entry::Open { head: Some(how), .. } => {
                let what = format!("the file \"head\" was {how} when the server started here: records before may be changed or cut off");
                return Err(self.broken(seq, what));
            }
            Entry::Open { newer: Some(newer), .. } => self.verified.newer.push((seq, *newer)),
            _ => {}
        }
        if let Some(other) = self.wanted.iter().find(|wanted| wanted.seq == seq && wanted.hash != hash) {
            return Err(self.broken(seq, format!("the record is another than {} says: the log was written anew", other.who)));
        }
        self.wanted.retain(|wanted| wanted.seq != seq);
        let end = End { seq, time_us, hash };
        self.verified.first.get_or_insert(end);
        self.verified.last = Some(end);
        self.verified.records += 1;
        self.expected = Some((seq + 1, hash));
        Ok(())
    }

    /// Where the chain may begin: at the first record of all, after the segments from before the chain, or where
    /// retention has left it.
    fn first(&mut self, seq: u64, prev: Link, entry: &Entry) -> Result<(), VerifyError> {
        if !self.old.is_empty() && !matches!(entry, Entry::Begin { .. }) {
            return Err(self.broken(seq, "records without hashes, which the beginning of the chain does not name"));
        }
        let Some(head) = &self.head else { return Ok(()) };
        // Segments that retention was about to remove may still be there.
        let first_here = self.old.first().map_or(seq, |old| old.segment);
        if first_here > head.first_seq {
            return Err(self.broken(head.first_seq, missing(head.first_seq, first_here - 1)));
        }
        if seq == head.first_seq && prev != head.first_prev {
            return Err(self.broken(seq, "it does not follow on the last record that was removed after its retention"));
        }
        Ok(())
    }

    fn seal(&self, seq: u64, prev: Link, seal: &Seal) -> Result<(), VerifyError> {
        let begins_here = self.segment.starts_with(&format!("{:020}.", seal.first_seq));
        if !begins_here || seal.last_seq + 1 != seq || seal.records != seq - seal.first_seq || seal.last_hash != prev {
            return Err(self.broken(seq, "the seal does not fit its segment"));
        }
        if let Some(key) = self.key {
            let mac = seal_mac(key, seal.first_seq, seal.last_seq, seal.last_hash);
            if mac.map_err(io_at(Path::new(&self.segment)))? != seal.mac {
                return Err(self.broken(seq, "the seal was not made with this server's key"));
            }
        }
        Ok(())
    }

    /// The segments from before the chain, as far as they are due, are as they were when it began.
    fn begin(&self, seq: u64, before: &[Before]) -> Result<(), VerifyError> {
        let first_seq = match &self.head {
            Some(head) => head.first_seq,
            // Copies: those that were given.
            None => self.old.first().map_or(u64::MAX, |old| old.segment),
        };
        for due in before.iter().filter(|due| due.segment >= first_seq) {
            let what = match self.old.iter().find(|old| old.segment == due.segment) {
                Some(old) if old == due => continue,
                Some(_) => "was changed since the chain began",
                None if due.bytes == 0 => continue,
                None => "is missing",
            };
            return Err(
                self.broken(due.segment, format!("the segment that begins with record {}, from before the chain, {what}", due.segment))
            );
        }
        match self.old.iter().find(|old| before.iter().all(|it| it.segment != old.segment)) {
            Some(other) => Err(self.broken(seq, format!("the chain does not know the segment that begins with record {}", other.segment))),
            None => Ok(()),
        }
    }

    /// At the end of the log: everything that must be in it has been seen.
    fn finish(mut self) -> Result<Verified, VerifyError> {
        let last = self.verified.last;
        if let Some(bad) = &self.bad {
            // Beside a head that does not know of the line it was never durable. Without a head only a line that is cut
            // off can be told from one that was changed.
            if self.head.is_none() && bad.is_whole {
                self.no_damage()?;
            }
            self.verified.is_torn = true;
        }
        let first_seq = self.verified.first.map_or(0, |first| first.seq);
        if let Some(early) = self.wanted.iter().find(|wanted| wanted.seq < first_seq) {
            return Err(self.broken(first_seq, format!("the chain begins after record {}, of {}", early.seq, early.who)));
        }
        if let Some(newest) = self.wanted.iter().max_by_key(|wanted| wanted.seq) {
            let next_seq = last.map_or(0, |last| last.seq) + 1;
            let what = match &self.bad {
                Some(_) => "the record is damaged: it does not have the hash that it says".to_owned(),
                None => format!("{}, says {}: the log was cut off", missing(next_seq, newest.seq), newest.who),
            };
            return Err(self.broken(next_seq, what));
        }
        self.verified.with_head = self.head.is_some();
        Ok(self.verified)
    }
}

fn missing(first: u64, last: u64) -> String {
    if first == last { format!("record {first} is missing") } else { format!("records {first} to {last} are missing") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "verify_tests.rs"]
mod tests;
