/* Fuzz: a chat request's body through the one parse, and what it gives through both encoders. */
#include "gateway/codec_openai.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct base_arena *arena = base_arena_new(1u << 20);
    struct base_buf out = BASE_BUF_INIT(4u << 20);
    struct gw_api_error error = {0};
    struct gw_chat chat, again;

    if (gw_openai_parse_chat(&chat, arena, (const char *)data, size, &error)) {
        /* what we would send must be readable by our own strict parse, with the same messages */
        if (gw_openai_encode_request(&chat, "m", chat.max_tokens, &out) != BASE_OK)
            abort();
        if (!gw_openai_parse_chat(&again, arena, out.data, out.len, &error) ||
            again.n_messages != chat.n_messages || again.content_bytes != chat.content_bytes)
            abort();
    } else if (gw_api_error_json(&error, &out) != BASE_OK) {
        abort();
    }
    base_buf_free(&out);
    base_arena_unref(arena);
    return 0;
}
