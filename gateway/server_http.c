/* Server: one request and its response. See server.h.
 *
 * A response is a queue (what the handler wrote) before a flight (what the library reads from). A pump moves
 * slices from one to the other, one slice in the library's hands at a time.
 *
 * Invariants:
 *   1. gw_http_* of the handler never call the library's sending half: they change the queue and ask for a
 * pump, which runs at the end of the loop's turn. So the closed callback never runs inside a call that the
 * handler makes.
 *   2. The gw_http dies with the request's pool, on its loop (http_dispose); the closed callback runs then,
 * or earlier when the client was seen to be gone (gw_http_lost), and never twice.
 *   3. After phase ABORTED nothing more is sent, and the connection (HTTP/1.1) or stream (HTTP/2) ends by a
 * reset.
 *
 *   WAITING --begin--> BEGUN --end--> ENDED          send = begin + write + end
 *      \------------------\--abort, client gone--> ABORTED
 */
#include "gateway/server_priv.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/crypto.h"
#include "base/mem.h"

#include <assert.h>

#define METHOD_MAX  32u
#define QUEUE_FIRST 1024u
#define QUEUE_KEEP  65536u /* an emptied buffer larger than this is given back */
#define REFUSAL_MAX 512u

/* ---- names ---- */

static const char *reason_phrase(int status)
{
    static const struct {
        int status;
        const char *reason;
    } table[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };

    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++)
        if (table[i].status == status)
            return table[i].reason;
    return "Status";
}

/* 48 bits of milliseconds, 80 random ones, in lower-case Crockford base 32: sorts by time. */
static void request_id(char out[GW_REQUEST_ID_LEN + 1])
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    uint64_t ms = (uint64_t)(base_wall_us() / 1000);
    unsigned char random[10];

    base_random(random, sizeof(random));
    for (int i = 9; i >= 0; i--, ms >>= 5)
        out[i] = digits[ms & 31];
    for (unsigned i = 0; i < 16; i++) {
        unsigned bit = i * 5, byte = bit / 8, shift = bit % 8;
        unsigned pair = (unsigned)random[byte] << 8 | (byte + 1 < sizeof(random) ? random[byte + 1] : 0);

        out[10 + i] = digits[(pair >> (11 - shift)) & 31];
    }
    out[GW_REQUEST_ID_LEN] = '\0';
}

static bool value_is_clean(const char *value)
{
    return strpbrk(value, "\r\n") == NULL;
}

/* ---- buffers ---- */

static void count_queued(struct gw_loop *loop, size_t more, size_t less)
{
    size_t sum = atomic_load_explicit(&loop->queued, memory_order_relaxed);

    atomic_store_explicit(&loop->queued, sum + more - less, memory_order_relaxed);
}

static void queue_append(struct gw_http *http, const void *data, size_t len)
{
    struct gw_buffer *queue = &http->queue;

    if (queue->len + len > queue->cap) {
        size_t cap = queue->cap != 0 ? queue->cap : QUEUE_FIRST;

        while (cap < queue->len + len)
            cap *= 2;
        queue->data = base_realloc(queue->data, cap);
        count_queued(http->loop, cap, queue->cap);
        queue->cap = cap;
    }
    if (len > 0)
        memcpy(queue->data + queue->len, data, len);
    queue->len += len;
}

static void buffer_free(struct gw_http *http, struct gw_buffer *buffer)
{
    count_queued(http->loop, 0, buffer->cap);
    free(buffer->data);
    *buffer = (struct gw_buffer){0};
}

static bool queues_over(const struct gw_server *server)
{
    size_t total = 0;

    for (unsigned l = 0; l < server->n_loops; l++)
        total += atomic_load_explicit(&server->loops[l].queued, memory_order_relaxed);
    return total > server->limits.buffers_total_max;
}

/* The one that is furthest behind, when all together are too far behind. */
static struct gw_http *furthest_behind(struct gw_loop *loop)
{
    struct gw_http *worst = NULL;

    if (!queues_over(loop->server))
        return NULL;
    for (h2o_linklist_t *node = loop->https.next; node != &loop->https; node = node->next) {
        struct gw_http *http = H2O_STRUCT_FROM_MEMBER(struct gw_http, link, node);

        if (!http->conn->cut &&
            (worst == NULL || http->queue.cap + http->flight.cap > worst->queue.cap + worst->flight.cap))
            worst = http;
    }
    return worst;
}

