//! From a credential to a [`Principal`]: the one place where that happens.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::certificate::{CertificateSubject, ClientCertificate};
use crate::clock::Moment;
use crate::credential::Credential;
use crate::error::{AuthError, Reason};
use crate::ids::TokenId;
use crate::issuer::{self, Accepted, Issuer, IssuerConfig, IssuerError};
use crate::own_token::{IssuedToken, OWN_ISSUER, OwnTokens, TokenKey};
use crate::principal::{CredentialKind, Principal};
use crate::service_token::{ShownToken, TokenHash};
use crate::sign_in::SignIn;
use crate::token::Unverified;

/// Verified foreign tokens kept, by the bytes that their claims take.
const VERIFIED_BYTES: u64 = 32 * 1024 * 1024;
/// Parsed claims take about so many times the bytes of the token.
const CLAIMS_FACTOR: usize = 4;
/// A token that is not used for so long is verified again.
const VERIFIED_IDLE: Duration = Duration::from_secs(10 * 60);

/// The local users, as they are at this moment. An in-memory look-up: it happens on every call.
pub trait UserDirectory: Send + Sync {
    fn user(&self, name: &str) -> Option<StoredUser>;

    fn token(&self, id: TokenId) -> Option<StoredToken>;

    /// The name of the user whose certificates have this subject, and whether it is enabled.
    fn certificate_user(&self, subject: &CertificateSubject) -> Option<(String, bool)>;
}

/// What must be known of a token that was made for a service account.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredToken {
    pub user: String,
    /// Of the user.
    pub enabled: bool,
    pub hash: TokenHash,
    /// In seconds since the epoch; refused from then on.
    pub expires_at_s: u64,
}

/// What signing in needs to know of a local user.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredUser {
    /// An Argon2id PHC string; without one the user cannot sign in with a password.
    pub password_hash: Option<String>,
    pub enabled: bool,
    /// Our own tokens issued before this moment (seconds since the epoch) are refused.
    pub tokens_valid_after_s: u64,
}

pub struct AuthenticatorConfig {
    pub issuers: Vec<IssuerConfig>,
    pub token_key: TokenKey,
    /// How long a token that we issue is valid.
    pub token_lifetime: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthenticatorError {
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error("authentication cannot start: {0}")]
    Start(Reason),
}

pub struct Authenticator {
    users: Arc<dyn UserDirectory>,
    sign_in: SignIn,
    own: OwnTokens,
    issuers: Vec<Issuer>,
    /// From the `iss` of a token to its place in `issuers`.
    by_claim: HashMap<String, usize>,
    /// By SHA-256 of the token, so that the cache holds no secret.
    verified: Cache<[u8; 32], Arc<Verified>>,
}

struct Verified {
    issuer: usize,
    accepted: Accepted,
    token_bytes: usize,
}

impl Authenticator {
    pub fn new(config: AuthenticatorConfig, users: Arc<dyn UserDirectory>) -> Result<Self, AuthenticatorError> {
        let issuers = issuer::build_all(config.issuers)?;
        let by_claim = issuers.iter().enumerate().map(|(at, issuer)| (issuer.issuer.clone(), at)).collect();
        let verified = Cache::builder()
            .max_capacity(VERIFIED_BYTES)
            .weigher(|_, verified: &Arc<Verified>| u32::try_from(verified.token_bytes * CLAIMS_FACTOR).unwrap_or(u32::MAX))
            .time_to_idle(VERIFIED_IDLE)
            .build();
        let sign_in = SignIn::new(Arc::clone(&users)).map_err(AuthenticatorError::Start)?;
        Ok(Self { users, sign_in, own: OwnTokens::new(&config.token_key, config.token_lifetime), issuers, by_claim, verified })
    }

