/* From aud_append to Postgres: exactly once, whatever stops in between. */
#include "audit_fixture.h"
#include "tap.h"

#include "base/clock.h"
#include "base/log.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static void test_aud_append__reaches_postgres_once_with_all_columns(void)
{
    char *dir = fixture_journal_dir();
    struct aud_options options = fixture_options(dir, true);
    struct aud_record r = fixture_intent("req-1", "alice");
    struct aud *aud = NULL;
    struct aud_stats stats;
    uint64_t seq = 0;
    struct base_err err;

    fixture_reset_database();
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    CHECK_RC(fixture_append(aud, &r, &seq, &err), BASE_OK, &err);
    CHECK_INT(seq, 2); /* after alice's mapping and key */
    r = fixture_outcome("req-1", "alice");
    CHECK_RC(fixture_append(aud, &r, &seq, &err), BASE_OK, &err);
    CHECK_INT(seq, 3);
    CHECK(fixture_wait_shipped(aud, 5000));
    aud_get_stats(aud, &stats);
    CHECK(stats.intents_total == 1 && stats.outcomes_total == 1 && stats.events_total == 0);
    CHECK(stats.ship_lag_us == 0 && stats.writable && stats.next_seq == 4);
    aud_close(aud, 1000);
    CHECK_INT(fixture_query("SELECT count(*) FROM audit.records"), 4);
    CHECK_INT(
        fixture_query(
            "SELECT count(*) FROM audit.records WHERE seq = 2 AND kind = 1 AND request_id = 'req-1' AND "
            "pseudonym LIKE 'p1-%' AND tenant = 'acme' AND roles = 'staff,dev' AND reasons = 'rule-1,rule-2' "
            "AND "
            "class = 'internal' AND max_tokens = 256 AND epoch = 1 AND wall > now() - interval '1 minute'"),
        1);
    CHECK_INT(
        fixture_query(
            "SELECT count(*) FROM audit.person_keys k JOIN audit.records r USING (key_id) WHERE r.kind = 1"),
        1);
    CHECK_INT(fixture_query("SELECT count(*) FROM mapping.subjects m JOIN audit.records r USING (pseudonym) "
                            "WHERE m.subject = 'alice' AND m.issuer = 'https://idp.example' AND r.seq = 3"),
              1);
    CHECK_INT(
        fixture_query("SELECT count(*) FROM audit.requests WHERE status = 'ok' AND completion_tokens = 7"),
        1);
    /* neither content nor subject stands anywhere in clear */
    CHECK_INT(
        fixture_query(
            "SELECT count(*) FROM audit.records WHERE position('hello'::bytea IN coalesce(content, '')) > 0 "
            "OR position('alice'::bytea IN canonical) > 0"),
        0);
    fixture_remove(dir);
}

static void test_aud_open__a_lost_journal_goes_on_from_the_database(void)
{
    char *dir = fixture_journal_dir(), *dir2 = fixture_journal_dir();
    struct aud_options options = fixture_options(dir, true);
    struct aud_record r = fixture_intent("req-1", "alice");
    struct aud *aud = NULL;
    uint64_t seq = 0;
    struct base_err err;

    fixture_reset_database();
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    CHECK_RC(fixture_append(aud, &r, &seq, &err), BASE_OK, &err);
    aud_close(aud, 5000);
    options.journal_dir = dir2;
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    CHECK_RC(fixture_append(aud, &r, &seq, &err), BASE_OK, &err);
    CHECK_INT(seq, 5); /* a new key for the new process, then the intent */
    aud_close(aud, 5000);
    CHECK_INT(fixture_query("SELECT count(*) FROM audit.records"), 6);
    /* the first journal is an old copy now: refused, not forked */
    options.journal_dir = dir;
    CHECK_RC(aud_open(&aud, &options, &err), BASE_CORRUPT, &err);
    CHECK(strstr(err.detail, "old copy") != NULL);
    fixture_remove(dir);
    fixture_remove(dir2);
}

