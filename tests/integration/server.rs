//! A server under test: `lazaret serve` on free ports, with a data folder of its own, killed at the end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

/// Each user `u` of a test has the password `u-password`, unless the test says another.
pub const ADMIN_PASSWORD: &str = "admin-password";

/// A debug binary on a busy machine; what takes longer hangs.
const READY: Duration = Duration::from_secs(60);
const EVENTS: &str = "10k";

pub struct Server {
    /// Where it answers Flight SQL.
    pub address: String,
    admin_address: String,
    process: Child,
    folder: TempDir,
    lake: Option<PathBuf>,
}

impl Server {
    /// Starts one, which may register tables below `lake`.
    pub async fn start(lake: Option<&Lake>) -> Result<Self> {
        let lake = lake.map(|lake| lake.path().to_owned());
        Self::start_in(tempfile::tempdir()?, lake).await
    }

    /// Kills it and starts it again on the same data.
    pub async fn restart(mut self) -> Result<Self> {
        self.process.kill().await?;
        Self::start_in(self.folder, self.lake).await
    }

    /// Starts one in a folder that is there already.
    pub async fn start_in(folder: TempDir, lake: Option<PathBuf>) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log_file(folder.path()))?;
        let mut command = Command::new(binary("LAZARET_BIN")?);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_configuration(name)) {
            command.env_remove(name);
        }
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.path().join("data"))
            .env("LAZARET_ADMIN_LISTEN", "127.0.0.1:0")
            .env("LAZARET_ADMIN_PASSWORD", ADMIN_PASSWORD)
            .stdout(Stdio::piped())
            .stderr(log);
        if let Some(lake) = &lake {
            command.env("LAZARET_ALLOWED_PATHS", lake);
        }
        let mut process = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let stdout = process.stdout.take().context("the server has no standard output")?;
        let line = timeout(READY, BufReader::new(stdout).lines().next_line()).await.context("the server did not become ready")??;
        let Some(line) = line else { bail!("the server did not start:\n{}", fs::read_to_string(log_file(folder.path()))?) };
        let ready: Value = serde_json::from_str(&line)?;
        let text = |key: &str| ready[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {line}"));
        let server = Self { address: text("listen")?, admin_address: text("admin_listen")?, process, folder, lake };
        ensure!(server.http("readyz").await?.status().is_success(), "it said that it is ready, and /readyz says otherwise");
        Ok(server)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub async fn metrics(&self) -> Result<String> {
        Ok(self.http("metrics").await?.error_for_status()?.text().await?)
    }

    /// What `/readyz` says, and with which status.
    pub async fn ready(&self) -> Result<(u16, String)> {
        let answer = self.http("readyz").await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// `lazaret` with these arguments, beside it: the exit code, and what it printed.
    pub fn command(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let mut command = Command::new(binary("LAZARET_BIN")?);
        let output = command.args(arguments).arg("--data-dir").arg(self.folder.path().join("data")).output()?;
        Ok((output.status.code(), String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?))
    }

    async fn http(&self, path: &str) -> Result<reqwest::Response> {
        Ok(reqwest::get(format!("http://{}/{path}", self.admin_address)).await?)
    }

    /// That it still runs, and nothing panicked in it.
    pub fn assert_sound(&mut self) {
        let log = fs::read_to_string(log_file(self.folder.path())).unwrap();
        assert!(self.process.try_wait().unwrap().is_none(), "the server died:\n{log}");
        assert!(!log.contains("panicked at"), "something panicked in the server:\n{log}");
    }
}

/// A folder of tables that a server may register: EpiBench's at a tiny scale, as Delta and Iceberg, and small files.
pub struct Lake(TempDir);

impl Lake {
    pub fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // Iceberg's metadata holds absolute paths, so the tables are made where they stay.
        let generate = Command::new(binary("LAZARET_BENCH_BIN")?)
            .args(["generate", "--scale", EVENTS, "--out"])
            .arg(folder.path().join("epi"))
            .stderr(Stdio::null())
            .status()?;
        ensure!(generate.success(), "lazaret-bench generate failed");
        let files = folder.path().join("files");
        fs::create_dir(&files)?;
        for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts/files"))? {
            let file = file?;
            fs::copy(file.path(), files.join(file.file_name()))?;
        }
        Ok(Self(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("server.log")
}

/// What is set for whoever runs the tests must not reach the server.
fn is_configuration(variable: &OsStr) -> bool {
    variable.to_str().is_some_and(|name| name.starts_with("LAZARET_") || name.starts_with("AWS_"))
}

fn binary(variable: &str) -> Result<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .with_context(|| format!("{variable} must name the built binary; make integration sets it"))
}
