/* Session seal. See session_seal.h.
 *
 * Fields, in order: numbers as 8 bytes little-endian; texts as 4 bytes of length and their bytes, without NUL.
 */
#include "gateway/session_seal.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/str.h"

#include <string.h>

#define VERSION    1u
#define HEAD_BYTES (1u + BASE_GCM_NONCE_BYTES)

void gw_seal_key(const struct base_secret *pepper, unsigned char out[BASE_GCM_KEY_BYTES])
{
    static const char domain[] = "gatehouse session seal v1";

    base_hmac_sha256(base_secret_bytes(pepper), base_secret_len(pepper), domain, sizeof(domain), out);
}

static void free_secret(char **text)
{
    if (*text == NULL)
        return;
    base_wipe(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

void gw_session_record_free(struct gw_session_record *record)
{
    free_secret(&record->refresh_token);
    free_secret(&record->logout_hint);
    base_wipe(record, sizeof(*record));
}

/* ---- encode ---- */

static void put_number(struct base_buf *out, uint64_t number, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++)
        base_buf_append_char(out, (char)(number >> (8 * i)));
}

static void put_text(struct base_buf *out, const char *text)
{
    size_t len = text != NULL ? strlen(text) : 0;

    put_number(out, len, 4);
    base_buf_append(out, text != NULL ? text : "", len);
}

static enum base_code encode(const struct gw_session_record *r, struct base_buf *out)
{
    put_text(out, r->who.issuer);
    put_text(out, r->who.subject);
    put_text(out, r->who.tenant);
    put_number(out, r->who.n_roles, 8);
    for (unsigned i = 0; i < r->who.n_roles; i++)
        put_text(out, r->who.roles[i]);
    put_text(out, r->who.credential_id);
    put_number(out, (uint64_t)r->who.since_us, 8);
    put_text(out, r->provider);
    put_text(out, r->sid);
    put_text(out, r->directory_key);
    put_text(out, r->name);
    put_text(out, r->email);
    put_text(out, r->from);
    put_number(out, (uint64_t)r->started_us, 8);
    put_number(out, (uint64_t)r->seen_us, 8);
    put_number(out, (uint64_t)r->expires_at_us, 8);
    put_number(out, (uint64_t)r->refresh_at_us, 8);
    put_text(out, r->refresh_token);
    put_text(out, r->logout_hint);
    return out->failed ? BASE_TOO_LARGE : BASE_OK;
}

enum base_code gw_session_seal(const unsigned char key[BASE_GCM_KEY_BYTES],
                               const unsigned char hash[BASE_SHA256_BYTES],
                               const struct gw_session_record *record, struct base_buf *out)
{
    struct base_buf plain = BASE_BUF_INIT(GW_SEAL_MAX - HEAD_BYTES - BASE_GCM_TAG_BYTES);
    enum base_code rc;
    unsigned char head[HEAD_BYTES] = {VERSION}, tag[BASE_GCM_TAG_BYTES];

    base_buf_append(&plain, hash, BASE_SHA256_BYTES);
    rc = encode(record, &plain);
    if (rc == BASE_OK) {
        base_random(head + 1, BASE_GCM_NONCE_BYTES);
        base_gcm_seal(key, head + 1, head, 1, plain.data, plain.len, plain.data, tag);
        base_buf_append(out, head, sizeof(head));
        base_buf_append(out, plain.data, plain.len);
        base_buf_append(out, tag, sizeof(tag));
        rc = out->failed ? BASE_TOO_LARGE : BASE_OK;
    } else if (plain.data != NULL)
        base_wipe(plain.data, plain.len);
    base_buf_free(&plain);
    return rc;
}

/* ---- decode ---- */

struct reader {
    const unsigned char *at;
    size_t left;
    bool failed;
};

static uint64_t take_number(struct reader *r, unsigned n_bytes)
{
    uint64_t number = 0;

    if (r->failed || r->left < n_bytes) {
        r->failed = true;
        return 0;
    }
    for (unsigned i = 0; i < n_bytes; i++)
        number |= (uint64_t)r->at[i] << (8 * i);
    r->at += n_bytes;
    r->left -= n_bytes;
    return number;
}

/* A text of our own may not hold a NUL: it would read as a shorter one. */
static const unsigned char *take_bytes(struct reader *r, size_t max, size_t *ret_len)
{
    size_t len = (size_t)take_number(r, 4);
    const unsigned char *at = r->at;

    if (r->failed || len > r->left || len > max || (len > 0 && memchr(at, 0, len) != NULL)) {
        r->failed = true;
        *ret_len = 0;
        return at;
    }
    r->at += len;
    r->left -= len;
    *ret_len = len;
    return at;
}

static void take_text(struct reader *r, char *out, size_t size)
{
    size_t len;
    const unsigned char *at = take_bytes(r, size - 1, &len);

    memcpy(out, at, len);
    out[len] = '\0';
}

static char *take_heap_text(struct reader *r)
{
    size_t len;
    const unsigned char *at = take_bytes(r, GW_SEAL_MAX, &len);

    return len > 0 ? base_memdup0(at, len) : NULL;
}

static void take_roles(struct reader *r, struct gw_principal *who)
{
    uint64_t n = take_number(r, 8);

    if (n > GW_ROLES_MAX) {
        r->failed = true;
        return;
    }
    who->n_roles = (unsigned)n;
    for (unsigned i = 0; i < who->n_roles; i++) {
        take_text(r, who->roles[i], GW_ROLE_MAX);
        who->is_admin = who->is_admin || strcmp(who->roles[i], "admin") == 0;
    }
}

enum base_code gw_session_decode(const unsigned char *bytes, size_t len, struct gw_session_record *ret_record)
{
    struct reader r = {.at = bytes, .left = len};
    struct gw_session_record record = {.who.method = GW_AUTH_SESSION};

    take_text(&r, record.who.issuer, sizeof(record.who.issuer));
    take_text(&r, record.who.subject, sizeof(record.who.subject));
    take_text(&r, record.who.tenant, sizeof(record.who.tenant));
    take_roles(&r, &record.who);
    take_text(&r, record.who.credential_id, sizeof(record.who.credential_id));
    record.who.since_us = (int64_t)take_number(&r, 8);
    take_text(&r, record.provider, sizeof(record.provider));
    take_text(&r, record.sid, sizeof(record.sid));
    take_text(&r, record.directory_key, sizeof(record.directory_key));
    take_text(&r, record.name, sizeof(record.name));
    take_text(&r, record.email, sizeof(record.email));
    take_text(&r, record.from, sizeof(record.from));
    record.started_us = (int64_t)take_number(&r, 8);
    record.seen_us = (int64_t)take_number(&r, 8);
    record.expires_at_us = (int64_t)take_number(&r, 8);
    record.refresh_at_us = (int64_t)take_number(&r, 8);
    record.refresh_token = take_heap_text(&r);
    record.logout_hint = take_heap_text(&r);
    if (r.failed || r.left != 0 || record.who.issuer[0] == '\0' || record.who.subject[0] == '\0' ||
        record.who.tenant[0] == '\0' || record.who.credential_id[0] == '\0') {
        gw_session_record_free(&record);
        return BASE_CORRUPT;
    }
    *ret_record = record;
    return BASE_OK;
}

enum base_code gw_session_open(const unsigned char key[BASE_GCM_KEY_BYTES],
                               const unsigned char hash[BASE_SHA256_BYTES], const void *bytes, size_t len,
                               struct gw_session_record *ret_record)
{
    const unsigned char *box = bytes;
    unsigned char *plain;
    enum base_code rc = BASE_CORRUPT;
    size_t n_plain;

    if (len < HEAD_BYTES + BASE_SHA256_BYTES + BASE_GCM_TAG_BYTES || len > GW_SEAL_MAX || box[0] != VERSION)
        return BASE_CORRUPT;
    n_plain = len - HEAD_BYTES - BASE_GCM_TAG_BYTES;
    plain = base_zalloc(n_plain + 1);
    /* what is forged has no plain text to go on with: this is no check that could be left out */
    if (base_gcm_open(key, box + 1, box, 1, box + HEAD_BYTES, n_plain, plain, box + HEAD_BYTES + n_plain) ==
            BASE_OK &&
        CHECK("session.own_record", base_ct_equal(plain, hash, BASE_SHA256_BYTES)))
        rc = gw_session_decode(plain + BASE_SHA256_BYTES, n_plain - BASE_SHA256_BYTES, ret_record);
    base_wipe(plain, n_plain);
    free(plain);
    return rc;
}
