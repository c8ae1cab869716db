/* Sign-in. See sign_in.h.
 *
 *     GET start ----> sealed cookie (state, nonce, verifier), 303 to the provider
 *     GET callback    cookie opens, is young, names this provider and kind; state fits
 *                     --> state used once (Postgres)             else: refused
 *                     --> gatehouse-sso: code for tokens, every check of the tokens
 *                     --> SAML: the assertion used once (Postgres)
 *                     --> roles by the policy's mapping          none: not let in
 *                     --> new session (Redis), never the browser's old one
 *                     --> recorded --> cookie, 303 back          cannot be recorded, or the client has left: the session is dropped
 *
 * Invariants:
 *   1. every step ends in exactly one of: the next step, refuse(), succeed();
 *   2. what a refusal tells the browser is our own text; provider, check and detail go to the operator's log and the audit.
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

#define CODE_MAX      4096u
#define START_URL_MAX (3u * GW_RETURN_TO_MAX + 128u)

/* ---- life ---- */

static void sign_in_free(void *owner)
{
    struct sign_in *s = owner;

    gw_runtime_unref(s->runtime);
    base_arena_unref(s->arena);
    if (s->request.data != NULL)
        base_wipe(s->request.data, s->request.cap);
    base_buf_free(&s->request);
    gw_session_record_free(&s->session);
    base_wipe(s, sizeof(*s));
    free(s);
}

struct sign_in *gw_sign_in_new(struct gw_app *app, struct gw_http *http, const char *provider)
{
    struct sign_in *s = base_zalloc(sizeof(*s));

    s->app = app;
    s->started_us = base_mono_us();
    s->counted = GW_M_LOGINS;
    s->runtime = gw_app_runtime(app);
    s->provider = provider != NULL ? pol_provider_find(gw_runtime_policy(s->runtime), provider) : NULL;
    s->arena = base_arena_new(GW_SIGN_IN_ARENA_MAX);
    base_arena_wipe_on_free(s->arena);
    s->request = BASE_BUF_INIT(GW_SIGN_IN_REQUEST_MAX);
    snprintf(s->request_id, sizeof(s->request_id), "%s", gw_http_request_id(http));
    gw_visit_begin(&s->visit, http, sign_in_free, s);
    return s;
}

bool gw_sign_in_record(struct sign_in *s, const char *action, const char *target)
{
    const struct gw_auth_options *o = &s->app->auth->options;

    return o->record == NULL || o->record(action, &s->session.who, target, o->record_user);
}

/* ---- refusals ---- */

void gw_sign_in_count(const struct sign_in *s, const char *result)
{
    char labels[160];

    snprintf(labels, sizeof(labels), "%s=\"%s\",result=\"%s\"",
             s->counted == GW_M_LOGINS ? "method" : "provider",
             s->provider != NULL ? s->provider->name : "unknown", result);
    gw_metric_add(s->counted, labels, 1);
}

static void send_failure(struct sign_in *s, int status, const char *heading, const char *sentence)
{
    auto_buf struct base_buf page = BASE_BUF_INIT(GW_PAGE_MAX);
    char cookie[GW_SIGN_IN_COOKIE_MAX];

    if (s->visit.http == NULL)
        return;
    gw_page_begin(&page, heading, sentence);
    base_buf_append_str(
        &page, "<p><a class=\"button\" href=\"/auth/sign-in\">Sign in again</a></p><p class=\"small\">");
    base_buf_printf(&page, "If it fails again, give this number to your administrator: %s</p>",
                    s->request_id);
    gw_sign_in_seal(NULL, NULL, GW_SIGN_IN_OIDC, cookie);
    gw_page_send(s->visit.http, status, &page, &(struct gw_header){"set-cookie", cookie});
}

