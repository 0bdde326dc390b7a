//! What Flight SQL needs from the engine: the one way of a statement, and what the principal may see of the catalog.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use crate::engine::objects::{CatalogObject, ObjectFilter};
use crate::engine::{Description, Engine, PlannedQuery, Rows, Started, UpdateOutcome};
use crate::error::{Error, Result};
use crate::session::Session;

/// The methods are [`Engine`]'s, where they are described.
#[async_trait]
pub trait SqlEngine: Send + Sync + 'static {
    async fn describe(&self, session: &Arc<Session>, sql: &str) -> Result<Description>;
    async fn start(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<Started>;
    async fn run(&self, session: &Arc<Session>, planned: &PlannedQuery) -> Result<Rows>;
    async fn update(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<UpdateOutcome>;
    async fn refused_handle(&self, session: &Arc<Session>, error: Error) -> Error;
    async fn visible_catalogs(&self, session: &Arc<Session>) -> Result<Vec<String>>;
    async fn visible_schemas(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<(String, String)>>;
    async fn visible_objects(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<CatalogObject>>;
}

#[async_trait]
impl SqlEngine for Engine {
    async fn describe(&self, session: &Arc<Session>, sql: &str) -> Result<Description> {
        Engine::describe(self, session, sql).await
    }

    async fn start(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<Started> {
        Engine::start(self, session, sql, parameters).await
    }

    async fn run(&self, session: &Arc<Session>, planned: &PlannedQuery) -> Result<Rows> {
        Engine::run(self, session, planned).await
    }

    async fn update(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<UpdateOutcome> {
        Engine::update(self, session, sql, parameters).await
    }

    async fn refused_handle(&self, session: &Arc<Session>, error: Error) -> Error {
        Engine::refused_handle(self, session, error).await
    }

    async fn visible_catalogs(&self, session: &Arc<Session>) -> Result<Vec<String>> {
        Engine::visible_catalogs(self, session).await
    }

    async fn visible_schemas(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<(String, String)>> {
        Engine::visible_schemas(self, session, filter).await
    }

    async fn visible_objects(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<CatalogObject>> {
        Engine::visible_objects(self, session, filter).await
    }
}
