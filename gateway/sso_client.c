/* SSO client. See sso_client.h.
 *
 *     loop: gw_sso_call --> table, child's output --> (eventfd) --> keeper thread: writes, reads, deadlines
 *     keeper: reply, deadline or death --> taken out of the table --> posted to the loop --> done
 *
 * Invariants:
 *   1. an op is in the table from its call until the keeper takes it out, once; only then is it posted;
 *   2. `forgotten` belongs to the op's loop, everything else of an op and of the children to the lock;
 *   3. at most one child takes new calls; others are being drained: they end when their last call has.
 */
#include "gateway/sso_client.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/secret.h"
#include "gateway/sso/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILDREN_MAX     4u
#define OUTPUT_MAX       (8u << 20)
#define BACKOFF_FIRST_MS 100u
#define BACKOFF_MAX_MS   10000u
#define STEADY_MS        10000u /* a process that lived so long starts the back-off anew */
#define DRAIN_MS         20000u
#define IDLE_POLL_MS     1000u /* also how often the resolver's files are looked at */
#define CONFIGURE_ID     1u

struct gw_sso_op {
    struct gw_sso *sso;
    struct gw_loop *loop; /* NULL: a thread waits */
    uint64_t id, deadline_ms;
    unsigned child; /* index */
    gw_sso_fn *done;
    void *user;
    bool forgotten;
    bool finished; /* of a waiting thread's */
    enum base_code rc;
    char *json;
    size_t len;
};

struct child {
    pid_t pid; /* 0: none */
    int fd;
    bool draining;
    uint64_t started_ms, drain_until_ms;
    unsigned n_open;
    struct base_buf in, out;
};

struct gw_sso {
    char *program;
    char *config;
    size_t config_len;
    const char *const *resolver_files;
    void (*on_reply)(const char *json, size_t len, void *user);
    void *user;
    uint64_t resolver_mark, next_look_ms; /* what they were when the current process was started */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a waiting thread's op has finished */
    pthread_t keeper;
    int wake;
    bool stopping, reconfigured;
    struct child children[CHILDREN_MAX];
    unsigned current; /* CHILDREN_MAX: none */
    struct gw_sso_op *ops[GW_SSO_CALLS_MAX];
    unsigned n_ops;
    uint64_t next_id, next_start_ms;
    unsigned backoff_ms;
    uint64_t starts_total, calls_total, timeouts_total;
};

