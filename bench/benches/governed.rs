//! What governing a table costs in process: planning and running a query through a grant, against the same query over the
//! bare table. `cargo bench --locked --workspace --bench governed`

#![allow(clippy::expect_used)]

use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use datafusion::catalog::TableProvider;
use datafusion::execution::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use lazaret_auth::policy::BoundColumn;
use lazaret_auth::{
    Authority, CatalogId, CredentialKind, GrantId, Grantee, ObjectId, PolicyCommand, PolicyId, PolicyKind, Principal, PrincipalName,
    Privilege, PrivilegeGrant, RowPolicy, SchemaId, TableId,
};
use lazaret_bench::generate::generate;
use lazaret_catalog::caches::{CacheLimits, Caches};
use lazaret_catalog::governed::{PolicyBinder, session_config, with_careful_planning};
use lazaret_catalog::lake::{Lake, TableSource};
use lazaret_catalog::meta::{Catalog, Definition, Entity, Relation, Schema, State, TableFormat};
use lazaret_catalog::namespace::Namespace;
use lazaret_catalog::stores::{Stores, StoresConfig};
use tokio::runtime::Runtime;

const EVENTS: u64 = 1_000_000;
const PAIRS: usize = 301;
const POLICY: &str = "region_id BETWEEN 64 AND 255";
const QUERIES: [(&str, &str); 3] = [
    ("count by type", "SELECT event_type, count(*) FROM events GROUP BY event_type"),
    ("sum of a filter", "SELECT sum(age_group) FROM events WHERE region_id BETWEEN 64 AND 255"),
    ("one event", "SELECT * FROM events WHERE event_id = 4711"),
];

/// A namespace for each statement of one principal.
type Namespaces = Box<dyn Fn() -> Namespace>;

/// The same table, bare and as principals see it.
struct Setting {
    runtime: Runtime,
    bare: SessionContext,
    governed: Vec<(&'static str, Namespaces)>,
    _folder: tempfile::TempDir,
}

fn template() -> SessionState {
    let config = session_config(SessionConfig::new().with_default_catalog_and_schema("lake", "public"));
    with_careful_planning(SessionStateBuilder::new().with_config(config).with_default_features()).build()
}

impl Setting {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        runtime.block_on(generate(folder.path(), 1, EVENTS)).expect("events");
        let stores = StoresConfig { allowed_paths: vec![folder.path().to_owned()], ..StoresConfig::default() };
        let lake = Arc::new(Lake::new(Arc::new(Stores::new(stores)), Arc::new(Caches::new(CacheLimits::default()))));
        let id = TableId::generate();
        let location = format!("file://{}/delta/events/", folder.path().display());
        let source = TableSource { id, format: TableFormat::Delta, location: location.clone(), options: Default::default() };
        let provider = runtime.block_on(lake.open(&source)).expect("the table").provider;

        let config = template().config().clone().with_create_default_catalog_and_schema(true);
        let bare = SessionContext::new_with_state(SessionStateBuilder::new_from_existing(template()).with_config(config).build());
        bare.register_table("events", Arc::clone(&provider)).expect("a name");

        let mut governed: Vec<(&'static str, Namespaces)> = Vec::new();
        for (name, policy) in [("no policy", None), ("row policy", Some(POLICY))] {
            governed.push((name, namespaces(&lake, id, &location, &provider, policy)));
        }
        Self { runtime, bare, governed, _folder: folder }
    }

