//! The rows of a running query: computed on the query runtime, handed over in their canonical form, counted, bounded in
//! time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::Rows;
use super::failure::from_datafusion;
use super::record::Running;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::canonical::canonical_batch;

/// Batches that a query computes ahead of its client: enough to keep both busy, too few to buffer a result.
const BATCHES_AHEAD: usize = 2;

type Plan = (Arc<dyn ExecutionPlan>, Arc<TaskContext>);

/// The rows of plans that run one after the other. Its end, an error and its drop each write the audit's end record;
/// dropped, it stops the query.
pub(super) struct Draining {
    running: Option<Running>,
    computed: mpsc::Receiver<Result<RecordBatch>>,
    /// Aborts the query when it goes.
    computing: JoinSet<()>,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl Draining {
    pub fn new(queries: &Handle, running: Running, plans: Vec<Plan>, schema: SchemaRef, timeout: Option<Duration>) -> Self {
        let deadline = timeout.map(|limit| (Box::pin(tokio::time::sleep_until(Instant::now() + limit)), limit));
        let (sender, computed) = mpsc::channel(BATCHES_AHEAD);
        let mut computing = JoinSet::new();
        computing.spawn_on(compute(plans, schema, sender), queries);
        Self { running: Some(running), computed, computing, deadline }
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        if let Some((sleep, limit)) = &mut self.deadline
            && sleep.poll_unpin(context).is_ready()
        {
            let message =
                format!("the statement ran longer than {} s (limits.query_timeout_s or statement_timeout_ms)", limit.as_secs_f64());
            return Poll::Ready(Some(Err(Error::new(ErrorKind::DeadlineExceeded, message))));
        }
        match self.computed.poll_recv(context) {
            // The channel also closes when the query panicked: that is no end.
            Poll::Ready(None) => match self.computing.poll_join_next(context) {
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Error::internal(error)))),
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            other => other,
        }
    }
}

/// Runs the plans and sends their batches, until an error or until nobody listens.
async fn compute(plans: Vec<Plan>, schema: SchemaRef, sender: mpsc::Sender<Result<RecordBatch>>) {
    for (plan, task) in plans {
        let mut stream = match execute_stream(plan, task) {
            Ok(stream) => stream,
            Err(error) => {
                let _ = sender.send(Err(from_datafusion(error))).await;
                return;
            }
        };
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(from_datafusion).and_then(|batch| canonical_batch(&batch, &schema));
            let failed = batch.is_err();
            if sender.send(batch).await.is_err() || failed {
                return;
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
                self.computing.abort_all();
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

/// Runs to the end and keeps nothing. Dropped, it stops.
pub(super) async fn discard(queries: &Handle, plan: Arc<dyn ExecutionPlan>, task: Arc<TaskContext>) -> Result<()> {
    let mut computing = JoinSet::new();
    let all = async move {
        let mut stream = execute_stream(plan, task).map_err(from_datafusion)?;
        while let Some(batch) = stream.next().await {
            batch.map_err(from_datafusion)?;
        }
        Ok(())
    };
    computing.spawn_on(all, queries);
    computing.join_next().await.unwrap_or(Ok(Ok(()))).map_err(Error::internal)?
}
