//! SHOW USERS, TOKENS, ROLES, GRANTS, POLICIES, MASKING POLICIES and EFFECTIVE POLICIES: what the principal may know of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use lazaret_auth::grant::{authorize, authorize_system};
use lazaret_auth::{
    AccessReader, Authority, Grantee, Masking, MaskingPolicy, ObjectId, ObjectPath, PolicyCommand, PolicyKind, Privilege, PrivilegeGrant,
    RowPolicy, SystemPrivilege,
};
use lazaret_catalog::meta::State;

use super::principals::{is_known, name_of, resolve};
use super::{Target, effective, find, find_either, shown, tokens};
use crate::error::{Error, Result};
use crate::sql::statement::{ObjectRef, PrincipalRef, RelationKind, Show, ShowGrants};
use crate::statements::StatementContext;

/// The columns of the answer, where the statement is one of these.
pub fn result_schema(show: &Show) -> Option<SchemaRef> {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let flag = |name: &str| Field::new(name, DataType::Boolean, true);
    let fields = match show {
        Show::Users => vec![text("user"), flag("enabled"), flag("has_password"), text("certificate_subject")],
        Show::Tokens(_) => tokens::shown_fields(),
        Show::Roles => vec![text("role"), text("given_to"), flag("active")],
        Show::Grants(_) => vec![
            text("object_type"),
            text("object"),
            text("privilege"),
            text("columns"),
            text("grantee_type"),
            text("grantee"),
            flag("grant_option"),
            flag("denied"),
            text("grantor"),
        ],
        Show::Policies(_) => vec![
            text("policy"),
            text("object_type"),
            text("object"),
            text("kind"),
            text("command"),
            text("to"),
            text("except"),
            text("using"),
            text("with_check"),
            text("creator"),
            Field::new("version", DataType::Int64, true),
            text("comment"),
            text("warning"),
        ],
        Show::MaskingPolicies(_) => vec![
            text("policy"),
            text("table"),
            text("columns"),
            text("to"),
            text("except"),
            text("using"),
            Field::new("priority", DataType::Int64, true),
            text("creator"),
            Field::new("version", DataType::Int64, true),
            text("comment"),
            text("warning"),
        ],
        Show::EffectivePolicies { .. } => effective::fields(),
        _ => return None,
    };
    Some(Arc::new(Schema::new(fields)))
}

/// Answers out of one state, in order of name.
pub fn rows(context: &StatementContext, state: &State, show: &Show) -> Result<RecordBatch> {
    let rights = context.authority(state);
    let columns = match show {
        Show::Users => users(state, &rights),
        Show::Tokens(of) => tokens::shown(state, &rights, of.as_ref(), manages_users(state, &rights))?,
        Show::Roles => roles(state, &rights),
        Show::Grants(of) => grants(context, state, &rights, of.as_ref())?,
        Show::Policies(on) => {
            let on = on.as_ref().map(|on| find_either(context, state, &rights, on)).transpose()?;
            let policies = match &on {
                Some(target) => state.policies_on(target.id).iter().collect::<Vec<_>>(),
                None => state.policies().collect(),
            };
            policies_table(state, &rights, policies.into_iter().map(Arc::as_ref))
        }
        Show::MaskingPolicies(on) => {
            let on = on.as_ref().map(|on| find(context, state, &rights, &ObjectRef::Relation(RelationKind::Table, on.clone())));
            let on = on.transpose()?.map(|target| target.id);
            masks_table(state, &rights, state.masks().filter(|mask| on.is_none_or(|on| on == ObjectId::Table(mask.table))))
        }
        Show::EffectivePolicies { on, of } => effective::show(context, state, &rights, on, of.as_ref())?,
        _ => return Err(Error::internal("a SHOW that is not about access")),
    };
    answer(show, columns)
}

fn answer(show: &Show, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let schema = result_schema(show).ok_or_else(|| Error::internal("a SHOW without columns"))?;
    RecordBatch::try_new(schema, columns).map_err(Error::internal)
}

/// `system.grants`: SHOW GRANTS, whole.
pub fn all_grants(state: &State, rights: &Authority) -> Result<RecordBatch> {
    answer(&Show::Grants(None), grants_table(state, rights, None, None))
}

