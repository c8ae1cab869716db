/* verify, list and show over records that were shipped, and over records that someone changed. */
#include "audit_fixture.h"
#include "tap.h"

#include "audit/verify.h"
#include "base/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/wait.h>

#define N_REQUESTS 6

static char *journal_dir;
static char kek_path[64];

/* One journal and database with a few requests of two people, the last one without an outcome, and an event.
 */
static void fill(void)
{
    struct aud_options options;
    struct aud *aud = NULL;
    struct base_err err;

    fixture_reset_database();
    if (journal_dir != NULL)
        fixture_remove(journal_dir);
    journal_dir = fixture_journal_dir();
    options = fixture_options(journal_dir, true);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    for (int i = 0; i < N_REQUESTS; i++) {
        char id[16];
        struct aud_record r;

        snprintf(id, sizeof(id), "req-%d", i);
        r = fixture_intent(id, i % 2 == 0 ? "alice" : "bob");
        CHECK_RC(fixture_append(aud, &r, NULL, &err), BASE_OK, &err);
        if (i + 1 == N_REQUESTS)
            break;
        r = fixture_outcome(id, i % 2 == 0 ? "alice" : "bob");
        CHECK_RC(fixture_append(aud, &r, NULL, &err), BASE_OK, &err);
    }
    CHECK_RC(fixture_append(
                 aud, &(struct aud_record){.kind = AUD_EVENT, .action = "key.create", .target = "key-7"},
                 NULL, &err),
             BASE_OK, &err);
    CHECK(fixture_wait_shipped(aud, 10000));
    aud_close(aud, 1000);
}

/* 4 of persons, 2 * 5 + 1 of requests, 1 event */
#define N_RECORDS (4 + 2 * (N_REQUESTS - 1) + 1 + 1)

static struct aud_verify_result verify_with(const char *dir, const char *instance)
{
    struct aud_verify_options options = {
        .reader_dsn = pgp_dsn(fixture_server, "gatehouse_reader"), .journal_dir = dir, .instance = instance};
    struct aud_verify_result result = {.intact = false};
    struct base_err err;

    CHECK_RC(aud_verify(&options, &result, &err), BASE_OK, &err);
    return result;
}

static void test_aud_verify__untouched_is_intact(void)
{
    struct aud_verify_result result;

    fill();
    result = verify_with(NULL, NULL);
    if (!result.intact)
        printf("# %s\n", result.problem);
    CHECK(result.intact);
    CHECK_INT(result.n_records, N_RECORDS);
    CHECK_INT(result.n_instances, 1);
    CHECK_INT(result.n_keys_gone, 0);
    result = verify_with(journal_dir, FIXTURE_INSTANCE);
    CHECK(result.intact && result.n_unshipped == 0);
}

/* Cases go on with what the one before left; one that is run alone fills first. */
static void need_records(void)
{
    if (journal_dir == NULL)
        fill();
}

/* Whoever may do this owns the tables: the trigger is no obstacle to them, the chain is. */
static void tamper(const char *sql)
{
    pgp_sql(
        fixture_server,
        "ALTER TABLE audit.records DISABLE TRIGGER ALL; ALTER TABLE audit.person_keys DISABLE TRIGGER ALL; "
        "DROP TABLE IF EXISTS saved, saved_keys; CREATE TABLE saved AS TABLE audit.records; "
        "CREATE TABLE saved_keys AS TABLE audit.person_keys");
    pgp_sql(fixture_server, sql);
}

static void untamper(void)
{
    pgp_sql(
        fixture_server,
        "DELETE FROM audit.records; DELETE FROM audit.person_keys; INSERT INTO audit.records TABLE saved; "
        "INSERT INTO audit.person_keys TABLE saved_keys; DROP TABLE saved, saved_keys; "
        "ALTER TABLE audit.records ENABLE TRIGGER ALL; ALTER TABLE audit.person_keys ENABLE TRIGGER ALL");
}

