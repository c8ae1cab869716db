/* The directory's snapshot, brought up to date in pieces, against a whole read of the same database: real Postgres, the real writers. */
#include "pg_private.h"
#include "tap.h"

#include "audit/audit.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/pg.h"
#include "gateway/directory.h"
#include "gateway/scim_sql.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <time.h>

#define N_NAMES  14
#define N_GROUPS 7
#define SEEN_MAX 4096

static struct pgp *server;
static struct base_pg *writer, *reader;  /* role gatehouse_store; the reader is the watcher's */
static struct gw_directory *directory;   /* by userName, in pieces */
static struct gw_directory *by_external; /* the same by externalId */

/* ---- writing ---- */

static enum base_code try_sql(struct base_pg *pg, const char *format, ...)
{
    char text[2048];
    struct base_err err = {0};
    enum base_code rc;
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    rc = base_pg_exec(pg, text, NULL, 0, NULL, &err);
    if (rc != BASE_OK && rc != BASE_EXISTS)
        printf("# %s: %s\n", text, err.detail);
    return rc;
}

#define SQL(...) CHECK_INT(try_sql(writer, __VA_ARGS__), BASE_OK)

static void as_superuser(const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    pgp_sql(server, text);
}

static int64_t number(const char *sql)
{
    auto_pg struct base_pg *pg = base_pg_new(pgp_dsn(server, "postgres"), 10000);
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_err err;

    CHECK_RC(base_pg_exec(pg, sql, NULL, 0, &rows, &err), BASE_OK, &err);
    return base_pg_int(rows, 0, 0);
}

struct id {
    char text[GW_SCIM_ID_LEN + 1];
};

static char *text_or_null(const char *text)
{
    return text != NULL ? base_strdup(text) : NULL;
}

static struct gw_scim_user user_of(const char *name, const char *external_id, bool active)
{
    return (struct gw_scim_user){.user_name = base_strdup(name),
                                 .external_id = text_or_null(external_id),
                                 .doc = base_strdup("{}"),
                                 .active = active};
}

static enum base_code try_user(struct id *id, const char *name, const char *external_id, bool active)
{
    struct gw_scim_user user = user_of(name, external_id, active);
    bool fresh = id->text[0] == '\0';
    enum base_code rc = fresh ? gw_scim_sql_user_create(writer, &user, id->text, NULL)
                              : gw_scim_sql_user_update(writer, id->text, &user, NULL);

    gw_scim_user_free(&user);
    return rc;
}

static struct id new_user(const char *name, const char *external_id)
{
    struct id id = {""};

    CHECK_INT(try_user(&id, name, external_id, true), BASE_OK);
    return id;
}

static void set_user(struct id id, const char *name, const char *external_id, bool active)
{
    CHECK_INT(try_user(&id, name, external_id, active), BASE_OK);
}

static void delete_user(struct id id)
{
    CHECK_INT(gw_scim_sql_user_delete(writer, id.text, NULL), BASE_OK);
}

/* step 0: names alone, else one step with one member, or none (`replace` by nobody). */
static enum base_code try_group(struct id *id, const char *name, const char *external_id,
                                enum gw_scim_step_kind step, const char *member)
{
    char ids[GW_SCIM_ID_LEN + 3];
    struct gw_scim_step one = {.kind = step, .ids = ids, .n = member != NULL};
    const struct gw_scim_group group = {.display_name = text_or_null(name),
                                        .external_id = text_or_null(external_id),
                                        .sets_display_name = name != NULL,
                                        .sets_external_id = name != NULL,
                                        .steps = &one,
                                        .n_steps = step != 0};
    bool fresh = id->text[0] == '\0';
    enum base_code rc;

    snprintf(ids, sizeof(ids), "{%s}", member != NULL ? member : "");
    rc = fresh ? gw_scim_sql_group_create(writer, &group, id->text, NULL)
               : gw_scim_sql_group_update(writer, id->text, &group, NULL);
    free(group.display_name);
    free(group.external_id);
    return rc;
}

static struct id new_group(const char *name, const char *external_id)
{
    struct id id = {""};

