/* Prompts: a chat or a text to token ids.
 *
 * The rule that keeps a message from speaking with the template's voice: control tokens are looked for in the template's own text
 * alone, by exact text. What lies between two of them (template text and message text together, since a tokenizer joins characters
 * across that border) is tokenized with special tokens switched off.
 *
 * A file without a chat template gets a plain transcript: "System: ...", "User: ...", "Assistant: ...", blank lines between, and
 * "Assistant:" at the end.
 */
#include "engine/engine_priv.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#define TEXT_MAX (32u << 20) /* bytes of one plain prompt; its tokens are limited by the context anyway */

struct special {
    struct eng_str text;
    int32_t id;
};

struct eng_specials {
    struct special *items; /* by first byte, longest first */
    uint32_t first[257];   /* items of first byte b: [first[b], first[b + 1]) */
};

static int by_first_byte(const void *a, const void *b)
{
    const struct special *x = a, *y = b;
    unsigned char cx = (unsigned char)x->text.p[0], cy = (unsigned char)y->text.p[0];

    if (cx != cy)
        return cx < cy ? -1 : 1;
    if (x->text.n != y->text.n)
        return x->text.n > y->text.n ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

struct eng_specials *eng_specials_new(const struct eng_vocab *vocab)
{
    struct eng_specials *sp = base_zalloc(sizeof(*sp));
    uint32_t n = 0;

    for (uint32_t i = 0; vocab->types != NULL && i < vocab->n_tokens; i++)
        n += vocab->types[i] == ENG_TOKEN_CONTROL || vocab->types[i] == ENG_TOKEN_USER_DEFINED;
    sp->items = base_zalloc((n + 1) * sizeof(*sp->items));
    n = 0;
    for (uint32_t i = 0; vocab->types != NULL && i < vocab->n_tokens; i++) {
        if ((vocab->types[i] == ENG_TOKEN_CONTROL || vocab->types[i] == ENG_TOKEN_USER_DEFINED) &&
            vocab->tokens[i].n > 0)
            sp->items[n++] = (struct special){vocab->tokens[i], (int32_t)i};
    }
    qsort(sp->items, n, sizeof(*sp->items), by_first_byte);
    for (uint32_t i = 0; i < n; i++)
        sp->first[(unsigned char)sp->items[i].text.p[0] + 1] = i + 1;
    for (uint32_t b = 1; b < 257; b++) {
        if (sp->first[b] == 0)
            sp->first[b] = sp->first[b - 1];
    }
    return sp;
}

void eng_specials_free(struct eng_specials *sp)
{
    if (sp == NULL)
        return;
    free(sp->items);
    free(sp);
}

/* The longest control token at s; NULL: none. */
static const struct special *find_special(const struct eng_specials *sp, const char *s, size_t n)
{
    unsigned char b = (unsigned char)s[0];

    for (uint32_t i = sp->first[b]; i < sp->first[b + 1]; i++) {
        const struct special *it = &sp->items[i];

        if (it->text.n <= n && memcmp(it->text.p, s, it->text.n) == 0)
            return it;
    }
    return NULL;
}

/* Ids as they grow, and the text since the last control token. */
struct builder {
    const struct eng *eng;
    int32_t *ids;
    uint32_t n;
    const char *run; /* pending text: [run, run + run_len) of the rendering */
    size_t run_len;
    struct base_err *err;
};

static enum base_code too_long(const struct eng *eng, struct base_err *err)
{
    return base_fail(err, BASE_TOO_LARGE, 0, "the prompt passes the context of %u tokens",
                     eng->options.context_tokens);
}

static enum base_code flush_run(struct builder *b)
{
    enum base_code rc;

    if (b->run_len == 0)
        return BASE_OK;
    rc = eng_tokenize(b->eng->tok, b->run, b->run_len, false, false, b->eng->options.context_tokens, &b->ids,
                      &b->n, b->err);
    b->run_len = 0;
    return rc == BASE_TOO_LARGE ? too_long(b->eng, b->err) : rc;
}

static enum base_code put_id(struct builder *b, int32_t id)
{
    if (b->n >= b->eng->options.context_tokens)
        return too_long(b->eng, b->err);
    b->ids = base_realloc(b->ids, ((size_t)b->n + 1) * sizeof(*b->ids));
    b->ids[b->n++] = id;
    return BASE_OK;
}

/* Template text: control tokens become ids, the rest joins the run. */
static enum base_code put_template(struct builder *b, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        const struct special *it = find_special(b->eng->specials, s + i, n - i);
        enum base_code rc;

        if (it == NULL) {
            b->run = b->run_len == 0 ? s + i : b->run;
            b->run_len++;
            i++;
            continue;
        }
        if ((rc = flush_run(b)) != BASE_OK || (rc = put_id(b, it->id)) != BASE_OK)
            return rc;
        i += it->text.n;
    }
    return BASE_OK;
}

