//! The answer to "may this principal read this table, and which part of it". A table can be scanned only through a
//! [`Grant`], and only [`authorize_read`] makes one.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::access::{AccessReader, Authority};
use crate::ids::{ObjectId, ObjectPath, TableId};
use crate::policy::{PolicyCommand, PolicyKind, RowPolicy};
use crate::privilege::Privilege;

/// Permission to read one table or view: which columns, and under which row policies.
#[derive(Clone, Debug)]
pub struct Grant {
    table: TableId,
    columns: GrantedColumns,
    rows: RowSecurity,
    epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantedColumns {
    Every,
    Only(BTreeSet<String>),
}

/// The row policies that bind this reader. With security on and no permissive policy, no row is visible.
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

    /// The epoch of the state that was asked.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Nothing is hidden: row-level security is off and every column is granted.
    pub fn is_unrestricted(&self) -> bool {
        matches!(self.rows, RowSecurity::Off) && self.columns == GrantedColumns::Every
    }
}

/// Whether `rights` may SELECT from the table, with the row policies that bind `reader`. The two differ inside a view:
/// its definition is resolved with its owner's stored privileges, the policies are those of the session user.
pub fn authorize_read(store: &dyn AccessReader, rights: &Authority, reader: &Authority, path: ObjectPath) -> Result<Grant, Denied> {
    let table = path.table.ok_or(Denied::NotVisible)?;
    let columns = granted_columns(store, rights, path).ok_or_else(|| refusal(store, rights, path, Privilege::Select))?;
    let rows = if store.row_security(table) { policies_binding(store, reader, path) } else { RowSecurity::Off };
    Ok(Grant { table, columns, rows, epoch: store.epoch() })
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

fn holds(store: &dyn AccessReader, rights: &Authority, path: ObjectPath, wanted: Privilege) -> bool {
    stance(store, rights, reach(path, wanted), wanted).permits_all()
}

/// The columns that SELECT reaches, or `None` where it reaches none.
fn granted_columns(store: &dyn AccessReader, rights: &Authority, path: ObjectPath) -> Option<GrantedColumns> {
    let stance = stance(store, rights, path.objects(), Privilege::Select);
    if stance.permits_all() {
        return Some(GrantedColumns::Every);
    }
    stance.permits_some().then(|| GrantedColumns::Only(stance.columns()))
}

/// On which objects a privilege counts for this path. MANAGE POLICIES can be held on the whole system too.
fn reach(path: ObjectPath, wanted: Privilege) -> impl Iterator<Item = ObjectId> {
    path.objects().chain((wanted == Privilege::ManagePolicies).then_some(ObjectId::System))
}

/// What grants and denials say together about one privilege.
#[derive(Default)]
struct Stance {
    granted: bool,
    denied: bool,
    granted_columns: BTreeSet<String>,
    denied_columns: BTreeSet<String>,
}

impl Stance {
    /// DENY on some columns refuses whoever holds the whole table: which columns are left is not known here.
    fn permits_all(&self) -> bool {
        self.granted && !self.denied && self.denied_columns.is_empty()
    }

    fn permits_some(&self) -> bool {
        self.permits_all() || (!self.denied && self.granted_columns.iter().any(|column| !self.denied_columns.contains(column)))
    }

    fn columns(&self) -> BTreeSet<String> {
        self.granted_columns.difference(&self.denied_columns).cloned().collect()
    }
}

fn stance(store: &dyn AccessReader, rights: &Authority, objects: impl IntoIterator<Item = ObjectId>, wanted: Privilege) -> Stance {
    let mut stance = Stance::default();
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

fn policies_binding(store: &dyn AccessReader, reader: &Authority, path: ObjectPath) -> RowSecurity {
    let (mut permissive, mut restrictive) = (Vec::new(), Vec::new());
    for object in path.objects() {
        for policy in
            store.policies_on(object).iter().filter(|policy| policy.command.covers(PolicyCommand::Select) && policy.using.is_some())
        {
            match policy.kind {
                PolicyKind::Permissive => {
                    let named = policy.to.iter().any(|grantee| reader.is_permitted_as(grantee));
                    let excepted = policy.except.iter().any(|grantee| reader.is_bound_as(grantee));
                    if named && !excepted {
                        permissive.push(Arc::clone(policy));
                    }
                }
                PolicyKind::Restrictive => {
                    let named = policy.to.iter().any(|grantee| reader.is_bound_as(grantee));
                    let excepted = policy.except.iter().any(|grantee| reader.is_permitted_as(grantee));
                    if named && !excepted {
                        restrictive.push(Arc::clone(policy));
                    }
                }
            }
        }
    }
    RowSecurity::On { permissive, restrictive }
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
