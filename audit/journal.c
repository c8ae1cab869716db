/* The journal's files. See journal.h; the bytes are segment.h's.
 *
 * Invariants:
 *   1. segments are contiguous: each header says the sequence number and hash at which the one before it
 * ended; what stands in a file past that point is the surplus of a commit that failed, and counts for
 * nothing;
 *   2. a segment file appears under its name only with a durable header (written as new.tmp, synced, renamed,
 * folder synced);
 *   3. every byte below a segment's `bytes` was there when an fdatasync of the file returned 0;
 *   4. after fdatasync failed on a descriptor it is closed: the kernel may have dropped the dirty pages and a
 * second call would say "fine" (the "fsyncgate" of 2018). The chain goes on in a new file.
 *   5. the file `head` says how far the newest segment was durable. It is written after the sync and never
 * synced itself: it can only lag behind, and so may prove damage but never cause it.
 */
#include "audit/journal_priv.h"

#include "base/clock.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TMP_NAME         "new.tmp"
#define LOCK_NAME        "lock"
#define HEAD_NAME        "head"
#define HEAD_BYTES       28u /* "GHJHEAD1" | first_seq u64 | bytes u64 | crc32c u32 */
#define SEGMENT_FILE_MAX (AUD_SEGMENT_BYTES_MAX + AUD_COMMIT_BYTES_MAX + 4ull * AUD_FRAME_MAX)
#define SEGMENTS_MAX     65536u
#define PROBE_BYTES      (256u << 10)

void aud_segment_name(uint64_t first_seq, char out[SEGMENT_NAME_MAX])
{
    snprintf(out, SEGMENT_NAME_MAX, "%020llu.seg", (unsigned long long)first_seq);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

enum base_code aud_segment_list(const char *dir, uint64_t **ret_seqs, size_t *ret_n, struct base_err *err)
{
    DIR *d = opendir(dir);
    auto_free uint64_t *seqs = NULL;
    const struct dirent *entry;
    size_t n = 0;

    if (d == NULL)
        return base_fail(err, BASE_IO, errno, "journal folder %s", dir);
    seqs = base_alloc(SEGMENTS_MAX * sizeof(*seqs));
    while ((entry = readdir(d)) != NULL) {
        char name[SEGMENT_NAME_MAX];
        unsigned long long seq;

        if (strlen(entry->d_name) != 24 || sscanf(entry->d_name, "%20llu.seg", &seq) != 1)
            continue;
        aud_segment_name(seq, name);
        if (strcmp(name, entry->d_name) == 0 && n < SEGMENTS_MAX)
            seqs[n++] = seq;
    }
    closedir(d);
    qsort(seqs, n, sizeof(*seqs), by_number);
    *ret_seqs = TAKE(seqs);
    *ret_n = n;
    return BASE_OK;
}

/* --- small file work --- */

static bool write_all(int fd, const void *bytes, size_t n, uint64_t offset)
{
    const char *at = bytes;

    while (n > 0) {
        ssize_t done = pwrite(fd, at, n, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done == 0)
            errno = ENOSPC;
        if (done <= 0)
            return false;
        at += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return true;
}

static bool sync_counted(struct aud_journal *j, int fd)
{
    uint64_t start = base_mono_us();
    int rc = fdatasync(fd), kept = errno;

    pthread_mutex_lock(&j->lock);
    j->n_fsyncs++;
    j->fsync_us += base_mono_us() - start;
    pthread_mutex_unlock(&j->lock);
    errno = kept;
    return rc == 0;
}

static enum base_code io_code(int why)
{
    return why == ENOSPC || why == EDQUOT || why == EFBIG ? BASE_FULL : BASE_IO;
}

static void put64(unsigned char *at, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        at[i] = (unsigned char)(value >> 8 * (7 - i));
}

static uint64_t get64(const unsigned char *at)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < 8; i++)
        value = value << 8 | at[i];
    return value;
}