/* The end of a sign-in that something brought was against. */
void gw_sign_in_refuse(struct sign_in *s, const char *check, const char *detail)
{
    char target[POL_NAME_MAX + 80];

    snprintf(target, sizeof(target), "%s:%s", s->provider != NULL ? s->provider->name : "", check);
    gw_sign_in_record(s, "sso.refuse", target);
    gw_sign_in_count(s, "refused");
    base_log(BASE_LOG_WARN, "sso.refused", "a sign-in was refused", LOG_STR("request_id", s->request_id),
             LOG_STR("provider", s->provider != NULL ? s->provider->name : ""), LOG_STR("check", check),
             LOG_STR("detail", detail));
    if (strcmp(check, "signin.no_role") == 0 || strcmp(check, "signin.directory_required") == 0)
        send_failure(s, 403, "You have no access yet",
                     "Your company account is fine, but nobody has given it a role here. Ask your "
                     "administrator for access.");
    else
        send_failure(s, 403, "This sign-in did not work",
                     "It may have taken too long, or was started in another window. Please start over.");
    gw_visit_over(&s->visit);
}

/* The end of one that could not be finished: nobody is to blame. */
void gw_sign_in_unavailable(struct sign_in *s, const char *check, const char *detail)
{
    gw_sign_in_count(s, "unavailable");
    base_log(BASE_LOG_ERROR, "sso.unavailable", "a sign-in could not be finished",
             LOG_STR("request_id", s->request_id),
             LOG_STR("provider", s->provider != NULL ? s->provider->name : ""), LOG_STR("check", check),
             LOG_STR("detail", detail));
    send_failure(
        s, 503, "Sign-in is not possible right now",
        "The service that knows your company account does not answer. Please try again in a minute.");
    gw_visit_over(&s->visit);
}

/* Reads a reply into s->reply. False: the sign-in has ended. */
bool gw_sign_in_take_reply(struct sign_in *s, enum base_code rc, const char *json, size_t len)
{
    struct base_err err = {0};

    if (rc == BASE_OK)
        rc = gw_sso_decode(&s->reply, s->arena, json, len, &err);
    if (rc != BASE_OK) {
        gw_sign_in_unavailable(s, "sso.call", err.detail[0] != '\0' ? err.detail : base_code_name(rc));
        return false;
    }
    if (s->reply.ok)
        return true;
    if (strcmp(s->reply.code, "refused") == 0)
        gw_sign_in_refuse(s, s->reply.check, s->reply.detail);
    else
        gw_sign_in_unavailable(s, s->reply.check, s->reply.detail);
    return false;
}

/* s->request, which must hold one request. */
void gw_sign_in_call(struct sign_in *s, gw_sso_fn *done)
{
    if (s->app->sso == NULL || s->request.failed) {
        gw_sign_in_unavailable(s, "sso.call",
                               s->request.failed ? "the request is too long" : "no provider is configured");
        return;
    }
    gw_sso_call(s->app->sso, s->visit.loop, s->request.data, s->request.len, GW_SIGN_IN_CALL_MS, done, s);
}

void gw_sign_in_own_url(const struct sign_in *s, const char *what, char out[GW_SIGN_IN_URL_MAX])
{
    snprintf(out, GW_SIGN_IN_URL_MAX, "%s/auth/%s/%s/%s", s->app->config->public_url,
             s->provider->kind == POL_PROVIDER_SAML ? "saml" : "oidc", s->provider->name, what);
}

/* ---- start ---- */

static void send_to_provider(struct sign_in *s)
{
    char cookie[GW_SIGN_IN_COOKIE_MAX];
    const struct gw_header headers[] = {{"set-cookie", cookie},
                                        {"location", s->reply.url},
                                        {"cache-control", "no-store"},
                                        {"referrer-policy", "no-referrer"}};

    gw_sign_in_seal(s->app->auth->options.key_pepper, &s->state, s->state.kind, cookie);
    if (s->visit.http != NULL)
        gw_http_send(s->visit.http, 303, headers, BASE_ARRAY_LEN(headers), "", 0);
    base_wipe(cookie, sizeof(cookie));
    gw_visit_over(&s->visit);
}

static void on_start(enum base_code rc, const char *json, size_t len, void *user)
{
    struct sign_in *s = user;

    if (!gw_sign_in_take_reply(s, rc, json, len))
        return;
    if (s->reply.url == NULL ||
        (s->state.kind == GW_SIGN_IN_SAML &&
         (s->reply.request_id == NULL || strlen(s->reply.request_id) >= sizeof(s->state.request_id)))) {
        gw_sign_in_unavailable(s, "sso.call", "gatehouse-sso gave no address");
        return;
    }
    if (s->state.kind == GW_SIGN_IN_SAML)
        snprintf(s->state.request_id, sizeof(s->state.request_id), "%s", s->reply.request_id);
    send_to_provider(s);
}

