/* OIDC: the provider, its metadata, and who does what. See oidc.h.
 *
 * Source: OpenID Connect Discovery 1.0, RFC 8414.
 */
#include "gateway/sso/connector.h"
#include "gateway/sso/oidc_priv.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DISCOVERY_AGE_MS   3600000u /* fetched anew after */
#define DISCOVERY_OLD_MS   86400000u
#define DISCOVERY_RETRY_MS 2000u /* after a failure */
#define DISCOVERY_PATH     "/.well-known/openid-configuration"

void sso_oidc_init(void)
{
    json_object_seed(0); /* from the kernel, before it cannot be opened */
}

/* ---- configuration ---- */

static bool texts(const json_t *list)
{
    if (!json_is_array(list))
        return false;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!json_is_string(json_array_get(list, i)))
            return false;
    return true;
}

static enum base_code read_config(struct sso_oidc *oidc, const json_t *config, struct base_err *err)
{
    oidc->issuer = sso_text(config, "issuer");
    oidc->client_id = sso_text(config, "client_id");
    oidc->client_secret = sso_text(config, "client_secret");
    oidc->token_auth = sso_text(config, "token_auth");
    oidc->subject_claim = sso_text(config, "subject_claim");
    oidc->algorithms = json_object_get(config, "algorithms");
    oidc->scopes = json_object_get(config, "scopes");
    oidc->acr = json_object_get(config, "acr");
    oidc->claims = json_object_get(config, "claims");
    oidc->bearer = json_object_get(config, "bearer");
    oidc->max_age_s = json_integer_value(json_object_get(config, "max_age_s"));
    oidc->userinfo = json_is_true(json_object_get(config, "userinfo"));
    if (oidc->issuer == NULL || oidc->client_id == NULL || oidc->token_auth == NULL)
        return base_fail(err, BASE_INVALID, 0, "issuer, client_id or token_auth is missing");
    if (!sso_url_ok(oidc->issuer) || strchr(oidc->issuer, '?') != NULL)
        return base_fail(err, BASE_INVALID, 0,
                         "the issuer must be an https address (http for a loopback address alone)");
    if (!texts(oidc->algorithms) || !texts(oidc->scopes) || !texts(oidc->acr) || !texts(oidc->claims))
        return base_fail(err, BASE_INVALID, 0, "algorithms, scopes, acr and claims must be lists of texts");
    for (size_t i = 0; i < json_array_size(oidc->algorithms); i++)
        if (!jwt_algorithm_known(json_string_value(json_array_get(oidc->algorithms, i))))
            return base_fail(err, BASE_INVALID, 0, "algorithm %s cannot be allowed",
                             json_string_value(json_array_get(oidc->algorithms, i)));
    if (json_array_size(oidc->algorithms) == 0)
        return base_fail(err, BASE_INVALID, 0, "no algorithm is allowed");
    if (strcmp(oidc->token_auth, "none") != 0 && oidc->client_secret == NULL)
        return base_fail(err, BASE_INVALID, 0, "token_auth %s needs a client secret", oidc->token_auth);
    return BASE_OK;
}

enum base_code sso_oidc_new(struct sso_provider *provider, struct base_err *err)
{
    struct sso_oidc *oidc = base_zalloc(sizeof(*oidc));
    enum base_code rc = read_config(oidc, provider->config, err);

    if (rc != BASE_OK) {
        free(oidc);
        return rc;
    }
    if (oidc->subject_claim == NULL)
        oidc->subject_claim = "";
    pthread_mutex_init(&oidc->lock, NULL);
    pthread_cond_init(&oidc->changed, NULL);
    oidc->jwks = jwks_new();
    oidc->tokens = token_cache_new();
    provider->oidc = oidc;
    return BASE_OK;
}

static void discovery_drop(struct discovery *discovery)
{
    if (discovery == NULL || --discovery->refs > 0)
        return;
    free(discovery->authorization);
    free(discovery->token);
    free(discovery->jwks);
    free(discovery->userinfo);
    free(discovery->end_session);
    free(discovery->revocation);
    free(discovery->introspection);
    json_decref(discovery->document);
    free(discovery);
}

