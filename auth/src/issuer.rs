//! Tokens of configured identity providers: whose keys, which algorithms, and what a token must say.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Moment;
use crate::error::Reason;
use crate::jwks::{KeySet, Keys, KeysError, Origin};
use crate::own_token::OWN_ISSUER;
use crate::principal::{CredentialKind, GroupName, LOCAL_ISSUER, Principal, PrincipalName};
use crate::token::{Claims, Unverified};

/// Clocks that are further apart than this want mending, not forgiving.
const MAX_LEEWAY_S: u64 = 300;
/// Part of every principal's stored name.
const MAX_NAME_BYTES: usize = 64;
/// Longer than any subject or group that an identity provider gives out.
const MAX_SUBJECT_BYTES: usize = 1024;
/// `typ` of a JWT and of an access token (RFC 9068); Keycloak's access tokens say `JWT`.
const ACCESS_TOKEN_TYPES: [&str; 2] = ["jwt", "at+jwt"];
/// Values of Keycloak's claim `typ` that are tokens for other uses.
const OTHER_TOKEN_TYPES: [&str; 4] = ["id", "refresh", "offline", "logout"];

/// An identity provider whose access tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The short name: principals are `name:subject`. It cannot be renamed later, and `local` is taken.
    pub name: String,
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    /// Tokens must be for one of these (`aud`).
    pub audience: Vec<String>,
    /// Where its keys are fetched from: https, or http on loopback. Exactly one of jwks_url, jwks_file and public_key_file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// A file with its key set; it is read again when it is five minutes old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// A file with its one public key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_file: Option<PathBuf>,
    /// Signature algorithms that are accepted: RS, PS and ES with 256 or 384, RS512, PS512, EdDSA.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<String>,
    /// The claim that names the principal.
    #[serde(default = "default_subject_claim")]
    pub subject_claim: String,
    /// The claim that lists the groups.
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
    /// By how many seconds its clock may differ from ours.
    #[serde(default = "default_leeway_s")]
    pub leeway_s: u64,
}

fn default_algorithms() -> Vec<String> {
    vec!["RS256".to_owned(), "ES256".to_owned()]
}

fn default_subject_claim() -> String {
    "sub".to_owned()
}

fn default_groups_claim() -> String {
    "groups".to_owned()
}

fn default_leeway_s() -> u64 {
    5
}

/// What is wrong with the configuration of an issuer; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("issuer name \"{0}\" must be 1 to {MAX_NAME_BYTES} letters, digits, \"_\", \"-\" or \".\"")]
    Name(String),
    #[error("issuer name \"{0}\" is taken by the users with passwords")]
    NameTaken(String),
    #[error("two issuers have the name \"{0}\"")]
    DuplicateName(String),
    #[error("two issuers have the issuer \"{0}\"")]
    DuplicateIssuer(String),
    #[error("issuer \"{name}\": {key} must not be empty")]
    Empty { name: String, key: &'static str },
    #[error("issuer \"{name}\": the issuer \"{OWN_ISSUER}\" is this server's own")]
    OwnIssuer { name: String },
    #[error("issuer \"{name}\": give exactly one of jwks_url, jwks_file and public_key_file")]
    KeySource { name: String },
    #[error("issuer \"{name}\": algorithm \"{algorithm}\" is unknown")]
    UnknownAlgorithm { name: String, algorithm: String },
    #[error("issuer \"{name}\": algorithm \"{algorithm}\" has a shared secret; only public keys are accepted")]
    SecretAlgorithm { name: String, algorithm: String },
    #[error("issuer \"{name}\": leeway_s is at most {MAX_LEEWAY_S}")]
    Leeway { name: String },
    #[error("issuer \"{name}\": no usable keys")]
    Keys { name: String, source: KeysError },
}

pub(crate) struct Issuer {
    pub(crate) name: String,
    pub(crate) issuer: String,
    audience: Vec<String>,
    algorithms: Vec<Algorithm>,
    subject_claim: String,
    groups_claim: String,
    leeway: Duration,
    keys: Arc<Keys>,
}

