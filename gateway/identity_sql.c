/* Identity SQL. See identity_sql.h. */
#include "gateway/identity_sql.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>

#define HASH(p)    PG_BYTES((p), BASE_SHA256_BYTES)
#define NUMBER_MAX 24u

/* A number as a text parameter. */
static const char *number(char out[NUMBER_MAX], int64_t value)
{
    snprintf(out, NUMBER_MAX, "%lld", (long long)value);
    return out;
}

enum base_code gw_sql_key_create(struct base_pg *pg, const struct gw_key_new *key, struct base_err *err)
{
    char expires[NUMBER_MAX];
    const struct base_pg_param params[] = {
        PG_TEXT(key->key_id), HASH(key->hash),
        PG_TEXT(key->issuer), PG_TEXT(key->subject),
        PG_TEXT(key->tenant), PG_TEXT(key->roles),
        PG_TEXT(key->label),  PG_TEXT(key->expires_at_s > 0 ? number(expires, key->expires_at_s) : NULL),
    };

    return base_pg_exec(
        pg,
        "INSERT INTO identity.api_keys (key_id, key_hash, issuer, subject, tenant, roles, label, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, string_to_array($6, E'\\n'), $7, to_timestamp($8::bigint))",
        params, BASE_ARRAY_LEN(params), NULL, err);
}

enum base_code gw_sql_key_revoke(struct base_pg *pg, const char *key_id, bool *ret_was_revoked,
                                 struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(key_id)};
    enum base_code rc = base_pg_exec(
        pg,
        "UPDATE identity.api_keys SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL "
        "RETURNING key_id",
        params, 1, &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) == 1) {
        *ret_was_revoked = false;
        return BASE_OK;
    }
    base_pg_rows_free(TAKE(rows));
    rc = base_pg_exec(pg, "SELECT 1 FROM identity.api_keys WHERE key_id = $1", params, 1, &rows, err);
    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) == 0)
        return base_fail(err, BASE_NOT_FOUND, 0, "there is no key %s", key_id);
    *ret_was_revoked = true;
    return BASE_OK;
}

#define US(column) "(extract(epoch FROM " column ") * 1000000)::bigint"
#define KEY_COLUMNS                                                                          \
    "key_id, key_hash, issuer, subject, tenant, array_to_string(roles, E'\\n'), label, " US( \
        "created_at") ", " US("expires_at") ", " US("revoked_at") ", " US("last_used_at")

enum base_code gw_sql_key_list(struct base_pg *pg, struct base_pg_rows **ret_rows, struct base_err *err)
{
    return base_pg_exec(pg, "SELECT " KEY_COLUMNS " FROM identity.api_keys ORDER BY created_at DESC, key_id",
                        NULL, 0, ret_rows, err);
}

enum base_code gw_sql_key_load(struct base_pg *pg, struct base_pg_rows **ret_rows, struct base_err *err)
{
    return base_pg_exec(
        pg,
        "SELECT " KEY_COLUMNS " FROM identity.api_keys "
        "WHERE coalesce(least(revoked_at, expires_at), 'infinity') > now() - interval '30 days'",
        NULL, 0, ret_rows, err);
}

enum base_code gw_sql_key_version(struct base_pg *pg, int64_t *ret_version, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    enum base_code rc = base_pg_exec(pg, "SELECT version FROM identity.versions WHERE name = 'api_keys'",
                                     NULL, 0, &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) != 1)
        return base_fail(err, BASE_CORRUPT, 0,
                         "identity.versions has no row for the keys: are the migrations complete?");
    *ret_version = base_pg_int(rows, 0, 0);
    return BASE_OK;
}

enum base_code gw_sql_key_used(struct base_pg *pg, const char *ids, const char *times_s, struct base_err *err)
{
    const struct base_pg_param params[] = {PG_TEXT(ids), PG_TEXT(times_s)};

    return base_pg_exec(
        pg,
        "UPDATE identity.api_keys k SET last_used_at = greatest(k.last_used_at, to_timestamp(u.at)) "
        "FROM unnest(string_to_array($1, ','), string_to_array($2, ',')::bigint[]) AS u(id, at) "
        "WHERE k.key_id = u.id",
        params, 2, NULL, err);
}

enum base_code gw_sql_link_create(struct base_pg *pg, const struct gw_link_new *link, struct base_err *err)
{
    char valid[NUMBER_MAX];
    const struct base_pg_param params[] = {HASH(link->hash),       PG_TEXT(link->issuer),
                                           PG_TEXT(link->subject), PG_TEXT(link->tenant),
                                           PG_TEXT(link->roles),   PG_TEXT(number(valid, link->valid_s))};

    return base_pg_exec(
        pg,
        "INSERT INTO identity.sign_in_links (link_hash, issuer, subject, tenant, roles, expires_at) "
        "VALUES ($1, $2, $3, $4, string_to_array($5, E'\\n'), now() + make_interval(secs => $6::int))",
        params, BASE_ARRAY_LEN(params), NULL, err);
}

/* issuer, subject, tenant, roles, absolute end, milliseconds left: from column 0. */
static enum base_code read_session(const struct base_pg_rows *rows, const unsigned char *hash,
                                   struct gw_session *ret_session, struct base_err *err)
{
    struct gw_session session = {.who.method = GW_AUTH_SESSION};
    const char *text[4];

