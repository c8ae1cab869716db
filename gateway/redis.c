/* Redis. See redis.h.
 *
 *     DOWN --back-off--> RESOLVING ----> CONNECTING --connected--> HELLO --answered--> UP
 *      ^                 (names only)                                                 |  ^
 *      |                                                            a call is overdue v  | all were answered
 *      +-------- error, refused, HELLO_MS or SLOW_MS passed ------------------------- SLOW
 *
 *     HELLO sends AUTH, SELECT and SCRIPT LOAD (PING when there is no script).
 *
 * Invariants:
 *   1. hiredis answers every command exactly once, with NULL when the connection goes: a struct command is
 *      freed there and nowhere else;
 *   2. a command is in `waiting` until its deadline, then in `overdue` until hiredis answers; both are in the
 *      order of sending;
 *   3. redis->ac is set to NULL before the library frees it or at the latest in its last callback;
 *   4. commands are sent in UP alone; those that nobody waits for (even_if_slow) in SLOW too.
 *
 * Source: hiredis 0.14 async.c (no timeouts of its own; freeing a context answers what is outstanding).
 */
#include "gateway/redis.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

#define HELLO_MS         1000u /* for connecting, and again for the first answers */
#define SLOW_MS          1000u
#define RESOLVE_POLL_MS  10u
#define BACKOFF_FIRST_MS 50u
#define BACKOFF_MAX_MS   2000u
#define SHA_LEN          40u
#define TEXT_MAX         256u

struct command {
    TAILQ_ENTRY(command) link;
    struct gw_redis *redis;
    uint64_t deadline_ms;
    bool overdue, by_text; /* by_text: sent as EVAL after NOSCRIPT */
    gw_redis_fn *done, *late;
    gw_redis_value_fn *value_done; /* a plain command's; its answer after the deadline is dropped */
    void *user;
    unsigned n_keys, n_texts;
    size_t lens[4 + GW_REDIS_ARGS_MAX];
    char texts[]; /* keys, then arguments, each with its NUL */
};
TAILQ_HEAD(command_list, command);

enum state { DOWN, RESOLVING, CONNECTING, HELLO, UP, SLOW };

struct gw_redis {
    struct gw_loop *loop;
    const char *script;
    unsigned timeout_ms;
    /* the URL's parts */
    bool is_unix;
    char path[TEXT_MAX]; /* of the socket, or the host */
    char user[TEXT_MAX], password[TEXT_MAX];
    unsigned port, database;

    enum state state;
    bool told_away, freeing;
    redisAsyncContext *ac;
    struct gw_watch *watch;
    int interest;
    struct gw_timer *state_timer; /* back-off, or the state's limit */
    struct gw_timer *deadline_timer;
    unsigned backoff_ms;
    char sha[SHA_LEN + 1];
    struct command_list waiting, overdue;
    unsigned n_commands;

    pthread_t resolver;  /* in RESOLVING */
    unsigned n_resolved; /* times: a name's addresses are tried in turn */
    atomic_bool resolved;
    char address[INET6_ADDRSTRLEN]; /* numeric; "" when the name has none. The resolver's until `resolved` */
};

/* ---- URL ---- */

static bool take(char out[TEXT_MAX], const char *from, size_t len)
{
    if (len >= TEXT_MAX)
        return false;
    memcpy(out, from, len);
    out[len] = '\0';
    return true;
}

static bool parse_host(struct gw_redis *r, const char *at)
{
    const char *slash = strchr(at, '/'), *end = slash != NULL ? slash : at + strlen(at), *host_end = end;
    const char *bracket = at[0] == '[' ? memchr(at, ']', (size_t)(end - at)) : NULL; /* an IPv6 address */
    const char *colon =
        memchr(bracket != NULL ? bracket : at, ':', (size_t)(end - (bracket != NULL ? bracket : at)));
    uint64_t number;

    r->port = 6379;
    if (colon != NULL) {
        if (base_parse_u64(colon + 1, (size_t)(end - colon - 1), 65535, &number) != BASE_OK || number == 0)
            return false;
        r->port = (unsigned)number;
        host_end = colon;
    }
    if (bracket != NULL) {
        at++;
        host_end = bracket;
    }
    if (slash != NULL && slash[1] != '\0') {
        if (base_parse_u64(slash + 1, strlen(slash + 1), 1000, &number) != BASE_OK)
            return false;
        r->database = (unsigned)number;
    }
    return host_end > at && take(r->path, at, (size_t)(host_end - at));
}

