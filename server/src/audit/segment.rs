//! Segment files: their names, and their lines. A line is one JSON object. Its `prev` is the hash of the line before it,
//! and its last key, `hash`, is the SHA-256 of all of the line that stands before that key: so every record vouches for
//! those before it, and one that was cut short or damaged is never taken for one.
//!
//! Older servers wrote lines that end in a CRC instead. They are read as they are; the chain begins after them.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::link::Link;
use super::{Decision, StartRecord};

const EXTENSION: &str = "jsonl";

/// `,"hash":"…"}`
const HASH_SUFFIX_BYTES: usize = 75;

/// More than the line of a seal is long.
const SEAL_BYTES: u64 = 4096;

/// `,"crc":"01234567"}`
const CRC_SUFFIX_BYTES: usize = 18;

/// A record of one line.
#[derive(Debug, Deserialize)]
pub struct Record {
    pub seq: u64,
    pub time_us: i64,
    /// `None` in a line from before the chain.
    #[serde(default)]
    pub prev: Option<Link>,
    #[serde(skip)]
    pub hash: Option<Link>,
    #[serde(flatten)]
    pub entry: Entry,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// The chain begins, and takes in the segments that were written before there was one.
    Begin {
        before: Vec<Before>,
    },
    /// A process has opened the log: whatever ran before has ended.
    Open {
        version: String,
        /// What was wrong with the head although the log has a chain: records before may have been cut off or changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        head: Option<String>,
        /// Records that the head did not know of yet. A kill or a power cut leaves them; so does somebody who adds records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        newer: Option<u64>,
    },
    /// The log could not be written for a while, and can be again.
    Resume,
    Start(Start),
    End(End),
    Refused {
        #[serde(flatten)]
        start: Start,
        decision: Decision,
        status: String,
        error_id: Option<String>,
    },
    /// The last line of a segment.
    Seal(Seal),
    /// Never written: asks for all that came before to be durable.
    Flush,
}

/// A segment from before the chain, as it was when the chain began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Its first record.
    pub segment: u64,
    pub bytes: u64,
    pub sha256: Link,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    #[serde(flatten)]
    pub record: StartRecord,
    pub statement_hash: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// The `seq` of the start record.
    pub start: u64,
    /// Set where the statement was let in, and refused when it was about to act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    pub status: String,
    pub error_id: Option<String>,
    pub rows_returned: u64,
    pub bytes_returned: u64,
    pub duration_us: u64,
}

/// What is in a segment, itself not counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    pub records: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// The latest time of a record.
    pub last_time_us: i64,
    pub last_hash: Link,
    /// Under the server's key.
    pub mac: Link,
}

/// Appends the record's line, and gives its hash.
pub fn encode(seq: u64, time_us: i64, prev: Link, entry: &Entry, out: &mut Vec<u8>) -> io::Result<Link> {
    #[derive(Serialize)]
    struct Line<'a> {
        seq: u64,
        time_us: i64,
        prev: Link,
        #[serde(flatten)]
        entry: &'a Entry,
    }
    let begin = out.len();
    serde_json::to_writer(&mut *out, &Line { seq, time_us, prev, entry })?;
    // Without the closing brace.
    out.pop();
    let hash = Link::of(&out[begin..]);
    writeln!(out, ",\"hash\":\"{hash}\"}}")?;
    Ok(hash)
}

/// The record of a line (with its line break), or `None` where it is torn or damaged.
pub fn decode(line: &[u8]) -> Option<Record> {
    let line = line.strip_suffix(b"\n")?;
    let (body, hash) = chained(line).map(|(body, hash)| (body, Some(hash))).or_else(|| Some((checked(line)?, None)))?;
    let mut object = Vec::with_capacity(body.len() + 1);
    object.extend_from_slice(body);
    object.push(b'}');
    let record: Record = serde_json::from_slice(&object).ok()?;
    // A line is of the one kind or of the other.
    (record.prev.is_some() == hash.is_some()).then_some(Record { hash, ..record })
}

