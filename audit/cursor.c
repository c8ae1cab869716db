/* Reading the journal back, record by record. See journal.h.
 *
 * A cursor of an open journal reads no further than what is durable; a cursor of a folder reads what it
 * finds, and takes an incomplete or torn frame in the newest file for the end (its writer may be at work).
 * The file is read with pread through a buffer, never mapped: a writer that cuts a torn tail would turn a map
 * into SIGBUS.
 */
#include "audit/journal_priv.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define READ_AHEAD (1u << 20)

struct aud_cursor {
    struct aud_journal *journal; /* NULL: a folder that someone else may write */
    char *dir;
    int fd;
    struct segment segment; /* of the open file; of a folder: next_seq is the next segment's first, UINT64_MAX
                               for the newest */
    uint64_t seq;           /* of the next record */
    uint64_t offset;        /* of the next frame in the file */
    struct aud_hash prev;   /* before the next record */
    unsigned char *buffer;  /* bytes of the file from buffer_at on */
    uint64_t buffer_at;
    size_t buffer_len, buffer_cap;
};

struct aud_cursor *aud_cursor_new(struct aud_journal *journal, const char *dir)
{
    struct aud_cursor *c = base_zalloc(sizeof(*c));

    c->journal = journal;
    c->dir = base_strdup(journal != NULL ? journal->dir : dir);
    c->fd = -1;
    return c;
}

void aud_cursor_free(struct aud_cursor *c)
{
    if (c == NULL)
        return;
    if (c->fd >= 0)
        close(c->fd);
    free(c->buffer);
    free(c->dir);
    free(c);
}

/* The segment that holds `seq`, or whose end it is (the newest one only). */
static enum base_code find_segment(struct aud_cursor *c, uint64_t seq, struct segment *ret_segment,
                                   struct base_err *err)
{
    auto_free uint64_t *seqs = NULL;
    struct segment found = {.first_seq = UINT64_MAX};
    enum base_code rc;
    size_t n = 0;

    if (c->journal != NULL) {
        pthread_mutex_lock(&c->journal->lock);
        for (size_t i = 0; i < c->journal->n_segments; i++)
            if (c->journal->segments[i].first_seq <= seq)
                found = c->journal->segments[i];
        pthread_mutex_unlock(&c->journal->lock);
        if (found.first_seq == UINT64_MAX || seq > found.next_seq)
            return base_fail(err, BASE_NOT_FOUND, 0, "journal %s does not hold record %llu", c->dir,
                             (unsigned long long)seq);
        *ret_segment = found;
        return BASE_OK;
    }
    rc = aud_segment_list(c->dir, &seqs, &n, err);
    if (rc != BASE_OK)
        return rc;
    for (size_t i = 0; i < n; i++)
        if (seqs[i] <= seq)
            found = (struct segment){seqs[i], i + 1 < n ? seqs[i + 1] : UINT64_MAX, UINT64_MAX};
    if (found.first_seq == UINT64_MAX)
        return base_fail(err, BASE_NOT_FOUND, 0, "journal %s does not hold record %llu", c->dir,
                         (unsigned long long)seq);
    *ret_segment = found;
    return BASE_OK;
}

/* Makes [offset, offset + need) stand in the buffer as far as the file goes (up to `limit`); *ret_have is how
 * much does. */
static enum base_code fill(struct aud_cursor *c, size_t need, uint64_t limit, size_t *ret_have,
                           struct base_err *err)
{
    size_t want = need > READ_AHEAD ? need : READ_AHEAD, got_total = 0;

    if (c->offset >= c->buffer_at && c->offset - c->buffer_at <= c->buffer_len &&
        c->buffer_len - (size_t)(c->offset - c->buffer_at) >= need) {
        *ret_have = c->buffer_len - (size_t)(c->offset - c->buffer_at);
        return BASE_OK;
    }
    if (limit - c->offset < want)
        want = (size_t)(limit - c->offset);
    if (want > c->buffer_cap) {
        c->buffer = base_realloc(c->buffer, want);
        c->buffer_cap = want;
    }
    while (got_total < want) {
        ssize_t got = pread(c->fd, c->buffer + got_total, want - got_total, (off_t)(c->offset + got_total));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return base_fail(err, BASE_IO, errno, "journal %s", c->dir);
        if (got == 0)
            break;
        got_total += (size_t)got;
    }
    c->buffer_at = c->offset;
    c->buffer_len = got_total;
    *ret_have = got_total;
    return BASE_OK;
}

static enum base_code open_file(struct aud_cursor *c, const struct segment *segment,
                                struct aud_segment_header *ret_header, struct base_err *err)
{
    auto_free char *path = base_alloc(strlen(c->dir) + SEGMENT_NAME_MAX + 2);
    unsigned char bytes[AUD_SEGMENT_HEADER_BYTES];
    char name[SEGMENT_NAME_MAX];
    enum base_code rc;
    ssize_t n;

    aud_segment_name(segment->first_seq, name);
    sprintf(path, "%s/%s", c->dir, name);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (c->fd < 0)
        return base_fail(err, BASE_IO, errno, "journal %s", path);
    n = pread(c->fd, bytes, sizeof(bytes), 0);
    rc = aud_segment_header_parse(bytes, n > 0 ? (size_t)n : 0, ret_header, err);
    if (rc == BASE_OK && ret_header->first_seq != segment->first_seq)
        rc = base_fail(err, BASE_CORRUPT, 0, "the header at offset 0 has another first record");
    if (rc != BASE_OK)
        return base_fail_prefix(err, rc, "journal %s", path);
    c->segment = *segment;
    c->seq = segment->first_seq;
    c->offset = AUD_SEGMENT_HEADER_BYTES;
    c->prev = ret_header->prev;
    c->buffer_len = 0;
    return BASE_OK;
}

