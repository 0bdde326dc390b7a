//! Somebody else, as written in `USER u [GROUPS …] [CLAIMS …]`, and acting in that one's place.

use std::collections::BTreeSet;
use std::sync::Arc;

use lazaret_auth::{AccessReader, Grantee, GroupName, Principal, PrincipalName, SystemPrivilege};
use lazaret_catalog::meta::State;

use super::principals::resolve_receiver;
use crate::error::{Error, ErrorKind, Position, Result};
use crate::session::Session;
use crate::sql::names::resolve_group;
use crate::sql::statement::{PrincipalRef, Subject};
use crate::statements::StatementContext;
use crate::statements::objects::require_system;

/// The session for a statement of EXECUTE AS. The privilege comes before the name: who may not act for others learns
/// nothing of who there is.
pub fn in_place_of(context: &StatementContext, subject: &Subject) -> Result<Arc<Session>> {
    let state = context.metadata.current();
    require_system(&state, &context.authority(state.as_ref()), SystemPrivilege::Impersonate)?;
    let principal = principal(context, &state, subject)?;
    if !state.is_enabled(&principal.name) {
        return Err(Error::new(ErrorKind::FailedPrecondition, format!("user \"{}\" is disabled", principal.name)));
    }
    Ok(context.session.in_place_of(principal))
}

/// Who is meant. A user of another issuer need not have been here; what is not said of it, it does not have: groups and
/// claims come from tokens, and are not kept.
pub(super) fn principal(context: &StatementContext, state: &State, subject: &Subject) -> Result<Principal> {
    let name = name(context, state, subject)?;
    let groups = subject.groups.iter().map(|(text, place)| group(context, &name, text, *place)).collect::<Result<BTreeSet<_>>>()?;
    let claims = subject.claims.clone().unwrap_or_default();
    Ok(context.session.principal().as_another(name, groups, claims))
}

pub(super) fn name(context: &StatementContext, state: &State, subject: &Subject) -> Result<PrincipalName> {
    match resolve_receiver(context, state, &PrincipalRef::User(subject.user.clone()))? {
        Grantee::User(name) => Ok(name),
        _ => Err(Error::internal("a user that is none")),
    }
}

/// A group of the user's own issuer need not say so.
fn group(context: &StatementContext, user: &PrincipalName, text: &str, Position { line, column }: Position) -> Result<GroupName> {
    if user.is_local() {
        return resolve_group(text, &context.issuers).map_err(|error| error.at(line, column));
    }
    let group = resolve_group(text, std::slice::from_ref(&user.issuer)).map_err(|error| error.at(line, column))?;
    let foreign = text.split_once(':').filter(|(issuer, _)| *issuer != user.issuer && context.issuers.iter().any(|it| it == issuer));
    match foreign {
        Some((issuer, _)) => {
            Err(Error::invalid(format!("group \"{text}\" is of issuer \"{issuer}\", and \"{user}\" is not")).at(line, column))
        }
        None => Ok(group),
    }
}
