//! The embedded store: one SQLite file. What `commit` has acknowledged survives a crash (WAL, `synchronous=FULL`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use lazaret_auth::{Grantee, ObjectId};
use serde::Serialize;
use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqlSafeStr, SqliteConnection, SqlitePool};

use super::entity::{Entity, EntityId};
use super::store::{Change, MetadataStore, StoreError};

/// How long a statement waits for another process (a backup, the sqlite3 shell) to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The metadata holds password hashes: nobody but the server's own user reads it.
const FILE_MODE: u32 = 0o600;
/// In order; what has been released is never edited, only followed by another.
const MIGRATIONS: [(i64, &str, &str); 5] = [
    (1, "entities", include_str!("migrations/0001_entities.sql")),
    (2, "masking policies", include_str!("migrations/0002_masking_policies.sql")),
    (3, "leftovers", include_str!("migrations/0003_leftovers.sql")),
    (4, "service tokens", include_str!("migrations/0004_service_tokens.sql")),
    (5, "emergency accesses", include_str!("migrations/0005_emergency_accesses.sql")),
];
/// Result codes of <https://www.sqlite.org/rescode.html>; the low byte of an extended code is the primary one.
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_NOTADB: i32 = 26;

#[derive(Debug)]
pub struct SqliteStore {
    /// Of exactly one connection: there is one writer, and reads come from memory.
    pool: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, or makes it. Its folder must be there.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let file = path.to_owned();
        tokio::task::spawn_blocking(move || create_file(&file)).await.map_err(io::Error::other).flatten().map_err(StoreError::Open)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(classify)?;
        let store = Self { pool };
        store.check().await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Whether the file can be read now.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT count(*) FROM sqlite_master").execute(&self.pool).await.map_err(classify)?;
        Ok(())
    }

    /// Ends the connection and folds the write-ahead log into the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Does to the file what no commit does.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(super) async fn execute_for_test(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    async fn check(&self) -> Result<(), StoreError> {
        let report: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&self.pool).await.map_err(classify)?;
        if report == "ok" { Ok(()) } else { Err(StoreError::Damaged { reason: report }) }
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let migrations =
            MIGRATIONS.map(|(version, name, sql)| Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false));
        let known = MIGRATIONS.map(|(version, ..)| version).into_iter().max().unwrap_or(0);
        Migrator::with_migrations(migrations.into()).run(&self.pool).await.map_err(|error| match error {
            MigrateError::VersionMissing(found) => StoreError::Newer { found, known },
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => classify(error),
            other => StoreError::Migration(other),
        })
    }
}

#[async_trait]
impl MetadataStore for SqliteStore {
    async fn load(&self) -> Result<(u64, Vec<Entity>), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(classify)?;
        let mut transaction = connection.begin().await.map_err(classify)?;
        let epoch = read_epoch(&mut transaction).await?;
        let mut entities = Vec::new();
        for query in [
            "SELECT id, 'catalog', body FROM catalogs ORDER BY id",
            "SELECT id, 'schema', body FROM schemas ORDER BY id",
            "SELECT id, 'relation', body FROM relations ORDER BY id",
            "SELECT id, 'user', body FROM users ORDER BY id",
            "SELECT id, 'service_token', body FROM service_tokens ORDER BY id",
            "SELECT id, 'role', body FROM roles ORDER BY id",
            "SELECT id, 'role_grant', body FROM role_grants ORDER BY id",
            "SELECT id, 'privilege_grant', body FROM privilege_grants ORDER BY id",
            "SELECT id, 'policy', body FROM policies ORDER BY id",
            "SELECT id, 'masking_policy', body FROM masking_policies ORDER BY id",
            "SELECT id, 'emergency_access', body FROM emergency_accesses ORDER BY id",
            "SELECT id, 'leftover', body FROM leftovers ORDER BY id",
        ] {
            let rows: Vec<(String, String, String)> = sqlx::query_as(query).fetch_all(&mut *transaction).await.map_err(classify)?;
            for (id, kind, body) in rows {
                entities.push(read_entity(&kind, &body).map_err(|source| StoreError::Corrupt { id, source })?);
            }
        }
        transaction.commit().await.map_err(classify)?;
        Ok((epoch, entities))
    }

    async fn commit(&self, base_epoch: u64, changes: &[Change]) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(classify)?;
        let found = read_epoch(&mut transaction).await?;
        if found != base_epoch {
            return Err(StoreError::Stale { expected: base_epoch, found });
        }
        sqlx::query("UPDATE epoch SET value = value + 1").execute(&mut *transaction).await.map_err(classify)?;
        for change in changes {
            match change {
                Change::Put(entity) => put(&mut transaction, entity).await?,
                Change::Delete(id) => delete(&mut transaction, *id).await?,
            }
        }
        transaction.commit().await.map_err(classify)
    }
}

