/* App: what the whole process has, and what each loop has. Filled by main.c before the server starts; taken down after it has ended.
 *
 * Who: everything in gateway/ reads it; `runtime` alone changes while serving (gw_app_set_runtime).
 */
#ifndef GATEWAY_APP_H
#define GATEWAY_APP_H

#include "audit/audit.h"
#include "base/workers.h"
#include "gateway/auth.h"
#include "gateway/config.h"
#include "gateway/http_client.h"
#include "gateway/limits.h"
#include "gateway/live.h"
#include "gateway/revocations.h"
#include "gateway/runtime.h"
#include "gateway/server.h"
#include "gateway/sessions.h"

#include <pthread.h>
#include <stdatomic.h>

#define GW_LOOPS_MAX 256u

struct gw_loop_state { /* touched by its loop thread alone, but for the atomics */
    struct gw_limits *limits;
    struct gw_http_client *http_client;
    struct pol_scratch *scratch;
    atomic_bool limits_up;
    atomic_uint calls_in_flight, streams_open;
};

struct gw_sso;   /* sso_client.h */
struct gw_local; /* local_admin.h */
struct gw_scim;  /* scim.h */
struct gw_directory;

struct gw_app {
    const struct gw_config *config;
    struct aud *audit;
    struct gw_store *store;
    struct gw_revocations *revocations;
    struct gw_sessions *sessions;
    struct gw_live *live;
    struct gw_sso *sso; /* NULL: the policy named no provider at start */
    struct gw_auth *auth;
    struct gw_local *local;
    struct gw_directory *directory;
    struct gw_scim *scim;
    struct base_workers *workers;
    struct gw_server *server;
    atomic_bool serving; /* `server` is set: the loops may answer before gw_server_start has returned */
    atomic_bool draining;
    int64_t started_us;
    pthread_mutex_t runtime_lock; /* guards the pointer, not what it points to */
    struct gw_runtime *runtime;
    struct gw_loop_state loops[GW_LOOPS_MAX];
};

/* A new reference; the caller gives it back with gw_runtime_unref. */
struct gw_runtime *gw_app_runtime(struct gw_app *app);
/* Takes over the caller's reference; gives the old one back. */
void gw_app_set_runtime(struct gw_app *app, struct gw_runtime *runtime);
struct gw_loop_state *gw_app_loop(struct gw_app *app, const struct gw_loop *loop);

/* The handlers of the two listeners (routes.c, health.c); user is the gw_app. */
void gw_routes_handle(struct gw_http *http, void *user);
void gw_health_handle(struct gw_http *http, void *user);
/* Sends an API error with its status and Retry-After. */
void gw_send_error(struct gw_http *http, const struct gw_api_error *error);

#endif
