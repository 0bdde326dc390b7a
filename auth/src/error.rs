//! Why somebody was not let in: one text for the client, the reason for the log.

/// What a client is told, whatever the reason: a better text would help to guess names and passwords.
const REFUSED: &str = "authentication failed: a valid user name and password, or a valid token, is required";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The call carries no credential at all.
    #[error("{REFUSED}")]
    NoCredential,
    /// A credential that does not prove what it claims.
    #[error("{REFUSED}")]
    BadCredential(Reason),
    /// The bound on password checks waiting at once; it says nothing about the credential.
    #[error("too many sign-ins at once, try again")]
    Busy,
}

impl AuthError {
    /// For the log and the audit, never for the client.
    pub fn reason(&self) -> String {
        match self {
            Self::NoCredential => "no credential".to_owned(),
            Self::BadCredential(reason) => reason.to_string(),
            Self::Busy => "too many password checks at once".to_owned(),
        }
    }
}

impl From<Reason> for AuthError {
    fn from(reason: Reason) -> Self {
        Self::BadCredential(reason)
    }
}

/// Why a credential is refused. It names no secret, but it must not reach the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("malformed credential: {0}")]
    Malformed(&'static str),
    #[error("{0} is too long")]
    TooLong(&'static str),
    #[error("no such user")]
    UnknownUser,
    #[error("the user is disabled")]
    Disabled,
    #[error("the user has no password")]
    NoPassword,
    #[error("wrong password")]
    WrongPassword,
    #[error("too many failures, attempts are delayed")]
    Throttled,
    #[error("no issuer of this name is configured")]
    UnknownIssuer,
    #[error("the issuer's keys could not be loaded yet")]
    NoKeys,
    #[error("no key of the issuer has this key id")]
    UnknownKey,
    #[error("the token names no key id, and more than one key fits")]
    AmbiguousKey,
    #[error("the algorithm is not allowed for this key")]
    Algorithm,
    #[error("the signature does not verify")]
    Signature,
    #[error("claim \"{0}\" is missing or of the wrong type")]
    Claim(String),
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is of another type")]
    TokenType,
    #[error("an ID token is not an access token")]
    IdToken,
    #[error("the token has a critical header")]
    Critical,
    #[error("the token was issued before the user's password or state changed")]
    Revoked,
    #[error("no token has this id")]
    UnknownToken,
    #[error("the token's secret is wrong")]
    WrongToken,
    #[error("the token was made for another user")]
    TokenOfAnother,
    #[error("no user has this certificate's subject")]
    UnknownCertificate,
    #[error("this credential cannot be exchanged for a token")]
    NotExchangeable,
    #[error("internal: {0}")]
    Internal(&'static str),
}
