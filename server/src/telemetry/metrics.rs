//! Counters, kept in atomics and written in Prometheus' text format. Labels are few and known beforehand, so that nothing
//! a client says can make the number of series grow.

use std::fmt::{self, Write as _};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;

use crate::audit::Status;
use crate::error::ErrorKind;

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    Query,
    /// INSERT, UPDATE, DELETE, MERGE, CREATE TABLE AS.
    Write,
    /// Catalog, users, roles, grants, policies.
    Definition,
    /// SET, USE, SHOW, DESCRIBE, EXPLAIN.
    Session,
    /// Flight SQL's own questions about the catalog.
    Metadata,
}

const KINDS: [StatementKind; 5] =
    [StatementKind::Query, StatementKind::Write, StatementKind::Definition, StatementKind::Session, StatementKind::Metadata];

const STATUSES: [Status; 15] = [
    Status::Ok,
    Status::Cancelled,
    Status::Failed(ErrorKind::Invalid),
    Status::Failed(ErrorKind::NotFound),
    Status::Failed(ErrorKind::AlreadyExists),
    Status::Failed(ErrorKind::PermissionDenied),
    Status::Failed(ErrorKind::Unauthenticated),
    Status::Failed(ErrorKind::Unsupported),
    Status::Failed(ErrorKind::Exhausted),
    Status::Failed(ErrorKind::DeadlineExceeded),
    Status::Failed(ErrorKind::Aborted),
    Status::Failed(ErrorKind::FailedPrecondition),
    Status::Failed(ErrorKind::DataLoss),
    Status::Failed(ErrorKind::Unavailable),
    Status::Failed(ErrorKind::Internal),
];

/// Upper bounds of the duration histogram, in microseconds: from a cached answer to a long report.
const BOUNDS_US: [u64; 14] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000, 120_000_000, 600_000_000];

impl StatementKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Write => "write",
            Self::Definition => "definition",
            Self::Session => "session",
            Self::Metadata => "metadata",
        }
    }
}

type Source = Box<dyn Fn(&mut Exposition) + Send + Sync>;

/// The registry. One for the process, handed to those who count.
pub struct Metrics {
    statements: [[AtomicU64; STATUSES.len()]; KINDS.len()],
    /// By kind: how many took no longer than each bound, and longer than the one before; the last: longer than all.
    durations: [[AtomicU64; BOUNDS_US.len() + 1]; KINDS.len()],
    duration_us: [AtomicU64; KINDS.len()],
    running: AtomicU64,
    rows_returned: AtomicU64,
    bytes_returned: AtomicU64,
    emergencies: AtomicU64,
    emergency_statements: AtomicU64,
    started: SystemTime,
    sources: RwLock<Vec<Source>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            statements: Default::default(),
            durations: Default::default(),
            duration_us: Default::default(),
            running: AtomicU64::new(0),
            rows_returned: AtomicU64::new(0),
            bytes_returned: AtomicU64::new(0),
            emergencies: AtomicU64::new(0),
            emergency_statements: AtomicU64::new(0),
            started: SystemTime::now(),
            sources: RwLock::new(Vec::new()),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// A statement has been let in; [`statement_ended`](Self::statement_ended) follows.
    pub fn statement_started(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    pub fn statement_ended(&self, kind: StatementKind, status: Status, duration: Duration) {
        // An end without a start must not turn into a huge number.
        let _ = self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |running| running.checked_sub(1));
        self.count(kind, status, duration);
    }

    /// A statement that was not let in.
    pub fn statement_refused(&self, kind: StatementKind, status: Status) {
        self.count(kind, status, Duration::ZERO);
    }