static void wake(struct gw_sso *sso)
{
    uint64_t one = 1;

    while (write(sso->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* ---- ops ---- */

static void op_free(struct gw_sso_op *op)
{
    if (op->json != NULL)
        base_wipe(op->json, op->len);
    free(op->json);
    free(op);
}

static void op_finish(void *arg) /* on the op's loop */
{
    struct gw_sso_op *op = arg;

    if (!op->forgotten)
        op->done(op->rc, op->json, op->len, op->user);
    op_free(op);
}

/* With the lock: takes the op at `at` out of the table and sends it home. */
static void settle(struct gw_sso *sso, unsigned at, enum base_code rc, const char *json, size_t len)
{
    struct gw_sso_op *op = sso->ops[at];

    sso->ops[at] = sso->ops[--sso->n_ops];
    sso->children[op->child].n_open--;
    op->rc = rc;
    if (json != NULL) {
        op->json = base_memdup0(json, len);
        op->len = len;
    }
    if (rc == BASE_TIMEOUT)
        sso->timeouts_total++;
    if (op->loop != NULL) {
        gw_loop_post(op->loop, op_finish, op);
        return;
    }
    op->finished = true;
    pthread_cond_broadcast(&sso->changed);
}

/* With the lock. */
static enum base_code add(struct gw_sso *sso, struct gw_sso_op *op, const char *request, size_t len)
{
    struct child *child;
    enum base_code rc;

    if (sso->stopping || sso->current == CHILDREN_MAX)
        return BASE_UNAVAILABLE;
    if (sso->n_ops == GW_SSO_CALLS_MAX)
        return BASE_FULL;
    child = &sso->children[sso->current];
    op->id = ++sso->next_id;
    op->child = sso->current;
    if (len > SSO_FRAME_MAX - 8)
        return BASE_TOO_LARGE;
    rc = sso_frame_append(&child->out, op->id, request, len, NULL);
    if (rc != BASE_OK) {
        base_buf_reset(
            &child->out); /* a failed buffer stays failed: what was in it is lost, and the frames with it */
        shutdown(child->fd, SHUT_RDWR);
        return BASE_FULL;
    }
    sso->ops[sso->n_ops++] = op;
    child->n_open++;
    sso->calls_total++;
    return BASE_OK;
}

struct gw_sso_op *gw_sso_call(struct gw_sso *sso, struct gw_loop *loop, const char *request, size_t len,
                              unsigned timeout_ms, gw_sso_fn *done, void *user)
{
    struct gw_sso_op *op = base_zalloc(sizeof(*op));
    enum base_code rc;

    *op = (struct gw_sso_op){
        .sso = sso, .loop = loop, .deadline_ms = base_mono_ms() + timeout_ms, .done = done, .user = user};
    pthread_mutex_lock(&sso->lock);
    rc = add(sso, op, request, len);
    pthread_mutex_unlock(&sso->lock);
    if (rc == BASE_OK) {
        wake(sso);
        return op;
    }
    free(op);
    done(rc, NULL, 0, user);
    return NULL;
}

void gw_sso_forget(struct gw_sso_op *op)
{
    if (op != NULL)
        op->forgotten = true;
}

enum base_code gw_sso_call_wait(struct gw_sso *sso, const char *request, size_t len, unsigned timeout_ms,
                                char **ret_json, size_t *ret_len, struct base_err *err)
{
    struct gw_sso_op *op = base_zalloc(sizeof(*op));
    enum base_code rc;

    *op = (struct gw_sso_op){.sso = sso, .deadline_ms = base_mono_ms() + timeout_ms};
    pthread_mutex_lock(&sso->lock);
    while (sso->current == CHILDREN_MAX && !sso->stopping && base_mono_ms() < op->deadline_ms) {
        pthread_mutex_unlock(&sso->lock); /* just started: give it its moment */
        usleep(5000);
        pthread_mutex_lock(&sso->lock);
    }
    rc = add(sso, op, request, len);
    if (rc == BASE_OK) {
        wake(sso);
        while (!op->finished)
            pthread_cond_wait(&sso->changed, &sso->lock);
        rc = op->rc;
    }
    pthread_mutex_unlock(&sso->lock);
    if (rc == BASE_OK) {
        *ret_json = op->json;
        *ret_len = op->len;
        op->json = NULL;
    } else {
        base_fail(err, rc, 0,
                  rc == BASE_TIMEOUT ? "gatehouse-sso does not answer" : "gatehouse-sso is not running (%s)",
                  sso->program);
    }
    op_free(op);
    return rc;
}

/* ---- children; with the lock, on the keeper ---- */

static enum base_code spawn(const struct gw_sso *sso, int fd, pid_t *ret_pid, struct base_err *err)
{
    char *const argv[] = {(char *)sso->program, NULL};
    char *const environment[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int rc;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, fd, SSO_FD);
    posix_spawn_file_actions_addclosefrom_np(&actions, SSO_FD + 1);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    rc = posix_spawn(ret_pid, sso->program, &actions, &attributes, argv, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return rc == 0 ? BASE_OK : base_fail(err, BASE_IO, rc, "%s cannot be started", sso->program);
}

/* Changes when one of the files is another file, not when its text was changed: the resolver sees that by itself. */
static uint64_t resolver_mark(const struct gw_sso *sso)
{
    uint64_t mark = 0;

    for (const char *const *at = sso->resolver_files; *at != NULL; at++) {
        struct stat file = {0};

        if (stat(*at, &file) != 0)
            file = (struct stat){0};
        mark = (mark * 1000003 + (uint64_t)file.st_dev) * 1000003 + (uint64_t)file.st_ino;
    }
    return mark;
}

static void look_at_resolver(struct gw_sso *sso)
{
    if (sso->current == CHILDREN_MAX || base_mono_ms() < sso->next_look_ms)
        return;
    sso->next_look_ms = base_mono_ms() + IDLE_POLL_MS;
    if (resolver_mark(sso) == sso->resolver_mark)
        return;
    base_log(BASE_LOG_INFO, "sso.resolver_changed",
             "a file that names are resolved with was replaced: gatehouse-sso is started anew");
    sso->reconfigured = true;
}

static enum base_code start_child(struct gw_sso *sso, struct base_err *err)
{
    unsigned at = 0;
    struct child *child;
    int pair[2];
    pid_t pid;
    enum base_code rc;

    while (at < CHILDREN_MAX && sso->children[at].pid != 0)
        at++;
    if (at == CHILDREN_MAX)
        return base_fail(err, BASE_FULL, 0, "too many processes are still being drained");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return base_fail(err, BASE_IO, errno, "socketpair");
    sso->resolver_mark = resolver_mark(sso);
    rc = spawn(sso, pair[1], &pid, err);
    close(pair[1]);
    if (rc != BASE_OK) {
        close(pair[0]);
        return rc;
    }
    fcntl(pair[0], F_SETFL, O_NONBLOCK);
    child = &sso->children[at];
    *child = (struct child){.pid = pid,
                            .fd = pair[0],
                            .started_ms = base_mono_ms(),
                            .in = BASE_BUF_INIT(2 * SSO_FRAME_MAX),
                            .out = BASE_BUF_INIT(OUTPUT_MAX)};
    rc = sso_frame_append(&child->out, CONFIGURE_ID, sso->config, sso->config_len, err);
    sso->current = at;
    sso->starts_total++;
    return rc;
}

/* What it had open is answered "not available". */
static void end_child(struct gw_sso *sso, unsigned at, bool expected)
{
    struct child *child = &sso->children[at];
    int status = 0;

    for (unsigned i = sso->n_ops; i-- > 0;)
        if (sso->ops[i]->child == at)
            settle(sso, i, BASE_UNAVAILABLE, NULL, 0);
    close(child->fd);
    if (!expected)
        kill(child->pid, SIGKILL); /* it may have broken the protocol and live on */
    while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!expected)
        base_log(BASE_LOG_ERROR, "sso.died", "gatehouse-sso has ended and is started again",
                 LOG_INT("pid", child->pid), LOG_INT("status", status), LOG_INT("next_ms", sso->backoff_ms));
    base_wipe(child->in.data, child->in.cap);
    base_wipe(child->out.data, child->out.cap);
    base_buf_free(&child->in);
    base_buf_free(&child->out);
    if (base_mono_ms() - child->started_ms > STEADY_MS)
        sso->backoff_ms = BACKOFF_FIRST_MS;
    *child = (struct child){0};
    if (sso->current == at) {
        sso->current = CHILDREN_MAX;
        sso->next_start_ms = base_mono_ms() + sso->backoff_ms;
        sso->backoff_ms = sso->backoff_ms * 2 < BACKOFF_MAX_MS ? sso->backoff_ms * 2 : BACKOFF_MAX_MS;
    }
}

/* False: it is broken. */
static bool write_some(struct child *child)
{
    while (child->out.len > 0) {
        ssize_t n = send(child->fd, child->out.data, child->out.len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK;
        base_wipe(child->out.data, (size_t)n);
        base_buf_consume(&child->out, (size_t)n);
    }
    return true;
}

static void log_configured(const struct sso_frame *frame)
{
    static const char bad[] = "\"ok\":false";

    /* the process has said which and why; here it is enough that an operator sees it in the gateway's own log, too */
    if (memmem(frame->json, frame->len, bad, sizeof(bad) - 1) != NULL)
        base_log(BASE_LOG_ERROR, "sso.configured",
                 "not every identity provider can be used: see `gatehouse sso check`");
    else
        base_log(BASE_LOG_INFO, "sso.configured", "gatehouse-sso is ready");
}

static void take_reply(struct gw_sso *sso, unsigned at, const struct sso_frame *frame)
{
    if (frame->id == CONFIGURE_ID) {
        log_configured(frame);
        return;
    }
    if (sso->on_reply != NULL)
        sso->on_reply(frame->json, frame->len, sso->user);
    for (unsigned i = 0; i < sso->n_ops; i++)
        if (sso->ops[i]->id == frame->id && sso->ops[i]->child == at) {
            settle(sso, i, BASE_OK, frame->json, frame->len);
            return;
        }
    /* late: its deadline has passed */
}

/* False: closed, or it breaks the framing. */
static bool read_some(struct gw_sso *sso, unsigned at)
{
    struct child *child = &sso->children[at];

    for (;;) {
        char *room = base_buf_reserve(&child->in, 65536);
        struct sso_frame frame;
        struct base_err err = {0};
        size_t used = 0;
        enum base_code rc;
        ssize_t n;

        if (room == NULL)
            return false;
        n = read(child->fd, room, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        child->in.len += (size_t)n;
        while ((rc = sso_frame_take(child->in.data, child->in.len, &frame, &used, &err)) == BASE_OK) {
            take_reply(sso, at, &frame);
            base_wipe(child->in.data, used);
            base_buf_consume(&child->in, used);
        }
        if (rc == BASE_CORRUPT) {
            base_log_err(BASE_LOG_ERROR, "sso.protocol", "gatehouse-sso breaks the framing", &err);
            return false;
        }
    }
}

/* ---- the keeper ---- */

static void pass_deadlines(struct gw_sso *sso)
{
    uint64_t now_ms = base_mono_ms();

    for (unsigned i = sso->n_ops; i-- > 0;)
        if (now_ms >= sso->ops[i]->deadline_ms)
            settle(sso, i, BASE_TIMEOUT, NULL, 0);
}

static void keep_running(struct gw_sso *sso)
{
    struct base_err err = {0};

    look_at_resolver(sso);
    if (sso->reconfigured && sso->current != CHILDREN_MAX) {
        sso->children[sso->current].draining = true;
        sso->children[sso->current].drain_until_ms = base_mono_ms() + DRAIN_MS;
        sso->current = CHILDREN_MAX;
        sso->next_start_ms = 0;
    }
    sso->reconfigured = false;
    if (sso->current == CHILDREN_MAX && base_mono_ms() >= sso->next_start_ms &&
        start_child(sso, &err) != BASE_OK) {
        base_log_err(BASE_LOG_ERROR, "sso.start_failed", "gatehouse-sso does not start", &err);
        sso->next_start_ms = base_mono_ms() + sso->backoff_ms;
        sso->backoff_ms = sso->backoff_ms * 2 < BACKOFF_MAX_MS ? sso->backoff_ms * 2 : BACKOFF_MAX_MS;
    }
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        struct child *child = &sso->children[i];

        if (child->pid != 0 && child->draining &&
            (child->n_open == 0 || base_mono_ms() >= child->drain_until_ms)) {
            shutdown(child->fd, SHUT_RDWR);
            end_child(sso, i, child->n_open == 0);
        }
    }
}

static int wait_ms(const struct gw_sso *sso)
{
    uint64_t now_ms = base_mono_ms(), until_ms = now_ms + IDLE_POLL_MS;

    for (unsigned i = 0; i < sso->n_ops; i++)
        if (sso->ops[i]->deadline_ms < until_ms)
            until_ms = sso->ops[i]->deadline_ms;
    if (sso->current == CHILDREN_MAX && sso->next_start_ms < until_ms)
        until_ms = sso->next_start_ms;
    return until_ms > now_ms ? (int)(until_ms - now_ms) : 0;
}

static void serve_child(struct gw_sso *sso, unsigned at, short events)
{
    struct child *child = &sso->children[at];
    bool good = true;

    if (child->pid == 0)
        return;
    if (events & POLLOUT)
        good = write_some(child);
    if (good && (events & (POLLIN | POLLHUP | POLLERR)))
        good = read_some(sso, at);
    if (!good)
        end_child(sso, at, child->draining);
}

static void *keeper_main(void *p)
{
    struct gw_sso *sso = p;
    struct pollfd fds[CHILDREN_MAX + 1];
    uint64_t count;

    pthread_mutex_lock(&sso->lock);
    while (!sso->stopping) {
        unsigned n = 1, whose[CHILDREN_MAX + 1];
        int timeout_ms;

        keep_running(sso);
        pass_deadlines(sso);
        fds[0] = (struct pollfd){.fd = sso->wake, .events = POLLIN};
        for (unsigned i = 0; i < CHILDREN_MAX; i++) {
            const struct child *child = &sso->children[i];

            if (child->pid == 0)
                continue;
            whose[n] = i;
            fds[n++] = (struct pollfd){.fd = child->fd,
                                       .events = (short)(POLLIN | (child->out.len > 0 ? POLLOUT : 0))};
        }
        timeout_ms = wait_ms(sso);
        pthread_mutex_unlock(&sso->lock);
        poll(fds, n, timeout_ms);
        pthread_mutex_lock(&sso->lock);
        if (fds[0].revents != 0 && read(sso->wake, &count, sizeof(count)) < 0)
            continue;
        for (unsigned i = 1; i < n; i++)
            if (fds[i].revents != 0)
                serve_child(sso, whose[i], fds[i].revents);
    }
    pthread_mutex_unlock(&sso->lock);
    return NULL;
}

/* ---- life ---- */

static char *beside_us(void)
{
    static const char name[] = "gatehouse-sso";
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof(name) - 8);
    char *slash;

    if (n <= 0)
        return base_strdup(name);
    path[n] = '\0';
    slash = strrchr(path, '/');
    strcpy(slash + 1, name);
    if (access(path, X_OK) != 0) { /* in a build folder it lies in a folder of its own */
        strcpy(slash + 1, "sso/");
        strcat(slash + 1, name);
    }
    return base_strdup(path);
}

static void set_config(struct gw_sso *sso, const char *config, size_t len)
{
    if (sso->config != NULL)
        base_wipe(sso->config, sso->config_len);
    free(sso->config);
    sso->config = base_memdup0(config, len);
    sso->config_len = len;
}

struct gw_sso *gw_sso_new(const struct gw_sso_options *options)
{
    struct gw_sso *sso = base_zalloc(sizeof(*sso));

    sso->program = options->program != NULL ? base_strdup(options->program) : beside_us();
    set_config(sso, options->config_json, options->config_len);
    sso->resolver_files = options->resolver_files != NULL ? options->resolver_files : sso_resolver_files;
    sso->on_reply = options->on_reply;
    sso->user = options->user;
    sso->current = CHILDREN_MAX;
    sso->backoff_ms = BACKOFF_FIRST_MS;
    sso->next_id = CONFIGURE_ID;
    sso->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&sso->lock, NULL);
    pthread_cond_init(&sso->changed, NULL);
    if (pthread_create(&sso->keeper, NULL, keeper_main, sso) != 0)
        abort(); /* at start: the process has no threads to give */
    return sso;
}

void gw_sso_reconfigure(struct gw_sso *sso, const char *config_json, size_t len)
{
    pthread_mutex_lock(&sso->lock);
    if (len != sso->config_len || memcmp(sso->config, config_json, len) != 0) {
        set_config(sso, config_json, len);
        sso->reconfigured = true;
        sso->backoff_ms = BACKOFF_FIRST_MS;
    }
    pthread_mutex_unlock(&sso->lock);
    wake(sso);
}

void gw_sso_free(struct gw_sso *sso)
{
    if (sso == NULL)
        return;
    pthread_mutex_lock(&sso->lock);
    sso->stopping = true;
    pthread_mutex_unlock(&sso->lock);
    wake(sso);
    pthread_join(sso->keeper, NULL);
    for (unsigned i = 0; i < sso->n_ops; i++) {
        sso->children[sso->ops[i]->child].n_open--;
        op_free(sso->ops[i]);
    }
    sso->n_ops = 0;
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (sso->children[i].pid != 0) {
            shutdown(sso->children[i].fd, SHUT_RDWR);
            kill(sso->children[i].pid, SIGTERM); /* its threads may be waiting for a provider */
            end_child(sso, i, true);
        }
    close(sso->wake);
    pthread_cond_destroy(&sso->changed);
    pthread_mutex_destroy(&sso->lock);
    base_wipe(sso->config, sso->config_len);
    free(sso->config);
    free(sso->program);
    free(sso);
}

void gw_sso_get_stats(struct gw_sso *sso, struct gw_sso_stats *ret_stats)
{
    pthread_mutex_lock(&sso->lock);
    *ret_stats = (struct gw_sso_stats){
        .up = sso->current != CHILDREN_MAX,
        .starts_total = sso->starts_total,
        .calls_total = sso->calls_total,
        .timeouts_total = sso->timeouts_total,
        .open_calls = sso->n_ops,
        .pid = sso->current != CHILDREN_MAX ? (int)sso->children[sso->current].pid : 0,
    };
    pthread_mutex_unlock(&sso->lock);
}