pub fn all_grants_schema() -> SchemaRef {
    result_schema(&Show::Grants(None)).unwrap_or_else(|| Arc::new(Schema::empty()))
}

/// `system.policies`: SHOW POLICIES and SHOW MASKING POLICIES, whole, one after the other.
pub fn all_policies(state: &State, rights: &Authority) -> Result<RecordBatch> {
    let rows = answer(&Show::Policies(None), policies_table(state, rights, state.policies().map(Arc::as_ref)))?;
    let masks = answer(&Show::MaskingPolicies(None), masks_table(state, rights, state.masks()))?;
    let schema = all_policies_schema();
    let column = |field: &Arc<Field>| {
        let of = |batch: &RecordBatch, kind: &str| -> ArrayRef {
            let every = |text: &str| texts(std::iter::repeat_n(Some(text.to_owned()), batch.num_rows()));
            let missing = || match field.name().as_str() {
                "type" => every(kind),
                // A mask lies on a table.
                "object_type" => every("TABLE"),
                "object" => batch.column_by_name("table").cloned().unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows())),
                _ => new_null_array(field.data_type(), batch.num_rows()),
            };
            batch.column_by_name(field.name()).cloned().unwrap_or_else(missing)
        };
        concat(&[&of(&rows, "ROW"), &of(&masks, "MASKING")]).map_err(Error::internal)
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_>>()?;
    RecordBatch::try_new(schema, columns).map_err(Error::internal)
}

pub fn all_policies_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        text("policy"),
        text("type"),
        text("object_type"),
        text("object"),
        text("kind"),
        text("command"),
        text("columns"),
        text("to"),
        text("except"),
        text("using"),
        text("with_check"),
        number("priority"),
        text("creator"),
        number("version"),
        text("comment"),
        text("warning"),
    ]))
}

fn users(state: &State, rights: &Authority) -> Vec<ArrayRef> {
    let all = manages_users(state, rights);
    let users: Vec<_> = state.users().filter(|user| all || (rights.name().is_local() && rights.name().subject == user.name)).collect();
    vec![
        texts(users.iter().map(|user| Some(user.name.clone()))),
        flags(users.iter().map(|user| user.enabled)),
        flags(users.iter().map(|user| user.password_hash.is_some())),
        texts(users.iter().map(|user| user.certificate_subject.as_ref().map(ToString::to_string))),
    ]
}

/// All of them, or the ones that are held; and which of them are active in this session.
fn roles(state: &State, rights: &Authority) -> Vec<ArrayRef> {
    let all = manages_users(state, rights);
    let roles: Vec<_> = state.roles().filter(|role| all || rights.held_roles().contains(&role.id)).collect();
    let given_to = roles.iter().map(|role| {
        let members = state.role_grants().filter(|grant| grant.role == role.id && (all || rights.is_bound_as(&grant.grantee)));
        Some(list(state, members.map(|grant| &grant.grantee)))
    });
    let active = roles.iter().map(|role| rights.active_roles().contains(&role.id));
    vec![texts(roles.iter().map(|role| Some(role.name.clone()))), texts(given_to), flags(active)]
}

