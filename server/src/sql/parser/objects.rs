//! Schemas, tables and views.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::tokenizer::Token;
use lazaret_catalog::meta::TableFormat;

use super::{if_exists, if_not_exists, no_parameters};
use crate::error::{Error, Result};
use crate::sql::query::parse_query;
use crate::sql::statement::{CreateExternalTable, CreateTableAs, CreateView, RelationKind, Statement};
use crate::sql::tokens::Cursor;

pub fn create_schema(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = if_not_exists(cursor)?;
    Ok(Statement::CreateSchema { name: cursor.object_name("a schema")?, if_not_exists })
}

pub fn drop_schema(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_exists = if_exists(cursor)?;
    let name = cursor.object_name("a schema")?;
    let cascade = cursor.take("CASCADE");
    if !cascade {
        let _ = cursor.take("RESTRICT");
    }
    Ok(Statement::DropSchema { name, if_exists, cascade })
}

pub fn drop_relation(cursor: &mut Cursor<'_>, kind: RelationKind) -> Result<Statement> {
    let if_exists = if_exists(cursor)?;
    let name = cursor.object_name("a name")?;
    if cursor.is("CASCADE") {
        return Err(cursor.unsupported(match kind {
            RelationKind::Table => "DROP TABLE … CASCADE",
            RelationKind::View => "DROP VIEW … CASCADE",
        }));
    }
    Ok(Statement::Drop { kind, name, if_exists })
}

pub fn alter_relation(cursor: &mut Cursor<'_>, kind: RelationKind) -> Result<Statement> {
    let name = cursor.object_name("a name")?;
    for words in ["ADD COLUMN", "DROP COLUMN", "RENAME COLUMN", "ALTER COLUMN", "RENAME TO", "SET TBLPROPERTIES", "OWNER TO"] {
        if cursor.is_at(words) {
            let what = if kind == RelationKind::Table { "TABLE" } else { "VIEW" };
            return Err(cursor.unsupported(format_args!("ALTER {what} … {words}")));
        }
    }
    let enable = cursor.take("ENABLE");
    if !enable && !cursor.take("DISABLE") {
        return Err(cursor.expected("ENABLE or DISABLE ROW LEVEL SECURITY"));
    }
    cursor.expect("ROW")?;
    cursor.expect("LEVEL")?;
    cursor.expect("SECURITY")?;
    Ok(Statement::RowLevelSecurity { kind, name, enable })
}

pub fn create_external_table(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = if_not_exists(cursor)?;
    let name = cursor.object_name("a table")?;
    if *cursor.peek() == Token::LParen {
        return Err(cursor.unsupported("columns of an external table"));
    }
    cursor.expect("STORED")?;
    cursor.expect("AS")?;
    let format = stored_as(cursor)?;
    cursor.expect("LOCATION")?;
    let location = cursor.string("the location, between single quotes")?;
    let options = if cursor.take("OPTIONS") { options(cursor)? } else { BTreeMap::new() };
    Ok(Statement::CreateExternalTable(Box::new(CreateExternalTable { name, if_not_exists, format, location, options })))
}

fn stored_as(cursor: &mut Cursor<'_>) -> Result<TableFormat> {
    for (word, format) in [
        ("DELTA", TableFormat::Delta),
        ("ICEBERG", TableFormat::Iceberg),
        ("PARQUET", TableFormat::Parquet),
        ("CSV", TableFormat::Csv),
        ("JSON", TableFormat::Json),
    ] {
        if cursor.take(word) {
            return Ok(format);
        }
    }
    Err(cursor.expected("DELTA, ICEBERG, PARQUET, CSV or JSON"))
}

/// `('key' 'value', key = 'value', …)`; a key stands once.
fn options(cursor: &mut Cursor<'_>) -> Result<BTreeMap<String, String>> {
    cursor.expect_token(&Token::LParen)?;
    let pairs = cursor.list(|cursor| {
        let position = cursor.position();
        let key = match cursor.peek() {
            Token::Word(_) => cursor.object_name("an option")?.to_string(),
            _ => cursor.string("an option")?,
        };
        let _ = cursor.take_token(&Token::Eq);
        let value = match cursor.peek() {
            Token::Number(number, _) => {
                let number = number.clone();
                cursor.advance();
                number
            }
            Token::Word(_) if cursor.take("TRUE") => "true".to_owned(),
            Token::Word(_) if cursor.take("FALSE") => "false".to_owned(),
            _ => cursor.string("a value")?,
        };
        Ok((position, key.to_ascii_lowercase(), value))
    })?;
    cursor.expect_token(&Token::RParen)?;
    let mut options = BTreeMap::new();
    for (position, key, value) in pairs {
        if options.contains_key(&key) {
            return Err(Error::invalid(format!("option \"{key}\" is given twice")).at(position.line, position.column));
        }
        options.insert(key, value);
    }
    Ok(options)
}

pub fn create_table(cursor: &mut Cursor<'_>, or_replace: bool, parameters: usize) -> Result<Statement> {
    let place = cursor.position();
    let if_not_exists = if_not_exists(cursor)?;
    if or_replace && if_not_exists {
        return Err(Error::invalid("OR REPLACE and IF NOT EXISTS exclude each other").at(place.line, place.column));
    }
    let name = cursor.object_name("a table")?;
    if *cursor.peek() == Token::LParen {
        return Err(cursor.unsupported("CREATE TABLE with columns"));
    }
    let format = if cursor.take("USING") {
        if cursor.is("ICEBERG") {
            return Err(cursor.unsupported("CREATE TABLE … USING ICEBERG"));
        }
        if !cursor.take("DELTA") {
            return Err(cursor.expected("DELTA or ICEBERG"));
        }
        TableFormat::Delta
    } else {
        TableFormat::Delta
    };
    let mut partitioned_by = Vec::new();
    if cursor.take("PARTITIONED BY") {
        cursor.expect_token(&Token::LParen)?;
        partitioned_by = cursor.list(|cursor| cursor.ident("a column"))?;
        cursor.expect_token(&Token::RParen)?;
    }
    for clause in ["LOCATION", "WITH", "COMMENT"] {
        if cursor.is(clause) {
            return Err(cursor.unsupported(format_args!("CREATE TABLE … {clause}")));
        }
    }
    cursor.expect("AS")?;
    let query = parse_query(cursor, parameters)?;
    Ok(Statement::CreateTableAs(Box::new(CreateTableAs { name, or_replace, if_not_exists, format, partitioned_by, query })))
}

pub fn create_view(cursor: &mut Cursor<'_>, or_replace: bool, parameters: usize) -> Result<Statement> {
    let name = cursor.object_name("a view")?;
    if *cursor.peek() == Token::LParen {
        return Err(cursor.unsupported("CREATE VIEW with column names"));
    }
    cursor.expect("AS")?;
    if parameters > 0 {
        return Err(no_parameters(cursor.tokens()));
    }
    let query = parse_query(cursor, parameters)?;
    Ok(Statement::CreateView(Box::new(CreateView { name, or_replace, query })))
}