    fn planned(&self, state: &SessionState, sql: &str) -> Arc<dyn ExecutionPlan> {
        self.runtime.block_on(async {
            let logical = state.create_logical_plan(sql).await.expect(sql);
            state.create_physical_plan(&logical).await.expect(sql)
        })
    }
}

/// As a server makes one for each statement of `ana`.
fn namespaces(lake: &Arc<Lake>, id: TableId, location: &str, provider: &Arc<dyn TableProvider>, policy: Option<&str>) -> Namespaces {
    let (catalog, schema) = (CatalogId::generate(), SchemaId::generate());
    let owner = || PrincipalName::local("admin");
    let definition = Definition::Table {
        format: TableFormat::Delta,
        location: location.to_owned(),
        managed: false,
        options: Default::default(),
        outside: Vec::new(),
    };
    let table =
        Relation { id, schema, name: "events".to_owned(), owner: owner(), definition, row_security: policy.is_some(), comment: None };
    let mut entities = vec![
        Entity::Catalog(Catalog { id: catalog, name: "lake".to_owned(), owner: owner() }),
        Entity::Schema(Schema { id: schema, catalog, name: "public".to_owned(), owner: owner() }),
        Entity::Relation(table),
        Entity::PrivilegeGrant(PrivilegeGrant {
            id: GrantId::generate(),
            object: ObjectId::Table(id),
            privilege: Privilege::Select,
            grantee: Grantee::User(PrincipalName::local("ana")),
            columns: None,
            deny: false,
            grant_option: false,
            grantor: owner(),
        }),
    ];
    if let Some(policy) = policy {
        let columns: Vec<BoundColumn> = PolicyBinder::new(&template()).bind_new_policy(policy, &provider.schema()).expect(policy);
        entities.push(Entity::Policy(RowPolicy {
            id: PolicyId::generate(),
            name: "three_states".to_owned(),
            object: ObjectId::Table(id),
            kind: PolicyKind::Permissive,
            command: PolicyCommand::Select,
            to: vec![Grantee::All],
            except: Vec::new(),
            using: Some(policy.to_owned()),
            with_check: None,
            columns,
            subqueries: None,
            creator: owner(),
            version: 1,
            comment: None,
        }));
    }
    let state = Arc::new(State::build(1, entities).expect("a state"));
    let principal = Arc::new(Principal::local_user("ana", CredentialKind::Password, None, None));
    let authority = Authority::of(state.as_ref(), principal);
    let (lake, template) = (Arc::clone(lake), template());
    Box::new(move || {
        Namespace::new(Arc::clone(&state), authority.clone(), Arc::clone(&lake) as _, template.clone(), "lake", "public")
            .expect("a namespace")
    })
}

fn planning(criterion: &mut Criterion, setting: &Setting) {
    let mut group = criterion.benchmark_group("plan");
    for (name, sql) in QUERIES {
        let state = setting.bare.state();
        group.bench_function(BenchmarkId::new("bare", name), |bencher| bencher.iter(|| setting.planned(&state, sql)));
        for (who, namespace) in &setting.governed {
            group.bench_function(BenchmarkId::new(*who, name), |bencher| {
                bencher.iter(|| setting.planned(&namespace().session_state(), sql));
            });
        }
    }
    group.finish();
}

fn running(criterion: &mut Criterion, setting: &Setting) {
    let mut group = criterion.benchmark_group("run");
    for (name, sql) in QUERIES {
        let states = setting.governed.iter().map(|(who, namespace)| (*who, namespace().session_state()));
        for (who, state) in [("bare", setting.bare.state())].into_iter().chain(states) {
            group.bench_function(BenchmarkId::new(who, name), |bencher| {
                bencher.iter_batched(
                    || setting.planned(&state, sql),
                    |plan| setting.runtime.block_on(collect(plan, state.task_ctx())).expect(sql),
                    criterion::BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

/// The machine's own ups and downs are larger than what is looked for: bare and governed runs in turn, and the median of the
/// ratios of the pairs.
fn in_pairs(setting: &Setting) {
    let bare = setting.bare.state();
    for (name, sql) in QUERIES {
        for (who, namespace) in setting.governed.iter().filter(|(who, _)| *who == "no policy") {
            let state = namespace().session_state();
            let time_of = |state: &SessionState| {
                let plan = setting.planned(state, sql);
                let started = Instant::now();
                setting.runtime.block_on(collect(plan, state.task_ctx())).expect(sql);
                started.elapsed().as_secs_f64()
            };
            let mut ratios: Vec<f64> = (0..PAIRS)
                .map(|pair| {
                    // Who comes second finds the other one's memory.
                    let (governed, plain) = if pair % 2 == 0 {
                        let governed = time_of(&state);
                        (governed, time_of(&bare))
                    } else {
                        let plain = time_of(&bare);
                        (time_of(&state), plain)
                    };
                    governed / plain
                })
                .collect();
            ratios.sort_by(f64::total_cmp);
            println!("pairs/{who}/{name}: {:.3} of the bare run, median of {PAIRS} pairs", ratios[PAIRS / 2]);
        }
    }
}

fn all(criterion: &mut Criterion) {
    let setting = Setting::new();
    in_pairs(&setting);
    planning(criterion, &setting);
    running(criterion, &setting);
}

criterion_group!(benches, all);
criterion_main!(benches);
