/* Server, the connection guard: what a peer may cost.
 *
 * libh2o 2.2.5 has no defence against HTTP/2 rapid reset (CVE-2023-44487), streams that the server is made to
 * reset (CVE-2025-8671), header lists without end, bodies hoarded over many streams, or bodies that come byte
 * by byte; and it parses HTTP/1.1 leniently. The guard stands at three places:
 *
 *   1. Before the library reads an HTTP/2 connection (on_read): the frames in the buffer are walked by their
 * 9-byte heads. Requests, control frames, header blocks and body bytes are counted before any of them costs
 * more than the walk. Over a limit the connection gets GOAWAY(ENHANCE_YOUR_CALM) and ends.
 *   2. First thing in the request handler (gw_guard_request): header count and bytes, body size, HTTP/1.1
 * hygiene.
 *   3. Every GW_TICK_MS (gw_guard_sweep): deadlines: handshake, slow heads and bodies, idle, readers that
 * take nothing, clients that left while a handler works.
 *
 * The socket's receive buffer (GW_RECV_BUFFER) bounds what can arrive between two looks.
 * It reads the library's own structures: see shim/khash.h and the assertion in server_priv.h.
 */
#include "gateway/server_priv.h"

#include "gateway/http1_head.h"
#include "base/clock.h"

#include <h2o/http2_internal.h>
#include <assert.h>
#include <poll.h>
#include <sys/socket.h>

#define PREFACE_LEN     24u
#define FRAME_HEAD      9u
#define FRAME_MAX       16384u /* the library announces no other */
#define FRAME_TYPE_LAST H2O_HTTP2_FRAME_TYPE_CONTINUATION
#define CALM            11 /* ENHANCE_YOUR_CALM */
#define INTERNAL        2  /* INTERNAL_ERROR */
#define GRAVE_FACTOR    4u /* headers this far over their limit are an attack, not a mistake */

/* Frames that a peaceful client sends seldom; per connection and second. */
#define CONTROLS_PER_SECOND 300u   /* PING, SETTINGS, PRIORITY, RST_STREAM, unknown kinds */
#define UPDATES_PER_SECOND  20000u /* WINDOW_UPDATE: up to two for each small DATA frame that we send */
#define CRUMBS_PER_SECOND   1000u  /* DATA of fewer than CRUMB_BYTES that does not end its stream */
#define CRUMB_BYTES         64u
#define BLOCK_FRAMES_MAX    32u /* CONTINUATIONs of one header block */

#define BODY_CHECK_BYTES 65536u /* body bytes of a connection after which its bodies are summed */
#define POLL_BATCH       256u

static bool rate_over(struct gw_rate *rate, uint64_t now_ms, unsigned limit)
{
    if (now_ms - rate->second_began_ms >= 1000) {
        rate->second_began_ms = now_ms;
        rate->n = 0;
    }
    return ++rate->n > limit;
}

/* ---- HTTP/2: before the library reads ---- */

struct frame {
    size_t len;
    unsigned type, flags;
    uint32_t stream_id;
};

static struct frame frame_parse(const unsigned char *p)
{
    return (struct frame){.len = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2],
                          .type = p[3],
                          .flags = p[4],
                          .stream_id =
                              ((uint32_t)p[5] << 24 | (uint32_t)p[6] << 16 | (uint32_t)p[7] << 8 | p[8]) &
                              0x7fffffffu};
}

struct walk {
    struct gw_conn *conn;
    uint64_t now_ms;
    size_t block_bytes; /* of the header block under way */
    bool in_block;
    atomic_uint_fast64_t *why; /* set: over a limit */
};

