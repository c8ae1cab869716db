/* Log: JSON lines. See log.h. */
#include "base/log.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/str.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int log_fd = STDERR_FILENO;
static enum base_log_level log_least = BASE_LOG_INFO;

void base_log_init(int fd, enum base_log_level least)
{
    log_fd = fd;
    log_least = least;
}

static void append_str(struct base_buf *line, const char *s)
{
    size_t n = s != NULL ? strlen(s) : 0;

    if (n > 0 && base_utf8_valid(s, n))
        base_buf_append_json(line, s, n);
    else
        base_buf_append_str(line, n == 0 ? "\"\"" : "\"(not UTF-8)\"");
}

static void append_field(struct base_buf *line, const struct base_log_field *field)
{
    base_buf_printf(line, ",\"%s\":", field->key);
    switch (field->kind) {
    case BASE_LOG_STR: append_str(line, field->str); break;
    case BASE_LOG_INT: base_buf_printf(line, "%lld", (long long)field->num); break;
    case BASE_LOG_BOOL: base_buf_append_str(line, field->num ? "true" : "false"); break;
    }
}

void base_log_fields(enum base_log_level level, const char *event, const char *msg,
                     const struct base_log_field *fields)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    auto_buf struct base_buf line = BASE_BUF_INIT(BASE_LOG_LINE_MAX);
    char ts[BASE_RFC3339_MAX];

    if (log_fd < 0 || level < log_least)
        return;
    base_rfc3339(base_wall_us(), ts);
    base_buf_printf(&line, "{\"ts\":\"%s\",\"level\":\"%s\",\"event\":\"%s\",\"msg\":", ts, names[level],
                    event);
    append_str(&line, msg);
    for (; fields->key != NULL && !line.failed; fields++) {
        size_t before = line.len;

        append_field(&line, fields);
        if (line.failed || line.len > BASE_LOG_LINE_MAX - 64) { /* too long: leave the field out, say so */
            line.failed = false;
            line.len = before;
            base_buf_printf(&line, ",\"%s\":\"(too long)\"", "cut");
            break;
        }
    }
    base_buf_append_str(&line, "}\n");
    if (line.data != NULL && write(log_fd, line.data, line.len) < 0)
        return; /* nowhere to say it */
}

void base_log_err(enum base_log_level level, const char *event, const char *msg, const struct base_err *err)
{
    base_log(level, event, msg, LOG_STR("code", base_code_name(err->code)), LOG_STR("detail", err->detail),
             LOG_INT("errno", err->sys_errno));
}
