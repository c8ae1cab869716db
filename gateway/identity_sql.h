/* Identity SQL: every statement on the identity schema, in one place, over one blocking connection.
 *
 * Who:  the store's threads and the commands (cli_key.c); never a loop.
 * Promises: a credential reaches the database as a keyed hash alone; every check against "now" of links and revocations uses the
 *       database's clock, so that gateways need not agree on the time.
 * Source: migrations/0010_identity.sql.
 */
#ifndef GATEWAY_IDENTITY_SQL_H
#define GATEWAY_IDENTITY_SQL_H

#include "base/crypto.h"
#include "base/pg.h"
#include "gateway/apikey.h"
#include "gateway/principal.h"
#include "gateway/revocations.h"

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
    /* By which of their names the directory's persons own keys: "userName" or "externalId"; NULL: there is no directory. */
    const char *directory_key;
};
/* BASE_EXISTS: the id or the hash is taken (make another). BASE_DENIED: the directory has deactivated the subject. */
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

/* ---- sign-in links ---- */

struct gw_link_new {
    const unsigned char *hash;
    const char *issuer, *subject, *tenant, *roles;
    unsigned valid_s;
};
enum base_code gw_sql_link_create(struct base_pg *pg, const struct gw_link_new *link, struct base_err *err);
/* Whom a link that can still be used would sign in. BASE_DENIED: unknown, used or expired. Changes nothing. */
enum base_code gw_sql_link_peek(struct base_pg *pg, const unsigned char hash[BASE_SHA256_BYTES],
                                struct gw_principal *ret_who, struct base_err *err);
/* Uses it up: of several at once, one gets BASE_OK, the others BASE_DENIED. from: the client's address. */
enum base_code gw_sql_link_use(struct base_pg *pg, const unsigned char hash[BASE_SHA256_BYTES],
                               const char *from, struct base_err *err);

/* ---- what is over (migrations/0020_sessions.sql) ---- */

struct gw_revoke_new {
    enum gw_revocation_kind kind;
    uint64_t tag;
    const char *reason; /* 1-128 bytes */
    unsigned keep_s;    /* for as long as something from before can still be brought */
    /* PERSON: both; KEY: the directory key as key_subject, key_issuer NULL. Their API keys are revoked in the same transaction. */
    const char *key_issuer, *key_subject;
};
enum base_code gw_sql_revoke(struct base_pg *pg, const struct gw_revoke_new *revoke,
                             struct gw_revocation *ret_revocation, struct base_err *err);
/* Adds those after *last_id, in their order, at most 10,000; moves *last_id. *ret_more: there may be more. */
enum base_code gw_sql_revocations_load(struct base_pg *pg, int64_t *last_id, struct gw_revocations *set,
                                       bool *ret_more, struct base_err *err);
/* BASE_EXISTS: it was used before. until_s: Unix seconds. */
enum base_code gw_sql_use_once(struct base_pg *pg, const char *kind,
                               const unsigned char hash[BASE_SHA256_BYTES], int64_t until_s,
                               struct base_err *err);
/* Deletes links that have been over for 7 days (they name people), and revocations that no longer matter. */
enum base_code gw_sql_clean(struct base_pg *pg, struct base_err *err);

#endif
