/* Serve: brings the parts up in the order of their needs, then waits for signals.
 *
 *   secrets -> migrations -> audit -> identity store -> policy and its engines -> server -> (SIGHUP reload)* -> drain
 *
 * What starts last is taken down first; a part that cannot start ends the process with a sentence that says what to do.
 */
#include "gateway/serve.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/secret.h"
#include "engine/engine.h"
#include "gateway/app.h"
#include "gateway/codec_sso.h"
#include "gateway/codec_sso_report.h"
#include "gateway/directory.h"
#include "gateway/local_admin.h"
#include "gateway/metrics.h"
#include "gateway/roles.h"
#include "gateway/scim.h"
#include "gateway/sign_in.h"
#include "gateway/sso/proto.h"
#include "gateway/sso_client.h"
#include "gateway/store.h"

#include <curl/curl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SSO_CONFIG_MAX (1u << 20)
#define N_WORKERS      2u
#define WORKER_QUEUE   1024u
#define STORE_READY_MS 5000u
#define AUDIT_SHIP_MS  5000u
#define LIMITS_POLL_MS 200u
#define TOKEN_LIFE_S   86400u /* an access token from before a revocation may be brought for so long */

struct process {
    struct gw_app app;
    struct base_secret *kek, *pseudonym_key, *pepper;
    bool loop_stopping;
};

/* ---- app.h ---- */

struct gw_runtime *gw_app_runtime(struct gw_app *app)
{
    struct gw_runtime *runtime;

    pthread_mutex_lock(&app->runtime_lock);
    runtime = gw_runtime_ref(app->runtime);
    pthread_mutex_unlock(&app->runtime_lock);
    return runtime;
}

void gw_app_set_runtime(struct gw_app *app, struct gw_runtime *runtime)
{
    struct gw_runtime *old;

    pthread_mutex_lock(&app->runtime_lock);
    old = app->runtime;
    app->runtime = runtime;
    pthread_mutex_unlock(&app->runtime_lock);
    gw_runtime_unref(old);
}

struct gw_loop_state *gw_app_loop(struct gw_app *app, const struct gw_loop *loop)
{
    return &app->loops[gw_loop_index(loop)];
}

/* ---- per loop ---- */

struct limits_poll {
    struct gw_app *app;
    struct gw_loop *loop;
    struct gw_timer *timer;
};
static struct limits_poll polls[GW_LOOPS_MAX];

static void poll_limits(void *arg)
{
    struct limits_poll *poll = arg;
    struct gw_loop_state *state = gw_app_loop(poll->app, poll->loop);

    atomic_store(&state->limits_up, gw_limits_up(state->limits));
    poll->timer = gw_timer_start(poll->loop, LIMITS_POLL_MS, poll_limits, poll);
}

static void loop_start(struct gw_loop *loop, void *user)
{
    struct gw_app *app = user;
    struct gw_loop_state *state = gw_app_loop(app, loop);
    struct limits_poll *poll = &polls[gw_loop_index(loop)];

    state->limits =
        gw_limits_new(loop, app->config->redis_url, "gh", (unsigned)app->config->redis_timeout_ms);
    gw_sessions_loop_start(app->sessions, loop);
    state->http_client = gw_http_client_new(loop);
    state->scratch = pol_scratch_new();
    *poll = (struct limits_poll){.app = app, .loop = loop};
    poll_limits(poll);
}

static void loop_end(struct gw_loop *loop, void *user)
{
    struct gw_app *app = user;
    struct gw_loop_state *state = gw_app_loop(app, loop);

    gw_timer_stop(polls[gw_loop_index(loop)].timer);
    gw_http_client_free(state->http_client);
    gw_limits_free(state->limits);
    gw_sessions_loop_end(app->sessions, loop);
    pol_scratch_free(state->scratch);
}

/* ---- starting ---- */

static int fail(const char *what, const struct base_err *err)
{
    base_log_err(BASE_LOG_ERROR, "start.failed", what, err);
    fprintf(stderr, "gatehouse: %s: %s\n", what, err->detail);
    return 1;
}

static enum base_code read_secrets(struct process *process, struct base_err *err)
{
    const struct gw_config *config = process->app.config;
    enum base_code rc = base_secret_read_key_file(&process->kek, config->kek_file, err);

