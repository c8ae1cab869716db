/* Mappings that cannot be shipped because no mapper is configured: kept beside the journal, still sealed,
 * when the segment that holds them is dropped; given to the mapper once there is one. Frames as in segment.h,
 * one after the other.
 *
 * Who: the shipping thread. Past AUD_KEPT_MAX bytes nothing is added: the pseudonym can still be found again
 * by whoever holds the pseudonym key and a list of names.
 */
#ifndef AUDIT_KEPT_H
#define AUDIT_KEPT_H

#include "audit/segment.h"

#define AUD_KEPT_MAX (64u << 20)

struct aud_kept;

/* Cuts a torn end. */
enum base_code aud_kept_open(struct aud_kept **ret_kept, const char *dir, struct base_err *err);
void aud_kept_free(struct aud_kept *kept); /* NULL is allowed */

/* Durable with BASE_OK. */
enum base_code aud_kept_add(struct aud_kept *kept, const struct aud_frame *frame, struct base_err *err);
bool aud_kept_empty(const struct aud_kept *kept);
typedef enum base_code aud_kept_fn(const struct aud_fields *fields, const struct aud_frame *frame, void *user,
                                   struct base_err *err);
enum base_code aud_kept_each(struct aud_kept *kept, aud_kept_fn *fn, void *user, struct base_err *err);
enum base_code aud_kept_clear(struct aud_kept *kept, struct base_err *err);

#endif
