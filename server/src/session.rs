//! A session: who is asking, from where, and the settings that last between calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lazaret_auth::{Principal, PrincipalName};
use moka::notification::RemovalCause;
use moka::sync::Cache;
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};

/// After this long without a call a session is gone: a working day's pause fits, a forgotten connection does not stay.
pub const SESSION_IDLE: Duration = Duration::from_secs(4 * 60 * 60);

/// What the auth layer learned about one call.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Arc<Principal>,
    /// The session's key: the cookie's, or the id of our own token. `None`: a foreign bearer or Basic without a
    /// cookie, which keeps no state between calls.
    pub session_key: Option<String>,
    pub client_address: Option<String>,
    /// The user agent, such as `ADBC Flight SQL Driver 1.13.0`.
    pub client_driver: Option<String>,
}

/// One call's view of a session: the caller is this call's own (a token's claims may have changed since the last one),
/// the state is shared between the calls of one client. A session belongs to one principal; no other can join it.
#[derive(Debug)]
pub struct Session {
    pub id: String,
    pub caller: Caller,
    pub state: Arc<Mutex<SessionState>>,
}

#[derive(Clone, Debug)]
pub struct SessionState {
    pub catalog: String,
    pub schema: String,
    /// Allow-listed settings that were SET, by their lower-case name.
    pub settings: BTreeMap<String, String>,
    /// Warnings of the last statement, for SHOW WARNINGS.
    pub warnings: Vec<String>,
    pub last_used: Instant,
}

impl SessionState {
    pub fn new(catalog: impl Into<String>, schema: impl Into<String>) -> Self {
        Self { catalog: catalog.into(), schema: schema.into(), settings: BTreeMap::new(), warnings: Vec::new(), last_used: Instant::now() }
    }
}

impl Session {
    /// A session that is in no registry: of a call that keeps no state, or of a door that is not the network.
    pub fn new(caller: Caller, state: SessionState) -> Arc<Self> {
        Arc::new(Self { id: fresh_id(), caller, state: Arc::new(Mutex::new(state)) })
    }

    pub fn principal(&self) -> &Arc<Principal> {
        &self.caller.principal
    }

    /// Whether the next call of this client will find what this one leaves.
    pub fn keeps_state(&self) -> bool {
        self.caller.session_key.is_some()
    }

    /// This caller in the state of another call of the same principal, such as the one that planned what now runs.
    pub fn with_state(&self, state: &Arc<Mutex<SessionState>>) -> Arc<Self> {
        Arc::new(Self { id: self.id.clone(), caller: self.caller.clone(), state: Arc::clone(state) })
    }
}

/// What `system.sessions` shows of one session.
#[derive(Clone, Debug)]
pub struct SessionSummary {
    pub id: String,
    pub principal: PrincipalName,
    pub client_address: Option<String>,
    pub client_driver: Option<String>,
    pub catalog: String,
    pub schema: String,
    pub last_used: Instant,
}

/// A key means nothing without its principal, so that no key, however it was got, leads into another's session.
type RegistryKey = (PrincipalName, String);

#[derive(Debug)]
struct Registered {
    id: String,
    client_address: Option<String>,
    client_driver: Option<String>,
    state: Arc<Mutex<SessionState>>,
}

/// The sessions that last between calls.
pub struct Sessions {
    live: Cache<RegistryKey, Arc<Registered>>,
    /// Held while one is added, so that the limit is exact.
    adding: Mutex<()>,
    limit: u64,
    /// What a new session starts with.
    initial: SessionState,
}

impl Sessions {
    /// `on_end` is told the id of every session that is closed or expires.
    pub fn new(limit: u64, initial: SessionState, on_end: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let live = Cache::builder()
            .time_to_idle(SESSION_IDLE)
            .eviction_listener(move |_key: Arc<RegistryKey>, session: Arc<Registered>, _cause: RemovalCause| on_end(&session.id))
            .build();
        Self { live, adding: Mutex::new(()), limit, initial }
    }

    /// Joins the caller's session, starts it where there is none, or gives a session for this call alone to one that
    /// has no key.
    pub fn resolve(&self, caller: Caller) -> Result<Arc<Session>> {
        let Some(key) = &caller.session_key else {
            return Ok(Session::new(caller, self.fresh_state()));
        };
        let key = (caller.principal.name.clone(), key.clone());
        let registered = match self.live.get(&key) {
            Some(registered) => registered,
            None => self.start(key, &caller)?,
        };
        registered.state.lock().last_used = Instant::now();
        Ok(Arc::new(Session { id: registered.id.clone(), caller, state: Arc::clone(&registered.state) }))
    }

