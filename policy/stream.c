/* Guarding a stream. See policy.h.
 *
 * Invariants:
 * 1. `held` has the bytes from matcher.settled to matcher.pos, but for those that a masked open finding has
 * swallowed.
 * 2. A byte leaves only through release(), which runs up to matcher_live(): no finding that is still to come
 * can begin before it.
 * 3. What is released is a function of the characters taken, not of the chunks: on a block too, text goes out
 * up to the first byte that was live or belongs to what is blocked.
 */
#include "policy/detect.h"
#include "policy/guard.h"
#include "policy/snapshot.h"

#include "base/mem.h"

#include <string.h>

#define HELD_MAX \
    (1u << 20) /* far above what DETECT_HOLD_MAX symbols can need: a bug ends the answer, not the process */
#define SWEEP_EVERY 512u /* bytes */

struct pol_stream {
    struct pol_snapshot *snapshot;
    enum pol_action actions[POL_DETECT_COUNT];
    struct matcher matcher;
    struct base_buf held;
    struct guard_writer writer;
    struct pol_stream_report report;
    bool finished;
};

struct pol_stream *pol_stream_new(struct pol_snapshot *snapshot, struct pol_scratch *scratch,
                                  const struct pol_guard *guard)
{
    struct pol_stream *stream = base_zalloc(sizeof(*stream));

    stream->snapshot = pol_ref(snapshot);
    memcpy(stream->actions, guard->output, sizeof(stream->actions));
    matcher_init(&stream->matcher);
    base_buf_init(&stream->held, HELD_MAX);
    stream->writer.actions = stream->actions;
    return stream;
}

void pol_stream_free(struct pol_stream *stream)
{
    if (stream == NULL)
        return;
    matcher_free(&stream->matcher);
    base_buf_free(&stream->held);
    pol_unref(stream->snapshot);
    free(stream);
}

const struct pol_stream_report *pol_stream_report(const struct pol_stream *stream)
{
    return &stream->report;
}

/* ---- releasing ---- */

struct piece_user {
    struct pol_stream *stream;
    size_t base; /* where held.data begins in the answer */
};

static void write_piece(void *user, size_t start, size_t end, uint32_t kinds)
{
    const struct piece_user *piece = user;

    guard_write_piece(&piece->stream->writer, piece->stream->held.data + (start - piece->base), start, end,
                      kinds);
}

static void release(struct pol_stream *stream, size_t upto, struct base_buf *out)
{
    struct piece_user user = {.stream = stream, .base = stream->matcher.settled};

    if (upto <= user.base)
        return;
    stream->writer.out = out;
    matcher_sweep(&stream->matcher, upto, write_piece, &user);
    base_buf_consume(&stream->held, upto - user.base);
    stream->report.masked = stream->writer.n_masked;
}

static void report(struct pol_stream *stream)
{
    memcpy(stream->report.found, stream->matcher.found, sizeof(stream->report.found));
    stream->report.held_bytes = stream->held.len;
}

/* ---- blocking ---- */

/* When something that the guard blocks has just been confirmed: releases what lies before it and ends the
 * stream. */
static bool stop_if_blocked(struct pol_stream *stream, struct base_buf *out)
{
    struct matcher *m = &stream->matcher;
    uint32_t blocking = 0;
    size_t upto = matcher_live(m);

    for (unsigned kind = 1; kind < POL_DETECT_COUNT; kind++)
        if ((m->fresh >> kind & 1) != 0 && stream->actions[kind] == POL_ACTION_BLOCK) {
            blocking |= 1u << kind;
            if (m->fresh_start[kind] < upto)
                upto = m->fresh_start[kind];
        }
    m->fresh = 0;
    if (blocking == 0)
        return false;
    release(stream, upto, out);
    stream->report.blocked = true;
    stream->report.blocked_by = guard_owner(blocking);
    base_buf_reset(&stream->held);
    report(stream);
    return true;
}

/* ---- taking ---- */

/* After block or end nothing is taken any more. */
static enum base_code refuse_more(const struct pol_stream *stream)
{
    return stream->report.blocked ? BASE_DENIED : BASE_INVALID;
}

static enum base_code settle(struct pol_stream *stream, struct base_buf *out)
{
    release(stream, matcher_live(&stream->matcher), out);
    report(stream);
    return out->failed || stream->held.failed ? BASE_TOO_LARGE : BASE_OK;
}

enum base_code pol_stream_push(struct pol_stream *stream, const char *text, size_t len, struct base_buf *out)
{
    struct matcher *m = &stream->matcher;
    size_t taken = 0;

    if (stream->report.blocked || stream->finished)
        return refuse_more(stream);
    while (taken < len) {
        size_t stop = len - taken < SWEEP_EVERY ? len : taken + SWEEP_EVERY, at = taken;
        enum base_code rc;

        while (at < stop && m->fresh == 0)
            at += matcher_take(m, text + at, len - at);
        base_buf_append(&stream->held, text + taken, at - taken);
        taken = at;
        if (m->fresh != 0 && stop_if_blocked(stream, out))
            return BASE_DENIED;
        rc = settle(stream, out);
        if (rc != BASE_OK)
            return rc;
    }
    return BASE_OK;
}

enum base_code pol_stream_finish(struct pol_stream *stream, struct base_buf *out)
{
    if (stream->report.blocked || stream->finished)
        return refuse_more(stream);
    stream->finished = true;
    matcher_end(&stream->matcher);
    if (stream->matcher.fresh != 0 && stop_if_blocked(stream, out))
        return BASE_DENIED;
    return settle(stream, out);
}
