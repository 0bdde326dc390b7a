//! The connection: one channel, signed in once, and what the shell asks through Flight SQL.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTables, CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, FlightDescriptor, FlightInfo, HandshakeRequest, IpcMessage, Ticket};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt, stream};
use percent_encoding::percent_decode_str;
use prost::Message;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use url::Url;

use crate::error::ShellError;

const CONNECT: Duration = Duration::from_secs(10);
/// A query may be silent for long; whether the other side is there at all is asked meanwhile.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// One message. A row is never split, and the server sends none over 256 MiB.
const MESSAGE_BYTES: usize = 257 << 20;
const DEFAULT_PORT: u16 = 32010;
/// In which the server says, percent-encoded, what a statement's writer should know.
const WARNING_TRAILER: &str = "lazaret-warning";

pub enum Credential {
    Password { user: String, password: String },
    Token(String),
}

/// Cheap to clone: the channel is shared.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    url: String,
    token: String,
    /// Under which the server keeps the session of a token that is not its own.
    cookie: Option<String>,
}

/// What a statement came to.
pub enum Outcome {
    Rows(Box<Rows>),
    /// Not a query; with the number of rows that it changed, where the server says one.
    Done {
        affected: Option<u64>,
        warnings: Vec<String>,
    },
}

/// A result under way. Dropping it cancels the query.
pub struct Rows {
    pub schema: SchemaRef,
    client: Client,
    tickets: VecDeque<Ticket>,
    current: Option<FlightRecordBatchStream>,
}

/// A column as the catalog describes it.
pub struct Column {
    pub name: String,
    pub data_type: String,
    pub is_nullable: bool,
    pub comment: Option<String>,
}

/// A table or view.
pub struct Table {
    pub catalog: String,
    pub schema: String,
    pub name: String,
    pub kind: String,
    /// Empty unless they were asked for.
    pub columns: Vec<Column>,
}

