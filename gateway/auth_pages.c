/* Auth: the page's endpoints. See auth.h.
 *
 * A sign-in by link:
 *
 *     GET  /auth/link?token=T   a page with a button; touches nothing
 *     POST /auth/link           Origin and T checked
 *                               --> Postgres: whose is it, can it be used?
 *                               --> Redis: a new session, whose token nobody has
 *                               --> Postgres: the link is used up (of several at once, one wins)
 *                               --> the browser's old session is ended, all recorded --> cookie, 303 to /
 *                               anything fails, or the client has left --> the new session is dropped
 *     With Redis away the link is not used up. A link that was used up is not given back: ask for another.
 *
 * Invariants:
 *   1. a session token is never taken from the client at sign-in: it is always new (no fixation);
 *   2. a link's token stands in a URL: its page sends no referrer, loads nothing from elsewhere, runs no script.
 */
#include "gateway/auth_priv.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/form.h"
#include "gateway/page.h"
#include "gateway/session_pages.h"
#include "gateway/visit.h"

#include <stdio.h>
#include <string.h>

#define PAGE_MAX 8192u

/* ---- answers ---- */

/* A page with a sentence and, when token is not NULL, the button that posts it. */
static void send_page(struct gw_http *http, int status, const char *heading, const char *sentence,
                      const char *token)
{
    auto_buf struct base_buf page = BASE_BUF_INIT(GW_PAGE_MAX);

    gw_page_begin(&page, heading, sentence);
    if (token != NULL) {
        base_buf_append_str(
            &page,
            "<form method=\"post\" action=\"/auth/link\"><input type=\"hidden\" name=\"token\" value=\"");
        gw_page_escape(&page, token);
        base_buf_append_str(&page, "\"><button type=\"submit\">Sign in</button></form>");
    }
    gw_page_send(http, status, &page, NULL);
}

static void send_link_refused(struct gw_http *http, int status)
{
    send_page(http, status, "This link cannot be used",
              "It may have been used already, or it is older than 15 minutes. Ask an administrator for a new "
              "one, or make one with "
              "the command: gatehouse admin-link",
              NULL);
}

/* remove_cookie: the browser's session is known to be over. */
static void send_error(struct gw_http *http, enum gw_auth_result result, bool remove_cookie)
{
    struct gw_api_error error = {.code = gw_auth_api_code(result)};
    struct gw_header headers[3] = {{"content-type", "application/json"}, {"cache-control", "no-store"}};
    auto_buf struct base_buf body = BASE_BUF_INIT(PAGE_MAX);
    char cookie[GW_SET_COOKIE_MAX];
    unsigned n = 2;

    if (remove_cookie) {
        gw_cookie_render(NULL, 0, cookie);
        headers[n++] = (struct gw_header){"set-cookie", cookie};
    }
    gw_api_error_json(&error, &body);
    gw_http_send(http, gw_api_status(error.code), headers, n, body.data, body.len);
}

static void send_method_not_allowed(struct gw_http *http, const char *allow)
{
    const struct gw_header headers[] = {{"content-type", "application/json"}, {"allow", allow}};
    struct gw_api_error error = {.code = GW_API_METHOD_NOT_ALLOWED};
    auto_buf struct base_buf body = BASE_BUF_INIT(PAGE_MAX);

    gw_api_error_json(&error, &body);
    gw_http_send(http, 405, headers, BASE_ARRAY_LEN(headers), body.data, body.len);
}

/* ---- an exchange with the store ---- */

struct exchange {
    struct gw_auth *auth;
    struct gw_visit visit;
    char token[GW_TOKEN_LEN + 1]; /* a session's: new (link), or the request's own */
    /* sign-in by link */
    unsigned char link_hash[BASE_SHA256_BYTES];
    char old_token[GW_TOKEN_LEN + 1]; /* "": none */
    char from[GW_PEER_MAX];
    struct gw_session_record session;
};

