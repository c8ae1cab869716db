/* Access tokens: verified once, remembered until they expire. See proto.h (op bearer), oidc_priv.h.
 *
 *     token of three parts --> its issuer names the provider --> form, algorithm, signature, claims of RFC 9068
 *     else                 --> the providers that allow introspection are asked (RFC 7662)
 *     then, with every request: audience, and what the token is bound to
 */
#include "gateway/sso/oidc_priv.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS      4096u /* remembered tokens of one provider */
#define KEEP_MAX_S 300   /* a token that the provider takes back is taken no longer than this */

/* One verified token: the claims, by the token's hash. Tokens themselves are not kept. */
struct token_cache {
    pthread_mutex_t lock;
    struct {
        unsigned char hash[BASE_SHA256_BYTES];
        int64_t until_s;
        json_t *claims;
    } slots[SLOTS];
};

struct token_cache *token_cache_new(void)
{
    struct token_cache *cache = base_zalloc(sizeof(*cache));

    pthread_mutex_init(&cache->lock, NULL);
    return cache;
}

void token_cache_free(struct token_cache *cache)
{
    if (cache == NULL)
        return;
    for (size_t i = 0; i < SLOTS; i++)
        json_decref(cache->slots[i].claims);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

static size_t slot_of(const unsigned char *hash)
{
    return ((size_t)hash[0] << 8 | hash[1]) % SLOTS;
}

/* A copy, since jansson's counts belong to one thread at a time. NULL: not known. */
static json_t *cache_get(struct token_cache *cache, const char *token)
{
    unsigned char hash[BASE_SHA256_BYTES];
    json_t *claims = NULL;
    size_t slot;

    base_sha256(token, strlen(token), hash);
    slot = slot_of(hash);
    pthread_mutex_lock(&cache->lock);
    if (cache->slots[slot].claims != NULL && memcmp(cache->slots[slot].hash, hash, sizeof(hash)) == 0 &&
        sso_now() < cache->slots[slot].until_s)
        claims = json_deep_copy(cache->slots[slot].claims);
    pthread_mutex_unlock(&cache->lock);
    return claims;
}

static void cache_put(struct token_cache *cache, const char *token, const json_t *claims)
{
    unsigned char hash[BASE_SHA256_BYTES];
    json_t *copy = json_deep_copy(claims);
    int64_t exp = 0, until_s = sso_now() + KEEP_MAX_S;
    size_t slot;

    if (jwt_time(claims, "exp", &exp) && exp < until_s)
        until_s = exp;
    base_sha256(token, strlen(token), hash);
    slot = slot_of(hash);
    pthread_mutex_lock(&cache->lock);
    json_decref(cache->slots[slot].claims);
    memcpy(cache->slots[slot].hash, hash, sizeof(hash));
    cache->slots[slot].until_s = until_s;
    cache->slots[slot].claims = copy;
    pthread_mutex_unlock(&cache->lock);
}

/* ---- checks ---- */

static bool listed(const json_t *list, const char *text)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *item = json_string_value(json_array_get(list, i));

        if (item != NULL && strcmp(item, text) == 0)
            return true;
    }
    return false;
}

static bool check_audience(const json_t *claims, const struct sso_provider *provider, const char *audience,
                           struct sso_reply *reply)
{
    const json_t *aud = json_object_get(claims, "aud");
    const char *one = json_string_value(aud);
    char shown[72];

    if (!CHECK("bearer.route",
               audience != NULL && listed(json_object_get(provider->oidc->bearer, "audiences"), audience)))
        return sso_refuse(reply, "bearer.route", "this provider's access tokens are not taken here");
    if (!CHECK("bearer.audience", one != NULL ? strcmp(one, audience) == 0 : listed(aud, audience)))
        return sso_refuse(reply, "bearer.audience", "the token is not for %s", sso_show(audience, shown));
    return true;
}

