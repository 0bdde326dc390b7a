//! From manifests to the files of a snapshot: what is live, which deletes apply to it, and what its partition says.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use datafusion::common::ScalarValue;
use object_store::path::Path;

use super::deletes::FILE_PATH_ID;
use super::equality::KeyColumns;
use super::manifest::{Content, Entry, Manifest, ManifestFile, by_id};
use super::partition::{PartitionField, PartitionSpec, PartitionTuple, PartitionValue, Transform};
use super::schema::TableSchema;
use super::{DeleteFile, FileBounds, LakeError, LakeFile, bounds, corrupt, unsupported};
use crate::lake::snapshot::EqualityDelete;

/// A live data or delete file with what it inherits from its manifest.
pub(super) struct LiveFile<'a> {
    pub entry: &'a Entry,
    sequence: i64,
    spec_id: i32,
    spec: &'a PartitionSpec,
    /// In the order of the spec.
    partition: PartitionTuple,
}

/// Where a file that metadata name is: the store's URL and the path in it. Refuses what the table may not name.
pub(super) type Resolve<'a> = dyn Fn(&str) -> Result<(Arc<str>, Path), LakeError> + 'a;

/// The data files of a snapshot with their deletes, constants and bounds.
pub(super) fn plan(
    schema: &TableSchema,
    specs: &HashMap<i32, PartitionSpec>,
    keys: &KeyColumns,
    manifests: &[(ManifestFile, Arc<Manifest>)],
    resolve: &Resolve<'_>,
) -> Result<(Vec<LakeFile>, FileBounds), LakeError> {
    let mut data = Vec::new();
    let mut deletes = Deletes::default();
    for (file, manifest) in manifests {
        let spec_id = file.spec_id.or(manifest.spec_id).ok_or_else(|| corrupt(&file.path, "no partition spec"))?;
        let spec = specs.get(&spec_id).ok_or_else(|| corrupt(&file.path, format_args!("partition spec {spec_id} is not in the table")))?;
        let order = tuple_order(file, manifest, spec)?;
        for entry in &manifest.entries {
            let partition = order.iter().map(|at| at.and_then(|at| entry.partition.get(at)).cloned().flatten()).collect();
            let live = LiveFile { entry, sequence: entry.sequence(file)?, spec_id, spec, partition };
            match entry.content {
                Content::Data if entry.format != "PARQUET" => {
                    return Err(unsupported(format!("{} data files", format_name(&entry.format))));
                }
                Content::Data => data.push(live),
                Content::PositionDeletes | Content::EqualityDeletes => deletes.add(live)?,
            }
        }
    }

    let mut constants = HashMap::new();
    let mut files = Vec::with_capacity(data.len());
    for live in &data {
        let (store, path) = resolve(&live.entry.path)?;
        let mut file = LakeFile {
            store,
            path,
            size_bytes: live.entry.size_bytes,
            version: 0,
            shape: None,
            rows: Some(live.entry.rows),
            constants: match constants.entry(live.key()) {
                Slot::Occupied(known) => Arc::clone(known.get()),
                Slot::Vacant(slot) => Arc::clone(slot.insert(live.constants(schema)?)),
            },
            deletes: deletes.positions(live).into_iter().map(|delete| delete_file(delete, live, resolve)).collect::<Result<_, _>>()?,
        };
        equality_deletes(schema, keys, deletes.equality(live, keys), &mut file, resolve)?;
        files.push(file);
    }
    Ok((files, bounds::build(schema, &data)?))
}

/// The field ids of all columns that equality deletes go by.
pub(super) fn equality_ids(manifests: &[(ManifestFile, Arc<Manifest>)]) -> HashSet<i32> {
    let entries = manifests.iter().flat_map(|(_, manifest)| &manifest.entries);
    entries.filter(|entry| entry.content == Content::EqualityDeletes).flat_map(|entry| entry.equality_ids.iter().copied()).collect()
}

