/* SAML 2.0 service provider in gatehouse-sso: the ops saml_* and their parts of check and explain (proto.h). */
#ifndef GATEWAY_SSO_SAML_H
#define GATEWAY_SSO_SAML_H

#include "gateway/sso/sso.h"

/* Before the sandbox: whatever libxml2 and xmlsec load from files. */
void sso_saml_init(void);
/* Reads the provider's configuration: metadata, keys. */
enum base_code sso_saml_new(struct sso_provider *provider, struct base_err *err);
void sso_saml_free(struct sso_provider *provider);

/* On a provider's thread. */
void sso_saml_handle(struct sso_ctx *ctx, const char *op, const json_t *request, struct sso_reply *reply);

#endif
