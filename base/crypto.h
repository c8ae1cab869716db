/* Cryptography: the few OpenSSL 3 calls that the project makes, each once.
 *
 * Who:  any thread. Failures of these primitives are our bugs or a broken library: they end the process, but for opening an
 *       AES-GCM box, which fails on forged bytes.
 */
#ifndef BASE_CRYPTO_H
#define BASE_CRYPTO_H

#include "base/err.h"

#include <stdint.h>

#define BASE_SHA256_BYTES    32u
#define BASE_GCM_KEY_BYTES   32u
#define BASE_GCM_NONCE_BYTES 12u
#define BASE_GCM_TAG_BYTES   16u

void base_random(void *out, size_t n);
void base_sha256(const void *data, size_t n, unsigned char out[BASE_SHA256_BYTES]);

/* SHA-256 of data that comes in parts. */
struct base_sha256;
struct base_sha256 *base_sha256_new(void);
void base_sha256_update(struct base_sha256 *sha, const void *data, size_t n);
/* Writes the digest and frees. */
void base_sha256_finish(struct base_sha256 *sha, unsigned char out[BASE_SHA256_BYTES]);

void base_hmac_sha256(const void *key, size_t key_len, const void *data, size_t n,
                      unsigned char out[BASE_SHA256_BYTES]);

/* For RFC 6238 alone, whose authenticator apps know nothing else; SHA-1's collisions do not touch HMAC. */
#define BASE_SHA1_BYTES 20u
void base_hmac_sha1(const void *key, size_t key_len, const void *data, size_t n,
                    unsigned char out[BASE_SHA1_BYTES]);

/* AES-256-GCM (NIST SP 800-38D). out: n bytes; in and out may be the same. A nonce is used once per key. */
void base_gcm_seal(const unsigned char key[BASE_GCM_KEY_BYTES],
                   const unsigned char nonce[BASE_GCM_NONCE_BYTES], const void *aad, size_t aad_len,
                   const void *in, size_t n, void *out, unsigned char tag[BASE_GCM_TAG_BYTES]);
/* BASE_CORRUPT when the tag does not fit; out then holds nothing usable. */
enum base_code base_gcm_open(const unsigned char key[BASE_GCM_KEY_BYTES],
                             const unsigned char nonce[BASE_GCM_NONCE_BYTES], const void *aad, size_t aad_len,
                             const void *in, size_t n, void *out,
                             const unsigned char tag[BASE_GCM_TAG_BYTES]);

/* CRC-32C (Castagnoli), for torn writes; not a protection against anyone. Start with crc 0. */
uint32_t base_crc32c(uint32_t crc, const void *data, size_t n);

#endif
