/* API keys. See apikey.h. */
#include "gateway/apikey.h"

#include "base/mem.h"
#include "base/str.h"

#include <string.h>

#define SECRET_BYTES 32u
#define SECRET_AT    16u /* after "gh_", the id and "_" */
#define SECRET_LEN   43u
#define CHECKSUM_AT  (SECRET_AT + SECRET_LEN)
#define CHECKSUM_LEN 6u
#define HASH_DOMAIN \
    "gatehouse api key v1:" /* the pepper serves other hashes too: none can stand for another */

_Static_assert(CHECKSUM_AT + CHECKSUM_LEN == GW_APIKEY_LEN, "layout of a key");

static const char id_alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";

static void checksum(const char *key, char out[CHECKSUM_LEN + 1])
{
    uint32_t crc = base_crc32c(0, key, CHECKSUM_AT);
    unsigned char bytes[4] = {(unsigned char)(crc >> 24), (unsigned char)(crc >> 16),
                              (unsigned char)(crc >> 8), (unsigned char)crc};

    base_b64url_encode(bytes, sizeof(bytes), out);
}

void gw_apikey_create(char out[GW_APIKEY_LEN + 1], char ret_id[GW_APIKEY_ID_LEN + 1])
{
    unsigned char random[GW_APIKEY_ID_LEN + SECRET_BYTES];

    base_random(random, sizeof(random));
    memcpy(out, "gh_", 3);
    for (unsigned i = 0; i < GW_APIKEY_ID_LEN; i++)
        out[3 + i] = id_alphabet[random[i] & 31];
    memcpy(ret_id, out + 3, GW_APIKEY_ID_LEN);
    ret_id[GW_APIKEY_ID_LEN] = '\0';
    out[SECRET_AT - 1] = '_';
    base_b64url_encode(random + GW_APIKEY_ID_LEN, SECRET_BYTES, out + SECRET_AT);
    checksum(out, out + CHECKSUM_AT);
    base_wipe(random, sizeof(random));
}

static bool id_chars_ok(const char *id)
{
    for (unsigned i = 0; i < GW_APIKEY_ID_LEN; i++)
        if (id[i] == '\0' || strchr(id_alphabet, id[i]) == NULL)
            return false;
    return true;
}

bool gw_apikey_id_valid(const char *id)
{
    return strlen(id) == GW_APIKEY_ID_LEN && id_chars_ok(id);
}

bool gw_apikey_parse(const char *text, size_t len, char ret_id[GW_APIKEY_ID_LEN + 1])
{
    unsigned char secret[SECRET_BYTES];
    char expected[CHECKSUM_LEN + 1];
    size_t n = 0;
    bool ok;

    if (len != GW_APIKEY_LEN || memcmp(text, "gh_", 3) != 0 || !id_chars_ok(text + 3) ||
        text[SECRET_AT - 1] != '_')
        return false;
    ok = base_b64url_decode(text + SECRET_AT, SECRET_LEN, secret, sizeof(secret), &n) == BASE_OK &&
         n == SECRET_BYTES;
    base_wipe(secret, sizeof(secret));
    if (!ok)
        return false;
    checksum(text, expected);
    if (memcmp(expected, text + CHECKSUM_AT, CHECKSUM_LEN) != 0)
        return false;
    if (ret_id != NULL) {
        memcpy(ret_id, text + 3, GW_APIKEY_ID_LEN);
        ret_id[GW_APIKEY_ID_LEN] = '\0';
    }
    return true;
}

void gw_apikey_hash(const struct base_secret *pepper, const char key[GW_APIKEY_LEN],
                    unsigned char out[BASE_SHA256_BYTES])
{
    char message[sizeof(HASH_DOMAIN) - 1 + GW_APIKEY_LEN];

    memcpy(message, HASH_DOMAIN, sizeof(HASH_DOMAIN) - 1);
    memcpy(message + sizeof(HASH_DOMAIN) - 1, key, GW_APIKEY_LEN);
    base_hmac_sha256(base_secret_bytes(pepper), base_secret_len(pepper), message, sizeof(message), out);
    base_wipe(message, sizeof(message));
}
