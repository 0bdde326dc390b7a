//! DoPut: updates, and parameters for prepared statements.

use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::sql::{Command, DoPutPreparedStatementResult, DoPutUpdateResult};
use bytes::Bytes;
use prost::Message;
use tonic::Streaming;

use crate::engine::UpdateOutcome;
use crate::error::{Error, Result};
use crate::flight::incoming::read_parameters;
use crate::flight::service::{command, unsupported_command};
use crate::flight::statements::Statements;
use crate::flight::warnings::Warned;
use crate::session::Session;

/// Runs what an upload asks for. Gives the metadata of the one PutResult: bare protobuf, not packed in an `Any`.
pub async fn put(statements: &Statements, session: &Arc<Session>, incoming: &mut Streaming<FlightData>) -> Result<Warned<Bytes>> {
    let first = incoming.message().await.map_err(|status| Error::invalid(format!("the upload failed: {}", status.message())))?;
    let Some(mut first) = first else { return Err(Error::invalid("an upload without a message")) };
    let Some(descriptor) = first.flight_descriptor.take() else {
        return Err(Error::invalid("the first message of an upload has no descriptor"));
    };
    match command(&descriptor.cmd)? {
        // The text is all there is to it: the message has no IPC header, and Java does not close its side before it has
        // the result.
        Command::CommandStatementUpdate(update) => {
            let outcome = statements.update(session, &update.query, update.transaction_id.as_ref()).await?;
            Ok(count(outcome))
        }
        Command::CommandPreparedStatementUpdate(update) => {
            let parameters = read_parameters(first, incoming).await?;
            Ok(count(statements.update_prepared(session, &update.prepared_statement_handle, parameters).await?))
        }
        Command::CommandPreparedStatementQuery(query) => {
            let parameters = read_parameters(first, incoming).await?;
            statements.bind(session, &query.prepared_statement_handle, parameters)?;
            // Java reads the handle without looking whether it is there.
            let answer = DoPutPreparedStatementResult { prepared_statement_handle: Some(query.prepared_statement_handle) };
            Ok(Warned::none(answer.encode_to_vec().into()))
        }
        other => Err(unsupported_command(&other)),
    }
}

fn count(outcome: UpdateOutcome) -> Warned<Bytes> {
    let record_count = i64::try_from(outcome.rows).unwrap_or(i64::MAX);
    Warned { answer: DoPutUpdateResult { record_count }.encode_to_vec().into(), warnings: outcome.warnings }
}
