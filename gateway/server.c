/* Server: life, listeners, connections, counters. See server.h; requests are in server_http.c, defences in
 * server_guard.c.
 *
 * Invariants:
 *   1. Every accepted descriptor has one gw_conn, reached by socket->on_close.data, and freed by on_close
 * alone.
 *   2. A gw_conn counts once in stats.connections_open and once under its address, from accept to close.
 *   3. Nothing closes a library connection from outside: a cut shuts the descriptor down, and the library
 * meets that as an error of its next read or write; only then does it free.
 *   4. Draining, a loop ends when its list of connections is empty, or soon after the deadline shut them all
 * down.
 */
#include "gateway/server_priv.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPTS_PER_TURN  32
#define ACCEPT_PAUSE_MS   100u /* when descriptors have run out */
#define LISTEN_BACKLOG    1024
#define CUT_GRACE_MS      2000u /* after the drain's deadline, for the library to let go */
#define DRAIN_LOOK_MS     20u
#define BODIES_AT_LEAST   3u /* of the largest size, at once in the process */
#define LINGER_MS         2000u
#define LINGER_BYTES_MAX  (32u << 20)
#define LINGER_READ_BYTES 65536u
#define LOOPS_MAX         256u

const struct gw_server_limits GW_SERVER_LIMITS_DEFAULT = {
    .connections_max = 10000,
    .connections_per_address = 256,
    .requests_per_second = 200,
    .streams_per_connection = 64,
    .header_bytes_max = 32768,
    .headers_max = GW_HEADERS_MAX,
    .body_bytes_max = 8u << 20,
    .connection_body_bytes_max = 32u << 20,
    .handshake_timeout_ms = 10000,
    .request_timeout_ms = 30000,
    .idle_timeout_ms = 75000,
    .write_timeout_ms = 30000,
    .response_queue_max = 1u << 20,
    .buffers_total_max = 256u << 20,
};

/* The library keeps freed chunks in lists of each thread and never frees those: no leak that grows. */
#if defined(__SANITIZE_ADDRESS__)
__attribute__((weak, visibility("default"))) const char *__lsan_default_suppressions(void);
__attribute__((weak, visibility("default"))) const char *__lsan_default_suppressions(void)
{
    return "leak:libh2o-evloop\n";
}
#endif

/* ---- addresses ---- */

static size_t address_bucket(const unsigned char key[16])
{
    uint32_t h = 2166136261u; /* FNV-1a; at worst a flood from many addresses makes one list long, up to
                                 connections_max */

    for (int i = 0; i < 16; i++)
        h = (h ^ key[i]) * 16777619u;
    return h % GW_ADDRESS_BUCKETS;
}

bool gw_address_take(struct gw_server *server, const unsigned char key[16])
{
    struct gw_address **bucket = &server->addresses[address_bucket(key)], *a;
    bool ok;

    pthread_mutex_lock(&server->address_lock);
    for (a = *bucket; a != NULL && memcmp(a->key, key, 16) != 0; a = a->next)
        ;
    if (a == NULL) {
        a = base_zalloc(sizeof(*a));
        memcpy(a->key, key, 16);
        a->next = *bucket;
        *bucket = a;
    }
    ok = a->n < server->limits.connections_per_address;
    if (ok)
        a->n++;
    pthread_mutex_unlock(&server->address_lock);
    return ok;
}

void gw_address_give(struct gw_server *server, const unsigned char key[16])
{
    struct gw_address **link = &server->addresses[address_bucket(key)], *a;

    pthread_mutex_lock(&server->address_lock);
    for (; (a = *link) != NULL; link = &a->next)
        if (memcmp(a->key, key, 16) == 0)
            break;
    if (a != NULL && --a->n == 0) {
        *link = a->next;
        free(a);
    }
    pthread_mutex_unlock(&server->address_lock);
}

