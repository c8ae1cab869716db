/* Session tokens: cookies, sign-in link tokens, and the defence against cross-site requests.
 *
 * What: a token is 32 random bytes and the first 16 of their HMAC under the pepper, in base64url: 64 characters. The second part
 *       lets a forged token be refused without a database. Only a keyed hash of a token is stored. The CSRF token of a session is
 *       derived from its token: whoever reads the database knows neither.
 * Who:  any thread; nothing allocates, nothing blocks.
 * Not here: whose session it is (store.h), HTTP (auth.c).
 */
#ifndef GATEWAY_SESSION_H
#define GATEWAY_SESSION_H

#include "base/crypto.h"
#include "base/secret.h"

#include <stdbool.h>

#define GW_COOKIE_NAME \
    "__Host-gatehouse" /* RFC 6265bis 4.1.3.2: Secure, no Domain, Path=/ or the browser refuses it */
#define GW_TOKEN_LEN         64u
#define GW_CSRF_LEN          43u
#define GW_SET_COOKIE_MAX    192u
#define GW_COOKIE_HEADER_MAX 8192u
#define GW_ORIGIN_MAX        256u

/* Neither kind of token can be used as the other. */
enum gw_token_kind { GW_TOKEN_SESSION = 0, GW_TOKEN_LINK };

/* A new token; the caller wipes it. */
void gw_token_create(const struct base_secret *pepper, enum gw_token_kind kind, char out[GW_TOKEN_LEN + 1]);
/* True when the token was made by us, whether it still holds or not. */
bool gw_token_genuine(const struct base_secret *pepper, enum gw_token_kind kind, const char *token,
                      size_t len);
/* The hash that is stored. */
void gw_token_hash(const struct base_secret *pepper, enum gw_token_kind kind, const char token[GW_TOKEN_LEN],
                   unsigned char out[BASE_SHA256_BYTES]);

void gw_csrf_derive(const struct base_secret *pepper, const char session[GW_TOKEN_LEN],
                    char out[GW_CSRF_LEN + 1]);
bool gw_csrf_matches(const struct base_secret *pepper, const char session[GW_TOKEN_LEN], const char *token,
                     size_t len);

/* Looks for our cookie in a Cookie header. Returns how often it is there: 0 none, 1 fills ret_value (borrowed), more is ambiguous.
 * A header over GW_COOKIE_HEADER_MAX counts as ambiguous. */
unsigned gw_cookie_find(const char *header, size_t len, const char **ret_value, size_t *ret_len);
/* The Set-Cookie value; token NULL removes the cookie. */
void gw_cookie_render(const char *token, unsigned max_age_s, char out[GW_SET_COOKIE_MAX]);

/* "scheme://host[:port]" as browsers send it: http or https, lower case, no path, no slash at the end, no default port
 * (they leave it out, so an origin that names it would match nothing). */
bool gw_origin_valid(const char *origin);

/* What a browser says about where a request comes from. Absent headers: NULL. */
struct gw_origin_facts {
    const char *origin, *sec_fetch_site;
    size_t origin_len, sec_fetch_site_len;
};
/* True when a state-changing request comes from our own page: Origin is there and ours, and Sec-Fetch-Site, when sent, says
 * same-origin. form: a navigation by a form of a page under Referrer-Policy no-referrer sends "Origin: null" (Fetch standard,
 * "append a request Origin header"); it is then accepted if Sec-Fetch-Site, which no script can set, says same-origin. */
bool gw_origin_ours(const struct gw_origin_facts *facts, const char *public_origin, bool form);

#endif
