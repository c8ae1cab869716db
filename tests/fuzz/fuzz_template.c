/* Fuzz target: chat templates. Input: a template, a NUL, the content of a message. */
#include "base/buf.h"
#include "base/str.h"
#include "engine/template.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_spans(const struct eng_template_span *spans, size_t n, size_t len)
{
    size_t end = 0;

    for (size_t i = 0; i < n; i++) {
        if (spans[i].start != end || spans[i].end <= spans[i].start)
            abort();
        if (i > 0 && spans[i].from_message == spans[i - 1].from_message)
            abort();
        end = spans[i].end;
    }
    if (end != len)
        abort();
}

/* Every copy of a byte that only the message holds must be marked. The template is free of 0x01 (checked), no
 * escape makes one but \x01 and its like, which are refused here by looking for a backslash. */
static void check_provenance(const struct base_buf *out, const struct eng_template_span *spans, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!spans[i].from_message &&
            memchr(out->data + spans[i].start, 0x01, spans[i].end - spans[i].start) != NULL)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t len = nul != NULL ? (size_t)(nul - data) : size;
    const char *content = nul != NULL ? text + len + 1 : "hi";
    size_t content_len = nul != NULL ? size - len - 1 : 2;
    struct eng_template *tmpl = NULL;
    struct base_err err;

    if (!base_utf8_valid(content, content_len))
        content_len = 0;
    if (eng_template_compile(&tmpl, text, len, &err) == BASE_OK) {
        const struct eng_message messages[] = {
            {"system", content, content_len}, {"user", "\x01", 1}, {"assistant", content, content_len}};
        const struct eng_template_args args = {.messages = messages,
                                               .n_messages = 3,
                                               .add_generation_prompt = true,
                                               .bos_token = "<s>",
                                               .eos_token = "</s>",
                                               .now_wall_us = 1753525815LL * 1000000};
        struct base_buf out = BASE_BUF_INIT(ENG_TEMPLATE_OUTPUT_MAX);
        struct eng_template_span *spans = NULL;
        size_t n_spans = 0;

        if (eng_template_render(tmpl, &args, &out, &spans, &n_spans, &err) == BASE_OK) {
            check_spans(spans, n_spans, out.len);
            if (out.len > 0 && memchr(text, '\\', len) == NULL && memchr(text, 0x01, len) == NULL)
                check_provenance(&out, spans, n_spans);
        }
        free(spans);
        base_buf_free(&out);
        eng_template_free(tmpl);
    }
    return 0;
}
