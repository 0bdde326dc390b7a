//! What every metadata store must do: one suite, run on both. And what only the SQLite file can do: survive.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use lazaret_auth::policy::BoundColumn;
use lazaret_auth::{
    CatalogId, CertificateSubject, EmergencyAccess, EmergencyEnd, EmergencyEndCause, EmergencyId, GrantId, Grantee, GroupName, MaskAction,
    Masking, MaskingPolicy, NewToken, ObjectId, PolicyCommand, PolicyId, PolicyKind, PrincipalName, Privilege, PrivilegeGrant, RoleId,
    RowPolicy, SchemaId, TableId, TokenId, UserId,
};

use super::*;

/// One record of each kind, all of them connected.
pub(super) struct Fixture {
    pub catalog: Catalog,
    pub schema: Schema,
    pub table: Relation,
    pub view: Relation,
    pub user: User,
    pub token: ServiceToken,
    pub role: Role,
    pub outer_role: Role,
    pub membership: RoleGrant,
    pub nested_membership: RoleGrant,
    pub grant: PrivilegeGrant,
    pub policy: RowPolicy,
    pub mask: MaskingPolicy,
    pub emergency: EmergencyAccess,
    pub leftover: TableId,
}

impl Fixture {
    pub fn new() -> Self {
        let owner = PrincipalName::local("ana");
        let catalog = Catalog { id: CatalogId::generate(), name: "lake".into(), owner: owner.clone() };
        let schema = Schema { id: SchemaId::generate(), catalog: catalog.id, name: "sinan".into(), owner: owner.clone() };
        let table = table(schema.id, "cases");
        let query = "SELECT 1".to_owned();
        let view = Relation {
            id: TableId::generate(),
            name: "weekly".into(),
            definition: Definition::View { query, catalog: "lake".into(), schema: "sinan".into(), owner_groups: Default::default() },
            row_security: true,
            comment: Some("cases by week".into()),
            ..table.clone()
        };
        let role = Role { id: RoleId::generate(), name: "analyst".into() };
        let outer_role = Role { id: RoleId::generate(), name: "reader".into() };
        let user = User {
            id: UserId::generate(),
            name: "ana".into(),
            password_hash: Some("$argon2id$…".into()),
            enabled: true,
            tokens_valid_after_s: 1_700_000_000,
            certificate_subject: CertificateSubject::parse("CN=ana,O=Hospital").ok(),
        };
        let token = NewToken::generate().unwrap();
        Self {
            token: ServiceToken {
                id: token.id,
                user: user.id,
                name: "etl".into(),
                hash: token.hash,
                creator: owner.clone(),
                created_at_s: 1_700_000_000,
                expires_at_s: 1_800_000_000,
            },
            user,
            membership: RoleGrant { id: GrantId::generate(), role: role.id, grantee: Grantee::User(owner.clone()), grantor: owner.clone() },
            nested_membership: RoleGrant {
                id: GrantId::generate(),
                role: outer_role.id,
                grantee: Grantee::Role(role.id),
                grantor: owner.clone(),
            },
            grant: PrivilegeGrant {
                columns: Some(vec!["region_id".into(), "onset".into()]),
                ..select_on(ObjectId::Table(table.id), Grantee::Role(role.id))
            },
            policy: RowPolicy {
                id: PolicyId::generate(),
                name: "by_region".into(),
                object: ObjectId::Table(table.id),
                kind: PolicyKind::Permissive,
                command: PolicyCommand::Select,
                to: vec![Grantee::Role(role.id), Grantee::All],
                except: vec![Grantee::Group(GroupName { issuer: "hospital".into(), group: "dpo".into() })],
                using: Some("region_id BETWEEN 64 AND 127".into()),
                with_check: None,
                columns: vec![BoundColumn { name: "region_id".into(), field_id: Some(3), data_type: "Int32".into() }],
                subqueries: None,
                creator: owner.clone(),
                version: 1,
                comment: None,
            },
            emergency: EmergencyAccess {
                id: EmergencyId::generate(),
                holder: owner.clone(),
                session: "0a1b".into(),
                reason: "an outbreak".into(),
                started_us: 1_700_000_000_000_000,
                expires_us: 1_700_000_900_000_000,
                tables: Some(vec![table.id]),
                end: Some(EmergencyEnd { at_us: 1_700_000_100_000_000, cause: EmergencyEndCause::EndedBy(owner.clone()) }),
            },
            leftover: TableId::generate(),
            mask: MaskingPolicy {
                id: PolicyId::generate(),
                name: "by_region".into(),
                table: table.id,
                columns: vec![BoundColumn { name: "onset".into(), field_id: Some(4), data_type: "Date32".into() }],
                to: vec![Grantee::Role(role.id)],
                except: vec![Grantee::Role(outer_role.id)],
                masking: Masking::Action(MaskAction::TruncateToMonth),
                reads: Vec::new(),
                priority: 3,
                creator: owner,
                version: 1,
                comment: None,
            },
            catalog,
            schema,
            table,
            view,
            role,
            outer_role,
        }
    }

