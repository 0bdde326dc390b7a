//! Our own grammar: which statement it is by its first words, then its clauses, then nothing more.

mod access;
mod insert;
mod masks;
mod objects;
mod sessions;
mod show;
mod subject;
mod users;

use datafusion::sql::sqlparser::tokenizer::Token;

use super::query::{begins_query, parse_query};
use super::statement::{Explain, ExplainFormat, Statement};
use super::tokens::{Cursor, Tokens};
use crate::error::{Error, Result};

/// Grammar of the dialect (and of what drivers send by habit) that is not built, by its first words.
const NOT_BUILT: [&str; 35] = [
    "CREATE CATALOG",
    "DROP CATALOG",
    "CREATE FUNCTION",
    "CREATE OR REPLACE FUNCTION",
    "CREATE INDEX",
    "CREATE UNIQUE INDEX",
    "CREATE TEMPORARY",
    "CREATE TEMP",
    "CREATE MATERIALIZED VIEW",
    "CREATE SEQUENCE",
    "CREATE DATABASE",
    "ALTER CATALOG",
    "ALTER SCHEMA",
    "ALTER ROLE",
    "ALTER POLICY",
    "COMMENT ON",
    "INSERT OVERWRITE",
    "UPDATE",
    "DELETE FROM",
    "MERGE INTO",
    "TRUNCATE",
    "COPY",
    "OPTIMIZE",
    "VACUUM",
    "RESTORE TABLE",
    "DESCRIBE HISTORY",
    "REFRESH",
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT",
    "PREPARE",
    "EXECUTE",
    "DEALLOCATE",
];

/// Reads all tokens as one statement.
pub fn parse(tokens: &Tokens<'_>, parameters: usize) -> Result<Statement> {
    let mut cursor = tokens.cursor();
    if cursor.is_at_end() {
        return Err(Error::invalid("the statement is empty").at(1, 1));
    }
    // EXECUTE alone runs what PREPARE has made.
    let is_not_built = |words: &&&str| cursor.is_at(words) && !cursor.is_at("EXECUTE AS USER");
    if let Some(words) = NOT_BUILT.iter().find(is_not_built) {
        return Err(cursor.unsupported(words));
    }
    let statement = statement(&mut cursor, parameters)?;
    cursor.expect_end()?;
    if parameters > 0 && statement.query().is_none() {
        return Err(no_parameters(tokens));
    }
    Ok(statement)
}

fn statement(cursor: &mut Cursor<'_>, parameters: usize) -> Result<Statement> {
    if begins_query(cursor) {
        return Ok(Statement::Query(Box::new(parse_query(cursor, parameters)?)));
    }
    if cursor.take("EXPLAIN") {
        return explain(cursor, parameters);
    }
    if cursor.take("INSERT") {
        return insert::insert(cursor, parameters);
    }
    if cursor.take("EXECUTE AS USER") {
        return subject::execute_as(cursor, parameters);
    }
    if cursor.take("CREATE") {
        return create(cursor, parameters);
    }
    if cursor.take("DROP") {
        return drop(cursor);
    }
    if cursor.take("ALTER") {
        return alter(cursor);
    }
    if cursor.take("DENY") {
        return access::deny(cursor);
    }
    if cursor.take("GRANT") {
        return access::grant(cursor);
    }
    if cursor.take("REVOKE") {
        return access::revoke(cursor);
    }
    if cursor.take("DESCRIBE") || cursor.take("DESC") {
        let _ = cursor.take("TABLE");
        return Ok(Statement::Describe { name: cursor.object_name("a table or view")? });
    }
    if cursor.take("SHOW") {
        return Ok(Statement::Show(show::show(cursor)?));
    }
    if cursor.take("USE") {
        return show::use_catalog(cursor);
    }
    if cursor.take("SET EMERGENCY ACCESS") {
        return sessions::set_emergency_access(cursor);
    }
    if cursor.take("END EMERGENCY ACCESS") {
        let id = if cursor.is_at_end() { None } else { Some(sessions::id(cursor)?) };
        return Ok(Statement::EndEmergencyAccess { id });
    }
    if cursor.take("SET") {
        return show::set(cursor);
    }
    if cursor.take("RESET") {
        return show::reset(cursor);
    }
    if cursor.take("KILL") {
        return sessions::kill(cursor);
    }
    Err(cursor.expected("a statement"))
}