static void start(struct sign_in *s)
{
    enum gw_sign_in_kind kind = s->provider->kind == POL_PROVIDER_SAML ? GW_SIGN_IN_SAML : GW_SIGN_IN_OIDC;
    const char *query = gw_http_query(s->visit.http);
    char return_to[GW_RETURN_TO_MAX] = "", url[GW_SIGN_IN_URL_MAX], challenge[GW_SIGN_IN_TEXT];

    gw_form_get(query, strlen(query), "return_to", return_to, sizeof(return_to));
    gw_sign_in_state_new(&s->state, kind, s->provider->name, return_to, base_wall_us() / 1000000);
    gw_sign_in_challenge(&s->state, challenge);
    gw_sign_in_own_url(s, kind == GW_SIGN_IN_SAML ? "acs" : "callback", url);
    if (kind == GW_SIGN_IN_SAML)
        gw_sso_encode(&s->request, "saml_start", "provider", s->provider->name, "acs_url", url, "relay_state",
                      s->state.state, NULL);
    else
        gw_sso_encode(&s->request, "oidc_start", "provider", s->provider->name, "redirect_uri", url, "state",
                      s->state.state, "nonce", s->state.nonce, "code_challenge", challenge, NULL);
    gw_sign_in_call(s, on_start);
}

/* ---- the session ---- */

static void send_back(struct sign_in *s)
{
    char cookie[GW_SET_COOKIE_MAX], used[GW_SIGN_IN_COOKIE_MAX];
    const struct gw_header headers[] = {{"set-cookie", cookie},
                                        {"set-cookie", used},
                                        {"location", s->state.return_to},
                                        {"cache-control", "no-store"},
                                        {"referrer-policy", "no-referrer"}};

    gw_cookie_render(s->token, s->app->auth->options.session_absolute_s, cookie);
    gw_sign_in_seal(NULL, NULL, s->state.kind, used);
    gw_http_send(s->visit.http, 303, headers, BASE_ARRAY_LEN(headers), "", 0);
    base_wipe(cookie, sizeof(cookie));
}

/* The events stand in the record before the browser gets the cookie. */
static void succeed(struct sign_in *s)
{
    const struct gw_principal *who = &s->session.who;
    char labels[96];

    if (s->visit.http != NULL && gw_sign_in_record(s, "sso.sign_in", s->provider->name) &&
        gw_sign_in_record(s, "session.start", who->credential_id)) {
        gw_sign_in_count(s, "ok");
        snprintf(labels, sizeof(labels), "provider=\"%s\"", s->provider->name);
        gw_metric_observe(GW_M_SIGN_IN, labels, (double)(base_mono_us() - s->started_us) / 1e6);
        send_back(s);
        gw_visit_over(&s->visit);
        return;
    }
    gw_sessions_discard(s->app->sessions, s->visit.loop, s->token);
    gw_sign_in_record(s, "session.end", who->credential_id);
    gw_sign_in_unavailable(s, "signin.record", "the sign-in could not be recorded, or the browser has left");
}

static void old_revoked(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct sign_in *s = user;

    (void)none;
    if (rc == BASE_OK)
        gw_sessions_discard(s->app->sessions, s->visit.loop, s->old_token);
    succeed(s);
}

static void old_known(enum base_code rc, const struct gw_session_record *old, void *user)
{
    struct sign_in *s = user;

    if (rc != BASE_OK) /* none, or it cannot be found: it ends by its limits */
        succeed(s);
    else
        gw_auth_end_session(s->app->auth, s->visit.loop, old->who.credential_id, "signed in anew",
                            old_revoked, s);
}

