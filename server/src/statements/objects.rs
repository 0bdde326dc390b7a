//! Finding what a statement names, as its principal may see it, and changing the metadata.

use std::fmt::Display;
use std::sync::Arc;

use lazaret_auth::grant::{authorize, authorize_system, is_visible};
use lazaret_auth::{
    AccessReader, Authority, CredentialKind, Denied, GrantId, Grantee, GroupName, ObjectId, ObjectPath, Principal, PrincipalName,
    Privilege, PrivilegeGrant, SystemPrivilege,
};
use lazaret_catalog::meta::{
    Catalog, Change, ChangeError, Definition, Entity, EntityId, Relation, Schema, State, StateError, StoreError, User,
};

use super::StatementContext;
use crate::error::{Error, ErrorKind, Position, Result};
use crate::sql::names::is_reserved_schema;
use crate::sql::statement::RelationKind;
use crate::sql::{ObjectName, RelationPath, SchemaPath};

impl StatementContext {
    /// The full name of a table or view in this session.
    pub(super) fn relation_path(&self, name: &ObjectName) -> Result<RelationPath> {
        let state = self.session.state.lock();
        name.as_relation(&state.catalog, &state.schema)
    }

    pub(super) fn schema_path(&self, name: &ObjectName) -> Result<SchemaPath> {
        let state = self.session.state.lock();
        name.as_schema(&state.catalog)
    }
}

/// A table or view that the principal sees.
pub(super) struct Found<'a> {
    pub relation: &'a Arc<Relation>,
    pub path: ObjectPath,
}

/// A catalog is seen for its own sake, or for that of something in it.
pub(super) fn find_catalog<'a>(state: &'a State, rights: &Authority, name: &str) -> Result<&'a Arc<Catalog>> {
    let sees = |catalog: &&Arc<Catalog>| {
        is_visible(state, rights, ObjectPath::catalog(catalog.id))
            || state.schemas_in(catalog.id).any(|schema| sees_schema(state, rights, schema))
    };
    state.catalog(name).filter(sees).ok_or_else(|| Error::not_found("catalog", name))
}

/// The same words whether the catalog or the schema is missing.
pub(super) fn find_schema<'a>(state: &'a State, rights: &Authority, path: &SchemaPath) -> Result<&'a Arc<Schema>> {
    state
        .catalog(&path.catalog)
        .and_then(|catalog| state.schema(catalog.id, &path.schema))
        .filter(|schema| sees_schema(state, rights, schema))
        .ok_or_else(|| Error::not_found("schema", path))
}

fn sees_schema(state: &State, rights: &Authority, schema: &Schema) -> bool {
    let table = |relation: &Relation| ObjectPath::table(schema.catalog, schema.id, relation.id);
    is_visible(state, rights, ObjectPath::schema(schema.catalog, schema.id))
        || state.relations_in(schema.id).any(|relation| is_visible(state, rights, table(relation)))
}

/// A table or view that must be of this kind.
pub(super) fn find_relation<'a>(state: &'a State, rights: &Authority, kind: RelationKind, path: &RelationPath) -> Result<Found<'a>> {
    let found = state.catalog(&path.catalog).and_then(|catalog| state.schema(catalog.id, &path.schema)).and_then(|schema| {
        let relation = state.relation(schema.id, &path.name)?;
        let path = ObjectPath::table(schema.catalog, schema.id, relation.id);
        is_visible(state, rights, path).then_some(Found { relation, path })
    });
    let found = found.ok_or_else(|| Error::not_found(word(kind), path))?;
    let is = kind_of(found.relation);
    if is == kind { Ok(found) } else { Err(Error::invalid(format!("\"{path}\" is a {}, not a {}", word(is), word(kind)))) }
}

pub(super) fn kind_of(relation: &Relation) -> RelationKind {
    match relation.definition {
        Definition::Table { .. } => RelationKind::Table,
        Definition::View { .. } => RelationKind::View,
    }
}

pub(super) fn word(kind: RelationKind) -> &'static str {
    match kind {
        RelationKind::Table => "table",
        RelationKind::View => "view",
    }
}

/// The privilege on an object that has been found, and so may be spoken of.
pub(super) fn require(
    state: &State,
    rights: &Authority,
    path: ObjectPath,
    privilege: Privilege,
    what: &str,
    name: impl Display,
) -> Result<()> {
    match authorize(state, rights, path, privilege) {
        Ok(()) => Ok(()),
        Err(Denied::NotVisible | Denied::Missing(_)) => Err(Error::denied(format!("{privilege} on {what} \"{name}\" is required"))),
    }
}

pub(super) fn require_system(state: &State, rights: &Authority, privilege: SystemPrivilege) -> Result<()> {
    let privilege = Privilege::System(privilege);
    authorize_system(state, rights, privilege).map_err(|_| Error::denied(format!("{privilege} on the system is required")))
}

/// The schema in which a table or view is to be made: it is seen, and CREATE is held on it.
pub(super) fn schema_to_create_in<'a>(state: &'a State, rights: &Authority, path: &RelationPath) -> Result<&'a Arc<Schema>> {
    let schema = SchemaPath { catalog: path.catalog.clone(), schema: path.schema.clone() };
    let found = find_schema(state, rights, &schema)?;
    require(state, rights, ObjectPath::schema(found.catalog, found.id), Privilege::Create, "schema", &schema)?;
    Ok(found)
}

