/* KV pages: who owns which. Private to engine/.
 *
 * What: exact accounting of the KV store's pages. A sequence reserves its worst case before it starts, so that it can never run out
 *       in the middle; pages are taken from the reservation as the sequence grows.
 * Who:  the engine's thread alone.
 * Promises: a page is wiped on the device when its sequence gives it back, before anybody, of whatever cache tag, can get it.
 */
#ifndef ENGINE_KVCACHE_H
#define ENGINE_KVCACHE_H

#include "engine/kernels.h"

struct eng_kvcache;

/* One sequence's pages; zeroed is "none". */
struct eng_kv_seq {
    uint32_t *pages;              /* the caller's row of the page table */
    uint32_t n_pages, n_reserved; /* n_reserved counts those already taken too */
    uint64_t cache_tag;
};

/* Makes the store of shape->n_pages pages on the device. */
enum base_code eng_kvcache_new(struct eng_kvcache **ret_kv, const struct eng_ops *ops, struct eng_device *dev,
                               const struct eng_kv_shape *shape, struct base_err *err);
void eng_kvcache_free(struct eng_kvcache *kv); /* NULL is allowed */
struct eng_kv_store *eng_kvcache_store(struct eng_kvcache *kv);

uint32_t eng_kvcache_pages(const struct eng_kvcache *kv);
uint32_t eng_kvcache_reserved(const struct eng_kvcache *kv);
/* Pages that n tokens fill. */
uint32_t eng_kvcache_pages_for(uint64_t n_tokens);

/* False when fewer than the pages of n_tokens are unreserved; nothing changes then. seq must hold nothing. */
bool eng_kvcache_reserve(struct eng_kvcache *kv, struct eng_kv_seq *seq, uint32_t n_tokens,
                         uint64_t cache_tag);
/* Takes pages until positions [0, n_tokens) have a place; n_tokens is inside the reservation. */
void eng_kvcache_extend(struct eng_kvcache *kv, struct eng_kv_seq *seq, uint32_t n_tokens);
/* Wipes the pages and gives pages and reservation back. */
void eng_kvcache_release(struct eng_kvcache *kv, struct eng_kv_seq *seq);

#endif