/* ---- life ---- */

static void fire_closed(struct gw_http *http)
{
    gw_closed_fn *fn = http->closed;
    uint64_t start_us = gw_loop_callback_us(http->loop);

    if (fn == NULL)
        return;
    http->closed = NULL;
    fn(http->closed_user);
    gw_loop_check_budget(http->loop, "closed", start_us);
}

static void http_dispose(void *p)
{
    struct gw_http *http = p;

    h2o_linklist_unlink(&http->link);
    if (h2o_linklist_is_linked(&http->pump_link))
        h2o_linklist_unlink(&http->pump_link);
    if (!http->finished || http->phase != GW_HTTP_ENDED)
        http->gone = true; /* the handler may ask in its callback whether the answer was complete */
    fire_closed(http);
    gw_guard_rehook_later(http->conn);
    buffer_free(http, &http->queue);
    buffer_free(http, &http->flight);
}

static void on_proceed(h2o_generator_t *generator, h2o_req_t *req);

/* The library's stop: the stream or connection ends under us. Its pool is cleared next, which is when we act.
 */
static void on_stop(h2o_generator_t *generator, h2o_req_t *req)
{
    (void)req;
    ((struct gw_http *)generator)->gone = true;
}

static bool is_ours(const h2o_req_t *req)
{
    return req->_generator != NULL && req->_generator->proceed == on_proceed;
}

static const char *pool_text(h2o_req_t *req, const char *s, size_t len)
{
    return h2o_strdup(&req->pool, s, len).base; /* ends with NUL */
}

/* HTTP/2 lets a client send one cookie header per cookie (RFC 9113, section 8.2.3); a handler sees one. */
static void join_cookies(struct gw_http *http)
{
    h2o_req_t *req = http->req;
    size_t total = 0;
    unsigned n = 0;
    char *out;

    for (ssize_t i = -1; (i = h2o_find_header(&req->headers, H2O_TOKEN_COOKIE, i)) != -1; n++)
        total += req->headers.entries[i].value.len + 2;
    if (n < 2)
        return;
    out = h2o_mem_alloc_pool(&req->pool, total);
    http->cookie = out;
    for (ssize_t i = -1; (i = h2o_find_header(&req->headers, H2O_TOKEN_COOKIE, i)) != -1;) {
        if (out != http->cookie) {
            *out++ = ';';
            *out++ = ' ';
        }
        memcpy(out, req->headers.entries[i].value.base, req->headers.entries[i].value.len);
        out += req->headers.entries[i].value.len;
    }
    http->cookie_len = (size_t)(out - http->cookie);
}

static struct gw_http *http_new(struct gw_conn *conn, h2o_req_t *req)
{
    struct gw_http *http = h2o_mem_alloc_shared(&req->pool, sizeof(*http), http_dispose);
    const h2o_iovec_t *path = &req->input.path;
    size_t path_len = req->query_at != SIZE_MAX ? req->query_at : path->len;

    memset(http, 0, sizeof(*http));
    http->generator.proceed = on_proceed;
    http->generator.stop = on_stop;
    http->req = req;
    http->conn = conn;
    http->loop = conn->loop;
    h2o_linklist_insert(&http->loop->https, &http->link);
    request_id(http->request_id);
    http->method = pool_text(req, req->input.method.base, req->input.method.len);
    http->path = pool_text(req, path->base, path_len);
    http->query =
        path_len < path->len ? pool_text(req, path->base + path_len + 1, path->len - path_len - 1) : "";
    http->head = strcmp(http->method, "HEAD") == 0;
    http->arrived_us = base_mono_us();
    if (req->version >= 0x200)
        join_cookies(http);
    return http;
}

/* ---- sending ---- */

static void ask_pump(struct gw_http *http)
{
    struct gw_loop *loop = http->loop;

    if (h2o_linklist_is_linked(&http->pump_link))
        return;
    h2o_linklist_insert(&loop->pumps, &http->pump_link);
    if (!h2o_timeout_is_linked(&loop->pump_entry))
        h2o_timeout_link(loop->ctx.loop, &loop->ctx.zero_timeout, &loop->pump_entry);
}

