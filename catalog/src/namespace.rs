//! The names that one statement of one principal can resolve. What it may not see is not there, and everything that it
//! resolves is governed.

mod insert;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as DfStatement;
use lazaret_auth::grant::{authorize, authorize_read, is_visible};
use lazaret_auth::{
    Authority, Denied, Grant, GroupName, MaskKey, ObjectId, ObjectPath, PolicyText, PrincipalName, Privilege, RowPolicy, RowSecurity,
    TableId, TextSubqueries,
};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::governed::bind::{bound_columns, columns_of, combined};
use crate::governed::failure::{classify, find};
use crate::governed::leakproof::PlainColumns;
use crate::governed::size::{PlanSize, TooLarge};
use crate::governed::subquery;
use crate::governed::view::ViewQuery;
use crate::governed::{
    AppliedPolicy, BindError, FailureKind, GovernedTable, MaskKeys, Masks, NewBinding, Policies, PolicyBinder, Rows, Touched,
    TouchedTables, Ungoverned, Witness, identity_functions, parse, verify_logical, verify_physical,
};
use crate::lake::territory::owns_some_of;
use crate::lake::{DeltaTarget, Lake, LakeError, OpenTable, TableSource};
use crate::meta::{Catalog, Definition, Relation, Schema, State};

pub use insert::InsertTarget;

/// Views inside views.
const MAX_VIEW_DEPTH: usize = 16;

