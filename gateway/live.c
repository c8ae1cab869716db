/* Live. See live.h.
 *
 * Invariants: a loop's list is touched by that loop alone; an entry is out of its list before its `cut` is called.
 */
#include "gateway/live.h"

#include "base/mem.h"

#include <string.h>

struct gw_live {
    unsigned n_loops;
    struct gw_live_entry heads[]; /* each a ring's sentinel */
};

struct gw_live *gw_live_new(unsigned n_loops)
{
    struct gw_live *live = base_zalloc(sizeof(*live) + n_loops * sizeof(live->heads[0]));

    live->n_loops = n_loops;
    for (unsigned i = 0; i < n_loops; i++)
        live->heads[i].next = live->heads[i].prev = &live->heads[i];
    return live;
}

void gw_live_free(struct gw_live *live)
{
    free(live);
}

void gw_live_add(struct gw_live *live, struct gw_live_entry *entry)
{
    struct gw_live_entry *head = &live->heads[gw_loop_index(entry->loop)];

    entry->prev = head->prev;
    entry->next = head;
    head->prev->next = entry;
    head->prev = entry;
}

void gw_live_remove(struct gw_live *live, struct gw_live_entry *entry)
{
    (void)live;
    if (entry->next == NULL)
        return;
    entry->prev->next = entry->next;
    entry->next->prev = entry->prev;
    entry->next = entry->prev = NULL;
}

struct cut {
    struct gw_live *live;
    unsigned loop;
    gw_live_meets_fn *meets;
    _Alignas(max_align_t) unsigned char arg[];
};

static void cut_on_loop(void *p)
{
    struct cut *cut = p;
    struct gw_live_entry *head = &cut->live->heads[cut->loop], met = {.next = &met, .prev = &met}, *next;

    /* out of the list first: what `cut` does to the call cannot disturb the walk */
    for (struct gw_live_entry *entry = head->next; entry != head; entry = next) {
        next = entry->next;
        if (!cut->meets(entry->who, cut->arg))
            continue;
        gw_live_remove(cut->live, entry);
        entry->prev = met.prev;
        entry->next = &met;
        met.prev->next = entry;
        met.prev = entry;
    }
    while (met.next != &met) {
        struct gw_live_entry *entry = met.next;

        gw_live_remove(cut->live, entry);
        entry->cut(entry->user);
    }
    free(cut);
}

void gw_live_cut(struct gw_live *live, struct gw_server *server, gw_live_meets_fn *meets, const void *arg,
                 size_t arg_len)
{
    for (unsigned i = 0; i < live->n_loops && i < gw_server_n_loops(server); i++) {
        struct cut *cut = base_zalloc(sizeof(*cut) + arg_len);

        cut->live = live;
        cut->loop = i;
        cut->meets = meets;
        memcpy(cut->arg, arg, arg_len);
        gw_loop_post(gw_server_loop(server, i), cut_on_loop, cut);
    }
}
