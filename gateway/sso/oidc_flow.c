/* OIDC: sign-in, refresh, sign-out. See proto.h for the messages, oidc_priv.h.
 *
 *     oidc_start    metadata --> the address that the browser is sent to
 *     oidc_finish   iss of the answer --> code for tokens --> ID token: form, algorithm, signature, claims --> userinfo --> identity
 *     oidc_refresh  refresh token for tokens --> the same checks, the same person
 */
#include "gateway/sso/oidc_priv.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>

#define FORM_MAX  65536u
#define STATE_MIN 22u /* characters of base64url: 128 bits */

static bool need(const json_t *request, const char *name, const char **ret_text, struct sso_reply *reply)
{
    *ret_text = sso_text(request, name);
    return *ret_text != NULL || sso_fail(reply, "invalid", "request.member", "%s is missing", name);
}

/* ---- start ---- */

static void add_scopes(struct base_buf *form, const json_t *scopes)
{
    auto_buf struct base_buf joined = BASE_BUF_INIT(4096);
    bool openid = false;

    for (size_t i = 0; i < json_array_size(scopes); i++) {
        const char *scope = json_string_value(json_array_get(scopes, i));

        openid = openid || strcmp(scope, "openid") == 0;
        base_buf_printf(&joined, "%s%s", joined.len > 0 ? " " : "", scope);
    }
    if (!openid)
        base_buf_printf(&joined, "%sopenid", joined.len > 0 ? " " : "");
    oidc_form_add(form, "scope", joined.data);
}

/* offline_access is only granted after consent (Core 11); many ask for it by themselves, some must be told. */
static bool wants_offline(const json_t *scopes)
{
    for (size_t i = 0; i < json_array_size(scopes); i++)
        if (strcmp(json_string_value(json_array_get(scopes, i)), "offline_access") == 0)
            return true;
    return false;
}

static void add_acr(struct base_buf *form, const json_t *acr)
{
    auto_buf struct base_buf joined = BASE_BUF_INIT(4096);

    for (size_t i = 0; i < json_array_size(acr); i++)
        base_buf_printf(&joined, "%s%s", joined.len > 0 ? " " : "",
                        json_string_value(json_array_get(acr, i)));
    if (joined.len > 0)
        oidc_form_add(form, "acr_values", joined.data);
}

void oidc_start(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const struct sso_oidc *oidc = ctx->provider->oidc;
    auto_buf struct base_buf form = BASE_BUF_INIT(FORM_MAX);
    const char *redirect_uri, *state, *nonce, *challenge;
    struct discovery *discovery;
    char age[24];

    if (!need(request, "redirect_uri", &redirect_uri, reply) || !need(request, "state", &state, reply) ||
        !need(request, "nonce", &nonce, reply) || !need(request, "code_challenge", &challenge, reply))
        return;
    if (strlen(state) < STATE_MIN || strlen(nonce) < STATE_MIN || strlen(challenge) != 43) {
        sso_fail(reply, "invalid", "request.member", "state, nonce or code_challenge is too short");
        return;
    }
    discovery = oidc_discovery(ctx, ctx->provider, reply);
    if (discovery == NULL)
        return;
    oidc_form_add(&form, "response_type", "code");
    oidc_form_add(&form, "client_id", oidc->client_id);
    oidc_form_add(&form, "redirect_uri", redirect_uri);
    add_scopes(&form, oidc->scopes);
    oidc_form_add(&form, "state", state);
    oidc_form_add(&form, "nonce", nonce);
    oidc_form_add(&form, "code_challenge", challenge);
    oidc_form_add(&form, "code_challenge_method", "S256");
    snprintf(age, sizeof(age), "%lld", (long long)oidc->max_age_s);
    oidc_form_add(&form, "max_age", oidc->max_age_s > 0 ? age : NULL);
    add_acr(&form, oidc->acr);
    oidc_form_add(&form, "prompt",
                  sso_text(request, "prompt") != NULL ? sso_text(request, "prompt")
                  : wants_offline(oidc->scopes)       ? "consent"
                                                      : NULL);
    oidc_form_add(&form, "login_hint", sso_text(request, "login_hint"));
    reply->body =
        json_pack("{s:o}", "url",
                  json_sprintf("%s%c%s", discovery->authorization,
                               strchr(discovery->authorization, '?') != NULL ? '&' : '?', form.data));
    oidc_discovery_unref(ctx->provider, discovery);
}

