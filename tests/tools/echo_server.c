/* echo_server: a small program on gw_server, for the abuse tests and for bench.
 *
 *   echo_server [name=value ...]
 *     threads=1 port=0 plain_port=0 cert=FILE key=FILE (no cert: the plain listener alone) drain_ms=2000, and
 * each limit of struct gw_server_limits by its name.
 *
 * It prints "ready <tls port> <plain port>", serves until SIGTERM (drains) and reloads its certificate on
 * SIGHUP.
 *
 *   /echo            the request's body, or "ok\n" when there is none
 *   /slow?ms=N       answers after N ms
 *   /stream?n=N&ms=M&size=S   N events of S bytes, one each M ms
 *   /flood           writes as fast as the reader takes it, for ever; aborts when the queue is full
 *   /cookie          the cookie header
 *   /abort           begins a response and aborts it
 *   /stats           counters as JSON
 */
#include "gateway/server.h"

#include "base/log.h"
#include "base/mem.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#define ARG_MAX_BYTES 65536u

static struct gw_server *server;
static atomic_uint running, closed_total, gone_total, full_total;

static const struct gw_header text_plain = {"content-type", "text/plain"};
static const struct gw_header event_stream = {"content-type", "text/event-stream"};

static unsigned long query_number(struct gw_http *http, const char *name, unsigned long fallback)
{
    const char *q = gw_http_query(http);
    size_t len = strlen(name);

    while (q != NULL && *q != '\0') {
        if (strncmp(q, name, len) == 0 && q[len] == '=')
            return strtoul(q + len + 1, NULL, 10);
        q = strchr(q, '&');
        if (q != NULL)
            q++;
    }
    return fallback;
}

/* One answer that is still being made. */
struct job {
    struct gw_http *http;
    struct gw_timer *timer;
    unsigned long left, ms, size;
    bool flood;
};

static void job_closed(void *user)
{
    struct job *job = user;

    if (gw_http_client_gone(job->http))
        atomic_fetch_add(&gone_total, 1);
    gw_timer_stop(job->timer);
    free(job);
    atomic_fetch_sub(&running, 1);
    atomic_fetch_add(&closed_total, 1);
}

static void job_answer(void *arg)
{
    struct job *job = arg;

    job->timer = NULL;
    gw_http_send(job->http, 200, &text_plain, 1, "slow\n", 5);
}

static void job_step(void *arg)
{
    static char filler[ARG_MAX_BYTES];
    struct job *job = arg;
    enum base_code rc;

    job->timer = NULL;
    if (filler[0] == '\0')
        memset(filler, 'x', sizeof(filler));
    if (job->left == 0) {
        gw_http_end(job->http);
        return;
    }
    job->left--;
    if (job->flood) {
        rc = gw_http_write(job->http, filler, sizeof(filler));
    } else {
        rc = gw_http_write(job->http, "data: ", 6);
        if (rc == BASE_OK)
            rc = gw_http_write(job->http, filler, job->size);
        if (rc == BASE_OK)
            rc = gw_http_write(job->http, "\n\n", 2);
    }
    if (rc == BASE_FULL) {
        atomic_fetch_add(&full_total, 1);
        gw_http_abort(job->http);
        return;
    }
    if (rc == BASE_OK)
        job->timer = gw_timer_start(gw_http_loop(job->http), job->ms, job_step, job);
}

static struct job *job_new(struct gw_http *http)
{
    struct job *job = base_zalloc(sizeof(*job));

    job->http = http;
    job->ms = query_number(http, "ms", 100);
    job->left = query_number(http, "n", 10);
    job->size = query_number(http, "size", 16);
    if (job->size > ARG_MAX_BYTES)
        job->size = ARG_MAX_BYTES;
    atomic_fetch_add(&running, 1);
    gw_http_on_closed(http, job_closed, job);
    return job;
}

static void send_stats(struct gw_http *http)
{
    static const struct gw_header json = {"content-type", "application/json"};
    struct gw_server_stats s;
    char out[1024];
    int n;

    gw_server_get_stats(server, &s);
    n = snprintf(
        out, sizeof(out),
        "{\"open\":%llu,\"total\":%llu,\"requests\":%llu,\"refused_connections\":%llu,\"refused_address\":%"
        "llu,"
        "\"cut_rate\":%llu,\"cut_headers\":%llu,\"cut_body\":%llu,\"cut_slow\":%llu,\"cut_stalled\":%llu,"
        "\"lag_us\":%llu,\"running\":%u,\"closed\":%u,\"gone\":%u,\"full\":%u}\n",
        (unsigned long long)s.connections_open, (unsigned long long)s.connections_total,
        (unsigned long long)s.requests_total, (unsigned long long)s.refused_total_connections,
        (unsigned long long)s.refused_total_address, (unsigned long long)s.cut_total_rate,
        (unsigned long long)s.cut_total_headers, (unsigned long long)s.cut_total_body,
        (unsigned long long)s.cut_total_slow, (unsigned long long)s.cut_total_stalled,
        (unsigned long long)s.loop_lag_us_max, atomic_load(&running), atomic_load(&closed_total),
        atomic_load(&gone_total), atomic_load(&full_total));
    gw_http_send(http, 200, &json, 1, out, (size_t)n);
}

