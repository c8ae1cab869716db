/* One identity provider of the document: OIDC or SAML. See identity.h and docs/policy.md. */
#include "policy/identity.h"

#include "base/mem.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#define SKEW_S_MAX    300u
#define MAX_AGE_S_MAX (366u * 86400u)

/* ---- faults ---- */

/* "host", "host:port", "[v6]:port"; *ret_host_len: of the host, with its brackets. */
static const char *authority_fault(const char *text, size_t len, size_t *ret_host_len)
{
    static const char host_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
    const char *end = text + len, *host_end;
    uint64_t port = 1;
    bool v6 = text[0] == '[';

    host_end = v6 ? memchr(text, ']', len) : memchr(text, ':', len);
    if (v6 &&
        (host_end == NULL || strspn(text + 1, "0123456789abcdefABCDEF:.") != (size_t)(host_end - text - 1)))
        return "has no valid host name";
    host_end = v6 ? host_end + 1 : host_end != NULL ? host_end : end;
    if (host_end == text || host_end - text > 253 ||
        (!v6 && (strspn(text, host_chars) < (size_t)(host_end - text) || text[0] == '.' || text[0] == '-')))
        return "has no valid host name";
    if (host_end != end &&
        (*host_end != ':' ||
         base_parse_u64(host_end + 1, (size_t)(end - host_end - 1), 65535, &port) != BASE_OK || port == 0))
        return "has a port that is no number from 1 to 65535";
    *ret_host_len = (size_t)(host_end - text);
    return NULL;
}

