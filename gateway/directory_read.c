/* Directory: the rows that changed, or all, from the database into items. See directory_priv.h. */
#include "gateway/directory_priv.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define CHANGES_MAX 20000u /* more at once: everything is read */
#define PAGE        10000u /* persons in one statement, so that it ends in time however many there are */
#define IDS_MAX     (CHANGES_MAX * GW_DIR_ID_BYTES + 3u)
#define NOBODY      "00000000-0000-0000-0000-000000000000"

static size_t text_bytes(const char *text)
{
    return text != NULL ? strlen(text) + 1 : 0;
}

static const struct gw_dir_group *group_make(const struct base_pg_rows *rows, unsigned row, uint32_t slot)
{
    const char *name = base_pg_text(rows, row, 1), *external_id = base_pg_text(rows, row, 2);
    struct gw_dir_group *group = base_zalloc(sizeof(*group) + text_bytes(name) + text_bytes(external_id));
    char *place = group->text;

    snprintf(group->id, sizeof(group->id), "%s", base_pg_text(rows, row, 0));
    group->slot = slot;
    gw_dir_put_text(&place, name, false);
    group->external_id = gw_dir_put_text(&place, external_id, false);
    return group;
}

/* Rows first to end of `members` are the person's. */
static const struct gw_dir_person *person_make(const struct gw_dir_change *change,
                                               const struct base_pg_rows *users, unsigned row,
                                               const struct base_pg_rows *members, unsigned first,
                                               unsigned end)
{
    const char *name = base_pg_text(users, row, 1), *external_id = base_pg_text(users, row, 2);
    size_t slots_bytes = (end - first) * sizeof(uint32_t);
    struct gw_dir_person *person =
        base_zalloc(sizeof(*person) + slots_bytes + text_bytes(name) + text_bytes(external_id));
    char *place = (char *)person->slots + slots_bytes;

    snprintf(person->id, sizeof(person->id), "%s", base_pg_text(users, row, 0));
    person->user_name = gw_dir_put_text(&place, name, true);
    person->external_id = gw_dir_put_text(&place, external_id, true);
    person->active = strcmp(base_pg_text(users, row, 3), "t") == 0;
    person->deleted = strcmp(base_pg_text(users, row, 4), "t") == 0;
    for (unsigned i = first; i < end; i++) {
        const struct gw_dir_group *group = gw_dir_find(&change->new_groups, base_pg_text(members, i, 1));

        if (group != NULL) /* a foreign key says that it is there */
            person->slots[person->n_slots++] = group->slot;
    }
    return person;
}

enum base_code gw_dir_read_version(struct base_pg *pg, struct gw_dir_version *ret_version, int64_t *ret_from,
                                   struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    enum base_code rc =
        base_pg_exec(pg,
                     "SELECT version, (extract(epoch FROM at) * 1000000)::bigint FROM identity.versions "
                     "WHERE name IN ('scim', 'scim_from') ORDER BY name",
                     NULL, 0, &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) != 2)
        return base_fail(err, BASE_CORRUPT, 0, "identity.versions has no rows scim and scim_from");
    ret_version->number = base_pg_int(rows, 0, 0);
    ret_version->at_us = base_pg_int(rows, 0, 1);
    *ret_from = base_pg_int(rows, 1, 0);
    return BASE_OK;
}

/* What we have of a row that changed goes. */
static void take_id(struct gw_dir_change *change, enum gw_dir_kind kind, const char *id)
{
    struct base_buf *ids = &change->ids[kind];
    const void *item;

    base_buf_printf(ids, "%s%s", ids->len > 1 ? "," : "", id);
    if (kind == GW_DIR_GROUP_ENDED)
        return;
    item = gw_dir_find(kind == GW_DIR_GROUP ? &change->from->groups : &change->from->persons, id);
    if (item != NULL)
        gw_dir_edit(kind == GW_DIR_GROUP ? &change->groups : &change->persons, item, false);
}

/* Which rows changed since a version. *ret_n: how many; past CHANGES_MAX nothing is noted. */
static enum base_code read_ids(struct gw_dir_change *change, int64_t since, struct base_pg *pg,
                               unsigned *ret_n, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    char since_text[24], limit[24];
    const struct base_pg_param params[] = {PG_TEXT(since_text), PG_TEXT(limit)};
    enum base_code rc;

    snprintf(since_text, sizeof(since_text), "%lld", (long long)since);
    snprintf(limit, sizeof(limit), "%u", CHANGES_MAX + 1);
    rc = base_pg_exec(
        pg, "SELECT DISTINCT kind, id FROM identity.scim_changes WHERE version > $1::bigint LIMIT $2::int",
        params, BASE_ARRAY_LEN(params), &rows, err);
    if (rc != BASE_OK)
        return rc;
    *ret_n = base_pg_n_rows(rows);
    if (*ret_n > CHANGES_MAX)
        return BASE_OK;
    for (size_t i = 0; i < BASE_ARRAY_LEN(change->ids); i++)
        base_buf_init(&change->ids[i], IDS_MAX);
    base_buf_append_char(&change->ids[GW_DIR_PERSON], '{');
    base_buf_append_char(&change->ids[GW_DIR_GROUP], '{');
    for (unsigned i = 0; i < *ret_n; i++) {
        int64_t kind = base_pg_int(rows, i, 0);

        if (kind < GW_DIR_PERSON || kind > GW_DIR_GROUP_ENDED)
            return base_fail(err, BASE_CORRUPT, 0, "identity.scim_changes has a row of another kind");
        take_id(change, (enum gw_dir_kind)kind, base_pg_text(rows, i, 1));
    }
    base_buf_append_char(&change->ids[GW_DIR_PERSON], '}');
    base_buf_append_char(&change->ids[GW_DIR_GROUP], '}');
    return BASE_OK;
}