void sso_oidc_free(struct sso_provider *provider)
{
    struct sso_oidc *oidc = provider->oidc;

    if (oidc == NULL)
        return;
    discovery_drop(oidc->discovery);
    jwks_free(oidc->jwks);
    token_cache_free(oidc->tokens);
    pthread_cond_destroy(&oidc->changed);
    pthread_mutex_destroy(&oidc->lock);
    free(oidc);
    provider->oidc = NULL;
}

/* ---- metadata ---- */

/* An address of the document. False: it is there and must not be used, or is missing and needed. */
static bool read_endpoint(const json_t *root, const char *name, bool needed, char **ret_url,
                          struct sso_reply *reply)
{
    const json_t *value = json_object_get(root, name);
    const char *url = json_string_value(value);

    if (value == NULL && !needed)
        return true;
    if (!CHECK("oidc.endpoint", url != NULL && sso_url_ok(url)))
        return sso_refuse(reply, "oidc.endpoint", "the provider's %s is missing or no https address", name);
    if (url != NULL)
        *ret_url = base_strdup(url);
    return url != NULL || sso_refuse(reply, "oidc.endpoint", "the provider's %s is missing", name);
}

static bool says_s256(const json_t *root)
{
    const json_t *methods = json_object_get(root, "code_challenge_methods_supported");

    for (size_t i = 0; i < json_array_size(methods); i++) {
        const char *method = json_string_value(json_array_get(methods, i));

        if (method != NULL && strcmp(method, "S256") == 0)
            return true;
    }
    return methods == NULL; /* many support it and do not say so */
}

static struct discovery *read_document(const struct sso_oidc *oidc, json_t *root, struct sso_reply *reply)
{
    struct discovery *d = base_zalloc(sizeof(*d));
    const char *issuer = sso_text(root, "issuer");
    char shown[72];

    d->refs = 1;
    d->document = json_incref(root);
    if (!CHECK("oidc.discovery_issuer", issuer != NULL && strcmp(issuer, oidc->issuer) == 0))
        sso_refuse(reply, "oidc.discovery_issuer", "the metadata is of issuer %s, not of the configured one",
                   sso_show(issuer, shown));
    else if (!CHECK("oidc.pkce", says_s256(root)))
        sso_refuse(reply, "oidc.pkce", "the provider does not do PKCE with S256");
    else if (read_endpoint(root, "authorization_endpoint", true, &d->authorization, reply) &&
             read_endpoint(root, "token_endpoint", true, &d->token, reply) &&
             read_endpoint(root, "jwks_uri", true, &d->jwks, reply) &&
             read_endpoint(root, "userinfo_endpoint", false, &d->userinfo, reply) &&
             read_endpoint(root, "end_session_endpoint", false, &d->end_session, reply) &&
             read_endpoint(root, "revocation_endpoint", false, &d->revocation, reply) &&
             read_endpoint(root, "introspection_endpoint", false, &d->introspection, reply)) {
        d->says_issuer =
            json_is_true(json_object_get(root, "authorization_response_iss_parameter_supported"));
        return d;
    }
    discovery_drop(d);
    return NULL;
}

static struct discovery *discover(struct sso_ctx *ctx, struct sso_provider *provider, struct sso_reply *reply)
{
    struct sso_oidc *oidc = provider->oidc;
    struct sso_http_answer answer = {0};
    struct discovery *discovery = NULL;
    struct base_err err = {0};
    char url[SSO_URL_MAX + 64];
    size_t len = strlen(oidc->issuer);
    json_t *root;

