//! The answer to "may this principal read this table, and which part of it", and to "may it add rows, and which". A table
//! can be scanned only through a [`Grant`], and only [`authorize_read`] makes one; rows can be added only through an
//! [`InsertGrant`], and only [`authorize_insert`] makes one.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::access::{AccessReader, Authority};
use crate::ids::{EmergencyId, ObjectId, ObjectPath, TableId};
use crate::policy::{BoundColumn, MaskingPolicy, PolicyCommand, PolicyKind, PolicyText, RowPolicy};
use crate::principal::Grantee;
use crate::privilege::Privilege;

/// Permission to read one table or view: which columns, and under which row and masking policies.
#[derive(Clone, Debug)]
pub struct Grant {
    table: TableId,
    columns: GrantedColumns,
    rows: RowSecurity,
    masks: Vec<ColumnMask>,
    lifted: Option<Lifted>,
    epoch: u64,
}

/// What an emergency access takes off a grant: the policies that would bind this reader without it.
#[derive(Clone, Debug)]
pub struct Lifted {
    pub access: EmergencyId,
    pub rows: RowSecurity,
    pub masks: Vec<ColumnMask>,
}

/// Permission to add rows to one table, and the row policies that these must satisfy. It says nothing about reading.
#[derive(Clone, Debug)]
pub struct InsertGrant {
    table: TableId,
    checks: RowSecurity,
    epoch: u64,
}

/// A column that this reader sees masked, and the policy that masks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMask {
    pub column: BoundColumn,
    pub policy: Arc<MaskingPolicy>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantedColumns {
    Every,
    Only(BTreeSet<String>),
    /// Those that the table has beside these, which are denied.
    Except(BTreeSet<String>),
}

impl GrantedColumns {
    pub fn contains(&self, column: &str) -> bool {
        match self {
            Self::Every => true,
            Self::Only(granted) => granted.contains(column),
            Self::Except(denied) => !denied.contains(column),
        }
    }
}

/// The row policies that bind this reader. With security on and no permissive policy, no row is visible, and none can be
/// added.
#[derive(Clone, Debug)]
pub enum RowSecurity {
    Off,
    On { permissive: Vec<Arc<RowPolicy>>, restrictive: Vec<Arc<RowPolicy>> },
}

/// Why an act is refused. What the principal holds no privilege on does not exist for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("not found")]
    NotVisible,
    #[error("{0} is required")]
    Missing(Privilege),
}

impl Grant {
    pub fn table(&self) -> TableId {
        self.table
    }

    pub fn columns(&self) -> &GrantedColumns {
        &self.columns
    }

    pub fn rows(&self) -> &RowSecurity {
        &self.rows
    }

    /// The masks that bind this reader: for each column the one of the highest priority.
    pub fn masks(&self) -> &[ColumnMask] {
        &self.masks
    }

    /// Whether the reader's emergency access hides nothing of what would be hidden, and what that would be. Such a grant is
    /// for this statement of this session, as every grant is.
    pub fn lifted(&self) -> Option<&Lifted> {
        self.lifted.as_ref()
    }

    /// The epoch of the state that was asked.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl InsertGrant {
    pub fn table(&self) -> TableId {
        self.table
    }

    /// Whose expressions, [`PolicyText::Check`], the new rows must satisfy.
    pub fn checks(&self) -> &RowSecurity {
        &self.checks
    }

    /// The epoch of the state that was asked.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the same policies bind, in the same versions.
    pub fn has_same_checks(&self, other: &Self) -> bool {
        let versions = |policies: &[Arc<RowPolicy>]| policies.iter().map(|policy| (policy.id, policy.version)).collect::<BTreeSet<_>>();
        match (&self.checks, &other.checks) {
            (RowSecurity::Off, RowSecurity::Off) => true,
            (RowSecurity::On { permissive, restrictive }, RowSecurity::On { permissive: others, restrictive: other }) => {
                versions(permissive) == versions(others) && versions(restrictive) == versions(other)
            }
            _ => false,
        }
    }
}

/// Whether `rights` may add rows to the table, with the policies that bind it. It need not be able to read the table.
pub fn authorize_insert(store: &dyn AccessReader, rights: &Authority, path: ObjectPath) -> Result<InsertGrant, Denied> {
    let table = path.table.ok_or(Denied::NotVisible)?;
    authorize(store, rights, path, Privilege::Insert)?;
    let checks = match store.row_security(table) {
        true => policies_binding(store, rights, path, PolicyCommand::Insert, PolicyText::Check),
        false => RowSecurity::Off,
    };
    Ok(InsertGrant { table, checks, epoch: store.epoch() })
}

