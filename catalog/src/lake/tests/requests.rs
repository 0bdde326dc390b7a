//! What goes to the stores, and when a table's version is looked up again.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_reads_no_footer_and_no_log() {
    for name in ["deletion-vectors", "column-mapping-name", "v2-checkpoint-parquet"] {
        let Some((_, archive)) = archives("data/delta-spark").into_iter().find(|(it, _)| it == name) else { return };
        let fixture = Fixture::new();
        unpack(&archive, fixture.path());
        let source = fixture.source(TableFormat::Delta, "table");
        let run = async || {
            let table = fixture.lake.open(&source).await.unwrap();
            fixture.query(&table, "SELECT * FROM t").await.unwrap().rows()
        };
        let start = fixture.lake.stores.requests();
        let rows = run().await;
        let cold = fixture.lake.stores.requests();
        assert!(cold.since(start).footer > 0 && cold.since(start).log > 0 && cold.since(start).list > 0, "{:?}", cold.since(start));
        assert_eq!(run().await, rows);
        let warm = fixture.lake.stores.requests().since(cold);
        assert_eq!((warm.footer, warm.log, warm.manifest, warm.list), (0, 0, 0, 0), "{name}: {warm:?}");
        assert!(fixture.lake.caches.stats().iter().any(|cache| cache.name == "footers" && cache.hits > 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_callers_reads_a_footer() {
    let Some((_, archive)) = archives("data/delta-spark").into_iter().find(|(name, _)| name == "plain") else { return };
    let fixture = Fixture::new();
    unpack(&archive, fixture.path());
    let table = fixture.open_delta("table").await.unwrap();
    let files = table.provider.downcast_ref::<crate::lake::LakeTable>().unwrap().snapshot().files.len() as u64;
    let before = fixture.lake.stores.requests();
    futures::future::join_all((0..8).map(|_| fixture.query(&table, "SELECT * FROM t"))).await;
    assert_eq!(fixture.lake.stores.requests().since(before).footer, files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_is_seen_after_the_staleness_limit() {
    let Some((_, archive)) = archives("data/delta-spark").into_iter().find(|(name, _)| name == "plain") else { return };
    for (staleness, seen) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let fixture = Fixture::with_staleness(staleness);
        unpack(&archive, fixture.path());
        let log = fixture.path().join("table/_delta_log");
        let commits = std::fs::read_dir(&log).unwrap().map(|it| it.unwrap().path());
        let last = commits.filter(|it| it.extension().is_some_and(|it| it == "json")).max().unwrap();
        let version: i64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let hidden = fixture.path().join("hidden");
        std::fs::rename(&last, &hidden).unwrap();
        let _ = std::fs::remove_file(last.with_extension("crc"));

        let source = fixture.source(TableFormat::Delta, "table");
        let first = fixture.lake.open(&source).await.unwrap();
        assert_eq!(first.snapshot.unwrap().0, version - 1);
        let again = fixture.lake.open(&source).await.unwrap();
        assert!(Arc::ptr_eq(&first.provider, &again.provider));
        std::fs::rename(&hidden, &last).unwrap();
        let later = fixture.lake.open(&source).await.unwrap();
        assert_eq!(later.snapshot.unwrap().0 == version, seen);
    }
}