    pub fn entities(&self) -> Vec<Entity> {
        vec![
            Entity::Catalog(self.catalog.clone()),
            Entity::Schema(self.schema.clone()),
            Entity::Relation(self.table.clone()),
            Entity::Relation(self.view.clone()),
            Entity::User(self.user.clone()),
            Entity::ServiceToken(self.token.clone()),
            Entity::Role(self.role.clone()),
            Entity::Role(self.outer_role.clone()),
            Entity::RoleGrant(self.membership.clone()),
            Entity::RoleGrant(self.nested_membership.clone()),
            Entity::PrivilegeGrant(self.grant.clone()),
            Entity::Policy(self.policy.clone()),
            Entity::MaskingPolicy(self.mask.clone()),
            Entity::EmergencyAccess(self.emergency.clone()),
            Entity::Leftover(self.leftover),
        ]
    }

    /// What refers comes first: order does not matter within a transaction.
    pub fn puts(&self) -> Vec<Change> {
        self.entities().into_iter().rev().map(Change::Put).collect()
    }

    pub fn state(&self) -> State {
        State::build(1, self.entities()).unwrap()
    }
}

pub(super) fn table(schema: SchemaId, name: &str) -> Relation {
    let id = TableId::generate();
    Relation {
        id,
        schema,
        name: name.to_owned(),
        owner: PrincipalName::local("ana"),
        definition: Definition::Table {
            format: TableFormat::Delta,
            location: format!("file:///warehouse/{id}/"),
            managed: true,
            options: BTreeMap::from([("delimiter".to_owned(), ";".to_owned())]),
            outside: vec!["s3://lake/elsewhere".to_owned()],
        },
        row_security: false,
        comment: None,
    }
}

pub(super) fn select_on(object: ObjectId, grantee: Grantee) -> PrivilegeGrant {
    PrivilegeGrant {
        id: GrantId::generate(),
        object,
        privilege: Privilege::Select,
        grantee,
        columns: None,
        deny: false,
        grant_option: false,
        grantor: PrincipalName::local("ana"),
    }
}

async fn stored(store: &dyn MetadataStore) -> (u64, BTreeMap<EntityId, Entity>) {
    let (epoch, entities) = store.load().await.unwrap();
    (epoch, entities.into_iter().map(|entity| (entity.id(), entity)).collect())
}

fn by_id(entities: Vec<Entity>) -> BTreeMap<EntityId, Entity> {
    entities.into_iter().map(|entity| (entity.id(), entity)).collect()
}

async fn keeps_every_kind(store: &dyn MetadataStore) {
    assert_eq!(stored(store).await, (0, BTreeMap::new()));
    let fixture = Fixture::new();
    store.commit(0, &fixture.puts()).await.unwrap();
    assert_eq!(stored(store).await, (1, by_id(fixture.entities())));
}

async fn replaces_and_deletes(store: &dyn MetadataStore) {
    let fixture = Fixture::new();
    store.commit(0, &fixture.puts()).await.unwrap();
    let renamed = Relation { name: "notifications".into(), row_security: true, ..fixture.table.clone() };
    let widened = PrivilegeGrant { columns: None, object: ObjectId::System, ..fixture.grant.clone() };
    store.commit(1, &[Change::Put(Entity::Relation(renamed.clone())), Change::Put(Entity::PrivilegeGrant(widened.clone()))]).await.unwrap();
    let mut expected = by_id(fixture.entities());
    expected.insert(EntityId::Relation(renamed.id), Entity::Relation(renamed));
    expected.insert(EntityId::PrivilegeGrant(widened.id), Entity::PrivilegeGrant(widened));
    assert_eq!(stored(store).await, (2, expected.clone()));

    // Every kind goes, parents before what lies in them.
    let deletes: Vec<_> = expected.keys().map(|id| Change::Delete(*id)).collect();
    store.commit(2, &deletes).await.unwrap();
    assert_eq!(stored(store).await, (3, BTreeMap::new()));
}

