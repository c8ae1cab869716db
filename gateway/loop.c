/* Loop: posts, timers and watches over one event loop of libh2o. See loop.h.
 *
 * Posts are a list under a lock with an eventfd that the loop watches; timers are a binary heap of monotonic
 * times, run after each wait of the library (whose own timeouts are lists of one duration each, on the wall
 * clock); watches are sockets of the library that do not read.
 */
#include "gateway/server_priv.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct gw_timer {
    struct gw_loop *loop;
    uint64_t due_ms, seq; /* seq: equal times fire in the order of their start */
    size_t at;            /* place in the heap */
    gw_task_fn *fn;
    void *arg;
};

struct gw_watch {
    struct gw_loop *loop;
    h2o_socket_t *sock;
    int events;
    bool write_armed; /* the library's write notice is one-shot and cannot be taken back */
    bool running, freed;
    gw_io_fn *fn;
    void *user;
};

static __thread struct gw_loop *current_loop;

unsigned gw_loop_index(const struct gw_loop *loop)
{
    return loop->index;
}

bool gw_loop_is_current(const struct gw_loop *loop)
{
    return current_loop == loop;
}

uint64_t gw_loop_now_ms(const struct gw_loop *loop)
{
    struct gw_loop *l = (struct gw_loop *)loop; /* the cache is no state that a caller sees */

    if (!loop->entered)
        return base_mono_ms();
    if (l->now_key != h2o_now(l->ctx.loop) || l->now_ms == 0) {
        l->now_key = h2o_now(l->ctx.loop);
        l->now_ms = base_mono_ms();
    }
    return l->now_ms;
}

uint64_t gw_loop_callback_us(const struct gw_loop *loop)
{
    return loop->by_cpu ? base_thread_cpu_ns() / 1000 : base_mono_us();
}

void gw_loop_check_budget(struct gw_loop *loop, const char *what, uint64_t start_us)
{
    uint64_t took_us = gw_loop_callback_us(loop) - start_us, now_us = base_mono_us();

    gw_worst_note(&loop->callback, now_us, took_us);
    if (took_us <= GW_CALLBACK_BUDGET_US)
        return;
    atomic_fetch_add_explicit(&loop->slow_callbacks, 1, memory_order_relaxed);
#ifndef NDEBUG
    if (loop->slow_logged_ms != 0 && now_us / 1000 - loop->slow_logged_ms < 1000)
        return;
    loop->slow_logged_ms = now_us / 1000;
    base_log(BASE_LOG_DEBUG, "loop.slow_callback", "a callback held its loop longer than it may",
             LOG_STR("what", what), LOG_INT("loop", loop->index), LOG_INT("took_us", took_us));
#else
    (void)what;
#endif
}

void gw_worst_note(struct gw_worst *worst, uint64_t now_us, uint64_t us)
{
    uint64_t second = now_us / 1000000, slot = second % GW_WORST_SLOTS;

    if (atomic_load_explicit(&worst->second[slot], memory_order_relaxed) != second) {
        atomic_store_explicit(&worst->us[slot], 0, memory_order_relaxed);
        atomic_store_explicit(&worst->second[slot], second, memory_order_relaxed);
    }
    if (atomic_load_explicit(&worst->us[slot], memory_order_relaxed) < us)
        atomic_store_explicit(&worst->us[slot], us, memory_order_relaxed);
}

uint64_t gw_worst_us(const struct gw_worst *worst)
{
    uint64_t second = base_mono_ms() / 1000, most = 0;

    for (unsigned i = 0; i < GW_WORST_SLOTS; i++) {
        uint64_t us = atomic_load_explicit(&worst->us[i], memory_order_relaxed);

        if (atomic_load_explicit(&worst->second[i], memory_order_relaxed) + GW_WORST_SLOTS > second &&
            us > most)
            most = us;
    }
    return most;
}

/* The processor time of a turn bounds that of each callback in it, the library's own too, and no other program's use of the core is
 * in it. */
