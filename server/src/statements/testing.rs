//! A server of statements on a new metadata store and a new lake, for tests.

use std::sync::Arc;
use std::time::SystemTime;

use arrow::array::{Int32Array, RecordBatch, StringArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use futures::stream;
use lazaret_auth::{
    CredentialKind, EmergencyId, GrantId, Grantee, ObjectId, Principal, PrincipalName, Privilege, PrivilegeGrant, SystemPrivilege, TableId,
};
use lazaret_catalog::caches::{CacheLimits, Caches};
use lazaret_catalog::governed::{session_config, with_careful_planning};
use lazaret_catalog::lake::Lake;
use lazaret_catalog::meta::{Change, Entity, MemoryStore, Metadata, Relation, State};
use lazaret_catalog::namespace::{Namespace, TableOpener};
use lazaret_catalog::stores::{Stores, StoresConfig};
use lazaret_catalog::write::{CreatedTable, NewTable, create_table_as};

use super::{StatementContext, begin_create, register_created, rows, run, set_emergency_access};
use crate::activity::Activity;
use crate::audit::{AuditConfig, AuditKey, AuditLog};
use crate::emergency::Warden;
use crate::engine::UpdateOutcome;
use crate::error::{Error, ErrorKind};
use crate::session::{Caller, Session, SessionState, Sessions};
use crate::sql::{self, DEFAULT_STATEMENT_BYTES, Statement};
use crate::system::{SystemSources, reserved_schemas};

pub struct Server {
    pub folder: tempfile::TempDir,
    pub metadata: Arc<Metadata>,
    pub lake: Arc<Lake>,
    pub audit: AuditLog,
    pub activity: Arc<Activity>,
    pub sessions: Arc<Sessions>,
    pub warden: Arc<Warden>,
}

/// One client: a session and what it works on.
pub struct Client<'a> {
    pub server: &'a Server,
    pub context: StatementContext,
}

impl Server {
    /// With the catalog `lazaret`, the schema `public` and the user `admin`.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["allowed", "data"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let stores = Stores::new(StoresConfig {
            stores: Vec::new(),
            allowed_paths: vec![folder.path().join("allowed"), folder.path().join("data")],
            warehouse: folder.path().join("data/warehouse"),
        });
        let metadata = Metadata::open(Arc::new(MemoryStore::new())).await.unwrap();
        metadata.bootstrap("hash").await.unwrap();
        let lake = Lake::new(Arc::new(stores), Arc::new(Caches::new(CacheLimits::default())));
        let audit = AuditLog::open(&folder.path().join("audit"), AuditConfig::new(1, AuditKey::new([1; 32]))).unwrap();
        let sessions = Arc::new(Sessions::new(100, SessionState::new("lazaret", "public")));
        let metadata = Arc::new(metadata);
        let warden = Warden::new(Arc::clone(&metadata), audit.clone(), Arc::default(), SystemTime::now);
        Self { folder, metadata, lake: Arc::new(lake), audit, activity: Arc::default(), sessions, warden: Arc::new(warden) }
    }

    pub fn client(&self, user: &str) -> Client<'_> {
        let caller = Caller {
            principal: Arc::new(Principal::local_user(user, CredentialKind::Password, None, None)),
            session_key: Some(user.to_owned()),
            client_address: None,
            client_driver: None,
        };
        Client { server: self, context: self.context(Session::new(caller, SessionState::new("lazaret", "public")), Arc::new([])) }
    }

    pub fn context(&self, session: Arc<Session>, issuers: Arc<[String]>) -> StatementContext {
        StatementContext {
            metadata: Arc::clone(&self.metadata),
            lake: Arc::clone(&self.lake),
            session,
            issuers,
            activity: Arc::clone(&self.activity),
            sessions: Arc::clone(&self.sessions),
            warden: Arc::clone(&self.warden),
        }
    }

    pub async fn grant(&self, user: &str, privilege: Privilege, object: ObjectId) {
        self.grant_columns(user, privilege, object, None).await;
    }

    pub async fn grant_columns(&self, user: &str, privilege: Privilege, object: ObjectId, columns: Option<Vec<String>>) {
        let grant = PrivilegeGrant {
            id: GrantId::generate(),
            object,
            privilege,
            grantee: Grantee::User(PrincipalName::local(user)),
            columns,
            deny: false,
            grant_option: false,
            grantor: PrincipalName::local("admin"),
        };
        let put = || Ok::<_, std::fmt::Error>(vec![Change::Put(Entity::PrivilegeGrant(grant.clone()))]);
        self.metadata.change(|_| put()).await.unwrap();
    }

    pub async fn grant_system(&self, user: &str, privilege: SystemPrivilege) {
        self.grant(user, Privilege::System(privilege), ObjectId::System).await;
    }

    pub fn state(&self) -> Arc<State> {
        self.metadata.current()
    }

    pub fn catalog(&self) -> ObjectId {
        ObjectId::Catalog(self.state().catalog("lazaret").unwrap().id)
    }

    pub fn schema(&self, name: &str) -> ObjectId {
        let state = self.state();
        ObjectId::Schema(state.schema(state.catalog("lazaret").unwrap().id, name).unwrap().id)
    }

    /// `schema.table`.
    pub fn relation(&self, name: &str) -> Option<Arc<Relation>> {
        let state = self.state();
        let (schema, table) = name.split_once('.').unwrap();
        let schema = state.schema(state.catalog("lazaret").unwrap().id, schema)?;
        state.relation(schema.id, table).cloned()
    }

    pub fn table(&self, name: &str) -> ObjectId {
        ObjectId::Table(self.relation(name).unwrap().id)
    }

    /// The folders of managed tables.
    pub fn warehouse(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("data/warehouse")).map_or(0, Iterator::count)
    }

    /// A Delta table of two columns below the allowed folder, not registered; gives its path.
    pub async fn files(&self, folder: &str) -> String {
        let stores = Stores::new(StoresConfig { warehouse: self.folder.path().join("allowed"), ..StoresConfig::default() });
        let created = write(&stores, TableId::generate()).await;
        let path = self.folder.path().join("allowed").join(folder);
        std::fs::rename(created.location.strip_prefix("file://").unwrap(), &path).unwrap();
        path.display().to_string()
    }
}

