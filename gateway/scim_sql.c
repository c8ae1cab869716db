/* SCIM SQL. See scim_sql.h. */
#include "gateway/scim_sql.h"

#include "base/check.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define SQL_MAX    (64u << 10)
#define NUMBER_MAX 24u

#define US(column)    "(extract(epoch from " column ") * 1000000)::bigint"
#define USER_COLUMNS  "id, doc, NULL, NULL, version, " US("created_at") ", " US("changed_at")
#define GROUP_COLUMNS "id, NULL, display_name, external_id, version, " US("created_at") ", " US("changed_at")
#define USER_REFS                                                                                        \
    ", (SELECT json_agg(json_build_object('value', g.id, 'display', g.display_name, 'type', 'direct')) " \
    "FROM identity.scim_members m JOIN identity.scim_groups g ON g.id = m.group_id WHERE m.user_id = r.id)"
#define GROUP_REFS                                                                                  \
    ", (SELECT json_agg(json_build_object('value', u.id, 'display', u.user_name, 'type', 'User')) " \
    "FROM identity.scim_members m JOIN identity.scim_users u ON u.id = m.user_id WHERE m.group_id = r.id)"

static const char *number(char out[NUMBER_MAX], int64_t value)
{
    snprintf(out, NUMBER_MAX, "%lld", (long long)value);
    return out;
}

enum base_code gw_scim_sql_begin(struct base_pg *pg, struct base_err *err)
{
    return base_pg_exec(pg, "BEGIN", NULL, 0, NULL, err);
}

enum base_code gw_scim_sql_commit(struct base_pg *pg, struct base_err *err)
{
    return base_pg_exec(pg, "COMMIT", NULL, 0, NULL, err);
}

/* A connection that cannot even do that is dropped: the next user of it must not find a transaction. */
void gw_scim_sql_rollback(struct base_pg *pg)
{
    if (base_pg_connected(pg) && base_pg_exec(pg, "ROLLBACK", NULL, 0, NULL, NULL) != BASE_OK)
        base_pg_disconnect(pg);
}

/* ---- filters ---- */

_Static_assert(GW_SCIM_NODES_MAX + 2 <= BASE_PG_PARAMS_MAX, "a parameter for each node, and the page's two");

struct where {
    struct base_buf *sql;
    const struct gw_scim_filter *filter;
    enum gw_scim_kind kind;
    struct base_pg_param *params;
    unsigned n_params;
};

static unsigned add_param(struct where *w, const char *text)
{
    w->params[w->n_params++] = PG_TEXT(text);
    return w->n_params;
}

static const char *expression(enum gw_scim_attr attr, enum gw_scim_kind kind)
{
    switch (attr) {
    case GW_SCIM_A_ID: return "x.id::text";
    case GW_SCIM_A_USER_NAME: return "x.user_name";
    case GW_SCIM_A_EXTERNAL_ID: return "x.external_id";
    case GW_SCIM_A_DISPLAY_NAME: return kind == GW_SCIM_USER ? "x.doc->>'displayName'" : "x.display_name";
    case GW_SCIM_A_GIVEN_NAME: return "x.doc->'name'->>'givenName'";
    case GW_SCIM_A_FAMILY_NAME: return "x.doc->'name'->>'familyName'";
    case GW_SCIM_A_EMAIL_VALUE: return "e->>'value'";
    case GW_SCIM_A_EMAIL_TYPE: return "e->>'type'";
    case GW_SCIM_A_MEMBER: return "m.user_id::text";
    case GW_SCIM_A_ACTIVE:
    case GW_SCIM_A_EMAILS:
    case GW_SCIM_A_NONE: break;
    }
    return "NULL";
}

