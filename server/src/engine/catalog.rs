//! What drivers ask about the catalog, answered by the namespace of the one who asks.

use std::sync::Arc;

use lazaret_catalog::meta::Definition;
use lazaret_catalog::namespace::Namespace;

use super::Engine;
use super::objects::{CatalogObject, ObjectFilter};
use crate::error::Result;
use crate::flight::canonical::canonical_schema;
use crate::session::Session;

impl Engine {
    /// The catalogs that the session's principal may see.
    pub async fn visible_catalogs(&self, session: &Arc<Session>) -> Result<Vec<String>> {
        let namespace = self.namespace(session)?;
        Ok(namespace.visible_catalogs().into_iter().map(|catalog| catalog.name.clone()).collect())
    }

    /// The schemas that the session's principal may see, with their catalog; those that `filter` asks for.
    pub async fn visible_schemas(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<(String, String)>> {
        let namespace = self.namespace(session)?;
        let mut found = Vec::new();
        for catalog in namespace.visible_catalogs().into_iter().filter(|catalog| filter.matches_catalog(&catalog.name)) {
            let stored = namespace.visible_schemas(catalog).into_iter().map(|schema| schema.name.clone());
            let reserved = namespace.reserved_schemas().map(str::to_owned);
            let mut names: Vec<String> = stored.chain(reserved).filter(|name| filter.matches_schema(name)).collect();
            names.sort_unstable();
            found.extend(names.into_iter().map(|schema| (catalog.name.clone(), schema)));
        }
        Ok(found)
    }

    /// The tables and views that the session's principal may see; those that `filter` asks for.
    pub async fn visible_objects(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<CatalogObject>> {
        let namespace = self.namespace(session)?;
        let mut found = Vec::new();
        for (catalog, schema) in self.visible_schemas(session, filter).await? {
            for (name, table_type) in names_in(&namespace, &catalog, &schema).await {
                if !filter.matches(&catalog, &schema, &name, table_type) {
                    continue;
                }
                let columns = if filter.with_columns { columns_of(&namespace, &catalog, &schema, &name).await } else { None };
                found.push(CatalogObject { catalog: catalog.clone(), schema: schema.clone(), name, table_type, columns });
            }
        }
        Ok(found)
    }
}

async fn names_in(namespace: &Namespace, catalog: &str, schema: &str) -> Vec<(String, &'static str)> {
    use datafusion::catalog::CatalogProviderList;
    if namespace.reserved_schemas().any(|reserved| reserved == schema) {
        let provider = namespace.catalog(catalog).and_then(|catalog| catalog.schema(schema));
        return provider
            .map(|provider| provider.table_names())
            .unwrap_or_default()
            .into_iter()
            .map(|name| (name, "SYSTEM TABLE"))
            .collect();
    }
    let state = namespace.state();
    let Some(schema) = state.catalog(catalog).and_then(|catalog| state.schema(catalog.id, schema)) else { return Vec::new() };
    let kind = |definition: &Definition| match definition {
        Definition::Table { .. } => "TABLE",
        Definition::View { .. } => "VIEW",
    };
    namespace.visible_relations(schema).into_iter().map(|relation| (relation.name.clone(), kind(&relation.definition))).collect()
}

/// `None` where the table cannot be opened: one damaged table must not hide the others.
async fn columns_of(namespace: &Namespace, catalog: &str, schema: &str, name: &str) -> Option<arrow::datatypes::SchemaRef> {
    use datafusion::catalog::TableProvider;
    let table = namespace.table(catalog, schema, name).await.ok()??;
    Some(canonical_schema(&table.schema()))
}
