/* Identity SQL. See identity_sql.h. */
#include "gateway/identity_sql.h"

#include "base/check.h"
#include "base/clock.h"
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
    auto_pg_rows struct base_pg_rows *rows = NULL;
    char expires[NUMBER_MAX];
    const struct base_pg_param params[] = {
        PG_TEXT(key->key_id),
        HASH(key->hash),
        PG_TEXT(key->issuer),
        PG_TEXT(key->subject),
        PG_TEXT(key->tenant),
        PG_TEXT(key->roles),
        PG_TEXT(key->label),
        PG_TEXT(key->expires_at_s > 0 ? number(expires, key->expires_at_s) : NULL),
        PG_TEXT(key->directory_key),
    };
    /* The subject is compared as in gw_sql_revoke, by which a person's keys end. The row's lock puts this before a deactivation, which
     * then finds the key, or after it. Of several rows under one name at most one is of a person who is not deleted. */
    enum base_code rc = base_pg_exec(
        pg,
        "WITH person AS (SELECT active FROM identity.scim_users WHERE lower($4 COLLATE \"C\") = lower( "
        "      CASE $9 WHEN 'userName' THEN user_name WHEN 'externalId' THEN external_id END COLLATE \"C\") "
        "      FOR SHARE) "
        "INSERT INTO identity.api_keys (key_id, key_hash, issuer, subject, tenant, roles, label, expires_at) "
        "SELECT $1, $2, $3, $4, $5, string_to_array($6, E'\\n'), $7, to_timestamp($8::bigint) "
        "WHERE coalesce((SELECT bool_or(active) FROM person), true) RETURNING 1",
        params, BASE_ARRAY_LEN(params), &rows, err);

    if (rc == BASE_OK && !CHECK("scim.key_owner", base_pg_n_rows(rows) == 1))
        return base_fail(err, BASE_DENIED, 0, "the directory has deactivated %s", key->subject);
    return rc;
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

enum base_code gw_sql_link_peek(struct base_pg *pg, const unsigned char hash[BASE_SHA256_BYTES],
                                struct gw_principal *ret_who, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {HASH(hash)};
    struct gw_principal who = {.method = GW_AUTH_SESSION};
    const char *text[4];
    enum base_code rc = base_pg_exec(pg,
                                     "SELECT issuer, subject, tenant, array_to_string(roles, E'\\n') "
                                     "FROM identity.sign_in_links "
                                     "WHERE link_hash = $1 AND used_at IS NULL AND expires_at > now()",
                                     params, BASE_ARRAY_LEN(params), &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) != 1)
        return base_fail(err, BASE_DENIED, 0, "the sign-in link is unknown, used or expired");
    for (unsigned i = 0; i < BASE_ARRAY_LEN(text); i++)
        text[i] = base_pg_text(rows, 0, i);
    if (text[0] == NULL || text[1] == NULL || text[2] == NULL || text[3] == NULL ||
        gw_principal_fill(&who, text[0], text[1], text[2], text[3]) != BASE_OK)
        return base_fail(err, BASE_CORRUPT, 0, "a link's row is incomplete or has a field that is too long");
    *ret_who = who;
    return BASE_OK;
}

enum base_code gw_sql_link_use(struct base_pg *pg, const unsigned char hash[BASE_SHA256_BYTES],
                               const char *from, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {HASH(hash), PG_TEXT(from)};
    /* Two uses at once: the second waits for the first's row lock, looks again, and finds used_at set. */
    enum base_code rc = base_pg_exec(pg,
                                     "UPDATE identity.sign_in_links SET used_at = now(), used_from = $2 "
                                     "WHERE link_hash = $1 AND used_at IS NULL AND expires_at > now() "
                                     "RETURNING 1",
                                     params, BASE_ARRAY_LEN(params), &rows, err);

    if (rc == BASE_OK && base_pg_n_rows(rows) != 1)
        return base_fail(err, BASE_DENIED, 0, "the sign-in link is unknown, used or expired");
    return rc;
}

/* ---- what is over ---- */

#define LOAD_ROWS 10000

