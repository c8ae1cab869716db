/* Limits over a real Redis: figures, fail modes, deadlines, recovery. */
#include "gateway/limits.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/server.h"
#include "redis_private.h"
#include "tap.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TIMEOUT_MS 100u
/* How much later than the deadline an answer may come on a loaded machine. */
#define SLACK_MS 150u

static struct gw_server *server;
static struct gw_loop *loop;
static struct rdp *redis;
static struct gw_limits *limits;

static void nap_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* ---- on the loop and back ---- */

struct errand {
    void (*fn)(void *arg);
    void *arg;
    sem_t done;
};

static void errand_run(void *p)
{
    struct errand *errand = p;

    errand->fn(errand->arg);
    sem_post(&errand->done);
}

static void on_loop(void (*fn)(void *arg), void *arg)
{
    struct errand errand = {.fn = fn, .arg = arg};

    sem_init(&errand.done, 0, 0);
    gw_loop_post(loop, errand_run, &errand);
    sem_wait(&errand.done);
    sem_destroy(&errand.done);
}

static void open_limits(void *url)
{
    limits = gw_limits_new(loop, url, "test", TIMEOUT_MS);
}

static void close_limits(void *unused)
{
    gw_limits_free(limits);
    limits = NULL;
}

static void look_up(void *up)
{
    *(bool *)up = gw_limits_up(limits);
}

static bool wait_up(bool wanted, unsigned timeout_ms)
{
    uint64_t deadline = base_mono_ms() + timeout_ms;
    bool up = !wanted;

    while (base_mono_ms() < deadline) {
        on_loop(look_up, &up);
        if (up == wanted)
            return true;
        nap_ms(5);
    }
    return false;
}

static void get_stats(void *stats)
{
    gw_limits_get_stats(limits, stats);
}

struct ask {
    struct gw_limit_request request;
    struct gw_limit_result result;
    struct gw_limit_ticket *ticket;
    uint64_t took_ms;
    unsigned n_calls;
    bool forget;
    sem_t done;
};

static void admitted(const struct gw_limit_result *result, struct gw_limit_ticket *ticket, void *user)
{
    struct ask *ask = user;

    ask->result = *result;
    ask->ticket = ticket;
    ask->n_calls++;
    sem_post(&ask->done);
}

static void admit_task(void *p)
{
    struct ask *ask = p;
    bool forget = ask->forget; /* once answered, *ask may be gone */
    struct gw_limit_pending *pending = gw_limits_admit(limits, &ask->request, admitted, ask);

    if (forget && pending != NULL) {
        gw_limits_forget(pending);
        sem_post(&ask->done);
    }
}

static struct ask admit_for(const char *principal, const struct pol_limits *rule, uint64_t tokens,
                            bool forget)
{
    struct ask ask = {.request = {.principal = principal, .model = "demo", .limits = rule, .tokens = tokens},
                      .forget = forget};
    uint64_t began = base_mono_ms();

    sem_init(&ask.done, 0, 0);
    gw_loop_post(loop, admit_task, &ask);
    sem_wait(&ask.done);
    ask.took_ms = base_mono_ms() - began;
    sem_destroy(&ask.done);
    return ask;
}

static struct ask admit(const char *principal, const struct pol_limits *rule, uint64_t tokens)
{
    return admit_for(principal, rule, tokens, false);
}

struct settlement {
    struct gw_limit_ticket *ticket;
    uint64_t used;
};

static void settle_task(void *p)
{
    struct settlement *s = p;

    gw_limits_settle(s->ticket, s->used);
}

static void settle(struct gw_limit_ticket *ticket, uint64_t used)
{
    struct settlement s = {ticket, used};

    on_loop(settle_task, &s);
}

/* A principal of its own for each use, so that cases do not meet in a bucket. */
static const char *fresh(void)
{
    static char name[8][32];
    static unsigned n;

    snprintf(name[n % 8], sizeof(name[0]), "p%u-%d", n, (int)getpid());
    return name[n++ % 8];
}

static const char *redis_do(const char *a, const char *b, const char *c)
{
    const char *argv[] = {a, b, c};

    return rdp_command(redis, argv, c != NULL ? 3 : b != NULL ? 2 : 1);
}

