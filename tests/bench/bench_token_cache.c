/* What a remembered access token costs on a loop: hashing it, the cache, revocations. Prints CPU microseconds per identification.
 *
 *     bench_token_cache [tokens] [bytes]     default: 1000 tokens of 1200 bytes
 *
 * It is what gw_auth_identify_token does but for reading the header; the policy's reference is a lock and two counts more.
 */
#include "base/mem.h"
#include "gateway/revocations.h"
#include "gateway/token_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 400000u

static double cpu_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    unsigned n = argc > 1 ? (unsigned)atoi(argv[1]) : 1000, bytes = argc > 2 ? (unsigned)atoi(argv[2]) : 1200,
             good = 0;
    struct gw_token_cache *cache = gw_token_cache_new(GW_TOKEN_CACHE_SLOTS);
    struct gw_revocations *revoked = gw_revocations_new();
    char *tokens = base_alloc((size_t)n * bytes);
    unsigned char key[BASE_SHA256_BYTES];
    struct gw_token_entry entry = {.until_us = 2000000};
    double begin;

    base_random(tokens, (size_t)n * bytes);
    for (unsigned i = 0; i < 1000; i++)
        gw_revocations_add(revoked,
                           &(struct gw_revocation){
                               .kind = GW_REVOCATION_PERSON, .tag = i + 1, .at_us = 1, .until_us = 1 << 30},
                           1);
    entry.who.method = GW_AUTH_BEARER;
    for (unsigned i = 0; i < n; i++) {
        gw_token_cache_key(GW_ROUTE_API, tokens + (size_t)i * bytes, bytes, key);
        gw_token_cache_put(cache, key, 1, 1, &entry);
    }
    begin = cpu_s();
    for (unsigned i = 0; i < ROUNDS; i++) {
        gw_token_cache_key(GW_ROUTE_API, tokens + (size_t)(i % n) * bytes, bytes, key);
        good += gw_token_cache_find(cache, key, 1, 2, &entry) &&
                !gw_revocations_meet(revoked, GW_REVOCATION_PERSON, 5000 + i, 1) &&
                !gw_revocations_meet(revoked, GW_REVOCATION_SID, 5000 + i, 0) &&
                !gw_revocations_meet(revoked, GW_REVOCATION_KEY, 5000 + i, 1);
    }
    printf("{\"bench\":\"cached_bearer\",\"tokens\":%u,\"token_bytes\":%u,\"found\":%.4f,\"cpu_us\":%.3f}\n",
           n, bytes, (double)good / ROUNDS, (cpu_s() - begin) * 1e6 / ROUNDS);
    gw_token_cache_free(cache);
    gw_revocations_free(revoked);
    free(tokens);
    return good >= ROUNDS * 99 / 100 ? 0 : 1;
}
