/* Directory. See directory.h.
 *
 *     version is another --> one transaction, one moment: what changed since ours --> those rows --> a new snapshot --> now
 *                                                         (or: everything)
 *
 * Invariants:
 *   1. `now` is replaced, never changed; a reader takes a reference under the lock;
 *   2. a snapshot is what the database held at `version`: all of it is read in one transaction that sees one moment, and versions
 *      become visible in their order (migrations/0023_scim_changes.sql says how), so that "newer than mine" misses no change;
 *   3. a snapshot shares what did not change with the one that was made from it, and keeps a reference to that one: they end oldest
 *      first, and what only the ending one still has goes with it. Nothing in them is counted but the snapshots;
 *   4. a group keeps its slot while it is there, and nobody gets it afterwards: memberships of a deleted group lead nowhere.
 */
#include "gateway/directory.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/pg.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define ID_BYTES    37u    /* a UUID as Postgres writes it: sorted as text it is sorted as its 16 bytes */
#define CHANGES_MAX 20000u /* more at once: everything is read */
#define PAGE        10000  /* persons in one statement, so that it ends in time however many there are */
#define IDS_MAX     (CHANGES_MAX * ID_BYTES + 3u)
#define NOBODY      "00000000-0000-0000-0000-000000000000"

/* As stored in identity.scim_changes: never renumber. */
enum kind { PERSON = 1, GROUP = 2 };

struct group {
    char id[ID_BYTES]; /* first, as in struct person: compare_id */
    uint32_t slot;
    const char *external_id; /* NULL: none; in text */
    char text[];             /* the name */
};
struct person {
    char id[ID_BYTES];
    bool active, deleted;
    const char *user_name, *external_id; /* folded, behind the slots; external_id: NULL for none */
    size_t n_slots;
    uint32_t slots[]; /* of groups */
};
struct list {
    const void **items; /* in one of the orders below */
    size_t n;
};
struct snapshot {
    atomic_int refs;
    struct list groups, persons;      /* by id */
    struct list by_name, by_external; /* persons, the one that counts first */
    const struct group **slots;       /* NULL: deleted */
    uint32_t n_slots;
    struct snapshot *next; /* made from this one; NULL: nothing is shared */
    struct list gone;      /* what this one has and `next` has not */
};

struct gw_directory {
    pthread_mutex_t lock; /* now */
    struct snapshot *now;
    atomic_bool use_external_id;

    /* the watcher's own */
    int64_t version;
    uint64_t whole_reads;
};

/* ---- snapshots ---- */

static void free_items(const struct list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free((void *)list->items[i]);
}

