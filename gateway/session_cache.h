/* Session cache: sessions verified moments ago, so that a page's burst of requests is one query.
 *
 * What: a fixed table, one entry per slot, the newest wins. Entries live GW_SESSION_CACHE_MS and never longer than the session.
 * Who:  any thread (one mutex).
 * Promises: after gw_session_cache_clear nothing verified before is answered, nor kept if its query was still under way.
 */
#ifndef GATEWAY_SESSION_CACHE_H
#define GATEWAY_SESSION_CACHE_H

#include "gateway/identity_sql.h"

struct gw_session_cache;

struct gw_session_cache *gw_session_cache_new(unsigned keep_ms);
void gw_session_cache_free(struct gw_session_cache *cache);
bool gw_session_cache_get(struct gw_session_cache *cache, const unsigned char hash[BASE_SHA256_BYTES],
                          struct gw_session *ret_session);
/* Taken before a query, given back with its answer: a clear in between makes put a no-op. */
uint64_t gw_session_cache_generation(struct gw_session_cache *cache);
void gw_session_cache_put(struct gw_session_cache *cache, const unsigned char hash[BASE_SHA256_BYTES],
                          const struct gw_session *session, uint64_t generation);
void gw_session_cache_clear(struct gw_session_cache *cache);

#endif
