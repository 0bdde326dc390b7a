//! The binary `lazaret`: the server, the shell, the audit log's tools, and the configuration in words.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lazaret_server::config::{self, ConfigError, Loaded, Sources};
use lazaret_server::telemetry::start_logs;

/// Queries take and give back memory all the time, from several threads: docs/decisions/0011.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Of a command line or a configuration that cannot stand.
const EXIT_USAGE: u8 = 2;

/// A Flight SQL analytical database server for sensitive data.
#[derive(Parser)]
#[command(name = "lazaret", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve Flight SQL.
    Serve(ServerArgs),
    /// A shell: run SQL on a server.
    Sql(lazaret_shell::Args),
    /// What policies show to whom.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print the configuration in force and where each value came from.
    Config(ServerArgs),
    /// Verify or export the audit log, also beside a running server.
    Audit(lazaret_server::audit::command::Args),
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Run the cases of a file on a server, which stays as it is.
    ///
    /// Each case says who asks, a query, and the rows or the error that this one must see. Whoever runs them needs
    /// IMPERSONATE. The exit code is 0 where every case passes, 1 where one fails, 2 where they could not be run.
    Test(lazaret_shell::policy::Args),
}

#[derive(Args)]
struct ServerArgs {
    /// The folder of metadata, keys, audit, local warehouse and spill; an empty or missing one works.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The address that Flight SQL listens on.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve(args),
        Command::Sql(args) => client(lazaret_shell::run(args)),
        Command::Policy(PolicyCommand::Test(args)) => client(lazaret_shell::policy::run(args)),
        Command::Config(args) => show(args),
        Command::Audit(args) => lazaret_server::audit::command::run(args),
    }
}

fn serve(args: ServerArgs) -> ExitCode {
    let config = match load(args) {
        Ok(loaded) => loaded.config,
        Err(error) => return complain(error, EXIT_USAGE),
    };
    if let Err(error) = start_logs(&config.log) {
        return complain(error, EXIT_USAGE);
    }
    match runtime().and_then(|runtime| {
        let outcome = runtime.block_on(lazaret_server::serve::serve(config));
        // What is still running after the drain is not waited for.
        runtime.shutdown_background();
        Ok(outcome?)
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": "), 1),
    }
}

fn client(run: impl Future<Output = ExitCode>) -> ExitCode {
    match runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(run);
            // A thread may still wait for the keyboard.
            runtime.shutdown_background();
            code
        }
        Err(error) => complain(error, 1),
    }
}

fn show(args: ServerArgs) -> ExitCode {
    match load(args) {
        // Whoever reads may stop reading.
        Ok(loaded) => match io::stdout().write_all(config::show(&loaded).as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => complain(error, 1),
            _ => ExitCode::SUCCESS,
        },
        Err(error) => complain(error, EXIT_USAGE),
    }
}

fn load(args: ServerArgs) -> Result<Loaded, ConfigError> {
    let mut flags = Vec::new();
    if let Some(data_dir) = args.data_dir {
        flags.push(("--data-dir", "data_dir", data_dir.to_string_lossy().into_owned()));
    }
    if let Some(listen) = args.listen {
        flags.push(("--listen", "listen", listen));
    }
    config::load(&Sources { file: args.config, variables: std::env::vars_os().collect(), flags })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(lazaret_server::sql::WORKER_STACK_BYTES).build()?)
}

fn complain(error: impl std::fmt::Display, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "lazaret: {error}");
    ExitCode::from(code)
}
