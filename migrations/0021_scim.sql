-- SCIM: the persons and groups that an identity provider pushes. Persons' names and addresses live in scim_users.doc and in user_name;
-- docs/scim.md says what is kept. Who is deleted is hidden and emptied but for the names that keep him out.

CREATE TABLE identity.scim_users (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_name   text NOT NULL CHECK (octet_length(user_name) BETWEEN 1 AND 255),
    external_id text CHECK (octet_length(external_id) BETWEEN 1 AND 255),
    active      boolean NOT NULL,
    doc         jsonb NOT NULL CHECK (jsonb_typeof(doc) = 'object' AND octet_length(doc::text) <= 32768),
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    CHECK (deleted_at IS NULL OR NOT active)
);
-- COLLATE "C": ASCII alone is compared without case, as the gateway does (gateway/tags.c)
CREATE UNIQUE INDEX scim_users_name ON identity.scim_users (lower(user_name COLLATE "C")) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX scim_users_external ON identity.scim_users (lower(external_id COLLATE "C")) WHERE deleted_at IS NULL;
CREATE INDEX scim_users_page ON identity.scim_users (created_at, id) WHERE deleted_at IS NULL;

CREATE TABLE identity.scim_groups (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    display_name text NOT NULL CHECK (octet_length(display_name) BETWEEN 1 AND 255),
    external_id  text CHECK (octet_length(external_id) BETWEEN 1 AND 255),
    version      bigint NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL DEFAULT now(),
    changed_at   timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX scim_groups_name ON identity.scim_groups (lower(display_name COLLATE "C"));
CREATE INDEX scim_groups_page ON identity.scim_groups (created_at, id);

CREATE TABLE identity.scim_members (
    group_id uuid NOT NULL REFERENCES identity.scim_groups ON DELETE CASCADE,
    user_id  uuid NOT NULL REFERENCES identity.scim_users,
    PRIMARY KEY (group_id, user_id)
);
CREATE INDEX scim_members_user ON identity.scim_members (user_id);

CREATE FUNCTION identity.scim_stays_deleted() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF OLD.deleted_at IS NOT NULL AND NEW IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'a deleted user stays deleted';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER scim_users_stay_deleted BEFORE UPDATE ON identity.scim_users
    FOR EACH ROW EXECUTE FUNCTION identity.scim_stays_deleted();

INSERT INTO identity.versions (name) VALUES ('scim');
CREATE FUNCTION identity.scim_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE identity.versions SET version = version + 1 WHERE name = 'scim';
    PERFORM pg_notify('gatehouse_identity', 'scim');
    RETURN NULL;
END $$;
CREATE TRIGGER scim_users_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON identity.scim_users
    FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed();
CREATE TRIGGER scim_groups_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON identity.scim_groups
    FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed();
CREATE TRIGGER scim_members_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON identity.scim_members
    FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed();

-- A user's row is never removed by the gateway: it is what keeps him out.
GRANT SELECT ON identity.scim_users, identity.scim_groups, identity.scim_members TO gatehouse_store;
GRANT INSERT (user_name, external_id, active, doc) ON identity.scim_users TO gatehouse_store;
GRANT UPDATE (user_name, external_id, active, doc, version, changed_at, deleted_at) ON identity.scim_users TO gatehouse_store;
GRANT INSERT (display_name, external_id), UPDATE (display_name, external_id, version, changed_at), DELETE
    ON identity.scim_groups TO gatehouse_store;
GRANT INSERT, DELETE ON identity.scim_members TO gatehouse_store;
