//! The names that one statement of one principal can resolve. What it may not see is not there, and everything that it
//! resolves is governed.

mod error;
mod insert;
mod names;
mod policies;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use lazaret_auth::grant::{authorize, authorize_read, is_visible};
use lazaret_auth::{Authority, Denied, MaskKey, ObjectPath, PolicyText, Privilege, TableId};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::governed::failure::classify;
use crate::governed::leakproof::PlainColumns;
use crate::governed::{
    FailureKind, GovernedTable, MaskKeys, Policies, Touched, TouchedTables, Ungoverned, Witness, identity_functions, verify_logical,
    verify_physical,
};
use crate::lake::territory::owns_some_of;
use crate::lake::{DeltaTarget, Lake, LakeError, OpenTable, TableSource};
use crate::meta::{Catalog, Definition, Relation, Schema, State};

pub use error::CatalogError;
pub use insert::InsertTarget;
pub(crate) use policies::Governed;
use policies::applied_policies;
pub(crate) use views::ViewBudget;

/// Opens stored tables. The lake, in all but tests.
#[async_trait]
pub trait TableOpener: Send + Sync {
    async fn open(&self, source: &TableSource) -> Result<OpenTable, LakeError>;

    /// A Delta table to which rows are to be added.
    async fn open_target(&self, _source: &TableSource) -> Result<DeltaTarget, LakeError> {
        Err(LakeError::Unsupported { feature: "INSERT".to_owned() })
    }
}

#[async_trait]
impl TableOpener for Lake {
    async fn open(&self, source: &TableSource) -> Result<OpenTable, LakeError> {
        Self::open(self, source).await
    }

    async fn open_target(&self, source: &TableSource) -> Result<DeltaTarget, LakeError> {
        DeltaTarget::open(self, source).await
    }
}

/// In the place of the key of one execution, where a test must know it.
#[cfg(test)]
pub(crate) struct FixedQueryKey(pub MaskKey);

type OnceByTable<T> = Mutex<HashMap<TableId, Arc<OnceCell<T>>>>;

/// What all namespaces of one statement share: its own, and those of the views inside it.
struct Statement {
    state: Arc<State>,
    /// The one who asks: policies and identity functions are always about it.
    reader: Authority,
    opener: Arc<dyn TableOpener>,
    /// Configuration, rules and functions, the identity functions among them.
    template: SessionState,
    /// One version of a table for all its uses.
    opened: Arc<OnceByTable<OpenTable>>,
    mask_keys: MaskKeys,
    touched: Arc<TouchedTables>,
    views: Arc<ViewBudget>,
}

/// The catalogs, schemas and tables of one statement.
#[derive(Clone)]
pub struct Namespace {
    statement: Arc<Statement>,
    /// With whose privileges names are resolved: the reader's, or inside a view its owner's.
    rights: Arc<Authority>,
    depth: usize,
    /// Whether a policy is being bound, with its creator in the reader's place.
    in_policy: bool,
    default_catalog: Arc<str>,
    default_schema: Arc<str>,
    reserved: Arc<BTreeMap<String, Arc<dyn SchemaProvider>>>,
    witness: Witness,
    resolved: Arc<OnceByTable<Arc<GovernedTable>>>,
}

impl Namespace {
    /// `template` has configuration (see [`session_config`](crate::governed::session_config)), rules and functions;
    /// its own catalogs are not looked at.
    pub fn new(
        state: Arc<State>,
        reader: Authority,
        opener: Arc<dyn TableOpener>,
        mut template: SessionState,
        default_catalog: &str,
        default_schema: &str,
    ) -> Result<Self, DataFusionError> {
        for function in identity_functions(state.as_ref(), &reader) {
            template.register_udf(Arc::new(function))?;
        }
        // The one moment that now() means in the policies of this statement.
        template.mark_start_execution();
        let touched = Arc::new(TouchedTables::default());
        let query = MaskKey::of_one_query().map_err(|error| DataFusionError::External(Box::new(error)))?;
        #[cfg(test)]
        let query = template.config().get_extension::<FixedQueryKey>().map_or(query, |fixed| fixed.0.clone());
        let global = template.config().get_extension::<MaskKey>().map(|key| key.as_ref().clone());
        let mask_keys = MaskKeys { global, query };
        Ok(Self {
            rights: Arc::new(reader.clone()),
            depth: 0,
            in_policy: false,
            default_catalog: default_catalog.into(),
            default_schema: default_schema.into(),
            reserved: Arc::default(),
            witness: Witness {
                touched: Arc::clone(&touched),
                #[cfg(test)]
                sabotage: template.config().get_extension::<crate::governed::sabotage::Sabotage>().map(|sabotage| *sabotage),
                ..Witness::default()
            },
            resolved: Arc::default(),
            statement: Arc::new(Statement {
                state,
                reader,
                opener,
                template,
                opened: Arc::default(),
                mask_keys,
                touched,
                views: Arc::default(),
            }),
        })
    }

