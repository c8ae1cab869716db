/* Server: start and its refusals, requests as handlers see them, responses as clients see them, leaving
 * clients, certificates, drain. Attacks are in tests/security/test_http_abuse.py. */
#include "server_fixture.h"

#define BIG (5u << 20)

/* ---- one handler for all cases ---- */

struct seen {
    struct fixture fx;
    atomic_uint waiting, closed, gone, full, refused_writes;
    char text[2048]; /* what /inspect saw; read after the response has come */
};

struct waiting {
    struct seen *seen;
    struct gw_http *http;
    struct gw_timer *timer;
    unsigned left, ms;
};

static void waiting_closed(void *user)
{
    struct waiting *w = user;

    gw_timer_stop(w->timer);
    if (gw_http_client_gone(w->http))
        atomic_fetch_add(&w->seen->gone, 1);
    atomic_fetch_add(&w->seen->closed, 1);
    free(w);
}

static void waiting_step(void *arg)
{
    struct waiting *w = arg;
    char line[32];

    w->timer = NULL;
    if (w->left == 0) {
        gw_http_end(w->http);
        return;
    }
    snprintf(line, sizeof(line), "chunk %u\n", w->left--);
    if (gw_http_write(w->http, line, strlen(line)) != BASE_OK)
        atomic_fetch_add(&w->seen->refused_writes, 1);
    w->timer = gw_timer_start(gw_http_loop(w->http), w->ms, waiting_step, w);
}

static void waiting_abort(void *arg)
{
    struct waiting *w = arg;

    w->timer = NULL;
    gw_http_abort(w->http);
}

static struct waiting *waiting_new(struct gw_http *http, struct seen *seen)
{
    struct waiting *w = base_zalloc(sizeof(*w));

    w->seen = seen;
    w->http = http;
    gw_http_on_closed(http, waiting_closed, w);
    atomic_fetch_add(&seen->waiting, 1);
    return w;
}

static void put_header(struct gw_http *http, char *out, size_t max, const char *name)
{
    size_t len, n = strlen(out);
    const char *value = gw_http_header(http, name, &len);

    if (value != NULL)
        snprintf(out + n, max - n, " %s=[%.*s]/%u", name, (int)len, value, gw_http_header_count(http, name));
    else
        snprintf(out + n, max - n, " %s=none/%u", name, gw_http_header_count(http, name));
}

static void inspect(struct gw_http *http, struct seen *seen)
{
    static const struct gw_header headers[] = {{"content-type", "text/plain"},
                                               {"x-good", "yes"},
                                               {"x-evil", "a\r\nset-cookie: stolen=1"},
                                               {"content-length", "1"},
                                               {"x-request-id", "forged"}};
    size_t len, n;
    const char *body = gw_http_body(http, &len);

    snprintf(seen->text, sizeof(seen->text), "%s %s ?%s peer=%s body=%zu:%.*s", gw_http_method(http),
             gw_http_path(http), gw_http_query(http), gw_http_peer(http), len, len < 16 ? (int)len : 16,
             body);
    put_header(http, seen->text, sizeof(seen->text), "x-one");
    put_header(http, seen->text, sizeof(seen->text), "x-two");
    put_header(http, seen->text, sizeof(seen->text), "x-empty");
    put_header(http, seen->text, sizeof(seen->text), "x-none");
    n = strlen(seen->text);
    snprintf(seen->text + n, sizeof(seen->text) - n, " host=%u", gw_http_header_count(http, "host"));
    gw_http_send(http, 200, headers, 5, gw_http_request_id(http), GW_REQUEST_ID_LEN);
}

static char *big_bytes(void)
{
    static char *bytes;

    if (bytes == NULL) {
        bytes = base_alloc(BIG);
        for (size_t i = 0; i < BIG; i++)
            bytes[i] = (char)(i * 31 + i / 4096);
    }
    return bytes;
}

