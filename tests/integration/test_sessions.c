/* Sessions against a real Redis and Postgres: what an attacker who writes to Redis, or a Redis that loses writes, cannot do; and two
 * gateways. In a mutation build GH_CHECK_OFF names the check to switch off; --list prints "CHECK CASE" lines. */
#include "gate_private.h"
#include "tap.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "gateway/apikey.h"
#include "gateway/session.h"

#include <pthread.h>
#include <time.h>

static struct gate *gate;

/* A second gateway: its own store, set and sessions, on the same loops. */
static struct gw_store *other_store;
static struct gw_revocations *other_set;
static struct gw_sessions *other;

#define HELD 8

struct call { /* made on a loop, waited for here */
    struct gw_sessions *sessions;
    enum {
        START,
        IDENTIFY,
        ROTATE_BEGIN,
        ROTATE_END,
        REVOKE,
        ONCE,
        LIST,
        PAGE,
        CANCEL,
        LOOP_START,
        LOOP_END
    } what;
    const char *token, *new_token, *a, *b;
    enum gw_revoke_kind kind;
    struct gw_session_record record;
    /* the answer */
    enum base_code rc;
    struct gw_principal who;
    bool stale;
    unsigned n_listed;
    char first[GW_SESSION_ID_LEN + 1], next[GW_SESSION_CURSOR_MAX];
    bool *seen; /* by the number in the subject */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void finish(struct call *call, enum base_code rc)
{
    pthread_mutex_lock(&call->lock);
    call->rc = rc;
    call->done = true;
    pthread_cond_signal(&call->cond);
    pthread_mutex_unlock(&call->lock);
}

static void on_done(enum base_code rc, const struct gw_session_record *record, void *user)
{
    struct call *call = user;

    if (record != NULL)
        call->who = record->who;
    if (record != NULL && call->what == ROTATE_BEGIN) {
        call->record = *record;
        call->record.refresh_token = call->record.logout_hint = NULL;
    }
    finish(call, rc);
}

static void on_who(enum base_code rc, const struct gw_principal *who, bool stale, void *user)
{
    struct call *call = user;

    if (who != NULL)
        call->who = *who;
    call->stale = stale;
    finish(call, rc);
}

static void on_each(const struct gw_session_record *record, const char *session_id, void *user)
{
    struct call *call = user;

    if (call->n_listed++ == 0)
        snprintf(call->first, sizeof(call->first), "%s", session_id);
    if (call->seen != NULL && strncmp(record->who.subject, "paged-", 6) == 0)
        call->seen[atoi(record->who.subject + 6)] = true;
}

static void on_page(enum base_code rc, const char *next, void *user)
{
    struct call *call = user;

    snprintf(call->next, sizeof(call->next), "%s", next);
    finish(call, rc);
}

static void on_loop(void *arg)
{
    struct call *c = arg;
    struct gw_loop *loop = gw_server_loop(gate->server, 0);

    switch (c->what) {
    case START: gw_sessions_start(c->sessions, loop, c->token, &c->record, on_done, c); break;
    case IDENTIFY: gw_sessions_identify(c->sessions, loop, c->token, on_who, c); break;
    case ROTATE_BEGIN: gw_sessions_rotate_begin(c->sessions, loop, c->token, on_done, c); break;
    case ROTATE_END:
        gw_sessions_rotate_end(c->sessions, loop, c->token, c->new_token, &c->record, on_done, c);
        break;
    case REVOKE: gw_sessions_revoke(c->sessions, loop, c->kind, c->a, c->b, "test", on_done, c); break;
    case ONCE:
        gw_sessions_use_once(c->sessions, loop, "test", c->a, base_wall_us() / 1000000 + 60, on_done, c);
        break;
    case LIST: gw_sessions_list(c->sessions, loop, c->a, c->b, on_each, on_done, c); break;
    case PAGE: gw_sessions_page(c->sessions, loop, c->a, on_each, on_page, c); break;
    case CANCEL:
        gw_sessions_rotate_cancel(c->sessions, loop, c->token);
        finish(c, BASE_OK);
        break;
    case LOOP_START:
        gw_sessions_loop_start(c->sessions, loop);
        finish(c, BASE_OK);
        break;
    case LOOP_END:
        gw_sessions_loop_end(c->sessions, loop);
        finish(c, BASE_OK);
        break;
    }
}

static void post(struct call *call)
{
    pthread_mutex_init(&call->lock, NULL);
    pthread_cond_init(&call->cond, NULL);
    call->done = false;
    gw_loop_post(gw_server_loop(gate->server, 0), on_loop, call);
}

static enum base_code await(struct call *call)
{
    pthread_mutex_lock(&call->lock);
    while (!call->done)
        pthread_cond_wait(&call->cond, &call->lock);
    pthread_mutex_unlock(&call->lock);
    return call->rc;
}

static enum base_code run(struct call *call)
{
    post(call);
    return await(call);
}

static void nap_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* ---- shorthands ---- */

static unsigned n_people;

struct session {
    char token[GW_TOKEN_LEN + 1], key[128], subject[32], id[GW_SESSION_ID_LEN + 1];
};

static void key_of(const char *token, char out[128])
{
    unsigned char hash[BASE_SHA256_BYTES];

    gw_token_hash(gate->pepper, GW_TOKEN_SESSION, token, hash);
    strcpy(out, "gh:session:");
    base_hex_encode(hash, sizeof(hash), out + strlen(out));
}

static enum base_code start_as(struct session *s, const char *subject, const char *sid, const char *key,
                               int64_t refresh_at_us, int64_t expires_at_us)
{
    struct call call = {.what = START, .sessions = gate->sessions, .token = s->token};
    enum base_code rc;

    call.record = (struct gw_session_record){
        .who = {.issuer = "https://idp.example", .tenant = "default", .roles = {"staff"}, .n_roles = 1},
        .provider = "corp",
        .refresh_at_us = refresh_at_us,
        .expires_at_us = expires_at_us,
        .refresh_token = (char *)"refresh-me",
    };
    snprintf(call.record.who.subject, sizeof(call.record.who.subject), "%s", subject);
    snprintf(call.record.sid, sizeof(call.record.sid), "%s", sid);
    snprintf(call.record.directory_key, sizeof(call.record.directory_key), "%s", key);
    snprintf(s->subject, sizeof(s->subject), "%s", subject);
    gw_token_create(gate->pepper, GW_TOKEN_SESSION, s->token);
    key_of(s->token, s->key);
    rc = run(&call);
    snprintf(s->id, sizeof(s->id), "%.16s", call.who.credential_id);
    return rc;
}

static void start(struct session *s)
{
    char subject[32];

    snprintf(subject, sizeof(subject), "person-%u", ++n_people);
    CHECK_INT(start_as(s, subject, "", "", 0, 0), BASE_OK);
}

static enum base_code identify_at(struct gw_sessions *sessions, const char *token)
{
    struct call call = {.what = IDENTIFY, .sessions = sessions, .token = token};

