//! CREATE TABLE: the query, which has no rows where columns are written out, makes a table, and then the metadata names it.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use lazaret_catalog::write;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::UpdateOutcome;
use super::failure::{from_datafusion, from_write};
use super::rows::{in_time, unless_killed};
use crate::activity::killed;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::statement::CreateTableAs;
use crate::statements::{self, StatementContext};

/// What is to be run, and how long it may take.
pub(super) struct Source {
    pub schema: SchemaRef,
    pub plan: Arc<dyn ExecutionPlan>,
    pub task: Arc<TaskContext>,
    pub queries: Handle,
    pub limit: Option<Duration>,
    /// Cancelled when the statement is killed.
    pub stop: CancellationToken,
}

/// Writes the rows and names the table. Until the metadata is asked, a kill or the end of `client` stops it and its files
/// go; from then on it comes to its end, so that what the audit says is what happened.
pub(super) async fn create_table_as(
    context: &StatementContext,
    create: &CreateTableAs,
    source: Source,
    client: oneshot::Receiver<()>,
) -> Result<UpdateOutcome> {
    let Some(id) = statements::begin_create(context, create).await? else {
        return Ok(UpdateOutcome::default());
    };
    let table = write::NewTable {
        id,
        schema: declared(create, source.schema),
        partition_by: create.partitioned_by.iter().map(|column| column.as_str().to_owned()).collect(),
        comment: None,
    };
    let stores = Arc::clone(context.lake.stores());
    let mut writing = JoinSet::new();
    let (plan, task) = (source.plan, source.task);
    let write = async move {
        let batches = execute_stream(plan, task).map_err(from_datafusion)?;
        write::create_table_as(&stores, table, batches).await.map_err(from_write)
    };
    writing.spawn_on(write, &source.queries);
    let written = async { writing.join_next().await.ok_or_else(|| Error::internal("nothing was written"))?.map_err(Error::internal)? };
    let created = tokio::select! {
        created = unless_killed(&source.stop, in_time(source.limit, written)) => match created {
            Ok(created) => created,
            Err(error) => {
                // What still writes would write again what is removed.
                writing.shutdown().await;
                statements::abandon_created(context, id).await;
                return Err(error);
            }
        },
        _ = client => return Err(Error::new(ErrorKind::Cancelled, "the statement was cancelled; nothing was written")),
    };
    if source.stop.is_cancelled() {
        statements::abandon_created(context, id).await;
        return Err(killed());
    }
    statements::register_created(context, create, id, &created).await
}

/// Columns are NOT NULL where that was said. That a query cannot give NULL is about its rows, not about those to come.
fn declared(create: &CreateTableAs, schema: SchemaRef) -> SchemaRef {
    let not_null = |index: usize| create.columns.get(index).is_some_and(|column| column.not_null);
    let fields = schema.fields().iter().enumerate().map(|(index, field)| field.as_ref().clone().with_nullable(!not_null(index)));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