static void stream_until_full(struct gw_http *http, struct seen *seen)
{
    enum base_code rc = BASE_OK;
    size_t before;

    waiting_new(http, seen);
    gw_http_begin(http, 200, NULL, 0);
    while (rc == BASE_OK) {
        before = gw_http_queued(http);
        rc = gw_http_write(http, big_bytes(), 10000);
    }
    if (rc == BASE_FULL && gw_http_queued(http) == before && before > 0)
        atomic_fetch_add(&seen->full, 1);
    gw_http_abort(http);
    if (gw_http_write(http, "x", 1) == BASE_CANCELLED) /* a call too late does no harm */
        atomic_fetch_add(&seen->refused_writes, 1);
    gw_http_end(http);
}

static void handler(struct gw_http *http, void *user)
{
    struct seen *seen = user;
    const char *path = gw_http_path(http);
    struct waiting *w;
    size_t len;

    if (strncmp(path, "/inspect", 8) == 0) {
        inspect(http, seen);
    } else if (strcmp(path, "/echo") == 0) {
        const char *body = gw_http_body(http, &len);

        gw_http_send(http, 200, NULL, 0, body, len);
    } else if (strcmp(path, "/big") == 0) {
        gw_http_send(http, 200, NULL, 0, big_bytes(), BIG);
    } else if (strcmp(path, "/never") == 0) {
        waiting_new(http, seen);
    } else if (strcmp(path, "/never-begun") == 0) {
        waiting_new(http, seen);
        gw_http_begin(http, 200, NULL, 0); /* the head goes out at once */
    } else if (strcmp(path, "/chunks") == 0) {
        w = waiting_new(http, seen);
        w->left = (unsigned)strtoul(gw_http_query(http), NULL, 10);
        w->ms = w->left < 100 ? 20 : 0;
        gw_http_begin(http, 200, NULL, 0);
        w->timer = gw_timer_start(gw_http_loop(http), 0, waiting_step, w);
    } else if (strcmp(path, "/abort") == 0) {
        w = waiting_new(http, seen);
        gw_http_begin(http, 200, NULL, 0);
        gw_http_write(http, "part", 4);
        w->timer = gw_timer_start(gw_http_loop(http), 50, waiting_abort, w);
    } else if (strcmp(path, "/full") == 0) {
        stream_until_full(http, seen);
    } else if (strcmp(path, "/empty") == 0) {
        gw_http_send(http, 204, NULL, 0, NULL, 0);
    } else {
        gw_http_send(http, 404, NULL, 0, "no\n", 3);
    }
}

static void seen_start(struct seen *seen, const struct gw_server_limits *limits)
{
    memset(seen, 0, sizeof(*seen));
    fixture_start(&seen->fx, handler, seen, limits, 1);
}

/* ---- start ---- */

static enum base_code start_with(const char *address, uint16_t port, const char *cert, const char *key,
                                 struct base_err *err)
{
    struct gw_listener_options listener = {
        .address = address, .port = port, .tls = cert != NULL, .handler = handler};
    struct gw_server_options options = {.n_threads = 2,
                                        .cert_file = cert,
                                        .key_file = key,
                                        .limits = GW_SERVER_LIMITS_DEFAULT,
                                        .listeners = &listener,
                                        .n_listeners = 1};
    struct gw_server *server = NULL;
    enum base_code rc = gw_server_start(&server, &options, err);

    if (rc == BASE_OK) {
        gw_server_drain(server, 0);
        gw_server_free(server);
    } else if (server != NULL) {
        return BASE_INTERNAL; /* failure leaves ret_* alone */
    }
    return rc;
}

static void test_server_start__port_taken(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(in);
    struct base_err err = {0};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char port[16];

    /* the other process shares its port: two servers of ours would otherwise quietly take turns */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    CHECK(bind(fd, (struct sockaddr *)&in, sizeof(in)) == 0 && listen(fd, 8) == 0);
    getsockname(fd, (struct sockaddr *)&in, &len);
    snprintf(port, sizeof(port), "%u", ntohs(in.sin_port));
    CHECK_RC(start_with("127.0.0.1", ntohs(in.sin_port), NULL, NULL, &err), BASE_EXISTS, &err);
    CHECK(strstr(err.detail, port) != NULL && strstr(err.detail, "taken") != NULL);
    close(fd);
    CHECK_RC(start_with("127.0.0.1", ntohs(in.sin_port), NULL, NULL, &err), BASE_OK, &err);
}