/* Of the audiences that the route takes, the one that this provider's tokens may bear and this token does; with none, the first, which
 * check_audience then refuses. The claims need not be proved yet: nothing is let in by this. */
static const char *pick_audience(const json_t *wanted, const json_t *claims,
                                 const struct sso_provider *provider)
{
    const json_t *aud = json_object_get(claims, "aud"),
                 *ours = json_object_get(provider->oidc->bearer, "audiences");

    if (json_is_string(wanted))
        return json_string_value(wanted);
    for (size_t i = 0; i < json_array_size(wanted); i++) {
        const char *one = json_string_value(json_array_get(wanted, i)), *bears = json_string_value(aud);

        if (one != NULL && listed(ours, one) && (bears != NULL ? strcmp(bears, one) == 0 : listed(aud, one)))
            return one;
    }
    return json_string_value(json_array_get(wanted, 0));
}

static const char *client_of(const json_t *claims)
{
    const char *client = sso_text(claims, "client_id");

    if (client == NULL)
        client = sso_text(claims, "azp");
    return client != NULL ? client : sso_text(claims, "appid"); /* Entra ID, version 1 tokens */
}

bool access_token_check(const struct jwt *jwt, const struct sso_provider *provider, const char *audience,
                        struct sso_reply *reply)
{
    const char *client = client_of(jwt->claims);

    /* RFC 9068 section 4; the same keys sign ID tokens, and the type alone tells them apart */
    if (!CHECK("bearer.type", strcmp(jwt->typ, "at+jwt") == 0))
        return sso_refuse(reply, "bearer.type", "the token's type is not at+jwt");
    if (!CHECK("bearer.not_id_token", json_object_get(jwt->claims, "nonce") == NULL))
        return sso_refuse(reply, "bearer.not_id_token", "this is an ID token");
    if (!jwt_check_issuer(jwt, provider->oidc->issuer, reply) ||
        !jwt_check_times(jwt, provider->clock_skew_s, reply) || !jwt_check_subject(jwt, reply) ||
        !check_audience(jwt->claims, provider, audience, reply))
        return false;
    if (!CHECK("bearer.client", client != NULL && client[0] != '\0' && strlen(client) < 256))
        return sso_refuse(reply, "bearer.client", "the token does not say which client it was given to");
    return true;
}

/* ---- the two kinds ---- */

static struct sso_provider *provider_of_issuer(struct sso_process *process, const char *issuer)
{
    for (unsigned i = 0; i < process->n_providers && issuer != NULL; i++) {
        struct sso_provider *provider = &process->providers[i];

        if (provider->kind == SSO_OIDC && provider->oidc != NULL && provider->oidc->bearer != NULL &&
            strcmp(provider->oidc->issuer, issuer) == 0)
            return provider;
    }
    return NULL;
}

/* Verifies a JWT of a provider; *ret_claims is owned. */
static bool verify_jwt(struct sso_ctx *ctx, struct sso_provider *provider, const struct jwt *jwt,
                       const char *audience, struct sso_reply *reply)
{
    struct discovery *discovery;
    bool good;

    if (!jwt_check_algorithm(jwt, provider->oidc->algorithms, reply))
        return false;
    discovery = oidc_discovery(ctx, provider, reply);
    if (discovery == NULL)
        return false;
    good = jwks_verify(provider->oidc->jwks, ctx, provider, discovery->jwks, jwt, false, reply) &&
           access_token_check(jwt, provider, audience, reply);
    oidc_discovery_unref(provider, discovery);
    return good;
}

static json_t *claims_of_jwt(struct sso_ctx *ctx, const char *token, const json_t *audiences,
                             struct sso_provider **ret_provider, struct sso_reply *reply)
{
    struct jwt jwt = {0};
    json_t *claims = NULL;
    char shown[72];

