//! Who may what: users and their tokens, roles, privileges, row and masking policies.
//!
//! Each statement is decided inside the transaction that makes it, on the state that it changes. Rights are checked before
//! anything is said about what exists.

mod effective;
mod explain;
mod masks;
mod policies;
mod principals;
mod privileges;
mod roles;
mod show;
mod subjects;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
mod tokens;
mod users;

use lazaret_auth::grant::is_visible;
use lazaret_auth::{Authority, ObjectId, ObjectPath};
use lazaret_catalog::meta::{Relation, State};

use super::StatementContext;
use super::objects::{find_catalog, find_relation, find_schema, word};
use crate::engine::UpdateOutcome;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::Statement;
use crate::sql::statement::{ObjectRef, RelationKind};

pub use explain::{explain_policy, explain_policy_schema};
pub(super) use principals::resolve_receiver;
pub use show::{all_grants, all_grants_schema, all_policies, all_policies_schema, result_schema, rows};
pub use subjects::in_place_of;
pub use tokens::{create as create_token, new_token_schema};

/// Runs a statement about users, roles, privileges or policies.
pub async fn run(context: &StatementContext, statement: &Statement) -> Result<UpdateOutcome> {
    match statement {
        Statement::CreateUser { name, if_not_exists, password } => users::create(context, name, *if_not_exists, password.as_ref()).await,
        Statement::AlterUser { name, change } => users::alter(context, name, change).await,
        Statement::DropUser { name, if_exists } => users::drop(context, name, *if_exists).await,
        Statement::DropToken { name, user } => tokens::drop(context, name, user).await,
        Statement::CreateRole { name, if_not_exists } => roles::create(context, name, *if_not_exists).await,
        Statement::DropRole { name, if_exists } => roles::drop(context, name, *if_exists).await,
        Statement::GrantRole { role, to } => roles::grant(context, role, to).await,
        Statement::RevokeRole { role, from } => roles::revoke(context, role, from).await,
        Statement::Grant(grant) => privileges::grant(context, grant).await,
        Statement::Revoke(revoke) => privileges::revoke(context, revoke).await,
        Statement::CreatePolicy(policy) => policies::create(context, policy).await,
        Statement::DropPolicy { name, on, if_exists } => policies::drop(context, name, on, *if_exists).await,
        Statement::CreateMaskingPolicy(policy) => masks::create(context, policy).await,
        Statement::DropMaskingPolicy { name, on, if_exists } => masks::drop(context, name, on, *if_exists).await,
        Statement::RowLevelSecurity { kind, name, enable } => policies::row_level_security(context, *kind, name, *enable).await,
        _ => Err(Error::internal("a statement that is not about access")),
    }?;
    Ok(UpdateOutcome::default())
}

/// What a privilege or a policy lies on, seen by the principal.
struct Target<'a> {
    id: ObjectId,
    /// `None` for the system.
    path: Option<ObjectPath>,
    /// Such as `table "lazaret.public.t"`.
    shown: String,
    relation: Option<&'a std::sync::Arc<Relation>>,
}

impl Target<'_> {
    /// The object and what it lies in: where a grant counts for it.
    fn reach(&self) -> Vec<ObjectId> {
        self.path.map_or_else(|| vec![ObjectId::System], |path| path.objects().collect())
    }
}

fn find<'a>(context: &StatementContext, state: &'a State, rights: &Authority, object: &ObjectRef) -> Result<Target<'a>> {
    match object {
        ObjectRef::System => Ok(Target { id: ObjectId::System, path: None, shown: "the system".to_owned(), relation: None }),
        ObjectRef::Catalog(name) => {
            let catalog = find_catalog(state, rights, name.as_str())?;
            let path = ObjectPath::catalog(catalog.id);
            Ok(Target { id: ObjectId::Catalog(catalog.id), path: Some(path), shown: format!("catalog \"{name}\""), relation: None })
        }
        ObjectRef::Schema(name) => {
            let full = context.schema_path(name)?;
            let schema = find_schema(state, rights, &full)?;
            let path = ObjectPath::schema(schema.catalog, schema.id);
            Ok(Target { id: ObjectId::Schema(schema.id), path: Some(path), shown: format!("schema \"{full}\""), relation: None })
        }
        ObjectRef::Relation(kind, name) => {
            let full = context.relation_path(name)?;
            let found = find_relation(state, rights, *kind, &full)?;
            let shown = format!("{} \"{full}\"", word(*kind));
            Ok(Target { id: ObjectId::Table(found.relation.id), path: Some(found.path), shown, relation: Some(found.relation) })
        }
    }
}

/// As [`find`], where `TABLE t` may be a view as well: SHOW … ON t does not say which.
fn find_either<'a>(context: &StatementContext, state: &'a State, rights: &Authority, object: &ObjectRef) -> Result<Target<'a>> {
    match (find(context, state, rights, object), object) {
        (Err(error), ObjectRef::Relation(RelationKind::Table, name)) if error.kind == ErrorKind::Invalid => {
            find(context, state, rights, &ObjectRef::Relation(RelationKind::View, name.clone()))
        }
        (found, _) => found,
    }
}

/// Such as `table "lazaret.public.t"`, of a stored object; `None` where the principal does not see it.
fn shown(state: &State, rights: &Authority, object: ObjectId) -> Option<(&'static str, String, Option<ObjectPath>)> {
    named(state, object).filter(|(_, _, path)| path.is_none_or(|path| is_visible(state, rights, path)))
}

/// As [`shown`], for whoever knows already that it is there.
fn named(state: &State, object: ObjectId) -> Option<(&'static str, String, Option<ObjectPath>)> {
    let (what, name, path) = match object {
        ObjectId::System => return Some(("SYSTEM", "system".to_owned(), None)),
        ObjectId::Catalog(id) => ("CATALOG", state.catalog_by_id(id)?.name.clone(), ObjectPath::catalog(id)),
        ObjectId::Schema(id) => {
            let schema = state.schema_by_id(id)?;
            let catalog = state.catalog_by_id(schema.catalog)?;
            ("SCHEMA", format!("{}.{}", catalog.name, schema.name), ObjectPath::schema(catalog.id, id))
        }
        ObjectId::Table(id) => {
            let kind = match super::objects::kind_of(state.relation_by_id(id)?) {
                RelationKind::Table => "TABLE",
                RelationKind::View => "VIEW",
            };
            (kind, state.qualified_name(id)?.join("."), state.path_of(id)?)
        }
    };
    Some((what, name, Some(path)))
}
