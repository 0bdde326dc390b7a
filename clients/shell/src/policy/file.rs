//! A file of cases, read as a whole before the first one is run. What is wrong with it is said with line and column.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;
use tonic::Code;

/// What stands for NULL among the values of a row, unless the case says another word.
const NULL: &str = "NULL";

/// One principal, one query, and what it must be answered with.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    /// Where it stands in the file, counted from 1.
    pub line: usize,
    /// `EXECUTE AS USER …`, to be followed by the query.
    pub subject: String,
    pub query: String,
    pub expected: Expected,
    pub null: String,
}

#[derive(Debug)]
pub enum Expected {
    Rows {
        columns: Option<Vec<String>>,
        rows: Vec<Vec<toml::Value>>,
        is_ordered: bool,
    },
    /// A status, and a part of the message.
    Error {
        status: String,
        message: Option<String>,
    },
}

/// What is wrong with a file.
#[derive(Debug)]
pub struct Problem {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    case: Vec<Spanned<Written>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Spanned<String>,
    user: Spanned<String>,
    #[serde(default)]
    groups: Vec<String>,
    claims: Option<toml::Table>,
    query: Spanned<String>,
    columns: Option<Spanned<Vec<String>>>,
    rows: Option<Spanned<Vec<Spanned<Vec<toml::Value>>>>>,
    ordered: Option<Spanned<bool>>,
    null: Option<String>,
    error: Option<Spanned<String>>,
    message: Option<Spanned<String>>,
}

/// The cases in their order, or everything that is wrong.
pub fn read(text: &str) -> Result<Vec<Case>, Vec<Problem>> {
    let at = |offset: usize, message: String| {
        let before = &text[..offset.min(text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Problem { line, column, message }
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        vec![at(start, error.message().replace('\n', ": "))]
    })?;
    if file.case.is_empty() {
        return Err(vec![at(0, "there is no [[case]]".to_owned())]);
    }
    let mut problems: Vec<(usize, String)> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut cases = Vec::new();
    for written in file.case {
        let line = at(written.span().start, String::new()).line;
        let start = written.span().start;
        let written = written.into_inner();
        if let Some(first) = names.insert(written.name.get_ref().clone(), line) {
            problems.push((written.name.span().start, format!("a case of this name is at line {first}")));
        }
        check(&written, start, &mut problems);
        cases.push(case(written, line));
    }
    if problems.is_empty() { Ok(cases) } else { Err(problems.into_iter().map(|(start, message)| at(start, message)).collect()) }
}

/// What serde cannot tell.
fn check(case: &Written, start: usize, problems: &mut Vec<(usize, String)>) {
    let mut wrong = |start: usize, message: String| problems.push((start, message));
    for (what, text) in [("name", &case.name), ("user", &case.user), ("query", &case.query)] {
        if text.get_ref().trim().is_empty() {
            wrong(text.span().start, format!("the {what} is empty"));
        }
    }
    match (&case.rows, &case.error) {
        (None, None) => wrong(start, "a case says what is expected: rows, or an error".to_owned()),
        (Some(_), Some(error)) => wrong(error.span().start, "a case expects rows or an error, not both".to_owned()),
        _ => {}
    }
    if let Some(error) = case.error.as_ref().filter(|error| !is_status(error.get_ref())) {
        wrong(error.span().start, format!("{:?} is no status; NOT_FOUND is one, and PERMISSION_DENIED", error.get_ref()));
    }
    if let (Some(message), None) = (&case.message, &case.error) {
        wrong(message.span().start, "a message is part of an error".to_owned());
    }
    for (what, place) in [
        ("ordered", case.ordered.as_ref().map(|ordered| ordered.span().start)),
        ("columns", case.columns.as_ref().map(|columns| columns.span().start)),
    ] {
        if let (Some(start), None) = (place, &case.rows) {
            wrong(start, format!("{what} is said of rows"));
        }
    }
    let Some(rows) = &case.rows else { return };
    let named = case.columns.as_ref().map(|columns| columns.get_ref().len());
    let wanted = named.or_else(|| rows.get_ref().first().map(|row| row.get_ref().len()));
    for row in rows.get_ref().iter().filter(|row| wanted.is_some_and(|wanted| row.get_ref().len() != wanted)) {
        wrong(row.span().start, format!("this row has {} values, expected are {}", row.get_ref().len(), wanted.unwrap_or_default()));
    }
}

fn case(written: Written, line: usize) -> Case {
    let subject = subject(written.user.get_ref(), &written.groups, written.claims.as_ref());
    let expected = match written.error {
        Some(error) => Expected::Error { status: error.into_inner(), message: written.message.map(Spanned::into_inner) },
        None => {
            let rows = written.rows.map(Spanned::into_inner).unwrap_or_default();
            Expected::Rows {
                columns: written.columns.map(Spanned::into_inner),
                rows: rows.into_iter().map(Spanned::into_inner).collect(),
                is_ordered: written.ordered.is_some_and(Spanned::into_inner),
            }
        }
    };
    let query = written.query.into_inner();
    Case {
        name: written.name.into_inner(),
        line,
        subject,
        query: query.trim().trim_end_matches(';').to_owned(),
        expected,
        null: written.null.unwrap_or_else(|| NULL.to_owned()),
    }
}

fn subject(user: &str, groups: &[String], claims: Option<&toml::Table>) -> String {
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut sql = format!("EXECUTE AS USER \"{}\"", user.replace('"', "\"\""));
    if !groups.is_empty() {
        let groups: Vec<String> = groups.iter().map(|group| literal(group)).collect();
        sql.push_str(&format!(" GROUPS ({})", groups.join(", ")));
    }
    if let Some(claims) = claims {
        let object = serde_json::Value::Object(claims.iter().map(|(name, value)| (name.clone(), json(value))).collect());
        sql.push_str(&format!(" CLAIMS {}", literal(&object.to_string())));
    }
    sql
}

/// A claim as a token would have it.
fn json(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(table) => serde_json::Value::Object(table.iter().map(|(name, value)| (name.clone(), json(value))).collect()),
    }
}

