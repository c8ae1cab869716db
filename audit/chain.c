/* The hash chain. See chain.h. */
#include "audit/chain.h"

#include <string.h>

struct aud_hash aud_chain_link(const struct aud_hash *prev, const void *canonical, size_t n)
{
    unsigned char link[1 + 2 * BASE_SHA256_BYTES] = {0x01};
    struct base_sha256 *sha = base_sha256_new();
    struct aud_hash hash;

    base_sha256_update(sha, "\0", 1);
    base_sha256_update(sha, canonical, n);
    memcpy(link + 1, prev->bytes, BASE_SHA256_BYTES);
    base_sha256_finish(sha, link + 1 + BASE_SHA256_BYTES);
    base_sha256(link, sizeof(link), hash.bytes);
    return hash;
}