    if (rc == BASE_OK)
        rc = base_secret_read_key_file(&process->pseudonym_key, config->pseudonym_key_file, err);
    if (rc == BASE_OK)
        rc = base_secret_read_key_file(&process->pepper, config->pepper_file, err);
    return rc;
}

static bool record_identity(const char *action, const struct gw_principal *who, const char *target,
                            void *user)
{
    struct gw_app *app = user;
    struct base_err err = {0};
    char labels[96];
    struct aud_record record = {
        .kind = AUD_EVENT,
        .action = action,
        .target = target,
        .issuer = who->issuer,
        .subject = who->subject,
        .auth_method = gw_auth_method_name(who->method),
        .credential_id = who->credential_id,
        .tenant = who->tenant,
        .status = strstr(action, "refuse") != NULL ? "refused" : "ok",
    };

    if (strncmp(action, "link.", 5) == 0) { /* sign_in.c counts its own, by provider */
        snprintf(labels, sizeof(labels), "method=\"link\",result=\"%s\"", record.status);
        gw_metric_add(GW_M_LOGINS, labels, 1);
    }
    if (aud_append(app->audit, &record, NULL, NULL, &err) == BASE_OK)
        return true;
    base_log_err(BASE_LOG_ERROR, "audit.refused", action, &err);
    return false;
}

struct cut_by {
    struct gw_sessions *sessions;
    struct gw_revocation revocation;
};

static bool meets(const struct gw_principal *who, const void *arg)
{
    const struct cut_by *by = arg;

    return gw_sessions_meets(by->sessions, who, &by->revocation);
}

/* From the store's watcher, or a loop that revokes. */
static void on_revocation(const struct gw_revocation *revocation, void *user)
{
    struct gw_app *app = user;
    const struct cut_by by = {.sessions = app->sessions, .revocation = *revocation};

    if (atomic_load(&app->serving))
        gw_live_cut(app->live, app->server, meets, &by, sizeof(by));
}

static bool by_key(const struct gw_principal *who, const void *arg)
{
    const struct gw_keys_gone *keys = arg;

    for (unsigned i = 0; i < keys->n; i++)
        if (who->method == GW_AUTH_API_KEY && strcmp(who->credential_id, keys->ids[i]) == 0)
            return true;
    return false;
}

/* From the store's watcher. */
static void on_keys_gone(const struct gw_keys_gone *keys, void *user)
{
    struct gw_app *app = user;

    if (atomic_load(&app->serving))
        gw_live_cut(app->live, app->server, by_key, keys, sizeof(*keys));
}

/* gw_auth_options.policy */
static struct pol_snapshot *policy_now(uint64_t *ret_generation, void *user)
{
    struct gw_app *app = user;
    struct pol_snapshot *policy = NULL; /* the process ends: what comes back late finds none */

    pthread_mutex_lock(&app->runtime_lock);
    if (app->runtime != NULL) {
        policy = pol_ref(gw_runtime_policy(app->runtime));
        *ret_generation = (uint64_t)gw_runtime_loaded_us(app->runtime);
    }
    pthread_mutex_unlock(&app->runtime_lock);
    return policy;
}

static enum base_code open_identity(struct process *process, struct base_err *err)
{
    struct gw_app *app = &process->app;
    const struct gw_config *config = app->config;

    app->revocations = gw_revocations_new();
    app->directory = gw_directory_new();
    app->store = gw_store_open(&(struct gw_store_options){.dsn = config->store_dsn,
                                                          .revocations = app->revocations,
                                                          .directory = app->directory,
                                                          .keys_gone = on_keys_gone,
                                                          .keys_gone_user = app});
    if (!gw_store_wait_ready(app->store, STORE_READY_MS))
        return base_fail(err, BASE_UNAVAILABLE, 0, "the API keys cannot be read from Postgres (store_dsn)");
    app->sessions =
        gw_sessions_new(&(struct gw_sessions_options){.store = app->store,
                                                      .revocations = app->revocations,
                                                      .pepper = process->pepper,
                                                      .redis_url = config->redis_url,
                                                      .redis_timeout_ms = (unsigned)config->redis_timeout_ms,
                                                      .idle_s = (unsigned)config->session_idle_s,
                                                      .absolute_s = (unsigned)config->session_absolute_s,
                                                      .refine = gw_roles_refine,
                                                      .refine_user = app});
    app->live = gw_live_new(GW_LOOPS_MAX);
    gw_revocations_listen(app->revocations, on_revocation, app);
    return gw_auth_new(&app->auth,
                       &(struct gw_auth_options){
                           .store = app->store,
                           .sessions = app->sessions,
                           .key_pepper = process->pepper,
                           .public_origin = config->public_url,
                           .session_idle_s = (unsigned)config->session_idle_s,
                           .session_absolute_s = (unsigned)config->session_absolute_s,
                           .record = record_identity,
                           .record_user = app,
                           .sign_out_url = gw_sign_in_out_url,
                           .sign_out_user = app,
                           .policy = policy_now,
                           .policy_user = app,
                           .sso = &app->sso,
                           .refine = gw_roles_refine,
                           .refine_user = app,
                       },
                       err);
}