static void snapshot_unref(struct snapshot *s)
{
    while (s != NULL && atomic_fetch_sub(&s->refs, 1) == 1) {
        struct snapshot *next = s->next;

        if (next == NULL) {
            free_items(&s->groups);
            free_items(&s->persons);
        }
        free_items(&s->gone);
        free(s->groups.items);
        free(s->persons.items);
        free(s->by_name.items);
        free(s->by_external.items);
        free(s->slots);
        free(s->gone.items);
        free(s);
        s = next;
    }
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

/* ---- orders ---- */

typedef int compare_fn(const void *a, const void *b); /* pointers to items; 0: of the same row */

static int compare_id(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Who is there counts before who was deleted under the same name; the unique indexes see to it that there is one such. */
static int compare_state(const struct person *a, const struct person *b)
{
    return a->deleted != b->deleted ? (int)a->deleted - (int)b->deleted : strcmp(a->id, b->id);
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

static size_t lower_bound(const struct list *list, const void *item, compare_fn *compare)
{
    size_t low = 0, high = list->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (compare(&list->items[middle], &item) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const void *find_id(const struct list *list, const char *id)
{
    size_t at = lower_bound(list, id, compare_id);

    return at < list->n && strcmp(list->items[at], id) == 0 ? list->items[at] : NULL;
}

/* ---- changing ---- */

struct edit {
    const void *item; /* first: an edit is compared as an item */
    bool comes;       /* else it goes */
};
struct edits {
    struct edit *at;
    size_t n, room;
};
/* A snapshot in the making. Owns the items that come. */
struct change {
    int64_t version;
    const struct snapshot *from;
    struct base_buf ids[3]; /* by kind, those that changed, as an array of Postgres; empty: all */
    struct edits groups, persons;
    struct list new_groups; /* by id */
    uint32_t n_slots;
};

static const struct snapshot nothing;

static void add_edit(struct edits *edits, const void *item, bool comes)
{
    if (edits->n == edits->room) {
        edits->room = edits->room * 2 + 16;
        edits->at = base_realloc(edits->at, edits->room * sizeof(*edits->at));
    }
    edits->at[edits->n++] = (struct edit){.item = item, .comes = comes};
}

static void append(struct list *list, const struct list *from, size_t first, size_t end)
{
    if (first >= end)
        return;
    memcpy(&list->items[list->n], &from->items[first], (end - first) * sizeof(*list->items));
    list->n += end - first;
}

/* The list with the edits: whole runs of pointers are copied between them. */
static struct list merge(const struct list *from, const struct edits *edits, compare_fn *compare)
{
    struct list list = {.items = base_alloc((from->n + edits->n + 1) * sizeof(*list.items))};
    size_t at = 0;

    if (edits->n > 0)
        qsort(edits->at, edits->n, sizeof(*edits->at), compare);
    for (size_t i = 0; i < edits->n; i++) {
        size_t place = lower_bound(from, edits->at[i].item, compare);

        append(&list, from, at, place);
        if (place > at)
            at = place; /* else what went there was the same row */
        if (edits->at[i].comes)
            list.items[list.n++] = edits->at[i].item;
        else
            at = place + 1;
    }
    append(&list, from, at, from->n);
    return list;
}

static struct list merge_external(const struct list *from, const struct edits *edits)
{
    struct edits some = {.n = 0};
    struct list list;

    for (size_t i = 0; i < edits->n; i++)
        if (((const struct person *)edits->at[i].item)->external_id != NULL)
            add_edit(&some, edits->at[i].item, edits->at[i].comes);
    list = merge(from, &some, compare_external);
    free(some.at);
    return list;
}

static void change_free(struct change *change)
{
    const struct edits *const all[] = {&change->groups, &change->persons};

    for (size_t i = 0; i < BASE_ARRAY_LEN(all); i++) {
        for (size_t k = 0; k < all[i]->n; k++)
            if (all[i]->at[k].comes)
                free((void *)all[i]->at[k].item);
        free(all[i]->at);
    }
    for (size_t i = 0; i < BASE_ARRAY_LEN(change->ids); i++)
        base_buf_free(&change->ids[i]);
    free(change->new_groups.items);
}

/* Hands all that comes to the snapshot, and what goes to `gone`. */
static void settle(struct edits *edits, struct list *gone)
{
    for (size_t i = 0; i < edits->n; i++)
        if (!edits->at[i].comes)
            gone->items[gone->n++] = edits->at[i].item;
    edits->n = 0;
}

static struct snapshot *snapshot_make(struct change *change, struct list *gone)
{
    const struct snapshot *from = change->from;
    struct snapshot *s = base_zalloc(sizeof(*s));

    atomic_init(&s->refs, 1);
    s->groups = change->new_groups;
    change->new_groups = (struct list){0};
    s->n_slots = change->n_slots;
    s->slots = base_zalloc(((size_t)s->n_slots + 1) * sizeof(*s->slots));
    for (size_t i = 0; i < s->groups.n; i++) {
        const struct group *group = s->groups.items[i];

        s->slots[group->slot] = group;
    }
    s->persons = merge(&from->persons, &change->persons, compare_id);
    s->by_name = merge(&from->by_name, &change->persons, compare_name);
    s->by_external = merge_external(&from->by_external, &change->persons);
    gone->items = base_alloc((change->groups.n + change->persons.n + 1) * sizeof(*gone->items));
    settle(&change->groups, gone);
    settle(&change->persons, gone);
    return s;
}

/* ---- reading ---- */

/* Copies a text, folded when asked, to where *place says, and moves that on. NULL: none. */
static const char *put_text(char **place, const char *text, bool fold)
{
    char *out = *place;

    if (text == NULL)
        return NULL;
    *place += strlen(text) + 1;
    for (char *to = out; (*to = *text) != '\0'; to++, text++)
        if (fold && *to >= 'A' && *to <= 'Z')
            *to = (char)(*to + ('a' - 'A'));
    return out;
}

static size_t text_bytes(const char *text)
{
    return text != NULL ? strlen(text) + 1 : 0;
}

static const struct group *group_make(const struct base_pg_rows *rows, unsigned row, uint32_t slot)
{
    const char *name = base_pg_text(rows, row, 1), *external_id = base_pg_text(rows, row, 2);
    struct group *group = base_zalloc(sizeof(*group) + text_bytes(name) + text_bytes(external_id));
    char *place = group->text;

    snprintf(group->id, sizeof(group->id), "%s", base_pg_text(rows, row, 0));
    group->slot = slot;
    put_text(&place, name, false);
    group->external_id = put_text(&place, external_id, false);
    return group;
}

/* Rows first to end of `members` are the person's. */
static const struct person *person_make(const struct change *change, const struct base_pg_rows *users,
                                        unsigned row, const struct base_pg_rows *members, unsigned first,
                                        unsigned end)
{
    const char *name = base_pg_text(users, row, 1), *external_id = base_pg_text(users, row, 2);
    size_t slots_bytes = (end - first) * sizeof(uint32_t);
    struct person *person =
        base_zalloc(sizeof(*person) + slots_bytes + text_bytes(name) + text_bytes(external_id));
    char *place = (char *)person->slots + slots_bytes;

    snprintf(person->id, sizeof(person->id), "%s", base_pg_text(users, row, 0));
    person->user_name = put_text(&place, name, true);
    person->external_id = put_text(&place, external_id, true);
    person->active = strcmp(base_pg_text(users, row, 3), "t") == 0;
    person->deleted = strcmp(base_pg_text(users, row, 4), "t") == 0;
    for (unsigned i = first; i < end; i++) {
        const struct group *group = find_id(&change->new_groups, base_pg_text(members, i, 1));

        if (group != NULL) /* a foreign key says that it is there */
            person->slots[person->n_slots++] = group->slot;
    }
    return person;
}

/* The present version, and the one since which scim_changes is complete. */
static enum base_code read_version(struct base_pg *pg, int64_t *ret_version, int64_t *ret_from,
                                   struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    enum base_code rc = base_pg_exec(
        pg, "SELECT version FROM identity.versions WHERE name IN ('scim', 'scim_from') ORDER BY name", NULL,
        0, &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) != 2)
        return base_fail(err, BASE_CORRUPT, 0, "identity.versions has no rows scim and scim_from");
    *ret_version = base_pg_int(rows, 0, 0);
    *ret_from = base_pg_int(rows, 1, 0);
    return BASE_OK;
}

/* Which rows changed since a version; what we have of them goes. *ret_n: how many; past CHANGES_MAX nothing is noted. */
static enum base_code read_ids(struct change *change, int64_t since, struct base_pg *pg, unsigned *ret_n,
                               struct base_err *err)
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
    base_buf_append_char(&change->ids[PERSON], '{');
    base_buf_append_char(&change->ids[GROUP], '{');
    for (unsigned i = 0; i < *ret_n; i++) {
        bool group = base_pg_int(rows, i, 0) == GROUP;
        struct base_buf *ids = &change->ids[group ? GROUP : PERSON];
        const char *id = base_pg_text(rows, i, 1);
        const void *item = find_id(group ? &change->from->groups : &change->from->persons, id);

        base_buf_printf(ids, "%s%s", ids->len > 1 ? "," : "", id);
        if (item != NULL)
            add_edit(group ? &change->groups : &change->persons, item, false);
    }
    base_buf_append_char(&change->ids[PERSON], '}');
    base_buf_append_char(&change->ids[GROUP], '}');
    return BASE_OK;
}

/* The groups that changed, or all, come; who is there already keeps the slot. */
static enum base_code read_groups(struct change *change, struct base_pg *pg, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const struct base_pg_param params[] = {PG_TEXT(change->ids[GROUP].data)};
    enum base_code rc = base_pg_exec(pg,
                                     "SELECT id, display_name, external_id FROM identity.scim_groups "
                                     "WHERE $1::uuid[] IS NULL OR id = ANY($1::uuid[])",
                                     params, BASE_ARRAY_LEN(params), &rows, err);

    if (rc != BASE_OK)
        return rc;
    change->n_slots = change->from->n_slots;
    for (unsigned i = 0; i < base_pg_n_rows(rows); i++) {
        const struct group *was = find_id(&change->from->groups, base_pg_text(rows, i, 0));

        add_edit(&change->groups, group_make(rows, i, was != NULL ? was->slot : change->n_slots++), true);
    }
    change->new_groups = merge(&change->from->groups, &change->groups, compare_id);
    return BASE_OK;
}

/* Both in the order of the user's id. */
static void take_persons(struct change *change, const struct base_pg_rows *users,
                         const struct base_pg_rows *members)
{
    unsigned n_members = base_pg_n_rows(members), end = 0;

    for (unsigned i = 0; i < base_pg_n_rows(users); i++) {
        const char *id = base_pg_text(users, i, 0);
        unsigned first = end;

        while (end < n_members && strcmp(base_pg_text(members, end, 0), id) == 0)
            end++;
        add_edit(&change->persons, person_make(change, users, i, members, first, end), true);
    }
}

/* The persons that changed, or all, come. */
static enum base_code read_persons(struct change *change, struct base_pg *pg, struct base_err *err)
{
    char after[ID_BYTES] = NOBODY, last[ID_BYTES], limit[24];
    const char *ids = change->ids[PERSON].data;
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

/* In a transaction that sees one moment. */
static enum base_code read_change(struct gw_directory *directory, bool whole, struct change *change,
                                  struct base_pg *pg, struct base_err *err)
{
    int64_t from = 0;
    unsigned n = 0;
    enum base_code rc = read_version(pg, &change->version, &from, err);

    if (rc != BASE_OK)
        return rc;
    if (directory->now == NULL || change->version < directory->version || from > directory->version)
        whole = true;
    if (!whole) {
        change->from = directory->now; /* only we replace it */
        rc = read_ids(change, directory->version, pg, &n, err);
        whole = n > CHANGES_MAX;
    }
    if (whole)
        change->from = &nothing;
    if (rc == BASE_OK)
        rc = read_groups(change, pg, err);
    if (rc == BASE_OK)
        rc = read_persons(change, pg, err);
    return rc;
}

static void publish(struct gw_directory *directory, struct change *change)
{
    struct list gone = {0};
    struct snapshot *s = snapshot_make(change, &gone), *old = directory->now;

    directory->version = change->version;
    if (change->from == &nothing)
        directory->whole_reads++;
    if (change->from == old) {
        old->gone = gone;
        old->next = s;
        atomic_fetch_add(&s->refs, 1);
    } else
        free(gone.items);
    pthread_mutex_lock(&directory->lock);
    directory->now = s;
    pthread_mutex_unlock(&directory->lock);
    snapshot_unref(old);
}

enum base_code gw_directory_refresh(struct gw_directory *directory, bool whole, struct base_pg *pg,
                                    struct base_err *err)
{
    struct change change = {.from = &nothing};
    int64_t version = 0, from = 0;
    enum base_code rc = read_version(pg, &version, &from, err);

    if (rc == BASE_OK && !whole && directory->now != NULL && directory->version == version)
        return BASE_OK;
    for (size_t i = 0; i < BASE_ARRAY_LEN(change.ids); i++)
        base_buf_init(&change.ids[i], IDS_MAX);
    if (rc == BASE_OK)
        rc = base_pg_exec(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", NULL, 0, NULL, err);
    if (rc == BASE_OK)
        rc = read_change(directory, whole, &change, pg, err);
    if (rc == BASE_OK)
        rc = base_pg_exec(pg, "COMMIT", NULL, 0, NULL, err);
    if (rc == BASE_OK)
        publish(directory, &change);
    else
        base_pg_disconnect(pg); /* perhaps in the transaction */
    change_free(&change);
    return rc;
}

uint64_t gw_directory_whole_reads(const struct gw_directory *directory)
{
    return directory->whole_reads;
}

/* ---- asking ---- */

/* The first of those under the key: the one that is there. */
static const struct person *search(const struct snapshot *s, const char *key, bool external)
{
    const struct list *list = external ? &s->by_external : &s->by_name;
    size_t low = 0, high = list->n;
    const struct person *person;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        person = list->items[middle];
        if (strcmp(external ? person->external_id : person->user_name, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    person = low < list->n ? list->items[low] : NULL;
    if (person == NULL || strcmp(external ? person->external_id : person->user_name, key) != 0)
        return NULL;
    return person;
}

enum gw_person_state gw_directory_find(struct gw_directory *directory, const char *key,
                                       void (*each)(const char *group, void *user), void *user)
{
    bool external = atomic_load(&directory->use_external_id);
    auto_free char *folded = base_alloc(strlen(key) + 1);
    enum gw_person_state state = GW_PERSON_UNKNOWN;
    struct snapshot *s = snapshot_now(directory);
    const struct person *person;
    char *place = folded;

    put_text(&place, key, true);
    person = s != NULL && key[0] != '\0' ? search(s, folded, external) : NULL;
    if (person != NULL)
        state = person->active ? GW_PERSON_ACTIVE : GW_PERSON_DEACTIVATED;
    for (size_t i = 0; state == GW_PERSON_ACTIVE && each != NULL && i < person->n_slots; i++) {
        const struct group *group = s->slots[person->slots[i]];

        if (group == NULL)
            continue;
        each(group->text, user);
        if (group->external_id != NULL)
            each(group->external_id, user);
    }
    snapshot_unref(s);
    return state;
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
