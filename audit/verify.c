/* Verifying the record. See verify.h.
 *
 * Per instance, in order of sequence: the number follows the one before; canonical bytes decode and name this
 * place; their hash links to the one before; every column says what the canonical bytes say; content and
 * wrapped key have the digest that the canonical bytes name. The first difference ends the run: after it
 * nothing of that chain proves anything.
 */
#include "audit/verify.h"

#include "audit/journal.h"
#include "audit/record.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/pg.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PAGE_ROWS     500u
#define PAGE_CONTENT  (16u << 20) /* bytes of content fetched at once, but for one larger record */
#define TIMEOUT_MS    60000u
#define JOURNAL_TRIES 5u
#define INSTANCES_MAX 10000u

/* columns of a page, before the texts and numbers */
enum {
    C_SEQ,
    C_KIND,
    C_WALL,
    C_REASONS,
    C_KEY_ID,
    C_NONCE,
    C_CANONICAL,
    C_PREV,
    C_HASH,
    C_CONTENT_LEN,
    C_KEY_FOUND,
    C_KEY_WRAPPED,
    C_KEY_NONCE,
    C_KEY_PSEUDONYM,
    C_KEY_CREATED,
    C_TEXTS
};

struct verify {
    const struct aud_verify_options *options;
    struct base_pg *pg;
    struct aud_verify_result *result;
    const char *instance;
    uint64_t next_seq;
    struct aud_hash prev;
    uint64_t told_ms;
    char page_sql[4096];
};

/* One record of a page with its decoded canonical bytes; `request` and `wall` name it to a reader even when
 * those are bad. */
struct row {
    const struct base_pg_rows *rows;
    unsigned at;
    struct aud_fields fields;
    unsigned char *canonical;
    size_t canonical_len;
};

static void row_free(struct row *row)
{
    free(row->canonical);
}

static void make_page_sql(struct verify *v)
{
    char *at = v->page_sql, *end = at + sizeof(v->page_sql);

    at += snprintf(at, (size_t)(end - at),
                   "SELECT r.seq, r.kind, (extract(epoch FROM r.wall) * 1000000)::bigint, r.reasons, "
                   "r.key_id, r.nonce, r.canonical, "
                   "r.prev_hash, r.hash, octet_length(r.content), k.key_id IS NOT NULL, k.wrapped, k.nonce, "
                   "k.pseudonym, "
                   "(extract(epoch FROM k.created) * 1000000)::bigint");
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        at += snprintf(at, (size_t)(end - at), ", r.\"%s\"", aud_text_names[i]);
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++)
        at += snprintf(at, (size_t)(end - at), ", r.\"%s\"", aud_number_names[i]);
    snprintf(at, (size_t)(end - at),
             " FROM audit.records r LEFT JOIN audit.person_keys k ON r.kind = %u AND k.key_id = r.key_id "
             "WHERE r.instance = $1 AND r.seq >= $2::bigint AND r.seq <= $3::bigint ORDER BY r.seq LIMIT %u",
             AUD_PERSON_KEY, PAGE_ROWS);
}

/* Writes the verdict; the first one stays. */
__attribute__((format(printf, 3, 4))) static void broken(struct verify *v, int64_t seq, const char *fmt, ...)
{
    va_list args;

    if (!v->result->intact)
        return;
    v->result->intact = false;
    v->result->bad_seq = seq;
    snprintf(v->result->bad_instance, sizeof(v->result->bad_instance), "%s",
             v->instance != NULL ? v->instance : "");
    va_start(args, fmt);
    vsnprintf(v->result->problem, sizeof(v->result->problem), fmt, args);
    va_end(args);
}

/* "record gate-1:17 (request r-5, time 2026-...): " + what. Names come from the columns: bad bytes name
 * nothing. */
static void bad_row(struct verify *v, const struct row *row, const char *what, const char *meaning)
{
    const char *request = base_pg_text(row->rows, row->at, C_TEXTS + AUD_T_REQUEST_ID);
    int64_t seq = base_pg_int(row->rows, row->at, C_SEQ), wall_us = base_pg_int(row->rows, row->at, C_WALL);
    char wall[BASE_RFC3339_MAX] = "unknown";

    if (wall_us >= 0 && wall_us <= AUD_WALL_MAX_US)
        base_rfc3339(wall_us, wall);
    broken(v, seq, "record %s:%lld (request %.64s, time %s): %s. %s", v->instance, (long long)seq,
           request != NULL && request[0] != '\0' ? request : "none", wall, what, meaning);
}

/* --- one record --- */