static void test_aud_open__mappings_wait_for_a_mapper(void)
{
    char *dir = fixture_journal_dir();
    struct aud_options options = fixture_options(dir, true);
    struct aud_record r = fixture_intent("req-1", "alice");
    const char *mapper = options.mapper_dsn;
    struct aud *aud = NULL;
    struct base_err err;

    fixture_reset_database();
    options.mapper_dsn = NULL;
    for (int i = 0; i < 2; i++) {
        CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
        CHECK_RC(fixture_append(aud, &r, NULL, &err), BASE_OK, &err);
        aud_close(aud, 5000);
        r = fixture_intent("req-2", "bob");
    }
    CHECK_INT(fixture_query("SELECT count(*) FROM audit.records WHERE kind = 5"), 2);
    CHECK_INT(fixture_query("SELECT count(*) FROM mapping.subjects"), 0);
    options.mapper_dsn = mapper;
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    CHECK(fixture_wait_shipped(aud, 5000));
    aud_close(aud, 1000);
    CHECK_INT(fixture_query("SELECT count(*) FROM mapping.subjects m JOIN audit.records r USING (pseudonym) "
                            "WHERE r.kind = 5 AND "
                            "m.subject IN ('alice', 'bob')"),
              2);
    fixture_remove(dir);
}

static void test_aud_append__postgres_away_then_back(void)
{
    char *dir = fixture_journal_dir();
    struct aud_options options = fixture_options(dir, true);
    struct aud *aud = NULL;
    struct aud_stats stats;
    struct base_err err;

    fixture_reset_database();
    pgp_stop(fixture_server, false);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    for (int i = 0; i < 50; i++) {
        struct aud_record r = fixture_intent("req-away", "bob");

        CHECK_RC(fixture_append(aud, &r, NULL, &err), BASE_OK, &err);
    }
    aud_get_stats(aud, &stats);
    CHECK(!stats.postgres_up && stats.writable && stats.ship_lag_us > 0 && stats.shipped_seq == 0);
    CHECK(pgp_start(fixture_server));
    CHECK(fixture_wait_shipped(aud, 15000));
    aud_close(aud, 1000);
    CHECK_INT(fixture_query("SELECT count(*) FROM audit.records"), 52);
    CHECK_INT(fixture_query("SELECT max(seq) - min(seq) + 1 FROM audit.records"), 52);
    fixture_remove(dir);
}

/* --- a COMMIT whose answer is lost --- */

/* Between gateway and Postgres: passes everything on, but cuts the connection after each of the first `cuts`
 * COMMITs reached the server and before its answer reaches the gateway. */
struct proxy {
    char dir[64], server_path[100];
    int listen_fd;
    atomic_int cuts, n_cut;
    atomic_bool stop;
};

static int connect_unix(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    close(fd);
    return -1;
}

static void pass_on(struct proxy *p, int client, int server)
{
    static char bytes[1u << 16];

    while (!atomic_load(&p->stop)) {
        struct pollfd fds[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
        int from = -1;
        ssize_t n;

        if (poll(fds, 2, 50) <= 0)
            continue;
        from = fds[0].revents != 0 ? 0 : 1;
        n = read(fds[from].fd, bytes, sizeof(bytes));
        if (n <= 0 || send(fds[1 - from].fd, bytes, (size_t)n, MSG_NOSIGNAL) != n)
            return;
        if (from == 0 && atomic_load(&p->cuts) > 0 && memmem(bytes, (size_t)n, "COMMIT", 6) != NULL) {
            atomic_fetch_sub(&p->cuts, 1);
            atomic_fetch_add(&p->n_cut, 1);
            poll(&fds[1], 1, 5000); /* the server has answered: it is committed */
            return;
        }
    }
}

static void *proxy_run(void *arg)
{
    struct proxy *p = arg;

    while (!atomic_load(&p->stop)) {
        struct pollfd fd = {.fd = p->listen_fd, .events = POLLIN};
        int client, server;

        if (poll(&fd, 1, 50) <= 0)
            continue;
        client = accept(p->listen_fd, NULL, NULL);
        server = connect_unix(p->server_path);
        if (client >= 0 && server >= 0)
            pass_on(p, client, server);
        if (client >= 0)
            close(client);
        if (server >= 0)
            close(server);
    }
    return NULL;
}

static void proxy_start(struct proxy *p, pthread_t *thread)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *host = strstr(pgp_dsn(fixture_server, "x"), "host=") + 5;

    *p = (struct proxy){.dir = "/tmp/gh-proxy-XXXXXX"};
    CHECK(mkdtemp(p->dir) != NULL);
    snprintf(p->server_path, sizeof(p->server_path), "%.*s/.s.PGSQL.5432", (int)strcspn(host, " "), host);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/.s.PGSQL.5432", p->dir);
    p->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(p->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(p->listen_fd, 8) == 0);
    CHECK(pthread_create(thread, NULL, proxy_run, p) == 0);
}

