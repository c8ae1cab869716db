/* Log: JSON lines on one file descriptor.
 *
 * What: one event per line, with a fixed event name and typed fields. There is no field kind for prompts, headers or
 *       tokens, so that they cannot be logged by accident. Strings are JSON-escaped: no line can be forged.
 * Who:  gateway/ and audit/ threads; base, policy and engine return detail and do not log.
 * Promises: one write(2) per line, whole or cut at BASE_LOG_LINE_MAX; never blocks on a lock held during I/O.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/err.h"

#include <stdint.h>

#define BASE_LOG_LINE_MAX 4096

enum base_log_level { BASE_LOG_DEBUG, BASE_LOG_INFO, BASE_LOG_WARN, BASE_LOG_ERROR };

struct base_log_field {
    const char *key; /* NULL ends a list */
    enum { BASE_LOG_STR, BASE_LOG_INT, BASE_LOG_BOOL } kind;
    const char *str;
    int64_t num;
};

#define LOG_STR(k, v)  ((struct base_log_field){.key = (k), .kind = BASE_LOG_STR, .str = (v)})
#define LOG_INT(k, v)  ((struct base_log_field){.key = (k), .kind = BASE_LOG_INT, .num = (int64_t)(v)})
#define LOG_BOOL(k, v) ((struct base_log_field){.key = (k), .kind = BASE_LOG_BOOL, .num = (v)})

/* Before threads start. fd -1 silences. */
void base_log_init(int fd, enum base_log_level least);

void base_log_fields(enum base_log_level level, const char *event, const char *msg,
                     const struct base_log_field *fields);
/* base_log(BASE_LOG_INFO, "policy.loaded", "policy is active", LOG_STR("hash", h), LOG_INT("roles", n)); */
#define base_log(level, event, msg, ...) \
    base_log_fields(level, event, msg,   \
                    (const struct base_log_field[]){__VA_ARGS__ __VA_OPT__(, ){.key = NULL}})
/* The same with an error's code and detail as fields. */
void base_log_err(enum base_log_level level, const char *event, const char *msg, const struct base_err *err);

#endif
