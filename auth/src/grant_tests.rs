//! The rules of `sql.md` (Privileges, Row policies 1–3) as a table of who sees what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use super::*;
use crate::emergency::{EmergencyAccess, EmergencyEnd, EmergencyEndCause, micros};
use crate::ids::{CatalogId, EmergencyId, GrantId, PolicyId, RoleId, SchemaId};
use crate::principal::{CredentialKind, Grantee, GroupName, Principal, PrincipalName};
use crate::privilege::{PrivilegeGrant, SystemPrivilege};

/// Row-level security is off, no mask binds and every column is granted.
fn hides_nothing(grant: &Grant) -> bool {
    matches!(grant.rows(), RowSecurity::Off) && grant.masks().is_empty() && *grant.columns() == GrantedColumns::Every
}

/// One table in a schema in a catalog, and what is said about them.
struct Store {
    path: ObjectPath,
    members: Vec<(Grantee, RoleId)>,
    grants: BTreeMap<ObjectId, Vec<PrivilegeGrant>>,
    policies: BTreeMap<ObjectId, Vec<Arc<RowPolicy>>>,
    masks: Vec<Arc<MaskingPolicy>>,
    row_security: bool,
    emergencies: Vec<Arc<EmergencyAccess>>,
}

impl AccessReader for Store {
    fn epoch(&self) -> u64 {
        7
    }

    fn roles_of(&self, name: &PrincipalName, groups: &BTreeSet<GroupName>) -> BTreeSet<RoleId> {
        let mut held = BTreeSet::new();
        loop {
            let before = held.len();
            for (member, role) in &self.members {
                let holds = match member {
                    Grantee::User(user) => user == name,
                    Grantee::Group(group) => groups.contains(group),
                    Grantee::Role(inner) => held.contains(inner),
                    Grantee::All => false,
                };
                if holds {
                    held.insert(*role);
                }
            }
            if held.len() == before {
                return held;
            }
        }
    }

    fn roles_within(&self, role: RoleId) -> BTreeSet<RoleId> {
        let mut within = BTreeSet::from([role]);
        loop {
            let more = self.members.iter().filter(|(member, _)| matches!(member, Grantee::Role(inner) if within.contains(inner)));
            let more: Vec<RoleId> = more.map(|(_, role)| *role).filter(|role| !within.contains(role)).collect();
            if more.is_empty() {
                return within;
            }
            within.extend(more);
        }
    }

    fn role_name(&self, role: RoleId) -> Option<String> {
        Some(role.to_string())
    }

    fn is_enabled(&self, _: &PrincipalName) -> bool {
        true
    }

    fn grants_on(&self, object: ObjectId) -> &[PrivilegeGrant] {
        self.grants.get(&object).map_or(&[], Vec::as_slice)
    }

    fn row_security(&self, _: TableId) -> bool {
        self.row_security
    }

    fn policies_on(&self, object: ObjectId) -> &[Arc<RowPolicy>] {
        self.policies.get(&object).map_or(&[], Vec::as_slice)
    }

    fn masks_on(&self, table: TableId) -> &[Arc<MaskingPolicy>] {
        if Some(table) == self.path.table { &self.masks } else { &[] }
    }

    fn emergency_access(&self, id: EmergencyId) -> Option<&Arc<EmergencyAccess>> {
        self.emergencies.iter().find(|access| access.id == id)
    }
}

impl Store {
    fn new() -> Self {
        let path = ObjectPath::table(CatalogId::generate(), SchemaId::generate(), TableId::generate());
        Self {
            path,
            members: Vec::new(),
            grants: BTreeMap::new(),
            policies: BTreeMap::new(),
            masks: Vec::new(),
            row_security: false,
            emergencies: Vec::new(),
        }
    }

    fn table(&self) -> ObjectId {
        ObjectId::Table(self.path.table.unwrap())
    }

    fn schema(&self) -> ObjectId {
        ObjectId::Schema(self.path.schema.unwrap())
    }

    fn catalog(&self) -> ObjectId {
        ObjectId::Catalog(self.path.catalog)
    }

    fn say(&mut self, deny: bool, privilege: Privilege, object: ObjectId, grantee: &Grantee, columns: Option<&[&str]>) {
        self.grants.entry(object).or_default().push(PrivilegeGrant {
            id: GrantId::generate(),
            object,
            privilege,
            grantee: grantee.clone(),
            columns: columns.map(|columns| columns.iter().map(ToString::to_string).collect()),
            deny,
            grant_option: false,
            grantor: PrincipalName::local("admin"),
        });
    }

    fn grant(&mut self, privilege: Privilege, object: ObjectId, grantee: &Grantee) {
        self.say(false, privilege, object, grantee, None);
    }