/// Whether `rights` may SELECT from the table, with the policies that bind `reader`. The two differ inside a view:
/// its definition is resolved with its owner's stored privileges, the policies are those of the session user.
pub fn authorize_read(store: &dyn AccessReader, rights: &Authority, reader: &Authority, path: ObjectPath) -> Result<Grant, Denied> {
    let table = path.table.ok_or(Denied::NotVisible)?;
    let columns = granted_columns(store, rights, path).ok_or_else(|| refusal(store, rights, path, Privilege::Select))?;
    let rows = match store.row_security(table) {
        true => policies_binding(store, reader, path, PolicyCommand::Select, PolicyText::Using),
        false => RowSecurity::Off,
    };
    let masks = masks_binding(store, reader, table);
    let is_bound = !matches!(rows, RowSecurity::Off) || !masks.is_empty();
    let (rows, masks, lifted) = match reader.emergency().filter(|access| is_bound && access.covers(table)) {
        Some(access) => (RowSecurity::Off, Vec::new(), Some(Lifted { access: access.id, rows, masks })),
        None => (rows, masks, None),
    };
    Ok(Grant { table, columns, rows, masks, lifted, epoch: store.epoch() })
}

/// Whether `rights` may do something other than read on (or in) the object.
pub fn authorize(store: &dyn AccessReader, rights: &Authority, path: ObjectPath, wanted: Privilege) -> Result<(), Denied> {
    if holds(store, rights, path, wanted) { Ok(()) } else { Err(refusal(store, rights, path, wanted)) }
}

/// Whether `rights` holds a privilege on the system.
pub fn authorize_system(store: &dyn AccessReader, rights: &Authority, wanted: Privilege) -> Result<(), Denied> {
    let stance = stance(store, rights, [ObjectId::System], wanted);
    if stance.permits_all() { Ok(()) } else { Err(Denied::Missing(wanted)) }
}

/// Whether the object exists for this principal: it holds some privilege on it, or on what it lies in, that no DENY takes
/// away. That a catalog or schema is shown for the sake of something in it is for the caller, who knows what lies in it.
pub fn is_visible(store: &dyn AccessReader, rights: &Authority, path: ObjectPath) -> bool {
    Privilege::ON_OBJECTS.into_iter().any(|privilege| stance(store, rights, reach(path, privilege), privilege).permits_some())
}

fn refusal(store: &dyn AccessReader, rights: &Authority, path: ObjectPath, wanted: Privilege) -> Denied {
    if is_visible(store, rights, path) { Denied::Missing(wanted) } else { Denied::NotVisible }
}

/// ALL is held where each of its parts is: a denial of one of them takes it away.
fn holds(store: &dyn AccessReader, rights: &Authority, path: ObjectPath, wanted: Privilege) -> bool {
    if wanted == Privilege::All {
        return Privilege::PARTS_OF_ALL.into_iter().all(|part| holds(store, rights, path, part));
    }
    stance(store, rights, reach(path, wanted), wanted).permits_all()
}

/// The columns that SELECT reaches, or `None` where it reaches none.
fn granted_columns(store: &dyn AccessReader, rights: &Authority, path: ObjectPath) -> Option<GrantedColumns> {
    let stance = stance(store, rights, path.objects(), Privilege::Select);
    if stance.permits_all() {
        return Some(GrantedColumns::Every);
    }
    if stance.granted && !stance.denied {
        return Some(GrantedColumns::Except(stance.denied_columns));
    }
    stance.permits_some().then(|| GrantedColumns::Only(stance.columns()))
}

/// On which objects a privilege counts for this path. MANAGE POLICIES can be held on the whole system too.
fn reach(path: ObjectPath, wanted: Privilege) -> impl Iterator<Item = ObjectId> {
    path.objects().chain((wanted == Privilege::ManagePolicies).then_some(ObjectId::System))
}

/// What grants and denials say together about one privilege.
#[derive(Default)]
struct Held {
    granted: bool,
    denied: bool,
    granted_columns: BTreeSet<String>,
    denied_columns: BTreeSet<String>,
}

impl Held {
    fn permits_all(&self) -> bool {
        self.granted && !self.denied && self.denied_columns.is_empty()
    }