static bool is_loopback(const char *host, size_t len)
{
    char name[256];
    struct in_addr v4;

    snprintf(name, sizeof(name), "%.*s", (int)len, host);
    return strcmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0 ||
           (inet_pton(AF_INET, name, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127);
}

/* Entra's addresses for several tenants at once: every company of the world could come in. */
static bool is_all_tenants(const char *authority, const char *path)
{
    static const char host[] = "login.microsoftonline.com";
    static const char *const tenants[] = {"common", "organizations", "consumers"};

    if (!base_ascii_ieq(authority, (size_t)(path - authority), host, strlen(host)) || path[0] != '/')
        return false;
    for (size_t i = 0; i < BASE_ARRAY_LEN(tenants); i++)
        if (strcspn(path + 1, "/") == strlen(tenants[i]) &&
            strncmp(path + 1, tenants[i], strlen(tenants[i])) == 0)
            return true;
    return false;
}

static const char *issuer_fault(const char *issuer)
{
    static const char path_chars[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~!$&'()*+,;=:/-%";
    bool https = strncmp(issuer, "https://", 8) == 0;
    const char *authority = issuer + (https ? 8 : 7), *path, *fault;
    size_t host_len = 0;

    if (!https && strncmp(issuer, "http://", 7) != 0)
        return "must begin with https://";
    if (strpbrk(issuer, "?#@") != NULL)
        return "may not hold user information, a query or a fragment (? # @)";
    path = authority + strcspn(authority, "/");
    fault = authority_fault(authority, (size_t)(path - authority), &host_len);
    if (fault != NULL)
        return fault;
    if (!https && !is_loopback(authority, host_len))
        return "must begin with https://; http:// is for a provider on this machine alone (127.0.0.1, [::1], "
               "localhost)";
    if (strspn(path, path_chars) != strlen(path) || strstr(path, "..") != NULL || strstr(path, "//") != NULL)
        return "has a path with characters that are not allowed";
    if (is_all_tenants(authority, path))
        return "would let every company in: put your own tenant's id in place of common or organizations";
    return NULL;
}

static const char *host_fault(const char *text)
{
    size_t host_len = 0;

    return strchr(text, '/') != NULL ? "must be a host or host:port, without https:// and path"
                                     : authority_fault(text, strlen(text), &host_len);
}

/* What gatehouse-sso verifies. A shared secret or no signature at all never proves who made a token. */
static const char *algorithm_fault(const char *text)
{
    static const char *const good[] = {"RS256", "RS384", "RS512", "PS256", "PS384",
                                       "PS512", "ES256", "ES384", "ES512"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(good); i++)
        if (strcmp(text, good[i]) == 0)
            return NULL;
    if (base_ascii_ieq(text, strlen(text), "none", 4))
        return "means no signature: anybody could write such a token";
    if (strncmp(text, "HS", 2) == 0)
        return "signs with a shared secret: whoever may check such a token may also make it; use an "
               "algorithm "
               "with a key pair";
    return "is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512";
}

/* RFC 6749, 3.3 */
static const char *scope_fault(const char *text)
{
    for (const char *p = text; *p != '\0'; p++)
        if (*p <= ' ' || *p > '~' || *p == '"' || *p == '\\')
            return "holds a character that a scope may not have";
    return NULL;
}

/* ---- parts ---- */

static enum base_code read_bearer(const struct rules_ctx *c, const struct yaml_node *node,
                                  struct pol_provider *p)
{
    static const char *const keys[] = {"audiences", "scim_audiences", "introspection", "require_binding"};
    enum base_code rc = rules_need_keys(c, node, "bearer", keys, BASE_ARRAY_LEN(keys), 0);

    if (rc == BASE_OK)
        rc = identity_list(c, node, "audiences", NULL, &p->bearer_audiences);
    if (rc == BASE_OK)
        rc = identity_list(c, node, "scim_audiences", NULL, &p->scim_audiences);
    if (rc == BASE_OK)
        rc = identity_flag(c, node, "introspection", &p->introspection);
    if (rc == BASE_OK)
        rc = identity_flag(c, node, "require_binding", &p->require_binding);
    if (rc != BASE_OK)
        return rc;
    if (p->bearer_audiences.n == 0 && p->scim_audiences.n == 0)
        return rules_refuse(c, node, "bearer needs audiences or scim_audiences: no token could match");
    for (size_t i = 0; i < p->scim_audiences.n; i++)
        if (identity_list_has(&p->bearer_audiences, p->scim_audiences.items[i]))
            return rules_refuse(
                c, node,
                "\"%.60s\" is in audiences and scim_audiences: whoever may chat could write the "
                "directory",
                p->scim_audiences.items[i]);
    if (p->introspection && strcmp(p->token_auth, "none") == 0)
        return rules_refuse(c, node,
                            "introspection needs client_secret_file: the provider asks who is asking");
    return BASE_OK;
}

/* client_secret_file and token_auth must agree; without token_auth: basic with a secret, none without. */
static enum base_code read_client(const struct rules_ctx *c, const struct yaml_node *node,
                                  struct pol_provider *p)
{
    static const char *const words[] = {"basic", "post", "none"};
    unsigned auth;
    enum base_code rc = identity_text(c, node, "client_id", NULL, p->client_id, sizeof(p->client_id));

    if (rc == BASE_OK)
        rc = identity_path(c, node, "client_secret_file", p->client_secret_file);
    auth = p->client_secret_file[0] != '\0' ? 0 : 2;
    if (rc == BASE_OK)
        rc = identity_choice(c, node, "token_auth", words, BASE_ARRAY_LEN(words), &auth);
    if (rc == BASE_OK && (auth == 2) != (p->client_secret_file[0] == '\0'))
        return rules_refuse(c, yaml_get(node, "token_auth"),
                            auth == 2 ? "token_auth: none is for a client without secret; leave out "
                                        "client_secret_file"
                                      : "token_auth: %s needs client_secret_file",
                            words[auth]);
    memcpy(p->token_auth, words[auth], strlen(words[auth]) + 1);
    return rc;
}

static enum base_code read_oidc(const struct rules_ctx *c, const struct yaml_node *node,
                                struct pol_provider *p)
{
    static const char *const keys[] = {
        "issuer",    "client_id", "client_secret_file", "token_auth", "scopes",  "algorithms",
        "max_age_s", "acr",       "userinfo",           "hosts",      "ca_file", "bearer"};
    const struct yaml_node *bearer;
    enum base_code rc = rules_need_keys(c, node, "oidc", keys, BASE_ARRAY_LEN(keys), 2);

    p->kind = POL_PROVIDER_OIDC;
    p->scopes = (struct pol_list){.items = {"openid", "profile", "email"}, .n = 3};
    p->algorithms = (struct pol_list){.items = {"RS256", "ES256", "PS256"}, .n = 3};
    if (rc == BASE_OK)
        rc = identity_text(c, node, "issuer", issuer_fault, p->issuer, sizeof(p->issuer));
    if (rc == BASE_OK)
        rc = read_client(c, node, p);
    if (rc == BASE_OK)
        rc = identity_list(c, node, "scopes", scope_fault, &p->scopes);
    if (rc == BASE_OK && !identity_list_has(&p->scopes, "openid"))
        return rules_refuse(c, yaml_get(node, "scopes"),
                            "scopes must hold openid: without it there is no ID token");
    if (rc == BASE_OK)
        rc = identity_list(c, node, "algorithms", algorithm_fault, &p->algorithms);
    if (rc == BASE_OK && p->algorithms.n == 0)
        return rules_refuse(c, yaml_get(node, "algorithms"), "algorithms must name at least one");
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "max_age_s", 0, MAX_AGE_S_MAX, 0, &p->max_age_s);
    if (rc == BASE_OK)
        rc = identity_list(c, node, "acr", NULL, &p->acr);
    if (rc == BASE_OK)
        rc = identity_flag(c, node, "userinfo", &p->userinfo);
    if (rc == BASE_OK)
        rc = identity_list(c, node, "hosts", host_fault, &p->hosts);
    if (rc == BASE_OK)
        rc = identity_path(c, node, "ca_file", p->ca_file);
    bearer = rc == BASE_OK ? yaml_get(node, "bearer") : NULL;
    return bearer != NULL ? read_bearer(c, bearer, p) : rc;
}

static enum base_code read_saml(const struct rules_ctx *c, const struct yaml_node *node,
                                struct pol_provider *p)
{
    static const char *const keys[] = {"metadata_file", "entity_id",   "key_file",      "cert_file",
                                       "sign_requests", "want_signed", "want_encrypted"};
    static const char *const what_signed[] = {"response", "assertion", "either"};
    unsigned want = POL_SIGNED_RESPONSE;
    enum base_code rc = rules_need_keys(c, node, "saml", keys, BASE_ARRAY_LEN(keys), 1);

    p->kind = POL_PROVIDER_SAML;
    p->sign_requests = true;
    if (rc == BASE_OK)
        rc = identity_path(c, node, "metadata_file", p->metadata_file);
    if (rc == BASE_OK)
        rc = identity_text(c, node, "entity_id", NULL, p->entity_id, sizeof(p->entity_id));
    if (rc == BASE_OK)
        rc = identity_path(c, node, "key_file", p->key_file);
    if (rc == BASE_OK)
        rc = identity_path(c, node, "cert_file", p->cert_file);
    if (rc == BASE_OK)
        rc = identity_flag(c, node, "sign_requests", &p->sign_requests);
    if (rc == BASE_OK)
        rc = identity_choice(c, node, "want_signed", what_signed, BASE_ARRAY_LEN(what_signed), &want);
    if (rc == BASE_OK)
        rc = identity_flag(c, node, "want_encrypted", &p->want_encrypted);
    if (rc != BASE_OK)
        return rc;
    p->want_signed = (enum pol_signed)want;
    if ((p->key_file[0] == '\0') != (p->cert_file[0] == '\0'))
        return rules_refuse(c, node, "key_file and cert_file belong together");
    if (p->sign_requests && p->key_file[0] == '\0')
        return rules_refuse(
            c, node, "requests are signed: name key_file and cert_file, or write sign_requests: false");
    if (p->want_encrypted && p->key_file[0] == '\0')
        return rules_refuse(c, node, "want_encrypted needs key_file and cert_file");
    return BASE_OK;
}

/* `subject: ""` and the like say "the usual one". */
static enum base_code read_claim_name(const struct rules_ctx *c, const struct yaml_node *map, const char *key,
                                      char *out, size_t out_max)
{
    const struct yaml_node *node = yaml_get(map, key);

    if (node != NULL && node->kind == YAML_WORD && node->word[0] == '\0' && node->quoted) {
        out[0] = '\0';
        return BASE_OK;
    }
    return identity_text(c, map, key, NULL, out, out_max);
}

static enum base_code read_claims(const struct rules_ctx *c, const struct yaml_node *node,
                                  struct pol_provider *p)
{
    static const char *const keys[] = {"subject", "groups",    "separator",         "name",
                                       "email",   "directory", "directory_required"};
    const struct {
        const char *key;
        char *out;
        size_t max;
    } texts[] = {{"subject", p->subject_claim, sizeof(p->subject_claim)},
                 {"groups", p->groups_claim, sizeof(p->groups_claim)},
                 {"separator", p->groups_separator, sizeof(p->groups_separator)},
                 {"name", p->name_claim, sizeof(p->name_claim)},
                 {"email", p->email_claim, sizeof(p->email_claim)},
                 {"directory", p->directory_claim, sizeof(p->directory_claim)}};
    enum base_code rc = rules_need_keys(c, node, "claims", keys, BASE_ARRAY_LEN(keys), 0);

    for (size_t i = 0; rc == BASE_OK && i < BASE_ARRAY_LEN(texts); i++)
        rc = read_claim_name(c, node, texts[i].key, texts[i].out, texts[i].max);
    if (rc == BASE_OK)
        rc = identity_flag(c, node, "directory_required", &p->directory_required);
    if (rc == BASE_OK && p->directory_required && p->directory_claim[0] == '\0')
        return rules_refuse(
            c, node, "directory_required needs directory: the claim that names a person to the directory");
    return rc;
}

enum base_code identity_read_provider(const struct rules_ctx *c, const struct yaml_node *key,
                                      const struct yaml_node *node, struct pol_provider *provider)
{
    static const char *const keys[] = {"label", "oidc", "saml", "claims", "clock_skew_s"};
    const struct yaml_node *oidc, *saml, *claims;
    enum base_code rc = identity_name(c, key, "a provider's name", provider->name);

    if (rc == BASE_OK)
        rc = rules_need_keys(c, node, "a provider", keys, BASE_ARRAY_LEN(keys), 0);
    if (rc != BASE_OK)
        return rc;
    oidc = yaml_get(node, "oidc");
    saml = yaml_get(node, "saml");
    claims = yaml_get(node, "claims");
    if ((oidc == NULL) == (saml == NULL))
        return rules_refuse(c, key, "provider \"%s\" must have either \"oidc\" or \"saml\"", provider->name);
    memcpy(provider->label, provider->name, POL_NAME_MAX);
    memcpy(provider->groups_claim, "groups", sizeof("groups"));
    memcpy(provider->name_claim, "name", sizeof("name"));
    memcpy(provider->email_claim, "email", sizeof("email"));
    rc = identity_text(c, node, "label", NULL, provider->label, sizeof(provider->label));
    if (rc == BASE_OK)
        rc = rules_u32(c, node, "clock_skew_s", 0, SKEW_S_MAX, 60, &provider->clock_skew_s);
    if (rc == BASE_OK)
        rc = oidc != NULL ? read_oidc(c, oidc, provider) : read_saml(c, saml, provider);
    if (rc == BASE_OK && claims != NULL)
        rc = read_claims(c, claims, provider);
    return rc;
}
