#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use datafusion::prelude::SessionContext;

use super::*;

pub(super) fn config() -> AuditConfig {
    AuditConfig::new(3650, AuditKey::new([7; 32]))
}

pub(super) fn record(statement: &str) -> StartRecord {
    StartRecord {
        statement_id: format!("id of {statement}"),
        session_id: "session".to_owned(),
        principal: "ada".to_owned(),
        roles: vec!["analyst".to_owned()],
        issuer: "local".to_owned(),
        subject: "ada".to_owned(),
        token_id: Some("jti".to_owned()),
        statement: statement.to_owned(),
        tables: vec!["lazaret.public.t".to_owned()],
        columns: vec!["lazaret.public.t.a".to_owned(), "lazaret.public.t.b".to_owned()],
        policies: serde_json::json!({"lazaret.public.t": {"snapshot": 3}}),
        ..StartRecord::default()
    }
}

fn rows(log: &AuditLog) -> Vec<AuditRow> {
    log.read().unwrap().map(Result::unwrap).collect()
}

/// Statement, decision and status of each row.
fn outcomes(log: &AuditLog) -> Vec<(String, &'static str, String)> {
    rows(log).into_iter().map(|row| (row.record.statement, row.decision.as_str(), row.status)).collect()
}

fn outcome(statement: &str, decision: &'static str, status: &str) -> (String, &'static str, String) {
    (statement.to_owned(), decision, status.to_owned())
}

#[tokio::test]
async fn a_statement_is_one_row_with_its_start_and_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(&dir.path().join("audit"), config()).unwrap();
    let mut done = log.start(record("SELECT 1")).await.unwrap();
    done.returned(2, 16);
    done.returned(1, 8);
    done.finish_durably(Status::Ok, None).await.unwrap();
    let failed = log.start(record("SELECT 1/0")).await.unwrap();
    failed.finish(Status::Failed(ErrorKind::Internal), Some("e1".to_owned()));
    drop(log.start(record("SELECT dropped")).await.unwrap());
    log.refused(record("SELECT secret"), Decision::Deny, Status::Failed(ErrorKind::NotFound), None).await.unwrap();
    let refused = log.start(record("DROP TABLE t")).await.unwrap();
    refused.finish_durably(Status::Failed(ErrorKind::PermissionDenied), None).await.unwrap();
    let running = log.start(record("SELECT running")).await.unwrap();
    log.flush().await.unwrap();
    let seen = rows(&log);
    assert_eq!((seen[0].rows_returned, seen[0].bytes_returned), (Some(3), Some(24)));
    assert_eq!(seen[0].record.policies.to_string(), r#"{"lazaret.public.t":{"snapshot":3}}"#);
    assert_eq!(seen[0].statement_hash, hash("SELECT 1"));
    assert_eq!(seen[0].record.token_id, Some(hash("jti")));
    assert_eq!(seen[1].error_id.as_deref(), Some("e1"));
    assert_eq!(
        outcomes(&log),
        [
            outcome("SELECT 1", "allow", "ok"),
            outcome("SELECT 1/0", "allow", "internal"),
            outcome("SELECT dropped", "allow", "cancelled"),
            outcome("SELECT secret", "deny", "not_found"),
            outcome("DROP TABLE t", "deny", "permission_denied"),
            outcome("SELECT running", "allow", "running"),
        ]
    );
    drop(running);
}

#[tokio::test]
async fn the_sequence_goes_on_after_a_restart_and_what_ran_was_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), config()).unwrap();
    let first = log.start(record("SELECT 1")).await.unwrap();
    let seq = first.seq();
    // As after SIGKILL: neither the end nor anything else is written any more.
    std::mem::forget(first);
    drop(log);
    let log = AuditLog::open(dir.path(), config()).unwrap();
    assert_eq!(outcomes(&log), [outcome("SELECT 1", "allow", "interrupted")]);
    let second = log.start(record("SELECT 2")).await.unwrap();
    assert!(second.seq() > seq);
    second.finish_durably(Status::Ok, None).await.unwrap();
    assert_eq!(outcomes(&log), [outcome("SELECT 1", "allow", "interrupted"), outcome("SELECT 2", "allow", "ok")]);
    let mut seqs: Vec<_> = rows(&log).iter().map(|row| row.seq).collect();
    seqs.dedup();
    assert_eq!(seqs.len(), 2);
}

#[tokio::test]
async fn a_torn_record_is_cut_off_and_a_damaged_one_is_kept_as_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let path = segment::path_of(dir.path(), 1);
    let log = AuditLog::open(dir.path(), config()).unwrap();
    log.start(record("SELECT 1")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    drop(log);
    for torn in [&b"{\"seq\":9,\"ki"[..], b"{\"seq\":9,\"kind\":\"resume\",\"time_us\":1,\"crc\":\"00000000\"}\n", b"\0\0\0\0"] {
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole, torn].concat()).unwrap();
        let log = AuditLog::open(dir.path(), config()).unwrap();
        assert_eq!(outcomes(&log), [outcome("SELECT 1", "allow", "ok")]);
        drop(log);
        assert!(fs::read(&path).unwrap().starts_with(&whole));
        assert_eq!(segment::list(dir.path()).unwrap(), [1]);
    }
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[30] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let log = AuditLog::open(dir.path(), config()).unwrap();
    log.start(record("SELECT 2")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), damaged);
    assert_eq!(segment::list(dir.path()).unwrap().len(), 2);
    assert!(outcomes(&log).contains(&outcome("SELECT 2", "allow", "ok")));
}

