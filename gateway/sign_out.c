/* Sign-out: what an identity provider ends (back-channel logout, SAML single logout), and where a browser goes on to that signed out
 * here. See sign_in_priv.h.
 */
#include "gateway/sign_in_priv.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/form.h"
#include "gateway/metrics.h"
#include "gateway/page.h"
#include "gateway/roles.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKEN_MAX     65536u
#define LOGOUT_KEEP_S 900 /* a logout token's jti is remembered at least so long */

/* ---- back-channel logout (OpenID Connect Back-Channel Logout 1.0 section 2.8) ---- */

static void send_logout_answer(struct sign_in *s, int status, const char *error)
{
    const struct gw_header headers[] = {{"content-type", "application/json"}, {"cache-control", "no-store"}};
    char body[96];
    int n = snprintf(body, sizeof(body), error != NULL ? "{\"error\":\"%s\"}" : "{}", error);

    gw_sign_in_count(s, status == 200 ? "ok" : status == 400 ? "refused" : "unavailable");
    if (s->visit.http != NULL)
        gw_http_send(s->visit.http, status, headers, BASE_ARRAY_LEN(headers), body, (size_t)n);
    gw_visit_over(&s->visit);
}

static void on_logged_out(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct sign_in *s = user;

    (void)none;
    if (rc == BASE_OK)
        gw_sign_in_record(s, "sso.logout", s->provider->name);
    send_logout_answer(s, rc == BASE_OK ? 200 : 503, rc == BASE_OK ? NULL : "temporarily_unavailable");
}

static void on_jti_used(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct sign_in *s = user;
    const struct gw_sso_reply *r = &s->reply;

    (void)none;
    if (!CHECK("signin.logout_once", rc != BASE_EXISTS))
        send_logout_answer(s, 400, "invalid_request");
    else if (rc != BASE_OK && rc != BASE_EXISTS)
        send_logout_answer(s, 503, "temporarily_unavailable");
    else if (r->sid != NULL && r->sid[0] != '\0')
        gw_sessions_revoke(s->app->sessions, s->visit.loop, GW_REVOKE_SID, r->issuer, r->sid,
                           "logout at the provider", on_logged_out, s);
    else
        gw_sessions_revoke(s->app->sessions, s->visit.loop, GW_REVOKE_PERSON, r->issuer, r->subject,
                           "logout at the provider", on_logged_out, s);
}

static void on_logout_token(enum base_code rc, const char *json, size_t len, void *user)
{
    struct sign_in *s = user;
    struct base_err err = {0};
    int64_t keep_s;
    char once[GW_ISSUER_MAX + 300];

    if (rc == BASE_OK)
        rc = gw_sso_decode(&s->reply, s->arena, json, len, &err);
    if (rc != BASE_OK || (!s->reply.ok && strcmp(s->reply.code, "refused") != 0)) {
        send_logout_answer(s, 503, "temporarily_unavailable");
        return;
    }
    if (!s->reply.ok || s->reply.issuer == NULL || s->reply.jti == NULL) {
        base_log(BASE_LOG_WARN, "sso.logout_refused", "a logout token was refused",
                 LOG_STR("request_id", s->request_id), LOG_STR("provider", s->provider->name),
                 LOG_STR("check", s->reply.ok ? "sso.call" : s->reply.check),
                 LOG_STR("detail", s->reply.ok ? "" : s->reply.detail));
        send_logout_answer(s, 400, "invalid_request");
        return;
    }
    if (s->reply.subject != NULL)
        gw_principal_fill(&s->session.who, s->reply.issuer, s->reply.subject, "default", "");
    keep_s = base_wall_us() / 1000000 + LOGOUT_KEEP_S;
    if (s->reply.expires_at > keep_s)
        keep_s = s->reply.expires_at;
    snprintf(once, sizeof(once), "%s %s", s->reply.issuer, s->reply.jti);
    gw_sessions_use_once(s->app->sessions, s->visit.loop, "logout_token", once, keep_s, on_jti_used, s);
}