/// A token that was found good, for as long as it is and the key set stays what it was.
pub(crate) struct Accepted {
    pub(crate) principal: Principal,
    /// Not accepted from then on: `exp` and the leeway.
    pub(crate) until: SystemTime,
    pub(crate) generation: u64,
}

/// Checks the configured issuers, each and together, and opens their keys. A URL is fetched when it is first needed, so
/// that the server starts while the identity provider is down; files are read now.
pub(crate) fn build_all(configs: Vec<IssuerConfig>) -> Result<Vec<Issuer>, IssuerError> {
    let mut issuers: Vec<Issuer> = Vec::with_capacity(configs.len());
    for config in configs {
        if issuers.iter().any(|other| other.name.eq_ignore_ascii_case(&config.name)) {
            return Err(IssuerError::DuplicateName(config.name));
        }
        if issuers.iter().any(|other| other.issuer == config.issuer) {
            return Err(IssuerError::DuplicateIssuer(config.issuer));
        }
        issuers.push(config.build()?);
    }
    Ok(issuers)
}

impl IssuerConfig {
    fn build(self) -> Result<Issuer, IssuerError> {
        let name = self.name;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
            return Err(IssuerError::Name(name));
        }
        if name.eq_ignore_ascii_case(LOCAL_ISSUER) {
            return Err(IssuerError::NameTaken(name));
        }
        let empty = [
            ("issuer", self.issuer.is_empty()),
            ("audience", self.audience.is_empty() || self.audience.iter().any(String::is_empty)),
            ("algorithms", self.algorithms.is_empty()),
            ("subject_claim", self.subject_claim.is_empty()),
            ("groups_claim", self.groups_claim.is_empty()),
        ];
        if let Some((key, _)) = empty.into_iter().find(|(_, empty)| *empty) {
            return Err(IssuerError::Empty { name, key });
        }
        if self.issuer == OWN_ISSUER {
            return Err(IssuerError::OwnIssuer { name });
        }
        if self.leeway_s > MAX_LEEWAY_S {
            return Err(IssuerError::Leeway { name });
        }
        let algorithms = algorithms(&name, &self.algorithms)?;
        let origin = match (self.jwks_url, self.jwks_file, self.public_key_file) {
            (Some(url), None, None) => Origin::url(&url),
            (None, Some(path), None) => Ok(Origin::JwksFile(path)),
            (None, None, Some(path)) => Ok(Origin::PemFile(path)),
            _ => return Err(IssuerError::KeySource { name }),
        };
        let keys = origin.and_then(|origin| Keys::open(&name, origin, algorithms.clone()));
        match keys {
            Ok(keys) => Ok(Issuer {
                name,
                issuer: self.issuer,
                audience: self.audience,
                algorithms,
                subject_claim: self.subject_claim,
                groups_claim: self.groups_claim,
                leeway: Duration::from_secs(self.leeway_s),
                keys: Arc::new(keys),
            }),
            Err(source) => Err(IssuerError::Keys { name, source }),
        }
    }
}

fn algorithms(name: &str, texts: &[String]) -> Result<Vec<Algorithm>, IssuerError> {
    texts
        .iter()
        .map(|text| match text.parse::<Algorithm>() {
            Err(_) => Err(IssuerError::UnknownAlgorithm { name: name.to_owned(), algorithm: text.clone() }),
            Ok(algorithm) if algorithm.family() == AlgorithmFamily::Hmac => {
                Err(IssuerError::SecretAlgorithm { name: name.to_owned(), algorithm: text.clone() })
            }
            Ok(algorithm) => Ok(algorithm),
        })
        .collect()
}

impl Issuer {
    /// The generation of the key set in force, which fetches or refreshes it where it is due.
    pub(crate) async fn generation(&self, now: Moment) -> u64 {
        self.keys.current(now.steady).await.generation
    }

