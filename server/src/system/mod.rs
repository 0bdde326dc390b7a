//! The schemas of the server that are found in every catalog: `information_schema` and `system`. Each table is computed
//! when it is scanned, out of what the one who asks may see.

mod computed;
mod information_schema;
mod server;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
mod work;

use std::sync::Arc;

use datafusion::catalog::SchemaProvider;
use lazaret_auth::Authority;
use lazaret_catalog::caches::Caches;
use lazaret_catalog::namespace::Namespace;

use crate::activity::Activity;
use crate::audit::AuditLog;
use crate::session::{Session, Sessions};
use information_schema::InformationSchema;
use server::ServerSchema;

const INFORMATION_SCHEMA: &str = "information_schema";
const SYSTEM: &str = "system";

/// What the server shows of itself.
#[derive(Clone)]
pub struct SystemSources {
    pub caches: Arc<Caches>,
    pub audit: AuditLog,
    pub activity: Arc<Activity>,
    pub sessions: Arc<Sessions>,
}

/// One who asks, and what it sees.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    pub namespace: Namespace,
    pub rights: Authority,
}

/// For [`Namespace::with_reserved_schema`] of the namespace that is given; `rights` are its reader's. Costs no look-up.
pub fn reserved_schemas(
    namespace: &Namespace,
    rights: &Authority,
    session: &Arc<Session>,
    sources: &SystemSources,
) -> Vec<(&'static str, Arc<dyn SchemaProvider>)> {
    let viewer = |namespace| Viewer { namespace, rights: rights.clone() };
    let server: Arc<dyn SchemaProvider> =
        Arc::new(ServerSchema { viewer: viewer(namespace.clone()), session: Arc::clone(session), sources: sources.clone() });
    // What `information_schema` lists has the reserved schemas in it, so that they are listed, and views on them open;
    // those inside know of stored tables only, which ends the recursion.
    let inner = Arc::new(InformationSchema { viewer: viewer(namespace.clone()) });
    let listed = namespace.clone().with_reserved_schema(INFORMATION_SCHEMA, inner).with_reserved_schema(SYSTEM, Arc::clone(&server));
    vec![(INFORMATION_SCHEMA, Arc::new(InformationSchema { viewer: viewer(listed) })), (SYSTEM, server)]
}
