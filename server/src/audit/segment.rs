//! Segment files: their names, and their lines. A line is one JSON object whose last key is the CRC of all before it, so
//! that a record that was cut short or damaged is never taken for one.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Decision;

const EXTENSION: &str = "jsonl";

/// `,"crc":"01234567"}`
const SUFFIX_BYTES: usize = 18;

/// A record of one line.
#[derive(Debug, Deserialize)]
pub struct Record {
    pub seq: u64,
    pub time_us: i64,
    #[serde(flatten)]
    pub entry: Entry,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A process has opened the log: whatever ran before has ended.
    Open {
        version: String,
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
    /// Never written: asks for all that came before to be durable.
    Flush,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    pub statement_id: String,
    pub session_id: String,
    pub principal: String,
    pub roles: Vec<String>,
    pub issuer: String,
    pub subject: String,
    pub token_id: Option<String>,
    pub client_address: Option<String>,
    pub client_driver: Option<String>,
    pub statement: String,
    pub statement_hash: String,
    pub parameters: Option<String>,
    pub tables: Vec<String>,
    pub columns: Vec<String>,
    pub policies: serde_json::Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// The `seq` of the start record.
    pub start: u64,
    pub status: String,
    pub error_id: Option<String>,
    pub rows_returned: u64,
    pub bytes_returned: u64,
    pub duration_us: u64,
}

/// Appends the record's line.
pub fn encode(seq: u64, time_us: i64, entry: &Entry, out: &mut Vec<u8>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        seq: u64,
        time_us: i64,
        #[serde(flatten)]
        entry: &'a Entry,
    }
    let begin = out.len();
    serde_json::to_writer(&mut *out, &Line { seq, time_us, entry })?;
    // Without the closing brace.
    out.pop();
    let crc = crc32fast::hash(&out[begin..]);
    out.extend_from_slice(format!(",\"crc\":\"{crc:08x}\"}}\n").as_bytes());
    Ok(())
}

/// The record of a line (with its line break), or `None` where it is torn or damaged.
pub fn decode(line: &[u8]) -> Option<Record> {
    let line = line.strip_suffix(b"\n")?;
    let (body, suffix) = line.split_at_checked(line.len().checked_sub(SUFFIX_BYTES)?)?;
    let crc = suffix.strip_prefix(b",\"crc\":\"")?.strip_suffix(b"\"}")?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    if crc32fast::hash(body) != crc {
        return None;
    }
    let mut object = Vec::with_capacity(body.len() + 1);
    object.extend_from_slice(body);
    object.push(b'}');
    serde_json::from_slice(&object).ok()
}

/// The segment that begins with the record `first_seq`.
pub fn path_of(dir: &Path, first_seq: u64) -> PathBuf {
    dir.join(format!("{first_seq:020}.{EXTENSION}"))
}

/// The first record of each segment in the folder, oldest first. Other files are passed over.
pub fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION)
            && let Some(first_seq) = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
        {
            segments.push(first_seq);
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// What the end of the log looks like.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Of the last whole record; `None` in a segment without any.
    pub last_seq: Option<u64>,
    /// The first record's time.
    pub first_time_us: Option<i64>,
    /// Up to the end of the last whole record.
    pub good_bytes: u64,
    /// There is a damaged record before a whole one: not a torn write but a loss, and evidence.
    pub is_damaged: bool,
}

/// Reads a segment through.
pub fn scan(path: &Path) -> io::Result<Tail> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut tail, mut offset, mut line, mut saw_bad) = (Tail::default(), 0, Vec::new(), false);
    while read_line(&mut reader, &mut line)? {
        offset += line.len() as u64;
        match decode(&line) {
            Some(record) => {
                tail.is_damaged |= saw_bad;
                tail.last_seq = Some(record.seq);
                tail.first_time_us.get_or_insert(record.time_us);
                tail.good_bytes = offset;
            }
            None => saw_bad = true,
        }
    }
    Ok(tail)
}

/// The time of a segment's first record.
pub fn first_time_us(path: &Path) -> io::Result<Option<i64>> {
    let mut line = Vec::new();
    read_line(&mut BufReader::new(File::open(path)?), &mut line)?;
    Ok(decode(&line).map(|record| record.time_us))
}

/// The next line with its line break; false at the end.
pub fn read_line<R: Read>(reader: &mut BufReader<R>, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(reader.read_until(b'\n', line)? > 0)
}
