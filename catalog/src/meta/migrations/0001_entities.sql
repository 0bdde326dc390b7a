-- One table per kind. The body is the whole record as JSON; the columns beside it are what must be unique or must refer to
-- something, so that no writer can break it. References are checked when a transaction commits, names at every step.

CREATE TABLE epoch (
    only  INTEGER PRIMARY KEY CHECK (only = 1),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO epoch (only, value) VALUES (1, 0);

CREATE TABLE catalogs (
    id   TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE schemas (
    id         TEXT PRIMARY KEY,
    catalog_id TEXT NOT NULL REFERENCES catalogs (id) DEFERRABLE INITIALLY DEFERRED,
    name       TEXT NOT NULL,
    body       TEXT NOT NULL,
    UNIQUE (catalog_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE relations (
    id        TEXT PRIMARY KEY,
    schema_id TEXT NOT NULL REFERENCES schemas (id) DEFERRABLE INITIALLY DEFERRED,
    name      TEXT NOT NULL,
    body      TEXT NOT NULL,
    UNIQUE (schema_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    id   TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE roles (
    id   TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE role_grants (
    id              TEXT PRIMARY KEY,
    role_id         TEXT NOT NULL REFERENCES roles (id) DEFERRABLE INITIALLY DEFERRED,
    grantee_role_id TEXT REFERENCES roles (id) DEFERRABLE INITIALLY DEFERRED,
    body            TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX role_grants_by_role ON role_grants (role_id);
CREATE INDEX role_grants_by_grantee ON role_grants (grantee_role_id);

-- At most one of catalog, schema and relation is set; none: the system.
CREATE TABLE privilege_grants (
    id              TEXT PRIMARY KEY,
    catalog_id      TEXT REFERENCES catalogs (id) DEFERRABLE INITIALLY DEFERRED,
    schema_id       TEXT REFERENCES schemas (id) DEFERRABLE INITIALLY DEFERRED,
    relation_id     TEXT REFERENCES relations (id) DEFERRABLE INITIALLY DEFERRED,
    grantee_role_id TEXT REFERENCES roles (id) DEFERRABLE INITIALLY DEFERRED,
    body            TEXT NOT NULL,
    CHECK ((catalog_id IS NOT NULL) + (schema_id IS NOT NULL) + (relation_id IS NOT NULL) <= 1)
) STRICT, WITHOUT ROWID;
CREATE INDEX privilege_grants_by_catalog ON privilege_grants (catalog_id);
CREATE INDEX privilege_grants_by_schema ON privilege_grants (schema_id);
CREATE INDEX privilege_grants_by_relation ON privilege_grants (relation_id);
CREATE INDEX privilege_grants_by_grantee ON privilege_grants (grantee_role_id);

-- Exactly one of catalog, schema and relation is set. An id is never used twice, so that the one which is set stands for
-- the object.
CREATE TABLE policies (
    id          TEXT PRIMARY KEY,
    catalog_id  TEXT REFERENCES catalogs (id) DEFERRABLE INITIALLY DEFERRED,
    schema_id   TEXT REFERENCES schemas (id) DEFERRABLE INITIALLY DEFERRED,
    relation_id TEXT REFERENCES relations (id) DEFERRABLE INITIALLY DEFERRED,
    name        TEXT NOT NULL,
    body        TEXT NOT NULL,
    CHECK ((catalog_id IS NOT NULL) + (schema_id IS NOT NULL) + (relation_id IS NOT NULL) = 1)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX policies_by_name ON policies (coalesce(catalog_id, schema_id, relation_id), name);
CREATE INDEX policies_by_catalog ON policies (catalog_id);
CREATE INDEX policies_by_schema ON policies (schema_id);
CREATE INDEX policies_by_relation ON policies (relation_id);
