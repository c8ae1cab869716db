/* Migrations: applies the numbered SQL files of a folder, each once and forever. See audit.h.
 *
 * Invariants:
 *   1. public.gatehouse_migrations lists what was applied, with the SHA-256 of the file as it was then;
 *   2. a file that was applied never changes and never goes away; a new one has a higher number than all
 *      applied ones;
 *   3. one process migrates at a time (a session advisory lock), each file in its own transaction with
 *      its row of the list.
 */
#include "audit/audit.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/crypto.h"
#include "base/mem.h"
#include "base/pg.h"
#include "base/str.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FILES_MAX    1000u
#define FILE_MAX     (1u << 20)
#define NAME_LEN_MAX 100u
#define STATEMENT_MS 600000u
#define LOCK_WAIT_MS 60000u
#define LOCK_KEY     "7310868735422653"

struct migration {
    unsigned version;
    char *name; /* "0001_audit.sql" */
    char *sql;
    char sha256[2 * BASE_SHA256_BYTES + 1];
    bool applied;
};

struct migrations {
    struct migration *all; /* sorted by version */
    unsigned n;
};

static void migrations_free(struct migrations *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        free(m->all[i].name);
        free(m->all[i].sql);
    }
    free(m->all);
}

/* NNNN_name.sql with [a-z0-9_] in the name; 0 when it is another kind of file. */
static unsigned version_of(const char *name)
{
    size_t len = strlen(name);
    uint64_t version = 0;

    if (len < 10 || len > NAME_LEN_MAX || name[4] != '_' || strcmp(name + len - 4, ".sql") != 0 ||
        base_parse_u64(name, 4, 9999, &version) != BASE_OK)
        return 0;
    if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != len - 4)
        return 0;
    return (unsigned)version;
}

static enum base_code read_file(const char *dir, const char *name, struct migration *ret_m,
                                struct base_err *err)
{
    auto_free char *path = base_alloc(strlen(dir) + strlen(name) + 2);
    auto_free char *text = base_alloc(FILE_MAX + 1);
    unsigned char digest[BASE_SHA256_BYTES];
    FILE *f;
    size_t n;

    sprintf(path, "%s/%s", dir, name);
    f = fopen(path, "rbe");
    if (f == NULL)
        return base_fail(err, BASE_IO, errno, "migration %s", name);
    n = fread(text, 1, FILE_MAX + 1, f);
    fclose(f);
    if (n == 0 || n > FILE_MAX || memchr(text, 0, n) != NULL)
        return base_fail(err, BASE_INVALID, 0, "migration %s is empty, larger than %u bytes or no text", name,
                         FILE_MAX);
    base_sha256(text, n, digest);
    base_hex_encode(digest, sizeof(digest), ret_m->sha256);
    ret_m->sql = base_memdup0(text, n);
    ret_m->name = base_strdup(name);
    ret_m->version = version_of(name);
    return BASE_OK;
}

static int by_version(const void *a, const void *b)
{
    unsigned x = ((const struct migration *)a)->version, y = ((const struct migration *)b)->version;

    return x < y ? -1 : x > y;
}

static enum base_code read_dir(struct migrations *m, const char *path, struct base_err *err)
{
    DIR *dir = opendir(path);
    enum base_code rc = BASE_OK;
    const struct dirent *entry;

    if (dir == NULL)
        return base_fail(err, BASE_IO, errno, "migrations folder %s", path);
    m->all = base_zalloc(FILES_MAX * sizeof(*m->all));
    while (rc == BASE_OK && (entry = readdir(dir)) != NULL) {
        if (version_of(entry->d_name) == 0)
            continue;
        if (m->n == FILES_MAX)
            rc = base_fail(err, BASE_TOO_LARGE, 0, "more than %u migrations in %s", FILES_MAX, path);
        else if ((rc = read_file(path, entry->d_name, &m->all[m->n], err)) == BASE_OK)
            m->n++;
    }
    closedir(dir);
    if (rc != BASE_OK)
        return rc;
    if (m->n == 0)
        return base_fail(err, BASE_NOT_FOUND, 0, "no migration (NNNN_name.sql) in %s", path);
    qsort(m->all, m->n, sizeof(*m->all), by_version);
    for (unsigned i = 1; i < m->n; i++)
        if (m->all[i].version == m->all[i - 1].version)
            return base_fail(err, BASE_INVALID, 0, "migrations %s and %s have the same number",
                             m->all[i - 1].name, m->all[i].name);
    return BASE_OK;
}

static enum base_code take_lock(struct base_pg *pg, struct base_err *err)
{
    uint64_t deadline = base_mono_ms() + LOCK_WAIT_MS;

    for (;;) {
        auto_pg_rows struct base_pg_rows *rows = NULL;
        enum base_code rc =
            base_pg_exec(pg, "SELECT pg_try_advisory_lock(" LOCK_KEY ")::int", NULL, 0, &rows, err);

        if (rc != BASE_OK)
            return rc;
        if (base_pg_int(rows, 0, 0) == 1)
            return BASE_OK;
        if (base_mono_ms() >= deadline)
            return base_fail(err, BASE_TIMEOUT, 0, "another process has been migrating for %u s",
                             LOCK_WAIT_MS / 1000);
        usleep(100000);
    }
}

