//! The catalog as drivers see it.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow_flight::sql::*;
use arrow_flight::{Empty, PollInfo};

use super::*;

fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let text = |batch: &RecordBatch, row: usize| {
        let columns = batch.columns().iter().filter_map(|column| column.as_string_opt::<i32>());
        columns.map(|column| column.value(row).to_owned()).collect::<Vec<_>>().join(".")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| text(batch, row))).collect()
}

async fn check(client: &mut Client, command: impl ProstMessageExt + Clone) -> Vec<RecordBatch> {
    let info = client.info(command.clone()).await.unwrap();
    let declared = schema_from(&info.schema);
    assert_eq!(info.total_records, -1);
    let (sent, batches) = client.get(ticket_of(&info)).await.unwrap();
    assert_eq!(sent.as_ref(), &declared);
    assert_eq!(client.schema(command.clone()).await.unwrap(), declared);
    let result = client.inner.get_schema(client.request(descriptor(&command))).await.unwrap().into_inner();
    assert_eq!(result.schema, info.schema, "byte for byte");
    batches
}

#[tokio::test]
async fn every_metadata_command_has_one_schema_everywhere() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    assert_eq!(rows(&check(&mut client, CommandGetCatalogs {}).await), ["datafusion", "lake"]);
    let schemas = check(&mut client, CommandGetDbSchemas { catalog: Some("lake".into()), db_schema_filter_pattern: None }).await;
    assert_eq!(rows(&schemas), ["lake.covid", "lake.omop"]);
    assert_eq!(rows(&check(&mut client, CommandGetTableTypes {}).await), ["SYSTEM TABLE", "TABLE", "VIEW"]);
    check(&mut client, CommandGetSqlInfo { info: vec![] }).await;
    let one = check(&mut client, CommandGetSqlInfo { info: vec![8] }).await;
    assert_eq!(one[0].num_rows(), 1);
    assert!(!check(&mut client, CommandGetXdbcTypeInfo { data_type: None }).await.is_empty());
    assert!(check(&mut client, CommandGetPrimaryKeys::default()).await.is_empty());
    assert!(check(&mut client, CommandGetExportedKeys::default()).await.is_empty());
    assert!(check(&mut client, CommandGetImportedKeys::default()).await.is_empty());
    assert!(check(&mut client, CommandGetCrossReference::default()).await.is_empty());
}

#[tokio::test]
async fn tables_are_filtered_as_flight_sql_says() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let all = [
        "datafusion.public.audit.SYSTEM TABLE",
        "lake.covid.a_b.TABLE",
        "lake.covid.axb.TABLE",
        "lake.omop.person.TABLE",
        "lake.omop.personal_view.VIEW",
    ];
    let filter = |catalog: Option<&str>, schema: Option<&str>, table: Option<&str>, types: &[&str]| CommandGetTables {
        catalog: catalog.map(str::to_owned),
        db_schema_filter_pattern: schema.map(str::to_owned),
        table_name_filter_pattern: table.map(str::to_owned),
        table_types: types.iter().map(|t| (*t).to_owned()).collect(),
        include_schema: false,
    };
    for (command, expected) in [
        (filter(None, None, None, &[]), &all[..]),
        (filter(Some(""), None, None, &[]), &[]),
        (filter(Some("lake"), Some("o%"), None, &[]), &all[3..]),
        (filter(None, None, Some("a_b"), &[]), &all[1..3]),
        (filter(None, None, Some(r"a\_b"), &[]), &all[1..2]),
        (filter(None, None, Some("person%"), &["VIEW"]), &all[4..]),
        (filter(None, None, None, &["SYSTEM TABLE"]), &all[..1]),
        (filter(Some("nowhere"), None, None, &[]), &[]),
    ] {
        assert_eq!(rows(&check(&mut client, command.clone()).await), expected, "{command:?}");
    }
    let mut rui = server.login("rui").await;
    assert_eq!(rows(&check(&mut rui, filter(None, None, None, &[])).await), all[3..], "what one may not see is not there");
}

#[tokio::test]
async fn table_schemas_are_canonical_and_described() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let batches = check(&mut client, CommandGetTables { include_schema: true, ..CommandGetTables::default() }).await;
    let schemas = batches[0].column_by_name("table_schema").unwrap().as_binary::<i32>();
    let of = |row: usize| schema_from(&Bytes::copy_from_slice(schemas.value(row)));
    assert!(of(2).fields().is_empty(), "a table that cannot be opened hides no other");
    let person = of(3);
    assert_eq!((person.field(0).data_type(), person.field(0).is_nullable()), (&DataType::Int64, false));
    assert_eq!(person.field(1).data_type(), &DataType::Utf8);
    let metadata = person.field(1).metadata();
    assert_eq!(metadata.get("ARROW:FLIGHT:SQL:TYPE_NAME").map(String::as_str), Some("VARCHAR"));
    assert_eq!(metadata.get("x"), None);
}

#[tokio::test]
async fn actions_are_listed_and_polling_is_done_at_once() {
    let server = TestServer::start().await;
    let mut client = server.login("ana").await;
    let request = client.request(Empty {});
    let listed: Vec<_> = client.inner.list_actions(request).await.unwrap().into_inner().try_collect().await.unwrap();
    let names: Vec<_> = listed.iter().map(|action| action.r#type.as_str()).collect();
    assert_eq!(
        names,
        [
            "CreatePreparedStatement",
            "ClosePreparedStatement",
            "CancelQuery",
            "CancelFlightInfo",
            "SetSessionOptions",
            "GetSessionOptions",
            "CloseSession"
        ]
    );
    let request = client.request(descriptor(&statement("SELECT 1 AS one")));
    let PollInfo { info, flight_descriptor, .. } = client.inner.poll_flight_info(request).await.unwrap().into_inner();
    assert!(flight_descriptor.is_none());
    assert_eq!(client.get(ticket_of(&info.unwrap())).await.unwrap().1[0].num_rows(), 1);
}

#[tokio::test]
async fn health_needs_no_credential_and_says_when_it_ends() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let mut server = TestServer::start().await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "arrow.flight.protocol.FlightService"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(answer.into_inner().status, 1, "{service}");
    }
    drop(health);
    server.stop().await;
    assert!(Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect().await.is_err());
}