static void test_server_start__address(void)
{
    struct base_err err = {0};

    CHECK_RC(start_with("localhost", 0, NULL, NULL, &err), BASE_INVALID, &err);
    CHECK_RC(start_with("203.0.113.7", 0, NULL, NULL, &err), BASE_INVALID, &err);
    CHECK_RC(start_with("127.0.0.1", 0, NULL, NULL, &err), BASE_OK, &err);
}

static void test_server_start__certificate(void)
{
    struct base_err err = {0};

    make_cert("cert.pem", "key.pem", "first", -60, 86400);
    make_cert("cert2.pem", "key2.pem", "second", -60, 86400);
    make_cert("old.pem", NULL, "old", -86400, -60);
    make_cert("young.pem", NULL, "young", 3600, 86400);
    CHECK_RC(start_with("127.0.0.1", 0, fixture_path("old.pem"), fixture_path("key.pem"), &err), BASE_INVALID,
             &err);
    CHECK(strstr(err.detail, "expired") != NULL);
    CHECK_RC(start_with("127.0.0.1", 0, fixture_path("young.pem"), fixture_path("key.pem"), &err),
             BASE_INVALID, &err);
    CHECK(strstr(err.detail, "not valid before") != NULL);
    CHECK_RC(start_with("127.0.0.1", 0, fixture_path("cert.pem"), fixture_path("key2.pem"), &err),
             BASE_INVALID, &err);
    CHECK(strstr(err.detail, "does not belong") != NULL);
    CHECK_RC(start_with("127.0.0.1", 0, fixture_path("cert.pem"), fixture_path("cert.pem"), &err),
             BASE_DENIED, &err);
    CHECK_RC(start_with("127.0.0.1", 0, fixture_path("none.pem"), fixture_path("key.pem"), &err),
             BASE_INVALID, &err);
    chmod(fixture_path("key2.pem"), 0644);
    CHECK_RC(start_with("127.0.0.1", 0, fixture_path("cert2.pem"), fixture_path("key2.pem"), &err),
             BASE_DENIED, &err);
    chmod(fixture_path("key2.pem"), 0600);
    CHECK_RC(start_with("127.0.0.1", 0, fixture_path("cert2.pem"), fixture_path("key2.pem"), &err), BASE_OK,
             &err);
}

/* ---- requests ---- */

static void check_inspect(struct seen *seen, enum proto proto)
{
    static const char *const headers[] = {"X-One: 1", "X-Two: a", "x-two: b", "X-Empty;", NULL};
    struct answer a;
    char *id;

    fetch(&a, &seen->fx, proto, "/inspect/a%20b?q=1&r=%3f", headers, "hello", 5);
    CHECK_INT(a.rc, CURLE_OK);
    CHECK_INT(a.status, 200);
    CHECK_INT(a.version, proto == TLS_H2 ? CURL_HTTP_VERSION_2_0 : CURL_HTTP_VERSION_1_1);
    CHECK_STR(
        seen->text,
        "POST /inspect/a%20b ?q=1&r=%3f peer=127.0.0.1 body=5:hello x-one=[1]/1 x-two=none/2 x-empty=[]/1 "
        "x-none=none/0 host=1");
    CHECK_INT(a.body_len, GW_REQUEST_ID_LEN);
    CHECK(strspn(a.body, "0123456789abcdefghijklmnopqrstuvwxyz") == GW_REQUEST_ID_LEN);
    id = strstr(a.head, "x-request-id: ");
    CHECK(id != NULL && strncmp(id + 14, a.body, GW_REQUEST_ID_LEN) == 0);
    CHECK(strstr(a.head, "forged") == NULL && strstr(a.head, "stolen") == NULL);
    CHECK(strstr(a.head, "x-good: yes\r\n") != NULL);
    CHECK(strstr(a.head, "x-content-type-options: nosniff\r\n") != NULL);
    CHECK(strstr(a.head, "cache-control: no-store\r\n") != NULL);
    CHECK((strstr(a.head, "strict-transport-security: ") != NULL) == (proto != PLAIN_H1));
    CHECK(strcasestr(a.head, "\nserver:") == NULL);
}

