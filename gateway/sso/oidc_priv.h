/* OIDC, between its files: oidc.c (provider, discovery, dispatch), oidc_flow.c (sign-in, refresh, logout), id_token.c (checks),
 * bearer.c and dpop.c (access tokens), oidc_report.c (check, explain). */
#ifndef GATEWAY_SSO_OIDC_PRIV_H
#define GATEWAY_SSO_OIDC_PRIV_H

#include "base/buf.h"
#include "gateway/sso/http.h"
#include "gateway/sso/jwks.h"
#include "gateway/sso/oidc.h"

/* What the provider's metadata says and we use; immutable, replaced whole. Addresses were checked. */
struct discovery {
    unsigned refs;
    char *authorization, *token, *jwks, *userinfo, *end_session, *revocation,
        *introspection; /* the first three are never NULL */
    bool says_issuer;   /* authorization_response_iss_parameter_supported: then the answer must */
    json_t *document;   /* for check */
};

struct token_cache; /* bearer.c */

struct sso_oidc {
    const char *issuer, *client_id, *client_secret, *token_auth, *subject_claim;
    const json_t *algorithms, *scopes, *acr, *claims, *bearer;
    int64_t max_age_s;
    bool userinfo;
    struct jwks *jwks;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct discovery *discovery; /* NULL: never had */
    bool discovering;
    uint64_t tried_ms, had_ms;
    struct base_err failure;
    struct token_cache *tokens;
};

/* A reference to the metadata, fetched when there is none or it is old. NULL: the reply says why. */
struct discovery *oidc_discovery(struct sso_ctx *ctx, struct sso_provider *provider, struct sso_reply *reply);
void oidc_discovery_unref(struct sso_provider *provider, struct discovery *discovery);

/* Appends name=value of a form or query, percent-encoded. */
void oidc_form_add(struct base_buf *form, const char *name, const char *value);
/* A POST with our client's authentication to an endpoint that answers JSON. NULL: the reply says why ("unavailable", "timeout").
 * Any status; *ret_status. kind: as sso_http has it. */
json_t *oidc_post(struct sso_ctx *ctx, struct sso_provider *provider, const char *kind, const char *url,
                  struct base_buf *form, const char *check, long *ret_status, struct sso_reply *reply);

/* ---- id_token.c ---- */

struct id_token_wants {
    const char *nonce;        /* NULL: none may be there but the first one's (refresh) */
    const char *access_token; /* NULL: none came with it */
    const char *code;         /* for c_hash; NULL: none */
    bool fresh_login;         /* max_age and acr are checked: at sign-in, not at refresh */
};
/* All claims of an ID token whose signature holds. */
bool id_token_check(const struct jwt *jwt, const struct sso_provider *provider,
                    const struct id_token_wants *wants, struct sso_reply *reply);
/* typ, events, nonce, names, jti, freshness of a logout token (OpenID Connect Back-Channel Logout 1.0, 2.6), and what all tokens share. */
bool logout_token_check(const struct jwt *jwt, const struct sso_provider *provider, struct sso_reply *reply);

/* IDENTITY of proto.h: the configured claims of one or two sources (userinfo second, may be NULL) as lists of texts.
 * False: refused (oidc.groups_overage, ...). *ret is owned. */
bool oidc_identity(const struct sso_provider *provider, const json_t *claims, const json_t *userinfo,
                   json_t **ret, struct sso_reply *reply);

/* ---- flows ---- */
void oidc_start(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);
void oidc_finish(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);
void oidc_refresh(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);
void oidc_revoke(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);
void oidc_logout_url(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);
void oidc_logout_token(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);

/* ---- bearer.c, dpop.c ---- */
struct token_cache *token_cache_new(void);
void token_cache_free(struct token_cache *cache);
void oidc_bearer(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);
/* typ, issuer, audience, times, subject, client of an access token whose signature holds (RFC 9068 section 4). */
bool access_token_check(const struct jwt *jwt, const struct sso_provider *provider, const char *audience,
                        struct sso_reply *reply);
/* cnf of a token (RFC 9449, RFC 8705) against what the request brought. *ret_bound: it has one. */
bool oidc_binding_check(const json_t *claims, const json_t *request, const char *token, bool required,
                        int64_t skew_s, bool *ret_bound, struct sso_reply *reply);

/* ---- oidc_report.c ---- */
void oidc_check(struct sso_ctx *ctx, struct sso_reply *reply);
void oidc_explain(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);

#endif
