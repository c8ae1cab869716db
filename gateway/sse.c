/* Server-sent events reader. See sse.h. */
#include "gateway/sse.h"

#include <string.h>

void gw_sse_init(struct gw_sse *sse)
{
    *sse = (struct gw_sse){.line = BASE_BUF_INIT(GW_SSE_EVENT_MAX), .data = BASE_BUF_INIT(GW_SSE_EVENT_MAX)};
}

void gw_sse_free(struct gw_sse *sse)
{
    base_buf_free(&sse->line);
    base_buf_free(&sse->data);
}

static enum base_code dispatch(struct gw_sse *sse, gw_sse_fn *on_event, void *user)
{
    enum base_code rc = BASE_OK;

    if (sse->has_data)
        rc = on_event(sse->data.data != NULL ? sse->data.data : "", sse->data.len, user);
    base_buf_reset(&sse->data);
    sse->has_data = false;
    return rc;
}

static enum base_code end_line(struct gw_sse *sse, gw_sse_fn *on_event, void *user)
{
    const char *line = sse->line.data != NULL ? sse->line.data : "";
    size_t len = sse->line.len, skip;
    enum base_code rc = BASE_OK;

    if (!sse->started) { /* a byte order mark may stand before the first line */
        sse->started = true;
        if (len >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
            line += 3;
            len -= 3;
        }
    }
    if (len == 0) {
        rc = dispatch(sse, on_event, user);
    } else if (len >= 4 && memcmp(line, "data", 4) == 0 && (len == 4 || line[4] == ':')) {
        skip = len == 4 ? 4 : len > 5 && line[5] == ' ' ? 6 : 5;
        if (sse->has_data)
            base_buf_append_char(&sse->data, '\n');
        rc = base_buf_append(&sse->data, line + skip, len - skip);
        sse->has_data = true;
    }
    base_buf_reset(&sse->line);
    return rc;
}

enum base_code gw_sse_push(struct gw_sse *sse, const char *bytes, size_t n, gw_sse_fn *on_event, void *user)
{
    size_t i = 0;

    while (i < n) {
        size_t start = i;
        enum base_code rc;

        if (sse->after_cr && bytes[i] == '\n') { /* the second half of CRLF */
            sse->after_cr = false;
            i++;
            continue;
        }
        sse->after_cr = false;
        while (i < n && bytes[i] != '\n' && bytes[i] != '\r')
            i++;
        rc = base_buf_append(&sse->line, bytes + start, i - start);
        if (rc != BASE_OK)
            return rc;
        if (i == n)
            break;
        sse->after_cr = bytes[i] == '\r';
        i++;
        rc = end_line(sse, on_event, user);
        if (rc != BASE_OK)
            return rc;
    }
    return BASE_OK;
}
