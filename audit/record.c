/* Canonical bytes of a record. See record.h; the layout is docs/audit-format.md, "Canonical bytes". */
#include "audit/record.h"

#include "base/str.h"

#include <stdio.h>
#include <string.h>

static const char magic[4] = {'G', 'H', 'A', 'R'};

const char *const aud_text_names[AUD_N_TEXTS] = {
    "request_id",  "pseudonym", "auth_method",  "credential_id", "tenant",     "roles",
    "api",         "peer",      "model_asked",  "route",         "route_kind", "upstream_model",
    "policy_hash", "class",     "class_source", "decision",      "guard",      "action",
    "target",      "status",    "error_code",   "finish_reason",
};

const char *const aud_number_names[AUD_N_NUMBERS] = {
    "epoch",          "attempts",   "prompt_tokens", "completion_tokens",
    "released_bytes", "max_tokens", "ttft_us",       "duration_us",
};

const char *aud_kind_name(unsigned kind)
{
    static const char *const names[] = {"unknown", "intent", "outcome", "event", "person_key", "mapping"};

    return kind < BASE_ARRAY_LEN(names) ? names[kind] : names[0];
}

bool aud_instance_valid(const char *s, size_t n)
{
    if (n == 0 || n > AUD_INSTANCE_MAX)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!(s[i] >= 'a' && s[i] <= 'z') && !(s[i] >= '0' && s[i] <= '9') && s[i] != '-')
            return false;
    return true;
}

bool aud_text_valid(const char *s, size_t n)
{
    return n == 0 || (memchr(s, 0, n) == NULL && base_utf8_valid(s, n));
}

/* Which payload a kind may have: an intent, outcome or event content under a person's key; a person key
 * itself; a mapping one that no person's key opens. */
static bool payload_shape_valid(const struct aud_fields *f)
{
    if (f->payload_len > AUD_PAYLOAD_MAX || (f->payload_len > 0 && f->payload_len < BASE_GCM_TAG_BYTES))
        return false;
    switch (f->kind) {
    case AUD_INTENT:
    case AUD_OUTCOME:
    case AUD_EVENT: return f->has_key_id == (f->payload_len > 0);
    case AUD_PERSON_KEY: return f->has_key_id && f->payload_len > 0;
    case AUD_MAPPING: return !f->has_key_id && f->payload_len > 0;
    default: return false;
    }
}

/* --- writing --- */

static void put_uint(struct base_buf *out, uint64_t value, unsigned n_bytes)
{
    char bytes[8];

    for (unsigned i = 0; i < n_bytes; i++)
        bytes[i] = (char)(value >> 8 * (n_bytes - 1 - i));
    base_buf_append(out, bytes, n_bytes);
}

static void put_text(struct base_buf *out, struct aud_str s)
{
    put_uint(out, s.len, 2);
    if (s.len > 0)
        base_buf_append(out, s.at, s.len);
}

enum base_code aud_record_check(const struct aud_fields *f, struct base_err *err)
{
    if (!aud_instance_valid(f->instance.at, f->instance.len))
        return base_fail(err, BASE_INVALID, 0, "instance is no name ([a-z0-9-]{1,32})");
    if (f->wall_us < 0 || f->wall_us > AUD_WALL_MAX_US)
        return base_fail(err, BASE_INVALID, 0, "time is outside the years 1970 to 9999");
    if (f->seq > INT64_MAX || f->n_reasons > AUD_REASONS_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "sequence number or number of reasons past its limit");
    for (unsigned i = 0; i < AUD_N_TEXTS + f->n_reasons; i++) {
        struct aud_str s = i < AUD_N_TEXTS ? f->texts[i] : f->reasons[i - AUD_N_TEXTS];
        const char *name = i < AUD_N_TEXTS ? aud_text_names[i] : "reasons";

        if (s.len > AUD_TEXT_MAX)
            return base_fail(err, BASE_TOO_LARGE, 0, "%s is %u bytes, limit %u", name, s.len, AUD_TEXT_MAX);
        if (!aud_text_valid(s.at, s.len))
            return base_fail(err, BASE_INVALID, 0, "%s is not UTF-8", name);
    }
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++)
        if (f->numbers[i] > INT64_MAX)
            return base_fail(err, BASE_TOO_LARGE, 0, "%s passes 2^63-1", aud_number_names[i]);
    if (!payload_shape_valid(f))
        return base_fail(err, BASE_INVALID, 0, "kind %u with a payload that it cannot have", f->kind);
    return BASE_OK;
}

enum base_code aud_record_encode(const struct aud_fields *f, struct base_buf *out, struct base_err *err)
{
    size_t start = out->len;
    enum base_code rc = aud_record_check(f, err);

