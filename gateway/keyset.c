/* Key set. See keyset.h.
 *
 * Invariants: n_slots is a power of two and at least twice n, so a probe ends; slot 0 means empty, else entry
 * index + 1.
 */
#include "gateway/keyset.h"

#include "base/mem.h"
#include "base/str.h"
#include "gateway/apikey.h"
#include "gateway/identity_sql.h"

#include <stdatomic.h>
#include <string.h>

struct entry {
    unsigned char hash[BASE_SHA256_BYTES];
    char id[GW_APIKEY_ID_LEN + 1];
    const char *issuer, *subject, *tenant, *roles; /* in texts; roles separated by newlines */
    int64_t expires_us;                            /* 0: never */
    int64_t created_us;
    bool revoked;
    _Atomic int64_t used_s; /* 0: not since start */
    int64_t handed_out_s;   /* the drain's own */
};

struct gw_keyset {
    atomic_uint refs;
    unsigned n;
    uint32_t n_slots;
    uint32_t *slots;
    struct entry *entries;
    char *texts; /* every entry's strings, one after the other */
};

static uint32_t slot_of(const struct gw_keyset *set, const unsigned char *hash)
{
    uint32_t h;

    memcpy(&h, hash, sizeof(h));
    return h & (set->n_slots - 1);
}

static struct entry *lookup(const struct gw_keyset *set, const unsigned char *hash)
{
    for (uint32_t s = slot_of(set, hash); set->slots[s] != 0; s = (s + 1) & (set->n_slots - 1)) {
        struct entry *entry = &set->entries[set->slots[s] - 1];

        if (base_ct_equal(entry->hash, hash, BASE_SHA256_BYTES))
            return entry;
    }
    return NULL;
}

static void insert(struct gw_keyset *set, unsigned index)
{
    uint32_t s = slot_of(set, set->entries[index].hash);

    while (set->slots[s] != 0)
        s = (s + 1) & (set->n_slots - 1);
    set->slots[s] = index + 1;
}

/* Copies a row's texts to *at and moves it on. False: the row is no identity that a request could carry. */
static bool read_row(struct entry *entry, const struct base_pg_rows *rows, unsigned row, char **at)
{
    static const enum gw_key_column columns[] = {GW_KEYCOL_ISSUER, GW_KEYCOL_SUBJECT, GW_KEYCOL_TENANT,
                                                 GW_KEYCOL_ROLES};
    const char **fields[] = {&entry->issuer, &entry->subject, &entry->tenant, &entry->roles};
    const char *id = base_pg_text(rows, row, GW_KEYCOL_ID);
    struct gw_principal trial = {0};
    size_t n = 0;
    auto_free unsigned char *hash = base_pg_bytes(rows, row, GW_KEYCOL_HASH, &n);

    if (id == NULL || !gw_apikey_id_valid(id) || hash == NULL || n != BASE_SHA256_BYTES)
        return false;
    for (unsigned i = 0; i < BASE_ARRAY_LEN(columns); i++) {
        const char *text = base_pg_text(rows, row, columns[i]);
        size_t len = text != NULL ? strlen(text) + 1 : 0;

        if (text == NULL)
            return false;
        *fields[i] = memcpy(*at, text, len);
        *at += len;
    }
    memcpy(entry->id, id, sizeof(entry->id));
    memcpy(entry->hash, hash, sizeof(entry->hash));
    entry->expires_us = base_pg_int(rows, row, GW_KEYCOL_EXPIRES);
    entry->created_us = base_pg_int(rows, row, GW_KEYCOL_CREATED);
    entry->revoked = base_pg_text(rows, row, GW_KEYCOL_REVOKED) != NULL;
    return gw_principal_fill(&trial, entry->issuer, entry->subject, entry->tenant, entry->roles) == BASE_OK;
}

static size_t text_bytes(const struct base_pg_rows *rows)
{
    size_t total = 1;

    for (unsigned row = 0; row < base_pg_n_rows(rows); row++)
        for (unsigned c = GW_KEYCOL_ISSUER; c <= GW_KEYCOL_ROLES; c++) {
            const char *text = base_pg_text(rows, row, c);

            total += text != NULL ? strlen(text) + 1 : 0;
        }
    return total;
}

static void keyset_free(struct gw_keyset *set)
{
    free(set->slots);
    free(set->entries);
    free(set->texts);
    free(set);
}

