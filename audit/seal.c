/* Sealing content, persons' keys and mappings. See seal.h; the exact bytes are in docs/audit-format.md,
 * "Sealing". */
#include "audit/seal.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* The cache of data keys: SETS x WAYS persons, the least recently used of a set goes. */
#define SETS 4096u
#define WAYS 4u

#define AAD_MAX 1024u

struct aud_sealer {
    struct base_secret *kek, *mapping_key, *pseudonym_key;
    unsigned epoch;
    uint64_t clock; /* counts uses */
    struct aud_person (*cache)[WAYS];
};

static struct base_secret *derive(const struct base_secret *kek, const char *label)
{
    unsigned char key[BASE_SHA256_BYTES];
    struct base_secret *secret;

    base_hmac_sha256(base_secret_bytes(kek), base_secret_len(kek), label, strlen(label), key);
    secret = base_secret_new(key, sizeof(key));
    base_wipe(key, sizeof(key));
    return secret;
}

struct aud_sealer *aud_sealer_new(const struct base_secret *kek, const struct base_secret *pseudonym_key,
                                  unsigned epoch)
{
    struct aud_sealer *sealer = base_zalloc(sizeof(*sealer));

    sealer->kek = base_secret_new(base_secret_bytes(kek), base_secret_len(kek));
    sealer->pseudonym_key = base_secret_new(base_secret_bytes(pseudonym_key), base_secret_len(pseudonym_key));
    sealer->mapping_key = derive(kek, "gatehouse mapping v1");
    sealer->epoch = epoch;
    sealer->cache =
        mmap(NULL, sizeof(*sealer->cache) * SETS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sealer->cache == MAP_FAILED)
        abort();
    madvise(sealer->cache, sizeof(*sealer->cache) * SETS, MADV_DONTDUMP); /* keys stay out of core dumps */
    return sealer;
}

void aud_sealer_free(struct aud_sealer *sealer)
{
    if (sealer == NULL)
        return;
    base_wipe(sealer->cache, sizeof(*sealer->cache) * SETS);
    munmap(sealer->cache, sizeof(*sealer->cache) * SETS);
    base_secret_free(sealer->kek);
    base_secret_free(sealer->mapping_key);
    base_secret_free(sealer->pseudonym_key);
    free(sealer);
}

unsigned aud_sealer_epoch(const struct aud_sealer *sealer)
{
    return sealer->epoch;
}

void aud_sealer_pseudonym(const struct aud_sealer *sealer, const char *issuer, const char *subject,
                          char out[AUD_PSEUDONYM_MAX])
{
    size_t issuer_len = strlen(issuer), subject_len = strlen(subject), n = issuer_len + 1 + subject_len;
    unsigned char digest[BASE_SHA256_BYTES];
    auto_free char *text = base_alloc(n + 1);
    char hex[2 * 20 + 1];

    memcpy(text, issuer, issuer_len + 1); /* the NUL between them: no two pairs make one text */
    memcpy(text + issuer_len + 1, subject, subject_len + 1);
    base_hmac_sha256(base_secret_bytes(sealer->pseudonym_key), base_secret_len(sealer->pseudonym_key), text,
                     n, digest);
    base_wipe(text, n);
    base_hex_encode(digest, 20, hex); /* 160 bits: no two people collide */
    snprintf(out, AUD_PSEUDONYM_MAX, "p%u-%s", sealer->epoch, hex);
}

/* --- keys of persons --- */

static struct aud_person *set_of(struct aud_sealer *sealer, const char *pseudonym)
{
    uint64_t h = 1469598103934665603u; /* FNV-1a; the pseudonyms are an HMAC, nobody chooses them */

