/* Server, inside: what loop.c and the server_*.c files share. Nobody else includes this: it drags libh2o in.
 *
 * Who owns what:
 *   gw_server   main thread; immutable while loops run, but for `tls` (lock), `addresses` (lock) and the
 * atomics gw_loop     its thread, but for `posts` (lock) gw_conn     its loop; lives as long as the library's
 * socket, which frees it through on_close gw_http     its loop; lives in the request's pool, which frees it
 * through a destructor
 */
#ifndef GATEWAY_SERVER_PRIV_H
#define GATEWAY_SERVER_PRIV_H

#include "gateway/server.h"

#include <h2o.h>
#include <h2o/http1.h>
#include <h2o/http2.h>
#include <pthread.h>
#include <stdatomic.h>

/* The guard reads structures that are internal to the library: another version needs another look at
 * server_guard.c. */
_Static_assert(H2O_VERSION_MAJOR == 2 && H2O_VERSION_MINOR == 2 &&
                   (H2O_VERSION_PATCH == 5 || H2O_VERSION_PATCH == 6),
               "server_guard.c was written against the structures of libh2o 2.2.5");

#define GW_CALLBACK_BUDGET_US 2000u
#define GW_POSTS_BUDGET_US    1000u  /* of all tasks of one turn; each alone may take the former */
#define GW_TICK_MS            100u   /* the sweep; every deadline is met within one tick */
#define GW_WORST_SLOTS        10u    /* seconds over which the worst of something is kept */
#define GW_RECV_BUFFER        131072 /* what a peer can push between two looks of the guard */
#define GW_LARGE_BUFFER       262144
#define GW_SEND_SLICE         32768u /* given to the library at once: progress of a reader is seen in these steps */
#define GW_BODY_SLACK \
    1048576u /* the library's own body limit lies this far above ours, which answers in JSON */

/* The longest time of each of the last seconds. Written by one thread, read by any. */
struct gw_worst {
    _Atomic uint64_t us[GW_WORST_SLOTS], second[GW_WORST_SLOTS];
};

struct gw_stat_counters {
    atomic_uint_fast64_t connections_open, connections_total, requests_total, refused_connections,
        refused_address, cut_rate, cut_headers, cut_body, cut_slow, cut_stalled;
};

/* Open connections per peer address (IPv4 address or IPv6 /64). */
#define GW_ADDRESS_BUCKETS 4096u
struct gw_address {
    struct gw_address *next;
    unsigned char key[16];
    unsigned n;
};

struct gw_listener {
    struct gw_listener_options options;
    char *address;
    uint16_t port;
};

struct gw_server {
    unsigned n_loops, n_listeners;
    struct gw_loop *loops;
    struct gw_listener *listeners;
    struct gw_server_limits limits;
    bool http2;
    char *cert_file, *key_file, *client_ca_file;
    void (*loop_start)(struct gw_loop *loop, void *user);
    void (*loop_end)(struct gw_loop *loop, void *user);
    void *user;

    h2o_globalconf_t conf;
    struct gw_stat_counters stats;

    pthread_mutex_t tls_lock; /* guards tls and cert_not_after */
    SSL_CTX *tls;
    int64_t cert_not_after;

    pthread_mutex_t address_lock; /* guards addresses */
    struct gw_address *addresses[GW_ADDRESS_BUCKETS];

    pthread_mutex_t state_lock; /* guards n_ready, with state_changed */
    pthread_cond_t state_changed;
    unsigned n_ready;

    _Atomic uint64_t drain_deadline_ms; /* 0: not draining */
    bool joined;
};

struct gw_task {
    struct gw_task *next;
    gw_task_fn *fn;
    void *arg;
};

/* One accepting socket of one loop. */
struct gw_acceptor {
    struct gw_loop *loop;
    const struct gw_listener *listener;
    int fd; /* until the loop's thread has made a socket of it */
    h2o_socket_t *sock;
};

struct gw_loop {
    struct gw_server *server;
    unsigned index;
    pthread_t thread;
    bool thread_started;
    bool entered; /* the library's context stands */
    h2o_context_t ctx;
    h2o_accept_ctx_t accept;
    struct gw_acceptor *acceptors; /* [n_listeners] */

    pthread_mutex_t post_lock; /* guards posts and posts_tail */
    struct gw_task *posts, **posts_tail;
    int post_fd; /* eventfd */
    h2o_socket_t *post_sock;

