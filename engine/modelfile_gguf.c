/* GGUF: see modelfile_gguf.h.
 *
 * Invariants of the parse:
 * 1. `cur.left` bytes of the file follow `cur.p`, and the first `have` bytes of the file are in memory; only take() moves the cursor,
 *    and only after comparing with `left` and reading up to its end.
 * 2. A count is compared with its named limit and with what the bytes left could hold before anything is allocated for it.
 * 3. Once parsed, every kv's value lies wholly in memory (strings of an array included), and every tensor's data inside the file.
 *
 * A file's directory is read piece by piece into address space reserved for the largest one allowed: pointers into it stay, and
 * what is not needed takes no memory.
 */
#include "engine/modelfile_gguf.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NO_SLOT     UINT32_MAX
#define PIECE_BYTES (256u << 10) /* read at once */

/* Open addressing over indices: a hostile file cannot make look-ups slow, since the table is at most half full and the hash is
 * seeded per process. */
struct index {
    uint32_t *slots; /* NO_SLOT: empty */
    uint32_t mask;
};

struct eng_gguf {
    const uint8_t *bytes;
    size_t len;      /* of the file */
    size_t have;     /* of it in memory, from its start */
    int fd;          /* -1: none, all is in memory or the file is closed */
    uint8_t *room;   /* the file's directory; NULL: borrowed bytes */
    size_t room_len; /* mapped */
    int read_errno;
    bool is_shorter, is_past_room;
    uint32_t version;
    uint64_t alignment;
    struct eng_gguf_kv *kvs;
    size_t n_kv;
    struct eng_gguf_tensor *tensors;
    size_t n_tensors;
    struct index kv_index, tensor_index;
};

struct cursor {
    struct eng_gguf *gguf;
    const uint8_t *p;
    uint64_t left;
};

static const uint8_t value_bytes[] = {
    [ENG_GGUF_U8] = 1,  [ENG_GGUF_I8] = 1,     [ENG_GGUF_U16] = 2,   [ENG_GGUF_I16] = 2, [ENG_GGUF_U32] = 4,
    [ENG_GGUF_I32] = 4, [ENG_GGUF_F32] = 4,    [ENG_GGUF_BOOL] = 1,  [ENG_GGUF_U64] = 8, [ENG_GGUF_I64] = 8,
    [ENG_GGUF_F64] = 8, [ENG_GGUF_STRING] = 0, [ENG_GGUF_ARRAY] = 0,
};

/* Reads exactly n bytes. False: *ret_errno tells why, 0 the file's end. */
static bool read_at(int fd, uint8_t *out, size_t n, uint64_t from, int *ret_errno)
{
    *ret_errno = 0;
    while (n > 0) {
        ssize_t got = pread(fd, out, n < 1u << 30 ? n : 1u << 30, (off_t)from);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            *ret_errno = got < 0 ? errno : 0;
            return false;
        }
        out += got;
        from += (uint64_t)got;
        n -= (size_t)got;
    }
    return true;
}

/* Makes the first n bytes of the file (n <= len) present. */
static bool fill(struct eng_gguf *gguf, size_t n)
{
    size_t end = (n + PIECE_BYTES - 1) / PIECE_BYTES * PIECE_BYTES;

    if (n <= gguf->have)
        return true;
    if (gguf->fd < 0 || gguf->read_errno != 0 || gguf->is_shorter)
        return false;
    if (n > gguf->room_len) {
        gguf->is_past_room = true;
        return false;
    }
    end = end < gguf->len ? end : gguf->len;
    end = end < gguf->room_len ? end : gguf->room_len;
    if (!read_at(gguf->fd, gguf->room + gguf->have, end - gguf->have, gguf->have, &gguf->read_errno)) {
        gguf->is_shorter = gguf->read_errno == 0;
        return false;
    }
    gguf->have = end;
    return true;
}

static const uint8_t *take(struct cursor *cur, uint64_t n)
{
    const uint8_t *p = cur->p;

    if (n > cur->left || !fill(cur->gguf, (size_t)(p - cur->gguf->bytes) + n))
        return NULL;
    cur->p += n;
    cur->left -= n;
    return p;
}

static bool take_u32(struct cursor *cur, uint32_t *ret_value)
{
    const uint8_t *p = take(cur, 4);

    if (p != NULL)
        memcpy(ret_value, p, 4);
    return p != NULL;
}