static enum base_code put_spans(struct builder *b, const struct base_buf *text,
                                const struct eng_template_span *spans, size_t n_spans)
{
    for (size_t i = 0; i < n_spans; i++) {
        const char *s = text->data + spans[i].start;
        size_t n = spans[i].end - spans[i].start;
        enum base_code rc;

        if (spans[i].from_message) { /* spans have no gaps: the run simply grows */
            b->run = b->run_len == 0 ? s : b->run;
            b->run_len += n;
            continue;
        }
        rc = put_template(b, s, n);
        if (rc != BASE_OK)
            return rc;
    }
    return flush_run(b);
}

/* Puts the leading token in front when the tokenizer wants one and the template has not written it. */
static enum base_code lead(struct builder *b)
{
    auto_free int32_t *first = NULL;
    uint32_t n = 0;
    int32_t bos = eng_tokenizer_bos(b->eng->tok);
    enum base_code rc = eng_tokenize(b->eng->tok, "", 0, true, false, 8, &first, &n, b->err);

    if (rc != BASE_OK)
        return rc;
    if (n > 0 && first[0] == bos && bos >= 0)
        return put_id(b, bos);
    return BASE_OK;
}

static enum base_code take_prompt(struct builder *b, bool skip_space, struct eng_prompt **ret_prompt)
{
    struct eng_prompt *prompt;

    if (b->n == 0)
        return base_fail(b->err, BASE_INVALID, 0, "the prompt has no tokens");
    prompt = base_zalloc(sizeof(*prompt));
    *prompt = (struct eng_prompt){TAKE(b->ids), b->n, skip_space};
    *ret_prompt = prompt;
    return BASE_OK;
}

static const char *token_text(const struct eng *eng, int32_t id, char out[ENG_TOKEN_BYTES_MAX + 1])
{
    struct eng_str s = {"", 0};

    if (id >= 0)
        s = eng->model->vocab.tokens[id];
    memcpy(out, s.p, s.n);
    out[s.n] = '\0';
    return out;
}

static enum base_code render_plain(const struct eng_message *messages, size_t n_messages,
                                   struct base_buf *out, struct eng_template_span **ret_spans, size_t *ret_n,
                                   struct base_err *err)
{
    struct eng_template_span *spans = base_zalloc(sizeof(*spans));

    for (size_t i = 0; i < n_messages; i++) {
        const char *role = messages[i].role;

        base_buf_printf(out, "%c%s: ", role[0] >= 'a' && role[0] <= 'z' ? role[0] - 32 : role[0],
                        role[0] != '\0' ? role + 1 : "");
        base_buf_append(out, messages[i].content, messages[i].content_len);
        base_buf_append_str(out, "\n\n");
    }
    base_buf_append_str(out, "Assistant:");
    if (out->failed) {
        free(spans);
        return base_fail(err, BASE_TOO_LARGE, 0, "the prompt is longer than %u bytes", TEXT_MAX);
    }
    *spans = (struct eng_template_span){0, out->len, true};
    *ret_spans = spans;
    *ret_n = 1;
    return BASE_OK;
}

static enum base_code render(const struct eng *eng, const struct eng_message *messages, size_t n_messages,
                             struct base_buf *out, struct eng_template_span **ret_spans, size_t *ret_n,
                             struct base_err *err)
{
    const struct eng_vocab *v = &eng->model->vocab;
    char bos[ENG_TOKEN_BYTES_MAX + 1], eos[ENG_TOKEN_BYTES_MAX + 1];
    struct eng_template_args args = {.messages = messages,
                                     .n_messages = n_messages,
                                     .add_generation_prompt = true,
                                     .bos_token = token_text(eng, v->bos, bos),
                                     .eos_token = token_text(eng, v->eos, eos),
                                     .now_wall_us = base_wall_us()};

