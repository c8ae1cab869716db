/* Directory's insides, between directory.c (snapshots) and directory_read.c (rows). Invariants: directory.c. */
#ifndef GATEWAY_DIRECTORY_PRIV_H
#define GATEWAY_DIRECTORY_PRIV_H

#include "base/buf.h"
#include "base/pg.h"

#include <stdatomic.h>

#define GW_DIR_ID_BYTES 37u /* a UUID as Postgres writes it: sorted as text it is sorted as its 16 bytes */

/* As stored in identity.scim_changes: never renumber. */
enum gw_dir_kind { GW_DIR_PERSON = 1, GW_DIR_GROUP, GW_DIR_GROUP_ENDED /* beside GROUP */, GW_DIR_KINDS };

struct gw_dir_group {
    char id[GW_DIR_ID_BYTES]; /* first, as in struct gw_dir_person */
    uint32_t slot;
    const char *external_id; /* NULL: none; in text */
    char text[];             /* the name */
};
struct gw_dir_person {
    char id[GW_DIR_ID_BYTES];
    bool active, deleted;
    const char *user_name, *external_id; /* folded, behind the slots; external_id: NULL for none */
    size_t n_slots;
    uint32_t slots[]; /* of groups */
};
struct gw_dir_list {
    const void **items; /* groups or persons, in one order */
    size_t n;
};
struct gw_dir_snapshot {
    atomic_int refs;
    struct gw_dir_list groups, persons;      /* by id */
    struct gw_dir_list by_name, by_external; /* persons, the one that counts first */
    const struct gw_dir_group **slots;       /* NULL: deleted */
    uint32_t n_slots;
    struct gw_dir_snapshot *next; /* made from this one; NULL: nothing is shared */
    struct gw_dir_list gone;      /* what this one has and `next` has not */
};

struct gw_dir_edit {
    const void *item; /* first: an edit is compared as an item */
    bool comes;       /* else it goes */
};
struct gw_dir_edits {
    struct gw_dir_edit *at;
    size_t n, room;
};
/* The number and its time: a restored database may come to the same number by other changes. */
struct gw_dir_version {
    int64_t number, at_us;
};
/* A snapshot in the making. Owns the items that come. */
struct gw_dir_change {
    struct gw_dir_version version;
    const struct gw_dir_snapshot *from; /* NULL: made of everything */
    struct base_buf ids[GW_DIR_KINDS];  /* by kind, those that changed, as an array of Postgres; empty: all */
    struct gw_dir_edits groups, persons;
    struct gw_dir_list new_groups; /* by id */
    uint32_t n_slots;
};

/* ---- directory.c ---- */

/* The group or person of an id; NULL: not there. */
const void *gw_dir_find(const struct gw_dir_list *list, const char *id);
void gw_dir_edit(struct gw_dir_edits *edits, const void *item, bool comes);
/* The groups as they will be, from those edits. */
void gw_dir_merge_groups(struct gw_dir_change *change);
/* Copies a text, folded when asked, to where *place says, and moves that on. NULL: none. */
const char *gw_dir_put_text(char **place, const char *text, bool fold);

/* ---- directory_read.c ---- */

enum base_code gw_dir_read_version(struct base_pg *pg, struct gw_dir_version *ret_version, int64_t *ret_from,
                                   struct base_err *err);
/* Fills an empty change: what is newer than the version `have` of `now`, or everything. In a transaction that sees one moment. */
enum base_code gw_dir_read_change(struct gw_dir_change *change, const struct gw_dir_snapshot *now,
                                  const struct gw_dir_version *have, struct base_pg *pg,
                                  struct base_err *err);

#endif
