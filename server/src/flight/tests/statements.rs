//! Queries, updates and prepared statements.

use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use arrow_flight::sql::*;
use arrow_flight::{CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus};
use tonic::Code;

use super::engine::{DRIFTING, ENDLESS, FAILING};
use super::*;

fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

fn prepared(handle: &Bytes) -> CommandPreparedStatementQuery {
    CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() }
}

#[tokio::test]
async fn one_schema_from_prepare_to_the_last_batch() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    for sql in [
        "SELECT id, name, weight FROM person",
        "SELECT id, name FROM person WHERE id < 0",
        "SELECT max(id), min(name), count(*) FROM person",
        "SELECT p.id, q.id FROM person p CROSS JOIN person q",
        "SELECT arrow_cast('x', 'Utf8View') AS v, arrow_cast('x', 'Dictionary(Int32, LargeUtf8)') AS d, make_array('x') AS l, named_struct('s', arrow_cast('y', 'Utf8View')) AS n",
        "EXPLAIN SELECT 1",
    ] {
        let info = client.info(statement(sql)).await.unwrap();
        let declared = schema_from(&info.schema);
        assert_eq!((info.total_records, info.ordered), (-1, false));
        let (sent, batches) = client.get(ticket_of(&info)).await.unwrap();
        assert_eq!(sent.as_ref(), &declared, "{sql}");
        assert!(batches.iter().all(|batch| batch.schema().as_ref() == &declared));
        let request = client.request(descriptor(&statement(sql)));
        let result = client.inner.get_schema(request).await.unwrap().into_inner();
        assert_eq!(result.schema, info.schema, "{sql}");
        let ready = client.prepare(sql).await.unwrap();
        assert_eq!((ready.dataset_schema, ready.is_update), (info.schema.clone(), Some(false)), "{sql}");
        assert!(schema_from(&ready.parameter_schema).fields().is_empty());
        let handle = prepared(&ready.prepared_statement_handle);
        assert_eq!(client.info(handle.clone()).await.unwrap().schema, info.schema);
        let closing = ActionClosePreparedStatementRequest { prepared_statement_handle: ready.prepared_statement_handle };
        client.action("ClosePreparedStatement", closing.as_any().encode_to_vec()).await.unwrap();
        assert!(declared.fields().iter().all(|field| !matches!(field.data_type(), DataType::Utf8View | DataType::LargeUtf8)));
    }
}

#[tokio::test]
async fn a_ticket_is_good_again_but_only_for_its_principal() {
    let server = TestServer::start().await;
    let (mut ana, mut rui) = (server.login("ana").await, server.login("rui").await);
    let ticket = ticket_of(&ana.info(statement("SELECT id FROM person ORDER BY id")).await.unwrap());
    for _ in 0..2 {
        assert_eq!(numbers(&ana.get(ticket.clone()).await.unwrap().1), [1, 2, 3]);
    }
    let mut stateless = server.client(&basic("ana", "ana")).await;
    assert_eq!(numbers(&stateless.get(ticket.clone()).await.unwrap().1), [1, 2, 3]);
    let mut namesake = server.client("Bearer foreign-ana").await;
    let refusals = [rui.get(ticket.clone()).await, namesake.get(ticket.clone()).await];
    let mut tampered = ticket.ticket.to_vec();
    *tampered.last_mut().unwrap() ^= 1;
    let refusals = refusals.into_iter().chain([ana.get(Ticket::new(tampered)).await]);
    for refusal in refusals {
        let status = refusal.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "ticket not found: its handle is unknown, closed or expired"));
    }
    assert_eq!(code(ana.get(Ticket::new("SELECT 1")).await), Code::InvalidArgument, "text is no ticket");
    let raw = TicketStatementQuery { statement_handle: "SELECT 1".into() };
    assert_eq!(code(ana.get(Ticket::new(raw.as_any().encode_to_vec())).await), Code::NotFound);
}

