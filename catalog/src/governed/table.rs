//! A table as one principal may see it. The raw provider inside shows every row and never comes out.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Fields, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{ScanArgs, ScanResult, Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Constraints, DFSchema, DFSchemaRef, Statistics, internal_err, not_impl_err};
use datafusion::error::Result;
use datafusion::logical_expr::dml::{InsertOp, MergeIntoClause};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use lazaret_auth::{Grant, GrantedColumns, TableId};

use super::barrier::{SecurityBarrierExec, visible_schema};
use super::bind::Rows;
use super::failure::ScanFailure;
use super::leakproof::{PlainColumns, is_leakproof};
use super::masks::Masks;
use super::row_filter::{RowFilterExec, opened};
#[cfg(test)]
use super::sabotage::{self, Sabotage};
use super::size::PlanSize;
use super::touched::TouchedTables;
use super::verify::Leaves;
use super::view::ViewQuery;
use crate::lake::OpenTable;

/// Where a table's scans are written down: for the audit, and for the last check of the plan.
#[derive(Clone, Default)]
pub struct Witness {
    pub(crate) touched: Arc<TouchedTables>,
    pub(crate) leaves: Arc<Leaves>,
    /// What a test has broken.
    #[cfg(test)]
    pub(crate) sabotage: Option<Sabotage>,
}

/// The only thing that a namespace hands out. Made from a [`Grant`], the opened table, and the policies of the grant, bound.
pub struct GovernedTable {
    /// `None` for a provider of the server, such as `information_schema.tables`.
    id: Option<TableId>,
    name: Arc<str>,
    inner: Arc<dyn TableProvider>,
    view: Reach,
    /// On which predicates may go down.
    plain: PlainColumns,
    table_type: TableType,
    witness: Witness,
}

/// What the policies of a grant come to for one table.
pub(crate) struct Policies {
    pub rows: Rows,
    pub masks: Masks,
}

/// How far a reader sees into the raw table.
enum Reach {
    /// Every row and every column: the raw scan as it is.
    Everything,
    /// The same for a policy to look at: no column is taken at its word that it holds no NULL.
    Opened(SchemaRef),
    Some {
        /// The granted columns: their positions in the raw schema, and as a schema.
        columns: Vec<usize>,
        schema: SchemaRef,
        rows: Rows,
        masks: Masks,
    },
}

impl GovernedTable {
    /// A stored table. `policies` is what the grant's were bound to; predicates on `plain` columns may go down into `open`.
    pub(crate) fn table(grant: &Grant, name: Arc<str>, open: OpenTable, plain: PlainColumns, policies: Policies, witness: Witness) -> Self {
        // Policies that come to TRUE for this reader hide nothing.
        let unrestricted = grant.columns() == &GrantedColumns::Every && policies.rows == Rows::All && policies.masks.is_empty();
        let raw = open.provider.schema();
        let plain = plain.under(&policies.rows, &raw).unmasked(&raw, &policies.masks);
        let columns = grant.columns();
        #[cfg(test)]
        let columns = if witness.sabotage == Some(Sabotage::ClosedColumns) { &GrantedColumns::Every } else { columns };
        let view = if unrestricted { Reach::Everything } else { Reach::granted(&raw, columns, policies) };
        Self { id: Some(grant.table()), name, inner: open.provider, view, plain, table_type: TableType::Base, witness }
    }

    /// A stored view: closed by a barrier whatever the grant, for what its query hides is its owner's to decide.
    pub(crate) fn view(grant: &Grant, name: Arc<str>, query: Arc<ViewQuery>, policies: Policies, witness: Witness) -> Self {
        let plain = PlainColumns::Only(query.plain_columns()).under(&policies.rows, &query.schema());
        let plain = plain.unmasked(&query.schema(), &policies.masks);
        let view = Reach::granted(query.schema().as_ref(), grant.columns(), policies);
        Self { id: Some(grant.table()), name, inner: query, view, plain, table_type: TableType::View, witness }
    }

