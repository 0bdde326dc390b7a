//! The one oracle, generated: what a principal learns from a query over governed tables is what it would learn from the
//! same query over copies that hold only the visible rows, masked, and only the columns that are its own.
//!
//! `LAZARET_ORACLE_WORLDS` and `LAZARET_ORACLE_SEED` choose how many worlds, and which; a failure prints its seed, and a
//! transcript of the smallest world and query that still show it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::TableProvider;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use lazaret_auth::{Grantee, MaskAction, MaskKey, Masking, ObjectId, PolicyCommand, PolicyKind, Privilege, TableId};
use lazaret_oracle::{
    Action, Audience, Container, Dice, OTHER, Parameter, Policy, Query, READER, Rows, SECRET, Scene, Shrinker, Table, World, words,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tokio::sync::OnceCell;

use super::ScanFailure;
use super::lab::{Lab, lines, user};
use super::sabotage::Sabotage;
use crate::caches::{CacheLimits, Caches};
use crate::lake::{Lake, TableSource};
use crate::meta::{Entity, TableFormat};
use crate::namespace::Namespace;
use crate::stores::{Stores, StoresConfig};
use crate::write::{NewTable, create_table_as};

/// With this many queries each, and each of them run in two ways on the governed side, 20,000 pairs in all.
const WORLDS: u64 = 400;

const QUERIES: usize = 25;
const WAYS: usize = 2;

/// How often the governed side is asked for an error without its hidden rows.
const ROUNDS: usize = 10;

/// In which of them an injected defect must show.
const SABOTAGED_WORLDS: u64 = 60;

/// How many smaller worlds and queries are tried where there is a difference, and where it was put in.
const ATTEMPTS: usize = 600;
const SABOTAGED_ATTEMPTS: usize = 60;

const SCENE: Scene = Scene { hashes: true, catalog: true };

/// Batch sizes, partitions, and whether its files come last first: a copy may fail under them where the governed side did.
const VARIANTS: [(usize, usize, bool); 9] = [
    (8192, 1, false),
    (8192, 4, false),
    (1, 1, false),
    (3, 4, false),
    (7, 2, false),
    (64, 4, false),
    (8192, 1, true),
    (1, 1, true),
    (3, 4, true),
];

/// Where the rows of a world lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    Memory,
    /// Files with a few rows in each row group.
    Parquet(usize),
    /// Opened by the lake for each statement, and first by somebody else.
    Delta,
}

/// How the engine cuts up the work of the governed side.
#[derive(Clone, Copy, Debug)]
struct Cut {
    batch_size: usize,
    partitions: usize,
    pushdown: bool,
}

/// How a world is tried.
#[derive(Clone, Copy, Debug)]
struct Setting {
    kept: Kept,
    files: usize,
    cuts: [Cut; WAYS],
    sabotage: Option<Sabotage>,
}

