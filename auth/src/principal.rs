//! Who is asking. A principal is always (issuer, subject), a group (issuer, group).

use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::RoleId;

/// The issuer of users with passwords.
pub const LOCAL_ISSUER: &str = "local";

/// The stored, unambiguous name of a principal. Written `ada` for a local user, `hospital:ada` otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PrincipalName {
    pub issuer: String,
    pub subject: String,
}

impl PrincipalName {
    pub fn local(subject: impl Into<String>) -> Self {
        Self { issuer: LOCAL_ISSUER.to_owned(), subject: subject.into() }
    }

    pub fn new(issuer: impl Into<String>, subject: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), subject: subject.into() }
    }

    pub fn is_local(&self) -> bool {
        self.issuer == LOCAL_ISSUER
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_local() { f.write_str(&self.subject) } else { write!(f, "{}:{}", self.issuer, self.subject) }
    }
}

/// A group that an issuer's tokens name. Users with passwords have none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupName {
    pub issuer: String,
    pub group: String,
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.issuer, self.group)
    }
}

/// To whom a privilege, a role or a policy is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grantee {
    User(PrincipalName),
    Role(RoleId),
    Group(GroupName),
    /// Everyone; only a policy can be for all.
    All,
}

/// How a principal showed who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// Basic: a local user's name and password, on this very call.
    Password,
    /// A token that this server issued after a password handshake; its id is the session's key.
    OwnToken,
    /// A token of a configured issuer.
    ForeignToken,
    /// A token that was made for a service account by CREATE TOKEN.
    ServiceToken,
    /// A certificate that TLS has verified, on this very connection.
    Certificate,
}

impl CredentialKind {
    /// Whether it is the user, or a token that stands for the user's password. The others stand for one use of the user, and
    /// end by themselves: whoever has one must not make of it what lasts longer.
    pub fn is_users_own(self) -> bool {
        matches!(self, Self::Password | Self::OwnToken)
    }
}

/// A verified identity. Made by the authenticator only from a credential that it has checked.
#[derive(Clone, Debug)]
pub struct Principal {
    pub name: PrincipalName,
    pub groups: BTreeSet<GroupName>,
    /// The verified claims of the token; for a local user `{"sub": name}`.
    pub claims: Map<String, Value>,
    pub credential: CredentialKind,
    /// The token's `jti` where it has one; of a service account's token its id.
    pub token_id: Option<String>,
    /// After this moment the credential is refused.
    pub expires_at: Option<SystemTime>,
}

impl Principal {
    /// A local user who has shown the password, a token or a certificate.
    pub fn local_user(name: &str, credential: CredentialKind, token_id: Option<String>, expires_at: Option<SystemTime>) -> Self {
        let claims = Map::from_iter([("sub".to_owned(), Value::String(name.to_owned()))]);
        Self { name: PrincipalName::local(name), groups: BTreeSet::new(), claims, credential, token_id, expires_at }
    }

    /// Somebody who is not here, as a token of theirs would describe them; `sub` is the subject whatever the claims say. The
    /// credential stays that of the one who asks. It opens nothing by itself: only a session that may act for others
    /// makes use of it.
    pub fn as_another(&self, name: PrincipalName, groups: BTreeSet<GroupName>, mut claims: Map<String, Value>) -> Self {
        claims.insert("sub".to_owned(), Value::String(name.subject.clone()));
        Self { name, groups, claims, ..self.clone() }
    }

    /// A claim as text, or `None` where it is absent, null or not a scalar.
    pub fn claim(&self, name: &str) -> Option<String> {
        match self.claims.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(value) => Some(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// A claim as a list of texts: a scalar is a list of one, an absent claim an empty list.
    pub fn claim_list(&self, name: &str) -> Vec<String> {
        match self.claims.get(name) {
            Some(Value::Array(items)) => items.iter().filter_map(scalar_text).collect(),
            Some(value) => scalar_text(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Whether the token names this group, bare (`analysts`) or with its issuer (`hospital:analysts`). A group that has a
    /// colon in its own name is known only with its issuer: it must not pass for the group of another one.
    pub fn is_member(&self, group: &str) -> bool {
        self.groups.iter().any(|held| held.to_string() == group || (held.group == group && !group.contains(':')))
    }
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