static void walk_block(struct walk *w, const struct frame *f)
{
    struct gw_conn *conn = w->conn;
    const struct gw_server_limits *limits = &conn->loop->server->limits;

    if (f->type == H2O_HTTP2_FRAME_TYPE_HEADERS) {
        w->block_bytes = 0;
        conn->block_frames = 0;
        conn->bodies_unchecked = true;
    }
    w->block_bytes += f->len;
    w->in_block = (f->flags & H2O_HTTP2_FRAME_FLAG_END_HEADERS) == 0;
    if (++conn->block_frames > BLOCK_FRAMES_MAX || w->block_bytes > limits->header_bytes_max * GRAVE_FACTOR)
        w->why = &conn->loop->server->stats.cut_headers;
}

static void walk_frame(struct walk *w, const struct frame *f)
{
    struct gw_conn *conn = w->conn;
    struct gw_server *server = conn->loop->server;
    bool over = false;

    switch (f->type) {
    case H2O_HTTP2_FRAME_TYPE_HEADERS:
        over = rate_over(&conn->requests, w->now_ms, server->limits.requests_per_second);
        walk_block(w, f);
        break;
    case H2O_HTTP2_FRAME_TYPE_CONTINUATION: walk_block(w, f); break;
    case H2O_HTTP2_FRAME_TYPE_DATA:
        conn->data_unchecked += f->len;
        if (f->len < CRUMB_BYTES && (f->flags & H2O_HTTP2_FRAME_FLAG_END_STREAM) == 0)
            over = rate_over(&conn->crumbs, w->now_ms, CRUMBS_PER_SECOND);
        break;
    case H2O_HTTP2_FRAME_TYPE_WINDOW_UPDATE:
        over = rate_over(&conn->updates, w->now_ms, UPDATES_PER_SECOND);
        break;
    default: over = rate_over(&conn->controls, w->now_ms, CONTROLS_PER_SECOND); break;
    }
    if (over && w->why == NULL)
        w->why = &server->stats.cut_rate;
}

/* Takes a frame out of the input: the library would write a line to stderr for each kind that it does not
 * know (browsers send PRIORITY_UPDATE), and an attacker would fill the disk with them. */
static void drop_frame(h2o_buffer_t *input, size_t at, size_t n)
{
    memmove(input->bytes + at, input->bytes + at + n, input->size - at - n);
    input->size -= n;
}

/* Counts the complete frames in the input, which always begins at a frame: the library leaves none but an
 * incomplete one. Returns the counter of the limit that was passed, or NULL. */
static atomic_uint_fast64_t *walk_input(struct gw_conn *conn, h2o_http2_conn_t *c, h2o_buffer_t *input)
{
    struct walk w = {.conn = conn, .now_ms = gw_loop_now_ms(conn->loop)};
    size_t at = 0;

    if (!conn->preface_seen) {
        if (input->size < PREFACE_LEN)
            return NULL;
        conn->preface_seen = true;
        at = PREFACE_LEN;
    }
    if (c != NULL && c->_headers_unparsed != NULL) {
        w.in_block = true;
        w.block_bytes = c->_headers_unparsed->size;
    }
    while (w.why == NULL && input->size >= at + FRAME_HEAD) {
        struct frame f = frame_parse((const unsigned char *)input->bytes + at);

        if (f.len > FRAME_MAX || input->size - at - FRAME_HEAD < f.len)
            break; /* too long: the library's to refuse */
        walk_frame(&w, &f);
        if (f.type > FRAME_TYPE_LAST && !w.in_block)
            drop_frame(input, at, FRAME_HEAD + f.len);
        else
            at += FRAME_HEAD + f.len;
    }
    return w.why;
}

/* ---- what bodies hold, all connections together ---- */

static size_t held_by_all(const struct gw_server *server)
{
    size_t total = 0;

    for (unsigned l = 0; l < server->n_loops; l++)
        total += atomic_load_explicit(&server->loops[l].held, memory_order_relaxed);
    return total;
}

static void held_set(struct gw_conn *conn, size_t held, bool partly)
{
    struct gw_loop *loop = conn->loop;
    size_t sum = atomic_load_explicit(&loop->held, memory_order_relaxed);

    atomic_store_explicit(&loop->held, sum - conn->held + held, memory_order_relaxed);
    conn->held = held;
    conn->held_partly = partly;
}

