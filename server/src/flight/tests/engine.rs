//! A small engine on DataFusion, with no policies: enough to see what Flight does with one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use async_trait::async_trait;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use crate::engine::objects::{CatalogObject, ObjectFilter};
use crate::engine::{Description, PlannedQuery, Rows, Started, UpdateOutcome};
use crate::error::{Error, Result};
use crate::flight::sql_engine::SqlEngine;
use crate::session::Session;

/// A query that never ends.
pub const ENDLESS: &str = "SELECT endless";
/// A query that sends a batch and then fails.
pub const FAILING: &str = "SELECT failing";
/// A query of which the plan says what its stream does not keep.
pub const DRIFTING: &str = "SELECT drifting";

pub struct TestEngine {
    context: SessionContext,
    /// Every statement that `update` ran.
    pub updates: Mutex<Vec<String>>,
    /// Catalog in the session of every query that ran.
    pub ran_in: Mutex<Vec<String>>,
    pub endless_open: Arc<AtomicUsize>,
    /// What every update warns of.
    pub warnings: Mutex<Vec<String>>,
}

impl TestEngine {
    pub async fn new() -> Self {
        let config = SessionConfig::new().with_information_schema(true).with_target_partitions(1);
        let context = SessionContext::new_with_config(config);
        let create = "CREATE TABLE person (id BIGINT NOT NULL, name VARCHAR, weight DECIMAL(9, 2)) AS \
                      VALUES (1, 'a', 1.5), (2, 'b', NULL), (3, NULL, 2.25)";
        context.sql(create).await.unwrap().collect().await.unwrap();
        Self { context, updates: Mutex::default(), ran_in: Mutex::default(), endless_open: Arc::default(), warnings: Mutex::default() }
    }

    async fn logical(&self, sql: &str) -> Result<LogicalPlan> {
        self.context.state().create_logical_plan(sql).await.map_err(|error| Error::invalid(error.to_string()))
    }

    async fn execute(&self, sql: &str, row: Option<(&RecordBatch, usize)>) -> Result<Rows> {
        let plan = self.logical(sql).await?;
        let schema: SchemaRef = Arc::clone(plan.schema().inner());
        let invalid = |error: datafusion::error::DataFusionError| Error::invalid(error.to_string());
        let mut frame = self.context.execute_logical_plan(plan).await.map_err(invalid)?;
        if let Some((batch, row)) = row {
            let values = batch.columns().iter().map(|column| ScalarValue::try_from_array(column, row));
            let values: Vec<ScalarValue> = values.collect::<Result<_, _>>().map_err(invalid)?;
            frame = frame.with_param_values(ParamValues::List(values.into_iter().map(Into::into).collect())).map_err(invalid)?;
        }
        let batches = frame.execute_stream().await.map_err(invalid)?;
        Ok(Rows { schema, batches: batches.map_err(invalid).boxed() })
    }
}

fn is_query(sql: &str) -> bool {
    ["SELECT", "VALUES", "WITH", "EXPLAIN"].iter().any(|word| sql.to_uppercase().starts_with(word))
}

fn numbers(nullable: bool) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, nullable)]))
}

