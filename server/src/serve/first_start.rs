//! The admin of a new server.

use std::convert::Infallible;
use std::io::{self, Write};

use lazaret_auth::password::{self, PasswordError};
use lazaret_catalog::meta::{ADMIN, ChangeError, Metadata};
use rand::distr::{Alphanumeric, SampleString};

use crate::config::Secret;

/// Of a password that is made: 24 letters and digits are 142 bits.
const PASSWORD_CHARS: usize = 24;

#[derive(Debug, thiserror::Error)]
pub enum FirstStartError {
    #[error("the password cannot be hashed")]
    Hash(#[from] PasswordError),
    #[error("metadata refuses the first records")]
    Metadata(#[from] ChangeError<Infallible>),
    #[error("standard error cannot be written")]
    Print(#[from] io::Error),
}

/// At the first start only: makes the admin with the given password, or with one that is printed once.
pub async fn make_admin(metadata: &Metadata, given: &Secret) -> Result<(), FirstStartError> {
    if metadata.current().epoch() > 0 {
        if !given.is_empty() {
            tracing::info!("admin_password is not used: this is not the first start");
        }
        return Ok(());
    }
    let password = if given.is_empty() { Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_CHARS) } else { given.expose().to_owned() };
    let hash = password::hash(&password).await?;
    if given.is_empty() {
        // Not through the log, which is collected and kept; and before it is stored: a crash in between must not leave
        // a server whose password nobody has seen.
        writeln!(
            io::stderr().lock(),
            "\nThis is the first start. The user is \"{ADMIN}\", the password is\n\n    {password}\n\n\
             It is shown only now, and stays valid until it is changed: ALTER USER {ADMIN} PASSWORD '…'\n"
        )?;
    }
    metadata.bootstrap(&hash).await?;
    Ok(())
}