static enum base_code open_scim(struct process *process, struct base_err *err)
{
    struct gw_app *app = &process->app;
    unsigned absolute_s = (unsigned)app->config->session_absolute_s;

    app->scim = gw_scim_new(
        &(struct gw_scim_options){.store = app->store,
                                  .revocations = app->revocations,
                                  .directory = app->directory,
                                  .auth = app->auth,
                                  .audit = app->audit,
                                  .pepper = process->pepper,
                                  .public_url = app->config->public_url,
                                  .keep_s = absolute_s > TOKEN_LIFE_S ? absolute_s : TOKEN_LIFE_S});
    return gw_scim_configure(app->scim, gw_runtime_policy(app->runtime), err);
}

/* What gatehouse-sso asked of providers. On its keeper's thread. */
static void count_asked(const char *json, size_t len, void *user)
{
    struct gw_sso_asked asked[SSO_ASKED_MAX];
    size_t n = gw_sso_decode_asked(asked, SSO_ASKED_MAX, json, len);
    struct gw_runtime *runtime = n > 0 ? gw_app_runtime(user) : NULL;
    char labels[160];

    for (size_t i = 0; i < n; i++) {
        const struct pol_provider *provider =
            pol_provider_find(gw_runtime_policy(runtime), asked[i].provider);

        if (provider == NULL) /* a label is a configured name */
            continue;
        snprintf(labels, sizeof(labels), "provider=\"%s\",kind=\"%s\",result=\"%s\"", provider->name,
                 asked[i].kind, asked[i].result);
        gw_metric_add(GW_M_SSO_REQUESTS, labels, 1);
    }
    gw_runtime_unref(runtime);
}

/* Starts gatehouse-sso, or gives it the policy's providers anew. Files that cannot be read leave what runs as it is. */
static enum base_code configure_sso(struct gw_app *app, const struct pol_snapshot *policy,
                                    struct base_err *err)
{
    auto_buf struct base_buf config = BASE_BUF_INIT(SSO_CONFIG_MAX);
    enum base_code rc = gw_sso_encode_config(&config, policy, app->config->public_url, err);

    if (rc == BASE_NOT_FOUND &&
        pol_n_providers(policy) == 0) /* none: a process that runs already refuses what it does not know */
        return BASE_OK;
    if (rc != BASE_OK)
        return rc;
    if (app->sso == NULL)
        app->sso = gw_sso_new(&(struct gw_sso_options){
            .config_json = config.data, .config_len = config.len, .on_reply = count_asked, .user = app});
    else
        gw_sso_reconfigure(app->sso, config.data, config.len);
    base_wipe(config.data, config.cap);
    return BASE_OK;
}

static enum base_code open_server(struct process *process, struct base_err *err)
{
    struct gw_app *app = &process->app;
    const struct gw_config *config = app->config;
    struct gw_listener_options listeners[] = {
        {config->listen_address, (uint16_t)config->listen_port, true, gw_routes_handle, app},
        {config->admin_address, (uint16_t)config->admin_port, false, gw_health_handle, app},
    };
    struct gw_server_options options = {
        .n_threads = (unsigned)config->threads,
        .http2 = config->http2,
        .cert_file = config->cert_file,
        .key_file = config->key_file,
        .client_ca_file = config->client_ca_file,
        .limits = GW_SERVER_LIMITS_DEFAULT,
        .listeners = listeners,
        .n_listeners = BASE_ARRAY_LEN(listeners),
        .loop_start = loop_start,
        .loop_end = loop_end,
        .user = app,
    };