/* Never NULL, so that "not" turns it round. */
static void put_compare(struct where *w, const struct gw_scim_node *node)
{
    const char *e = expression(node->attr, w->kind);
    bool is_id = node->attr == GW_SCIM_A_ID || node->attr == GW_SCIM_A_MEMBER;

    if (node->attr == GW_SCIM_A_ACTIVE) {
        base_buf_append_str(w->sql, node->op == GW_SCIM_PR              ? "true"
                                    : gw_scim_same(node->value, "true") ? "x.active"
                                                                        : "NOT x.active");
        return;
    }
    if (node->op == GW_SCIM_PR) {
        base_buf_printf(w->sql, "%s IS NOT NULL", e);
        return;
    }
    if (is_id && node->op == GW_SCIM_EQ) { /* by the index; what is no id is nobody's */
        if (gw_scim_id_valid(node->value, strlen(node->value)))
            base_buf_printf(w->sql, "%s = $%u::uuid", node->attr == GW_SCIM_A_ID ? "x.id" : "m.user_id",
                            add_param(w, node->value));
        else
            base_buf_append_str(w->sql, "false");
        return;
    }
    base_buf_printf(w->sql, "(%s IS NOT NULL AND ", e);
    if (node->op == GW_SCIM_EQ)
        base_buf_printf(w->sql, "lower((%s) COLLATE \"C\") = lower($%u::text COLLATE \"C\"))", e,
                        add_param(w, node->value));
    else if (node->op == GW_SCIM_CO)
        base_buf_printf(w->sql, "position(lower($%u::text COLLATE \"C\") in lower((%s) COLLATE \"C\")) > 0)",
                        add_param(w, node->value), e);
    else
        base_buf_printf(w->sql, "starts_with(lower((%s) COLLATE \"C\"), lower($%u::text COLLATE \"C\")))", e,
                        add_param(w, node->value));
}

static void put_node(struct where *w, unsigned index)
{
    const struct gw_scim_node *node = &w->filter->nodes[index];

    base_buf_append_char(w->sql, '(');
    switch (node->op) {
    case GW_SCIM_AND:
    case GW_SCIM_OR:
        put_node(w, node->left);
        base_buf_append_str(w->sql, node->op == GW_SCIM_AND ? " AND " : " OR ");
        put_node(w, node->right);
        break;
    case GW_SCIM_NOT:
        base_buf_append_str(w->sql, "NOT ");
        put_node(w, node->left);
        break;
    case GW_SCIM_ANY:
        base_buf_append_str(w->sql,
                            node->attr == GW_SCIM_A_MEMBER
                                ? "EXISTS (SELECT 1 FROM identity.scim_members m WHERE m.group_id = x.id AND "
                                : "EXISTS (SELECT 1 FROM jsonb_array_elements(coalesce(x.doc->'emails', "
                                  "'[]')) e WHERE ");
        put_node(w, node->left);
        base_buf_append_char(w->sql, ')');
        break;
    case GW_SCIM_EQ:
    case GW_SCIM_CO:
    case GW_SCIM_SW:
    case GW_SCIM_PR: put_compare(w, node); break;
    }
    base_buf_append_char(w->sql, ')');
}

unsigned gw_scim_sql_where(struct base_buf *sql, enum gw_scim_kind kind, const struct gw_scim_filter *filter,
                           struct base_pg_param params[BASE_PG_PARAMS_MAX])
{
    struct where w = {.sql = sql, .filter = filter, .kind = kind, .params = params};

    base_buf_append_str(sql, kind == GW_SCIM_USER ? " FROM identity.scim_users x WHERE x.deleted_at IS NULL"
                                                  : " FROM identity.scim_groups x WHERE true");
    if (filter == NULL)
        return 0;
    base_buf_append_str(sql, " AND ");
    put_node(&w, filter->root);
    return w.n_params;
}

/* ---- reading ---- */

static const char *columns(enum gw_scim_kind kind, bool refs)
{
    if (kind == GW_SCIM_USER)
        return refs ? USER_COLUMNS USER_REFS : USER_COLUMNS ", NULL";
    return refs ? GROUP_COLUMNS GROUP_REFS : GROUP_COLUMNS ", NULL";
}

