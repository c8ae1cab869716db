/* Prompts: a chat or a text to token ids.
 *
 * The rule that keeps a message from speaking with the template's voice: control tokens are looked for in the template's own text
 * alone (eng_tokenize_spans). Text and ids of a prompt are wiped before their memory is given back, here and in the template's and
 * the tokenizer's scratch memory.
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

static enum base_code too_long(const struct eng *eng, struct base_err *err)
{
    return base_fail(err, BASE_TOO_LARGE, 0, "the prompt passes the context of %u tokens",
                     eng->options.context_tokens);
}

static enum base_code take_prompt(struct eng *eng, const char *text, const struct eng_template_span *spans,
                                  size_t n_spans, bool skip_space, struct eng_prompt **ret_prompt,
                                  struct base_err *err)
{
    struct eng_prompt *prompt = base_zalloc(sizeof(*prompt));
    enum base_code rc = eng_tokenize_spans(eng->tok, text, spans, n_spans, true, eng->options.context_tokens,
                                           &prompt->ids, &prompt->n, err);

    if (rc == BASE_TOO_LARGE)
        rc = too_long(eng, err);
    if (rc == BASE_OK && prompt->n == 0)
        rc = base_fail(err, BASE_INVALID, 0, "the prompt has no tokens");
    if (rc != BASE_OK) {
        eng_prompt_free(prompt);
        return rc;
    }
    prompt->skip_space = skip_space;
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
    size_t room = sizeof("Assistant:");

    for (size_t i = 0; i < n_messages && room <= TEXT_MAX; i++)
        room += strlen(messages[i].role) + messages[i].content_len + sizeof(": \n\n");
    base_buf_reserve(out, room); /* at once: a buffer that grows leaves copies behind, unwiped */
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
    auto_free struct eng_template_span *spans = NULL;
    size_t n_spans = 0;
    enum base_code rc;

    if ((rc = check_messages(messages, n_messages, err)) != BASE_OK)
        return rc;
    rc = render(eng, messages, n_messages, &text, &spans, &n_spans, err);
    if (rc == BASE_OK)
        rc = take_prompt(eng, text.data, spans, n_spans,
                         eng_tokenizer_strips_first_space(eng->tok) || eng->tmpl == NULL, ret_prompt, err);
    if (text.data != NULL)
        base_wipe(text.data, text.cap);
    base_buf_free(&text);
    return rc;
}

enum base_code eng_prompt_text(struct eng *eng, const char *text, size_t len, struct eng_prompt **ret_prompt,
                               struct base_err *err)
{
    const struct eng_template_span span = {0, len, true};

    return take_prompt(eng, text, &span, 1, false, ret_prompt, err);
}

enum base_code eng_prompt_ids(struct eng *eng, const int32_t *ids, uint32_t n, struct eng_prompt **ret_prompt,
                              struct base_err *err)
{
    struct eng_prompt *prompt;

    if (n == 0)
        return base_fail(err, BASE_INVALID, 0, "the prompt has no tokens");
    if (n > eng->options.context_tokens)
        return too_long(eng, err);
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= eng->model->config.n_vocab)
            return base_fail(err, BASE_INVALID, 0, "token id %d is outside the vocabulary of %u", ids[i],
                             eng->model->config.n_vocab);
    }
    prompt = base_zalloc(sizeof(*prompt));
    prompt->ids = base_alloc(n * sizeof(*ids));
    memcpy(prompt->ids, ids, n * sizeof(*ids));
    prompt->n = n;
    *ret_prompt = prompt;
    return BASE_OK;
}

uint32_t eng_prompt_tokens(const struct eng_prompt *prompt)
{
    return prompt->n;
}

void eng_prompt_free(struct eng_prompt *prompt)
{
    if (prompt == NULL)
        return;
    if (prompt->ids != NULL)
        base_wipe(prompt->ids, prompt->n * sizeof(*prompt->ids));
    free(prompt->ids);
    free(prompt);
}
