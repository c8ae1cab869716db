/* Page: the few HTML pages that the gateway makes itself (sign-in, failures). No script, nothing from elsewhere, no referrer.
 *
 * Who: a handler on its loop.
 */
#ifndef GATEWAY_PAGE_H
#define GATEWAY_PAGE_H

#include "base/buf.h"
#include "gateway/server.h"

#define GW_PAGE_MAX 65536u

extern const char gw_page_css[]; /* of /auth/page.css */

void gw_page_escape(struct base_buf *out, const char *text);
/* Begins a page with a heading and a sentence; the caller may append more of the body; send ends it. extra: NULL, or one more header. */
void gw_page_begin(struct base_buf *page, const char *heading, const char *sentence);
void gw_page_send(struct gw_http *http, int status, struct base_buf *page, const struct gw_header *extra);

#endif
