//! What somebody may do to the files, and what of it is found.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use super::*;
use crate::audit::tests::{config, record};
use crate::audit::{AuditConfig, AuditLog, Status};

fn key() -> AuditKey {
    config().key
}

fn small() -> AuditConfig {
    AuditConfig { segment_bytes: 1500, ..config() }
}

/// A log of some segments.
async fn written(dir: &Path) {
    let log = AuditLog::open(dir, small()).unwrap();
    for number in 0..6 {
        log.start(record(&format!("SELECT {number}"))).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    }
}

fn verify(dir: &Path) -> Result<Verified, VerifyError> {
    verify_folder(dir, Some(&key()), &[])
}

fn broken(dir: &Path) -> Broken {
    match verify(dir) {
        Err(VerifyError::Broken(broken)) => broken,
        other => panic!("{other:?}"),
    }
}

/// The lines of each segment.
fn lines(dir: &Path) -> Vec<(PathBuf, Vec<String>)> {
    let segments = segment::list(dir).unwrap().into_iter().map(|first_seq| segment::path_of(dir, first_seq));
    segments.map(|path| (path.clone(), fs::read_to_string(path).unwrap().split_inclusive('\n').map(str::to_owned).collect())).collect()
}

fn seq_of(line: &str) -> u64 {
    segment::decode(line.as_bytes()).unwrap().seq
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_whole_log_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let all = lines(dir.path());
    assert!(all.len() > 3);
    let records: usize = all.iter().map(|(_, lines)| lines.len()).sum();
    let verified = verify(dir.path()).unwrap();
    let expected = u64::try_from(records).unwrap();
    assert_eq!((verified.records, verified.first.unwrap().seq, verified.last.unwrap().seq), (expected, 1, expected));
    assert_eq!((verified.segments, verified.sealed + 1), (all.len() as u64, all.len() as u64));
    assert!(verified.with_head && verified.with_key && !verified.is_torn);
    // What was noted of it must stay true.
    let last = verified.last.unwrap();
    verify_folder(dir.path(), None, &[(last.seq, last.hash)]).unwrap();
    for (seq, hash) in [(last.seq, Link::of(b"")), (last.seq + 1, last.hash), (0, last.hash)] {
        assert!(matches!(verify_folder(dir.path(), Some(&key()), &[(seq, hash)]), Err(VerifyError::Broken(_))), "{seq}");
    }
    // Copies of some segments are a chain too.
    let paths: Vec<_> = all.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(verify_files(&paths[1..3], &[]).unwrap().segments, 2);
    assert!(matches!(verify_files(&[paths[0].clone(), paths[2].clone()], &[]), Err(VerifyError::Broken(_))));
}