static void test_aud_verify__one_changed_bit_of_any_column_is_found(void)
{
    static const char *const columns_sql = "SELECT column_name, data_type FROM information_schema.columns "
                                           "WHERE table_schema = 'audit' AND table_name = 'records' "
                                           "ORDER BY ordinal_position";
    auto_pg struct base_pg *pg = base_pg_new(pgp_dsn(fixture_server, "postgres"), 10000);
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_err err;

    need_records();
    CHECK_RC(base_pg_exec(pg, columns_sql, NULL, 0, &rows, &err), BASE_OK, &err);
    CHECK(base_pg_n_rows(rows) > 35);
    for (unsigned i = 0; i < base_pg_n_rows(rows); i++) {
        const char *column = base_pg_text(rows, i, 0), *type = base_pg_text(rows, i, 1);
        struct aud_verify_result result;
        char sql[400], change[160];
        int64_t seq = 3; /* an outcome with content */

        if (strcmp(column, "seq") == 0)
            snprintf(change, sizeof(change), "seq + 1000");
        else if (strcmp(column, "kind") == 0)
            snprintf(change, sizeof(change), "3");
        else if (strcmp(type, "bytea") == 0)
            snprintf(change, sizeof(change), "set_bit(%s, 5, 1 - get_bit(%s, 5))", column, column);
        else if (strcmp(type, "text") == 0)
            snprintf(
                change, sizeof(change),
                "CASE WHEN %s = '' THEN 'x' ELSE overlay(%s placing chr(ascii(%s) # 1) from 1 for 1) END",
                column, column, column);
        else if (strcmp(type, "bigint") == 0)
            snprintf(change, sizeof(change), "%s # 1", column);
        else
            snprintf(change, sizeof(change), "%s + interval '1 microsecond'", column);
        snprintf(sql, sizeof(sql), "UPDATE audit.records SET %s = %s WHERE seq = %d", column, change,
                 (int)seq);
        tamper(sql);
        result = verify_with(NULL, NULL);
        untamper();
        if (result.intact || (strcmp(column, "instance") != 0 && result.bad_seq != seq))
            printf("# column %s: intact %d, bad_seq %lld: %s\n", column, result.intact,
                   (long long)result.bad_seq, result.problem);
        CHECK(!result.intact);
        if (strcmp(column, "instance") != 0) /* which becomes an instance of its own, without a beginning */
            CHECK_INT(result.bad_seq, seq);
    }
    CHECK(verify_with(NULL, NULL).intact);
}

static void test_aud_verify__whole_rows_and_keys(void)
{
    static const struct {
        const char *what, *sql, *says;
        int64_t bad_seq;
    } table[] = {
        {"delete", "DELETE FROM audit.records WHERE seq = 5", "is missing", 5},
        {"delete the first", "DELETE FROM audit.records WHERE seq = 0", "is missing", 0},
        {"delete several", "DELETE FROM audit.records WHERE seq BETWEEN 3 AND 9", "is missing", 3},
        {"exchange two",
         "UPDATE audit.records SET seq = CASE seq WHEN 5 THEN -6 ELSE -5 END + 100000 WHERE seq IN (5, 6); "
         "UPDATE audit.records SET seq = 100000 - seq WHERE seq > 90000",
         "another place", 5},
        {"insert a copy at the end",
         "CREATE TEMP TABLE c AS SELECT * FROM audit.records WHERE seq = 8; UPDATE c SET seq = (SELECT "
         "max(seq) + 1 FROM audit.records); "
         "INSERT INTO audit.records TABLE c; DROP TABLE c",
         "another place", N_RECORDS},
        {"remove content", "UPDATE audit.records SET content = NULL WHERE seq = 3", "content is missing", 3},
        {"exchange contents",
         "UPDATE audit.records SET content = (SELECT content FROM audit.records WHERE seq = 2) WHERE seq = 7",
         "content", 7},
        {"null a nonce", "UPDATE audit.records SET nonce = NULL WHERE seq = 3", "nonce", 3},
        {"change a wrapped key",
         "UPDATE audit.person_keys SET wrapped = set_bit(wrapped, 3, 1 - get_bit(wrapped, 3))", "wrapped", 1},
        {"change a key's nonce",
         "UPDATE audit.person_keys SET nonce = set_bit(nonce, 3, 1 - get_bit(nonce, 3))", "nonce", 1},
        {"give a key to another", "UPDATE audit.person_keys SET pseudonym = pseudonym || 'x'", "pseudonym",
         1},
        {"date a key", "UPDATE audit.person_keys SET created = created + interval '1 hour'", "created", 1},
        {"insert a key",
         "INSERT INTO audit.person_keys SELECT set_bit(key_id, 0, 1 - get_bit(key_id, 0)), 'p', nonce, "
         "wrapped, now() "
         "FROM audit.person_keys LIMIT 1",
         "made by no record", -1},
        {"recompute one hash",
         "UPDATE audit.records SET hash = sha256(hash) WHERE seq = 5; "
         "UPDATE audit.records SET prev_hash = (SELECT hash FROM audit.records WHERE seq = 5) WHERE seq = 6",
         "hash does not fit", 5},
    };

    need_records();
    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++) {
        struct aud_verify_result result;

        tamper(table[i].sql);
        result = verify_with(NULL, NULL);
        untamper();
        if (result.intact || result.bad_seq != table[i].bad_seq ||
            strstr(result.problem, table[i].says) == NULL)
            printf("# %s: intact %d, bad_seq %lld: %s\n", table[i].what, result.intact,
                   (long long)result.bad_seq, result.problem);
        CHECK(!result.intact && strstr(result.problem, table[i].says) != NULL);
        CHECK_INT(result.bad_seq, table[i].bad_seq);
    }
    CHECK(verify_with(NULL, NULL).intact);
}

