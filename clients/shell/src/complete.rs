//! Completion: keywords, commands, and the names that the server shows this user, fetched when they are first needed.

use std::collections::HashMap;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::client::Client;
use crate::commands::COMMANDS;

/// Whoever presses Tab does not wait longer.
const FETCH: Duration = Duration::from_secs(2);

/// More would scroll the statement away.
const MAX_CANDIDATES: usize = 200;

const KEYWORDS: &[&str] = &[
    "ADD",
    "ALL",
    "ALTER",
    "ANALYZE",
    "AND",
    "ANY",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CATALOG",
    "CATALOGS",
    "COLUMN",
    "COLUMNS",
    "COMMENT",
    "COPY",
    "COUNT",
    "CREATE",
    "CROSS",
    "CURRENT_DATE",
    "CURRENT_TIMESTAMP",
    "CURRENT_USER",
    "DATE",
    "DELETE",
    "DELTA",
    "DENY",
    "DESC",
    "DESCRIBE",
    "DISABLE",
    "DISTINCT",
    "DROP",
    "ELSE",
    "ENABLE",
    "END",
    "EXCEPT",
    "EXECUTE",
    "EXISTS",
    "EXPLAIN",
    "EXTERNAL",
    "EXTRACT",
    "FALSE",
    "FETCH",
    "FILTER",
    "FIRST",
    "FOR",
    "FROM",
    "FULL",
    "GRANT",
    "GRANTS",
    "GROUP",
    "HAVING",
    "HISTORY",
    "ICEBERG",
    "IF",
    "ILIKE",
    "IN",
    "INNER",
    "INSERT",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "LAST",
    "LATERAL",
    "LEFT",
    "LEVEL",
    "LIKE",
    "LIMIT",
    "LOCATION",
    "MASKING",
    "MERGE",
    "NOT",
    "NULL",
    "NULLS",
    "OFFSET",
    "ON",
    "OPTIMIZE",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "PASSWORD",
    "PERMISSIVE",
    "POLICIES",
    "POLICY",
    "REPLACE",
    "RESET",
    "RESTRICTIVE",
    "REVOKE",
    "RIGHT",
    "ROLE",
    "ROLES",
    "ROW",
    "ROWS",
    "SCHEMA",
    "SCHEMAS",
    "SECURITY",
    "SELECT",
    "SET",
    "SETTINGS",
    "SHOW",
    "STORED",
    "TABLE",
    "TABLES",
    "THEN",
    "TIMESTAMP",
    "TO",
    "TRUE",
    "TRUNCATE",
    "UNION",
    "UPDATE",
    "USE",
    "USER",
    "USERS",
    "USING",
    "VACUUM",
    "VALUES",
    "VERSION",
    "VIEW",
    "WARNINGS",
    "WHEN",
    "WHERE",
    "WINDOW",
    "WITH",
];

/// Catalog, schema, table.
type TableKey = (String, String, String);

/// The names that the user may see.
#[derive(Debug, Default)]
pub struct Names {
    pub schemas: Vec<(String, String)>,
    pub tables: Vec<TableKey>,
    pub columns: HashMap<TableKey, Vec<String>>,
}

/// Names, fetched when they are first asked for.
pub struct Fetched {
    client: Client,
    runtime: Handle,
    names: Option<Names>,
}

impl Fetched {
    pub fn new(client: Client, runtime: Handle) -> Self {
        Self { client, runtime, names: None }
    }

    /// What was fetched may not hold any more.
    pub fn forget(&mut self) {
        self.names = None;
    }

    /// The names for this line, with the columns of the tables that it names. What cannot be had in time is left out.
    pub fn for_line(&mut self, line: &str) -> &Names {
        let client = self.client.clone();
        let runtime = self.runtime.clone();
        let names = self.names.get_or_insert_with(|| runtime.block_on(fetch(&client)));
        let wanted: Vec<TableKey> =
            names.tables.iter().filter(|key| !names.columns.contains_key(*key) && is_named(line, &key.2)).cloned().collect();
        for key in wanted {
            let columns = runtime.block_on(fetch_columns(&client, &key));
            names.columns.insert(key, columns);
        }
        names
    }
}