static void note_turn(struct gw_loop *loop)
{
    uint64_t cpu_ns = base_thread_cpu_ns();

    if (loop->cpu_ns != 0)
        gw_worst_note(&loop->turn_cpu, base_mono_us(), (cpu_ns - loop->cpu_ns) / 1000);
    loop->cpu_ns = cpu_ns;
}

/* ---- posts ---- */

void gw_loop_post(struct gw_loop *loop, gw_task_fn *fn, void *arg)
{
    struct gw_task *task = base_zalloc(sizeof(*task));
    const uint64_t one = 1;
    bool first;

    task->fn = fn;
    task->arg = arg;
    pthread_mutex_lock(&loop->post_lock);
    first = loop->posts == NULL;
    *loop->posts_tail = task;
    loop->posts_tail = &task->next;
    pthread_mutex_unlock(&loop->post_lock);
    /* A full counter cannot be: it is read back to zero before the list is taken. */
    if (first && write(loop->post_fd, &one, sizeof(one)) < 0)
        assert(!"eventfd refused");
}

/* What is left of a list that was taken goes before what came since. */
static void put_back(struct gw_loop *loop, struct gw_task *task, struct gw_task **tail)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&loop->post_lock);
    if (loop->posts == NULL)
        loop->posts_tail = tail;
    *tail = loop->posts;
    loop->posts = task;
    pthread_mutex_unlock(&loop->post_lock);
    if (write(loop->post_fd, &one, sizeof(one)) < 0)
        assert(!"eventfd refused");
}

/* budget_us: what takes longer together goes on in the next turn, so that many answers at once, as when a provider that hung is given
 * up, do not keep the sockets waiting. 0: all of it. */
static void run_posts(struct gw_loop *loop, uint64_t budget_us)
{
    struct gw_task *task, *next, **tail;
    uint64_t began_us = base_mono_us();

    pthread_mutex_lock(&loop->post_lock);
    task = loop->posts;
    tail = loop->posts_tail;
    loop->posts = NULL;
    loop->posts_tail = &loop->posts;
    pthread_mutex_unlock(&loop->post_lock);
    for (; task != NULL; task = next) {
        uint64_t start_us = gw_loop_callback_us(loop);

        if (budget_us != 0 && base_mono_us() - began_us > budget_us) {
            put_back(loop, task, tail);
            return;
        }
        next = task->next;
        task->fn(task->arg);
        gw_loop_check_budget(loop, "task", start_us);
        free(task);
    }
}

static void on_post(h2o_socket_t *sock, const char *err)
{
    struct gw_loop *loop = sock->data;
    uint64_t n;

    (void)err;
    if (read(loop->post_fd, &n, sizeof(n)) < 0)
        return; /* EAGAIN: an earlier turn took it */
    run_posts(loop, GW_POSTS_BUDGET_US);
}

/* ---- timers ---- */

static bool timer_before(const struct gw_timer *a, const struct gw_timer *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->seq < b->seq;
}

static void timer_place(struct gw_loop *loop, struct gw_timer *timer, size_t at)
{
    loop->timers[at] = timer;
    timer->at = at;
}