fn create(cursor: &mut Cursor<'_>, parameters: usize) -> Result<Statement> {
    let or_replace = cursor.take("OR REPLACE");
    let place = cursor.clone();
    if cursor.take("TABLE") {
        return objects::create_table(cursor, or_replace, parameters);
    }
    if cursor.take("VIEW") {
        return objects::create_view(cursor, or_replace, parameters);
    }
    if cursor.take("POLICY") {
        return access::create_policy(cursor, or_replace);
    }
    if cursor.take("MASKING POLICY") {
        return masks::create(cursor, or_replace);
    }
    if or_replace {
        return Err(place.expected("TABLE, VIEW, POLICY or MASKING POLICY"));
    }
    if cursor.take("SCHEMA") {
        return objects::create_schema(cursor);
    }
    if cursor.take("EXTERNAL TABLE") {
        return objects::create_external_table(cursor);
    }
    if cursor.take("USER") {
        return users::create(cursor);
    }
    if cursor.take("ROLE") {
        let if_not_exists = if_not_exists(cursor)?;
        return Ok(Statement::CreateRole { name: cursor.ident("a role")?, if_not_exists });
    }
    if cursor.take("TOKEN") {
        return users::create_token(cursor);
    }
    Err(cursor.expected("SCHEMA, TABLE, EXTERNAL TABLE, VIEW, USER, ROLE, TOKEN, POLICY or MASKING POLICY"))
}

fn drop(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.take("SCHEMA") {
        return objects::drop_schema(cursor);
    }
    if cursor.take("TABLE") {
        return objects::drop_relation(cursor, super::statement::RelationKind::Table);
    }
    if cursor.take("VIEW") {
        return objects::drop_relation(cursor, super::statement::RelationKind::View);
    }
    if cursor.take("USER") {
        let if_exists = if_exists(cursor)?;
        return Ok(Statement::DropUser { name: cursor.ident("a user")?, if_exists });
    }
    if cursor.take("ROLE") {
        let if_exists = if_exists(cursor)?;
        return Ok(Statement::DropRole { name: cursor.ident("a role")?, if_exists });
    }
    if cursor.take("POLICY") {
        let if_exists = if_exists(cursor)?;
        let name = cursor.ident("a policy")?;
        cursor.expect("ON")?;
        return Ok(Statement::DropPolicy { name, on: access::policy_object(cursor)?, if_exists });
    }
    if cursor.take("MASKING POLICY") {
        return masks::drop(cursor);
    }
    if cursor.take("TOKEN") {
        return users::drop_token(cursor);
    }
    Err(cursor.expected("SCHEMA, TABLE, VIEW, USER, ROLE, TOKEN, POLICY or MASKING POLICY"))
}

fn alter(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if cursor.take("USER") {
        return users::alter(cursor);
    }
    if cursor.take("TABLE") {
        return objects::alter_relation(cursor, super::statement::RelationKind::Table);
    }
    if cursor.take("VIEW") {
        return objects::alter_relation(cursor, super::statement::RelationKind::View);
    }
    Err(cursor.expected("TABLE, VIEW or USER"))
}

fn explain(cursor: &mut Cursor<'_>, parameters: usize) -> Result<Statement> {
    if cursor.take("POLICY") {
        return subject::explain_policy(cursor, parameters);
    }
    let (mut analyze, mut verbose, mut format) = (false, false, None);
    loop {
        if !analyze && cursor.take("ANALYZE") {
            analyze = true;
        } else if !verbose && cursor.take("VERBOSE") {
            verbose = true;
        } else if format.is_none() && cursor.take("FORMAT") {
            format = Some(explain_format(cursor)?);
        } else {
            break;
        }
    }
    let query = parse_query(cursor, parameters)?;
    Ok(Statement::Explain(Box::new(Explain { analyze, verbose, format, query })))
}

fn explain_format(cursor: &mut Cursor<'_>) -> Result<ExplainFormat> {
    for (word, format) in [
        ("INDENT", ExplainFormat::Indent),
        ("TREE", ExplainFormat::Tree),
        ("PGJSON", ExplainFormat::PgJson),
        ("GRAPHVIZ", ExplainFormat::Graphviz),
    ] {
        if cursor.take(word) {
            return Ok(format);
        }
    }
    Err(cursor.expected("INDENT, TREE, PGJSON or GRAPHVIZ"))
}

/// `IF NOT EXISTS`; a name cannot begin with an unquoted `IF`, so that a misspelt clause does not become one.
fn if_not_exists(cursor: &mut Cursor<'_>) -> Result<bool> {
    if cursor.take("IF") {
        cursor.expect("NOT")?;
        cursor.expect("EXISTS")?;
        return Ok(true);
    }
    Ok(false)
}

fn if_exists(cursor: &mut Cursor<'_>) -> Result<bool> {
    if cursor.take("IF") {
        cursor.expect("EXISTS")?;
        return Ok(true);
    }
    Ok(false)
}

/// A placeholder in a statement that keeps its text, or has no values.
fn no_parameters(tokens: &Tokens<'_>) -> Error {
    let at = tokens.iter().position(|(token, _)| matches!(token, Token::Placeholder(_))).unwrap_or(0);
    let position = tokens.position(at);
    Error::invalid("a parameter can stand in a query only").at(position.line, position.column)
}
