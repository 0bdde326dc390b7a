//! What is stored about access, and with whose rights one asks.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ids::{ObjectId, RoleId, TableId};
use crate::policy::RowPolicy;
use crate::principal::{Grantee, GroupName, Principal, PrincipalName};
use crate::privilege::PrivilegeGrant;

/// One consistent state of users, roles, privileges and policies. Implemented by the catalog's metadata snapshot;
/// every method is an in-memory look-up.
pub trait AccessReader: Send + Sync {
    /// Counts up with every change; a plan, handle or ticket made under another epoch is checked again.
    fn epoch(&self) -> u64;

    /// The roles given to this user or to one of these groups, and the roles that those hold in turn.
    fn roles_of(&self, name: &PrincipalName, groups: &BTreeSet<GroupName>) -> BTreeSet<RoleId>;

    fn role_name(&self, role: RoleId) -> Option<String>;

    /// A local user who was disabled or dropped is refused on the next call.
    fn is_enabled(&self, name: &PrincipalName) -> bool;

    /// The grants and denials on exactly this object.
    fn grants_on(&self, object: ObjectId) -> &[PrivilegeGrant];

    /// Whether row-level security is enabled for this table or view.
    fn row_security(&self, table: TableId) -> bool;

    /// The row policies attached to exactly this object.
    fn policies_on(&self, object: ObjectId) -> &[Arc<RowPolicy>];
}

/// A principal together with the roles that count: `held` binds (restrictive policies, masks, DENY), `active` permits.
#[derive(Clone, Debug)]
pub struct Authority {
    name: PrincipalName,
    groups: BTreeSet<GroupName>,
    held: BTreeSet<RoleId>,
    active: BTreeSet<RoleId>,
    principal: Option<Arc<Principal>>,
}

impl Authority {
    /// The one who asks, with every role that it holds.
    pub fn of(reader: &dyn AccessReader, principal: Arc<Principal>) -> Self {
        let held = reader.roles_of(&principal.name, &principal.groups);
        Self { name: principal.name.clone(), groups: principal.groups.clone(), active: held.clone(), held, principal: Some(principal) }
    }

    /// The owner of a view or the creator of a policy: stored grants only, never groups or claims.
    pub fn stored(reader: &dyn AccessReader, name: &PrincipalName) -> Self {
        let groups = BTreeSet::new();
        let held = reader.roles_of(name, &groups);
        Self { name: name.clone(), groups, active: held.clone(), held, principal: None }
    }

    /// After SET ROLE: of the roles that are held, only these are active. What binds stays bound.
    pub fn narrowed_to(mut self, roles: &BTreeSet<RoleId>) -> Self {
        self.active = self.held.intersection(roles).copied().collect();
        self
    }

    pub fn name(&self) -> &PrincipalName {
        &self.name
    }

    pub fn held_roles(&self) -> &BTreeSet<RoleId> {
        &self.held
    }

    pub fn active_roles(&self) -> &BTreeSet<RoleId> {
        &self.active
    }

    /// The verified principal behind it; `None` for a stored owner.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// Whether something given to `grantee` permits this authority: looks at the active roles.
    pub fn is_permitted_as(&self, grantee: &Grantee) -> bool {
        self.matches(grantee, &self.active)
    }

    /// Whether something laid on `grantee` binds this authority: looks at every role that is held.
    pub fn is_bound_as(&self, grantee: &Grantee) -> bool {
        self.matches(grantee, &self.held)
    }

    fn matches(&self, grantee: &Grantee, roles: &BTreeSet<RoleId>) -> bool {
        match grantee {
            Grantee::User(name) => *name == self.name,
            Grantee::Role(role) => roles.contains(role),
            Grantee::Group(group) => self.groups.contains(group),
            Grantee::All => true,
        }
    }
}