static bool parse_url(struct gw_redis *r, const char *url)
{
    const char *at, *colon;

    if (strncmp(url, "unix://", 7) == 0) {
        r->is_unix = true;
        return url[7] == '/' && take(r->path, url + 7, strlen(url + 7));
    }
    if (strncmp(url, "redis://", 8) != 0)
        return false;
    url += 8;
    at = strrchr(url, '@');
    if (at == NULL)
        return parse_host(r, url);
    colon = memchr(url, ':', (size_t)(at - url));
    return colon != NULL && take(r->user, url, (size_t)(colon - url)) &&
           take(r->password, colon + 1, (size_t)(at - colon - 1)) && parse_host(r, at + 1);
}

bool gw_redis_url_ok(const char *url)
{
    struct gw_redis parsed = {0};
    bool ok = parse_url(&parsed, url);

    base_wipe(parsed.password, sizeof(parsed.password));
    return ok;
}

/* ---- commands ---- */

static void arm_deadline(struct gw_redis *r);
static void enter(struct gw_redis *r, enum state state);

static void command_free(struct command *c)
{
    struct gw_redis *r = c->redis;

    if (c->overdue)
        TAILQ_REMOVE(&r->overdue, c, link);
    else
        TAILQ_REMOVE(&r->waiting, c, link);
    r->n_commands--;
    free(c);
}

/* Takes the command out and tells its owner. */
static void command_end(struct command *c, enum base_code rc, const int64_t *ints, unsigned n)
{
    gw_redis_fn *tell = c->overdue ? c->late : c->done;
    gw_redis_value_fn *tell_value = c->overdue ? NULL : c->value_done;
    void *user = c->user;

    command_free(c);
    if (tell != NULL)
        tell(rc, ints, n, user);
    if (tell_value != NULL)
        tell_value(rc, NULL, user);
}

/* How many values a reply is, lists flattened; 0 past the caps or for what is neither. depth: lists within lists. */
static size_t count_values(const redisReply *reply, unsigned depth)
{
    size_t n = 0;

    switch (reply->type) {
    case REDIS_REPLY_NIL:
    case REDIS_REPLY_INTEGER: return 1;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS: return reply->len <= GW_REDIS_BULK_MAX ? 1 : 0;
    case REDIS_REPLY_ARRAY: break;
    default: return 0;
    }
    if (depth == 0 || reply->elements > GW_REDIS_ITEMS_MAX)
        return 0;
    for (size_t i = 0; i < reply->elements; i++) {
        const redisReply *one = reply->element[i];
        size_t inner = count_values(one, depth - 1);

        if (inner == 0 && !(one->type == REDIS_REPLY_ARRAY && one->elements == 0))
            return 0;
        n += inner;
    }
    return n <= GW_REDIS_ITEMS_MAX ? n : 0;
}

static struct gw_redis_value one_value(const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_INTEGER)
        return (struct gw_redis_value){.kind = GW_REDIS_INT, .integer = reply->integer};
    if (reply->type == REDIS_REPLY_NIL)
        return (struct gw_redis_value){.kind = GW_REDIS_NIL};
    return (struct gw_redis_value){.kind = GW_REDIS_TEXT, .bytes = reply->str, .len = (size_t)reply->len};
}

static size_t flatten(const redisReply *reply, struct gw_redis_value *out)
{
    size_t n = 0;

    if (reply->type != REDIS_REPLY_ARRAY) {
        *out = one_value(reply);
        return 1;
    }
    for (size_t i = 0; i < reply->elements; i++)
        n += flatten(reply->element[i], out + n);
    return n;
}

static void command_end_value(struct command *c, const redisReply *reply)
{
    gw_redis_value_fn *tell = c->overdue ? NULL : c->value_done;
    size_t n = count_values(reply, 2);
    struct gw_redis_value value = {.kind = GW_REDIS_LIST}, *items = NULL;
    void *user = c->user;

    command_free(c);
    if (tell == NULL)
        return;
    if (n == 0 && !(reply->type == REDIS_REPLY_ARRAY && reply->elements == 0)) {
        tell(BASE_TOO_LARGE, NULL, user);
        return;
    }
    if (reply->type == REDIS_REPLY_ARRAY) {
        items = base_zalloc((n + 1) * sizeof(*items));
        value.n_items = (unsigned)flatten(reply, items);
        value.items = items;
    } else
        value = one_value(reply);
    tell(BASE_OK, &value, user);
    free(items);
}

