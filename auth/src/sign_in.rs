//! Local users with passwords: the same time and the same answer whether the name or the password is wrong.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;

use crate::authenticator::UserDirectory;
use crate::error::{AuthError, Reason};
use crate::own_token::{mac, random_bytes};
use crate::password::{self, PasswordError};
use crate::throttle::Throttle;

/// Drivers that send Basic on every call pay for one Argon2 a minute instead of one a call.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// More clients than the server has sessions for.
const MAX_REMEMBERED: u64 = 10_000;

pub(crate) struct SignIn {
    users: Arc<dyn UserDirectory>,
    throttle: Throttle,
    /// Credentials that verified lately, as a MAC under `memory_key` over name, password and stored hash: a new password
    /// makes another key. Equal sign-ins at once share one check.
    verified: Cache<[u8; 32], ()>,
    memory_key: [u8; 32],
    /// Stands in for the hash that an unknown or disabled user does not have.
    decoy: String,
}

impl SignIn {
    pub(crate) fn new(users: Arc<dyn UserDirectory>) -> Result<Self, Reason> {
        let memory_key = random_bytes().ok_or(Reason::Internal("no random numbers"))?;
        let decoy = password::hash_now(&uuid::Uuid::new_v4().to_string()).map_err(|_| Reason::Internal("hashing failed"))?;
        let verified = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED_FOR).build();
        Ok(Self { users, throttle: Throttle::new(), verified, memory_key, decoy })
    }

    pub(crate) async fn check(&self, user: &str, password: &str, address: Option<IpAddr>, now: Instant) -> Result<(), AuthError> {
        // Whoever may not sign in is checked against the decoy, so that refusing takes as long as verifying.
        let (hash, refused) = match self.users.user(user) {
            None => (None, Some(Reason::UnknownUser)),
            Some(found) if !found.enabled => (None, Some(Reason::Disabled)),
            Some(found) if found.password_hash.is_none() => (None, Some(Reason::NoPassword)),
            Some(found) => (found.password_hash, None),
        };
        let hash = hash.as_deref().unwrap_or(&self.decoy);
        let key = mac(&self.memory_key, &[user.as_bytes(), password.as_bytes(), hash.as_bytes()]);
        self.verified.try_get_with(key, self.verify(user, password, hash, refused, address, now)).await.map_err(|error| (*error).clone())
    }

    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.verified.invalidate_all();
    }

    async fn verify(
        &self,
        user: &str,
        password: &str,
        hash: &str,
        refused: Option<Reason>,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Result<(), AuthError> {
        let attempt = self.throttle.admit(user, address, now)?;
        match (password::verify(password, hash).await, refused) {
            (Ok(true), None) => {
                attempt.succeeded();
                Ok(())
            }
            (Ok(_), Some(reason)) => Err(reason.into()),
            (Ok(false), None) => Err(Reason::WrongPassword.into()),
            (Err(PasswordError::Busy), _) => {
                attempt.abandoned();
                Err(AuthError::Busy)
            }
            (Err(error), _) => {
                tracing::error!(user, %error, "a password could not be checked");
                Err(Reason::Internal("the password could not be checked").into())
            }
        }
    }
}
