/* KV pages: see kvcache.h.
 *
 * Invariants:
 * 1. n_free + (pages held by sequences) = n_pages, and (sum of reservations) = n_reserved <= n_pages.
 * 2. n_free >= n_reserved - (pages held): so extend inside a reservation always finds a page.
 * 3. Every page on the free list is zero on the device.
 */
#include "engine/kvcache.h"

#include "base/mem.h"

#include <assert.h>

struct eng_kvcache {
    const struct eng_ops *ops;
    struct eng_device *dev;
    struct eng_kv_store *store;
    uint32_t n_pages, n_free, n_reserved;
    uint32_t *free_pages; /* a stack */
};

enum base_code eng_kvcache_new(struct eng_kvcache **ret_kv, const struct eng_ops *ops, struct eng_device *dev,
                               const struct eng_kv_shape *shape, struct base_err *err)
{
    struct eng_kvcache *kv = base_zalloc(sizeof(*kv));
    enum base_code rc;

    *kv = (struct eng_kvcache){.ops = ops, .dev = dev, .n_pages = shape->n_pages, .n_free = shape->n_pages};
    kv->free_pages = base_try_zarray(shape->n_pages, sizeof(*kv->free_pages));
    if (kv->free_pages == NULL) {
        eng_kvcache_free(kv);
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for %u KV pages", shape->n_pages);
    }
    for (uint32_t i = 0; i < shape->n_pages; i++) /* low numbers on top */
        kv->free_pages[i] = shape->n_pages - 1 - i;
    rc = ops->kv_new(dev, shape, &kv->store, err);
    if (rc != BASE_OK) {
        eng_kvcache_free(kv);
        return rc;
    }
    *ret_kv = kv;
    return BASE_OK;
}

void eng_kvcache_free(struct eng_kvcache *kv)
{
    if (kv == NULL)
        return;
    if (kv->store != NULL)
        kv->ops->kv_free(kv->dev, kv->store);
    free(kv->free_pages);
    free(kv);
}

struct eng_kv_store *eng_kvcache_store(struct eng_kvcache *kv)
{
    return kv->store;
}

uint32_t eng_kvcache_pages(const struct eng_kvcache *kv)
{
    return kv->n_pages;
}

uint32_t eng_kvcache_reserved(const struct eng_kvcache *kv)
{
    return kv->n_reserved;
}

uint32_t eng_kvcache_pages_for(uint64_t n_tokens)
{
    return (uint32_t)((n_tokens + ENG_PAGE_TOKENS - 1) / ENG_PAGE_TOKENS);
}

bool eng_kvcache_reserve(struct eng_kvcache *kv, struct eng_kv_seq *seq, uint32_t n_tokens,
                         uint64_t cache_tag)
{
    uint32_t need = eng_kvcache_pages_for(n_tokens);

    assert(seq->n_pages == 0 && seq->n_reserved == 0);
    if (need > kv->n_pages - kv->n_reserved)
        return false;
    kv->n_reserved += need;
    seq->n_reserved = need;
    seq->cache_tag = cache_tag;
    return true;
}

void eng_kvcache_extend(struct eng_kvcache *kv, struct eng_kv_seq *seq, uint32_t n_tokens)
{
    uint32_t need = eng_kvcache_pages_for(n_tokens);

    assert(need <= seq->n_reserved);
    while (seq->n_pages < need) {
        assert(kv->n_free > 0);
        seq->pages[seq->n_pages++] = kv->free_pages[--kv->n_free];
    }
}

void eng_kvcache_release(struct eng_kvcache *kv, struct eng_kv_seq *seq)
{
    while (seq->n_pages > 0) {
        uint32_t page = seq->pages[--seq->n_pages];

        kv->ops->kv_wipe(kv->dev, kv->store, page);
        kv->free_pages[kv->n_free++] = page;
    }
    kv->n_reserved -= seq->n_reserved;
    seq->n_reserved = 0;
    seq->cache_tag = 0;
}