    for (const char *p = pseudonym; *p != '\0'; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    return sealer->cache[(h ^ h >> 32) % SETS];
}

struct aud_person *aud_sealer_person(struct aud_sealer *sealer, const char *pseudonym, uint64_t now_ms,
                                     bool *ret_new)
{
    struct aud_person *set = set_of(sealer, pseudonym), *oldest = &set[0];

    for (unsigned i = 0; i < WAYS; i++) {
        if (set[i].made_ms != 0 && strcmp(set[i].pseudonym, pseudonym) == 0) {
            if (now_ms - set[i].made_ms < AUD_KEY_LIFE_S * 1000ull) {
                set[i].used = ++sealer->clock;
                *ret_new = false;
                return &set[i];
            }
            oldest = &set[i];
            break;
        }
        if (set[i].used < oldest->used)
            oldest = &set[i];
    }
    base_wipe(oldest, sizeof(*oldest));
    snprintf(oldest->pseudonym, sizeof(oldest->pseudonym), "%s", pseudonym);
    base_random(oldest->key_id, sizeof(oldest->key_id));
    base_random(oldest->key, sizeof(oldest->key));
    oldest->made_ms = now_ms > 0 ? now_ms : 1;
    oldest->used = ++sealer->clock;
    *ret_new = true;
    return oldest;
}

void aud_sealer_forget_from(struct aud_sealer *sealer, uint64_t seq)
{
    for (unsigned s = 0; s < SETS; s++)
        for (unsigned w = 0; w < WAYS; w++)
            if (sealer->cache[s][w].made_ms != 0 && sealer->cache[s][w].seq >= seq)
                base_wipe(&sealer->cache[s][w], sizeof(sealer->cache[s][w]));
}

/* --- additional authenticated data: a label, then each part with its length --- */

struct aad {
    unsigned char bytes[AAD_MAX];
    size_t len;
};

static void aad_part(struct aad *aad, const void *part, size_t n)
{
    if (aad->len + 2 + n > sizeof(aad->bytes))
        abort(); /* every part has a limit that fits */
    aad->bytes[aad->len++] = (unsigned char)(n >> 8);
    aad->bytes[aad->len++] = (unsigned char)n;
    memcpy(aad->bytes + aad->len, part, n);
    aad->len += n;
}

static struct aad aad_content(const struct aud_fields *f)
{
    const struct aud_str *request = &f->texts[AUD_T_REQUEST_ID], *person = &f->texts[AUD_T_PSEUDONYM];
    struct aad aad = {.len = 0};

    aad_part(&aad, "gatehouse content v1", 20);
    aad_part(&aad, f->instance.at, f->instance.len);
    aad_part(&aad, &(unsigned char){(unsigned char)f->kind}, 1);
    aad_part(&aad, request->len > 0 ? request->at : "", request->len);
    aad_part(&aad, person->len > 0 ? person->at : "", person->len);
    aad_part(&aad, f->key_id, sizeof(f->key_id));
    return aad;
}

static struct aad aad_key(const char *pseudonym, const unsigned char key_id[AUD_KEY_ID_BYTES])
{
    struct aad aad = {.len = 0};

    aad_part(&aad, "gatehouse person key v1", 23);
    aad_part(&aad, pseudonym, strlen(pseudonym));
    aad_part(&aad, key_id, AUD_KEY_ID_BYTES);
    return aad;
}

static struct aad aad_mapping(const struct aud_fields *f)
{
    struct aad aad = {.len = 0};

