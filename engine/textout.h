/* Text output: bytes of tokens to pieces of valid UTF-8, with stop strings. Private to engine/.
 *
 * Who:  the engine's thread alone, one object per request.
 * Promises: what is emitted is valid UTF-8 in whole sequences (ill-formed bytes become U+FFFD, a sequence cut by the end of the answer
 *           is dropped); no byte that may belong to a stop string is emitted before that is decided, and a stop string never is.
 */
#ifndef ENGINE_TEXTOUT_H
#define ENGINE_TEXTOUT_H

#include "base/buf.h"
#include "engine/engine.h"

struct eng_textout {
    struct base_buf held; /* bytes not yet emitted */
    struct base_buf out;  /* what the last call emitted: text for one event; len may be 0 */
    char *stop[ENG_STOP_MAX];
    unsigned n_stop;
    bool skip_space; /* drop one blank at the very start */
};

void eng_textout_init(struct eng_textout *to, const char *const *stop, unsigned n_stop, bool skip_space);
void eng_textout_free(struct eng_textout *to); /* wipes the text */

/* Adds a token's bytes. True when a stop string is complete: `out` then holds what stood before it, and nothing more may come. */
bool eng_textout_push(struct eng_textout *to, const char *bytes, size_t n);
/* The answer ended: emits what was held back for a stop string that did not come. */
void eng_textout_end(struct eng_textout *to);

#endif
