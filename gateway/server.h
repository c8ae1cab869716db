/* Server: TLS, HTTP/1.1 and HTTP/2 on N loop threads, with the connection guard. The only door to the HTTP library: loop.c and the
 * server*.c files alone include libh2o (by server_priv.h), so that another library could take its place there.
 *
 * What: accepts connections within caps, reads whole requests within limits and deadlines, hands each to a handler on its loop,
 *       sends one-shot or streamed responses.
 * Who:  gw_http_* only on the request's loop thread; gw_server_* from the main thread.
 * Promises:
 *   - a handler sees a complete, size-checked request; its body is in memory, never in a file;
 *   - the closed callback runs exactly once per request for which it was set, on the loop; after it the gw_http is dead;
 *   - memory an abuser can hold is bounded by struct gw_server_limits; an abuser's connection is cut, others go on;
 *   - drain finishes what is in flight, accepts nothing new.
 */
#ifndef GATEWAY_SERVER_H
#define GATEWAY_SERVER_H

#include "base/err.h"
#include "gateway/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_HEADERS_MAX    100u
#define GW_REQUEST_ID_LEN 26u
#define GW_PEER_MAX       64u

struct gw_server;
struct gw_http; /* one request and its response */

/* On the request's loop. The handler answers now or later, always exactly once (send, or begin .. end/abort). */
typedef void gw_handler_fn(struct gw_http *http, void *user);
typedef void gw_closed_fn(void *user);

struct gw_server_limits {
    unsigned connections_max; /* per process */
    unsigned connections_per_address;
    unsigned requests_per_second; /* per connection, averaged over a second; past it the connection is cut */
    unsigned streams_per_connection; /* handlers running at once on one HTTP/2 connection */
    size_t header_bytes_max;         /* names and values of one request */
    unsigned headers_max;
    size_t body_bytes_max;            /* one request */
    size_t connection_body_bytes_max; /* bodies of one connection that no handler has yet, together */
    unsigned handshake_timeout_ms;
    unsigned request_timeout_ms; /* first byte of a request to its last */
    unsigned idle_timeout_ms;    /* keep-alive */
    unsigned write_timeout_ms;   /* a reader that takes nothing for so long is cut */
    size_t response_queue_max;   /* bytes written by a handler and not yet taken by the client */
    /* Memory of all request bodies together, and as much again of all responses not yet taken; 0: the default. Past it the connection
     * that holds the most is cut: of unfinished bodies, of readers that are behind. */
    size_t buffers_total_max;
};
extern const struct gw_server_limits GW_SERVER_LIMITS_DEFAULT;

struct gw_listener_options {
    const char *address; /* "127.0.0.1", "::1", "0.0.0.0", "::" */
    uint16_t port;       /* 0: any (gw_server_port tells) */
    bool tls;
    gw_handler_fn *handler;
    void *user;
};

struct gw_server_options {
    unsigned n_threads;               /* 0: the number of cores */
    bool http2;                       /* offered by ALPN */
    const char *cert_file, *key_file; /* PEM; the key's mode is checked */
    /* PEM: clients may bring a certificate of these authorities (gw_http_client_cert); one that does not hold ends the handshake. No
     * session is resumed then, so that every connection proves its certificate. NULL or "": none is asked for. */
    const char *client_ca_file;
    struct gw_server_limits limits;
    const struct gw_listener_options *listeners;
    unsigned n_listeners;
    /* on each loop thread before its first and after its last request: per-loop clients (Redis, providers) live between them */
    void (*loop_start)(struct gw_loop *loop, void *user);
    void (*loop_end)(struct gw_loop *loop, void *user);
    void *user;
};

/* Binds, loads the certificate, starts the threads. BASE_EXISTS: the address is taken (detail says which and what to do);
 * BASE_INVALID: certificate and key do not fit, or the certificate has expired. */
enum base_code gw_server_start(struct gw_server **ret_server, const struct gw_server_options *options,
                               struct base_err *err);
