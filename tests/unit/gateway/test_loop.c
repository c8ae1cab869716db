/* Loop: tasks, timers, watches. */
#include "server_fixture.h"

static void no_request(struct gw_http *http, void *user)
{
    gw_http_send(http, 404, NULL, 0, NULL, 0);
}

/* Runs fn(arg) on the loop and waits for it. */
struct call {
    gw_task_fn *fn;
    void *arg;
    sem_t done;
};

static void call_run(void *p)
{
    struct call *call = p;

    call->fn(call->arg);
    sem_post(&call->done);
}

static void on_loop(struct gw_loop *loop, gw_task_fn *fn, void *arg)
{
    struct call call = {.fn = fn, .arg = arg};

    sem_init(&call.done, 0, 0);
    gw_loop_post(loop, call_run, &call);
    sem_wait(&call.done);
    sem_destroy(&call.done);
}

/* ---- posts ---- */

#define POSTERS 4
#define POSTS   5000

static struct gw_loop *post_loop;
static unsigned post_next[POSTERS];
static atomic_uint post_runs, post_disorder, post_elsewhere;

static void post_task(void *arg)
{
    uintptr_t v = (uintptr_t)arg;
    unsigned poster = (unsigned)(v / POSTS), i = (unsigned)(v % POSTS);

    if (post_next[poster]++ != i)
        atomic_fetch_add(&post_disorder, 1);
    if (!gw_loop_is_current(post_loop))
        atomic_fetch_add(&post_elsewhere, 1);
    atomic_fetch_add(&post_runs, 1);
}

static void *poster_main(void *arg)
{
    uintptr_t poster = (uintptr_t)arg;

    for (uintptr_t i = 0; i < POSTS; i++)
        gw_loop_post(post_loop, post_task, (void *)(poster * POSTS + i));
    return NULL;
}

static void test_loop_post__from_many_threads(void)
{
    struct fixture fx;
    pthread_t threads[POSTERS];

    fixture_start(&fx, no_request, NULL, NULL, 2);
    CHECK_INT(gw_server_n_loops(fx.server), 2);
    post_loop = gw_server_loop(fx.server, 1);
    CHECK_INT(gw_loop_index(post_loop), 1);
    for (uintptr_t i = 0; i < POSTERS; i++)
        pthread_create(&threads[i], NULL, poster_main, (void *)i);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    CHECK(wait_for(&post_runs, POSTERS * POSTS));
    CHECK_INT(atomic_load(&post_disorder), 0);
    CHECK_INT(atomic_load(&post_elsewhere), 0);
    CHECK(!gw_loop_is_current(post_loop));
    fixture_stop(&fx);
    CHECK_INT(atomic_load(&post_runs), POSTERS * POSTS);
}

static void count_task(void *arg)
{
    atomic_fetch_add((atomic_uint *)arg, 1);
}

static void test_loop_post__after_the_loop_ended(void)
{
    struct fixture fx;
    atomic_uint runs = 0;

    fixture_start(&fx, no_request, NULL, NULL, 1);
    gw_server_drain(fx.server, 100);
    gw_loop_post(gw_server_loop(fx.server, 0), count_task, &runs);
    CHECK_INT(atomic_load(&runs), 0);
    gw_server_free(fx.server); /* a late result still finds its owner's code */
    CHECK_INT(atomic_load(&runs), 1);
}

/* ---- timers ---- */

struct timer_log {
    struct gw_loop *loop;
    char order[32];
    unsigned n;
    uint64_t began_ms, first_ms, last_ms;
    struct gw_timer *stopped;
    atomic_uint fired;
};

struct timer_arg {
    struct timer_log *log;
    char mark;
};

static void timer_mark(void *arg)
{
    struct timer_arg *t = arg;

    t->log->order[t->log->n++] = t->mark;
    t->log->last_ms = base_mono_ms();
    if (t->log->n == 1)
        t->log->first_ms = t->log->last_ms;
    atomic_fetch_add(&t->log->fired, 1);
}

static struct timer_arg timer_args[8];

