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
    uint64_t generation;
    struct gw_session session;
};

struct gw_session_cache {
    unsigned keep_ms;
    pthread_mutex_t lock; /* all below */
    uint64_t generation;
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
                          struct gw_session *ret_session)
{
    struct slot *slot = slot_of(cache, hash);
    uint64_t now_ms = base_mono_ms();
    bool hit;

    pthread_mutex_lock(&cache->lock);
    hit = slot->generation == cache->generation && now_ms < slot->until_ms &&
          base_ct_equal(slot->hash, hash, BASE_SHA256_BYTES);
    if (hit)
        *ret_session = slot->session;
    pthread_mutex_unlock(&cache->lock);
    return hit;
}

uint64_t gw_session_cache_generation(struct gw_session_cache *cache)
{
    uint64_t generation;

    pthread_mutex_lock(&cache->lock);
    generation = cache->generation;
    pthread_mutex_unlock(&cache->lock);
    return generation;
}

void gw_session_cache_put(struct gw_session_cache *cache, const unsigned char hash[BASE_SHA256_BYTES],
                          const struct gw_session *session, uint64_t generation)
{
    struct slot *slot = slot_of(cache, hash);
    uint64_t keep_ms = session->valid_ms < cache->keep_ms ? session->valid_ms : cache->keep_ms;

    pthread_mutex_lock(&cache->lock);
    if (generation == cache->generation) {
        memcpy(slot->hash, hash, BASE_SHA256_BYTES);
        slot->until_ms = base_mono_ms() + keep_ms;
        slot->generation = generation;
        slot->session = *session;
    }
    pthread_mutex_unlock(&cache->lock);
}

void gw_session_cache_clear(struct gw_session_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    cache->generation++;
    pthread_mutex_unlock(&cache->lock);
}