enum base_code gw_scim_sql_get(struct base_pg *pg, enum gw_scim_kind kind, const char *id, bool refs,
                               struct base_pg_rows **ret_rows, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(id)};
    char sql[2048];
    enum base_code rc;

    snprintf(sql, sizeof(sql), "SELECT %s FROM identity.%s r WHERE id = $1::uuid%s", columns(kind, refs),
             kind == GW_SCIM_USER ? "scim_users" : "scim_groups",
             kind == GW_SCIM_USER ? " AND deleted_at IS NULL" : "");
    rc = base_pg_exec(pg, sql, params, 1, &rows, err);
    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) == 0)
        return base_fail(err, BASE_NOT_FOUND, 0, "there is no such resource");
    *ret_rows = TAKE(rows);
    return BASE_OK;
}

enum base_code gw_scim_sql_page(struct base_pg *pg, enum gw_scim_kind kind,
                                const struct gw_scim_filter *filter, bool refs, int64_t offset, int64_t count,
                                struct base_pg_rows **ret_rows, int64_t *ret_total, struct base_err *err)
{
    auto_buf struct base_buf sql = BASE_BUF_INIT(SQL_MAX);
    auto_pg_rows struct base_pg_rows *total = NULL;
    struct base_pg_param params[BASE_PG_PARAMS_MAX];
    char offset_text[NUMBER_MAX], count_text[NUMBER_MAX];
    enum base_code rc;
    unsigned n;

    base_buf_append_str(&sql, "SELECT count(*)");
    n = gw_scim_sql_where(&sql, kind, filter, params);
    if (sql.failed)
        return base_fail(err, BASE_TOO_LARGE, 0, "the filter is too large");
    rc = base_pg_exec(pg, sql.data, params, n, &total, err);
    if (rc != BASE_OK)
        return rc;
    base_buf_reset(&sql);
    base_buf_printf(&sql, "SELECT %s FROM (SELECT x.*", columns(kind, refs));
    n = gw_scim_sql_where(&sql, kind, filter, params); /* a page first, then its groups or members */
    params[n++] = PG_TEXT(number(offset_text, offset));
    base_buf_printf(&sql, " ORDER BY x.created_at, x.id OFFSET $%u::bigint", n);
    params[n++] = PG_TEXT(number(count_text, count));
    base_buf_printf(&sql, " LIMIT $%u::bigint) r ORDER BY created_at, id", n);
    if (sql.failed)
        return base_fail(err, BASE_TOO_LARGE, 0, "the filter is too large");
    rc = base_pg_exec(pg, sql.data, params, n, ret_rows, err);
    if (rc == BASE_OK)
        *ret_total = base_pg_int(total, 0, 0);
    return rc;
}

void gw_scim_sql_row(const struct base_pg_rows *rows, unsigned row, enum gw_scim_kind kind,
                     struct gw_scim_row *ret_row)
{
    *ret_row = (struct gw_scim_row){.kind = kind,
                                    .id = base_pg_text(rows, row, 0),
                                    .doc = base_pg_text(rows, row, 1),
                                    .display_name = base_pg_text(rows, row, 2),
                                    .external_id = base_pg_text(rows, row, 3),
                                    .version = base_pg_int(rows, row, 4),
                                    .created_us = base_pg_int(rows, row, 5),
                                    .changed_us = base_pg_int(rows, row, 6),
                                    .refs = base_pg_text(rows, row, 7)};
}