static void on_session(enum base_code rc, const struct gw_session_record *session, void *user)
{
    struct sign_in *s = user;

    if (rc != BASE_OK) {
        gw_sign_in_unavailable(s, "signin.session", base_code_name(rc));
        return;
    }
    s->session.who = session->who;
    if (s->old_token[0] != '\0')
        gw_sessions_get(s->app->sessions, s->visit.loop, s->old_token, old_known, s);
    else
        succeed(s);
}

static void copy_text(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text != NULL && strlen(text) < size ? text : "");
}

/* What is remembered of an identity. False: it does not fit, so it is not one. */
bool gw_sign_in_fill_session(struct sign_in *s, const struct gw_sso_reply *identity, const char **ret_check)
{
    struct gw_session_record *session = &s->session;
    const struct pol_identity *settings = pol_identity(gw_runtime_policy(s->runtime));
    int64_t now_us = base_wall_us();
    char *hint = NULL;

    *ret_check = "signin.identity";
    if (identity->issuer == NULL || identity->subject == NULL ||
        gw_principal_fill(&session->who, identity->issuer, identity->subject, "default", "") != BASE_OK)
        return false;
    if (identity->sid != NULL && strlen(identity->sid) >= sizeof(session->sid))
        return false;
    session->who.method = GW_AUTH_SESSION;
    if (gw_roles_of_claims(gw_runtime_policy(s->runtime), s->app->directory, s->provider, identity,
                           &session->who, session->directory_key, ret_check) != BASE_OK)
        return false;
    copy_text(session->provider, sizeof(session->provider), s->provider->name);
    copy_text(session->sid, sizeof(session->sid), identity->sid);
    copy_text(session->name, sizeof(session->name), identity->name);
    copy_text(session->email, sizeof(session->email), identity->email);
    if (identity->refresh_token != NULL) {
        free(session->refresh_token);
        session->refresh_token = base_strdup(identity->refresh_token);
        session->refresh_at_us = now_us + (int64_t)settings->refresh_s * 1000000;
    }
    if (s->provider->kind == POL_PROVIDER_SAML && identity->name_id != NULL) {
        struct base_buf text = BASE_BUF_INIT(GW_SSO_TEXT_MAX);

        base_buf_printf(&text, "%s\n%s", identity->name_id,
                        identity->name_id_format != NULL ? identity->name_id_format : "");
        hint = base_buf_take(&text);
    } else if (identity->id_token != NULL) {
        hint = base_strdup(identity->id_token);
    }
    if (hint != NULL) {
        free(session->logout_hint);
        session->logout_hint = hint;
    }
    return true;
}

static void begin_session(struct sign_in *s)
{
    const char *check;

    if (!gw_sign_in_fill_session(s, &s->reply, &check)) {
        gw_sign_in_refuse(s, check, "the person is mapped to no role, or the identity does not fit");
        return;
    }
    if (s->reply.session_ends_at > 0)
        s->session.expires_at_us = s->reply.session_ends_at * 1000000;
    gw_token_create(s->app->auth->options.key_pepper, GW_TOKEN_SESSION, s->token);
    gw_sessions_start(s->app->sessions, s->visit.loop, s->token, &s->session, on_session, s);
}

/* ---- back from the provider ---- */

static void on_assertion_used(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct sign_in *s = user;

    (void)none;
    /* behind signin.once and saml.in_response_to, which would have to fail first: for the assertion that a provider gave twice */
    if (rc == BASE_EXISTS)
        gw_sign_in_refuse(s, "signin.assertion_once", "the assertion was brought before");
    else if (rc != BASE_OK)
        gw_sign_in_unavailable(s, "signin.assertion_once",
                               "it cannot be recorded that the assertion was brought");
    else
        begin_session(s);
}

static void on_finish(enum base_code rc, const char *json, size_t len, void *user)
{
    struct sign_in *s = user;

    if (!gw_sign_in_take_reply(s, rc, json, len))
        return;
    if (s->state.kind == GW_SIGN_IN_OIDC)
        begin_session(s);
    else if (s->reply.assertion_id == NULL)
        gw_sign_in_unavailable(s, "sso.call", "gatehouse-sso named no assertion");
    else
        gw_sessions_use_once(s->app->sessions, s->visit.loop, "saml_assertion", s->reply.assertion_id,
                             s->reply.assertion_expires_at + 600, on_assertion_used, s);
}

