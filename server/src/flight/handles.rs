//! Handles of prepared statements and tickets: random, MACed, bound to a principal, expiring, counted.
//!
//! A handle is `id (16) ‖ expiry, seconds since 1970 (8, big endian) ‖ HMAC-SHA256 (32)`. The MAC covers the kind and the
//! principal, so a handle of another kind, or in other hands, is refused before anything is looked up. All refusals read
//! the same.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use lazaret_auth::PrincipalName;
use moka::notification::RemovalCause;
use moka::sync::Cache;
use parking_lot::Mutex;
use sha2::Sha256;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::session::Session;

const ID_BYTES: usize = 16;
const EXPIRY_BYTES: usize = 8;
const MAC_BYTES: usize = 32;

/// The key under which handles and session cookies are MACed.
#[derive(Clone)]
pub struct HandleKey([u8; 32]);

impl HandleKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Each part goes in with its length, so that no two lists of parts share a MAC.
    fn mac(&self, parts: &[&[u8]]) -> Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).map_err(Error::internal)?;
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Ok(mac)
    }

    /// The value of a session cookie for this key, good for this principal only.
    pub fn seal_session_key(&self, principal: &PrincipalName, key: &str) -> Result<String> {
        let mac = self.mac(&session_parts(principal, key))?.finalize().into_bytes();
        Ok(format!("{}.{}", URL_SAFE_NO_PAD.encode(key), URL_SAFE_NO_PAD.encode(mac)))
    }

    /// The session key in a cookie, if we made it for this principal.
    pub fn open_session_key(&self, principal: &PrincipalName, cookie: &str) -> Option<String> {
        let (key, mac) = cookie.split_once('.')?;
        let key = String::from_utf8(URL_SAFE_NO_PAD.decode(key).ok()?).ok()?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        self.mac(&session_parts(principal, &key)).ok()?.verify_slice(&mac).ok()?;
        Some(key)
    }
}

fn session_parts<'a>(principal: &'a PrincipalName, key: &'a str) -> [&'a [u8]; 4] {
    [b"session", principal.issuer.as_bytes(), principal.subject.as_bytes(), key.as_bytes()]
}

/// What happens when an owner already holds as many as it may.
#[derive(Clone, Copy, Debug)]
pub enum Overflow {
    /// The new one is refused, naming this setting.
    Refuse { setting: &'static str },
    /// The owner's oldest one is forgotten.
    DropOldest,
}

#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Goes into the MAC and into error texts: `prepared statement`, `ticket`.
    pub kind: &'static str,
    pub per_owner: usize,
    pub overflow: Overflow,
    /// From its making; `None` lives until closed or idle.
    pub lifetime: Option<Duration>,
    pub idle: Duration,
    /// What all of them may weigh together; the longest unused go first.
    pub total_bytes: u64,
}

struct Entry<T> {
    owner: String,
    bytes: u32,
    value: T,
}

type Owners = Mutex<HashMap<String, VecDeque<Uuid>>>;

/// Things that clients hold by handle.
pub struct Handles<T> {
    key: HandleKey,
    rules: Rules,
    entries: Cache<Uuid, Arc<Entry<T>>>,
    owners: Arc<Owners>,
}

