//! Row policies: made, dropped, and switched on and off for a table.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use lazaret_auth::grant::{authorize, authorize_system};
use lazaret_auth::policy::BoundColumn;
use lazaret_auth::{
    AccessReader, Authority, CheckSubqueries, Grantee, ObjectId, PolicyCommand, PolicyId, PolicyKind, PolicySubqueries, Privilege,
    RowPolicy,
};
use lazaret_catalog::governed::{BindError, session_config};
use lazaret_catalog::lake::{LakeError, TableSource};
use lazaret_catalog::meta::{Change, Definition, Entity, EntityId, Relation, State};
use lazaret_catalog::namespace::{CatalogError, Namespace, TableOpener};

use super::principals::{is_known, name_of, not_found, resolve};
use super::{Target, find};
use crate::engine::bind_functions;
use crate::engine::failure;
use crate::error::{Error, ErrorKind, Position, Result};
use crate::sql::statement::{CreatePolicy, ObjectRef, PrincipalRef, RelationKind};
use crate::sql::{Ident, ObjectName};
use crate::statements::StatementContext;
use crate::statements::objects::{already_exists, chain, change};

/// Needs MANAGE POLICIES on what the policy lies on. The first policy on a table enables row-level security.
pub async fn create(context: &StatementContext, create: &CreatePolicy) -> Result<()> {
    let state = context.metadata.current();
    let rights = context.authority(state.as_ref());
    let target = find(context, &state, &rights, &create.on)?;
    require_policies(&state, &rights, &target)?;
    let bound = bind(context, &state, &rights, &target, create).await?;
    let definition = target.relation.map(|relation| relation.definition.clone());

    let id = PolicyId::generate();
    let mut unknown = Vec::new();
    let mut closed = None;
    change(context, |state, rights| {
        let target = find(context, state, rights, &create.on)?;
        require_policies(state, rights, &target)?;
        // Bound to what the table was a moment ago: another of that name may have other columns.
        if bound.object != target.id || definition.as_ref() != target.relation.map(|relation| &relation.definition) {
            return Err(Error::new(ErrorKind::Aborted, format!("{} was changed at the same time; nothing was written", target.shown)));
        }
        let existing = state.policy(target.id, create.name.as_str());
        if existing.is_some() && !create.or_replace {
            return Err(already_exists("policy", &create.name));
        }
        let (to, except) = (grantees(context, state, &create.to)?, grantees(context, state, &create.except)?);
        unknown = to.iter().chain(&except).filter(|it| !is_known(state, it)).map(|it| name_of(state, it).1).collect();
        let policy = RowPolicy {
            id: existing.map_or(id, |policy| policy.id),
            name: create.name.as_str().to_owned(),
            object: target.id,
            kind: create.kind,
            command: create.command,
            to,
            except,
            using: create.using.as_ref().map(|expr| expr.text.clone()),
            with_check: create.with_check.as_ref().map(|expr| expr.text.clone()),
            columns: bound.columns.clone(),
            subqueries: bound.subqueries.clone(),
            creator: rights.name().clone(),
            version: existing.map_or(1, |policy| policy.version + 1),
            comment: create.comment.clone(),
        };
        let others = permissive(state, &target).filter(|other| other.id != policy.id);
        closed = (target.relation.is_some() && others.chain(shows_rows(&policy)).next().is_none()).then(|| without_rows(&target.shown));
        let mut changes = vec![Change::Put(Entity::Policy(policy))];
        let is_first = state.policies_on(target.id).is_empty();
        if let Some(relation) = target.relation.filter(|relation| is_first && !relation.row_security) {
            changes.push(Change::Put(Entity::Relation(Relation { row_security: true, ..Relation::clone(relation) })));
        }
        Ok(changes)
    })
    .await?;
    for name in unknown {
        context.warn(format!("policy \"{}\" names \"{name}\", who is not known: a misspelt name?", create.name));
    }
    if let Some(closed) = closed {
        context.warn(closed);
    }
    Ok(())
}

/// The policies that can show rows of an object: its own, and those of what it lies in.
fn permissive<'a>(state: &'a State, target: &Target<'_>) -> impl Iterator<Item = &'a RowPolicy> {
    target.reach().into_iter().flat_map(|object| state.policies_on(object)).filter_map(|policy| shows_rows(policy))
}

fn shows_rows(policy: &RowPolicy) -> Option<&RowPolicy> {
    let shows = policy.kind == PolicyKind::Permissive && policy.command.covers(PolicyCommand::Select) && policy.using.is_some();
    shows.then_some(policy)
}

fn without_rows(shown: &str) -> String {
    format!("{shown} has row-level security on and no permissive policy for SELECT: it shows no rows")
}

