/* The public face of audit/: takes records, makes them durable on the audit thread, hands them to the
 * shipper. See audit.h.
 *
 *   aud_append (any thread): check, copy, queue
 *        |
 *   audit thread: all that is queued -> [mapping, person key,] record each -> one write, one fdatasync
 *        |        -> callbacks
 *        |
 *   shipping thread (ship.h): journal -> Postgres
 *
 * Invariants:
 *   1. a callback says BASE_OK only after the commit that holds its record returned BASE_OK;
 *   2. a person's key record is in the same commit as the first content sealed with it, or in an earlier
 *      one that succeeded;
 *   3. room: what is durable plus what is queued stays below the cap. Intents and events stop at 15/16 of
 *      it, so that requests that were let in can still write their outcomes.
 */
#include "audit/audit.h"

#include "audit/journal.h"
#include "audit/seal.h"
#include "audit/ship.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/queue.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define JOURNAL_BYTES_DEFAULT (1ull << 30)
#define JOURNAL_BYTES_MIN     (1ull << 20)
#define QUEUE_MAX             16384u
#define QUEUE_BYTES_MAX       (256ull << 20)
#define COMMIT_ITEMS_MAX      4096u
#define IDLE_MS               500u
#define TIDY_AGE_MS           (15u * 60u * 1000u)
#define RESERVE_PARTS         16u   /* the last part of the cap and of the queue is for outcomes */
#define RECORD_OVERHEAD       512u  /* frame, hash and numbers */
#define PERSON_OVERHEAD       2048u /* a mapping and a key record, when the person is new */

/* One queued record; the texts are copied behind it. */
struct item {
    struct aud_fields fields; /* texts point into data */
    char pseudonym[AUD_PSEUDONYM_MAX];
    const char *issuer, *subject;
    bool has_person;
    const char *content;
    size_t content_len, size; /* size: room counted for it */
    aud_durable_fn *fn;
    void *user;
    enum base_code rc;
    uint64_t seq;
    char data[];
};

struct aud {
    struct aud_journal *journal;
    struct aud_sealer *sealer;
    struct aud_sink *sink;
    struct aud_kept *kept;       /* with a sink alone */
    struct aud_shipper *shipper; /* NULL without a writer_dsn */
    struct base_queue *queue;
    pthread_t thread;
    uint64_t max_bytes;

    atomic_uint_fast64_t queued_bytes; /* of items not yet through their commit */
    atomic_uint_fast64_t n_kind[AUD_KIND_LAST + 1];
    atomic_bool disk_refuses, closed;

    /* the audit thread's alone */
    struct item **batch;
    unsigned char *sealed; /* room for one payload, grown to need */
    size_t sealed_cap;
};

/* --- taking a record --- */

static const char *text_of(const struct aud_record *r, enum aud_text which)
{
    switch (which) {
    case AUD_T_REQUEST_ID: return r->request_id;
    case AUD_T_PSEUDONYM: return NULL; /* made from issuer and subject */
    case AUD_T_AUTH_METHOD: return r->auth_method;
    case AUD_T_CREDENTIAL_ID: return r->credential_id;
    case AUD_T_TENANT: return r->tenant;
    case AUD_T_ROLES: return r->roles;
    case AUD_T_API: return r->api;
    case AUD_T_PEER: return r->peer;
    case AUD_T_MODEL_ASKED: return r->model_asked;
    case AUD_T_ROUTE: return r->route;
    case AUD_T_ROUTE_KIND: return r->route_kind;
    case AUD_T_UPSTREAM_MODEL: return r->upstream_model;
    case AUD_T_POLICY_HASH: return r->policy_hash;
    case AUD_T_CLASS: return r->cls;
    case AUD_T_CLASS_SOURCE: return r->cls_source;
    case AUD_T_DECISION: return r->decision;
    case AUD_T_GUARD: return r->guard;
    case AUD_T_ACTION: return r->action;
    case AUD_T_TARGET: return r->target;
    case AUD_T_STATUS: return r->status;
    case AUD_T_ERROR_CODE: return r->error_code;
    case AUD_T_FINISH_REASON: return r->finish_reason;
    case AUD_N_TEXTS: break;
    }
    return NULL;
}

static size_t bounded_len(const char *s)
{
    return s != NULL ? strnlen(s, AUD_TEXT_MAX + 1) : 0;
}

/* Bytes that the copies of all texts need, each with a NUL. A text past its limit is found by
 * aud_record_check. */
