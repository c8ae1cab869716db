/* Text helpers: UTF-8, hex, base64, numbers, constant-time comparison.
 *
 * Who: every folder, any thread; nothing here allocates.
 * Source: UTF-8 per RFC 3629 (no surrogates, no overlong forms), base64 per RFC 4648.
 */
#ifndef BASE_STR_H
#define BASE_STR_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* True when all n bytes are well-formed UTF-8. NUL bytes are valid UTF-8; who forbids them checks for them. */
bool base_utf8_valid(const char *s, size_t n);
/* Length of the longest prefix that holds no cut-off sequence at its end; an ill-formed byte counts as complete. */
size_t base_utf8_complete(const char *s, size_t n);
/* Decodes one code point of valid UTF-8 at s (n >= 1); returns its byte length. */
size_t base_utf8_decode(const char *s, size_t n, uint32_t *ret_code_point);
/* Writes 1-4 bytes; returns how many. code_point <= 0x10ffff. */
size_t base_utf8_encode(uint32_t code_point, char out[4]);

/* out: 2 * n + 1 bytes. */
void base_hex_encode(const void *bytes, size_t n, char *out);
/* hex_len must be even and fill at most out_max bytes; BASE_INVALID otherwise. */
enum base_code base_hex_decode(const char *hex, size_t hex_len, void *out, size_t out_max, size_t *ret_n);

/* base64url without padding; out: (n * 4 + 2) / 3 + 1 bytes. Returns the text length. */
size_t base_b64url_encode(const void *bytes, size_t n, char *out);
enum base_code base_b64url_decode(const char *text, size_t len, void *out, size_t out_max, size_t *ret_n);

/* Decimal digits alone, no sign or blank; BASE_INVALID, BASE_TOO_LARGE past max. */
enum base_code base_parse_u64(const char *s, size_t n, uint64_t max, uint64_t *ret_value);

/* True when equal; its time depends on n alone. */
bool base_ct_equal(const void *a, const void *b, size_t n);

/* Case-insensitive ASCII comparison of counted strings. */
bool base_ascii_ieq(const char *a, size_t a_len, const char *b, size_t b_len);

#endif