impl Client {
    /// Connects and signs in.
    pub async fn connect(url: &str, credential: &Credential, ca_file: Option<&Path>) -> Result<Self, ShellError> {
        let target = Target::parse(url)?;
        if !target.is_tls && !target.is_loopback {
            eprintln!("warning: {url} is not encrypted: the password and all data cross the network in the clear");
        }
        let mut endpoint = Endpoint::from_shared(target.uri.clone())
            .map_err(|error| ShellError::usage(format!("{url} is not a server's address"), error))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_while_idle(true)
            .user_agent(concat!("lazaret-shell/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| ShellError::usage("cannot name this client", error))?;
        if target.is_tls {
            let mut tls = ClientTlsConfig::new().with_native_roots();
            if let Some(path) = ca_file {
                let pem = std::fs::read(path).map_err(|error| ShellError::usage(format!("cannot read {}", path.display()), error))?;
                tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| ShellError::usage("TLS cannot be set up", error))?;
        }
        let channel = endpoint.connect().await.map_err(|error| ShellError::Connect { url: url.to_owned(), reason: innermost(&error) })?;
        let mut client = Self { channel, url: url.to_owned(), token: String::new(), cookie: None };
        client.sign_in(credential).await?;
        Ok(client)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    async fn sign_in(&mut self, credential: &Credential) -> Result<(), ShellError> {
        let header = match credential {
            Credential::Password { user, password } => format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))),
            Credential::Token(token) => format!("Bearer {token}"),
        };
        let mut header: MetadataValue<Ascii> =
            header.parse().map_err(|error| ShellError::usage("the credential has characters that no header can hold", error))?;
        header.set_sensitive(true);
        let mut request = Request::new(stream::iter([HandshakeRequest::default()]));
        request.metadata_mut().insert("authorization", header);
        let response = FlightServiceClient::new(self.channel.clone()).handshake(request).await?;
        let text = |name: &str| response.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let token = text("authorization").and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned));
        self.token = token.ok_or_else(|| ShellError::Answer("the server gave no token".to_owned()))?;
        self.cookie = text("set-cookie").and_then(|cookie| cookie.split(';').next().map(str::to_owned));
        Ok(())
    }

    fn flight(&self) -> FlightSqlServiceClient<Channel> {
        let inner = FlightServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES);
        let mut client = FlightSqlServiceClient::new_from_inner(inner);
        client.set_token(self.token.clone());
        if let Some(cookie) = &self.cookie {
            client.set_header("cookie", cookie);
        }
        client
    }

    /// Runs one statement. What is not a query has run when this returns.
    pub async fn execute(&self, sql: &str) -> Result<Outcome, ShellError> {
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        let mut request = Request::new(FlightDescriptor::new_cmd(command.as_any().encode_to_vec()));
        self.sign(&mut request)?;
        let (metadata, info, _) = FlightServiceClient::new(self.channel.clone()).get_flight_info(request).await?.into_parts();
        let affected = u64::try_from(info.total_records).ok();
        let rows = self.rows(info)?;
        if !rows.schema.fields().is_empty() {
            return Ok(Outcome::Rows(Box::new(rows)));
        }
        let warnings = metadata.get_all(WARNING_TRAILER).iter().filter_map(|warning| warning.to_str().ok());
        let warnings = warnings.map(|warning| percent_decode_str(warning).decode_utf8_lossy().into_owned()).collect();
        Ok(Outcome::Done { affected, warnings })
    }

    /// Ends the session, so that it takes no place on the server. A server that is gone has none.
    pub async fn close(&self) {
        let mut request = Request::new(Action::new("CloseSession", ""));
        if self.sign(&mut request).is_ok() {
            let _ = FlightServiceClient::new(self.channel.clone()).do_action(request).await;
        }
    }

    fn sign<T>(&self, request: &mut Request<T>) -> Result<(), ShellError> {
        let header = |text: &str| text.parse().map_err(|error| ShellError::usage("the server's token is no header", error));
        let mut token: MetadataValue<Ascii> = header(&format!("Bearer {}", self.token))?;
        token.set_sensitive(true);
        request.metadata_mut().insert("authorization", token);
        if let Some(cookie) = &self.cookie {
            request.metadata_mut().insert("cookie", header(cookie)?);
        }
        Ok(())
    }

    fn rows(&self, info: FlightInfo) -> Result<Rows, ShellError> {
        let schema = if info.schema.is_empty() { Schema::empty() } else { Schema::try_from(IpcMessage(info.schema.clone()))? };
        let tickets = info.endpoint.into_iter().filter_map(|endpoint| endpoint.ticket).collect();
        Ok(Rows { schema: schema.into(), client: self.clone(), tickets, current: None })
    }

    async fn all(&self, info: FlightInfo) -> Result<Vec<RecordBatch>, ShellError> {
        let mut rows = self.rows(info)?;
        let mut batches = Vec::new();
        while let Some(batch) = rows.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    pub async fn catalogs(&self) -> Result<Vec<String>, ShellError> {
        let info = self.flight().get_catalogs().await?;
        let batches = self.all(info).await?;
        Ok(batches.iter().flat_map(|batch| texts(batch, "catalog_name")).collect())
    }

    /// Catalog and name of each schema.
    pub async fn schemas(&self, catalog: Option<&str>) -> Result<Vec<(String, String)>, ShellError> {
        let request = CommandGetDbSchemas { catalog: catalog.map(str::to_owned), db_schema_filter_pattern: None };
        let info = self.flight().get_db_schemas(request).await?;
        let batches = self.all(info).await?;
        Ok(batches.iter().flat_map(|batch| texts(batch, "catalog_name").into_iter().zip(texts(batch, "db_schema_name"))).collect())
    }

    /// Tables and views; the names are exact.
    pub async fn tables(
        &self,
        catalog: Option<&str>,
        schema: Option<&str>,
        name: Option<&str>,
        with_columns: bool,
    ) -> Result<Vec<Table>, ShellError> {
        let request = CommandGetTables {
            catalog: catalog.map(str::to_owned),
            db_schema_filter_pattern: schema.map(literal_pattern),
            table_name_filter_pattern: name.map(literal_pattern),
            table_types: Vec::new(),
            include_schema: with_columns,
        };
        let info = self.flight().get_tables(request).await?;
        let mut tables = Vec::new();
        for batch in self.all(info).await? {
            let kinds = texts(&batch, "table_type");
            let names = texts(&batch, "table_name");
            let schemas = texts(&batch, "db_schema_name");
            let catalogs = texts(&batch, "catalog_name");
            for (row, (((catalog, schema), name), kind)) in catalogs.into_iter().zip(schemas).zip(names).zip(kinds).enumerate() {
                let columns = if with_columns { columns(&batch, row)? } else { Vec::new() };
                tables.push(Table { catalog, schema, name, kind, columns });
            }
        }
        Ok(tables)
    }
}

