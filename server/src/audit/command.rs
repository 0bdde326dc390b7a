//! `lazaret audit`: what an operator or an auditor does with the log's files, with or without a server beside.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use clap::{Parser, Subcommand};
use lazaret_auth::TokenKey;

use super::export::{ExportError, Exported, Period, export};
use super::verify::{End, Verified, VerifyError, verify_files, verify_folder};
use super::{AuditKey, Link};
use crate::config::{self, Sources};
use crate::serve::data_dir;

/// The log is not whole.
const EXIT_BROKEN: u8 = 1;
/// It could not be looked at, or not be written.
const EXIT_FAILED: u8 = 2;

#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Follow the chain of hashes, and name the first link that does not hold.
    Verify(Verify),
    /// Write the records to a Parquet file with the columns of system.audit.
    Export(Export),
}

#[derive(Parser)]
struct Verify {
    /// The server's data folder; without it, and without files, that of the configuration.
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    data_dir: Option<PathBuf>,
    /// A record that must be in the log, as an earlier run of this command printed it. May be given several times.
    #[arg(long, value_name = "SEQ:HASH", value_parser = known)]
    known: Vec<(u64, Link)>,
    /// Segments, such as copies of them: whether they follow on each other.
    #[arg(value_name = "FILES")]
    files: Vec<PathBuf>,
}

#[derive(Parser)]
struct Export {
    /// The server's data folder; without it, that of the configuration.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The file to write; one of this name is replaced.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Only statements from this moment on: 2026-03-01, or 2026-03-01T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<SystemTime>,
    /// Only statements before this moment.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<SystemTime>,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let said = match args.command {
        Command::Verify(verify) => run_verify(verify),
        Command::Export(export) => run_export(export),
    };
    let (text, code) = match said {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(Failure::Broken(text)) => (text, ExitCode::from(EXIT_BROKEN)),
        Err(Failure::Other(text)) => {
            let _ = writeln!(io::stderr().lock(), "lazaret: {text}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    // Whoever reads may stop reading; the code says the same.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    code
}

enum Failure {
    /// Found, and told on standard output.
    Broken(String),
    Other(String),
}

impl Failure {
    fn other(error: &dyn std::error::Error) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        Self::Other(causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")))
    }
}

fn run_verify(args: Verify) -> Result<String, Failure> {
    let mut notes = Vec::new();
    let verified = if args.files.is_empty() {
        let data_dir = data_dir_of(args.data_dir)?;
        let key = match TokenKey::load(&data_dir::key_of(&data_dir)) {
            Ok(key) => Some(AuditKey::of(&key)),
            Err(error) => {
                notes.push(format!("seals and the head were not compared with the server's key: {error}"));
                None
            }
        };
        verify_folder(&data_dir::audit_of(&data_dir), key.as_ref(), &args.known)
    } else {
        notes.push("only these files were looked at: what lies before and after them may be missing".to_owned());
        verify_files(&args.files, &args.known)
    };
    match verified {
        Ok(verified) => Ok(report(&verified, notes)),
        Err(VerifyError::Broken(broken)) => Err(Failure::Broken(format!("the audit log is broken at {broken}\n"))),
        Err(error) => Err(Failure::other(&error)),
    }
}

fn report(verified: &Verified, mut notes: Vec<String>) -> String {
    let mut text = String::from("the audit log is whole\n");
    if let (Some(first), Some(last)) = (verified.first, verified.last) {
        text.push_str(&format!(
            "{} records, from {} to {}, in {} segments",
            verified.records,
            place(first),
            place(last),
            verified.segments
        ));
        text.push_str(&format!(", of which {} are sealed\nthe last is {}:{}\n", verified.sealed, last.seq, last.hash));
    }
    if verified.before_chain > 0 {
        let which = if verified.records > 0 { "as they were when the chain began" } else { "there is no chain yet" };
        notes.push(format!("{} records are from before the chain: {which}", verified.before_chain));
    }
    for (seq, newer) in &verified.newer {
        notes.push(format!(
            "{newer} records before the start of the server at record {seq} were newer than the head: right after a kill or a power cut"
        ));
    }
    if verified.is_torn {
        notes.push("the last line is no whole record: it is being written, or its write was interrupted before anyone was told".to_owned());
    }
    for note in notes {
        text.push_str(&note);
        text.push('\n');
    }
    text
}

/// A record's number and time.
fn place(end: End) -> String {
    let time = DateTime::<Utc>::from_timestamp_micros(end.time_us);
    format!("{} ({})", end.seq, time.map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Millis, true)))
}

fn run_export(args: Export) -> Result<String, Failure> {
    let data_dir = data_dir_of(args.data_dir)?;
    let period = Period { from: args.from, until: args.until };
    let exported = export(&data_dir::audit_of(&data_dir), data_dir::is_served(&data_dir), &args.to, period);
    let Exported { rows, damaged } = exported.map_err(|error: ExportError| Failure::other(&error))?;
    let mut text = format!("{rows} statements written to {}\n", args.to.display());
    if damaged > 0 {
        text.push_str(&format!("{damaged} damaged lines of the log are not among them: see lazaret audit verify\n"));
    }
    Ok(text)
}

fn data_dir_of(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let sources = Sources { file: None, variables: std::env::vars_os().collect(), flags: Vec::new() };
    match given {
        Some(data_dir) => Ok(data_dir),
        None => config::load(&sources).map(|loaded| loaded.config.data_dir).map_err(|error| Failure::other(&error)),
    }
    .and_then(|data_dir| match Path::new(&data_dir).is_dir() {
        true => Ok(data_dir),
        false => Err(Failure::Other(format!("{} is not a folder", data_dir.display()))),
    })
}

fn known(text: &str) -> Result<(u64, Link), String> {
    let (seq, hash) = text.split_once(':').ok_or("a record's number and hash, with a colon between")?;
    let seq = seq.parse().map_err(|_| "the number is not one")?;
    Ok((seq, hash.parse::<Link>()?))
}

/// A moment, or the beginning of a day in UTC.
fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(SystemTime::from(day.and_time(chrono::NaiveTime::MIN).and_utc()));
    }
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| "a day such as 2026-03-01, or a time such as 2026-03-01T12:00:00Z")?;
    Ok(SystemTime::from(time))
}
