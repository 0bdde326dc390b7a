//! A place to try attacks: one table with hidden rows, in Parquet files and in memory, and a copy that holds only what the
//! principal may see.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use lazaret_auth::policy::BoundColumn;
use lazaret_auth::{
    Authority, CatalogId, CredentialKind, GrantId, Grantee, MaskKey, Masking, MaskingPolicy, ObjectId, PolicyCommand, PolicyId, PolicyKind,
    PolicySubqueries, Principal, PrincipalName, Privilege, PrivilegeGrant, RowPolicy, SchemaId, TableId,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::caches::{CacheLimits, Caches};
use crate::governed::bind::bound_columns;
use crate::governed::sabotage::Sabotage;
use crate::governed::{NewMask, PolicyBinder, session_config, with_careful_planning};
use crate::lake::{Lake, LakeError, LakeTable, OpenTable, TableSource};
use crate::meta::{Catalog, Definition, Entity, Relation, Schema as StoredSchema, State, TableFormat};
use crate::namespace::{FixedQueryKey, Namespace, TableOpener};
use crate::stores::{Stores, StoresConfig};
use crate::write::{NewTable, create_table_as};

/// Files of the table; file `i` holds the regions `i` and `i + 10`, by turns.
pub const FILES: i64 = 6;
/// Rows of a file, in row groups of a quarter.
pub const FILE_ROWS: i64 = 2000;
/// What every hidden text contains.
pub const SECRET: &str = "secret";

/// The principal under policy sees region 2: half of one file. No visible row has `x = 5`, every hidden one does; every
/// visible `s` is a number, every hidden one is not; visible `id`s are even.
pub fn rows(file: i64) -> RecordBatch {
    let ids: Vec<i64> = (file * FILE_ROWS..(file + 1) * FILE_ROWS).collect();
    let region = |id: &i64| (file + if id % 2 == 0 { 0 } else { 10 }) as i32;
    let visible = |id: &i64| region(id) == 2;
    let mut tags = ListBuilder::new(StringBuilder::new());
    for id in &ids {
        let tag = if visible(id) { id.to_string() } else { format!("{SECRET}{id}") };
        tags.append_value([Some(tag), Some("1".to_owned())]);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(Int32Array::from_iter_values(ids.iter().map(region))),
        Arc::new(Int32Array::from_iter_values(ids.iter().map(|id| if visible(id) { (id % 97) as i32 + 6 } else { 5 }))),
        Arc::new(StringArray::from_iter_values(ids.iter().map(|id| if visible(id) { id.to_string() } else { format!("{SECRET}{id}") }))),
        Arc::new(StringArray::from_iter(ids.iter().map(|id| (id % 3 != 0).then(|| format!("n{}", id % 11))))),
        Arc::new(Date32Array::from_iter_values(ids.iter().map(|id| 10_000 + (id % 365) as i32))),
        Arc::new(tags.finish()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

pub fn schema() -> SchemaRef {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("region", DataType::Int32, true),
        Field::new("x", DataType::Int32, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("note", DataType::Utf8, true),
        Field::new("d", DataType::Date32, true),
        Field::new("tags", list, true),
    ]))
}

pub fn memory_table() -> Arc<dyn TableProvider> {
    let partitions = (0..FILES).map(|file| vec![rows(file)]).collect();
    Arc::new(MemTable::try_new(schema(), partitions).unwrap())
}

pub async fn parquet_table(folder: &Path) -> Arc<dyn TableProvider> {
    for file in 0..FILES {
        let out = std::fs::File::create(folder.join(format!("part-{file}.parquet"))).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(FILE_ROWS as usize / 4)).build();
        let mut writer = ArrowWriter::try_new(out, schema(), Some(properties)).unwrap();
        writer.write(&rows(file)).unwrap();
        writer.close().unwrap();
    }
    let url = ListingTableUrl::parse(format!("{}/", folder.display())).unwrap();
    let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension("parquet");
    let state = SessionContext::new().state();
    let schema = options.infer_schema(&state, &url).await.unwrap();
    Arc::new(ListingTable::try_new(ListingTableConfig::new(url).with_listing_options(options).with_schema(schema)).unwrap())
}

/// The rows as a Delta table, opened as the server opens it.
pub async fn delta_table(folder: &Path) -> Arc<dyn TableProvider> {
    let stores = Arc::new(Stores::new(StoresConfig { warehouse: folder.join("warehouse"), ..StoresConfig::default() }));
    let id = TableId::generate();
    let table = NewTable { id, schema: schema(), partition_by: vec!["region".to_owned()], comment: None };
    let batches = futures::stream::iter((0..FILES).map(|file| Ok(rows(file))));
    let created = create_table_as(&stores, table, batches).await.unwrap();
    let lake = Lake::new(stores, Arc::new(Caches::new(CacheLimits::default())));
    let source = TableSource { id, format: TableFormat::Delta, location: created.location, options: Default::default() };
    lake.open(&source).await.unwrap().provider
}

struct Opened {
    tables: HashMap<TableId, Arc<dyn TableProvider>>,
    /// Opens the tables in Delta, each time anew, with its caches.
    lake: Option<Arc<Lake>>,
}

#[async_trait]
impl TableOpener for Opened {
    async fn open(&self, source: &TableSource) -> Result<OpenTable, LakeError> {
        if let (TableFormat::Delta, Some(lake)) = (source.format, &self.lake) {
            return lake.open(source).await;
        }
        match self.tables.get(&source.id) {
            Some(provider) => Ok(OpenTable { provider: Arc::clone(provider), snapshot: None }),
            None => Err(LakeError::Corrupt { file: "/lake/hidden/path.json".to_owned(), reason: "test".to_owned() }),
        }
    }
}

/// Catalog `lake`, schema `public`, and in it what a test puts there.
pub struct Lab {
    pub catalog: CatalogId,
    pub schema: SchemaId,
    entities: Vec<Entity>,
    tables: HashMap<TableId, Arc<dyn TableProvider>>,
    pub lake: Option<Arc<Lake>>,
    /// Only those that the oracle's queries call: every statement copies them all.
    pub few_functions: bool,
    /// With which the masks hash, in every statement: the server's key, and the query's.
    pub mask_keys: Option<(MaskKey, MaskKey)>,
    pub sabotage: Option<Sabotage>,
    /// As if somebody had turned the row filter of Parquet on.
    pub parquet_pushdown: bool,
    pub target_partitions: usize,
    pub batch_size: usize,
}

impl Lab {
    pub fn new() -> Self {
        let (catalog, schema) = (CatalogId::generate(), SchemaId::generate());
        let entities = vec![
            Entity::Catalog(Catalog { id: catalog, name: "lake".to_owned(), owner: PrincipalName::local("admin") }),
            Entity::Schema(StoredSchema { id: schema, catalog, name: "public".to_owned(), owner: PrincipalName::local("admin") }),
        ];
        Self {
            catalog,
            schema,
            entities,
            tables: HashMap::new(),
            lake: None,
            few_functions: false,
            mask_keys: None,
            sabotage: None,
            parquet_pushdown: false,
            target_partitions: 4,
            batch_size: 512,
        }
    }

    pub fn table(&mut self, name: &str, provider: Arc<dyn TableProvider>, row_security: bool) -> TableId {
        let definition = Definition::Table {
            format: TableFormat::Parquet,
            location: location_of(provider.as_ref()).unwrap_or_else(|| format!("file:///{name}/")),
            managed: false,
            options: Default::default(),
            outside: Vec::new(),
        };
        let id = self.relation(name, "admin", definition, row_security);
        self.tables.insert(id, provider);
        id
    }

    /// In another schema: policies on `public` are not for it.
    pub fn table_aside(&mut self, schema: &str, name: &str, provider: Arc<dyn TableProvider>, row_security: bool) -> TableId {
        let aside = SchemaId::generate();
        let (catalog, owner) = (self.catalog, PrincipalName::local("admin"));
        self.entities.push(Entity::Schema(StoredSchema { id: aside, catalog, name: schema.to_owned(), owner }));
        let id = self.table(name, provider, row_security);
        if let Some(Entity::Relation(relation)) = self.entities.last_mut() {
            relation.schema = aside;
        }
        id
    }

    /// A Delta table at the location, to be opened by the lake.
    pub fn delta(&mut self, name: &str, location: String, row_security: bool) -> TableId {
        let definition =
            Definition::Table { format: TableFormat::Delta, location, managed: true, options: Default::default(), outside: Vec::new() };
        self.relation(name, "admin", definition, row_security)
    }

    /// What was put in last, to be changed.
    pub fn last(&mut self) -> &mut Entity {
        self.entities.last_mut().unwrap()
    }

    /// As a table that was there before, with a policy that is kept.
    pub fn table_with_id(&mut self, id: TableId, name: &str, provider: Arc<dyn TableProvider>, row_security: bool) -> TableId {
        let made = self.table(name, Arc::clone(&provider), row_security);
        let Some(Entity::Relation(relation)) = self.entities.last_mut() else { unreachable!() };
        relation.id = id;
        self.tables.remove(&made);
        self.tables.insert(id, provider);
        id
    }

    pub fn view(&mut self, name: &str, owner: &str, query: &str, row_security: bool) -> TableId {
        let definition = Definition::View {
            query: query.to_owned(),
            catalog: "lake".to_owned(),
            schema: "public".to_owned(),
            owner_groups: Default::default(),
        };
        self.relation(name, owner, definition, row_security)
    }

    pub fn relation(&mut self, name: &str, owner: &str, definition: Definition, row_security: bool) -> TableId {
        let id = TableId::generate();
        let (name, owner) = (name.to_owned(), PrincipalName::local(owner));
        self.entities.push(Entity::Relation(Relation { id, schema: self.schema, name, owner, definition, row_security, comment: None }));
        id
    }

    pub fn grant(&mut self, user: &str, object: ObjectId, privilege: Privilege, columns: Option<&[&str]>) {
        self.entities.push(Entity::PrivilegeGrant(PrivilegeGrant {
            id: GrantId::generate(),
            object,
            privilege,
            grantee: Grantee::User(PrincipalName::local(user)),
            columns: columns.map(|columns| columns.iter().map(|column| (*column).to_owned()).collect()),
            deny: false,
            grant_option: false,
            grantor: PrincipalName::local("admin"),
        }));
    }

    pub fn policy(&mut self, object: ObjectId, kind: PolicyKind, to: Grantee, using: &str, schema: &Schema) {
        let columns = self.bind(using, schema);
        self.policy_bound(object, kind, to, using, columns);
    }

    pub fn policy_bound(&mut self, object: ObjectId, kind: PolicyKind, to: Grantee, using: &str, columns: Vec<BoundColumn>) {
        self.entities.push(Entity::Policy(RowPolicy {
            id: PolicyId::generate(),
            name: format!("p{}", self.entities.len()),
            object,
            kind,
            command: PolicyCommand::Select,
            to: vec![to],
            except: Vec::new(),
            using: Some(using.to_owned()),
            with_check: None,
            columns,
            subqueries: None,
            creator: PrincipalName::local("admin"),
            version: 1,
            comment: None,
        }));
    }

    /// As CREATE MASKING POLICY does it.
    pub fn mask(&mut self, table: TableId, columns: &[&str], to: Grantee, masking: Masking, schema: &Schema) {
        let namespace = self.namespace("admin");
        let bound = PolicyBinder::new(&namespace.session_state()).bind_new_mask(&masking, columns, schema).unwrap();
        self.mask_bound(table, to, masking, bound);
    }

    pub fn mask_bound(&mut self, table: TableId, to: Grantee, masking: Masking, bound: NewMask) {
        self.entities.push(Entity::MaskingPolicy(MaskingPolicy {
            id: PolicyId::generate(),
            name: format!("m{}", self.entities.len()),
            table,
            columns: bound.columns,
            to: vec![to],
            except: Vec::new(),
            masking,
            reads: bound.reads,
            priority: 0,
            creator: PrincipalName::local("admin"),
            version: 1,
            comment: None,
        }));
    }

    /// A policy of admin's whose text asks other tables, made as CREATE POLICY makes it.
    pub async fn policy_asking(&mut self, object: ObjectId, kind: PolicyKind, to: Grantee, using: &str, relation: &str, schema: &Schema) {
        let names = self.namespace_of(|state| Authority::stored(state, &PrincipalName::local("admin")));
        let binding = names.bind_new_policy(relation, using, schema).await.unwrap();
        let using_columns = binding.columns.iter().map(|column| column.name.clone()).collect();
        self.policy_bound(object, kind, to, using, binding.columns);
        let Some(Entity::Policy(policy)) = self.entities.last_mut() else { unreachable!() };
        policy.subqueries = binding.reads.map(|reads| PolicySubqueries {
            catalog: "lake".to_owned(),
            schema: "public".to_owned(),
            reads: reads.into_iter().collect(),
            using_columns,
            in_using: true,
            using_reads: None,
            check: None,
            creator_groups: Default::default(),
        });
    }

    /// As CREATE POLICY does it.
    pub fn bind(&self, using: &str, schema: &Schema) -> Vec<BoundColumn> {
        let namespace = self.namespace("admin");
        PolicyBinder::new(&namespace.session_state()).bind_new_policy(using, schema).unwrap()
    }

    /// `t` under the policy that the rows were made for, readable by ana without a policy in mind and by rui under it.
    pub fn with_governed_table(provider: Arc<dyn TableProvider>) -> (Self, TableId) {
        let mut lab = Self::new();
        let schema = provider.schema();
        let id = lab.table("t", provider, true);
        lab.grant("rui", ObjectId::Table(id), Privilege::Select, None);
        lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("rui"), "region = 2", &schema);
        (lab, id)
    }

    pub fn template(&self) -> SessionState {
        let config = SessionConfig::new().with_target_partitions(self.target_partitions).with_batch_size(self.batch_size);
        let mut config = session_config(config);
        let parquet = &mut config.options_mut().execution.parquet;
        (parquet.pushdown_filters, parquet.reorder_filters) = (self.parquet_pushdown, self.parquet_pushdown);
        if let Some((global, query)) = &self.mask_keys {
            config.set_extension(Arc::new(global.clone()));
            config.set_extension(Arc::new(FixedQueryKey(query.clone())));
        }
        if let Some(sabotage) = self.sabotage {
            config.set_extension(Arc::new(sabotage));
        }
        let builder = SessionStateBuilder::new().with_config(config).with_default_features();
        let builder = if self.few_functions { with_few_functions(builder) } else { builder };
        with_careful_planning(builder).build()
    }

    /// As [`Self::namespace`], for many statements of one user.
    pub fn namespaces(&self, user: &str) -> impl Fn() -> Namespace + use<> {
        let (template, state) = (self.template(), Arc::new(State::build(1, self.entities.clone()).unwrap()));
        let principal = Arc::new(Principal::local_user(user, CredentialKind::Password, None, None));
        let authority = Authority::of(state.as_ref(), principal);
        let opener = Arc::new(Opened { tables: self.tables.clone(), lake: self.lake.clone() });
        move || Namespace::new(Arc::clone(&state), authority.clone(), opener.clone(), template.clone(), "lake", "public").unwrap()
    }

    pub fn namespace(&self, user: &str) -> Namespace {
        let principal = Arc::new(Principal::local_user(user, CredentialKind::Password, None, None));
        self.namespace_of(|state| Authority::of(state, principal))
    }

    /// Takes away what was put in last.
    pub fn take_last(&mut self) -> Entity {
        self.entities.pop().unwrap()
    }

    pub fn put(&mut self, entity: Entity) {
        self.entities.push(entity);
    }

    /// A stored policy that nobody has tried to bind.
    pub fn policy_unchecked(&mut self, object: ObjectId, using: &str, reads: &[TableId], schema: &Schema) {
        let names = schema.fields().iter().map(|field| field.name().as_str()).collect();
        self.policy_bound(object, PolicyKind::Permissive, Grantee::All, using, bound_columns(schema, &names));
        let Some(Entity::Policy(policy)) = self.entities.last_mut() else { unreachable!() };
        let (catalog, schema) = ("lake".to_owned(), "public".to_owned());
        policy.subqueries = Some(PolicySubqueries {
            catalog,
            schema,
            reads: reads.to_vec(),
            using_columns: vec!["area".to_owned()],
            in_using: true,
            using_reads: None,
            check: None,
            creator_groups: Default::default(),
        });
    }

    fn namespace_of(&self, authority: impl FnOnce(&State) -> Authority) -> Namespace {
        let state = Arc::new(State::build(1, self.entities.clone()).unwrap());
        let authority = authority(state.as_ref());
        let opener = Arc::new(Opened { tables: self.tables.clone(), lake: self.lake.clone() });
        Namespace::new(state, authority, opener, self.template(), "lake", "public").unwrap()
    }

    pub async fn plan(&self, user: &str, sql: &str) -> Result<(Namespace, Arc<dyn ExecutionPlan>)> {
        let namespace = self.namespace(user);
        let state = namespace.session_state();
        let logical = state.create_logical_plan(sql).await?;
        namespace.verify_logical(&logical)?;
        let physical = state.create_physical_plan(&logical).await?;
        namespace.verify_physical(physical.as_ref())?;
        Ok((namespace, physical))
    }

    pub async fn run(&self, user: &str, sql: &str) -> Result<Vec<RecordBatch>> {
        let (namespace, plan) = self.plan(user, sql).await?;
        collect(plan, namespace.session_state().task_ctx()).await
    }

    /// The rows as sorted lines, or the error.
    pub async fn lines(&self, user: &str, sql: &str) -> Result<Vec<String>, DataFusionError> {
        self.run(user, sql).await.map(|batches| lines(&batches))
    }
}

