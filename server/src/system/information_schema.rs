//! `information_schema`, as the SQL standard has it, of what the one who asks may see.
//!
//! Drivers ask it for one table at a time, and listing columns opens tables: `table_schema = '…' AND table_name = '…'`
//! opens the one.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProviderList, SchemaProvider, TableProvider};
use futures::{FutureExt, StreamExt, stream};
use lazaret_auth::grant::authorize;
use lazaret_auth::{ObjectPath, Privilege};
use lazaret_catalog::meta::{Catalog, Definition, TableFormat};

use super::Viewer;
use super::computed::{Computed, Wanted};
use crate::error::{Error, Result};
use crate::sql::types::sql_type;

/// Tables that are opened at the same time for `columns`: each may wait for its store.
const OPEN_AT_A_TIME: usize = 8;

const YES: &str = "YES";
const NO: &str = "NO";

pub(super) struct InformationSchema {
    pub viewer: Viewer,
}

impl fmt::Debug for InformationSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InformationSchema").finish_non_exhaustive()
    }
}

/// The tables here. Lake tables have no keys, so that the last three stay empty; BI tools ask for them all the same.
#[derive(Clone, Copy)]
enum Listing {
    Schemata,
    Tables,
    Columns,
    Views,
    TableConstraints,
    KeyColumnUsage,
    ReferentialConstraints,
}

impl Listing {
    const EVERY: [Self; 7] = [
        Self::Columns,
        Self::KeyColumnUsage,
        Self::ReferentialConstraints,
        Self::Schemata,
        Self::TableConstraints,
        Self::Tables,
        Self::Views,
    ];

    fn named(name: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|listing| listing.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Schemata => "schemata",
            Self::Tables => "tables",
            Self::Columns => "columns",
            Self::Views => "views",
            Self::TableConstraints => "table_constraints",
            Self::KeyColumnUsage => "key_column_usage",
            Self::ReferentialConstraints => "referential_constraints",
        }
    }

    /// The columns; those with a `#` hold numbers, those with a `?` may be NULL.
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Schemata => &[
                "catalog_name",
                "schema_name",
                "schema_owner?",
                "default_character_set_catalog?",
                "default_character_set_schema?",
                "default_character_set_name?",
                "sql_path?",
            ],
            Self::Tables => &["table_catalog", "table_schema", "table_name", "table_type", "is_insertable_into"],
            Self::Columns => &[
                "table_catalog",
                "table_schema",
                "table_name",
                "column_name",
                "ordinal_position#",
                "column_default?",
                "is_nullable",
                "data_type",
                "character_maximum_length#?",
                "character_octet_length#?",
                "numeric_precision#?",
                "numeric_precision_radix#?",
                "numeric_scale#?",
                "datetime_precision#?",
                "is_identity",
                "is_generated",
                "is_updatable",
            ],
            Self::Views => &["table_catalog", "table_schema", "table_name", "view_definition?", "check_option", "is_updatable"],
            Self::TableConstraints => &[
                "constraint_catalog",
                "constraint_schema",
                "constraint_name",
                "table_catalog",
                "table_schema",
                "table_name",
                "constraint_type",
                "is_deferrable",
                "initially_deferred",
                "enforced",
            ],
            Self::KeyColumnUsage => &[
                "constraint_catalog",
                "constraint_schema",
                "constraint_name",
                "table_catalog",
                "table_schema",
                "table_name",
                "column_name",
                "ordinal_position#",
                "position_in_unique_constraint#?",
            ],
            Self::ReferentialConstraints => &[
                "constraint_catalog",
                "constraint_schema",
                "constraint_name",
                "unique_constraint_catalog?",
                "unique_constraint_schema?",
                "unique_constraint_name?",
                "match_option",
                "update_rule",
                "delete_rule",
            ],
        }
    }

    fn schema(self) -> SchemaRef {
        let field = |text: &&str| {
            let data_type = if text.contains('#') { DataType::Int32 } else { DataType::Utf8 };
            Field::new(text.trim_end_matches(['#', '?']), data_type, text.contains('?'))
        };
        Arc::new(Schema::new(self.columns().iter().map(field).collect::<Vec<_>>()))
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        Listing::EVERY.map(|listing| listing.name().to_owned()).to_vec()
    }

    async fn table(&self, name: &str) -> datafusion::error::Result<Option<Arc<dyn TableProvider>>> {
        let Some(listing) = Listing::named(name) else { return Ok(None) };
        let viewer = self.viewer.clone();
        let table = Computed::new(listing.schema(), move |wanted| {
            let viewer = viewer.clone();
            async move { viewer.list(listing, &wanted).await }.boxed()
        });
        Ok(Some(Arc::new(table)))
    }

    fn table_exist(&self, name: &str) -> bool {
        Listing::named(name).is_some()
    }
}