pub async fn write(stores: &Stores, id: TableId) -> CreatedTable {
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int32Array::from(vec![1, 2])) as _, false),
        ("name", Arc::new(StringArray::from(vec![Some("ana"), None])) as _, true),
    ])
    .unwrap();
    let table = NewTable { id, schema: rows.schema(), partition_by: Vec::new(), comment: None };
    create_table_as(stores, table, stream::iter([Ok(rows)])).await.unwrap()
}

impl Client<'_> {
    /// The state in which a statement of this client is planned, and the namespace of it.
    pub fn namespace(&self) -> Namespace {
        self.namespace_with(Arc::clone(&self.server.lake) as _)
    }

    pub fn namespace_with(&self, opener: Arc<dyn TableOpener>) -> Namespace {
        let state = self.server.state();
        let rights = self.context.authority(state.as_ref());
        let config = session_config(SessionConfig::new());
        let template = with_careful_planning(SessionStateBuilder::new().with_default_features().with_config(config)).build();
        let (catalog, schema) = {
            let session = self.context.session.state.lock();
            (session.catalog.clone(), session.schema.clone())
        };
        let mut namespace = Namespace::new(state, rights.clone(), opener, template, &catalog, &schema).unwrap();
        let sources = SystemSources {
            caches: Arc::clone(self.server.lake.caches()),
            audit: self.server.audit.clone(),
            activity: Arc::clone(&self.server.activity),
            sessions: Arc::clone(&self.server.sessions),
        };
        for (name, provider) in reserved_schemas(&namespace, &rights, &self.context.session, &sources) {
            namespace = namespace.with_reserved_schema(name, provider);
        }
        namespace
    }

    /// CREATE TABLE AS is given two rows in the place of its query.
    pub async fn run(&self, text: &str) -> Result<UpdateOutcome, Error> {
        let statement = sql::parse(text, DEFAULT_STATEMENT_BYTES)?;
        if let Statement::SetEmergencyAccess(set) = &statement {
            return set_emergency_access(&self.context, EmergencyId::generate(), set).await;
        }
        let Statement::CreateTableAs(create) = &statement else { return run(&self.context, &statement).await };
        let Some(id) = begin_create(&self.context, create).await? else { return Ok(UpdateOutcome::default()) };
        let created = write(self.server.lake.stores(), id).await;
        register_created(&self.context, create, id, &created).await
    }

    pub async fn ok(&self, text: &str) {
        self.run(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    }

    /// Kind and message of the error.
    pub async fn refused(&self, text: &str) -> (ErrorKind, String) {
        let error = self.run(text).await.expect_err(text);
        (error.kind, error.message)
    }

    pub async fn rows(&self, text: &str) -> Result<RecordBatch, Error> {
        let statement = sql::parse(text, DEFAULT_STATEMENT_BYTES)?;
        let batch = rows(&self.context, &self.namespace(), &statement).await?;
        assert_eq!(Some(batch.schema()), super::result_schema(&statement), "{text}");
        Ok(batch)
    }

    /// The rows of SHOW and DESCRIBE, a line each, without what is NULL.
    pub async fn shown(&self, text: &str) -> Vec<String> {
        lines(&[self.rows(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"))])
    }
}

/// Each row with its cells separated by one space.
pub fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let rows = text.lines().skip(3).filter(|line| line.starts_with('|'));
    rows.map(|row| row.split(['|', ' ']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")).collect()
}
