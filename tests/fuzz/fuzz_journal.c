/* A journal segment's bytes. Each input runs as it is, and once more with its checksums made to fit, so that
 * what lies behind them is reached too. */
#include "audit/segment.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> 8 * (3 - i));
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Checksums, and each record's hash as the chain wants it. */
static void repair(uint8_t *data, size_t size)
{
    struct aud_hash prev;
    size_t at = AUD_SEGMENT_HEADER_BYTES;

    if (size < AUD_SEGMENT_HEADER_BYTES)
        return;
    put32(data + 88, base_crc32c(0, data, 88));
    memcpy(prev.bytes, data + 48, sizeof(prev.bytes));
    while (size - at >= AUD_FRAME_HEADER_BYTES + BASE_SHA256_BYTES + 4) {
        uint8_t *frame = data + at, *body = frame + AUD_FRAME_HEADER_BYTES;
        uint32_t body_len = get32(frame + 4), canonical_len = get32(body + BASE_SHA256_BYTES);

        if (body_len > size - at - AUD_FRAME_HEADER_BYTES || body_len < BASE_SHA256_BYTES + 4)
            return;
        if (canonical_len <= body_len - BASE_SHA256_BYTES - 4) {
            prev = aud_chain_link(&prev, body + BASE_SHA256_BYTES + 4, canonical_len);
            memcpy(body, prev.bytes, sizeof(prev.bytes));
        }
        put32(frame + 16, base_crc32c(base_crc32c(0, frame + 4, 12), body, body_len));
        at += AUD_FRAME_HEADER_BYTES + body_len;
    }
}

static void scan(const uint8_t *data, size_t size, uint64_t limit_seq, uint64_t known_synced)
{
    struct aud_scan scan = {.instance = "gate-1", .limit_seq = limit_seq, .known_synced = known_synced};

    if (aud_segment_scan(data, size, &scan, NULL) != BASE_OK)
        return;
    if (scan.good_end > size || scan.good_end < AUD_SEGMENT_HEADER_BYTES ||
        scan.next_seq < scan.header.first_seq ||
        (scan.next_seq > limit_seq && scan.header.first_seq < limit_seq))
        abort();
    if (!scan.torn && limit_seq == UINT64_MAX && scan.good_end != size)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (copy == NULL)
        abort();
    scan(data, size, UINT64_MAX, 0);
    if (size > 0)
        memcpy(copy, data, size);
    repair(copy, size);
    scan(copy, size, UINT64_MAX, 0);
    scan(copy, size, UINT64_MAX, size);
    scan(copy, size, 2, 0);
    free(copy);
    return 0;
}
