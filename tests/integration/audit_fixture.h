/* What the audit tests share: a private Postgres with the roles and migrations, a journal folder, keys, and
 * appends that wait. */
#ifndef TESTS_AUDIT_FIXTURE_H
#define TESTS_AUDIT_FIXTURE_H

#include "pg_private.h"

#include "audit/audit.h"
#include "base/mem.h"
#include "base/pg.h"

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIXTURE_INSTANCE "gate-1"

static struct pgp *fixture_server;

__attribute__((unused)) static const char *fixture_root(void)
{
    const char *root = getenv("GH_SOURCE_ROOT");

    return root != NULL ? root : ".";
}

/* An empty database with everything migrated. */
__attribute__((unused)) static void fixture_reset_database(void)
{
    char path[600];
    struct base_err err;

    snprintf(path, sizeof(path), "%s/deploy/postgres-roles.sql", fixture_root());
    pgp_sql_file(fixture_server, path);
    pgp_sql(fixture_server, "DROP OWNED BY gatehouse_migrator CASCADE");
    pgp_sql_file(fixture_server, path);
    snprintf(path, sizeof(path), "%s/migrations", fixture_root());
    if (aud_migrate(pgp_dsn(fixture_server, "gatehouse_migrator"), path, NULL, &err) != BASE_OK) {
        fprintf(stderr, "migrations: %s\n", err.detail);
        pgp_free(fixture_server);
        exit(99);
    }
}

/* Owned. */
__attribute__((unused)) static char *fixture_journal_dir(void)
{
    char template[] = "/tmp/gh-journal-XXXXXX";

    if (mkdtemp(template) == NULL)
        abort();
    return base_strdup(template);
}

__attribute__((unused)) static int fixture_remove_one(const char *path, const struct stat *st, int kind,
                                                      struct FTW *ftw)
{
    return remove(path);
}

__attribute__((unused)) static void fixture_remove(char *dir)
{
    nftw(dir, fixture_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(dir);
}

static const unsigned char fixture_kek_bytes[32] = "0123456789abcdef0123456789abcdef";

/* with_postgres false: the journal alone. The secrets live for the process. */
__attribute__((unused)) static struct aud_options fixture_options(const char *dir, bool with_postgres)
{
    static struct base_secret *kek, *pseudonym_key;
    struct aud_options options = {.journal_dir = dir, .instance = FIXTURE_INSTANCE, .epoch = 1};

    if (kek == NULL) {
        kek = base_secret_new(fixture_kek_bytes, sizeof(fixture_kek_bytes));
        pseudonym_key = base_secret_new("a pseudonym key of 32 bytes, more", 33);
    }
    options.kek = kek;
    options.pseudonym_key = pseudonym_key;
    if (with_postgres) {
        options.writer_dsn = pgp_dsn(fixture_server, "gatehouse_writer");
        options.mapper_dsn = pgp_dsn(fixture_server, "gatehouse_mapper");
    }
    return options;
}

struct fixture_wait {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    enum base_code rc;
    uint64_t seq;
};

__attribute__((unused)) static void fixture_durable(enum base_code rc, uint64_t seq, void *user)
{
    struct fixture_wait *wait = user;

    pthread_mutex_lock(&wait->lock);
    wait->rc = rc;
    wait->seq = seq;
    wait->done = true;
    pthread_cond_signal(&wait->cond);
    pthread_mutex_unlock(&wait->lock);
}

/* Appends and waits until it is durable or refused. */
__attribute__((unused)) static enum base_code fixture_append(struct aud *aud, const struct aud_record *record,
                                                             uint64_t *ret_seq, struct base_err *err)
{
    struct fixture_wait wait = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, BASE_OK, 0};
    enum base_code rc = aud_append(aud, record, fixture_durable, &wait, err);

    if (rc != BASE_OK)
        return rc;
    pthread_mutex_lock(&wait.lock);
    while (!wait.done)
        pthread_cond_wait(&wait.cond, &wait.lock);
    pthread_mutex_unlock(&wait.lock);
    if (wait.rc != BASE_OK)
        base_fail(err, wait.rc, 0, "the callback said so");
    else if (ret_seq != NULL)
        *ret_seq = wait.seq;
    return wait.rc;
}

/* An intent of a person, with a prompt. */
__attribute__((unused)) static struct aud_record fixture_intent(const char *request_id, const char *subject)
{
    struct aud_record r = {
        .kind = AUD_INTENT,
        .request_id = request_id,
        .issuer = "https://idp.example",
        .subject = subject,
        .auth_method = "session",
        .credential_id = "s-1",
        .tenant = "acme",
        .roles = "staff,dev",
        .api = "chat.completions",
        .peer = "10.0.0.0/24",
        .model_asked = "small",
        .route = "local",
        .route_kind = "engine",
        .policy_hash = "sha256:77",
        .cls = "internal",
        .cls_source = "label",
        .decision = "allow",
        .reasons = {"rule-1", "rule-2"},
        .n_reasons = 2,
        .guard = "card:mask=1",
        .max_tokens = 256,
        .content = "[{\"role\":\"user\",\"content\":\"hello\"}]",
    };

    r.content_len = strlen(r.content);
    return r;
}

__attribute__((unused)) static struct aud_record fixture_outcome(const char *request_id, const char *subject)
{
    struct aud_record r = {
        .kind = AUD_OUTCOME,
        .request_id = request_id,
        .issuer = "https://idp.example",
        .subject = subject,
        .tenant = "acme",
        .route = "local",
        .route_kind = "engine",
        .status = "ok",
        .finish_reason = "stop",
        .attempts = 1,
        .prompt_tokens = 11,
        .completion_tokens = 7,
        .released_bytes = 23,
        .ttft_us = 1500,
        .duration_us = 90000,
        .content = "an answer of the model",
    };

    r.content_len = strlen(r.content);
    return r;
}

__attribute__((unused)) static bool fixture_wait_shipped(struct aud *aud, unsigned timeout_ms)
{
    for (unsigned waited = 0; waited < timeout_ms; waited += 10) {
        struct aud_stats stats;

        aud_get_stats(aud, &stats);
        if (stats.shipped_seq == stats.next_seq && stats.postgres_up)
            return true;
        usleep(10000);
    }
    return false;
}

/* One number from a query as superuser. */
__attribute__((unused)) static int64_t fixture_query(const char *sql)
{
    auto_pg struct base_pg *pg = base_pg_new(pgp_dsn(fixture_server, "postgres"), 10000);
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_err err;

    if (base_pg_exec(pg, sql, NULL, 0, &rows, &err) != BASE_OK) {
        printf("# %s: %s\n", sql, err.detail);
        return -1;
    }
    return base_pg_int(rows, 0, 0);
}

#endif
