-- What has changed in each collection, for readers who follow it.
--
-- Kept by a trigger, so that it also holds for what the program before this one changes: replicas are
-- replaced one after another.  The first statement waits for changes under way and keeps others out
-- until all of this is committed, since every change begins with the row of this table.

-- Tells this database from any other: versions mean nothing elsewhere.
ALTER TABLE directory_version ADD COLUMN identity text NOT NULL
    DEFAULT md5(random()::text || clock_timestamp()::text || pg_backend_pid()::text);

CREATE TABLE directory_collection (
    collection text COLLATE "C" PRIMARY KEY,
    -- Of the last change.
    version bigint NOT NULL,
    -- How many objects there are.
    objects bigint NOT NULL,
    -- How many removals are remembered, and the version up to which they are not.
    removed bigint NOT NULL,
    forgotten bigint NOT NULL
);

-- What was removed so far is not known: all of it may have been.
INSERT INTO directory_collection (collection, version, objects, removed, forgotten)
    SELECT name, version,
           (SELECT count(*) FROM directory_object WHERE collection = name), 0, version
    FROM directory_version, unnest(ARRAY[
        'mutualTlsOauthConfigurations', 'certificateBasedApplicationConfigurations',
        'deviceTemplates', 'devices'
    ]) AS name;

CREATE TABLE directory_removed (
    collection text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    id bytea NOT NULL,
    PRIMARY KEY (collection, version, id)
);

CREATE INDEX directory_changed ON directory_object (collection, version);

-- In the order in which the objects that refer to one are listed.
CREATE INDEX directory_referrer ON directory_object
    (refers_to_collection, refers_to_id, collection, id) WHERE refers_to_id IS NOT NULL;
DROP INDEX directory_reference;

CREATE FUNCTION directory_note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
    kind text;
    more bigint := 0;
    gone bigint := 0;
BEGIN
    SELECT version INTO changed FROM directory_version;
    IF TG_OP = 'DELETE' THEN
        kind := OLD.collection;
        more := -1;
        gone := 1;
        INSERT INTO directory_removed (collection, version, id)
            VALUES (OLD.collection, changed, OLD.id);
    ELSE
        kind := NEW.collection;
        IF TG_OP = 'INSERT' THEN
            more := 1;
        END IF;
    END IF;
    INSERT INTO directory_collection AS c (collection, version, objects, removed, forgotten)
        VALUES (kind, changed, more, gone, 0)
        ON CONFLICT (collection) DO UPDATE
        SET version = changed, objects = c.objects + more, removed = c.removed + gone;
    RETURN NULL;
END
$$;

CREATE TRIGGER directory_note_change AFTER INSERT OR UPDATE OR DELETE ON directory_object
    FOR EACH ROW EXECUTE FUNCTION directory_note_change();
