/* aud_migrate and the rights that the migrations grant, against a private Postgres. */
#include "pg_private.h"
#include "tap.h"

#include "audit/audit.h"
#include "base/mem.h"
#include "base/pg.h"

#include <sys/stat.h>
#include <unistd.h>

static struct pgp *server;
static char source_root[512];

static const char *real_dir(void)
{
    static char path[600];

    snprintf(path, sizeof(path), "%s/migrations", source_root);
    return path;
}

/* A fresh database state: all that the migrator owns is dropped, and its rights (which go with that) are
 * given again. */
static void reset(void)
{
    char path[600];

    pgp_sql(server, "DROP OWNED BY gatehouse_migrator CASCADE");
    snprintf(path, sizeof(path), "%s/deploy/postgres-roles.sql", source_root);
    pgp_sql_file(server, path);
}

static void put(const char *dir, const char *name, const char *sql)
{
    char path[300];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "w");
    if (f == NULL)
        abort();
    fputs(sql, f);
    fclose(f);
}

static void drop(const char *dir, const char *name)
{
    char path[300];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path);
}

static const char *own_dir(void)
{
    static char dir[64];

    snprintf(dir, sizeof(dir), "/tmp/gh-mig-XXXXXX");
    if (mkdtemp(dir) == NULL)
        abort();
    put(dir, "0001_one.sql", "CREATE TABLE t1(a int);");
    put(dir, "0002_two.sql", "CREATE TABLE t2(a int);");
    put(dir, "README.md", "not a migration");
    return dir;
}

static void clean(const char *dir)
{
    drop(dir, "0001_one.sql");
    drop(dir, "0002_two.sql");
    drop(dir, "0003_three.sql");
    drop(dir, "0004_four.sql");
    drop(dir, "README.md");
    rmdir(dir);
}

static const char *migrator(void)
{
    return pgp_dsn(server, "gatehouse_migrator");
}

static void test_aud_migrate__applies_once(void)
{
    unsigned n = 99;
    struct base_err err;

    reset();
    CHECK_RC(aud_migrate(migrator(), real_dir(), &n, &err), BASE_OK, &err);
    CHECK(n >= 1);
    CHECK_RC(aud_migrate(migrator(), real_dir(), &n, &err), BASE_OK, &err);
    CHECK_INT(n, 0);
}

static void test_aud_migrate__a_changed_or_missing_file_is_refused_by_name(void)
{
    const char *dir = own_dir();
    unsigned n = 0;
    struct base_err err;

    reset();
    CHECK_RC(aud_migrate(migrator(), dir, &n, &err), BASE_OK, &err);
    CHECK_INT(n, 2);
    put(dir, "0001_one.sql", "CREATE TABLE t1(a int, b int);");
    CHECK_RC(aud_migrate(migrator(), dir, &n, &err), BASE_DENIED, &err);
    CHECK(strstr(err.detail, "0001_one.sql was changed") != NULL);
    drop(dir, "0001_one.sql");
    CHECK_RC(aud_migrate(migrator(), dir, &n, &err), BASE_DENIED, &err);
    CHECK(strstr(err.detail, "0001_one.sql was applied and its file is missing") != NULL);
    put(dir, "0001_one.sql", "CREATE TABLE t1(a int);");
    CHECK_RC(aud_migrate(migrator(), dir, &n, &err), BASE_OK, &err);
    drop(dir, "0002_two.sql");
    CHECK_RC(aud_migrate(migrator(), dir, &n, &err), BASE_DENIED, &err);
    CHECK(strstr(err.detail, "this binary is older than the database") != NULL);
    CHECK_INT(n, 0);
    clean(dir);
}

static void test_aud_migrate__a_late_number_is_refused(void)
{
    const char *dir = own_dir();
    struct base_err err;

    reset();
    drop(dir, "0001_one.sql");
    CHECK_RC(aud_migrate(migrator(), dir, NULL, &err), BASE_OK, &err);
    put(dir, "0001_one.sql", "CREATE TABLE t1(a int);");
    CHECK_RC(aud_migrate(migrator(), dir, NULL, &err), BASE_DENIED, &err);
    CHECK(strstr(err.detail, "0001_one.sql is new") != NULL);
    clean(dir);
}

