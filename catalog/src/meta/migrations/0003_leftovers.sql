-- Folders of the warehouse that belong to no table: what the start of the server may remove.
CREATE TABLE leftovers (
    id   TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