static void timers_begin(void *arg)
{
    static const struct {
        char mark;
        unsigned delay_ms;
    } plan[] = {{'d', 90}, {'a', 20}, {'x', 40}, {'c', 60}, {'b', 20}, {'y', 100}};
    struct timer_log *log = arg;
    struct gw_timer *timers[BASE_ARRAY_LEN(plan)];

    log->began_ms = base_mono_ms();
    for (size_t i = 0; i < BASE_ARRAY_LEN(plan); i++) {
        timer_args[i] = (struct timer_arg){log, plan[i].mark};
        timers[i] = gw_timer_start(log->loop, plan[i].delay_ms, timer_mark, &timer_args[i]);
    }
    gw_timer_stop(timers[2]);
    gw_timer_stop(timers[5]);
    gw_timer_stop(NULL);
}

static void test_timer_start__fires_in_order_and_not_when_stopped(void)
{
    struct fixture fx;
    struct timer_log log = {0};

    fixture_start(&fx, no_request, NULL, NULL, 1);
    log.loop = gw_server_loop(fx.server, 0);
    on_loop(log.loop, timers_begin, &log);
    CHECK(wait_for(&log.fired, 4));
    usleep(60000);
    fixture_stop(&fx);
    CHECK_STR(log.order, "abcd"); /* equal times in the order of their start; x and y were stopped */
    CHECK(log.first_ms - log.began_ms >= 19);
    CHECK(log.last_ms - log.began_ms >= 89);
}

struct chain {
    struct gw_loop *loop;
    unsigned left;
    atomic_uint done;
};

static void chain_step(void *arg)
{
    struct chain *chain = arg;

    if (chain->left-- == 0)
        atomic_fetch_add(&chain->done, 1);
    else
        gw_timer_start(chain->loop, 0, chain_step, chain);
}

static void test_timer_start__from_its_own_callback(void)
{
    struct fixture fx;
    struct chain chain = {.left = 500};
    struct answer a;

    fixture_start(&fx, no_request, NULL, NULL, 1);
    chain.loop = gw_server_loop(fx.server, 0);
    on_loop(chain.loop, chain_step, &chain);
    fetch(&a, &fx, PLAIN_H1, "/", NULL, NULL, 0); /* the chain does not starve the sockets */
    CHECK_INT(a.status, 404);
    CHECK(wait_for(&chain.done, 1));
    fixture_stop(&fx);
}

/* A heap of a few thousand timers, half of them stopped: each that is left fires once, none early or out of
 * order. */
#define MANY 4000
struct many {
    struct gw_loop *loop;
    struct gw_timer *timers[MANY];
    struct many_one {
        struct many *all;
        uint64_t due_ms;
        unsigned fired;
    } ones[MANY];
    uint64_t last_due_ms;
    unsigned early, disorder;
    atomic_uint fired;
};

static void many_fire(void *arg)
{
    struct many_one *one = arg;
    uint64_t now_ms = base_mono_ms();

    one->fired++;
    one->all->early += now_ms < one->due_ms;
    one->all->disorder += one->due_ms < one->all->last_due_ms;
    one->all->last_due_ms = one->due_ms;
    atomic_fetch_add(&one->all->fired, 1);
}

static void many_begin(void *arg)
{
    struct many *many = arg;
    uint32_t random = 1;

    for (int i = 0; i < MANY; i++) {
        uint64_t delay_ms = (random = random * 1664525u + 1013904223u) >> 24;

        many->ones[i].all = many;
        many->ones[i].due_ms = base_mono_ms() + delay_ms;
        many->timers[i] = gw_timer_start(many->loop, delay_ms, many_fire, &many->ones[i]);
    }
    for (int i = 0; i < MANY; i += 2)
        gw_timer_stop(many->timers[i]);
}

