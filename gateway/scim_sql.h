/* SCIM SQL: every statement on the directory's tables but the snapshot's (directory.c), over one blocking connection.
 *
 * Who:  workers of the store. Changes are made between begin and commit or rollback; `lock` comes first and says what is there.
 * Promises: nothing that a client said stands in a statement's text; a filter becomes parameters and fixed fragments.
 * Source: migrations/0021_scim.sql.
 */
#ifndef GATEWAY_SCIM_SQL_H
#define GATEWAY_SCIM_SQL_H

#include "base/pg.h"
#include "gateway/codec_scim.h"

enum base_code gw_scim_sql_begin(struct base_pg *pg, struct base_err *err);
enum base_code gw_scim_sql_commit(struct base_pg *pg, struct base_err *err);
void gw_scim_sql_rollback(struct base_pg *pg);

/* One resource, or a page of those that meet a filter (NULL: all) in the order of their making. refs: with groups or members. */
enum base_code gw_scim_sql_get(struct base_pg *pg, enum gw_scim_kind kind, const char *id, bool refs,
                               struct base_pg_rows **ret_rows, struct base_err *err);
enum base_code gw_scim_sql_page(struct base_pg *pg, enum gw_scim_kind kind,
                                const struct gw_scim_filter *filter, bool refs, int64_t offset, int64_t count,
                                struct base_pg_rows **ret_rows, int64_t *ret_total, struct base_err *err);
/* " FROM table x WHERE ...": a filter (NULL: all) as fixed fragments. Returns how many parameters, which are the filter's own texts. */
unsigned gw_scim_sql_where(struct base_buf *sql, enum gw_scim_kind kind, const struct gw_scim_filter *filter,
                           struct base_pg_param params[BASE_PG_PARAMS_MAX]);
/* Texts are borrowed from the rows. */
void gw_scim_sql_row(const struct base_pg_rows *rows, unsigned row, enum gw_scim_kind kind,
                     struct gw_scim_row *ret_row);

/* What is there now, locked until the end of the transaction. BASE_NOT_FOUND. */
struct gw_scim_locked {
    int64_t version;
    bool active;                 /* users */
    const char *doc, *user_name; /* users */
    const char *external_id;     /* NULL: none */
    struct base_pg_rows *rows;   /* owns the texts; freed by the caller */
};
enum base_code gw_scim_sql_lock(struct base_pg *pg, enum gw_scim_kind kind, const char *id,
                                struct gw_scim_locked *ret_locked, struct base_err *err);

/* BASE_EXISTS: a name is taken. ret_id: GW_SCIM_ID_LEN and a NUL. */
enum base_code gw_scim_sql_user_create(struct base_pg *pg, const struct gw_scim_user *user,
                                       char ret_id[GW_SCIM_ID_LEN + 1], struct base_err *err);
enum base_code gw_scim_sql_user_update(struct base_pg *pg, const char *id, const struct gw_scim_user *user,
                                       struct base_err *err);
/* Deactivated, hidden, emptied, out of every group. */
enum base_code gw_scim_sql_user_delete(struct base_pg *pg, const char *id, struct base_err *err);

enum base_code gw_scim_sql_group_create(struct base_pg *pg, const struct gw_scim_group *group,
                                        char ret_id[GW_SCIM_ID_LEN + 1], struct base_err *err);
/* Names and members. BASE_DENIED: a member who is no user. */
enum base_code gw_scim_sql_group_update(struct base_pg *pg, const char *id, const struct gw_scim_group *group,
                                        struct base_err *err);
enum base_code gw_scim_sql_group_delete(struct base_pg *pg, const char *id, struct base_err *err);

#endif
