//! The thread that writes: it takes all the records that wait, writes them as one group, syncs once, and tells everyone.
//!
//! After a failed write or sync the end of the file is in doubt, so the writer cuts it back to what was durable, and goes
//! on in a new segment once that can be written. Records that nobody waits for (the ends) are kept until they are durable.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::segment::{self, End, Entry, Tail};
use super::{AuditConfig, AuditError, Shared, Status, Written, micros};

/// Records of one group, so that one sync does not hold too much in memory.
const GROUP_BYTES: usize = 8 << 20;

/// How long an end record that nobody waits for may stay unsynced.
const END_SYNC: Duration = Duration::from_millis(50);

/// How often a log that cannot be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often an idle writer looks for segments to remove.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

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
    /// All before it is durable.
    durable_seq: u64,
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
    written_bytes: u64,
    durable_bytes: u64,
}

impl Writer {
    /// Opens the log and starts the thread, which ends when the last handle on the log is gone.
    pub fn spawn(dir: &Path, config: AuditConfig, receiver: Receiver<Append>) -> Result<Arc<Shared>, AuditError> {
        make_dir(dir).map_err(AuditError::io("make the folder", dir))?;
        let segments = segment::list(dir).map_err(AuditError::io("list", dir))?;
        let now_us = micros((config.clock)());
        let (segment, next_seq) = continue_last(dir, &segments, now_us)?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            clock: config.clock,
            healthy: AtomicBool::new(true),
            written: Mutex::new(Written { segment: segment.first_seq, bytes: segment.written_bytes }),
            first_seq: next_seq,
        });
        let mut writer = Self {
            config,
            shared: Arc::clone(&shared),
            receiver,
            segment,
            next_seq,
            durable_seq: next_seq,
            unsynced: Vec::new(),
            unsynced_since: None,
            is_broken: false,
            last_housekeeping: Instant::now(),
        };
        let open = Entry::Open { version: env!("CARGO_PKG_VERSION").to_owned() };
        writer
            .commit(vec![Append { time_us: now_us, entry: open, done: None }], true)
            .map_err(|error| AuditError::Write(Arc::new(error)))?;
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
            if self.last_housekeeping.elapsed() >= HOUSEKEEPING {
                self.remove_old_segments();
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
            HOUSEKEEPING.saturating_sub(self.last_housekeeping.elapsed())
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
        let is_first = self.unsynced.is_empty();
        let mut buffer = Vec::new();
        let mut seq = self.next_seq;
        let first_new = self.unsynced.len();
        self.unsynced.extend(group);
        for append in &self.unsynced[first_new..] {
            if !matches!(append.entry, Entry::Flush) {
                segment::encode(seq, append.time_us, &append.entry, &mut buffer)?;
                seq += 1;
            }
        }
        if !buffer.is_empty() {
            self.rotate_if_due(buffer.len() as u64)?;
            self.segment.file.write_all(&buffer)?;
            self.segment.written_bytes += buffer.len() as u64;
            self.next_seq = seq;
            // Before anyone is told: who waits for a record must find it when it reads.
            self.publish();
            if is_first {
                self.unsynced_since = Some(Instant::now());
            }
        }
        if must_sync { self.sync() } else { Ok(()) }
    }

    /// Makes all that is written durable, and tells those who wait.
    fn sync(&mut self) -> io::Result<()> {
        if self.segment.durable_bytes < self.segment.written_bytes {
            self.segment.file.sync_data()?;
            self.segment.durable_bytes = self.segment.written_bytes;
        }
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
        if self.shared.healthy.swap(false, Ordering::AcqRel) {
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
        let time_us = micros((self.config.clock)());
        self.segment = new_segment(&self.shared.dir, self.next_seq, time_us)?;
        let mut pending = vec![Append { time_us, entry: Entry::Resume, done: None }];
        pending.append(&mut self.unsynced);
        self.commit(pending, true)?;
        self.is_broken = false;
        self.shared.healthy.store(true, Ordering::Release);
        tracing::info!("audit log can be written again");
        Ok(())
    }

    fn rotate_if_due(&mut self, more_bytes: u64) -> io::Result<()> {
        let now_us = micros((self.config.clock)());
        let is_full = self.segment.written_bytes + more_bytes > self.config.segment_bytes;
        let is_old = now_us - self.segment.first_time_us >= SEGMENT_AGE_US;
        if self.segment.written_bytes == 0 || !(is_full || is_old) {
            return Ok(());
        }
        self.segment.file.sync_data()?;
        self.segment.durable_bytes = self.segment.written_bytes;
        self.settle_written();
        self.segment = new_segment(&self.shared.dir, self.next_seq, now_us)?;
        self.publish();
        self.remove_old_segments();
        Ok(())
    }

    /// The records written before this group are durable with the segment that was closed.
    fn settle_written(&mut self) {
        let written = usize::try_from(self.next_seq - self.durable_seq).unwrap_or(usize::MAX).min(self.unsynced.len());
        for append in self.unsynced.drain(..written) {
            if let Some(done) = append.done {
                let _ = done.send(Ok(self.durable_seq));
            }
            self.durable_seq += 1;
        }
    }

    fn publish(&self) {
        *self.shared.written.lock() = Written { segment: self.segment.first_seq, bytes: self.segment.written_bytes };
    }

    /// Removes the segments all of whose records are past retention: those before one that begins past it.
    fn remove_old_segments(&mut self) {
        self.last_housekeeping = Instant::now();
        let days = i64::try_from(self.config.retention_days).unwrap_or(i64::MAX);
        let oldest_us = micros((self.config.clock)()).saturating_sub(days.saturating_mul(DAY_US));
        if let Err(error) = remove_before(&self.shared.dir, oldest_us) {
            tracing::warn!(error = %error, "cannot remove old audit segments");
        }
    }
}

