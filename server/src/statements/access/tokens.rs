//! Tokens of service accounts. A token is shown once, in the answer to the statement that makes it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use lazaret_auth::{Authority, CredentialKind, NewToken, SystemPrivilege, TokenId};
use lazaret_catalog::meta::{Change, Entity, EntityId, ServiceToken, State, User};

use super::principals::not_found;
use crate::audit;
use crate::engine::{Answer, UpdateOutcome};
use crate::error::{Error, ErrorKind, Position, Result};
use crate::sql::Ident;
use crate::sql::statement::Expiry;
use crate::statements::StatementContext;
use crate::statements::objects::{already_exists, change, require_system};

/// Of one user, ended ones too: more are not told apart by people, and the metadata is held in memory.
const MAX_TOKENS: usize = 100;
const DAY_S: u64 = 24 * 60 * 60;

/// MANAGE USERS, or one's own. Never in a session that was opened with a token: it would make itself last. Local users only,
/// for groups and claims of others come with the tokens of their issuer.
pub async fn create(context: &StatementContext, name: &Ident, user: &Ident, expiry: Expiry) -> Result<UpdateOutcome> {
    let credential = context.session.principal().credential;
    if credential == CredentialKind::ServiceToken {
        return Err(Error::denied("a session that was opened with a token cannot create tokens"));
    }
    let created_at_s = now_s();
    let expires_at_s = match expiry {
        Expiry::InDays(days) => created_at_s.saturating_add(days.saturating_mul(DAY_S)),
        Expiry::At(at_s, _) if at_s > created_at_s => at_s,
        Expiry::At(_, Position { line, column }) => return Err(Error::invalid("the token would have expired already").at(line, column)),
    };
    let token = NewToken::generate().ok_or_else(|| Error::internal("the system gives no random numbers"))?;
    change(context, |state, rights| {
        let owner = user_of(state, rights, user, credential.is_users_own())?;
        if state.token(owner.id, name.as_str()).is_some() {
            return Err(already_exists("token", name));
        }
        if state.tokens_of(owner.id).count() >= MAX_TOKENS {
            return Err(Error::new(ErrorKind::Exhausted, format!("a user has at most {MAX_TOKENS} tokens: drop one first")));
        }
        let token = ServiceToken {
            id: token.id,
            user: owner.id,
            name: name.as_str().to_owned(),
            hash: token.hash,
            creator: rights.name().clone(),
            created_at_s,
            expires_at_s,
        };
        Ok(vec![Change::Put(Entity::ServiceToken(token))])
    })
    .await?;
    let text = |value: &str| Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let columns = vec![
        text(token.reveal()),
        text(&audited_id(token.id)),
        text(name.as_str()),
        text(user.as_str()),
        times([expires_at_s].into_iter()),
    ];
    let row = RecordBatch::try_new(new_token_schema(), columns).map_err(|_| Error::internal("the answer does not have its schema"))?;
    Ok(UpdateOutcome { answer: Some(Answer(row)), ..UpdateOutcome::default() })
}

/// Refused from the next call on.
pub async fn drop(context: &StatementContext, name: &Ident, user: &Ident) -> Result<()> {
    change(context, |state, rights| {
        let owner = user_of(state, rights, user, true)?;
        let token = state.token(owner.id, name.as_str()).ok_or_else(|| not_found("token", name))?;
        Ok(vec![Change::Delete(EntityId::ServiceToken(token.id))])
    })
    .await?;
    Ok(())
}

/// Of this user; else all for those who manage users, and for the others their own.
pub fn shown(state: &State, rights: &Authority, user: Option<&Ident>, manages: bool) -> Result<Vec<ArrayRef>> {
    let users: Vec<&Arc<User>> = match user {
        Some(user) => vec![user_of(state, rights, user, true)?],
        None => state.users().filter(|user| manages || is_oneself(rights, &user.name)).collect(),
    };
    let tokens: Vec<(&User, &ServiceToken)> =
        users.iter().flat_map(|user| state.tokens_of(user.id).map(|token| (user.as_ref(), token.as_ref()))).collect();
    let text = |of: &dyn Fn(&User, &ServiceToken) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(tokens.iter().map(|(user, token)| of(user, token))))
    };
    Ok(vec![
        text(&|user, _| user.name.clone()),
        text(&|_, token| token.name.clone()),
        text(&|_, token| audited_id(token.id)),
        text(&|_, token| token.creator.to_string()),
        times(tokens.iter().map(|(_, token)| token.created_at_s)),
        times(tokens.iter().map(|(_, token)| token.expires_at_s)),
    ])
}

pub fn shown_fields() -> Vec<Field> {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    vec![text("user"), text("token"), text("token_id"), text("creator"), time("created_at"), time("expires_at")]
}

pub fn new_token_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![text("token"), text("token_id"), text("name"), text("user"), time("expires_at")]))
}

/// The user, for who manages users, or is that user (where that counts).
fn user_of<'a>(state: &'a State, rights: &Authority, user: &Ident, own_counts: bool) -> Result<&'a Arc<User>> {
    if !(own_counts && is_oneself(rights, user.as_str())) {
        require_system(state, rights, SystemPrivilege::ManageUsers)?;
    }
    state.user(user.as_str()).ok_or_else(|| not_found("user", user))
}

fn is_oneself(rights: &Authority, user: &str) -> bool {
    rights.name().is_local() && rights.name().subject == user
}

/// As the audit keeps the ids of all tokens.
fn audited_id(id: TokenId) -> String {
    audit::hash(&id.to_string())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true)
}

fn times(seconds: impl Iterator<Item = u64>) -> ArrayRef {
    let micros = seconds.map(|seconds| i64::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX));
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}
