//! ALTER … OWNER TO.

use std::collections::BTreeSet;

use lazaret_auth::{Grantee, Privilege, SystemPrivilege};
use lazaret_catalog::meta::{Change, Definition, Entity, Relation};

use super::StatementContext;
use super::access::resolve_receiver;
use super::objects::{change, find_relation, require, require_system, word};
use crate::engine::UpdateOutcome;
use crate::error::{Error, Position, Result};
use crate::sql::ObjectName;
use crate::sql::names::UserName;
use crate::sql::statement::{PrincipalRef, RelationKind};

/// Needs MANAGE. A view reads with its owner's rights, and whoever owns something cannot be dropped: to give it to another
/// is to act for that other, which needs IMPERSONATE too. Grants stay as they are. What lies on an owner's groups binds inside
/// its views, and the groups of a user of an issuer are known only while that user asks: such a one takes a view itself.
pub async fn set(context: &StatementContext, kind: RelationKind, name: &ObjectName, owner: &UserName) -> Result<UpdateOutcome> {
    let path = context.relation_path(name)?;
    let wanted = PrincipalRef::User(owner.clone());
    change(context, |state, rights| {
        let found = find_relation(state, rights, kind, &path)?;
        require(state, rights, found.path, Privilege::Manage, word(kind), &path)?;
        let receiver = resolve_receiver(context, state, &wanted);
        let own = matches!(&receiver, Ok(Grantee::User(name)) if name == rights.name());
        if !own {
            require_system(state, rights, SystemPrivilege::Impersonate)?;
        }
        let Grantee::User(receiver) = receiver? else { return Ok(Vec::new()) };
        if receiver == found.relation.owner {
            return Ok(Vec::new());
        }
        let mut relation = Relation { owner: receiver, ..Relation::clone(found.relation) };
        if let Definition::View { owner_groups, .. } = &mut relation.definition {
            if !own && !relation.owner.is_local() {
                let Position { line, column } = owner.0.position;
                let message = format!("the groups of \"{}\" are not known here: that user must take the view itself", relation.owner);
                return Err(Error::invalid(message).at(line, column));
            }
            *owner_groups = if own { rights.groups().clone() } else { BTreeSet::new() };
        }
        Ok(vec![Change::Put(Entity::Relation(relation))])
    })
    .await?;
    Ok(UpdateOutcome::default())
}
