/* OpenAI chat codec: the wire format of chat completions, both ways. The only file pair that knows it.
 *
 * What: request bytes -> struct gw_chat (allow-listed fields, refused otherwise), struct gw_chat -> request bytes for a provider,
 *       provider chunks -> text and finish, our chunks and answers -> bytes.
 * Who:  any thread; keeps no state.
 * Source: openai/openai-openapi 2.3.0 (chat completions), RFC 8259.
 */
#ifndef GATEWAY_CODEC_OPENAI_H
#define GATEWAY_CODEC_OPENAI_H

#include "gateway/api_error.h"
#include "gateway/chat.h"

/* Parses once: duplicate keys, depth past GW_JSON_DEPTH_MAX, more than GW_JSON_VALUES_MAX values, invalid UTF-8, NUL characters and unknown fields are refused. Memory comes
 * from `arena`. False: `error` says what to tell the client. */
bool gw_openai_parse_chat(struct gw_chat *ret_chat, struct base_arena *arena, const char *body, size_t len,
                          struct gw_api_error *error);

/* What the audit keeps, as JSON: the messages, and after them {"stop":[...]} when there are stop strings. */
enum base_code gw_openai_encode_texts(const struct gw_chat *chat, struct base_buf *out);
/* A streaming request for a provider under its own model name; usage is always asked for. */
enum base_code gw_openai_encode_request(const struct gw_chat *chat, const char *upstream_model,
                                        uint32_t max_tokens, struct base_buf *out);

enum { GW_CHUNK_TEXT_MAX = 1 << 20 };
/* One data line of a provider's stream. */
struct gw_openai_chunk {
    struct base_buf text;   /* appended; the caller's */
    char finish_reason[24]; /* "" when none; "stop", "length", "content_filter", ... */
    bool has_usage;
    uint64_t prompt_tokens, completion_tokens;
    bool is_error;       /* the line was an error object */
    char error_code[64]; /* printable ASCII, "" when it had none */
};
enum base_code gw_openai_parse_chunk(struct gw_openai_chunk *chunk, const char *data, size_t len,
                                     struct base_err *err);

struct gw_openai_answer {
    const char *id;    /* request id; "chatcmpl-" is put before it */
    int64_t created;   /* Unix seconds */
    const char *model; /* as the client asked */
};
/* data: {...}\n\n lines. first: with role. */
void gw_openai_put_delta(struct base_buf *out, const struct gw_openai_answer *answer, bool first,
                         const char *text, size_t len, bool include_usage);
void gw_openai_put_finish(struct base_buf *out, const struct gw_openai_answer *answer,
                          const char *finish_reason, bool include_usage);
void gw_openai_put_usage(struct base_buf *out, const struct gw_openai_answer *answer, uint64_t prompt_tokens,
                         uint64_t completion_tokens);
void gw_openai_put_completion(struct base_buf *out, const struct gw_openai_answer *answer, const char *text,
                              size_t len, const char *finish_reason, uint64_t prompt_tokens,
                              uint64_t completion_tokens);

#endif
