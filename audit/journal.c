/* Writing the journal: segments and group commits. See journal.h; the bytes are segment.h's.
 *
 * Invariants:
 *   1. segments are contiguous: each header says the sequence number and hash at which the one before it
 *      ended; what stands in a file past that point is the surplus of a commit that failed, and counts
 *      for nothing;
 *   2. a segment file appears under its name only with a durable header (written as new.tmp, synced,
 *      renamed, folder synced);
 *   3. every byte below a segment's `bytes` was there when an fdatasync of the file returned 0;
 *   4. after fdatasync failed on a descriptor it is closed: the kernel may have dropped the dirty pages
 *      and a second call would say "fine" (the "fsyncgate" of 2018). The chain goes on in a new file.
 *   5. the file `head` says how far the newest segment was durable. It is written after the sync and
 *      never synced itself: it can only lag behind, and so may prove damage but never cause it.
 */
#include "audit/journal_priv.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PROBE_BYTES (256u << 10)

static enum base_code io_code(int why)
{
    return why == ENOSPC || why == EDQUOT || why == EFBIG ? BASE_FULL : BASE_IO;
}

/* --- segments --- */

/* Invariant 2. On success the new segment is the last one and j->fd its descriptor. */
static enum base_code segment_create(struct aud_journal *j, uint64_t first_seq, const struct aud_hash *prev,
                                     struct base_err *err)
{
    struct aud_segment_header header = {.first_seq = first_seq, .prev = *prev, .created_us = base_wall_us()};
    struct segment segment = {
        .first_seq = first_seq, .next_seq = first_seq, .bytes = AUD_SEGMENT_HEADER_BYTES};
    unsigned char bytes[AUD_SEGMENT_HEADER_BYTES];
    char name[SEGMENT_NAME_MAX];
    int fd, why;

    snprintf(header.instance, sizeof(header.instance), "%s", j->instance);
    aud_segment_header_write(&header, bytes);
    aud_segment_name(first_seq, name);
    fd = openat(j->dirfd, AUD_TMP_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return base_fail(err, io_code(errno), errno, "journal %s/" AUD_TMP_NAME, j->dir);
    if (!aud_file_write(fd, bytes, sizeof(bytes), 0) || !aud_journal_sync(j, fd)) {
        why = errno;
        close(fd);
        return base_fail(err, io_code(why), why, "journal %s/%s", j->dir, name);
    }
    /* From here on the name may exist, and with it the old segment ends: nothing is ever added to that one
     * again. */
    if (j->fd >= 0)
        close(j->fd);
    j->fd = -1;
    if (renameat(j->dirfd, AUD_TMP_NAME, j->dirfd, name) != 0 || fsync(j->dirfd) != 0) {
        why = errno;
        close(fd);
        return base_fail(err, io_code(why), why, "journal %s/%s", j->dir, name);
    }
    pthread_mutex_lock(&j->lock);
    if (j->n_segments == 0 || j->segments[j->n_segments - 1].first_seq != first_seq) {
        j->segments = base_realloc(j->segments, (j->n_segments + 1) * sizeof(*j->segments));
        j->n_segments++;
    } /* else: it replaced one that failed before it held a record */
    j->segments[j->n_segments - 1] = segment;
    pthread_mutex_unlock(&j->lock);
    j->last = segment;
    j->fd = fd;
    j->begun_ms = base_mono_ms();
    aud_head_write(j, &segment);
    return BASE_OK;
}

static void abandon(struct aud_journal *j)
{
    /* what the cut leaves or not is surplus by invariant 1; it spares the disk, nothing more */
    if (ftruncate(j->fd, (off_t)j->last.bytes) != 0)
        errno = 0;
    close(j->fd);
    j->fd = -1;
}

bool aud_journal_is_new(const struct aud_journal *j)
{
    return j->n_segments == 0;
}

enum base_code aud_journal_start(struct aud_journal *j, uint64_t next_seq, const struct aud_hash *head,
                                 struct base_err *err)
{
    j->head = *head;
    return segment_create(j, next_seq, head, err);
}

/* --- group commit --- */

enum base_code aud_journal_begin(struct aud_journal *j, struct base_err *err)
{
    base_buf_reset(&j->batch);
    j->batch_head = j->head;
    j->batch_next = j->last.next_seq;
    if (j->fd < 0 || j->last.bytes >= j->segment_bytes)
        return segment_create(j, j->last.next_seq, &j->head, err);
    return BASE_OK;
}

enum base_code aud_journal_add(struct aud_journal *j, struct aud_fields *fields, const void *payload,
                               size_t payload_len, uint64_t *ret_seq, struct base_err *err)
{
    struct aud_hash hash;
    enum base_code rc;

    fields->seq = j->batch_next;
    fields->instance = aud_journal_instance(j);
    base_buf_reset(&j->canonical);
    rc = aud_record_encode(fields, &j->canonical, err);
    if (rc != BASE_OK)
        return rc;
    hash = aud_chain_link(&j->batch_head, j->canonical.data, j->canonical.len);
    if (aud_frame_append(&j->batch, j->last.bytes, &hash, j->canonical.data, j->canonical.len, payload,
                         payload_len) != BASE_OK) {
        j->batch.failed = false; /* an append is all or nothing: what was added before stays good */
        return base_fail(err, BASE_TOO_LARGE, 0, "the commit passes %zu bytes", j->batch.max);
    }
    j->batch_head = hash;
    if (ret_seq != NULL)
        *ret_seq = j->batch_next;
    j->batch_next++;
    return BASE_OK;
}

enum base_code aud_journal_commit(struct aud_journal *j, struct base_err *err)
{
    int why;

