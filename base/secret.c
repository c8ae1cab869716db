/* Secrets. See secret.h. */
#include "base/secret.h"

#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct base_secret {
    size_t mapped, len;
    unsigned char bytes[];
};

static struct base_secret *secret_map(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped = (sizeof(struct base_secret) + n + 1 + page - 1) / page * page;
    struct base_secret *secret =
        mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (secret == MAP_FAILED)
        abort();
    /* both are best effort: a refusal weakens nothing but the core dump or the swap file */
    (void)madvise(secret, mapped, MADV_DONTDUMP);
    (void)mlock(secret, mapped);
    secret->mapped = mapped;
    secret->len = n;
    return secret;
}

struct base_secret *base_secret_new(const void *bytes, size_t n)
{
    struct base_secret *secret;

    if (n > BASE_SECRET_MAX)
        abort();
    secret = secret_map(n);
    if (n > 0)
        memcpy(secret->bytes, bytes, n);
    return secret;
}

static enum base_code read_all(int fd, struct base_secret *secret, const char *path, struct base_err *err)
{
    size_t got = 0;

    while (got < secret->len) {
        ssize_t n = read(fd, secret->bytes + got, secret->len - got);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return base_fail(err, BASE_IO, errno, "secret file %s cannot be read", path);
        if (n == 0)
            break;
        got += (size_t)n;
    }
    secret->len = got;
    if (got > 0 && secret->bytes[got - 1] == '\n')
        secret->bytes[--secret->len] = '\0';
    return BASE_OK;
}

enum base_code base_secret_read_file(struct base_secret **ret_secret, const char *path, struct base_err *err)
{
    auto_secret struct base_secret *secret = NULL;
    struct stat st;
    enum base_code rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd < 0)
        return base_fail(err, errno == ENOENT ? BASE_NOT_FOUND : BASE_IO, errno, "secret file %s", path);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = base_fail(err, BASE_INVALID, 0, "secret file %s is not a regular file", path);
    else if ((st.st_mode & 077) != 0)
        rc = base_fail(err, BASE_DENIED, 0,
                       "secret file %s is open to others (mode %04o): run chmod 600 on it", path,
                       (unsigned)st.st_mode & 07777u);
    else if (st.st_size > (off_t)BASE_SECRET_MAX)
        rc = base_fail(err, BASE_TOO_LARGE, 0, "secret file %s is larger than %u bytes", path,
                       BASE_SECRET_MAX);
    else if (st.st_size == 0)
        rc = base_fail(err, BASE_INVALID, 0, "secret file %s is empty", path);
    else {
        secret = secret_map((size_t)st.st_size);
        rc = read_all(fd, secret, path, err);
    }
    close(fd);
    if (rc == BASE_OK)
        *ret_secret = TAKE(secret);
    return rc;
}

enum base_code base_secret_read_key_file(struct base_secret **ret_key, const char *path, struct base_err *err)
{
    auto_secret struct base_secret *text = NULL;
    unsigned char key[BASE_KEY_BYTES];
    size_t n = 0;
    enum base_code rc = base_secret_read_file(&text, path, err);

    if (rc != BASE_OK)
        return rc;
    if (base_hex_decode((const char *)text->bytes, text->len, key, sizeof(key), &n) != BASE_OK ||
        n != sizeof(key)) {
        base_wipe(key, sizeof(key));
        return base_fail(err, BASE_INVALID, 0,
                         "key file %s must hold 64 hexadecimal digits: openssl rand -hex 32 makes one", path);
    }
    *ret_key = base_secret_new(key, sizeof(key));
    base_wipe(key, sizeof(key));
    return BASE_OK;
}

void base_secret_free(struct base_secret *secret)
{
    if (secret == NULL)
        return;
    size_t mapped = secret->mapped;

    base_wipe(secret, mapped);
    munmap(secret, mapped);
}

const unsigned char *base_secret_bytes(const struct base_secret *secret)
{
    return secret->bytes;
}

size_t base_secret_len(const struct base_secret *secret)
{
    return secret->len;
}

void base_wipe(void *p, size_t n)
{
    if (n == 0)
        return;
    explicit_bzero(p, n);
}
