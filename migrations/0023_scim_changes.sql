-- Which rows of the directory changed in which version, so that a gateway with 100,000 persons in memory reads the three that changed.
--
-- In which order changes become visible: a change is given its number under the lock of the row "scim" of identity.versions and holds
-- the lock until it commits; the next one waits for it. So whoever sees a number sees all smaller ones and what they changed, and
-- "newer than what I have" misses none, however long a transaction was open before it changed something and whatever commits
-- meanwhile. A sequence or a time would not do: they are given before the commit, and a smaller one could appear behind a larger one.
--
-- The row "scim_from" is the version since which this list is complete. Who has an older one reads everything.

DROP TRIGGER scim_users_changed ON identity.scim_users;
DROP TRIGGER scim_groups_changed ON identity.scim_groups;
DROP TRIGGER scim_members_changed ON identity.scim_members;
DROP FUNCTION identity.scim_changed();

CREATE TABLE identity.scim_changes (
    version bigint NOT NULL,
    kind    smallint NOT NULL CHECK (kind IN (1, 2, 3)), -- 1 a user or the user's memberships, 2 a group, 3 (beside 2) a group that was deleted
    id      uuid NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (version, kind, id)
);
-- A restored database may come to the same number by other changes, but not at the same time.
ALTER TABLE identity.versions ADD COLUMN at timestamptz NOT NULL DEFAULT now();
INSERT INTO identity.versions (name, version) SELECT 'scim_from', version FROM identity.versions WHERE name = 'scim';

-- The next number and, until the end of the transaction, the lock.
CREATE FUNCTION identity.scim_next() RETURNS bigint
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT pg_notify('gatehouse_identity', 'scim');
    UPDATE identity.versions SET version = version + 1, at = clock_timestamp() WHERE name = 'scim' RETURNING version;
$$;
REVOKE ALL ON FUNCTION identity.scim_next() FROM PUBLIC;

-- Arguments: the kind, the column with the id. `gone` and `come` are the statement's rows before and after it.
CREATE FUNCTION identity.scim_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    add text := format('INSERT INTO identity.scim_changes (version, kind, id) SELECT DISTINCT %s, %s, %I FROM %%I ON CONFLICT DO NOTHING',
                       identity.scim_next(), TG_ARGV[0], TG_ARGV[1]);
BEGIN
    IF TG_OP <> 'INSERT' THEN
        EXECUTE format(add, 'gone');
    END IF;
    IF TG_OP <> 'DELETE' THEN
        EXECUTE format(add, 'come');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER scim_users_come AFTER INSERT ON identity.scim_users
    REFERENCING NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed(1, 'id');
CREATE TRIGGER scim_users_change AFTER UPDATE ON identity.scim_users
    REFERENCING OLD TABLE AS gone NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed(1, 'id');
CREATE TRIGGER scim_users_go AFTER DELETE ON identity.scim_users
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed(1, 'id');
CREATE TRIGGER scim_groups_come AFTER INSERT ON identity.scim_groups
    REFERENCING NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed(2, 'id');
CREATE TRIGGER scim_groups_change AFTER UPDATE ON identity.scim_groups
    REFERENCING OLD TABLE AS gone NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed(2, 'id');
CREATE TRIGGER scim_groups_go AFTER DELETE ON identity.scim_groups
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed(2, 'id');
CREATE TRIGGER scim_groups_end AFTER DELETE ON identity.scim_groups
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed(3, 'id');
CREATE TRIGGER scim_members_come AFTER INSERT ON identity.scim_members
    REFERENCING NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed(1, 'user_id');
CREATE TRIGGER scim_members_change AFTER UPDATE ON identity.scim_members
    REFERENCING OLD TABLE AS gone NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_changed(1, 'user_id');

-- A group that is deleted takes its memberships along, perhaps everybody's: the group's own rows in the list say it for all of them.
CREATE FUNCTION identity.scim_left() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number bigint := identity.scim_next();
BEGIN
    INSERT INTO identity.scim_changes (version, kind, id)
        SELECT DISTINCT number, 1, user_id FROM gone WHERE EXISTS (SELECT FROM identity.scim_groups WHERE id = group_id);
    RETURN NULL;
END $$;
CREATE TRIGGER scim_members_go AFTER DELETE ON identity.scim_members
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_left();

-- TRUNCATE does not say what was there: everybody reads everything. That of users or of groups takes the memberships along.
CREATE FUNCTION identity.scim_emptied() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number bigint := identity.scim_next();
BEGIN
    UPDATE identity.versions SET version = number WHERE name = 'scim_from';
    RETURN NULL;
END $$;
CREATE TRIGGER scim_members_emptied AFTER TRUNCATE ON identity.scim_members
    FOR EACH STATEMENT EXECUTE FUNCTION identity.scim_emptied();

-- What a gateway has not read in an hour, it no longer gets in pieces. In one transaction: nobody sees a list with a hole.
CREATE OR REPLACE FUNCTION identity.clean_up() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DELETE FROM identity.revocations WHERE until < now() - interval '1 hour';
    DELETE FROM identity.used_once WHERE until < now() - interval '1 hour';
    UPDATE identity.versions SET version = greatest(version, (SELECT max(version) FROM identity.scim_changes WHERE at < now() - interval '1 hour'))
        WHERE name = 'scim_from';
    DELETE FROM identity.scim_changes WHERE version <= (SELECT version FROM identity.versions WHERE name = 'scim_from');
$$;
GRANT SELECT ON identity.scim_changes TO gatehouse_store;
