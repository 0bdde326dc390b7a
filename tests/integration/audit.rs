//! What only a whole server can show of the audit: a disk that is full, and who may read it through which door.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTables};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{Answer, Client, Door};
use crate::server::{ADMIN_PASSWORD, Server};

/// A machine of two cores that does something else as well.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file system in memory, of one MiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where nothing can be mounted.
    fn mount(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> Result<()> {
        let mut filler = fs::File::create(self.filler())?;
        while filler.write(&[0; 512]).is_ok() {}
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn connected(server: &Server, user: &str, password: &str) -> Result<Client> {
    Client::connect(&server.address, user, password).await?.map_err(anyhow::Error::msg)
}

fn rows(answer: Answer) -> Vec<Vec<String>> {
    match answer {
        Answer::Rows(rows) => rows.rows,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_full_disk_stops_statements_and_says_so_until_there_is_room() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let audit = folder.path().join("data/audit");
    fs::create_dir_all(&audit)?;
    let Some(disk) = SmallDisk::mount(&audit) else {
        eprintln!("skipped a_full_disk_stops_statements_and_says_so_until_there_is_room: nothing can be mounted here");
        return Ok(());
    };
    let mut server = Server::start_in(folder, None).await?;
    let mut admin = connected(&server, "admin", ADMIN_PASSWORD).await?;
    assert!(matches!(admin.run("CREATE SCHEMA before", Door::Statement).await?, Answer::Done(_)));
    let channel = Channel::from_shared(format!("http://{}", server.address))?.connect().await?;
    let mut health = HealthClient::new(channel);
    let mut told = health.watch(HealthCheckRequest { service: String::new() }).await?.into_inner();
    let status = |told: Option<tonic_health::pb::HealthCheckResponse>| told.map(|told| told.status());
    assert_eq!(status(told.message().await?), Some(ServingStatus::Serving));

    disk.fill()?;
    // What still fits in the page that is written to is no failure.
    let mut refused = None;
    for number in 0..200 {
        let name = format!("full_{number}");
        match admin.run(&format!("CREATE SCHEMA {name}"), Door::Statement).await? {
            Answer::Done(_) => {}
            Answer::Error(error) => {
                refused = Some((name, error));
                break;
            }
            other => bail!("{other:?}"),
        }
    }
    let (name, error) = refused.expect("a full disk was written to");
    assert!(error.starts_with("UNAVAILABLE: the audit cannot be written"), "{error}");
    let error = admin.run("SELECT 'with a text that fits nowhere any more'", Door::Statement).await?;
    assert!(matches!(&error, Answer::Error(error) if error.starts_with("UNAVAILABLE")), "{error:?}");
    assert_eq!(server.ready().await?, (503, "not ready: audit\n".to_owned()));
    assert_eq!(status(timeout(PATIENCE, told.message()).await??), Some(ServingStatus::NotServing));
    assert!(server.metrics().await?.contains("lazaret_audit_healthy 0"));

    disk.make_room()?;
    assert_eq!(status(timeout(PATIENCE, told.message()).await??), Some(ServingStatus::Serving));
    assert_eq!(server.ready().await?.0, 200);
    assert!(matches!(admin.run("CREATE SCHEMA after", Door::Statement).await?, Answer::Done(_)));
    // What was refused did nothing, and nothing of what was done is lost.
    let schemas = rows(admin.run("SELECT schema_name FROM information_schema.schemata", Door::Statement).await?).concat();
    assert!(!schemas.contains(&name), "{schemas:?}");
    let audited = rows(admin.run("SELECT statement, status FROM system.audit WHERE statement LIKE 'CREATE%'", Door::Statement).await?);
    for schema in schemas.iter().filter(|schema| schema.starts_with("full_") || ["before", "after"].contains(&schema.as_str())) {
        assert!(audited.contains(&vec![format!("CREATE SCHEMA {schema}"), "ok".to_owned()]), "{schema} in {audited:?}");
    }
    let (code, said) = server.command(&["audit", "verify"])?;
    assert_eq!(code, Some(0), "{said}");
    server.assert_sound();
    // Before the folder around it is removed.
    drop(disk);
    Ok(())
}

#[tokio::test]
async fn an_auditor_reads_the_audit_and_nothing_else() -> Result<()> {
    let mut server = Server::start(None).await?;
    let mut admin = connected(&server, "admin", ADMIN_PASSWORD).await?;
    for sql in [
        "CREATE SCHEMA clinic",
        "CREATE TABLE clinic.visits AS SELECT 1 AS id",
        "CREATE USER ana PASSWORD 'ana-password'",
        "GRANT READ AUDIT ON SYSTEM TO USER ana",
    ] {
        assert!(matches!(admin.run(sql, Door::Statement).await?, Answer::Done(_)), "{sql}");
    }
    let mut ana = connected(&server, "ana", "ana-password").await?;
    for door in [Door::Statement, Door::Prepared] {
        let read = rows(ana.run("SELECT statement, tables FROM system.audit WHERE principal = 'admin' ORDER BY seq", door).await?);
        assert!(
            read.contains(&vec!["CREATE TABLE clinic.visits AS SELECT 1 AS id".to_owned(), "[lazaret.clinic.visits]".to_owned()]),
            "{read:?}"
        );
        for name in ["clinic.visits", "clinic.nosuch", "system.caches"] {
            let told = ana.run(&format!("SELECT * FROM {name}"), door).await?;
            assert!(matches!(&told, Answer::Error(error) if error.starts_with("NOT_FOUND")), "{name}: {told:?}");
        }
        for name in ["queries", "sessions"] {
            let whose = rows(ana.run(&format!("SELECT DISTINCT principal FROM system.{name}"), door).await?);
            assert_eq!(whose, [["ana"]], "{name}");
        }
        for name in ["policies", "grants"] {
            let listed = rows(ana.run(&format!("SELECT * FROM system.{name}"), door).await?).concat();
            assert!(listed.iter().all(|cell| !cell.contains("clinic")), "{name}: {listed:?}");
        }
        for listing in ["schemata", "tables", "columns", "views"] {
            let listed = rows(ana.run(&format!("SELECT * FROM information_schema.{listing}"), door).await?);
            let listed: Vec<_> = listed.concat().into_iter().filter(|cell| cell.contains("clinic") || cell.contains("visits")).collect();
            assert_eq!(listed, Vec::<String>::new(), "{listing}");
        }
        for sql in
            ["SHOW TABLES FROM clinic", "SHOW COLUMNS FROM clinic.visits", "DESCRIBE clinic.visits", "SHOW CREATE TABLE clinic.visits"]
        {
            let told = ana.run(sql, door).await?;
            assert!(matches!(&told, Answer::Error(error) if error.starts_with("NOT_FOUND")), "{sql}: {told:?}");
        }
        for sql in ["SHOW USERS", "SHOW ROLES", "SHOW POLICIES", "SHOW GRANTS"] {
            if let Answer::Rows(listed) = ana.run(sql, door).await? {
                assert!(listed.rows.concat().iter().all(|cell| !cell.contains("clinic")), "{sql}: {listed:?}");
            }
        }
    }
    let schemas = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None };
    let tables = CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: None,
        table_name_filter_pattern: None,
        table_types: Vec::new(),
        include_schema: true,
    };
    for info in [ana.flight.get_catalogs().await?, ana.flight.get_db_schemas(schemas).await?, ana.flight.get_tables(tables).await?] {
        if let Answer::Rows(listed) = ana.fetch(info).await? {
            let listed = listed.rows.concat();
            assert!(listed.iter().all(|cell| !cell.contains("clinic") && !cell.contains("visits")), "{listed:?}");
        }
    }
    // The audit cannot be written through SQL.
    for sql in ["DROP TABLE system.audit", "CREATE TABLE system.audit AS SELECT 1 AS id"] {
        assert!(matches!(ana.run(sql, Door::Statement).await?, Answer::Error(_)), "{sql}");
    }
    server.assert_sound();
    Ok(())
}
