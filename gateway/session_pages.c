/* Session pages. See session_pages.h.
 *
 *     identify (cookie: CSRF token and Origin on DELETE) --> own pages: a session; admin pages: an administrator
 *         list    Redis --> JSON
 *         end     own: Redis, is it one of mine? --> Postgres (cuts what is live) --> recorded --> 204
 *
 * Invariants:
 *   1. a struct visit lives until its work is over and the request is closed, whichever is later;
 *   2. `begin`, `identified` and every callback end in exactly one of: the next step, `over`;
 *   3. the index of a person's sessions in Redis is not sealed: whose a session is, its own record says.
 */
#include "gateway/session_pages.h"

#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/auth_priv.h"
#include "gateway/form.h"

#include <stdio.h>
#include <string.h>

#define LIST_JSON_MAX (2u << 20)
#define OWN_PATH      "/auth/sessions"
#define ADMIN_PATH    "/auth/admin/sessions"

struct visit {
    struct gw_auth *auth;
    struct gw_http *http; /* NULL once closed */
    struct gw_loop *loop;
    struct gw_auth_pending *pending;
    bool admin, starting, work_over;
    struct gw_principal who;
    char id[GW_SESSION_ID_LEN + 1];                      /* to be ended; "": list */
    char issuer[GW_ISSUER_MAX], subject[GW_SUBJECT_MAX]; /* asked for; "": everybody's */
    struct base_buf list;
    bool found;
};

/* ---- life ---- */

static void maybe_free(struct visit *v)
{
    if (v->http != NULL || !v->work_over || v->starting)
        return;
    base_buf_free(&v->list);
    free(v);
}

static void on_closed(void *user)
{
    struct visit *v = user;

    v->http = NULL;
    if (v->pending != NULL) { /* nobody waits for it */
        gw_auth_forget(v->pending);
        v->pending = NULL;
        v->work_over = true;
    }
    maybe_free(v);
}

static void over(struct visit *v)
{
    v->work_over = true;
    maybe_free(v);
}

/* ---- answers ---- */

static void send_error(struct gw_http *http, enum gw_api_code code, const char *allow)
{
    const struct gw_header headers[] = {
        {"content-type", "application/json"}, {"cache-control", "no-store"}, {"allow", allow}};
    const struct gw_api_error error = {.code = code};
    auto_buf struct base_buf body = BASE_BUF_INIT(4096);

    gw_api_error_json(&error, &body);
    gw_http_send(http, gw_api_status(code), headers, allow != NULL ? 3 : 2, body.data, body.len);
}

static void fail(struct visit *v, enum gw_api_code code)
{
    if (v->http != NULL)
        send_error(v->http, code, NULL);
    over(v);
}

static void fail_by_store(struct visit *v)
{
    fail(v, gw_auth_api_code(GW_AUTH_UNAVAILABLE));
}

/* ---- list ---- */

static void put_text(struct base_buf *out, const char *name, const char *text)
{
    base_buf_printf(out, ",\"%s\":", name);
    base_buf_append_json(out, text, strlen(text));
}

static void put_session(struct visit *v, const struct gw_session_record *session, const char *id)
{
    struct base_buf *out = &v->list;
    char started[BASE_RFC3339_MAX], seen[BASE_RFC3339_MAX], expires[BASE_RFC3339_MAX];
    bool current = v->who.method == GW_AUTH_SESSION && strcmp(id, v->who.credential_id) == 0;

    base_rfc3339(session->started_us, started);
    base_rfc3339(session->seen_us, seen);
    base_rfc3339(session->expires_at_us, expires);
    base_buf_printf(out,
                    "%s{\"id\":\"%s\",\"started_at\":\"%s\",\"last_seen_at\":\"%s\",\"expires_at\":\"%s\","
                    "\"current\":%s",
                    out->len > 0 ? "," : "{\"sessions\":[", id, started, seen, expires,
                    current ? "true" : "false");
    put_text(out, "from", session->from);
    put_text(out, "provider", session->provider);
    if (v->admin) {
        put_text(out, "issuer", session->who.issuer);
        put_text(out, "subject", session->who.subject);
        put_text(out, "name", session->name);
    }
    base_buf_append_char(out, '}');
}

static void on_each(const struct gw_session_record *session, const char *id, void *user)
{
    struct visit *v = user;

    if (v->subject[0] != '\0' && !CHECK("sessions.subject", strcmp(session->who.subject, v->subject) == 0))
        return;
    if (v->issuer[0] != '\0' && !CHECK("sessions.issuer", strcmp(session->who.issuer, v->issuer) == 0))
        return;
    if (v->id[0] == '\0')
        put_session(v, session, id);
    else if (strcmp(id, v->id) == 0)
        v->found = true;
}

static void on_listed(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct visit *v = user;
    const struct gw_header headers[] = {{"content-type", "application/json"}, {"cache-control", "no-store"}};

    (void)none;
    if (v->list.len == 0)
        base_buf_append_str(&v->list, "{\"sessions\":[");
    base_buf_append_str(&v->list, "]}");
    if (rc != BASE_OK || v->list.failed) {
        fail_by_store(v);
        return;
    }
    if (v->http != NULL)
        gw_http_send(v->http, 200, headers, BASE_ARRAY_LEN(headers), v->list.data, v->list.len);
    over(v);
}

/* ---- end ---- */

