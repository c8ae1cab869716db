/* The inside of a snapshot: what a policy document says, every name resolved to an index.
 *
 * Who:  policy/ only. Written by rules.c while it loads, read-only after that; freed with its last reference.
 */
#ifndef POLICY_SNAPSHOT_H
#define POLICY_SNAPSHOT_H

#include "policy/policy.h"

#include "base/arena.h"

#include <stdatomic.h>

#define SNAPSHOT_MARKINGS_MAX 256u
#define SNAPSHOT_LIMITS_MAX   64u
#define SNAPSHOT_GUARDS_MAX   64u
#define SNAPSHOT_WARNINGS_MAX 64u
#define SNAPSHOT_ARENA_BYTES  (8u << 20)

struct scan_db; /* scan.c */

struct marking {
    const char *text;
    enum pol_class cls;
};

struct route_rule {
    const struct pol_backend *backend;
    char upstream_model[POL_NAME_MAX];
};

struct model_rule {
    struct pol_model pub;
    struct route_rule routes[POL_ROUTES_MAX];
    size_t n_routes;
};

struct role_rule {
    char name[POL_NAME_MAX];
    uint64_t models[POL_MODELS_MAX / 64]; /* one bit for each model that it grants */
    uint64_t
        denied[POL_MODELS_MAX / 64]; /* ... that nobody with this role may use, whatever other roles grant */
    enum pol_class max_class;
    const struct pol_limits *limits;
    const struct pol_guard *guard;
};

struct mapping_rule {
    const struct pol_provider *provider; /* NULL: any, and the directory */
    const char *claim;                   /* NULL: the groups */
    const char *value, *role;
};

struct identity_rules {
    struct pol_identity pub;
    struct pol_provider *providers;
    struct mapping_rule *mappings;
    struct pol_service_account *accounts;
    size_t n_providers, n_mappings, n_accounts;
};

struct pol_snapshot {
    atomic_uint refs;
    uint64_t id; /* differs for every snapshot of the process: a scratch knows by it whether it fits */
    char hash[POL_HASH_HEX];
    struct base_arena *arena; /* all of the below */
    enum pol_class default_class;
    enum pol_class detector_class[POL_DETECT_COUNT];
    bool markings_ignore_case;
    struct marking *markings;
    struct pol_backend *backends;
    struct model_rule *models;
    struct role_rule *roles;
    struct pol_limits *limits;
    struct pol_guard *guards;
    const char **warnings; /* for `policy check` */
    size_t n_markings, n_backends, n_models, n_roles, n_limits, n_guards, n_warnings;
    struct identity_rules identity;
    struct scan_db *scan;
};

static inline bool role_grants(const struct role_rule *role, size_t model)
{
    return (role->models[model / 64] >> (model % 64) & 1) != 0;
}

static inline bool role_denies(const struct role_rule *role, size_t model)
{
    return (role->denied[model / 64] >> (model % 64) & 1) != 0;
}

/* NULL when the policy has no such role. */
const struct role_rule *snapshot_role(const struct pol_snapshot *snapshot, const char *name);

/* scan.c: compiles markings and the detectors' first filter. */
enum base_code scan_db_new(struct scan_db **ret_db, const struct pol_snapshot *snapshot,
                           struct base_err *err);
void scan_db_free(struct scan_db *db); /* NULL is allowed */

#endif