    struct gw_timer **timers; /* binary heap, earliest first */
    size_t n_timers, timers_cap;
    uint64_t timer_seq;

    uint64_t now_ms, now_key; /* cached time; the library's own clock tells when it is stale */

    h2o_linklist_t lingers; /* gw_conn.link: closed by the library, read dry by us */
    h2o_linklist_t conns;   /* gw_conn.link */
    h2o_linklist_t https;   /* gw_http.link */
    h2o_linklist_t rehooks; /* gw_conn.rehook_link */
    h2o_linklist_t pumps;   /* gw_http.pump_link: work for the end of this turn */
    h2o_timeout_entry_t pump_entry;

    struct gw_timer *tick;
    uint64_t tick_due_us;
    uint64_t drain_began_ms;
    bool drain_first_goaway, drain_last_goaway;
    uint64_t slow_logged_ms;

    _Atomic size_t held;   /* memory of bodies, all its connections; written by the loop alone */
    _Atomic size_t queued; /* memory of response queues, as above */
    bool by_cpu; /* callbacks are timed by processor time: for benches on cores that others use, too */
    struct gw_worst lag, callback, turn_cpu;
    _Atomic uint64_t slow_callbacks; /* longer than GW_CALLBACK_BUDGET_US */
    uint64_t cpu_ns;                 /* the thread's, when its last turn ended */
};

/* A count per second. */
struct gw_rate {
    uint64_t second_began_ms;
    unsigned n;
};

enum gw_conn_kind { GW_CONN_HANDSHAKE = 0, GW_CONN_HTTP1, GW_CONN_HTTP2 };

struct gw_conn {
    struct gw_loop *loop;
    const struct gw_listener *listener;
    h2o_socket_t *sock;
    SSL_CTX *tls; /* our reference: the library keeps a bare pointer until the first bytes come */
    h2o_linklist_t link;
    h2o_linklist_t rehook_link; /* HTTP/1.1: the library begins to read the next request behind our back */
    enum gw_conn_kind kind;
    unsigned char address[16];
    char peer[GW_PEER_MAX];
    uint64_t since_ms; /* accepted, or (HTTP/1.1) last seen busy */
    bool cut;
    bool has_cert; /* the client proved a certificate */
    unsigned char cert_sha256[32];

    /* HTTP/1.1 after a refusal (server.c) */
    int linger_fd; /* -1: none */
    struct gw_watch *linger_watch;
    struct gw_timer *linger_timer;
    size_t lingered;

    /* written at h2o level and not moving: since when */
    size_t stall_bytes;
    uint64_t stall_since_ms;

    /* HTTP/2 (server_guard.c) */
    h2o_socket_cb library_read; /* the library's callback behind ours */
    bool preface_seen;
    bool in_read, closed_in_read; /* a callback of ours is on the stack: freeing waits for it */
    unsigned block_frames;        /* CONTINUATIONs of the header block under way */
    size_t data_unchecked;        /* body bytes since the bodies were last summed */
    bool bodies_unchecked;
    size_t held;      /* body bytes at the last sweep */
    bool held_partly; /* some of them belong to a request that is not complete */
    struct gw_rate requests, controls, updates, crumbs;
};

enum gw_http_phase { GW_HTTP_WAITING = 0, GW_HTTP_BEGUN, GW_HTTP_ENDED, GW_HTTP_ABORTED };

struct gw_http {
    h2o_generator_t generator; /* first: the library hands it back */
    h2o_req_t *req;
    struct gw_conn *conn;
    struct gw_loop *loop;
    h2o_linklist_t link, pump_link;
    enum gw_http_phase phase;
    bool started;  /* h2o_start_response was called */
    bool sending;  /* a slice is with the library */
    bool finished; /* the last slice is with the library */
    bool headers_sent;
    bool gone; /* the client is */
    bool head; /* HEAD: no body follows */
    char request_id[GW_REQUEST_ID_LEN + 1];
    const char *method, *path, *query; /* in the request's pool */
    const char *cookie;                /* HTTP/2: the split cookie, joined; else NULL */
    size_t cookie_len;
    uint64_t arrived_us;
    uint64_t progress_ms; /* when the reader last took a slice */
    struct gw_buffer {
        char *data;
        size_t len, cap;
    } queue, flight; /* flight: what the library reads from; queue: behind it */
    size_t flight_off, slice;
    gw_closed_fn *closed;
    void *closed_user;
};

