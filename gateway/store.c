/* Store. See store.h.
 *
 * The watcher thread owns one connection that listens:
 *
 *     AWAY --connect, LISTEN, load--> WATCHING --notification or poll_ms--> version changed? load
 *       ^                                |
 *       +--------- any error ------------+      (then: wait, 100 ms doubling to 500 ms)
 *
 * Invariants:
 *   1. `keys` is replaced, never changed; a reader takes a reference under the lock and keeps it while it
 *      reads;
 *   2. the version is read before the keys: keys newer than their version are loaded once more, never too
 *      seldom;
 *   3. a connection that failed once is dropped, since base_pg would connect anew and not listen;
 *   4. revocations are read before the keys, so that who finds keys finds them, too;
 *   5. who is told that a key is gone is told after `keys` is replaced: nothing is let in by it meanwhile.
 */
#include "gateway/store.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/workers.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define BACKOFF_FIRST_MS 100u
#define BACKOFF_MAX_MS   500u
#define USED_BATCH       1000u
#define CLEAN_EVERY_MS   (3600u * 1000u)

struct gw_store {
    struct gw_store_options options;
    char *dsn;
    struct base_workers *workers;
    pthread_t watcher;

    pthread_mutex_t lock; /* keys, ready, stopping, bad_keys */
    pthread_cond_t changed;
    struct gw_keyset *keys;
    bool stopping;
    unsigned bad_keys;

    atomic_bool up;
    _Atomic uint64_t contact_ms, loads_total;

    /* the watcher's own */
    struct base_pg *pg;
    bool listening;
    int64_t version, revocation_id; /* the last that we have */
    uint64_t used_at_ms, clean_at_ms;
};

/* ---- the snapshot ---- */

static struct gw_keyset *keys_now(struct gw_store *store)
{
    struct gw_keyset *keys;

    pthread_mutex_lock(&store->lock);
    keys = store->keys != NULL ? gw_keyset_ref(store->keys) : NULL;
    pthread_mutex_unlock(&store->lock);
    return keys;
}

enum gw_key_state gw_store_key_find(struct gw_store *store, const unsigned char hash[BASE_SHA256_BYTES],
                                    struct gw_principal *ret_principal)
{
    struct gw_keyset *keys;
    enum gw_key_state state;

    if (base_mono_ms() - atomic_load(&store->contact_ms) > (uint64_t)store->options.key_stale_max_s * 1000)
        return GW_KEY_UNAVAILABLE;
    keys = keys_now(store);
    if (keys == NULL)
        return GW_KEY_UNAVAILABLE;
    state = gw_keyset_find(keys, hash, base_wall_us(), ret_principal);
    gw_keyset_unref(keys);
    return state;
}

/* ---- the watcher ---- */

static void publish(struct gw_store *store, struct gw_keyset *keys, unsigned n_bad)
{
    struct gw_keyset *old;

    pthread_mutex_lock(&store->lock);
    old = store->keys;
    store->keys = keys;
    store->bad_keys = n_bad;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    if (old != NULL && store->options.keys_gone != NULL)
        gw_keyset_gone(old, keys, store->options.keys_gone, store->options.keys_gone_user);
    gw_keyset_unref(old);
}

/* Brings the revocations that are new. Their ids become visible in order (the migration says how). */
static enum base_code load_revocations(struct gw_store *store, struct base_err *err)
{
    enum base_code rc = BASE_OK;
    bool more = store->options.revocations != NULL;

    while (rc == BASE_OK && more)
        rc =
            gw_sql_revocations_load(store->pg, &store->revocation_id, store->options.revocations, &more, err);
    return rc;
}

/* Brings what has another version than the one that we have; `always`: all of it. */
static enum base_code refresh(struct gw_store *store, bool always, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct gw_keyset *keys = NULL;
    uint64_t asked_ms = base_mono_ms();
    int64_t version = 0;
    unsigned n_bad = 0;
    enum base_code rc = load_revocations(store, err);

    if (rc == BASE_OK && store->options.directory != NULL)
        rc = gw_directory_refresh(store->options.directory, always, store->pg, err);
    if (rc == BASE_OK)
        rc = gw_sql_key_version(store->pg, &version, err);
    if (rc == BASE_OK && (always || version != store->version)) {
        rc = gw_sql_key_load(store->pg, &rows, err);
        if (rc == BASE_OK)
            rc = gw_keyset_build(&keys, rows, store->keys, &n_bad, err); /* only we replace store->keys */
        if (rc != BASE_OK)
            return rc;
        if (n_bad > 0)
            base_log(BASE_LOG_ERROR, "identity.bad_keys", "API keys that are no identity are left out",
                     LOG_INT("count", n_bad));
        publish(store, keys, n_bad);
        store->version = version;
        atomic_fetch_add(&store->loads_total, 1);
    }
    if (rc == BASE_OK)
        atomic_store(&store->contact_ms, asked_ms);
    return rc;
}

struct used_batch {
    struct base_buf ids, times;
    unsigned n;
};

