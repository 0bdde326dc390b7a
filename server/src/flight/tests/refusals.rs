//! No RPC, command or action does anything for one who has not shown who it is.

use std::future::Future;
use std::pin::Pin;

use arrow_flight::sql::*;
use arrow_flight::{Action, Criteria, Empty, FlightData, FlightDescriptor, HandshakeRequest, Ticket};
use futures::{StreamExt, stream};
use http::header::HeaderMap;
use tonic::Code;
use tower::{Layer, Service};

use super::*;
use crate::flight::auth_layer::AuthLayer;
use crate::flight::handles::HandleKey;
use crate::session::SessionState;

type Answer = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;
type Call = Box<dyn Fn(Client) -> Answer + Send>;

fn call<F>(run: impl Fn(Client) -> F + Send + 'static) -> Call
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    Box::new(move |client| Box::pin(run(client)))
}

fn commands() -> Vec<(&'static str, Any)> {
    macro_rules! commands {
        ($($name:ident),*) => { vec![$((stringify!($name), $name::default().as_any())),*] };
    }
    commands!(
        CommandGetCatalogs,
        CommandGetCrossReference,
        CommandGetDbSchemas,
        CommandGetExportedKeys,
        CommandGetImportedKeys,
        CommandGetPrimaryKeys,
        CommandGetSqlInfo,
        CommandGetTableTypes,
        CommandGetTables,
        CommandGetXdbcTypeInfo,
        CommandPreparedStatementQuery,
        CommandPreparedStatementUpdate,
        CommandStatementIngest,
        CommandStatementQuery,
        CommandStatementSubstraitPlan,
        CommandStatementUpdate,
        TicketStatementQuery
    )
}

const ACTIONS: [&str; 14] = [
    "CreatePreparedStatement",
    "ClosePreparedStatement",
    "CreatePreparedSubstraitPlan",
    "BeginTransaction",
    "EndTransaction",
    "BeginSavepoint",
    "EndSavepoint",
    "CancelQuery",
    "CancelFlightInfo",
    "RenewFlightEndpoint",
    "SetSessionOptions",
    "GetSessionOptions",
    "CloseSession",
    "NoSuchAction",
];

/// All RPCs of the service, with every command and action.
fn calls() -> Vec<(String, Call)> {
    let mut calls: Vec<(String, Call)> = vec![
        (
            "Handshake".into(),
            call(|mut c| async move {
                let request = c.request(stream::iter([HandshakeRequest::default()]));
                c.inner.handshake(request).await.map(drop)
            }),
        ),
        (
            "ListFlights".into(),
            call(|mut c| async move {
                let request = c.request(Criteria::default());
                c.inner.list_flights(request).await.map(drop)
            }),
        ),
        (
            "ListActions".into(),
            call(|mut c| async move {
                let request = c.request(Empty {});
                c.inner.list_actions(request).await.map(drop)
            }),
        ),
        (
            "DoExchange".into(),
            call(|mut c| async move {
                let request = c.request(stream::iter([FlightData::default()]));
                c.inner.do_exchange(request).await.map(drop)
            }),
        ),
    ];
    for (name, any) in commands() {
        let bytes: Bytes = any.encode_to_vec().into();
        let with = |run: fn(Client, Bytes) -> Answer| -> Call {
            let bytes = bytes.clone();
            Box::new(move |client| run(client, bytes.clone()))
        };
        calls.push((
            format!("GetFlightInfo {name}"),
            with(|mut c, bytes| {
                Box::pin(async move {
                    let request = c.request(FlightDescriptor::new_cmd(bytes));
                    c.inner.get_flight_info(request).await.map(drop)
                })
            }),
        ));
        calls.push((
            format!("PollFlightInfo {name}"),
            with(|mut c, bytes| {
                Box::pin(async move {
                    let request = c.request(FlightDescriptor::new_cmd(bytes));
                    c.inner.poll_flight_info(request).await.map(drop)
                })
            }),
        ));
        calls.push((
            format!("GetSchema {name}"),
            with(|mut c, bytes| {
                Box::pin(async move {
                    let request = c.request(FlightDescriptor::new_cmd(bytes));
                    c.inner.get_schema(request).await.map(drop)
                })
            }),
        ));
        calls.push((
            format!("DoGet {name}"),
            with(|mut c, bytes| {
                Box::pin(async move {
                    let request = c.request(Ticket::new(bytes));
                    c.inner.do_get(request).await.map(drop)
                })
            }),
        ));
        calls.push((
            format!("DoPut {name}"),
            with(|mut c, bytes| {
                Box::pin(async move {
                    let message = FlightData { flight_descriptor: Some(FlightDescriptor::new_cmd(bytes)), ..FlightData::default() };
                    let request = c.request(stream::iter([message]));
                    c.inner.do_put(request).await.map(drop)
                })
            }),
        ));
    }
    for name in ACTIONS {
        calls.push((
            format!("DoAction {name}"),
            call(move |mut c| async move {
                let request = c.request(Action::new(name, Bytes::new()));
                c.inner.do_action(request).await.map(drop)
            }),
        ));
    }
    calls
}

