//! The ways in which drivers show who they are.

use arrow_flight::{BasicAuth, HandshakeRequest};
use futures::{StreamExt, stream};
use tonic::Code;

use super::*;

async fn shake(client: &mut Client, messages: Vec<HandshakeRequest>) -> Result<(String, String, Vec<Bytes>), Status> {
    let request = client.request(stream::iter(messages));
    let response = client.inner.handshake(request).await?;
    let header = |name: &str| response.metadata().get(name).unwrap().to_str().unwrap().to_owned();
    let (authorization, cookie) = (header("authorization"), header("set-cookie"));
    let answers: Vec<_> = response.into_inner().try_collect().await?;
    Ok((authorization, cookie, answers.into_iter().map(|answer| answer.payload).collect()))
}

#[tokio::test]
async fn every_form_of_password_gets_a_token_that_works() {
    let server = TestServer::start().await;
    let padded = basic("ana", "ana");
    let unpadded = padded.trim_end_matches('=').to_owned();
    assert_ne!(padded, unpadded);
    let payload = BasicAuth { username: "ana".into(), password: "ana".into() }.encode_to_vec();
    let empty = HandshakeRequest::default();
    for (headers, messages) in [
        (vec![("authorization", padded)], vec![]),
        (vec![("authorization", unpadded)], vec![empty]),
        (vec![], vec![HandshakeRequest { protocol_version: 0, payload: payload.into() }]),
    ] {
        let mut client = server.client("").await;
        client.headers = headers;
        let (authorization, cookie, payloads) = shake(&mut client, messages).await.unwrap();
        assert!(authorization.starts_with("Bearer ey"), "{authorization}");
        assert!(cookie.starts_with("arrow_flight_session_id="), "{cookie}");
        assert_eq!(payloads, [authorization.trim_start_matches("Bearer ")]);
        client.headers = vec![("authorization", authorization.clone())];
        assert_eq!(client.query("SELECT 1").await.unwrap()[0].num_rows(), 1);
        // The old way of sending the same token.
        let token = base64::engine::general_purpose::STANDARD.encode(&payloads[0]);
        client.headers = vec![("auth-token-bin", token)];
        assert_eq!(client.query("SELECT 1").await.unwrap()[0].num_rows(), 1);
    }
}

#[tokio::test]
async fn a_bearer_comes_back_as_it_is() {
    let server = TestServer::start().await;
    let mut client = server.client("Bearer foreign-eva").await;
    let (authorization, _, payloads) = shake(&mut client, vec![HandshakeRequest::default()]).await.unwrap();
    assert_eq!((authorization.as_str(), payloads.len()), ("Bearer foreign-eva", 1));
    let mut own = server.login("ana").await;
    let (authorization, _, _) = shake(&mut own, vec![]).await.unwrap();
    assert_eq!(authorization, own.headers[0].1);
}

#[tokio::test]
async fn a_service_token_comes_back_as_it_is_also_in_the_place_of_a_password() {
    let server = TestServer::start().await;
    let bearer = format!("Bearer {}", TOKEN.reveal());
    let payload = BasicAuth { username: "ana".into(), password: TOKEN.reveal().into() }.encode_to_vec();
    for (headers, messages) in [
        (vec![("authorization", bearer.clone())], vec![]),
        (vec![("authorization", basic("ana", TOKEN.reveal()))], vec![]),
        (vec![], vec![HandshakeRequest { protocol_version: 0, payload: payload.into() }]),
    ] {
        let mut client = server.client("").await;
        client.headers = headers;
        let (authorization, cookie, payloads) = shake(&mut client, messages).await.unwrap();
        assert_eq!((authorization.as_str(), payloads), (bearer.as_str(), vec![Bytes::from(TOKEN.reveal())]));
        client.headers = vec![("authorization", authorization), ("cookie", cookie)];
        assert_eq!(client.query("SELECT 1").await.unwrap()[0].num_rows(), 1);
    }
    let mut other = server.client(&basic("rui", TOKEN.reveal())).await;
    assert_eq!(code(shake(&mut other, vec![]).await), Code::Unauthenticated);
    // Without a handshake, and without a cookie, the token is the session's key.
    let mut client = server.client(&bearer).await;
    client.query("SELECT 1").await.unwrap();
    assert!(server.sessions.list().iter().any(|session| session.principal == PrincipalName::local("ana")));
}

#[tokio::test]
async fn an_old_client_that_waits_before_it_closes_is_answered() {
    let server = TestServer::start().await;
    let mut client = server.client(&basic("ana", "ana")).await;
    let request = client.request(stream::iter([HandshakeRequest::default()]).chain(stream::pending()));
    let mut answers = client.inner.handshake(request).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
}

#[tokio::test]
async fn all_refusals_read_the_same() {
    let server = TestServer::start().await;
    let message = |payload: Vec<u8>| vec![HandshakeRequest { protocol_version: 0, payload: payload.into() }];
    let wrong = BasicAuth { username: "ana".into(), password: "rui".into() }.encode_to_vec();
    let colon = BasicAuth { username: "ana:ana".into(), password: String::new() }.encode_to_vec();
    for (header, messages) in [
        (Some(basic("ana", "wrong")), vec![]),
        (Some(basic("nobody", "nobody")), vec![]),
        (Some("Bearer own-forged".to_owned()), vec![]),
        (Some("Bearer".to_owned()), vec![]),
        (Some("Digest x".to_owned()), vec![]),
        (Some(String::new()), vec![]),
        (None, vec![]),
        (None, vec![HandshakeRequest::default()]),
        (None, message(wrong)),
        (None, message(colon)),
        (None, message(vec![0xff; 20])),
    ] {
        let mut client = server.client("").await;
        client.headers = header.clone().map(|header| ("authorization", header)).into_iter().collect();
        let status = shake(&mut client, messages).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, REFUSED), "{header:?}");
    }
}