static void timer_up(struct gw_loop *loop, struct gw_timer *timer, size_t at)
{
    while (at > 0 && timer_before(timer, loop->timers[(at - 1) / 2])) {
        timer_place(loop, loop->timers[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    timer_place(loop, timer, at);
}

static void timer_down(struct gw_loop *loop, struct gw_timer *timer, size_t at)
{
    for (;;) {
        size_t child = 2 * at + 1;

        if (child + 1 < loop->n_timers && timer_before(loop->timers[child + 1], loop->timers[child]))
            child++;
        if (child >= loop->n_timers || !timer_before(loop->timers[child], timer))
            break;
        timer_place(loop, loop->timers[child], at);
        at = child;
    }
    timer_place(loop, timer, at);
}

struct gw_timer *gw_timer_start(struct gw_loop *loop, uint64_t delay_ms, gw_task_fn *fn, void *arg)
{
    struct gw_timer *timer = base_zalloc(sizeof(*timer));

    assert(gw_loop_is_current(loop));
    if (loop->n_timers == loop->timers_cap) {
        loop->timers_cap = loop->timers_cap != 0 ? loop->timers_cap * 2 : 64;
        loop->timers = base_realloc(loop->timers, loop->timers_cap * sizeof(struct gw_timer *));
    }
    timer->loop = loop;
    timer->due_ms = base_mono_ms() + delay_ms;
    timer->seq = loop->timer_seq++;
    timer->fn = fn;
    timer->arg = arg;
    timer_up(loop, timer, loop->n_timers++);
    return timer;
}

static void timer_remove(struct gw_timer *timer)
{
    struct gw_loop *loop = timer->loop;
    struct gw_timer *last = loop->timers[--loop->n_timers];
    size_t at = timer->at;

    if (last == timer)
        return;
    if (at > 0 && timer_before(last, loop->timers[(at - 1) / 2]))
        timer_up(loop, last, at);
    else
        timer_down(loop, last, at);
}

void gw_timer_stop(struct gw_timer *timer)
{
    if (timer == NULL)
        return;
    assert(gw_loop_is_current(timer->loop));
    timer_remove(timer);
    free(timer);
}

/* A timer that a callback starts waits for the next turn, even with no delay: a loop of them cannot starve
 * the sockets. */
static void run_timers(struct gw_loop *loop)
{
    uint64_t now_ms = base_mono_ms(), seq_end = loop->timer_seq;

    while (loop->n_timers > 0 && loop->timers[0]->due_ms <= now_ms && loop->timers[0]->seq < seq_end) {
        struct gw_timer *timer = loop->timers[0];
        gw_task_fn *fn = timer->fn;
        void *arg = timer->arg;
        uint64_t start_us = gw_loop_callback_us(loop);

        timer_remove(timer);
        free(timer);
        fn(arg);
        gw_loop_check_budget(loop, "timer", start_us);
    }
}

/* ---- watches ---- */

static void watch_run(struct gw_watch *watch, int event)
{
    struct gw_loop *loop = watch->loop;
    uint64_t start_us = gw_loop_callback_us(loop);

    if (watch->freed || (watch->events & event) == 0)
        return;
    watch->running = true;
    watch->fn(watch->user, event);
    watch->running = false;
    gw_loop_check_budget(loop, "watch", start_us);
    if (watch->freed)
        free(watch);
    else
        gw_watch_set(watch, watch->events); /* the write notice is armed anew */
}

static void on_watch_read(h2o_socket_t *sock, const char *err)
{
    (void)err; /* the owner's own read meets the error */
    watch_run(sock->data, GW_IO_READ);
}

static void on_watch_write(h2o_socket_t *sock, const char *err)
{
    struct gw_watch *watch = sock->data;

    (void)err;
    watch->write_armed = false;
    watch_run(watch, GW_IO_WRITE);
}

struct gw_watch *gw_watch_new(struct gw_loop *loop, int fd, gw_io_fn *fn, void *user)
{
    struct gw_watch *watch;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    assert(gw_loop_is_current(loop));
    if (copy < 0)
        return NULL; /* no descriptor left */
    watch = base_zalloc(sizeof(*watch));
    watch->loop = loop;
    watch->fn = fn;
    watch->user = user;
    watch->sock = h2o_evloop_socket_create(loop->ctx.loop, copy, H2O_SOCKET_FLAG_DONT_READ);
    watch->sock->data = watch;
    return watch;
}

void gw_watch_set(struct gw_watch *watch, int events)
{
    assert(gw_loop_is_current(watch->loop));
    watch->events = events;
    if (watch->running)
        return; /* applied when the callback returns */
    if (events & GW_IO_READ)
        h2o_socket_read_start(watch->sock, on_watch_read);
    else
        h2o_socket_read_stop(watch->sock);
    if ((events & GW_IO_WRITE) && !watch->write_armed) {
        watch->write_armed = true;
        h2o_socket_notify_write(watch->sock, on_watch_write);
    }
}

void gw_watch_free(struct gw_watch *watch)
{
    if (watch == NULL)
        return;
    assert(gw_loop_is_current(watch->loop) && !watch->freed);
    watch->freed = true;
    h2o_socket_read_stop(watch->sock);
    h2o_socket_close(watch->sock);
    if (!watch->running)
        free(watch);
}

/* ---- life ---- */

void gw_loop_prepare(struct gw_loop *loop, struct gw_server *server, unsigned index)
{
    loop->server = server;
    loop->index = index;
    pthread_mutex_init(&loop->post_lock, NULL);
    loop->posts_tail = &loop->posts;
    loop->by_cpu =
        getenv("GATEHOUSE_CALLBACK_CLOCK") != NULL && strcmp(getenv("GATEHOUSE_CALLBACK_CLOCK"), "cpu") == 0;
    loop->post_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    h2o_linklist_init_anchor(&loop->lingers);
    h2o_linklist_init_anchor(&loop->conns);
    h2o_linklist_init_anchor(&loop->https);
    h2o_linklist_init_anchor(&loop->rehooks);
    h2o_linklist_init_anchor(&loop->pumps);
    loop->pump_entry.cb = gw_http_run_pumps;
}

/* The library's context must be made on the thread that will run it: it captures that thread's buffer
 * recycler. */
void gw_loop_enter(struct gw_loop *loop)
{
    current_loop = loop;
    h2o_context_init(&loop->ctx, h2o_evloop_create(), &loop->server->conf);
    loop->accept = (h2o_accept_ctx_t){.ctx = &loop->ctx, .hosts = loop->server->conf.hosts};
    loop->entered = true;
    loop->post_sock = h2o_evloop_socket_create(loop->ctx.loop, fcntl(loop->post_fd, F_DUPFD_CLOEXEC, 3),
                                               H2O_SOCKET_FLAG_DONT_READ);
    loop->post_sock->data = loop;
    h2o_socket_read_start(loop->post_sock, on_post);
}

void gw_loop_turn(struct gw_loop *loop)
{
    uint64_t now_ms = base_mono_ms(), wait_ms = GW_TICK_MS;

    if (loop->n_timers > 0)
        wait_ms = loop->timers[0]->due_ms > now_ms ? loop->timers[0]->due_ms - now_ms : 0;
    if (wait_ms > GW_TICK_MS)
        wait_ms = GW_TICK_MS;
    h2o_evloop_run(loop->ctx.loop, (int32_t)wait_ms);
    loop->now_ms = 0;
    run_timers(loop);
    note_turn(loop);
}

void gw_loop_leave(struct gw_loop *loop)
{
    h2o_evloop_t *evloop = loop->ctx.loop;

    run_posts(loop, 0);
    gw_timer_stop(loop->tick);
    loop->tick = NULL;
    h2o_timeout_unlink(&loop->pump_entry);
    h2o_socket_read_stop(loop->post_sock);
    h2o_socket_close(loop->post_sock);
    h2o_context_dispose(&loop->ctx);
    h2o_evloop_destroy(evloop);
    loop->entered = false;
    current_loop = NULL;
}

void gw_loop_dispose(struct gw_loop *loop)
{
    bool more = true;

    current_loop = loop; /* tasks that came after the thread's end still run once, here */
    while (more) {
        run_posts(loop, 0);
        pthread_mutex_lock(&loop->post_lock);
        more = loop->posts != NULL;
        pthread_mutex_unlock(&loop->post_lock);
    }
    current_loop = NULL;
    for (size_t i = 0; i < loop->n_timers; i++) /* never called back: their owners ended before their loop */
        free(loop->timers[i]);
    free(loop->timers);
    free(loop->acceptors);
    if (loop->post_fd >= 0)
        close(loop->post_fd);
    pthread_mutex_destroy(&loop->post_lock);
}
