//! CREATE EXTERNAL TABLE, the two ends of CREATE TABLE AS, and DROP of tables and views.

use std::sync::Arc;

use lazaret_auth::{Authority, ObjectId, Privilege, SystemPrivilege, TableId};
use lazaret_catalog::lake::{LakeError, TableSource};
use lazaret_catalog::meta::{Change, Definition, Entity, EntityId, Relation, State, TableFormat};
use lazaret_catalog::stores::LocationError;
use lazaret_catalog::write::{CreatedTable, remove_table};

use super::StatementContext;
use super::objects::{
    already_exists, chain, change, creators_grant, find_relation, is_refusal, kind_of, refuse_reserved, require, require_system,
    schema_to_create_in, told, try_change, word,
};
use crate::engine::UpdateOutcome;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::RelationPath;
use crate::sql::statement::{CreateExternalTable, CreateTableAs, RelationKind};

/// Registers files that are there. Needs READ FILES on the system and CREATE on the schema. The table is opened once, so
/// that what cannot be read is an error now and not at the first query.
pub async fn create_external(context: &StatementContext, create: &CreateExternalTable) -> Result<UpdateOutcome> {
    let path = context.relation_path(&create.name)?;
    refuse_reserved(&path.schema, create.name.position())?;
    let id = TableId::generate();
    let state = context.metadata.current();
    // Rights first: the answers about a location are for those who may name one.
    if is_there(&state, &context.authority(state.as_ref()), &path, create.if_not_exists, Some(SystemPrivilege::ReadFiles))? {
        return Ok(UpdateOutcome::default());
    }
    let location = locate(context, &create.location).await?;
    refuse_overlap(&state, create.format, &location)?;
    let source = TableSource { id, format: create.format, location: location.clone(), options: create.options.clone() };
    context.lake.open(&source).await.map_err(|error| cannot_open(&path, &error))?;

    let definition =
        Definition::Table { format: create.format, location: location.clone(), managed: false, options: create.options.clone() };
    change(context, |state, rights| {
        if is_there(state, rights, &path, create.if_not_exists, Some(SystemPrivilege::ReadFiles))? {
            return Ok(Vec::new());
        }
        refuse_overlap(state, create.format, &location)?;
        new_table(state, rights, &path, id, definition.clone())
    })
    .await?;
    Ok(UpdateOutcome::default())
}

/// What CREATE TABLE AS checks before the query runs. Gives the identity of the table to be written, or `None` where it is
/// there and IF NOT EXISTS was said. What was checked here is checked again by [`register_created`].
pub async fn begin_create(context: &StatementContext, create: &CreateTableAs) -> Result<Option<TableId>> {
    let path = context.relation_path(&create.name)?;
    refuse_reserved(&path.schema, create.name.position())?;
    if create.format != TableFormat::Delta {
        return Err(Error::unsupported("CREATE TABLE … USING ICEBERG"));
    }
    // It would keep the table's id, and with it the name of the folder that readers of the old version still read.
    if create.or_replace {
        return Err(Error::unsupported("CREATE OR REPLACE TABLE"));
    }
    let state = context.metadata.current();
    let exists = is_there(&state, &context.authority(state.as_ref()), &path, create.if_not_exists, None)?;
    Ok((!exists).then(TableId::generate))
}

/// Names a table that has been written. Where that is refused, its files go.
pub async fn register_created(
    context: &StatementContext,
    create: &CreateTableAs,
    id: TableId,
    created: &CreatedTable,
) -> Result<UpdateOutcome> {
    let path = context.relation_path(&create.name)?;
    let definition =
        Definition::Table { format: create.format, location: created.location.clone(), managed: true, options: Default::default() };
    let mut registered = true;
    let outcome = try_change(context, |state, rights| {
        registered = !is_there(state, rights, &path, create.if_not_exists, None)?;
        if registered { new_table(state, rights, &path, id, definition.clone()) } else { Ok(Vec::new()) }
    })
    .await;
    match outcome {
        Ok(_) if registered => Ok(UpdateOutcome { rows: created.rows }),
        // Somebody else made a table of this name while this one was written.
        Ok(_) => {
            remove_files(context, &[id]).await;
            Ok(UpdateOutcome::default())
        }
        Err(error) => {
            // Where the change may have been made all the same, the files stay: the next start knows, and sweeps.
            if is_refusal(&error) {
                remove_files(context, &[id]).await;
            }
            Err(told(error))
        }
    }
}

/// Needs MANAGE. Grants and policies go with it in one transaction; the files of a managed table afterwards.
pub async fn drop(context: &StatementContext, kind: RelationKind, name: &crate::sql::ObjectName, if_exists: bool) -> Result<UpdateOutcome> {
    let path = context.relation_path(name)?;
    refuse_reserved(&path.schema, name.position())?;
    let mut managed = Vec::new();
    change(context, |state, rights| {
        managed.clear();
        let found = match find_relation(state, rights, kind, &path) {
            Err(error) if if_exists && error.kind == ErrorKind::NotFound => return Ok(Vec::new()),
            found => found?,
        };
        require(state, rights, found.path, Privilege::Manage, word(kind), &path)?;
        managed.extend(managed_tables([found.relation]));
        Ok(state.cascade(EntityId::Relation(found.relation.id)))
    })
    .await?;
    remove_files(context, &managed).await;
    Ok(UpdateOutcome::default())
}