    /// The raw table inside the query of its own policy, whose leaves the witness has.
    pub(crate) fn beneath(inner: Arc<dyn TableProvider>, name: Arc<str>, witness: Witness) -> Self {
        let schema = inner.schema();
        let is_open = schema.fields().iter().all(|field| field.is_nullable());
        let view = if is_open { Reach::Everything } else { Reach::Opened(Arc::new(Schema::new(opened(schema.fields())))) };
        Self { id: None, name, inner, view, plain: PlainColumns::Every, table_type: TableType::Base, witness }
    }

    /// Rows that are to come into a table: those that its policies let in.
    pub(crate) fn new_rows(inner: Arc<dyn TableProvider>, name: Arc<str>, plain: PlainColumns, rows: Rows, witness: Witness) -> Self {
        let raw = inner.schema();
        let plain = plain.under(&rows, &raw);
        let view = Reach::granted(&raw, &GrantedColumns::Every, Policies { rows, masks: Masks::default() });
        Self { id: None, name, inner, view, plain, table_type: TableType::Base, witness }
    }

    /// A table of the server, which shows each principal what it may see; behind a barrier like any other.
    pub(crate) fn reserved(name: Arc<str>, inner: Arc<dyn TableProvider>, witness: Witness) -> Self {
        let view = Reach::granted(inner.schema().as_ref(), &GrantedColumns::Every, Policies { rows: Rows::All, masks: Masks::default() });
        let plain = PlainColumns::Every;
        Self { id: None, name, table_type: inner.table_type(), inner, view, plain, witness }
    }

    /// Of the query inside, where there is one.
    pub(crate) fn size(&self) -> Option<PlanSize> {
        self.inner.downcast_ref::<ViewQuery>().map(ViewQuery::size)
    }

    /// `catalog.schema.table`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether something of this table is hidden, so that its plan is closed by a barrier.
    pub fn is_restricted(&self) -> bool {
        matches!(self.view, Reach::Some { .. })
    }

    /// Whether the namespace with these leaves handed it out.
    pub(crate) fn belongs_to(&self, leaves: &Arc<Leaves>) -> bool {
        Arc::ptr_eq(&self.witness.leaves, leaves)
    }

    fn goes_down(&self, filter: &Expr, schema: &Schema) -> bool {
        #[cfg(test)]
        if self.witness.sabotage == Some(Sabotage::FalliblePredicate) {
            return true;
        }
        // A constant above the scan is the optimizer's, who makes nothing of a plan that is never true.
        !filter.column_refs().is_empty() && is_leakproof(filter, schema) && self.plain.admit(filter)
    }

    fn touch(&self, projection: Option<&[usize]>, filters: &[Expr]) {
        let Some(id) = self.id else { return };
        let schema = self.schema();
        let mut columns = BTreeSet::new();
        match projection {
            Some(projection) => columns.extend(projection.iter().filter_map(|index| Some(schema.fields().get(*index)?.name().clone()))),
            None => columns.extend(schema.fields().iter().map(|field| field.name().clone())),
        }
        columns.extend(filters.iter().flat_map(|filter| filter.column_refs()).map(|column| column.name.clone()));
        self.witness.touched.scanned(id, columns);
    }

    async fn scan_everything(&self, state: &dyn Session, args: ScanArgs<'_>) -> Result<ScanResult> {
        let scan = self.inner.scan_with_args(state, args).await?;
        self.witness.leaves.admit(scan.plan());
        Ok(scan)
    }