static void test_timer_stop__among_thousands(void)
{
    struct fixture fx;
    struct many *many = base_zalloc(sizeof(*many));

    fixture_start(&fx, no_request, NULL, NULL, 1);
    many->loop = gw_server_loop(fx.server, 0);
    on_loop(many->loop, many_begin, many);
    CHECK(wait_for(&many->fired, MANY / 2));
    usleep(20000);
    fixture_stop(&fx);
    CHECK_INT(atomic_load(&many->fired), MANY / 2);
    CHECK_INT(many->early, 0);
    CHECK(many->disorder <= 2); /* our due_ms is taken a moment before the timer's own */
    for (int i = 0; i < MANY; i++)
        CHECK_INT(many->ones[i].fired, i % 2);
    free(many);
}

/* ---- watches ---- */

struct watched {
    struct gw_loop *loop;
    struct gw_watch *watch;
    int fds[2];
    unsigned reads_before_drain;
    bool want_write;
    atomic_uint reads, writes, freed;
};

static void watched_event(void *user, int events)
{
    struct watched *w = user;
    char c;

    if (events & GW_IO_WRITE) {
        if (atomic_fetch_add(&w->writes, 1) + 1 == 3)
            gw_watch_set(w->watch, GW_IO_READ);
        return;
    }
    if (atomic_fetch_add(&w->reads, 1) + 1 < w->reads_before_drain)
        return; /* level-triggered: comes again */
    if (read(w->fds[0], &c, 1) == 1 && c == 'q') {
        gw_watch_free(w->watch);
        w->watch = NULL;
        atomic_fetch_add(&w->freed, 1);
    }
}

static void watched_begin(void *arg)
{
    struct watched *w = arg;

    w->watch = gw_watch_new(w->loop, w->fds[0], watched_event, w);
}

static void watched_set_read(void *arg)
{
    struct watched *w = arg;

    gw_watch_set(w->watch, GW_IO_READ | (w->want_write ? GW_IO_WRITE : 0));
}

static void test_watch__level_triggered_and_freed_in_its_callback(void)
{
    struct fixture fx;
    struct watched w = {.reads_before_drain = 3};

    fixture_start(&fx, no_request, NULL, NULL, 1);
    w.loop = gw_server_loop(fx.server, 0);
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w.fds), 0);
    on_loop(w.loop, watched_begin, &w);
    CHECK_INT(write(w.fds[1], "a", 1), 1);
    usleep(50000);
    CHECK_INT(atomic_load(&w.reads), 0); /* no interest yet */
    on_loop(w.loop, watched_set_read, &w);
    CHECK(wait_for(&w.reads, 3));
    usleep(30000);
    CHECK_INT(atomic_load(&w.reads), 3); /* the byte was taken at the third */
    CHECK_INT(write(w.fds[1], "q", 1), 1);
    CHECK(wait_for(&w.freed, 1));
    CHECK_INT(write(w.fds[1], "more", 4), 4);
    usleep(50000);
    CHECK_INT(atomic_load(&w.reads), 4);         /* a freed watch stays silent */
    CHECK_INT(read(w.fds[0], &(char){0}, 1), 1); /* and the descriptor is still ours */
    close(w.fds[0]);
    close(w.fds[1]);
    fixture_stop(&fx);
}

static void test_watch__write_interest_stands_until_taken_back(void)
{
    struct fixture fx;
    struct watched w = {.want_write = true};

    fixture_start(&fx, no_request, NULL, NULL, 1);
    w.loop = gw_server_loop(fx.server, 0);
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w.fds), 0);
    on_loop(w.loop, watched_begin, &w);
    on_loop(w.loop, watched_set_read, &w);
    CHECK(wait_for(&w.writes, 3));
    usleep(50000);
    CHECK_INT(atomic_load(&w.writes), 3);
    CHECK_INT(write(w.fds[1], "q", 1), 1);
    CHECK(wait_for(&w.freed, 1));
    close(w.fds[0]);
    close(w.fds[1]);
    fixture_stop(&fx);
}

struct burst {
    struct gw_loop *loop;
    atomic_uint done, in_order, at_timer, fired;
};

struct burst_task {
    struct burst *burst;
    unsigned number;
};

