//! The `Authorization` header as a value.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::certificate::ClientCertificate;
use crate::error::{AuthError, Reason};

/// A token with many groups is about 8 KiB; hyper's default for all headers together is 16 KiB.
pub(crate) const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Longer than any e-mail address or LDAP name in use.
pub const MAX_USER_NAME_BYTES: usize = 256;
/// Far above any passphrase, and small enough that hashing it costs the same as hashing a short one.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// arrow-go sends Basic without padding, everyone else with it.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// What a client showed, not yet checked.
#[derive(Clone)]
pub enum Credential {
    Basic {
        user: String,
        password: String,
    },
    Bearer(String),
    /// Of a call that shows nothing else. TLS has verified it.
    Certificate(ClientCertificate),
}

impl Credential {
    /// Reads the certificate (DER) that a client has shown to TLS.
    pub fn from_certificate(der: &[u8]) -> Result<Self, AuthError> {
        Ok(Self::Certificate(ClientCertificate::read(der).ok_or(Reason::Malformed("certificate"))?))
    }

    /// Reads the value of an `Authorization` header.
    pub fn from_header(value: &str) -> Result<Self, AuthError> {
        let value = value.trim();
        if value.is_empty() {
            return Err(AuthError::NoCredential);
        }
        let (scheme, rest) = value.split_once(' ').ok_or(Reason::Malformed("no scheme"))?;
        let rest = rest.trim_start();
        if scheme.eq_ignore_ascii_case("bearer") {
            Ok(bearer(rest)?)
        } else if scheme.eq_ignore_ascii_case("basic") {
            Ok(basic(rest)?)
        } else {
            Err(Reason::Malformed("unknown scheme").into())
        }
    }
}

/// Whether a local user can have this name. Basic cannot carry a colon, and `hospital:ada` is somebody else's.
pub fn is_user_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_USER_NAME_BYTES && !name.chars().any(|c| c == ':' || c.is_control())
}

fn bearer(token: &str) -> Result<Credential, Reason> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Reason::TooLong("token"));
    }
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Reason::Malformed("token characters"));
    }
    Ok(Credential::Bearer(token.to_owned()))
}

fn basic(encoded: &str) -> Result<Credential, Reason> {
    // Base64 makes four bytes of three.
    if encoded.len() > (MAX_USER_NAME_BYTES + 1 + MAX_PASSWORD_BYTES).div_ceil(3) * 4 {
        return Err(Reason::TooLong("user name or password"));
    }
    let decoded = BASE64.decode(encoded).map_err(|_| Reason::Malformed("base64"))?;
    let text = String::from_utf8(decoded).map_err(|_| Reason::Malformed("UTF-8"))?;
    let (user, password) = text.split_once(':').ok_or(Reason::Malformed("no colon"))?;
    if user.len() > MAX_USER_NAME_BYTES {
        return Err(Reason::TooLong("user name"));
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(Reason::TooLong("password"));
    }
    if !is_user_name(user) {
        return Err(Reason::Malformed("user name characters"));
    }
    Ok(Credential::Basic { user: user.to_owned(), password: password.to_owned() })
}

/// Shows no secret, so that a credential cannot slip into a log.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { user, .. } => write!(f, "Basic({user:?}, ***)"),
            Self::Bearer(_) => f.write_str("Bearer(***)"),
            Self::Certificate(certificate) => write!(f, "Certificate({:?})", certificate.subject.as_str()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

    use super::*;

    fn read(value: &str) -> Result<(String, String), String> {
        match Credential::from_header(value) {
            Ok(Credential::Basic { user, password }) => Ok((user, password)),
            Ok(Credential::Bearer(token)) => Ok(("bearer".to_owned(), token)),
            Ok(Credential::Certificate(_)) => panic!("a header holds no certificate"),
            Err(error) => Err(error.reason()),
        }
    }

    fn pair(user: &str, password: &str) -> Result<(String, String), String> {
        Ok((user.to_owned(), password.to_owned()))
    }

    #[test]
    fn reads_what_drivers_send() {
        assert_eq!(read(&format!("Basic {}", STANDARD.encode("ana:pw"))), pair("ana", "pw"));
        assert_eq!(read(&format!("Basic {}", STANDARD_NO_PAD.encode("ana:pw1"))), pair("ana", "pw1"));
        assert_eq!(read(&format!("bAsIc {}", STANDARD.encode("ana:a:b:"))), pair("ana", "a:b:"));
        assert_eq!(read(&format!("Basic   {} ", STANDARD.encode("joão:çã"))), pair("joão", "çã"));
        assert_eq!(read(&format!("Basic {}", STANDARD.encode("ana:"))), pair("ana", ""));
        assert_eq!(read("BEARER a.b.c"), pair("bearer", "a.b.c"));
    }

    #[test]
    fn refuses_the_rest_with_a_reason() {
        let long_user = STANDARD.encode(format!("{}:x", "u".repeat(MAX_USER_NAME_BYTES + 1)));
        let long_password = STANDARD.encode(format!("u:{}", "p".repeat(MAX_PASSWORD_BYTES + 1)));
        let cases = [
            ("", "no credential"),
            ("   ", "no credential"),
            ("Bearer", "malformed credential: no scheme"),
            ("Digest abc", "malformed credential: unknown scheme"),
            ("Bearer a b", "malformed credential: token characters"),
            ("Bearer a\u{e4}", "malformed credential: token characters"),
            ("Basic !!!", "malformed credential: base64"),
            (&format!("Basic {}", STANDARD.encode([0xff, b':', 0xff])), "malformed credential: UTF-8"),
            (&format!("Basic {}", STANDARD.encode("nocolon")), "malformed credential: no colon"),
            (&format!("Basic {}", STANDARD.encode(":pw")), "malformed credential: user name characters"),
            (&format!("Basic {}", STANDARD.encode("a\0b:pw")), "malformed credential: user name characters"),
            (&format!("Basic {long_user}"), "user name is too long"),
            (&format!("Basic {long_password}"), "password is too long"),
            (&format!("Basic {}", "A".repeat(100_000)), "user name or password is too long"),
            (&format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1)), "token is too long"),
        ];
        for (header, reason) in cases {
            assert_eq!(read(header), Err(reason.to_owned()), "{header:.40}");
        }
    }

    #[test]
    fn clients_see_one_text_and_logs_no_secret() {
        let texts = [AuthError::NoCredential, Reason::Expired.into(), Reason::WrongPassword.into(), Reason::UnknownUser.into()]
            .map(|error| error.to_string());
        assert!(texts.iter().all(|text| *text == texts[0]));
        let shown = format!("{:?}{:?}", Credential::from_header("Bearer s3cret"), Credential::from_header("Basic dTpzM2NyZXQ="));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
