/* Limits. See limits.h.
 *
 * GCRA keeps one number per bucket: the theoretical arrival time (TAT), when the bucket will be full again. A
 * cost c moves it on by c times the emission interval (60 s / rate); it may not run ahead of now by more than
 * burst intervals. Both buckets of a call are looked at before either is moved, in one script, on the
 * server's clock.
 *
 * Invariants:
 *   1. a struct gw_limit_pending is freed when Redis' last word on it has come: its reply, or the loss of the
 *      connection;
 *   2. a reservation that nobody waits for any more (forgotten, or decided by the fail mode meanwhile) is
 *      given back;
 *   3. a ticket outlives nothing: when the gw_limits goes first, settle only frees it.
 */
#include "gateway/limits.h"

#include "base/clock.h"
#include "base/mem.h"
#include "gateway/redis.h"

#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

#define PART_MAX      256u /* a principal or model in a key, encoded */
#define KEY_MAX       (2 * PART_MAX + 64u)
#define NUMBER_MAX    24u
#define AWAY_RETRY_MS 1000u

/* KEYS: requests, tokens (one hash tag: a cluster keeps them together). ARGV: "admit", requests per minute,
 * burst, tokens per minute, burst, tokens asked; a rate of 0 is no limit. Or KEYS: tokens; ARGV: "settle",
 * tokens per minute, tokens to add (negative: to give back). A wait under one microsecond is rounding:
 * doubles are 0.25 us apart at this size. */
static const char script[] =
    "local t = redis.call('TIME') local now = t[1] * 1000000 + t[2]\n"
    "local function tat_of(key) return math.max(tonumber(redis.call('GET', key) or 0), now) end\n"
    "local function save(key, tat)\n"
    "  if tat <= now then redis.call('DEL', key) return end\n"
    "  redis.call('SET', key, string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000) + 1000)\n"
    "end\n"
    "if ARGV[1] == 'settle' then\n"
    "  local tat = tat_of(KEYS[1]) + 60000000 / tonumber(ARGV[2]) * tonumber(ARGV[3])\n"
    "  save(KEYS[1], tat) return {1}\n"
    "end\n"
    "local function look(key, rate, burst, cost)\n"
    "  if rate == 0 then return nil end\n"
    "  local b = {key = key, iv = 60000000 / rate, burst = burst, tat = tat_of(key)}\n"
    "  b.new = b.tat + b.iv * cost\n"
    "  b.wait = b.new - now - b.iv * burst\n"
    "  if b.wait < 1 then b.wait = 0 end\n"
    "  return b\n"
    "end\n"
    "local function tell(b, tat)\n"
    "  if not b then return 0, 0 end\n"
    "  return math.max(0, math.floor(b.burst - (tat - now) / b.iv + 0.000001)), math.ceil(tat - now)\n"
    "end\n"
    "local r = look(KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3]), 1)\n"
    "local k = look(KEYS[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]))\n"
    "local rw, kw = r and r.wait or 0, k and k.wait or 0\n"
    "local ok = rw == 0 and kw == 0\n"
    "if ok then\n"
    "  if r then save(r.key, r.new) r.tat = r.new end\n"
    "  if k then save(k.key, k.new) k.tat = k.new end\n"
    "end\n"
    "local r_left, r_reset = tell(r, r and r.tat)\n"
    "local k_left, k_reset = tell(k, k and k.tat)\n"
    "return {ok and 1 or 0, math.ceil(rw), math.ceil(kw), r_left, r_reset, k_left, k_reset}\n";
enum {
    R_ALLOWED,
    R_WAIT_REQUESTS,
    R_WAIT_TOKENS,
    R_LEFT_REQUESTS,
    R_RESET_REQUESTS,
    R_LEFT_TOKENS,
    R_RESET_TOKENS,
    R_COUNT
};

struct gw_limit_ticket {
    TAILQ_ENTRY(gw_limit_ticket) link;
    struct gw_limits *limits; /* NULL once it is gone */
    uint64_t reserved, per_minute;
    char key[KEY_MAX];
};

