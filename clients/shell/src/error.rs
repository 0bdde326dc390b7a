//! What went wrong, and how it is shown: on standard error, in red on a terminal, with a caret below the place.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use arrow::error::ArrowError;
use arrow_flight::error::FlightError;
use tonic::Code;

use crate::split::Item;

/// Of a statement that failed.
const EXIT_STATEMENT: u8 = 1;
/// Of a command line that cannot stand, or a server that cannot be reached.
const EXIT_USAGE: u8 = 2;
/// What shells say of a program that was interrupted: 128 and the number of SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    #[error("{what}: {source}")]
    Usage { what: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("cannot reach {url}: {reason}")]
    Connect { url: String, reason: String },
    #[error("{message}")]
    Server { code: Code, message: String },
    #[error("the server's answer cannot be read: {0}")]
    Answer(String),
    #[error("{0}")]
    Command(String),
    #[error("cancelled")]
    Interrupted,
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl ShellError {
    pub fn usage(what: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Usage { what: what.into(), source: source.into() }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage { .. } | Self::Connect { .. } => EXIT_USAGE,
            Self::Interrupted => EXIT_INTERRUPTED,
            Self::Server { .. } | Self::Answer(_) | Self::Command(_) | Self::Output(_) => EXIT_STATEMENT,
        })
    }
}

impl From<tonic::Status> for ShellError {
    fn from(status: tonic::Status) -> Self {
        let message = if status.message().is_empty() { status.code().description() } else { status.message() };
        Self::Server { code: status.code(), message: message.to_owned() }
    }
}

impl From<FlightError> for ShellError {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => (*status).into(),
            FlightError::Arrow(error) => error.into(),
            other => Self::Answer(other.to_string()),
        }
    }
}

impl From<ArrowError> for ShellError {
    fn from(error: ArrowError) -> Self {
        Self::Answer(error.to_string())
    }
}

/// Tells the user, with the line of the statement that the error speaks of.
pub fn report(error: &ShellError, item: Option<&Item>) {
    let is_terminal = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (red, plain) = if is_terminal { (RED, PLAIN) } else { ("", "") };
    let status = match error {
        ShellError::Server { code, .. } => format!(" ({code:?})"),
        _ => String::new(),
    };
    let mut text = format!("{red}error{status}: {}{plain}\n", crate::table::printable(&error.to_string(), true));
    if let (ShellError::Server { message, .. }, Some(Item::Sql(sql))) = (error, item)
        && let Some(place) = caret(sql, message)
    {
        text.push_str(&place);
    }
    // There is nowhere left to complain.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The line of the statement that the message names, and a caret below the column.
fn caret(sql: &str, message: &str) -> Option<String> {
    let (line, column) = position(message)?;
    let text = sql.lines().nth(line.checked_sub(1)?)?;
    let before: String = text.chars().take(column.checked_sub(1)?).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let prefix = format!("LINE {line}: ");
    Some(format!("{prefix}{text}\n{}{before}^\n", " ".repeat(prefix.len())))
}

/// `… at line 1, column 8`, as the server says it, or `… at Line: 1, Column: 8`.
fn position(message: &str) -> Option<(usize, usize)> {
    let lower = message.to_ascii_lowercase();
    let (_, rest) = lower.rsplit_once("line")?;
    let (line, rest) = leading_number(rest)?;
    let (_, rest) = rest.split_once("column")?;
    Some((line, leading_number(rest)?.0))
}

fn leading_number(text: &str) -> Option<(usize, &str)> {
    let text = text.trim_start_matches([' ', ':']);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_caret_stands_below_the_place() {
        let sql = "SELECT a\n  FORM t";
        assert_eq!(caret(sql, "expected FROM, found FORM at line 2, column 3").unwrap(), "LINE 2:   FORM t\n          ^\n");
        assert_eq!(caret(sql, "Expected: end, found: x at Line: 1, Column: 8").unwrap(), "LINE 1: SELECT a\n               ^\n");
        assert_eq!(caret(sql, "table \"line\" not found"), None);
        assert_eq!(caret(sql, "error at line 9, column 1"), None);
    }
}
