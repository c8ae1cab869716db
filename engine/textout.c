/* Text output: see textout.h. */
#include "engine/textout.h"

#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#define HELD_MAX 65536u /* one token is at most 1 KiB, a stop string 256 bytes: far from it */

void eng_textout_init(struct eng_textout *to, const char *const *stop, unsigned n_stop, bool skip_space)
{
    *to = (struct eng_textout){
        .held = BASE_BUF_INIT(HELD_MAX), .out = BASE_BUF_INIT(4 * HELD_MAX), .skip_space = skip_space};
    for (unsigned i = 0; i < n_stop && i < ENG_STOP_MAX; i++)
        to->stop[to->n_stop++] = base_strdup(stop[i]);
}

void eng_textout_free(struct eng_textout *to)
{
    if (to->held.data != NULL)
        base_wipe(to->held.data, to->held.cap);
    if (to->out.data != NULL)
        base_wipe(to->out.data, to->out.cap);
    base_buf_free(&to->held);
    base_buf_free(&to->out);
    for (unsigned i = 0; i < to->n_stop; i++)
        free(to->stop[i]);
    to->n_stop = 0;
}

/* Length of the well-formed sequence at s; 0 when there is none. */
static size_t sequence_len(const char *s, size_t n)
{
    for (size_t len = 1; len <= 4 && len <= n; len++) {
        if (base_utf8_valid(s, len))
            return len;
    }
    return 0;
}

/* Moves the first n held bytes to `out`, repaired. */
static void emit(struct eng_textout *to, size_t n)
{
    const char *s = to->held.data;

    if (n == 0)
        return;
    if (base_utf8_valid(s, n))
        base_buf_append(&to->out, s, n);
    else {
        for (size_t i = 0; i < n;) {
            size_t len = sequence_len(s + i, n - i);

            base_buf_append(&to->out, len > 0 ? s + i : "\xef\xbf\xbd", len > 0 ? len : 3);
            i += len > 0 ? len : 1;
        }
    }
    base_buf_consume(&to->held, n);
}

/* Where the first complete stop string begins; SIZE_MAX: none. */
static size_t find_stop(const struct eng_textout *to)
{
    size_t first = SIZE_MAX;

    for (unsigned i = 0; i < to->n_stop; i++) {
        const char *hit = memmem(to->held.data, to->held.len, to->stop[i], strlen(to->stop[i]));

        if (hit != NULL && (size_t)(hit - to->held.data) < first)
            first = (size_t)(hit - to->held.data);
    }
    return first;
}

/* Bytes before the first place where a stop string may have begun. */
static size_t free_of_stops(const struct eng_textout *to)
{
    for (size_t at = 0; at < to->held.len; at++) {
        for (unsigned i = 0; i < to->n_stop; i++) {
            size_t left = to->held.len - at;

            if (left < strlen(to->stop[i]) && memcmp(to->held.data + at, to->stop[i], left) == 0)
                return at;
        }
    }
    return to->held.len;
}

bool eng_textout_push(struct eng_textout *to, const char *bytes, size_t n)
{
    size_t stop, ready;

    base_buf_reset(&to->out);
    if (to->skip_space && n > 0) {
        to->skip_space = false;
        if (bytes[0] == ' ') {
            bytes++;
            n--;
        }
    }
    if (n == 0 || base_buf_append(&to->held, bytes, n) != BASE_OK)
        return false;
    stop = find_stop(to);
    if (stop != SIZE_MAX) {
        emit(to, base_utf8_complete(to->held.data, stop));
        base_buf_reset(&to->held);
        return true;
    }
    ready = free_of_stops(to);
    emit(to, base_utf8_complete(to->held.data, ready));
    return false;
}

void eng_textout_end(struct eng_textout *to)
{
    base_buf_reset(&to->out);
    if (to->held.len > 0)
        emit(to, base_utf8_complete(to->held.data, to->held.len));
}
