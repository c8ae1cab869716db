/* Form fields: application/x-www-form-urlencoded, as queries and form posts carry them.
 *
 * What: one named field out of a text. Strict: what could be read in two ways is refused.
 * Who:  any thread.
 * Source: WHATWG URL standard, section 5.1.
 */
#ifndef GATEWAY_FORM_H
#define GATEWAY_FORM_H

#include "base/err.h"

#include <stddef.h>

#define GW_FORM_MAX      4096u
#define GW_LONG_FORM_MAX (1u << 20) /* with a SAML response or a logout token */

/* Decodes the field into out (NUL-terminated). BASE_NOT_FOUND; BASE_INVALID: the field is there twice, a broken %-escape, a NUL;
 * BASE_TOO_LARGE: text over GW_FORM_MAX or a value that does not fit. */
enum base_code gw_form_get(const char *text, size_t len, const char *name, char *out, size_t out_max);

/* The same for long values, of at most max bytes: *ret_value is owned by the caller. */
enum base_code gw_form_dup(const char *text, size_t len, const char *name, size_t max, char **ret_value);

#endif