void gw_guard_forget(struct gw_conn *conn)
{
    held_set(conn, 0, false);
}

static struct gw_conn *largest_partly(struct gw_loop *loop)
{
    struct gw_conn *largest = NULL;

    for (h2o_linklist_t *node = loop->conns.next; node != &loop->conns; node = node->next) {
        struct gw_conn *conn = H2O_STRUCT_FROM_MEMBER(struct gw_conn, link, node);

        if (conn->held_partly && !conn->cut && (largest == NULL || conn->held > largest->held))
            largest = conn;
    }
    return largest;
}

/* Many peers may hoard together what one may not. Over the total, those go that hold the most of what is not
 * even complete; requests that a handler works on stay. `self` is not cut, since it is being read: true tells
 * its reader to end it. */
static bool shed(struct gw_loop *loop, struct gw_conn *self)
{
    struct gw_server *server = loop->server;
    struct gw_conn *victim;

    while (held_by_all(server) > server->limits.buffers_total_max &&
           (victim = largest_partly(loop)) != NULL) {
        if (victim == self)
            return true;
        gw_conn_cut(victim, &server->stats.cut_body);
        held_set(victim, 0, false);
    }
    return false;
}

/* ---- HTTP/2: after the library read ---- */

/* The stream with the refused body gets an answer of its own; the library would reset it with REFUSED_STREAM,
 * which tells a client to try again. */
static h2o_http2_stream_t *find_too_large(struct gw_conn *conn, h2o_http2_conn_t *c, size_t body_max,
                                          size_t *ret_body_bytes)
{
    h2o_http2_stream_t *found = NULL;
    size_t held = c->sock->input->capacity, body_bytes = 0;
    bool partly = false;

    for (khiter_t i = 0; i < kh_end(c->streams); i++) {
        h2o_http2_stream_t *s;

        if (!kh_exist(c->streams, i))
            continue;
        s = kh_val(c->streams, i);
        if (s->_req_body == NULL)
            continue;
        if (s->state < H2O_HTTP2_STREAM_STATE_SEND_HEADERS) /* no handler has it yet */
            body_bytes += s->_req_body->size;
        held += s->_req_body->capacity;
        partly = partly || s->state == H2O_HTTP2_STREAM_STATE_RECV_BODY;
        if (s->state == H2O_HTTP2_STREAM_STATE_RECV_BODY &&
            (s->_req_body->size > body_max ||
             (s->_expected_content_length != SIZE_MAX && s->_expected_content_length > body_max)))
            found = s;
    }
    held_set(conn, held, partly);
    *ret_body_bytes = body_bytes;
    return found;
}

/* How much the connection holds. True: over its limit, or the first to go while all together are over theirs.
 */
static bool bodies_over(struct gw_conn *conn, h2o_http2_conn_t *c)
{
    const struct gw_server_limits *limits = &conn->loop->server->limits;
    h2o_http2_stream_t *large;
    size_t body_bytes;

    conn->data_unchecked = 0;
    conn->bodies_unchecked = false;
    while ((large = find_too_large(conn, c, limits->body_bytes_max, &body_bytes)) != NULL) {
        if (body_bytes > limits->connection_body_bytes_max)
            break;
        gw_http_refuse_now(conn, &large->req, 413, "request_too_large",
                           "The request body is larger than this server accepts.");
        if (!gw_guard_stop_body(&large->req))
            break;
    }
    return body_bytes > limits->connection_body_bytes_max || shed(conn->loop, conn);
}

static void on_read(h2o_socket_t *sock, const char *err);

/* While the library's connection lives and reads. Closing over TLS, the socket outlives it, and nothing of it
 * may be touched. */
static bool library_reads(const struct gw_conn *conn)
{
    h2o_socket_cb cb = conn->sock->_cb.read;

    return cb != NULL && (cb == on_read || cb == conn->library_read);
}