/* IPv4 (also mapped into IPv6) counts by address, IPv6 by its /64: one customer has a whole one. */
static void address_key(const struct sockaddr_storage *ss, unsigned char key[16], char peer[GW_PEER_MAX])
{
    memset(key, 0, 16);
    snprintf(peer, GW_PEER_MAX, "unknown");
    if (ss->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)ss;

        memcpy(key + 12, &in->sin_addr, 4);
        key[10] = key[11] = 0xff;
        inet_ntop(AF_INET, &in->sin_addr, peer, GW_PEER_MAX);
    } else if (ss->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;

        if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
            memcpy(key, &in6->sin6_addr, 16);
            inet_ntop(AF_INET, in6->sin6_addr.s6_addr + 12, peer, GW_PEER_MAX);
        } else {
            memcpy(key, &in6->sin6_addr, 8);
            inet_ntop(AF_INET6, &in6->sin6_addr, peer, GW_PEER_MAX);
        }
    }
}

/* ---- connections ---- */

static void conn_release(struct gw_conn *conn)
{
    struct gw_server *server = conn->loop->server;

    h2o_linklist_unlink(&conn->link);
    gw_address_give(server, conn->address);
    atomic_fetch_sub(&server->stats.connections_open, 1);
    if (conn->linger_fd >= 0)
        close(conn->linger_fd);
    if (h2o_linklist_is_linked(&conn->rehook_link))
        h2o_linklist_unlink(&conn->rehook_link);
    if (conn->in_read)
        conn->closed_in_read = true;
    else
        free(conn);
}

/* A refused HTTP/1.1 client may still be sending: closing at once would reset the connection, and the reset
 * would overtake the answer that says why. Its bytes are read and dropped for a moment instead, on a copy of
 * the descriptor that the library closed. */
static void linger_end(struct gw_conn *conn)
{
    gw_timer_stop(conn->linger_timer);
    gw_watch_free(conn->linger_watch);
    conn_release(conn);
}

static void on_linger_time(void *arg)
{
    struct gw_conn *conn = arg;

    conn->linger_timer = NULL;
    linger_end(conn);
}

static void on_linger_bytes(void *user, int events)
{
    struct gw_conn *conn = user;
    char dropped[LINGER_READ_BYTES];
    ssize_t n = recv(conn->linger_fd, dropped, sizeof(dropped), MSG_DONTWAIT);

    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    conn->lingered += n > 0 ? (size_t)n : 0;
    if (n <= 0 || conn->lingered > LINGER_BYTES_MAX)
        linger_end(conn);
}

static void linger_begin(struct gw_conn *conn)
{
    struct gw_loop *loop = conn->loop;

    shutdown(conn->linger_fd, SHUT_WR);
    conn->linger_watch = gw_watch_new(loop, conn->linger_fd, on_linger_bytes, conn);
    if (conn->linger_watch == NULL) {
        conn_release(conn);
        return;
    }
    h2o_linklist_unlink(&conn->link);
    h2o_linklist_insert(&loop->lingers, &conn->link);
    conn->linger_timer = gw_timer_start(loop, LINGER_MS, on_linger_time, conn);
    gw_watch_set(conn->linger_watch, GW_IO_READ);
}

void gw_conn_linger(struct gw_conn *conn)
{
    if (conn->linger_fd < 0)
        conn->linger_fd = fcntl(h2o_socket_get_fd(conn->sock), F_DUPFD_CLOEXEC, 3);
}

static void on_conn_close(void *data)
{
    struct gw_conn *conn = data;

    gw_guard_forget(conn);
    SSL_CTX_free(conn->tls);
    conn->tls = NULL;
    conn->sock = NULL;
    if (conn->linger_fd >= 0 && !conn->cut)
        linger_begin(conn);
    else
        conn_release(conn);
}

void gw_socket_reset(int fd)
{
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};

    /* Dissolves the association: the peer gets a reset, never an orderly end, and nothing stays in the kernel
     * for it. */
    if (connect(fd, &nobody, sizeof(nobody)) != 0)
        shutdown(fd, SHUT_RDWR);
}

