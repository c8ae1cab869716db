/* Tests of base/crypto: published vectors, and forged boxes that must not open. */
#include "base/crypto.h"
#include "base/str.h"
#include "tap.h"

static void check_hex(const unsigned char *bytes, size_t n, const char *expected)
{
    char hex[129];

    base_hex_encode(bytes, n, hex);
    CHECK_STR(hex, expected);
}

/* FIPS 180-4 examples. */
static void test_sha256__published_vectors(void)
{
    unsigned char out[32];
    struct base_sha256 *sha = base_sha256_new();

    base_sha256("abc", 3, out);
    check_hex(out, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    base_sha256_update(sha, "a", 1);
    base_sha256_update(sha, "bc", 2);
    base_sha256_finish(sha, out);
    check_hex(out, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    base_sha256("", 0, out);
    check_hex(out, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

/* RFC 4231, test case 2. */
static void test_hmac_sha256__published_vector(void)
{
    unsigned char out[32];

    base_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, out);
    check_hex(out, 32, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

/* The check value of CRC-32C over "123456789". */
static void test_crc32c__check_value(void)
{
    CHECK_INT(base_crc32c(0, "123456789", 9), 0xe3069283u);
    CHECK_INT(base_crc32c(base_crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
}

/* The GCM specification's test case 14 (AES-256, zero key, nonce and block). */
static void test_gcm__published_vector(void)
{
    unsigned char key[32] = {0}, nonce[12] = {0}, text[16] = {0}, tag[16];

    base_gcm_seal(key, nonce, NULL, 0, text, 16, text, tag);
    check_hex(text, 16, "cea7403d4d606b6e074ec5d3baf39d18");
    check_hex(tag, 16, "d0d1c8a799996bf0265b98b5d48ab919");
    CHECK(base_gcm_open(key, nonce, NULL, 0, text, 16, text, tag) == BASE_OK);
    check_hex(text, 16, "00000000000000000000000000000000");
}

static void test_gcm_open__refuses_every_flipped_bit(void)
{
    unsigned char key[32], nonce[12], box[20], tag[16], out[20];

    base_random(key, sizeof(key));
    base_random(nonce, sizeof(nonce));
    base_gcm_seal(key, nonce, "context", 7, "twenty bytes of text", 20, box, tag);
    CHECK(base_gcm_open(key, nonce, "context", 7, box, 20, out, tag) == BASE_OK);
    CHECK(memcmp(out, "twenty bytes of text", 20) == 0);
    CHECK(base_gcm_open(key, nonce, "contexT", 7, box, 20, out, tag) == BASE_CORRUPT);
    CHECK(base_gcm_open(key, nonce, "context", 6, box, 20, out, tag) == BASE_CORRUPT);
    CHECK(base_gcm_open(key, nonce, "context", 7, box, 19, out, tag) == BASE_CORRUPT);
    for (int bit = 0; bit < 20 * 8; bit++) {
        box[bit / 8] ^= (unsigned char)(1 << bit % 8);
        CHECK(base_gcm_open(key, nonce, "context", 7, box, 20, out, tag) == BASE_CORRUPT);
        box[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    for (int bit = 0; bit < 16 * 8; bit++) {
        tag[bit / 8] ^= (unsigned char)(1 << bit % 8);
        CHECK(base_gcm_open(key, nonce, "context", 7, box, 20, out, tag) == BASE_CORRUPT);
        tag[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_sha256__published_vectors),
        CASE(test_hmac_sha256__published_vector),
        CASE(test_crc32c__check_value),
        CASE(test_gcm__published_vector),
        CASE(test_gcm_open__refuses_every_flipped_bit),
    };

    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
