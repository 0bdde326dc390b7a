//! The catalog in Flight SQL's tables. Their schemas are compared exactly by ADBC, down to the nullability.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::sql::metadata::{SqlInfoDataBuilder, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Command, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTables, CommandGetXdbcTypeInfo};

use crate::engine::objects::ObjectFilter;
use crate::error::{Error, Result};
use crate::flight::outgoing::schema_bytes;
use crate::flight::sql_engine::SqlEngine;
use crate::flight::sql_info::SqlInfo;
use crate::flight::type_info::{TypeInfo, described_schema};
use crate::session::Session;

/// In the order in which they are listed.
const TABLE_TYPES: [&str; 3] = ["SYSTEM TABLE", "TABLE", "VIEW"];

/// A metadata command. All of them answer FlightInfo, GetSchema and DoGet from here.
#[derive(Debug)]
pub enum MetadataCommand {
    Catalogs,
    Schemas(CommandGetDbSchemas),
    Tables(CommandGetTables),
    TableTypes,
    SqlInfo(CommandGetSqlInfo),
    TypeInfo(CommandGetXdbcTypeInfo),
    PrimaryKeys,
    /// Exported, imported and cross references have one schema.
    ForeignKeys,
}

/// What does not depend on who asks.
pub struct ServerMetadata {
    pub sql_info: SqlInfo,
    pub type_info: TypeInfo,
}

impl MetadataCommand {
    /// Gives the command back if it is not one of metadata.
    pub fn from_command(command: Command) -> Result<Self, Box<Command>> {
        Ok(match command {
            Command::CommandGetCatalogs(_) => Self::Catalogs,
            Command::CommandGetDbSchemas(command) => Self::Schemas(command),
            Command::CommandGetTables(command) => Self::Tables(command),
            Command::CommandGetTableTypes(_) => Self::TableTypes,
            Command::CommandGetSqlInfo(command) => Self::SqlInfo(command),
            Command::CommandGetXdbcTypeInfo(command) => Self::TypeInfo(command),
            Command::CommandGetPrimaryKeys(_) => Self::PrimaryKeys,
            Command::CommandGetExportedKeys(_) | Command::CommandGetImportedKeys(_) | Command::CommandGetCrossReference(_) => {
                Self::ForeignKeys
            }
            other => return Err(Box::new(other)),
        })
    }

    pub fn schema(&self) -> SchemaRef {
        let required = |name: &str| Field::new(name, DataType::Utf8, false);
        let optional = |name: &str| Field::new(name, DataType::Utf8, true);
        let fields = match self {
            Self::Catalogs => vec![required("catalog_name")],
            Self::Schemas(_) => vec![optional("catalog_name"), required("db_schema_name")],
            Self::Tables(command) => {
                let mut fields = vec![optional("catalog_name"), optional("db_schema_name"), required("table_name"), required("table_type")];
                if command.include_schema {
                    fields.push(Field::new("table_schema", DataType::Binary, false));
                }
                fields
            }
            Self::TableTypes => vec![required("table_type")],
            Self::SqlInfo(_) => return Arc::new(SqlInfoDataBuilder::schema().clone()),
            Self::TypeInfo(_) => return XdbcTypeInfoDataBuilder::new().schema(),
            Self::PrimaryKeys => vec![
                optional("catalog_name"),
                optional("db_schema_name"),
                required("table_name"),
                required("column_name"),
                Field::new("key_sequence", DataType::Int32, false),
                optional("key_name"),
            ],
            Self::ForeignKeys => vec![
                optional("pk_catalog_name"),
                optional("pk_db_schema_name"),
                required("pk_table_name"),
                required("pk_column_name"),
                optional("fk_catalog_name"),
                optional("fk_db_schema_name"),
                required("fk_table_name"),
                required("fk_column_name"),
                Field::new("key_sequence", DataType::Int32, false),
                optional("fk_key_name"),
                optional("pk_key_name"),
                Field::new("update_rule", DataType::UInt8, false),
                Field::new("delete_rule", DataType::UInt8, false),
            ],
        };
        Arc::new(Schema::new(fields))
    }

    pub async fn rows(&self, server: &ServerMetadata, engine: &dyn SqlEngine, session: &Arc<Session>) -> Result<RecordBatch> {
        let columns = match self {
            Self::SqlInfo(command) => return server.sql_info.batch(&command.info),
            Self::TypeInfo(command) => return server.type_info.batch(command.data_type),
            // Lake tables have no keys.
            Self::PrimaryKeys | Self::ForeignKeys => return Ok(RecordBatch::new_empty(self.schema())),
            Self::TableTypes => vec![texts(TABLE_TYPES)],
            Self::Catalogs => {
                let mut catalogs = engine.visible_catalogs(session).await?;
                catalogs.sort();
                vec![texts(&catalogs)]
            }
            Self::Schemas(command) => schemas(command, engine, session).await?,
            Self::Tables(command) => tables(command, engine, session).await?,
        };
        RecordBatch::try_new(self.schema(), columns).map_err(Error::internal)
    }
}

async fn schemas(command: &CommandGetDbSchemas, engine: &dyn SqlEngine, session: &Arc<Session>) -> Result<Vec<ArrayRef>> {
    let filter = ObjectFilter {
        catalog: command.catalog.clone(),
        schema_pattern: command.db_schema_filter_pattern.clone(),
        ..ObjectFilter::default()
    };
    let mut schemas = engine.visible_schemas(session, &filter).await?;
    schemas.retain(|(catalog, schema)| filter.matches_catalog(catalog) && filter.matches_schema(schema));
    schemas.sort();
    Ok(vec![texts(schemas.iter().map(|(catalog, _)| catalog)), texts(schemas.iter().map(|(_, schema)| schema))])
}

async fn tables(command: &CommandGetTables, engine: &dyn SqlEngine, session: &Arc<Session>) -> Result<Vec<ArrayRef>> {
    let filter = ObjectFilter {
        catalog: command.catalog.clone(),
        schema_pattern: command.db_schema_filter_pattern.clone(),
        name_pattern: command.table_name_filter_pattern.clone(),
        table_types: command.table_types.clone(),
        with_columns: command.include_schema,
    };
    let mut objects = engine.visible_objects(session, &filter).await?;
    objects.retain(|object| filter.matches(&object.catalog, &object.schema, &object.name, object.table_type));
    objects.sort_by(|a, b| (&a.catalog, &a.schema, &a.name).cmp(&(&b.catalog, &b.schema, &b.name)));
    let mut columns = vec![
        texts(objects.iter().map(|object| &object.catalog)),
        texts(objects.iter().map(|object| &object.schema)),
        texts(objects.iter().map(|object| &object.name)),
        texts(objects.iter().map(|object| object.table_type)),
    ];
    if command.include_schema {
        let empty = Arc::new(Schema::empty());
        let described = objects.iter().map(|object| {
            let columns = object.columns.as_ref().unwrap_or(&empty);
            schema_bytes(&described_schema(&object.catalog, &object.schema, &object.name, columns))
        });
        let described = described.collect::<Result<Vec<_>>>()?;
        columns.push(Arc::new(BinaryArray::from_iter_values(described)));
    }
    Ok(columns)
}

fn texts<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}
