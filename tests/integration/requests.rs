//! What a query asks of the object store, counted by the server: the second run reads data at most.

use anyhow::{Context, Result};

use crate::client::{Answer, Client, Door, Rows};
use crate::server::{ADMIN_PASSWORD, Lake, Server};

/// What describes a table, and does not change between two runs.
const METADATA: [&str; 4] = ["log", "manifest", "footer", "list"];

const QUERY: &str = "SELECT event_type, count(*), sum(region_id) FROM events GROUP BY event_type ORDER BY event_type";

#[tokio::test]
async fn a_second_run_on_delta_reads_no_metadata() -> Result<()> {
    second_run_reads_no_metadata("DELTA", "log").await
}

#[tokio::test]
async fn a_second_run_on_iceberg_reads_no_metadata() -> Result<()> {
    second_run_reads_no_metadata("ICEBERG", "manifest").await
}

/// `described_by` is the kind of request by which this format learns of its files.
async fn second_run_reads_no_metadata(format: &str, described_by: &str) -> Result<()> {
    let lake = Lake::make()?;
    let server = Server::start(Some(&lake)).await?;
    let mut admin = connected(&server, "admin", ADMIN_PASSWORD).await?;
    let location = lake.path().join("epi").join(format.to_lowercase()).join("events");
    for sql in [
        &format!("CREATE EXTERNAL TABLE events STORED AS {format} LOCATION '{}'", location.display()),
        "CREATE USER ana PASSWORD 'ana-password'",
        "CREATE USER rui PASSWORD 'rui-password'",
        "GRANT SELECT ON TABLE events TO USER ana, USER rui",
        "CREATE POLICY everything ON TABLE events TO USER ana USING (true)",
        "CREATE POLICY own_state ON TABLE events TO USER rui USING (region_id BETWEEN 64 AND 127)",
    ] {
        assert!(matches!(admin.run(sql, Door::Statement).await?, Answer::Done(_)), "{sql}");
    }
    // Registering a table reads it: the count starts with empty caches.
    let mut server = server.restart().await?;
    let mut ana = connected(&server, "ana", "ana-password").await?;
    let mut rui = connected(&server, "rui", "rui-password").await?;

    let start = Requests::of(&server).await?;
    let all = rows(&mut ana, Door::Statement).await?;
    let cold = Requests::of(&server).await?.since(&start);
    assert!(!all.rows.is_empty());
    assert!(cold.count("footer") > 0 && cold.count(described_by) > 0, "the counters count nothing: {cold:?}");

    for door in [Door::Statement, Door::Prepared] {
        let before = Requests::of(&server).await?;
        assert_eq!(rows(&mut ana, door).await?, all);
        Requests::of(&server).await?.since(&before).assert_no_metadata();
    }

    // Caches hold files, not answers: what was read for ana serves rui, who sees his own rows.
    let before = Requests::of(&server).await?;
    let own = rows(&mut rui, Door::Statement).await?;
    assert!(!own.rows.is_empty() && own != all);
    Requests::of(&server).await?.since(&before).assert_no_metadata();
    server.assert_sound();
    Ok(())
}

async fn connected(server: &Server, user: &str, password: &str) -> Result<Client> {
    Client::connect(&server.address, user, password).await?.map_err(anyhow::Error::msg)
}

async fn rows(client: &mut Client, door: Door) -> Result<Rows> {
    match client.run(QUERY, door).await? {
        Answer::Rows(rows) => Ok(rows),
        other => anyhow::bail!("{QUERY}: {other:?}"),
    }
}

/// How many requests there were of each kind.
#[derive(Debug)]
struct Requests(Vec<(String, u64)>);

impl Requests {
    async fn of(server: &Server) -> Result<Self> {
        let metrics = server.metrics().await?;
        let samples = metrics.lines().filter_map(|line| line.strip_prefix("lazaret_store_requests_total{kind=\""));
        let kinds = samples
            .map(|sample| {
                let (kind, count) = sample.split_once("\"} ").context("a sample that is not understood")?;
                Ok((kind.to_owned(), count.parse()?))
            })
            .collect::<Result<_>>()?;
        Ok(Self(kinds))
    }

    fn count(&self, kind: &str) -> u64 {
        self.0.iter().find(|(name, _)| name == kind).map(|(_, count)| *count).unwrap_or_else(|| panic!("nothing is counted as {kind}"))
    }

    fn since(&self, before: &Self) -> Self {
        Self(self.0.iter().map(|(kind, count)| (kind.clone(), count - before.count(kind))).collect())
    }

    fn assert_no_metadata(&self) {
        for kind in METADATA {
            assert_eq!(self.count(kind), 0, "requests of the second run: {self:?}");
        }
    }
}
