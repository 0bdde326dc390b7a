//! CREATE VIEW. The engine has planned the query before it is stored here.

use lazaret_auth::{ObjectId, ObjectPath, Privilege, TableId};
use lazaret_catalog::meta::{Change, Definition, Entity, Relation};

use super::StatementContext;
use super::objects::{already_exists, change, creators_grant, kind_of, refuse_reserved, require, schema_to_create_in, word};
use crate::engine::UpdateOutcome;
use crate::error::{Error, Result};
use crate::sql::statement::{CreateView, RelationKind};

/// Stores the text of the query, with what unqualified names in it mean today. OR REPLACE needs MANAGE and keeps the id,
/// the grants and the policies; the owner becomes whoever wrote the new query, for it is read with the owner's rights.
pub async fn create(context: &StatementContext, create: &CreateView) -> Result<UpdateOutcome> {
    let path = context.relation_path(&create.name)?;
    refuse_reserved(&path.schema, create.name.position())?;
    if create.query.parameters > 0 {
        return Err(Error::invalid("the query of a view cannot have parameters"));
    }
    let definition = {
        let session = context.session.state.lock();
        let (catalog, schema) = (session.catalog.clone(), session.schema.clone());
        Definition::View { query: create.query.text.clone(), catalog, schema, owner_groups: context.session.principal().groups.clone() }
    };
    let id = TableId::generate();
    change(context, |state, rights| {
        let schema = schema_to_create_in(state, rights, &path)?;
        let definition = definition.clone();
        let Some(existing) = state.relation(schema.id, &path.name) else {
            let (owner, name) = (rights.name().clone(), path.name.clone());
            let view = Relation { id, schema: schema.id, name, owner, definition, row_security: false, comment: None };
            return Ok(vec![Change::Put(Entity::Relation(view)), creators_grant(rights, ObjectId::Table(id))]);
        };
        if !create.or_replace || kind_of(existing) != RelationKind::View {
            return Err(already_exists(word(kind_of(existing)), &path));
        }
        require(state, rights, ObjectPath::table(schema.catalog, schema.id, existing.id), Privilege::Manage, "view", &path)?;
        let view = Relation { owner: rights.name().clone(), definition, ..Relation::clone(existing) };
        Ok(vec![Change::Put(Entity::Relation(view))])
    })
    .await?;
    Ok(UpdateOutcome::default())
}