struct gw_limit_pending {
    TAILQ_ENTRY(gw_limit_pending) link;
    struct gw_limits *limits;
    struct pol_limits rule;
    uint64_t tokens, started_us;
    char key[KEY_MAX]; /* of the tokens */
    gw_limited_fn *done;
    void *user;
    bool starting, answered, forgotten; /* starting: gw_limits_admit has not returned */
};

struct gw_limits {
    struct gw_redis *redis;
    char prefix[32];
    struct gw_limits_stats stats;
    TAILQ_HEAD(, gw_limit_ticket) tickets;
    TAILQ_HEAD(, gw_limit_pending) pending;
};

bool gw_limits_url_ok(const char *redis_url)
{
    return gw_redis_url_ok(redis_url);
}

struct gw_limits *gw_limits_new(struct gw_loop *loop, const char *redis_url, const char *prefix,
                                unsigned timeout_ms)
{
    struct gw_limits *limits = base_zalloc(sizeof(*limits));
    const struct gw_redis_options options = {
        .loop = loop, .url = redis_url, .script = script, .timeout_ms = timeout_ms};

    snprintf(limits->prefix, sizeof(limits->prefix), "%s", prefix);
    TAILQ_INIT(&limits->tickets);
    TAILQ_INIT(&limits->pending);
    if (gw_redis_new(&limits->redis, &options, NULL) != BASE_OK) {
        free(limits);
        return NULL;
    }
    return limits;
}

void gw_limits_free(struct gw_limits *limits)
{
    struct gw_limit_pending *pending;
    struct gw_limit_ticket *ticket;

    if (limits == NULL)
        return;
    TAILQ_FOREACH(pending, &limits->pending, link)
    pending->forgotten = true;
    gw_redis_free(limits->redis); /* answers, and so frees, all pending */
    TAILQ_FOREACH(ticket, &limits->tickets, link)
    ticket->limits = NULL;
    free(limits);
}

/* ---- keys ---- */

/* What could end the hash tag or run two keys together is written as %XX. False: it does not fit (nothing is
 * ever cut off: two principals would share a bucket). */
static bool encode(char out[PART_MAX], const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/";
    size_t n = 0;

    for (; *text != '\0'; text++) {
        if (n + 4 > PART_MAX)
            return false;
        if (strchr(plain, *text) != NULL)
            out[n++] = *text;
        else
            n += (size_t)snprintf(out + n, 4, "%%%02X", (unsigned)(unsigned char)*text);
    }
    out[n] = '\0';
    return true;
}

static bool make_key(const struct gw_limits *limits, const struct gw_limit_request *request,
                     const char *dimension, char out[KEY_MAX])
{
    char principal[PART_MAX], model[PART_MAX];

    if (!encode(principal, request->principal) || !encode(model, request->model))
        return false;
    return snprintf(out, KEY_MAX, "%s:{%s}:%s:%s", limits->prefix, principal, model, dimension) <
           (int)KEY_MAX;
}

/* ---- settle ---- */

static void corrected(enum base_code rc, const int64_t *ints, unsigned n, void *user)
{
    /* Redis away: the bucket refills by itself */
}

/* delta tokens are added to what was taken. */
static void correct(struct gw_limits *limits, const char *key, uint64_t per_minute, int64_t delta)
{
    char rate[NUMBER_MAX], by[NUMBER_MAX];
    const struct gw_redis_call call = {.keys = {key},
                                       .n_keys = 1,
                                       .args = {"settle", rate, by},
                                       .n_args = 3,
                                       .even_if_slow = true,
                                       .done = corrected};

    if (delta == 0)
        return;
    snprintf(rate, sizeof(rate), "%llu", (unsigned long long)per_minute);
    snprintf(by, sizeof(by), "%lld", (long long)delta);
    gw_redis_eval(limits->redis, &call);
}