static enum base_code read_ints(const redisReply *reply, int64_t ints[GW_REDIS_INTS_MAX], unsigned *ret_n)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements > GW_REDIS_INTS_MAX)
        return BASE_INVALID;
    for (size_t i = 0; i < reply->elements; i++) {
        if (reply->element[i]->type != REDIS_REPLY_INTEGER)
            return BASE_INVALID;
        ints[i] = reply->element[i]->integer;
    }
    *ret_n = (unsigned)reply->elements;
    return BASE_OK;
}

/* An error reply: what a restart or another node may mend is UNAVAILABLE, the rest is our script. */
static enum base_code error_code(const char *text)
{
    static const char *const ours[] = {"ERR ", "WRONGTYPE", "CROSSSLOT"};

    for (size_t i = 0; i < BASE_ARRAY_LEN(ours); i++)
        if (strncmp(text, ours[i], strlen(ours[i])) == 0)
            return BASE_INVALID;
    return BASE_UNAVAILABLE;
}

static bool command_send(struct command *c, const char *verb, const char *script);

static void on_answer(struct gw_redis *r, struct command *c, const redisReply *reply)
{
    int64_t ints[GW_REDIS_INTS_MAX];
    enum base_code rc;
    unsigned n = 0;

    if (reply->type != REDIS_REPLY_ERROR && c->value_done != NULL) {
        command_end_value(c, reply);
        return;
    }
    if (reply->type != REDIS_REPLY_ERROR) {
        rc = read_ints(reply, ints, &n);
        command_end(c, rc, rc == BASE_OK ? ints : NULL, n);
        return;
    }
    if (!c->by_text && c->value_done == NULL &&
        strncmp(reply->str, "NOSCRIPT", 8) ==
            0) { /* a restart or SCRIPT FLUSH: send its text, which loads it */
        c->by_text = true;
        if (command_send(c, "EVAL", r->script))
            return;
    }
    rc = error_code(reply->str);
    if (rc == BASE_INVALID)
        base_log(BASE_LOG_ERROR, "redis.script_failed", "Redis refused a script or a command",
                 LOG_STR("error", reply->str));
    command_end(c, rc, NULL, 0);
}

static void on_reply(redisAsyncContext *ac, void *reply_p, void *command_p)
{
    struct command *c = command_p;
    struct gw_redis *r = c->redis;

    if (reply_p == NULL) {
        command_end(c, r->freeing ? BASE_CANCELLED : BASE_UNAVAILABLE, NULL, 0);
        return;
    }
    on_answer(r, c, reply_p);
    if (r->state == SLOW && TAILQ_EMPTY(&r->overdue))
        enter(r, UP);
}

static bool command_send(struct command *c, const char *verb, const char *script)
{
    const char *argv[3 + 4 + GW_REDIS_ARGS_MAX];
    size_t lens[BASE_ARRAY_LEN(argv)];
    char n_keys[12];
    const char *text = c->texts;
    int argc = 3;

    snprintf(n_keys, sizeof(n_keys), "%u", c->n_keys);
    argv[0] = verb;
    argv[1] = script;
    argv[2] = n_keys;
    for (int i = 0; i < 3; i++)
        lens[i] = strlen(argv[i]);
    for (unsigned i = 0; i < c->n_texts; i++, argc++) {
        argv[argc] = text;
        lens[argc] = c->lens[i];
        text += c->lens[i] + 1;
    }
    return redisAsyncCommandArgv(c->redis->ac, on_reply, c, argc, argv, lens) == REDIS_OK;
}

static struct command *command_new(struct gw_redis *r, const struct gw_redis_call *call)
{
    size_t total = 0;
    struct command *c;
    char *at;

    for (unsigned i = 0; i < call->n_keys; i++)
        total += strlen(call->keys[i]) + 1;
    for (unsigned i = 0; i < call->n_args; i++)
        total += strlen(call->args[i]) + 1;
    c = base_zalloc(sizeof(*c) + total);
    c->redis = r;
    c->deadline_ms = base_mono_ms() + r->timeout_ms;
    c->done = call->done;
    c->late = call->late;
    c->user = call->user;
    c->n_keys = call->n_keys;
    c->n_texts = call->n_keys + call->n_args;
    at = c->texts;
    for (unsigned i = 0; i < c->n_texts; i++) {
        const char *text = i < c->n_keys ? call->keys[i] : call->args[i - c->n_keys];

        c->lens[i] = strlen(text);
        memcpy(at, text, c->lens[i] + 1);
        at += c->lens[i] + 1;
    }
    return c;
}

