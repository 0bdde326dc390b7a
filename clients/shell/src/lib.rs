//! The shell behind `lazaret sql`: interactive on a terminal; with `-c`, `-f` or a pipe it runs what it is given and
//! stops at the first error. Behind `lazaret policy test` is [`policy`].

mod client;
mod commands;
mod complete;
mod error;
mod interactive;
pub mod policy;
mod print;
mod run;
mod split;
mod table;

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use client::{Client, Credential};
use error::ShellError;
use print::Format;
use run::Runner;

const DEFAULT_URL: &str = "grpc://127.0.0.1:32010";

const DEFAULT_USER: &str = "admin";

/// A script is read as a whole before it runs.
const MAX_SCRIPT_BYTES: u64 = 64 << 20;

/// Which server, and as whom.
#[derive(Debug, clap::Args)]
struct Connection {
    /// The server: grpc://HOST:PORT, or grpc+tls://HOST:PORT.
    #[arg(long, env = "LAZARET_URL", default_value = DEFAULT_URL)]
    url: String,
    /// The user; its password is LAZARET_PASSWORD, in --password-file, or asked for.
    #[arg(long, default_value = DEFAULT_USER)]
    user: String,
    /// A file that holds the password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A file that holds a token of an identity provider; or LAZARET_TOKEN.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that may vouch for the server; without it the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Run this and end; can be given several times.
    #[arg(short = 'c', long = "command", value_name = "SQL")]
    commands: Vec<String>,
    /// Run the statements of this file and end.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How rows are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Runs the shell to its end.
pub async fn run(args: Args) -> ExitCode {
    match start(args).await {
        Ok(code) => code,
        Err(error) => {
            error::report(&error, None);
            error.exit_code()
        }
    }
}

async fn start(args: Args) -> Result<ExitCode, ShellError> {
    let is_interactive = args.commands.is_empty() && args.file.is_none() && io::stdin().is_terminal();
    let client = args.connection.open().await?;
    let outcome = talk(&args, client.clone(), is_interactive).await;
    client.close().await;
    outcome
}

async fn talk(args: &Args, client: Client, is_interactive: bool) -> Result<ExitCode, ShellError> {
    if is_interactive {
        return interactive::run(client, args.format).await;
    }
    let mut runner = Runner::new(client, args.format, false);
    for command in &args.commands {
        if let Some(code) = run_text(&mut runner, command).await {
            return Ok(code);
        }
    }
    let script = match &args.file {
        Some(path) => Some(read_script(path)?),
        None if args.commands.is_empty() => {
            Some(read_limited(io::stdin()).map_err(|error| ShellError::usage("cannot read standard input", error))?)
        }
        None => None,
    };
    if let Some(script) = script
        && let Some(code) = run_text(&mut runner, &script).await
    {
        return Ok(code);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs statements in their order; an exit code where it ended early.
async fn run_text(runner: &mut Runner, text: &str) -> Option<ExitCode> {
    let script = split::split(text);
    for item in script.items.iter().chain(&script.rest) {
        match runner.run(item).await {
            Ok(run::Next::Go) => {}
            Ok(run::Next::Quit) => return Some(ExitCode::SUCCESS),
            // Whoever read our output has seen enough.
            Err(ShellError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Some(ExitCode::SUCCESS),
            Err(error) => {
                error::report(&error, Some(item));
                return Some(error.exit_code());
            }
        }
    }
    None
}

fn read_script(path: &std::path::Path) -> Result<String, ShellError> {
    let failed = |error| ShellError::usage(format!("cannot read {}", path.display()), error);
    read_limited(std::fs::File::open(path).map_err(failed)?).map_err(failed)
}

fn read_limited(reader: impl Read) -> io::Result<String> {
    let mut text = String::new();
    reader.take(MAX_SCRIPT_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SCRIPT_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_SCRIPT_BYTES} bytes")));
    }
    Ok(text)
}

impl Connection {
    async fn open(&self) -> Result<Client, ShellError> {
        Client::connect(&self.url, &credential(self)?, self.ca_file.as_deref()).await
    }
}

/// A token where there is one, else the user with the password from the first place that has it.
fn credential(args: &Connection) -> Result<Credential, ShellError> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|error| ShellError::usage(format!("cannot read {}", path.display()), error))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    };
    if let Some(path) = &args.token_file {
        return read(path).map(Credential::Token);
    }
    if let Some(path) = &args.password_file {
        return Ok(Credential::Password { user: args.user.clone(), password: read(path)? });
    }
    if let Ok(token) = std::env::var("LAZARET_TOKEN") {
        return Ok(Credential::Token(token));
    }
    let password = match std::env::var("LAZARET_PASSWORD") {
        Ok(password) => password,
        Err(_) => rpassword::prompt_password(format!("Password of {}: ", args.user))
            .map_err(|error| ShellError::usage("no password: set LAZARET_PASSWORD, or use --password-file", error))?,
    };
    Ok(Credential::Password { user: args.user.clone(), password })
}
