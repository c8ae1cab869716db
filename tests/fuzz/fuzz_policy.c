/* pol_load over any bytes; what loads must also decide without harm. */
#include "policy/policy.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libfyaml 0.7.12 forgets a scanner's array when it gives up inside a flow mapping after a long quoted text (found here; corpus file
 * libfyaml-leak.yaml). The memory of a refused document is the library's; ours is still watched. */
const char *__lsan_default_suppressions(void)
{
    return "leak:libfyaml";
}

/* Whatever the mapping, nobody gets more roles than there is room for, nor one that the policy does not have. */
static void map_roles(const struct pol_snapshot *snapshot)
{
    static const struct pol_claim claims[] = {
        {"groups", "llm-admins; llm-users"}, {"groups", "g"}, {"c", "x"}};
    const char *names[POL_LIST_MAX * 4], *roles[2];
    enum base_code rc = BASE_INTERNAL;

    for (size_t i = 0; i <= pol_n_providers(snapshot); i++) {
        const struct pol_provider *provider = i > 0 ? pol_provider_at(snapshot, i - 1) : NULL;
        size_t n =
            pol_map_roles(snapshot, provider, claims, sizeof(claims) / sizeof(claims[0]), roles, 2, &rc);

        if (n > 2 || (rc != BASE_OK && n > 0) ||
            (provider != NULL && pol_claims_wanted(snapshot, provider, names) >= POL_LIST_MAX * 4))
            abort();
        while (n > 0)
            if (!pol_role_exists(snapshot, roles[--n]))
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const roles[] = {"employee", "r"};
    struct pol_snapshot *snapshot = NULL;
    struct pol_facts facts = {
        .roles = roles, .n_roles = 2, .model = "m", .label_given = true, .label = POL_SECRET};
    struct pol_decision decision;
    struct base_err err = {0};

    if (pol_load(&snapshot, "fuzz.yaml", (const char *)data, size, &err) != BASE_OK) {
        if (err.code == BASE_OK || err.detail[0] == '\0')
            abort(); /* a refusal without a reason */
        return 0;
    }
    pol_decide(snapshot, &facts, &decision);
    for (size_t i = 0; i < decision.n_routes; i++)
        if (decision.routes[i].backend->max_class < POL_SECRET)
            abort();
    map_roles(snapshot);
    pol_unref(snapshot);
    return 0;
}
