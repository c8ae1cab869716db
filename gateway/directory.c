/* Directory. See directory.h.
 *
 * Invariants:
 *   1. `now` is replaced, never changed; a reader takes a reference under the lock;
 *   2. the version is read before the rows: rows newer than their version are loaded once more, never too seldom.
 *
 * A group that was made between two of the queries is missing for that one snapshot; its version brings the next.
 */
#include "gateway/directory.h"

#include "base/mem.h"
#include "base/pg.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

struct group {
    const char *id, *name, *external_id; /* external_id: NULL for none; all of `groups` rows */
};
struct person {
    char *user_name, *external_id; /* folded; external_id: NULL for none */
    bool active, deleted;
    size_t first, n; /* of members */
};
struct snapshot {
    atomic_int refs;
    int64_t version;
    struct base_pg_rows *group_rows;
    struct group *groups; /* by id */
    size_t n_groups;
    struct person *persons;
    size_t n_persons;
    uint32_t *members;                            /* indexes of groups */
    const struct person **by_name, **by_external; /* by key, the one that counts first */
    size_t n_external;
};

struct gw_directory {
    pthread_mutex_t lock; /* now */
    struct snapshot *now;
    atomic_bool use_external_id;
    _Atomic uint64_t generation;
};

static char *fold(const char *text)
{
    char *folded = text != NULL ? base_strdup(text) : NULL;

    for (char *c = folded; c != NULL && *c != '\0'; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c + ('a' - 'A'));
    return folded;
}

static void snapshot_unref(struct snapshot *s)
{
    if (s == NULL || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    for (size_t i = 0; i < s->n_persons; i++) {
        free(s->persons[i].user_name);
        free(s->persons[i].external_id);
    }
    base_pg_rows_free(s->group_rows);
    free(s->groups);
    free(s->persons);
    free(s->members);
    free(s->by_name);
    free(s->by_external);
    free(s);
}

static struct snapshot *snapshot_now(struct gw_directory *directory)
{
    struct snapshot *s;

    pthread_mutex_lock(&directory->lock);
    s = directory->now;
    if (s != NULL)
        atomic_fetch_add(&s->refs, 1);
    pthread_mutex_unlock(&directory->lock);
    return s;
}

/* ---- loading ---- */

/* Who is there counts before who was deleted under the same name; the unique indexes see to it that there is one such. */
static int compare_state(const struct person *a, const struct person *b)
{
    return (int)a->deleted - (int)b->deleted;
}

static int compare_name(const void *a, const void *b)
{
    const struct person *x = *(const struct person *const *)a, *y = *(const struct person *const *)b;
    int order = strcmp(x->user_name, y->user_name);

    return order != 0 ? order : compare_state(x, y);
}

static int compare_external(const void *a, const void *b)
{
    const struct person *x = *(const struct person *const *)a, *y = *(const struct person *const *)b;
    int order = strcmp(x->external_id, y->external_id);

    return order != 0 ? order : compare_state(x, y);
}

static int compare_group(const void *id, const void *group)
{
    return strcmp(id, ((const struct group *)group)->id);
}

static void fill_groups(struct snapshot *s)
{
    s->n_groups = base_pg_n_rows(s->group_rows);
    s->groups = base_zalloc((s->n_groups + 1) * sizeof(*s->groups));
    for (unsigned i = 0; i < s->n_groups; i++)
        s->groups[i] = (struct group){.id = base_pg_text(s->group_rows, i, 0),
                                      .name = base_pg_text(s->group_rows, i, 1),
                                      .external_id = base_pg_text(s->group_rows, i, 2)};
}

/* users and members are both in the order of the user's id. */
static void fill_persons(struct snapshot *s, const struct base_pg_rows *users,
                         const struct base_pg_rows *members)
{
    unsigned n_members = base_pg_n_rows(members), at = 0;
    size_t kept = 0;

    s->n_persons = base_pg_n_rows(users);
    s->persons = base_zalloc((s->n_persons + 1) * sizeof(*s->persons));
    s->members = base_zalloc(((size_t)n_members + 1) * sizeof(*s->members));
    s->by_name = base_zalloc((s->n_persons + 1) * sizeof(struct person *));
    s->by_external = base_zalloc((s->n_persons + 1) * sizeof(struct person *));
    for (unsigned i = 0; i < s->n_persons; i++) {
        struct person *person = &s->persons[i];
        const char *id = base_pg_text(users, i, 0);

        person->user_name = fold(base_pg_text(users, i, 1));
        person->external_id = fold(base_pg_text(users, i, 2));
        person->active = strcmp(base_pg_text(users, i, 3), "t") == 0;
        person->deleted = strcmp(base_pg_text(users, i, 4), "t") == 0;
        person->first = kept;
        while (at < n_members && strcmp(base_pg_text(members, at, 0), id) < 0)
            at++;
        for (; at < n_members && strcmp(base_pg_text(members, at, 0), id) == 0; at++) {
            const struct group *group = bsearch(base_pg_text(members, at, 1), s->groups, s->n_groups,
                                                sizeof(*s->groups), compare_group);

            if (group != NULL)
                s->members[kept++] = (uint32_t)(group - s->groups);
        }
        person->n = kept - person->first;
        s->by_name[i] = person;
        if (person->external_id != NULL)
            s->by_external[s->n_external++] = person;
    }
    qsort(s->by_name, s->n_persons, sizeof(struct person *), compare_name);
    qsort(s->by_external, s->n_external, sizeof(struct person *), compare_external);
}

static enum base_code load(struct snapshot *s, struct base_pg *pg, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *users = NULL, *members = NULL;
    enum base_code rc =
        base_pg_exec(pg, "SELECT id, display_name, external_id FROM identity.scim_groups ORDER BY id", NULL,
                     0, &s->group_rows, err);

    if (rc == BASE_OK)
        rc = base_pg_exec(pg,
                          "SELECT id, user_name, external_id, active, deleted_at IS NOT NULL "
                          "FROM identity.scim_users ORDER BY id",
                          NULL, 0, &users, err);
    if (rc == BASE_OK)
        rc = base_pg_exec(pg, "SELECT user_id, group_id FROM identity.scim_members ORDER BY user_id", NULL, 0,
                          &members, err);
    if (rc != BASE_OK)
        return rc;
    fill_groups(s);
    fill_persons(s, users, members);
    return BASE_OK;
}

enum base_code gw_directory_refresh(struct gw_directory *directory, struct base_pg *pg, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct snapshot *s, *old;
    int64_t version;
    enum base_code rc =
        base_pg_exec(pg, "SELECT version FROM identity.versions WHERE name = 'scim'", NULL, 0, &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) != 1)
        return base_fail(err, BASE_CORRUPT, 0, "identity.versions has no row scim");
    version = base_pg_int(rows, 0, 0);
    if (directory->now != NULL && directory->now->version == version) /* only we replace it */
        return BASE_OK;
    s = base_zalloc(sizeof(*s));
    atomic_init(&s->refs, 1);
    s->version = version;
    rc = load(s, pg, err);
    if (rc != BASE_OK) {
        snapshot_unref(s);
        return rc;
    }
    pthread_mutex_lock(&directory->lock);
    old = directory->now;
    directory->now = s;
    pthread_mutex_unlock(&directory->lock);
    atomic_fetch_add(&directory->generation, 1);
    snapshot_unref(old);
    return BASE_OK;
}

