/* Principal: who makes a request, whatever proved it. The seam for single sign-on: API keys and sessions fill the same struct.
 *
 * Who: filled by auth.c on a loop; copied by value; holds no credential.
 */
#ifndef GATEWAY_PRINCIPAL_H
#define GATEWAY_PRINCIPAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_ISSUER_MAX     128u
#define GW_SUBJECT_MAX    256u
#define GW_ROLE_MAX       64u
#define GW_ROLES_MAX      16u
#define GW_CREDENTIAL_MAX 40u

#define GW_SERVICE_ISSUER "gatehouse:service" /* subjects "service:NAME", a service account of the policy */
#define GW_SERVICE_PREFIX "service:"

enum gw_auth_method {
    GW_AUTH_NONE = 0,
    GW_AUTH_API_KEY,
    GW_AUTH_SESSION,
    GW_AUTH_BEARER,     /* an access token of the organisation's provider */
    GW_AUTH_CERTIFICATE /* a client certificate of a service account */
};

struct gw_principal {
    enum gw_auth_method method;   /* NONE: nobody; every check refuses */
    char issuer[GW_ISSUER_MAX];   /* "gatehouse:keys", "gatehouse:local", later an IdP's issuer */
    char subject[GW_SUBJECT_MAX]; /* the key's owner, the person */
    char tenant[64];              /* "default" */
    char roles[GW_ROLES_MAX][GW_ROLE_MAX];
    unsigned n_roles;
    char credential_id[GW_CREDENTIAL_MAX]; /* key id, or hash prefix of the session */
    bool is_admin;                         /* has the role "admin" */
    uint64_t cache_tag;                    /* KV pages are not shared between tags: one per person (auth.h) */
    uint64_t person_tag;                   /* issuer and subject (tags.h) */
    uint64_t name_id_tag; /* SAML: issuer and NameID, likewise; the subject may be another claim. 0: none */
    uint64_t sid_tag,
        directory_tag; /* of the provider's session and of the SCIM person, keyed likewise; 0: none */
    int64_t since_us;  /* when it was proved: a revocation that is later meets it */
};

/* Fills issuer, subject, tenant, roles and is_admin from text; roles are separated by newlines ("" for none). BASE_INVALID, with
 * *principal untouched, when something is empty, too long, or there are too many roles: a cut-off identity would be another's. */
enum base_code gw_principal_fill(struct gw_principal *principal, const char *issuer, const char *subject,
                                 const char *tenant, const char *roles);
/* 1-63 of [A-Za-z0-9._-]: what keys and links may be given. */
bool gw_role_valid(const char *role);

const char *
gw_auth_method_name(enum gw_auth_method method); /* "none", "api_key", "session", "bearer", "certificate" */

#endif
