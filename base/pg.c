/* Postgres over libpq's asynchronous calls, made blocking again with a deadline. See pg.h.
 *
 * Why not the blocking calls: PQexec waits for ever on a server that stopped answering, and connect_timeout
 * bounds nothing after the connection stands. Here every wait is a poll() that ends with the call's deadline;
 * a call that runs out of time drops the connection, since what the server made of it is unknown.
 *
 * Invariants:
 *   1. between two calls, pg->conn is NULL, or idle with all results read, or in COPY IN (pg->copying);
 *   2. a connection whose state is in doubt is finished before the call returns;
 *   3. nothing of the connection string or of a parameter is put into an error: libpq's own texts about
 *      connecting name hosts and pieces of a malformed string, and the server's data exceptions (class
 *      22) quote the value.
 *
 * What a deadline does not bound: getaddrinfo inside PQconnectStartParams, which follows the resolver's own
 * time-outs. A connection string with an address, a socket folder, or a local resolver avoids it.
 */
#include "base/pg.h"

#include "base/clock.h"
#include "base/secret.h"
#include "base/str.h"

#include <errno.h>
#include <libpq-fe.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define SQLSTATE_LEN 5u

struct base_pg {
    char *dsn;
    unsigned timeout_ms;
    PGconn *conn;
    bool copying;
};

struct base_pg *base_pg_new(const char *dsn, unsigned timeout_ms)
{
    struct base_pg *pg = base_zalloc(sizeof(*pg));

    pg->dsn = base_strdup(dsn);
    pg->timeout_ms = timeout_ms;
    return pg;
}

void base_pg_disconnect(struct base_pg *pg)
{
    if (pg->conn != NULL)
        PQfinish(pg->conn);
    pg->conn = NULL;
    pg->copying = false;
}

void base_pg_free(struct base_pg *pg)
{
    if (pg == NULL)
        return;
    base_pg_disconnect(pg);
    base_wipe(pg->dsn, strlen(pg->dsn));
    free(pg->dsn);
    free(pg);
}

bool base_pg_connected(const struct base_pg *pg)
{
    return pg->conn != NULL && PQstatus(pg->conn) == CONNECTION_OK;
}

static uint64_t deadline_of(const struct base_pg *pg)
{
    return base_mono_ms() + pg->timeout_ms;
}

/* Waits for events on the connection's socket. BASE_OK: something is ready (or an error is, which the next
 * libpq call will report). */
static enum base_code wait_socket(PGconn *conn, short events, uint64_t deadline)
{
    for (;;) {
        struct pollfd pfd = {.fd = PQsocket(conn), .events = events};
        uint64_t now = base_mono_ms();
        int n;

        if (pfd.fd < 0)
            return BASE_UNAVAILABLE;
        if (now >= deadline)
            return BASE_TIMEOUT;
        n = poll(&pfd, 1, deadline - now > INT_MAX ? INT_MAX : (int)(deadline - now));
        if (n > 0)
            return BASE_OK;
        if (n < 0 && errno != EINTR)
            return BASE_UNAVAILABLE;
    }
}

/* Drops the connection and says so. */
static enum base_code lost(struct base_pg *pg, enum base_code rc, const char *doing, struct base_err *err)
{
    base_pg_disconnect(pg);
    if (rc == BASE_TIMEOUT)
        return base_fail(err, BASE_TIMEOUT, 0, "database did not answer within %u ms (%s)", pg->timeout_ms,
                         doing);
    return base_fail(err, BASE_UNAVAILABLE, 0, "database connection lost (%s)", doing);
}

/* The part of a connection failure that names no piece of the connection string: what the server said, or
 * what the operating system said. */
static const char *connect_reason(const char *message, char *out, size_t out_max)
{
    static const char *const marks[] = {"FATAL:  ", " failed: "};

    for (size_t m = 0; m < BASE_ARRAY_LEN(marks); m++) {
        const char *at = strstr(message, marks[m]), *next;

        if (at == NULL)
            continue;
        for (; (next = strstr(at + 1, marks[m])) != NULL;
             at = next) /* several hosts: the last one's reason */
            ;
        at += strlen(marks[m]);
        snprintf(out, out_max, "%.*s", (int)strcspn(at, "\n"), at);
        return out;
    }
    return "no server could be reached";
}