void gw_redis_eval(struct gw_redis *r, const struct gw_redis_call *call)
{
    bool sendable = r->state == UP || (r->state == SLOW && call->even_if_slow);
    struct command *c;

    if (!sendable || r->n_commands >= GW_REDIS_CALLS_MAX) {
        call->done(sendable ? BASE_FULL : BASE_UNAVAILABLE, NULL, 0, call->user);
        return;
    }
    c = command_new(r, call);
    if (!command_send(c, "EVALSHA", r->sha)) {
        free(c);
        call->done(BASE_UNAVAILABLE, NULL, 0, call->user);
        return;
    }
    TAILQ_INSERT_TAIL(&r->waiting, c, link);
    r->n_commands++;
    if (r->deadline_timer == NULL)
        arm_deadline(r);
}

static bool command_send_plain(struct command *c)
{
    const char *argv[GW_REDIS_ARGS_MAX];
    const char *text = c->texts;

    for (unsigned i = 0; i < c->n_texts; i++) {
        argv[i] = text;
        text += c->lens[i];
    }
    return redisAsyncCommandArgv(c->redis->ac, on_reply, c, (int)c->n_texts, argv, c->lens) == REDIS_OK;
}

void gw_redis_command(struct gw_redis *r, const struct gw_redis_bytes *args, unsigned n_args,
                      gw_redis_value_fn *done, void *user)
{
    struct command *c;
    size_t total = 0;
    char *at;

    if (r->state != UP || r->n_commands >= GW_REDIS_CALLS_MAX || n_args > GW_REDIS_ARGS_MAX) {
        done(r->state == UP ? BASE_FULL : BASE_UNAVAILABLE, NULL, user);
        return;
    }
    for (unsigned i = 0; i < n_args; i++)
        total += args[i].len;
    c = base_zalloc(sizeof(*c) + total);
    c->redis = r;
    c->deadline_ms = base_mono_ms() + r->timeout_ms;
    c->value_done = done;
    c->user = user;
    c->n_texts = n_args;
    at = c->texts;
    for (unsigned i = 0; i < n_args; i++) {
        c->lens[i] = args[i].len;
        memcpy(at, args[i].bytes, args[i].len);
        at += args[i].len;
    }
    if (!command_send_plain(c)) {
        free(c);
        done(BASE_UNAVAILABLE, NULL, user);
        return;
    }
    TAILQ_INSERT_TAIL(&r->waiting, c, link);
    r->n_commands++;
    if (r->deadline_timer == NULL)
        arm_deadline(r);
}

/* ---- deadlines ---- */

static void on_deadline(void *arg)
{
    struct gw_redis *r = arg;
    uint64_t now_ms = base_mono_ms();
    struct command *c;

    r->deadline_timer = NULL;
    while ((c = TAILQ_FIRST(&r->waiting)) != NULL && c->deadline_ms <= now_ms) {
        TAILQ_REMOVE(&r->waiting, c, link);
        TAILQ_INSERT_TAIL(&r->overdue, c, link);
        c->overdue = true;
        if (r->state == UP)
            enter(r, SLOW); /* before the owner asks again */
        if (c->value_done != NULL)
            c->value_done(BASE_TIMEOUT, NULL, c->user);
        else
            c->done(BASE_TIMEOUT, NULL, 0, c->user);
    }
    arm_deadline(r);
}

/* The timer stands for the oldest waiting command; when that was answered in time it finds the next. */
static void arm_deadline(struct gw_redis *r)
{
    const struct command *c = TAILQ_FIRST(&r->waiting);
    uint64_t now_ms = base_mono_ms();

    if (c != NULL)
        r->deadline_timer =
            gw_timer_start(r->loop, c->deadline_ms > now_ms ? c->deadline_ms - now_ms : 0, on_deadline, r);
}

/* ---- the connection ---- */

static void on_state_timer(void *arg);

/* Lets the connection go; what is outstanding is answered from within. */
static void drop(struct gw_redis *r)
{
    redisAsyncContext *ac = TAKE(r->ac);

    if (ac != NULL)
        redisAsyncFree(ac);
}

static void go_down(struct gw_redis *r, const char *why)
{
    if (!r->told_away)
        base_log(BASE_LOG_WARN, "redis.away", "Redis is away: limits follow their fail mode, nobody signs in",
                 LOG_STR("why", why));
    r->told_away = true;
    enter(r, DOWN);
    drop(r);
}