/* The slot of a group that is there; a new one when it was not, or not all the time: its old members do not come back with its id. */
static uint32_t slot_of(struct gw_dir_change *change, const char *id)
{
    const char *ended = change->ids[GW_DIR_GROUP_ENDED].data;
    const struct gw_dir_group *was = change->from != NULL ? gw_dir_find(&change->from->groups, id) : NULL;

    if (was == NULL || (ended != NULL && strstr(ended, id) != NULL))
        return change->n_slots++;
    return was->slot;
}

/* The groups that changed, or all, come. */
static enum base_code read_groups(struct gw_dir_change *change, struct base_pg *pg, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(change->ids[GW_DIR_GROUP].data)};
    enum base_code rc = base_pg_exec(pg,
                                     "SELECT id, display_name, external_id FROM identity.scim_groups "
                                     "WHERE $1::uuid[] IS NULL OR id = ANY($1::uuid[])",
                                     params, BASE_ARRAY_LEN(params), &rows, err);

    if (rc != BASE_OK)
        return rc;
    change->n_slots = change->from != NULL ? change->from->n_slots : 0;
    for (unsigned i = 0; i < base_pg_n_rows(rows); i++)
        gw_dir_edit(&change->groups, group_make(rows, i, slot_of(change, base_pg_text(rows, i, 0))), true);
    gw_dir_merge_groups(change);
    return BASE_OK;
}

/* Both in the order of the user's id. */
static void take_persons(struct gw_dir_change *change, const struct base_pg_rows *users,
                         const struct base_pg_rows *members)
{
    unsigned n_members = base_pg_n_rows(members), end = 0;

    for (unsigned i = 0; i < base_pg_n_rows(users); i++) {
        const char *id = base_pg_text(users, i, 0);
        unsigned first = end;

        while (end < n_members && strcmp(base_pg_text(members, end, 0), id) == 0)
            end++;
        gw_dir_edit(&change->persons, person_make(change, users, i, members, first, end), true);
    }
}

/* The persons that changed, or all, come. */
static enum base_code read_persons(struct gw_dir_change *change, struct base_pg *pg, struct base_err *err)
{
    char after[GW_DIR_ID_BYTES] = NOBODY, last[GW_DIR_ID_BYTES], limit[24];
    const char *ids = change->ids[GW_DIR_PERSON].data;
    unsigned n;

    snprintf(limit, sizeof(limit), "%u", PAGE);
    do {
        auto_pg_rows struct base_pg_rows *users = NULL, *members = NULL;
        const struct base_pg_param page[] = {PG_TEXT(ids), PG_TEXT(after), PG_TEXT(limit)};
        const struct base_pg_param theirs[] = {PG_TEXT(ids), PG_TEXT(after), PG_TEXT(last)};
        enum base_code rc = base_pg_exec(
            pg,
            "SELECT id, user_name, external_id, active, deleted_at IS NOT NULL FROM identity.scim_users "
            "WHERE ($1::uuid[] IS NULL OR id = ANY($1::uuid[])) AND id > $2::uuid ORDER BY id LIMIT $3::int",
            page, BASE_ARRAY_LEN(page), &users, err);

        if (rc != BASE_OK)
            return rc;
        n = base_pg_n_rows(users);
        if (n == 0)
            return BASE_OK;
        snprintf(last, sizeof(last), "%s", base_pg_text(users, n - 1, 0));
        rc = base_pg_exec(pg,
                          "SELECT user_id, group_id FROM identity.scim_members "
                          "WHERE ($1::uuid[] IS NULL OR user_id = ANY($1::uuid[])) AND user_id > $2::uuid "
                          "AND user_id <= $3::uuid ORDER BY user_id",
                          theirs, BASE_ARRAY_LEN(theirs), &members, err);
        if (rc != BASE_OK)
            return rc;
        take_persons(change, users, members);
        memcpy(after, last, sizeof(after));
    } while (n == PAGE);
    return BASE_OK;
}

enum base_code gw_dir_read_change(struct gw_dir_change *change, const struct gw_dir_snapshot *now,
                                  const struct gw_dir_version *have, struct base_pg *pg, struct base_err *err)
{
    unsigned n = 0;
    int64_t from = 0;
    enum base_code rc = gw_dir_read_version(pg, &change->version, &from, err);

    if (rc == BASE_OK && now != NULL && from <= have->number && have->number <= change->version.number) {
        change->from = now;
        rc = read_ids(change, have->number, pg, &n, err);
        if (n > CHANGES_MAX)
            change->from = NULL;
    }
    if (rc == BASE_OK)
        rc = read_groups(change, pg, err);
    if (rc == BASE_OK)
        rc = read_persons(change, pg, err);
    return rc;
}