async fn fetch(client: &Client) -> Names {
    let all = async { tokio::join!(client.schemas(None), client.tables(None, None, None, false)) };
    let Ok((schemas, tables)) = tokio::time::timeout(FETCH, all).await else { return Names::default() };
    let tables = tables.unwrap_or_default().into_iter().map(|table| (table.catalog, table.schema, table.name));
    Names { schemas: schemas.unwrap_or_default(), tables: tables.collect(), columns: HashMap::new() }
}

async fn fetch_columns(client: &Client, key: &TableKey) -> Vec<String> {
    let tables = client.tables(Some(&key.0), Some(&key.1), Some(&key.2), true);
    let Ok(Ok(tables)) = tokio::time::timeout(FETCH, tables).await else { return Vec::new() };
    tables.into_iter().flat_map(|table| table.columns).map(|column| column.name).collect()
}

/// Whether the line has this name as a word, quoted or not.
fn is_named(line: &str, name: &str) -> bool {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word.eq_ignore_ascii_case(name)) || line.contains(&quoted(name))
}

/// Where the word that ends at `pos` begins, and what it could become. `here` is the session's catalog and schema.
pub fn candidates(line: &str, pos: usize, names: &Names, here: (&str, &str)) -> (usize, Vec<String>) {
    let before = &line[..pos];
    if before.starts_with('\\') && !before.contains(char::is_whitespace) {
        let mut found: Vec<String> =
            COMMANDS.iter().filter(|(name, ..)| name.starts_with(before)).map(|(name, ..)| (*name).to_owned()).collect();
        found.dedup();
        return (0, found);
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '.' || c == '"';
    let begin = before.char_indices().rev().take_while(|(_, c)| is_part(*c)).last().map_or(pos, |(at, _)| at);
    let word = &before[begin..];
    let (path, start) = match word.rfind('.') {
        Some(dot) => (Some(&word[..dot]), begin + dot + 1),
        None => (None, begin),
    };
    let prefix = &line[start..pos];
    let mut found = match path {
        Some(path) => below(&crate::commands::name_parts(path), line, names, here),
        None => everything(line, names, here),
    };
    found.retain(|name| has_prefix(name, prefix));
    let mut found: Vec<String> = found.iter().map(|name| written(name)).collect();
    if path.is_none() && !prefix.is_empty() {
        found.extend(keywords(prefix));
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_CANDIDATES);
    (start, found)
}

/// What may stand without a dot: schemas, tables of here, catalogs, columns of the tables that the line names.
fn everything(line: &str, names: &Names, (catalog, schema): (&str, &str)) -> Vec<String> {
    let mut found = Vec::new();
    for (in_catalog, name) in &names.schemas {
        found.push(in_catalog.clone());
        if in_catalog == catalog {
            found.push(name.clone());
        }
    }
    found.extend(names.tables.iter().filter(|key| key.0 == catalog && key.1 == schema).map(|key| key.2.clone()));
    found.extend(names.columns.iter().filter(|(key, _)| is_named(line, &key.2)).flat_map(|(_, columns)| columns.clone()));
    found
}

/// What may follow `path.`: a catalog's schemas, a schema's tables, a table's columns.
fn below(path: &[String], line: &str, names: &Names, (catalog, schema): (&str, &str)) -> Vec<String> {
    let columns = |is_meant: &dyn Fn(&TableKey) -> bool| -> Vec<String> {
        names.columns.iter().filter(|(key, _)| is_meant(key)).flat_map(|(_, columns)| columns.clone()).collect()
    };
    match path {
        [one] => {
            let mut found: Vec<String> =
                names.schemas.iter().filter(|(in_catalog, _)| in_catalog == one).map(|(_, name)| name.clone()).collect();
            found.extend(names.tables.iter().filter(|key| key.0 == catalog && key.1 == *one).map(|key| key.2.clone()));
            let direct = columns(&|key| key.0 == catalog && key.1 == schema && key.2 == *one);
            // Something else before the dot is most likely an alias of a table of this statement.
            if found.is_empty() && direct.is_empty() {
                found.extend(columns(&|key| is_named(line, &key.2)));
            }
            found.extend(direct);
            found
        }
        [one, two] => {
            let mut found: Vec<String> =
                names.tables.iter().filter(|key| key.0 == *one && key.1 == *two).map(|key| key.2.clone()).collect();
            found.extend(columns(&|key| key.0 == catalog && key.1 == *one && key.2 == *two));
            found
        }
        [one, two, three] => columns(&|key| key.0 == *one && key.1 == *two && key.2 == *three),
        _ => Vec::new(),
    }
}

/// In the case that was begun with.
fn keywords(prefix: &str) -> Vec<String> {
    let is_lower = prefix.starts_with(char::is_lowercase);
    let found = KEYWORDS.iter().filter(|word| has_prefix(word, prefix));
    found.map(|word| if is_lower { word.to_lowercase() } else { (*word).to_owned() }).collect()
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_start_matches('"').to_lowercase();
    name.to_lowercase().starts_with(&prefix)
}

/// A name as it must be written.
fn written(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_keyword = KEYWORDS.iter().any(|word| word.eq_ignore_ascii_case(name));
    if is_plain && !is_keyword { name.to_owned() } else { quoted(name) }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let key = |catalog: &str, schema: &str, table: &str| (catalog.to_owned(), schema.to_owned(), table.to_owned());
        let schema = |catalog: &str, schema: &str| (catalog.to_owned(), schema.to_owned());
        Names {
            schemas: vec![schema("lazaret", "public"), schema("lazaret", "omop"), schema("other", "main")],
            tables: vec![
                key("lazaret", "public", "cases"),
                key("lazaret", "public", "Cases2"),
                key("lazaret", "omop", "person"),
                key("other", "main", "t"),
            ],
            columns: HashMap::from([
                (key("lazaret", "public", "cases"), vec!["case_id".to_owned(), "region".to_owned()]),
                (key("lazaret", "omop", "person"), vec!["person_id".to_owned()]),
            ]),
        }
    }

    fn complete(line: &str) -> (usize, Vec<String>) {
        candidates(line, line.len(), &names(), ("lazaret", "public"))
    }

    fn found(line: &str) -> Vec<String> {
        complete(line).1
    }

    #[test]
    fn keywords_follow_the_case_of_what_is_written() {
        assert_eq!(complete("sel"), (0, vec!["select".to_owned()]));
        assert_eq!(complete("SELECT 1 FR"), (9, vec!["FROM".to_owned()]));
    }

    #[test]
    fn names_are_found_from_catalog_to_column() {
        assert_eq!(found("SELECT * FROM cas"), ["\"Cases2\"", "case", "cases", "cast"]);
        assert_eq!(found("SELECT * FROM omop."), ["person"]);
        assert_eq!(found("SELECT * FROM lazaret."), ["omop", "public"]);
        assert_eq!(complete("SELECT * FROM lazaret.omop.p"), (27, vec!["person".to_owned()]));
        assert_eq!(found("SELECT * FROM \"lazaret\".omop.person WHERE person_"), ["person_id"]);
        assert_eq!(candidates("SELECT c.re FROM cases c", 11, &names(), ("lazaret", "public")), (9, vec!["region".to_owned()]));
        assert_eq!(candidates("SELECT cases. FROM cases", 13, &names(), ("lazaret", "public")).1, ["case_id", "region"]);
    }

    #[test]
    fn columns_are_offered_only_for_tables_that_are_named() {
        assert!(found("SELECT regi").is_empty());
        assert_eq!(found("SELECT 1 FROM cases WHERE regi"), ["region"]);
    }

    #[test]
    fn commands_are_completed() {
        assert_eq!(complete("\\t"), (0, vec!["\\timing".to_owned()]));
        assert_eq!(found("\\d"), ["\\d", "\\dt", "\\dv", "\\dn"]);
    }
}
