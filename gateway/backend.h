/* Backend: where an answer comes from, the engine in this process or an external provider, behind one interface.
 *
 * What: submit a chat, get the same events from either. Which backend may be asked is decided before (policy); this layer knows no class,
 *       role or user.
 * Who:  submit and cancel on a loop; events arrive on that loop. A gw_backend itself is immutable, reference counted, shared by loops.
 * Promises: after a successful submit exactly one FINISH or ERROR arrives, unless the call is cancelled first: then nothing arrives any more.
 *       Events never arrive inside submit.
 */
#ifndef GATEWAY_BACKEND_H
#define GATEWAY_BACKEND_H

#include "base/workers.h"
#include "gateway/api_error.h"
#include "gateway/chat.h"
#include "gateway/loop.h"
#include "policy/policy.h"

struct eng;
struct gw_http_client;
struct gw_backend;
struct gw_backend_call;

enum gw_backend_event_kind { GW_BACKEND_ERROR = 0, GW_BACKEND_STARTED, GW_BACKEND_TEXT, GW_BACKEND_FINISH };

struct gw_backend_event {
    enum gw_backend_event_kind kind;
    const char *text; /* TEXT: valid UTF-8, whole characters */
    size_t text_len;
    const char *finish_reason;                 /* FINISH: "stop", "length", "content_filter" */
    uint64_t prompt_tokens, completion_tokens; /* FINISH, and ERROR as far as known */
    bool counted;                              /* the backend itself counted the tokens */
    enum gw_api_code code;                     /* ERROR */
    bool try_next; /* ERROR: another route may answer (nothing was refused for what the request is) */
    unsigned retry_after_s;
    const struct base_err *err; /* ERROR: for operators */
};
typedef void gw_backend_event_fn(const struct gw_backend_event *event, void *user);

struct gw_backend_request {
    struct gw_loop *loop;
    struct gw_http_client *http_client; /* the loop's */
    struct base_workers *workers;
    /* masked; read before submit returns; its arena is referenced for the call's life */
    const struct gw_chat *chat;
    const char *upstream_model;
    uint32_t max_tokens; /* 0: the backend's own end */
    uint64_t cache_tag, seed;
    gw_backend_event_fn *on_event;
    void *user;
};

/* For an engine opens the model (slow: main thread); for a provider reads its key file. `old` may hold the same backend with the same
 * settings: its engine is then shared. NULL old is allowed. */
enum base_code gw_backend_open(struct gw_backend **ret_backend, const struct pol_backend *settings,
                               const struct gw_backend *old, struct base_err *err);
struct gw_backend *gw_backend_ref(struct gw_backend *backend);
/* May join an engine's thread with the last reference: never on a loop. NULL is allowed. */
void gw_backend_unref(struct gw_backend *backend);
const char *gw_backend_name(const struct gw_backend *backend);
const char *gw_backend_kind(const struct gw_backend *backend);   /* "engine", "provider" */
struct eng *gw_backend_engine(const struct gw_backend *backend); /* NULL for a provider */
/* False: cannot answer now (engine broken). Providers are taken to be up. */
bool gw_backend_ready(const struct gw_backend *backend);

enum base_code gw_backend_submit(struct gw_backend *backend, const struct gw_backend_request *request,
                                 struct gw_backend_call **ret_call, struct base_err *err);
/* Ends the call wherever it is; no event follows. Also frees a call that has ended: every call is given back by this, once. NULL is
 * allowed. */
void gw_backend_cancel(struct gw_backend_call *call);

#endif