static void test_ship__a_lost_answer_to_commit_doubles_nothing(void)
{
    char *dir = fixture_journal_dir(), dsn[256];
    struct aud_options options = fixture_options(dir, true);
    struct aud *aud = NULL;
    struct aud_stats stats;
    struct proxy proxy;
    pthread_t thread;
    struct base_err err;

    fixture_reset_database();
    proxy_start(&proxy, &thread);
    snprintf(dsn, sizeof(dsn), "host=%s user=gatehouse_writer dbname=postgres", proxy.dir);
    options.writer_dsn = dsn;
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    atomic_store(&proxy.cuts, 3);
    for (int i = 0; i < 30; i++) {
        struct aud_record r = fixture_intent("req-lost", "frank");

        CHECK_RC(fixture_append(aud, &r, NULL, &err), BASE_OK, &err);
        usleep(20000);
    }
    CHECK(fixture_wait_shipped(aud, 20000));
    aud_get_stats(aud, &stats);
    aud_close(aud, 1000);
    atomic_store(&proxy.stop, true);
    pthread_join(thread, NULL);
    close(proxy.listen_fd);
    fixture_remove(base_strdup(proxy.dir));
    CHECK_INT(atomic_load(&proxy.n_cut), 3);
    CHECK_INT(stats.next_seq, 32);
    CHECK_INT(fixture_query("SELECT count(*) FROM audit.records"), 32);
    CHECK_INT(fixture_query("SELECT max(seq) + 1 FROM audit.records"), 32);
    fixture_remove(dir);
}

/* A running, idle gateway looks whether the database still ends where it shipped to; what the journal has is shipped again. */
static void test_ship__a_tail_cut_in_the_database_is_noticed_and_shipped_again(void)
{
    char *dir = fixture_journal_dir();
    struct aud_options options = fixture_options(dir, true);
    struct aud_record r = fixture_intent("req-cut", "grace");
    struct aud *aud = NULL;
    int64_t n = 0;
    struct base_err err;

    fixture_reset_database();
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    for (int i = 0; i < 4; i++)
        CHECK_RC(fixture_append(aud, &r, NULL, &err), BASE_OK, &err);
    CHECK(fixture_wait_shipped(aud, 5000));
    pgp_sql(fixture_server,
            "ALTER TABLE audit.records DISABLE TRIGGER ALL; DELETE FROM audit.records WHERE seq > 2; "
            "ALTER TABLE audit.records ENABLE TRIGGER ALL");
    for (int i = 0; i < 150 && (n = fixture_query("SELECT count(*) FROM audit.records")) != 6; i++)
        usleep(100000);
    CHECK_INT(n, 6);
    aud_close(aud, 1000);
    fixture_remove(dir);
}

static void *append_many(void *arg)
{
    struct aud *aud = arg;

    for (int i = 0; i < 2000; i++) {
        struct aud_record r = fixture_intent("req-many", i % 2 == 0 ? "carol" : "dave");

        if (aud_append(aud, &r, NULL, NULL, NULL) != BASE_OK)
            usleep(1000);
        if (i % 50 == 0)
            usleep(20000);
    }
    return NULL;
}

static void test_ship__immediate_stops_in_the_middle_lose_and_double_nothing(void)
{
    char *dir = fixture_journal_dir();
    struct aud_options options = fixture_options(dir, true);
    struct aud *aud = NULL;
    struct aud_stats stats;
    pthread_t thread;
    struct base_err err;

    fixture_reset_database();
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    pthread_create(&thread, NULL, append_many, aud);
    for (int i = 0; i < 5; i++) {
        usleep(60000 + (useconds_t)(rand() % 100000));
        if (i % 2 == 0)
            pgp_stop(fixture_server, true);
        else
            pgp_kill9(fixture_server);
        usleep((useconds_t)(rand() % 100000));
        CHECK(pgp_start(fixture_server));
    }
    pthread_join(thread, NULL);
    CHECK(fixture_wait_shipped(aud, 30000));
    aud_get_stats(aud, &stats);
    aud_close(aud, 1000);
    CHECK(stats.next_seq > 1000);
    CHECK_INT(fixture_query("SELECT count(*) FROM audit.records"), (int64_t)stats.next_seq);
    CHECK_INT(fixture_query("SELECT count(DISTINCT seq) FROM audit.records WHERE seq >= 0"),
              (int64_t)stats.next_seq);
    CHECK_INT(fixture_query("SELECT max(seq) + 1 FROM audit.records"), (int64_t)stats.next_seq);
    /* the chain holds in the database: each prev_hash is the hash before it */
    CHECK_INT(fixture_query(
                  "SELECT count(*) FROM audit.records a JOIN audit.records b ON b.instance = a.instance AND "
                  "b.seq = a.seq - 1 WHERE a.prev_hash <> b.hash"),
              0);
    fixture_remove(dir);
}

