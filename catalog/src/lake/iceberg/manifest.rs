//! Manifest lists and manifests: Avro files that name a snapshot's data and delete files.

use std::sync::Arc;

use super::avro::{self, Field, Schema, Value};
use super::partition::{PartitionTuple, PartitionValue};
use super::{LakeError, corrupt, unsupported};

/// What a manifest list says of one manifest.
#[derive(Clone, Debug)]
pub(super) struct ManifestFile {
    pub path: String,
    /// Unknown for manifests that version 1 metadata name without a list.
    pub size_bytes: Option<u64>,
    /// `None`: in the manifest's own header.
    pub spec_id: Option<i32>,
    /// Of the commit that added the manifest; 0 in version 1.
    pub sequence_number: i64,
}

/// The manifests of a snapshot that may hold live files.
pub(super) fn parse_list(file: &str, bytes: &[u8]) -> Result<Vec<ManifestFile>, LakeError> {
    let list = avro::File::decode(bytes).map_err(|e| corrupt(file, e))?;
    let columns = Columns::new(&list.fields);
    let mut manifests = Vec::with_capacity(list.records.len());
    for mut record in list.records {
        let path = columns.string(&mut record, "manifest_path").ok_or_else(|| corrupt(file, "a manifest without a path"))?;
        if !columns.is_null(&record, "key_metadata") {
            return Err(unsupported("table encryption"));
        }
        // Absent counts mean "some".
        let [added, existing] = [["added_files_count", "added_data_files_count"], ["existing_files_count", "existing_data_files_count"]]
            .map(|names| names.iter().find_map(|name| columns.long(&record, name)));
        if added == Some(0) && existing == Some(0) {
            continue;
        }
        let spec_id = columns.long(&record, "partition_spec_id").and_then(|id| i32::try_from(id).ok());
        manifests.push(ManifestFile {
            path,
            size_bytes: columns.long(&record, "manifest_length").and_then(|length| u64::try_from(length).ok()),
            spec_id: Some(spec_id.ok_or_else(|| corrupt(file, "a manifest without a partition spec"))?),
            // Version 1 lists have none; all they name is older than any version 2 commit.
            sequence_number: columns.long(&record, "sequence_number").unwrap_or(0),
        });
    }
    Ok(manifests)
}

/// A manifest's live entries.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(super) spec_id: Option<i32>,
    /// Partition field ids of the tuples, in their order; `None` where the writer left them out.
    pub(super) partition_ids: Vec<Option<i32>>,
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Data,
    PositionDeletes,
    EqualityDeletes,
}

/// One live file. Immutable facts only: what is inherited from the manifest list is resolved by [`Entry::sequence`].
#[derive(Debug)]
pub(super) struct Entry {
    pub added: bool,
    /// The data sequence number if the entry has one.
    pub sequence_number: Option<i64>,
    pub content: Content,
    pub path: Arc<str>,
    /// Upper case.
    pub format: String,
    pub partition: PartitionTuple,
    pub rows: u64,
    pub size_bytes: u64,
    /// By field id, ascending.
    pub null_counts: Box<[(i32, u64)]>,
    pub nan_counts: Box<[(i32, u64)]>,
    pub lower_bounds: Box<[(i32, Box<[u8]>)]>,
    pub upper_bounds: Box<[(i32, Box<[u8]>)]>,
    /// The one data file that a delete file is about.
    pub referenced_data_file: Option<Arc<str>>,
    /// Key columns of an equality delete file, ascending.
    pub equality_ids: Box<[i32]>,
    /// Offset and size of a deletion vector.
    pub blob: Option<(u64, u64)>,
}

impl Entry {
    /// The data sequence number. Only added entries inherit the manifest's; entries that were carried over keep their
    /// own, except in version 1 manifests (sequence number 0), which have none.
    pub(super) fn sequence(&self, manifest: &ManifestFile) -> Result<i64, LakeError> {
        match self.sequence_number {
            Some(number) => Ok(number),
            None if self.added || manifest.sequence_number == 0 => Ok(manifest.sequence_number),
            None => Err(corrupt(&manifest.path, "an existing entry without a sequence number")),
        }
    }
}

/// The value at `id` in a list ordered by id.
pub(super) fn by_id<T>(values: &[(i32, T)], id: i32) -> Option<&T> {
    values.binary_search_by_key(&id, |(other, _)| *other).ok().and_then(|at| values.get(at)).map(|(_, value)| value)
}

impl Manifest {
    pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        let decoded = avro::File::decode(bytes).map_err(|e| corrupt(file, e))?;
        let entry_columns = Columns::new(&decoded.fields);
        let data_file = avro::position(&decoded.fields, "data_file").and_then(|at| decoded.fields.get(at));
        let Some(Schema::Record(data_file)) = data_file.map(|field| field.schema.non_null()) else {
            return Err(corrupt(file, "no data_file"));
        };
        let columns = Columns::new(data_file);
        let partition = avro::position(data_file, "partition").and_then(|at| data_file.get(at));
        let partition_ids = match partition.map(|field| field.schema.non_null()) {
            Some(Schema::Record(fields)) => fields.iter().map(|field| field.id).collect(),
            _ => return Err(corrupt(file, "no partition")),
        };

