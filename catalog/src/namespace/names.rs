//! The names as DataFusion asks for them. Every name is a catalog and every name a schema: whatever is missing, it is the
//! table that is not found.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::TableType;

use super::Namespace;
use crate::meta::Definition;

impl CatalogProviderList for Namespace {
    fn register_catalog(&self, _name: String, _catalog: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        self.visible_catalogs().into_iter().map(|catalog| catalog.name.clone()).collect()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        Some(Arc::new(CatalogNames { namespace: self.clone(), catalog: name.to_owned() }))
    }
}

#[derive(Debug)]
struct CatalogNames {
    namespace: Namespace,
    catalog: String,
}

impl CatalogProvider for CatalogNames {
    fn schema_names(&self) -> Vec<String> {
        let state = self.namespace.state();
        let stored = state.catalog(&self.catalog).into_iter().flat_map(|catalog| self.namespace.visible_schemas(catalog));
        let reserved = self.namespace.reserved_schemas().map(str::to_owned);
        stored.map(|schema| schema.name.clone()).chain(reserved).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let namespace = self.namespace.clone();
        Some(Arc::new(SchemaNames { namespace, catalog: self.catalog.clone(), schema: name.to_owned() }))
    }
}

#[derive(Debug)]
struct SchemaNames {
    namespace: Namespace,
    catalog: String,
    schema: String,
}

#[async_trait]
impl SchemaProvider for SchemaNames {
    fn table_names(&self) -> Vec<String> {
        if let Some(reserved) = self.namespace.reserved.get(&self.schema) {
            return reserved.table_names();
        }
        let state = self.namespace.state();
        let schema = state.catalog(&self.catalog).and_then(|catalog| state.schema(catalog.id, &self.schema));
        let relations = schema.into_iter().flat_map(|schema| self.namespace.visible_relations(schema));
        relations.map(|relation| relation.name.clone()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let table = self.namespace.table(&self.catalog, &self.schema, name).await?;
        Ok(table.map(|table| table as Arc<dyn TableProvider>))
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>, DataFusionError> {
        if let Some(reserved) = self.namespace.reserved.get(&self.schema) {
            return reserved.table_type(name).await;
        }
        let found = self.namespace.find(&self.catalog, &self.schema, name);
        Ok(found.map(|(relation, _)| match relation.definition {
            Definition::Table { .. } => TableType::Base,
            Definition::View { .. } => TableType::View,
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        match self.namespace.reserved.get(&self.schema) {
            Some(reserved) => reserved.table_exist(name),
            None => self.namespace.find(&self.catalog, &self.schema, name).is_some(),
        }
    }
}
