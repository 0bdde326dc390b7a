-- Masking policies lie on tables only, and have names of their own.
CREATE TABLE masking_policies (
    id          TEXT PRIMARY KEY,
    relation_id TEXT NOT NULL REFERENCES relations (id) DEFERRABLE INITIALLY DEFERRED,
    name        TEXT NOT NULL,
    body        TEXT NOT NULL,
    UNIQUE (relation_id, name)
) STRICT, WITHOUT ROWID;