#[tokio::test]
async fn updates_run_exactly_once_on_every_path() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let insert = "INSERT INTO person VALUES (4, 'd', NULL), (5, 'e', NULL)";
    let ran = || server.engine.updates.lock().len();

    let info = client.info(statement(insert)).await.unwrap();
    assert_eq!((info.total_records, ran()), (2, 1), "at GetFlightInfo, for a caller who never fetches");
    for _ in 0..2 {
        let (schema, batches) = client.get(ticket_of(&info)).await.unwrap();
        assert!(schema.fields().is_empty() && batches.is_empty());
    }
    assert_eq!(schema_from(&info.schema).fields().len(), 0);
    assert_eq!(ran(), 1);

    let ready = client.prepare(insert).await.unwrap();
    assert_eq!((ready.is_update, schema_from(&ready.dataset_schema).fields().len(), ran()), (Some(true), 0, 1));
    let handle = ready.prepared_statement_handle;
    let info = client.info(prepared(&handle)).await.unwrap();
    client.get(ticket_of(&info)).await.unwrap();
    assert_eq!((info.total_records, ran()), (2, 2));
    let direct = Ticket::new(prepared(&handle).as_any().encode_to_vec());
    assert_eq!(code(client.get(direct).await), Code::InvalidArgument);
    assert_eq!(ran(), 2);
    client.schema(statement(insert)).await.unwrap();
    client.schema(prepared(&handle)).await.unwrap();
    assert_eq!(ran(), 2);

    let failed = client.info(statement("INSERT INTO nowhere VALUES (1)")).await;
    assert_eq!(code(failed), Code::InvalidArgument);
    assert_eq!(numbers(&client.query("SELECT count(*) FROM person").await.unwrap()), [7]);
}

#[tokio::test]
async fn handles_are_limited_closed_once_and_not_shared() {
    let server = TestServer::start().await;
    let (mut ana, mut rui) = (server.login("ana").await, server.login("rui").await);
    let mut handles = Vec::new();
    for _ in 0..5 {
        handles.push(ana.prepare("SELECT 1").await.unwrap().prepared_statement_handle);
    }
    let status = ana.prepare("SELECT 1").await.unwrap_err();
    let text = "too many open prepared statements: the limit is 5 in a session (limits.statements_per_session)";
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, text));
    rui.prepare("SELECT 1").await.unwrap();
    assert_eq!(code(rui.info(prepared(&handles[0])).await), Code::NotFound);
    let closing = ActionClosePreparedStatementRequest { prepared_statement_handle: handles[0].clone() }.as_any().encode_to_vec();
    assert_eq!(code(rui.action("ClosePreparedStatement", closing.clone()).await), Code::NotFound);
    ana.action("ClosePreparedStatement", closing.clone()).await.unwrap();
    assert_eq!(code(ana.action("ClosePreparedStatement", closing).await), Code::NotFound);
    ana.prepare("SELECT 1").await.unwrap();
    let as_ticket = TicketStatementQuery { statement_handle: handles[1].clone() };
    assert_eq!(code(ana.get(Ticket::new(as_ticket.as_any().encode_to_vec())).await), Code::NotFound, "kinds do not mix");
}

#[tokio::test]
async fn errors_reach_the_client_wherever_they_arise() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    assert_eq!(code(client.info(statement("SELEKT 1")).await), Code::InvalidArgument);
    let ticket = ticket_of(&client.info(statement(FAILING)).await.unwrap());
    let status = client.get(ticket).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "division by zero"));
    let ticket = ticket_of(&client.info(statement(DRIFTING)).await.unwrap());
    assert_eq!(code(client.get(ticket).await), Code::FailedPrecondition);
    let transaction = CommandStatementQuery { query: "SELECT 1".into(), transaction_id: Some("t".into()) };
    assert_eq!(code(client.info(transaction).await), Code::InvalidArgument);
    let path = client.request(FlightDescriptor::new_path(vec!["person".into()]));
    assert_eq!(code(client.inner.get_flight_info(path).await), Code::InvalidArgument);
    assert_eq!(client.query("SELECT 1").await.unwrap().len(), 1, "and the server lives");
}

