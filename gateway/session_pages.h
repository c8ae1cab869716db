/* Session pages: who sees which sessions, and ends them.
 *
 *   GET    /auth/sessions              one's own: {"sessions":[{"id","started_at","last_seen_at","from","provider","current"}]}
 *   DELETE /auth/sessions/ID           ends one of one's own: 204
 *   GET    /auth/admin/sessions        administrators: everybody's; ?subject= those of one subject; &issuer= found by index
 *   DELETE /auth/admin/sessions/ID     administrators: ends any: 204, also when there was none
 *
 * Who: a handler on its loop (auth_pages.c).
 */
#ifndef GATEWAY_SESSION_PAGES_H
#define GATEWAY_SESSION_PAGES_H

#include "gateway/auth.h"

/* True when the path was one of these and has been, or will be, answered. */
bool gw_session_pages_handle(struct gw_auth *auth, struct gw_http *http);

#endif
