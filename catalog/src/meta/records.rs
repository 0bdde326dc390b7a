//! The indexes of a [`super::State`]: named records by id and by name, and what is attached to objects. Cloning one copies
//! a few pointers; a change copies only the map that it touches.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use lazaret_auth::{
    CatalogId, GrantId, MaskingPolicy, ObjectId, PolicyId, PrivilegeGrant, RoleId, RowPolicy, SchemaId, TableId, TokenId, UserId,
};

use super::entity::{Catalog, Relation, Role, Schema, ServiceToken, User};

/// A record that has a name, unique below its parent.
pub(super) trait Named: Debug {
    type Id: Copy + Ord + Debug;
    /// `()` for what lies at the top.
    type Parent: Copy + Ord + Debug;

    fn id(&self) -> Self::Id;
    fn parent(&self) -> Self::Parent;
    fn name(&self) -> &str;
}

macro_rules! named {
    ($record:ident, $id:ident, $parent:ty, $this:ident => $value:expr) => {
        impl Named for $record {
            type Id = $id;
            type Parent = $parent;

            fn id(&self) -> $id {
                self.id
            }

            fn parent(&self) -> $parent {
                let $this = self;
                $value
            }

            fn name(&self) -> &str {
                &self.name
            }
        }
    };
}

named!(Catalog, CatalogId, (), _it => ());
named!(Schema, SchemaId, CatalogId, it => it.catalog);
named!(Relation, TableId, SchemaId, it => it.schema);
named!(User, UserId, (), _it => ());
named!(ServiceToken, TokenId, UserId, it => it.user);
named!(Role, RoleId, (), _it => ());

type ByName<T> = Arc<BTreeMap<String, Arc<T>>>;

/// The records of one kind.
#[derive(Debug)]
pub(super) struct Records<T: Named> {
    by_id: Arc<BTreeMap<T::Id, Arc<T>>>,
    by_name: Arc<BTreeMap<T::Parent, ByName<T>>>,
}

/// Another record has this name.
#[derive(Debug)]
pub(super) struct NameTaken;

impl<T: Named> Records<T> {
    pub fn get(&self, id: T::Id) -> Option<&Arc<T>> {
        self.by_id.get(&id)
    }

    pub fn named(&self, parent: T::Parent, name: &str) -> Option<&Arc<T>> {
        self.by_name.get(&parent)?.get(name)
    }

    /// In order of name.
    pub fn below(&self, parent: T::Parent) -> impl Iterator<Item = &Arc<T>> {
        self.by_name.get(&parent).into_iter().flat_map(|names| names.values())
    }

    /// In order of id, which is the order in which they were made.
    pub fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.by_id.values()
    }

    /// Insert, or replace the record with this id, which may have had another name or parent.
    pub fn put(&mut self, record: T) -> Result<(), NameTaken> {
        if self.named(record.parent(), record.name()).is_some_and(|other| other.id() != record.id()) {
            return Err(NameTaken);
        }
        self.remove(record.id());
        let record = Arc::new(record);
        let names = Arc::make_mut(&mut self.by_name).entry(record.parent()).or_default();
        Arc::make_mut(names).insert(record.name().to_owned(), Arc::clone(&record));
        Arc::make_mut(&mut self.by_id).insert(record.id(), record);
        Ok(())
    }

    pub fn remove(&mut self, id: T::Id) -> Option<Arc<T>> {
        let removed = Arc::make_mut(&mut self.by_id).remove(&id)?;
        let by_name = Arc::make_mut(&mut self.by_name);
        if let Some(names) = by_name.get_mut(&removed.parent()) {
            Arc::make_mut(names).remove(removed.name());
            if names.is_empty() {
                by_name.remove(&removed.parent());
            }
        }
        Some(removed)
    }
}

impl<T: Named> Clone for Records<T> {
    fn clone(&self) -> Self {
        Self { by_id: Arc::clone(&self.by_id), by_name: Arc::clone(&self.by_name) }
    }
}

impl<T: Named> Default for Records<T> {
    fn default() -> Self {
        Self { by_id: Arc::default(), by_name: Arc::default() }
    }
}

/// A record that lies on an object: a privilege or a policy.
pub(super) trait Attachment: Clone + Debug {
    type Id: Copy + Ord + Debug;

    fn id(&self) -> Self::Id;
    fn object(&self) -> ObjectId;
}

impl Attachment for PrivilegeGrant {
    type Id = GrantId;

    fn id(&self) -> GrantId {
        self.id
    }

    fn object(&self) -> ObjectId {
        self.object
    }
}

impl Attachment for Arc<RowPolicy> {
    type Id = PolicyId;

    fn id(&self) -> PolicyId {
        self.id
    }

    fn object(&self) -> ObjectId {
        self.object
    }
}

impl Attachment for Arc<MaskingPolicy> {
    type Id = PolicyId;

    fn id(&self) -> PolicyId {
        self.id
    }

    fn object(&self) -> ObjectId {
        ObjectId::Table(self.table)
    }
}

/// What lies on each object.
#[derive(Debug)]
pub(super) struct Attachments<T: Attachment> {
    by_object: Arc<BTreeMap<ObjectId, Arc<Vec<T>>>>,
    objects: Arc<BTreeMap<T::Id, ObjectId>>,
}

impl<T: Attachment> Attachments<T> {
    pub fn get(&self, id: T::Id) -> Option<&T> {
        self.on(*self.objects.get(&id)?).iter().find(|it| it.id() == id)
    }

    /// In order of id, which is the order in which they were made.
    pub fn on(&self, object: ObjectId) -> &[T] {
        self.by_object.get(&object).map_or(&[], |attached| attached.as_slice())
    }

    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.by_object.values().flat_map(|attached| attached.iter())
    }

    /// Insert, or replace the one with this id, which may have lain on another object.
    pub fn put(&mut self, record: T) {
        self.remove(record.id());
        Arc::make_mut(&mut self.objects).insert(record.id(), record.object());
        let attached = Arc::make_mut(Arc::make_mut(&mut self.by_object).entry(record.object()).or_default());
        let place = attached.partition_point(|other| other.id() < record.id());
        attached.insert(place, record);
    }

    pub fn remove(&mut self, id: T::Id) -> bool {
        let Some(object) = Arc::make_mut(&mut self.objects).remove(&id) else { return false };
        let by_object = Arc::make_mut(&mut self.by_object);
        if let Some(attached) = by_object.get_mut(&object) {
            Arc::make_mut(attached).retain(|it| it.id() != id);
            if attached.is_empty() {
                by_object.remove(&object);
            }
        }
        true
    }
}

impl<T: Attachment> Clone for Attachments<T> {
    fn clone(&self) -> Self {
        Self { by_object: Arc::clone(&self.by_object), objects: Arc::clone(&self.objects) }
    }
}

impl<T: Attachment> Default for Attachments<T> {
    fn default() -> Self {
        Self { by_object: Arc::default(), objects: Arc::default() }
    }
}