void gw_conn_cut(struct gw_conn *conn, atomic_uint_fast64_t *why)
{
    if (conn->cut)
        return;
    conn->cut = true;
    if (why != NULL)
        atomic_fetch_add(why, 1);
    gw_socket_reset(h2o_socket_get_fd(conn->sock));
    gw_http_abort_all(conn); /* HTTP/1.1 neither reads nor writes while a handler works */
}

static void on_handshake(h2o_socket_t *sock, const char *err)
{
    struct gw_conn *conn = gw_conn_of(sock);
    struct gw_loop *loop = conn->loop;
    struct timeval now = *h2o_get_timestamp(&loop->ctx, NULL, NULL);
    h2o_iovec_t protocol;

    sock->data = NULL;
    if (err != NULL || conn->cut) {
        h2o_socket_close(sock);
        return;
    }
    protocol = h2o_socket_ssl_get_selected_protocol(sock);
    conn->since_ms = gw_loop_now_ms(loop);
    if (h2o_memis(protocol.base, protocol.len, H2O_STRLIT("h2"))) {
        gw_guard_accept_http2(conn, &loop->accept, now);
    } else {
        gw_guard_accept_http1(conn, &loop->accept, now);
    }
}

static SSL_CTX *tls_ref(struct gw_server *server)
{
    SSL_CTX *tls;

    pthread_mutex_lock(&server->tls_lock);
    tls = server->tls;
    SSL_CTX_up_ref(tls);
    pthread_mutex_unlock(&server->tls_lock);
    return tls;
}

static void socket_options(struct gw_server *server, int fd)
{
    int on = 1, idle_s = 60, every_s = 15, times = 4;
    unsigned user_timeout_ms = server->limits.write_timeout_ms * 2; /* the sweep, which counts, comes first */

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
    if (user_timeout_ms != 0)
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
}

static void refuse_fd(int fd, atomic_uint_fast64_t *why)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};

    atomic_fetch_add(why, 1);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(fd);
}

static void conn_begin(struct gw_acceptor *acceptor, int fd, const struct sockaddr_storage *peer)
{
    struct gw_loop *loop = acceptor->loop;
    struct gw_server *server = loop->server;
    unsigned char key[16];
    char peer_text[GW_PEER_MAX];
    struct gw_conn *conn;

    address_key(peer, key, peer_text);
    if (atomic_fetch_add(&server->stats.connections_open, 1) >= server->limits.connections_max) {
        atomic_fetch_sub(&server->stats.connections_open, 1);
        refuse_fd(fd, &server->stats.refused_connections);
        return;
    }
    if (!gw_address_take(server, key)) {
        atomic_fetch_sub(&server->stats.connections_open, 1);
        refuse_fd(fd, &server->stats.refused_address);
        return;
    }
    atomic_fetch_add(&server->stats.connections_total, 1);
    socket_options(server, fd);
    conn = base_zalloc(sizeof(*conn));
    conn->loop = loop;
    conn->linger_fd = -1;
    conn->listener = acceptor->listener;
    memcpy(conn->address, key, 16);
    memcpy(conn->peer, peer_text, GW_PEER_MAX);
    conn->since_ms = gw_loop_now_ms(loop);
    conn->sock = h2o_evloop_socket_create(loop->ctx.loop, fd, H2O_SOCKET_FLAG_IS_ACCEPTED_CONNECTION);
    conn->sock->on_close.cb = on_conn_close;
    conn->sock->on_close.data = conn;
    h2o_linklist_insert(&loop->conns, &conn->link);
    if (acceptor->listener->options.tls) {
        conn->tls = tls_ref(server);
        h2o_socket_ssl_handshake(conn->sock, conn->tls, NULL, on_handshake);
    } else {
        gw_guard_accept_http1(conn, &loop->accept, *h2o_get_timestamp(&loop->ctx, NULL, NULL));
    }
}

static void on_accept(h2o_socket_t *sock, const char *err);

static void resume_accepting(void *arg)
{
    struct gw_acceptor *acceptor = arg;

    if (acceptor->sock != NULL)
        h2o_socket_read_start(acceptor->sock, on_accept);
}

