/* Capped growable byte buffer.
 *
 * What: bytes that grow up to a limit named when the buffer is made; past it an append fails with BASE_TOO_LARGE and
 *       the buffer keeps what it had (an append is all or nothing). A failed buffer stays failed until reset, so
 *       that a run of appends needs one check at its end.
 * Who:  every folder; one thread at a time.
 * Not here: secrets (secret.h).
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct base_buf {
    char *data; /* NUL after len when not NULL */
    size_t len;
    size_t cap; /* allocated bytes, the NUL not counted */
    size_t max; /* len never passes it */
    bool failed;
};

#define BASE_BUF_INIT(max_bytes) ((struct base_buf){.max = (max_bytes)})

void base_buf_init(struct base_buf *buf, size_t max_bytes);
/* Frees the memory; the buffer is then as after init. */
void base_buf_free(struct base_buf *buf);
/* Empties it and keeps the memory; clears `failed`. */
void base_buf_reset(struct base_buf *buf);

/* BASE_TOO_LARGE past max. */
enum base_code base_buf_append(struct base_buf *buf, const void *bytes, size_t n);
enum base_code base_buf_append_str(struct base_buf *buf, const char *s);
enum base_code base_buf_append_char(struct base_buf *buf, char c);
enum base_code base_buf_printf(struct base_buf *buf, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* A JSON string literal with its quotes. `s` must be valid UTF-8; control bytes, quote, backslash, U+2028/9 and '<' are
 * escaped, so that the text is safe inside an SSE line and inside HTML. */
enum base_code base_buf_append_json(struct base_buf *buf, const char *s, size_t n);

/* Room for n more bytes at data + len; the caller writes them and adds to len. NULL past max. */
char *base_buf_reserve(struct base_buf *buf, size_t n);
/* Drops the first n bytes (n <= len). */
void base_buf_consume(struct base_buf *buf, size_t n);

/* The bytes as an owned NUL-terminated string (free()); the buffer is empty after. Never NULL. */
char *base_buf_take(struct base_buf *buf);

#define auto_buf __attribute__((cleanup(base_buf_free)))

#endif
