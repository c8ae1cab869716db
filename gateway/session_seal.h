/* Session seal: a session's record as sealed bytes, and back.
 *
 * What: AES-256-GCM under a key derived from the pepper; the hash of the session's token stands inside, so that a record that
 *       was copied under another token's name is refused. Layout, version 1:
 *           version (1) | nonce (12) | sealed: hash (32), fields | tag (16)
 * Who:  any thread. Pure but for the random nonce.
 * Promises: any bytes may be given to open: a record comes out whole or not at all; at most GW_SEAL_MAX bytes either way.
 */
#ifndef GATEWAY_SESSION_SEAL_H
#define GATEWAY_SESSION_SEAL_H

#include "base/buf.h"
#include "base/crypto.h"
#include "base/secret.h"
#include "gateway/sessions.h"

#define GW_SEAL_MAX 49152u

void gw_seal_key(const struct base_secret *pepper, unsigned char out[BASE_GCM_KEY_BYTES]);
/* BASE_TOO_LARGE: longer than GW_SEAL_MAX. out (at most GW_SEAL_MAX) must be empty. */
enum base_code gw_session_seal(const unsigned char key[BASE_GCM_KEY_BYTES],
                               const unsigned char hash[BASE_SHA256_BYTES],
                               const struct gw_session_record *record, struct base_buf *out);
/* BASE_CORRUPT: not sealed by us, for this hash, in this version. ret_record: gw_session_record_free. No tags are filled. */
enum base_code gw_session_open(const unsigned char key[BASE_GCM_KEY_BYTES],
                               const unsigned char hash[BASE_SHA256_BYTES], const void *bytes, size_t len,
                               struct gw_session_record *ret_record);
/* The fields inside, for the fuzzer: what has passed the seal. */
enum base_code gw_session_decode(const unsigned char *bytes, size_t len,
                                 struct gw_session_record *ret_record);

#endif
