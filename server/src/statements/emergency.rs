//! SET, END and SHOW EMERGENCY ACCESS.
//!
//! The holder sees and ends its own; whoever holds MANAGE POLICIES on the system sees and ends all: who decides on policies
//! decides how long they are lifted.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use lazaret_auth::emergency::micros;
use lazaret_auth::grant::{authorize_system, is_visible};
use lazaret_auth::{
    AccessReader, Authority, EmergencyAccess, EmergencyEndCause, EmergencyId, PrincipalName, Privilege, SystemPrivilege, TableId,
};
use lazaret_catalog::meta::{Change, Entity, EntityId, State};

use super::StatementContext;
use super::objects::{change, find_relation, require_system};
use super::session::must_keep_state;
use crate::emergency::{cause_text, ended, open_ones};
use crate::engine::UpdateOutcome;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::ObjectName;
use crate::sql::statement::{RelationKind, SetEmergencyAccess};

/// Where no FOR is written: long enough to look, and short enough that one who forgets to end it does little harm.
const DEFAULT_MINUTES: u64 = 15;

/// An access that is over is listed for so long. The audit has it for as long as the audit is kept.
const LISTED_DAYS: u64 = 90;

const MINUTE_US: u64 = 60 * 1_000_000;
const DAY_US: u64 = 24 * 60 * MINUTE_US;

/// Needs EMERGENCY ACCESS on the system. `id` is in the statement's start record already.
pub async fn set(context: &StatementContext, id: EmergencyId, set: &SetEmergencyAccess) -> Result<UpdateOutcome> {
    must_keep_state(&context.session)?;
    let now = (context.warden.clock)();
    let now_us = micros(now);
    let mut made = None;
    change(context, |state, rights| {
        require_system(state, rights, SystemPrivilege::EmergencyAccess)?;
        let session = &context.session.id;
        if let Some(other) = open_ones(state).find(|it| it.session == *session && it.is_in_force(now)) {
            let text = format!("emergency access \"{}\" is in force in this session: END EMERGENCY ACCESS comes first", other.id);
            return Err(Error::new(ErrorKind::FailedPrecondition, text));
        }
        let tables = match &set.on {
            Some(names) => Some(names.iter().map(|name| table(context, state, rights, name)).collect::<Result<Vec<_>>>()?),
            None => None,
        };
        let access = EmergencyAccess {
            id,
            holder: rights.name().clone(),
            session: session.clone(),
            reason: set.reason.clone(),
            started_us: now_us,
            expires_us: now_us.saturating_add(set.minutes.unwrap_or(DEFAULT_MINUTES) * MINUTE_US),
            tables,
            end: None,
        };
        let old = |it: &&Arc<EmergencyAccess>| it.end.as_ref().is_some_and(|end| end.at_us.saturating_add(LISTED_DAYS * DAY_US) < now_us);
        let mut changes: Vec<Change> = state.emergencies().filter(old).map(|it| Change::Delete(EntityId::EmergencyAccess(it.id))).collect();
        changes.push(Change::Put(Entity::EmergencyAccess(access.clone())));
        made = Some(access);
        Ok(changes)
    })
    .await?;
    let access = made.ok_or_else(|| Error::internal("an emergency access that was not made"))?;
    context.warden.begin(&context.session, &access);
    Ok(UpdateOutcome::default())
}

