//! A session: who is asking, from where, and the settings that last between calls.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use lazaret_auth::{AccessReader, ActiveRoles, Authority, CredentialKind, Principal, PrincipalName};
use moka::notification::RemovalCause;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::emergency::Held;
use crate::error::{Error, ErrorKind, Result};

/// After this long without a call a session is gone: a working day's pause fits, a forgotten connection does not stay.
pub const SESSION_IDLE: Duration = Duration::from_secs(4 * 60 * 60);

/// For so long a killed session's key opens nothing: longer than the tokens are valid whose ids are keys.
const KILLED_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Keys of killed sessions that are remembered; some 200 bytes each.
const KILLED_KEYS: u64 = 100_000;

/// What the auth layer learned about one call.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Arc<Principal>,
    /// The session's key: the cookie's, or the id of a token that we made. `None`: a foreign bearer, a password or a
    /// certificate without a cookie, which keeps no state between calls.
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
    pub life: Life,
    /// In whose place it acts.
    acting_as: Option<Arc<Principal>>,
}

/// How far a session has come, known to all its calls.
#[derive(Clone, Debug, Default)]
pub struct Life {
    over: CancellationToken,
    killed: CancellationToken,
}

impl Life {
    /// Cancelled when the session is closed, expires or is killed: nothing is kept for it any more.
    pub fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Cancelled by KILL SESSION: what runs in it stops.
    pub fn killed(&self) -> &CancellationToken {
        &self.killed
    }
}

#[derive(Clone, Debug)]
pub struct SessionState {
    pub catalog: String,
    pub schema: String,
    /// Allow-listed settings that were SET, by their lower-case name.
    pub settings: BTreeMap<String, String>,
    /// What SET ROLE said last.
    pub active_roles: ActiveRoles,
    /// Warnings of the last statement, for SHOW WARNINGS.
    pub warnings: Vec<String>,
    /// The emergency access that was set in this session, as long as nothing is known to have ended it.
    pub emergency: Option<Held>,
    pub last_used: Instant,
}

impl SessionState {
    pub fn new(catalog: impl Into<String>, schema: impl Into<String>) -> Self {
        Self {
            catalog: catalog.into(),
            schema: schema.into(),
            settings: BTreeMap::new(),
            active_roles: ActiveRoles::default(),
            warnings: Vec::new(),
            emergency: None,
            last_used: Instant::now(),
        }
    }

    /// Whether a session that begins like that one is as good.
    fn is_as_good_as(&self, initial: &Self) -> bool {
        let of = |state: &Self| (state.catalog.clone(), state.schema.clone(), state.settings.clone(), state.active_roles);
        self.emergency.is_none() && of(self) == of(initial)
    }
}

impl Session {
    /// A session that is in no registry: of a call that keeps no state, or of a door that is not the network.
    pub fn new(caller: Caller, state: SessionState) -> Arc<Self> {
        Arc::new(Self { id: fresh_id(), caller, state: Arc::new(Mutex::new(state)), life: Life::default(), acting_as: None })
    }

    /// In whose name statements run. That is the caller, but for a statement of EXECUTE AS.
    pub fn principal(&self) -> &Arc<Principal> {
        self.acting_as.as_ref().unwrap_or(&self.caller.principal)
    }

    /// The other one in whose place it acts.
    pub fn acting_as(&self) -> Option<&Arc<Principal>> {
        self.acting_as.as_ref()
    }

    /// This session for one statement of somebody else: rights, policies and identity functions are that one's, and of its
    /// own it keeps the settings. Whoever asks for it has checked that the caller may.
    pub fn in_place_of(&self, principal: Principal) -> Arc<Self> {
        let state = SessionState { emergency: None, active_roles: ActiveRoles::All, ..self.state.lock().clone() };
        let (id, caller, state) = (self.id.clone(), self.caller.clone(), Arc::new(Mutex::new(state)));
        Arc::new(Self { id, caller, state, life: self.life.clone(), acting_as: Some(Arc::new(principal)) })
    }

