/* Runtime: a policy snapshot with its open backends. See runtime.h. */
#include "gateway/runtime.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdatomic.h>
#include <string.h>

struct gw_runtime {
    atomic_int refs;
    struct pol_snapshot *policy;
    int64_t loaded_us;
    size_t n_backends;
    struct gw_backend *backends[POL_BACKENDS_MAX];
};

static const struct gw_backend *find_by_name(const struct gw_runtime *runtime, const char *name)
{
    for (size_t i = 0; runtime != NULL && i < runtime->n_backends; i++)
        if (strcmp(gw_backend_name(runtime->backends[i]), name) == 0)
            return runtime->backends[i];
    return NULL;
}

enum base_code gw_runtime_load(struct gw_runtime **ret_runtime, const char *policy_file,
                               const struct gw_runtime *old, struct base_err *err)
{
    struct gw_runtime *runtime = base_zalloc(sizeof(*runtime));
    enum base_code rc;

    atomic_init(&runtime->refs, 1);
    runtime->loaded_us = base_wall_us();
    rc = pol_load_file(&runtime->policy, policy_file, err);
    for (size_t i = 0; rc == BASE_OK && i < pol_n_backends(runtime->policy); i++) {
        const struct pol_backend *settings = pol_backend_at(runtime->policy, i);

        rc = gw_backend_open(&runtime->backends[i], settings, find_by_name(old, settings->name), err);
        if (rc == BASE_OK)
            runtime->n_backends++;
    }
    if (rc != BASE_OK) {
        gw_runtime_unref(runtime);
        return rc;
    }
    *ret_runtime = runtime;
    return BASE_OK;
}

struct gw_runtime *gw_runtime_ref(struct gw_runtime *runtime)
{
    atomic_fetch_add_explicit(&runtime->refs, 1, memory_order_relaxed);
    return runtime;
}

void gw_runtime_unref(struct gw_runtime *runtime)
{
    if (runtime == NULL || atomic_fetch_sub_explicit(&runtime->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < runtime->n_backends; i++)
        gw_backend_unref(runtime->backends[i]);
    pol_unref(runtime->policy);
    free(runtime);
}

struct pol_snapshot *gw_runtime_policy(const struct gw_runtime *runtime)
{
    return runtime->policy;
}

struct gw_backend *gw_runtime_backend(const struct gw_runtime *runtime, const struct pol_backend *settings)
{
    for (size_t i = 0; i < runtime->n_backends; i++)
        if (pol_backend_at(runtime->policy, i) == settings)
            return runtime->backends[i];
    return NULL;
}

size_t gw_runtime_n_backends(const struct gw_runtime *runtime)
{
    return runtime->n_backends;
}

struct gw_backend *gw_runtime_backend_at(const struct gw_runtime *runtime, size_t index)
{
    return runtime->backends[index];
}

int64_t gw_runtime_loaded_us(const struct gw_runtime *runtime)
{
    return runtime->loaded_us;
}
