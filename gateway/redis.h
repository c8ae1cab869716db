/* Redis: one script and plain commands, over one asynchronous connection of a loop. The only file pair with hiredis.
 *
 * Who:  one gw_redis per loop, on its thread.
 * Promises:
 *   - `done` is called exactly once per call, within timeout_ms whatever Redis does, possibly before gw_redis_eval returns;
 *   - a call that timed out may still have happened: its reply, when it comes after all, goes to `late`;
 *   - while Redis is slow (a call is overdue) or away, calls fail at once; a connection counts only after it has answered;
 *   - at most GW_REDIS_CALLS_MAX calls are outstanding; the connection comes back by itself (50 ms doubling to 2 s).
 * Not here: what the script says (limits.c), what is stored (sessions.c). TLS to Redis: use a Unix socket or a tunnel.
 */
#ifndef GATEWAY_REDIS_H
#define GATEWAY_REDIS_H

#include "base/err.h"
#include "gateway/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_REDIS_CALLS_MAX 8192u
#define GW_REDIS_INTS_MAX  16u
#define GW_REDIS_ARGS_MAX  16u

struct gw_redis;

struct gw_redis_options {
    struct gw_loop *loop;
    const char *url; /* "unix:///path", "redis://[[user]:password@]host[:port][/database]" */
    /* answers a list of integers; lives as long as the gw_redis; NULL: no gw_redis_eval */
    const char *script;
    unsigned timeout_ms;
};
bool gw_redis_url_ok(const char *url);
/* Starts to connect. BASE_INVALID: the URL. */
enum base_code gw_redis_new(struct gw_redis **ret_redis, const struct gw_redis_options *options,
                            struct base_err *err);
/* Not from within a callback. What is outstanding is answered BASE_CANCELLED. NULL is allowed. */
void gw_redis_free(struct gw_redis *redis);

/* rc: BASE_OK with the script's integers; BASE_TIMEOUT; BASE_UNAVAILABLE: not connected, slow, connection lost or refused by Redis
 * (loading, read-only, out of memory); BASE_FULL; BASE_INVALID: the script failed (our bug). */
typedef void gw_redis_fn(enum base_code rc, const int64_t *ints, unsigned n, void *user);

struct gw_redis_call {
    const char *keys[4];
    unsigned n_keys;
    const char *args[GW_REDIS_ARGS_MAX]; /* texts, copied */
    unsigned n_args;
    bool even_if_slow; /* nobody waits for it: sent while others are overdue */
    gw_redis_fn *done;
    /* after a `done` with BASE_TIMEOUT, once: the reply, or anything but BASE_OK when there will be none; may be NULL */
    gw_redis_fn *late;
    void *user;
};
void gw_redis_eval(struct gw_redis *redis, const struct gw_redis_call *call);

/* ---- plain commands ---- */

#define GW_REDIS_BULK_MAX  65536u /* a longer answer is BASE_TOO_LARGE */
#define GW_REDIS_ITEMS_MAX 4096u

struct gw_redis_value { /* borrowed for the callback */
    enum { GW_REDIS_NIL = 0, GW_REDIS_INT, GW_REDIS_TEXT, GW_REDIS_LIST } kind;
    int64_t integer;
    const char *bytes; /* TEXT: a bulk or a status */
    size_t len;
    const struct gw_redis_value *items; /* LIST; lists within lists are flattened (SCAN) */
    unsigned n_items;
};
struct gw_redis_bytes {
    const void *bytes;
    size_t len;
};
#define GW_REDIS_TEXT_ARG(s) ((struct gw_redis_bytes){(s), strlen(s)})

/* As gw_redis_fn; value NULL unless BASE_OK. BASE_INVALID: Redis does not understand it; BASE_TOO_LARGE: more than the caps above. */
typedef void gw_redis_value_fn(enum base_code rc, const struct gw_redis_value *value, void *user);
/* At most GW_REDIS_ARGS_MAX arguments, the command's name first; copied. */
void gw_redis_command(struct gw_redis *redis, const struct gw_redis_bytes *args, unsigned n_args,
                      gw_redis_value_fn *done, void *user);

bool gw_redis_up(const struct gw_redis *redis);

#endif