static void begin(void)
{
    if (limits == NULL)
        on_loop(open_limits, (void *)rdp_url(redis));
    CHECK(wait_up(true, 5000));
}

/* ---- figures ---- */

static void test_admit__burst_then_rate(void)
{
    const struct pol_limits rule = {.requests_per_minute = 6000, .requests_burst = 20}; /* one in 10 ms */
    const char *who = fresh();
    unsigned allowed = 0, refused = 0;
    uint64_t began, took;

    begin();
    began = base_mono_us();
    do {
        struct ask a = admit(who, &rule, 0);

        allowed += a.result.allowed;
        refused += !a.result.allowed;
        took = base_mono_us() - began;
    } while (took < 600000);
    printf("# %u allowed, %u refused in %.0f ms; rate*t + burst is %.1f\n", allowed, refused,
           (double)took / 1000, (double)took / 10000 + 20);
    CHECK(refused > 0);
    CHECK(allowed <= took / 10000 + 20 + 1);
    CHECK(allowed + 3 >= took / 10000 + 20);
}

static void test_admit__tells_what_is_left(void)
{
    const struct pol_limits rule = {
        .requests_per_minute = 6, .requests_burst = 3, .tokens_per_minute = 60, .tokens_burst = 100};
    const char *who = fresh();
    struct ask a;

    begin();
    a = admit(who, &rule, 40);
    CHECK(a.result.allowed && !a.result.store_away);
    CHECK(a.ticket != NULL);
    CHECK_INT(a.result.limit_requests, 3);
    CHECK_INT(a.result.remaining_requests, 2);
    CHECK(a.result.reset_requests_ms > 9000 && a.result.reset_requests_ms <= 10000);
    CHECK_INT(a.result.limit_tokens, 100);
    CHECK_INT(a.result.remaining_tokens, 60);
    CHECK(a.result.reset_tokens_ms > 39000 && a.result.reset_tokens_ms <= 40000);
    settle(a.ticket, 40);
    a = admit(who, &rule, 70); /* 60 are left: 10 s to wait */
    CHECK(!a.result.allowed);
    CHECK_INT(a.result.dimension, GW_LIMIT_TOKENS);
    CHECK(a.result.retry_after_ms > 9000 && a.result.retry_after_ms <= 10000);
    CHECK(a.ticket == NULL);
}

static void test_admit__both_or_none(void)
{
    const struct pol_limits rule = {
        .requests_per_minute = 1, .requests_burst = 2, .tokens_per_minute = 1, .tokens_burst = 100};
    const char *who = fresh();
    struct ask a;

    begin();
    a = admit(who, &rule, 90);
    CHECK(a.result.allowed);
    settle(a.ticket, 90);
    for (unsigned i = 0; i < 10; i++) { /* refused for tokens: no request is taken */
        a = admit(who, &rule, 50);
        CHECK(!a.result.allowed);
        CHECK_INT(a.result.dimension, GW_LIMIT_TOKENS);
        CHECK_INT(a.result.remaining_requests, 1);
    }
    a = admit(who, &rule, 5);
    CHECK(a.result.allowed);
    CHECK_INT(a.result.remaining_tokens, 5);
    settle(a.ticket, 5);
    for (unsigned i = 0; i < 10; i++) { /* refused for requests: no tokens are taken */
        a = admit(who, &rule, 1);
        CHECK(!a.result.allowed);
        CHECK_INT(a.result.dimension, GW_LIMIT_REQUESTS);
        CHECK_INT(a.result.remaining_tokens, 5);
    }
}

static void test_admit__whole_burst_at_once(void)
{
    begin();
    for (uint32_t rate = 1; rate < 1000000; rate = rate * 3 + 1) { /* no rounding may refuse it */
        const struct pol_limits rule = {.tokens_per_minute = rate, .tokens_burst = rate};
        struct ask a = admit(fresh(), &rule, rate);

        CHECK(a.result.allowed);
        CHECK_INT(a.result.remaining_tokens, 0);
        settle(a.ticket, rate);
    }
}

