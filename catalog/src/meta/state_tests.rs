//! The rules of a state, and what the access rules read from it.

use std::collections::BTreeSet;
use std::sync::Arc;

use lazaret_auth::{
    AccessReader, CatalogId, CertificateSubject, GrantId, Grantee, GroupName, ObjectId, ObjectPath, PolicyId, PrincipalName, RoleId,
    RowPolicy, TableId, TokenId, UserId,
};

use super::conformance::{Fixture, select_on, table};
use super::*;

fn put(entity: Entity) -> Vec<Change> {
    vec![Change::Put(entity)]
}

fn refused(state: &State, changes: &[Change]) -> String {
    state.apply(changes).expect_err("must be refused").to_string()
}

#[test]
fn looks_up_by_name_and_by_id() {
    let fixture = Fixture::new();
    let state = fixture.state();
    let catalog = state.catalog("lake").unwrap();
    let schema = state.schema(catalog.id, "sinan").unwrap();
    let relation = state.relation(schema.id, "cases").unwrap();
    assert_eq!(**relation, fixture.table);
    assert_eq!(state.path_of(relation.id), Some(ObjectPath::table(catalog.id, schema.id, relation.id)));
    assert_eq!(state.qualified_name(relation.id).unwrap(), ["lake", "sinan", "cases"]);
    assert!(state.catalog("Lake").is_none(), "names compare exactly");
    assert!(state.path_of(TableId::generate()).is_none());
    assert_eq!(state.relations_in(schema.id).map(|it| it.name.as_str()).collect::<Vec<_>>(), ["cases", "weekly"]);
    assert_eq!(state.roles().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["analyst", "reader"]);
    assert_eq!(state.policy(ObjectId::Table(relation.id), "by_region").unwrap().id, fixture.policy.id);
}

#[test]
fn a_change_makes_a_new_state_and_leaves_the_old_one() {
    let fixture = Fixture::new();
    let before = fixture.state();
    let renamed = Relation { name: "notifications".into(), ..fixture.table.clone() };
    let after = before.apply(&put(Entity::Relation(renamed))).unwrap();
    assert_eq!((before.epoch(), after.epoch()), (1, 2));
    assert!(before.relation(fixture.schema.id, "cases").is_some() && before.relation(fixture.schema.id, "notifications").is_none());
    assert!(after.relation(fixture.schema.id, "cases").is_none() && after.relation(fixture.schema.id, "notifications").is_some());
    assert_eq!(after.grants_on(ObjectId::Table(fixture.table.id)).len(), 1, "grants follow the id");
}

#[test]
fn a_parent_is_not_dropped_before_its_children() {
    let fixture = Fixture::new();
    let state = fixture.state();
    let delete = |id| vec![Change::Delete(id)];
    let (catalog, schema) = (EntityId::Catalog(fixture.catalog.id), EntityId::Schema(fixture.schema.id));
    assert_eq!(refused(&state, &delete(catalog)), "catalog \"lake\" cannot be dropped: schemas depend on it");
    assert_eq!(refused(&state, &delete(schema)), "schema \"sinan\" cannot be dropped: tables or views depend on it");
    let relation = EntityId::Relation(fixture.table.id);
    assert_eq!(refused(&state, &delete(relation)), "table or view \"cases\" cannot be dropped: grants depend on it");

    let after = state.apply(&state.cascade(catalog)).unwrap();
    assert_eq!((after.catalogs().count(), after.relations().count(), after.policies().count(), after.masks().count()), (0, 0, 0, 0));
    assert_eq!((after.users().count(), after.privilege_grants().count()), (1, 0));
}

#[test]
fn a_user_goes_with_its_grants_but_not_before_its_views_and_policies() {
    let fixture = Fixture::new();
    let state = fixture.state();
    let user = EntityId::User(fixture.user.id);
    assert_eq!(refused(&state, &[Change::Delete(user)]), "user \"ana\" cannot be dropped: role grants depend on it");
    assert_eq!(refused(&state, &state.cascade(user)), "user \"ana\" cannot be dropped: views depend on it");
    let state = state.apply(&state.cascade(EntityId::Relation(fixture.view.id))).unwrap();
    assert_eq!(refused(&state, &state.cascade(user)), "user \"ana\" cannot be dropped: policies depend on it");
    let state = state.apply(&[Change::Delete(EntityId::Policy(fixture.policy.id))]).unwrap();
    assert_eq!(refused(&state, &state.cascade(user)), "user \"ana\" cannot be dropped: policies depend on it", "a mask is one too");
    let state = state.apply(&[Change::Delete(EntityId::MaskingPolicy(fixture.mask.id))]).unwrap();
    let state = state.apply(&state.cascade(user)).unwrap();

    // Made again, the name inherits nothing.
    let state = state.apply(&put(Entity::User(User { id: UserId::generate(), ..fixture.user.clone() }))).unwrap();
    assert!(state.roles_of(&PrincipalName::local("ana"), &BTreeSet::new()).is_empty());
}

