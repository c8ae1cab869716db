/* Health: /livez, /readyz and /metrics on their own listener.
 *
 *   /livez    the process answers; depends on nothing
 *   /readyz   can this instance keep its promises now: 200 or 503, each check with its reason. Postgres away is still ready while the
 *             journal has room and the API keys are known; Redis away is ready: each limit's failure mode decides.
 *   /metrics  Prometheus text
 */
#include "gateway/app.h"

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "gateway/metrics.h"
#include "gateway/sso_client.h"
#include "gateway/store.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE_MAX   (8u << 20)
#define CHECKS_MAX 32u

static const char starting[] = "{\"ready\":false,\"checks\":[{\"name\":\"start\",\"ok\":false,\"needed\":"
                               "true,\"reason\":\"still starting\"}]}\n";

struct check {
    const char *name;
    bool ok, needed; /* needed: not ok makes the instance not ready */
    const char *reason;
    char device[160]; /* of an engine; empty otherwise */
};

/* A lost device is not held against the instance: the routes after it answer. */
static struct check engine_check(const struct gw_backend *backend)
{
    struct check check = {"engine", gw_backend_ready(backend), false, "the model is loaded"};
    struct eng_info info;

    eng_get_info(gw_backend_engine(backend), &info);
    memcpy(check.device, info.device, sizeof(check.device));
    if (!check.ok)
        check.reason = "its device was lost: the next routes answer; SIGHUP brings the model to the CPU if "
                       "its device is auto, a restart to the device";
    return check;
}

static bool any_redis_up(struct gw_app *app)
{
    for (unsigned i = 0; i < gw_server_n_loops(app->server); i++)
        if (atomic_load(&app->loops[i].limits_up))
            return true;
    return false;
}

static unsigned run_checks(struct gw_app *app, struct check *checks)
{
    struct aud_stats audit;
    struct gw_store_stats store;
    struct gw_sso_stats sso;
    struct gw_runtime *runtime = gw_app_runtime(app);
    bool expired = gw_server_cert_not_after(app->server) * 1000000 < base_wall_us();
    bool draining = atomic_load(&app->draining), redis = any_redis_up(app);
    unsigned n = 0;

    aud_get_stats(app->audit, &audit);
    gw_store_get_stats(app->store, &store);
    checks[n++] =
        (struct check){"audit_journal", audit.writable, true,
                       audit.writable ? "records can be written"
                                      : "the journal takes no records: see its disk and journal_max_bytes"};
    checks[n++] = (struct check){"postgres", audit.postgres_up, false,
                                 audit.postgres_up ? "records are shipped" : "away: the journal carries on"};
    checks[n++] = (struct check){"identity", store.ready, true,
                                 store.ready ? "API keys are known"
                                             : "API keys have never been read: Postgres is needed once"};
    checks[n++] = (struct check){
        "redis", redis, false, redis ? "limits are counted" : "away: each limit's on_store_failure decides"};
    if (app->sso != NULL) {
        gw_sso_get_stats(app->sso, &sso);
        checks[n++] = (struct check){"sso", sso.up, false,
                                     sso.up ? "gatehouse-sso is running"
                                            : "gatehouse-sso is being started again: nobody signs in"};
    }
    checks[n++] = (struct check){"certificate", !expired, true,
                                 expired ? "has expired: replace it and send SIGHUP" : "valid"};
    checks[n++] = (struct check){"draining", !draining, true, draining ? "shutting down" : "no"};
    for (size_t i = 0; i < gw_runtime_n_backends(runtime) && n < CHECKS_MAX; i++) {
        struct gw_backend *backend = gw_runtime_backend_at(runtime, i);

        if (gw_backend_engine(backend) != NULL)
            checks[n++] = engine_check(backend);
    }
    gw_runtime_unref(runtime);
    return n;
}