static void test_admit__idle_time_earns_the_burst_and_no_more(void)
{
    const struct pol_limits rule = {.tokens_per_minute = 600000,
                                    .tokens_burst = 1000}; /* full again after 100 ms */
    const char *who = fresh();
    struct ask a;

    begin();
    a = admit(who, &rule, 1000);
    settle(a.ticket, 1000);
    nap_ms(400);
    a = admit(who, &rule, 1000);
    CHECK(a.result.allowed);
    settle(a.ticket, 1000);
    CHECK(!admit(who, &rule, 1000).result.allowed);
}

static void test_admit__too_large(void)
{
    const struct pol_limits rule = {.tokens_per_minute = 60, .tokens_burst = 100};
    struct ask a;

    begin();
    a = admit(fresh(), &rule, 101);
    CHECK(!a.result.allowed && !a.result.store_away);
    CHECK_INT(a.result.dimension, GW_LIMIT_TOO_LARGE);
    CHECK(a.ticket == NULL);
    a = admit(fresh(), &rule, 100);
    CHECK(a.result.allowed);
    settle(a.ticket, 0);
}

static void test_admit__principals_and_models_apart(void)
{
    const struct pol_limits rule = {.requests_per_minute = 1, .requests_burst = 1};
    const char *tricky[] = {"a", "a}", "{a", "a:b", "a b", "a\nb", "a%7D", "\xc3\xa4"};

    begin();
    for (size_t i = 0; i < BASE_ARRAY_LEN(tricky); i++) /* each has its own bucket */
        CHECK(admit(tricky[i], &rule, 0).result.allowed);
    for (size_t i = 0; i < BASE_ARRAY_LEN(tricky); i++)
        CHECK(!admit(tricky[i], &rule, 0).result.allowed);
}

static void test_admit__without_limits(void)
{
    const struct pol_limits rule = {.requests_per_minute = 0};
    struct ask a;

    begin();
    a = admit(fresh(), &rule, 1000000000);
    CHECK(a.result.allowed && !a.result.store_away);
    CHECK(a.ticket == NULL);
}

/* ---- settle ---- */

static uint64_t tokens_left(const char *who, const struct pol_limits *rule)
{
    struct ask a = admit(who, rule, 1);
    uint64_t left = a.result.remaining_tokens + 1;

    CHECK(a.result.allowed);
    settle(a.ticket, 0);
    return left;
}

static void test_settle__gives_back(void)
{
    const struct pol_limits rule = {.tokens_per_minute = 6, .tokens_burst = 1000};
    const char *who = fresh();
    struct ask a;

    begin();
    a = admit(who, &rule, 900);
    settle(a.ticket, 100);
    CHECK_INT(tokens_left(who, &rule), 900);
    a = admit(who, &rule, 900);
    CHECK(a.result.allowed);
    settle(a.ticket, 0); /* all of it: cancelled */
    CHECK_INT(tokens_left(who, &rule), 900);
}

static void test_settle__never_more_than_full(void)
{
    const struct pol_limits rule = {.tokens_per_minute = 600000,
                                    .tokens_burst = 1000}; /* 10 tokens a millisecond */
    const char *who = fresh();
    struct ask a;

    begin();
    a = admit(who, &rule, 1000);
    nap_ms(150); /* refilled meanwhile */
    settle(a.ticket, 0);
    a = admit(who, &rule, 1000);
    CHECK(a.result.allowed);
    settle(a.ticket, 1000);
    CHECK(!admit(who, &rule, 1000).result.allowed); /* no credit beyond the burst */
}

static void test_settle__overuse_counts(void)
{
    const struct pol_limits rule = {.tokens_per_minute = 60, .tokens_burst = 100};
    const char *who = fresh();
    struct ask a;

    begin();
    a = admit(who, &rule, 50);
    settle(a.ticket, 150); /* 50 in debt: the next one waits 51 s */
    a = admit(who, &rule, 1);
    CHECK(!a.result.allowed);
    CHECK_INT(a.result.remaining_tokens, 0);
    CHECK(a.result.retry_after_ms > 50000 && a.result.retry_after_ms <= 51000);
}

