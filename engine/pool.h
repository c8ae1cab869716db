/* Thread pool for loops inside one operation. Private to engine/.
 *
 * Who:  one thread (the engine's) calls eng_pool_run; it works along.
 * Promises: run returns after every item is done, and what the items wrote is visible to the caller. How items are divided
 *           among threads varies; an item's result must not depend on it.
 * Idle threads spin for a moment (operations follow each other within microseconds), then sleep.
 */
#ifndef ENGINE_POOL_H
#define ENGINE_POOL_H

#include <stdint.h>

#define ENG_THREADS_MAX 256u

struct eng_pool;
/* Items [begin, end); `thread` is 0..n_threads-1, for scratch memory. */
typedef void eng_pool_fn(void *arg, unsigned thread, uint32_t begin, uint32_t end);

struct eng_pool *eng_pool_new(
    unsigned n_threads); /* the caller counts as one; starts n_threads - 1. NULL: no threads to be had */
void eng_pool_free(struct eng_pool *pool); /* NULL is allowed */
unsigned eng_pool_threads(const struct eng_pool *pool);
/* Calls fn over [0, n) in pieces of `grain` (at least 1). */
void eng_pool_run(struct eng_pool *pool, eng_pool_fn *fn, void *arg, uint32_t n, uint32_t grain);

#endif