fn number_batch() -> RecordBatch {
    RecordBatch::try_new(numbers(false), vec![Arc::new(Int64Array::from(vec![1; 1000]))]).unwrap()
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl SqlEngine for TestEngine {
    async fn describe(&self, _session: &Arc<Session>, sql: &str) -> Result<Description> {
        let empty: SchemaRef = Arc::new(Schema::empty());
        if [ENDLESS, FAILING, DRIFTING].contains(&sql) {
            return Ok(Description { is_update: false, runs_once: false, result_schema: numbers(false), parameter_schema: empty });
        }
        let plan = self.logical(sql).await?;
        let types = plan.get_parameter_types().map_err(Error::internal)?;
        let mut types: Vec<(String, Option<DataType>)> = types.into_iter().collect();
        types.sort_by(|a, b| a.0.cmp(&b.0));
        let parameters = types.into_iter().map(|(name, kind)| Field::new(name, kind.unwrap_or(DataType::Utf8), true));
        let parameter_schema = Arc::new(Schema::new(parameters.collect::<Vec<_>>()));
        let is_update = !is_query(sql);
        let result_schema = if is_update { empty } else { Arc::clone(plan.schema().inner()) };
        Ok(Description { is_update, runs_once: is_update, result_schema, parameter_schema })
    }

    async fn start(&self, session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<Started> {
        if !is_query(sql) {
            return self.update(session, sql, parameters).await.map(Started::Done);
        }
        let schema = self.describe(session, sql).await?.result_schema;
        Ok(Started::Planned(PlannedQuery::new(schema, sql, crate::sql::parse(sql, usize::MAX)?, parameters, 0)))
    }

    async fn run(&self, session: &Arc<Session>, planned: &PlannedQuery) -> Result<Rows> {
        self.ran_in.lock().push(session.state.lock().catalog.clone());
        match planned.sql.as_str() {
            ENDLESS => {
                self.endless_open.fetch_add(1, Ordering::SeqCst);
                let open = Open(Arc::clone(&self.endless_open));
                let batches = stream::repeat_with(move || {
                    let _ = &open;
                    Ok(number_batch())
                });
                return Ok(Rows { schema: numbers(false), batches: batches.boxed() });
            }
            FAILING => {
                let batches = stream::iter([Ok(number_batch()), Err(Error::invalid("division by zero"))]);
                return Ok(Rows { schema: numbers(false), batches: batches.boxed() });
            }
            DRIFTING => return Ok(Rows { schema: numbers(true), batches: stream::empty().boxed() }),
            _ => {}
        }
        let Some(parameters) = &planned.parameters else { return self.execute(&planned.sql, None).await };
        let mut batches = Vec::new();
        for row in 0..parameters.num_rows() {
            batches.push(self.execute(&planned.sql, Some((parameters, row))).await?.batches);
        }
        Ok(Rows { schema: Arc::clone(&planned.schema), batches: stream::iter(batches).flatten().boxed() })
    }

    async fn update(&self, _session: &Arc<Session>, sql: &str, parameters: Option<RecordBatch>) -> Result<UpdateOutcome> {
        if is_query(sql) {
            return Err(Error::invalid("a query is not an update"));
        }
        self.updates.lock().push(sql.to_owned());
        let mut affected = 0;
        for row in 0..parameters.as_ref().map_or(1, RecordBatch::num_rows) {
            let rows = self.execute(sql, parameters.as_ref().map(|batch| (batch, row))).await?;
            let batches: Vec<RecordBatch> = rows.batches.try_collect().await?;
            let counts = batches.iter().filter(|batch| batch.num_columns() == 1);
            affected += counts.map(|batch| batch.column(0).as_primitive::<UInt64Type>().value(0)).sum::<u64>();
        }
        Ok(UpdateOutcome { rows: affected, answer: None, warnings: self.warnings.lock().clone() })
    }

    async fn refused_handle(&self, _session: &Arc<Session>, error: Error) -> Error {
        error
    }

    async fn visible_catalogs(&self, _session: &Arc<Session>) -> Result<Vec<String>> {
        Ok(vec!["lake".into(), "datafusion".into()])
    }

    async fn visible_schemas(&self, _session: &Arc<Session>, _filter: &ObjectFilter) -> Result<Vec<(String, String)>> {
        Ok([("lake", "omop"), ("lake", "covid"), ("datafusion", "public")].map(|(c, s)| (c.into(), s.into())).into())
    }

    async fn visible_objects(&self, session: &Arc<Session>, filter: &ObjectFilter) -> Result<Vec<CatalogObject>> {
        let columns = Schema::new(vec![
            Field::new("person_id", DataType::Int64, false),
            Field::new("name", DataType::Utf8View, true).with_metadata(HashMap::from([("x".into(), "y".into())])),
        ]);
        let mut objects = vec![
            ("lake", "omop", "person", "TABLE"),
            ("lake", "omop", "personal_view", "VIEW"),
            ("lake", "covid", "a_b", "TABLE"),
            ("lake", "covid", "axb", "TABLE"),
            ("datafusion", "public", "audit", "SYSTEM TABLE"),
        ];
        if session.principal().name.subject == "rui" {
            objects.retain(|(_, schema, ..)| *schema == "omop");
        }
        let object = |(catalog, schema, name, table_type): (&str, &str, &str, &'static str)| CatalogObject {
            catalog: catalog.into(),
            schema: schema.into(),
            name: name.into(),
            table_type,
            columns: (filter.with_columns && name != "axb").then(|| Arc::new(columns.clone())),
        };
        Ok(objects.into_iter().map(object).collect())
    }
}