fn remove_before(dir: &Path, oldest_us: i64) -> io::Result<()> {
    for pair in segment::list(dir)?.windows(2) {
        let next_begins = segment::first_time_us(&segment::path_of(dir, pair[1]))?;
        if next_begins.is_none_or(|time_us| time_us >= oldest_us) {
            break;
        }
        fs::remove_file(segment::path_of(dir, pair[0]))?;
        tracing::info!(segment = pair[0], "removed an audit segment past its retention");
    }
    Ok(())
}

/// The last segment, to be continued, and the next record's number. A torn last record is cut off; where something else
/// is damaged the segment stays as it is, and a new one is begun.
fn continue_last(dir: &Path, segments: &[u64], now_us: i64) -> Result<(Segment, u64), AuditError> {
    let Some(&first_seq) = segments.last() else {
        return Ok((new_segment(dir, 1, now_us).map_err(AuditError::io("make a segment in", dir))?, 1));
    };
    let path = segment::path_of(dir, first_seq);
    let tail: Tail = segment::scan(&path).map_err(AuditError::io("read", &path))?;
    let next_seq = tail.last_seq.map_or(first_seq, |seq| seq + 1);
    if tail.is_damaged {
        tracing::error!(segment = %path.display(), "audit segment is damaged; it is kept as it is");
        return Ok((new_segment(dir, next_seq, now_us).map_err(AuditError::io("make a segment in", dir))?, next_seq));
    }
    let reopen = || {
        let file = OpenOptions::new().append(true).open(&path)?;
        if file.metadata()?.len() > tail.good_bytes {
            tracing::warn!(segment = %path.display(), "cut a torn record off the audit log");
            file.set_len(tail.good_bytes)?;
        }
        // What a process that was killed had written may not be durable yet.
        file.sync_all()?;
        sync_dir(dir)?;
        Ok(file)
    };
    let file = reopen().map_err(AuditError::io("open", &path))?;
    let first_time_us = tail.first_time_us.unwrap_or(now_us);
    Ok((Segment { file, first_seq, first_time_us, written_bytes: tail.good_bytes, durable_bytes: tail.good_bytes }, next_seq))
}

/// An empty segment that survives a crash. One of the same name holds nothing durable: it would begin with this record.
fn new_segment(dir: &Path, first_seq: u64, first_time_us: i64) -> io::Result<Segment> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(segment::path_of(dir, first_seq))?;
    file.set_len(0)?;
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(Segment { file, first_seq, first_time_us, written_bytes: 0, durable_bytes: 0 })
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    dir.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

fn cancelled(start: u64, time_us: i64) -> Append {
    let status = Status::Cancelled.as_str().to_owned();
    let end = End { start, status, error_id: None, rows_returned: 0, bytes_returned: 0, duration_us: 0 };
    Append { time_us, entry: Entry::End(end), done: None }
}

/// Roughly; the text is what can be large.
fn size_of_entry(entry: &Entry) -> usize {
    match entry {
        Entry::Start(start) | Entry::Refused { start, .. } => {
            512 + start.statement.len() + start.parameters.as_ref().map_or(0, String::len)
        }
        Entry::Open { .. } | Entry::Resume | Entry::End(_) | Entry::Flush => 256,
    }
}