    if (jwt_parse(&jwt, token, strlen(token), reply)) {
        struct sso_provider *provider = provider_of_issuer(ctx->process, sso_text(jwt.claims, "iss"));

        *ret_provider = provider;
        if (provider == NULL) {
            sso_refuse(reply, "bearer.issuer", "access tokens of issuer %s are not taken",
                       sso_show(sso_text(jwt.claims, "iss"), shown));
        } else if ((claims = cache_get(provider->oidc->tokens, token)) == NULL &&
                   verify_jwt(ctx, provider, &jwt, pick_audience(audiences, jwt.claims, provider), reply)) {
            claims = json_incref(jwt.claims);
            cache_put(provider->oidc->tokens, token, claims);
            atomic_fetch_add(&provider->verified, 1);
        }
    }
    jwt_free(&jwt);
    return claims;
}

static bool introspection_holds(const json_t *answer, const struct sso_provider *provider,
                                const json_t *audiences, struct sso_reply *reply)
{
    const char *iss = sso_text(answer, "iss"), *sub = sso_text(answer, "sub"),
               *type = sso_text(answer, "token_type");
    int64_t exp = 0, nbf = 0;

    if (!CHECK("introspection.active", json_is_true(json_object_get(answer, "active"))))
        return sso_refuse(reply, "introspection.active",
                          "the provider does not know the token, or it has ended");
    if (!CHECK("introspection.issuer", iss == NULL || strcmp(iss, provider->oidc->issuer) == 0))
        return sso_refuse(reply, "introspection.issuer", "the answer is about another issuer's token");
    if (!CHECK("introspection.type",
               type == NULL || strcasecmp(type, "Bearer") == 0 || strcasecmp(type, "DPoP") == 0))
        return sso_refuse(reply, "introspection.type", "the token is no access token");
    if (!CHECK("introspection.expired",
               jwt_time(answer, "exp", &exp) && sso_now() < exp + provider->clock_skew_s))
        return sso_refuse(reply, "introspection.expired", "the token has expired, or its end is not said");
    if (!CHECK("introspection.not_before",
               json_object_get(answer, "nbf") == NULL ||
                   (jwt_time(answer, "nbf", &nbf) && nbf <= sso_now() + provider->clock_skew_s)))
        return sso_refuse(reply, "introspection.not_before", "the token is not valid yet");
    if (!CHECK("introspection.subject",
               (sub != NULL && sub[0] != '\0' && strlen(sub) < 256) || client_of(answer) != NULL))
        return sso_refuse(reply, "introspection.subject", "the answer names nobody");
    return check_audience(answer, provider, pick_audience(audiences, answer, provider), reply);
}

static json_t *introspect(struct sso_ctx *ctx, struct sso_provider *provider, const char *token,
                          const json_t *audiences, struct sso_reply *reply)
{
    auto_buf struct base_buf form = BASE_BUF_INIT(3 * JWT_MAX);
    struct discovery *discovery = oidc_discovery(ctx, provider, reply);
    json_t *answer = NULL;
    long status = 0;

    if (discovery == NULL)
        return NULL;
    if (discovery->introspection == NULL) {
        sso_fail(reply, "unavailable", "introspection.endpoint",
                 "the provider has no introspection endpoint");
    } else {
        oidc_form_add(&form, "token", token);
        oidc_form_add(&form, "token_type_hint", "access_token");
        answer = oidc_post(ctx, provider, "introspection", discovery->introspection, &form,
                           "introspection.ask", &status, reply);
        if (answer != NULL && status != 200)
            sso_fail(reply, "unavailable", "introspection.ask", "the provider answers status %ld", status);
        else if (answer != NULL)
            introspection_holds(answer, provider, audiences, reply);
    }
    oidc_discovery_unref(provider, discovery);
    if (reply->refused) {
        json_decref(answer);
        return NULL;
    }
    return answer;
}

/* The first provider that knows it. A provider that is away makes the answer "cannot be said" rather than "no". */
static json_t *claims_of_opaque(struct sso_ctx *ctx, const char *token, const json_t *audiences,
                                struct sso_provider **ret_provider, struct sso_reply *reply)
{
    struct sso_reply last = {0};

