/* Store: the identity store as the loops see it.
 *
 * What: API keys from a snapshot in memory; revocations, kept up to date; everything else by a small pool of database connections.
 * Who:  gw_store_key_find from any thread. gw_store_run on a loop: it answers on that loop. open, wait_ready, free
 *       from the main thread.
 * Promises:
 *   - a key needs no database: with Postgres away known keys go on working, expiry is still checked against the clock, and after
 *     key_stale_max_s without contact every key is GW_KEY_UNAVAILABLE;
 *   - with Postgres there, a revocation or a new key holds on every gateway within a second (notification, and a version poll
 *     every poll_ms in case one is lost);
 *   - a change of the keys loads them all anew: 100,000 of them took 0.6 s in a build with sanitizers;
 *   - last use is written at most once a minute per key; the last minute's is lost in a crash.
 * Not here: tokens and cookies (session.h), HTTP (auth.c), SQL (identity_sql.h).
 */
#ifndef GATEWAY_STORE_H
#define GATEWAY_STORE_H

#include "gateway/directory.h"
#include "gateway/identity_sql.h"
#include "gateway/keyset.h"
#include "gateway/loop.h"

struct gw_store;

struct gw_store_options {
    /* role gatehouse_store; a direct connection: LISTEN does not work through a transaction pooler */
    const char *dsn;
    struct gw_revocations *revocations; /* fed; NULL: none (commands, tests of keys) */
    struct gw_directory *directory;     /* likewise */
    gw_keys_gone_fn *keys_gone; /* on the watcher's thread, once they are refused; NULL: nobody is told */
    void *keys_gone_user;
    unsigned n_workers;         /* connections for gw_store_run; 0: 2 */
    unsigned queue_max;         /* waiting calls, past it BASE_FULL; 0: 1024 */
    unsigned timeout_ms;        /* per query; 0: 2000 */
    unsigned poll_ms;           /* 0: 250 */
    unsigned key_stale_max_s;   /* 0: 86400 */
    unsigned last_used_every_s; /* 0: 60 */
};
/* Starts the threads; Postgres need not be there yet. */
struct gw_store *gw_store_open(const struct gw_store_options *options);
/* True when the keys have been loaded; waits at most timeout_ms for it. */
bool gw_store_wait_ready(struct gw_store *store, unsigned timeout_ms);
/* After gw_server_drain and before gw_server_free: finishes what is queued, writes last uses. NULL is allowed. */
void gw_store_free(struct gw_store *store);

/* GOOD fills *ret_principal, but for its cache tag. */
enum gw_key_state gw_store_key_find(struct gw_store *store, const unsigned char hash[BASE_SHA256_BYTES],
                                    struct gw_principal *ret_principal);

/* Runs work(pg, arg) on a worker, then done(rc, arg) on the loop, exactly once and before gw_store_free has returned; BASE_FULL, at
 * once, when too much waits. A query is bounded by timeout_ms. Who asks keeps arg until done. */
typedef enum base_code gw_store_work_fn(struct base_pg *pg, void *arg, struct base_err *err);
typedef void gw_store_done_fn(enum base_code rc, void *arg);
void gw_store_run(struct gw_store *store, struct gw_loop *loop, gw_store_work_fn *work,
                  gw_store_done_fn *done, void *arg);

struct gw_store_stats {
    bool ready, up;          /* keys loaded once; Postgres answered last */
    unsigned keys, bad_keys; /* bad: rows that are no identity, left out */
    uint64_t contact_age_ms; /* since Postgres last confirmed the keys */
    uint64_t loads_total;
};
void gw_store_get_stats(struct gw_store *store, struct gw_store_stats *ret_stats); /* any thread */

#endif
