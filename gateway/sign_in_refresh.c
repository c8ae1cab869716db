/* Refresh: a session asks its provider anew; roles and cookie are new after it. See sign_in_priv.h.
 *
 *     rotate_begin (one at a time) --> gatehouse-sso: refresh token for tokens --> roles --> rotate_end --> cookie
 *                                      refused, or no role: the session is ended
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

/* ---- refresh ---- */

static void send_api_error(struct sign_in *s, enum gw_auth_result result)
{
    if (s->visit.http != NULL)
        gw_send_error(s->visit.http, &(struct gw_api_error){.code = gw_auth_api_code(result)});
    gw_visit_over(&s->visit);
}

static void on_refresh_revoked(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct sign_in *s = user;

    (void)none;
    if (rc == BASE_OK)
        gw_sign_in_record(s, "session.end", s->session.who.credential_id);
    send_api_error(s, rc == BASE_OK ? GW_AUTH_SESSION_ENDED : GW_AUTH_UNAVAILABLE);
}

static void on_rotated(enum base_code rc, const struct gw_session_record *session, void *user)
{
    struct sign_in *s = user;

    if (rc != BASE_OK) {
        gw_sign_in_count(s, "unavailable");
        send_api_error(s, gw_auth_store_result(rc));
        return;
    }
    gw_sign_in_record(s, "session.refresh", s->session.who.credential_id);
    gw_sign_in_count(s, "ok");
    if (s->visit.http != NULL)
        gw_auth_send_session(s->app->auth, s->visit.http, s->token, session, true);
    gw_visit_over(&s->visit);
}

/* The provider's word is the last: refused, or no role any more, ends the session at once. */
static void on_refreshed(enum base_code rc, const char *json, size_t len, void *user)
{
    struct sign_in *s = user;
    struct base_err err = {0};
    const char *check = "";
    struct gw_principal before = s->session.who;

    if (rc == BASE_OK)
        rc = gw_sso_decode(&s->reply, s->arena, json, len, &err);
    if (rc != BASE_OK || (!s->reply.ok && strcmp(s->reply.code, "refused") != 0)) {
        gw_sign_in_count(s, "unavailable");
        gw_sessions_rotate_cancel(s->app->sessions, s->visit.loop, s->old_token);
        send_api_error(s, GW_AUTH_UNAVAILABLE);
        return;
    }
    if (!s->reply.ok || !gw_sign_in_fill_session(s, &s->reply, &check)) {
        gw_sign_in_count(s, "refused");
        base_log(BASE_LOG_WARN, "sso.refresh_refused",
                 "a session ends: its provider refuses it, or no role is left",
                 LOG_STR("request_id", s->request_id), LOG_STR("provider", s->provider->name),
                 LOG_STR("check", s->reply.ok ? check : s->reply.check),
                 LOG_STR("detail", s->reply.ok ? "" : s->reply.detail));
        s->session.who = before;
        gw_auth_end_session(s->app->auth, s->visit.loop, before.credential_id, "the provider refuses it",
                            on_refresh_revoked, s);
        return;
    }
    memcpy(s->session.who.credential_id, before.credential_id, sizeof(before.credential_id));
    gw_token_create(s->app->auth->options.key_pepper, GW_TOKEN_SESSION, s->token);
    gw_sessions_rotate_end(s->app->sessions, s->visit.loop, s->old_token, s->token, &s->session, on_rotated,
                           s);
}

static char *dup_or_null(const char *text)
{
    return text != NULL ? base_strdup(text) : NULL;
}

static void on_rotate_begun(enum base_code rc, const struct gw_session_record *session, void *user)
{
    struct sign_in *s = user;

    if (rc !=
        BASE_OK) { /* BASE_EXISTS: another tab does it just now; this one asks again with the new cookie */
        send_api_error(s, rc == BASE_EXISTS ? GW_AUTH_UNAVAILABLE : gw_auth_store_result(rc));
        return;
    }
    s->session = *session;
    s->session.refresh_token = dup_or_null(session->refresh_token);
    s->session.logout_hint = dup_or_null(session->logout_hint);
    s->provider = pol_provider_find(gw_runtime_policy(s->runtime), session->provider);
    if (s->provider == NULL || session->refresh_token == NULL || s->app->sso == NULL) {
        gw_auth_end_session(s->app->auth, s->visit.loop, s->session.who.credential_id,
                            "its provider is not configured any more", on_refresh_revoked, s);
        return;
    }
    gw_sso_encode(&s->request, "oidc_refresh", "provider", s->provider->name, "refresh_token",
                  session->refresh_token, "subject", session->who.subject, NULL);
    gw_sso_call(s->app->sso, s->visit.loop, s->request.data, s->request.len, GW_SIGN_IN_CALL_MS, on_refreshed,
                s);
}

void gw_sign_in_refresh(struct gw_app *app, struct gw_http *http)
{
    struct gw_credential cookie = gw_auth_credential(http);
    enum gw_auth_result result = cookie.kind == GW_CREDENTIAL_COOKIE
                                     ? gw_auth_check_cookie(app->auth, http, &cookie)
                                     : GW_AUTH_SESSION_ENDED;
    struct sign_in *s;

    if (result != GW_AUTH_OK) {
        gw_send_error(http, &(struct gw_api_error){.code = gw_auth_api_code(result)});
        return;
    }
    s = gw_sign_in_new(app, http, NULL);
    s->counted = GW_M_REFRESHES;
    memcpy(s->old_token, cookie.text, GW_TOKEN_LEN);
    gw_sessions_rotate_begin(app->sessions, s->visit.loop, s->old_token, on_rotate_begun, s);
}
