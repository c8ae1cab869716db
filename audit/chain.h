/* The hash chain of one instance: domain-separated SHA-256 as in RFC 6962 section 2.1, linked instead of
 * treed.
 *
 *     leaf(record)  = SHA-256(0x00 || canonical)
 *     hash(record)  = SHA-256(0x01 || hash(record before) || leaf(record));  before the first: 32 zero bytes
 */
#ifndef AUDIT_CHAIN_H
#define AUDIT_CHAIN_H

#include "base/crypto.h"

#include <stddef.h>

struct aud_hash {
    unsigned char bytes[BASE_SHA256_BYTES];
};

struct aud_hash aud_chain_link(const struct aud_hash *prev, const void *canonical, size_t n);
#define AUD_CHAIN_START ((struct aud_hash){{0}})

#endif
