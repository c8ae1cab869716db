/* The shipping thread. See ship.h.
 *
 *            ask the head, compare, seek                batch committed
 *   [unsure] ---------------------------> [in step] ------------------> [in step]
 *      ^   \_ unlike: log, back off           |  any failure (also: was it committed?)
 *      |______________________________________|  back off, doubling
 *
 * Invariants:
 *   1. in step: the database holds exactly the records below shipped_seq, and the cursor stands at
 *      shipped_seq;
 *   2. a batch is one transaction, and (instance, seq) is unique there: nothing is half shipped or
 *      shipped twice;
 *   3. the journal is dropped only below what a COMMIT or a compared head has confirmed.
 */
#include "audit/ship.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define BACKOFF_FIRST_MS 100u

struct aud_shipper {
    struct aud_journal *journal;
    struct aud_sink *sink;
    struct aud_kept *kept;
    char instance[AUD_INSTANCE_MAX + 1];
    pthread_t thread;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    bool stopping, up;
    uint64_t stop_by_ms, shipped_seq;
    int64_t oldest_wall_us; /* of the oldest record not shipped; 0: none */

    /* the thread's alone */
    struct aud_cursor *cursor;
    struct aud_hash prev;     /* before shipped_seq */
    bool in_step, was_logged; /* was_logged: this failure already has its line */
    uint64_t checked_ms;
    unsigned backoff_ms;
};

enum base_code aud_ship_compare(struct aud_journal *journal, struct aud_cursor *cursor, uint64_t next_seq,
                                const struct aud_hash *head, struct base_err *err)
{
    uint64_t first = aud_journal_first_seq(journal), end = aud_journal_next_seq(journal);
    struct aud_hash prev;
    enum base_code rc;

    if (next_seq > end)
        return base_fail(err, BASE_CORRUPT, 0,
                         "the database holds %llu records of this instance, the journal knows %llu: is the "
                         "journal an old copy, "
                         "or another process using this instance's name?",
                         (unsigned long long)next_seq, (unsigned long long)end);
    if (next_seq < first)
        return base_fail(err, BASE_CORRUPT, 0,
                         "the database holds %llu records of this instance, the journal begins with %llu: "
                         "records are missing in "
                         "the database",
                         (unsigned long long)next_seq, (unsigned long long)first);
    rc = aud_cursor_seek(cursor, next_seq, &prev, err);
    if (rc != BASE_OK)
        return rc;
    if (memcmp(prev.bytes, head->bytes, sizeof(prev.bytes)) != 0)
        return base_fail(err, BASE_CORRUPT, 0, "record %lld in the database is not the one in the journal",
                         (long long)next_seq - 1);
    return BASE_OK;
}

/* --- steps; each returns why it failed --- */

static void confirm(struct aud_shipper *s, uint64_t shipped_seq, int64_t oldest_wall_us)
{
    pthread_mutex_lock(&s->lock);
    s->shipped_seq = shipped_seq;
    s->up = true;
    if (oldest_wall_us != 0)
        s->oldest_wall_us = oldest_wall_us;
    if (shipped_seq >= aud_journal_next_seq(s->journal))
        s->oldest_wall_us = 0;
    pthread_mutex_unlock(&s->lock);
    aud_journal_drop_below(s->journal, shipped_seq);
}

static enum base_code map_kept(const struct aud_fields *fields, const struct aud_frame *frame, void *user,
                               struct base_err *err)
{
    return aud_sink_map(user, fields, frame, err);
}

/* A mapper was configured after a time without one: it gets what was kept for it. */
static enum base_code hand_over_kept(struct aud_shipper *s, struct base_err *err)
{
    enum base_code rc;

    if (!aud_sink_has_mapper(s->sink) || aud_kept_empty(s->kept))
        return BASE_OK;
    rc = aud_kept_each(s->kept, map_kept, s->sink, err);
    return rc == BASE_OK ? aud_kept_clear(s->kept, err) : rc;
}

static enum base_code get_in_step(struct aud_shipper *s, struct base_err *err)
{
    struct aud_hash head;
    uint64_t next_seq = 0;
    enum base_code rc = aud_sink_head(s->sink, &next_seq, &head, err);