static void burst_task(void *arg)
{
    struct burst_task *task = arg;

    usleep(1000);
    if (atomic_load(&task->burst->done) == task->number)
        atomic_fetch_add(&task->burst->in_order, 1);
    atomic_fetch_add(&task->burst->done, 1);
}

static void burst_timer(void *arg)
{
    struct burst *burst = arg;

    atomic_store(&burst->at_timer, atomic_load(&burst->done));
    atomic_store(&burst->fired, 1);
}

static void burst_begin(void *arg)
{
    struct burst *burst = arg;

    gw_timer_start(burst->loop, 20, burst_timer, burst);
}

/* 200 tasks of a millisecond that come at once: timers, and so sockets, are served between them. */
static void test_loop_post__many_at_once_do_not_hold_the_loop(void)
{
    struct fixture fx;
    struct burst burst = {0};
    struct burst_task tasks[200];

    fixture_start(&fx, no_request, NULL, NULL, 1);
    burst.loop = gw_server_loop(fx.server, 0);
    on_loop(burst.loop, burst_begin, &burst);
    for (unsigned i = 0; i < BASE_ARRAY_LEN(tasks); i++) {
        tasks[i] = (struct burst_task){&burst, i};
        gw_loop_post(burst.loop, burst_task, &tasks[i]);
    }
    CHECK(wait_for(&burst.done, BASE_ARRAY_LEN(tasks)));
    CHECK(wait_for(&burst.fired, 1));
    CHECK(atomic_load(&burst.at_timer) < 150);
    CHECK_INT(atomic_load(&burst.in_order), (int)BASE_ARRAY_LEN(tasks));
    fixture_stop(&fx);
}

/* ---- lag ---- */

static void hold(void *arg)
{
    usleep(250000);
}

static void test_loop_lag__is_seen(void)
{
    struct fixture fx;
    struct gw_server_stats stats;

    fixture_start(&fx, no_request, NULL, NULL, 1);
    on_loop(gw_server_loop(fx.server, 0), hold, NULL);
    usleep(300000);
    gw_server_get_stats(fx.server, &stats);
    fixture_stop(&fx);
    CHECK(stats.loop_lag_us_max > 100000);
}

/* Uses the core: it is no pause alone, it is processor time of one turn. */
static void spin(void *arg)
{
    uint64_t until_ns = base_thread_cpu_ns() + 20000000;

    while (base_thread_cpu_ns() < until_ns)
        ;
}

static void test_loop_callback__longest_is_known(void)
{
    struct fixture fx;
    struct gw_server_stats before, slept, spun;

    fixture_start(&fx, no_request, NULL, NULL, 1);
    gw_server_get_stats(fx.server, &before);
    on_loop(gw_server_loop(fx.server, 0), hold, NULL);
    usleep(50000);
    gw_server_get_stats(fx.server, &slept);
    on_loop(gw_server_loop(fx.server, 0), spin, NULL);
    usleep(50000);
    gw_server_get_stats(fx.server, &spun);
    fixture_stop(&fx);
    CHECK(slept.callback_us_max >= 250000 && slept.slow_callbacks_total > before.slow_callbacks_total);
    CHECK(slept.turn_cpu_us_max < 20000); /* it slept */
    CHECK(spun.turn_cpu_us_max >= 20000 && spun.slow_callbacks_total > slept.slow_callbacks_total);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_loop_post__from_many_threads),
        CASE(test_loop_post__after_the_loop_ended),
        CASE(test_timer_start__fires_in_order_and_not_when_stopped),
        CASE(test_timer_start__from_its_own_callback),
        CASE(test_timer_stop__among_thousands),
        CASE(test_watch__level_triggered_and_freed_in_its_callback),
        CASE(test_watch__write_interest_stands_until_taken_back),
        CASE(test_loop_post__many_at_once_do_not_hold_the_loop),
        CASE(test_loop_lag__is_seen),
        CASE(test_loop_callback__longest_is_known),
    };
    int rc;

    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    rc = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    curl_global_cleanup();
    fixture_remove();
    return rc;
}
