//! The statements that run, and the last that ended: what `system.queries` shows, and what KILL QUERY stops.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use datafusion::execution::memory_pool::MemoryPool;
use lazaret_auth::PrincipalName;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::audit::Status;
use crate::error::{Error, ErrorKind};

/// Statements that have ended and are still shown.
const ENDED: usize = 1000;

/// Of a text that is shown. The audit has it whole.
const TEXT_CHARS: usize = 4096;

/// All of it for the process; each statement takes itself off the list when it ends.
#[derive(Default)]
pub struct Activity {
    running: Mutex<BTreeMap<String, Arc<Entry>>>,
    ended: Mutex<VecDeque<ShownStatement>>,
}

/// What is known of a statement when it begins.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As in the audit.
    pub statement_id: String,
    pub session_id: String,
    pub principal: PrincipalName,
    pub client_address: Option<String>,
    pub client_driver: Option<String>,
    /// Passwords and secrets already taken out.
    pub statement: String,
    /// The emergency access that it runs under.
    pub emergency: Option<String>,
}

/// One statement as it is now, or as it ended.
#[derive(Clone, Debug)]
pub struct ShownStatement {
    pub facts: Facts,
    pub started: SystemTime,
    pub duration_us: u64,
    /// `running`, or the status of the audit.
    pub state: &'static str,
    pub rows: u64,
    pub bytes: u64,
    /// What its operators hold now, where they count it.
    pub memory_bytes: Option<u64>,
}

struct Entry {
    facts: Facts,
    started: SystemTime,
    clock: Instant,
    rows: AtomicU64,
    bytes: AtomicU64,
    pools: Mutex<Vec<Arc<dyn MemoryPool>>>,
    stop: CancellationToken,
}

/// A statement on the list. Dropped without [`end`](Self::end) it was cancelled.
pub struct Listed {
    activity: Arc<Activity>,
    entry: Arc<Entry>,
    status: Status,
}

impl Activity {
    /// Puts a statement on the list. It stops when it is killed, or with its session, whose token is given.
    pub fn begin(self: &Arc<Self>, mut facts: Facts, session: &CancellationToken) -> Listed {
        if let Some((end, _)) = facts.statement.char_indices().nth(TEXT_CHARS) {
            facts.statement.truncate(end);
            facts.statement.push('…');
        }
        let entry = Arc::new(Entry {
            facts,
            started: SystemTime::now(),
            clock: Instant::now(),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            pools: Mutex::default(),
            stop: session.child_token(),
        });
        self.running.lock().insert(entry.facts.statement_id.clone(), Arc::clone(&entry));
        Listed { activity: Arc::clone(self), entry, status: Status::Cancelled }
    }

    /// Stops a running statement of somebody whose statements one may stop.
    pub fn kill(&self, statement_id: &str, may_stop: impl Fn(&PrincipalName) -> bool) -> bool {
        let found = self.running.lock().get(statement_id).filter(|entry| may_stop(&entry.facts.principal)).cloned();
        if let Some(entry) = &found {
            entry.stop.cancel();
        }
        found.is_some()
    }

    /// The statements of those who `is_shown`: what runs, and then what has ended, the last first.
    pub fn list(&self, is_shown: impl Fn(&PrincipalName) -> bool) -> Vec<ShownStatement> {
        let mut shown: Vec<ShownStatement> = {
            let running = self.running.lock();
            running.values().filter(|entry| is_shown(&entry.facts.principal)).map(|entry| entry.shown("running")).collect()
        };
        let ended = self.ended.lock();
        // Between the two looks a statement may have ended: it is shown once.
        let twice = |it: &&ShownStatement| shown.iter().any(|running| running.facts.statement_id == it.facts.statement_id);
        let rest: Vec<_> = ended.iter().rev().filter(|it| is_shown(&it.facts.principal) && !twice(it)).cloned().collect();
        shown.extend(rest);
        shown
    }
}

impl Entry {
    fn shown(&self, state: &'static str) -> ShownStatement {
        let pools = self.pools.lock();
        let held = pools.iter().map(|pool| u64::try_from(pool.reserved()).unwrap_or(u64::MAX));
        ShownStatement {
            facts: self.facts.clone(),
            started: self.started,
            duration_us: u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX),
            state,
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            memory_bytes: (!pools.is_empty()).then(|| held.fold(0, u64::saturating_add)),
        }
    }
}