/* What verify cannot see in the database alone, it sees with the journal; and what it then cannot see is in
 * docs/audit.md. */
static void test_aud_verify__a_cut_tail_needs_the_journal(void)
{
    struct aud_options options;
    struct aud *aud = NULL;
    struct aud_verify_result result;
    struct base_err err;

    need_records();
    options = fixture_options(journal_dir, true);
    tamper("DELETE FROM audit.records WHERE seq >= 10");
    CHECK(verify_with(NULL, NULL).intact);
    result =
        verify_with(journal_dir, NULL); /* what is left in the journal looks like what is not shipped yet */
    CHECK(result.intact && result.n_unshipped == N_RECORDS - 10);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err); /* and is shipped again */
    CHECK(fixture_wait_shipped(aud, 5000));
    aud_close(aud, 0);
    CHECK_INT(fixture_query("SELECT count(*) FROM audit.records"), N_RECORDS);
    untamper();
    tamper("UPDATE audit.records SET hash = sha256(hash) WHERE seq = (SELECT max(seq) FROM audit.records)");
    CHECK(!verify_with(NULL, NULL).intact);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_CORRUPT, &err);
    untamper();
    CHECK(verify_with(journal_dir, NULL).intact);
}

/* Records that only the journal has are verified there, and damage to them is found. */
static void test_aud_verify__the_unshipped_tail_is_looked_at(void)
{
    struct aud_options options;
    struct aud_record r = fixture_intent("req-late", "alice");
    struct aud *aud = NULL;
    struct aud_verify_result result;
    char path[128];
    unsigned char byte;
    off_t end;
    struct base_err err;
    int fd;

    fill();
    options = fixture_options(journal_dir, false); /* no database: nothing is shipped */
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    CHECK_RC(fixture_append(aud, &r, NULL, &err), BASE_OK, &err);
    result = verify_with(journal_dir, NULL); /* while its writer runs */
    CHECK(result.intact && result.n_records == N_RECORDS && result.n_unshipped == 3);
    aud_close(aud, 0);
    snprintf(path, sizeof(path), "%s/00000000000000000000.seg", journal_dir);
    fd = open(path, O_RDWR);
    end = lseek(fd, 0, SEEK_END);
    for (off_t at = end - 5; at > end - 2200; at -= 61) {
        CHECK(pread(fd, &byte, 1, at) == 1);
        byte ^= 4;
        CHECK(pwrite(fd, &byte, 1, at) == 1);
        result = verify_with(journal_dir, NULL);
        CHECK(!result.intact && result.bad_seq >= N_RECORDS);
        byte ^= 4;
        CHECK(pwrite(fd, &byte, 1, at) == 1);
    }
    CHECK(verify_with(journal_dir, NULL).intact);
    CHECK(ftruncate(fd, end - 1) == 0);
    CHECK(!verify_with(journal_dir, NULL).intact);
    close(fd);
    fill();
}

