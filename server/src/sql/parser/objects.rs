//! Schemas, tables and views.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::tokenizer::Token;
use lazaret_catalog::meta::TableFormat;

use super::{if_exists, if_not_exists, no_parameters};
use crate::error::{Error, Position, Result};
use crate::sql::names::UserName;
use crate::sql::query::{parse_relation, parse_type};
use crate::sql::statement::{CreateExternalTable, CreateTableAs, CreateView, NewColumn, Query, RelationKind, Statement};
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
    let cascade = cursor.take("CASCADE");
    if !cascade {
        let _ = cursor.take("RESTRICT");
    }
    Ok(Statement::Drop { kind, name, if_exists, cascade })
}

pub fn alter_relation(cursor: &mut Cursor<'_>, kind: RelationKind) -> Result<Statement> {
    let name = cursor.object_name("a name")?;
    for words in ["ADD COLUMN", "DROP COLUMN", "RENAME COLUMN", "ALTER COLUMN", "RENAME TO", "SET TBLPROPERTIES"] {
        if cursor.is_at(words) {
            let what = if kind == RelationKind::Table { "TABLE" } else { "VIEW" };
            return Err(cursor.unsupported(format_args!("ALTER {what} … {words}")));
        }
    }
    if cursor.take("OWNER TO") {
        return Ok(Statement::SetOwner { kind, name, owner: UserName(cursor.ident("a user")?) });
    }
    let enable = cursor.take("ENABLE");
    if !enable && !cursor.take("DISABLE") {
        return Err(cursor.expected("ENABLE or DISABLE ROW LEVEL SECURITY, or OWNER TO"));
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

/// What ends a column's type.
const AFTER_A_TYPE: [&str; 12] =
    ["NOT", "NULL", "DEFAULT", "COMMENT", "CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "REFERENCES", "GENERATED", "COLLATE", "AS"];

pub fn create_table(cursor: &mut Cursor<'_>, or_replace: bool, parameters: usize) -> Result<Statement> {
    let place = cursor.position();
    let if_not_exists = if_not_exists(cursor)?;
    if or_replace && if_not_exists {
        return Err(Error::invalid("OR REPLACE and IF NOT EXISTS exclude each other").at(place.line, place.column));
    }
    let name = cursor.object_name("a table")?;
    let place = cursor.position();
    let columns = if *cursor.peek() == Token::LParen { columns(cursor)? } else { Vec::new() };
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
    let query = if columns.is_empty() {
        cursor.expect("AS")?;
        parse_relation(cursor, parameters)?
    } else if cursor.is("AS") {
        return Err(cursor.unsupported("CREATE TABLE with columns AS"));
    } else {
        no_rows(cursor, &columns, place)?
    };
    Ok(Statement::CreateTableAs(Box::new(CreateTableAs { name, or_replace, if_not_exists, format, columns, partitioned_by, query })))
}

/// `(name TYPE [NOT NULL], …)`.
fn columns(cursor: &mut Cursor<'_>) -> Result<Vec<NewColumn>> {
    cursor.expect_token(&Token::LParen)?;
    let columns = cursor.list(column)?;
    cursor.expect_token(&Token::RParen)?;
    for (number, column) in columns.iter().enumerate() {
        if columns[..number].iter().any(|other| other.name == column.name) {
            let Position { line, column: place } = column.name.position;
            return Err(Error::invalid(format!("column \"{}\" is there twice", column.name)).at(line, place));
        }
    }
    Ok(columns)
}

fn column(cursor: &mut Cursor<'_>) -> Result<NewColumn> {
    let name = cursor.ident("a column")?;
    let (from, position) = (cursor.at(), cursor.position());
    let mut open = 0_usize;
    loop {
        match cursor.peek() {
            Token::LParen | Token::Lt | Token::LBracket => open += 1,
            Token::RParen | Token::Comma if open == 0 => break,
            Token::RParen | Token::Gt | Token::RBracket => open = open.saturating_sub(1),
            Token::ShiftRight => open = open.saturating_sub(2),
            Token::EOF => break,
            _ if open == 0 && AFTER_A_TYPE.iter().any(|word| cursor.is(word)) => break,
            _ => {}
        }
        cursor.advance();
    }
    if cursor.at() == from {
        return Err(cursor.expected("a type"));
    }
    let data_type = match parse_type(cursor.tokens(), from, cursor.at())? {
        ast::DataType::Custom(name, _) => {
            return Err(Error::invalid(format!("type \"{name}\" is not known")).at(position.line, position.column));
        }
        // The names that SHOW has for it, and others.
        ast::DataType::Varbinary(_) | ast::DataType::Binary(_) | ast::DataType::Blob(_) => ast::DataType::Bytea,
        known => known,
    };
    let mut not_null = false;
    loop {
        if cursor.take("NOT NULL") {
            not_null = true;
        } else if let Some(word) = AFTER_A_TYPE.iter().find(|word| cursor.is(word)) {
            if !cursor.take("NULL") {
                return Err(cursor.unsupported(format_args!("{word} of a column")));
            }
        } else {
            return Ok(NewColumn { name, data_type, not_null, position });
        }
    }
}

/// A query of these columns that has no rows.
fn no_rows(cursor: &Cursor<'_>, columns: &[NewColumn], place: Position) -> Result<Query> {
    let shape = || Error::internal("a SELECT that is none");
    let parsed = lazaret_catalog::governed::parse::query("SELECT CAST(NULL AS INT) AS a WHERE false").map_err(Error::internal)?;
    let ast::Statement::Query(mut ast) = parsed else { return Err(shape()) };
    let ast::SetExpr::Select(select) = ast.body.as_mut() else { return Err(shape()) };
    let Some(ast::SelectItem::ExprWithAlias { expr: ast::Expr::Cast { .. }, .. }) = select.projection.first() else { return Err(shape()) };
    let template = select.projection.remove(0);
    for column in columns {
        let mut item = template.clone();
        if let ast::SelectItem::ExprWithAlias { expr: ast::Expr::Cast { data_type, .. }, alias } = &mut item {
            *data_type = column.data_type.clone();
            *alias = ast::Ident::with_quote('"', column.name.as_str());
        }
        select.projection.push(item);
    }
    let text = cursor.tokens().text(cursor.tokens().at(place), cursor.at()).to_owned();
    Ok(Query { ast, text, parameters: 0, repeated: Vec::new() })
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
    let query = parse_relation(cursor, parameters)?;
    Ok(Statement::CreateView(Box::new(CreateView { name, or_replace, query })))
}