static void on_accept(h2o_socket_t *sock, const char *err)
{
    struct gw_acceptor *acceptor = sock->data;

    if (err != NULL)
        return;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage peer;
        socklen_t len = sizeof(peer);
        int fd =
            accept4(h2o_socket_get_fd(sock), (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            conn_begin(acceptor, fd, &peer);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            base_log(BASE_LOG_WARN, "server.accept",
                     "no descriptor or memory for a new connection; waiting a moment",
                     LOG_INT("errno", errno));
            h2o_socket_read_stop(sock);
            gw_timer_start(acceptor->loop, ACCEPT_PAUSE_MS, resume_accepting, acceptor);
            return;
        } else {
            return; /* EAGAIN; or that one connection was reset before it was accepted */
        }
    }
}

/* ---- loops ---- */

static void on_tick(void *arg)
{
    struct gw_loop *loop = arg;
    uint64_t now_us = base_mono_us();

    gw_worst_note(&loop->lag, now_us, now_us > loop->tick_due_us ? now_us - loop->tick_due_us : 0);
    gw_guard_sweep(loop, now_us / 1000);
    loop->tick_due_us = base_mono_us() + GW_TICK_MS * 1000u;
    loop->tick = gw_timer_start(loop, GW_TICK_MS, on_tick, loop);
}

static void open_acceptors(struct gw_loop *loop)
{
    for (unsigned i = 0; i < loop->server->n_listeners; i++) {
        struct gw_acceptor *acceptor = &loop->acceptors[i];

        acceptor->sock = h2o_evloop_socket_create(loop->ctx.loop, acceptor->fd, H2O_SOCKET_FLAG_DONT_READ);
        acceptor->fd = -1;
        acceptor->sock->data = acceptor;
        h2o_socket_read_start(acceptor->sock, on_accept);
    }
}

static void close_acceptors(struct gw_loop *loop)
{
    for (unsigned i = 0; i < loop->server->n_listeners; i++) {
        if (loop->acceptors[i].sock == NULL)
            continue;
        h2o_socket_read_stop(loop->acceptors[i].sock);
        h2o_socket_close(loop->acceptors[i].sock);
        loop->acceptors[i].sock = NULL;
    }
}

static void end_lingers(struct gw_loop *loop)
{
    while (!h2o_linklist_is_empty(&loop->lingers))
        linger_end(H2O_STRUCT_FROM_MEMBER(struct gw_conn, link, loop->lingers.next));
}

static void cut_all(struct gw_loop *loop)
{
    for (h2o_linklist_t *node = loop->conns.next, *next; node != &loop->conns; node = next) {
        next = node->next;
        gw_conn_cut(H2O_STRUCT_FROM_MEMBER(struct gw_conn, link, node), NULL);
    }
}

/* The library's own shutdown is not used: its second GOAWAY brings a connection to a state in which a
 * CONTINUATION frame is parsed for ever (2.2.5, expect_continuation_of_headers). */
static void loop_drain(struct gw_loop *loop, uint64_t deadline_ms)
{
    close_acceptors(loop);
    loop->ctx.shutdown_requested = 1; /* HTTP/1.1: the next response closes */
    loop->drain_began_ms = base_mono_ms();
    for (uint64_t looked_ms = 0; !h2o_linklist_is_empty(&loop->conns) && base_mono_ms() < deadline_ms;) {
        if (base_mono_ms() - looked_ms >= DRAIN_LOOK_MS) {
            looked_ms = base_mono_ms();
            gw_guard_drain(loop, looked_ms);
        }
        gw_loop_turn(loop);
    }
    cut_all(loop);
    for (uint64_t until_ms = base_mono_ms() + CUT_GRACE_MS;
         !h2o_linklist_is_empty(&loop->conns) && base_mono_ms() < until_ms;)
        gw_loop_turn(loop);
}