enum Cell {
    Text(String),
    Number(i32),
    Null,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A table of the listing, by name.
struct Listed {
    catalog: String,
    schema: String,
    name: String,
    /// As the standard has it: `BASE TABLE` or `VIEW`, and `SYSTEM TABLE` for our own.
    table_type: &'static str,
    /// Whether it is of the kind that takes rows, whoever adds them.
    insertable: bool,
}

impl Viewer {
    async fn list(&self, listing: Listing, wanted: &Wanted) -> Result<RecordBatch> {
        let rows = match listing {
            Listing::Schemata => self.schemata(),
            Listing::Tables => self.tables(wanted).iter().map(table_row).collect(),
            Listing::Columns => self.columns(wanted).await,
            Listing::Views => self.views(),
            Listing::TableConstraints | Listing::KeyColumnUsage | Listing::ReferentialConstraints => Vec::new(),
        };
        batch(listing.schema(), &rows)
    }

    fn schemata(&self) -> Vec<Vec<Cell>> {
        let mut rows = Vec::new();
        for catalog in self.namespace.visible_catalogs() {
            let row = |name: &str, owner: Cell| {
                vec![catalog.name.as_str().into(), name.into(), owner, Cell::Null, Cell::Null, Cell::Null, Cell::Null]
            };
            let stored = self.namespace.visible_schemas(catalog).into_iter();
            rows.extend(stored.map(|schema| row(&schema.name, Cell::Text(schema.owner.to_string()))));
            rows.extend(self.namespace.reserved_schemas().map(|name| row(name, Cell::Null)));
        }
        rows
    }

    fn tables(&self, wanted: &Wanted) -> Vec<Listed> {
        let mut tables = Vec::new();
        for catalog in self.namespace.visible_catalogs() {
            for schema in self.namespace.visible_schemas(catalog) {
                for relation in self.namespace.visible_relations(schema) {
                    let (table_type, insertable) = match relation.definition {
                        Definition::Table { format, .. } => ("BASE TABLE", format == TableFormat::Delta),
                        Definition::View { .. } => ("VIEW", false),
                    };
                    let (catalog, schema, name) = (catalog.name.clone(), schema.name.clone(), relation.name.clone());
                    tables.push(Listed { catalog, schema, name, table_type, insertable });
                }
            }
            tables.extend(self.reserved_tables(catalog));
        }
        tables.retain(|table| table.is_wanted(wanted));
        tables
    }

    fn reserved_tables(&self, catalog: &Catalog) -> Vec<Listed> {
        let Some(names) = self.namespace.catalog(&catalog.name) else { return Vec::new() };
        let listed = |schema: &str| {
            let tables = names.schema(schema).map(|provider| provider.table_names()).unwrap_or_default();
            let (catalog, schema) = (catalog.name.clone(), schema.to_owned());
            tables.into_iter().map(move |name| Listed {
                catalog: catalog.clone(),
                schema: schema.clone(),
                name,
                table_type: "SYSTEM TABLE",
                insertable: false,
            })
        };
        self.namespace.reserved_schemas().flat_map(listed).collect()
    }

    /// A table that cannot be opened, or read by this principal, has no columns here; the others have.
    async fn columns(&self, wanted: &Wanted) -> Vec<Vec<Cell>> {
        let opened = stream::iter(self.tables(wanted)).map(|table| async move {
            let schema = match self.namespace.table(&table.catalog, &table.schema, &table.name).await {
                Ok(Some(found)) => Some(found.schema()),
                Ok(None) | Err(_) => None,
            };
            (table, schema)
        });
        let opened: Vec<_> = opened.buffered(OPEN_AT_A_TIME).collect().await;
        let rows = opened.into_iter().filter_map(|(table, schema)| Some((table, schema?)));
        rows.flat_map(|(table, schema)| {
            let fields = schema.fields().iter().zip(1..);
            fields.map(|(field, position)| column_row(&table, field, position)).collect::<Vec<_>>()
        })
        .collect()
    }

