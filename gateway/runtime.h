/* Runtime: one policy version and the backends that it names, as an immutable, reference counted whole.
 *
 * What: a call takes a reference at its decision and keeps it to its end, so that a reload never changes what a running call may do.
 * Who:  get and unref from any thread; load from the main thread.
 */
#ifndef GATEWAY_RUNTIME_H
#define GATEWAY_RUNTIME_H

#include "gateway/backend.h"
#include "policy/policy.h"

struct gw_runtime;

/* Loads and checks the policy, opens its backends (sharing the engines of `old`). On failure nothing changes. */
enum base_code gw_runtime_load(struct gw_runtime **ret_runtime, const char *policy_file,
                               const struct gw_runtime *old, struct base_err *err);
struct gw_runtime *gw_runtime_ref(struct gw_runtime *runtime);
void gw_runtime_unref(struct gw_runtime *runtime); /* NULL is allowed */
struct pol_snapshot *gw_runtime_policy(const struct gw_runtime *runtime);
/* The open backend of a route. Never NULL for a route of this runtime's policy. */
struct gw_backend *gw_runtime_backend(const struct gw_runtime *runtime, const struct pol_backend *settings);
size_t gw_runtime_n_backends(const struct gw_runtime *runtime);
struct gw_backend *gw_runtime_backend_at(const struct gw_runtime *runtime, size_t index);
int64_t gw_runtime_loaded_us(const struct gw_runtime *runtime); /* wall clock */

#endif
