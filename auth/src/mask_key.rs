//! The keyed hash behind the masks `sha256_global` and `sha256_query_local`. A plain hash of a small domain, such as dates
//! of birth, can be undone by hashing the domain; without the key nobody can.

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::own_token::{TokenKey, key_block, random_bytes};

/// Hashes values: equal ones alike, whatever table and column they are in.
#[derive(Clone)]
pub struct MaskKey(Hmac<Sha256>);

/// Without a key nothing can be masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct MaskKeyError;

impl MaskKey {
    /// The server's own, the same after a restart: derived from the key that is kept in the data folder.
    pub fn global(key: &TokenKey) -> Self {
        Self::new(&key.derive("sha256_global masks"))
    }

    /// For one execution of one statement.
    pub fn of_one_query() -> Result<Self, MaskKeyError> {
        random_bytes().map(|bytes| Self::new(&bytes)).ok_or(MaskKeyError)
    }

    fn new(key: &[u8; 32]) -> Self {
        Self(<Hmac<Sha256> as hmac::digest::KeyInit>::new(&key_block(key).into()))
    }

    /// HMAC-SHA256 of the value; `kind` tells apart values of kinds that are never equal.
    pub fn hash(&self, kind: u8, value: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(&[kind]);
        mac.update(value);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(***)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_one_server_or_one_query() {
        let key = TokenKey::generate().unwrap();
        let global = MaskKey::global(&key).hash(0, b"v");
        assert_eq!(global, MaskKey::global(&key.clone()).hash(0, b"v"), "the same after a restart");
        assert_ne!(global, MaskKey::global(&TokenKey::generate().unwrap()).hash(0, b"v"));
        assert_ne!(global, MaskKey::global(&key).hash(1, b"v"));
        assert_ne!(global, MaskKey::new(&key.derive("own tokens")).hash(0, b"v"), "not the key of anything else");
        let query = MaskKey::of_one_query().unwrap();
        assert_eq!(query.hash(0, b"v"), query.clone().hash(0, b"v"));
        assert_ne!(query.hash(0, b"v"), MaskKey::of_one_query().unwrap().hash(0, b"v"));
        assert_eq!(format!("{query:?}"), "MaskKey(***)");
    }

    /// RFC 4231, test case 2, padded as ours: the key is zero-filled, the message is what is hashed.
    #[test]
    fn it_is_hmac_sha256() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let hash = MaskKey::new(&key).hash(b'w', b"hat do ya want for nothing?");
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