static void quiet(void *user, const PGresult *result)
{
}

enum base_code base_pg_connect(struct base_pg *pg, struct base_err *err)
{
    /* what stands before dbname may be overridden by the connection string, what stands after it may not */
    const char *const keys[] = {"application_name", "dbname", "client_encoding", NULL};
    const char *const values[] = {"gatehouse", pg->dsn, "UTF8", NULL};
    uint64_t deadline = deadline_of(pg);
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;
    PQconninfoOption *parsed;

    if (base_pg_connected(pg))
        return BASE_OK;
    base_pg_disconnect(pg);
    parsed = PQconninfoParse(pg->dsn, NULL);
    if (parsed == NULL)
        return base_fail(err, BASE_INVALID, 0, "the database connection string cannot be parsed");
    PQconninfoFree(parsed);
    pg->conn = PQconnectStartParams(keys, values, 1);
    if (pg->conn == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for a database connection");
    while (PQstatus(pg->conn) != CONNECTION_BAD && state != PGRES_POLLING_OK &&
           state != PGRES_POLLING_FAILED) {
        enum base_code rc =
            wait_socket(pg->conn, state == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline);

        if (rc != BASE_OK)
            return lost(pg, rc, "connecting", err);
        state = PQconnectPoll(pg->conn);
    }
    if (PQstatus(pg->conn) != CONNECTION_OK) {
        char reason[160];

        base_fail(err, BASE_UNAVAILABLE, 0, "database cannot be reached: %s",
                  connect_reason(PQerrorMessage(pg->conn), reason, sizeof(reason)));
        base_pg_disconnect(pg);
        return BASE_UNAVAILABLE;
    }
    PQsetnonblocking(pg->conn, 1);
    PQsetNoticeReceiver(pg->conn, quiet, NULL);
    return BASE_OK;
}

/* Sends what libpq has queued, reading meanwhile: a server that is itself blocked on sending would never read
 * otherwise. */
static enum base_code flush(PGconn *conn, uint64_t deadline)
{
    for (;;) {
        int left = PQflush(conn);
        enum base_code rc;

        if (left == 0)
            return BASE_OK;
        if (left < 0)
            return BASE_UNAVAILABLE;
        rc = wait_socket(conn, POLLIN | POLLOUT, deadline);
        if (rc != BASE_OK)
            return rc;
        if (PQconsumeInput(conn) == 0)
            return BASE_UNAVAILABLE;
    }
}

/* The next result, or NULL when there is none (the connection is idle). */
static enum base_code next_result(PGconn *conn, uint64_t deadline, PGresult **ret_result)
{
    while (PQisBusy(conn)) {
        enum base_code rc = wait_socket(conn, POLLIN, deadline);

        if (rc != BASE_OK)
            return rc;
        if (PQconsumeInput(conn) == 0)
            return BASE_UNAVAILABLE;
    }
    *ret_result = PQgetResult(conn);
    return BASE_OK;
}

static enum base_code code_of_sqlstate(const char *state)
{
    static const struct {
        const char *prefix;
        enum base_code code;
    } table[] = {
        {"23505", BASE_EXISTS},      /* unique_violation */
        {"42501", BASE_DENIED},      /* insufficient_privilege */
        {"57014", BASE_TIMEOUT},     /* query_canceled: the server's statement_timeout */
        {"08", BASE_UNAVAILABLE},    /* connection exceptions */
        {"53", BASE_UNAVAILABLE},    /* insufficient resources: disk, memory, connections */
        {"57P", BASE_UNAVAILABLE},   /* shutdown, crash recovery, database dropped */
        {"40", BASE_UNAVAILABLE},    /* rolled back for concurrency: a retry may work */
        {"55P03", BASE_UNAVAILABLE}, /* lock_not_available */
        {"25006", BASE_UNAVAILABLE}, /* read-only: a standby after a fail-over */
    };

