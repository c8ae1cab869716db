-- The audit trail: records of every instance's hash chain, the persons' wrapped keys, and who a pseudonym is.
-- The columns of a record repeat what its canonical bytes say, so that it can be queried; `gatehouse audit verify` compares the
-- two. What the bytes mean is docs/audit-format.md. Roles come from deploy/postgres-roles.sql.

CREATE SCHEMA audit;
CREATE SCHEMA mapping;
REVOKE ALL ON SCHEMA audit, mapping FROM PUBLIC;

CREATE TABLE audit.records (
    instance          text        NOT NULL,
    seq               bigint      NOT NULL CHECK (seq >= 0),
    kind              smallint    NOT NULL CHECK (kind BETWEEN 1 AND 5), -- intent, outcome, event, person key, mapping
    wall              timestamptz NOT NULL,
    request_id        text        NOT NULL,
    pseudonym         text        NOT NULL,
    auth_method       text        NOT NULL,
    credential_id     text        NOT NULL,
    tenant            text        NOT NULL,
    roles             text        NOT NULL,
    api               text        NOT NULL,
    peer              text        NOT NULL,
    model_asked       text        NOT NULL,
    route             text        NOT NULL,
    route_kind        text        NOT NULL,
    upstream_model    text        NOT NULL,
    policy_hash       text        NOT NULL,
    class             text        NOT NULL,
    class_source      text        NOT NULL,
    decision          text        NOT NULL,
    guard             text        NOT NULL,
    action            text        NOT NULL,
    target            text        NOT NULL,
    status            text        NOT NULL,
    error_code        text        NOT NULL,
    finish_reason     text        NOT NULL,
    reasons           text        NOT NULL, -- comma-separated
    epoch             bigint      NOT NULL,
    attempts          bigint      NOT NULL,
    prompt_tokens     bigint      NOT NULL,
    completion_tokens bigint      NOT NULL,
    released_bytes    bigint      NOT NULL,
    max_tokens        bigint      NOT NULL,
    ttft_us           bigint      NOT NULL,
    duration_us       bigint      NOT NULL,
    key_id            bytea,
    nonce             bytea,
    canonical         bytea       NOT NULL,
    prev_hash         bytea       NOT NULL CHECK (length(prev_hash) = 32),
    hash              bytea       NOT NULL CHECK (length(hash) = 32),
    content           bytea, -- AES-256-GCM ciphertext and tag under the person's key; NULL: the record has none
    PRIMARY KEY (instance, seq)
);
ALTER TABLE audit.records ALTER COLUMN content SET STORAGE EXTERNAL; -- ciphertext does not compress

CREATE INDEX records_request ON audit.records (request_id, kind) WHERE request_id <> '';
CREATE INDEX records_wall ON audit.records (wall);
CREATE INDEX records_pseudonym ON audit.records (pseudonym, wall) WHERE pseudonym <> '';

CREATE TABLE audit.person_keys (
    key_id    bytea       PRIMARY KEY CHECK (length(key_id) = 16),
    pseudonym text        NOT NULL,
    nonce     bytea       NOT NULL CHECK (length(nonce) = 12),
    wrapped   bytea       NOT NULL, -- the person's data key under the key-encryption key, which is never in this database
    created   timestamptz NOT NULL
);
CREATE INDEX person_keys_pseudonym ON audit.person_keys (pseudonym);

CREATE TABLE audit.erasures (
    pseudonym text        NOT NULL,
    erased_at timestamptz NOT NULL DEFAULT now(),
    erased_by text        NOT NULL DEFAULT session_user,
    n_keys    bigint      NOT NULL,
    reason    text        NOT NULL
);

CREATE TABLE mapping.subjects (
    pseudonym  text        PRIMARY KEY,
    issuer     text        NOT NULL,
    subject    text        NOT NULL,
    first_seen timestamptz NOT NULL
);

-- Append-only also for the owner: changing a row needs a change of the schema first, which is another kind of deed.
CREATE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only: % is refused', TG_RELID::regclass, TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER records_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.records
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER person_keys_append_only BEFORE UPDATE OR TRUNCATE ON audit.person_keys
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER erasures_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.erasures
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();

-- Where an instance's chain stands here: all that its writer needs to read.
CREATE FUNCTION audit.chain_head(of_instance text, OUT seq bigint, OUT hash bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT r.seq, r.hash FROM audit.records r WHERE r.instance = of_instance ORDER BY r.seq DESC LIMIT 1
$$;

-- Destroys a person's keys: the content becomes unreadable, the chain still verifies.
CREATE FUNCTION audit.erase_person(of_pseudonym text, why text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    n bigint;
BEGIN
    DELETE FROM audit.person_keys WHERE pseudonym = of_pseudonym;
    GET DIAGNOSTICS n = ROW_COUNT;
    INSERT INTO audit.erasures (pseudonym, n_keys, reason) VALUES (of_pseudonym, n, why);
    RETURN n;
END
$$;
REVOKE ALL ON FUNCTION audit.refuse_change(), audit.chain_head(text), audit.erase_person(text, text) FROM PUBLIC;

CREATE VIEW audit.chain_heads AS
    SELECT DISTINCT ON (instance) instance, seq, hash, wall FROM audit.records ORDER BY instance, seq DESC;

-- One row per request (its intent with its outcome) and per event. An intent whose outcome never came says 'no outcome'.
CREATE VIEW audit.requests AS
    SELECT i.instance, i.seq, i.kind, i.wall, i.request_id, i.pseudonym, i.tenant, i.api, i.model_asked, i.class, i.decision,
           i.action, i.target,
           CASE WHEN i.kind = 1 THEN coalesce(o.status, 'no outcome') ELSE i.status END AS status,
           coalesce(nullif(o.route, ''), i.route) AS route,
           coalesce(o.error_code, i.error_code) AS error_code,
           coalesce(o.prompt_tokens, i.prompt_tokens) AS prompt_tokens,
           coalesce(o.completion_tokens, i.completion_tokens) AS completion_tokens,
           coalesce(o.released_bytes, i.released_bytes) AS released_bytes,
           coalesce(o.duration_us, i.duration_us) AS duration_us
    FROM audit.records i
    LEFT JOIN LATERAL (SELECT * FROM audit.records o WHERE o.request_id = i.request_id AND o.request_id <> '' AND o.kind = 2
                       AND o.instance = i.instance AND o.seq > i.seq ORDER BY o.seq LIMIT 1) o ON i.kind = 1
    WHERE i.kind IN (1, 3)
       OR (i.kind = 2 AND NOT EXISTS (SELECT FROM audit.records x WHERE x.request_id = i.request_id AND x.request_id <> ''
                                      AND x.kind = 1 AND x.instance = i.instance AND x.seq < i.seq));

GRANT USAGE ON SCHEMA audit TO gatehouse_writer, gatehouse_reader, gatehouse_eraser;
GRANT INSERT ON audit.records, audit.person_keys TO gatehouse_writer;
GRANT EXECUTE ON FUNCTION audit.chain_head(text) TO gatehouse_writer;
GRANT SELECT ON audit.records, audit.person_keys, audit.erasures, audit.chain_heads, audit.requests TO gatehouse_reader;
GRANT EXECUTE ON FUNCTION audit.erase_person(text, text) TO gatehouse_eraser;
GRANT USAGE ON SCHEMA mapping TO gatehouse_mapper, gatehouse_identifier;
GRANT INSERT ON mapping.subjects TO gatehouse_mapper;
GRANT SELECT ON mapping.subjects TO gatehouse_identifier;
