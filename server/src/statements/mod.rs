//! Statements that are not queries. Each is checked and made in one transaction of the metadata store; what a principal
//! may not see is answered as if it were not there.

pub mod access;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod catalog_tests;
mod emergency;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod identity_tests;
mod kill;
mod objects;
mod owners;
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

use crate::activity::Activity;
use crate::emergency::Warden;
use crate::engine::UpdateOutcome;
use crate::error::{Error, Result};
use crate::session::{Session, Sessions};
use crate::sql::Statement;
use crate::sql::statement::Show;

pub use emergency::set as set_emergency_access;
pub(crate) use objects::refuse_reserved;
pub use tables::{abandon_created, begin_create, register_created};

/// What a statement works on.
#[derive(Clone)]
pub struct StatementContext {
    pub metadata: Arc<Metadata>,
    pub lake: Arc<Lake>,
    pub session: Arc<Session>,
    /// The names of the configured issuers, `local` not among them.
    pub issuers: Arc<[String]>,
    pub activity: Arc<Activity>,
    pub sessions: Arc<Sessions>,
    pub warden: Arc<Warden>,
}

impl StatementContext {
    /// With which rights the session acts in this state. Ask inside the transaction: time of check is time of commit.
    pub fn authority(&self, state: &dyn AccessReader) -> Authority {
        self.session.authority(state)
    }

    /// Leaves a warning for SHOW WARNINGS.
    pub fn warn(&self, warning: impl Into<String>) {
        self.session.state.lock().warnings.push(warning.into());
    }
}

/// The schema of the rows that SHOW, DESCRIBE and EXPLAIN POLICY answer with; `None` for a statement without rows.
pub fn result_schema(statement: &Statement) -> Option<SchemaRef> {
    match statement {
        Statement::Show(Show::EmergencyAccess) => Some(emergency::schema()),
        Statement::Show(wanted) => show::schema_of(wanted).or_else(|| access::result_schema(wanted)),
        Statement::Describe { .. } => Some(show::describe_schema()),
        Statement::ExplainPolicy(_) => Some(access::explain_policy_schema()),
        Statement::CreateToken { .. } => Some(access::new_token_schema()),
        _ => None,
    }
}

/// Whether it has rows, and changes the server all the same: [`run`] gives them.
pub fn changes_and_answers(statement: &Statement) -> bool {
    matches!(statement, Statement::CreateToken { .. })
}

/// Answers SHOW, DESCRIBE and EXPLAIN POLICY, out of what the namespace shows this principal.
pub async fn rows(context: &StatementContext, namespace: &Namespace, statement: &Statement) -> Result<RecordBatch> {
    match statement {
        Statement::Show(Show::EmergencyAccess) => emergency::show(context, namespace.state()),
        Statement::Show(
            wanted @ (Show::Users
            | Show::Tokens(_)
            | Show::Roles
            | Show::Grants(_)
            | Show::Policies(_)
            | Show::MaskingPolicies(_)
            | Show::EffectivePolicies { .. }),
        ) => access::rows(context, namespace.state(), wanted),
        Statement::ExplainPolicy(explain) => access::explain_policy(context, namespace.state(), explain),
        Statement::Show(wanted) => show::show(context, namespace, wanted).await,
        Statement::Describe { name } => show::describe(context, namespace, name).await,
        _ => Err(Error::internal("a statement without rows was asked for rows")),
    }
}

/// Runs a statement that has no rows, or is made once with them, exactly once. The engine comes with CREATE VIEW when it has planned the query, and
/// keeps CREATE TABLE AS to itself: it calls [`begin_create`], writes, and calls [`register_created`]. So it does with
/// SET EMERGENCY ACCESS, whose id is in the start record.
pub async fn run(context: &StatementContext, statement: &Statement) -> Result<UpdateOutcome> {
    context.session.state.lock().warnings.clear();
    match statement {
        Statement::CreateSchema { name, if_not_exists } => schemas::create(context, name, *if_not_exists).await,
        Statement::DropSchema { name, if_exists, cascade } => schemas::drop(context, name, *if_exists, *cascade).await,
        Statement::CreateExternalTable(create) => tables::create_external(context, create).await,
        Statement::CreateView(create) => views::create(context, create).await,
        Statement::Drop { kind, name, if_exists, cascade } => tables::drop(context, *kind, name, *if_exists, *cascade).await,
        Statement::Use { catalog, schema } => session::use_schema(context, catalog, schema.as_ref()).await,
        Statement::Set { name, value } => session::set(context, name, value),
        Statement::Reset { name } => session::reset(context, name.as_deref()),
        Statement::EndEmergencyAccess { id } => emergency::end(context, id.as_deref()).await,
        Statement::Kill { what, id } => kill::kill(context, *what, id),
        Statement::SetRole(choice) => session::set_role(context, choice),
        Statement::SetOwner { kind, name, owner } => owners::set(context, *kind, name, owner).await,
        Statement::CreateToken { name, user, expiry } => access::create_token(context, name, user, *expiry).await,
        Statement::CreateUser { .. }
        | Statement::AlterUser { .. }
        | Statement::DropUser { .. }
        | Statement::DropToken { .. }
        | Statement::CreateRole { .. }
        | Statement::DropRole { .. }
        | Statement::GrantRole { .. }
        | Statement::RevokeRole { .. }
        | Statement::Grant(_)
        | Statement::Revoke(_)
        | Statement::CreatePolicy(_)
        | Statement::DropPolicy { .. }
        | Statement::CreateMaskingPolicy(_)
        | Statement::DropMaskingPolicy { .. }
        | Statement::RowLevelSecurity { .. } => access::run(context, statement).await,
        Statement::Query(_)
        | Statement::Explain(_)
        | Statement::ExecuteAs(_)
        | Statement::ExplainPolicy(_)
        | Statement::CreateTableAs(_)
        | Statement::SetEmergencyAccess(_)
        | Statement::Insert(_)
        | Statement::Describe { .. }
        | Statement::Show(_) => Err(Error::internal("a statement that the engine runs in another way")),
    }
}
