//! GRANT, DENY and REVOKE of privileges. Whoever manages an object may deny what is given on it.
//!
//! To give or take a privilege needs MANAGE on the object, or the privilege itself with grant option; MANAGE POLICIES and
//! the privileges on the system are passed on by grant option only, for owning a thing does not give them.

use std::collections::BTreeSet;

use lazaret_auth::grant::{authorize, authorize_read, authorize_system};
use lazaret_auth::{AccessReader, Authority, GrantId, Grantee, ObjectId, Privilege, PrivilegeGrant};
use lazaret_catalog::meta::{Change, Entity, EntityId, State};

use super::policies::schema_of;
use super::principals::{name_of, resolve, resolve_receiver};
use super::{Target, find};
use crate::error::{Error, Position, Result};
use crate::sql::statement::{Grant, GrantedPrivilege, Revoke};
use crate::statements::StatementContext;
use crate::statements::objects::change;

pub async fn grant(context: &StatementContext, grant: &Grant) -> Result<()> {
    check_columns(context, grant).await?;
    change(context, |state, rights| {
        let target = find(context, state, rights, &grant.on)?;
        let mut changes = Vec::new();
        let mut made: Vec<PrivilegeGrant> = Vec::new();
        for granted in &grant.privileges {
            if !may_pass_on(state, rights, &target, granted) {
                return Err(refused(&target, granted));
            }
            // A grant option is for giving: with a denial its holder would shut out those who gave it.
            if grant.deny && object_privilege(&target, granted) && !may_manage(state, rights, &target, granted) {
                return Err(Error::denied(format!("{} on {} is required", Privilege::Manage, target.shown)));
            }
            for principal in &grant.to {
                let grantee = resolve_receiver(context, state, principal)?;
                let columns = column_names(granted);
                let same = |it: &PrivilegeGrant| {
                    it.deny == grant.deny && it.privilege == granted.privilege && it.grantee == grantee && it.columns == columns
                };
                let existing = state.grants_on(target.id).iter().find(|it| same(it));
                let stored = match existing {
                    Some(existing) if existing.grant_option || !grant.grant_option => continue,
                    Some(existing) => PrivilegeGrant { grant_option: true, ..existing.clone() },
                    None if made.iter().any(same) => continue,
                    None => PrivilegeGrant {
                        id: GrantId::generate(),
                        object: target.id,
                        privilege: granted.privilege,
                        grantee,
                        columns,
                        deny: grant.deny,
                        grant_option: grant.grant_option,
                        grantor: rights.name().clone(),
                    },
                };
                made.push(stored.clone());
                changes.push(Change::Put(Entity::PrivilegeGrant(stored)));
            }
        }
        Ok(changes)
    })
    .await?;
    Ok(())
}

/// Takes back what was given on exactly this object, a DENY too. With only the grant option, one's own grants.
pub async fn revoke(context: &StatementContext, revoke: &Revoke) -> Result<()> {
    let mut without = Vec::new();
    change(context, |state, rights| {
        without.clear();
        let target = find(context, state, rights, &revoke.on)?;
        let mut grants = state.grants_on(target.id).to_vec();
        // Rights first: what is given to whom is told to those who may take it back.
        if let Some(granted) = revoke.privileges.iter().find(|granted| !may_pass_on(state, rights, &target, granted)) {
            return Err(refused(&target, granted));
        }
        for granted in &revoke.privileges {
            for principal in &revoke.from {
                let grantee = resolve(context, state, principal)?;
                let taken = take_back(&mut grants, granted, &grantee, revoke.grant_option_only)?;
                let only_own = !may_manage(state, rights, &target, granted);
                let foreign = taken.iter().any(|it| it.grantor != *rights.name());
                if only_own && foreign {
                    return Err(refused(&target, granted));
                }
                if taken.is_empty() {
                    without.push(format!("{} on {} was not given to \"{}\"", granted.privilege, target.shown, name_of(state, &grantee).1));
                }
            }
        }
        Ok(differences(state.grants_on(target.id), &grants))
    })
    .await?;
    for warning in without {
        context.warn(warning);
    }
    Ok(())
}

/// Changes `grants` as REVOKE says; the ones that it found.
fn take_back(
    grants: &mut Vec<PrivilegeGrant>,
    granted: &GrantedPrivilege,
    grantee: &Grantee,
    option_only: bool,
) -> Result<Vec<PrivilegeGrant>> {
    let revoked = granted.privilege;
    let columns = column_names(granted);
    let by_column = |it: &PrivilegeGrant| {
        let held = it.columns.iter().flatten();
        it.grantee == *grantee && revoked.covers(it.privilege) && held.clone().any(|column| columns.iter().flatten().any(|it| it == column))
    };
    let some_by_column = grants.iter().any(by_column);
    let mut taken = Vec::new();
    let mut left = Vec::new();
    for mut it in std::mem::take(grants) {
        let is_part = it.privilege == Privilege::All && revoked != Privilege::All && Privilege::All.covers(revoked);
        if it.grantee != *grantee || !(revoked.covers(it.privilege) || is_part) {
            left.push(it);
            continue;
        }
        match (&columns, &it.columns) {
            // What was given on every column stays, where these columns were given or denied by name.
            (Some(_), None) if !it.deny && !some_by_column => {
                return Err(Error::invalid(format!("{} is given on every column: revoke that, and grant the others", it.privilege)));
            }
            // Nor is a denial of the whole taken back by column.
            (Some(_), None) => {
                left.push(it);
                continue;
            }
            (Some(revoked), Some(held)) if !held.iter().any(|column| revoked.contains(column)) => {
                left.push(it);
                continue;
            }
            _ => {}
        }
        if option_only && !it.grant_option {
            left.push(it);
            continue;
        }
        taken.push(it.clone());
        if option_only {
            it.grant_option = false;
            left.push(it);
        } else if is_part {
            let rest = Privilege::PARTS_OF_ALL.into_iter().filter(|part| *part != revoked);
            left.extend(rest.map(|privilege| PrivilegeGrant { id: GrantId::generate(), privilege, ..it.clone() }));
        } else if let (Some(revoked), Some(held)) = (&columns, &it.columns) {
            let rest: Vec<String> = held.iter().filter(|column| !revoked.contains(column)).cloned().collect();
            if !rest.is_empty() {
                it.columns = Some(rest);
                left.push(it);
            }
        }
    }
    *grants = left;
    Ok(taken)
}

