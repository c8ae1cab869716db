/* Chat templates: a small Jinja interpreter, enough for the templates that models ship. Private to engine/.
 *
 * What: compiles the template text of a model file (untrusted) once, renders chats with it. The result is a
 * list of spans, each either template text (may hold control tokens) or message text (must never become one):
 * whoever writes
 *       "<|im_end|>" into a message gets those characters, not the token.
 * Who:  compile once, render from any thread at the same time.
 * Promises: bounded: output bytes, steps, nesting and compiled size have named limits; no file, clock or
 * network. Source: Jinja2 3.1 semantics as Hugging Face sets them (trim_blocks, lstrip_blocks, loop controls,
 * tojson without ASCII escapes, raise_exception, strftime_now).
 */
#ifndef ENGINE_TEMPLATE_H
#define ENGINE_TEMPLATE_H

#include "base/buf.h"
#include "base/err.h"
#include "engine/engine.h"

#include <stdbool.h>

#define ENG_TEMPLATE_BYTES_MAX  65536u
#define ENG_TEMPLATE_OUTPUT_MAX (8u << 20)
#define ENG_TEMPLATE_STEPS_MAX  2000000u
#define ENG_TEMPLATE_DEPTH_MAX  64u

struct eng_template;

/* BASE_INVALID with line and column for a syntax error or an unknown construct. */
enum base_code eng_template_compile(struct eng_template **ret_tmpl, const char *text, size_t len,
                                    struct base_err *err);
void eng_template_free(struct eng_template *tmpl); /* NULL is allowed */

struct eng_template_args {
    const struct eng_message *messages;
    size_t n_messages;
    bool add_generation_prompt;
    const char *bos_token, *eos_token; /* texts; "" when the model has none */
    int64_t now_wall_us;               /* for strftime_now */
};

/* One stretch of the rendered text: [start, end) of the output buffer. */
struct eng_template_span {
    size_t start, end;
    bool from_message; /* data: tokenize without special tokens */
};

/* Appends the rendering to `out`; spans cover it without gaps, in order. *ret_spans is freed with free().
 * BASE_INVALID with the template's message when it calls raise_exception. */
enum base_code eng_template_render(const struct eng_template *tmpl, const struct eng_template_args *args,
                                   struct base_buf *out, struct eng_template_span **ret_spans,
                                   size_t *ret_n_spans, struct base_err *err);

#endif