#[tokio::test]
async fn segments_are_closed_by_size_and_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), AuditConfig { segment_bytes: 2000, ..config() }).unwrap();
    let long = log.start(record("SELECT long")).await.unwrap();
    for number in 0..20 {
        log.start(record(&format!("SELECT {number}"))).await.unwrap().finish(Status::Ok, None);
    }
    long.finish_durably(Status::Ok, None).await.unwrap();
    assert!(segment::list(dir.path()).unwrap().len() > 3);
    let seen = outcomes(&log);
    assert_eq!(seen.len(), 21);
    assert!(seen.iter().all(|(_, _, status)| status == "ok"), "{seen:?}");
    assert_eq!(seen[20].0, "SELECT long");
}

/// A clock that only the tests move, each in a static of its own.
macro_rules! clock {
    ($days:ident, $clock:ident) => {
        static $days: AtomicI64 = AtomicI64::new(20_000);

        fn $clock() -> SystemTime {
            UNIX_EPOCH + Duration::from_secs(u64::try_from($days.load(Ordering::SeqCst)).unwrap() * 24 * 3600)
        }
    };
}

clock!(DAYS, of_a_log_that_is_written);

#[tokio::test]
async fn segments_past_retention_are_removed_whole() {
    let dir = tempfile::tempdir().unwrap();
    let config = AuditConfig { retention_days: 10, clock: of_a_log_that_is_written, ..config() };
    let log = AuditLog::open(dir.path(), config.clone()).unwrap();
    for day in 0..20 {
        DAYS.store(20_000 + day, Ordering::SeqCst);
        log.start(record(&format!("SELECT {day}"))).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    }
    let seen: Vec<_> = rows(&log).into_iter().map(|row| row.record.statement).collect();
    assert_eq!(seen.first().unwrap(), "SELECT 9");
    assert_eq!(seen.last().unwrap(), "SELECT 19");
    let verified = verify_folder(dir.path(), Some(&config.key), &[]).unwrap();
    assert!(verified.first.unwrap().seq > 1 && verified.with_head);
    // Retention has an anchor; whoever takes more than it away is found.
    let segments = segment::list(dir.path()).unwrap();
    fs::remove_file(segment::path_of(dir.path(), segments[0])).unwrap();
    let VerifyError::Broken(broken) = verify_folder(dir.path(), Some(&config.key), &[]).unwrap_err() else { panic!() };
    assert_eq!((broken.seq, broken.what), (segments[0], format!("records {} to {} are missing", segments[0], segments[1] - 1)));
}

clock!(DAYS_AT_START, of_a_log_that_is_opened);

