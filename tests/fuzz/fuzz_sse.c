/* Fuzz: a provider's stream in two cuts. The events must be the same however it is cut, and every chunk parse must be safe. */
#include "gateway/codec_openai.h"
#include "gateway/sse.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum base_code on_event(const char *data, size_t len, void *user)
{
    struct gw_openai_chunk chunk = {.text = BASE_BUF_INIT(1u << 20)};
    struct base_buf *seen = user;
    struct base_err err = {0};

    gw_openai_parse_chunk(&chunk, data, len, &err);
    base_buf_free(&chunk.text);
    base_buf_append(seen, data, len);
    base_buf_append_char(seen, '\x1e');
    return BASE_OK;
}

static void run(const char *bytes, size_t n, size_t step, struct base_buf *seen)
{
    struct gw_sse sse;

    gw_sse_init(&sse);
    for (size_t at = 0; at < n; at += step)
        if (gw_sse_push(&sse, bytes + at, n - at < step ? n - at : step, on_event, seen) != BASE_OK)
            break;
    gw_sse_free(&sse);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct base_buf whole = BASE_BUF_INIT(8u << 20), cut = BASE_BUF_INIT(8u << 20);

    if (size == 0)
        return 0;
    run((const char *)data + 1, size - 1, size, &whole);
    run((const char *)data + 1, size - 1, data[0] % 7 + 1u, &cut);
    if (whole.len != cut.len || (whole.len > 0 && memcmp(whole.data, cut.data, whole.len) != 0))
        abort();
    base_buf_free(&whole);
    base_buf_free(&cut);
    return 0;
}
