//! What is said about a principal on a table, each with what comes of it: for those who ask why somebody sees what it sees.
//! It decides nothing, and takes its answers from where they are decided.

use std::sync::Arc;

use crate::access::{AccessReader, Authority};
use crate::grant::{Stance, mask_stance, masks_binding, row_stance};
use crate::ids::ObjectPath;
use crate::policy::{BoundColumn, MaskingPolicy, RowPolicy};
use crate::privilege::{Privilege, PrivilegeGrant};

/// Everything that names a principal, its groups or its roles on a table and on what the table lies in.
#[derive(Clone, Debug)]
pub struct Effective {
    pub row_security: bool,
    pub grants: Vec<(PrivilegeGrant, GrantEffect)>,
    /// For every command.
    pub policies: Vec<(Arc<RowPolicy>, Stance)>,
    pub masks: Vec<(Arc<MaskingPolicy>, MaskEffect)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantEffect {
    Applies,
    /// Given to a role that is held and not active.
    Inactive,
    /// DENY takes all of it away.
    Denied,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskEffect {
    Exempted,
    Binds {
        masked: Vec<BoundColumn>,
        /// Columns that a mask of a higher priority covers.
        outranked: Vec<BoundColumn>,
    },
}

/// Grants are looked up for `rights`, policies for `reader`, as when the table is read.
pub fn effective(store: &dyn AccessReader, rights: &Authority, reader: &Authority, path: ObjectPath) -> Effective {
    let every: Vec<&PrivilegeGrant> = path.objects().flat_map(|object| store.grants_on(object)).collect();
    let named = every.iter().filter(|grant| rights.is_bound_as(&grant.grantee));
    let grants = named.clone().map(|grant| ((*grant).clone(), grant_effect(grant, &every, rights))).collect();
    let policies = path.objects().flat_map(|object| store.policies_on(object));
    let policies = policies.filter_map(|policy| Some((Arc::clone(policy), row_stance(policy, reader)?))).collect();
    let (mut row_security, mut masks) = (false, Vec::new());
    if let Some(table) = path.table {
        row_security = store.row_security(table);
        let binding = masks_binding(store, reader, table);
        for policy in store.masks_on(table) {
            let effect = match mask_stance(policy, reader) {
                None => continue,
                Some(Stance::Exempted | Stance::Inactive) => MaskEffect::Exempted,
                Some(Stance::Binds) => {
                    let is_mine = |column: &&BoundColumn| binding.iter().any(|mask| mask.policy.id == policy.id && mask.column == **column);
                    let (masked, outranked) = policy.columns.iter().partition::<Vec<_>, _>(is_mine);
                    MaskEffect::Binds { masked: masked.into_iter().cloned().collect(), outranked: outranked.into_iter().cloned().collect() }
                }
            };
            masks.push((Arc::clone(policy), effect));
        }
    }
    Effective { row_security, grants, policies, masks }
}

fn grant_effect(grant: &PrivilegeGrant, every: &[&PrivilegeGrant], rights: &Authority) -> GrantEffect {
    if grant.deny {
        return GrantEffect::Applies;
    }
    if !rights.is_permitted_as(&grant.grantee) {
        return GrantEffect::Inactive;
    }
    let is_denied = |privilege: Privilege| {
        let denials = || every.iter().filter(|it| it.deny && it.privilege.covers(privilege) && rights.is_bound_as(&it.grantee));
        let whole = denials().any(|it| it.columns.is_none());
        let each =
            |columns: &Vec<String>| columns.iter().all(|column| denials().any(|it| it.columns.iter().flatten().any(|it| it == column)));
        whole || grant.columns.as_ref().is_some_and(each)
    };
    let denied = match grant.privilege {
        Privilege::All => Privilege::PARTS_OF_ALL.into_iter().all(is_denied),
        privilege => is_denied(privilege),
    };
    if denied { GrantEffect::Denied } else { GrantEffect::Applies }
}