enum base_code gw_keyset_build(struct gw_keyset **ret_set, const struct base_pg_rows *rows,
                               struct gw_keyset *before, unsigned *ret_n_bad, struct base_err *err)
{
    unsigned n_rows = base_pg_n_rows(rows), n_bad = 0;
    struct gw_keyset *set = base_zalloc(sizeof(*set));
    char *at;

    atomic_init(&set->refs, 1);
    for (set->n_slots = 16; set->n_slots / 2 < n_rows; set->n_slots *= 2)
        ;
    set->slots = base_try_zarray(set->n_slots, sizeof(*set->slots));
    set->entries = base_try_zarray(n_rows > 0 ? n_rows : 1, sizeof(*set->entries));
    at = set->texts = base_try_zarray(text_bytes(rows), 1);
    if (set->slots == NULL || set->entries == NULL || set->texts == NULL) {
        keyset_free(set);
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for %u API keys", n_rows);
    }
    for (unsigned row = 0; row < n_rows; row++) {
        struct entry *entry = &set->entries[set->n], *old;

        if (!read_row(entry, rows, row, &at)) {
            *entry = (struct entry){0};
            n_bad++;
            continue;
        }
        old = before != NULL ? lookup(before, entry->hash) : NULL;
        if (old != NULL) {
            atomic_init(&entry->used_s, atomic_load_explicit(&old->used_s, memory_order_relaxed));
            entry->handed_out_s = old->handed_out_s;
        }
        insert(set, set->n++);
    }
    *ret_n_bad = n_bad;
    *ret_set = set;
    return BASE_OK;
}

struct gw_keyset *gw_keyset_ref(struct gw_keyset *set)
{
    atomic_fetch_add_explicit(&set->refs, 1, memory_order_relaxed);
    return set;
}

void gw_keyset_unref(struct gw_keyset *set)
{
    if (set != NULL && atomic_fetch_sub_explicit(&set->refs, 1, memory_order_acq_rel) == 1)
        keyset_free(set);
}

unsigned gw_keyset_count(const struct gw_keyset *set)
{
    return set->n;
}

enum gw_key_state gw_keyset_find(struct gw_keyset *set, const unsigned char hash[BASE_SHA256_BYTES],
                                 int64_t wall_us, struct gw_principal *ret_principal)
{
    struct entry *entry = lookup(set, hash);
    struct gw_principal who = {.method = GW_AUTH_API_KEY};

    if (entry == NULL)
        return GW_KEY_UNKNOWN;
    if (entry->revoked)
        return GW_KEY_REVOKED;
    if (entry->expires_us != 0 && entry->expires_us <= wall_us)
        return GW_KEY_EXPIRED;
    if (gw_principal_fill(&who, entry->issuer, entry->subject, entry->tenant, entry->roles) != BASE_OK)
        return GW_KEY_UNKNOWN;
    memcpy(who.credential_id, entry->id, sizeof(entry->id));
    who.since_us = entry->created_us;
    *ret_principal = who;
    atomic_store_explicit(&entry->used_s, wall_us / 1000000, memory_order_relaxed);
    return GW_KEY_GOOD;
}

void gw_keyset_gone(const struct gw_keyset *before, const struct gw_keyset *after, gw_keys_gone_fn *gone,
                    void *user)
{
    struct gw_keys_gone keys = {0};

    for (unsigned i = 0; i < before->n; i++) {
        const struct entry *old = &before->entries[i], *now = lookup(after, old->hash);

        if (old->revoked || (now != NULL && !now->revoked))
            continue;
        memcpy(keys.ids[keys.n++], old->id, sizeof(old->id));
        if (keys.n == GW_KEYS_GONE_MAX) {
            gone(&keys, user);
            keys.n = 0;
        }
    }
    if (keys.n > 0)
        gone(&keys, user);
}

void gw_keyset_drain_used(struct gw_keyset *set, gw_keyset_used_fn *each, void *user)
{
    for (unsigned i = 0; i < set->n; i++) {
        struct entry *entry = &set->entries[i];
        int64_t used_s = atomic_load_explicit(&entry->used_s, memory_order_relaxed);

        if (used_s <= entry->handed_out_s)
            continue;
        if (!each(entry->id, used_s, user))
            return;
        entry->handed_out_s = used_s;
    }
}
