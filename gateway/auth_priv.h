/* Auth, between its files: auth.c (credentials to a principal), auth_token.c (access tokens, service accounts) and auth_pages.c (the
 * page's endpoints). */
#ifndef GATEWAY_AUTH_PRIV_H
#define GATEWAY_AUTH_PRIV_H

#include "gateway/auth.h"
#include "gateway/session.h"
#include "gateway/sessions.h"
#include "gateway/store.h"
#include "gateway/tags.h"
#include "gateway/token_cache.h"

struct gw_token_flight; /* auth_token.c */

struct gw_auth {
    struct gw_auth_options options;
    char origin[GW_ORIGIN_MAX];
    struct gw_token_cache *tokens;
    struct gw_token_flight *flights[256]; /* by loop index; touched by that loop alone */
};

/* A request that waits for an answer: of the session store, or of gatehouse-sso. */
struct gw_auth_pending {
    const struct gw_auth *auth;
    struct gw_sessions_op *op;
    struct gw_token_flight *flight;
    struct gw_auth_pending *next; /* of the same flight */
    gw_identified_fn *done;
    void *user;
};

enum gw_credential_kind {
    GW_CREDENTIAL_NONE = 0,
    GW_CREDENTIAL_KEY,
    GW_CREDENTIAL_COOKIE,
    GW_CREDENTIAL_TOKEN, /* Authorization: Bearer with what is none of our keys */
    GW_CREDENTIAL_DPOP,  /* Authorization: DPoP */
    GW_CREDENTIAL_AMBIGUOUS
};
struct gw_credential {
    enum gw_credential_kind kind;
    const char *text; /* borrowed from the request */
    size_t len;
};
/* What the request brings. More than one credential, of whatever kind, is ambiguous. */
struct gw_credential gw_auth_credential(struct gw_http *http);

/* The cookie's checks that need no store: GW_AUTH_OK, GW_AUTH_SESSION_ENDED, GW_AUTH_CSRF. */
enum gw_auth_result gw_auth_check_cookie(const struct gw_auth *auth, struct gw_http *http,
                                         const struct gw_credential *cookie);
/* form: see gw_origin_ours. */
bool gw_auth_origin_ours(const struct gw_auth *auth, struct gw_http *http, bool form);
/* The token of the session that a browser that signs in still has: "" for none. */
void gw_auth_old_token(const struct gw_auth *auth, struct gw_http *http, char out[GW_TOKEN_LEN + 1]);
/* The result for what the store said of a session. */
enum gw_auth_result gw_auth_store_result(enum base_code rc);

/* Ends the request's own session (its cookie has passed gw_auth_check_cookie): Postgres, then everywhere. done as of sessions.h. */
void gw_auth_end_session(struct gw_auth *auth, struct gw_loop *loop, const char *session_id,
                         const char *reason, gw_sessions_fn *done, void *user);

/* The answer of GET /auth/session; set_cookie: with the token as a new cookie. */
void gw_auth_send_session(const struct gw_auth *auth, struct gw_http *http, const char *token,
                          const struct gw_session_record *session, bool set_cookie);

/* ---- auth_token.c ---- */

/* An access token: answers by done, now (NULL) or later. */
struct gw_auth_pending *gw_auth_identify_token(struct gw_auth *auth, struct gw_http *http,
                                               const struct gw_credential *token, gw_identified_fn *done,
                                               void *user);
void gw_auth_leave_flight(struct gw_auth_pending *pending);
void gw_auth_free_flights(struct gw_auth *auth);
/* The service account of a verified client certificate; GW_AUTH_MISSING when the connection brought none. */
enum gw_auth_result gw_auth_identify_certificate(const struct gw_auth *auth, struct gw_http *http,
                                                 struct gw_principal *ret_who);
/* A key of a service account has the roles that the policy gives it now: GW_AUTH_REVOKED when the account is gone. Others: GW_AUTH_OK. */
enum gw_auth_result gw_auth_refresh_service(const struct gw_auth *auth, struct gw_principal *who);

#endif
