/* khash.h: stands in for the header of that name which h2o/http2_internal.h (libh2o 2.2.5) includes and
 * Debian does not ship.
 *
 * What: the memory layout of an integer-keyed khash table, and the way to look a key up or to walk it.
 * Written from the documented layout; nothing here inserts, deletes or grows: the library alone does that.
 * Who:  server_guard.c and server_http.c, to look at the streams of a connection.
 */
#ifndef GATEWAY_SHIM_KHASH_H
#define GATEWAY_SHIM_KHASH_H

#include <stdint.h>

typedef uint32_t khint_t;
typedef khint_t khiter_t;

/* Two flag bits per bucket, sixteen buckets per word: 2 is "never used", 1 is "deleted". */
#define KH_FLAG_EMPTY   2u
#define KH_FLAG_DELETED 1u

static inline uint32_t kh_flags_at(const uint32_t *flags, khint_t i)
{
    return (flags[i >> 4] >> ((i & 15u) << 1)) & 3u;
}

#define khash_t(name)        kh_##name##_t
#define kh_end(h)            ((h)->n_buckets)
#define kh_val(h, i)         ((h)->vals[i])
#define kh_exist(h, i)       (kh_flags_at((h)->flags, (i)) == 0)
#define kh_get(name, h, key) kh_get_##name((h), (key))

/* The table's size is a power of two; a 64-bit key hashes to key>>33 ^ key ^ key<<11; steps grow by one each.
 */
#define KHASH_MAP_INIT_INT64(name, value_type)                                                        \
    typedef struct {                                                                                  \
        khint_t n_buckets, size, n_occupied, upper_bound;                                             \
        uint32_t *flags;                                                                              \
        uint64_t *keys;                                                                               \
        value_type *vals;                                                                             \
    } kh_##name##_t;                                                                                  \
    __attribute__((unused)) static inline khint_t kh_get_##name(const kh_##name##_t *h, uint64_t key) \
    {                                                                                                 \
        khint_t mask = h->n_buckets - 1, i = (khint_t)(key >> 33 ^ key ^ key << 11) & mask, step = 0; \
                                                                                                      \
        for (khint_t tries = 0; tries < h->n_buckets; tries++) {                                      \
            uint32_t flags = kh_flags_at(h->flags, i);                                                \
            if (flags & KH_FLAG_EMPTY)                                                                \
                return h->n_buckets;                                                                  \
            if (!(flags & KH_FLAG_DELETED) && h->keys[i] == key)                                      \
                return i;                                                                             \
            i = (i + ++step) & mask;                                                                  \
        }                                                                                             \
        return h->n_buckets;                                                                          \
    }
#define KHASH_SET_INIT_INT64(name) KHASH_MAP_INIT_INT64(name, char)

#endif