    for (size_t i = 0; i < BASE_ARRAY_LEN(table); i++)
        if (strncmp(state, table[i].prefix, strlen(table[i].prefix)) == 0)
            return table[i].code;
    return BASE_INVALID;
}

static enum base_code fail_sql(const PGresult *result, struct base_err *err)
{
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

    if (state == NULL || strlen(state) != SQLSTATE_LEN)
        return base_fail(err, BASE_UNAVAILABLE, 0, "database connection failed");
    if (strncmp(state, "22", 2) == 0) /* data exceptions quote the value */
        return base_fail(err, BASE_INVALID, 0, "database refused a value (SQLSTATE %s)", state);
    return base_fail(err, code_of_sqlstate(state), 0, "database: %s (SQLSTATE %s)",
                     message != NULL ? message : "error", state);
}

/* Reads all results of what was sent. The last successful one is handed out; the first error wins. */
static enum base_code collect(struct base_pg *pg, uint64_t deadline, struct base_pg_rows **ret_rows,
                              struct base_err *err)
{
    PGresult *kept = NULL, *result = NULL;
    enum base_code answer = BASE_OK;

    for (;;) {
        enum base_code rc = next_result(pg->conn, deadline, &result);
        ExecStatusType status;

        if (rc != BASE_OK) {
            PQclear(kept);
            return lost(pg, rc, "statement", err);
        }
        if (result == NULL)
            break;
        status = PQresultStatus(result);
        if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH) {
            PQclear(result);
            PQclear(kept);
            base_pg_disconnect(pg); /* a COPY has its own calls; here it would never end */
            return base_fail(err, BASE_INVALID, 0, "COPY is not a statement for base_pg_exec");
        }
        if (answer == BASE_OK && status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK &&
            status != PGRES_EMPTY_QUERY)
            answer = fail_sql(result, err);
        PQclear(kept);
        kept = result;
    }
    if (PQstatus(pg->conn) != CONNECTION_OK) {
        PQclear(kept);
        return lost(pg, BASE_UNAVAILABLE, "statement", err);
    }
    if (answer == BASE_OK && ret_rows != NULL)
        *ret_rows = (struct base_pg_rows *)TAKE(kept);
    PQclear(kept);
    return answer;
}

/* libpq's parallel arrays; `owned` holds the copies that counted texts need, since libpq wants text
 * NUL-terminated. */
struct params {
    const char *values[BASE_PG_PARAMS_MAX];
    int lengths[BASE_PG_PARAMS_MAX], formats[BASE_PG_PARAMS_MAX];
    char *owned[BASE_PG_PARAMS_MAX];
    unsigned n;
};

static void params_free(struct params *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        if (p->owned[i] != NULL)
            base_wipe(p->owned[i], strlen(p->owned[i]));
        free(p->owned[i]);
    }
}

static enum base_code params_fill(struct params *p, const struct base_pg_param *params, unsigned n,
                                  struct base_err *err)
{
    if (n > BASE_PG_PARAMS_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "%u parameters, limit %u", n, BASE_PG_PARAMS_MAX);
    for (unsigned i = 0; i < n; i++) {
        const struct base_pg_param *in = &params[i];

        p->n = i + 1;
        if (in->len > INT_MAX)
            return base_fail(err, BASE_TOO_LARGE, 0, "parameter %u is %zu bytes", i + 1, in->len);
        p->values[i] = in->data;
        p->lengths[i] = (int)in->len;
        p->formats[i] = in->binary;
        if (in->data == NULL || in->binary || in->len == 0)
            continue;
        if (memchr(in->data, 0, in->len) != NULL)
            return base_fail(err, BASE_INVALID, 0, "parameter %u has a NUL byte", i + 1);
        p->values[i] = p->owned[i] = base_memdup0(in->data, in->len);
    }
    return BASE_OK;
}