static void send_ready(struct gw_app *app, struct gw_http *http)
{
    auto_buf struct base_buf body = BASE_BUF_INIT(65536);
    struct check checks[CHECKS_MAX];
    unsigned n = run_checks(app, checks);
    bool ready = true;

    for (unsigned i = 0; i < n; i++)
        ready = ready && (checks[i].ok || !checks[i].needed);
    base_buf_printf(&body, "{\"ready\":%s,\"checks\":[", ready ? "true" : "false");
    for (unsigned i = 0; i < n; i++) {
        base_buf_printf(&body, "%s{\"name\":\"%s\",\"ok\":%s,\"needed\":%s,\"reason\":\"%s\"",
                        i > 0 ? "," : "", checks[i].name, checks[i].ok ? "true" : "false",
                        checks[i].needed ? "true" : "false", checks[i].reason);
        if (checks[i].device[0] != '\0') {
            base_buf_append_str(&body, ",\"device\":");
            base_buf_append_json(&body, checks[i].device, strlen(checks[i].device));
        }
        base_buf_append_char(&body, '}');
    }
    base_buf_append_str(&body, "]}\n");
    gw_http_send(http, ready ? 200 : 503, &(struct gw_header){"content-type", "application/json"}, 1,
                 body.data, body.len);
}

/* ---- metrics ---- */

static void put_refused(struct base_buf *out, const struct gw_server_stats *s)
{
    const struct {
        const char *reason;
        uint64_t n;
    } rows[] = {
        {"connections", s->refused_total_connections},
        {"address", s->refused_total_address},
        {"rate", s->cut_total_rate},
        {"headers", s->cut_total_headers},
        {"body", s->cut_total_body},
        {"slow", s->cut_total_slow},
        {"stalled", s->cut_total_stalled},
    };

    base_buf_append_str(
        out, "# HELP gatehouse_conn_refused_total Connections refused or cut by the connection guard.\n"
             "# TYPE gatehouse_conn_refused_total counter\n");
    for (size_t i = 0; i < BASE_ARRAY_LEN(rows); i++)
        base_buf_printf(out, "gatehouse_conn_refused_total{reason=\"%s\"} %llu\n", rows[i].reason,
                        (unsigned long long)rows[i].n);
}

static void put_server(struct base_buf *out, struct gw_app *app)
{
    struct gw_server_stats s;
    uint64_t calls = 0, streams = 0;

    gw_server_get_stats(app->server, &s);
    for (unsigned i = 0; i < gw_server_n_loops(app->server); i++) {
        calls += atomic_load(&app->loops[i].calls_in_flight);
        streams += atomic_load(&app->loops[i].streams_open);
    }
    gw_metrics_put(out, "gatehouse_requests_in_flight", "gauge", "Calls that have not ended.", NULL,
                   (double)calls);
    gw_metrics_put(out, "gatehouse_streams_open", "gauge", "Answers being streamed.", NULL, (double)streams);
    gw_metrics_put(out, "gatehouse_conn_open", "gauge", "Connections.", NULL, (double)s.connections_open);
    gw_metrics_put(out, "gatehouse_loop_lag_seconds", "gauge", "Longest pause of a loop in the last 10 s.",
                   NULL, (double)s.loop_lag_us_max / 1e6);
    gw_metrics_put(out, "gatehouse_loop_callback_seconds", "gauge",
                   "Longest callback of a loop in the last 10 s, on the clock.", NULL,
                   (double)s.callback_us_max / 1e6);
    gw_metrics_put(out, "gatehouse_loop_turn_cpu_seconds", "gauge",
                   "Most processor time that one turn of a loop took in the last 10 s.", NULL,
                   (double)s.turn_cpu_us_max / 1e6);
    gw_metrics_put(out, "gatehouse_loop_slow_callbacks_total", "counter", "Callbacks longer than 2 ms.", NULL,
                   (double)s.slow_callbacks_total);
    put_refused(out, &s);
    gw_metrics_put(out, "gatehouse_cert_expiry_timestamp_seconds", "gauge", "When the certificate expires.",
                   "name=\"server\"", (double)gw_server_cert_not_after(app->server));
    gw_metrics_put(out, "gatehouse_limit_store_up", "gauge", "Redis answered last.", NULL,
                   any_redis_up(app) ? 1 : 0);
}