void gw_sign_out_backchannel(struct sign_in *s)
{
    size_t len = 0;
    const char *body = gw_http_body(s->visit.http, &len);
    auto_free char *token = NULL;

    s->counted = GW_M_LOGOUTS;
    if (s->app->sso == NULL || gw_form_dup(body, len, "logout_token", TOKEN_MAX, &token) != BASE_OK) {
        send_logout_answer(s, 400, "invalid_request");
        return;
    }
    gw_sso_encode(&s->request, "oidc_logout_token", "provider", s->provider->name, "logout_token", token,
                  NULL);
    gw_sso_call(s->app->sso, s->visit.loop, s->request.data, s->request.len, GW_SIGN_IN_CALL_MS,
                on_logout_token, s);
}

/* ---- SAML single logout ---- */

/* What was to be ended is ended; the browser goes back to the provider, or to our page. */
static void slo_done(struct sign_in *s)
{
    char cookie[GW_SET_COOKIE_MAX];
    const struct gw_header headers[] = {{"set-cookie", cookie},
                                        {"location", s->reply.answer_url != NULL ? s->reply.answer_url : "/"},
                                        {"cache-control", "no-store"},
                                        {"referrer-policy", "no-referrer"}};

    gw_sign_in_count(s, "ok");
    gw_cookie_render(NULL, 0, cookie);
    if (s->visit.http != NULL)
        gw_http_send(s->visit.http, 303, headers, BASE_ARRAY_LEN(headers), "", 0);
    gw_visit_over(&s->visit);
}

static void revoke_next(struct sign_in *s);

static void on_slo_revoked(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct sign_in *s = user;

    (void)none;
    if (rc != BASE_OK)
        gw_sign_in_unavailable(s, "signin.slo", "the sessions could not be ended");
    else
        revoke_next(s);
}

/* One session after the other; without any named, all of the person's. */
static void revoke_next(struct sign_in *s)
{
    const struct gw_sso_reply *r = &s->reply;

    if (s->n_revoked < r->n_session_indexes)
        gw_sessions_revoke(s->app->sessions, s->visit.loop, GW_REVOKE_SID, r->issuer,
                           r->session_indexes[s->n_revoked++], "logout at the provider", on_slo_revoked, s);
    else if (r->n_session_indexes == 0 && s->n_revoked++ == 0)
        gw_sessions_revoke(s->app->sessions, s->visit.loop, GW_REVOKE_PERSON, r->issuer, r->name_id,
                           "logout at the provider", on_slo_revoked, s);
    else {
        gw_sign_in_record(s, "sso.logout", s->provider->name);
        slo_done(s);
    }
}

static void on_slo_used(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct sign_in *s = user;

    (void)none;
    if (rc == BASE_EXISTS)
        gw_sign_in_refuse(s, "signin.slo_once", "the logout request was brought before");
    else if (rc != BASE_OK)
        gw_sign_in_unavailable(s, "signin.slo_once",
                               "it cannot be recorded that the logout request was brought");
    else
        revoke_next(s);
}

static void on_slo(enum base_code rc, const char *json, size_t len, void *user)
{
    struct sign_in *s = user;
    char once[GW_ISSUER_MAX + 160];

    if (!gw_sign_in_take_reply(s, rc, json, len))
        return;
    if (s->reply.kind == NULL ||
        strcmp(s->reply.kind, "request") != 0) { /* the provider has ended its own session, as we asked */
        slo_done(s);
        return;
    }
    if (s->reply.issuer == NULL || s->reply.name_id == NULL || s->reply.request_id == NULL) {
        gw_sign_in_unavailable(s, "sso.call", "gatehouse-sso named nobody");
        return;
    }
    gw_principal_fill(&s->session.who, s->reply.issuer, s->reply.name_id, "default", "");
    snprintf(once, sizeof(once), "%s %s", s->reply.issuer, s->reply.request_id);
    gw_sessions_use_once(s->app->sessions, s->visit.loop, "saml_logout", once, s->reply.expires_at,
                         on_slo_used, s);
}