impl<T: Send + Sync + Clone + 'static> Handles<T> {
    pub fn new(key: HandleKey, rules: Rules) -> Self {
        let owners = Arc::new(Owners::default());
        let forgotten = Arc::clone(&owners);
        let entries = Cache::builder()
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .max_capacity(rules.total_bytes)
            .weigher(|_id: &Uuid, entry: &Arc<Entry<T>>| entry.bytes)
            .time_to_live(rules.lifetime.unwrap_or(Duration::from_secs(365 * 24 * 60 * 60)))
            .time_to_idle(rules.idle)
            .eviction_listener(move |id: Arc<Uuid>, entry: Arc<Entry<T>>, _cause: RemovalCause| forget(&forgotten, &entry.owner, &id))
            .build();
        Self { key, rules, entries, owners }
    }

    /// Keeps a value for this session's principal. `bytes`: roughly what it holds in memory.
    pub fn insert(&self, session: &Session, value: T, bytes: usize) -> Result<Bytes> {
        self.entries.run_pending_tasks();
        let id = Uuid::new_v4();
        let owner = owner_of(session);
        let oldest = {
            let mut owners = self.owners.lock();
            let held = owners.entry(owner.clone()).or_default();
            let oldest = match self.rules.overflow {
                _ if held.len() < self.rules.per_owner => None,
                Overflow::Refuse { setting } => {
                    let Rules { kind, per_owner, .. } = self.rules;
                    let text = format!("too many open {kind}s: the limit is {per_owner} in a session ({setting})");
                    return Err(Error::new(ErrorKind::Exhausted, text));
                }
                Overflow::DropOldest => held.pop_front(),
            };
            held.push_back(id);
            oldest
        };
        if let Some(oldest) = oldest {
            self.entries.invalidate(&oldest);
        }
        // A thing heavier than the whole cache would be dropped at once: it then weighs as much as the cache holds.
        let bytes = u32::try_from((bytes as u64).clamp(1, self.rules.total_bytes)).unwrap_or(u32::MAX);
        self.entries.insert(id, Arc::new(Entry { owner, bytes, value }));
        // The session may have ended while its call ran: what was let go then is not held for it.
        if session.life.over().is_cancelled() {
            self.entries.invalidate(&id);
            return Err(Error::new(ErrorKind::Cancelled, "the session has ended"));
        }
        let expiry = self.rules.lifetime.map_or(u64::MAX, |lifetime| unix_seconds(SystemTime::now() + lifetime));
        self.seal(&session.principal().name, id, expiry)
    }

    /// What stands behind a handle that this session's principal was given.
    pub fn get(&self, session: &Session, handle: &[u8]) -> Result<T> {
        let id = self.open(session, handle)?;
        self.entries.get(&id).map(|entry| entry.value.clone()).ok_or_else(|| self.unknown())
    }

    /// Forgets a handle. Doing it twice is an error like any unknown handle.
    pub fn remove(&self, session: &Session, handle: &[u8]) -> Result<T> {
        let id = self.open(session, handle)?;
        let removed = self.entries.remove(&id).map(|entry| entry.value.clone()).ok_or_else(|| self.unknown());
        self.entries.run_pending_tasks();
        removed
    }

    /// Forgets everything that was made in a session.
    pub fn release(&self, session_id: &str) {
        let held = self.owners.lock().remove(session_id).unwrap_or_default();
        for id in held {
            self.entries.invalidate(&id);
        }
    }

    fn seal(&self, principal: &PrincipalName, id: Uuid, expiry: u64) -> Result<Bytes> {
        let expiry = expiry.to_be_bytes();
        let mac = self.mac(principal, id.as_bytes(), &expiry)?.finalize().into_bytes();
        Ok([id.as_bytes().as_slice(), &expiry, &mac].concat().into())
    }

    fn open(&self, session: &Session, handle: &[u8]) -> Result<Uuid> {
        let (id, rest) = handle.split_first_chunk::<ID_BYTES>().ok_or_else(|| self.unknown())?;
        let (expiry, mac) = rest.split_first_chunk::<EXPIRY_BYTES>().ok_or_else(|| self.unknown())?;
        if mac.len() != MAC_BYTES {
            return Err(self.unknown());
        }
        self.mac(&session.principal().name, id, expiry)?.verify_slice(mac).map_err(|_| self.unknown())?;
        if u64::from_be_bytes(*expiry) < unix_seconds(SystemTime::now()) {
            return Err(self.unknown());
        }
        Ok(Uuid::from_bytes(*id))
    }

    fn mac(&self, principal: &PrincipalName, id: &[u8], expiry: &[u8]) -> Result<Hmac<Sha256>> {
        self.key.mac(&[self.rules.kind.as_bytes(), principal.issuer.as_bytes(), principal.subject.as_bytes(), id, expiry])
    }

    fn unknown(&self) -> Error {
        Error::new(ErrorKind::NotFound, format!("{} not found: its handle is unknown, closed or expired", self.rules.kind))
    }
}

/// What a count is kept for: the session, or the principal where calls keep no session.
fn owner_of(session: &Session) -> String {
    if session.keeps_state() {
        return session.id.clone();
    }
    let PrincipalName { issuer, subject } = &session.principal().name;
    format!("{issuer}\n{subject}")
}

