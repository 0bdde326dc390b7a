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
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{GeneralPurposeConfig, STANDARD_NO_PAD};
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, USER_AGENT};
use http::{Request, Response, request};
use lazaret_auth::{CredentialKind, Principal};
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

/// One text for every reason: a client must not learn whether a user exists, or what is wrong with a token.
pub const UNAUTHENTICATED: &str = "not authenticated: the credential is missing, wrong or expired";

/// Longer user agents are cut: they go into the audit.
const DRIVER_CHARS: usize = 200;

const HANDSHAKE_PATH: &str = "/arrow.flight.protocol.FlightService/Handshake";
const HEALTH_PREFIX: &str = "/grpc.health.v1.Health/";
/// Calls whose client may be sending when it is refused: it must be let finish, or it sees a reset and no status.
const UPLOAD_PATHS: [&str; 2] = ["/arrow.flight.protocol.FlightService/DoPut", "/arrow.flight.protocol.FlightService/DoExchange"];

/// A token that this server has issued.
#[derive(Clone)]
pub struct OwnToken {
    pub token: String,
    /// Its `jti`, which is the session's key.
    pub id: String,
}

/// From an `authorization` header to a principal. Every kind of refusal is [`ErrorKind::Unauthenticated`]; other kinds
/// say that it could not be decided, such as a key set that cannot be reached.
#[async_trait]
pub trait Authenticate: Send + Sync + 'static {
    async fn authenticate(&self, header: Option<&str>, peer: Option<IpAddr>) -> Result<Principal, Error>;
    /// A token for a principal who has shown a password.
    async fn issue(&self, principal: &Principal) -> Result<OwnToken, Error>;
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
        bearer: String,
    },
    Absent,
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
        let header = credential_header(&parts.headers);
        if path == HANDSHAKE_PATH {
            let handshake = match header? {
                Some(header) => self.handshake(&header, peer).await?,
                None => Handshake::Absent,
            };
            parts.extensions.insert(handshake);
            parts.extensions.insert(Peer(peer));
            return Ok(None);
        }
        let principal = Arc::new(self.authenticate(header?.as_deref(), peer).await?);
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

    async fn handshake(&self, header: &str, peer: Option<SocketAddr>) -> Result<Handshake, Error> {
        let principal = Arc::new(self.authenticate(Some(header), peer).await?);
        Ok(match principal.credential {
            CredentialKind::Password => Handshake::Password { principal },
            CredentialKind::OwnToken | CredentialKind::ForeignToken => Handshake::Token { principal, bearer: header.to_owned() },
        })
    }

    async fn authenticate(&self, header: Option<&str>, peer: Option<SocketAddr>) -> Result<Principal, Error> {
        authenticate(self.authenticator.as_ref(), header, peer).await
    }

    fn session_key(&self, headers: &HeaderMap, principal: &Principal) -> Option<String> {
        let from_cookie = cookies(headers).find_map(|cookie| self.key.open_session_key(&principal.name, cookie));
        let from_token = || (principal.credential == CredentialKind::OwnToken).then(|| principal.token_id.clone()).flatten();
        from_cookie.or_else(from_token)
    }
}

/// Asks the authenticator, logs what it said, and gives all refusals one face.
pub async fn authenticate(authenticator: &dyn Authenticate, header: Option<&str>, peer: Option<SocketAddr>) -> Result<Principal, Error> {
    let peer_text = peer.map(|peer| peer.to_string());
    match authenticator.authenticate(header, peer.map(|peer| peer.ip())).await {
        Ok(principal) => {
            tracing::debug!(outcome = "allow", principal = %principal.name, credential = ?principal.credential, peer = peer_text, "authentication");
            Ok(principal)
        }
        Err(error) => {
            tracing::info!(outcome = "deny", reason = %error, peer = peer_text, "authentication");
            Err(if error.kind == ErrorKind::Unauthenticated { unauthenticated() } else { error })
        }
    }
}

pub fn unauthenticated() -> Error {
    Error::new(ErrorKind::Unauthenticated, UNAUTHENTICATED)
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

/// The call's `authorization`. Two of them could be read two ways, and are refused.
fn credential_header(headers: &HeaderMap) -> Result<Option<String>, Error> {
    if let Some(value) = only(headers, AUTHORIZATION)? {
        return Ok(Some(value.to_str().map_err(|_| unauthenticated())?.to_owned()));
    }
    let Some(value) = only(headers, HeaderName::from_static(OLD_TOKEN_HEADER))? else { return Ok(None) };
    if value.is_empty() {
        return Ok(None);
    }
    let indifferent = GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
    let token = GeneralPurpose::new(&base64::alphabet::STANDARD, indifferent).decode(value).map_err(|_| unauthenticated())?;
    let token = String::from_utf8(token).map_err(|_| unauthenticated())?;
    Ok(Some(format!("Bearer {token}")))
}

fn only(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, Error> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(unauthenticated()),
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

/// A Basic header for a name and password that came in a payload.
pub fn basic_header(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD_NO_PAD.encode(format!("{name}:{password}")))
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
        assert_eq!(credential_header(&headers).unwrap(), None);
        headers.append(AUTHORIZATION, "Bearer a".parse().unwrap());
        assert_eq!(credential_header(&headers).unwrap().as_deref(), Some("Bearer a"));
        headers.append(AUTHORIZATION, "Bearer b".parse().unwrap());
        assert_eq!(credential_header(&headers).unwrap_err().kind, ErrorKind::Unauthenticated);
    }

    #[test]
    fn the_old_token_header_is_a_bearer() {
        let mut headers = HeaderMap::new();
        headers.insert(OLD_TOKEN_HEADER, "dG9rZW4".parse().unwrap());
        assert_eq!(credential_header(&headers).unwrap().as_deref(), Some("Bearer token"));
        headers.insert(OLD_TOKEN_HEADER, "dG9rZW4x!".parse().unwrap());
        assert!(credential_header(&headers).is_err());
    }
}
