/* A private gate for a test: Postgres with the migrations, the identity store, auth, and a plain HTTP server on loopback in front:
 *     /auth/...   gw_auth_handle, gw_local_handle
 *     /whoami     gw_auth_identify: "ok METHOD SUBJECT ROLE,ROLE CREDENTIAL" or "refused CODE"
 *
 * Who:  tests; gate_request from any thread, the rest from one.
 */
#ifndef TESTS_GATE_PRIVATE_H
#define TESTS_GATE_PRIVATE_H

#include "base/secret.h"
#include "gateway/auth.h"
#include "gateway/cli_key.h"
#include "gateway/store.h"
#include "gateway/revocations.h"
#include "gateway/sessions.h"
#include "pg_private.h"
#include "redis_private.h"

#include <stdatomic.h>

#define GATE_ORIGIN     "https://gate.example:8443"
#define GATE_IDLE_S     1800u
#define GATE_ABSOLUTE_S 43200u
#define GATE_CACHE_MS   200u /* shorter than in life, so that tests need not wait */

struct gate {
    struct pgp *pg;
    struct base_secret *pepper;
    char pepper_file[64];
    struct rdp *redis;
    struct gw_revocations *revocations;
    struct gw_store *store;
    struct gw_sessions *sessions;
    struct gw_auth *auth;
    struct gw_server *server;
    struct gw_sso *sso; /* a test's own; ended by gate_free */
    struct gw_local *local;
    struct pol_snapshot *policy; /* gate_set_policy */
    const char *policy_file;     /* of commands; NULL: none */
    uint64_t policy_generation;
    atomic_bool refuse_records; /* the audit says no; read by the loops */
};

/* Ends the process with "Bail out!" when something cannot be started. */
struct gate *gate_new(void);
/* With a TLS listener, too (gw_server_port 1), that asks for client certificates. */
struct gate *gate_new_tls(const char *cert_file, const char *key_file, const char *client_ca_file);
/* The policy of identity, as text; without it there is none: no access tokens, no service accounts, no local administrators. */
void gate_set_policy(struct gate *gate, const char *text);
void gate_free(struct gate *gate);

const char *gate_dsn(struct gate *gate);                  /* role gatehouse_store */
void gate_sql(struct gate *gate, const char *sql);        /* as superuser */
int64_t gate_sql_int(struct gate *gate, const char *sql); /* first value of the first row */
/* Makes the store forget the sessions that it has just verified. */
void gate_clear_cache(struct gate *gate);

/* Keys in Redis that a pattern finds. */
int gate_redis_count(struct gate *gate, const char *pattern);
/* Seals the one session in Redis anew, seen and ending so many seconds from now; false when there is not exactly one. */
bool gate_age_session(struct gate *gate, const char *cookie, int seen_s, int ends_ms);

/* What was recorded since the last call, one "ACTION SUBJECT;" after the other. */
const char *gate_events(struct gate *gate);

struct gate_answer {
    int status;      /* 0: no answer */
    char text[8192]; /* all of it, head and body */
};
/* headers: complete lines with their CRLF. */
struct gate_answer gate_request(struct gate *gate, const char *method, const char *path, const char *headers,
                                const char *body);
/* A header's value; "" when absent. The text lives until the eighth next call. */
const char *gate_header(const struct gate_answer *answer, const char *name);

/* Runs `gatehouse key ...` or `gatehouse admin-link ...`: its status, and what it printed on both streams. */
int gate_command(struct gate *gate, const char *line, char out[4096]);

/* Shorthands: a new key for an owner; a new link's token; a new session's cookie value and CSRF token. */
void gate_new_key(struct gate *gate, const char *options, char key[80], char id[16]);
void gate_new_link(struct gate *gate, char token[80]);
void gate_sign_in(struct gate *gate, char cookie[80], char csrf[64]);

#endif