        let mut entries = Vec::new();
        for mut record in decoded.records {
            let status = entry_columns.long(&record, "status").ok_or_else(|| corrupt(file, "an entry without a status"))?;
            let added = match status {
                0 => false,
                1 => true,
                2 => continue,
                other => return Err(corrupt(file, format_args!("entry status {other}"))),
            };
            let sequence_number = entry_columns.long(&record, "sequence_number");
            let Some(Value::Record(data_file)) = entry_columns.take(&mut record, "data_file") else {
                return Err(corrupt(file, "an entry without a data_file"));
            };
            entries.push(entry(file, &columns, data_file, added, sequence_number)?);
        }
        let spec_id = decoded.metadata.get("partition-spec-id").and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        Ok(Self { spec_id, partition_ids, entries })
    }

    /// Bytes held, for the cache.
    pub(crate) fn weight(&self) -> usize {
        let entry = |entry: &Entry| {
            let bounds = |bounds: &[(i32, Box<[u8]>)]| bounds.iter().map(|(_, value)| 24 + value.len()).sum::<usize>();
            size_of::<Entry>()
                + entry.path.len()
                + entry.referenced_data_file.as_ref().map_or(0, |path| path.len())
                + entry.partition.len() * size_of::<Option<PartitionValue>>()
                + 16 * (entry.null_counts.len() + entry.nan_counts.len())
                + bounds(&entry.lower_bounds)
                + bounds(&entry.upper_bounds)
        };
        size_of::<Self>() + self.entries.iter().map(entry).sum::<usize>()
    }
}

fn entry(file: &str, columns: &Columns<'_>, mut record: Vec<Value>, added: bool, sequence_number: Option<i64>) -> Result<Entry, LakeError> {
    let missing = |what: &str| corrupt(file, format_args!("a file without {what}"));
    if !columns.is_null(&record, "key_metadata") {
        return Err(unsupported("table encryption"));
    }
    let content = match columns.long(&record, "content") {
        // Version 1 has data files only.
        None | Some(0) => Content::Data,
        Some(1) => Content::PositionDeletes,
        Some(2) => Content::EqualityDeletes,
        Some(other) => return Err(corrupt(file, format_args!("file content {other}"))),
    };
    let Some(Value::Record(partition)) = columns.take(&mut record, "partition") else { return Err(missing("a partition")) };
    let partition = partition.into_iter().map(PartitionValue::from_avro).collect::<Result<_, _>>().map_err(|e| corrupt(file, e))?;
    let mut equality_ids: Vec<i32> = match columns.take(&mut record, "equality_ids") {
        Some(Value::Array(ids)) => ids.into_iter().filter_map(as_id).collect(),
        _ => Vec::new(),
    };
    equality_ids.sort_unstable();
    let count = |name: &str| columns.long(&record, name).and_then(|value| u64::try_from(value).ok());
    let blob = count("content_offset").zip(count("content_size_in_bytes"));
    Ok(Entry {
        added,
        sequence_number,
        content,
        rows: count("record_count").ok_or_else(|| missing("a record count"))?,
        size_bytes: count("file_size_in_bytes").ok_or_else(|| missing("a size"))?,
        blob,
        equality_ids: equality_ids.into(),
        path: columns.string(&mut record, "file_path").ok_or_else(|| missing("a path"))?.into(),
        format: columns.string(&mut record, "file_format").ok_or_else(|| missing("a format"))?.to_uppercase(),
        partition,
        null_counts: columns.map(&mut record, "null_value_counts", as_count),
        nan_counts: columns.map(&mut record, "nan_value_counts", as_count),
        lower_bounds: columns.map(&mut record, "lower_bounds", as_bytes),
        upper_bounds: columns.map(&mut record, "upper_bounds", as_bytes),
        referenced_data_file: columns.string(&mut record, "referenced_data_file").map(Arc::from),
    })
}

fn as_count(value: Value) -> Option<u64> {
    match value {
        // Negative: a writer's "unknown".
        Value::Long(value) => u64::try_from(value).ok(),
        _ => None,
    }
}

fn as_id(value: Value) -> Option<i32> {
    match value {
        Value::Long(value) => i32::try_from(value).ok(),
        _ => None,
    }
}

fn as_bytes(value: Value) -> Option<Box<[u8]>> {
    match value {
        Value::Bytes(value) => Some(value.into()),
        _ => None,
    }
}

/// A record's fields by name. The spec goes by field id, but every writer uses the spec's names.
struct Columns<'a>(&'a [Field]);

impl<'a> Columns<'a> {
    fn new(fields: &'a [Field]) -> Self {
        Self(fields)
    }

    fn get<'v>(&self, record: &'v [Value], name: &str) -> Option<&'v Value> {
        record.get(avro::position(self.0, name)?)
    }

    fn take(&self, record: &mut [Value], name: &str) -> Option<Value> {
        record.get_mut(avro::position(self.0, name)?).map(|value| std::mem::replace(value, Value::Null))
    }

    fn is_null(&self, record: &[Value], name: &str) -> bool {
        matches!(self.get(record, name), None | Some(Value::Null))
    }

    fn long(&self, record: &[Value], name: &str) -> Option<i64> {
        match self.get(record, name) {
            Some(Value::Long(value)) => Some(*value),
            _ => None,
        }
    }

    fn string(&self, record: &mut [Value], name: &str) -> Option<String> {
        match self.take(record, name) {
            Some(Value::String(value)) => Some(value),
            _ => None,
        }
    }

    /// A map from field ids, which Iceberg writes as a list of key and value.
    fn map<T>(&self, record: &mut [Value], name: &str, convert: fn(Value) -> Option<T>) -> Box<[(i32, T)]> {
        let Some(Value::Array(items)) = self.take(record, name) else { return Box::default() };
        let pair = |item: Value| {
            let Value::Record(pair) = item else { return None };
            let [Value::Long(key), value] = <[Value; 2]>::try_from(pair).ok()? else { return None };
            Some((i32::try_from(key).ok()?, convert(value)?))
        };
        let mut pairs: Vec<_> = items.into_iter().filter_map(pair).collect();
        pairs.sort_by_key(|(id, _)| *id);
        pairs.into_boxed_slice()
    }
}
