//! One immutable state of everything stored, with its indexes and rules.
//!
//! A state is shared by everyone who asks while it is current; [`State::apply`] makes the next one or says why it may not
//! be. Names are compared exactly: folding of unquoted identifiers has happened before.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use lazaret_auth::{
    AccessReader, CatalogId, CertificateSubject, EmergencyAccess, EmergencyId, GrantId, Grantee, GroupName, MaskingPolicy, ObjectId,
    ObjectPath, PolicyId, PrincipalName, PrivilegeGrant, RoleId, RowPolicy, SchemaId, TableId, TokenId, UserId,
};

use super::entity::{Catalog, Definition, Entity, EntityId, Relation, Role, RoleGrant, Schema, ServiceToken, User};
use super::records::{Attachments, NameTaken, Records};
use super::store::Change;

#[derive(Clone, Debug, Default)]
pub struct State {
    epoch: u64,
    catalogs: Records<Catalog>,
    schemas: Records<Schema>,
    relations: Records<Relation>,
    users: Records<User>,
    /// Whose certificates have which subject; follows `users`.
    subjects: Arc<BTreeMap<CertificateSubject, UserId>>,
    tokens: Records<ServiceToken>,
    roles: Records<Role>,
    role_grants: Arc<BTreeMap<GrantId, Arc<RoleGrant>>>,
    /// To whom which roles are given; follows `role_grants`.
    memberships: Arc<BTreeMap<Grantee, BTreeSet<RoleId>>>,
    privilege_grants: Attachments<PrivilegeGrant>,
    policies: Attachments<Arc<RowPolicy>>,
    masks: Attachments<Arc<MaskingPolicy>>,
    emergencies: Arc<BTreeMap<EmergencyId, Arc<EmergencyAccess>>>,
    leftovers: Arc<BTreeSet<TableId>>,
}

