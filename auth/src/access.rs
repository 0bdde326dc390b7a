//! What is stored about access, and with whose rights one asks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use crate::emergency::EmergencyAccess;
use crate::grant::authorize_system;
use crate::ids::{EmergencyId, ObjectId, RoleId, TableId};
use crate::policy::{MaskingPolicy, RowPolicy};
use crate::principal::{Grantee, GroupName, Principal, PrincipalName};
use crate::privilege::{Privilege, PrivilegeGrant, SystemPrivilege};

/// One consistent state of users, roles, privileges and policies. Implemented by the catalog's metadata snapshot;
/// every method is an in-memory look-up.
pub trait AccessReader: Send + Sync {
    /// Counts up with every change; a plan, handle or ticket made under another epoch is checked again.
    fn epoch(&self) -> u64;

    /// The roles given to this user or to one of these groups, and the roles that those hold in turn.
    fn roles_of(&self, name: &PrincipalName, groups: &BTreeSet<GroupName>) -> BTreeSet<RoleId>;

    /// This role, and those that it holds in turn.
    fn roles_within(&self, role: RoleId) -> BTreeSet<RoleId>;

    fn role_name(&self, role: RoleId) -> Option<String>;

    /// A local user who was disabled or dropped is refused on the next call.
    fn is_enabled(&self, name: &PrincipalName) -> bool;

    /// The grants and denials on exactly this object.
    fn grants_on(&self, object: ObjectId) -> &[PrivilegeGrant];

    /// Whether row-level security is enabled for this table or view.
    fn row_security(&self, table: TableId) -> bool;

    /// The row policies attached to exactly this object.
    fn policies_on(&self, object: ObjectId) -> &[Arc<RowPolicy>];

    /// The masking policies of this table.
    fn masks_on(&self, table: TableId) -> &[Arc<MaskingPolicy>];

    fn emergency_access(&self, id: EmergencyId) -> Option<&Arc<EmergencyAccess>>;
}

/// Which of the roles that are held a session uses: what SET ROLE says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActiveRoles {
    #[default]
    All,
    None,
    /// This one and those that it holds in turn; none where it is held no more.
    Only(RoleId),
}

/// A principal together with the roles that count: `held` binds (restrictive policies, masks, DENY), `active` permits.
#[derive(Clone, Debug)]
pub struct Authority {
    name: PrincipalName,
    groups: BTreeSet<GroupName>,
    /// Groups that bind and permit nothing.
    bound_groups: BTreeSet<GroupName>,
    held: BTreeSet<RoleId>,
    active: BTreeSet<RoleId>,
    principal: Option<Arc<Principal>>,
    emergency: Option<Arc<EmergencyAccess>>,
}

impl Authority {
    /// The one who asks, with every role that it holds.
    pub fn of(reader: &dyn AccessReader, principal: Arc<Principal>) -> Self {
        let held = reader.roles_of(&principal.name, &principal.groups);
        let (name, groups) = (principal.name.clone(), principal.groups.clone());
        Self { name, groups, bound_groups: BTreeSet::new(), active: held.clone(), held, principal: Some(principal), emergency: None }
    }

    /// The owner of a view or the creator of a policy: stored grants only, never groups or claims.
    pub fn stored(reader: &dyn AccessReader, name: &PrincipalName) -> Self {
        let groups = BTreeSet::new();
        let held = reader.roles_of(name, &groups);
        Self { name: name.clone(), groups, bound_groups: BTreeSet::new(), active: held.clone(), held, principal: None, emergency: None }
    }

    /// What lies on these groups, or on a role that is held through one, binds too: those of an owner or creator when it made
    /// what it owns. They permit nothing.
    pub fn bound_by(mut self, reader: &dyn AccessReader, groups: &BTreeSet<GroupName>) -> Self {
        self.held.extend(reader.roles_of(&self.name, groups));
        self.bound_groups.extend(groups.iter().cloned());
        self
    }

    /// Whoever holds this role and nothing else. Its name is nobody's: an issuer's is never empty.
    pub fn of_role(reader: &dyn AccessReader, role: RoleId) -> Self {
        let held = reader.roles_within(role);
        let (name, groups, bound_groups) = (PrincipalName::new("", ""), BTreeSet::new(), BTreeSet::new());
        Self { name, groups, bound_groups, active: held.clone(), held, principal: None, emergency: None }
    }

    /// After SET ROLE. What binds stays bound.
    pub fn with_active(self, reader: &dyn AccessReader, roles: ActiveRoles) -> Self {
        match roles {
            ActiveRoles::All => self,
            ActiveRoles::Only(role) if self.held.contains(&role) => self.narrowed_to(&reader.roles_within(role)),
            ActiveRoles::None | ActiveRoles::Only(_) => self.narrowed_to(&BTreeSet::new()),
        }
    }

    /// Of the roles that are held, only these are active.
    pub fn narrowed_to(mut self, roles: &BTreeSet<RoleId>) -> Self {
        self.active = self.held.intersection(roles).copied().collect();
        self
    }

    /// Under an emergency access, where it is in force: set by this very principal in this session, neither ended nor
    /// expired, and with the privilege, which is asked for here and now. Otherwise as it was. Who acts for somebody else
    /// does not come here. After [`narrowed_to`](Self::narrowed_to): the active roles must have the privilege.
    pub fn under_emergency(mut self, reader: &dyn AccessReader, id: EmergencyId, session: &str, now: SystemTime) -> Self {
        let privilege = Privilege::System(SystemPrivilege::EmergencyAccess);
        let is_its = |access: &EmergencyAccess| access.holder == self.name && access.session == session && access.is_in_force(now);
        let access = reader.emergency_access(id).filter(|access| self.principal.is_some() && is_its(access));
        self.emergency = access.filter(|_| authorize_system(reader, &self, privilege).is_ok()).cloned();
        self
    }

    /// The emergency access that this authority acts under: what it covers is read without row policies and masks.
    pub fn emergency(&self) -> Option<&Arc<EmergencyAccess>> {
        self.emergency.as_ref()
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

    /// Whether the other is the same identity (its groups and claims too) with the same roles, held and active: in one state
    /// of what is stored, the two then see the same.
    pub fn sees_as(&self, other: &Self) -> bool {
        let same_claims = match (&self.principal, &other.principal) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one.claims == other.claims,
            (None, None) => true,
            _ => false,
        };
        let same_groups = self.groups == other.groups && self.bound_groups == other.bound_groups;
        let same_roles = self.held == other.held && self.active == other.active;
        let emergency = |it: &Self| it.emergency.as_ref().map(|access| access.id);
        self.name == other.name && same_groups && same_roles && same_claims && emergency(self) == emergency(other)
    }

    /// Whether something given to `grantee` permits this authority: looks at the active roles.
    pub fn is_permitted_as(&self, grantee: &Grantee) -> bool {
        self.matches(grantee, &self.active)
    }

    /// Whether something laid on `grantee` binds this authority: looks at every role that is held.
    pub fn is_bound_as(&self, grantee: &Grantee) -> bool {
        self.matches(grantee, &self.held) || matches!(grantee, Grantee::Group(group) if self.bound_groups.contains(group))
    }

    /// The groups of the one who asks, as its token names them.
    pub fn groups(&self) -> &BTreeSet<GroupName> {
        &self.groups
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
