//! One thing after the other: statements on the server, commands here. Ctrl-C ends what runs, and nothing else.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use crate::client::{Client, Outcome};
use crate::commands;
use crate::error::ShellError;
use crate::print::{Format, print_rows};
use crate::split::Item;
use crate::table::{Look, printable};

/// A person does not read more; `\limit` changes it.
const SHOWN_ROWS: usize = 1000;

/// A value that is wider than this makes a row that no terminal shows.
const SHOWN_WIDTH: usize = 80;

/// Where a new session is.
const FIRST_CATALOG: &str = "lazaret";
const FIRST_SCHEMA: &str = "public";

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Go,
    Quit,
}

pub struct Runner {
    pub client: Client,
    pub format: Format,
    pub has_timing: bool,
    /// The most rows that are shown; 0: all.
    pub limit: usize,
    pub look: Look,
    pub catalog: String,
    pub schema: String,
    /// Something has run that may have changed which names there are.
    pub names_changed: bool,
}

impl Runner {
    pub fn new(client: Client, format: Format, is_interactive: bool) -> Self {
        let has_color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            client,
            format,
            has_timing: is_interactive,
            limit: if is_interactive { SHOWN_ROWS } else { 0 },
            look: Look { has_color, max_width: if is_interactive { SHOWN_WIDTH } else { 0 } },
            catalog: FIRST_CATALOG.to_owned(),
            schema: FIRST_SCHEMA.to_owned(),
            names_changed: false,
        }
    }

    pub async fn run(&mut self, item: &Item) -> Result<Next, ShellError> {
        tokio::select! {
            outcome = self.run_to_end(item) => outcome,
            // Dropping the other branch drops the stream, which cancels the query.
            _ = tokio::signal::ctrl_c() => Err(ShellError::Interrupted),
        }
    }

    async fn run_to_end(&mut self, item: &Item) -> Result<Next, ShellError> {
        match item {
            Item::Sql(sql) => self.statement(sql).await.map(|()| Next::Go),
            Item::Command(command) => commands::run(self, command).await,
        }
    }

    pub async fn statement(&mut self, sql: &str) -> Result<(), ShellError> {
        let started = Instant::now();
        match self.client.execute(sql).await? {
            Outcome::Rows(mut rows) => print_rows(&mut rows, self.format, self.look, self.limit).await?,
            Outcome::Done { affected, warnings } => {
                self.names_changed = true;
                self.follow_use(sql);
                for warning in warnings {
                    eprintln!("warning: {}", printable(&warning, false));
                }
                if self.format.is_for_people() {
                    let text = match affected {
                        Some(1) => "OK, 1 row\n".to_owned(),
                        Some(rows) if rows > 1 => format!("OK, {rows} rows\n"),
                        _ => "OK\n".to_owned(),
                    };
                    io::stdout().write_all(text.as_bytes())?;
                }
            }
        }
        if self.has_timing {
            writeln!(io::stdout(), "Time: {:.3} ms", started.elapsed().as_secs_f64() * 1e3)?;
        }
        Ok(())
    }

    /// After `USE c` or `USE c.s` the prompt says so.
    fn follow_use(&mut self, sql: &str) {
        let mut words = sql.split_whitespace();
        if !words.next().is_some_and(|word| word.eq_ignore_ascii_case("use")) {
            return;
        }
        let Some(name) = words.next() else { return };
        match commands::name_parts(name).as_slice() {
            [catalog] => {
                self.catalog.clone_from(catalog);
                FIRST_SCHEMA.clone_into(&mut self.schema);
            }
            [catalog, schema] => {
                self.catalog.clone_from(catalog);
                self.schema.clone_from(schema);
            }
            _ => {}
        }
    }
}