static void on_ended(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct visit *v = user;
    const struct gw_auth_options *o = &v->auth->options;
    struct gw_header headers[2] = {{"cache-control", "no-store"}};
    char cookie[GW_SET_COOKIE_MAX];
    unsigned n = 1;

    (void)none;
    if (rc != BASE_OK) {
        fail_by_store(v);
        return;
    }
    if (o->record != NULL) /* over it is, recorded or not: there is no way back */
        o->record("session.end", &v->who, v->id, o->record_user);
    if (v->who.method == GW_AUTH_SESSION && strcmp(v->id, v->who.credential_id) == 0) {
        gw_cookie_render(NULL, 0, cookie);
        headers[n++] = (struct gw_header){"set-cookie", cookie};
    }
    if (v->http != NULL)
        gw_http_send(v->http, 204, headers, n, "", 0);
    over(v);
}

static void end(struct visit *v)
{
    gw_auth_end_session(v->auth, v->loop, v->id,
                        v->admin ? "ended by an administrator" : "ended by its person", on_ended, v);
}

static void on_looked_up(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct visit *v = user;

    (void)none;
    if (rc != BASE_OK)
        fail_by_store(v);
    else if (!CHECK("sessions.own", v->found))
        fail(v, GW_API_NOT_FOUND);
    else
        end(v);
}

/* ---- who asks ---- */

static void begin(struct visit *v)
{
    struct gw_sessions *sessions = v->auth->options.sessions;

    if (!v->admin) { /* a session: the query is not looked at */
        memcpy(v->issuer, v->who.issuer, sizeof(v->issuer));
        memcpy(v->subject, v->who.subject, sizeof(v->subject));
    }
    if (v->admin && v->id[0] != '\0')
        end(v);
    else if (v->issuer[0] != '\0')
        gw_sessions_list(sessions, v->loop, v->issuer, v->subject, on_each,
                         v->id[0] != '\0' ? on_looked_up : on_listed, v);
    else
        gw_sessions_list(sessions, v->loop, "", "", on_each, on_listed, v);
}

static void identified(enum gw_auth_result result, const struct gw_principal *who, void *user)
{
    struct visit *v = user;

    v->pending = NULL;
    if (result != GW_AUTH_OK)
        fail(v, gw_auth_api_code(result));
    else if (v->admin && !CHECK("sessions.admin", who->is_admin))
        fail(v, GW_API_ADMIN_REQUIRED);
    else if (!v->admin &&
             !CHECK("sessions.is_session", who->method == GW_AUTH_SESSION)) /* a key has no sessions */
        fail(v, gw_auth_api_code(GW_AUTH_REFUSED));
    else {
        v->who = *who;
        begin(v);
    }
}

/* False: the query cannot be read in one way. */
static bool read_query(struct visit *v)
{
    const char *query = gw_http_query(v->http);
    enum base_code subject = gw_form_get(query, strlen(query), "subject", v->subject, sizeof(v->subject));
    enum base_code issuer = gw_form_get(query, strlen(query), "issuer", v->issuer, sizeof(v->issuer));

    if ((subject != BASE_OK && subject != BASE_NOT_FOUND) || (issuer != BASE_OK && issuer != BASE_NOT_FOUND))
        return false;
    return v->issuer[0] == '\0' || v->subject[0] != '\0';
}

static void visit(struct gw_auth *auth, struct gw_http *http, bool admin, const char *id)
{
    struct visit *v = base_zalloc(sizeof(*v));
    struct gw_auth_pending *pending;

    *v = (struct visit){.auth = auth, .http = http, .loop = gw_http_loop(http), .admin = admin};
    base_buf_init(&v->list, LIST_JSON_MAX);
    snprintf(v->id, sizeof(v->id), "%s", id);
    v->starting = true; /* an answer may be sent, and the request closed, before identify returns */
    gw_http_on_closed(http, on_closed, v);
    if (admin && !read_query(v)) {
        v->work_over = true;
        send_error(http, GW_API_INVALID_VALUE, NULL);
    } else {
        pending = gw_auth_identify(auth, http, identified, v);
        v->pending = pending;
    }
    v->starting = false;
    maybe_free(v);
}

/* ---- routes ---- */

static bool is_session_id(const char *text)
{
    return strlen(text) == GW_SESSION_ID_LEN && strspn(text, "0123456789abcdef") == GW_SESSION_ID_LEN;
}

bool gw_session_pages_handle(struct gw_auth *auth, struct gw_http *http)
{
    const char *path = gw_http_path(http), *method = gw_http_method(http), *rest;
    bool admin = strncmp(path, ADMIN_PATH, sizeof(ADMIN_PATH) - 1) == 0;

    if (!admin && strncmp(path, OWN_PATH, sizeof(OWN_PATH) - 1) != 0)
        return false;
    rest = path + (admin ? sizeof(ADMIN_PATH) : sizeof(OWN_PATH)) - 1;
    if (rest[0] != '\0' && (rest[0] != '/' || !is_session_id(rest + 1)))
        return false;
    if (strcmp(method, rest[0] == '\0' ? "GET" : "DELETE") == 0)
        visit(auth, http, admin, rest[0] == '\0' ? "" : rest + 1);
    else
        send_error(http, GW_API_METHOD_NOT_ALLOWED, rest[0] == '\0' ? "GET" : "DELETE");
    return true;
}
