-- Sessions move to Redis, sealed. What ends them stays here, since Redis may lose a write: revocations, and what may be brought once.
-- Names are stored as keyed 64-bit tags: a copy of these tables names nobody.

DROP TABLE identity.sessions; -- with its triggers; whoever was signed in signs in again
DROP FUNCTION identity.session_ended();

-- kind: 1 session, 2 person, 3 provider's session, 4 directory key, 5 token (gateway/revocations.h). id is given under the lock of the
-- version's row, so that rows become visible in the order of their ids and "newer than the last that I saw" misses none.
CREATE TABLE identity.revocations (
    id     bigint PRIMARY KEY,
    kind   smallint NOT NULL CHECK (kind BETWEEN 1 AND 5),
    tag    bigint NOT NULL CHECK (tag <> 0),
    at     timestamptz NOT NULL,
    until  timestamptz NOT NULL,
    reason text NOT NULL CHECK (octet_length(reason) BETWEEN 1 AND 128)
);
CREATE INDEX revocations_until ON identity.revocations (until);
INSERT INTO identity.versions (name) VALUES ('revocations');

CREATE FUNCTION identity.revocation_numbered() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE identity.versions SET version = version + 1 WHERE name = 'revocations' RETURNING version INTO NEW.id;
    NEW.at := clock_timestamp(); -- not now(): whoever waited for the lock is later than who held it
    PERFORM pg_notify('gatehouse_identity', 'revocations');
    RETURN NEW;
END $$;
CREATE TRIGGER revocations_numbered BEFORE INSERT ON identity.revocations
    FOR EACH ROW EXECUTE FUNCTION identity.revocation_numbered();

-- SAML assertions, OIDC states, logout tokens: each once. hash is keyed.
CREATE TABLE identity.used_once (
    kind  text NOT NULL CHECK (kind ~ '^[a-z][a-z0-9_.]{0,30}$'),
    hash  bytea NOT NULL CHECK (length(hash) = 32),
    until timestamptz NOT NULL,
    PRIMARY KEY (kind, hash)
);
CREATE INDEX used_once_until ON identity.used_once (until);

-- The store can add to both tables and drop what no longer matters; it cannot take anything back before its time.
CREATE FUNCTION identity.clean_up() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DELETE FROM identity.revocations WHERE until < now() - interval '1 hour';
    DELETE FROM identity.used_once WHERE until < now() - interval '1 hour';
$$;
REVOKE ALL ON FUNCTION identity.clean_up() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION identity.clean_up() TO gatehouse_store;
GRANT SELECT, INSERT ON identity.revocations TO gatehouse_store;
GRANT INSERT ON identity.used_once TO gatehouse_store;
