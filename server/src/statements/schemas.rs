//! CREATE SCHEMA and DROP SCHEMA.

use lazaret_auth::grant::authorize;
use lazaret_auth::{ObjectId, ObjectPath, Privilege, SchemaId};
use lazaret_catalog::meta::{Change, Entity, EntityId, Schema};

use super::StatementContext;
use super::objects::{already_exists, change, creators_grant, find_catalog, find_schema, refuse_reserved, require};
use super::tables::{loses_policies, managed_tables, remove_files};
use crate::engine::UpdateOutcome;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::ObjectName;

/// Needs CREATE on the catalog; whoever makes it gets ALL on it.
pub async fn create(context: &StatementContext, name: &ObjectName, if_not_exists: bool) -> Result<UpdateOutcome> {
    let path = context.schema_path(name)?;
    refuse_reserved(&path.schema, name.position())?;
    let id = SchemaId::generate();
    change(context, |state, rights| {
        let catalog = find_catalog(state, rights, &path.catalog)?;
        require(state, rights, ObjectPath::catalog(catalog.id), Privilege::Create, "catalog", &path.catalog)?;
        if state.schema(catalog.id, &path.schema).is_some() {
            return if if_not_exists { Ok(Vec::new()) } else { Err(already_exists("schema", &path)) };
        }
        let schema = Schema { id, catalog: catalog.id, name: path.schema.clone(), owner: rights.name().clone() };
        Ok(vec![Change::Put(Entity::Schema(schema)), creators_grant(rights, ObjectId::Schema(id))])
    })
    .await?;
    Ok(UpdateOutcome::default())
}

/// Needs MANAGE on the schema and, with CASCADE, on all that goes with it.
pub async fn drop(context: &StatementContext, name: &ObjectName, if_exists: bool, cascade: bool) -> Result<UpdateOutcome> {
    let path = context.schema_path(name)?;
    refuse_reserved(&path.schema, name.position())?;
    let mut managed = Vec::new();
    change(context, |state, rights| {
        managed.clear();
        let schema = match find_schema(state, rights, &path) {
            Err(error) if if_exists && error.kind == ErrorKind::NotFound => return Ok(Vec::new()),
            found => found?,
        };
        require(state, rights, ObjectPath::schema(schema.catalog, schema.id), Privilege::Manage, "schema", &path)?;
        let mut relations = state.relations_in(schema.id).peekable();
        if !cascade && relations.peek().is_some() {
            return Err(Error::new(ErrorKind::FailedPrecondition, format!("schema \"{path}\" is not empty: use CASCADE")));
        }
        for relation in relations {
            let table = ObjectPath::table(schema.catalog, schema.id, relation.id);
            if authorize(state, rights, table, Privilege::Manage).is_err() {
                // Which one stays unsaid: it may be hidden.
                return Err(Error::denied(format!("MANAGE on everything in schema \"{path}\" is required")));
            }
            if loses_policies(state, rights, table, relation) {
                return Err(Error::denied(format!("MANAGE POLICIES on everything in schema \"{path}\" is required")));
            }
        }
        managed.extend(managed_tables(state.relations_in(schema.id)));
        let mut changes = state.cascade(EntityId::Schema(schema.id));
        changes.extend(managed.iter().copied().map(Entity::Leftover).map(Change::Put));
        Ok(changes)
    })
    .await?;
    remove_files(context, &managed).await;
    Ok(UpdateOutcome::default())
}