/// What stands before the hash, where it is the hash of it.
fn chained(line: &[u8]) -> Option<(&[u8], Link)> {
    let (body, suffix) = line.split_at_checked(line.len().checked_sub(HASH_SUFFIX_BYTES)?)?;
    let hash = suffix.strip_prefix(b",\"hash\":\"")?.strip_suffix(b"\"}")?;
    let hash: Link = std::str::from_utf8(hash).ok()?.parse().ok()?;
    (Link::of(body) == hash).then_some((body, hash))
}

/// What stands before the checksum of an older server, where it fits.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let (body, suffix) = line.split_at_checked(line.len().checked_sub(CRC_SUFFIX_BYTES)?)?;
    let crc = suffix.strip_prefix(b",\"crc\":\"")?.strip_suffix(b"\"}")?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    (crc32fast::hash(body) == crc).then_some(body)
}

/// The segment that begins with the record `first_seq`.
pub fn path_of(dir: &Path, first_seq: u64) -> PathBuf {
    dir.join(format!("{first_seq:020}.{EXTENSION}"))
}

/// The number in a segment's name.
pub fn first_seq_of(path: &Path) -> Option<u64> {
    let is_segment = path.extension().is_some_and(|extension| extension == EXTENSION);
    path.file_stem().filter(|_| is_segment).and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
}

/// The first record of each segment in the folder, oldest first. Other files are passed over.
pub fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        segments.extend(first_seq_of(&entry?.path()));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// What the end of a segment looks like.
#[derive(Debug)]
pub struct Tail {
    /// The last whole record; `None` in a segment without any.
    pub last: Option<Last>,
    /// The first record's time.
    pub first_time_us: Option<i64>,
    /// The latest time of a record.
    pub last_time_us: i64,
    /// Up to the end of the last whole record.
    pub good_bytes: u64,
    /// There is a damaged record before a whole one: not a torn write but a loss, and evidence.
    pub is_damaged: bool,
    /// The hash of the record that was asked for.
    pub asked: Option<Link>,
}

#[derive(Clone, Copy, Debug)]
pub struct Last {
    pub seq: u64,
    /// `None` in a line from before the chain.
    pub hash: Option<Link>,
    pub is_seal: bool,
}

/// Reads a segment through, and looks for the hash of the record `asked`.
pub fn scan(path: &Path, asked: u64) -> io::Result<Tail> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut tail = Tail { last: None, first_time_us: None, last_time_us: i64::MIN, good_bytes: 0, is_damaged: false, asked: None };
    let (mut offset, mut line, mut saw_bad) = (0, Vec::new(), false);
    while read_line(&mut reader, &mut line)? {
        offset += line.len() as u64;
        match decode(&line) {
            Some(record) => {
                tail.is_damaged |= saw_bad;
                if record.seq == asked {
                    tail.asked = record.hash;
                } else if record.seq == asked + 1 && tail.asked.is_none() {
                    tail.asked = record.prev;
                }
                tail.last = Some(Last { seq: record.seq, hash: record.hash, is_seal: matches!(record.entry, Entry::Seal(_)) });
                tail.first_time_us.get_or_insert(record.time_us);
                tail.last_time_us = tail.last_time_us.max(record.time_us);
                tail.good_bytes = offset;
            }
            None => saw_bad = true,
        }
    }
    Ok(tail)
}

/// A segment's first record.
pub fn first(path: &Path) -> io::Result<Option<Record>> {
    let mut line = Vec::new();
    read_line(&mut BufReader::new(File::open(path)?), &mut line)?;
    Ok(decode(&line))
}

/// The seal at a segment's end, where there is one.
pub fn seal_of(path: &Path) -> io::Result<Option<Seal>> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(SEAL_BYTES)))?;
    let mut end = Vec::new();
    file.take(SEAL_BYTES).read_to_end(&mut end)?;
    let before = end.len().saturating_sub(1);
    let begin = end[..before].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok(match decode(&end[begin..]).map(|record| record.entry) {
        Some(Entry::Seal(seal)) => Some(seal),
        _ => None,
    })
}

/// The next line with its line break; false at the end.
pub fn read_line<R: Read>(reader: &mut BufReader<R>, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(reader.read_until(b'\n', line)? > 0)
}

/// Makes what was made, renamed or removed in the folder durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}
