/* API keys: their text and their hash.
 *
 * What: "gh_" + 12 characters of key id + "_" + 43 of secret (32 random bytes, base64url) + 6 of checksum (CRC-32C, base64url).
 *       The fixed start and the checksum let secret scanners find a leaked key and let us refuse a mistyped one before any look-up;
 *       the checksum proves nothing. The key id is public: it stands in lists, logs and records.
 * Who:  any thread.
 * Not here: who a key belongs to (store.h).
 */
#ifndef GATEWAY_APIKEY_H
#define GATEWAY_APIKEY_H

#include "base/crypto.h"
#include "base/secret.h"

#include <stdbool.h>

#define GW_APIKEY_ID_LEN 12u
#define GW_APIKEY_PREFIX "gh_"
#define GW_APIKEY_LEN    65u

/* A new key. The caller wipes `out` once it was shown. */
void gw_apikey_create(char out[GW_APIKEY_LEN + 1], char ret_id[GW_APIKEY_ID_LEN + 1]);

/* True when text has a key's form and its checksum fits; ret_id may be NULL. */
bool gw_apikey_parse(const char *text, size_t len, char ret_id[GW_APIKEY_ID_LEN + 1]);

/* True for 12 characters of a-z and 2-7. */
bool gw_apikey_id_valid(const char *id);

/* What is stored and looked up: HMAC-SHA-256 under the pepper, which is not in the database. */
void gw_apikey_hash(const struct base_secret *pepper, const char key[GW_APIKEY_LEN],
                    unsigned char out[BASE_SHA256_BYTES]);

#endif
