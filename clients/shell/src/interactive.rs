//! The shell on a terminal: line editing, history, completion.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::ExitCode;

use parking_lot::Mutex;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use tokio::runtime::Handle;

use crate::client::Client;
use crate::complete::{Fetched, candidates};
use crate::error::{ShellError, report};
use crate::print::Format;
use crate::run::{Next, Runner};
use crate::split::split;

/// Statements that are kept.
const HISTORY_ENTRIES: usize = 10_000;

/// A line with one of these words is not kept.
const SECRET_WORDS: [&str; 3] = ["password", "secret", "token"];

pub async fn run(client: Client, format: Format) -> Result<ExitCode, ShellError> {
    let runner = Runner::new(client, format, true);
    // The line editor blocks. This thread does nothing else, and the runtime has others for the connection.
    tokio::task::block_in_place(|| Shell::new(runner)?.run_to_end())
}

struct Shell {
    runner: Runner,
    runtime: Handle,
    editor: Editor<ShellHelper, FileHistory>,
    history: Option<PathBuf>,
}

impl Shell {
    fn new(runner: Runner) -> Result<Self, ShellError> {
        let failed = |error| ShellError::usage("cannot use the terminal", error);
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .auto_add_history(false)
            .history_ignore_space(true)
            .max_history_size(HISTORY_ENTRIES)
            .map_err(failed)?
            .build();
        let runtime = Handle::current();
        let names = Mutex::new(Fetched::new(runner.client.clone(), runtime.clone()));
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(ShellHelper { names, catalog: runner.catalog.clone(), schema: runner.schema.clone() }));
        let history = history_file();
        match &history {
            Ok(path) => {
                if let Err(error) = editor.load_history(path) {
                    eprintln!("warning: the history cannot be read: {error}");
                }
            }
            Err(error) => eprintln!("warning: there will be no history: {error}"),
        }
        Ok(Self { runner, runtime, editor, history: history.ok() })
    }

    fn run_to_end(mut self) -> Result<ExitCode, ShellError> {
        println!("lazaret {} on {}. \\? for help, \\q to quit.", env!("CARGO_PKG_VERSION"), self.runner.client.url());
        loop {
            let prompt = format!("{}.{}=> ", self.runner.catalog, self.runner.schema);
            match self.editor.readline(&prompt) {
                Ok(text) => {
                    self.remember(&text);
                    if self.run_text(&text) == Next::Quit {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(ExitCode::SUCCESS),
                Err(error) => return Err(ShellError::usage("cannot read the terminal", error)),
            }
        }
    }

    /// Runs what was entered, up to the first error.
    fn run_text(&mut self, text: &str) -> Next {
        let script = split(text);
        for item in script.items.iter().chain(&script.rest) {
            match self.runtime.block_on(self.runner.run(item)) {
                Ok(Next::Go) => {}
                Ok(Next::Quit) => return Next::Quit,
                Err(error) => {
                    report(&error, Some(item));
                    break;
                }
            }
        }
        if let Some(helper) = self.editor.helper_mut() {
            helper.catalog.clone_from(&self.runner.catalog);
            helper.schema.clone_from(&self.runner.schema);
            if std::mem::take(&mut self.runner.names_changed) {
                helper.names.get_mut().forget();
            }
        }
        Next::Go
    }

    fn remember(&mut self, text: &str) {
        let lower = text.to_lowercase();
        if text.trim().is_empty() || SECRET_WORDS.iter().any(|word| lower.contains(word)) {
            return;
        }
        // A history that cannot be kept is no reason to stop.
        let _ = self.editor.add_history_entry(text);
        if let Some(path) = &self.history {
            let _ = self.editor.append_history(path);
        }
    }
}

/// In the user's data folder, for nobody else to read.
fn history_file() -> io::Result<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = match data {
        Some(data) => data,
        None => PathBuf::from(std::env::var_os("HOME").ok_or_else(|| io::Error::other("HOME is not set"))?).join(".local/share"),
    };
    let folder = data.join("lazaret");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let path = folder.join("history");
    OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    // One that was there before may be open to others.
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(path)
}

struct ShellHelper {
    names: Mutex<Fetched>,
    catalog: String,
    schema: String,
}

impl Helper for ShellHelper {}

impl Hinter for ShellHelper {
    type Hint = String;
}

impl Highlighter for ShellHelper {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        if std::env::var_os("NO_COLOR").is_some() { Cow::Borrowed(prompt) } else { Cow::Owned(format!("\x1b[1m{prompt}\x1b[0m")) }
    }
}

impl Validator for ShellHelper {
    /// Enter ends the input where no statement is open; else it begins a new line.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let is_whole = split(context.input()).rest.is_none();
        Ok(if is_whole { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for ShellHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let mut fetched = self.names.lock();
        let names = fetched.for_line(line);
        let (start, found) = candidates(line, pos, names, (&self.catalog, &self.schema));
        Ok((start, found.into_iter().map(|name| Pair { display: name.clone(), replacement: name }).collect()))
    }
}
