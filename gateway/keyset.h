/* Key set: an immutable snapshot of the API keys, found by keyed hash.
 *
 * What: an open-addressing table over entries in one block. The index is taken from the hash itself: it is keyed, so nobody without
 *       the pepper can choose keys that collide.
 * Who:  built by the store's watcher thread; find and ref/unref from any thread.
 * Promises: after build only the time of last use changes (atomically); freed with the last reference.
 */
#ifndef GATEWAY_KEYSET_H
#define GATEWAY_KEYSET_H

#include "base/crypto.h"
#include "base/pg.h"
#include "gateway/apikey.h"
#include "gateway/principal.h"

struct gw_keyset;

enum gw_key_state {
    GW_KEY_UNKNOWN = 0,
    GW_KEY_EXPIRED,
    GW_KEY_REVOKED,
    GW_KEY_UNAVAILABLE, /* of the store: nothing loaded yet, or too old */
    GW_KEY_GOOD
};

/* From the rows of gw_sql_key_load. Rows that cannot be an identity are left out and counted. `before` (may be NULL) hands on the
 * times of last use. BASE_NO_MEMORY. */
enum base_code gw_keyset_build(struct gw_keyset **ret_set, const struct base_pg_rows *rows,
                               struct gw_keyset *before, unsigned *ret_n_bad, struct base_err *err);
struct gw_keyset *gw_keyset_ref(struct gw_keyset *set);
void gw_keyset_unref(struct gw_keyset *set); /* NULL is allowed */
unsigned gw_keyset_count(const struct gw_keyset *set);

/* GOOD fills *ret_principal (method, credential_id, identity; no cache tag) and notes the use. wall_us: now. */
enum gw_key_state gw_keyset_find(struct gw_keyset *set, const unsigned char hash[BASE_SHA256_BYTES],
                                 int64_t wall_us, struct gw_principal *ret_principal);

/* Calls gone with the ids, GW_KEYS_GONE_MAX at a time, of the keys that `before` let in and `after` does not: revoked or deleted, not
 * expired. */
#define GW_KEYS_GONE_MAX 64u
struct gw_keys_gone {
    unsigned n;
    char ids[GW_KEYS_GONE_MAX][GW_APIKEY_ID_LEN + 1];
};
typedef void gw_keys_gone_fn(const struct gw_keys_gone *keys, void *user);
void gw_keyset_gone(const struct gw_keyset *before, const struct gw_keyset *after, gw_keys_gone_fn *gone,
                    void *user);

/* Calls each with every key whose last use has not been handed out yet. One thread. each returns false: stop, this one is still owed. */
typedef bool gw_keyset_used_fn(const char *key_id, int64_t used_s, void *user);
void gw_keyset_drain_used(struct gw_keyset *set, gw_keyset_used_fn *each, void *user);

#endif