static void *loop_main(void *arg)
{
    struct gw_loop *loop = arg;
    struct gw_server *server = loop->server;
    uint64_t deadline_ms;

    gw_loop_enter(loop);
    loop->tick_due_us = base_mono_us() + GW_TICK_MS * 1000u;
    loop->tick = gw_timer_start(loop, GW_TICK_MS, on_tick, loop);
    if (server->loop_start != NULL)
        server->loop_start(loop, server->user);
    open_acceptors(loop);
    pthread_mutex_lock(&server->state_lock);
    server->n_ready++;
    pthread_cond_signal(&server->state_changed);
    pthread_mutex_unlock(&server->state_lock);
    while ((deadline_ms = atomic_load(&server->drain_deadline_ms)) == 0)
        gw_loop_turn(loop);
    loop_drain(loop, deadline_ms);
    if (server->loop_end != NULL)
        server->loop_end(loop, server->user);
    if (!h2o_linklist_is_empty(&loop->conns)) {
        base_log(BASE_LOG_ERROR, "server.drain", "connections did not end; their memory is abandoned",
                 LOG_INT("loop", loop->index));
        return NULL;
    }
    end_lingers(loop);
    gw_loop_leave(loop);
    return NULL;
}

/* ---- binding ---- */

static bool address_parse(const char *address, uint16_t port, struct sockaddr_storage *ret_ss,
                          socklen_t *ret_len)
{
    struct sockaddr_in *in = (struct sockaddr_in *)ret_ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_ss;

    memset(ret_ss, 0, sizeof(*ret_ss));
    if (inet_pton(AF_INET, address, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        *ret_len = sizeof(*in);
        return true;
    }
    if (inet_pton(AF_INET6, address, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        *ret_len = sizeof(*in6);
        return true;
    }
    return false;
}

static enum base_code bind_fail(struct base_err *err, int error, const char *address, unsigned port)
{
    if (error == EADDRINUSE)
        return base_fail(err, BASE_EXISTS, error,
                         "%s port %u is taken by another process; stop it (`ss -ltnp 'sport = :%u'` names "
                         "it) or set another port",
                         address, port, port);
    if (error == EACCES)
        return base_fail(err, BASE_DENIED, error, "%s port %u: ports below 1024 need CAP_NET_BIND_SERVICE",
                         address, port);
    if (error == EADDRNOTAVAIL)
        return base_fail(err, BASE_INVALID, error, "%s is not an address of this machine", address);
    return base_fail(err, BASE_IO, error, "%s port %u cannot be listened on: %s", address, port,
                     strerror(error));
}

/* reuse_port false is the probe: it finds the port taken even by a process that would share it. */
static enum base_code bind_one(int *ret_fd, const char *address, uint16_t port, bool reuse_port,
                               struct base_err *err)
{
    struct sockaddr_storage ss;
    socklen_t len;
    int on = 1, off = 0, rcvbuf = GW_RECV_BUFFER, fd, error;

    if (!address_parse(address, port, &ss, &len))
        return base_fail(err, BASE_INVALID, 0, "listen address \"%s\" is not a numeric IPv4 or IPv6 address",
                         address);
    fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return bind_fail(err, errno, address, port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (reuse_port)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (ss.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    /* Inherited by what is accepted. It bounds how much one read of the library can bring in. */
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf));
    if (bind(fd, (struct sockaddr *)&ss, len) != 0 || listen(fd, LISTEN_BACKLOG) != 0) {
        error = errno;
        close(fd);
        return bind_fail(err, error, address, port);
    }
    *ret_fd = fd;
    return BASE_OK;
}

static uint16_t bound_port(int fd)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
        return 0;
    return ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
                                          : ((struct sockaddr_in *)&ss)->sin_port);
}

static enum base_code bind_listener(struct gw_server *server, unsigned i, struct base_err *err)
{
    struct gw_listener *listener = &server->listeners[i];
    enum base_code rc;
    int probe;

    if (listener->port != 0) {
        rc = bind_one(&probe, listener->address, listener->port, false, err);
        if (rc != BASE_OK)
            return rc;
        close(probe);
    }
    for (unsigned l = 0; l < server->n_loops; l++) {
        struct gw_acceptor *acceptor = &server->loops[l].acceptors[i];

        rc = bind_one(&acceptor->fd, listener->address, listener->port, true, err);
        if (rc != BASE_OK)
            return rc;
        if (listener->port == 0)
            listener->port = bound_port(acceptor->fd);
    }
    return BASE_OK;
}