#[tokio::test]
async fn retention_is_looked_after_at_the_start_and_in_an_idle_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = AuditConfig { retention_days: 10, clock: of_a_log_that_is_opened, housekeeping: Duration::from_millis(1), ..config() };
    let log = AuditLog::open(dir.path(), config.clone()).unwrap();
    log.start(record("SELECT 1")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    drop(log);
    DAYS_AT_START.store(20_030, Ordering::SeqCst);
    let log = AuditLog::open(dir.path(), config.clone()).unwrap();
    assert_eq!(outcomes(&log), []);
    log.start(record("SELECT 2")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    DAYS_AT_START.store(20_060, Ordering::SeqCst);
    // Nothing is written any more: each of these waits for a turn of the writer, which keeps house after it.
    while !outcomes(&log).is_empty() {
        log.flush().await.unwrap();
    }
    verify_folder(dir.path(), Some(&config.key), &[]).unwrap();
    drop(log);
    let log = AuditLog::open(dir.path(), config.clone()).unwrap();
    log.start(record("SELECT 3")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    assert_eq!(verify_folder(dir.path(), Some(&config.key), &[]).unwrap().records, 3);
}

#[tokio::test]
async fn when_it_cannot_be_written_statements_fail_and_later_go_on() {
    let root = tempfile::tempdir().unwrap();
    let (dir, away) = (root.path().join("audit"), root.path().join("away"));
    // Each record begins a new segment, so that a folder that is gone is a failed write.
    let log = AuditLog::open(&dir, AuditConfig { segment_bytes: 1, ..config() }).unwrap();
    let running = log.start(record("SELECT running")).await.unwrap();
    fs::rename(&dir, &away).unwrap();
    let error = log.start(record("SELECT refused")).await.unwrap_err();
    assert!(matches!(error, AuditError::Write(_)), "{error}");
    assert!(!log.healthy());
    running.finish(Status::Ok, None);
    assert!(log.start(record("SELECT refused")).await.is_err());
    assert_eq!(Error::from(error).kind, ErrorKind::Unavailable);
    fs::rename(&away, &dir).unwrap();
    log.start(record("SELECT again")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    assert!(log.healthy());
    assert_eq!(outcomes(&log), [outcome("SELECT running", "allow", "ok"), outcome("SELECT again", "allow", "ok")]);
    drop(log);
    let log = AuditLog::open(&dir, config()).unwrap();
    assert_eq!(outcomes(&log).len(), 2);
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_is_recorded_as_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), config()).unwrap();
    let (done, result) = oneshot::channel();
    drop(result);
    log.send(Entry::Start(start_entry(record("SELECT gone"))), Some(done)).unwrap();
    log.flush().await.unwrap();
    log.flush().await.unwrap();
    assert_eq!(outcomes(&log), [outcome("SELECT gone", "allow", "cancelled")]);
}

#[tokio::test]
async fn many_write_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), AuditConfig { segment_bytes: 20_000, ..config() }).unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let log = log.clone();
            tokio::spawn(async move {
                let statement = log.start(record(&format!("SELECT {number}"))).await.unwrap();
                let seq = statement.seq();
                statement.finish(Status::Ok, None);
                seq
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for task in tasks {
        acknowledged.push(task.await.unwrap());
    }
    log.flush().await.unwrap();
    acknowledged.sort_unstable();
    let mut seen: Vec<_> = rows(&log).iter().map(|row| row.seq).collect();
    seen.sort_unstable();
    assert_eq!(seen, acknowledged);
}

#[tokio::test]
async fn it_is_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), config()).unwrap();
    for number in 0..3000 {
        log.start(record(&format!("SELECT {number}"))).await.unwrap().finish(Status::Ok, None);
    }
    log.flush().await.unwrap();
    let context = SessionContext::new();
    context.register_table("audit", audit_table(&log).unwrap()).unwrap();
    let batches = context
        .sql("SELECT count(*) AS n, count(DISTINCT seq) AS seqs, max(cardinality(columns)) AS columns, min(status) AS status FROM audit")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let text = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
    assert!(text.contains("| 3000 | 3000 | 2       | ok     |"), "{text}");
    let batches = context.sql("SELECT * FROM audit LIMIT 5").await.unwrap().collect().await.unwrap();
    assert_eq!(batches.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 5);
    assert_eq!(batches[0].schema(), audit_schema());
}

const CRASH_DIR: &str = "LAZARET_AUDIT_CRASH_DIR";

/// What the process that is to be killed does: it appends for ever, and says what has been acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by nothing_acknowledged_is_lost_when_the_process_is_killed"]
async fn crash_child() {
    let Some(dir) = std::env::var_os(CRASH_DIR) else { return };
    let log = AuditLog::open(Path::new(&dir), AuditConfig { segment_bytes: 20_000, ..config() }).unwrap();
    let workers = (0..4).map(|_| {
        let log = log.clone();
        tokio::spawn(async move {
            loop {
                let statement = log.start(record("SELECT 1")).await.unwrap();
                let seq = statement.seq();
                println!("start {seq}");
                statement.finish_durably(Status::Ok, None).await.unwrap();
                println!("end {seq}");
            }
        })
    });
    futures::future::join_all(workers).await;
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut started, mut ended) = (Vec::new(), Vec::new());
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "audit::tests::crash_child", "--ignored", "--nocapture"])
            .env(CRASH_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |line: String| match line.split_once(' ') {
            Some(("start", seq)) => started.push(seq.parse::<u64>().unwrap()),
            Some(("end", seq)) => ended.push(seq.parse::<u64>().unwrap()),
            _ => {}
        };
        for line in lines.by_ref().take(20 + round * 17) {
            take(line.unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was said before the kill and not read yet counts too; a last line that is cut off does not.
        let mut rest: Vec<_> = lines.map_while(Result::ok).collect();
        rest.pop();
        rest.into_iter().for_each(&mut take);
        verify_folder(dir.path(), Some(&config().key), &[]).unwrap();
        // A kill does not tear a write, but a power cut does.
        let last = segment::path_of(dir.path(), *segment::list(dir.path()).unwrap().last().unwrap());
        OpenOptions::new().append(true).open(last).unwrap().write_all(b"{\"seq\":").unwrap();
    }
    assert!(verify_folder(dir.path(), Some(&config().key), &[]).unwrap().is_torn);
    let log = AuditLog::open(dir.path(), config()).unwrap();
    assert!(!verify_folder(dir.path(), Some(&config().key), &[]).unwrap().is_torn);
    let seen = rows(&log);
    assert!(ended.len() > 8 * 4, "{}", ended.len());
    for seq in &ended {
        assert_eq!(seen.iter().filter(|row| row.seq == *seq && row.status == "ok").count(), 1, "end of {seq}");
    }
    for seq in &started {
        assert_eq!(seen.iter().filter(|row| row.seq == *seq).count(), 1, "start of {seq}");
    }
    assert!(seen.iter().all(|row| row.status == "ok" || row.status == "interrupted"));
}
