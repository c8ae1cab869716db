/* base/pg.c against a real Postgres, a silent one and none at all. */
#include "pg_private.h"
#include "tap.h"

#include "base/clock.h"
#include "base/pg.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

static struct pgp *server;

static struct base_pg *connect_super(void)
{
    return base_pg_new(pgp_dsn(server, "postgres"), 10000);
}

static void test_pg_exec__parameters_of_every_kind_come_back(void)
{
    auto_pg struct base_pg *pg = connect_super();
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const unsigned char bytes[] = {0, 1, 0xff, '\\', 'x'};
    struct base_pg_param params[] = {PG_TEXT("42"),
                                     PG_BYTES(bytes, sizeof(bytes)),
                                     {.data = "hello, world", .len = 5},
                                     PG_TEXT(NULL),
                                     PG_TEXT("")};
    auto_free unsigned char *back = NULL;
    struct base_err err;
    size_t n = 0;

    CHECK_RC(
        base_pg_exec(pg, "SELECT $1::int, $2::bytea, $3::text, $4::text, $5::text", params, 5, &rows, &err),
        BASE_OK, &err);
    CHECK_INT(base_pg_n_rows(rows), 1);
    CHECK_INT(base_pg_int(rows, 0, 0), 42);
    back = base_pg_bytes(rows, 0, 1, &n);
    CHECK(n == sizeof(bytes) && memcmp(back, bytes, n) == 0);
    CHECK_STR(base_pg_text(rows, 0, 2), "hello");
    CHECK(base_pg_text(rows, 0, 3) == NULL);
    CHECK_STR(base_pg_text(rows, 0, 4), "");
    CHECK(base_pg_text(rows, 1, 0) == NULL && base_pg_text(rows, 0, 5) == NULL);
    CHECK(base_pg_bytes(rows, 0, 2, &n) == NULL);
    CHECK_INT(base_pg_int(rows, 0, 2), 0);
}

static void test_pg_exec__errors_have_codes_and_no_values(void)
{
    auto_pg struct base_pg *pg = connect_super();
    struct base_pg_param secret[] = {PG_TEXT("hunter2")};
    struct base_err err;

    CHECK_RC(
        base_pg_script(
            pg, "DROP TABLE IF EXISTS u; CREATE TABLE u(k text PRIMARY KEY); INSERT INTO u VALUES('hunter2')",
            &err),
        BASE_OK, &err);
    CHECK_RC(base_pg_exec(pg, "INSERT INTO u VALUES($1)", secret, 1, NULL, &err), BASE_EXISTS, &err);
    CHECK(strstr(err.detail, "hunter2") == NULL && strstr(err.detail, "23505") != NULL);
    CHECK_RC(base_pg_exec(pg, "SELECT $1::text::int", secret, 1, NULL, &err), BASE_INVALID, &err);
    CHECK(strstr(err.detail, "hunter2") == NULL && strstr(err.detail, "22P02") != NULL);
    CHECK_RC(base_pg_exec(pg, "SELEKT 1", NULL, 0, NULL, &err), BASE_INVALID, &err);
    CHECK_RC(base_pg_exec(pg, "SELECT 1; SELECT 2", NULL, 0, NULL, &err), BASE_INVALID, &err);
    CHECK(base_pg_connected(pg));
    CHECK_RC(base_pg_exec(pg, "SELECT 1", NULL, 0, NULL, &err), BASE_OK, &err);
}

static void test_pg_exec__privilege_is_denied(void)
{
    auto_pg struct base_pg *super = connect_super();
    auto_pg struct base_pg *pg = NULL;
    struct base_err err;

    CHECK_RC(base_pg_script(
                 super,
                 "DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN; CREATE TABLE IF NOT EXISTS hidden()",
                 &err),
             BASE_OK, &err);
    pg = base_pg_new(pgp_dsn(server, "weak"), 5000);
    CHECK_RC(base_pg_exec(pg, "SELECT 1", NULL, 0, NULL, &err), BASE_OK, &err);
    CHECK_RC(base_pg_exec(pg, "SELECT * FROM hidden", NULL, 0, NULL, &err), BASE_DENIED, &err);
}

