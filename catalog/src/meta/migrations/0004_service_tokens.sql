-- Tokens of service accounts. Their secrets are not stored, only a hash of each, in the body.
CREATE TABLE service_tokens (
    id      TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED,
    name    TEXT NOT NULL,
    body    TEXT NOT NULL,
    UNIQUE (user_id, name)
) STRICT, WITHOUT ROWID;