/// Why a list of changes is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("{kind} \"{name}\" already exists")]
    NameTaken { kind: &'static str, name: String },
    /// Deleting never cascades by itself: see [`State::cascade`].
    #[error("{kind} \"{name}\" cannot be dropped: {used_by} depend on it")]
    InUse { kind: &'static str, name: String, used_by: &'static str },
    #[error("{kind} {id} does not exist")]
    Missing { kind: &'static str, id: String },
    #[error("{kind} {id} exists twice or is used again")]
    IdReused { kind: &'static str, id: String },
    #[error("role \"{role}\" cannot be given to \"{to}\", which it holds itself")]
    RoleCycle { role: String, to: String },
    #[error("user \"{0}\" cannot be renamed: grants and policies are given to the name")]
    UserRenamed(String),
    /// Only a policy can be for everyone.
    #[error("a privilege or a role cannot be given to all")]
    GivenToAll,
    #[error("a row policy cannot lie on the system")]
    PolicyOnSystem,
}

impl State {
    /// The state with exactly these records.
    pub fn build(epoch: u64, entities: Vec<Entity>) -> Result<Self, StateError> {
        let mut state = Self { epoch, ..Self::default() };
        let ids: Vec<_> = entities.iter().map(Entity::id).collect();
        for entity in entities {
            if state.contains(entity.id()) {
                return Err(StateError::IdReused { kind: entity.id().kind(), id: entity.id().text() });
            }
            state.put(entity)?;
        }
        for id in ids {
            state.check_references(id)?;
        }
        Ok(state)
    }

    /// The state after these changes, one epoch later. Names must be unique after each step; what a record refers to must
    /// be there after the last.
    pub fn apply(&self, changes: &[Change]) -> Result<Self, StateError> {
        let mut next = self.clone();
        next.epoch += 1;
        let mut deleted = HashSet::new();
        for change in changes {
            match change {
                Change::Put(entity) if deleted.contains(&entity.id()) => {
                    return Err(StateError::IdReused { kind: entity.id().kind(), id: entity.id().text() });
                }
                Change::Put(entity) => next.put(entity.clone())?,
                Change::Delete(id) => {
                    next.remove(*id)?;
                    deleted.insert(*id);
                }
            }
        }
        for change in changes {
            match change {
                Change::Put(entity) => next.check_references(entity.id())?,
                Change::Delete(id) => next.check_unused(self, *id)?,
            }
        }
        Ok(next)
    }

    /// Deletes everything that lies in or on this record, then the record itself. Does not touch what merely names it:
    /// policies for a role, views of a user; then [`State::apply`] refuses.
    pub fn cascade(&self, id: EntityId) -> Vec<Change> {
        let mut ids = Vec::new();
        self.collect_cascade(id, &mut ids);
        ids.into_iter().map(Change::Delete).collect()
    }

    /// Counts up with every change.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// In order of name, like the other iterators over what has a name.
    pub fn catalogs(&self) -> impl Iterator<Item = &Arc<Catalog>> {
        self.catalogs.below(())
    }

    pub fn schemas_in(&self, catalog: CatalogId) -> impl Iterator<Item = &Arc<Schema>> {
        self.schemas.below(catalog)
    }

    pub fn relations_in(&self, schema: SchemaId) -> impl Iterator<Item = &Arc<Relation>> {
        self.relations.below(schema)
    }

    /// Every table and view, in the order in which they were made.
    pub fn relations(&self) -> impl Iterator<Item = &Arc<Relation>> {
        self.relations.all()
    }

    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.below(())
    }

    /// The tokens of a user.
    pub fn tokens_of(&self, user: UserId) -> impl Iterator<Item = &Arc<ServiceToken>> {
        self.tokens.below(user)
    }

    pub fn roles(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.roles.below(())
    }

    pub fn role_grants(&self) -> impl Iterator<Item = &Arc<RoleGrant>> {
        self.role_grants.values()
    }

    pub fn privilege_grants(&self) -> impl Iterator<Item = &PrivilegeGrant> {
        self.privilege_grants.all()
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<RowPolicy>> {
        self.policies.all()
    }

    pub fn masks(&self) -> impl Iterator<Item = &Arc<MaskingPolicy>> {
        self.masks.all()
    }

    /// Emergency accesses, those that are over too, in the order in which they were made.
    pub fn emergencies(&self) -> impl DoubleEndedIterator<Item = &Arc<EmergencyAccess>> {
        self.emergencies.values()
    }

    /// Folders of the warehouse that belong to no table.
    pub fn leftovers(&self) -> impl Iterator<Item = TableId> {
        self.leftovers.iter().copied()
    }

    pub fn catalog(&self, name: &str) -> Option<&Arc<Catalog>> {
        self.catalogs.named((), name)
    }

    pub fn schema(&self, catalog: CatalogId, name: &str) -> Option<&Arc<Schema>> {
        self.schemas.named(catalog, name)
    }

    pub fn relation(&self, schema: SchemaId, name: &str) -> Option<&Arc<Relation>> {
        self.relations.named(schema, name)
    }

    /// A local user.
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.named((), name)
    }

    /// The user who shows certificates with this subject.
    pub fn certificate_user(&self, subject: &CertificateSubject) -> Option<&Arc<User>> {
        self.users.get(*self.subjects.get(subject)?)
    }

    pub fn token(&self, user: UserId, name: &str) -> Option<&Arc<ServiceToken>> {
        self.tokens.named(user, name)
    }

    pub fn token_by_id(&self, id: TokenId) -> Option<&Arc<ServiceToken>> {
        self.tokens.get(id)
    }

    pub fn role(&self, name: &str) -> Option<&Arc<Role>> {
        self.roles.named((), name)
    }

    pub fn policy(&self, object: ObjectId, name: &str) -> Option<&Arc<RowPolicy>> {
        self.policies.on(object).iter().find(|policy| policy.name == name)
    }

    pub fn mask(&self, table: TableId, name: &str) -> Option<&Arc<MaskingPolicy>> {
        self.masks.on(ObjectId::Table(table)).iter().find(|mask| mask.name == name)
    }

    pub fn catalog_by_id(&self, id: CatalogId) -> Option<&Arc<Catalog>> {
        self.catalogs.get(id)
    }

    pub fn schema_by_id(&self, id: SchemaId) -> Option<&Arc<Schema>> {
        self.schemas.get(id)
    }

    pub fn relation_by_id(&self, id: TableId) -> Option<&Arc<Relation>> {
        self.relations.get(id)
    }

    pub fn user_by_id(&self, id: UserId) -> Option<&Arc<User>> {
        self.users.get(id)
    }

    pub fn role_by_id(&self, id: RoleId) -> Option<&Arc<Role>> {
        self.roles.get(id)
    }

    pub fn policy_by_id(&self, id: PolicyId) -> Option<&Arc<RowPolicy>> {
        self.policies.get(id)
    }

    /// The table with what it lies in.
    pub fn path_of(&self, table: TableId) -> Option<ObjectPath> {
        let relation = self.relations.get(table)?;
        let schema = self.schemas.get(relation.schema)?;
        Some(ObjectPath::table(schema.catalog, schema.id, table))
    }

    /// The names of catalog, schema and table.
    pub fn qualified_name(&self, table: TableId) -> Option<[String; 3]> {
        let relation = self.relations.get(table)?;
        let schema = self.schemas.get(relation.schema)?;
        let catalog = self.catalogs.get(schema.catalog)?;
        Some([catalog.name.clone(), schema.name.clone(), relation.name.clone()])
    }

    /// Every record, what others refer to first.
    pub fn entities(&self) -> Vec<Entity> {
        let mut entities = Vec::new();
        entities.extend(self.catalogs.all().map(|it| Entity::Catalog(Catalog::clone(it))));
        entities.extend(self.schemas.all().map(|it| Entity::Schema(Schema::clone(it))));
        entities.extend(self.relations.all().map(|it| Entity::Relation(Relation::clone(it))));
        entities.extend(self.users.all().map(|it| Entity::User(User::clone(it))));
        entities.extend(self.tokens.all().map(|it| Entity::ServiceToken(ServiceToken::clone(it))));
        entities.extend(self.roles.all().map(|it| Entity::Role(Role::clone(it))));
        entities.extend(self.role_grants.values().map(|it| Entity::RoleGrant(RoleGrant::clone(it))));
        entities.extend(self.privilege_grants.all().map(|it| Entity::PrivilegeGrant(it.clone())));
        entities.extend(self.policies.all().map(|it| Entity::Policy(RowPolicy::clone(it))));
        entities.extend(self.masks.all().map(|it| Entity::MaskingPolicy(MaskingPolicy::clone(it))));
        entities.extend(self.emergencies.values().map(|it| Entity::EmergencyAccess(EmergencyAccess::clone(it))));
        entities.extend(self.leftovers().map(Entity::Leftover));
        entities
    }

    /// Whether both hold the same at the same epoch.
    pub fn has_same_records(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.entities() == other.entities()
    }

    fn contains(&self, id: EntityId) -> bool {
        match id {
            EntityId::Catalog(id) => self.catalogs.get(id).is_some(),
            EntityId::Schema(id) => self.schemas.get(id).is_some(),
            EntityId::Relation(id) => self.relations.get(id).is_some(),
            EntityId::User(id) => self.users.get(id).is_some(),
            EntityId::ServiceToken(id) => self.tokens.get(id).is_some(),
            EntityId::Role(id) => self.roles.get(id).is_some(),
            EntityId::RoleGrant(id) => self.role_grants.contains_key(&id),
            EntityId::PrivilegeGrant(id) => self.privilege_grants.get(id).is_some(),
            EntityId::Policy(id) => self.policies.get(id).is_some(),
            EntityId::MaskingPolicy(id) => self.masks.get(id).is_some(),
            EntityId::EmergencyAccess(id) => self.emergencies.contains_key(&id),
            EntityId::Leftover(id) => self.leftovers.contains(&id),
        }
    }

    fn put(&mut self, entity: Entity) -> Result<(), StateError> {
        let kind = entity.id().kind();
        let taken = |name: &str| StateError::NameTaken { kind, name: name.to_owned() };
        match entity {
            Entity::Catalog(it) => {
                let name = it.name.clone();
                self.catalogs.put(it).map_err(|NameTaken| taken(&name))?;
            }
            Entity::Schema(it) => {
                let name = it.name.clone();
                self.schemas.put(it).map_err(|NameTaken| taken(&name))?;
            }
            Entity::Relation(it) => {
                let name = it.name.clone();
                self.relations.put(it).map_err(|NameTaken| taken(&name))?;
            }
            Entity::User(it) => {
                if let Some(old) = self.users.get(it.id).filter(|old| old.name != it.name) {
                    return Err(StateError::UserRenamed(old.name.clone()));
                }
                if let Some(subject) = &it.certificate_subject
                    && self.subjects.get(subject).is_some_and(|other| *other != it.id)
                {
                    return Err(StateError::NameTaken { kind: "certificate subject", name: subject.to_string() });
                }
                self.remove_subject(it.id);
                if let Some(subject) = &it.certificate_subject {
                    Arc::make_mut(&mut self.subjects).insert(subject.clone(), it.id);
                }
                let name = it.name.clone();
                self.users.put(it).map_err(|NameTaken| taken(&name))?;
            }
            Entity::ServiceToken(it) => {
                let name = it.name.clone();
                self.tokens.put(it).map_err(|NameTaken| taken(&name))?;
            }
            Entity::Role(it) => {
                let name = it.name.clone();
                self.roles.put(it).map_err(|NameTaken| taken(&name))?;
            }
            Entity::RoleGrant(it) => {
                self.remove_role_grant(it.id);
                Arc::make_mut(&mut self.memberships).entry(it.grantee.clone()).or_default().insert(it.role);
                Arc::make_mut(&mut self.role_grants).insert(it.id, Arc::new(it));
            }
            Entity::PrivilegeGrant(it) => self.privilege_grants.put(it),
            Entity::Policy(it) => {
                if self.policy(it.object, &it.name).is_some_and(|other| other.id != it.id) {
                    return Err(taken(&it.name));
                }
                self.policies.put(Arc::new(it));
            }
            Entity::MaskingPolicy(it) => {
                if self.mask(it.table, &it.name).is_some_and(|other| other.id != it.id) {
                    return Err(taken(&it.name));
                }
                self.masks.put(Arc::new(it));
            }
            Entity::EmergencyAccess(it) => {
                Arc::make_mut(&mut self.emergencies).insert(it.id, Arc::new(it));
            }
            Entity::Leftover(table) => {
                Arc::make_mut(&mut self.leftovers).insert(table);
            }
        }
        Ok(())
    }

    fn remove(&mut self, id: EntityId) -> Result<(), StateError> {
        let removed = match id {
            EntityId::Catalog(id) => self.catalogs.remove(id).is_some(),
            EntityId::Schema(id) => self.schemas.remove(id).is_some(),
            EntityId::Relation(id) => self.relations.remove(id).is_some(),
            EntityId::User(id) => {
                self.remove_subject(id);
                self.users.remove(id).is_some()
            }
            EntityId::ServiceToken(id) => self.tokens.remove(id).is_some(),
            EntityId::Role(id) => self.roles.remove(id).is_some(),
            EntityId::RoleGrant(id) => self.remove_role_grant(id),
            EntityId::PrivilegeGrant(id) => self.privilege_grants.remove(id),
            EntityId::Policy(id) => self.policies.remove(id),
            EntityId::MaskingPolicy(id) => self.masks.remove(id),
            EntityId::EmergencyAccess(id) => Arc::make_mut(&mut self.emergencies).remove(&id).is_some(),
            EntityId::Leftover(id) => Arc::make_mut(&mut self.leftovers).remove(&id),
        };
        if removed { Ok(()) } else { Err(StateError::Missing { kind: id.kind(), id: id.text() }) }
    }

    fn remove_subject(&mut self, user: UserId) {
        if let Some(subject) = self.users.get(user).and_then(|user| user.certificate_subject.as_ref()) {
            Arc::make_mut(&mut self.subjects).remove(subject);
        }
    }

    fn remove_role_grant(&mut self, id: GrantId) -> bool {
        let Some(old) = Arc::make_mut(&mut self.role_grants).remove(&id) else { return false };
        // The same role may have been given to the same grantee by somebody else too.
        let still_held = self.role_grants.values().any(|it| it.role == old.role && it.grantee == old.grantee);
        let memberships = Arc::make_mut(&mut self.memberships);
        if let Some(roles) = memberships.get_mut(&old.grantee).filter(|_| !still_held) {
            roles.remove(&old.role);
            if roles.is_empty() {
                memberships.remove(&old.grantee);
            }
        }
        true
    }

    /// Whether what this record refers to is there. A record that is gone again refers to nothing.
    fn check_references(&self, id: EntityId) -> Result<(), StateError> {
        match id {
            EntityId::Catalog(_) | EntityId::User(_) | EntityId::Role(_) | EntityId::Leftover(_) => Ok(()),
            // A record of what was: its tables and its holder may be gone.
            EntityId::EmergencyAccess(_) => Ok(()),
            EntityId::Schema(id) => self.schemas.get(id).map_or(Ok(()), |it| self.require(EntityId::Catalog(it.catalog))),
            EntityId::Relation(id) => self.relations.get(id).map_or(Ok(()), |it| self.require(EntityId::Schema(it.schema))),
            EntityId::ServiceToken(id) => self.tokens.get(id).map_or(Ok(()), |it| self.require(EntityId::User(it.user))),
            EntityId::RoleGrant(id) => self.role_grants.get(&id).map_or(Ok(()), |it| {
                self.require(EntityId::Role(it.role))?;
                self.require_receiver(&it.grantee)?;
                self.check_cycle(it)
            }),
            EntityId::PrivilegeGrant(id) => self.privilege_grants.get(id).map_or(Ok(()), |it| {
                self.require_object(it.object)?;
                self.require_receiver(&it.grantee)
            }),
            EntityId::Policy(id) => self.policies.get(id).map_or(Ok(()), |it| {
                if it.object == ObjectId::System {
                    return Err(StateError::PolicyOnSystem);
                }
                self.require_object(it.object)?;
                it.to.iter().chain(&it.except).try_for_each(|grantee| self.require_grantee(grantee))
            }),
            EntityId::MaskingPolicy(id) => self.masks.get(id).map_or(Ok(()), |it| {
                self.require(EntityId::Relation(it.table))?;
                it.to.iter().chain(&it.except).try_for_each(|grantee| self.require_grantee(grantee))
            }),
        }
    }

    fn require(&self, id: EntityId) -> Result<(), StateError> {
        if self.contains(id) { Ok(()) } else { Err(StateError::Missing { kind: id.kind(), id: id.text() }) }
    }

    fn require_object(&self, object: ObjectId) -> Result<(), StateError> {
        match object {
            ObjectId::System => Ok(()),
            ObjectId::Catalog(id) => self.require(EntityId::Catalog(id)),
            ObjectId::Schema(id) => self.require(EntityId::Schema(id)),
            ObjectId::Table(id) => self.require(EntityId::Relation(id)),
        }
    }

    /// Users and groups may be unknown here: an issuer may know them.
    fn require_grantee(&self, grantee: &Grantee) -> Result<(), StateError> {
        match grantee {
            Grantee::Role(role) => self.require(EntityId::Role(*role)),
            Grantee::User(_) | Grantee::Group(_) | Grantee::All => Ok(()),
        }
    }

    fn require_receiver(&self, grantee: &Grantee) -> Result<(), StateError> {
        if *grantee == Grantee::All { Err(StateError::GivenToAll) } else { self.require_grantee(grantee) }
    }

    fn check_cycle(&self, grant: &RoleGrant) -> Result<(), StateError> {
        let Grantee::Role(receiver) = grant.grantee else { return Ok(()) };
        if grant.role == receiver || self.closure([Grantee::Role(grant.role)]).contains(&receiver) {
            let name = |id| self.roles.get(id).map(|role| role.name.clone()).unwrap_or_default();
            return Err(StateError::RoleCycle { role: name(grant.role), to: name(receiver) });
        }
        Ok(())
    }

    /// Whether nothing refers to a deleted record. A name that is dropped and made again must inherit nothing, so that a
    /// user's grants have to go with the user.
    fn check_unused(&self, before: &Self, id: EntityId) -> Result<(), StateError> {
        let (name, used_by) = match id {
            EntityId::Catalog(id) => {
                let children = self.schemas.below(id).next().map(|_| "schemas");
                (before.catalogs.get(id).map(|it| it.name.clone()), children.or(self.attached_to(ObjectId::Catalog(id))))
            }
            EntityId::Schema(id) => {
                let children = self.relations.below(id).next().map(|_| "tables or views");
                (before.schemas.get(id).map(|it| it.name.clone()), children.or(self.attached_to(ObjectId::Schema(id))))
            }
            EntityId::Relation(id) => (before.relations.get(id).map(|it| it.name.clone()), self.attached_to(ObjectId::Table(id))),
            EntityId::User(id) => {
                let Some(user) = before.users.get(id) else { return Ok(()) };
                // Dropped and made again in one list: the new one is somebody else all the same.
                let tokens = self.tokens.below(id).next().map(|_| "tokens");
                let given = self.given_to(&Grantee::User(PrincipalName::local(&user.name)));
                (Some(user.name.clone()), given.or(self.acted_for(&user.name)).or(tokens))
            }
            EntityId::Role(id) => {
                let given = self.role_grants.values().any(|it| it.role == id).then_some("members");
                let grantee = Grantee::Role(id);
                let named = self.is_named_by_policies(&grantee).then_some("policies");
                (before.roles.get(id).map(|it| it.name.clone()), given.or(self.given_to(&grantee)).or(named))
            }
            EntityId::ServiceToken(_)
            | EntityId::RoleGrant(_)
            | EntityId::PrivilegeGrant(_)
            | EntityId::Policy(_)
            | EntityId::MaskingPolicy(_)
            | EntityId::EmergencyAccess(_)
            | EntityId::Leftover(_) => return Ok(()),
        };
        match used_by {
            Some(used_by) => Err(StateError::InUse { kind: id.kind(), name: name.unwrap_or_else(|| id.text()), used_by }),
            None => Ok(()),
        }
    }

    fn attached_to(&self, object: ObjectId) -> Option<&'static str> {
        if !self.privilege_grants.on(object).is_empty() {
            return Some("grants");
        }
        (!self.policies.on(object).is_empty() || !self.masks.on(object).is_empty()).then_some("policies")
    }

    fn given_to(&self, grantee: &Grantee) -> Option<&'static str> {
        if self.memberships.contains_key(grantee) {
            return Some("role grants");
        }
        self.privilege_grants.all().any(|it| it.grantee == *grantee).then_some("grants")
    }

    /// Views and policies read with the stored rights of the user who made them.
    fn acted_for(&self, user: &str) -> Option<&'static str> {
        let is_user = |name: &PrincipalName| name.is_local() && name.subject == user;
        if self.relations.all().any(|it| is_user(&it.owner) && matches!(it.definition, Definition::View { .. })) {
            return Some("views");
        }
        let made = self.policies.all().any(|it| is_user(&it.creator)) || self.masks.all().any(|it| is_user(&it.creator));
        made.then_some("policies")
    }

    /// Whether a row or masking policy is for this one, or makes an exception of it.
    pub fn is_named_by_policies(&self, grantee: &Grantee) -> bool {
        let names = |to: &[Grantee], except: &[Grantee]| to.contains(grantee) || except.contains(grantee);
        self.policies.all().any(|it| names(&it.to, &it.except)) || self.masks.all().any(|it| names(&it.to, &it.except))
    }

    fn collect_cascade(&self, id: EntityId, ids: &mut Vec<EntityId>) {
        match id {
            EntityId::Catalog(catalog) => {
                for schema in self.schemas.below(catalog) {
                    self.collect_cascade(EntityId::Schema(schema.id), ids);
                }
                self.collect_attached(ObjectId::Catalog(catalog), ids);
            }
            EntityId::Schema(schema) => {
                for relation in self.relations.below(schema) {
                    self.collect_cascade(EntityId::Relation(relation.id), ids);
                }
                self.collect_attached(ObjectId::Schema(schema), ids);
            }
            EntityId::Relation(table) => self.collect_attached(ObjectId::Table(table), ids),
            EntityId::User(user) => {
                ids.extend(self.tokens.below(user).map(|it| EntityId::ServiceToken(it.id)));
                if let Some(user) = self.users.get(user) {
                    self.collect_given(&Grantee::User(PrincipalName::local(&user.name)), ids);
                }
            }
            EntityId::Role(role) => {
                ids.extend(self.role_grants.values().filter(|it| it.role == role).map(|it| EntityId::RoleGrant(it.id)));
                self.collect_given(&Grantee::Role(role), ids);
            }
            EntityId::ServiceToken(_)
            | EntityId::RoleGrant(_)
            | EntityId::PrivilegeGrant(_)
            | EntityId::Policy(_)
            | EntityId::MaskingPolicy(_)
            | EntityId::EmergencyAccess(_)
            | EntityId::Leftover(_) => {}
        }
        ids.push(id);
    }

    fn collect_attached(&self, object: ObjectId, ids: &mut Vec<EntityId>) {
        ids.extend(self.privilege_grants.on(object).iter().map(|it| EntityId::PrivilegeGrant(it.id)));
        ids.extend(self.policies.on(object).iter().map(|it| EntityId::Policy(it.id)));
        ids.extend(self.masks.on(object).iter().map(|it| EntityId::MaskingPolicy(it.id)));
    }

    fn collect_given(&self, grantee: &Grantee, ids: &mut Vec<EntityId>) {
        ids.extend(self.role_grants.values().filter(|it| it.grantee == *grantee).map(|it| EntityId::RoleGrant(it.id)));
        ids.extend(self.privilege_grants.all().filter(|it| it.grantee == *grantee).map(|it| EntityId::PrivilegeGrant(it.id)));
    }

    /// The roles that these hold, directly or through other roles.
    fn closure(&self, holders: impl IntoIterator<Item = Grantee>) -> BTreeSet<RoleId> {
        let mut held = BTreeSet::new();
        let mut open: Vec<Grantee> = holders.into_iter().collect();
        while let Some(holder) = open.pop() {
            for role in self.memberships.get(&holder).into_iter().flatten() {
                if held.insert(*role) {
                    open.push(Grantee::Role(*role));
                }
            }
        }
        held
    }
}