    if (!gw_limits_url_ok(config->redis_url))
        return base_fail(
            err, BASE_INVALID, 0,
            "redis_url must be unix:///path or redis://[[user]:password@]host[:port][/database]");
    options.limits.body_bytes_max = config->body_bytes_max;
    options.limits.connections_max = (unsigned)config->connections_max;
    options.limits.connections_per_address = (unsigned)config->connections_per_address;
    options.limits.requests_per_second = (unsigned)config->requests_per_second;
    options.limits.request_timeout_ms = (unsigned)config->request_timeout_ms;
    options.limits.idle_timeout_ms = (unsigned)config->idle_timeout_ms;
    options.limits.write_timeout_ms = (unsigned)config->write_timeout_ms;
    return gw_server_start(&app->server, &options, err);
}

static int start(struct process *process)
{
    struct gw_app *app = &process->app;
    const struct gw_config *config = app->config;
    struct aud_options audit = {
        .journal_dir = config->journal_dir,
        .journal_max_bytes = config->journal_max_bytes,
        .instance = config->instance,
        .writer_dsn = config->writer_dsn,
        .mapper_dsn = config->mapper_dsn,
        .epoch = (unsigned)config->pseudonym_epoch,
    };
    struct base_err err = {0};
    unsigned n_migrations = 0;

    if (read_secrets(process, &err) != BASE_OK)
        return fail("a key file cannot be used", &err);
    if (aud_migrate(config->migrator_dsn, config->migrations_dir, &n_migrations, &err) != BASE_OK)
        return fail("the database cannot be prepared; is Postgres running, and is migrator_dsn right?", &err);
    if (n_migrations > 0)
        base_log(BASE_LOG_INFO, "migrations.applied", "the database was brought up to date",
                 LOG_INT("count", n_migrations));
    audit.kek = process->kek;
    audit.pseudonym_key = process->pseudonym_key;
    if (aud_open(&app->audit, &audit, &err) != BASE_OK)
        return fail("the audit cannot be opened", &err);
    if (open_identity(process, &err) != BASE_OK)
        return fail("the identity store cannot be opened", &err);
    if (config->cuda_plugin[0] != '\0')
        eng_use_plugin(config->cuda_plugin);
    if (gw_runtime_load(&app->runtime, config->policy_file, NULL, &err) != BASE_OK)
        return fail("the policy cannot be loaded", &err);
    if (configure_sso(app, gw_runtime_policy(app->runtime), &err) != BASE_OK)
        return fail("single sign-on cannot be configured", &err);
    if (open_scim(process, &err) != BASE_OK)
        return fail("SCIM cannot be configured", &err);
    app->local = gw_local_new(app->auth);
    app->workers =
        base_workers_new(&(struct base_workers_options){.n_threads = N_WORKERS, .queue_max = WORKER_QUEUE});
    if (open_server(process, &err) != BASE_OK)
        return fail("the server cannot start", &err);
    atomic_store(&app->serving, true);
    base_log(BASE_LOG_INFO, "serving", "ready", LOG_STR("instance", config->instance),
             LOG_STR("version", GH_VERSION), LOG_INT("port", gw_server_port(app->server, 0)),
             LOG_INT("admin_port", gw_server_port(app->server, 1)),
             LOG_STR("policy", pol_hash(gw_runtime_policy(app->runtime))),
             LOG_INT("loops", gw_server_n_loops(app->server)));
    return 0;
}

/* ---- signals ---- */

static void end_local_sessions(void *arg)
{
    struct gw_app *app = arg;

    gw_local_end_all(app->local, gw_server_loop(app->server, 0));
}

static bool break_glass(const struct gw_app *app)
{
    return pol_identity(gw_runtime_policy(app->runtime))->break_glass;
}

