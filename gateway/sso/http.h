/* HTTP of gatehouse-sso: blocking GET and POST to the configured hosts of a provider.
 *
 * What: libcurl over connections that the connector made (connector.h): this process has no sockets of its own. No redirect is followed,
 *       no proxy, no cookie; https with certificate and host name checked, http for loopback addresses alone.
 * Who:  a provider's threads; blocks until the deadline.
 */
#ifndef GATEWAY_SSO_HTTP_H
#define GATEWAY_SSO_HTTP_H

#include "gateway/sso/sso.h"

#define SSO_ANSWER_MAX (512u << 10)
#define SSO_HTTP_MS    8000u /* one request, when the deadline leaves more */

struct sso_http_answer {
    long status;
    char content_type[96]; /* lower case, without parameters */
    char *body;            /* NUL after len; owned */
    size_t len;
    long max_age_s; /* Cache-Control: max-age, -1 when not said */
};
void sso_http_answer_free(struct sso_http_answer *answer);

/* Before the sandbox: reads the system's trust store. */
enum base_code sso_http_init(struct base_err *err);

/* kind: a word of proto.h, by which it is counted. form NULL: GET; else POST of application/x-www-form-urlencoded.
 * authorization: the header's whole value or NULL.
 * BASE_OK whatever the status. BASE_DENIED: the URL's host is not configured, or http to a host that is no loopback address.
 * BASE_TIMEOUT, BASE_UNAVAILABLE, BASE_TOO_LARGE. detail names host and reason. */
enum base_code sso_http(struct sso_ctx *ctx, struct sso_provider *provider, const char *kind, const char *url,
                        const char *accept, const char *authorization, const char *form,
                        struct sso_http_answer *ret_answer, struct base_err *err);
/* Before a thread that made requests ends. */
void sso_http_thread_end(void);
/* True for an URL that sso_http would take: https, or http to a loopback address; no user, no fragment. */
bool sso_url_ok(const char *url);

#endif