impl AccessReader for State {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn roles_of(&self, name: &PrincipalName, groups: &BTreeSet<GroupName>) -> BTreeSet<RoleId> {
        self.closure(groups.iter().cloned().map(Grantee::Group).chain([Grantee::User(name.clone())]))
    }

    fn roles_within(&self, role: RoleId) -> BTreeSet<RoleId> {
        let mut within = self.closure([Grantee::Role(role)]);
        within.insert(role);
        within
    }

    fn role_name(&self, role: RoleId) -> Option<String> {
        self.roles.get(role).map(|role| role.name.clone())
    }

    /// What other issuers say of their principals is checked with their tokens.
    fn is_enabled(&self, name: &PrincipalName) -> bool {
        !name.is_local() || self.user(&name.subject).is_some_and(|user| user.enabled)
    }

    fn grants_on(&self, object: ObjectId) -> &[PrivilegeGrant] {
        self.privilege_grants.on(object)
    }

    /// A policy on what the table lies in has it on for every table there, later ones too.
    fn row_security(&self, table: TableId) -> bool {
        let Some(relation) = self.relations.get(table) else { return true };
        let enclosing = self.schemas.get(relation.schema).map(|schema| [ObjectId::Schema(schema.id), ObjectId::Catalog(schema.catalog)]);
        relation.row_security || enclosing.is_none_or(|objects| objects.iter().any(|object| !self.policies.on(*object).is_empty()))
    }

    fn policies_on(&self, object: ObjectId) -> &[Arc<RowPolicy>] {
        self.policies.on(object)
    }

    fn masks_on(&self, table: TableId) -> &[Arc<MaskingPolicy>] {
        self.masks.on(ObjectId::Table(table))
    }

    fn emergency_access(&self, id: EmergencyId) -> Option<&Arc<EmergencyAccess>> {
        self.emergencies.get(&id)
    }
}
