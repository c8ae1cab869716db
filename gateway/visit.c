/* Visit. See visit.h.
 *
 * Invariant: until gw_visit_over the request, while it is open, knows the visit; after it nothing does.
 */
#include "gateway/visit.h"

static void on_closed(void *user)
{
    struct gw_visit *visit = user;

    visit->http = NULL;
    if (visit->pending != NULL) { /* there is nobody to be identified for */
        gw_auth_forget(visit->pending);
        gw_visit_over(visit);
    }
}

void gw_visit_begin(struct gw_visit *visit, struct gw_http *http, void (*free_owner)(void *owner),
                    void *owner)
{
    *visit =
        (struct gw_visit){.http = http, .loop = gw_http_loop(http), .free_owner = free_owner, .owner = owner};
    gw_http_on_closed(http, on_closed, visit);
}

static void on_identified(enum gw_auth_result result, const struct gw_principal *who, void *user)
{
    struct gw_visit *visit = user;

    visit->pending = NULL;
    visit->identified(result, who, visit->owner);
}

void gw_visit_identify(struct gw_visit *visit, struct gw_auth *auth, gw_identified_fn *identified)
{
    struct gw_auth_pending *pending;

    visit->identified = identified;
    pending = gw_auth_identify(auth, visit->http, on_identified, visit);
    if (pending != NULL) /* else it has been called, and the visit may be over */
        visit->pending = pending;
}

void gw_visit_over(struct gw_visit *visit)
{
    if (visit->http != NULL)
        gw_http_on_closed(visit->http, NULL, NULL);
    visit->free_owner(visit->owner);
}
