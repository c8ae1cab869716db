/* Mappings kept for a mapper to come. See kept.h. */
#include "audit/kept.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "mappings.kept"

struct aud_kept {
    int fd;
    size_t bytes;
};

/* The file's bytes, owned; they are AUD_KEPT_MAX at most. */
static enum base_code load(const struct aud_kept *kept, size_t n, unsigned char **ret_bytes,
                           struct base_err *err)
{
    auto_free unsigned char *bytes = base_alloc(n + 1);

    for (size_t done = 0; done < n;) {
        ssize_t got = pread(kept->fd, bytes + done, n - done, (off_t)done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return base_fail(err, BASE_IO, got < 0 ? errno : EIO, "journal: " NAME);
        done += (size_t)got;
    }
    *ret_bytes = TAKE(bytes);
    return BASE_OK;
}

/* Calls fn (which may be NULL) for every whole frame; *ret_end is where they end. */
static enum base_code walk(const unsigned char *bytes, size_t n, aud_kept_fn *fn, void *user, size_t *ret_end,
                           struct base_err *err)
{
    struct aud_frame frame;
    size_t at = 0;

    while (at < n && aud_frame_parse(bytes + at, n - at, &frame) == BASE_OK) {
        struct aud_fields fields;
        enum base_code rc = aud_record_decode(frame.canonical, frame.canonical_len, &fields, err);

        if (rc == BASE_OK && fn != NULL)
            rc = fn(&fields, &frame, user, err);
        if (rc != BASE_OK)
            return rc;
        at += frame.size;
    }
    *ret_end = at;
    return BASE_OK;
}

enum base_code aud_kept_open(struct aud_kept **ret_kept, const char *dir, struct base_err *err)
{
    auto_free char *path = base_alloc(strlen(dir) + sizeof(NAME) + 1);
    auto_free unsigned char *bytes = NULL;
    struct aud_kept *kept = base_zalloc(sizeof(*kept));
    enum base_code rc = BASE_OK;
    struct stat st;

    sprintf(path, "%s/" NAME, dir);
    kept->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (kept->fd < 0 || fstat(kept->fd, &st) != 0)
        rc = base_fail(err, BASE_IO, errno, "journal %s", path);
    else if ((uint64_t)st.st_size > 2ull * AUD_KEPT_MAX)
        rc = base_fail(err, BASE_CORRUPT, 0, "journal %s is larger than it can be", path);
    if (rc == BASE_OK)
        rc = load(kept, (size_t)st.st_size, &bytes, err);
    if (rc == BASE_OK)
        rc = walk(bytes, (size_t)st.st_size, NULL, NULL, &kept->bytes, err);
    if (rc == BASE_OK && kept->bytes < (size_t)st.st_size && ftruncate(kept->fd, (off_t)kept->bytes) != 0)
        rc = base_fail(err, BASE_IO, errno, "journal %s", path);
    if (rc != BASE_OK) {
        aud_kept_free(kept);
        return rc;
    }
    *ret_kept = kept;
    return BASE_OK;
}

void aud_kept_free(struct aud_kept *kept)
{
    if (kept == NULL)
        return;
    if (kept->fd >= 0)
        close(kept->fd);
    free(kept);
}

enum base_code aud_kept_add(struct aud_kept *kept, const struct aud_frame *frame, struct base_err *err)
{
    struct base_buf out = BASE_BUF_INIT(AUD_FRAME_MAX);
    enum base_code rc = BASE_OK;
    ssize_t done;

    if (kept->bytes >= AUD_KEPT_MAX)
        return BASE_OK;
    aud_frame_append(&out, 0, &frame->hash, frame->canonical, frame->canonical_len, frame->payload,
                     frame->payload_len);
    done = pwrite(kept->fd, out.data, out.len,
                  (off_t)kept->bytes); /* a short write is written over by the next try */
    if (done != (ssize_t)out.len || fdatasync(kept->fd) != 0)
        rc = base_fail(err, BASE_IO, done < 0 ? errno : EIO, "journal: " NAME);
    else
        kept->bytes += out.len;
    base_buf_free(&out);
    return rc;
}

bool aud_kept_empty(const struct aud_kept *kept)
{
    return kept->bytes == 0;
}

enum base_code aud_kept_each(struct aud_kept *kept, aud_kept_fn *fn, void *user, struct base_err *err)
{
    auto_free unsigned char *bytes = NULL;
    size_t end;
    enum base_code rc = load(kept, kept->bytes, &bytes, err);

    return rc == BASE_OK ? walk(bytes, kept->bytes, fn, user, &end, err) : rc;
}

enum base_code aud_kept_clear(struct aud_kept *kept, struct base_err *err)
{
    if (ftruncate(kept->fd, 0) != 0)
        return base_fail(err, BASE_IO, errno, "journal: " NAME);
    kept->bytes = 0;
    return BASE_OK;
}