/* ---- life ---- */

static void configure_library(struct gw_server *server)
{
    const struct gw_server_limits *limits = &server->limits;
    h2o_globalconf_t *conf = &server->conf;
    h2o_hostconf_t *host;
    uint64_t slowest_ms = limits->request_timeout_ms > limits->idle_timeout_ms ? limits->request_timeout_ms
                                                                               : limits->idle_timeout_ms;

    h2o_socket_buffer_mmap_settings.threshold = SIZE_MAX; /* never a body in a file */
    h2o_config_init(conf);
    conf->server_name = h2o_iovec_init(H2O_STRLIT(""));
    conf->max_request_entity_size = limits->body_bytes_max + GW_BODY_SLACK;
    conf->handshake_timeout = limits->handshake_timeout_ms;
    conf->http1.req_timeout = slowest_ms + 1000; /* one clock for idling, head and body: the sweep is finer */
    conf->http1.upgrade_to_http2 = 0;
    conf->http2.idle_timeout = limits->idle_timeout_ms;
    conf->http2.max_concurrent_requests_per_connection = limits->streams_per_connection;
    conf->http2.max_streams_for_priority = 16;
    host = h2o_config_register_host(conf, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    host->http2.push_preload = 0;
    host->fallback_path.error_log.emit_request_errors = 0;
    gw_http_register_filter(&host->fallback_path);
    h2o_create_handler(&host->fallback_path, sizeof(h2o_handler_t))->on_req = gw_http_on_request;
}

static char *copy_or_null(const char *s)
{
    return s != NULL ? base_strdup(s) : NULL;
}

/* Limits that would contradict each other: one body that is allowed must also fit into the caps over many. */
static void fit_limits(struct gw_server_limits *limits)
{
    if (limits->headers_max > GW_HEADERS_MAX)
        limits->headers_max = GW_HEADERS_MAX; /* as many as the library keeps of an HTTP/1.1 request */
    if (limits->buffers_total_max == 0)
        limits->buffers_total_max = GW_SERVER_LIMITS_DEFAULT.buffers_total_max;
    if (limits->connection_body_bytes_max < limits->body_bytes_max)
        limits->connection_body_bytes_max = limits->body_bytes_max;
    if (limits->buffers_total_max < limits->body_bytes_max * BODIES_AT_LEAST)
        limits->buffers_total_max = limits->body_bytes_max * BODIES_AT_LEAST;
}

static struct gw_server *server_new(const struct gw_server_options *options)
{
    struct gw_server *server = base_zalloc(sizeof(*server));
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    server->n_loops = options->n_threads != 0 ? options->n_threads : cores > 0 ? (unsigned)cores : 1;
    if (server->n_loops > LOOPS_MAX)
        server->n_loops = LOOPS_MAX;
    server->n_listeners = options->n_listeners;
    server->limits = options->limits;
    fit_limits(&server->limits);
    server->http2 = options->http2;
    server->cert_file = copy_or_null(options->cert_file);
    server->client_ca_file = options->client_ca_file != NULL && options->client_ca_file[0] != '\0'
                                 ? copy_or_null(options->client_ca_file)
                                 : NULL;
    server->key_file = copy_or_null(options->key_file);
    server->loop_start = options->loop_start;
    server->loop_end = options->loop_end;
    server->user = options->user;
    pthread_mutex_init(&server->tls_lock, NULL);
    pthread_mutex_init(&server->address_lock, NULL);
    pthread_mutex_init(&server->state_lock, NULL);
    pthread_cond_init(&server->state_changed, NULL);
    server->loops = base_zalloc(server->n_loops * sizeof(*server->loops));
    server->listeners = base_zalloc((server->n_listeners + 1) * sizeof(*server->listeners));
    for (unsigned i = 0; i < server->n_listeners; i++) {
        server->listeners[i].options = options->listeners[i];
        server->listeners[i].address = base_strdup(options->listeners[i].address);
        server->listeners[i].port = options->listeners[i].port;
    }
    for (unsigned l = 0; l < server->n_loops; l++) {
        gw_loop_prepare(&server->loops[l], server, l);
        server->loops[l].acceptors = base_zalloc((server->n_listeners + 1) * sizeof(struct gw_acceptor));
        for (unsigned i = 0; i < server->n_listeners; i++)
            server->loops[l].acceptors[i] =
                (struct gw_acceptor){.loop = &server->loops[l], .listener = &server->listeners[i], .fd = -1};
    }
    configure_library(server);
    return server;
}

static enum base_code load_tls(struct gw_server *server, struct base_err *err)
{
    bool wanted = false;

    for (unsigned i = 0; i < server->n_listeners; i++)
        wanted = wanted || server->listeners[i].options.tls;
    if (!wanted)
        return BASE_OK;
    if (server->cert_file == NULL || server->key_file == NULL)
        return base_fail(err, BASE_INVALID, 0, "a TLS listener needs a certificate file and a key file");
    return gw_tls_load(&server->tls, &server->cert_not_after, server->cert_file, server->key_file,
                       server->client_ca_file, server->http2, err);
}

/* Signals belong to the main thread; SIGPIPE of a write to a gone client then stays pending on the loop,
 * harmless. */
static enum base_code start_threads(struct gw_server *server, struct base_err *err)
{
    sigset_t all, old;
    int error = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned l = 0; l < server->n_loops && error == 0; l++) {
        error = pthread_create(&server->loops[l].thread, NULL, loop_main, &server->loops[l]);
        server->loops[l].thread_started = error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error != 0)
        return base_fail(err, BASE_IO, error, "cannot start a loop thread: %s", strerror(error));
    pthread_mutex_lock(&server->state_lock);
    while (server->n_ready < server->n_loops)
        pthread_cond_wait(&server->state_changed, &server->state_lock);
    pthread_mutex_unlock(&server->state_lock);
    return BASE_OK;
}

