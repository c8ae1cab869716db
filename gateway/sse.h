/* Server-sent events: an incremental reader for what providers send.
 *
 * What: bytes in any cut -> the data of each event. Comments, ids and event names are dropped.
 * Who:  one thread at a time. A line or an event longer than the cap ends with BASE_TOO_LARGE.
 * Source: WHATWG HTML, "Server-sent events": CR, LF and CRLF end a line; one blank after the colon is dropped; data lines are joined by LF.
 */
#ifndef GATEWAY_SSE_H
#define GATEWAY_SSE_H

#include "base/buf.h"

#define GW_SSE_EVENT_MAX (4u << 20)

struct gw_sse {
    struct base_buf line, data;
    bool after_cr, has_data, started;
};

/* Called for each complete event that has data; anything but BASE_OK stops the reader and is handed on. */
typedef enum base_code gw_sse_fn(const char *data, size_t len, void *user);

void gw_sse_init(struct gw_sse *sse);
void gw_sse_free(struct gw_sse *sse);
enum base_code gw_sse_push(struct gw_sse *sse, const char *bytes, size_t n, gw_sse_fn *on_event, void *user);

#endif
