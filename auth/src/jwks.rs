//! The public keys of an issuer: read within bounds, fetched by one caller for all, kept through an outage.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use parking_lot::Mutex;
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use url::{Host, Url};

use crate::error::Reason;

/// A key with its certificate chain is about 5 KiB; providers publish a handful.
const MAX_BYTES: usize = 256 * 1024;
/// Bounds what a token without a usable key id makes us try.
const MAX_KEYS: usize = 100;
/// An answer that takes longer keeps callers waiting who could use the keys that are there.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REDIRECTS: usize = 3;
/// Past this age the set is fetched again, while callers go on with the one that is there.
const REFRESH_AFTER: Duration = Duration::from_secs(5 * 60);
/// Past this age callers wait for the fetch, so that a withdrawn key is not accepted after an idle night.
const STALE_AFTER: Duration = Duration::from_secs(15 * 60);
/// Tokens with made-up key ids cause at most this many fetches: one an interval.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// Before the first success there is nothing to go on with, so the next try comes sooner.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// 2048 bits: shorter moduli are refused by the verifier too.
const MIN_RSA_BYTES: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("\"{0}\" is not a URL")]
    Url(String),
    #[error("{0} is not https, and its host is not loopback")]
    PlainHttp(String),
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
    #[error("fetching {url} failed")]
    Fetch { url: String, source: reqwest::Error },
    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("the key set is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the key file {} cannot be read", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("the key set is not JSON of the form {{\"keys\": […]}}")]
    Json(#[source] serde_json::Error),
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("the file has no public key (PEM, RSA, P-256, P-384 or Ed25519) that fits the algorithms")]
    Pem,
    #[error("no key fits the algorithms")]
    NoneFits,
    #[error("reading the key file was interrupted")]
    Interrupted,
}

/// Where keys come from.
pub(crate) enum Origin {
    Url { url: Url, client: reqwest::Client },
    JwksFile(PathBuf),
    PemFile(PathBuf),
}

/// One state of an issuer's keys. Generation 0 is before the first success; it counts up when the keys change.
pub(crate) struct KeySet {
    keys: Vec<VerifyingKey>,
    pub(crate) generation: u64,
}

struct VerifyingKey {
    kid: Option<String>,
    /// What this key may verify: configured, of its type, and as its own `alg` says.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
    fingerprint: [u8; 32],
}

pub(crate) struct Keys {
    issuer: String,
    origin: Origin,
    algorithms: Vec<Algorithm>,
    current: ArcSwap<KeySet>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    attempted: Option<Instant>,
    succeeded: Option<Instant>,
    /// Closes when the fetch under way has ended.
    running: Option<watch::Receiver<()>>,
}

impl Keys {
    pub(crate) fn open(issuer: &str, origin: Origin, algorithms: Vec<Algorithm>) -> Result<Self, KeysError> {
        let (mut set, mut progress) = (KeySet { keys: Vec::new(), generation: 0 }, Progress::default());
        if let Some(keys) = origin.read_file(&algorithms)? {
            if keys.is_empty() {
                return Err(KeysError::NoneFits);
            }
            set = KeySet { keys, generation: 1 };
            let now = Some(Instant::now());
            progress = Progress { attempted: now, succeeded: now, running: None };
        }
        Ok(Self { issuer: issuer.to_owned(), origin, algorithms, current: ArcSwap::from_pointee(set), progress: Mutex::new(progress) })
    }

    /// The keys in force. Where they are getting old a fetch is started; only where they are stale is it waited for.
    pub(crate) async fn current(self: &Arc<Self>, now: Instant) -> Arc<KeySet> {
        let age = self.progress.lock().succeeded.map(|at| now.saturating_duration_since(at));
        match age {
            Some(age) if age < REFRESH_AFTER => {}
            Some(age) if age < STALE_AFTER => {
                self.start_refresh(now, REFRESH_INTERVAL);
            }
            Some(_) => self.wait(self.start_refresh(now, REFRESH_INTERVAL)).await,
            None => self.wait(self.start_refresh(now, FIRST_INTERVAL)).await,
        }
        self.current.load_full()
    }

    /// The keys after one more fetch, unless there was one within the interval.
    pub(crate) async fn refreshed(self: &Arc<Self>, now: Instant) -> Arc<KeySet> {
        self.wait(self.start_refresh(now, REFRESH_INTERVAL)).await;
        self.current.load_full()
    }

    /// Starts a fetch, or joins the one under way. It runs on its own, so that a caller who goes away does not end it.
    fn start_refresh(self: &Arc<Self>, now: Instant, interval: Duration) -> Option<watch::Receiver<()>> {
        let mut progress = self.progress.lock();
        if let Some(running) = &progress.running
            && running.has_changed().is_ok()
        {
            return Some(running.clone());
        }
        if progress.attempted.is_some_and(|at| now.saturating_duration_since(at) < interval) {
            return None;
        }
        let (done, running) = watch::channel(());
        progress.attempted = Some(now);
        progress.running = Some(running.clone());
        let keys = Arc::clone(self);
        tokio::spawn(async move {
            keys.refresh(now).await;
            drop(done);
        });
        Some(running)
    }

