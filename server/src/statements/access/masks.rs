//! Masking policies: made and dropped.

use std::sync::Arc;

use arrow::datatypes::DataType;
use lazaret_auth::{AccessReader, Authority, Masking, MaskingPolicy, ObjectId, PolicyId, TableId};
use lazaret_catalog::governed::{BindError, NewMask, PolicyBinder};
use lazaret_catalog::meta::{Change, DEFAULT_CATALOG, DEFAULT_SCHEMA, Entity, EntityId, State};

use super::policies::{grantees, namespace, refused, require_policies, schema_of};
use super::principals::{is_known, name_of, not_found};
use super::{Target, find};
use crate::error::{Error, ErrorKind, Position, Result};
use crate::sql::statement::{CreateMaskingPolicy, MaskUsing, ObjectRef, RelationKind};
use crate::sql::types::sql_type;
use crate::sql::{Ident, ObjectName};
use crate::statements::StatementContext;
use crate::statements::objects::{already_exists, change};

/// Needs MANAGE POLICIES on the table.
pub async fn create(context: &StatementContext, create: &CreateMaskingPolicy) -> Result<()> {
    let on = ObjectRef::Relation(RelationKind::Table, create.on.clone());
    let state = context.metadata.current();
    let rights = context.authority(state.as_ref());
    let target = find(context, &state, &rights, &on)?;
    require_policies(&state, &rights, &target)?;
    let masking = match &create.using {
        MaskUsing::Expression(expr) => Masking::Expression(expr.text.clone()),
        MaskUsing::Action(action, _) => Masking::Action(*action),
    };
    let bound_to = target.id;
    let bound = bind(context, &state, &rights, &target, create, &masking).await?;
    let definition = target.relation.map(|relation| relation.definition.clone());

    let id = PolicyId::generate();
    let mut unknown = Vec::new();
    change(context, |state, rights| {
        let target = find(context, state, rights, &on)?;
        require_policies(state, rights, &target)?;
        // Bound to what the table was a moment ago: another of that name may have other columns.
        if bound_to != target.id || definition.as_ref() != target.relation.map(|relation| &relation.definition) {
            return Err(Error::new(ErrorKind::Aborted, format!("{} was changed at the same time; nothing was written", target.shown)));
        }
        let ObjectId::Table(table) = target.id else { return Err(Error::internal("a mask on what is no table")) };
        let existing = state.mask(table, create.name.as_str());
        if existing.is_some() && !create.or_replace {
            return Err(already_exists("masking policy", &create.name));
        }
        let id = existing.map_or(id, |policy| policy.id);
        refuse_taken_priority(state, table, id, create, &bound)?;
        let (to, except) = (grantees(context, state, &create.to)?, grantees(context, state, &create.except)?);
        unknown = to.iter().chain(&except).filter(|it| !is_known(state, it)).map(|it| name_of(state, it).1).collect();
        let policy = MaskingPolicy {
            id,
            name: create.name.as_str().to_owned(),
            table,
            columns: bound.columns.clone(),
            to,
            except,
            masking: masking.clone(),
            reads: bound.reads.clone(),
            priority: create.priority,
            creator: rights.name().clone(),
            version: existing.map_or(1, |policy| policy.version + 1),
            comment: create.comment.clone(),
        };
        Ok(vec![Change::Put(Entity::MaskingPolicy(policy))])
    })
    .await?;
    for name in unknown {
        context.warn(format!("masking policy \"{}\" names \"{name}\", who is not known: a misspelt name?", create.name));
    }
    Ok(())
}

pub async fn drop(context: &StatementContext, name: &Ident, on: &ObjectName, if_exists: bool) -> Result<()> {
    let on = ObjectRef::Relation(RelationKind::Table, on.clone());
    let mut warning = None;
    change(context, |state, rights| {
        warning = None;
        let target = match find(context, state, rights, &on) {
            Err(error) if if_exists && error.kind == ErrorKind::NotFound => {
                warning = Some(format!("{}, nothing was dropped", error.message));
                return Ok(Vec::new());
            }
            found => found?,
        };
        require_policies(state, rights, &target)?;
        let ObjectId::Table(table) = target.id else { return Err(Error::internal("a mask on what is no table")) };
        let Some(policy) = state.mask(table, name.as_str()) else {
            if if_exists {
                warning = Some(format!("masking policy \"{name}\" not found, nothing was dropped"));
                return Ok(Vec::new());
            }
            return Err(not_found("masking policy", name));
        };
        Ok(vec![Change::Delete(EntityId::MaskingPolicy(policy.id))])
    })
    .await?;
    if let Some(warning) = warning {
        context.warn(warning);
    }
    Ok(())
}

/// With two of one priority, nothing would say which of them a principal that both are for sees.
fn refuse_taken_priority(state: &State, table: TableId, id: PolicyId, create: &CreateMaskingPolicy, bound: &NewMask) -> Result<()> {
    for other in state.masks_on(table).iter().filter(|other| other.id != id && other.priority == create.priority) {
        let shared = bound.columns.iter().find(|column| other.columns.iter().any(|masked| masked.is_same(column)));
        if let Some(column) = shared {
            let message = format!(
                "column \"{}\" already has a mask of priority {}: masking policy \"{}\"; give another PRIORITY",
                column.name, create.priority, other.name
            );
            let Position { line, column } = create.name.position;
            return Err(Error::new(ErrorKind::AlreadyExists, message).at(line, column));
        }
    }
    Ok(())
}

async fn bind(
    context: &StatementContext,
    state: &Arc<State>,
    rights: &Authority,
    target: &Target<'_>,
    create: &CreateMaskingPolicy,
    masking: &Masking,
) -> Result<NewMask> {
    let schema = schema_of(context, state, rights, target).await?;
    // No name is looked up there: only functions and settings are used.
    let session = namespace(context, state, rights.clone(), DEFAULT_CATALOG, DEFAULT_SCHEMA).map_err(Error::internal)?.session_state();
    let columns: Vec<&str> = create.columns.iter().map(Ident::as_str).collect();
    PolicyBinder::new(&session).bind_new_mask(masking, &columns, &schema).map_err(|error| told(error, create))
}

/// An error of the columns points to the column, one of the mask to the mask; types are named as SQL does.
fn told(error: BindError, create: &CreateMaskingPolicy) -> Error {
    let using = match &create.using {
        MaskUsing::Expression(expr) => expr.position,
        MaskUsing::Action(_, position) => *position,
    };
    let sql = |data_type: &DataType| if *data_type == DataType::Null { "NULL".to_owned() } else { sql_type(data_type) };
    let (error, place) = match &error {
        BindError::NoColumn(name) => {
            let written = create.columns.iter().find(|column| column.as_str() == name);
            (Error::not_found("column", name), written.map_or(create.name.position, |column| column.position))
        }
        BindError::MaskType { column, wanted, found } => {
            let (wanted, found) = (sql(wanted), sql(found));
            (Error::invalid(format!("a mask keeps the column's type: column \"{column}\" is {wanted}, its mask {found}")), using)
        }
        BindError::MaskAction { action, takes, column, found } => {
            let found = sql(found);
            (Error::invalid(format!("action {action} takes {takes}, and column \"{column}\" is {found}")), using)
        }
        _ => return refused(error, using),
    };
    error.at(place.line, place.column)
}