    /// The configured names of the issuers, in their order.
    pub fn issuer_names(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|issuer| issuer.name.as_str())
    }

    /// Who shows this credential. The reason of a refusal goes to the log; every refusal reads the same to the client.
    pub async fn authenticate(&self, credential: &Credential, address: Option<IpAddr>) -> Result<Principal, AuthError> {
        let result = self.authenticate_at(credential, address, Moment::now()).await;
        match &result {
            Ok(principal) => tracing::debug!(principal = %principal.name, kind = ?principal.credential, ?address, "authenticated"),
            Err(error) => tracing::info!(?credential, ?address, reason = error.reason(), "authentication refused"),
        }
        result
    }

    /// A token of our own for a user who has just shown the password. Any other credential cannot be turned into one: it
    /// would outlive its own end. A client that brings a token to the handshake is given that token back.
    pub fn issue(&self, principal: &Principal) -> Result<IssuedToken, AuthError> {
        self.issue_at(principal, SystemTime::now())
    }

    pub(crate) async fn authenticate_at(
        &self,
        credential: &Credential,
        address: Option<IpAddr>,
        now: Moment,
    ) -> Result<Principal, AuthError> {
        match credential {
            // Tools that know only names and passwords show a token in the password's place.
            Credential::Basic { user, password } => match ShownToken::read(password) {
                Some(token) => Ok(self.service_token(&token, Some(user), now.wall)?),
                None => {
                    self.sign_in.check(user, password, address, now.steady).await?;
                    Ok(Principal::local_user(user, CredentialKind::Password, None, None))
                }
            },
            Credential::Bearer(token) => match ShownToken::read(token) {
                Some(token) => Ok(self.service_token(&token, None, now.wall)?),
                None => Ok(self.bearer(token, now).await?),
            },
            Credential::Certificate(certificate) => Ok(self.certificate(certificate, now.wall)?),
        }
    }

    /// No throttle: nobody guesses the secret of such a token.
    fn service_token(&self, token: &ShownToken, user: Option<&str>, now: SystemTime) -> Result<Principal, Reason> {
        let stored = self.users.token(token.id).ok_or(Reason::UnknownToken)?;
        // Hashes of random secrets: how far two of them agree helps nobody who has not got the secret.
        if stored.hash != token.hash {
            return Err(Reason::WrongToken);
        }
        if user.is_some_and(|user| user != stored.user) {
            return Err(Reason::TokenOfAnother);
        }
        if !stored.enabled {
            return Err(Reason::Disabled);
        }
        let expires_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(stored.expires_at_s));
        let expires_at = expires_at.ok_or(Reason::Internal("token lifetime"))?;
        if now >= expires_at {
            return Err(Reason::Expired);
        }
        Ok(Principal::local_user(&stored.user, CredentialKind::ServiceToken, Some(token.id.to_string()), Some(expires_at)))
    }

    /// TLS has verified it when the connection was made, which may be long ago.
    fn certificate(&self, certificate: &ClientCertificate, now: SystemTime) -> Result<Principal, Reason> {
        if now > certificate.not_after {
            return Err(Reason::Expired);
        }
        match self.users.certificate_user(&certificate.subject).ok_or(Reason::UnknownCertificate)? {
            (_, false) => Err(Reason::Disabled),
            (name, true) => Ok(Principal::local_user(&name, CredentialKind::Certificate, None, Some(certificate.not_after))),
        }
    }

    pub(crate) fn issue_at(&self, principal: &Principal, now: SystemTime) -> Result<IssuedToken, AuthError> {
        if principal.credential != CredentialKind::Password || !principal.name.is_local() {
            return Err(Reason::NotExchangeable.into());
        }
        let name = &principal.name.subject;
        let user = self.users.user(name).ok_or(Reason::UnknownUser)?;
        if !user.enabled {
            return Err(Reason::Disabled.into());
        }
        Ok(self.own.issue(name, &user, now)?)
    }

    async fn bearer(&self, token: &str, now: Moment) -> Result<Principal, Reason> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.verified.get(&key) {
            if now.wall < known.accepted.until && self.issuers[known.issuer].generation(now).await == known.accepted.generation {
                return Ok(known.accepted.principal.clone());
            }
            self.verified.invalidate(&key);
        }
        let unverified = Unverified::parse(token)?;
        // Nothing is believed here: `iss` only says whose keys the signature must be of.
        let claimed = unverified.claimed_issuer().ok_or_else(|| Reason::Claim("iss".to_owned()))?;
        if claimed == OWN_ISSUER {
            return self.own.verify(unverified, self.users.as_ref(), now.wall);
        }
        let issuer = *self.by_claim.get(claimed).ok_or(Reason::UnknownIssuer)?;
        let accepted = self.issuers[issuer].verify(unverified, now).await?;
        let principal = accepted.principal.clone();
        self.verified.insert(key, Arc::new(Verified { issuer, accepted, token_bytes: token.len() }));
        Ok(principal)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("issuers", &self.issuer_names().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "service_account_tests.rs"]
mod service_account_tests;
#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;
