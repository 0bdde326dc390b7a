//! Parameters as Arrow IPC from a client: hostile until shown otherwise.
//!
//! arrow-ipc trusts lengths that a message declares, and can panic on what is malformed. So: what a message declares is
//! checked before it is decoded, compressed bodies are refused (no driver compresses parameters), decoding runs off the
//! async threads under `catch_unwind`, and Arrow's own validation stays on. Whatever is wrong is INVALID_ARGUMENT.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, UnionArray};
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::{MessageHeader, root_as_message};
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use futures::TryStreamExt;
use tonic::Streaming;

use crate::error::{Error, ErrorKind, Result};
use crate::flight::canonical::{canonical_batch, canonical_schema};

/// All messages of one upload of parameters together: they are held in memory at once.
pub const PARAMETER_BYTES: usize = 64 << 20;
/// Rows of parameters in one upload: each is one execution.
pub const PARAMETER_ROWS: i64 = 1 << 20;
/// Values that one array of a message may declare. Arrays of NULLs take no bytes, so bytes alone bound nothing.
const DECLARED_VALUES: i64 = 16 << 20;
/// A client that sends nothing for so long in the middle of an upload has gone.
const UPLOAD_PAUSE: Duration = Duration::from_secs(60);

/// Reads an upload to its end and decodes it. `None`: it held no parameters, only an empty message or no columns.
pub async fn read_parameters(first: FlightData, incoming: &mut Streaming<FlightData>) -> Result<Option<RecordBatch>> {
    let mut bytes = size_of_message(&first);
    let mut messages = vec![first];
    loop {
        let next = tokio::time::timeout(UPLOAD_PAUSE, incoming.message()).await;
        let next = next.map_err(|_| Error::new(ErrorKind::DeadlineExceeded, "the upload of parameters stopped in the middle"))?;
        let Some(message) = next.map_err(upload_error)? else { break };
        bytes = bytes.saturating_add(size_of_message(&message));
        if bytes > PARAMETER_BYTES {
            let text = format!("the parameters are too large: the limit is {PARAMETER_BYTES} bytes in one upload");
            return Err(Error::new(ErrorKind::Exhausted, text));
        }
        messages.push(message);
    }
    tokio::task::spawn_blocking(move || decode(messages)).await.map_err(Error::internal)?
}

fn size_of_message(message: &FlightData) -> usize {
    message.data_header.len() + message.data_body.len()
}

/// tonic's own refusals (a message over the limit, a broken protobuf) keep their status; nothing in them is ours.
fn upload_error(status: tonic::Status) -> Error {
    let kind = match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => ErrorKind::Exhausted,
        tonic::Code::Cancelled => ErrorKind::Cancelled,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, format!("the upload failed: {}", status.message()))
}

fn decode(messages: Vec<FlightData>) -> Result<Option<RecordBatch>> {
    let mut rows = 0i64;
    let mut checked = Vec::with_capacity(messages.len());
    for message in messages {
        // Without an IPC header there is nothing but the descriptor.
        if message.data_header.is_empty() {
            continue;
        }
        rows = rows.saturating_add(check(&message)?);
        checked.push(message);
    }
    if rows > PARAMETER_ROWS {
        let text = format!("too many rows of parameters: the limit is {PARAMETER_ROWS} in one upload");
        return Err(Error::new(ErrorKind::Exhausted, text));
    }
    if checked.is_empty() {
        return Ok(None);
    }
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_checked(checked)));
    decoded.unwrap_or_else(|_| Err(malformed("it cannot be decoded")))
}

