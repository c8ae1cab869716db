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

#include "base/mem.h"
#include "gateway/directory_priv.h"

#include <pthread.h>
#include <string.h>

struct gw_directory {
    pthread_mutex_t lock; /* now */
    struct gw_dir_snapshot *now;
    atomic_bool use_external_id;

    /* the watcher's own */
    struct gw_dir_version version;
    uint64_t whole_reads;
};

/* ---- snapshots ---- */

static void free_items(const struct gw_dir_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free((void *)list->items[i]);
}

static void snapshot_unref(struct gw_dir_snapshot *s)
{
    while (s != NULL && atomic_fetch_sub(&s->refs, 1) == 1) {
        struct gw_dir_snapshot *next = s->next;

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

static struct gw_dir_snapshot *snapshot_now(struct gw_directory *directory)
{
    struct gw_dir_snapshot *s;

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
static int compare_state(const struct gw_dir_person *a, const struct gw_dir_person *b)
{
    return a->deleted != b->deleted ? (int)a->deleted - (int)b->deleted : strcmp(a->id, b->id);
}

static int compare_name(const void *a, const void *b)
{
    const struct gw_dir_person *x = *(const struct gw_dir_person *const *)a,
                               *y = *(const struct gw_dir_person *const *)b;
    int order = strcmp(x->user_name, y->user_name);

    return order != 0 ? order : compare_state(x, y);
}

static int compare_external(const void *a, const void *b)
{
    const struct gw_dir_person *x = *(const struct gw_dir_person *const *)a,
                               *y = *(const struct gw_dir_person *const *)b;
    int order = strcmp(x->external_id, y->external_id);

    return order != 0 ? order : compare_state(x, y);
}

static size_t lower_bound(const struct gw_dir_list *list, const void *item, compare_fn *compare)
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

const void *gw_dir_find(const struct gw_dir_list *list, const char *id)
{
    size_t at = lower_bound(list, id, compare_id);

    return at < list->n && strcmp(list->items[at], id) == 0 ? list->items[at] : NULL;
}

/* ---- changing ---- */

static const struct gw_dir_snapshot nothing;

void gw_dir_edit(struct gw_dir_edits *edits, const void *item, bool comes)
{
    if (edits->n == edits->room) {
        edits->room = edits->room * 2 + 16;
        edits->at = base_realloc(edits->at, edits->room * sizeof(*edits->at));
    }
    edits->at[edits->n++] = (struct gw_dir_edit){.item = item, .comes = comes};
}

static void append(struct gw_dir_list *list, const struct gw_dir_list *from, size_t first, size_t end)
{
    if (first >= end)
        return;
    memcpy(&list->items[list->n], &from->items[first], (end - first) * sizeof(*list->items));
    list->n += end - first;
}

/* The list with the edits: whole runs of pointers are copied between them. */
static struct gw_dir_list merge(const struct gw_dir_list *from, const struct gw_dir_edits *edits,
                                compare_fn *compare)
{
    struct gw_dir_list list = {.items = base_alloc((from->n + edits->n + 1) * sizeof(*list.items))};
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

static struct gw_dir_list merge_external(const struct gw_dir_list *from, const struct gw_dir_edits *edits)
{
    struct gw_dir_edits some = {.n = 0};
    struct gw_dir_list list;

    for (size_t i = 0; i < edits->n; i++)
        if (((const struct gw_dir_person *)edits->at[i].item)->external_id != NULL)
            gw_dir_edit(&some, edits->at[i].item, edits->at[i].comes);
    list = merge(from, &some, compare_external);
    free(some.at);
    return list;
}

static void change_free(struct gw_dir_change *change)
{
    const struct gw_dir_edits *const all[] = {&change->groups, &change->persons};

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

void gw_dir_merge_groups(struct gw_dir_change *change)
{
    change->new_groups =
        merge(change->from != NULL ? &change->from->groups : &nothing.groups, &change->groups, compare_id);
}

/* Hands all that comes to the snapshot, and what goes to `gone`. */
static void settle(struct gw_dir_edits *edits, struct gw_dir_list *gone)
{
    for (size_t i = 0; i < edits->n; i++)
        if (!edits->at[i].comes)
            gone->items[gone->n++] = edits->at[i].item;
    edits->n = 0;
}

static struct gw_dir_snapshot *snapshot_make(struct gw_dir_change *change, struct gw_dir_list *gone)
{
    const struct gw_dir_snapshot *from = change->from != NULL ? change->from : &nothing;
    struct gw_dir_snapshot *s = base_zalloc(sizeof(*s));

    atomic_init(&s->refs, 1);
    s->groups = change->new_groups;
    change->new_groups = (struct gw_dir_list){0};
    s->n_slots = change->n_slots;
    s->slots = base_zalloc(((size_t)s->n_slots + 1) * sizeof(*s->slots));
    for (size_t i = 0; i < s->groups.n; i++) {
        const struct gw_dir_group *group = s->groups.items[i];

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

/* ---- refreshing ---- */

static void publish(struct gw_directory *directory, struct gw_dir_change *change)
{
    struct gw_dir_list gone = {0};
    struct gw_dir_snapshot *s = snapshot_make(change, &gone), *old = directory->now;

    directory->version = change->version;
    if (change->from == NULL) {
        directory->whole_reads++;
        free(gone.items);
    } else {
        old->gone = gone;
        old->next = s;
        atomic_fetch_add(&s->refs, 1);
    }
    pthread_mutex_lock(&directory->lock);
    directory->now = s;
    pthread_mutex_unlock(&directory->lock);
    snapshot_unref(old);
}

enum base_code gw_directory_refresh(struct gw_directory *directory, bool elsewhere, struct base_pg *pg,
                                    struct base_err *err)
{
    const struct gw_dir_version *have = &directory->version;
    struct gw_dir_change change = {.from = NULL};
    struct gw_dir_version version;
    int64_t from;
    enum base_code rc = gw_dir_read_version(pg, &version, &from, err);

    if (rc == BASE_OK && directory->now != NULL && version.number == have->number &&
        version.at_us == have->at_us)
        return BASE_OK;
    if (rc == BASE_OK)
        rc = base_pg_exec(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", NULL, 0, NULL, err);
    if (rc == BASE_OK) /* only we replace `now` */
        rc = gw_dir_read_change(&change, elsewhere ? NULL : directory->now, have, pg, err);
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

const char *gw_dir_put_text(char **place, const char *text, bool fold)
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

/* The first of those under the key: the one that is there. */
static const struct gw_dir_person *search(const struct gw_dir_snapshot *s, const char *key, bool external)
{
    const struct gw_dir_list *list = external ? &s->by_external : &s->by_name;
    size_t low = 0, high = list->n;
    const struct gw_dir_person *person;

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
    struct gw_dir_snapshot *s = snapshot_now(directory);
    const struct gw_dir_person *person;
    char *place = folded;

    gw_dir_put_text(&place, key, true);
    person = s != NULL && key[0] != '\0' ? search(s, folded, external) : NULL;
    if (person != NULL)
        state = person->active ? GW_PERSON_ACTIVE : GW_PERSON_DEACTIVATED;
    for (size_t i = 0; state == GW_PERSON_ACTIVE && each != NULL && i < person->n_slots; i++) {
        const struct gw_dir_group *group = s->slots[person->slots[i]];

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
