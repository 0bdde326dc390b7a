//! A JSON Web Token, taken apart within bounds. Its claims can be had only through a signature that verifies; the
//! one thing that may be read before is `iss`, to know whose keys to ask.
//!
//! Follows RFC 8725. `jsonwebtoken` does the cryptography only: its own validation is looser (60 s of leeway, `nbf`
//! unchecked, only `exp` required).

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::credential::MAX_TOKEN_BYTES;
use crate::error::Reason;

/// Claims of real issuers nest three or four deep (Keycloak's `resource_access`).
const MAX_DEPTH: usize = 16;

/// A token nobody has vouched for yet.
pub(crate) struct Unverified<'a> {
    pub header: Header,
    claims: Map<String, Value>,
    message: &'a str,
    signature: &'a str,
}

/// The header fields that are looked at. `jku`, `jwk`, `x5u` and `x5c` would let a token bring its own key: they are not.
#[derive(Deserialize)]
pub(crate) struct Header {
    pub alg: String,
    #[serde(default)]
    pub kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

/// The claims of a token whose signature has been verified.
#[derive(Debug)]
pub(crate) struct Claims(Map<String, Value>);

impl<'a> Unverified<'a> {
    pub(crate) fn parse(token: &'a str) -> Result<Self, Reason> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Reason::TooLong("token"));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Reason::Malformed("not three parts"))?;
        let (header, claims) = message.split_once('.').ok_or(Reason::Malformed("not three parts"))?;
        if claims.contains('.') {
            return Err(Reason::Malformed("not three parts"));
        }
        let header: Header = serde_json::from_slice(&json(header)?).map_err(|_| Reason::Malformed("header"))?;
        if header.crit.is_some() {
            return Err(Reason::Critical);
        }
        let claims = serde_json::from_slice(&json(claims)?).map_err(|_| Reason::Malformed("claims"))?;
        Ok(Self { header, claims, message, signature })
    }

    /// Only for choosing whose keys to verify with.
    pub(crate) fn claimed_issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    pub(crate) fn algorithm(&self) -> Result<Algorithm, Reason> {
        self.header.alg.parse().map_err(|_| Reason::Algorithm)
    }

    /// The header's `typ`, where there is one, without the optional `application/`.
    pub(crate) fn has_type_among(&self, allowed: &[&str]) -> bool {
        self.header.typ.as_deref().is_none_or(|typ| {
            let typ = typ.to_ascii_lowercase();
            allowed.contains(&typ.strip_prefix("application/").unwrap_or(&typ))
        })
    }

    /// Trades the token for its claims, if one of the keys made the signature.
    pub(crate) fn verify<'k>(self, algorithm: Algorithm, keys: impl IntoIterator<Item = &'k DecodingKey>) -> Result<Claims, Reason> {
        for key in keys {
            if key.family() == algorithm.family()
                && jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), key, algorithm) == Ok(true)
            {
                return Ok(Claims(self.claims));
            }
        }
        Err(Reason::Signature)
    }
}

impl Claims {
    /// A claim that must be there, as text that is not empty.
    pub(crate) fn text(&self, name: &str) -> Result<&str, Reason> {
        self.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).ok_or_else(|| Reason::Claim(name.to_owned()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A NumericDate: seconds, possibly with a fraction. `None` where it is absent.
    pub(crate) fn time(&self, name: &str) -> Result<Option<SystemTime>, Reason> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value
            .as_f64()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
            .map(Some)
            .ok_or_else(|| Reason::Claim(name.to_owned()))
    }

    /// `exp` must be there and ahead, `nbf` may be there and must be behind. Returns when the token stops being accepted.
    pub(crate) fn check_times(&self, now: SystemTime, leeway: Duration) -> Result<SystemTime, Reason> {
        let ends = self.time("exp")?.and_then(|exp| exp.checked_add(leeway)).ok_or_else(|| Reason::Claim("exp".to_owned()))?;
        if now >= ends {
            return Err(Reason::Expired);
        }
        if let Some(not_before) = self.time("nbf")?
            && now.checked_add(leeway).is_none_or(|now| now < not_before)
        {
            return Err(Reason::NotYetValid);
        }
        Ok(ends)
    }

    /// `aud` is a string or a list of strings; one of the allowed ones must be among them.
    pub(crate) fn check_audience(&self, allowed: &[String]) -> Result<(), Reason> {
        let matches = |value: &Value| value.as_str().is_some_and(|text| allowed.iter().any(|name| name == text));
        match self.get("aud") {
            Some(Value::Array(items)) if items.iter().any(matches) => Ok(()),
            Some(value @ Value::String(_)) if matches(value) => Ok(()),
            Some(Value::Array(_) | Value::String(_)) => Err(Reason::Audience),
            _ => Err(Reason::Claim("aud".to_owned())),
        }
    }

    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.0
    }
}

fn json(part: &str) -> Result<Vec<u8>, Reason> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::Malformed("base64"))?;
    if depth(&bytes) > MAX_DEPTH {
        return Err(Reason::Malformed("nested too deeply"));
    }
    Ok(bytes)
}

/// How deep lists and objects nest, found without building them.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn depth_ignores_text() {
        assert_eq!(depth(br#"{"a":[1,{"b":"[[[[{{\"[["}]}"#), 3);
        assert_eq!(depth(b"[[[[]]]]"), 4);
        assert_eq!(depth(b"1"), 0);
    }

    #[test]
    fn times_are_numbers_in_range() {
        let claims = |text: &str| Claims(serde_json::from_str(text).unwrap());
        for bad in [r#"{"exp":"1"}"#, r#"{"exp":-1}"#, r#"{"exp":1e300}"#, r#"{"exp":null}"#, "{}", r#"{"exp":[1]}"#] {
            let refused = claims(bad).check_times(SystemTime::UNIX_EPOCH, Duration::ZERO);
            assert_eq!(refused, Err(Reason::Claim("exp".to_owned())), "{bad}");
        }
        assert!(claims(r#"{"exp":1.5}"#).check_times(SystemTime::UNIX_EPOCH, Duration::ZERO).is_ok());
    }
}