/// One line of SHOW GRANTS: a privilege, or a role that is held.
struct GrantRow {
    object: (&'static str, String),
    privilege: String,
    columns: Option<String>,
    grantee: Grantee,
    grant_option: bool,
    denied: bool,
    grantor: String,
}

fn grants(context: &StatementContext, state: &State, rights: &Authority, of: Option<&ShowGrants>) -> Result<Vec<ArrayRef>> {
    let to = match of {
        Some(ShowGrants::To(principal)) => Some(resolve_visible(context, state, rights, principal)?),
        _ => None,
    };
    let on = match of {
        Some(ShowGrants::On(object)) => Some(find_either(context, state, rights, object)?),
        _ => None,
    };
    Ok(grants_table(state, rights, to.as_ref(), on.as_ref()))
}

fn grants_table(state: &State, rights: &Authority, to: Option<&Grantee>, on: Option<&Target<'_>>) -> Vec<ArrayRef> {
    let of_grantee = |grantee: &Grantee| to.is_none_or(|wanted| wanted == grantee);
    let mut rows: Vec<GrantRow> = Vec::new();
    for grant in state.privilege_grants().filter(|grant| of_grantee(&grant.grantee)) {
        let wanted = on.is_none_or(|target| target.reach().contains(&grant.object));
        let Some((kind, name, path)) = shown(state, rights, grant.object).filter(|_| wanted) else { continue };
        if may_know(state, rights, grant, path) {
            rows.push(GrantRow {
                object: (kind, name),
                privilege: grant.privilege.to_string(),
                columns: grant.columns.as_ref().map(|columns| columns.join(", ")),
                grantee: grant.grantee.clone(),
                grant_option: grant.grant_option,
                denied: grant.deny,
                grantor: grant.grantor.to_string(),
            });
        }
    }
    let all_roles = manages_users(state, rights);
    for grant in state.role_grants().filter(|grant| on.is_none() && of_grantee(&grant.grantee)) {
        if all_roles || rights.is_bound_as(&grant.grantee) {
            let role = state.role_by_id(grant.role).map(|role| role.name.clone()).unwrap_or_default();
            let (privilege, grantor) = ("ROLE".to_owned(), grant.grantor.to_string());
            let grantee = grant.grantee.clone();
            rows.push(GrantRow { object: ("ROLE", role), privilege, columns: None, grantee, grant_option: false, denied: false, grantor });
        }
    }
    rows.sort_by_cached_key(|row| (row.object.clone(), name_of(state, &row.grantee), row.privilege.clone()));
    let grantees: Vec<_> = rows.iter().map(|row| name_of(state, &row.grantee)).collect();
    vec![
        texts(rows.iter().map(|row| Some(row.object.0.to_owned()))),
        texts(rows.iter().map(|row| Some(row.object.1.clone()))),
        texts(rows.iter().map(|row| Some(row.privilege.clone()))),
        texts(rows.iter().map(|row| row.columns.clone())),
        texts(grantees.iter().map(|(kind, _)| Some((*kind).to_owned()))),
        texts(grantees.iter().map(|(_, name)| Some(name.clone()))),
        flags(rows.iter().map(|row| row.grant_option)),
        flags(rows.iter().map(|row| row.denied)),
        texts(rows.iter().map(|row| Some(row.grantor.clone()))),
    ]
}

/// What is given to oneself, and what one may take back.
fn may_know(state: &State, rights: &Authority, grant: &PrivilegeGrant, path: Option<ObjectPath>) -> bool {
    rights.is_bound_as(&grant.grantee)
        || match (path, grant.privilege) {
            (None, _) => manages_users(state, rights),
            (Some(path), Privilege::ManagePolicies) => {
                authorize(state, rights, path, Privilege::ManagePolicies).is_ok()
                    || authorize(state, rights, path, Privilege::Manage).is_ok()
            }
            (Some(path), _) => authorize(state, rights, path, Privilege::Manage).is_ok(),
        }
}

/// A role or user that is not one's own exists for those who manage users; for others it has no grants to show.
fn resolve_visible(context: &StatementContext, state: &State, rights: &Authority, principal: &PrincipalRef) -> Result<Grantee> {
    let grantee = resolve(context, state, principal)?;
    match (&grantee, principal) {
        (Grantee::Role(role), PrincipalRef::Role(name)) if !manages_users(state, rights) && !rights.held_roles().contains(role) => {
            Err(super::principals::not_found("role", name))
        }
        _ => Ok(grantee),
    }
}

/// A policy's text is for those who manage policies there.
fn policies_table<'a>(state: &State, rights: &Authority, policies: impl Iterator<Item = &'a RowPolicy>) -> Vec<ArrayRef> {
    let mut rows = Vec::new();
    for policy in policies {
        let Some((kind, name, Some(path))) = shown(state, rights, policy.object) else { continue };
        if authorize(state, rights, path, Privilege::ManagePolicies).is_ok() {
            rows.push((policy, kind, name));
        }
    }
    rows.sort_by_cached_key(|(policy, kind, name)| (name.clone(), *kind, policy.name.clone()));
    let text = |of: &dyn Fn(&RowPolicy) -> Option<String>| texts(rows.iter().map(|(policy, _, _)| of(policy)));
    vec![
        text(&|policy| Some(policy.name.clone())),
        texts(rows.iter().map(|(_, kind, _)| Some((*kind).to_owned()))),
        texts(rows.iter().map(|(_, _, name)| Some(name.clone()))),
        text(&|policy| Some(kind_name(policy.kind).to_owned())),
        text(&|policy| Some(command_name(policy.command).to_owned())),
        text(&|policy| Some(list(state, &policy.to))),
        text(&|policy| Some(list(state, &policy.except)).filter(|except| !except.is_empty())),
        text(&|policy| policy.using.clone()),
        text(&|policy| policy.with_check.clone()),
        text(&|policy| Some(policy.creator.to_string())),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(policy, _, _)| i64::try_from(policy.version).unwrap_or(i64::MAX)))),
        text(&|policy| policy.comment.clone()),
        text(&|policy| not_known(state, policy.to.iter().chain(&policy.except))),
    ]
}

