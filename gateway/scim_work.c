/* SCIM work. See scim_work.h.
 *
 *     begin --> lock, If-Match --> body --> change --> who loses access: revoked --> recorded --> commit --> cut here at once
 *                                                                                       (elsewhere by notification)
 *
 * Invariants:
 *   1. what ends a person's access is in the transaction that changes the person: both or none;
 *   2. the record of a change comes before its commit: what cannot be recorded does not happen;
 *   3. a person who gets another key (is renamed) loses what the old key had.
 */
#include "gateway/scim_work.h"

#include "audit/audit.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/identity_sql.h"
#include "gateway/scim_sql.h"
#include "gateway/tags.h"

#include <stdio.h>
#include <string.h>

#define PAGE_DEFAULT 100
#define PAGE_MAX     200
#define START_MAX    1000000000
#define REVOKED_MAX  2u

struct change {
    struct gw_scim_work *work;
    struct base_pg *pg;
    const char *action;
    struct gw_revocation revoked[REVOKED_MAX];
    unsigned n_revoked;
};

static enum base_code refuse(struct gw_scim_work *w, const char *check, int status, const char *type,
                             const char *detail)
{
    w->error = (struct gw_scim_error){.status = status, .scim_type = type, .detail = detail, .check = check};
    return BASE_DENIED;
}

/* ---- reading ---- */

static enum base_code render(struct gw_scim_work *w, const struct base_pg_rows *rows, unsigned row,
                             struct base_err *err)
{
    struct gw_scim_row one;

    gw_scim_sql_row(rows, row, w->kind, &one);
    if (!gw_scim_render(&w->out, &one, &w->query, w->base_url))
        return base_fail(err, BASE_CORRUPT, 0, "a stored resource cannot be read");
    return BASE_OK;
}

static bool wants_refs(const struct gw_scim_work *w)
{
    return gw_scim_wants(&w->query, w->kind == GW_SCIM_USER ? "groups" : "members");
}

/* The resource as it is now becomes the answer. */
static enum base_code show(struct gw_scim_work *w, struct base_pg *pg, int status, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct gw_scim_row row;
    enum base_code rc = gw_scim_sql_get(pg, w->kind, w->id, wants_refs(w), &rows, err);

    if (rc != BASE_OK)
        return rc;
    gw_scim_sql_row(rows, 0, w->kind, &row);
    snprintf(w->etag, sizeof(w->etag), "W/\"%lld\"", (long long)row.version);
    snprintf(w->location, sizeof(w->location), "%s/%s/%s", w->base_url,
             w->kind == GW_SCIM_USER ? "Users" : "Groups", w->id);
    w->status = status;
    return render(w, rows, 0, err);
}

/* Whether a list of entity tags (RFC 9110 section 8.8.3; "*" for all) has this version. Weak ones count: all of ours are. */
static bool has_tag(const char *list, int64_t version)
{
    char tag[32];
    size_t n;

    snprintf(tag, sizeof(tag), "\"%lld\"", (long long)version);
    n = strlen(tag);
    while (*list != '\0') {
        list += strspn(list, " \t,");
        if (*list == '*')
            return true;
        if (strncmp(list, "W/", 2) == 0)
            list += 2;
        if (strncmp(list, tag, n) == 0 && (list[n] == '\0' || strchr(" \t,", list[n]) != NULL))
            return true;
        list += strcspn(list, ",");
    }
    return false;
}

static enum base_code get(struct gw_scim_work *w, struct base_pg *pg, struct base_err *err)
{
    enum base_code rc = show(w, pg, 200, err);
    int64_t version;

    if (rc != BASE_OK || w->if_none_match[0] == '\0')
        return rc;
    version = strtoll(w->etag + 3, NULL, 10);
    if (has_tag(w->if_none_match, version)) {
        base_buf_reset(&w->out);
        w->status = 304;
    }
    return BASE_OK;
}

static enum base_code list(struct gw_scim_work *w, struct base_pg *pg, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    auto_free struct gw_scim_filter *filter = base_zalloc(sizeof(*filter));
    const struct gw_scim_query *q = &w->query;
    int64_t start = q->start < 1 ? 1 : q->start > START_MAX ? START_MAX : q->start, total = 0;
    int64_t count = q->count < 0 ? PAGE_DEFAULT : q->count;
    enum base_code rc;

    if (count > PAGE_MAX)
        count = PAGE_MAX;
    if (q->filtered && !gw_scim_filter_parse(filter, w->kind, q->filter, strlen(q->filter)))
        return refuse(w, "scim.filter", 400, "invalidFilter", filter->wrong);
    rc = gw_scim_sql_page(pg, w->kind, q->filtered ? filter : NULL, wants_refs(w), start - 1, count, &rows,
                          &total, err);
    if (rc != BASE_OK)
        return rc;
    base_buf_printf(&w->out,
                    "{\"schemas\":[\"urn:ietf:params:scim:api:messages:2.0:ListResponse\"],\"totalResults\":"
                    "%lld,\"startIndex\":%lld,\"itemsPerPage\":%u,\"Resources\":[",
                    (long long)total, (long long)start, base_pg_n_rows(rows));
    for (unsigned i = 0; rc == BASE_OK && i < base_pg_n_rows(rows); i++) {
        if (i > 0)
            base_buf_append_char(&w->out, ',');
        rc = render(w, rows, i, err);
    }
    base_buf_append_str(&w->out, "]}");
    w->status = 200;
    return rc;
}