/* New connections use the new certificate; on failure the old one stays. */
enum base_code gw_server_reload_tls(struct gw_server *server, struct base_err *err);
/* Stops accepting, lets calls finish for at most timeout_ms, then cuts. Returns when the threads have ended. */
void gw_server_drain(struct gw_server *server, unsigned timeout_ms);
void gw_server_free(struct gw_server *server); /* after drain; NULL is allowed */
uint16_t gw_server_port(const struct gw_server *server, unsigned listener);
unsigned gw_server_n_loops(const struct gw_server *server);
struct gw_loop *gw_server_loop(const struct gw_server *server, unsigned index);
int64_t gw_server_cert_not_after(const struct gw_server *server); /* Unix seconds */

struct gw_server_stats {
    uint64_t connections_open, connections_total, requests_total;
    uint64_t refused_total_connections, refused_total_address; /* over a cap at accept */
    uint64_t cut_total_rate, cut_total_headers, cut_total_body, cut_total_slow, cut_total_stalled;
    uint64_t loop_lag_us_max, callback_us_max, turn_cpu_us_max; /* worst of the last 10 s */
    uint64_t slow_callbacks_total;                              /* that took longer than 2 ms */
};
void gw_server_get_stats(struct gw_server *server, struct gw_server_stats *ret_stats);

/* ---- the request; all pointers live until the closed callback ---- */

struct gw_loop *gw_http_loop(const struct gw_http *http);
const char *
gw_http_request_id(const struct gw_http *http); /* ours, [0-9a-z]{26}, sortable by time; never the client's */
const char *gw_http_method(const struct gw_http *http); /* NUL-terminated */
const char *gw_http_path(const struct gw_http *http);   /* as sent up to '?', not decoded; NUL-terminated */
const char *gw_http_query(const struct gw_http *http);  /* after '?', "" when none */
/* The value, NULL when absent, "" and *ret_len 0 when empty. Name in lower case. A header sent more than once: NULL, and
 * gw_http_header_count says how often. Not NUL-terminated. "host" is the authority of either protocol; the cookies that HTTP/2 sends
 * apart are one. Framing (content-length, transfer-encoding, expect, upgrade) is the library's: NULL with HTTP/1.1. */
const char *gw_http_header(const struct gw_http *http, const char *name, size_t *ret_len);
unsigned gw_http_header_count(const struct gw_http *http, const char *name);
const char *gw_http_body(const struct gw_http *http, size_t *ret_len);
const char *gw_http_peer(const struct gw_http *http); /* numeric address without port */
/* True when the connection proved a client certificate: SHA-256 of its DER. */
bool gw_http_client_cert(const struct gw_http *http, unsigned char sha256[32]);
uint64_t gw_http_arrived_us(const struct gw_http *http); /* base_mono_us at its complete arrival */

/* ---- the response ---- */

struct gw_header {
    const char *name, *value; /* lower-case name; value without CR, LF, NUL (else the header is dropped) */
};

/* One-shot; everything is copied. Every response carries x-request-id and the fixed security headers. */
void gw_http_send(struct gw_http *http, int status, const struct gw_header *headers, unsigned n_headers,
                  const void *body, size_t len);
/* Streamed: begin, any number of writes (copied), then end, or abort (the connection or stream is reset: never a clean end).
 * write: BASE_FULL when response_queue_max would be passed (the reader is too slow: abort), BASE_CANCELLED when the client is gone. */
void gw_http_begin(struct gw_http *http, int status, const struct gw_header *headers, unsigned n_headers);
enum base_code gw_http_write(struct gw_http *http, const void *data, size_t len);
void gw_http_end(struct gw_http *http);
void gw_http_abort(struct gw_http *http);
size_t gw_http_queued(const struct gw_http *http);
/* fn runs when the response is completely handed to the connection, or the client is gone, or abort: in every case. */
void gw_http_on_closed(struct gw_http *http, gw_closed_fn *fn, void *user);
bool gw_http_client_gone(const struct gw_http *http);

#endif
