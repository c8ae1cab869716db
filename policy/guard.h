/* Guard: how masked spans look, in one place for the whole text (guard.c) and the stream (stream.c).
 *
 * Pieces come in order (matcher_piece_fn). A piece is masked when one of its kinds has the action MASK;
 * pieces that touch are replaced by one label, that of the first one's most sensitive masked kind.
 */
#ifndef POLICY_GUARD_H
#define POLICY_GUARD_H

#include "policy/policy.h"

struct guard_writer {
    const enum pol_action *actions; /* by detector */
    struct base_buf *out;
    size_t masked_end; /* where the last masked piece ended; 0 with n_masked 0: none */
    uint32_t n_masked; /* labels written */
};

/* `bytes` are the piece's own (end - start of them); not read when it is masked. */
void guard_write_piece(struct guard_writer *writer, const char *bytes, size_t start, size_t end,
                       uint32_t kinds);

/* The most sensitive kind of a bit set: who owns a piece where findings overlap. NONE for an empty one. */
enum pol_detector guard_owner(uint32_t kinds);

#endif
