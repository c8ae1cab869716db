/* Form fields. See form.h. */
#include "gateway/form.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

/* Decodes one name or value. */
static enum base_code decode(const char *s, size_t len, char *out, size_t out_max)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)s[i];
        size_t got;

        if (byte == '+')
            byte = ' ';
        else if (byte == '%') {
            if (len - i < 3 || base_hex_decode(s + i + 1, 2, &byte, 1, &got) != BASE_OK)
                return BASE_INVALID;
            i += 2;
        }
        if (byte == '\0')
            return BASE_INVALID;
        if (n + 1 >= out_max)
            return BASE_TOO_LARGE;
        out[n++] = (char)byte;
    }
    out[n] = '\0';
    return BASE_OK;
}

static bool name_is(const char *s, size_t len, const char *name)
{
    char plain[64];

    return decode(s, len, plain, sizeof(plain)) == BASE_OK && strcmp(plain, name) == 0;
}

/* Where the one value of a name is. */
static enum base_code find(const char *text, size_t len, const char *name, const char **ret_value,
                           size_t *ret_len)
{
    const char *value = NULL;

    for (size_t at = 0; at < len;) {
        const char *amp = memchr(text + at, '&', len - at);
        size_t end = amp != NULL ? (size_t)(amp - text) : len;
        const char *eq = memchr(text + at, '=', end - at);
        size_t name_end = eq != NULL ? (size_t)(eq - text) : end;

        if (name_is(text + at, name_end - at, name)) {
            if (value != NULL)
                return BASE_INVALID;
            value = eq != NULL ? eq + 1 : text + end;
            *ret_len = eq != NULL ? end - name_end - 1 : 0;
        }
        at = end + 1;
    }
    *ret_value = value;
    return value != NULL ? BASE_OK : BASE_NOT_FOUND;
}

enum base_code gw_form_get(const char *text, size_t len, const char *name, char *out, size_t out_max)
{
    const char *value;
    size_t value_len = 0;
    enum base_code rc = len > GW_FORM_MAX ? BASE_TOO_LARGE : find(text, len, name, &value, &value_len);

    return rc == BASE_OK ? decode(value, value_len, out, out_max) : rc;
}

enum base_code gw_form_dup(const char *text, size_t len, const char *name, size_t max, char **ret_value)
{
    const char *value;
    size_t value_len = 0;
    char *copy;
    enum base_code rc = len > GW_LONG_FORM_MAX ? BASE_TOO_LARGE : find(text, len, name, &value, &value_len);

    if (rc != BASE_OK)
        return rc;
    copy = base_alloc((value_len < max ? value_len : max) + 1);
    rc = decode(value, value_len, copy, (value_len < max ? value_len : max) + 1);
    if (rc == BASE_OK)
        *ret_value = copy;
    else
        free(copy);
    return rc;
}
