/* OIDC for operators: what a provider looks like from here (check), and why a token is refused (explain). See oidc_priv.h. */
#include "gateway/sso/connector.h"
#include "gateway/sso/oidc_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- check ---- */

static void add_finding(json_t *list, const char *level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void add_finding(json_t *list, const char *level, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    json_array_append_new(list, json_pack("{s:s, s:o}", "level", level, "text", json_vsprintf(fmt, args)));
    va_end(args);
}

static bool listed(const json_t *list, const char *text)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *item = json_string_value(json_array_get(list, i));

        if (item != NULL && strcmp(item, text) == 0)
            return true;
    }
    return false;
}

static void check_algorithms(json_t *list, const struct sso_oidc *oidc, const json_t *document)
{
    const json_t *offered = json_object_get(document, "id_token_signing_alg_values_supported");
    unsigned n = 0;

    for (size_t i = 0; i < json_array_size(oidc->algorithms); i++)
        n += listed(offered, json_string_value(json_array_get(oidc->algorithms, i)));
    if (offered != NULL && n == 0)
        add_finding(list, "error", "the provider signs with none of the configured algorithms");
    else
        add_finding(list, "ok", "%u of the configured algorithms are offered", n);
    if (listed(offered, "none"))
        add_finding(list, "warn", "the provider offers unsigned tokens (none); they are refused here");
}

static void check_features(json_t *list, const struct sso_oidc *oidc, const struct discovery *d)
{
    const json_t *methods = json_object_get(d->document, "code_challenge_methods_supported");

    if (methods == NULL)
        add_finding(list, "warn",
                    "the metadata does not say that PKCE is supported; it is used all the same");
    else
        add_finding(list, "ok", "PKCE with S256");
    if (d->says_issuer)
        add_finding(list, "ok", "answers name their issuer (RFC 9207)");
    else
        add_finding(
            list, "warn",
            "answers do not name their issuer (RFC 9207): each provider has its own redirect address here, "
            "which keeps them apart");
    if (json_is_true(json_object_get(d->document, "backchannel_logout_supported")))
        add_finding(list, "ok", "back-channel logout is supported: register /auth/oidc/NAME/logout");
    else
        add_finding(list, "warn", "no back-channel logout: access ends at the next refresh, or by SCIM");
    if (d->end_session == NULL)
        add_finding(list, "warn",
                    "no sign-out at the provider: signing out here leaves its own session open");
    if (!listed(oidc->scopes, "offline_access"))
        add_finding(list, "warn",
                    "offline_access is not asked for: without a refresh token changes in the directory are "
                    "seen at the "
                    "next sign-in, or by SCIM");
    if (strcmp(oidc->token_auth, "none") == 0)
        add_finding(
            list, "warn",
            "a public client: whoever has a code and its verifier can use it; prefer a client secret");
    if (oidc->userinfo && d->userinfo == NULL)
        add_finding(list, "error", "userinfo is configured, and the provider has none");
    if (json_is_true(json_object_get(oidc->bearer, "introspection")) && d->introspection == NULL)
        add_finding(list, "error", "introspection is configured, and the provider has none");
}

static void check_hosts(json_t *list, const struct sso_provider *provider, const struct discovery *d)
{
    const char *const urls[] = {d->token, d->jwks, d->userinfo, d->revocation, d->introspection};
    const char *issuer = provider->oidc->issuer;
    char own[256], host[256], other[256];
    unsigned own_port, port, other_port;

    if (!sso_url_host(issuer, own, sizeof(own), &own_port))
        return;
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        const json_t *hosts = json_object_get(provider->config, "hosts");
        bool known;

        if (urls[i] == NULL || !sso_url_host(urls[i], host, sizeof(host), &port))
            continue;
        known = strcmp(host, own) == 0 && port == own_port;
        for (size_t h = 0; h < json_array_size(hosts); h++)
            known = known || (sso_host_parse(json_string_value(json_array_get(hosts, h)), other,
                                             sizeof(other), &other_port) &&
                              strcmp(host, other) == 0 && port == other_port);
        if (!known)
            add_finding(list, "error",
                        "%s:%u is used by the provider and not reachable from here: add it to hosts", host,
                        port);
    }
}

void oidc_check(struct sso_ctx *ctx, struct sso_reply *reply)
{
    struct sso_provider *provider = ctx->provider;
    json_t *list = json_array();
    struct sso_reply why = {0};
    struct discovery *d = oidc_discovery(ctx, provider, &why);
    size_t n = 0, skipped = 0;

    if (d == NULL) {
        add_finding(list, "error", "%s: %s", why.check, why.detail);
    } else {
        add_finding(list, "ok", "metadata of issuer %s", provider->oidc->issuer);
        check_hosts(list, provider, d);
        check_algorithms(list, provider->oidc, d->document);
        check_features(list, provider->oidc, d);
        if (!jwks_look(provider->oidc->jwks, ctx, provider, d->jwks, &n, &skipped, &why))
            add_finding(list, "error", "%s: %s", why.check, why.detail);
        else if (n == 0)
            add_finding(list, "error", "the key set has no key that can be used");
        else
            add_finding(list, "ok", "%zu signing keys", n);
        if (skipped > 0)
            add_finding(list, "ok",
                        "%zu keys are left out: for encryption, too short, or of a kind not used here",
                        skipped);
        oidc_discovery_unref(provider, d);
    }
    if (strncmp(provider->oidc->issuer, "http://", 7) == 0)
        add_finding(list, "warn", "the issuer is reached without TLS: for a trial on one machine alone");
    if (provider->clock_skew_s > 120)
        add_finding(list, "warn", "clock_skew_s is %lld: tokens are taken so long after their end",
                    (long long)provider->clock_skew_s);
    reply->body = json_pack("{s:o}", "findings", list);
}