static size_t texts_size(const struct aud_record *r)
{
    size_t n = bounded_len(r->issuer) + bounded_len(r->subject) + 2;

    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        n += bounded_len(text_of(r, (enum aud_text)i)) + 1;
    for (unsigned i = 0; i < r->n_reasons; i++)
        n += bounded_len(r->reasons[i]) + 1;
    return n;
}

static struct aud_str copy_text(char **at, const char *s)
{
    struct aud_str copy = {*at, (uint32_t)bounded_len(s)};

    memcpy(*at, s != NULL ? s : "", copy.len);
    (*at)[copy.len] = '\0';
    *at += copy.len + 1;
    return copy;
}

static void fill_item(struct aud *aud, struct item *item, const struct aud_record *r)
{
    struct aud_fields *f = &item->fields;
    char *at = item->data;

    f->kind = r->kind;
    f->wall_us = r->wall_us != 0 ? r->wall_us : base_wall_us();
    f->instance = (struct aud_str){"x", 1}; /* the journal puts its own */
    for (unsigned i = 0; i < AUD_N_TEXTS; i++)
        f->texts[i] = copy_text(&at, text_of(r, (enum aud_text)i));
    for (unsigned i = 0; i < r->n_reasons; i++)
        f->reasons[i] = copy_text(&at, r->reasons[i]);
    f->n_reasons = r->n_reasons;
    f->numbers[AUD_U_ATTEMPTS] = r->attempts;
    f->numbers[AUD_U_PROMPT_TOKENS] = r->prompt_tokens;
    f->numbers[AUD_U_COMPLETION_TOKENS] = r->completion_tokens;
    f->numbers[AUD_U_RELEASED_BYTES] = r->released_bytes;
    f->numbers[AUD_U_MAX_TOKENS] = r->max_tokens;
    f->numbers[AUD_U_TTFT_US] = r->ttft_us;
    f->numbers[AUD_U_DURATION_US] = r->duration_us;
    item->issuer = copy_text(&at, r->issuer).at;
    item->subject = copy_text(&at, r->subject).at;
    item->content_len = r->content != NULL ? r->content_len : 0;
    if (item->content_len > 0)
        memcpy(at, r->content, item->content_len);
    item->content = at;
    item->has_person = item->subject[0] != '\0';
    if (item->has_person) {
        aud_sealer_pseudonym(aud->sealer, item->issuer, item->subject, item->pseudonym);
        f->texts[AUD_T_PSEUDONYM] = (struct aud_str){item->pseudonym, (uint32_t)strlen(item->pseudonym)};
        f->numbers[AUD_U_EPOCH] = aud_sealer_epoch(aud->sealer);
    }
}

static void item_free(struct item *item)
{
    base_wipe(item, sizeof(*item) + item->content_len); /* names and content were in clear here */
    free(item);
}

static enum base_code check_sizes(const struct aud_record *r, struct base_err *err)
{
    if (r->kind < AUD_INTENT || r->kind > AUD_EVENT)
        return base_fail(err, BASE_INVALID, 0, "an audit record of kind %d", (int)r->kind);
    if (r->n_reasons > AUD_REASONS_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "%u reasons, limit %u", r->n_reasons, AUD_REASONS_MAX);
    if (r->content != NULL && r->content_len > AUD_CONTENT_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "content of %zu bytes, limit %u", r->content_len,
                         AUD_CONTENT_MAX);
    if (bounded_len(r->issuer) > AUD_TEXT_MAX || bounded_len(r->subject) > AUD_TEXT_MAX)
        return base_fail(err, BASE_TOO_LARGE, 0, "issuer or subject passes %u bytes", AUD_TEXT_MAX);
    return BASE_OK;
}

/* Room in journal and queue for `size` more bytes of this kind. */
static enum base_code check_room(struct aud *aud, enum aud_kind kind, size_t size, struct base_err *err)
{
    bool reserve = kind == AUD_OUTCOME;
    uint64_t limit = aud->max_bytes - (reserve ? 0 : aud->max_bytes / RESERVE_PARTS);
    uint64_t queued = atomic_load(&aud->queued_bytes);

    if (atomic_load(&aud->closed))
        return base_fail(err, BASE_CANCELLED, 0, "the audit journal is closed");
    if (!reserve && atomic_load(&aud->disk_refuses))
        return base_fail(err, BASE_FULL, 0, "the disk of the audit journal takes no more");
    if (aud_journal_bytes(aud->journal) + queued + size > limit)
        return base_fail(err, BASE_FULL, 0, "the audit journal is at its cap of %llu bytes",
                         (unsigned long long)aud->max_bytes);
    if (queued + size > QUEUE_BYTES_MAX ||
        (!reserve && base_queue_depth(aud->queue) >= QUEUE_MAX - QUEUE_MAX / RESERVE_PARTS))
        return base_fail(err, BASE_FULL, 0, "too many audit records are waiting for the disk");
    return BASE_OK;
}