async fn until_closed(server: &TestServer) {
    let closed = async {
        while server.engine.endless_open.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("the engine's stream is dropped");
}

#[tokio::test]
async fn dropping_the_stream_cancels_the_query() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let ticket = ticket_of(&client.info(statement(ENDLESS)).await.unwrap());
    let request = client.request(ticket);
    let mut stream = client.inner.do_get(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    assert_eq!(server.engine.endless_open.load(Ordering::SeqCst), 1);
    drop(stream);
    until_closed(&server).await;
}

#[tokio::test]
async fn cancelling_by_info_ends_the_stream_and_the_ticket() {
    let server = TestServer::start().await;
    let (mut client, mut rui) = (server.login("ana").await, server.login("rui").await);
    let info = client.info(statement(ENDLESS)).await.unwrap();
    let request = client.request(ticket_of(&info));
    let mut stream = client.inner.do_get(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let cancel = CancelFlightInfoRequest { info: Some(info.clone()) }.encode_to_vec();
    assert_eq!(code(rui.action("CancelFlightInfo", cancel.clone()).await), Code::NotFound);
    let answer = client.action("CancelFlightInfo", cancel).await.unwrap();
    assert_eq!(CancelFlightInfoResult::decode(answer[0].clone()).unwrap().status(), CancelStatus::Cancelled);
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cancelled stream ends with its status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Cancelled);
    until_closed(&server).await;
    assert_eq!(code(client.get(ticket_of(&info)).await), Code::NotFound);

    let info = client.info(statement("SELECT 1")).await.unwrap();
    let request = ActionCancelQueryRequest { info: info.encode_to_vec().into() };
    let answer = client.action("CancelQuery", request.as_any().encode_to_vec()).await.unwrap();
    let result: ActionCancelQueryResult = Any::decode(answer[0].clone()).unwrap().unpack().unwrap().unwrap();
    assert_eq!(result.result, 1);
}

#[tokio::test]
async fn a_prepared_statement_runs_for_each_bound_row_and_again() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let ready = client.prepare("SELECT CAST($1 AS BIGINT) + 1 AS n").await.unwrap();
    let parameters = schema_from(&ready.parameter_schema);
    assert!(parameters.fields().len() == 1 && parameters.field(0).is_nullable());
    let handle = ready.prepared_statement_handle;
    let batch = |values: Vec<i64>| RecordBatch::try_from_iter([("$1", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap();
    let batches = vec![batch(vec![1, 2]), batch(vec![3])];
    let answer = client.put(super::uploads::upload(&prepared(&handle), batches)).await.unwrap();
    let answer = DoPutPreparedStatementResult::decode(answer[0].clone()).unwrap();
    assert_eq!(answer.prepared_statement_handle.as_ref(), Some(&handle), "always echoed");
    for _ in 0..2 {
        let info = client.info(prepared(&handle)).await.unwrap();
        assert_eq!(numbers(&client.get(ticket_of(&info)).await.unwrap().1), [2, 3, 4]);
    }
    client.put(super::uploads::upload(&prepared(&handle), vec![batch(vec![10])])).await.unwrap();
    let direct = Ticket::new(prepared(&handle).as_any().encode_to_vec());
    assert_eq!(numbers(&client.get(direct).await.unwrap().1), [11]);
    let two: Vec<(&str, ArrayRef)> = vec![("$1", Arc::new(Int64Array::from(vec![1]))), ("$2", Arc::new(Int64Array::from(vec![1])))];
    let two = RecordBatch::try_from_iter(two).unwrap();
    let status = client.put(super::uploads::upload(&prepared(&handle), vec![two])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "the statement has 1 parameters, and 2 were given"));
}
