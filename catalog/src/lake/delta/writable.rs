//! Which Delta tables rows may be added to. What a table asks of its writers and is not done here refuses the table by
//! name: a writer that does not know a feature writes a table that others read wrongly (PROTOCOL.md, "Table Features").

use buoyant_kernel::actions::{Metadata, Protocol};
use serde_json::Value;

use crate::lake::snapshot::LakeError;

/// The newest writer version that this code was written against.
const MAX_WRITER_VERSION: i32 = 7;

/// Features whose rules a plain addition of files keeps whatever the table makes of them. The rules of the others are
/// looked for in the schema and the properties below.
const HARMLESS: [&str; 11] = [
    // Nothing is removed.
    "appendOnly",
    // Files without one are written.
    "deletionVectors",
    "timestampNtz",
    // Added rows are in the change feed as the files that hold them.
    "changeDataFeed",
    // Files have the table's present types.
    "typeWidening",
    "typeWidening-preview",
    // Rules for checkpoints and for VACUUM, which are not made here.
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "checkpointProtection",
    // A column of the type is refused when the table is opened.
    "variantType",
    "variantType-preview",
];

/// Features that bind a writer only where the table uses them.
const LOOKED_FOR: [&str; 6] =
    ["invariants", "checkConstraints", "generatedColumns", "identityColumns", "columnMapping", "allowColumnDefaults"];

/// Keys in a field's metadata, and whose they are.
const FIELD_KEYS: [(&str, &str); 5] = [
    ("delta.invariants", "invariants"),
    ("delta.generationExpression", "generatedColumns"),
    ("delta.identity.start", "identityColumns"),
    ("delta.identity.step", "identityColumns"),
    ("CURRENT_DEFAULT", "allowColumnDefaults"),
];

pub(super) fn check(protocol: &Protocol, metadata: &Metadata) -> Result<(), LakeError> {
    let refuse = |feature: &str| Err(LakeError::Unsupported { feature: format!("{feature} of a table that is written") });
    let version = protocol.min_writer_version();
    if version > MAX_WRITER_VERSION {
        return refuse(&format!("writer version {version}"));
    }
    for feature in protocol.writer_features().unwrap_or_default() {
        let name = feature.to_string();
        if !HARMLESS.contains(&name.as_str()) && !LOOKED_FOR.contains(&name.as_str()) {
            return refuse(&name);
        }
    }
    let properties = metadata.configuration();
    let on = |name: &str| properties.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if properties.get("delta.columnMapping.mode").is_some_and(|mode| !mode.eq_ignore_ascii_case("none")) {
        return refuse("columnMapping");
    }
    if properties.keys().any(|name| name.starts_with("delta.constraints.")) {
        return refuse("checkConstraints");
    }
    for (property, feature) in [
        ("delta.enableRowTracking", "rowTracking"),
        ("delta.enableInCommitTimestamps", "inCommitTimestamp"),
        ("delta.enableIcebergCompatV1", "icebergCompatV1"),
        ("delta.enableIcebergCompatV2", "icebergCompatV2"),
        ("delta.enableIcebergCompatV3", "icebergCompatV3"),
    ] {
        if on(property) {
            return refuse(feature);
        }
    }
    let schema: Value = serde_json::from_str(metadata.schema_string())
        .map_err(|error| LakeError::Corrupt { file: "_delta_log".to_owned(), reason: error.to_string() })?;
    if let Some(feature) = field_feature(&schema) {
        return refuse(feature);
    }
    // Its columns lie in no file, in whatever way each writer has it.
    if names_type(&schema, "void") { refuse("the type void") } else { Ok(()) }
}

/// The first rule that a field of the schema, or of a struct inside, holds for its writers.
fn field_feature(schema: &Value) -> Option<&'static str> {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(metadata)) = object.get("metadata")
                && let Some((_, feature)) = FIELD_KEYS.iter().find(|(key, _)| metadata.contains_key(*key))
            {
                return Some(feature);
            }
            // A field's metadata is the writer's own words; the schema goes on beside it.
            object.iter().filter(|(key, _)| *key != "metadata").find_map(|(_, value)| field_feature(value))
        }
        Value::Array(values) => values.iter().find_map(field_feature),
        _ => None,
    }
}

