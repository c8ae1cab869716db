/* mock_provider: an OpenAI-compatible provider that costs little, for bench_gateway.py. tests/tools/mock_provider.py is the one with faults.
 *
 *   mock_provider cert=FILE key=FILE [http2=0|1] [threads=N]
 *
 * It prints "ready PORT" and serves until SIGTERM. GET /stats tells how many connections it has had and cut. The model's name says what
 * to answer to POST /v1/chat/completions:
 *   mock        20 chunks at once              mock-N      N chunks at once
 *   mock-NxM    N chunks, one each M ms
 * "stream":true answers with events, anything else with one object of the same text. The request is not parsed beyond that.
 */
#include "gateway/server.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define CHUNKS_MAX 1000u
#define CHUNK_START                                                                                    \
    "data: "                                                                                           \
    "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":" \
    "\"mock\","
#define CHUNK_TEXT "streaming "

static struct gw_server *server;

struct answer {
    struct gw_http *http;
    struct gw_timer *timer;
    unsigned left, every_ms;
};

static void answer_closed(void *user)
{
    struct answer *answer = user;

    gw_timer_stop(answer->timer);
    free(answer);
}

static enum base_code put_chunk(struct gw_http *http)
{
    static const char chunk[] = CHUNK_START "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" CHUNK_TEXT
                                            "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";

    return gw_http_write(http, chunk, sizeof(chunk) - 1);
}

static void put_end(struct gw_http *http)
{
    static const char end[] = CHUNK_START
        "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}"
        "\n\n" CHUNK_START
        "\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":20,\"total_tokens\":40}}\n\n"
        "data: [DONE]\n\n";

    gw_http_write(http, end, sizeof(end) - 1);
    gw_http_end(http);
}

static void next_chunk(void *user)
{
    struct answer *answer = user;

    answer->timer = NULL;
    if (answer->left == 0) {
        put_end(answer->http); /* the closed callback frees the answer */
        return;
    }
    answer->left--;
    if (put_chunk(answer->http) == BASE_OK)
        answer->timer = gw_timer_start(gw_http_loop(answer->http), answer->every_ms, next_chunk, answer);
}

static void stream(struct gw_http *http, unsigned n_chunks, unsigned every_ms)
{
    static const struct gw_header event_stream = {"content-type", "text/event-stream"};
    struct answer *answer;

    gw_http_begin(http, 200, &event_stream, 1);
    if (every_ms == 0) {
        for (unsigned i = 0; i < n_chunks; i++)
            put_chunk(http);
        put_end(http);
        return;
    }
    answer = base_zalloc(sizeof(*answer));
    *answer = (struct answer){.http = http, .left = n_chunks, .every_ms = every_ms};
    gw_http_on_closed(http, answer_closed, answer);
    next_chunk(answer);
}

static void one_object(struct gw_http *http, unsigned n_chunks)
{
    static const struct gw_header json = {"content-type", "application/json"};
    auto_buf struct base_buf out = BASE_BUF_INIT(1u << 20);

    base_buf_append_str(&out, "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":"
                              "1700000000,\"model\":\"mock\",\"choices\":"
                              "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"");
    for (unsigned i = 0; i < n_chunks; i++)
        base_buf_append_str(&out, CHUNK_TEXT);
    base_buf_append_str(&out,
                        "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
                        "\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":20,\"total_tokens\":40}}");
    gw_http_send(http, 200, &json, 1, out.data, out.len);
}

/* "mock-NxM" out of the body; what it does not say stays as it is. */
static void read_model(const char *body, size_t len, unsigned *n_chunks, unsigned *every_ms)
{
    static const char name[] = "\"mock-";
    const char *at = body != NULL ? memmem(body, len, name, sizeof(name) - 1) : NULL;
    char text[24] = "";
    size_t n;

    if (at == NULL)
        return;
    at += sizeof(name) - 1;
    n = (size_t)(body + len - at);
    memcpy(text, at, n < sizeof(text) - 1 ? n : sizeof(text) - 1);
    sscanf(text, "%ux%u", n_chunks, every_ms);
    if (*n_chunks > CHUNKS_MAX)
        *n_chunks = CHUNKS_MAX;
}

static void send_stats(struct gw_http *http)
{
    static const struct gw_header json = {"content-type", "application/json"};
    struct gw_server_stats stats;
    char out[120];
    int n;

    gw_server_get_stats(server, &stats);
    n = snprintf(out, sizeof(out), "{\"connections\":%llu,\"cut\":%llu}\n",
                 (unsigned long long)stats.connections_total, (unsigned long long)stats.cut_total_rate);
    gw_http_send(http, 200, &json, 1, out, (size_t)n);
}

static void on_request(struct gw_http *http, void *user)
{
    static const char streamed[] = "\"stream\":true";
    unsigned n_chunks = 20, every_ms = 0;
    size_t len;
    const char *body = gw_http_body(http, &len);

    (void)user;
    if (strcmp(gw_http_path(http), "/stats") == 0) {
        send_stats(http);
        return;
    }
    if (strcmp(gw_http_path(http), "/v1/chat/completions") != 0 || len == 0) {
        gw_http_send(http, 404, &(struct gw_header){"content-type", "text/plain"}, 1, "no\n", 3);
        return;
    }
    read_model(body, len, &n_chunks, &every_ms);
    if (memmem(body, len, streamed, sizeof(streamed) - 1) != NULL)
        stream(http, n_chunks, every_ms);
    else
        one_object(http, n_chunks);
}

static bool read_args(struct gw_server_options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');

        if (value == NULL)
            return false;
        *value++ = '\0';
        if (strcmp(argv[i], "cert") == 0)
            options->cert_file = value;
        else if (strcmp(argv[i], "key") == 0)
            options->key_file = value;
        else if (strcmp(argv[i], "http2") == 0)
            options->http2 = value[0] == '1';
        else if (strcmp(argv[i], "threads") == 0)
            options->n_threads = (unsigned)strtoul(value, NULL, 10);
        else
            return false;
    }
    return options->cert_file != NULL && options->key_file != NULL;
}

int main(int argc, char **argv)
{
    struct gw_listener_options listener = {.address = "127.0.0.1", .tls = true, .handler = on_request};
    struct gw_server_options options = {.n_threads = 1,
                                        .http2 = true,
                                        .limits = GW_SERVER_LIMITS_DEFAULT,
                                        .listeners = &listener,
                                        .n_listeners = 1};
    struct base_err err = {0};
    sigset_t set;
    int sig;

    if (!read_args(&options, argc, argv)) {
        fprintf(stderr, "usage: mock_provider cert=FILE key=FILE [http2=0|1] [threads=N]\n");
        return 2;
    }
    options.limits.requests_per_second =
        1000000; /* one client, many requests: its limits are no part of the measure */
    options.limits.connections_per_address = 10000;
    options.limits.streams_per_connection = 1000;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    base_log_init(2, BASE_LOG_WARN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    if (gw_server_start(&server, &options, &err) != BASE_OK) {
        fprintf(stderr, "mock_provider: %s\n", err.detail);
        return 1;
    }
    printf("ready %u\n", gw_server_port(server, 0));
    fflush(stdout);
    sigwait(&set, &sig);
    gw_server_drain(server, 500);
    gw_server_free(server);
    return 0;
}
