/* Capped growable byte buffer. See buf.h. */
#include "base/buf.h"

#include "base/mem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void base_buf_init(struct base_buf *buf, size_t max_bytes)
{
    *buf = BASE_BUF_INIT(max_bytes);
}

void base_buf_free(struct base_buf *buf)
{
    size_t max = buf->max;

    free(buf->data);
    *buf = BASE_BUF_INIT(max);
}

void base_buf_reset(struct base_buf *buf)
{
    buf->len = 0;
    buf->failed = false;
    if (buf->data != NULL)
        buf->data[0] = '\0';
}

char *base_buf_reserve(struct base_buf *buf, size_t n)
{
    size_t need, cap;

    if (buf->failed || n > buf->max || buf->len > buf->max - n) {
        buf->failed = true;
        return NULL;
    }
    need = buf->len + n;
    if (need > buf->cap || buf->data == NULL) {
        cap = buf->cap < 64 ? 64 : buf->cap;
        while (cap < need)
            cap = cap > buf->max / 2 ? buf->max : cap * 2;
        if (cap < need)
            cap = need;
        buf->data = base_realloc(buf->data, cap + 1);
        buf->cap = cap;
        buf->data[buf->len] = '\0';
    }
    return buf->data + buf->len;
}

enum base_code base_buf_append(struct base_buf *buf, const void *bytes, size_t n)
{
    char *room = base_buf_reserve(buf, n);

    if (room == NULL)
        return BASE_TOO_LARGE;
    if (n > 0)
        memcpy(room, bytes, n);
    buf->len += n;
    buf->data[buf->len] = '\0';
    return BASE_OK;
}

enum base_code base_buf_append_str(struct base_buf *buf, const char *s)
{
    return base_buf_append(buf, s, strlen(s));
}

enum base_code base_buf_append_char(struct base_buf *buf, char c)
{
    return base_buf_append(buf, &c, 1);
}

enum base_code base_buf_printf(struct base_buf *buf, const char *fmt, ...)
{
    va_list args;
    char *room;
    int n;

    va_start(args, fmt);
    n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    assert(n >= 0);
    room = base_buf_reserve(buf, (size_t)n);
    if (room == NULL)
        return BASE_TOO_LARGE;
    va_start(args, fmt);
    vsnprintf(room, (size_t)n + 1, fmt, args);
    va_end(args);
    buf->len += (size_t)n;
    return BASE_OK;
}

enum base_code base_buf_append_json(struct base_buf *buf, const char *s, size_t n)
{
    size_t start = 0;

    base_buf_append_char(buf, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool separator = c == 0xe2 && i + 2 < n && (unsigned char)s[i + 1] == 0x80 &&
                         ((unsigned char)s[i + 2] & 0xfe) == 0xa8;

        if (c >= 0x20 && c != '"' && c != '\\' && c != '<' && c != 0x7f && !separator)
            continue;
        base_buf_append(buf, s + start, i - start);
        if (separator) {
            base_buf_append_str(buf, (unsigned char)s[i + 2] == 0xa8 ? "\\u2028" : "\\u2029");
            i += 2;
        } else if (c == '"' || c == '\\') {
            base_buf_append_char(buf, '\\');
            base_buf_append_char(buf, (char)c);
        } else if (c == '\n') {
            base_buf_append_str(buf, "\\n");
        } else {
            base_buf_printf(buf, "\\u%04x", c);
        }
        start = i + 1;
    }
    base_buf_append(buf, s + start, n - start);
    base_buf_append_char(buf, '"');
    return buf->failed ? BASE_TOO_LARGE : BASE_OK;
}

void base_buf_consume(struct base_buf *buf, size_t n)
{
    assert(n <= buf->len);
    if (n == 0)
        return;
    memmove(buf->data, buf->data + n, buf->len - n);
    buf->len -= n;
    buf->data[buf->len] = '\0';
}

char *base_buf_take(struct base_buf *buf)
{
    char *data = buf->data != NULL ? buf->data : base_memdup0("", 0);

    buf->data = NULL;
    buf->len = buf->cap = 0;
    return data;
}
