/* Thread pool: see pool.h.
 *
 * `state` is one word: generation (32 bits), open (1 bit), how many workers are inside the job (31 bits).
 *
 * Invariants:
 * 1. The job's fields are written while the job is closed and nobody is inside; a worker reads them only inside.
 * 2. A worker enters an open job of the generation it saw, or not at all. The caller closes the job when no item is left and
 *    waits for those inside alone: a worker that has no core just now holds nobody up.
 * 3. A worker that goes to sleep first counts itself in `n_sleeping`, then looks at the generation again; the caller first
 *    raises the generation, then looks at `n_sleeping`. So at least one of them sees the other and no wake-up is lost.
 */
#include "engine/pool.h"

#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#define SPINS  1000 /* some tens of microseconds */
#define OPEN   0x80000000u
#define INSIDE 0x7fffffffu

struct eng_pool {
    unsigned n_threads, n_started;
    pthread_t *threads;
    eng_pool_fn *fn;
    void *arg;
    uint32_t n, grain;
    _Alignas(64) _Atomic uint32_t next; /* first item nobody has */
    _Alignas(64) _Atomic uint64_t state;
    _Atomic uint32_t n_sleeping;
    _Atomic bool stop;
    pthread_mutex_t mutex; /* guards nothing but the sleep */
    pthread_cond_t wake;
};

struct start {
    struct eng_pool *pool;
    unsigned index;
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(struct eng_pool *pool, unsigned thread)
{
    for (;;) {
        uint32_t begin = atomic_fetch_add_explicit(&pool->next, pool->grain, memory_order_relaxed);

        if (begin >= pool->n)
            return;
        pool->fn(pool->arg, thread, begin, pool->n - begin < pool->grain ? pool->n : begin + pool->grain);
    }
}

static uint32_t generation_of(struct eng_pool *pool)
{
    return (uint32_t)(atomic_load(&pool->state) >> 32);
}

/* Returns the generation when it differs from `seen`. */
static uint32_t wait_for_job(struct eng_pool *pool, uint32_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        uint32_t now = generation_of(pool);

        if (now != seen)
            return now;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (generation_of(pool) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->mutex);
    return generation_of(pool);
}

/* False: the job of this generation has been closed meanwhile. */
static bool enter(struct eng_pool *pool, uint32_t generation)
{
    uint64_t state = atomic_load_explicit(&pool->state, memory_order_relaxed);

    while ((uint32_t)(state >> 32) == generation && (state & OPEN) != 0)
        if (atomic_compare_exchange_weak_explicit(&pool->state, &state, state + 1, memory_order_acquire,
                                                  memory_order_relaxed))
            return true;
    return false;
}

static void *worker_main(void *arg)
{
    struct start *start = arg;
    struct eng_pool *pool = start->pool;
    unsigned index = start->index;
    uint32_t seen = 0;

    free(start);
    for (;;) {
        seen = wait_for_job(pool, seen);
        if (atomic_load(&pool->stop))
            return NULL;
        if (!enter(pool, seen))
            continue;
        work(pool, index);
        atomic_fetch_sub_explicit(&pool->state, 1, memory_order_release);
    }
}

/* A new generation, open or (to end the threads) closed. Nobody is inside. */
static void publish(struct eng_pool *pool, uint32_t open)
{
    uint64_t generation = (uint32_t)(generation_of(pool) + 1);

    atomic_store(&pool->state, generation << 32 | open);
    if (atomic_load(&pool->n_sleeping) != 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
}

struct eng_pool *eng_pool_new(unsigned n_threads)
{
    struct eng_pool *pool = aligned_alloc(64, (sizeof(*pool) + 63) / 64 * 64);

    if (pool == NULL || n_threads == 0 || n_threads > ENG_THREADS_MAX) {
        free(pool);
        return NULL;
    }
    *pool = (struct eng_pool){.n_threads = n_threads, .n_started = 1};
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = base_zalloc(n_threads * sizeof(*pool->threads));
    for (unsigned i = 1; i < n_threads; i++) {
        struct start *start = base_alloc(sizeof(*start));

        *start = (struct start){pool, i};
        if (pthread_create(&pool->threads[i], NULL, worker_main, start) != 0) {
            free(start);
            eng_pool_free(pool);
            return NULL;
        }
        pool->n_started++;
    }
    return pool;
}

void eng_pool_free(struct eng_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->stop, true);
    publish(pool, 0);
    for (unsigned i = 1; i < pool->n_started; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
    free(pool->threads);
    free(pool);
}

unsigned eng_pool_threads(const struct eng_pool *pool)
{
    return pool->n_threads;
}

void eng_pool_run(struct eng_pool *pool, eng_pool_fn *fn, void *arg, uint32_t n, uint32_t grain)
{
    if (grain == 0)
        grain = 1;
    if (pool->n_threads == 1 || n <= grain) { /* not worth waking anybody */
        if (n > 0)
            fn(arg, 0, 0, n);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->n = n;
    pool->grain = grain;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    publish(pool, OPEN);
    work(pool, 0);
    atomic_fetch_and_explicit(&pool->state, ~(uint64_t)OPEN, memory_order_relaxed);
    for (int spins = 0; (atomic_load_explicit(&pool->state, memory_order_acquire) & INSIDE) != 0; spins++) {
        if (spins < SPINS)
            relax();
        else
            sched_yield();
    }
}
