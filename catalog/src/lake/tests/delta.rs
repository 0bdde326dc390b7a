//! `data/delta` (delta-kernel's golden tables) and `data/delta-spark`.

use super::*;

/// Tables that must not be read, and what the error says.
const SPARK_REFUSED: [(&str, &str); 3] = [
    ("shallow-clone", "lies outside the table and below no configured store or allowed path"),
    ("unknown-reader-feature", "table feature \"quantumRows\" is not supported yet"),
    ("variant", "table feature \"variantType\" is not supported yet"),
];

const GOLDEN_REFUSED: [(&str, &str); 5] = [
    ("deltalog-commit-info", "_delta_log is damaged"),
    ("hive", "no Delta table at"),
    ("unshredded-variant", "table feature \"variantType\" is not supported yet"),
    ("update-deleted-directory", "_delta_log is damaged"),
    ("versions-not-contiguous", "Expected contiguous commit files, but found gap"),
];

/// Their log opens; their data files are not there.
const GOLDEN_UNREADABLE: [&str; 1] = ["delete-re-add-same-file-different-transactions"];

/// A timestamp without a zone among the partition values is read as UTC, which is the session's zone; the expected
/// rows were written in a session in Los Angeles.
const OTHER_ZONE: [(&str, &str); 1] = [("data-reader-partition-values", "as_timestamp")];

async fn compare(fixture: &Fixture, table: &OpenTable, expected: &Path, leave_out: Option<&str>) -> Result<usize, String> {
    let answer = fixture.query(table, "SELECT * FROM t").await?;
    let mut batches = answer.batches.clone();
    if let Some(name) = leave_out {
        for batch in &mut batches {
            batch.remove_column(batch.schema().index_of(name).unwrap());
        }
    }
    match difference(&batches, &parquet_rows(expected)) {
        Some(difference) => Err(difference),
        None => Ok(answer.rows()),
    }
}

async fn probe(fixture: &Fixture, table: &OpenTable, about: &serde_json::Value) -> Result<(), String> {
    for probe in about["probes"].as_array().unwrap() {
        let (condition, count) = (probe["where"].as_str().unwrap(), probe["count"].as_u64().unwrap());
        let answer = fixture.query(table, &format!("SELECT count(*) FROM t WHERE {condition}")).await?;
        if answer.value() != count.to_string() {
            return Err(format!("{condition}: {} rows where {count} are expected", answer.value()));
        }
        println!("    {condition}: {count}, {:?}", answer.report());
    }
    Ok(())
}