    if (rc == BASE_OK)
        rc = aud_ship_compare(s->journal, s->cursor, next_seq, &head, err);
    if (rc == BASE_OK)
        rc = hand_over_kept(s, err);
    if (rc != BASE_OK)
        return rc;
    s->prev = head;
    s->in_step = true;
    s->checked_ms = base_mono_ms();
    confirm(s, next_seq, 0);
    return BASE_OK;
}

/* Idle for a while: the end of the chain in the database must still be what was shipped. */
static enum base_code check_end(struct aud_shipper *s, struct base_err *err)
{
    struct aud_hash head;
    uint64_t next_seq = 0;
    enum base_code rc = aud_sink_head(s->sink, &next_seq, &head, err);

    s->checked_ms = base_mono_ms();
    if (rc == BASE_OK &&
        (next_seq != s->shipped_seq || memcmp(head.bytes, s->prev.bytes, sizeof(head.bytes)) != 0))
        rc = base_fail(err, BASE_CORRUPT, 0,
                       "the end of this instance's chain in the database changed after it was shipped: "
                       "%llu records there, %llu shipped",
                       (unsigned long long)next_seq, (unsigned long long)s->shipped_seq);
    return rc;
}

static enum base_code ship_batch(struct aud_shipper *s, struct base_err *err)
{
    struct aud_hash prev = s->prev;
    uint64_t seq = s->shipped_seq;
    enum base_code rc = BASE_OK;
    int64_t newest_wall_us = 0;

    while (rc == BASE_OK && seq - s->shipped_seq < AUD_SHIP_RECORDS_MAX &&
           aud_sink_pending_bytes(s->sink) < AUD_SHIP_BYTES_MAX) {
        struct aud_frame frame;
        struct aud_fields fields;

        rc = aud_cursor_next(s->cursor, &frame, err);
        if (rc == BASE_NOT_FOUND)
            break;
        if (rc == BASE_OK) /* what disk or memory damaged since does not go further */
            rc = aud_frame_check(&frame, s->instance, seq, &prev, &fields, err);
        if (rc == BASE_OK)
            rc = aud_sink_add(s->sink, &fields, &frame, &prev, err);
        if (rc == BASE_OK && fields.kind == AUD_MAPPING && !aud_sink_has_mapper(s->sink))
            rc = aud_kept_add(s->kept, &frame, err);
        if (rc == BASE_OK) {
            prev = frame.hash;
            newest_wall_us = fields.wall_us;
            seq++;
        }
    }
    if (rc == BASE_OK || rc == BASE_NOT_FOUND)
        rc = aud_sink_write(s->sink, err);
    else
        aud_sink_forget(s->sink);
    if (rc != BASE_OK)
        return rc;
    s->prev = prev;
    s->checked_ms = base_mono_ms();
    confirm(s, seq, newest_wall_us); /* the next one is younger than this: near enough for a lag */
    return BASE_OK;
}

/* --- the thread --- */

static void wait_ms(struct aud_shipper *s, uint64_t ms) /* under the lock */
{
    uint64_t until = base_mono_ns() + ms * 1000000u;
    struct timespec ts = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};

    pthread_cond_timedwait(&s->wake, &s->lock, &ts);
}

static void failed(struct aud_shipper *s, enum base_code rc, const struct base_err *err)
{
    s->in_step = false;
    s->backoff_ms = s->backoff_ms == 0 ? BACKOFF_FIRST_MS : 2 * s->backoff_ms;
    if (s->backoff_ms > AUD_SHIP_BACKOFF_MAX_MS)
        s->backoff_ms = AUD_SHIP_BACKOFF_MAX_MS;
    if (!s->was_logged)
        base_log_err(rc == BASE_UNAVAILABLE || rc == BASE_TIMEOUT ? BASE_LOG_WARN : BASE_LOG_ERROR,
                     "audit.ship_failed", "audit records stay in the journal for now", err);
    s->was_logged = true;
    pthread_mutex_lock(&s->lock);
    s->up = false;
    pthread_mutex_unlock(&s->lock);
}