impl Listed {
    /// Cancelled when the statement is to stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.entry.stop
    }

    /// Counts what has been handed to the client.
    pub fn returned(&self, rows: u64, bytes: u64) {
        self.entry.rows.fetch_add(rows, Ordering::Relaxed);
        self.entry.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What the pool holds is this statement's.
    pub fn uses(&self, pool: &Arc<dyn MemoryPool>) {
        let mut pools = self.entry.pools.lock();
        if !pools.iter().any(|known| Arc::ptr_eq(known, pool)) {
            pools.push(Arc::clone(pool));
        }
    }

    pub fn end(mut self, status: Status) {
        self.status = status;
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut shown = self.entry.shown(self.status.as_str());
        shown.memory_bytes = None;
        // On the one list before it goes from the other, so that nobody misses it.
        let mut ended = self.activity.ended.lock();
        if ended.len() >= ENDED {
            ended.pop_front();
        }
        ended.push_back(shown);
        drop(ended);
        self.activity.running.lock().remove(&self.entry.facts.statement_id);
    }
}

/// What the client of a statement that was killed is told.
pub fn killed() -> Error {
    Error::new(ErrorKind::Cancelled, "the statement was killed")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn facts(id: &str, who: &str) -> Facts {
        Facts {
            statement_id: id.into(),
            session_id: "s".into(),
            principal: PrincipalName::local(who),
            client_address: None,
            client_driver: None,
            statement: "SELECT 1".into(),
            emergency: None,
        }
    }

    fn states(activity: &Activity, who: &str) -> Vec<(String, &'static str)> {
        let of = PrincipalName::local(who);
        activity.list(|name| *name == of).into_iter().map(|it| (it.facts.statement_id, it.state)).collect()
    }

    #[test]
    fn a_statement_is_shown_while_it_runs_and_after() {
        let activity = Arc::new(Activity::default());
        let session = CancellationToken::new();
        let first = activity.begin(facts("1", "ana"), &session);
        let second = activity.begin(facts("2", "ana"), &session);
        activity.begin(facts("3", "rui"), &session).end(Status::Ok);
        first.returned(3, 24);
        assert_eq!(states(&activity, "ana"), [("1".to_owned(), "running"), ("2".to_owned(), "running")]);
        first.end(Status::Failed(ErrorKind::Invalid));
        drop(second);
        assert_eq!(states(&activity, "ana"), [("2".to_owned(), "cancelled"), ("1".to_owned(), "invalid_argument")]);
        assert_eq!(activity.list(|_| true)[1].rows, 3);
        assert_eq!(states(&activity, "rui"), [("3".to_owned(), "ok")]);
        for number in 0..2 * ENDED {
            activity.begin(facts(&number.to_string(), "eva"), &session).end(Status::Ok);
        }
        assert_eq!(activity.list(|_| true).len(), ENDED);
    }

    #[test]
    fn who_may_stops_one_statement_and_a_session_all_of_its() {
        let activity = Arc::new(Activity::default());
        let (session, other) = (CancellationToken::new(), CancellationToken::new());
        let running = ["1", "2"].map(|id| activity.begin(facts(id, "ana"), &session));
        let elsewhere = activity.begin(facts("3", "ana"), &other);
        assert!(!activity.kill("1", |owner| owner.subject == "rui"));
        assert!(!activity.kill("9", |_| true));
        assert!(running.iter().all(|it| !it.stop().is_cancelled()));
        assert!(activity.kill("1", |owner| owner.subject == "ana"));
        assert!(running[0].stop().is_cancelled() && !running[1].stop().is_cancelled());
        session.cancel();
        assert!(running[1].stop().is_cancelled() && !elsewhere.stop().is_cancelled());
        elsewhere.end(Status::Ok);
        assert!(!activity.kill("3", |_| true), "it has ended");
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let activity = Arc::new(Activity::default());
        let long = Facts { statement: "é".repeat(2 * TEXT_CHARS), ..facts("1", "ana") };
        let _running = activity.begin(long, &CancellationToken::new());
        assert_eq!(activity.list(|_| true)[0].facts.statement.chars().count(), TEXT_CHARS + 1);
    }
}