/* The library has just (re)started reading: puts our look before its own. Its connection must be alive. */
static void read_was_set(struct gw_conn *conn)
{
    if (conn->sock->_cb.read == NULL || conn->sock->_cb.read == on_read)
        return; /* reading is stopped; or ours stands */
    conn->library_read = conn->sock->_cb.read;
    conn->sock->_cb.read = on_read;
}

/* Ends an HTTP/2 connection politely: GOAWAY, then the library's own way out of a read error. */
static void end_http2(struct gw_conn *conn, h2o_http2_conn_t *c, int code)
{
    h2o_socket_t *sock = conn->sock;
    bool stuck = c->_write.buf_in_flight != NULL;

    if (c->state < H2O_HTTP2_CONN_STATE_IS_CLOSING) {
        h2o_http2_encode_goaway_frame(&c->_write.buf, c->pull_stream_ids.max_open, code,
                                      h2o_iovec_init(H2O_STRLIT("")));
        h2o_http2_conn_request_write(c);
    }
    if (stuck && code != 0)
        gw_conn_cut(conn, NULL); /* it does not read either: let the write fail */
    read_was_set(conn);
    if (sock->_cb.read != NULL)
        conn->library_read(sock, h2o_socket_error_closed);
    else
        gw_conn_cut(conn, NULL); /* reading is stopped: the write under way fails, and closes */
}

static void on_read(h2o_socket_t *sock, const char *err)
{
    struct gw_conn *conn = gw_conn_of(sock);
    h2o_http2_conn_t *c = sock->data;
    atomic_uint_fast64_t *why;

    if (err != NULL || conn->cut) {
        conn->library_read(sock, err != NULL ? err : h2o_socket_error_closed);
        return;
    }
    conn->in_read = true;
    why = walk_input(conn, c, sock->input);
    if (why == NULL) {
        conn->library_read(sock, NULL);
        if (!conn->closed_in_read && library_reads(conn)) {
            read_was_set(conn);
            if ((conn->data_unchecked >= BODY_CHECK_BYTES || conn->bodies_unchecked) &&
                c->state < H2O_HTTP2_CONN_STATE_IS_CLOSING && bodies_over(conn, c))
                why = &conn->loop->server->stats.cut_body;
        }
    }
    if (why != NULL) {
        atomic_fetch_add(why, 1);
        end_http2(conn, c, CALM);
    }
    conn->in_read = false;
    if (conn->closed_in_read)
        free(conn);
}

/* HTTP/1.1: one body at a time, which the library limits; here it is counted into the total. */
static void on_read_http1(h2o_socket_t *sock, const char *err)
{
    struct gw_conn *conn = gw_conn_of(sock);

    if (err == NULL) {
        held_set(conn, sock->input->capacity, true);
        if (sock->input->size > BODY_CHECK_BYTES && shed(conn->loop, conn)) {
            atomic_fetch_add(&conn->loop->server->stats.cut_body, 1);
            err = h2o_socket_error_closed;
        }
    }
    conn->library_read(sock, err);
}

static void http1_hook(struct gw_conn *conn)
{
    h2o_socket_cb cb = conn->sock->_cb.read;

    if (cb == NULL || cb == on_read_http1)
        return;
    conn->library_read = cb;
    conn->sock->_cb.read = on_read_http1;
}

void gw_guard_rehook_later(struct gw_conn *conn)
{
    struct gw_loop *loop = conn->loop;

    if (conn->kind != GW_CONN_HTTP1 || conn->cut || h2o_linklist_is_linked(&conn->rehook_link))
        return;
    h2o_linklist_insert(&loop->rehooks, &conn->rehook_link);
    if (!h2o_timeout_is_linked(&loop->pump_entry))
        h2o_timeout_link(loop->ctx.loop, &loop->ctx.zero_timeout, &loop->pump_entry);
}

