/* Roles. See roles.h. */
#include "gateway/roles.h"

#include "base/check.h"

#include <stdio.h>
#include <string.h>

static const char *claim_of(const struct gw_sso_reply *identity, const char *name)
{
    for (size_t i = 0; i < identity->n_claims; i++)
        if (strcmp(identity->claims[i].name, name) == 0)
            return identity->claims[i].value;
    if (strcmp(name, "email") == 0)
        return identity->email;
    return strcmp(name, "sub") == 0 ? identity->subject : NULL;
}

enum base_code gw_roles_of_claims(const struct pol_snapshot *policy, const struct pol_provider *provider,
                                  const struct gw_sso_reply *identity, struct gw_principal *who,
                                  char *directory_key, const char **ret_check)
{
    const char *roles[GW_ROLES_MAX], *key;
    enum base_code full = BASE_OK;
    size_t n;

    /* nobody has been provisioned yet: there is no directory in this version */
    *ret_check = "signin.directory_required";
    if (!CHECK("signin.directory_required", !provider->directory_required))
        return BASE_DENIED;
    key = provider->directory_claim[0] != '\0' ? claim_of(identity, provider->directory_claim) : NULL;
    snprintf(directory_key, GW_SUBJECT_MAX, "%s", key != NULL && strlen(key) < GW_SUBJECT_MAX ? key : "");
    n = pol_map_roles(policy, provider, identity->claims, identity->n_claims, roles, GW_ROLES_MAX, &full);
    *ret_check = full == BASE_FULL ? "signin.roles_max" : "signin.no_role";
    if (full == BASE_FULL || !CHECK("signin.no_role", n > 0))
        return BASE_DENIED;
    who->n_roles = 0;
    who->is_admin = false;
    for (size_t i = 0; i < n; i++) {
        snprintf(who->roles[who->n_roles++], GW_ROLE_MAX, "%s", roles[i]);
        who->is_admin = who->is_admin || strcmp(roles[i], "admin") == 0;
    }
    return BASE_OK;
}
