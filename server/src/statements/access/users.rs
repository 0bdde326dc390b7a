//! Local users. Their passwords are hashed before the transaction, which holds up every other change.

use std::time::{SystemTime, UNIX_EPOCH};

use lazaret_auth::grant::authorize_system;
use lazaret_auth::password::{self, PasswordError};
use lazaret_auth::{Authority, Grantee, MAX_USER_NAME_BYTES, PrincipalName, Privilege, SystemPrivilege, UserId, is_user_name};
use lazaret_catalog::meta::{Change, Entity, EntityId, State, User};

use super::principals::not_found;
use crate::error::{Error, ErrorKind, Position, Result};
use crate::sql::Ident;
use crate::sql::statement::{Secret, UserChange};
use crate::statements::StatementContext;
use crate::statements::objects::{already_exists, change, require_system};

pub async fn create(context: &StatementContext, name: &Ident, if_not_exists: bool, secret: Option<&Secret>) -> Result<()> {
    check_rights_now(context, None)?;
    if !is_user_name(name.as_str()) {
        let Position { line, column } = name.position;
        let message = format!("a user's name has at most {MAX_USER_NAME_BYTES} bytes and no colon");
        return Err(Error::invalid(message).at(line, column));
    }
    let password_hash = match secret {
        Some(secret) => Some(hash(secret).await?),
        None => None,
    };
    let id = UserId::generate();
    let mut existed = false;
    change(context, |state, rights| {
        require_system(state, rights, SystemPrivilege::ManageUsers)?;
        existed = state.user(name.as_str()).is_some();
        if existed {
            return if if_not_exists { Ok(Vec::new()) } else { Err(already_exists("user", name)) };
        }
        let name = name.as_str().to_owned();
        let password_hash = password_hash.clone();
        let user = User { id, name, password_hash, enabled: true, tokens_valid_after_s: 0, certificate_subject: None };
        Ok(vec![Change::Put(Entity::User(user))])
    })
    .await?;
    if existed {
        context.warn(format!("user \"{name}\" already exists and was left as it is"));
    }
    Ok(())
}

/// Needs MANAGE USERS, but for one's own password; and for that too where a token or certificate was shown, which ends by
/// itself.
pub async fn alter(context: &StatementContext, name: &Ident, wanted: &UserChange) -> Result<()> {
    let has_password = context.session.principal().credential.is_users_own();
    let own_password = (has_password && matches!(wanted, UserChange::Password(_))).then_some(name);
    check_rights_now(context, own_password)?;
    let password_hash = match wanted {
        UserChange::Password(secret) => Some(hash(secret).await?),
        UserChange::Enable | UserChange::Disable | UserChange::CertificateSubject(_) => None,
    };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    change(context, |state, rights| {
        check_rights(state, rights, own_password)?;
        let user = state.user(name.as_str()).ok_or_else(|| not_found("user", name))?;
        let mut user = User::clone(user);
        match wanted {
            // Whoever knew the old password must not stay in with a token that it gave.
            UserChange::Password(_) => {
                user.password_hash = password_hash.clone();
                user.tokens_valid_after_s = now_s;
            }
            UserChange::Enable => user.enabled = true,
            UserChange::CertificateSubject(subject) => user.certificate_subject = subject.clone(),
            // Nobody could let the last one in again.
            UserChange::Disable if *rights.name() == PrincipalName::local(&user.name) => {
                return Err(Error::new(ErrorKind::FailedPrecondition, "a user cannot disable itself"));
            }
            UserChange::Disable => {
                user.enabled = false;
                user.tokens_valid_after_s = now_s;
            }
        }
        Ok(vec![Change::Put(Entity::User(user))])
    })
    .await?;
    Ok(())
}

/// Grants, memberships and tokens go with the user. What the user owns or has made keeps reading with the user's rights, and a
/// policy that names the user would bind the next one of that name: these are in the way.
pub async fn drop(context: &StatementContext, name: &Ident, if_exists: bool) -> Result<()> {
    let mut found = true;
    change(context, |state, rights| {
        require_system(state, rights, SystemPrivilege::ManageUsers)?;
        let Some(user) = state.user(name.as_str()) else {
            found = false;
            return if if_exists { Ok(Vec::new()) } else { Err(not_found("user", name)) };
        };
        if let Some(reason) = what_holds(state, &PrincipalName::local(&user.name)) {
            let message = format!("user \"{name}\" cannot be dropped: {reason}");
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        Ok(state.cascade(EntityId::User(user.id)))
    })
    .await?;
    if !found {
        context.warn(format!("user \"{name}\" not found, nothing was dropped"));
    }
    Ok(())
}

/// Names no object: whoever manages users need not see them.
fn what_holds(state: &State, user: &PrincipalName) -> Option<&'static str> {
    let grantee = Grantee::User(user.clone());
    let mut schemas = state.catalogs().flat_map(|catalog| state.schemas_in(catalog.id));
    if state.catalogs().any(|it| it.owner == *user) || schemas.any(|it| it.owner == *user) || state.relations().any(|it| it.owner == *user)
    {
        return Some("it owns schemas, tables or views");
    }
    if state.policies().any(|it| it.creator == *user) || state.masks().any(|it| it.creator == *user) {
        return Some("it has made policies");
    }
    state.is_named_by_policies(&grantee).then_some("policies name it")
}

async fn hash(secret: &Secret) -> Result<String> {
    password::hash(secret.reveal()).await.map_err(|error| match error {
        PasswordError::Empty | PasswordError::TooLong => Error::invalid(error.to_string()),
        PasswordError::Busy => Error::new(ErrorKind::Exhausted, error.to_string()),
        PasswordError::Damaged | PasswordError::Failed => Error::internal(error),
    })
}

/// Hashing costs memory and time on purpose: not for those who may not.
fn check_rights_now(context: &StatementContext, own_password: Option<&Ident>) -> Result<()> {
    let state = context.metadata.current();
    check_rights(&state, &context.authority(state.as_ref()), own_password)
}

fn check_rights(state: &State, rights: &Authority, own_password: Option<&Ident>) -> Result<()> {
    let own = own_password.is_some_and(|name| rights.name().is_local() && rights.name().subject == name.as_str());
    let manages = authorize_system(state, rights, Privilege::System(SystemPrivilege::ManageUsers)).is_ok();
    if own || manages { Ok(()) } else { require_system(state, rights, SystemPrivilege::ManageUsers) }
}