/* Connected and idle, or why not. */
static enum base_code ready(struct base_pg *pg, struct base_err *err)
{
    if (pg->copying)
        return base_fail(err, BASE_INTERNAL, 0, "a COPY is under way on this database connection");
    return base_pg_connect(pg, err);
}

enum base_code base_pg_exec(struct base_pg *pg, const char *sql, const struct base_pg_param *params,
                            unsigned n_params, struct base_pg_rows **ret_rows, struct base_err *err)
{
    uint64_t deadline = deadline_of(pg);
    struct params p = {.n = 0};
    enum base_code rc = params_fill(&p, params, n_params, err);

    if (rc == BASE_OK)
        rc = ready(pg, err);
    if (rc != BASE_OK) {
        params_free(&p);
        return rc;
    }
    rc = PQsendQueryParams(pg->conn, sql, (int)n_params, NULL, p.values, p.lengths, p.formats, 0) == 1
             ? flush(pg->conn, deadline)
             : BASE_UNAVAILABLE;
    params_free(&p);
    if (rc != BASE_OK)
        return lost(pg, rc, "statement", err);
    return collect(pg, deadline, ret_rows, err);
}

enum base_code base_pg_script(struct base_pg *pg, const char *sql, struct base_err *err)
{
    uint64_t deadline = deadline_of(pg);
    enum base_code rc = ready(pg, err);

    if (rc != BASE_OK)
        return rc;
    rc = PQsendQuery(pg->conn, sql) == 1 ? flush(pg->conn, deadline) : BASE_UNAVAILABLE;
    if (rc != BASE_OK)
        return lost(pg, rc, "script", err);
    rc = collect(pg, deadline, NULL, err);
    if (rc != BASE_OK && pg->conn != NULL && PQtransactionStatus(pg->conn) == PQTRANS_INERROR) {
        struct base_err ignored; /* the script's own error is the one to report */

        base_pg_exec(pg, "ROLLBACK", NULL, 0, NULL, &ignored);
    }
    return rc;
}

enum base_code base_pg_copy_begin(struct base_pg *pg, const char *copy_sql, struct base_err *err)
{
    uint64_t deadline = deadline_of(pg);
    PGresult *result = NULL;
    enum base_code rc = ready(pg, err);
    ExecStatusType status;

    if (rc != BASE_OK)
        return rc;
    rc = PQsendQuery(pg->conn, copy_sql) == 1 ? flush(pg->conn, deadline) : BASE_UNAVAILABLE;
    if (rc == BASE_OK)
        rc = next_result(pg->conn, deadline, &result);
    if (rc != BASE_OK)
        return lost(pg, rc, "COPY", err);
    status = PQresultStatus(result); /* PGRES_FATAL_ERROR for NULL */
    if (status == PGRES_COPY_IN) {
        PQclear(result);
        pg->copying = true;
        return BASE_OK;
    }
    if (status != PGRES_FATAL_ERROR || result == NULL) { /* some other statement, or COPY TO */
        PQclear(result);
        base_pg_disconnect(pg);
        return base_fail(err, BASE_INVALID, 0, "the statement is no COPY FROM STDIN");
    }
    rc = fail_sql(result, err);
    PQclear(result);
    if (collect(pg, deadline, NULL, NULL) != BASE_OK && pg->conn == NULL)
        return base_fail(err, BASE_UNAVAILABLE, 0, "database connection lost (COPY)");
    return rc;
}

enum base_code base_pg_copy_put(struct base_pg *pg, const void *data, size_t n, struct base_err *err)
{
    uint64_t deadline = deadline_of(pg);
    const char *at = data;

    if (!pg->copying)
        return base_fail(err, BASE_UNAVAILABLE, 0, "no COPY is under way on this database connection");
    while (n > 0) {
        size_t part = n < (1u << 20) ? n : 1u << 20;
        int queued = PQputCopyData(pg->conn, at, (int)part); /* 0: no room, flush and try again */
        enum base_code rc = queued < 0 ? BASE_UNAVAILABLE : flush(pg->conn, deadline);

        if (rc != BASE_OK)
            return lost(pg, rc, "COPY", err);
        if (queued == 1) {
            at += part;
            n -= part;
        }
    }
    return BASE_OK;
}