static bool same_text(const struct base_pg_rows *rows, unsigned row, unsigned column, struct aud_str s)
{
    const char *text = base_pg_text(rows, row, column);

    return text != NULL && strlen(text) == s.len && memcmp(text, s.len > 0 ? s.at : "", s.len) == 0;
}

/* bytes NULL: the column must be SQL NULL. */
static bool same_bytes(const struct base_pg_rows *rows, unsigned row, unsigned column, const void *bytes,
                       size_t n)
{
    auto_free unsigned char *value = NULL;
    size_t len = 0;

    if (bytes == NULL)
        return base_pg_text(rows, row, column) == NULL;
    value = base_pg_bytes(rows, row, column, &len);
    return value != NULL && len == n && memcmp(value, bytes, n) == 0;
}

static bool same_number(const struct base_pg_rows *rows, unsigned row, unsigned column, uint64_t number)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    return same_text(rows, row, column, (struct aud_str){text, (uint32_t)strlen(text)});
}

static bool same_reasons(const struct row *row)
{
    char joined[AUD_REASONS_MAX * (AUD_TEXT_MAX + 1) + 1];
    size_t n = 0;

    for (unsigned i = 0; i < row->fields.n_reasons; i++) {
        if (i > 0)
            joined[n++] = ',';
        memcpy(joined + n, row->fields.reasons[i].at, row->fields.reasons[i].len);
        n += row->fields.reasons[i].len;
    }
    return same_text(row->rows, row->at, C_REASONS, (struct aud_str){joined, (uint32_t)n});
}

/* The first column that differs from the canonical bytes, or NULL. */
static const char *differing_column(const struct row *row)
{
    const struct base_pg_rows *rows = row->rows;
    const struct aud_fields *f = &row->fields;

    if (!same_number(rows, row->at, C_KIND, f->kind))
        return "kind";
    if (!same_number(rows, row->at, C_WALL, (uint64_t)f->wall_us))
        return "wall";
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        if (!same_text(rows, row->at, C_TEXTS + i, f->texts[i]))
            return aud_text_names[i];
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++)
        if (!same_number(rows, row->at, C_TEXTS + AUD_N_TEXTS + i, f->numbers[i]))
            return aud_number_names[i];
    if (!same_reasons(row))
        return "reasons";
    if (!same_bytes(rows, row->at, C_KEY_ID, f->has_key_id ? f->key_id : NULL, sizeof(f->key_id)))
        return "key_id";
    if (!same_bytes(rows, row->at, C_NONCE, f->payload_len > 0 ? f->nonce : NULL, sizeof(f->nonce)))
        return "nonce";
    return NULL;
}

/* The person's key that this record made: gone (erased), as it was, or another one. */
static const char *differing_key(struct verify *v, const struct row *row)
{
    const struct aud_fields *f = &row->fields;
    auto_free unsigned char *wrapped = NULL;
    unsigned char digest[BASE_SHA256_BYTES];
    size_t n = 0;

    if (strcmp(base_pg_text(row->rows, row->at, C_KEY_FOUND), "t") != 0) {
        v->result->n_keys_gone++;
        return NULL;
    }
    wrapped = base_pg_bytes(row->rows, row->at, C_KEY_WRAPPED, &n);
    if (wrapped == NULL || n != f->payload_len)
        return "wrapped";
    base_sha256(wrapped, n, digest);
    if (memcmp(digest, f->payload_sha256, sizeof(digest)) != 0)
        return "wrapped";
    if (!same_bytes(row->rows, row->at, C_KEY_NONCE, f->nonce, sizeof(f->nonce)))
        return "nonce";
    if (!same_text(row->rows, row->at, C_KEY_PSEUDONYM, f->texts[AUD_T_PSEUDONYM]))
        return "pseudonym";
    return same_number(row->rows, row->at, C_KEY_CREATED, (uint64_t)f->wall_us) ? NULL : "created";
}

static bool has_content(const struct aud_fields *f)
{
    return f->payload_len > 0 && f->kind != AUD_PERSON_KEY && f->kind != AUD_MAPPING;
}

