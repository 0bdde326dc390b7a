//! The door: the one place that reads headers. It turns a call's credential into a principal and a session, and puts an
//! `Arc<Session>` into the request; a handler that finds none refuses the call.
//!
//! Only gRPC's health service and the Handshake get through without a credential, and the Handshake answers nothing
//! before it has seen one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, USER_AGENT};
use http::{Request, Response, request};
use lazaret_auth::{AuthError, Authenticator, Credential, CredentialKind, IssuedToken, Principal, Reason};
use tonic::body::Body;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::{Layer, Service};

use crate::error::{Error, ErrorKind};
use crate::flight::drain::drain_body;
use crate::flight::handles::HandleKey;
use crate::session::{Caller, Session, Sessions};

/// The name that Arrow's own servers use; some clients know it.
pub const SESSION_COOKIE: &str = "arrow_flight_session_id";

/// Where Flight clients of the old style put the token that their handshake gave them.
const OLD_TOKEN_HEADER: &str = "auth-token-bin";

/// Longer user agents are cut: they go into the audit.
const DRIVER_CHARS: usize = 200;

/// Padded or not.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

const HANDSHAKE_PATH: &str = "/arrow.flight.protocol.FlightService/Handshake";
const HEALTH_PREFIX: &str = "/grpc.health.v1.Health/";
/// Calls whose client may be sending when it is refused: it must be let finish, or it sees a reset and no status.
const UPLOAD_PATHS: [&str; 2] = ["/arrow.flight.protocol.FlightService/DoPut", "/arrow.flight.protocol.FlightService/DoExchange"];

/// From a credential to a principal. [`Authenticator`] is the real one.
#[async_trait]
pub trait Authenticate: Send + Sync + 'static {
    async fn authenticate(&self, credential: &Credential, peer: Option<IpAddr>) -> Result<Principal, AuthError>;
    /// A token for a principal who has just shown a password.
    fn issue(&self, principal: &Principal) -> Result<IssuedToken, AuthError>;
}

#[async_trait]
impl Authenticate for Authenticator {
    async fn authenticate(&self, credential: &Credential, peer: Option<IpAddr>) -> Result<Principal, AuthError> {
        Authenticator::authenticate(self, credential, peer).await
    }

    fn issue(&self, principal: &Principal) -> Result<IssuedToken, AuthError> {
        Authenticator::issue(self, principal)
    }
}

/// What a handshake showed in its headers. The old way shows it in the payload, which the handler reads.
#[derive(Clone)]
pub enum Handshake {
    Password {
        principal: Arc<Principal>,
    },
    /// Ours or an issuer's: it goes back as it came.
    Token {
        principal: Arc<Principal>,
        token: String,
    },
    Absent,
}

impl Handshake {
    /// A token that came in the place of a password is a token.
    pub fn of(credential: Credential, principal: Arc<Principal>) -> Self {
        match credential {
            Credential::Basic { password: token, .. } if principal.credential == CredentialKind::ServiceToken => {
                Self::Token { principal, token }
            }
            Credential::Basic { .. } => Self::Password { principal },
            Credential::Bearer(token) => Self::Token { principal, token },
            Credential::Certificate(_) => Self::Absent,
        }
    }
}

/// A peer's address, for throttling of handshakes that carry their password in the payload.
#[derive(Clone, Copy)]
pub struct Peer(pub Option<SocketAddr>);

#[derive(Clone)]
pub struct AuthLayer {
    door: Arc<Door>,
}

struct Door {
    authenticator: Arc<dyn Authenticate>,
    sessions: Arc<Sessions>,
    key: HandleKey,
}

impl AuthLayer {
    pub fn new(authenticator: Arc<dyn Authenticate>, sessions: Arc<Sessions>, key: HandleKey) -> Self {
        Self { door: Arc::new(Door { authenticator, sessions, key }) }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService { inner, door: Arc::clone(&self.door) }
    }
}

#[derive(Clone)]
pub struct AuthService<S> {
    inner: S,
    door: Arc<Door>,
}

