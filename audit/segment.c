/* The bytes of a journal segment. See segment.h. */
#include "audit/segment.h"

#include <stdio.h>
#include <string.h>

static const char segment_magic[8] = {'G', 'H', 'J', 'R', 'N', 'L', '0', '1'};
static const char frame_magic[4] = {'G', 'H', 'R', 'F'};

/* offsets in the header */
enum { H_INSTANCE = 8, H_FIRST_SEQ = 40, H_PREV = 48, H_CREATED = 80, H_CRC = 88 };
/* offsets in a frame */
enum { F_LEN = 4, F_SYNCED = 8, F_CRC = 16, F_BODY = 20 };

static void put(unsigned char *at, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++)
        at[i] = (unsigned char)(value >> 8 * (n_bytes - 1 - i));
}

static uint64_t get(const unsigned char *at, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n_bytes; i++)
        value = value << 8 | at[i];
    return value;
}

void aud_segment_header_write(const struct aud_segment_header *header,
                              unsigned char out[AUD_SEGMENT_HEADER_BYTES])
{
    memset(out, 0, AUD_SEGMENT_HEADER_BYTES);
    memcpy(out, segment_magic, sizeof(segment_magic));
    memcpy(out + H_INSTANCE, header->instance, strnlen(header->instance, AUD_INSTANCE_MAX));
    put(out + H_FIRST_SEQ, header->first_seq, 8);
    memcpy(out + H_PREV, header->prev.bytes, BASE_SHA256_BYTES);
    put(out + H_CREATED, (uint64_t)header->created_us, 8);
    put(out + H_CRC, base_crc32c(0, out, H_CRC), 4);
}

enum base_code aud_segment_header_parse(const unsigned char *bytes, size_t n,
                                        struct aud_segment_header *ret_header, struct base_err *err)
{
    struct aud_segment_header h = {.first_seq = 0};
    size_t instance_len;
    bool padded = true;

    if (n < AUD_SEGMENT_HEADER_BYTES || memcmp(bytes, segment_magic, sizeof(segment_magic)) != 0 ||
        get(bytes + H_CRC, 4) != base_crc32c(0, bytes, H_CRC))
        return base_fail(err, BASE_CORRUPT, 0, "the header at offset 0 does not verify");
    memcpy(h.instance, bytes + H_INSTANCE, AUD_INSTANCE_MAX);
    h.first_seq = get(bytes + H_FIRST_SEQ, 8);
    instance_len = strlen(h.instance);
    for (size_t i = instance_len; i < AUD_INSTANCE_MAX; i++)
        padded = padded && h.instance[i] == '\0';
    if (!padded || !aud_instance_valid(h.instance, instance_len) || h.first_seq > INT64_MAX)
        return base_fail(err, BASE_CORRUPT, 0, "the header at offset 0 is malformed");
    memcpy(h.prev.bytes, bytes + H_PREV, BASE_SHA256_BYTES);
    h.created_us = (int64_t)get(bytes + H_CREATED, 8);
    *ret_header = h;
    return BASE_OK;
}

static uint32_t frame_crc(const unsigned char *frame, size_t body_len)
{
    return base_crc32c(base_crc32c(0, frame + F_LEN, F_CRC - F_LEN), frame + F_BODY, body_len);
}

enum base_code aud_frame_append(struct base_buf *out, uint64_t synced, const struct aud_hash *hash,
                                const void *canonical, size_t canonical_len, const void *payload,
                                size_t payload_len)
{
    size_t body_len = BASE_SHA256_BYTES + 4 + canonical_len + payload_len;
    unsigned char *at = (unsigned char *)base_buf_reserve(out, F_BODY + body_len), *body;

    if (at == NULL)
        return BASE_TOO_LARGE;
    body = at + F_BODY;
    memcpy(at, frame_magic, sizeof(frame_magic));
    put(at + F_LEN, body_len, 4);
    put(at + F_SYNCED, synced, 8);
    memcpy(body, hash->bytes, BASE_SHA256_BYTES);
    put(body + BASE_SHA256_BYTES, canonical_len, 4);
    memcpy(body + BASE_SHA256_BYTES + 4, canonical, canonical_len);
    if (payload_len > 0)
        memcpy(body + BASE_SHA256_BYTES + 4 + canonical_len, payload, payload_len);
    put(at + F_CRC, frame_crc(at, body_len), 4);
    out->len += F_BODY + body_len;
    return BASE_OK;
}

enum base_code aud_frame_parse(const unsigned char *bytes, size_t n, struct aud_frame *ret_frame)
{
    struct aud_frame f = {.size = 0};
    size_t body_len;