/* ---- explain ---- */

/* One group of checks; its first failure is a line. Goes on in any case. */
static void add_result(json_t *list, const char *name, struct sso_reply *why, const char *good)
{
    json_array_append_new(list, json_pack("{s:s, s:b, s:s}", "check", why->refused ? why->check : name, "ok",
                                          !why->refused, "detail", why->refused ? why->detail : good));
    *why = (struct sso_reply){0};
}

static const char *kind_of(const struct jwt *jwt)
{
    if (strcmp(jwt->typ, "at+jwt") == 0)
        return "access token";
    if (strcmp(jwt->typ, "logout+jwt") == 0 || json_object_get(jwt->claims, "events") != NULL)
        return "logout token";
    return strcmp(jwt->typ, "dpop+jwt") == 0 ? "DPoP proof" : "ID token";
}

static struct sso_provider *whose(struct sso_ctx *ctx, const struct jwt *jwt)
{
    const char *iss = sso_text(jwt->claims, "iss");

    if (ctx->provider != NULL)
        return ctx->provider;
    for (unsigned i = 0; i < ctx->process->n_providers && iss != NULL; i++) {
        struct sso_provider *provider = &ctx->process->providers[i];

        if (provider->kind == SSO_OIDC && provider->oidc != NULL && strcmp(provider->oidc->issuer, iss) == 0)
            return provider;
    }
    return NULL;
}

static void explain_signature(struct sso_ctx *ctx, struct sso_provider *provider, const struct jwt *jwt,
                              json_t *list)
{
    struct sso_reply why = {0};
    struct discovery *d;

    jwt_check_algorithm(jwt, provider->oidc->algorithms, &why);
    add_result(list, "jwt.algorithm", &why, jwt->alg);
    d = oidc_discovery(ctx, provider, &why);
    if (d != NULL) {
        jwks_verify(provider->oidc->jwks, ctx, provider, d->jwks, jwt, false, &why);
        oidc_discovery_unref(provider, d);
    }
    add_result(list, "jwt.signature", &why, "holds");
}

static void explain_claims(const json_t *request, struct sso_provider *provider, const struct jwt *jwt,
                           const char *kind, json_t *list)
{
    const char *client = provider->oidc->client_id, *audience = sso_text(request, "audience");
    struct sso_reply why = {0};
    size_t n = 0;

    jwt_check_issuer(jwt, provider->oidc->issuer, &why);
    add_result(list, "token.issuer", &why, "is the configured one");
    jwt_check_times(jwt, provider->clock_skew_s, &why);
    add_result(list, "token.expired", &why, "the times hold now");
    if (strcmp(kind, "ID token") == 0) {
        const struct id_token_wants wants = {.nonce = sso_text(request, "nonce"), .fresh_login = true};

        jwt_check_audience(jwt, client, &n, &why);
        add_result(list, "token.audience", &why, "is our client");
        id_token_check(jwt, provider, &wants, &why);
        add_result(list, "oidc.claims", &why,
                   wants.nonce != NULL ? "all hold" : "all hold; the nonce was not compared");
    } else if (strcmp(kind, "logout token") == 0) {
        logout_token_check(jwt, provider, &why);
        add_result(list, "logout.claims", &why, "all hold");
    } else if (audience != NULL) {
        access_token_check(jwt, provider, audience, &why);
        add_result(list, "bearer.claims", &why, "all hold");
    } else {
        add_result(list, "bearer.audience", &why, "not compared: say with --audience what it must be");
    }
}

void oidc_explain(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const char *text = sso_text(request, "text"), *kind = "";
    struct sso_provider *provider = NULL;
    json_t *list = json_array();
    struct sso_reply why = {0};
    struct jwt jwt = {0};
    char shown[72];

    if (!jwt_parse(&jwt, text, strlen(text), &why)) {
        add_result(list, "jwt.form", &why, "");
    } else {
        add_result(list, "jwt.form", &why, "three parts, strict JSON");
        kind = kind_of(&jwt);
        provider = whose(ctx, &jwt);
        if (provider == NULL || provider->kind != SSO_OIDC) {
            sso_refuse(&why, "token.issuer", "no provider with issuer %s is configured",
                       sso_show(sso_text(jwt.claims, "iss"), shown));
            add_result(list, "token.issuer", &why, "");
        } else {
            explain_signature(ctx, provider, &jwt, list);
            explain_claims(request, provider, &jwt, kind, list);
        }
    }
    reply->body = json_pack("{s:s, s:s, s:o}", "kind", kind, "provider",
                            provider != NULL ? provider->name : "", "checks", list);
    jwt_free(&jwt);
}