static void test_forget__reservation_is_undone(void)
{
    const struct pol_limits rule = {.tokens_per_minute = 6, .tokens_burst = 1000};
    const char *who = fresh();

    begin();
    CHECK_INT(admit_for(who, &rule, 1000, true).n_calls, 0);
    nap_ms(50);
    CHECK_INT(tokens_left(who, &rule), 1000);
}

/* ---- Redis away ---- */

static const struct pol_limits closed = {
    .requests_per_minute = 600, .requests_burst = 100, .fail_mode = POL_FAIL_CLOSED};
static const struct pol_limits open_mode = {
    .requests_per_minute = 600, .requests_burst = 100, .fail_mode = POL_FAIL_OPEN};

static void check_away(unsigned within_ms)
{
    struct ask a = admit(fresh(), &closed, 0), b = admit(fresh(), &open_mode, 0);

    CHECK(!a.result.allowed && a.result.store_away);
    CHECK(a.result.retry_after_ms > 0);
    CHECK(b.result.allowed && b.result.store_away);
    CHECK(a.ticket == NULL && b.ticket == NULL);
    CHECK_INT(a.n_calls + b.n_calls, 2);
    printf("# answered after %llu and %llu ms\n", (unsigned long long)a.took_ms,
           (unsigned long long)b.took_ms);
    CHECK(a.took_ms <= within_ms && b.took_ms <= within_ms);
}

static void test_away__killed_and_back(void)
{
    begin();
    CHECK(admit(fresh(), &closed, 0).result.allowed);
    rdp_kill(redis);
    CHECK(wait_up(false, 1000));
    check_away(SLACK_MS);
    CHECK(rdp_start(redis));
    CHECK(wait_up(true, 5000));
    CHECK(admit(fresh(), &closed, 0).result.allowed);
    CHECK(!admit(fresh(), &closed, 0).result.store_away);
}

static void test_away__frozen(void)
{
    begin();
    rdp_freeze(redis);
    check_away(TIMEOUT_MS + SLACK_MS); /* the first waits for its deadline */
    check_away(SLACK_MS);              /* the others do not wait for a server that is slow */
    nap_ms(1200);                      /* connections are given up; the kernel still accepts new ones */
    check_away(SLACK_MS);
    rdp_thaw(redis);
    CHECK(wait_up(true, 5000));
    CHECK(admit(fresh(), &closed, 0).result.allowed);
}

static void test_away__paused_and_late_reservation_undone(void)
{
    const struct pol_limits rule = {
        .tokens_per_minute = 6, .tokens_burst = 1000, .fail_mode = POL_FAIL_CLOSED};
    const char *who = fresh();
    struct ask a;

    begin();
    CHECK(redis_do("CLIENT", "PAUSE", "400") != NULL);
    a = admit(who, &rule, 1000);
    CHECK(!a.result.allowed && a.result.store_away);
    CHECK(a.took_ms + 5 >= TIMEOUT_MS && a.took_ms <= TIMEOUT_MS + SLACK_MS);
    CHECK(wait_up(true, 3000)); /* the same connection, once the overdue answer has come */
    nap_ms(50);
    CHECK_INT(tokens_left(who, &rule), 1000);
}

static void test_away__forgotten_while_frozen(void)
{
    begin();
    rdp_freeze(redis);
    CHECK_INT(admit_for(fresh(), &closed, 0, true).n_calls, 0);
    nap_ms(TIMEOUT_MS + 50);
    rdp_thaw(redis);
    CHECK(wait_up(true, 5000));
}

static void test_away__never_there(void)
{
    struct gw_limits *kept = limits;
    bool up = true;
    struct ask a;

    on_loop(open_limits, (void *)"unix:///nonexistent/redis.sock");
    a = admit(fresh(), &closed, 0);
    on_loop(look_up, &up);
    on_loop(close_limits, NULL);
    on_loop(open_limits, (void *)"redis://127.0.0.1:1");
    nap_ms(100);
    check_away(SLACK_MS);
    on_loop(close_limits, NULL);
    limits = kept;
    CHECK(!up);
    CHECK(!a.result.allowed && a.result.store_away);
}

/* A free port of loopback, for a moment. */
static unsigned free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (bind(fd, (struct sockaddr *)&address, len) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        abort();
    close(fd);
    return ntohs(address.sin_port);
}