void gw_guard_rehook_all(struct gw_loop *loop)
{
    while (!h2o_linklist_is_empty(&loop->rehooks)) {
        struct gw_conn *conn = H2O_STRUCT_FROM_MEMBER(struct gw_conn, rehook_link, loop->rehooks.next);

        h2o_linklist_unlink(&conn->rehook_link);
        if (conn->sock != NULL && conn->library_read != NULL && conn->sock->_cb.read == conn->library_read)
            conn->sock->_cb.read = on_read_http1;
    }
}

void gw_guard_accept_http1(struct gw_conn *conn, h2o_accept_ctx_t *accept, struct timeval connected_at)
{
    conn->kind = GW_CONN_HTTP1;
    conn->in_read = true;
    h2o_http1_accept(accept, conn->sock, connected_at);
    conn->in_read = false;
    if (conn->closed_in_read)
        free(conn);
    else
        http1_hook(conn);
}

void gw_guard_accept_http2(struct gw_conn *conn, h2o_accept_ctx_t *accept, struct timeval connected_at)
{
    h2o_socket_t *sock = conn->sock;
    atomic_uint_fast64_t *why;

    conn->kind = GW_CONN_HTTP2;
    why = walk_input(conn, NULL, sock->input); /* what came along with the end of the handshake */
    if (why != NULL) {
        atomic_fetch_add(why, 1);
        h2o_socket_close(sock);
        return;
    }
    conn->in_read = true;
    h2o_http2_accept(accept, sock, connected_at);
    conn->in_read = false;
    if (conn->closed_in_read)
        free(conn);
    else
        read_was_set(conn);
}

/* Called from the handler, that is, while the library is in the middle of the input: it stops there, and
 * closes at its next step. */
void gw_guard_stop_input(struct gw_conn *conn, h2o_conn_t *library_conn)
{
    ((h2o_http2_conn_t *)library_conn)->state = H2O_HTTP2_CONN_STATE_IS_CLOSING;
    gw_conn_cut(conn, NULL);
}

void gw_guard_reset_stream(h2o_req_t *req)
{
    h2o_http2_stream_t *stream = H2O_STRUCT_FROM_MEMBER(h2o_http2_stream_t, req, req);
    h2o_http2_conn_t *c = (h2o_http2_conn_t *)req->conn;

    if (c->state >= H2O_HTTP2_CONN_STATE_IS_CLOSING || stream->state == H2O_HTTP2_STREAM_STATE_END_STREAM)
        return; /* it ends with its connection, or with the write under way */
    h2o_http2__encode_rst_stream_frame(&c->_write.buf, stream->stream_id, INTERNAL);
    h2o_http2_conn_request_write(c);
    h2o_http2_stream_reset(c, stream);
}

bool gw_guard_stop_body(h2o_req_t *req)
{
    h2o_http2_stream_t *stream = H2O_STRUCT_FROM_MEMBER(h2o_http2_stream_t, req, req);
    h2o_http2_conn_t *c = (h2o_http2_conn_t *)req->conn;

    if (stream->state != H2O_HTTP2_STREAM_STATE_RECV_BODY)
        return false;
    /* the same two steps that the library takes to answer a request with invalid headers */
    h2o_http2_stream_set_state(c, stream, H2O_HTTP2_STREAM_STATE_REQ_PENDING);
    h2o_http2_stream_set_state(c, stream, H2O_HTTP2_STREAM_STATE_SEND_HEADERS);
    return true;
}

/* ---- in the handler ---- */

static size_t header_bytes(const h2o_req_t *req)
{
    size_t n = req->input.method.len + req->input.path.len + req->input.authority.len;

    for (size_t i = 0; i < req->headers.size; i++)
        n += req->headers.entries[i].name->len + req->headers.entries[i].value.len;
    return n;
}

static enum gw_guard_verdict refused(struct gw_guard_refusal *ret_refusal, int status, const char *code,
                                     const char *message)
{
    *ret_refusal = (struct gw_guard_refusal){.status = status, .code = code, .message = message};
    return GW_GUARD_REFUSE;
}

static enum gw_guard_verdict check_headers(struct gw_conn *conn, h2o_req_t *req,
                                           struct gw_guard_refusal *ret_refusal)
{
    struct gw_server *server = conn->loop->server;
    size_t bytes;

