//! The policies of a relation, bound to its columns.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::Expr;
use lazaret_auth::{
    Authority, Grant, ObjectId, ObjectPath, PolicyText, PrincipalName, Privilege, RowPolicy, RowSecurity, TableId, TextSubqueries,
};

use super::views::MAX_VIEW_DEPTH;
use super::{CatalogError, Namespace, Statement};
use crate::governed::bind::{bound_columns, columns_of, combined};
use crate::governed::subquery;
use crate::governed::view::ViewQuery;
use crate::governed::{AppliedPolicy, BindError, GovernedTable, Masks, NewBinding, PolicyBinder, Rows, Witness, identity_functions, parse};
use crate::meta::Relation;

/// What policies are bound to: a relation, and its columns as they are now.
pub(crate) struct Governed<'a> {
    pub relation: &'a Relation,
    pub path: ObjectPath,
    pub name: &'a str,
    pub schema: &'a SchemaRef,
}

impl Namespace {
    pub(super) fn bind_masks(&self, grant: &Grant, path: ObjectPath, name: &str, schema: &SchemaRef) -> Result<Masks, CatalogError> {
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
        Ok((Rows::OfQuery, Some(query)))
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

    pub(super) fn not_binding(&self, name: &str, path: ObjectPath, error: &BindError) -> CatalogError {
        tracing::error!(table = name, error = %error, "a policy no longer binds");
        let detail = self.manages(path, Privilege::ManagePolicies).then(|| error.to_string());
        CatalogError::PolicyNotBinding { name: name.to_owned(), detail }
    }
}

pub(super) fn applied_policies(grant: &Grant) -> BTreeSet<AppliedPolicy> {
    let mut applied = applied_row_policies(grant.rows());
    for mask in grant.masks() {
        let masks = grant.masks().iter().filter(|it| it.policy.id == mask.policy.id).map(|it| it.column.name.clone()).collect();
        applied.insert(AppliedPolicy { id: mask.policy.id, name: mask.policy.name.clone(), version: mask.policy.version, masks });
    }
    applied
}

pub(super) fn applied_row_policies(security: &RowSecurity) -> BTreeSet<AppliedPolicy> {
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