const FEW_FUNCTIONS: [&str; 25] = [
    "abs",
    "array_agg",
    "array_length",
    "arrow_cast",
    "bool_or",
    "character_length",
    "coalesce",
    "concat",
    "count",
    "date_part",
    "dense_rank",
    "first_value",
    "lag",
    "lead",
    "lower",
    "ntile",
    "nullif",
    "replace",
    "row_number",
    "string_agg",
    "substr",
    "sum",
    "upper",
    "max",
    "min",
];

fn with_few_functions(builder: SessionStateBuilder) -> SessionStateBuilder {
    let few = |name: &str| FEW_FUNCTIONS.contains(&name);
    builder
        .with_scalar_functions(SessionStateDefaults::default_scalar_functions().into_iter().filter(|it| few(it.name())).collect())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions().into_iter().filter(|it| few(it.name())).collect())
        .with_window_functions(SessionStateDefaults::default_window_functions().into_iter().filter(|it| few(it.name())).collect())
}

/// Where [`delta_table`] lies: in the warehouse, under its id.
fn location_of(provider: &dyn TableProvider) -> Option<String> {
    let file = &provider.downcast_ref::<LakeTable>()?.snapshot().files.first()?.path;
    let (above, below) = file.as_ref().split_once("/warehouse/")?;
    Some(format!("file:///{above}/warehouse/{}/", below.split('/').next()?))
}

pub fn user(name: &str) -> Grantee {
    Grantee::User(PrincipalName::local(name))
}

pub fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let table = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<String> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join("|"))
        .collect();
    lines.sort();
    lines
}

/// The same names with only the visible rows in them, nothing governed.
pub async fn filtered_copy(tables: &[(&str, Arc<dyn TableProvider>, &str)], template: SessionState) -> SessionContext {
    let template = SessionStateBuilder::new_from_existing(template);
    let mut copy = template.build();
    let config = copy.config().clone().with_create_default_catalog_and_schema(true).with_default_catalog_and_schema("lake", "public");
    copy = SessionStateBuilder::new_from_existing(copy).with_config(config).build();
    let context = SessionContext::new_with_state(copy);
    for (name, provider, policy) in tables {
        let raw = SessionContext::new();
        raw.register_table("raw", Arc::clone(provider)).unwrap();
        let schema = provider.schema();
        let batches = raw.sql(&format!("SELECT * FROM raw WHERE {policy}")).await.unwrap().collect().await.unwrap();
        let table = MemTable::try_new(Arc::clone(&schema), vec![batches]).unwrap();
        context.register_table(*name, Arc::new(table)).unwrap();
    }
    context
}