static void test_aud_verify__an_erased_person_leaves_the_chain_intact(void)
{
    auto_pg struct base_pg *eraser = base_pg_new(pgp_dsn(fixture_server, "gatehouse_eraser"), 5000);
    struct aud_verify_result result;
    struct base_err err;

    need_records();
    CHECK_INT(fixture_query("SELECT count(*) FROM audit.person_keys"), 2);
    CHECK_RC(base_pg_exec(eraser, "SELECT audit.erase_person($1, 'asked for it')",
                          (struct base_pg_param[]){PG_TEXT("p1-0000")}, 1, NULL, &err),
             BASE_OK, &err);
    CHECK_INT(fixture_query("SELECT count(*) FROM audit.person_keys"), 2);
    pgp_sql(fixture_server,
            "SELECT audit.erase_person((SELECT pseudonym FROM audit.records WHERE seq = 2), 'asked for it')");
    result = verify_with(NULL, NULL);
    CHECK(result.intact);
    CHECK_INT(result.n_keys_gone, 1);
}

/* --- the commands --- */

static char output[1u << 16];

/* Runs a command with its output caught. */
static int command(const char *first, ...)
{
    char *argv[16] = {(char *)"audit", (char *)first};
    struct aud_cli_options options = {.reader_dsn = pgp_dsn(fixture_server, "gatehouse_reader"),
                                      .kek_file = kek_path,
                                      .journal_dir = journal_dir,
                                      .instance = FIXTURE_INSTANCE};
    int argc = 2, fds[2], status = 0;
    size_t n = 0;
    ssize_t got;
    va_list args;
    pid_t pid;

    va_start(args, first);
    while (argc < 15 && (argv[argc] = va_arg(args, char *)) != NULL)
        argc++;
    va_end(args);
    CHECK(pipe(fds) == 0);
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        dup2(fds[1], 1);
        dup2(fds[1], 2);
        close(fds[0]);
        status = aud_cli_main(argc, argv, &options);
        fflush(stdout);
        _exit(status);
    }
    close(fds[1]);
    while ((got = read(fds[0], output + n, sizeof(output) - 1 - n)) > 0)
        n += (size_t)got;
    output[n] = '\0';
    close(fds[0]);
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static unsigned count(const char *needle)
{
    unsigned n = 0;

    for (const char *at = output; (at = strstr(at, needle)) != NULL; at++)
        n++;
    return n;
}

static void test_aud_cli__list(void)
{
    fill();
    CHECK_INT(command("list", NULL), 0);
    CHECK_INT(count("\n"), N_REQUESTS + 2); /* the head, the requests, the event */
    CHECK_INT(count("no outcome"), 1);
    CHECK(count("key.create") == 1 && count("req-0") == 1);
    CHECK_INT(command("list", "--status", "no outcome", NULL), 0);
    CHECK_INT(count("req-"), 1);
    CHECK_INT(command("list", "--status", "ok", "--limit", "2", "--class", "internal", "--model", "small",
                      "--since", "1h", NULL),
              0);
    CHECK_INT(count("req-"), 2);
    CHECK_INT(command("list", "--until", "2020-01-01", NULL), 0);
    CHECK_STR(output, "no records\n");
    CHECK_INT(command("list", "--request", "req-3", "--json", NULL), 0);
    CHECK(count("\n") == 1 && strstr(output, "\"completion_tokens\":7") != NULL &&
          strstr(output, "\"status\":\"ok\"") != NULL);
    CHECK_INT(command("list", "--since", "yesterdayish", NULL), 2);
    CHECK_INT(command("list", "--limit", "0", NULL), 2);
    CHECK_INT(command("list", "surplus", NULL), 2);
    CHECK_INT(command("list", "--help", NULL), 0);
}

static void test_aud_cli__show(void)
{
    need_records();
    CHECK_INT(command("show", "req-0", NULL), 0);
    CHECK(count("intent gate-1:2") == 1 && count("outcome gate-1:3") == 1);
    CHECK(strstr(output, "an answer of the model") == NULL && strstr(output, "--content shows it") != NULL);
    CHECK_INT(command("show", "gate-1:3", "--content", NULL), 0);
    CHECK(strstr(output, "an answer of the model") != NULL && strstr(output, "hello") != NULL);
    CHECK_INT(command("show", "req-0", "--content", "--json", NULL), 0);
    CHECK_INT(count("\n"), 2);
    CHECK(strstr(output, "\"content\":\"an answer of the model\"") != NULL);
    CHECK_INT(command("show", "req-5", NULL), 0);
    CHECK(strstr(output, "no outcome:") != NULL);
    CHECK_INT(command("show", "nothing", NULL), 1);
    CHECK_INT(command("show", "gate-1:9999", NULL), 1);
    CHECK_INT(command("show", NULL), 2);
    pgp_sql(fixture_server,
            "SELECT audit.erase_person((SELECT pseudonym FROM audit.records WHERE seq = 2), 'asked for it')");
    CHECK_INT(command("show", "req-0", "--content", NULL), 0);
    CHECK(strstr(output, "destroyed") != NULL && strstr(output, "an answer of the model") == NULL);
}

