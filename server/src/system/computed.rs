//! A table of the server: a schema, and how to make its rows when it is scanned.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::future::BoxFuture;
use futures::{TryFutureExt, stream};

/// Column and text of each `column = 'text'` in a query: rows with another text there need not be made.
pub(super) type Wanted = Vec<(String, String)>;

type Make = dyn Fn(Wanted) -> BoxFuture<'static, crate::error::Result<RecordBatch>> + Send + Sync;

#[derive(Clone)]
pub(super) struct Computed {
    schema: SchemaRef,
    make: Arc<Make>,
}

impl Computed {
    pub fn new(
        schema: SchemaRef,
        make: impl Fn(Wanted) -> BoxFuture<'static, crate::error::Result<RecordBatch>> + Send + Sync + 'static,
    ) -> Self {
        Self { schema, make: Arc::new(make) }
    }
}

impl fmt::Debug for Computed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computed").finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for Computed {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match equality(filter) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = Rows { table: self.clone(), wanted: filters.iter().filter_map(equality).collect() };
        StreamingTable::try_new(self.schema(), vec![Arc::new(rows)])?.scan(state, projection, &[], limit).await
    }
}

/// `column = 'text'`, either way round.
fn equality(filter: &Expr) -> Option<(String, String)> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = filter else { return None };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => match value {
            ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
                Some((column.name.clone(), text.clone()))
            }
            _ => None,
        },
        _ => None,
    }
}

#[derive(Debug)]
struct Rows {
    table: Computed,
    wanted: Wanted,
}

impl PartitionStream for Rows {
    fn schema(&self) -> &SchemaRef {
        &self.table.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = (self.table.make)(self.wanted.clone()).map_err(|error| DataFusionError::External(Box::new(error)));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.table.schema), stream::once(rows)))
    }
}