#[tokio::test]
async fn every_changed_byte_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    for (path, lines) in lines(dir.path()) {
        let whole = fs::read(&path).unwrap();
        let mut offset = 0;
        for line in lines {
            let seq = seq_of(&line);
            // Here and there, and the ends of the line, where what is hashed meets the hash.
            for at in (0..line.len()).step_by(97).chain(line.len() - 80..line.len()) {
                let mut changed = whole.clone();
                changed[offset + at] ^= 1;
                fs::write(&path, &changed).unwrap();
                let broken = broken(dir.path());
                assert_eq!((broken.segment.as_str(), broken.seq), (name(&path).as_str(), seq), "byte {at} of {line}: {broken}");
            }
            offset += line.len();
        }
        fs::write(&path, &whole).unwrap();
    }
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn every_record_that_is_removed_or_moved_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    for (path, lines) in lines(dir.path()) {
        for at in 0..lines.len() {
            let seq = seq_of(&lines[at]);
            let mut without = lines.clone();
            without.remove(at);
            fs::write(&path, without.concat()).unwrap();
            let found = broken(dir.path());
            assert_eq!(found.seq, seq, "{found}");
            assert!(found.what.contains("missing"), "{found}");
            if at > 0 {
                let mut swapped = lines.clone();
                swapped.swap(at - 1, at);
                fs::write(&path, swapped.concat()).unwrap();
                let found = broken(dir.path());
                assert_eq!((found.segment.as_str(), found.seq), (name(&path).as_str(), seq - 1), "{found}");
            }
            let doubled = [&lines[..=at], &lines[at..]].concat().concat();
            fs::write(&path, doubled).unwrap();
            assert_eq!(broken(dir.path()).segment, name(&path));
        }
        fs::write(&path, lines.concat()).unwrap();
    }
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn every_segment_that_is_removed_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    for (path, lines) in lines(dir.path()) {
        let (first, last) = (seq_of(&lines[0]), seq_of(lines.last().unwrap()));
        fs::remove_file(&path).unwrap();
        let found = broken(dir.path());
        assert_eq!(found.seq, first, "{found}");
        let range = if first == last { format!("record {first} is missing") } else { format!("records {first} to {last} are missing") };
        assert!(found.what.starts_with(&range), "{found}");
        fs::write(&path, lines.concat()).unwrap();
    }
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn a_tail_that_is_cut_off_is_found_wherever_it_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let mut all = lines(dir.path());
    while let Some((path, lines)) = all.pop() {
        let whole = lines.concat();
        let mut kept = whole.len();
        for line in lines.iter().rev() {
            for cut in [kept - 1, kept - line.len() / 2, kept - line.len()] {
                fs::write(&path, &whole[..cut]).unwrap();
                let found = broken(dir.path());
                assert_eq!(found.seq, seq_of(line), "{found}");
            }
            kept -= line.len();
        }
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(broken(dir.path()).seq, 1, "the whole log");
}

/// As somebody would do it who knows how the log is made, and does not have the server's key.
fn chained_anew(dir: &Path, all: &[(PathBuf, Vec<String>)]) -> Link {
    let mut prev = Link::NONE;
    for (path, lines) in all {
        let mut out = Vec::new();
        for line in lines {
            let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
            let fields = value.as_object_mut().unwrap();
            fields.remove("hash");
            fields.insert("prev".to_owned(), prev.to_string().into());
            if fields["kind"] == "seal" {
                fields.insert("last_hash".to_owned(), prev.to_string().into());
            }
            let mut body = serde_json::to_vec(&value).unwrap();
            body.pop();
            prev = Link::of(&body);
            out.extend_from_slice(&body);
            writeln!(out, ",\"hash\":\"{prev}\"}}").unwrap();
        }
        fs::write(path, out).unwrap();
    }
    let Found::Is(head) = head::read(dir, None).unwrap() else { panic!() };
    let forged = serde_json::json!({
        "turn": head.turn + 1, "seq": head.seq, "hash": prev, "first_seq": head.first_seq, "first_prev": head.first_prev,
        "mac": Link::NONE,
    });
    fs::write(dir.join("head"), format!("{forged}\n")).unwrap();
    prev
}

#[tokio::test]
async fn a_log_that_was_written_anew_is_found_with_the_key_only() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let mut all = lines(dir.path());
    all[0].1[1] = all[0].1[1].replace("SELECT 0", "SELECT 9");
    chained_anew(dir.path(), &all);
    verify_folder(dir.path(), None, &[]).unwrap();
    let found = broken(dir.path());
    assert!(found.what.contains("was not made with this server's key"), "{found}");
    // Without any seal it is the head that tells.
    let last = dir.path().join(name(&all.last().unwrap().0));
    for (path, _) in &all[..all.len() - 1] {
        fs::remove_file(path).unwrap();
    }
    assert!(last.exists());
    assert!(broken(dir.path()).what.contains("\"head\" is damaged, or was not written by this server"));
}