static void test_new__by_name_with_user_and_database(void)
{
    const char *const bind_argv[] = {"CONFIG", "SET", "bind", "127.0.0.1"},
                      *port_argv[] = {"CONFIG", "SET", "port", NULL};
    const char *const user_argv[] = {"ACL", "SETUSER", "gate", "on", ">s3cret", "~*", "+@all"};
    struct gw_limits *kept = limits;
    char port[8], good[96], wrong[96], database[96];
    bool is_up, wrong_up, database_up;

    snprintf(port, sizeof(port), "%u", free_port());
    port_argv[3] = port;
    CHECK(rdp_command(redis, bind_argv, 4) != NULL);
    CHECK_STR(rdp_command(redis, port_argv, 4), "+OK\r\n");
    CHECK_STR(rdp_command(redis, user_argv, 7), "+OK\r\n");
    snprintf(good, sizeof(good), "redis://gate:s3cret@localhost:%s/3", port);
    snprintf(wrong, sizeof(wrong), "redis://gate:wrong@localhost:%s/3", port);
    snprintf(database, sizeof(database), "redis://gate:s3cret@localhost:%s/999", port);
    on_loop(open_limits, good);
    is_up = wait_up(true, 3000) && admit("named", &closed, 0).result.allowed;
    on_loop(close_limits, NULL);
    on_loop(open_limits, wrong);
    wrong_up = wait_up(true, 400);
    on_loop(close_limits, NULL);
    on_loop(open_limits, database);
    database_up = wait_up(true, 400);
    on_loop(close_limits, NULL);
    limits = kept;
    CHECK(is_up);
    CHECK(!wrong_up); /* never as the default user instead */
    CHECK(!database_up);
    CHECK(strstr(redis_do("INFO", "keyspace", NULL), "db3:keys=") != NULL);
}

static void test_new__bad_urls(void)
{
    static const char *const bad[] = {
        "",           "redis",       "http://localhost", "unix://relative", "redis://",
        "redis://:",  "redis://h:0", "redis://h:99999",  "redis://h:x",     "redis://h/x",
        "redis://u@h"};
    static const char *const good[] = {"unix:///nonexistent/s",       "redis://127.0.0.1:1",
                                       "redis://[::1]:1/3",           "redis://:pw@127.0.0.1:1",
                                       "redis://u:p@w@127.0.0.1:1/0", "redis://localhost:1"};
    struct gw_limits *kept = limits, *made[BASE_ARRAY_LEN(bad)];
    bool ok = true;

    for (size_t i = 0; i < BASE_ARRAY_LEN(bad); i++) {
        on_loop(open_limits, (void *)bad[i]);
        made[i] = limits;
        ok = ok && limits == NULL && !gw_limits_url_ok(bad[i]);
    }
    for (size_t i = 0; i < BASE_ARRAY_LEN(good); i++) {
        on_loop(open_limits, (void *)good[i]);
        ok = ok && limits != NULL && gw_limits_url_ok(good[i]);
        if (limits == NULL)
            printf("# refused %s\n", good[i]);
        else
            on_loop(close_limits, NULL);
    }
    limits = kept;
    for (size_t i = 0; i < BASE_ARRAY_LEN(bad); i++)
        if (made[i] != NULL)
            printf("# accepted %s\n", bad[i]);
    CHECK(ok);
}

static void test_recovery__script_flush(void)
{
    begin();
    CHECK(admit(fresh(), &closed, 0).result.allowed);
    CHECK(redis_do("SCRIPT", "FLUSH", NULL) != NULL);
    for (unsigned i = 0; i < 3; i++) {
        struct ask a = admit(fresh(), &closed, 0);

        CHECK(a.result.allowed && !a.result.store_away);
    }
}

static void test_away__read_only_replica(void)
{
    struct ask a;

    begin();
    CHECK(redis_do("REPLICAOF", "127.0.0.1", "1") != NULL);
    a = admit(fresh(), &closed, 0);
    CHECK(redis_do("REPLICAOF", "NO", "ONE") != NULL);
    CHECK(!a.result.allowed && a.result.store_away);
    CHECK(admit(fresh(), &closed, 0).result.allowed);
}

