/* The bytes of a journal segment: header, then framed records. Pure functions over memory; journal.h does
 * the files.
 *
 *   header  "GHJRNL01" | instance, 32 bytes | first_seq u64 | prev_hash 32 | created_us i64 | crc32c u32
 *   frame   "GHRF" | body_len u32 | synced u64 | crc32c u32 | body
 *   body    hash 32 | canonical_len u32 | canonical | payload
 *
 * Numbers are big-endian, the instance is zero-padded. A CRC covers what stands before it in the header or
 * frame (without the frame's mark) and the body. `synced` is the file offset up to which everything was
 * durable when the frame was built: two frames of one group commit have the same. It tells a torn tail
 * (frames of the one commit that was under way) from damage to something acknowledged.
 *
 * Promises: no input makes a read past its end; a frame that parses has sizes within their limits, nothing
 *           more: scan recomputes the chain.
 */
#ifndef AUDIT_SEGMENT_H
#define AUDIT_SEGMENT_H

#include "audit/chain.h"
#include "audit/record.h"

#define AUD_SEGMENT_HEADER_BYTES 92u
#define AUD_FRAME_HEADER_BYTES   20u
#define AUD_FRAME_MAX            (AUD_FRAME_HEADER_BYTES + BASE_SHA256_BYTES + 4u + AUD_CANONICAL_MAX + AUD_PAYLOAD_MAX)

struct aud_segment_header {
    char instance[AUD_INSTANCE_MAX + 1];
    uint64_t first_seq;
    struct aud_hash prev;
    int64_t created_us;
};

void aud_segment_header_write(const struct aud_segment_header *header,
                              unsigned char out[AUD_SEGMENT_HEADER_BYTES]);
enum base_code aud_segment_header_parse(const unsigned char *bytes, size_t n,
                                        struct aud_segment_header *ret_header, struct base_err *err);

struct aud_frame {
    size_t size; /* whole frame */
    uint64_t synced;
    struct aud_hash hash;
    const unsigned char *canonical, *payload;
    uint32_t canonical_len, payload_len;
};

enum base_code aud_frame_append(struct base_buf *out, uint64_t synced, const struct aud_hash *hash,
                                const void *canonical, size_t canonical_len, const void *payload,
                                size_t payload_len);
/* BASE_OK; BASE_NOT_FOUND: no more than a beginning is here, ret_frame->size says how many bytes are needed
 * (0: not even that is known); BASE_CORRUPT. ret_frame points into bytes. */
enum base_code aud_frame_parse(const unsigned char *bytes, size_t n, struct aud_frame *ret_frame);

/* Checks one frame against the chain: sequence number, instance, hash over the canonical bytes, digest of the
 * payload. */
enum base_code aud_frame_check(const struct aud_frame *frame, const char *instance, uint64_t seq,
                               const struct aud_hash *prev, struct aud_fields *ret_fields,
                               struct base_err *err);

struct aud_scan {
    /* asked */
    const char *instance;
    uint64_t limit_seq;    /* stop here: the next segment goes on from it (UINT64_MAX: the last segment) */
    uint64_t known_synced; /* offset known to have been durable; 0 when not known */
    /* found */
    struct aud_segment_header header;
    uint64_t next_seq;
    struct aud_hash head;
    size_t good_end;       /* offset after the last good frame */
    bool torn;             /* bytes after good_end are the rest of a commit that was never acknowledged */
    int64_t first_wall_us; /* of the first record; 0: none */
};

/* A whole segment. BASE_CORRUPT names the offset in its detail. */
enum base_code aud_segment_scan(const unsigned char *bytes, size_t n, struct aud_scan *scan,
                                struct base_err *err);

#endif
