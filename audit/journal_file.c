/* The journal's files, one by one: names, whole writes, counted syncs, and the file `head`. See journal_priv.h. */
#include "audit/journal_priv.h"

#include "base/clock.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SEGMENTS_MAX 65536u

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

bool aud_file_write(int fd, const void *bytes, size_t n, uint64_t offset)
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

bool aud_journal_sync(struct aud_journal *j, int fd)
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

/* Best effort: invariant 5 of journal.c. */
void aud_head_write(struct aud_journal *j, const struct segment *segment)
{
    unsigned char bytes[AUD_HEAD_BYTES];
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
        aud_file_write(j->headfd, bytes, sizeof(bytes), 0);
}

bool aud_head_read(int fd, struct segment *ret_segment)
{
    unsigned char b[AUD_HEAD_BYTES];

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
    auto_free char *path = base_alloc(strlen(dir) + sizeof(AUD_HEAD_NAME) + 1);
    struct segment known;
    bool found;
    int fd;

    sprintf(path, "%s/" AUD_HEAD_NAME, dir);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    found = aud_head_read(fd, &known) && known.first_seq == first_seq;
    if (fd >= 0)
        close(fd);
    return found ? known.bytes : 0;
}