/// Leaves row-level security on: without a policy the table then shows no rows.
pub async fn drop(context: &StatementContext, name: &Ident, on: &ObjectRef, if_exists: bool) -> Result<()> {
    let mut warning = None;
    change(context, |state, rights| {
        warning = None;
        let target = match find(context, state, rights, on) {
            Err(error) if if_exists && error.kind == ErrorKind::NotFound => {
                warning = Some(format!("{}, nothing was dropped", error.message));
                return Ok(Vec::new());
            }
            found => found?,
        };
        require_policies(state, rights, &target)?;
        let Some(policy) = state.policy(target.id, name.as_str()) else {
            if if_exists {
                warning = Some(format!("policy \"{name}\" not found, nothing was dropped"));
                return Ok(Vec::new());
            }
            return Err(not_found("policy", name));
        };
        let is_last = target.relation.is_some_and(|relation| relation.row_security) && state.policies_on(target.id).len() == 1;
        if is_last {
            warning = Some(format!("{} has no policy left and row-level security on: it shows no rows", target.shown));
        }
        let mut changes = vec![Change::Delete(EntityId::Policy(policy.id))];
        if state.policies_on(target.id).len() == 1 {
            // What the last policy of a schema or catalog covered stays closed until somebody opens it table by table.
            let open = covered(state, target.id).into_iter().filter(|relation| !relation.row_security);
            changes
                .extend(open.map(|relation| Change::Put(Entity::Relation(Relation { row_security: true, ..Relation::clone(relation) }))));
        }
        Ok(changes)
    })
    .await?;
    if let Some(warning) = warning {
        context.warn(warning);
    }
    Ok(())
}

/// The tables and views below a schema or catalog; of a table, none.
fn covered(state: &State, object: ObjectId) -> Vec<&Arc<Relation>> {
    match object {
        ObjectId::Schema(schema) => state.relations_in(schema).collect(),
        ObjectId::Catalog(catalog) => state.schemas_in(catalog).flat_map(|schema| state.relations_in(schema.id)).collect(),
        ObjectId::System | ObjectId::Table(_) => Vec::new(),
    }
}

pub async fn row_level_security(context: &StatementContext, kind: RelationKind, name: &ObjectName, enable: bool) -> Result<()> {
    let object = ObjectRef::Relation(kind, name.clone());
    let mut closed = None;
    change(context, |state, rights| {
        let target = find(context, state, rights, &object)?;
        require_policies(state, rights, &target)?;
        closed = (enable && permissive(state, &target).next().is_none()).then(|| without_rows(&target.shown));
        let changed = target.relation.filter(|relation| relation.row_security != enable);
        Ok(changed
            .map(|relation| Change::Put(Entity::Relation(Relation { row_security: enable, ..Relation::clone(relation) })))
            .into_iter()
            .collect())
    })
    .await?;
    if let Some(closed) = closed {
        context.warn(closed);
    }
    Ok(())
}

/// Whoever owns a table does not for that decide who sees which rows.
pub(super) fn manages_policies(state: &State, rights: &Authority, target: &Target<'_>) -> bool {
    match target.path {
        Some(path) => authorize(state, rights, path, Privilege::ManagePolicies).is_ok(),
        None => authorize_system(state, rights, Privilege::ManagePolicies).is_ok(),
    }
}

pub(super) fn require_policies(state: &State, rights: &Authority, target: &Target<'_>) -> Result<()> {
    if manages_policies(state, rights, target) {
        return Ok(());
    }
    Err(Error::denied(format!("{} on {} is required", Privilege::ManagePolicies, target.shown)))
}

pub(super) fn grantees(context: &StatementContext, state: &State, principals: &[PrincipalRef]) -> Result<Vec<Grantee>> {
    principals.iter().map(|principal| resolve(context, state, principal)).collect()
}

/// What a policy was found to depend on.
struct Bound {
    object: ObjectId,
    columns: Vec<BoundColumn>,
    subqueries: Option<PolicySubqueries>,
}

/// On a table or view: BOOLEAN over its columns, which are remembered. On what holds tables it is bound table by table,
/// when they are read.
async fn bind(
    context: &StatementContext,
    state: &Arc<State>,
    rights: &Authority,
    target: &Target<'_>,
    create: &CreatePolicy,
) -> Result<Bound> {
    let (catalog, schema) = {
        let session = context.session.state.lock();
        (session.catalog.clone(), session.schema.clone())
    };
    let columns = match target.relation {
        Some(relation) => Some((relation.name.as_str(), schema_of(context, state, rights, target).await?)),
        None => None,
    };
    // Subqueries are read with stored rights, now as later.
    let creator = Authority::stored(state.as_ref(), rights.name()).bound_by(state.as_ref(), rights.groups());
    let names = namespace(context, state, creator, &catalog, &schema).map_err(Error::internal)?;
    let mut bound = Bound { object: target.id, columns: Vec::new(), subqueries: None };
    let mut reads = BTreeSet::new();
    let mut texts = [None, None];
    for (expr, found_in) in [&create.using, &create.with_check].into_iter().zip(&mut texts) {
        let Some(expr) = expr else { continue };
        let found = match &columns {
            Some((relation, columns)) => names.bind_new_policy(relation, &expr.text, columns).await,
            None => names.bind_new_names(&expr.text),
        };
        let found = found.map_err(|error| refused(error, expr.position))?;
        let columns: Vec<String> = found.columns.iter().map(|column| column.name.clone()).collect();
        if let Some(read) = found.reads {
            reads.extend(read.iter().copied());
            *found_in = Some((read.into_iter().collect(), columns));
        }
        let known = |column: &BoundColumn| bound.columns.iter().any(|known| known.name == column.name);
        let new: Vec<BoundColumn> = found.columns.into_iter().filter(|column| !known(column)).collect();
        bound.columns.extend(new);
    }
    let [using, check] = texts;
    if using.is_some() || check.is_some() {
        let creator_groups = rights.groups().clone();
        let in_using = using.is_some();
        let (using_reads, using_columns) = using.unwrap_or_default();
        let check = check.map(|(reads, columns)| CheckSubqueries { reads, columns });
        let (reads, using_reads) = (reads.into_iter().collect(), Some(using_reads));
        bound.subqueries = Some(PolicySubqueries { catalog, schema, reads, using_columns, creator_groups, in_using, using_reads, check });
    }
    Ok(bound)
}

