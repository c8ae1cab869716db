/* Chat: one chat request after its single parse. What is classified, guarded, recorded, forwarded and answered is this struct and
 * nothing else: the client's own bytes go no further.
 *
 * Who: made by codec_openai.c on a loop, lives in the call's arena; read-only once the guard has masked it.
 */
#ifndef GATEWAY_CHAT_H
#define GATEWAY_CHAT_H

#include "base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_CHAT_MESSAGES_MAX   2048u
#define GW_CHAT_STOP_MAX       8u
#define GW_CHAT_STOP_BYTES_MAX 256u
#define GW_CHAT_MODEL_MAX      128u
#define GW_JSON_DEPTH_MAX      32u
#define GW_JSON_VALUES_MAX     65536u

enum gw_role { GW_ROLE_NONE = 0, GW_ROLE_SYSTEM, GW_ROLE_USER, GW_ROLE_ASSISTANT };
const char *gw_role_name(enum gw_role role); /* "system", "user", "assistant" */

struct gw_text {
    const char *bytes; /* valid UTF-8 without NUL, NUL-terminated */
    size_t len;
};

struct gw_message {
    enum gw_role role;
    struct gw_text content;
};

struct gw_chat {
    struct base_arena *arena; /* owner of everything below; not referenced by this struct */
    char model[GW_CHAT_MODEL_MAX];
    struct gw_message *messages;
    size_t n_messages;
    size_t content_bytes; /* of all texts */
    bool stream, include_usage;
    uint32_t max_tokens; /* 0: not given */
    bool has_temperature, has_top_p, has_min_p, has_repetition_penalty, has_presence_penalty,
        has_frequency_penalty, has_seed, has_top_k;
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    uint32_t top_k;
    uint64_t seed;
    struct gw_text stop[GW_CHAT_STOP_MAX];
    unsigned n_stop;
};

/* Every text of the client's that can reach a backend, messages and stop strings alike: what is inspected, masked and recorded. */
static inline size_t gw_chat_n_texts(const struct gw_chat *chat)
{
    return chat->n_messages + chat->n_stop;
}

static inline struct gw_text *gw_chat_text(struct gw_chat *chat, size_t index)
{
    return index < chat->n_messages ? &chat->messages[index].content : &chat->stop[index - chat->n_messages];
}

#endif
