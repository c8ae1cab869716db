/* The Postgres side of shipping: one connection that may only insert records, one that may only insert
 * mappings.
 *
 * Who:  the shipping thread (and aud_open before it starts).
 * Promises: a batch is in Postgres whole or not at all; BASE_OK means committed with synchronous_commit.
 *           After any failure the connection is dropped: whether it was committed, aud_sink_head says.
 */
#ifndef AUDIT_PG_SINK_H
#define AUDIT_PG_SINK_H

#include "audit/seal.h"
#include "audit/segment.h"

#define AUD_SINK_TIMEOUT_MS 5000u

struct aud_sink;

/* mapper_dsn NULL: mappings are not shipped. The sealer opens them and must outlive the sink. */
struct aud_sink *aud_sink_new(const char *writer_dsn, const char *mapper_dsn, const char *instance,
                              const struct aud_sealer *sealer);
void aud_sink_free(struct aud_sink *sink); /* NULL is allowed */

/* Where the instance's chain ends there: the next sequence number and the hash before it (0 and zeros: it has
 * none). */
enum base_code aud_sink_head(struct aud_sink *sink, uint64_t *ret_next_seq, struct aud_hash *ret_head,
                             struct base_err *err);

/* Collects a record for the next write; copies what it needs. fields are the frame's, decoded. */
enum base_code aud_sink_add(struct aud_sink *sink, const struct aud_fields *fields,
                            const struct aud_frame *frame, const struct aud_hash *prev, struct base_err *err);
/* Without a mapper, mappings are the caller's to keep; with one, this inserts one that was kept. */
bool aud_sink_has_mapper(const struct aud_sink *sink);
enum base_code aud_sink_map(struct aud_sink *sink, const struct aud_fields *fields,
                            const struct aud_frame *frame, struct base_err *err);
size_t aud_sink_pending_bytes(const struct aud_sink *sink);
/* Drops what was collected. */
void aud_sink_forget(struct aud_sink *sink);
/* Writes what was collected in one transaction. BASE_EXISTS: some of it is there already. Nothing is kept in
 * either case. */
enum base_code aud_sink_write(struct aud_sink *sink, struct base_err *err);

#endif