static bool take_u64(struct cursor *cur, uint64_t *ret_value)
{
    const uint8_t *p = take(cur, 8);

    if (p != NULL)
        memcpy(ret_value, p, 8);
    return p != NULL;
}

/* A counted string of at most `max` bytes. */
static enum base_code take_str(struct cursor *cur, uint64_t max, struct eng_str *ret_str)
{
    uint64_t n;
    const uint8_t *p;

    if (!take_u64(cur, &n))
        return BASE_INVALID;
    if (n > max)
        return BASE_TOO_LARGE;
    p = take(cur, n);
    if (p == NULL)
        return BASE_INVALID;
    *ret_str = (struct eng_str){(const char *)p, (size_t)n};
    return BASE_OK;
}

/* The name for an error message: short and printable whatever the file holds. */
static const char *shown(struct eng_str s, char out[72])
{
    size_t n = s.n < 64 ? s.n : 64;

    for (size_t i = 0; i < n; i++)
        out[i] = s.p[i] >= ' ' && s.p[i] <= '~' ? s.p[i] : '?';
    memcpy(out + n, s.n > 64 ? "..." : "", s.n > 64 ? 4 : 1);
    return out;
}

static uint64_t str_hash(struct eng_str s)
{
    uint64_t h = 0x9e3779b97f4a7c15ull ^ (uint64_t)(uintptr_t)&value_bytes; /* the load address is the seed */

    for (size_t i = 0; i < s.n; i++) {
        h = (h ^ (uint8_t)s.p[i]) * 0xd6e8feb86659fd93ull;
        h ^= h >> 32;
    }
    return h;
}

