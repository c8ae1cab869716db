/* Auth: from a request's credentials to a principal.
 *
 * What: API keys (Authorization: Bearer, x-api-key, api-key), session cookies, access tokens of the organisation's provider
 *       (Authorization: Bearer or DPoP) and client certificates of service accounts. Keys are found in an in-memory snapshot of the key
 *       table, refreshed by notification and poll, so that a request needs no database and Postgres may be away; revocation takes effect
 *       within a second while Postgres is there.
 * Who:  gw_auth_identify on a loop; answers at once or later on the same loop.
 */
#ifndef GATEWAY_AUTH_H
#define GATEWAY_AUTH_H

#include "base/err.h"
#include "base/secret.h"
#include "gateway/api_error.h"
#include "gateway/principal.h"
#include "gateway/server.h"

struct gw_store;    /* store.h */
struct gw_sessions; /* sessions.h */
struct gw_session_record;
struct gw_auth;

/* Zero refuses. Each has one public error code. */
enum gw_auth_result {
    GW_AUTH_REFUSED = 0,   /* 401 invalid_api_key: unknown, malformed, more than one credential */
    GW_AUTH_MISSING,       /* 401 missing_credentials */
    GW_AUTH_EXPIRED,       /* 401 expired_api_key */
    GW_AUTH_REVOKED,       /* 401 revoked_api_key */
    GW_AUTH_SESSION_ENDED, /* 401 session_ended: sign in again */
    GW_AUTH_SESSION_STALE, /* 401 session_stale: POST /auth/refresh, then again */
    GW_AUTH_TOKEN_REFUSED, /* 401 invalid_token: an access token that does not hold */
    GW_AUTH_PROOF_REFUSED, /* 401 invalid_dpop_proof */
    GW_AUTH_NO_ROLE,       /* 403 no_role: known, but the policy maps it to no role */
    GW_AUTH_CSRF,          /* 403 csrf_failed: cookie without the right token or with a foreign Origin */
    GW_AUTH_UNAVAILABLE,   /* 503 identity_unavailable */
    GW_AUTH_OK
};
enum gw_api_code gw_auth_api_code(enum gw_auth_result result); /* GW_API_INTERNAL for GW_AUTH_OK */
const char *gw_auth_result_code(enum gw_auth_result result);   /* "invalid_api_key"; "ok" */

/* Records an event of identity in the audit ("link.use", "link.refuse", "session.start", "session.end"). Called on a loop; must not
 * block. who->method is GW_AUTH_NONE when nobody was identified; target names the session or is "". False: it could not be recorded;
 * a sign-in is then taken back and answered 503. */
typedef bool gw_auth_record_fn(const char *action, const struct gw_principal *who, const char *target,
                               void *user);

struct pol_snapshot; /* policy/policy.h */
struct gw_sso;       /* sso_client.h */

struct gw_auth_options {
    struct gw_store *store;
    struct gw_sessions *sessions;
    const struct base_secret *key_pepper; /* HMAC key for API keys, session tokens and links; 32 bytes */
    const char *public_origin;            /* "https://localhost:8443": what Origin must be */
    unsigned session_idle_s, session_absolute_s;
    gw_auth_record_fn *record; /* NULL: events are dropped (tests) */
    void *record_user;
    /* Where a browser that has signed out here goes on to sign out at its provider; done is called once, on the loop, with "" for
     * nowhere. NULL: nowhere. */
    void (*sign_out_url)(struct gw_loop *loop, const struct gw_session_record *session,
                         void (*done)(const char *url, void *user), void *user, void *sign_out_user);
    void *sign_out_user;
    /* Machine access (auth_token.c). The policy now, as a reference that is given back, and a number that changes with it. NULL: no
     * access tokens, no service accounts. */
    struct pol_snapshot *(*policy)(uint64_t *ret_generation, void *user);
    void *policy_user;
    struct gw_sso *const *sso; /* where gatehouse-sso's client stands once it runs; NULL: never */
    /* As of sessions.h: what the directory says of a token's person, at each use. NULL: as the provider said. */
    enum base_code (*refine)(struct gw_principal *who, const char *provider, const char *directory_key,
                             void *user);
    void *refine_user;
};
/* BASE_INVALID: a pepper shorter than 32 bytes, an origin that is no "scheme://host[:port]". Nothing is copied but the origin. */
enum base_code gw_auth_new(struct gw_auth **ret_auth, const struct gw_auth_options *options,
                           struct base_err *err);
void gw_auth_free(struct gw_auth *auth);

/* Calls done exactly once on the request's loop, possibly before returning (API keys: always; sessions: when verified moments ago).
 * principal is borrowed for the callback, NULL unless GW_AUTH_OK. Everything that is needed of http is read before returning.
 * NULL when done was already called; else the handle to forget by when the client leaves first (in the closed callback): done is
 * then not called. The handle is dead once done ran. */
typedef void gw_identified_fn(enum gw_auth_result result, const struct gw_principal *principal, void *user);
struct gw_auth_pending;
struct gw_auth_pending *gw_auth_identify(struct gw_auth *auth, struct gw_http *http, gw_identified_fn *done,
                                         void *user);
void gw_auth_forget(struct gw_auth_pending *pending); /* NULL is allowed */

/* The page's endpoints, handed over by the router with the whole request:
 *   GET  /auth/link?token=...   a small page with a button (a mail scanner that fetches the link must not use it up)
 *   POST /auth/link             uses the link: sets the session cookie, 303 to /
 *   GET  /auth/session          who am I: {"subject":..., "roles":[...], "csrf_token":..., "expires_at":...} or 401
 *   POST /auth/logout           ends the session: 204, or 200 {"url":...}: on to the provider's sign-out
 *   /auth/sessions, /auth/admin/sessions   session_pages.h
 *   GET  /auth/page.css         of the link page
 * True when the path was one of these and has been answered. */
bool gw_auth_handle(struct gw_auth *auth, struct gw_http *http);

#endif