    /// A schema of the server, found under this name in every catalog. Its tables must show a principal only what is its.
    pub fn with_reserved_schema(mut self, name: &str, provider: Arc<dyn SchemaProvider>) -> Self {
        Arc::make_mut(&mut self.reserved).insert(name.to_owned(), provider);
        self
    }

    /// The state in which the statement is planned: the template, with these names and the identity functions.
    pub fn session_state(&self) -> SessionState {
        // No builder: that registers every function anew.
        let mut state = self.statement.template.clone();
        let names = &mut state.config_mut().options_mut().catalog;
        (names.default_catalog, names.default_schema) = (self.default_catalog.to_string(), self.default_schema.to_string());
        state.register_catalog_list(Arc::new(self.clone()));
        state
    }

    /// The metadata that this statement sees.
    pub fn state(&self) -> &Arc<State> {
        &self.statement.state
    }

    /// What has been touched so far.
    pub fn touched(&self) -> Vec<Touched> {
        self.statement.touched.list()
    }

    /// The last checks, before a plan is optimised and before it runs.
    pub fn verify_logical(&self, plan: &LogicalPlan) -> Result<(), Ungoverned> {
        verify_logical(plan, &self.witness.leaves)
    }

    pub fn verify_physical(&self, plan: &dyn ExecutionPlan) -> Result<(), Ungoverned> {
        verify_physical(plan, &self.witness.leaves)
    }

    /// Catalogs of which something is granted, in order of name.
    pub fn visible_catalogs(&self) -> Vec<&Arc<Catalog>> {
        let state = &self.statement.state;
        let visible = |catalog: &&Arc<Catalog>| {
            self.sees(ObjectPath::catalog(catalog.id)) || state.schemas_in(catalog.id).any(|schema| self.sees_schema(schema))
        };
        state.catalogs().filter(visible).collect()
    }

    /// Schemas that are granted, or in which something is. The reserved ones are not among them.
    pub fn visible_schemas(&self, catalog: &Catalog) -> Vec<&Arc<Schema>> {
        self.statement.state.schemas_in(catalog.id).filter(|schema| self.sees_schema(schema)).collect()
    }

    pub fn visible_relations(&self, schema: &Schema) -> Vec<&Arc<Relation>> {
        let path = |relation: &Relation| ObjectPath::table(schema.catalog, schema.id, relation.id);
        self.statement.state.relations_in(schema.id).filter(|relation| self.sees(path(relation))).collect()
    }

    /// The names of the reserved schemas.
    pub fn reserved_schemas(&self) -> impl Iterator<Item = &str> {
        self.reserved.keys().map(String::as_str)
    }

    /// A stored relation that is visible, not opened.
    pub fn find(&self, catalog: &str, schema: &str, name: &str) -> Option<(&Arc<Relation>, ObjectPath)> {
        let state = &self.statement.state;
        let schema = state.schema(state.catalog(catalog)?.id, schema)?;
        let relation = state.relation(schema.id, name)?;
        let path = ObjectPath::table(schema.catalog, schema.id, relation.id);
        self.sees(path).then_some((relation, path))
    }