impl<S> Service<Request<Body>> for AuthService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The service that was polled ready is the one to call; the clone takes its place.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let door = Arc::clone(&self.door);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match door.admit(&mut parts).await {
                Ok(cookie) => {
                    let mut response = inner.call(Request::from_parts(parts, body)).await?;
                    if let Some(cookie) = cookie {
                        response.headers_mut().append(SET_COOKIE, cookie);
                    }
                    Ok(response)
                }
                Err(error) => {
                    if UPLOAD_PATHS.contains(&parts.uri.path()) {
                        drain_body(body).await;
                    }
                    Ok(tonic::Status::from(error).into_http())
                }
            }
        })
    }
}

impl Door {
    /// Puts what the handlers need into the request. Gives a cookie to set where the client has shown no session.
    async fn admit(&self, parts: &mut request::Parts) -> Result<Option<HeaderValue>, Error> {
        let path = parts.uri.path();
        if path.starts_with(HEALTH_PREFIX) {
            return Ok(None);
        }
        let peer = peer_address(parts);
        let mut credential = credential(&parts.headers);
        // What a call says of itself counts; a certificate speaks for those calls only that say nothing. It is no answer to a
        // handshake, which asks for what can be exchanged.
        if matches!(credential, Err(AuthError::NoCredential))
            && path != HANDSHAKE_PATH
            && let Some(certificate) = client_certificate(parts)
        {
            credential = certificate;
        }
        let credential = credential.inspect_err(|error| log_refusal(error, peer));
        if path == HANDSHAKE_PATH {
            let handshake = match credential {
                Ok(credential) => self.handshake(credential, peer).await?,
                Err(AuthError::NoCredential) => Handshake::Absent,
                Err(error) => return Err(refusal(error)),
            };
            parts.extensions.insert(handshake);
            parts.extensions.insert(Peer(peer));
            return Ok(None);
        }
        let principal = Arc::new(self.authenticate(&credential.map_err(refusal)?, peer).await?);
        let (session_key, cookie) = match self.session_key(&parts.headers, &principal) {
            Some(key) => (Some(key), None),
            None => (None, session_cookie(&self.key, &principal, &uuid::Uuid::new_v4().simple().to_string()).ok()),
        };
        let caller = Caller {
            principal,
            session_key,
            client_address: peer.map(|peer| peer.to_string()),
            client_driver: parts.headers.get(USER_AGENT).map(driver_name),
        };
        let session: Arc<Session> = self.sessions.resolve(caller)?;
        parts.extensions.insert(session);
        Ok(cookie)
    }

    async fn handshake(&self, credential: Credential, peer: Option<SocketAddr>) -> Result<Handshake, Error> {
        let principal = Arc::new(self.authenticate(&credential, peer).await?);
        Ok(Handshake::of(credential, principal))
    }

    async fn authenticate(&self, credential: &Credential, peer: Option<SocketAddr>) -> Result<Principal, Error> {
        self.authenticator.authenticate(credential, peer.map(|peer| peer.ip())).await.map_err(refusal)
    }

    fn session_key(&self, headers: &HeaderMap, principal: &Principal) -> Option<String> {
        let from_cookie = cookies(headers).find_map(|cookie| self.key.open_session_key(&principal.name, cookie));
        let is_ours = matches!(principal.credential, CredentialKind::OwnToken | CredentialKind::ServiceToken);
        let from_token = || if is_ours { principal.token_id.clone() } else { None };
        from_cookie.or_else(from_token)
    }
}

/// What the client is told. The reason is in the log: the authenticator's, or [`log_refusal`]'s.
pub fn refusal(error: AuthError) -> Error {
    let kind = match error {
        AuthError::NoCredential | AuthError::BadCredential(_) => ErrorKind::Unauthenticated,
        AuthError::Busy => ErrorKind::Exhausted,
    };
    Error::new(kind, error.to_string())
}