async fn read_epoch(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let epoch: i64 = sqlx::query_scalar("SELECT value FROM epoch").fetch_one(connection).await.map_err(classify)?;
    u64::try_from(epoch).map_err(|_| StoreError::Damaged { reason: format!("the epoch is {epoch}") })
}

async fn put(connection: &mut SqliteConnection, entity: &Entity) -> Result<(), StoreError> {
    let id = entity.id().text();
    let query = match entity {
        Entity::Catalog(it) => sqlx::query(
            "INSERT INTO catalogs (id, body, name) VALUES (?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, name = excluded.name",
        )
        .bind(id)
        .bind(body(it)?)
        .bind(&it.name),
        Entity::Schema(it) => sqlx::query(
            "INSERT INTO schemas (id, body, catalog_id, name) VALUES (?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, catalog_id = excluded.catalog_id, name = excluded.name",
        )
        .bind(id)
        .bind(body(it)?)
        .bind(it.catalog.to_string())
        .bind(&it.name),
        Entity::Relation(it) => sqlx::query(
            "INSERT INTO relations (id, body, schema_id, name) VALUES (?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, schema_id = excluded.schema_id, name = excluded.name",
        )
        .bind(id)
        .bind(body(it)?)
        .bind(it.schema.to_string())
        .bind(&it.name),
        Entity::User(it) => sqlx::query(
            "INSERT INTO users (id, body, name) VALUES (?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, name = excluded.name",
        )
        .bind(id)
        .bind(body(it)?)
        .bind(&it.name),
        Entity::ServiceToken(it) => sqlx::query(
            "INSERT INTO service_tokens (id, body, user_id, name) VALUES (?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, user_id = excluded.user_id, name = excluded.name",
        )
        .bind(id)
        .bind(body(it)?)
        .bind(it.user.to_string())
        .bind(&it.name),
        Entity::Role(it) => sqlx::query(
            "INSERT INTO roles (id, body, name) VALUES (?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, name = excluded.name",
        )
        .bind(id)
        .bind(body(it)?)
        .bind(&it.name),
        Entity::RoleGrant(it) => sqlx::query(
            "INSERT INTO role_grants (id, body, role_id, grantee_role_id) VALUES (?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE
             SET body = excluded.body, role_id = excluded.role_id, grantee_role_id = excluded.grantee_role_id",
        )
        .bind(id)
        .bind(body(it)?)
        .bind(it.role.to_string())
        .bind(role_id(&it.grantee)),
        Entity::PrivilegeGrant(it) => {
            let [catalog, schema, relation] = object_ids(it.object);
            sqlx::query(
                "INSERT INTO privilege_grants (id, body, catalog_id, schema_id, relation_id, grantee_role_id)
                 VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (id) DO UPDATE
                 SET body = excluded.body, catalog_id = excluded.catalog_id, schema_id = excluded.schema_id,
                     relation_id = excluded.relation_id, grantee_role_id = excluded.grantee_role_id",
            )
            .bind(id)
            .bind(body(it)?)
            .bind(catalog)
            .bind(schema)
            .bind(relation)
            .bind(role_id(&it.grantee))
        }
        Entity::Policy(it) => {
            let [catalog, schema, relation] = object_ids(it.object);
            sqlx::query(
                "INSERT INTO policies (id, body, catalog_id, schema_id, relation_id, name) VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (id) DO UPDATE
                 SET body = excluded.body, catalog_id = excluded.catalog_id, schema_id = excluded.schema_id,
                     relation_id = excluded.relation_id, name = excluded.name",
            )
            .bind(id)
            .bind(body(it)?)
            .bind(catalog)
            .bind(schema)
            .bind(relation)
            .bind(&it.name)
        }
        Entity::MaskingPolicy(it) => sqlx::query(
            "INSERT INTO masking_policies (id, body, relation_id, name) VALUES (?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body, relation_id = excluded.relation_id, name = excluded.name",
        )
        .bind(id)
        .bind(body(it)?)
        .bind(it.table.to_string())
        .bind(&it.name),
        Entity::EmergencyAccess(it) => sqlx::query(
            "INSERT INTO emergency_accesses (id, body) VALUES (?, ?)
             ON CONFLICT (id) DO UPDATE SET body = excluded.body",
        )
        .bind(id)
        .bind(body(it)?),
        Entity::Leftover(table) => {
            sqlx::query("INSERT INTO leftovers (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING").bind(id).bind(body(table)?)
        }
    };
    query.execute(connection).await.map(|_| ()).map_err(classify)
}

