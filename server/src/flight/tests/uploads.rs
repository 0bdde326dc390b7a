//! DoPut: what drivers send, and what attackers do.

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::sql::*;
use arrow_flight::utils::batches_to_flight_data;
use futures::{StreamExt, stream};
use tonic::Code;

use super::*;

/// Batches behind a command, as drivers send them.
pub fn upload(command: &impl ProstMessageExt, batches: Vec<RecordBatch>) -> Vec<FlightData> {
    let mut messages = batches_to_flight_data(&batches[0].schema().clone(), batches).unwrap();
    messages[0].flight_descriptor = Some(descriptor(command));
    messages
}

fn bare(command: &impl ProstMessageExt) -> FlightData {
    FlightData { flight_descriptor: Some(descriptor(command)), ..FlightData::default() }
}

fn update(sql: &str) -> CommandStatementUpdate {
    CommandStatementUpdate { query: sql.into(), transaction_id: None }
}

fn count(answers: &[Bytes]) -> i64 {
    assert_eq!(answers.len(), 1);
    DoPutUpdateResult::decode(answers[0].clone()).unwrap().record_count
}

const INSERT: &str = "INSERT INTO person VALUES ($1, 'x', NULL)";

fn ids(values: Vec<i64>) -> RecordBatch {
    RecordBatch::try_from_iter([("$1", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap()
}

#[tokio::test]
async fn an_update_has_no_ipc_header_and_runs_once() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let insert = update("INSERT INTO person VALUES (4, 'd', NULL)");
    assert_eq!(count(&client.put(vec![bare(&insert)]).await.unwrap()), 1);
    assert_eq!(count(&client.put(vec![bare(&update("CREATE TABLE t (a INT)"))]).await.unwrap()), 0);
    assert_eq!(server.engine.updates.lock().len(), 2);
    assert_eq!(code(client.put(vec![bare(&update("SELECT 1"))]).await), Code::InvalidArgument);
    // A client that leaves its side open reads the result all the same.
    let request = client.request(stream::iter([bare(&insert)]).chain(stream::pending()));
    let mut results = client.inner.do_put(request).await.unwrap().into_inner();
    assert_eq!(count(&[results.message().await.unwrap().unwrap().app_metadata]), 1);
    assert!(results.message().await.unwrap().is_none());
}

#[tokio::test]
async fn prepared_updates_run_for_each_row_or_once_without() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let command = |handle: Bytes| CommandPreparedStatementUpdate { prepared_statement_handle: handle };
    let with = command(client.prepare(INSERT).await.unwrap().prepared_statement_handle);
    assert_eq!(count(&client.put(upload(&with, vec![ids(vec![10, 11]), ids(vec![12])])).await.unwrap()), 3);
    assert_eq!(count(&client.put(upload(&with, vec![ids(vec![])])).await.unwrap()), 0, "no rows, no executions");
    let without = command(client.prepare("INSERT INTO person VALUES (4, 'd', NULL)").await.unwrap().prepared_statement_handle);
    let no_columns = RecordBatch::new_empty(Arc::new(Schema::empty()));
    assert_eq!(count(&client.put(upload(&without, vec![no_columns])).await.unwrap()), 1);
    assert_eq!(count(&client.put(vec![bare(&without)]).await.unwrap()), 1);
}

#[tokio::test]
async fn garbage_is_refused_and_the_server_lives() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let handle = client.prepare(INSERT).await.unwrap().prepared_statement_handle;
    let command = CommandPreparedStatementUpdate { prepared_statement_handle: handle };
    let good = upload(&command, vec![ids(vec![1])]);
    let changed = |header: Vec<u8>, body: Vec<u8>| {
        let mut messages = good.clone();
        messages[1].data_header = header.into();
        messages[1].data_body = body.into();
        messages
    };
    let (header, body) = (good[1].data_header.to_vec(), good[1].data_body.to_vec());
    for messages in [
        changed(vec![0xff; 64], body.clone()),
        changed(header.clone(), vec![]),
        changed(header[..header.len() / 2].to_vec(), body.clone()),
        changed(b"not arrow at all".to_vec(), body),
        vec![FlightData { data_header: vec![1, 2, 3].into(), ..bare(&command) }],
        vec![FlightData { flight_descriptor: Some(FlightDescriptor::new_cmd("DROP TABLE x")), ..FlightData::default() }],
        vec![FlightData::default()],
        vec![],
    ] {
        let status = client.put(messages).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert!(server.engine.updates.lock().is_empty());
    assert_eq!(count(&client.put(good).await.unwrap()), 1);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let huge = FlightData { data_body: vec![0; 33 << 20].into(), ..bare(&update("SELECT 1")) };
    let status = client.put(vec![huge]).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument), "{status}");
    let descriptor = FlightDescriptor::new_cmd(vec![0; 33 << 20]);
    let request = client.request(descriptor);
    assert!(matches!(code(client.inner.get_flight_info(request).await), Code::OutOfRange | Code::ResourceExhausted));
    assert_eq!(client.query("SELECT 1").await.unwrap().len(), 1);
}

/// The client is still sending when it is refused: it must see why, and not a reset.
#[tokio::test]
async fn what_is_not_built_is_refused_after_the_upload() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let ingest = CommandStatementIngest { table: "t".into(), ..CommandStatementIngest::default() };
    let batches = vec![ids((0..10_000).collect()); 50];
    for _ in 0..5 {
        let status = client.put(upload(&ingest, batches.clone())).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, "not supported yet: CommandStatementIngest"));
    }
    let status = client.put(vec![bare(&CommandStatementSubstraitPlan::default())]).await.unwrap_err();
    assert_eq!(status.message(), "not supported yet: CommandStatementSubstraitPlan");
}
