/* Shipping to Postgres with binary COPY. See pg_sink.h.
 *
 * COPY's binary format: docs of PostgreSQL, "COPY", section "Binary Format". A row is a field count and, per
 * field, a length (-1: NULL) and the bytes of the type's binary form; all big-endian. timestamptz is
 * microseconds since 2000-01-01.
 */
#include "audit/pg_sink.h"

#include "base/mem.h"
#include "base/pg.h"

#include <stdio.h>
#include <string.h>

#define PENDING_MAX        (128u << 20)
#define PG_EPOCH_US        INT64_C(946684800000000)
#define RECORD_COLUMNS_MAX 4096u
#define N_RECORD_COLUMNS   (4 + AUD_N_TEXTS + 1 + AUD_N_NUMBERS + 6)
#define N_KEY_COLUMNS      5

struct aud_sink {
    struct base_pg *writer, *mapper;
    const struct aud_sealer *sealer;
    char *instance;
    char copy_records[RECORD_COLUMNS_MAX];
    struct base_buf records, keys;
    struct base_buf mappings; /* of struct pending_mapping */
};

struct pending_mapping {
    char pseudonym[AUD_PSEUDONYM_MAX];
    int64_t wall_us;
    struct aud_mapping mapping;
};

static const char copy_keys[] =
    "COPY audit.person_keys (key_id, pseudonym, nonce, wrapped, created) FROM STDIN (FORMAT binary)";

static void name_columns(struct aud_sink *sink)
{
    char *at = sink->copy_records, *end = at + sizeof(sink->copy_records);

    at += snprintf(at, (size_t)(end - at), "COPY audit.records (instance, seq, kind, wall");
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        at += snprintf(at, (size_t)(end - at), ", \"%s\"", aud_text_names[i]);
    at += snprintf(at, (size_t)(end - at), ", reasons");
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++)
        at += snprintf(at, (size_t)(end - at), ", \"%s\"", aud_number_names[i]);
    snprintf(at, (size_t)(end - at),
             ", key_id, nonce, canonical, prev_hash, hash, content) FROM STDIN (FORMAT binary)");
}

struct aud_sink *aud_sink_new(const char *writer_dsn, const char *mapper_dsn, const char *instance,
                              const struct aud_sealer *sealer)
{
    struct aud_sink *sink = base_zalloc(sizeof(*sink));

    sink->writer = base_pg_new(writer_dsn, AUD_SINK_TIMEOUT_MS);
    sink->mapper = mapper_dsn != NULL ? base_pg_new(mapper_dsn, AUD_SINK_TIMEOUT_MS) : NULL;
    sink->sealer = sealer;
    sink->instance = base_strdup(instance);
    base_buf_init(&sink->records, PENDING_MAX);
    base_buf_init(&sink->keys, PENDING_MAX);
    base_buf_init(&sink->mappings, PENDING_MAX);
    name_columns(sink);
    return sink;
}

void aud_sink_forget(struct aud_sink *sink)
{
    base_buf_reset(&sink->records);
    base_buf_reset(&sink->keys);
    if (sink->mappings.data != NULL)
        base_wipe(sink->mappings.data, sink->mappings.len); /* names of people */
    base_buf_reset(&sink->mappings);
}

void aud_sink_free(struct aud_sink *sink)
{
    if (sink == NULL)
        return;
    aud_sink_forget(sink);
    base_buf_free(&sink->records);
    base_buf_free(&sink->keys);
    base_buf_free(&sink->mappings);
    base_pg_free(sink->writer);
    base_pg_free(sink->mapper);
    free(sink->instance);
    free(sink);
}

enum base_code aud_sink_head(struct aud_sink *sink, uint64_t *ret_next_seq, struct aud_hash *ret_head,
                             struct base_err *err)
{
    auto_pg_rows struct base_pg_rows *rows = NULL;
    struct base_pg_param params[] = {PG_TEXT(sink->instance)};
    auto_free unsigned char *hash = NULL;
    size_t n = 0;
    enum base_code rc = base_pg_exec(
        sink->writer, "SELECT seq, hash, current_setting('server_encoding') FROM audit.chain_head($1)",
        params, 1, &rows, err);

