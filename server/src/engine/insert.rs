//! INSERT INTO: the rows are made by a governed plan, written, read back through the table's policies, and only then named
//! in its log. All rows of all parameters come in with one commit, or none does.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::ast::Spanned;
use futures::{StreamExt, TryStreamExt, stream};
use lazaret_catalog::governed::parse;
use lazaret_catalog::lake::Lake;
use lazaret_catalog::namespace::{CatalogError, InsertTarget};
use lazaret_catalog::write;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::assign::{Origin, assign, assigned};
use super::failure::{catalog_error, from_datafusion, from_write};
use super::parameters::placeholder;
use super::plan::{MAX_PARAMETER_ROWS, Scope, bound, given};
use super::record::Seen;
use super::rows::{in_time, unless_killed};
use super::{Engine, UpdateOutcome, parameters};
use crate::error::{Error, ErrorKind, Position, Result};
use crate::session::Session;
use crate::sql::statement::Insert;
use crate::sql::types::sql_type;
use crate::statements::{StatementContext, refuse_reserved};

/// Rows of VALUES, over all rows of parameters: each value is an expression of its own.
const MAX_VALUE_ROWS: usize = 100_000;

/// The parameters in the plan of a statement.
const PARAMETERS: &str = "parameters";

/// An INSERT that may run: everything resolved and governed, nothing written.
pub(super) struct Insertion {
    scope: Arc<Scope>,
    target: Arc<InsertTarget>,
    sources: Vec<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)>,
    /// Whether the rows are made from rows of the table itself.
    reads_target: bool,
}

/// What an INSERT was found to say, before parameters.
struct Planned {
    scope: Arc<Scope>,
    target: InsertTarget,
    /// For each value the column of the table that it is for.
    columns: Vec<(FieldRef, Position)>,
    source: Source,
    types: HashMap<String, DataType>,
}

enum Source {
    /// VALUES: each value becomes its column's type by itself.
    Values(Vec<Vec<Expr>>),
    Query(LogicalPlan),
}

impl Engine {
    /// The parameters that an INSERT takes.
    pub(super) async fn describe_insert(&self, session: &Arc<Session>, insert: &Insert, seen: &Seen) -> Result<SchemaRef> {
        let planned = self.plan_insert(session, insert, seen).await?;
        // What cannot be assigned is an error now, as far as it does not depend on what will be bound.
        if insert.query.parameters == 0 {
            planned.plans(insert, None)?;
        }
        Ok(parameters::declared(&planned.types, insert.query.parameters))
    }

    pub(super) async fn prepare_insert(
        &self,
        session: &Arc<Session>,
        insert: &Insert,
        parameters: Option<&RecordBatch>,
        seen: &Seen,
    ) -> Result<Insertion> {
        let planned = self.plan_insert(session, insert, seen).await?;
        let plans = planned.plans(insert, parameters)?;
        let Planned { scope, target, columns, .. } = planned;
        let mut sources = Vec::with_capacity(plans.len());
        for plan in plans {
            scope.namespace.verify_logical(&plan).map_err(Error::internal)?;
            sources.push(scope.physical(&plan).await?);
        }
        let sources = sources.into_iter().map(|source| (source, scope.task())).collect();
        let reads_target = scope.namespace.touched().iter().any(|table| table.table == target.id());
        // What the policies read is for the audit to know before anything runs.
        count_let_in(&scope, &target, target.delta().empty(&self.parts.lake)).await?;
        scope.namespace.note_insert(&target, columns.iter().map(|(field, _)| field.name().clone()).collect());
        Ok(Insertion { scope, target: Arc::new(target), sources, reads_target })
    }