    /// With which rights this session acts in this state: every statement, and what is recorded of it, asks here.
    /// Ask inside the transaction: time of check is time of commit. Not while the session's state is locked.
    pub fn authority(&self, state: &dyn AccessReader) -> Authority {
        let roles = self.state.lock().active_roles;
        self.with_emergency(state, Authority::of(state, Arc::clone(self.principal())).with_active(state, roles))
    }

    /// The authority of this session's own principal, under its emergency access where that is in force. One that is no
    /// longer in force is let go: what was taken away must not come back with a later grant.
    fn with_emergency(&self, state: &dyn AccessReader, authority: Authority) -> Authority {
        // Whoever acts in somebody else's place acts as that one does: without it.
        let is_own = Arc::ptr_eq(self.principal(), &self.caller.principal);
        let held = self.state.lock().emergency.clone().filter(|_| is_own);
        let Some(Held { id, clock, .. }) = held else { return authority };
        let authority = authority.under_emergency(state, id, &self.id, clock());
        let is_lost = |session: &str| authority.emergency().is_none() && session == self.id;
        // A state from before it was set does not know it, and a call without this session only borrows the settings.
        if state.emergency_access(id).is_some_and(|access| is_lost(&access.session)) {
            let _ = self.state.lock().emergency.take_if(|held| held.id == id);
        }
        authority
    }

    /// Whether the next call of this client will find what this one leaves.
    pub fn keeps_state(&self) -> bool {
        self.caller.session_key.is_some()
    }

    /// This caller in the state of another call of the same principal, such as the one that planned what now runs.
    pub fn with_state(&self, state: &Arc<Mutex<SessionState>>) -> Arc<Self> {
        let (id, caller, state) = (self.id.clone(), self.caller.clone(), Arc::clone(state));
        Arc::new(Self { id, caller, state, life: self.life.clone(), acting_as: self.acting_as.clone() })
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
    pub started: SystemTime,
    pub last_used: Instant,
}

/// A key means nothing without its principal, so that no key, however it was got, leads into another's session.
type RegistryKey = (PrincipalName, String);

#[derive(Debug)]
struct Registered {
    id: String,
    client_address: Option<String>,
    client_driver: Option<String>,
    started: SystemTime,
    /// Its key is the id of a service account's token, which cannot be exchanged for another: it must outlive a kill.
    of_token: bool,
    state: Arc<Mutex<SessionState>>,
    life: Life,
}

type OnEnd = Box<dyn Fn(&str) + Send + Sync>;

/// The sessions that last between calls.
pub struct Sessions {
    live: Cache<RegistryKey, Arc<Registered>>,
    /// Keys of sessions that were killed. Whoever shows one signs in again: a client that went on as if nothing had been
    /// would not know that its settings are gone.
    killed: Cache<RegistryKey, ()>,
    on_end: Arc<OnceLock<OnEnd>>,
    /// Held while one is added, so that the limit is exact.
    adding: Mutex<()>,
    limit: u64,
    /// What a new session starts with.
    initial: SessionState,
}

impl Sessions {
    pub fn new(limit: u64, initial: SessionState) -> Self {
        let on_end: Arc<OnceLock<OnEnd>> = Arc::default();
        let told = Arc::clone(&on_end);
        let live = Cache::builder()
            .time_to_idle(SESSION_IDLE)
            .eviction_listener(move |_key: Arc<RegistryKey>, session: Arc<Registered>, _cause: RemovalCause| {
                session.life.over.cancel();
                session.state.lock().emergency = None;
                if let Some(on_end) = told.get() {
                    on_end(&session.id);
                }
            })
            .build();
        let killed = Cache::builder().max_capacity(KILLED_KEYS).time_to_live(KILLED_KEPT).build();
        Self { live, killed, on_end, adding: Mutex::new(()), limit, initial }
    }

