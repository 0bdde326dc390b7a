//! The one oracle through the server: worlds made by statements, and each query asked by the reader under policy and by
//! an admin of copies that hold the visible rows, masked. See `tests/oracle`, and `catalog/src/governed/oracle.rs` for
//! the same within the engine, over many more worlds.
//!
//! `LAZARET_ORACLE_SERVED` and `LAZARET_ORACLE_SEED` choose how many worlds, and which.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Result, ensure};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_flight::error::FlightError;
use lazaret_oracle::{OTHER, Parameter, Query, READER, SECRET, Scene, Shrinker, World, words};

use crate::client::{Answer, Client, Door, shown};
use crate::server::{ADMIN_PASSWORD, Server};

/// With this many queries each, some hundreds of pairs.
const WORLDS: u64 = 10;
const QUERIES: usize = 40;

/// How many smaller worlds and queries are tried where there is a difference: each is made anew by statements.
const ATTEMPTS: usize = 150;

/// Batch sizes and partitions under which a copy may fail where the governed side did: as small as a session may say.
const SETTINGS: [(usize, usize); 4] = [(8192, 1), (64, 1), (64, 4), (8192, 2)];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[tokio::test]
async fn governed_tables_answer_as_their_copies_through_the_server() -> Result<()> {
    let first = setting("LAZARET_ORACLE_SEED", 1);
    let worlds = setting("LAZARET_ORACLE_SERVED", WORLDS);
    println!("oracle through the server: seeds {first} to {}", first + worlds - 1);
    let mut stage = Stage::start().await?;
    let mut tally = Tally::default();
    for seed in first..first + worlds {
        let mut world = World::new(seed, Scene::default());
        stage.make(&world).await?;
        stage.take_away(&world).await?;
        for number in 0..QUERIES {
            let query = world.query();
            let door = if number % 2 == 0 { Door::Statement } else { Door::Prepared };
            let Some(difference) = stage.compare(&world, &query, door, &mut tally).await? else { continue };
            let (small, small_query) = stage.shrunk(&world, &query, door).await;
            panic!(
                "seed {seed}, {door:?}: {query:?}\n  {difference}\n\n{}",
                small.transcript(&small_query, "world", "statement ok\n{query}\n")
            );
        }
        stage.unmake().await?;
    }
    println!("oracle through the server: {tally:?}");
    let pairs = tally.equal + tally.failed_alike + tally.failed_in_some_order + tally.copy_failed;
    assert_eq!(pairs, worlds as usize * QUERIES);
    assert!(tally.equal > pairs / 3 && tally.with_rows > tally.equal / 5, "{tally:?}");
    stage.server.assert_sound();
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    equal: usize,
    with_rows: usize,
    failed_alike: usize,
    failed_in_some_order: usize,
    copy_failed: usize,
}

/// One server with a world and its copy.
struct Stage {
    server: Server,
    admin: Client,
    reader: Client,
    other: Client,
    /// The admin, under several settings.
    copies: Vec<Client>,
}

type Told = Result<Answer, String>;

impl Stage {
    async fn start() -> Result<Self> {
        let server = Server::start(None).await?;
        let mut admin = connected(&server, "admin", ADMIN_PASSWORD).await?;
        for user in [READER, OTHER] {
            done(&mut admin, &format!("CREATE USER {user} PASSWORD '{user}-password'")).await?;
        }
        let reader = connected(&server, READER, &format!("{READER}-password")).await?;
        let other = connected(&server, OTHER, &format!("{OTHER}-password")).await?;
        let mut copies = Vec::new();
        for (batch_size, partitions) in SETTINGS {
            let mut copy = connected(&server, "admin", ADMIN_PASSWORD).await?;
            done(&mut copy, &format!("SET batch_size = {batch_size}")).await?;
            done(&mut copy, &format!("SET target_partitions = {partitions}")).await?;
            copies.push(copy);
        }
        Ok(Self { server, admin, reader, other, copies })
    }

    async fn make(&mut self, world: &World) -> Result<()> {
        for statement in world.setup().into_iter().chain(world.setup_copy()) {
            done(&mut self.admin, &statement).await?;
        }
        for client in [&mut self.reader, &mut self.other] {
            done(client, "USE lazaret.world").await?;
        }
        for copy in &mut self.copies {
            done(copy, "USE lazaret.copy").await?;
        }
        Ok(())
    }

    /// What the reader makes a table of holds what the copy holds, for whoever reads it.
    async fn take_away(&mut self, world: &World) -> Result<()> {
        done(&mut self.admin, &format!("GRANT CREATE ON SCHEMA aside TO USER {READER}")).await?;
        for table in &world.tables {
            let name = table.name;
            done(&mut self.reader, &format!("CREATE TABLE aside.of_{name} AS SELECT * FROM world.{name}")).await?;
            let mut answers = Vec::new();
            for from in [format!("aside.of_{name}"), format!("copy.{name}")] {
                let query = Query { text: format!("SELECT * FROM {from}"), parameters: Vec::new() };
                answers.push(ask(&mut self.admin, &query, Door::Statement).await?);
            }
            assert_eq!(answers[0], answers[1], "seed {}: {name}, taken away by its reader", world.seed);
        }
        Ok(())
    }

    async fn unmake(&mut self) -> Result<()> {
        for schema in ["world", "copy", "aside"] {
            done(&mut self.admin, &format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).await?;
        }
        Ok(())
    }

