/* OpenID Connect and OAuth 2.0 tokens in gatehouse-sso: the ops oidc_*, bearer, and their parts of check and explain (proto.h). */
#ifndef GATEWAY_SSO_OIDC_H
#define GATEWAY_SSO_OIDC_H

#include "gateway/sso/sso.h"

/* Before the sandbox. */
void sso_oidc_init(void);
/* Reads the provider's configuration. */
enum base_code sso_oidc_new(struct sso_provider *provider, struct base_err *err);
void sso_oidc_free(struct sso_provider *provider);

/* On a provider's thread (bearer, explain: on a general one). */
void sso_oidc_handle(struct sso_ctx *ctx, const char *op, const json_t *request, struct sso_reply *reply);
/* True when text looks like a JWT, whosever it is. */
bool sso_oidc_looks_like(const char *text);
/* {keys, keys_age_s} into stats. */
void sso_oidc_stats(struct sso_provider *provider, json_t *into);

#endif