    /// raw scan → row policy → requested columns, masked → barrier → whatever the reader wrote that might leak.
    async fn scan_some(&self, state: &dyn Session, args: &ScanArgs<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let Reach::Some { columns, schema, rows, masks } = &self.view else { return internal_err!("the table is not restricted") };
        #[cfg(test)]
        let rows = if self.witness.sabotage == Some(Sabotage::NoRowFilter) { &Rows::All } else { rows };
        let every: Vec<usize> = (0..columns.len()).collect();
        let requested = args.projection().unwrap_or(&every);
        let filters = args.filters().unwrap_or_default();
        let suspect: Vec<&Expr> = filters.iter().filter(|filter| !self.goes_down(filter, schema)).collect();
        // Of what goes down whole, every part; of the rest, those parts that may.
        let harmless = filters.iter().flat_map(|filter| {
            let whole = self.goes_down(filter, schema);
            split_conjunction(filter).into_iter().filter(move |part| whole || self.goes_down(part, schema))
        });
        let harmless: Vec<&Expr> = harmless.collect();

        // Beside a policy they are evaluated together with it, below; else by the barrier.
        let beside_policy = matches!(rows, Rows::Where(_));
        let mut shown = requested.to_vec();
        let above = suspect.iter().chain(harmless.iter().filter(|_| !beside_policy));
        for column in above.flat_map(|filter| filter.column_refs()) {
            let index = schema.index_of(&column.name)?;
            if !shown.contains(&index) {
                shown.push(index);
            }
        }
        if shown.len() > requested.len() {
            shown.sort_unstable();
        }
        let mut raw = Vec::with_capacity(shown.len());
        for index in &shown {
            match columns.get(*index) {
                Some(index) => raw.push(*index),
                None => return internal_err!("a projection names a column that is not there"),
            }
        }

        let raw_schema = self.inner.schema();
        if !masks.is_empty() {
            // What the masks read comes along to where they are applied.
            for index in raw.clone() {
                for column in masks.read_for(raw_schema.field(index).name()) {
                    let index = raw_schema.index_of(&column)?;
                    if !raw.contains(&index) {
                        raw.push(index);
                    }
                }
            }
            raw.sort_unstable();
        }

        let enough_rows = args.limit().filter(|_| suspect.is_empty());
        let below = match rows {
            Rows::None => Arc::new(EmptyExec::new(Arc::new(schema.project(&shown)?))),
            Rows::All | Rows::OfQuery => self.scan_raw(state, &raw, &harmless).await?,
            Rows::Where(policy) => {
                let mut visible = policy.clone();
                for filter in &harmless {
                    visible = visible.and(unqualified(filter)?);
                }
                let mut read = raw.clone();
                for column in visible.column_refs() {
                    let index = raw_schema.index_of(&column.name)?;
                    if !read.contains(&index) {
                        read.push(index);
                    }
                }
                // Sources read in table order; some take no other.
                read.sort_unstable();
                let parts = split_conjunction(policy);
                let hints = parts.into_iter().filter(|part| is_leakproof(part, &raw_schema));
                let scan = self.scan_raw(state, &read, &hints.chain(harmless.iter().copied()).collect::<Vec<_>>()).await?;
                let predicate = state.create_physical_expr(visible, &DFSchema::try_from(scan.schema())?)?;
                #[cfg(test)]
                let scan = sabotage::below(self.witness.sabotage, state, scan, &harmless, args.limit())?;
                let projection = raw.iter().filter_map(|index| read.iter().position(|it| it == index)).collect::<Vec<_>>();
                Arc::new(RowFilterExec::try_new(predicate, projection.into(), enough_rows, scan)?)
            }
        };
        let below = match rows {
            _ if masks.is_empty() => below,
            Rows::None => below,
            Rows::All | Rows::OfQuery | Rows::Where(_) => {
                let columns: Vec<_> = shown.iter().map(|index| schema.field(*index)).collect();
                #[cfg(test)]
                let masks = &if self.witness.sabotage == Some(Sabotage::NoMask) { Masks::default() } else { masks.clone() };
                masks.apply(state, &columns, below)?
            }
        };
        let barrier = SecurityBarrierExec::new(Arc::clone(&self.name), self.plain.clone(), masks.names().into(), below);
        let barrier = if beside_policy {
            barrier
        } else {
            let visible = DFSchema::try_from(barrier.schema())?;
            let sifted =
                harmless.iter().map(|filter| state.create_physical_expr(unqualified(filter)?, &visible)).collect::<Result<Vec<_>>>()?;
            barrier.sifting(sifted).with_enough_rows(enough_rows)
        };
        let barrier = barrier.telling(harmless.iter().map(ToString::to_string)).spread_over(state.config().target_partitions());
        let closed: Arc<dyn ExecutionPlan> = Arc::new(barrier);
        #[cfg(test)]
        let closed = if self.witness.sabotage == Some(Sabotage::CountFromStatistics) { sabotage::telling(closed) } else { closed };
        let order = requested.iter().filter_map(|index| shown.iter().position(|it| it == index)).collect::<Vec<_>>();
        apply_above(state, closed, &suspect, &order)
    }