    /// `on_end` is told the id of every session that is closed, expires or is killed. The first who asks is.
    pub fn when_one_ends(&self, on_end: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.on_end.set(Box::new(on_end));
    }

    /// What a new session starts with.
    pub fn initial(&self) -> &SessionState {
        &self.initial
    }

    /// Joins the caller's session, starts it where there is none, or gives a session for this call alone to one that
    /// has no key.
    pub fn resolve(&self, caller: Caller) -> Result<Arc<Session>> {
        let Some(key) = &caller.session_key else {
            return Ok(Session::new(caller, self.fresh_state()));
        };
        let key = (caller.principal.name.clone(), key.clone());
        if self.killed.contains_key(&key) {
            return Err(Error::new(ErrorKind::Unauthenticated, "the session was killed: sign in again"));
        }
        let registered = match self.live.get(&key) {
            Some(registered) => registered,
            None => self.start(key, &caller)?,
        };
        registered.state.lock().last_used = Instant::now();
        let (state, life) = (Arc::clone(&registered.state), registered.life.clone());
        Ok(Arc::new(Session { id: registered.id.clone(), caller, state, life, acting_as: None }))
    }

    fn start(&self, key: RegistryKey, caller: &Caller) -> Result<Arc<Registered>> {
        let _adding = self.adding.lock();
        if let Some(registered) = self.live.get(&key) {
            return Ok(registered);
        }
        self.live.run_pending_tasks();
        if self.live.entry_count() >= self.limit && !self.make_room() {
            let text = format!("too many sessions: the limit is {} (limits.sessions)", self.limit);
            return Err(Error::new(ErrorKind::Exhausted, text));
        }
        let registered = Arc::new(Registered {
            id: fresh_id(),
            client_address: caller.client_address.clone(),
            client_driver: caller.client_driver.clone(),
            started: SystemTime::now(),
            of_token: caller.principal.credential == CredentialKind::ServiceToken && caller.principal.token_id == caller.session_key,
            state: Arc::new(Mutex::new(self.fresh_state())),
            life: Life::default(),
        });
        self.live.insert(key, Arc::clone(&registered));
        Ok(registered)
    }

    /// Ends the session that has been unused for longest, of the principal who has most of them. Only one in which nothing was
    /// set may go: its client finds the same in a new one. Drivers leave such sessions behind, and nobody may keep the others
    /// out with them.
    fn make_room(&self) -> bool {
        /// How many a principal has, and the one of them that may go.
        type Of = (usize, Option<(Instant, Arc<RegistryKey>)>);
        let mut by_principal: BTreeMap<PrincipalName, Of> = BTreeMap::new();
        for (key, session) in &self.live {
            let state = session.state.lock();
            let (sessions, oldest) = by_principal.entry(key.0.clone()).or_default();
            *sessions += 1;
            if state.is_as_good_as(&self.initial) && oldest.as_ref().is_none_or(|(used, _)| state.last_used < *used) {
                *oldest = Some((state.last_used, key));
            }
        }
        let most =
            by_principal.into_values().filter(|(sessions, oldest)| *sessions > 1 && oldest.is_some()).max_by_key(|(sessions, _)| *sessions);
        let Some((_, Some((_, key)))) = most else { return false };
        let ended = self.live.remove(key.as_ref()).is_some();
        self.live.run_pending_tasks();
        ended
    }

    /// Ends the session of this call. False where it had none, or it is closed already.
    pub fn close(&self, session: &Session) -> bool {
        let Some(key) = &session.caller.session_key else { return false };
        let key = (session.caller.principal.name.clone(), key.clone());
        let closed = self.live.remove(&key).is_some();
        self.live.run_pending_tasks();
        closed
    }

