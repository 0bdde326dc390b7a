//! Reading the log: starts and ends joined into one row per statement, segment by segment.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read, Take};
use std::path::{Path, PathBuf};

use super::segment::{self, End, Entry, Record, Start};
use super::{AuditError, Decision, StartRecord, Written};

/// One statement.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// Of the start record.
    pub seq: u64,
    pub time_us: i64,
    /// As it was recorded: with the hash of the token's id.
    pub record: StartRecord,
    pub statement_hash: String,
    pub decision: Decision,
    /// `running` or `interrupted` where there is no end record.
    pub status: String,
    pub error_id: Option<String>,
    pub rows_returned: Option<u64>,
    pub bytes_returned: Option<u64>,
    pub duration_us: Option<u64>,
}

/// The statements in the order in which they ended. Holds the starts that have no end yet, so its memory is bounded by the
/// statements that ran at a time.
pub struct AuditRows {
    dir: PathBuf,
    segments: VecDeque<u64>,
    written: Written,
    first_seq: u64,
    reader: Option<BufReader<Take<File>>>,
    line: Vec<u8>,
    open: BTreeMap<u64, (i64, Start)>,
    ready: VecDeque<AuditRow>,
    /// Lines that could not be read, and those at the end of which it is not known yet.
    damaged: u64,
    unread: u64,
}

impl AuditRows {
    /// Reads up to what is written now; `first_seq` is the first record of the process that writes.
    pub(super) fn open(dir: &Path, written: Written, first_seq: u64) -> Result<Self, AuditError> {
        let segments = segment::list(dir).map_err(AuditError::io("list", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            segments: segments.into_iter().filter(|first| *first <= written.segment).collect(),
            written,
            first_seq,
            reader: None,
            line: Vec::new(),
            open: BTreeMap::new(),
            ready: VecDeque::new(),
            damaged: 0,
            unread: 0,
        })
    }

    /// Reads a log that another process writes, or none: `is_written` says what became of those without an end.
    pub(super) fn of_folder(dir: &Path, is_written: bool) -> Result<Self, AuditError> {
        let first_seq = if is_written { 0 } else { u64::MAX };
        Self::open(dir, Written { segment: u64::MAX, bytes: u64::MAX }, first_seq)
    }

    /// Lines before others that could not be read: what they said is lost.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }

    fn next_segment(&mut self) -> Result<bool, AuditError> {
        while let Some(first_seq) = self.segments.pop_front() {
            let path = segment::path_of(&self.dir, first_seq);
            let limit = if first_seq == self.written.segment { self.written.bytes } else { u64::MAX };
            match File::open(&path) {
                Ok(file) => {
                    self.reader = Some(BufReader::new(file.take(limit)));
                    return Ok(true);
                }
                // Removed by retention since the folder was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(AuditError::io("open", &path)(error)),
            }
        }
        Ok(false)
    }

    fn take(&mut self, record: Record) {
        let Record { seq, time_us, entry, .. } = record;
        match entry {
            Entry::Start(start) => {
                self.open.insert(seq, (time_us, start));
            }
            Entry::End(end) => {
                if let Some((time_us, start)) = self.open.remove(&end.start) {
                    let decision = end.decision.unwrap_or(Decision::Allow);
                    self.ready.push_back(row(end.start, time_us, start, decision, Outcome::Ended(end)));
                }
            }
            Entry::Refused { start, decision, status, error_id } => {
                self.ready.push_back(row(seq, time_us, start, decision, Outcome::Refused { status, error_id }));
            }
            Entry::Open { .. } => self.close_open("interrupted"),
            Entry::Begin { .. } | Entry::Resume | Entry::Seal(_) | Entry::Flush => {}
        }
    }

    /// No more ends can follow.
    fn close_open(&mut self, status: &'static str) {
        for (seq, (time_us, start)) in std::mem::take(&mut self.open) {
            let status = if seq < self.first_seq { "interrupted" } else { status };
            self.ready.push_back(row(seq, time_us, start, Decision::Allow, Outcome::Unknown(status)));
        }
    }
}

impl Iterator for AuditRows {
    type Item = Result<AuditRow, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Some(Ok(row));
            }
            let Some(reader) = &mut self.reader else {
                match self.next_segment() {
                    Ok(true) => continue,
                    Ok(false) if self.open.is_empty() => return None,
                    Ok(false) => {
                        self.close_open("running");
                        continue;
                    }
                    Err(error) => return Some(Err(error)),
                }
            };
            match segment::read_line(reader, &mut self.line) {
                // A damaged line is passed over: what it said is lost, the rest is not.
                Ok(true) => match segment::decode(&self.line) {
                    Some(record) => {
                        self.damaged += std::mem::take(&mut self.unread);
                        self.take(record);
                    }
                    None => {
                        self.unread += 1;
                        // The end of the file, when it was read: another process may be writing the rest.
                        if !self.line.ends_with(b"\n") {
                            self.reader = None;
                        }
                    }
                },
                Ok(false) => self.reader = None,
                Err(error) => {
                    self.reader = None;
                    return Some(Err(AuditError::io("read", &self.dir)(error)));
                }
            }
        }
    }
}

enum Outcome {
    Ended(End),
    Refused { status: String, error_id: Option<String> },
    Unknown(&'static str),
}

fn row(seq: u64, time_us: i64, start: Start, decision: Decision, outcome: Outcome) -> AuditRow {
    let (status, error_id, rows_returned, bytes_returned, duration_us) = match outcome {
        Outcome::Ended(end) => (end.status, end.error_id, Some(end.rows_returned), Some(end.bytes_returned), Some(end.duration_us)),
        Outcome::Refused { status, error_id } => (status, error_id, Some(0), Some(0), Some(0)),
        Outcome::Unknown(status) => (status.to_owned(), None, None, None, None),
    };
    AuditRow {
        seq,
        time_us,
        record: start.record,
        statement_hash: start.statement_hash,
        decision,
        status,
        error_id,
        rows_returned,
        bytes_returned,
        duration_us,
    }
}