#[tokio::test]
async fn what_is_not_sealed_yet_is_not_vouched_for_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), config()).unwrap();
    log.start(record("SELECT 1")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    drop(log);
    let (mut all, head) = (lines(dir.path()), fs::read(dir.path().join("head")).unwrap());
    all[0].1[1] = all[0].1[1].replace("SELECT 1", "SELECT 9");
    chained_anew(dir.path(), &all);
    fs::write(dir.path().join("head"), &head).unwrap();
    assert!(broken(dir.path()).what.contains("another than the head of the log says"));
    drop(AuditLog::open(dir.path(), config()).unwrap());
    let found = broken(dir.path());
    assert!(found.what.contains("was contradicted by the records when the server started here"), "{found}");
}

#[tokio::test]
async fn records_that_the_head_did_not_know_of_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), config()).unwrap();
    let head = fs::read(dir.path().join("head")).unwrap();
    log.start(record("SELECT 1")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    drop(log);
    // As after a power cut.
    fs::write(dir.path().join("head"), &head).unwrap();
    verify(dir.path()).unwrap();
    drop(AuditLog::open(dir.path(), config()).unwrap());
    assert_eq!(verify(dir.path()).unwrap().newer, [(4, 2)]);
}

#[tokio::test]
async fn a_torn_write_is_no_break_and_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let (path, _) = lines(dir.path()).pop().unwrap();
    let append = |bytes: &[u8]| OpenOptions::new().append(true).open(&path).unwrap().write_all(bytes).unwrap();
    for torn in [&b"{\"seq\":"[..], b"\0\0\0", b"{\"seq\":99}\n"] {
        append(torn);
        assert!(verify(dir.path()).unwrap().is_torn);
        drop(AuditLog::open(dir.path(), config()).unwrap());
        assert!(!verify(dir.path()).unwrap().is_torn);
    }
    append(b"{\"seq\":");
    assert!(verify_files(std::slice::from_ref(&path), &[]).unwrap().is_torn);
}

#[tokio::test]
async fn what_was_cut_off_stays_known_and_can_be_put_back() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let (path, lines) = lines(dir.path()).pop().unwrap();
    let (first_lost, last_lost) = (seq_of(&lines[0]), seq_of(lines.last().unwrap()));
    fs::remove_file(&path).unwrap();
    let log = AuditLog::open(dir.path(), small()).unwrap();
    log.start(record("SELECT later")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    drop(log);
    let found = broken(dir.path());
    assert_eq!((found.seq, found.what), (first_lost, missing(first_lost, last_lost)));
    assert!(segment::list(dir.path()).unwrap().contains(&(last_lost + 1)), "no number is used twice");
    fs::write(&path, lines.concat()).unwrap();
    verify(dir.path()).unwrap();
}

#[tokio::test]
async fn a_head_that_is_gone_is_found_and_stays_known() {
    for (lost, word) in [(None, "missing"), (Some(&b"{}\n"[..]), "damaged")] {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path()).await;
        let head = dir.path().join("head");
        match lost {
            None => fs::remove_file(&head).unwrap(),
            Some(bytes) => fs::write(&head, bytes).unwrap(),
        }
        assert!(broken(dir.path()).what.contains(word));
        // So that nobody can cut the log off and wait for a restart.
        drop(AuditLog::open(dir.path(), small()).unwrap());
        let found = broken(dir.path());
        assert!(found.what.contains(&format!("was {word} when the server started here")), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_beside_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), small()).unwrap();
    let writing = tokio::spawn(async move {
        loop {
            log.start(record("SELECT 1")).await.unwrap().finish(Status::Ok, None);
        }
    });
    let mut last = 0;
    // Through some segments, however busy the machine is.
    while last < 100 {
        let path = dir.path().to_owned();
        let verified = tokio::task::spawn_blocking(move || verify(&path)).await.unwrap().unwrap();
        assert!(verified.records >= last);
        last = verified.records;
    }
    writing.abort();
}

