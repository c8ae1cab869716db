/* Revocations. See revocations.h.
 *
 * Open addressing with linear probing, at most half full. Entries are removed by building the table anew (expire), so that probing
 * needs no tombstones.
 */
#include "gateway/revocations.h"

#include "base/mem.h"

#include <pthread.h>

#define SLOTS_FIRST 64u /* a power of two */

struct gw_revocations {
    pthread_rwlock_t lock; /* all below */
    struct gw_revocation *slots;
    size_t n_slots, n;
    gw_revocations_fn *on_new;
    void *user;
};

struct gw_revocations *gw_revocations_new(void)
{
    struct gw_revocations *set = base_zalloc(sizeof(*set));

    pthread_rwlock_init(&set->lock, NULL);
    set->n_slots = SLOTS_FIRST;
    set->slots = base_zalloc(set->n_slots * sizeof(*set->slots));
    return set;
}

void gw_revocations_free(struct gw_revocations *set)
{
    if (set == NULL)
        return;
    pthread_rwlock_destroy(&set->lock);
    free(set->slots);
    free(set);
}

void gw_revocations_listen(struct gw_revocations *set, gw_revocations_fn *on_new, void *user)
{
    pthread_rwlock_wrlock(&set->lock);
    set->on_new = on_new;
    set->user = user;
    pthread_rwlock_unlock(&set->lock);
}

/* The entry of (kind, tag), or the empty slot for it. Tags are keyed hashes: their low bits are as good as any. */
static struct gw_revocation *slot_of(struct gw_revocation *slots, size_t n_slots,
                                     enum gw_revocation_kind kind, uint64_t tag)
{
    size_t i = (size_t)(tag + (uint64_t)kind) & (n_slots - 1);

    while (slots[i].kind != GW_REVOCATION_NONE && (slots[i].kind != kind || slots[i].tag != tag))
        i = (i + 1) & (n_slots - 1);
    return &slots[i];
}

/* Moves what is not over into a new table; with the lock. */
static void rebuild(struct gw_revocations *set, size_t n_slots, int64_t now_us)
{
    struct gw_revocation *slots = base_zalloc(n_slots * sizeof(*slots));

    set->n = 0;
    for (size_t i = 0; i < set->n_slots; i++) {
        const struct gw_revocation *old = &set->slots[i];

        if (old->kind == GW_REVOCATION_NONE || old->until_us <= now_us)
            continue;
        *slot_of(slots, n_slots, old->kind, old->tag) = *old;
        set->n++;
    }
    free(set->slots);
    set->slots = slots;
    set->n_slots = n_slots;
}

void gw_revocations_add(struct gw_revocations *set, const struct gw_revocation *revocation, int64_t now_us)
{
    struct gw_revocation *slot;
    gw_revocations_fn *on_new;
    bool is_new;
    void *user;

    if (revocation->kind == GW_REVOCATION_NONE || revocation->tag == 0 || revocation->until_us <= now_us)
        return;
    pthread_rwlock_wrlock(&set->lock);
    if ((set->n + 1) * 2 > set->n_slots)
        rebuild(set, set->n_slots * 2, now_us);
    slot = slot_of(set->slots, set->n_slots, revocation->kind, revocation->tag);
    is_new = slot->kind == GW_REVOCATION_NONE || slot->at_us < revocation->at_us;
    if (slot->kind == GW_REVOCATION_NONE) {
        *slot = *revocation;
        set->n++;
    }
    if (slot->at_us < revocation->at_us)
        slot->at_us = revocation->at_us;
    if (slot->until_us < revocation->until_us)
        slot->until_us = revocation->until_us;
    on_new = is_new ? set->on_new : NULL;
    user = set->user;
    pthread_rwlock_unlock(&set->lock);
    if (on_new != NULL)
        on_new(revocation, user);
}

bool gw_revocations_meet(struct gw_revocations *set, enum gw_revocation_kind kind, uint64_t tag,
                         int64_t since_us)
{
    const struct gw_revocation *slot;
    bool met;

    if (tag == 0)
        return false;
    pthread_rwlock_rdlock(&set->lock);
    slot = slot_of(set->slots, set->n_slots, kind, tag);
    met = slot->kind != GW_REVOCATION_NONE && (since_us == 0 || slot->at_us >= since_us);
    pthread_rwlock_unlock(&set->lock);
    return met;
}

void gw_revocations_expire(struct gw_revocations *set, int64_t now_us)
{
    pthread_rwlock_wrlock(&set->lock);
    rebuild(set, set->n_slots, now_us);
    pthread_rwlock_unlock(&set->lock);
}

size_t gw_revocations_count(struct gw_revocations *set)
{
    size_t n;

    pthread_rwlock_rdlock(&set->lock);
    n = set->n;
    pthread_rwlock_unlock(&set->lock);
    return n;
}
