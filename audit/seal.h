/* Sealing: what is encrypted under which key, and the keys of persons.
 *
 *   content      AES-256-GCM under the person's data key; AAD: instance, request, kind, pseudonym, key id
 *   a data key   AES-256-GCM under the KEK; AAD: pseudonym, key id
 *   a mapping    AES-256-GCM under HMAC-SHA-256(KEK, "gatehouse mapping v1"); AAD: pseudonym
 *
 * A data key is made for a person when this process first seals content of theirs, and again after
 * AUD_KEY_LIFE_S or when the cache dropped it: a person has many keys over time, each found by its id. So the
 * writer never needs to read a key back, one key seals few messages (random nonces stay far from their
 * birthday bound), and erasing a person is deleting their rows.
 *
 * Who: the cache: the audit thread alone. Wrapping, opening and the pseudonym: any thread.
 */
#ifndef AUDIT_SEAL_H
#define AUDIT_SEAL_H

#include "audit/record.h"

#include "base/secret.h"

#define AUD_KEY_LIFE_S         86400u
#define AUD_MAPPING_MAX        (4u + 2u * AUD_TEXT_MAX)
#define AUD_WRAPPED_BYTES      (BASE_GCM_KEY_BYTES + BASE_GCM_TAG_BYTES)
#define AUD_MAPPING_SEALED_MAX (AUD_MAPPING_MAX + BASE_GCM_TAG_BYTES)

struct aud_person {
    char pseudonym[AUD_PSEUDONYM_MAX];
    unsigned char key_id[AUD_KEY_ID_BYTES];
    unsigned char key[BASE_GCM_KEY_BYTES];
    uint64_t made_ms; /* monotonic; 0: the slot is free */
    uint64_t used;    /* for choosing whom to drop */
    uint64_t seq;     /* of its key record: forgotten again when that did not become durable */
};

struct aud_sealer;

/* kek: BASE_GCM_KEY_BYTES; pseudonym_key: at least 32 bytes. Both are copied into wiped memory. */
struct aud_sealer *aud_sealer_new(const struct base_secret *kek, const struct base_secret *pseudonym_key,
                                  unsigned epoch);
void aud_sealer_free(struct aud_sealer *sealer);

unsigned aud_sealer_epoch(const struct aud_sealer *sealer);
void aud_sealer_pseudonym(const struct aud_sealer *sealer, const char *issuer, const char *subject,
                          char out[AUD_PSEUDONYM_MAX]);

/* The person's current key; *ret_new: it was made just now, and its key record must be written before what it
 * seals. */
struct aud_person *aud_sealer_person(struct aud_sealer *sealer, const char *pseudonym, uint64_t now_ms,
                                     bool *ret_new);
/* Forgets the keys whose record has this sequence number or a later one. */
void aud_sealer_forget_from(struct aud_sealer *sealer, uint64_t seq);

/* out: n + BASE_GCM_TAG_BYTES. Fill f->nonce, key_id, payload_len and payload_sha256. f already has instance,
 * kind and texts. */
void aud_seal_content(const struct aud_person *person, struct aud_fields *f, const void *content, size_t n,
                      unsigned char *out);
void aud_seal_key(const struct aud_sealer *sealer, const struct aud_person *person, struct aud_fields *f,
                  unsigned char out[AUD_WRAPPED_BYTES]);
void aud_seal_mapping(const struct aud_sealer *sealer, struct aud_fields *f, const char *issuer,
                      const char *subject, unsigned char out[AUD_MAPPING_SEALED_MAX]);

/* BASE_CORRUPT when the key does not fit or the bytes were changed. */
enum base_code aud_open_key(const unsigned char kek[BASE_GCM_KEY_BYTES], const char *pseudonym,
                            const unsigned char key_id[AUD_KEY_ID_BYTES],
                            const unsigned char nonce[BASE_GCM_NONCE_BYTES], const void *wrapped, size_t n,
                            unsigned char ret_key[BASE_GCM_KEY_BYTES], struct base_err *err);
/* out: payload_len - BASE_GCM_TAG_BYTES. */
enum base_code aud_open_content(const unsigned char key[BASE_GCM_KEY_BYTES], const struct aud_fields *f,
                                const void *payload, size_t n, unsigned char *out, struct base_err *err);
struct aud_mapping {
    char issuer[AUD_TEXT_MAX + 1], subject[AUD_TEXT_MAX + 1];
};
enum base_code aud_open_mapping(const struct aud_sealer *sealer, const struct aud_fields *f,
                                const void *payload, size_t n, struct aud_mapping *ret_mapping,
                                struct base_err *err);

#endif