void gw_sign_out_slo(struct sign_in *s)
{
    bool post = strcmp(gw_http_method(s->visit.http), "POST") == 0;
    size_t len = 0;
    const char *body = gw_http_body(s->visit.http, &len), *query = gw_http_query(s->visit.http);
    const char *text = post ? body : query;
    size_t text_len = post ? len : strlen(query);
    char url[GW_SIGN_IN_URL_MAX], relay[128] = "";
    auto_free char *message = NULL;
    auto_free char *relay_state = NULL;

    s->counted = GW_M_LOGOUTS;
    if (gw_form_dup(text, text_len, "RelayState", sizeof(relay) - 1, &relay_state) == BASE_OK)
        snprintf(relay, sizeof(relay), "%s", relay_state);
    if (post && gw_form_dup(body, len, "SAMLRequest", GW_SIGN_IN_RESPONSE_MAX, &message) != BASE_OK &&
        gw_form_dup(body, len, "SAMLResponse", GW_SIGN_IN_RESPONSE_MAX, &message) != BASE_OK) {
        gw_sign_in_refuse(s, "signin.slo", "there is no SAMLRequest, or there are two");
        return;
    }
    gw_sign_in_own_url(s, "slo", url);
    gw_sso_encode(&s->request, "saml_logout", "provider", s->provider->name, "binding",
                  post ? "post" : "redirect", "message", post ? message : query, "relay_state",
                  relay[0] != '\0' ? relay : NULL, "slo_url", url, NULL);
    gw_sign_in_call(s, on_slo);
}

/* ---- sign-out ---- */

struct out_url {
    void (*done)(const char *url, void *user);
    void *user;
};

static void on_out_url(enum base_code rc, const char *json, size_t len, void *user)
{
    struct out_url *out = user;
    struct base_arena *arena = base_arena_new(GW_SIGN_IN_ARENA_MAX);
    struct gw_sso_reply reply = {0};
    const char *url = "";

    if (rc == BASE_OK && gw_sso_decode(&reply, arena, json, len, NULL) == BASE_OK && reply.ok &&
        reply.url != NULL)
        url = reply.url;
    out->done(url, out->user);
    base_arena_unref(arena);
    free(out);
}

void gw_sign_in_out_url(struct gw_loop *loop, const struct gw_session_record *session,
                        void (*done)(const char *url, void *user), void *user, void *sign_out_user)
{
    struct gw_app *app = sign_out_user;
    struct gw_runtime *runtime = gw_app_runtime(app);
    const struct pol_provider *provider = pol_provider_find(gw_runtime_policy(runtime), session->provider);
    auto_buf struct base_buf request = BASE_BUF_INIT(GW_SIGN_IN_REQUEST_MAX);
    struct out_url *out;
    char back[GW_SIGN_IN_URL_MAX];

    snprintf(back, sizeof(back), "%s/", app->config->public_url);
    if (app->sso == NULL || provider == NULL || session->logout_hint == NULL) {
        gw_runtime_unref(runtime);
        done("", user);
        return;
    }
    if (provider->kind == POL_PROVIDER_SAML) {
        const char *nl = strchr(session->logout_hint, '\n');
        auto_free char *name_id =
            base_memdup0(session->logout_hint,
                         nl != NULL ? (size_t)(nl - session->logout_hint) : strlen(session->logout_hint));

        gw_sso_encode(&request, "saml_logout_start", "provider", provider->name, "name_id", name_id,
                      "name_id_format", nl != NULL ? nl + 1 : NULL, "session_index", session->sid, NULL);
    } else
        gw_sso_encode(&request, "oidc_logout_url", "provider", provider->name, "id_token_hint",
                      session->logout_hint, "post_logout_redirect_uri", back, NULL);
    gw_runtime_unref(runtime);
    out = base_alloc(sizeof(*out));
    *out = (struct out_url){done, user};
    gw_sso_call(app->sso, loop, request.data, request.len, GW_SIGN_IN_CALL_MS, on_out_url, out);
    base_wipe(request.data, request.len);
}