#[test]
fn a_user_goes_with_its_tokens_and_its_certificate() {
    let fixture = Fixture::new();
    let subject = fixture.user.certificate_subject.clone().unwrap();
    let rui = User { id: UserId::generate(), name: "rui".into(), ..fixture.user.clone() };
    let state = fixture.state();
    assert_eq!(state.certificate_user(&subject).map(|user| user.name.as_str()), Some("ana"));
    assert_eq!(refused(&state, &put(Entity::User(rui.clone()))), "certificate subject \"CN=ana,O=Hospital\" already exists");
    let orphan = ServiceToken { user: UserId::generate(), ..fixture.token.clone() };
    assert!(refused(&state, &put(Entity::ServiceToken(orphan))).starts_with("user "));
    let namesake = ServiceToken { id: TokenId::generate(), ..fixture.token.clone() };
    assert_eq!(refused(&state, &put(Entity::ServiceToken(namesake))), "token \"etl\" already exists");

    // Another subject frees the first one.
    let moved = User { certificate_subject: CertificateSubject::parse("CN=other").ok(), ..fixture.user.clone() };
    let moved = state.apply(&put(Entity::User(moved))).unwrap();
    assert!(moved.certificate_user(&subject).is_none());
    assert!(moved.apply(&put(Entity::User(rui.clone()))).is_ok());

    let alone = State::build(1, vec![Entity::User(fixture.user.clone()), Entity::ServiceToken(fixture.token.clone())]).unwrap();
    let user = EntityId::User(fixture.user.id);
    assert_eq!(refused(&alone, &[Change::Delete(user)]), "user \"ana\" cannot be dropped: tokens depend on it");
    let gone = alone.apply(&alone.cascade(user)).unwrap();
    assert!(gone.token_by_id(fixture.token.id).is_none() && gone.certificate_user(&subject).is_none());
    let again = gone.apply(&put(Entity::User(User { id: UserId::generate(), ..fixture.user.clone() }))).unwrap();
    assert_eq!(again.tokens_of(again.user("ana").unwrap().id).count(), 0);
}

#[test]
fn a_role_that_a_policy_names_stays() {
    let fixture = Fixture::new();
    let state = fixture.state();
    let role = EntityId::Role(fixture.role.id);
    assert_eq!(refused(&state, &state.cascade(role)), "role \"analyst\" cannot be dropped: policies depend on it");
    let state = state.apply(&[Change::Delete(EntityId::Policy(fixture.policy.id))]).unwrap();
    assert_eq!(
        refused(&state, &state.cascade(role)),
        "role \"analyst\" cannot be dropped: policies depend on it",
        "nor one that a mask names"
    );
    let state = state.apply(&[Change::Delete(EntityId::MaskingPolicy(fixture.mask.id))]).unwrap();
    let state = state.apply(&state.cascade(role)).unwrap();
    assert_eq!((state.role_grants().count(), state.privilege_grants().count()), (0, 0));
}

#[test]
fn bad_changes_are_refused() {
    let fixture = Fixture::new();
    let state = fixture.state();
    let taken = Relation { id: TableId::generate(), ..fixture.table.clone() };
    assert_eq!(refused(&state, &put(Entity::Relation(taken))), "table or view \"cases\" already exists");
    let orphan = Schema { catalog: CatalogId::generate(), ..fixture.schema.clone() };
    assert!(refused(&state, &put(Entity::Schema(orphan))).starts_with("catalog "));
    let renamed = User { name: "anna".into(), ..fixture.user.clone() };
    assert_eq!(refused(&state, &put(Entity::User(renamed))), "user \"ana\" cannot be renamed: grants and policies are given to the name");
    let to_all = select_on(ObjectId::System, Grantee::All);
    assert_eq!(refused(&state, &put(Entity::PrivilegeGrant(to_all))), "a privilege or a role cannot be given to all");
    let on_system = RowPolicy { object: ObjectId::System, ..fixture.policy.clone() };
    assert_eq!(refused(&state, &put(Entity::Policy(on_system))), "a row policy cannot lie on the system");
    let reused = [Change::Delete(EntityId::RoleGrant(fixture.membership.id)), Change::Put(Entity::RoleGrant(fixture.membership.clone()))];
    assert!(refused(&state, &reused).ends_with("exists twice or is used again"));
    let twice = [fixture.entities(), vec![Entity::Catalog(fixture.catalog.clone())]].concat();
    assert!(matches!(State::build(1, twice), Err(StateError::IdReused { kind: "catalog", .. })));
}