static void exchange_free(void *owner)
{
    struct exchange *x = owner;

    gw_session_record_free(&x->session);
    base_wipe(x, sizeof(*x)); /* tokens */
    free(x);
}

static struct exchange *exchange_new(struct gw_auth *auth, struct gw_http *http)
{
    struct exchange *x = base_zalloc(sizeof(*x));

    x->auth = auth;
    gw_visit_begin(&x->visit, http, exchange_free, x);
    return x;
}

static bool record(const struct gw_auth *auth, const char *action, const struct gw_principal *who,
                   const char *target)
{
    static const struct gw_principal nobody = {.method = GW_AUTH_NONE};
    const struct gw_auth_options *o = &auth->options;

    return o->record == NULL || o->record(action, who != NULL ? who : &nobody, target, o->record_user);
}

/* ---- sign-in by link ---- */

static void get_link(struct gw_auth *auth, struct gw_http *http)
{
    const char *query = gw_http_query(http);
    char token[GW_TOKEN_LEN + 1] = "";

    if (gw_form_get(query, strlen(query), "token", token, sizeof(token)) != BASE_OK ||
        !gw_token_genuine(auth->options.key_pepper, GW_TOKEN_LINK, token, strlen(token)))
        send_link_refused(http, 400);
    else
        send_page(http, 200, "Sign in to Gatehouse", "This link signs you in once, in this browser.", token);
    base_wipe(token, sizeof(token));
}

static void send_signed_in(struct gw_http *http, const struct exchange *x)
{
    char cookie[GW_SET_COOKIE_MAX];
    const struct gw_header headers[] = {{"set-cookie", cookie},
                                        {"location", "/"},
                                        {"cache-control", "no-store"},
                                        {"referrer-policy", "no-referrer"}};

    gw_cookie_render(x->token, x->auth->options.session_absolute_s, cookie);
    gw_http_send(http, 303, headers, BASE_ARRAY_LEN(headers), "", 0);
    base_wipe(cookie, sizeof(cookie));
}

/* The end of every sign-in that did not come about. */
static void link_failed(struct exchange *x, enum base_code rc)
{
    if (rc == BASE_DENIED)
        record(x->auth, "link.refuse", NULL, "");
    if (x->visit.http != NULL && rc == BASE_DENIED)
        send_link_refused(x->visit.http, 403);
    else if (x->visit.http != NULL)
        send_error(x->visit.http, GW_AUTH_UNAVAILABLE, false);
    gw_visit_over(&x->visit);
}

/* The events stand in the record before the browser gets the cookie. */
static void link_finish(struct exchange *x)
{
    const struct gw_principal *who = &x->session.who;
    bool recorded = record(x->auth, "link.use", who, who->credential_id) &&
                    record(x->auth, "session.start", who, who->credential_id);

    if (recorded && x->visit.http != NULL) {
        send_signed_in(x->visit.http, x);
        gw_visit_over(&x->visit);
        return;
    }
    gw_sessions_discard(x->auth->options.sessions, x->visit.loop, x->token);
    record(x->auth, "session.end", who, who->credential_id);
    link_failed(x, BASE_UNAVAILABLE);
}

static void old_revoked(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct exchange *x = user;

    (void)none;
    if (rc == BASE_OK) {
        gw_sessions_discard(x->auth->options.sessions, x->visit.loop, x->old_token);
        record(x->auth, "session.end", &x->session.who, x->from); /* from: by then the old session's name */
    }
    link_finish(x);
}

static void old_known(enum base_code rc, const struct gw_session_record *old, void *user)
{
    struct exchange *x = user;

    if (rc != BASE_OK) { /* none, or it cannot be found: it ends by its limits */
        link_finish(x);
        return;
    }
    snprintf(x->from, sizeof(x->from), "%s", old->who.credential_id);
    gw_auth_end_session(x->auth, x->visit.loop, x->from, "signed in anew", old_revoked, x);
}

