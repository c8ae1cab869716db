/* Sessions: who is signed in. Sealed in Redis, ended in Postgres, remembered for moments here.
 *
 * What: a session is a random token in a cookie (session.h); Redis holds, under the token's keyed hash, the session's record sealed
 *       with AES-256-GCM (key derived from the pepper; the hash stands inside), with the idle limit as its time to live. A
 *       revocation is a row in Postgres (identity.revocations), since Redis may lose a write: every gateway holds those that can still
 *       matter in memory and asks them on every use, so that neither Redis nor a copy of it brings an ended session back.
 * Who:  one gw_sessions per process; calls on a loop answer on that loop. gw_sessions_revoked from any thread.
 * Promises:
 *   - a session that any gateway ended is refused everywhere, and its live streams are cut, within a second while Postgres is there;
 *   - idle and absolute limits hold; at sign-in and at every refresh the token is a new one, the old one is dead;
 *   - with Redis away nobody signs in; a session that was verified here moments ago goes on for GW_SESSION_CACHE_MS;
 *   - 10,000 live sessions take less than 20 MB here.
 * Not here: cookies and tokens (session.h), what a provider said (sign_in.c).
 */
#ifndef GATEWAY_SESSIONS_H
#define GATEWAY_SESSIONS_H

#include "base/err.h"
#include "gateway/live.h"
#include "gateway/loop.h"
#include "gateway/principal.h"

#include <stdint.h>

#define GW_SESSION_ID_LEN \
    16u /* the public name of a session: random, kept when its token is rotated; credential_id */
#define GW_PROVIDER_NAME_MAX 64u
#define GW_SESSION_CACHE_MS  2000u
#define GW_SID_MAX           256u /* the provider's session: OIDC sid, SAML SessionIndex */

struct gw_sessions;

/* What is sealed. Texts that may be long are heap, owned by who fills it; NULL for none. */
struct gw_session_record {
    /* roles: what the provider's claims gave; those of the SCIM directory are added at each use */
    struct gw_principal who;
    char provider[GW_PROVIDER_NAME_MAX]; /* "" for links, GW_LOCAL_PROVIDER for local administrators */
    char sid[GW_SID_MAX];
    char directory_key[GW_SUBJECT_MAX];         /* "" for none: gateway/directory.h */
    char name[128], email[128];                 /* to show, no right hangs on them */
    char from[GW_PEER_MAX];                     /* where it was started */
    int64_t started_us, seen_us, expires_at_us; /* absolute */
    int64_t refresh_at_us; /* 0: never; past it the session must be refreshed: GW_AUTH_SESSION_STALE */
    char *refresh_token;   /* OIDC */
    char *logout_hint;     /* id_token (OIDC); NameID and its format, separated by a newline (SAML) */
};
void gw_session_record_free(struct gw_session_record *record); /* wipes; what it points to, not itself */

/* What a revocation names. */
enum gw_revoke_kind {
    GW_REVOKE_NONE = 0,
    GW_REVOKE_SESSION, /* credential_id */
    GW_REVOKE_PERSON,  /* issuer and subject, or SAML's NameID: every session and cached token from before */
    GW_REVOKE_SID,     /* issuer and sid */
    GW_REVOKE_KEY      /* directory key: every session of that person from before, whatever the issuer */
};

struct gw_store;
struct gw_revocations;
struct base_secret;

struct gw_sessions_options { /* nothing is copied but the URL */
    struct gw_store *store;
    struct gw_revocations *revocations; /* the one that the store feeds */
    const struct base_secret *pepper;
    const char *redis_url;
    unsigned redis_timeout_ms; /* 0: 250 */
    unsigned idle_s, absolute_s;
    unsigned cache_ms; /* 0: GW_SESSION_CACHE_MS */
    /* At each use: adds what the directory says. BASE_DENIED: deactivated, or no role is left. NULL: as the provider said. */
    enum base_code (*refine)(struct gw_principal *who, const char *provider, const char *directory_key,
                             void *user);
    void *refine_user;
};
struct gw_sessions *gw_sessions_new(const struct gw_sessions_options *options);
void gw_sessions_free(struct gw_sessions *sessions); /* after the loops and the store; NULL is allowed */
/* On the loop's thread, before its first and after its last request: its connection to Redis. */
void gw_sessions_loop_start(struct gw_sessions *sessions, struct gw_loop *loop);
void gw_sessions_loop_end(struct gw_sessions *sessions, struct gw_loop *loop);

/* record: borrowed for the callback. BASE_DENIED: no such session now. BASE_UNAVAILABLE, BASE_TIMEOUT, BASE_FULL: cannot be said. */
typedef void gw_sessions_fn(enum base_code rc, const struct gw_session_record *record, void *user);
struct gw_sessions_op;
void gw_sessions_forget(struct gw_sessions_op *op); /* NULL is allowed */

