/* SSO client: the gateway's end of the socketpair to gatehouse-sso, and the process's keeper.
 *
 * What: starts gatehouse-sso, sends it its configuration, carries requests and replies, each with a deadline, and starts it anew with
 *       back-off (100 ms doubling to 10 s) when it dies or breaks the protocol (sso/proto.h). When a file that names are resolved with
 *       was replaced, a new process takes what comes from then on, since the sandbox of the old one knows the old file alone.
 * Who:  gw_sso_call on a loop; it answers on that loop. new, reconfigure and free from the main thread. One thread of its own.
 * Promises: done is called exactly once per call unless forgotten, within the deadline, whatever the process does; a process that dies
 *       fails its open calls at once with BASE_UNAVAILABLE; at most GW_SSO_CALLS_MAX calls are open, past it BASE_FULL;
 *       the loops never block on it; secrets travel on the socketpair alone: no command line, no environment, no file.
 */
#ifndef GATEWAY_SSO_CLIENT_H
#define GATEWAY_SSO_CLIENT_H

#include "base/buf.h"
#include "base/err.h"
#include "gateway/loop.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_SSO_CALLS_MAX 1024u

struct gw_sso;

struct gw_sso_options {
    const char *program; /* path of gatehouse-sso; NULL: beside our own program */
    /* the configure request (codec_sso.h makes it of a policy); copied, wiped at free */
    const char *config_json;
    size_t config_len;
    const char *const *resolver_files; /* NULL: those of the system (sso/proto.h) */
    /* Sees every reply, also one that comes too late for who asked. On our thread, with our lock: it is short and does
     * not call us. NULL is allowed. */
    void (*on_reply)(const char *json, size_t len, void *user);
    void *user;
};
/* Starts the process; does not wait for it. */
struct gw_sso *gw_sso_new(const struct gw_sso_options *options);
/* Starts a process with the new configuration for what comes from now on; the old one ends when its calls are answered. */
void gw_sso_reconfigure(struct gw_sso *sso, const char *config_json, size_t len);
/* After the loops have ended; open calls are dropped. NULL is allowed. */
void gw_sso_free(struct gw_sso *sso);

/* rc BASE_OK: json (borrowed for the callback, not NUL-terminated) is the reply object, which may say "ok": false (codec_sso.h reads
 * it). BASE_UNAVAILABLE: not running or died; BASE_TIMEOUT; BASE_FULL; BASE_TOO_LARGE: the request does not fit a frame. */
typedef void gw_sso_fn(enum base_code rc, const char *json, size_t len, void *user);
struct gw_sso_op;
/* request: one JSON object, copied. Returns NULL when done was already called. */
struct gw_sso_op *gw_sso_call(struct gw_sso *sso, struct gw_loop *loop, const char *request, size_t len,
                              unsigned timeout_ms, gw_sso_fn *done, void *user);
void gw_sso_forget(struct gw_sso_op *op); /* done will not be called. NULL is allowed */

/* The same for a thread that may wait (CLI): *ret_json is owned by the caller. */
enum base_code gw_sso_call_wait(struct gw_sso *sso, const char *request, size_t len, unsigned timeout_ms,
                                char **ret_json, size_t *ret_len, struct base_err *err);

struct gw_sso_stats {
    bool up;
    uint64_t starts_total, calls_total, timeouts_total;
    unsigned open_calls;
    int pid; /* 0: none */
};
void gw_sso_get_stats(struct gw_sso *sso, struct gw_sso_stats *ret_stats); /* any thread */

#endif