static void put_audit(struct base_buf *out, struct gw_app *app)
{
    struct aud_stats a;

    aud_get_stats(app->audit, &a);
    gw_metrics_put(out, "gatehouse_audit_intents_total", "counter", "Intents made durable.", NULL,
                   (double)a.intents_total);
    gw_metrics_put(out, "gatehouse_audit_outcomes_total", "counter", "Outcomes made durable.", NULL,
                   (double)a.outcomes_total);
    gw_metrics_put(out, "gatehouse_audit_fsync_seconds_total", "counter", "Time spent in fdatasync.", NULL,
                   (double)a.fsync_us_total / 1e6);
    gw_metrics_put(out, "gatehouse_audit_fsyncs_total", "counter", "Calls of fdatasync.", NULL,
                   (double)a.fsyncs_total);
    gw_metrics_put(out, "gatehouse_audit_journal_bytes", "gauge", "Bytes of the journal.", NULL,
                   (double)a.journal_bytes);
    gw_metrics_put(out, "gatehouse_audit_journal_limit_bytes", "gauge", "Where the door closes.", NULL,
                   (double)a.journal_limit_bytes);
    gw_metrics_put(out, "gatehouse_audit_ship_lag_seconds", "gauge",
                   "Age of the oldest record that is not in Postgres.", NULL, (double)a.ship_lag_us / 1e6);
    gw_metrics_put(out, "gatehouse_audit_ship_lag_records", "gauge", "Records that are not in Postgres.",
                   NULL, (double)(a.next_seq - a.shipped_seq));
}

static void put_policy(struct base_buf *out, const struct gw_runtime *runtime)
{
    char labels[POL_HASH_HEX + 16];

    snprintf(labels, sizeof(labels), "hash=\"%s\"", pol_hash(gw_runtime_policy(runtime)));
    gw_metrics_put(out, "gatehouse_policy_info", "gauge", "The active policy.", labels, 1);
    gw_metrics_put(out, "gatehouse_policy_age_seconds", "gauge", "Since the active policy was loaded.", NULL,
                   (double)(base_wall_us() - gw_runtime_loaded_us(runtime)) / 1e6);
}

static const struct {
    const char *name, *type, *help;
} engine_rows[] = {
    {"gatehouse_engine_running", "gauge", "Requests being decoded."},
    {"gatehouse_engine_waiting", "gauge", "Requests waiting for a place."},
    {"gatehouse_engine_oldest_wait_seconds", "gauge", "Longest wait now."},
    {"gatehouse_kv_usage_ratio", "gauge", "KV pages in use."},
    {"gatehouse_engine_steps_total", "counter", "Steps of the batch."},
    {"gatehouse_engine_device_lost", "gauge", "1: the device of the engine is lost."},
    {"gatehouse_engine_busy_seconds_total", "counter", "Time in steps."},
};

static double engine_value(const struct eng_stats *s, size_t row)
{
    switch (row) {
    case 0: return s->running;
    case 1: return s->waiting;
    case 2: return (double)s->oldest_wait_us / 1e6;
    case 3: return s->kv_usage_ratio;
    case 4: return (double)s->steps_total;
    case 5: return s->device_lost;
    default: return (double)s->busy_us_total / 1e6;
    }
}

static void put_engines(struct base_buf *out, const struct gw_runtime *runtime)
{
    for (size_t row = 0; row < BASE_ARRAY_LEN(engine_rows); row++) {
        base_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", engine_rows[row].name, engine_rows[row].help,
                        engine_rows[row].name, engine_rows[row].type);
        for (size_t i = 0; i < gw_runtime_n_backends(runtime); i++) {
            struct gw_backend *backend = gw_runtime_backend_at(runtime, i);
            struct eng *eng = gw_backend_engine(backend);
            struct eng_stats stats;

            if (eng == NULL)
                continue;
            eng_get_stats(eng, &stats);
            base_buf_printf(out, "%s{backend=\"%s\"} %.9g\n", engine_rows[row].name, gw_backend_name(backend),
                            engine_value(&stats, row));
        }
    }
}

