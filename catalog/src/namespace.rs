//! The names that one statement of one principal can resolve. What it may not see is not there, and everything that it
//! resolves is governed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{LogicalPlan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as DfStatement;
use lazaret_auth::grant::{authorize, authorize_read, is_visible};
use lazaret_auth::{Authority, Denied, Grant, ObjectPath, Privilege, RowPolicy, RowSecurity, TableId};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::governed::failure::{classify, find};
use crate::governed::view::ViewQuery;
use crate::governed::{
    AppliedPolicy, BindError, FailureKind, GovernedTable, PolicyBinder, Touched, TouchedTables, Ungoverned, Witness, identity_functions,
    parse, verify_logical, verify_physical,
};
use crate::lake::{Lake, LakeError, OpenTable, TableSource};
use crate::meta::{Catalog, Definition, Relation, Schema, State};

/// Views inside views.
const MAX_VIEW_DEPTH: usize = 16;

/// Views that one statement may plan or scan, each time counted: views that join views grow as a power of two.
const MAX_VIEWS: usize = 512;

/// Opens stored tables. The lake, in all but tests.
#[async_trait]
pub trait TableOpener: Send + Sync {
    async fn open(&self, source: &TableSource) -> Result<OpenTable, LakeError>;
}

#[async_trait]
impl TableOpener for Lake {
    async fn open(&self, source: &TableSource) -> Result<OpenTable, LakeError> {
        Self::open(self, source).await
    }
}

/// Why a relation that the principal named cannot be read. `detail` is there only for those who may manage the relation
/// (for a policy: its policies; for a view: its owner); it names files, the policy, or tables inside the view.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// Not there, or not visible.
    #[error("table \"{0}\" not found")]
    NotFound(String),
    #[error("{privilege} on \"{name}\" is required")]
    Denied { name: String, privilege: Privilege },
    #[error("not supported yet: {feature}, in \"{name}\"")]
    Unsupported { name: String, feature: String },
    #[error("\"{name}\" is damaged (id {id}){}", shown(detail))]
    Corrupt { name: String, id: String, detail: Option<String> },
    #[error("\"{name}\" cannot be reached (id {id}){}", shown(detail))]
    Storage { name: String, id: String, detail: Option<String> },
    #[error("\"{name}\" is closed: a policy no longer binds{}", shown(detail))]
    PolicyNotBinding { name: String, detail: Option<String> },
    /// The view's query no longer plans with its owner's rights.
    #[error("view \"{name}\" can no longer be read (id {id}){}", shown(detail))]
    BrokenView { name: String, id: String, detail: Option<String> },
    #[error("more than {MAX_VIEW_DEPTH} views inside each other, or {MAX_VIEWS} in one statement")]
    TooManyViews,
    #[error("reading \"{name}\" failed (id {id})")]
    Internal { name: String, id: String },
}

impl CatalogError {
    /// The one inside an error of DataFusion, where there is one.
    pub fn of(error: &DataFusionError) -> Option<&Self> {
        find(error, |it| it.downcast_ref::<Self>())
    }
}

fn shown(detail: &Option<String>) -> String {
    detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default()
}

impl From<CatalogError> for DataFusionError {
    fn from(error: CatalogError) -> Self {
        Self::External(Box::new(error))
    }
}

/// Counts the views of a statement.
#[derive(Default)]
pub(crate) struct ViewBudget(AtomicUsize);

