//! The ways in that SQL does not have: Flight SQL's metadata calls, tickets, parameters.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{Int64Array, RecordBatch};
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTables, SqlInfo};
use arrow_flight::{FlightInfo, Ticket};
use tonic::Code;
use tonic::transport::Channel;

use crate::client::{Answer, Client, Door};
use crate::server::{ADMIN_PASSWORD, Server};

/// Rui may read `open.visits` under a policy, and one column of `open.staff`.
const SETUP: [&str; 10] = [
    "CREATE SCHEMA open",
    "CREATE SCHEMA closed",
    "CREATE TABLE open.visits AS SELECT value AS id, value % 4 AS region FROM generate_series(1, 20)",
    "CREATE TABLE open.staff AS SELECT 1 AS id, 'x' AS salary",
    "CREATE TABLE open.other AS SELECT 1 AS id",
    "CREATE TABLE closed.secrets AS SELECT 1 AS id",
    "CREATE USER rui PASSWORD 'rui-password'",
    "GRANT SELECT ON TABLE open.visits TO USER rui",
    "GRANT SELECT (id) ON TABLE open.staff TO USER rui",
    "CREATE POLICY own ON TABLE open.visits TO USER rui USING (region = 2)",
];

struct Stage {
    server: Server,
    admin: Client,
    rui: Client,
}

impl Stage {
    async fn set() -> Result<Self> {
        let server = Server::start(None).await?;
        let mut admin = connected(&server, "admin", ADMIN_PASSWORD).await?;
        for sql in SETUP {
            assert!(matches!(admin.run(sql, Door::Statement).await?, Answer::Done(_)), "{sql}");
        }
        let rui = connected(&server, "rui", "rui-password").await?;
        Ok(Self { server, admin, rui })
    }
}

async fn connected(server: &Server, user: &str, password: &str) -> Result<Client> {
    Client::connect(&server.address, user, password).await?.map_err(anyhow::Error::msg)
}

/// The rows of an answer, a line each.
fn lines(answer: Answer) -> Vec<String> {
    match answer {
        Answer::Rows(rows) => rows.rows.iter().map(|row| row.join(" ")).collect(),
        other => panic!("{other:?}"),
    }
}

fn all_tables(include_schema: bool) -> CommandGetTables {
    CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: None,
        table_name_filter_pattern: None,
        table_types: Vec::new(),
        include_schema,
    }
}

#[tokio::test]
async fn metadata_shows_what_may_be_read() -> Result<()> {
    let Stage { mut server, mut admin, mut rui } = Stage::set().await?;

    let info = rui.flight.get_catalogs().await?;
    assert_eq!(lines(rui.fetch(info).await?), ["lazaret"]);

    let request = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None };
    let info = rui.flight.get_db_schemas(request.clone()).await?;
    assert_eq!(lines(rui.fetch(info).await?), ["lazaret information_schema", "lazaret open", "lazaret system"]);
    let info = admin.flight.get_db_schemas(request).await?;
    let schemas = lines(admin.fetch(info).await?);
    assert_eq!(schemas, ["lazaret closed", "lazaret information_schema", "lazaret open", "lazaret public", "lazaret system"]);

    let pattern = |pattern: &str| CommandGetTables { db_schema_filter_pattern: Some(pattern.to_owned()), ..all_tables(false) };
    let info = rui.flight.get_tables(pattern("open")).await?;
    assert_eq!(lines(rui.fetch(info).await?), ["lazaret open staff TABLE", "lazaret open visits TABLE"]);
    let info = rui.flight.get_tables(pattern("closed")).await?;
    assert_eq!(lines(rui.fetch(info).await?), Vec::<String>::new());
    let info = admin.flight.get_tables(pattern("closed")).await?;
    assert_eq!(lines(admin.fetch(info).await?), ["lazaret closed secrets TABLE"]);

    let info = rui.flight.get_tables(all_tables(true)).await?;
    let everything = lines(rui.fetch(info).await?).join("\n");
    let hidden = |word: &str| !everything.contains(&hex(word));
    assert!(everything.contains(&hex("region")), "columns are not shown: {everything}");
    assert!(hidden("salary") && !everything.contains("secrets") && !everything.contains("other"), "{everything}");
    server.assert_sound();
    Ok(())
}

