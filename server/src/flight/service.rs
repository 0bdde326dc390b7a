//! The Flight service: decode, take the session, one call into the domain, encode.
//!
//! It implements Flight itself rather than arrow-flight's `FlightSqlService`: that one's blanket implementation cannot be
//! overridden for GetSchema and PollFlightInfo, answers a bad DoPut before the upload is read, and needs two hooks for each
//! metadata command where one table does. Commands are matched by name, so that a new one is refused until it is built.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{Any, Command};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo,
    PutResult, SchemaResult, Ticket,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lazaret_auth::AuthError;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Error, Result};
use crate::flight::actions;
use crate::flight::auth_layer::{Authenticate, refusal};
use crate::flight::drain::drain;
use crate::flight::handles::HandleKey;
use crate::flight::handshake::handshake;
use crate::flight::metadata::{MetadataCommand, ServerMetadata};
use crate::flight::outgoing::{FlightDataStream, batch_to_flight, schema_bytes};
use crate::flight::put::put;
use crate::flight::sql_engine::SqlEngine;
use crate::flight::statements::{Statements, flight_info};
use crate::flight::warnings::Warned;
use crate::session::{Session, SessionState, Sessions};

/// Everything that the calls share.
pub struct Server {
    pub engine: Arc<dyn SqlEngine>,
    pub authenticator: Arc<dyn Authenticate>,
    pub key: HandleKey,
    pub sessions: Arc<Sessions>,
    pub statements: Arc<Statements>,
    pub metadata: ServerMetadata,
    /// What erasing a session option goes back to.
    pub initial: SessionState,
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl FlightService for Server {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = FlightDataStream;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Result<Response<Self::HandshakeStream>, Status> {
        handshake(self.authenticator.as_ref(), &self.key, request).await
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        session_of(&request)?;
        Err(Error::unsupported("ListFlights; use the metadata commands of Flight SQL").into())
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let session = session_of(&request)?;
        Ok(self.info(&session, request.into_inner()).await?.into_response())
    }

    /// Nothing here runs in the background, so the first poll is the last: a query has been planned, an update has run.
    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let session = session_of(&request)?;
        let info = self.info(&session, request.into_inner()).await?;
        let polled = |info| PollInfo { info: Some(info), flight_descriptor: None, progress: Some(1.0), expiration_time: None };
        Ok(info.map(polled).into_response())
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let session = session_of(&request)?;
        let schema = self.schema(&session, &request.into_inner()).await?;
        Ok(Response::new(SchemaResult { schema: schema_bytes(&schema)? }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let session = session_of(&request)?;
        Ok(Response::new(self.get(&session, &request.into_inner()).await?))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let session = session_of(&request)?;
        let mut incoming = request.into_inner();
        match put(&self.statements, &session, &mut incoming).await {
            Ok(answer) => {
                // The result first: Java reads it before it closes its side.
                let rest = stream::once(async move {
                    drain(&mut incoming).await;
                    None
                });
                let result = |app_metadata| {
                    let result = PutResult { app_metadata };
                    stream::once(async { Some(Ok(result)) }).chain(rest).filter_map(std::future::ready).boxed()
                };
                Ok(answer.map(result).into_response())
            }
            Err(error) => {
                drain(&mut incoming).await;
                Err(error.into())
            }
        }
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let session = session_of(&request)?;
        let answer = actions::run(self, &session, request.into_inner()).await?;
        let answers = answer.map(|body| Ok(arrow_flight::Result { body }));
        Ok(Response::new(stream::iter(answers).boxed()))
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        session_of(&request)?;
        Ok(Response::new(stream::iter(actions::supported().map(Ok)).boxed()))
    }

    async fn do_exchange(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        session_of(&request)?;
        drain(&mut request.into_inner()).await;
        Err(Error::unsupported("DoExchange; Flight SQL has no use for it").into())
    }
}

impl Server {
    async fn info(&self, session: &Arc<Session>, descriptor: FlightDescriptor) -> Result<Warned<FlightInfo>> {
        match MetadataCommand::from_command(command(&descriptor.cmd)?) {
            Ok(metadata) => {
                // The command is its own ticket: it is answered at DoGet, for whoever asks then.
                let ticket = Ticket::new(descriptor.cmd.clone());
                flight_info(&metadata.schema(), ticket, -1, descriptor).map(Warned::none)
            }
            Err(command) => match *command {
                Command::CommandStatementQuery(query) => self.statements.info(session, query, descriptor).await,
                Command::CommandPreparedStatementQuery(query) => {
                    self.statements.prepared_info(session, &query.prepared_statement_handle, descriptor).await
                }
                other => Err(unsupported_command(&other)),
            },
        }
    }

    async fn schema(&self, session: &Arc<Session>, descriptor: &FlightDescriptor) -> Result<SchemaRef> {
        match MetadataCommand::from_command(command(&descriptor.cmd)?) {
            Ok(metadata) => Ok(metadata.schema()),
            Err(command) => match *command {
                Command::CommandStatementQuery(query) => self.statements.schema(session, &query.query, query.transaction_id.as_ref()).await,
                Command::CommandPreparedStatementQuery(query) => self.statements.prepared_schema(session, &query.prepared_statement_handle),
                Command::CommandStatementUpdate(_) | Command::CommandPreparedStatementUpdate(_) => Ok(Arc::new(Schema::empty())),
                other => Err(unsupported_command(&other)),
            },
        }
    }

    async fn get(&self, session: &Arc<Session>, ticket: &Ticket) -> Result<FlightDataStream> {
        match MetadataCommand::from_command(command(&ticket.ticket)?) {
            Ok(metadata) => Ok(batch_to_flight(metadata.rows(&self.metadata, self.engine.as_ref(), session).await?)),
            Err(command) => match *command {
                Command::TicketStatementQuery(ticket) => self.statements.fetch(session, ticket).await,
                Command::CommandPreparedStatementQuery(query) => {
                    self.statements.fetch_prepared(session, &query.prepared_statement_handle).await
                }
                other => Err(unsupported_command(&other)),
            },
        }
    }
}

/// The session that the auth layer put there. A call without one has not passed the door, and is refused.
fn session_of<T>(request: &Request<T>) -> Result<Arc<Session>> {
    request.extensions().get::<Arc<Session>>().cloned().ok_or_else(|| refusal(AuthError::NoCredential))
}

/// The command in a descriptor or ticket.
pub fn command(bytes: &[u8]) -> Result<Command> {
    let not_a_command = || Error::invalid("a Flight SQL command is expected, packed in a protobuf Any");
    if bytes.is_empty() {
        return Err(not_a_command());
    }
    let any = Any::decode(bytes).map_err(|_| not_a_command())?;
    Command::try_from(any).map_err(|_| Error::invalid("a Flight SQL command that cannot be decoded"))
}

pub fn unsupported_command(command: &Command) -> Error {
    match command {
        Command::Unknown(_) => Error::unsupported("this command, which is not one of Flight SQL's"),
        known => Error::unsupported(known.type_url().rsplit('.').next().unwrap_or_default()),
    }
}