static void enter(struct gw_redis *r, enum state state)
{
    uint64_t limit_ms = 0; /* UP has none */

    gw_timer_stop(TAKE(r->state_timer));
    r->state = state;
    switch (state) {
    case DOWN:
        limit_ms = r->backoff_ms;
        r->backoff_ms = r->backoff_ms * 2 < BACKOFF_MAX_MS ? r->backoff_ms * 2 : BACKOFF_MAX_MS;
        break;
    case RESOLVING: limit_ms = RESOLVE_POLL_MS; break;
    case CONNECTING:
    case HELLO: limit_ms = HELLO_MS; break;
    case SLOW: limit_ms = SLOW_MS; break;
    case UP:
        r->backoff_ms = BACKOFF_FIRST_MS;
        if (r->told_away)
            base_log(BASE_LOG_INFO, "redis.up", "Redis answers again");
        r->told_away = false;
        break;
    }
    if (limit_ms > 0)
        r->state_timer = gw_timer_start(r->loop, limit_ms, on_state_timer, r);
}

static void on_io(void *user, int events)
{
    struct gw_redis *r = user;
    redisAsyncContext *ac = r->ac;

    if (ac != NULL && (events & GW_IO_READ) != 0)
        redisAsyncHandleRead(ac);
    if (ac != NULL && r->ac == ac && (events & GW_IO_WRITE) != 0) /* reading may have ended it */
        redisAsyncHandleWrite(ac);
}

static void set_interest(struct gw_redis *r, int interest)
{
    if (r->watch == NULL || r->interest == interest)
        return;
    r->interest = interest;
    gw_watch_set(r->watch, interest);
}

static void add_read(void *p)
{
    struct gw_redis *r = p;

    set_interest(r, r->interest | GW_IO_READ);
}

static void del_read(void *p)
{
    struct gw_redis *r = p;

    set_interest(r, r->interest & ~GW_IO_READ);
}

static void add_write(void *p)
{
    struct gw_redis *r = p;

    set_interest(r, r->interest | GW_IO_WRITE);
}

static void del_write(void *p)
{
    struct gw_redis *r = p;

    set_interest(r, r->interest & ~GW_IO_WRITE);
}

static void cleanup(void *p)
{
    struct gw_redis *r = p;

    gw_watch_free(TAKE(r->watch));
    r->interest = 0;
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct gw_redis *r = ac->data;

    if (r->ac != ac) /* we let it go ourselves */
        return;
    r->ac = NULL;
    go_down(r, ac->err != 0 ? ac->errstr : "connection closed");
}

/* AUTH and SELECT: a refusal ends the attempt, else the default user or database 0 would be used instead. */
static void on_hello(redisAsyncContext *ac, void *reply_p, void *user)
{
    struct gw_redis *r = user;
    const redisReply *reply = reply_p;

    if (reply != NULL && reply->type == REDIS_REPLY_ERROR && r->ac == ac && r->state == HELLO)
        go_down(r, reply->str);
}