static void add_header(h2o_req_t *req, const char *name, const char *value)
{
    size_t name_len = strlen(name), value_len = strlen(value);

    h2o_add_header_by_str(&req->pool, &req->res.headers, pool_text(req, name, name_len), name_len, 1, NULL,
                          pool_text(req, value, value_len), value_len);
}

static void add_fixed_headers(h2o_req_t *req, const struct gw_conn *conn, const char *id, bool no_store)
{
    add_header(req, "x-request-id", id);
    add_header(req, "x-content-type-options", "nosniff");
    if (no_store)
        add_header(req, "cache-control", "no-store");
    if (conn->listener->options.tls)
        add_header(req, "strict-transport-security", "max-age=31536000");
}

/* What the library writes itself, or what would frame the response a second time. */
static bool is_library_header(const char *name)
{
    static const char *const names[] = {"content-length",
                                        "transfer-encoding",
                                        "connection",
                                        "keep-alive",
                                        "date",
                                        "server",
                                        "upgrade",
                                        "x-request-id",
                                        "x-content-type-options",
                                        "strict-transport-security"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(names); i++)
        if (strcasecmp(name, names[i]) == 0)
            return true;
    return false;
}

static void respond(struct gw_http *http, int status, const struct gw_header *headers, unsigned n_headers,
                    size_t content_length)
{
    h2o_req_t *req = http->req;
    bool no_store = true;

    req->res.status = status;
    req->res.reason = reason_phrase(status);
    req->res.content_length = content_length;
    for (unsigned i = 0; i < n_headers; i++) {
        if (!value_is_clean(headers[i].value) || is_library_header(headers[i].name))
            continue;
        if (strcasecmp(headers[i].name, "cache-control") == 0)
            no_store = false;
        add_header(req, headers[i].name, headers[i].value);
    }
    add_fixed_headers(req, http->conn, http->request_id, no_store);
    http->phase = GW_HTTP_BEGUN;
}

static void start_library(struct gw_http *http)
{
    http->started = true;
    http->progress_ms = base_mono_ms();
    h2o_start_response(http->req, &http->generator);
}

/* Sends the head alone. The chunking filter would hold an empty write back, so it is passed by. */
static void send_head(struct gw_http *http)
{
    h2o_ostream_t *last = http->req->_ostr_top;

    while (last->next != NULL)
        last = last->next;
    http->headers_sent = true;
    http->sending = true;
    last->do_send(last, http->req, NULL, 0, H2O_SEND_STATE_IN_PROGRESS);
}

static void send_slice(struct gw_http *http)
{
    h2o_iovec_t slice;
    size_t left;

    if (http->flight_off == http->flight.len) {
        struct gw_buffer empty;

        if (http->flight.cap > QUEUE_KEEP)
            buffer_free(http, &http->flight);
        empty = http->flight;
        http->flight = http->queue;
        http->queue = empty;
        http->queue.len = 0;
        http->flight_off = 0;
    }
    left = http->flight.len - http->flight_off;
    http->slice = left < GW_SEND_SLICE ? left : GW_SEND_SLICE;
    http->finished = http->phase == GW_HTTP_ENDED && left == http->slice && http->queue.len == 0;
    if (http->slice == 0 && !http->finished) {
        if (!http->headers_sent)
            send_head(http);
        return;
    }
    http->headers_sent = true;
    http->sending = true;
    slice = h2o_iovec_init(http->flight.data + http->flight_off, http->slice);
    h2o_send(http->req, &slice, http->slice != 0 ? 1 : 0,
             http->finished ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
}

static void abort_http1(struct gw_http *http)
{
    h2o_req_t *req = http->req;

    /* Not an end of stream, and no TLS close_notify: whatever framing the response had, it cannot look
     * complete. */
    gw_socket_reset(h2o_socket_get_fd(http->conn->sock));
    if (http->sending || http->finished)
        return; /* the write under way fails, and the library closes; or it had just succeeded, and on_proceed
                   comes back here */
    req->http1_is_persistent = 0;
    if (!http->started)
        start_library(http);
    http->finished = true;
    h2o_send(req, NULL, 0, H2O_SEND_STATE_ERROR);
}

static void pump(struct gw_http *http)
{
    if (http->phase == GW_HTTP_ABORTED) {
        if (http->req->version >= 0x200)
            gw_guard_reset_stream(http->req);
        else
            abort_http1(http);
        return;
    }
    if (http->sending || http->finished || http->phase == GW_HTTP_WAITING)
        return;
    if (!http->started)
        start_library(http);
    send_slice(http);
}

static void on_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    struct gw_http *http = (struct gw_http *)generator;

    (void)req;
    http->flight_off += http->slice;
    http->slice = 0;
    http->sending = false;
    http->progress_ms = base_mono_ms();
    pump(http);
}

