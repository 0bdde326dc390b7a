//! A connection as a driver makes it, and answers as text.

use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::{FlightInfo, HandshakeRequest, IpcMessage};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{TryStreamExt, stream};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

pub type Flight = FlightSqlServiceClient<Channel>;

pub struct Client {
    pub flight: Flight,
}

/// What became of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// No rows of its own; so many were changed.
    Done(u64),
    Rows(Rows),
    /// `NOT_FOUND: table "x" not found …`
    Error(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// A letter for each column: text, integer, real, boolean, date or time, point in time, other.
    pub types: String,
    pub rows: Vec<Vec<String>>,
}

/// The ways in for a statement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Door {
    Statement,
    Prepared,
}

impl Client {
    /// Signs in; a refusal is in the inner result.
    pub async fn connect(address: &str, user: &str, password: &str) -> Result<Result<Self, String>> {
        let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
        let mut request = Request::new(stream::iter([HandshakeRequest::default()]));
        let credential = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        request.metadata_mut().insert("authorization", credential.parse()?);
        let response = match FlightServiceClient::new(channel.clone()).handshake(request).await {
            Ok(response) => response,
            Err(status) => return Ok(Err(shown(&status))),
        };
        let header = response.metadata().get("authorization").context("the handshake gave no token")?;
        let token = header.to_str()?.strip_prefix("Bearer ").context("the handshake gave something else than a token")?;
        let mut flight = FlightSqlServiceClient::new(channel);
        flight.set_token(token.to_owned());
        Ok(Ok(Self { flight }))
    }

    pub async fn run(&mut self, sql: &str, door: Door) -> Result<Answer> {
        match self.answer(sql, door).await {
            Ok(answer) => Ok(answer),
            Err(FlightError::Tonic(status)) => Ok(Answer::Error(shown(&status))),
            Err(error) => Err(error).with_context(|| format!("{sql}: the answer cannot be read")),
        }
    }

    async fn answer(&mut self, sql: &str, door: Door) -> Result<Answer, FlightError> {
        match door {
            Door::Statement => {
                let info = self.flight.execute(sql.to_owned(), None).await?;
                self.fetch(info).await
            }
            Door::Prepared => {
                let mut prepared = self.flight.prepare(sql.to_owned(), None).await?;
                let info = prepared.execute().await?;
                let promised = prepared.dataset_schema()?.clone();
                let changed = changed(&info);
                let (schema, batches) = fetch(&mut self.flight, info).await?;
                assert_eq!(promised.fields(), schema.fields(), "{sql}: the schema of the result is not the prepared one");
                prepared.close().await?;
                Ok(answer(changed, &schema, &batches)?)
            }
        }
    }

    /// The rows of a call that was answered with `info`.
    pub async fn fetch(&mut self, info: FlightInfo) -> Result<Answer, FlightError> {
        let changed = changed(&info);
        let (schema, batches) = fetch(&mut self.flight, info).await?;
        answer(changed, &schema, &batches)
    }
}

async fn fetch(flight: &mut Flight, info: FlightInfo) -> Result<(Schema, Vec<RecordBatch>), FlightError> {
    let schema = if info.schema.is_empty() { Schema::empty() } else { Schema::try_from(IpcMessage(info.schema))? };
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let ticket = endpoint.ticket.ok_or_else(|| FlightError::protocol("an endpoint has no ticket"))?;
        let part: Vec<RecordBatch> = flight.do_get(ticket).await?.try_collect().await?;
        batches.extend(part);
    }
    for batch in &batches {
        assert_eq!(batch.schema().fields(), schema.fields(), "a stream has another schema than its FlightInfo");
    }
    Ok((schema, batches))
}

/// Of a query nobody knows how many rows it will have.
fn changed(info: &FlightInfo) -> u64 {
    u64::try_from(info.total_records).unwrap_or(0)
}

fn answer(changed: u64, schema: &Schema, batches: &[RecordBatch]) -> Result<Answer, FlightError> {
    if schema.fields().is_empty() {
        return Ok(Answer::Done(changed));
    }
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| cell(column.value(row).to_string())).collect());
        }
    }
    let types = schema.fields().iter().map(|field| letter(field.data_type())).collect();
    Ok(Answer::Rows(Rows { types, rows }))
}

fn cell(value: String) -> String {
    if value.is_empty() { "(empty)".to_owned() } else { value }
}

/// The letters of DataFusion's own transcripts.
fn letter(data_type: &DataType) -> char {
    match data_type {
        DataType::Boolean => 'B',
        DataType::Utf8 => 'T',
        DataType::Timestamp(_, _) => 'P',
        DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => 'D',
        other if other.is_integer() => 'I',
        other if other.is_numeric() => 'R',
        _ => '?',
    }
}

pub fn shown(status: &Status) -> String {
    format!("{}: {}", code(status.code()), without_id(status.message()))
}

/// What is internal is in the log, under an id that is another each time.
fn without_id(message: &str) -> String {
    let Some((before, rest)) = message.split_once("(id ") else { return message.to_owned() };
    let Some((_, after)) = rest.split_once(')') else { return message.to_owned() };
    format!("{before}(id …){after}")
}

/// The names of the gRPC specification.
fn code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