/// As the gRPC specification writes it, and as the documents do.
pub fn status_name(code: Code) -> &'static str {
    STATUSES.iter().find(|(known, _)| *known == code).map_or("UNKNOWN", |(_, name)| name)
}

fn is_status(name: &str) -> bool {
    STATUSES.iter().any(|(_, known)| *known == name)
}

/// What a statement can be answered with; `OK` is no error.
const STATUSES: [(Code, &str); 16] = [
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[case]]
name = "Ada sees her region"
user = "hospital:ada"
groups = ["nurses", "it's"]
claims = { region = "PT-11", level = 3, sites = ["a", "b"] }
query = """
SELECT id
FROM events;
"""
rows = [[1], [2]]

[[case]]
name = "nobody else"
user = 'rui "x"'
query = "SELECT 1"
error = "NOT_FOUND"
message = "not found"
"#;

    #[test]
    fn a_case_becomes_a_statement() {
        let cases = read(GOOD).unwrap();
        assert_eq!(
            cases[0].subject,
            r#"EXECUTE AS USER "hospital:ada" GROUPS ('nurses', 'it''s') CLAIMS '{"level":3,"region":"PT-11","sites":["a","b"]}'"#
        );
        assert_eq!((cases[0].query.as_str(), cases[0].line), ("SELECT id\nFROM events", 2));
        assert!(matches!(&cases[0].expected, Expected::Rows { rows, is_ordered: false, .. } if rows.len() == 2));
        assert_eq!((cases[1].subject.as_str(), cases[1].line), (r#"EXECUTE AS USER "rui ""x""""#, 13));
        assert!(matches!(&cases[1].expected, Expected::Error { status, message: Some(_) } if status == "NOT_FOUND"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let case = "[[case]]\nname = 'a'\nuser = 'u'\nquery = 'SELECT 1'\n";
        for (text, expected) in [
            ("".to_owned(), "1:1: there is no [[case]]"),
            (format!("{case}rows = [[1]]\nqurey = 'x'\n"), "6:1: unknown field `qurey`"),
            (format!("{case}rows = [[1],\n  [1, 2]]\n"), "6:3: this row has 2 values, expected are 1"),
            (format!("{case}columns = ['a', 'b']\nrows = [[1]]\n"), "6:9: this row has 1 values, expected are 2"),
            (format!("{case}rows = [[1]]\nerror = 'NOT_FOUND'\n"), "6:9: a case expects rows or an error"),
            (case.to_owned(), "1:1: a case says what is expected"),
            (format!("{case}error = 'NOTFOUND'\n"), "5:9: \"NOTFOUND\" is no status"),
            (format!("{case}rows = []\nmessage = 'x'\n"), "6:11: a message is part of an error"),
            (format!("{case}error = 'NOT_FOUND'\nordered = true\n"), "6:11: ordered is said of rows"),
            (format!("{case}rows = []\n\n{case}rows = []\n"), "8:8: a case of this name is at line 1"),
            (format!("{case}rows = 3\n"), "5:8: invalid type"),
            (format!("{case}rows = [[1]\n"), "5:12: unclosed array"),
            ("[[case]]\nname = 'a'\nuser = ' '\nquery = 'SELECT 1'\nrows = []\n".to_owned(), "3:8: the user is empty"),
            ("[[case]]\nname = 'a'\nquery = 'SELECT 1'\nrows = []\n".to_owned(), "1:1: missing field `user`"),
            ("[[case]]\nname = 'é', x\n".to_owned(), "2:11: "),
        ] {
            let problems = read(&text).map(|cases| panic!("{text}: {cases:?}")).unwrap_err();
            let told = format!("{}:{}: {}", problems[0].line, problems[0].column, problems[0].message);
            assert!(told.starts_with(expected), "{text}\n{told}");
        }
        let several = format!("{case}rows = [[1]]\nerror = 'X'\nmessage = ''\n");
        assert_eq!(read(&several).unwrap_err().len(), 2, "all of them");
    }
}