    /// What a view's query says names what others may not know of: it is shown to those who may manage the view.
    fn views(&self) -> Vec<Vec<Cell>> {
        let state = self.namespace.state();
        let mut rows = Vec::new();
        for catalog in self.namespace.visible_catalogs() {
            for schema in self.namespace.visible_schemas(catalog) {
                for relation in self.namespace.visible_relations(schema) {
                    let Definition::View { query, .. } = &relation.definition else { continue };
                    let path = ObjectPath::table(catalog.id, schema.id, relation.id);
                    let manages = authorize(state.as_ref(), &self.rights, path, Privilege::Manage).is_ok();
                    let query = if manages { Cell::from(query.as_str()) } else { Cell::Null };
                    let name = [&catalog.name, &schema.name, &relation.name].map(|name| Cell::from(name.as_str()));
                    rows.push(name.into_iter().chain([query, "NONE".into(), NO.into()]).collect());
                }
            }
        }
        rows
    }
}

impl Listed {
    fn is_wanted(&self, wanted: &Wanted) -> bool {
        wanted.iter().all(|(column, text)| match column.as_str() {
            "table_catalog" => *text == self.catalog,
            "table_schema" => *text == self.schema,
            "table_name" => *text == self.name,
            _ => true,
        })
    }
}

fn table_row(table: &Listed) -> Vec<Cell> {
    let Listed { catalog, schema, name, table_type, insertable } = table;
    let insertable = if *insertable { YES } else { NO };
    vec![catalog.as_str().into(), schema.as_str().into(), name.as_str().into(), (*table_type).into(), insertable.into()]
}

fn column_row(table: &Listed, field: &Field, position: i32) -> Vec<Cell> {
    let Listed { catalog, schema, name, .. } = table;
    let number = |value: Option<i32>| value.map_or(Cell::Null, Cell::Number);
    let (precision, radix, scale) = numeric(field.data_type());
    vec![
        catalog.as_str().into(),
        schema.as_str().into(),
        name.as_str().into(),
        field.name().as_str().into(),
        Cell::Number(position),
        Cell::Null,
        if field.is_nullable() { YES } else { NO }.into(),
        Cell::Text(sql_type(field.data_type())),
        Cell::Null,
        Cell::Null,
        number(precision),
        number(radix),
        number(scale),
        number(datetime_precision(field.data_type())),
        NO.into(),
        "NEVER".into(),
        NO.into(),
    ]
}

/// Precision, its radix, and scale, as PostgreSQL counts them.
fn numeric(data_type: &DataType) -> (Option<i32>, Option<i32>, Option<i32>) {
    let bits = |bits: i32| (Some(bits), Some(2), Some(0));
    match data_type {
        DataType::Int8 | DataType::UInt8 => bits(8),
        DataType::Int16 | DataType::UInt16 => bits(16),
        DataType::Int32 | DataType::UInt32 => bits(32),
        DataType::Int64 | DataType::UInt64 => bits(64),
        DataType::Float16 | DataType::Float32 => (Some(24), Some(2), None),
        DataType::Float64 => (Some(53), Some(2), None),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => (Some(i32::from(*precision)), Some(10), Some(i32::from(*scale))),
        _ => (None, None, None),
    }
}

fn datetime_precision(data_type: &DataType) -> Option<i32> {
    match data_type {
        DataType::Date32 | DataType::Date64 => Some(0),
        DataType::Time32(unit) | DataType::Time64(unit) | DataType::Timestamp(unit, _) => Some(match unit {
            TimeUnit::Second => 0,
            TimeUnit::Millisecond => 3,
            TimeUnit::Microsecond => 6,
            TimeUnit::Nanosecond => 9,
        }),
        _ => None,
    }
}

fn batch(schema: SchemaRef, rows: &[Vec<Cell>]) -> Result<RecordBatch> {
    let text = |cell: &'_ Cell| match cell {
        Cell::Text(text) => Some(text.clone()),
        Cell::Number(_) | Cell::Null => None,
    };
    let number = |cell: &Cell| match cell {
        Cell::Number(number) => Some(*number),
        Cell::Text(_) | Cell::Null => None,
    };
    let column = |(index, field): (usize, &Arc<Field>)| -> ArrayRef {
        let cells = rows.iter().map(|row| row.get(index).unwrap_or(&Cell::Null));
        match field.data_type() {
            DataType::Int32 => Arc::new(cells.map(number).collect::<Int32Array>()),
            _ => Arc::new(cells.map(text).collect::<StringArray>()),
        }
    };
    let columns = schema.fields().iter().enumerate().map(column).collect();
    RecordBatch::try_new(schema, columns).map_err(Error::internal)
}
