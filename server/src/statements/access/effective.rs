//! SHOW EFFECTIVE POLICIES: what binds somebody on a table or view, and why.
//!
//! Whoever manages the policies of a table is told everything that concerns somebody there; the text of a policy only who
//! manages policies where it lies, as in SHOW POLICIES. For oneself anybody may ask, and is told names and kinds: what
//! binds, and what one is exempted from, by which of one's own roles and groups.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field};
use lazaret_auth::effective::{Effective, GrantEffect, MaskEffect, effective};
use lazaret_auth::grant::{Stance, authorize, authorize_read};
use lazaret_auth::policy::BoundColumn;
use lazaret_auth::{
    Authority, Grantee, Masking, MaskingPolicy, ObjectId, ObjectPath, PolicyCommand, PolicyKind, Privilege, PrivilegeGrant, RowPolicy,
};
use lazaret_catalog::meta::State;

use super::policies::require_policies;
use super::principals::not_found;
use super::show::{command_name, list, quoted, texts};
use super::{find_either, named, subjects};
use crate::error::{Error, Result};
use crate::sql::statement::{ObjectRef, Subject, SubjectRef};
use crate::statements::StatementContext;

const APPLIES: &str = "applies";
const EXEMPTED: &str = "exempted";
const INACTIVE: &str = "inactive";
const HIDES_ALL: &str = "hides every row";
const LIFTED: &str = "lifted";

/// One thing that is said about somebody on a table.
pub(super) struct Line {
    pub kind: Kind,
    pub name: Option<String>,
    /// What it is attached to.
    pub on: (&'static str, String),
    pub command: Option<String>,
    pub columns: Option<String>,
    /// The grantees that name this one, and those of EXCEPT that do.
    pub to: Option<String>,
    pub except: Option<String>,
    pub using: Option<String>,
    pub with_check: Option<String>,
    pub priority: Option<i64>,
    pub effect: &'static str,
    pub creator: Option<String>,
}

/// In the order in which they are shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    RowSecurity,
    /// The asker's own, in this session.
    EmergencyAccess,
    Grant,
    Deny,
    Permissive,
    Restrictive,
    Mask,
    /// What the row policies come to together.
    RowFilter,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::RowSecurity => "ROW LEVEL SECURITY",
            Self::EmergencyAccess => "EMERGENCY ACCESS",
            Self::Grant => "GRANT",
            Self::Deny => "DENY",
            Self::Permissive => "PERMISSIVE POLICY",
            Self::Restrictive => "RESTRICTIVE POLICY",
            Self::Mask => "MASKING POLICY",
            Self::RowFilter => "ROW FILTER",
        }
    }
}

pub(super) fn fields() -> Vec<Field> {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    vec![
        text("kind"),
        text("name"),
        text("object_type"),
        text("object"),
        text("command"),
        text("columns"),
        text("to"),
        text("except"),
        text("using"),
        text("with_check"),
        Field::new("priority", DataType::Int64, true),
        text("effect"),
        text("creator"),
    ]
}

pub(super) fn columns(lines: &[Line]) -> Vec<ArrayRef> {
    let text = |of: &dyn Fn(&Line) -> Option<String>| texts(lines.iter().map(of));
    vec![
        text(&|line| Some(line.kind.name().to_owned())),
        text(&|line| line.name.clone()),
        text(&|line| Some(line.on.0.to_owned())),
        text(&|line| Some(line.on.1.clone())),
        text(&|line| line.command.clone()),
        text(&|line| line.columns.clone()),
        text(&|line| line.to.clone()),
        text(&|line| line.except.clone()),
        text(&|line| line.using.clone()),
        text(&|line| line.with_check.clone()),
        Arc::new(lines.iter().map(|line| line.priority).collect::<Int64Array>()),
        text(&|line| Some(line.effect.to_owned())),
        text(&|line| line.creator.clone()),
    ]
}

/// About whom it is.
pub(super) struct About<'a> {
    pub asker: &'a Authority,
    /// With whose privileges the table is read, and who reads; they differ inside a view.
    pub rights: &'a Authority,
    pub reader: &'a Authority,
    pub own_rights: bool,
    pub own_reader: bool,
}