    async fn wait(&self, running: Option<watch::Receiver<()>>) {
        if let Some(mut running) = running {
            while running.changed().await.is_ok() {}
        }
    }

    async fn refresh(self: &Arc<Self>, now: Instant) {
        match self.fetch().await {
            Ok(keys) => {
                if keys.is_empty() {
                    tracing::warn!(issuer = self.issuer, "the issuer publishes no key that can be used: its tokens are refused");
                }
                let old = self.current.load();
                if old.generation == 0 || fingerprints(&old.keys) != fingerprints(&keys) {
                    tracing::info!(issuer = self.issuer, keys = keys.len(), "the issuer's keys have changed");
                    self.current.store(Arc::new(KeySet { keys, generation: old.generation + 1 }));
                }
                self.progress.lock().succeeded = Some(now);
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(issuer = self.issuer, %error, cause, "the issuer's keys could not be refreshed; the last ones stay in force");
            }
        }
    }

    async fn fetch(self: &Arc<Self>) -> Result<Vec<VerifyingKey>, KeysError> {
        match &self.origin {
            Origin::Url { url, client } => parse_jwks(&download(client, url).await?, &self.algorithms),
            Origin::JwksFile(_) | Origin::PemFile(_) => {
                let keys = Arc::clone(self);
                let read = tokio::task::spawn_blocking(move || keys.origin.read_file(&keys.algorithms));
                Ok(read.await.map_err(|_| KeysError::Interrupted)??.unwrap_or_default())
            }
        }
    }
}

impl KeySet {
    /// Whether there is any use in looking for this key id here.
    pub(crate) fn knows(&self, kid: Option<&str>) -> bool {
        match kid {
            Some(kid) => self.keys.iter().any(|key| key.kid.as_deref().is_none_or(|own| own == kid)),
            None => !self.keys.is_empty(),
        }
    }

    /// The keys that may verify a token with this key id and algorithm: those of that id, else those that have none. A
    /// token without a key id must leave no choice (OpenID Connect Core, 10.1).
    pub(crate) fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Vec<&DecodingKey>, Reason> {
        let named = |kid: &str| self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).collect::<Vec<_>>();
        let keys = match kid.map(named) {
            Some(keys) if !keys.is_empty() => keys,
            Some(_) => self.keys.iter().filter(|key| key.kid.is_none()).collect(),
            None => self.keys.iter().collect(),
        };
        if keys.is_empty() {
            return Err(Reason::UnknownKey);
        }
        let fitting: Vec<_> = keys.into_iter().filter(|key| key.algorithms.contains(&algorithm)).map(|key| &key.key).collect();
        match fitting.len() {
            0 => Err(Reason::Algorithm),
            1 => Ok(fitting),
            _ if kid.is_none() => Err(Reason::AmbiguousKey),
            _ => Ok(fitting),
        }
    }
}

impl Origin {
    pub(crate) fn url(text: &str) -> Result<Self, KeysError> {
        let url = Url::parse(text).map_err(|_| KeysError::Url(text.to_owned()))?;
        let loopback = is_loopback(&url);
        match url.scheme() {
            "https" => {}
            "http" if loopback => {}
            "http" => return Err(KeysError::PlainHttp(url.into())),
            _ => return Err(KeysError::Url(text.to_owned())),
        }
        // reqwest is built without a provider of its own and panics where none is installed.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _lost_to_another_thread = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let mut client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).redirect(same_origin_redirects());
        if loopback {
            client = client.no_proxy();
        }
        Ok(Self::Url { url, client: client.build().map_err(KeysError::Client)? })
    }

