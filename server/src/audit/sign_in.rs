//! Sign-ins that were refused, as records of the audit: of whom, from where, and why. Anyone on the network can cause
//! them, so that the first of each kind in a minute is recorded, and those like it are counted into one more record;
//! beyond [`KINDS`] kinds, all others are one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lazaret_auth::{AuthError, Authenticator, Credential, IssuedToken, LOCAL_ISSUER, Principal, UserDirectory};
use parking_lot::Mutex;

use super::{AuditLog, Decision, StartRecord, Status};
use crate::error::ErrorKind;
use crate::flight::auth_layer::Authenticate;

/// How long refusals like one that was recorded are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Kinds of refusals in one window. With two records of some 700 bytes for each, an attack fills 80 MB of audit in a day.
const KINDS: usize = 40;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refusal {
    /// The user whose name was shown with a password. What is no user's name may be a password that was typed in the wrong
    /// place, and a token says nothing before it is verified.
    user: Option<String>,
    address: Option<IpAddr>,
    reason: String,
}

/// What was refused since the window began, beside the first of each kind.
#[derive(Default)]
struct Counts {
    more_of: HashMap<Refusal, u64>,
    others: u64,
}

/// The authenticator with its refusals recorded.
pub struct AuditedSignIn {
    inner: Authenticator,
    users: Arc<dyn UserDirectory>,
    refusals: Arc<Refusals>,
}

impl AuditedSignIn {
    pub fn new(inner: Authenticator, users: Arc<dyn UserDirectory>, audit: AuditLog) -> Self {
        Self { inner, users, refusals: Arc::new(Refusals { audit, counts: Mutex::default() }) }
    }

    /// Records what has been counted. Call it before the audit is closed.
    pub fn flush(&self) {
        self.refusals.flush();
    }
}

#[async_trait]
impl Authenticate for AuditedSignIn {
    async fn authenticate(&self, credential: &Credential, peer: Option<IpAddr>) -> Result<Principal, AuthError> {
        let outcome = self.inner.authenticate(credential, peer).await;
        if let Err(error @ AuthError::BadCredential(_)) = &outcome {
            let user = match credential {
                Credential::Basic { user, .. } if self.users.user(user).is_some() => Some(user.clone()),
                _ => None,
            };
            if self.refusals.add(Refusal { user, address: peer, reason: error.reason() }) {
                let refusals = Arc::clone(&self.refusals);
                tokio::spawn(async move {
                    tokio::time::sleep(WINDOW).await;
                    refusals.flush();
                });
            }
        }
        outcome
    }

    fn issue(&self, principal: &Principal) -> Result<IssuedToken, AuthError> {
        self.inner.issue(principal)
    }
}

struct Refusals {
    audit: AuditLog,
    counts: Mutex<Counts>,
}

impl Refusals {
    /// Whether a window begins with it.
    fn add(&self, refusal: Refusal) -> bool {
        let mut counts = self.counts.lock();
        let kinds = counts.more_of.len();
        match counts.more_of.get_mut(&refusal) {
            Some(more) => *more += 1,
            None if kinds < KINDS => {
                self.record(&refusal, None);
                counts.more_of.insert(refusal, 0);
            }
            None => counts.others += 1,
        }
        kinds == 0
    }

    fn flush(&self) {
        let Counts { more_of, others } = std::mem::take(&mut *self.counts.lock());
        for (refusal, more) in more_of.into_iter().filter(|(_, more)| *more > 0) {
            self.record(&refusal, Some(more));
        }
        if others > 0 {
            self.record(&Refusal { user: None, address: None, reason: "various reasons".to_owned() }, Some(others));
        }
    }

    /// A comment stands in the place of the statement that there was not.
    fn record(&self, refusal: &Refusal, more: Option<u64>) {
        let Refusal { user, address, reason } = refusal;
        let more = more.map(|count| format!(", {count} more")).unwrap_or_default();
        let record = StartRecord {
            statement_id: uuid::Uuid::now_v7().simple().to_string(),
            issuer: user.as_ref().map(|_| LOCAL_ISSUER.to_owned()).unwrap_or_default(),
            subject: user.clone().unwrap_or_default(),
            client_address: address.map(|address| address.to_string()),
            statement: format!("-- sign-in refused: {reason}{more}"),
            policies: serde_json::Value::Array(Vec::new()),
            ..StartRecord::default()
        };
        self.audit.note_refused(record, Decision::Deny, Status::Failed(ErrorKind::Unauthenticated));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::{AuditConfig, AuditKey};

    #[tokio::test]
    async fn refusals_are_counted_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let audit = AuditLog::open(dir.path(), AuditConfig::new(1, AuditKey::new([1; 32]))).unwrap();
        let refusals = Refusals { audit: audit.clone(), counts: Mutex::default() };
        let refusal = |user: &str| Refusal { user: Some(user.to_owned()), address: None, reason: "wrong password".to_owned() };
        assert!(refusals.add(refusal("ada")));
        assert!(!refusals.add(refusal("ada")));
        for number in 0..1000 {
            refusals.add(refusal(&format!("user {number}")));
        }
        refusals.flush();
        audit.flush().await.unwrap();
        let rows: Vec<_> = audit.read().unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), KINDS + 2);
        let of_ada: Vec<_> = rows.iter().filter(|row| row.record.subject == "ada").map(|row| row.record.statement.as_str()).collect();
        assert_eq!(of_ada, ["-- sign-in refused: wrong password", "-- sign-in refused: wrong password, 1 more"]);
        let others = format!("-- sign-in refused: various reasons, {} more", 1000 - KINDS + 1);
        assert!(rows.iter().any(|row| row.record.statement == others));
        assert!(
            rows.iter().all(|row| row.decision == Decision::Deny && row.status == "unauthenticated" && row.record.principal.is_empty())
        );
        assert!(refusals.add(refusal("ada")), "a new window has begun");
    }
}