static bool str_equal(struct eng_str a, struct eng_str b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

static bool index_init(struct index *index, size_t n)
{
    uint32_t size = 8;

    while (size < 2 * n)
        size *= 2;
    index->slots = base_try_zarray(size, sizeof(*index->slots));
    if (index->slots == NULL)
        return false;
    memset(index->slots, 0xff, size * sizeof(*index->slots));
    index->mask = size - 1;
    return true;
}

/* The slot that holds `name` or the empty one where it belongs. `names` steps by `stride` bytes over structs that begin with
 * their name. */
static uint32_t *index_slot(const struct index *index, const void *items, size_t stride, struct eng_str name)
{
    for (uint64_t h = str_hash(name);; h++) {
        uint32_t *slot = &index->slots[h & index->mask];
        const struct eng_str *have;

        if (*slot == NO_SLOT)
            return slot;
        have = (const void *)((const char *)items + *slot * stride);
        if (str_equal(*have, name))
            return slot;
    }
}

/* Walks over one value (not an array) of `type`. */
static enum base_code skip_value(struct cursor *cur, enum eng_gguf_type type)
{
    struct eng_str s;

    if (type == ENG_GGUF_STRING)
        return take_str(cur, ENG_GGUF_STRING_MAX, &s);
    return take(cur, value_bytes[type]) != NULL ? BASE_OK : BASE_INVALID;
}

static enum base_code parse_array(struct cursor *cur, struct eng_gguf_kv *kv)
{
    uint32_t type;
    uint64_t n;

    if (!take_u32(cur, &type) || !take_u64(cur, &n))
        return BASE_INVALID;
    if (type > ENG_GGUF_F64)
        return BASE_INVALID;
    if (type == ENG_GGUF_ARRAY) /* depth is one: no model needs arrays of arrays */
        return BASE_UNSUPPORTED;
    if (n > ENG_GGUF_ARRAY_MAX)
        return BASE_TOO_LARGE;
    kv->elem_type = (enum eng_gguf_type)type;
    kv->n = n;
    kv->value = cur->p;
    if (type != ENG_GGUF_STRING)
        return take(cur, n * value_bytes[type]) != NULL ? BASE_OK : BASE_INVALID;
    for (uint64_t i = 0; i < n; i++) {
        enum base_code rc = skip_value(cur, ENG_GGUF_STRING);

        if (rc != BASE_OK)
            return rc;
    }
    return BASE_OK;
}

static enum base_code parse_kv(struct eng_gguf *gguf, struct cursor *cur, struct base_err *err)
{
    struct eng_gguf_kv *kv = &gguf->kvs[gguf->n_kv];
    char name[72];
    uint32_t type, *slot;
    enum base_code rc;

    rc = take_str(cur, ENG_GGUF_KEY_BYTES_MAX, &kv->key);
    if (rc != BASE_OK)
        return base_fail(err, rc, 0, "metadata key number %zu is cut off or longer than %u bytes", gguf->n_kv,
                         ENG_GGUF_KEY_BYTES_MAX);
    if (!take_u32(cur, &type))
        return base_fail(err, BASE_INVALID, 0, "metadata %s: the file ends before its type",
                         shown(kv->key, name));
    if (kv->key.n == 0 || type > ENG_GGUF_F64)
        return base_fail(err, BASE_INVALID, 0, "metadata \"%s\": value type %u is unknown",
                         shown(kv->key, name), type);
    kv->type = (enum eng_gguf_type)type;
    kv->n = 1;
    kv->value = cur->p;
    rc = type == ENG_GGUF_ARRAY ? parse_array(cur, kv) : skip_value(cur, kv->type);
    if (rc == BASE_INVALID)
        return base_fail(err, rc, 0, "metadata %s: the value is cut off or malformed", shown(kv->key, name));
    if (rc == BASE_TOO_LARGE)
        return base_fail(err, rc, 0, "metadata %s: more than %u elements or a string past %u bytes",
                         shown(kv->key, name), ENG_GGUF_ARRAY_MAX, ENG_GGUF_STRING_MAX);
    if (rc != BASE_OK)
        return base_fail(err, rc, 0, "metadata %s: an array of arrays", shown(kv->key, name));
    slot = index_slot(&gguf->kv_index, gguf->kvs, sizeof(*gguf->kvs), kv->key);
    if (*slot != NO_SLOT)
        return base_fail(err, BASE_INVALID, 0, "metadata %s stands twice", shown(kv->key, name));
    *slot = (uint32_t)gguf->n_kv++;
    return BASE_OK;
}

/* Dimensions and byte size; every product is checked. */
static enum base_code check_tensor_shape(struct eng_gguf_tensor *t, uint32_t type, const char *name,
                                         struct base_err *err)
{
    const struct eng_type_info *info = eng_type_info(type);
    uint64_t n_values = 1;

    if (!eng_type_supported(type))
        return base_fail(err, BASE_UNSUPPORTED, 0, "tensor %s: type %u (%s) is not supported", name, type,
                         info != NULL ? info->name : "unknown");
    t->type = (enum eng_type)type;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->dims[i] == 0 || t->dims[i] > ENG_GGUF_DIM_MAX ||
            __builtin_mul_overflow(n_values, t->dims[i], &n_values) || n_values > ENG_GGUF_DIM_MAX)
            return base_fail(err, BASE_INVALID, 0, "tensor %s: dimension %u is zero or too large", name, i);
    }
    if (t->dims[0] % info->block_values != 0)
        return base_fail(err, BASE_INVALID, 0, "tensor %s: rows of %llu values are no whole %s blocks of %u",
                         name, (unsigned long long)t->dims[0], info->name, info->block_values);
    t->n_bytes = n_values / info->block_values * info->block_bytes; /* at most 2^40 * 4 */
    return BASE_OK;
}

/* Leaves the offset inside the data section in *ret_offset. */
static enum base_code parse_tensor(struct eng_gguf *gguf, struct cursor *cur, uint64_t *ret_offset,
                                   struct base_err *err)
{
    struct eng_gguf_tensor *t = &gguf->tensors[gguf->n_tensors];
    char name[72];
    uint32_t type, *slot;
    enum base_code rc;

    rc = take_str(cur, ENG_GGUF_NAME_MAX, &t->name);
    if (rc != BASE_OK || t->name.n == 0)
        return base_fail(err, rc != BASE_OK ? rc : BASE_INVALID, 0,
                         "tensor number %zu: its name is cut off, empty or longer than %u bytes",
                         gguf->n_tensors, ENG_GGUF_NAME_MAX);
    shown(t->name, name);
    if (!take_u32(cur, &t->n_dims))
        return base_fail(err, BASE_INVALID, 0, "tensor %s: the file ends in its entry", name);
    if (t->n_dims == 0 || t->n_dims > ENG_GGUF_DIMS_MAX)
        return base_fail(err, BASE_INVALID, 0, "tensor %s: %u dimensions (1 to %u are allowed)", name,
                         t->n_dims, ENG_GGUF_DIMS_MAX);
    for (uint32_t i = 0; i < ENG_GGUF_DIMS_MAX; i++) {
        t->dims[i] = 1;
        if (i < t->n_dims && !take_u64(cur, &t->dims[i]))
            return base_fail(err, BASE_INVALID, 0, "tensor %s: the file ends in its entry", name);
    }
    if (!take_u32(cur, &type) || !take_u64(cur, ret_offset))
        return base_fail(err, BASE_INVALID, 0, "tensor %s: the file ends in its entry", name);
    rc = check_tensor_shape(t, type, name, err);
    if (rc != BASE_OK)
        return rc;
    slot = index_slot(&gguf->tensor_index, gguf->tensors, sizeof(*gguf->tensors), t->name);
    if (*slot != NO_SLOT)
        return base_fail(err, BASE_INVALID, 0, "tensor %s stands twice", name);
    *slot = (uint32_t)gguf->n_tensors++;
    return BASE_OK;
}