static void on_state_used(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct sign_in *s = user;

    (void)none;
    if (!CHECK("signin.once", rc != BASE_EXISTS))
        gw_sign_in_refuse(s, "signin.once", "this sign-in was finished before");
    else if (rc != BASE_OK && rc != BASE_EXISTS)
        gw_sign_in_unavailable(s, "signin.once", "it cannot be recorded that this sign-in was finished");
    else
        gw_sign_in_call(s, on_finish);
}

/* The cookie and what the provider echoed. NULL: all holds. */
static const char *check_state(struct sign_in *s, enum gw_sign_in_kind kind, const char *state)
{
    size_t len = 0, state_len = strlen(state);
    const char *header = gw_http_header(s->visit.http, "cookie", &len);
    int64_t age_s;

    if (header == NULL ||
        gw_sign_in_open(s->app->auth->options.key_pepper, header, len, &s->state) != BASE_OK)
        return "signin.cookie";
    age_s = base_wall_us() / 1000000 - s->state.created_s;
    if (!CHECK("signin.expired", age_s >= 0 && age_s <= GW_SIGN_IN_VALID_S))
        return "signin.expired";
    if (!CHECK("signin.provider", strcmp(s->state.provider, s->provider->name) == 0))
        return "signin.provider";
    if (!CHECK("signin.kind", s->state.kind == kind))
        return "signin.kind";
    if (!CHECK("signin.state",
               state_len == strlen(s->state.state) && base_ct_equal(state, s->state.state, state_len)))
        return "signin.state";
    return NULL;
}

static void use_state(struct sign_in *s)
{
    gw_auth_old_token(s->app->auth, s->visit.http, s->old_token);
    snprintf(s->session.from, sizeof(s->session.from), "%s", gw_http_peer(s->visit.http));
    gw_sessions_use_once(s->app->sessions, s->visit.loop, "sign_in", s->state.state,
                         s->state.created_s + 2 * GW_SIGN_IN_VALID_S, on_state_used, s);
}

static void callback(struct sign_in *s)
{
    const char *query = gw_http_query(s->visit.http), *wrong;
    size_t len = strlen(query);
    char state[128] = "", error[128] = "", iss[POL_ISSUER_MAX + 8] = "", url[GW_SIGN_IN_URL_MAX];
    auto_free char *code = NULL;
    enum base_code iss_rc = gw_form_get(query, len, "iss", iss, sizeof(iss));

    if (gw_form_get(query, len, "state", state, sizeof(state)) != BASE_OK) {
        gw_sign_in_refuse(s, "signin.state", "there is no state, or there are two");
        return;
    }
    wrong = check_state(s, GW_SIGN_IN_OIDC, state);
    if (wrong != NULL) {
        gw_sign_in_refuse(s, wrong, "the answer does not belong to a sign-in of this browser");
        return;
    }
    if (gw_form_get(query, len, "error", error, sizeof(error)) != BASE_NOT_FOUND) {
        for (char *at = error; *at != '\0';
             at++) /* a name such as access_denied; whatever else it is, no log line of theirs */
            if (strchr("abcdefghijklmnopqrstuvwxyz_", *at) == NULL)
                *at = '?';
        gw_sign_in_refuse(s, "signin.error", error);
        return;
    }
    if (gw_form_dup(query, len, "code", CODE_MAX, &code) != BASE_OK ||
        (iss_rc != BASE_OK && iss_rc != BASE_NOT_FOUND)) {
        gw_sign_in_refuse(s, "signin.code", "there is no code, there are two, or it is too long");
        return;
    }
    gw_sign_in_own_url(s, "callback", url);
    gw_sso_encode(&s->request, "oidc_finish", "provider", s->provider->name, "redirect_uri", url, "code",
                  code, "iss", iss_rc == BASE_OK ? iss : NULL, "code_verifier", s->state.verifier, "nonce",
                  s->state.nonce, NULL);
    base_wipe(code, strlen(code));
    use_state(s);
}