    if (rc != BASE_OK)
        return rc;
    if (base_pg_n_rows(rows) != 1 || strcmp(base_pg_text(rows, 0, 2), "UTF8") != 0)
        return base_fail(err, BASE_INVALID, 0, "the audit database must have the encoding UTF8");
    if (base_pg_text(rows, 0, 0) == NULL) {
        *ret_next_seq = 0;
        *ret_head = AUD_CHAIN_START;
        return BASE_OK;
    }
    hash = base_pg_bytes(rows, 0, 1, &n);
    if (hash == NULL || n != sizeof(ret_head->bytes))
        return base_fail(err, BASE_CORRUPT, 0, "the database's newest record of %s has no hash",
                         sink->instance);
    *ret_next_seq = (uint64_t)base_pg_int(rows, 0, 0) + 1;
    memcpy(ret_head->bytes, hash, n);
    return BASE_OK;
}

/* --- COPY's binary form --- */

static void put_int(struct base_buf *out, uint64_t value, unsigned n_bytes)
{
    char bytes[8];

    for (unsigned i = 0; i < n_bytes; i++)
        bytes[i] = (char)(value >> 8 * (n_bytes - 1 - i));
    base_buf_append(out, bytes, n_bytes);
}

static void put_field(struct base_buf *out, const void *bytes, size_t n)
{
    put_int(out, n, 4);
    if (n > 0)
        base_buf_append(out, bytes, n);
}

static void put_bytes_or_null(struct base_buf *out, const void *bytes, size_t n, bool present)
{
    if (present)
        put_field(out, bytes, n);
    else
        put_int(out, UINT32_MAX, 4);
}

static void put_int_field(struct base_buf *out, uint64_t value, unsigned n_bytes)
{
    put_int(out, n_bytes, 4);
    put_int(out, value, n_bytes);
}

static void put_time(struct base_buf *out, int64_t wall_us)
{
    put_int_field(out, (uint64_t)(wall_us - PG_EPOCH_US), 8);
}

static void put_reasons(struct base_buf *out, const struct aud_fields *f)
{
    size_t n = f->n_reasons > 1 ? f->n_reasons - 1 : 0;

    for (unsigned i = 0; i < f->n_reasons; i++)
        n += f->reasons[i].len;
    put_int(out, n, 4);
    for (unsigned i = 0; i < f->n_reasons; i++) {
        if (i > 0)
            base_buf_append_char(out, ',');
        if (f->reasons[i].len > 0)
            base_buf_append(out, f->reasons[i].at, f->reasons[i].len);
    }
}

static void put_record(struct base_buf *out, const struct aud_fields *f, const struct aud_frame *frame,
                       const struct aud_hash *prev)
{
    bool is_content = f->kind == AUD_INTENT || f->kind == AUD_OUTCOME || f->kind == AUD_EVENT;

    put_int(out, N_RECORD_COLUMNS, 2);
    put_field(out, f->instance.at, f->instance.len);
    put_int_field(out, f->seq, 8);
    put_int_field(out, f->kind, 2);
    put_time(out, f->wall_us);
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        put_field(out, f->texts[i].at, f->texts[i].len);
    put_reasons(out, f);
    for (unsigned i = 0; i < AUD_N_NUMBERS; i++)
        put_int_field(out, f->numbers[i], 8);
    put_bytes_or_null(out, f->key_id, sizeof(f->key_id), f->has_key_id);
    put_bytes_or_null(out, f->nonce, sizeof(f->nonce), f->payload_len > 0);
    put_field(out, frame->canonical, frame->canonical_len);
    put_field(out, prev->bytes, sizeof(prev->bytes));
    put_field(out, frame->hash.bytes, sizeof(frame->hash.bytes));
    put_bytes_or_null(out, frame->payload, frame->payload_len, is_content && f->payload_len > 0);
}

static void put_key(struct base_buf *out, const struct aud_fields *f, const struct aud_frame *frame)
{
    put_int(out, N_KEY_COLUMNS, 2);
    put_field(out, f->key_id, sizeof(f->key_id));
    put_field(out, f->texts[AUD_T_PSEUDONYM].at, f->texts[AUD_T_PSEUDONYM].len);
    put_field(out, f->nonce, sizeof(f->nonce));
    put_field(out, frame->payload, frame->payload_len);
    put_time(out, f->wall_us);
}

static enum base_code add_mapping(struct aud_sink *sink, const struct aud_fields *f,
                                  const struct aud_frame *frame, struct base_err *err)
{
    struct pending_mapping pending = {.wall_us = f->wall_us};
    enum base_code rc =
        aud_open_mapping(sink->sealer, f, frame->payload, frame->payload_len, &pending.mapping, err);

    if (rc != BASE_OK)
        return rc;
    snprintf(pending.pseudonym, sizeof(pending.pseudonym), "%.*s", (int)f->texts[AUD_T_PSEUDONYM].len,
             f->texts[AUD_T_PSEUDONYM].at);
    rc = base_buf_append(&sink->mappings, &pending, sizeof(pending));
    base_wipe(&pending, sizeof(pending));
    return rc == BASE_OK ? BASE_OK : base_fail(err, rc, 0, "too many mappings in one batch");
}