/* ---- what a token endpoint's answer holds ---- */

struct tokens {
    json_t *answer;
    const char *id_token, *access_token, *refresh_token; /* in it */
    struct jwt jwt;
    json_t *userinfo;
};

static void tokens_free(struct tokens *tokens)
{
    jwt_free(&tokens->jwt);
    json_decref(tokens->userinfo);
    json_decref(tokens->answer);
}

static bool ask_tokens(struct sso_ctx *ctx, const struct discovery *discovery, struct base_buf *form,
                       struct tokens *tokens, struct sso_reply *reply)
{
    char shown[72];
    long status = 0;

    tokens->answer =
        oidc_post(ctx, ctx->provider, "token", discovery->token, form, "oidc.token_endpoint", &status, reply);
    if (tokens->answer == NULL)
        return false;
    if (status != 200) /* invalid_grant and the like: an OAuth error's name, no free text of theirs */
        return sso_refuse(reply, "oidc.token_answer", "the provider refuses: %s (status %ld)",
                          sso_show(sso_text(tokens->answer, "error"), shown), status);
    tokens->id_token = sso_text(tokens->answer, "id_token");
    tokens->access_token = sso_text(tokens->answer, "access_token");
    tokens->refresh_token = sso_text(tokens->answer, "refresh_token");
    return true;
}

static bool verify_id_token(struct sso_ctx *ctx, const struct discovery *discovery, struct tokens *tokens,
                            const struct id_token_wants *wants, struct sso_reply *reply)
{
    struct sso_provider *provider = ctx->provider;
    struct id_token_wants all = *wants;

    all.access_token = tokens->access_token;
    if (!jwt_parse(&tokens->jwt, tokens->id_token, strlen(tokens->id_token), reply) ||
        !jwt_check_algorithm(&tokens->jwt, provider->oidc->algorithms, reply) ||
        !jwks_verify(provider->oidc->jwks, ctx, provider, discovery->jwks, &tokens->jwt, true, reply) ||
        !id_token_check(&tokens->jwt, provider, &all, reply))
        return false;
    atomic_fetch_add(&provider->verified, 1);
    return true;
}

/* Core 5.3.2: its sub must be the ID token's. */
static bool ask_userinfo(struct sso_ctx *ctx, const struct discovery *discovery, struct tokens *tokens,
                         struct sso_reply *reply)
{
    auto_buf struct base_buf authorization = BASE_BUF_INIT(JWT_MAX + 16);
    struct sso_http_answer answer = {0};
    struct base_err err = {0};
    const char *sub, *ours = sso_text(tokens->jwt.claims, "sub");

    if (!ctx->provider->oidc->userinfo)
        return true;
    if (discovery->userinfo == NULL || tokens->access_token == NULL)
        return sso_fail(reply, "unavailable", "oidc.userinfo",
                        "the provider has no userinfo endpoint or gave no access token");
    base_buf_printf(&authorization, "Bearer %s", tokens->access_token);
    if (authorization.failed || strpbrk(tokens->access_token, "\r\n") != NULL)
        return sso_refuse(reply, "oidc.userinfo", "the access token cannot be sent");
    if (sso_http(ctx, ctx->provider, "userinfo", discovery->userinfo, "application/json", authorization.data,
                 NULL, &answer, &err) != BASE_OK)
        return sso_fail(reply, err.code == BASE_TIMEOUT ? "timeout" : "unavailable", "oidc.userinfo", "%s",
                        err.detail);
    tokens->userinfo =
        answer.status == 200 ? json_loadb(answer.body, answer.len, SSO_JSON_FLAGS, NULL) : NULL;
    sub = sso_text(tokens->userinfo, "sub");
    if (!json_is_object(tokens->userinfo))
        sso_fail(reply, "unavailable", "oidc.userinfo", "userinfo answers status %ld, or no JSON",
                 answer.status);
    else if (!CHECK("oidc.userinfo_subject", sub != NULL && ours != NULL && strcmp(sub, ours) == 0))
        sso_refuse(reply, "oidc.userinfo_subject", "userinfo is of another person");
    sso_http_answer_free(&answer);
    return !reply->refused;
}