static void link_used(enum base_code rc, void *arg)
{
    struct exchange *x = arg;

    if (rc != BASE_OK) {
        gw_sessions_discard(x->auth->options.sessions, x->visit.loop, x->token);
        link_failed(x, rc);
    } else if (x->old_token[0] != '\0')
        gw_sessions_get(x->auth->options.sessions, x->visit.loop, x->old_token, old_known, x);
    else
        link_finish(x);
}

static enum base_code work_use(struct base_pg *pg, void *arg, struct base_err *err)
{
    struct exchange *x = arg;

    return gw_sql_link_use(pg, x->link_hash, x->from, err);
}

static void link_started(enum base_code rc, const struct gw_session_record *session, void *user)
{
    struct exchange *x = user;

    if (rc != BASE_OK) {
        link_failed(x, rc);
        return;
    }
    x->session.who = session->who;
    gw_store_run(x->auth->options.store, x->visit.loop, work_use, link_used, x);
}

static void link_peeked(enum base_code rc, void *arg)
{
    struct exchange *x = arg;

    if (rc != BASE_OK)
        link_failed(x, rc);
    else
        gw_sessions_start(x->auth->options.sessions, x->visit.loop, x->token, &x->session, link_started, x);
}

static enum base_code work_peek(struct base_pg *pg, void *arg, struct base_err *err)
{
    struct exchange *x = arg;

    return gw_sql_link_peek(pg, x->link_hash, &x->session.who, err);
}

static bool is_form(struct gw_http *http)
{
    static const char form[] = "application/x-www-form-urlencoded";
    size_t len = 0;
    const char *type = gw_http_header(http, "content-type", &len);

    return type != NULL && len >= sizeof(form) - 1 &&
           base_ascii_ieq(type, sizeof(form) - 1, form, sizeof(form) - 1) &&
           (len == sizeof(form) - 1 || type[sizeof(form) - 1] == ';' || type[sizeof(form) - 1] == ' ');
}

static void post_link(struct gw_auth *auth, struct gw_http *http)
{
    const struct base_secret *pepper = auth->options.key_pepper;
    char link[GW_TOKEN_LEN + 1] = "";
    struct exchange *x;
    size_t len = 0;
    const char *body = gw_http_body(http, &len);

    if (!gw_auth_origin_ours(auth, http, true) || !is_form(http) ||
        gw_form_get(body, len, "token", link, sizeof(link)) != BASE_OK ||
        !gw_token_genuine(pepper, GW_TOKEN_LINK, link, strlen(link))) {
        record(auth, "link.refuse", NULL, "");
        send_link_refused(http, 403);
        base_wipe(link, sizeof(link));
        return;
    }
    x = exchange_new(auth, http);
    gw_token_hash(pepper, GW_TOKEN_LINK, link, x->link_hash);
    base_wipe(link, sizeof(link));
    gw_token_create(pepper, GW_TOKEN_SESSION, x->token);
    snprintf(x->from, sizeof(x->from), "%s", gw_http_peer(http));
    snprintf(x->session.from, sizeof(x->session.from), "%s", gw_http_peer(http));
    gw_auth_old_token(auth, http, x->old_token);
    gw_store_run(auth->options.store, x->visit.loop, work_peek, link_peeked, x);
}

/* ---- who am I, and logout ---- */

