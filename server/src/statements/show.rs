//! SHOW and DESCRIBE of what the namespace shows this principal.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::CatalogProviderList;
use lazaret_auth::grant::authorize;
use lazaret_auth::{ObjectPath, Privilege};
use lazaret_catalog::governed::GovernedTable;
use lazaret_catalog::meta::{Definition, Relation, TableFormat};
use lazaret_catalog::namespace::Namespace;

use super::StatementContext;
use super::objects::{find_catalog, find_schema, kind_of};
use super::session::shown_settings;
use crate::engine::failure::from_datafusion;
use crate::error::{Error, Result};
use crate::sql::names::is_reserved_schema;
use crate::sql::statement::{RelationKind, Show};
use crate::sql::types::{quoted, sql_type};
use crate::sql::{ObjectName, RelationPath, SchemaPath};

const YES: &str = "YES";
const NO: &str = "NO";

/// `None` where a cell is NULL.
type Row<const N: usize> = [Option<String>; N];

const CATALOGS: [&str; 1] = ["catalog_name"];
const SCHEMAS: [&str; 2] = ["catalog_name", "schema_name"];
const TABLES: [&str; 4] = ["table_catalog", "table_schema", "table_name", "table_type"];
const COLUMNS: [&str; 7] = ["table_catalog", "table_schema", "table_name", "column_name", "data_type", "is_nullable", "comment"];
const DEFINITIONS: [&str; 4] = ["table_catalog", "table_schema", "table_name", "definition"];
const SETTINGS: [&str; 3] = ["name", "value", "description"];
const WARNINGS: [&str; 1] = ["message"];
const DESCRIPTION: [&str; 4] = ["column_name", "data_type", "is_nullable", "comment"];

/// `None`: not shown from here.
pub fn schema_of(show: &Show) -> Option<SchemaRef> {
    Some(match show {
        Show::Catalogs => texts(CATALOGS),
        Show::Schemas(_) => texts(SCHEMAS),
        Show::Tables(_) => texts(TABLES),
        Show::Columns(_) => texts(COLUMNS),
        Show::CreateTable(_) => texts(DEFINITIONS),
        Show::Settings => texts(SETTINGS),
        Show::Warnings => texts(WARNINGS),
        Show::Users
        | Show::Tokens(_)
        | Show::Roles
        | Show::Grants(_)
        | Show::Policies(_)
        | Show::MaskingPolicies(_)
        | Show::EmergencyAccess
        | Show::EffectivePolicies { .. } => return None,
    })
}

pub fn describe_schema() -> SchemaRef {
    texts(DESCRIPTION)
}

pub async fn show(context: &StatementContext, namespace: &Namespace, show: &Show) -> Result<RecordBatch> {
    match show {
        Show::Catalogs => {
            let catalogs = namespace.visible_catalogs().into_iter().map(|catalog| [Some(catalog.name.clone())]);
            batch(CATALOGS, catalogs.collect())
        }
        Show::Schemas(catalog) => {
            let wanted = catalog.as_ref().map(|name| name.as_str());
            batch(SCHEMAS, schemas(context, namespace, wanted)?)
        }
        Show::Tables(schema) => batch(TABLES, tables(context, namespace, schema.as_ref()).await?),
        Show::Columns(name) => {
            let path = context.relation_path(name)?;
            let table = open(namespace, &path).await?;
            let row = |field: &Arc<Field>| {
                let [column, data_type, nullable, comment] = described(field);
                [Some(path.catalog.clone()), Some(path.schema.clone()), Some(path.name.clone()), column, data_type, nullable, comment]
            };
            batch(COLUMNS, columns_of(&table).fields().iter().map(row).collect())
        }
        Show::CreateTable(name) => {
            let path = context.relation_path(name)?;
            let definition = definition(context, namespace, &path).await?;
            batch(DEFINITIONS, vec![[Some(path.catalog), Some(path.schema), Some(path.name), Some(definition)]])
        }
        Show::Settings => {
            let settings = shown_settings(&context.session.state.lock());
            batch(SETTINGS, settings.into_iter().map(|it| [Some(it.name.to_owned()), Some(it.value), Some(it.about.to_owned())]).collect())
        }
        Show::Warnings => {
            let warnings = context.session.state.lock().warnings.clone();
            batch(WARNINGS, warnings.into_iter().map(|warning| [Some(warning)]).collect())
        }
        Show::Users
        | Show::Tokens(_)
        | Show::Roles
        | Show::Grants(_)
        | Show::Policies(_)
        | Show::MaskingPolicies(_)
        | Show::EmergencyAccess
        | Show::EffectivePolicies { .. } => Err(Error::internal("a SHOW that is answered elsewhere")),
    }
}

