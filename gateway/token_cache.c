/* Token cache. See token_cache.h.
 *
 * Sets of WAYS entries; the key's first bytes choose the set. The whole key is compared, so that tokens which meet in a set are never
 * taken for one another.
 */
#include "gateway/token_cache.h"

#include "base/check.h"
#include "base/mem.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define WAYS  8u
#define LOCKS 64u

struct slot {
    unsigned char key[BASE_SHA256_BYTES];
    uint64_t policy;
    struct gw_token_entry entry; /* until_us 0: free */
};

struct gw_token_cache {
    pthread_mutex_t locks[LOCKS]; /* of set s: s % LOCKS */
    unsigned n_sets;
    struct slot slots[];
};

struct gw_token_cache *gw_token_cache_new(unsigned slots)
{
    unsigned n_sets = (slots + WAYS - 1) / WAYS;
    struct gw_token_cache *cache =
        base_zalloc(sizeof(*cache) + (size_t)n_sets * WAYS * sizeof(cache->slots[0]));

    cache->n_sets = n_sets;
    for (unsigned i = 0; i < LOCKS; i++)
        pthread_mutex_init(&cache->locks[i], NULL);
    return cache;
}

void gw_token_cache_free(struct gw_token_cache *cache)
{
    if (cache == NULL)
        return;
    for (unsigned i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&cache->locks[i]);
    free(cache);
}

void gw_token_cache_key(enum gw_token_route route, const char *token, size_t len,
                        unsigned char key[BASE_SHA256_BYTES])
{
    base_sha256(token, len, key);
    /* what is known for one kind of route is not found for another */
    if (!CHECK("auth.token_route", route == GW_ROUTE_API))
        key[BASE_SHA256_BYTES - 1] ^= (unsigned char)route;
}

static unsigned set_of(const struct gw_token_cache *cache, const unsigned char *key)
{
    uint32_t n;

    memcpy(&n, key, sizeof(n));
    return n % cache->n_sets;
}

static struct slot *find_slot(struct gw_token_cache *cache, unsigned set, const unsigned char *key)
{
    struct slot *slots = &cache->slots[set * WAYS];

    for (unsigned i = 0; i < WAYS; i++)
        if (slots[i].entry.until_us != 0 && memcmp(slots[i].key, key, BASE_SHA256_BYTES) == 0)
            return &slots[i];
    return NULL;
}

bool gw_token_cache_find(struct gw_token_cache *cache, const unsigned char key[BASE_SHA256_BYTES],
                         uint64_t policy, int64_t now_us, struct gw_token_entry *ret_entry)
{
    unsigned set = set_of(cache, key);
    struct slot *slot;
    bool found = false;

    pthread_mutex_lock(&cache->locks[set % LOCKS]);
    slot = find_slot(cache, set, key);
    if (slot != NULL && CHECK("auth.token_fresh", now_us < slot->entry.until_us) &&
        CHECK("auth.token_policy", slot->policy == policy)) {
        *ret_entry = slot->entry;
        found = true;
    }
    pthread_mutex_unlock(&cache->locks[set % LOCKS]);
    return found;
}

/* Whom a new entry may replace: itself, what is free or over, a refusal, and by a good one the good one that ends first. */
static struct slot *victim(struct gw_token_cache *cache, unsigned set, const unsigned char *key, bool good,
                           int64_t now_us)
{
    struct slot *slots = &cache->slots[set * WAYS], *best = find_slot(cache, set, key), *first = NULL;

    if (best != NULL)
        return best;
    for (unsigned i = 0; i < WAYS; i++) {
        struct slot *slot = &slots[i];

        if (slot->entry.until_us <= now_us)
            return slot;
        if (slot->entry.who.method == GW_AUTH_NONE)
            best = slot;
        if (first == NULL || slot->entry.until_us < first->entry.until_us)
            first = slot;
    }
    return best != NULL || !good ? best : first;
}

void gw_token_cache_put(struct gw_token_cache *cache, const unsigned char key[BASE_SHA256_BYTES],
                        uint64_t policy, int64_t now_us, const struct gw_token_entry *entry)
{
    unsigned set = set_of(cache, key);
    bool good = entry->who.method != GW_AUTH_NONE;
    int64_t limit_us = now_us + (good ? GW_TOKEN_KEEP_US : GW_TOKEN_REFUSE_US);
    struct slot *slot;

    if (entry->until_us <= now_us)
        return;
    pthread_mutex_lock(&cache->locks[set % LOCKS]);
    slot = victim(cache, set, key, good, now_us);
    if (slot != NULL) {
        memcpy(slot->key, key, BASE_SHA256_BYTES);
        slot->policy = policy;
        slot->entry = *entry;
        if (!CHECK("auth.token_keep", slot->entry.until_us <= limit_us))
            slot->entry.until_us = limit_us;
    }
    pthread_mutex_unlock(&cache->locks[set % LOCKS]);
}
