/* Thread pool: see pool.h.
 *
 * Invariants:
 * 1. The job's fields are written while no worker runs (pending = 0) and published by the increment of `generation`.
 * 2. A worker that goes to sleep first counts itself in `n_sleeping`, then looks at `generation` again; the caller first
 *    increments `generation`, then looks at `n_sleeping`. So at least one of them sees the other and no wake-up is lost.
 * 3. A worker touches the job for the last time before it lowers `pending`.
 */
#include "engine/pool.h"

#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#define SPINS 4000

struct eng_pool {
    unsigned n_threads, n_started;
    pthread_t *threads;
    eng_pool_fn *fn;
    void *arg;
    uint32_t n, grain;
    _Alignas(64) _Atomic uint32_t next; /* first item nobody has */
    _Alignas(64) _Atomic uint32_t pending;
    _Alignas(64) _Atomic uint32_t generation;
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

/* Returns when `generation` differs from `seen`. */
static uint32_t wait_for_job(struct eng_pool *pool, uint32_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        uint32_t now = atomic_load_explicit(&pool->generation, memory_order_acquire);

        if (now != seen)
            return now;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (atomic_load(&pool->generation) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->mutex);
    return atomic_load(&pool->generation);
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
        work(pool, index);
        atomic_fetch_sub_explicit(&pool->pending, 1, memory_order_acq_rel);
    }
}

static void publish(struct eng_pool *pool)
{
    atomic_fetch_add(&pool->generation, 1);
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
    publish(pool);
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
    atomic_store_explicit(&pool->pending, pool->n_threads - 1, memory_order_relaxed);
    publish(pool);
    work(pool, 0);
    for (int spins = 0; atomic_load_explicit(&pool->pending, memory_order_acquire) != 0; spins++) {
        if (spins < SPINS)
            relax();
        else
            sched_yield();
    }
}