    async fn plan_insert(&self, session: &Arc<Session>, insert: &Insert, seen: &Seen) -> Result<Planned> {
        let path = {
            let state = session.state.lock();
            insert.table.as_relation(&state.catalog, &state.schema)?
        };
        refuse_reserved(&path.schema, insert.table.position())?;
        let scope = self.scope(session, seen)?;
        let target = scope.namespace.insert_target(&path.catalog, &path.schema, &path.name).await;
        let target = target.map_err(|error| placed(catalog_error(&error), insert.table.position()))?;
        let fields = target.schema().fields();
        let named = match &insert.columns {
            None => None,
            Some(columns) => Some(columns.iter().map(|column| find_column(fields, column)).collect::<Result<Vec<_>>>()?),
        };
        let source = source(&scope, insert, named.as_deref().unwrap_or(fields)).await?;
        let width = source.width();
        let columns: Vec<(FieldRef, Position)> = match (named, &insert.columns) {
            (Some(named), Some(columns)) => {
                if width != named.len() {
                    let message = format!("INSERT names {} columns, and {width} values are given", named.len());
                    return Err(placed(Error::invalid(message), insert.position));
                }
                named.into_iter().zip(columns).map(|(field, column)| (field, column.position)).collect()
            }
            _ if width > fields.len() => {
                let message = format!("\"{}\" has {} columns, and {width} values are given", target.name(), fields.len());
                return Err(placed(Error::invalid(message), insert.position));
            }
            _ => fields.iter().take(width).map(|field| (Arc::clone(field), insert.position)).collect(),
        };
        let types = source.parameter_types(&columns)?;
        Ok(Planned { scope, target, columns, source, types })
    }
}

fn find_column(fields: &[FieldRef], column: &crate::sql::Ident) -> Result<FieldRef> {
    let found = fields.iter().find(|field| field.name() == column.as_str());
    found.cloned().ok_or_else(|| placed(Error::not_found("column", column), column.position))
}

fn placed(error: Error, Position { line, column }: Position) -> Error {
    if error.position.is_some() { error } else { error.at(line, column) }
}

/// `columns`: those that values are for, as far as there are values.
async fn source(scope: &Arc<Scope>, insert: &Insert, columns: &[FieldRef]) -> Result<Source> {
    let Some(rows) = plain_values(&insert.query.ast) else { return Ok(Source::Query(scope.plan(insert.query.ast.clone()).await?)) };
    let width = rows.first().map_or(0, |row| row.len());
    if let Some(row) = rows.iter().find(|row| row.len() != width) {
        let message = format!("the rows of VALUES have {width} and {} values", row.len());
        let place = row.first().map_or(insert.position, |value| place_of(value, insert.position));
        return Err(placed(Error::invalid(message), place));
    }
    if rows.len() > MAX_VALUE_ROWS {
        return Err(too_many_rows());
    }
    let asks = rows.iter().copied().flatten().find(|value| asks_tables(value));
    if let (Some(value), 2..) = (asks, rows.len()) {
        return Err(placed(Error::unsupported("a subquery in one of several rows of VALUES"), place_of(value, insert.position)));
    }
    let prepared = |row: &&Vec<ast::Expr>| -> Vec<ast::Expr> {
        row.iter().enumerate().map(|(index, value)| written(value, columns.get(index))).collect()
    };
    if asks.is_some() {
        let row = rows.first().map(prepared).unwrap_or_default();
        return Ok(Source::Query(scope.plan(select(&insert.query.ast, row)?).await?));
    }
    let mut values = Vec::with_capacity(rows.len());
    for row in &rows {
        let row = prepared(row).into_iter().map(|value| -> Result<Expr> {
            let place = place_of(&value, insert.position);
            let expr = scope.expression(value).map_err(|error| placed(error, place))?;
            only_scalar(&expr).map_err(|error| placed(error, place))?;
            Ok(expr)
        });
        values.push(row.collect::<Result<Vec<_>>>()?);
    }
    Ok(Source::Values(values))
}

/// The rows of a query that is VALUES and nothing more.
fn plain_values(query: &ast::Query) -> Option<Vec<&Vec<ast::Expr>>> {
    let ast::SetExpr::Values(values) = query.body.as_ref() else { return None };
    let plain = query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none() && query.fetch.is_none();
    plain.then(|| values.rows.iter().map(|row| &row.content).collect())
}

fn place_of(value: &ast::Expr, otherwise: Position) -> Position {
    let start = value.span().start;
    if start.line > 0 { Position { line: start.line, column: start.column } } else { otherwise }
}