static void on_loaded(redisAsyncContext *ac, void *reply_p, void *user)
{
    struct gw_redis *r = user;
    const redisReply *reply = reply_p;

    if (reply == NULL || r->ac != ac || r->state != HELLO)
        return;
    if (r->script == NULL && reply->type == REDIS_REPLY_STATUS)
        enter(r, UP);
    else if (r->script != NULL && reply->type == REDIS_REPLY_STRING && strlen(reply->str) == SHA_LEN) {
        memcpy(r->sha, reply->str, SHA_LEN + 1);
        enter(r, UP);
    } else
        go_down(r, reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected answer");
}

static void on_connect(const redisAsyncContext *const_ac, int status)
{
    struct gw_redis *r = const_ac->data;
    redisAsyncContext *ac = r->ac;

    if (ac != const_ac)
        return;
    if (status != REDIS_OK) {
        r->ac = NULL; /* the library frees it */
        go_down(r, const_ac->errstr);
        return;
    }
    enter(r, HELLO);
    if (r->password[0] != '\0' && r->user[0] != '\0')
        redisAsyncCommand(ac, on_hello, r, "AUTH %s %s", r->user, r->password);
    else if (r->password[0] != '\0')
        redisAsyncCommand(ac, on_hello, r, "AUTH %s", r->password);
    if (r->database != 0)
        redisAsyncCommand(ac, on_hello, r, "SELECT %u", r->database);
    if (r->script != NULL)
        redisAsyncCommand(ac, on_loaded, r, "SCRIPT LOAD %s", r->script);
    else
        redisAsyncCommand(ac, on_loaded, r, "PING");
}

static void connect_now(struct gw_redis *r)
{
    redisAsyncContext *ac =
        r->is_unix ? redisAsyncConnectUnix(r->path) : redisAsyncConnect(r->address, (int)r->port);

    if (ac == NULL || ac->err != 0) {
        char why[128];

        snprintf(why, sizeof(why), "%s", ac != NULL ? ac->errstr : "no memory");
        if (ac != NULL)
            redisAsyncFree(ac);
        go_down(r, why);
        return;
    }
    r->ac = ac;
    ac->data = r;
    ac->ev.data = r;
    ac->ev.addRead = add_read;
    ac->ev.delRead = del_read;
    ac->ev.addWrite = add_write;
    ac->ev.delWrite = del_write;
    ac->ev.cleanup = cleanup;
    r->interest = 0;
    r->watch = gw_watch_new(r->loop, ac->c.fd, on_io, r);
    enter(r, CONNECTING);
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    redisAsyncSetConnectCallback(ac,
                                 on_connect); /* asks for write readiness: a connection then has an outcome */
}

/* ---- names: getaddrinfo blocks, so it has a thread for as long as it takes ---- */

static void *resolver_main(void *p)
{
    struct gw_redis *r = p;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL, *one;
    unsigned n = 0;

    r->address[0] = '\0';
    if (getaddrinfo(r->path, NULL, &hints, &found) == 0) {
        for (one = found; one != NULL; one = one->ai_next)
            n++;
        one = found;
        for (unsigned skip = r->n_resolved++ % n; skip > 0; skip--)
            one = one->ai_next;
        getnameinfo(one->ai_addr, one->ai_addrlen, r->address, sizeof(r->address), NULL, 0, NI_NUMERICHOST);
        freeaddrinfo(found);
    }
    atomic_store(&r->resolved, true);
    return NULL;
}

static void begin(struct gw_redis *r)
{
    unsigned char binary[16];

    if (r->is_unix || inet_pton(AF_INET, r->path, binary) == 1 || inet_pton(AF_INET6, r->path, binary) == 1) {
        if (!r->is_unix)
            snprintf(r->address, sizeof(r->address), "%.*s", (int)sizeof(r->address) - 1, r->path);
        connect_now(r);
        return;
    }
    atomic_store(&r->resolved, false);
    if (pthread_create(&r->resolver, NULL, resolver_main, r) != 0)
        abort();
    enter(r, RESOLVING);
}

static void resolved_maybe(struct gw_redis *r)
{
    if (!atomic_load(&r->resolved)) {
        enter(r, RESOLVING); /* look again */
        return;
    }
    pthread_join(r->resolver, NULL);
    if (r->address[0] != '\0')
        connect_now(r);
    else
        go_down(r, "the host name cannot be resolved");
}

static void on_state_timer(void *arg)
{
    struct gw_redis *r = arg;

    r->state_timer = NULL;
    switch (r->state) {
    case DOWN: begin(r); break;
    case RESOLVING: resolved_maybe(r); break;
    case CONNECTING: go_down(r, "no connection in time"); break;
    case HELLO: go_down(r, "no answer in time"); break;
    case SLOW: go_down(r, "calls are overdue"); break;
    case UP: break;
    }
}

/* ---- life ---- */

enum base_code gw_redis_new(struct gw_redis **ret_redis, const struct gw_redis_options *options,
                            struct base_err *err)
{
    struct gw_redis *r = base_zalloc(sizeof(*r));

    if (!parse_url(r, options->url)) {
        free(r);
        return base_fail(
            err, BASE_INVALID, 0,
            "the Redis URL must be unix:///path or redis://[[user]:password@]host[:port][/database]");
    }
    r->loop = options->loop;
    r->script = options->script;
    r->timeout_ms = options->timeout_ms;
    r->backoff_ms = BACKOFF_FIRST_MS;
    TAILQ_INIT(&r->waiting);
    TAILQ_INIT(&r->overdue);
    begin(r);
    *ret_redis = r;
    return BASE_OK;
}

void gw_redis_free(struct gw_redis *r)
{
    if (r == NULL)
        return;
    r->freeing = true;
    if (r->state == RESOLVING)
        pthread_join(r->resolver, NULL);
    r->state = DOWN;
    drop(r);
    gw_timer_stop(r->state_timer);
    gw_timer_stop(r->deadline_timer);
    base_wipe(r->password, sizeof(r->password));
    free(r);
}

bool gw_redis_up(const struct gw_redis *r)
{
    return r->state == UP;
}
