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
    refers_to_collection text COLLATE "C",
    refers_to_id bytea,
    PRIMARY KEY (collection, id),
    FOREIGN KEY (refers_to_collection, refers_to_id) REFERENCES directory_object MATCH FULL
);

CREATE INDEX directory_reference ON directory_object (refers_to_collection, refers_to_id)
    WHERE refers_to_id IS NOT NULL;
