//! The thread that writes: it takes all the records that wait, writes them as one group, syncs once, and tells everyone.
//!
//! After a failed write or sync the end of the file is in doubt, so the writer cuts it back to what was durable, and goes
//! on in a new segment once that can be written. Records that nobody waits for (the ends) are kept until they are durable.
//!
//! The hash of each record is taken while it is encoded, and the head is written after the sync: neither costs another.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::head::{self, Found, Head, HeadFile};
use super::link::Link;
use super::segment::{self, Before, End, Entry, Seal, sync_dir};
use super::{AuditConfig, AuditError, Shared, Status, Written, micros};

/// Records of one group, so that one sync does not hold too much in memory.
const GROUP_BYTES: usize = 8 << 20;

/// How long an end record that nobody waits for may stay unsynced.
const END_SYNC: Duration = Duration::from_millis(50);

/// How often a log that cannot be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A segment is closed after this, so that retention, which removes whole segments, is exact to the day.
const SEGMENT_AGE_US: i64 = DAY_US;

const DAY_US: i64 = 24 * 3600 * 1_000_000;

/// A record to be written. `done` gets its number when it is durable.
pub struct Append {
    pub time_us: i64,
    pub entry: Entry,
    pub done: Option<oneshot::Sender<Result<u64, AuditError>>>,
}

pub struct Writer {
    config: AuditConfig,
    shared: Arc<Shared>,
    receiver: Receiver<Append>,
    segment: Segment,
    next_seq: u64,
    /// The hash of the last record that is written, on which the next one follows.
    link: Link,
    /// All before it is durable.
    durable_seq: u64,
    durable_link: Link,
    head: HeadFile,
    /// Records that are written or due, but not durable yet.
    unsynced: Vec<Append>,
    unsynced_since: Option<Instant>,
    /// The end of the segment is in doubt.
    is_broken: bool,
    last_housekeeping: Instant,
}

/// The segment being written.
struct Segment {
    file: File,
    first_seq: u64,
    first_time_us: i64,
    /// The latest time of a record in it.
    last_time_us: i64,
    written_bytes: u64,
    durable_bytes: u64,
}

