/* See normalize.h. */
#include "policy/normalize.h"

#include "base/str.h"

#include <stdbool.h>
#include <utf8proc.h>

/* Scripts without spaces or capital letters, none of which has a compatibility form: spared the table
 * look-up. */
static bool is_plain_other(uint32_t cp)
{
    return (cp >= 0x3041 && cp <= 0x30fa) || (cp >= 0x3400 && cp <= 0xa48c) || (cp >= 0xac00 && cp <= 0xd7a3);
}

/* The value of a decimal digit of any script. Digits stand in runs of ten from zero on (the mathematical ones
 * in five such runs). */
static uint8_t digit_of(uint32_t cp)
{
    uint32_t first = cp;

    while (first > 0 && cp - first < 50 &&
           utf8proc_category((utf8proc_int32_t)(first - 1)) == UTF8PROC_CATEGORY_ND)
        first--;
    return (uint8_t)('0' + (cp - first) % 10);
}

/* 0: becomes nothing. */
static uint8_t symbol_of(uint32_t cp)
{
    const utf8proc_property_t *property;

    if (cp < 0x80)
        return (uint8_t)cp;
    switch (cp) {
    case 0xb7:   /* middle dot */
    case 0x2022: /* bullet */
    case 0x2027: /* hyphenation point */
    case 0x22c5: /* dot operator */
    case 0x30fb: /* katakana middle dot */ return '.';
    case 0x2212: /* minus */ return '-';
    case 0x2044: /* fraction slash */
    case 0x2215: /* division slash */ return '/';
    default: break;
    }
    property = utf8proc_get_property((utf8proc_int32_t)cp);
    if (property->ignorable)
        return 0;
    switch (property->category) {
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME: return 0;
    case UTF8PROC_CATEGORY_PD: return '-';
    case UTF8PROC_CATEGORY_ZS: return ' ';
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return '\n';
    case UTF8PROC_CATEGORY_ND: return digit_of(cp);
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return cp < 0x0530 ? NORM_LETTER : NORM_OTHER; /* Latin, Greek, Cyrillic */
    default: return NORM_OTHER;
    }
}

static size_t fold(uint32_t cp, uint8_t out[NORM_SYMBOLS_MAX])
{
    utf8proc_int32_t parts[NORM_SYMBOLS_MAX];
    utf8proc_ssize_t n_parts;
    int boundary = 0;
    size_t n = 0;

    out[0] = symbol_of(cp);
    if (out[0] == 0)
        return 0;
    if (out[0] < 0x80)
        return 1;
    n_parts = utf8proc_decompose_char((utf8proc_int32_t)cp, parts, NORM_SYMBOLS_MAX,
                                      UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE, &boundary);
    if (n_parts <= 0 || n_parts > (utf8proc_ssize_t)NORM_SYMBOLS_MAX)
        return 1;
    for (utf8proc_ssize_t i = 0; i < n_parts; i++) {
        uint8_t symbol = symbol_of((uint32_t)parts[i]);

        if (symbol != 0)
            out[n++] = symbol;
    }
    return n;
}

size_t norm_step(struct norm *norm, const char *text, size_t len, uint8_t out[NORM_SYMBOLS_MAX],
                 size_t *ret_n)
{
    unsigned char c = (unsigned char)text[0];
    size_t bytes = 1, n = 1;

    if (c < 0x80) {
        out[0] = c;
        if ((c < ' ' && c != '\n' && c != '\t' && c != '\r') || c == 0x7f)
            n = 0;
    } else {
        uint32_t cp = 0;

        bytes = base_utf8_decode(text, len, &cp);
        if (is_plain_other(cp))
            out[0] = NORM_OTHER;
        else
            n = fold(cp, out);
    }
    if (n > 0)
        norm->ignored = 0;
    else if (++norm->ignored > NORM_IGNORED_MAX) {
        out[0] = NORM_OTHER;
        n = 1;
        norm->ignored = 0;
    }
    *ret_n = n;
    return bytes;
}