    /// Signature first; only then is anything that the token says looked at.
    pub(crate) async fn verify(&self, token: Unverified<'_>, now: Moment) -> Result<Accepted, Reason> {
        let algorithm = token.algorithm()?;
        if !self.algorithms.contains(&algorithm) {
            return Err(Reason::Algorithm);
        }
        if !token.has_type_among(&ACCESS_TOKEN_TYPES) {
            return Err(Reason::TokenType);
        }
        let set = self.key_set(token.header.kid.as_deref(), now).await?;
        let keys = set.candidates(token.header.kid.as_deref(), algorithm)?;
        let claims = token.verify(algorithm, keys)?;
        let (principal, until) = self.read(claims, now.wall)?;
        Ok(Accepted { principal, until, generation: set.generation })
    }

    /// The key set, fetched again (within its limits) where it does not know the key.
    async fn key_set(&self, kid: Option<&str>, now: Moment) -> Result<Arc<KeySet>, Reason> {
        let mut set = self.keys.current(now.steady).await;
        if !set.knows(kid) {
            set = self.keys.refreshed(now.steady).await;
        }
        if set.generation == 0 { Err(Reason::NoKeys) } else { Ok(set) }
    }

    fn read(&self, claims: Claims, now: SystemTime) -> Result<(Principal, SystemTime), Reason> {
        if claims.text("iss")? != self.issuer {
            return Err(Reason::UnknownIssuer);
        }
        claims.check_audience(&self.audience)?;
        let until = claims.check_times(now, self.leeway)?;
        if is_id_token(&claims) {
            return Err(Reason::IdToken);
        }
        if claims
            .get("typ")
            .and_then(Value::as_str)
            .is_some_and(|typ| OTHER_TOKEN_TYPES.iter().any(|other| typ.eq_ignore_ascii_case(other)))
        {
            return Err(Reason::TokenType);
        }
        let subject = claims.text(&self.subject_claim)?;
        if subject.len() > MAX_SUBJECT_BYTES || subject.chars().any(char::is_control) {
            return Err(Reason::Claim(self.subject_claim.clone()));
        }
        let principal = Principal {
            name: PrincipalName::new(&self.name, subject),
            groups: self.groups(&claims)?,
            credential: CredentialKind::ForeignToken,
            token_id: claims.get("jti").and_then(Value::as_str).map(str::to_owned),
            expires_at: Some(until),
            claims: claims.into_map(),
        };
        Ok((principal, until))
    }

    /// Groups take away (restrictive policies, DENY) as well as give: a claim that is not understood, or that the issuer
    /// left out for its size (`_claim_names`, as Entra ID does), refuses the token.
    fn groups(&self, claims: &Claims) -> Result<BTreeSet<GroupName>, Reason> {
        let malformed = || Reason::Claim(self.groups_claim.clone());
        if claims.get("_claim_names").is_some_and(|names| names.get(&self.groups_claim).is_some()) {
            return Err(malformed());
        }
        let named = match claims.get(&self.groups_claim) {
            None => &[][..],
            Some(Value::Array(items)) => items.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let group = |value: &Value| match value.as_str() {
            Some(text) if !text.is_empty() && text.len() <= MAX_SUBJECT_BYTES => {
                Ok(GroupName { issuer: self.name.clone(), group: text.to_owned() })
            }
            _ => Err(malformed()),
        };
        named.iter().map(group).collect()
    }
}

/// Keycloak says so in the claim `typ`; elsewhere a nonce without a scope, or a hash of an accompanying token, tells.
fn is_id_token(claims: &Claims) -> bool {
    let has = |name| claims.get(name).is_some();
    claims.get("typ").and_then(Value::as_str).is_some_and(|typ| typ.eq_ignore_ascii_case("id"))
        || (has("nonce") && !has("scope") && !has("scp"))
        || has("at_hash")
        || has("c_hash")
}