static void test_aud_cli__verify(void)
{
    fill();
    CHECK_INT(command("verify", NULL), 0);
    CHECK(strstr(output, "intact: 16 records of 1 instance, head ") == output);
    CHECK_INT(command("verify", "--json", "--no-journal", NULL), 0);
    CHECK(strstr(output, "{\"intact\":true,\"records\":16") == output);
    tamper("UPDATE audit.records SET status = 'denied' WHERE seq = 3");
    CHECK_INT(command("verify", NULL), 1);
    CHECK(strstr(output, "record gate-1:3 (request req-0, time 20") == output &&
          strstr(output, "column status differs") != NULL);
    CHECK_INT(command("verify", "--json", NULL), 1);
    CHECK(strstr(output, "\"bad_seq\":3") != NULL);
    untamper();
    CHECK_INT(command("verify", "--instance", "nobody", NULL), 2);
    CHECK_INT(command("verify", "--instance", "gate-1", NULL), 0);
    CHECK_INT(command("verify", "--what", NULL), 2);
    CHECK_INT(command("--help", NULL), 0);
    CHECK_INT(command("dance", NULL), 2);
    pgp_stop(fixture_server, false);
    CHECK_INT(command("verify", NULL), 2);
    CHECK(pgp_start(fixture_server));
}

/* A model name with an escape sequence must not reach the terminal. */
static void test_aud_cli__control_characters_are_not_printed(void)
{
    struct aud_options options;
    struct aud_record r = fixture_intent("req-evil", "mallory");
    struct aud *aud = NULL;
    struct base_err err;

    need_records();
    options = fixture_options(journal_dir, true);
    r.model_asked = "\033]0;owned\007model\xe2\x80\xae\n";
    r.content = "\033[2J<script>";
    r.content_len = strlen(r.content);
    CHECK_RC(aud_open(&aud, &options, &err), BASE_OK, &err);
    CHECK_RC(fixture_append(aud, &r, NULL, &err), BASE_OK, &err);
    aud_close(aud, 5000);
    CHECK_INT(command("list", "--request", "req-evil", NULL), 0);
    CHECK(strchr(output, '\033') == NULL && strstr(output, "?]0;owned?model??") != NULL);
    CHECK_INT(command("show", "req-evil", "--content", NULL), 0);
    CHECK(strchr(output, '\033') == NULL && strstr(output, "?[2J<script>") != NULL);
    CHECK_INT(command("list", "--request", "req-evil", "--json", NULL), 0);
    CHECK(strchr(output, '\033') == NULL && count("\n") == 1);
}

static const struct tap_case cases[] = {
    CASE(test_aud_verify__untouched_is_intact),
    CASE(test_aud_verify__one_changed_bit_of_any_column_is_found),
    CASE(test_aud_verify__whole_rows_and_keys),
    CASE(test_aud_verify__a_cut_tail_needs_the_journal),
    CASE(test_aud_verify__the_unshipped_tail_is_looked_at),
    CASE(test_aud_verify__an_erased_person_leaves_the_chain_intact),
    CASE(test_aud_cli__list),
    CASE(test_aud_cli__show),
    CASE(test_aud_cli__verify),
    CASE(test_aud_cli__control_characters_are_not_printed),
};

int main(int argc, char **argv)
{
    FILE *f;
    int rc, fd;

    base_log_init(-1, BASE_LOG_ERROR);
    snprintf(kek_path, sizeof(kek_path), "/tmp/gh-kek-XXXXXX");
    fd = mkstemp(kek_path); /* mode 0600 */
    f = fd >= 0 ? fdopen(fd, "w") : NULL;
    fixture_server = pgp_new();
    if (fixture_server == NULL || f == NULL) {
        printf("1..1\nnot ok 1 - a private Postgres starts\n");
        return 1;
    }
    for (size_t i = 0; i < sizeof(fixture_kek_bytes); i++)
        fprintf(f, "%02x", fixture_kek_bytes[i]);
    fclose(f);
    rc = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    if (journal_dir != NULL)
        fixture_remove(journal_dir);
    unlink(kek_path);
    pgp_free(fixture_server);
    return rc;
}
