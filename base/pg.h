/* Postgres: one blocking connection with deadlines. For the audit thread, workers and commands; never on a loop.
 *
 * Who:  one thread at a time per connection.
 * Promises: every call ends by its deadline; a lost connection is BASE_UNAVAILABLE and the next call connects anew;
 *       connection strings and parameters never stand in an error's detail.
 */
#ifndef BASE_PG_H
#define BASE_PG_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define BASE_PG_PARAMS_MAX 32u

struct base_pg;

/* Does not connect yet. timeout_ms bounds connecting and each call. */
struct base_pg *base_pg_new(const char *dsn, unsigned timeout_ms);
void base_pg_free(struct base_pg *pg);                                    /* NULL is allowed */
enum base_code base_pg_connect(struct base_pg *pg, struct base_err *err); /* a no-op when connected */
bool base_pg_connected(const struct base_pg *pg);
void base_pg_disconnect(struct base_pg *pg);

/* A parameter: text (len 0 and binary false: NUL-terminated) or bytea (binary true). data NULL: SQL NULL. */
struct base_pg_param {
    const void *data;
    size_t len;
    bool binary;
};
#define PG_TEXT(s)     ((struct base_pg_param){.data = (s)})
#define PG_BYTES(p, n) ((struct base_pg_param){.data = (p), .len = (n), .binary = true})

/* Rows of a result. Values are text, bytea in Postgres' hex form decoded by base_pg_bytes. */
struct base_pg_rows;
void base_pg_rows_free(struct base_pg_rows *rows); /* NULL is allowed */
unsigned base_pg_n_rows(const struct base_pg_rows *rows);
/* NULL for SQL NULL. Borrowed for the rows' life. */
const char *base_pg_text(const struct base_pg_rows *rows, unsigned row, unsigned column);
int64_t base_pg_int(const struct base_pg_rows *rows, unsigned row,
                    unsigned column); /* 0 for NULL or no number */
/* An owned copy (free()); NULL for SQL NULL or a value that is no bytea. */
unsigned char *base_pg_bytes(const struct base_pg_rows *rows, unsigned row, unsigned column, size_t *ret_n);

/* One statement. ret_rows may be NULL. BASE_UNAVAILABLE, BASE_TIMEOUT, BASE_EXISTS (unique violation), BASE_DENIED (privilege),
 * BASE_INVALID (any other SQL error; detail has SQLSTATE and the server's primary message). */
enum base_code base_pg_exec(struct base_pg *pg, const char *sql, const struct base_pg_param *params,
                            unsigned n_params, struct base_pg_rows **ret_rows, struct base_err *err);
/* Several statements without parameters (migrations); all or nothing when it begins a transaction itself. */
enum base_code base_pg_script(struct base_pg *pg, const char *sql, struct base_err *err);

/* COPY ... FROM STDIN (FORMAT binary or text): start, any number of puts, finish with ok or abort. */
enum base_code base_pg_copy_begin(struct base_pg *pg, const char *copy_sql, struct base_err *err);
enum base_code base_pg_copy_put(struct base_pg *pg, const void *data, size_t n, struct base_err *err);
enum base_code base_pg_copy_end(struct base_pg *pg, bool commit, struct base_err *err);

/* LISTEN connections: waits up to timeout_ms for a notification. BASE_OK got one, BASE_TIMEOUT none. */
enum base_code base_pg_wait_notify(struct base_pg *pg, unsigned timeout_ms, struct base_err *err);

#include "base/mem.h"
BASE_AUTO(struct base_pg_rows *, base_pg_rows_free)
BASE_AUTO(struct base_pg *, base_pg_free)
#define auto_pg_rows __attribute__((cleanup(base_pg_rows_free_cleanup)))
#define auto_pg      __attribute__((cleanup(base_pg_free_cleanup)))

#endif