pub async fn describe(context: &StatementContext, namespace: &Namespace, name: &ObjectName) -> Result<RecordBatch> {
    let table = open(namespace, &context.relation_path(name)?).await?;
    batch(DESCRIPTION, columns_of(&table).fields().iter().map(described).collect())
}

/// A catalog that was named must be there; the session's may be one that the principal does not see.
fn schemas(context: &StatementContext, namespace: &Namespace, catalog: Option<&str>) -> Result<Vec<Row<2>>> {
    let state = namespace.state();
    let rights = context.authority(state.as_ref());
    let session = context.session.state.lock().catalog.clone();
    let found = match (find_catalog(state, &rights, catalog.unwrap_or(&session)), catalog) {
        (Ok(found), _) => found,
        (Err(error), Some(_)) => return Err(error),
        (Err(_), None) => return Ok(Vec::new()),
    };
    let stored = namespace.visible_schemas(found).into_iter().map(|schema| schema.name.clone());
    let mut names: Vec<String> = stored.chain(namespace.reserved_schemas().map(str::to_owned)).collect();
    names.sort();
    Ok(names.into_iter().map(|name| [Some(found.name.clone()), Some(name)]).collect())
}

async fn tables(context: &StatementContext, namespace: &Namespace, schema: Option<&ObjectName>) -> Result<Vec<Row<4>>> {
    let state = namespace.state();
    let rights = context.authority(state.as_ref());
    let path = match schema {
        Some(name) => context.schema_path(name)?,
        None => {
            let session = context.session.state.lock();
            SchemaPath { catalog: session.catalog.clone(), schema: session.schema.clone() }
        }
    };
    let row =
        |name: String, table_type: &str| [Some(path.catalog.clone()), Some(path.schema.clone()), Some(name), Some(table_type.to_owned())];
    if is_reserved_schema(&path.schema) {
        find_catalog(state, &rights, &path.catalog)?;
        let names = namespace.catalog(&path.catalog).and_then(|it| it.schema(&path.schema)).map(|it| it.table_names());
        return Ok(names.unwrap_or_default().into_iter().map(|name| row(name, "SYSTEM TABLE")).collect());
    }
    match (find_schema(state, &rights, &path), schema) {
        (Ok(found), _) => {
            let relations = namespace.visible_relations(found).into_iter();
            Ok(relations.map(|relation| row(relation.name.clone(), table_type(relation))).collect())
        }
        (Err(error), Some(_)) => Err(error),
        (Err(_), None) => Ok(Vec::new()),
    }
}

/// `TABLE` or `VIEW`.
fn table_type(relation: &Relation) -> &'static str {
    match kind_of(relation) {
        RelationKind::Table => "TABLE",
        RelationKind::View => "VIEW",
    }
}

async fn open(namespace: &Namespace, path: &RelationPath) -> Result<Arc<GovernedTable>> {
    let table = namespace.table(&path.catalog, &path.schema, &path.name).await.map_err(from_datafusion)?;
    table.ok_or_else(|| Error::not_found("table", path))
}

/// The granted columns.
fn columns_of(table: &GovernedTable) -> SchemaRef {
    datafusion::catalog::TableProvider::schema(table)
}