/* The child appends and tells every acknowledged number through the pipe; it is killed at a random point
 * while it ships. */
static void report_seq(enum base_code rc, uint64_t seq, void *user)
{
    int fd = *(int *)user;

    if (rc == BASE_OK && write(fd, &seq, sizeof(seq)) != sizeof(seq))
        _exit(3);
}

static _Noreturn void child(const char *dir, int fd)
{
    struct aud_options options = fixture_options(dir, true);
    struct aud *aud = NULL;
    struct base_err err;

    if (aud_open(&aud, &options, &err) != BASE_OK) {
        fprintf(stderr, "child: %s\n", err.detail);
        _exit(2);
    }
    for (;;) {
        struct aud_record r = fixture_intent("req-kill", "erin");

        aud_append(aud, &r, report_seq, &fd, NULL);
        usleep(300);
    }
}

static void test_ship__kill9_of_the_gateway_loses_and_doubles_nothing(void)
{
    char *dir = fixture_journal_dir();
    struct aud_options options;
    struct aud *aud = NULL;
    uint64_t acknowledged = 0, n_acknowledged = 0;
    struct base_err err;

    fixture_reset_database();
    for (int round = 0; round < 15; round++) {
        int fds[2], status = 0;
        uint64_t seq;
        pid_t pid;

        CHECK(pipe(fds) == 0);
        pid = fork();
        if (pid == 0) {
            close(fds[0]);
            child(dir, fds[1]);
        }
        close(fds[1]);
        CHECK(read(fds[0], &seq, sizeof(seq)) == (ssize_t)sizeof(seq));
        acknowledged = seq;
        n_acknowledged++;
        usleep((useconds_t)(rand() % 150000));
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        CHECK(WIFSIGNALED(status));
        while (read(fds[0], &seq, sizeof(seq)) == (ssize_t)sizeof(seq)) {
            acknowledged = seq;
            n_acknowledged++;
        }
        close(fds[0]);
    }
    options = fixture_options(dir, true);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    CHECK(fixture_wait_shipped(aud, 10000));
    aud_close(aud, 1000);
    printf("# %" PRIu64 " acknowledged over 15 kills\n", n_acknowledged);
    CHECK(n_acknowledged >= 15);
    CHECK(fixture_query("SELECT max(seq) FROM audit.records") >= (int64_t)acknowledged);
    CHECK_INT(
        fixture_query(
            "SELECT max(seq) + 1 - count(DISTINCT seq) + count(*) - count(DISTINCT seq) FROM audit.records"),
        0);
    CHECK_INT(
        fixture_query(
            "SELECT count(*) FROM audit.records a LEFT JOIN audit.records b ON b.instance = a.instance AND "
            "b.seq = a.seq - 1 WHERE a.seq > 0 AND a.prev_hash IS DISTINCT FROM b.hash"),
        0);
    fixture_remove(dir);
}

static const struct tap_case cases[] = {
    CASE(test_aud_append__reaches_postgres_once_with_all_columns),
    CASE(test_aud_open__a_lost_journal_goes_on_from_the_database),
    CASE(test_aud_open__mappings_wait_for_a_mapper),
    CASE(test_aud_append__postgres_away_then_back),
    CASE(test_ship__a_lost_answer_to_commit_doubles_nothing),
    CASE(test_ship__a_tail_cut_in_the_database_is_noticed_and_shipped_again),
    CASE(test_ship__immediate_stops_in_the_middle_lose_and_double_nothing),
    CASE(test_ship__kill9_of_the_gateway_loses_and_doubles_nothing),
};

int main(int argc, char **argv)
{
    int rc;

    base_log_init(-1, BASE_LOG_ERROR);
    srand((unsigned)getpid());
    fixture_server = pgp_new();
    if (fixture_server == NULL) {
        printf("1..1\nnot ok 1 - a private Postgres starts\n");
        return 1;
    }
    rc = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    pgp_free(fixture_server);
    return rc;
}
