//! The rows of a running query: in their canonical form, counted, bounded in time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::{Instant, Sleep};

use super::Rows;
use super::failure::from_datafusion;
use super::record::Running;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::canonical::canonical_batch;

/// Runs plans one after the other. Its end, an error and its drop each write the audit's end record.
pub(super) struct Draining {
    running: Option<Running>,
    waiting: std::vec::IntoIter<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)>,
    current: Option<SendableRecordBatchStream>,
    schema: SchemaRef,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl Draining {
    pub fn new(
        running: Running,
        plans: Vec<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)>,
        schema: SchemaRef,
        timeout: Option<Duration>,
    ) -> Self {
        let deadline = timeout.map(|limit| (Box::pin(tokio::time::sleep_until(Instant::now() + limit)), limit));
        Self { running: Some(running), waiting: plans.into_iter(), current: None, schema, deadline }
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        if let Some((sleep, limit)) = &mut self.deadline
            && sleep.poll_unpin(context).is_ready()
        {
            let message =
                format!("the statement ran longer than {} s (limits.query_timeout_s or statement_timeout_ms)", limit.as_secs_f64());
            return Poll::Ready(Some(Err(Error::new(ErrorKind::DeadlineExceeded, message))));
        }
        loop {
            let stream = match &mut self.current {
                Some(stream) => stream,
                None => match self.waiting.next() {
                    Some((plan, task)) => match execute_stream(plan, task) {
                        Ok(stream) => self.current.insert(stream),
                        Err(error) => return Poll::Ready(Some(Err(from_datafusion(error)))),
                    },
                    None => return Poll::Ready(None),
                },
            };
            match stream.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(batch))) => return Poll::Ready(Some(canonical_batch(&batch, &self.schema))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(from_datafusion(error)))),
                Poll::Ready(None) => self.current = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Stream for Draining {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.running.is_none() {
            return Poll::Ready(None);
        }
        let polled = self.poll_batch(context);
        match &polled {
            Poll::Ready(Some(Ok(batch))) => {
                if let Some(running) = &mut self.running {
                    running.returned(batch);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                self.current = None;
                if let Some(running) = self.running.take() {
                    running.finish(Err(error));
                }
            }
            Poll::Ready(None) => {
                if let Some(running) = self.running.take() {
                    running.finish(Ok(()));
                }
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl Running {
    /// The answer of a statement that makes its rows at once.
    pub(super) fn rows_of(mut self, schema: &SchemaRef, answer: Result<RecordBatch>) -> Result<Rows> {
        match answer.and_then(|batch| canonical_batch(&batch, schema)) {
            Ok(batch) => {
                self.returned(&batch);
                self.finish(Ok(()));
                let batches: BoxStream<'static, Result<RecordBatch>> = futures::stream::iter([Ok(batch)]).boxed();
                Ok(Rows { schema: Arc::clone(schema), batches })
            }
            Err(error) => {
                self.finish(Err(&error));
                Err(error)
            }
        }
    }
}

/// Runs to the end and keeps nothing.
pub(super) async fn discard(mut stream: SendableRecordBatchStream) -> Result<()> {
    while let Some(batch) = stream.next().await {
        batch.map_err(from_datafusion)?;
    }
    Ok(())
}
