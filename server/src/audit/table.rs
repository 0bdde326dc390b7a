//! The log as the table `system.audit`.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Builder, ListBuilder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;

use super::{AuditLog, AuditRow};

const BATCH_ROWS: usize = 1024;

/// A batch is sent on when its statements have this much text.
const BATCH_TEXT_BYTES: usize = 4 << 20;

/// Batches that wait for the consumer.
const QUEUED_BATCHES: usize = 2;

const UTC: &str = "UTC";

/// The columns of `system.audit`, in the order of `docs/sql.md`.
pub fn audit_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
        let texts = |name: &str| Field::new_list(name, Field::new_list_field(DataType::Utf8, true), false);
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        Arc::new(Schema::new(vec![
            Field::new("seq", DataType::Int64, false),
            Field::new("time", DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())), false),
            text("statement_id", false),
            text("session_id", false),
            text("principal", false),
            texts("roles"),
            text("issuer", false),
            text("subject", false),
            text("token_id", true),
            text("client_address", true),
            text("client_driver", true),
            text("statement", false),
            text("statement_hash", false),
            text("parameters", true),
            texts("tables"),
            texts("columns"),
            text("policies", false),
            text("emergency", true),
            text("decision", false),
            text("status", false),
            text("error_id", true),
            number("rows_returned"),
            number("bytes_returned"),
            number("duration_us"),
            text("executed_as", true),
        ]))
    });
    Arc::clone(&SCHEMA)
}

/// The whole log as a table. Who may read it is decided where it is handed out.
pub fn audit_table(log: &AuditLog) -> Result<Arc<dyn TableProvider>> {
    let table = StreamingTable::try_new(audit_schema(), vec![Arc::new(AuditPartition { log: log.clone(), schema: audit_schema() })])?;
    Ok(Arc::new(table))
}

#[derive(Debug)]
struct AuditPartition {
    log: AuditLog,
    schema: SchemaRef,
}

impl PartitionStream for AuditPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut stream = RecordBatchReceiverStreamBuilder::new(audit_schema(), QUEUED_BATCHES);
        let (log, out) = (self.log.clone(), stream.tx());
        stream.spawn_blocking(move || {
            let external = |error| DataFusionError::External(Box::new(error));
            let mut batch = BatchBuilder::default();
            for row in log.read().map_err(external)? {
                batch.push(row.map_err(external)?);
                if batch.is_full() && out.blocking_send(Ok(batch.finish()?)).is_err() {
                    // Nobody reads on: a LIMIT, or the client has gone.
                    return Ok(());
                }
            }
            if batch.rows > 0 {
                let _ = out.blocking_send(Ok(batch.finish()?));
            }
            Ok(())
        });
        stream.build()
    }
}

/// Rows as batches of [`audit_schema`].
#[derive(Default)]
pub(super) struct BatchBuilder {
    pub rows: usize,
    text_bytes: usize,
    seq: Int64Builder,
    time: TimestampMicrosecondBuilder,
    statement_id: StringBuilder,
    session_id: StringBuilder,
    principal: StringBuilder,
    roles: ListBuilder<StringBuilder>,
    issuer: StringBuilder,
    subject: StringBuilder,
    executed_as: StringBuilder,
    token_id: StringBuilder,
    client_address: StringBuilder,
    client_driver: StringBuilder,
    statement: StringBuilder,
    statement_hash: StringBuilder,
    parameters: StringBuilder,
    tables: ListBuilder<StringBuilder>,
    columns: ListBuilder<StringBuilder>,
    policies: StringBuilder,
    emergency: StringBuilder,
    decision: StringBuilder,
    status: StringBuilder,
    error_id: StringBuilder,
    rows_returned: Int64Builder,
    bytes_returned: Int64Builder,
    duration_us: Int64Builder,
}

impl BatchBuilder {
    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.text_bytes >= BATCH_TEXT_BYTES
    }

    pub fn push(&mut self, row: AuditRow) {
        self.rows += 1;
        let AuditRow { record, .. } = row;
        let policies = record.policies.to_string();
        self.text_bytes += record.statement.len() + record.parameters.as_ref().map_or(0, String::len) + policies.len();
        self.seq.append_value(signed(row.seq));
        self.time.append_value(row.time_us);
        self.statement_id.append_value(record.statement_id);
        self.session_id.append_value(record.session_id);
        self.principal.append_value(record.principal);
        append_list(&mut self.roles, record.roles);
        self.issuer.append_value(record.issuer);
        self.subject.append_value(record.subject);
        self.executed_as.append_option(record.executed_as);
        self.token_id.append_option(record.token_id);
        self.client_address.append_option(record.client_address);
        self.client_driver.append_option(record.client_driver);
        self.statement.append_value(record.statement);
        self.statement_hash.append_value(row.statement_hash);
        self.parameters.append_option(record.parameters);
        append_list(&mut self.tables, record.tables);
        append_list(&mut self.columns, record.columns);
        self.policies.append_value(policies);
        self.emergency.append_option(record.emergency);
        self.decision.append_value(row.decision.as_str());
        self.status.append_value(row.status);
        self.error_id.append_option(row.error_id);
        self.rows_returned.append_option(row.rows_returned.map(signed));
        self.bytes_returned.append_option(row.bytes_returned.map(signed));
        self.duration_us.append_option(row.duration_us.map(signed));
    }

    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        self.text_bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.seq.finish()),
            Arc::new(self.time.finish().with_timezone(UTC)),
            Arc::new(self.statement_id.finish()),
            Arc::new(self.session_id.finish()),
            Arc::new(self.principal.finish()),
            Arc::new(self.roles.finish()),
            Arc::new(self.issuer.finish()),
            Arc::new(self.subject.finish()),
            Arc::new(self.token_id.finish()),
            Arc::new(self.client_address.finish()),
            Arc::new(self.client_driver.finish()),
            Arc::new(self.statement.finish()),
            Arc::new(self.statement_hash.finish()),
            Arc::new(self.parameters.finish()),
            Arc::new(self.tables.finish()),
            Arc::new(self.columns.finish()),
            Arc::new(self.policies.finish()),
            Arc::new(self.emergency.finish()),
            Arc::new(self.decision.finish()),
            Arc::new(self.status.finish()),
            Arc::new(self.error_id.finish()),
            Arc::new(self.rows_returned.finish()),
            Arc::new(self.bytes_returned.finish()),
            Arc::new(self.duration_us.finish()),
            Arc::new(self.executed_as.finish()),
        ];
        RecordBatch::try_new(audit_schema(), columns)
    }
}

fn append_list(list: &mut ListBuilder<StringBuilder>, items: Vec<String>) {
    for item in items {
        list.values().append_value(item);
    }
    list.append(true);
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
