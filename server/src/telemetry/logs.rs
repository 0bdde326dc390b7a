//! Structured logs on standard error; standard output belongs to the ready line.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::config::Log;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("\"log.filter\" is wrong")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("logs are started already")]
    Started(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Once per process.
pub fn start_logs(config: &Log) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.filter)?;
    // Where standard error cannot be written, its own complaint about that would go there too, and panic.
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    let result = if config.format == "json" {
        logs.json().flatten_event(true).try_init()
    } else {
        logs.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init()
    };
    result.map_err(LogError::Started)
}