fn asks_tables(value: &ast::Expr) -> bool {
    struct Queries;
    impl ast::Visitor for Queries {
        type Break = ();
        fn pre_visit_query(&mut self, _query: &ast::Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    ast::Visit::visit(value, &mut Queries).is_break()
}

/// A value as it is meant for its column: DEFAULT is NULL, for a table with other defaults is not written; and a number for
/// a decimal keeps all its digits.
fn written(value: &ast::Expr, column: Option<&FieldRef>) -> ast::Expr {
    let literal = |value: ast::Value| ast::Expr::Value(value.with_empty_span());
    match value {
        ast::Expr::Identifier(name) if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default") => {
            literal(ast::Value::Null)
        }
        other => match column.filter(|column| matches!(column.data_type(), DataType::Decimal128(..))).and_then(|_| digits(other)) {
            Some(digits) => literal(ast::Value::SingleQuotedString(digits)),
            None => other.clone(),
        },
    }
}

/// `12.50`, `-3`; not what has an exponent.
fn digits(value: &ast::Expr) -> Option<String> {
    match value {
        ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::Number(text, _), .. }) => {
            text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then(|| text.clone())
        }
        ast::Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr } => {
            digits(expr).filter(|it| !it.starts_with('-')).map(|it| format!("-{it}"))
        }
        _ => None,
    }
}

/// One row of VALUES that asks tables, as the SELECT that it is.
fn select(query: &ast::Query, row: Vec<ast::Expr>) -> Result<Box<ast::Query>> {
    let shape = || Error::internal("a SELECT that is none");
    let ast::Statement::Query(one) = parse::query("SELECT 1").map_err(Error::internal)? else { return Err(shape()) };
    let mut select = ast::Query { body: one.body, ..query.clone() };
    let ast::SetExpr::Select(body) = select.body.as_mut() else { return Err(shape()) };
    let named = |(index, expr)| ast::SelectItem::ExprWithAlias { expr, alias: ast::Ident::with_quote('"', placeholder(index)) };
    body.projection = row.into_iter().enumerate().map(named).collect();
    Ok(Box::new(select))
}

fn only_scalar(expr: &Expr) -> Result<()> {
    let gathers = expr.exists(|part| Ok(matches!(part, Expr::AggregateFunction(_) | Expr::WindowFunction(_))));
    match gathers.map_err(from_datafusion)? {
        true => Err(Error::invalid("aggregate and window functions cannot stand in VALUES")),
        false => Ok(()),
    }
}

fn too_many_rows() -> Error {
    Error::new(ErrorKind::Exhausted, format!("VALUES has at most {MAX_VALUE_ROWS} rows, all rows of parameters together"))
}

impl Source {
    fn width(&self) -> usize {
        match self {
            Self::Values(rows) => rows.first().map_or(0, Vec::len),
            Self::Query(plan) => plan.schema().fields().len(),
        }
    }

    /// A parameter that is a value itself has its column's type.
    fn parameter_types(&self, columns: &[(FieldRef, Position)]) -> Result<HashMap<String, DataType>> {
        let mut types = HashMap::new();
        let mut tell = |values: &[Expr]| {
            for (value, (column, _)) in values.iter().zip(columns) {
                parameters::tell(&mut types, &value.clone().unalias(), Some(column.data_type().clone()));
            }
        };
        match self {
            Self::Values(rows) => {
                rows.iter().for_each(|row| tell(row));
                for value in rows.iter().flatten() {
                    parameters::types_in(value, &mut types)?;
                }
                Ok(types)
            }
            Self::Query(plan) => {
                tell(outputs(plan).unwrap_or_default());
                parameters::types(plan, types)
            }
        }
    }
}

/// What a query's columns are made of, where that is one list.
fn outputs(plan: &LogicalPlan) -> Option<&[Expr]> {
    match plan {
        LogicalPlan::Projection(projection) => Some(&projection.expr),
        LogicalPlan::Sort(sort) => outputs(&sort.input),
        LogicalPlan::Limit(limit) => outputs(&limit.input),
        _ => None,
    }
}

impl Planned {
    /// Plans that together yield all rows, of the table's columns.
    fn plans(&self, insert: &Insert, parameters: Option<&RecordBatch>) -> Result<Vec<LogicalPlan>> {
        let most = if matches!(&self.source, Source::Values(rows) if rows.len() == 1) { usize::MAX } else { MAX_PARAMETER_ROWS };
        let batch = if insert.query.parameters == 0 { None } else { Some(self.typed(given(&insert.query, parameters, most)?)?) };
        match (&self.source, batch) {
            (Source::Query(plan), None) => Ok(vec![self.assigned(plan.clone())?]),
            (Source::Query(plan), Some(batch)) => {
                (0..batch.num_rows()).map(|row| self.assigned(bound(plan, &batch, row, &self.types)?)).collect()
            }
            (Source::Values(rows), None) => Ok(vec![self.assigned(self.values(rows.iter().cloned().map(Ok))?)?]),
            (Source::Values(rows), Some(batch)) => {
                if let [row] = rows.as_slice() {
                    return Ok(vec![self.assigned(self.one_row_each(row, batch)?)?]);
                }
                if rows.len().saturating_mul(batch.num_rows()) > MAX_VALUE_ROWS {
                    return Err(too_many_rows());
                }
                let bound = (0..batch.num_rows()).flat_map(|number| rows.iter().map(move |row| (number, row)));
                let bound = bound.map(|(number, row)| row.iter().map(|value| with_literals(value, &batch, number)).collect());
                Ok(vec![self.assigned(self.values(bound)?)?])
            }
        }
    }