static void acs(struct sign_in *s)
{
    size_t len = 0;
    const char *body = gw_http_body(s->visit.http, &len), *wrong;
    auto_free char *response = NULL;
    auto_free char *state = NULL;
    char url[GW_SIGN_IN_URL_MAX];

    if (gw_form_dup(body, len, "RelayState", 128, &state) != BASE_OK) {
        gw_sign_in_refuse(s, "signin.state", "there is no RelayState of ours");
        return;
    }
    wrong = check_state(s, GW_SIGN_IN_SAML, state);
    if (wrong != NULL) {
        gw_sign_in_refuse(s, wrong, "the response does not belong to a sign-in of this browser");
        return;
    }
    if (gw_form_dup(body, len, "SAMLResponse", GW_SIGN_IN_RESPONSE_MAX, &response) != BASE_OK) {
        gw_sign_in_refuse(s, "signin.response", "there is no SAMLResponse, there are two, or it is too long");
        return;
    }
    gw_sign_in_own_url(s, "acs", url);
    gw_sso_encode(&s->request, "saml_finish", "provider", s->provider->name, "acs_url", url, "response",
                  response, "request_id", s->state.request_id, NULL);
    use_state(s);
}

/* ---- metadata ---- */

static void on_metadata(enum base_code rc, const char *json, size_t len, void *user)
{
    struct sign_in *s = user;
    const struct gw_header headers[] = {{"content-type", "application/samlmetadata+xml"},
                                        {"cache-control", "max-age=300"}};

    if (!gw_sign_in_take_reply(s, rc, json, len))
        return;
    if (s->visit.http != NULL && s->reply.xml != NULL)
        gw_http_send(s->visit.http, 200, headers, BASE_ARRAY_LEN(headers), s->reply.xml,
                     strlen(s->reply.xml));
    else if (s->visit.http != NULL)
        send_failure(s, 503, "Not now", "The metadata cannot be made right now.");
    gw_visit_over(&s->visit);
}

static void metadata(struct sign_in *s)
{
    char acs_url[GW_SIGN_IN_URL_MAX], slo_url[GW_SIGN_IN_URL_MAX];

    gw_sign_in_own_url(s, "acs", acs_url);
    gw_sign_in_own_url(s, "slo", slo_url);
    gw_sso_encode(&s->request, "saml_metadata", "provider", s->provider->name, "acs_url", acs_url, "slo_url",
                  slo_url, NULL);
    gw_sign_in_call(s, on_metadata);
}

/* ---- the page that lists providers ---- */

static void put_start(struct base_buf *out, const struct pol_provider *provider, const char *return_to)
{
    base_buf_printf(out, "/auth/%s/%s/start", provider->kind == POL_PROVIDER_SAML ? "saml" : "oidc",
                    provider->name);
    if (return_to[1] == '\0')
        return;
    base_buf_append_str(out, "?return_to=");
    for (const char *at = return_to; *at != '\0'; at++) /* of harmless characters, and these */
        if (strchr("/?=&", *at) != NULL)
            base_buf_printf(out, "%%%02X", (unsigned char)*at);
        else
            base_buf_append_char(out, *at);
}

/* With one provider there is nothing to choose. */
static void choose(struct gw_app *app, struct gw_http *http)
{
    auto_buf struct base_buf page = BASE_BUF_INIT(GW_PAGE_MAX), only = BASE_BUF_INIT(START_URL_MAX);
    struct gw_runtime *runtime = gw_app_runtime(app);
    const struct pol_snapshot *policy = gw_runtime_policy(runtime);
    const char *query = gw_http_query(http);
    char wanted[GW_RETURN_TO_MAX] = "", return_to[GW_RETURN_TO_MAX];
    size_t n = pol_n_providers(policy);

    gw_form_get(query, strlen(query), "return_to", wanted, sizeof(wanted));
    gw_return_to(wanted, return_to);
    if (n == 1)
        put_start(&only, pol_provider_at(policy, 0), return_to);
    gw_page_begin(&page, "Sign in to Gatehouse",
                  n > 0 ? "Use your company account."
                        : "Single sign-on is not set up here: ask your administrator for a sign-in link.");
    base_buf_append_str(&page, "<ul class=\"choices\">");
    for (size_t i = 0; i < n; i++) {
        const struct pol_provider *provider = pol_provider_at(policy, i);

        base_buf_append_str(&page, "<li><a class=\"button\" href=\"");
        put_start(&page, provider, return_to);
        base_buf_append_str(&page, "\">");
        gw_page_escape(&page, provider->label[0] != '\0' ? provider->label : provider->name);
        base_buf_append_str(&page, "</a></li>");
    }
    base_buf_append_str(&page, "</ul>");
    gw_runtime_unref(runtime);
    if (n == 1 && !only.failed) {
        const struct gw_header headers[] = {{"location", only.data}, {"cache-control", "no-store"}};

        gw_http_send(http, 303, headers, BASE_ARRAY_LEN(headers), "", 0);
    } else
        gw_page_send(http, 200, &page, NULL);
}