void gw_http_run_pumps(h2o_timeout_entry_t *entry)
{
    struct gw_loop *loop = H2O_STRUCT_FROM_MEMBER(struct gw_loop, pump_entry, entry);

    while (!h2o_linklist_is_empty(&loop->pumps)) {
        struct gw_http *http = H2O_STRUCT_FROM_MEMBER(struct gw_http, pump_link, loop->pumps.next);

        h2o_linklist_unlink(&http->pump_link);
        pump(http); /* may free it, and others */
    }
    gw_guard_rehook_all(loop);
}

/* ---- the response, for handlers ---- */

void gw_http_begin(struct gw_http *http, int status, const struct gw_header *headers, unsigned n_headers)
{
    assert(gw_loop_is_current(http->loop));
    if (http->phase == GW_HTTP_ABORTED)
        return;
    assert(http->phase == GW_HTTP_WAITING);
    respond(http, status, headers, n_headers, SIZE_MAX);
    ask_pump(http);
}

enum base_code gw_http_write(struct gw_http *http, const void *data, size_t len)
{
    struct gw_http *worst;

    assert(gw_loop_is_current(http->loop));
    if (http->phase == GW_HTTP_ABORTED || http->gone)
        return BASE_CANCELLED;
    assert(http->phase == GW_HTTP_BEGUN);
    if (len > http->loop->server->limits.response_queue_max ||
        gw_http_queued(http) > http->loop->server->limits.response_queue_max - len)
        return BASE_FULL;
    worst = furthest_behind(http->loop);
    if (worst == http)
        return BASE_FULL;
    if (worst != NULL) {
        gw_conn_cut(worst->conn, &http->loop->server->stats.cut_stalled);
        worst->phase = GW_HTTP_ABORTED;
        buffer_free(worst, &worst->queue); /* now, or the next write would cut another */
        ask_pump(worst);
    }
    if (!http->head)
        queue_append(http, data, len);
    ask_pump(http);
    return BASE_OK;
}

void gw_http_end(struct gw_http *http)
{
    assert(gw_loop_is_current(http->loop));
    if (http->phase == GW_HTTP_ABORTED)
        return;
    assert(http->phase == GW_HTTP_BEGUN);
    http->phase = GW_HTTP_ENDED;
    ask_pump(http);
}

void gw_http_abort(struct gw_http *http)
{
    assert(gw_loop_is_current(http->loop));
    if (http->phase == GW_HTTP_ABORTED)
        return;
    http->phase = GW_HTTP_ABORTED;
    ask_pump(http);
}

void gw_http_send(struct gw_http *http, int status, const struct gw_header *headers, unsigned n_headers,
                  const void *body, size_t len)
{
    assert(gw_loop_is_current(http->loop));
    if (http->phase == GW_HTTP_ABORTED)
        return;
    assert(http->phase == GW_HTTP_WAITING);
    if (status == 204 || status == 304)
        len = 0;
    respond(http, status, headers, n_headers, status == 204 || status == 304 ? SIZE_MAX : len);
    if (!http->head)
        queue_append(http, body, len);
    http->phase = GW_HTTP_ENDED;
    ask_pump(http);
}

size_t gw_http_queued(const struct gw_http *http)
{
    return http->queue.len + http->flight.len - http->flight_off;
}

void gw_http_on_closed(struct gw_http *http, gw_closed_fn *fn, void *user)
{
    http->closed = fn;
    http->closed_user = user;
}

bool gw_http_client_gone(const struct gw_http *http)
{
    return http->gone || http->phase == GW_HTTP_ABORTED;
}

void gw_http_lost(struct gw_http *http)
{
    if (http->gone)
        return;
    http->gone = true;
    http->phase = GW_HTTP_ABORTED;
    fire_closed(http);
    ask_pump(http);
}