static void test_http__request_and_response_heads(void)
{
    struct seen seen;

    seen_start(&seen, NULL);
    check_inspect(&seen, PLAIN_H1);
    check_inspect(&seen, TLS_H1);
    check_inspect(&seen, TLS_H2);
    fixture_stop(&seen.fx);
}

static void test_http__request_ids_differ_and_sort(void)
{
    struct seen seen;
    struct answer a, b;

    seen_start(&seen, NULL);
    fetch(&a, &seen.fx, PLAIN_H1, "/inspect", NULL, NULL, 0);
    usleep(5000);
    fetch(&b, &seen.fx, PLAIN_H1, "/inspect", NULL, NULL, 0);
    fixture_stop(&seen.fx);
    CHECK_INT(a.status, 200);
    CHECK(strcmp(a.body, b.body) < 0);
}

static void test_http__head_and_no_content(void)
{
    struct seen seen;
    char out[4096];

    seen_start(&seen, NULL);
    CHECK_INT(raw_exchange(seen.fx.plain_port, "HEAD /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                           out, sizeof(out)),
              0);
    CHECK(strncmp(out, "HTTP/1.1 404 ", 13) == 0 && strstr(out, "Content-Length: 3\r\n") != NULL);
    CHECK_STR(strstr(out, "\r\n\r\n"), "\r\n\r\n");
    CHECK_INT(raw_exchange(seen.fx.plain_port, "GET /empty HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                           out, sizeof(out)),
              0);
    CHECK(strncmp(out, "HTTP/1.1 204 ", 13) == 0);
    CHECK_STR(strstr(out, "\r\n\r\n"), "\r\n\r\n");
    /* two requests in one packet, the connection kept */
    CHECK_INT(raw_exchange(
                  seen.fx.plain_port,
                  "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                  out, sizeof(out)),
              0);
    CHECK(strstr(strstr(out, "HTTP/1.1 404") + 1, "HTTP/1.1 404") != NULL);
    fixture_stop(&seen.fx);
}

static void test_http__unclean_requests_are_refused(void)
{
    static const struct {
        const char *request;
        int status; /* of the only answer; the connection closes after it */
    } table[] = {
        {"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404},
        {"GET /a HTTP/1.0\r\n\r\n", 404},
        {"GET /a HTTP/1.1\r\n\r\n", 400},
        {"GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400},
        {"GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
        {"GET /a HTTP/1.1\nHost: x\n\n", 400},
        {"GET /a HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400},
        {"GET /a HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400},
        {"GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
         "GET /two HTTP/1.1\r\nHost: x\r\n\r\n",
         400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 30\r\n\r\nabcGET /two "
         "HTTP/1.1\r\n\r\n",
         400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: "
         "chunked\r\n\r\n0\r\n\r\n",
         400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde", 400},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: "
         "close\r\n\r\n2\r\nab\r\n0\r\n\r\n",
         200},
        {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab", 200},
    };
    struct seen seen;
    char out[8192], want[16];

    seen_start(&seen, NULL);
    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++) {
        raw_exchange(seen.fx.plain_port, table[i].request, out, sizeof(out));
        snprintf(want, sizeof(want), "HTTP/1.1 %d ", table[i].status);
        if (strncmp(out, want, strlen(want)) != 0 || strstr(out + 1, "HTTP/1.1 ") != NULL)
            printf("# case %zu answered: %s\n", i, out);
        CHECK(strncmp(out, want, strlen(want)) == 0);
        CHECK(strstr(out + 1, "HTTP/1.1 ") == NULL);
    }
    fixture_stop(&seen.fx);
}

static void test_http__too_large_is_refused_in_json(void)
{
    struct gw_server_limits limits = GW_SERVER_LIMITS_DEFAULT;
    static const enum proto protos[] = {PLAIN_H1, TLS_H1, TLS_H2};
    char many[32][32], long_header[3000] = "X-Long: ";
    const char *headers[33] = {long_header, NULL};
    struct seen seen;
    struct answer a;

    limits.body_bytes_max = 100000;
    limits.headers_max = 16;
    limits.header_bytes_max = 2048;
    seen_start(&seen, &limits);
    memset(long_header + 8, 'x', sizeof(long_header) - 9);
    for (size_t i = 0; i < BASE_ARRAY_LEN(protos); i++) {
        fetch(&a, &seen.fx, protos[i], "/echo", NULL, big_bytes(), 100000);
        CHECK_INT(a.status, 200);
        CHECK_INT(a.body_len, 100000);
        fetch(&a, &seen.fx, protos[i], "/echo", NULL, big_bytes(), 100001);
        CHECK_INT(a.status, 413);
        CHECK(strstr(a.body, "{\"error\":{\"message\":") == a.body &&
              strstr(a.body, "\"code\":\"request_too_large\"") != NULL);
        CHECK(strstr(a.head, "x-request-id: ") != NULL && strstr(a.head, "application/json") != NULL);
        fetch(&a, &seen.fx, protos[i], "/echo", NULL, big_bytes(),
              4000000); /* past the library's own limit, too */
        CHECK_INT(a.status, 413);
        CHECK(strstr(a.body, "\"code\":\"request_too_large\"") != NULL);
        fetch(&a, &seen.fx, protos[i], "/echo", headers, NULL, 0);
        CHECK_INT(a.status, 431);
        CHECK(strstr(a.body, "\"code\":\"headers_too_large\"") != NULL);
    }
    for (int i = 0; i < 20; i++) {
        snprintf(many[i], sizeof(many[i]), "X-H%d: 1", i);
        headers[i] = many[i];
    }
    headers[20] = NULL;
    fetch(&a, &seen.fx, TLS_H2, "/echo", headers, NULL, 0);
    CHECK_INT(a.status, 431);
    headers[10] = NULL;
    fetch(&a, &seen.fx, TLS_H2, "/echo", headers, NULL, 0);
    CHECK_INT(a.status, 200);
    fixture_stop(&seen.fx);
}

/* ---- responses ---- */

static uint64_t sum_of(const char *p, size_t n)
{
    uint64_t sum = 14695981039346656037u;

    for (size_t i = 0; i < n; i++)
        sum = (sum ^ (unsigned char)p[i]) * 1099511628211u;
    return sum;
}

static void test_http_send__large_body_arrives_whole(void)
{
    static const enum proto protos[] = {PLAIN_H1, TLS_H1, TLS_H2};
    struct seen seen;
    struct answer a;

    seen_start(&seen, NULL);
    for (size_t i = 0; i < BASE_ARRAY_LEN(protos); i++) {
        fetch(&a, &seen.fx, protos[i], "/big", NULL, NULL, 0);
        CHECK_INT(a.rc, CURLE_OK);
        CHECK_INT(a.body_len, BIG);
        CHECK(a.body_sum == sum_of(big_bytes(), BIG));
        fetch(&a, &seen.fx, protos[i], "/echo", NULL, big_bytes(), BIG);
        CHECK_INT(a.rc, CURLE_OK);
        CHECK(a.body_len == BIG && a.body_sum == sum_of(big_bytes(), BIG));
    }
    fixture_stop(&seen.fx);
}

static void test_http_write__chunks_arrive_in_order_and_close_once(void)
{
    static const enum proto protos[] = {PLAIN_H1, TLS_H1, TLS_H2};
    struct seen seen;
    struct answer a;
    char want[16384] = "";
    size_t n = 0;

    for (unsigned i = 1000; i > 0; i--)
        n += (size_t)snprintf(want + n, sizeof(want) - n, "chunk %u\n", i);
    seen_start(&seen, NULL);
    for (size_t i = 0; i < BASE_ARRAY_LEN(protos); i++) {
        fetch(&a, &seen.fx, protos[i], "/chunks?1000", NULL, NULL, 0);
        CHECK_INT(a.rc, CURLE_OK);
        CHECK_INT(a.body_len, n);
        CHECK(a.body_sum == sum_of(want, n));
        CHECK(wait_for(&seen.closed, (unsigned)i + 1));
    }
    usleep(20000);
    fixture_stop(&seen.fx);
    CHECK_INT(atomic_load(&seen.closed), 3);
    CHECK_INT(atomic_load(&seen.gone), 0); /* they all ended well */
    CHECK_INT(atomic_load(&seen.refused_writes), 0);
}

static void test_http_begin__head_goes_out_before_data(void)
{
    struct seen seen;
    char out[2048];
    int fd;
    ssize_t n;

    seen_start(&seen, NULL);
    fd = tcp_connect(seen.fx.plain_port);
    CHECK(send(fd, "GET /never-begun HTTP/1.1\r\nHost: x\r\n\r\n", 39, 0) == 39);
    n = recv(fd, out, sizeof(out) - 1, 0);
    CHECK(n > 0);
    out[n] = '\0';
    CHECK(strncmp(out, "HTTP/1.1 200 ", 13) == 0 && strstr(out, "\r\n\r\n") != NULL);
    CHECK_INT(atomic_load(&seen.closed), 0);
    close(fd);
    CHECK(wait_for(&seen.closed, 1));
    fixture_stop(&seen.fx);
}

static void test_http_abort__never_ends_cleanly(void)
{
    struct seen seen;
    struct answer a;
    char out[4096];

    seen_start(&seen, NULL);
    CHECK_INT(raw_exchange(seen.fx.plain_port, "GET /abort HTTP/1.1\r\nHost: x\r\n\r\n", out, sizeof(out)),
              ECONNRESET);
    CHECK(strstr(out, "part") != NULL && strstr(out, "\r\n0\r\n") == NULL);
    /* HTTP/1.0 has no framing: the reset alone tells */
    CHECK_INT(raw_exchange(seen.fx.plain_port, "GET /abort HTTP/1.0\r\n\r\n", out, sizeof(out)), ECONNRESET);
    fetch(&a, &seen.fx, TLS_H1, "/abort", NULL, NULL, 0);
    CHECK(a.rc != CURLE_OK);
    fetch(&a, &seen.fx, TLS_H2, "/abort", NULL, NULL, 0);
    CHECK_INT(a.rc, CURLE_HTTP2_STREAM);
    CHECK(wait_for(&seen.closed, 4));
    fixture_stop(&seen.fx);
    CHECK_INT(atomic_load(&seen.closed), 4);
    CHECK_INT(atomic_load(&seen.gone), 4);
}

static void test_http_write__queue_has_a_cap(void)
{
    static const enum proto protos[] = {PLAIN_H1, TLS_H1, TLS_H2};
    struct gw_server_limits limits = GW_SERVER_LIMITS_DEFAULT;
    struct seen seen;
    struct answer a;

    limits.response_queue_max = 300000;
    seen_start(&seen, &limits);
    for (size_t i = 0; i < BASE_ARRAY_LEN(protos); i++) {
        fetch(&a, &seen.fx, protos[i], "/full", NULL, NULL, 0);
        CHECK(a.rc != CURLE_OK);
        CHECK(wait_for(&seen.closed, (unsigned)i + 1));
        CHECK_INT(atomic_load(&seen.full), i + 1);
    }
    fixture_stop(&seen.fx);
    CHECK_INT(atomic_load(&seen.closed), 3);
    CHECK_INT(atomic_load(&seen.refused_writes), 3);
}

/* ---- clients that leave ---- */

static void leave_plain(struct seen *seen, const char *path, unsigned nth)
{
    char request[128];
    uint64_t left_ms;
    int fd = tcp_connect(seen->fx.plain_port);

    snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    CHECK(send(fd, request, strlen(request), 0) > 0);
    CHECK(wait_for(&seen->waiting, nth));
    usleep(50000);
    CHECK_INT(atomic_load(&seen->closed), nth - 1);
    close(fd);
    left_ms = base_mono_ms();
    CHECK(wait_for(&seen->closed, nth));
    CHECK(base_mono_ms() - left_ms < 1000);
}

static void test_http_on_closed__client_leaves_http1(void)
{
    struct seen seen;
    struct tls_client tc;

    seen_start(&seen, NULL);
    leave_plain(&seen, "/never", 1);
    leave_plain(&seen, "/never-begun", 2);
    leave_plain(&seen, "/chunks?99", 3);
    /* over TLS the client's close_notify is data before the end: looking for the end alone would miss it */
    CHECK(tls_open(&tc, seen.fx.tls_port, "http/1.1"));
    CHECK(SSL_write(tc.ssl, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n", 33) == 33);
    CHECK(wait_for(&seen.waiting, 4));
    SSL_shutdown(tc.ssl);
    tls_close(&tc);
    CHECK(wait_for(&seen.closed, 4));
    usleep(50000);
    fixture_stop(&seen.fx);
    CHECK_INT(atomic_load(&seen.closed), 4);
    CHECK_INT(atomic_load(&seen.gone), 4);
}

static size_t stop_after_some(char *p, size_t size, size_t n, void *user)
{
    unsigned *left = user;

    return (*left)-- == 0 ? 0 : size * n;
}

static void test_http_on_closed__client_leaves_http2(void)
{
    struct seen seen;
    char url[128];
    unsigned left = 2;
    CURL *curl;

    seen_start(&seen, NULL);
    for (unsigned i = 0; i < 2; i++) {
        curl = curl_easy_init();
        snprintf(url, sizeof(url), "https://127.0.0.1:%u/%s", seen.fx.tls_port,
                 i == 0 ? "never" : "chunks?99");
        curl_easy_setopt(curl, CURLOPT_URL, url);
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
        curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 300L);
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, stop_after_some);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, &left);
        CHECK(curl_easy_perform(curl) != CURLE_OK);
        curl_easy_cleanup(curl);
        CHECK(wait_for(&seen.closed, i + 1));
    }
    fixture_stop(&seen.fx);
    CHECK_INT(atomic_load(&seen.closed), 2);
    CHECK_INT(atomic_load(&seen.gone), 2);
}

/* ---- certificate, drain ---- */

struct fetcher {
    struct seen *seen;
    enum proto proto;
    struct answer a;
    pthread_t thread;
};

static void *fetcher_main(void *arg)
{
    struct fetcher *f = arg;

    fetch(&f->a, &f->seen->fx, f->proto, "/chunks?30", NULL, NULL, 0); /* 600 ms */
    return NULL;
}

static void copy_file(const char *from, const char *to)
{
    char bytes[8192];
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");
    size_t n = fread(bytes, 1, sizeof(bytes), in);

    fwrite(bytes, 1, n, out);
    fclose(in);
    fclose(out);
}

static void test_server_reload_tls__keeps_streams(void)
{
    struct seen seen;
    struct base_err err = {0};
    struct fetcher f = {.seen = &seen, .proto = TLS_H2};
    int64_t not_after;
    char name[64];

    make_cert("cert.pem", "key.pem", "first", -60, 86400);
    seen_start(&seen, NULL);
    server_name_now(seen.fx.tls_port, name);
    CHECK_STR(name, "first");
    not_after = gw_server_cert_not_after(seen.fx.server);
    pthread_create(&f.thread, NULL, fetcher_main, &f);
    CHECK(wait_for(&seen.waiting, 1));
    make_cert("old.pem", NULL, "old", -86400, -60);
    copy_file(fixture_path("old.pem"), fixture_path("cert.pem"));
    CHECK_RC(gw_server_reload_tls(seen.fx.server, &err), BASE_INVALID, &err);
    server_name_now(seen.fx.tls_port, name);
    CHECK_STR(name, "first"); /* the old one stays */
    make_cert("cert.pem", "key.pem", "second", -60, 2 * 86400);
    CHECK_RC(gw_server_reload_tls(seen.fx.server, &err), BASE_OK, &err);
    server_name_now(seen.fx.tls_port, name);
    CHECK_STR(name, "second");
    CHECK(gw_server_cert_not_after(seen.fx.server) > not_after + 80000);
    CHECK_INT(atomic_load(&seen.closed), 0);
    pthread_join(f.thread, NULL);
    CHECK_INT(f.a.rc, CURLE_OK);
    CHECK(strstr(f.a.body, "chunk 1\n") != NULL);
    fixture_stop(&seen.fx);
}

static void test_server_drain__finishes_what_is_in_flight(void)
{
    struct seen seen;
    struct fetcher f[3] = {{&seen, PLAIN_H1}, {&seen, TLS_H1}, {&seen, TLS_H2}};
    struct tls_client idle;
    uint64_t began_ms;
    int fd;

    seen_start(&seen, NULL);
    CHECK(tls_open(&idle, seen.fx.tls_port, "h2"));
    for (int i = 0; i < 3; i++)
        pthread_create(&f[i].thread, NULL, fetcher_main, &f[i]);
    CHECK(wait_for(&seen.waiting, 3));
    began_ms = base_mono_ms();
    gw_server_drain(seen.fx.server, 5000);
    CHECK(base_mono_ms() - began_ms < 4000); /* the idle connection did not hold it */
    fd = tcp_connect(seen.fx.plain_port);
    CHECK(fd < 0); /* nothing new is accepted */
    for (int i = 0; i < 3; i++) {
        pthread_join(f[i].thread, NULL);
        CHECK_INT(f[i].a.rc, CURLE_OK);
        CHECK(strstr(f[i].a.body, "chunk 1\n") != NULL);
    }
    CHECK_INT(atomic_load(&seen.closed), 3);
    tls_close(&idle);
    gw_server_free(seen.fx.server);
}

static void test_server_drain__cuts_after_its_time(void)
{
    struct seen seen;
    uint64_t began_ms;
    int fd;

    seen_start(&seen, NULL);
    fd = tcp_connect(seen.fx.plain_port);
    CHECK(send(fd, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n", 33, 0) == 33);
    CHECK(wait_for(&seen.waiting, 1));
    began_ms = base_mono_ms();
    gw_server_drain(seen.fx.server, 300);
    CHECK(base_mono_ms() - began_ms >= 290 && base_mono_ms() - began_ms < 2000);
    CHECK_INT(atomic_load(&seen.closed), 1);
    close(fd);
    gw_server_free(seen.fx.server);
}

static atomic_uint loops_started, loops_ended;

static void loop_starts(struct gw_loop *loop, void *user)
{
    if (gw_loop_is_current(loop))
        atomic_fetch_add(&loops_started, 1);
}

static void loop_ends(struct gw_loop *loop, void *user)
{
    if (gw_loop_is_current(loop))
        atomic_fetch_add(&loops_ended, 1);
}

static void test_server_start__loop_hooks(void)
{
    struct gw_listener_options listener = {.address = "127.0.0.1", .handler = handler};
    struct gw_server_options options = {.n_threads = 3,
                                        .limits = GW_SERVER_LIMITS_DEFAULT,
                                        .listeners = &listener,
                                        .n_listeners = 1,
                                        .loop_start = loop_starts,
                                        .loop_end = loop_ends};
    struct gw_server *server;
    struct base_err err = {0};

    CHECK_RC(gw_server_start(&server, &options, &err), BASE_OK, &err);
    CHECK_INT(atomic_load(&loops_started), 3);
    CHECK_INT(atomic_load(&loops_ended), 0);
    gw_server_drain(server, 100);
    CHECK_INT(atomic_load(&loops_ended), 3);
    gw_server_free(server);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_server_start__port_taken),
        CASE(test_server_start__address),
        CASE(test_server_start__certificate),
        CASE(test_server_start__loop_hooks),
        CASE(test_http__request_and_response_heads),
        CASE(test_http__request_ids_differ_and_sort),
        CASE(test_http__head_and_no_content),
        CASE(test_http__unclean_requests_are_refused),
        CASE(test_http__too_large_is_refused_in_json),
        CASE(test_http_send__large_body_arrives_whole),
        CASE(test_http_write__chunks_arrive_in_order_and_close_once),
        CASE(test_http_begin__head_goes_out_before_data),
        CASE(test_http_abort__never_ends_cleanly),
        CASE(test_http_write__queue_has_a_cap),
        CASE(test_http_on_closed__client_leaves_http1),
        CASE(test_http_on_closed__client_leaves_http2),
        CASE(test_server_reload_tls__keeps_streams),
        CASE(test_server_drain__finishes_what_is_in_flight),
        CASE(test_server_drain__cuts_after_its_time),
    };
    int rc;

    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    rc = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    curl_global_cleanup();
    free(big_bytes());
    fixture_remove();
    return rc;
}