    if (eng->tmpl == NULL)
        return render_plain(messages, n_messages, out, ret_spans, ret_n, err);
    return eng_template_render(eng->tmpl, &args, out, ret_spans, ret_n, err);
}

static enum base_code check_messages(const struct eng_message *messages, size_t n_messages,
                                     struct base_err *err)
{
    if (n_messages == 0 || n_messages > ENG_MESSAGES_MAX)
        return base_fail(err, BASE_INVALID, 0, "%zu messages (1 to %u are allowed)", n_messages,
                         ENG_MESSAGES_MAX);
    for (size_t i = 0; i < n_messages; i++) {
        const char *role = messages[i].role;

        if (strcmp(role, "system") != 0 && strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 &&
            strcmp(role, "tool") != 0)
            return base_fail(err, BASE_INVALID, 0, "message %zu has an unknown role", i);
        if (!base_utf8_valid(messages[i].content, messages[i].content_len))
            return base_fail(err, BASE_INVALID, 0, "message %zu is not valid UTF-8", i);
    }
    return BASE_OK;
}

enum base_code eng_prompt_chat(struct eng *eng, const struct eng_message *messages, size_t n_messages,
                               struct eng_prompt **ret_prompt, struct base_err *err)
{
    struct base_buf text = BASE_BUF_INIT(TEXT_MAX);
    struct eng_template_span *spans = NULL;
    struct builder b = {.eng = eng, .err = err};
    size_t n_spans = 0;
    enum base_code rc;

    if ((rc = check_messages(messages, n_messages, err)) != BASE_OK)
        return rc;
    rc = render(eng, messages, n_messages, &text, &spans, &n_spans, err);
    if (rc == BASE_OK)
        rc = put_spans(&b, &text, spans, n_spans);
    if (rc == BASE_OK && (b.n == 0 || b.ids[0] != eng_tokenizer_bos(eng->tok))) {
        struct builder with_bos = {.eng = eng, .err = err};

        rc = lead(&with_bos);
        for (uint32_t i = 0; rc == BASE_OK && i < b.n && with_bos.n > 0; i++)
            rc = put_id(&with_bos, b.ids[i]);
        if (with_bos.n > 0) {
            free(b.ids);
            b = with_bos;
        }
    }
    if (rc == BASE_OK)
        rc = take_prompt(&b, eng_tokenizer_strips_first_space(eng->tok) || eng->tmpl == NULL, ret_prompt);
    if (text.data != NULL)
        base_wipe(text.data, text.cap);
    base_buf_free(&text);
    free(spans);
    free(b.ids);
    return rc;
}

enum base_code eng_prompt_text(struct eng *eng, const char *text, size_t len, struct eng_prompt **ret_prompt,
                               struct base_err *err)
{
    struct builder b = {.eng = eng, .err = err};
    enum base_code rc =
        eng_tokenize(eng->tok, text, len, true, false, eng->options.context_tokens, &b.ids, &b.n, err);

    if (rc == BASE_TOO_LARGE)
        rc = too_long(eng, err);
    if (rc == BASE_OK)
        rc = take_prompt(&b, false, ret_prompt);
    free(b.ids);
    return rc;
}

enum base_code eng_prompt_ids(struct eng *eng, const int32_t *ids, uint32_t n, struct eng_prompt **ret_prompt,
                              struct base_err *err)
{
    struct builder b = {.eng = eng, .err = err};

    if (n > eng->options.context_tokens)
        return too_long(eng, err);
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= eng->model->config.n_vocab)
            return base_fail(err, BASE_INVALID, 0, "token id %d is outside the vocabulary of %u", ids[i],
                             eng->model->config.n_vocab);
    }
    b.ids = base_alloc((n + 1) * sizeof(*ids));
    memcpy(b.ids, ids, n * sizeof(*ids));
    b.n = n;
    if (n == 0) {
        free(b.ids);
        return base_fail(err, BASE_INVALID, 0, "the prompt has no tokens");
    }
    return take_prompt(&b, false, ret_prompt);
}

uint32_t eng_prompt_tokens(const struct eng_prompt *prompt)
{
    return prompt->n;
}

void eng_prompt_free(struct eng_prompt *prompt)
{
    if (prompt == NULL)
        return;
    base_wipe(prompt->ids, prompt->n * sizeof(*prompt->ids));
    free(prompt->ids);
    free(prompt);
}