enum base_code aud_append(struct aud *aud, const struct aud_record *record, aud_durable_fn *on_durable,
                          void *user, struct base_err *err)
{
    size_t texts, content, size;
    struct item *item;
    enum base_code rc = check_sizes(record, err);

    if (rc != BASE_OK)
        return rc;
    texts = texts_size(record);
    content = record->content != NULL ? record->content_len : 0;
    size = RECORD_OVERHEAD + texts + content + (record->subject != NULL ? PERSON_OVERHEAD : 0);
    rc = check_room(aud, record->kind, size, err);
    if (rc != BASE_OK)
        return rc;
    item = base_try_zarray(1, sizeof(*item) + texts + content);
    if (item == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for an audit record of %zu bytes", size);
    fill_item(aud, item, record);
    item->size = size;
    item->fn = on_durable;
    item->user = user;
    rc = aud_record_check(&item->fields, err);
    if (rc == BASE_OK && !aud_text_valid(item->issuer, strlen(item->issuer)))
        rc = base_fail(err, BASE_INVALID, 0, "issuer is not UTF-8");
    if (rc == BASE_OK && !aud_text_valid(item->subject, strlen(item->subject)))
        rc = base_fail(err, BASE_INVALID, 0, "subject is not UTF-8");
    if (rc == BASE_OK) {
        atomic_fetch_add(&aud->queued_bytes, size);
        rc = base_queue_push(aud->queue, item);
        if (rc == BASE_OK)
            return BASE_OK;
        atomic_fetch_sub(&aud->queued_bytes, size);
        base_fail(err, rc, 0,
                  rc == BASE_FULL ? "too many audit records are waiting for the disk"
                                  : "the journal is closed");
    }
    item_free(item);
    return rc;
}

/* --- the audit thread --- */

static unsigned char *sealed_room(struct aud *aud, size_t n)
{
    if (n > aud->sealed_cap) {
        free(aud->sealed);
        aud->sealed = base_alloc(n);
        aud->sealed_cap = n;
    }
    return aud->sealed;
}

/* A person whom this process meets for the first time (or again after their key's life): who they are, and
 * their new key. */
static enum base_code add_person(struct aud *aud, const struct item *item, struct aud_person *person,
                                 struct base_err *err)
{
    unsigned char payload[AUD_MAPPING_SEALED_MAX];
    struct aud_fields base = {.wall_us = item->fields.wall_us}, f;
    enum base_code rc = BASE_OK;

    base.texts[AUD_T_PSEUDONYM] = item->fields.texts[AUD_T_PSEUDONYM];
    base.numbers[AUD_U_EPOCH] = item->fields.numbers[AUD_U_EPOCH];
    if (item->has_person) {
        f = base;
        f.kind = AUD_MAPPING;
        aud_seal_mapping(aud->sealer, &f, item->issuer, item->subject, payload);
        rc = aud_journal_add(aud->journal, &f, payload, f.payload_len, NULL, err);
    }
    if (rc != BASE_OK)
        return rc;
    f = base;
    f.kind = AUD_PERSON_KEY;
    aud_seal_key(aud->sealer, person, &f, payload);
    return aud_journal_add(aud->journal, &f, payload, f.payload_len, &person->seq, err);
}

static enum base_code add_item(struct aud *aud, struct item *item, struct base_err *err)
{
    struct aud_fields *f = &item->fields;
    struct aud_person *person;
    bool is_new = false;
    unsigned char *payload = NULL;

    f->instance = aud_journal_instance(aud->journal);
    if (item->has_person || item->content_len > 0) {
        person = aud_sealer_person(aud->sealer, item->pseudonym, base_mono_ms(), &is_new);
        if (is_new) {
            enum base_code rc;

            person->seq = UINT64_MAX; /* forgotten with any failure until its record says otherwise */
            rc = add_person(aud, item, person, err);
            if (rc != BASE_OK) {
                aud_sealer_forget_from(aud->sealer, UINT64_MAX);
                return rc;
            }
        }
        if (item->content_len > 0) {
            payload = sealed_room(aud, item->content_len + BASE_GCM_TAG_BYTES);
            aud_seal_content(person, f, item->content, item->content_len, payload);
        }
    }
    return aud_journal_add(aud->journal, f, payload, f->payload_len, &item->seq, err);
}

static void log_commit(struct aud *aud, enum base_code rc, const struct base_err *err)
{
    bool refuses = rc != BASE_OK;

    if (atomic_exchange(&aud->disk_refuses, refuses) == refuses)
        return;
    if (refuses)
        base_log_err(BASE_LOG_ERROR, "audit.journal_refused",
                     "no request is let in until audit records can be written", err);
    else
        base_log(BASE_LOG_INFO, "audit.journal_writable", "audit records can be written again");
}

/* One commit: durable, or every callback hears why not. */
static void commit_batch(struct aud *aud, size_t n)
{
    struct base_err err = {.code = BASE_OK};
    uint64_t from = aud_journal_next_seq(aud->journal), size = 0;
    int64_t wall_us = aud->batch[0]->fields.wall_us;
    enum base_code rc = aud_journal_begin(aud->journal, &err);

    for (size_t i = 0; rc == BASE_OK && i < n; i++)
        aud->batch[i]->rc = add_item(aud, aud->batch[i], &err);
    if (rc == BASE_OK)
        rc = aud_journal_commit(aud->journal, &err);
    if (rc != BASE_OK)
        aud_sealer_forget_from(aud->sealer, from);
    log_commit(aud, rc, &err);
    for (size_t i = 0; i < n; i++)
        size += aud->batch[i]->size;
    atomic_fetch_sub(&aud->queued_bytes, size);
    if (rc == BASE_OK && aud->shipper != NULL)
        aud_shipper_wake(aud->shipper, wall_us);
    for (size_t i = 0; i < n; i++) {
        struct item *item = aud->batch[i];
        enum base_code item_rc = rc != BASE_OK ? rc : item->rc;

        if (item_rc == BASE_OK)
            atomic_fetch_add(&aud->n_kind[item->fields.kind], 1);
        if (item->fn != NULL)
            item->fn(item_rc, item->seq, item->user);
        item_free(item);
    }
}

static void idle(struct aud *aud)
{
    struct aud_ship_stats ship;

    if (atomic_load(&aud->disk_refuses) && aud_journal_probe(aud->journal))
        log_commit(aud, BASE_OK, NULL);
    if (aud->shipper != NULL) {
        aud_shipper_stats(aud->shipper, &ship);
        aud_journal_tidy(aud->journal, ship.shipped_seq, TIDY_AGE_MS);
    }
}

static void *run(void *arg)
{
    struct aud *aud = arg;

    for (;;) {
        struct item *item = base_queue_pop(aud->queue, IDLE_MS);
        size_t n = 0, bytes = 0;

        if (item == NULL && atomic_load(&aud->closed) && base_queue_depth(aud->queue) == 0)
            return NULL;
        while (item != NULL) {
            aud->batch[n++] = item;
            bytes += item->size;
            if (n == COMMIT_ITEMS_MAX || bytes >= AUD_COMMIT_BYTES_MAX)
                break;
            item = base_queue_try_pop(aud->queue);
        }
        if (n > 0)
            commit_batch(aud, n);
        if (n == 0 || atomic_load(&aud->disk_refuses))
            idle(aud);
    }
}

/* --- opening and closing --- */

/* A new journal goes on where the database says; an old one must not be behind it. The database may be away.
 */
static enum base_code find_head(struct aud *aud, struct base_err *err)
{
    struct aud_hash head = AUD_CHAIN_START;
    uint64_t next_seq = 0;
    enum base_code rc = BASE_OK;
    bool is_new = aud_journal_is_new(aud->journal);

    if (aud->sink != NULL) {
        rc = aud_sink_head(aud->sink, &next_seq, &head, err);
        if (rc == BASE_UNAVAILABLE || rc == BASE_TIMEOUT) {
            base_log(BASE_LOG_WARN, "audit.database_away",
                     is_new ? "a new chain begins without asking the database"
                            : "the chain goes on from the journal");
            return is_new ? aud_journal_start(aud->journal, 0, &AUD_CHAIN_START, err) : BASE_OK;
        }
    }
    if (rc != BASE_OK)
        return rc;
    if (is_new)
        return aud_journal_start(aud->journal, next_seq, &head, err);
    if (aud->sink != NULL) {
        struct aud_cursor *cursor = aud_cursor_new(aud->journal, NULL);

        rc = aud_ship_compare(aud->journal, cursor, next_seq, &head, err);
        aud_cursor_free(cursor);
    }
    return rc;
}

static enum base_code check_options(const struct aud_options *o, struct base_err *err)
{
    if (o->kek == NULL || base_secret_len(o->kek) != BASE_GCM_KEY_BYTES)
        return base_fail(err, BASE_INVALID, 0, "the key-encryption key must be %u bytes", BASE_GCM_KEY_BYTES);
    if (o->pseudonym_key == NULL || base_secret_len(o->pseudonym_key) < 32)
        return base_fail(err, BASE_INVALID, 0, "the pseudonym key must be 32 bytes or more");
    if (o->journal_max_bytes != 0 && o->journal_max_bytes < JOURNAL_BYTES_MIN)
        return base_fail(err, BASE_INVALID, 0, "the journal's cap must be at least %llu bytes",
                         (unsigned long long)JOURNAL_BYTES_MIN);
    return BASE_OK;
}

static void aud_free(struct aud *aud)
{
    aud_sink_free(aud->sink);
    aud_kept_free(aud->kept);
    aud_journal_free(aud->journal);
    aud_sealer_free(aud->sealer);
    if (aud->queue != NULL)
        base_queue_free(aud->queue);
    free(aud->batch);
    free(aud->sealed);
    free(aud);
}

enum base_code aud_open(struct aud **ret_aud, const struct aud_options *options, struct base_err *err)
{
    struct aud *aud;
    enum base_code rc = check_options(options, err);

    if (rc != BASE_OK)
        return rc;
    aud = base_zalloc(sizeof(*aud));
    aud->max_bytes = options->journal_max_bytes != 0 ? options->journal_max_bytes : JOURNAL_BYTES_DEFAULT;
    aud->sealer = aud_sealer_new(options->kek, options->pseudonym_key, options->epoch);
    rc = aud_journal_open(&aud->journal, options->journal_dir, options->instance, aud->max_bytes, err);
    if (rc == BASE_OK && options->writer_dsn != NULL) {
        aud->sink = aud_sink_new(options->writer_dsn, options->mapper_dsn, options->instance, aud->sealer);
        rc = aud_kept_open(&aud->kept, options->journal_dir, err);
    }
    if (rc == BASE_OK)
        rc = find_head(aud, err);
    if (rc != BASE_OK) {
        aud_free(aud);
        return rc;
    }
    aud->queue = base_queue_new(QUEUE_MAX);
    aud->batch = base_alloc(COMMIT_ITEMS_MAX * sizeof(struct item *));
    if (aud->sink != NULL)
        aud->shipper = aud_shipper_new(aud->journal, aud->sink, aud->kept, options->instance);
    if (pthread_create(&aud->thread, NULL, run, aud) != 0)
        abort();
    *ret_aud = aud;
    return BASE_OK;
}

void aud_close(struct aud *aud, unsigned ship_ms)
{
    if (aud == NULL)
        return;
    atomic_store(&aud->closed, true);
    base_queue_close(aud->queue);
    pthread_join(aud->thread, NULL);
    aud_shipper_stop(aud->shipper, ship_ms);
    aud_free(aud);
}

void aud_pseudonym(const struct aud *aud, const char *issuer, const char *subject,
                   char out[AUD_PSEUDONYM_MAX])
{
    aud_sealer_pseudonym(aud->sealer, issuer, subject, out);
}

void aud_get_stats(struct aud *aud, struct aud_stats *ret_stats)
{
    struct aud_ship_stats ship = {.shipped_seq = aud_journal_first_seq(aud->journal)};
    struct aud_stats s = {.journal_limit_bytes = aud->max_bytes};

    s.fsyncs_total = aud_journal_fsyncs(aud->journal, &s.fsync_us_total);
    s.intents_total = atomic_load(&aud->n_kind[AUD_INTENT]);
    s.outcomes_total = atomic_load(&aud->n_kind[AUD_OUTCOME]);
    s.events_total = atomic_load(&aud->n_kind[AUD_EVENT]);
    s.journal_bytes = aud_journal_bytes(aud->journal);
    s.next_seq = aud_journal_next_seq(aud->journal);
    if (aud->shipper != NULL)
        aud_shipper_stats(aud->shipper, &ship);
    s.shipped_seq = ship.shipped_seq;
    s.ship_lag_us = ship.lag_us;
    s.postgres_up = ship.up;
    s.writable = check_room(aud, AUD_INTENT, RECORD_OVERHEAD + PERSON_OVERHEAD, NULL) == BASE_OK;
    *ret_stats = s;
}