    if (j->batch.len == 0)
        return BASE_OK;
    if (!aud_file_write(j->fd, j->batch.data, j->batch.len, j->last.bytes)) {
        why = errno;
        if (ftruncate(j->fd, (off_t)j->last.bytes) != 0)
            abandon(j); /* what the write left cannot be taken back here: a new segment says that it does not
                           count */
        return base_fail(err, io_code(why), why, "journal %s", j->dir);
    }
    if (!aud_journal_sync(j, j->fd)) {
        why = errno;
        abandon(j);
        return base_fail(err, BASE_IO, why, "journal %s: fdatasync", j->dir);
    }
    j->last.bytes += j->batch.len;
    j->last.next_seq = j->batch_next;
    j->head = j->batch_head;
    pthread_mutex_lock(&j->lock);
    j->segments[j->n_segments - 1] = j->last;
    pthread_mutex_unlock(&j->lock);
    aud_head_write(j, &j->last);
    return BASE_OK;
}

bool aud_journal_probe(struct aud_journal *j)
{
    struct statvfs vfs;
    int fd = j->fd >= 0 ? j->fd : j->headfd;
    off_t end = j->fd >= 0 ? (off_t)j->last.bytes : 0;

    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, end, PROBE_BYTES) == 0) {
        if (ftruncate(fd, j->fd >= 0 ? end : (off_t)AUD_HEAD_BYTES) != 0) /* gives the space back */
            return false;
        return true;
    }
    if (errno != EOPNOTSUPP)
        return false;
    return fstatvfs(j->dirfd, &vfs) == 0 && (uint64_t)vfs.f_bavail * vfs.f_frsize > PROBE_BYTES;
}

void aud_journal_tidy(struct aud_journal *j, uint64_t shipped_seq, uint64_t max_age_ms)
{
    const struct segment *last = &j->last;

    if (last->next_seq == last->first_seq || shipped_seq < last->next_seq ||
        base_mono_ms() - j->begun_ms < max_age_ms)
        return;
    segment_create(j, last->next_seq, &j->head, NULL); /* fails: the old one stays in use */
}

void aud_journal_drop_below(struct aud_journal *j, uint64_t seq)
{
    for (;;) {
        char name[SEGMENT_NAME_MAX];
        bool drop;

        pthread_mutex_lock(&j->lock);
        drop = j->n_segments > 1 && j->segments[0].next_seq <= seq;
        if (drop)
            aud_segment_name(j->segments[0].first_seq, name);
        pthread_mutex_unlock(&j->lock);
        /* the folder is synced each time: after a power cut the oldest may be gone, never one in the middle
         */
        if (!drop || (unlinkat(j->dirfd, name, 0) != 0 && errno != ENOENT) || fsync(j->dirfd) != 0)
            return;
        pthread_mutex_lock(&j->lock);
        j->n_segments--;
        memmove(j->segments, j->segments + 1, j->n_segments * sizeof(*j->segments));
        pthread_mutex_unlock(&j->lock);
    }
}

/* --- numbers --- */

struct aud_str aud_journal_instance(const struct aud_journal *j)
{
    return (struct aud_str){j->instance, (uint32_t)strlen(j->instance)};
}

uint64_t aud_journal_first_seq(struct aud_journal *j)
{
    uint64_t seq;

    pthread_mutex_lock(&j->lock);
    seq = j->segments[0].first_seq;
    pthread_mutex_unlock(&j->lock);
    return seq;
}

uint64_t aud_journal_next_seq(struct aud_journal *j)
{
    uint64_t seq;

    pthread_mutex_lock(&j->lock);
    seq = j->segments[j->n_segments - 1].next_seq;
    pthread_mutex_unlock(&j->lock);
    return seq;
}

uint64_t aud_journal_bytes(struct aud_journal *j)
{
    uint64_t total = 0;

    pthread_mutex_lock(&j->lock);
    for (size_t i = 0; i < j->n_segments; i++)
        total += j->segments[i].bytes;
    pthread_mutex_unlock(&j->lock);
    return total;
}

uint64_t aud_journal_fsyncs(struct aud_journal *j, uint64_t *ret_us_total)
{
    uint64_t n;

    pthread_mutex_lock(&j->lock);
    n = j->n_fsyncs;
    *ret_us_total = j->fsync_us;
    pthread_mutex_unlock(&j->lock);
    return n;
}

int64_t aud_journal_first_wall_us(const struct aud_journal *j)
{
    return j->first_wall_us;
}
