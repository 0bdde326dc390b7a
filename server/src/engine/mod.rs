//! The one way of a statement: parse, authorize, plan, admit, execute. Everything that runs SQL joins here.

mod failure;
mod memory;
pub mod objects;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;

use crate::engine::objects::{CatalogObject, ObjectFilter};
use crate::error::Result;
use crate::session::Session;

/// What a driver wants to know when it prepares. For a statement that is not a query, `result_schema` has no fields.
#[derive(Clone, Debug)]
pub struct Description {
    /// DDL, DML, SET, USE, GRANT: runs exactly once, has no rows of its own.
    pub is_update: bool,
    /// Canonical: exactly what every batch will have.
    pub result_schema: SchemaRef,
    /// One nullable field of a concrete type for each placeholder, in order; named `$1`, `$2`, …
    pub parameter_schema: SchemaRef,
}

/// The rows of a query that has been let in. Dropping it cancels the query and writes the audit's end record.
pub struct Rows {
    pub schema: SchemaRef,
    pub batches: BoxStream<'static, Result<RecordBatch>>,
}

/// A query that was planned at GetFlightInfo and waits for its DoGet. It is checked again (privileges, policies,
/// versions) when it runs.
pub struct PlannedQuery {
    pub schema: SchemaRef,
    pub(crate) sql: String,
    pub(crate) parameters: Option<RecordBatch>,
    pub(crate) epoch: u64,
}

/// What an executed update did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateOutcome {
    /// Rows affected; 0 for DDL.
    pub rows: u64,
}

pub struct Engine {}

impl Engine {
    /// Parses, authorizes and plans without running anything.
    pub async fn describe(&self, session: &Arc<Session>, sql: &str) -> Result<Description> {
        let _ = (session, sql);
        Err(crate::error::Error::unsupported("everything"))
    }

    /// Plans a query for a later [`Engine::run`]. Parameters: one row for each execution, columns in order.
    pub async fn plan(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<PlannedQuery> {
        let _ = (session, sql, parameters);
        Err(crate::error::Error::unsupported("everything"))
    }

    /// Runs a planned query: checks again who may see what, writes the audit's start record durably, streams.
    pub async fn run(&self, session: &Arc<Session>, planned: &PlannedQuery) -> Result<Rows> {
        let _ = (session, &planned.sql, &planned.parameters, planned.epoch);
        Err(crate::error::Error::unsupported("everything"))
    }

    /// Runs a statement that is not a query, exactly once, for each row of parameters (once without).
    pub async fn update(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<UpdateOutcome> {
        let _ = (session, sql, parameters);
        Err(crate::error::Error::unsupported("everything"))
    }

    /// The catalogs that the session's principal may see.
    pub async fn visible_catalogs(&self, session: &Arc<Session>) -> Result<Vec<String>> {
        let _ = session;
        Err(crate::error::Error::unsupported("catalogs"))
    }

    /// The schemas that the session's principal may see, with their catalog; those that `filter` asks for.
    pub async fn visible_schemas(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<(String, String)>> {
        let _ = (session, filter);
        Err(crate::error::Error::unsupported("schemas"))
    }

    /// The tables and views that the session's principal may see; those that `filter` asks for.
    pub async fn visible_objects(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<CatalogObject>> {
        let _ = (session, filter);
        Err(crate::error::Error::unsupported("tables"))
    }
}