    CHECK_INT(try_group(&id, name, external_id, 0, NULL), BASE_OK);
    return id;
}

static void change_members(struct id group, enum gw_scim_step_kind step, struct id member)
{
    CHECK_INT(try_group(&group, NULL, NULL, step, member.text), BASE_OK);
}

static void delete_group(struct id id)
{
    CHECK_INT(gw_scim_sql_group_delete(writer, id.text, NULL), BASE_OK);
}

/* ---- reading ---- */

struct names {
    char *at[64];
    size_t n;
};

static void keep(const char *group, void *user)
{
    struct names *names = user;

    if (names->n < BASE_ARRAY_LEN(names->at))
        names->at[names->n++] = base_strdup(group);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "active: GROUP GROUP", the groups' names sorted. */
static void describe(struct base_buf *out, struct gw_directory *of, const char *key)
{
    static const char *const states[] = {"unknown", "deactivated", "active"};
    struct names names = {.n = 0};
    enum gw_person_state state = gw_directory_find(of, key, keep, &names);

    base_buf_append_str(out, states[state]);
    qsort(names.at, names.n, sizeof(*names.at), compare_texts);
    for (size_t i = 0; i < names.n; i++) {
        base_buf_printf(out, "%s%s", i == 0 ? ": " : " ", names.at[i]);
        free(names.at[i]);
    }
}

static const char *seen_in(struct gw_directory *of, const char *key)
{
    static char text[SEEN_MAX];
    auto_buf struct base_buf out = BASE_BUF_INIT(SEEN_MAX - 1);

    describe(&out, of, key);
    snprintf(text, sizeof(text), "%s", out.data);
    return text;
}

static const char *seen(const char *key)
{
    return seen_in(directory, key);
}

static uint64_t refresh(void)
{
    uint64_t before = gw_directory_whole_reads(directory);
    struct base_err err;

    CHECK_RC(gw_directory_refresh(directory, false, reader, &err), BASE_OK, &err);
    CHECK_RC(gw_directory_refresh(by_external, false, reader, &err), BASE_OK, &err);
    return gw_directory_whole_reads(directory) - before;
}

/* The same persons, states and groups as a directory that reads all of it now. */
static void compare_with_whole(struct gw_directory *pieces, bool external)
{
    struct gw_directory *fresh = gw_directory_new();
    auto_buf struct base_buf expected = BASE_BUF_INIT(256u << 10), actual = BASE_BUF_INIT(256u << 10);
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_err err;
    enum base_code rc;

    gw_directory_use_external_id(fresh, external);
    rc = gw_directory_refresh(fresh, true, reader, &err);
    if (rc == BASE_OK)
        rc = base_pg_exec(reader,
                          external
                              ? "SELECT DISTINCT external_id FROM identity.scim_users WHERE external_id "
                                "IS NOT NULL ORDER BY 1 LIMIT 1000"
                              : "SELECT DISTINCT user_name FROM identity.scim_users ORDER BY 1 LIMIT 1000",
                          NULL, 0, &rows, &err);
    for (unsigned i = 0; rc == BASE_OK && i < base_pg_n_rows(rows) + N_NAMES; i++) {
        char name[16];
        const char *key = name;

        snprintf(name, sizeof(name), "%c%u", external ? 'x' : 'p', i);
        if (i >= N_NAMES) /* who is there now; before them, who may have been */
            key = base_pg_text(rows, i - N_NAMES, 0);
        base_buf_printf(&expected, "%s ", key);
        describe(&expected, fresh, key);
        base_buf_append_char(&expected, '\n');
        base_buf_printf(&actual, "%s ", key);
        describe(&actual, pieces, key);
        base_buf_append_char(&actual, '\n');
    }
    gw_directory_free(fresh);
    CHECK_RC(rc, BASE_OK, &err);
    CHECK_STR(actual.data, expected.data);
}

/* What the change was, read in pieces. */
static void step(void)
{
    CHECK_INT(refresh(), 0);
    compare_with_whole(directory, false);
    compare_with_whole(by_external, true);
}

/* An empty directory, and everybody knows. */
static void begin(void)
{
    base_pg_disconnect(writer); /* of a case that failed inside a transaction */
    as_superuser("DELETE FROM identity.scim_members; DELETE FROM identity.scim_groups; "
                 "DELETE FROM identity.scim_users");
    refresh();
}

/* ---- single changes ---- */

static void test_refresh__a_persons_life(void)
{
    struct id ada, eve;

    begin();
    CHECK_STR(seen("ada"), "unknown");
    ada = new_user("Ada", "X-ada");
    step();
    CHECK_STR(seen("aDA"), "active");
    CHECK_STR(seen_in(by_external, "x-ADA"), "active");
    set_user(ada, "Ada", "X-ada", false);
    step();
    CHECK_STR(seen("ada"), "deactivated");
    set_user(ada, "Ada", "X-ada", true);
    step();
    CHECK_STR(seen("ada"), "active");
    set_user(ada, "Augusta", "X-ada", true);
    step();
    CHECK_STR(seen("ada"), "unknown");
    CHECK_STR(seen("augusta"), "active");
    set_user(ada, "Augusta", "Y-ada", true);
    step();
    CHECK_STR(seen_in(by_external, "x-ada"), "unknown");
    CHECK_STR(seen_in(by_external, "y-ada"), "active");
    set_user(ada, "Augusta", NULL, true);
    step();
    CHECK_STR(seen_in(by_external, "y-ada"), "unknown");
    eve = new_user("Ada", "Y-ada"); /* somebody else under the names that are free */
    step();
    CHECK_STR(seen("ada"), "active");
    delete_user(eve);
    step();
    CHECK_STR(seen("ada"), "deactivated");
    CHECK_STR(seen("augusta"), "active");
}

static void test_refresh__a_person_comes_back_under_the_same_name(void)
{
    struct id ids[3];

    begin();
    for (size_t i = 0; i < BASE_ARRAY_LEN(ids); i++) {
        ids[i] = new_user("ada", "x-ada");
        step();
        CHECK_STR(seen("ada"), "active");
        CHECK_STR(seen_in(by_external, "x-ada"), "active");
        delete_user(ids[i]);
        step();
        CHECK_STR(seen("ada"), "deactivated");
        CHECK_STR(seen_in(by_external, "x-ada"), "deactivated");
    }
    as_superuser("DELETE FROM identity.scim_users WHERE id = '%s'",
                 ids[1].text); /* the row itself, by hand */
    step();
    CHECK_STR(seen("ada"), "deactivated");
    as_superuser("DELETE FROM identity.scim_users");
    step();
    CHECK_STR(seen("ada"), "unknown");
}

static void test_refresh__groups_and_members(void)
{
    struct id ada, bob, red, blue;

    begin();
    ada = new_user("ada", NULL);
    bob = new_user("bob", NULL);
    red = new_group("red", "g-red");
    step();
    CHECK_STR(seen("ada"), "active");
    change_members(red, GW_SCIM_ADD, ada);
    step();
    CHECK_STR(seen("ada"), "active: g-red red");
    CHECK_STR(seen("bob"), "active");
    blue = new_group("blue", NULL);
    change_members(blue, GW_SCIM_ADD, ada);
    change_members(blue, GW_SCIM_ADD, bob);
    step(); /* a new group and its members at once */
    CHECK_STR(seen("ada"), "active: blue g-red red");
    CHECK_STR(seen("bob"), "active: blue");
    CHECK_INT(try_group(&red, "crimson", NULL, 0, NULL), BASE_OK);
    step();
    CHECK_STR(seen("ada"), "active: blue crimson");
    change_members(blue, GW_SCIM_REMOVE, ada);
    step();
    CHECK_STR(seen("ada"), "active: crimson");
    CHECK_STR(seen("bob"), "active: blue");
    change_members(blue, GW_SCIM_REPLACE, ada);
    step();
    CHECK_STR(seen("ada"), "active: blue crimson");
    CHECK_STR(seen("bob"), "active");
    set_user(ada, "ada", NULL, false);
    step();
    CHECK_STR(seen("ada"), "deactivated");
    set_user(ada, "ada", NULL, true);
    step();
    CHECK_STR(seen("ada"), "active: blue crimson");
    delete_group(blue);
    step();
    CHECK_STR(seen("ada"), "active: crimson");
    blue = new_group("blue", NULL); /* another one of the same name */
    step();
    CHECK_STR(seen("ada"), "active: crimson");
    delete_user(ada);
    step();
    CHECK_STR(seen("ada"), "deactivated");
}

/* Its memberships are not in the list of changes, so that a group of everybody is two rows; they must be gone all the same. */
static void test_refresh__a_deleted_group_takes_its_members_along(void)
{
    struct id ada, red;
    int64_t before;

    begin();
    ada = new_user("ada", NULL);
    red = new_group("red", NULL);
    SQL("INSERT INTO identity.scim_users (user_name, active, doc) SELECT 'u' || i, true, '{}' FROM "
        "generate_series(1, 300) i");
    SQL("INSERT INTO identity.scim_members SELECT '%s', id FROM identity.scim_users", red.text);
    step();
    CHECK_STR(seen("ada"), "active: red");
    CHECK_STR(seen("u300"), "active: red");
    before = number("SELECT count(*) FROM identity.scim_changes");
    delete_group(red);
    CHECK_INT(number("SELECT count(*) FROM identity.scim_changes") - before, 2);
    step();
    CHECK_STR(seen("ada"), "active");
    as_superuser("INSERT INTO identity.scim_groups (id, display_name) VALUES ('%s', 'red')", red.text);
    step();
    CHECK_STR(seen("ada"), "active"); /* the same id, by hand: not the same members */
    change_members(red, GW_SCIM_ADD, ada);
    step();
    CHECK_STR(seen("ada"), "active: red");
    CHECK_STR(seen("u300"), "active");
    as_superuser("BEGIN; DELETE FROM identity.scim_groups; "
                 "INSERT INTO identity.scim_groups (id, display_name) VALUES ('%s', 'red'); COMMIT",
                 red.text);
    step(); /* between two looks */
    CHECK_STR(seen("ada"), "active");
}

static void test_refresh__ids_changed_by_hand(void)
{
    struct id ada, red;

    begin();
    ada = new_user("ada", NULL);
    red = new_group("red", NULL);
    step();
    as_superuser("UPDATE identity.scim_users SET id = gen_random_uuid() WHERE id = '%s'", ada.text);
    as_superuser("UPDATE identity.scim_groups SET id = gen_random_uuid() WHERE id = '%s'", red.text);
    step();
    SQL("INSERT INTO identity.scim_members SELECT g.id, u.id FROM identity.scim_groups g, "
        "identity.scim_users u");
    ada = new_user("bob", NULL);
    step();
    CHECK_STR(seen("ada"), "active: red");
    as_superuser("UPDATE identity.scim_members SET user_id = '%s'", ada.text);
    step();
    CHECK_STR(seen("ada"), "active");
    CHECK_STR(seen("bob"), "active: red");
}

/* ---- when pieces do not do ---- */

static void test_refresh__reads_everything_when_the_list_was_trimmed(void)
{
    begin();
    new_user("ada", NULL);
    as_superuser("UPDATE identity.scim_changes SET at = now() - interval '2 hours'");
    SQL("SELECT identity.clean_up()");
    CHECK_INT(number("SELECT count(*) FROM identity.scim_changes"), 0);
    CHECK_INT(refresh(), 1);
    CHECK_STR(seen("ada"), "active");
    new_user("bob", NULL);
    step(); /* from there on in pieces again */
    as_superuser("UPDATE identity.scim_changes SET at = now() - interval '2 hours'");
    new_user("eve", NULL);
    SQL("SELECT identity.clean_up()");
    CHECK_INT(number("SELECT count(*) FROM identity.scim_changes"), 1);
    step(); /* what was trimmed had been read */
    CHECK_STR(seen("eve"), "active");
}

static void test_refresh__reads_everything_after_truncate(void)
{
    struct id ada, red;

    begin();
    ada = new_user("ada", NULL);
    red = new_group("red", NULL);
    change_members(red, GW_SCIM_ADD, ada);
    step();
    as_superuser("TRUNCATE identity.scim_members");
    CHECK_INT(refresh(), 1);
    CHECK_STR(seen("ada"), "active");
    as_superuser("TRUNCATE identity.scim_groups CASCADE");
    CHECK_INT(refresh(), 1);
    as_superuser("TRUNCATE identity.scim_users CASCADE");
    CHECK_INT(refresh(), 1);
    CHECK_STR(seen("ada"), "unknown");
    new_user("ada", NULL);
    step();
}

/* How often everything is read when the connection is another one. */
static uint64_t refresh_elsewhere(void)
{
    uint64_t before = gw_directory_whole_reads(directory);
    struct base_err err;

    CHECK_RC(gw_directory_refresh(directory, true, reader, &err), BASE_OK, &err);
    return gw_directory_whole_reads(directory) - before;
}

static void test_refresh__reads_everything_from_another_database(void)
{
    begin();
    new_user("ada", NULL);
    step();
    as_superuser(
        "UPDATE identity.versions SET version = version - 1 WHERE name = 'scim'"); /* a restored one */
    CHECK_INT(refresh(), 1);
    CHECK_INT(refresh_elsewhere(), 0); /* the same number of the same time: the same database */
    as_superuser("UPDATE identity.versions SET at = at + interval '1 us' WHERE name = 'scim'");
    CHECK_INT(refresh_elsewhere(), 1);
    new_user("bob", NULL);
    CHECK_INT(refresh_elsewhere(), 1); /* what lies between cannot be told */
    CHECK_STR(seen("bob"), "active");
}

/* More than one statement reads at once, and more than the list is asked for. */
static void test_refresh__many(void)
{
    struct id red;

    begin();
    new_user("ada", NULL);
    red = new_group("red", NULL);
    step();
    SQL("INSERT INTO identity.scim_users (user_name, active, doc) SELECT 'm' || i, i %% 2 = 0, '{}' FROM "
        "generate_series(1, 12000) i");
    SQL("INSERT INTO identity.scim_members SELECT '%s', id FROM identity.scim_users", red.text);
    CHECK_INT(refresh(), 0); /* two pages of the changed */
    CHECK_STR(seen("ada"), "active: red");
    CHECK_STR(seen("m1"), "deactivated");
    for (unsigned i = 2; i <= 12000; i += 2) {
        char name[16];

        snprintf(name, sizeof(name), "m%u", i);
        CHECK_STR(seen(name), "active: red");
    }
    SQL("UPDATE identity.scim_users SET active = NOT active WHERE user_name LIKE 'm%%'");
    SQL("INSERT INTO identity.scim_users (user_name, active, doc) SELECT 'n' || i, i %% 2 = 0, '{}' FROM "
        "generate_series(1, 8001) i");
    CHECK_INT(refresh(), 1); /* 20,001 of them: all, in three pages */
    CHECK_STR(seen("ada"), "active: red");
    CHECK_STR(seen("m1"), "active: red");
    CHECK_STR(seen("n8001"), "deactivated");
    compare_with_whole(directory, false);
    as_superuser("DELETE FROM identity.scim_members");
    as_superuser("DELETE FROM identity.scim_users WHERE user_name LIKE 'm%%'");
    CHECK_INT(refresh(), 0);
    CHECK_STR(seen("m1"), "unknown");
    CHECK_STR(seen("ada"), "active");
    CHECK_STR(seen("n8000"), "active");
}

static void test_refresh__a_failure_leaves_what_was(void)
{
    struct base_err err;
    struct id ada;
    enum base_code rc;

    begin();
    ada = new_user("ada", NULL);
    step();
    set_user(ada, "ada", NULL, false);
    as_superuser("REVOKE SELECT ON identity.scim_members FROM gatehouse_store");
    rc = gw_directory_refresh(directory, false, reader, &err);
    as_superuser("GRANT SELECT ON identity.scim_members TO gatehouse_store");
    CHECK_RC(rc, BASE_DENIED, &err);
    CHECK(!base_pg_connected(reader));
    CHECK_STR(seen("ada"), "active");
    step();
    CHECK_STR(seen("ada"), "deactivated");
}

static void test_refresh__nothing_changed(void)
{
    struct id red;

    begin();
    red = new_group("red", NULL);
    step();
    SQL("DELETE FROM identity.scim_members WHERE group_id = '%s'",
        red.text); /* nobody: a version with no rows */
    step();
    step();
}

/* ---- at the same time ---- */

struct late {
    struct base_pg *pg;
    struct id id;
    atomic_int rc; /* -1: still waiting */
};

static void *deactivate_late(void *user)
{
    struct late *late = user;

    atomic_store(&late->rc, try_sql(late->pg, "UPDATE identity.scim_users SET active = false WHERE id = '%s'",
                                    late->id.text));
    return NULL;
}

static bool waits_or_is_done(struct late *late)
{
    uint64_t began = base_mono_ms();

    while (base_mono_ms() - began < 20000) {
        if (atomic_load(&late->rc) >= 0 ||
            number("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") > 0)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return false;
}

/* The first is given the smaller number and commits last, if it can be. Whatever is read between: none may be missed. */
static void test_refresh__two_transactions_that_would_commit_out_of_order(void)
{
    auto_pg struct base_pg *second = base_pg_new(pgp_dsn(server, "gatehouse_store"), 30000);
    struct late late = {.pg = second};
    struct id ada, bob;
    pthread_t thread;
    bool waited;

    begin();
    ada = new_user("ada", NULL);
    bob = new_user("bob", NULL);
    step();
    late.id = bob;
    atomic_init(&late.rc, -1);
    SQL("BEGIN");
    SQL("UPDATE identity.scim_users SET active = false WHERE id = '%s'", ada.text);
    CHECK_INT(pthread_create(&thread, NULL, deactivate_late, &late), 0);
    waited = waits_or_is_done(&late);
    refresh(); /* whoever is done already is read here */
    try_sql(writer, "COMMIT");
    pthread_join(thread, NULL);
    CHECK(waited);
    CHECK_INT(atomic_load(&late.rc), BASE_OK);
    step();
    CHECK_STR(seen("ada"), "deactivated");
    CHECK_STR(seen("bob"), "deactivated");
}

/* It began first, has the smaller transaction number and looked before the other; it changes and commits afterwards. */
static void test_refresh__a_transaction_that_began_before_and_commits_after(void)
{
    auto_pg struct base_pg *second = base_pg_new(pgp_dsn(server, "gatehouse_store"), 30000);
    struct id ada, bob;

    begin();
    ada = new_user("ada", NULL);
    bob = new_user("bob", NULL);
    step();
    SQL("BEGIN");
    SQL("SELECT pg_current_xact_id()");
    SQL("SELECT 1 FROM identity.scim_users WHERE id = '%s' FOR UPDATE", ada.text);
    CHECK_INT(try_sql(second, "UPDATE identity.scim_users SET active = false WHERE id = '%s'", bob.text),
              BASE_OK);
    step();
    CHECK_STR(seen("ada"), "active");
    CHECK_STR(seen("bob"), "deactivated");
    SQL("UPDATE identity.scim_users SET active = false WHERE id = '%s'", ada.text);
    step(); /* not yet */
    CHECK_STR(seen("ada"), "active");
    SQL("COMMIT");
    step();
    CHECK_STR(seen("ada"), "deactivated");
}

static void test_refresh__what_was_rolled_back_is_not_seen(void)
{
    struct id ada;

    begin();
    ada = new_user("ada", NULL);
    step();
    SQL("BEGIN");
    set_user(ada, "ada", NULL, false);
    SQL("ROLLBACK");
    step();
    CHECK_STR(seen("ada"), "active");
    set_user(ada, "eve", NULL, true); /* with the number that was given back */
    step();
    CHECK_STR(seen("ada"), "unknown");
}

/* A reader goes on with the snapshot that it has, whatever comes after it, and that is freed last. */
struct slow_reader {
    struct id ada, red, blue;
    unsigned n;
    char names[256];
};

static void read_slowly(const char *group, void *user)
{
    struct slow_reader *r = user;

    snprintf(r->names + strlen(r->names), sizeof(r->names) - strlen(r->names), "%s ", group);
    if (r->n++ > 0)
        return;
    delete_group(r->blue);
    refresh();
    CHECK_INT(try_group(&r->red, "crimson", NULL, 0, NULL), BASE_OK);
    refresh();
    set_user(r->ada, "ada", NULL, false);
    refresh();
    as_superuser("TRUNCATE identity.scim_users, identity.scim_groups, identity.scim_members");
    CHECK_INT(refresh(), 1);
    new_user("ada", NULL);
    refresh();
}

static void test_find__while_the_snapshot_is_replaced(void)
{
    struct slow_reader r = {.n = 0};

    begin();
    r.ada = new_user("ada", NULL);
    r.red = new_group("red", NULL);
    r.blue = new_group("blue", NULL);
    change_members(r.red, GW_SCIM_ADD, r.ada);
    change_members(r.blue, GW_SCIM_ADD, r.ada);
    step();
    CHECK_INT(gw_directory_find(directory, "ada", read_slowly, &r), GW_PERSON_ACTIVE);
    CHECK_INT(r.n, 2);
    CHECK(strstr(r.names, "red ") != NULL && strstr(r.names, "blue ") != NULL);
    step();
    CHECK_STR(seen("ada"), "active");
}

static atomic_bool stop;

static void count(const char *group, void *user)
{
    *(size_t *)user += strlen(group);
}

static void *read_all_the_time(void *user)
{
    uint64_t *found = user;
    size_t bytes = 0;

    for (unsigned i = 0; !atomic_load(&stop); i++) {
        char name[16];

        snprintf(name, sizeof(name), "p%u", i % N_NAMES);
        *found += gw_directory_find(directory, name, count, &bytes) == GW_PERSON_ACTIVE;
    }
    return NULL;
}

/* ---- any changes ---- */

static uint32_t random_state;

static uint32_t below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

struct world {
    struct id users[N_NAMES], groups[N_GROUPS]; /* "": none */
};

static void random_user(struct world *w)
{
    struct id *id = &w->users[below(N_NAMES)];
    char name[16], external_id[16];
    struct id was = *id;

    snprintf(name, sizeof(name), "%c%u", below(2) ? 'p' : 'P', below(N_NAMES));
    snprintf(external_id, sizeof(external_id), "%c%u", below(2) ? 'x' : 'X', below(N_NAMES));
    if (id->text[0] != '\0' && below(5) == 0) {
        delete_user(*id);
        *id = (struct id){""};
        return;
    }
    SQL("SAVEPOINT names");
    if (try_user(id, name, below(3) == 0 ? NULL : external_id, below(4) != 0) != BASE_OK) { /* taken */
        *id = was;
        SQL("ROLLBACK TO names");
    }
}

static void random_group(struct world *w)
{
    struct id *id = &w->groups[below(N_GROUPS)], was = *id;
    const struct id *member = &w->users[below(N_NAMES)];
    static const enum gw_scim_step_kind kinds[] = {GW_SCIM_ADD, GW_SCIM_ADD, GW_SCIM_REMOVE, GW_SCIM_REPLACE};
    enum gw_scim_step_kind step_kind = kinds[below(4)];
    char name[16], external_id[16];
    bool rename = id->text[0] == '\0' || below(6) == 0;

    snprintf(name, sizeof(name), "g%u", below(N_GROUPS + 2));
    snprintf(external_id, sizeof(external_id), "h%u", below(3));
    if (id->text[0] != '\0' && below(8) == 0) {
        delete_group(*id);
        *id = (struct id){""};
        return;
    }
    SQL("SAVEPOINT names");
    if (try_group(id, rename ? name : NULL, below(2) ? external_id : NULL, step_kind,
                  member->text[0] != '\0' ? member->text : NULL) != BASE_OK) {
        *id = was;
        SQL("ROLLBACK TO names");
    }
}

static void random_transaction(struct world *w)
{
    struct world was = *w;

    SQL("BEGIN");
    for (unsigned n = 1 + below(4); n > 0; n--) {
        if (below(5) < 2)
            random_user(w);
        else
            random_group(w);
    }
    if (below(8) == 0) {
        *w = was;
        SQL("ROLLBACK");
    } else
        SQL("COMMIT");
}

static void random_walk(uint32_t seed, unsigned steps)
{
    struct world w = {0};

    random_state = seed;
    begin();
    for (unsigned i = 0; i < steps; i++) {
        for (unsigned n = 1 + below(3); n > 0; n--)
            random_transaction(&w);
        step();
    }
}

static void test_refresh__any_changes_in_pieces_are_the_whole(void)
{
    static uint64_t found; /* a case that fails leaves the thread behind */
    pthread_t thread;

    atomic_store(&stop, false);
    CHECK_INT(pthread_create(&thread, NULL, read_all_the_time, &found), 0);
    for (uint32_t seed = 1; seed <= 3; seed++)
        random_walk(seed, 60);
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    CHECK(found > 0);
}

static void test_roles__the_store_cannot_change_the_list(void)
{
    begin();
    CHECK_INT(try_sql(writer, "SELECT 1 FROM identity.scim_changes"), BASE_OK);
    CHECK_INT(try_sql(writer, "DELETE FROM identity.scim_changes"), BASE_DENIED);
    CHECK_INT(try_sql(writer, "INSERT INTO identity.scim_changes VALUES (1, 1, gen_random_uuid())"),
              BASE_DENIED);
    CHECK_INT(try_sql(writer, "UPDATE identity.versions SET version = 0"), BASE_DENIED);
    CHECK_INT(try_sql(writer, "SELECT identity.scim_next()"), BASE_DENIED);
}

static const struct tap_case cases[] = {
    CASE(test_refresh__a_persons_life),
    CASE(test_refresh__a_person_comes_back_under_the_same_name),
    CASE(test_refresh__groups_and_members),
    CASE(test_refresh__a_deleted_group_takes_its_members_along),
    CASE(test_refresh__ids_changed_by_hand),
    CASE(test_refresh__reads_everything_when_the_list_was_trimmed),
    CASE(test_refresh__reads_everything_after_truncate),
    CASE(test_refresh__reads_everything_from_another_database),
    CASE(test_refresh__many),
    CASE(test_refresh__a_failure_leaves_what_was),
    CASE(test_refresh__nothing_changed),
    CASE(test_refresh__two_transactions_that_would_commit_out_of_order),
    CASE(test_refresh__a_transaction_that_began_before_and_commits_after),
    CASE(test_refresh__what_was_rolled_back_is_not_seen),
    CASE(test_find__while_the_snapshot_is_replaced),
    CASE(test_refresh__any_changes_in_pieces_are_the_whole),
    CASE(test_roles__the_store_cannot_change_the_list),
};

int main(int argc, char **argv)
{
    const char *root = getenv("GH_SOURCE_ROOT");
    struct base_err err = {0};
    char path[1024];
    int rc;

    server = pgp_new();
    if (server == NULL) {
        printf("Bail out! no Postgres\n");
        return 1;
    }
    snprintf(path, sizeof(path), "%s/deploy/postgres-roles.sql", root != NULL ? root : ".");
    pgp_sql_file(server, path);
    snprintf(path, sizeof(path), "%s/migrations", root != NULL ? root : ".");
    if (aud_migrate(pgp_dsn(server, "gatehouse_migrator"), path, NULL, &err) != BASE_OK) {
        printf("Bail out! migrations: %s\n", err.detail);
        return 1;
    }
    writer = base_pg_new(pgp_dsn(server, "gatehouse_store"), 30000);
    reader = base_pg_new(pgp_dsn(server, "gatehouse_store"), 30000);
    directory = gw_directory_new();
    by_external = gw_directory_new();
    gw_directory_use_external_id(by_external, true);
    rc = tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
    gw_directory_free(directory);
    gw_directory_free(by_external);
    base_pg_free(writer);
    base_pg_free(reader);
    pgp_free(server);
    return rc;
}