static struct migration *find(const struct migrations *m, int64_t version)
{
    for (unsigned i = 0; i < m->n; i++)
        if ((int64_t)m->all[i].version == version)
            return &m->all[i];
    return NULL;
}

/* Compares the list in the database with the files and marks those that were applied. */
static enum base_code check_applied(struct base_pg *pg, struct migrations *m, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    enum base_code rc =
        base_pg_exec(pg, "SELECT version, name, sha256 FROM public.gatehouse_migrations ORDER BY version",
                     NULL, 0, &rows, err);
    unsigned n_applied = 0;

    if (rc != BASE_OK)
        return rc;
    for (unsigned i = 0; i < base_pg_n_rows(rows); i++) {
        int64_t version = base_pg_int(rows, i, 0);
        const char *name = base_pg_text(rows, i, 1), *sha = base_pg_text(rows, i, 2);
        struct migration *file = find(m, version);

        if (file == NULL && version > (int64_t)m->all[m->n - 1].version)
            return base_fail(err, BASE_DENIED, 0,
                             "the database has migration %s: this binary is older than the database", name);
        if (file == NULL)
            return base_fail(err, BASE_DENIED, 0, "migration %s was applied and its file is missing", name);
        if (strcmp(file->sha256, sha) != 0)
            return base_fail(err, BASE_DENIED, 0, "migration %s was changed after it was applied",
                             file->name);
        file->applied = true;
        n_applied++;
    }
    for (unsigned i = 0; i < n_applied; i++) /* the applied ones must be the first ones */
        if (!m->all[i].applied)
            return base_fail(err, BASE_DENIED, 0,
                             "migration %s is new and has a lower number than one that was applied",
                             m->all[i].name);
    return BASE_OK;
}

static enum base_code transaction_id(struct base_pg *pg, int64_t *ret_id, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    enum base_code rc = base_pg_exec(pg, "SELECT pg_current_xact_id()", NULL, 0, &rows, err);

    if (rc == BASE_OK)
        *ret_id = base_pg_int(rows, 0, 0);
    return rc;
}

static enum base_code apply_inside(struct base_pg *pg, const struct migration *m, struct base_err *err)
{
    char version[16];
    struct base_pg_param row[] = {PG_TEXT(version), PG_TEXT(m->name), PG_TEXT(m->sha256)};
    int64_t before = 0, after = 0;
    enum base_code rc = transaction_id(pg, &before, err);

    snprintf(version, sizeof(version), "%u", m->version);
    if (rc == BASE_OK)
        rc = base_pg_script(pg, m->sql, err);
    if (rc == BASE_OK)
        rc = transaction_id(pg, &after, err);
    if (rc == BASE_OK && before != after)
        return base_fail(err, BASE_INVALID, 0, "it ends its transaction itself, which a migration must not");
    if (rc == BASE_OK)
        rc = base_pg_exec(
            pg, "INSERT INTO public.gatehouse_migrations (version, name, sha256) VALUES ($1::int, $2, $3)",
            row, 3, NULL, err);
    return rc;
}

static enum base_code apply(struct base_pg *pg, const struct migration *m, struct base_err *err)
{
    enum base_code rc = base_pg_exec(pg, "BEGIN", NULL, 0, NULL, err);

    if (rc == BASE_OK)
        rc = apply_inside(pg, m, err);
    if (rc == BASE_OK)
        rc = base_pg_exec(pg, "COMMIT", NULL, 0, NULL, err);
    if (rc == BASE_OK)
        return BASE_OK;
    base_pg_disconnect(pg); /* rolls back, and lets go of the lock */
    return base_fail_prefix(err, rc, "migration %s", m->name);
}

static const char list_sql[] =
    "CREATE TABLE IF NOT EXISTS public.gatehouse_migrations (version int PRIMARY KEY, name text NOT NULL, "
    "sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

enum base_code aud_migrate(const char *migrator_dsn, const char *dir, unsigned *ret_n_applied,
                           struct base_err *err)
{
    auto_pg struct base_pg *pg = base_pg_new(migrator_dsn, STATEMENT_MS);
    struct migrations m = {.n = 0};
    unsigned n_applied = 0;
    enum base_code rc = read_dir(&m, dir, err);

    if (rc == BASE_OK)
        rc = take_lock(pg, err);
    if (rc == BASE_OK)
        rc = base_pg_exec(pg, list_sql, NULL, 0, NULL, err);
    if (rc == BASE_OK)
        rc = check_applied(pg, &m, err);
    for (unsigned i = 0; rc == BASE_OK && i < m.n; i++) {
        if (m.all[i].applied)
            continue;
        rc = apply(pg, &m.all[i], err);
        if (rc == BASE_OK)
            n_applied++;
    }
    migrations_free(&m);
    if (rc == BASE_OK && ret_n_applied != NULL)
        *ret_n_applied = n_applied;
    return rc;
}
