//! The rules of `sql.md` (Privileges, Row policies 1–3) as a table of who sees what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use super::*;
use crate::ids::{CatalogId, GrantId, PolicyId, RoleId, SchemaId};
use crate::principal::{CredentialKind, Grantee, GroupName, Principal, PrincipalName};
use crate::privilege::{PrivilegeGrant, SystemPrivilege};

/// One table in a schema in a catalog, and what is said about them.
struct Store {
    path: ObjectPath,
    members: Vec<(Grantee, RoleId)>,
    grants: BTreeMap<ObjectId, Vec<PrivilegeGrant>>,
    policies: BTreeMap<ObjectId, Vec<Arc<RowPolicy>>>,
    row_security: bool,
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
}

impl Store {
    fn new() -> Self {
        let path = ObjectPath::table(CatalogId::generate(), SchemaId::generate(), TableId::generate());
        Self { path, members: Vec::new(), grants: BTreeMap::new(), policies: BTreeMap::new(), row_security: false }
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
fn a_denied_column_closes_a_whole_grant() {
    let mut store = Store::new();
    store.grant(Privilege::Select, store.table(), &user("ana"));
    store.say(true, Privilege::Select, store.table(), &user("ana"), Some(&["age"]));
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
    assert!(authorize_read(&store, &admin, &admin, store.path).unwrap().is_unrestricted());
    store.row_security = true;
    assert_eq!(store.bound(&admin), (vec![], vec![]));
    let grant = authorize_read(&store, &admin, &admin, store.path).unwrap();
    assert!(!grant.is_unrestricted());
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
