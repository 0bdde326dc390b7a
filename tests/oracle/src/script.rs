//! A world as statements: to be run against a server, or kept as a transcript.

use crate::conditions::Place;
use crate::policies::Policy;
use crate::queries::{Parameter, Query};
use crate::{Container, OTHER, READER, World};

/// Where the mapping lies, out of reach of policies on the schema of the tables.
const MAPPING: &str = "aside.m";

impl World {
    /// Where a condition of the table of this name stands.
    pub fn place<'a>(&self, table: &'a str) -> Place<'a> {
        Place { table, mapping: MAPPING }
    }

    /// The statements of an admin that make the world, in the schemas `world` and `aside`.
    pub fn setup(&self) -> Vec<String> {
        let mut statements = vec!["CREATE SCHEMA world".to_owned(), "CREATE SCHEMA aside".to_owned()];
        statements.push(format!("CREATE TABLE {MAPPING} AS {}", self.mapping.rows.sql()));
        if let Some(from) = self.mapping.hidden_from {
            statements.push(format!("CREATE POLICY near ON TABLE {MAPPING} TO USER admin USING (area < {from})"));
        }
        for table in &self.tables {
            let name = format!("world.{}", table.name);
            // A file for each group, so that policies choose files.
            let parted = if table.rows.rows.len() % 2 == 0 { " PARTITIONED BY (g)" } else { "" };
            statements.push(format!("CREATE TABLE {name}{parted} AS {}", table.rows.sql()));
            statements.extend(self.grants(table.name, &table.closed, table.denied));
            statements.push(format!("GRANT SELECT ON TABLE {name} TO USER {OTHER}"));
            for (index, policy) in table.policies.iter().enumerate() {
                statements.push(policy_sql(policy, &format!("p{index}"), &format!("TABLE {name}"), self.place(table.name)));
            }
            for (index, mask) in table.masks.iter().enumerate() {
                let (column, audience, priority) = (&mask.column, mask.audience.sql(), mask.priority);
                let using = mask.sql(&table.rows, self.place(table.name));
                statements.push(format!(
                    "CREATE MASKING POLICY m{index} ON TABLE {name} ({column}) {audience} USING {using} PRIORITY {priority}"
                ));
            }
        }
        statements.push(format!("CREATE VIEW world.v AS {}", self.view.over("world.t")));
        statements.push(format!("GRANT SELECT ON VIEW world.v TO USER {READER}"));
        for (index, policy) in self.view.policies.iter().enumerate() {
            statements.push(policy_sql(policy, &format!("p{index}"), "VIEW world.v", self.place("v")));
        }
        if let Some((container, policies)) = &self.shared {
            let on = match container {
                Container::Schema => "SCHEMA world",
                Container::Catalog => "CATALOG lazaret",
            };
            statements
                .extend(policies.iter().enumerate().map(|(index, policy)| policy_sql(policy, &format!("s{index}"), on, self.place("t"))));
        }
        statements
    }

    fn grants(&self, table: &str, closed: &[String], denied: bool) -> Vec<String> {
        let Some(table) = self.tables.iter().find(|it| it.name == table) else { return Vec::new() };
        let (on, name) = (format!("ON TABLE world.{} TO USER {READER}", table.name), closed.join(", "));
        match (closed.is_empty(), denied) {
            (true, _) => vec![format!("GRANT SELECT {on}")],
            (false, true) => vec![format!("GRANT SELECT {on}"), format!("DENY SELECT ({name}) {on}")],
            (false, false) => {
                let open: Vec<String> = table.open_columns().into_iter().map(|column| column.name).collect();
                vec![format!("GRANT SELECT ({}) {on}", open.join(", "))]
            }
        }
    }

    /// The statements of an admin that make the copy, in the schemas `copy` and `aside`.
    pub fn setup_copy(&self) -> Vec<String> {
        let mut statements = vec!["CREATE SCHEMA copy".to_owned()];
        for table in &self.tables {
            let rows = self.copy(table, &table.rows.rows, &|_, _, _| [0; 32]);
            if table.name == "t" {
                statements.push(format!("CREATE TABLE aside.full_t AS {}", rows.sql()));
            }
            statements.push(format!("CREATE TABLE copy.{} AS {}", table.name, rows.without(&table.closed).sql()));
        }
        statements.push(format!("CREATE VIEW copy.v AS {}", self.view_of_copy("aside.full_t")));
        statements
    }

    /// The view over a copy of all that its owner reads, less the rows that its policies hide.
    pub fn view_of_copy(&self, full: &str) -> String {
        let query = self.view.over(full);
        let mut policies = self.view_policies().peekable();
        if policies.peek().is_none() {
            return query;
        }
        let binding = self.view_policies().filter(|policy| policy.audience.binds_reader() && !policy.for_insert);
        let texts = |restrictive: bool| -> Vec<String> {
            let of = binding.clone().filter(|policy| policy.restrictive == restrictive);
            of.map(|policy| format!("({})", policy.using.sql_for_reader())).collect()
        };
        let permissive = texts(false);
        let shown = if permissive.is_empty() { "false".to_owned() } else { permissive.join(" OR ") };
        let conditions = [vec![format!("({shown})")], texts(true)].concat();
        format!("SELECT * FROM ({query}) AS v WHERE {}", conditions.join(" AND "))
    }

    /// A transcript of the world and of one query, with what the copy answers.
    pub fn transcript(&self, query: &Query, schema: &str, expected: &str) -> String {
        let mut text = format!("# From seed {} of the oracle, shrunk.\n\n", self.seed);
        for user in [READER, OTHER] {
            text.push_str(&format!("statement ok\nCREATE USER {user} PASSWORD '{user}-password'\n\n"));
        }
        for statement in self.setup() {
            text.push_str(&format!("statement ok\n{statement}\n\n"));
        }
        text.push_str(&format!("connection {READER}\nstatement ok\nUSE lazaret.{schema}\n\n"));
        format!("{text}connection {READER}\n{expected}").replace("{query}", &query.with_literals())
    }
}

fn policy_sql(policy: &Policy, name: &str, on: &str, place: Place<'_>) -> String {
    let kind = if policy.restrictive { " AS RESTRICTIVE" } else { "" };
    let command = if policy.for_insert { " FOR INSERT" } else { " FOR SELECT" };
    let using = policy.using.sql(place);
    // What is written is checked, what is read is shown.
    let clause = if policy.for_insert { "WITH CHECK" } else { "USING" };
    format!("CREATE POLICY {name} ON {on}{kind}{command} {} {clause} ({using})", policy.audience.sql())
}

impl Query {
    /// The text with its parameters written out.
    pub fn with_literals(&self) -> String {
        let mut text = self.text.clone();
        for (index, parameter) in self.parameters.iter().enumerate().rev() {
            let literal = match parameter {
                Parameter::Number(number) => number.to_string(),
                Parameter::Text(text) => format!("'{}'", text.replace('\'', "''")),
            };
            text = text.replace(&format!("${}", index + 1), &literal);
        }
        text
    }
}

/// An error as a reader may tell it from another: its text without values and numbers. Names in quotes are kept.
pub fn without_values(text: &str) -> String {
    text.chars().filter(|character| !character.is_ascii_digit() && *character != '-').collect()
}

/// An error without its values, its numbers and whatever stands in quotes.
pub fn words(text: &str) -> String {
    let mut kept = String::new();
    let mut quoted = false;
    for character in without_values(text).chars() {
        match character {
            '\'' | '"' => quoted = !quoted,
            _ if quoted => {}
            _ => kept.push(character),
        }
    }
    kept
}
