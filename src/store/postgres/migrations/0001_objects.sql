-- The number of the last change.  Its one row is locked by every change until that is committed.
CREATE TABLE directory_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL
);

INSERT INTO directory_version (version) VALUES (0);

-- Ids are bytes, so that no collation and no encoding of the database has a say in their order.
CREATE TABLE directory_object (
    collection text COLLATE "C" NOT NULL,
    id bytea NOT NULL,
    version bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (collection, id)
);
