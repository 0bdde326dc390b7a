-- Emergency accesses, those that are over too: they refer to nothing that must still be there.
CREATE TABLE emergency_accesses (
    id   TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
