-- An UPDATE that meets no key changes none: a deactivation in the directory revokes the person's keys, and most persons have none.
-- Without this each of them made every gateway read all keys anew.
--
-- Only rows before and after a statement tell, and with those a trigger takes no list of columns: last_used_at and label are left out here.

DROP TRIGGER api_keys_changed ON identity.api_keys;
CREATE TRIGGER api_keys_changed
    AFTER INSERT OR DELETE OR TRUNCATE ON identity.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION identity.keys_changed();

CREATE FUNCTION identity.keys_updated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT key_id, key_hash, issuer, subject, tenant, roles, expires_at, revoked_at FROM come
               EXCEPT SELECT key_id, key_hash, issuer, subject, tenant, roles, expires_at, revoked_at FROM gone) THEN
        UPDATE identity.versions SET version = version + 1 WHERE name = 'api_keys';
        PERFORM pg_notify('gatehouse_identity', 'api_keys');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER api_keys_updated
    AFTER UPDATE ON identity.api_keys REFERENCING OLD TABLE AS gone NEW TABLE AS come
    FOR EACH STATEMENT EXECUTE FUNCTION identity.keys_updated();