static void test_aud_migrate__a_failing_one_leaves_the_ones_before(void)
{
    const char *dir = own_dir();
    auto_pg struct base_pg *pg = base_pg_new(pgp_dsn(server, "postgres"), 5000);
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_err err;

    reset();
    put(dir, "0003_three.sql", "CREATE TABLE t3(a int); SELECT 1/0;");
    CHECK_RC(aud_migrate(migrator(), dir, NULL, &err), BASE_INVALID, &err);
    CHECK(strstr(err.detail, "0003_three.sql") != NULL);
    put(dir, "0003_three.sql", "CREATE TABLE t3(a int); COMMIT;");
    CHECK_RC(aud_migrate(migrator(), dir, NULL, &err), BASE_INVALID, &err);
    CHECK_RC(base_pg_exec(pg, "SELECT count(*), to_regclass('t2')::text FROM gatehouse_migrations", NULL, 0,
                          &rows, &err),
             BASE_OK, &err);
    CHECK_INT(base_pg_int(rows, 0, 0), 2);
    CHECK_STR(base_pg_text(rows, 0, 1), "t2");
    clean(dir);
}

static void test_aud_migrate__two_files_with_one_number_are_refused(void)
{
    const char *dir = own_dir();
    struct base_err err;

    put(dir, "0002_again.sql", "SELECT 1;");
    CHECK_RC(aud_migrate(migrator(), dir, NULL, &err), BASE_INVALID, &err);
    drop(dir, "0002_again.sql");
    clean(dir);
    CHECK_RC(aud_migrate(migrator(), "/nowhere", NULL, &err), BASE_IO, &err);
}