async fn refuses_a_stale_epoch(store: &dyn MetadataStore) {
    let fixture = Fixture::new();
    store.commit(0, &fixture.puts()).await.unwrap();
    let other = Change::Put(Entity::Role(Role { id: RoleId::generate(), name: "late".into() }));
    for base in [0, 2] {
        let error = store.commit(base, std::slice::from_ref(&other)).await.unwrap_err();
        assert!(matches!(error, StoreError::Stale { expected, found: 1 } if expected == base), "{error}");
    }
    assert_eq!(stored(store).await, (1, by_id(fixture.entities())));
}

/// Each is refused, and with it the good change before it.
async fn refuses_conflicts_whole(store: &dyn MetadataStore) {
    let fixture = Fixture::new();
    store.commit(0, &fixture.puts()).await.unwrap();
    let conflicts = [
        Change::Put(Entity::Catalog(Catalog { id: CatalogId::generate(), ..fixture.catalog.clone() })),
        Change::Put(Entity::Schema(Schema { id: SchemaId::generate(), ..fixture.schema.clone() })),
        Change::Put(Entity::Relation(Relation { name: fixture.table.name.clone(), ..fixture.view.clone() })),
        Change::Put(Entity::User(User { id: UserId::generate(), ..fixture.user.clone() })),
        Change::Put(Entity::ServiceToken(ServiceToken { id: TokenId::generate(), ..fixture.token.clone() })),
        Change::Put(Entity::ServiceToken(ServiceToken { user: UserId::generate(), ..fixture.token.clone() })),
        Change::Put(Entity::Role(Role { name: fixture.outer_role.name.clone(), ..fixture.role.clone() })),
        Change::Put(Entity::Policy(RowPolicy { id: PolicyId::generate(), ..fixture.policy.clone() })),
        Change::Put(Entity::Policy(RowPolicy { id: PolicyId::generate(), object: ObjectId::System, ..fixture.policy.clone() })),
        Change::Put(Entity::MaskingPolicy(MaskingPolicy { id: PolicyId::generate(), ..fixture.mask.clone() })),
        Change::Put(Entity::MaskingPolicy(MaskingPolicy { table: TableId::generate(), ..fixture.mask.clone() })),
        Change::Put(Entity::Relation(table(SchemaId::generate(), "orphan"))),
        Change::Put(Entity::PrivilegeGrant(select_on(ObjectId::Table(TableId::generate()), Grantee::Role(fixture.role.id)))),
        Change::Put(Entity::PrivilegeGrant(select_on(ObjectId::System, Grantee::Role(RoleId::generate())))),
        Change::Put(Entity::RoleGrant(RoleGrant { role: RoleId::generate(), ..fixture.membership.clone() })),
        Change::Delete(EntityId::Catalog(fixture.catalog.id)),
        Change::Delete(EntityId::Schema(fixture.schema.id)),
        Change::Delete(EntityId::Relation(fixture.table.id)),
        Change::Delete(EntityId::User(fixture.user.id)),
        Change::Delete(EntityId::Role(fixture.role.id)),
        Change::Delete(EntityId::Relation(TableId::generate())),
    ];
    for conflict in conflicts {
        let fine = Change::Put(Entity::Role(Role { id: RoleId::generate(), name: "fine".into() }));
        let error = store.commit(1, &[fine, conflict.clone()]).await.expect_err(&format!("{conflict:?}"));
        assert!(matches!(error, StoreError::Conflict(_)), "{conflict:?}: {error:?}");
        assert_eq!(stored(store).await, (1, by_id(fixture.entities())), "{conflict:?}");
    }
}

/// The same name may be taken again once it is free, in one transaction too.
async fn frees_names(store: &dyn MetadataStore) {
    let fixture = Fixture::new();
    store.commit(0, &fixture.puts()).await.unwrap();
    let again = table(fixture.schema.id, &fixture.table.name);
    let mut changes = fixture.state().cascade(EntityId::Relation(fixture.table.id));
    changes.push(Change::Put(Entity::Relation(again.clone())));
    // Names compare exactly: this is another one.
    changes.push(Change::Put(Entity::Relation(table(fixture.schema.id, "CASES"))));
    store.commit(1, &changes).await.unwrap();
    let (_, entities) = stored(store).await;
    assert!(entities.contains_key(&EntityId::Relation(again.id)));
    assert!(
        !entities.contains_key(&EntityId::Policy(fixture.policy.id)) && !entities.contains_key(&EntityId::MaskingPolicy(fixture.mask.id))
    );
}