static int by_offset(const void *a, const void *b)
{
    const struct eng_gguf_tensor *const *x = a, *const *y = b;

    return (*x)->offset < (*y)->offset ? -1 : (*x)->offset > (*y)->offset;
}

static enum base_code check_overlap(const struct eng_gguf *gguf, struct base_err *err)
{
    auto_free const struct eng_gguf_tensor **order = base_try_zarray(gguf->n_tensors + 1, sizeof(*order));
    char a[72], b[72];

    if (order == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for %zu tensors", gguf->n_tensors);
    for (size_t i = 0; i < gguf->n_tensors; i++)
        order[i] = &gguf->tensors[i];
    qsort(order, gguf->n_tensors, sizeof(*order), by_offset);
    for (size_t i = 1; i < gguf->n_tensors; i++) {
        if (order[i]->offset < order[i - 1]->offset + order[i - 1]->n_bytes)
            return base_fail(err, BASE_INVALID, 0, "tensors %s and %s overlap", shown(order[i - 1]->name, a),
                             shown(order[i]->name, b));
    }
    return BASE_OK;
}

/* Offsets count from the data section, where `data` stands. */
static enum base_code place_tensors(struct eng_gguf *gguf, struct cursor data, const uint64_t *offsets,
                                    struct base_err *err)
{
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        struct eng_gguf_tensor *t = &gguf->tensors[i];
        char name[72];

        if (offsets[i] % gguf->alignment != 0)
            return base_fail(
                err, BASE_INVALID, 0, "tensor %s: offset %llu is not a multiple of the alignment %llu",
                shown(t->name, name), (unsigned long long)offsets[i], (unsigned long long)gguf->alignment);
        if (offsets[i] > data.left || t->n_bytes > data.left - offsets[i])
            return base_fail(err, BASE_INVALID, 0,
                             "tensor %s: %llu bytes at %llu pass the end of the file (%llu bytes of data)",
                             shown(t->name, name), (unsigned long long)t->n_bytes,
                             (unsigned long long)offsets[i], (unsigned long long)data.left);
        t->offset = (uint64_t)(data.p - gguf->bytes) + offsets[i];
    }
    return check_overlap(gguf, err);
}

static enum base_code parse_alignment(struct eng_gguf *gguf, struct base_err *err)
{
    enum base_code rc =
        eng_gguf_get_u64(gguf, "general.alignment", ENG_GGUF_ALIGN_MAX, &gguf->alignment, err);

    if (rc == BASE_NOT_FOUND) {
        gguf->alignment = 32;
        return BASE_OK;
    }
    if (rc != BASE_OK)
        return rc;
    if (gguf->alignment < 8 || (gguf->alignment & (gguf->alignment - 1)) != 0)
        return base_fail(err, BASE_INVALID, 0,
                         "metadata general.alignment: %llu is no power of two of at least 8",
                         (unsigned long long)gguf->alignment);
    return BASE_OK;
}