/// What a message declares about itself, before anything believes it. Gives its number of rows.
fn check(message: &FlightData) -> Result<i64> {
    let parsed = root_as_message(&message.data_header).map_err(|_| malformed("a message header is not Arrow's"))?;
    let (batch, rows) = match parsed.header_type() {
        MessageHeader::RecordBatch => {
            let batch = parsed.header_as_record_batch().ok_or_else(|| malformed("a record batch without a header"))?;
            (batch, batch.length())
        }
        MessageHeader::DictionaryBatch => {
            let dictionary = parsed.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
            (dictionary.ok_or_else(|| malformed("a dictionary without data"))?, 0)
        }
        _ => return Ok(0),
    };
    if batch.compression().is_some() {
        return Err(Error::invalid("compressed Arrow data is not accepted as parameters"));
    }
    let declared = batch.nodes().into_iter().flatten().flat_map(|node| [node.length(), node.null_count()]);
    if declared.chain([batch.length()]).any(|count| !(0..=DECLARED_VALUES).contains(&count)) {
        return Err(malformed("a length is out of range"));
    }
    let body = message.data_body.len() as i64;
    let within = |offset: i64, length: i64| offset >= 0 && length >= 0 && offset.checked_add(length).is_some_and(|end| end <= body);
    if !batch.buffers().into_iter().flatten().all(|buffer| within(buffer.offset(), buffer.length())) {
        return Err(malformed("a buffer lies outside its message"));
    }
    Ok(rows)
}

fn decode_checked(messages: Vec<FlightData>) -> Result<Option<RecordBatch>> {
    let mut stream = FlightRecordBatchStream::new_from_flight_data(futures::stream::iter(messages.into_iter().map(Ok)));
    let batches: Vec<RecordBatch> =
        futures::executor::block_on((&mut stream).try_collect()).map_err(|_| malformed("it cannot be decoded"))?;
    let schema = stream.schema().cloned().ok_or_else(|| malformed("no schema"))?;
    if schema.fields().is_empty() {
        return Ok(None);
    }
    let batches: Vec<RecordBatch> = batches.iter().map(plain).collect::<Result<_>>()?;
    let schema = match batches.first() {
        Some(batch) => batch.schema(),
        None => canonical_schema(&schema),
    };
    // A union's chosen type may differ between batches.
    let together = concat_batches(&schema, &batches).map_err(|_| Error::invalid("a parameter has several types in one upload"))?;
    Ok(Some(together))
}

/// Without unions, views and dictionaries, all nullable: what the engine casts to the types that it wants.
fn plain(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = batch.columns().iter().map(without_union).collect::<Result<_>>()?;
    let named = batch.schema_ref().fields().iter().zip(&columns);
    let fields: Vec<Field> = named.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(Error::internal)?;
    canonical_batch(&batch, &canonical_schema(batch.schema_ref()))
}

/// flightsql-dbapi sends each parameter as a dense union of all types it knows, of which one row uses one.
fn without_union(column: &ArrayRef) -> Result<ArrayRef> {
    let DataType::Union(_, _) = column.data_type() else { return Ok(Arc::clone(column)) };
    let union: &UnionArray = column.as_union();
    let mut used = None;
    let mut positions = Vec::with_capacity(union.len());
    for row in 0..union.len() {
        let (child, at) = (union.type_id(row), union.value_offset(row) as u32);
        if union.child(child).is_null(at as usize) || union.child(child).data_type().is_null() {
            positions.push(None);
            continue;
        }
        if used.is_some_and(|used| used != child) {
            return Err(Error::invalid("a parameter has several types in one upload"));
        }
        used = Some(child);
        positions.push(Some(at));
    }
    match used {
        Some(child) => take(union.child(child), &UInt32Array::from(positions), None).map_err(Error::internal),
        None => cast(&arrow::array::new_null_array(&DataType::Null, union.len()), &DataType::Utf8).map_err(Error::internal),
    }
}