impl Writer {
    /// Opens the log and starts the thread, which ends when the last handle on the log is gone.
    pub fn spawn(dir: &Path, config: AuditConfig, receiver: Receiver<Append>) -> Result<Arc<Shared>, AuditError> {
        make_dir(dir).map_err(AuditError::io("make the folder", dir))?;
        let segments = segment::list(dir).map_err(AuditError::io("list", dir))?;
        let now_us = micros((config.clock)());
        let found = head::read(dir, Some(&config.key)).map_err(AuditError::io("read the head of", dir))?;
        let Continued { segment, next_seq, link, begin, head_is, newer } = continue_last(dir, &segments, &found, now_us)?;
        let head = match found {
            Found::Is(head) => head,
            Found::Missing | Found::Invalid => {
                let first_seq = segments.first().copied().unwrap_or(1);
                let first = segment::first(&segment::path_of(dir, first_seq)).ok().flatten();
                let first_prev = first.and_then(|record| record.prev).unwrap_or(Link::NONE);
                Head { turn: 0, seq: next_seq - 1, hash: link, first_seq, first_prev }
            }
        };
        let head = HeadFile::open(dir, config.key.clone(), head).map_err(AuditError::io("write the head of", dir))?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            clock: config.clock,
            records_parameters: config.records_parameters,
            healthy: watch::Sender::new(true),
            written: Mutex::new(Written { segment: segment.first_seq, bytes: segment.written_bytes }),
            first_seq: next_seq,
        });
        let mut writer = Self {
            config,
            shared: Arc::clone(&shared),
            receiver,
            segment,
            next_seq,
            link,
            durable_seq: next_seq,
            durable_link: link,
            head,
            unsynced: Vec::new(),
            unsynced_since: None,
            is_broken: false,
            last_housekeeping: Instant::now(),
        };
        let open = Entry::Open { version: env!("CARGO_PKG_VERSION").to_owned(), head: head_is.map(str::to_owned), newer };
        let first = begin.map(|before| Entry::Begin { before }).into_iter().chain([open]);
        let first = first.map(|entry| Append { time_us: now_us, entry, done: None }).collect();
        writer.commit(first, true).map_err(|error| AuditError::Write(Arc::new(error)))?;
        writer.remove_old_segments();
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::io("start the writer of", dir))?;
        Ok(shared)
    }

    fn run(mut self) {
        loop {
            let first = match self.receiver.recv_timeout(self.patience()) {
                Ok(append) => Some(append),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut group_bytes = 0;
            let mut group = Vec::new();
            let mut next = first;
            while let Some(append) = next {
                group_bytes += size_of_entry(&append.entry);
                group.push(append);
                next = if group_bytes < GROUP_BYTES { self.receiver.try_recv().ok() } else { None };
            }
            let must_sync =
                group.iter().any(|append| append.done.is_some()) || self.unsynced_since.is_some_and(|since| since.elapsed() >= END_SYNC);
            self.write_group(group, must_sync);
            if self.last_housekeeping.elapsed() >= self.config.housekeeping {
                self.keep_house();
            }
        }
        self.write_group(Vec::new(), true);
    }

    fn patience(&self) -> Duration {
        if self.is_broken {
            RETRY
        } else if let Some(since) = self.unsynced_since {
            END_SYNC.saturating_sub(since.elapsed())
        } else {
            self.config.housekeeping.saturating_sub(self.last_housekeeping.elapsed())
        }
    }

    fn write_group(&mut self, group: Vec<Append>, must_sync: bool) {
        if self.is_broken
            && let Err(error) = self.recover()
        {
            return self.fail(group, error);
        }
        if let Err(error) = self.commit(group, must_sync) {
            self.fail(Vec::new(), error);
        }
    }

    /// Writes the group; with `must_sync` it is durable afterwards, and so is all before it.
    fn commit(&mut self, group: Vec<Append>, must_sync: bool) -> io::Result<()> {
        if !group.is_empty()
            && let Err(error) = self.rotate_if_due()
        {
            self.unsynced.extend(group);
            return Err(error);
        }
        let is_first = self.unsynced.is_empty();
        let mut buffer = Vec::new();
        let (mut seq, mut link) = (self.next_seq, self.link);
        let first_new = self.unsynced.len();
        self.unsynced.extend(group);
        for append in &self.unsynced[first_new..] {
            if !matches!(append.entry, Entry::Flush) {
                link = segment::encode(seq, append.time_us, link, &append.entry, &mut buffer)?;
                self.segment.last_time_us = self.segment.last_time_us.max(append.time_us);
                seq += 1;
            }
        }
        if !buffer.is_empty() {
            self.append(&buffer, seq, link)?;
            if is_first {
                self.unsynced_since = Some(Instant::now());
            }
        }
        if must_sync { self.sync() } else { Ok(()) }
    }

    /// Writes lines, of which the last is the record before `next_seq`.
    fn append(&mut self, lines: &[u8], next_seq: u64, link: Link) -> io::Result<()> {
        self.segment.file.write_all(lines)?;
        self.segment.written_bytes += lines.len() as u64;
        self.next_seq = next_seq;
        self.link = link;
        // Before anyone is told: who waits for a record must find it when it reads.
        self.publish();
        Ok(())
    }

    /// Makes all that is written durable, and notes it in the head. Until that is done, nobody is told.
    fn make_durable(&mut self) -> io::Result<()> {
        if self.segment.durable_bytes < self.segment.written_bytes {
            self.segment.file.sync_data()?;
            self.head.advance(self.next_seq - 1, self.link)?;
            self.segment.durable_bytes = self.segment.written_bytes;
            self.durable_link = self.link;
        }
        Ok(())
    }

    /// Makes all that is written durable, and tells those who wait.
    fn sync(&mut self) -> io::Result<()> {
        self.make_durable()?;
        self.unsynced_since = None;
        let mut abandoned = Vec::new();
        for append in self.unsynced.drain(..) {
            let seq = self.durable_seq;
            let is_start = matches!(append.entry, Entry::Start(_));
            if !matches!(append.entry, Entry::Flush) {
                self.durable_seq += 1;
            }
            if let Some(done) = append.done
                && done.send(Ok(seq)).is_err()
                && is_start
            {
                abandoned.push(cancelled(seq, append.time_us));
            }
        }
        // Whoever asked for these statements went away before they could begin, so nobody else will record their end.
        self.unsynced.extend(abandoned);
        let pending = std::mem::take(&mut self.unsynced);
        if pending.is_empty() { Ok(()) } else { self.commit(pending, false) }
    }

    /// A write failed: those who wait are told so. Ends are kept, so that they are written when that is possible again.
    fn fail(&mut self, group: Vec<Append>, error: io::Error) {
        let error = Arc::new(error);
        if self.shared.healthy.send_if_modified(|healthy| std::mem::replace(healthy, false)) {
            tracing::error!(error = %error, "audit log cannot be written; statements fail until it can");
        }
        self.is_broken = true;
        self.unsynced_since = None;
        let pending: Vec<_> = self.unsynced.drain(..).chain(group).collect();
        for mut append in pending {
            if let Some(done) = append.done.take() {
                let _ = done.send(Err(AuditError::Write(Arc::clone(&error))));
            }
            if matches!(append.entry, Entry::End(_)) {
                self.unsynced.push(append);
            }
        }
    }

    /// Cuts the segment back to what is durable, and goes on in a new one.
    fn recover(&mut self) -> io::Result<()> {
        let path = segment::path_of(&self.shared.dir, self.segment.first_seq);
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => {
                file.set_len(self.segment.durable_bytes)?;
                file.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.segment.written_bytes = self.segment.durable_bytes;
        self.next_seq = self.durable_seq;
        self.link = self.durable_link;
        let time_us = micros((self.config.clock)());
        self.segment = new_segment(&self.shared.dir, self.next_seq, time_us)?;
        let mut pending = vec![Append { time_us, entry: Entry::Resume, done: None }];
        pending.append(&mut self.unsynced);
        self.commit(pending, true)?;
        self.is_broken = false;
        self.shared.healthy.send_if_modified(|healthy| !std::mem::replace(healthy, true));
        tracing::info!("audit log can be written again");
        Ok(())
    }

    /// Seals a segment that is full or old, and goes on in a new one.
    fn rotate_if_due(&mut self) -> io::Result<()> {
        let now_us = micros((self.config.clock)());
        let is_full = self.segment.written_bytes >= self.config.segment_bytes;
        let is_old = now_us - self.segment.first_time_us >= SEGMENT_AGE_US;
        if self.segment.written_bytes == 0 || !(is_full || is_old) {
            return Ok(());
        }
        self.seal(now_us)?;
        self.segment = new_segment(&self.shared.dir, self.next_seq, now_us)?;
        self.publish();
        self.remove_old_segments();
        Ok(())
    }

    fn seal(&mut self, now_us: i64) -> io::Result<()> {
        let (first_seq, last_seq, last_hash) = (self.segment.first_seq, self.next_seq - 1, self.link);
        let mac = seal_mac(&self.config.key, first_seq, last_seq, last_hash)?;
        let (records, last_time_us) = (self.next_seq - first_seq, self.segment.last_time_us);
        let entry = Entry::Seal(Seal { records, first_seq, last_seq, last_time_us, last_hash, mac });
        let mut line = Vec::new();
        let link = segment::encode(self.next_seq, now_us, self.link, &entry, &mut line)?;
        self.append(&line, self.next_seq + 1, link)?;
        self.make_durable()?;
        // What was written and not synced before, ends that nobody waits for, is durable with the seal.
        self.unsynced.clear();
        self.unsynced_since = None;
        self.durable_seq = self.next_seq;
        Ok(())
    }

    /// What an idle log needs too: its segment must be closed before it can be removed one day.
    fn keep_house(&mut self) {
        self.last_housekeeping = Instant::now();
        if self.is_broken {
            return;
        }
        match self.rotate_if_due() {
            Ok(()) => self.remove_old_segments(),
            Err(error) => self.fail(Vec::new(), error),
        }
    }

    fn publish(&self) {
        *self.shared.written.lock() = Written { segment: self.segment.first_seq, bytes: self.segment.written_bytes };
    }

    /// Removes the segments all of whose records are past retention.
    fn remove_old_segments(&mut self) {
        self.last_housekeeping = Instant::now();
        let days = i64::try_from(self.config.retention_days).unwrap_or(i64::MAX);
        let oldest_us = micros((self.config.clock)()).saturating_sub(days.saturating_mul(DAY_US));
        if let Err(error) = self.remove_before(oldest_us) {
            tracing::warn!(error = %error, "cannot remove old audit segments");
        }
    }

    fn remove_before(&mut self, oldest_us: i64) -> io::Result<()> {
        let dir = self.shared.dir.clone();
        let segments: Vec<_> = segment::list(&dir)?.into_iter().filter(|first| *first <= self.segment.first_seq).collect();
        let mut kept = None;
        for pair in segments.windows(2) {
            let (old, next) = (segment::path_of(&dir, pair[0]), segment::path_of(&dir, pair[1]));
            let (begins_us, prev) = if pair[1] == self.segment.first_seq && self.segment.written_bytes == 0 {
                (self.segment.first_time_us, self.link)
            } else {
                match segment::first(&next)? {
                    Some(record) => (record.time_us, record.prev.unwrap_or(Link::NONE)),
                    // Damaged: where the log would begin cannot be said.
                    None => break,
                }
            };
            // Where there is no seal, its records are at least older than the next segment.
            let ends_us = segment::seal_of(&old)?.map_or(begins_us, |seal| seal.last_time_us);
            if ends_us >= oldest_us {
                break;
            }
            kept = Some((pair[1], prev));
        }
        let Some((first_seq, first_prev)) = kept else { return Ok(()) };
        // Before they go: the log must never begin later than the head says.
        self.head.begin_at(first_seq, first_prev)?;
        for old in segments.into_iter().take_while(|old| *old < first_seq) {
            fs::remove_file(segment::path_of(&dir, old))?;
            tracing::info!(segment = old, "removed an audit segment past its retention");
        }
        Ok(())
    }
}

/// What ties a seal to the server's key.
pub fn seal_mac(key: &head::AuditKey, first_seq: u64, last_seq: u64, last_hash: Link) -> io::Result<Link> {
    key.mac("seal", &[&first_seq.to_be_bytes(), &last_seq.to_be_bytes(), last_hash.as_bytes()])
}

/// Where a log that is opened goes on.
struct Continued {
    segment: Segment,
    next_seq: u64,
    link: Link,
    /// The chain begins now; these segments are older.
    begin: Option<Vec<Before>>,
    /// What is wrong with the head of a log that has a chain.
    head_is: Option<&'static str>,
    /// Records after the newest that the head knows.
    newer: Option<u64>,
}

/// The last segment, to be continued, and the next record's number. A torn last record is cut off; where something else
/// is damaged or missing, the segments stay as they are and a new one is begun.
fn continue_last(dir: &Path, segments: &[u64], head: &Found, now_us: i64) -> Result<Continued, AuditError> {
    let new = |seq| new_segment(dir, seq, now_us).map_err(AuditError::io("make a segment in", dir));
    let noted = if let Found::Is(head) = head { head.seq } else { 0 };
    let mut end = None;
    for &first_seq in segments.iter().rev() {
        let path = segment::path_of(dir, first_seq);
        let tail = segment::scan(&path, noted).map_err(AuditError::io("read", &path))?;
        if let Some(last) = tail.last {
            end = Some((first_seq, last, tail));
            break;
        }
    }
    let is_chained = end.as_ref().is_some_and(|(_, last, _)| last.hash.is_some());
    // Empty segments have a number too, which no other may get.
    let mut next_seq = segments.last().copied().unwrap_or(1);
    let mut link = Link::NONE;
    match (&end, head) {
        (Some((_, last, _)), _) => {
            next_seq = next_seq.max(last.seq + 1);
            link = last.hash.unwrap_or(Link::NONE);
        }
        // Retention has removed everything.
        (None, Found::Is(head)) if head.seq + 1 == next_seq => link = head.hash,
        (None, _) => {}
    }
    if let Found::Is(head) = head
        && head.seq >= next_seq
    {
        tracing::error!(first = next_seq, last = head.seq, "audit records that were written are gone; the audit goes on after them");
        let (next_seq, link) = (head.seq + 1, head.hash);
        let begin = if link == Link::NONE { Some(digests(dir, segments, next_seq)?) } else { None };
        return Ok(Continued { segment: new(next_seq)?, next_seq, link, begin, head_is: None, newer: None });
    }
    let (mut head_is, mut newer) = (None, None);
    match (head, &end) {
        (Found::Is(head), Some((_, last, tail))) if is_chained && head.hash != Link::NONE => {
            newer = Some(last.seq.saturating_sub(head.seq)).filter(|newer| *newer > 0);
            head_is = Some("contradicted by the records").filter(|_| tail.asked != Some(head.hash));
        }
        (Found::Missing, _) if is_chained => head_is = Some("missing"),
        (Found::Invalid, _) if is_chained => head_is = Some("damaged"),
        _ => {}
    }
    if let Some(head_is) = head_is {
        tracing::error!("the head of the audit log is {head_is}: records may be changed or missing");
    }
    let Some((first_seq, last, tail)) = end else {
        return Ok(Continued { segment: new(next_seq)?, next_seq, link, begin: None, head_is, newer });
    };
    let path = segment::path_of(dir, first_seq);
    if tail.is_damaged {
        tracing::error!(segment = %path.display(), "audit segment is damaged; it is kept as it is");
    } else {
        let file = cut(dir, &path, tail.good_bytes).map_err(AuditError::io("open", &path))?;
        if is_chained && !last.is_seal && segments.last() == Some(&first_seq) {
            let (written_bytes, durable_bytes) = (tail.good_bytes, tail.good_bytes);
            let first_time_us = tail.first_time_us.unwrap_or(now_us);
            let segment = Segment { file, first_seq, first_time_us, last_time_us: tail.last_time_us, written_bytes, durable_bytes };
            return Ok(Continued { segment, next_seq, link, begin: None, head_is, newer });
        }
    }
    let begin = if is_chained { None } else { Some(digests(dir, segments, next_seq)?) };
    Ok(Continued { segment: new(next_seq)?, next_seq, link, begin, head_is, newer })
}

/// Cuts a torn record off.
fn cut(dir: &Path, path: &Path, good_bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().append(true).open(path)?;
    if file.metadata()?.len() > good_bytes {
        tracing::warn!(segment = %path.display(), "cut a torn record off the audit log");
        file.set_len(good_bytes)?;
    }
    // What a process that was killed had written may not be durable yet.
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(file)
}

/// Of the segments before this one.
fn digests(dir: &Path, segments: &[u64], next_seq: u64) -> Result<Vec<Before>, AuditError> {
    let digest = |segment: &u64| {
        let path = segment::path_of(dir, *segment);
        let (sha256, bytes) = Link::of_file(&path).map_err(AuditError::io("read", &path))?;
        Ok(Before { segment: *segment, bytes, sha256 })
    };
    segments.iter().filter(|segment| **segment < next_seq).map(digest).collect()
}

/// An empty segment that survives a crash. One of the same name holds nothing durable: it would begin with this record.
fn new_segment(dir: &Path, first_seq: u64, first_time_us: i64) -> io::Result<Segment> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(segment::path_of(dir, first_seq))?;
    file.set_len(0)?;
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(Segment { file, first_seq, first_time_us, last_time_us: i64::MIN, written_bytes: 0, durable_bytes: 0 })
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    dir.parent().map_or(Ok(()), sync_dir)
}

fn cancelled(start: u64, time_us: i64) -> Append {
    let status = Status::Cancelled.as_str().to_owned();
    let end = End { start, decision: None, status, error_id: None, rows_returned: 0, bytes_returned: 0, duration_us: 0 };
    Append { time_us, entry: Entry::End(end), done: None }
}

/// Roughly; the text is what can be large.
fn size_of_entry(entry: &Entry) -> usize {
    match entry {
        Entry::Start(start) | Entry::Refused { start, .. } => {
            512 + start.record.statement.len() + start.record.parameters.as_ref().map_or(0, String::len)
        }
        _ => 256,
    }
}