impl Setting {
    fn random(dice: &mut Dice) -> Self {
        let mut cut = |pushdown| Cut { batch_size: *dice.pick(&[3, 64, 8192, 8192]), partitions: dice.below(3) + 1, pushdown };
        let cuts = [cut(true), cut(false)];
        Self {
            kept: match dice.below(10) {
                0..3 => Kept::Memory,
                3..7 => Kept::Parquet(dice.below(20) + 3),
                _ => Kept::Delta,
            },
            files: dice.below(4) + 1,
            cuts,
            sabotage: None,
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn governed_tables_answer_as_their_copies() {
    let first = setting("LAZARET_ORACLE_SEED", 1);
    let worlds = setting("LAZARET_ORACLE_WORLDS", WORLDS);
    println!("oracle: {worlds} seeds from {first}");
    let mut seeds = (first..).take(usize::try_from(worlds).unwrap()).collect::<Vec<_>>();
    let mut running = tokio::task::JoinSet::new();
    let mut tally = Tally::default();
    loop {
        while running.len() < 4
            && let Some(seed) = seeds.pop()
        {
            running.spawn(try_world(seed, None));
        }
        match running.join_next().await {
            Some(done) => tally.add(done.unwrap()),
            None => break,
        }
    }
    println!("oracle: {tally:?}");
    assert!(tally.differences.is_empty(), "{} differences\n\n{}", tally.differences.len(), tally.differences.join("\n\n"));
    let pairs = tally.equal + tally.failed_alike + tally.failed_in_some_order + tally.copy_failed;
    assert_eq!(pairs as u64, worlds * (QUERIES * WAYS) as u64);
    // A generator whose queries all fail, or all answer nothing, would show nothing.
    assert!(tally.equal > pairs / 3, "{tally:?}");
    assert!(tally.with_rows > tally.equal / 5, "{tally:?}");
}

/// An oracle that cannot fail is none: it finds each of these defects, and makes it small.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_oracle_finds_what_is_broken() {
    let mut running = tokio::task::JoinSet::new();
    for sabotage in Sabotage::EVERY {
        running.spawn(async move {
            for seed in 1..=SABOTAGED_WORLDS {
                let found = try_world(seed, Some(sabotage)).await;
                if let Some(difference) = found.differences.first() {
                    return (sabotage, Some(difference.clone()));
                }
            }
            (sabotage, None)
        });
    }
    while let Some(done) = running.join_next().await {
        let (sabotage, found) = done.unwrap();
        let found = found.unwrap_or_else(|| panic!("{sabotage:?} is not found"));
        println!("{sabotage:?}: {found}\n");
    }
}

#[derive(Debug, Default)]
struct Tally {
    equal: usize,
    /// Of those that are equal, the ones with rows.
    with_rows: usize,
    /// The same error on both sides.
    failed_alike: usize,
    /// The governed side failed, and so it does without hidden rows: with other batches, partitions or sides of joins.
    failed_in_some_order: usize,
    /// Only the copy failed: the governed side looked at fewer of its rows.
    copy_failed: usize,
    differences: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.equal += other.equal;
        self.with_rows += other.with_rows;
        self.failed_alike += other.failed_alike;
        self.failed_in_some_order += other.failed_in_some_order;
        self.copy_failed += other.copy_failed;
        self.differences.extend(other.differences);
    }
}

/// All queries of one world, up to the first difference.
async fn try_world(seed: u64, sabotage: Option<Sabotage>) -> Tally {
    let mut world = World::new(seed, SCENE);
    let setting = Setting { sabotage, ..Setting::random(&mut Dice::new(seed ^ 0xa5a5)) };
    let stage = Stage::set(&world, setting).await;
    let mut tally = Tally::default();
    for _ in 0..QUERIES {
        let query = match sabotage {
            Some(sabotage) => std::iter::repeat_with(|| world.query()).find(|query| sabotage.could_show_in(&query.text)).unwrap(),
            None => world.query(),
        };
        let Some(difference) = stage.compare(&world, &query, &mut tally).await else { continue };
        let (small, small_query) = shrunk(world.clone(), query.clone(), setting).await;
        if sabotage.is_some() {
            assert!(small.size().0 * 2 < world.size().0 && small_query.text.len() <= query.text.len(), "seed {seed} is not made small");
        }
        let stage = Stage::set(&small, setting).await;
        let difference_of_small = stage.compare(&small, &small_query, &mut Tally::default()).await.unwrap_or_default();
        let expected = stage.expected(&small_query).await;
        let transcript = small.transcript(&small_query, "world", &expected);
        tally.differences.push(format!(
            "seed {seed}, {setting:?}: {query:?}\n  {difference}\nshrunk to {}\n  {difference_of_small}\n\n{transcript}",
            small_query.text
        ));
        if sabotage.is_some() || tally.differences.len() == 3 {
            break;
        }
    }
    tally
}

/// The smallest world and query found that differ in the same setting.
async fn shrunk(world: World, query: Query, setting: Setting) -> (World, Query) {
    let runtime = tokio::runtime::Handle::current();
    let shrinking = tokio::task::spawn_blocking(move || {
        runtime.block_on(async move {
            let differs = async |world: &World, query: &Query| {
                let (world, query) = (world.clone(), query.clone());
                // A world that cannot be set is no smaller one.
                let tried = tokio::spawn(async move {
                    let stage = Stage::set(&world, setting).await;
                    stage.compare(&world, &query, &mut Tally::default()).await
                });
                tried.await.is_ok_and(|difference| difference.is_some())
            };
            Shrinker::new(world, query, if setting.sabotage.is_some() { SABOTAGED_ATTEMPTS } else { ATTEMPTS }).run(differs).await
        })
    });
    shrinking.await.unwrap()
}

/// What is compared in one world.
struct Stage {
    ways: Vec<Way>,
    setting: Setting,
    copies: Copies,
    /// The tables lie in it.
    _folder: tempfile::TempDir,
    keys: (MaskKey, MaskKey),
}

/// The governed side under one cut.
struct Way {
    reader: Box<dyn Fn() -> Namespace + Send + Sync>,
    /// Somebody who reads the same tables first, with the same caches.
    other: Box<dyn Fn() -> Namespace + Send + Sync>,
}

/// Rows, or an error as a principal sees it.
type Told = Result<Vec<String>, String>;

/// A raw table: its provider, and its location where the lake opens it.
struct Source {
    name: &'static str,
    provider: Arc<dyn TableProvider>,
    location: Option<String>,
}

impl Stage {
    async fn set(world: &World, setting: Setting) -> Self {
        let keys = (MaskKey::of_one_query().unwrap(), MaskKey::of_one_query().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let (sources, lake) = sources(world, setting, folder.path(), &|_, part| part.clone()).await;
        let hash = |action: Action, kind: u8, value: &[u8]| match action {
            Action::GlobalHash => keys.0.hash(kind, value),
            _ => keys.1.hash(kind, value),
        };
        let mut copies = Vec::new();
        for (table, source) in world.tables.iter().zip(&sources) {
            let schema = source.provider.schema();
            let of = |part: &Rows| batch(&world.copy(table, &part.rows, &hash), &schema);
            copies.push((table.clone(), parts(&table.rows, setting.files).iter().map(of).collect()));
        }
        let mut ways = Vec::new();
        for cut in setting.cuts {
            let lab = governed(world, &sources, cut, setting.sabotage, lake.clone(), &keys).await;
            ways.push(Way { reader: Box::new(lab.namespaces(READER)), other: Box::new(lab.namespaces(OTHER)) });
        }
        let copies = Copies { tables: copies, view: world.view_of_copy("full_t"), contexts: Default::default() };
        Self { ways, setting, copies, _folder: folder, keys }
    }
}

/// The raw tables of a world, or some rows of each.
async fn sources(
    world: &World,
    setting: Setting,
    folder: &Path,
    some: &(dyn Fn(&Table, &Rows) -> Rows + Sync),
) -> (Vec<Source>, Option<Arc<Lake>>) {
    let lake = (setting.kept == Kept::Delta).then(|| {
        let stores = Stores::new(StoresConfig { warehouse: folder.join("warehouse"), ..StoresConfig::default() });
        Arc::new(Lake::new(Arc::new(stores), Arc::new(Caches::new(CacheLimits::default()))))
    });
    let mut sources = Vec::new();
    for table in &world.tables {
        let parts: Vec<Rows> = parts(&table.rows, setting.files).iter().map(|part| some(table, part)).collect();
        sources.push(source(table, &parts, folder, lake.as_deref(), setting).await);
    }
    (sources, lake)
}

fn parts(rows: &Rows, count: usize) -> Vec<Rows> {
    let size = rows.rows.len().div_ceil(count).max(1);
    let mut parts: Vec<Rows> = rows.rows.chunks(size).map(|chunk| Rows { columns: rows.columns.clone(), rows: chunk.to_vec() }).collect();
    if parts.is_empty() {
        parts.push(rows.clone());
    }
    parts
}

/// The rows in the order and the layout of another schema.
fn batch(rows: &Rows, schema: &SchemaRef) -> RecordBatch {
    let batch = rows.batch(0..rows.rows.len());
    let column = |name: &str, data_type: &DataType| cast(batch.column_by_name(name).unwrap(), data_type).unwrap();
    let columns = schema.fields().iter().map(|field| column(field.name(), field.data_type())).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

async fn source(table: &Table, parts: &[Rows], folder: &Path, lake: Option<&Lake>, setting: Setting) -> Source {
    let (name, schema) = (table.name, table.rows.schema());
    let batches: Vec<RecordBatch> = parts.iter().map(|part| part.batch(0..part.rows.len())).collect();
    let provider: Arc<dyn TableProvider> = match (setting.kept, lake) {
        (Kept::Delta, Some(lake)) => {
            let id = TableId::generate();
            let partition_by = if setting.files > 2 { vec!["g".to_owned()] } else { Vec::new() };
            let new = NewTable { id, schema, partition_by, comment: None };
            let created = create_table_as(lake.stores(), new, futures::stream::iter(batches.into_iter().map(Ok))).await.unwrap();
            let source = TableSource { id, format: TableFormat::Delta, location: created.location.clone(), options: Default::default() };
            let provider = lake.open(&source).await.unwrap().provider;
            return Source { name, provider, location: Some(created.location) };
        }
        (Kept::Parquet(group_rows), _) => {
            let folder = folder.join(name);
            std::fs::create_dir(&folder).unwrap();
            let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
            for (part, batch) in batches.iter().enumerate() {
                let file = std::fs::File::create(folder.join(format!("{part}.parquet"))).unwrap();
                let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties.clone())).unwrap();
                writer.write(batch).unwrap();
                writer.close().unwrap();
            }
            let url = ListingTableUrl::parse(format!("{}/", folder.display())).unwrap();
            let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension("parquet");
            let config = ListingTableConfig::new(url).with_listing_options(options).with_schema(schema);
            Arc::new(ListingTable::try_new(config).unwrap())
        }
        _ => partitioned(&schema, batches),
    };
    Source { name, provider, location: None }
}

/// A table in memory, with a partition for each batch.
fn partitioned(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Arc<MemTable> {
    let partition = |batch: RecordBatch| if batch.num_rows() > 0 { vec![batch] } else { Vec::new() };
    Arc::new(MemTable::try_new(Arc::clone(schema), batches.into_iter().map(partition).collect()).unwrap())
}

/// The world as the server has it.
async fn governed(
    world: &World,
    sources: &[Source],
    cut: Cut,
    sabotage: Option<Sabotage>,
    lake: Option<Arc<Lake>>,
    keys: &(MaskKey, MaskKey),
) -> Lab {
    let mut lab = Lab::new();
    (lab.target_partitions, lab.batch_size, lab.parquet_pushdown) = (cut.partitions, cut.batch_size, cut.pushdown);
    (lab.lake, lab.mask_keys, lab.sabotage, lab.few_functions) = (lake, Some(keys.clone()), sabotage, true);
    let mapping = &world.mapping;
    let rows = mapping.rows.batch(0..mapping.rows.rows.len());
    let id = lab.table_aside("aside", "m", partitioned(&rows.schema(), vec![rows.clone()]), mapping.hidden_from.is_some());
    lab.grant("admin", ObjectId::Table(id), Privilege::Select, None);
    if let Some(from) = mapping.hidden_from {
        lab.policy(ObjectId::Table(id), PolicyKind::Permissive, user("admin"), &format!("area < {from}"), &rows.schema());
    }
    for (table, source) in world.tables.iter().zip(sources) {
        let secured = !world.is_open(table);
        let id = match &source.location {
            Some(location) => lab.delta(source.name, location.clone(), secured),
            None => lab.table(source.name, Arc::clone(&source.provider), secured),
        };
        let (object, schema) = (ObjectId::Table(id), source.provider.schema());
        grant(&mut lab, table, object);
        for policy in &table.policies {
            put_policy(&mut lab, world, policy, object, table.name, Some(&schema)).await;
        }
        for mask in &table.masks {
            let masking = match mask.sql(&table.rows, world.place(table.name)) {
                text if text.starts_with("ACTION ") => Masking::Action(action(&text)),
                text => Masking::Expression(text),
            };
            lab.mask(id, &[&mask.column], Grantee::All, masking, &schema);
            let Entity::MaskingPolicy(made) = lab.last() else { unreachable!() };
            made.priority = mask.priority;
            (made.to, made.except) = audience(mask.audience);
        }
    }
    let view = lab.view("v", "admin", &world.view.over("t"), !world.view.policies.is_empty());
    lab.grant(READER, ObjectId::Table(view), Privilege::Select, None);
    lab.grant(OTHER, ObjectId::Table(view), Privilege::Select, None);
    let columns = world.tables[0].rows.schema();
    for policy in &world.view.policies {
        put_policy(&mut lab, world, policy, ObjectId::Table(view), "v", Some(&columns)).await;
    }
    if let Some((container, policies)) = &world.shared {
        let object = match container {
            Container::Schema => ObjectId::Schema(lab.schema),
            Container::Catalog => ObjectId::Catalog(lab.catalog),
        };
        for policy in policies {
            put_policy(&mut lab, world, policy, object, "t", None).await;
        }
    }
    lab
}

fn grant(lab: &mut Lab, table: &Table, object: ObjectId) {
    for user in ["admin", OTHER] {
        lab.grant(user, object, Privilege::Select, None);
    }
    let closed: Vec<&str> = table.closed.iter().map(String::as_str).collect();
    let open: Vec<String> = table.open_columns().into_iter().map(|column| column.name).collect();
    let open: Vec<&str> = open.iter().map(String::as_str).collect();
    match (closed.is_empty(), table.denied) {
        (true, _) => lab.grant(READER, object, Privilege::Select, None),
        (false, true) => {
            lab.grant(READER, object, Privilege::Select, None);
            lab.grant(READER, object, Privilege::Select, Some(&closed));
            let Entity::PrivilegeGrant(denial) = lab.last() else { unreachable!() };
            denial.deny = true;
        }
        (false, false) => lab.grant(READER, object, Privilege::Select, Some(&open)),
    }
}

/// On a table or view, bound to its columns; else to names.
async fn put_policy(lab: &mut Lab, world: &World, policy: &Policy, object: ObjectId, relation: &str, schema: Option<&SchemaRef>) {
    let kind = if policy.restrictive { PolicyKind::Restrictive } else { PolicyKind::Permissive };
    let using = policy.using.sql(world.place(relation));
    match schema {
        Some(schema) if policy.using.asks_other_tables() => {
            lab.policy_asking(object, kind, Grantee::All, &using, relation, schema).await;
        }
        Some(schema) => lab.policy(object, kind, Grantee::All, &using, schema),
        None => lab.policy_bound(object, kind, Grantee::All, &using, Vec::new()),
    }
    let Entity::Policy(made) = lab.last() else { unreachable!() };
    (made.to, made.except) = audience(policy.audience);
    if policy.for_insert {
        (made.command, made.with_check) = (PolicyCommand::Insert, made.using.take());
    }
}

fn audience(audience: Audience) -> (Vec<Grantee>, Vec<Grantee>) {
    match audience {
        Audience::All => (vec![Grantee::All], Vec::new()),
        Audience::Reader => (vec![user(READER)], Vec::new()),
        Audience::Other => (vec![user(OTHER)], Vec::new()),
        Audience::AllButReader => (vec![Grantee::All], vec![user(READER)]),
    }
}

fn action(text: &str) -> MaskAction {
    let name = text.trim_start_matches("ACTION ");
    serde_json::from_value(serde_json::Value::String(name.to_owned())).unwrap()
}

/// The visible rows alone, masked, and nothing governed: for each way in which DataFusion may cut them up, when it is asked.
struct Copies {
    tables: Vec<(Table, Vec<RecordBatch>)>,
    view: String,
    contexts: [OnceCell<SessionContext>; VARIANTS.len()],
}

impl Copies {
    async fn get(&self, variant: usize) -> &SessionContext {
        self.contexts[variant].get_or_init(|| self.make(VARIANTS[variant])).await
    }

    async fn make(&self, (batch_size, partitions, last_first): (usize, usize, bool)) -> SessionContext {
        let mut lab = Lab::new();
        (lab.batch_size, lab.target_partitions, lab.few_functions) = (batch_size, partitions, true);
        let state: SessionState = lab.template();
        let config = state.config().clone().with_create_default_catalog_and_schema(true).with_default_catalog_and_schema("lake", "public");
        let context = SessionContext::new_with_state(SessionStateBuilder::new_from_existing(state).with_config(config).build());
        for (table, batches) in &self.tables {
            let mut batches = batches.clone();
            if last_first {
                batches.reverse();
            }
            let schema = batches[0].schema();
            if table.name == "t" {
                context.register_table("full_t", partitioned(&schema, batches.clone())).unwrap();
            }
            let open: Vec<usize> = (0..schema.fields().len()).filter(|index| !table.closed.contains(schema.field(*index).name())).collect();
            let batches = batches.iter().map(|batch| batch.project(&open).unwrap()).collect();
            context.register_table(table.name, partitioned(&Arc::new(schema.project(&open).unwrap()), batches)).unwrap();
        }
        context.sql(&format!("CREATE VIEW v AS {}", self.view)).await.unwrap();
        context
    }

    async fn errors(&self, query: &Query) -> BTreeSet<String> {
        let mut errors = BTreeSet::new();
        for variant in 0..VARIANTS.len() {
            errors.extend(plain(self.get(variant).await, query).await.err());
        }
        errors
    }
}

impl Stage {
    /// `None` where nothing was learnt that the copies do not show.
    async fn compare(&self, world: &World, query: &Query, tally: &mut Tally) -> Option<String> {
        let first = plain(self.copies.get(0).await, query).await;
        for (index, way) in self.ways.iter().enumerate() {
            if self.setting.kept == Kept::Delta && index == 0 {
                // Whatever this leaves behind in the caches is for another principal.
                let _ = self.answer((way.other)(), query).await;
            }
            let governed = self.answer((way.reader)(), query).await.map_err(|error| seen(&error));
            let difference = self.difference(world, query, &governed, &first, tally).await;
            if difference.is_some() {
                return difference;
            }
        }
        None
    }

    async fn difference(&self, world: &World, query: &Query, governed: &Told, first: &Told, tally: &mut Tally) -> Option<String> {
        // A small world may have lost the policies that hid them.
        let hides = world.tables.iter().all(|table| table.name == "o" || !world.is_open(table));
        match (governed, first) {
            (Err(error), _) if hides && error.contains(SECRET) => Some(format!("a hidden text: {error}")),
            (Ok(rows), Ok(expected)) if rows == expected => {
                tally.equal += 1;
                tally.with_rows += usize::from(rows.len() > 1);
                None
            }
            (Ok(rows), Ok(expected)) => Some(format!("{rows:?}\n  is not\n  {expected:?}")),
            (Ok(rows), Err(error)) => {
                // The rows are right where some copy answers at all.
                tally.copy_failed += 1;
                for variant in 1..VARIANTS.len() {
                    if let Ok(expected) = plain(self.copies.get(variant).await, query).await {
                        return (*rows != expected).then(|| format!("{rows:?}\n  is not\n  {expected:?}"));
                    }
                }
                // A name that is not the reader's fails for every row.
                let planned = self.copies.get(0).await.state().create_logical_plan(&query.text).await;
                planned.is_err().then(|| format!("{rows:?}\n  where the copies fail with {error}"))
            }
            (Err(error), Err(expected)) if error == expected => {
                tally.failed_alike += 1;
                None
            }
            (Err(error), _) => {
                let errors = self.copies.errors(query).await;
                if errors.contains(error) || self.fails_without_hidden_rows(world, query, error).await {
                    tally.failed_in_some_order += 1;
                    return None;
                }
                Some(format!("failed with {error}\n  the copies answer {first:?}, or fail with {errors:?}"))
            }
        }
    }

    /// Whether the same governed tables, kept in the same way, give this error where no row is hidden: their joins have other
    /// sides than the copies', for no statistics pass a barrier, and another order meets another visible row first; and
    /// files take predicates that memory does not.
    async fn fails_without_hidden_rows(&self, world: &World, query: &Query, error: &str) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let visible = |table: &Table, part: &Rows| world.visible(table, &part.rows);
        let (sources, lake) = sources(world, self.setting, folder.path(), &visible).await;
        let others = VARIANTS.map(|(batch_size, partitions, _)| Cut { batch_size, partitions, pushdown: false });
        let cuts: Vec<Cut> = self.setting.cuts.into_iter().chain(others).collect();
        let mut ways = Vec::with_capacity(cuts.len());
        // Which of two partitions, or of two sides of a UNION, fails first is not the same each time.
        for turn in 0..ROUNDS * cuts.len() {
            if let Some(cut) = cuts.get(turn) {
                ways.push(governed(world, &sources, *cut, self.setting.sabotage, lake.clone(), &self.keys).await.namespaces(READER));
            }
            let names = &ways[turn % cuts.len()];
            if self.answer(names(), query).await.is_err_and(|failure| seen(&failure) == error) {
                return true;
            }
        }
        false
    }

    async fn answer(&self, names: Namespace, query: &Query) -> Result<Vec<String>, DataFusionError> {
        let state = names.session_state();
        let logical = with_parameters(state.create_logical_plan(&query.text).await?, query)?;
        // A defect that was put in would be refused here: what is asked is whether it would show.
        let checked = self.setting.sabotage.is_none();
        if checked {
            names.verify_logical(&logical)?;
        }
        let physical = state.create_physical_plan(&logical).await?;
        if checked {
            names.verify_physical(physical.as_ref())?;
        }
        collect(physical, state.task_ctx()).await.map(|batches| lines(&batches))
    }

    /// What the copy answers, as a record of a transcript.
    async fn expected(&self, query: &Query) -> String {
        let batches = match answer_of(self.copies.get(0).await, query).await {
            Ok(batches) => batches,
            Err(error) => return format!("statement error\n{{query}}\n----\n{}\n\n", error.strip_backtrace()),
        };
        let kinds: String = batches.first().map_or_else(Vec::new, |batch| vec!["?"; batch.num_columns()]).concat();
        let options = FormatOptions::new().with_null("NULL");
        let mut rows = Vec::new();
        for batch in &batches {
            let columns: Vec<_> = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
            rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|it| it.value(row).to_string()).collect::<Vec<_>>().join("  ")));
        }
        rows.sort();
        format!("query {kinds} rowsort\n{{query}}\n----\n{}\n", rows.join("\n"))
    }
}

