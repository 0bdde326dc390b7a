//! What lasts between calls, and for whom.

use std::collections::HashMap;

use tonic::Code;

use super::*;
use crate::flight::session_options::*;

fn set(options: &[(&str, Option<&str>)]) -> Vec<u8> {
    let value = |value: Option<&str>| SessionOptionValue { option_value: value.map(|text| OptionValue::Text(text.into())) };
    let session_options = options.iter().map(|(name, text)| ((*name).to_owned(), value(*text))).collect();
    SetSessionOptionsRequest { session_options }.encode_to_vec()
}

async fn set_options(client: &mut Client, options: &[(&str, Option<&str>)]) -> HashMap<String, i32> {
    let answer = client.action("SetSessionOptions", set(options)).await.unwrap();
    let errors = SetSessionOptionsResult::decode(answer[0].clone()).unwrap().errors;
    errors.into_iter().map(|(name, error)| (name, error.value)).collect()
}

async fn options(client: &mut Client) -> (String, String) {
    let answer = client.action("GetSessionOptions", Bytes::new()).await.unwrap();
    let mut options = GetSessionOptionsResult::decode(answer[0].clone()).unwrap().session_options;
    let mut text = |name: &str| match options.remove(name).unwrap().option_value {
        Some(OptionValue::Text(text)) => text,
        other => panic!("{other:?}"),
    };
    (text("catalog"), text("schema"))
}

#[tokio::test]
async fn options_are_checked_kept_and_erased() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    assert_eq!(options(&mut client).await, ("datafusion".into(), "public".into()));
    assert_eq!(set_options(&mut client, &[("catalog", Some("lake")), ("schema", Some("omop"))]).await, HashMap::new());
    assert_eq!(options(&mut client).await, ("lake".into(), "omop".into()));
    client.query("SELECT 1").await.unwrap();
    assert_eq!(server.engine.ran_in.lock().last().unwrap(), "lake");
    let errors = set_options(&mut client, &[("catalog", Some("nowhere")), ("colour", Some("red")), ("schema", Some("covid"))]).await;
    assert_eq!(errors, HashMap::from([("catalog".into(), 2), ("colour".into(), 1)]), "the rest is set");
    assert_eq!(options(&mut client).await, ("lake".into(), "covid".into()));
    assert_eq!(set_options(&mut client, &[("schema", Some("public"))]).await, HashMap::from([("schema".into(), 2)]));
    let number = SessionOptionValue { option_value: Some(OptionValue::Int(1)) };
    let request = SetSessionOptionsRequest { session_options: HashMap::from([("catalog".into(), number)]) };
    let answer = client.action("SetSessionOptions", request.encode_to_vec()).await.unwrap();
    assert_eq!(SetSessionOptionsResult::decode(answer[0].clone()).unwrap().errors["catalog"].value, 2);
    assert_eq!(set_options(&mut client, &[("catalog", None), ("schema", None)]).await, HashMap::new());
    assert_eq!(options(&mut client).await, ("datafusion".into(), "public".into()));
}

#[tokio::test]
async fn tokens_do_not_share_sessions_and_closing_releases_statements() {
    let server = TestServer::start().await;
    let (mut first, mut second) = (server.login("ana").await, server.login("ana").await);
    set_options(&mut first, &[("catalog", Some("lake"))]).await;
    assert_eq!(options(&mut second).await.0, "datafusion");
    let handle = first.prepare("SELECT 1").await.unwrap().prepared_statement_handle;
    let command = CommandPreparedStatementQuery { prepared_statement_handle: handle };
    first.info(command.clone()).await.unwrap();
    let closed = first.action("CloseSession", Bytes::new()).await.unwrap();
    assert_eq!(CloseSessionResult::decode(closed[0].clone()).unwrap().status, CloseSessionStatus::Closed as i32);
    assert_eq!(code(first.info(command).await), Code::NotFound);
    assert_eq!(options(&mut first).await.0, "datafusion", "the next call starts anew");
}

use arrow_flight::sql::CommandPreparedStatementQuery;

#[tokio::test]
async fn a_cookie_leads_its_principal_and_nobody_else_into_the_session() {
    let server = TestServer::start().await;
    let mut eva = server.client("Bearer foreign-eva").await;
    let refused = eva.action("SetSessionOptions", set(&[("catalog", Some("lake"))])).await;
    assert_eq!(code(refused), Code::FailedPrecondition, "without a cookie nothing would be kept");
    let request = eva.request(descriptor(&statement("SELECT 1")));
    let answer = eva.inner.get_flight_info(request).await.unwrap();
    let cookie = answer.metadata().get("set-cookie").unwrap().to_str().unwrap().to_owned();
    assert!(server.sessions.list().is_empty(), "a cookie that never comes back costs nothing");

    eva.headers.push(("cookie", format!("other=1;{cookie}")));
    assert_eq!(set_options(&mut eva, &[("catalog", Some("lake"))]).await, HashMap::new());
    assert_eq!(options(&mut eva).await.0, "lake");
    assert_eq!(server.sessions.list().len(), 1);

    for thief in ["Bearer foreign-mallory", &basic("rui", "rui")] {
        let mut thief = server.client(thief).await;
        thief.headers.push(("cookie", cookie.clone()));
        assert_eq!(options(&mut thief).await.0, "datafusion");
        assert_eq!(code(thief.action("SetSessionOptions", set(&[("catalog", Some("lake"))])).await), Code::FailedPrecondition);
        let closed = thief.action("CloseSession", Bytes::new()).await.unwrap();
        assert_eq!(CloseSessionResult::decode(closed[0].clone()).unwrap().status, CloseSessionStatus::NotCloseable as i32);
    }
    assert_eq!(server.sessions.list().len(), 1, "nothing was started or ended");
    assert_eq!(options(&mut eva).await.0, "lake");
}

#[tokio::test]
async fn the_cookie_of_a_handshake_and_its_token_are_one_session() {
    let server = TestServer::start().await;
    let mut client = server.client(&basic("ana", "ana")).await;
    let answer = client.inner.handshake(client.request(futures::stream::empty())).await.unwrap();
    let header = |name: &str| answer.metadata().get(name).unwrap().to_str().unwrap().to_owned();
    let mut by_token = Client { headers: vec![("authorization", header("authorization"))], ..client.clone() };
    let mut by_cookie = Client { headers: vec![("authorization", basic("ana", "ana")), ("cookie", header("set-cookie"))], ..client };
    set_options(&mut by_token, &[("catalog", Some("lake"))]).await;
    assert_eq!(options(&mut by_cookie).await.0, "lake");
}

#[tokio::test]
async fn sessions_are_limited() {
    let server = TestServer::start_with(FlightConfig { sessions: 1, ..config() }).await;
    let (mut first, mut second) = (server.login("ana").await, server.login("ana").await);
    options(&mut first).await;
    let status = second.action("GetSessionOptions", Bytes::new()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too many sessions: the limit is 1 (limits.sessions)"));
    first.action("CloseSession", Bytes::new()).await.unwrap();
    options(&mut second).await;
}
