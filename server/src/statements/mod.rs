//! Statements that are not queries. Each is checked and made in one transaction of the metadata store; what a principal
//! may not see is answered as if it were not there.

pub mod access;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod catalog_tests;
mod objects;
mod schemas;
pub mod session;
pub(crate) mod show;
mod tables;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub(crate) mod testing;
mod views;

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
use crate::sql::statement::Show;

pub use tables::{begin_create, register_created};

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
    match statement {
        Statement::Show(wanted) => show::schema_of(wanted).or_else(|| access::result_schema(wanted)),
        Statement::Describe { .. } => Some(show::describe_schema()),
        _ => None,
    }
}

/// Answers SHOW and DESCRIBE, out of what the namespace shows this principal.
pub async fn rows(context: &StatementContext, namespace: &Namespace, statement: &Statement) -> Result<RecordBatch> {
    match statement {
        Statement::Show(wanted @ (Show::Users | Show::Roles | Show::Grants(_) | Show::Policies(_))) => {
            access::rows(context, namespace.state(), wanted)
        }
        Statement::Show(wanted) => show::show(context, namespace, wanted).await,
        Statement::Describe { name } => show::describe(context, namespace, name).await,
        _ => Err(Error::internal("a statement without rows was asked for rows")),
    }
}

/// Runs a statement that has no rows, exactly once. The engine comes with CREATE VIEW when it has planned the query, and
/// keeps CREATE TABLE AS to itself: it calls [`begin_create`], writes, and calls [`register_created`].
pub async fn run(context: &StatementContext, statement: &Statement) -> Result<UpdateOutcome> {
    context.session.state.lock().warnings.clear();
    match statement {
        Statement::CreateSchema { name, if_not_exists } => schemas::create(context, name, *if_not_exists).await,
        Statement::DropSchema { name, if_exists, cascade } => schemas::drop(context, name, *if_exists, *cascade).await,
        Statement::CreateExternalTable(create) => tables::create_external(context, create).await,
        Statement::CreateView(create) => views::create(context, create).await,
        Statement::Drop { kind, name, if_exists } => tables::drop(context, *kind, name, *if_exists).await,
        Statement::Use { catalog, schema } => session::use_schema(context, catalog, schema.as_ref()).await,
        Statement::Set { name, value } => session::set(context, name, value),
        Statement::Reset { name } => session::reset(context, name.as_deref()),
        Statement::CreateUser { .. }
        | Statement::AlterUser { .. }
        | Statement::DropUser { .. }
        | Statement::CreateRole { .. }
        | Statement::DropRole { .. }
        | Statement::GrantRole { .. }
        | Statement::RevokeRole { .. }
        | Statement::Grant(_)
        | Statement::Revoke(_)
        | Statement::CreatePolicy(_)
        | Statement::DropPolicy { .. }
        | Statement::RowLevelSecurity { .. } => access::run(context, statement).await,
        Statement::Query(_) | Statement::Explain(_) | Statement::CreateTableAs(_) | Statement::Describe { .. } | Statement::Show(_) => {
            Err(Error::internal("a statement that the engine runs in another way"))
        }
    }
}