/// Adds the equality deletes that apply to a data file, those with the same keys together: its keys are read once for all.
fn equality_deletes(
    schema: &TableSchema,
    keys: &KeyColumns,
    deletes: Vec<&LiveFile<'_>>,
    data: &mut LakeFile,
    resolve: &Resolve<'_>,
) -> Result<(), LakeError> {
    let mut by_keys: BTreeMap<&[i32], Vec<&LiveFile<'_>>> = BTreeMap::new();
    for delete in deletes {
        by_keys.entry(&delete.entry.equality_ids).or_default().push(delete);
    }
    for deletes in by_keys.into_values() {
        let mut files = Vec::with_capacity(deletes.len());
        for delete in &deletes {
            if delete.entry.format != "PARQUET" {
                return Err(unsupported(format!("{} delete files", format_name(&delete.entry.format))));
            }
            let (store, path) = resolve(&delete.entry.path)?;
            files.push((store, path, delete.entry.size_bytes));
        }
        let constants = data.constants.iter().filter_map(|(index, value)| Some((*schema.ids.get(*index)?, value.clone()))).collect();
        let Some(first) = deletes.first() else { continue };
        let keys = keys.of(first.entry, &constants)?;
        let delete = EqualityDelete { store: Arc::clone(&data.store), path: data.path.clone(), size_bytes: data.size_bytes, keys, files };
        data.deletes.push(DeleteFile::Equality(Arc::new(delete)));
    }
    Ok(())
}

/// Where in a manifest's tuples each field of the spec stands: by field id, or in the same order if the writer left the
/// ids out. Only a field that is always NULL may be missing: for others, NULL would be a value.
fn tuple_order(file: &ManifestFile, manifest: &Manifest, spec: &PartitionSpec) -> Result<Vec<Option<usize>>, LakeError> {
    let misfit = || corrupt(&file.path, "partition tuples do not fit their spec");
    if manifest.partition_ids.iter().all(Option::is_none) && manifest.partition_ids.len() == spec.fields.len() {
        return Ok((0..spec.fields.len()).map(Some).collect());
    }
    let position = |field: &PartitionField| match manifest.partition_ids.iter().position(|id| *id == Some(field.id)) {
        None if field.transform != Transform::Void => Err(misfit()),
        found => Ok(found),
    };
    spec.fields.iter().map(position).collect()
}

/// As people write it.
fn format_name(format: &str) -> String {
    match format {
        "AVRO" => "Avro".to_owned(),
        "PARQUET" => "Parquet".to_owned(),
        "PUFFIN" => "Puffin".to_owned(),
        other => other.to_owned(),
    }
}

fn delete_file(delete: &LiveFile<'_>, data: &LiveFile<'_>, resolve: &Resolve<'_>) -> Result<DeleteFile, LakeError> {
    let (store, path) = resolve(&delete.entry.path)?;
    if delete.is_vector() {
        let (offset, size_bytes) = delete.entry.blob.ok_or_else(|| corrupt(&delete.entry.path, "a deletion vector without an offset"))?;
        return Ok(DeleteFile::Puffin { store, path, offset, size_bytes, cardinality: delete.entry.rows });
    }
    match delete.entry.format.as_str() {
        "PARQUET" => {
            Ok(DeleteFile::PositionParquet { store, path, size_bytes: delete.entry.size_bytes, data_file: Arc::clone(&data.entry.path) })
        }
        other => Err(unsupported(format!("{} delete files", format_name(other)))),
    }
}

impl<'a> LiveFile<'a> {
    pub(super) fn partition_values(&self) -> impl Iterator<Item = (&'a PartitionField, Option<&PartitionValue>)> {
        self.spec.fields.iter().zip(self.partition.iter().map(Option::as_ref))
    }

    /// Which files share its partition.
    fn key(&self) -> (i32, PartitionTuple) {
        (self.spec_id, Arc::clone(&self.partition))
    }