    /// A relation, opened and governed. `None`: not there, or not visible. Asked twice, it is the same version.
    pub async fn table(&self, catalog: &str, schema: &str, name: &str) -> Result<Option<Arc<GovernedTable>>, DataFusionError> {
        if let Some(provider) = self.reserved.get(schema) {
            return self.reserved_table(provider.as_ref(), catalog, schema, name).await;
        }
        let Some((relation, path)) = self.find(catalog, schema, name) else { return Ok(None) };
        let cell = Arc::clone(self.resolved.lock().entry(relation.id).or_default());
        let resolved = cell.get_or_try_init(|| self.resolve(relation, path)).await;
        match resolved {
            Ok(table) => Ok(Some(Arc::clone(table))),
            Err(CatalogError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn reserved_table(
        &self,
        provider: &dyn SchemaProvider,
        catalog: &str,
        schema: &str,
        name: &str,
    ) -> Result<Option<Arc<GovernedTable>>, DataFusionError> {
        let known = *catalog == *self.default_catalog || self.visible_catalogs().iter().any(|it| it.name == catalog);
        if !known {
            return Ok(None);
        }
        let table = provider.table(name).await?;
        Ok(table.map(|table| Arc::new(GovernedTable::reserved(format!("{schema}.{name}").into(), table, self.witness.clone()))))
    }

    async fn resolve(&self, relation: &Relation, path: ObjectPath) -> Result<Arc<GovernedTable>, CatalogError> {
        let Statement { state, reader, .. } = self.statement.as_ref();
        let qualified = state.qualified_name(relation.id).unwrap_or_else(|| [String::new(), String::new(), relation.name.clone()]);
        let name = qualified.join(".");
        let grant = authorize_read(state.as_ref(), &self.rights, reader, path).map_err(|denied| match denied {
            Denied::NotVisible => CatalogError::NotFound(name.clone()),
            Denied::Missing(privilege) => CatalogError::Denied { name: name.clone(), privilege },
        })?;
        let (label, witness): (Arc<str>, _) = (name.as_str().into(), self.witness.clone());
        let (table, snapshot) = match &relation.definition {
            Definition::Table { format, location, options, .. } => {
                let source = TableSource { id: relation.id, format: *format, location: location.clone(), options: options.clone() };
                let open = self.open(&source, &name, path).await?;
                let (schema, snapshot) = (open.binding_schema(), open.snapshot);
                let masks = self.bind_masks(&grant, path, &name, &schema)?;
                let governed = Governed { relation, path, name: &name, schema: &schema };
                let (rows, query) = self.bind_rows(grant.rows(), PolicyText::Using, &governed, &open.provider).await?;
                let plain = query.as_ref().map_or(PlainColumns::Every, |query| PlainColumns::Only(query.plain_columns()));
                let open = query.map_or(open, |query| OpenTable { provider: Arc::new(query), snapshot });
                (GovernedTable::table(&grant, label, open, plain, Policies { rows, masks }, witness), snapshot)
            }
            Definition::View { query, catalog, schema, owner_groups } => {
                let query = self.plan_view(relation, query, catalog, schema, owner_groups).await;
                let query = query.map_err(|error| self.broken_view(&name, relation, &error))?;
                let query = Arc::new(query);
                let provider = Arc::clone(&query) as Arc<dyn TableProvider>;
                let masks = self.bind_masks(&grant, path, &name, &query.schema())?;
                let governed = Governed { relation, path, name: &name, schema: &query.schema() };
                let (rows, filtered) = self.bind_rows(grant.rows(), PolicyText::Using, &governed, &provider).await?;
                let query = filtered.map_or(query, Arc::new);
                (GovernedTable::view(&grant, label, query, Policies { rows, masks }, witness), None)
            }
        };
        // Every column is denied: what is left is no table.
        if table.schema().fields().is_empty() {
            return Err(CatalogError::NotFound(name));
        }
        self.statement.touched.resolved(Touched {
            table: relation.id,
            name: qualified,
            snapshot,
            policies: applied_policies(&grant),
            columns: Default::default(),
            written: Default::default(),
            restricted: table.is_restricted(),
            lifted: grant.lifted().map(|lifted| lifted.access),
        });
        Ok(Arc::new(table))
    }

    async fn open(&self, source: &TableSource, name: &str, path: ObjectPath) -> Result<OpenTable, CatalogError> {
        let cell = Arc::clone(self.statement.opened.lock().entry(source.id).or_default());
        let opened = cell.get_or_try_init(|| async {
            let open = self.statement.opener.open(source).await?;
            self.refuse_files_of_others(source, &open)?;
            Ok::<_, LakeError>(open)
        });
        opened.await.cloned().map_err(|error| self.not_opened(error, name, path))
    }

    fn not_opened(&self, error: LakeError, name: &str, path: ObjectPath) -> CatalogError {
        let id = uuid::Uuid::new_v4().simple().to_string();
        tracing::error!(error_id = %id, table = name, error = &error as &dyn std::error::Error, "a table cannot be opened");
        let name = name.to_owned();
        let detail = self.manages(path, Privilege::Manage).then(|| error.to_string());
        match (classify(&error), error) {
            (_, LakeError::Unsupported { feature }) => CatalogError::Unsupported { name, feature },
            (_, LakeError::Mismatch { .. }) => {
                let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
                CatalogError::Unsupported { name, feature: format!("files that do not fit together{detail}") }
            }
            (FailureKind::Unavailable, _) => CatalogError::Storage { name, id, detail },
            (FailureKind::DataLoss, _) => CatalogError::Corrupt { name, id, detail },
            _ => CatalogError::Internal { name, id },
        }
    }

    /// A table whose metadata name files of another would show them past the other's policies. Asked whenever a table is
    /// opened: the other may have been registered after it.
    fn refuse_files_of_others(&self, source: &TableSource, open: &OpenTable) -> Result<(), LakeError> {
        let folders = open.folders_outside(&source.location)?;
        let others = self.statement.state.relations().filter(|relation| relation.id != source.id);
        match folders.is_empty() || !others.into_iter().any(|relation| owns_some_of(relation, folders.iter().map(String::as_str))) {
            true => Ok(()),
            false => Err(LakeError::FilesOfAnother),
        }
    }

    /// Whether the one who asks may know the inner things of an object. Never inside a view: there the owner may.
    fn manages(&self, path: ObjectPath, privilege: Privilege) -> bool {
        self.depth == 0 && authorize(self.statement.state.as_ref(), &self.statement.reader, path, privilege).is_ok()
    }

    fn sees(&self, path: ObjectPath) -> bool {
        is_visible(self.statement.state.as_ref(), &self.rights, path)
    }

    fn sees_schema(&self, schema: &Schema) -> bool {
        let path = |relation: &Relation| ObjectPath::table(schema.catalog, schema.id, relation.id);
        self.sees(ObjectPath::schema(schema.catalog, schema.id))
            || self.statement.state.relations_in(schema.id).any(|relation| self.sees(path(relation)))
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("principal", self.statement.reader.name()).finish_non_exhaustive()
    }
}