    if (len > 0 && oidc->issuer[len - 1] == '/')
        len--; /* Discovery 1.0 section 4: a slash at the end is removed before the path is added */
    snprintf(url, sizeof(url), "%.*s" DISCOVERY_PATH, (int)len, oidc->issuer);
    if (sso_http(ctx, provider, "discovery", url, "application/json", NULL, NULL, &answer, &err) != BASE_OK) {
        sso_fail(reply, err.code == BASE_TIMEOUT ? "timeout" : "unavailable", "oidc.discovery", "%s",
                 err.detail);
        return NULL;
    }
    root = answer.status == 200 ? json_loadb(answer.body, answer.len, SSO_JSON_FLAGS, NULL) : NULL;
    if (json_is_object(root))
        discovery = read_document(oidc, root, reply);
    else
        sso_fail(reply, "unavailable", "oidc.discovery", "the metadata could not be had: status %ld%s",
                 answer.status, answer.status == 200 ? ", but no JSON" : "");
    json_decref(root);
    sso_http_answer_free(&answer);
    return discovery;
}

static bool is_fresh(const struct sso_oidc *oidc, uint64_t age_ms)
{
    return oidc->discovery != NULL && base_mono_ms() - oidc->had_ms < age_ms;
}

struct discovery *oidc_discovery(struct sso_ctx *ctx, struct sso_provider *provider, struct sso_reply *reply)
{
    struct sso_oidc *oidc = provider->oidc;
    struct sso_reply why = {0};
    struct discovery *discovery = NULL;

    pthread_mutex_lock(&oidc->lock);
    while (oidc->discovering)
        pthread_cond_wait(&oidc->changed, &oidc->lock);
    if (!is_fresh(oidc, DISCOVERY_AGE_MS) &&
        (oidc->discovery == NULL || base_mono_ms() - oidc->tried_ms >= DISCOVERY_RETRY_MS)) {
        oidc->discovering = true;
        pthread_mutex_unlock(&oidc->lock);
        discovery = discover(ctx, provider, &why);
        pthread_mutex_lock(&oidc->lock);
        oidc->discovering = false;
        oidc->tried_ms = base_mono_ms();
        if (discovery != NULL) {
            discovery_drop(oidc->discovery);
            oidc->discovery = discovery;
            oidc->had_ms = oidc->tried_ms;
        }
        pthread_cond_broadcast(&oidc->changed);
    }
    discovery = is_fresh(oidc, DISCOVERY_OLD_MS) ? oidc->discovery : NULL;
    if (discovery != NULL)
        discovery->refs++;
    pthread_mutex_unlock(&oidc->lock);
    if (discovery == NULL)
        sso_fail(reply, why.refused ? why.code : "unavailable", why.refused ? why.check : "oidc.discovery",
                 "%s", why.refused ? why.detail : "the provider's metadata could not be had");
    return discovery;
}

void oidc_discovery_unref(struct sso_provider *provider, struct discovery *discovery)
{
    pthread_mutex_lock(&provider->oidc->lock);
    discovery_drop(discovery);
    pthread_mutex_unlock(&provider->oidc->lock);
}

/* ---- requests ---- */

void oidc_form_add(struct base_buf *form, const char *name, const char *value)
{
    static const char hex[] = "0123456789ABCDEF";

    if (value == NULL)
        return;
    base_buf_printf(form, "%s%s=", form->len > 0 ? "&" : "", name);
    for (; *value != '\0'; value++) {
        unsigned char c = (unsigned char)*value;

        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            strchr("-._~", c) != NULL) {
            base_buf_append_char(form, (char)c);
        } else {
            base_buf_append_char(form, '%');
            base_buf_append_char(form, hex[c >> 4]);
            base_buf_append_char(form, hex[c & 15]);
        }
    }
}

/* RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined. NULL: not this way. */
static char *basic_header(const struct sso_oidc *oidc)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    auto_buf struct base_buf pair = BASE_BUF_INIT(8192), coded = BASE_BUF_INIT(16384);

    if (strcmp(oidc->token_auth, "basic") != 0)
        return NULL;
    oidc_form_add(&pair, "", oidc->client_id);
    oidc_form_add(&coded, "", oidc->client_secret);
    base_buf_consume(&pair, 1); /* the '=' that a name would have */
    base_buf_append_char(&pair, ':');
    base_buf_append_str(&pair, coded.data + 1);
    base_wipe(coded.data, coded.len);
    base_buf_reset(&coded);
    base_buf_append_str(&coded, "Basic ");
    for (size_t i = 0; i < pair.len; i += 3) {
        unsigned char a = (unsigned char)pair.data[i],
                      b = i + 1 < pair.len ? (unsigned char)pair.data[i + 1] : 0,
                      c = i + 2 < pair.len ? (unsigned char)pair.data[i + 2] : 0;

        base_buf_append_char(&coded, alphabet[a >> 2]);
        base_buf_append_char(&coded, alphabet[(a & 3) << 4 | b >> 4]);
        base_buf_append_char(&coded, i + 1 < pair.len ? alphabet[(b & 15) << 2 | c >> 6] : '=');
        base_buf_append_char(&coded, i + 2 < pair.len ? alphabet[c & 63] : '=');
    }
    base_wipe(pair.data, pair.len);
    return coded.failed ? NULL : base_buf_take(&coded);
}