/* Best effort: invariant 5. */
static void head_write(struct aud_journal *j, const struct segment *segment)
{
    unsigned char bytes[HEAD_BYTES];
    uint32_t crc;

    memcpy(bytes, "GHJHEAD1", 8);
    put64(bytes + 8, segment->first_seq);
    put64(bytes + 16, segment->bytes);
    crc = base_crc32c(0, bytes, 24);
    bytes[24] = (unsigned char)(crc >> 24);
    bytes[25] = (unsigned char)(crc >> 16);
    bytes[26] = (unsigned char)(crc >> 8);
    bytes[27] = (unsigned char)crc;
    if (j->headfd >= 0)
        write_all(j->headfd, bytes, sizeof(bytes), 0);
}

static bool head_read(int fd, struct segment *ret_segment)
{
    unsigned char b[HEAD_BYTES];

    if (fd < 0 || pread(fd, b, sizeof(b), 0) != (ssize_t)sizeof(b) || memcmp(b, "GHJHEAD1", 8) != 0)
        return false;
    if (base_crc32c(0, b, 24) !=
        ((uint32_t)b[24] << 24 | (uint32_t)b[25] << 16 | (uint32_t)b[26] << 8 | b[27]))
        return false;
    ret_segment->first_seq = get64(b + 8);
    ret_segment->bytes = get64(b + 16);
    return true;
}

uint64_t aud_journal_known_bytes(const char *dir, uint64_t first_seq)
{
    auto_free char *path = base_alloc(strlen(dir) + sizeof(HEAD_NAME) + 1);
    struct segment known;
    bool found;
    int fd;

    sprintf(path, "%s/" HEAD_NAME, dir);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    found = head_read(fd, &known) && known.first_seq == first_seq;
    if (fd >= 0)
        close(fd);
    return found ? known.bytes : 0;
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
    fd = openat(j->dirfd, TMP_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return base_fail(err, io_code(errno), errno, "journal %s/" TMP_NAME, j->dir);
    if (!write_all(fd, bytes, sizeof(bytes), 0) || !sync_counted(j, fd)) {
        why = errno;
        close(fd);
        return base_fail(err, io_code(why), why, "journal %s/%s", j->dir, name);
    }
    /* From here on the name may exist, and with it the old segment ends: nothing is ever added to that one
     * again. */
    if (j->fd >= 0)
        close(j->fd);
    j->fd = -1;
    if (renameat(j->dirfd, TMP_NAME, j->dirfd, name) != 0 || fsync(j->dirfd) != 0) {
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
    head_write(j, &segment);
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

/* --- opening --- */

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
        (scan->good_end > known && !write_all(fd, bytes + known, scan->good_end - known, known)) ||
        !sync_counted(j, fd))
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
    bool has_known = head_read(j->headfd, &known);
    size_t n = 0;
    enum base_code rc = aud_segment_list(j->dir, &seqs, &n, err);

    if (rc != BASE_OK)
        return rc;
    unlinkat(j->dirfd, TMP_NAME, 0);
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
        head_write(j, &j->last);
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
    j->headfd = openat(j->dirfd, HEAD_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
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
    if (!write_all(j->fd, j->batch.data, j->batch.len, j->last.bytes)) {
        why = errno;
        if (ftruncate(j->fd, (off_t)j->last.bytes) != 0)
            abandon(j); /* what the write left cannot be taken back here: a new segment says that it does not
                           count */
        return base_fail(err, io_code(why), why, "journal %s", j->dir);
    }
    if (!sync_counted(j, j->fd)) {
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
    head_write(j, &j->last);
    return BASE_OK;
}

bool aud_journal_probe(struct aud_journal *j)
{
    struct statvfs vfs;
    int fd = j->fd >= 0 ? j->fd : j->headfd;
    off_t end = j->fd >= 0 ? (off_t)j->last.bytes : 0;

    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, end, PROBE_BYTES) == 0) {
        if (ftruncate(fd, j->fd >= 0 ? end : (off_t)HEAD_BYTES) != 0) /* gives the space back */
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
