//! The Handshake: a credential in, a token and a session cookie out.
//!
//! Drivers do it in four ways: a header and no message (ADBC), a header and one empty message (JDBC), a bearer header
//! (JDBC and ODBC with a token), and the old way with name and password in the first message. The answer holds the token
//! in the header for the first three, and in a message for the last.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::{BasicAuth, HandshakeRequest, HandshakeResponse};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::header::{AUTHORIZATION, SET_COOKIE};
use lazaret_auth::{AuthError, Credential, CredentialKind, MAX_PASSWORD_BYTES, Principal, Reason, is_user_name};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Error, Result};
use crate::flight::auth_layer::{Authenticate, Handshake, Peer, refusal, session_cookie};
use crate::flight::handles::HandleKey;

/// A client that has shown nothing in the header must show it in a message within this time.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// After the answer the client is given this long to close its side, so that its stream is not reset.
const CLOSING: Duration = Duration::from_secs(2);

pub async fn handshake(
    authenticator: &dyn Authenticate,
    key: &HandleKey,
    request: Request<Streaming<HandshakeRequest>>,
) -> Result<Response<BoxStream<'static, Result<HandshakeResponse, Status>>>, Status> {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0);
    let shown = request.extensions().get::<Handshake>().cloned().unwrap_or(Handshake::Absent);
    let mut incoming = request.into_inner();
    let shown = match shown {
        Handshake::Absent => {
            let credential = credential_in_payload(&mut incoming).await.map_err(refusal)?;
            let principal = authenticator.authenticate(&credential, peer.map(|peer| peer.ip())).await.map_err(refusal)?;
            Handshake::of(credential, Arc::new(principal))
        }
        shown => shown,
    };
    let (principal, token, session_key) = match shown {
        Handshake::Password { principal } => {
            let issued = authenticator.issue(&principal).map_err(refusal)?;
            (principal, issued.token, issued.id)
        }
        Handshake::Token { principal, token } => {
            let session_key = own_token_id(&principal).unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
            (principal, token, session_key)
        }
        Handshake::Absent => return Err(refusal(AuthError::NoCredential).into()),
    };
    let bearer = format!("Bearer {token}");
    let answer = HandshakeResponse { protocol_version: 0, payload: token.into() };
    let closing = stream::once(async move {
        let all = async { while let Ok(Some(_)) = incoming.message().await {} };
        let _ = tokio::time::timeout(CLOSING, all).await;
        None
    });
    let answers = stream::once(async move { Some(Ok(answer)) }).chain(closing).filter_map(std::future::ready);
    let mut response = Response::new(answers.boxed());
    let mut headers = http::HeaderMap::new();
    let mut value = http::HeaderValue::from_str(&bearer).map_err(Error::internal)?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    headers.insert(SET_COOKIE, session_cookie(key, &principal, &session_key)?);
    *response.metadata_mut() = MetadataMap::from_headers(headers);
    Ok(response)
}

/// Our own token's id is its session's key, so that the cookie and the token lead into the same session.
fn own_token_id(principal: &Principal) -> Option<String> {
    (principal.credential == CredentialKind::OwnToken).then(|| principal.token_id.clone()).flatten()
}

async fn credential_in_payload(incoming: &mut Streaming<HandshakeRequest>) -> Result<Credential, AuthError> {
    let first = tokio::time::timeout(FIRST_MESSAGE, incoming.message()).await;
    let Ok(Ok(Some(request))) = first else { return Err(AuthError::NoCredential) };
    let decoded = BasicAuth::decode(request.payload).map_err(|_| Reason::Malformed("handshake payload"))?;
    if decoded == BasicAuth::default() {
        return Err(AuthError::NoCredential);
    }
    let BasicAuth { username, password } = decoded;
    if !is_user_name(&username) || password.len() > MAX_PASSWORD_BYTES {
        return Err(Reason::Malformed("user name or password").into());
    }
    Ok(Credential::Basic { user: username, password })
}