impl ViewBudget {
    pub(crate) fn spend(&self) -> Result<(), CatalogError> {
        if self.0.fetch_add(1, Ordering::Relaxed) < MAX_VIEWS { Ok(()) } else { Err(CatalogError::TooManyViews) }
    }
}

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
    opened: OnceByTable<OpenTable>,
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
        let touched = Arc::new(TouchedTables::default());
        Ok(Self {
            rights: Arc::new(reader.clone()),
            depth: 0,
            default_catalog: default_catalog.into(),
            default_schema: default_schema.into(),
            reserved: Arc::default(),
            witness: Witness { touched: Arc::clone(&touched), ..Witness::default() },
            resolved: Arc::default(),
            statement: Arc::new(Statement { state, reader, opener, template, opened: Mutex::default(), touched, views: Arc::default() }),
        })
    }

    /// A schema of the server, found under this name in every catalog. Its tables must show a principal only what is its.
    pub fn with_reserved_schema(mut self, name: &str, provider: Arc<dyn SchemaProvider>) -> Self {
        Arc::make_mut(&mut self.reserved).insert(name.to_owned(), provider);
        self
    }

    /// The state in which the statement is planned: the template, with these names and the identity functions.
    pub fn session_state(&self) -> SessionState {
        let template = self.statement.template.clone();
        let config = template.config().clone().with_default_catalog_and_schema(&*self.default_catalog, &*self.default_schema);
        SessionStateBuilder::new_from_existing(template).with_config(config).with_catalog_list(Arc::new(self.clone())).build()
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
        let bind = |schema: &SchemaRef| {
            let rows = PolicyBinder::new(&self.statement.template).bind_rows(&grant, schema);
            rows.map_err(|error| self.not_binding(&name, path, &error))
        };
        let (label, witness): (Arc<str>, _) = (name.as_str().into(), self.witness.clone());
        let (table, snapshot) = match &relation.definition {
            Definition::Table { format, location, options, .. } => {
                let source = TableSource { id: relation.id, format: *format, location: location.clone(), options: options.clone() };
                let open = self.open(&source, &name, path).await?;
                let (rows, snapshot) = (bind(&open.binding_schema())?, open.snapshot);
                (GovernedTable::table(&grant, label, open, rows, witness), snapshot)
            }
            Definition::View { query, catalog, schema } => {
                let query = self.plan_view(relation, query, catalog, schema).await;
                let query = query.map_err(|error| self.broken_view(&name, relation, &error))?;
                let rows = bind(&query.schema())?;
                (GovernedTable::view(&grant, label, query, rows, witness), None)
            }
        };
        self.statement.touched.resolved(Touched {
            table: relation.id,
            name: qualified,
            snapshot,
            policies: applied_policies(&grant),
            columns: Default::default(),
            restricted: table.is_restricted(),
        });
        Ok(Arc::new(table))
    }

    async fn open(&self, source: &TableSource, name: &str, path: ObjectPath) -> Result<OpenTable, CatalogError> {
        let cell = Arc::clone(self.statement.opened.lock().entry(source.id).or_default());
        let opened = cell.get_or_try_init(|| self.statement.opener.open(source)).await;
        opened.cloned().map_err(|error| {
            let id = uuid::Uuid::new_v4().simple().to_string();
            tracing::error!(error_id = %id, table = name, error = &error as &dyn std::error::Error, "a table cannot be opened");
            let name = name.to_owned();
            let detail = self.manages(path, Privilege::Manage).then(|| error.to_string());
            match (classify(&error), error) {
                (_, LakeError::Unsupported { feature }) => CatalogError::Unsupported { name, feature },
                (FailureKind::Unavailable, _) => CatalogError::Storage { name, id, detail },
                (FailureKind::DataLoss, _) => CatalogError::Corrupt { name, id, detail },
                _ => CatalogError::Internal { name, id },
            }
        })
    }

    /// The query of a view, with its owner's stored rights and the names of its day, under the reader's policies.
    async fn plan_view(&self, view: &Relation, query: &str, catalog: &str, schema: &str) -> Result<ViewQuery, DataFusionError> {
        if self.depth >= MAX_VIEW_DEPTH {
            return Err(CatalogError::TooManyViews.into());
        }
        self.statement.views.spend()?;
        let owner = Authority::stored(self.statement.state.as_ref(), &view.owner);
        let inside = Self {
            statement: Arc::clone(&self.statement),
            rights: Arc::new(owner),
            depth: self.depth + 1,
            default_catalog: catalog.into(),
            default_schema: schema.into(),
            reserved: Arc::clone(&self.reserved),
            witness: Witness { touched: Arc::clone(&self.statement.touched), ..Witness::default() },
            resolved: Arc::default(),
        };
        let query = parse::query(query).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let state = inside.session_state();
        let plan = state.statement_to_plan(DfStatement::Statement(Box::new(query))).await?;
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        ViewQuery::try_new(plan, Arc::clone(&inside.witness.leaves), Arc::clone(&self.statement.views))
    }

    /// What of a view's failure the reader may know: not the names of the tables inside it.
    fn broken_view(&self, name: &str, view: &Relation, error: &DataFusionError) -> CatalogError {
        let id = uuid::Uuid::new_v4().simple().to_string();
        tracing::error!(error_id = %id, view = name, error = %error, "a view cannot be planned");
        let name = name.to_owned();
        let is_owner = self.depth == 0 && *self.statement.reader.name() == view.owner;
        let detail = is_owner.then(|| error.strip_backtrace());
        match CatalogError::of(error) {
            Some(CatalogError::TooManyViews) => CatalogError::TooManyViews,
            Some(CatalogError::Unsupported { feature, .. }) => CatalogError::Unsupported { name, feature: feature.clone() },
            Some(CatalogError::Corrupt { .. }) => CatalogError::Corrupt { name, id, detail: None },
            Some(CatalogError::Storage { .. }) => CatalogError::Storage { name, id, detail: None },
            Some(CatalogError::PolicyNotBinding { .. }) => CatalogError::PolicyNotBinding { name, detail: None },
            Some(CatalogError::Internal { .. }) => CatalogError::Internal { name, id },
            _ => CatalogError::BrokenView { name, id, detail },
        }
    }

    fn not_binding(&self, name: &str, path: ObjectPath, error: &BindError) -> CatalogError {
        tracing::error!(table = name, error = %error, "a policy no longer binds");
        let detail = self.manages(path, Privilege::ManagePolicies).then(|| error.to_string());
        CatalogError::PolicyNotBinding { name: name.to_owned(), detail }
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

fn applied_policies(grant: &Grant) -> std::collections::BTreeSet<AppliedPolicy> {
    let RowSecurity::On { permissive, restrictive } = grant.rows() else { return Default::default() };
    let applied = |policy: &Arc<RowPolicy>| AppliedPolicy { id: policy.id, name: policy.name.clone(), version: policy.version };
    permissive.iter().chain(restrictive).map(applied).collect()
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("principal", self.statement.reader.name()).finish_non_exhaustive()
    }
}

/// Every name is a catalog and every name a schema: whatever is missing, it is the table that is not found.
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