#[tokio::test]
async fn no_call_passes_without_a_credential() {
    let server = TestServer::start().await;
    let client = server.client("").await;
    let credentials: [Vec<(&str, String)>; 7] = [
        vec![],
        vec![("authorization", String::new())],
        vec![("authorization", "Basic :".into())],
        vec![("authorization", "Bearer own-forged".into())],
        vec![("cookie", "arrow_flight_session_id=x.y".into())],
        vec![("authorization", basic("ana", "ana")), ("authorization", basic("ana", "ana"))],
        vec![("auth-token-bin", "b3duLWZvcmdlZA".into())],
    ];
    for headers in credentials {
        for (name, run) in calls() {
            let client = Client { headers: headers.clone(), ..client.clone() };
            let status = run(client).await.expect_err(&name);
            assert_eq!((status.code(), status.message()), (Code::Unauthenticated, REFUSED), "{name} {headers:?}");
        }
    }
    assert!(server.engine.updates.lock().is_empty());
    assert!(server.sessions.list().is_empty(), "and no session is started");
}

#[tokio::test]
async fn with_a_credential_everything_answers_and_what_is_not_built_says_its_name() {
    let server = TestServer::start().await;
    let client = server.login("ana").await;
    for (name, run) in calls() {
        let answer = run(client.clone()).await;
        let Err(status) = answer else { continue };
        assert!(!matches!(status.code(), Code::Unauthenticated | Code::Internal | Code::Unknown), "{name}: {status}");
        let unbuilt = ["Substrait", "Ingest", "Transaction", "Savepoint", "Renew", "ListFlights", "DoExchange"];
        if let Some(word) = unbuilt.iter().find(|word| name.contains(**word)) {
            assert_eq!(status.code(), Code::Unimplemented, "{name}: {status}");
            assert!(status.message().contains(word), "{name}: {status}");
        }
    }
}

#[tokio::test]
async fn a_path_that_nobody_knows_does_not_pass_the_door() {
    let initial = SessionState::new("c", "s");
    let sessions = Arc::new(Sessions::new(1, initial));
    let layer = AuthLayer::new(Arc::new(TestAuthenticator::new().await), sessions, HandleKey::new([1; 32]));
    let inner = tower::service_fn(|request: http::Request<tonic::body::Body>| async move {
        let mut response = http::Response::new(tonic::body::Body::empty());
        response.headers_mut().insert("passed", request.uri().path().parse().unwrap());
        Ok::<_, std::convert::Infallible>(response)
    });
    let ask = async |path: &str| -> HeaderMap {
        let request = http::Request::builder().uri(path).body(tonic::body::Body::empty()).unwrap();
        layer.layer(inner).call(request).await.unwrap().headers().clone()
    };
    for path in ["/", "/grpc.health.v1.Healthy/Check", "/arrow.flight.protocol.FlightService/New", "/x/grpc.health.v1.Health/Check"] {
        let headers = ask(path).await;
        assert!(headers.get("grpc-status").is_some_and(|status| status == "16") && !headers.contains_key("passed"), "{path}");
    }
    assert!(ask("/grpc.health.v1.Health/Check").await.contains_key("passed"));
}

/// The client is still sending when it is refused, and must see the status rather than a reset.
#[tokio::test]
async fn an_upload_that_is_refused_gets_its_status() {
    let server = TestServer::start().await;
    let mut client = server.client("Bearer own-forged").await;
    let message = FlightData { data_body: vec![0; 100_000].into(), ..FlightData::default() };
    for _ in 0..5 {
        let request = client.request(stream::iter(vec![message.clone(); 100]));
        assert_eq!(code(client.inner.do_put(request).await), Code::Unauthenticated);
    }
    let request = client.request(stream::iter([message]).chain(stream::pending()));
    assert_eq!(code(client.inner.do_put(request).await), Code::Unauthenticated);
}