enum base_code aud_cursor_oldest(struct aud_cursor *c, struct aud_segment_header *ret_header,
                                 struct base_err *err)
{
    auto_free uint64_t *seqs = NULL;
    size_t n = 0;
    enum base_code rc = aud_segment_list(c->dir, &seqs, &n, err);

    if (rc != BASE_OK)
        return rc;
    if (n == 0)
        return base_fail(err, BASE_NOT_FOUND, 0, "journal %s is empty", c->dir);
    return open_file(c, &(struct segment){seqs[0], n > 1 ? seqs[1] : UINT64_MAX, UINT64_MAX}, ret_header,
                     err);
}

/* Goes on to the file that holds the next record, when it is another one by now. */
static enum base_code follow(struct aud_cursor *c, struct base_err *err)
{
    struct aud_hash prev = c->prev;
    struct aud_segment_header header;
    struct segment now;
    uint64_t seq = c->seq;
    enum base_code rc = find_segment(c, seq, &now, err);

    if (rc != BASE_OK)
        return rc;
    if (now.first_seq == c->segment.first_seq) {
        c->segment = now; /* it may have grown, or been followed by another */
        return BASE_OK;
    }
    rc = open_file(c, &now, &header, err);
    if (rc == BASE_OK &&
        (now.first_seq != seq || memcmp(header.prev.bytes, prev.bytes, sizeof(prev.bytes)) != 0))
        rc = base_fail(err, BASE_CORRUPT, 0,
                       "journal %s: the segment of record %llu does not follow the one before", c->dir,
                       (unsigned long long)seq);
    return rc;
}

/* One frame at the offset. BASE_NOT_FOUND: not (yet) whole; BASE_CORRUPT: no frame. */
static enum base_code read_frame(struct aud_cursor *c, struct aud_frame *ret_frame, struct base_err *err)
{
    size_t have = 0, need = AUD_FRAME_HEADER_BYTES;

    for (;;) {
        enum base_code rc = fill(c, need, c->segment.bytes, &have, err);

        if (rc != BASE_OK)
            return rc;
        rc = aud_frame_parse(c->buffer + (c->offset - c->buffer_at), have, ret_frame);
        if (rc != BASE_NOT_FOUND || ret_frame->size <= need) /* not even with all that it asked for */
            return rc;
        need = ret_frame->size;
    }
}

static enum base_code accept_frame(struct aud_cursor *c, const struct aud_frame *frame)
{
    c->offset += frame->size;
    c->prev = frame->hash;
    c->seq++;
    return BASE_OK;
}

static enum base_code damaged(const struct aud_cursor *c, struct base_err *err)
{
    return base_fail(err, BASE_CORRUPT, 0, "journal %s: record %llu is damaged at offset %llu", c->dir,
                     (unsigned long long)c->seq, (unsigned long long)c->offset);
}

/* No whole frame here in the newest file of a folder: its writer is at work, or has gone on to another file,
 * or the file `head` says that something durable stood here. */
static enum base_code at_open_end(struct aud_cursor *c, struct aud_frame *ret_frame, struct base_err *err)
{
    uint64_t was = c->segment.first_seq;
    enum base_code rc = follow(c, err);

    if (rc != BASE_OK)
        return rc;
    if (c->segment.first_seq != was || c->segment.next_seq != UINT64_MAX)
        return aud_cursor_next(c, ret_frame, err);
    if (aud_journal_known_bytes(c->dir, was) <= c->offset)
        return base_fail(err, BASE_NOT_FOUND, 0, "the end of the journal");
    c->buffer_len = 0; /* it may have become durable since it was read */
    rc = read_frame(c, ret_frame, err);
    if (rc == BASE_OK)
        return accept_frame(c, ret_frame);
    return rc == BASE_IO ? rc : damaged(c, err);
}

enum base_code aud_cursor_next(struct aud_cursor *c, struct aud_frame *ret_frame, struct base_err *err)
{
    enum base_code rc = BASE_OK;

    if (c->fd < 0)
        return base_fail(err, BASE_INTERNAL, 0, "the cursor was not set to a place");
    if (c->seq == c->segment.next_seq) {
        rc = follow(c, err);
        if (rc == BASE_OK && c->seq == c->segment.next_seq)
            rc = base_fail(err, BASE_NOT_FOUND, 0, "the end of the journal");
    }
    if (rc != BASE_OK)
        return rc;
    rc = read_frame(c, ret_frame, err);
    if (rc == BASE_OK)
        return accept_frame(c, ret_frame);
    if (rc == BASE_IO)
        return rc;
    if (c->journal == NULL && c->segment.next_seq == UINT64_MAX)
        return at_open_end(c, ret_frame, err);
    return damaged(c, err);
}

enum base_code aud_cursor_seek(struct aud_cursor *c, uint64_t seq, struct aud_hash *ret_prev,
                               struct base_err *err)
{
    struct aud_segment_header header;
    struct aud_frame frame;
    struct segment segment;
    enum base_code rc = find_segment(c, seq, &segment, err);

    if (rc == BASE_OK)
        rc = open_file(c, &segment, &header, err);
    while (rc == BASE_OK && c->seq < seq)
        rc = aud_cursor_next(c, &frame, err);
    if (rc == BASE_OK)
        *ret_prev = c->prev;
    return rc;
}