enum base_code gw_scim_sql_lock(struct base_pg *pg, enum gw_scim_kind kind, const char *id,
                                struct gw_scim_locked *ret_locked, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(id)};
    enum base_code rc = base_pg_exec(
        pg,
        kind == GW_SCIM_USER
            ? "SELECT version, external_id, active, doc, user_name FROM identity.scim_users "
              "WHERE id = $1::uuid AND deleted_at IS NULL FOR UPDATE"
            : "SELECT version, external_id FROM identity.scim_groups WHERE id = $1::uuid FOR UPDATE",
        params, 1, &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) == 0)
        return base_fail(err, BASE_NOT_FOUND, 0, "there is no such resource");
    *ret_locked =
        (struct gw_scim_locked){.version = base_pg_int(rows, 0, 0), .external_id = base_pg_text(rows, 0, 1)};
    if (kind == GW_SCIM_USER) {
        ret_locked->active = strcmp(base_pg_text(rows, 0, 2), "t") == 0;
        ret_locked->doc = base_pg_text(rows, 0, 3);
        ret_locked->user_name = base_pg_text(rows, 0, 4);
    }
    ret_locked->rows = TAKE(rows);
    return BASE_OK;
}

/* ---- users ---- */

static enum base_code returned_id(const struct base_pg_rows *rows, char ret_id[GW_SCIM_ID_LEN + 1],
                                  struct base_err *err)
{
    const char *id = base_pg_n_rows(rows) == 1 ? base_pg_text(rows, 0, 0) : NULL;

    if (id == NULL || strlen(id) != GW_SCIM_ID_LEN)
        return base_fail(err, BASE_CORRUPT, 0, "a resource was not stored");
    memcpy(ret_id, id, GW_SCIM_ID_LEN + 1);
    return BASE_OK;
}

enum base_code gw_scim_sql_user_create(struct base_pg *pg, const struct gw_scim_user *user,
                                       char ret_id[GW_SCIM_ID_LEN + 1], struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(user->user_name), PG_TEXT(user->external_id),
                                           PG_TEXT(user->active ? "t" : "f"), PG_TEXT(user->doc)};
    enum base_code rc = base_pg_exec(pg,
                                     "INSERT INTO identity.scim_users (user_name, external_id, active, doc) "
                                     "VALUES ($1, $2, $3::boolean, $4::jsonb) RETURNING id",
                                     params, BASE_ARRAY_LEN(params), &rows, err);

    return rc == BASE_OK ? returned_id(rows, ret_id, err) : rc;
}

enum base_code gw_scim_sql_user_update(struct base_pg *pg, const char *id, const struct gw_scim_user *user,
                                       struct base_err *err)
{
    const struct base_pg_param params[] = {PG_TEXT(id), PG_TEXT(user->user_name), PG_TEXT(user->external_id),
                                           PG_TEXT(user->active ? "t" : "f"), PG_TEXT(user->doc)};

    return base_pg_exec(
        pg,
        "UPDATE identity.scim_users SET user_name = $2, external_id = $3, active = $4::boolean, "
        "doc = $5::jsonb, version = version + 1, changed_at = now() WHERE id = $1::uuid",
        params, BASE_ARRAY_LEN(params), NULL, err);
}

enum base_code gw_scim_sql_user_delete(struct base_pg *pg, const char *id, struct base_err *err)
{
    const struct base_pg_param params[] = {PG_TEXT(id)};
    enum base_code rc =
        base_pg_exec(pg,
                     "UPDATE identity.scim_users SET active = false, deleted_at = now(), doc = '{}', "
                     "version = version + 1, changed_at = now() WHERE id = $1::uuid",
                     params, 1, NULL, err);

    if (rc == BASE_OK)
        rc = base_pg_exec(pg, "DELETE FROM identity.scim_members WHERE user_id = $1::uuid", params, 1, NULL,
                          err);
    return rc;
}

/* ---- groups ---- */

static enum base_code members_known(struct base_pg *pg, const struct gw_scim_step *step, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(step->ids)};
    enum base_code rc = base_pg_exec(pg,
                                     "SELECT 1 FROM unnest($1::uuid[]) AS m WHERE NOT EXISTS (SELECT 1 FROM "
                                     "identity.scim_users u WHERE u.id = m AND u.deleted_at IS NULL) LIMIT 1",
                                     params, 1, &rows, err);

    if (rc == BASE_OK && !CHECK("scim.member_known", base_pg_n_rows(rows) == 0))
        rc = base_fail(err, BASE_DENIED, 0, "a member is no user");
    return rc;
}