enum base_code gw_server_start(struct gw_server **ret_server, const struct gw_server_options *options,
                               struct base_err *err)
{
    struct gw_server *server;
    enum base_code rc;

    assert(options->n_listeners > 0 || options->listeners == NULL);
#if defined(__GLIBC__)
    /* Large buffers, the bodies among them, go back to the system when freed. Left alone, glibc raises this
     * threshold up to 32 MB, and what a burst took stays as holes in the heap. */
    mallopt(M_MMAP_THRESHOLD, GW_LARGE_BUFFER);
#endif
    server = server_new(options);
    rc = load_tls(server, err);
    for (unsigned i = 0; i < server->n_listeners && rc == BASE_OK; i++)
        rc = bind_listener(server, i, err);
    if (rc == BASE_OK) {
        *ret_server = server; /* before any thread runs: hooks and handlers may use it */
        rc = start_threads(server, err);
        if (rc != BASE_OK)
            *ret_server = NULL;
    }
    if (rc != BASE_OK) {
        gw_server_drain(server, 0);
        gw_server_free(server);
        return rc;
    }
    return BASE_OK;
}

enum base_code gw_server_reload_tls(struct gw_server *server, struct base_err *err)
{
    SSL_CTX *fresh = NULL, *old;
    int64_t not_after = 0;
    enum base_code rc;

    if (server->tls == NULL)
        return base_fail(err, BASE_INVALID, 0, "no listener uses TLS");
    rc = gw_tls_load(&fresh, &not_after, server->cert_file, server->key_file, server->client_ca_file,
                     server->http2, err);
    if (rc != BASE_OK)
        return rc;
    pthread_mutex_lock(&server->tls_lock);
    old = server->tls;
    server->tls = fresh;
    server->cert_not_after = not_after;
    pthread_mutex_unlock(&server->tls_lock);
    SSL_CTX_free(old); /* its connections hold it for as long as they last */
    return BASE_OK;
}

static void wake(void *arg)
{
    (void)arg;
}

