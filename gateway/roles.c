/* Roles. See roles.h. */
#include "gateway/roles.h"

#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include "gateway/directory.h"
#include "gateway/local_admin.h"

#include <stdio.h>
#include <string.h>

#define GROUPS_TEXT_MAX (1u << 20)

static const char *claim_of(const struct gw_sso_reply *identity, const char *name)
{
    for (size_t i = 0; i < identity->n_claims; i++)
        if (strcmp(identity->claims[i].name, name) == 0)
            return identity->claims[i].value;
    if (strcmp(name, "email") == 0)
        return identity->email;
    return strcmp(name, "sub") == 0 ? identity->subject : NULL;
}

/* ---- the directory ---- */

struct group_names {
    struct base_buf text; /* one after the other, each with its NUL */
    size_t n;
};

static void keep_group(const char *group, void *user)
{
    struct group_names *names = user;

    if (base_buf_append(&names->text, group, strlen(group) + 1) == BASE_OK)
        names->n++;
}

/* What the directory says of a person: his state, and the roles of his groups. BASE_FULL: too many to be counted. */
static enum base_code ask_directory(const struct pol_snapshot *policy, struct gw_directory *directory,
                                    const char *key, enum gw_person_state *ret_state,
                                    const char *roles[GW_ROLES_MAX], size_t *ret_n)
{
    struct group_names names = {.text = BASE_BUF_INIT(GROUPS_TEXT_MAX)};
    auto_free struct pol_claim *claims = NULL;
    enum base_code rc = BASE_OK;
    const char *at;

    *ret_state = GW_PERSON_UNKNOWN;
    *ret_n = 0;
    if (directory == NULL || key[0] == '\0' || !pol_identity(policy)->scim)
        return BASE_OK;
    *ret_state = gw_directory_find(directory, key, keep_group, &names);
    claims = base_zalloc((names.n + 1) * sizeof(*claims));
    at = names.text.data;
    for (size_t i = 0; i < names.n; i++, at += strlen(at) + 1)
        claims[i] = (struct pol_claim){.name = "groups", .value = at};
    if (names.text.failed)
        rc = BASE_FULL;
    else if (names.n > 0)
        *ret_n = pol_map_roles(policy, NULL, claims, names.n, roles, GW_ROLES_MAX, &rc);
    base_buf_free(&names.text);
    return rc;
}

static bool add_role(struct gw_principal *who, const char *role)
{
    for (unsigned i = 0; i < who->n_roles; i++)
        if (strcmp(who->roles[i], role) == 0)
            return true;
    if (who->n_roles == GW_ROLES_MAX)
        return false;
    snprintf(who->roles[who->n_roles++], GW_ROLE_MAX, "%s", role);
    who->is_admin = who->is_admin || strcmp(role, "admin") == 0;
    return true;
}

enum base_code gw_roles_refine(struct gw_principal *who, const char *provider, const char *directory_key,
                               void *user)
{
    struct gw_app *app = user;
    struct gw_runtime *runtime = gw_app_runtime(app);
    const struct pol_snapshot *policy = gw_runtime_policy(runtime);
    const struct pol_provider *settings = provider[0] != '\0' ? pol_provider_find(policy, provider) : NULL;
    const char *roles[GW_ROLES_MAX];
    enum gw_person_state state;
    size_t n;
    enum base_code rc = ask_directory(policy, app->directory, directory_key, &state, roles, &n);

    if (!CHECK("scim.use_deactivated", state != GW_PERSON_DEACTIVATED) ||
        !CHECK("scim.use_required",
               settings == NULL || !settings->directory_required || state != GW_PERSON_UNKNOWN))
        rc = BASE_DENIED;
    if (!gw_local_may_stay(policy, provider))
        rc = BASE_DENIED;
    for (size_t i = 0; rc == BASE_OK && i < n; i++)
        if (!add_role(who, roles[i]))
            rc = BASE_FULL;
    if (rc == BASE_OK && !CHECK("scim.use_role", who->n_roles > 0))
        rc = BASE_DENIED;
    gw_runtime_unref(runtime);
    return rc == BASE_OK ? BASE_OK : BASE_DENIED; /* nobody comes in by half of his roles */
}

/* ---- sign-in ---- */

enum base_code gw_roles_of_claims(const struct pol_snapshot *policy, struct gw_directory *directory,
                                  const struct pol_provider *provider, const struct gw_sso_reply *identity,
                                  struct gw_principal *who, char *directory_key, const char **ret_check)
{
    const char *roles[GW_ROLES_MAX], *more[GW_ROLES_MAX], *key;
    enum gw_person_state state;
    enum base_code full = BASE_OK, rc;
    size_t n, n_more;

    key = provider->directory_claim[0] != '\0' ? claim_of(identity, provider->directory_claim) : NULL;
    snprintf(directory_key, GW_SUBJECT_MAX, "%s", key != NULL && strlen(key) < GW_SUBJECT_MAX ? key : "");
    rc = ask_directory(policy, directory, directory_key, &state, more, &n_more);
    *ret_check = "signin.directory_required";
    if (!CHECK("signin.directory_required", !provider->directory_required || state != GW_PERSON_UNKNOWN))
        return BASE_DENIED;
    *ret_check = "scim.deactivated";
    if (!CHECK("scim.deactivated", state != GW_PERSON_DEACTIVATED))
        return BASE_DENIED;
    n = pol_map_roles(policy, provider, identity->claims, identity->n_claims, roles, GW_ROLES_MAX, &full);
    *ret_check = full != BASE_OK || rc != BASE_OK ? "signin.roles_max" : "signin.no_role";
    if (full != BASE_OK || rc != BASE_OK || !CHECK("signin.no_role", n + n_more > 0))
        return BASE_DENIED;
    who->n_roles = 0;
    who->is_admin = false;
    for (size_t i = 0; i < n; i++)
        add_role(who, roles[i]);
    return BASE_OK;
}