fn forget(owners: &Owners, owner: &str, id: &Uuid) {
    let mut owners = owners.lock();
    if let Some(held) = owners.get_mut(owner) {
        held.retain(|held| held != id);
        if held.is_empty() {
            owners.remove(owner);
        }
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use lazaret_auth::{CredentialKind, Principal};

    use super::*;
    use crate::session::{Caller, SessionState};

    fn session(name: &str) -> Arc<Session> {
        let principal = Arc::new(Principal::local_user(name, CredentialKind::Password, None, None));
        let caller = Caller { principal, session_key: Some("key".into()), client_address: None, client_driver: None };
        Session::new(caller, SessionState::new("c", "s"))
    }

    fn handles(overflow: Overflow) -> Handles<u32> {
        let rules = Rules {
            kind: "ticket",
            per_owner: 2,
            overflow,
            lifetime: Some(Duration::from_secs(60)),
            idle: Duration::from_secs(60),
            total_bytes: 1000,
        };
        Handles::new(HandleKey::new([7; 32]), rules)
    }

    #[test]
    fn a_handle_opens_for_its_principal_only() {
        let handles = handles(Overflow::DropOldest);
        let (ana, rui) = (session("ana"), session("rui"));
        let handle = handles.insert(&ana, 1, 1).unwrap();
        assert_eq!(handles.get(&ana, &handle).unwrap(), 1);
        assert_eq!(handles.get(&session("ana"), &handle).unwrap(), 1, "another session of the same principal");
        let refusal = handles.get(&rui, &handle).unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::NotFound);
        for byte in 0..handle.len() {
            let mut tampered = handle.to_vec();
            tampered[byte] ^= 1;
            assert_eq!(handles.get(&ana, &tampered).unwrap_err(), refusal);
        }
        for cut in [0, 15, 16, 24, handle.len() - 1] {
            assert_eq!(handles.get(&ana, &handle[..cut]).unwrap_err(), refusal);
        }
        let id = Uuid::from_bytes(handle[..16].try_into().unwrap());
        let expired = handles.seal(&ana.principal().name, id, 1).unwrap();
        assert_eq!(handles.get(&ana, &expired).unwrap_err(), refusal);
        assert_eq!(handles.remove(&rui, &handle).unwrap_err(), refusal);
        assert_eq!(handles.remove(&ana, &handle).unwrap(), 1);
        assert_eq!(handles.remove(&ana, &handle).unwrap_err(), refusal);
    }

    #[test]
    fn the_limit_refuses_or_drops_the_oldest() {
        let ana = session("ana");
        let refusing = handles(Overflow::Refuse { setting: "limits.statements_per_session" });
        let first = refusing.insert(&ana, 1, 1).unwrap();
        refusing.insert(&ana, 2, 1).unwrap();
        let error = refusing.insert(&ana, 3, 1).unwrap_err();
        assert_eq!(error.message, "too many open tickets: the limit is 2 in a session (limits.statements_per_session)");
        refusing.remove(&ana, &first).unwrap();
        refusing.insert(&ana, 3, 1).unwrap();

        let dropping = handles(Overflow::DropOldest);
        let kept = [1, 2, 3].map(|value| dropping.insert(&ana, value, 1).unwrap());
        assert!(dropping.get(&ana, &kept[0]).is_err());
        assert_eq!(dropping.get(&ana, &kept[2]).unwrap(), 3);
        dropping.release(&ana.id);
        assert!(dropping.get(&ana, &kept[2]).is_err());
    }

    #[test]
    fn a_cookie_is_good_for_its_principal_only() {
        let key = HandleKey::new([7; 32]);
        let ana = PrincipalName::local("ana");
        let cookie = key.seal_session_key(&ana, "k").unwrap();
        assert_eq!(key.open_session_key(&ana, &cookie).as_deref(), Some("k"));
        assert_eq!(key.open_session_key(&PrincipalName::local("rui"), &cookie), None);
        assert_eq!(key.open_session_key(&PrincipalName::new("hospital", "ana"), &cookie), None);
        for bad in ["", ".", "k", "aw.", &cookie[..cookie.len() - 2], "\u{fc}.\u{fc}"] {
            assert_eq!(key.open_session_key(&ana, bad), None);
        }
        assert_eq!(HandleKey::new([8; 32]).open_session_key(&ana, &cookie), None);
    }
}