    fn deny(&mut self, privilege: Privilege, object: ObjectId, grantee: &Grantee) {
        self.say(true, privilege, object, grantee, None);
    }

    fn member(&mut self, member: &Grantee, role: RoleId) {
        self.members.push((member.clone(), role));
    }

    fn policy(&mut self, name: &str, kind: PolicyKind, object: ObjectId, to: &[Grantee], except: &[Grantee]) {
        self.add_policy(name, kind, PolicyCommand::All, Some("true"), object, to, except);
    }

    #[allow(clippy::too_many_arguments)]
    fn add_policy(
        &mut self,
        name: &str,
        kind: PolicyKind,
        command: PolicyCommand,
        using: Option<&str>,
        object: ObjectId,
        to: &[Grantee],
        except: &[Grantee],
    ) {
        self.row_security = true;
        self.policies.entry(object).or_default().push(Arc::new(RowPolicy {
            id: PolicyId::generate(),
            name: name.to_owned(),
            object,
            kind,
            command,
            to: to.to_vec(),
            except: except.to_vec(),
            using: using.map(str::to_owned),
            with_check: None,
            columns: Vec::new(),
            subqueries: None,
            creator: PrincipalName::local("admin"),
            version: 1,
            comment: None,
        }));
    }

    fn is(&self, name: &str, groups: &[&str]) -> Authority {
        let mut principal = Principal::local_user(name, CredentialKind::Password, None, None);
        if !groups.is_empty() {
            principal.name = PrincipalName::new("hospital", name);
            principal.groups = groups.iter().map(|group| hospital(group)).collect();
        }
        Authority::of(self, Arc::new(principal))
    }

    fn reads(&self, who: &Authority) -> Result<GrantedColumns, Denied> {
        authorize_read(self, who, who, self.path).map(|grant| grant.columns().clone())
    }

    /// The names of the policies that bind: permissive, restrictive.
    fn bound(&self, who: &Authority) -> (Vec<String>, Vec<String>) {
        let grant = authorize_read(self, who, who, self.path).unwrap();
        match grant.rows() {
            RowSecurity::Off => panic!("row security is off"),
            RowSecurity::On { permissive, restrictive } => (names(permissive), names(restrictive)),
        }
    }
}

fn names(policies: &[Arc<RowPolicy>]) -> Vec<String> {
    policies.iter().map(|policy| policy.name.clone()).collect()
}

fn hospital(group: &str) -> GroupName {
    GroupName { issuer: "hospital".to_owned(), group: group.to_owned() }
}

fn user(name: &str) -> Grantee {
    Grantee::User(PrincipalName::local(name))
}

fn only(columns: &[&str]) -> Result<GrantedColumns, Denied> {
    Ok(GrantedColumns::Only(columns.iter().map(ToString::to_string).collect()))
}

const EVERY: Result<GrantedColumns, Denied> = Ok(GrantedColumns::Every);
const HIDDEN: Result<GrantedColumns, Denied> = Err(Denied::NotVisible);

#[test]
fn what_is_not_granted_does_not_exist() {
    let mut store = Store::new();
    assert_eq!(store.reads(&store.is("ana", &[])), HIDDEN);
    store.grant(Privilege::Select, store.catalog(), &user("ana"));
    assert_eq!(store.reads(&store.is("ana", &[])), EVERY);
    assert_eq!(store.reads(&store.is("rui", &[])), HIDDEN);
    let elsewhere = Authority::stored(&store, &PrincipalName::new("hospital", "ana"));
    assert_eq!(store.reads(&elsewhere), HIDDEN, "the same subject of another issuer is somebody else");
    let path = ObjectPath::schema(store.path.catalog, store.path.schema.unwrap());
    assert_eq!(authorize_read(&store, &store.is("ana", &[]), &store.is("ana", &[]), path).unwrap_err(), Denied::NotVisible);
}

#[test]
fn another_privilege_shows_the_table_but_does_not_read_it() {
    for privilege in Privilege::ON_OBJECTS.into_iter().filter(|privilege| *privilege != Privilege::Select) {
        let mut store = Store::new();
        store.grant(privilege, store.schema(), &user("ana"));
        assert_eq!(store.reads(&store.is("ana", &[])), Err(Denied::Missing(Privilege::Select)), "{privilege}");
    }
}

#[test]
fn all_is_everything_but_managing_policies() {
    let mut store = Store::new();
    store.grant(Privilege::All, store.table(), &user("ana"));
    let ana = store.is("ana", &[]);
    for privilege in Privilege::ON_OBJECTS {
        let expected = if privilege == Privilege::ManagePolicies { Err(Denied::Missing(privilege)) } else { Ok(()) };
        assert_eq!(authorize(&store, &ana, store.path, privilege), expected);
    }
}

