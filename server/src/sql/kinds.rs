//! That every kind of statement is in the access matrix (`tests/golden/statements.txt`), under its name.

use std::collections::BTreeSet;

use super::parse;

const STATEMENTS: &str = include_str!("../../../tests/golden/statements.txt");
const SOURCE: &str = include_str!("statement.rs");

/// The variants of an enum of `statement.rs`.
fn variants(name: &str) -> BTreeSet<String> {
    let body = SOURCE.split_once(&format!("pub enum {name} {{\n")).and_then(|(_, rest)| rest.split_once("\n}\n")).unwrap().0;
    let lines = body.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| line.starts_with(char::is_uppercase));
    lines.map(|line| identifier(line).to_owned()).collect()
}

fn identifier(text: &str) -> &str {
    &text[..text.find(|char: char| !char.is_alphanumeric()).unwrap_or(text.len())]
}

#[test]
fn every_kind_of_statement_is_in_the_access_matrix() {
    let mut found = BTreeSet::new();
    for line in STATEMENTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (kind, rest) = line.split_once(": ").unwrap();
        let sql = rest.split_once(" => ").map_or(rest, |(sql, _)| sql);
        let shown = format!("{:?}", parse(sql, 1 << 20).unwrap_or_else(|error| panic!("{sql}: {error}")));
        let named = match shown.strip_prefix("Show(") {
            Some(inner) => format!("Show.{}", identifier(inner)),
            None => identifier(&shown).to_owned(),
        };
        assert_eq!(named, kind, "{sql}");
        found.insert(named);
    }
    let mut wanted: BTreeSet<String> = variants("Statement").into_iter().filter(|name| name != "Show").collect();
    wanted.extend(variants("Show").into_iter().map(|name| format!("Show.{name}")));
    assert!(wanted.len() > 30, "{wanted:?}");
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(missing.is_empty(), "add to tests/golden/statements.txt, whose head says how: {missing:?}");
}