fn differences(before: &[PrivilegeGrant], after: &[PrivilegeGrant]) -> Vec<Change> {
    let gone = before.iter().filter(|old| !after.iter().any(|new| new.id == old.id));
    let put = after.iter().filter(|new| !before.contains(new));
    gone.map(|old| Change::Delete(EntityId::PrivilegeGrant(old.id)))
        .chain(put.map(|new| Change::Put(Entity::PrivilegeGrant(new.clone()))))
        .collect()
}

/// MANAGE covers what the object is for, not who sees which rows, nor the system.
fn may_manage(state: &State, rights: &Authority, target: &Target<'_>, granted: &GrantedPrivilege) -> bool {
    object_privilege(target, granted) && target.path.is_some_and(|path| authorize(state, rights, path, Privilege::Manage).is_ok())
}

fn object_privilege(target: &Target<'_>, granted: &GrantedPrivilege) -> bool {
    target.path.is_some() && !matches!(granted.privilege, Privilege::ManagePolicies | Privilege::System(_))
}

fn may_pass_on(state: &State, rights: &Authority, target: &Target<'_>, granted: &GrantedPrivilege) -> bool {
    may_manage(state, rights, target, granted) || (holds(state, rights, target, granted) && has_option(state, rights, target, granted))
}

fn holds(state: &State, rights: &Authority, target: &Target<'_>, granted: &GrantedPrivilege) -> bool {
    match (target.path, &granted.columns) {
        (None, _) => authorize_system(state, rights, granted.privilege).is_ok(),
        (Some(path), None) => authorize(state, rights, path, granted.privilege).is_ok(),
        (Some(path), Some(columns)) => match authorize_read(state, rights, rights, path) {
            Ok(grant) => columns.iter().all(|column| grant.columns().contains(column.as_str())),
            Err(_) => false,
        },
    }
}

fn has_option(state: &State, rights: &Authority, target: &Target<'_>, granted: &GrantedPrivilege) -> bool {
    let mut objects = target.reach();
    if granted.privilege == Privilege::ManagePolicies {
        objects.push(ObjectId::System);
    }
    let mut options = objects
        .iter()
        .flat_map(|object| state.grants_on(*object))
        .filter(|it| !it.deny && it.grant_option && it.privilege.covers(granted.privilege) && rights.is_permitted_as(&it.grantee));
    options.any(|it| match (&it.columns, &granted.columns) {
        (None, _) => true,
        (Some(held), Some(wanted)) => wanted.iter().all(|column| held.iter().any(|held| held == column.as_str())),
        (Some(_), None) => false,
    })
}

fn refused(target: &Target<'_>, granted: &GrantedPrivilege) -> Error {
    let privilege = granted.privilege;
    let by_option = format!("{privilege} on {} with grant option", target.shown);
    match (target.path, privilege) {
        (None, _) | (_, Privilege::ManagePolicies) => Error::denied(format!("{by_option} is required")),
        _ => Error::denied(format!("{by_option}, or MANAGE, is required")),
    }
}

/// Sorted, so that the same columns are the same grant.
fn column_names(granted: &GrantedPrivilege) -> Option<Vec<String>> {
    let names = granted.columns.as_ref()?.iter().map(|column| column.as_str().to_owned());
    Some(names.collect::<BTreeSet<_>>().into_iter().collect())
}

/// A misspelt column would be a grant of nothing. Rights first: the answer is for those who may give the columns.
async fn check_columns(context: &StatementContext, grant: &Grant) -> Result<()> {
    if grant.privileges.iter().all(|granted| granted.columns.is_none()) {
        return Ok(());
    }
    let state = context.metadata.current();
    let rights = context.authority(state.as_ref());
    let target = find(context, &state, &rights, &grant.on)?;
    if let Some(granted) = grant.privileges.iter().find(|granted| !may_pass_on(&state, &rights, &target, granted)) {
        return Err(refused(&target, granted));
    }
    let schema = schema_of(context, &state, &rights, &target).await?;
    for column in grant.privileges.iter().flat_map(|granted| granted.columns.iter().flatten()) {
        if schema.field_with_name(column.as_str()).is_err() {
            let Position { line, column: at } = column.position;
            return Err(Error::not_found("column", column).at(line, at));
        }
    }
    Ok(())
}