    if (memcmp(bytes, frame_magic, n < sizeof(frame_magic) ? n : sizeof(frame_magic)) != 0)
        return BASE_CORRUPT;
    if (n < F_BODY) {
        ret_frame->size = 0;
        return BASE_NOT_FOUND;
    }
    body_len = get(bytes + F_LEN, 4);
    if (body_len < BASE_SHA256_BYTES + 4 || body_len > AUD_FRAME_MAX - F_BODY)
        return BASE_CORRUPT;
    if (n < F_BODY + body_len) {
        ret_frame->size = F_BODY + body_len;
        return BASE_NOT_FOUND;
    }
    if (get(bytes + F_CRC, 4) != frame_crc(bytes, body_len))
        return BASE_CORRUPT;
    f.size = F_BODY + body_len;
    f.synced = get(bytes + F_SYNCED, 8);
    memcpy(f.hash.bytes, bytes + F_BODY, BASE_SHA256_BYTES);
    f.canonical_len = (uint32_t)get(bytes + F_BODY + BASE_SHA256_BYTES, 4);
    if (f.canonical_len > body_len - BASE_SHA256_BYTES - 4)
        return BASE_CORRUPT;
    f.canonical = bytes + F_BODY + BASE_SHA256_BYTES + 4;
    f.payload = f.canonical + f.canonical_len;
    f.payload_len = (uint32_t)(body_len - BASE_SHA256_BYTES - 4 - f.canonical_len);
    *ret_frame = f;
    return BASE_OK;
}

enum base_code aud_frame_check(const struct aud_frame *frame, const char *instance, uint64_t seq,
                               const struct aud_hash *prev, struct aud_fields *ret_fields,
                               struct base_err *err)
{
    struct aud_hash hash = aud_chain_link(prev, frame->canonical, frame->canonical_len);
    unsigned char digest[BASE_SHA256_BYTES];
    struct aud_fields f;
    enum base_code rc;

    if (memcmp(hash.bytes, frame->hash.bytes, sizeof(hash.bytes)) != 0)
        return base_fail(err, BASE_CORRUPT, 0, "the hash of record %llu does not fit",
                         (unsigned long long)seq);
    rc = aud_record_decode(frame->canonical, frame->canonical_len, &f, err);
    if (rc != BASE_OK)
        return rc;
    if (f.seq != seq || f.instance.len != strlen(instance) ||
        memcmp(f.instance.at, instance, f.instance.len) != 0)
        return base_fail(err, BASE_CORRUPT, 0, "record %llu stands where %llu of %s belongs",
                         (unsigned long long)f.seq, (unsigned long long)seq, instance);
    base_sha256(frame->payload, frame->payload_len, digest);
    if (f.payload_len != frame->payload_len ||
        (f.payload_len > 0 && memcmp(digest, f.payload_sha256, sizeof(digest)) != 0))
        return base_fail(err, BASE_CORRUPT, 0, "the payload of record %llu does not fit",
                         (unsigned long long)seq);
    *ret_fields = f;
    return BASE_OK;
}

/* True when after `from` some frame stands whole that was built when more than `from` bytes were durable:
 * then what is broken at `from` had been acknowledged. */
static bool acknowledged_after(const unsigned char *bytes, size_t n, size_t from)
{
    const unsigned char *at = bytes + from;

    while ((at = memmem(at, n - (size_t)(at - bytes), frame_magic, sizeof(frame_magic))) != NULL) {
        struct aud_frame frame;

        if (aud_frame_parse(at, n - (size_t)(at - bytes), &frame) == BASE_OK && frame.synced > from)
            return true;
        at++;
    }
    return false;
}

static enum base_code scan_tail(const unsigned char *bytes, size_t n, struct aud_scan *scan,
                                struct base_err *err)
{
    size_t at = scan->good_end;

    if (scan->limit_seq != UINT64_MAX) /* the next segment says that more was durable here */
        return base_fail(err, BASE_CORRUPT, 0, "damaged at offset %zu: record %llu is not whole", at,
                         (unsigned long long)scan->next_seq);
    if (at < scan->known_synced || acknowledged_after(bytes, n, at))
        return base_fail(err, BASE_CORRUPT, 0, "damaged at offset %zu: record %llu had been acknowledged", at,
                         (unsigned long long)scan->next_seq);
    scan->torn = at < n;
    return BASE_OK;
}

enum base_code aud_segment_scan(const unsigned char *bytes, size_t n, struct aud_scan *scan,
                                struct base_err *err)
{
    enum base_code rc = aud_segment_header_parse(bytes, n, &scan->header, err);

    if (rc != BASE_OK)
        return rc;
    if (strcmp(scan->header.instance, scan->instance) != 0)
        return base_fail(err, BASE_CORRUPT, 0, "the journal belongs to another instance");
    scan->next_seq = scan->header.first_seq;
    scan->head = scan->header.prev;
    scan->good_end = AUD_SEGMENT_HEADER_BYTES;
    while (scan->next_seq < scan->limit_seq) {
        struct aud_frame frame;
        struct aud_fields fields;

        if (scan->good_end == n ||
            aud_frame_parse(bytes + scan->good_end, n - scan->good_end, &frame) != BASE_OK)
            return scan_tail(bytes, n, scan, err);
        rc = aud_frame_check(&frame, scan->instance, scan->next_seq, &scan->head, &fields, err);
        if (rc != BASE_OK) /* its CRC fits: this was never a torn write */
            return base_fail_prefix(err, rc, "damaged at offset %zu", scan->good_end);
        if (scan->next_seq == scan->header.first_seq)
            scan->first_wall_us = fields.wall_us;
        scan->head = frame.hash;
        scan->good_end += frame.size;
        scan->next_seq++;
    }
    return BASE_OK;
}
