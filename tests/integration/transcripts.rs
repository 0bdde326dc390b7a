//! Runs the transcripts: each against a server of its own, each answer through each door.
//!
//! `connection rui` is the user `rui` with the password `rui-password`; `connection rui:secret` says the password.
//! With `LAZARET_UPDATE_TRANSCRIPTS=1` the answers of the server are written into the files, to be read before they are committed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::client::{Answer, Client, Door};
use crate::server::{Lake, Server};
use crate::transcript::{Expected, Part, Record, parse, print};

/// In a statement, the folder of `Lake`.
const FOLDER: &str = "$__TEST_DIR__";

macro_rules! transcripts {
    ($($name:ident),+ $(,)?) => {
        $(#[tokio::test]
        async fn $name() -> Result<()> {
            run(stringify!($name)).await
        })+

        #[test]
        fn every_transcript_is_run() {
            let named = [$(stringify!($name)),+];
            for file in fs::read_dir(folder()).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "slt") {
                    let name = path.file_stem().unwrap().to_str().unwrap();
                    assert!(named.contains(&name), "{name}.slt is not in the list of transcripts.rs");
                }
            }
        }
    };
}

transcripts! {
    active_roles,
    catalog,
    create_table,
    column_privileges,
    emergency_access,
    errors,
    deny,
    effective_policies,
    execute_as,
    explain,
    explain_policy,
    external_tables,
    hostile_queries,
    identity,
    insert,
    insert_policies,
    last_administrator,
    names,
    not_yours,
    owners,
    policies_bind,
    privileges,
    queries,
    row_policies,
    session_functions,
    sessions,
    system_tables,
    unsupported,
    users_and_roles,
    views,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts")
}

async fn run(name: &str) -> Result<()> {
    let path = folder().join(format!("{name}.slt"));
    let text = fs::read_to_string(&path)?;
    let mut parts = parse(&text)?;
    let lake = if text.contains(FOLDER) { Some(Lake::make()?) } else { None };
    let mut server = Server::start(lake.as_ref()).await?;
    let lake_path = lake.as_ref().map(|lake| lake.path().display().to_string()).unwrap_or_default();
    let mut session = Session { address: server.address.clone(), lake_path, connections: HashMap::new() };
    let is_update = std::env::var_os("LAZARET_UPDATE_TRANSCRIPTS").is_some();
    let mut failures = Vec::new();
    for part in &mut parts {
        let Part::Record(record) = part else { continue };
        if is_update {
            let answer = session.ask(record, Door::Statement).await?;
            if record.known_defect.is_none() {
                record.expected = record.expectation(&answer);
            }
        } else if let Err(failure) = session.check(record).await? {
            failures.push(format!("{}:{}\n{failure}", path.display(), record.line));
        }
    }
    server.assert_sound();
    if is_update {
        fs::write(&path, print(&parts))?;
    }
    assert!(failures.is_empty(), "{} records of {name} fail\n\n{}", failures.len(), failures.join("\n\n"));
    Ok(())
}

struct Session {
    address: String,
    lake_path: String,
    /// By what the transcript calls them. A refused one signs in anew.
    connections: HashMap<String, Client>,
}

impl Session {
    /// What is wrong, if anything.
    async fn check(&mut self, record: &Record) -> Result<Result<(), String>> {
        let answer = self.ask(record, Door::Statement).await?;
        let mut outcome = compare(record, &answer, Door::Statement);
        // What was done is not done twice. What was answered or refused must be so for a prepared statement too.
        if !matches!(answer, Answer::Done(_)) && record.known_defect.is_none() {
            let prepared = self.ask(record, Door::Prepared).await?;
            outcome = outcome.and(compare(record, &prepared, Door::Prepared));
        }
        Ok(match (&record.known_defect, outcome) {
            (None, outcome) => outcome,
            (Some(_), Err(_)) => Ok(()),
            (Some(defect), Ok(())) => Err(format!("this passes; take away the line \"# known defect: {defect}\"")),
        })
    }

    async fn ask(&mut self, record: &Record, door: Door) -> Result<Answer> {
        let name = record.connection.as_deref().unwrap_or("admin");
        let client = match self.connections.entry(name.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let made;
                let (user, password) = match name.split_once(':') {
                    Some(said) => said,
                    None => {
                        made = format!("{name}-password");
                        (name, made.as_str())
                    }
                };
                match Client::connect(&self.address, user, password).await? {
                    Ok(client) => entry.insert(client),
                    Err(refused) => return Ok(Answer::Error(refused)),
                }
            }
        };
        let answer = client.run(&record.sql.replace(FOLDER, &self.lake_path), door).await?;
        if matches!(&answer, Answer::Error(message) if message.starts_with("UNAUTHENTICATED")) {
            self.connections.remove(name);
        }
        Ok(self.without_folder(answer))
    }

    fn without_folder(&self, answer: Answer) -> Answer {
        if self.lake_path.is_empty() {
            return answer;
        }
        let replaced = |text: &String| text.replace(&self.lake_path, FOLDER);
        match answer {
            Answer::Done(count) => Answer::Done(count),
            Answer::Error(message) => Answer::Error(replaced(&message)),
            Answer::Rows(mut rows) => {
                rows.rows = rows.rows.iter().map(|row| row.iter().map(replaced).collect()).collect();
                Answer::Rows(rows)
            }
        }
    }
}

fn compare(record: &Record, answer: &Answer, door: Door) -> Result<(), String> {
    if record.is_met_by(answer) {
        return Ok(());
    }
    let who = record.connection.as_deref().unwrap_or("admin");
    let (expected, got) = (shown(&record.expected), shown(&record.expectation(answer)));
    Err(format!("{who}, {door:?}: {}\n  expected {expected}\n  got      {got}", record.sql))
}

fn shown(expected: &Expected) -> String {
    match expected {
        Expected::Done => "no rows, and no error".to_owned(),
        Expected::Changed(count) => format!("{count} changed rows"),
        Expected::Error(message) => message.clone(),
        Expected::Rows { types, lines } => format!("{types}\n    {}", lines.join("\n    ")),
    }
}
