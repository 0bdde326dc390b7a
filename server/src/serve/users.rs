//! The local users, as authentication sees them.

use std::sync::Arc;

use lazaret_auth::{StoredUser, UserDirectory};
use lazaret_catalog::meta::Metadata;

pub struct Users {
    metadata: Arc<Metadata>,
}

impl Users {
    pub fn new(metadata: Arc<Metadata>) -> Self {
        Self { metadata }
    }
}

impl UserDirectory for Users {
    fn user(&self, name: &str) -> Option<StoredUser> {
        let state = self.metadata.current();
        let user = state.user(name)?;
        Some(StoredUser {
            password_hash: user.password_hash.clone(),
            enabled: user.enabled,
            tokens_valid_after_s: user.tokens_valid_after_s,
        })
    }
}