static enum base_code search(struct gw_scim_work *w, struct base_pg *pg, struct base_err *err)
{
    if (!gw_scim_search_read(&w->query, w->body, w->body_len, &w->error))
        return BASE_DENIED;
    if (w->query.attributes[0] != '\0' && w->query.excluded[0] != '\0')
        return refuse(w, "scim.search", 400, "invalidValue",
                      "attributes and excludedAttributes exclude each other.");
    return list(w, pg, err);
}

/* ---- who loses access ---- */

static enum base_code revoke(struct change *c, const char *key, const char *reason, struct base_err *err)
{
    const struct gw_scim_options *o = c->work->options;
    const struct gw_revoke_new revocation = {.kind = GW_REVOCATION_KEY,
                                             .tag = gw_tag(o->pepper, GW_TAG_DIRECTORY, key, NULL, NULL),
                                             .reason = reason,
                                             .keep_s = o->keep_s,
                                             .key_subject = key};
    enum base_code rc = gw_sql_revoke(c->pg, &revocation, &c->revoked[c->n_revoked], err);

    if (rc == BASE_OK)
        c->n_revoked++;
    return rc;
}

/* before: NULL for a new user; after: NULL for one who is deleted. */
static enum base_code revoke_lost(struct change *c, const struct gw_scim_locked *before,
                                  const struct gw_scim_user *after, struct base_err *err)
{
    bool external = c->work->key_is_external_id;
    const char *old_key = before == NULL ? NULL : external ? before->external_id : before->user_name;
    const char *new_key = after == NULL ? NULL : external ? after->external_id : after->user_name;
    bool renamed = (old_key == NULL) != (new_key == NULL) ||
                   (old_key != NULL && new_key != NULL && !gw_scim_same(old_key, new_key));
    bool was_active = before != NULL && before->active;
    enum base_code rc = BASE_OK;

    if (old_key != NULL && (after == NULL || (was_active && renamed)))
        rc = revoke(c, old_key, after == NULL ? "deleted by SCIM" : "renamed by SCIM", err);
    if (rc == BASE_OK && new_key != NULL && !after->active && (before == NULL || was_active || renamed))
        rc = revoke(c, new_key, "deactivated by SCIM", err);
    return rc;
}

/* ---- changes ---- */

static enum base_code create_user(struct change *c, struct base_err *err)
{
    struct gw_scim_work *w = c->work;
    struct gw_scim_user user;
    enum base_code rc;

    if (!gw_scim_user_read(&user, NULL, w->body, w->body_len, &w->error))
        return BASE_DENIED;
    c->action = "scim.user.create";
    rc = gw_scim_sql_user_create(c->pg, &user, w->id, err);
    if (rc == BASE_OK)
        rc = revoke_lost(c, NULL, &user, err);
    gw_scim_user_free(&user);
    return rc == BASE_OK ? show(w, c->pg, 201, err) : rc;
}

static enum base_code change_user(struct change *c, const struct gw_scim_locked *before, struct base_err *err)
{
    struct gw_scim_work *w = c->work;
    bool put = w->method == GW_SCIM_PUT;
    struct gw_scim_user user;
    enum base_code rc;

    if (!(put ? gw_scim_user_read : gw_scim_user_patch)(&user, before->doc, w->body, w->body_len, &w->error))
        return BASE_DENIED;
    c->action = before->active && !user.active   ? "scim.user.deactivate"
                : !before->active && user.active ? "scim.user.activate"
                : put                            ? "scim.user.replace"
                                                 : "scim.user.patch";
    rc = gw_scim_sql_user_update(c->pg, w->id, &user, err);
    if (rc == BASE_OK)
        rc = revoke_lost(c, before, &user, err);
    gw_scim_user_free(&user);
    return rc == BASE_OK ? show(w, c->pg, 200, err) : rc;
}

static enum base_code create_group(struct change *c, struct base_err *err)
{
    struct gw_scim_work *w = c->work;
    struct gw_scim_group group;
    enum base_code rc;

    if (!gw_scim_group_read(&group, w->body, w->body_len, &w->error))
        return BASE_DENIED;
    c->action = "scim.group.create";
    rc = gw_scim_sql_group_create(c->pg, &group, w->id, err);
    gw_scim_group_free(&group);
    return rc == BASE_OK ? show(w, c->pg, 201, err) : rc;
}