/// What the constants of a policy may take when it is made.
const MAX_POLICY_BYTES: usize = 64 << 20;

pub(super) fn namespace(
    context: &StatementContext,
    state: &Arc<State>,
    rights: Authority,
    catalog: &str,
    schema: &str,
) -> std::result::Result<Namespace, DataFusionError> {
    let opener: Arc<dyn TableOpener> = Arc::clone(&context.lake) as Arc<dyn TableOpener>;
    let mut template = SessionStateBuilder::new_with_default_features().with_config(session_config(SessionConfig::new())).build();
    bind_functions(&mut template, MAX_POLICY_BYTES)?;
    Namespace::new(Arc::clone(state), rights, opener, template, catalog, schema)
}

pub(super) fn refused(error: BindError, Position { line, column }: Position) -> Error {
    let error = match error {
        BindError::Unsupported(what) => Error::unsupported(format!("{what} in a policy")),
        BindError::Closed { .. } | BindError::MaskClosed { .. } => Error::new(ErrorKind::FailedPrecondition, error.to_string()),
        BindError::Inside(error) => failure::from_datafusion(error),
        BindError::Parse(_)
        | BindError::Plan(_)
        | BindError::NotBoolean(_)
        | BindError::NotAllowed(_)
        | BindError::Hidden(_)
        | BindError::Volatile(_)
        | BindError::NoColumn(_)
        | BindError::MaskType { .. }
        | BindError::MaskAction { .. } => Error::invalid(error.to_string()),
    };
    error.at(line, column)
}

/// The columns of a table, all of them, or of a view as this principal may select from it.
pub(super) async fn schema_of(
    context: &StatementContext,
    state: &Arc<State>,
    rights: &Authority,
    target: &Target<'_>,
) -> Result<SchemaRef> {
    let Some(relation) = target.relation else { return Err(Error::internal("columns of what is no table")) };
    match &relation.definition {
        Definition::Table { format, location, options, .. } => {
            let source = TableSource { id: relation.id, format: *format, location: location.clone(), options: options.clone() };
            let open = context.lake.open(&source).await.map_err(|error| cannot_open(&target.shown, &error))?;
            Ok(open.binding_schema())
        }
        Definition::View { .. } => {
            let [catalog, schema, name] = state.qualified_name(relation.id).ok_or_else(|| Error::internal("a view without a name"))?;
            let names = namespace(context, state, rights.clone(), &catalog, &schema).map_err(cannot_read_view)?;
            let view = names.table(&catalog, &schema, &name).await.map_err(cannot_read_view)?;
            Ok(view.ok_or_else(|| Error::not_found("view", &name))?.schema())
        }
    }
}

fn cannot_read_view(error: DataFusionError) -> Error {
    match CatalogError::of(&error) {
        Some(CatalogError::NotFound(name)) => Error::not_found("view", name),
        Some(denied @ CatalogError::Denied { .. }) => Error::denied(denied.to_string()),
        Some(other) => Error::new(ErrorKind::FailedPrecondition, other.to_string()),
        None => Error::internal(error),
    }
}

/// Whoever manages policies need not know where the files are.
fn cannot_open(shown: &str, error: &LakeError) -> Error {
    match error {
        LakeError::Unsupported { feature } => Error::unsupported(feature),
        LakeError::Mismatch { .. } => Error::unsupported("files that do not fit together"),
        LakeError::Internal(_) => Error::internal(chain(error)),
        _ => {
            let id = Error::internal(chain(error)).id.unwrap_or_default();
            let kind = if matches!(error, LakeError::Corrupt { .. }) { ErrorKind::DataLoss } else { ErrorKind::Unavailable };
            Error { id: Some(id.clone()), ..Error::new(kind, format!("{shown} cannot be opened (id {id})")) }
        }
    }
}