    /// `None` where nothing was learnt that the copies do not show.
    async fn compare(&mut self, world: &World, query: &Query, door: Door, tally: &mut Tally) -> Result<Option<String>> {
        // Whatever this leaves behind in the server's caches is for another principal.
        let _ = ask(&mut self.other, query, door).await?;
        let governed = ask(&mut self.reader, query, door).await?;
        if format!("{governed:?}").contains(SECRET) && world.tables.iter().all(|table| table.name == "o" || !world.is_open(table)) {
            return Ok(Some(format!("a hidden text: {governed:?}")));
        }
        let first = ask(&mut self.copies[0], query, door).await?;
        let difference = match (&governed, &first) {
            (Ok(rows), Ok(expected)) if rows == expected => {
                tally.equal += 1;
                tally.with_rows += usize::from(matches!(rows, Answer::Rows(rows) if rows.rows.len() > 1));
                None
            }
            (Ok(rows), Ok(expected)) => Some(format!("{rows:?}\n  is not\n  {expected:?}")),
            (Ok(rows), Err(error)) => {
                tally.copy_failed += 1;
                for copy in &mut self.copies[1..] {
                    if let Ok(expected) = ask(copy, query, door).await?
                        && *rows != expected
                    {
                        return Ok(Some(format!("{rows:?}\n  is not\n  {expected:?}")));
                    }
                }
                error.starts_with("NOT_FOUND").then(|| format!("{rows:?}\n  where the copy fails with {error}"))
            }
            (Err(error), Err(expected)) if words(error) == words(expected) => {
                tally.failed_alike += 1;
                None
            }
            (Err(error), _) => {
                let mut errors = BTreeSet::new();
                for copy in &mut self.copies {
                    errors.extend(ask(copy, query, door).await?.err().map(|error| words(&error)));
                }
                if errors.contains(&words(error)) || fails_without_hidden_rows(world, query, error).await? {
                    tally.failed_in_some_order += 1;
                    return Ok(None);
                }
                Some(format!("failed with {error}\n  the copies answer {first:?}, or fail with {errors:?}"))
            }
        };
        Ok(difference)
    }

    async fn shrunk(&mut self, world: &World, query: &Query, door: Door) -> (World, Query) {
        let differs = async |world: &World, query: &Query| {
            let tried = async {
                self.unmake().await?;
                self.make(world).await?;
                self.compare(world, query, door, &mut Tally::default()).await
            };
            matches!(tried.await, Ok(Some(_)))
        };
        Shrinker::new(world.clone(), query.clone(), ATTEMPTS).run(differs).await
    }
}

/// Whether a server on which no row is hidden gives this error too: its joins have other sides than the copies', for no
/// statistics pass a barrier, and another order meets another visible row first.
async fn fails_without_hidden_rows(world: &World, query: &Query, error: &str) -> Result<bool> {
    let mut visible = world.clone();
    for (table, all) in visible.tables.iter_mut().zip(&world.tables) {
        table.rows = world.visible(all, &all.rows.rows);
    }
    let server = Server::start(None).await?;
    let mut admin = connected(&server, "admin", ADMIN_PASSWORD).await?;
    for user in [READER, OTHER] {
        done(&mut admin, &format!("CREATE USER {user} PASSWORD '{user}-password'")).await?;
    }
    for statement in visible.setup() {
        done(&mut admin, &statement).await?;
    }
    for (batch_size, partitions) in SETTINGS {
        let mut reader = connected(&server, READER, &format!("{READER}-password")).await?;
        done(&mut reader, "USE lazaret.world").await?;
        done(&mut reader, &format!("SET batch_size = {batch_size}")).await?;
        done(&mut reader, &format!("SET target_partitions = {partitions}")).await?;
        if ask(&mut reader, query, Door::Statement).await?.is_err_and(|failure| words(&failure) == words(error)) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn connected(server: &Server, user: &str, password: &str) -> Result<Client> {
    Client::connect(&server.address, user, password).await?.map_err(anyhow::Error::msg)
}

async fn done(client: &mut Client, sql: &str) -> Result<()> {
    let answer = client.run(sql, Door::Statement).await?;
    ensure!(matches!(answer, Answer::Done(_)), "{sql}: {answer:?}");
    Ok(())
}

/// The rows in order of their text, or the error as of a copy.
async fn ask(client: &mut Client, query: &Query, door: Door) -> Result<Told> {
    let answer = match query.parameters.is_empty() {
        true => client.run(&query.text, door).await?,
        false => match bound(client, query).await {
            Ok(answer) => answer,
            Err(FlightError::Tonic(status)) => Answer::Error(shown(&status)),
            Err(error) => return Err(error.into()),
        },
    };
    Ok(match answer {
        Answer::Error(error) => Err(error.replace("world.", "copy.")),
        Answer::Rows(mut rows) => {
            rows.rows.sort();
            Ok(Answer::Rows(rows))
        }
        Answer::Done(rows) => Ok(Answer::Done(rows)),
    })
}

async fn bound(client: &mut Client, query: &Query) -> Result<Answer, FlightError> {
    let mut prepared = client.flight.prepare(query.text.clone(), None).await?;
    let columns = query.parameters.iter().enumerate().map(|(index, parameter)| {
        let column: ArrayRef = match parameter {
            Parameter::Number(number) => Arc::new(Int64Array::from(vec![*number])),
            Parameter::Text(text) => Arc::new(StringArray::from(vec![text.as_str()])),
        };
        ((index + 1).to_string(), column)
    });
    prepared.set_parameters(RecordBatch::try_from_iter(columns)?)?;
    let answer = match prepared.execute().await {
        Ok(info) => client.fetch(info).await,
        Err(error) => Err(error),
    };
    prepared.close().await?;
    answer
}
