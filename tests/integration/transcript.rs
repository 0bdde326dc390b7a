//! The format of transcripts: that of sqllogictest, as far as we use it.
//!
//! Not the crate `sqllogictest`: it asks `md-5` for more features than `object_store` does, and so makes another build of all that
//! stands on it (docs/decisions/0005-transcripts.md).
//!
//! ```text
//! # a comment; "# known defect: …" before a record says that it fails, and why
//! connection rui
//! statement ok
//! SET batch_size = 100
//!
//! statement count 2
//! INSERT INTO t VALUES (1), (2)
//!
//! query IT rowsort
//! SELECT id, name FROM t
//! ----
//! 1  Ana
//! 2  NULL
//!
//! statement error
//! SELECT * FROM nosuch
//! ----
//! NOT_FOUND: table "nosuch" not found (line 1, column 15)
//! ```
//!
//! A record ends with a blank line, the text of an error with two. `connection` is for the next record only; without it, it is the
//! admin's. The answer of a query is compared by words, so that columns may be aligned.

use anyhow::{Context, Result, bail};

use crate::client::{Answer, Rows};

const KNOWN_DEFECT: &str = "# known defect: ";

/// A transcript, or the part of one, as it stands in the file.
pub enum Part {
    /// Comments and blank lines.
    Text(String),
    Record(Record),
}

pub struct Record {
    /// Counted from 1.
    pub line: usize,
    pub connection: Option<String>,
    pub known_defect: Option<String>,
    pub sql: String,
    pub sort: Option<Sort>,
    pub expected: Expected,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Sort {
    Rows,
    Values,
}

#[derive(Debug, PartialEq)]
pub enum Expected {
    Done,
    /// So many rows were changed.
    Changed(u64),
    Rows {
        types: String,
        lines: Vec<String>,
    },
    Error(String),
}

/// Reads the text of a file.
pub fn parse(text: &str) -> Result<Vec<Part>> {
    let mut lines = text.lines().enumerate().peekable();
    let mut parts = Vec::new();
    let (mut connection, mut known_defect) = (None, None);
    while let Some((index, line)) = lines.next() {
        let line_number = index + 1;
        if line.is_empty() || line.starts_with('#') {
            known_defect = line.strip_prefix(KNOWN_DEFECT).map(str::to_owned);
            parts.push(Part::Text(line.to_owned()));
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["connection", name] = words[..] {
            connection = Some(name.to_owned());
            continue;
        }
        let mut sql = Vec::new();
        let mut has_answer = false;
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
            if line == "----" {
                has_answer = true;
                break;
            }
            sql.push(line);
        }
        if !has_answer {
            lines.next_if(|(_, line)| line.is_empty());
        }
        let mut answer = Vec::new();
        let is_error = matches!(words[..], ["statement", "error"]);
        while let Some((_, line)) = lines.next_if(|_| has_answer) {
            let ends = line.is_empty() && (!is_error || lines.peek().is_none_or(|(_, next)| next.is_empty()));
            if ends {
                lines.next_if(|_| is_error);
                break;
            }
            answer.push(line.to_owned());
        }
        let (sort, expected) = match words[..] {
            ["statement", "ok"] if !has_answer => (None, Expected::Done),
            ["statement", "count", count] if !has_answer => {
                (None, Expected::Changed(count.parse().with_context(|| format!("line {line_number}"))?))
            }
            ["statement", "error"] if has_answer => (None, Expected::Error(answer.join("\n"))),
            ["query", types, ref rest @ ..] => {
                let sort = match rest {
                    [] | ["nosort"] => None,
                    ["rowsort"] => Some(Sort::Rows),
                    ["valuesort"] => Some(Sort::Values),
                    _ => bail!("line {line_number}: {line:?} is not understood"),
                };
                (sort, Expected::Rows { types: types.to_owned(), lines: answer })
            }
            _ => bail!("line {line_number}: {line:?} is not understood"),
        };
        if sql.is_empty() {
            bail!("line {line_number}: there is no statement");
        }
        let (connection, known_defect) = (connection.take(), known_defect.take());
        parts.push(Part::Record(Record { line: line_number, connection, known_defect, sql: sql.join("\n"), sort, expected }));
    }
    match connection {
        Some(name) => Err(anyhow::anyhow!("no record after the last line")).context(format!("connection {name}")),
        None => Ok(parts),
    }
}

/// The text of the file again.
pub fn print(parts: &[Part]) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(line) => text.push_str(&format!("{line}\n")),
            Part::Record(record) => text.push_str(&record.print()),
        }
    }
    text.trim_end().to_owned() + "\n"
}

