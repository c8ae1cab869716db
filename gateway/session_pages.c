/* Session pages. See session_pages.h.
 *
 *     identify (cookie: CSRF token and Origin on DELETE) --> own pages: a session; admin pages: an administrator
 *         list    Redis --> JSON
 *         end     own: Redis, is it one of mine? --> Postgres (cuts what is live) --> recorded --> 204
 *
 * Invariants:
 *   1. `begin`, `identified` and every callback end in exactly one of: the next step, `gw_visit_over`;
 *   2. the index of a person's sessions in Redis is not sealed: whose a session is, its own record says.
 */
#include "gateway/session_pages.h"

#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/auth_priv.h"
#include "gateway/form.h"
#include "gateway/visit.h"

#include <stdio.h>
#include <string.h>

#define LIST_JSON_MAX (2u << 20)
#define OWN_PATH      "/auth/sessions"
#define ADMIN_PATH    "/auth/admin/sessions"

struct request {
    struct gw_auth *auth;
    struct gw_visit visit;
    bool admin;
    struct gw_principal who;
    char id[GW_SESSION_ID_LEN + 1];                      /* to be ended; "": list */
    char issuer[GW_ISSUER_MAX], subject[GW_SUBJECT_MAX]; /* asked for; "": everybody's */
    char cursor[GW_SESSION_CURSOR_MAX];
    struct base_buf list;
    bool found;
};