pub(super) fn show(
    context: &StatementContext,
    state: &State,
    asker: &Authority,
    on: &ObjectRef,
    of: Option<&SubjectRef>,
) -> Result<Vec<ArrayRef>> {
    let target = find_either(context, state, asker, on)?;
    let path = target.path.ok_or_else(|| Error::internal("policies on what is no table"))?;
    let other = match of {
        Some(SubjectRef::User(subject)) if is_oneself(context, state, asker, subject) => None,
        Some(of) => {
            // The privilege comes before the name.
            require_policies(state, asker, &target)?;
            Some(authority(context, state, of)?)
        }
        None => None,
    };
    let subject = other.as_ref().unwrap_or(asker);
    let own = other.is_none();
    Ok(columns(&lines(state, &About { asker, rights: subject, reader: subject, own_rights: own, own_reader: own }, path)))
}

/// With groups or claims it is somebody whom one imagines.
pub(super) fn is_oneself(context: &StatementContext, state: &State, asker: &Authority, subject: &Subject) -> bool {
    let bare = subject.groups.is_empty() && subject.claims.is_none();
    bare && subjects::name(context, state, subject).is_ok_and(|name| name == *asker.name())
}

fn authority(context: &StatementContext, state: &State, of: &SubjectRef) -> Result<Authority> {
    match of {
        SubjectRef::User(subject) => Ok(Authority::of(state, Arc::new(subjects::principal(context, state, subject)?))),
        SubjectRef::Role(name) => {
            let role = state.role(name.as_str()).ok_or_else(|| not_found("role", name))?;
            Ok(Authority::of_role(state, role.id))
        }
    }
}

/// Everything that the asker may know, in order of kind and name.
pub(super) fn lines(state: &State, about: &About<'_>, path: ObjectPath) -> Vec<Line> {
    let told = effective(state, about.rights, about.reader, path);
    let manages = manages_policies(state, about.asker, path);
    let emergency = about.reader.emergency().filter(|access| path.table.is_some_and(|table| access.covers(table)));
    let mut lines = Vec::new();
    if manages || about.own_reader {
        lines.push(row_security(state, &told, path));
        lines.extend(
            emergency
                .map(|access| Line { name: Some(access.id.to_string()), ..Line::empty(Kind::EmergencyAccess, object_at(state, path)) }),
        );
        // Where row-level security is off, they do nothing.
        let policies = told.policies.iter().filter(|_| manages || told.row_security);
        lines.extend(policies.map(|(policy, stance)| policy_line(state, about, &told, policy, *stance, manages)));
        for (mask, effect) in &told.masks {
            lines.extend(mask_lines(state, about, path, mask, effect, manages));
        }
    }
    if manages || about.own_rights {
        // To whom a column is denied it does not exist.
        let told = told.grants.iter().filter(|(grant, _)| manages || !(grant.deny && grant.columns.is_some()));
        lines.extend(told.map(|(grant, effect)| grant_line(state, about, grant, *effect)));
    }
    if emergency.is_some() {
        // It lifts what hides rows and values from reading, and nothing else.
        let hides = |kind| matches!(kind, Kind::RowSecurity | Kind::Permissive | Kind::Restrictive | Kind::Mask);
        let binding = lines.iter_mut().filter(|line| hides(line.kind) && line.is_for_select());
        binding.filter(|line| [APPLIES, HIDES_ALL].contains(&line.effect)).for_each(|line| line.effect = LIFTED);
    }
    lines.sort_by_cached_key(|line| (line.kind, line.name.clone(), line.on.1.clone(), line.command.clone(), line.effect));
    lines
}

pub(super) fn manages_policies(state: &State, asker: &Authority, path: ObjectPath) -> bool {
    authorize(state, asker, path, Privilege::ManagePolicies).is_ok()
}

/// As an object of the path is written; what a visible table lies in is known by its name.
fn object(state: &State, object: ObjectId) -> (&'static str, String) {
    named(state, object).map(|(kind, name, _)| (kind, name)).unwrap_or_default()
}

fn row_security(state: &State, told: &Effective, path: ObjectPath) -> Line {
    let shows = |(policy, stance): &(Arc<RowPolicy>, Stance)| {
        *stance == Stance::Binds && policy.kind == PolicyKind::Permissive && is_for_select(policy)
    };
    let effect = match (told.row_security, told.policies.iter().any(shows)) {
        (false, _) => "off",
        (true, true) => APPLIES,
        (true, false) => HIDES_ALL,
    };
    Line { effect, ..Line::empty(Kind::RowSecurity, object_at(state, path)) }
}

fn object_at(state: &State, path: ObjectPath) -> (&'static str, String) {
    path.table.map(|table| object(state, ObjectId::Table(table))).unwrap_or_default()
}

pub(super) fn is_for_select(policy: &RowPolicy) -> bool {
    policy.command.covers(PolicyCommand::Select) && policy.using.is_some()
}

