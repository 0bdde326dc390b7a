//! The token that a client gets for its password: a JWT of our own, signed with a key that survives a restart, because
//! drivers do not sign in again when a token stops working.
//!
//! The user is looked up on every call, so that disabling, dropping or a new password takes effect on the next one.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rand::TryRngCore as _;
use serde::Serialize;
use sha2::Sha256;
use uuid::Uuid;

use crate::authenticator::{StoredUser, UserDirectory};
use crate::clock::unix_s;
use crate::error::Reason;
use crate::principal::{CredentialKind, Principal};
use crate::token::{Claims, Unverified};

/// `iss` of our own tokens; no configured issuer may have it.
pub const OWN_ISSUER: &str = "lazaret";
/// `aud` of our own tokens.
const OWN_AUDIENCE: &str = "lazaret";
/// The only algorithm they are signed and verified with: who verifies is who signs.
const ALGORITHM: Algorithm = Algorithm::HS256;
/// Typed explicitly (RFC 8725, 3.11), so that nothing else signed with this key could pass for one.
const TYPE: &str = "at+jwt";
const KEY_BYTES: usize = 32;

/// The server's secret key, of which the keys for tokens, tickets and the like are derived.
#[derive(Clone)]
pub struct TokenKey([u8; KEY_BYTES]);

#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    #[error("the key file {} cannot be read or written", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the key file {} is not {KEY_BYTES} bytes long: restore it, or remove it, which ends every session", .0.display())]
    Damaged(PathBuf),
    #[error("the key file {} can be read by every user of this machine: chmod 600", .0.display())]
    Exposed(PathBuf),
    #[error("the system gives no random numbers")]
    Random,
}

impl TokenKey {
    /// The key in this file, or a new one that is written there first. Whoever loses the race uses the winner's.
    pub fn load_or_create(path: &Path) -> Result<Self, TokenKeyError> {
        match Self::load(path) {
            Err(TokenKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        match create(path, &Self::generate()?.0) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(TokenKeyError::Io { path: path.to_owned(), source }),
            _ => Self::load(path),
        }
    }

    pub fn generate() -> Result<Self, TokenKeyError> {
        random_bytes().map(Self).ok_or(TokenKeyError::Random)
    }

    /// A key for one purpose, of which neither this one nor that of another purpose can be told.
    pub fn derive(&self, purpose: &str) -> [u8; KEY_BYTES] {
        mac(&self.0, &[purpose.as_bytes()])
    }

    /// The key in this file, which must be there.
    pub fn load(path: &Path) -> Result<Self, TokenKeyError> {
        let failed = |source| TokenKeyError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            if file.metadata().map_err(failed)?.permissions().mode() & 0o007 != 0 {
                return Err(TokenKeyError::Exposed(path.to_owned()));
            }
        }
        let mut bytes = Vec::with_capacity(KEY_BYTES);
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        bytes.try_into().map(Self).map_err(|_| TokenKeyError::Damaged(path.to_owned()))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(***)")
    }
}

/// Random bytes from the system, or `None` where it has none to give.
pub(crate) fn random_bytes() -> Option<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).ok()?;
    Some(bytes)
}

/// HMAC-SHA256 over the parts, each with its length before it.
pub(crate) fn mac(key: &[u8; KEY_BYTES], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as hmac::digest::KeyInit>::new(&key_block(key).into());
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// HMAC fills a key up to the hash's block with zeros; done here, it cannot fail on the length.
pub(crate) fn key_block(key: &[u8; KEY_BYTES]) -> [u8; 64] {
    let mut block = [0; 64];
    block[..KEY_BYTES].copy_from_slice(key);
    block
}

/// The file appears under its name whole or not at all, and is on disk when this returns.
fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = folder.join(format!(".{}.draft", Uuid::new_v4().simple()));
    let written = write_private(&draft, bytes).and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    written.and(removed)?;
    File::open(folder)?.sync_all()
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A token as it goes to the client.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedToken {
    pub token: String,
    /// The token's `jti`: the key of the client's session.
    pub id: String,
    pub expires_at: SystemTime,
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken").field("id", &self.id).field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

pub(crate) struct OwnTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    stamping: [u8; KEY_BYTES],
    lifetime: Duration,
}

#[derive(Serialize)]
struct Issued<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    jti: &'a str,
    iat: u64,
    exp: u64,
    stamp: String,
}