#[test]
fn roles_are_held_through_roles_and_never_in_a_circle() {
    let fixture = Fixture::new();
    let state = fixture.state();
    let ana = PrincipalName::local("ana");
    assert_eq!(state.roles_of(&ana, &BTreeSet::new()), BTreeSet::from([fixture.role.id, fixture.outer_role.id]));
    assert!(state.roles_of(&PrincipalName::new("hospital", "ana"), &BTreeSet::new()).is_empty(), "the issuer counts");
    assert_eq!(state.roles_within(fixture.role.id), BTreeSet::from([fixture.role.id, fixture.outer_role.id]));
    assert_eq!(state.roles_within(fixture.outer_role.id), BTreeSet::from([fixture.outer_role.id]));

    let group = GroupName { issuer: "hospital".into(), group: "lab".into() };
    let grantor = ana.clone();
    let to_group = RoleGrant {
        id: GrantId::generate(),
        role: fixture.outer_role.id,
        grantee: Grantee::Group(group.clone()),
        grantor: grantor.clone(),
    };
    let state = state.apply(&put(Entity::RoleGrant(to_group))).unwrap();
    let roles = state.roles_of(&PrincipalName::new("hospital", "rui"), &BTreeSet::from([group]));
    assert_eq!(roles, BTreeSet::from([fixture.outer_role.id]));

    let circle = RoleGrant {
        id: GrantId::generate(),
        role: fixture.role.id,
        grantee: Grantee::Role(fixture.outer_role.id),
        grantor: grantor.clone(),
    };
    assert_eq!(refused(&state, &put(Entity::RoleGrant(circle))), "role \"analyst\" cannot be given to \"reader\", which it holds itself");
    let own = RoleGrant { id: GrantId::generate(), role: fixture.role.id, grantee: Grantee::Role(fixture.role.id), grantor };
    assert!(state.apply(&put(Entity::RoleGrant(own))).is_err());
}

#[test]
fn a_role_given_twice_is_held_until_both_are_taken() {
    let fixture = Fixture::new();
    let again = RoleGrant { id: GrantId::generate(), ..fixture.membership.clone() };
    let state = fixture.state().apply(&put(Entity::RoleGrant(again.clone()))).unwrap();
    let held = |state: &State| state.roles_of(&PrincipalName::local("ana"), &BTreeSet::new()).contains(&fixture.role.id);
    let state = state.apply(&[Change::Delete(EntityId::RoleGrant(fixture.membership.id))]).unwrap();
    assert!(held(&state));
    let state = state.apply(&[Change::Delete(EntityId::RoleGrant(again.id))]).unwrap();
    assert!(!held(&state));
}

#[test]
fn row_security_comes_from_the_flag_or_from_what_encloses_the_table() {
    let fixture = Fixture::new();
    let state = fixture.state();
    assert!(!state.row_security(fixture.table.id), "the flag decides, not the policy on the table");
    assert!(state.row_security(fixture.view.id));
    assert!(state.row_security(TableId::generate()), "what is not there is closed");
    for object in [ObjectId::Schema(fixture.schema.id), ObjectId::Catalog(fixture.catalog.id)] {
        let policy = RowPolicy { id: PolicyId::generate(), object, ..fixture.policy.clone() };
        let later = table(fixture.schema.id, "later");
        let changes = [Entity::Policy(policy.clone()), Entity::Relation(later.clone())].map(Change::Put);
        let state = state.apply(&changes).unwrap();
        assert!(state.row_security(fixture.table.id) && state.row_security(later.id));
        assert_eq!(state.policies_on(object), [Arc::new(policy)]);
    }
}

#[test]
fn only_local_users_can_be_disabled_here() {
    let fixture = Fixture::new();
    let state = fixture.state();
    assert!(state.is_enabled(&PrincipalName::local("ana")));
    assert!(!state.is_enabled(&PrincipalName::local("nobody")));
    assert!(state.is_enabled(&PrincipalName::new("hospital", "nobody")));
    let disabled = User { enabled: false, ..fixture.user.clone() };
    assert!(!state.apply(&put(Entity::User(disabled))).unwrap().is_enabled(&PrincipalName::local("ana")));
}

#[test]
fn a_policy_moves_with_its_object_and_keeps_its_name_unique() {
    let fixture = Fixture::new();
    let state = fixture.state();
    let other = RowPolicy { id: PolicyId::generate(), ..fixture.policy.clone() };
    assert_eq!(refused(&state, &put(Entity::Policy(other))), "policy \"by_region\" already exists");
    let moved = RowPolicy { object: ObjectId::Schema(fixture.schema.id), version: 2, ..fixture.policy.clone() };
    let state = state.apply(&put(Entity::Policy(moved))).unwrap();
    assert!(state.policies_on(ObjectId::Table(fixture.table.id)).is_empty());
    assert_eq!(state.policy_by_id(fixture.policy.id).unwrap().version, 2);
    assert_eq!(state.role_name(fixture.role.id).as_deref(), Some("analyst"));
    assert_eq!(state.role_name(RoleId::generate()), None);
}
