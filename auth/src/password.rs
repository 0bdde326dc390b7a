//! Passwords as Argon2id hashes. Each check costs memory and time on purpose, so only a few run at once, off the
//! threads that serve.

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{self, PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::credential::MAX_PASSWORD_BYTES;

/// The first of OWASP's equivalent settings that keeps the memory small (Password Storage Cheat Sheet: m=19 MiB, t=2, p=1).
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Checks at once: 4 of them hold 76 MiB, and more than the cores do not end sooner.
const MAX_RUNNING: usize = 4;
/// Checks running or waiting: the last of them is answered within about two seconds.
const MAX_ADMITTED: usize = 128;

/// The bounds hold for the process: it is the process's memory.
static RUNNING: Semaphore = Semaphore::const_new(MAX_RUNNING);
static ADMITTED: Semaphore = Semaphore::const_new(MAX_ADMITTED);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("a password cannot be empty")]
    Empty,
    #[error("a password has at most {MAX_PASSWORD_BYTES} bytes")]
    TooLong,
    #[error("too many sign-ins at once, try again")]
    Busy,
    #[error("the stored password hash is damaged")]
    Damaged,
    #[error("hashing the password failed")]
    Failed,
}

/// The PHC string to store for a new password.
pub async fn hash(password: &str) -> Result<String, PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(PasswordError::TooLong);
    }
    let password = password.to_owned();
    run(move || hash_now(&password)).await
}

/// Whether the password is the one that `stored` was made from.
pub async fn verify(password: &str, stored: &str) -> Result<bool, PasswordError> {
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(PasswordError::TooLong);
    }
    let (password, stored) = (password.to_owned(), stored.to_owned());
    run(move || verify_now(&password, &stored)).await
}

/// [`hash`] on this very thread, which it holds for some tens of milliseconds: for start-up, before anything is served.
pub(crate) fn hash_now(password: &str) -> Result<String, PasswordError> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = hasher()?.hash_password(password.as_bytes(), &salt).map_err(|_| PasswordError::Failed)?;
    Ok(hash.to_string())
}

fn verify_now(password: &str, stored: &str) -> Result<bool, PasswordError> {
    let stored = PasswordHash::new(stored).map_err(|_| PasswordError::Damaged)?;
    // The parameters are the stored ones, so that they can be raised without locking anyone out.
    match hasher()?.verify_password(password.as_bytes(), &stored) {
        Ok(()) => Ok(true),
        Err(password_hash::Error::Password) => Ok(false),
        Err(_) => Err(PasswordError::Damaged),
    }
}

fn hasher() -> Result<Argon2<'static>, PasswordError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| PasswordError::Failed)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// The permits travel with the work: a caller who goes away does not free the place while the hash still runs.
async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static) -> Result<T, PasswordError> {
    let admitted: SemaphorePermit<'static> = ADMITTED.try_acquire().map_err(|_| PasswordError::Busy)?;
    let running = RUNNING.acquire().await.map_err(|_| PasswordError::Failed)?;
    let done = tokio::task::spawn_blocking(move || {
        let result = work();
        drop((running, admitted));
        result
    });
    done.await.map_err(|_| PasswordError::Failed)?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashes_verify_and_differ() {
        let (one, two) = (hash("correct horse").await.unwrap(), hash("correct horse").await.unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        assert_eq!(verify("correct horse", &one).await, Ok(true));
        assert_eq!(verify("correct horsf", &one).await, Ok(false));
        assert_eq!(verify("", &one).await, Ok(false));
    }

    #[tokio::test]
    async fn bounds_and_damage_have_names() {
        assert_eq!(hash("").await, Err(PasswordError::Empty));
        assert_eq!(hash(&"x".repeat(MAX_PASSWORD_BYTES + 1)).await, Err(PasswordError::TooLong));
        assert_eq!(verify("x", "plain text").await, Err(PasswordError::Damaged));
    }
}
