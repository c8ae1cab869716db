/* A private Postgres for a test: its own cluster in a temporary folder, reached by a Unix socket alone.
 *
 * Who:  tests; one thread. Run as root, the server runs as user `postgres` (it refuses root); otherwise as
 *       who we are.
 * Promises: the server dies with the test (parent-death signal), pgp_free stops it and removes the folder.
 */
#ifndef TESTS_PG_PRIVATE_H
#define TESTS_PG_PRIVATE_H

#include <stdbool.h>

struct pgp;

/* initdb and start; NULL when no Postgres programs are to be found or they fail (a line says why on stderr).
 */
struct pgp *pgp_new(void);
void pgp_free(struct pgp *pgp); /* NULL is allowed */

/* Like `pg_ctl stop -m immediate` (no checkpoint: recovery at the next start) or `-m fast`. Waits for its
 * end. */
void pgp_stop(struct pgp *pgp, bool immediate);
/* SIGKILL to the postmaster; its backends notice and end by themselves. */
void pgp_kill9(struct pgp *pgp);
/* Starts a stopped server and waits until it answers. */
bool pgp_start(struct pgp *pgp);

/* A connection string of a user on the database "postgres". The text lives until the eighth next call. */
const char *pgp_dsn(struct pgp *pgp, const char *user);
/* Runs a file of SQL, or a text, as superuser; ends the process with a message when it fails (set-up of a
 * test). */
void pgp_sql_file(struct pgp *pgp, const char *path);
void pgp_sql(struct pgp *pgp, const char *sql);

#endif
