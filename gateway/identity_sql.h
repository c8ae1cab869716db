/* Identity SQL: every statement on the identity schema, in one place, over one blocking connection.
 *
 * Who:  the store's threads and the commands (cli_key.c); never a loop.
 * Promises: a credential reaches the database as a keyed hash alone; every check against "now" of sessions and links uses the
 *       database's clock, so that gateways need not agree on the time.
 * Source: migrations/0010_identity.sql.
 */
#ifndef GATEWAY_IDENTITY_SQL_H
#define GATEWAY_IDENTITY_SQL_H

#include "base/crypto.h"
#include "base/pg.h"
#include "gateway/apikey.h"
#include "gateway/principal.h"

#define GW_LABEL_MAX        128u
#define GW_ROLES_TEXT_MAX   (GW_ROLES_MAX * GW_ROLE_MAX)
#define GW_IDENTITY_CHANNEL "gatehouse_identity"

/* ---- API keys ---- */

struct gw_key_new {
    const char *key_id;
    const unsigned char *hash; /* BASE_SHA256_BYTES */
    const char *issuer, *subject, *tenant;
    const char *roles; /* separated by newlines */
    const char *label;
    int64_t expires_at_s; /* Unix seconds; 0: never */
};
/* BASE_EXISTS: the id or the hash is taken (make another). */
enum base_code gw_sql_key_create(struct base_pg *pg, const struct gw_key_new *key, struct base_err *err);
/* BASE_NOT_FOUND; *ret_was_revoked: it had been revoked before, and keeps that time. */
enum base_code gw_sql_key_revoke(struct base_pg *pg, const char *key_id, bool *ret_was_revoked,
                                 struct base_err *err);

/* Columns of both key queries. Times are Unix microseconds, NULL when not set. */
enum gw_key_column {
    GW_KEYCOL_ID,
    GW_KEYCOL_HASH,
    GW_KEYCOL_ISSUER,
    GW_KEYCOL_SUBJECT,
    GW_KEYCOL_TENANT,
    GW_KEYCOL_ROLES,
    GW_KEYCOL_LABEL,
    GW_KEYCOL_CREATED,
    GW_KEYCOL_EXPIRES,
    GW_KEYCOL_REVOKED,
    GW_KEYCOL_LAST_USED
};
enum base_code gw_sql_key_list(struct base_pg *pg, struct base_pg_rows **ret_rows,
                               struct base_err *err); /* newest first */
/* Those that a request may bring: not over for longer than 30 days. */
enum base_code gw_sql_key_load(struct base_pg *pg, struct base_pg_rows **ret_rows, struct base_err *err);
/* Changes with every change of the keys. */
enum base_code gw_sql_key_version(struct base_pg *pg, int64_t *ret_version, struct base_err *err);
/* ids and Unix seconds, each list separated by commas. */
enum base_code gw_sql_key_used(struct base_pg *pg, const char *ids, const char *times_s,
                               struct base_err *err);

/* ---- sign-in links and sessions ---- */

struct gw_link_new {
    const unsigned char *hash;
    const char *issuer, *subject, *tenant, *roles;
    unsigned valid_s;
};
enum base_code gw_sql_link_create(struct base_pg *pg, const struct gw_link_new *link, struct base_err *err);

struct gw_session {
    struct gw_principal
        who;               /* method GW_AUTH_SESSION; credential_id is the start of the hash; no cache tag */
    int64_t expires_at_us; /* absolute end */
    uint64_t valid_ms;     /* from the query on: until the earlier of idle and absolute end */
};

struct gw_link_use {
    const unsigned char *link_hash, *session_hash;
    const unsigned char *old_session_hash; /* NULL, or the session that this one takes the place of */
    const char *from;                      /* the client's address */
    unsigned idle_s, absolute_s;
};
/* Uses the link and starts the session, both or none. BASE_DENIED: unknown, used or expired. */
enum base_code gw_sql_link_use(struct base_pg *pg, const struct gw_link_use *use,
                               struct gw_session *ret_session, bool *ret_old_ended, struct base_err *err);
/* BASE_DENIED: unknown, ended, idle for too long, or past its absolute end. Notes that it was seen, now and then. */
enum base_code gw_sql_session_get(struct base_pg *pg, const unsigned char hash[BASE_SHA256_BYTES],
                                  unsigned idle_s, struct gw_session *ret_session, struct base_err *err);
/* *ret_ended false: it was over already, and *ret_session is left alone. */
enum base_code gw_sql_session_end(struct base_pg *pg, const unsigned char hash[BASE_SHA256_BYTES],
                                  bool *ret_ended, struct gw_session *ret_session, struct base_err *err);
/* Deletes sessions and links that have been over for 7 days: they name people. */
enum base_code gw_sql_clean(struct base_pg *pg, struct base_err *err);

#endif
