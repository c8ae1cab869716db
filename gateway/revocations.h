/* Revocations: what has been ended and can still matter, in memory.
 *
 * What: a set of (kind, tag) with the time of the latest revocation and the time until which it must be remembered. The rows of
 *       identity.revocations, brought by the store's watcher.
 * Who:  add from the store's watcher and from who revokes here; the rest from any thread. A lookup is one probe under a shared lock.
 * Not here: what a tag names (tags.h), SQL (identity_sql.h).
 */
#ifndef GATEWAY_REVOCATIONS_H
#define GATEWAY_REVOCATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As stored: never renumber. */
enum gw_revocation_kind {
    GW_REVOCATION_NONE = 0,
    GW_REVOCATION_SESSION, /* for ever, whatever the time: a session's name is used once */
    GW_REVOCATION_PERSON,  /* what was proved up to then */
    GW_REVOCATION_SID,     /* for ever: a provider's session that is over does not come back */
    GW_REVOCATION_KEY,     /* directory key: what was proved up to then */
    GW_REVOCATION_TOKEN    /* one token of a session that goes on under another: nothing is cut */
};

struct gw_revocation {
    enum gw_revocation_kind kind;
    uint64_t tag;
    int64_t at_us, until_us; /* wall clock */
};

struct gw_revocations;
struct gw_revocations *gw_revocations_new(void);
void gw_revocations_free(struct gw_revocations *set); /* NULL is allowed */

/* The first time that a revocation is brought, `on_new` is called, outside the lock. Adding one that is over is a no-op. */
typedef void gw_revocations_fn(const struct gw_revocation *revocation, void *user);
void gw_revocations_listen(struct gw_revocations *set, gw_revocations_fn *on_new, void *user);
void gw_revocations_add(struct gw_revocations *set, const struct gw_revocation *revocation, int64_t now_us);
/* True when (kind, tag) was revoked at since_us or later. since_us 0: whenever. tag 0: never. */
bool gw_revocations_meet(struct gw_revocations *set, enum gw_revocation_kind kind, uint64_t tag,
                         int64_t since_us);
/* Forgets what is over. */
void gw_revocations_expire(struct gw_revocations *set, int64_t now_us);
size_t gw_revocations_count(struct gw_revocations *set);

#endif
