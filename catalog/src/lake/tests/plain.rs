//! Plain Parquet, CSV and JSON.

use arrow::array::{Array, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{Field, Schema};

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

/// A file of the columns `a` and, if there is one, `b`.
fn write_columns(path: &Path, a: ArrayRef, b: Option<ArrayRef>) {
    let required = |name: &str, values: &ArrayRef| Field::new(name, values.data_type().clone(), false);
    let fields: Vec<_> = [("a", Some(&a)), ("b", b.as_ref())].into_iter().filter_map(|(name, it)| Some(required(name, it?))).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), [Some(a), b].into_iter().flatten().collect()).unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_parquet(path, &batch, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_files_with_other_columns_and_types_are_one_table() {
    let fixture = Fixture::new();
    write_columns(
        &fixture.path().join("t/1.parquet"),
        Arc::new(Int32Array::from(vec![1, 2])),
        Some(Arc::new(Int32Array::from(vec![10, 20]))),
    );
    write_columns(&fixture.path().join("t/2.parquet"), Arc::new(Int64Array::from(vec![3_000_000_000, 4])), None);
    let table = fixture.lake.open(&fixture.source(TableFormat::Parquet, "t")).await.unwrap();
    for (sql, value) in [
        ("SELECT count(*) FROM t WHERE b IS NULL", "2"),
        ("SELECT count(*) FROM t WHERE b IS NOT NULL", "2"),
        ("SELECT sum(a) FROM t", "3000000007"),
        ("SELECT a FROM t WHERE a > 2000000000", "3000000000"),
        ("SELECT b FROM t WHERE a = 2", "20"),
        ("SELECT count(a) FROM t WHERE a < 3", "2"),
    ] {
        assert_eq!(fixture.query(&table, sql).await.unwrap().value(), value, "{sql}");
    }
    assert_eq!(fixture.query(&table, "SELECT * FROM t").await.unwrap().rows(), 4);

    write_columns(&fixture.path().join("u/1.parquet"), Arc::new(Int32Array::from(vec![1])), None);
    write_columns(&fixture.path().join("u/2.parquet"), Arc::new(StringArray::from(vec!["x"])), None);
    let error = fixture.lake.open(&fixture.source(TableFormat::Parquet, "u")).await.err().unwrap();
    assert!(matches!(error, LakeError::Mismatch { .. }), "{error}");
    assert!(
        error
            .to_string()
            .ends_with("2.parquet does not fit the other files of the table: column \"a\" is Utf8, and Int32 in files before it")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_files_must_have_the_same_columns() {
    let fixture = Fixture::new();
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(fixture.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(fixture.path().join(name), text).unwrap();
    };
    for (folder, other) in [("turned", "value,region\n5,6\n"), ("more", "region,value,more\n5,6,7\n"), ("fewer", "region\n5\n")] {
        // So many rows that no more are looked at for types.
        write(&format!("{folder}/1.csv"), &format!("region,value\n{}", "1,2\n".repeat(2000)));
        write(&format!("{folder}/2.csv"), other);
        let error = fixture.lake.open(&fixture.source(TableFormat::Csv, folder)).await.err().unwrap();
        let LakeError::Mismatch { file, reason } = &error else { panic!("{folder}: {error}") };
        assert!(file.ends_with(&format!("/{folder}/2.csv")) && reason.contains("region, value"), "{error}");
    }
    write("same/1.csv", "region,value\n1,2\n");
    write("same/2.csv", "region,value\n3,4.5\n");
    write("same/3.csv", "region,value\nn,\n");
    let table = fixture.lake.open(&fixture.source(TableFormat::Csv, "same")).await.unwrap();
    assert_eq!(fixture.query(&table, "SELECT sum(value) FROM t").await.unwrap().value(), "6.5");
    assert_eq!(fixture.query(&table, "SELECT region FROM t WHERE value IS NULL").await.unwrap().value(), "n");
    let mut source = fixture.source(TableFormat::Csv, "fewer");
    source.options.insert("header".to_owned(), "false".to_owned());
    assert!(matches!(fixture.lake.open(&source).await.err().unwrap(), LakeError::Mismatch { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_more_in_a_folder_is_the_only_one_that_is_read_anew() {
    let fixture = Fixture::with_staleness(Duration::ZERO);
    let write = |number: i64, value: i64| {
        let path = fixture.path().join(format!("t/{number}.parquet"));
        write_columns(&path, Arc::new(Int64Array::from(vec![value])), None);
    };
    let source = fixture.source(TableFormat::Parquet, "t");
    let sum = async || {
        let before = fixture.lake.stores().requests();
        let table = fixture.lake.open(&source).await.unwrap();
        let sum = fixture.query(&table, "SELECT sum(a) FROM t").await.unwrap().value();
        (sum, fixture.lake.stores().requests().since(before).footer)
    };
    (0..50).for_each(|number| write(number, number));
    assert_eq!(sum().await, ("1225".to_owned(), 50));
    assert_eq!(sum().await, ("1225".to_owned(), 0));
    write(50, 50);
    assert_eq!(sum().await, ("1275".to_owned(), 1));
    // Replaced under its name, at the same size.
    write(7, 1007);
    assert_eq!(sum().await, ("2275".to_owned(), 1));
}
