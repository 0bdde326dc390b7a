//! The table metadata file: which schema, partition specs and snapshots a table has.
//!
//! Read with a model of our own, field by field as the spec has them (versions 1 to 3). The `iceberg` crate refuses
//! good tables (a partition source that was dropped, a partition field turned `void`) and drops default values that it
//! cannot parse, which would read as NULL.

use std::collections::HashMap;
use std::io::Read;

use serde::Deserialize;

use super::partition::{PartitionField, PartitionSpec, Transform};
use super::{LakeError, corrupt, unsupported};

/// The most a metadata file may hold when decompressed: far above any real one, below what hurts.
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// Partition field ids begin here in version 1, where they need not be written.
const FIRST_PARTITION_FIELD_ID: i32 = 1000;

/// What reading needs of a table's metadata.
#[derive(Debug)]
pub(super) struct TableMetadata {
    /// The table's own, another if it was made anew. Version 1 may do without.
    pub id: Option<String>,
    pub schema: SchemaJson,
    /// All that the table had.
    pub schemas: Vec<SchemaJson>,
    pub specs: HashMap<i32, PartitionSpec>,
    /// `None`: nothing was ever written.
    pub snapshot: Option<Snapshot>,
    pub name_mapping: Option<String>,
}

#[derive(Debug)]
pub(super) struct Snapshot {
    pub id: i64,
    pub manifests: Manifests,
}