json_t *oidc_post(struct sso_ctx *ctx, struct sso_provider *provider, const char *kind, const char *url,
                  struct base_buf *form, const char *check, long *ret_status, struct sso_reply *reply)
{
    const struct sso_oidc *oidc = provider->oidc;
    char *authorization = basic_header(oidc);
    struct sso_http_answer answer = {0};
    struct base_err err = {0};
    json_t *root = NULL;

    if (authorization == NULL)
        oidc_form_add(form, "client_id", oidc->client_id);
    if (strcmp(oidc->token_auth, "post") == 0)
        oidc_form_add(form, "client_secret", oidc->client_secret);
    if (form->failed)
        sso_fail(reply, "invalid", check, "the request is too long");
    else if (sso_http(ctx, provider, kind, url, "application/json", authorization, form->data, &answer,
                      &err) != BASE_OK)
        sso_fail(reply, err.code == BASE_TIMEOUT ? "timeout" : "unavailable", check, "%s", err.detail);
    else {
        *ret_status = answer.status;
        root = json_loadb(answer.body, answer.len, SSO_JSON_FLAGS, NULL);
        if (root == NULL && answer.len == 0 && answer.status == 200)
            root = json_object(); /* revocation answers nothing */
        if (!json_is_object(root) || answer.status >= 500) {
            json_decref(root);
            root = NULL;
            sso_fail(reply, "unavailable", check, "the provider answers status %ld%s", answer.status,
                     answer.status < 500 ? " without JSON" : "");
        }
    }
    if (form->data != NULL)
        base_wipe(form->data, form->len);
    if (authorization != NULL)
        base_wipe(authorization, strlen(authorization));
    free(authorization);
    sso_http_answer_free(&answer);
    return root;
}

/* ---- dispatch ---- */

bool sso_oidc_looks_like(const char *text)
{
    const char *dot = strchr(text, '.');

    return strncmp(text, "eyJ", 3) == 0 && dot != NULL && strchr(dot + 1, '.') != NULL;
}

void sso_oidc_stats(struct sso_provider *provider, json_t *into)
{
    size_t n;
    int64_t age_s;

    jwks_stats(provider->oidc->jwks, &n, &age_s);
    json_object_set_new(into, "keys", json_integer((json_int_t)n));
    json_object_set_new(into, "keys_age_s", json_integer(age_s));
}

void sso_oidc_handle(struct sso_ctx *ctx, const char *op, const json_t *request, struct sso_reply *reply)
{
    static const struct {
        const char *op;
        void (*fn)(struct sso_ctx *ctx, const json_t *request, struct sso_reply *reply);
    } table[] = {{"oidc_start", oidc_start},
                 {"oidc_finish", oidc_finish},
                 {"oidc_refresh", oidc_refresh},
                 {"oidc_revoke", oidc_revoke},
                 {"oidc_logout_url", oidc_logout_url},
                 {"oidc_logout_token", oidc_logout_token},
                 {"bearer", oidc_bearer},
                 {"explain", oidc_explain}};

    if (strcmp(op, "check") == 0) {
        oidc_check(ctx, reply);
        return;
    }
    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++)
        if (strcmp(table[i].op, op) == 0) {
            table[i].fn(ctx, request, reply);
            return;
        }
    sso_fail(reply, "invalid", "request.op", "no such operation");
}