static bool add_used(const char *key_id, int64_t used_s, void *user)
{
    struct used_batch *batch = user;

    if (batch->n == USED_BATCH)
        return false;
    base_buf_printf(&batch->ids, "%s%s", batch->n > 0 ? "," : "", key_id);
    base_buf_printf(&batch->times, "%s%lld", batch->n > 0 ? "," : "", (long long)used_s);
    batch->n++;
    return true;
}

/* A batch that cannot be written is dropped: the next use writes a later time. */
static enum base_code write_used(struct gw_store *store, struct base_err *err)
{
    struct used_batch batch = {.ids = BASE_BUF_INIT(64 * USED_BATCH),
                               .times = BASE_BUF_INIT(64 * USED_BATCH)};
    enum base_code rc = BASE_OK;

    do {
        base_buf_reset(&batch.ids);
        base_buf_reset(&batch.times);
        batch.n = 0;
        if (store->keys != NULL)
            gw_keyset_drain_used(store->keys, add_used, &batch);
        if (batch.n > 0)
            rc = gw_sql_key_used(store->pg, batch.ids.data, batch.times.data, err);
    } while (rc == BASE_OK && batch.n == USED_BATCH);
    base_buf_free(&batch.ids);
    base_buf_free(&batch.times);
    return rc;
}

static enum base_code housekeeping(struct gw_store *store, struct base_err *err)
{
    uint64_t now_ms = base_mono_ms();
    enum base_code rc = BASE_OK;

    if (now_ms >= store->used_at_ms) {
        store->used_at_ms = now_ms + (uint64_t)store->options.last_used_every_s * 1000;
        rc = write_used(store, err);
    }
    if (rc == BASE_OK && now_ms >= store->clean_at_ms) {
        store->clean_at_ms = now_ms + CLEAN_EVERY_MS;
        rc = gw_sql_clean(store->pg, err);
        if (store->options.revocations != NULL)
            gw_revocations_expire(store->options.revocations, base_wall_us());
    }
    if (rc == BASE_OK || rc == BASE_UNAVAILABLE || rc == BASE_TIMEOUT)
        return rc;
    base_log_err(BASE_LOG_ERROR, "identity.housekeeping", "last uses or old sessions could not be written",
                 err);
    return BASE_OK; /* a missing grant, say: no reason to give the keys up */
}

/* AWAY -> WATCHING */
static enum base_code start_listening(struct gw_store *store, struct base_err *err)
{
    enum base_code rc = base_pg_exec(store->pg, "LISTEN " GW_IDENTITY_CHANNEL, NULL, 0, NULL, err);

    store->revocation_id = 0; /* another database, a restored one: all of them anew */
    if (rc == BASE_OK)
        rc = refresh(store, true, err);
    store->listening = rc == BASE_OK;
    return rc;
}

/* One turn of WATCHING: waits, then looks. */
static enum base_code watch(struct gw_store *store, struct base_err *err)
{
    enum base_code rc = base_pg_wait_notify(store->pg, store->options.poll_ms, err);

    if (rc != BASE_OK && rc != BASE_TIMEOUT)
        return rc;
    rc = refresh(store, false, err);
    return rc == BASE_OK ? housekeeping(store, err) : rc;
}

static void note_state(struct gw_store *store, enum base_code rc, const struct base_err *err)
{
    if (atomic_exchange(&store->up, rc == BASE_OK) == (rc == BASE_OK))
        return;
    if (rc == BASE_OK)
        base_log(BASE_LOG_INFO, "identity.up", "identity store is connected",
                 LOG_INT("keys", gw_keyset_count(store->keys)));
    else
        base_log_err(BASE_LOG_WARN, "identity.away", "identity store is away: known API keys go on working",
                     err);
}

static bool stopping(struct gw_store *store)
{
    bool stop;

    pthread_mutex_lock(&store->lock);
    stop = store->stopping;
    pthread_mutex_unlock(&store->lock);
    return stop;
}

/* Waits for at most ms, or until free. */
static void nap(struct gw_store *store, unsigned ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&store->lock);
    while (!store->stopping && pthread_cond_timedwait(&store->changed, &store->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&store->lock);
}

static void *watcher_main(void *p)
{
    struct gw_store *store = p;
    unsigned backoff_ms = BACKOFF_FIRST_MS;
    bool told = false;

    while (!stopping(store)) {
        struct base_err err = {0};
        enum base_code rc = store->listening ? watch(store, &err) : start_listening(store, &err);

        if (rc != BASE_OK && !told && !atomic_load(&store->up)) /* away from the start: say so once */
            base_log_err(BASE_LOG_WARN, "identity.away", "identity store is not reachable yet", &err);
        told = true;
        note_state(store, rc, &err);
        if (rc == BASE_OK) {
            backoff_ms = BACKOFF_FIRST_MS;
            continue;
        }
        store->listening = false;
        base_pg_disconnect(store->pg);
        nap(store, backoff_ms);
        backoff_ms = backoff_ms * 2 < BACKOFF_MAX_MS ? backoff_ms * 2 : BACKOFF_MAX_MS;
    }
    if (store->listening)
        write_used(store, NULL);
    return NULL;
}

/* ---- work for the pool ---- */