/// Those whose files are ours.
pub(super) fn managed_tables<'a>(relations: impl IntoIterator<Item = &'a Arc<Relation>>) -> impl Iterator<Item = TableId> {
    relations
        .into_iter()
        .filter(|relation| matches!(relation.definition, Definition::Table { managed: true, .. }))
        .map(|relation| relation.id)
}

/// Removes the files of tables that the metadata has forgotten. What cannot be removed is swept at the next start.
pub(super) async fn remove_files(context: &StatementContext, tables: &[TableId]) {
    for table in tables {
        if let Err(error) = remove_table(context.lake.stores(), *table).await {
            tracing::warn!(table = %table, error = %chain(&error), "the files of a dropped table stay until the next start");
        }
    }
}

/// Whether IF NOT EXISTS has nothing to do. Checks everything else that a new table needs.
fn is_there(state: &State, rights: &Authority, path: &RelationPath, if_not_exists: bool, system: Option<SystemPrivilege>) -> Result<bool> {
    let schema = schema_to_create_in(state, rights, path)?;
    if let Some(privilege) = system {
        require_system(state, rights, privilege)?;
    }
    match state.relation(schema.id, &path.name) {
        None => Ok(false),
        Some(_) if if_not_exists => Ok(true),
        Some(existing) => Err(already_exists(word(kind_of(existing)), path)),
    }
}

fn new_table(state: &State, rights: &Authority, path: &RelationPath, id: TableId, definition: Definition) -> Result<Vec<Change>> {
    let schema = schema_to_create_in(state, rights, path)?.id;
    let (name, owner) = (path.name.clone(), rights.name().clone());
    let table = Relation { id, schema, name, owner, definition, row_security: false, comment: None };
    Ok(vec![Change::Put(Entity::Relation(table)), creators_grant(rights, ObjectId::Table(id))])
}

/// The canonical form of what was written in LOCATION, which must lie neither in nor above the warehouse.
async fn locate(context: &StatementContext, text: &str) -> Result<String> {
    let (stores, text) = (Arc::clone(context.lake.stores()), text.to_owned());
    let located = tokio::task::spawn_blocking(move || {
        let location = stores.locate(&text)?;
        let warehouse = stores.managed("")?;
        Ok((location.url().to_owned(), warehouse.url().to_owned()))
    });
    let (location, warehouse) = located.await.map_err(Error::internal)?.map_err(not_a_location)?;
    if overlap(&location, &warehouse) { Err(taken()) } else { Ok(location) }
}

fn not_a_location(error: LocationError) -> Error {
    match error {
        LocationError::NotAllowed { .. } => Error::denied(error.to_string()),
        LocationError::Invalid { .. } => Error::invalid(error.to_string()),
        LocationError::Scheme { .. } => Error::unsupported(format!("locations that are neither file:// nor s3:// ({error})")),
        LocationError::Store { .. } => {
            tracing::warn!(error = %chain(&error), "a store cannot be used");
            Error::invalid(error.to_string())
        }
    }
}

/// Two tables on the same files would answer for each other's rows, past each other's policies.
fn refuse_overlap(state: &State, format: TableFormat, location: &str) -> Result<()> {
    let wanted = territory(format, location);
    let overlaps = state.relations().any(|relation| match &relation.definition {
        Definition::Table { format, location, .. } => overlap(territory(*format, location), wanted),
        Definition::View { .. } => false,
    });
    if overlaps { Err(taken()) } else { Ok(()) }
}

fn taken() -> Error {
    Error::denied("this location cannot be used: it lies at, above or below one that is in use")
}

/// The folder that a table answers for. An Iceberg table may be named by one of its metadata files.
fn territory(format: TableFormat, location: &str) -> &str {
    let location = location.trim_end_matches('/');
    match location.rsplit_once('/') {
        Some((folder, file)) if format == TableFormat::Iceberg && file.ends_with(".metadata.json") => {
            folder.strip_suffix("/metadata").unwrap_or(folder)
        }
        _ => location,
    }
}

/// Whether one canonical location lies at, above or below the other.
fn overlap(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim_end_matches('/'), b.trim_end_matches('/'));
    let holds = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    holds(a, b) || holds(b, a)
}

/// Why the table of a CREATE cannot be opened. Its creator wrote the location and may know the names of files below it.
fn cannot_open(path: &RelationPath, error: &LakeError) -> Error {
    tracing::info!(table = %path, error = %chain(error), "a table cannot be registered");
    let kind = match error {
        LakeError::Unsupported { feature } => return Error::unsupported(feature),
        LakeError::NotATable { .. } | LakeError::Storage { source: object_store::Error::NotFound { .. }, .. } => ErrorKind::NotFound,
        LakeError::Corrupt { .. } | LakeError::OutsideLocation { .. } => ErrorKind::DataLoss,
        LakeError::Storage { .. } => ErrorKind::Unavailable,
        LakeError::Location(_) | LakeError::Option { .. } => ErrorKind::Invalid,
        LakeError::Internal(_) => return Error::internal(chain(error)),
    };
    Error::new(kind, error.to_string())
}
