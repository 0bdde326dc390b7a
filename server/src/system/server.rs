//! The schema `system`: the server about itself. A table that is not for the one who asks does not exist.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::Result;
use futures::FutureExt;
use lazaret_auth::grant::authorize_system;
use lazaret_auth::{Authority, Privilege, SystemPrivilege};
use lazaret_catalog::meta::State;

use super::computed::Computed;
use super::work::{self, Watched};
use super::{SystemSources, Viewer};
use crate::audit::audit_table;
use crate::error::Error;
use crate::session::Session;
use crate::statements::access;
use crate::statements::session::shown_settings;

const AUDIT: &str = "audit";
const CACHES: &str = "caches";
const GRANTS: &str = "grants";
const POLICIES: &str = "policies";
const QUERIES: &str = "queries";
const SESSIONS: &str = "sessions";
const SETTINGS: &str = "settings";

pub(super) struct ServerSchema {
    pub viewer: Viewer,
    pub session: Arc<Session>,
    pub sources: SystemSources,
}

impl ServerSchema {
    fn shows(&self, name: &str) -> bool {
        match name {
            AUDIT => self.holds(SystemPrivilege::ReadAudit),
            // Misses count the files that a query reads below its row policy.
            CACHES => self.holds(SystemPrivilege::ManageQueries),
            // These have rows for everyone: each chooses them by who asks.
            GRANTS | POLICIES | QUERIES | SESSIONS | SETTINGS => true,
            _ => false,
        }
    }

    fn holds(&self, privilege: SystemPrivilege) -> bool {
        authorize_system(self.viewer.namespace.state().as_ref(), &self.viewer.rights, Privilege::System(privilege)).is_ok()
    }

    fn caches(&self) -> Computed {
        let caches = Arc::clone(&self.sources.caches);
        Computed::new(caches_schema(), move |_| {
            let stats = caches.stats();
            let numbers = |of: fn(&lazaret_catalog::caches::CacheStats) -> u64| -> ArrayRef {
                Arc::new(stats.iter().map(|cache| i64::try_from(of(cache)).unwrap_or(i64::MAX)).collect::<Int64Array>())
            };
            let columns: Vec<ArrayRef> = vec![
                Arc::new(stats.iter().map(|cache| Some(cache.name)).collect::<StringArray>()),
                numbers(|cache| cache.hits),
                numbers(|cache| cache.misses),
                numbers(|cache| cache.evictions),
                numbers(|cache| cache.entries),
                numbers(|cache| cache.bytes),
                numbers(|cache| cache.limit_bytes),
            ];
            let batch = RecordBatch::try_new(caches_schema(), columns).map_err(Error::internal);
            async move { batch }.boxed()
        })
    }

    /// As SHOW GRANTS, and SHOW POLICIES with SHOW MASKING POLICIES.
    fn access(&self, schema: SchemaRef, rows: fn(&State, &Authority) -> crate::error::Result<RecordBatch>) -> Computed {
        let viewer = self.viewer.clone();
        Computed::new(schema, move |_| {
            let batch = rows(viewer.namespace.state(), &viewer.rights);
            async move { batch }.boxed()
        })
    }

    /// What runs, and who is here: one's own, or everyone's.
    fn work(
        &self,
        schema: SchemaRef,
        rows: impl Fn(&Watched<'_>) -> crate::error::Result<RecordBatch> + Send + Sync + 'static,
    ) -> Computed {
        let (viewer, sources) = (self.viewer.clone(), self.sources.clone());
        let sees_all = self.holds(SystemPrivilege::ManageQueries);
        Computed::new(schema, move |_| {
            let batch = rows(&Watched { viewer: &viewer, sources: &sources, sees_all });
            async move { batch }.boxed()
        })
    }

    fn settings(&self) -> Computed {
        let session = Arc::clone(&self.session);
        Computed::new(settings_schema(), move |_| {
            let settings = shown_settings(&session.state.lock());
            let columns: Vec<ArrayRef> = vec![
                Arc::new(settings.iter().map(|it| Some(it.name)).collect::<StringArray>()),
                Arc::new(settings.iter().map(|it| Some(it.value.as_str())).collect::<StringArray>()),
                Arc::new(settings.iter().map(|it| Some(it.about)).collect::<StringArray>()),
            ];
            let batch = RecordBatch::try_new(settings_schema(), columns).map_err(Error::internal);
            async move { batch }.boxed()
        })
    }
}

impl fmt::Debug for ServerSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSchema").finish_non_exhaustive()
    }
}

#[async_trait]
impl SchemaProvider for ServerSchema {
    fn table_names(&self) -> Vec<String> {
        [AUDIT, CACHES, GRANTS, POLICIES, QUERIES, SESSIONS, SETTINGS]
            .into_iter()
            .filter(|name| self.shows(name))
            .map(str::to_owned)
            .collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(match name {
            _ if !self.shows(name) => None,
            AUDIT => Some(audit_table(&self.sources.audit)?),
            CACHES => Some(Arc::new(self.caches())),
            GRANTS => Some(Arc::new(self.access(access::all_grants_schema(), access::all_grants))),
            POLICIES => Some(Arc::new(self.access(access::all_policies_schema(), access::all_policies))),
            QUERIES => Some(Arc::new(self.work(work::queries_schema(), work::queries))),
            SESSIONS => Some(Arc::new(self.work(work::sessions_schema(), work::sessions))),
            SETTINGS => Some(Arc::new(self.settings())),
            _ => None,
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        self.shows(name)
    }
}

fn caches_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let numbers = ["hits", "misses", "evictions", "entries", "bytes", "limit_bytes"];
        let numbers = numbers.map(|name| Field::new(name, DataType::Int64, false));
        Arc::new(Schema::new([vec![Field::new("name", DataType::Utf8, false)], numbers.to_vec()].concat()))
    });
    Arc::clone(&SCHEMA)
}

fn settings_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let fields = ["name", "value", "description"].map(|name| Field::new(name, DataType::Utf8, false));
        Arc::new(Schema::new(fields.to_vec()))
    });
    Arc::clone(&SCHEMA)
}
