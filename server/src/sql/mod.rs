//! The dialect: from the text of a statement to a [`Statement`]. Nothing here knows what exists or who asks.

pub mod names;
mod parser;
mod query;
mod redact;
mod relations;
pub mod statement;
mod tokens;
pub mod types;

pub use names::{Ident, ObjectName, RelationPath, SchemaPath, UserName};
pub use redact::redact;
pub use statement::{Query, Statement};

use std::sync::Once;

use crate::error::{Error, ErrorKind, Result};
use tokens::Tokens;

/// `limits.statement_bytes` where nothing else is configured.
pub const DEFAULT_STATEMENT_BYTES: usize = 1_048_576;

/// Stack that threads need which plan, run or drop what [`parse`] lets through, in bytes: DataFusion names, evaluates and
/// drops expressions and plans by recursion without a guard. The deepest statement takes half of it in a debug build; it
/// is address space, not memory. For `thread_stack_size` of the runtime.
pub const WORKER_STACK_BYTES: usize = 16 * 1024 * 1024;

/// Stack that must be left, in bytes, when sqlparser or DataFusion goes one level deeper; with less, it goes on on a new
/// segment. A level of nested joins takes some 200 KiB of it in a debug build, and the default of 128 KiB overflowed.
const STACK_RESERVE_BYTES: usize = 512 * 1024;

/// Reads exactly one statement; a semicolon may follow it. A text of more than `max_bytes` is not looked at.
pub fn parse(text: &str, max_bytes: usize) -> Result<Statement> {
    if text.len() > max_bytes {
        let message = format!("the statement has {} bytes, the limit is {max_bytes} (limits.statement_bytes)", text.len());
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    static RESERVE: Once = Once::new();
    RESERVE.call_once(|| recursive::set_minimum_stack_size(STACK_RESERVE_BYTES));
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
