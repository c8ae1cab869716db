/* The journal: this instance's records on local disk until Postgres has them.
 *
 * What: segment files NNN.seg (20 digits, the first sequence number) in one folder, written by group commit:
 *       begin, add, add, commit = one write and one fdatasync. Read back by cursors.
 * Who:  begin/add/commit/tidy: one thread (the audit thread). Cursors and drop: one other thread (the
 *       shipper). Numbers: any.
 * Promises:
 *   - commit returns BASE_OK only after fdatasync succeeded on everything it wrote;
 *   - a commit that fails leaves the chain where it was; the sequence numbers are used again;
 *   - after a failed fdatasync the file is never written or trusted again: a new segment goes on from the
 *     last good record;
 *   - a crash leaves at most a torn tail, which the next open cuts; any other damage is BASE_CORRUPT with
 *     file and offset.
 */
#ifndef AUDIT_JOURNAL_H
#define AUDIT_JOURNAL_H

#include "audit/segment.h"

#define AUD_SEGMENT_BYTES_MAX (64u << 20)
#define AUD_SEGMENT_BYTES_MIN (64u << 10)
#define AUD_COMMIT_BYTES_MAX  (32u << 20) /* of queued records taken into one commit, before the last one */

struct aud_journal;

/* Makes the folder (0700) when missing, locks it (BASE_EXISTS when another process has it), checks every
 * segment. */
enum base_code aud_journal_open(struct aud_journal **ret_journal, const char *dir, const char *instance,
                                uint64_t max_bytes, struct base_err *err);
void aud_journal_free(struct aud_journal *journal); /* NULL is allowed */

/* True when the folder holds no segment yet: say where the chain goes on with aud_journal_start. */
bool aud_journal_is_new(const struct aud_journal *journal);
enum base_code aud_journal_start(struct aud_journal *journal, uint64_t next_seq, const struct aud_hash *head,
                                 struct base_err *err);

/* A group commit. Between begin and commit every add assigns fields->seq, and sets ret_seq when not NULL. */
enum base_code aud_journal_begin(struct aud_journal *journal, struct base_err *err);
enum base_code aud_journal_add(struct aud_journal *journal, struct aud_fields *fields, const void *payload,
                               size_t payload_len, uint64_t *ret_seq, struct base_err *err);
/* BASE_FULL: no space on the device; BASE_IO. The records of a failed commit are gone. */
enum base_code aud_journal_commit(struct aud_journal *journal, struct base_err *err);

/* True when the disk would take a commit now: reserves a little space to find out. */
bool aud_journal_probe(struct aud_journal *journal);
/* Starts a new segment when all records of the current one are below shipped_seq and it is older than
 * max_age_ms, so that what is in Postgres does not stay here for long (wrapped keys, above all). */
void aud_journal_tidy(struct aud_journal *journal, uint64_t shipped_seq, uint64_t max_age_ms);
/* Deletes the segments whose records are all below seq. The newest always stays: it holds the chain's head.
 */
void aud_journal_drop_below(struct aud_journal *journal, uint64_t seq);

struct aud_str aud_journal_instance(const struct aud_journal *journal); /* borrowed */
uint64_t aud_journal_first_seq(struct aud_journal *journal);            /* of the oldest segment */
uint64_t aud_journal_next_seq(struct aud_journal *journal);             /* records below it are durable */
uint64_t aud_journal_bytes(struct aud_journal *journal);
uint64_t aud_journal_fsyncs(struct aud_journal *journal, uint64_t *ret_us_total);
int64_t aud_journal_first_wall_us(
    const struct aud_journal *journal); /* of the oldest record found at open; 0: none */

/* --- reading --- */

/* Reads durable records in order: of an open journal, or (journal NULL) of a folder that another process may
 * be writing. */
struct aud_cursor;
struct aud_cursor *aud_cursor_new(struct aud_journal *journal, const char *dir);
void aud_cursor_free(struct aud_cursor *cursor);
/* The next record will be `seq`; *ret_prev is the hash before it. BASE_NOT_FOUND when the journal does not
 * hold the place. */
enum base_code aud_cursor_seek(struct aud_cursor *cursor, uint64_t seq, struct aud_hash *ret_prev,
                               struct base_err *err);
/* ret_frame's bytes live until the next call. BASE_NOT_FOUND at the end; BASE_CORRUPT. */
enum base_code aud_cursor_next(struct aud_cursor *cursor, struct aud_frame *ret_frame, struct base_err *err);
/* The first sequence number of the oldest segment in the folder, and its instance. BASE_NOT_FOUND when there
 * is none. */
enum base_code aud_cursor_oldest(struct aud_cursor *cursor, struct aud_segment_header *ret_header,
                                 struct base_err *err);

#endif