    /// The keys in the file; `None` where the origin is no file.
    fn read_file(&self, algorithms: &[Algorithm]) -> Result<Option<Vec<VerifyingKey>>, KeysError> {
        match self {
            Self::Url { .. } => Ok(None),
            Self::JwksFile(path) => parse_jwks(&read_bounded(path)?, algorithms).map(Some),
            Self::PemFile(path) => parse_pem(&read_bounded(path)?, algorithms).map(|key| Some(vec![key])),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Another host, port or scheme is another party: it does not get to choose our keys.
fn same_origin_redirects() -> Policy {
    Policy::custom(|attempt| {
        let first = attempt.previous().first().map(Url::origin);
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if first != Some(attempt.url().origin()) {
            attempt.error("redirect to another host")
        } else {
            attempt.follow()
        }
    })
}

async fn download(client: &reqwest::Client, url: &Url) -> Result<Vec<u8>, KeysError> {
    let failed = |source| KeysError::Fetch { url: url.to_string(), source };
    let mut response = client.get(url.clone()).header("accept", "application/json").send().await.map_err(failed)?;
    if response.status() != 200 {
        return Err(KeysError::Status { url: url.to_string(), status: response.status().as_u16() });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(KeysError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, KeysError> {
    let failed = |source| KeysError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_BYTES { Err(KeysError::TooLarge) } else { Ok(bytes) }
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

/// A key as published (RFC 7517, RFC 7518); certificates in it are not looked at.
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a set that can verify signatures here. Others (encryption keys, types and algorithms that are not
/// configured) are left out, as providers publish them side by side.
fn parse_jwks(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Vec<VerifyingKey>, KeysError> {
    let set: RawSet = serde_json::from_slice(bytes).map_err(KeysError::Json)?;
    if set.keys.len() > MAX_KEYS {
        return Err(KeysError::TooMany);
    }
    let parsed = set.keys.into_iter().filter_map(|value| serde_json::from_value::<RawKey>(value).ok());
    Ok(parsed.filter_map(|raw| verifying_key(raw, algorithms)).collect())
}

fn verifying_key(raw: RawKey, algorithms: &[Algorithm]) -> Option<VerifyingKey> {
    let for_signatures = raw.usage.as_deref().is_none_or(|usage| usage == "sig")
        && raw.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
    if !for_signatures {
        return None;
    }
    let decode = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
    let (key, material, fitting): (_, Vec<u8>, &[Algorithm]) = match (raw.kty.as_str(), raw.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (decode(&raw.n)?, decode(&raw.e)?);
            if n.iter().skip_while(|byte| **byte == 0).count() < MIN_RSA_BYTES {
                return None;
            }
            (DecodingKey::from_rsa_raw_components(&n, &e), [n, e].concat(), AlgorithmFamily::Rsa.algorithms())
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let (length, fitting): (_, &[Algorithm]) = if curve == "P-256" { (32, &[Algorithm::ES256]) } else { (48, &[Algorithm::ES384]) };
            let (x, y) = (decode(&raw.x)?, decode(&raw.y)?);
            if x.len() != length || y.len() != length {
                return None;
            }
            // The uncompressed point of SEC 1, which is what the verifier takes.
            let point = [vec![4], x, y].concat();
            (DecodingKey::from_ec_der(&point), point, fitting)
        }
        ("OKP", Some("Ed25519")) => {
            let x = decode(&raw.x).filter(|x| x.len() == 32)?;
            (DecodingKey::from_ed_der(&x), x, &[Algorithm::EdDSA])
        }
        _ => return None,
    };
    let declared = |algorithm: &Algorithm| raw.alg.as_ref().is_none_or(|alg| alg.parse() == Ok(*algorithm));
    let usable = |algorithm: &Algorithm| fitting.contains(algorithm) && declared(algorithm);
    let algorithms: Vec<_> = algorithms.iter().copied().filter(usable).collect();
    (!algorithms.is_empty()).then(|| VerifyingKey { kid: raw.kid, algorithms, key, fingerprint: Sha256::digest(&material).into() })
}

/// A public key alone, not a certificate: nobody would look at its validity.
fn parse_pem(bytes: &[u8], algorithms: &[Algorithm]) -> Result<VerifyingKey, KeysError> {
    let text = str::from_utf8(bytes).map_err(|_| KeysError::Pem)?;
    if !text.contains("-----BEGIN PUBLIC KEY-----") && !text.contains("-----BEGIN RSA PUBLIC KEY-----") {
        return Err(KeysError::Pem);
    }
    let key = DecodingKey::from_rsa_pem(bytes)
        .or_else(|_| DecodingKey::from_ec_pem(bytes))
        .or_else(|_| DecodingKey::from_ed_pem(bytes))
        .map_err(|_| KeysError::Pem)?;
    let material = key.try_get_as_bytes().map_err(|_| KeysError::Pem)?;
    let fitting: &[Algorithm] = match (key.family(), material.len()) {
        (AlgorithmFamily::Rsa, length) if length > MIN_RSA_BYTES => AlgorithmFamily::Rsa.algorithms(),
        (AlgorithmFamily::Ec, 65) => &[Algorithm::ES256],
        (AlgorithmFamily::Ec, 97) => &[Algorithm::ES384],
        (AlgorithmFamily::Ed, 32) => &[Algorithm::EdDSA],
        _ => return Err(KeysError::Pem),
    };
    let algorithms: Vec<_> = algorithms.iter().copied().filter(|algorithm| fitting.contains(algorithm)).collect();
    if algorithms.is_empty() {
        return Err(KeysError::NoneFits);
    }
    let fingerprint = Sha256::digest(material).into();
    Ok(VerifyingKey { kid: None, algorithms, key, fingerprint })
}

/// What makes two key sets the same, whatever their order.
fn fingerprints(keys: &[VerifyingKey]) -> HashSet<(Option<&str>, [u8; 32], &[Algorithm])> {
    keys.iter().map(|key| (key.kid.as_deref(), key.fingerprint, key.algorithms.as_slice())).collect()
}