    return run(&call);
}

static enum base_code identify(const char *token)
{
    return identify_at(gate->sessions, token);
}

static enum base_code revoke(enum gw_revoke_kind kind, const char *a, const char *b)
{
    struct call call = {.what = REVOKE, .sessions = gate->sessions, .kind = kind, .a = a, .b = b};

    return run(&call);
}

static int64_t redis_int(const char *script, const char *a, const char *b)
{
    const char *const argv[] = {"EVAL", script, "0", a, b};
    const char *answer = rdp_command(gate->redis, argv, BASE_ARRAY_LEN(argv));

    return answer != NULL && answer[0] == ':' ? atoll(answer + 1) : -1;
}

/* Copies what one name holds to another, as who can write to Redis may. */
static bool copy(const char *from, const char *to)
{
    return redis_int("return redis.call('COPY', ARGV[1], ARGV[2], 'REPLACE')", from, to) == 1;
}

static void forget_cache(void)
{
    nap_ms(GATE_CACHE_MS + 50);
}

/* ---- cases ---- */

static void test_session__start_and_identify(void)
{
    struct session s;
    struct call call = {.what = IDENTIFY, .sessions = gate->sessions, .token = s.token};

    start(&s);
    CHECK_INT(run(&call), BASE_OK);
    CHECK_STR(call.who.subject, s.subject);
    CHECK_STR(call.who.roles[0], "staff");
    CHECK_STR(call.who.credential_id, s.id);
    CHECK(!call.stale && call.who.cache_tag != 0 && call.who.person_tag != 0);
    forget_cache();
    CHECK_INT(identify(s.token), BASE_OK); /* from Redis */
    CHECK(redis_int("return redis.call('TTL', ARGV[1])", s.key, "") > (int64_t)GATE_IDLE_S - 60);
    CHECK_INT(redis_int("return redis.call('GET', ARGV[1]):find(ARGV[2], 1, true) or 0", s.key, s.subject),
              0);
}

static void test_session__stale_past_its_refresh(void)
{
    struct session s;
    struct call call = {.what = IDENTIFY, .sessions = gate->sessions, .token = s.token};

    CHECK_INT(start_as(&s, "stale", "", "", base_wall_us() - 1, 0), BASE_OK);
    CHECK_INT(run(&call), BASE_OK);
    CHECK(call.stale);
}

static void test_session__redis_loses_the_end(void)
{
    struct session s, twin;

    start(&s);
    start(&twin);
    CHECK(copy(s.key, "saved"));
    CHECK_INT(revoke(GW_REVOKE_SESSION, s.id, ""), BASE_OK);
    CHECK(copy("saved", s.key)); /* the deletion undone */
    CHECK_INT(identify(s.token), BASE_DENIED);
    forget_cache();
    CHECK_INT(identify(s.token), BASE_DENIED);
    CHECK_INT(identify(twin.token), BASE_OK);
}

static void test_session__tampered_or_swapped(void)
{
    struct session s, twin;

    start(&s);
    start(&twin);
    CHECK(copy(twin.key, s.key)); /* somebody else's record under my name */
    CHECK_INT(identify(s.token), BASE_DENIED);
    CHECK_INT(identify(twin.token), BASE_OK);
    CHECK_INT(redis_int("return redis.call('SETRANGE', ARGV[1], 20, ARGV[2])", twin.key, "x") > 0, 1);
    forget_cache();
    CHECK_INT(identify(twin.token), BASE_DENIED);
    CHECK_INT(redis_int("redis.call('SET', ARGV[1], ARGV[2]) return 1", twin.key, "short"), 1);
    CHECK_INT(identify(twin.token), BASE_DENIED);
}

static void test_session__rotation(void)
{
    struct session s;
    char fresh[GW_TOKEN_LEN + 1], second[GW_TOKEN_LEN + 1];
    struct call begin = {.what = ROTATE_BEGIN, .sessions = gate->sessions, .token = s.token}, again = begin;
    struct call cancel = {.what = CANCEL, .sessions = gate->sessions, .token = s.token};
    struct call end = {.what = ROTATE_END, .sessions = gate->sessions, .token = s.token, .new_token = fresh};

    start(&s);
    CHECK(copy(s.key, "saved"));
    CHECK_INT(run(&begin), BASE_OK);
    CHECK_INT(run(&again), BASE_EXISTS); /* one at a time */
    CHECK_INT(run(&cancel), BASE_OK);
    CHECK_INT(run(&begin), BASE_OK);
    gw_token_create(gate->pepper, GW_TOKEN_SESSION, fresh);
    end.record = begin.record;
    CHECK_INT(run(&end), BASE_OK);
    CHECK_STR(end.who.credential_id, s.id); /* it is the same session */
    CHECK_INT(identify(fresh), BASE_OK);
    CHECK(copy("saved", s.key)); /* the old one, put back */
    CHECK_INT(identify(s.token), BASE_DENIED);
    nap_ms(600);
    CHECK_INT(identify_at(other, s.token), BASE_DENIED);
    CHECK_INT(identify_at(other, fresh), BASE_OK);
    gw_token_create(gate->pepper, GW_TOKEN_SESSION, second);
    CHECK_INT(revoke(GW_REVOKE_SESSION, s.id, ""), BASE_OK); /* ends it under every token */
    CHECK_INT(identify(fresh), BASE_DENIED);
}

static void check_elsewhere(const char *token, enum gw_revoke_kind kind, const char *a, const char *b)
{
    uint64_t began;

    CHECK_INT(identify_at(other, token), BASE_OK);
    began = base_mono_ms();
    CHECK_INT(revoke(kind, a, b), BASE_OK);
    CHECK_INT(identify(token), BASE_DENIED); /* here at once */
    while (identify_at(other, token) == BASE_OK && base_mono_ms() - began < 3000)
        nap_ms(5);
    printf("# refused elsewhere after %llu ms\n", (unsigned long long)(base_mono_ms() - began));
    CHECK(base_mono_ms() - began < 1000);
}

static void test_revoke__seen_by_the_other_gateway(void)
{
    struct session s, twin;

    start(&twin);
    start(&s);
    check_elsewhere(s.token, GW_REVOKE_SESSION, s.id, "");
    start(&s);
    check_elsewhere(s.token, GW_REVOKE_PERSON, "https://idp.example", s.subject);
    nap_ms(5);
    CHECK_INT(start_as(&twin, s.subject, "", "", 0, 0), BASE_OK); /* who signs in again is in again */
    CHECK_INT(identify(twin.token), BASE_OK);
    CHECK_INT(start_as(&s, "sid-person", "sid-1", "", 0, 0), BASE_OK);
    CHECK_INT(start_as(&twin, "sid-person", "sid-2", "", 0, 0), BASE_OK);
    check_elsewhere(s.token, GW_REVOKE_SID, "https://idp.example", "sid-1");
    CHECK_INT(identify(twin.token), BASE_OK);
    CHECK_INT(start_as(&s, "sid-person", "sid-1", "", 0, 0), BASE_DENIED); /* a sid does not come back */
    CHECK_INT(start_as(&s, "dir-person", "", "Ada@Example.com", 0, 0), BASE_OK);
    check_elsewhere(s.token, GW_REVOKE_KEY, "ada@example.com", "");
    CHECK_INT(identify(twin.token), BASE_OK);
}

static enum base_code start_with_hint(struct session *s, const char *subject, const char *hint)
{
    struct call call = {.what = START, .sessions = gate->sessions, .token = s->token};