/* All of a row but its content's digest. */
static void check_row(struct verify *v, struct row *row)
{
    static const char changed[] =
        "It was changed after it was written; this record and all later ones of the instance are not "
        "proven";
    int64_t seq = base_pg_int(row->rows, row->at, C_SEQ);
    const char *content_len = base_pg_text(row->rows, row->at, C_CONTENT_LEN), *column;
    struct aud_hash hash;
    char what[160];

    if ((uint64_t)seq != v->next_seq) {
        broken(v, (int64_t)v->next_seq,
               "record %s:%llu is missing: after %lld comes %lld. It was deleted, or given another number",
               v->instance, (unsigned long long)v->next_seq, (long long)v->next_seq - 1, (long long)seq);
        return;
    }
    row->canonical = base_pg_bytes(row->rows, row->at, C_CANONICAL, &row->canonical_len);
    if (row->canonical == NULL ||
        aud_record_decode(row->canonical, row->canonical_len, &row->fields, NULL) != BASE_OK) {
        bad_row(v, row, "its canonical bytes are malformed", changed);
        return;
    }
    if (row->fields.seq != v->next_seq || row->fields.instance.len != strlen(v->instance) ||
        memcmp(row->fields.instance.at, v->instance, row->fields.instance.len) != 0) {
        bad_row(v, row, "its canonical bytes belong to another place in the chain",
                "Records were moved or exchanged");
        return;
    }
    hash = aud_chain_link(&v->prev, row->canonical, row->canonical_len);
    if (!same_bytes(row->rows, row->at, C_PREV, v->prev.bytes, sizeof(v->prev.bytes))) {
        bad_row(v, row, "prev_hash is not the hash of the record before", changed);
        return;
    }
    if (!same_bytes(row->rows, row->at, C_HASH, hash.bytes, sizeof(hash.bytes))) {
        bad_row(v, row, "hash does not fit", changed);
        return;
    }
    column = differing_column(row);
    if (column != NULL) {
        snprintf(what, sizeof(what), "column %s differs from the canonical bytes", column);
        bad_row(v, row, what,
                "The column was changed after it was written; the canonical bytes hold what was recorded");
        return;
    }
    if (has_content(&row->fields) != (content_len != NULL) ||
        (content_len != NULL &&
         (uint64_t)base_pg_int(row->rows, row->at, C_CONTENT_LEN) != row->fields.payload_len)) {
        bad_row(v, row, "content is missing or has another length",
                "The content was changed after it was written");
        return;
    }
    column = row->fields.kind == AUD_PERSON_KEY ? differing_key(v, row) : NULL;
    if (column != NULL) {
        snprintf(what, sizeof(what), "column %s of its row in person_keys differs", column);
        bad_row(v, row, what,
                "The person's key was exchanged or damaged; content sealed with it may be unreadable");
        return;
    }
    v->prev = hash;
    v->next_seq++;
    v->result->n_records++;
}

/* --- content --- */

/* Digests of the contents of rows from .. to - 1, which all passed check_row. */
static enum base_code check_contents(struct verify *v, struct row *rows, unsigned from, unsigned to,
                                     struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *contents = NULL;
    char first[24], last[24];
    enum base_code rc;

    snprintf(first, sizeof(first), "%llu", (unsigned long long)rows[from].fields.seq);
    snprintf(last, sizeof(last), "%llu", (unsigned long long)rows[to - 1].fields.seq);
    rc = base_pg_exec(v->pg,
                      "SELECT seq, content FROM audit.records WHERE instance = $1 AND seq BETWEEN $2::bigint "
                      "AND $3::bigint AND "
                      "content IS NOT NULL ORDER BY seq",
                      (struct base_pg_param[]){PG_TEXT(v->instance), PG_TEXT(first), PG_TEXT(last)}, 3,
                      &contents, err);
    if (rc != BASE_OK)
        return rc;
    for (unsigned i = from, k = 0; i < to && v->result->intact; i++) {
        auto_free unsigned char *bytes = NULL;
        unsigned char digest[BASE_SHA256_BYTES];
        size_t n = 0;

        if (!has_content(&rows[i].fields))
            continue;
        if (k < base_pg_n_rows(contents) && (uint64_t)base_pg_int(contents, k, 0) == rows[i].fields.seq)
            bytes = base_pg_bytes(contents, k++, 1, &n);
        base_sha256(bytes != NULL ? bytes : (const unsigned char *)"", n, digest);
        if (n != rows[i].fields.payload_len ||
            memcmp(digest, rows[i].fields.payload_sha256, sizeof(digest)) != 0)
            bad_row(v, &rows[i], "content does not have the digest that was recorded",
                    "The content was changed after it was written");
    }
    return BASE_OK;
}

static enum base_code check_page_contents(struct verify *v, struct row *rows, unsigned n,
                                          struct base_err *err)
{
    unsigned from = 0;
    uint64_t bytes = 0;