/// The lines that servers wrote before there was a chain.
fn old_lines(from: u64, to: u64) -> String {
    let line = |seq: u64| {
        let start = format!(
            r#"{{"seq":{seq},"time_us":{seq},"kind":"start","statement_id":"i{seq}","session_id":"s","principal":"ada","roles":[],"issuer":"local","subject":"ada","token_id":null,"client_address":null,"client_driver":null,"statement":"SELECT {seq}","statement_hash":"h","parameters":null,"tables":[],"columns":[],"policies":[]"#
        );
        let end = format!(
            r#"{{"seq":{seq},"time_us":{seq},"kind":"end","start":{},"status":"ok","error_id":null,"rows_returned":1,"bytes_returned":8,"duration_us":5"#,
            seq - 1
        );
        let body = if seq % 2 == 1 { start } else { end };
        let crc = crc32fast::hash(body.as_bytes());
        format!("{body},\"crc\":\"{crc:08x}\"}}\n")
    };
    (from..=to).map(line).collect()
}

#[tokio::test]
async fn a_log_from_before_the_chain_goes_on_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (segment::path_of(dir.path(), 1), segment::path_of(dir.path(), 5));
    fs::write(&first, old_lines(1, 4)).unwrap();
    // Its last record was torn by a kill.
    fs::write(&second, format!("{}{{\"seq\":9", old_lines(5, 8))).unwrap();
    let before = verify(dir.path()).unwrap();
    assert_eq!((before.records, before.before_chain), (0, 8));
    let log = AuditLog::open(dir.path(), AuditConfig { clock: std::time::SystemTime::now, ..config() }).unwrap();
    log.start(record("SELECT new")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
    let read: Vec<_> = log.read().unwrap().map(|row| row.unwrap().record.statement).collect();
    // Past its retention the first segment is gone: the next one begins in 1970.
    assert_eq!(read, ["SELECT 5", "SELECT 7", "SELECT new"]);
    assert!(!first.exists());
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().before_chain, 4);
}

/// It was 1970.
fn early() -> std::time::SystemTime {
    std::time::UNIX_EPOCH
}

#[tokio::test]
async fn nothing_of_a_log_from_before_the_chain_is_lost_or_can_be_changed_later() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (segment::path_of(dir.path(), 1), segment::path_of(dir.path(), 5));
    fs::write(&first, old_lines(1, 4)).unwrap();
    fs::write(&second, old_lines(5, 8)).unwrap();
    for round in 0..2 {
        let log = AuditLog::open(dir.path(), AuditConfig { clock: early, ..config() }).unwrap();
        log.start(record("SELECT new")).await.unwrap().finish_durably(Status::Ok, None).await.unwrap();
        let read: Vec<_> = log.read().unwrap().map(|row| row.unwrap().record.statement).collect();
        assert_eq!(read[..5], ["SELECT 1", "SELECT 3", "SELECT 5", "SELECT 7", "SELECT new"]);
        let verified = verify(dir.path()).unwrap();
        assert_eq!((verified.before_chain, verified.first.unwrap().seq), (8, 9));
        assert_eq!(verified.records, if round == 0 { 4 } else { 7 });
    }
    let old = fs::read_to_string(&first).unwrap();
    fs::write(&first, old_lines(1, 3)).unwrap();
    assert!(broken(dir.path()).what.contains("was changed since the chain began"));
    fs::remove_file(&first).unwrap();
    assert!(broken(dir.path()).what.contains("are missing"));
    fs::write(&first, &old).unwrap();
    let more = segment::path_of(dir.path(), 7);
    fs::write(&more, old_lines(7, 8)).unwrap();
    assert!(broken(dir.path()).what.contains("does not know"));
    fs::remove_file(&more).unwrap();
    fs::remove_file(&second).unwrap();
    assert!(broken(dir.path()).what.contains("is missing"));
    fs::write(&second, old_lines(5, 8)).unwrap();
    verify(dir.path()).unwrap();
    // An old line in the chain is no record of it.
    let (path, lines) = lines(dir.path()).pop().unwrap();
    let last = seq_of(lines.last().unwrap());
    fs::write(&path, format!("{}{}", lines.concat(), old_lines(last + 1, last + 1))).unwrap();
    assert!(broken(dir.path()).what.contains("without a hash"));
}