void gw_http_abort_all(struct gw_conn *conn)
{
    for (h2o_linklist_t *node = conn->loop->https.next; node != &conn->loop->https; node = node->next) {
        struct gw_http *http = H2O_STRUCT_FROM_MEMBER(struct gw_http, link, node);

        if (http->conn == conn && http->phase != GW_HTTP_ABORTED && conn->kind == GW_CONN_HTTP1) {
            http->phase = GW_HTTP_ABORTED;
            ask_pump(http);
        }
    }
}

/* ---- the request, for handlers ---- */

struct gw_loop *gw_http_loop(const struct gw_http *http)
{
    return http->loop;
}

const char *gw_http_request_id(const struct gw_http *http)
{
    return http->request_id;
}

const char *gw_http_method(const struct gw_http *http)
{
    return http->method;
}

const char *gw_http_path(const struct gw_http *http)
{
    return http->path;
}

const char *gw_http_query(const struct gw_http *http)
{
    return http->query;
}

const char *gw_http_peer(const struct gw_http *http)
{
    return http->conn->peer;
}

bool gw_http_client_cert(const struct gw_http *http, unsigned char sha256[32])
{
    if (http->conn == NULL || !http->conn->has_cert)
        return false;
    memcpy(sha256, http->conn->cert_sha256, sizeof(http->conn->cert_sha256));
    return true;
}

uint64_t gw_http_arrived_us(const struct gw_http *http)
{
    return http->arrived_us;
}

const char *gw_http_body(const struct gw_http *http, size_t *ret_len)
{
    *ret_len = http->req->entity.len;
    return http->req->entity.len != 0 ? http->req->entity.base : "";
}

/* The library keeps Host apart: it is the authority of either protocol. */
static bool is_host(const char *name)
{
    return strcmp(name, "host") == 0;
}

static bool host_was_sent(const h2o_req_t *req)
{
    return req->input.authority.base != NULL &&
           req->input.authority.base != req->hostconf->authority.hostport.base;
}

unsigned gw_http_header_count(const struct gw_http *http, const char *name)
{
    const h2o_headers_t *headers = &http->req->headers;
    size_t name_len = strlen(name);
    unsigned n = 0;

    if (is_host(name))
        return host_was_sent(http->req) ? 1 : 0;
    if (http->cookie != NULL && strcmp(name, "cookie") == 0)
        return 1;
    for (size_t i = 0; i < headers->size; i++)
        n += headers->entries[i].name->len == name_len &&
             memcmp(headers->entries[i].name->base, name, name_len) == 0;
    return n;
}

const char *gw_http_header(const struct gw_http *http, const char *name, size_t *ret_len)
{
    const h2o_headers_t *headers = &http->req->headers;
    size_t name_len = strlen(name);

    *ret_len = 0;
    if (gw_http_header_count(http, name) != 1)
        return NULL;
    if (is_host(name)) {
        *ret_len = http->req->input.authority.len;
        return http->req->input.authority.base;
    }
    if (http->cookie != NULL && strcmp(name, "cookie") == 0) {
        *ret_len = http->cookie_len;
        return http->cookie;
    }
    for (size_t i = 0; i < headers->size; i++) {
        if (headers->entries[i].name->len != name_len ||
            memcmp(headers->entries[i].name->base, name, name_len) != 0)
            continue;
        *ret_len = headers->entries[i].value.len;
        return *ret_len != 0 ? headers->entries[i].value.base : "";
    }
    return NULL;
}

/* ---- refusals of the server itself ---- */

static size_t refusal_json(char *out, int status, const char *code, const char *message)
{
    const char *type = status == 429   ? "rate_limit_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";

    /* code and message are our own words: nothing in them needs escaping */
    return (size_t)snprintf(out, REFUSAL_MAX,
                            "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}",
                            message, type, code);
}

static void refuse(struct gw_http *http, int status, const char *code, const char *message)
{
    static const struct gw_header json = {"content-type", "application/json"};
    char body[REFUSAL_MAX];
    size_t len = refusal_json(body, status, code, message);

    http->req->http1_is_persistent =
        0; /* what follows on the connection may be the rest of something refused */
    gw_http_send(http, status, &json, 1, body, len);
}

void gw_http_refuse_now(struct gw_conn *conn, h2o_req_t *req, int status, const char *code,
                        const char *message)
{
    h2o_hostconf_t *host = req->conn->hosts[0];

    /* what the library does for a request before it comes to a handler, as far as an answer needs it */
    req->query_at = SIZE_MAX;
    h2o_req_bind_conf(req, host, &host->fallback_path);
    refuse(http_new(conn, req), status, code, message);
}