/// As binary columns, such as the schema of a table, are printed.
fn hex(word: &str) -> String {
    word.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_yours_are_the_same() -> Result<()> {
    let Stage { mut server, mut rui, .. } = Stage::set().await?;
    let keys = |table: &str| CommandGetPrimaryKeys { catalog: None, db_schema: Some("closed".to_owned()), table: table.to_owned() };
    let there = rui.flight.get_primary_keys(keys("secrets")).await;
    let absent = rui.flight.get_primary_keys(keys("nothing")).await;
    assert_eq!(outcome(there), outcome(absent));

    for door in [Door::Statement, Door::Prepared] {
        let Answer::Error(there) = rui.run("SELECT * FROM closed.secrets", door).await? else { panic!("closed.secrets can be read") };
        let Answer::Error(absent) = rui.run("SELECT * FROM closed.nothing", door).await? else { panic!("closed.nothing can be read") };
        assert_eq!(there.replace("secrets", "nothing"), absent);
        assert!(absent.starts_with("NOT_FOUND: "), "{absent}");
    }
    server.assert_sound();
    Ok(())
}

fn outcome(result: Result<FlightInfo, FlightError>) -> (Option<Code>, String) {
    match result {
        Ok(info) => (None, format!("{:?} {}", info.schema, info.total_records)),
        Err(FlightError::Tonic(status)) => (Some(status.code()), status.message().to_owned()),
        Err(other) => panic!("{other}"),
    }
}

fn ticket(info: FlightInfo) -> Ticket {
    info.endpoint.into_iter().next().and_then(|endpoint| endpoint.ticket).unwrap()
}

async fn status_of(client: &mut Client, ticket: Ticket) -> Result<Code> {
    // The refusal may come with the call, or as the first item of its stream.
    let info = FlightInfo::new().with_endpoint(arrow_flight::FlightEndpoint::new().with_ticket(ticket));
    match client.fetch(info).await {
        Ok(answer) => anyhow::bail!("the ticket was served: {answer:?}"),
        Err(FlightError::Tonic(status)) => Ok(status.code()),
        Err(other) => Err(other.into()),
    }
}

#[tokio::test]
async fn a_ticket_is_of_no_use_to_another() -> Result<()> {
    let Stage { mut server, mut admin, mut rui } = Stage::set().await?;
    let info = admin.flight.execute("SELECT * FROM closed.secrets".to_owned(), None).await?;
    let ticket = ticket(info);
    let stolen = status_of(&mut rui, ticket.clone()).await?;
    assert!(matches!(stolen, Code::NotFound | Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument), "{stolen:?}");
    let recorded = "SELECT principal, decision, status FROM system.audit WHERE statement = '-- ticket or prepared statement refused'";
    assert_eq!(lines(admin.run(recorded, Door::Statement).await?), ["rui deny not_found"]);
    let made_up = status_of(&mut rui, Ticket::new("SELECT * FROM closed.secrets")).await?;
    assert_eq!(made_up, Code::InvalidArgument);
    server.assert_sound();
    Ok(())
}

#[tokio::test]
async fn what_is_revoked_is_revoked_for_plans_that_are_made() -> Result<()> {
    let Stage { mut server, mut admin, mut rui } = Stage::set().await?;
    let sql = "SELECT count(*) FROM open.visits";
    assert_eq!(lines(rui.run(sql, Door::Statement).await?), ["5"]);
    let mut prepared = rui.flight.prepare(sql.to_owned(), None).await?;
    let planned = rui.flight.execute(sql.to_owned(), None).await?;

    // A policy that is changed between planning and execution binds at execution.
    let policy = "CREATE OR REPLACE POLICY own ON TABLE open.visits TO USER rui USING (id = 2)";
    assert!(matches!(admin.run(policy, Door::Statement).await?, Answer::Done(_)));
    assert_eq!(lines(rui.fetch(planned).await?), ["1"]);
    let info = prepared.execute().await?;
    assert_eq!(lines(rui.fetch(info).await?), ["1"]);

    let planned = rui.flight.execute(sql.to_owned(), None).await?;
    assert!(matches!(admin.run("REVOKE SELECT ON TABLE open.visits FROM USER rui", Door::Statement).await?, Answer::Done(_)));
    assert_eq!(status_of(&mut rui, ticket(planned)).await?, Code::NotFound);
    assert_eq!(outcome(prepared.execute().await).0, Some(Code::NotFound));
    server.assert_sound();
    Ok(())
}

#[tokio::test]
async fn parameters_are_values_under_policy() -> Result<()> {
    let Stage { mut server, mut rui, .. } = Stage::set().await?;
    // Hidden rows have id = region = 1, and would divide by zero.
    let mut prepared = rui.flight.prepare("SELECT id FROM open.visits WHERE 10 / (id - ?) > 0 ORDER BY id".to_owned(), None).await?;
    for (value, expected) in [(1, vec!["2", "6", "10"]), (6, vec!["10", "14"])] {
        let column = Arc::new(Int64Array::from(vec![value])) as _;
        prepared.set_parameters(RecordBatch::try_from_iter([("1", column)])?)?;
        let result = match prepared.execute().await {
            Ok(info) => rui.fetch(info).await,
            Err(error) => Err(error),
        };
        match value {
            1 => assert_eq!(lines(result?), expected),
            // Of his own rows one divides by zero, and it says so.
            _ => match result {
                Err(FlightError::Tonic(status)) => assert_eq!(status.code(), Code::InvalidArgument, "{}", status.message()),
                other => panic!("{other:?}"),
            },
        }
    }
    server.assert_sound();
    Ok(())
}

#[tokio::test]
async fn nothing_answers_without_a_credential() -> Result<()> {
    let Stage { mut server, .. } = Stage::set().await?;
    let channel = Channel::from_shared(format!("http://{}", server.address))?.connect().await?;
    let mut flight = FlightSqlServiceClient::new(channel);
    for token in [None, Some("nonsense"), Some("a.b.c")] {
        match token {
            None => flight.clear_token(),
            Some(token) => flight.set_token(token.to_owned()),
        }
        let schemas = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None };
        let refused = [
            outcome(flight.execute("SELECT 1".to_owned(), None).await),
            outcome(flight.get_catalogs().await),
            outcome(flight.get_db_schemas(schemas).await),
            outcome(flight.get_tables(all_tables(false)).await),
            outcome(flight.get_table_types().await),
            outcome(flight.get_sql_info(vec![SqlInfo::FlightSqlServerName]).await),
            outcome(flight.prepare("SELECT 1".to_owned(), None).await.map(|_| FlightInfo::new())),
            outcome(flight.execute_update("CREATE SCHEMA s".to_owned(), None).await.map(|_| FlightInfo::new())),
            outcome(flight.do_get(Ticket::new("x")).await.map(|_| FlightInfo::new())),
        ];
        for (index, answer) in refused.iter().enumerate() {
            assert_eq!(answer, &refused[0], "call {index} with {token:?}");
            assert_eq!(answer.0, Some(Code::Unauthenticated), "call {index} with {token:?}");
        }
    }
    server.assert_sound();
    Ok(())
}