static enum base_code take_step(struct base_pg *pg, const char *id, const struct gw_scim_step *step,
                                struct base_err *err)
{
    const struct base_pg_param params[] = {PG_TEXT(id), PG_TEXT(step->ids)};
    enum base_code rc = BASE_OK;

    if (step->kind == GW_SCIM_REMOVE)
        return base_pg_exec(
            pg, "DELETE FROM identity.scim_members WHERE group_id = $1::uuid AND user_id = ANY($2::uuid[])",
            params, 2, NULL, err);
    if (step->n > 0)
        rc = members_known(pg, step, err);
    if (rc == BASE_OK && step->kind == GW_SCIM_REPLACE)
        rc = base_pg_exec(
            pg, "DELETE FROM identity.scim_members WHERE group_id = $1::uuid AND user_id <> ALL($2::uuid[])",
            params, 2, NULL, err);
    if (rc == BASE_OK && step->n > 0)
        rc = base_pg_exec(pg,
                          "INSERT INTO identity.scim_members (group_id, user_id) SELECT $1::uuid, u.id "
                          "FROM identity.scim_users u WHERE u.id = ANY($2::uuid[]) AND u.deleted_at IS NULL "
                          "ON CONFLICT DO NOTHING",
                          params, 2, NULL, err);
    return rc;
}

static enum base_code take_steps(struct base_pg *pg, const char *id, const struct gw_scim_group *group,
                                 struct base_err *err)
{
    enum base_code rc = BASE_OK;

    for (size_t i = 0; rc == BASE_OK && i < group->n_steps; i++)
        rc = take_step(pg, id, &group->steps[i], err);
    return rc;
}

enum base_code gw_scim_sql_group_create(struct base_pg *pg, const struct gw_scim_group *group,
                                        char ret_id[GW_SCIM_ID_LEN + 1], struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(group->display_name), PG_TEXT(group->external_id)};
    enum base_code rc = base_pg_exec(
        pg, "INSERT INTO identity.scim_groups (display_name, external_id) VALUES ($1, $2) RETURNING id",
        params, BASE_ARRAY_LEN(params), &rows, err);

    if (rc == BASE_OK)
        rc = returned_id(rows, ret_id, err);
    return rc == BASE_OK ? take_steps(pg, ret_id, group, err) : rc;
}

enum base_code gw_scim_sql_group_update(struct base_pg *pg, const char *id, const struct gw_scim_group *group,
                                        struct base_err *err)
{
    const struct base_pg_param params[] = {
        PG_TEXT(id), PG_TEXT(group->sets_display_name ? "t" : "f"), PG_TEXT(group->display_name),
        PG_TEXT(group->sets_external_id ? "t" : "f"), PG_TEXT(group->external_id)};
    enum base_code rc = base_pg_exec(
        pg,
        "UPDATE identity.scim_groups SET display_name = CASE WHEN $2::boolean THEN $3 ELSE display_name END, "
        "external_id = CASE WHEN $4::boolean THEN $5 ELSE external_id END, version = version + 1, "
        "changed_at = now() WHERE id = $1::uuid",
        params, BASE_ARRAY_LEN(params), NULL, err);

    return rc == BASE_OK ? take_steps(pg, id, group, err) : rc;
}

enum base_code gw_scim_sql_group_delete(struct base_pg *pg, const char *id, struct base_err *err)
{
    const struct base_pg_param params[] = {PG_TEXT(id)};

    return base_pg_exec(pg, "DELETE FROM identity.scim_groups WHERE id = $1::uuid", params, 1, NULL, err);
}