/// Views that one statement may plan or scan, each time counted: views that join views grow as a power of two.
const MAX_VIEWS: usize = 512;

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
    /// Rows cannot be added to what is no Delta table.
    #[error("\"{name}\" is {what}: rows can be added to Delta tables only")]
    NotInsertable { name: String, what: &'static str },
    /// The row policies let no row in.
    #[error("the row policies of \"{0}\" do not let these rows in; nothing was written")]
    RowsRefused(String),
    #[error("\"{0}\" or its policies were changed while the statement ran; nothing was written")]
    RulesChanged(String),
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
    #[error(transparent)]
    TooLarge(TooLarge),
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

/// What policies are bound to: a relation, and its columns as they are now.
pub(crate) struct Governed<'a> {
    pub relation: &'a Relation,
    pub path: ObjectPath,
    pub name: &'a str,
    pub schema: &'a SchemaRef,
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

    fn bind_masks(&self, grant: &Grant, path: ObjectPath, name: &str, schema: &SchemaRef) -> Result<Masks, CatalogError> {
        let masks = PolicyBinder::new(&self.statement.template).bind_masks(grant, schema, &self.statement.mask_keys);
        masks.map_err(|error| self.not_binding(name, path, &error))
    }

    /// The rows that policies show, or let come in: a predicate over the raw columns or, where a policy asks other tables,
    /// all the rows of a query over the raw table.
    pub(crate) async fn bind_rows(
        &self,
        security: &RowSecurity,
        text: PolicyText,
        governed: &Governed<'_>,
        raw: &Arc<dyn TableProvider>,
    ) -> Result<(Rows, Option<ViewQuery>), CatalogError> {
        let Governed { path, name, schema, .. } = *governed;
        let policies = match security {
            RowSecurity::On { permissive, restrictive } => (permissive, restrictive),
            RowSecurity::Off => return Ok((Rows::All, None)),
        };
        if !policies.0.iter().chain(policies.1).any(|policy| policy.subqueries_of(text).is_some()) {
            let rows = PolicyBinder::new(&self.statement.template).bind_rows(security, text, schema);
            return rows.map(|rows| (rows, None)).map_err(|error| self.not_binding(name, path, &error));
        }
        let witness = Witness { touched: Arc::clone(&self.statement.touched), ..Witness::default() };
        let mut bound = (Vec::new(), Vec::new());
        for (policies, bound) in [(policies.0, &mut bound.0), (policies.1, &mut bound.1)] {
            for policy in policies {
                bound.push(self.bind_policy(policy, text, governed, &witness).await?);
            }
        }
        let Some(visible) = combined(bound.0, bound.1) else { return Ok((Rows::None, None)) };
        let raw = GovernedTable::beneath(Arc::clone(raw), name.into(), witness.clone());
        let state = self.session_state();
        let query = subquery::visible_rows(raw, visible, &state, Arc::clone(&witness.leaves), Arc::clone(&self.statement.views));
        let query = query.map_err(|error| self.not_binding(name, path, &BindError::Inside(error)))?;
        Ok((Rows::All, Some(query)))
    }

    /// One policy of several of which one asks other tables, over the columns of [`subquery::governed_column`].
    async fn bind_policy(
        &self,
        policy: &RowPolicy,
        text: PolicyText,
        governed: &Governed<'_>,
        witness: &Witness,
    ) -> Result<Expr, CatalogError> {
        let Governed { relation, path, name, schema } = *governed;
        let closed = |reason: String| BindError::Closed { policy: policy.name.clone(), reason };
        let not_binding = |error: BindError| self.not_binding(name, path, &error);
        let Some(subqueries) = policy.subqueries_of(text) else {
            let expr = PolicyBinder::new(&self.statement.template).bind_stored(policy, text, schema).map_err(not_binding)?;
            return subquery::governed(expr).map_err(not_binding);
        };
        let text = policy.text(text).ok_or_else(|| not_binding(closed("it has no expression for this".to_owned())))?;
        let columns = columns_of(policy, schema).map_err(not_binding)?;
        let names = self.inside_policy(&policy.creator, &subqueries, witness)?;
        if names.relations_named(text).map_err(not_binding)? != BTreeSet::from_iter(subqueries.reads.iter().copied()) {
            return Err(not_binding(closed("a table that it reads is gone, or cannot be read by its creator".to_owned())));
        }
        let target = subquery::Target { name: &relation.name, columns };
        let functions = identity_functions(self.statement.state.as_ref(), &self.statement.reader);
        let expr = match subquery::plan(&names, functions, &target, text).await {
            Ok(expr) => expr,
            Err(BindError::Inside(error)) => return Err(self.policy_not_planned(policy, name, path, error)),
            Err(error) => return Err(not_binding(error)),
        };
        if matches!(policy.object, ObjectId::Table(_)) {
            let present = |name: &String| target.columns.get(name.as_str()).map(|field| field.name().clone());
            let expected: BTreeSet<String> = subqueries.columns.iter().filter_map(present).collect();
            if subquery::columns_read(&expr).map_err(not_binding)? != expected {
                return Err(not_binding(closed("a name in it now means another column".to_owned())));
            }
        }
        Ok(expr)
    }

    /// The names in a policy's subqueries: its creator's, with stored rights, under the creator's own policies.
    fn inside_policy(&self, creator: &PrincipalName, subqueries: &TextSubqueries<'_>, witness: &Witness) -> Result<Self, CatalogError> {
        if self.depth >= MAX_VIEW_DEPTH {
            return Err(CatalogError::TooManyViews);
        }
        self.statement.views.spend()?;
        let Statement { state, opener, template, opened, mask_keys, touched, views, .. } = self.statement.as_ref();
        let creator = Authority::stored(state.as_ref(), creator).bound_by(state.as_ref(), subqueries.creator_groups);
        let mut template = template.clone();
        for function in identity_functions(state.as_ref(), &creator) {
            template.register_udf(Arc::new(function)).map_err(|error| {
                tracing::error!(error = %error, "an identity function cannot be registered");
                CatalogError::Internal { name: String::new(), id: uuid::Uuid::new_v4().simple().to_string() }
            })?;
        }
        let statement = Statement {
            state: Arc::clone(state),
            reader: creator.clone(),
            opener: Arc::clone(opener),
            template,
            opened: Arc::clone(opened),
            mask_keys: mask_keys.clone(),
            touched: Arc::clone(touched),
            views: Arc::clone(views),
        };
        Ok(Self {
            statement: Arc::new(statement),
            rights: Arc::new(creator),
            depth: self.depth + 1,
            in_policy: true,
            default_catalog: subqueries.catalog.into(),
            default_schema: subqueries.schema.into(),
            reserved: Arc::default(),
            witness: witness.clone(),
            resolved: Arc::default(),
        })
    }

    /// The stored relations that the subqueries of a policy's text name, as far as they are visible here.
    fn relations_named(&self, text: &str) -> Result<BTreeSet<TableId>, BindError> {
        let tables = subquery::tables_named(text)?.into_iter();
        let tables = tables.map(|table| table.resolve(&self.default_catalog, &self.default_schema));
        Ok(tables.filter_map(|table| Some(self.find(&table.catalog, &table.schema, &table.table)?.0.id)).collect())
    }

    /// Checks the text of a new policy on `relation`. The namespace is that of the policy's creator, with stored rights.
    pub async fn bind_new_policy(&self, relation: &str, text: &str, schema: &ArrowSchema) -> Result<NewBinding, BindError> {
        if !subquery::asks_other_tables(&parse::expression(text)?) {
            let columns = PolicyBinder::new(&self.statement.template).bind_new_policy(text, schema)?;
            return Ok(NewBinding { columns, reads: None });
        }
        let columns = schema.fields().iter().map(|field| (field.name().as_str(), field.as_ref())).collect();
        let target = subquery::Target { name: relation, columns };
        let functions = identity_functions(self.statement.state.as_ref(), &self.statement.reader);
        let expr = subquery::plan(&self.for_policy(), functions, &target, text).await?;
        let read = subquery::columns_read(&expr)?;
        let raw = Arc::new(EmptyTable::new(Arc::new(schema.clone())));
        let raw = GovernedTable::beneath(raw, relation.into(), self.witness.clone());
        subquery::visible_rows(raw, expr, &self.session_state(), Arc::clone(&self.witness.leaves), Arc::clone(&self.statement.views))
            .map_err(BindError::Inside)?;
        let names = read.iter().map(String::as_str).collect();
        Ok(NewBinding { columns: bound_columns(schema, &names), reads: Some(self.relations_named(text)?) })
    }

    /// These names as a policy of their reader sees them.
    fn for_policy(&self) -> Self {
        Self { in_policy: true, resolved: Arc::default(), ..self.clone() }
    }

    /// The relations that the subqueries of a text on a schema or catalog read. Its columns are bound table by table.
    pub fn bind_new_names(&self, text: &str) -> Result<NewBinding, BindError> {
        let asks = subquery::asks_other_tables(&parse::expression(text)?);
        let reads = asks.then(|| self.relations_named(text)).transpose()?;
        let named = if asks { subquery::tables_named(text)?.len() } else { 0 };
        if reads.as_ref().is_some_and(|reads| reads.len() < named) {
            return Err(BindError::Plan("a table of a subquery is not found, or is there twice".to_owned()));
        }
        Ok(NewBinding { columns: Vec::new(), reads })
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

    /// The query of a view, with its owner's stored rights and the names of its day, under the reader's policies.
    async fn plan_view(
        &self,
        view: &Relation,
        query: &str,
        catalog: &str,
        schema: &str,
        owner_groups: &BTreeSet<GroupName>,
    ) -> Result<ViewQuery, DataFusionError> {
        if self.depth >= MAX_VIEW_DEPTH {
            return Err(CatalogError::TooManyViews.into());
        }
        // Its owner would choose what is read with the eyes of the policy's creator.
        if self.in_policy && view.owner != *self.statement.reader.name() {
            let feature = "a view that somebody else owns, read by a policy".to_owned();
            return Err(CatalogError::Unsupported { name: view.name.clone(), feature }.into());
        }
        self.statement.views.spend()?;
        let (state, reader) = (self.statement.state.as_ref(), &self.statement.reader);
        let mut owner = Authority::stored(state, &view.owner).bound_by(state, owner_groups);
        if view.owner == *reader.name() {
            owner = owner.bound_by(state, reader.groups());
        }
        let inside = Self {
            statement: Arc::clone(&self.statement),
            rights: Arc::new(owner),
            depth: self.depth + 1,
            in_policy: self.in_policy,
            default_catalog: catalog.into(),
            default_schema: schema.into(),
            reserved: Arc::clone(&self.reserved),
            witness: Witness { touched: Arc::clone(&self.statement.touched), ..Witness::default() },
            resolved: Arc::default(),
        };
        let query = parse::query(query).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let state = inside.session_state();
        let plan = state.statement_to_plan(DfStatement::Statement(Box::new(query))).await?;
        PlanSize::of(&plan)?;
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
            Some(CatalogError::TooLarge(limit)) => CatalogError::TooLarge(limit.clone()),
            Some(CatalogError::Unsupported { feature, .. }) => CatalogError::Unsupported { name, feature: feature.clone() },
            Some(CatalogError::Corrupt { .. }) => CatalogError::Corrupt { name, id, detail: None },
            Some(CatalogError::Storage { .. }) => CatalogError::Storage { name, id, detail: None },
            Some(CatalogError::PolicyNotBinding { .. }) => CatalogError::PolicyNotBinding { name, detail: None },
            Some(CatalogError::Internal { .. }) => CatalogError::Internal { name, id },
            _ => CatalogError::BrokenView { name, id, detail },
        }
    }

    /// A store that does not answer closes nothing for good.
    fn policy_not_planned(&self, policy: &RowPolicy, name: &str, path: ObjectPath, error: DataFusionError) -> CatalogError {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let what = (name.to_owned(), id);
        match CatalogError::of(&error) {
            Some(CatalogError::TooManyViews) => CatalogError::TooManyViews,
            Some(CatalogError::TooLarge(limit)) => CatalogError::TooLarge(limit.clone()),
            Some(CatalogError::Corrupt { .. }) => {
                CatalogError::Corrupt { name: what.0, id: self.logged(policy, what.1, &error), detail: None }
            }
            Some(CatalogError::Storage { .. }) => {
                CatalogError::Storage { name: what.0, id: self.logged(policy, what.1, &error), detail: None }
            }
            _ => {
                let closed = BindError::Closed { policy: policy.name.clone(), reason: error.strip_backtrace() };
                self.not_binding(name, path, &closed)
            }
        }
    }

    fn logged(&self, policy: &RowPolicy, id: String, error: &DataFusionError) -> String {
        tracing::error!(error_id = %id, policy = policy.name, error = %error, "a table that a policy reads cannot be opened");
        id
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

fn applied_policies(grant: &Grant) -> BTreeSet<AppliedPolicy> {
    let mut applied = applied_row_policies(grant.rows());
    for mask in grant.masks() {
        let masks = grant.masks().iter().filter(|it| it.policy.id == mask.policy.id).map(|it| it.column.name.clone()).collect();
        applied.insert(AppliedPolicy { id: mask.policy.id, name: mask.policy.name.clone(), version: mask.policy.version, masks });
    }
    applied
}

fn applied_row_policies(security: &RowSecurity) -> BTreeSet<AppliedPolicy> {
    let rows: Vec<&Arc<RowPolicy>> = match security {
        RowSecurity::Off => Vec::new(),
        RowSecurity::On { permissive, restrictive } => permissive.iter().chain(restrictive).collect(),
    };
    let applied = |policy: &Arc<RowPolicy>| AppliedPolicy {
        id: policy.id,
        name: policy.name.clone(),
        version: policy.version,
        masks: BTreeSet::new(),
    };
    rows.into_iter().map(applied).collect()
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