static enum base_code change_group(struct change *c, struct base_err *err)
{
    struct gw_scim_work *w = c->work;
    bool put = w->method == GW_SCIM_PUT;
    struct gw_scim_group group;
    enum base_code rc;

    if (!(put ? gw_scim_group_read : gw_scim_group_patch)(&group, w->body, w->body_len, &w->error))
        return BASE_DENIED;
    c->action = put ? "scim.group.replace" : "scim.group.patch";
    rc = gw_scim_sql_group_update(c->pg, w->id, &group, err);
    gw_scim_group_free(&group);
    if (rc == BASE_OK && put)
        return show(w, c->pg, 200, err);
    w->status = 204; /* a patch of a large group: its members are not sent back */
    return rc;
}

static enum base_code delete_it(struct change *c, const struct gw_scim_locked *before, struct base_err *err)
{
    struct gw_scim_work *w = c->work;
    bool user = w->kind == GW_SCIM_USER;
    enum base_code rc =
        user ? gw_scim_sql_user_delete(c->pg, w->id, err) : gw_scim_sql_group_delete(c->pg, w->id, err);

    c->action = user ? "scim.user.delete" : "scim.group.delete";
    w->status = 204;
    return rc == BASE_OK && user ? revoke_lost(c, before, NULL, err) : rc;
}

static enum base_code change_known(struct change *c, struct base_err *err)
{
    struct gw_scim_work *w = c->work;
    struct gw_scim_locked before = {0};
    enum base_code rc = gw_scim_sql_lock(c->pg, w->kind, w->id, &before, err);

    if (rc != BASE_OK)
        return rc;
    if (w->if_match[0] != '\0' && !CHECK("scim.if_match", has_tag(w->if_match, before.version)))
        rc = refuse(w, "scim.if_match", 412, NULL, "The resource has been changed meanwhile.");
    else if (w->method == GW_SCIM_DELETE)
        rc = delete_it(c, &before, err);
    else
        rc = w->kind == GW_SCIM_USER ? change_user(c, &before, err) : change_group(c, err);
    base_pg_rows_free(before.rows);
    return rc;
}

static enum base_code record(const struct change *c, struct base_err *err)
{
    const struct gw_scim_work *w = c->work;
    const struct aud_record record = {
        .kind = AUD_EVENT,
        .action = c->action,
        .target = w->id,
        .issuer = w->issuer,
        .subject = w->subject,
        .auth_method = w->auth_method,
        .credential_id = w->credential_id,
        .tenant = "default",
        .status = "ok",
    };

    return aud_append(w->options->audit, &record, NULL, NULL, err);
}

static enum base_code write(struct gw_scim_work *w, struct base_pg *pg, struct base_err *err)
{
    struct change c = {.work = w, .pg = pg};
    enum base_code rc = gw_scim_sql_begin(pg, err);

    if (rc != BASE_OK)
        return rc;
    if (w->method == GW_SCIM_POST)
        rc = w->kind == GW_SCIM_USER ? create_user(&c, err) : create_group(&c, err);
    else
        rc = change_known(&c, err);
    if (rc == BASE_DENIED && w->error.status == 0) /* a member who is no user */
        rc = refuse(w, "scim.member_known", 400, "invalidValue", "A member is no user that is here.");
    if (rc == BASE_OK && w->out.failed)
        rc = refuse(w, "scim.answer", 400, "tooMany", "The answer would be too large.");
    if (rc == BASE_OK)
        rc = record(&c, err);
    if (rc == BASE_OK)
        rc = gw_scim_sql_commit(pg, err);
    if (rc != BASE_OK) {
        gw_scim_sql_rollback(pg);
        return rc;
    }
    for (unsigned i = 0; i < c.n_revoked; i++)
        gw_revocations_add(w->options->revocations, &c.revoked[i], base_wall_us());
    return BASE_OK;
}

enum base_code gw_scim_work(struct base_pg *pg, void *arg, struct base_err *err)
{
    struct gw_scim_work *w = arg;
    enum base_code rc = BASE_OK;

    switch (w->method) {
    case GW_SCIM_GET: rc = get(w, pg, err); break;
    case GW_SCIM_LIST: rc = list(w, pg, err); break;
    case GW_SCIM_SEARCH: rc = search(w, pg, err); break;
    case GW_SCIM_POST:
    case GW_SCIM_PUT:
    case GW_SCIM_PATCH:
    case GW_SCIM_DELETE: rc = write(w, pg, err); break;
    }
    if (rc == BASE_OK && w->out.failed)
        rc =
            refuse(w, "scim.answer", 400, "tooMany", "The answer would be too large: ask for fewer at once.");
    return rc;
}