    /// Which columns a table has is not known here: that the denied ones are all there are is found when it is read.
    fn permits_some(&self) -> bool {
        !self.denied && (self.granted || self.granted_columns.iter().any(|column| !self.denied_columns.contains(column)))
    }

    fn columns(&self) -> BTreeSet<String> {
        self.granted_columns.difference(&self.denied_columns).cloned().collect()
    }
}

fn stance(store: &dyn AccessReader, rights: &Authority, objects: impl IntoIterator<Item = ObjectId>, wanted: Privilege) -> Held {
    let mut stance = Held::default();
    for object in objects {
        for grant in store.grants_on(object).iter().filter(|grant| grant.privilege.covers(wanted)) {
            let applies = if grant.deny { rights.is_bound_as(&grant.grantee) } else { rights.is_permitted_as(&grant.grantee) };
            if !applies {
                continue;
            }
            match (&grant.columns, grant.deny) {
                (None, true) => stance.denied = true,
                (None, false) => stance.granted = true,
                (Some(columns), true) => stance.denied_columns.extend(columns.iter().cloned()),
                (Some(columns), false) => stance.granted_columns.extend(columns.iter().cloned()),
            }
        }
    }
    stance
}

/// The policies for a command that have the text which that command asks.
fn policies_binding(
    store: &dyn AccessReader,
    reader: &Authority,
    path: ObjectPath,
    command: PolicyCommand,
    text: PolicyText,
) -> RowSecurity {
    let (mut permissive, mut restrictive) = (Vec::new(), Vec::new());
    for object in path.objects() {
        for policy in store.policies_on(object).iter().filter(|policy| policy.command.covers(command) && policy.text(text).is_some()) {
            if row_stance(policy, reader) == Some(Stance::Binds) {
                match policy.kind {
                    PolicyKind::Permissive => permissive.push(Arc::clone(policy)),
                    PolicyKind::Restrictive => restrictive.push(Arc::clone(policy)),
                }
            }
        }
    }
    RowSecurity::On { permissive, restrictive }
}

/// How a policy stands to a reader whom its TO names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    Binds,
    /// EXCEPT names it.
    Exempted,
    /// A permissive policy for a role that is held and not active.
    Inactive,
}

/// `None` where TO does not name the reader. What permits looks at the active roles, what binds at every role that is held.
pub(crate) fn row_stance(policy: &RowPolicy, reader: &Authority) -> Option<Stance> {
    let bound = |grantees: &[Grantee]| grantees.iter().any(|grantee| reader.is_bound_as(grantee));
    let permitted = |grantees: &[Grantee]| grantees.iter().any(|grantee| reader.is_permitted_as(grantee));
    if !bound(&policy.to) {
        return None;
    }
    Some(match policy.kind {
        PolicyKind::Permissive if bound(&policy.except) => Stance::Exempted,
        PolicyKind::Permissive if permitted(&policy.to) => Stance::Binds,
        PolicyKind::Permissive => Stance::Inactive,
        PolicyKind::Restrictive if permitted(&policy.except) => Stance::Exempted,
        PolicyKind::Restrictive => Stance::Binds,
    })
}

/// A mask binds like a restrictive policy: whoever holds a role is masked, whether it is active or not, and only an active
/// one frees.
pub(crate) fn mask_stance(policy: &MaskingPolicy, reader: &Authority) -> Option<Stance> {
    if !policy.to.iter().any(|grantee| reader.is_bound_as(grantee)) {
        return None;
    }
    let exempted = policy.except.iter().any(|grantee| reader.is_permitted_as(grantee));
    Some(if exempted { Stance::Exempted } else { Stance::Binds })
}

pub(crate) fn masks_binding(store: &dyn AccessReader, reader: &Authority, table: TableId) -> Vec<ColumnMask> {
    let binds = |policy: &&Arc<MaskingPolicy>| mask_stance(policy, reader) == Some(Stance::Binds);
    let mut binding: Vec<_> = store.masks_on(table).iter().filter(binds).collect();
    binding.sort_by_key(|policy| std::cmp::Reverse(policy.priority));
    let mut masks: Vec<ColumnMask> = Vec::new();
    for policy in binding {
        for column in &policy.columns {
            if !masks.iter().any(|mask| mask.column.is_same(column)) {
                masks.push(ColumnMask { column: column.clone(), policy: Arc::clone(policy) });
            }
        }
    }
    masks
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