/* ---- loop.c ---- */

void gw_loop_prepare(struct gw_loop *loop, struct gw_server *server, unsigned index); /* any thread, once */
void gw_loop_enter(struct gw_loop *loop);                                             /* on its thread */
void gw_loop_turn(struct gw_loop *loop);    /* waits for events, runs what is due */
void gw_loop_leave(struct gw_loop *loop);   /* on its thread, after the last turn */
void gw_loop_dispose(struct gw_loop *loop); /* any thread, after its end: late posts run here */
/* When a callback begins; notes how long one took that began at start_us. */
uint64_t gw_loop_callback_us(const struct gw_loop *loop);
void gw_loop_check_budget(struct gw_loop *loop, const char *what, uint64_t start_us);
void gw_worst_note(struct gw_worst *worst, uint64_t now_us, uint64_t us);
uint64_t gw_worst_us(const struct gw_worst *worst); /* of the last 10 s */

/* ---- server.c ---- */

static inline struct gw_conn *gw_conn_of(h2o_socket_t *sock)
{
    return sock->on_close.data;
}
/* Ends a connection without ceremony and counts why. The library notices by a failed read or write. */
void gw_conn_cut(struct gw_conn *conn, atomic_uint_fast64_t *why);
/* Asks that the socket be read dry after its close, so that the client gets to read why it was refused. */
void gw_conn_linger(struct gw_conn *conn);
void gw_socket_reset(int fd);
bool gw_address_take(struct gw_server *server, const unsigned char key[16]);
void gw_address_give(struct gw_server *server, const unsigned char key[16]);

/* ---- server_http.c ---- */

int gw_http_on_request(h2o_handler_t *self, h2o_req_t *req);
void gw_http_register_filter(h2o_pathconf_t *pathconf);
void gw_http_run_pumps(h2o_timeout_entry_t *entry);
/* The client of this request is gone: tells the handler, ends the response. */
void gw_http_lost(struct gw_http *http);
void gw_http_abort_all(struct gw_conn *conn);
/* Answers a request whose body is refused before it is complete. */
void gw_http_refuse_now(struct gw_conn *conn, h2o_req_t *req, int status, const char *code,
                        const char *message);

/* ---- server_guard.c ---- */

enum gw_guard_verdict { GW_GUARD_PASS = 0, GW_GUARD_REFUSE, GW_GUARD_CUT };
struct gw_guard_refusal {
    int status;
    const char *code, *message;
};
/* First thing in the handler. */
enum gw_guard_verdict gw_guard_request(struct gw_conn *conn, h2o_req_t *req,
                                       struct gw_guard_refusal *ret_refusal);
/* In place of h2o_http1_accept and h2o_http2_accept. */
void gw_guard_accept_http1(struct gw_conn *conn, h2o_accept_ctx_t *accept, struct timeval connected_at);
/* The request before is done; asks for a look at the next. */
void gw_guard_rehook_later(struct gw_conn *conn);
void gw_guard_rehook_all(struct gw_loop *loop);
void gw_guard_forget(struct gw_conn *conn); /* it closes */
void gw_guard_accept_http2(struct gw_conn *conn, h2o_accept_ctx_t *accept, struct timeval connected_at);
void gw_guard_sweep(struct gw_loop *loop, uint64_t now_ms);
/* Tells HTTP/2 clients to go, closes what is idle. */
void gw_guard_drain(struct gw_loop *loop, uint64_t now_ms);
void gw_guard_stop_input(struct gw_conn *conn, h2o_conn_t *library_conn);
/* RST_STREAM, and the stream is gone. */
void gw_guard_reset_stream(h2o_req_t *req);
/* Brings a stream whose body is still coming to where a response may begin. False when it is elsewhere. */
bool gw_guard_stop_body(h2o_req_t *req);

/* ---- server_tls.c ---- */

/* client_ca_file: NULL: clients are not asked for a certificate. */
enum base_code gw_tls_load(SSL_CTX **ret_ctx, int64_t *ret_not_after, const char *cert_file,
                           const char *key_file, const char *client_ca_file, bool http2,
                           struct base_err *err);

#endif