static void on_request(struct gw_http *http, void *user)
{
    const char *path = gw_http_path(http), *body;
    struct job *job;
    size_t len;

    (void)user;
    if (strcmp(path, "/echo") == 0) {
        body = gw_http_body(http, &len);
        gw_http_send(http, 200, &text_plain, 1, len != 0 ? body : "ok\n", len != 0 ? len : 3);
    } else if (strcmp(path, "/slow") == 0) {
        job = job_new(http);
        job->timer = gw_timer_start(gw_http_loop(http), job->ms, job_answer, job);
    } else if (strcmp(path, "/stream") == 0 || strcmp(path, "/flood") == 0) {
        job = job_new(http);
        job->flood = strcmp(path, "/flood") == 0;
        if (job->flood) {
            job->left = (unsigned long)-1;
            job->ms = 1;
        }
        gw_http_begin(http, 200, &event_stream, 1);
        job->timer = gw_timer_start(gw_http_loop(http), 0, job_step, job);
    } else if (strcmp(path, "/abort") == 0) {
        gw_http_begin(http, 200, &text_plain, 1);
        gw_http_write(http, "part", 4);
        gw_http_abort(http);
    } else if (strcmp(path, "/cookie") == 0) {
        body = gw_http_header(http, "cookie", &len);
        gw_http_send(http, body != NULL ? 200 : 404, &text_plain, 1, body, len);
    } else if (strcmp(path, "/stats") == 0) {
        send_stats(http);
    } else {
        gw_http_send(http, 404, &text_plain, 1, "no such path\n", 13);
    }
}

static bool set_limit(struct gw_server_limits *limits, const char *name, unsigned long value)
{
    struct {
        const char *name;
        unsigned *u;
        size_t *z;
    } table[] = {
        {"connections_max", &limits->connections_max, NULL},
        {"connections_per_address", &limits->connections_per_address, NULL},
        {"requests_per_second", &limits->requests_per_second, NULL},
        {"streams_per_connection", &limits->streams_per_connection, NULL},
        {"header_bytes_max", NULL, &limits->header_bytes_max},
        {"headers_max", &limits->headers_max, NULL},
        {"body_bytes_max", NULL, &limits->body_bytes_max},
        {"connection_body_bytes_max", NULL, &limits->connection_body_bytes_max},
        {"handshake_timeout_ms", &limits->handshake_timeout_ms, NULL},
        {"request_timeout_ms", &limits->request_timeout_ms, NULL},
        {"idle_timeout_ms", &limits->idle_timeout_ms, NULL},
        {"write_timeout_ms", &limits->write_timeout_ms, NULL},
        {"response_queue_max", NULL, &limits->response_queue_max},
        {"buffers_total_max", NULL, &limits->buffers_total_max},
    };

    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++) {
        if (strcmp(table[i].name, name) != 0)
            continue;
        if (table[i].u != NULL)
            *table[i].u = (unsigned)value;
        else
            *table[i].z = value;
        return true;
    }
    return false;
}

struct args {
    struct gw_server_options options;
    unsigned port, plain_port, drain_ms;
};

static bool parse_arg(struct args *args, char *arg)
{
    char *value = strchr(arg, '=');

    if (value == NULL)
        return false;
    *value++ = '\0';
    if (strcmp(arg, "threads") == 0)
        args->options.n_threads = (unsigned)strtoul(value, NULL, 10);
    else if (strcmp(arg, "port") == 0)
        args->port = (unsigned)strtoul(value, NULL, 10);
    else if (strcmp(arg, "plain_port") == 0)
        args->plain_port = (unsigned)strtoul(value, NULL, 10);
    else if (strcmp(arg, "drain_ms") == 0)
        args->drain_ms = (unsigned)strtoul(value, NULL, 10);
    else if (strcmp(arg, "cert") == 0)
        args->options.cert_file = value;
    else if (strcmp(arg, "key") == 0)
        args->options.key_file = value;
    else
        return set_limit(&args->options.limits, arg, strtoul(value, NULL, 10));
    return true;
}

int main(int argc, char **argv)
{
    struct args args = {.options = {.n_threads = 1, .http2 = true, .limits = GW_SERVER_LIMITS_DEFAULT},
                        .drain_ms = 2000};
    struct gw_listener_options listeners[2];
    struct base_err err = {0};
    unsigned n = 0;
    sigset_t set;
    int sig;

    for (int i = 1; i < argc; i++)
        if (!parse_arg(&args, argv[i])) {
            fprintf(stderr, "echo_server: unknown argument %s\n", argv[i]);
            return 2;
        }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    base_log_init(2, BASE_LOG_WARN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    if (args.options.cert_file != NULL)
        listeners[n++] = (struct gw_listener_options){
            .address = "127.0.0.1", .port = (uint16_t)args.port, .tls = true, .handler = on_request};
    listeners[n++] = (struct gw_listener_options){
        .address = "127.0.0.1", .port = (uint16_t)args.plain_port, .handler = on_request};
    args.options.listeners = listeners;
    args.options.n_listeners = n;
    if (gw_server_start(&server, &args.options, &err) != BASE_OK) {
        fprintf(stderr, "echo_server: %s\n", err.detail);
        return 1;
    }
    printf("ready %u %u\n", n == 2 ? gw_server_port(server, 0) : 0, gw_server_port(server, n - 1));
    fflush(stdout);
    while (sigwait(&set, &sig) == 0 && sig == SIGHUP)
        if (gw_server_reload_tls(server, &err) != BASE_OK)
            fprintf(stderr, "echo_server: %s\n", err.detail);
    gw_server_drain(server, args.drain_ms);
    gw_server_free(server);
    return 0;
}