struct job {
    struct gw_loop *loop;
    gw_store_work_fn *work;
    gw_store_done_fn *done;
    void *arg;
    enum base_code rc;
};

static void job_finish(void *p)
{
    struct job *job = p;

    job->done(job->rc, job->arg);
    free(job);
}

static void job_run(void *p, void *thread_state)
{
    struct job *job = p;
    struct base_err err = {0};

    job->rc = job->work(thread_state, job->arg, &err);
    if (job->rc != BASE_OK && job->rc != BASE_DENIED && job->rc != BASE_EXISTS && job->rc != BASE_NOT_FOUND)
        base_log_err(BASE_LOG_WARN, "identity.query_failed", "the identity store could not be asked", &err);
    gw_loop_post(job->loop, job_finish, job);
}

void gw_store_run(struct gw_store *store, struct gw_loop *loop, gw_store_work_fn *work,
                  gw_store_done_fn *done, void *arg)
{
    struct job *job = base_zalloc(sizeof(*job));
    enum base_code rc;

    *job = (struct job){.loop = loop, .work = work, .done = done, .arg = arg};
    rc = base_workers_submit(store->workers, job_run, job);
    if (rc == BASE_OK)
        return; /* the job is the worker's by now, and may be gone */
    job->rc = rc;
    job_finish(job);
}

/* ---- life ---- */

static void *worker_start(void *user)
{
    struct gw_store *store = user;

    return base_pg_new(store->dsn, store->options.timeout_ms);
}

static void worker_end(void *thread_state, void *user)
{
    base_pg_free(thread_state);
}

static unsigned or_default(unsigned value, unsigned otherwise)
{
    return value != 0 ? value : otherwise;
}

static void start_watcher(struct gw_store *store)
{
    sigset_t all, before;

    sigfillset(&all); /* signals belong to the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&store->watcher, NULL, watcher_main, store) != 0)
        abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

struct gw_store *gw_store_open(const struct gw_store_options *options)
{
    struct gw_store *store = base_zalloc(sizeof(*store));
    struct gw_store_options *o = &store->options;
    pthread_condattr_t monotonic;

    *o = *options;
    store->dsn = base_strdup(options->dsn);
    o->dsn = store->dsn;
    o->n_workers = or_default(o->n_workers, 2);
    o->queue_max = or_default(o->queue_max, 1024);
    o->timeout_ms = or_default(o->timeout_ms, 2000);
    o->poll_ms = or_default(o->poll_ms, 250);
    o->key_stale_max_s = or_default(o->key_stale_max_s, 86400);
    o->last_used_every_s = or_default(o->last_used_every_s, 60);
    pthread_mutex_init(&store->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&store->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    atomic_init(&store->contact_ms, base_mono_ms());
    store->used_at_ms = base_mono_ms() + (uint64_t)o->last_used_every_s * 1000;
    store->pg = base_pg_new(store->dsn, o->timeout_ms);
    store->workers = base_workers_new(&(struct base_workers_options){.n_threads = o->n_workers,
                                                                     .queue_max = o->queue_max,
                                                                     .thread_start = worker_start,
                                                                     .thread_end = worker_end,
                                                                     .user = store});
    start_watcher(store);
    return store;
}

bool gw_store_wait_ready(struct gw_store *store, unsigned timeout_ms)
{
    uint64_t deadline = base_mono_ms() + timeout_ms;
    bool ready;

    for (;;) {
        uint64_t now_ms = base_mono_ms();
        struct timespec until;

        pthread_mutex_lock(&store->lock);
        ready = store->keys != NULL;
        if (ready || now_ms >= deadline) {
            pthread_mutex_unlock(&store->lock);
            return ready;
        }
        until = (struct timespec){.tv_sec = (time_t)(deadline / 1000),
                                  .tv_nsec = (long)(deadline % 1000) * 1000000};
        pthread_cond_timedwait(&store->changed, &store->lock, &until);
        pthread_mutex_unlock(&store->lock);
    }
}

void gw_store_free(struct gw_store *store)
{
    if (store == NULL)
        return;
    pthread_mutex_lock(&store->lock);
    store->stopping = true;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    base_workers_free(store->workers);
    pthread_join(store->watcher, NULL);
    base_pg_free(store->pg);
    gw_keyset_unref(store->keys);
    pthread_cond_destroy(&store->changed);
    pthread_mutex_destroy(&store->lock);
    base_wipe(store->dsn, strlen(store->dsn)); /* may hold a password */
    free(store->dsn);
    free(store);
}

void gw_store_get_stats(struct gw_store *store, struct gw_store_stats *ret_stats)
{
    pthread_mutex_lock(&store->lock);
    ret_stats->ready = store->keys != NULL;
    ret_stats->keys = store->keys != NULL ? gw_keyset_count(store->keys) : 0;
    ret_stats->bad_keys = store->bad_keys;
    pthread_mutex_unlock(&store->lock);
    ret_stats->up = atomic_load(&store->up);
    ret_stats->contact_age_ms = base_mono_ms() - atomic_load(&store->contact_ms);
    ret_stats->loads_total = atomic_load(&store->loads_total);
}