static void request_free(void *owner)
{
    struct request *r = owner;

    base_buf_free(&r->list);
    free(r);
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

static void fail(struct request *r, enum gw_api_code code)
{
    if (r->visit.http != NULL)
        send_error(r->visit.http, code, NULL);
    gw_visit_over(&r->visit);
}

static void fail_by_store(struct request *r)
{
    fail(r, gw_auth_api_code(GW_AUTH_UNAVAILABLE));
}

/* ---- list ---- */

static void put_text(struct base_buf *out, const char *name, const char *text)
{
    base_buf_printf(out, ",\"%s\":", name);
    base_buf_append_json(out, text, strlen(text));
}

static void put_session(struct request *r, const struct gw_session_record *session, const char *id)
{
    struct base_buf *out = &r->list;
    char started[BASE_RFC3339_MAX], seen[BASE_RFC3339_MAX], expires[BASE_RFC3339_MAX];
    bool current = r->who.method == GW_AUTH_SESSION && strcmp(id, r->who.credential_id) == 0;

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
    if (r->admin) {
        put_text(out, "issuer", session->who.issuer);
        put_text(out, "subject", session->who.subject);
        put_text(out, "name", session->name);
    }
    base_buf_append_char(out, '}');
}

static void on_each(const struct gw_session_record *session, const char *id, void *user)
{
    struct request *r = user;

    if (r->subject[0] != '\0' && !CHECK("sessions.subject", strcmp(session->who.subject, r->subject) == 0))
        return;
    if (r->issuer[0] != '\0' && !CHECK("sessions.issuer", strcmp(session->who.issuer, r->issuer) == 0))
        return;
    if (r->id[0] == '\0')
        put_session(r, session, id);
    else if (strcmp(id, r->id) == 0)
        r->found = true;
}

/* next: "" when nothing follows. */
static void on_page(enum base_code rc, const char *next, void *user)
{
    struct request *r = user;
    const struct gw_header headers[] = {{"content-type", "application/json"}, {"cache-control", "no-store"}};

    if (r->list.len == 0)
        base_buf_append_str(&r->list, "{\"sessions\":[");
    base_buf_append_char(&r->list, ']');
    if (next[0] != '\0')
        put_text(&r->list, "next", next);
    base_buf_append_char(&r->list, '}');
    if (rc != BASE_OK || r->list.failed) {
        fail_by_store(r);
        return;
    }
    if (r->visit.http != NULL)
        gw_http_send(r->visit.http, 200, headers, BASE_ARRAY_LEN(headers), r->list.data, r->list.len);
    gw_visit_over(&r->visit);
}

static void on_listed(enum base_code rc, const struct gw_session_record *none, void *user)
{
    (void)none;
    on_page(rc, "", user);
}

/* ---- end ---- */

static void on_ended(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct request *r = user;
    const struct gw_auth_options *o = &r->auth->options;
    struct gw_header headers[2] = {{"cache-control", "no-store"}};
    char cookie[GW_SET_COOKIE_MAX];
    unsigned n = 1;

    (void)none;
    if (rc != BASE_OK) {
        fail_by_store(r);
        return;
    }
    if (o->record != NULL) /* over it is, recorded or not: there is no way back */
        o->record("session.end", &r->who, r->id, o->record_user);
    if (r->who.method == GW_AUTH_SESSION && strcmp(r->id, r->who.credential_id) == 0) {
        gw_cookie_render(NULL, 0, cookie);
        headers[n++] = (struct gw_header){"set-cookie", cookie};
    }
    if (r->visit.http != NULL)
        gw_http_send(r->visit.http, 204, headers, n, "", 0);
    gw_visit_over(&r->visit);
}

static void end(struct request *r)
{
    gw_auth_end_session(r->auth, r->visit.loop, r->id,
                        r->admin ? "ended by an administrator" : "ended by its person", on_ended, r);
}

static void on_looked_up(enum base_code rc, const struct gw_session_record *none, void *user)
{
    struct request *r = user;

    (void)none;
    if (rc != BASE_OK)
        fail_by_store(r);
    else if (!CHECK("sessions.own", r->found))
        fail(r, GW_API_NOT_FOUND);
    else
        end(r);
}

/* ---- who asks ---- */

static void begin(struct request *r)
{
    struct gw_sessions *sessions = r->auth->options.sessions;

    if (!r->admin) { /* a session: the query is not looked at */
        memcpy(r->issuer, r->who.issuer, sizeof(r->issuer));
        memcpy(r->subject, r->who.subject, sizeof(r->subject));
    }
    if (r->admin && r->id[0] != '\0')
        end(r);
    else if (r->issuer[0] != '\0')
        gw_sessions_list(sessions, r->visit.loop, r->issuer, r->subject, on_each,
                         r->id[0] != '\0' ? on_looked_up : on_listed, r);
    else
        gw_sessions_page(sessions, r->visit.loop, r->cursor, on_each, on_page, r);
}

static void identified(enum gw_auth_result result, const struct gw_principal *who, void *user)
{
    struct request *r = user;

    if (result != GW_AUTH_OK)
        fail(r, gw_auth_api_code(result));
    else if (r->admin && !CHECK("sessions.admin", who->is_admin))
        fail(r, GW_API_ADMIN_REQUIRED);
    else if (!r->admin &&
             !CHECK("sessions.is_session", who->method == GW_AUTH_SESSION)) /* a key has no sessions */
        fail(r, gw_auth_api_code(GW_AUTH_REFUSED));
    else {
        r->who = *who;
        begin(r);
    }
}

/* False: the query cannot be read in one way. */
static bool read_query(struct request *r)
{
    const char *query = gw_http_query(r->visit.http);
    enum base_code subject = gw_form_get(query, strlen(query), "subject", r->subject, sizeof(r->subject));
    enum base_code issuer = gw_form_get(query, strlen(query), "issuer", r->issuer, sizeof(r->issuer));
    enum base_code cursor = gw_form_get(query, strlen(query), "cursor", r->cursor, sizeof(r->cursor));

    if ((subject != BASE_OK && subject != BASE_NOT_FOUND) || (issuer != BASE_OK && issuer != BASE_NOT_FOUND))
        return false;
    if (cursor != BASE_NOT_FOUND &&
        (cursor != BASE_OK || !gw_session_cursor_valid(r->cursor) || issuer == BASE_OK))
        return false;
    return r->issuer[0] == '\0' || r->subject[0] != '\0';
}

static void start(struct gw_auth *auth, struct gw_http *http, bool admin, const char *id)
{
    struct request *r = base_zalloc(sizeof(*r));

    *r = (struct request){.auth = auth, .admin = admin};
    base_buf_init(&r->list, LIST_JSON_MAX);
    snprintf(r->id, sizeof(r->id), "%s", id);
    gw_visit_begin(&r->visit, http, request_free, r);
    if (admin && !read_query(r))
        fail(r, GW_API_INVALID_VALUE);
    else
        gw_visit_identify(&r->visit, auth, identified);
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
        start(auth, http, admin, rest[0] == '\0' ? "" : rest + 1);
    else
        send_error(http, GW_API_METHOD_NOT_ALLOWED, rest[0] == '\0' ? "GET" : "DELETE");
    return true;
}