fn with_parameters(plan: LogicalPlan, query: &Query) -> Result<LogicalPlan, DataFusionError> {
    if query.parameters.is_empty() {
        return Ok(plan);
    }
    let values = query.parameters.iter().map(|parameter| match parameter {
        Parameter::Number(number) => ScalarValue::Int64(Some(*number)),
        Parameter::Text(text) => ScalarValue::Utf8(Some(text.clone())),
    });
    plan.with_param_values(ParamValues::List(values.map(Into::into).collect()))
}

async fn answer_of(copy: &SessionContext, query: &Query) -> Result<Vec<RecordBatch>, DataFusionError> {
    let state = copy.state();
    let plan = with_parameters(state.create_logical_plan(&query.text).await?, query)?;
    let plan = state.create_physical_plan(&plan).await?;
    collect(plan, copy.task_ctx()).await
}

async fn plain(copy: &SessionContext, query: &Query) -> Told {
    answer_of(copy, query).await.map(|batches| lines(&batches)).map_err(|error| seen(&error))
}

const UNPLANNED: &str = "Physical plan does not support logical expression";

/// An error as a principal may tell it from another: its text without values, numbers and names of plan nodes.
fn seen(error: &DataFusionError) -> String {
    if let Some(failure) = ScanFailure::of(error) {
        return format!("scan failure {:?}", failure.kind);
    }
    let text = error.strip_backtrace();
    // A hidden text is told whole.
    if text.contains(SECRET) {
        return text;
    }
    // Sides of a plan are planned at once: where two hold what cannot be planned, either is told.
    if text.contains(UNPLANNED) { UNPLANNED.to_owned() } else { words(&text) }
}
