//! The access matrix: what each kind of principal gets for each kind of statement and at each entry point, in one file to
//! review, `tests/golden/access_matrix.txt`. `LAZARET_UPDATE_GOLDEN=1` writes it anew.
//!
//! Kinds are not listed by hand: RPCs are the methods of the service, messages the variants of arrow-flight's `Command`,
//! actions those that the server names, and statements are checked against `Statement` by `server/src/sql/kinds.rs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any, Command,
    CommandGetCrossReference, CommandGetExportedKeys, CommandGetImportedKeys, CommandGetPrimaryKeys, CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery, CommandStatementUpdate, ProstMessageExt,
};
use arrow_flight::{Action, CancelFlightInfoRequest, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, Ticket};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::{StreamExt, stream};
use hmac::{Hmac, Mac as _};
use prost::Message as _;
use prost::bytes::Bytes;
use serde_json::{Value, json};
use sha2::Sha256;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::client::{Answer, Client, Door};
use crate::server::{ADMIN_PASSWORD, Server};

const PRINCIPALS: [&str; 12] =
    ["none", "expired", "disabled", "nobody", "reader", "columns", "denied", "owner", "policies", "auditor", "people", "admin"];

/// Those that sign in with a password.
const USERS: [&str; 9] = ["disabled", "nobody", "reader", "columns", "denied", "owner", "policies", "auditor", "people"];

/// By the admin, or by whoever is named.
const SETUP: [&str; 31] = [
    "CREATE SCHEMA s",
    "CREATE SCHEMA closed",
    "CREATE SCHEMA empty",
    "CREATE TABLE closed.x AS SELECT 1 AS id",
    "CREATE USER spare PASSWORD 'a long password'",
    "CREATE USER unused PASSWORD 'a long password'",
    "CREATE ROLE readers",
    "CREATE ROLE unused",
    "GRANT ROLE readers TO USER reader",
    "GRANT CREATE ON SCHEMA s TO USER owner",
    "@owner CREATE TABLE s.t AS SELECT value AS id, value % 4 AS region, concat('n', CAST(value AS VARCHAR)) AS name FROM generate_series(1, 20)",
    "@owner CREATE VIEW s.v AS SELECT id, region FROM s.t",
    "@owner CREATE TABLE s.own AS SELECT 1 AS a",
    "CREATE TABLE s.old AS SELECT 1 AS a",
    "CREATE VIEW s.old_view AS SELECT 1 AS a",
    "GRANT SELECT ON TABLE s.t TO USER reader",
    "GRANT SELECT ON VIEW s.v TO USER reader",
    "GRANT SELECT (id, region) ON TABLE s.t TO USER columns",
    "GRANT SELECT ON SCHEMA s TO USER denied",
    "DENY SELECT ON TABLE s.t TO USER denied",
    "GRANT MANAGE POLICIES ON TABLE s.t TO USER policies",
    "GRANT READ AUDIT ON SYSTEM TO USER auditor",
    "GRANT MANAGE USERS ON SYSTEM TO USER people",
    "CREATE POLICY own ON TABLE s.t FOR SELECT TO USER reader, USER columns, USER denied, USER owner USING (region = 2)",
    "CREATE POLICY old ON TABLE s.t FOR SELECT TO USER spare USING (false)",
    "CREATE MASKING POLICY named ON TABLE s.t (name) TO USER reader USING ACTION mask_alphanum",
    "CREATE MASKING POLICY old ON TABLE s.t (id) TO USER spare USING ACTION replace_with_null",
    "ALTER USER spare DISABLE",
    "ALTER USER spare ENABLE",
    "ALTER USER disabled DISABLE",
    "CREATE TOKEN old FOR USER nobody EXPIRES IN 30 DAYS",
];

/// What must be as before when a statement has been undone.
const STATE: [&str; 6] = [
    "SHOW GRANTS",
    "SHOW POLICIES",
    "SHOW MASKING POLICIES",
    "SHOW USERS",
    "SHOW ROLES",
    "SELECT table_schema, table_name, table_type FROM information_schema.tables",
];

