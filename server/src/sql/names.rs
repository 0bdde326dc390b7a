//! Names as they are written in a statement, and what they mean in a session.

use std::fmt;

use lazaret_auth::{GroupName, LOCAL_ISSUER, PrincipalName};

use crate::error::{Error, Position, Result};

/// Longest name of anything, in bytes: it is shown in tables, and part of paths and keys elsewhere.
pub const MAX_IDENTIFIER_BYTES: usize = 255;

/// Schemas that resolve in every catalog and that nobody can make or drop.
pub const RESERVED_SCHEMAS: [&str; 2] = ["system", "information_schema"];

/// One part of a name: unquoted ones are in lower case, quoted ones as written. Not empty, no control characters.
#[derive(Clone, Debug)]
pub struct Ident {
    text: String,
    pub position: Position,
}

impl Ident {
    pub fn new(text: impl Into<String>, position: Position) -> Result<Self> {
        let text = text.into();
        let problem = if text.is_empty() {
            "a name cannot be empty".to_owned()
        } else if text.len() > MAX_IDENTIFIER_BYTES {
            format!("a name has at most {MAX_IDENTIFIER_BYTES} bytes, this one has {}", text.len())
        } else if text.chars().any(char::is_control) {
            "a name cannot hold control characters".to_owned()
        } else {
            return Ok(Self { text, position });
        };
        Err(Error::invalid(problem).at(position.line, position.column))
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Where it was written does not make it another name.
impl PartialEq for Ident {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Ident {}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `a`, `a.b` or `a.b.c`, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName(Vec<Ident>);

/// A schema by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaPath {
    pub catalog: String,
    pub schema: String,
}

/// A table or view by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationPath {
    pub catalog: String,
    pub schema: String,
    pub name: String,
}

impl ObjectName {
    /// `parts` holds one to three names.
    pub(super) fn new(parts: Vec<Ident>) -> Self {
        Self(parts)
    }

    pub fn parts(&self) -> &[Ident] {
        &self.0
    }

    pub fn position(&self) -> Position {
        self.0.first().map_or(Position { line: 1, column: 1 }, |part| part.position)
    }

    /// The full name of a table; the session's catalog and schema fill in what is left out.
    pub fn as_relation(&self, session_catalog: &str, session_schema: &str) -> Result<RelationPath> {
        let text = |ident: &Ident| ident.as_str().to_owned();
        match self.0.as_slice() {
            [name] => Ok(RelationPath { catalog: session_catalog.to_owned(), schema: session_schema.to_owned(), name: text(name) }),
            [schema, name] => Ok(RelationPath { catalog: session_catalog.to_owned(), schema: text(schema), name: text(name) }),
            [catalog, schema, name] => Ok(RelationPath { catalog: text(catalog), schema: text(schema), name: text(name) }),
            _ => Err(self.wrong("a table's name has at most three parts: catalog.schema.table")),
        }
    }

    /// The full name of a schema; the session's catalog fills in what is left out.
    pub fn as_schema(&self, session_catalog: &str) -> Result<SchemaPath> {
        match self.0.as_slice() {
            [schema] => Ok(SchemaPath { catalog: session_catalog.to_owned(), schema: schema.as_str().to_owned() }),
            [catalog, schema] => Ok(SchemaPath { catalog: catalog.as_str().to_owned(), schema: schema.as_str().to_owned() }),
            _ => Err(self.wrong("a schema's name has at most two parts: catalog.schema")),
        }
    }

    fn wrong(&self, message: &str) -> Error {
        let Position { line, column } = self.position();
        Error::invalid(message).at(line, column)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, self.0.iter().map(Ident::as_str))
    }
}

impl fmt::Display for SchemaPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, [self.catalog.as_str(), &self.schema])
    }
}

impl fmt::Display for RelationPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, [self.catalog.as_str(), &self.schema, &self.name])
    }
}

fn write_joined<'a>(f: &mut fmt::Formatter<'_>, parts: impl IntoIterator<Item = &'a str>) -> fmt::Result {
    for (number, part) in parts.into_iter().enumerate() {
        if number > 0 {
            f.write_str(".")?;
        }
        f.write_str(part)?;
    }
    Ok(())
}

/// Whether a schema of this name is there in every catalog without being made.
pub fn is_reserved_schema(name: &str) -> bool {
    RESERVED_SCHEMAS.contains(&name)
}

/// A user as written: `ada`, `"hospital:ada"` or `"local:ada"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName(pub Ident);

impl UserName {
    /// The name in full where it is written in full: with its issuer before the first colon.
    pub fn in_full(&self) -> Option<PrincipalName> {
        let (issuer, subject) = self.0.as_str().split_once(':')?;
        (!issuer.is_empty() && !subject.is_empty()).then(|| PrincipalName::new(issuer, subject))
    }

    /// Who is meant, given the issuers of the configuration and the principals that are known by some record.
    /// The short form is accepted while only one can be meant.
    pub fn resolve(&self, issuers: &[String], known: impl IntoIterator<Item = PrincipalName>) -> Result<PrincipalName> {
        let Position { line, column } = self.0.position;
        if let Some(name) = self.in_full() {
            return if name.is_local() || issuers.contains(&name.issuer) {
                Ok(name)
            } else {
                Err(Error::invalid(format!("there is no issuer \"{}\"", name.issuer)).at(line, column))
            };
        }
        let subject = self.0.as_str();
        if subject.contains(':') {
            return Err(Error::invalid(format!("\"{subject}\" is not a principal: write \"issuer:subject\"")).at(line, column));
        }
        let mut candidates: Vec<_> = known.into_iter().filter(|name| name.subject == subject).collect();
        candidates.sort();
        candidates.dedup();
        match candidates.as_slice() {
            [one] => Ok(one.clone()),
            [] if issuers.is_empty() => Ok(PrincipalName::local(subject)),
            [] => Err(Error::invalid(format!(
                "no principal \"{subject}\" is known: write it in full, such as \"{}:{subject}\" or \"{LOCAL_ISSUER}:{subject}\"",
                issuers[0]
            ))
            .at(line, column)),
            several => {
                let names: Vec<_> = several.iter().map(|name| format!("\"{}:{}\"", name.issuer, name.subject)).collect();
                Err(Error::invalid(format!("\"{subject}\" can mean {}: write it in full", names.join(" or "))).at(line, column))
            }
        }
    }
}

/// The group meant by `issuer:g`, or by `g` where one issuer is configured.
pub fn resolve_group(text: &str, issuers: &[String]) -> Result<GroupName> {
    if let Some((issuer, group)) = text.split_once(':')
        && issuers.iter().any(|configured| configured == issuer)
        && !group.is_empty()
    {
        return Ok(GroupName { issuer: issuer.to_owned(), group: group.to_owned() });
    }
    match issuers {
        [] => Err(Error::invalid(format!("group \"{text}\": no issuer is configured, and users with passwords have no groups"))),
        [only] => Ok(GroupName { issuer: only.clone(), group: text.to_owned() }),
        _ => Err(Error::invalid(format!("group \"{text}\": several issuers are configured, write it in full: '{}:{text}'", issuers[0]))),
    }
}
