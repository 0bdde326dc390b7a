//! Keys, tokens and a key server for the tests, made afresh each time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::authenticator::{StoredToken, StoredUser, UserDirectory};
use crate::certificate::CertificateSubject;
use crate::ids::TokenId;

pub(crate) const AUDIENCE: &str = "lazaret-test";
pub(crate) const ISSUER: &str = "https://id.example.org/realms/health";

/// A key pair of an identity provider.
pub(crate) struct Signer {
    pub algorithm: Algorithm,
    pub private: EncodingKey,
    pub public_pem: String,
}

impl Signer {
    pub(crate) fn rsa(size: KeySize) -> Self {
        let pair = RsaKeyPair::generate(size).unwrap();
        let pkcs8: Pkcs8V1Der = pair.as_der().unwrap();
        let private = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", pkcs8.as_ref()).as_bytes()).unwrap();
        let public: aws_lc_rs::encoding::PublicKeyX509Der = pair.public_key().as_der().unwrap();
        Self { algorithm: Algorithm::RS256, private, public_pem: pem("PUBLIC KEY", public.as_ref()) }
    }

    pub(crate) fn ec() -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        let public: aws_lc_rs::encoding::PublicKeyX509Der = pair.public_key().as_der().unwrap();
        Self {
            algorithm: Algorithm::ES256,
            private: EncodingKey::from_ec_der(pkcs8.as_ref()),
            public_pem: pem("PUBLIC KEY", public.as_ref()),
        }
    }

    pub(crate) fn ed() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8.as_ref()).unwrap();
        // RFC 8410: the prefix of every Ed25519 SubjectPublicKeyInfo.
        let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let public = [&prefix, pair.public_key().as_ref()].concat();
        Self { algorithm: Algorithm::EdDSA, private: EncodingKey::from_ed_der(pkcs8.as_ref()), public_pem: pem("PUBLIC KEY", &public) }
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.private, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A token with these claims, and `header` laid over the usual one (null takes a field away).
    pub(crate) fn sign(&self, kid: &str, header: &Value, claims: &Value) -> String {
        let header = merged(json!({"alg": self.algorithm, "kid": kid, "typ": "JWT"}), header);
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.private, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

/// Lays the fields of `patch` over `base`; null takes a field away.
pub(crate) fn merged(mut base: Value, patch: &Value) -> Value {
    for (name, value) in patch.as_object().unwrap() {
        match value {
            Value::Null => base.as_object_mut().unwrap().remove(name),
            value => base.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    base
}

fn pem(tag: &str, der: &[u8]) -> String {
    format!("-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n", STANDARD.encode(der))
}

/// An HTTP/1.1 server that gives the answer it was told to, and counts how often it was asked.
pub(crate) struct KeyServer {
    pub url: String,
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<Answer>>,
    held: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
}

#[derive(Clone)]
pub(crate) enum Answer {
    Body(String),
    Status(u16),
    Redirect(String),
    /// The connection is closed without an answer.
    Nothing,
}

impl KeyServer {
    pub(crate) async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/certs", listener.local_addr().unwrap().port());
        let asked = Arc::new(AtomicUsize::new(0));
        let answer = Arc::new(Mutex::new(Answer::Body(json!({ "keys": keys }).to_string())));
        let held: Arc<Mutex<Option<oneshot::Receiver<()>>>> = Arc::default();
        let (count, current, holding) = (Arc::clone(&asked), Arc::clone(&answer), Arc::clone(&held));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                if !matches!(stream.read(&mut request).await, Ok(1..)) {
                    continue;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let release = holding.lock().take();
                if let Some(release) = release {
                    let _dropped = release.await;
                }
                let response = match current.lock().clone() {
                    Answer::Body(body) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()),
                    Answer::Status(status) => format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
                    Answer::Redirect(to) => {
                        format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    }
                    Answer::Nothing => continue,
                };
                let _closed_early = stream.write_all(response.as_bytes()).await;
            }
        });
        Self { url, asked, answer, held }
    }

    /// The next answer waits until it is released.
    pub(crate) fn hold(&self) -> oneshot::Sender<()> {
        let (release, held) = oneshot::channel();
        *self.held.lock() = Some(held);
        release
    }

    pub(crate) fn publish(&self, keys: &[Value]) {
        self.answer(Answer::Body(json!({ "keys": keys }).to_string()));
    }

    pub(crate) fn answer(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Local users that a test can change at any time.
#[derive(Default)]
pub(crate) struct Users {
    users: Mutex<HashMap<String, StoredUser>>,
    pub tokens: Mutex<HashMap<TokenId, StoredToken>>,
    /// From a certificate's subject to the user.
    pub subjects: Mutex<HashMap<CertificateSubject, String>>,
}

impl Users {
    pub(crate) fn set(&self, name: &str, user: StoredUser) {
        self.users.lock().insert(name.to_owned(), user);
    }

    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut StoredUser)) {
        change(self.users.lock().get_mut(name).unwrap());
    }

    pub(crate) fn remove(&self, name: &str) {
        self.users.lock().remove(name);
    }
}

impl UserDirectory for Users {
    fn user(&self, name: &str) -> Option<StoredUser> {
        self.users.lock().get(name).cloned()
    }

    fn token(&self, id: TokenId) -> Option<StoredToken> {
        let token = self.tokens.lock().get(&id).cloned()?;
        let enabled = self.user(&token.user)?.enabled;
        Some(StoredToken { enabled, ..token })
    }

    fn certificate_user(&self, subject: &CertificateSubject) -> Option<(String, bool)> {
        let name = self.subjects.lock().get(subject).cloned()?;
        let enabled = self.user(&name)?.enabled;
        Some((name, enabled))
    }
}