    /// The parameters in the types that they are declared with.
    fn typed(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = batch.columns().iter().enumerate().map(|(index, values)| {
            let name = placeholder(index);
            match self.types.get(&name).filter(|wanted| *wanted != values.data_type()) {
                Some(wanted) => assign(values, &name, wanted, Origin::Written)
                    .map_err(|_| Error::invalid(format!("parameter {name} cannot be read as {}", sql_type(wanted)))),
                None => Ok(Arc::clone(values)),
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let fields = columns.iter().enumerate().map(|(index, values)| Field::new(placeholder(index), values.data_type().clone(), true));
        RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns).map_err(Error::internal)
    }

    /// One row of VALUES for each row of parameters, which are the columns of a table of the statement.
    fn one_row_each(&self, row: &[Expr], batch: RecordBatch) -> Result<LogicalPlan> {
        let rows = self.scope.namespace.given_rows(batch).map_err(from_datafusion)?;
        let rows = LogicalPlanBuilder::scan(PARAMETERS, provider_as_source(rows), None).map_err(from_datafusion)?;
        let of_parameters = |(index, value): (usize, &Expr)| {
            let value = value.clone().transform(|part| match part {
                Expr::Placeholder(parameter) => Ok(Transformed::yes(Expr::Column(Column::new(Some(PARAMETERS), parameter.id)))),
                other => Ok(Transformed::no(other)),
            });
            value.map(|value| value.data.alias(format!("v{index}"))).map_err(from_datafusion)
        };
        let values = row.iter().enumerate().map(of_parameters).collect::<Result<Vec<_>>>()?;
        rows.project(values).and_then(LogicalPlanBuilder::build).map_err(from_datafusion)
    }

    /// Each value is given its column's type by itself.
    fn values(&self, rows: impl Iterator<Item = Result<Vec<Expr>>>) -> Result<LogicalPlan> {
        let nothing = DFSchema::empty();
        let mut assigned_rows = Vec::new();
        for row in rows {
            let mut assigned_row = Vec::with_capacity(self.columns.len());
            for (value, (column, place)) in row?.into_iter().zip(&self.columns) {
                let (from, origin) = (value.get_type(&nothing).map_err(from_datafusion)?, origin(&value));
                assigned_row.push(assigned(value, &from, column, origin).map_err(|error| placed(error, *place))?);
            }
            assigned_rows.push(assigned_row);
        }
        LogicalPlanBuilder::values(assigned_rows).and_then(LogicalPlanBuilder::build).map_err(from_datafusion)
    }

    /// The table's columns in order: those that are given in their types, the others NULL.
    fn assigned(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let schema = plan.schema();
        let mut values: HashMap<&str, Expr> = HashMap::new();
        for (index, (column, place)) in self.columns.iter().enumerate() {
            let origin = outputs(&plan).and_then(|values| values.get(index)).map_or(Origin::Computed, origin);
            let (relation, field) = schema.qualified_field(index);
            let value = assigned(Expr::Column(Column::from((relation, field))), field.data_type(), column, origin);
            values.insert(column.name(), value.map_err(|error| placed(error, *place))?);
        }
        let every = self.target.schema().fields().iter().map(|field| {
            let value = match values.remove(field.name().as_str()) {
                Some(value) => value,
                None => Expr::Literal(ScalarValue::try_new_null(field.data_type())?, None),
            };
            Ok(value.alias(field.name()))
        });
        let every = every.collect::<datafusion::common::Result<Vec<_>>>().map_err(from_datafusion)?;
        LogicalPlanBuilder::from(plan.clone()).project(every).and_then(LogicalPlanBuilder::build).map_err(from_datafusion)
    }
}

/// A text that is written out may be of any type.
fn origin(value: &Expr) -> Origin {
    match value.clone().unalias() {
        Expr::Literal(ScalarValue::Utf8(_) | ScalarValue::LargeUtf8(_) | ScalarValue::Utf8View(_), _) => Origin::Written,
        _ => Origin::Computed,
    }
}

fn with_literals(value: &Expr, batch: &RecordBatch, row: usize) -> Result<Expr> {
    let literal = value.clone().transform(|part| match &part {
        Expr::Placeholder(parameter) => {
            let column = batch.column_by_name(&parameter.id);
            let column = column.ok_or_else(|| datafusion::common::internal_datafusion_err!("no parameter {}", parameter.id))?;
            Ok(Transformed::yes(Expr::Literal(ScalarValue::try_from_array(column, row)?, None)))
        }
        _ => Ok(Transformed::no(part)),
    });
    literal.map(|literal| literal.data).map_err(from_datafusion)
}

impl Insertion {
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Writes the rows and names them. Until the log is asked, a kill or the end of `client` stops it and its files go; from then on
    /// it comes to its end, so that what the audit says is what happened.
    pub async fn run(
        self,
        context: &StatementContext,
        queries: Handle,
        limit: Option<Duration>,
        stop: CancellationToken,
        client: oneshot::Receiver<()>,
    ) -> Result<UpdateOutcome> {
        let Self { scope, target, sources, reads_target } = self;
        if reads_target && target.reads_another_version() {
            return Err(catalog_error(&CatalogError::RulesChanged(target.name())));
        }
        let mut writing = JoinSet::new();
        let lake = Arc::clone(&context.lake);
        writing.spawn_on(written_rows(scope, Arc::clone(&target), sources, lake), &queries);
        let written = async { writing.join_next().await.ok_or_else(|| Error::internal("nothing was written"))?.map_err(Error::internal)? };
        let rows = tokio::select! {
            rows = unless_killed(&stop, in_time(limit, written)) => rows?,
            _ = client => return Err(Error::new(ErrorKind::Cancelled, "the statement was cancelled; nothing was written")),
        };
        let state = context.metadata.current();
        target.check_again(&state, &context.authority(state.as_ref())).map_err(|error| catalog_error(&error))?;
        let rows = rows.commit(&context.lake, target.delta(), reads_target).await.map_err(from_write)?;
        Ok(UpdateOutcome { rows, ..UpdateOutcome::default() })
    }
}

/// The rows in files of the table, all let in by its policies.
async fn written_rows(
    scope: Arc<Scope>,
    target: Arc<InsertTarget>,
    sources: Vec<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)>,
    lake: Arc<Lake>,
) -> Result<write::NewRows> {
    let batches = stream::iter(sources).map(|(plan, task)| execute_stream(plan, task)).try_flatten();
    let rows = write::write_rows(&lake, target.delta(), batches.boxed()).await.map_err(from_write)?;
    if let Some((plan, task)) = count_let_in(&scope, &target, rows.as_table(&lake, target.delta())).await? {
        let batches: Vec<RecordBatch> =
            execute_stream(plan, task).map_err(from_datafusion)?.try_collect().await.map_err(from_datafusion)?;
        let counted = batches
            .iter()
            .filter(|batch| batch.num_rows() > 0)
            .map(|batch| batch.column(0).as_primitive_opt::<Int64Type>().map(|it| it.value(0)));
        let let_in: Option<i64> = counted.sum();
        if let_in.and_then(|let_in| u64::try_from(let_in).ok()) != Some(rows.rows()) {
            return Err(catalog_error(&CatalogError::RowsRefused(target.name())));
        }
    }
    Ok(rows)
}

/// A plan that counts those rows of `rows` that the target's policies let in.
async fn count_let_in(
    scope: &Arc<Scope>,
    target: &InsertTarget,
    rows: Arc<dyn TableProvider>,
) -> Result<Option<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)>> {
    let counted = scope.namespace.count_let_in(target, rows).await.map_err(|error| catalog_error(&error))?;
    let Some(plan) = counted else { return Ok(None) };
    scope.namespace.verify_logical(&plan).map_err(Error::internal)?;
    Ok(Some((scope.physical(&plan).await?, scope.task())))
}