impl OwnTokens {
    pub(crate) fn new(key: &TokenKey, lifetime: Duration) -> Self {
        let secret = key.derive("own tokens");
        Self {
            signing: EncodingKey::from_secret(&secret),
            verifying: DecodingKey::from_secret(&secret),
            stamping: key.derive("user stamps"),
            lifetime,
        }
    }

    pub(crate) fn issue(&self, name: &str, user: &StoredUser, now: SystemTime) -> Result<IssuedToken, Reason> {
        let id = Uuid::new_v4().simple().to_string();
        let iat = unix_s(now);
        let exp = iat.saturating_add(self.lifetime.as_secs());
        let expires_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp)).ok_or(Reason::Internal("token lifetime"))?;
        let claims = Issued { iss: OWN_ISSUER, aud: OWN_AUDIENCE, sub: name, jti: &id, iat, exp, stamp: self.stamp(user) };
        let header = Header { typ: Some(TYPE.to_owned()), ..Header::new(ALGORITHM) };
        let token = jsonwebtoken::encode(&header, &claims, &self.signing).map_err(|_| Reason::Internal("signing failed"))?;
        Ok(IssuedToken { token, id, expires_at })
    }

    pub(crate) fn verify(&self, token: Unverified<'_>, users: &dyn UserDirectory, now: SystemTime) -> Result<Principal, Reason> {
        if token.algorithm()? != ALGORITHM {
            return Err(Reason::Algorithm);
        }
        if !token.has_type_among(&[TYPE]) {
            return Err(Reason::TokenType);
        }
        let claims = token.verify(ALGORITHM, [&self.verifying])?;
        if claims.text("iss")? != OWN_ISSUER {
            return Err(Reason::UnknownIssuer);
        }
        claims.check_audience(&[OWN_AUDIENCE.to_owned()])?;
        let expires_at = claims.check_times(now, Duration::ZERO)?;
        let (name, id) = (claims.text("sub")?, claims.text("jti")?);
        self.check_user(&claims, &users.user(name).ok_or(Reason::UnknownUser)?)?;
        Ok(Principal::local_user(name, CredentialKind::OwnToken, Some(id.to_owned()), Some(expires_at)))
    }

    fn check_user(&self, claims: &Claims, user: &StoredUser) -> Result<(), Reason> {
        if !user.enabled {
            return Err(Reason::Disabled);
        }
        let issued_at = claims.time("iat")?.ok_or_else(|| Reason::Claim("iat".to_owned()))?;
        if unix_s(issued_at) < user.tokens_valid_after_s || claims.text("stamp")? != self.stamp(user) {
            return Err(Reason::Revoked);
        }
        Ok(())
    }

    /// Ties a token to the user's state: a token made in the very second of a password change, or for a dropped user
    /// whose name was given to another, does not pass. `iat` alone, in whole seconds, would let both through.
    fn stamp(&self, user: &StoredUser) -> String {
        let hash = user.password_hash.as_deref().unwrap_or_default();
        URL_SAFE_NO_PAD.encode(mac(&self.stamping, &[hash.as_bytes(), &user.tokens_valid_after_s.to_be_bytes()]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_key_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.key");
        let first = TokenKey::load_or_create(&path).unwrap();
        let second = TokenKey::load_or_create(&path).unwrap();
        assert_eq!(first.0, second.0);
        assert_ne!(first.0, TokenKey::generate().unwrap().0);
        assert_ne!(first.derive("tickets"), first.derive("own tokens"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left behind");
        assert_eq!(format!("{first:?}"), "TokenKey(***)");
    }

    #[test]
    fn who_starts_at_once_agrees_on_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| TokenKey::load_or_create(&path).unwrap().0)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[cfg(unix)]
    #[test]
    fn the_key_file_is_private_or_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.key");
        TokenKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(TokenKey::load_or_create(&path), Err(TokenKeyError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for bad in [&b""[..], b"short", &[7; 33]] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(TokenKey::load_or_create(&path), Err(TokenKeyError::Damaged(_))), "a damaged key is never replaced");
        }
        assert!(matches!(TokenKey::load_or_create(&folder.path().join("no/such")), Err(TokenKeyError::Io { .. })));
    }
}