static struct gw_limit_ticket *ticket_new(const struct gw_limit_pending *pending)
{
    struct gw_limit_ticket *ticket;

    if (pending->rule.tokens_per_minute == 0 || pending->tokens == 0)
        return NULL;
    ticket = base_zalloc(sizeof(*ticket));
    ticket->limits = pending->limits;
    ticket->reserved = pending->tokens;
    ticket->per_minute = pending->rule.tokens_per_minute;
    memcpy(ticket->key, pending->key, sizeof(ticket->key));
    TAILQ_INSERT_TAIL(&pending->limits->tickets, ticket, link);
    return ticket;
}

void gw_limits_settle(struct gw_limit_ticket *ticket, uint64_t tokens_used)
{
    if (ticket == NULL)
        return;
    if (ticket->limits != NULL) {
        TAILQ_REMOVE(&ticket->limits->tickets, ticket, link);
        /* a figure that large is no usage: never let it turn negative */
        if (tokens_used > INT64_MAX / 2)
            tokens_used = INT64_MAX / 2;
        correct(ticket->limits, ticket->key, ticket->per_minute,
                (int64_t)tokens_used - (int64_t)ticket->reserved);
    }
    free(ticket);
}

/* ---- admit ---- */

static void pending_free(struct gw_limit_pending *pending)
{
    TAILQ_REMOVE(&pending->limits->pending, pending, link);
    free(pending);
}

static void tell(struct gw_limit_pending *pending, const struct gw_limit_result *result,
                 struct gw_limit_ticket *ticket)
{
    struct gw_limits_stats *stats = &pending->limits->stats;

    pending->answered = true;
    stats->admitted_total += result->allowed;
    stats->limited_total += !result->allowed && !result->store_away;
    stats->away_total += result->store_away;
    if (pending->forgotten)
        gw_limits_settle(ticket, 0);
    else
        pending->done(result, ticket, pending->user);
}

static struct gw_limit_result base_result(const struct pol_limits *rule)
{
    return (struct gw_limit_result){.limit_requests = rule->requests_burst,
                                    .limit_tokens = rule->tokens_burst};
}

static void tell_away(struct gw_limit_pending *pending)
{
    struct gw_limit_result result = base_result(&pending->rule);

    result.store_away = true;
    result.allowed = pending->rule.fail_mode == POL_FAIL_OPEN;
    result.retry_after_ms = result.allowed ? 0 : AWAY_RETRY_MS;
    tell(pending, &result, NULL);
}

static uint64_t to_ms(int64_t us)
{
    return us > 0 ? ((uint64_t)us + 999) / 1000 : 0;
}

static void tell_reply(struct gw_limit_pending *pending, const int64_t *ints)
{
    struct gw_limit_result result = base_result(&pending->rule);
    int64_t wait_requests = ints[R_WAIT_REQUESTS], wait_tokens = ints[R_WAIT_TOKENS];

    pending->limits->stats.rtt_us_total += base_mono_us() - pending->started_us;
    result.allowed = ints[R_ALLOWED] == 1;
    result.remaining_requests = (uint64_t)ints[R_LEFT_REQUESTS];
    result.reset_requests_ms = to_ms(ints[R_RESET_REQUESTS]);
    result.remaining_tokens = (uint64_t)ints[R_LEFT_TOKENS];
    result.reset_tokens_ms = to_ms(ints[R_RESET_TOKENS]);
    if (!result.allowed) {
        result.dimension = wait_requests >= wait_tokens ? GW_LIMIT_REQUESTS : GW_LIMIT_TOKENS;
        result.retry_after_ms = to_ms(wait_requests >= wait_tokens ? wait_requests : wait_tokens);
    }
    tell(pending, &result, result.allowed ? ticket_new(pending) : NULL);
}