/// The reserved schemas are the server's own.
pub(crate) fn refuse_reserved(schema: &str, position: Position) -> Result<()> {
    if is_reserved_schema(schema) {
        return Err(Error::invalid(format!("schema \"{schema}\" is reserved")).at(position.line, position.column));
    }
    Ok(())
}

pub(super) fn already_exists(kind: &str, name: impl Display) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{kind} \"{name}\" already exists"))
}

/// What whoever makes an object gets on it.
pub(super) fn creators_grant(rights: &Authority, object: ObjectId) -> Change {
    Change::Put(Entity::PrivilegeGrant(PrivilegeGrant {
        id: GrantId::generate(),
        object,
        privilege: Privilege::All,
        grantee: Grantee::User(rights.name().clone()),
        columns: None,
        deny: false,
        grant_option: true,
        grantor: rights.name().clone(),
    }))
}

/// Decides and changes in one transaction. `decide` is given the state that it changes and the rights in it.
pub(super) async fn change<F>(context: &StatementContext, decide: F) -> Result<Arc<State>>
where
    F: FnMut(&State, &Authority) -> Result<Vec<Change>>,
{
    try_change(context, decide).await.map_err(told)
}

/// As [`change`], for those who must know whether the change may have been made although it failed.
pub(super) async fn try_change<F>(context: &StatementContext, mut decide: F) -> Result<Arc<State>, ChangeError<Error>>
where
    F: FnMut(&State, &Authority) -> Result<Vec<Change>>,
{
    let decide = |state: &State| {
        let changes = decide(state, &context.authority(state))?;
        keeps_somebody_who_manages_users(state, &changes)?;
        Ok(changes)
    };
    context.metadata.change(decide).await
}

/// Nobody could give that privilege back: not even the configuration, which makes the admin at the first start only.
fn keeps_somebody_who_manages_users(state: &State, changes: &[Change]) -> Result<()> {
    let concerns_access = |change: &Change| match change {
        Change::Put(entity) => matches!(entity, Entity::User(_) | Entity::PrivilegeGrant(_)),
        Change::Delete(id) => matches!(id, EntityId::User(_) | EntityId::Role(_) | EntityId::RoleGrant(_) | EntityId::PrivilegeGrant(_)),
    };
    if !changes.iter().any(concerns_access) || !somebody_manages_users(state) {
        return Ok(());
    }
    match state.apply(changes) {
        Ok(next) if !somebody_manages_users(&next) => {
            Err(Error::new(ErrorKind::FailedPrecondition, "nobody would be left who holds MANAGE USERS; nothing was changed"))
        }
        // Whatever else is wrong with the change is said where it is made.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A local user who can sign in, or somebody of an identity provider.
fn somebody_manages_users(state: &State) -> bool {
    let wanted = Privilege::System(SystemPrivilege::ManageUsers);
    let manages = |authority: &Authority| authorize_system(state, authority, wanted).is_ok();
    let stored = |name: &PrincipalName| manages(&Authority::stored(state, name));
    let is_local = |user: &Arc<User>| user.enabled && user.password_hash.is_some() && stored(&PrincipalName::local(&user.name));
    let foreign = |grantee: &Grantee| match grantee {
        Grantee::User(name) => !name.is_local() && stored(name),
        Grantee::Group(group) => manages(&Authority::of(state, Arc::new(member_of(group)))),
        Grantee::Role(_) | Grantee::All => false,
    };
    let mut grantees =
        state.role_grants().map(|grant| &grant.grantee).chain(state.grants_on(ObjectId::System).iter().map(|grant| &grant.grantee));
    state.users().any(is_local) || grantees.any(foreign)
}

/// Somebody of whom nothing is known but the group.
fn member_of(group: &GroupName) -> Principal {
    Principal {
        name: PrincipalName::new(group.issuer.clone(), ""),
        groups: [group.clone()].into(),
        claims: Default::default(),
        credential: CredentialKind::ForeignToken,
        token_id: None,
        expires_at: None,
    }
}

/// Whether nothing was changed for certain.
pub(super) fn is_refusal(error: &ChangeError<Error>) -> bool {
    matches!(
        error,
        ChangeError::Refused(_) | ChangeError::State(_) | ChangeError::Store(StoreError::Stale { .. } | StoreError::Conflict(_))
    )
}

pub(super) fn told(error: ChangeError<Error>) -> Error {
    match error {
        ChangeError::Refused(error) => error,
        ChangeError::State(StateError::NameTaken { kind, name }) => already_exists(kind, name),
        ChangeError::State(error @ StateError::InUse { .. }) => Error::new(ErrorKind::FailedPrecondition, error.to_string()),
        ChangeError::Store(StoreError::Stale { .. }) => {
            Error::new(ErrorKind::Aborted, "the catalog was changed by others at the same time; nothing was written")
        }
        other => Error::internal(chain(&other)),
    }
}

/// An error with its causes, for the log.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