/* The library answers some broken requests itself, as plain text: this filter makes them look like ours. */
struct refusal_stream {
    h2o_ostream_t super;
    bool sent;
    size_t len;
    char body[REFUSAL_MAX];
};

static void refusal_send(h2o_ostream_t *super, h2o_req_t *req, h2o_iovec_t *bufs, size_t n_bufs,
                         h2o_send_state_t state)
{
    struct refusal_stream *self = (struct refusal_stream *)super;
    h2o_iovec_t body = h2o_iovec_init(self->body, self->len);
    bool with_body = !self->sent && n_bufs != 0; /* none to HEAD */

    (void)bufs;
    self->sent = true;
    h2o_ostream_send_next(super, req, &body, with_body ? 1 : 0, state);
}

static void on_setup_ostream(h2o_filter_t *filter, h2o_req_t *req, h2o_ostream_t **slot)
{
    struct gw_conn *conn = gw_conn_of(req->conn->callbacks->get_socket(req->conn));
    struct refusal_stream *stream;
    char id[GW_REQUEST_ID_LEN + 1];

    (void)filter;
    if (is_ours(req)) {
        h2o_setup_next_ostream(req, slot);
        return;
    }
    if (conn->kind == GW_CONN_HTTP1 && !req->http1_is_persistent)
        gw_conn_linger(conn);
    stream = (struct refusal_stream *)h2o_add_ostream(req, sizeof(*stream), slot);
    stream->super.do_send = refusal_send;
    stream->sent = false;
    stream->len = req->res.status == 413
                      ? refusal_json(stream->body, 413, "request_too_large",
                                     "The request body is larger than this server accepts.")
                      : refusal_json(stream->body, req->res.status, "bad_request",
                                     "The request is not well-formed HTTP.");
    request_id(id);
    req->res.reason = reason_phrase(req->res.status);
    req->res.content_length = stream->len;
    req->res.headers.size = 0;
    add_header(req, "content-type", "application/json");
    add_fixed_headers(req, conn, id, true);
    h2o_setup_next_ostream(req, &stream->super.next);
}

void gw_http_register_filter(h2o_pathconf_t *pathconf)
{
    h2o_create_filter(pathconf, sizeof(h2o_filter_t))->on_setup_ostream = on_setup_ostream;
}

/* ---- arrival ---- */

static bool text_is_clean(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] <= 0x20 || s[i] == 0x7f)
            return false;
    return true;
}

static bool request_line_is_clean(const h2o_req_t *req)
{
    return req->input.method.len > 0 && req->input.method.len <= METHOD_MAX &&
           text_is_clean(req->input.method.base, req->input.method.len) && req->input.path.len > 0 &&
           req->input.path.base[0] == '/' && text_is_clean(req->input.path.base, req->input.path.len);
}

int gw_http_on_request(h2o_handler_t *self, h2o_req_t *req)
{
    struct gw_conn *conn = gw_conn_of(req->conn->callbacks->get_socket(req->conn));
    struct gw_guard_refusal refusal;
    enum gw_guard_verdict verdict;
    struct gw_http *http;

    (void)self;
    atomic_fetch_add_explicit(&conn->loop->server->stats.requests_total, 1, memory_order_relaxed);
    verdict = conn->cut ? GW_GUARD_CUT : gw_guard_request(conn, req, &refusal);
    http = http_new(conn, req);
    if (verdict == GW_GUARD_CUT) {
        http->phase = GW_HTTP_ABORTED;
        if (conn->kind == GW_CONN_HTTP1)
            ask_pump(http);
        else
            gw_guard_stop_input(conn, req->conn);
    } else if (verdict == GW_GUARD_REFUSE) {
        refuse(http, refusal.status, refusal.code, refusal.message);
    } else if (!request_line_is_clean(req)) {
        refuse(http, 400, "bad_request",
               "The request line is not acceptable: an absolute path without control bytes is needed.");
    } else {
        uint64_t start_us = gw_loop_callback_us(conn->loop);

        conn->listener->options.handler(http, conn->listener->options.user);
        gw_loop_check_budget(conn->loop, "handler", start_us);
    }
    return 0;
}
