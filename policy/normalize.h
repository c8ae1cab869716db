/* Normalise: text as the detectors see it, so that disguises do not help.
 *
 * What: each character becomes zero or more symbols of one byte, read together with the bytes that they came
 * from. Compatibility forms (full-width, circled, mathematical) and the digits of every script become ASCII,
 * accents fall away, dashes become '-', blanks ' ', middle dots '.'; zero-width characters, soft hyphens,
 * combining marks and control bytes become nothing. Who:  policy/; pure. normalize.c is the only file that
 * includes utf8proc. Limits: after NORM_IGNORED_MAX characters that become nothing the next one is
 * NORM_OTHER, so that what the stream holds is bounded. Not here: look-alike letters of other scripts
 * (Cyrillic A): a checksum or fixed prefix with such a letter in it is not recognised.
 */
#ifndef POLICY_NORMALIZE_H
#define POLICY_NORMALIZE_H

#include <stddef.h>
#include <stdint.h>

#define NORM_LETTER      0x80u /* a letter of an alphabetic script that has no ASCII form */
#define NORM_OTHER       0x81u /* anything else */
#define NORM_SYMBOLS_MAX 20u   /* from one character */
#define NORM_IGNORED_MAX 8u

struct norm {
    unsigned ignored; /* characters in a row that became nothing */
};

/* Reads one character of valid UTF-8 at text (len >= 1): returns its bytes, 1 to 4, and its symbols in out.
 */
size_t norm_step(struct norm *norm, const char *text, size_t len, uint8_t out[NORM_SYMBOLS_MAX],
                 size_t *ret_n);

#endif