static void set_text(json_t *into, const char *name, const char *text)
{
    if (text != NULL)
        json_object_set_new(into, name, json_string(text));
}

/* ---- finish ---- */

static bool check_response_issuer(const struct sso_oidc *oidc, const struct discovery *discovery,
                                  const char *iss, struct sso_reply *reply)
{
    char shown[72];

    if (!CHECK("oidc.response_issuer_missing", iss != NULL || !discovery->says_issuer))
        return sso_refuse(reply, "oidc.response_issuer_missing",
                          "the answer does not say who gave it (RFC 9207)");
    if (!CHECK("oidc.response_issuer", iss == NULL || strcmp(iss, oidc->issuer) == 0))
        return sso_refuse(reply, "oidc.response_issuer", "the answer is of issuer %s", sso_show(iss, shown));
    return true;
}

static void finish_with(struct sso_ctx *ctx, const json_t *request, const struct discovery *discovery,
                        struct sso_reply *reply)
{
    auto_buf struct base_buf form = BASE_BUF_INIT(FORM_MAX);
    const struct id_token_wants wants = {
        .nonce = sso_text(request, "nonce"), .code = sso_text(request, "code"), .fresh_login = true};
    struct tokens tokens = {0};

    oidc_form_add(&form, "grant_type", "authorization_code");
    oidc_form_add(&form, "code", wants.code);
    oidc_form_add(&form, "redirect_uri", sso_text(request, "redirect_uri"));
    oidc_form_add(&form, "code_verifier", sso_text(request, "code_verifier"));
    if (ask_tokens(ctx, discovery, &form, &tokens, reply)) {
        if (tokens.id_token == NULL)
            sso_refuse(reply, "oidc.no_id_token", "the provider gave no ID token");
        else if (verify_id_token(ctx, discovery, &tokens, &wants, reply) &&
                 ask_userinfo(ctx, discovery, &tokens, reply) &&
                 oidc_identity(ctx->provider, tokens.jwt.claims, tokens.userinfo, &reply->body, reply)) {
            set_text(reply->body, "refresh_token", tokens.refresh_token);
            set_text(reply->body, "id_token", tokens.id_token);
        }
    }
    tokens_free(&tokens);
}

void oidc_finish(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const char *redirect_uri, *code, *verifier, *nonce;
    struct discovery *discovery;

    if (!need(request, "redirect_uri", &redirect_uri, reply) || !need(request, "code", &code, reply) ||
        !need(request, "code_verifier", &verifier, reply) || !need(request, "nonce", &nonce, reply))
        return;
    discovery = oidc_discovery(ctx, ctx->provider, reply);
    if (discovery == NULL)
        return;
    if (check_response_issuer(ctx->provider->oidc, discovery, sso_text(request, "iss"), reply))
        finish_with(ctx, request, discovery, reply);
    oidc_discovery_unref(ctx->provider, discovery);
}

/* ---- refresh ---- */

/* An ID token is optional here (Core 12.2); without one, userinfo says who it is. */
static bool refreshed_claims(struct sso_ctx *ctx, const struct discovery *discovery, struct tokens *tokens,
                             struct sso_reply *reply)
{
    static const struct id_token_wants wants = {.nonce = NULL};

    if (tokens->id_token == NULL)
        return sso_refuse(reply, "oidc.no_id_token", "the provider gave no ID token with the refresh");
    return verify_id_token(ctx, discovery, tokens, &wants, reply) &&
           ask_userinfo(ctx, discovery, tokens, reply);
}

static void refresh_with(struct sso_ctx *ctx, const json_t *request, const struct discovery *discovery,
                         struct sso_reply *reply)
{
    auto_buf struct base_buf form = BASE_BUF_INIT(FORM_MAX);
    const char *token = sso_text(request, "refresh_token"), *subject;
    struct tokens tokens = {0};