    for (unsigned i = 0; i < BASE_ARRAY_LEN(text); i++) {
        text[i] = base_pg_text(rows, 0, i);
        if (text[i] == NULL)
            return base_fail(err, BASE_CORRUPT, 0, "a session's row is incomplete");
    }
    if (gw_principal_fill(&session.who, text[0], text[1], text[2], text[3]) != BASE_OK)
        return base_fail(err, BASE_CORRUPT, 0, "a session's row has a field that is too long");
    base_hex_encode(hash, 8, session.who.credential_id);
    session.expires_at_us = base_pg_int(rows, 0, 4);
    session.valid_ms = (uint64_t)base_pg_int(rows, 0, 5);
    *ret_session = session;
    return BASE_OK;
}

enum base_code gw_sql_link_use(struct base_pg *pg, const struct gw_link_use *use,
                               struct gw_session *ret_session, bool *ret_old_ended, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    char idle[NUMBER_MAX], absolute[NUMBER_MAX];
    const struct base_pg_param params[] = {
        HASH(use->link_hash),
        PG_TEXT(use->from),
        HASH(use->session_hash),
        PG_TEXT(number(absolute, use->absolute_s)),
        use->old_session_hash != NULL ? HASH(use->old_session_hash) : (struct base_pg_param){0},
        PG_TEXT(number(idle, use->idle_s)),
    };
    /* Two uses at once: the second waits for the first's row lock, looks again, and finds used_at set. */
    enum base_code rc = base_pg_exec(
        pg,
        "WITH link AS (UPDATE identity.sign_in_links SET used_at = now(), used_from = $2 "
        "              WHERE link_hash = $1 AND used_at IS NULL AND expires_at > now() "
        "              RETURNING issuer, subject, tenant, roles), "
        "old AS (UPDATE identity.sessions SET ended_at = now() "
        "        WHERE token_hash = $5 AND ended_at IS NULL AND EXISTS (SELECT 1 FROM link) RETURNING 1), "
        "new AS (INSERT INTO identity.sessions (token_hash, issuer, subject, tenant, roles, absolute_end_at) "
        "        SELECT $3, issuer, subject, tenant, roles, now() + make_interval(secs => $4::int) FROM link "
        "        RETURNING *) "
        "SELECT issuer, subject, tenant, array_to_string(roles, E'\\n'), " US(
            "absolute_end_at") ", "
                               "       least($4::bigint, $6::bigint) * 1000, (SELECT count(*) FROM old) FROM "
                               "new",
        params, BASE_ARRAY_LEN(params), &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) != 1)
        return base_fail(err, BASE_DENIED, 0, "the sign-in link is unknown, used or expired");
    rc = read_session(rows, use->session_hash, ret_session, err);
    if (rc == BASE_OK)
        *ret_old_ended = base_pg_int(rows, 0, 6) > 0;
    return rc;
}

enum base_code gw_sql_session_get(struct base_pg *pg, const unsigned char hash[BASE_SHA256_BYTES],
                                  unsigned idle_s, struct gw_session *ret_session, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    char idle[NUMBER_MAX], touch[NUMBER_MAX];
    /* last_seen_at is written once in a sixtieth of the idle limit, not with each request */
    const struct base_pg_param params[] = {HASH(hash), PG_TEXT(number(idle, idle_s)),
                                           PG_TEXT(number(touch, idle_s / 60))};
    enum base_code rc =
        base_pg_exec(pg,
                     "SELECT issuer, subject, tenant, array_to_string(roles, E'\\n'), " US(
                         "absolute_end_at") ", "
                                            "       floor(extract(epoch FROM least(absolute_end_at, "
                                            "last_seen_at + make_interval(secs => $2::int)) - now()) * 1000)"
                                            "       ::bigint, (last_seen_at <= now() - make_interval(secs => "
                                            "$3::int))::int "
                                            "FROM identity.sessions WHERE token_hash = $1 AND ended_at IS "
                                            "NULL AND absolute_end_at > now() "
                                            "     AND last_seen_at > now() - make_interval(secs => $2::int)",
                     params, BASE_ARRAY_LEN(params), &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) != 1)
        return base_fail(err, BASE_DENIED, 0, "the session is unknown or over");
    if (base_pg_int(rows, 0, 6) != 0) {
        rc = base_pg_exec(
            pg,
            "UPDATE identity.sessions SET last_seen_at = now() WHERE token_hash = $1 AND ended_at IS NULL",
            params, 1, NULL, err);
        if (rc != BASE_OK)
            return rc;
    }
    return read_session(rows, hash, ret_session, err);
}

enum base_code gw_sql_session_end(struct base_pg *pg, const unsigned char hash[BASE_SHA256_BYTES],
                                  bool *ret_ended, struct gw_session *ret_session, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {HASH(hash)};
    enum base_code rc = base_pg_exec(
        pg,
        "UPDATE identity.sessions SET ended_at = now() WHERE token_hash = $1 AND ended_at IS NULL "
        "RETURNING issuer, subject, tenant, array_to_string(roles, E'\\n'), " US("absolute_end_at") ", 0",
        params, 1, &rows, err);

    if (rc != BASE_OK)
        return rc;
    *ret_ended = base_pg_n_rows(rows) == 1;
    return *ret_ended ? read_session(rows, hash, ret_session, err) : BASE_OK;
}

enum base_code gw_sql_clean(struct base_pg *pg, struct base_err *err)
{
    enum base_code rc = base_pg_exec(pg,
                                     "DELETE FROM identity.sessions "
                                     "WHERE least(ended_at, absolute_end_at) < now() - interval '7 days'",
                                     NULL, 0, NULL, err);

    if (rc != BASE_OK)
        return rc;
    return base_pg_exec(pg, "DELETE FROM identity.sign_in_links WHERE expires_at < now() - interval '7 days'",
                        NULL, 0, NULL, err);
}