fn described(field: &Arc<Field>) -> Row<4> {
    let nullable = if field.is_nullable() { YES } else { NO };
    [Some(field.name().clone()), Some(sql_type(field.data_type())), Some(nullable.to_owned()), comment(field).map(str::to_owned)]
}

/// As Delta and Iceberg keep it.
fn comment(field: &Field) -> Option<&str> {
    field.metadata().get("comment").or_else(|| field.metadata().get("doc")).map(String::as_str)
}

/// A statement that would make the relation. Where its files are, and what a view's query says, is for those who may
/// manage it: both name what others may not know of.
async fn definition(context: &StatementContext, namespace: &Namespace, path: &RelationPath) -> Result<String> {
    if is_reserved_schema(&path.schema) {
        open(namespace, path).await?;
        return Err(Error::invalid(format!("\"{path}\" is a table of the server: no statement makes it")));
    }
    let found = namespace.find(&path.catalog, &path.schema, &path.name);
    let (relation, object) = found.ok_or_else(|| Error::not_found("table", path))?;
    let name = [&path.catalog, &path.schema, &path.name].map(|part| quoted(part)).join(".");
    let manages = manages(context, namespace, object);
    match &relation.definition {
        Definition::View { query, .. } if manages => Ok(format!("CREATE VIEW {name} AS {query}")),
        Definition::View { .. } => Err(Error::denied(format!("MANAGE on view \"{path}\" is required"))),
        Definition::Table { format, location, managed, options, .. } => {
            if !managed && manages {
                return Ok(external_table(&name, *format, location, options));
            }
            let table = open(namespace, path).await?;
            let columns: Vec<_> = columns_of(&table).fields().iter().map(|field| format!("  {}", column(field))).collect();
            Ok(format!("CREATE TABLE {name} (\n{}\n) USING {}", columns.join(",\n"), format_name(*format)))
        }
    }
}

fn manages(context: &StatementContext, namespace: &Namespace, path: ObjectPath) -> bool {
    let state = namespace.state();
    authorize(state.as_ref(), &context.authority(state.as_ref()), path, Privilege::Manage).is_ok()
}

fn external_table(name: &str, format: TableFormat, location: &str, options: &std::collections::BTreeMap<String, String>) -> String {
    let mut text = format!("CREATE EXTERNAL TABLE {name} STORED AS {} LOCATION {}", format_name(format), literal(location));
    if !options.is_empty() {
        let options: Vec<_> = options.iter().map(|(key, value)| format!("{} {}", literal(key), literal(value))).collect();
        text.push_str(&format!(" OPTIONS ({})", options.join(", ")));
    }
    text
}

fn column(field: &Field) -> String {
    let not_null = if field.is_nullable() { "" } else { " NOT NULL" };
    let comment = comment(field).map(|text| format!(" COMMENT {}", literal(text))).unwrap_or_default();
    format!("{} {}{not_null}{comment}", quoted(field.name()), sql_type(field.data_type()))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn format_name(format: TableFormat) -> &'static str {
    match format {
        TableFormat::Delta => "DELTA",
        TableFormat::Iceberg => "ICEBERG",
        TableFormat::Parquet => "PARQUET",
        TableFormat::Csv => "CSV",
        TableFormat::Json => "JSON",
    }
}

fn texts<const N: usize>(names: [&str; N]) -> SchemaRef {
    Arc::new(Schema::new(names.map(|name| Field::new(name, DataType::Utf8, name == "comment")).to_vec()))
}

fn batch<const N: usize>(names: [&str; N], rows: Vec<Row<N>>) -> Result<RecordBatch> {
    let column = |index: usize| -> ArrayRef { Arc::new(rows.iter().map(|row| row[index].as_deref()).collect::<StringArray>()) };
    RecordBatch::try_new(texts(names), (0..N).map(column).collect()).map_err(Error::internal)
}