    fn is_vector(&self) -> bool {
        self.entry.format == "PUFFIN"
    }

    /// Columns that the partition tuple gives whole. Sources that were dropped or are nested are not columns.
    fn constants(&self, schema: &TableSchema) -> Result<Arc<[(usize, ScalarValue)]>, LakeError> {
        let mut constants = Vec::new();
        for (field, value) in self.partition_values() {
            let index = field.source_id.and_then(|id| schema.index_of(id));
            let (Transform::Identity, Some(index)) = (field.transform, index) else { continue };
            let to = schema.arrow.field(index).data_type();
            let scalar = match value {
                Some(value) => value.to_scalar(to),
                None => ScalarValue::try_from(to).ok(),
            };
            let scalar = scalar.ok_or_else(|| corrupt(&self.entry.path, format_args!("its partition value is not a {to}")))?;
            constants.push((index, scalar));
        }
        constants.sort_by_key(|(index, _)| *index);
        constants.dedup_by_key(|(index, _)| *index);
        Ok(constants.into())
    }

    /// The one data file that a position delete file is about, if its metadata say so. Equal bounds are exact: bounds
    /// that were cut differ.
    fn target(&self) -> Option<&[u8]> {
        let entry = self.entry;
        let bounds = || {
            let (lower, upper) = (by_id(&entry.lower_bounds, FILE_PATH_ID)?, by_id(&entry.upper_bounds, FILE_PATH_ID)?);
            (lower == upper).then_some(lower.as_ref())
        };
        entry.referenced_data_file.as_deref().map(str::as_bytes).or_else(bounds)
    }

    /// Whether a position delete file's bounds leave room for a data file.
    fn may_name(&self, data_file: &[u8]) -> bool {
        by_id(&self.entry.lower_bounds, FILE_PATH_ID).is_none_or(|lower| lower.as_ref() <= data_file)
            && by_id(&self.entry.upper_bounds, FILE_PATH_ID).is_none_or(|upper| data_file <= upper.as_ref())
    }
}

/// A snapshot's delete files, by what they apply to.
#[derive(Default)]
struct Deletes<'a> {
    vectors: HashMap<Arc<str>, LiveFile<'a>>,
    by_path: HashMap<Box<[u8]>, Vec<LiveFile<'a>>>,
    by_partition: HashMap<(i32, PartitionTuple), Vec<LiveFile<'a>>>,
    /// Equality deletes that apply to files of every spec and partition.
    equality_everywhere: Vec<LiveFile<'a>>,
    equality_by_partition: HashMap<(i32, PartitionTuple), Vec<LiveFile<'a>>>,
}

impl<'a> Deletes<'a> {
    fn add(&mut self, delete: LiveFile<'a>) -> Result<(), LakeError> {
        if delete.entry.content == Content::EqualityDeletes {
            match delete.spec.is_unpartitioned() {
                true => self.equality_everywhere.push(delete),
                false => self.equality_by_partition.entry(delete.key()).or_default().push(delete),
            }
            return Ok(());
        }
        if delete.is_vector() {
            let target = delete.entry.referenced_data_file.clone();
            let target = target.ok_or_else(|| corrupt(&delete.entry.path, "a deletion vector without a data file"))?;
            return match self.vectors.insert(target, delete) {
                Some(other) => Err(corrupt(&other.entry.path, "two deletion vectors for one data file")),
                None => Ok(()),
            };
        }
        match delete.target().map(Box::from) {
            Some(target) => self.by_path.entry(target).or_default().push(delete),
            None => self.by_partition.entry(delete.key()).or_default().push(delete),
        }
        Ok(())
    }

