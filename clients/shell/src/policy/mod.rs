//! `lazaret policy test FILE`: asks a running server what each principal of the file sees, and compares it with what the
//! file says. Every case is an `EXECUTE AS USER`, which changes nothing; the format of the file is in docs/policy-tests.md.

mod cell;
mod file;

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arrow::datatypes::SchemaRef;
use tonic::Code;

use crate::client::{Client, Outcome};
use crate::error::{self, ShellError};
use crate::table::printable;
use crate::{Connection, read_script};
use cell::{Cell, cells, is_same};
use file::{Case, Expected, status_name};

/// A case says what somebody sees, row by row: with more rows than this, nobody has written them down.
const MAX_ROWS: usize = 10_000;

/// Rows of a difference that are printed.
const SHOWN_ROWS: usize = 20;

/// Of a case that failed, and of a file that cannot be understood or a server that does not answer.
const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cases, as TOML.
    file: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

/// Runs the cases of a file to the end.
pub async fn run(args: Args) -> ExitCode {
    match test(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            error::report(&error, None);
            match error {
                ShellError::Interrupted => error.exit_code(),
                _ => ExitCode::from(EXIT_USAGE),
            }
        }
    }
}

/// Whether every case passed.
async fn test(args: &Args) -> Result<bool, ShellError> {
    let text = read_script(&args.file)?;
    let cases = match file::read(&text) {
        Ok(cases) => cases,
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(|problem| located(&args.file, problem)).collect();
            return Err(ShellError::Command(lines.join("\n")));
        }
    };
    let client = args.connection.open().await?;
    let failed = run_all(&args.file, &cases, client.clone()).await;
    client.close().await;
    let failed = failed?;
    writeln!(io::stdout(), "{}: {} passed, {failed} failed", counted(cases.len(), "case"), cases.len() - failed)?;
    Ok(failed == 0)
}

/// How many failed.
async fn run_all(file: &Path, cases: &[Case], client: Client) -> Result<usize, ShellError> {
    let mut tester = Tester { client, subjects: HashSet::new() };
    let mut out = io::stdout();
    let mut failed = 0;
    for case in cases {
        let outcome = tokio::select! {
            outcome = tester.run(case) => outcome?,
            _ = tokio::signal::ctrl_c() => return Err(ShellError::Interrupted),
        };
        match outcome {
            Ok(()) => writeln!(out, "ok    {}", printable(&case.name, false))?,
            Err(difference) => {
                failed += 1;
                writeln!(out, "FAIL  {} ({}, line {})", printable(&case.name, false), file.display(), case.line)?;
                for line in difference {
                    writeln!(out, "      {}", printable(&line, false))?;
                }
            }
        }
    }
    Ok(failed)
}

