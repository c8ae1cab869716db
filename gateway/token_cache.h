/* Token cache: access tokens that were verified moments ago, and those that were just refused.
 *
 * What: fixed memory. An entry is found by the SHA-256 of the token and the kind of route, never by the token, which is kept nowhere. It
 *       lives until its time and only under the policy that it was made with.
 * Who:  any thread; one short lock of several.
 * Not here: revocations and the directory, which are asked with every use (auth_token.c).
 */
#ifndef GATEWAY_TOKEN_CACHE_H
#define GATEWAY_TOKEN_CACHE_H

#include "base/crypto.h"
#include "gateway/principal.h"
#include "gateway/sessions.h"

#include <stddef.h>

#define GW_TOKEN_KEEP_US     300000000ll /* a token that its provider takes back is taken no longer than this */
#define GW_TOKEN_REFUSE_US   3000000ll
#define GW_TOKEN_CACHE_SLOTS 2048u

enum gw_token_route { GW_ROUTE_API = 0, GW_ROUTE_SCIM };

struct gw_token_entry {
    struct gw_principal who;             /* method NONE: refused */
    char provider[GW_PROVIDER_NAME_MAX]; /* for the directory */
    char directory_key[GW_SUBJECT_MAX];
    int64_t until_us; /* wall clock */
};

struct gw_token_cache;
/* slots is rounded up to a whole number of sets. */
struct gw_token_cache *gw_token_cache_new(unsigned slots);
void gw_token_cache_free(struct gw_token_cache *cache); /* NULL is allowed */

void gw_token_cache_key(enum gw_token_route route, const char *token, size_t len,
                        unsigned char key[BASE_SHA256_BYTES]);
/* False: not known, over, or of another policy. */
bool gw_token_cache_find(struct gw_token_cache *cache, const unsigned char key[BASE_SHA256_BYTES],
                         uint64_t policy, int64_t now_us, struct gw_token_entry *ret_entry);
/* until_us is cut to GW_TOKEN_KEEP_US (GW_TOKEN_REFUSE_US) from now. A refusal never takes the place of a good token that still holds:
 * whoever sends rubbish pushes nobody out. */
void gw_token_cache_put(struct gw_token_cache *cache, const unsigned char key[BASE_SHA256_BYTES],
                        uint64_t policy, int64_t now_us, const struct gw_token_entry *entry);

#endif
