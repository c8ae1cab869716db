/* Text helpers. See str.h. */
#include "base/str.h"

#include <string.h>

/* Bytes of the sequence that starts with c, 0 when c cannot start one. */
static size_t lead_length(unsigned char c)
{
    if (c < 0x80)
        return 1;
    if (c >= 0xc2 && c <= 0xdf)
        return 2;
    if (c >= 0xe0 && c <= 0xef)
        return 3;
    if (c >= 0xf0 && c <= 0xf4)
        return 4;
    return 0;
}

/* The second byte's range narrows for some leads: overlong forms, surrogates and values past U+10FFFF. */
static bool second_valid(unsigned char lead, unsigned char second)
{
    switch (lead) {
    case 0xe0: return second >= 0xa0 && second <= 0xbf;
    case 0xed: return second >= 0x80 && second <= 0x9f;
    case 0xf0: return second >= 0x90 && second <= 0xbf;
    case 0xf4: return second >= 0x80 && second <= 0x8f;
    default: return (second & 0xc0) == 0x80;
    }
}

bool base_utf8_valid(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s, *end = p + n;

    while (p < end) {
        uint64_t word;
        size_t len;

        while ((size_t)(end - p) >= sizeof(word)) { /* eight ASCII bytes at a time */
            memcpy(&word, p, sizeof(word));
            if ((word & 0x8080808080808080u) != 0)
                break;
            p += sizeof(word);
        }
        if (p == end)
            break;
        len = lead_length(*p);
        if (len == 0 || (size_t)(end - p) < len)
            return false;
        if (len > 1 && !second_valid(p[0], p[1]))
            return false;
        for (size_t i = 2; i < len; i++)
            if ((p[i] & 0xc0) != 0x80)
                return false;
        p += len;
    }
    return true;
}

size_t base_utf8_complete(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        size_t len = lead_length(c);

        if ((c & 0xc0) == 0x80)
            continue; /* a continuation byte: its lead is further back */
        return len > back ? n - back : n;
    }
    return n;
}

size_t base_utf8_decode(const char *s, size_t n, uint32_t *ret_code_point)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t len = lead_length(*p);
    uint32_t cp;

    if (len <= 1 || len > n) {
        *ret_code_point = *p;
        return 1;
    }
    cp = *p & (0xffu >> (len + 1));
    for (size_t i = 1; i < len; i++)
        cp = cp << 6 | (p[i] & 0x3fu);
    *ret_code_point = cp;
    return len;
}

size_t base_utf8_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

void base_hex_encode(const void *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *p = bytes;

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

enum base_code base_hex_decode(const char *hex, size_t hex_len, void *out, size_t out_max, size_t *ret_n)
{
    unsigned char *p = out;

    if (hex_len % 2 != 0 || hex_len / 2 > out_max)
        return BASE_INVALID;
    for (size_t i = 0; i < hex_len / 2; i++) {
        int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);

        if (high < 0 || low < 0)
            return BASE_INVALID;
        p[i] = (unsigned char)(high << 4 | low);
    }
    *ret_n = hex_len / 2;
    return BASE_OK;
}

size_t base_b64url_encode(const void *bytes, size_t n, char *out)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const unsigned char *p = bytes;
    size_t len = 0;

    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t v =
            (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);

        out[len++] = alphabet[v >> 18];
        out[len++] = alphabet[v >> 12 & 63];
        if (left > 1)
            out[len++] = alphabet[v >> 6 & 63];
        if (left > 2)
            out[len++] = alphabet[v & 63];
    }
    out[len] = '\0';
    return len;
}

static int b64url_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '-')
        return 62;
    if (c == '_')
        return 63;
    return -1;
}

enum base_code base_b64url_decode(const char *text, size_t len, void *out, size_t out_max, size_t *ret_n)
{
    unsigned char *p = out;
    uint32_t acc = 0;
    unsigned bits = 0;
    size_t n = 0;

    if (len % 4 == 1)
        return BASE_INVALID;
    for (size_t i = 0; i < len; i++) {
        int v = b64url_value(text[i]);

        if (v < 0)
            return BASE_INVALID;
        acc = acc << 6 | (uint32_t)v;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            if (n == out_max)
                return BASE_INVALID;
            p[n++] = (unsigned char)(acc >> bits);
            acc &= (1u << bits) - 1;
        }
    }
    if (acc != 0) /* stray bits would give one value two spellings */
        return BASE_INVALID;
    *ret_n = n;
    return BASE_OK;
}

enum base_code base_parse_u64(const char *s, size_t n, uint64_t max, uint64_t *ret_value)
{
    uint64_t value = 0;

    if (n == 0)
        return BASE_INVALID;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return BASE_INVALID;
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(s[i] - '0'), &value))
            return BASE_TOO_LARGE;
    }
    if (value > max)
        return BASE_TOO_LARGE;
    *ret_value = value;
    return BASE_OK;
}

bool base_ct_equal(const void *a, const void *b, size_t n)
{
    const volatile unsigned char *p = a, *q = b;
    unsigned char diff = 0;

    for (size_t i = 0; i < n; i++)
        diff |= p[i] ^ q[i];
    return diff == 0;
}

static char ascii_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

bool base_ascii_ieq(const char *a, size_t a_len, const char *b, size_t b_len)
{
    if (a_len != b_len)
        return false;
    for (size_t i = 0; i < a_len; i++)
        if (ascii_lower(a[i]) != ascii_lower(b[i]))
            return false;
    return true;
}
