//! DoAction. Bodies of Flight SQL's actions are packed in an `Any`, those of Flight's own are bare protobuf.

use std::sync::Arc;

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, Any, ProstMessageExt,
};
use arrow_flight::{Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo};
use bytes::Bytes;
use prost::Message;

use crate::error::{Error, Result};
use crate::flight::service::Server;
use crate::flight::session_options::{CloseSessionResult, CloseSessionStatus, SetSessionOptionsRequest, get_options, set_options};
use crate::flight::statements::PreparedAnswer;
use crate::session::Session;

const SUPPORTED: [(&str, &str); 7] = [
    ("CreatePreparedStatement", "Prepares a statement: ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult"),
    ("ClosePreparedStatement", "Closes a prepared statement: ActionClosePreparedStatementRequest"),
    ("CancelQuery", "Cancels a query, deprecated: ActionCancelQueryRequest, ActionCancelQueryResult"),
    ("CancelFlightInfo", "Cancels a query: CancelFlightInfoRequest, CancelFlightInfoResult"),
    ("SetSessionOptions", "Sets catalog and schema: SetSessionOptionsRequest, SetSessionOptionsResult"),
    ("GetSessionOptions", "Gives catalog and schema: GetSessionOptionsRequest, GetSessionOptionsResult"),
    ("CloseSession", "Ends the session and closes its statements: CloseSessionRequest, CloseSessionResult"),
];

/// Known by name, and refused by it.
const UNSUPPORTED: [&str; 6] =
    ["BeginTransaction", "EndTransaction", "BeginSavepoint", "EndSavepoint", "CreatePreparedSubstraitPlan", "RenewFlightEndpoint"];

/// `ActionCreatePreparedStatementResult` with the field that it got in June 2026; arrow-flight 59 does not know it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreparedStatementResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub prepared_statement_handle: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    pub is_update: Option<bool>,
}

pub fn supported() -> impl Iterator<Item = ActionType> + Send + 'static {
    SUPPORTED.into_iter().map(|(name, description)| ActionType { r#type: name.to_owned(), description: description.to_owned() })
}

/// Runs an action. Gives the body of its one result, or `None` where it has none.
pub async fn run(server: &Server, session: &Arc<Session>, action: Action) -> Result<Option<Bytes>> {
    let body = &action.body;
    match action.r#type.as_str() {
        "CreatePreparedStatement" => {
            let request: ActionCreatePreparedStatementRequest = packed(body)?;
            let prepared = server.statements.prepare(session, request.query, request.transaction_id.as_ref()).await?;
            Ok(Some(prepared_result(prepared)))
        }
        "ClosePreparedStatement" => {
            let request: ActionClosePreparedStatementRequest = packed(body)?;
            server.statements.close(session, &request.prepared_statement_handle)?;
            Ok(None)
        }
        "CancelQuery" => {
            let request: ActionCancelQueryRequest = packed(body)?;
            let info: FlightInfo = bare(&request.info)?;
            // The numbers of the two results' enums are the same.
            let result = cancel(server, session, &info)?.into();
            Ok(Some(ActionCancelQueryResult { result }.as_any().encode_to_vec().into()))
        }
        "CancelFlightInfo" => {
            let request: CancelFlightInfoRequest = bare(body)?;
            let info = request.info.ok_or_else(|| Error::invalid("CancelFlightInfo without a FlightInfo"))?;
            let status = cancel(server, session, &info)?.into();
            Ok(Some(CancelFlightInfoResult { status }.encode_to_vec().into()))
        }
        "SetSessionOptions" => {
            let request: SetSessionOptionsRequest = bare(body)?;
            let result = set_options(server.engine.as_ref(), session, &server.initial, request).await?;
            Ok(Some(result.encode_to_vec().into()))
        }
        "GetSessionOptions" => Ok(Some(get_options(session).encode_to_vec().into())),
        "CloseSession" => {
            let closed = server.sessions.close(session);
            let status = if closed { CloseSessionStatus::Closed } else { CloseSessionStatus::NotCloseable };
            Ok(Some(CloseSessionResult { status: status.into() }.encode_to_vec().into()))
        }
        name => match UNSUPPORTED.iter().find(|unsupported| **unsupported == name) {
            Some(known) => Err(Error::unsupported(known)),
            None => Err(Error::invalid("unknown action: ListActions names those there are")),
        },
    }
}

fn prepared_result(prepared: PreparedAnswer) -> Bytes {
    let result = PreparedStatementResult {
        prepared_statement_handle: prepared.handle,
        dataset_schema: prepared.dataset_schema,
        parameter_schema: prepared.parameter_schema,
        is_update: Some(prepared.is_update),
    };
    let type_url = ActionCreatePreparedStatementResult::type_url().to_owned();
    Any { type_url, value: result.encode_to_vec().into() }.encode_to_vec().into()
}

fn cancel(server: &Server, session: &Session, info: &FlightInfo) -> Result<CancelStatus> {
    let ticket = info.endpoint.first().and_then(|endpoint| endpoint.ticket.as_ref());
    let ticket = ticket.ok_or_else(|| Error::invalid("a FlightInfo without a ticket"))?;
    server.statements.cancel(session, &ticket.ticket)
}

fn packed<M: ProstMessageExt>(body: &Bytes) -> Result<M> {
    let any = Any::decode(body.clone()).map_err(|_| undecodable())?;
    any.unpack().ok().flatten().ok_or_else(undecodable)
}

fn bare<M: Message + Default>(body: &Bytes) -> Result<M> {
    M::decode(body.clone()).map_err(|_| undecodable())
}

fn undecodable() -> Error {
    Error::invalid("the action's body cannot be decoded as the message that it takes")
}