    /// The position deletes and vectors that apply to a data file, by the rules of the spec ("Scan Planning"): those of
    /// its own commit and of later ones.
    fn positions(&self, data: &LiveFile<'_>) -> Vec<&LiveFile<'a>> {
        // A vector holds all that position delete files said of its file before.
        if let Some(vector) = self.vectors.get(&data.entry.path)
            && data.sequence <= vector.sequence
        {
            return vec![vector];
        }
        let path = data.entry.path.as_bytes();
        let named = self.by_path.get(path).into_iter().flatten();
        let near = self.by_partition.get(&data.key()).into_iter().flatten().filter(|delete| delete.may_name(path));
        named.chain(near).filter(|delete| data.sequence <= delete.sequence).collect()
    }

    /// The equality deletes that apply to a data file: of later commits only.
    fn equality(&self, data: &LiveFile<'_>, keys: &KeyColumns) -> Vec<&LiveFile<'a>> {
        let near = self.equality_by_partition.get(&data.key()).into_iter().flatten();
        let later = self.equality_everywhere.iter().chain(near).filter(|delete| data.sequence < delete.sequence);
        later.filter(|delete| keys.may_meet(data.entry, delete.entry)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub(super) mod tests {
    use super::super::metadata::SchemaJson;
    use super::*;

    /// A table of columns `i` (long, id 1), `s` (string, 2), `f` (double, 3) and `d` (date, 4), in spec 0
    /// unpartitioned, in spec 1 by identity of `i` and of a dropped column, in spec 2 by month of `d`.
    pub(in super::super) fn schema() -> TableSchema {
        let column = |id: i32, name: &str, kind: &str| format!(r#"{{"id":{id},"name":"{name}","required":false,"type":"{kind}"}}"#);
        let columns = [column(1, "i", "long"), column(2, "s", "string"), column(3, "f", "double"), column(4, "d", "date")];
        let json: SchemaJson = serde_json::from_str(&format!(r#"{{"fields":[{}]}}"#, columns.join(","))).unwrap();
        TableSchema::new("m", &json).unwrap()
    }

    fn specs() -> HashMap<i32, PartitionSpec> {
        let field = |id, source, transform| PartitionField { id, source_id: Some(source), transform };
        HashMap::from([
            (0, PartitionSpec::default()),
            (1, PartitionSpec { fields: vec![field(1000, 9, Transform::Identity), field(1001, 1, Transform::Identity)] }),
            (2, PartitionSpec { fields: vec![field(1002, 4, Transform::Month)] }),
        ])
    }

    pub(in super::super) fn file(content: Content, path: &str) -> Entry {
        Entry {
            added: true,
            sequence_number: None,
            content,
            path: path.into(),
            format: "PARQUET".to_owned(),
            partition: Arc::new([]),
            rows: 10,
            size_bytes: 1000,
            null_counts: Box::default(),
            nan_counts: Box::default(),
            lower_bounds: Box::default(),
            upper_bounds: Box::default(),
            referenced_data_file: None,
            equality_ids: if content == Content::EqualityDeletes { Box::new([1]) } else { Box::default() },
            blob: None,
        }
    }

    fn partitioned(entry: Entry, value: i64) -> Entry {
        Entry { partition: Arc::new([None, Some(PartitionValue::Long(value))]), ..entry }
    }

    fn vector(path: &str, of: &str) -> Entry {
        let entry = file(Content::PositionDeletes, path);
        Entry { format: "PUFFIN".to_owned(), referenced_data_file: Some(of.into()), blob: Some((4, 50)), ..entry }
    }

    /// One manifest per entry: its sequence number, its spec, its file.
    pub(in super::super) fn planned(entries: Vec<(i64, i32, Entry)>) -> Result<(Vec<LakeFile>, FileBounds), LakeError> {
        let manifests: Vec<_> = entries
            .into_iter()
            .map(|(sequence_number, spec_id, entry)| {
                let list = ManifestFile { path: "m.avro".to_owned(), size_bytes: None, spec_id: Some(spec_id), sequence_number };
                let partition_ids = match spec_id {
                    0 => vec![],
                    1 => vec![Some(1000), Some(1001)],
                    _ => vec![Some(1002)],
                };
                (list, Arc::new(Manifest { spec_id: Some(spec_id), partition_ids, entries: vec![entry] }))
            })
            .collect();
        let schema = schema();
        let keys = KeyColumns::new("m", &schema, &[], None, &equality_ids(&manifests))?;
        plan(&schema, &specs(), &keys, &manifests, &|target| Ok(("s3://lake".into(), Path::parse(target).unwrap())))
    }

    /// Names of the delete files that apply to the first data file.
    fn applying(entries: Vec<(i64, i32, Entry)>) -> Vec<String> {
        let (files, _) = planned(entries).unwrap();
        let name = |delete: &DeleteFile| match delete {
            DeleteFile::PositionParquet { path, .. } | DeleteFile::Puffin { path, .. } => path.to_string(),
            DeleteFile::Equality(delete) => delete.files.iter().map(|(_, path, _)| path.to_string()).collect::<Vec<_>>().join("+"),
            other => panic!("{other:?}"),
        };
        files[0].deletes.iter().map(name).collect()
    }

    use Content::{Data, EqualityDeletes, PositionDeletes};

    #[test]
    fn position_deletes_apply_to_their_own_commit_and_older_ones() {
        let delete = |name| file(PositionDeletes, name);
        let entries = vec![(5, 0, file(Data, "a")), (4, 0, delete("older")), (5, 0, delete("same")), (6, 0, delete("newer"))];
        assert_eq!(applying(entries), ["same", "newer"]);
    }

    #[test]
    fn carried_entries_keep_their_sequence_number() {
        let carried = |number| Entry { added: false, sequence_number: number, ..file(Data, "a") };
        // Rewritten into a manifest of commit 9, the file is still older than the delete.
        assert_eq!(applying(vec![(9, 0, carried(Some(3))), (4, 0, file(PositionDeletes, "d"))]), ["d"]);
        // Without a number of its own only in manifests of version 1.
        assert_eq!(applying(vec![(0, 0, carried(None)), (1, 0, file(PositionDeletes, "d"))]), ["d"]);
        assert!(matches!(planned(vec![(9, 0, carried(None))]), Err(LakeError::Corrupt { .. })));
    }

    #[test]
    fn position_deletes_stay_in_their_partition_and_within_their_bounds() {
        let path_bounds = |low: &str, high: &str, entry| Entry {
            lower_bounds: Box::new([(FILE_PATH_ID, low.as_bytes().into())]),
            upper_bounds: Box::new([(FILE_PATH_ID, high.as_bytes().into())]),
            ..entry
        };
        let delete = |name| file(PositionDeletes, name);
        let entries = vec![
            (1, 1, partitioned(file(Data, "b"), 7)),
            (2, 1, partitioned(delete("here"), 7)),
            (2, 1, partitioned(delete("elsewhere"), 8)),
            (2, 0, delete("unpartitioned")),
            (2, 1, path_bounds("a", "c", partitioned(delete("around"), 7))),
            (2, 1, path_bounds("c", "d", partitioned(delete("beyond"), 7))),
            (2, 1, path_bounds("b", "b", partitioned(delete("exact"), 7))),
            (2, 1, Entry { referenced_data_file: Some("x".into()), ..partitioned(delete("other"), 7) }),
        ];
        assert_eq!(applying(entries), ["exact", "here", "around"]);
    }

    #[test]
    fn a_vector_takes_the_place_of_position_deletes() {
        let position = || file(PositionDeletes, "d");
        assert_eq!(applying(vec![(1, 0, file(Data, "a")), (2, 0, position()), (3, 0, vector("v", "a"))]), ["v"]);
        // One that is older than the file, or is about another, does not.
        assert_eq!(applying(vec![(4, 0, file(Data, "a")), (4, 0, position()), (3, 0, vector("v", "a"))]), ["d"]);
        assert_eq!(applying(vec![(1, 0, file(Data, "a")), (2, 0, position()), (3, 0, vector("v", "b"))]), ["d"]);
        assert!(planned(vec![(1, 0, vector("v", "a")), (2, 0, vector("w", "a"))]).is_err());
    }

    #[test]
    fn equality_deletes_apply_to_older_files_of_their_partition_or_of_all() {
        let data = |value| partitioned(file(Data, "a"), value);
        let delete = |name| file(EqualityDeletes, name);
        assert_eq!(applying(vec![(1, 1, data(7)), (2, 1, partitioned(delete("d"), 7)), (3, 0, delete("e"))]), ["e+d"]);
        // Files of its own commit and of other partitions it leaves alone.
        assert!(applying(vec![(2, 1, data(7)), (2, 1, partitioned(delete("d"), 7)), (2, 0, delete("e"))]).is_empty());
        assert!(applying(vec![(1, 1, data(7)), (2, 1, partitioned(delete("d"), 8))]).is_empty());
    }

    #[test]
    fn equality_deletes_are_told_apart_by_keys_and_bounds() {
        let keyed = |name, ids: &[i32]| Entry { equality_ids: ids.into(), ..file(EqualityDeletes, name) };
        let entries = vec![(1, 0, file(Data, "a")), (2, 0, keyed("d", &[1])), (3, 0, keyed("e", &[1, 2])), (4, 0, keyed("f", &[1]))];
        assert_eq!(applying(entries), ["d+f", "e"]);

        let within = |low: i64, high: i64, nulls: u64, entry| Entry {
            lower_bounds: Box::new([(1, low.to_le_bytes().into())]),
            upper_bounds: Box::new([(1, high.to_le_bytes().into())]),
            null_counts: Box::new([(1, nulls)]),
            ..entry
        };
        let meets = |data: [i64; 2], data_nulls, delete: [i64; 2], delete_nulls| {
            let data = within(data[0], data[1], data_nulls, file(Data, "a"));
            !applying(vec![(1, 0, data), (2, 0, within(delete[0], delete[1], delete_nulls, keyed("d", &[1])))]).is_empty()
        };
        assert!(meets([1, 5], 0, [5, 9], 0));
        assert!(!meets([1, 5], 0, [6, 9], 0));
        assert!(!meets([6, 9], 1, [1, 5], 0));
        // NULL equals NULL.
        assert!(meets([6, 9], 1, [1, 5], 1));
    }

    #[test]
    fn other_formats_are_named() {
        let avro = |entry| Entry { format: "AVRO".to_owned(), ..entry };
        let refused = |entries| planned(entries).unwrap_err().to_string();
        assert_eq!(refused(vec![(1, 0, avro(file(Data, "a")))]), "table feature \"Avro data files\" is not supported yet");
        assert_eq!(
            refused(vec![(1, 0, file(Data, "a")), (1, 0, avro(file(PositionDeletes, "d")))]),
            "table feature \"Avro delete files\" is not supported yet"
        );
        assert!(planned(vec![(2, 0, file(Data, "a")), (1, 0, avro(file(PositionDeletes, "d")))]).is_ok());
    }

    #[test]
    fn identity_partitions_are_constants_and_dropped_sources_are_not() {
        let (files, _) =
            planned(vec![(1, 1, partitioned(file(Data, "a"), 7)), (1, 2, Entry { partition: Arc::new([None]), ..file(Data, "b") })])
                .unwrap();
        assert_eq!(*files[0].constants, [(0, ScalarValue::Int64(Some(7)))]);
        assert!(files[1].constants.is_empty());
        // A manifest without the field must not make the column NULL.
        let other = ManifestFile { path: "m".to_owned(), size_bytes: None, spec_id: Some(1), sequence_number: 1 };
        let manifest = Manifest { spec_id: None, partition_ids: vec![Some(1000)], entries: vec![file(Data, "a")] };
        let keys = KeyColumns::default();
        assert!(plan(&schema(), &specs(), &keys, &[(other, Arc::new(manifest))], &|_| unreachable!()).is_err());
    }
}
