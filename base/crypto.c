/* Cryptography over OpenSSL 3's EVP. See crypto.h. */
#include "base/crypto.h"

#include "base/mem.h"

#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdbool.h>
#include <string.h>

/* A primitive that fails leaves nothing safe to do. */
static void must(int ok)
{
    if (ok != 1)
        abort();
}

void base_random(void *out, size_t n)
{
    must(n <= INT_MAX && RAND_bytes(out, (int)n) == 1);
}

void base_sha256(const void *data, size_t n, unsigned char out[BASE_SHA256_BYTES])
{
    must(EVP_Digest(data, n, out, NULL, EVP_sha256(), NULL));
}

/* An EVP_MD_CTX under a name of our own. */
struct base_sha256 *base_sha256_new(void)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    must(ctx != NULL && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1);
    return (struct base_sha256 *)ctx;
}

void base_sha256_update(struct base_sha256 *sha, const void *data, size_t n)
{
    must(EVP_DigestUpdate((EVP_MD_CTX *)sha, data, n));
}

void base_sha256_finish(struct base_sha256 *sha, unsigned char out[BASE_SHA256_BYTES])
{
    must(EVP_DigestFinal_ex((EVP_MD_CTX *)sha, out, NULL));
    EVP_MD_CTX_free((EVP_MD_CTX *)sha);
}

void base_hmac_sha256(const void *key, size_t key_len, const void *data, size_t n,
                      unsigned char out[BASE_SHA256_BYTES])
{
    unsigned len = 0;

    must(key_len <= INT_MAX && HMAC(EVP_sha256(), key, (int)key_len, data, n, out, &len) != NULL &&
         len == BASE_SHA256_BYTES);
}

void base_hmac_sha1(const void *key, size_t key_len, const void *data, size_t n,
                    unsigned char out[BASE_SHA1_BYTES])
{
    unsigned len = 0;

    must(key_len <= INT_MAX && HMAC(EVP_sha1(), key, (int)key_len, data, n, out, &len) != NULL &&
         len == BASE_SHA1_BYTES);
}

void base_gcm_seal(const unsigned char key[BASE_GCM_KEY_BYTES],
                   const unsigned char nonce[BASE_GCM_NONCE_BYTES], const void *aad, size_t aad_len,
                   const void *in, size_t n, void *out, unsigned char tag[BASE_GCM_TAG_BYTES])
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int len;

    must(ctx != NULL && n <= INT_MAX && aad_len <= INT_MAX);
    must(EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce));
    if (aad_len > 0)
        must(EVP_EncryptUpdate(ctx, NULL, &len, aad, (int)aad_len));
    if (n > 0)
        must(EVP_EncryptUpdate(ctx, out, &len, in, (int)n));
    must(EVP_EncryptFinal_ex(ctx, (unsigned char[16]){0}, &len));
    must(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, BASE_GCM_TAG_BYTES, tag));
    EVP_CIPHER_CTX_free(ctx);
}

enum base_code base_gcm_open(const unsigned char key[BASE_GCM_KEY_BYTES],
                             const unsigned char nonce[BASE_GCM_NONCE_BYTES], const void *aad, size_t aad_len,
                             const void *in, size_t n, void *out, const unsigned char tag[BASE_GCM_TAG_BYTES])
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    unsigned char expected[BASE_GCM_TAG_BYTES];
    bool ok;
    int len;

    must(ctx != NULL);
    memcpy(expected, tag, sizeof(expected)); /* the call wants it writable */
    ok = n <= INT_MAX && aad_len <= INT_MAX;
    ok = ok && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) == 1;
    if (aad_len > 0)
        ok = ok && EVP_DecryptUpdate(ctx, NULL, &len, aad, (int)aad_len) == 1;
    if (n > 0)
        ok = ok && EVP_DecryptUpdate(ctx, out, &len, in, (int)n) == 1;
    ok = ok && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, BASE_GCM_TAG_BYTES, expected) == 1;
    ok = ok && EVP_DecryptFinal_ex(ctx, (unsigned char[16]){0}, &len) == 1;
    EVP_CIPHER_CTX_free(ctx);
    if (!ok && n > 0)
        memset(out, 0, n);
    return ok ? BASE_OK : BASE_CORRUPT;
}

/* Slicing by one; the journal's records are small beside their fdatasync. */
uint32_t base_crc32c(uint32_t crc, const void *data, size_t n)
{
    static const uint32_t nibble[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    const unsigned char *p = data;

    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return ~crc;
}
