/* Shipping: a thread that copies what is durable in the journal to Postgres, exactly once, and frees the
 * journal behind it.
 *
 * Why a thread of its own: the audit thread's fdatasync is what requests wait for; a Postgres that is slow or
 * gone (each call may take AUD_SINK_TIMEOUT_MS to say so) must not delay one. The two share the journal's
 * numbers and nothing else.
 */
#ifndef AUDIT_SHIP_H
#define AUDIT_SHIP_H

#include "audit/journal.h"
#include "audit/kept.h"
#include "audit/pg_sink.h"

#define AUD_SHIP_RECORDS_MAX    1000u
#define AUD_SHIP_BYTES_MAX      (16u << 20)
#define AUD_SHIP_WAIT_MS        50u    /* for a batch to fill */
#define AUD_SHIP_CHECK_MS       10000u /* idle: is the database's end of the chain still ours? */
#define AUD_SHIP_BACKOFF_MAX_MS 2000u

struct aud_shipper;

/* Nothing given is owned. Starts the thread. */
struct aud_shipper *aud_shipper_new(struct aud_journal *journal, struct aud_sink *sink, struct aud_kept *kept,
                                    const char *instance);
/* Something became durable; wall_us is the time of its first record. Any thread. */
void aud_shipper_wake(struct aud_shipper *shipper, int64_t wall_us);
/* Tries for at most wait_ms to ship the rest (a database call under way may add AUD_SINK_TIMEOUT_MS), joins,
 * frees. */
void aud_shipper_stop(struct aud_shipper *shipper, unsigned wait_ms);

struct aud_ship_stats {
    uint64_t shipped_seq, lag_us;
    bool up;
};
void aud_shipper_stats(struct aud_shipper *shipper, struct aud_ship_stats *ret_stats);

/* Whether the database's end of the chain fits the journal: BASE_CORRUPT says how not. cursor stands at
 * next_seq after BASE_OK. */
enum base_code aud_ship_compare(struct aud_journal *journal, struct aud_cursor *cursor, uint64_t next_seq,
                                const struct aud_hash *head, struct base_err *err);

#endif
