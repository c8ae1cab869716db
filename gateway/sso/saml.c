/* SAML: not here yet; a provider of that kind is refused when it is configured. */
#include "gateway/sso/saml.h"

void sso_saml_init(void)
{
}

enum base_code sso_saml_new(struct sso_provider *provider, struct base_err *err)
{
    return base_fail(err, BASE_UNSUPPORTED, 0, "SAML is not in this build");
}

void sso_saml_free(struct sso_provider *provider)
{
}

void sso_saml_handle(struct sso_ctx *ctx, const char *op, const json_t *request, struct sso_reply *reply)
{
    sso_fail(reply, "invalid", "saml.absent", "SAML is not in this build");
}