impl Record {
    fn print(&self) -> String {
        let connection = self.connection.iter().map(|name| format!("connection {name}\n")).collect::<String>();
        let sort = match self.sort {
            None => "",
            Some(Sort::Rows) => " rowsort",
            Some(Sort::Values) => " valuesort",
        };
        let sql = &self.sql;
        match &self.expected {
            Expected::Done => format!("{connection}statement ok\n{sql}\n\n"),
            Expected::Changed(count) => format!("{connection}statement count {count}\n{sql}\n\n"),
            Expected::Error(message) => format!("{connection}statement error\n{sql}\n----\n{message}\n\n\n"),
            Expected::Rows { types, lines } => {
                let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
                format!("{connection}query {types}{sort}\n{sql}\n----\n{lines}\n")
            }
        }
    }

    /// What would be expected if this answer were right.
    pub fn expectation(&self, answer: &Answer) -> Expected {
        match answer {
            Answer::Done(count) if matches!(self.expected, Expected::Changed(_)) => Expected::Changed(*count),
            Answer::Done(_) => Expected::Done,
            Answer::Error(message) => Expected::Error(message.clone()),
            Answer::Rows(rows) => Expected::Rows { types: rows.types.clone(), lines: self.lines(rows) },
        }
    }

    fn lines(&self, rows: &Rows) -> Vec<String> {
        // The text of a plan has several lines.
        let line = |row: &Vec<String>| row.join("  ").trim_end().to_owned();
        let mut lines: Vec<String> = match self.sort {
            Some(Sort::Values) => rows.rows.iter().flatten().cloned().collect(),
            _ => rows.rows.iter().map(line).collect(),
        };
        if self.sort.is_some() {
            lines.sort();
        }
        lines.iter().flat_map(|line| line.lines()).map(str::to_owned).collect()
    }

    pub fn is_met_by(&self, answer: &Answer) -> bool {
        let got = self.expectation(answer);
        match (&self.expected, &got) {
            (Expected::Rows { types, lines }, Expected::Rows { types: got_types, lines: got_lines }) => {
                types == got_types && lines.len() == got_lines.len() && lines.iter().zip(got_lines).all(|(a, b)| words(a).eq(words(b)))
            }
            (expected, got) => expected == got,
        }
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# what there is\n\nconnection rui\nstatement ok\nSET a = 1\n\nquery IT rowsort\nSELECT 1,\n  'x'\n----\n1  x\n2  y\n\nstatement error\nSELECT\n----\nINVALID_ARGUMENT: first\n\nsecond\n\n\n# known defect: it is wrong\nquery I\nSELECT 3\n----\n";

    #[test]
    fn what_is_read_is_what_is_written() {
        let parts = parse(TEXT).unwrap();
        assert_eq!(print(&parts), TEXT);
        let records: Vec<&Record> =
            parts.iter().filter_map(|part| if let Part::Record(record) = part { Some(record) } else { None }).collect();
        assert_eq!(records.len(), 4);
        assert_eq!((records[0].line, records[0].connection.as_deref()), (4, Some("rui")));
        assert_eq!((records[1].connection.as_deref(), records[1].sql.as_str()), (None, "SELECT 1,\n  'x'"));
        assert_eq!(records[2].expected, Expected::Error("INVALID_ARGUMENT: first\n\nsecond".to_owned()));
        assert_eq!(records[3].known_defect.as_deref(), Some("it is wrong"));
        assert!(records[..3].iter().all(|record| record.known_defect.is_none()));
    }

    #[test]
    fn answers_are_compared() {
        let parts = parse("query IT\nSELECT\n----\n1   a b\n").unwrap();
        let Some(Part::Record(record)) = parts.first() else { panic!("no record") };
        let answer =
            |types: &str, value: &str| Answer::Rows(Rows { types: types.to_owned(), rows: vec![vec!["1".to_owned(), value.to_owned()]] });
        assert!(record.is_met_by(&answer("IT", "a b")));
        assert!(!record.is_met_by(&answer("TT", "a b")));
        assert!(!record.is_met_by(&answer("IT", "a c")));
        assert!(!record.is_met_by(&Answer::Rows(Rows { types: "IT".to_owned(), rows: Vec::new() })));
        assert!(!record.is_met_by(&Answer::Done(1)));
        assert!(!record.is_met_by(&Answer::Error("1   a b".to_owned())));
    }

    #[test]
    fn changed_rows_are_counted_where_that_is_asked() {
        for (head, count, met) in [("count 2", 2, true), ("count 2", 0, false), ("count 0", 0, true), ("ok", 2, true)] {
            let text = format!("statement {head}\nINSERT\n");
            let parts = parse(&text).unwrap();
            assert_eq!(print(&parts), text);
            let Some(Part::Record(record)) = parts.first() else { panic!("no record") };
            assert_eq!(record.is_met_by(&Answer::Done(count)), met, "{head} {count}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "query\nSELECT 1\n",
            "statement fine\nSELECT 1\n",
            "statement count some\nSELECT 1\n",
            "statement ok\n",
            "query I label\nSELECT 1\n",
            "SELECT 1\n",
            "connection rui\n",
            "statement error\nSELECT 1\n",
            "statement ok\nSELECT 1\n----\n1\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
