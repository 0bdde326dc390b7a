//! From a principal as it was written to whom it means.

use std::collections::BTreeSet;

use lazaret_auth::{Grantee, PrincipalName};
use lazaret_catalog::meta::State;

use crate::error::{Error, Position, Result};
use crate::sql::Ident;
use crate::sql::names::resolve_group;
use crate::sql::statement::PrincipalRef;
use crate::statements::StatementContext;

/// The grantee that is meant. A user of another issuer need not be known; see [`is_known`].
pub fn resolve(context: &StatementContext, state: &State, principal: &PrincipalRef) -> Result<Grantee> {
    match principal {
        PrincipalRef::User(name) => name.resolve(&context.issuers, known(state)).map(Grantee::User),
        PrincipalRef::Role(name) => state.role(name.as_str()).map(|role| Grantee::Role(role.id)).ok_or_else(|| not_found("role", name)),
        PrincipalRef::Group(text) => resolve_group(text, &context.issuers).map(Grantee::Group),
        PrincipalRef::All => Ok(Grantee::All),
    }
}

/// As [`resolve`], for whom a privilege or a role is given to, or taken from: a local user must be there.
pub fn resolve_receiver(context: &StatementContext, state: &State, principal: &PrincipalRef) -> Result<Grantee> {
    let grantee = resolve(context, state, principal)?;
    match (&grantee, principal) {
        (Grantee::User(name), PrincipalRef::User(written)) if name.is_local() && state.user(&name.subject).is_none() => {
            Err(not_found("user", &written.0))
        }
        _ => Ok(grantee),
    }
}

/// Whether anything but a policy tells that this one exists: a policy for a misspelt name must be noticed.
pub fn is_known(state: &State, grantee: &Grantee) -> bool {
    match grantee {
        Grantee::User(name) if name.is_local() => state.user(&name.subject).is_some(),
        Grantee::User(name) => known_without_policies(state).contains(name),
        Grantee::Role(role) => state.role_by_id(*role).is_some(),
        // Only tokens name groups; an issuer that is not configured was refused.
        Grantee::Group(_) | Grantee::All => true,
    }
}

/// As it is written in SQL, without its kind.
pub fn name_of(state: &State, grantee: &Grantee) -> (&'static str, String) {
    match grantee {
        Grantee::User(name) => ("USER", name.to_string()),
        Grantee::Role(role) => ("ROLE", state.role_by_id(*role).map(|role| role.name.clone()).unwrap_or_default()),
        Grantee::Group(group) => ("GROUP", group.to_string()),
        Grantee::All => ("ALL", String::new()),
    }
}

fn known(state: &State) -> BTreeSet<PrincipalName> {
    let mut known = known_without_policies(state);
    for policy in state.policies() {
        known.insert(policy.creator.clone());
        known.extend(policy.to.iter().chain(&policy.except).filter_map(user));
    }
    for mask in state.masks() {
        known.insert(mask.creator.clone());
        known.extend(mask.to.iter().chain(&mask.except).filter_map(user));
    }
    known
}

fn known_without_policies(state: &State) -> BTreeSet<PrincipalName> {
    let mut known: BTreeSet<PrincipalName> = state.users().map(|user| PrincipalName::local(&user.name)).collect();
    known.extend(state.catalogs().map(|catalog| catalog.owner.clone()));
    known.extend(state.relations().map(|relation| relation.owner.clone()));
    known.extend(state.role_grants().filter_map(|grant| user(&grant.grantee)));
    known.extend(state.privilege_grants().filter_map(|grant| user(&grant.grantee)));
    known
}

fn user(grantee: &Grantee) -> Option<PrincipalName> {
    match grantee {
        Grantee::User(name) => Some(name.clone()),
        Grantee::Role(_) | Grantee::Group(_) | Grantee::All => None,
    }
}

pub fn not_found(kind: &str, name: &Ident) -> Error {
    let Position { line, column } = name.position;
    Error::not_found(kind, name).at(line, column)
}