    /// Ends a session of somebody whose sessions one may end, by its id. What runs in it stops.
    pub fn kill(&self, id: &str, may_end: impl Fn(&PrincipalName) -> bool) -> bool {
        let Some((key, session)) = self.live.iter().find(|(key, session)| session.id == id && may_end(&key.0)) else { return false };
        // In this order nothing is begun in it that is not stopped.
        if !session.of_token {
            self.killed.insert(key.as_ref().clone(), ());
        }
        session.life.killed.cancel();
        let killed = self.live.remove(key.as_ref()).is_some();
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
                started: session.started,
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
        let sessions = Sessions::new(limit, SessionState::new("lazaret", "public"));
        sessions.when_one_ends(move |id| log.lock().push(id.to_owned()));
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
        sessions.resolve(caller("rui", Some("2"))).unwrap();
        let error = sessions.resolve(caller("ana", Some("3"))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Exhausted);
        assert_eq!(error.message, "too many sessions: the limit is 2 (limits.sessions)");
        assert!(sessions.resolve(caller("ana", None)).is_ok(), "a call without state takes no place");
        assert!(sessions.close(&first));
        assert!(!sessions.close(&first));
        assert_eq!(ended.lock().as_slice(), std::slice::from_ref(&first.id));
        sessions.resolve(caller("ana", Some("3"))).unwrap();
        assert_eq!(sessions.list().len(), 2);
    }

    #[test]
    fn what_one_principal_leaves_behind_makes_room_for_others() {
        let (sessions, ended) = sessions(4);
        let open = |name: &str, key: &str| sessions.resolve(caller(name, Some(key))).unwrap();
        let (set, oldest, newer) = (open("rui", "1"), open("rui", "2"), open("rui", "3"));
        set.state.lock().schema = "clinic".into();
        let only = open("eva", "1");
        open("ana", "1");
        assert_eq!(ended.lock().as_slice(), std::slice::from_ref(&oldest.id));
        open("ana", "2");
        assert_eq!(ended.lock().as_slice(), [oldest.id.clone(), newer.id.clone()]);
        let left: Vec<String> = sessions.list().into_iter().map(|session| session.id).collect();
        assert!(left.contains(&set.id) && left.contains(&only.id), "what holds something stays, and so does an only one");
    }

    #[test]
    fn a_killed_session_is_over_and_its_key_opens_no_other() {
        let (sessions, ended) = sessions(10);
        let session = sessions.resolve(caller("ana", Some("k"))).unwrap();
        assert!(!sessions.kill(&session.id, |owner| owner.subject == "rui"), "not one's own");
        assert!(!sessions.kill("nosuch", |_| true));
        assert!(!session.life.over().is_cancelled());
        assert!(sessions.kill(&session.id, |owner| owner.subject == "ana"));
        assert!(!sessions.kill(&session.id, |_| true), "it is gone");
        assert!(session.life.over().is_cancelled() && session.life.killed().is_cancelled());
        assert_eq!(ended.lock().as_slice(), std::slice::from_ref(&session.id));
        let refused = sessions.resolve(caller("ana", Some("k"))).unwrap_err();
        assert_eq!((refused.kind, refused.message.as_str()), (ErrorKind::Unauthenticated, "the session was killed: sign in again"));
        assert_ne!(sessions.resolve(caller("ana", Some("another"))).unwrap().id, session.id);
        assert!(sessions.resolve(caller("rui", Some("k"))).is_ok(), "a key is its principal's");
        let mut token = caller("etl", Some("t"));
        let principal = Principal::local_user("etl", CredentialKind::ServiceToken, Some("t".into()), None);
        token.principal = Arc::new(principal);
        let of_token = sessions.resolve(token.clone()).unwrap();
        assert!(sessions.kill(&of_token.id, |_| true));
        assert_ne!(sessions.resolve(token).unwrap().id, of_token.id, "a new one, for it has nothing to sign in with");
        let closed = sessions.resolve(caller("ana", Some("c"))).unwrap();
        assert!(sessions.close(&closed));
        assert!(closed.life.over().is_cancelled() && !closed.life.killed().is_cancelled());
    }
}