/* Starts a session: record is copied and sealed; token (GW_TOKEN_LEN) is the new cookie's. Each below: NULL when done was already
 * called. */
struct gw_sessions_op *gw_sessions_start(struct gw_sessions *sessions, struct gw_loop *loop,
                                         const char *token, const struct gw_session_record *record,
                                         gw_sessions_fn *done, void *user);
/* Drops a session from Redis, unrecorded: one whose token nobody was given, or that was revoked before. */
void gw_sessions_discard(struct gw_sessions *sessions, struct gw_loop *loop, const char *token);
/* For identify: principal alone, from memory when verified moments ago; the directory's state and roles are applied. */
typedef void gw_session_who_fn(enum base_code rc, const struct gw_principal *who, bool stale, void *user);
struct gw_sessions_op *gw_sessions_identify(struct gw_sessions *sessions, struct gw_loop *loop,
                                            const char *token, gw_session_who_fn *done, void *user);
/* The whole record (refresh, logout, GET /auth/session). */
struct gw_sessions_op *gw_sessions_get(struct gw_sessions *sessions, struct gw_loop *loop, const char *token,
                                       gw_sessions_fn *done, void *user);
/* Puts a record under a new token and ends the old one (refresh). BASE_EXISTS: another request is just doing that. Where nothing comes
 * of it, cancel lets the next one begin at once. */
struct gw_sessions_op *gw_sessions_rotate_begin(struct gw_sessions *sessions, struct gw_loop *loop,
                                                const char *token, gw_sessions_fn *done, void *user);
struct gw_sessions_op *gw_sessions_rotate_end(struct gw_sessions *sessions, struct gw_loop *loop,
                                              const char *token, const char *new_token,
                                              const struct gw_session_record *record, gw_sessions_fn *done,
                                              void *user);
void gw_sessions_rotate_cancel(struct gw_sessions *sessions, struct gw_loop *loop, const char *token);

/* Ends what it names, in Postgres first (BASE_UNAVAILABLE: nothing was ended), and cuts its live streams here; the other gateways
 * follow by notification. a: credential_id, issuer, or directory key; b: subject, sid, or "". */
struct gw_sessions_op *gw_sessions_revoke(struct gw_sessions *sessions, struct gw_loop *loop,
                                          enum gw_revoke_kind kind, const char *a, const char *b,
                                          const char *reason, gw_sessions_fn *done, void *user);
/* True when a principal that was proved at since_us has been revoked since. For bearer tokens and API keys, too. */
bool gw_sessions_revoked(struct gw_sessions *sessions, const struct gw_principal *who, int64_t since_us);

/* Whether one revocation meets a principal: to cut what is live. A token that was rotated away meets nobody. */
struct gw_revocation;
bool gw_sessions_meets(struct gw_sessions *sessions, const struct gw_principal *who,
                       const struct gw_revocation *revocation);

/* Once, for ever: true the first time that (kind, value) is brought (SAML assertions, OIDC states, logout tokens' jti).
 * BASE_EXISTS: brought before. BASE_UNAVAILABLE: cannot be recorded, so it must be refused. A unique insert in Postgres. */
struct gw_sessions_op *gw_sessions_use_once(struct gw_sessions *sessions, struct gw_loop *loop,
                                            const char *kind, const char *value, int64_t until_s,
                                            gw_sessions_fn *done, void *user);

/* Live sessions of a person, newest first; each is called within the callback's time, before done. */
typedef void gw_session_each_fn(const struct gw_session_record *record, const char *session_id, void *user);
struct gw_sessions_op *gw_sessions_list(struct gw_sessions *sessions, struct gw_loop *loop,
                                        const char *issuer, const char *subject, gw_session_each_fn *each,
                                        gw_sessions_fn *done, void *user);

/* Everybody's, some hundreds at a time, newest first among these. cursor: "" to begin, then the `next` of the page before; next is ""
 * with the last page. A page may be empty and not the last. A session that lives all the while is in at least one page; one that
 * begins or ends meanwhile may be. */
#define GW_SESSION_CURSOR_MAX 24u
typedef void gw_session_page_fn(enum base_code rc, const char *next, void *user);
bool gw_session_cursor_valid(const char *cursor); /* has the form of a `next` */
struct gw_sessions_op *gw_sessions_page(struct gw_sessions *sessions, struct gw_loop *loop,
                                        const char *cursor, gw_session_each_fn *each,
                                        gw_session_page_fn *done, void *user);

#endif
