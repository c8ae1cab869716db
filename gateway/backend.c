/* Backend: opening, sharing and dispatch. See backend.h. */
#include "gateway/backend_priv.h"

#include "base/mem.h"
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

static enum base_code open_provider(struct gw_backend *backend, const struct pol_backend *settings,
                                    struct base_err *err)
{
    static const char path[] = "/chat/completions";
    size_t n = strlen(settings->base_url);

    while (n > 0 && settings->base_url[n - 1] == '/')
        n--;
    backend->url = base_alloc(n + sizeof(path));
    memcpy(backend->url, settings->base_url, n);
    memcpy(backend->url + n, path, sizeof(path));
    backend->ca_file = settings->ca_file != NULL ? base_strdup(settings->ca_file) : NULL;
    backend->connect_timeout_ms = settings->connect_timeout_ms;
    backend->first_byte_timeout_ms = settings->first_byte_timeout_ms;
    backend->idle_timeout_ms = settings->idle_timeout_ms;
    backend->total_timeout_ms = settings->total_timeout_ms;
    if (settings->api_key_file == NULL)
        return BASE_OK;
    return base_secret_read_file(&backend->api_key, settings->api_key_file, err);
}

enum base_code gw_backend_open(struct gw_backend **ret_backend, const struct pol_backend *settings,
                               const struct gw_backend *old, struct base_err *err)
{
    struct gw_backend *backend = base_zalloc(sizeof(*backend));
    enum base_code rc;

    atomic_init(&backend->refs, 1);
    snprintf(backend->name, sizeof(backend->name), "%s", settings->name);
    backend->kind = settings->kind;
    if (settings->kind == POL_BACKEND_ENGINE)
        rc = gw_engine_open(&backend->engine, settings, old != NULL ? old->engine : NULL, err);
    else if (settings->kind == POL_BACKEND_PROVIDER)
        rc = open_provider(backend, settings, err);
    else
        rc = base_fail(err, BASE_INTERNAL, 0, "no such kind of backend");
    if (rc != BASE_OK) {
        base_fail_prefix(err, rc, "backend %s", settings->name);
        gw_backend_unref(backend);
        return rc;
    }
    *ret_backend = backend;
    return BASE_OK;
}

struct gw_backend *gw_backend_ref(struct gw_backend *backend)
{
    atomic_fetch_add_explicit(&backend->refs, 1, memory_order_relaxed);
    return backend;
}

void gw_backend_unref(struct gw_backend *backend)
{
    if (backend == NULL || atomic_fetch_sub_explicit(&backend->refs, 1, memory_order_acq_rel) != 1)
        return;
    gw_engine_unref(backend->engine);
    base_secret_free(backend->api_key);
    free(backend->url);
    free(backend->ca_file);
    free(backend);
}

const char *gw_backend_name(const struct gw_backend *backend)
{
    return backend->name;
}

const char *gw_backend_kind(const struct gw_backend *backend)
{
    return backend->kind == POL_BACKEND_ENGINE ? "engine" : "provider";
}

struct eng *gw_backend_engine(const struct gw_backend *backend)
{
    return backend->engine != NULL ? gw_engine_get(backend->engine) : NULL;
}

bool gw_backend_ready(const struct gw_backend *backend)
{
    struct eng_stats stats;

    if (backend->kind != POL_BACKEND_ENGINE || backend->engine == NULL)
        return backend->kind != POL_BACKEND_ENGINE;
    eng_get_stats(gw_engine_get(backend->engine), &stats);
    return !stats.device_lost;
}

enum base_code gw_backend_submit(struct gw_backend *backend, const struct gw_backend_request *request,
                                 struct gw_backend_call **ret_call, struct base_err *err)
{
    return backend->kind == POL_BACKEND_ENGINE ? gw_engine_submit(backend, request, ret_call, err)
                                               : gw_provider_submit(backend, request, ret_call, err);
}

void gw_backend_cancel(struct gw_backend_call *call)
{
    if (call != NULL)
        call->cancel(call);
}