static void test_pg_exec__the_deadline_ends_a_slow_statement(void)
{
    auto_pg struct base_pg *pg = base_pg_new(pgp_dsn(server, "postgres"), 300);
    uint64_t start = base_mono_ms();
    struct base_err err;

    CHECK_RC(base_pg_exec(pg, "SELECT pg_sleep(20)", NULL, 0, NULL, &err), BASE_TIMEOUT, &err);
    CHECK(base_mono_ms() - start < 3000);
    CHECK(!base_pg_connected(pg));
    CHECK_RC(base_pg_exec(pg, "SELECT 1", NULL, 0, NULL, &err), BASE_OK, &err); /* connects anew */
}

static void test_pg_exec__many_bytes_both_ways(void)
{
    auto_pg struct base_pg *pg = connect_super();
    auto_pg_rows struct base_pg_rows *rows = NULL;
    size_t n = 8u << 20, m = 0;
    auto_free unsigned char *big = base_alloc(n), *back = NULL;
    struct base_pg_param p[1];
    struct base_err err;

    memset(big, 0xa5, n);
    p[0] = PG_BYTES(big, n);
    CHECK_RC(base_pg_exec(pg, "SELECT $1::bytea", p, 1, &rows, &err), BASE_OK, &err);
    back = base_pg_bytes(rows, 0, 0, &m);
    CHECK(m == n && memcmp(big, back, n) == 0);
}

static void test_pg_script__all_or_nothing(void)
{
    auto_pg struct base_pg *pg = connect_super();
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_err err;

    CHECK_RC(base_pg_script(pg, "BEGIN; CREATE TABLE half(); SELECT 1/0; COMMIT", &err), BASE_INVALID, &err);
    CHECK_RC(base_pg_exec(pg, "SELECT to_regclass('half')", NULL, 0, &rows, &err), BASE_OK, &err);
    CHECK(base_pg_text(rows, 0, 0) == NULL);
}

static void test_pg_copy__commits_or_leaves_nothing(void)
{
    auto_pg struct base_pg *pg = connect_super();
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_err err;

    CHECK_RC(base_pg_script(pg, "DROP TABLE IF EXISTS c; CREATE TABLE c(n int, t text)", &err), BASE_OK,
             &err);
    CHECK_RC(base_pg_copy_begin(pg, "COPY c FROM STDIN", &err), BASE_OK, &err);
    CHECK_RC(base_pg_exec(pg, "SELECT 1", NULL, 0, NULL, &err), BASE_INTERNAL,
             &err); /* not in the middle of it */
    for (int i = 0; i < 20000; i++) {
        char line[64];

        snprintf(line, sizeof(line), "%d\trow of some length %d\n", i, i);
        CHECK_RC(base_pg_copy_put(pg, line, strlen(line), &err), BASE_OK, &err);
    }
    CHECK_RC(base_pg_copy_end(pg, true, &err), BASE_OK, &err);
    CHECK_RC(base_pg_copy_begin(pg, "COPY c FROM STDIN", &err), BASE_OK, &err);
    CHECK_RC(base_pg_copy_put(pg, "7\tx\n", 4, &err), BASE_OK, &err);
    CHECK_RC(base_pg_copy_end(pg, false, &err), BASE_OK, &err);
    CHECK_RC(base_pg_copy_begin(pg, "COPY c FROM STDIN", &err), BASE_OK, &err);
    CHECK_RC(base_pg_copy_put(pg, "no number\tx\n", 12, &err), BASE_OK, &err);
    CHECK_RC(base_pg_copy_end(pg, true, &err), BASE_INVALID, &err);
    CHECK(strstr(err.detail, "no number") == NULL);
    CHECK_RC(base_pg_copy_begin(pg, "COPY nowhere FROM STDIN", &err), BASE_INVALID, &err);
    CHECK_RC(base_pg_copy_begin(pg, "SELECT 1", &err), BASE_INVALID, &err);
    CHECK_RC(base_pg_copy_put(pg, "x", 1, &err), BASE_UNAVAILABLE, &err);
    CHECK_RC(base_pg_exec(pg, "COPY c FROM STDIN", NULL, 0, NULL, &err), BASE_INVALID, &err);
    CHECK_RC(base_pg_exec(pg, "SELECT count(*) FROM c", NULL, 0, &rows, &err), BASE_OK, &err);
    CHECK_INT(base_pg_int(rows, 0, 0), 20000);
}

