//! From the engine's rows to Flight messages: canonical, small enough for every driver, cancelled when nobody reads.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::{FlightData, IpcMessage, SchemaAsIpc};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::engine::Rows;
use crate::engine::size::array_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::canonical::canonical_batch;
use crate::flight::type_info::result_schema;

/// Naive clients take messages of 4 MiB, and ADBC 16 MiB. Half of the former leaves room for headers and padding; only
/// a single row can be larger.
const MESSAGE_BYTES: usize = 2 << 20;

/// A row cannot be cut, and all of it is in memory several times on its way out. Drivers that take more than 16 MiB at a
/// time have been told to, and have no limit of their own.
const MAX_ROW_BYTES: usize = 256 << 20;

pub type FlightDataStream = BoxStream<'static, Result<FlightData, Status>>;

/// The stream of a query. Dropping it drops the engine's, which cancels the query.
pub fn rows_to_flight(rows: Rows, schema: SchemaRef, cancel: CancellationToken) -> Result<FlightDataStream> {
    if result_schema(&rows.schema) != schema {
        return Err(Error::new(ErrorKind::FailedPrecondition, "the result's columns have changed since the statement was planned"));
    }
    Ok(encode(cancellable(rows.batches, cancel), schema))
}

/// One batch of our own making, such as metadata.
pub fn batch_to_flight(batch: RecordBatch) -> FlightDataStream {
    let schema = batch.schema();
    encode(stream::iter([Ok(batch)]).boxed(), schema)
}

/// A stream of no rows, which still says its schema.
pub fn nothing_to_flight(schema: SchemaRef) -> FlightDataStream {
    encode(stream::empty().boxed(), schema)
}

/// A schema as an encapsulated IPC message: what FlightInfo, GetSchema, prepared statements and `table_schema` hold.
pub fn schema_bytes(schema: &SchemaRef) -> Result<Bytes> {
    let IpcMessage(bytes) =
        SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into().map_err(|error: ArrowError| Error::internal(error))?;
    Ok(bytes)
}

fn cancellable(batches: BoxStream<'static, Result<RecordBatch>>, cancel: CancellationToken) -> BoxStream<'static, Result<RecordBatch>> {
    let cancelled = cancel.clone();
    let ending = stream::once(async move { Err(Error::new(ErrorKind::Cancelled, "the query was cancelled")) });
    let ending = ending.filter(move |_| std::future::ready(cancelled.is_cancelled()));
    batches.take_until(cancel.cancelled_owned()).chain(ending).boxed()
}

fn encode(batches: BoxStream<'static, Result<RecordBatch>>, schema: SchemaRef) -> FlightDataStream {
    let target = Arc::clone(&schema);
    let pieces = batches.flat_map(move |batch| {
        let pieces = match batch {
            Ok(batch) => pieces(&batch, &target),
            Err(error) => vec![Err(error)],
        };
        stream::iter(pieces)
    });
    let encoded = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        // The pieces have their size already; the encoder would split by averages.
        .with_max_flight_data_size(usize::MAX)
        .build(pieces.map(|piece| piece.map_err(|error| FlightError::Tonic(Box::new(error.into())))));
    until_error(encoded.map(|message| message.map_err(encoding_error))).boxed()
}

/// After an error the stream ends: the status is the last thing that gRPC can say.
fn until_error<T>(messages: impl Stream<Item = Result<T, Status>>) -> impl Stream<Item = Result<T, Status>> {
    messages.scan(false, |failed, message| {
        let next = (!*failed).then_some(message);
        *failed |= matches!(next, Some(Err(_)));
        std::future::ready(next)
    })
}

fn encoding_error(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Error::internal(other).into(),
    }
}

/// The canonical batch, cut so that no piece of several rows is over the target.
fn pieces(batch: &RecordBatch, schema: &SchemaRef) -> Vec<Result<RecordBatch>> {
    let mut done = Vec::new();
    let mut waiting = vec![batch.clone()];
    while let Some(batch) = waiting.pop() {
        let rows = batch.num_rows();
        let converted = canonical_batch(&batch, schema);
        let small = match &converted {
            Ok(converted) => batch_bytes(converted) <= MESSAGE_BYTES,
            // Text of more than 2 GiB does not fit into one plain array, but half of it may.
            Err(_) => false,
        };
        if small || rows <= 1 {
            let converted = converted.and_then(small_enough);
            let failed = converted.is_err();
            done.push(converted);
            if failed {
                break;
            }
            continue;
        }
        let whole = converted.unwrap_or(batch);
        waiting.push(whole.slice(rows / 2, rows - rows / 2));
        waiting.push(whole.slice(0, rows / 2));
    }
    done
}

fn small_enough(piece: RecordBatch) -> Result<RecordBatch> {
    let bytes = batch_bytes(&piece);
    if bytes > MAX_ROW_BYTES {
        let text = format!("a row of the result has {bytes} bytes, the limit is {MAX_ROW_BYTES}");
        return Err(Error::new(ErrorKind::Exhausted, text));
    }
    Ok(piece)
}

fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| array_bytes(column)).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, ListArray, StringArray, StringViewArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow_flight::decode::FlightRecordBatchStream;
    use futures::TryStreamExt;
    use prost::Message;

    use super::*;
    use crate::flight::canonical::canonical_schema;

    async fn sizes_and_rows(batch: RecordBatch) -> (Vec<usize>, Vec<RecordBatch>) {
        let schema = canonical_schema(batch.schema_ref());
        let messages: Vec<FlightData> = encode(stream::iter([Ok(batch)]).boxed(), schema).try_collect().await.unwrap();
        let sizes = messages.iter().map(Message::encoded_len).collect();
        let stream = FlightRecordBatchStream::new_from_flight_data(stream::iter(messages.into_iter().map(Ok)));
        (sizes, stream.try_collect().await.unwrap())
    }

    #[tokio::test]
    async fn messages_stay_below_what_naive_clients_take() {
        // One row in a hundred is a megabyte, and they lie together: averages would put many of them into one message.
        let long = "x".repeat(1 << 20);
        let texts: Vec<&str> = (0..1000).map(|row| if (500..510).contains(&row) { long.as_str() } else { "s" }).collect();
        let batch = RecordBatch::try_from_iter([("t", Arc::new(StringViewArray::from(texts)) as ArrayRef)]).unwrap();
        let (sizes, batches) = sizes_and_rows(batch.clone()).await;
        assert!(sizes.iter().all(|size| *size < 4 << 20), "{sizes:?}");
        assert!(sizes.len() < 20, "{sizes:?}");
        let schema = canonical_schema(batch.schema_ref());
        assert_eq!(concat_batches(&schema, &batches).unwrap(), canonical_batch(&batch, &schema).unwrap());
    }

    #[tokio::test]
    async fn one_huge_row_and_slices_of_lists_pass() {
        let batch = RecordBatch::try_from_iter([("t", Arc::new(StringArray::from(vec!["x".repeat(6 << 20)])) as ArrayRef)]).unwrap();
        assert_eq!(sizes_and_rows(batch).await.1[0].num_rows(), 1);
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(1000, 2000));
        let item = Arc::new(Field::new("item", DataType::Int32, true));
        let list = ListArray::new(item, offsets, Arc::new(Int32Array::from_iter_values(0..2_000_000)), None);
        let batch = RecordBatch::try_from_iter([("l", Arc::new(list) as ArrayRef)]).unwrap().slice(10, 1900);
        let (sizes, batches) = sizes_and_rows(batch).await;
        assert!(sizes.iter().all(|size| *size < 4 << 20) && sizes.len() < 12, "{sizes:?}");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1900);
    }

    #[test]
    fn a_row_that_no_client_could_take_is_refused() {
        let batch = RecordBatch::try_from_iter([("t", Arc::new(StringArray::from(vec!["x".repeat(MAX_ROW_BYTES)])) as ArrayRef)]).unwrap();
        let sent = pieces(&batch, &canonical_schema(batch.schema_ref()));
        let error = sent[0].as_ref().unwrap_err();
        assert_eq!((sent.len(), error.kind), (1, ErrorKind::Exhausted));
        assert!(error.message.ends_with("bytes, the limit is 268435456"), "{error}");
    }

    #[tokio::test]
    async fn an_error_is_the_last_message_and_hides_what_is_ours() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, false)]));
        let good = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int32Array::from(vec![1]))]).unwrap();
        let items = vec![Ok(good.clone()), Err(Error::invalid("divide by zero")), Ok(good.clone())];
        let sent: Vec<_> = encode(stream::iter(items).boxed(), Arc::clone(&schema)).collect().await;
        assert_eq!(sent.len(), 3);
        assert_eq!(sent[2].as_ref().unwrap_err().message(), "divide by zero");

        let nullable = Schema::new(vec![Field::new("n", DataType::Int32, true)]);
        let nulls = RecordBatch::try_new(Arc::new(nullable), vec![Arc::new(Int32Array::from(vec![None, None]))]).unwrap();
        let sent: Vec<_> = encode(stream::iter([Ok(nulls)]).boxed(), schema).collect().await;
        let status = sent[1].as_ref().unwrap_err();
        assert!(status.code() == tonic::Code::Internal && status.message().starts_with("internal error (id "), "{status}");
    }

    #[tokio::test]
    async fn cancelling_ends_the_stream_with_its_status() {
        let cancel = CancellationToken::new();
        let mut endless = cancellable(stream::pending().boxed(), cancel.clone());
        cancel.cancel();
        assert_eq!(endless.next().await.unwrap().unwrap_err().kind, ErrorKind::Cancelled);
        assert!(endless.next().await.is_none());
        let finished = cancellable(stream::empty().boxed(), CancellationToken::new());
        assert_eq!(finished.count().await, 0);
    }
}
