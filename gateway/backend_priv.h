/* Backend internals: what backend.c, backend_engine.c and backend_provider.c share. */
#ifndef GATEWAY_BACKEND_PRIV_H
#define GATEWAY_BACKEND_PRIV_H

#include "gateway/backend.h"

#include "base/secret.h"

#include <stdatomic.h>

struct gw_shared_engine; /* an open engine that two policy versions may share */

struct gw_backend {
    atomic_int refs;
    char name[POL_NAME_MAX];
    enum pol_backend_kind kind;
    /* engine */
    struct gw_shared_engine *engine;
    /* provider */
    char *url; /* base_url + "/chat/completions" */
    char *ca_file;
    struct base_secret *api_key; /* NULL: none */
    unsigned connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms, total_timeout_ms;
};

/* Every kind of call begins with this. */
struct gw_backend_call {
    void (*cancel)(struct gw_backend_call *call);
};

enum base_code gw_engine_open(struct gw_shared_engine **ret_engine, const struct pol_backend *settings,
                              struct gw_shared_engine *old, struct base_err *err);
void gw_engine_unref(struct gw_shared_engine *engine);
struct eng *gw_engine_get(const struct gw_shared_engine *engine);
enum base_code gw_engine_submit(struct gw_backend *backend, const struct gw_backend_request *request,
                                struct gw_backend_call **ret_call, struct base_err *err);
enum base_code gw_provider_submit(struct gw_backend *backend, const struct gw_backend_request *request,
                                  struct gw_backend_call **ret_call, struct base_err *err);

#endif