enum base_code aud_sink_add(struct aud_sink *sink, const struct aud_fields *fields,
                            const struct aud_frame *frame, const struct aud_hash *prev, struct base_err *err)
{
    put_record(&sink->records, fields, frame, prev);
    if (fields->kind == AUD_PERSON_KEY)
        put_key(&sink->keys, fields, frame);
    if (sink->records.failed || sink->keys.failed)
        return base_fail(err, BASE_TOO_LARGE, 0, "a batch of more than %u bytes", PENDING_MAX);
    if (fields->kind == AUD_MAPPING && sink->mapper != NULL)
        return add_mapping(sink, fields, frame, err);
    return BASE_OK;
}

bool aud_sink_has_mapper(const struct aud_sink *sink)
{
    return sink->mapper != NULL;
}

size_t aud_sink_pending_bytes(const struct aud_sink *sink)
{
    return sink->records.len + sink->keys.len;
}

/* Before the records: it may be repeated, they may not. */
static enum base_code write_mappings(struct aud_sink *sink, struct base_err *err)
{
    for (size_t at = 0; at + sizeof(struct pending_mapping) <= sink->mappings.len;
         at += sizeof(struct pending_mapping)) {
        struct pending_mapping pending;
        char wall[32];
        enum base_code rc;

        memcpy(&pending, sink->mappings.data + at, sizeof(pending));
        snprintf(wall, sizeof(wall), "%lld", (long long)pending.wall_us);
        rc =
            base_pg_exec(sink->mapper,
                         "INSERT INTO mapping.subjects (pseudonym, issuer, subject, first_seen) VALUES "
                         "($1, $2, $3, to_timestamp($4::bigint / 1000000.0)) ON CONFLICT DO NOTHING",
                         (struct base_pg_param[]){PG_TEXT(pending.pseudonym), PG_TEXT(pending.mapping.issuer),
                                                  PG_TEXT(pending.mapping.subject), PG_TEXT(wall)},
                         4, NULL, err);
        base_wipe(&pending, sizeof(pending));
        if (rc != BASE_OK)
            return base_fail_prefix(err, rc, "mapping");
    }
    return BASE_OK;
}

enum base_code aud_sink_map(struct aud_sink *sink, const struct aud_fields *fields,
                            const struct aud_frame *frame, struct base_err *err)
{
    enum base_code rc = add_mapping(sink, fields, frame, err);

    if (rc == BASE_OK)
        rc = write_mappings(sink, err);
    aud_sink_forget(sink);
    return rc;
}

static enum base_code copy(struct base_pg *pg, const char *sql, const struct base_buf *rows,
                           struct base_err *err)
{
    static const char head[19] = "PGCOPY\n\377\r\n\0"; /* then flags and extension length: zeros */
    static const char tail[2] = "\377\377";
    enum base_code rc = base_pg_copy_begin(pg, sql, err);

    if (rc == BASE_OK)
        rc = base_pg_copy_put(pg, head, sizeof(head), err);
    if (rc == BASE_OK)
        rc = base_pg_copy_put(pg, rows->data, rows->len, err);
    if (rc == BASE_OK)
        rc = base_pg_copy_put(pg, tail, sizeof(tail), err);
    if (rc == BASE_OK)
        rc = base_pg_copy_end(pg, true, err);
    return rc;
}

/* The journal's copy is deleted after COMMIT: a server that answers before its own log is on disk would lose
 * it. */
static const char begin[] = "BEGIN; SELECT set_config('synchronous_commit', 'on', true) WHERE "
                            "current_setting('synchronous_commit') = 'off'";

enum base_code aud_sink_write(struct aud_sink *sink, struct base_err *err)
{
    enum base_code rc = write_mappings(sink, err);

    if (rc == BASE_OK && sink->records.len > 0) {
        rc = base_pg_script(sink->writer, begin, err);
        if (rc == BASE_OK)
            rc = copy(sink->writer, sink->copy_records, &sink->records, err);
        if (rc == BASE_OK && sink->keys.len > 0)
            rc = copy(sink->writer, copy_keys, &sink->keys, err);
        if (rc == BASE_OK)
            rc = base_pg_exec(sink->writer, "COMMIT", NULL, 0, NULL, err);
        if (rc != BASE_OK)
            base_pg_disconnect(sink->writer);
    }
    aud_sink_forget(sink);
    return rc;
}