    if (rc != BASE_OK)
        return rc;
    base_buf_append(out, magic, sizeof(magic));
    put_uint(out, AUD_CANONICAL_VERSION, 1);
    put_uint(out, f->kind, 1);
    put_uint(out, f->seq, 8);
    put_uint(out, (uint64_t)f->wall_us, 8);
    put_text(out, f->instance);
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        put_text(out, f->texts[i]);
    put_uint(out, f->n_reasons, 1);
    for (unsigned i = 0; i < f->n_reasons; i++)
        put_text(out, f->reasons[i]);
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++)
        put_uint(out, f->numbers[i], 8);
    put_uint(out, f->has_key_id ? AUD_KEY_ID_BYTES : 0, 1);
    base_buf_append(out, f->key_id, f->has_key_id ? AUD_KEY_ID_BYTES : 0);
    put_uint(out, f->payload_len, 8);
    if (f->payload_len > 0) {
        base_buf_append(out, f->nonce, sizeof(f->nonce));
        base_buf_append(out, f->payload_sha256, sizeof(f->payload_sha256));
    }
    if (out->failed || out->len - start > AUD_CANONICAL_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "record passes %u bytes", AUD_CANONICAL_MAX);
    return BASE_OK;
}

/* --- reading --- */

/* A cursor that remembers its first failure: after it, everything reads as zero. */
struct cursor {
    const unsigned char *at, *end;
    bool bad;
};

static const unsigned char *take(struct cursor *c, size_t n)
{
    const unsigned char *p = c->at;

    if (c->bad || (size_t)(c->end - c->at) < n) {
        c->bad = true;
        return NULL;
    }
    c->at += n;
    return p;
}

static uint64_t take_uint(struct cursor *c, unsigned n_bytes)
{
    const unsigned char *p = take(c, n_bytes);
    uint64_t value = 0;

    for (unsigned i = 0; p != NULL && i < n_bytes; i++)
        value = value << 8 | p[i];
    return value;
}

static struct aud_str take_text(struct cursor *c)
{
    struct aud_str s = {.len = (uint32_t)take_uint(c, 2)};

    s.at = (const char *)take(c, s.len);
    if (s.at == NULL || s.len > AUD_TEXT_MAX || !aud_text_valid(s.at, s.len)) {
        c->bad = true;
        s = (struct aud_str){.at = "", .len = 0};
    }
    return s;
}

static void take_bytes(struct cursor *c, void *out, size_t n)
{
    const unsigned char *p = take(c, n);

    if (p != NULL)
        memcpy(out, p, n);
}

static void take_key_and_payload(struct cursor *c, struct aud_fields *f)
{
    uint64_t key_len = take_uint(c, 1);

    f->has_key_id = key_len == AUD_KEY_ID_BYTES;
    if (key_len != 0 && !f->has_key_id)
        c->bad = true;
    if (f->has_key_id)
        take_bytes(c, f->key_id, sizeof(f->key_id));
    f->payload_len = take_uint(c, 8);
    if (f->payload_len > 0) {
        take_bytes(c, f->nonce, sizeof(f->nonce));
        take_bytes(c, f->payload_sha256, sizeof(f->payload_sha256));
    }
}

enum base_code aud_record_decode(const void *bytes, size_t n, struct aud_fields *ret_fields,
                                 struct base_err *err)
{
    struct cursor c = {.at = bytes, .end = (const unsigned char *)bytes + n};
    struct aud_fields f = {.kind = 0};
    const unsigned char *head;
    uint64_t version;

    if (n > AUD_CANONICAL_MAX)
        return base_fail(err, BASE_CORRUPT, 0, "record of %zu bytes, limit %u", n, AUD_CANONICAL_MAX);
    head = take(&c, sizeof(magic));
    if (head == NULL || memcmp(head, magic, sizeof(magic)) != 0)
        return base_fail(err, BASE_CORRUPT, 0, "record does not start with GHAR");
    version = take_uint(&c, 1);
    if (!c.bad && version != AUD_CANONICAL_VERSION)
        return base_fail(err, BASE_UNSUPPORTED, 0, "record of version %u", (unsigned)version);
    f.kind = (unsigned)take_uint(&c, 1);
    f.seq = take_uint(&c, 8);
    f.wall_us = (int64_t)take_uint(&c, 8);
    f.instance = take_text(&c);
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        f.texts[i] = take_text(&c);
    f.n_reasons = (unsigned)take_uint(&c, 1);
    c.bad = c.bad || f.n_reasons > AUD_REASONS_MAX;
    for (unsigned i = 0; !c.bad && i < f.n_reasons; i++)
        f.reasons[i] = take_text(&c);
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++) {
        f.numbers[i] = take_uint(&c, 8);
        c.bad = c.bad || f.numbers[i] > INT64_MAX;
    }
    take_key_and_payload(&c, &f);
    if (c.bad || c.at != c.end || f.seq > INT64_MAX || f.wall_us < 0 || f.wall_us > AUD_WALL_MAX_US ||
        !aud_instance_valid(f.instance.at, f.instance.len) || !payload_shape_valid(&f))
        return base_fail(err, BASE_CORRUPT, 0, "record's bytes are malformed");
    *ret_fields = f;
    return BASE_OK;
}
