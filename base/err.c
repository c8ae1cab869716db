/* Errors: filling and naming a base_err. See err.h. */
#include "base/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum base_code base_fail(struct base_err *err, enum base_code code, int sys_errno, const char *fmt, ...)
{
    assert(code != BASE_OK);
    if (err != NULL) {
        va_list args;

        err->code = code;
        err->sys_errno = sys_errno;
        va_start(args, fmt);
        vsnprintf(err->detail, sizeof(err->detail), fmt, args);
        va_end(args);
        if (sys_errno != 0) {
            size_t used = strlen(err->detail);
            char text[96];

            /* the GNU strerror_r returns a pointer that need not be the buffer */
            snprintf(err->detail + used, sizeof(err->detail) - used, ": %s",
                     strerror_r(sys_errno, text, sizeof(text)));
        }
    }
    return code;
}

enum base_code base_fail_prefix(struct base_err *err, enum base_code code, const char *fmt, ...)
{
    assert(code != BASE_OK);
    if (err != NULL) {
        char prefix[BASE_DETAIL_MAX], tail[BASE_DETAIL_MAX];
        va_list args;
        int n;

        va_start(args, fmt);
        n = vsnprintf(prefix, sizeof(prefix), fmt, args);
        va_end(args);
        memcpy(tail, err->detail, sizeof(tail));
        n = n < 0 ? 0 : n;
        n = n > (int)sizeof(prefix) - 3 ? (int)sizeof(prefix) - 3 : n; /* room for ": " and the NUL */
        memcpy(err->detail, prefix, (size_t)n);
        memcpy(err->detail + n, ": ", 3);
        strncat(err->detail, tail, sizeof(err->detail) - (size_t)n - 3);
        err->code = code;
    }
    return code;
}

const char *base_code_name(enum base_code code)
{
    switch (code) {
    case BASE_OK: return "ok";
    case BASE_INVALID: return "invalid";
    case BASE_TOO_LARGE: return "too_large";
    case BASE_NOT_FOUND: return "not_found";
    case BASE_DENIED: return "denied";
    case BASE_EXISTS: return "exists";
    case BASE_UNAVAILABLE: return "unavailable";
    case BASE_TIMEOUT: return "timeout";
    case BASE_FULL: return "full";
    case BASE_IO: return "io";
    case BASE_CORRUPT: return "corrupt";
    case BASE_UNSUPPORTED: return "unsupported";
    case BASE_CANCELLED: return "cancelled";
    case BASE_NO_MEMORY: return "no_memory";
    case BASE_INTERNAL: return "internal";
    }
    return "unknown";
}
