/* Limits: requests and tokens per principal and model, counted in Redis by one script.
 *
 * What: GCRA (generic cell rate algorithm, ATM Forum TM 4.0 / "leaky bucket as a meter") for two dimensions in one round trip: takes
 *       one request and reserves tokens before a call, corrects the reservation after it.
 * Who:  one gw_limits per loop; on its thread.
 * Promises: admit answers within its deadline whatever Redis does; both dimensions or none are taken; Redis away: the decision's
 *       fail mode, said in the result.
 */
#ifndef GATEWAY_LIMITS_H
#define GATEWAY_LIMITS_H

#include "base/err.h"
#include "gateway/loop.h"
#include "policy/policy.h"

#include <stdbool.h>
#include <stdint.h>

struct gw_limits;

/* True for a URL that gw_limits_new takes: "unix:///path", "redis://[[user]:password@]host[:port][/database]". */
bool gw_limits_url_ok(const char *redis_url);
/* Keys are prefix:{principal}:model:req and :tok ("gh"; the braces keep both on one node of a cluster). NULL: the URL is none. */
struct gw_limits *gw_limits_new(struct gw_loop *loop, const char *redis_url, const char *prefix,
                                unsigned timeout_ms);
void gw_limits_free(struct gw_limits *limits);

struct gw_limit_request {
    const char *principal; /* pseudonym */
    const char *model;
    const struct pol_limits *limits;
    uint64_t tokens; /* prompt + max_tokens: what the call may cost at most */
};

struct gw_limit_result {
    bool allowed;
    bool store_away; /* decided by the fail mode */
    enum {
        GW_LIMIT_NONE = 0,
        GW_LIMIT_REQUESTS,
        GW_LIMIT_TOKENS,
        GW_LIMIT_TOO_LARGE
    } dimension; /* what refused; TOO_LARGE: tokens can never fit the burst */
    uint64_t retry_after_ms;
    uint64_t limit_requests, remaining_requests, reset_requests_ms;
    uint64_t limit_tokens, remaining_tokens, reset_tokens_ms;
};

struct gw_limit_ticket; /* a reservation that settle or cancel ends */
typedef void gw_limited_fn(const struct gw_limit_result *result, struct gw_limit_ticket *ticket, void *user);

/* Calls done exactly once on the loop, possibly before returning. ticket is NULL when refused or nothing was reserved; else the
 * caller owns it. To forget a pending call (client gone) use the returned handle with gw_limits_forget: a reservation that still
 * comes back is then undone. */
struct gw_limit_pending;
struct gw_limit_pending *gw_limits_admit(struct gw_limits *limits, const struct gw_limit_request *request,
                                         gw_limited_fn *done,
                                         void *user); /* NULL when done was already called */
void gw_limits_forget(struct gw_limit_pending *pending);

/* Corrects the token reservation to what was really used (0: all given back) and frees the ticket. Fire and forget. NULL is allowed. */
void gw_limits_settle(struct gw_limit_ticket *ticket, uint64_t tokens_used);

bool gw_limits_up(const struct gw_limits *limits); /* Redis answered last */

struct gw_limits_stats {
    uint64_t admitted_total, limited_total, away_total, rtt_us_total;
};
void gw_limits_get_stats(const struct gw_limits *limits, struct gw_limits_stats *ret_stats); /* own thread */

#endif