    if (req->headers.size > server->limits.headers_max * GRAVE_FACTOR) {
        atomic_fetch_add(&server->stats.cut_headers, 1);
        return GW_GUARD_CUT;
    }
    if (req->headers.size > server->limits.headers_max)
        return refused(ret_refusal, 431, "too_many_headers", "The request has too many header fields.");
    bytes = header_bytes(req);
    if (bytes > server->limits.header_bytes_max * GRAVE_FACTOR && req->version >= 0x200) {
        atomic_fetch_add(&server->stats.cut_headers, 1);
        return GW_GUARD_CUT;
    }
    if (bytes > server->limits.header_bytes_max)
        return refused(ret_refusal, 431, "headers_too_large", "The request's header fields are too large.");
    for (size_t i = 0; i < req->headers.size; i++)
        for (size_t j = 0; j < req->headers.entries[i].value.len; j++) {
            unsigned char c = (unsigned char)req->headers.entries[i].value.base[j];

            if ((c < 0x20 && c != '\t') || c == 0x7f)
                return refused(ret_refusal, 400, "bad_request", "A header value has a control byte.");
        }
    return GW_GUARD_PASS;
}

enum gw_guard_verdict gw_guard_request(struct gw_conn *conn, h2o_req_t *req,
                                       struct gw_guard_refusal *ret_refusal)
{
    struct gw_server *server = conn->loop->server;
    enum gw_guard_verdict verdict = check_headers(conn, req, ret_refusal);
    const char *flaw;

    if (verdict != GW_GUARD_PASS)
        return verdict;
    if (req->version < 0x200) {
        conn->held_partly = false;
        if (rate_over(&conn->requests, gw_loop_now_ms(conn->loop), server->limits.requests_per_second)) {
            atomic_fetch_add(&server->stats.cut_rate, 1);
            return GW_GUARD_CUT;
        }
        /* the head lies at the start of the input until the response is complete */
        flaw = gw_http1_head_flaw(conn->sock->input->bytes, conn->sock->input->size);
        if (flaw != NULL)
            return refused(ret_refusal, 400, "bad_request", flaw);
    }
    if (req->entity.len > server->limits.body_bytes_max)
        return refused(ret_refusal, 413, "request_too_large",
                       "The request body is larger than this server accepts.");
    return GW_GUARD_PASS;
}

/* ---- the sweep ---- */

static uint64_t wall_age_ms(const struct timeval *now, const struct timeval *then)
{
    int64_t ms = (int64_t)(now->tv_sec - then->tv_sec) * 1000 + (now->tv_usec - then->tv_usec) / 1000;

    return ms > 0 ? (uint64_t)ms : 0;
}

/* A write that has not moved: nothing was added to it, and the library still waits for the socket. */
static bool write_stalled(struct gw_conn *conn, uint64_t now_ms)
{
    h2o_socket_t *sock = conn->sock;

    if (!h2o_socket_is_writing(sock) || sock->bytes_written != conn->stall_bytes ||
        conn->stall_since_ms == 0) {
        conn->stall_bytes = sock->bytes_written;
        conn->stall_since_ms = now_ms;
        return false;
    }
    return now_ms - conn->stall_since_ms > conn->loop->server->limits.write_timeout_ms;
}

static void sweep_sockets(struct gw_loop *loop, uint64_t now_ms)
{
    struct gw_server *server = loop->server;

    for (h2o_linklist_t *node = loop->conns.next, *next; node != &loop->conns; node = next) {
        struct gw_conn *conn = H2O_STRUCT_FROM_MEMBER(struct gw_conn, link, node);

        next = node->next;
        if (conn->kind == GW_CONN_HANDSHAKE && now_ms - conn->since_ms > server->limits.handshake_timeout_ms)
            gw_conn_cut(conn, &server->stats.cut_slow);
        else if (write_stalled(conn, now_ms))
            gw_conn_cut(conn, &server->stats.cut_stalled);
    }
}