#[tokio::test]
async fn the_access_matrix_is_the_one_that_was_read() -> Result<()> {
    let mut stage = Stage::set().await?;
    let mut text = String::from(
        "# The access matrix: what each principal gets, by entry point and by statement.\n\
         # Made by tests/integration/matrix.rs, LAZARET_UPDATE_GOLDEN=1; principals and statements: statements.txt.\n#\n\
         #   ok: done, without rows    5x3: five rows of three columns    hidden: not found, as what is not there\n\
         #   denied: a privilege is required    noauth: no valid credential    unbuilt: not supported\n\
         #   others: the status, in short\n\n",
    );
    heading(&mut text);
    stage.entry_points(&mut text).await?;
    stage.statements(&mut text).await?;
    stage.server.assert_sound();
    let path = golden("access_matrix.txt");
    if std::env::var_os("LAZARET_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text)?;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let differences: Vec<String> = expected
        .lines()
        .filter(|line| !text.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"))
        .chain(text.lines().filter(|line| !expected.lines().any(|other| other == *line)).map(|line| format!("+ {line}")))
        .collect();
    assert!(text == expected, "the access matrix has changed:\n{}", differences.join("\n"));
    Ok(())
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn heading(text: &mut String) {
    PRINCIPALS.iter().for_each(|name| _ = write!(text, "{name:<9}"));
    text.push('\n');
}

fn line(text: &mut String, cells: &[String], what: &str) {
    cells.iter().for_each(|cell| _ = write!(text, "{cell:<9}"));
    _ = writeln!(text, "{what}");
}

struct Stage {
    server: Server,
    /// In the order of `PRINCIPALS`.
    clients: Vec<Client>,
    tokens: Vec<Option<String>>,
    /// Of sessions that are closed.
    closing: Vec<Option<String>>,
}

impl Stage {
    async fn set() -> Result<Self> {
        let server = Server::start(None).await?;
        let mut admin = connected(&server, "admin", ADMIN_PASSWORD).await?;
        let (mut named, mut seconds) = (Vec::new(), Vec::new());
        for user in USERS {
            let sql = format!("CREATE USER {user} PASSWORD '{user}-password'");
            ensure!(matches!(admin.run(&sql, Door::Statement).await?, Answer::Done(_)), "{sql}");
            named.push((user, connected(&server, user, &format!("{user}-password")).await?));
            seconds.push((user, connected(&server, user, &format!("{user}-password")).await?));
        }
        for sql in SETUP {
            let (client, sql) = match sql.strip_prefix("@owner ") {
                Some(sql) => (&mut named.iter_mut().find(|(name, _)| *name == "owner").context("no owner")?.1, sql),
                None => (&mut admin, sql),
            };
            let answer = client.run(sql, Door::Statement).await?;
            ensure!(!matches!(answer, Answer::Error(_)), "{sql}: {answer:?}");
        }
        let expired = expired(admin.flight.token().context("no token")?, &server)?;
        let mut clients = Vec::new();
        for name in PRINCIPALS {
            clients.push(match name {
                "none" | "expired" => {
                    let mut client = connected(&server, "nobody", "nobody-password").await?;
                    match name {
                        "none" => client.flight.clear_token(),
                        _ => client.flight.set_token(expired.clone()),
                    }
                    client
                }
                "admin" => connected(&server, "admin", ADMIN_PASSWORD).await?,
                name => {
                    let place = named.iter().position(|(user, _)| *user == name).with_context(|| format!("no user {name}"))?;
                    named.swap_remove(place).1
                }
            });
        }
        let tokens: Vec<_> = clients.iter().map(|client| client.flight.token().cloned()).collect();
        let closing = PRINCIPALS.iter().zip(&tokens).map(|(name, token)| match *name {
            "admin" => admin.flight.token().cloned(),
            name => seconds.iter().find(|(user, _)| *user == name).map_or_else(|| token.clone(), |(_, it)| it.flight.token().cloned()),
        });
        Ok(Self { closing: closing.collect(), server, clients, tokens })
    }

    fn place(&self, name: &str) -> usize {
        PRINCIPALS.iter().position(|principal| *principal == name).unwrap()
    }

    async fn run_as(&mut self, name: &str, sql: &str) -> Result<Answer> {
        let place = self.place(name);
        self.clients[place].run(sql, Door::Statement).await
    }

    async fn state(&mut self) -> Result<Vec<Answer>> {
        let mut state = Vec::new();
        for sql in STATE {
            state.push(match self.run_as("admin", sql).await? {
                Answer::Rows(mut rows) => {
                    rows.rows.sort();
                    Answer::Rows(rows)
                }
                other => other,
            });
        }
        Ok(state)
    }

    async fn statements(&mut self, text: &mut String) -> Result<()> {
        text.push_str("\n# Statements, by kind\n");
        let statements = fs::read_to_string(golden("statements.txt"))?;
        let before = self.state().await?;
        let mut last = "";
        for statement in statements.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (kind, rest) = statement.split_once(": ").with_context(|| format!("{statement}: no kind"))?;
            let (sql, undo) = rest.split_once(" => ").unwrap_or((rest, ""));
            let mut cells = Vec::new();
            for (place, principal) in PRINCIPALS.iter().enumerate() {
                let answer = self.clients[place].run(sql, Door::Statement).await?;
                let changed = match &answer {
                    Answer::Done(_) => true,
                    Answer::Rows(_) => !undo.is_empty(),
                    Answer::Error(_) => false,
                };
                if changed {
                    for undo in undo.split("; ").filter(|undo| !undo.is_empty()) {
                        let (who, undo) = undo.strip_prefix('@').and_then(|undo| undo.split_once(' ')).unwrap_or(("admin", undo));
                        let undone = self.run_as(if who == "self" { principal } else { who }, undo).await?;
                        ensure!(!matches!(undone, Answer::Error(_)), "{principal} did {sql}, which is not undone by {undo}: {undone:?}");
                    }
                    ensure!(self.state().await? == before, "{principal} did {sql}, which {undo:?} does not undo");
                } else {
                    let prepared = self.clients[place].run(sql, Door::Prepared).await?;
                    ensure!(cell(&prepared) == cell(&answer), "{principal}, {sql}: {answer:?}, but prepared {prepared:?}");
                }
                cells.push(cell(&answer));
            }
            if kind != last {
                _ = writeln!(text, "## {kind}");
            }
            last = kind;
            line(text, &cells, sql);
        }
        Ok(())
    }

    async fn entry_points(&mut self, text: &mut String) -> Result<()> {
        text.push_str("# Entry points\n");
        let channel = Channel::from_shared(format!("http://{}", self.server.address))?.connect().await?;
        let admins = Raw { flight: FlightServiceClient::new(channel.clone()), token: self.tokens[self.place("admin")].clone() };
        let theirs = Handles::of(admins.clone()).await?;
        let mut names = Vec::new();
        let mut columns = Vec::new();
        for (token, closing) in self.tokens.iter().zip(&self.closing) {
            let raw = Raw { flight: FlightServiceClient::new(channel.clone()), token: token.clone() };
            let cells = raw.calls(closing.clone(), &admins, &theirs).await?;
            names = cells.iter().map(|(name, _)| name.clone()).collect();
            columns.push(cells.into_iter().map(|(_, cell)| cell).collect::<Vec<_>>());
        }
        let called: BTreeSet<&str> = names.iter().filter_map(|name| name.split_whitespace().next()).collect();
        for rpc in rpcs()? {
            ensure!(called.contains(rpc.as_str()), "the RPC {rpc} is not in the access matrix");
        }
        for (index, name) in names.iter().enumerate() {
            let cells: Vec<String> = columns.iter().map(|column| column[index].clone()).collect();
            line(text, &cells, name);
        }
        Ok(())
    }
}

async fn connected(server: &Server, user: &str, password: &str) -> Result<Client> {
    Client::connect(&server.address, user, password).await?.map_err(anyhow::Error::msg)
}

fn cell(answer: &Answer) -> String {
    match answer {
        Answer::Done(_) => "ok".to_owned(),
        Answer::Rows(rows) => format!("{}x{}", rows.rows.len(), rows.types.chars().count()),
        Answer::Error(error) => short(error.split(':').next().unwrap_or_default()).to_owned(),
    }
}

fn short(code: &str) -> &str {
    match code {
        "NOT_FOUND" => "hidden",
        "PERMISSION_DENIED" => "denied",
        "UNAUTHENTICATED" => "noauth",
        "UNIMPLEMENTED" => "unbuilt",
        "INVALID_ARGUMENT" => "invalid",
        "FAILED_PRECONDITION" => "state",
        "ALREADY_EXISTS" => "exists",
        other => other,
    }
}

/// The admin's token with a time that is over, signed as the server signs.
fn expired(token: &str, server: &Server) -> Result<String> {
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(parts[1])?)?;
    (claims["iat"], claims["exp"]) =
        (json!(claims["iat"].as_u64().context("no iat")? - 90_000), json!(claims["iat"].as_u64().context("no iat")? - 1_000));
    let key = fs::read(server.data_dir().join("server.key"))?;
    let purpose = b"own tokens";
    let mut derived = Hmac::<Sha256>::new_from_slice(&key)?;
    derived.update(&(purpose.len() as u64).to_be_bytes());
    derived.update(purpose);
    let text = format!("{}.{}", parts[0], BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
    let sign = |text: &str| -> Result<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&derived.clone().finalize().into_bytes())?;
        mac.update(text.as_bytes());
        Ok(BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    };
    // That the key is the right one: the token that was issued has this signature too.
    ensure!(sign(&format!("{}.{}", parts[0], parts[1]))? == parts[2], "the token of the admin is signed in another way");
    Ok(format!("{text}.{}", sign(&text)?))
}

/// The methods of the Flight service, which the server implements itself.
fn rpcs() -> Result<BTreeSet<String>> {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/src/flight/service.rs"))?;
    let service = source.split("impl FlightService for Server").nth(1).and_then(|rest| rest.split("\n}\n").next()).context("no service")?;
    let names = service.lines().filter_map(|line| line.trim().strip_prefix("async fn ")?.split('(').next());
    Ok(names.map(pascal).collect())
}

fn pascal(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// The actions that the server knows, those that it refuses by name too.
fn actions() -> Result<BTreeSet<String>> {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/src/flight/actions.rs"))?;
    let lists = ["const SUPPORTED", "const UNSUPPORTED"].map(|list| source.split(list).nth(1).and_then(|rest| rest.split("];").next()));
    let mut names = BTreeSet::new();
    for list in lists {
        let words = list.context("no list of actions")?.split('"').skip(1).step_by(2);
        names.extend(words.filter(|word| word.chars().all(char::is_alphanumeric)).map(str::to_owned));
    }
    Ok(names)
}

/// Every message of Flight SQL that can stand in a descriptor or a ticket; one that a new arrow-flight adds must be named
/// here before this compiles.
macro_rules! messages {
    ($($name:ident),+ $(,)?) => {
        const MESSAGES: &[&str] = &[$(stringify!($name)),+];

        #[allow(dead_code)]
        fn every_message_is_named(command: &Command) -> &'static str {
            match command {
                $(Command::$name(_) => stringify!($name),)+
                Command::Unknown(_) => "Unknown",
            }
        }
    };
}

messages! {
    ActionBeginSavepointRequest,
    ActionBeginSavepointResult,
    ActionBeginTransactionRequest,
    ActionBeginTransactionResult,
    ActionCancelQueryRequest,
    ActionCancelQueryResult,
    ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult,
    ActionCreatePreparedSubstraitPlanRequest,
    ActionEndSavepointRequest,
    ActionEndTransactionRequest,
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
    DoPutPreparedStatementResult,
    DoPutUpdateResult,
    TicketStatementQuery,
}

const QUERY: &str = "SELECT id, region FROM s.t";

/// The message as a client would send it; those without a sample are empty.
fn sample(name: &str, handles: &Handles) -> Vec<u8> {
    let (handle, table) = (handles.prepared.clone(), "x".to_owned());
    let schema = Some("closed".to_owned());
    let value = match name {
        "CommandStatementQuery" => CommandStatementQuery { query: QUERY.to_owned(), transaction_id: None }.encode_to_vec(),
        "CommandStatementUpdate" => {
            CommandStatementUpdate { query: "SET batch_size = 8192".to_owned(), transaction_id: None }.encode_to_vec()
        }
        "CommandPreparedStatementQuery" => CommandPreparedStatementQuery { prepared_statement_handle: handle }.encode_to_vec(),
        "CommandPreparedStatementUpdate" => CommandPreparedStatementUpdate { prepared_statement_handle: handle }.encode_to_vec(),
        "CommandStatementIngest" => CommandStatementIngest { table, schema, ..Default::default() }.encode_to_vec(),
        "CommandGetPrimaryKeys" => CommandGetPrimaryKeys { table, db_schema: schema, catalog: None }.encode_to_vec(),
        "CommandGetExportedKeys" => CommandGetExportedKeys { table, db_schema: schema, catalog: None }.encode_to_vec(),
        "CommandGetImportedKeys" => CommandGetImportedKeys { table, db_schema: schema, catalog: None }.encode_to_vec(),
        "CommandGetCrossReference" => {
            CommandGetCrossReference { pk_table: table.clone(), fk_table: table, ..Default::default() }.encode_to_vec()
        }
        "TicketStatementQuery" => return handles.ticket.ticket.to_vec(),
        _ => Vec::new(),
    };
    Any { type_url: format!("type.googleapis.com/arrow.flight.protocol.sql.{name}"), value: value.into() }.encode_to_vec()
}

/// What a principal was given for a statement.
#[derive(Clone, Default)]
struct Handles {
    ticket: Ticket,
    info: FlightInfo,
    prepared: Bytes,
}

impl Handles {
    async fn of(mut raw: Raw) -> Result<Self> {
        let command = CommandStatementQuery { query: "SELECT * FROM closed.x".to_owned(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let request = raw.request(descriptor);
        let info = raw.flight.get_flight_info(request).await?.into_inner();
        let ticket = info.endpoint[0].ticket.clone().context("no ticket")?;
        Ok(Self { ticket, info, prepared: raw.prepared("SELECT * FROM closed.x").await?.context("no handle")? })
    }
}

/// Flight without Flight SQL's client.
#[derive(Clone)]
struct Raw {
    flight: FlightServiceClient<Channel>,
    token: Option<String>,
}

impl Raw {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }

    async fn prepared(&mut self, sql: &str) -> Result<Option<Bytes>> {
        let body = ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: None }.as_any().encode_to_vec();
        let request = self.request(Action { r#type: "CreatePreparedStatement".to_owned(), body: body.into() });
        let Ok(answer) = self.flight.do_action(request).await else { return Ok(None) };
        let Some(Ok(result)) = answer.into_inner().next().await else { return Ok(None) };
        let any = Any::decode(result.body)?;
        let result = arrow_flight::sql::ActionCreatePreparedStatementResult::decode(any.value)?;
        Ok(Some(result.prepared_statement_handle))
    }

    /// Every entry point, with requests of one's own and with what the admin was given. `closing`: a token for a session that
    /// is closed.
    async fn calls(mut self, closing: Option<String>, admin: &Raw, theirs: &Handles) -> Result<Vec<(String, String)>> {
        let mut own = Handles::default();
        let command = CommandStatementQuery { query: QUERY.to_owned(), transaction_id: None };
        let request = self.request(FlightDescriptor::new_cmd(command.as_any().encode_to_vec()));
        if let Ok(info) = self.flight.get_flight_info(request).await {
            own.info = info.into_inner();
            own.ticket = own.info.endpoint[0].ticket.clone().context("no ticket")?;
        }
        own.prepared = self.prepared(QUERY).await?.unwrap_or_default();

        let mut cells = Vec::new();
        let request = self.request(stream::iter([HandshakeRequest::default()]));
        cells.push(("Handshake".to_owned(), streamed(self.flight.handshake(request).await).await));
        let request = self.request(Criteria::default());
        cells.push(("ListFlights".to_owned(), streamed(self.flight.list_flights(request).await).await));
        let request = self.request(Empty {});
        let listed = self.flight.list_actions(request).await;
        cells.push(("ListActions".to_owned(), streamed(listed).await));
        let request = self.request(stream::iter([FlightData::default()]));
        cells.push(("DoExchange".to_owned(), streamed(self.flight.do_exchange(request).await).await));
        for name in MESSAGES.iter().filter(|name| name.starts_with("Command") || name.starts_with("Ticket")) {
            let descriptor = FlightDescriptor::new_cmd(sample(name, &own));
            let request = self.request(descriptor.clone());
            cells.push((format!("GetFlightInfo {name}"), answered(self.flight.get_flight_info(request).await)));
            let request = self.request(descriptor.clone());
            cells.push((format!("PollFlightInfo {name}"), answered(self.flight.poll_flight_info(request).await)));
            let request = self.request(descriptor.clone());
            cells.push((format!("GetSchema {name}"), answered(self.flight.get_schema(request).await)));
            let ticket = Ticket::new(sample(name, &own));
            let request = self.request(ticket.clone());
            cells.push((format!("DoGet {name}"), fetched(&mut self.flight, request).await));
            let request = self.request(stream::iter([FlightData::new().with_descriptor(descriptor)]));
            cells.push((format!("DoPut {name}"), streamed(self.flight.do_put(request).await).await));
        }
        // Stolen, and good for nobody else. The admin gets a new one, for one is used up where it works.
        let stolen = match self.token == admin.token {
            true => Handles::of((*admin).clone()).await?,
            false => theirs.clone(),
        };
        let request = self.request(stolen.ticket.clone());
        cells.push(("DoGet the admin's ticket".to_owned(), fetched(&mut self.flight, request).await));
        let handle = CommandPreparedStatementQuery { prepared_statement_handle: stolen.prepared.clone() }.as_any().encode_to_vec();
        let request = self.request(FlightDescriptor::new_cmd(handle.clone()));
        cells.push(("GetFlightInfo the admin's prepared statement".to_owned(), answered(self.flight.get_flight_info(request).await)));
        let request = self.request(Ticket::new(handle));
        cells.push(("DoGet the admin's prepared statement".to_owned(), fetched(&mut self.flight, request).await));

        for name in actions()? {
            for (whose, handles) in [("", &own), (" with the admin's", &stolen)] {
                let body = match name.as_str() {
                    "CreatePreparedStatement" => {
                        ActionCreatePreparedStatementRequest { query: QUERY.to_owned(), transaction_id: None }.as_any().encode_to_vec()
                    }
                    "ClosePreparedStatement" => {
                        ActionClosePreparedStatementRequest { prepared_statement_handle: handles.prepared.clone() }.as_any().encode_to_vec()
                    }
                    "CancelQuery" => ActionCancelQueryRequest { info: handles.info.encode_to_vec().into() }.as_any().encode_to_vec(),
                    "CancelFlightInfo" => CancelFlightInfoRequest { info: Some(handles.info.clone()) }.encode_to_vec(),
                    "CloseSession" => continue,
                    _ => Vec::new(),
                };
                if !whose.is_empty() && !name.starts_with("Cancel") && !name.starts_with("ClosePrepared") {
                    continue;
                }
                let request = self.request(Action { r#type: name.clone(), body: body.into() });
                cells.push((format!("DoAction {name}{whose}"), streamed(self.flight.do_action(request).await).await));
            }
        }
        let request = self.request(Action { r#type: "Nothing".to_owned(), body: Bytes::new() });
        cells.push(("DoAction of a name that is none".to_owned(), streamed(self.flight.do_action(request).await).await));
        self.token = closing;
        let request = self.request(Action { r#type: "CloseSession".to_owned(), body: Bytes::new() });
        cells.push(("DoAction CloseSession".to_owned(), streamed(self.flight.do_action(request).await).await));
        Ok(cells)
    }
}

fn answered<T>(answer: Result<Response<T>, Status>) -> String {
    answer.map_or_else(|status| status_cell(&status), |_| "ok".to_owned())
}

async fn streamed<T>(answer: Result<Response<Streaming<T>>, Status>) -> String {
    let mut stream = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status_cell(&status),
    };
    while let Some(item) = stream.next().await {
        if let Err(status) = item {
            return status_cell(&status);
        }
    }
    "ok".to_owned()
}

async fn fetched(flight: &mut FlightServiceClient<Channel>, request: Request<Ticket>) -> String {
    let stream = match flight.do_get(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status_cell(&status),
    };
    let stream = stream.map(|item| item.map_err(|status| arrow_flight::error::FlightError::Tonic(Box::new(status))));
    let mut batches = arrow_flight::decode::FlightRecordBatchStream::new_from_flight_data(stream);
    let (mut rows, mut columns) = (0, 0);
    while let Some(batch) = batches.next().await {
        match batch {
            Ok(batch) => (rows, columns) = (rows + batch.num_rows(), batch.num_columns()),
            Err(arrow_flight::error::FlightError::Tonic(status)) => return status_cell(&status),
            Err(other) => return format!("{other}"),
        }
    }
    format!("{rows}x{columns}")
}

fn status_cell(status: &Status) -> String {
    match status.code() {
        Code::NotFound => "hidden".to_owned(),
        Code::PermissionDenied => "denied".to_owned(),
        Code::Unauthenticated => "noauth".to_owned(),
        Code::Unimplemented => "unbuilt".to_owned(),
        Code::InvalidArgument => "invalid".to_owned(),
        Code::FailedPrecondition => "state".to_owned(),
        other => format!("{other:?}"),
    }
}