    /// The raw scan with these columns. The filters only choose what to read: none may be relied on.
    async fn scan_raw(&self, state: &dyn Session, columns: &[usize], filters: &[&Expr]) -> Result<Arc<dyn ExecutionPlan>> {
        let filters: Vec<Expr> = filters.iter().map(|filter| unqualified(filter)).collect::<Result<_>>()?;
        let support = self.inner.supports_filters_pushdown(&filters.iter().collect::<Vec<_>>())?;
        let hints: Vec<Expr> = filters
            .into_iter()
            .zip(support)
            .filter(|(_, support)| *support != TableProviderFilterPushDown::Unsupported)
            .map(|(filter, _)| filter)
            .collect();
        let args = ScanArgs::default().with_projection(Some(columns)).with_filters(Some(&hints));
        let plan = self.inner.scan_with_args(state, args).await?.into_inner();
        let (found, raw) = (plan.schema(), self.inner.schema());
        let expected = raw.project(columns)?;
        let same = found.fields().len() == expected.fields().len()
            && found.fields().iter().zip(expected.fields()).all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
        if !same {
            return internal_err!("a source reads other columns than it was asked for");
        }
        self.witness.leaves.close(&plan);
        if let Reach::Some { masks, .. } = &self.view {
            self.witness.leaves.mask(&plan, &masks.names().into());
        }
        Ok(plan)
    }
}

impl Reach {
    fn granted(raw: &Schema, granted: &GrantedColumns, Policies { rows, masks }: Policies) -> Self {
        let is_granted = |name: &str| granted.contains(name);
        let (columns, fields): (Vec<usize>, Vec<_>) =
            raw.fields().iter().map(|field| masks.shown(field)).enumerate().filter(|(_, field)| is_granted(field.name())).unzip();
        Self::Some { columns, schema: visible_schema(&Fields::from(fields)), rows, masks }
    }
}

/// Filters that came with the scan although they might leak, and then the columns that were asked for.
fn apply_above(
    state: &dyn Session,
    closed: Arc<dyn ExecutionPlan>,
    filters: &[&Expr],
    columns: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let filters: Vec<Expr> = filters.iter().map(|filter| unqualified(filter)).collect::<Result<_>>()?;
    let schema = closed.schema();
    let filtered: Arc<dyn ExecutionPlan> = match conjunction(filters) {
        Some(filter) => {
            let predicate = state.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(&schema))?)?;
            Arc::new(FilterExec::try_new(predicate, closed)?)
        }
        None => closed,
    };
    if columns.iter().copied().eq(0..schema.fields().len()) {
        return Ok(filtered);
    }
    let columns = columns.iter().map(|index| {
        let name = schema.field(*index).name();
        ProjectionExpr { expr: Arc::new(PhysicalColumn::new(name, *index)), alias: name.clone() }
    });
    Ok(Arc::new(ProjectionExec::try_new(columns, filtered)?))
}

