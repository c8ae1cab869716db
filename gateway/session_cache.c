/* Session cache. See session_cache.h. */
#include "gateway/session_cache.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"

#include <pthread.h>
#include <string.h>

#define SLOTS 1024u

struct slot {
    unsigned char hash[BASE_SHA256_BYTES];
    uint64_t until_ms; /* monotonic; past it the slot is empty */
    struct gw_session_known known;
};

struct gw_session_cache {
    unsigned keep_ms;
    pthread_mutex_t lock; /* all below */
    struct slot *slots;
};

struct gw_session_cache *gw_session_cache_new(unsigned keep_ms)
{
    struct gw_session_cache *cache = base_zalloc(sizeof(*cache));

    cache->keep_ms = keep_ms;
    pthread_mutex_init(&cache->lock, NULL);
    cache->slots = base_zalloc(SLOTS * sizeof(*cache->slots));
    return cache;
}

void gw_session_cache_free(struct gw_session_cache *cache)
{
    pthread_mutex_destroy(&cache->lock);
    free(cache->slots);
    free(cache);
}

static struct slot *slot_of(struct gw_session_cache *cache, const unsigned char *hash)
{
    uint32_t h;

    memcpy(&h, hash, sizeof(h));
    return &cache->slots[h % SLOTS];
}

bool gw_session_cache_get(struct gw_session_cache *cache, const unsigned char hash[BASE_SHA256_BYTES],
                          struct gw_session_known *ret_known)
{
    struct slot *slot = slot_of(cache, hash);
    uint64_t now_ms = base_mono_ms();
    bool hit;

    pthread_mutex_lock(&cache->lock);
    hit = now_ms < slot->until_ms && base_ct_equal(slot->hash, hash, BASE_SHA256_BYTES);
    if (hit)
        *ret_known = slot->known;
    pthread_mutex_unlock(&cache->lock);
    return hit;
}

void gw_session_cache_put(struct gw_session_cache *cache, const unsigned char hash[BASE_SHA256_BYTES],
                          const struct gw_session_known *known, uint64_t valid_ms)
{
    struct slot *slot = slot_of(cache, hash);

    pthread_mutex_lock(&cache->lock);
    memcpy(slot->hash, hash, BASE_SHA256_BYTES);
    slot->until_ms = base_mono_ms() + (valid_ms < cache->keep_ms ? valid_ms : cache->keep_ms);
    slot->known = *known;
    pthread_mutex_unlock(&cache->lock);
}
