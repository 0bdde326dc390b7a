//! A session: who is asking, from where, and the settings that last between calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use lazaret_auth::Principal;
use parking_lot::Mutex;

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

/// State between the calls of one client. A session belongs to one principal; no other can join it.
#[derive(Debug)]
pub struct Session {
    pub id: String,
    pub caller: Caller,
    pub state: Mutex<SessionState>,
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