    if (strlen(token) > JWT_MAX) {
        sso_refuse(reply, "jwt.size", "the token has more than %u bytes", JWT_MAX);
        return NULL;
    }
    for (unsigned i = 0; i < ctx->process->n_providers; i++) {
        struct sso_provider *provider = &ctx->process->providers[i];
        struct sso_reply why = {0};
        json_t *claims;

        if (provider->kind != SSO_OIDC || provider->oidc == NULL ||
            !json_is_true(json_object_get(provider->oidc->bearer, "introspection")))
            continue;
        *ret_provider = provider;
        claims = cache_get(provider->oidc->tokens, token);
        if (claims == NULL && (claims = introspect(ctx, provider, token, audiences, &why)) != NULL)
            cache_put(provider->oidc->tokens, token, claims);
        if (claims != NULL)
            return claims;
        /* what a provider that knows the token says outweighs "not known" of another, and "cannot be said" both */
        if (!last.refused || strcmp(last.check, "introspection.active") == 0 ||
            strcmp(why.code, "refused") != 0)
            last = why;
    }
    if (last.refused)
        sso_fail(reply, last.code, last.check, "%s", last.detail);
    else
        sso_refuse(reply, "bearer.form", "the token is no JWT, and no provider is asked about others");
    return NULL;
}

/* ---- the answer ---- */

static json_t *scopes_of(const json_t *claims)
{
    const json_t *scope = json_object_get(claims, "scope");
    const char *text = json_string_value(scope);
    json_t *list = json_array();

    if (text == NULL)
        text = sso_text(claims, "scp"); /* Entra ID, Okta */
    for (; text != NULL && *text != '\0';) {
        size_t len = strcspn(text, " ");

        if (len > 0)
            json_array_append_new(list, json_stringn(text, len));
        text += len + (text[len] == ' ');
    }
    return list;
}

void oidc_bearer(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const char *token = sso_text(request, "token"), *audience, *client;
    const json_t *audiences = json_object_get(request, "audience");
    struct sso_provider *provider = NULL;
    json_t *claims;
    int64_t issued = 0;
    bool bound = false;

    if (token == NULL ||
        (json_string_value(audiences) == NULL && json_string_value(json_array_get(audiences, 0)) == NULL)) {
        sso_fail(reply, "invalid", "request.member", "token or audience is missing");
        return;
    }
    claims = sso_oidc_looks_like(token) ? claims_of_jwt(ctx, token, audiences, &provider, reply)
                                        : claims_of_opaque(ctx, token, audiences, &provider, reply);
    if (claims == NULL)
        return;
    client = client_of(claims);
    if (json_object_get(claims, "sub") == NULL && client != NULL) /* a client acting for itself (RFC 7662) */
        json_object_set_new(claims, "sub", json_string(client));
    audience = pick_audience(audiences, claims, provider);
    /* the cache holds what does not change; these are asked with every request */
    if (check_audience(claims, provider, audience, reply) &&
        oidc_binding_check(claims, request, token,
                           json_is_true(json_object_get(provider->oidc->bearer, "require_binding")),
                           provider->clock_skew_s, &bound, reply) &&
        oidc_identity(provider, claims, NULL, &reply->body, reply)) {
        json_object_set_new(reply->body, "provider", json_string(provider->name));
        json_object_set_new(reply->body, "client_id", json_string(client != NULL ? client : ""));
        json_object_set_new(reply->body, "scopes", scopes_of(claims));
        json_object_set_new(reply->body, "bound", json_boolean(bound));
        json_object_set_new(reply->body, "audience", json_string(audience));
        if (jwt_time(claims, "iat", &issued))
            json_object_set_new(reply->body, "issued_at", json_integer(issued));
    }
    json_decref(claims);
}