/* ---- routes ---- */

static void send_allow(struct gw_http *http, const char *allow)
{
    gw_send_error(http, &(struct gw_api_error){.code = GW_API_METHOD_NOT_ALLOWED, .allow = allow});
}

/* "/auth/oidc/NAME/WHAT". */
static bool split_path(const char *path, enum pol_provider_kind *ret_kind, char name[POL_NAME_MAX],
                       const char **ret_what)
{
    const char *rest, *slash;

    if (strncmp(path, "/auth/oidc/", 11) == 0)
        *ret_kind = POL_PROVIDER_OIDC;
    else if (strncmp(path, "/auth/saml/", 11) == 0)
        *ret_kind = POL_PROVIDER_SAML;
    else
        return false;
    rest = path + 11;
    slash = strchr(rest, '/');
    if (slash == NULL || slash == rest || (size_t)(slash - rest) >= POL_NAME_MAX)
        return false;
    memcpy(name, rest, (size_t)(slash - rest));
    name[slash - rest] = '\0';
    *ret_what = slash + 1;
    return true;
}

bool gw_sign_in_handle(struct gw_app *app, struct gw_http *http)
{
    static const struct {
        enum pol_provider_kind kind;
        const char *what, *method;
        void (*fn)(struct sign_in *s);
    } routes[] = {
        {POL_PROVIDER_OIDC, "start", "GET", start},
        {POL_PROVIDER_OIDC, "callback", "GET", callback},
        {POL_PROVIDER_OIDC, "logout", "POST", gw_sign_out_backchannel},
        {POL_PROVIDER_SAML, "start", "GET", start},
        {POL_PROVIDER_SAML, "acs", "POST", acs},
        {POL_PROVIDER_SAML, "metadata", "GET", metadata},
        {POL_PROVIDER_SAML, "slo", "GET", gw_sign_out_slo},
        {POL_PROVIDER_SAML, "slo", "POST", gw_sign_out_slo},
    };
    const char *path = gw_http_path(http), *method = gw_http_method(http), *allow = NULL, *what;
    enum pol_provider_kind kind;
    char name[POL_NAME_MAX];
    struct sign_in *s;

    if (strcmp(path, "/auth/sign-in") == 0 || strcmp(path, "/auth/refresh") == 0) {
        bool get = path[6] == 's';

        if (strcmp(method, get ? "GET" : "POST") != 0)
            send_allow(http, get ? "GET" : "POST");
        else if (get)
            choose(app, http);
        else
            gw_sign_in_refresh(app, http);
        return true;
    }
    if (!split_path(path, &kind, name, &what))
        return false;
    for (size_t i = 0; i < BASE_ARRAY_LEN(routes); i++) {
        if (routes[i].kind != kind || strcmp(routes[i].what, what) != 0)
            continue;
        if (strcmp(method, routes[i].method) != 0) {
            allow = allow == NULL ? routes[i].method : "GET, POST";
            continue;
        }
        s = gw_sign_in_new(app, http, name);
        if (s->provider == NULL || s->provider->kind != kind) {
            gw_send_error(http, &(struct gw_api_error){.code = GW_API_NOT_FOUND});
            gw_visit_over(&s->visit);
        } else {
            routes[i].fn(s);
        }
        return true;
    }
    if (allow != NULL)
        send_allow(http, allow);
    return allow != NULL;
}