async fn delete(connection: &mut SqliteConnection, id: EntityId) -> Result<(), StoreError> {
    let query = match id {
        EntityId::Catalog(_) => "DELETE FROM catalogs WHERE id = ?",
        EntityId::Schema(_) => "DELETE FROM schemas WHERE id = ?",
        EntityId::Relation(_) => "DELETE FROM relations WHERE id = ?",
        EntityId::User(_) => "DELETE FROM users WHERE id = ?",
        EntityId::ServiceToken(_) => "DELETE FROM service_tokens WHERE id = ?",
        EntityId::Role(_) => "DELETE FROM roles WHERE id = ?",
        EntityId::RoleGrant(_) => "DELETE FROM role_grants WHERE id = ?",
        EntityId::PrivilegeGrant(_) => "DELETE FROM privilege_grants WHERE id = ?",
        EntityId::Policy(_) => "DELETE FROM policies WHERE id = ?",
        EntityId::MaskingPolicy(_) => "DELETE FROM masking_policies WHERE id = ?",
        EntityId::EmergencyAccess(_) => "DELETE FROM emergency_accesses WHERE id = ?",
        EntityId::Leftover(_) => "DELETE FROM leftovers WHERE id = ?",
    };
    let done = sqlx::query(query).bind(id.text()).execute(connection).await.map_err(classify)?;
    if done.rows_affected() == 0 {
        return Err(StoreError::Conflict(format!("{} {} does not exist", id.kind(), id.text()).into()));
    }
    Ok(())
}

fn body(record: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|error| StoreError::Conflict(error.into()))
}

fn read_entity(kind: &str, body: &str) -> Result<Entity, serde_json::Error> {
    Ok(match kind {
        "catalog" => Entity::Catalog(serde_json::from_str(body)?),
        "schema" => Entity::Schema(serde_json::from_str(body)?),
        "relation" => Entity::Relation(serde_json::from_str(body)?),
        "user" => Entity::User(serde_json::from_str(body)?),
        "service_token" => Entity::ServiceToken(serde_json::from_str(body)?),
        "role" => Entity::Role(serde_json::from_str(body)?),
        "role_grant" => Entity::RoleGrant(serde_json::from_str(body)?),
        "privilege_grant" => Entity::PrivilegeGrant(serde_json::from_str(body)?),
        "masking_policy" => Entity::MaskingPolicy(serde_json::from_str(body)?),
        "emergency_access" => Entity::EmergencyAccess(serde_json::from_str(body)?),
        "leftover" => Entity::Leftover(serde_json::from_str(body)?),
        _ => Entity::Policy(serde_json::from_str(body)?),
    })
}

/// The columns `catalog_id`, `schema_id` and `relation_id`.
fn object_ids(object: ObjectId) -> [Option<String>; 3] {
    match object {
        ObjectId::System => [None, None, None],
        ObjectId::Catalog(id) => [Some(id.to_string()), None, None],
        ObjectId::Schema(id) => [None, Some(id.to_string()), None],
        ObjectId::Table(id) => [None, None, Some(id.to_string())],
    }
}

fn role_id(grantee: &Grantee) -> Option<String> {
    match grantee {
        Grantee::Role(id) => Some(id.to_string()),
        Grantee::User(_) | Grantee::Group(_) | Grantee::All => None,
    }
}

fn classify(error: sqlx::Error) -> StoreError {
    match error.as_database_error() {
        Some(database) if is_conflict(database) => StoreError::Conflict(error.into()),
        Some(database) if is_damage(database) => StoreError::Damaged { reason: database.message().to_owned() },
        _ => StoreError::Database(error),
    }
}

fn is_conflict(error: &dyn DatabaseError) -> bool {
    error.is_unique_violation() || error.is_foreign_key_violation() || error.is_check_violation()
}

fn is_damage(error: &dyn DatabaseError) -> bool {
    let code = error.code().and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff);
    matches!(code, Some(SQLITE_CORRUPT | SQLITE_NOTADB))
}

/// SQLite gives its log the mode of the file, so that the file comes first, empty and with the right one.
fn create_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path) {
        Ok(file) => {
            file.sync_all()?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::metadata(path).map(|_| ()),
        Err(error) => Err(error),
    }
}
