//! Plain Parquet, CSV and JSON.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn plain_files_are_read() {
    let (Some(omop), Some(covid)) = (shared("data/omop"), shared("data/covid")) else { return };
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.path().join("person")).unwrap();
    std::fs::copy(omop.join("person.parquet"), fixture.path().join("person/a.parquet")).unwrap();
    std::fs::write(fixture.path().join("person/_SUCCESS"), "").unwrap();
    std::fs::copy(covid.join("worldwide-aggregate.csv"), fixture.path().join("world.csv")).unwrap();
    std::fs::write(fixture.path().join("rows.json"), "{\"a\": 1, \"b\": \"x\"}\n{\"a\": 2}\n").unwrap();

    let person = fixture.lake.open(&fixture.source(TableFormat::Parquet, "person")).await.unwrap();
    let answer = fixture.query(&person, "SELECT count(*), min(year_of_birth) FROM t WHERE person_id IS NOT NULL").await.unwrap();
    assert_eq!(answer.value(), "28");

    let world = fixture.lake.open(&fixture.source(TableFormat::Csv, "world.csv")).await.unwrap();
    let lines = std::fs::read_to_string(covid.join("worldwide-aggregate.csv")).unwrap().lines().count() - 1;
    assert_eq!(fixture.query(&world, "SELECT count(*) FROM t").await.unwrap().value(), lines.to_string());
    assert_eq!(fixture.query(&world, "SELECT \"Confirmed\" FROM t ORDER BY \"Date\" LIMIT 1").await.unwrap().value(), "557");

    let rows = fixture.lake.open(&fixture.source(TableFormat::Json, "rows.json")).await.unwrap();
    assert_eq!(fixture.query(&rows, "SELECT sum(a) FROM t WHERE b IS NULL").await.unwrap().value(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_omop_table_opens() {
    let Some(omop) = shared("data/omop") else { return };
    let fixture = Fixture::new();
    for entry in std::fs::read_dir(omop).unwrap() {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        std::fs::copy(entry.unwrap().path(), fixture.path().join(&name)).unwrap();
        let table = fixture.lake.open(&fixture.source(TableFormat::Parquet, &name)).await.unwrap();
        let answer = fixture.query(&table, "SELECT * FROM t").await.unwrap();
        let expected: usize = parquet_rows(&fixture.path().join(&name)).iter().map(RecordBatch::num_rows).sum();
        assert_eq!(answer.rows(), expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_checked() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path().join("a.csv"), "1;x\n2;y\n").unwrap();
    let with = |format, options: &[(&str, &str)]| {
        let mut source = fixture.source(format, "a.csv");
        source.options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        source
    };
    let table = fixture.lake.open(&with(TableFormat::Csv, &[("header", "false"), ("format.delimiter", ";")])).await.unwrap();
    assert_eq!(fixture.query(&table, "SELECT sum(column_1) FROM t").await.unwrap().value(), "3");
    for (format, options, text) in [
        (TableFormat::Csv, [("heder", "true")], "option \"heder\": CSV tables have no such option"),
        (TableFormat::Csv, [("header", "perhaps")], "option \"header\": \"perhaps\" is not true or false"),
        (TableFormat::Csv, [("delimiter", ";;")], "option \"delimiter\": one ASCII character is wanted"),
        (TableFormat::Json, [("header", "true")], "option \"header\": JSON tables have no such option"),
        (TableFormat::Parquet, [("header", "true")], "option \"header\": PARQUET tables have no such option"),
    ] {
        assert_eq!(fixture.lake.open(&with(format, &options)).await.err().unwrap().to_string(), text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_replaced_under_their_name_are_read_anew() {
    let fixture = Fixture::with_staleness(Duration::ZERO);
    let source = fixture.source(TableFormat::Csv, "a.csv");
    for (content, sum) in [("a\n1\n", "1"), ("a\n20\n", "20")] {
        std::fs::write(fixture.path().join("a.csv"), content).unwrap();
        let table = fixture.lake.open(&source).await.unwrap();
        assert_eq!(fixture.query(&table, "SELECT sum(a) FROM t").await.unwrap().value(), sum);
    }
    let absent = fixture.lake.open(&fixture.source(TableFormat::Csv, "nowhere")).await.err().unwrap();
    assert!(matches!(absent, LakeError::NotATable { .. } | LakeError::Storage { .. }), "{absent}");
}

/// Whatever they answer, they answer, and the next query works.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_parquet_gives_an_error() {
    let Some(bad) = shared("data/parquet-bad") else { return };
    let fixture = Fixture::new();
    for entry in std::fs::read_dir(bad).unwrap() {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        std::fs::copy(entry.unwrap().path(), fixture.path().join(&name)).unwrap();
        let answer = match fixture.lake.open(&fixture.source(TableFormat::Parquet, &name)).await {
            Ok(table) => fixture.query(&table, "SELECT * FROM t").await.map(|answer| answer.rows()),
            Err(error) => Err(error.to_string()),
        };
        println!("{name}: {answer:?}");
        assert!(answer.is_err() || (name == "ARROW-GH-43605.parquet" && answer == Ok(21_186)), "{name}: {answer:?}");
    }
    for (name, content) in [
        ("empty.parquet", &b""[..]),
        ("short.parquet", b"PAR1"),
        ("text.parquet", b"no parquet file at all"),
        ("huge.parquet", b"PAR1\xff\xff\xff\x7fPAR1"),
    ] {
        std::fs::write(fixture.path().join(name), content).unwrap();
        let error = fixture.lake.open(&fixture.source(TableFormat::Parquet, name)).await.err().unwrap();
        assert!(matches!(error, LakeError::Corrupt { .. }), "{name}: {error}");
    }
}