static void on_done(enum base_code rc, const int64_t *ints, unsigned n, void *user)
{
    struct gw_limit_pending *pending = user;

    if (rc == BASE_OK && n == R_COUNT)
        tell_reply(pending, ints);
    else
        tell_away(pending);
    if (!pending->starting && rc != BASE_TIMEOUT) /* after a time-out on_late is still to come */
        pending_free(pending);
}

static void on_late(enum base_code rc, const int64_t *ints, unsigned n, void *user)
{
    struct gw_limit_pending *pending = user;

    if (rc == BASE_OK && n == R_COUNT && ints[R_ALLOWED] == 1 && pending->rule.tokens_per_minute > 0)
        correct(pending->limits, pending->key, pending->rule.tokens_per_minute, -(int64_t)pending->tokens);
    pending_free(pending);
}

static void ask(struct gw_limit_pending *pending, const char *requests_key)
{
    const struct pol_limits *rule = &pending->rule;
    const uint64_t numbers[] = {rule->requests_per_minute, rule->requests_burst, rule->tokens_per_minute,
                                rule->tokens_burst, pending->tokens};
    char texts[BASE_ARRAY_LEN(numbers)][NUMBER_MAX];
    struct gw_redis_call call = {.keys = {requests_key, pending->key},
                                 .n_keys = 2,
                                 .args = {"admit"},
                                 .n_args = 1,
                                 .done = on_done,
                                 .late = on_late,
                                 .user = pending};

    for (unsigned i = 0; i < BASE_ARRAY_LEN(numbers); i++) {
        snprintf(texts[i], sizeof(texts[i]), "%llu", (unsigned long long)numbers[i]);
        call.args[call.n_args++] = texts[i];
    }
    gw_redis_eval(pending->limits->redis, &call);
}

/* What needs no Redis. */
static bool decide_here(const struct gw_limit_request *request, const struct pol_limits *rule,
                        struct gw_limit_result *ret_result)
{
    *ret_result = base_result(rule);
    if (rule->tokens_per_minute > 0 && request->tokens > rule->tokens_burst) {
        ret_result->dimension = GW_LIMIT_TOO_LARGE;
        return true;
    }
    ret_result->allowed = true;
    return rule->requests_per_minute == 0 && (rule->tokens_per_minute == 0 || request->tokens == 0);
}

struct gw_limit_pending *gw_limits_admit(struct gw_limits *limits, const struct gw_limit_request *request,
                                         gw_limited_fn *done, void *user)
{
    struct gw_limit_pending *pending = base_zalloc(sizeof(*pending));
    struct pol_limits *rule = &pending->rule;
    struct gw_limit_result result;
    char requests_key[KEY_MAX];

    *rule = *request->limits;
    if (rule->requests_burst == 0)
        rule->requests_burst = rule->requests_per_minute;
    if (rule->tokens_burst == 0)
        rule->tokens_burst = rule->tokens_per_minute;
    pending->limits = limits;
    pending->tokens = request->tokens;
    pending->done = done;
    pending->user = user;
    pending->starting = true;
    pending->started_us = base_mono_us();
    TAILQ_INSERT_TAIL(&limits->pending, pending, link);
    if (decide_here(request, rule, &result))
        tell(pending, &result, NULL);
    else if (!make_key(limits, request, "req", requests_key) ||
             !make_key(limits, request, "tok", pending->key)) {
        result.allowed = false; /* a name that long is nobody's: refused, and said to be too large */
        result.dimension = GW_LIMIT_TOO_LARGE;
        tell(pending, &result, NULL);
    } else
        ask(pending, requests_key);
    pending->starting = false;
    if (!pending->answered)
        return pending;
    pending_free(pending);
    return NULL;
}

void gw_limits_forget(struct gw_limit_pending *pending)
{
    pending->forgotten = true;
}

bool gw_limits_up(const struct gw_limits *limits)
{
    return gw_redis_up(limits->redis);
}

void gw_limits_get_stats(const struct gw_limits *limits, struct gw_limits_stats *ret_stats)
{
    *ret_stats = limits->stats;
}