static void succeeded(struct aud_shipper *s)
{
    s->backoff_ms = 0;
    if (s->was_logged)
        base_log(BASE_LOG_INFO, "audit.ship_resumed", "audit records reach the database again");
    s->was_logged = false;
}

enum todo { TODO_STOP, TODO_SHIP, TODO_CHECK };

/* Waits for something to do. */
static enum todo next_todo(struct aud_shipper *s)
{
    uint64_t pending, idle_ms;
    bool filled = false;

    pthread_mutex_lock(&s->lock);
    if (s->backoff_ms > 0 && !(s->stopping && base_mono_ms() >= s->stop_by_ms))
        wait_ms(s, s->stopping && s->backoff_ms > 200 ? 200 : s->backoff_ms);
    for (;;) {
        pending = aud_journal_next_seq(s->journal) - s->shipped_seq;
        idle_ms = base_mono_ms() - s->checked_ms;
        if (s->stopping && ((s->in_step && pending == 0) || base_mono_ms() >= s->stop_by_ms)) {
            pthread_mutex_unlock(&s->lock);
            return TODO_STOP;
        }
        if (!s->in_step || (pending > 0 && (filled || s->stopping || pending >= AUD_SHIP_RECORDS_MAX))) {
            pthread_mutex_unlock(&s->lock);
            return TODO_SHIP;
        }
        if (pending > 0) {
            uint64_t until = base_mono_ms() + AUD_SHIP_WAIT_MS, now;

            while (!s->stopping && (now = base_mono_ms()) < until &&
                   aud_journal_next_seq(s->journal) - s->shipped_seq < AUD_SHIP_RECORDS_MAX)
                wait_ms(s, until - now);
            filled = true;
        } else if (idle_ms >= AUD_SHIP_CHECK_MS) {
            pthread_mutex_unlock(&s->lock);
            return TODO_CHECK;
        } else
            wait_ms(s, AUD_SHIP_CHECK_MS - idle_ms);
    }
}

static void *run(void *arg)
{
    struct aud_shipper *s = arg;
    enum todo todo;

    while ((todo = next_todo(s)) != TODO_STOP) {
        struct base_err err = {.code = BASE_OK};
        enum base_code rc = BASE_OK;

        if (todo == TODO_CHECK)
            rc = check_end(s, &err);
        else if (!s->in_step)
            rc = get_in_step(s, &err);
        else
            rc = ship_batch(s, &err);
        if (rc != BASE_OK)
            failed(s, rc, &err);
        else
            succeeded(s);
    }
    return NULL;
}

struct aud_shipper *aud_shipper_new(struct aud_journal *journal, struct aud_sink *sink, struct aud_kept *kept,
                                    const char *instance)
{
    struct aud_shipper *s = base_zalloc(sizeof(*s));
    pthread_condattr_t attr;

    s->journal = journal;
    s->sink = sink;
    s->kept = kept;
    snprintf(s->instance, sizeof(s->instance), "%s", instance);
    s->cursor = aud_cursor_new(journal, NULL);
    s->shipped_seq = aud_journal_first_seq(journal);
    s->oldest_wall_us = aud_journal_first_wall_us(journal);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&s->thread, NULL, run, s) != 0)
        abort();
    return s;
}

void aud_shipper_wake(struct aud_shipper *s, int64_t wall_us)
{
    pthread_mutex_lock(&s->lock);
    if (s->oldest_wall_us == 0)
        s->oldest_wall_us = wall_us;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void aud_shipper_stop(struct aud_shipper *s, unsigned stop_wait_ms)
{
    if (s == NULL)
        return;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    s->stop_by_ms = base_mono_ms() + stop_wait_ms;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    aud_cursor_free(s->cursor);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void aud_shipper_stats(struct aud_shipper *s, struct aud_ship_stats *ret_stats)
{
    int64_t now = base_wall_us();

    pthread_mutex_lock(&s->lock);
    ret_stats->shipped_seq = s->shipped_seq;
    ret_stats->lag_us =
        s->oldest_wall_us != 0 && now > s->oldest_wall_us ? (uint64_t)(now - s->oldest_wall_us) : 0;
    ret_stats->up = s->up;
    pthread_mutex_unlock(&s->lock);
}
