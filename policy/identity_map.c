/* From what a provider says of a person to the roles of the policy: pure. See policy.h. */
#include "policy/snapshot.h"

#include "base/mem.h"

#include <string.h>

/* ---- look-up ---- */

const struct pol_identity *pol_identity(const struct pol_snapshot *snapshot)
{
    return &snapshot->identity.pub;
}

size_t pol_n_providers(const struct pol_snapshot *snapshot)
{
    return snapshot->identity.n_providers;
}

const struct pol_provider *pol_provider_at(const struct pol_snapshot *snapshot, size_t index)
{
    return &snapshot->identity.providers[index];
}

const struct pol_provider *pol_provider_find(const struct pol_snapshot *snapshot, const char *name)
{
    for (size_t i = 0; i < snapshot->identity.n_providers; i++)
        if (strcmp(snapshot->identity.providers[i].name, name) == 0)
            return &snapshot->identity.providers[i];
    return NULL;
}

size_t pol_n_service_accounts(const struct pol_snapshot *snapshot)
{
    return snapshot->identity.n_accounts;
}

const struct pol_service_account *pol_service_account_at(const struct pol_snapshot *snapshot, size_t index)
{
    return &snapshot->identity.accounts[index];
}

/* ---- claims ---- */

static size_t add_name(const char **names, size_t n, size_t max, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return n;
    if (name[0] == '\0' || n == max)
        return n;
    names[n] = name;
    return n + 1;
}

size_t pol_claims_wanted(const struct pol_snapshot *snapshot, const struct pol_provider *provider,
                         const char *names[POL_LIST_MAX * 4])
{
    const struct identity_rules *identity = &snapshot->identity;
    const size_t max = POL_LIST_MAX * 4;
    size_t n = add_name(names, 0, max, provider->groups_claim);

    n = add_name(names, n, max, provider->directory_claim);
    for (size_t i = 0; i < identity->n_mappings; i++) {
        const struct mapping_rule *m = &identity->mappings[i];

        if (m->claim != NULL && (m->provider == NULL || m->provider == provider))
            n = add_name(names, n, max, m->claim);
    }
    return n;
}

/* ---- mapping ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* True when one of the parts between separators, without the blanks around it, is the name. */
static bool part_equals(const char *text, const char *separator, const char *name)
{
    const size_t name_len = strlen(name);

    for (;;) {
        const char *cut = strstr(text, separator), *start = text;
        const char *end = cut != NULL ? cut : text + strlen(text);

        while (start < end && is_blank(*start))
            start++;
        while (end > start && is_blank(end[-1]))
            end--;
        if ((size_t)(end - start) == name_len && memcmp(start, name, name_len) == 0)
            return true;
        if (cut == NULL)
            return false;
        text = cut + strlen(separator);
    }
}

static bool claim_meets(const struct mapping_rule *m, const struct pol_provider *provider,
                        const struct pol_claim *claim)
{
    const char *groups = provider != NULL ? provider->groups_claim : "groups";

    if (strcmp(claim->name, m->claim != NULL ? m->claim : groups) != 0)
        return false;
    if (m->claim == NULL && provider != NULL && provider->groups_separator[0] != '\0')
        return part_equals(claim->value, provider->groups_separator, m->value);
    return strcmp(claim->value, m->value) == 0;
}

static bool mapping_meets(const struct mapping_rule *m, const struct pol_provider *provider,
                          const struct pol_claim *claims, size_t n_claims)
{
    if (m->provider != NULL && m->provider != provider)
        return false;
    if (provider == NULL && m->claim != NULL) /* the directory has groups alone */
        return false;
    for (size_t i = 0; i < n_claims; i++)
        if (claim_meets(m, provider, &claims[i]))
            return true;
    return false;
}

size_t pol_map_roles(const struct pol_snapshot *snapshot, const struct pol_provider *provider,
                     const struct pol_claim *claims, size_t n_claims, const char **roles, size_t roles_max,
                     enum base_code *ret_rc)
{
    const struct identity_rules *identity = &snapshot->identity;
    const char *found[POL_ROLES_MAX];
    size_t n = 0;

    for (size_t i = 0; i < identity->n_mappings; i++)
        if (mapping_meets(&identity->mappings[i], provider, claims, n_claims))
            n = add_name(found, n, BASE_ARRAY_LEN(found), identity->mappings[i].role);
    if (n == 0 && provider != NULL && identity->pub.default_role[0] != '\0')
        found[n++] = identity->pub.default_role;
    *ret_rc = n > roles_max ? BASE_FULL : BASE_OK;
    if (n > roles_max)
        return 0;
    for (size_t i = 0; i < n; i++)
        roles[i] = found[i];
    return n;
}
