/* A record's canonical bytes: one encoding for one record, whatever machine writes it.
 *
 * What: struct aud_fields (everything a record says, the content's ciphertext only by its digest) to bytes
 *       and back. docs/audit-format.md describes the bytes; the hash chain (chain.h) is over them.
 * Who:  any thread; nothing here is shared.
 * Promises: encode(decode(bytes)) == bytes for every input that decodes: there is no second spelling.
 * Limits: AUD_CANONICAL_MAX. Texts are UTF-8 without NUL, at most AUD_TEXT_MAX bytes.
 */
#ifndef AUDIT_RECORD_H
#define AUDIT_RECORD_H

#include "audit/audit.h"

#include "base/buf.h"
#include "base/crypto.h"

#define AUD_CANONICAL_MAX     16384u
#define AUD_CANONICAL_VERSION 1u
#define AUD_PAYLOAD_MAX       (AUD_CONTENT_MAX + BASE_GCM_TAG_BYTES)
#define AUD_KEY_ID_BYTES      16u
#define AUD_INSTANCE_MAX      32u
#define AUD_WALL_MAX_US \
    INT64_C(253402300799999999) /* the end of 9999: what both Postgres and RFC 3339 can say */

/* Kinds that only this folder makes, beside those of enum aud_kind. */
#define AUD_PERSON_KEY 4u /* payload: a person's data key, wrapped; goes to audit.person_keys */
#define AUD_MAPPING    5u /* payload: issuer and subject, sealed; goes to mapping.subjects */
#define AUD_KIND_LAST  5u

/* The texts and numbers of a record, in the order of the canonical bytes. aud_text_names and aud_number_names
 * are also the columns of audit.records, which are written, compared and printed by these tables. */
enum aud_text {
    AUD_T_REQUEST_ID,
    AUD_T_PSEUDONYM,
    AUD_T_AUTH_METHOD,
    AUD_T_CREDENTIAL_ID,
    AUD_T_TENANT,
    AUD_T_ROLES,
    AUD_T_API,
    AUD_T_PEER,
    AUD_T_MODEL_ASKED,
    AUD_T_ROUTE,
    AUD_T_ROUTE_KIND,
    AUD_T_UPSTREAM_MODEL,
    AUD_T_POLICY_HASH,
    AUD_T_CLASS,
    AUD_T_CLASS_SOURCE,
    AUD_T_DECISION,
    AUD_T_GUARD,
    AUD_T_ACTION,
    AUD_T_TARGET,
    AUD_T_STATUS,
    AUD_T_ERROR_CODE,
    AUD_T_FINISH_REASON,
    AUD_N_TEXTS
};

enum aud_number {
    AUD_U_EPOCH,
    AUD_U_ATTEMPTS,
    AUD_U_PROMPT_TOKENS,
    AUD_U_COMPLETION_TOKENS,
    AUD_U_RELEASED_BYTES,
    AUD_U_MAX_TOKENS,
    AUD_U_TTFT_US,
    AUD_U_DURATION_US,
    AUD_N_NUMBERS
};

extern const char *const aud_text_names[AUD_N_TEXTS];
extern const char *const aud_number_names[AUD_N_NUMBERS];
const char *aud_kind_name(unsigned kind); /* "intent", ...; "unknown" */

struct aud_str {
    const char *at; /* not NUL-terminated; borrowed */
    uint32_t len;
};

struct aud_fields {
    unsigned kind;
    uint64_t seq;
    int64_t wall_us;
    struct aud_str instance;
    struct aud_str texts[AUD_N_TEXTS];
    struct aud_str reasons[AUD_REASONS_MAX];
    unsigned n_reasons;
    uint64_t numbers[AUD_N_NUMBERS]; /* at most INT64_MAX: Postgres has no unsigned type */
    bool has_key_id;                 /* content: the person's key; person key: the key made here */
    unsigned char key_id[AUD_KEY_ID_BYTES];
    uint64_t payload_len; /* ciphertext and tag; 0: none. With a payload there is a nonce and a digest */
    unsigned char nonce[BASE_GCM_NONCE_BYTES];
    unsigned char payload_sha256[BASE_SHA256_BYTES];
};

/* BASE_INVALID / BASE_TOO_LARGE when a field breaks its limit. */
enum base_code aud_record_check(const struct aud_fields *fields, struct base_err *err);
/* Checks, then appends to `out`. */
enum base_code aud_record_encode(const struct aud_fields *fields, struct base_buf *out, struct base_err *err);
/* Strict: every byte is accounted for. BASE_UNSUPPORTED for a later version, BASE_CORRUPT for anything else
 * that does not fit. The texts point into `bytes`. */
enum base_code aud_record_decode(const void *bytes, size_t n, struct aud_fields *ret_fields,
                                 struct base_err *err);

/* UTF-8 without NUL; its length is not looked at. */
bool aud_text_valid(const char *s, size_t n);
/* True when s is a name of an instance: [a-z0-9-]{1,32}. */
bool aud_instance_valid(const char *s, size_t n);

#endif