/// Where a snapshot's manifests are named.
#[derive(Debug)]
pub(super) enum Manifests {
    List(String),
    /// Version 1 may name them in the metadata itself.
    Inline(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MetadataJson {
    format_version: u32,
    table_uuid: Option<String>,
    schema: Option<SchemaJson>,
    schemas: Option<Vec<SchemaJson>>,
    current_schema_id: Option<i32>,
    partition_spec: Option<Vec<PartitionFieldJson>>,
    partition_specs: Option<Vec<PartitionSpecJson>>,
    properties: Option<HashMap<String, String>>,
    current_snapshot_id: Option<i64>,
    snapshots: Option<Vec<SnapshotJson>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct SchemaJson {
    pub schema_id: Option<i32>,
    pub fields: Vec<FieldJson>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct FieldJson {
    pub id: i32,
    pub name: String,
    pub required: bool,
    #[serde(rename = "type")]
    pub kind: TypeJson,
    pub initial_default: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum TypeJson {
    Primitive(String),
    Nested(NestedJson),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(super) enum NestedJson {
    Struct { fields: Vec<FieldJson> },
    List { element_id: i32, element_required: bool, element: Box<TypeJson> },
    Map { key_id: i32, key: Box<TypeJson>, value_id: i32, value_required: bool, value: Box<TypeJson> },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PartitionSpecJson {
    spec_id: i32,
    fields: Vec<PartitionFieldJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PartitionFieldJson {
    source_id: Option<i32>,
    /// Version 3, for transforms of several columns.
    source_ids: Option<Vec<i32>>,
    field_id: Option<i32>,
    transform: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SnapshotJson {
    snapshot_id: i64,
    manifest_list: Option<String>,
    manifests: Option<Vec<String>>,
    /// Of the key that its manifest list is encrypted with.
    key_id: Option<String>,
}

impl TableMetadata {
    /// Parses a metadata file, gzipped or not; `file` is its name, for errors.
    pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        let json: MetadataJson = if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut plain = Vec::new();
            let read = flate2::read::MultiGzDecoder::new(bytes).take(MAX_METADATA_BYTES + 1).read_to_end(&mut plain);
            read.map_err(|e| corrupt(file, e))?;
            if plain.len() as u64 > MAX_METADATA_BYTES {
                return Err(corrupt(file, "larger than any table's metadata when decompressed"));
            }
            parse_json(file, &plain)?
        } else {
            parse_json(file, bytes)?
        };

        let snapshot = json.snapshot(file)?;
        let specs = json.specs(file)?;
        let name_mapping = json.properties.as_ref().and_then(|properties| properties.get("schema.name-mapping.default").cloned());
        let schemas = json.schemas.clone().or_else(|| json.schema.clone().map(|one| vec![one])).unwrap_or_default();
        Ok(Self { id: json.table_uuid.clone(), schema: json.current_schema(file)?, schemas, specs, snapshot, name_mapping })
    }
}

/// Asks for the version first: what a later one holds elsewhere is not an error in the file.
fn parse_json(file: &str, bytes: &[u8]) -> Result<MetadataJson, LakeError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Version {
        format_version: u32,
    }
    let Version { format_version } = serde_json::from_slice(bytes).map_err(|e| corrupt(file, e))?;
    if !(1..=3).contains(&format_version) {
        return Err(unsupported(format!("Iceberg format version {format_version}")));
    }
    serde_json::from_slice(bytes).map_err(|e| corrupt(file, e))
}

impl MetadataJson {
    /// The table's current schema, which readers use even where the current snapshot was written under an older one.
    fn current_schema(self, file: &str) -> Result<SchemaJson, LakeError> {
        match (self.schemas, self.current_schema_id) {
            (Some(schemas), Some(id)) => schemas
                .into_iter()
                .find(|schema| schema.schema_id.unwrap_or(0) == id)
                .ok_or_else(|| corrupt(file, format_args!("no schema has the current id {id}"))),
            _ => self.schema.ok_or_else(|| corrupt(file, "no current schema")),
        }
    }

    fn specs(&self, file: &str) -> Result<HashMap<i32, PartitionSpec>, LakeError> {
        let mut specs = HashMap::new();
        match (&self.partition_specs, &self.partition_spec) {
            (Some(all), _) => {
                for spec in all {
                    specs.insert(spec.spec_id, partition_spec(file, &spec.fields)?);
                }
            }
            (None, Some(fields)) => {
                specs.insert(0, partition_spec(file, fields)?);
            }
            (None, None) if self.format_version == 1 => {
                specs.insert(0, PartitionSpec::default());
            }
            (None, None) => return Err(corrupt(file, "no partition specs")),
        }
        Ok(specs)
    }

    fn snapshot(&self, file: &str) -> Result<Option<Snapshot>, LakeError> {
        // -1 is how version 1 writers said "none".
        let Some(id) = self.current_snapshot_id.filter(|id| *id != -1) else { return Ok(None) };
        let snapshot = self.snapshots.iter().flatten().find(|snapshot| snapshot.snapshot_id == id);
        let snapshot = snapshot.ok_or_else(|| corrupt(file, format_args!("the current snapshot {id} is not listed")))?;
        if snapshot.key_id.is_some() {
            return Err(unsupported("table encryption"));
        }
        let manifests = match (&snapshot.manifest_list, &snapshot.manifests) {
            (Some(list), _) => Manifests::List(list.clone()),
            (None, Some(manifests)) => Manifests::Inline(manifests.clone()),
            (None, None) => return Err(corrupt(file, format_args!("snapshot {id} names no manifests"))),
        };
        Ok(Some(Snapshot { id, manifests }))
    }
}

fn partition_spec(file: &str, fields: &[PartitionFieldJson]) -> Result<PartitionSpec, LakeError> {
    let mut spec = PartitionSpec::default();
    for (index, field) in fields.iter().enumerate() {
        // A transform of several columns says nothing of any one of them.
        let source_id = match (field.source_id, &field.source_ids) {
            (Some(id), _) => Some(id),
            (None, Some(ids)) if ids.len() == 1 => ids.first().copied(),
            (None, Some(_)) => None,
            (None, None) => return Err(corrupt(file, "a partition field without a source")),
        };
        let id = field.field_id.unwrap_or(FIRST_PARTITION_FIELD_ID + i32::try_from(index).unwrap_or(i32::MAX - FIRST_PARTITION_FIELD_ID));
        spec.fields.push(PartitionField { id, source_id, transform: Transform::parse(&field.transform) });
    }
    Ok(spec)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<TableMetadata, LakeError> {
        TableMetadata::parse("m", json.as_bytes())
    }

    #[test]
    fn version_1_may_have_one_schema_one_spec_and_inline_manifests() {
        let table = parse(
            r#"{"format-version":1,"location":"x","schema":{"type":"struct","fields":[{"id":1,"name":"a","required":true,"type":"int"}]},
                "partition-spec":[{"name":"a","transform":"identity","source-id":1}],"current-snapshot-id":7,
                "snapshots":[{"snapshot-id":7,"manifests":["s3://b/m.avro"]}]}"#,
        )
        .unwrap();
        assert_eq!(table.specs[&0].fields[0].id, 1000);
        assert!(matches!(table.snapshot.unwrap().manifests, Manifests::Inline(m) if m == ["s3://b/m.avro"]));
    }

    #[test]
    fn the_current_schema_wins_over_others_and_no_snapshot_is_no_error() {
        let table = parse(
            r#"{"format-version":2,"current-schema-id":3,"current-snapshot-id":-1,"partition-specs":[{"spec-id":0,"fields":[]}],
                "schemas":[{"schema-id":4,"fields":[{"id":9,"name":"x","required":false,"type":"variant"}]},{"schema-id":3,"fields":[]}]}"#,
        )
        .unwrap();
        assert!(table.schema.fields.is_empty());
        assert!(table.snapshot.is_none());
    }

    #[test]
    fn later_versions_are_named() {
        assert_eq!(
            parse(r#"{"format-version":4,"schemas":7}"#).unwrap_err().to_string(),
            "table feature \"Iceberg format version 4\" is not supported yet"
        );
        assert!(matches!(parse("{"), Err(LakeError::Corrupt { .. })));
        assert!(matches!(TableMetadata::parse("m", &[0x1f, 0x8b, 8]), Err(LakeError::Corrupt { .. })));
    }
}