fn malformed(what: &str) -> Error {
    Error::invalid(format!("malformed Arrow data: {what}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use arrow::array::{Int64Array, NullArray, StringArray};
    use arrow::datatypes::{FieldRef, Int64Type, UnionFields};
    use arrow::ipc::writer::IpcWriteOptions;
    use arrow_flight::utils::batches_to_flight_data;

    use super::*;

    fn batch(values: Vec<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap()
    }

    fn messages(batches: Vec<RecordBatch>) -> Vec<FlightData> {
        batches_to_flight_data(&batches[0].schema().clone(), batches).unwrap()
    }

    #[test]
    fn several_batches_become_one() {
        let read = decode(messages(vec![batch(vec![1, 2]), batch(vec![3])])).unwrap().unwrap();
        assert_eq!(read.column(0).as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    }

    #[test]
    fn nothing_and_no_columns_are_no_parameters() {
        assert!(decode(vec![FlightData::default()]).unwrap().is_none());
        let empty = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let schema: FlightData = arrow_flight::SchemaAsIpc::new(&Schema::empty(), &IpcWriteOptions::default()).into();
        assert!(decode(vec![schema]).unwrap().is_none());
        assert!(decode(messages(vec![empty])).unwrap().is_none());
    }

    #[test]
    fn a_union_of_one_type_is_that_type() {
        let fields: UnionFields = [(0i8, DataType::Utf8), (1, DataType::Int64), (2, DataType::Null)]
            .into_iter()
            .map(|(id, data_type)| (id, Arc::new(Field::new(id.to_string(), data_type, true)) as FieldRef))
            .collect();
        let children: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(vec!["x"])), Arc::new(Int64Array::from(vec![7])), Arc::new(NullArray::new(1))];
        let union = |ids: Vec<i8>| {
            let offsets = vec![0; ids.len()];
            UnionArray::try_new(fields.clone(), ids.into(), Some(offsets.into()), children.clone()).unwrap()
        };
        let int = without_union(&(Arc::new(union(vec![1, 2])) as ArrayRef)).unwrap();
        assert_eq!(int.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(7), None]);
        let null = without_union(&(Arc::new(union(vec![2])) as ArrayRef)).unwrap();
        assert_eq!((null.data_type(), null.null_count()), (&DataType::Utf8, 1));
        assert!(without_union(&(Arc::new(union(vec![0, 1])) as ArrayRef)).is_err());
        let sent = RecordBatch::try_from_iter([("p", Arc::new(union(vec![1])) as ArrayRef)]).unwrap();
        assert_eq!(decode(messages(vec![sent])).unwrap().unwrap().schema().field(0).data_type(), &DataType::Int64);
    }

    /// Every byte of header and body changed in turn: an error or some batch, never a panic that escapes.
    #[test]
    fn flipped_bytes_do_no_harm() {
        let names = RecordBatch::try_from_iter([
            ("s", Arc::new(StringArray::from(vec![Some("ab"), None, Some("c")])) as ArrayRef),
            ("n", Arc::new(NullArray::new(3)) as ArrayRef),
        ])
        .unwrap();
        let good = messages(vec![names]);
        for at in 0..good.len() {
            for byte in 0..good[at].data_header.len() + good[at].data_body.len() {
                for flip in [0x01, 0x80, 0xff] {
                    let mut bad = good.clone();
                    let (mut header, mut body) = (bad[at].data_header.to_vec(), bad[at].data_body.to_vec());
                    match header.get_mut(byte) {
                        Some(changed) => *changed ^= flip,
                        None => body[byte - header.len()] ^= flip,
                    }
                    (bad[at].data_header, bad[at].data_body) = (header.into(), body.into());
                    if let Err(error) = decode(bad) {
                        assert!(matches!(error.kind, ErrorKind::Invalid | ErrorKind::Exhausted), "{error:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn garbage_is_invalid() {
        for header in [b"x".as_slice(), &[0; 64], &[0xff; 64]] {
            let message = FlightData { data_header: header.to_vec().into(), ..FlightData::default() };
            assert_eq!(decode(vec![message]).unwrap_err().kind, ErrorKind::Invalid);
        }
        let only_batch = messages(vec![batch(vec![1])]).split_off(1);
        assert_eq!(decode(only_batch).unwrap_err().kind, ErrorKind::Invalid);
    }
}
