//! TLS, and what a client can do to the connection itself.

use std::future::Future;

use futures::FutureExt;
use tonic::transport::{Certificate, ClientTlsConfig};

use super::*;

/// Made for these tests: `openssl req -x509 -newkey ec -nodes -days 36500 -subj /CN=localhost …`
const CERTIFICATE: &str = include_str!("tls/server.pem");
const KEY: &str = include_str!("tls/server.key");

fn tls(client_authorities: Option<&str>) -> FlightConfig {
    let client_authorities = client_authorities.map(str::to_owned);
    FlightConfig { tls: Some(Tls { certificates: CERTIFICATE.into(), key: KEY.into(), client_authorities }), ..config() }
}

async fn over_tls(server: &TestServer) -> Result<Channel, tonic::transport::Error> {
    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(CERTIFICATE));
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", server.address.port())).unwrap();
    endpoint.tls_config(trust).unwrap().connect().await
}

#[tokio::test]
async fn tls_serves_and_plain_text_gets_nothing() {
    let server = TestServer::start_with(tls(None)).await;
    let inner = FlightServiceClient::new(over_tls(&server).await.unwrap());
    let mut client = Client { inner, headers: vec![("authorization", basic("ana", "ana"))] };
    assert_eq!(client.query("SELECT 1").await.unwrap().len(), 1);
    let plain = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect().await;
    if let Ok(channel) = plain {
        let mut client = Client { inner: FlightServiceClient::new(channel), ..client };
        assert!(client.query("SELECT 1").await.is_err());
    }
}

#[tokio::test]
async fn clients_without_a_certificate_are_refused_where_one_is_asked_for() {
    let server = TestServer::start_with(tls(Some(CERTIFICATE))).await;
    // TLS 1.3 lets the client think it is connected until it reads.
    if let Ok(channel) = over_tls(&server).await {
        let mut client = Client { inner: FlightServiceClient::new(channel), headers: vec![("authorization", basic("ana", "ana"))] };
        assert!(client.query("SELECT 1").await.is_err());
    }
    assert!(server.engine.ran_in.lock().is_empty());
}

#[tokio::test]
async fn a_certificate_that_is_none_is_an_error_at_start() {
    let tls = Tls { certificates: "no".into(), key: "no".into(), client_authorities: None };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let engine = Arc::new(TestEngine::new().await);
    let config = FlightConfig { tls: Some(tls), ..config() };
    let authenticator = Arc::new(TestAuthenticator::new().await);
    let result = crate::flight::serve(listener, engine, authenticator, config, std::future::pending()).await;
    assert_eq!(result.unwrap_err().kind, ErrorKind::Internal);
}

#[tokio::test]
async fn headers_are_taken_up_to_a_limit() {
    let server = TestServer::start().await;
    let mut client = server.client(&basic("ana", "ana")).await;
    for number in 0..40 {
        client.headers.push((["a", "b", "c", "d"][number % 4], "x".repeat(1000)));
    }
    assert_eq!(client.query("SELECT 1").await.unwrap().len(), 1, "JDBC sends all its properties");
    client.headers.push(("e", "x".repeat(40_000)));
    assert!(client.query("SELECT 1").await.is_err());
    assert_eq!(server.client(&basic("ana", "ana")).await.query("SELECT 1").await.unwrap().len(), 1);
}

/// Streams that are opened and reset at once, as in CVE-2023-44487: the connection may end, the server does not.
#[tokio::test]
async fn rapid_resets_do_not_stop_the_server() {
    let server = TestServer::start().await;
    let client = server.client("Bearer foreign-eva").await;
    for _ in 0..2000 {
        let mut client = client.clone();
        let request = client.request(descriptor(&statement("SELECT 1")));
        let call = async move { client.inner.get_flight_info(request).await.map(drop) };
        let mut call = Box::pin(call);
        // Polled a few times, so that it is sent, and dropped before it is answered.
        for _ in 0..3 {
            let _: Option<Result<(), Status>> = poll_once(&mut call);
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.client("Bearer foreign-eva").await.query("SELECT 1").await.unwrap().len(), 1);
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    future.now_or_never()
}