static const struct {
    const char *name, *help;
} device_rows[] = {
    {"gatehouse_device_utilization_ratio", "Share of the last second in which the GPU worked."},
    {"gatehouse_device_memory_used_bytes", "GPU memory in use, by all processes."},
    {"gatehouse_device_memory_bytes", "GPU memory."},
    {"gatehouse_device_temperature_celsius", "Temperature of the GPU."},
    {"gatehouse_device_power_watts", "Power that the GPU draws."},
};

static double device_value(const struct eng_gauges *g, size_t row)
{
    switch (row) {
    case 0: return g->utilization;
    case 1: return (double)g->used_bytes;
    case 2: return (double)g->total_bytes;
    case 3: return g->temperature_c;
    default: return g->power_w;
    }
}

/* Of engines on a GPU, where the driver tells. */
static void put_devices(struct base_buf *out, const struct gw_runtime *runtime)
{
    for (size_t row = 0; row < BASE_ARRAY_LEN(device_rows); row++) {
        base_buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n", device_rows[row].name, device_rows[row].help,
                        device_rows[row].name);
        for (size_t i = 0; i < gw_runtime_n_backends(runtime); i++) {
            struct gw_backend *backend = gw_runtime_backend_at(runtime, i);
            struct eng *eng = gw_backend_engine(backend);
            struct eng_gauges gauges;

            if (eng != NULL && eng_get_gauges(eng, &gauges))
                base_buf_printf(out, "%s{backend=\"%s\"} %.9g\n", device_rows[row].name,
                                gw_backend_name(backend), device_value(&gauges, row));
        }
    }
}

static void put_process(struct base_buf *out, struct gw_app *app)
{
    long size_pages = 0, resident_pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    struct timespec cpu;

    if (f != NULL) {
        if (fscanf(f, "%ld %ld", &size_pages, &resident_pages) != 2)
            resident_pages = 0;
        fclose(f);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    gw_metrics_put(out, "process_resident_memory_bytes", "gauge", "Resident memory.", NULL,
                   (double)resident_pages * (double)sysconf(_SC_PAGESIZE));
    gw_metrics_put(out, "process_cpu_seconds_total", "counter", "CPU time.", NULL,
                   (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
    gw_metrics_put(out, "process_start_time_seconds", "gauge", "Start, Unix time.", NULL,
                   (double)app->started_us / 1e6);
    gw_metrics_put(out, "gatehouse_build_info", "gauge", "This build.", "version=\"" GH_VERSION "\"", 1);
}

static void send_metrics(struct gw_app *app, struct gw_http *http)
{
    auto_buf struct base_buf body = BASE_BUF_INIT(PAGE_MAX);
    struct gw_runtime *runtime = gw_app_runtime(app);

    gw_metrics_render(&body);
    put_server(&body, app);
    put_audit(&body, app);
    put_policy(&body, runtime);
    put_engines(&body, runtime);
    put_devices(&body, runtime);
    put_process(&body, app);
    gw_runtime_unref(runtime);
    gw_http_send(http, 200, &(struct gw_header){"content-type", "text/plain; version=0.0.4; charset=utf-8"},
                 1, body.data, body.len);
}

void gw_health_handle(struct gw_http *http, void *user)
{
    struct gw_app *app = user;
    const char *path = gw_http_path(http);

    if (strcmp(gw_http_method(http), "GET") != 0)
        gw_send_error(http, &(struct gw_api_error){.code = GW_API_METHOD_NOT_ALLOWED, .allow = "GET"});
    else if (strcmp(path, "/livez") == 0)
        gw_http_send(http, 200, &(struct gw_header){"content-type", "text/plain"}, 1, "ok\n", 3);
    else if (!atomic_load(&app->serving))
        gw_http_send(http, 503, &(struct gw_header){"content-type", "application/json"}, 1, starting,
                     sizeof(starting) - 1);
    else if (strcmp(path, "/readyz") == 0)
        send_ready(app, http);
    else if (strcmp(path, "/metrics") == 0)
        send_metrics(app, http);
    else
        gw_send_error(http, &(struct gw_api_error){.code = GW_API_NOT_FOUND});
}