/// As row policies, a mask is shown to those who manage policies there.
fn masks_table<'a>(state: &State, rights: &Authority, masks: impl Iterator<Item = &'a Arc<MaskingPolicy>>) -> Vec<ArrayRef> {
    let mut rows: Vec<(&MaskingPolicy, String)> = Vec::new();
    for mask in masks {
        let Some((_, name, Some(path))) = shown(state, rights, ObjectId::Table(mask.table)) else { continue };
        if authorize(state, rights, path, Privilege::ManagePolicies).is_ok() {
            rows.push((mask, name));
        }
    }
    rows.sort_by_cached_key(|(mask, name)| (name.clone(), mask.name.clone()));
    let text = |of: &dyn Fn(&MaskingPolicy) -> Option<String>| texts(rows.iter().map(|(mask, _)| of(mask)));
    let numbers = |of: &dyn Fn(&MaskingPolicy) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(|(mask, _)| of(mask))));
    vec![
        text(&|mask| Some(mask.name.clone())),
        texts(rows.iter().map(|(_, name)| Some(name.clone()))),
        text(&|mask| Some(mask.columns.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", "))),
        text(&|mask| Some(list(state, &mask.to))),
        text(&|mask| Some(list(state, &mask.except)).filter(|except| !except.is_empty())),
        text(&|mask| {
            Some(match &mask.masking {
                Masking::Expression(text) => format!("({text})"),
                Masking::Action(action) => format!("ACTION {}", action.name()),
            })
        }),
        numbers(&|mask| mask.priority),
        text(&|mask| Some(mask.creator.to_string())),
        numbers(&|mask| i64::try_from(mask.version).unwrap_or(i64::MAX)),
        text(&|mask| mask.comment.clone()),
        text(&|mask| not_known(state, mask.to.iter().chain(&mask.except))),
    ]
}

fn not_known<'a>(state: &State, named: impl Iterator<Item = &'a Grantee>) -> Option<String> {
    let unknown: Vec<&Grantee> = named.filter(|it| !is_known(state, it)).collect();
    (!unknown.is_empty()).then(|| format!("not known: {}", list(state, unknown)))
}

fn kind_name(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::Permissive => "PERMISSIVE",
        PolicyKind::Restrictive => "RESTRICTIVE",
    }
}

pub(super) fn command_name(command: PolicyCommand) -> &'static str {
    match command {
        PolicyCommand::All => "ALL",
        PolicyCommand::Select => "SELECT",
        PolicyCommand::Insert => "INSERT",
        PolicyCommand::Update => "UPDATE",
        PolicyCommand::Delete => "DELETE",
    }
}

/// `USER ada, ROLE r, GROUP 'hospital:g', ALL`, as one would write it.
pub(super) fn list<'a>(state: &State, grantees: impl IntoIterator<Item = &'a Grantee>) -> String {
    let shown = grantees.into_iter().map(|grantee| match (grantee, name_of(state, grantee)) {
        (Grantee::All, _) => "ALL".to_owned(),
        (Grantee::Group(_), (kind, name)) => format!("{kind} '{}'", name.replace('\'', "''")),
        (Grantee::User(_) | Grantee::Role(_), (kind, name)) => format!("{kind} {}", quoted(&name)),
    });
    shown.collect::<Vec<_>>().join(", ")
}

pub(super) fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn manages_users(state: &State, rights: &Authority) -> bool {
    authorize_system(state, rights, Privilege::System(SystemPrivilege::ManageUsers)).is_ok()
}

pub(super) fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn flags(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(BooleanArray::from_iter(values.map(Some)))
}