static void test_keys__expire(void)
{
    const struct pol_limits rule = {
        .requests_per_minute = 6, .requests_burst = 3, .tokens_per_minute = 60, .tokens_burst = 100};
    const char *who = fresh(), *left;
    char key[64];
    struct ask a;

    begin();
    a = admit(who, &rule, 10);
    snprintf(key, sizeof(key), "test:{%s}:demo:tok", who);
    left = redis_do("PTTL", key, NULL); /* 10 s of refill and a second of margin */
    CHECK(left != NULL && left[0] == ':' && atoi(left + 1) > 9000 && atoi(left + 1) <= 11000);
    settle(a.ticket, 0);
    left = redis_do("EXISTS", key, NULL);
    CHECK_STR(left, ":0\r\n"); /* full again: no key is kept */
}

static void test_stats__count(void)
{
    const struct pol_limits one = {.requests_per_minute = 1, .requests_burst = 1};
    struct gw_limits_stats before, after;
    const char *who = fresh();

    begin();
    on_loop(get_stats, &before);
    admit(who, &one, 0);
    admit(who, &one, 0);
    on_loop(get_stats, &after);
    CHECK_INT(after.admitted_total - before.admitted_total, 1);
    CHECK_INT(after.limited_total - before.limited_total, 1);
    CHECK_INT(after.away_total, before.away_total);
    CHECK(after.rtt_us_total > before.rtt_us_total);
}

/* Last: the limits go while a call is outstanding and a ticket is held. */
static void test_free__with_work_outstanding(void)
{
    const struct pol_limits rule = {.tokens_per_minute = 6, .tokens_burst = 1000};
    struct ask held, hanging;

    begin();
    held = admit(fresh(), &rule, 10);
    CHECK(held.ticket != NULL);
    rdp_freeze(redis);
    hanging = admit_for(fresh(), &rule, 10, true);
    on_loop(close_limits, NULL);
    rdp_thaw(redis);
    CHECK_INT(hanging.n_calls, 0);
    settle(held.ticket, 10); /* frees it, no more */
}

static void refuse(struct gw_http *http, void *user)
{
    gw_http_send(http, 404, NULL, 0, "", 0);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_admit__burst_then_rate),
        CASE(test_admit__tells_what_is_left),
        CASE(test_admit__both_or_none),
        CASE(test_admit__whole_burst_at_once),
        CASE(test_admit__idle_time_earns_the_burst_and_no_more),
        CASE(test_admit__too_large),
        CASE(test_admit__principals_and_models_apart),
        CASE(test_admit__without_limits),
        CASE(test_settle__gives_back),
        CASE(test_settle__never_more_than_full),
        CASE(test_settle__overuse_counts),
        CASE(test_forget__reservation_is_undone),
        CASE(test_away__killed_and_back),
        CASE(test_away__frozen),
        CASE(test_away__paused_and_late_reservation_undone),
        CASE(test_away__forgotten_while_frozen),
        CASE(test_away__never_there),
        CASE(test_new__by_name_with_user_and_database),
        CASE(test_new__bad_urls),
        CASE(test_recovery__script_flush),
        CASE(test_away__read_only_replica),
        CASE(test_keys__expire),
        CASE(test_stats__count),
        CASE(test_free__with_work_outstanding),
    };
    const struct gw_listener_options listener = {.address = "127.0.0.1", .handler = refuse};
    const struct gw_server_options options = {
        .n_threads = 1, .limits = GW_SERVER_LIMITS_DEFAULT, .listeners = &listener, .n_listeners = 1};
    struct base_err err = {0};
    int status;

    signal(SIGPIPE, SIG_IGN);
    base_log_init(-1, BASE_LOG_ERROR);
    redis = rdp_new();
    if (redis == NULL || gw_server_start(&server, &options, &err) != BASE_OK) {
        printf("Bail out! %s\n", redis == NULL ? "no Redis" : err.detail);
        rdp_free(redis);
        return 1;
    }
    loop = gw_server_loop(server, 0);
    status = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    if (limits != NULL)
        on_loop(close_limits, NULL);
    gw_server_drain(server, 1000);
    gw_server_free(server);
    rdp_free(redis);
    return status;
}
