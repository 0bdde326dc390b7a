//! The table that a statement adds rows to, and which rows its policies let in.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::count;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use lazaret_auth::grant::authorize_insert;
use lazaret_auth::{Authority, Denied, InsertGrant, ObjectPath, PolicyText, TableId};

use super::policies::applied_row_policies;
use super::{CatalogError, Governed, Namespace};
use crate::governed::leakproof::PlainColumns;
use crate::governed::{GovernedTable, Rows, Touched};
use crate::lake::{DeltaTarget, SnapshotId, TableSource};
use crate::meta::{Definition, Relation, State, TableFormat};

/// A Delta table to which rows may be added: made from an [`InsertGrant`], with policies that bind. It shows no row.
pub struct InsertTarget {
    relation: Arc<Relation>,
    path: ObjectPath,
    qualified: [String; 3],
    grant: InsertGrant,
    delta: DeltaTarget,
    /// The version that other parts of the statement read, where they do.
    read: Option<SnapshotId>,
}

impl InsertTarget {
    pub fn id(&self) -> TableId {
        self.relation.id
    }

    /// `catalog.schema.table`.
    pub fn name(&self) -> String {
        self.qualified.join(".")
    }

    pub fn delta(&self) -> &DeltaTarget {
        &self.delta
    }

    /// Every column, whatever of them its principal may select.
    pub fn schema(&self) -> &SchemaRef {
        self.delta.schema()
    }

    /// Whether rows that the statement reads from the table itself are of another version than the target.
    pub fn reads_another_version(&self) -> bool {
        self.read != Some(self.delta.version())
    }

    /// Whether the same rules hold in a later state: time of check is time of commit.
    pub fn check_again(&self, state: &State, rights: &Authority) -> Result<(), CatalogError> {
        if state.epoch() == self.grant.epoch() {
            return Ok(());
        }
        let now = state.relation_by_id(self.relation.id).ok_or_else(|| CatalogError::NotFound(self.name()))?;
        let grant = authorize_insert(state, rights, self.path).map_err(|denied| refused(denied, self.name()))?;
        if now.definition != self.relation.definition || !grant.has_same_checks(&self.grant) {
            return Err(CatalogError::RulesChanged(self.name()));
        }
        Ok(())
    }
}

impl Namespace {
    /// A table to which the principal may add rows, whether it may read it or not.
    pub async fn insert_target(&self, catalog: &str, schema: &str, name: &str) -> Result<InsertTarget, CatalogError> {
        let not_found = || CatalogError::NotFound([catalog, schema, name].join("."));
        let (relation, path) = self.find(catalog, schema, name).ok_or_else(not_found)?;
        let state = &self.statement.state;
        let qualified = state.qualified_name(relation.id).ok_or_else(not_found)?;
        let name = qualified.join(".");
        let grant = authorize_insert(state.as_ref(), &self.rights, path).map_err(|denied| refused(denied, name.clone()))?;
        let unsupported = |feature: &str| Err(CatalogError::Unsupported { name: name.clone(), feature: feature.to_owned() });
        let source = match &relation.definition {
            Definition::View { .. } => return unsupported("INSERT into a view"),
            Definition::Table { format: TableFormat::Iceberg, .. } => return unsupported("INSERT into an Iceberg table"),
            Definition::Table { format: TableFormat::Delta, location, options, .. } => {
                TableSource { id: relation.id, format: TableFormat::Delta, location: location.clone(), options: options.clone() }
            }
            Definition::Table { format, .. } => {
                let what = match format {
                    TableFormat::Csv => "a table of CSV files",
                    TableFormat::Json => "a table of JSON files",
                    _ => "a table of Parquet files",
                };
                return Err(CatalogError::NotInsertable { name: name.clone(), what });
            }
        };
        let open = self.open(&source, &name, path).await?;
        let delta = self.statement.opener.open_target(&source).await.map_err(|error| self.not_opened(error, &name, path))?;
        // A policy that does not bind, or that lets nothing in, is known before anything is read.
        let governed = Governed { relation, path, name: &name, schema: delta.schema() };
        let (rows, query) = self.bind_rows(grant.checks(), PolicyText::Check, &governed, &open.provider).await?;
        if query.is_none() && rows == Rows::None {
            return Err(CatalogError::RowsRefused(name));
        }
        Ok(InsertTarget { relation: Arc::clone(relation), path, qualified, grant, delta, read: open.snapshot })
    }

    /// Tells the audit what is about to be written.
    pub fn note_insert(&self, target: &InsertTarget, columns: BTreeSet<String>) {
        self.statement.touched.resolved(Touched {
            table: target.relation.id,
            name: target.qualified.clone(),
            snapshot: Some(target.delta.version()),
            policies: applied_row_policies(target.grant.checks()),
            columns: BTreeSet::new(),
            written: columns,
            restricted: false,
            lifted: None,
        });
    }

    /// A count of those of the new rows that the policies let in, read as a reader reads its visible rows. `None`: there is
    /// nothing to ask.
    pub async fn count_let_in(&self, target: &InsertTarget, rows: Arc<dyn TableProvider>) -> Result<Option<LogicalPlan>, CatalogError> {
        let name = target.name();
        let governed = Governed { relation: &target.relation, path: target.path, name: &name, schema: target.schema() };
        let (visible, query) = self.bind_rows(target.grant.checks(), PolicyText::Check, &governed, &rows).await?;
        let (plain, inner) = match query {
            None if visible == Rows::All => return Ok(None),
            None => (PlainColumns::Every, rows),
            Some(query) => (PlainColumns::Only(query.plain_columns()), Arc::new(query) as Arc<dyn TableProvider>),
        };
        let table = GovernedTable::new_rows(inner, name.as_str().into(), plain, visible, self.witness.clone());
        let counted = LogicalPlanBuilder::scan("new_rows", provider_as_source(Arc::new(table)), None)
            .and_then(|rows| rows.aggregate(Vec::<Expr>::new(), vec![count(lit(1_i64))])?.build());
        counted.map(Some).map_err(|error| {
            let id = uuid::Uuid::new_v4().simple().to_string();
            tracing::error!(error_id = %id, table = name, error = %error, "new rows cannot be checked");
            CatalogError::Internal { name, id }
        })
    }

    /// Rows that came with the statement, as a table of it.
    pub fn given_rows(&self, batch: RecordBatch) -> Result<Arc<dyn TableProvider>, DataFusionError> {
        let rows = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
        Ok(Arc::new(GovernedTable::beneath(Arc::new(rows), "parameters".into(), self.witness.clone())))
    }
}

fn refused(denied: Denied, name: String) -> CatalogError {
    match denied {
        Denied::NotVisible => CatalogError::NotFound(name),
        Denied::Missing(privilege) => CatalogError::Denied { name, privilege },
    }
}