    pub fn returned(&self, rows: u64, bytes: u64) {
        self.rows_returned.fetch_add(rows, Ordering::Relaxed);
        self.bytes_returned.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Row policies and masks have been lifted for somebody.
    pub fn emergency_began(&self) {
        self.emergencies.fetch_add(1, Ordering::Relaxed);
    }

    /// A statement was let in under emergency access.
    pub fn emergency_statement(&self) {
        self.emergency_statements.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds figures that are kept elsewhere (sessions, caches, object stores): asked whenever the metrics are read.
    pub fn add_source(&self, source: impl Fn(&mut Exposition) + Send + Sync + 'static) {
        self.sources.write().push(Box::new(source));
    }

    fn count(&self, kind: StatementKind, status: Status, duration: Duration) {
        let kind = kind as usize;
        let status = STATUSES.iter().position(|known| known.as_str() == status.as_str()).unwrap_or(STATUSES.len() - 1);
        self.statements[kind][status].fetch_add(1, Ordering::Relaxed);
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| duration_us <= *bound).unwrap_or(BOUNDS_US.len());
        self.durations[kind][bucket].fetch_add(1, Ordering::Relaxed);
        self.duration_us[kind].fetch_add(duration_us, Ordering::Relaxed);
    }

    /// All of it, in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = Exposition::default();
        out.gauge("lazaret_build_info", "The version that runs.", &[Sample::labelled(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)]);
        out.gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970.",
            &[Sample::plain(seconds(self.started))],
        );
        if let Some(bytes) = resident_bytes() {
            out.gauge("process_resident_memory_bytes", "Memory of the process.", &[Sample::plain(bytes)]);
        }
        self.render_statements(&mut out);
        for source in self.sources.read().iter() {
            source(&mut out);
        }
        out.text
    }

    fn render_statements(&self, out: &mut Exposition) {
        let mut counts = Vec::new();
        for (kind, by_status) in KINDS.iter().zip(&self.statements) {
            for (status, count) in STATUSES.iter().zip(by_status) {
                let count = count.load(Ordering::Relaxed);
                // A series appears with its first statement, but success is there from the start.
                if count > 0 || *status == Status::Ok {
                    counts.push(Sample::labelled(&[("kind", kind.as_str()), ("status", status.as_str())], float(count)));
                }
            }
        }
        out.counter("lazaret_statements_total", "Statements that ended or were refused.", &counts);
        out.gauge("lazaret_statements_running", "Statements that run.", &[Sample::plain(float(self.running.load(Ordering::Relaxed)))]);
        out.counter(
            "lazaret_rows_returned_total",
            "Rows sent to clients.",
            &[Sample::plain(float(self.rows_returned.load(Ordering::Relaxed)))],
        );
        out.counter(
            "lazaret_bytes_returned_total",
            "Bytes of rows sent to clients.",
            &[Sample::plain(float(self.bytes_returned.load(Ordering::Relaxed)))],
        );
        out.counter(
            "lazaret_emergency_accesses_total",
            "Emergency accesses that began.",
            &[Sample::plain(float(self.emergencies.load(Ordering::Relaxed)))],
        );
        out.counter(
            "lazaret_emergency_statements_total",
            "Statements that were let in under emergency access.",
            &[Sample::plain(float(self.emergency_statements.load(Ordering::Relaxed)))],
        );
        out.head("lazaret_statement_duration_seconds", "How long statements took.", "histogram");
        for (index, kind) in KINDS.iter().enumerate() {
            let mut total = 0;
            for (bucket, count) in self.durations[index].iter().enumerate() {
                total += count.load(Ordering::Relaxed);
                let bound = BOUNDS_US.get(bucket).map_or_else(|| "+Inf".to_owned(), |bound| (float(*bound) / 1e6).to_string());
                out.line(
                    "lazaret_statement_duration_seconds_bucket",
                    &Sample::labelled(&[("kind", kind.as_str()), ("le", &bound)], float(total)),
                );
            }
            let sum = float(self.duration_us[index].load(Ordering::Relaxed)) / 1e6;
            out.line("lazaret_statement_duration_seconds_sum", &Sample::labelled(&[("kind", kind.as_str())], sum));
            out.line("lazaret_statement_duration_seconds_count", &Sample::labelled(&[("kind", kind.as_str())], float(total)));
        }
    }
}

/// One value with its labels.
#[derive(Clone, Debug)]
pub struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    pub fn plain(value: f64) -> Self {
        Self { labels: Vec::new(), value }
    }

    pub fn labelled(labels: &[(&str, &str)], value: f64) -> Self {
        Self { labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(), value }
    }
}

/// Metrics as text, under way.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    pub fn counter(&mut self, name: &str, help: &str, samples: &[Sample]) {
        self.family(name, help, "counter", samples);
    }

    pub fn gauge(&mut self, name: &str, help: &str, samples: &[Sample]) {
        self.family(name, help, "gauge", samples);
    }

    fn family(&mut self, name: &str, help: &str, kind: &str, samples: &[Sample]) {
        self.head(name, help, kind);
        for sample in samples {
            self.line(name, sample);
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, sample: &Sample) {
        self.text.push_str(name);
        for (index, (label, value)) in sample.labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{value}\"", if index == 0 { "{" } else { "," });
        }
        let _ = writeln!(self.text, "{} {}", if sample.labels.is_empty() { "" } else { "}" }, sample.value);
    }
}

/// Exact up to 2^53, as Prometheus' own numbers are.
#[allow(clippy::cast_precision_loss, clippy::as_conversions)]
fn float(count: u64) -> f64 {
    count as f64
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(float(kib) * 1024.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_counted_by_kind_and_status() {
        let metrics = Metrics::default();
        metrics.statement_started();
        metrics.statement_started();
        metrics.statement_ended(StatementKind::Query, Status::Ok, Duration::from_millis(3));
        metrics.statement_refused(StatementKind::Definition, Status::Failed(ErrorKind::PermissionDenied));
        metrics.returned(10, 80);
        let text = metrics.render();
        for line in [
            "lazaret_statements_total{kind=\"query\",status=\"ok\"} 1",
            "lazaret_statements_total{kind=\"definition\",status=\"permission_denied\"} 1",
            "lazaret_statements_running 1",
            "lazaret_rows_returned_total 10",
            "lazaret_statement_duration_seconds_bucket{kind=\"query\",le=\"0.0025\"} 0",
            "lazaret_statement_duration_seconds_bucket{kind=\"query\",le=\"0.005\"} 1",
            "lazaret_statement_duration_seconds_bucket{kind=\"query\",le=\"+Inf\"} 1",
            "lazaret_statement_duration_seconds_sum{kind=\"query\"} 0.003",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes "));
    }

    #[test]
    fn figures_from_elsewhere_are_asked_for_and_escaped() {
        let metrics = Metrics::default();
        metrics.add_source(|out| out.gauge("lazaret_cache_bytes", "Bytes in caches.", &[Sample::labelled(&[("cache", "a\"b")], 7.0)]));
        assert!(metrics.render().ends_with(
            "# HELP lazaret_cache_bytes Bytes in caches.\n# TYPE lazaret_cache_bytes gauge\nlazaret_cache_bytes{cache=\"a\\\"b\"} 7\n"
        ));
    }

    #[test]
    fn every_status_has_its_own_series() {
        let names: std::collections::BTreeSet<_> = STATUSES.iter().map(|status| status.as_str()).collect();
        assert_eq!(names.len(), STATUSES.len());
        assert!(KINDS.iter().enumerate().all(|(index, kind)| *kind as usize == index));
    }
}