macro_rules! conformance {
    ($($case:ident),*) => {
        mod memory {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(&super::MemoryStore::new()).await;
                }
            )*
        }

        mod sqlite {
            $(
                #[tokio::test]
                async fn $case() {
                    let folder = tempfile::tempdir().unwrap();
                    let path = folder.path().join("lazaret.db");
                    let store = super::SqliteStore::open(&path).await.unwrap();
                    super::$case(&store).await;
                    // A reopened store has the very same.
                    let before = super::stored(&store).await;
                    store.close().await;
                    let reopened = super::SqliteStore::open(&path).await.unwrap();
                    assert_eq!(super::stored(&reopened).await, before);
                }
            )*
        }
    };
}

conformance!(keeps_every_kind, replaces_and_deletes, refuses_a_stale_epoch, refuses_conflicts_whole, frees_names);

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("lazaret.db")).await.unwrap();
    store.commit(0, &Fixture::new().puts()).await.unwrap();
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        names.insert(entry.file_name().into_string().unwrap());
    }
    assert_eq!(names, BTreeSet::from(["lazaret.db", "lazaret.db-shm", "lazaret.db-wal"].map(str::to_owned)));
}

#[tokio::test]
async fn two_handles_on_one_file_exclude_each_other_by_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lazaret.db");
    let (one, other) = (SqliteStore::open(&path).await.unwrap(), SqliteStore::open(&path).await.unwrap());
    one.commit(0, &Fixture::new().puts()).await.unwrap();
    assert!(matches!(other.commit(0, &[]).await, Err(StoreError::Stale { expected: 0, found: 1 })));
    assert_eq!(stored(&one).await, stored(&other).await);
}

async fn open_error(path: &Path) -> String {
    SqliteStore::open(path).await.expect_err("must not open").to_string()
}

#[tokio::test]
async fn what_is_no_store_is_refused_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.db");
    std::fs::write(&text, "once upon a time ".repeat(1000)).unwrap();
    assert_eq!(open_error(&text).await, "metadata store is damaged: file is not a database");

    let path = folder.path().join("damaged.db");
    let store = SqliteStore::open(&path).await.unwrap();
    store.commit(0, &Fixture::new().puts()).await.unwrap();
    store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    let (half, end) = (bytes.len() / 2, bytes.len());
    bytes[half..end].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = open_error(&path).await;
    assert!(error.starts_with("metadata store is damaged: "), "{error}");

    let error = open_error(&folder.path().join("no/such/folder.db")).await;
    assert_eq!(error, "metadata store cannot be opened");
}

#[tokio::test]
async fn a_newer_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lazaret.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (7, 'later', 1, x'00', 0)";
    store.execute_for_test(newer).await;
    store.close().await;
    let error = open_error(&path).await;
    assert_eq!(error, "metadata store was written by a newer version (its schema is 7, this version knows 5)");
}

#[tokio::test]
async fn a_store_from_before_masks_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lazaret.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let fixture = Fixture::new();
    let unmasked: Vec<_> = fixture.puts().into_iter().filter(|put| !matches!(put, Change::Put(Entity::MaskingPolicy(_)))).collect();
    store.commit(0, &unmasked).await.unwrap();
    store.execute_for_test("DROP TABLE masking_policies").await;
    store.execute_for_test("DELETE FROM _sqlx_migrations WHERE version = 2").await;
    store.close().await;
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(stored(&store).await.1.len(), unmasked.len());
    store.commit(1, &[Change::Put(Entity::MaskingPolicy(fixture.mask.clone()))]).await.unwrap();
    assert_eq!(stored(&store).await.1, by_id(fixture.entities()));
}

#[tokio::test]
async fn an_unreadable_record_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("lazaret.db")).await.unwrap();
    let fixture = Fixture::new();
    store.commit(0, &fixture.puts()).await.unwrap();
    store.execute_for_test("UPDATE schemas SET body = '{\"id\": 12}'").await;
    let error = store.load().await.unwrap_err();
    assert_eq!(error.to_string(), format!("metadata record {} cannot be read", fixture.schema.id));
}

#[tokio::test]
async fn a_store_serves_a_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lazaret.db");
    let fixture = Fixture::new();
    {
        let store = Arc::new(SqliteStore::open(&path).await.unwrap());
        let metadata = Metadata::open(store.clone()).await.unwrap();
        metadata.change(|_| Ok::<_, StateError>(fixture.puts())).await.unwrap();
        store.close().await;
    }
    let metadata = Metadata::open(Arc::new(SqliteStore::open(&path).await.unwrap())).await.unwrap();
    assert!(metadata.current().has_same_records(&fixture.state()));
}
