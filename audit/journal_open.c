/* Opening the journal: lock, check of every segment, the torn tail. See journal.h; the invariants are in journal.c. */
#include "audit/journal_priv.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_NAME        "lock"
#define SEGMENT_FILE_MAX (AUD_SEGMENT_BYTES_MAX + AUD_COMMIT_BYTES_MAX + 4ull * AUD_FRAME_MAX)

static enum base_code read_whole(struct aud_journal *j, const char *name, unsigned char **ret_bytes,
                                 size_t *ret_n, int *ret_fd, struct base_err *err)
{
    int fd = openat(j->dirfd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    auto_free unsigned char *bytes = NULL;
    struct stat st;
    size_t n = 0;

    if (fd < 0)
        return base_fail(err, BASE_IO, errno, "journal %s/%s", j->dir, name);
    if (fstat(fd, &st) != 0 || (uint64_t)st.st_size > SEGMENT_FILE_MAX) {
        close(fd);
        return base_fail(err, BASE_CORRUPT, 0, "journal %s/%s is no segment: larger than %llu bytes", j->dir,
                         name, (unsigned long long)SEGMENT_FILE_MAX);
    }
    bytes = base_alloc((size_t)st.st_size + 1);
    while (n < (size_t)st.st_size) {
        ssize_t got = pread(fd, bytes + n, (size_t)st.st_size - n, (off_t)n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            base_fail(err, BASE_IO, got < 0 ? errno : EIO, "journal %s/%s", j->dir, name);
            close(fd);
            return BASE_IO;
        }
        n += (size_t)got;
    }
    *ret_bytes = TAKE(bytes);
    *ret_n = n;
    *ret_fd = fd;
    return BASE_OK;
}

/* The last segment: cuts a torn tail, then makes durable what counts. The bytes past the known durable length
 * are written once more: after a crash of the process that had just seen fdatasync fail, the pages may be
 * clean and yet not on disk. */
static enum base_code settle_last(struct aud_journal *j, int fd, const unsigned char *bytes,
                                  const struct aud_scan *scan, const char *name, struct base_err *err)
{
    size_t known =
        scan->known_synced > AUD_SEGMENT_HEADER_BYTES ? scan->known_synced : AUD_SEGMENT_HEADER_BYTES;

    if ((scan->torn && ftruncate(fd, (off_t)scan->good_end) != 0) ||
        (scan->good_end > known && !aud_file_write(fd, bytes + known, scan->good_end - known, known)) ||
        !aud_journal_sync(j, fd))
        return base_fail(err, BASE_IO, errno, "journal %s/%s", j->dir, name);
    return BASE_OK;
}

static enum base_code open_segment(struct aud_journal *j, uint64_t first_seq, uint64_t limit_seq,
                                   const struct segment *known, struct base_err *err)
{
    struct aud_scan scan = {.instance = j->instance, .limit_seq = limit_seq};
    bool first = j->n_segments == 0, last = limit_seq == UINT64_MAX;
    auto_free unsigned char *bytes = NULL;
    char name[SEGMENT_NAME_MAX];
    enum base_code rc;
    size_t n = 0;
    int fd = -1;

    aud_segment_name(first_seq, name);
    if (known != NULL && known->first_seq == first_seq)
        scan.known_synced = known->bytes;
    rc = read_whole(j, name, &bytes, &n, &fd, err);
    if (rc != BASE_OK)
        return rc;
    rc = aud_segment_scan(bytes, n, &scan, err);
    if (rc != BASE_OK)
        base_fail_prefix(err, rc, "journal %s/%s", j->dir, name);
    else if (scan.header.first_seq != first_seq ||
             (!first && (j->last.next_seq != first_seq ||
                         memcmp(scan.header.prev.bytes, j->head.bytes, sizeof(j->head.bytes)) != 0)))
        rc = base_fail(err, BASE_CORRUPT, 0, "journal %s/%s does not follow the segment before it: offset 0",
                       j->dir, name);
    else if (last)
        rc = settle_last(j, fd, bytes, &scan, name, err);
    if (rc != BASE_OK || !last)
        close(fd);
    if (rc != BASE_OK)
        return rc;
    if (last)
        j->fd = fd;
    if (first)
        j->first_wall_us = scan.first_wall_us;
    j->last = (struct segment){first_seq, scan.next_seq, scan.good_end};
    j->segments[j->n_segments++] = j->last;
    j->head = scan.head;
    return BASE_OK;
}

static enum base_code recover(struct aud_journal *j, struct base_err *err)
{
    auto_free uint64_t *seqs = NULL;
    struct segment known;
    bool has_known = aud_head_read(j->headfd, &known);
    size_t n = 0;
    enum base_code rc = aud_segment_list(j->dir, &seqs, &n, err);

    if (rc != BASE_OK)
        return rc;
    unlinkat(j->dirfd, AUD_TMP_NAME, 0);
    if (has_known && (n == 0 || known.first_seq > seqs[n - 1]))
        return base_fail(err, BASE_CORRUPT, 0,
                         "journal %s: the segment that begins with record %llu is missing", j->dir,
                         (unsigned long long)known.first_seq);
    j->segments = base_alloc((n + 1) * sizeof(*j->segments));
    for (size_t i = 0; i < n; i++) {
        rc = open_segment(j, seqs[i], i + 1 < n ? seqs[i + 1] : UINT64_MAX, has_known ? &known : NULL, err);
        if (rc != BASE_OK)
            return rc;
    }
    j->begun_ms = base_mono_ms();
    if (n > 0)
        aud_head_write(j, &j->last);
    return BASE_OK;
}

/* Makes a missing folder durable too: its entry is in the parent. */
static enum base_code open_dir(struct aud_journal *j, struct base_err *err)
{
    struct stat st;

    if (mkdir(j->dir, 0700) == 0) {
        auto_free char *parent = base_alloc(strlen(j->dir) + 4);
        int fd;

        sprintf(parent, "%s/..", j->dir);
        fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) != 0) {
            int why = errno;

            if (fd >= 0)
                close(fd);
            return base_fail(err, BASE_IO, why, "journal folder %s", j->dir);
        }
        close(fd);
    } else if (errno != EEXIST)
        return base_fail(err, BASE_IO, errno, "journal folder %s cannot be made", j->dir);
    j->dirfd = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (j->dirfd < 0 || fstat(j->dirfd, &st) != 0)
        return base_fail(err, BASE_IO, errno, "journal folder %s", j->dir);
    if ((st.st_mode & 077) != 0 && fchmod(j->dirfd, 0700) != 0)
        return base_fail(err, BASE_DENIED, errno, "journal folder %s is open to others", j->dir);
    j->lockfd = openat(j->dirfd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (j->lockfd < 0)
        return base_fail(err, BASE_IO, errno, "journal %s/" LOCK_NAME, j->dir);
    if (flock(j->lockfd, LOCK_EX | LOCK_NB) != 0)
        return base_fail(err, BASE_EXISTS, 0, "journal %s is in use by another process", j->dir);
    j->headfd = openat(j->dirfd, AUD_HEAD_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return BASE_OK;
}

enum base_code aud_journal_open(struct aud_journal **ret_journal, const char *dir, const char *instance,
                                uint64_t max_bytes, struct base_err *err)
{
    struct aud_journal *j;
    enum base_code rc;

    if (!aud_instance_valid(instance, strlen(instance)))
        return base_fail(err, BASE_INVALID, 0, "instance is no name ([a-z0-9-]{1,32})");
    j = base_zalloc(sizeof(*j));
    j->dir = base_strdup(dir);
    j->dirfd = j->lockfd = j->headfd = j->fd = -1;
    snprintf(j->instance, sizeof(j->instance), "%s", instance);
    j->segment_bytes = max_bytes / 8; /* so that most of the cap is freed by shipping */
    j->segment_bytes = j->segment_bytes > AUD_SEGMENT_BYTES_MAX ? AUD_SEGMENT_BYTES_MAX : j->segment_bytes;
    j->segment_bytes = j->segment_bytes < AUD_SEGMENT_BYTES_MIN ? AUD_SEGMENT_BYTES_MIN : j->segment_bytes;
    pthread_mutex_init(&j->lock, NULL);
    base_buf_init(&j->batch, AUD_COMMIT_BYTES_MAX + 4ull * AUD_FRAME_MAX);
    base_buf_init(&j->canonical, AUD_CANONICAL_MAX);
    rc = open_dir(j, err);
    if (rc == BASE_OK)
        rc = recover(j, err);
    if (rc != BASE_OK) {
        aud_journal_free(j);
        return rc;
    }
    *ret_journal = j;
    return BASE_OK;
}

void aud_journal_free(struct aud_journal *j)
{
    if (j == NULL)
        return;
    if (j->fd >= 0)
        close(j->fd);
    if (j->headfd >= 0)
        close(j->headfd);
    if (j->lockfd >= 0)
        close(j->lockfd); /* lets go of the lock */
    if (j->dirfd >= 0)
        close(j->dirfd);
    base_buf_free(&j->batch);
    base_buf_free(&j->canonical);
    pthread_mutex_destroy(&j->lock);
    free(j->segments);
    free(j->dir);
    free(j);
}