/// Refusals that never reach the authenticator are logged like its own.
fn log_refusal(error: &AuthError, peer: Option<SocketAddr>) {
    tracing::info!(address = ?peer.map(|peer| peer.ip()), reason = error.reason(), "authentication refused");
}

/// The `set-cookie` header of a session. No attributes: drivers parse them badly, and no browser comes here.
pub fn session_cookie(key: &HandleKey, principal: &Principal, session_key: &str) -> Result<HeaderValue, Error> {
    let value = key.seal_session_key(&principal.name, session_key)?;
    HeaderValue::from_str(&format!("{SESSION_COOKIE}={value}")).map_err(Error::internal)
}

fn peer_address(parts: &request::Parts) -> Option<SocketAddr> {
    let plain = parts.extensions.get::<TcpConnectInfo>();
    let tls = || parts.extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
    plain.or_else(tls).and_then(TcpConnectInfo::remote_addr)
}

/// What the client has shown to TLS, which has verified it: the first certificate is its own.
fn client_certificate(parts: &request::Parts) -> Option<Result<Credential, AuthError>> {
    let shown = parts.extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.peer_certs()?;
    shown.first().map(|certificate| Credential::from_certificate(certificate.as_ref()))
}

/// The call's credential. Two of them could be read two ways, and are refused.
fn credential(headers: &HeaderMap) -> Result<Credential, AuthError> {
    if let Some(value) = only(headers, AUTHORIZATION)? {
        return Credential::from_header(value.to_str().map_err(|_| Reason::Malformed("header characters"))?);
    }
    let value = only(headers, HeaderName::from_static(OLD_TOKEN_HEADER))?.ok_or(AuthError::NoCredential)?;
    let token = BASE64.decode(value).map_err(|_| Reason::Malformed("base64"))?;
    let token = String::from_utf8(token).map_err(|_| Reason::Malformed("UTF-8"))?;
    if token.is_empty() {
        return Err(AuthError::NoCredential);
    }
    Credential::from_header(&format!("Bearer {token}"))
}

fn only(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, AuthError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(Reason::Malformed("more than one credential").into()),
    }
}

/// Values of our cookie. Drivers join cookies with `;` or `; `, or send several headers.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == SESSION_COOKIE)
        .map(|(_, value)| value.trim_matches('"'))
}

fn driver_name(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).chars().filter(|c| !c.is_control()).take(DRIVER_CHARS).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn cookies_come_with_and_without_space_and_in_several_headers() {
        for joined in ["a=b;arrow_flight_session_id=x.y;c=d", "a=b; arrow_flight_session_id=x.y", "arrow_flight_session_id=\"x.y\""] {
            let mut headers = HeaderMap::new();
            headers.append(COOKIE, "z=1".parse().unwrap());
            headers.append(COOKIE, joined.parse().unwrap());
            assert_eq!(cookies(&headers).collect::<Vec<_>>(), ["x.y"], "{joined}");
        }
    }

    #[test]
    fn two_credentials_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(credential(&headers).unwrap_err(), AuthError::NoCredential);
        headers.append(AUTHORIZATION, "Bearer a".parse().unwrap());
        assert!(matches!(credential(&headers), Ok(Credential::Bearer(token)) if token == "a"));
        headers.append(AUTHORIZATION, "Bearer b".parse().unwrap());
        assert!(matches!(credential(&headers), Err(AuthError::BadCredential(_))));
    }

    #[test]
    fn the_old_token_header_is_a_bearer() {
        let mut headers = HeaderMap::new();
        headers.insert(OLD_TOKEN_HEADER, "dG9rZW4".parse().unwrap());
        assert!(matches!(credential(&headers), Ok(Credential::Bearer(token)) if token == "token"));
        headers.insert(OLD_TOKEN_HEADER, "dG9rZW4x!".parse().unwrap());
        assert!(matches!(credential(&headers), Err(AuthError::BadCredential(_))));
        headers.insert(OLD_TOKEN_HEADER, "".parse().unwrap());
        assert_eq!(credential(&headers).unwrap_err(), AuthError::NoCredential);
    }
}
