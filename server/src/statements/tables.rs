//! CREATE EXTERNAL TABLE, the two ends of CREATE TABLE AS, and DROP of tables and views.

use std::sync::Arc;

use futures::{StreamExt, stream};
use lazaret_auth::grant::authorize;
use lazaret_auth::{AccessReader, Authority, ObjectId, ObjectPath, Privilege, RowPolicy, SystemPrivilege, TableId};
use lazaret_catalog::lake::territory::{overlap, owns_some_of, territory};
use lazaret_catalog::lake::{LakeError, TableSource};
use lazaret_catalog::meta::{Change, Definition, Entity, EntityId, Relation, State, TableFormat};
use lazaret_catalog::stores::LocationError;
use lazaret_catalog::write::{CreatedTable, sweep};

use super::StatementContext;
use super::objects::{
    already_exists, chain, change, creators_grant, find_relation, is_refusal, kind_of, refuse_reserved, require, require_system,
    schema_to_create_in, told, try_change, word,
};
use crate::engine::UpdateOutcome;
use crate::error::{Error, ErrorKind, Result};
use crate::sql::RelationPath;
use crate::sql::statement::{CreateExternalTable, CreateTableAs, RelationKind};

/// To ask them for files outside their folders: enough to wait for a store in parallel.
const TABLES_OPENED_AT_ONCE: usize = 16;

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
    let open = context.lake.open(&source).await.map_err(|error| cannot_open(&path, &error))?;
    let outside = open.folders_outside(&location).map_err(|error| cannot_open(&path, &error))?;
    let own = territory(create.format, &location);
    let claimed: Vec<&str> = outside.iter().map(String::as_str).chain([own]).collect();
    refuse_files_in_use(context, &state, &claimed).await?;

    let definition = Definition::Table {
        format: create.format,
        location: location.clone(),
        managed: false,
        options: create.options.clone(),
        outside: outside.to_vec(),
    };
    change(context, |state, rights| {
        if is_there(state, rights, &path, create.if_not_exists, Some(SystemPrivilege::ReadFiles))? {
            return Ok(Vec::new());
        }
        refuse_overlap(state, create.format, &location)?;
        if state.relations().any(|relation| owns_some_of(relation, outside.iter().map(String::as_str))) {
            return Err(cannot_open(&path, &LakeError::FilesOfAnother));
        }
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
    let id = TableId::generate();
    let mut exists = false;
    // Before there is a folder it is known as one that may go: a kill leaves nothing that nobody knows of.
    change(context, |state, rights| {
        exists = is_there(state, rights, &path, create.if_not_exists, None)?;
        Ok(if exists { Vec::new() } else { vec![Change::Put(Entity::Leftover(id))] })
    })
    .await?;
    Ok((!exists).then_some(id))
}

/// Names a table that has been written. Where that is refused, its files go.
pub async fn register_created(
    context: &StatementContext,
    create: &CreateTableAs,
    id: TableId,
    created: &CreatedTable,
) -> Result<UpdateOutcome> {
    let path = context.relation_path(&create.name)?;
    let definition = Definition::Table {
        format: create.format,
        location: created.location.clone(),
        managed: true,
        options: Default::default(),
        outside: Vec::new(),
    };
    let mut registered = true;
    let outcome = try_change(context, |state, rights| {
        registered = !is_there(state, rights, &path, create.if_not_exists, None)?;
        if !registered {
            return Ok(Vec::new());
        }
        let mut changes = new_table(state, rights, &path, id, definition.clone())?;
        changes.push(Change::Delete(EntityId::Leftover(id)));
        Ok(changes)
    })
    .await;
    match outcome {
        Ok(_) if registered => Ok(UpdateOutcome { rows: created.rows, ..UpdateOutcome::default() }),
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

/// What was begun was not written.
pub async fn abandon_created(context: &StatementContext, id: TableId) {
    remove_files(context, &[id]).await;
}

/// Needs MANAGE. Grants and policies go with it in one transaction; the files of a managed table afterwards. What policies
/// elsewhere read goes only with CASCADE: it closes the tables that they govern.
pub async fn drop(
    context: &StatementContext,
    kind: RelationKind,
    name: &crate::sql::ObjectName,
    if_exists: bool,
    cascade: bool,
) -> Result<UpdateOutcome> {
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
        if loses_policies(state, rights, found.path, found.relation) {
            require(state, rights, found.path, Privilege::ManagePolicies, word(kind), &path)?;
        }
        let id = found.relation.id;
        let is_read = |policy: &RowPolicy| policy.subqueries.as_ref().is_some_and(|it| it.reads.contains(&id));
        if !cascade && state.policies().any(|policy| policy.object != ObjectId::Table(id) && is_read(policy)) {
            let message = format!("{} \"{path}\" is read by a policy; DROP … CASCADE closes what that policy governs", word(kind));
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        managed.extend(managed_tables([found.relation]));
        let mut changes = state.cascade(EntityId::Relation(found.relation.id));
        changes.extend(managed.iter().copied().map(Entity::Leftover).map(Change::Put));
        Ok(changes)
    })
    .await?;
    remove_files(context, &managed).await;
    Ok(UpdateOutcome::default())
}

/// Whether files that stay would be without their policies once the table is dropped, for somebody who manages none: they
/// could be registered anew.
pub(super) fn loses_policies(state: &State, rights: &Authority, path: ObjectPath, relation: &Relation) -> bool {
    if !matches!(relation.definition, Definition::Table { managed: false, .. }) {
        return false;
    }
    let governed = relation.row_security
        || !state.masks_on(relation.id).is_empty()
        || path.objects().any(|object| !state.policies_on(object).is_empty());
    governed && authorize(state, rights, path, Privilege::ManagePolicies).is_err()
}

/// Those whose files are ours.
pub(super) fn managed_tables<'a>(relations: impl IntoIterator<Item = &'a Arc<Relation>>) -> impl Iterator<Item = TableId> {
    relations
        .into_iter()
        .filter(|relation| matches!(relation.definition, Definition::Table { managed: true, .. }))
        .map(|relation| relation.id)
}

/// Removes the files of tables that the metadata holds as leftovers, and then what it holds of them. What cannot be removed
/// is swept at the next start.
pub(super) async fn remove_files(context: &StatementContext, tables: &[TableId]) {
    if let Err(error) = sweep(context.lake.stores(), &context.metadata, tables).await {
        tracing::warn!(?tables, error = %chain(&error), "the files of a dropped table stay until the next start");
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
    if state.relations().any(|relation| owns_some_of(relation, [wanted].into_iter())) { Err(taken()) } else { Ok(()) }
}

/// Tables may have come to have files outside their folders since they were registered. Of one that cannot be opened now,
/// what was known then counts.
async fn refuse_files_in_use(context: &StatementContext, state: &State, claimed: &[&str]) -> Result<()> {
    let sources = state.relations().filter_map(|relation| match &relation.definition {
        Definition::Table { format: format @ (TableFormat::Delta | TableFormat::Iceberg), location, managed: false, options, .. } => {
            Some(TableSource { id: relation.id, format: *format, location: location.clone(), options: options.clone() })
        }
        Definition::Table { .. } | Definition::View { .. } => None,
    });
    let sources: Vec<TableSource> = sources.collect();
    let mut opening = stream::iter(sources)
        .map(|source| async move { context.lake.open(&source).await.and_then(|open| open.folders_outside(&source.location)) })
        .buffer_unordered(TABLES_OPENED_AT_ONCE);
    while let Some(folders) = opening.next().await {
        if folders.is_ok_and(|folders| folders.iter().any(|folder| claimed.iter().any(|claimed| overlap(folder, claimed)))) {
            return Err(taken());
        }
    }
    Ok(())
}

fn taken() -> Error {
    Error::denied("this location cannot be used: it lies at, above or below one that is in use")
}

/// Why the table of a CREATE cannot be opened. Its creator wrote the location and may know the names of files below it.
fn cannot_open(path: &RelationPath, error: &LakeError) -> Error {
    tracing::info!(table = %path, error = %chain(error), "a table cannot be registered");
    let kind = match error {
        LakeError::Unsupported { feature } => return Error::unsupported(feature),
        LakeError::Mismatch { .. } => ErrorKind::Unsupported,
        LakeError::NotATable { .. } | LakeError::Storage { source: object_store::Error::NotFound { .. }, .. } => ErrorKind::NotFound,
        LakeError::Corrupt { .. } | LakeError::OutsideLocation { .. } => ErrorKind::DataLoss,
        LakeError::FilesOfAnother => ErrorKind::PermissionDenied,
        LakeError::Storage { .. } | LakeError::Location(LocationError::Store { .. }) => ErrorKind::Unavailable,
        LakeError::Location(_) | LakeError::Option { .. } => ErrorKind::Invalid,
        LakeError::Internal(_) => return Error::internal(chain(error)),
    };
    Error::new(kind, error.to_string())
}