impl Rows {
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, ShellError> {
        loop {
            if let Some(stream) = &mut self.current {
                match stream.next().await {
                    Some(batch) => return Ok(Some(batch?)),
                    None => self.current = None,
                }
            }
            let Some(ticket) = self.tickets.pop_front() else { return Ok(None) };
            self.current = Some(self.client.flight().do_get(ticket).await?);
        }
    }
}

fn columns(batch: &RecordBatch, row: usize) -> Result<Vec<Column>, ShellError> {
    let Some(schemas) = batch.column_by_name("table_schema").and_then(|column| column.as_binary_opt::<i32>()) else {
        return Ok(Vec::new());
    };
    let schema = Schema::try_from(IpcMessage(bytes::Bytes::copy_from_slice(schemas.value(row))))?;
    let column = |field: &arrow::datatypes::FieldRef| Column {
        name: field.name().clone(),
        data_type: field.metadata().get("ARROW:FLIGHT:SQL:TYPE_NAME").cloned().unwrap_or_else(|| field.data_type().to_string()),
        is_nullable: field.is_nullable(),
        comment: field.metadata().get("ARROW:FLIGHT:SQL:REMARKS").cloned(),
    };
    Ok(schema.fields().iter().map(column).collect())
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<String> {
    let Some(column) = batch.column_by_name(column).and_then(|column| column.as_string_opt::<i32>()) else {
        return Vec::new();
    };
    (0..column.len()).map(|row| if column.is_null(row) { String::new() } else { column.value(row).to_owned() }).collect()
}

/// A pattern that stands for exactly this name.
fn literal_pattern(name: &str) -> String {
    name.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

struct Target {
    uri: String,
    is_tls: bool,
    is_loopback: bool,
}

impl Target {
    fn parse(text: &str) -> Result<Self, ShellError> {
        let wrong = || {
            ShellError::usage(
                format!("{text} is not a server's address"),
                "it should look like grpc://127.0.0.1:32010, or grpc+tls://host:32010",
            )
        };
        let url = Url::parse(text).map_err(|_| wrong())?;
        let is_tls = match url.scheme() {
            "grpc" | "grpc+tcp" | "http" => false,
            "grpc+tls" | "grpcs" | "https" => true,
            _ => return Err(wrong()),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let port = url.port().unwrap_or(DEFAULT_PORT);
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host == "localhost" || address.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        Ok(Self { uri: format!("{}://{host}:{port}", if is_tls { "https" } else { "http" }), is_tls, is_loopback })
    }
}

/// What the transport really ran into; its own words are "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let target = Target::parse("grpc://127.0.0.1:32010").unwrap();
        assert_eq!((target.uri.as_str(), target.is_tls, target.is_loopback), ("http://127.0.0.1:32010", false, true));
        let target = Target::parse("grpc+tls://db.example.org").unwrap();
        assert_eq!((target.uri.as_str(), target.is_tls, target.is_loopback), ("https://db.example.org:32010", true, false));
        assert!(Target::parse("grpc://[::1]:1").unwrap().is_loopback);
        assert!(Target::parse("localhost:32010").is_err());
        assert!(Target::parse("postgres://x").is_err());
    }

    #[test]
    fn a_name_is_not_a_pattern() {
        assert_eq!(literal_pattern("a_b%c"), "a\\_b\\%c");
    }
}