/// Without an id: the one of this session.
pub async fn end(context: &StatementContext, id: Option<&str>) -> Result<UpdateOutcome> {
    let now = (context.warden.clock)();
    let mut over = None;
    let mut was_over = false;
    change(context, |state, rights| {
        let access = match id {
            Some(text) => EmergencyId::parse(text)
                .and_then(|id| state.emergency_access(id))
                .filter(|access| may_see(state, rights, &access.holder))
                .ok_or_else(|| Error::not_found("emergency access", text))?,
            None => state
                .emergencies()
                .rfind(|access| access.session == context.session.id && access.holder == *rights.name() && access.is_in_force(now))
                .ok_or_else(|| Error::new(ErrorKind::FailedPrecondition, "no emergency access is in force in this session"))?,
        };
        over = Some(access.id);
        was_over = !access.is_in_force(now);
        if access.end.is_some() {
            return Ok(Vec::new());
        }
        let cause = if was_over { EmergencyEndCause::Expired } else { EmergencyEndCause::EndedBy(rights.name().clone()) };
        Ok(vec![Change::Put(Entity::EmergencyAccess(ended(access, micros(now), cause)))])
    })
    .await?;
    if was_over {
        context.warn("the emergency access was over already");
    } else if let Some(id) = over {
        tracing::warn!(emergency = %id, by = %context.session.principal().name, "EMERGENCY ACCESS is over");
    }
    let mut state = context.session.state.lock();
    let _ = state.emergency.take_if(|held| Some(held.id) == over);
    Ok(UpdateOutcome::default())
}

pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let moment = |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true);
    Arc::new(Schema::new(vec![
        text("id"),
        text("principal"),
        text("session_id"),
        text("state"),
        text("reason"),
        text("tables"),
        moment("started"),
        moment("expires"),
        moment("ended"),
        text("end_cause"),
    ]))
}

/// One's own or all, the last first.
pub fn show(context: &StatementContext, state: &State) -> Result<RecordBatch> {
    let rights = context.authority(state);
    let now = (context.warden.clock)();
    let shown: Vec<_> = state.emergencies().rev().filter(|access| may_see(state, &rights, &access.holder)).collect();
    let texts = |of: &dyn Fn(&EmergencyAccess) -> Option<String>| -> ArrayRef {
        Arc::new(shown.iter().map(|access| of(access)).collect::<StringArray>())
    };
    let moments = |of: &dyn Fn(&EmergencyAccess) -> Option<u64>| -> ArrayRef {
        let micros = shown.iter().map(|access| of(access).map(|micros| i64::try_from(micros).unwrap_or(i64::MAX)));
        Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let condition = |access: &EmergencyAccess| match &access.end {
        Some(_) => "over",
        None if access.is_in_force(now) => "in force",
        None => "over",
    };
    let columns = vec![
        texts(&|access| Some(access.id.to_string())),
        texts(&|access| Some(access.holder.to_string())),
        texts(&|access| Some(access.session.clone())),
        texts(&|access| Some(condition(access).to_owned())),
        texts(&|access| Some(access.reason.clone())),
        texts(&|access| access.tables.as_ref().map(|tables| names(state, &rights, tables))),
        moments(&|access| Some(access.started_us)),
        moments(&|access| Some(access.expires_us)),
        moments(&|access| access.end.as_ref().map(|end| end.at_us)),
        texts(&|access| access.end.as_ref().map(|end| cause_text(&end.cause))),
    ];
    RecordBatch::try_new(schema(), columns).map_err(Error::internal)
}

fn may_see(state: &State, rights: &Authority, holder: &PrincipalName) -> bool {
    holder == rights.name() || authorize_system(state, rights, Privilege::ManagePolicies).is_ok()
}

/// A table or a view.
fn table(context: &StatementContext, state: &State, rights: &Authority, name: &ObjectName) -> Result<TableId> {
    let path = context.relation_path(name)?;
    let found = match find_relation(state, rights, RelationKind::Table, &path) {
        Err(error) if error.kind == ErrorKind::Invalid => find_relation(state, rights, RelationKind::View, &path),
        found => found,
    };
    found.map(|found| found.relation.id)
}

/// Those that are there and seen; of the others, that there are some.
fn names(state: &State, rights: &Authority, tables: &[TableId]) -> String {
    let seen =
        |table: &TableId| state.path_of(*table).filter(|path| is_visible(state, rights, *path)).and_then(|_| state.qualified_name(*table));
    let (shown, hidden): (Vec<_>, Vec<_>) = tables.iter().map(seen).partition(Option::is_some);
    let shown = shown.into_iter().flatten().map(|name| name.join("."));
    let hidden = (!hidden.is_empty()).then(|| format!("{} that are not seen", hidden.len()));
    shown.chain(hidden).collect::<Vec<_>>().join(", ")
}