void gw_server_drain(struct gw_server *server, unsigned timeout_ms)
{
    if (server->joined)
        return;
    atomic_store(&server->drain_deadline_ms, base_mono_ms() + timeout_ms + 1);
    for (unsigned l = 0; l < server->n_loops; l++) {
        if (!server->loops[l].thread_started)
            continue;
        gw_loop_post(&server->loops[l], wake, NULL);
    }
    for (unsigned l = 0; l < server->n_loops; l++)
        if (server->loops[l].thread_started)
            pthread_join(server->loops[l].thread, NULL);
    server->joined = true;
}

void gw_server_free(struct gw_server *server)
{
    if (server == NULL)
        return;
    assert(server->joined);
    for (unsigned l = 0; l < server->n_loops; l++) {
        for (unsigned i = 0; i < server->n_listeners; i++)
            if (server->loops[l].acceptors[i].fd >= 0)
                close(server->loops[l].acceptors[i].fd);
        gw_loop_dispose(&server->loops[l]);
    }
    h2o_config_dispose(&server->conf);
    SSL_CTX_free(server->tls);
    for (unsigned i = 0; i < server->n_listeners; i++)
        free(server->listeners[i].address);
    for (unsigned b = 0; b < GW_ADDRESS_BUCKETS; b++)
        while (server->addresses[b] != NULL) {
            struct gw_address *a = server->addresses[b];

            server->addresses[b] = a->next;
            free(a);
        }
    pthread_mutex_destroy(&server->tls_lock);
    pthread_mutex_destroy(&server->address_lock);
    pthread_mutex_destroy(&server->state_lock);
    pthread_cond_destroy(&server->state_changed);
    free(server->loops);
    free(server->listeners);
    free(server->cert_file);
    free(server->client_ca_file);
    free(server->key_file);
    free(server);
}

uint16_t gw_server_port(const struct gw_server *server, unsigned listener)
{
    return server->listeners[listener].port;
}

unsigned gw_server_n_loops(const struct gw_server *server)
{
    return server->n_loops;
}

struct gw_loop *gw_server_loop(const struct gw_server *server, unsigned index)
{
    return &server->loops[index];
}

int64_t gw_server_cert_not_after(const struct gw_server *server)
{
    struct gw_server *s = (struct gw_server *)server; /* for the lock alone */
    int64_t not_after;

    pthread_mutex_lock(&s->tls_lock);
    not_after = s->cert_not_after;
    pthread_mutex_unlock(&s->tls_lock);
    return not_after;
}

static void keep_worst(uint64_t *most_us, const struct gw_worst *worst)
{
    uint64_t us = gw_worst_us(worst);

    if (us > *most_us)
        *most_us = us;
}

void gw_server_get_stats(struct gw_server *server, struct gw_server_stats *ret_stats)
{
    const struct gw_stat_counters *c = &server->stats;
    struct gw_server_stats stats = {
        .connections_open = atomic_load(&c->connections_open),
        .connections_total = atomic_load(&c->connections_total),
        .requests_total = atomic_load(&c->requests_total),
        .refused_total_connections = atomic_load(&c->refused_connections),
        .refused_total_address = atomic_load(&c->refused_address),
        .cut_total_rate = atomic_load(&c->cut_rate),
        .cut_total_headers = atomic_load(&c->cut_headers),
        .cut_total_body = atomic_load(&c->cut_body),
        .cut_total_slow = atomic_load(&c->cut_slow),
        .cut_total_stalled = atomic_load(&c->cut_stalled),
    };

    for (unsigned l = 0; l < server->n_loops; l++) {
        const struct gw_loop *loop = &server->loops[l];

        keep_worst(&stats.loop_lag_us_max, &loop->lag);
        keep_worst(&stats.callback_us_max, &loop->callback);
        keep_worst(&stats.turn_cpu_us_max, &loop->turn_cpu);
        stats.slow_callbacks_total += atomic_load_explicit(&loop->slow_callbacks, memory_order_relaxed);
    }
    *ret_stats = stats;
}
