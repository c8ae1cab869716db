/* HTTP client: outbound requests to providers on a loop. The only file pair with libcurl.
 *
 * What: POSTs a body, hands on the answer's bytes as they come. HTTPS alone, certificates and host names always checked, no redirect is
 *       followed, no proxy from the environment.
 * Who:  one gw_http_client per loop, on its thread.
 * Promises: `done` is called exactly once per request, never after gw_http_request_cancel; deadlines hold whatever the peer does.
 */
#ifndef GATEWAY_HTTP_CLIENT_H
#define GATEWAY_HTTP_CLIENT_H

#include "base/err.h"
#include "base/secret.h"
#include "gateway/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct gw_http_client;
struct gw_http_request;

struct gw_http_client *gw_http_client_new(struct gw_loop *loop);
/* Ends what runs without calling back. */
void gw_http_client_free(struct gw_http_client *client);

struct gw_http_request_options {
    const char *url;
    const char *body; /* copied */
    size_t body_len;
    const struct base_secret *bearer; /* NULL: none; only read during start */
    const char *ca_file;              /* NULL: the system's trust store */
    const char *accept;               /* "text/event-stream" */
    unsigned connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms,
        total_timeout_ms; /* 0: 5 s, 60 s, 60 s, 600 s */
    /* Bytes of a 2xx answer. Anything but BASE_OK ends the request with that code. */
    enum base_code (*on_data)(const char *bytes, size_t n, void *user);
    /* status 0: none came. rc: BASE_OK when the peer ended the answer cleanly (whatever its status), BASE_TIMEOUT, BASE_UNAVAILABLE (could
     * not connect, TLS refused), BASE_IO (broke off), or what on_data returned. retry_after_s from a refusal's header, 0: none. */
    void (*on_done)(enum base_code rc, int status, unsigned retry_after_s, const struct base_err *err,
                    void *user);
    void *user;
};
enum base_code gw_http_request_start(struct gw_http_client *client,
                                     const struct gw_http_request_options *options,
                                     struct gw_http_request **ret_request, struct base_err *err);
void gw_http_request_cancel(struct gw_http_request *request); /* NULL is allowed */

#endif