    call.record = (struct gw_session_record){
        .who = {.issuer = "https://idp.example", .tenant = "default", .roles = {"staff"}, .n_roles = 1},
        .provider = "old",
        .logout_hint = (char *)hint,
    };
    snprintf(call.record.who.subject, sizeof(call.record.who.subject), "%s", subject);
    gw_token_create(gate->pepper, GW_TOKEN_SESSION, s->token);
    return run(&call);
}

/* A SAML provider names by NameID whom the policy calls otherwise. */
static void test_revoke__by_name_id(void)
{
    struct session s, other_name, not_saml;
    struct call who = {.what = IDENTIFY, .sessions = gate->sessions, .token = s.token};
    struct gw_revocation revocation = {.kind = GW_REVOCATION_PERSON, .at_us = INT64_MAX};

    CHECK_INT(start_with_hint(&s, "ada@example.com", "n-1\nurn:persistent"), BASE_OK);
    CHECK_INT(start_with_hint(&other_name, "bob@example.com", "n-2\nurn:persistent"), BASE_OK);
    CHECK_INT(start_with_hint(&not_saml, "eve@example.com", "n-1"), BASE_OK);
    CHECK_INT(run(&who), BASE_OK);
    revocation.tag = who.who.name_id_tag; /* what is live is cut by the same */
    CHECK(gw_sessions_meets(gate->sessions, &who.who, &revocation));
    check_elsewhere(s.token, GW_REVOKE_PERSON, "https://idp.example", "n-1");
    CHECK_INT(identify(other_name.token), BASE_OK);
    CHECK_INT(identify(not_saml.token), BASE_OK);
    check_elsewhere(other_name.token, GW_REVOKE_PERSON, "https://idp.example", "bob@example.com");
}

static void test_revoke__lost_notification(void)
{
    struct session s;
    uint64_t began;

    start(&s);
    CHECK_INT(identify_at(other, s.token), BASE_OK);
    gate_sql(gate, "UPDATE pg_proc SET prosrc = replace(prosrc, 'PERFORM pg_notify', '-- PERFORM') "
                   "WHERE proname = 'revocation_numbered'");
    began = base_mono_ms();
    CHECK_INT(revoke(GW_REVOKE_SESSION, s.id, ""), BASE_OK);
    while (identify_at(other, s.token) == BASE_OK && base_mono_ms() - began < 3000)
        nap_ms(5);
    gate_sql(gate, "UPDATE pg_proc SET prosrc = replace(prosrc, '-- PERFORM', 'PERFORM pg_notify') "
                   "WHERE proname = 'revocation_numbered'");
    printf("# seen by the poll after %llu ms\n", (unsigned long long)(base_mono_ms() - began));
    CHECK(base_mono_ms() - began < 1000);
}

static void test_revoke__a_persons_keys_go_too(void)
{
    char key[80], id[16], twin[80], twin_id[16], sql[160];
    struct gw_principal who;
    unsigned char hash[BASE_SHA256_BYTES];

    gate_new_key(gate, "--owner Eve@Example.com --role r", key, id);
    gate_new_key(gate, "--owner bob --role r", twin, twin_id);
    nap_ms(400);
    gw_apikey_hash(gate->pepper, key, hash);
    CHECK_INT(gw_store_key_find(gate->store, hash, &who), GW_KEY_GOOD);
    CHECK_INT(revoke(GW_REVOKE_KEY, "eve@example.com", ""), BASE_OK);
    snprintf(sql, sizeof(sql),
             "SELECT count(*) FROM identity.api_keys WHERE revoked_at IS NOT NULL AND key_id = '%s'", id);
    CHECK_INT(gate_sql_int(gate, sql), 1);
    nap_ms(400);
    CHECK_INT(gw_store_key_find(gate->store, hash, &who), GW_KEY_REVOKED);
    gw_apikey_hash(gate->pepper, twin, hash);
    CHECK_INT(gw_store_key_find(gate->store, hash, &who), GW_KEY_GOOD);
}

static void test_once__of_many_one_wins(void)
{
    struct call calls[HELD] = {0};
    unsigned won = 0, lost = 0;

    for (unsigned i = 0; i < HELD; i++) {
        calls[i] =
            (struct call){.what = ONCE, .sessions = i % 2 == 0 ? gate->sessions : other, .a = "assertion-1"};
        post(&calls[i]);
    }
    for (unsigned i = 0; i < HELD; i++) {
        enum base_code rc = await(&calls[i]);

        won += rc == BASE_OK;
        lost += rc == BASE_EXISTS;
    }
    CHECK_INT(won, 1);
    CHECK_INT(lost, HELD - 1);
    calls[0] = (struct call){.what = ONCE, .sessions = other, .a = "assertion-2"};
    CHECK_INT(run(&calls[0]), BASE_OK);
}

static void test_list__own_sessions(void)
{
    struct session one, two, stranger;
    struct call list = {.what = LIST, .sessions = gate->sessions, .a = "https://idp.example", .b = "lister"};

    CHECK_INT(start_as(&one, "lister", "", "", 0, 0), BASE_OK);
    nap_ms(2);
    CHECK_INT(start_as(&two, "lister", "", "", 0, 0), BASE_OK);
    CHECK_INT(start_as(&stranger, "listed-not", "", "", 0, 0), BASE_OK);
    CHECK_INT(run(&list), BASE_OK);
    CHECK_INT(list.n_listed, 2);
    CHECK_STR(list.first, two.id); /* newest first */
    CHECK_INT(revoke(GW_REVOKE_SESSION, two.id, ""), BASE_OK);
    list.n_listed = 0;
    CHECK_INT(run(&list), BASE_OK);
    CHECK_INT(list.n_listed, 1);
    CHECK_STR(list.first, one.id);
}

static void test_list__everybodys_by_pages(void)
{
    enum { N = 1500 };
    static bool seen[N];
    struct session s;
    struct call page = {.what = PAGE, .sessions = gate->sessions, .a = "", .seen = seen};
    char subject[32], cursor[GW_SESSION_CURSOR_MAX];
    unsigned n_pages = 0, n_seen = 0;

    for (unsigned i = 0; i < N; i++) {
        snprintf(subject, sizeof(subject), "paged-%u", i);
        if (start_as(&s, subject, "", "", 0, 0) != BASE_OK)
            break;
    }
    do {
        page.n_listed = 0;
        CHECK_INT(run(&page), BASE_OK);
        CHECK(page.n_listed < N);
        snprintf(cursor, sizeof(cursor), "%s", page.next);
        page.a = cursor;
    } while (++n_pages < 100 && cursor[0] != '\0');
    for (unsigned i = 0; i < N; i++)
        n_seen += seen[i];
    CHECK_INT(n_seen, N);
    CHECK(n_pages >= 2);
    CHECK(gw_session_cursor_valid("18446744073709551615"));
    CHECK(!gw_session_cursor_valid(""));
    CHECK(!gw_session_cursor_valid("0 MATCH"));
    CHECK(!gw_session_cursor_valid("1844674407370955161500000"));
}

static void test_session__limits_in_the_seal(void)
{
    struct session s;

    CHECK_INT(start_as(&s, "short", "", "", 0, base_wall_us() + 300000), BASE_OK);
    CHECK_INT(identify(s.token), BASE_OK);
    nap_ms(350); /* neither memory nor Redis, which keeps it for the idle limit, carries it over its end */
    CHECK_INT(identify(s.token), BASE_DENIED);
    start(&s);
    CHECK(gate_age_session(gate, s.token, -(int)GATE_IDLE_S + 10, 3600000));
    CHECK_INT(identify(s.token), BASE_OK);
    start(&s);
    CHECK(gate_age_session(gate, s.token, -(int)GATE_IDLE_S - 1, 3600000)); /* an old copy, put back */
    CHECK_INT(identify(s.token), BASE_DENIED);
}

static void test_redis_away__memory_alone_goes_on(void)
{
    struct session s;
    struct call call = {.what = START, .sessions = gate->sessions, .token = s.token};

    start(&s);
    CHECK_INT(identify(s.token), BASE_OK);
    rdp_kill(gate->redis);
    CHECK_INT(identify(s.token), BASE_OK);
    forget_cache();
    CHECK_INT(identify(s.token), BASE_UNAVAILABLE);
    CHECK_INT(start_as(&s, "nobody", "", "", 0, 0), BASE_UNAVAILABLE);
    (void)call;
    CHECK(rdp_start(gate->redis));
    for (unsigned i = 0; i < 150 && identify(s.token) == BASE_UNAVAILABLE; i++)
        nap_ms(20);
    CHECK_INT(identify(s.token), BASE_DENIED);
    start(&s);
    CHECK_INT(identify(s.token), BASE_OK);
}

/* ---- start ---- */

static const struct {
    const char *check, *name;
} checks[] = {
    {"session.own_record", "test_session__tampered_or_swapped"},
    {"session.idle", "test_session__limits_in_the_seal"},
    {"session.absolute", "test_session__limits_in_the_seal"},
    {"session.not_revoked", "test_session__redis_loses_the_end"},
    {"session.person_not_revoked", "test_revoke__seen_by_the_other_gateway"},
    {"session.name_id_not_revoked", "test_revoke__by_name_id"},
    {"session.sid_not_revoked", "test_revoke__seen_by_the_other_gateway"},
    {"session.key_not_revoked", "test_revoke__seen_by_the_other_gateway"},
    {"session.token_not_rotated", "test_session__rotation"},
    {"session.once", "test_once__of_many_one_wins"},
};

#ifdef GH_MUTATIONS
extern const char *base_check_off;
#endif

static void open_other(void)
{
    struct call loop_start = {.what = LOOP_START};

    other_set = gw_revocations_new();
    other_store = gw_store_open(
        &(struct gw_store_options){.dsn = gate_dsn(gate), .revocations = other_set, .n_workers = 2});
    if (!gw_store_wait_ready(other_store, 10000))
        exit(99);
    other = gw_sessions_new(&(struct gw_sessions_options){.store = other_store,
                                                          .revocations = other_set,
                                                          .pepper = gate->pepper,
                                                          .redis_url = rdp_url(gate->redis),
                                                          .redis_timeout_ms = 2000,
                                                          .idle_s = GATE_IDLE_S,
                                                          .absolute_s = GATE_ABSOLUTE_S});
    loop_start.sessions = other;
    run(&loop_start);
    nap_ms(100);
}

static void close_other(void)
{
    struct call loop_end = {.what = LOOP_END, .sessions = other};

    run(&loop_end);
    gw_store_free(other_store);
    gw_sessions_free(other);
    gw_revocations_free(other_set);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_session__start_and_identify),
        CASE(test_session__stale_past_its_refresh),
        CASE(test_session__redis_loses_the_end),
        CASE(test_session__tampered_or_swapped),
        CASE(test_session__rotation),
        CASE(test_session__limits_in_the_seal),
        CASE(test_revoke__seen_by_the_other_gateway),
        CASE(test_revoke__by_name_id),
        CASE(test_revoke__lost_notification),
        CASE(test_revoke__a_persons_keys_go_too),
        CASE(test_once__of_many_one_wins),
        CASE(test_list__own_sessions),
        CASE(test_list__everybodys_by_pages),
        CASE(test_redis_away__memory_alone_goes_on),
    };
    int status;

    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < BASE_ARRAY_LEN(checks); i++)
            printf("%s %s\n", checks[i].check, checks[i].name);
        return 0;
    }
#ifdef GH_MUTATIONS
    base_check_off = getenv("GH_CHECK_OFF");
#endif
    gate = gate_new();
    open_other();
    status = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    close_other();
    gate_free(gate);
    return status;
}