static enum base_code parse_counts(struct eng_gguf *gguf, struct cursor *cur, uint64_t *ret_tensors,
                                   uint64_t *ret_kvs, struct base_err *err)
{
    const uint8_t *magic = take(cur, 4);

    if (magic == NULL || memcmp(magic, "GGUF", 4) != 0)
        return base_fail(err, BASE_INVALID, 0, "not a GGUF file (it does not start with \"GGUF\")");
    if (!take_u32(cur, &gguf->version))
        return base_fail(err, BASE_INVALID, 0, "the file ends in its header");
    if (gguf->version != 2 && gguf->version != 3)
        return base_fail(err, BASE_UNSUPPORTED, 0, "GGUF version %u (2 and 3 are supported%s)", gguf->version,
                         (gguf->version & 0xffffu) == 0 ? "; is the file big-endian?" : "");
    if (!take_u64(cur, ret_tensors) || !take_u64(cur, ret_kvs))
        return base_fail(err, BASE_INVALID, 0, "the file ends in its header");
    /* The smallest entries are 13 bytes (key) and 25 bytes (tensor): more cannot be there. */
    if (*ret_tensors > ENG_GGUF_TENSORS_MAX || *ret_kvs > ENG_GGUF_KEYS_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "%llu tensors and %llu metadata keys (limits %u and %u)",
                         (unsigned long long)*ret_tensors, (unsigned long long)*ret_kvs, ENG_GGUF_TENSORS_MAX,
                         ENG_GGUF_KEYS_MAX);
    if (*ret_kvs > cur->left / 13 || *ret_tensors > cur->left / 25)
        return base_fail(err, BASE_INVALID, 0,
                         "the file is too short for its %llu metadata keys and %llu tensors",
                         (unsigned long long)*ret_kvs, (unsigned long long)*ret_tensors);
    return BASE_OK;
}

static enum base_code parse_all(struct eng_gguf *gguf, struct base_err *err)
{
    struct cursor cur = {gguf, gguf->bytes, gguf->len};
    auto_free uint64_t *offsets = NULL;
    uint64_t n_tensors = 0, n_kvs = 0, pad;
    enum base_code rc = parse_counts(gguf, &cur, &n_tensors, &n_kvs, err);

    if (rc != BASE_OK)
        return rc;
    gguf->kvs = base_try_zarray(n_kvs + 1, sizeof(*gguf->kvs));
    gguf->tensors = base_try_zarray(n_tensors + 1, sizeof(*gguf->tensors));
    offsets = base_try_zarray(n_tensors + 1, sizeof(*offsets));
    if (gguf->kvs == NULL || gguf->tensors == NULL || offsets == NULL ||
        !index_init(&gguf->kv_index, n_kvs) || !index_init(&gguf->tensor_index, n_tensors))
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for the file's directory");
    for (uint64_t i = 0; i < n_kvs && rc == BASE_OK; i++)
        rc = parse_kv(gguf, &cur, err);
    for (uint64_t i = 0; i < n_tensors && rc == BASE_OK; i++)
        rc = parse_tensor(gguf, &cur, &offsets[i], err);
    if (rc == BASE_OK)
        rc = parse_alignment(gguf, err);
    if (rc != BASE_OK)
        return rc;
    pad = (0 - (uint64_t)(cur.p - gguf->bytes)) & (gguf->alignment - 1);
    if (n_tensors > 0 && take(&cur, pad) == NULL)
        return base_fail(err, BASE_INVALID, 0, "the file ends before its tensor data");
    return place_tensors(gguf, cur, offsets, err);
}

enum base_code eng_gguf_parse(struct eng_gguf **ret_gguf, const void *bytes, size_t len, struct base_err *err)
{
    struct eng_gguf *gguf = base_zalloc(sizeof(*gguf));
    enum base_code rc;

    gguf->fd = -1;
    gguf->bytes = bytes;
    gguf->len = gguf->have = len;
    rc = parse_all(gguf, err);
    if (rc != BASE_OK) {
        eng_gguf_free(gguf);
        return rc;
    }
    *ret_gguf = gguf;
    return BASE_OK;
}

/* Gives back what was reserved past the directory, and keeps anybody from writing into it. */
static void trim_room(struct eng_gguf *gguf)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), keep = (gguf->have + page - 1) / page * page;

    if (keep < gguf->room_len) {
        munmap(gguf->room + keep, gguf->room_len - keep);
        gguf->room_len = keep;
    }
    mprotect(gguf->room, gguf->room_len, PROT_READ);
}

static enum base_code parse_file(struct eng_gguf *gguf, struct base_err *err)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *room;
    enum base_code rc;

    gguf->room_len = gguf->len < ENG_GGUF_DIRECTORY_MAX ? gguf->len : ENG_GGUF_DIRECTORY_MAX;
    gguf->room_len = (gguf->room_len + page - 1) / page * page;
    room = mmap(NULL, gguf->room_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                0);
    if (room == MAP_FAILED)
        return base_fail(err, BASE_NO_MEMORY, errno, "no memory for the file's directory");
    gguf->bytes = gguf->room = room;
    rc = parse_all(gguf, err);
    if (gguf->read_errno != 0) /* whatever the parser made of the missing bytes */
        return base_fail(err, BASE_IO, gguf->read_errno, "the file cannot be read");
    if (gguf->is_shorter)
        return base_fail(err, BASE_CORRUPT, 0, "the file was cut short while it was read");
    if (gguf->is_past_room)
        return base_fail(err, BASE_TOO_LARGE, 0, "more than %u bytes of metadata", ENG_GGUF_DIRECTORY_MAX);
    if (rc == BASE_OK)
        trim_room(gguf);
    return rc;
}