static bool http2_is_slow(h2o_http2_conn_t *c, const struct timeval *now, unsigned timeout_ms)
{
    for (khiter_t i = 0; i < kh_end(c->streams); i++) {
        h2o_http2_stream_t *s;

        if (!kh_exist(c->streams, i))
            continue;
        s = kh_val(c->streams, i);
        if ((s->state == H2O_HTTP2_STREAM_STATE_RECV_HEADERS ||
             s->state == H2O_HTTP2_STREAM_STATE_RECV_BODY) &&
            wall_age_ms(now, &s->req.timestamps.request_begin_at) > timeout_ms)
            return true;
    }
    return false;
}

static void sweep_http2(struct gw_loop *loop)
{
    struct gw_server *server = loop->server;
    struct timeval now = *h2o_get_timestamp(&loop->ctx, NULL, NULL);

    for (h2o_linklist_t *node = loop->ctx.http2._conns.next, *next; node != &loop->ctx.http2._conns;
         node = next) {
        h2o_http2_conn_t *c = H2O_STRUCT_FROM_MEMBER(h2o_http2_conn_t, _conns, node);
        struct gw_conn *conn = gw_conn_of(c->sock);

        next = node->next;
        if (conn->cut || c->state >= H2O_HTTP2_CONN_STATE_IS_CLOSING)
            continue;
        read_was_set(
            conn); /* the library stops and restarts reading on its own when much waits to be written */
        if (http2_is_slow(c, &now, server->limits.request_timeout_ms)) {
            atomic_fetch_add(&server->stats.cut_slow, 1);
            end_http2(conn, c, CALM);
        } else if (bodies_over(conn, c)) {
            atomic_fetch_add(&server->stats.cut_body, 1);
            end_http2(conn, c, CALM);
        }
    }
}

struct http1_sweep {
    struct gw_loop *loop;
    struct timeval now;
    uint64_t now_ms;
};

/* One clock of the library covers idling, head and body of HTTP/1.1; here they are told apart. */
static int sweep_http1_request(h2o_req_t *req, void *data)
{
    struct http1_sweep *sweep = data;
    struct gw_server *server = sweep->loop->server;
    struct gw_conn *conn = gw_conn_of(req->conn->callbacks->get_socket(req->conn));
    bool begun = req->timestamps.request_begin_at.tv_sec != 0, handed = req->processed_at.at.tv_sec != 0;

    held_set(conn, conn->sock->input->capacity, begun && !handed);
    if (!handed)
        http1_hook(conn);
    if (handed || begun)
        conn->since_ms = sweep->now_ms;
    if (handed || conn->cut)
        return 0;
    if (begun &&
        wall_age_ms(&sweep->now, &req->timestamps.request_begin_at) > server->limits.request_timeout_ms)
        gw_conn_cut(conn, &server->stats.cut_slow);
    else if (!begun && sweep->now_ms - conn->since_ms > server->limits.idle_timeout_ms)
        gw_conn_cut(conn, NULL);
    return 0;
}

static void sweep_readers(struct gw_loop *loop, uint64_t now_ms)
{
    struct gw_server *server = loop->server;

    for (h2o_linklist_t *node = loop->https.next, *next; node != &loop->https; node = next) {
        struct gw_http *http = H2O_STRUCT_FROM_MEMBER(struct gw_http, link, node);

        next = node->next; /* a cut frees nothing at once */
        if (http->sending && now_ms > http->progress_ms &&
            now_ms - http->progress_ms > server->limits.write_timeout_ms)
            gw_conn_cut(http->conn, &server->stats.cut_stalled);
    }
}

/* The library does not read an HTTP/1.1 connection while a request of it is being answered: whether the
 * client is still there is asked of the kernel. A client that only closed its sending half counts as gone, as
 * with most servers. */
