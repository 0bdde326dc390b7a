//! Statements that are not queries. Each is checked and made in one transaction of the metadata store; what a principal
//! may not see is answered as if it were not there.

pub mod access;
mod objects;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use lazaret_auth::{AccessReader, Authority};
use lazaret_catalog::lake::Lake;
use lazaret_catalog::meta::Metadata;
use lazaret_catalog::namespace::Namespace;

use crate::engine::UpdateOutcome;
use crate::error::{Error, Result};
use crate::session::Session;
use crate::sql::Statement;

/// What a statement works on.
#[derive(Clone)]
pub struct StatementContext {
    pub metadata: Arc<Metadata>,
    pub lake: Arc<Lake>,
    pub session: Arc<Session>,
    /// The names of the configured issuers, `local` not among them.
    pub issuers: Arc<[String]>,
}

impl StatementContext {
    /// With which rights the session acts in this state. Ask inside the transaction: time of check is time of commit.
    pub fn authority(&self, state: &dyn AccessReader) -> Authority {
        Authority::of(state, Arc::clone(self.session.principal()))
    }

    /// Leaves a warning for SHOW WARNINGS.
    pub fn warn(&self, warning: impl Into<String>) {
        self.session.state.lock().warnings.push(warning.into());
    }
}

/// The schema of the rows that SHOW and DESCRIBE answer with; `None` for a statement without rows.
pub fn result_schema(statement: &Statement) -> Option<SchemaRef> {
    let _ = statement;
    None
}

/// Answers SHOW and DESCRIBE, out of what the namespace shows this principal.
pub async fn rows(context: &StatementContext, namespace: &Namespace, statement: &Statement) -> Result<RecordBatch> {
    let _ = (context, namespace, statement);
    Err(Error::unsupported("SHOW"))
}

/// Runs a statement that has no rows, exactly once.
pub async fn run(context: &StatementContext, statement: &Statement) -> Result<UpdateOutcome> {
    let _ = (context, statement);
    Err(Error::unsupported("this statement"))
}