void gw_auth_send_session(const struct gw_auth *auth, struct gw_http *http, const char *token,
                          const struct gw_session_record *session, bool set_cookie)
{
    struct gw_header headers[3] = {{"content-type", "application/json"}, {"cache-control", "no-store"}};
    char cookie[GW_SET_COOKIE_MAX];
    auto_buf struct base_buf body = BASE_BUF_INIT(PAGE_MAX);
    char csrf[GW_CSRF_LEN + 1], expires[BASE_RFC3339_MAX];
    struct gw_principal who = session->who;
    const struct gw_auth_options *o = &auth->options;

    if (o->refine != NULL && /* the roles as they are now, those of the directory among them */
        o->refine(&who, session->provider, session->directory_key, o->refine_user) != BASE_OK)
        who.n_roles = 0;
    gw_csrf_derive(auth->options.key_pepper, token, csrf);
    base_rfc3339(session->expires_at_us, expires);
    base_buf_append_str(&body, "{\"subject\":");
    base_buf_append_json(&body, session->who.subject, strlen(session->who.subject));
    base_buf_append_str(&body, ",\"name\":");
    base_buf_append_json(&body, session->name, strlen(session->name));
    base_buf_append_str(&body, ",\"email\":");
    base_buf_append_json(&body, session->email, strlen(session->email));
    base_buf_append_str(&body, ",\"provider\":");
    base_buf_append_json(&body, session->provider, strlen(session->provider));
    base_buf_append_str(&body, ",\"roles\":[");
    for (unsigned i = 0; i < who.n_roles; i++) {
        if (i > 0)
            base_buf_append_char(&body, ',');
        base_buf_append_json(&body, who.roles[i], strlen(who.roles[i]));
    }
    base_buf_printf(&body, "],\"csrf_token\":\"%s\",\"expires_at\":\"%s\"}", csrf, expires);
    if (set_cookie) {
        gw_cookie_render(token, auth->options.session_absolute_s, cookie);
        headers[2] = (struct gw_header){"set-cookie", cookie};
    }
    gw_http_send(http, 200, headers, set_cookie ? 3 : 2, body.data, body.len);
    base_wipe(cookie, sizeof(cookie));
}

static void session_known(enum base_code rc, const struct gw_session_record *session, void *user)
{
    struct exchange *x = user;
    enum gw_auth_result result = gw_auth_store_result(rc);

    if (x->visit.http != NULL && result == GW_AUTH_OK)
        gw_auth_send_session(x->auth, x->visit.http, x->token, session, false);
    else if (x->visit.http != NULL)
        send_error(x->visit.http, result, result == GW_AUTH_SESSION_ENDED);
    gw_visit_over(&x->visit);
}

void gw_auth_end_session(struct gw_auth *auth, struct gw_loop *loop, const char *session_id,
                         const char *reason, gw_sessions_fn *done, void *user)
{
    gw_sessions_revoke(auth->options.sessions, loop, GW_REVOKE_SESSION, session_id, "", reason, done, user);
}

/* url "": there is nowhere to go; else the page goes there, to sign out at the provider, too. */
static void signed_out(const char *url, void *user)
{
    struct exchange *x = user;
    char cookie[GW_SET_COOKIE_MAX];
    const struct gw_header headers[] = {
        {"set-cookie", cookie}, {"cache-control", "no-store"}, {"content-type", "application/json"}};
    auto_buf struct base_buf body = BASE_BUF_INIT(GW_PAGE_MAX);

    gw_cookie_render(NULL, 0, cookie);
    base_buf_append_str(&body, "{\"url\":");
    base_buf_append_json(&body, url, strlen(url));
    base_buf_append_char(&body, '}');
    if (x->visit.http != NULL && url[0] != '\0' && !body.failed)
        gw_http_send(x->visit.http, 200, headers, 3, body.data, body.len);
    else if (x->visit.http != NULL)
        gw_http_send(x->visit.http, 204, headers, 2, "", 0);
    gw_visit_over(&x->visit);
}

static void session_ended(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct exchange *x = user;
    const struct gw_auth_options *o = &x->auth->options;

    (void)none;
    if (rc == BASE_OK && x->session.who.method != GW_AUTH_NONE) {
        gw_sessions_discard(x->auth->options.sessions, x->visit.loop, x->token);
        record(x->auth, "session.end", &x->session.who, x->session.who.credential_id);
    }
    if (rc == BASE_OK && o->sign_out_url != NULL && x->session.provider[0] != '\0') {
        o->sign_out_url(x->visit.loop, &x->session, signed_out, x, o->sign_out_user);
    } else if (rc == BASE_OK) {
        signed_out("", x);
    } else {
        if (x->visit.http != NULL)
            send_error(x->visit.http, GW_AUTH_UNAVAILABLE,
                       false); /* the session is still there: the cookie stays, to try again */
        gw_visit_over(&x->visit);
    }
}

