//! The dialect: from the text of a statement to a [`Statement`]. Nothing here knows what exists or who asks.

mod dialect;
pub mod names;
mod parser;
mod query;
mod redact;
pub mod statement;
mod tokens;
pub mod types;

pub use names::{Ident, ObjectName, RelationPath, SchemaPath, UserName};
pub use redact::redact;
pub use statement::{Query, Statement};

use crate::error::{Error, ErrorKind, Result};
use tokens::Tokens;

/// `limits.statement_bytes` where nothing else is configured.
pub const DEFAULT_STATEMENT_BYTES: usize = 1_048_576;

/// Reads exactly one statement; a semicolon may follow it. A text of more than `max_bytes` is not looked at.
pub fn parse(text: &str, max_bytes: usize) -> Result<Statement> {
    if text.len() > max_bytes {
        let message = format!("the statement has {} bytes, the limit is {max_bytes} (limits.statement_bytes)", text.len());
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    let mut tokens = Tokens::of(text)?;
    tokens.keep_one_statement()?;
    tokens.check_size()?;
    let parameters = tokens.number_placeholders()?;
    parser::parse(&tokens, parameters)
}

/// The statements of a script, without the semicolons between them.
pub fn split(script: &str) -> Result<Vec<&str>> {
    Ok(Tokens::of(script)?.split())
}

#[cfg(test)]
mod tests;
