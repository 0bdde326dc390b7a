//! What Flight SQL needs from the engine: the one way of a statement, and what the principal may see of the catalog.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use crate::engine::objects::{CatalogObject, ObjectFilter};
use crate::engine::{Description, Engine, PlannedQuery, Rows, UpdateOutcome};
use crate::error::Result;
use crate::session::Session;

/// The methods are [`Engine`]'s, where they are described.
#[async_trait]
pub trait SqlEngine: Send + Sync + 'static {
    async fn describe(&self, session: &Arc<Session>, sql: &str) -> Result<Description>;
    async fn plan(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<PlannedQuery>;
    async fn run(&self, session: &Arc<Session>, planned: &PlannedQuery) -> Result<Rows>;
    async fn update(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<UpdateOutcome>;
    async fn visible_catalogs(&self, session: &Arc<Session>) -> Result<Vec<String>>;
    async fn visible_schemas(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<(String, String)>>;
    async fn visible_objects(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<CatalogObject>>;
}

#[async_trait]
impl SqlEngine for Engine {
    async fn describe(&self, session: &Arc<Session>, sql: &str) -> Result<Description> {
        Engine::describe(self, session, sql).await
    }

    async fn plan(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<PlannedQuery> {
        Engine::plan(self, session, sql, parameters).await
    }

    async fn run(&self, session: &Arc<Session>, planned: &PlannedQuery) -> Result<Rows> {
        Engine::run(self, session, planned).await
    }

    async fn update(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<UpdateOutcome> {
        Engine::update(self, session, sql, parameters).await
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