fn names_type(schema: &Value, wanted: &str) -> bool {
    match schema {
        Value::Object(object) => ["type", "elementType", "keyType", "valueType", "fields"].iter().any(|key| match object.get(*key) {
            Some(Value::String(name)) => *key != "fields" && name == wanted,
            Some(inner) => names_type(inner, wanted),
            None => false,
        }),
        Value::Array(values) => values.iter().any(|value| names_type(value, wanted)),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(protocol: Value, schema_fields: Value, configuration: Value) -> Result<(), String> {
        let schema = json!({"type": "struct", "fields": schema_fields}).to_string();
        let metadata = json!({
            "id": "1", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
            "partitionColumns": [], "configuration": configuration,
        });
        let protocol: Protocol = serde_json::from_value(protocol).unwrap();
        let metadata: Metadata = serde_json::from_value(metadata).unwrap();
        check(&protocol, &metadata).map_err(|error| error.to_string())
    }

    fn column(metadata: Value) -> Value {
        json!([{"name": "c", "type": "long", "nullable": true, "metadata": metadata}])
    }

    fn features(names: &[&str]) -> Value {
        let readers: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| ["columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "v2Checkpoint"].contains(name))
            .collect();
        json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": readers, "writerFeatures": names})
    }

    #[test]
    fn what_a_plain_addition_keeps_is_let_in() {
        let plain = || column(json!({"comment": "delta.invariants"}));
        for version in 1..=6 {
            let reader = if version >= 5 { 2 } else { 1 };
            checked(json!({"minReaderVersion": reader, "minWriterVersion": version}), plain(), json!({})).unwrap();
        }
        for name in ["appendOnly", "deletionVectors", "timestampNtz", "changeDataFeed", "typeWidening", "v2Checkpoint"] {
            checked(features(&[name]), plain(), json!({"delta.appendOnly": "true", "delta.enableChangeDataFeed": "true"})).unwrap();
        }
        let unused = ["invariants", "checkConstraints", "generatedColumns", "identityColumns", "columnMapping", "allowColumnDefaults"];
        checked(features(&unused), plain(), json!({"delta.columnMapping.mode": "none"})).unwrap();
    }

    #[test]
    fn what_is_not_kept_is_refused_by_name() {
        let plain = || column(json!({}));
        for name in ["rowTracking", "domainMetadata", "clustering", "inCommitTimestamp", "icebergCompatV2", "somethingNew"] {
            let error = checked(features(&[name]), plain(), json!({})).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        let legacy = |version: i32| json!({"minReaderVersion": if version >= 5 { 2 } else { 1 }, "minWriterVersion": version});
        for (version, metadata, feature) in [
            (2, json!({"delta.invariants": "{\"expression\":{\"expression\":\"c > 3\"}}"}), "invariants"),
            (4, json!({"delta.generationExpression": "c + 1"}), "generatedColumns"),
            (6, json!({"delta.identity.start": 1}), "identityColumns"),
            (2, json!({"CURRENT_DEFAULT": "3"}), "allowColumnDefaults"),
        ] {
            let error = checked(legacy(version), column(metadata.clone()), json!({})).unwrap_err();
            assert!(error.contains(feature), "{error}");
            let nested = json!([{"name": "s", "type": {"type": "struct", "fields": column(metadata)}, "nullable": true, "metadata": {}}]);
            let error = checked(legacy(version), nested, json!({})).unwrap_err();
            assert!(error.contains(feature), "{error}");
        }
        for (property, value, feature) in [
            ("delta.columnMapping.mode", "name", "columnMapping"),
            ("delta.constraints.positive", "c > 0", "checkConstraints"),
            ("delta.enableRowTracking", "true", "rowTracking"),
            ("delta.enableInCommitTimestamps", "true", "inCommitTimestamp"),
            ("delta.enableIcebergCompatV1", "true", "icebergCompatV1"),
        ] {
            let error = checked(legacy(5), plain(), json!({property: value})).unwrap_err();
            assert!(error.contains(feature), "{error}");
        }
        let void = json!([{"name": "c", "type": "void", "nullable": true, "metadata": {}}]);
        assert!(checked(legacy(2), void, json!({})).unwrap_err().contains("void"));
        let named_void = json!([{"name": "void", "type": "long", "nullable": true, "metadata": {}}]);
        checked(legacy(2), named_void, json!({})).unwrap();
    }
}
