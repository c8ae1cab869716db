/* HTTP/1.1 request heads: what the HTTP library lets through and must not reach us.
 *
 * What: a second look at the raw head of a request that the library has already parsed. libh2o 2.2.5 keeps
 * Host, Content-Length and Transfer-Encoding to itself and is lenient: both lengths at once, differing
 * lengths, several Hosts (the last wins), bare LF, folded lines all pass. Each is a way to make two servers
 * see two requests (RFC 9112, sections 2.2, 3.2, 5.2, 6.1 and 6.3). Who:  server_guard.c, any thread; pure.
 */
#ifndef GATEWAY_HTTP1_HEAD_H
#define GATEWAY_HTTP1_HEAD_H

#include <stddef.h>

/* NULL when the head (which ends at the first empty line; what follows is not looked at) is clean; else a
 * sentence for the client. */
const char *gw_http1_head_flaw(const char *head, size_t len);

#endif
