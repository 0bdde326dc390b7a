//! Tokens of service accounts and client certificates against the authenticator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::certificate::{CertificateSubject, ClientCertificate};
use crate::clock::unix_s;
use crate::password;
use crate::service_token::NewToken;
use crate::testing::Users;

const HOUR: Duration = Duration::from_secs(3600);

struct Stage {
    users: Arc<Users>,
    authenticator: Authenticator,
    token: NewToken,
    now: Moment,
}

impl Stage {
    /// `etl`, who has a password too, with a token for an hour; and `rui`.
    async fn set() -> Self {
        let (users, now) = (Arc::new(Users::default()), Moment::now());
        for name in ["etl", "rui"] {
            let password_hash = Some(password::hash("a password").await.unwrap());
            users.set(name, StoredUser { password_hash, enabled: true, tokens_valid_after_s: 0 });
        }
        let token = NewToken::generate().unwrap();
        let expires_at_s = unix_s(now.wall) + HOUR.as_secs();
        users.tokens.lock().insert(token.id, StoredToken { user: "etl".to_owned(), enabled: true, hash: token.hash, expires_at_s });
        users.subjects.lock().insert(subject("CN=etl"), "etl".to_owned());
        let config = AuthenticatorConfig { issuers: vec![], token_key: TokenKey::generate().unwrap(), token_lifetime: HOUR };
        let authenticator = Authenticator::new(config, Arc::clone(&users) as Arc<dyn UserDirectory>).unwrap();
        Self { users, authenticator, token, now }
    }

    async fn shows(&self, credential: Credential, now: Moment) -> Result<Principal, String> {
        self.authenticator.authenticate_at(&credential, None, now).await.map_err(|error| error.reason())
    }

    async fn bearer(&self, token: &str) -> Result<Principal, String> {
        self.shows(Credential::from_header(&format!("Bearer {token}")).unwrap(), self.now).await
    }

    async fn basic(&self, user: &str, password: &str) -> Result<Principal, String> {
        self.shows(Credential::Basic { user: user.to_owned(), password: password.to_owned() }, self.now).await
    }
}

fn subject(text: &str) -> CertificateSubject {
    CertificateSubject::parse(text).unwrap()
}

fn name(principal: Result<Principal, String>) -> String {
    principal.map_or_else(|reason| reason, |principal| principal.name.to_string())
}

#[tokio::test]
async fn a_token_is_its_user_as_a_bearer_and_as_a_password() {
    let stage = Stage::set().await;
    let text = stage.token.reveal();
    for principal in [stage.bearer(text).await.unwrap(), stage.basic("etl", text).await.unwrap()] {
        assert_eq!(principal.name.to_string(), "etl");
        assert_eq!(principal.credential, CredentialKind::ServiceToken);
        assert_eq!(principal.token_id, Some(stage.token.id.to_string()));
        assert_eq!(principal.claim("sub").as_deref(), Some("etl"));
        assert!(principal.groups.is_empty());
        // It cannot be made to last longer than it does.
        assert_eq!(stage.authenticator.issue_at(&principal, stage.now.wall).unwrap_err().reason(), Reason::NotExchangeable.to_string());
    }
    assert_eq!(name(stage.basic("rui", text).await), Reason::TokenOfAnother.to_string());
    assert_eq!(name(stage.basic("nobody", text).await), Reason::TokenOfAnother.to_string());
    assert_eq!(name(stage.basic("etl", "a password").await), "etl");
}

#[tokio::test]
async fn a_token_ends_with_its_time_its_user_and_its_drop() {
    let stage = Stage::set().await;
    let text = stage.token.reveal().to_owned();
    let at = |now: Moment| stage.shows(Credential::Bearer(text.clone()), now);
    assert_eq!(name(at(stage.now.after(HOUR - Duration::from_secs(2))).await), "etl");
    assert_eq!(name(at(stage.now.after(HOUR)).await), Reason::Expired.to_string());

    let secret = |token: &str| token.splitn(3, '_').nth(2).unwrap().to_owned();
    let other = NewToken::generate().unwrap();
    assert_eq!(name(stage.bearer(other.reveal()).await), Reason::UnknownToken.to_string());
    assert_eq!(name(stage.bearer(&text.replace(&secret(&text), &secret(other.reveal()))).await), Reason::WrongToken.to_string());
    assert_eq!(name(stage.basic("etl", &text.replace(&secret(&text), &secret(other.reveal()))).await), Reason::WrongToken.to_string());

    stage.users.change("etl", |user| user.enabled = false);
    assert_eq!(name(stage.bearer(&text).await), Reason::Disabled.to_string());
    assert_eq!(name(stage.basic("etl", &text).await), Reason::Disabled.to_string());
    stage.users.change("etl", |user| user.enabled = true);
    assert_eq!(name(stage.bearer(&text).await), "etl");
    stage.users.tokens.lock().remove(&stage.token.id);
    assert_eq!(name(stage.bearer(&text).await), Reason::UnknownToken.to_string());
    assert_eq!(name(stage.basic("etl", &text).await), Reason::UnknownToken.to_string());
}

#[tokio::test]
async fn a_certificate_is_the_user_of_its_subject() {
    let stage = Stage::set().await;
    let shows = |text: &str, now: Moment| {
        let not_after = stage.now.wall + HOUR;
        stage.shows(Credential::Certificate(ClientCertificate { subject: subject(text), not_after }), now)
    };
    let principal = shows("CN=etl", stage.now).await.unwrap();
    assert_eq!((principal.name.to_string().as_str(), principal.credential), ("etl", CredentialKind::Certificate));
    assert!(stage.authenticator.issue_at(&principal, stage.now.wall).is_err());
    for other in ["CN=rui", "CN=ETL", "CN=etl,O=Hospital", "CN=etl+O=Hospital", "OU=etl"] {
        assert_eq!(name(shows(other, stage.now).await), Reason::UnknownCertificate.to_string(), "{other}");
    }
    assert_eq!(name(shows("CN=etl", stage.now.after(HOUR + Duration::from_secs(1))).await), Reason::Expired.to_string());
    stage.users.change("etl", |user| user.enabled = false);
    assert_eq!(name(shows("CN=etl", stage.now).await), Reason::Disabled.to_string());
    stage.users.remove("etl");
    assert_eq!(name(shows("CN=etl", stage.now).await), Reason::UnknownCertificate.to_string());
}