fn located(path: &Path, problem: &file::Problem) -> String {
    format!("{}:{}:{}: {}", path.display(), problem.line, problem.column, problem.message)
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

struct Tester {
    client: Client,
    /// In whose place this run was seen to act.
    subjects: HashSet<String>,
}

/// What a server gave.
enum Answer {
    Rows(SchemaRef, Vec<Vec<Cell>>),
    TooManyRows,
    Error(Code, String),
}

impl Tester {
    /// What differs, in lines; an error where the case could not be tried.
    async fn run(&mut self, case: &Case) -> Result<Result<(), Vec<String>>, ShellError> {
        // A refusal of EXECUTE AS itself must not pass for what the query would be answered with.
        if matches!(case.expected, Expected::Error { .. })
            && !self.subjects.contains(&case.subject)
            && let Answer::Error(code, message) = self.ask(&format!("{} SELECT 1", case.subject)).await?
        {
            return Ok(Err(vec![format!("cannot act as this user: {}: {message}", status_name(code))]));
        }
        // On a line of its own: the places that an error names are told in lines of the query, counted from the second.
        let answer = self.ask(&format!("{}\n{}", case.subject, case.query)).await?;
        if matches!(answer, Answer::Rows(..)) {
            self.subjects.insert(case.subject.clone());
        }
        Ok(compare(case, answer))
    }

    async fn ask(&self, sql: &str) -> Result<Answer, ShellError> {
        match self.rows(sql).await {
            Err(ShellError::Server { code: code @ (Code::Unauthenticated | Code::Unavailable), message }) => {
                Err(ShellError::Server { code, message })
            }
            Err(ShellError::Server { code, message }) => Ok(Answer::Error(code, message)),
            answered => answered,
        }
    }

    async fn rows(&self, sql: &str) -> Result<Answer, ShellError> {
        let mut rows = match self.client.execute(sql).await? {
            Outcome::Rows(rows) => rows,
            Outcome::Done { .. } => return Err(ShellError::Answer("a query without columns".to_owned())),
        };
        let mut all = Vec::new();
        while let Some(batch) = rows.next().await? {
            all.extend(cells(&batch)?);
            if all.len() > MAX_ROWS {
                return Ok(Answer::TooManyRows);
            }
        }
        Ok(Answer::Rows(rows.schema.clone(), all))
    }
}

fn compare(case: &Case, answer: Answer) -> Result<(), Vec<String>> {
    match (&case.expected, answer) {
        (_, Answer::TooManyRows) => Err(vec![format!("the query gives more than {MAX_ROWS} rows")]),
        (Expected::Error { status, message }, Answer::Error(code, told)) => {
            let is_expected = status == status_name(code) && message.as_ref().is_none_or(|part| told.contains(part.as_str()));
            let wanted = message.as_ref().map(|part| format!(": …{part}…")).unwrap_or_default();
            if is_expected { Ok(()) } else { Err(vec![format!("- {status}{wanted}"), format!("+ {}: {told}", status_name(code))]) }
        }
        (Expected::Rows { .. }, Answer::Error(code, told)) => Err(vec![format!("the query failed: {}: {told}", status_name(code))]),
        (Expected::Error { status, .. }, Answer::Rows(_, rows)) => {
            let shown = rows.iter().take(SHOWN_ROWS).map(|row| format!("+ {}", line(row, case)));
            let head = format!("expected {status}, got {}", counted(rows.len(), "row"));
            Err([head].into_iter().chain(shown).collect())
        }
        (Expected::Rows { columns, rows: expected, is_ordered }, Answer::Rows(schema, rows)) => {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            if let Some(columns) = columns
                && *columns != names
            {
                return Err(vec![format!("- columns {columns:?}"), format!("+ columns {names:?}")]);
            }
            if let Some(row) = expected.first().filter(|row| row.len() != names.len()) {
                return Err(vec![format!("the query gives {}, the case has {}", counted(names.len(), "column"), row.len())]);
            }
            let lines = if *is_ordered { in_order(expected, &rows, case) } else { in_any_order(expected, &rows, case) };
            if lines.is_empty() { Ok(()) } else { Err(cut(lines)) }
        }
    }
}

fn is_same_row(expected: &[toml::Value], got: &[Cell], null: &str) -> bool {
    expected.len() == got.len() && expected.iter().zip(got).all(|(expected, got)| is_same(expected, got, null))
}

fn in_order(expected: &[Vec<toml::Value>], got: &[Vec<Cell>], case: &Case) -> Vec<String> {
    let same = expected.len() == got.len() && expected.iter().zip(got).all(|(expected, got)| is_same_row(expected, got, &case.null));
    if same {
        return Vec::new();
    }
    let mut lines = Vec::new();
    for index in 0..expected.len().max(got.len()) {
        match (expected.get(index), got.get(index)) {
            (Some(expected), Some(got)) if is_same_row(expected, got, &case.null) => lines.push(format!("  {}", line(got, case))),
            (expected, got) => {
                lines.extend(expected.map(|row| format!("- {}", written(row))));
                lines.extend(got.map(|row| format!("+ {}", line(row, case))));
            }
        }
    }
    lines
}

/// The rows that are missing, and those that nobody expects.
fn in_any_order(expected: &[Vec<toml::Value>], got: &[Vec<Cell>], case: &Case) -> Vec<String> {
    let mut left: Vec<&Vec<Cell>> = got.iter().collect();
    let mut lines = Vec::new();
    for row in expected {
        match left.iter().position(|got| is_same_row(row, got, &case.null)) {
            Some(index) => {
                left.remove(index);
            }
            None => lines.push(format!("- {}", written(row))),
        }
    }
    lines.extend(left.into_iter().map(|row| format!("+ {}", line(row, case))));
    lines
}

fn cut(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(SHOWN_ROWS);
    if more > 0 {
        lines.truncate(SHOWN_ROWS);
        lines.push(format!("… and {more} more"));
    }
    lines
}

/// A row as one would write it into the file.
fn line(row: &[Cell], case: &Case) -> String {
    let cells: Vec<String> = row.iter().map(|cell| cell.written(&case.null)).collect();
    format!("[{}]", cells.join(", "))
}

fn written(row: &[toml::Value]) -> String {
    let cells: Vec<String> = row.iter().map(ToString::to_string).collect();
    format!("[{}]", cells.join(", "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch, StringArray};

    use super::*;

    fn case(expected: &str) -> Case {
        let text = format!("[[case]]\nname = 'c'\nuser = 'u'\nquery = 'SELECT 1'\n{expected}\n");
        file::read(&text).map_err(|problems| problems[0].message.clone()).unwrap().remove(0)
    }

    fn answer() -> Answer {
        let batch = RecordBatch::try_from_iter([
            ("region", Arc::new(StringArray::from(vec![Some("a"), None, Some("a")])) as _),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 1])) as _),
        ])
        .unwrap();
        Answer::Rows(batch.schema(), cells(&batch).unwrap())
    }

    fn difference(expected: &str, answer: Answer) -> String {
        compare(&case(expected), answer).err().unwrap_or_default().join("\n")
    }

    #[test]
    fn rows_are_compared_in_any_order_or_in_theirs() {
        assert_eq!(difference("rows = [['a', 1], ['a', 1], ['NULL', 2]]", answer()), "");
        assert_eq!(difference("ordered = true\nrows = [['a', 1], ['NULL', 2], ['a', 1]]", answer()), "");
        let swapped = "ordered = true\nrows = [['a', 1], ['a', 1], ['NULL', 2]]";
        let lines = "  [\"a\", 1]\n- [\"a\", 1]\n+ [\"NULL\", 2]\n- [\"NULL\", 2]\n+ [\"a\", 1]";
        assert_eq!(difference(swapped, answer()), lines);
        // Each row counts as often as it is there.
        assert_eq!(difference("rows = [['a', 1], ['NULL', 2]]", answer()), "+ [\"a\", 1]");
        assert_eq!(difference("rows = [['a', 1], ['a', 1], ['a', 1], ['NULL', 2]]", answer()), "- [\"a\", 1]");
        assert_eq!(difference("null = '-'\nrows = [['a', 1], ['a', 1], ['NULL', 2]]", answer()), "- [\"NULL\", 2]\n+ [\"-\", 2]");
        assert!(difference("rows = []", answer()).starts_with("+ [\"a\", 1]"));
    }

    #[test]
    fn columns_and_errors_are_compared() {
        assert_eq!(difference("columns = ['region', 'n']\nrows = [['a', 1], ['a', 1], ['NULL', 2]]", answer()), "");
        let wrong = difference("columns = ['region', 'm']\nrows = [['a', 1], ['a', 1], ['NULL', 2]]", answer());
        assert_eq!(wrong, "- columns [\"region\", \"m\"]\n+ columns [\"region\", \"n\"]");
        assert_eq!(difference("rows = [['a']]", answer()), "the query gives 2 columns, the case has 1");
        let refused = || Answer::Error(Code::NotFound, "table \"t\" not found".to_owned());
        assert_eq!(difference("error = 'NOT_FOUND'", refused()), "");
        assert_eq!(difference("error = 'NOT_FOUND'\nmessage = 'table \"t\"'", refused()), "");
        assert_eq!(
            difference("error = 'NOT_FOUND'\nmessage = 'view'", refused()),
            "- NOT_FOUND: …view…\n+ NOT_FOUND: table \"t\" not found"
        );
        assert!(difference("error = 'PERMISSION_DENIED'", refused()).starts_with("- PERMISSION_DENIED\n+ NOT_FOUND"));
        assert!(difference("rows = []", refused()).starts_with("the query failed: NOT_FOUND"));
        assert!(difference("error = 'NOT_FOUND'", answer()).starts_with("expected NOT_FOUND, got 3 rows\n+ [\"a\", 1]"));
        assert_eq!(difference("rows = []", Answer::TooManyRows), "the query gives more than 10000 rows");
    }
}