static void test_pg_wait_notify__gets_one_or_times_out(void)
{
    auto_pg struct base_pg *ear = connect_super(), *mouth = connect_super();
    struct base_err err;

    CHECK_RC(base_pg_wait_notify(ear, 10, &err), BASE_UNAVAILABLE, &err);
    CHECK_RC(base_pg_exec(ear, "LISTEN news", NULL, 0, NULL, &err), BASE_OK, &err);
    CHECK_RC(base_pg_wait_notify(ear, 50, &err), BASE_TIMEOUT, &err);
    CHECK(base_pg_connected(ear));
    CHECK_RC(base_pg_exec(mouth, "NOTIFY news, 'x'", NULL, 0, NULL, &err), BASE_OK, &err);
    CHECK_RC(base_pg_wait_notify(ear, 5000, &err), BASE_OK, &err);
    CHECK_RC(base_pg_wait_notify(ear, 50, &err), BASE_TIMEOUT, &err);
}

static void test_pg_connect__a_lost_server_is_unavailable_and_comes_back(void)
{
    auto_pg struct base_pg *pg = connect_super();
    struct base_err err;

    CHECK_RC(base_pg_exec(pg, "SELECT 1", NULL, 0, NULL, &err), BASE_OK, &err);
    pgp_stop(server, true);
    CHECK_RC(base_pg_exec(pg, "SELECT 1", NULL, 0, NULL, &err), BASE_UNAVAILABLE, &err);
    CHECK_RC(base_pg_exec(pg, "SELECT 1", NULL, 0, NULL, &err), BASE_UNAVAILABLE, &err);
    CHECK(pgp_start(server));
    CHECK_RC(base_pg_exec(pg, "SELECT 1", NULL, 0, NULL, &err), BASE_OK, &err);
}

/* A peer that takes connections and never says a word: what a black-holed server looks like once TCP stands.
 */
static void test_pg_connect__a_silent_server_times_out(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    auto_pg struct base_pg *pg = NULL;
    uint64_t start;
    char dsn[128];
    struct base_err err;

    CHECK(bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 8) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&addr, &len) == 0);
    snprintf(dsn, sizeof(dsn), "host=127.0.0.1 port=%u user=a password=hunter2", ntohs(addr.sin_port));
    pg = base_pg_new(dsn, 300);
    start = base_mono_ms();
    CHECK_RC(base_pg_connect(pg, &err), BASE_TIMEOUT, &err);
    CHECK(base_mono_ms() - start < 3000 && strstr(err.detail, "hunter2") == NULL);
    close(fd);
    CHECK_RC(base_pg_connect(pg, &err), BASE_UNAVAILABLE, &err); /* now refused */
    CHECK(strstr(err.detail, "refused") != NULL);
}

static void test_pg_connect__a_malformed_string_is_not_repeated(void)
{
    auto_pg struct base_pg *pg = base_pg_new("host=/tmp password=hunter2 'oops", 300);
    auto_pg struct base_pg *no_role = base_pg_new(pgp_dsn(server, "nobody_here"), 3000);
    struct base_err err;

    CHECK_RC(base_pg_connect(pg, &err), BASE_INVALID, &err);
    CHECK(strstr(err.detail, "hunter2") == NULL && strstr(err.detail, "oops") == NULL);
    CHECK_RC(base_pg_connect(no_role, &err), BASE_UNAVAILABLE, &err);
    CHECK(strstr(err.detail, "does not exist") != NULL);
}

static const struct tap_case cases[] = {
    CASE(test_pg_exec__parameters_of_every_kind_come_back),
    CASE(test_pg_exec__errors_have_codes_and_no_values),
    CASE(test_pg_exec__privilege_is_denied),
    CASE(test_pg_exec__the_deadline_ends_a_slow_statement),
    CASE(test_pg_exec__many_bytes_both_ways),
    CASE(test_pg_script__all_or_nothing),
    CASE(test_pg_copy__commits_or_leaves_nothing),
    CASE(test_pg_wait_notify__gets_one_or_times_out),
    CASE(test_pg_connect__a_lost_server_is_unavailable_and_comes_back),
    CASE(test_pg_connect__a_silent_server_times_out),
    CASE(test_pg_connect__a_malformed_string_is_not_repeated),
};

int main(int argc, char **argv)
{
    int rc;

    server = pgp_new();
    if (server == NULL) {
        printf("1..1\nnot ok 1 - a private Postgres starts\n");
        return 1;
    }
    rc = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    pgp_free(server);
    return rc;
}