    for (unsigned i = 0; i < n && v->result->intact; i++) {
        bytes += has_content(&rows[i].fields) ? rows[i].fields.payload_len : 0;
        if (i + 1 == n || bytes + rows[i + 1].fields.payload_len > PAGE_CONTENT) {
            enum base_code rc = bytes > 0 ? check_contents(v, rows, from, i + 1, err) : BASE_OK;

            if (rc != BASE_OK)
                return rc;
            from = i + 1;
            bytes = 0;
        }
    }
    return BASE_OK;
}

/* --- a chain --- */

static enum base_code check_page(struct verify *v, uint64_t last_seq, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    auto_free struct row *list = NULL;
    char from[24], to[24];
    unsigned n, n_good = 0;
    enum base_code rc;

    snprintf(from, sizeof(from), "%llu", (unsigned long long)v->next_seq);
    snprintf(to, sizeof(to), "%llu", (unsigned long long)last_seq);
    rc = base_pg_exec(v->pg, v->page_sql,
                      (struct base_pg_param[]){PG_TEXT(v->instance), PG_TEXT(from), PG_TEXT(to)}, 3, &rows,
                      err);
    if (rc != BASE_OK)
        return rc;
    n = base_pg_n_rows(rows);
    if (n == 0) {
        broken(v, (int64_t)v->next_seq, "record %s:%llu is missing: it was deleted while this looked",
               v->instance, (unsigned long long)v->next_seq);
        return BASE_OK;
    }
    list = base_zalloc(n * sizeof(*list));
    for (unsigned i = 0; i < n && v->result->intact; i++) {
        list[i] = (struct row){.rows = rows, .at = i};
        check_row(v, &list[i]);
        n_good += v->result->intact;
    }
    if (n_good > 0) {
        bool was_intact = v->result->intact;
        struct aud_verify_result kept = *v->result;

        v->result->intact = true; /* a bad content before a bad record is the first one */
        rc = check_page_contents(v, list, n_good, err);
        if (rc == BASE_OK && v->result->intact && !was_intact)
            *v->result = kept;
    }
    for (unsigned i = 0; i < n; i++)
        row_free(&list[i]);
    return rc;
}

static enum base_code newest_seq(struct verify *v, int64_t *ret_seq, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    enum base_code rc =
        base_pg_exec(v->pg, "SELECT coalesce(max(seq), -1) FROM audit.records WHERE instance = $1",
                     (struct base_pg_param[]){PG_TEXT(v->instance)}, 1, &rows, err);

    if (rc == BASE_OK)
        *ret_seq = base_pg_int(rows, 0, 0);
    return rc;
}

/* From next_seq to what is the newest now. */
static enum base_code check_database(struct verify *v, struct base_err *err)
{
    int64_t last = -1;
    enum base_code rc = newest_seq(v, &last, err);

    while (rc == BASE_OK && v->result->intact && (int64_t)v->next_seq <= last) {
        rc = check_page(v, (uint64_t)last, err);
        if (v->options->progress != NULL && base_mono_ms() - v->told_ms > 1000) {
            v->told_ms = base_mono_ms();
            v->options->progress(v->instance, v->result->n_records, v->options->user);
        }
    }
    return rc;
}

/* --- the journal --- */

/* The journal must hold the place where the database ends, with the same hash before it. BASE_NOT_FOUND: it
 * does not (yet). */
static enum base_code follow_journal(struct verify *v, struct aud_cursor *cursor, struct base_err *err)
{
    struct aud_hash prev;
    uint64_t seq = v->next_seq, n = 0;
    enum base_code rc = aud_cursor_seek(cursor, seq, &prev, err);

    if (rc != BASE_OK)
        return rc;
    if (memcmp(prev.bytes, v->prev.bytes, sizeof(prev.bytes)) != 0) {
        broken(
            v, (int64_t)seq - 1,
            "record %s:%lld in the database is not the one in the journal of this machine. The chain in the "
            "database was rewritten, or the journal was",
            v->instance, (long long)seq - 1);
        return BASE_OK;
    }
    for (;;) {
        struct aud_frame frame;
        struct aud_fields fields;

        rc = aud_cursor_next(cursor, &frame, err);
        if (rc == BASE_OK)
            rc = aud_frame_check(&frame, v->instance, seq, &prev, &fields, err);
        if (rc != BASE_OK)
            break;
        prev = frame.hash;
        seq++;
        n++;
    }
    if (rc == BASE_CORRUPT)
        broken(v, (int64_t)seq, "record %s:%llu in the journal: %s", v->instance, (unsigned long long)seq,
               err != NULL ? err->detail : "damaged");
    if (rc == BASE_NOT_FOUND || rc == BASE_CORRUPT) {
        v->result->n_unshipped += n;
        v->result->head = prev;
        return BASE_OK;
    }
    return rc;
}