/* Each role and statement: what it may and, beside it, what it may not. */
static void test_roles__may_do_their_part_and_no_more(void)
{
#define KEY  "'\\x00112233445566778899aabbccddeeff'"
#define HASH "'\\x0000000000000000000000000000000000000000000000000000000000000000'"
#define RECORD                                                               \
    "INSERT INTO audit.records SELECT 'x', 0, 3, now(), "                    \
    "'','','','','','','','','','','','','','','','','','','','','','','', " \
    "0,0,0,0,0,0,0,0, NULL, NULL, '', " HASH ", " HASH ", NULL"
    static const struct {
        const char *role, *sql;
        enum base_code expected;
    } table[] = {
        {"gatehouse_writer", RECORD, BASE_OK},
        {"gatehouse_writer", RECORD, BASE_EXISTS},
        {"gatehouse_writer",
         "INSERT INTO audit.person_keys VALUES (" KEY ", 'p', '\\x000000000000000000000000', '', now())",
         BASE_OK},
        {"gatehouse_writer", "SELECT * FROM audit.chain_head('x')", BASE_OK},
        {"gatehouse_writer", "SELECT 1 FROM audit.records", BASE_DENIED},
        {"gatehouse_writer", "SELECT 1 FROM audit.chain_heads", BASE_DENIED},
        {"gatehouse_writer", "SELECT 1 FROM audit.person_keys", BASE_DENIED},
        {"gatehouse_writer", "UPDATE audit.records SET status = 'ok'", BASE_DENIED},
        {"gatehouse_writer", "DELETE FROM audit.records", BASE_DENIED},
        {"gatehouse_writer", "TRUNCATE audit.records", BASE_DENIED},
        {"gatehouse_writer", "DROP TABLE audit.records", BASE_DENIED},
        {"gatehouse_writer", "ALTER TABLE audit.records DISABLE TRIGGER ALL", BASE_DENIED},
        {"gatehouse_writer", "DELETE FROM audit.person_keys", BASE_DENIED},
        {"gatehouse_writer", "SELECT 1 FROM mapping.subjects", BASE_DENIED},
        {"gatehouse_writer", "INSERT INTO mapping.subjects VALUES ('p', 'i', 's', now())", BASE_DENIED},
        {"gatehouse_writer", "SELECT audit.erase_person('p', 'why')", BASE_DENIED},
        {"gatehouse_writer", "CREATE TABLE public.mine(a int)", BASE_DENIED},
        {"gatehouse_writer", "CREATE TEMP TABLE mine(a int)", BASE_DENIED},
        {"gatehouse_reader", "SELECT 1 FROM audit.records", BASE_OK},
        {"gatehouse_reader", "SELECT * FROM audit.requests", BASE_OK},
        {"gatehouse_reader", "SELECT * FROM audit.chain_heads", BASE_OK},
        {"gatehouse_reader", "SELECT 1 FROM mapping.subjects", BASE_DENIED},
        {"gatehouse_reader", RECORD, BASE_DENIED},
        {"gatehouse_reader", "UPDATE audit.records SET status = 'ok'", BASE_DENIED},
        {"gatehouse_reader", "DELETE FROM audit.records", BASE_DENIED},
        {"gatehouse_reader", "DELETE FROM audit.person_keys", BASE_DENIED},
        {"gatehouse_reader", "INSERT INTO audit.erasures VALUES ('p', now(), 'me', 0, '')", BASE_DENIED},
        {"gatehouse_mapper",
         "INSERT INTO mapping.subjects VALUES ('p', 'i', 's', now()) ON CONFLICT DO NOTHING", BASE_OK},
        {"gatehouse_mapper",
         "INSERT INTO mapping.subjects VALUES ('p', 'i', 's', now()) ON CONFLICT DO NOTHING", BASE_OK},
        {"gatehouse_mapper", "SELECT 1 FROM mapping.subjects", BASE_DENIED},
        {"gatehouse_mapper", "DELETE FROM mapping.subjects", BASE_DENIED},
        {"gatehouse_mapper", "UPDATE mapping.subjects SET subject = 'other'", BASE_DENIED},
        {"gatehouse_mapper", "SELECT 1 FROM audit.records", BASE_DENIED},
        {"gatehouse_identifier", "SELECT * FROM mapping.subjects", BASE_OK},
        {"gatehouse_identifier", "INSERT INTO mapping.subjects VALUES ('q', 'i', 's', now())", BASE_DENIED},
        {"gatehouse_identifier", "SELECT 1 FROM audit.records", BASE_DENIED},
        {"gatehouse_eraser", "SELECT audit.erase_person('p', 'asked for it')", BASE_OK},
        {"gatehouse_eraser", "DELETE FROM audit.person_keys", BASE_DENIED},
        {"gatehouse_eraser", "SELECT 1 FROM audit.records", BASE_DENIED},
        {"gatehouse_store", "SELECT 1 FROM audit.records", BASE_DENIED},
        {"gatehouse_store", "SELECT 1 FROM mapping.subjects", BASE_DENIED},
        /* append-only binds the owner too, until the schema itself is changed */
        {"gatehouse_migrator", "SELECT 1 FROM audit.records", BASE_OK},
        {"gatehouse_migrator", "UPDATE audit.records SET status = 'ok'", BASE_DENIED},
        {"gatehouse_migrator", "DELETE FROM audit.records", BASE_DENIED},
        {"gatehouse_migrator", "TRUNCATE audit.records", BASE_DENIED},
        {"gatehouse_migrator", "UPDATE audit.person_keys SET wrapped = ''", BASE_DENIED},
        {"gatehouse_migrator", "DELETE FROM audit.erasures", BASE_DENIED},
    };
    struct base_err err;

    reset();
    CHECK_RC(aud_migrate(migrator(), real_dir(), NULL, &err), BASE_OK, &err);
    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++) {
        auto_pg struct base_pg *pg = base_pg_new(pgp_dsn(server, table[i].role), 5000);
        enum base_code rc = base_pg_exec(pg, table[i].sql, NULL, 0, NULL, &err);

        if (rc != table[i].expected)
            printf("# %s: %s: %s (%s)\n", table[i].role, table[i].sql, base_code_name(rc),
                   rc != BASE_OK ? err.detail : "");
        CHECK_INT(rc, table[i].expected);
    }
}

static const struct tap_case cases[] = {
    CASE(test_aud_migrate__applies_once),
    CASE(test_aud_migrate__a_changed_or_missing_file_is_refused_by_name),
    CASE(test_aud_migrate__a_late_number_is_refused),
    CASE(test_aud_migrate__a_failing_one_leaves_the_ones_before),
    CASE(test_aud_migrate__two_files_with_one_number_are_refused),
    CASE(test_roles__may_do_their_part_and_no_more),
};

int main(int argc, char **argv)
{
    const char *root = getenv("GH_SOURCE_ROOT");
    char path[600];
    int rc;

    snprintf(source_root, sizeof(source_root), "%s", root != NULL ? root : ".");
    server = pgp_new();
    if (server == NULL) {
        printf("1..1\nnot ok 1 - a private Postgres starts\n");
        return 1;
    }
    snprintf(path, sizeof(path), "%s/deploy/postgres-roles.sql", source_root);
    pgp_sql_file(server, path); /* and again before each case: it is safe to run again */
    rc = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    pgp_free(server);
    return rc;
}
