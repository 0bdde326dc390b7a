//! Statements as drivers run them: planned at GetFlightInfo and run at DoGet, prepared and bound, updated exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::sql::{Any, CommandStatementQuery, ProstMessageExt, TicketStatementQuery};
use arrow_flight::{CancelStatus, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::engine::{Answer, Description, PlannedQuery, Rows, Started, UpdateOutcome};
use crate::error::{Error, ErrorKind, Result};
use crate::flight::canonical::canonical_schema;
use crate::flight::handles::{HandleKey, Handles, Overflow, Rules};
use crate::flight::outgoing::{FlightDataStream, nothing_to_flight, rows_to_flight, schema_bytes};
use crate::flight::sql_engine::SqlEngine;
use crate::flight::type_info::result_schema;
use crate::flight::warnings::Warned;
use crate::session::{Session, SessionState};

/// From GetFlightInfo to the last DoGet of its ticket: long enough for a driver that fetches late, short enough that a
/// ticket in a log is soon worth nothing.
const TICKET_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Tickets of one session that may be redeemed; the oldest goes when there are more.
const TICKETS_PER_SESSION: usize = 1000;
/// Statement texts and parameters that all open tickets together may hold; the same again for texts of prepared statements.
const HELD_BYTES: u64 = 256 << 20;
/// Parameters that all prepared statements together may hold.
const BOUND_BYTES: usize = 512 << 20;
/// A prepared statement that nobody has touched for so long is closed. As long as a session.
const STATEMENT_IDLE: Duration = crate::session::SESSION_IDLE;
/// What an entry weighs beside its text and its parameters.
const ENTRY_BYTES: usize = 1024;

type SharedState = Arc<Mutex<SessionState>>;

/// What a ticket stands for.
#[derive(Clone)]
enum Ticketed {
    Query(Arc<TicketedQuery>),
    /// A statement that has run: its outcome is in the FlightInfo. DoGet answers with the rows that it made then, none for
    /// nearly all; asked twice, it is the same rows.
    Done(Option<Answer>),
}

struct TicketedQuery {
    planned: PlannedQuery,
    schema: SchemaRef,
    state: SharedState,
    cancel: CancellationToken,
}

struct Prepared {
    sql: String,
    runs_once: bool,
    schema: SchemaRef,
    parameter_schema: SchemaRef,
    bound: Mutex<Option<Bound>>,
    /// Of the session that prepared it, for calls that come without one.
    state: SharedState,
}

/// Parameters of a prepared statement, counted as long as they are held.
struct Bound {
    rows: RecordBatch,
    bytes: usize,
    held: Arc<AtomicUsize>,
}

impl Bound {
    fn new(rows: RecordBatch, held: &Arc<AtomicUsize>) -> Result<Self> {
        let bytes = rows.get_array_memory_size();
        let bound = Self { rows, bytes, held: Arc::clone(held) };
        if held.fetch_add(bytes, Ordering::Relaxed) + bytes > BOUND_BYTES {
            let text = format!("bound parameters are too large: the limit is {BOUND_BYTES} bytes for all prepared statements together");
            return Err(Error::new(ErrorKind::Exhausted, text));
        }
        Ok(bound)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What CreatePreparedStatement answers.
pub struct PreparedAnswer {
    pub handle: Bytes,
    pub dataset_schema: Bytes,
    pub parameter_schema: Bytes,
    pub is_update: bool,
}

pub struct Statements {
    engine: Arc<dyn SqlEngine>,
    tickets: Handles<Ticketed>,
    prepared: Handles<Arc<Prepared>>,
    bound_bytes: Arc<AtomicUsize>,
}

impl Statements {
    pub fn new(engine: Arc<dyn SqlEngine>, key: HandleKey, statements_per_session: usize) -> Self {
        let tickets = Rules {
            kind: "ticket",
            per_owner: TICKETS_PER_SESSION,
            overflow: Overflow::DropOldest,
            lifetime: Some(TICKET_LIFETIME),
            idle: TICKET_LIFETIME,
            total_bytes: HELD_BYTES,
        };
        let prepared = Rules {
            kind: "prepared statement",
            per_owner: statements_per_session,
            overflow: Overflow::Refuse { setting: "limits.statements_per_session" },
            lifetime: None,
            idle: STATEMENT_IDLE,
            total_bytes: HELD_BYTES,
        };
        Self { engine, tickets: Handles::new(key.clone(), tickets), prepared: Handles::new(key, prepared), bound_bytes: Arc::default() }
    }

    /// Forgets everything of a session that has ended.
    pub fn release(&self, session_id: &str) {
        self.tickets.release(session_id);
        self.prepared.release(session_id);
    }

    /// GetFlightInfo of a statement: a query is planned, anything else runs now, once.
    pub async fn info(
        &self,
        session: &Arc<Session>,
        command: CommandStatementQuery,
        descriptor: FlightDescriptor,
    ) -> Result<Warned<FlightInfo>> {
        no_transaction(command.transaction_id.as_ref())?;
        self.start(session, &command.query, None, descriptor).await
    }

    /// GetFlightInfo of a prepared statement, with what is bound to it.
    pub async fn prepared_info(&self, session: &Arc<Session>, handle: &[u8], descriptor: FlightDescriptor) -> Result<Warned<FlightInfo>> {
        let prepared = self.prepared(session, handle).await?;
        let parameters = prepared.parameters();
        self.start(&in_state(session, &prepared.state), &prepared.sql, parameters, descriptor).await
    }

    async fn start(
        &self,
        session: &Arc<Session>,
        sql: &str,
        parameters: Option<RecordBatch>,
        descriptor: FlightDescriptor,
    ) -> Result<Warned<FlightInfo>> {
        let bytes = ENTRY_BYTES + sql.len() + parameters.as_ref().map_or(0, RecordBatch::get_array_memory_size);
        match self.engine.start(session, sql, parameters).await? {
            Started::Done(UpdateOutcome { rows, answer, warnings }) => {
                let schema = answer.as_ref().map_or_else(|| Arc::new(Schema::empty()), |Answer(rows)| result_schema(&rows.schema()));
                let count = answer.as_ref().map_or(rows, |Answer(rows)| rows.num_rows() as u64);
                let held = answer.as_ref().map_or(0, |Answer(rows)| rows.get_array_memory_size());
                let handle = self.tickets.insert(session, Ticketed::Done(answer), ENTRY_BYTES + held)?;
                let info = flight_info(&schema, statement_ticket(handle), i64::try_from(count).unwrap_or(i64::MAX), descriptor)?;
                Ok(Warned { answer: info, warnings })
            }
            Started::Planned(planned) => {
                let schema = result_schema(&planned.schema);
                let state = Arc::clone(&session.state);
                let query = TicketedQuery { planned, schema: Arc::clone(&schema), state, cancel: CancellationToken::new() };
                let handle = self.tickets.insert(session, Ticketed::Query(Arc::new(query)), bytes)?;
                flight_info(&schema, statement_ticket(handle), UNKNOWN_ROWS, descriptor).map(Warned::none)
            }
        }
    }

    /// DoGet of a ticket: runs the query, or answers for what ran at GetFlightInfo.
    pub async fn fetch(&self, session: &Arc<Session>, ticket: TicketStatementQuery) -> Result<FlightDataStream> {
        let ticketed = match self.tickets.get(session, &ticket.statement_handle) {
            Ok(ticketed) => ticketed,
            Err(error) => return Err(self.engine.refused_handle(session, error).await),
        };
        match ticketed {
            Ticketed::Done(None) => Ok(nothing_to_flight(Arc::new(Schema::empty()))),
            Ticketed::Done(Some(Answer(rows))) => {
                let schema = result_schema(&rows.schema());
                let rows = Rows { schema: rows.schema(), batches: futures::stream::iter([Ok(rows)]).boxed() };
                rows_to_flight(rows, schema, CancellationToken::new())
            }
            Ticketed::Query(query) => {
                let rows = self.engine.run(&in_state(session, &query.state), &query.planned).await?;
                rows_to_flight(rows, Arc::clone(&query.schema), query.cancel.clone())
            }
        }
    }

    /// DoGet of a prepared statement without a GetFlightInfo before it. Only queries: what changes something would run twice
    /// for the driver that does both.
    pub async fn fetch_prepared(&self, session: &Arc<Session>, handle: &[u8]) -> Result<FlightDataStream> {
        let prepared = self.prepared(session, handle).await?;
        if prepared.runs_once {
            return Err(Error::invalid(
                "this statement changes the server, and runs once: at GetFlightInfo, or DoPut where it has no rows",
            ));
        }
        let session = in_state(session, &prepared.state);
        let parameters = prepared.parameters();
        let Started::Planned(planned) = self.engine.start(&session, &prepared.sql, parameters).await? else {
            return Err(Error::internal("a prepared query that ran as an update"));
        };
        let rows = self.engine.run(&session, &planned).await?;
        rows_to_flight(rows, result_schema(&planned.schema), CancellationToken::new())
    }

    /// A prepared statement that is to run. A handle that is not this principal's goes into the audit.
    async fn prepared(&self, session: &Arc<Session>, handle: &[u8]) -> Result<Arc<Prepared>> {
        match self.prepared.get(session, handle) {
            Ok(prepared) => Ok(prepared),
            Err(error) => Err(self.engine.refused_handle(session, error).await),
        }
    }

    /// Stops what a ticket started, and makes it worthless.
    pub fn cancel(&self, session: &Session, ticket: &[u8]) -> Result<CancelStatus> {
        let ticket = Any::decode(ticket).ok().and_then(|any| any.unpack::<TicketStatementQuery>().ok().flatten());
        let Some(ticket) = ticket else { return Ok(CancelStatus::NotCancellable) };
        match self.tickets.remove(session, &ticket.statement_handle)? {
            Ticketed::Done(_) => Ok(CancelStatus::NotCancellable),
            Ticketed::Query(query) => {
                query.cancel.cancel();
                Ok(CancelStatus::Cancelled)
            }
        }
    }

    pub async fn prepare(&self, session: &Arc<Session>, sql: String, transaction: Option<&Bytes>) -> Result<PreparedAnswer> {
        no_transaction(transaction)?;
        let Description { is_update, runs_once, result_schema, parameter_schema } = self.engine.describe(session, &sql).await?;
        let schema = self::result_schema(&result_schema);
        let parameter_schema = canonical_schema(&parameter_schema);
        let bytes = ENTRY_BYTES + sql.len();
        let (dataset_bytes, parameter_bytes) = (schema_bytes(&schema)?, schema_bytes(&parameter_schema)?);
        let state = Arc::clone(&session.state);
        let prepared = Prepared { sql, runs_once, schema, parameter_schema, bound: Mutex::new(None), state };
        let handle = self.prepared.insert(session, Arc::new(prepared), bytes)?;
        Ok(PreparedAnswer { handle, dataset_schema: dataset_bytes, parameter_schema: parameter_bytes, is_update })
    }

    /// Binds parameters until others are bound. `None` unbinds.
    pub fn bind(&self, session: &Session, handle: &[u8], parameters: Option<RecordBatch>) -> Result<()> {
        let prepared = self.prepared.get(session, handle)?;
        prepared.check_count(parameters.as_ref())?;
        let bound = parameters.map(|rows| Bound::new(rows, &self.bound_bytes)).transpose()?;
        // What was bound before is dropped after the lock is gone.
        let before = std::mem::replace(&mut *prepared.bound.lock(), bound);
        drop(before);
        Ok(())
    }

    pub fn close(&self, session: &Session, handle: &[u8]) -> Result<()> {
        self.prepared.remove(session, handle).map(drop)
    }

    /// DoPut of a statement's text: runs once.
    pub async fn update(&self, session: &Arc<Session>, sql: &str, transaction: Option<&Bytes>) -> Result<UpdateOutcome> {
        no_transaction(transaction)?;
        self.engine.update(session, sql, None).await
    }

    /// DoPut of a prepared statement: runs once for each row that came along, else with what is bound.
    pub async fn update_prepared(&self, session: &Arc<Session>, handle: &[u8], parameters: Option<RecordBatch>) -> Result<UpdateOutcome> {
        let prepared = self.prepared(session, handle).await?;
        prepared.check_count(parameters.as_ref())?;
        let parameters = parameters.or_else(|| prepared.parameters());
        self.engine.update(&in_state(session, &prepared.state), &prepared.sql, parameters).await
    }

    pub async fn schema(&self, session: &Arc<Session>, sql: &str, transaction: Option<&Bytes>) -> Result<SchemaRef> {
        no_transaction(transaction)?;
        Ok(result_schema(&self.engine.describe(session, sql).await?.result_schema))
    }

    pub fn prepared_schema(&self, session: &Session, handle: &[u8]) -> Result<SchemaRef> {
        Ok(Arc::clone(&self.prepared.get(session, handle)?.schema))
    }
}

impl Prepared {
    fn parameters(&self) -> Option<RecordBatch> {
        self.bound.lock().as_ref().map(|bound| bound.rows.clone())
    }

    fn check_count(&self, parameters: Option<&RecordBatch>) -> Result<()> {
        let wanted = self.parameter_schema.fields().len();
        match parameters.map(RecordBatch::num_columns) {
            Some(given) if given != wanted => Err(Error::invalid(format!("the statement has {wanted} parameters, and {given} were given"))),
            _ => Ok(()),
        }
    }
}

/// What FlightInfo says where the count is not known; its default of 0 would be taken for a count.
const UNKNOWN_ROWS: i64 = -1;

/// A FlightInfo with one endpoint, here: drivers read several at once and mix their rows.
pub fn flight_info(schema: &SchemaRef, ticket: Ticket, rows: i64, descriptor: FlightDescriptor) -> Result<FlightInfo> {
    let endpoint = FlightEndpoint::new().with_ticket(ticket);
    let info = FlightInfo::new().with_endpoint(endpoint).with_total_records(rows).with_total_bytes(-1).with_descriptor(descriptor);
    Ok(FlightInfo { schema: schema_bytes(schema)?, ..info })
}

/// Packed in an `Any`: a bare ticket would not be recognised at DoGet.
fn statement_ticket(handle: Bytes) -> Ticket {
    Ticket::new(TicketStatementQuery { statement_handle: handle }.as_any().encode_to_vec())
}

/// The rest of a statement's life runs with its session's settings even if a call of it comes without the cookie.
fn in_state(session: &Arc<Session>, state: &SharedState) -> Arc<Session> {
    if session.keeps_state() { Arc::clone(session) } else { session.with_state(state) }
}

fn no_transaction(transaction: Option<&Bytes>) -> Result<()> {
    match transaction {
        Some(id) if !id.is_empty() => Err(Error::invalid("unknown transaction: transactions are not supported yet")),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn bound_parameters_are_counted_until_they_are_dropped() {
        let rows = || RecordBatch::try_from_iter([("$1", Arc::new(Int64Array::from(vec![1; 1000])) as ArrayRef)]).unwrap();
        let held = Arc::new(AtomicUsize::new(0));
        let first = Bound::new(rows(), &held).unwrap();
        assert_eq!(held.load(Ordering::Relaxed), first.bytes);
        held.fetch_add(BOUND_BYTES - 2 * first.bytes + 1, Ordering::Relaxed);
        let refused = Bound::new(rows(), &held).err().unwrap();
        assert_eq!(refused.kind, ErrorKind::Exhausted);
        let before = held.load(Ordering::Relaxed);
        drop(first);
        assert!(held.load(Ordering::Relaxed) < before, "and a refused one counts no longer");
        assert!(Bound::new(rows(), &held).is_ok());
    }
}