#[test]
fn deny_wins_wherever_it_stands() {
    for (granted_on, denied_on) in [(0, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let mut store = Store::new();
        let places = [store.table(), store.schema(), store.catalog()];
        let role = RoleId::generate();
        store.member(&user("ana"), role);
        store.grant(Privilege::All, places[granted_on], &user("ana"));
        store.deny(Privilege::Select, places[denied_on], &Grantee::Role(role));
        let ana = store.is("ana", &[]);
        assert_eq!(store.reads(&ana), Err(Denied::Missing(Privilege::Select)));
        assert_eq!(authorize(&store, &ana, store.path, Privilege::Insert), Ok(()));
        assert!(authorize(&store, &ana, store.path, Privilege::All).is_err(), "ALL is not held without one of its parts");
        store.deny(Privilege::All, places[denied_on], &user("ana"));
        assert_eq!(store.reads(&ana), HIDDEN);
        assert!(!is_visible(&store, &ana, store.path));
    }
}

#[test]
fn what_is_denied_altogether_is_hidden_though_something_else_was_granted() {
    let mut store = Store::new();
    store.grant(Privilege::Select, store.catalog(), &user("ana"));
    store.deny(Privilege::Select, store.table(), &user("ana"));
    assert_eq!(store.reads(&store.is("ana", &[])), HIDDEN);
}

#[test]
fn columns_are_granted_one_by_one() {
    let mut store = Store::new();
    store.say(false, Privilege::Select, store.table(), &user("ana"), Some(&["id", "age"]));
    store.say(false, Privilege::Select, store.table(), &user("ana"), Some(&["sex"]));
    assert_eq!(store.reads(&store.is("ana", &[])), only(&["age", "id", "sex"]));
    store.say(true, Privilege::Select, store.table(), &user("ana"), Some(&["age"]));
    assert_eq!(store.reads(&store.is("ana", &[])), only(&["id", "sex"]));
    store.say(true, Privilege::Select, store.table(), &user("ana"), Some(&["id", "sex"]));
    assert_eq!(store.reads(&store.is("ana", &[])), HIDDEN);
}

#[test]
fn a_denied_column_leaves_the_others() {
    let mut store = Store::new();
    store.grant(Privilege::Select, store.table(), &user("ana"));
    store.say(true, Privilege::Select, store.table(), &user("ana"), Some(&["age"]));
    let but_age = GrantedColumns::Except(BTreeSet::from(["age".to_owned()]));
    assert_eq!(store.reads(&store.is("ana", &[])), Ok(but_age.clone()));
    assert!(!but_age.contains("age") && but_age.contains("sex"));
    // A grant on the column does not bring it back, and a denial of the whole takes all.
    store.say(false, Privilege::Select, store.table(), &user("ana"), Some(&["age"]));
    assert_eq!(store.reads(&store.is("ana", &[])), Ok(but_age));
    store.deny(Privilege::Select, store.schema(), &user("ana"));
    assert_eq!(store.reads(&store.is("ana", &[])), HIDDEN);
}

#[test]
fn roles_lie_in_roles_and_groups_give_roles() {
    let mut store = Store::new();
    let (analyst, staff, other) = (RoleId::generate(), RoleId::generate(), RoleId::generate());
    store.member(&Grantee::Role(staff), analyst);
    store.member(&Grantee::Role(analyst), staff);
    store.member(&user("ana"), staff);
    store.member(&Grantee::Group(hospital("night")), staff);
    store.grant(Privilege::Select, store.table(), &Grantee::Role(analyst));
    store.grant(Privilege::Insert, store.table(), &Grantee::Role(other));
    assert_eq!(store.is("ana", &[]).held_roles(), &BTreeSet::from([analyst, staff]));
    assert_eq!(store.reads(&store.is("ana", &[])), EVERY);
    assert_eq!(store.reads(&store.is("eva", &["night"])), EVERY);
    assert_eq!(store.reads(&store.is("eva", &["day"])), HIDDEN);
    assert_eq!(store.reads(&store.is("rui", &[])), HIDDEN);
    // The owner of a view counts with stored grants: a group does not speak for the stored name.
    assert_eq!(store.reads(&Authority::stored(&store, &PrincipalName::new("hospital", "eva"))), HIDDEN);
    assert_eq!(store.reads(&Authority::stored(&store, &PrincipalName::local("ana"))), EVERY);
}

#[test]
fn system_privileges_and_managing_policies_everywhere() {
    let mut store = Store::new();
    let audit = Privilege::System(SystemPrivilege::ReadAudit);
    store.grant(audit, ObjectId::System, &user("dpo"));
    store.grant(Privilege::ManagePolicies, ObjectId::System, &user("dpo"));
    let dpo = store.is("dpo", &[]);
    assert_eq!(authorize_system(&store, &dpo, audit), Ok(()));
    assert_eq!(authorize_system(&store, &store.is("ana", &[]), audit), Err(Denied::Missing(audit)));
    assert_eq!(authorize(&store, &dpo, store.path, Privilege::ManagePolicies), Ok(()));
    assert_eq!(store.reads(&dpo), Err(Denied::Missing(Privilege::Select)));
    store.deny(Privilege::ManagePolicies, store.schema(), &user("dpo"));
    assert_eq!(authorize(&store, &dpo, store.path, Privilege::ManagePolicies), Err(Denied::NotVisible));
}

#[test]
fn permissive_policies_of_every_level_add_up() {
    let mut store = Store::new();
    let role = RoleId::generate();
    store.member(&user("ana"), role);
    store.grant(Privilege::Select, store.catalog(), &Grantee::Role(role));
    store.policy("of the table", PolicyKind::Permissive, store.table(), &[user("ana")], &[]);
    store.policy("of the schema", PolicyKind::Permissive, store.schema(), &[Grantee::Role(role)], &[]);
    store.policy("of the catalog", PolicyKind::Restrictive, store.catalog(), &[Grantee::All], &[]);
    store.policy("for somebody else", PolicyKind::Permissive, store.table(), &[user("rui")], &[]);
    let (permissive, restrictive) = store.bound(&store.is("ana", &[]));
    assert_eq!(permissive, ["of the table", "of the schema"]);
    assert_eq!(restrictive, ["of the catalog"]);
}

#[test]
fn nobody_is_exempt_by_rank_and_no_permissive_policy_means_no_rows() {
    let mut store = Store::new();
    for privilege in [Privilege::All, Privilege::ManagePolicies] {
        store.grant(privilege, store.catalog(), &user("admin"));
    }
    let admin = store.is("admin", &[]);
    assert!(hides_nothing(&authorize_read(&store, &admin, &admin, store.path).unwrap()));
    store.row_security = true;
    assert_eq!(store.bound(&admin), (vec![], vec![]));
    let grant = authorize_read(&store, &admin, &admin, store.path).unwrap();
    assert!(!hides_nothing(&grant));
    assert_eq!(grant.epoch(), 7);
}

#[test]
fn policies_of_other_commands_or_without_using_show_nothing() {
    let mut store = Store::new();
    store.grant(Privilege::Select, store.table(), &user("ana"));
    let table = store.table();
    for command in [PolicyCommand::Insert, PolicyCommand::Update, PolicyCommand::Delete] {
        store.add_policy("for writing", PolicyKind::Permissive, command, Some("true"), table, &[Grantee::All], &[]);
    }
    store.add_policy("check only", PolicyKind::Permissive, PolicyCommand::All, None, table, &[Grantee::All], &[]);
    assert_eq!(store.bound(&store.is("ana", &[])), (vec![], vec![]));
    store.add_policy("reading", PolicyKind::Permissive, PolicyCommand::Select, Some("true"), table, &[Grantee::All], &[]);
    assert_eq!(store.bound(&store.is("ana", &[])).0, ["reading"]);
}

#[test]
fn except_frees_from_a_restriction_and_takes_away_what_was_shown() {
    let mut store = Store::new();
    let auditors = RoleId::generate();
    store.member(&user("eva"), auditors);
    store.grant(Privilege::Select, store.table(), &Grantee::All);
    store.policy("shown", PolicyKind::Permissive, store.table(), &[Grantee::All], &[user("rui")]);
    store.policy("fence", PolicyKind::Restrictive, store.table(), &[Grantee::All], &[Grantee::Role(auditors)]);
    let all = |name: &str| store.bound(&store.is(name, &[]));
    assert_eq!(all("ana"), (vec!["shown".to_owned()], vec!["fence".to_owned()]));
    assert_eq!(all("rui"), (vec![], vec!["fence".to_owned()]));
    assert_eq!(all("eva"), (vec!["shown".to_owned()], vec![]));
}

/// SET ROLE narrows what one may do, never what binds: giving up a role gives up what it permits and frees from nothing.
#[test]
fn giving_up_a_role_never_shows_more() {
    let mut store = Store::new();
    let (reader, fenced) = (RoleId::generate(), RoleId::generate());
    for role in [reader, fenced] {
        store.member(&user("ana"), role);
    }
    let (as_reader, as_fenced) = (Grantee::Role(reader), Grantee::Role(fenced));
    store.grant(Privilege::Select, store.table(), &user("ana"));
    store.grant(Privilege::Insert, store.table(), &as_reader);
    store.grant(Privilege::Delete, store.table(), &user("ana"));
    store.deny(Privilege::Delete, store.table(), &as_fenced);
    store.policy("by role", PolicyKind::Permissive, store.table(), std::slice::from_ref(&as_reader), &[]);
    store.policy("not for the fenced", PolicyKind::Permissive, store.table(), &[Grantee::All], std::slice::from_ref(&as_fenced));
    store.policy("fence", PolicyKind::Restrictive, store.table(), &[as_fenced], &[]);
    store.policy("lifted by role", PolicyKind::Restrictive, store.table(), &[Grantee::All], &[as_reader]);

    let whole = store.is("ana", &[]);
    assert_eq!(store.bound(&whole), (vec!["by role".to_owned()], vec!["fence".to_owned()]));
    assert_eq!(authorize(&store, &whole, store.path, Privilege::Insert), Ok(()));

    let narrow = store.is("ana", &[]).narrowed_to(&BTreeSet::from([RoleId::generate()]));
    assert!(narrow.active_roles().is_empty(), "a role that is not held cannot be activated");
    assert_eq!(store.bound(&narrow), (vec![], vec!["fence".to_owned(), "lifted by role".to_owned()]));
    assert_eq!(authorize(&store, &narrow, store.path, Privilege::Insert), Err(Denied::Missing(Privilege::Insert)));
    assert_eq!(authorize(&store, &narrow, store.path, Privilege::Delete), Err(Denied::Missing(Privilege::Delete)));
}

/// A view's definition is resolved with its owner's privileges, and the policies are those of the session user.
#[test]
fn rights_and_reader_differ_inside_a_view() {
    let mut store = Store::new();
    store.grant(Privilege::Select, store.table(), &user("owner"));
    store.policy("for ana", PolicyKind::Permissive, store.table(), &[user("ana")], &[]);
    store.policy("for the owner", PolicyKind::Permissive, store.table(), &[user("owner")], &[]);
    let owner = Authority::stored(&store, &PrincipalName::local("owner"));
    let ana = store.is("ana", &[]);
    assert_eq!(store.reads(&ana), HIDDEN);
    let grant = authorize_read(&store, &owner, &ana, store.path).unwrap();
    match grant.rows() {
        RowSecurity::On { permissive, .. } => assert_eq!(names(permissive), ["for ana"]),
        RowSecurity::Off => panic!("row security is off"),
    }
}

impl Store {
    fn mask(&mut self, name: &str, columns: &[(&str, Option<i32>)], priority: i64, to: &[Grantee], except: &[Grantee]) {
        let columns = columns.iter().map(|(name, field_id)| BoundColumn {
            name: (*name).to_owned(),
            field_id: *field_id,
            data_type: "Utf8".to_owned(),
        });
        self.masks.push(Arc::new(MaskingPolicy {
            id: PolicyId::generate(),
            name: name.to_owned(),
            table: self.path.table.unwrap(),
            columns: columns.collect(),
            to: to.to_vec(),
            except: except.to_vec(),
            masking: crate::policy::Masking::Action(crate::policy::MaskAction::ReplaceWithNull),
            reads: Vec::new(),
            priority,
            creator: PrincipalName::local("admin"),
            version: 1,
            comment: None,
        }));
    }

    /// `column: mask` of what binds.
    fn masked(&self, who: &Authority) -> Vec<String> {
        let grant = authorize_read(self, who, who, self.path).unwrap();
        assert_eq!(hides_nothing(&grant), grant.masks().is_empty());
        let mut masked: Vec<_> = grant.masks().iter().map(|mask| format!("{}: {}", mask.column.name, mask.policy.name)).collect();
        masked.sort();
        masked
    }
}

#[test]
fn of_the_masks_that_bind_the_highest_of_each_column_wins() {
    let mut store = Store::new();
    let nurses = RoleId::generate();
    store.member(&user("ana"), nurses);
    store.grant(Privilege::Select, store.table(), &Grantee::All);
    store.mask("low", &[("a", None), ("b", None)], -1, &[Grantee::All], &[]);
    store.mask("mid", &[("b", None)], 0, &[Grantee::Role(nurses)], &[]);
    store.mask("high", &[("b", None)], 5, &[user("rui")], &[]);
    assert_eq!(store.masked(&store.is("ana", &[])), ["a: low", "b: mid"]);
    assert_eq!(store.masked(&store.is("rui", &[])), ["a: low", "b: high"]);
    assert_eq!(store.masked(&store.is("eva", &[])), ["a: low", "b: low"]);

    // A column that was renamed between two masks is one column.
    let mut store = Store::new();
    store.grant(Privilege::Select, store.table(), &Grantee::All);
    store.mask("older", &[("a", Some(1))], 0, &[Grantee::All], &[]);
    store.mask("newer", &[("renamed", Some(1)), ("a", Some(2))], 1, &[Grantee::All], &[]);
    assert_eq!(store.masked(&store.is("eva", &[])), ["a: newer", "renamed: newer"]);
}

#[test]
fn a_mask_binds_by_what_is_held_and_frees_by_what_is_active() {
    let mut store = Store::new();
    let (nurses, doctors) = (RoleId::generate(), RoleId::generate());
    for role in [nurses, doctors] {
        store.member(&user("ana"), role);
    }
    store.member(&user("rui"), doctors);
    store.grant(Privilege::Select, store.table(), &Grantee::All);
    store.mask("nurses", &[("a", None)], 0, &[Grantee::Role(nurses)], &[]);
    store.mask("doctors excepted", &[("b", None)], 0, &[Grantee::All], &[Grantee::Role(doctors)]);
    assert_eq!(store.masked(&store.is("ana", &[])), ["a: nurses"]);
    assert!(store.masked(&store.is("rui", &[])).is_empty());
    assert_eq!(store.masked(&store.is("eva", &[])), ["b: doctors excepted"]);
    let narrow = store.is("ana", &[]).narrowed_to(&BTreeSet::new());
    assert_eq!(store.masked(&narrow), ["a: nurses", "b: doctors excepted"]);
    // In a view of rui's, ana is who reads.
    let grant = authorize_read(&store, &store.is("rui", &[]), &store.is("ana", &[]), store.path).unwrap();
    assert_eq!(grant.masks().len(), 1);
}

/// One table with a policy that shows nothing and a mask; `ana` may read it, and use emergency access.
fn emergency() -> (Store, EmergencyAccess) {
    let mut store = Store::new();
    store.grant(Privilege::Select, store.table(), &user("ana"));
    store.grant(Privilege::System(SystemPrivilege::EmergencyAccess), ObjectId::System, &user("ana"));
    store.policy("none", PolicyKind::Restrictive, store.table(), &[Grantee::All], &[]);
    store.mask("hidden", &[("name", None)], 0, &[Grantee::All], &[]);
    let access = EmergencyAccess {
        id: EmergencyId::generate(),
        holder: PrincipalName::local("ana"),
        session: "s1".to_owned(),
        reason: "an outbreak".to_owned(),
        started_us: 1_000_000,
        expires_us: 61_000_000,
        tables: None,
        end: None,
    };
    store.emergencies.push(Arc::new(access.clone()));
    (store, access)
}

fn at_s(seconds: u64) -> std::time::SystemTime {
    std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
}

/// Whether `who` reads past the policy and the mask.
fn is_lifted(store: &Store, who: &Authority) -> bool {
    let grant = authorize_read(store, who, who, store.path).unwrap();
    let free = matches!(grant.rows(), RowSecurity::Off) && grant.masks().is_empty();
    assert_eq!(grant.lifted().is_some(), free);
    if let Some(lifted) = grant.lifted() {
        assert_eq!(Some(lifted.access), who.emergency().map(|access| access.id));
        assert!(matches!(&lifted.rows, RowSecurity::On { restrictive, .. } if restrictive.len() == 1) && lifted.masks.len() == 1);
    }
    free
}

#[test]
fn emergency_access_lifts_in_its_session_until_it_ends() {
    let (mut store, access) = emergency();
    let ana = |store: &Store, session: &str, seconds| store.is("ana", &[]).under_emergency(store, access.id, session, at_s(seconds));
    assert!(!is_lifted(&store, &store.is("ana", &[])), "without saying so");
    assert!(is_lifted(&store, &ana(&store, "s1", 60)));
    assert!(!is_lifted(&store, &ana(&store, "s1", 61)), "expired");
    assert!(!is_lifted(&store, &ana(&store, "s2", 2)), "another session");
    let unknown = store.is("ana", &[]).under_emergency(&store, EmergencyId::generate(), "s1", at_s(2));
    assert!(!is_lifted(&store, &unknown));
    let end = EmergencyEnd { at_us: micros(at_s(2)), cause: EmergencyEndCause::Expired };
    store.emergencies = vec![Arc::new(EmergencyAccess { end: Some(end), ..access.clone() })];
    assert!(!is_lifted(&store, &ana(&store, "s1", 2)), "ended");
}

#[test]
fn emergency_access_is_its_holders_with_the_privilege_and_of_no_stored_name() {
    let (mut store, access) = emergency();
    for other in [user("rui"), Grantee::User(PrincipalName::new("hospital", "ana"))] {
        store.grant(Privilege::Select, store.table(), &other);
        store.grant(Privilege::System(SystemPrivilege::EmergencyAccess), ObjectId::System, &other);
    }
    let under = |store: &Store, who: Authority| who.under_emergency(store, access.id, "s1", at_s(2));
    assert!(is_lifted(&store, &under(&store, store.is("ana", &[]))));
    assert!(!is_lifted(&store, &under(&store, store.is("rui", &[]))));
    assert!(!is_lifted(&store, &under(&store, store.is("ana", &["g"]))), "the same subject of another issuer");
    assert!(!is_lifted(&store, &under(&store, Authority::stored(&store, &PrincipalName::local("ana")))), "the owner of a view");
    store.deny(Privilege::System(SystemPrivilege::EmergencyAccess), ObjectId::System, &user("ana"));
    assert!(!is_lifted(&store, &under(&store, store.is("ana", &[]))));
    store.grants.remove(&ObjectId::System);
    assert!(!is_lifted(&store, &under(&store, store.is("ana", &[]))));
}

#[test]
fn emergency_access_needs_the_privilege_of_an_active_role() {
    let (mut store, access) = emergency();
    let role = RoleId::generate();
    store.member(&user("ana"), role);
    store.grants.remove(&ObjectId::System);
    store.grant(Privilege::System(SystemPrivilege::EmergencyAccess), ObjectId::System, &Grantee::Role(role));
    let narrowed = |roles: &[RoleId]| {
        let ana = store.is("ana", &[]).narrowed_to(&roles.iter().copied().collect());
        ana.under_emergency(&store, access.id, "s1", at_s(2))
    };
    assert!(is_lifted(&store, &narrowed(&[role])));
    assert!(!is_lifted(&store, &narrowed(&[])));
}

#[test]
fn emergency_access_gives_no_privilege_and_covers_what_it_names() {
    let (mut store, access) = emergency();
    let ana = |store: &Store| store.is("ana", &[]).under_emergency(store, access.id, "s1", at_s(2));
    store.say(true, Privilege::Select, store.table(), &user("ana"), Some(&["age"]));
    assert_eq!(store.reads(&ana(&store)), Ok(GrantedColumns::Except(BTreeSet::from(["age".to_owned()]))));
    store.deny(Privilege::Select, store.schema(), &user("ana"));
    assert_eq!(store.reads(&ana(&store)), HIDDEN);
    store.grants.remove(&store.schema());
    store.grants.remove(&store.table());
    assert_eq!(store.reads(&ana(&store)), HIDDEN);
    store.grant(Privilege::Select, store.table(), &user("ana"));
    for (tables, lifted) in [(vec![store.path.table.unwrap()], true), (vec![TableId::generate()], false), (Vec::new(), false)] {
        store.emergencies = vec![Arc::new(EmergencyAccess { tables: Some(tables), ..access.clone() })];
        assert_eq!(is_lifted(&store, &ana(&store)), lifted);
    }
    // Nothing binds: nothing is lifted.
    store.emergencies = vec![Arc::new(access.clone())];
    store.row_security = false;
    store.masks.clear();
    let grant = authorize_read(&store, &ana(&store), &ana(&store), store.path).unwrap();
    assert!(grant.lifted().is_none() && hides_nothing(&grant));
}

#[test]
fn adding_rows_is_a_privilege_of_its_own() {
    let mut store = Store::new();
    let adds = |store: &Store, name: &str| authorize_insert(store, &store.is(name, &[]), store.path).map(|grant| grant.table());
    let table = store.path.table.unwrap();
    assert_eq!(adds(&store, "ana"), Err(Denied::NotVisible));
    store.grant(Privilege::Select, store.table(), &user("ana"));
    store.grant(Privilege::Insert, store.schema(), &user("rui"));
    store.grant(Privilege::All, store.catalog(), &user("eva"));
    assert_eq!(adds(&store, "ana"), Err(Denied::Missing(Privilege::Insert)));
    assert_eq!(adds(&store, "rui"), Ok(table));
    assert_eq!(adds(&store, "eva"), Ok(table));
    assert_eq!(store.reads(&store.is("rui", &[])), Err(Denied::Missing(Privilege::Select)));
    store.deny(Privilege::Insert, store.table(), &user("eva"));
    assert_eq!(adds(&store, "eva"), Err(Denied::Missing(Privilege::Insert)));
    assert_eq!(
        authorize_insert(&store, &store.is("rui", &[]), ObjectPath::catalog(store.path.catalog)).map(|_| ()),
        Err(Denied::NotVisible)
    );
}

#[test]
fn new_rows_are_checked_by_the_policies_for_insert_and_all() {
    let mut store = Store::new();
    let everyone = [Grantee::All];
    store.grant(Privilege::Insert, store.table(), &Grantee::All);
    let checks = |store: &Store, name: &str| match authorize_insert(store, &store.is(name, &[]), store.path).unwrap().checks() {
        RowSecurity::Off => None,
        RowSecurity::On { permissive, restrictive } => Some((names(permissive), names(restrictive))),
    };
    assert_eq!(checks(&store, "ana"), None);
    let table = store.table();
    for (name, command) in [
        ("all", PolicyCommand::All),
        ("select", PolicyCommand::Select),
        ("insert", PolicyCommand::Insert),
        ("update", PolicyCommand::Update),
        ("delete", PolicyCommand::Delete),
    ] {
        store.add_policy(name, PolicyKind::Permissive, command, Some("true"), table, &everyone, &[user("rui")]);
        store.add_policy(&format!("no {name}"), PolicyKind::Restrictive, command, Some("true"), store.catalog(), &everyone, &[]);
    }
    let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(checks(&store, "ana"), Some((texts(&["all", "insert"]), texts(&["no all", "no insert"]))));
    assert_eq!(checks(&store, "rui"), Some((texts(&[]), texts(&["no all", "no insert"]))));

    let before = authorize_insert(&store, &store.is("ana", &[]), store.path).unwrap();
    assert!(before.has_same_checks(&before.clone()));
    store.add_policy("more", PolicyKind::Restrictive, PolicyCommand::Insert, Some("true"), table, &everyone, &[]);
    assert!(!before.has_same_checks(&authorize_insert(&store, &store.is("ana", &[]), store.path).unwrap()));
}

/// What is told of policies is what binds, with the reason for the rest.
#[test]
fn effective_policies_are_those_that_bind() {
    use crate::effective::{GrantEffect, MaskEffect, effective};
    let mut store = Store::new();
    let (nurses, auditors) = (RoleId::generate(), RoleId::generate());
    store.member(&user("ana"), nurses);
    store.member(&Grantee::Role(nurses), auditors);
    store.grant(Privilege::Select, store.schema(), &Grantee::Role(auditors));
    store.grant(Privilege::Insert, store.table(), &user("ana"));
    store.grant(Privilege::Insert, store.table(), &user("rui"));
    store.deny(Privilege::Insert, store.catalog(), &Grantee::Role(nurses));
    store.policy("shown", PolicyKind::Permissive, store.table(), &[Grantee::Role(nurses)], &[]);
    store.policy("not hers", PolicyKind::Permissive, store.table(), &[Grantee::All], &[user("ana")]);
    store.policy("of others", PolicyKind::Permissive, store.table(), &[user("rui")], &[]);
    store.policy("fence", PolicyKind::Restrictive, store.catalog(), &[Grantee::All], &[Grantee::Role(auditors)]);
    store.mask("low", &[("a", None), ("b", None)], -1, &[Grantee::All], &[]);
    store.mask("high", &[("b", None)], 1, &[Grantee::Role(auditors)], &[]);
    store.mask("lifted", &[("c", None)], 1, &[Grantee::All], &[user("ana")]);

    let ana = store.is("ana", &[]);
    let told = effective(&store, &ana, &ana, store.path);
    assert!(told.row_security);
    let grants: Vec<_> = told.grants.iter().map(|(grant, effect)| (grant.privilege, grant.deny, *effect)).collect();
    assert_eq!(
        grants,
        [
            (Privilege::Insert, false, GrantEffect::Denied),
            (Privilege::Select, false, GrantEffect::Applies),
            (Privilege::Insert, true, GrantEffect::Applies)
        ]
    );
    let policies: Vec<_> = told.policies.iter().map(|(policy, stance)| (policy.name.as_str(), *stance)).collect();
    assert_eq!(policies, [("shown", Stance::Binds), ("not hers", Stance::Exempted), ("fence", Stance::Exempted)]);
    let columns = |columns: &[BoundColumn]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>().join(",");
    let masks: Vec<_> = told.masks.iter().map(|(mask, effect)| (mask.name.as_str(), effect)).collect();
    assert!(matches!(masks[0], ("low", MaskEffect::Binds { masked, outranked }) if columns(masked) == "a" && columns(outranked) == "b"));
    assert!(matches!(masks[1], ("high", MaskEffect::Binds { masked, outranked }) if columns(masked) == "b" && outranked.is_empty()));
    assert!(matches!(masks[2], ("lifted", MaskEffect::Exempted)));

    let narrow = ana.narrowed_to(&BTreeSet::new());
    let told = effective(&store, &narrow, &narrow, store.path);
    assert_eq!(told.grants[1].1, GrantEffect::Inactive);
    let stances: Vec<_> = told.policies.iter().map(|(policy, stance)| (policy.name.as_str(), *stance)).collect();
    assert_eq!(stances, [("shown", Stance::Inactive), ("not hers", Stance::Exempted), ("fence", Stance::Binds)]);

    let nurse = Authority::of_role(&store, nurses);
    assert_eq!(*nurse.held_roles(), BTreeSet::from([nurses, auditors]));
    assert_eq!(store.bound(&nurse), (vec!["shown".to_owned(), "not hers".to_owned()], vec![]));
}