fn refused(refusals: &[(&str, &str)], name: &str, opened: Result<OpenTable, LakeError>) -> Result<Option<OpenTable>, String> {
    let refusal = refusals.iter().find(|(refused, _)| *refused == name);
    match (opened, refusal) {
        (Ok(table), None) => Ok(Some(table)),
        (Ok(_), Some(_)) => Err("it was opened".to_owned()),
        (Err(error), Some((_, text))) if error.to_string().contains(text) => {
            println!("{name}: refused: {error}");
            Ok(None)
        }
        (Err(error), _) => Err(error.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lake_reads_what_spark_wrote() {
    let mut failures = Vec::new();
    for (name, archive) in archives("data/delta-spark") {
        let fixture = Fixture::new();
        unpack(&archive, fixture.path());
        let about: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture.path().join("about.json")).unwrap()).unwrap();
        let table = match refused(&SPARK_REFUSED, &name, fixture.open_delta("table").await) {
            Ok(Some(table)) => table,
            Ok(None) => continue,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        match compare(&fixture, &table, &fixture.path().join("expected/expected.parquet"), None).await {
            Ok(rows) => println!("{name}: {rows} rows"),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
        let counted = fixture.query(&table, "SELECT count(*) FROM t").await.unwrap().value();
        if counted != about["rows"].as_u64().unwrap().to_string() {
            failures.push(format!("{name}: counts {counted} rows"));
        }
        if let Err(error) = probe(&fixture, &table, &about).await {
            failures.push(format!("{name}: {error}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lake_reads_golden_tables() {
    let mut failures = Vec::new();
    for (name, archive) in archives("data/delta") {
        let fixture = Fixture::new();
        unpack(&archive, fixture.path());
        let root = fixture.path().join(&name);
        let folder = if root.join("delta").is_dir() { format!("{name}/delta") } else { name.clone() };
        let table = match refused(&GOLDEN_REFUSED, &name, fixture.open_delta(&folder).await) {
            Ok(Some(table)) => table,
            Ok(None) => continue,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        if GOLDEN_UNREADABLE.contains(&name.as_str()) {
            let error = fixture.query(&table, "SELECT * FROM t").await.err().unwrap();
            assert!(error.contains("cannot read the footer of"), "{name}: {error}");
        } else if root.join("expected").is_dir() {
            let leave_out = OTHER_ZONE.iter().find(|(table, _)| *table == name).map(|(_, column)| *column);
            match compare(&fixture, &table, &root.join("expected"), leave_out).await {
                Ok(rows) => println!("{name}: {rows} rows"),
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        } else {
            match fixture.query(&table, "SELECT * FROM t").await {
                Ok(answer) => println!("{name}: {} rows, none to compare with", answer.rows()),
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Escaped paths, partition columns and deleted folders, in the tables that lie inside one golden archive.
#[tokio::test(flavor = "multi_thread")]
async fn lake_reads_the_tables_of_hive() {
    let Some(archive) = archives("data/delta").into_iter().find(|(name, _)| name == "hive") else { return };
    let fixture = Fixture::new();
    unpack(&archive.1, fixture.path());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(fixture.path().join("hive/delta")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let table = fixture.open_delta(&format!("hive/delta/{name}")).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let rows = fixture.query(&table, "SELECT * FROM t").await.map(|answer| answer.rows());
        found.push((name.trim_start_matches("deltatbl-").to_owned(), rows.unwrap_or_else(|error| panic!("{error}"))));
    }
    found.sort();
    println!("{found:?}");
    assert!(found.iter().all(|(_, rows)| *rows > 0));
    assert!(found.len() >= 6);
}

/// Absolute paths into another folder, and deletion vectors on them: read once they lie below an allowed path.
#[tokio::test(flavor = "multi_thread")]
async fn lake_reads_a_shallow_clone_of_an_allowed_folder() {
    let Some((_, archive)) = archives("data/delta-spark").into_iter().find(|(name, _)| name == "shallow-clone") else { return };
    let fixture = Fixture::new();
    unpack(&archive, fixture.path());
    let root = fixture.path().canonicalize().unwrap();
    std::fs::rename(root.join("table/_source"), root.join("source")).unwrap();
    for entry in std::fs::read_dir(root.join("table/_delta_log")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "json" || it == "crc") {
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replace("s3://lake/shallow-clone/_source", &format!("file:{}/source", root.display()))).unwrap();
        }
    }
    let table = fixture.open_delta("table").await.unwrap();
    compare(&fixture, &table, &root.join("expected/expected.parquet"), None).await.unwrap();

    let outside = table.folders_outside(root.join("table").to_str().unwrap()).unwrap();
    assert_eq!(*outside, [format!("file://{}/source", root.display())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_out_of_the_log_do_not_leave_the_table() {
    for target in ["../outside/x.parquet", "/etc/passwd", "file:///etc/passwd", "%2e%2e/outside/x.parquet", "gs://b/x", "s3://elsewhere/x"]
    {
        let fixture = Fixture::new();
        let log = fixture.path().join("t/_delta_log");
        std::fs::create_dir_all(&log).unwrap();
        let schema = r#"{\"type\":\"struct\",\"fields\":[{\"name\":\"a\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}]}"#;
        let commit = format!(
            "{}\n{}\n{}\n",
            r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#,
            format_args!(
                r#"{{"metaData":{{"id":"1","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{schema}","partitionColumns":[],"configuration":{{}}}}}}"#
            ),
            format_args!(r#"{{"add":{{"path":"{target}","partitionValues":{{}},"size":100,"modificationTime":0,"dataChange":true}}}}"#),
        );
        std::fs::write(log.join("00000000000000000000.json"), commit).unwrap();
        let error = fixture.open_delta("t").await.err().unwrap();
        assert!(matches!(error, LakeError::OutsideLocation { .. }), "{target}: {error}");
    }
}