    aad_part(&aad, "gatehouse mapping v1", 20);
    aad_part(&aad, f->texts[AUD_T_PSEUDONYM].at, f->texts[AUD_T_PSEUDONYM].len);
    return aad;
}

/* Seals n bytes into out (n + tag) and notes nonce, length and digest in f. */
static void seal(const unsigned char *key, const struct aad *aad, const void *in, size_t n,
                 unsigned char *out, struct aud_fields *f)
{
    base_random(f->nonce, sizeof(f->nonce));
    base_gcm_seal(key, f->nonce, aad->bytes, aad->len, in, n, out, out + n);
    f->payload_len = n + BASE_GCM_TAG_BYTES;
    base_sha256(out, f->payload_len, f->payload_sha256);
}

void aud_seal_content(const struct aud_person *person, struct aud_fields *f, const void *content, size_t n,
                      unsigned char *out)
{
    struct aad aad;

    memcpy(f->key_id, person->key_id, sizeof(f->key_id));
    f->has_key_id = true;
    aad = aad_content(f);
    seal(person->key, &aad, content, n, out, f);
}

void aud_seal_key(const struct aud_sealer *sealer, const struct aud_person *person, struct aud_fields *f,
                  unsigned char out[AUD_WRAPPED_BYTES])
{
    struct aad aad = aad_key(person->pseudonym, person->key_id);

    memcpy(f->key_id, person->key_id, sizeof(f->key_id));
    f->has_key_id = true;
    seal(base_secret_bytes(sealer->kek), &aad, person->key, sizeof(person->key), out, f);
}

void aud_seal_mapping(const struct aud_sealer *sealer, struct aud_fields *f, const char *issuer,
                      const char *subject, unsigned char out[AUD_MAPPING_SEALED_MAX])
{
    struct aad aad = aad_mapping(f), plain = {.len = 0};

    aad_part(&plain, issuer, strlen(issuer)); /* the same length-prefixed shape */
    aad_part(&plain, subject, strlen(subject));
    seal(base_secret_bytes(sealer->mapping_key), &aad, plain.bytes, plain.len, out, f);
    base_wipe(&plain, sizeof(plain));
}

enum base_code aud_open_key(const unsigned char kek[BASE_GCM_KEY_BYTES], const char *pseudonym,
                            const unsigned char key_id[AUD_KEY_ID_BYTES],
                            const unsigned char nonce[BASE_GCM_NONCE_BYTES], const void *wrapped, size_t n,
                            unsigned char ret_key[BASE_GCM_KEY_BYTES], struct base_err *err)
{
    struct aad aad;

    if (n != AUD_WRAPPED_BYTES || strlen(pseudonym) >= AUD_PSEUDONYM_MAX)
        return base_fail(err, BASE_CORRUPT, 0, "a wrapped key of %zu bytes, not %u", n, AUD_WRAPPED_BYTES);
    aad = aad_key(pseudonym, key_id);
    if (base_gcm_open(kek, nonce, aad.bytes, aad.len, wrapped, BASE_GCM_KEY_BYTES, ret_key,
                      (const unsigned char *)wrapped + BASE_GCM_KEY_BYTES) != BASE_OK)
        return base_fail(err, BASE_CORRUPT, 0, "the key-encryption key does not open this person's key");
    return BASE_OK;
}

enum base_code aud_open_content(const unsigned char key[BASE_GCM_KEY_BYTES], const struct aud_fields *f,
                                const void *payload, size_t n, unsigned char *out, struct base_err *err)
{
    struct aad aad = aad_content(f);

    if (n != f->payload_len || n < BASE_GCM_TAG_BYTES ||
        base_gcm_open(key, f->nonce, aad.bytes, aad.len, payload, n - BASE_GCM_TAG_BYTES, out,
                      (const unsigned char *)payload + n - BASE_GCM_TAG_BYTES) != BASE_OK)
        return base_fail(err, BASE_CORRUPT, 0, "the person's key does not open this content");
    return BASE_OK;
}

/* One length-prefixed text of a mapping; the number of bytes read, 0 when malformed. */
static size_t mapping_text(const unsigned char *at, size_t n, char out[AUD_TEXT_MAX + 1])
{
    size_t len = n >= 2 ? (size_t)at[0] << 8 | at[1] : 0;

    if (n < 2 || len > AUD_TEXT_MAX || len > n - 2)
        return 0;
    memcpy(out, at + 2, len);
    out[len] = '\0';
    return 2 + len;
}

enum base_code aud_open_mapping(const struct aud_sealer *sealer, const struct aud_fields *f,
                                const void *payload, size_t n, struct aud_mapping *ret_mapping,
                                struct base_err *err)
{
    struct aad aad = aad_mapping(f);
    unsigned char plain[AUD_MAPPING_MAX];
    size_t plain_len, used;

    if (n != f->payload_len || n < BASE_GCM_TAG_BYTES || n > AUD_MAPPING_SEALED_MAX)
        return base_fail(err, BASE_CORRUPT, 0, "a mapping of %zu bytes", n);
    plain_len = n - BASE_GCM_TAG_BYTES;
    if (base_gcm_open(base_secret_bytes(sealer->mapping_key), f->nonce, aad.bytes, aad.len, payload,
                      plain_len, plain, (const unsigned char *)payload + plain_len) != BASE_OK)
        return base_fail(err, BASE_CORRUPT, 0, "the key does not open this mapping");
    used = mapping_text(plain, plain_len, ret_mapping->issuer);
    used = used > 0 ? mapping_text(plain + used, plain_len - used, ret_mapping->subject) : 0;
    base_wipe(plain, sizeof(plain));
    return used > 0 ? BASE_OK : base_fail(err, BASE_CORRUPT, 0, "a malformed mapping");
}