    oidc_form_add(&form, "grant_type", "refresh_token");
    oidc_form_add(&form, "refresh_token", token);
    if (ask_tokens(ctx, discovery, &form, &tokens, reply) &&
        refreshed_claims(ctx, discovery, &tokens, reply) &&
        oidc_identity(ctx->provider, tokens.jwt.claims, tokens.userinfo, &reply->body, reply)) {
        subject = sso_text(reply->body, "subject");
        if (!CHECK("oidc.refresh_subject",
                   subject != NULL && strcmp(subject, sso_text(request, "subject")) == 0))
            sso_refuse(reply, "oidc.refresh_subject", "the provider gave tokens of another person");
        set_text(reply->body, "refresh_token", tokens.refresh_token != NULL ? tokens.refresh_token : token);
        set_text(reply->body, "id_token", tokens.id_token);
    }
    tokens_free(&tokens);
}

void oidc_refresh(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    const char *token, *subject;
    struct discovery *discovery;

    if (!need(request, "refresh_token", &token, reply) || !need(request, "subject", &subject, reply))
        return;
    discovery = oidc_discovery(ctx, ctx->provider, reply);
    if (discovery == NULL)
        return;
    refresh_with(ctx, request, discovery, reply);
    oidc_discovery_unref(ctx->provider, discovery);
}

/* RFC 7009. A provider without the endpoint has nothing to tell. */
void oidc_revoke(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    auto_buf struct base_buf form = BASE_BUF_INIT(FORM_MAX);
    struct discovery *discovery;
    const char *token;
    long status = 0;

    if (!need(request, "refresh_token", &token, reply))
        return;
    discovery = oidc_discovery(ctx, ctx->provider, reply);
    if (discovery == NULL)
        return;
    if (discovery->revocation != NULL) {
        oidc_form_add(&form, "token", token);
        oidc_form_add(&form, "token_type_hint", "refresh_token");
        json_decref(oidc_post(ctx, ctx->provider, "revocation", discovery->revocation, &form,
                              "oidc.revocation", &status, reply));
    }
    if (!reply->refused)
        reply->body = json_object();
    oidc_discovery_unref(ctx->provider, discovery);
}

/* ---- sign-out ---- */

/* RP-Initiated Logout 1.0. */
void oidc_logout_url(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    auto_buf struct base_buf form = BASE_BUF_INIT(FORM_MAX);
    struct discovery *discovery = oidc_discovery(ctx, ctx->provider, reply);

    if (discovery == NULL)
        return;
    oidc_form_add(&form, "client_id", ctx->provider->oidc->client_id);
    oidc_form_add(&form, "id_token_hint", sso_text(request, "id_token_hint"));
    oidc_form_add(&form, "post_logout_redirect_uri", sso_text(request, "post_logout_redirect_uri"));
    oidc_form_add(&form, "state", sso_text(request, "state"));
    if (discovery->end_session == NULL)
        reply->body = json_pack("{s:s}", "url", "");
    else
        reply->body =
            json_pack("{s:o}", "url",
                      json_sprintf("%s%c%s", discovery->end_session,
                                   strchr(discovery->end_session, '?') != NULL ? '&' : '?', form.data));
    oidc_discovery_unref(ctx->provider, discovery);
}

void oidc_logout_token(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply)
{
    struct sso_provider *provider = ctx->provider;
    struct discovery *discovery;
    struct jwt jwt = {0};
    const char *token;
    int64_t exp = 0;

    if (!need(request, "logout_token", &token, reply))
        return;
    if (jwt_parse(&jwt, token, strlen(token), reply) &&
        jwt_check_algorithm(&jwt, provider->oidc->algorithms, reply) &&
        (discovery = oidc_discovery(ctx, provider, reply)) != NULL) {
        if (jwks_verify(provider->oidc->jwks, ctx, provider, discovery->jwks, &jwt, false, reply) &&
            logout_token_check(&jwt, provider, reply)) {
            atomic_fetch_add(&provider->verified, 1);
            jwt_time(jwt.claims, "exp", &exp);
            reply->body = json_pack("{s:s, s:s, s:I}", "issuer", provider->oidc->issuer, "jti",
                                    sso_text(jwt.claims, "jti"), "expires_at",
                                    (json_int_t)(exp + provider->clock_skew_s));
            set_text(reply->body, "subject", sso_text(jwt.claims, "sub"));
            set_text(reply->body, "sid", sso_text(jwt.claims, "sid"));
        }
        oidc_discovery_unref(provider, discovery);
    }
    jwt_free(&jwt);
}
