//! Roles and who holds them.

use lazaret_auth::{GrantId, RoleId, SystemPrivilege};
use lazaret_catalog::meta::{Change, ChangeError, Entity, EntityId, Role, RoleGrant, StateError};

use super::principals::{name_of, not_found, resolve_receiver};
use crate::error::{Error, Result};
use crate::sql::Ident;
use crate::sql::statement::PrincipalRef;
use crate::statements::StatementContext;
use crate::statements::objects::{already_exists, change, require_system, told, try_change};

pub async fn create(context: &StatementContext, name: &Ident, if_not_exists: bool) -> Result<()> {
    let id = RoleId::generate();
    let mut existed = false;
    change(context, |state, rights| {
        require_system(state, rights, SystemPrivilege::ManageUsers)?;
        existed = state.role(name.as_str()).is_some();
        if existed {
            return if if_not_exists { Ok(Vec::new()) } else { Err(already_exists("role", name)) };
        }
        Ok(vec![Change::Put(Entity::Role(Role { id, name: name.as_str().to_owned() }))])
    })
    .await?;
    if existed {
        context.warn(format!("role \"{name}\" already exists"));
    }
    Ok(())
}

/// Its grants and memberships go with it; a policy that names it is in the way.
pub async fn drop(context: &StatementContext, name: &Ident, if_exists: bool) -> Result<()> {
    let mut found = true;
    change(context, |state, rights| {
        require_system(state, rights, SystemPrivilege::ManageUsers)?;
        let Some(role) = state.role(name.as_str()) else {
            found = false;
            return if if_exists { Ok(Vec::new()) } else { Err(not_found("role", name)) };
        };
        Ok(state.cascade(EntityId::Role(role.id)))
    })
    .await?;
    if !found {
        context.warn(format!("role \"{name}\" not found, nothing was dropped"));
    }
    Ok(())
}

pub async fn grant(context: &StatementContext, name: &Ident, to: &[PrincipalRef]) -> Result<()> {
    let ids: Vec<GrantId> = to.iter().map(|_| GrantId::generate()).collect();
    let outcome = try_change(context, |state, rights| {
        require_system(state, rights, SystemPrivilege::ManageUsers)?;
        let role = state.role(name.as_str()).ok_or_else(|| not_found("role", name))?.id;
        let mut changes = Vec::new();
        let mut given = Vec::new();
        for (principal, id) in to.iter().zip(&ids) {
            let grantee = resolve_receiver(context, state, principal)?;
            let held = state.role_grants().any(|grant| grant.role == role && grant.grantee == grantee);
            if !held && !given.contains(&grantee) {
                given.push(grantee.clone());
                let grant = RoleGrant { id: *id, role, grantee, grantor: rights.name().clone() };
                changes.push(Change::Put(Entity::RoleGrant(grant)));
            }
        }
        Ok(changes)
    })
    .await;
    match outcome {
        Ok(_) => Ok(()),
        Err(ChangeError::State(error @ StateError::RoleCycle { .. })) => Err(Error::invalid(error.to_string())),
        Err(error) => Err(told(error)),
    }
}

/// Whoever gave it.
pub async fn revoke(context: &StatementContext, name: &Ident, from: &[PrincipalRef]) -> Result<()> {
    let mut without = Vec::new();
    change(context, |state, rights| {
        without.clear();
        require_system(state, rights, SystemPrivilege::ManageUsers)?;
        let role = state.role(name.as_str()).ok_or_else(|| not_found("role", name))?.id;
        let mut ids = Vec::new();
        for principal in from {
            let grantee = resolve_receiver(context, state, principal)?;
            let before = ids.len();
            let held = state.role_grants().filter(|grant| grant.role == role && grant.grantee == grantee).map(|grant| grant.id);
            ids.extend(held.filter(|id| !ids.contains(id)).collect::<Vec<_>>());
            if ids.len() == before {
                without.push(name_of(state, &grantee).1);
            }
        }
        Ok(ids.into_iter().map(|id| Change::Delete(EntityId::RoleGrant(id))).collect())
    })
    .await?;
    for grantee in without {
        context.warn(format!("role \"{name}\" was not given to \"{grantee}\""));
    }
    Ok(())
}
