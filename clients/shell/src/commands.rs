//! The commands that begin with a backslash.

use std::io::{self, Write};

use crate::client::Table;
use crate::error::ShellError;
use crate::print::{Format, print_cells};
use crate::run::{Next, Runner};
use crate::table::Cell;

/// Each with its arguments and what it does.
pub const COMMANDS: [(&str, &str, &str); 12] = [
    ("\\d", "", "tables and views"),
    ("\\d", "NAME", "columns of a table or view"),
    ("\\dt", "", "tables"),
    ("\\dv", "", "views"),
    ("\\dn", "", "schemas"),
    ("\\l", "", "catalogs"),
    ("\\c", "CATALOG[.SCHEMA]", "go to a catalog"),
    ("\\x", "", "columns one below the other, on and off"),
    ("\\timing", "", "how long statements take, on and off"),
    ("\\limit", "N", "show at most so many rows; 0: all"),
    ("\\?", "", "this help"),
    ("\\q", "", "quit"),
];

const KEYS: &str = "A statement ends with \";\" and may have several lines. Tab completes, Ctrl-C cancels, Ctrl-D quits.\n";

pub async fn run(runner: &mut Runner, command: &str) -> Result<Next, ShellError> {
    let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let argument = argument.trim();
    match (name, argument) {
        ("\\d", "") => list(runner, |_| true).await?,
        ("\\d", name) => describe(runner, name).await?,
        ("\\dt", "") => list(runner, |kind| kind.ends_with("TABLE")).await?,
        ("\\dv", "") => list(runner, |kind| kind.ends_with("VIEW")).await?,
        ("\\dn", "") => {
            let schemas = runner.client.schemas(None).await?;
            show(runner, &["catalog", "schema"], schemas.into_iter().map(|(catalog, schema)| vec![Some(catalog), Some(schema)]).collect())?;
        }
        ("\\l", "") => {
            let catalogs = runner.client.catalogs().await?;
            show(runner, &["catalog"], catalogs.into_iter().map(|catalog| vec![Some(catalog)]).collect())?;
        }
        ("\\c", "") => say(format!("{}.{} on {}\n", runner.catalog, runner.schema, runner.client.url()))?,
        ("\\c", name) => runner.statement(&format!("USE {name}")).await?,
        ("\\x", "") => {
            runner.format = if runner.format == Format::Vertical { Format::Table } else { Format::Vertical };
            say(format!("expanded output is {}\n", on_off(runner.format == Format::Vertical)))?;
        }
        ("\\timing", "") => {
            runner.has_timing = !runner.has_timing;
            say(format!("timing is {}\n", on_off(runner.has_timing)))?;
        }
        ("\\limit", number) => {
            runner.limit = number.parse().map_err(|_| ShellError::Command(format!("\\limit takes a number, not {number:?}")))?;
        }
        ("\\?", "") => help()?,
        ("\\q", "") => return Ok(Next::Quit),
        (name, _) if COMMANDS.iter().any(|(known, ..)| *known == name) => {
            return Err(ShellError::Command(format!("{name} takes no argument")));
        }
        (name, _) => return Err(ShellError::Command(format!("unknown command {name}; \\? lists all"))),
    }
    Ok(Next::Go)
}

async fn list(runner: &Runner, is_wanted: fn(&str) -> bool) -> Result<(), ShellError> {
    let tables = runner.client.tables(Some(&runner.catalog), None, None, false).await?;
    let rows = tables
        .into_iter()
        .filter(|table| table.kind != "SYSTEM TABLE" && is_wanted(&table.kind))
        .map(|table| vec![Some(table.schema), Some(table.name), Some(table.kind.to_lowercase())]);
    show(runner, &["schema", "name", "type"], rows.collect())
}

/// Without schema or catalog, the session's is meant, or, where it has no such table, any.
async fn describe(runner: &Runner, name: &str) -> Result<(), ShellError> {
    let parts = name_parts(name);
    let (catalog, schema, table) = match parts.as_slice() {
        [table] => (None, None, table),
        [schema, table] => (None, Some(schema.as_str()), table),
        [catalog, schema, table] => (Some(catalog.as_str()), Some(schema.as_str()), table),
        _ => return Err(ShellError::Command(format!("{name} is not the name of a table"))),
    };
    let mut found = runner.client.tables(catalog.or(Some(&runner.catalog)), schema, Some(table), true).await?;
    let is_here = |table: &Table| table.schema == runner.schema;
    if schema.is_none() && found.iter().any(is_here) {
        found.retain(is_here);
    }
    if found.is_empty() {
        return Err(ShellError::Command(format!("table \"{name}\" not found")));
    }
    for table in found {
        say(format!("{} {}.{}.{}\n", table.kind.to_lowercase(), table.catalog, table.schema, table.name))?;
        let rows = table.columns.into_iter().map(|column| {
            let nullable = if column.is_nullable { "" } else { "not null" };
            vec![Some(column.name), Some(column.data_type), Some(nullable.to_owned()), Some(column.comment.unwrap_or_default())]
        });
        show(runner, &["column", "type", "nullable", "comment"], rows.collect())?;
    }
    Ok(())
}

fn show(runner: &Runner, names: &[&str], rows: Vec<Vec<Cell>>) -> Result<(), ShellError> {
    print_cells(names, rows, runner.format, runner.look)
}

fn help() -> Result<(), ShellError> {
    let mut text = String::new();
    for (name, argument, what) in COMMANDS {
        text.push_str(&format!("  {:<22} {what}\n", format!("{name} {argument}")));
    }
    say(text + KEYS)
}

fn say(text: String) -> Result<(), ShellError> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// The parts of a name as the server knows them: what is not quoted is in lower case.
pub fn name_parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut is_quoted = false;
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let part = parts.len() - 1;
        match c {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                parts[part].push('"');
            }
            '"' => is_quoted = !is_quoted,
            '.' if !is_quoted => parts.push(String::new()),
            c if is_quoted => parts[part].push(c),
            c => parts[part].extend(c.to_lowercase()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(name_parts("Lazaret.Public.T"), ["lazaret", "public", "t"]);
        assert_eq!(name_parts("\"A.b\".\"say \"\"x\"\"\""), ["A.b", "say \"x\""]);
    }
}
