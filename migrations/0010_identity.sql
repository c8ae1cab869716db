-- Identity: API keys, sessions and sign-in links. Only keyed hashes of credentials are stored: the pepper is not in the database,
-- so that a copy of these tables opens nothing.
--
-- gatehouse_store is the role of the gateway's identity store and of `gatehouse key` and `gatehouse admin-link`. It can make and
-- revoke keys; it cannot change whose they are or what they may do, nor bring a revoked one back.

CREATE SCHEMA identity;
REVOKE ALL ON SCHEMA identity FROM PUBLIC;
GRANT USAGE ON SCHEMA identity TO gatehouse_store;

-- A list of roles: at most 16 names, each of 1-63 printable characters.
CREATE FUNCTION identity.roles_ok(roles text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$ SELECT cardinality(roles) <= 16 AND coalesce(bool_and(r ~ '^[[:print:]]{1,63}$'), true) FROM unnest(roles) AS r $$;

CREATE TABLE identity.api_keys (
    key_id       text PRIMARY KEY CHECK (key_id ~ '^[a-z2-7]{12}$'),
    key_hash     bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    issuer       text NOT NULL CHECK (length(issuer) BETWEEN 1 AND 127),
    subject      text NOT NULL CHECK (octet_length(subject) BETWEEN 1 AND 255),
    tenant       text NOT NULL DEFAULT 'default' CHECK (length(tenant) BETWEEN 1 AND 63),
    roles        text[] NOT NULL CHECK (identity.roles_ok(roles)),
    label        text NOT NULL DEFAULT '' CHECK (octet_length(label) <= 128),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);

CREATE TABLE identity.sessions (
    token_hash      bytea PRIMARY KEY CHECK (length(token_hash) = 32),
    issuer          text NOT NULL CHECK (length(issuer) BETWEEN 1 AND 127),
    subject         text NOT NULL CHECK (octet_length(subject) BETWEEN 1 AND 255),
    tenant          text NOT NULL DEFAULT 'default' CHECK (length(tenant) BETWEEN 1 AND 63),
    roles           text[] NOT NULL CHECK (identity.roles_ok(roles)),
    created_at      timestamptz NOT NULL DEFAULT now(),
    last_seen_at    timestamptz NOT NULL DEFAULT now(),
    absolute_end_at timestamptz NOT NULL,
    ended_at        timestamptz
);
CREATE INDEX sessions_absolute_end ON identity.sessions (absolute_end_at);

CREATE TABLE identity.sign_in_links (
    link_hash  bytea PRIMARY KEY CHECK (length(link_hash) = 32),
    issuer     text NOT NULL CHECK (length(issuer) BETWEEN 1 AND 127),
    subject    text NOT NULL CHECK (octet_length(subject) BETWEEN 1 AND 255),
    tenant     text NOT NULL DEFAULT 'default' CHECK (length(tenant) BETWEEN 1 AND 63),
    roles      text[] NOT NULL CHECK (identity.roles_ok(roles)),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    used_from  text
);

-- Counts changes, transactionally (a sequence would show a change before its commit). Gateways compare it several times a second,
-- in case a notification is lost.
CREATE TABLE identity.versions (
    name    text PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0
);
INSERT INTO identity.versions (name) VALUES ('api_keys');

CREATE FUNCTION identity.keys_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE identity.versions SET version = version + 1 WHERE name = 'api_keys';
    PERFORM pg_notify('gatehouse_identity', 'api_keys');
    RETURN NULL;
END $$;
-- last_used_at is not in the list: it changes all day and nobody's rights with it
CREATE TRIGGER api_keys_changed
    AFTER INSERT OR DELETE OR TRUNCATE
       OR UPDATE OF key_id, key_hash, issuer, subject, tenant, roles, expires_at, revoked_at ON identity.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION identity.keys_changed();

CREATE FUNCTION identity.session_ended() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM pg_notify('gatehouse_identity', 'sessions');
    RETURN NULL;
END $$;
CREATE TRIGGER sessions_ended
    AFTER DELETE OR TRUNCATE OR UPDATE OF ended_at ON identity.sessions
    FOR EACH STATEMENT EXECUTE FUNCTION identity.session_ended();

-- What is over stays over, whoever asks: a revoked key, an ended session, a used link.
CREATE FUNCTION identity.stays_over() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RAISE EXCEPTION 'what has ended cannot be brought back: make a new one' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER api_keys_stay_revoked
    BEFORE UPDATE OF revoked_at ON identity.api_keys
    FOR EACH ROW WHEN (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at)
    EXECUTE FUNCTION identity.stays_over();
CREATE TRIGGER sessions_stay_ended
    BEFORE UPDATE OF ended_at ON identity.sessions
    FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL AND NEW.ended_at IS DISTINCT FROM OLD.ended_at)
    EXECUTE FUNCTION identity.stays_over();
CREATE TRIGGER links_stay_used
    BEFORE UPDATE OF used_at ON identity.sign_in_links
    FOR EACH ROW WHEN (OLD.used_at IS NOT NULL AND NEW.used_at IS DISTINCT FROM OLD.used_at)
    EXECUTE FUNCTION identity.stays_over();

GRANT SELECT, INSERT, UPDATE (revoked_at, last_used_at) ON identity.api_keys TO gatehouse_store;
GRANT SELECT, INSERT, DELETE, UPDATE (last_seen_at, ended_at) ON identity.sessions TO gatehouse_store;
GRANT SELECT, INSERT, DELETE, UPDATE (used_at, used_from) ON identity.sign_in_links TO gatehouse_store;
GRANT SELECT ON identity.versions TO gatehouse_store;
