/* What journal.c (writing), journal_open.c, journal_file.c and cursor.c (reading) share. */
#ifndef AUDIT_JOURNAL_PRIV_H
#define AUDIT_JOURNAL_PRIV_H

#include "audit/journal.h"

#include <pthread.h>

#define SEGMENT_NAME_MAX 32
#define AUD_TMP_NAME     "new.tmp"
#define AUD_HEAD_NAME    "head"
#define AUD_HEAD_BYTES   28u /* "GHJHEAD1" | first_seq u64 | bytes u64 | crc32c u32 */

struct segment {
    uint64_t first_seq, next_seq; /* durable records: first_seq .. next_seq - 1 */
    uint64_t bytes;               /* durable length */
};

struct aud_journal {
    char *dir;
    int dirfd, lockfd;
    char instance[AUD_INSTANCE_MAX + 1];
    uint64_t segment_bytes; /* a new segment is begun past this */

    pthread_mutex_t lock;     /* guards segments, n_segments, n_fsyncs, fsync_us */
    struct segment *segments; /* oldest first; the last one is being written */
    size_t n_segments;
    uint64_t n_fsyncs, fsync_us;

    /* the writer's alone */
    struct segment last; /* what the last of `segments` is */
    struct aud_hash head;
    int fd; /* of the last segment; -1: it takes no more, begin makes a new one */
    int headfd;
    uint64_t begun_ms; /* when the last segment was made */
    int64_t first_wall_us;
    struct base_buf batch, canonical;
    struct aud_hash batch_head;
    uint64_t batch_next;
};

/* False with errno. */
bool aud_file_write(int fd, const void *bytes, size_t n, uint64_t offset);
/* fdatasync, counted and timed. */
bool aud_journal_sync(struct aud_journal *journal, int fd);
void aud_head_write(struct aud_journal *journal, const struct segment *segment);
bool aud_head_read(int fd, struct segment *ret_segment);
/* How many bytes of this segment were durable, by the folder's file `head`; 0 when it does not say. */
uint64_t aud_journal_known_bytes(const char *dir, uint64_t first_seq);
void aud_segment_name(uint64_t first_seq, char out[SEGMENT_NAME_MAX]);
/* The first sequence numbers of the segment files in a folder, ascending; owned. */
enum base_code aud_segment_list(const char *dir, uint64_t **ret_seqs, size_t *ret_n, struct base_err *err);

#endif
