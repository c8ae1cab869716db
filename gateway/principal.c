/* Principal: filling and names. See principal.h. */
#include "gateway/principal.h"

#include <string.h>

static bool copy_text(char *out, size_t out_max, const char *text, size_t len)
{
    if (len == 0 || len >= out_max)
        return false;
    memcpy(out, text, len);
    out[len] = '\0';
    return true;
}

static bool fill_roles(struct gw_principal *p, const char *roles)
{
    while (*roles != '\0') {
        size_t len = strcspn(roles, "\n");

        if (p->n_roles == GW_ROLES_MAX || !copy_text(p->roles[p->n_roles], GW_ROLE_MAX, roles, len))
            return false;
        if (strcmp(p->roles[p->n_roles], "admin") == 0)
            p->is_admin = true;
        p->n_roles++;
        roles += len + (roles[len] == '\n');
    }
    return true;
}

enum base_code gw_principal_fill(struct gw_principal *principal, const char *issuer, const char *subject,
                                 const char *tenant, const char *roles)
{
    struct gw_principal p = *principal;

    p.n_roles = 0;
    p.is_admin = false;
    if (!copy_text(p.issuer, sizeof(p.issuer), issuer, strlen(issuer)) ||
        !copy_text(p.subject, sizeof(p.subject), subject, strlen(subject)) ||
        !copy_text(p.tenant, sizeof(p.tenant), tenant, strlen(tenant)) || !fill_roles(&p, roles))
        return BASE_INVALID;
    *principal = p;
    return BASE_OK;
}

bool gw_role_valid(const char *role)
{
    size_t len = strlen(role);

    return len > 0 && len < GW_ROLE_MAX &&
           strspn(role, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

const char *gw_auth_method_name(enum gw_auth_method method)
{
    switch (method) {
    case GW_AUTH_NONE: return "none";
    case GW_AUTH_API_KEY: return "api_key";
    case GW_AUTH_SESSION: return "session";
    case GW_AUTH_BEARER: return "bearer";
    case GW_AUTH_CERTIFICATE: return "certificate";
    }
    return "none";
}