static void reload(struct gw_app *app)
{
    struct gw_runtime *runtime = NULL;
    struct base_err err = {0};
    bool had_local = break_glass(app);

    if (gw_runtime_load(&runtime, app->config->policy_file, app->runtime, &err) == BASE_OK &&
        (configure_sso(app, gw_runtime_policy(runtime), &err) != BASE_OK ||
         gw_scim_configure(app->scim, gw_runtime_policy(runtime), &err) != BASE_OK)) {
        gw_runtime_unref(runtime);
        runtime = NULL;
    }
    if (runtime != NULL) {
        gw_app_set_runtime(app, runtime);
        if (had_local && !break_glass(app))
            gw_loop_post(gw_server_loop(app->server, 0), end_local_sessions, app);
        gw_metric_add(GW_M_RELOAD, "what=\"policy\",result=\"ok\"", 1);
        base_log(BASE_LOG_INFO, "policy.reloaded", "a new policy is active",
                 LOG_STR("hash", pol_hash(gw_runtime_policy(runtime))));
    } else {
        gw_metric_add(GW_M_RELOAD, "what=\"policy\",result=\"refused\"", 1);
        base_log_err(BASE_LOG_ERROR, "policy.refused",
                     "the new policy is not usable: the old one stays active", &err);
    }
    if (gw_server_reload_tls(app->server, &err) == BASE_OK) {
        gw_metric_add(GW_M_RELOAD, "what=\"certificate\",result=\"ok\"", 1);
        base_log(BASE_LOG_INFO, "certificate.reloaded",
                 "new connections use the certificate as it is on disk now");
    } else {
        gw_metric_add(GW_M_RELOAD, "what=\"certificate\",result=\"refused\"", 1);
        base_log_err(BASE_LOG_ERROR, "certificate.refused",
                     "the new certificate is not usable: the old one stays", &err);
    }
}

static void wait_for_signals(struct gw_app *app, const sigset_t *set)
{
    int signal_number;

    for (;;) {
        if (sigwait(set, &signal_number) != 0)
            continue;
        if (signal_number != SIGHUP)
            break;
        reload(app);
    }
    base_log(BASE_LOG_INFO, "draining", "calls in flight go on, nothing new is taken",
             LOG_INT("timeout_ms", app->config->drain_timeout_ms));
}

static void stop(struct process *process)
{
    struct gw_app *app = &process->app;

    atomic_store(&app->draining, true);
    if (app->server != NULL)
        gw_server_drain(app->server, (unsigned)app->config->drain_timeout_ms);
    base_workers_free(app->workers);
    gw_local_stop(app->local);
    gw_store_free(app->store);
    gw_sso_free(app->sso);
    if (app->runtime != NULL)
        gw_app_set_runtime(app, NULL); /* joins the engines */
    aud_close(app->audit, AUDIT_SHIP_MS);
    app->audit =
        NULL; /* gw_server_free still runs what came too late for the loops: calls that were cut, to be freed */
    gw_server_free(app->server);
    gw_local_free(app->local);
    gw_scim_free(app->scim);
    gw_auth_free(app->auth);
    gw_live_free(app->live);
    gw_sessions_free(app->sessions);
    gw_directory_free(app->directory);
    gw_revocations_free(app->revocations);
    base_secret_free(process->kek);
    base_secret_free(process->pseudonym_key);
    base_secret_free(process->pepper);
    gw_metrics_free();
}

static enum base_log_level level_of(const char *name)
{
    if (strcmp(name, "debug") == 0)
        return BASE_LOG_DEBUG;
    if (strcmp(name, "warn") == 0)
        return BASE_LOG_WARN;
    return strcmp(name, "error") == 0 ? BASE_LOG_ERROR : BASE_LOG_INFO;
}

int gw_serve(const struct gw_config *config)
{
    struct process *process = base_zalloc(sizeof(*process));
    sigset_t set;
    int rc;

    /* keys and prompts must not lie in a core file */
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    base_log_init(STDERR_FILENO, level_of(config->log_level));
    curl_global_init(CURL_GLOBAL_DEFAULT);
    process->app.config = config;
    process->app.started_us = base_wall_us();
    pthread_mutex_init(&process->app.runtime_lock, NULL);
    rc = start(process);
    if (rc == 0 && !break_glass(&process->app)) /* switched off while it was stopped */
        gw_loop_post(gw_server_loop(process->app.server, 0), end_local_sessions, &process->app);
    if (rc == 0)
        wait_for_signals(&process->app, &set);
    stop(process);
    if (rc == 0)
        base_log(BASE_LOG_INFO, "stopped", "drained");
    curl_global_cleanup();
    free(process);
    return rc;
}
