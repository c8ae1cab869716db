/* Visit: how long the state of a request lives that is not answered at once.
 *
 * What: a part of a handler's own struct, its owner. The owner lives until its work is over, whether or not the client is still there;
 *       one that only waits to be identified ends when the client leaves.
 * Who:  the request's loop. A call (call.c) has more to wait for and its own life.
 */
#ifndef GATEWAY_VISIT_H
#define GATEWAY_VISIT_H

#include "gateway/auth.h"
#include "gateway/server.h"

struct gw_visit {
    struct gw_http *http; /* NULL once closed: nobody waits for an answer */
    struct gw_loop *loop;
    struct gw_auth_pending *pending; /* this and all below: visit.c's own */
    gw_identified_fn *identified;
    void (*free_owner)(void *owner);
    void *owner;
};

void gw_visit_begin(struct gw_visit *visit, struct gw_http *http, void (*free_owner)(void *owner),
                    void *owner);
/* identified as of gw_auth_identify, with the owner for user; possibly before this returns: owner may then be gone. */
void gw_visit_identify(struct gw_visit *visit, struct gw_auth *auth, gw_identified_fn *identified);
/* Frees the owner: the last thing that a step does, answered or not. */
void gw_visit_over(struct gw_visit *visit);

#endif
