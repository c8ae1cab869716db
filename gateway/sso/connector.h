/* Connector: the one place that opens connections to identity providers.
 *
 * What: a child process that knows the configured hosts of each provider, resolves and connects to them alone, and hands the connected
 *       descriptor over (SCM_RIGHTS). gatehouse-sso, which parses what strangers say, can then be without socket() and connect().
 *       The child has a sandbox of its own (sandbox.h): it resolves and connects, to the configured ports alone where the kernel
 *       has that, and can do nothing else. Names come from /etc/hosts and DNS: it can speak to no daemon of this machine.
 * Who:  start and allow on the main thread before the sandbox; sso_connect from any thread.
 */
#ifndef GATEWAY_SSO_CONNECTOR_H
#define GATEWAY_SSO_CONNECTOR_H

#include "gateway/sso/sso.h"

/* Forks the child: first of all, so that it holds no secret. */
enum base_code sso_connector_start(struct base_err *err);
/* Tells it the allow-list, each provider's issuer's host and its `hosts`, and seals it: it enters its sandbox, and only then serves.
 * Before our own sandbox and threads; once. BASE_UNSUPPORTED, BASE_UNAVAILABLE: it has none, the program must not go on.
 * *ret_landlock: the kernel took that, too. */
enum base_code sso_connector_allow(const struct sso_process *process, bool *ret_landlock,
                                   struct base_err *err);

/* A connected TCP socket, the caller's. BASE_DENIED: not in this provider's list. BASE_UNAVAILABLE: not found or not reached.
 * BASE_TIMEOUT. */
enum base_code sso_connect(const struct sso_provider *provider, const char *host, unsigned port,
                           unsigned timeout_ms, int *ret_fd, struct base_err *err);

/* In `hosts`: "name" (port 443), "name:port", "[v6]:port". False: not that. */
bool sso_host_parse(const char *text, char *host, size_t size, unsigned *ret_port);
/* Host and port of an http(s) URL. */
bool sso_url_host(const char *url, char *host, size_t size, unsigned *ret_port);
bool sso_host_is_loopback(const char *host);

#endif
