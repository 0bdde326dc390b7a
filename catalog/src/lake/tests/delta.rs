//! `data/delta` (delta-kernel's golden tables) and `data/delta-spark`.

use super::*;

/// What one archive must do.
enum Outcome {
    Reads,
    /// With this in its error.
    Refuses(&'static str),
}

async fn whole(fixture: &Fixture, table: &OpenTable) -> Result<Answer, String> {
    fixture.query(table, "SELECT * FROM t").await
}

#[tokio::test(flavor = "multi_thread")]
async fn lake_reads_what_spark_wrote() {
    let mut failures = Vec::new();
    for (name, archive) in archives("data/delta-spark") {
        let fixture = Fixture::new();
        unpack(&archive, fixture.path());
        let about: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture.path().join("about.json")).unwrap()).unwrap();
        let opened = fixture.open_delta("table").await;
        let table = match opened {
            Ok(table) => table,
            Err(error) => {
                println!("{name}: refused: {error}");
                continue;
            }
        };
        let answer = match whole(&fixture, &table).await {
            Ok(answer) => answer,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        if let Some(difference) = difference(&answer.batches, &parquet_rows(&fixture.path().join("expected/expected.parquet"))) {
            failures.push(format!("{name}: {difference}"));
        } else if answer.rows() as u64 != about["rows"].as_u64().unwrap() {
            failures.push(format!("{name}: {} rows", answer.rows()));
        } else {
            println!("{name}: {} rows", answer.rows());
        }
        for probe in about["probes"].as_array().unwrap() {
            let (condition, count) = (probe["where"].as_str().unwrap(), probe["count"].as_u64().unwrap());
            match fixture.query(&table, &format!("SELECT count(*) FROM t WHERE {condition}")).await {
                Ok(answer) if answer.value() == count.to_string() => println!("    {condition}: {count} {:?}", answer.report()),
                Ok(answer) => failures.push(format!("{name}: {condition}: {} rows where {count} are expected", answer.value())),
                Err(error) => failures.push(format!("{name}: {condition}: {error}")),
            }
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
        let table = match fixture.open_delta(&folder).await {
            Ok(table) => table,
            Err(error) => {
                println!("{name}: refused: {error}");
                continue;
            }
        };
        let answer = match whole(&fixture, &table).await {
            Ok(answer) => answer,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        println!("{name}: {} rows", answer.rows());
        if root.join("expected").is_dir()
            && let Some(difference) = difference(&answer.batches, &parquet_rows(&root.join("expected")))
        {
            failures.push(format!("{name}: {difference}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