enum base_code base_pg_copy_end(struct base_pg *pg, bool commit, struct base_err *err)
{
    uint64_t deadline = deadline_of(pg);
    enum base_code rc = BASE_OK;
    int queued;

    if (!pg->copying)
        return base_fail(err, BASE_UNAVAILABLE, 0, "no COPY is under way on this database connection");
    while ((queued = PQputCopyEnd(pg->conn, commit ? NULL : "given up by the client")) == 0 && rc == BASE_OK)
        rc = flush(pg->conn, deadline);
    if (rc == BASE_OK)
        rc = queued < 0 ? BASE_UNAVAILABLE : flush(pg->conn, deadline);
    if (rc != BASE_OK)
        return lost(pg, rc, "COPY", err);
    pg->copying = false;
    if (commit)
        return collect(pg, deadline, NULL, err);
    /* the server answers an abandoned COPY with an error, which is what was asked for */
    rc = collect(pg, deadline, NULL, err);
    return pg->conn != NULL ? BASE_OK : rc;
}

enum base_code base_pg_wait_notify(struct base_pg *pg, unsigned timeout_ms, struct base_err *err)
{
    uint64_t deadline = base_mono_ms() + timeout_ms;
    bool got = false;

    /* a new connection would listen to nothing: the caller connects and listens again */
    if (!base_pg_connected(pg) || pg->copying)
        return base_fail(err, BASE_UNAVAILABLE, 0, "this database connection is not listening");
    for (;;) {
        enum base_code rc;

        if (PQconsumeInput(pg->conn) == 0)
            return lost(pg, BASE_UNAVAILABLE, "LISTEN", err);
        for (PGnotify *notify; (notify = PQnotifies(pg->conn)) != NULL; PQfreemem(notify))
            got = true;
        if (got)
            return BASE_OK;
        rc = wait_socket(pg->conn, POLLIN, deadline);
        if (rc == BASE_TIMEOUT)
            return base_fail(err, BASE_TIMEOUT, 0, "no notification within %u ms", timeout_ms);
        if (rc != BASE_OK)
            return lost(pg, rc, "LISTEN", err);
    }
}

void base_pg_rows_free(struct base_pg_rows *rows)
{
    PQclear((PGresult *)rows);
}

unsigned base_pg_n_rows(const struct base_pg_rows *rows)
{
    return rows != NULL ? (unsigned)PQntuples((const PGresult *)rows) : 0;
}

const char *base_pg_text(const struct base_pg_rows *rows, unsigned row, unsigned column)
{
    const PGresult *result = (const PGresult *)rows;

    if (row >= base_pg_n_rows(rows) || column >= (unsigned)PQnfields(result) ||
        PQgetisnull(result, (int)row, (int)column))
        return NULL;
    return PQgetvalue(result, (int)row, (int)column);
}

int64_t base_pg_int(const struct base_pg_rows *rows, unsigned row, unsigned column)
{
    const char *text = base_pg_text(rows, row, column);
    char *end;
    long long value;

    if (text == NULL || text[0] == '\0')
        return 0;
    errno = 0;
    value = strtoll(text, &end, 10);
    return errno == 0 && *end == '\0' ? value : 0;
}

unsigned char *base_pg_bytes(const struct base_pg_rows *rows, unsigned row, unsigned column, size_t *ret_n)
{
    const char *text = base_pg_text(rows, row, column);
    unsigned char *out;
    size_t n;

    if (text == NULL || strncmp(text, "\\x", 2) != 0)
        return NULL;
    n = strlen(text + 2);
    out = base_alloc(n / 2 + 1);
    if (base_hex_decode(text + 2, n, out, n / 2, ret_n) != BASE_OK) {
        free(out);
        return NULL;
    }
    return out;
}