/* ---- asking ---- */

/* The first of those under the key: the one that is there. */
static const struct person *search(const struct person *const *list, size_t n, const char *key, bool external)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *name = external ? list[middle]->external_id : list[middle]->user_name;

        if (strcmp(name, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == n || strcmp(external ? list[low]->external_id : list[low]->user_name, key) != 0)
        return NULL;
    return list[low];
}

enum gw_person_state gw_directory_find(struct gw_directory *directory, const char *key,
                                       void (*each)(const char *group, void *user), void *user)
{
    bool external = atomic_load(&directory->use_external_id);
    enum gw_person_state state = GW_PERSON_UNKNOWN;
    struct snapshot *s = snapshot_now(directory);
    const struct person *person;
    char *folded;

    if (s == NULL || key[0] == '\0') {
        snapshot_unref(s);
        return GW_PERSON_UNKNOWN;
    }
    folded = fold(key);
    person = search(external ? s->by_external : s->by_name, external ? s->n_external : s->n_persons, folded,
                    external);
    if (person != NULL)
        state = person->active ? GW_PERSON_ACTIVE : GW_PERSON_DEACTIVATED;
    for (size_t i = 0; state == GW_PERSON_ACTIVE && each != NULL && i < person->n; i++) {
        const struct group *group = &s->groups[s->members[person->first + i]];

        each(group->name, user);
        if (group->external_id != NULL)
            each(group->external_id, user);
    }
    free(folded);
    snapshot_unref(s);
    return state;
}

uint64_t gw_directory_version(struct gw_directory *directory)
{
    return atomic_load(&directory->generation);
}

/* ---- life ---- */

struct gw_directory *gw_directory_new(void)
{
    struct gw_directory *directory = base_zalloc(sizeof(*directory));

    pthread_mutex_init(&directory->lock, NULL);
    return directory;
}

void gw_directory_free(struct gw_directory *directory)
{
    if (directory == NULL)
        return;
    snapshot_unref(directory->now);
    pthread_mutex_destroy(&directory->lock);
    free(directory);
}

void gw_directory_use_external_id(struct gw_directory *directory, bool external_id)
{
    atomic_store(&directory->use_external_id, external_id);
}