enum base_code eng_gguf_open(struct eng_gguf **ret_gguf, const char *path, struct base_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a FIFO must not hang us */
    struct eng_gguf *gguf;
    struct stat st;
    enum base_code rc;

    if (fd < 0)
        return base_fail(err, errno == ENOENT ? BASE_NOT_FOUND : BASE_IO, errno, "%s cannot be opened", path);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < 24) {
        close(fd);
        return base_fail(err, BASE_INVALID, 0,
                         "%s: not a GGUF file (no regular file, or shorter than a header)", path);
    }
    gguf = base_zalloc(sizeof(*gguf));
    gguf->fd = fd;
    gguf->len = (size_t)st.st_size;
    rc = parse_file(gguf, err);
    if (rc != BASE_OK) {
        eng_gguf_free(gguf);
        return base_fail_prefix(err, rc, "%s", path);
    }
    *ret_gguf = gguf;
    return BASE_OK;
}

enum base_code eng_gguf_read(const struct eng_gguf *gguf, const struct eng_gguf_tensor *tensor, void *out,
                             struct base_err *err)
{
    char name[72];
    int code;

    if (gguf->room == NULL) {
        memcpy(out, gguf->bytes + tensor->offset, tensor->n_bytes);
        return BASE_OK;
    }
    if (gguf->fd < 0)
        return base_fail(err, BASE_UNAVAILABLE, 0, "tensor %s: the file is closed",
                         shown(tensor->name, name));
    if (read_at(gguf->fd, out, tensor->n_bytes, tensor->offset, &code))
        return BASE_OK;
    if (code != 0)
        return base_fail(err, BASE_IO, code, "tensor %s cannot be read", shown(tensor->name, name));
    return base_fail(err, BASE_CORRUPT, 0, "tensor %s: the file was cut short after it was opened",
                     shown(tensor->name, name));
}

void eng_gguf_close_file(struct eng_gguf *gguf)
{
    if (gguf->fd >= 0)
        close(gguf->fd);
    gguf->fd = -1;
}

void eng_gguf_free(struct eng_gguf *gguf)
{
    if (gguf == NULL)
        return;
    eng_gguf_close_file(gguf);
    if (gguf->room != NULL)
        munmap(gguf->room, gguf->room_len);
    free(gguf->kvs);
    free(gguf->tensors);
    free(gguf->kv_index.slots);
    free(gguf->tensor_index.slots);
    free(gguf);
}

uint64_t eng_gguf_file_bytes(const struct eng_gguf *gguf)
{
    return gguf->len;
}

size_t eng_gguf_n_kv(const struct eng_gguf *gguf)
{
    return gguf->n_kv;
}

const struct eng_gguf_kv *eng_gguf_kv_at(const struct eng_gguf *gguf, size_t i)
{
    return &gguf->kvs[i];
}

size_t eng_gguf_n_tensors(const struct eng_gguf *gguf)
{
    return gguf->n_tensors;
}

const struct eng_gguf_tensor *eng_gguf_tensor_at(const struct eng_gguf *gguf, size_t i)
{
    return &gguf->tensors[i];
}

const struct eng_gguf_kv *eng_gguf_find(const struct eng_gguf *gguf, const char *key)
{
    uint32_t slot =
        *index_slot(&gguf->kv_index, gguf->kvs, sizeof(*gguf->kvs), (struct eng_str){key, strlen(key)});

    return slot != NO_SLOT ? &gguf->kvs[slot] : NULL;
}

const struct eng_gguf_tensor *eng_gguf_tensor(const struct eng_gguf *gguf, const char *name)
{
    uint32_t slot = *index_slot(&gguf->tensor_index, gguf->tensors, sizeof(*gguf->tensors),
                                (struct eng_str){name, strlen(name)});

    return slot != NO_SLOT ? &gguf->tensors[slot] : NULL;
}