pub(super) fn unqualified(filter: &Expr) -> Result<Expr> {
    let bare = filter.clone().transform(|expr| match expr {
        Expr::Column(column) if column.relation.is_some() => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(bare.data)
}

impl fmt::Debug for GovernedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GovernedTable").field("name", &self.name).finish_non_exhaustive()
    }
}

// A method that a new DataFusion adds must be decided here before this compiles under clippy.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl TableProvider for GovernedTable {
    fn schema(&self) -> SchemaRef {
        match &self.view {
            Reach::Everything => self.inner.schema(),
            Reach::Opened(schema) | Reach::Some { schema, .. } => Arc::clone(schema),
        }
    }

    /// A key would say that a value is taken by a row that is hidden.
    fn constraints(&self) -> Option<&Constraints> {
        match &self.view {
            Reach::Everything => self.inner.constraints(),
            Reach::Opened(_) | Reach::Some { .. } => None,
        }
    }

    fn table_type(&self) -> TableType {
        self.table_type
    }

    fn get_table_definition(&self) -> Option<&str> {
        None
    }

    /// An inlined plan would be optimised together with the reader's.
    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        None
    }

    fn get_column_default(&self, _column: &str) -> Option<&Expr> {
        None
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let args = ScanArgs::default().with_projection(projection.map(Vec::as_slice)).with_filters(Some(filters)).with_limit(limit);
        Ok(self.scan_with_args(state, args).await?.into_inner())
    }

    async fn scan_with_args<'a>(&self, state: &dyn Session, args: ScanArgs<'a>) -> Result<ScanResult> {
        self.touch(args.projection(), args.filters().unwrap_or_default());
        match self.view {
            Reach::Everything => self.scan_everything(state, args).await,
            Reach::Opened(_) => {
                let scan = self.scan_everything(state, args).await?;
                Ok(ScanResult::new(Arc::new(RowFilterExec::opening(scan.into_inner())?)))
            }
            Reach::Some { .. } => {
                let plan = self.scan_some(state, &args).await;
                plan.map(ScanResult::new).map_err(|error| ScanFailure::conceal(&self.name, &error))
            }
        }
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        match &self.view {
            Reach::Everything => self.inner.supports_filters_pushdown(filters),
            // Those that know of no NULL would be evaluated as if there were none.
            Reach::Opened(_) => {
                let support = self.inner.supports_filters_pushdown(filters)?;
                Ok(support
                    .into_iter()
                    .map(|support| match support {
                        TableProviderFilterPushDown::Exact => TableProviderFilterPushDown::Inexact,
                        other => other,
                    })
                    .collect())
            }
            // The barrier evaluates what goes down.
            Reach::Some { schema, .. } => Ok(filters
                .iter()
                .map(|filter| match self.goes_down(filter, schema) {
                    true => TableProviderFilterPushDown::Exact,
                    false => TableProviderFilterPushDown::Unsupported,
                })
                .collect()),
        }
    }

    fn statistics(&self) -> Option<Statistics> {
        match &self.view {
            Reach::Everything => self.inner.statistics(),
            Reach::Opened(_) | Reach::Some { .. } => None,
        }
    }

    // Writing has a way of its own, which checks the new rows and keeps the hidden ones.

    async fn insert_into(
        &self,
        _state: &dyn Session,
        _input: Arc<dyn ExecutionPlan>,
        _insert_op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("INSERT through a governed table")
    }

    async fn delete_from(&self, _state: &dyn Session, _filters: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("DELETE through a governed table")
    }

    async fn update(&self, _state: &dyn Session, _assignments: Vec<(String, Expr)>, _filters: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("UPDATE through a governed table")
    }

    async fn truncate(&self, _state: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("TRUNCATE through a governed table")
    }

    async fn merge_into(
        &self,
        _state: &dyn Session,
        _source: Arc<dyn ExecutionPlan>,
        _merge_schema: DFSchemaRef,
        _on: Expr,
        _clauses: Vec<MergeIntoClause>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        not_impl_err!("MERGE through a governed table")
    }
}