static void session_to_end(enum base_code rc, const struct gw_session_record *session, void *user)
{
    struct exchange *x = user;

    if (rc != BASE_OK) {
        session_ended(rc == BASE_DENIED ? BASE_OK : rc, NULL, x); /* over already */
        return;
    }
    x->session.who = session->who;
    memcpy(x->session.provider, session->provider, sizeof(x->session.provider));
    memcpy(x->session.sid, session->sid, sizeof(x->session.sid));
    if (session->logout_hint != NULL)
        x->session.logout_hint = base_strdup(session->logout_hint);
    gw_auth_end_session(x->auth, x->visit.loop, x->session.who.credential_id, "logout", session_ended, x);
}

/* The request's own session; answers and returns NULL when its cookie does not pass. */
static struct exchange *own_session(struct gw_auth *auth, struct gw_http *http)
{
    struct gw_credential cookie = gw_auth_credential(http);
    enum gw_auth_result result;
    struct exchange *x;

    if (cookie.kind == GW_CREDENTIAL_NONE)
        result = GW_AUTH_MISSING;
    else if (cookie.kind != GW_CREDENTIAL_COOKIE) /* a key has no session */
        result = GW_AUTH_REFUSED;
    else
        result = gw_auth_check_cookie(auth, http, &cookie);
    if (result != GW_AUTH_OK) {
        send_error(http, result, result == GW_AUTH_SESSION_ENDED);
        return NULL;
    }
    x = exchange_new(auth, http);
    memcpy(x->token, cookie.text, GW_TOKEN_LEN);
    return x;
}

static void get_session(struct gw_auth *auth, struct gw_http *http)
{
    struct exchange *x = own_session(auth, http);

    if (x != NULL)
        gw_sessions_get(auth->options.sessions, x->visit.loop, x->token, session_known, x);
}

static void post_logout(struct gw_auth *auth, struct gw_http *http)
{
    struct exchange *x = own_session(auth, http);

    if (x != NULL)
        gw_sessions_get(auth->options.sessions, x->visit.loop, x->token, session_to_end, x);
}

static void get_css(struct gw_auth *auth, struct gw_http *http)
{
    const struct gw_header headers[] = {{"content-type", "text/css"}, {"cache-control", "max-age=3600"}};

    gw_http_send(http, 200, headers, BASE_ARRAY_LEN(headers), gw_page_css, strlen(gw_page_css));
}

/* ---- routes ---- */

bool gw_auth_handle(struct gw_auth *auth, struct gw_http *http)
{
    static const struct {
        const char *path;
        void (*get)(struct gw_auth *auth, struct gw_http *http);
        void (*post)(struct gw_auth *auth, struct gw_http *http);
        const char *allow;
    } routes[] = {
        {"/auth/link", get_link, post_link, "GET, POST"},
        {"/auth/session", get_session, NULL, "GET"},
        {"/auth/logout", NULL, post_logout, "POST"},
        {"/auth/page.css", get_css, NULL, "GET"},
    };

    for (unsigned i = 0; i < BASE_ARRAY_LEN(routes); i++) {
        if (strcmp(gw_http_path(http), routes[i].path) != 0)
            continue;
        if (routes[i].get != NULL && strcmp(gw_http_method(http), "GET") == 0)
            routes[i].get(auth, http);
        else if (routes[i].post != NULL && strcmp(gw_http_method(http), "POST") == 0)
            routes[i].post(auth, http);
        else
            send_method_not_allowed(http, routes[i].allow);
        return true;
    }
    return gw_session_pages_handle(auth, http);
}