fn policy_line(state: &State, about: &About<'_>, told: &Effective, policy: &RowPolicy, stance: Stance, manages: bool) -> Line {
    let reads = manages_object(state, about.asker, policy.object);
    let kind = match policy.kind {
        PolicyKind::Permissive => Kind::Permissive,
        PolicyKind::Restrictive => Kind::Restrictive,
    };
    Line {
        name: Some(policy.name.clone()),
        command: Some(command_name(policy.command).to_owned()),
        to: matching(state, &policy.to, about.reader),
        except: matching(state, &policy.except, about.reader),
        using: policy.using.clone().filter(|_| reads),
        with_check: policy.with_check.clone().filter(|_| reads),
        effect: match stance {
            _ if !told.row_security => "off",
            Stance::Binds => APPLIES,
            Stance::Exempted => EXEMPTED,
            Stance::Inactive => INACTIVE,
        },
        creator: manages.then(|| policy.creator.to_string()),
        ..Line::empty(kind, object(state, policy.object))
    }
}

/// A mask may win one of its columns and lose another. Who does not manage it is told of columns that are granted.
fn mask_lines(state: &State, about: &About<'_>, path: ObjectPath, mask: &MaskingPolicy, effect: &MaskEffect, manages: bool) -> Vec<Line> {
    let granted = authorize_read(state, about.asker, about.asker, path).ok();
    let may_know = |column: &&BoundColumn| manages || granted.as_ref().is_some_and(|grant| grant.columns().contains(&column.name));
    let line = |columns: &[BoundColumn], effect| {
        let columns: Vec<String> = columns.iter().filter(may_know).map(|column| quoted(&column.name)).collect();
        (!columns.is_empty()).then(|| Line {
            name: Some(mask.name.clone()),
            command: Some("SELECT".to_owned()),
            columns: Some(columns.join(", ")),
            to: matching(state, &mask.to, about.reader),
            except: matching(state, &mask.except, about.reader),
            using: manages.then(|| match &mask.masking {
                Masking::Expression(text) => format!("({text})"),
                Masking::Action(action) => format!("ACTION {}", action.name()),
            }),
            priority: manages.then_some(mask.priority),
            effect,
            creator: manages.then(|| mask.creator.to_string()),
            ..Line::empty(Kind::Mask, object(state, ObjectId::Table(mask.table)))
        })
    };
    let lines = match effect {
        MaskEffect::Exempted => [line(&mask.columns, EXEMPTED), None],
        MaskEffect::Binds { masked, outranked } => [line(masked, APPLIES), line(outranked, "outranked").filter(|_| manages)],
    };
    lines.into_iter().flatten().collect()
}

fn grant_line(state: &State, about: &About<'_>, grant: &PrivilegeGrant, effect: GrantEffect) -> Line {
    Line {
        command: Some(grant.privilege.to_string()),
        columns: grant.columns.as_ref().map(|columns| columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")),
        to: matching(state, std::slice::from_ref(&grant.grantee), about.rights),
        effect: match effect {
            GrantEffect::Applies => APPLIES,
            GrantEffect::Inactive => INACTIVE,
            GrantEffect::Denied => "denied",
        },
        creator: Some(grant.grantor.to_string()),
        ..Line::empty(if grant.deny { Kind::Deny } else { Kind::Grant }, object(state, grant.object))
    }
}

impl Line {
    pub fn empty(kind: Kind, on: (&'static str, String)) -> Self {
        Self {
            kind,
            name: None,
            on,
            command: None,
            columns: None,
            to: None,
            except: None,
            using: None,
            with_check: None,
            priority: None,
            effect: APPLIES,
            creator: None,
        }
    }

    /// Whether it decides about SELECT.
    pub fn is_for_select(&self) -> bool {
        match self.kind {
            Kind::Grant | Kind::Deny | Kind::Permissive | Kind::Restrictive => {
                self.command.as_deref().is_some_and(|command| command == "SELECT" || command == "ALL")
            }
            Kind::RowSecurity | Kind::EmergencyAccess | Kind::Mask | Kind::RowFilter => true,
        }
    }
}

/// Those of the grantees that this one is.
fn matching(state: &State, grantees: &[Grantee], who: &Authority) -> Option<String> {
    Some(list(state, grantees.iter().filter(|grantee| who.is_bound_as(grantee)))).filter(|list| !list.is_empty())
}

/// Whether the text of what lies on this object may be read.
pub(super) fn manages_object(state: &State, asker: &Authority, object: ObjectId) -> bool {
    let path = named(state, object).and_then(|(_, _, path)| path);
    path.is_some_and(|path| manages_policies(state, asker, path))
}