enum base_code gw_sql_revoke(struct base_pg *pg, const struct gw_revoke_new *revoke,
                             struct gw_revocation *ret_revocation, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    char kind[NUMBER_MAX], tag[NUMBER_MAX], keep[NUMBER_MAX];
    const struct base_pg_param params[] = {
        PG_TEXT(number(kind, (int64_t)revoke->kind)),
        PG_TEXT(number(tag, (int64_t)revoke->tag)),
        PG_TEXT(number(keep, revoke->keep_s)),
        PG_TEXT(revoke->reason),
        PG_TEXT(revoke->key_issuer),
        PG_TEXT(revoke->key_subject),
    };
    /* One statement: both or none. COLLATE "C": only ASCII is compared without case, as in tags.c. */
    enum base_code rc = base_pg_exec(
        pg,
        "WITH r AS (INSERT INTO identity.revocations (kind, tag, until, reason) "
        "           VALUES ($1::smallint, $2::bigint, now() + make_interval(secs => $3::int), $4) "
        "           RETURNING at, until), "
        "k AS (UPDATE identity.api_keys SET revoked_at = now() WHERE revoked_at IS NULL AND "
        "      (($5::text IS NOT NULL AND issuer = $5::text AND subject = $6::text) OR "
        "       ($5::text IS NULL AND lower(subject COLLATE \"C\") = lower($6::text COLLATE \"C\"))) "
        "      RETURNING 1) "
        "SELECT " US("at") ", " US("until") ", (SELECT count(*) FROM k) FROM r",
        params, BASE_ARRAY_LEN(params), &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) != 1)
        return base_fail(err, BASE_CORRUPT, 0, "a revocation was not stored");
    *ret_revocation = (struct gw_revocation){.kind = revoke->kind,
                                             .tag = revoke->tag,
                                             .at_us = base_pg_int(rows, 0, 0),
                                             .until_us = base_pg_int(rows, 0, 1)};
    return BASE_OK;
}

enum base_code gw_sql_revocations_load(struct base_pg *pg, int64_t *last_id, struct gw_revocations *set,
                                       bool *ret_more, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    char after[NUMBER_MAX], limit[NUMBER_MAX];
    const struct base_pg_param params[] = {PG_TEXT(number(after, *last_id)),
                                           PG_TEXT(number(limit, LOAD_ROWS))};
    enum base_code rc =
        base_pg_exec(pg,
                     "SELECT id, kind, tag, " US("at") ", " US(
                         "until") " FROM identity.revocations "
                                  "WHERE id > $1::bigint AND until > now() ORDER BY id LIMIT $2::int",
                     params, BASE_ARRAY_LEN(params), &rows, err);
    unsigned n;

    if (rc != BASE_OK)
        return rc;
    n = base_pg_n_rows(rows);
    for (unsigned i = 0; i < n; i++) {
        const struct gw_revocation one = {.kind = (enum gw_revocation_kind)base_pg_int(rows, i, 1),
                                          .tag = (uint64_t)base_pg_int(rows, i, 2),
                                          .at_us = base_pg_int(rows, i, 3),
                                          .until_us = base_pg_int(rows, i, 4)};

        gw_revocations_add(set, &one, base_wall_us());
        *last_id = base_pg_int(rows, i, 0);
    }
    *ret_more = n == LOAD_ROWS;
    return BASE_OK;
}

enum base_code gw_sql_use_once(struct base_pg *pg, const char *kind,
                               const unsigned char hash[BASE_SHA256_BYTES], int64_t until_s,
                               struct base_err *err)
{
    char until[NUMBER_MAX];
    const struct base_pg_param params[] = {PG_TEXT(kind), HASH(hash), PG_TEXT(number(until, until_s))};

    return base_pg_exec(pg,
                        "INSERT INTO identity.used_once (kind, hash, until) "
                        "VALUES ($1, $2, to_timestamp($3::bigint))",
                        params, BASE_ARRAY_LEN(params), NULL, err);
}

enum base_code gw_sql_clean(struct base_pg *pg, struct base_err *err)
{
    enum base_code rc = base_pg_exec(pg, "SELECT identity.clean_up()", NULL, 0, NULL, err);

    if (rc != BASE_OK)
        return rc;
    return base_pg_exec(pg, "DELETE FROM identity.sign_in_links WHERE expires_at < now() - interval '7 days'",
                        NULL, 0, NULL, err);
}