    fn start(&self, key: RegistryKey, caller: &Caller) -> Result<Arc<Registered>> {
        let _adding = self.adding.lock();
        if let Some(registered) = self.live.get(&key) {
            return Ok(registered);
        }
        self.live.run_pending_tasks();
        if self.live.entry_count() >= self.limit {
            let text = format!("too many sessions: the limit is {} (limits.sessions)", self.limit);
            return Err(Error::new(ErrorKind::Exhausted, text));
        }
        let registered = Arc::new(Registered {
            id: fresh_id(),
            client_address: caller.client_address.clone(),
            client_driver: caller.client_driver.clone(),
            state: Arc::new(Mutex::new(self.fresh_state())),
        });
        self.live.insert(key, Arc::clone(&registered));
        Ok(registered)
    }

    /// Ends the session of this call. False where it had none, or it is closed already.
    pub fn close(&self, session: &Session) -> bool {
        let Some(key) = &session.caller.session_key else { return false };
        let key = (session.caller.principal.name.clone(), key.clone());
        let closed = self.live.remove(&key).is_some();
        self.live.run_pending_tasks();
        closed
    }

    /// Ends a session by its id, for KILL SESSION.
    pub fn kill(&self, id: &str) -> bool {
        let key = self.live.iter().find(|(_, session)| session.id == id).map(|(key, _)| key);
        let killed = key.is_some_and(|key| self.live.remove(key.as_ref()).is_some());
        self.live.run_pending_tasks();
        killed
    }

    pub fn list(&self) -> Vec<SessionSummary> {
        let summary = |(key, session): (Arc<RegistryKey>, Arc<Registered>)| {
            let state = session.state.lock();
            SessionSummary {
                id: session.id.clone(),
                principal: key.0.clone(),
                client_address: session.client_address.clone(),
                client_driver: session.client_driver.clone(),
                catalog: state.catalog.clone(),
                schema: state.schema.clone(),
                last_used: state.last_used,
            }
        };
        self.live.iter().map(summary).collect()
    }

    fn fresh_state(&self) -> SessionState {
        SessionState { last_used: Instant::now(), ..self.initial.clone() }
    }
}

/// Shown in `system.sessions` and the audit; opens nothing.
fn fresh_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use lazaret_auth::CredentialKind;

    use super::*;

    fn caller(name: &str, key: Option<&str>) -> Caller {
        Caller {
            principal: Arc::new(Principal::local_user(name, CredentialKind::Password, None, None)),
            session_key: key.map(str::to_owned),
            client_address: None,
            client_driver: None,
        }
    }

    fn sessions(limit: u64) -> (Sessions, Arc<Mutex<Vec<String>>>) {
        let ended = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&ended);
        let sessions = Sessions::new(limit, SessionState::new("lazaret", "public"), move |id| log.lock().push(id.to_owned()));
        (sessions, ended)
    }

    #[test]
    fn calls_with_one_key_share_state_and_others_do_not() {
        let (sessions, _) = sessions(10);
        let first = sessions.resolve(caller("ana", Some("k"))).unwrap();
        first.state.lock().catalog = "lake".into();
        let second = sessions.resolve(caller("ana", Some("k"))).unwrap();
        assert_eq!((second.id.as_str(), second.state.lock().catalog.as_str()), (first.id.as_str(), "lake"));
        for other in [caller("rui", Some("k")), caller("ana", Some("k2")), caller("ana", None)] {
            let session = sessions.resolve(other).unwrap();
            assert_ne!(session.id, first.id);
            assert_eq!(session.state.lock().catalog, "lazaret");
        }
        let mut foreign = caller("ana", Some("k"));
        foreign.principal = Arc::new(Principal { name: PrincipalName::new("hospital", "ana"), ..foreign.principal.as_ref().clone() });
        assert_ne!(sessions.resolve(foreign).unwrap().id, first.id);
    }

    #[test]
    fn the_limit_names_itself_and_closing_makes_room() {
        let (sessions, ended) = sessions(2);
        let first = sessions.resolve(caller("ana", Some("1"))).unwrap();
        sessions.resolve(caller("ana", Some("2"))).unwrap();
        let error = sessions.resolve(caller("ana", Some("3"))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Exhausted);
        assert_eq!(error.message, "too many sessions: the limit is 2 (limits.sessions)");
        assert!(sessions.resolve(caller("ana", None)).is_ok(), "a call without state takes no place");
        assert!(sessions.close(&first));
        assert!(!sessions.close(&first));
        assert_eq!(ended.lock().as_slice(), std::slice::from_ref(&first.id));
        let third = sessions.resolve(caller("ana", Some("3"))).unwrap();
        assert!(sessions.kill(&third.id));
        assert_eq!(sessions.list().len(), 1);
    }
}
