/* Session cache: sessions verified moments ago, so that a page's burst of requests is one look into Redis.
 *
 * What: a fixed table, one entry per slot, the newest wins. Entries live GW_SESSION_CACHE_MS and never longer than the session.
 * Who:  any thread (one mutex).
 * Not here: revocations; whoever takes a session from here asks revocations.h.
 */
#ifndef GATEWAY_SESSION_CACHE_H
#define GATEWAY_SESSION_CACHE_H

#include "base/crypto.h"
#include "gateway/sessions.h"

struct gw_session_cache;

struct gw_session_known {
    struct gw_principal who; /* as the provider's claims gave it; tags filled */
    char provider[GW_PROVIDER_NAME_MAX];
    char directory_key[GW_SUBJECT_MAX];
    int64_t refresh_at_us;
};

struct gw_session_cache *gw_session_cache_new(unsigned keep_ms);
void gw_session_cache_free(struct gw_session_cache *cache);
bool gw_session_cache_get(struct gw_session_cache *cache, const unsigned char hash[BASE_SHA256_BYTES],
                          struct gw_session_known *ret_known);
/* valid_ms: what is left of the session. */
void gw_session_cache_put(struct gw_session_cache *cache, const unsigned char hash[BASE_SHA256_BYTES],
                          const struct gw_session_known *known, uint64_t valid_ms);

#endif