static enum base_code check_journal(struct verify *v, struct aud_cursor *cursor, struct base_err *err)
{
    enum base_code rc = BASE_OK;

    /* meanwhile the gateway may have shipped, and dropped what it shipped: then the database has it */
    for (unsigned i = 0; i < JOURNAL_TRIES && v->result->intact; i++) {
        rc = follow_journal(v, cursor, err);
        if (rc == BASE_OK)
            return BASE_OK;
        rc = check_database(v, err);
        if (rc != BASE_OK)
            return rc;
    }
    if (v->result->intact)
        broken(v, (int64_t)v->next_seq,
               "record %s:%llu: the journal of this machine does not go on from the database's last record. "
               "The newest records were deleted in the database, or the journal is an old copy",
               v->instance, (unsigned long long)v->next_seq);
    return BASE_OK;
}

/* --- all of it --- */

static enum base_code check_instance(struct verify *v, const char *instance, struct base_err *err)
{
    struct aud_cursor *cursor = NULL;
    struct aud_segment_header header;
    enum base_code rc;

    v->instance = instance;
    v->next_seq = 0;
    v->prev = AUD_CHAIN_START;
    v->result->n_instances++;
    rc = check_database(v, err);
    if (rc != BASE_OK || !v->result->intact)
        return rc;
    v->result->head = v->prev;
    if (v->options->journal_dir == NULL)
        return BASE_OK;
    cursor = aud_cursor_new(NULL, v->options->journal_dir);
    rc = aud_cursor_oldest(cursor, &header, err);
    if (rc == BASE_OK && strcmp(header.instance, instance) == 0)
        rc = check_journal(v, cursor, err);
    else if (rc == BASE_CORRUPT) {
        broken(v, (int64_t)v->next_seq, "the journal of this machine: %s",
               err != NULL ? err->detail : "damaged");
        rc = BASE_OK;
    } else if (rc == BASE_NOT_FOUND || (rc == BASE_IO && err != NULL && err->sys_errno == ENOENT))
        rc = BASE_OK; /* this machine has no journal */
    aud_cursor_free(cursor);
    return rc;
}

/* A key that no record made: put there by someone else. */
static enum base_code check_strange_keys(struct verify *v, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    enum base_code rc =
        base_pg_exec(v->pg,
                     "SELECT encode(k.key_id, 'hex') FROM audit.person_keys k WHERE NOT EXISTS (SELECT FROM "
                     "audit.records r WHERE r.kind = 4 AND r.key_id = k.key_id) LIMIT 1",
                     NULL, 0, &rows, err);

    v->instance = NULL;
    if (rc == BASE_OK && base_pg_n_rows(rows) > 0)
        broken(v, -1, "the person key %s was made by no record. It was put into the database by other means",
               base_pg_text(rows, 0, 0));
    return rc;
}

static enum base_code verify_all(struct verify *v, struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    const char *wanted = v->options->instance;
    enum base_code rc = base_pg_exec(
        v->pg,
        "WITH RECURSIVE i(name) AS ((SELECT min(instance) FROM audit.records) UNION ALL SELECT (SELECT "
        "min(instance) FROM audit.records WHERE instance > i.name) FROM i WHERE i.name IS NOT NULL) "
        "SELECT name FROM i WHERE name IS NOT NULL AND ($1::text IS NULL OR name = $1) LIMIT 10000",
        (struct base_pg_param[]){PG_TEXT(wanted)}, 1, &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (wanted != NULL && base_pg_n_rows(rows) == 0)
        return base_fail(err, BASE_NOT_FOUND, 0, "the database has no record of instance %.32s", wanted);
    for (unsigned i = 0; rc == BASE_OK && v->result->intact && i < base_pg_n_rows(rows); i++)
        rc = check_instance(v, base_pg_text(rows, i, 0), err);
    if (rc == BASE_OK && v->result->intact && wanted == NULL)
        rc = check_strange_keys(v, err);
    return rc;
}

enum base_code aud_verify(const struct aud_verify_options *options, struct aud_verify_result *ret_result,
                          struct base_err *err)
{
    struct aud_verify_result result = {.intact = true, .bad_seq = -1};
    auto_pg struct base_pg *pg = base_pg_new(options->reader_dsn, TIMEOUT_MS);
    struct verify v = {.options = options, .pg = pg, .result = &result, .told_ms = base_mono_ms()};
    enum base_code rc;

    make_page_sql(&v);
    rc = verify_all(&v, err);
    if (rc == BASE_OK)
        *ret_result = result;
    return rc;
}
