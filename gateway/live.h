/* Live: what is running now and for whom, so that access that ends, ends at once.
 *
 * What: each loop keeps its calls in a list with their principals. A revocation, of a session, of a person, of a person's session at
 *       an identity provider, of an API key, cuts those that it meets.
 * Who:  add, remove on the call's loop; gw_live_cut posts to every loop from any thread.
 */
#ifndef GATEWAY_LIVE_H
#define GATEWAY_LIVE_H

#include "gateway/principal.h"
#include "gateway/server.h"

struct gw_live; /* one per process */

struct gw_live_entry { /* lives in the call; all zero: not in the list */
    struct gw_live_entry *next, *prev;
    struct gw_loop *loop;
    const struct gw_principal *who;
    void (*cut)(void *user); /* on the loop; once; the entry is out of the list by then */
    void *user;
};

struct gw_live *gw_live_new(unsigned n_loops);
void gw_live_free(struct gw_live *live);
void gw_live_add(struct gw_live *live, struct gw_live_entry *entry);
void gw_live_remove(struct gw_live *live, struct gw_live_entry *entry); /* no-op when not in the list */
/* Cuts every entry whose principal `meets` says is met. The predicate and a copy of its argument are run on each loop. */
typedef bool gw_live_meets_fn(const struct gw_principal *who, const void *arg);
void gw_live_cut(struct gw_live *live, struct gw_server *server, gw_live_meets_fn *meets, const void *arg,
                 size_t arg_len);

#endif
