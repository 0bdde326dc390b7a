//! The rows of a running query: computed on the query runtime, handed over in their canonical form, counted, bounded in
//! time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Rows;
use super::failure::from_datafusion;
use super::record::Running;
use crate::activity::killed;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::canonical::canonical_batch;

/// Batches that a query computes ahead of its client: enough to keep both busy, too few to buffer a result.
const BATCHES_AHEAD: usize = 2;

type Plan = (Arc<dyn ExecutionPlan>, Arc<TaskContext>);

/// How the work on a query ended.
enum Done {
    Computed,
    /// By a kill or the time limit, before it was computed.
    CutOff(Error),
}

/// Plans that run one after the other, as far as their client may lag behind. Dropped, they stop.
pub(super) struct Computing {
    batches: mpsc::Receiver<Result<RecordBatch>>,
    /// Aborts the query when it goes.
    tasks: JoinSet<Done>,
    query: AbortHandle,
    memory: Vec<Arc<dyn MemoryPool>>,
    /// When its time is up, and how long that was.
    ends: Option<(Instant, Duration)>,
}

impl Computing {
    /// Until `stop`, or the time limit: also before the statement's record is written, which may take long.
    pub fn start(queries: &Handle, plans: Vec<Plan>, schema: &SchemaRef, stop: CancellationToken, timeout: Option<Duration>) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let memory = plans.iter().map(|(_, task)| Arc::clone(task.memory_pool())).collect();
        let mut tasks = JoinSet::new();
        let query = tasks.spawn_on(compute(plans, Arc::clone(schema), sender), queries);
        let ends = timeout.map(|limit| (Instant::now() + limit, limit));
        let computing = query.clone();
        let cut_off = async move {
            let error = cut_off(stop, ends).await;
            computing.abort();
            Done::CutOff(error)
        };
        tasks.spawn_on(cut_off, queries);
        Self { batches, tasks, query, memory, ends }
    }
}

/// The rows of plans that run. Its end, an error and its drop each write the audit's end record;
/// dropped, it stops the query.
pub(super) struct Draining {
    /// Until the statement has ended, which a kill and the time limit see to even where its client reads no further.
    running: Arc<Mutex<Option<Running>>>,
    computed: mpsc::Receiver<Result<RecordBatch>>,
    /// Aborts the query when it goes.
    computing: JoinSet<Done>,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    is_over: bool,
}

impl Draining {
    pub fn new(queries: &Handle, running: Running, computing: Computing) -> Self {
        let Computing { batches: computed, tasks: mut computing, query, memory, ends } = computing;
        let deadline = ends.map(|(ends, limit)| (Box::pin(tokio::time::sleep_until(ends)), limit));
        memory.iter().for_each(|pool| running.uses(pool));
        let stop = running.stop();
        let running = Arc::new(Mutex::new(Some(running)));
        let (stopped, ending) = (stop.clone(), Arc::clone(&running));
        // Also where the client does not read on.
        let ended = async move {
            let error = cut_off(stopped, ends).await;
            query.abort();
            finish(&ending, Err(&error));
            Done::CutOff(error)
        };
        computing.spawn_on(ended, queries);
        Self { running, computed, computing, deadline, stop: Box::pin(stop.cancelled_owned()), is_over: false }
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        if self.stop.poll_unpin(context).is_ready() {
            return Poll::Ready(Some(Err(killed())));
        }
        if let Some((sleep, limit)) = &mut self.deadline
            && sleep.poll_unpin(context).is_ready()
        {
            return Poll::Ready(Some(Err(too_long(*limit))));
        }
        match self.computed.poll_recv(context) {
            // The channel also closes where the query was cut off, or panicked: that is no end.
            Poll::Ready(None) => match self.computing.poll_join_next(context) {
                Poll::Ready(Some(Ok(Done::CutOff(error)))) => Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Err(error))) => {
                    let late = self.deadline.as_ref().filter(|_| error.is_cancelled()).map(|(_, limit)| too_long(*limit));
                    Poll::Ready(Some(Err(late.unwrap_or_else(|| Error::internal(error)))))
                }
                Poll::Ready(Some(Ok(Done::Computed)) | None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            other => other,
        }
    }
}

/// Its client has gone.
impl Drop for Draining {
    fn drop(&mut self) {
        drop(self.running.lock().take());
    }
}

/// Why a query goes on no longer, once that is so.
async fn cut_off(stop: CancellationToken, ends: Option<(Instant, Duration)>) -> Error {
    let too_late = async {
        match ends {
            Some((ends, limit)) => {
                tokio::time::sleep_until(ends).await;
                limit
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => killed(),
        limit = too_late => too_long(limit),
    }
}

/// Once, whoever comes first.
fn finish(running: &Mutex<Option<Running>>, outcome: Result<(), &Error>) {
    let running = running.lock().take();
    if let Some(running) = running {
        running.finish(outcome);
    }
}

/// Runs the plans and sends their batches, until an error or until nobody listens.
async fn compute(plans: Vec<Plan>, schema: SchemaRef, sender: mpsc::Sender<Result<RecordBatch>>) -> Done {
    for (plan, task) in plans {
        let mut stream = match execute_stream(plan, task) {
            Ok(stream) => stream,
            Err(error) => {
                let _ = sender.send(Err(from_datafusion(error))).await;
                return Done::Computed;
            }
        };
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(from_datafusion).and_then(|batch| canonical_batch(&batch, &schema));
            let failed = batch.is_err();
            if sender.send(batch).await.is_err() || failed {
                return Done::Computed;
            }
        }
    }
    Done::Computed
}

impl Stream for Draining {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = self.poll_batch(context);
        match &polled {
            Poll::Ready(Some(Ok(batch))) => {
                if let Some(running) = self.running.lock().as_mut() {
                    running.returned(batch);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                self.is_over = true;
                self.computing.abort_all();
                finish(&self.running, Err(error));
            }
            Poll::Ready(None) => {
                self.is_over = true;
                finish(&self.running, Ok(()));
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

fn too_long(limit: Duration) -> Error {
    let message = format!("the statement ran longer than {} s (limits.query_timeout_s or statement_timeout_ms)", limit.as_secs_f64());
    Error::new(ErrorKind::DeadlineExceeded, message)
}

/// The outcome of work that stops when it is dropped, or an error when it takes longer than it may.
pub(super) async fn in_time<T>(limit: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(too_long(limit))),
        None => work.await,
    }
}

/// The outcome of work that stops when it is dropped, or the error of a kill.
pub(super) async fn unless_killed<T>(stop: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(killed()),
        done = work => done,
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
