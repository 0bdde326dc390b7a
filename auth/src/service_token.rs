//! Tokens of service accounts: made by name, shown once, ended by a date or by DROP TOKEN.
//!
//! A token is `lzt_<id>_<secret>`. What is stored is the SHA-256 of it: the secret is random and long, so that nothing slower
//! is needed, and the look-up on every call costs nothing.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::TokenId;
use crate::own_token::random_bytes;

/// By which it is known at sight, also to those who look for secrets in places where they should not be.
const PREFIX: &str = "lzt_";
const SECRET_BYTES: usize = 32;
/// What is longer and begins like a token is one, or was: its id alone has 32 characters.
const LONGEST_NAME: usize = 31;

/// What is stored of a token.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash([u8; 32]);

/// A token that has just been made, on its way to whoever asked for it.
pub struct NewToken {
    pub id: TokenId,
    pub hash: TokenHash,
    text: String,
}

/// A token as a client shows it. Nothing about it has been checked.
pub(crate) struct ShownToken {
    pub id: TokenId,
    pub hash: TokenHash,
}

impl NewToken {
    /// `None` where the system has no random numbers to give.
    pub fn generate() -> Option<Self> {
        let id = TokenId::generate();
        let text = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(random_bytes()?));
        Some(Self { id, hash: TokenHash::of(&text), text })
    }

    /// To be shown once, and kept nowhere.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ShownToken {
    /// `None`: it is something else, such as a password or a token of an issuer.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?;
        (secret.len() == SECRET_BYTES).then_some(Self { id: TokenId::parse(id)?, hash: TokenHash::of(text) })
    }
}

/// The text with every token in it hidden, whole or not: for what is kept of statements, into which people paste things.
pub fn hide_tokens(text: String) -> String {
    if !text.contains(PREFIX) {
        return text;
    }
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text.as_str());
    while let Some(at) = rest.find(PREFIX) {
        let (before, token) = rest.split_at(at + PREFIX.len());
        let end = token.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').unwrap_or(token.len());
        kept.push_str(before);
        kept.push_str(if end > LONGEST_NAME { "***" } else { &token[..end] });
        rest = &token[end..];
    }
    kept + rest
}

impl TokenHash {
    fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(***)")
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        URL_SAFE_NO_PAD.encode(hash.0)
    }
}

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| "a token's hash is not base64")?;
        bytes.try_into().map(Self).map_err(|_| "a token's hash has 32 bytes")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_made() {
        let token = NewToken::generate().unwrap();
        let shown = ShownToken::read(token.reveal()).unwrap();
        assert_eq!((shown.id, shown.hash), (token.id, token.hash));
        assert!(token.reveal().starts_with(&format!("lzt_{}_", token.id)));
        assert_ne!(NewToken::generate().unwrap().reveal(), token.reveal());
        let stored = serde_json::to_string(&token.hash).unwrap();
        assert_eq!(serde_json::from_str::<TokenHash>(&stored).unwrap(), token.hash);
        for text in ["\"\"", "\"AAAA\"", "7"] {
            assert!(serde_json::from_str::<TokenHash>(text).is_err());
        }
        let secret = token.reveal().splitn(3, '_').nth(2).unwrap();
        for printed in [format!("{token:?}"), format!("{:?}", token.hash), stored] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }

    #[test]
    fn tokens_are_hidden_wherever_they_stand() {
        let token = NewToken::generate().unwrap().reveal().to_owned();
        let hidden = hide_tokens(format!("SELECT '{token}', \"{token}x\" /* {} */ -- {token}", &token[..60]));
        assert_eq!(hidden, "SELECT 'lzt_***', \"lzt_***\" /* lzt_*** */ -- lzt_***");
        for text in ["SELECT lzt_column FROM lzt_", "SELECT 'lzt_a-b', 1", "SELECT 1"] {
            assert_eq!(hide_tokens(text.to_owned()), text);
        }
    }

    #[test]
    fn what_is_not_of_that_form_is_no_token() {
        let token = NewToken::generate().unwrap().reveal().to_owned();
        let cut = &token[..token.len() - 1];
        for text in
            ["", "lzt_", "lzt__", "lzt_a_b", "eyJ.eyJ.x", "correct horse", cut, &token[4..], &format!("{token}A"), &token.to_uppercase()]
        {
            assert!(ShownToken::read(text).is_none(), "{text}");
        }
    }
}