static void lose_the_gone(struct gw_http **https, struct pollfd *fds, nfds_t n)
{
    if (n == 0 || poll(fds, n, 0) <= 0)
        return;
    for (nfds_t i = 0; i < n; i++)
        if (fds[i].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
            gw_http_lost(https[i]);
}

static void sweep_http1_clients(struct gw_loop *loop)
{
    struct gw_http *https[POLL_BATCH];
    struct pollfd fds[POLL_BATCH];
    nfds_t n = 0;
    h2o_linklist_t *node = loop->https.next;

    /* Losing a client frees nothing at once, and a closed callback cannot free a gw_http: the list stands
     * still. */
    while (node != &loop->https) {
        struct gw_http *http = H2O_STRUCT_FROM_MEMBER(struct gw_http, link, node);

        node = node->next;
        if (http->conn->kind != GW_CONN_HTTP1 || http->phase == GW_HTTP_ABORTED || http->conn->cut)
            continue;
        https[n] = http;
        fds[n] = (struct pollfd){.fd = h2o_socket_get_fd(http->conn->sock), .events = POLLRDHUP};
        if (++n == POLL_BATCH) {
            lose_the_gone(https, fds, n);
            n = 0;
        }
    }
    lose_the_gone(https, fds, n);
}

void gw_guard_sweep(struct gw_loop *loop, uint64_t now_ms)
{
    struct http1_sweep http1 = {
        .loop = loop, .now = *h2o_get_timestamp(&loop->ctx, NULL, NULL), .now_ms = now_ms};

    sweep_sockets(loop, now_ms);
    sweep_http2(loop);
    H2O_HTTP1_CALLBACKS.foreach_request(&loop->ctx, sweep_http1_request, &http1);
    shed(loop, NULL);
    sweep_readers(loop, now_ms);
    sweep_http1_clients(loop);
}

/* ---- drain ---- */

static int drain_http1_request(h2o_req_t *req, void *data)
{
    struct gw_conn *conn = gw_conn_of(req->conn->callbacks->get_socket(req->conn));

    (void)data;
    if (req->timestamps.request_begin_at.tv_sec == 0 && req->processed_at.at.tv_sec == 0 && !conn->cut) {
        conn->cut = true;
        shutdown(h2o_socket_get_fd(conn->sock), SHUT_RDWR); /* idle: nothing is lost */
    }
    return 0;
}

static bool http2_is_idle(const h2o_http2_conn_t *c)
{
    return c->num_streams.pull.open == 0 && c->_headers_unparsed == NULL && c->_write.buf_in_flight == NULL &&
           c->_write.buf->size == 0;
}

/* First GOAWAY(2^31-1): open no more, what is on its way still counts. Later the true last stream; then idle
 * ones close. */
void gw_guard_drain(struct gw_loop *loop, uint64_t now_ms)
{
    const uint64_t last_call_ms = 300;
    bool first = !loop->drain_first_goaway,
         last = !loop->drain_last_goaway && now_ms - loop->drain_began_ms >= last_call_ms;

    loop->drain_first_goaway = true;
    loop->drain_last_goaway = loop->drain_last_goaway || last;
    for (h2o_linklist_t *node = loop->ctx.http2._conns.next, *next; node != &loop->ctx.http2._conns;
         node = next) {
        h2o_http2_conn_t *c = H2O_STRUCT_FROM_MEMBER(h2o_http2_conn_t, _conns, node);

        next = node->next;
        if (c->state >= H2O_HTTP2_CONN_STATE_IS_CLOSING || gw_conn_of(c->sock)->cut)
            continue;
        if (first || last) {
            h2o_http2_encode_goaway_frame(&c->_write.buf, last ? c->pull_stream_ids.max_open : INT32_MAX, 0,
                                          h2o_iovec_init(H2O_STRLIT("draining")));
            h2o_http2_conn_request_write(c);
        } else if (loop->drain_last_goaway && http2_is_idle(c)) {
            end_http2(gw_conn_of(c->sock), c, 0);
        }
    }
    H2O_HTTP1_CALLBACKS.foreach_request(&loop->ctx, drain_http1_request, NULL);
}
